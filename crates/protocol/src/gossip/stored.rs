//! Which references mean what lies in the store, or is to.
//!
//! Several may mean the same: two nodes that offer one artifact on one topic. It is known for each name who does, so that nothing is looked through when one ends.
//!
//! Invariant: `named` has each of `of`, by its name, and no other.

use alloc::collections::{BTreeMap, BTreeSet};

use busway_wire::gossip::{NodeIndex, Reference};

use crate::artifact::Name;

#[derive(Debug, Default)]
pub(super) struct Stored {
    of: BTreeMap<Reference, Name>,
    named: BTreeSet<(Name, Reference)>,
}

impl Stored {
    pub(super) fn get(&self, of: Reference) -> Option<Name> {
        self.of.get(&of).copied()
    }

    pub(super) fn insert(&mut self, of: Reference, name: Name) {
        self.remove(of);
        self.of.insert(of, name);
        self.named.insert((name, of));
    }

    pub(super) fn remove(&mut self, of: Reference) -> Option<Name> {
        let name = self.of.remove(&of)?;
        self.named.remove(&(name, of));
        Some(name)
    }

    /// Those that mean this.
    pub(super) fn of_name(&self, name: Name) -> impl Iterator<Item = Reference> {
        let named = self.named.range((name, Reference::default())..).take_while(move |(of, _)| *of == name);
        named.map(|(_, of)| *of)
    }

    /// Those of one node.
    pub(super) fn of_node(&self, node: NodeIndex) -> impl Iterator<Item = Reference> {
        let first = Reference { node, ..Reference::default() };
        self.of.range(first..).map(|(of, _)| *of).take_while(move |of| of.node == node)
    }
}
