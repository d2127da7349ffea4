//! What is wanted and has no room: by who said it, since what one of them has no room for keeps nobody else waiting.
//!
//! Invariant: what waits stands in one queue.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use busway_wire::gossip::{NodeIndex, Reference};

use crate::gossip::Nodes;

/// The place of one: how urgent it is, and how early it came.
type Place = (u8, u64);

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Starved {
    of: BTreeMap<Reference, (NodeIndex, Place)>,
    queues: BTreeMap<NodeIndex, BTreeSet<(Place, Reference)>>,
    came: u64,
}

impl Starved {
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn tellers(&self) -> Nodes {
        self.queues.keys().copied().collect()
    }

    pub(super) fn insert(&mut self, of: Reference, teller: NodeIndex, class: u8) {
        self.remove(of);
        self.came += 1;
        let place = (class, self.came);
        self.of.insert(of, (teller, place));
        self.queues.entry(teller).or_default().insert((place, of));
    }

    pub(super) fn remove(&mut self, of: Reference) -> bool {
        let Some((teller, place)) = self.of.remove(&of) else { return false };
        if let Some(queue) = self.queues.get_mut(&teller) {
            queue.remove(&(place, of));
            if queue.is_empty() {
                self.queues.remove(&teller);
            }
        }
        true
    }

    /// The first of each queue, the most urgent first.
    pub(super) fn first(&self) -> Vec<Reference> {
        let mut first: Vec<_> = self.queues.values().filter_map(BTreeSet::first).copied().collect();
        first.sort_unstable();
        first.into_iter().map(|(_, of)| of).collect()
    }
}
