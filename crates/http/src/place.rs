//! How far a reader is: the id of an event, which the reader sends back when it comes again.
//!
//! It says of each publisher the last message that the reader was given, so that a node that has never seen the reader can go on behind it. Nothing of it is kept
//! here. It comes from outside, and decides only what its reader is given.
//!
//! Invariant: the text of a place is read as that place.

use std::fmt;
use std::str::FromStr;

use busway::PortId;

use crate::limits::PLACES_MAX;

/// What each text begins with, so that another form can come later.
const VERSION: &str = "v1";

/// The last message of each publisher that a reader was given, those that spoke last at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(Vec<(PortId, u64)>);

/// A text that is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoPlace;

impl Place {
    /// The reader was given this message, or all up to it are settled.
    pub(crate) fn reach(&mut self, source: PortId, sequence: u64) {
        if let Some((last, reached)) = self.0.last_mut()
            && *last == source
        {
            *reached = sequence.max(*reached);
            return;
        }
        let before = self.0.iter().position(|(known, _)| *known == source);
        let reached = before.map_or(0, |at| self.0.remove(at).1);
        if self.0.len() >= PLACES_MAX {
            self.0.remove(0);
        }
        self.0.push((source, sequence.max(reached)));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PortId, u64)> {
        self.0.iter().copied()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSION)?;
        self.0.iter().try_for_each(|(source, sequence)| write!(f, ",{source}.{sequence}"))
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Place, NoPlace> {
        let mut parts = text.split(',');
        if parts.next() != Some(VERSION) {
            return Err(NoPlace);
        }
        let mut place = Place::default();
        for (count, part) in parts.enumerate() {
            let (source, sequence) = part.split_once('.').ok_or(NoPlace)?;
            let digits = source.len() == 16 && source.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = sequence.bytes().all(|byte| byte.is_ascii_digit());
            if count >= PLACES_MAX || !digits || !number {
                return Err(NoPlace);
            }
            let source = u64::from_str_radix(source, 16).map_err(|_| NoPlace)?;
            place.reach(PortId(source), sequence.parse().map_err(|_| NoPlace)?);
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::{NoPlace, Place};
    use crate::limits::PLACES_MAX;
    use busway::PortId;

    #[test]
    fn a_place_is_read_as_it_was_written_and_keeps_who_spoke_last() {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut place = Place::default();
        assert_eq!(place.to_string().parse(), Ok(place.clone()));
        for _ in 0..1_000 {
            place.reach(PortId(rng.u64(..100)), rng.u64(..));
            assert_eq!(place.to_string().parse(), Ok(place.clone()));
            assert!(place.iter().count() <= PLACES_MAX);
        }
        place.reach(PortId(7), 5);
        place.reach(PortId(8), 1);
        place.reach(PortId(7), 3);
        assert_eq!(place.iter().last().map(|(source, _)| source), Some(PortId(7)), "the last that spoke");
        assert!(place.iter().last().is_some_and(|(_, reached)| reached >= 5), "nobody goes back");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let long = format!("v1{}", ",0000000000000001.1".repeat(PLACES_MAX + 1));
        for text in [
            "",
            "v2",
            "v1,",
            "v1,1.1",
            "v1,0000000000000001",
            "v1,0000000000000001.",
            "v1,0000000000000001.-1",
            "v1,0000000000000001.99999999999999999999",
            "v1,+000000000000001.1",
            "v1,\u{e9}00000000000001.1",
            &long,
        ] {
            assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text:?}");
        }
    }
}
