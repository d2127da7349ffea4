//! What is published before the first subscriber: it waits for that one, within its time and the ring, and is counted. Beside it
//! what is kept for a time for those who come later.
//!
//! Publisher and subscribers are threads of one process here.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::sync::Arc;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::{self, Deadline};
use busway_shm::hold::HoldBudget;
use busway_shm::ring::{Patience, RingOptions, RingWriter};
use busway_shm::row::{RowOptions, RowReader, RowShared, Taken};
use busway_shm::seat::RingShared;
use busway_shm::slot::{INLINE_BYTES, InlineMeta};
use busway_shm::sync::{AtomicBool, Ordering};
use busway_wire::{Cause, HEADER_SIZE, Header, Kind, Policy, PortId, Topic};

const MIB: u64 = 1 << 20;
/// Miri takes the memory of an arena at once.
const ARENA_BYTES: u64 = if cfg!(miri) { 300 << 20 } else { 1 << 30 };
const SLOTS: u64 = 64;
const HOUR_NS: u64 = 3_600_000_000_000;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// A publisher, whose ring others may read.
struct Source {
    writer: RingWriter,
    place: Place,
}

#[derive(Clone)]
struct Place {
    own: Arc<OwnArena>,
    peer: Arc<PeerArena>,
    ring: Arc<RingShared>,
    budget: Arc<HoldBudget>,
}

impl Source {
    fn new(slots: u64, bytes_max: u64, gating: bool) -> Self {
        let own =
            OwnArena::create(&ArenaOptions { name: "early".into(), bytes_max: ARENA_BYTES, monitored: true })
                .expect("an arena can be made");
        let peer = PeerArena::of_own(&own).expect("our own arena can be mapped");
        let slots_max = slots as u32;
        let options =
            RingOptions { slots_max, bytes_max, history: 2, max_wait_ns: HOUR_NS, gating, relay: false };
        let topic = Topic::new("early").expect("a name");
        let (writer, ring) = RingWriter::create(&own, &topic, PortId(7), options).expect("a ring");
        Self { writer, place: Place { own, peer, ring, budget: Arc::new(HoldBudget::new(256, 64 * MIB)) } }
    }

    /// One that keeps what it sends for the first subscriber for so long.
    fn early(slots: u64, time_ns: u64) -> Self {
        let source = Self::new(slots, 64 * MIB, true);
        source.place.ring.keep_for_the_first(time_ns).expect("a row");
        source
    }

    fn send(&mut self, bytes: usize) {
        let patience = Patience::Until(Deadline::after(PATIENCE));
        if bytes <= INLINE_BYTES {
            let meta = InlineMeta { kind: Kind::Publish.number(), ..InlineMeta::default() };
            self.writer
                .send_inline(&meta, &[7; INLINE_BYTES][..bytes], patience)
                .expect("nobody is in the way");
            return;
        }
        let size = HEADER_SIZE + bytes;
        let mut loan = self.writer.loan(size as u64, patience).expect("memory");
        let mut header = Header::new(Kind::Publish);
        header.size.set(size as u32);
        header.sequence.set(self.writer.head() + 1);
        loan.bytes_mut()[..HEADER_SIZE].copy_from_slice(header.bytes());
        self.writer.send_loan(loan, patience).map_err(|(refusal, _)| refusal).expect("nobody is in the way");
    }

    fn send_all(&mut self, count: u64) {
        (0..count).for_each(|_| self.send(8));
    }
}

impl Place {
    fn subscribe(&self, policy: Policy, history: u64) -> RowReader {
        let created_ns = clock::monotonic_ns();
        let options = RowOptions { port: PortId(9), policy, history, holds: 15, created_ns, place: 0 };
        let row =
            RowShared::create(&self.own, &self.peer, self.ring.key(), &options, &self.budget).expect("a row");
        row.attached(Ok(self.ring.attach(&self.peer, row.key(), policy).expect("a seat")));
        RowReader::new(row, policy, false)
    }

    /// What is kept for the first subscriber: what waits, and what was lost to nobody.
    fn early(&self) -> (u64, u64) {
        let early = self.ring.ledgers().early.expect("there is no subscriber yet");
        assert!(early.closed(), "{early:?}");
        assert_eq!(early.lost(), early.dropped[Cause::NoSubscriber.index()], "{early:?}");
        (early.in_flight, early.lost())
    }

    /// What was lost to nobody before the first subscriber came, of which nothing else is in the past of the ring.
    fn lost_to_nobody(&self) -> u64 {
        let ledgers = self.ring.ledgers();
        assert!(ledgers.early.is_none(), "{ledgers:?}");
        let lost = ledgers.past_dropped[Cause::NoSubscriber.index()];
        assert_eq!((ledgers.past_rows, ledgers.past_delivered, ledgers.past_expected), (0, 0, lost));
        lost
    }
}

/// The sequences that come, and how many messages were lost before and between them.
fn drain(reader: &mut RowReader) -> (Vec<u64>, u64) {
    let (mut came, mut lost) = (Vec::new(), 0);
    loop {
        match reader.take() {
            Taken::Message(message) => came.push(message.sequence),
            Taken::Gap(gap) => lost += gap.count,
            other => {
                assert!(matches!(other, Taken::Empty | Taken::End), "{other:?}");
                return (came, lost);
            }
        }
    }
}

fn numbers(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

#[test]
fn what_is_published_before_anybody_subscribes_waits_for_the_first_and_for_nobody_else() {
    for policy in [Policy::Block, Policy::default()] {
        let mut source = Source::early(1024, HOUR_NS);
        source.send_all(1000);
        assert_eq!(source.place.early(), (1000, 0));
        assert_eq!(source.place.ring.seated(), 0, "what waits is no subscriber");
        let mut first = source.place.subscribe(policy, 0);
        let mut second = source.place.subscribe(policy, 0);
        source.send_all(10);
        assert_eq!(drain(&mut first), (numbers(1, 1010), 0));
        assert_eq!(drain(&mut second), (numbers(1001, 1010), 0));
        assert_eq!((source.place.lost_to_nobody(), source.place.ring.seated()), (0, 2));
        drop((first, second));
        source.place.ring.reap();
        source.send_all(10);
        let mut late = source.place.subscribe(policy, 0);
        assert_eq!(drain(&mut late), (Vec::new(), 0), "the first comes once");
    }
}

#[test]
fn what_has_no_room_while_it_waits_is_counted_message_by_message_and_nobody_is_waited_for() {
    const ROUNDS: u64 = if cfg!(miri) { 3 } else { 200 };
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut sent, mut delivered, mut nobody) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut source = Source::new(SLOTS, 100_000, rng.bool());
        source.place.ring.keep_for_the_first(HOUR_NS).expect("a row");
        for _ in 0..rng.u64(0..300) {
            let bytes = if rng.bool() { rng.usize(0..=INLINE_BYTES) } else { rng.usize(97..20_000) };
            source.send(bytes);
        }
        let head = source.writer.head();
        let (waiting, lost) = source.place.early();
        assert_eq!(waiting + lost, head, "round {round}");
        let mut first = source.place.subscribe(Policy::default(), 0);
        assert_eq!(drain(&mut first), (numbers(lost + 1, head), 0), "round {round}");
        assert_eq!(source.place.lost_to_nobody(), lost);
        assert_eq!(
            source.place.ring.entry().waits.load(Ordering::Relaxed),
            0,
            "round {round}: it was waited"
        );
        (sent, delivered, nobody) = (sent + head, delivered + waiting, nobody + lost);
    }
    // The whole ring but what is given up at once for the next messages.
    let mut source = Source::early(SLOTS, HOUR_NS);
    source.send_all(10 * SLOTS);
    assert!(source.place.early().0 > SLOTS - SLOTS / 16, "{:?}", source.place.early());
    assert!(nobody > 0 && delivered > 0);
    println!("evidence: rounds={ROUNDS} sent={sent} delivered={delivered} no_subscriber={nobody}");
}

#[test]
fn the_first_subscriber_of_a_flood_misses_nothing_behind_where_it_begins() {
    const ROUNDS: u64 = if cfg!(miri) { 2 } else { 100 };
    let (mut all, mut lost_in_all) = (0, 0);
    for round in 0..ROUNDS {
        let mut source = Source::early(SLOTS, HOUR_NS);
        let place = source.place.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = std::thread::spawn({
            let stop = stop.clone();
            move || {
                while !stop.load(Ordering::Relaxed) {
                    source.send(8);
                }
                source
            }
        });
        let deadline = Deadline::after(PATIENCE);
        while place.ring.head() < round % 7 * SLOTS {
            assert!(!deadline.expired(), "the publisher stands still");
            std::thread::yield_now();
        }
        let mut first = place.subscribe(Policy::Block, 0);
        let mut came = Vec::new();
        while came.len() < 500 {
            assert!(!deadline.expired(), "{} messages", came.len());
            let (more, lost) = drain(&mut first);
            assert_eq!(lost, 0, "round {round}");
            came.extend(more);
        }
        stop.store(true, Ordering::Relaxed);
        while !publisher.is_finished() {
            came.extend(drain(&mut first).0);
        }
        let source = publisher.join().expect("it did not panic");
        came.extend(drain(&mut first).0);
        let lost = place.lost_to_nobody();
        assert_eq!(came, numbers(lost + 1, source.writer.head()), "round {round}");
        (all, lost_in_all) = (all + source.writer.head(), lost_in_all + lost);
    }
    println!("evidence: rounds={ROUNDS} sent={all} no_subscriber={lost_in_all} lost=0");
}

#[test]
fn what_has_waited_for_its_time_is_lost_to_nobody_and_who_asks_for_history_gets_it_all_the_same() {
    let mut source = Source::early(SLOTS, 1_000_000);
    source.send_all(10);
    let deadline = Deadline::after(PATIENCE);
    while source.place.early() != (0, 10) {
        assert!(!deadline.expired(), "{:?}", source.place.early());
        source.place.ring.reap();
    }
    let mut first = source.place.subscribe(Policy::default(), 4);
    assert_eq!(drain(&mut first), (numbers(7, 10), 0));
    assert_eq!(source.place.lost_to_nobody(), 10);
    let mut source = Source::early(SLOTS, 0);
    source.send_all(10);
    let mut first = source.place.subscribe(Policy::default(), 0);
    assert_eq!((drain(&mut first), source.place.lost_to_nobody()), ((Vec::new(), 0), 10), "no time is none");
}

#[test]
fn what_waits_goes_with_its_publisher_and_is_counted() {
    let mut source = Source::early(SLOTS, HOUR_NS);
    source.send_all(10);
    let Source { writer, place } = source;
    drop(writer);
    place.ring.reap();
    assert!(place.ring.is_free());
    assert_eq!(place.ring.entry().past_dropped[Cause::NoSubscriber.index()].load(Ordering::Relaxed), 10);
}

#[test]
fn a_publisher_flushes_when_what_waited_has_been_taken_over_or_its_time_is_up() {
    let mut source = Source::early(SLOTS, HOUR_NS);
    source.send_all(10);
    let who = source.writer.flush(Deadline::after(std::time::Duration::from_millis(5)));
    assert_eq!(
        who.iter().map(|who| (&who.name[..], who.behind)).collect::<Vec<_>>(),
        [("no subscriber yet", 10)]
    );
    let _first = source.place.subscribe(Policy::default(), 0);
    assert!(source.writer.flush(Deadline::after(PATIENCE)).is_empty(), "who does not gate is not waited for");
    let mut source = Source::early(SLOTS, 1_000_000);
    source.send_all(10);
    assert!(source.writer.flush(Deadline::after(PATIENCE)).is_empty());
    assert_eq!(source.place.early(), (0, 10));
}

#[test]
fn what_is_kept_for_a_time_is_there_for_who_comes_later_and_nothing_that_is_older() {
    for (time_ns, bytes, kept) in [(HOUR_NS, 8, 4000), (HOUR_NS, 200, 4000), (0, 8, 2), (0, 200, 2)] {
        let mut source = Source::new(4096, 64 * MIB, true);
        source.place.ring.keep_history_for(time_ns);
        // Read by one that is never behind: nothing but the time makes the ring grow, and what all have read is used again.
        let mut reader = source.place.subscribe(Policy::Block, 0);
        for _ in 0..4000 {
            source.send(bytes);
            assert_eq!(drain(&mut reader).0.len(), 1);
        }
        let mut late = source.place.subscribe(Policy::default(), u64::MAX);
        assert_eq!(drain(&mut late), (numbers(4001 - kept, 4000), 0), "{time_ns} ns of {bytes} bytes");
        let mut modest = source.place.subscribe(Policy::default(), 1);
        assert_eq!(drain(&mut modest).0, [4000]);
    }
}
