//! Messages of a group that were given back, and are left alone for a while.
//!
//! What failed does not fail again at once: before the second delivery there is a pause, and before each one behind it one twice as long. Each puller measures
//! it for itself, from when it saw the message free: nothing is shared for it, and nobody who dies takes a time with it. The pause is drawn from the
//! message, so that pullers agree, and messages that failed together do not come again together.
//!
//! It does not look at claims and knows no clock: it is told both.
//!
//! Invariant: a message rests at most once for each time that it was given back, and no longer than the longest pause.

use std::collections::{BTreeMap, BTreeSet};

/// How long what was given back is left alone: before the second delivery up to `first_ns`, then twice as long each time, up to `most_ns`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pauses {
    /// Nanoseconds; 0: it is taken at once.
    pub first_ns: u64,
    /// Nanoseconds.
    pub most_ns: u64,
}

impl Pauses {
    /// Between half and all of the longest, by the message: those that failed together do not come again together.
    fn of(&self, sequence: u64, attempt: u8) -> u64 {
        let doublings = u32::from(attempt.saturating_sub(1)).min(63);
        let longest = self.first_ns.saturating_mul(1 << doublings).min(self.most_ns);
        let half = longest / 2;
        // Steps of the odd number next to 2^64 divided by the golden ratio lie far from each other.
        let random = (sequence ^ u64::from(attempt) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        half + random % (longest - half + 1)
    }
}

/// Messages that were given back and are left alone.
#[derive(Debug, Default)]
pub(super) struct Resting {
    pub(super) pauses: Pauses,
    /// By sequence: how often it was given back, and until when it rests. None is over, so there are no more than slots.
    until: BTreeMap<u64, (u8, u64)>,
    /// What this puller may not have, and until when it leaves it to others, however free it is.
    left: BTreeMap<u64, u64>,
    /// Those of them for which there was no room, and which it could have when there is.
    roomless: BTreeSet<u64>,
    /// When the first of them has rested; of those that have, once each.
    pub(super) next_ns: Option<u64>,
}

impl Resting {
    /// Whether this message, which was given back so often, is left alone now.
    pub(super) fn is_resting(&mut self, sequence: u64, attempt: u8, now_ns: u64) -> bool {
        if let Some((_, until_ns)) = self.until.get(&sequence).filter(|(known, _)| *known == attempt) {
            return *until_ns > now_ns;
        }
        let pause_ns = self.pauses.of(sequence, attempt);
        let until_ns = now_ns.saturating_add(pause_ns);
        self.until.insert(sequence, (attempt, until_ns));
        if pause_ns > 0 {
            self.next_ns = [self.next_ns, Some(until_ns)].into_iter().flatten().min();
        }
        pause_ns > 0
    }

    /// Whether it rested here since it was given back so often. Of what rests still nobody asks.
    pub(super) fn has_rested(&self, sequence: u64, attempt: u8) -> bool {
        !self.until.is_empty() && self.until.get(&sequence).is_some_and(|(known, _)| *known == attempt)
    }

    /// This puller leaves it to others until then.
    pub(super) fn leave(&mut self, sequence: u64, until_ns: u64) {
        self.roomless.remove(&sequence);
        self.left.insert(sequence, until_ns);
        self.next_ns = [self.next_ns, Some(until_ns)].into_iter().flatten().min();
    }

    /// The same, if there is no room for it before.
    pub(super) fn leave_for_room(&mut self, sequence: u64, until_ns: u64) {
        self.leave(sequence, until_ns);
        self.roomless.insert(sequence);
    }

    /// There is room for so many. Returns the first that was left for want of it.
    pub(super) fn has_room(&mut self, count: usize) -> Option<u64> {
        let first = self.roomless.first().copied();
        for _ in 0..count {
            let Some(sequence) = self.roomless.pop_first() else { break };
            self.left.remove(&sequence);
        }
        first
    }

    /// Whether something is left for want of room.
    pub(super) fn lacks_room(&self) -> bool {
        !self.roomless.is_empty()
    }

    /// Whether it is left to others now.
    pub(super) fn is_left(&self, sequence: u64, now_ns: impl FnOnce() -> u64) -> bool {
        !self.left.is_empty() && self.left.get(&sequence).is_some_and(|until_ns| *until_ns > now_ns())
    }

    /// It is nobody's any more, or somebody's.
    pub(super) fn forget(&mut self, sequence: u64) {
        if !self.until.is_empty() {
            self.until.remove(&sequence);
        }
    }

    /// All up to here are over.
    pub(super) fn forget_up_to(&mut self, low: u64) {
        while self.until.first_key_value().is_some_and(|(sequence, _)| *sequence <= low) {
            self.until.pop_first();
        }
        while self.left.first_key_value().is_some_and(|(sequence, _)| *sequence <= low) {
            self.left.pop_first();
        }
        while self.roomless.first().is_some_and(|sequence| *sequence <= low) {
            self.roomless.pop_first();
        }
    }

    /// The first that has rested by now, if that is news.
    pub(super) fn rested(&mut self, now_ns: impl FnOnce() -> u64) -> Option<u64> {
        let next_ns = self.next_ns?;
        let now_ns = now_ns();
        if next_ns > now_ns {
            return None;
        }
        let left = self.left.iter().map(|(sequence, until_ns)| (*sequence, *until_ns));
        let all = self.until.iter().map(|(sequence, (_, until_ns))| (*sequence, *until_ns)).chain(left);
        self.next_ns = all.clone().map(|(_, until_ns)| until_ns).filter(|until_ns| *until_ns > now_ns).min();
        let first = all.filter(|(_, until_ns)| *until_ns <= now_ns).map(|(sequence, _)| sequence).min();
        // It is taken as any other from now on.
        self.left.retain(|_, until_ns| *until_ns > now_ns);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::{Pauses, Resting};

    const MS: u64 = 1_000_000;
    const PAUSES: Pauses = Pauses { first_ns: 100 * MS, most_ns: 300 * MS };

    #[test]
    fn pauses_double_up_to_the_longest_and_lie_between_half_and_all() {
        for sequence in 1..1_000 {
            for (attempt, longest) in [(1, 100), (2, 200), (3, 300), (4, 300), (62, 300)] {
                let pause = PAUSES.of(sequence, attempt);
                assert!((longest * MS / 2..=longest * MS).contains(&pause), "{sequence} {attempt}: {pause}");
            }
        }
        assert_eq!(Pauses::default().of(1, 1), 0);
    }

    #[test]
    fn what_was_given_back_rests_once_and_anew_when_it_is_given_back_again() {
        let mut resting = Resting { pauses: PAUSES, ..Resting::default() };
        assert!(resting.is_resting(7, 1, 0));
        let until = resting.next_ns.expect("a time");
        assert!(resting.is_resting(7, 1, until - 1) && resting.rested(|| until - 1).is_none());
        assert_eq!(resting.rested(|| until), Some(7));
        assert_eq!(resting.rested(|| until + 1), None, "that is told once");
        assert!(!resting.is_resting(7, 1, until), "also if somebody put it back");
        assert!(resting.has_rested(7, 1) && !resting.has_rested(7, 2) && !resting.has_rested(8, 1));
        assert!(resting.is_resting(7, 2, until));
        resting.forget_up_to(7);
        assert!(resting.until.is_empty());
    }

    #[test]
    fn what_is_left_to_others_is_looked_at_again_when_its_time_is_up() {
        let mut resting = Resting::default();
        assert!(!resting.is_left(3, || 0));
        resting.leave(3, 100);
        assert!(resting.is_left(3, || 99) && !resting.is_left(3, || 100) && !resting.is_left(4, || 0));
        resting.leave(2, 200);
        resting.leave(5, 200);
        assert_eq!((resting.rested(|| 99), resting.rested(|| 100)), (None, Some(3)));
        assert!(!resting.left.contains_key(&3), "it is not gone back to when others have rested");
        resting.forget_up_to(2);
        assert_eq!((resting.rested(|| 200), resting.left.len()), (Some(5), 0));
    }

    #[test]
    fn what_is_left_for_want_of_room_is_looked_at_again_when_there_is_some_and_nothing_else_is() {
        let mut resting = Resting::default();
        resting.leave(2, 100);
        (3..7).for_each(|sequence| resting.leave_for_room(sequence, 100));
        resting.leave(4, 100);
        resting.forget_up_to(3);
        assert_eq!((resting.has_room(1), resting.lacks_room()), (Some(5), true));
        assert!(resting.is_left(4, || 99) && !resting.is_left(5, || 99) && resting.is_left(6, || 99));
        assert_eq!((resting.has_room(9), resting.has_room(9)), (Some(6), None));
        assert!(!resting.is_left(6, || 99) && !resting.lacks_room());
        assert_eq!(resting.rested(|| 100), Some(4));
    }
}
