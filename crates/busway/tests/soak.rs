//! Processes killed and stopped at random: the others go on, every gap is counted, nothing is left behind.
//!
//! One test at a time: a supervisor starts publishers, subscribers of all policies and processes that take the role of
//! the holder, all from this test binary, and kills, stops and restarts them. What it kills and when follows from its
//! seed, which it prints; what the kernel makes of that does not.
//!
//! A short run is part of the suite. `cargo xtask soak` runs for minutes: `BUSWAY_SOAK_MINUTES`, `BUSWAY_SOAK_SEED`,
//! and at least so many kills: `BUSWAY_SOAK_KILLS`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "soak/payload.rs"]
mod payload;
#[path = "soak/process.rs"]
mod process;
#[path = "soak/roles.rs"]
mod roles;
#[path = "soak/subscriber.rs"]
mod subscriber;
#[path = "soak/supervisor.rs"]
mod supervisor;
#[path = "soak/talk.rs"]
mod talk;

use std::time::Duration;

use supervisor::Supervisor;
use talk::Orders;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn obeys_if_it_was_started_to() {
    let Some(orders) = Orders::received() else { return };
    // A supervisor that is killed leaves nobody behind.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    roles::obey(&orders);
}

#[test]
fn processes_killed_at_random_block_nobody_and_leave_nothing_behind() {
    let seed = number("BUSWAY_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = number("BUSWAY_SOAK_MINUTES").map_or(Duration::from_secs(8), |m| Duration::from_secs(m * 60));
    println!("seed {seed}");
    let mut supervisor = Supervisor::new(seed);
    supervisor.run(time);
    supervisor.end();
    println!("evidence: {}", supervisor.evidence());
    // A number of the promise, asked of a long run only: a short one is as long as the suite has patience.
    let least = number("BUSWAY_SOAK_KILLS").unwrap_or(1);
    assert!(supervisor.kills() >= least, "{} kills where {least} were promised", supervisor.kills());
}
