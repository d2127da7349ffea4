//! The monotonic clock: the one place of the command that reads time.
//!
//! The same clock in every process of a host, so a time written by one and read by another can be subtracted.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock.
pub(crate) fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds =
        u64::try_from(time.tv_sec).expect("the monotonic clock counts from the start of the machine");
    let nanoseconds = u64::try_from(time.tv_nsec).expect("a part of a second is not negative");
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// The moment at which something is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at_ns: u64,
}

impl Deadline {
    pub(crate) fn after(duration: Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self { at_ns: now_ns().saturating_add(ns) }
    }

    /// What is left, nothing once it is over.
    pub(crate) fn left(self) -> Duration {
        Duration::from_nanos(self.at_ns.saturating_sub(now_ns()))
    }

    pub(crate) fn over(self) -> bool {
        self.left().is_zero()
    }
}
