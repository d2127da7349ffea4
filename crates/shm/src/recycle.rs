//! When a chunk may be used again.
//!
//! A chunk that left the ring goes to the retired list. One fence then serves a whole batch: after it, every hold
//! word of every seat is looked at, two seats a publish, and what nobody holds is free. What is held waits for the
//! next batch. This is the publisher's half of the hold protocol; the subscriber's half is in `row`.
//!
//! Invariant (loom: `a_held_chunk_is_never_recycled`): a slot is overwritten, then its chunk is retired, then the
//! fence, then the scan. A subscriber stores its hold, fences, and looks at the slot again. Whichever fence comes
//! second sees what the other side stored before its own, so either the scan sees the hold or the subscriber sees
//! that the slot has changed. A process is believed to hold what an honest one may hold, and no more.

use busway_wire::ProcessId;
use busway_wire::limits::{HOLD_BYTES_MAX, HOLD_COPY_BYTES_MAX, HOLDS_MAX};

use crate::arena::OwnArena;
use crate::seat::{RingShared, Seat};
use crate::slot::ChunkRef;
use crate::sync::{Ordering, fence};

/// A batch is begun when this many chunks are retired.
const BATCH: usize = 256;
/// ... or when the retired chunks are this many bytes: a fence and a scan are small beside copying a megabyte.
const BATCH_BYTES: u64 = 1 << 20;
/// Seats looked at in one publish, and their hold words: what an honest pair of rows has.
const SEATS_A_STEP: usize = 2;
const WORDS_A_STEP: usize = 64;
/// A loan that finds its store empty looks at all seats when this many chunks were retired since the last batch.
const LOOK_AFTER: usize = 32;
/// Chunks of one size that a publisher keeps for itself before it gives some back.
const STORE_MAX: usize = 512;
/// Of small ones as many as are this many bytes: what comes back at once, and is wanted again.
const STORE_BYTES: u64 = 512 << 10;
/// Chunks fetched at a time, in count and in bytes.
const FETCH: usize = 16;
const FETCH_BYTES: u64 = 256 << 10;

/// How much of the seats a step looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LookAt {
    /// As much as one publish can bear.
    Few,
    /// All that is left.
    All,
}

/// A chunk and its size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Sized {
    pub(crate) chunk: ChunkRef,
    pub(crate) class: u64,
}

/// Chunks of `class` bytes that a publisher keeps for itself.
fn store_most(class: u64) -> usize {
    if class >= crate::heap::BULK_BYTES { 2 } else { STORE_MAX.max((STORE_BYTES / class) as usize) }
}

/// Chunks of one size that a publisher has at hand: room for as many as it keeps, so that none of what comes back
/// is an allocation.
#[derive(Debug)]
struct Store {
    class: u64,
    free: Vec<ChunkRef>,
}

/// A publisher's chunks outside its ring.
#[derive(Debug, Default)]
pub(crate) struct Recycler {
    stores: Vec<Store>,
    retired: Vec<Sized>,
    retired_bytes: u64,
    /// Of the retired ones: those that the last batch found held.
    kept: usize,
    kept_bytes: u64,
    batch: Vec<Sized>,
    /// Whether the batch is in order: from the first hold on that is looked for in it.
    sorted: bool,
    held: Vec<bool>,
    shares: Vec<Share>,
    next_seat: usize,
    next_word: usize,
    version: u64,
}

/// What one process has been found to hold of the batch.
#[derive(Debug)]
struct Share {
    process: ProcessId,
    count: usize,
    bytes: u64,
}

/// What a publisher leaves behind: chunks that rows may still read, and those that nobody can.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) chunks: Vec<Sized>,
}

impl Remains {
    /// Gives everything back. The last row has closed, so nobody reads any of it.
    pub(crate) fn give_back(mut self, own: &OwnArena) {
        self.chunks.sort_by_key(|sized| sized.class);
        for run in self.chunks.chunk_by(|a, b| a.class == b.class) {
            own.give_left_chunks(run[0].class, run.iter().map(|sized| sized.chunk));
        }
    }
}

impl Recycler {
    /// Makes room for `chunks` chunks of a ring beside those of a batch, so that retiring them allocates nothing.
    pub(crate) fn expect_chunks(&mut self, chunks: usize) {
        let most = chunks + BATCH;
        for list in [&mut self.retired, &mut self.batch] {
            list.reserve_exact(most.saturating_sub(list.len()));
        }
        self.held.reserve_exact(most.saturating_sub(self.held.len()));
    }

    /// Makes room for as many processes that hold something: the first may be found after hours.
    pub(crate) fn expect_seats(&mut self, seats: usize) {
        self.shares.reserve(seats);
    }

    /// A free chunk of `class` bytes, if one is at hand.
    #[inline]
    pub(crate) fn take(&mut self, class: u64) -> Option<ChunkRef> {
        self.stores.iter_mut().find(|store| store.class == class)?.free.pop()
    }

    /// Fetches chunks of `class` bytes from the process's heap.
    pub(crate) fn fetch(&mut self, own: &OwnArena, class: u64) -> Result<(), crate::error::ShmError> {
        let count = ((FETCH_BYTES / class) as usize).clamp(1, FETCH);
        let store = self.store(class);
        own.take_chunks(class, count, &mut store.free)
    }

    fn store(&mut self, class: u64) -> &mut Store {
        let at = self.stores.iter().position(|store| store.class == class).unwrap_or_else(|| {
            self.stores.push(Store { class, free: Vec::with_capacity(store_most(class) + 1) });
            self.stores.len() - 1
        });
        &mut self.stores[at]
    }

    /// Puts back a chunk that no slot ever named.
    pub(crate) fn put_back(&mut self, sized: Sized) {
        self.store(sized.class).free.push(sized.chunk);
    }

    /// Takes a chunk whose slot has been overwritten.
    #[inline]
    pub(crate) fn retire(&mut self, sized: Sized) {
        self.retired.push(sized);
        self.retired_bytes += sized.class;
    }

    /// Whether a step has anything to do.
    #[inline]
    pub(crate) fn busy(&self) -> bool {
        !self.batch.is_empty() || self.fresh() >= BATCH || self.fresh_bytes() >= BATCH_BYTES
    }

    /// Whether so much was retired since the last batch that looking at all seats may well be worth it.
    pub(crate) fn worth_a_look(&self) -> bool {
        !self.batch.is_empty() || self.fresh() >= LOOK_AFTER || self.fresh_bytes() >= BATCH_BYTES
    }

    fn fresh(&self) -> usize {
        self.retired.len() - self.kept
    }

    fn fresh_bytes(&self) -> u64 {
        self.retired_bytes - self.kept_bytes
    }

    /// Looks at the next seats, or begins a batch. `seats` is the publisher's copy, at `version`.
    pub(crate) fn step(&mut self, shared: &RingShared, seats: &[Seat], version: u64, look: LookAt) {
        if self.batch.is_empty() {
            self.begin();
        }
        // The list must be the one that was current after the fence: the caller refreshed it.
        if version != self.version {
            self.version = version;
            self.restart();
        }
        let (mut seats_left, mut words_left) = match look {
            LookAt::Few => (SEATS_A_STEP, WORDS_A_STEP),
            LookAt::All => (usize::MAX, usize::MAX),
        };
        while let Some(seat) = seats.get(self.next_seat).filter(|_| seats_left > 0 && words_left > 0) {
            let end = self.next_word.saturating_add(words_left).min(seat.holds.len());
            self.look(seat, self.next_word..end, seats.len());
            words_left -= end - self.next_word;
            self.next_word = end;
            if end == seat.holds.len() {
                (self.next_seat, self.next_word) = (self.next_seat + 1, 0);
                seats_left -= 1;
            }
        }
        if let Some(next) = seats.get(self.next_seat) {
            let _ = next.row.key.load(Ordering::Relaxed); // brings the line in before it is needed
        }
        if self.next_seat >= seats.len() && version == shared.version() {
            self.finish(shared.own());
        }
    }

    /// Begins a batch, if there is anything to look at: the fence of the file head.
    pub(crate) fn begin(&mut self) {
        if self.batch.is_empty() && !self.retired.is_empty() {
            std::mem::swap(&mut self.batch, &mut self.retired);
            (self.retired_bytes, self.kept, self.kept_bytes) = (0, 0, 0);
            self.sorted = false;
            self.restart();
            fence(Ordering::SeqCst); // pairs with the fence in `row::hold`
        }
    }

    fn restart(&mut self) {
        self.held.clear();
        self.held.resize(self.batch.len(), false);
        self.shares.clear();
        (self.next_seat, self.next_word) = (0, 0);
    }

    /// Whether a batch has been begun.
    pub(crate) fn begun(&self) -> bool {
        !self.batch.is_empty()
    }

    fn look(&mut self, seat: &Seat, words: std::ops::Range<usize>, seats: usize) {
        if seat.dead() {
            return;
        }
        for word in &seat.holds[words] {
            let word = word.load(Ordering::Acquire); // pairs with Release in `row`
            if word == 0 {
                continue;
            }
            let Some(chunk) = ChunkRef::from_hold_word(word) else { continue };
            if !std::mem::replace(&mut self.sorted, true) {
                // None of it was found held so far: the marks need not move with it.
                self.batch.sort_unstable();
            }
            let Ok(at) = self.batch.binary_search_by_key(&chunk, |sized| sized.chunk) else { continue };
            if !self.held[at] {
                self.held[at] = self.charge(seat.peer.process(), self.batch[at].class, seats);
            }
        }
    }

    /// Whether a process may hold one chunk more. An honest one holds no more than its `HoldBudget`, and one chunk
    /// for each row that is taking at this moment. Twice that is respected, because a scan is not one moment. What a
    /// process claims beyond is freed: its own reads may then be garbage, and our memory stays bounded.
    fn charge(&mut self, process: ProcessId, bytes: u64, seats: usize) -> bool {
        let at = self.shares.iter().position(|share| share.process == process).unwrap_or_else(|| {
            self.shares.push(Share { process, count: 0, bytes: 0 });
            self.shares.len() - 1
        });
        let share = &mut self.shares[at];
        let bytes_max = 2 * HOLD_BYTES_MAX + seats as u64 * HOLD_COPY_BYTES_MAX as u64;
        // The bytes before this one: a single sample may be larger than the budget.
        if share.count >= 2 * HOLDS_MAX as usize + seats || share.bytes > bytes_max {
            return false;
        }
        share.count += 1;
        share.bytes += bytes;
        true
    }

    fn finish(&mut self, own: &OwnArena) {
        let mut batch = std::mem::take(&mut self.batch);
        let held = std::mem::take(&mut self.held);
        for (sized, held) in batch.drain(..).zip(&held) {
            if *held {
                self.kept += 1;
                self.kept_bytes += sized.class;
                self.retire(sized);
            } else {
                self.free(own, sized);
            }
        }
        // Both keep their memory for the next batch: nothing is allocated in the steady state.
        self.batch = batch;
        self.held = held;
    }

    fn free(&mut self, own: &OwnArena, sized: Sized) {
        let most = store_most(sized.class);
        let store = self.store(sized.class);
        store.free.push(sized.chunk);
        if store.free.len() > most {
            own.give_chunks(sized.class, store.free.drain(most / 2..));
        }
    }

    /// Whether chunks wait to be free.
    pub(crate) fn waits(&self) -> bool {
        !self.retired.is_empty() || !self.batch.is_empty()
    }

    /// Gives the free chunks of other sizes than `class` back to the heap, where memory is short.
    pub(crate) fn give_back_others(&mut self, own: &OwnArena, class: u64) {
        for store in self.stores.iter_mut().filter(|store| store.class != class) {
            own.give_chunks(store.class, store.free.drain(..));
        }
    }

    /// Chunks that are free here, and chunks that are retired.
    pub(crate) fn census(&self) -> (u64, u64) {
        let free = self.stores.iter().map(|store| store.free.len() as u64).sum();
        (free, (self.retired.len() + self.batch.len()) as u64)
    }

    /// Gives back what is free, and hands over what rows may still read.
    pub(crate) fn close(mut self, own: &OwnArena) -> Remains {
        for store in &mut self.stores {
            own.give_chunks(store.class, store.free.drain(..));
        }
        let mut chunks = self.retired;
        chunks.append(&mut self.batch);
        Remains { chunks }
    }
}
