//! The clocks of this host, and deadlines on them.
//!
//! All times are `u64` nanoseconds. The calls go through the vDSO, so none of them enters the
//! kernel on the machines that we support. Machines that decide never call this: they take `now`.
//!
//! Does not wait: that is [`sys::futex`](crate::sys::futex).
//!
//! A simulator sets the clocks of its thread: then they stand still but for a nanosecond a look, so that what came
//! later is later, and two runs see the same.
//!
//! Invariant: a `Deadline` is a point on the monotonic clock, so setting the wall clock moves none.

use core::cell::Cell;
use core::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

std::thread_local! {
    /// What the clocks of this thread say; 0 is what the machine's say.
    static SIMULATED_NS: Cell<u64> = const { Cell::new(0) };
    /// By how much the wall clock of this thread is off, while its clocks are simulated.
    static LEAPT_NS: Cell<i64> = const { Cell::new(0) };
}

/// From now on the clocks of the calling thread say this and go by a nanosecond a look; never back. `None`: the machine's
/// again. A thread that waits by them waits for ever: it is for a simulator that waits for nothing.
pub fn simulate(now_ns: Option<u64>) {
    SIMULATED_NS.set(now_ns.map_or(0, |now_ns| now_ns.max(SIMULATED_NS.get()).max(1)));
    if now_ns.is_none() {
        LEAPT_NS.set(0);
    }
}

/// The simulated wall clock of the calling thread is off by so much from now on, as if somebody had set it; the monotonic
/// clock is not touched.
pub fn set_wall(by_ns: i64) {
    LEAPT_NS.set(by_ns);
}

#[inline]
fn read(clock: ClockId) -> u64 {
    match SIMULATED_NS.get() {
        0 => nanoseconds(clock_gettime(clock)),
        now_ns => {
            SIMULATED_NS.set(now_ns.saturating_add(1));
            let wall = matches!(clock, ClockId::Realtime | ClockId::RealtimeCoarse);
            if wall { now_ns.saturating_add_signed(LEAPT_NS.get()) } else { now_ns }
        }
    }
}

/// Nanoseconds on the monotonic clock. Comparable between the processes of one host, not across a reboot.
#[inline]
pub fn monotonic_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// As [`monotonic_ns`] as of the last timer tick: 1-4 ms coarse, and almost free.
#[inline]
pub fn monotonic_coarse_ns() -> u64 {
    read(ClockId::MonotonicCoarse)
}

/// Nanoseconds since 1970 on the wall clock. It costs a read of the time-stamp counter.
#[inline]
pub fn realtime_ns() -> u64 {
    read(ClockId::Realtime)
}

/// Nanoseconds since 1970 as of the last timer tick: 1-4 ms coarse, and almost free.
#[inline]
pub fn realtime_coarse_ns() -> u64 {
    read(ClockId::RealtimeCoarse)
}

/// Seconds of which the nanoseconds surely fit.
const SECONDS_MAX: u64 = u64::MAX / 1_000_000_000;

/// A clock before 1970 reads as 0 and one after 2554 as the last nanosecond: neither is worth a panic.
#[inline]
fn nanoseconds(time: Timespec) -> u64 {
    // One comparison for both ends; what the kernel says of a second is less than one.
    if (time.tv_sec as u64) < SECONDS_MAX {
        return time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// A point on the monotonic clock, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    // u64::MAX is never: the monotonic clock would need 584 years to come there.
    at_ns: u64,
}

impl Deadline {
    /// The point `timeout` from now; a timeout beyond the clock's end is never.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        Self::after_from(timeout, monotonic_ns())
    }

    /// The point `timeout` after `now_ns`.
    #[must_use]
    pub fn after_from(timeout: Duration, now_ns: u64) -> Self {
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Self { at_ns: now_ns.saturating_add(timeout_ns) }
    }

    /// The point `timeout` from now, or never where there is none.
    #[must_use]
    pub fn after_or_never(timeout: Option<Duration>) -> Self {
        timeout.map_or(Self::never(), Self::after)
    }

    /// The deadline that does not come.
    #[must_use]
    pub const fn never() -> Self {
        Self { at_ns: u64::MAX }
    }

    /// Whether the point has come.
    #[must_use]
    pub fn expired(self) -> bool {
        self.at_ns != u64::MAX && self.expired_at(monotonic_ns())
    }

    /// Whether the point has come at `now_ns`.
    #[must_use]
    pub const fn expired_at(self, now_ns: u64) -> bool {
        self.at_ns != u64::MAX && now_ns >= self.at_ns
    }

    /// How long until the point: `None` is for ever, zero is now or past.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        if self.at_ns == u64::MAX { None } else { self.remaining_at(monotonic_ns()) }
    }

    /// How long until the point, seen from `now_ns`.
    #[must_use]
    pub const fn remaining_at(self, now_ns: u64) -> Option<Duration> {
        if self.at_ns == u64::MAX {
            return None;
        }
        Some(Duration::from_nanos(self.at_ns.saturating_sub(now_ns)))
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }

    /// Nanoseconds on the monotonic clock; `None` is never.
    #[must_use]
    pub const fn at_ns(self) -> Option<u64> {
        if self.at_ns == u64::MAX { None } else { Some(self.at_ns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_expires_at_its_point_and_not_before() {
        let deadline = Deadline::after_from(Duration::from_nanos(100), 1_000);
        assert!(!deadline.expired_at(1_099), "it has one nanosecond left");
        assert!(deadline.expired_at(1_100), "its point has come");
        assert_eq!(deadline.remaining_at(1_040), Some(Duration::from_nanos(60)));
        assert_eq!(deadline.remaining_at(9_999), Some(Duration::ZERO));
    }

    #[test]
    fn deadline_beyond_the_end_of_the_clock_is_never() {
        for deadline in [Deadline::never(), Deadline::after(Duration::MAX), Deadline::after_or_never(None)] {
            assert!(!deadline.expired(), "never does not come");
            assert!(!deadline.expired_at(u64::MAX), "nor at the end of the clock");
            assert_eq!(deadline.remaining(), None);
            assert_eq!(deadline.at_ns(), None);
        }
    }

    #[test]
    fn earlier_deadline_wins_over_never() {
        let soon = Deadline::after(Duration::from_secs(1));
        assert_eq!(Deadline::never().earlier(soon), soon);
        assert_eq!(soon.earlier(Deadline::never()), soon);
    }

    #[test]
    fn clocks_of_a_simulated_thread_go_by_a_nanosecond_a_look_and_never_back() {
        simulate(Some(1_000));
        assert_eq!((monotonic_ns(), realtime_ns(), realtime_coarse_ns()), (1_000, 1_001, 1_002));
        simulate(Some(500));
        assert_eq!(monotonic_ns(), 1_003, "it does not go back");
        simulate(Some(9_000));
        assert!(Deadline::after_from(Duration::from_nanos(100), 8_900).expired());
        set_wall(-5_000);
        assert_eq!((realtime_ns(), realtime_coarse_ns()), (4_001, 4_002), "somebody has set it");
        assert_eq!((monotonic_ns(), monotonic_coarse_ns()), (9_003, 9_004), "which moves no other");
        let other = std::thread::spawn(monotonic_ns).join().unwrap();
        assert!(other > 1_000_000, "{other}: other threads have the machine's time");
        simulate(None);
        assert!(monotonic_ns() > 1_000_000, "and so has this one again");
    }

    #[test]
    fn monotonic_clock_does_not_go_back_and_wall_clocks_agree() {
        let first = monotonic_ns();
        let second = monotonic_ns();
        assert!(second >= first, "{second} came before {first}");
        let coarse = realtime_coarse_ns();
        let exact = realtime_ns();
        assert!(exact.abs_diff(coarse) < 1_000_000_000, "the wall clocks differ: {exact} and {coarse}");
    }
}
