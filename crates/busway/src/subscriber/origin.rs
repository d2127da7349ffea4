//! What a subscriber knows of a publisher on another host: how far it is, by the sequences of the origin.
//!
//! A relay's ring carries the origin's messages and notices of what will not come. A relay may die and another take its
//! place, which may bring again what was delivered before: the sequences say so. A hole that nobody told of is a loss
//! too. Nothing here reads memory.
//!
//! Invariant: sequences that are delivered go up. Between two of them every sequence was told as lost, with a cause.

use busway_wire::Cause;

use crate::publisher::Missing;

/// A range that will not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) cause: Cause,
    /// The link that lost it; empty where it was lost on this host.
    pub(super) link: String,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Deliver,
    /// It was delivered, or told as lost, before.
    Duplicate,
}

/// See the head of this file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// The last sequence that was delivered or told as lost; 0 before the first.
    last: u64,
    /// Why messages of the relay's ring were missed since the last message, if any were, and how many.
    missed: Option<(Cause, u64)>,
}

impl Origin {
    /// Goes on where another relay of the same publisher ended.
    pub(super) fn after(last: u64) -> Self {
        Self { last, missed: None }
    }

    /// The last sequence that was delivered or told as lost.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The sequence of which nothing else is to be said than that it has come; 0 where there is none, as nobody knows what
    /// the first one is.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        if self.last == 0 || self.missed.is_some() { 0 } else { self.last.saturating_add(1) }
    }

    /// The message that `next` named is delivered.
    #[inline]
    pub(super) fn follow(&mut self, next: u64) {
        self.last = next;
    }

    /// Messages of the relay's ring were missed here; which of the origin's they were, the next one says.
    pub(super) fn missed(&mut self, cause: Cause, count: u64) {
        // What came again says nothing of what was lost beside it.
        self.missed = match self.missed {
            Some((Cause::Duplicate, before)) if cause == Cause::Duplicate => {
                Some((cause, count.saturating_add(before)))
            }
            Some(known) if cause == Cause::Duplicate => Some(known),
            _ => Some((cause, count)),
        };
    }

    /// A message of the origin. What lies between it and the one before is a hole.
    pub(super) fn message(&mut self, sequence: u64, holes: &mut Vec<Hole>) -> Verdict {
        if sequence <= self.last {
            return Verdict::Duplicate;
        }
        self.hole_before(sequence, holes);
        self.last = sequence;
        Verdict::Deliver
    }

    /// A notice. What of it was delivered or told before is not told again.
    pub(super) fn missing(&mut self, missing: &Missing, holes: &mut Vec<Hole>) {
        let from = missing.from.max(self.last.saturating_add(1));
        if from > missing.to {
            return;
        }
        self.hole_before(from, holes);
        holes.push(Hole { from, to: missing.to, cause: missing.cause, link: missing.link.clone() });
        self.last = missing.to;
    }

    fn hole_before(&mut self, sequence: u64, holes: &mut Vec<Hole>) {
        let missed = self.missed.take();
        // Before the first message a subscriber was not there: it has lost nothing, or not more than came again. What the relay's ring lost may
        // stand for many of the origin's.
        let from = match (self.last, missed) {
            (0, None) => return,
            (0, Some((Cause::Duplicate, count))) => sequence.saturating_sub(count).max(1),
            (0, Some(_)) => 1,
            (last, _) => last + 1,
        };
        if from < sequence {
            let cause = missed.map_or(Cause::LinkLost, |(cause, _)| cause);
            holes.push(Hole { from, to: sequence - 1, cause, link: String::new() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Hole, Origin, Verdict};
    use crate::publisher::Missing;
    use busway_wire::Cause;

    fn hole(from: u64, to: u64, cause: Cause) -> Hole {
        Hole { from, to, cause, link: String::new() }
    }

    #[test]
    fn what_comes_again_from_another_relay_is_delivered_once() {
        let (mut origin, mut holes) = (Origin::default(), Vec::new());
        assert_eq!(origin.message(7, &mut holes), Verdict::Deliver);
        assert_eq!(origin.message(8, &mut holes), Verdict::Deliver);
        let mut next = Origin::after(origin.last());
        assert_eq!(next.message(7, &mut holes), Verdict::Duplicate);
        assert_eq!(next.message(8, &mut holes), Verdict::Duplicate);
        assert_eq!(next.message(9, &mut holes), Verdict::Deliver);
        assert!(holes.is_empty(), "{holes:?}");
    }

    #[test]
    fn a_hole_is_told_with_the_cause_that_is_known_and_once() {
        let (mut origin, mut holes) = (Origin::default(), Vec::new());
        origin.message(1, &mut holes);
        origin.message(4, &mut holes);
        assert_eq!(holes, [hole(2, 3, Cause::LinkLost)], "nobody told: the link lost them");
        holes.clear();
        origin.missed(Cause::Lapped, 1);
        origin.message(10, &mut holes);
        assert_eq!(holes, [hole(5, 9, Cause::Lapped)]);
        holes.clear();
        let told = Missing { from: 8, to: 14, cause: Cause::LinkLost, link: "a-b".to_owned() };
        origin.missing(&told, &mut holes);
        origin.missing(&told, &mut holes);
        assert_eq!(holes, [Hole { from: 11, to: 14, cause: Cause::LinkLost, link: "a-b".to_owned() }]);
        holes.clear();
        origin.message(15, &mut holes);
        assert!(holes.is_empty(), "{holes:?}");
    }

    #[test]
    fn what_was_before_the_first_message_is_no_loss_unless_it_was_missed_here() {
        let (mut origin, mut holes) = (Origin::default(), Vec::new());
        origin.message(100, &mut holes);
        assert!(holes.is_empty());
        let mut origin = Origin::default();
        origin.missed(Cause::Lapped, 1);
        origin.missed(Cause::Duplicate, 1);
        origin.message(100, &mut holes);
        assert_eq!(holes, [hole(1, 99, Cause::Lapped)], "one message of the relay may stand for many");
        // One was missed of what had been published long before.
        let mut origin = Origin::default();
        holes.clear();
        origin.missed(Cause::Duplicate, 1);
        origin.missed(Cause::Duplicate, 1);
        origin.message(5_002, &mut holes);
        assert_eq!(holes, [hole(5_000, 5_001, Cause::Duplicate)]);
    }
}
