//! Real use: whole files, a thousand publishers, stopped and killed processes. One test at a time.
//!
//! Each test starts tens to hundreds of processes, so they would disturb each other's deadlines, not each other's results.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

mod bulk;
mod crowd;
mod door;
mod flights;
#[expect(dead_code, reason = "the harness serves another target as well, which uses the rest")]
#[path = "../cli/harness.rs"]
mod harness;
mod hosts;
mod load;
mod networks;
mod node;
mod nothing_started;
mod shortage;
mod stopped;
mod users;
mod work;
