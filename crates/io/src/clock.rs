//! The monotonic clock, for those who do not have a driver at hand.
//!
//! It is the only real clock of this crate; the network in memory has its own. It knows no calendar.
//!
//! Invariant: it never goes back.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the monotonic clock. Comparable between the processes of one host, not across a reboot.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
