//! What is published before anybody subscribes, kept for the first who does.
//!
//! It is kept by a row of our own, as the place of a dead row is: the row stands at the first message that is still there for
//! the first subscriber, gates, and so makes the ring grow; who comes first takes its place over and reads on from there. It never makes
//! a publisher wait: where its messages are in the way, of slots, bytes or memory, or older than the time, they are lost to nobody
//! and counted (`no_subscriber`).
//!
//! The first is whoever has the first seat, also one that reads for another host. It does not come again when all have gone.
//!
//! Invariants: (E1) its words are written under its lock only, and not once it is over. (E2) it is over in one hold of the lock
//! of the seats with its successor's seat, which begins where it stood: no message lies between, and none is counted twice but
//! where the successor asks for history.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busway_wire::Cause;

use super::age::Ages;
use super::{RingShared, Seat, place};
use crate::clock;
use crate::error::ShmError;
use crate::layout::RowEntry;
use crate::sync::{AtomicU64, Ordering};
use crate::view::Mapped;

/// So many messages are given up beyond the one whose place is needed, as a part of the ring, so that not each that
/// follows looks again.
const GIVE_UP_PART: u64 = 32;

/// See the head of this file.
#[derive(Debug)]
pub struct Early {
    row: Mapped<RowEntry>,
    head: Mapped<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    passed: u64,
    ages: Ages,
    /// The first has come, or the publisher is gone: who still has it in its list is not stopped by it.
    over: bool,
}

impl Early {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to here is lost to nobody.
    pub(crate) fn passed(&self) -> u64 {
        let mut state = self.lock();
        self.expire(&mut state);
        state.passed
    }

    /// Passes what is too old.
    fn expire(&self, state: &mut State) {
        let head = self.head.load(Ordering::Acquire);
        if state.over {
            state.passed = head;
            return;
        }
        let old = state.ages.old(head, clock::monotonic_coarse_ns());
        self.lose_up_to(state, old.min(head));
    }

    fn lose_up_to(&self, state: &mut State, last: u64) {
        let count = last.saturating_sub(state.passed);
        if count == 0 {
            return;
        }
        // As a reader does, see `row::ledger`.
        self.row.losing.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        if let Some(lost) = self.row.lost(Cause::NoSubscriber.index()) {
            // Before the cursor; pairs with Acquire in `ledger::read`.
            lost.store(lost.load(Ordering::Relaxed).wrapping_add(count), Ordering::Release);
        }
        state.passed = last;
        self.row.cursor.store(last, Ordering::Release); // pairs with Acquire in `ledger::read`
        self.row.losing.store(0, Ordering::Release); // pairs with Acquire in `ledger::read`
    }

    /// Lets the message go whose place is needed, in a ring of so many slots.
    pub(crate) fn give_up(&self, needed: u64, slots: u64) {
        let mut state = self.lock();
        if !state.over {
            let head = self.head.load(Ordering::Acquire);
            self.lose_up_to(&mut state, needed.saturating_add(slots / GIVE_UP_PART).min(head));
        }
    }

    /// The first has come: it begins behind this. The lock of the seats is held (E2).
    pub(super) fn end(&self) -> u64 {
        let mut state = self.lock();
        self.expire(&mut state);
        state.over = true;
        state.passed
    }
}

impl RingShared {
    /// From now on what is published is kept for the first subscriber, each message for this time and as far as the ring has
    /// room. To be called before anybody is told of the ring.
    ///
    /// # Errors
    /// There is no room for another row or seat in our arena.
    pub fn keep_for_the_first(&self, time_ns: u64) -> Result<(), ShmError> {
        let mut seats = self.lock();
        let mut seat = self.own_row(self.head(), place::Row::OF_OURS)?;
        let state = State { passed: self.head(), ages: Ages::new(time_ns), over: false };
        let (row, head) = (seat.row.clone(), self.head.clone());
        seat.early = Some(Arc::new(Early { row, head, state: Mutex::new(state) }));
        self.fill_entry(&seat);
        seats.push(seat);
        self.entry.seated.store(seats.len() as u64, Ordering::Relaxed);
        self.raise();
        Ok(())
    }
}

/// Where the first subscriber begins, which takes the place over: the seat that stood for it leaves the list.
pub(super) fn take_over(seats: &mut Vec<Seat>) -> Option<(u64, Seat)> {
    let at = seats.iter().position(|seat| seat.early.is_some())?;
    let seat = seats.remove(at);
    let from = seat.early.as_ref()?.end();
    Some((from, seat))
}
