//! How often, and when, something that failed is tried again.
//!
//! Each pause is at most twice as long as the one before, up to a cap, and between half and all of that, by a seed: who failed
//! together does not try again together. It knows no clock and tries nothing itself.
//!
//! Invariant: of one thing there are at most [`RETRY_TIMES_MAX`] tries after the first, and no pause is longer than
//! [`RETRY_PAUSE_MS_MAX`], whatever is asked for: it ends.

use core::time::Duration;

use busway_wire::limits::{RETRY_PAUSE_MS_MAX, RETRY_TIMES_MAX};

use crate::time::Time;

/// How often something that failed is tried again, and how long to wait before.
///
/// ```
/// use std::time::Duration;
/// use busway_protocol::{Retry, Time};
///
/// let retry = Retry::times(2).pause(Duration::from_millis(100)).seed(7);
/// let mut attempts = retry.begin(1);
/// let second = attempts.failed(Time(0)).expect("it is tried again");
/// assert!((50_000_000..=100_000_000).contains(&second.0));
/// let third = attempts.failed(second).expect("and once more");
/// assert!((100_000_000..=200_000_000).contains(&third.since(second)));
/// assert_eq!((attempts.failed(third), attempts.count()), (None, 3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    times: u32,
    pause_ns: u64,
    cap_ns: u64,
    seed: u64,
}

impl Default for Retry {
    /// Nothing is tried again.
    fn default() -> Self {
        Self::times(0)
    }
}

impl Retry {
    /// Up to so many tries after the first, at most 100: before the first of them a pause of 5 to 10 ms, then twice as long
    /// each time, up to 10 s.
    #[must_use]
    pub const fn times(times: u32) -> Self {
        let times = if times > RETRY_TIMES_MAX { RETRY_TIMES_MAX } else { times };
        Self { times, pause_ns: 10_000_000, cap_ns: 10_000_000_000, seed: 0 }
    }

    /// The longest pause before the second try; at most an hour.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause_ns = bounded(pause);
        self
    }

    /// The longest pause of all; at most an hour.
    #[must_use]
    pub fn cap(mut self, cap: Duration) -> Self {
        self.cap_ns = bounded(cap);
        self
    }

    /// What the pauses are drawn from, beside what is tried. Two programs should differ in it.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// This seed, unless one that is not 0 was given.
    #[must_use]
    pub const fn or_seed(self, seed: u64) -> Self {
        if self.seed == 0 { self.seed(seed) } else { self }
    }

    /// Tries after the first.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.times
    }

    /// The first attempt at something of this number begins.
    #[must_use]
    pub const fn begin(&self, number: u64) -> Attempts {
        Attempts { retry: *self, count: 1, random: mix(self.seed ^ mix(number)) }
    }
}

/// The attempts at one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    retry: Retry,
    count: u32,
    random: u64,
}

impl Attempts {
    /// Which attempt it is, from 1.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The attempt has failed: when the next one is due; `None` if it was the last.
    pub fn failed(&mut self, now: Time) -> Option<Time> {
        if self.count > self.retry.times {
            return None;
        }
        let doublings = (self.count - 1).min(63);
        let longest = self.retry.pause_ns.saturating_mul(1 << doublings).min(self.retry.cap_ns);
        self.count += 1;
        self.random = self.random.wrapping_add(STEP);
        let half = longest / 2;
        let pause = half + mix(self.random) % (longest - half + 1);
        Some(Time(now.0.saturating_add(pause)))
    }
}

/// The odd number next to 2^64 divided by the golden ratio: steps of it visit every number.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finish of SplitMix64: each bit of the result depends on each bit of the number.
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn bounded(pause: Duration) -> u64 {
    u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX).min(RETRY_PAUSE_MS_MAX * 1_000_000)
}

#[cfg(test)]
mod tests;
