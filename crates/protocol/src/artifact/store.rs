//! Where pieces of artifacts are kept: in memory, or on a disk, as whoever runs the machine likes.
//!
//! Only checked bytes are put here, by their name and part, and they are given to others as they were put. The machine keeps none of them.
//!
//! Invariant: what is got is what was put, or nothing.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;

use busway_wire::gossip::{ArtifactId, Part};

/// There is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Keeps checked parts of artifacts.
pub trait Store: fmt::Debug + Send {
    /// An artifact of so many bytes is needed from now on, until it is forgotten: its parts come, or are here already.
    ///
    /// # Errors
    /// [`Full`] where there is no room for all of it; then nothing of it is asked for.
    fn open(&mut self, id: ArtifactId, size: u64) -> Result<(), Full>;

    /// Keeps it.
    ///
    /// # Errors
    /// [`Full`] where there is no room; then nothing more of it is asked for.
    fn put(&mut self, id: ArtifactId, part: Part, bytes: Arc<[u8]>) -> Result<(), Full>;

    /// A part that is kept, all of it.
    fn get(&self, id: ArtifactId, part: Part) -> Option<Arc<[u8]>>;

    /// Whether a part is kept.
    fn has(&self, id: ArtifactId, part: Part) -> bool;

    /// Nobody here needs any of it any more.
    fn forget(&mut self, id: ArtifactId);
}

/// Keeps parts in memory, up to so many bytes.
#[derive(Debug)]
pub struct Memory {
    of: BTreeMap<(ArtifactId, Part), Arc<[u8]>>,
    bytes: u64,
    bytes_max: u64,
}

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new(bytes_max: u64) -> Memory {
        Memory { of: BTreeMap::new(), bytes: 0, bytes_max }
    }
}

impl Store for Memory {
    fn open(&mut self, _id: ArtifactId, _size: u64) -> Result<(), Full> {
        Ok(())
    }

    fn put(&mut self, id: ArtifactId, part: Part, bytes: Arc<[u8]>) -> Result<(), Full> {
        let size = bytes.len() as u64;
        if self.has(id, part) {
            return Ok(());
        }
        if self.bytes + size > self.bytes_max {
            return Err(Full);
        }
        self.bytes += size;
        self.of.insert((id, part), bytes);
        Ok(())
    }

    fn get(&self, id: ArtifactId, part: Part) -> Option<Arc<[u8]>> {
        self.of.get(&(id, part)).cloned()
    }

    fn has(&self, id: ArtifactId, part: Part) -> bool {
        self.of.contains_key(&(id, part))
    }

    fn forget(&mut self, id: ArtifactId) {
        let of_it = (id, Part::Whole)..=(id, Part::Piece { index: u32::MAX });
        let parts: alloc::vec::Vec<_> = self.of.range(of_it).map(|(key, _)| *key).collect();
        for key in parts {
            self.bytes -= self.of.remove(&key).map_or(0, |bytes| bytes.len() as u64);
        }
    }
}
