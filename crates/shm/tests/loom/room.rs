//! Who waits for whom: a publisher waits for a row no longer than its cap, and a row that it does not wait for is told.
//!
//! The slot is the one that ships. Around it each model repeats, in the order in which they stand, the accesses of
//! `room::pass`, `room::settle` and `room::sleep` (publisher) and of `take::passed`, `take::wake_publisher`,
//! `take::take_chunk` and `take::lapped` (subscriber): those lie on mapped memory, which loom cannot model. Time is a
//! thread that ticks.

use busway_shm::slot::{ChunkRef, Look, Slot};
use busway_shm::sync::{AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{deadlock_is_found, failure_is_found, holds};

/// Whether a step of the protocol is done or, as a seeded bug, left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    LeftOut,
}

// As in `layout::state`, which a model has not.
const ACTIVE: u32 = 2;
const STALLED: u32 = 4;
const EVICTED: u32 = 5;

/// When a row is told that it is not waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Before its message is overwritten.
    Before,
    /// Afterwards: the seeded bug.
    After,
}

fn chunk(index: u32) -> ChunkRef {
    ChunkRef::new(0, index).expect("a small number")
}

const USED_AGAIN: u64 = 99;

/// A ring of one slot, in which message 1 lies, and the row that gates it.
struct Row {
    slot: Slot,
    content: AtomicU64,
    cursor: AtomicU64,
    hold: AtomicU64,
    /// What the publisher's seat says of the row.
    seat: AtomicU32,
}

impl Row {
    fn new() -> Self {
        let row = Self {
            slot: Slot::empty(),
            content: AtomicU64::new(1),
            cursor: AtomicU64::new(0),
            hold: AtomicU64::new(0),
            seat: AtomicU32::new(ACTIVE),
        };
        row.slot.publish(1, chunk(0));
        row
    }

    /// `take::take_chunk` and `take::lapped`. Says whether message 1 was passed.
    fn take(&self, not_waited_for: u32) -> bool {
        match self.slot.look(1) {
            Look::Chunk(found, word) => {
                self.hold.store(found.hold_word(), Ordering::Release);
                fence(Ordering::SeqCst);
                let still = self.slot.still(word);
                if still {
                    self.cursor.store(1, Ordering::Release);
                    assert_eq!(self.content.load(Ordering::Relaxed), 1, "a held chunk was used again");
                }
                self.hold.store(0, Ordering::Release);
                if !still {
                    assert_eq!(self.seat.load(Ordering::Acquire), not_waited_for, "it was not told");
                }
                still
            }
            Look::Lapped => {
                assert_eq!(self.seat.load(Ordering::Acquire), not_waited_for, "it was not told");
                false
            }
            other => panic!("message 1 or what came after it: {other:?}"),
        }
    }

    /// Takes the slot of message 1, which `mark` says of the row that was not waited for.
    fn overwrite(&self, mark: Option<u32>, told: Told) {
        let tell = || mark.into_iter().for_each(|mark| self.seat.store(mark, Ordering::Release));
        if told == Told::Before {
            tell();
        }
        self.slot.publish(2, chunk(1));
        if told == Told::After {
            tell();
        }
    }
}

/// `room::settle` for a row that asked for eviction, and then `recycle::look`.
fn evict(told: Told, looked_at: Step) {
    let row = Arc::new(Row::new());
    let reader = {
        let row = Arc::clone(&row);
        thread::spawn(move || {
            row.take(EVICTED);
        })
    };
    // A second publisher's worth of looks, so that more executions find the reader in the midst of it.
    let watcher = {
        let row = Arc::clone(&row);
        thread::spawn(move || {
            if row.seat.load(Ordering::Acquire) == ACTIVE {
                row.cursor.load(Ordering::Acquire);
            }
        })
    };
    fence(Ordering::SeqCst);
    let behind = row.cursor.load(Ordering::Acquire) < 1;
    row.overwrite(behind.then_some(EVICTED), told);
    fence(Ordering::SeqCst);
    let evicted = row.seat.load(Ordering::Relaxed) == EVICTED;
    let held = ChunkRef::from_hold_word(row.hold.load(Ordering::Acquire)) == Some(chunk(0));
    if !held || (evicted && looked_at == Step::LeftOut) {
        row.content.store(USED_AGAIN, Ordering::Relaxed);
    }
    reader.join().expect("the reader saw what was published, or was told");
    watcher.join().expect("it only looks");
}

#[test]
fn a_row_that_is_evicted_is_told_and_keeps_what_it_holds() {
    holds("eviction", || evict(Told::Before, Step::Done));
}

#[test]
fn an_eviction_that_is_told_too_late_is_found() {
    failure_is_found("eviction_told_late", "was not told", || evict(Told::After, Step::Done));
}

#[test]
fn an_evicted_row_whose_holds_are_not_looked_at_is_found() {
    failure_is_found("eviction_unheld", "used again", || evict(Told::Before, Step::LeftOut));
}

/// Ticks after which a row is not waited for any more.
const CAP: u32 = 2;

/// What a publisher and a row share beside the ring, and the kernel's queue on the word `woken`.
struct Wait {
    row: Row,
    waiting: AtomicU32,
    woken: AtomicU32,
    clock: Mutex<Clock>,
    queue: Condvar,
}

#[derive(Default)]
struct Clock {
    ticks: u32,
    asleep: bool,
}

impl Wait {
    fn new() -> Arc<Self> {
        let (waiting, woken) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self { row: Row::new(), waiting, woken, clock: Mutex::default(), queue: Condvar::new() })
    }

    fn ticks(&self) -> u32 {
        self.clock.lock().expect("no thread of the model panics").ticks
    }

    /// Both a tick, which ends a slice, and a wake of the subscriber.
    fn end_sleep(&self, ticks: u32) {
        let mut clock = self.clock.lock().expect("no thread of the model panics");
        clock.ticks += ticks;
        if std::mem::take(&mut clock.asleep) {
            self.queue.notify_one();
        }
    }

    /// `futex::wait_any` with a timeout that is no longer than what is left of the cap.
    fn sleep(&self, seen: u32) {
        let mut clock = self.clock.lock().expect("no thread of the model panics");
        if self.woken.load(Ordering::SeqCst) == seen && clock.ticks < CAP {
            clock.asleep = true;
            drop(self.queue.wait(clock).expect("no thread of the model panics"));
        }
    }

    /// `room::pass`, `room::settle` and `room::sleep`, and then the message. Says how often it slept.
    fn publish(&self, told: Told) -> u32 {
        let mut slept = 0;
        let mark = loop {
            fence(Ordering::SeqCst);
            if self.row.cursor.load(Ordering::Acquire) >= 1 {
                break None;
            }
            if self.ticks() >= CAP {
                break Some(STALLED);
            }
            let seen = self.woken.load(Ordering::Acquire);
            self.waiting.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.row.cursor.load(Ordering::Acquire) < 1 {
                slept += 1;
                self.sleep(seen);
            }
            self.waiting.store(0, Ordering::Relaxed);
        };
        self.row.overwrite(mark, told);
        slept
    }

    /// `take::take`, then `take::passed`: without a fence, for which a missed wake costs a slice.
    fn take(&self) {
        if self.row.take(STALLED) && self.waiting.load(Ordering::Relaxed) != 0 {
            fence(Ordering::SeqCst);
            self.woken.fetch_add(1, Ordering::Release);
            self.end_sleep(0);
        }
    }
}

fn wait_for_a_row(told: Told, sliced: Step) {
    let wait = Wait::new();
    let reader = {
        let wait = Arc::clone(&wait);
        thread::spawn(move || wait.take())
    };
    let time = {
        let wait = Arc::clone(&wait);
        thread::spawn(move || {
            if sliced == Step::Done {
                (0..CAP).for_each(|_| wait.end_sleep(1));
            }
        })
    };
    let slept = wait.publish(told);
    assert!(slept <= CAP + 1, "it slept {slept} times");
    reader.join().expect("the reader saw what was published, or was told");
    time.join().expect("it only ticks");
}

#[test]
fn a_publisher_waits_for_a_row_no_longer_than_its_cap_and_tells_it() {
    holds("wait", || wait_for_a_row(Told::Before, Step::Done));
}

#[test]
fn a_stall_that_is_told_too_late_is_found() {
    failure_is_found("stall_told_late", "was not told", || wait_for_a_row(Told::After, Step::Done));
}

#[test]
fn a_wait_without_its_slices_is_found() {
    deadlock_is_found("wait_unsliced", || wait_for_a_row(Told::Before, Step::LeftOut));
}
