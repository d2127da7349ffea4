//! The tables of an arena, one's own or a peer's: where an entry or a chunk lies.
//!
//! Of a peer's arena only the header is mapped until something else is asked for (`window`). Reading is all that happens here; what entries mean is in `layout`, who may write them in the head of `arena`.
//!
//! Invariant: no number that stands in an arena becomes a reference before it is checked against the file's size.

use std::sync::OnceLock;

use crate::error::ShmError;
use crate::fork::PrivateFd;
use crate::heap::CHUNK_BYTES_MAX;
use crate::layout::{
    ArenaHeader, COUNTERS_AT, CounterPage, EXTENTS_AT, EXTENTS_MAX, ExtentEntry, HEADS_AT, NAME_BYTES,
    RINGS_AT, RINGS_MAX, ROWS_AT, ROWS_MAX, RingEntry, RowEntry, SEATS_AT, SEATS_MAX, SeatEntry,
};
use crate::life::{self, Life};
use crate::slot::ChunkRef;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::memfd::{self, Shared};
use crate::view::{Mapped, Payload, Region};
use crate::window::Windows;

use super::FLAG_LEFT;

/// Tables that can be read in any arena, one's own or a peer's.
///
/// Of a peer's only the header is mapped until something else is asked for: what cannot be mapped then is not there.
#[derive(Debug)]
pub struct Tables {
    header: Mapped<ArenaHeader>,
    counters: Mapped<CounterPage>,
    parts: OnceLock<Parts>,
    arena: Windows,
    bulk: Windows,
    /// The files of a process of another user, whose chunks are copied and never looked at in a mapping: the memory that
    /// a look takes where there is none yet is charged to who looks.
    files: Option<Files>,
}

#[derive(Debug)]
pub(super) struct Files {
    pub(super) arena: PrivateFd,
    pub(super) bulk: PrivateFd,
}

/// The tables behind the header, all in the first window of the arena.
#[derive(Debug)]
struct Parts {
    extents: Mapped<[ExtentEntry]>,
    heads: Mapped<[AtomicU64]>,
    rings: Mapped<[RingEntry]>,
    rows: Mapped<[RowEntry]>,
    seats: Mapped<[SeatEntry]>,
}

impl Parts {
    fn map(arena: &Windows) -> Result<Self, ShmError> {
        Ok(Self {
            extents: arena.slice(EXTENTS_AT, u64::from(EXTENTS_MAX))?,
            heads: arena.slice(HEADS_AT, u64::from(RINGS_MAX))?,
            rings: arena.slice(RINGS_AT, u64::from(RINGS_MAX))?,
            rows: arena.slice(ROWS_AT, u64::from(ROWS_MAX))?,
            seats: arena.slice(SEATS_AT, u64::from(SEATS_MAX))?,
        })
    }
}

impl Tables {
    pub(super) fn new(arena: Windows, bulk: Windows, files: Option<Files>) -> Result<Self, ShmError> {
        let (header, counters) = (arena.seed().get(0)?, arena.seed().get(COUNTERS_AT)?);
        Ok(Self { header, counters, parts: OnceLock::new(), arena, bulk, files })
    }

    #[inline]
    fn parts(&self) -> Option<&Parts> {
        self.parts.get().or_else(|| self.map_parts())
    }

    #[cold]
    fn map_parts(&self) -> Option<&Parts> {
        let parts = Parts::map(&self.arena).ok()?;
        Some(self.parts.get_or_init(|| parts))
    }

    /// The first page.
    pub fn header(&self) -> &ArenaHeader {
        &self.header
    }

    /// What the process has counted.
    pub fn counters(&self) -> &CounterPage {
        &self.counters
    }

    /// What the owner's life word and flags say: one that has left and holds samples is closed, until it dies.
    pub fn life(&self) -> Life {
        let life = life::read(&self.header.life.word);
        // pairs with Release in `OwnArena::leave`
        let left = life == Life::Alive && self.header.flags.load(Ordering::Acquire) & FLAG_LEFT != 0;
        if left { Life::Closed } else { life }
    }

    /// Entry `index` of the ring table.
    pub fn ring(&self, index: u32) -> Option<&RingEntry> {
        self.parts()?.rings.get(index as usize)
    }

    /// Entry `index` of the row table.
    pub fn row(&self, index: u32) -> Option<&RowEntry> {
        self.parts()?.rows.get(index as usize)
    }

    /// Entry `index` of the seat table.
    pub fn seat(&self, index: u32) -> Option<&SeatEntry> {
        self.parts()?.seats.get(index as usize)
    }

    /// The head of ring `index`: the sequence of the last message published.
    pub fn head(&self, index: u32) -> Option<&AtomicU64> {
        self.parts()?.heads.get(index as usize)
    }

    /// The arena file's memory.
    pub fn arena(&self) -> &Windows {
        &self.arena
    }

    /// Bytes of addresses that are taken for the two files, beyond their first pages.
    pub fn mapped_bytes(&self) -> u64 {
        self.arena.mapped_bytes() + self.bulk.mapped_bytes()
    }

    /// A checked pointer to a `T` in the arena file.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`].
    pub fn at<T: Shared>(&self, offset: u64) -> Result<Mapped<T>, ShmError> {
        self.arena.get(offset)
    }

    /// Where a chunk lies: bulk or not, offset and size, checked against the file's size.
    pub fn resolve(&self, chunk: ChunkRef) -> Option<ChunkPlace> {
        let entry = self.parts()?.extents.get(chunk.extent() as usize)?;
        // Relaxed: the entry was written before the slot that names it was stored with release.
        let count = entry.count.load(Ordering::Relaxed);
        let bytes = entry.chunk_bytes.load(Ordering::Relaxed);
        let first = entry.offset.load(Ordering::Relaxed);
        // Every honest chunk begins and ends on a cache line, and typed samples rely on it.
        let aligned = bytes.is_multiple_of(64) && first.is_multiple_of(64);
        if chunk.index() >= count || !aligned || bytes == 0 || bytes > CHUNK_BYTES_MAX {
            return None;
        }
        let bulk = entry.bulk.load(Ordering::Relaxed) == 1;
        let offset = first.checked_add(bytes.checked_mul(u64::from(chunk.index()))?)?;
        self.file(bulk).contains(offset, bytes).then_some(ChunkPlace { bulk, offset, bytes })
    }

    /// The first `bytes` bytes of a chunk: where they are, or a copy where their owner is another user.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`]; [`ShmError::AddressSpace`]; [`ShmError::Memory`] where there is none for a copy.
    pub fn chunk_bytes(&self, place: ChunkPlace, bytes: u64) -> Result<Payload, ShmError> {
        if bytes > place.bytes {
            return Err(ShmError::OutOfBounds { offset: place.offset, len: bytes, size: place.bytes });
        }
        if let Some(files) = &self.files {
            let file = if place.bulk { &files.bulk } else { &files.arena };
            return memfd::read(file, place.offset, bytes).map(Payload::of_copy);
        }
        self.file(place.bulk).bytes(place.offset, bytes)
    }

    /// A chunk of our own or of a process of our user, to be looked at while it is held; `None` of another user's.
    #[inline]
    pub(crate) fn chunk_shown(&self, place: ChunkPlace) -> Option<&[u8]> {
        if self.files.is_some() {
            return None;
        }
        self.file(place.bulk).window(place.offset, place.bytes).ok()?.shown(place.offset, place.bytes)
    }

    fn file(&self, bulk: bool) -> &Windows {
        if bulk { &self.bulk } else { &self.arena }
    }

    /// All of one of our own files, which are mapped whole; the first pages of a peer's.
    pub(crate) fn region(&self, bulk: bool) -> &Region {
        self.file(bulk).seed()
    }

    pub(crate) fn extents(&self) -> &[ExtentEntry] {
        self.parts().map_or(&[], |parts| &parts.extents)
    }

    /// The owner's name. What would move a terminal's cursor or colour a log is replaced.
    pub fn name(&self) -> String {
        let header = self.header();
        let len = (header.name_bytes.load(Ordering::Relaxed) as usize).min(NAME_BYTES);
        let shown =
            |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
        text(&header.name, len).chars().map(shown).collect()
    }

    /// The topic's name that ring `index` carries; `None` where what stands there is not a name.
    pub fn ring_topic(&self, index: u32) -> Option<busway_wire::Topic> {
        let entry = self.ring(index)?;
        let len = entry.topic_bytes.load(Ordering::Relaxed) as usize;
        if len > 255 {
            return None;
        }
        busway_wire::Topic::new(&text(&entry.name, len)).ok()
    }
}

/// Where a chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkPlace {
    /// In the bulk file.
    pub bulk: bool,
    /// Byte offset in its file.
    pub offset: u64,
    /// Bytes of the chunk, header and payload.
    pub bytes: u64,
}

fn text(words: &[AtomicU64], len: usize) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).take(len).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn store_text(words: &[AtomicU64], bytes: &[u8]) {
    let mut parts = bytes.chunks(8);
    for word in words {
        let mut padded = [0; 8];
        if let Some(part) = parts.next() {
            padded[..part.len()].copy_from_slice(part);
        }
        word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
    }
}
