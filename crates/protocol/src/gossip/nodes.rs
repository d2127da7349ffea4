//! Sets of nodes and of slots, a bit for each.
//!
//! Invariant: a set takes a bit for each thing that can be in it, whatever happens to those.

use alloc::vec::Vec;
use core::fmt;

use busway_wire::gossip::{NodeIndex, SlotNumber};

/// A set of nodes.
///
/// ```
/// use busway_protocol::gossip::{NodeIndex, Nodes};
/// let nodes: Nodes = [NodeIndex(3), NodeIndex(200)].into_iter().collect();
/// assert!(nodes.has(NodeIndex(200)) && nodes.len() == 2);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Nodes([u64; 4]);

impl Nodes {
    fn place(node: NodeIndex) -> (usize, u64) {
        (usize::from(node.0 >> 6), 1 << (node.0 & 63))
    }

    /// Puts a node in; whether it is new.
    pub fn insert(&mut self, node: NodeIndex) -> bool {
        let (word, bit) = Nodes::place(node);
        let before = self.0[word];
        self.0[word] |= bit;
        before & bit == 0
    }

    /// Takes a node out; whether it was there.
    pub fn remove(&mut self, node: NodeIndex) -> bool {
        let (word, bit) = Nodes::place(node);
        let before = self.0[word];
        self.0[word] &= !bit;
        before & bit != 0
    }

    /// Whether a node is in it.
    #[must_use]
    pub fn has(&self, node: NodeIndex) -> bool {
        let (word, bit) = Nodes::place(node);
        self.0[word] & bit != 0
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// How many are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Those of either set.
    #[must_use]
    pub fn with(&self, others: &Nodes) -> Nodes {
        let mut both = *self;
        both.0.iter_mut().zip(others.0).for_each(|(word, other)| *word |= other);
        both
    }

    /// Those of this set that are not in `others`.
    #[must_use]
    pub fn without(&self, others: &Nodes) -> Nodes {
        let mut left = *self;
        left.0.iter_mut().zip(others.0).for_each(|(word, other)| *word &= !other);
        left
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let word = left.iter().position(|word| *word != 0)?;
            let bit = left[word].trailing_zeros();
            left[word] &= left[word] - 1;
            u8::try_from(word * 64 + bit as usize).ok().map(NodeIndex)
        })
    }
}

impl FromIterator<NodeIndex> for Nodes {
    fn from_iter<I: IntoIterator<Item = NodeIndex>>(nodes: I) -> Nodes {
        let mut set = Nodes::default();
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|node| node.0)).finish()
    }
}

/// A set of slots of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Vec<u64>);

impl Slots {
    fn place(slot: SlotNumber) -> (usize, u64) {
        ((slot.0 >> 6) as usize, 1 << (slot.0 & 63))
    }

    pub(super) fn insert(&mut self, slot: SlotNumber) {
        let (word, bit) = Slots::place(slot);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    pub(super) fn remove(&mut self, slot: SlotNumber) {
        let (word, bit) = Slots::place(slot);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    pub(super) fn has(&self, slot: SlotNumber) -> bool {
        let (word, bit) = Slots::place(slot);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}
