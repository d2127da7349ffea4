//! What the kernel says of time: now, for all processes alike, and how much of the processors was used.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Ticks in a second, in which the kernel counts the time of processors for people. It is so on each architecture.
const TICKS: f64 = 100.0;

/// Nanoseconds since the machine started: the same in each namespace.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)).as_nanos(),
    )
    .unwrap_or(u64::MAX)
}

/// Lets time pass: idle nodes are measured while nothing happens, and delay is made of it.
#[expect(clippy::disallowed_methods, reason = "it is time itself that is to pass, and no event")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The moment in which something has taken too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until(u64);

impl Until {
    pub(crate) fn after(most: Duration) -> Self {
        Self(now_ns().saturating_add(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn left(self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(now_ns()))
    }
}

pub(crate) fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    Duration::from_nanos(to_ns.saturating_sub(from_ns)).as_secs_f64()
}

/// Seconds of processor time that a process has used.
pub(crate) fn processor_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in brackets, may have spaces.
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS
}

/// How long all processors together were busy, and in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processors {
    busy: f64,
    all: f64,
}

impl Processors {
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> =
            line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let all: f64 = ticks.iter().sum();
        // Idle, and waiting for a disk.
        let idle: f64 = ticks.iter().skip(3).take(2).sum();
        Self { busy: all - idle, all }
    }

    /// The part of them that was busy since then, by whomever.
    pub(crate) fn busy_since(self) -> f64 {
        let now = Self::now();
        (now.busy - self.busy) / (now.all - self.all).max(1.0)
    }
}
