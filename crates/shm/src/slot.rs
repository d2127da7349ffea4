//! One entry of a ring: a word that names a message, and room for a small one.
//!
//! The word is `{sequence:40 | extent:12 | index:12}`; storing it publishes. A payload of at most
//! [`INLINE_BYTES`] lies in the slot itself and is read as a sequence lock: the writer first marks the slot
//! busy, the reader copies and then looks at the word again. A larger one lies in a chunk that the word names.
//! This module knows neither arenas nor files: it works on any `&Slot`, so that loom can check it on the heap.
//!
//! Invariant: one thread of one process writes a slot. A reader that sees the same word before and after its
//! copy has copied the message of exactly that sequence, or nothing.

use crate::sync::{AtomicU64, Ordering, fence};

/// Bytes of payload that lie in the slot itself.
pub const INLINE_BYTES: usize = 96;
/// Size of a slot: two cache lines, so that the adjacent-line prefetcher brings both.
pub const SLOT_BYTES: usize = 128;
const INLINE_WORDS: usize = INLINE_BYTES / 8;
/// Words of payload that share a cache line with the slot's word.
const FIRST_LINE_WORDS: usize = SLOT_BYTES / 16 - 4;
/// Bits of the sequence that a word carries; the reader's own cursor has all 64.
pub const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

/// Where the payload of a slot lies: a chunk of an extent, or one of the special marks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ChunkRef(u32);

impl ChunkRef {
    const SPECIAL_EXTENT: u32 = 4095;
    /// The payload is in the slot.
    pub const INLINE: Self = Self((Self::SPECIAL_EXTENT << 12) | 1);
    /// The message was given up before the slot was needed.
    pub const GONE: Self = Self((Self::SPECIAL_EXTENT << 12) | 2);
    /// The writer is at work.
    pub const BUSY: Self = Self((Self::SPECIAL_EXTENT << 12) | 3);

    /// The chunk `index` of `extent`; `None` where a number does not fit its 12 bits or names the special extent.
    pub fn new(extent: u32, index: u32) -> Option<Self> {
        (extent < Self::SPECIAL_EXTENT && index < 4096).then_some(Self((extent << 12) | index))
    }

    /// The extent's number.
    pub fn extent(self) -> u32 {
        self.0 >> 12
    }

    /// The chunk's number inside its extent.
    pub fn index(self) -> u32 {
        self.0 & 0xfff
    }

    /// Whether this is a mark and names no memory.
    pub fn is_special(self) -> bool {
        self.extent() == Self::SPECIAL_EXTENT
    }

    /// The word a subscriber stores to hold this chunk; never zero, because zero means "holds nothing".
    pub fn hold_word(self) -> u64 {
        u64::from(self.0) | (1 << 63)
    }

    /// The chunk that a hold word names; `None` for zero and for anything no honest subscriber writes.
    pub fn from_hold_word(word: u64) -> Option<Self> {
        if word >> 63 != 1 || word & !(1 << 63) > 0xff_ffff {
            return None;
        }
        let chunk = Self((word & 0xff_ffff) as u32);
        (!chunk.is_special()).then_some(chunk)
    }
}

/// What a small message carries beside its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InlineMeta {
    /// The publisher's clock, nanoseconds since 1970.
    pub time_ns: u64,
    /// Request or artifact slot, or 0.
    pub correlation: u64,
    /// Bytes of payload, at most [`INLINE_BYTES`].
    pub size: u32,
    /// The kind of the message, as in the 64-byte header.
    pub kind: u8,
    /// The flags of the message, as in the 64-byte header.
    pub flags: u8,
}

/// A small message, copied out of its slot.
#[derive(Clone, Copy, Debug)]
pub struct InlineMessage {
    /// Everything but the payload.
    pub meta: InlineMeta,
    words: [u64; INLINE_WORDS],
}

impl InlineMessage {
    /// A message without payload, to be written over.
    pub const EMPTY: Self = Self {
        meta: InlineMeta { time_ns: 0, correlation: 0, size: 0, kind: 0, flags: 0 },
        words: [0; INLINE_WORDS],
    };

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let bytes: &[u8] = zerocopy::IntoBytes::as_bytes(&self.words);
        &bytes[..(self.meta.size as usize).min(INLINE_BYTES)]
    }
}

/// What a look at a slot found.
#[derive(Debug)]
pub enum Look {
    /// The message waited for is not there yet.
    Empty,
    /// The slot already carries a later message.
    Lapped,
    /// The message was given up.
    Gone,
    /// A small message, already copied and checked.
    Inline(InlineMessage),
    /// A large message. It may be read only after a hold has been stored and [`Slot::still`] was true.
    Chunk(ChunkRef, SlotWord),
    /// The publisher wrote something no honest publisher writes.
    Corrupt,
}

/// What a look for a small message found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SmallLook {
    /// It was there and has been copied.
    Copied,
    /// It is not there yet.
    Empty,
    /// Something else, for which [`Slot::look`] must be asked.
    Other,
}

/// A slot's word as it was seen, to be compared later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotWord(u64);

/// One entry of a ring, as it lies in shared memory.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Slot {
    word: AtomicU64,
    time: AtomicU64,
    correlation: AtomicU64,
    shape: AtomicU64,
    payload: [AtomicU64; INLINE_WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == SLOT_BYTES);

#[inline]
fn word(sequence: u64, chunk: ChunkRef) -> u64 {
    ((sequence & SEQUENCE_MASK) << 24) | u64::from(chunk.0)
}

/// Whether a word is that of a slot which does not carry the message `sequence` yet, nor a later one.
#[inline]
fn is_before(seen: u64, sequence: u64) -> bool {
    let behind = sequence.wrapping_sub(seen >> 24) & SEQUENCE_MASK;
    behind.wrapping_sub(1) < 1 << (SEQUENCE_BITS - 1) || seen == word(sequence, ChunkRef::BUSY)
}

/// Whether a shape can be that of the small message `sequence`.
#[inline]
fn is_true(shape: u64, sequence: u64) -> bool {
    shape >> 48 == (sequence >> SEQUENCE_BITS) & 0xffff && shape & 0xffff_ffff <= INLINE_BYTES as u64
}

#[cfg(not(loom))]
impl Slot {
    /// Where the fields lie, for the test of FORMAT.md: word, time, correlation, shape, payload.
    pub const OFFSETS: [usize; 5] = [
        std::mem::offset_of!(Self, word),
        std::mem::offset_of!(Self, time),
        std::mem::offset_of!(Self, correlation),
        std::mem::offset_of!(Self, shape),
        std::mem::offset_of!(Self, payload),
    ];
}

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
#[expect(unsafe_code, reason = "the instruction has no safe wrapper")]
#[inline]
fn prefetch_line(line: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing and never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
}

#[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
fn prefetch_line(_: *const i8) {}

/// Asks for the two lines of a slot.
#[inline]
pub(crate) fn prefetch(slot: *const i8) {
    prefetch_line(slot);
    prefetch_line(slot.wrapping_add(LINE_BYTES));
}

/// Asks the processor to bring in all lines of a value, without waiting for them.
#[inline]
pub fn fetch<T>(value: &T) {
    fetch_first(value, size_of::<T>());
}

/// As [`fetch`], of a value that begins with a line, the lines of its first so many bytes.
#[inline]
pub fn fetch_first<T>(value: &T, bytes: usize) {
    let start = std::ptr::from_ref(value).cast::<i8>();
    for at in (0..bytes.min(size_of::<T>())).step_by(LINE_BYTES) {
        prefetch_line(start.wrapping_add(at));
    }
}

impl Slot {
    /// A slot outside shared memory, for tests and models.
    pub fn empty() -> Self {
        Self {
            word: AtomicU64::new(0),
            time: AtomicU64::new(0),
            correlation: AtomicU64::new(0),
            shape: AtomicU64::new(0),
            payload: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Publishes a small message. `payload` is at most [`INLINE_BYTES`]; what is beyond is not sent.
    #[inline]
    pub fn publish_inline(&self, sequence: u64, meta: &InlineMeta, payload: &[u8]) {
        debug_assert!(payload.len() <= INLINE_BYTES, "the caller chose the slot by the size");
        // Relaxed, then a release fence: a reader that sees any of the new bytes sees the busy word on its
        // second look (pairs with the acquire fence in `look`).
        self.word.store(word(sequence, ChunkRef::BUSY), Ordering::Relaxed);
        fence(Ordering::Release);
        self.time.store(meta.time_ns, Ordering::Relaxed);
        self.correlation.store(meta.correlation, Ordering::Relaxed);
        let high = (sequence >> SEQUENCE_BITS) & 0xffff;
        let size = payload.len() as u64;
        let shape = size | (u64::from(meta.kind) << 32) | (u64::from(meta.flags) << 40) | (high << 48);
        self.shape.store(shape, Ordering::Relaxed);
        let (whole, rest) = payload.as_chunks::<8>();
        for (cell, bytes) in self.payload.iter().zip(whole) {
            cell.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            if let Some(cell) = self.payload.get(whole.len()) {
                cell.store(u64::from_le_bytes(last), Ordering::Relaxed);
            }
        }
        // pairs with Acquire in `look`
        self.word.store(word(sequence, ChunkRef::INLINE), Ordering::Release);
    }

    /// The bug that the model must find: the slot is not marked busy before it is written.
    #[cfg(loom)]
    pub fn publish_inline_unmarked(&self, sequence: u64, meta: &InlineMeta, payload: &[u8; 8]) {
        self.time.store(meta.time_ns, Ordering::Relaxed);
        self.shape.store(8 | (u64::from(meta.kind) << 32), Ordering::Relaxed);
        self.payload[0].store(u64::from_le_bytes(*payload), Ordering::Relaxed);
        self.word.store(word(sequence, ChunkRef::INLINE), Ordering::Release);
    }

    /// Publishes a message that lies in `chunk`, or stores one of the marks.
    #[inline]
    pub fn publish(&self, sequence: u64, chunk: ChunkRef) {
        // pairs with Acquire in `look`: header, payload and extent entry were written before
        self.word.store(word(sequence, chunk), Ordering::Release);
    }

    /// Looks for the message `sequence`.
    #[inline]
    pub fn look(&self, sequence: u64) -> Look {
        let seen = self.word.load(Ordering::Acquire); // pairs with Release in `publish*`
        let ahead = (seen >> 24).wrapping_sub(sequence) & SEQUENCE_MASK;
        if ahead != 0 {
            // Older than half the number space is "later", everything else "not yet".
            return if ahead < 1 << (SEQUENCE_BITS - 1) { Look::Lapped } else { Look::Empty };
        }
        let chunk = ChunkRef((seen & 0xff_ffff) as u32);
        match chunk {
            ChunkRef::INLINE => {
                let mut message = InlineMessage::EMPTY;
                let shape = self.copy_inline(&mut message);
                if self.word.load(Ordering::Relaxed) != seen {
                    Look::Lapped
                } else if is_true(shape, sequence) {
                    Look::Inline(message)
                } else {
                    Look::Corrupt
                }
            }
            ChunkRef::BUSY => Look::Empty,
            ChunkRef::GONE => Look::Gone,
            _ if chunk.is_special() => Look::Corrupt,
            _ => Look::Chunk(chunk, SlotWord(seen)),
        }
    }

    /// Looks for the message `sequence` and copies it to `place`, if it is a small one. What is in `place` means nothing
    /// unless it was copied.
    #[inline]
    pub fn look_small(&self, sequence: u64, place: &mut InlineMessage) -> SmallLook {
        let seen = self.word.load(Ordering::Acquire); // pairs with Release in `publish_inline`
        if seen == word(sequence, ChunkRef::INLINE) {
            let shape = self.copy_inline(place);
            let copied = self.word.load(Ordering::Relaxed) == seen && is_true(shape, sequence);
            return if copied { SmallLook::Copied } else { SmallLook::Other };
        }
        if is_before(seen, sequence) { SmallLook::Empty } else { SmallLook::Other }
    }

    /// Whether the message `sequence` is not there yet, nor anything later.
    #[inline]
    pub fn is_empty(&self, sequence: u64) -> bool {
        is_before(self.word.load(Ordering::Relaxed), sequence)
    }

    /// Copies what lies here, whatever it is, and returns its shape. The caller looks at the word before and after.
    #[inline]
    fn copy_inline(&self, place: &mut InlineMessage) -> u64 {
        let shape = self.shape.load(Ordering::Relaxed);
        let size = (shape & 0xffff_ffff) as usize;
        // Two runs of a known length: what fits into the first line leaves the second one with the writer.
        let (near, far) = self.payload.split_at(FIRST_LINE_WORDS);
        let (near_copy, far_copy) = place.words.split_at_mut(FIRST_LINE_WORDS);
        for (copy, cell) in near_copy.iter_mut().zip(near) {
            *copy = cell.load(Ordering::Relaxed);
        }
        if size > FIRST_LINE_WORDS * 8 {
            for (copy, cell) in far_copy.iter_mut().zip(far) {
                *copy = cell.load(Ordering::Relaxed);
            }
        }
        place.meta = InlineMeta {
            time_ns: self.time.load(Ordering::Relaxed),
            correlation: self.correlation.load(Ordering::Relaxed),
            size: size.min(INLINE_BYTES) as u32,
            kind: (shape >> 32) as u8,
            flags: (shape >> 40) as u8,
        };
        fence(Ordering::Acquire); // pairs with the release fence in `publish_inline`
        shape
    }

    /// Asks the processor to bring the slot in, both of its lines, without waiting for them.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(std::ptr::from_ref(self).cast());
    }

    /// Whether the slot still carries what was seen. The caller has stored its hold and fenced before.
    #[inline]
    pub fn still(&self, seen: SlotWord) -> bool {
        self.word.load(Ordering::Acquire) == seen.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{ChunkRef, InlineMeta, Look, Slot};

    fn meta(size: usize) -> InlineMeta {
        InlineMeta { time_ns: 7, correlation: 9, size: size as u32, kind: 3, flags: 5 }
    }

    #[test]
    fn a_small_message_comes_out_as_it_went_in_at_every_size() {
        let slot = Slot::empty();
        for size in 0..=96usize {
            let sequence = (1 << 41) + size as u64;
            let payload: Vec<u8> = (0..size).map(|i| (i * 31 + size) as u8).collect();
            slot.publish_inline(sequence, &meta(size), &payload);
            let Look::Inline(message) = slot.look(sequence) else { panic!("size {size} is not there") };
            assert_eq!(message.payload(), payload);
            assert_eq!(message.meta, meta(size));
        }
    }

    #[test]
    fn a_reader_sees_not_yet_then_the_message_then_that_it_was_lapped() {
        let slot = Slot::empty();
        assert!(matches!(slot.look(1), Look::Empty));
        slot.publish_inline(1, &meta(0), &[]);
        assert!(matches!(slot.look(1), Look::Inline(_)));
        assert!(matches!(slot.look(33), Look::Empty));
        slot.publish(33, ChunkRef::new(4, 5).expect("fits"));
        assert!(matches!(slot.look(1), Look::Lapped));
        assert!(matches!(slot.look(33), Look::Chunk(..)));
    }

    #[test]
    fn a_sequence_of_another_epoch_of_the_word_is_not_taken_for_the_message() {
        let slot = Slot::empty();
        slot.publish_inline(5, &meta(0), &[]);
        assert!(matches!(slot.look(5 + (1 << 40)), Look::Corrupt));
    }

    #[test]
    fn hold_words_name_their_chunk_and_nothing_else() {
        let chunk = ChunkRef::new(4094, 4095).expect("fits");
        assert_eq!(ChunkRef::from_hold_word(chunk.hold_word()), Some(chunk));
        for hostile in [0, 1, u64::MAX, 1 << 63 | 1 << 30, ChunkRef::INLINE.hold_word()] {
            assert_eq!(ChunkRef::from_hold_word(hostile), None, "{hostile:#x}");
        }
        assert_eq!(ChunkRef::new(4095, 0), None);
        assert_eq!(ChunkRef::new(0, 4096), None);
    }
}
