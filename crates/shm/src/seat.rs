//! What a ring knows of the rows that read it.
//!
//! A seat is given by the control thread when a subscriber asks, and freed by it when the row closes or its
//! process dies. The publisher's thread keeps a private copy of the list and takes the lock only when the list's
//! version has changed, or to mark a seat stalled or evicted. A seat's entry lies in the publisher's arena, so
//! that the subscriber can see how it is treated.
//!
//! Invariants: (S1) a row that comes late begins where nothing is given up any more: the version is raised before its place
//! is chosen, so that a publisher either waits for the list or has shown how far it was.
//! A hold that was stored after the seat was given is respected. The version is raised before the
//! subscriber is told; the publisher looks at the version after the fence that precedes each scan (`recycle`).
//! Where a row says that it is, is clamped to what the ring knows: a lying row hurts itself only. What it says that it has
//! counted is not, because the account is there to show what does not add up.
//! Whether a process has died is said by its life word alone, which the kernel marks; nobody else's word frees what it may
//! be reading. A row that reads for somebody elsewhere keeps its place when its process dies, see `place`.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use busway_wire::Cause;
use busway_wire::{Generation, Policy, ProcessId, RingIndex};

use crate::arena::{OwnArena, PeerArena};
use crate::clock;
use crate::counters;
use crate::error::ShmError;
use crate::heap::Table;
use crate::layout::{
    CAUSES, CAUSES_SIDE_BY_SIDE, CounterPage, PAGE, RING_RELAYS, ROW_HOLDS, ROWS_AT, RingEntry, RowEntry,
    SeatEntry, key, state, unkey,
};
use crate::life::Life;
use crate::marks::Stamp;
use crate::recycle::Remains;
use crate::row::{RowAccount, ledger};
use crate::slot::Slot;
use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};
use crate::view::Mapped;
use age::Ages;
use early::Early;
use group::{Group, Left, Member};

mod age;
pub(crate) mod between;
pub mod early;
pub mod group;
mod place;
pub mod request;
#[cfg(test)]
mod tests;
pub mod work;

/// Most hold words of a row that a publisher looks at; more are refused at the seat.
pub const HOLDS_MAX: u64 = 4096;
/// Most hold words of all rows of one process at one ring: looking at them takes a publisher some 100 us, once for
/// each batch of retired chunks. A thousand subscriptions to one topic in one process have 16 000.
pub const PROCESS_HOLDS_MAX: u64 = 1 << 16;

/// An entry of a table, and which use of it is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EntryKey {
    /// Position in the table.
    pub index: u32,
    /// Raised each time the entry is used anew.
    pub generation: u32,
}

impl EntryKey {
    /// Both in one word, as rows and seats store it.
    pub fn word(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    /// The two halves of a word.
    pub fn from_word(word: u64) -> Self {
        Self { index: word as u32, generation: (word >> 32) as u32 }
    }
}

/// One row that reads our ring.
#[derive(Clone, Debug)]
pub struct Seat {
    /// The process that owns the row.
    pub peer: Arc<PeerArena>,
    /// The row.
    pub row_key: EntryKey,
    /// The row's words.
    pub row: Mapped<RowEntry>,
    /// The row's hold words.
    pub holds: Mapped<[AtomicU64]>,
    /// Our entry for it.
    pub index: u32,
    /// What the subscriber asked for.
    pub policy: Policy,
    /// Whether it may make us wait at all.
    pub gates: bool,
    /// Head when the seat was given: the row's account begins behind it.
    pub from: u64,
    /// The furthest that the row has said to be: a cursor that goes back is not believed.
    passed: Arc<AtomicU64>,
    /// For whom its place is kept when its process dies, and the user who asked for that.
    place: Option<NonZeroU64>,
    uid: u32,
    /// Of a row of our own that stands for one whose process died: who that was.
    stands_for: Option<Arc<place::Gone>>,
    /// Of a row of our own that stands for a group: that group.
    pub(crate) group: Option<Arc<Group>>,
    /// Of a row of our own that stands for the first subscriber: what is kept for it.
    pub(crate) early: Option<Arc<Early>>,
    /// Of a puller's row: its place in its group, which is what gates.
    member: Option<Member>,
}

/// How far a row is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It has passed everything up to here.
    Passed(u64),
    /// It reads no more; its holds are released.
    Closed,
}

impl Seat {
    /// How far the row is, clamped to `head`. It never goes back, so that two rows which take turns cannot make a
    /// publisher wait again and again for what each of them has passed.
    pub fn progress(&self, head: u64) -> Progress {
        if let Some(group) = &self.group {
            return Progress::Passed(group.passed().clamp(self.from, head.max(self.from)));
        }
        if let Some(early) = &self.early {
            return Progress::Passed(early.passed().clamp(self.from, head.max(self.from)));
        }
        if self.member.is_some() {
            return if group::reads(self) { Progress::Passed(head) } else { Progress::Closed };
        }
        let (generation, at) = unkey(self.row.key.load(Ordering::Acquire)); // pairs with Release in `row`
        if generation != self.row_key.generation || at == state::CLOSED || at == state::FREE {
            return Progress::Closed;
        }
        if at == state::STARTING {
            return Progress::Passed(self.from);
        }
        let cursor = self.row.cursor.load(Ordering::Acquire); // pairs with Release in `row`
        let known = self.passed.load(Ordering::Relaxed);
        if cursor > known {
            self.passed.store(cursor, Ordering::Relaxed);
        }
        Progress::Passed(cursor.max(known).clamp(self.from, head.max(self.from)))
    }

    /// What became of the messages since the row's account began. What a closed row had not taken is lost with it; a row
    /// whose words are gone says nothing. `head` is asked after the row was read.
    pub fn ledger(&self, head: impl FnOnce() -> u64) -> RowAccount {
        if let Some(group) = &self.group {
            group.passed(); // Its row follows the claims when it is looked at.
        }
        if let Some(early) = &self.early {
            early.passed(); // Nor does anybody else look at the clock.
        }
        if self.member.is_some() {
            return RowAccount::of_puller(&self.row);
        }
        let (generation, at) = unkey(self.row.key.load(Ordering::Acquire)); // pairs with Release in `row`
        if generation != self.row_key.generation || at == state::FREE {
            return RowAccount::default();
        }
        let mut account = ledger::read(&self.row, self.from, head);
        if at == state::CLOSED {
            account.lose_the_rest(Cause::SubscriberLeft);
        }
        account
    }

    /// Whether the row's process takes part in the bus: only then may the row gate.
    pub fn alive(&self) -> bool {
        !matches!(self.peer.life(), Life::Dead | Life::Closed)
    }

    /// Whether the row counts where room is made: its process takes part, or its place is kept. Who has left the bus
    /// cleanly comes back for nothing.
    pub fn counts(&self) -> bool {
        match self.peer.life() {
            Life::Closed => false,
            Life::Dead => self.keeps(),
            Life::Starting | Life::Alive => true,
        }
    }

    /// The process and the row.
    fn who(&self) -> (ProcessId, EntryKey) {
        (self.peer.process(), self.row_key)
    }

    /// The process id and the name of who reads, or of who read before it died.
    pub(crate) fn reader(&self) -> (u32, String) {
        if let Some(group) = &self.group {
            return (self.peer.pid(), group.shown());
        }
        if self.early.is_some() {
            return (self.peer.pid(), "no subscriber yet".to_owned());
        }
        match &self.stands_for {
            Some(gone) => (gone.pid, gone.name.clone()),
            None => (self.peer.pid(), self.peer.name()),
        }
    }

    pub(crate) fn stands_in(&self) -> bool {
        self.stands_for.is_some() || self.group.is_some() || self.early.is_some()
    }

    /// Whether its place is kept when its process dies.
    pub(crate) fn keeps(&self) -> bool {
        self.place.is_some()
    }

    /// Whether the row's process is dead, so that nobody reads what the row holds. A process that has only closed
    /// its bus may still hold samples.
    pub fn dead(&self) -> bool {
        self.peer.life() == Life::Dead
    }
}

/// The part of a ring that the publisher's thread and the control thread share.
#[derive(Debug)]
pub struct RingShared {
    own: Arc<OwnArena>,
    key: EntryKey,
    entry: Mapped<RingEntry>,
    head: Mapped<AtomicU64>,
    /// Of its group, where it has one.
    mark: Option<Mapped<AtomicU64>>,
    stamp: Stamp,
    gating: bool,
    /// Whether places are kept: what comes from another host is not held up for a host that may never come back.
    places: bool,
    /// Whether its messages are for groups: for how long without a puller, and in how many slots at most.
    pushes: Option<(u64, u32)>,
    /// Whether its messages are requests: they are for the responders alone, and nothing else is for those.
    asks: AtomicBool,
    /// For which group alone its messages are, and how that acknowledges.
    reserved: OnceLock<busway_wire::Group>,
    seats: Mutex<Vec<Seat>>,
    version: AtomicU64,
    /// The last message that was given up though the ring had room for it: later rows begin behind it.
    given_up: AtomicU64,
    /// What was due to rows that are gone, noted when each went: only we ask, so it lies in no arena.
    past_expected: AtomicU64,
    /// Lost by groups that are gone, by the causes that are of groups alone.
    past_of_groups: [AtomicU64; CAUSES - CAUSES_SIDE_BY_SIDE],
    remains: Mutex<Option<Remains>>,
    /// Of a ring that keeps a time's messages for those who come later.
    history: OnceLock<Mutex<Ages>>,
}

/// What becomes of what a row that goes had not passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// It is lost with its process.
    Died,
    /// It is lost because the row was closed.
    Left,
    /// Another row has it.
    Kept,
}

/// What became of the rows of a ring when the control thread looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Rows that closed.
    pub left: u32,
    /// Rows whose process died.
    pub died: u32,
    /// Of those, rows whose place is kept.
    pub kept: u32,
    /// Messages that a puller which is gone had, and that are free again.
    pub returned: u32,
}

/// What became of a ring's messages, row by row.
#[derive(Clone, Debug)]
pub struct Ledgers {
    /// Sequence of the last message.
    pub head: u64,
    /// Rows that have a seat.
    pub present: Vec<RowAccount>,
    /// What is kept for the first subscriber, while there is none.
    pub early: Option<RowAccount>,
    /// Rows that are gone.
    pub past_rows: u64,
    /// Published while each of them was there.
    pub past_expected: u64,
    /// Delivered to them.
    pub past_delivered: u64,
    /// Lost by them, by cause.
    pub past_dropped: [u64; CAUSES],
}

impl RingShared {
    pub(crate) fn new(
        own: Arc<OwnArena>,
        key: EntryKey,
        entry: Mapped<RingEntry>,
        head: Mapped<AtomicU64>,
        mark: Option<Mapped<AtomicU64>>,
        gating: bool,
        places: bool,
    ) -> Self {
        let stamp = Stamp::of(RingIndex(key.index), Generation(key.generation));
        let (seats, remains) = (Mutex::new(Vec::new()), Mutex::new(None));
        let (version, given_up, past_expected) = (AtomicU64::new(1), AtomicU64::new(0), AtomicU64::new(0));
        Self {
            own,
            key,
            entry,
            head,
            mark,
            stamp,
            gating,
            places,
            pushes: None,
            asks: AtomicBool::new(false),
            reserved: OnceLock::new(),
            seats,
            version,
            given_up,
            past_expected,
            past_of_groups: std::array::from_fn(|_| AtomicU64::new(0)),
            remains,
            history: OnceLock::new(),
        }
    }

    /// A ring for groups, which gates for as long as this while nobody pulls, and has so many slots at most.
    pub(crate) fn for_groups(mut self, late_join_ns: u64, slots_max: u32) -> Self {
        self.pushes = Some((late_join_ns, slots_max));
        self
    }

    /// Which ring this is.
    pub fn key(&self) -> EntryKey {
        self.key
    }

    /// The ring's entry in our arena.
    pub fn entry(&self) -> &RingEntry {
        &self.entry
    }

    /// Sequence of the last message published.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Says to readers that the message of this sequence is in its slot.
    #[inline]
    pub(crate) fn tell_head(&self, sequence: u64) {
        self.head.store(sequence, Ordering::Release); // pairs with Acquire in `row` and `marks`
        if let Some(mark) = &self.mark {
            self.stamp.put(mark, sequence);
        }
    }

    pub(crate) fn own(&self) -> &Arc<OwnArena> {
        &self.own
    }

    /// The publisher's thread: this message is not there any more.
    pub(crate) fn give_up(&self, sequence: u64) {
        self.given_up.store(sequence, Ordering::Relaxed); // before the fence of its next look (S1)
    }

    /// Changes whenever the list of seats does.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire) // pairs with Release in `raise`
    }

    fn raise(&self) {
        self.version.fetch_add(1, Ordering::Release); // pairs with Acquire in `version`
    }

    /// The seats as they are now.
    pub fn seats(&self) -> Vec<Seat> {
        self.lock().clone()
    }

    /// Number of seats, but for what stands for the first subscriber while there is none.
    pub fn seated(&self) -> usize {
        self.lock().iter().filter(|seat| seat.early.is_none()).count()
    }

    /// From now on the messages of so long ago are kept for rows that come later and ask for history, as far as the ring may
    /// hold them, and such a row gets no older ones than these and the number that is kept anyway.
    pub fn keep_history_for(&self, time_ns: u64) {
        let _ = self.history.set(Mutex::new(Ages::new(time_ns))); // Once: a second time changes nothing.
    }

    /// Of a ring that keeps a time's messages, the last that is older.
    pub(crate) fn outdated(&self) -> Option<u64> {
        let ages = self.history.get()?;
        let old = ages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .old(self.head(), clock::monotonic_coarse_ns());
        Some(old)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the row a seat. Asked again for the same row, it answers with the same seat.
    ///
    /// # Errors
    /// The row is not what the request says, or our arena has no room for another seat.
    pub fn attach(&self, peer: &Arc<PeerArena>, row_key: EntryKey, policy: Policy) -> Result<u32, ShmError> {
        self.seat_for(peer, row_key, policy, None).map(|seat| seat.index)
    }

    fn seat_for(
        &self,
        peer: &Arc<PeerArena>,
        row_key: EntryKey,
        policy: Policy,
        pulls: Option<&busway_wire::Group>,
    ) -> Result<Seat, ShmError> {
        let mut seats = self.lock();
        let same = |seat: &&Seat| seat.row_key == row_key && seat.peer.process() == peer.process();
        if let Some(seat) = seats.iter().find(same) {
            return Ok(seat.clone());
        }
        if unkey(self.entry.key.load(Ordering::Relaxed)) == (self.key.generation, state::FREE) {
            return Err(ShmError::Refused { what: "the publisher is gone" });
        }
        if self.pushes.is_some() && pulls.is_none() {
            return Err(ShmError::Refused { what: "its messages are for groups, not for subscribers" });
        }
        let row = self.check_row(peer, row_key)?;
        let holds = u64::from(row.holds.load(Ordering::Relaxed));
        if holds > HOLDS_MAX {
            return Err(ShmError::Refused { what: "more hold words than a row may have" });
        }
        let known = seats.iter().filter(|seat| seat.peer.process() == peer.process() && !seat.stands_in());
        // A row without hold words costs a look as well: it counts as the sixteen that fit into its entry.
        let words = known.fold(holds, |sum, seat| sum + (seat.holds.len() as u64).max(ROW_HOLDS as u64));
        if words > PROCESS_HOLDS_MAX {
            return Err(ShmError::Refused {
                what: "more rows and hold words than a process may have at one ring",
            });
        }
        let holds = peer.tables().arena().slice(row.holds_at.load(Ordering::Relaxed), holds)?;
        let gates = self.gating && policy.gates() && pulls.is_none();
        let place = NonZeroU64::new(row.place.load(Ordering::Relaxed))
            .filter(|_| gates && self.places && policy == Policy::Block);
        // S1: a publisher that looks from now on waits for the list; of one that has looked we see all that it gives up.
        self.raise();
        fence(Ordering::SeqCst); // pairs with the fence in `room::look`
        let kept = place::kept(&seats, place, peer.uid(), self.head());
        let index = self.own.take_entry(Table::Seat)?;
        let joined = pulls.map(|group| self.join(&mut seats, group, peer.process(), row_key)).transpose();
        let joined = joined.inspect_err(|_| self.own.give_entry(Table::Seat, index))?;
        let (member, joined_at) = joined.map_or((None, None), |(member, from)| (Some(member), Some(from)));
        let first = if pulls.is_none() { early::take_over(&mut seats) } else { None };
        let from = joined_at.or(kept.from()).unwrap_or_else(|| self.start_for(&row, first.as_ref()));
        between::now(between::Step::Placed, self);
        let passed = Arc::new(AtomicU64::new(from));
        let (peer, uid, stands_for) = (peer.clone(), peer.uid(), None);
        let (group, early) = (None, None);
        let seat = Seat {
            peer,
            row_key,
            row,
            holds,
            index,
            policy,
            gates,
            from,
            passed,
            place,
            uid,
            stands_for,
            group,
            early,
            member,
        };
        self.fill_entry(&seat);
        let taken = kept.take_from(&mut seats);
        seats.push(seat.clone());
        self.entry.seated.store(seats.len() as u64, Ordering::Relaxed);
        self.raise();
        let gone = taken.iter().chain(first.iter().map(|(_, seat)| seat));
        gone.for_each(|old| self.fold(old, Rest::Kept)); // K5, E2
        Ok(seat)
    }

    fn check_row(&self, peer: &Arc<PeerArena>, row_key: EntryKey) -> Result<Mapped<RowEntry>, ShmError> {
        let offset = ROWS_AT + u64::from(row_key.index) * size_of::<RowEntry>() as u64;
        if row_key.index >= crate::layout::ROWS_MAX {
            return Err(ShmError::OutOfBounds { offset, len: 0, size: 0 });
        }
        let row: Mapped<RowEntry> = peer.tables().at(offset)?;
        let (generation, at) = unkey(row.key.load(Ordering::Acquire)); // pairs with Release in `row`
        let ours = row.publisher.load(Ordering::Relaxed) == self.own.process().0
            && row.ring.load(Ordering::Relaxed) == self.key.word();
        if generation != row_key.generation || !matches!(at, state::STARTING | state::ACTIVE) || !ours {
            return Err(ShmError::Refused { what: "the row is closed, or reads another ring" });
        }
        Ok(row)
    }

    /// The first begins where what was kept for it does. It gets the history that it asks for all the same: what was counted
    /// as lost to nobody is not lost to it.
    fn start_for(&self, row: &RowEntry, first: Option<&(u64, Seat)>) -> u64 {
        match first {
            Some((from, _)) if row.history.load(Ordering::Relaxed) > 0 => self.start_of(row).min(*from),
            Some((from, _)) => *from,
            None => self.start_of(row),
        }
    }

    /// A subscription that is older than the ring misses nothing; a later one begins at the head, or earlier by
    /// as much history as it wants and the ring still has.
    fn start_of(&self, row: &RowEntry) -> u64 {
        let head = self.head();
        if row.created_ns.load(Ordering::Relaxed) <= self.entry.created_ns.load(Ordering::Relaxed) {
            return 0;
        }
        let stage = (self.entry.stages_used.load(Ordering::Relaxed) as usize).saturating_sub(1);
        let log2 = self.entry.stage_at.get(stage).map_or(0, |at| at.load(Ordering::Relaxed) & 63);
        let kept = (1_u64 << log2.min(32)) - 1;
        let given_up = self.given_up.load(Ordering::Relaxed).min(head);
        // Of a time's messages no older ones, but those of which a number is kept.
        let counted = head.saturating_sub(u64::from(self.entry.history.load(Ordering::Relaxed)));
        let outdated = self.outdated().map_or(0, |outdated| outdated.min(counted));
        head.saturating_sub(row.history.load(Ordering::Relaxed).min(kept)).max(given_up).max(outdated)
    }

    fn fill_entry(&self, seat: &Seat) {
        let Some(entry) = self.own.tables().seat(seat.index) else { return };
        let (generation, _) = unkey(entry.key.load(Ordering::Relaxed));
        entry.subscriber.store(seat.peer.process().0, Ordering::Relaxed);
        entry.row.store(seat.row_key.word(), Ordering::Relaxed);
        entry.ring.store(self.key.word(), Ordering::Relaxed);
        entry.from.store(seat.from, Ordering::Relaxed);
        for counter in [&entry.waits, &entry.waited_ns, &entry.stalls] {
            counter.store(0, Ordering::Relaxed);
        }
        // pairs with Acquire in `row` and `inspect`
        entry.key.store(key(generation.wrapping_add(1), state::ACTIVE), Ordering::Release);
    }

    /// Marks a seat, if it still is the one that the publisher's thread means.
    pub(crate) fn mark(&self, seat: &Seat, at: u32) {
        let seats = self.lock();
        let current = |other: &Seat| {
            other.index == seat.index
                && other.row_key == seat.row_key
                && other.peer.process() == seat.peer.process()
        };
        if let (true, Some(entry)) = (seats.iter().any(current), self.entry_of(seat)) {
            let (generation, _) = unkey(entry.key.load(Ordering::Relaxed));
            entry.key.store(key(generation, at), Ordering::Release);
        }
    }

    pub(crate) fn entry_of(&self, seat: &Seat) -> Option<&SeatEntry> {
        self.own.tables().seat(seat.index)
    }

    /// How the seat is marked now.
    pub(crate) fn marked(&self, seat: &Seat) -> u32 {
        // Acquire: pairs with Release in `fold`: who sees a seat free sees the version that was raised before.
        self.entry_of(seat).map_or(state::FREE, |entry| unkey(entry.key.load(Ordering::Acquire)).1)
    }

    /// Frees the seats of rows that closed and of processes that died, as their life words say, and once the publisher
    /// is gone and the last seat is free, the ring itself. Called by the control thread.
    pub fn reap(&self) -> Reaped {
        let mut reaped = Reaped::default();
        let mut seats = self.lock();
        let over = unkey(self.entry.key.load(Ordering::Relaxed)).1 == state::CLOSED;
        // One look at each process: who dies meanwhile is dead at the next.
        let deaths = place::Deaths::of(&seats);
        between::now(between::Step::DeathsSeen, self);
        let mut stand_ins = place::StandIns::new(&seats, &deaths, over);
        // A group whose pusher is gone is over with its last puller.
        let pulled = seats.iter().any(|seat| seat.member.is_some());
        let works = |seat: &Seat| seat.member.is_some() && !deaths.of_seat(seat) && group::reads(seat);
        let others_pull = seats.iter().any(works);
        let abandoned = |seat: &Seat| seat.group.as_ref().is_some_and(|group| group.is_abandoned());
        let mut gone = Vec::new();
        seats.retain(|seat| {
            let died = deaths.of_seat(seat);
            let closed = seat.progress(u64::MAX) == Progress::Closed;
            let given_up = seat.stands_in() && over && !(seat.group.is_some() && pulled)
                || others_pull && abandoned(seat);
            if !died && !closed && !given_up {
                // Its bus was closed and a task is still there: the task is nobody's, the seat keeps what it holds.
                if let Some(member) = seat.member.as_ref().filter(|_| seat.peer.life() == Life::Closed) {
                    reaped.returned += member.group.leave(member.owner, seat.who(), Left::Died);
                }
                return true;
            }
            if died {
                reaped.died += 1
            } else {
                reaped.left += 1
            }
            if let Some(member) = &seat.member {
                let left = if died { Left::Died } else { Left::Closed };
                reaped.returned += member.group.leave(member.owner, seat.who(), left); // G2
            }
            if died && !closed && stand_ins.take(self, seat) {
                reaped.kept += 1;
                gone.push((seat.clone(), Rest::Kept));
            } else {
                gone.push((seat.clone(), if died || given_up { Rest::Died } else { Rest::Left }));
            }
            false
        });
        let stand_ins = stand_ins.all();
        seats.extend(stand_ins);
        if reaped != Reaped::default() {
            self.entry.seated.store(seats.len() as u64, Ordering::Relaxed);
            self.raise();
        }
        gone.iter().for_each(|(seat, rest)| self.fold(seat, *rest)); // K5
        if seats.is_empty() {
            self.free();
        }
        reaped
    }

    /// Waits no more for the rows of a process of which somebody says that it is gone: they are stalled, and gate again
    /// when they have caught up. What they hold is theirs.
    pub fn stop_gating(&self, process: ProcessId) {
        let of_it = |seat: &Seat| seat.gates && seat.place.is_none() && seat.peer.process() == process;
        let gating = self.seats().into_iter().filter(of_it);
        for seat in gating.filter(|seat| self.marked(seat) == state::ACTIVE) {
            self.mark(&seat, state::STALLED);
        }
    }

    /// Adds a row that is gone to the ring's past, so that the account stays closed. The version was raised before (K5).
    fn fold(&self, seat: &Seat, rest: Rest) {
        let mut ledger = seat.ledger(|| self.head());
        match rest {
            Rest::Died | Rest::Left if seat.group.is_some() || seat.early.is_some() => {
                ledger.lose_the_rest(Cause::NoSubscriber)
            }
            Rest::Died => ledger.lose_the_rest(Cause::SubscriberDied),
            Rest::Left => ledger.lose_the_rest(Cause::SubscriberLeft),
            Rest::Kept => ledger.expected = ledger.expected.saturating_sub(ledger.in_flight),
        }
        self.own.folding(|_| self.fold_ledger(seat, rest, &ledger));
        between::now(between::Step::Folded, self);
    }

    fn fold_ledger(&self, seat: &Seat, rest: Rest, ledger: &RowAccount) {
        self.past_expected.fetch_add(ledger.expected, Ordering::Relaxed);
        // Only this thread adds: a row that lies about its numbers does not turn them round.
        let add = |sum: &AtomicU64, count: u64| {
            sum.store(sum.load(Ordering::Relaxed).saturating_add(count), Ordering::Relaxed);
        };
        add(&self.entry.past_delivered, ledger.delivered);
        for (sum, lost) in self.entry.past_dropped.iter().chain(&self.past_of_groups).zip(ledger.dropped) {
            add(sum, lost);
        }
        // Whose place is kept is counted with the row that has it.
        if rest != Rest::Kept && seat.early.is_none() {
            self.entry.past_rows.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(group) = &seat.group {
            self.free_group(group);
        }
        if seat.stands_in() {
            self.free_stand_in(seat);
        }
        if let Some(entry) = self.entry_of(seat) {
            let (generation, _) = unkey(entry.key.load(Ordering::Relaxed));
            entry.key.store(key(generation, state::FREE), Ordering::Release);
            self.own.give_entry(Table::Seat, seat.index);
        }
    }

    /// The ledgers of all rows that there ever were: those that are there, and the sums of those that are gone.
    pub fn ledgers(&self) -> Ledgers {
        let seats = self.lock();
        let head = self.head();
        let rows = |of: &dyn Fn(&Seat) -> bool| -> Vec<RowAccount> {
            seats.iter().filter(|seat| of(seat)).map(|seat| seat.ledger(|| self.head())).collect()
        };
        Ledgers {
            head,
            present: rows(&|seat| seat.early.is_none()),
            early: rows(&|seat| seat.early.is_some()).pop(),
            past_rows: self.entry.past_rows.load(Ordering::Relaxed),
            past_expected: self.past_expected.load(Ordering::Relaxed),
            past_delivered: self.entry.past_delivered.load(Ordering::Relaxed),
            past_dropped: std::array::from_fn(|cause| {
                let past = self.entry.past_dropped.iter().chain(&self.past_of_groups).nth(cause);
                past.map_or(0, |lost| lost.load(Ordering::Relaxed))
            }),
        }
    }

    /// The publisher is gone: what it leaves is kept until the last row has passed it.
    pub(crate) fn leave(&self, remains: Remains) {
        self.own.leave_chunks(remains.chunks.len());
        *self.remains.lock().unwrap_or_else(PoisonError::into_inner) = Some(remains);
        self.entry.closed_at.store(self.head(), Ordering::Relaxed);
        // pairs with Acquire in `row`
        self.entry.key.store(key(self.key.generation, state::CLOSED), Ordering::Release);
    }

    /// Whether the ring's memory was given back.
    pub fn is_free(&self) -> bool {
        unkey(self.entry.key.load(Ordering::Acquire)).1 == state::FREE
    }

    /// What the ring has counted is the process's from now on.
    fn fold_ring(&self, page: &CounterPage) {
        let entry = &self.entry;
        let all = |word: &AtomicU64| word.load(Ordering::Relaxed);
        if entry.flags.load(Ordering::Relaxed) & RING_RELAYS != 0 {
            counters::add(&page.past_relayed, self.head());
        } else {
            counters::add(&page.past_sent, self.head());
            counters::add(&page.past_bytes, all(&entry.sent_bytes));
            counters::add(&page.past_delivered, all(&entry.past_delivered));
            counters::add_causes(&page.past_dropped, entry.past_dropped.iter().chain(&self.past_of_groups));
        }
        counters::add(&page.past_waits, all(&entry.waits));
        entry.key.store(key(self.key.generation, state::FREE), Ordering::Release);
    }

    fn free(&self) {
        let Some(remains) = self.remains.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        remains.give_back(&self.own);
        self.own.folding(|page| self.fold_ring(page));
        let stages = self.entry.stages_used.load(Ordering::Relaxed) as usize;
        for at in self.entry.stage_at.iter().take(stages) {
            let at = at.load(Ordering::Relaxed);
            let bytes = ((size_of::<Slot>() as u64) << (at & 63)).max(PAGE);
            self.own.give_pages(at & !63, bytes);
        }
        self.own.give_entry(Table::Ring, self.key.index);
    }
}
