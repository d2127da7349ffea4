//! Which part of an artifact a request asks for, and whether it has it already.
//!
//! One range of bytes is served. Whatever else stands in `Range` is answered with all, as the specification allows: so a list of ranges, however long, costs no more
//! than none.
//!
//! Invariant: a part lies within the artifact.

use axum::http::HeaderValue;
use axum::http::header::{HeaderMap, IF_NONE_MATCH, IF_RANGE, RANGE};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    All,
    /// So many bytes from there.
    Of { from: u64, count: u64 },
    /// What lies behind its end.
    Beyond,
}

/// The part that these headers ask for, of so many bytes under this tag.
pub(crate) fn part(headers: &HeaderMap, size: u64, tag: &str) -> Part {
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        let value = values.next().map(HeaderValue::to_str);
        value.and_then(Result::ok).filter(|_| values.next().is_none())
    };
    // Who has a part of another than this is to have all.
    let same = !headers.contains_key(IF_RANGE) || one(IF_RANGE).is_some_and(|had| had.trim() == tag);
    one(RANGE).filter(|_| same).map_or(Part::All, |range| of(range, size))
}

fn of(range: &str, size: u64) -> Part {
    let Some((unit, range)) = range.split_once('=') else { return Part::All };
    let Some((first, last)) = range.trim().split_once('-') else { return Part::All };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number that is too large is one that lies behind every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::All;
    }
    match (first, number(first), last, number(last)) {
        ("", None, _, Some(0)) => Part::Beyond,
        ("", None, _, Some(_)) if size == 0 => Part::Beyond,
        ("", None, _, Some(count)) => Part::Of { from: size.saturating_sub(count), count: count.min(size) },
        (_, Some(from), "", None) if from < size => Part::Of { from, count: size - from },
        (_, Some(from), _, Some(last)) if last < from => Part::All,
        (_, Some(from), _, Some(last)) if from < size => {
            Part::Of { from, count: last.min(size - 1) - from + 1 }
        }
        (_, Some(_), "", None) | (_, Some(_), _, Some(_)) => Part::Beyond,
        _ => Part::All,
    }
}

/// Whether the caller says that it has what this tag names.
pub(crate) fn has(headers: &HeaderMap, tag: &str) -> bool {
    let said = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = said.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|had| had == "*" || had.strip_prefix("W/").unwrap_or(had) == tag)
}

#[cfg(test)]
mod tests {
    use axum::http::header::{HeaderMap, IF_NONE_MATCH, IF_RANGE, RANGE};
    use axum::http::{HeaderName, HeaderValue};

    use super::{Part, has, part};

    fn with(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs =
            pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("text")));
        let mut headers = HeaderMap::new();
        pairs.for_each(|(name, value)| _ = headers.append(name, value));
        headers
    }

    #[test]
    fn a_range_is_a_part_within_the_artifact_or_behind_its_end_and_what_is_no_range_asks_for_all() {
        let of = |from, count| Part::Of { from, count };
        for (range, wanted) in [
            ("bytes=0-0", of(0, 1)),
            ("bytes=0-9", of(0, 10)),
            ("bytes=0-99999999999999999999999", of(0, 10)),
            ("bytes=3-5", of(3, 3)),
            ("BYTES=9-", of(9, 1)),
            ("bytes=-1", of(9, 1)),
            ("bytes=-10", of(0, 10)),
            ("bytes=-11", of(0, 10)),
            ("bytes=-18446744073709551616", of(0, 10)),
            ("bytes=10-", Part::Beyond),
            ("bytes=10-10", Part::Beyond),
            ("bytes=99999999999999999999999-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=5-3", Part::All),
            ("bytes=", Part::All),
            ("bytes=-", Part::All),
            ("bytes=a-b", Part::All),
            ("bytes=+1-+2", Part::All),
            ("bytes=--1", Part::All),
            ("bytes=1-2-3", Part::All),
            ("lines=0-1", Part::All),
            ("bytes=0-0,2-2", Part::All),
            ("0-1", Part::All),
        ] {
            assert_eq!(part(&with(&[(RANGE, range)]), 10, "\"a\""), wanted, "{range}");
        }
        assert_eq!(part(&with(&[(RANGE, "bytes=0-0"), (RANGE, "bytes=1-1")]), 10, "\"a\""), Part::All);
        assert_eq!(part(&with(&[(RANGE, "bytes=-1")]), 0, "\"a\""), Part::Beyond);
        assert_eq!(part(&with(&[(RANGE, "bytes=0-")]), 0, "\"a\""), Part::Beyond);
        for (tag, wanted) in [("\"a\"", of(1, 1)), ("\"b\"", Part::All), ("W/\"a\"", Part::All)] {
            assert_eq!(part(&with(&[(RANGE, "bytes=1-1"), (IF_RANGE, tag)]), 10, "\"a\""), wanted);
        }
    }

    #[test]
    fn who_has_it_already_is_known_by_its_tag() {
        for (said, wanted) in
            [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("a", false)]
        {
            assert_eq!(has(&with(&[(IF_NONE_MATCH, said)]), "\"a\""), wanted, "{said}");
        }
    }
}
