//! What is asked of the allocator: nothing for a message of the steady state that is sent, taken and dropped; and for what a stranger
//! claims, no more than what it sent.
//!
//! Sends and takes on one thread, by turns, so that what happens does not depend on how the machine lets two threads run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/place.rs"]
mod place;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use busway::{Policy, Publisher, SendError, Subscriber};
use place::{PATIENCE, Scene};

/// Counts what this thread asks for, and lets the system allocate.
#[derive(Debug)]
struct Counting;

thread_local! {
    // Without a destructor and constant at start, so that counting itself never allocates.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator has no safe interface")]
// SAFETY: every call goes to the system's allocator with the arguments it came with; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is being taken down has no counter any more, and is not measured.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get().saturating_add(layout.size() as u64)));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from the system's allocator through `alloc` with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Slots and bytes of the largest ring here.
const SLOTS: u32 = 1024;
const RING_BYTES: u64 = 16 << 20;
/// Several times round the ring, and many batches of the recycler.
const MESSAGES: u64 = 10_000;

/// What goes round: runs of messages of each size in turn.
#[derive(Debug)]
struct Round {
    sizes: &'static [usize],
    runs: &'static [u64],
}

/// Runs of one, and of almost a ring: by turns, and neither a divisor of the recycler's batches.
const ROUNDS: [Round; 4] = [
    // In the slot.
    Round { sizes: &[64], runs: &[1, 999] },
    // In a chunk.
    Round { sizes: &[1 << 10], runs: &[1, 999] },
    // In bulk, that goes back to the kernel where there is much of it.
    Round { sizes: &[1 << 20], runs: &[1, 7] },
    // All the chunks of a ring are used and given back again and again: more than a publisher keeps for itself.
    Round { sizes: &[1 << 10, 64], runs: &[1000] },
];

/// Messages of `size` bytes until the ring has room for no other, all of which are then taken.
fn fill(publisher: &mut Publisher, subscriber: &mut Subscriber, size: usize) -> u64 {
    let payload = vec![7; size];
    let mut sent = 0;
    let full = loop {
        match publisher.try_send(&payload) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SendError::Full(_)), "{full}");
    for _ in 0..sent {
        assert_eq!(subscriber.try_recv().unwrap().unwrap().len(), size);
    }
    sent
}

fn go_round(publisher: &mut Publisher, subscriber: &mut Subscriber, round: &Round, payload: &[u8]) -> u64 {
    let turns = round.runs.iter().flat_map(|run| round.sizes.iter().map(move |size| (*run, *size))).cycle();
    let mut sent = 0;
    for (run, size) in turns {
        if sent >= MESSAGES {
            break;
        }
        for _ in 0..run {
            publisher.send(&payload[..size]).unwrap();
        }
        for _ in 0..run {
            assert_eq!(subscriber.try_recv().unwrap().unwrap().len(), size);
        }
        sent += run;
    }
    sent
}

#[test]
fn a_ring_that_has_grown_allocates_nothing_for_a_message() {
    let scene = Scene::new();
    let (writes, reads) = (scene.bus("writes"), scene.bus("reads"));
    let publisher = writes.publisher("steady").slots_max(SLOTS).bytes_max(RING_BYTES);
    let mut publisher = publisher.max_wait(PATIENCE).open().unwrap();
    let mut subscriber = reads.subscriber("steady").policy(Policy::Block).open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let payload = vec![7; 1 << 20];
    for round in &ROUNDS {
        let filled = fill(&mut publisher, &mut subscriber, round.sizes[0]);
        let before = ALLOCATIONS.get();
        // Held for the first time while it counts, and until its chunk has left the ring.
        publisher.send(&payload[..round.sizes[0]]).unwrap();
        let held = subscriber.try_recv().unwrap().unwrap();
        let messages = go_round(&mut publisher, &mut subscriber, round, &payload);
        drop(held);
        let allocations = ALLOCATIONS.get() - before;
        println!(
            "evidence: bytes={:?} filled={filled} messages={messages} allocations={allocations}",
            round.sizes
        );
        assert_eq!(allocations, 0, "{round:?}");
    }
}

/// What decoding this asked of the allocator, touched or not, as a reply and as work; it is refused.
fn asked_for<T: serde::de::DeserializeOwned + std::fmt::Debug>(bus: &busway::Bus, payload: &[u8]) -> u64 {
    let mut puller = bus.puller("work").open().unwrap();
    bus.pusher("work").open().unwrap().send(payload).unwrap();
    let task = puller.recv_timeout(PATIENCE).unwrap().unwrap();
    let before = BYTES.get();
    let decoded: Result<T, _> = task.sample().msgpack();
    let bytes = BYTES.get() - before;
    assert_eq!(decoded.expect_err("it claims more than there is").code(), busway::Code::DecodeFailed);
    task.ack().unwrap();
    bytes
}

#[test]
fn what_claims_four_thousand_million_elements_is_given_no_memory_for_them() {
    /// A mebibyte for each level of what is decoded, and the text of the error.
    const MOST: u64 = 4 << 20;
    let scene = Scene::new();
    let bus = scene.bus("both");
    let mut most = 0;
    // An array, a map, a text and bytes of 2^32 - 1 elements, and an array of which each element claims as many.
    for head in [0xdd_u8, 0xdf, 0xdb, 0xc6] {
        let payload = [head, 0xff, 0xff, 0xff, 0xff];
        let asked = [
            asked_for::<Vec<u64>>(&bus, &payload),
            asked_for::<std::collections::BTreeMap<String, u64>>(&bus, &payload),
            asked_for::<String>(&bus, &payload),
            asked_for::<serde_json::Value>(&bus, &payload),
            asked_for::<Vec<Vec<Vec<u64>>>>(&bus, &payload.repeat(100)),
        ];
        assert!(asked.iter().all(|bytes| *bytes <= MOST), "{head:x}: {asked:?} bytes for five");
        most = asked.into_iter().fold(most, u64::max);
    }
    println!("evidence: bytes_asked_for={most}");
}
