//! Taking messages: the reading end of a row.
//!
//! One thread takes. It looks at the slot of the message it waits for; it does not look at the publisher's head, whose
//! cache line moves with every message, unless its policy says how many messages may wait.

use std::collections::VecDeque;
use std::sync::Arc;

use busway_wire::Cause;
use busway_wire::{HEADER_SIZE, Header};
use busway_wire::limits::HOLD_COPY_BYTES_MAX;
use busway_wire::Policy;
use zerocopy::FromBytes;

use super::{Body, Gap, HeldChunk, Message, REFUSED, RowShared, SEATED, Taken};
use crate::arena::ChunkPlace;
use crate::layout::{STAGES_MAX, state, unkey};
use crate::life::Life;
use crate::ring::SLOTS_MAX;
use crate::slot::{ChunkRef, Look, Slot, SlotWord};
use crate::sync::{Ordering, fence};
use crate::sys::futex;
use crate::view::{Mapped, futex_half};

/// How often an empty look also asks whether the publisher is still there.
const EMPTIES_A_CHECK: u32 = 64;
/// A head further ahead than this was not written by an honest publisher.
const AHEAD_MAX: u64 = 1 << 39;

#[derive(Debug)]
struct ReadStage {
    slots: Mapped<[Slot]>,
    mask: u64,
    /// First sequence of the next stage.
    end: u64,
}

/// The reading end of a row.
#[derive(Debug)]
pub struct RowReader {
    row: Arc<RowShared>,
    policy: Policy,
    stage: Option<ReadStage>,
    stages_seen: u32,
    next: u64,
    queued: VecDeque<Message>,
    foreign: bool,
    empties: u32,
    over: bool,
}

impl RowReader {
    /// The reader of `row`. Payloads of a publisher of another user are copied before anybody looks at them.
    pub fn new(row: Arc<RowShared>, policy: Policy, foreign: bool) -> Self {
        let queued = VecDeque::new();
        Self { row, policy, stage: None, stages_seen: 0, next: 0, queued, foreign, empties: 0, over: false }
    }

    /// The row.
    pub fn row(&self) -> &Arc<RowShared> {
        &self.row
    }

    /// Takes the next message, or says what is in its way. Never waits.
    #[inline]
    pub fn take(&mut self) -> Taken {
        if self.stage.is_none() && !self.begin() {
            return if self.over { Taken::End } else { Taken::Empty };
        }
        match self.policy {
            Policy::DropOldest { depth: Policy::DEPTH_RING } | Policy::Block | Policy::Fail | Policy::Evict => {
                self.take_next()
            }
            Policy::KeepLatest => self.skip_to(1, Cause::Conflated).map_or_else(|| self.take_next(), Taken::Gap),
            Policy::DropOldest { depth } => {
                self.skip_to(u64::from(depth), Cause::Lapped).map_or_else(|| self.take_next(), Taken::Gap)
            }
            Policy::DropNewest { depth } => self.take_oldest(depth as usize),
        }
    }

    #[cold]
    fn begin(&mut self) -> bool {
        match self.row.attached.load(Ordering::Acquire) {
            SEATED => {}
            REFUSED => {
                self.over = true;
                return false;
            }
            _ => return false,
        }
        self.next = self.row.entry.cursor.load(Ordering::Relaxed).wrapping_add(1);
        self.locate();
        self.over |= self.stage.is_none();
        self.stage.is_some()
    }

    /// Finds the stage in which the next message lies.
    fn locate(&mut self) {
        let ring = &self.row.ring;
        let used = ring.stages_used.load(Ordering::Acquire); // pairs with Release in `ring::new_stage`
        self.stages_seen = used;
        let used = (used as usize).min(STAGES_MAX);
        let starts = ring.stage_first.iter().zip(&ring.stage_at).take(used);
        let mut end = u64::MAX;
        let mut place = None;
        for (first, at) in starts.rev() {
            let first = first.load(Ordering::Relaxed);
            if first <= self.next.max(1) {
                place = Some(at.load(Ordering::Relaxed));
                break;
            }
            end = first;
        }
        self.stage = place.and_then(|at| {
            let slots = 1_u64 << (at & 63);
            if slots > u64::from(SLOTS_MAX) {
                return None;
            }
            let slots_at = self.row.peer.tables().arena().slice(at & !63, slots).ok()?;
            Some(ReadStage { slots: slots_at, mask: slots - 1, end })
        });
    }

    #[inline]
    fn take_next(&mut self) -> Taken {
        loop {
            let Some(stage) = &self.stage else { return Taken::End };
            let slot = &stage.slots[(self.next & stage.mask) as usize];
            match slot.look(self.next) {
                Look::Inline(message) => {
                    let sequence = self.next;
                    self.passed(sequence);
                    return Taken::Message(Message { sequence, body: Body::Inline(message) });
                }
                Look::Empty => {
                    if self.next < stage.end && self.row.ring.stages_used.load(Ordering::Acquire) == self.stages_seen {
                        return self.nothing();
                    }
                    self.locate();
                }
                Look::Chunk(chunk, word) => return self.take_chunk(chunk, word),
                Look::Lapped => return self.lapped(),
                Look::Gone => return self.gone(),
                Look::Corrupt => return self.lose(1, Cause::Corrupt),
            }
        }
    }

    /// Moves the cursor to `sequence`, and wakes the publisher if it waits for that.
    #[inline]
    fn passed(&mut self, sequence: u64) {
        self.next = sequence.wrapping_add(1);
        self.empties = 0;
        self.row.entry.cursor.store(sequence, Ordering::Release); // pairs with Acquire in `seat::progress`
        if self.row.ring.waiting.word.load(Ordering::Relaxed) != 0 {
            self.wake_publisher();
        }
    }

    #[cold]
    fn wake_publisher(&self) {
        fence(Ordering::SeqCst); // pairs with the fence in `room::sleep`
        futex::wake_all(futex_half(&self.row.entry.cursor));
    }

    fn lose(&mut self, count: u64, cause: Cause) -> Taken {
        let from = self.next;
        self.row.count(cause, count);
        self.passed(from.wrapping_add(count).wrapping_sub(1));
        Taken::Gap(Gap { cause, from, count })
    }

    /// The message was given up: for its bytes, or because a larger stage has turned once since.
    #[cold]
    fn gone(&mut self) -> Taken {
        let waiting = self.row.head().wrapping_sub(self.next);
        if waiting >= self.newest_slots() { self.lapped() } else { self.lose(1, Cause::RingBytes) }
    }

    fn newest_slots(&self) -> u64 {
        let used = self.row.ring.stages_used.load(Ordering::Acquire) as usize;
        let at = used.checked_sub(1).and_then(|newest| self.row.ring.stage_at.get(newest));
        at.map_or(1, |at| 1 << (at.load(Ordering::Relaxed) & 63).min(u64::from(SLOTS_MAX.trailing_zeros())))
    }

    #[cold]
    fn lapped(&mut self) -> Taken {
        self.locate();
        if self.stage.is_none() {
            return Taken::End;
        }
        let slots = self.newest_slots();
        let head = self.row.head();
        let marked = self.row.seat_state();
        if head.wrapping_sub(self.next) > AHEAD_MAX {
            return self.lose(1, Cause::Corrupt);
        }
        if marked == state::EVICTED {
            let _ = self.lose((head + 1).saturating_sub(self.next).max(1), Cause::Evicted);
            self.over = true;
            return Taken::Evicted;
        }
        // The oldest that is surely there, and an eighth of the ring more, because the publisher goes on meanwhile.
        let oldest = (head + 1).saturating_sub(slots - slots / 8);
        let count = oldest.saturating_sub(self.next).max(1);
        if self.is_late_joiner() {
            // History is what happens to be there: a late joiner has not lost what it never had.
            let first = self.next + count - 1;
            self.row.entry.first.store(first, Ordering::Relaxed);
            self.passed(first);
            self.locate();
            return self.take_next();
        }
        let cause = if marked == state::STALLED { Cause::Stalled } else { Cause::Lapped };
        self.lose(count, cause)
    }

    fn is_late_joiner(&self) -> bool {
        let entry = &self.row.entry;
        entry.history.load(Ordering::Relaxed) > 0
            && entry.cursor.load(Ordering::Relaxed) == entry.first.load(Ordering::Relaxed)
            && entry.created_ns.load(Ordering::Relaxed) > self.row.ring.created_ns.load(Ordering::Relaxed)
    }

    fn skip_to(&mut self, depth: u64, cause: Cause) -> Option<Gap> {
        let head = self.row.head();
        let waiting = (head + 1).saturating_sub(self.next);
        if waiting <= depth.max(1) || waiting > AHEAD_MAX {
            return None;
        }
        match self.lose(waiting - depth.max(1), cause) {
            Taken::Gap(gap) => Some(gap),
            _ => None,
        }
    }

    /// Drop newest: what came since the last take is held, oldest first, until `depth` messages wait; the rest is lost.
    fn take_oldest(&mut self, depth: usize) -> Taken {
        while self.queued.len() < depth {
            match self.take_next() {
                Taken::Message(message) => self.queued.push_back(message),
                Taken::Gap(gap) => return Taken::Gap(gap),
                other => return self.queued.pop_front().map_or(other, Taken::Message),
            }
        }
        let newer = (self.row.head() + 1).saturating_sub(self.next);
        if newer > 0 && newer <= AHEAD_MAX {
            return self.lose(newer, Cause::DropNewest);
        }
        self.queued.pop_front().map_or(Taken::Empty, Taken::Message)
    }

    fn take_chunk(&mut self, chunk: ChunkRef, word: SlotWord) -> Taken {
        let Some(place) = self.row.peer.tables().resolve(chunk) else { return self.lose(1, Cause::Corrupt) };
        let small = place.bytes <= (HOLD_COPY_BYTES_MAX + HEADER_SIZE) as u64;
        if !self.foreign
            && let Some(at) = self.row.hold(chunk, place.bytes)
        {
            fence(Ordering::SeqCst); // W2: pairs with the fence in `recycle::begin`
            if !self.still(word) {
                self.row.release(at, place.bytes);
                return self.lapped();
            }
            return self.take_held(at, place);
        }
        if !self.foreign && !small {
            return Taken::HoldsExhausted;
        }
        self.row.holds.borrow(chunk);
        fence(Ordering::SeqCst); // W2: as above
        let copied = if self.still(word) { self.copy(place) } else { None };
        let still = self.still(word);
        self.row.holds.unborrow();
        match (copied, still) {
            (Some((header, payload)), true) => {
                let sequence = self.next;
                self.passed(sequence);
                Taken::Message(Message { sequence, body: Body::Copied(header, payload) })
            }
            (None, true) => self.lose(1, Cause::Corrupt),
            (_, false) => self.lapped(),
        }
    }

    fn still(&self, word: SlotWord) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.slots[(self.next & stage.mask) as usize].still(word))
    }

    fn take_held(&mut self, at: u32, place: ChunkPlace) -> Taken {
        let checked = self.header(place);
        let payload =
            checked.and_then(|(header, size, _)| Some((header, self.row.peer.tables().chunk_bytes(place, size).ok()?)));
        let (Some((header, payload)), Some((_, _, skip))) = (payload, checked) else {
            self.row.release(at, place.bytes);
            return self.lose(1, Cause::Corrupt);
        };
        let sequence = self.next;
        self.passed(sequence);
        let held = HeldChunk { row: self.row.clone(), at, bytes: place.bytes, payload, header, skip };
        Taken::Message(Message { sequence, body: Body::Chunk(held) })
    }

    fn copy(&self, place: ChunkPlace) -> Option<(Header, Vec<u8>)> {
        let (header, size, skip) = self.header(place)?;
        let bytes = self.row.peer.tables().chunk_bytes(place, size).ok()?;
        Some((header, bytes.as_slice().get(skip..)?.to_vec()))
    }

    /// The header of the chunk, its message's size and where the payload begins; `None` where they cannot be true.
    fn header(&self, place: ChunkPlace) -> Option<(Header, u64, usize)> {
        let start = self.row.peer.tables().chunk_bytes(place, HEADER_SIZE as u64).ok()?;
        // A copy: what is checked is what is used, whatever the publisher does meanwhile.
        let header = Header::read_from_bytes(start.as_slice()).ok()?;
        let size = u64::from(header.size.get());
        let skip = HEADER_SIZE + header.extension_bytes();
        let fits = size <= place.bytes && size >= skip as u64;
        let known = header.kind().is_some() && header.sequence.get() == self.next;
        (fits && known).then_some((header, size, skip))
    }

    fn nothing(&mut self) -> Taken {
        self.empties = self.empties.wrapping_add(1);
        if self.empties.is_multiple_of(EMPTIES_A_CHECK) && self.is_over() { Taken::End } else { Taken::Empty }
    }

    /// Whether no message will ever follow. Costs a few loads: asked before sleeping, not at every look.
    pub fn is_over(&mut self) -> bool {
        if self.over || self.row.is_refused() {
            return true;
        }
        if self.stage.is_none() || !self.queued.is_empty() {
            return false;
        }
        let (generation, at) = unkey(self.row.ring.key.load(Ordering::Acquire));
        let closed = at == state::CLOSED && self.next > self.row.ring.closed_at.load(Ordering::Relaxed);
        let reused = generation != self.row.ring_key.generation || at == state::FREE;
        // Read in this order: everything that a dead process stored is visible once its death is.
        let dead = matches!(self.row.peer.life(), Life::Dead | Life::Closed);
        self.over = reused || ((closed || dead) && self.has_nothing());
        self.over
    }

    /// Whether the slot of the next message is empty at this moment.
    pub fn has_nothing(&mut self) -> bool {
        if self.stage.is_none() && !self.begin() {
            return true;
        }
        if !self.queued.is_empty() {
            return false;
        }
        let end = self.stage.as_ref().map_or(0, |stage| stage.end);
        if self.next >= end || self.row.ring.stages_used.load(Ordering::Acquire) != self.stages_seen {
            self.locate();
        }
        self.stage.as_ref().is_none_or(|stage| {
            matches!(stage.slots[(self.next & stage.mask) as usize].look(self.next), Look::Empty)
        })
    }
}
