//! The HTTP door over real sockets: what each route does, who may, and what strangers cannot do.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

mod artifacts;
mod client;
mod document;
mod fair;
mod hostile;
mod rights;
mod routes;
mod streams;
