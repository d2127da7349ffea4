//! Who has which part of our own arena: table entries, pages for slots, chunks for payloads.
//!
//! All of it is private bookkeeping behind one lock that the data path takes only when a publisher's own store of
//! chunks is empty or too full. What other processes see (the extent table, the `*_used` bounds) is written here.
//! It never decides when a chunk is free: `recycle` does.
//!
//! Invariant: a chunk, page or entry is in exactly one place: free here, or with the one who took it. Chunks of
//! one extent have one size for ever, so that an offset read by a slow reader stays inside its chunk.

use std::collections::BTreeMap;

use crate::arena::OwnArena;
use crate::error::ShmError;
use crate::layout::{
    EXTENTS_MAX, HEAP_AT, HUGE, PAGE, RINGS_AT, RINGS_MAX, ROWS_AT, ROWS_MAX, RingEntry, RowEntry, SEATS_AT,
    SEATS_MAX, SeatEntry,
};
use crate::marks::GROUP;
use crate::slot::ChunkRef;
use crate::sync::Ordering;

/// Chunks of this size and more lie in the bulk file, whose pages can be given back.
pub const BULK_BYTES: u64 = 1 << 20;
/// Rings whose marks lie in one page.
const RINGS_A_MARK_PAGE: u32 = PAGE as u32 / 8 * GROUP;
/// Largest chunk: header and 1 GiB of payload.
pub const CHUNK_BYTES_MAX: u64 = 5 << 28;
/// Bulk chunks that are free and still backed, at most this much: a sender of frames keeps its working set.
const BULK_KEPT_BYTES: u64 = 64 << 20;
/// First extent of a size: small, because most processes send few sizes.
const EXTENT_BYTES_FIRST: u64 = 64 << 10;
/// Later extents double up to this.
const EXTENT_BYTES_MAX: u64 = 8 << 20;

/// Which table an entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Table {
    /// Rings.
    Ring,
    /// Rows.
    Row,
    /// Seats.
    Seat,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Ring => "of rings",
            Self::Row => "of rows",
            Self::Seat => "of seats",
        }
    }
}

#[derive(Debug, Default)]
struct Entries {
    used: u32,
    free: Vec<u32>,
    backed: u64,
}

/// The chunks of one size. Both lists have room for all of them, so that giving back allocates nothing.
#[derive(Debug, Default)]
struct Class {
    free: Vec<ChunkRef>,
    unbacked: Vec<ChunkRef>,
    extents: u32,
    chunks: usize,
}

/// The bookkeeping of an arena's owner.
#[derive(Debug)]
pub struct Heap {
    bytes: u64,
    next: u64,
    next_bulk: u64,
    pages: BTreeMap<u64, Vec<u64>>,
    classes: BTreeMap<u64, Class>,
    extents: u32,
    rings: Entries,
    rows: Entries,
    seats: Entries,
    bulk_free_bytes: u64,
    /// Chunks of publishers that are gone, which rows may still read.
    left: u64,
}

impl Heap {
    /// The heap of an arena of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            next: HEAP_AT,
            next_bulk: 0,
            pages: BTreeMap::new(),
            classes: BTreeMap::new(),
            extents: 0,
            rings: Entries::default(),
            rows: Entries::default(),
            seats: Entries::default(),
            bulk_free_bytes: 0,
            left: 0,
        }
    }

    fn entries(&mut self, table: Table) -> &mut Entries {
        match table {
            Table::Ring => &mut self.rings,
            Table::Row => &mut self.rows,
            Table::Seat => &mut self.seats,
        }
    }
}

/// The size of the chunk for `bytes` bytes: four sizes in every doubling, from 256 bytes.
pub fn class_bytes(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let power = u64::BITS - 1 - bytes.leading_zeros();
    let step = (1_u64 << power) / 4;
    bytes.div_ceil(step) * step
}

impl OwnArena {
    /// Takes an entry of a table.
    ///
    /// # Errors
    /// [`ShmError::TableFull`], or what the budget or the kernel says.
    pub fn take_entry(&self, table: Table) -> Result<u32, ShmError> {
        let (at, size, max) = match table {
            Table::Ring => (RINGS_AT, size_of::<RingEntry>() as u64, RINGS_MAX),
            Table::Row => (ROWS_AT, size_of::<RowEntry>() as u64, ROWS_MAX),
            Table::Seat => (SEATS_AT, size_of::<SeatEntry>() as u64, SEATS_MAX),
        };
        let mut heap = self.heap();
        let entries = heap.entries(table);
        if let Some(index) = entries.free.pop() {
            return Ok(index);
        }
        if entries.used >= max {
            return Err(ShmError::TableFull { table: table.name(), entries: max });
        }
        let index = entries.used;
        let end = (u64::from(index) + 1) * size;
        if end > entries.backed {
            // 64 KiB at a time: a system call for every few dozen entries, and none of them wasted for long.
            let wanted = (64 << 10).min(u64::from(max) * size - entries.backed).max(end - entries.backed);
            self.commit(false, at + entries.backed, wanted)?;
            entries.backed += wanted;
        }
        if table == Table::Ring && index.is_multiple_of(512) {
            self.commit(false, crate::layout::HEADS_AT + u64::from(index) * 8, PAGE)?;
        }
        // The first group has no mark: a process of few rings has no page for them.
        if table == Table::Ring && (index == GROUP || (index > 0 && index.is_multiple_of(RINGS_A_MARK_PAGE)))
        {
            let page = u64::from(index / RINGS_A_MARK_PAGE) * PAGE;
            self.commit(false, crate::layout::MARKS_AT + page, PAGE)?;
        }
        entries.used += 1;
        let used = entries.used;
        let header = self.tables().header();
        let bound = match table {
            Table::Ring => &header.rings_used,
            Table::Row => &header.rows_used,
            Table::Seat => &header.seats_used,
        };
        bound.store(used, Ordering::Release); // pairs with Acquire in `inspect`
        Ok(index)
    }

    /// Gives an entry back. Its `key` says FREE already.
    pub fn give_entry(&self, table: Table, index: u32) {
        self.heap().entries(table).free.push(index);
    }

    /// Takes whole pages of the arena file. `bytes` is a power of two of at least a page.
    ///
    /// # Errors
    /// [`ShmError::ArenaFull`], or what the budget or the kernel says.
    pub fn take_pages(&self, bytes: u64) -> Result<u64, ShmError> {
        let mut heap = self.heap();
        if let Some(offset) = heap.pages.get_mut(&bytes).and_then(Vec::pop) {
            return Ok(offset);
        }
        // Rings are coloured: a ring's first slot of interest differs in cache set from its neighbour's because
        // consecutive runs of one page follow each other.
        let offset = heap.next;
        if offset + bytes > heap.bytes {
            return Err(ShmError::ArenaFull { bytes: heap.bytes });
        }
        self.commit(false, offset, bytes)?;
        heap.next += bytes;
        Ok(offset)
    }

    /// Gives pages back.
    pub fn give_pages(&self, offset: u64, bytes: u64) {
        self.heap().pages.entry(bytes).or_default().push(offset);
    }

    /// Moves up to `count` chunks of `class` bytes (a value of [`class_bytes`]) to `into`; at least one, or an error.
    ///
    /// # Errors
    /// [`ShmError::ArenaFull`], [`ShmError::Budget`], or what the kernel refused.
    pub fn take_chunks(&self, class: u64, count: usize, into: &mut Vec<ChunkRef>) -> Result<(), ShmError> {
        let mut heap = self.heap();
        let heap = &mut *heap;
        let bulk = class >= BULK_BYTES;
        let known = heap.classes.entry(class).or_default();
        let kept = known.free.len().saturating_sub(count);
        if known.free.len() > kept {
            let taken = known.free.len() - kept;
            into.extend(known.free.drain(kept..));
            if bulk {
                heap.bulk_free_bytes -= class * taken as u64;
            }
            return Ok(());
        }
        if let Some(&chunk) = known.unbacked.last() {
            let place = self.tables().resolve(chunk).ok_or(ShmError::OutOfBounds {
                offset: 0,
                len: class,
                size: 0,
            })?;
            self.commit(true, place.offset, place.bytes)?;
            known.unbacked.pop();
            into.push(chunk);
            return Ok(());
        }
        self.new_extent(heap, class, bulk)?;
        let known = heap.classes.entry(class).or_default();
        let kept = known.free.len().saturating_sub(count.max(1));
        let taken = known.free.len() - kept;
        into.extend(known.free.drain(kept..));
        if bulk {
            heap.bulk_free_bytes -= class * taken as u64;
        }
        Ok(())
    }

    fn new_extent(&self, heap: &mut Heap, class: u64, bulk: bool) -> Result<(), ShmError> {
        if heap.extents >= EXTENTS_MAX {
            return Err(ShmError::TableFull { table: "of extents", entries: EXTENTS_MAX });
        }
        let known = heap.classes.entry(class).or_default();
        let aim = (EXTENT_BYTES_FIRST << known.extents.min(16)).min(EXTENT_BYTES_MAX);
        let mut count = if bulk { 1 } else { (aim / class).clamp(4, 4096) };
        let next = if bulk { &mut heap.next_bulk } else { &mut heap.next };
        let huge = bulk && class >= HUGE;
        if huge {
            // Holes take no memory, and what begins here can lie in huge pages.
            *next = next.next_multiple_of(HUGE);
        }
        let bytes = loop {
            let bytes = (count * class).div_ceil(PAGE) * PAGE;
            let full = Err(ShmError::ArenaFull { bytes: heap.bytes });
            let taken = if *next + bytes > heap.bytes { full } else { self.commit(bulk, *next, bytes) };
            match taken {
                Ok(()) => break bytes,
                // Near the end of a budget a few chunks are better than none.
                Err(_) if count > 4 => count = 4,
                Err(error) => return Err(error),
            }
        };
        if huge {
            // Who reads one byte in each of its small pages would walk the page tables for each of them.
            self.tables().region(true).mapping().gather(*next, bytes);
        }
        let index = heap.extents;
        let entry = self
            .tables()
            .extents()
            .get(index as usize)
            .ok_or(ShmError::TableFull { table: "of extents", entries: EXTENTS_MAX })?;
        entry.offset.store(*next, Ordering::Relaxed);
        entry.chunk_bytes.store(class, Ordering::Relaxed);
        entry.bulk.store(u32::from(bulk), Ordering::Relaxed);
        // Release orders the entry for whoever scans the table; a reader who comes by a slot is ordered by the slot.
        entry.count.store(count as u32, Ordering::Release);
        *next += bytes;
        heap.extents += 1;
        self.tables().header().extents_used.store(heap.extents, Ordering::Release);
        known.extents += 1;
        known.chunks += count as usize;
        known.free.reserve(known.chunks);
        if bulk {
            known.unbacked.reserve(known.chunks);
        }
        known.free.extend((0..count as u32).rev().filter_map(|chunk| ChunkRef::new(index, chunk)));
        if bulk {
            heap.bulk_free_bytes += bytes;
        }
        Ok(())
    }

    /// Gives chunks of one class back.
    pub fn give_chunks(&self, class: u64, chunks: impl Iterator<Item = ChunkRef>) {
        self.give_to(&mut self.heap(), class, chunks);
    }

    /// Notes that a publisher leaves `chunks` chunks behind, which rows may still read.
    pub(crate) fn leave_chunks(&self, chunks: usize) {
        self.heap().left += chunks as u64;
    }

    /// Gives back chunks of one class that a publisher had left behind.
    pub(crate) fn give_left_chunks(&self, class: u64, chunks: impl ExactSizeIterator<Item = ChunkRef>) {
        let mut heap = self.heap();
        heap.left = heap.left.saturating_sub(chunks.len() as u64);
        self.give_to(&mut heap, class, chunks);
    }

    fn give_to(&self, heap: &mut Heap, class: u64, chunks: impl Iterator<Item = ChunkRef>) {
        let known = heap.classes.entry(class).or_default();
        for chunk in chunks {
            if class >= BULK_BYTES {
                let over = heap.bulk_free_bytes + class > BULK_KEPT_BYTES;
                let place = self.tables().resolve(chunk);
                if over && place.is_some_and(|place| self.punch(place.offset, place.bytes).is_ok()) {
                    known.unbacked.push(chunk);
                    continue;
                }
                heap.bulk_free_bytes += class;
            }
            known.free.push(chunk);
        }
    }

    /// Chunks that exist, those that are free here, and those that publishers who are gone have left, for the check
    /// `free + left + ring + held + retired = pool`.
    pub(crate) fn chunks(&self) -> (u64, u64, u64) {
        let heap = self.heap();
        let all = self.tables().extents()[..heap.extents as usize]
            .iter()
            .map(|entry| u64::from(entry.count.load(Ordering::Relaxed)))
            .sum();
        let free = heap.classes.values().map(|class| (class.free.len() + class.unbacked.len()) as u64).sum();
        (all, free, heap.left)
    }

    /// Chunks that exist and chunks that are free here.
    pub fn census(&self) -> (u64, u64) {
        let (all, free, _) = self.chunks();
        (all, free)
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK_BYTES_MAX, class_bytes};

    #[test]
    fn a_class_holds_what_was_asked_for_and_wastes_at_most_a_quarter() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let shift = rng.u32(0..24);
            let bytes = rng.u64(1..CHUNK_BYTES_MAX >> shift);
            let class = class_bytes(bytes);
            assert!(class >= bytes && class.is_multiple_of(64), "{bytes} -> {class}");
            assert!(bytes < 256 || class - bytes <= bytes / 4, "{bytes} -> {class}");
            assert_eq!(class_bytes(class), class);
        }
    }
}
