//! Places that are kept: a row that reads for a peer on another host goes with its process, the peer does not.
//!
//! Such a row says by a number for whom it reads, the same after each start of its node. When its process dies, a row of
//! our own is put in its place: it says where the dead one was, holds nothing, never moves, and gates like any other, so
//! that nothing is overwritten that the peer has not got, within the ring's patience. The next row of the same number and
//! user takes the place over and reads on from there. A place pins no memory but the ring's: the dead process's arena is
//! let go.
//!
//! It does not know hosts or nodes, and keeps nothing for a ring whose publisher is gone, nor for a row that would rather
//! fail or evict than wait, nor in a ring that itself comes from another host: there somebody would wait for ever.
//!
//! Invariants: (K1) the words of a stand-in are written before its seat can be seen, and not again before its seat is
//! gone. (K2) a place is kept, taken over or given up in one hold of the lock of the seats, and who takes it over begins at
//! or before it: no message lies between. (K3) while a row of a number lives, no place of that number is kept: of two
//! nodes that say they are the same, one is enough. (K4) at most [`PLACES_MAX`] a ring. (K5) what a place was kept by is
//! freed after the version that shows who has it now: a publisher that finds a seat of its list free looks again.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use busway_wire::Policy;

use super::{Progress, RingShared, Seat};
use crate::arena::PeerArena;
use crate::clock;
use crate::error::ShmError;
use crate::heap::Table;
use crate::layout::{ROWS_AT, RowEntry, key, state, unkey};
use crate::row::policy_word;
use crate::seat::EntryKey;
use crate::sync::{AtomicU64, Ordering};
use crate::view::Mapped;

/// Places that one ring keeps: a node reads for at most 64 nodes and some thousand clients. Whoever starts processes that
/// die under ever new numbers gets no more: a place beyond is given up, as that of any other dead row is.
const PLACES_MAX: usize = 4_096;

/// Whom a row stands for.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// Who is dead, by one look at each process.
pub(super) struct Deaths(BTreeMap<*const PeerArena, bool>);

impl Deaths {
    pub(super) fn of(seats: &[Seat]) -> Self {
        let mut deaths = BTreeMap::new();
        for seat in seats {
            deaths.entry(Arc::as_ptr(&seat.peer)).or_insert_with(|| seat.dead());
        }
        Self(deaths)
    }

    pub(super) fn of_seat(&self, seat: &Seat) -> bool {
        self.0.get(&Arc::as_ptr(&seat.peer)).copied().unwrap_or(false)
    }
}

/// The dead and the kept rows of a place, found by one look: entries of our table, and how far each is.
pub(super) struct Kept(Vec<(u32, u64)>);

impl Kept {
    /// The least of them. `None` where there is none.
    pub(super) fn from(&self) -> Option<u64> {
        self.0.iter().map(|(_, cursor)| *cursor).min()
    }

    /// Takes them off the list.
    pub(super) fn take_from(&self, seats: &mut Vec<Seat>) -> Vec<Seat> {
        if self.0.is_empty() {
            return Vec::new();
        }
        seats.extract_if(.., |seat| self.0.iter().any(|(index, _)| *index == seat.index)).collect()
    }
}

/// What is kept for `place`. Only the user who asked for a place may take it.
pub(super) fn kept(seats: &[Seat], place: Option<NonZeroU64>, uid: u32, head: u64) -> Kept {
    let Some(place) = place else { return Kept(Vec::new()) };
    let is_kept =
        |seat: &&Seat| seat.place == Some(place) && seat.uid == uid && (seat.stands_in() || seat.dead());
    let cursors = seats.iter().filter(is_kept).filter_map(|seat| match seat.progress(head) {
        Progress::Passed(cursor) => Some((seat.index, cursor)),
        Progress::Closed => None,
    });
    Kept(cursors.collect())
}

/// The rows that will stand for those that died.
pub(super) struct StandIns {
    made: Vec<Seat>,
    /// Numbers that need none, because a row that lives has them.
    present: Vec<(NonZeroU64, u32)>,
    room: usize,
}

impl StandIns {
    /// `over` says that the publisher is gone.
    pub(super) fn new(seats: &[Seat], deaths: &Deaths, over: bool) -> Self {
        let kept = seats.iter().filter(|seat| seat.stands_in()).count();
        let lives = seats.iter().filter(|seat| !deaths.of_seat(seat) && !seat.stands_in());
        let present = lives.filter_map(|seat| Some((seat.place?, seat.uid))).collect();
        Self { made: Vec::new(), present, room: if over { 0 } else { PLACES_MAX.saturating_sub(kept) } }
    }

    /// Whether the place of a row that died is kept from now on.
    pub(super) fn take(&mut self, ring: &RingShared, dead: &Seat) -> bool {
        let Some(place) = dead.place.filter(|_| self.made.len() < self.room) else { return false };
        if self.present.contains(&(place, dead.uid)) {
            return false;
        }
        // Without memory for it the place is lost, and what it had not passed is counted.
        ring.stand_in(dead).map(|stand_in| self.made.push(stand_in)).is_ok()
    }

    pub(super) fn all(self) -> Vec<Seat> {
        self.made
    }
}

/// What is to stand in a row of our own.
pub(super) struct Row {
    port: u64,
    policy: Policy,
    place: Option<NonZeroU64>,
}

impl Row {
    /// One that gates, and whose port is that of nobody: of a group, or of what is kept for the first subscriber.
    pub(super) const OF_OURS: Self = Self { port: 0, policy: Policy::Block, place: None };
}

impl RingShared {
    /// A row of ours that stands where a dead one stood.
    fn stand_in(&self, dead: &Seat) -> Result<Seat, ShmError> {
        let head = self.head();
        // What it had counted and not passed yet, its peer has.
        let from = head - dead.ledger(|| head).in_flight.min(head);
        let port = dead.row.port.load(Ordering::Relaxed);
        let own = self.own_row(from, Row { port, policy: dead.policy, place: dead.place })?;
        let (pid, name) = dead.reader();
        let stands_for = Some(Arc::new(Gone { pid, name }));
        let Seat { peer, row_key, row, holds, index, passed, .. } = own;
        let seat = Seat { peer, row_key, row, holds, index, from, passed, stands_for, ..dead.clone() };
        self.fill_entry(&seat);
        if self.marked(dead) == state::STALLED
            && let Some(entry) = self.entry_of(&seat)
        {
            let (generation, _) = unkey(entry.key.load(Ordering::Relaxed));
            entry.key.store(key(generation, state::STALLED), Ordering::Release); // pairs with Acquire in `row`
        }
        Ok(seat)
    }

    /// A row in our own arena that gates behind `from`, and a seat for it whose entry is not filled yet.
    pub(super) fn own_row(&self, from: u64, what: Row) -> Result<Seat, ShmError> {
        let peer = self.own.mirror()?;
        let row_index = self.own.take_entry(Table::Row)?;
        let give_back = |_: &ShmError| self.own.give_entry(Table::Row, row_index);
        let offset = ROWS_AT + u64::from(row_index) * size_of::<RowEntry>() as u64;
        let row: Mapped<RowEntry> = self.own.tables().at(offset).inspect_err(give_back)?;
        let holds_at = offset + std::mem::offset_of!(RowEntry, hold_words) as u64;
        let holds = self.own.tables().arena().slice(holds_at, 1).inspect_err(give_back)?;
        let index = self.own.take_entry(Table::Seat).inspect_err(give_back)?;
        let (generation, _) = unkey(row.key.load(Ordering::Relaxed));
        let row_key = EntryKey { index: row_index, generation: generation.wrapping_add(1) };
        fill_row(&row, self, &what, from, holds_at);
        row.key.store(key(row_key.generation, state::ACTIVE), Ordering::Release); // pairs with Acquire in `progress`
        let passed = Arc::new(AtomicU64::new(from));
        let (policy, place, uid) = (what.policy, what.place, peer.uid());
        Ok(Seat {
            peer,
            row_key,
            row,
            holds,
            index,
            policy,
            gates: true,
            from,
            passed,
            place,
            uid,
            stands_for: None,
            group: None,
            early: None,
            member: None,
        })
    }

    /// Called by the control thread, as [`RowShared::look`](crate::row::RowShared::look) is for rows of subscribers: how far behind those rows of ours are that stand for
    /// groups, and for who is away.
    pub fn look(&self, now_ns: u64) {
        let head = self.head();
        self.lock().iter().filter(|seat| seat.stands_in()).for_each(|seat| seat.row.look(head, now_ns));
    }

    /// The seat of a stand-in is gone: its row is used again.
    pub(super) fn free_stand_in(&self, seat: &Seat) {
        // pairs with Acquire in `progress`
        seat.row.key.store(key(seat.row_key.generation, state::FREE), Ordering::Release);
        self.own.give_entry(Table::Row, seat.row_key.index);
    }
}

fn fill_row(row: &RowEntry, ring: &RingShared, what: &Row, from: u64, holds_at: u64) {
    let zero = [&row.lag_high, &row.delivered, &row.woken, &row.created_ns, &row.history];
    for word in zero.into_iter().chain(row.all_lost()).chain(&row.hold_words) {
        word.store(0, Ordering::Relaxed);
    }
    for word in [&row.held, &row.losing, &row.seat] {
        word.store(0, Ordering::Relaxed);
    }
    row.publisher.store(ring.own.process().0, Ordering::Relaxed);
    row.ring.store(ring.key.word(), Ordering::Relaxed);
    row.port.store(what.port, Ordering::Relaxed);
    row.policy.store(policy_word(what.policy), Ordering::Relaxed);
    row.group.store(0, Ordering::Relaxed);
    row.holds_at.store(holds_at, Ordering::Relaxed);
    row.holds.store(1, Ordering::Relaxed);
    row.looked_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
    let waits = ring.head() > from;
    row.looked_at.store(if waits { from } else { u64::MAX }, Ordering::Relaxed);
    row.place.store(what.place.map_or(0, NonZeroU64::get), Ordering::Relaxed);
    for word in [&row.first, &row.cursor] {
        word.store(from, Ordering::Relaxed);
    }
}
