//! The ring: no torn message, no chunk used again while it is held, nothing taken from a row that gates.
//!
//! Slots are the ones that ship. Around them each model repeats, in the order in which they stand, the accesses of
//! `recycle::begin` and `recycle::look` (publisher), `take::take_chunk` (subscriber), `seat::attach` (control thread) and
//! `room::pass` (publisher): those lie on mapped memory, which loom cannot model.

use busway_shm::slot::{ChunkRef, InlineMessage, InlineMeta, Look, Slot, SmallLook};
use busway_shm::sync::{AtomicU64, Ordering, fence};
use loom::sync::Arc;
use loom::thread;

use super::{failure_is_found, holds};

/// Whether a step of the protocol is done or, as a seeded bug, left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    LeftOut,
}

fn meta(number: u64) -> InlineMeta {
    InlineMeta { time_ns: number, kind: 1, ..InlineMeta::default() }
}

/// Looks for a small message.
type Read = fn(&Slot, u64) -> Option<InlineMessage>;

fn look(slot: &Slot, sequence: u64) -> Option<InlineMessage> {
    match slot.look(sequence) {
        Look::Inline(message) => Some(message),
        _ => None,
    }
}

fn look_small(slot: &Slot, sequence: u64) -> Option<InlineMessage> {
    let mut message = InlineMessage::EMPTY;
    (slot.look_small(sequence, &mut message) == SmallLook::Copied).then_some(message)
}

fn read_whole(slot: &Slot, sequence: u64, read: Read) {
    if let Some(message) = read(slot, sequence) {
        assert_eq!(message.payload(), [sequence as u8; 8], "a torn message");
        assert_eq!(message.meta.time_ns, sequence, "a torn message");
    }
}

fn small_messages(marked: Step, read: Read) {
    let slot = Arc::new(Slot::empty());
    slot.publish_inline(1, &meta(1), &[1; 8]);
    let readers: Vec<_> = [1, 2]
        .into_iter()
        .map(|sequence| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || read_whole(&slot, sequence, read))
        })
        .collect();
    match marked {
        Step::Done => slot.publish_inline(2, &meta(2), &[2; 8]),
        Step::LeftOut => slot.publish_inline_unmarked(2, &meta(2), &[2; 8]),
    }
    for reader in readers {
        reader.join().expect("the reader saw a whole message");
    }
}

#[test]
fn a_small_message_is_read_whole_or_not_at_all() {
    holds("slot_whole", || small_messages(Step::Done, look));
}

#[test]
fn a_small_message_is_copied_to_its_place_whole_or_not_at_all() {
    holds("slot_copied", || small_messages(Step::Done, look_small));
}

#[test]
fn a_slot_that_is_not_marked_busy_is_found() {
    failure_is_found("slot_unmarked", "a torn message", || small_messages(Step::LeftOut, look));
}

/// One slot, two chunks, one hold word a subscriber.
struct Ring {
    slot: Slot,
    content: AtomicU64,
    holds: Vec<AtomicU64>,
    version: AtomicU64,
    told: AtomicU64,
}

const USED_AGAIN: u64 = 99;

fn chunk(index: u32) -> ChunkRef {
    ChunkRef::new(0, index).expect("a small number")
}

impl Ring {
    fn new(subscribers: usize, seated: u64) -> Arc<Self> {
        let ring = Self {
            slot: Slot::empty(),
            content: AtomicU64::new(1),
            holds: (0..subscribers).map(|_| AtomicU64::new(0)).collect(),
            version: AtomicU64::new(seated),
            told: AtomicU64::new(seated),
        };
        ring.slot.publish(1, chunk(0));
        Arc::new(ring)
    }

    /// `take::take_chunk`: hold, fence, look again, read, let go.
    fn take(&self, subscriber: usize, fenced: Step) {
        let Look::Chunk(found, word) = self.slot.look(1) else { return };
        self.holds[subscriber].store(found.hold_word(), Ordering::Release);
        if fenced == Step::Done {
            fence(Ordering::SeqCst);
        }
        if self.slot.still(word) {
            assert_eq!(self.content.load(Ordering::Relaxed), 1, "a held chunk was used again");
        }
        self.holds[subscriber].store(0, Ordering::Release);
    }

    /// `ring::send_loan`, `recycle::begin`, `recycle::look`: overwrite, fence, look at the list of seats and at every
    /// hold word, and use the chunk again where nobody holds it.
    fn overwrite_and_recycle(&self, fenced: Step) {
        self.slot.publish(2, chunk(1));
        if fenced == Step::Done {
            fence(Ordering::SeqCst);
        }
        let seated = self.version.load(Ordering::Acquire) != 0;
        let held =
            |hold: &AtomicU64| ChunkRef::from_hold_word(hold.load(Ordering::Acquire)) == Some(chunk(0));
        if !(seated && self.holds.iter().any(held)) {
            self.content.store(USED_AGAIN, Ordering::Relaxed);
        }
    }
}

fn take_and_recycle(publisher: Step, subscriber: Step, subscribers: usize) {
    let ring = Ring::new(subscribers, 1);
    let readers: Vec<_> = (0..subscribers)
        .map(|number| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.take(number, subscriber))
        })
        .collect();
    ring.overwrite_and_recycle(publisher);
    for reader in readers {
        reader.join().expect("the reader saw what was published");
    }
}

#[test]
fn a_held_chunk_is_never_recycled() {
    holds("hold_two_subscribers", || take_and_recycle(Step::Done, Step::Done, 2));
}

#[test]
fn a_hold_without_its_fence_is_found() {
    failure_is_found("hold_unfenced", "used again", || take_and_recycle(Step::Done, Step::LeftOut, 1));
}

#[test]
fn a_scan_without_its_fence_is_found() {
    failure_is_found("scan_unfenced", "used again", || take_and_recycle(Step::LeftOut, Step::Done, 1));
}

/// `seat::attach`, then the message that tells the subscriber of its seat; the bug tells it first.
fn admit(admission: Step) {
    let ring = Ring::new(1, 0);
    let control = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            if admission == Step::Done {
                ring.version.store(1, Ordering::Release);
            }
            ring.told.store(1, Ordering::Release);
        })
    };
    let reader = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            // Twice, so that more executions find the seat given.
            for _ in 0..2 {
                if ring.told.load(Ordering::Acquire) == 1 {
                    ring.take(0, Step::Done);
                }
            }
        })
    };
    ring.overwrite_and_recycle(Step::Done);
    control.join().expect("the control thread asserts nothing");
    reader.join().expect("the reader saw what was published");
}

#[test]
fn a_hold_that_follows_the_answer_of_a_seat_is_seen() {
    holds("admission", || admit(Step::Done));
}

#[test]
fn a_seat_that_is_not_in_the_list_is_found() {
    failure_is_found("admission_left_out", "used again", || admit(Step::LeftOut));
}

const SLOTS: u64 = 2;

/// A ring of two slots, a cursor that gates, and the list's version.
struct Gate {
    slots: [Slot; SLOTS as usize],
    head: AtomicU64,
    cursor: AtomicU64,
    active: AtomicU64,
}

impl Gate {
    fn slot(&self, sequence: u64) -> &Slot {
        &self.slots[(sequence % SLOTS) as usize]
    }

    /// `ring::send_inline` and `room::pass`: up to `last`, or until a gating row is in the way.
    fn publish(&self, last: u64, bounded: Step) {
        let mut limit = 0;
        for sequence in 1..=last {
            if sequence > limit {
                fence(Ordering::SeqCst);
                let gates = self.active.load(Ordering::Acquire) == 1;
                let gate = if gates { self.cursor.load(Ordering::Acquire) + 1 } else { u64::MAX };
                if sequence >= gate.saturating_add(SLOTS) {
                    return;
                }
                let gated = gate.saturating_sub(1).saturating_add(SLOTS);
                limit = match bounded {
                    Step::Done => gated.min(sequence + SLOTS / 2 - 1),
                    Step::LeftOut => gated,
                };
            }
            self.slot(sequence).publish(sequence, chunk(0));
            self.head.store(sequence, Ordering::Release);
        }
    }

    /// `row::start`: the cursor is the head, the row is active, fence; then nothing behind the cursor may be taken. The
    /// head is looked at again after the fence, as the publisher's seat does for a row that it finds.
    fn subscribe(&self) {
        self.active.store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        let from = self.head.load(Ordering::Acquire);
        self.cursor.store(from, Ordering::Release);
        fence(Ordering::SeqCst);
        let next = from + 1;
        assert!(!matches!(self.slot(next).look(next), Look::Lapped), "a row that gates was lapped");
    }
}

fn gate(bounded: Step) {
    let gate = Arc::new(Gate {
        slots: std::array::from_fn(|_| Slot::empty()),
        head: AtomicU64::new(0),
        cursor: AtomicU64::new(0),
        active: AtomicU64::new(0),
    });
    let reader = {
        let gate = Arc::clone(&gate);
        thread::spawn(move || {
            gate.subscribe();
            for _ in 0..2 {
                let next = gate.cursor.load(Ordering::Relaxed) + 1;
                match gate.slot(next).look(next) {
                    Look::Chunk(..) => gate.cursor.store(next, Ordering::Release),
                    Look::Lapped => panic!("a row that gates was lapped"),
                    _ => thread::yield_now(),
                }
            }
        })
    };
    gate.publish(6, bounded);
    reader.join().expect("the row lost nothing");
}

#[test]
fn a_row_that_gates_is_never_lapped() {
    holds("gating", || gate(Step::Done));
}

#[test]
fn a_limit_beyond_half_a_ring_is_found() {
    failure_is_found("gating_unbounded", "was lapped", || gate(Step::LeftOut));
}
