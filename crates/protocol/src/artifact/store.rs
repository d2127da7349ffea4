//! Where pieces of artifacts are kept: in memory, or on a disk, as whoever runs the machine likes.
//!
//! Only checked bytes are put here, by their name and part, and they are given to others as they were put. The machine keeps none of them.
//!
//! Invariant: what is got is what was put, or nothing.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::fmt;

use busway_wire::gossip::{ArtifactId, Part};

/// An artifact by its id and its size. Who offers says both, and may lie: of two sizes of one id one is so at most, and neither is believed before all of it is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// BLAKE3 of its bytes.
    pub id: ArtifactId,
    /// How many bytes it has.
    pub size: u64,
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
