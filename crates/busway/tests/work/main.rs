//! Groups and requests between two hosts: two domains on one machine, each with a node.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

mod acknowledged;
mod context;
mod deaths;
mod large;
mod part;
#[path = "../cluster/proxy.rs"]
mod proxy;
mod requests;
mod rights;
mod share;
mod stage;
