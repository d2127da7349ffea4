//! Durations as people write them: `250ms`, `5s`, `2m`.
//!
//! The unit is never guessed: a bare `5` has been read as seconds by one tool and as milliseconds by the next.

use std::str::FromStr;
use std::time::Duration;

/// A span of time given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err("a duration begins with a whole number: 250ms, 5s, 2m".to_string());
        }
        if unit.is_empty() {
            return Err(format!("{text} has no unit: write {text}s or {text}ms"));
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("unknown unit '{unit}': take ns, us, ms, s, m or h"));
        };
        // The clock counts nanoseconds in 64 bits, which is 584 years: more cannot be waited for.
        let too_long = || format!("{text} is more than 584 years");
        let number: u64 = number.parse().map_err(|_| too_long())?;
        number.checked_mul(*factor).map(|ns| Span(Duration::from_nanos(ns))).ok_or_else(too_long)
    }
}

/// Writes a duration as `from_str` reads it, in the largest unit that is exact.
pub(crate) fn show(duration: Duration) -> String {
    let ns = duration.as_nanos();
    let (name, factor) = UNITS
        .iter()
        .rev()
        .find(|(_, factor)| ns >= u128::from(*factor) && ns.is_multiple_of(u128::from(*factor)))
        .unwrap_or(&UNITS[3]);
    format!("{}{name}", ns / u128::from(*factor))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Span, show};

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, ms) in [("0s", 0), ("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
    }

    #[test]
    fn a_wrong_duration_says_what_is_wrong_with_it() {
        for (text, part) in [
            ("", "begins with a whole number"),
            ("-1s", "begins with a whole number"),
            ("5", "write 5s or 5ms"),
            ("5 s", "unknown unit ' s'"),
            ("5d", "unknown unit 'd'"),
            ("18446744073709551615h", "584 years"),
            ("99999999999999999999s", "584 years"),
        ] {
            let error = text.parse::<Span>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_duration_prints_as_it_is_read() {
        for text in ["250ms", "5s", "2m", "1h", "0s", "90s"] {
            let span: Span = text.parse().expect("a duration");
            assert_eq!(show(span.0), text);
        }
    }
}
