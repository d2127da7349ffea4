//! Which puller has which message: each message goes to exactly one, and its slot is overwritten only when it is over.
//!
//! The claim words and the slots are those that ship. Around them each model repeats the accesses of `seat::group` (pusher: its
//! gate, and what it does about the dead) and of `row::group` (puller), in the order in which they stand: those lie on
//! mapped memory, which loom cannot model. A word that a killed puller leaves is a claim of a thread that has ended, and its
//! death a flag that is stored behind all it did, as the kernel marks a life word.

use busway_shm::claims::{Claim, Claims, Found, Owner};
use busway_shm::slot::{ChunkRef, Look, Slot};
use busway_shm::sync::{AtomicU32, AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;

use super::{failure_is_found, holds};

const A: Owner = Owner(1);
const B: Owner = Owner(2);
const CAUSE: u8 = 10;

/// How a change is made: as it ships, or as a seeded bug.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Shipped,
    /// Without comparing the word that was seen.
    Stored,
}

/// When the pusher looks whether a message is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// It overwrites what is over, and takes what nobody has first.
    Won,
    /// It reads the word before the puller claims, finds that nobody has the message, and overwrites it.
    ReadBefore,
}

/// A ring of one slot, and its group.
struct Queue {
    slot: Slot,
    /// What lies in the chunk that the slot names: a puller reads it while it has the message.
    content: AtomicU64,
    head: AtomicU64,
    words: Vec<AtomicU64>,
    /// Whether the process of A is dead.
    dead: AtomicU32,
    /// How often each message was handled.
    handled: [AtomicU32; 3],
    /// How often each message was finished in time.
    finished: [AtomicU32; 3],
}

impl Queue {
    /// With message 1 in its slot.
    fn new() -> Arc<Self> {
        let words = vec![AtomicU64::new(0)];
        Claims::new(&words).begin(0);
        let zeros = || [AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)];
        let queue = Self {
            slot: Slot::empty(),
            content: AtomicU64::new(1),
            head: AtomicU64::new(1),
            words,
            dead: AtomicU32::new(0),
            handled: zeros(),
            finished: zeros(),
        };
        queue.slot.publish(1, ChunkRef::new(0, 1).expect("a small number"));
        Arc::new(queue)
    }

    fn claims(&self) -> Claims<'_> {
        Claims::new(&self.words)
    }

    /// `ring::send_inline`, once `room` says that message 1 may be overwritten.
    fn publish_second(&self) {
        self.content.store(2, Ordering::Relaxed);
        self.slot.publish(2, ChunkRef::new(0, 2).expect("a small number"));
        self.head.store(2, Ordering::Release);
    }

    /// `row::group`: takes the first message that is free, and reads it.
    fn take(&self, owner: Owner) -> Option<Claim> {
        let head = self.head.load(Ordering::Acquire);
        (1..=head).find_map(|sequence| {
            let claim = self.claims().claim(sequence, owner)?;
            let named = matches!(self.slot.look(sequence), Look::Chunk(chunk, _) if u64::from(chunk.index()) == sequence);
            assert!(named, "what was claimed was overwritten");
            let content = self.content.load(Ordering::Relaxed);
            assert_eq!(content, sequence, "what was claimed was overwritten");
            self.handled[sequence as usize].fetch_add(1, Ordering::Relaxed);
            Some(claim)
        })
    }

    fn finish(&self, claim: Claim, change: Change) -> bool {
        let done = match change {
            Change::Shipped => self.claims().done(claim),
            Change::Stored => {
                let done = (claim.sequence() << 24) | (u64::from(claim.owner().0) << 8) | (2 << 6);
                self.words[0].store(done, Ordering::Release);
                true
            }
        };
        if done {
            self.finished[claim.sequence() as usize].fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    /// What whoever finds an owner dead or late does about the claim that it saw.
    fn give_back(&self, claim: Claim, change: Change) -> bool {
        match change {
            Change::Shipped => self.claims().give_back(claim),
            Change::Stored => {
                let free = (claim.sequence() << 24) | u64::from(claim.attempt() + 1);
                self.words[0].store(free, Ordering::Release);
                true
            }
        }
    }

    fn count(numbers: &[AtomicU32; 3], sequence: usize) -> u32 {
        numbers[sequence].load(Ordering::Relaxed)
    }
}

/// Two pullers, and a pusher that needs the slot.
fn share(gate: Gate) {
    let queue = Queue::new();
    let pullers: Vec<_> = [A, B]
        .into_iter()
        .map(|owner| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                if let Some(claim) = queue.take(owner) {
                    assert!(queue.finish(claim, Change::Shipped), "nobody gives it to another");
                }
            })
        })
        .collect();
    let pusher = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            for _ in 0..2 {
                let found = queue.claims().look(1);
                if found.is_over() || gate == Gate::ReadBefore && matches!(found, Found::Free(_)) {
                    return queue.publish_second();
                }
            }
        })
    };
    pusher.join().expect("it overwrote what was over");
    for puller in pullers {
        puller.join().expect("it had its message for itself");
    }
    for sequence in [1, 2] {
        let handled = Queue::count(&queue.handled, sequence);
        assert!(handled <= 1, "message {sequence} went to {handled} pullers");
        assert_eq!(handled, Queue::count(&queue.finished, sequence));
    }
    if gate == Gate::Won {
        assert_eq!(Queue::count(&queue.handled, 1), 1, "message 1 is nobody's");
    }
}

#[test]
fn each_message_goes_to_one_puller_and_its_slot_is_overwritten_when_it_is_over() {
    holds("claims", || share(Gate::Won));
}

#[test]
fn a_gate_that_is_read_before_the_claim_is_found() {
    failure_is_found("claims_gate_first", "was overwritten", || share(Gate::ReadBefore));
}

/// The pusher gives a message up that nobody has, while two pullers come for it.
fn give_up(gate: Gate) {
    let queue = Queue::new();
    let pullers: Vec<_> = [A, B]
        .into_iter()
        .map(|owner| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                if let Some(claim) = queue.take(owner) {
                    queue.finish(claim, Change::Shipped);
                }
            })
        })
        .collect();
    let pusher = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            let given_up = match gate {
                Gate::Won => queue.claims().give_up(1, CAUSE),
                Gate::ReadBefore => matches!(queue.claims().look(1), Found::Free(_)),
            };
            if given_up || queue.claims().look(1).is_over() {
                queue.publish_second();
            }
            given_up
        })
    };
    let given_up = pusher.join().expect("it overwrote what was over");
    for puller in pullers {
        puller.join().expect("it had its message for itself");
    }
    let handled = Queue::count(&queue.handled, 1);
    assert_eq!(handled + u32::from(given_up), 1, "message 1 is counted {handled} and {given_up}");
}

#[test]
fn a_message_is_given_up_or_handled_and_never_both() {
    holds("claims_given_up", || give_up(Gate::Won));
}

#[test]
fn a_message_that_is_given_up_unseen_is_found() {
    failure_is_found("claims_given_up_unseen", "is counted", || give_up(Gate::ReadBefore));
}

/// A puller dies with a message; the pusher sees the death, another puller the time, and a third works.
fn killed(change: Change) {
    let queue = Queue::new();
    let dying = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            queue.take(A);
            queue.dead.store(1, Ordering::Release);
        })
    };
    let working = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            let claim = queue.take(B)?;
            Some(queue.finish(claim, Change::Shipped))
        })
    };
    // It has watched the claim of A for too long, whether or not A is dead.
    let watching = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || match queue.claims().look(1) {
            Found::Taken(claim) if claim.owner() == A => queue.give_back(claim, change),
            _ => false,
        })
    };
    dying.join().expect("it had its message for itself");
    // The pusher's control thread: what it saw before it asked for the life word.
    if let Found::Taken(claim) = queue.claims().look(1)
        && claim.owner() == A
        && queue.dead.load(Ordering::Acquire) == 1
    {
        queue.give_back(claim, change);
    }
    let in_time = working.join().expect("it had its message for itself");
    watching.join().expect("it only looks");
    assert_ne!(in_time, Some(false), "the claim of a live puller was given away");
    // The pusher looks again, and then another puller.
    if let Found::Taken(claim) = queue.claims().look(1) {
        assert_eq!(claim.owner(), A, "a live puller finishes what it has");
        assert!(queue.give_back(claim, Change::Shipped));
    }
    if let Some(claim) = queue.take(B) {
        assert!(queue.finish(claim, Change::Shipped));
    }
    assert_eq!(Queue::count(&queue.finished, 1), 1, "message 1 was not finished once");
}

#[test]
fn what_a_killed_puller_had_goes_to_another_and_nobody_elses_does() {
    holds("claims_killed", || killed(Change::Shipped));
}

#[test]
fn a_claim_that_is_freed_without_comparing_the_exact_word_is_found() {
    failure_is_found("claims_freed_blindly", "not finished once", || killed(Change::Stored));
}

/// A puller is too late: its message is given back while it finishes.
fn late(change: Change) {
    let queue = Queue::new();
    let slow = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || queue.take(A).is_some_and(|claim| queue.finish(claim, change)))
    };
    let other = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || queue.take(B).is_some_and(|claim| queue.finish(claim, Change::Shipped)))
    };
    let watching = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            for _ in 0..2 {
                if let Found::Taken(claim) = queue.claims().look(1)
                    && claim.owner() == A
                {
                    queue.give_back(claim, Change::Shipped);
                }
            }
        })
    };
    watching.join().expect("it only gives back");
    let finished = [slow.join().expect("it was told"), other.join().expect("it was told")];
    let over = queue.claims().look(1).is_over();
    let count = finished.iter().filter(|done| **done).count();
    assert_eq!(
        count,
        usize::from(over),
        "{count} pullers were told that they were in time, and it is over: {over}"
    );
}

#[test]
fn of_an_acknowledgement_and_who_gives_back_one_is_late_and_knows() {
    holds("claims_late", || late(Change::Shipped));
}

#[test]
fn an_acknowledgement_by_a_plain_store_is_found() {
    failure_is_found("claims_done_stored", "in time", || late(Change::Stored));
}

/// How a requester takes a request back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Withdrawal {
    Shipped,
    /// Without comparing the word that was seen.
    Stored,
}

/// A requester takes its request back while two responders come for it.
fn withdrawn(how: Withdrawal) {
    let queue = Queue::new();
    let responders: Vec<_> = [A, B]
        .into_iter()
        .map(|owner| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.take(owner).is_some_and(|claim| queue.finish(claim, Change::Shipped)))
        })
        .collect();
    let requester = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || match how {
            Withdrawal::Shipped => queue.claims().withdraw(1, CAUSE),
            Withdrawal::Stored => {
                queue.words[0].store((1 << 24) | (3 << 6) | u64::from(CAUSE), Ordering::Release);
                true
            }
        })
    };
    let taken_back = requester.join().expect("it only takes back");
    let answered =
        responders.into_iter().map(|responder| responder.join().expect("it had the request for itself"));
    let answered = answered.filter(|answered| *answered).count();
    assert_eq!(answered + usize::from(taken_back), 1, "a request ended {answered} and {taken_back} times");
    let expected = if taken_back { Found::Lost(CAUSE) } else { Found::Done };
    assert_eq!(queue.claims().look(1), expected, "a request ended otherwise than was told");
}

#[test]
fn a_request_is_answered_or_taken_back_and_never_both() {
    holds("claims_withdrawn", || withdrawn(Withdrawal::Shipped));
}

#[test]
fn a_request_that_is_taken_back_by_a_plain_store_is_found() {
    failure_is_found("claims_withdrawn_stored", "a request ended", || withdrawn(Withdrawal::Stored));
}

/// How a responder sees whether its request is waited for still.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// `row::group::Task::is_wanted`: the word is as it made it.
    Exactly,
    /// The word says whose the message is, and nothing else is looked at.
    ByOwner,
}

/// A responder looks whether its request is wanted, after the requester has said that it is not.
fn wanted(how: Wanted) {
    let queue = Queue::new();
    let responders: Vec<_> = [A, B]
        .into_iter()
        .map(|owner| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let Some(claim) = queue.take(owner) else { return };
                let told = queue.dead.load(Ordering::Acquire) == 1;
                let wanted = match how {
                    Wanted::Exactly => queue.claims().look(1) == Found::Taken(claim),
                    Wanted::ByOwner => (queue.words[0].load(Ordering::Acquire) >> 8) as u16 == owner.0,
                };
                assert!(!(told && wanted), "what was taken back is handled");
                queue.finish(claim, Change::Shipped);
            })
        })
        .collect();
    let requester = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            if queue.claims().withdraw(1, CAUSE) {
                queue.dead.store(1, Ordering::Release);
            }
        })
    };
    requester.join().expect("it only takes back");
    responders.into_iter().for_each(|responder| responder.join().expect("it sees that nobody waits"));
}

#[test]
fn who_handles_a_request_sees_that_it_was_taken_back() {
    holds("claims_wanted", || wanted(Wanted::Exactly));
}

#[test]
fn a_responder_that_looks_only_whose_a_request_is_is_found() {
    failure_is_found("claims_wanted_by_owner", "is handled", || wanted(Wanted::ByOwner));
}

/// When a responder says that a request is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    BehindTheReply,
    Before,
}

/// A requester looks at the word of its request, and then for the reply.
fn standing(said: Said) {
    let queue = Queue::new();
    let responders: Vec<_> = [A, B]
        .into_iter()
        .map(|owner| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let Some(claim) = queue.take(owner) else { return };
                // `dead` stands for the head of the lane.
                if said == Said::Before {
                    queue.finish(claim, Change::Shipped);
                }
                queue.dead.store(1, Ordering::Relaxed);
                if said == Said::BehindTheReply {
                    queue.finish(claim, Change::Shipped);
                }
            })
        })
        .collect();
    let requester = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            for _ in 0..2 {
                if queue.claims().look(1) == Found::Done {
                    assert_eq!(queue.claims().done_by(1).map(|owner| owner == A || owner == B), Some(true));
                    assert_eq!(queue.dead.load(Ordering::Relaxed), 1, "it is done without a reply");
                }
            }
        })
    };
    requester.join().expect("it only looks");
    responders.into_iter().for_each(|responder| responder.join().expect("it only replies"));
}

#[test]
fn who_sees_that_a_request_is_done_finds_its_reply() {
    holds("claims_standing", || standing(Said::BehindTheReply));
}

#[test]
fn a_request_that_is_done_before_its_reply_is_found() {
    failure_is_found("claims_standing_before", "without a reply", || standing(Said::Before));
}
