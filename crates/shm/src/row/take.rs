//! Taking messages: the reading end of a row.
//!
//! One thread takes. It looks at the slot of the message it waits for; it does not look at the publisher's head, whose
//! cache line moves with every message, unless its policy says how many messages may wait.

use std::collections::VecDeque;
use std::sync::Arc;

use busway_wire::Cause;
use busway_wire::Policy;

use super::{Body, Gap, Message, REFUSED, RowShared, SEATED, Sieve, Taken, TakenSmall};
use crate::layout::{RING_GATES, RingEntry, RowEntry, STAGES_MAX, state, unkey};
use crate::life::Life;
use crate::ring::SLOTS_MAX;
use crate::slot::{InlineMessage, Look, Slot, SmallLook, fetch};
use crate::sync::{Ordering, fence};
use crate::sys::futex;
use crate::view::{Mapped, futex_half};

/// Looks in one take before it is given up: each look follows a move of the publisher, and an honest one moves at
/// most a few times while we look.
const LOOKS_MAX: u32 = 64;
/// Messages that were given up, counted in one loss: a hostile ring is looked through in pieces.
const GONE_MAX: u64 = 4096;
/// How often an empty look also asks whether the publisher is still there.
const EMPTIES_A_CHECK: u32 = 64;
/// Slots that are asked for ahead of the cursor where messages have piled up: a transfer between processors takes as long
/// as handling a few, and a processor has about that many under way.
const AHEAD: u64 = 8;
/// A head further ahead than this was not written by an honest publisher.
const AHEAD_MAX: u64 = 1 << 39;

mod at;
mod chunk;

#[derive(Debug)]
#[repr(C)]
struct ReadStage {
    mask: u64,
    slots: Mapped<[Slot]>,
    /// First sequence of the next stage.
    end: u64,
}

/// The reading end of a row. What is read and written to take a small message stands first, in two lines, and in the first of
/// them all that says where its memory is: of ten thousand readers none is in a cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct RowReader {
    next: u64,
    /// The row's, here as well: what is behind one more pointer is one more line.
    entry: Mapped<RowEntry>,
    ring: Mapped<RingEntry>,
    stage: Option<ReadStage>,
    /// Messages taken.
    delivered: u64,
    /// Small messages taken since a look found nothing, or since the head was read.
    run: u64,
    /// Drop newest: what was taken before it was asked for.
    #[expect(
        clippy::box_collection,
        reason = "few have one, and what is read for each message is to lie closely"
    )]
    queued: Option<Box<VecDeque<Message>>>,
    stages_seen: u32,
    /// What the publisher's `waiting` said when we woke it last.
    woken_for: u32,
    empties: u32,
    /// Whether messages are taken one after the other, whatever waits behind them.
    follows: bool,
    /// The cursor moves by `confirm` only.
    confirms: bool,
    over: bool,
    foreign: bool,
    row: Arc<RowShared>,
    policy: Policy,
    /// The head when it was read last: what lies up to here is there.
    known: u64,
    /// Up to here slots have been asked for.
    fetched: u64,
    /// What it has had it is not to have again.
    sieve: Option<Sieve>,
    /// Drop newest: nothing behind this is taken any more.
    last: u64,
}

impl RowReader {
    /// Bytes at its beginning in which all lies that taking a small message needs.
    pub const TAKE_BYTES: usize = std::mem::offset_of!(Self, row);

    /// The reader of `row`. Payloads of a publisher of another user are copied before anybody looks at them.
    pub fn new(row: Arc<RowShared>, policy: Policy, foreign: bool) -> Self {
        Self {
            entry: row.entry.clone(),
            ring: row.ring.clone(),
            row,
            policy,
            stage: None,
            stages_seen: 0,
            next: 0,
            queued: None,
            foreign,
            follows: match policy {
                Policy::DropOldest { depth } => depth == Policy::DEPTH_RING,
                Policy::Block | Policy::Fail | Policy::Evict => true,
                Policy::KeepLatest | Policy::DropNewest { .. } => false,
            },
            run: 0,
            known: 0,
            fetched: 0,
            woken_for: 0,
            empties: 0,
            delivered: 0,
            last: u64::MAX,
            over: false,
            confirms: false,
            sieve: None,
        }
    }

    /// From now on what does not pass the sieve is lost as [`Cause::Duplicate`].
    pub fn drop_duplicates(&mut self, sieve: Sieve) {
        self.sieve = Some(sieve);
    }

    /// From now on messages that were taken stay where they are until [`RowReader::confirm`]: for who carries them on
    /// and may have to do so again. The row should gate, or they are overwritten meanwhile.
    pub fn confirm_later(&mut self) {
        self.confirms = true;
    }

    /// What was taken up to `sequence` need not be kept. What was not taken is not confirmed.
    pub fn confirm(&mut self, sequence: u64) {
        let sequence = sequence.min(self.next.saturating_sub(1));
        let count = sequence.saturating_sub(self.entry.cursor.load(Ordering::Relaxed));
        if count > 0 {
            self.entry.losing.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
            self.deliver(count);
            self.store_cursor(sequence);
            self.entry.losing.store(0, Ordering::Release); // pairs with Acquire in `ledger::read`
        }
    }

    /// Takes again from `next` on, or from the first that was not confirmed where that is later; returns which.
    pub fn rewind(&mut self, next: u64) -> u64 {
        if self.stage.is_none() && !self.begin() {
            return self.next;
        }
        let first = self.entry.cursor.load(Ordering::Relaxed).wrapping_add(1);
        self.next = next.clamp(first.min(self.next), self.next);
        self.over = false;
        self.locate();
        self.next
    }

    /// The last sequence that was passed.
    #[inline]
    pub fn reached(&self) -> u64 {
        self.entry.cursor.load(Ordering::Relaxed)
    }

    /// Asks for the slot of the next message, and for the words that change when it is taken, without waiting for them.
    #[inline]
    pub fn fetch(&self) {
        if let Some(stage) = &self.stage {
            stage.slots[(self.next & stage.mask) as usize].prefetch();
        }
        // The count of what was taken stands beside the cursor.
        fetch(&self.entry.cursor);
        fetch(&self.ring.waiting);
    }

    /// The row.
    pub fn row(&self) -> &Arc<RowShared> {
        &self.row
    }

    /// Whether there is nothing, and nothing but to look again is to be done. All that a look in vain costs; `false` says
    /// nothing.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        let Some(stage) = self.stage.as_ref().filter(|_| self.follows) else { return false };
        if !stage.slots[(self.next & stage.mask) as usize].is_empty(self.next) {
            return false;
        }
        self.run = 0;
        let empties = self.empties.wrapping_add(1);
        let usual = self.next < stage.end
            && self.ring.stages_used.load(Ordering::Acquire) == self.stages_seen
            && !empties.is_multiple_of(EMPTIES_A_CHECK);
        if usual {
            self.empties = empties;
        }
        usual
    }

    /// Others have their turn before its next message is taken: what follows that one is not asked for ahead.
    #[inline]
    pub fn turn_ends(&mut self) {
        self.run = 0;
    }

    /// Takes the next message to `place` if it is a small one and nothing but to take it is to be done, as most often.
    #[inline]
    pub fn take_small(&mut self, place: &mut InlineMessage) -> TakenSmall {
        let Some(stage) = self.stage.as_ref().filter(|_| self.follows) else { return TakenSmall::Other };
        let sequence = self.next;
        match stage.slots[(sequence & stage.mask) as usize].look_small(sequence, place) {
            SmallLook::Copied => {
                self.took(sequence);
                self.run += 1;
                if self.run >= AHEAD {
                    self.fetch_ahead();
                }
                TakenSmall::Message(sequence)
            }
            SmallLook::Empty if self.is_empty() => TakenSmall::Empty,
            SmallLook::Empty | SmallLook::Other => TakenSmall::Other,
        }
    }

    /// Asks for the slots that follow, where messages have piled up: they then come from the publisher's processor side by
    /// side instead of one after the other. Only for slots that are known to be written, and where we wait for each
    /// message the head is not read either, so that no line is taken from the publisher before it is written.
    #[inline]
    fn fetch_ahead(&mut self) {
        let wanted = self.next.saturating_add(AHEAD);
        if wanted > self.known {
            self.known = self.row.head();
            self.run = 0;
        }
        let Some(stage) = &self.stage else { return };
        self.fetched = self.fetched.max(self.next);
        // Two for each message that is taken, until enough are under way.
        for _ in 0..2 {
            if self.fetched >= wanted.min(self.known) {
                return;
            }
            self.fetched += 1;
            stage.slots[(self.fetched & stage.mask) as usize].prefetch();
        }
    }

    /// Takes the next message, or says what is in its way. Never waits.
    #[inline]
    pub fn take(&mut self) -> Taken {
        if self.stage.is_none() && !self.begin() {
            return if self.over { Taken::End } else { Taken::Empty };
        }
        match self.policy {
            Policy::KeepLatest => {
                self.skip_to(1, Cause::Conflated).map_or_else(|| self.take_next(), Taken::Gap)
            }
            Policy::DropOldest { depth } if !self.follows => {
                self.skip_to(u64::from(depth), Cause::Lapped).map_or_else(|| self.take_next(), Taken::Gap)
            }
            Policy::DropNewest { depth } => self.take_oldest(depth as usize),
            Policy::DropOldest { .. } | Policy::Block | Policy::Fail | Policy::Evict => self.take_next(),
        }
    }

    #[cold]
    fn begin(&mut self) -> bool {
        if self.over {
            return false;
        }
        match self.row.attached.load(Ordering::Acquire) {
            SEATED => {}
            REFUSED => {
                self.over = true;
                return false;
            }
            _ => return false,
        }
        self.next = self.entry.cursor.load(Ordering::Relaxed).wrapping_add(1);
        self.locate();
        // Without a stage `take_next` counts what cannot be read, and ends.
        true
    }

    /// Finds the stage in which the next message lies.
    fn locate(&mut self) {
        let ring = &self.ring;
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
            Some(ReadStage { mask: slots - 1, slots: slots_at, end })
        });
    }

    fn take_next(&mut self) -> Taken {
        for _ in 0..LOOKS_MAX {
            let Some(stage) = &self.stage else { return self.broken() };
            let slot = &stage.slots[(self.next & stage.mask) as usize];
            match slot.look(self.next) {
                Look::Inline(message) => {
                    let sequence = self.next;
                    self.took(sequence);
                    return Taken::Message(Message { sequence, body: Body::Inline(message) });
                }
                Look::Empty => {
                    if self.next < stage.end
                        && self.ring.stages_used.load(Ordering::Acquire) == self.stages_seen
                    {
                        return self.nothing();
                    }
                    self.locate();
                }
                Look::Chunk(chunk, word) => {
                    if let Some(taken) = self.take_chunk(chunk, word) {
                        return taken;
                    }
                }
                Look::Lapped => {
                    if let Some(taken) = self.lapped() {
                        return taken;
                    }
                }
                Look::Gone => {
                    if let Some(taken) = self.gone() {
                        return taken;
                    }
                }
                Look::Corrupt => return self.lose(1, Cause::Corrupt),
            }
        }
        self.lose(1, Cause::Corrupt)
    }

    /// The ring's own description cannot be true: whatever is left of it is lost, and that is the end.
    #[cold]
    fn broken(&mut self) -> Taken {
        if self.over {
            return Taken::End;
        }
        self.over = true;
        let left = self.waiting().clamp(1, AHEAD_MAX);
        self.lose(left, Cause::Corrupt)
    }

    /// Messages that the head says are there; 0 where it is behind us. The head is at most `SEQUENCE_MAX`.
    fn waiting(&self) -> u64 {
        (self.row.head() + 1).saturating_sub(self.next)
    }

    /// Counts the message of `sequence`, and passes it.
    #[inline]
    fn took(&mut self, sequence: u64) {
        if !self.confirms {
            self.deliver(1);
        }
        self.passed(sequence);
    }

    /// Counts messages as delivered. Before the cursor moves: a ledger that is read meanwhile is ahead and never behind.
    #[inline]
    fn deliver(&mut self, count: u64) {
        self.delivered = self.delivered.wrapping_add(count);
        self.entry.delivered.store(self.delivered, Ordering::Release); // pairs with Acquire in `ledger::read`
    }

    /// Moves the cursor to `sequence`, and wakes the publisher if it waits for that.
    #[inline]
    fn passed(&mut self, sequence: u64) {
        self.next = sequence.wrapping_add(1);
        self.empties = 0;
        if !self.confirms {
            self.store_cursor(sequence);
        }
    }

    #[inline]
    fn store_cursor(&mut self, sequence: u64) {
        self.entry.cursor.store(sequence, Ordering::Release); // pairs with Acquire in `seat::progress` and `ledger::read`
        let wanted = self.ring.waiting.word.load(Ordering::Relaxed);
        if wanted != self.woken_for {
            self.wake_publisher(wanted, sequence);
        }
    }

    /// Wakes the publisher, if it waits for no more than `sequence`: once for each time it waits, because it takes a
    /// while to wake, and every message until then would cost a system call.
    #[cold]
    fn wake_publisher(&mut self, wanted: u32, sequence: u64) {
        if wanted == 0 {
            self.woken_for = 0;
            return;
        }
        // The word was made odd: it may be one more than what is wanted.
        if (sequence as u32).wrapping_add(1).wrapping_sub(wanted) > u32::MAX / 2 {
            return;
        }
        self.woken_for = wanted;
        fence(Ordering::SeqCst); // pairs with the fence in `room::sleep`
        self.entry.woken.fetch_add(1, Ordering::Release); // pairs with Acquire in `room::sleep`
        futex::wake_all(futex_half(&self.entry.woken));
    }

    fn lose(&mut self, count: u64, cause: Cause) -> Taken {
        Taken::Gap(self.lose_all(count, cause))
    }

    /// Counts the next `count` messages as lost, and passes them.
    fn lose_all(&mut self, count: u64, cause: Cause) -> Gap {
        let from = self.next;
        // What is before a loss is overwritten too: it will not be taken again.
        if self.confirms {
            self.confirm(from.wrapping_sub(1));
        }
        self.entry.losing.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.row.count(cause, count);
        let last = from.wrapping_add(count).wrapping_sub(1);
        self.passed(last);
        if self.confirms {
            self.store_cursor(last);
        }
        self.entry.losing.store(0, Ordering::Release); // pairs with Acquire in `ledger::read`
        Gap { cause, from, count }
    }

    /// The message was given up: for its bytes, or because a larger stage has turned once since. Those that follow it
    /// and were given up too are one loss with it.
    #[cold]
    fn gone(&mut self) -> Option<Taken> {
        if self.waiting() > self.newest_slots() {
            return self.lapped();
        }
        let count = self.stage.as_ref().map_or(1, |stage| {
            let end = stage.end.min(self.next.saturating_add(stage.mask.min(GONE_MAX)));
            let gone = |s: &u64| matches!(stage.slots[(s & stage.mask) as usize].look(*s), Look::Gone);
            1 + (self.next + 1..end).take_while(gone).count() as u64
        });
        self.missed(count, Cause::RingBytes)
    }

    /// Counts messages that are not there any more. `None`: nothing was lost by that, look again.
    fn missed(&mut self, count: u64, cause: Cause) -> Option<Taken> {
        if self.row.seat_state() == state::EVICTED {
            let left = self.waiting().clamp(count, AHEAD_MAX);
            let gap = self.lose_all(left, Cause::Evicted);
            self.over = true;
            return Some(Taken::Evicted(gap));
        }
        if let Some(first) = self.before_joining(count) {
            // History is what happens to be there: a late joiner has not lost what it never had.
            self.entry.first.store(first, Ordering::Relaxed);
            self.passed(first);
            self.locate();
            return None;
        }
        // A publisher takes nothing from a row that may gate but where it waits for it no longer, or has not met it yet.
        let gated = self.policy.gates() && self.ring.flags.load(Ordering::Relaxed) & RING_GATES != 0;
        Some(self.lose(count, if gated { Cause::Stalled } else { cause }))
    }

    fn newest_slots(&self) -> u64 {
        let used = self.ring.stages_used.load(Ordering::Acquire) as usize;
        let at = used.checked_sub(1).and_then(|newest| self.ring.stage_at.get(newest));
        at.map_or(1, |at| 1 << (at.load(Ordering::Relaxed) & 63).min(u64::from(SLOTS_MAX.trailing_zeros())))
    }

    /// Jumps to where the ring surely still is. `None`: nothing was lost by that, look again.
    #[cold]
    fn lapped(&mut self) -> Option<Taken> {
        self.locate();
        if self.stage.is_none() {
            return Some(self.broken());
        }
        let slots = self.newest_slots();
        let head = self.row.head();
        let waiting = (head + 1).saturating_sub(self.next);
        if waiting == 0 || waiting > AHEAD_MAX {
            return Some(self.lose(1, Cause::Corrupt));
        }
        // The oldest that is surely there, and an eighth of the ring more, because the publisher goes on meanwhile.
        let oldest = (head + 1).saturating_sub(slots - slots / 8);
        let count = oldest.saturating_sub(self.next).max(1);
        self.missed(count, Cause::Lapped)
    }

    /// The last of the next `count` messages that was there before this row joined late; `None` where the next was not.
    fn before_joining(&self, count: u64) -> Option<u64> {
        let entry = &self.entry;
        let late = entry.history.load(Ordering::Relaxed) > 0
            && entry.cursor.load(Ordering::Relaxed) == entry.first.load(Ordering::Relaxed)
            && entry.created_ns.load(Ordering::Relaxed) > self.ring.created_ns.load(Ordering::Relaxed);
        let last = self.row.joined_at.load(Ordering::Relaxed).min(self.next + count - 1);
        (late && last >= self.next).then_some(last)
    }

    fn skip_to(&mut self, depth: u64, cause: Cause) -> Option<Gap> {
        let waiting = self.waiting();
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
        while self.next <= self.last && self.queued.as_ref().map_or(0, |queued| queued.len()) < depth {
            match self.take_next() {
                Taken::Message(message) => self.queued.get_or_insert_default().push_back(message),
                Taken::Gap(gap) => return Taken::Gap(gap),
                other => return self.take_queued().map_or(other, Taken::Message),
            }
        }
        let newer = self.waiting();
        if newer > 0 && newer <= AHEAD_MAX && self.next <= self.last {
            return self.lose(newer, Cause::DropNewest);
        }
        self.take_queued().map_or(Taken::Empty, Taken::Message)
    }

    fn take_queued(&mut self) -> Option<Message> {
        self.queued.as_mut()?.pop_front()
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
        if self.stage.is_none() || self.has_taken() {
            return false;
        }
        let (generation, at) = unkey(self.ring.key.load(Ordering::Acquire));
        let closed = at == state::CLOSED && self.next > self.ring.closed_at.load(Ordering::Relaxed);
        let reused = generation != self.row.ring_key.generation || at == state::FREE;
        // Read in this order: everything that a dead process stored is visible once its death is.
        let dead = matches!(self.row.peer.life(), Life::Dead | Life::Closed);
        self.over = reused || ((closed || dead) && self.has_nothing());
        self.over
    }

    /// Whether it had its seat when it was looked at last.
    pub fn has_begun(&self) -> bool {
        self.stage.is_some()
    }

    /// Whether all was taken up to where [`RowReader::end_at`] has drawn the end; also where it has drawn none.
    pub fn has_reached_end(&self) -> bool {
        self.last == u64::MAX || self.reached() >= self.last
    }

    /// Nothing behind this sequence is taken before it is asked for any more.
    pub fn end_at(&mut self, last: u64) {
        self.last = last;
    }

    /// Whether messages lie here that have not been returned yet.
    pub fn has_taken(&self) -> bool {
        self.queued.as_ref().is_some_and(|queued| !queued.is_empty())
    }

    /// Whether the slot of the next message is empty at this moment.
    pub fn has_nothing(&mut self) -> bool {
        if self.stage.is_none() && !self.begin() {
            return true;
        }
        if self.has_taken() {
            return false;
        }
        let end = self.stage.as_ref().map_or(0, |stage| stage.end);
        if self.next >= end || self.ring.stages_used.load(Ordering::Acquire) != self.stages_seen {
            self.locate();
        }
        self.stage.as_ref().is_none_or(|stage| {
            matches!(stage.slots[(self.next & stage.mask) as usize].look(self.next), Look::Empty)
        })
    }
}
