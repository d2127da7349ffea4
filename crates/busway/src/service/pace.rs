//! How long the calls of one handler take, and which of them are slow.
//!
//! Counted are calls by powers of two of a microsecond: one word is raised for a call, whoever makes it, and the 99th of a hundred is known to within twice its time.
//! A call that never returns is not seen here; it is in hand for ever, which the account and the gauge of running handlers show.
//!
//! Invariant: each call is counted once.

use std::fmt;
use std::time::Duration;

use busway_shm::sync::{AtomicU64, Ordering};

/// Powers of two of a microsecond: the last is some days.
const STEPS: usize = 39;

#[derive(Debug)]
pub(super) struct Pace {
    slow: Duration,
    slow_calls: AtomicU64,
    steps: [AtomicU64; STEPS],
}

/// A call took longer than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slow {
    took: Duration,
    bound: Duration,
    p99: Duration,
    calls: u64,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, bound, p99, calls } = self;
        write!(
            f,
            "the handler took {took:.1?}, more than {bound:?}; 99 % of {calls} calls took at most {p99:?}"
        )
    }
}

impl Pace {
    pub(super) fn new(slow: Duration) -> Self {
        Self { slow, slow_calls: AtomicU64::new(0), steps: [const { AtomicU64::new(0) }; STEPS] }
    }

    /// A call took so long; what is to be said of it, where that is too long.
    pub(super) fn took(&self, took: Duration) -> Option<Slow> {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let step = (u64::BITS - us.leading_zeros()) as usize;
        self.steps[step.min(STEPS - 1)].fetch_add(1, Ordering::Relaxed);
        if took <= self.slow {
            return None;
        }
        self.slow_calls.fetch_add(1, Ordering::Relaxed);
        let calls = self.steps.iter().map(|step| step.load(Ordering::Relaxed)).sum();
        Some(Slow { took, bound: self.slow, p99: self.p99(), calls })
    }

    pub(super) fn slow(&self) -> u64 {
        self.slow_calls.load(Ordering::Relaxed)
    }

    /// Of a hundred calls 99 took no longer.
    pub(super) fn p99(&self) -> Duration {
        let counts: Vec<u64> = self.steps.iter().map(|step| step.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let mut seen = 0;
        for (step, count) in counts.iter().enumerate() {
            seen += count;
            // Of fewer than a hundred it is the slowest.
            if *count > 0 && all - seen <= all / 100 {
                return Duration::from_micros(1 << step);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pace;

    #[test]
    fn ninety_nine_of_a_hundred_calls_are_within_twice_their_time_and_those_above_the_bound_are_told() {
        let pace = Pace::new(Duration::from_millis(50));
        assert_eq!((pace.p99(), pace.slow()), (Duration::ZERO, 0));
        for _ in 0..99 {
            assert_eq!(pace.took(Duration::from_micros(700)), None);
        }
        assert_eq!(pace.p99(), Duration::from_micros(1024));
        let slow = pace.took(Duration::from_millis(900)).expect("it is slow");
        assert_eq!((pace.p99(), slow.calls, pace.slow()), (Duration::from_micros(1024), 100, 1));
        assert!(slow.to_string().contains("900.0ms, more than 50ms; 99 % of 100 calls"), "{slow}");
        assert!(pace.took(Duration::from_millis(900)).is_some());
        assert!(pace.p99() >= Duration::from_millis(900) && pace.p99() < Duration::from_millis(1_800));
        assert!(pace.took(Duration::MAX).is_some(), "however long");
    }
}
