//! Where everything lies in an arena.
//!
//! An arena is one sparse file of fixed regions: a header, tables of extents, heads, marks, rings, rows and seats, and
//! a heap for slots and chunks. A region costs memory only where it is used. Only the owner writes; every entry
//! is made of atomic words, so that a reader in another process never has undefined behaviour, whatever stands there.
//!
//! Invariant: the offsets below are those of FORMAT.md (a test compares them). Any change of them changes
//! [`layout_hash`], and two processes with different hashes refuse each other.

use crate::marks::{GROUP, Group};
use crate::slot::Slot;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::memfd::Shared;

pub mod fields;

/// "BUSWAYA1", the first eight bytes of an arena.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BUSWAYA1");
/// Raised with every change of a layout.
pub const LAYOUT_VERSION: u32 = 9;

/// Most extents of a process.
pub const EXTENTS_MAX: u32 = 4095;
/// Most rings of a process.
pub const RINGS_MAX: u32 = 65_536;
/// Marks of a process: one for each group of rings.
pub const MARKS: u32 = RINGS_MAX / GROUP;
/// Most rows of a process.
pub const ROWS_MAX: u32 = 65_536;
/// Most seats of a process: ten thousand topics with a hundred subscribers each fit.
pub const SEATS_MAX: u32 = 1 << 20;
/// Most stages of a ring: from 32 slots to 2^20 in doublings, and one to spare.
pub const STAGES_MAX: usize = 16;
/// Hold words that lie in the row itself.
pub const ROW_HOLDS: usize = 16;
/// Counters by cause in an account.
pub const CAUSES: usize = 21;
/// Of these, those that lie side by side in rows and rings. The others are seldom, most of them of groups alone, and stand where a row had
/// words to spare: a row has seven lines and a ring thirteen so that the same field of many does not fall on a few sets of a cache.
pub const CAUSES_SIDE_BY_SIDE: usize = 16;
/// Longest topic name, in bytes.
pub const TOPIC_BYTES: usize = 256;
/// Longest process name, in bytes.
pub const NAME_BYTES: usize = 64;
/// Bytes of a huge page. Where the address of a mapping and the offset in its file agree modulo this, the kernel can
/// map one.
pub const HUGE: u64 = 2 << 20;
/// A page; the unit of commitment.
pub const PAGE: u64 = 4096;

/// Words for what is counted for the process itself: more than there are, so that another moves no word.
pub const EVENTS: usize = 62;

/// Byte offset of the counters of the process.
pub const COUNTERS_AT: u64 = PAGE;
/// Byte offset of the extent table.
pub const EXTENTS_AT: u64 = 4 * PAGE;
/// Byte offset of the heads.
pub const HEADS_AT: u64 = 1 << 20;
/// Byte offset of the marks.
pub const MARKS_AT: u64 = 2 << 20;
/// Byte offset of the ring table.
pub const RINGS_AT: u64 = 16 << 20;
/// Byte offset of the row table.
pub const ROWS_AT: u64 = 96 << 20;
/// Byte offset of the seat table.
pub const SEATS_AT: u64 = 160 << 20;
/// Byte offset of the heap.
pub const HEAP_AT: u64 = 256 << 20;
/// Smallest arena that makes sense: the tables and a little heap.
pub const ARENA_BYTES_MIN: u64 = HEAP_AT + (16 << 20);
/// Largest file of an arena: four times the default. A peer maps it as far as it is used, and of its 128 TiB of addresses
/// no peer may take more than this and a third.
pub const ARENA_BYTES_MAX: u64 = 1 << 38;
/// No ring gets this far (146 years at a message a nanosecond): sums of sequences below it do not overflow.
pub const SEQUENCE_MAX: u64 = 1 << 62;

macro_rules! shared {
    ($($kind:ty),*) => { $(
        // SAFETY: all fields are atomics, as the definition beside this line shows.
        #[expect(unsafe_code, reason = "the promise that `view` relies on")]
        unsafe impl Shared for $kind {}
    )* };
}
shared!(ArenaHeader, CounterPage, ExtentEntry, RingEntry, RowEntry, SeatEntry, Slot);

/// The first page of an arena.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct ArenaHeader {
    /// [`MAGIC`], stored last when the arena is made.
    pub magic: AtomicU64,
    /// [`layout_hash`].
    pub layout_hash: AtomicU64,
    /// [`LAYOUT_VERSION`].
    pub version: AtomicU32,
    /// The owner's process id, as the owner sees it.
    pub pid: AtomicU32,
    /// The incarnation: 64 random bits.
    pub process: AtomicU64,
    /// Bytes of the arena file.
    pub arena_bytes: AtomicU64,
    /// Bytes of the bulk file.
    pub bulk_bytes: AtomicU64,
    /// When the arena was made, monotonic nanoseconds.
    pub started_ns: AtomicU64,
    /// The owner's user id.
    pub uid: AtomicU32,
    /// Bit 0: the process wants to be watched for hangs. Bit 1: it is registered for `membarrier`.
    pub flags: AtomicU32,
    /// The life word (module `life`). A line of its own: everybody polls it.
    pub life: CacheLine,
    /// Last heartbeat, monotonic nanoseconds.
    pub beat_ns: AtomicU64,
    /// Bytes taken from the kernel, both files together.
    pub committed_bytes: AtomicU64,
    /// Rings ever used: readers scan the table up to here.
    pub rings_used: AtomicU32,
    /// Rows ever used.
    pub rows_used: AtomicU32,
    /// Seats ever used.
    pub seats_used: AtomicU32,
    /// Extents in use.
    pub extents_used: AtomicU32,
    /// Length of `name`.
    pub name_bytes: AtomicU32,
    /// Zero.
    pub spare: [AtomicU32; 5],
    /// The process's name, UTF-8.
    pub name: [AtomicU64; NAME_BYTES / 8],
}

/// What a process has counted, beside what its rings and rows count while they are there. See `counters`.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct CounterPage {
    /// Odd while what an entry counted is moved here.
    pub folds: AtomicU64,
    /// Messages of rings that are gone, but for relays.
    pub past_sent: AtomicU64,
    /// Bytes of their payloads.
    pub past_bytes: AtomicU64,
    /// Messages of relays that are gone.
    pub past_relayed: AtomicU64,
    /// Sends that had to wait, of rings that are gone.
    pub past_waits: AtomicU64,
    /// Delivered to the rows of rings that are gone, but for relays.
    pub past_delivered: AtomicU64,
    /// Taken by rows of ours that are gone.
    pub past_received: AtomicU64,
    /// Zero.
    pub spare: AtomicU64,
    /// Lost by the rows of rings that are gone, by cause.
    pub past_dropped: [AtomicU64; CAUSES],
    /// Lost by rows of ours that are gone, by cause.
    pub past_missed: [AtomicU64; CAUSES],
    /// What is counted for the process itself, by the index of the event.
    pub events: [AtomicU64; EVENTS],
}

/// A word with a cache line to itself.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct CacheLine {
    /// The word.
    pub word: AtomicU32,
}

/// A run of chunks of one size.
#[repr(C, align(32))]
#[derive(Debug)]
pub struct ExtentEntry {
    /// Byte offset of the first chunk, in the arena or, if `bulk`, in the bulk file.
    pub offset: AtomicU64,
    /// Bytes of one chunk, header and payload.
    pub chunk_bytes: AtomicU64,
    /// Number of chunks; 0: not in use.
    pub count: AtomicU32,
    /// 1: the chunks lie in the bulk file.
    pub bulk: AtomicU32,
    /// Zero.
    pub spare: AtomicU64,
}

/// A publisher's ring.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct RingEntry {
    /// `{generation:32 | state:32}`, see [`state`].
    pub key: AtomicU64,
    /// The topic's id.
    pub topic: AtomicU64,
    /// The publisher's port, which is the source of its messages.
    pub port: AtomicU64,
    /// When the ring was made, monotonic nanoseconds.
    pub created_ns: AtomicU64,
    /// Stages in use.
    pub stages_used: AtomicU32,
    /// Length of the topic's name.
    pub topic_bytes: AtomicU32,
    /// Messages kept for late joiners.
    pub history: AtomicU32,
    /// Bit 0, [`RING_GATES`]: rows may gate. Bit 1, [`RING_RELAYS`]: the messages come from another host.
    pub flags: AtomicU32,
    /// Sequence of the last message, valid once the state is closed.
    pub closed_at: AtomicU64,
    /// Messages in a thousand seconds, as its process measured it over the last second or so.
    pub rate_milli: AtomicU64,
    /// While the publisher waits for a row: the low half of the sequence it wants passed, made odd; else 0.
    pub waiting: CacheLine,
    /// `send`s that had to wait.
    pub waits: AtomicU64,
    /// `send`s that were refused because a row was full.
    pub refused: AtomicU64,
    /// Rows evicted.
    pub evicted: AtomicU64,
    /// Delivered to rows that are gone.
    pub past_delivered: AtomicU64,
    /// Rows that are gone.
    pub past_rows: AtomicU64,
    /// Bytes of payload sent.
    pub sent_bytes: AtomicU64,
    /// Most messages that a row was behind when the publisher looked.
    pub lag_high: AtomicU64,
    /// Rows seated now.
    pub seated: AtomicU64,
    /// Lost by rows that are gone, by cause.
    pub past_dropped: [AtomicU64; CAUSES_SIDE_BY_SIDE],
    /// `{offset:58 | log2 of the slots:6}` of each stage.
    pub stage_at: [AtomicU64; STAGES_MAX],
    /// First sequence of each stage.
    pub stage_first: [AtomicU64; STAGES_MAX],
    /// The topic's name, UTF-8.
    pub name: [AtomicU64; TOPIC_BYTES / 8],
}

/// A subscriber's words for one ring.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct RowEntry {
    /// `{generation:32 | state:32}`, see [`state`].
    pub key: AtomicU64,
    /// The publisher's process.
    pub publisher: AtomicU64,
    /// `{generation:32 | index:32}` of the publisher's ring.
    pub ring: AtomicU64,
    /// The subscription's port.
    pub port: AtomicU64,
    /// The policy's number and depth: `{depth:32 | policy:32}`.
    pub policy: AtomicU64,
    /// Byte offset of the hold words.
    pub holds_at: AtomicU64,
    /// Number of hold words.
    pub holds: AtomicU32,
    /// `{index + 1}` of the publisher's seat, 0 before there is one.
    pub seat: AtomicU32,
    /// Sequence before the first message that this row accounts for.
    pub first: AtomicU64,
    /// Sequence of the last message passed.
    pub cursor: AtomicU64,
    /// When a look last found the row empty or its cursor moved, coarse monotonic nanoseconds.
    pub looked_ns: AtomicU64,
    /// The most messages that waited when the row was looked at.
    pub lag_high: AtomicU64,
    /// Samples of this row that are held now.
    pub held: AtomicU32,
    /// While a loss is counted: how many messages it has, at most `u32::MAX`; else 0.
    pub losing: AtomicU32,
    /// When the subscription was made, monotonic nanoseconds.
    pub created_ns: AtomicU64,
    /// Messages wanted from before the subscription.
    pub history: AtomicU64,
    /// Messages taken. Counted for itself, so that it says something beside the cursor.
    pub delivered: AtomicU64,
    /// Times the subscriber woke its publisher. The low half is a futex word.
    pub woken: AtomicU64,
    /// Lost, by cause.
    pub dropped: [AtomicU64; CAUSES_SIDE_BY_SIDE],
    /// Hold words, where 16 are enough.
    pub hold_words: [AtomicU64; ROW_HOLDS],
    /// For whom the publisher keeps this row's place when its process dies; 0: for nobody.
    pub place: AtomicU64,
    /// The id of the group for which the row reads, or 0: what it passes is counted by its group's row.
    pub group: AtomicU64,
    /// Lost, by the causes behind those of `dropped`.
    pub dropped_by_group: [AtomicU64; CAUSES - CAUSES_SIDE_BY_SIDE],
    /// The cursor at the last look, or all ones where nothing waited then.
    pub looked_at: AtomicU64,
}

impl RowEntry {
    /// Notes since when the row has been behind, and by how much at most, where its ring is at `head`.
    pub fn look(&self, head: u64, now_ns: u64) {
        let cursor = self.cursor.load(Ordering::Relaxed);
        let lag = head.saturating_sub(cursor);
        let seen = if lag == 0 { u64::MAX } else { cursor };
        if lag == 0 || self.looked_at.load(Ordering::Relaxed) != seen {
            self.looked_ns.store(now_ns, Ordering::Relaxed);
            self.looked_at.store(seen, Ordering::Release); // pairs with Acquire in `RowEntry::waits_since_ns`
        }
        if lag > self.lag_high.load(Ordering::Relaxed) {
            self.lag_high.store(lag, Ordering::Relaxed);
        }
    }

    /// Since when at least what waits has waited, if anything does, where its process last said at `beat_ns` that it runs. It
    /// looks at each of many rows rarely: where the cursor has moved since, or nothing waited then, the message that waits came
    /// later; how much later is not known, but not while the process stood still.
    pub fn waits_since_ns(&self, beat_ns: u64) -> u64 {
        let stands = self.looked_at.load(Ordering::Acquire) == self.cursor.load(Ordering::Relaxed); // pairs with Release in `RowShared::look`
        let looked_ns = self.looked_ns.load(Ordering::Relaxed);
        if stands { looked_ns } else { looked_ns.max(beat_ns) }
    }

    /// The counter of a cause, by its index.
    pub fn lost(&self, cause: usize) -> Option<&AtomicU64> {
        match cause.checked_sub(CAUSES_SIDE_BY_SIDE) {
            None => self.dropped.get(cause),
            Some(further) => self.dropped_by_group.get(further),
        }
    }

    /// The counters of all causes, in their order.
    pub(crate) fn all_lost(&self) -> impl Iterator<Item = &AtomicU64> {
        self.dropped.iter().chain(&self.dropped_by_group)
    }
}

/// What a publisher knows of one row.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SeatEntry {
    /// `{generation:32 | state:32}`, see [`state`].
    pub key: AtomicU64,
    /// The subscriber's process.
    pub subscriber: AtomicU64,
    /// `{generation:32 | index:32}` of the subscriber's row.
    pub row: AtomicU64,
    /// `{generation:32 | index:32}` of our ring.
    pub ring: AtomicU64,
    /// Head when the seat was given.
    pub from: AtomicU64,
    /// Times this row made the publisher wait.
    pub waits: AtomicU64,
    /// Nanoseconds it made the publisher wait.
    pub waited_ns: AtomicU64,
    /// Times it was past its deadline.
    pub stalls: AtomicU64,
}

/// States in the low half of a `key`.
pub mod state {
    /// Not in use.
    pub const FREE: u32 = 0;
    /// Being set up: not to be relied on yet.
    pub const STARTING: u32 = 1;
    /// In use. A seat: gates and holds are respected.
    pub const ACTIVE: u32 = 2;
    /// A ring: no more messages. A row: no more reads, all holds released.
    pub const CLOSED: u32 = 3;
    /// A seat: past its deadline; holds are respected, it does not gate until it has caught up.
    pub const STALLED: u32 = 4;
    /// A seat: evicted; holds are respected until the row closes, it never gates again.
    pub const EVICTED: u32 = 5;
}

/// The flag of a ring that waits for rows which ask for it.
pub const RING_GATES: u32 = 1;
/// The flag of a ring whose messages come from another host: eight bytes before each payload are its sequence there.
pub const RING_RELAYS: u32 = 2;
/// The flag of a ring whose messages are for groups.
pub const RING_PUSHES: u32 = 4;

/// Where the mark of a group lies.
pub(crate) fn mark_at(group: Group) -> u64 {
    MARKS_AT + u64::from(group.number) * 8
}

/// Puts a generation and a state into one word.
pub fn key(generation: u32, state: u32) -> u64 {
    (u64::from(generation) << 32) | u64::from(state)
}

/// The generation and the state of a word.
pub fn unkey(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}

/// A number that differs between any two layouts: every field of every structure, the regions and the limits.
#[must_use]
pub const fn layout_hash() -> u64 {
    const HASH: u64 = fields::hash(
        &fields::ARENA,
        &[
            LAYOUT_VERSION as u64,
            COUNTERS_AT,
            EXTENTS_AT,
            HEADS_AT,
            MARKS_AT,
            RINGS_AT,
            ROWS_AT,
            SEATS_AT,
            HEAP_AT,
            EXTENTS_MAX as u64,
            RINGS_MAX as u64,
            MARKS as u64,
            crate::claims::file::CLAIMS_BYTES,
            crate::claims::file::WORDS_AT,
            ROWS_MAX as u64,
            SEATS_MAX as u64,
        ],
    );
    HASH
}

const _: () = {
    assert!(size_of::<ArenaHeader>() <= COUNTERS_AT as usize);
    assert!(COUNTERS_AT as usize + size_of::<CounterPage>() <= EXTENTS_AT as usize);
    assert!(size_of::<RingEntry>() == 832 && size_of::<RowEntry>() == 448 && size_of::<SeatEntry>() == 64);
    assert!(EXTENTS_AT + (EXTENTS_MAX as u64) * (size_of::<ExtentEntry>() as u64) <= HEADS_AT);
    assert!(HEADS_AT + (RINGS_MAX as u64) * 8 <= MARKS_AT);
    assert!(MARKS_AT + (MARKS as u64) * 8 <= RINGS_AT);
    assert!(RINGS_AT + (RINGS_MAX as u64) * (size_of::<RingEntry>() as u64) <= ROWS_AT);
    assert!(ROWS_AT + (ROWS_MAX as u64) * (size_of::<RowEntry>() as u64) <= SEATS_AT);
    assert!(SEATS_AT + (SEATS_MAX as u64) * (size_of::<SeatEntry>() as u64) <= HEAP_AT);
};
