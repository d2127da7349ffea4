//! What is left of a run that was killed: found by its name, and taken away.
//!
//! All that a run makes bears its name, which has the process id of who has the say and when that started, so that a later process of the same id is not taken for it.
//! A process of each run waits for the end of the first, which it sees at its standard input, and clears up; where that was killed too, the next run does.
//!
//! Invariant: nothing of a run whose first process lives is touched.

use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;

/// What all names begin with.
const PREFIX: &str = "bw-swarm-";

/// The name of this run.
pub(crate) fn own_name() -> String {
    let pid = std::process::id();
    format!("{PREFIX}{pid}-{}", started(pid).unwrap_or_default())
}

/// Where a run keeps what its nodes need.
pub(crate) fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// When a process started, in ticks since the machine did.
fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

/// The run that a name belongs to, and whether its first process lives.
fn run_of(name: &str) -> Option<(String, bool)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let (pid, begun): (u32, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((format!("{PREFIX}{pid}-{begun}"), started(pid) == Some(begun)))
}

/// Clears up after all runs that have ended. How many there were.
pub(crate) fn dead() -> Result<usize, Failure> {
    let mut runs: Vec<String> = Vec::new();
    let files = std::fs::read_dir(std::env::temp_dir())?.flatten();
    let files = files.filter_map(|file| file.file_name().into_string().ok());
    for name in namespaces().into_iter().chain(files) {
        match run_of(&name) {
            Some((run, false)) if !runs.contains(&run) => runs.push(run),
            _ => {}
        }
    }
    runs.iter().for_each(|run| clear(run));
    Ok(runs.len())
}

/// Clears up after this run when whoever has the other end of the standard input has ended.
pub(crate) fn janitor(name: &str) -> Result<(), Failure> {
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing)?;
    clear(name);
    Ok(())
}

/// Ends the processes of a run and takes away its namespaces, with all that is in them, and its files.
fn clear(run: &str) {
    let first = format!("{run}-");
    for name in namespaces().into_iter().filter(|name| name.starts_with(&first)) {
        for pid in processes(&name) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = Command::new("ip").args(["netns", "delete", &name]).output();
    }
    let _ = std::fs::remove_dir_all(directory(run));
}

fn namespaces() -> Vec<String> {
    let told = said(&["netns", "list"]);
    told.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn processes(namespace: &str) -> Vec<Pid> {
    let told = said(&["netns", "pids", namespace]);
    told.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}

/// What `ip` says; nothing where it is not there.
fn said(words: &[&str]) -> String {
    let ended = Command::new("ip").args(words).output();
    ended.map(|ended| String::from_utf8_lossy(&ended.stdout).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{own_name, run_of};

    #[test]
    fn a_name_tells_its_run_and_whether_that_has_ended() {
        let name = own_name();
        assert_eq!(run_of(&format!("{name}-3")), Some((name.clone(), true)));
        assert_eq!(run_of(&name), Some((name.clone(), true)));
        let (pid, _) = name.rsplit_once('-').unwrap();
        assert_eq!(
            run_of(&format!("{pid}-1-hub")),
            Some((format!("{pid}-1"), false)),
            "the id was used again"
        );
        for other in ["busway-12-1", "bw-swarm-", "bw-swarm-x-1", "bw-swarm-7"] {
            assert_eq!(run_of(other), None, "{other}");
        }
    }
}
