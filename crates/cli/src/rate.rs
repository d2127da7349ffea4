//! Messages a second, and keeping to them.
//!
//! A [`Pace`] keeps the intended times, not the gaps: a send that came late does not push back all later ones, so the
//! rate holds on average and a latency measured against the intended time has no coordinated omission.

use std::str::FromStr;

use crate::clock;
use crate::signals::Signals;

/// A positive number of messages a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate(pub(crate) f64);

/// Beyond this the interval is shorter than reading the clock takes, so a pace means nothing.
const RATE_MAX: f64 = 1e9;

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rate: f64 =
            text.parse().map_err(|_| "a rate is a number of messages a second: 1000 or 0.5".to_string())?;
        if rate.is_finite() && rate > 0.0 && rate <= RATE_MAX {
            Ok(Self(rate))
        } else {
            Err("a rate is more than 0 and at most 1000000000 messages a second".to_string())
        }
    }
}

/// When the next message is due.
#[derive(Debug)]
pub(crate) struct Pace {
    start_ns: u64,
    interval_ns: f64,
    count: u64,
}

impl Pace {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { start_ns: clock::now_ns(), interval_ns: 1e9 / rate.0, count: 0 }
    }

    /// The intended time of the next message, which is the one after this call.
    pub(crate) fn next_ns(&mut self) -> u64 {
        // A product, not a running sum: the error of a sum would grow with the messages.
        let offset = self.interval_ns * self.count as f64;
        self.count += 1;
        self.start_ns.saturating_add(offset as u64)
    }

    /// Waits until the next message is due, or a signal comes; returns the intended time.
    pub(crate) fn wait(&mut self, signals: &Signals) -> u64 {
        let due = self.next_ns();
        loop {
            let now = clock::now_ns();
            if now >= due || signals.raised().is_some() {
                return due;
            }
            signals.wait(std::time::Duration::from_nanos(due - now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Pace, Rate};

    #[test]
    fn a_rate_is_a_positive_number() {
        assert_eq!("0.5".parse(), Ok(Rate(0.5)));
        for text in ["0", "-1", "nan", "inf", "1e300", "many", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn intended_times_do_not_drift() {
        let mut pace = Pace { start_ns: 7, interval_ns: 1e9 / 3.0, count: 0 };
        let times: Vec<u64> = (0..=3).map(|_| pace.next_ns()).collect();
        assert_eq!(times, [7, 333_333_340, 666_666_673, 1_000_000_007]);
    }
}
