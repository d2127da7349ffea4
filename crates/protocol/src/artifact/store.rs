//! Where pieces of artifacts are kept: in memory, or on a disk, as whoever runs the machine likes.
//!
//! Only checked bytes are put here, by their name and part, and they are given to others as they were put. The machine keeps none of them.
//!
//! Invariant: what is got is what was put, or nothing.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::fmt;

use busway_wire::Topic;
use busway_wire::gossip::{ArtifactId, Part};

/// A topic, for a name: the first half of the BLAKE3 of its bytes. Who chooses topics finds none that has the same as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicHash(pub [u8; 16]);

impl TopicHash {
    /// That of a topic.
    #[must_use]
    pub fn of(topic: &Topic) -> TopicHash {
        let whole = ArtifactId::of(topic.as_str().as_bytes()).0;
        TopicHash(core::array::from_fn(|at| whole[at]))
    }

    /// That of 32 lower-case hexadecimal digits, as it is displayed.
    #[must_use]
    pub fn of_digits(digits: &str) -> Option<TopicHash> {
        // An id of the same digits twice.
        let id: ArtifactId = alloc::format!("{digits}{digits}").parse().ok()?;
        Some(TopicHash(core::array::from_fn(|at| id.0[at])))
    }
}

impl fmt::Display for TopicHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An artifact by its id and its size, on one topic. Who offers says both, and may lie: of two sizes of one id one is so at most, and neither is believed before all of it is here.
///
/// The same bytes on another topic are another thing to a store: rights are by topic, so who knows the id of what is on one is given nothing of it by offering that on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// BLAKE3 of its bytes.
    pub id: ArtifactId,
    /// How many bytes it has.
    pub size: u64,
    /// On which it is offered.
    pub topic: TopicHash,
}

/// There is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Keeps checked parts of artifacts.
pub trait Store: fmt::Debug + Send {
    /// An artifact is needed from now on, until it is forgotten: its parts come, or are here already.
    ///
    /// # Errors
    /// [`Full`] where there is no room for all of it; then nothing of it is asked for.
    fn open(&mut self, name: Name) -> Result<(), Full>;

    /// Keeps it.
    ///
    /// # Errors
    /// [`Full`] where there is no room; then nothing more of it is asked for.
    fn put(&mut self, name: Name, part: Part, bytes: Arc<[u8]>) -> Result<(), Full>;

    /// A part that is kept, all of it.
    fn get(&self, name: Name, part: Part) -> Option<Arc<[u8]>>;

    /// Whether a part is kept.
    fn has(&self, name: Name, part: Part) -> bool;

    /// Nobody here needs any of it any more.
    fn forget(&mut self, name: Name);
}

/// Keeps parts in memory, up to so many bytes of artifacts; each has room for all of it, or is not begun.
#[derive(Debug)]
pub struct Memory {
    of: BTreeMap<(Name, Part), Arc<[u8]>>,
    open: BTreeSet<Name>,
    bytes: u64,
    bytes_max: u64,
}

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new(bytes_max: u64) -> Memory {
        Memory { of: BTreeMap::new(), open: BTreeSet::new(), bytes: 0, bytes_max }
    }
}

impl Store for Memory {
    fn open(&mut self, name: Name) -> Result<(), Full> {
        if self.open.contains(&name) {
            return Ok(());
        }
        let bytes = self.bytes.saturating_add(name.size);
        if bytes > self.bytes_max {
            return Err(Full);
        }
        self.bytes = bytes;
        self.open.insert(name);
        Ok(())
    }

    fn put(&mut self, name: Name, part: Part, bytes: Arc<[u8]>) -> Result<(), Full> {
        if !self.open.contains(&name) {
            return Err(Full);
        }
        self.of.entry((name, part)).or_insert(bytes);
        Ok(())
    }

    fn get(&self, name: Name, part: Part) -> Option<Arc<[u8]>> {
        self.of.get(&(name, part)).cloned()
    }

    fn has(&self, name: Name, part: Part) -> bool {
        self.of.contains_key(&(name, part))
    }

    fn forget(&mut self, name: Name) {
        let of_it = (name, Part::Whole)..=(name, Part::Piece { index: u32::MAX });
        let parts: alloc::vec::Vec<_> = self.of.range(of_it).map(|(key, _)| *key).collect();
        for key in parts {
            self.of.remove(&key);
        }
        if self.open.remove(&name) {
            self.bytes -= name.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ArtifactId, BTreeSet, Memory, Name, Part, Store as _, Topic, TopicHash};

    #[test]
    fn of_many_topics_none_has_the_hash_of_another_and_what_is_kept_for_one_is_not_for_another() {
        let topics = (0..1_000).map(|n| TopicHash::of(&Topic::new(&alloc::format!("block.{n}")).unwrap()));
        let topics: BTreeSet<TopicHash> = topics.collect();
        for topic in &topics {
            assert_eq!(TopicHash::of_digits(&alloc::format!("{topic}")), Some(*topic));
        }
        assert_eq!(TopicHash::of_digits("0123"), None);
        assert_eq!(topics.len(), 1_000);
        let (id, size) = (ArtifactId([7; 32]), 10);
        let mut names = topics.into_iter().map(|topic| Name { id, size, topic });
        let (one, other) = (names.next().unwrap(), names.next().unwrap());
        let mut store = Memory::new(20);
        store.open(one).unwrap();
        store.open(other).unwrap();
        store.put(one, Part::Tree, [1; 10][..].into()).unwrap();
        assert!(store.has(one, Part::Tree) && !store.has(other, Part::Tree));
        store.forget(other);
        assert!(store.get(one, Part::Tree).is_some() && store.get(other, Part::Tree).is_none());
    }
}
