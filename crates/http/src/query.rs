//! What stands behind the question mark of a path.
//!
//! Invariant: a key that a route does not know is refused, and none stands twice.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::refusal::Refusal;

/// Pairs, decoded.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

const PLACE: &str = "the query";

impl Query {
    pub(crate) fn of(text: &str) -> Result<Query, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = || Refusal::wrong("a pair is not UTF-8 in percents", PLACE, "encode it anew");
            let (key, value) = (decode(key).ok_or_else(wrong)?, decode(value).ok_or_else(wrong)?);
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(Refusal::wrong("a key stands twice", PLACE, "send it once"));
            }
            pairs.push((key, value));
        }
        Ok(Query(pairs))
    }

    /// Refuses keys that are not of these.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        if self.0.iter().all(|(key, _)| known.contains(&key.as_str())) {
            return Ok(());
        }
        let remedy = "see /openapi.json for what may stand there";
        Err(Refusal::wrong("a key is not known here", PLACE, remedy))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn number(&self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let cause = || format!("{key} is a number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| Refusal::wrong(cause(), PLACE, "write a number in its range"))
    }

    /// A time: `250ms`, `5s`.
    pub(crate) fn duration(&self, key: &str, most: Duration) -> Result<Option<Duration>, Refusal> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let of = |text: &str| text.parse::<u32>().ok();
        let time = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(number), _) => of(number).map(|number| Duration::from_millis(number.into())),
            (None, Some(number)) => of(number).map(|number| Duration::from_secs(number.into())),
            (None, None) => None,
        };
        let cause = || format!("{key} is a time of at most {} s, as 250ms or 5s", most.as_secs());
        let time = time.filter(|time| *time <= most);
        time.map(Some).ok_or_else(|| Refusal::wrong(cause(), PLACE, "write a number with ms or s"))
    }
}

/// Undoes percents and plusses.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn pairs_are_decoded_and_what_is_none_is_refused() {
        let query = Query::of("a=1&b=x%2C+y&&c").expect("pairs");
        assert_eq!((query.get("a"), query.get("b"), query.get("c")), (Some("1"), Some("x, y"), Some("")));
        assert!(query.only(&["a", "b"]).is_err() && query.only(&["a", "b", "c"]).is_ok());
        assert_eq!(query.number("a", 0..=1).expect("in range"), Some(1));
        assert!(query.number("a", 2..=3).is_err() && query.number("b", 0..=9).is_err());
        for wrong in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=1&a=2", "a=1&%61=2"] {
            assert!(Query::of(wrong).is_err(), "{wrong}");
        }
    }
}
