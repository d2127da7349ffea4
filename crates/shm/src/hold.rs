//! Which of a row's hold words are in use, and how much a process may hold.
//!
//! The words themselves lie in shared memory and say which chunk is held; which word is free is this process's own
//! affair. A sample may be released by any thread.
//!
//! Invariant: a hold word is written by the one sample that took it: chunk, then zero. A word is taken again only
//! after its zero was stored.

use busway_wire::limits::{HOLD_BYTES_MAX, HOLDS_MAX};

use crate::heap::CHUNK_BYTES_MAX;
use crate::slot::ChunkRef;
use crate::sync::{AtomicU64, Ordering};
use crate::view::Mapped;

/// What a process may hold at one moment, all rows together.
#[derive(Debug)]
pub struct HoldBudget {
    /// Bytes, and above them samples: one count for both.
    held: AtomicU64,
    high: AtomicU64,
    count_max: u64,
    bytes_max: u64,
}

/// Bits for the bytes: samples up to the byte budget and one larger, and as many again for those who ask in vain.
const BYTES_BITS: u32 = 40;
const _: () = assert!(HOLD_BYTES_MAX + CHUNK_BYTES_MAX < 1 << (BYTES_BITS - 4));

impl HoldBudget {
    /// A budget of `count_max` samples and `bytes_max` bytes of chunks; no more than publishers respect (`recycle`).
    pub fn new(count_max: u64, bytes_max: u64) -> Self {
        let zero = || AtomicU64::new(0);
        let (count_max, bytes_max) = (count_max.min(u64::from(HOLDS_MAX)), bytes_max.min(HOLD_BYTES_MAX));
        Self { held: zero(), high: zero(), count_max, bytes_max }
    }

    /// Takes a share. A single sample larger than the byte budget is allowed when nothing else is held.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        // Relaxed: the budget orders nothing.
        let before = self.held.fetch_add((1 << BYTES_BITS) + bytes, Ordering::Relaxed);
        let (count, held) = (before >> BYTES_BITS, before & ((1 << BYTES_BITS) - 1));
        if count >= self.count_max || (held > 0 && held + bytes > self.bytes_max) {
            self.give(bytes);
            return false;
        }
        if count >= self.high.load(Ordering::Relaxed) {
            self.high.fetch_max(count + 1, Ordering::Relaxed);
        }
        true
    }

    pub(crate) fn give(&self, bytes: u64) {
        self.held.fetch_sub((1 << BYTES_BITS) + bytes, Ordering::Relaxed);
    }

    /// Samples held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed) >> BYTES_BITS
    }

    /// The most samples held at one moment.
    pub fn high(&self) -> u64 {
        self.high.load(Ordering::Relaxed)
    }
}

/// A row's hold words and which of them are free.
#[derive(Debug)]
pub(crate) struct HoldWords {
    words: Mapped<[AtomicU64]>,
    used: Box<[AtomicU64]>,
}

impl HoldWords {
    pub(crate) fn new(words: Mapped<[AtomicU64]>) -> Self {
        for word in words.iter() {
            word.store(0, Ordering::Relaxed);
        }
        let used = (0..words.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { words, used }
    }

    /// Stores a hold of `chunk` in a free word. The caller fences and looks at the slot again.
    pub(crate) fn take(&self, chunk: ChunkRef) -> Option<u32> {
        for (group, used) in self.used.iter().enumerate() {
            let mut seen = used.load(Ordering::Relaxed);
            while seen != u64::MAX {
                let bit = seen.trailing_ones();
                let at = group * 64 + bit as usize;
                // The last word is the one for copying.
                let word = self.words.get(at).filter(|_| at + 1 < self.words.len())?;
                // Acquire pairs with Release in `give`: the zero was stored before the bit was cleared.
                match used.compare_exchange_weak(
                    seen,
                    seen | (1 << bit),
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        word.store(chunk.hold_word(), Ordering::Release); // pairs with Acquire in `recycle`
                        return Some(at as u32);
                    }
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Holds `chunk` in the word that is kept for copying. Only the reader's own thread does this, for as long as the
    /// copy takes.
    pub(crate) fn borrow(&self, chunk: ChunkRef) {
        if let Some(word) = self.words.last() {
            word.store(chunk.hold_word(), Ordering::Release); // pairs with Acquire in `recycle`
        }
    }

    /// Ends [`HoldWords::borrow`].
    pub(crate) fn unborrow(&self) {
        if let Some(word) = self.words.last() {
            word.store(0, Ordering::Release); // pairs with Acquire in `recycle`
        }
    }

    /// Ends a hold, after the last read of the chunk.
    pub(crate) fn give(&self, at: u32) {
        let (group, bit) = (at as usize / 64, at % 64);
        if let (Some(word), Some(used)) = (self.words.get(at as usize), self.used.get(group)) {
            word.store(0, Ordering::Release); // pairs with Acquire in `recycle`
            used.fetch_and(!(1 << bit), Ordering::Release); // pairs with Acquire in `take`
        }
    }
}
