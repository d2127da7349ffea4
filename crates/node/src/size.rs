//! Sizes in bytes as people write them: `64`, `1KiB`, `64MiB`.
//!
//! Only binary units: a `KB` that means 1000 to some and 1024 to others is refused with the units that are taken.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
///
/// ```
/// use busway_node::Size;
///
/// assert_eq!("64KiB".parse(), Ok(Size(65_536)));
/// assert!("64KB".parse::<Size>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err("a size begins with a whole number: 64, 1KiB, 64MiB".to_string());
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
            return Err(format!("unknown unit '{unit}': take B, KiB, MiB or GiB"));
        };
        let too_large = || format!("{text} is more than fits in 64 bits");
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(*factor).map(Size).ok_or_else(too_large)
    }
}

impl Size {
    /// The size as `from_str` reads it, without loss.
    #[must_use]
    pub fn exact(self) -> String {
        let whole = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        let (unit, factor) = UNITS.iter().rev().find(whole).filter(|_| self.0 > 0).unwrap_or(&UNITS[0]);
        let unit = if *unit == "B" { "" } else { unit };
        format!("{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for Size {
    /// The largest unit with one decimal, for people; scripts read the plain number of `--json`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().rev().find(|(name, factor)| self.0 >= *factor && *factor > 1 && !name.is_empty()) {
            None => write!(f, "{} B", self.0),
            Some((name, factor)) if self.0.is_multiple_of(*factor) => write!(f, "{} {name}", self.0 / factor),
            Some((name, factor)) => {
                let tenths = u128::from(self.0) * 10 / u128::from(*factor);
                write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_read_in_every_unit() {
        for (text, bytes) in
            [("0", 0), ("64", 64), ("64B", 64), ("1KiB", 1024), ("64MiB", 64 << 20), ("3gib", 3 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn a_wrong_size_says_what_is_wrong_with_it() {
        for (text, part) in [
            ("", "begins with a whole number"),
            ("-1", "begins with a whole number"),
            ("KiB", "begins with a whole number"),
            ("1KB", "unknown unit 'KB'"),
            ("1.5MiB", "unknown unit '.5MiB'"),
            ("1 KiB", "unknown unit ' KiB'"),
            ("99999999999999999999", "more than fits"),
            ("18446744073709551615GiB", "more than fits"),
        ] {
            let error = text.parse::<Size>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn an_exact_size_is_read_back_as_it_was() {
        for (bytes, text) in
            [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1KiB"), (1536, "1536"), (32 << 20, "32MiB")]
        {
            assert_eq!((Size(bytes).exact().as_str(), text.parse()), (text, Ok(Size(bytes))));
        }
    }

    #[test]
    fn sizes_print_in_the_largest_unit() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (5 << 30, "5 GiB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
