//! The subscriber's side of one ring: a row of words in the subscriber's own arena, and the reader that moves it.
//!
//! A row says how far it has read and which chunks it holds. It is made STARTING, told of its seat by the control
//! thread, and CLOSED when its reader and its last sample are gone. The reader takes messages in order, counts exactly
//! what it missed, and copies what is small.
//!
//! It does not sleep, and does not know topics or patterns: `busway` does.
//!
//! Invariants: (W1) only this process writes the row. (W2) a chunk is read only while a hold word names it that was
//! stored before a fence after which the slot was unchanged; a hold never moves to another word. (W3)
//! `cursor - first` = delivered + dropped: every sequence that was passed is counted once, before it is passed (`ledger`).

use std::fmt;
use std::sync::{Arc, OnceLock};

use busway_wire::Cause;
use busway_wire::Policy;
use busway_wire::{HEADER_SIZE, Header};
use busway_wire::{PortId, RingIndex};

use crate::arena::{OwnArena, PeerArena};
use crate::claims::Owner;
use crate::claims::file::Run;
use crate::clock;
use crate::error::ShmError;
use crate::heap::Table;
use crate::hold::{HoldBudget, HoldWords};
use crate::layout::{
    HEADS_AT, MARKS, MARKS_AT, RINGS_AT, RINGS_MAX, ROW_HOLDS, ROWS_AT, RingEntry, RowEntry, SEQUENCE_MAX,
    key, state, unkey,
};
use crate::life::Life;
use crate::marks::{GROUP, Ready};
use crate::seat::EntryKey;
use crate::slot::{ChunkRef, InlineMessage};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::view::{Mapped, Payload};

pub mod group;
pub mod ledger;
mod take;

pub use ledger::RowAccount;
pub use take::RowReader;

/// What a subscription wants of each ring.
#[derive(Clone, Copy, Debug)]
pub struct RowOptions {
    /// The subscription's port.
    pub port: PortId,
    /// What happens when it is slow.
    pub policy: Policy,
    /// Messages wanted from before the subscription.
    pub history: u64,
    /// Samples that it may hold at one moment; at least 1.
    pub holds: u32,
    /// When the subscription was made, monotonic nanoseconds.
    pub created_ns: u64,
    /// For whom a publisher that waits for it keeps its place when this process dies, until a row comes that says the
    /// same; 0: for nobody.
    pub place: u64,
}

/// The head of one ring. Those of a process lie side by side, so that who reads thousands of rings can see at once which
/// of them have something. It is a hint: what it says is looked for in the ring.
#[derive(Clone, Debug)]
pub struct Head(Mapped<AtomicU64>);

impl Head {
    /// The sequence of the last message, as its publisher says.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire) // pairs with Release in `ring::published`
    }
}

/// The rings of one reader, of which those are named that have something.
pub type ReadyRings = Ready<Mapped<[AtomicU64]>>;

/// A row, as long as its reader or one of its samples lives.
#[derive(Debug)]
pub struct RowShared {
    own: Arc<OwnArena>,
    peer: Arc<PeerArena>,
    key: EntryKey,
    ring_key: EntryKey,
    entry: Mapped<RowEntry>,
    ring: Mapped<RingEntry>,
    head: Mapped<AtomicU64>,
    holds: HoldWords,
    budget: Arc<HoldBudget>,
    extra: Option<(u64, u64)>,
    attached: AtomicU64,
    /// The head when the row began to read: what is older it was not there for.
    joined_at: AtomicU64,
    /// Of a puller's row, once it has its seat: the claims of its group, and as whom it claims.
    place: OnceLock<(Run, Owner)>,
    /// Where it is counted from when it reads until it is dropped.
    counted: OnceLock<Arc<AtomicU64>>,
}

/// The row waits for its seat.
const WAITING: u64 = 0;
/// The row has a seat, or needs none because the publisher is gone.
const SEATED: u64 = 1;
/// The publisher refused.
const REFUSED: u64 = 2;

impl RowShared {
    /// Makes a row for the ring `ring` of `peer`.
    ///
    /// # Errors
    /// The ring is not there any more, the table of rows is full, or memory cannot be had.
    pub fn create(
        own: &Arc<OwnArena>,
        peer: &Arc<PeerArena>,
        ring_key: EntryKey,
        options: &RowOptions,
        budget: &Arc<HoldBudget>,
    ) -> Result<Arc<Self>, ShmError> {
        Self::create_for(own, peer, ring_key, options, 0, budget)
    }

    /// As [`RowShared::create`]; the row reads for the group of this id, or for itself where that is 0.
    ///
    /// # Errors
    /// As [`RowShared::create`].
    pub fn create_for(
        own: &Arc<OwnArena>,
        peer: &Arc<PeerArena>,
        ring_key: EntryKey,
        options: &RowOptions,
        group: u64,
        budget: &Arc<HoldBudget>,
    ) -> Result<Arc<Self>, ShmError> {
        if ring_key.index >= RINGS_MAX {
            return Err(ShmError::Refused { what: "a ring number that no process has" });
        }
        let ring: Mapped<RingEntry> =
            peer.tables().at(RINGS_AT + u64::from(ring_key.index) * size_of::<RingEntry>() as u64)?;
        let (generation, at) = unkey(ring.key.load(Ordering::Acquire)); // pairs with Release in `ring`
        if generation != ring_key.generation || !matches!(at, state::ACTIVE | state::CLOSED) {
            return Err(ShmError::Refused { what: "the publisher is gone" });
        }
        let head = peer.tables().at(HEADS_AT + u64::from(ring_key.index) * 8)?;
        let index = own.take_entry(Table::Row)?;
        let at = ROWS_AT + u64::from(index) * size_of::<RowEntry>() as u64;
        let entry: Mapped<RowEntry> = own.tables().at(at)?;
        // One word more than may be held: a sample that is copied is held while it is copied.
        let wanted = u64::from(options.holds.max(1)) + 1;
        let extra = if wanted > ROW_HOLDS as u64 {
            let bytes = (wanted * 8).next_power_of_two().max(crate::layout::PAGE);
            Some((own.take_pages(bytes).inspect_err(|_| own.give_entry(Table::Row, index))?, bytes))
        } else {
            None
        };
        let holds_at =
            extra.map_or(at + std::mem::offset_of!(RowEntry, hold_words) as u64, |(offset, _)| offset);
        let words: Mapped<[AtomicU64]> = own.tables().arena().slice(holds_at, wanted)?;
        let (generation, _) = unkey(entry.key.load(Ordering::Relaxed));
        let row_key = EntryKey { index, generation: generation.wrapping_add(1) };
        let row = Self {
            own: own.clone(),
            peer: peer.clone(),
            key: row_key,
            ring_key,
            ring,
            head,
            holds: HoldWords::new(words),
            budget: budget.clone(),
            extra,
            attached: AtomicU64::new(WAITING),
            joined_at: AtomicU64::new(0),
            place: OnceLock::new(),
            counted: OnceLock::new(),
            entry,
        };
        row.fill(options, group, holds_at, wanted);
        own.row_opened();
        Ok(Arc::new(row))
    }

    fn fill(&self, options: &RowOptions, group: u64, holds_at: u64, holds: u64) {
        let entry = &self.entry;
        let zero = [&entry.first, &entry.cursor, &entry.lag_high, &entry.delivered, &entry.woken];
        for word in zero.into_iter().chain(entry.all_lost()) {
            word.store(0, Ordering::Relaxed);
        }
        for word in [&entry.held, &entry.losing, &entry.seat] {
            word.store(0, Ordering::Relaxed);
        }
        // Nothing can have waited for it for longer than it exists.
        entry.looked_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
        entry.looked_at.store(u64::MAX, Ordering::Relaxed);
        entry.publisher.store(self.peer.process().0, Ordering::Relaxed);
        entry.ring.store(self.ring_key.word(), Ordering::Relaxed);
        entry.port.store(options.port.0, Ordering::Relaxed);
        entry.policy.store(policy_word(options.policy), Ordering::Relaxed);
        entry.holds_at.store(holds_at, Ordering::Relaxed);
        entry.holds.store(holds as u32, Ordering::Relaxed); // at most `HOLDS_MAX` and one
        entry.created_ns.store(options.created_ns, Ordering::Relaxed);
        entry.history.store(options.history, Ordering::Relaxed);
        entry.place.store(options.place, Ordering::Relaxed);
        entry.group.store(group, Ordering::Relaxed);
        // pairs with Acquire in `seat`
        entry.key.store(key(self.key.generation, state::STARTING), Ordering::Release);
    }

    /// Which row this is.
    pub fn key(&self) -> EntryKey {
        self.key
    }

    /// Which ring it reads.
    pub fn ring_key(&self) -> EntryKey {
        self.ring_key
    }

    /// Whose ring it reads.
    pub fn peer(&self) -> &Arc<PeerArena> {
        &self.peer
    }

    /// The row's entry.
    pub fn entry(&self) -> &RowEntry {
        &self.entry
    }

    /// The ring's entry, in the publisher's arena.
    pub fn ring(&self) -> &RingEntry {
        &self.ring
    }

    /// The publisher's head, to be looked at without the row.
    pub fn head_word(&self) -> Head {
        Head(self.head.clone())
    }

    /// Adds the row's ring to those of a reader, of which all up to `read` was read.
    pub fn watch(&self, ready: &mut ReadyRings, read: u64) {
        let tables = self.peer.tables();
        ready.add(self.peer.process(), RingIndex(self.ring_key.index), read, |group| {
            // What cannot be mapped is looked at each time, as those that are not marked.
            let marks = tables.arena().slice(MARKS_AT, u64::from(MARKS)).ok();
            let first = HEADS_AT + u64::from(group.number) * u64::from(GROUP) * 8;
            (marks, tables.arena().slice(first, u64::from(GROUP)).ok())
        });
    }

    /// The publisher's head; at most [`SEQUENCE_MAX`], whatever it wrote there.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire).min(SEQUENCE_MAX) // pairs with Release in `ring::published`
    }

    /// Called by the control thread: the publisher gave us seat `index`, or refused.
    pub fn attached(&self, seat: Result<u32, ()>) {
        if self.attached.load(Ordering::Relaxed) != WAITING {
            return;
        }
        let Ok(index) = seat else {
            self.attached.store(REFUSED, Ordering::Release);
            return;
        };
        let from = self.peer.tables().seat(index).map_or(0, |entry| entry.from.load(Ordering::Relaxed));
        self.entry.seat.store(index.saturating_add(1), Ordering::Relaxed);
        // An honest one gives a place at or before its head.
        self.start(from.min(self.head()));
    }

    /// Called by the control thread while there is no seat: a publisher that is dead overwrites nothing, so that its
    /// ring can be read without one.
    pub fn start_without_seat(&self) {
        if self.attached.load(Ordering::Relaxed) == WAITING
            && matches!(self.peer.life(), Life::Dead | Life::Closed)
        {
            let older =
                self.entry.created_ns.load(Ordering::Relaxed) <= self.ring.created_ns.load(Ordering::Relaxed);
            let history = self.entry.history.load(Ordering::Relaxed);
            self.start(if older { 0 } else { self.head().saturating_sub(history) });
        }
    }

    fn start(&self, from: u64) {
        self.joined_at.store(self.head(), Ordering::Relaxed);
        self.entry.first.store(from, Ordering::Relaxed);
        self.entry.cursor.store(from, Ordering::Release);
        self.entry.key.store(key(self.key.generation, state::ACTIVE), Ordering::Release);
        fence(Ordering::SeqCst); // R2: pairs with the fence in `room::pass`
        self.attached.store(SEATED, Ordering::Release); // pairs with Acquire in `RowReader::take`
    }

    /// Whether the row has begun to read.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire) == SEATED
    }

    /// Counts this row, which reads now, in `count` until it is dropped. Once: who calls it again changes nothing.
    pub fn count_in(&self, count: &Arc<AtomicU64>) {
        if self.counted.set(count.clone()).is_ok() {
            count.fetch_add(1, Ordering::Relaxed); // a count: it orders nothing
        }
    }

    /// Called by the control thread before [`RowShared::attached`]: where a puller's claims are.
    pub fn take_place(&self, run: Run, owner: Owner) {
        // Told twice after a take-over: it is the same.
        let _ = self.place.set((run, owner));
    }

    /// The claims of a puller that has its seat.
    pub fn place_in_group(&self) -> Option<(Run, Owner)> {
        self.place.get().filter(|_| self.is_attached()).cloned()
    }

    /// Whether its reader may find something: a message behind the cursor, or that the publisher is gone.
    pub fn has_news(&self) -> bool {
        let cursor = self.entry.cursor.load(Ordering::Relaxed);
        self.is_attached() && self.head() > cursor || self.peer.life().is_gone()
    }

    /// Whether the publisher refused the row.
    pub fn is_refused(&self) -> bool {
        self.attached.load(Ordering::Acquire) == REFUSED
    }

    /// How the publisher treats this row, see [`state`].
    pub fn seat_state(&self) -> u32 {
        let seat = self.entry.seat.load(Ordering::Relaxed);
        let index = seat.checked_sub(1);
        let Some(entry) = index.and_then(|index| self.peer.tables().seat(index)) else { return state::FREE };
        let ours = entry.subscriber.load(Ordering::Relaxed) == self.own.process().0
            && entry.row.load(Ordering::Relaxed) == self.key.word();
        if ours { unkey(entry.key.load(Ordering::Acquire)).1 } else { state::FREE }
    }

    /// Samples of this row that are held now.
    pub fn held(&self) -> u32 {
        self.entry.held.load(Ordering::Relaxed)
    }

    fn count(&self, cause: Cause, lost: u64) {
        if let Some(counter) = self.entry.lost(cause as usize) {
            // pairs with Acquire in `ledger::read`
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(lost), Ordering::Release);
        }
    }

    fn hold(&self, chunk: ChunkRef, bytes: u64) -> Option<u32> {
        if !self.budget.take(bytes) {
            return None;
        }
        let Some(at) = self.holds.take(chunk) else {
            self.budget.give(bytes);
            return None;
        };
        self.entry.held.fetch_add(1, Ordering::Relaxed);
        Some(at)
    }

    fn release(&self, at: u32, bytes: u64) {
        self.holds.give(at);
        self.entry.held.fetch_sub(1, Ordering::Relaxed);
        self.budget.give(bytes);
    }

    /// Called by the control thread, at each beat or, of very many rows, less often: notes since when the row has been behind,
    /// and by how much at most.
    pub fn look(&self, now_ns: u64) {
        if !self.is_attached() {
            return;
        }
        self.entry.look(self.head(), now_ns);
    }

    /// The account of the row so far; nothing in a child made by `fork`.
    pub fn account(&self) -> RowAccount {
        if self.own.forked() {
            return RowAccount::default();
        }
        if self.entry.group.load(Ordering::Relaxed) != 0 {
            return RowAccount::of_puller(&self.entry);
        }
        let first = self.entry.first.load(Ordering::Relaxed);
        let head = || if self.is_attached() { self.head() } else { first };
        ledger::read(&self.entry, first, head)
    }
}

impl Drop for RowShared {
    fn drop(&mut self) {
        if self.own.forked() {
            return;
        }
        if let Some(count) = self.counted.get() {
            count.fetch_sub(1, Ordering::Relaxed); // a count: it orders nothing
        }
        // pairs with Acquire in `seat`
        self.entry.key.store(key(self.key.generation, state::CLOSED), Ordering::Release);
        if let Some((offset, bytes)) = self.extra {
            self.own.give_pages(offset, bytes);
        }
        self.own.row_closed(self.key, self.entry.seat.load(Ordering::Relaxed), &self.peer);
    }
}

/// A policy as rows store it.
pub fn policy_word(policy: Policy) -> u64 {
    let (number, depth) = match policy {
        Policy::DropOldest { depth } => (0, depth),
        Policy::KeepLatest => (1, 1),
        Policy::DropNewest { depth } => (2, depth),
        Policy::Block => (3, 0),
        Policy::Fail => (4, 0),
        Policy::Evict => (5, 0),
    };
    (u64::from(depth) << 32) | number
}

/// The policy that a row stores; `None` for a number that stands for none.
pub fn policy_from_word(word: u64) -> Option<Policy> {
    let depth = (word >> 32) as u32;
    Some(match word & 0xffff_ffff {
        0 => Policy::DropOldest { depth },
        1 => Policy::KeepLatest,
        2 => Policy::DropNewest { depth },
        3 => Policy::Block,
        4 => Policy::Fail,
        5 => Policy::Evict,
        _ => return None,
    })
}

/// A message in a subscriber's hands.
#[derive(Debug)]
pub struct Message {
    /// Its sequence in the ring.
    pub sequence: u64,
    /// Its payload.
    pub body: Body,
}

/// Where the payload of a message lies.
#[derive(Debug)]
pub enum Body {
    /// Copied out of the slot.
    Inline(InlineMessage),
    /// In the publisher's memory, held until this is dropped.
    Chunk(HeldChunk),
    /// Copied, because no more samples may be held or because its publisher is another user: what follows the header.
    Copied(Header, Vec<u8>),
}

impl Body {
    /// The payload; nothing in a child made by `fork` where it is held.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match self {
            Body::Inline(inline) => inline.payload(),
            Body::Chunk(chunk) => chunk.payload(),
            Body::Copied(header, following) => following.get(header.extension_bytes()..).unwrap_or_default(),
        }
    }

    /// What a message on the wire has behind its header: extensions, and payload.
    pub fn following(&self) -> &[u8] {
        match self {
            Body::Inline(inline) => inline.payload(),
            Body::Chunk(chunk) => chunk.following(),
            Body::Copied(_, following) => following,
        }
    }

    /// What stands between header and payload. Only its length was checked.
    #[inline]
    pub fn extensions(&self) -> &[u8] {
        match self {
            Body::Inline(_) => &[],
            Body::Chunk(chunk) if chunk.skip == HEADER_SIZE => &[],
            Body::Chunk(chunk) => chunk.following().get(..chunk.skip - HEADER_SIZE).unwrap_or_default(),
            Body::Copied(header, following) => following.get(..header.extension_bytes()).unwrap_or_default(),
        }
    }
}

/// A chunk that is held.
#[derive(Debug)]
pub struct HeldChunk {
    row: Arc<RowShared>,
    at: u32,
    bytes: u64,
    payload: Payload,
    header: Header,
    skip: usize,
}

impl HeldChunk {
    /// The message's header, as it was checked.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What lies behind the header, as [`Body::following`].
    fn following(&self) -> &[u8] {
        self.lying().get(HEADER_SIZE..).unwrap_or_default()
    }

    /// The chunk as far as the message goes; nothing in a child made by `fork`, which does not have that memory.
    #[inline]
    fn lying(&self) -> &[u8] {
        if self.row.own.forked() {
            return &[];
        }
        self.payload.as_slice()
    }

    /// The payload, in the publisher's memory; nothing in a child made by `fork`, which does not have that memory.
    pub fn payload(&self) -> &[u8] {
        self.lying().get(self.skip..).unwrap_or_default()
    }
}

impl Drop for HeldChunk {
    fn drop(&mut self) {
        if !self.row.own.forked() {
            self.row.release(self.at, self.bytes);
        }
    }
}

/// What is asked about each message that has extensions before it is counted as taken: whether it is wanted. Its clones are the same.
#[derive(Clone)]
pub struct Sieve(Arc<Wants>);

type Wants = dyn Fn(&[u8]) -> bool + Send + Sync;

impl Sieve {
    /// Is given the extensions of a message, of which only the length was checked.
    pub fn new(wants: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(wants))
    }

    fn wants(&self, extensions: &[u8]) -> bool {
        (self.0)(extensions)
    }
}

impl fmt::Debug for Sieve {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sieve")
    }
}

/// Messages that were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub cause: Cause,
    /// First sequence that was missed.
    pub from: u64,
    /// How many.
    pub count: u64,
}

/// What a take of a small message found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakenSmall {
    /// The message of this sequence; it was copied.
    Message(u64),
    /// Nothing yet.
    Empty,
    /// Something else, for which [`RowReader::take`] must be asked.
    Other,
}

/// What a take found.
#[derive(Debug)]
pub enum Taken {
    /// Nothing yet.
    Empty,
    /// The next message.
    Message(Message),
    /// Messages were missed; take again.
    Gap(Gap),
    /// The publisher is gone and everything it published was passed.
    End,
    /// The publisher has evicted the row; this is what that cost.
    Evicted(Gap),
    /// So many samples are held that the next, too large to copy, cannot be taken.
    HoldsExhausted,
}
