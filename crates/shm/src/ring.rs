//! The publisher's side of a ring: one thread that publishes, never waiting for more than it agreed to.
//!
//! A ring is a run of slots. The message `s` takes slot `s mod slots`, which gives up the message `s - slots`. Before
//! that, every row that may gate must have passed the older message; rows that may not are told of their loss by
//! their own cursor. A ring starts small and grows in stages; a reader that finds nothing where it waits looks whether
//! there is a newer stage. Nothing is overwritten by growing.
//!
//! It does not ring bells and does not find its subscribers: `busway` does.
//!
//! Invariants: (R1) only this thread writes the slots and the head. (R2) `limit` is at most half a ring beyond the
//! head at the last fenced look, so that a row which fenced after it was seated is seen before anything is taken from it.
//! (R3) a chunk is in one place: ring, retired list, a store, a loan, or the heap. (R4) all that an entry counts, its head too, is
//! 0 before its key says that a ring is there.

use std::collections::VecDeque;
use std::sync::Arc;

use busway_wire::{PortId, RingIndex, Topic};

use crate::arena::{OwnArena, store_text};
use crate::clock::{self, Deadline};
use crate::error::ShmError;
use crate::heap::{CHUNK_BYTES_MAX, Table, class_bytes};
use crate::layout::{RING_GATES, RING_PUSHES, RING_RELAYS, RINGS_AT, RingEntry, key, mark_at, state, unkey};
use crate::marks::Group;
use crate::recycle::{LookAt, Recycler, Sized};
use crate::seat::{EntryKey, RingShared, Seat};
use crate::slot::{ChunkRef, InlineMeta, Slot};
use crate::sync::{AtomicU64, Ordering};
use crate::view::{Loaned, Mapped, SpareKeep};

mod room;
mod stage;

use stage::{Stage, new_stage};

/// What a ring is allowed.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// Slots at most; a power of two.
    pub slots_max: u32,
    /// Payload bytes in chunks at most.
    pub bytes_max: u64,
    /// Messages kept for late joiners; the ring never has fewer slots.
    pub history: u32,
    /// How long one row may make us wait before it is stalled. Zero: never wait.
    pub max_wait_ns: u64,
    /// Whether rows may gate at all.
    pub gating: bool,
    /// Whether its messages come from another host. No place is kept then for a row whose process dies.
    pub relay: bool,
}

/// Slots of the first stage: one page.
pub const SLOTS_FIRST: u32 = 32;

/// Bytes of chunks between two looks for what all rows have read, so that its memory is used again while a cache has it: a
/// ring that is used to its end is larger than any cache, and would be filled, and read, out of slow memory.
const REUSE_BYTES: u64 = 256 << 10;
/// As many more for each row: a look at one takes as long as filling some of them.
const REUSE_BYTES_A_ROW: u64 = 16 << 10;
/// Most slots of a ring.
pub const SLOTS_MAX: u32 = 1 << 20;

/// How long a caller is ready to wait.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Not at all.
    None,
    /// Until the deadline, and no row longer than the ring's `max_wait`.
    Until(Deadline),
}

/// What happened to a message that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Its sequence in the ring, from 1.
    pub sequence: u64,
    /// Nanoseconds that were spent waiting for rows.
    pub waited_ns: u64,
    /// Rows that were past their deadline and gate no more until they have caught up.
    pub stalled: u32,
    /// Rows that were evicted.
    pub evicted: u32,
}

/// Why a message was not sent.
#[derive(Debug)]
pub enum Refusal {
    /// These rows would have lost a message, and ask that the publisher fails or waits.
    Full(Vec<RowName>),
    /// The caller's own deadline came first; these rows were waited for.
    Timeout(Vec<RowName>),
    /// The memory that it takes cannot be had.
    Memory(ShmError),
    /// This process has left the bus meanwhile.
    Closed,
}

/// Whom a publisher waits for; where a place is kept, who had it before it died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowName {
    /// The subscriber's process id.
    pub pid: u32,
    /// The subscriber's process name.
    pub name: String,
    /// Messages it has not passed.
    pub behind: u64,
}

/// A chunk to be filled and then sent. Dropped unsent, it must be handed back with [`RingWriter::put_back`].
#[derive(Debug)]
pub struct Loan {
    sized: Sized,
    memory: Loaned,
}

impl Loan {
    /// The whole chunk, header first.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut_slice()
    }

    /// The whole chunk.
    pub fn bytes(&self) -> &[u8] {
        self.memory.as_slice()
    }
}

/// The publishing end of a ring.
#[derive(Debug)]
pub struct RingWriter {
    shared: Arc<RingShared>,
    options: RingOptions,
    stage: Stage,
    older: Vec<Stage>,
    /// Below this the present stage displaces messages of an older one.
    first_turn: u64,
    head: u64,
    /// Highest sequence that may be published without another look (R2).
    limit: u64,
    /// Everything below was passed by all gating rows at the last look.
    gate: u64,
    places: Vec<Seat>,
    /// Beside each place: since when it has blocked us, or 0.
    blocked: Vec<u64>,
    seen: u64,
    /// A tick of the coarse clock, and how often the rows were looked at for slots within it.
    looks: (u64, u32),
    chunks: VecDeque<(u64, Sized)>,
    chunk_bytes: u64,
    /// Bytes that the ring may take without a look at the rows; the messages that give way for them are passed.
    spare_bytes: u64,
    /// Bytes of chunks published since messages that all had read were given up for their memory.
    unread_bytes: u64,
    recycler: Recycler,
    /// Of the last loan that was sent.
    spare_keep: Option<SpareKeep>,
    sent: Sent,
    /// Whether it keeps what it may for the first row, which is on its way.
    awaits: bool,
    /// Messages that a gating row may be behind, where that is less than the ring has slots.
    behind_max: u64,
}

impl RingWriter {
    /// Makes a ring in our arena.
    ///
    /// # Errors
    /// The table of rings is full, or memory cannot be had.
    pub fn create(
        own: &Arc<OwnArena>,
        topic: &Topic,
        port: PortId,
        options: RingOptions,
    ) -> Result<(Self, Arc<RingShared>), ShmError> {
        Self::create_with(own, topic, port, options, None)
    }

    /// Makes a ring whose messages are for groups: each goes to one puller of each group. It gates for `late_join_ns` while
    /// nobody pulls. What does not find room is refused, and what was accepted is kept.
    ///
    /// # Errors
    /// As [`RingWriter::create`]. A ring for groups must be allowed to gate.
    pub fn create_for_groups(
        own: &Arc<OwnArena>,
        topic: &Topic,
        port: PortId,
        options: RingOptions,
        late_join_ns: u64,
    ) -> Result<(Self, Arc<RingShared>), ShmError> {
        if !options.gating || !options.slots_max.is_power_of_two() {
            return Err(ShmError::Refused { what: "a ring for groups gates" });
        }
        let made = Self::create_with(own, topic, port, options, Some(late_join_ns))?;
        made.1.open_groups()?;
        Ok(made)
    }

    fn create_with(
        own: &Arc<OwnArena>,
        topic: &Topic,
        port: PortId,
        options: RingOptions,
        late_join_ns: Option<u64>,
    ) -> Result<(Self, Arc<RingShared>), ShmError> {
        let index = own.take_entry(Table::Ring)?;
        let entry: Mapped<RingEntry> =
            own.tables().at(RINGS_AT + u64::from(index) * size_of::<RingEntry>() as u64)?;
        let (generation, _) = unkey(entry.key.load(Ordering::Relaxed));
        let ring = EntryKey { index, generation: generation.wrapping_add(1) };
        let slots = (options.history + 1).next_power_of_two().clamp(SLOTS_FIRST, SLOTS_MAX);
        let stage = match new_stage(own, &entry, 0, slots, 1) {
            Ok(stage) => stage,
            Err(error) => {
                own.give_entry(Table::Ring, index);
                return Err(error);
            }
        };
        let head: Mapped<AtomicU64> = own.tables().at(crate::layout::HEADS_AT + u64::from(index) * 8)?;
        let pushes = if late_join_ns.is_some() { RING_PUSHES } else { 0 };
        // Before the key says that the ring is there: who counts would count the messages of the entry's last ring, which are in the
        // sums of those that are gone, a second time.
        head.store(0, Ordering::Relaxed); // published by the Release of the key in `fill_entry`
        fill_entry(&entry, topic, port, &options, pushes, ring);
        let places = options.gating && !options.relay;
        let group = Group::of(own.process(), RingIndex(index));
        let mark = if group.is_marked() { Some(own.tables().at(mark_at(group))?) } else { None };
        let shared = RingShared::new(own.clone(), ring, entry, head, mark, options.gating, places);
        let shared = Arc::new(match late_join_ns {
            Some(late_join_ns) => shared.for_groups(late_join_ns, options.slots_max.max(slots)),
            None => shared,
        });
        let limit = u64::from(slots) / 2;
        let writer = Self {
            shared: shared.clone(),
            options,
            stage,
            older: Vec::new(),
            first_turn: 0,
            head: 0,
            limit,
            gate: 1,
            places: Vec::new(),
            blocked: Vec::new(),
            seen: 0,
            looks: (0, 0),
            chunks: VecDeque::new(),
            chunk_bytes: 0,
            spare_bytes: 0,
            unread_bytes: 0,
            recycler: Recycler::default(),
            spare_keep: None,
            sent: Sent::default(),
            awaits: false,
            behind_max: u64::MAX,
        };
        Ok((writer, shared))
    }

    /// From now on, until it has its first row, the ring grows as for one that has read nothing.
    pub fn await_first(&mut self) {
        self.awaits = true;
    }

    /// A row that gates may be so many messages behind, at least one, however many slots there are. Before the first message.
    pub fn hold_back_at(&mut self, messages: u64) {
        self.behind_max = messages.max(1);
        self.limit = self.limit.min(self.behind_max);
    }

    /// What the control thread shares with us.
    pub fn shared(&self) -> &Arc<RingShared> {
        &self.shared
    }

    /// The longest that a message waits for who is behind, in nanoseconds; 0 where nobody may make it wait.
    pub fn waits_ns(&self) -> u64 {
        if self.options.gating { self.options.max_wait_ns } else { 0 }
    }

    /// Sequence of the last message.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Publishes a payload of at most 96 bytes.
    ///
    /// # Errors
    /// See [`Refusal`].
    #[inline]
    pub fn send_inline(
        &mut self,
        meta: &InlineMeta,
        payload: &[u8],
        patience: Patience,
    ) -> Result<Sent, Refusal> {
        let sequence = self.head + 1;
        if sequence > self.limit || self.seen != self.shared.version() {
            self.make_room(sequence, patience)?;
        }
        self.slot(sequence).publish_inline(sequence, meta, payload);
        if sequence < self.first_turn {
            self.overwrite_older(sequence);
        }
        if !self.chunks.is_empty() {
            self.retire_up_to(sequence);
        }
        Ok(self.published(sequence))
    }

    /// As [`RingWriter::send_inline`], where nothing else is to be done than to write the slot, as for most messages; its
    /// sequence. `None`, and nothing has happened, where that must be asked.
    #[inline]
    pub fn put_inline(&mut self, meta: &InlineMeta, payload: &[u8]) -> Option<u64> {
        let sequence = self.head + 1;
        let settled = self.chunks.is_empty() && self.sent.stalled | self.sent.evicted == 0;
        if sequence > self.limit
            || sequence < self.first_turn
            || !settled
            || self.seen != self.shared.version()
        {
            return None;
        }
        self.slot(sequence).publish_inline(sequence, meta, payload);
        self.head = sequence;
        self.shared.tell_head(sequence);
        Some(sequence)
    }

    /// Publishes a loan, of which all bytes have been written.
    ///
    /// # Errors
    /// See [`Refusal`]; the loan comes back, so that it can be tried again.
    pub fn send_loan(&mut self, loan: Loan, patience: Patience) -> Result<Sent, (Refusal, Loan)> {
        let sequence = self.head + 1;
        if (sequence > self.limit || self.seen != self.shared.version())
            && let Err(refusal) = self.make_room(sequence, patience)
        {
            return Err((refusal, loan));
        }
        // What may surely give way gives way when the message is out: it would wait for slots that others read.
        if loan.sized.class > self.spare_bytes
            && let Err(refusal) = self.make_bytes(loan.sized.class, patience)
        {
            return Err((refusal, loan));
        }
        let Loan { sized, memory } = loan;
        self.spare_keep = Some(memory.end());
        self.slot(sequence).publish(sequence, sized.chunk);
        if sequence < self.first_turn {
            self.overwrite_older(sequence);
        }
        let sent = self.published(sequence);
        self.retire_up_to(sequence);
        self.give_up_passed(sized.class);
        if self.chunks.len() == self.chunks.capacity() {
            self.lengthen_lists();
        }
        self.chunks.push_back((sequence, sized));
        self.chunk_bytes += sized.class;
        self.unread_bytes += sized.class;
        Ok(sent)
    }

    /// All the chunks of the ring may be given up at once, in any message.
    #[cold]
    fn lengthen_lists(&mut self) {
        self.chunks.reserve(1);
        self.recycler.expect_chunks(self.chunks.capacity());
    }

    #[inline]
    fn slot(&self, sequence: u64) -> &Slot {
        // The mask keeps the index inside: `slots` is a power of two long.
        &self.stage.slots[(sequence & self.stage.mask) as usize]
    }

    #[inline]
    fn published(&mut self, sequence: u64) -> Sent {
        self.head = sequence;
        self.shared.tell_head(sequence);
        Sent { sequence, ..std::mem::take(&mut self.sent) }
    }

    /// Retires the chunks of messages whose slots `sequence`, just published, and its predecessors took.
    #[inline]
    fn retire_up_to(&mut self, sequence: u64) {
        let slots = self.stage.mask + 1;
        while let Some(&(old, sized)) = self.chunks.front() {
            if old + slots > sequence {
                break;
            }
            // Its slot has been overwritten by now: in this stage by this message, in an older one by its mark.
            self.chunks.pop_front();
            self.chunk_bytes -= sized.class;
            self.recycler.retire(sized);
        }
    }

    /// While a new stage turns for the first time, what it displaces lies in an older one.
    #[cold]
    fn overwrite_older(&self, sequence: u64) {
        let Some(old) = sequence.checked_sub(self.stage.mask + 1) else { return };
        if old < self.stage.first {
            self.overwrite(old);
        }
    }

    /// Gives the slot of `old` up, wherever it lies.
    fn overwrite(&self, old: u64) {
        let mut end = u64::MAX;
        for stage in std::iter::once(&self.stage).chain(self.older.iter().rev()) {
            if stage.first <= old {
                // A later message of the same stage may lie there already.
                if old + stage.mask + 1 >= end.min(self.head + 1) {
                    stage.slots[(old & stage.mask) as usize].publish(old, ChunkRef::GONE);
                }
                return;
            }
            end = stage.first;
        }
    }

    /// A chunk for `bytes` bytes, header included. Where memory is short, the oldest messages are given up for it by
    /// the rules of a full ring, so that rows which gate may be waited for.
    ///
    /// # Errors
    /// [`Refusal::Memory`] where the arena, the domain's budget or the kernel has no more; else as a full ring.
    pub fn loan(&mut self, bytes: u64, patience: Patience) -> Result<Loan, Refusal> {
        if bytes > CHUNK_BYTES_MAX {
            return Err(Refusal::Memory(ShmError::TooLarge { bytes, most: CHUNK_BYTES_MAX }));
        }
        let class = class_bytes(bytes);
        // Here and not after a send: looking at the rows takes their lines just when they need them to read the message.
        if self.recycler.busy() {
            self.recycle_step(LookAt::Few);
        }
        if self.unread_bytes >= REUSE_BYTES + self.places.len() as u64 * REUSE_BYTES_A_ROW {
            self.reuse_read();
        }
        self.look_for_bytes(class);
        let chunk = match self.recycler.take(class) {
            Some(chunk) => chunk,
            None => match self.find_chunk(class) {
                Ok(chunk) => chunk,
                Err(refused) => self.make_chunk(class, refused, patience)?,
            },
        };
        let sized = Sized { chunk, class };
        let own = self.shared.own();
        let loaned = own
            .tables()
            .resolve(chunk)
            .ok_or(ShmError::OutOfBounds { offset: 0, len: bytes, size: 0 })
            .and_then(|place| {
                // SAFETY: R3: the chunk came from the store or the heap, which give it out once, and our own arena is
                // mapped writable.
                #[expect(unsafe_code, reason = "the loan is the one place where chunks become writable")]
                unsafe {
                    Loaned::take(
                        own.tables().region(place.bulk),
                        place.offset,
                        place.bytes,
                        &mut self.spare_keep,
                    )
                }
            });
        match loaned {
            Ok(memory) => {
                memory.prefetch();
                Ok(Loan { sized, memory })
            }
            Err(error) => {
                self.recycler.put_back(sized);
                Err(Refusal::Memory(error))
            }
        }
    }

    fn find_chunk(&mut self, class: u64) -> Result<ChunkRef, ShmError> {
        // Not at every loan: what rows hold for long would be looked at each time in vain.
        if self.recycler.worth_a_look() {
            self.recycle_all();
            if let Some(chunk) = self.recycler.take(class) {
                return Ok(chunk);
            }
        }
        let own = self.shared.own().clone();
        let fetched = self.recycler.fetch(&own, class);
        if fetched.is_err() {
            self.recycle_all();
        }
        match self.recycler.take(class) {
            Some(chunk) => Ok(chunk),
            None => Err(fetched.err().unwrap_or(ShmError::ArenaFull { bytes: 0 })),
        }
    }

    /// Takes back a loan that was not sent.
    pub fn put_back(&mut self, loan: Loan) {
        self.sent.waited_ns = 0;
        self.recycler.put_back(loan.sized);
    }

    fn recycle_step(&mut self, look: LookAt) {
        self.recycler.begin();
        self.refresh();
        self.recycler.step(&self.shared, &self.places, self.seen, look);
    }

    fn recycle_all(&mut self) {
        self.recycler.begin();
        // Seats may come while we look: then once more, and after that the next send goes on.
        for _ in 0..2 {
            if self.recycler.begun() {
                self.recycle_step(LookAt::All);
            }
        }
    }

    /// Copies the list of seats if it has changed.
    fn refresh(&mut self) {
        if self.shared.version() != self.seen {
            let shared = self.shared.clone();
            self.copy_list(&shared.lock());
        }
    }

    /// Copies the list, of which the lock is held: its version does not change meanwhile.
    fn copy_list(&mut self, seats: &[Seat]) {
        let old: Vec<(EntryKey, u32, u64)> = (self.places.iter().zip(&self.blocked))
            .map(|(seat, since)| (seat.row_key, seat.index, *since))
            .collect();
        self.places = seats.to_vec();
        // Seats leave the list and join it at its end: one walk over both, however many a process has asked for.
        let mut old = old.into_iter();
        let since = |seat: &Seat| {
            let known = old.find(|(row, index, _)| *row == seat.row_key && *index == seat.index);
            known.map_or(0, |(_, _, since)| since)
        };
        self.blocked = self.places.iter().map(since).collect();
        self.recycler.expect_seats(self.places.len());
        self.seen = self.shared.version();
    }

    /// Chunks in the ring, free in our stores, and retired (held ones are among these), and those of the process. Over
    /// all publishers of a process: `free + left` and the sum of `in_ring + stored + retired` are `pool`, but for loans.
    pub fn census(&self) -> Census {
        let (stored, retired) = self.recycler.census();
        let (pool, free, left) = self.shared.own().chunks();
        Census { in_ring: self.chunks.len() as u64, stored, retired, pool, free, left }
    }

    /// How far the slowest row is behind, and whether every row has passed the last message.
    pub fn behind(&mut self) -> Vec<RowName> {
        self.refresh();
        self.places
            .iter()
            .filter(|seat| seat.counts())
            .filter_map(|seat| self.name_if_behind(seat, self.head))
            .collect()
    }

    /// Bytes of its slots, and of the chunks that they name.
    pub fn bytes(&self) -> u64 {
        let stages = std::iter::once(&self.stage).chain(&self.older);
        stages.map(|stage| (stage.mask + 1) * size_of::<Slot>() as u64).sum::<u64>() + self.chunk_bytes
    }

    /// Gives up the oldest messages until the chunks that are named have no more than so many bytes. For rings that no row gates: whoever has not read
    /// them finds that they are lost.
    pub fn give_up_to(&mut self, most: u64) {
        debug_assert!(!self.options.gating, "nobody is promised these messages");
        while self.chunk_bytes > most && self.give_up_front() {}
        self.recycle_all();
    }

    /// Number of rows that have a seat.
    pub fn seated(&mut self) -> usize {
        self.refresh();
        self.places.len()
    }
}

/// Where a publisher's chunks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Named by slots.
    pub in_ring: u64,
    /// Free, in the publisher's own stores.
    pub stored: u64,
    /// Out of the ring, not yet known to be free.
    pub retired: u64,
    /// Chunks of the process, wherever they are.
    pub pool: u64,
    /// Free for every publisher of the process.
    pub free: u64,
    /// Left behind by publishers that are gone, for rows that still read them.
    pub left: u64,
}

impl Drop for RingWriter {
    fn drop(&mut self) {
        if self.shared.own().forked() {
            return;
        }
        let recycler = std::mem::take(&mut self.recycler);
        let mut remains = recycler.close(self.shared.own());
        remains.chunks.extend(self.chunks.drain(..).map(|(_, sized)| sized));
        self.shared.leave(remains);
    }
}

fn fill_entry(
    entry: &RingEntry,
    topic: &Topic,
    port: PortId,
    options: &RingOptions,
    pushes: u32,
    ring: EntryKey,
) {
    let counters = [&entry.waits, &entry.refused, &entry.evicted, &entry.past_delivered, &entry.past_rows];
    let more = [&entry.sent_bytes, &entry.lag_high, &entry.seated, &entry.closed_at, &entry.rate_milli];
    for counter in counters.into_iter().chain(more).chain(&entry.past_dropped) {
        counter.store(0, Ordering::Relaxed);
    }
    let name = topic.as_str().as_bytes();
    entry.topic.store(topic.id().0, Ordering::Relaxed);
    entry.port.store(port.0, Ordering::Relaxed);
    entry.created_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
    entry.topic_bytes.store(name.len() as u32, Ordering::Relaxed);
    entry.history.store(options.history, Ordering::Relaxed);
    let gates = if options.gating { RING_GATES } else { 0 };
    let relays = if options.relay { RING_RELAYS } else { 0 };
    entry.flags.store(gates | relays | pushes, Ordering::Relaxed);
    entry.waiting.word.store(0, Ordering::Relaxed);
    store_text(&entry.name, name);
    // pairs with Acquire in `row` and `inspect`
    entry.key.store(key(ring.generation, state::ACTIVE), Ordering::Release);
}
