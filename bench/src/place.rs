//! Where a process runs, and what it runs on.
//!
//! Pins the calling process to one processor and describes the machine for the record. It changes no
//! setting of the machine.

use crate::Failure;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Pins this process, and the threads it will start, to `cpu`.
///
/// # Errors
/// The kernel does not allow that processor.
pub fn pin(cpu: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|cause| format!("cannot pin to processor {cpu}: {cause}"))?;
    Ok(())
}

/// Lets this process, and what it starts, run on all of `cpus`.
///
/// # Errors
/// The kernel does not allow one of them.
pub fn unpin(cpus: &[usize]) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    sched_setaffinity(None, &set).map_err(|cause| format!("cannot unpin: {cause}"))?;
    Ok(())
}

/// The first two processors this process may use.
///
/// # Errors
/// There is only one: two spinning sides on one processor measure the scheduler.
pub fn first_two() -> Result<[usize; 2], Failure> {
    let allowed = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    match (cpus.next(), cpus.next()) {
        (Some(one), Some(two)) => Ok([one, two]),
        _ => Err("two processors are needed: each side spins on its own".into()),
    }
}

/// One line about the machine: processor, count, hypervisor, memory, kernel, clock source.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&info, "model name").unwrap_or("unknown processor");
    let number = field(&info, "model\t").or_else(|| field(&info, "model ")).unwrap_or("?");
    let mhz = field(&info, "cpu MHz").unwrap_or("?");
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    let hosted = if info.contains(" hypervisor") { " (virtual)" } else { "" };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = field(&memory, "MemTotal")
        .and_then(|text| text.split_whitespace().next())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let clock = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .unwrap_or_default();
    format!(
        "{model} (model {number}), {count} processors at {mhz} MHz{hosted}, {} GiB, Linux {}, clock {}",
        kib / (1024 * 1024),
        kernel.trim(),
        clock.trim()
    )
}

/// The commit of the tree around `directory`, with `-dirty` where files differ from it.
pub fn commit(directory: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    // What the report itself writes does not make the measured code another.
    let arguments = [
        "status",
        "--porcelain",
        "--",
        ":/",
        ":!/bench/RESULTS.md",
        ":!/bench/results.jsonl",
        ":!/bench/plots",
    ];
    match git(&arguments) {
        Some(changes) if changes.is_empty() => hash,
        _ => format!("{hash}-dirty"),
    }
}

/// Threads of this process.
pub fn threads() -> u64 {
    status_field("Threads")
}

/// How often this process gave its processor away because it had to wait.
pub fn voluntary_switches() -> u64 {
    status_field("voluntary_ctxt_switches")
}

fn status_field(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    field(&status, name).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}
