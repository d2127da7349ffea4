//! Of an artifact of ours that goes in pieces: who was given which of them, and which of those it passed on.
//!
//! Each piece that we give is its taker's to pass on. Those who want it too tell us which pieces they have of others; so who takes and passes nothing on
//! is seen, without a word from it, and is given what the others leave.
//!
//! Invariant: what a few say counts for nothing: of a piece more than a third of those who were given any must have said that they have it. Nobody is
//! praised for what another was given too.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use busway_wire::gossip::{NodeIndex, SlotNumber};
use busway_wire::limits::GOSSIP_KEPT_PIECES;

use crate::gossip::nodes::Slots;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Passed {
    takers: BTreeMap<NodeIndex, Taker>,
    /// How many have said that they have a piece of others, and of which so many have that it was passed on.
    told: BTreeMap<u32, u8>,
    passed: Slots,
    /// What the middle one of them keeps to itself, and passes on of a thousand pieces.
    kept: usize,
    part: usize,
}

/// Who was given pieces, or has them of others.
#[derive(Debug, Default)]
struct Taker {
    given: Slots,
    told: Slots,
    /// Pieces that nobody else had, and how many of them it has passed on.
    first: usize,
    passed: usize,
}

impl Taker {
    fn kept(&self) -> usize {
        self.first - self.passed
    }

    fn part(&self) -> usize {
        (self.passed * 1_000).checked_div(self.first).unwrap_or(0)
    }
}

impl Passed {
    /// A peer was given all of a piece.
    pub(super) fn given(&mut self, to: NodeIndex, index: u32) {
        let passed = self.passed.has(SlotNumber(index));
        let taker = self.takers.entry(to).or_default();
        if !taker.given.has(SlotNumber(index)) {
            taker.given.insert(SlotNumber(index));
            taker.first += usize::from(!passed);
            self.compare();
        }
    }

    /// A peer has a piece that it may have of others.
    pub(super) fn told(&mut self, from: NodeIndex, index: u32) {
        let (slot, enough) = (SlotNumber(index), self.takers.len() / 3 + 1);
        let Some(taker) = self.takers.get_mut(&from) else { return };
        if taker.given.has(slot) || taker.told.has(slot) || self.passed.has(slot) {
            return;
        }
        taker.told.insert(slot);
        let told = self.told.entry(index).or_default();
        *told = told.saturating_add(1);
        if usize::from(*told) < enough {
            return;
        }
        self.told.remove(&index);
        self.passed.insert(slot);
        let mut given = self.takers.values_mut().filter(|taker| taker.given.has(slot));
        if let (Some(taker), None) = (given.next(), given.next()) {
            taker.passed += 1;
        }
        self.compare();
    }

    pub(super) fn unlinked(&mut self, node: NodeIndex) {
        self.takers.remove(&node);
        self.compare();
    }

    /// Whether a peer keeps more to itself than others do, and passes less than half as much on.
    pub(super) fn keeps(&self, node: NodeIndex) -> bool {
        let keeps =
            |taker: &Taker| taker.kept() > self.kept + GOSSIP_KEPT_PIECES && 2 * taker.part() < self.part;
        self.takers.get(&node).is_some_and(keeps)
    }

    fn compare(&mut self) {
        let middle = |of: fn(&Taker) -> usize| {
            let mut all: Vec<usize> = self.takers.values().map(of).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or(0)
        };
        (self.kept, self.part) = (middle(Taker::kept), middle(Taker::part));
    }
}

#[cfg(test)]
mod tests;
