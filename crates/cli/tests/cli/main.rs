//! The contract of the command, tried with the real binary and real processes.
//!
//! Each test has a directory of its own, so that they run beside each other. Nothing sleeps: a test waits for the line
//! that says what it waits for, with a deadline that only a defect reaches.

mod artifacts;
mod bench;
mod beside;
mod browser;
mod cert;
mod config;
mod directory;
mod harness;
mod http;
mod inspect;
mod limits;
mod node;
mod openapi;
mod pipes;
mod policies;
mod pub_sub;
mod push_pull;
mod readme;
mod reload;
mod req_reply;
mod secrets;
mod signals;
mod tables;
mod tour;
mod usage;
