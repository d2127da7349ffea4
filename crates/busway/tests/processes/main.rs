//! What Busway promises between real processes: killed, stopped, traced and counted from outside.
//!
//! The test binary starts itself again for each part (`child`), which obeys lines (`member`). Timing and counting
//! would be disturbed by other tests. One test at a time.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

mod child;
mod deaths;
mod logs;
mod member;
mod messages;
mod ports;
mod sleep;
mod statistics;
