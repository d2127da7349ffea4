//! How far we know a node that has spoken for itself.
//!
//! Invariant: nothing up to `since` is missing.

use busway_wire::gossip::{Epoch, Since};
use busway_wire::limits::{GOSSIP_AGAIN_MS, GOSSIP_AGAIN_MS_MAX};

use crate::time::Time;

/// How far we know a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    pub(super) epoch: Epoch,
    /// Where its table was when it last said so, and whether all of that has been told.
    version: u64,
    confirmed: bool,
    pub(super) slots: u64,
    pub(super) marks: u64,
    /// From where on something was dropped, of its slots and of its marks.
    pub(super) slots_lost: Option<u64>,
    pub(super) marks_lost: Option<u64>,
    /// When it may be asked again, how long to wait then, and how far it was known when it was.
    again: Time,
    pause_ms: u64,
    asked: (u64, u64),
}

impl Origin {
    /// One that has told nothing.
    pub(super) fn new(epoch: Epoch, version: u64) -> Origin {
        Origin { epoch, version, ..Origin::default() }
    }

    /// Up to where nothing is missing.
    pub(super) fn since(&self) -> (u64, u64) {
        let known = |known: u64, lost: Option<u64>| lost.map_or(known, |lost| known.min(lost));
        (known(self.slots, self.slots_lost), known(self.marks, self.marks_lost))
    }

    /// The same, as it is said.
    pub(super) fn said(&self) -> Since {
        let (slots, marks) = self.since();
        Since { epoch: self.epoch, slots, marks }
    }

    pub(super) fn misses(&self) -> bool {
        self.slots_lost.is_some() || self.marks_lost.is_some()
    }

    /// Whether it has now, for the first time, told all of the table that it said it has.
    pub(super) fn is_first_told(&mut self) -> bool {
        let first = !self.confirmed && self.since().0 >= self.version;
        self.confirmed |= first;
        first
    }

    /// It says where its table is; others may have said something of it meanwhile.
    pub(super) fn at(&mut self, version: u64) {
        (self.version, self.confirmed) = (version, false);
    }

    /// What is missing is asked for now: it will be said again from there on.
    pub(super) fn ask_again(&mut self) {
        (self.slots, self.marks) = self.since();
        (self.slots_lost, self.marks_lost) = (None, None);
    }

    /// What is missing is so for another reason than want of room, which is asked for ever more rarely.
    pub(super) fn asks_afresh(&mut self) {
        (self.again, self.pause_ms) = (Time(0), 0);
    }

    /// Whether it may be asked again by now. Who asks in vain waits twice as long each time.
    pub(super) fn may_ask_again(&mut self, now: Time) -> bool {
        if now < self.again {
            return false;
        }
        let further = self.since() > self.asked;
        self.asked = self.since();
        let pause = if further { GOSSIP_AGAIN_MS } else { self.pause_ms.saturating_mul(2) };
        self.pause_ms = pause.clamp(GOSSIP_AGAIN_MS, GOSSIP_AGAIN_MS_MAX);
        self.again = now.after_ms(self.pause_ms);
        true
    }
}
