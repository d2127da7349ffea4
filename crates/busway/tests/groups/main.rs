//! What Busway promises of groups: each message is done by one puller, and what dies with a puller is counted or done by another.
//!
//! Pullers are processes: the test binary starts itself again for each (`part`). What is done is an effect that a puller writes to a
//! file of its own after the work; the tests join the files. One test at a time.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

mod deaths;
mod one_process;
mod part;
mod share;
