//! When to dial again.
//!
//! The wait is 50 ms and a random part that doubles with each failure, up to a cap. A connect that succeeds proves
//! nothing: a full node accepts and refuses, over and over. Nor does a hello, behind which a node that dies as soon as
//! it has begun may die. So what resets it is a message, of theirs or of ours that they have counted, or where nobody
//! says anything the answer to a ping, which comes a second after the hello. A refusal says how long to stay away; the
//! random part is added to that, or all who were refused in one moment would come back in one moment.
//!
//! It does not know peers or connections.
//!
//! Invariant: a wait is never shorter than `LINK_BACKOFF_MS`, nor than what the last refusal asked for, as far as it is
//! believed.

use busway_wire::limits::LINK_BACKOFF_MS;

const MS: u64 = 1_000_000;

/// Seeded chance: SplitMix64, ten lines that pass BigCrush. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice { state: seed }
    }

    /// A number from 0 to `last`. The bias of a remainder is below 2^-20 for 30 s in nanoseconds.
    pub(crate) fn up_to(&mut self, last: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        last.checked_add(1).map_or(word, |count| word % count)
    }
}

/// The failures of one peer since it last said something.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    cap_ms: u64,
    asked_ms_max: u64,
    failures: u32,
    retry_after_ms: u64,
}

impl Backoff {
    /// No wait is longer than `cap_ms`, but for a refusal that asks for it, which is believed so much.
    pub(crate) fn new(cap_ms: u64, asked_ms_max: u64) -> Backoff {
        Backoff { cap_ms: cap_ms.max(LINK_BACKOFF_MS), asked_ms_max, failures: 0, retry_after_ms: 0 }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The peer has said something.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
        self.retry_after_ms = 0;
    }

    /// The peer has asked us to stay away.
    pub(crate) fn asked(&mut self, retry_after_ms: u32) {
        self.retry_after_ms = u64::from(retry_after_ms).min(self.asked_ms_max);
    }

    /// It has failed: nanoseconds until the next try.
    pub(crate) fn next_ns(&mut self, dice: &mut Dice) -> u64 {
        let doubled_ms = LINK_BACKOFF_MS.checked_shl(self.failures.min(32)).unwrap_or(u64::MAX);
        self.failures = self.failures.saturating_add(1);
        let asked_ms = core::mem::take(&mut self.retry_after_ms);
        let least_ms = asked_ms.max(LINK_BACKOFF_MS);
        let spread_ms = doubled_ms.min(self.cap_ms.saturating_sub(least_ms)).max(asked_ms);
        least_ms * MS + dice.up_to(spread_ms * MS)
    }
}
