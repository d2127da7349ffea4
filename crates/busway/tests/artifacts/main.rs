//! Artifacts among real nodes, over sockets of this machine.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

mod deaths;
mod events;
mod flows;
mod gate;
mod hard;
mod large;
mod line;
mod own;
mod part;
mod programs;
mod reach;
mod rights;
mod room;
mod secret;
mod slow;
mod stage;
