//! Seeded chance: SplitMix64, which is ten lines and passes BigCrush.
//!
//! It is for faults and jitter, not for secrets.
//!
//! Invariant: the same seed and the same questions give the same answers, on every machine.

use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number from 0 to `last`.
    pub(crate) fn up_to(&mut self, last: u64) -> u64 {
        // The bias of a remainder is below 2^-32 for the small ranges that are asked for.
        let word = self.next();
        last.checked_add(1).map_or(word, |count| word % count)
    }

    /// A size from 1 to `most`; 0 where there is none.
    pub(crate) fn part_of(&mut self, most: usize) -> usize {
        if most == 0 { 0 } else { 1 + self.below(most) }
    }

    /// An index below `count`, which is not 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.up_to(count as u64 - 1)).unwrap_or(0)
    }

    /// True `ppm` times in a million.
    pub(crate) fn chance(&mut self, ppm: u32) -> bool {
        // No question, no answer: a network without faults rolls no dice for them.
        ppm > 0 && self.up_to(999_999) < u64::from(ppm)
    }

    /// Nanoseconds between the two, both included.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> u64 {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4);
        nanos(least) + self.up_to(nanos(most).saturating_sub(nanos(least)))
    }
}
