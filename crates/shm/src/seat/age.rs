//! How old the messages of a ring are, as exactly as it is looked at.
//!
//! A message says when it was sent, by a clock that people set: what is kept for a time is not kept by that one. So a ring that
//! keeps something for a time notes now and then how far it was, by the monotonic clock; whoever looks at it notes it, the
//! publisher each time that it makes room and the control thread four times a second.
//!
//! It does not know what becomes of what is old.
//!
//! Invariant: what is said to be old is at least so old; it may be older by a sixteenth of the time and a look.

use std::collections::VecDeque;

/// Notes are at least this part of the time apart: so there are few, and what is kept is kept no longer than that beyond it.
const APART: u64 = 16;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Ages {
    keep_ns: u64,
    /// That all up to this sequence had been sent by then; both rise.
    notes: VecDeque<(u64, u64)>,
}

impl Ages {
    /// Of messages that are old after this time.
    pub(super) fn new(keep_ns: u64) -> Self {
        Self { keep_ns, notes: VecDeque::new() }
    }

    /// The last message that is old now, where `head` is the last of all; 0 where none is.
    pub(super) fn old(&mut self, head: u64, now_ns: u64) -> u64 {
        let (last, at_ns) = self.notes.back().copied().unwrap_or_default();
        if head > last && (self.notes.is_empty() || now_ns.saturating_sub(at_ns) >= self.keep_ns / APART) {
            self.notes.push_back((head, now_ns));
        }
        let is_old = |at_ns: u64| now_ns.saturating_sub(at_ns) >= self.keep_ns;
        while self.notes.get(1).is_some_and(|(_, at_ns)| is_old(*at_ns)) {
            self.notes.pop_front();
        }
        self.notes.front().filter(|(_, at_ns)| is_old(*at_ns)).map_or(0, |(sequence, _)| *sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::{APART, Ages};

    #[test]
    fn nothing_is_old_before_its_time_nor_long_after_it_and_few_notes_are_kept() {
        const KEEP: u64 = 1_000;
        let seed = 7;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut ages = Ages::new(KEEP);
        let (mut now, mut sent) = (0, Vec::new());
        for _ in 0..20_000 {
            now += rng.u64(0..20);
            sent.extend((0..rng.u64(0..3)).map(|_| now));
            let old = ages.old(sent.len() as u64, now) as usize;
            let age = |at: usize| now - sent[at];
            assert!(old == 0 || age(old - 1) >= KEEP, "seed {seed}: message {old} at {now}");
            assert!(
                old == sent.len() || age(old) <= KEEP + KEEP / APART + 40,
                "seed {seed}: message {old} at {now}"
            );
            assert!(ages.notes.len() <= APART as usize + 2, "{} notes", ages.notes.len());
        }
        ages.old(sent.len() as u64, now + KEEP / APART);
        assert_eq!(ages.old(sent.len() as u64, now + 2 * KEEP), sent.len() as u64, "all of them");
    }

    #[test]
    fn what_is_kept_for_no_time_is_old_at_once_and_what_is_kept_for_ever_is_never() {
        assert_eq!(Ages::new(0).old(7, 1), 7);
        assert_eq!(Ages::new(u64::MAX).old(7, u64::MAX - 1), 0);
    }
}
