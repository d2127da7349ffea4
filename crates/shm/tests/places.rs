//! Places that are kept for rows whose process died: what was not confirmed is there for who comes back, within the
//! publisher's patience, and every account closes.
//!
//! Processes are arenas here, and die by their life word; `busway`'s tests kill real ones.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::sync::Arc;
use std::time::Duration;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::hold::HoldBudget;
use busway_shm::life::{CLOSED, OWNER_DIED};
use busway_shm::ring::{Patience, Refusal, RingOptions, RingWriter};
use busway_shm::row::{RowOptions, RowReader, RowShared, Taken};
use busway_shm::seat::{PROCESS_HOLDS_MAX, RingShared};
use busway_shm::slot::InlineMeta;
use busway_shm::sync::Ordering;
use busway_wire::{Cause, Kind, Policy, PortId, Topic};

const MIB: u64 = 1 << 20;
/// Miri takes the memory of an arena at once.
const ARENA_BYTES: u64 = if cfg!(miri) { 300 << 20 } else { 1 << 30 };
const SLOTS: u64 = 64;

fn arena(name: &str) -> Arc<OwnArena> {
    OwnArena::create(&ArenaOptions { name: name.into(), bytes_max: ARENA_BYTES, monitored: true })
        .expect("an arena can be made")
}

struct Ring {
    own: Arc<OwnArena>,
    writer: RingWriter,
    shared: Arc<RingShared>,
    peer: Arc<PeerArena>,
}

impl Ring {
    fn new(max_wait: Duration) -> Self {
        Self::made(max_wait, false)
    }

    fn made(max_wait: Duration, relay: bool) -> Self {
        let own = arena("publisher");
        let options = RingOptions {
            slots_max: SLOTS as u32,
            bytes_max: 64 * MIB,
            history: 0,
            max_wait_ns: max_wait.as_nanos() as u64,
            gating: true,
            relay,
        };
        let topic = Topic::new("kept").expect("a name");
        let (writer, shared) = RingWriter::create(&own, &topic, PortId(7), options).expect("a ring");
        let peer = PeerArena::of_own(&own).expect("our own arena can be mapped");
        Self { own, writer, shared, peer }
    }

    fn send(&mut self, patience: Patience) -> Result<u64, Refusal> {
        let meta = InlineMeta { kind: Kind::Publish.number(), ..InlineMeta::default() };
        let payload = (self.writer.head() + 1).to_le_bytes();
        self.writer.send_inline(&meta, &payload, patience).map(|sent| sent.sequence)
    }

    fn send_all(&mut self, count: u64) {
        for _ in 0..count {
            self.send(Patience::None).expect("there is room");
        }
    }

    /// Sends until a row is in the way; returns the last that was sent.
    fn send_until_full(&mut self) -> u64 {
        let full = (0..10 * SLOTS).find_map(|_| self.send(Patience::None).err());
        assert!(matches!(full, Some(Refusal::Full(_))), "{full:?}");
        self.writer.head()
    }

    /// What was sent, delivered and lost, and how many rows there were; asserts that each account closes.
    fn account(&self) -> (u64, u64, u64) {
        let ledgers = self.shared.ledgers();
        let past: u64 = ledgers.past_dropped.iter().sum();
        assert_eq!(ledgers.past_expected, ledgers.past_delivered + past, "{ledgers:?}");
        assert!(ledgers.present.iter().all(|row| row.closed()), "{ledgers:?}");
        let delivered = ledgers.present.iter().map(|row| row.delivered).sum::<u64>() + ledgers.past_delivered;
        let lost = ledgers.present.iter().map(|row| row.lost()).sum::<u64>() + past;
        (delivered, lost, ledgers.present.len() as u64 + ledgers.past_rows)
    }
}

/// A process that reads for somebody elsewhere.
struct Node {
    own: Arc<OwnArena>,
    reader: RowReader,
}

impl Node {
    fn new(ring: &Ring, place: u64) -> Self {
        Self::with(ring, place, Policy::Block)
    }

    fn with(ring: &Ring, place: u64, policy: Policy) -> Self {
        let own = arena("node");
        let us = PeerArena::of_own(&own).expect("our own arena can be mapped");
        let budget = Arc::new(HoldBudget::new(256, 64 * MIB));
        let options =
            RowOptions { port: PortId(9), policy, history: 0, holds: 15, created_ns: monotonic_ns(), place };
        let row = RowShared::create(&own, &ring.peer, ring.shared.key(), &options, &budget).expect("a row");
        row.attached(Ok(ring.shared.attach(&us, row.key(), policy).expect("a seat")));
        let mut reader = RowReader::new(row, policy, false);
        reader.confirm_later();
        Self { own, reader }
    }

    /// Everything that is there.
    fn read(&mut self) -> (Vec<u64>, Vec<(Cause, u64)>) {
        let (mut came, mut lost) = (Vec::new(), Vec::new());
        loop {
            match self.reader.take() {
                Taken::Message(message) => came.push(message.sequence),
                Taken::Gap(gap) => lost.push((gap.cause, gap.count)),
                other => {
                    assert!(matches!(other, Taken::Empty), "{other:?}");
                    return (came, lost);
                }
            }
        }
    }

    /// As the kernel says it. What it has in its arena stays as it was: nothing is closed.
    fn die(self) {
        self.own.life_word().fetch_or(OWNER_DIED, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

fn numbers(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

#[test]
fn what_a_dead_reader_had_not_confirmed_is_read_by_the_next_of_its_place_however_often_it_dies() {
    // With the control thread's look between the death and the return, and without.
    for looks in [true, false] {
        let mut ring = Ring::new(Duration::from_secs(3_600));
        let mut node = Node::new(&ring, 5);
        let mut confirmed = 0;
        for round in 0..20 {
            let last = ring.send_until_full();
            assert_eq!(last, confirmed + SLOTS, "nothing that was not confirmed was overwritten");
            let (came, lost) = node.read();
            assert_eq!((came, lost), (numbers(confirmed + 1, last), Vec::new()), "round {round}");
            confirmed += SLOTS / 4;
            node.reader.confirm(confirmed);
            node.die();
            if looks {
                assert_eq!(ring.shared.reap().kept, 1);
                assert_eq!(ring.shared.reap().kept, 0, "once");
            }
            let full = ring.send_until_full();
            assert_eq!(full, confirmed + SLOTS, "round {round}");
            node = Node::new(&ring, 5);
        }
        let (came, lost) = node.read();
        assert_eq!((came.len() as u64, lost.len()), (SLOTS, 0));
        node.reader.confirm(ring.writer.head());
        assert_eq!(ring.account(), (ring.writer.head(), 0, 1), "one subscriber, that has all");
        println!("evidence: looks={looks} deaths=20 lost=0");
    }
}

#[test]
fn a_place_is_taken_by_its_own_number_only_and_a_living_one_of_the_same_number_is_enough() {
    let mut ring = Ring::new(Duration::from_secs(3_600));
    let first = Node::new(&ring, 5);
    ring.send_all(10);
    let mut second = Node::new(&ring, 5);
    let mut other = Node::new(&ring, 6);
    ring.send_all(10);
    assert_eq!(second.read().0, numbers(11, 20), "the place was not free");
    assert_eq!(other.read().0, numbers(11, 20));
    first.die();
    assert_eq!(ring.shared.reap().kept, 0, "who lives has it");
    second.die();
    assert_eq!(ring.shared.reap().kept, 1);
    let mut stranger = Node::new(&ring, 7);
    let mut nobody = Node::new(&ring, 0);
    let mut back = Node::new(&ring, 5);
    assert_eq!((stranger.read().0, nobody.read().0), (Vec::new(), Vec::new()));
    assert_eq!(back.read().0, numbers(11, 20));
    nobody.die();
    assert_eq!(ring.shared.reap().kept, 0, "who reads for itself is gone when it dies");
    let (_, lost, _) = ring.account();
    assert_eq!(lost, 20, "of the first: what it had not passed");
}

#[test]
fn a_place_makes_a_publisher_wait_no_longer_than_its_patience_and_what_is_lost_is_told_to_who_returns() {
    let mut ring = Ring::new(Duration::from_millis(5));
    let node = Node::new(&ring, 5);
    node.die();
    ring.send_until_full();
    ring.shared.reap();
    let patient = Patience::Until(Deadline::after(Duration::from_secs(20)));
    let sent = ring.send(patient).expect("it goes on after its cap");
    assert_eq!(sent, SLOTS + 1);
    ring.send_all(SLOTS);
    let mut back = Node::new(&ring, 5);
    let (came, lost) = back.read();
    let count: u64 = lost.iter().map(|(_, count)| count).sum();
    assert!(lost.iter().all(|(cause, _)| *cause == Cause::Stalled), "{lost:?}");
    assert_eq!(came, numbers(count + 1, 2 * SLOTS + 1), "what the ring still had");
    back.reader.confirm(2 * SLOTS + 1);
    assert_eq!(ring.account(), (2 * SLOTS + 1 - count, count, 1));
}

#[test]
fn a_place_that_nobody_took_goes_with_its_publisher_and_is_counted() {
    let mut ring = Ring::new(Duration::from_secs(3_600));
    let mut node = Node::new(&ring, 5);
    ring.send_all(10);
    assert_eq!(node.read().0, numbers(1, 10));
    node.reader.confirm(4);
    node.die();
    ring.shared.reap();
    assert_eq!(ring.account().0, 4);
    let Ring { writer, shared, .. } = ring;
    drop(writer);
    assert!(!shared.is_free(), "until the control thread looks");
    shared.reap();
    assert!(shared.is_free());
    assert_eq!(shared.entry().past_dropped[Cause::SubscriberDied as usize].load(Ordering::Relaxed), 6);
}

#[test]
fn a_place_is_kept_for_who_asks_to_be_waited_for_only_and_never_in_a_ring_of_another_host() {
    for (policy, relay) in [(Policy::Fail, false), (Policy::Evict, false), (Policy::Block, true)] {
        let mut ring = Ring::made(Duration::MAX, relay);
        let node = Node::with(&ring, 5, policy);
        ring.send_all(SLOTS);
        node.die();
        ring.send_all(SLOTS);
        let reaped = ring.shared.reap();
        assert_eq!((reaped.died, reaped.kept), (1, 0), "{policy:?}, relay: {relay}");
        ring.send_all(SLOTS);
        assert_eq!(ring.shared.seated(), 0);
    }
}

#[test]
fn who_has_left_the_bus_cleanly_has_no_place() {
    let mut ring = Ring::new(Duration::MAX);
    let node = Node::new(&ring, 5);
    ring.send_until_full();
    node.own.life_word().store(CLOSED, Ordering::Release);
    ring.send_all(SLOTS);
    std::mem::forget(node);
}

#[test]
fn a_publisher_is_told_who_had_the_place_that_it_waits_for() {
    let mut ring = Ring::new(Duration::MAX);
    let node = Node::new(&ring, 5);
    ring.send_until_full();
    node.die();
    for _ in 0..2 {
        let Err(Refusal::Full(who)) = ring.send(Patience::None) else { panic!("there was room") };
        assert_eq!(who.iter().map(|who| who.name.as_str()).collect::<Vec<_>>(), ["node"]);
        ring.shared.reap();
    }
}

#[cfg(not(miri))] // thousands of rows
#[test]
fn kept_places_take_none_of_the_publishers_own_share_of_hold_words() {
    let ring = Ring::new(Duration::MAX);
    // Each costs sixteen words.
    let places = PROCESS_HOLDS_MAX / 16;
    let us = ring.writer.shared();
    let node = arena("node");
    let peer = PeerArena::of_own(&node).expect("our own arena can be mapped");
    let budget = Arc::new(HoldBudget::new(256, 64 * MIB));
    let attach = |own: &Arc<OwnArena>, peer: &Arc<PeerArena>, place: u64| {
        let (policy, holds, created_ns) = (Policy::Block, 0, monotonic_ns());
        let options = RowOptions { port: PortId(9), policy, history: 0, holds, created_ns, place };
        let row = RowShared::create(own, &ring.peer, ring.shared.key(), &options, &budget).expect("a row");
        let seat = us.attach(peer, row.key(), policy);
        std::mem::forget(row);
        seat.map(drop)
    };
    for place in 1..=places {
        attach(&node, &peer, place).expect("a seat");
    }
    node.life_word().fetch_or(OWNER_DIED, Ordering::Relaxed);
    assert_eq!(u64::from(us.reap().kept), places);
    attach(&ring.own, &ring.peer, 0).expect("the publisher's process reads nothing yet");
    std::mem::forget(node);
}
