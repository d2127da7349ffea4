//! What one peer has and we do not know: what waits for its own node to tell us, what the peer is to be asked, and was asked.
//!
//! Each stands here until it is known, or answered; so the marks that named it are acknowledged only then, and are said again if
//! the link is lost before.
//!
//! Invariant: there are at most `GOSSIP_ASKS_MAX`, so that a peer which has as many places never has too few.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use busway_wire::gossip::{Epoch, NodeIndex, Reference, SlotNumber};
use busway_wire::limits::{GOSSIP_ASKS_MAX, GOSSIP_WORD_ENTRIES_MAX};

/// What becomes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its node is there to tell us.
    Waits,
    /// The peer is to be asked.
    Open,
    /// The peer was asked.
    Said,
}

/// All of one peer.
#[derive(Debug, Default)]
pub(super) struct Asks {
    of: BTreeMap<Reference, (u64, Stage)>,
    open: BTreeSet<Reference>,
    /// Behind which marks they came, and how many of each.
    after: BTreeMap<u64, usize>,
}

impl Asks {
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// One more, which came behind that mark; whether there is room for it.
    pub(super) fn insert(&mut self, of: Reference, after: u64, stage: Stage) -> bool {
        if self.of.contains_key(&of) {
            return true;
        }
        if self.of.len() >= GOSSIP_ASKS_MAX {
            return false;
        }
        self.of.insert(of, (after, stage));
        *self.after.entry(after).or_default() += 1;
        if stage == Stage::Open {
            self.open.insert(of);
        }
        true
    }

    /// It is known, or answered, or over: behind which mark it came, if it was here, and what had become of it.
    pub(super) fn remove(&mut self, of: Reference) -> Option<(u64, Stage)> {
        let (after, stage) = self.of.remove(&of)?;
        self.open.remove(&of);
        if let Some(count) = self.after.get_mut(&after) {
            *count -= 1;
            if *count == 0 {
                self.after.remove(&after);
            }
        }
        Some((after, stage))
    }

    /// The mark behind which the first of them came: what came before it is known.
    pub(super) fn floor(&self) -> Option<u64> {
        self.after.first_key_value().map(|(after, _)| *after)
    }

    /// The next questions; whether there are more.
    pub(super) fn next(&mut self) -> (Vec<Reference>, bool) {
        let mut of = Vec::new();
        while of.len() < GOSSIP_WORD_ENTRIES_MAX / 8
            && let Some(next) = self.open.pop_first()
        {
            if let Some((_, stage)) = self.of.get_mut(&next) {
                *stage = Stage::Said;
                of.push(next);
            }
        }
        (of, !self.open.is_empty())
    }

    /// A node has told all up to this version of this start: those that waited for that.
    pub(super) fn told(&mut self, node: NodeIndex, epoch: Epoch, through: u64) -> Vec<Reference> {
        let due = self.waiting(node);
        let due = due.into_iter().filter(|of| of.epoch != epoch || of.version <= through);
        let due: Vec<Reference> = due.collect();
        for of in &due {
            self.remove(*of);
        }
        due
    }

    /// A node tells us nothing any more: the peer is asked what waited for it. Whether there is something.
    pub(super) fn unlinked(&mut self, node: NodeIndex) -> bool {
        let due = self.waiting(node);
        for of in &due {
            if let Some((_, stage)) = self.of.get_mut(of) {
                *stage = Stage::Open;
                self.open.insert(*of);
            }
        }
        !due.is_empty()
    }

    fn waiting(&self, node: NodeIndex) -> Vec<Reference> {
        let first = Reference { node, epoch: Epoch(0), slot: SlotNumber(0), version: 0 };
        let of = self.of.range(first..).take_while(|(of, _)| of.node == node);
        of.filter(|(_, (_, stage))| *stage == Stage::Waits).map(|(of, _)| *of).collect()
    }
}
