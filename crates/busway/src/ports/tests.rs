//! What becomes of a publisher that could not be read at first, try by try.

use std::sync::Arc;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::monotonic_ns;
use busway_shm::ring::{RingOptions, RingWriter};
use busway_shm::row::RowOptions;
use busway_shm::seat::RingShared;
use busway_wire::{Policy, PortId, SeatIndex, Topic};

use super::unmet::Unmet;
use super::{PortTable, Subscription, lock, ring_key};
use crate::control::{Ports, RowKey};

const MIB: u64 = 1 << 20;
const PORT: PortId = PortId(9);
/// Longer than the longest pause between two tries.
const PAUSE_NS: u64 = 60_000_000_000;

fn arena(name: &str) -> Arc<OwnArena> {
    let options = ArenaOptions { name: name.into(), bytes_max: 300 * MIB, monitored: true };
    OwnArena::create(&options).expect("an arena can be made")
}

/// A process with one subscription, and the ring of another one that it has not met.
struct Scene {
    table: PortTable,
    subscription: Arc<Subscription>,
    peer: Arc<PeerArena>,
    ring: Arc<RingShared>,
    topic: Topic,
    now_ns: u64,
    _writer: RingWriter,
}

impl Scene {
    fn new() -> Self {
        let topic = Topic::new("late").expect("a name");
        let (publisher, own) = (arena("publisher"), arena("subscriber"));
        let options = RingOptions {
            slots_max: 32,
            bytes_max: 64 * MIB,
            history: 0,
            max_wait_ns: u64::MAX,
            gating: true,
            relay: false,
        };
        let (writer, ring) = RingWriter::create(&publisher, &topic, PortId(7), options).expect("a ring");
        let peer = PeerArena::of_own(&publisher).expect("our own arena can be mapped");
        let now_ns = monotonic_ns();
        let (policy, created_ns) = (Policy::Block, now_ns);
        let options = RowOptions { port: PORT, policy, history: 0, holds: 15, created_ns, place: 0 };
        let subscription = Arc::new(Subscription::new(options, 0));
        let table = PortTable::new(own);
        table.add_subscription(PORT, &subscription, now_ns);
        Self { table, subscription, peer, ring, topic, now_ns, _writer: writer }
    }

    /// The publisher had no room for a seat.
    fn refused(&self) {
        let (peer, topic) = (self.peer.clone(), self.topic.clone());
        let unmet = Unmet::refused(peer, self.ring.key(), topic, PortId(7), "no memory");
        lock(&self.subscription.unmet).note(unmet, self.now_ns);
    }

    /// The rows that are asked for at the next try.
    fn retry(&mut self) -> Vec<RowKey> {
        self.now_ns += PAUSE_NS;
        self.table.retry(self.now_ns).iter().map(|wanted| wanted.row).collect()
    }

    fn answer(&self, row: RowKey, seat: Result<SeatIndex, String>) {
        self.table.attached(self.peer.process(), ring_key(self.ring.key()), row, seat);
    }
}

#[test]
fn a_publisher_that_does_not_answer_is_asked_again_for_the_same_row() {
    let mut scene = Scene::new();
    scene.refused();
    let first = scene.retry();
    assert_eq!(first.len(), 1, "{first:?}");
    for _ in 0..3 {
        assert_eq!(scene.retry(), first, "a second row is read by nobody, and waited for");
    }
    assert_eq!(scene.subscription.arrived().len(), 1);
}

#[test]
fn a_publisher_that_is_read_is_not_asked_again_whatever_is_told_of_it_later() {
    let mut scene = Scene::new();
    scene.refused();
    let row = scene.retry()[0];
    scene.answer(row, Ok(SeatIndex(0)));
    // The answer to a try before this one comes late.
    scene.refused();
    assert_eq!(scene.retry(), []);
    assert_eq!(scene.subscription.arrived().len(), 1);
}

#[test]
fn a_publisher_that_has_refused_is_asked_for_another_row() {
    let mut scene = Scene::new();
    scene.refused();
    let first = scene.retry();
    scene.answer(first[0], Err("no memory".to_owned()));
    assert_eq!(scene.subscription.arrived().len(), 0, "who was refused is not to be looked at");
    let second = scene.retry();
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(second, first);
}

#[test]
fn a_publisher_is_counted_as_read_from_the_moment_it_has_a_seat_for_us_until_it_is_left() {
    let mut scene = Scene::new();
    scene.refused();
    let row = scene.retry()[0];
    assert_eq!(scene.subscription.reading(), 0, "what is sent now is missed");
    scene.answer(row, Ok(SeatIndex(0)));
    scene.answer(row, Ok(SeatIndex(0)));
    assert_eq!(scene.subscription.reading(), 1);
    drop(scene.subscription.arrived());
    assert_eq!(scene.subscription.reading(), 0, "nobody reads it");
}
