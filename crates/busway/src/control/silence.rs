//! Why a process that holds the rendezvous does not answer, as far as the kernel tells: a cause and a remedy that fit each other.
//!
//! It looks at `/proc` when somebody has waited in vain, and never before. It asks nobody and ends nobody.
//!
//! Invariant: nobody is told to end a process that is not known to be stopped or gone before what else may help was said.

use std::fs;

/// A newcomer needs so many descriptors of who holds the rendezvous at most: its socket, and those of its memory.
const DESCRIPTORS: u64 = 4;

/// What that process does instead, and what helps.
pub(super) fn of(pid: u32) -> (&'static str, String) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind its name, in which there may be any byte.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    match state {
        None => (
            "does not answer",
            format!(
                "try again, process {pid} may have ended just now; if it is in another container, look there whether it is stopped"
            ),
        ),
        Some('T' | 't') => {
            ("is stopped", format!("let it go on: kill -CONT {pid}; or end it: kill -KILL {pid}"))
        }
        Some(_) if has_no_descriptor(pid).unwrap_or(false) => (
            "has no descriptor left for one more process",
            format!(
                "raise its limit: prlimit --nofile=4096 --pid {pid}; or close ports and processes of the domain"
            ),
        ),
        Some(_) => (
            "does not answer",
            format!(
                "try again with a longer timeout, the machine may be busy; if it never answers, end it: kill -KILL {pid}"
            ),
        ),
    }
}

fn has_no_descriptor(pid: u32) -> Option<bool> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let most: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(most.saturating_sub(open) < DESCRIPTORS)
}
