//! What one measurement found: numbers by name, a latency histogram, the loss, the threads.
//!
//! An outcome is one JSON line. It holds no judgement: bars and ratios belong to the report.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The result of one run of one plan.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Numbers by name; the unit is the last part of the name.
    pub values: BTreeMap<String, f64>,
    /// Latencies in nanoseconds, where the cell has single ones.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<Latency>,
    /// Messages that were sent and not received.
    pub lost: u64,
    /// Threads of the first side and of one process of the second.
    pub threads: Vec<u64>,
}

impl Outcome {
    /// Adds one number.
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }
}

/// A latency distribution, in nanoseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Latencies recorded.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// Half are at most this.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1 000.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// (quantile, nanoseconds) for the plot.
    pub curve: Vec<(f64, u64)>,
}

/// Collects latencies.
#[derive(Debug)]
pub struct Recorder {
    histogram: Histogram<u64>,
}

impl Recorder {
    /// An empty one, for 1 ns to 60 s at three significant digits.
    pub fn new() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are constants in range");
        Self { histogram }
    }

    /// Adds one latency. What lies outside the bounds counts at the bound, so that nothing is left out.
    #[inline]
    pub fn record(&mut self, nanoseconds: u64) {
        self.histogram.saturating_record(nanoseconds.max(1));
    }

    /// The distribution so far.
    pub fn latency(&self) -> Latency {
        let at = |quantile: f64| self.histogram.value_at_quantile(quantile);
        Latency {
            count: self.histogram.len(),
            min: self.histogram.min(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: self.histogram.max(),
            curve: CURVE.iter().map(|quantile| (*quantile, at(*quantile))).collect(),
        }
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

/// Quantiles of the plot: dense where the tail begins.
const CURVE: [f64; 16] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.9999, 0.99999, 1.0];

/// The middle of `numbers`; of an even count the mean of the two middle ones. NaN when there are none.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_and_not_the_mean() {
        assert!((median(&[9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9, "one outlier must not move a median");
        assert!((median(&[4.0, 1.0, 2.0, 100.0]) - 3.0).abs() < 1e-9);
        assert!(median(&[]).is_nan(), "no number has no median");
    }

    #[test]
    fn recorder_keeps_the_longest_latency() {
        let mut recorder = Recorder::new();
        (1..=1000).for_each(|latency| recorder.record(latency));
        recorder.record(5_000_000);
        let latency = recorder.latency();
        assert_eq!(latency.count, 1001);
        assert!(latency.p50.abs_diff(500) <= 2, "p50 is {}", latency.p50);
        assert!(latency.max >= 5_000_000, "the maximum is never cut: {}", latency.max);
    }
}
