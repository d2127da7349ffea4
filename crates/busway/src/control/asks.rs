//! Rows of this process that wait for a seat, and how many of them are asked for at once.
//!
//! Of each publishing process only a few seats are asked for at a time, the others in turn as those are answered. A hundred
//! subscribers of ten thousand publishers have a million rows: asked for at once, they would fill what waits for the
//! publishers' process, whose connection the holder would end, and it would come back to the same million. It sends
//! nothing, and asks for no row again by itself.
//!
//! Invariants: of one publishing process at most [`ASKED_MAX`] rows are under way; a row is in here once; each that is
//! answered, that has had no answer for [`LOST_NS`], or that is gone with its publisher makes room for the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use busway_wire::ProcessId;
use busway_wire::limits::ASKED_MAX;

use super::{RowKey, Wanted};

/// An answer that has not come for so long was lost with a connection, or its publisher is stopped.
const LOST_NS: u64 = 5_000_000_000;

/// The rows that wait for one publishing process.
#[derive(Debug, Default)]
struct Asked {
    /// And when they were asked for.
    under_way: BTreeMap<RowKey, u64>,
    turn: VecDeque<Wanted>,
    in_turn: BTreeSet<RowKey>,
}

impl Asked {
    fn next(&mut self, now_ns: u64) -> Option<Wanted> {
        let next = self.turn.pop_front()?;
        self.in_turn.remove(&next.row);
        self.under_way.insert(next.row, now_ns);
        Some(next)
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Asks {
    of: BTreeMap<ProcessId, Asked>,
}

impl Asks {
    /// A row wants a seat. Returned where it is to be asked for now, also if it is under way already: the answer may have
    /// been lost.
    pub(super) fn ask(&mut self, wanted: Wanted, now_ns: u64) -> Option<Wanted> {
        let asked = self.of.entry(wanted.publisher).or_default();
        if asked.under_way.len() < ASKED_MAX || asked.under_way.contains_key(&wanted.row) {
            asked.under_way.insert(wanted.row, now_ns);
            return Some(wanted);
        }
        if asked.in_turn.insert(wanted.row) {
            asked.turn.push_back(wanted);
        }
        None
    }

    /// A publisher has answered for this row. Returns the next that is to be asked for.
    pub(super) fn answered(&mut self, publisher: ProcessId, row: RowKey, now_ns: u64) -> Option<Wanted> {
        let asked = self.of.get_mut(&publisher)?;
        asked.under_way.remove(&row)?;
        let next = asked.next(now_ns);
        if asked.under_way.is_empty() {
            self.of.remove(&publisher);
        }
        next
    }

    /// Waits no longer for answers that were lost. Returns what is to be asked for instead.
    pub(super) fn tick(&mut self, now_ns: u64) -> Vec<Wanted> {
        let mut next = Vec::new();
        for asked in self.of.values_mut() {
            asked.under_way.retain(|_, since_ns| now_ns.saturating_sub(*since_ns) < LOST_NS);
            while asked.under_way.len() < ASKED_MAX
                && let Some(wanted) = asked.next(now_ns)
            {
                next.push(wanted);
            }
        }
        self.of.retain(|_, asked| !asked.under_way.is_empty());
        next
    }

    /// Nobody answers for this process any more.
    pub(super) fn gone(&mut self, publisher: ProcessId) {
        self.of.remove(&publisher);
    }

    /// What was asked for is lost with the holder: it is told of every ring again.
    pub(super) fn clear(&mut self) {
        self.of.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use busway_wire::limits::ASKED_MAX;
    use busway_wire::{Generation, Policy, PortId, ProcessId, RingIndex, RowIndex};

    use super::super::{RingKey, RowKey, Wanted};
    use super::{Asks, LOST_NS};

    fn wanted(publisher: u64, row: u32) -> Wanted {
        let ring = RingKey { index: RingIndex(row), generation: Generation(1) };
        let row = RowKey { index: RowIndex(row), generation: Generation(1) };
        let (publisher, policy) = (ProcessId(publisher), Policy::default());
        Wanted { publisher, ring, subscription: PortId(1), row, policy }
    }

    #[test]
    fn of_a_crowd_of_rows_a_few_are_asked_for_at_a_time_and_each_has_its_turn() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut asks, mut under_way, mut seen) = (Asks::default(), Vec::new(), BTreeSet::new());
        for row in 0..1_000 {
            for publisher in [1, 2] {
                under_way.extend(asks.ask(wanted(publisher, row), 0));
                // Told twice, as a take-over does: it is asked for again or keeps its turn.
                let again = asks.ask(wanted(publisher, row), 0);
                assert!(again.is_none() || row < ASKED_MAX as u32, "it is asked for before its turn");
            }
        }
        assert_eq!(under_way.len(), 2 * ASKED_MAX);
        let mut most = 0;
        while !under_way.is_empty() {
            most = most.max(under_way.iter().filter(|wanted| wanted.publisher.0 == 1).count());
            let answered = under_way.swap_remove(rng.usize(..under_way.len()));
            assert!(seen.insert((answered.publisher, answered.row)), "asked for twice");
            under_way.extend(asks.answered(answered.publisher, answered.row, 0));
            assert!(
                asks.answered(answered.publisher, answered.row, 0).is_none(),
                "an answer that nobody asked for"
            );
        }
        assert_eq!((seen.len(), most), (2_000, ASKED_MAX), "rows, and the most at a time");
        assert!(asks.of.is_empty(), "nothing is kept");
    }

    #[test]
    fn rows_of_a_publisher_that_is_gone_are_forgotten_and_those_of_others_are_not() {
        let mut asks = Asks::default();
        for row in 0..100 {
            asks.ask(wanted(1, row), 0);
            asks.ask(wanted(2, row), 0);
        }
        asks.gone(ProcessId(1));
        assert!(asks.answered(ProcessId(1), wanted(1, 0).row, 0).is_none());
        let next = asks.answered(ProcessId(2), wanted(2, 0).row, 0).expect("the next in turn");
        assert_eq!(next.row, wanted(2, ASKED_MAX as u32).row);
        asks.clear();
        assert!(asks.ask(wanted(2, 99), 0).is_some(), "nothing is under way");
    }
    #[test]
    fn answers_that_are_lost_hold_up_nobody_for_long() {
        let mut asks = Asks::default();
        let mut asked = (0..100).filter(|row| asks.ask(wanted(1, *row), 0).is_some()).count();
        let mut now_ns = 0;
        while asked < 100 {
            assert!(asks.tick(now_ns + LOST_NS - 1).is_empty(), "it waits for them");
            now_ns += LOST_NS;
            let next = asks.tick(now_ns).len();
            assert!((1..=ASKED_MAX).contains(&next), "{next} at a time");
            asked += next;
        }
        assert!(asks.tick(now_ns + LOST_NS).is_empty() && asks.of.is_empty(), "nothing is kept");
    }
}
