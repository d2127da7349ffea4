//! Tasks that are larger than a peer takes: which of them were left to others, until when, and when nobody is left to have them.
//!
//! A task is left for [`WORK_TOO_LARGE_NS`] each time. That nobody has taken it then says nothing of whether somebody could: who pulls may be slow,
//! or have others before it. So it is over for all only where nobody who could have it was there when it was left, nor is when its time is up.
//!
//! It does not know pullers or peers: it is told whether others could have a task.
//!
//! Invariant: no task is over before it was left for [`WORK_TOO_LARGE_NS`], however often the puller changes that finds it.

use std::collections::BTreeMap;

use busway_wire::PortId;
use busway_wire::limits::WORK_TOO_LARGE_NS;

/// Tasks that are known. What is forgotten for want of room is left anew, and waits.
const KNOWN_MAX: usize = 1_024;
/// Times are multiples of this: those that were left together are looked at together.
const STEP_NS: u64 = 250_000_000;

/// A task as those know it who find it: who pushed it, and its sequence.
pub(super) type Key = (PortId, u64);

/// A task that was left.
#[derive(Debug)]
struct Left {
    /// How often it had been given. Given more often, it is one that somebody had meanwhile.
    attempt: u8,
    until_ns: u64,
    /// Nobody else was there who could have it.
    alone: bool,
}

/// What is to be done with a task that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Others may have it until then.
    Leave { until_ns: u64 },
    /// Nobody can have it.
    End,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct TooLarge(BTreeMap<Key, Left>);

impl TooLarge {
    /// A task was taken that is too large for the peer; `others` could have it, or nobody else could.
    pub(super) fn found(&mut self, key: Key, attempt: u8, others: bool, now_ns: u64) -> Verdict {
        let known = self.0.get(&key).filter(|left| left.attempt == attempt);
        if let Some(Left { until_ns, .. }) = known.filter(|left| now_ns < left.until_ns) {
            return Verdict::Leave { until_ns: *until_ns };
        }
        if known.is_some_and(|left| left.alone) && !others {
            self.0.remove(&key);
            return Verdict::End;
        }
        if self.0.len() >= KNOWN_MAX && !self.0.contains_key(&key) {
            self.forget_one(now_ns);
        }
        let until_ns = now_ns.saturating_add(WORK_TOO_LARGE_NS);
        let until_ns = until_ns.checked_next_multiple_of(STEP_NS).unwrap_or(u64::MAX);
        self.0.insert(key, Left { attempt, until_ns, alone: !others });
        Verdict::Leave { until_ns }
    }

    /// It was given after all.
    pub(super) fn given(&mut self, key: Key) {
        self.0.remove(&key);
    }

    /// Whether any is known.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that did not come again in twice their time are over; where there are none, the first goes.
    fn forget_one(&mut self, now_ns: u64) {
        self.0.retain(|_, left| left.until_ns.saturating_add(WORK_TOO_LARGE_NS) > now_ns);
        if self.0.len() >= KNOWN_MAX {
            self.0.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use busway_wire::PortId;
    use busway_wire::limits::WORK_TOO_LARGE_NS;

    use super::{KNOWN_MAX, STEP_NS, TooLarge, Verdict};

    fn key(sequence: u64) -> super::Key {
        (PortId(1), sequence)
    }

    fn until(verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Leave { until_ns } => until_ns,
            Verdict::End => panic!("it is over"),
        }
    }

    #[test]
    fn what_is_too_large_is_over_only_where_nobody_else_was_there_when_it_was_left_and_when_its_time_is_up() {
        for others in [[false, false], [false, true], [true, false], [true, true]] {
            let mut too_large = TooLarge::default();
            let until_ns = until(too_large.found(key(1), 0, others[0], 7));
            assert!((WORK_TOO_LARGE_NS..WORK_TOO_LARGE_NS + 2 * STEP_NS).contains(&until_ns));
            // Another puller finds it before its time is up: it has waited for no longer by that.
            for now_ns in [8, until_ns - 1] {
                assert_eq!(too_large.found(key(1), 0, false, now_ns), Verdict::Leave { until_ns });
            }
            let ends = too_large.found(key(1), 0, others[1], until_ns) == Verdict::End;
            assert_eq!(ends, others == [false, false]);
            assert_eq!(too_large.is_empty(), ends);
        }
    }

    #[test]
    fn what_somebody_had_meanwhile_is_left_anew_and_what_is_known_is_bounded() {
        let mut too_large = TooLarge::default();
        let until_ns = until(too_large.found(key(1), 0, false, 0));
        assert!(until(too_large.found(key(1), 1, false, until_ns)) > until_ns);
        too_large.given(key(1));
        assert!(too_large.is_empty());
        for sequence in 0..3 * KNOWN_MAX as u64 {
            until(too_large.found(key(sequence), 0, false, sequence));
        }
        assert_eq!(too_large.0.len(), KNOWN_MAX);
        until(too_large.found(key(u64::MAX), 0, false, 3 * WORK_TOO_LARGE_NS));
        assert_eq!(too_large.0.len(), 1, "those that did not come again are forgotten");
    }
}
