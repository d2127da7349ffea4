//! The bell: no wake-up is lost. Time does not pass here, so a lost one is a deadlock.

use busway_shm::bell::{ANY, Bell, Fences, Line};
use busway_shm::sync::{AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;

use super::{deadlock_is_found, holds};

/// A realm of two lines and one slot a publisher.
struct Realm {
    lines: Vec<Line>,
    slots: Vec<AtomicU32>,
    fences: Fences,
}

impl Realm {
    fn new(publishers: usize, counters: u32, fences: Fences) -> Arc<Self> {
        Arc::new(Self {
            lines: (0..2).map(|_| Line::with_counters(counters)).collect(),
            slots: (0..publishers).map(|_| AtomicU32::new(0)).collect(),
            fences,
        })
    }

    fn bell(&self) -> Bell<'_> {
        Bell::new(&self.lines, self.fences)
    }

    /// Stores a slot, without ringing.
    fn store(&self, publisher: usize) {
        self.slots[publisher].store(1, Ordering::Release);
    }

    /// Publishes; the control thread's part is done here too.
    fn publish(&self, publisher: usize) {
        self.store(publisher);
        if self.bell().ring(1).more {
            self.bell().finish(1);
        }
    }

    fn has_all(&self) -> bool {
        self.slots.iter().all(|slot| slot.load(Ordering::Acquire) == 1)
    }

    /// Sleeps until every publisher's message is there.
    fn take_all(&self, line: usize) {
        while !self.has_all() {
            let sleeper = self.bell().prepare(line);
            if self.has_all() {
                return;
            }
            sleeper.wait(None);
        }
    }
}

fn sleepers_and_publishers(sleepers: &[usize], publishers: usize, counters: u32, fences: Fences) {
    let realm = Realm::new(publishers, counters, fences);
    let threads: Vec<_> = (0..publishers)
        .map(|publisher| {
            let realm = Arc::clone(&realm);
            thread::spawn(move || realm.publish(publisher))
        })
        .chain(sleepers[1..].iter().map(|line| {
            let (realm, line) = (Arc::clone(&realm), *line);
            thread::spawn(move || realm.take_all(line))
        }))
        .collect();
    realm.take_all(sleepers[0]);
    for thread in threads {
        thread.join().expect("no thread of the model panics");
    }
}

#[test]
fn bell_loses_no_wake_up_of_two_publishers() {
    holds("bell_two_publishers", || sleepers_and_publishers(&[1], 2, 0, Fences::Full));
}

#[test]
fn bell_loses_no_wake_up_of_two_sleepers() {
    // A model wakes one in the caller, so the second is the control thread's.
    holds("bell_two_sleepers", || sleepers_and_publishers(&[1, 1], 1, 0, Fences::Full));
}

#[test]
fn bell_loses_no_wake_up_of_a_sleeper_on_any_topic() {
    holds("bell_any_topic", || sleepers_and_publishers(&[ANY, 1], 1, 0, Fences::Full));
}

#[test]
fn bell_loses_no_wake_up_where_its_counters_wrap() {
    holds("bell_counters_wrap", || sleepers_and_publishers(&[1], 2, u32::MAX, Fences::Full));
}

#[test]
fn bell_makes_good_what_a_killed_ringer_left() {
    holds("bell_killed_ringer", || {
        let realm = Realm::new(2, 0, Fences::Full);
        let killed = Arc::clone(&realm);
        let killed = thread::spawn(move || {
            killed.store(0);
            killed.bell().ring_and_die(1);
        });
        let next = Arc::clone(&realm);
        let next = thread::spawn(move || {
            // The next message, or the ring of whoever saw the process die.
            killed.join().expect("no thread of the model panics");
            next.publish(1);
        });
        realm.take_all(1);
        next.join().expect("no thread of the model panics");
    });
}

#[test]
fn bell_without_fences_is_found_to_lose_wake_ups() {
    deadlock_is_found("bell_without_fences", || sleepers_and_publishers(&[1], 1, 0, Fences::Missing));
}

/// The bell as one would write it first: the futex word is a flag that sleepers raise and a ringer
/// takes down before it wakes.
struct Flag {
    word: AtomicU32,
    queue: loom::sync::Mutex<()>,
    sleepers: loom::sync::Condvar,
}

impl Flag {
    fn sleep(&self) {
        let queue = self.queue.lock().expect("no thread of the model panics");
        if self.word.load(Ordering::SeqCst) == 1 {
            drop(self.sleepers.wait(queue).expect("no thread of the model panics"));
        }
    }

    fn ring(&self) {
        if self.word.swap(0, Ordering::SeqCst) == 1 {
            let _queue = self.queue.lock().expect("no thread of the model panics");
            self.sleepers.notify_one();
        }
    }
}

#[test]
fn bell_that_is_a_plain_flag_is_found_to_lose_wake_ups() {
    // One flag for two sleepers who each wait for the message; a ringer wakes one and leaves the rest,
    // as a caller that wakes few must, but has nothing to tell the next ringer that it did.
    deadlock_is_found("bell_plain_flag", || {
        let slot = Arc::new(AtomicU32::new(0));
        let flag = Arc::new(Flag {
            word: AtomicU32::new(0),
            queue: loom::sync::Mutex::new(()),
            sleepers: loom::sync::Condvar::new(),
        });
        let take = |slot: Arc<AtomicU32>, flag: Arc<Flag>| {
            while slot.load(Ordering::SeqCst) == 0 {
                flag.word.store(1, Ordering::SeqCst);
                busway_shm::sync::fence(Ordering::SeqCst);
                if slot.load(Ordering::SeqCst) == 0 {
                    flag.sleep();
                }
            }
        };
        let sleeper = {
            let (slot, flag) = (Arc::clone(&slot), Arc::clone(&flag));
            thread::spawn(move || take(slot, flag))
        };
        let publisher = {
            let (slot, flag) = (Arc::clone(&slot), Arc::clone(&flag));
            thread::spawn(move || {
                slot.store(1, Ordering::SeqCst);
                busway_shm::sync::fence(Ordering::SeqCst);
                flag.ring();
                flag.ring();
            })
        };
        take(slot, flag);
        sleeper.join().expect("no thread of the model panics");
        publisher.join().expect("no thread of the model panics");
    });
}
