//! One ring under load for a long time: what a model cannot reach by length.
//!
//! A publisher and its rows are threads here, each row through a read-only mapping of its own, as between processes. A
//! row that gates gets every message in order and whole; one that does not accounts for every message; rows come and go
//! all the while. `BUSWAY_STRESS_MESSAGES` says how many messages there are: the suite has few, because it is not
//! optimised; row A8 wants 10^8 of an optimised build, and `cargo xtask soak` sends 10^9.
//!
//! One test at a time: it keeps every processor busy.
#![cfg(not(loom))]
#![expect(clippy::print_stdout, reason = "evidence lines are read by the test runner")]

use std::sync::Arc;
use std::time::Duration;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::hold::HoldBudget;
use busway_shm::ring::{Patience, RingOptions, RingWriter};
use busway_shm::row::{Body, Message, RowOptions, RowReader, RowShared, Taken};
use busway_shm::seat::RingShared;
use busway_shm::slot::InlineMeta;
use busway_shm::sync::{AtomicBool, Ordering};
use busway_wire::{Flags, HEADER_SIZE, Header, Kind, Policy, PortId, Topic};

const MESSAGES: u64 = 5_000_000;
const MIB: u64 = 1 << 20;
/// One message in so many takes a chunk.
const CHUNK_EVERY: u64 = 64;
const LARGE_WORDS: usize = 40;
const SMALL_WORDS: usize = 8;
/// Samples that a reader keeps while it goes on.
const KEPT: usize = 6;

fn messages() -> u64 {
    let wanted = std::env::var("BUSWAY_STRESS_MESSAGES").ok();
    wanted.and_then(|count| count.parse().ok()).unwrap_or(MESSAGES)
}

/// What each word of message `sequence` says; a word of another message differs from it.
fn word(sequence: u64) -> u64 {
    sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn is_large(sequence: u64) -> bool {
    sequence.is_multiple_of(CHUNK_EVERY)
}

fn send(writer: &mut RingWriter) {
    let patience = Patience::Until(Deadline::after(Duration::from_secs(60)));
    let sequence = writer.head() + 1;
    let bytes = word(sequence).to_le_bytes();
    if !is_large(sequence) {
        let mut payload = [0; SMALL_WORDS * 8];
        payload.as_chunks_mut::<8>().0.fill(bytes);
        // Every length is sent: the end of a message is its own.
        let payload = &payload[..(sequence % payload.len() as u64) as usize];
        let meta = InlineMeta { time_ns: sequence, kind: Kind::Publish.number(), ..InlineMeta::default() };
        writer.send_inline(&meta, payload, patience).expect("room comes");
        return;
    }
    let size = HEADER_SIZE + LARGE_WORDS * 8;
    let mut loan = writer.loan(size as u64, patience).expect("memory is there");
    let mut header = Header::new(Kind::Publish);
    header.flags = Flags::UNSEALED.bits();
    header.size.set(size as u32);
    header.sequence.set(sequence);
    let (head, payload) = loan.bytes_mut()[..size].split_at_mut(HEADER_SIZE);
    head.copy_from_slice(header.bytes());
    payload.as_chunks_mut::<8>().0.fill(bytes);
    assert!(writer.send_loan(loan, patience).is_ok(), "room comes");
}

fn assert_whole(message: &Message) {
    let sequence = message.sequence;
    let payload = match &message.body {
        Body::Inline(inline) => {
            assert_eq!(inline.meta.time_ns, sequence, "a torn message");
            assert_eq!(inline.payload().len() as u64, sequence % (SMALL_WORDS as u64 * 8), "of {sequence}");
            inline.payload()
        }
        Body::Chunk(chunk) => chunk.payload(),
        Body::Copied(..) => message.body.payload(),
    };
    assert!(!is_large(sequence) || payload.len() == LARGE_WORDS * 8, "of {sequence}");
    let expected = word(sequence).to_le_bytes();
    let (words, rest) = payload.as_chunks::<8>();
    assert!(words.iter().all(|word| *word == expected), "message {sequence} has words of another");
    assert_eq!(rest, &expected[..rest.len()], "message {sequence} has bytes of another");
}

/// A process that reads, and the ring that it reads.
struct Side {
    own: Arc<OwnArena>,
    peer: Arc<PeerArena>,
    publisher: Arc<PeerArena>,
    shared: Arc<RingShared>,
    budget: Arc<HoldBudget>,
}

impl Side {
    fn new(publisher: &OwnArena, shared: &Arc<RingShared>) -> Self {
        let own = arena("reader");
        Self {
            peer: PeerArena::of_own(&own).expect("mapped"),
            publisher: PeerArena::of_own(publisher).expect("mapped"),
            shared: shared.clone(),
            budget: Arc::new(HoldBudget::new(256, 64 * MIB)),
            own,
        }
    }

    fn subscribe(&self, policy: Policy) -> RowReader {
        let options = RowOptions {
            port: PortId(9),
            policy,
            history: 0,
            holds: 15,
            created_ns: monotonic_ns(),
            place: 0,
        };
        let ring = self.shared.key();
        let row = RowShared::create(&self.own, &self.publisher, ring, &options, &self.budget).expect("a row");
        row.attached(Ok(self.shared.attach(&self.peer, row.key(), policy).expect("a seat")));
        RowReader::new(row, policy, false)
    }
}

/// Ends the others when a thread has failed, so that nobody waits for it.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

fn arena(name: &str) -> Arc<OwnArena> {
    let options = ArenaOptions { name: name.into(), bytes_max: 4 << 30, monitored: true };
    OwnArena::create(&options).expect("an arena can be made")
}

/// Takes until `last` was passed, or `enough` says so; gives what came and what was lost.
fn read(reader: &mut RowReader, last: u64, enough: impl Fn() -> bool) -> (u64, u64) {
    let (mut got, mut lost) = (0, 0);
    let mut next = reader.row().entry().first.load(Ordering::Relaxed) + 1;
    let mut kept: Vec<Message> = Vec::new();
    while next <= last && !enough() {
        match reader.take() {
            Taken::Message(message) => {
                assert_eq!(message.sequence, next, "in order, and once");
                assert_whole(&message);
                (next, got) = (next + 1, got + 1);
                if is_large(message.sequence) {
                    kept.push(message);
                }
                if kept.len() > KEPT {
                    // Held for a while, and not changed by that.
                    assert_whole(&kept.swap_remove(next as usize % KEPT));
                }
            }
            Taken::Gap(gap) => {
                assert_eq!(gap.from, next);
                (next, lost) = (next + gap.count, lost + gap.count);
            }
            Taken::Empty => std::thread::yield_now(),
            other => panic!("at {next}: {other:?}"),
        }
    }
    (got, lost)
}

#[test]
fn every_message_of_a_long_run_is_read_in_order_and_whole_or_counted() {
    let messages = messages();
    let start = monotonic_ns();
    let own = arena("publisher");
    let topic = Topic::new("price.tick").expect("a name");
    let max_wait_ns = 20_000_000_000;
    let options = RingOptions {
        slots_max: 1024,
        bytes_max: 16 * MIB,
        history: 0,
        max_wait_ns,
        gating: true,
        relay: false,
    };
    let (mut writer, shared) = RingWriter::create(&own, &topic, PortId(7), options).expect("a ring");
    let sides: [Side; 3] = std::array::from_fn(|_| Side::new(&own, &shared));
    let mut reliable = sides[0].subscribe(Policy::Block);
    let mut lossy = sides[1].subscribe(Policy::DropOldest { depth: Policy::DEPTH_RING });
    let done = AtomicBool::new(false);
    let over = || done.load(Ordering::Acquire);
    let (all, some, rows) = std::thread::scope(|scope| {
        let all = scope.spawn(|| {
            let _alarm = Alarm(&done);
            read(&mut reliable, messages, over)
        });
        let some = scope.spawn(|| {
            let _alarm = Alarm(&done);
            read(&mut lossy, messages, over)
        });
        let guests = scope.spawn(|| {
            let _alarm = Alarm(&done);
            let (mut rows, mut rng) = (0_u64, fastrand::Rng::with_seed(8));
            while !over() {
                let policy = [Policy::Block, Policy::KeepLatest, Policy::Evict][rng.usize(0..3)];
                let mut guest = sides[2].subscribe(policy);
                for _ in 0..rng.u32(0..2_000) {
                    if let Taken::Message(message) = guest.take() {
                        assert_whole(&message);
                    }
                }
                drop(guest);
                shared.reap();
                sides[2].own.reap_rows();
                rows += 1;
            }
            rows
        });
        (0..messages).take_while(|_| !over()).for_each(|_| send(&mut writer));
        let all = all.join().expect("the reliable reader got everything");
        let some = some.join().expect("the lossy reader accounts for everything");
        done.store(true, Ordering::Release);
        (all, some, guests.join().expect("guests get whole messages"))
    });
    assert_eq!(all, (messages, 0));
    assert_eq!(some.0 + some.1, messages);
    let seconds = (monotonic_ns() - start) as f64 / 1e9;
    let census = writer.census();
    let everywhere = census.free + census.left + census.in_ring + census.stored + census.retired;
    assert_eq!(census.pool, everywhere, "{census:?}");
    println!("evidence: messages={messages} lossy_got={} rows={rows} seconds={seconds:.1}", some.0);
}
