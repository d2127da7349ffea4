//! A subscriber and a publisher that writes nonsense into its own memory, which only the inside of a bus can reach.

use std::sync::mpsc::channel;
use std::time::Duration;

use busway_shm::layout::{state, unkey};
use busway_shm::slot::{ChunkRef, Slot};
use busway_shm::sync::Ordering;
use busway_shm::view::Mapped;

use busway_shm::clock::Deadline;
use busway_wire::{Header, Kind, PortId, Topic};

use super::GAPS_MAX;
use crate::bus::Bus;
use crate::control::scratch::Scratch;
use crate::publisher::Relay;

/// Longer than any call here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every slot of the only ring of `bus` says that it carries a message far in the future.
fn break_ring_of(bus: &Bus) {
    let tables = bus.core.own.tables();
    let used = tables.header().rings_used.load(Ordering::Acquire);
    let active = |index: &u32| {
        tables.ring(*index).is_some_and(|r| unkey(r.key.load(Ordering::Acquire)).1 == state::ACTIVE)
    };
    let ring = tables.ring((0..used).find(active).expect("a ring")).expect("it was found");
    let stage = ring.stage_at[0].load(Ordering::Relaxed);
    let slots: Mapped<[Slot]> = tables.arena().slice(stage & !63, 1 << (stage & 63)).expect("its slots");
    for slot in slots.iter() {
        slot.publish(1 << 38, ChunkRef::INLINE);
    }
}

#[test]
fn a_publisher_of_endless_losses_stops_neither_a_call_nor_the_other_publishers() {
    let scratch = Scratch::new();
    let join =
        |name: &str| Bus::builder().directory(scratch.path().join("run")).name(name).open().expect("a bus");
    let (hostile, honest, victim) = (join("hostile"), join("honest"), join("victim"));
    let mut subscriber = victim.subscriber("*").open().expect("a subscriber");
    let _bad = hostile.publisher("bad").open().expect("a publisher");
    let mut good = honest.publisher("good").open().expect("a publisher");
    break_ring_of(&hostile);
    let (sender, results) = channel();
    std::thread::spawn(move || {
        let nothing = subscriber.try_recv().expect("the bus is open").is_none();
        let lost: u64 = subscriber.losses().iter().map(|loss| loss.count).sum();
        sender.send((nothing, lost, None)).expect("the test waits");
        for _ in 0..100 {
            let sample = subscriber.recv().expect("the bus is open");
            sender.send((false, 0, Some(sample.sequence()))).expect("the test waits");
        }
    });
    let (nothing, lost, _) = results.recv_timeout(PATIENCE).expect("a call returns");
    assert!(nothing && lost > 0 && lost <= u64::from(GAPS_MAX), "{lost} are lost in one call");
    for sequence in 1..=100 {
        good.send(b"x").expect("nobody gates");
        let (.., got) = results.recv_timeout(PATIENCE).expect("the honest publisher is heard");
        assert_eq!(got, Some(sequence));
    }
}

#[test]
fn the_end_of_a_publisher_hides_no_message_of_another() {
    let scratch = Scratch::new();
    let bus = Bus::builder().directory(scratch.path().join("run")).open().expect("a bus");
    let mut subscriber = bus.subscriber("*").open().expect("a subscriber");
    let mut lasting = bus.publisher("lasting").open().expect("a publisher");
    for round in 0_u32..3 {
        let passing = bus.publisher("passing").open().expect("a publisher");
        passing.wait_for_subscribers(1, PATIENCE).expect("they meet");
        drop(passing);
        // Now and then an empty look asks whether its publisher is gone: one of these looks finds that it is.
        for look in 0_u32..200 {
            lasting.send(&look.to_le_bytes()).expect("nobody gates");
            let sample = subscriber.try_recv().expect("the bus is open");
            let got = sample.map(|sample| sample.to_vec());
            assert_eq!(got, Some(look.to_le_bytes().to_vec()), "look {look} of round {round}");
        }
    }
    // Every so many empty looks find out; how many of them fall on which reader is not told.
    let deadline = Deadline::after(PATIENCE);
    while subscriber.readers.len() > 1 {
        assert!(!deadline.expired(), "those that passed are read to their end");
        let _ = subscriber.try_recv().expect("the bus is open");
    }
}

#[test]
fn a_relay_takes_the_place_of_one_that_brought_nothing() {
    const LOOKS: u32 = 1_000_000;
    let scratch = Scratch::new();
    let join =
        |name: &str| Bus::builder().directory(scratch.path().join("run")).name(name).open().expect("a bus");
    let (first, second, here) = (join("first"), join("second"), join("here"));
    let mut subscriber = here.subscriber("news").open().expect("a subscriber");
    let topic = Topic::new("news").expect("a name");
    let mut open = |bus: &Bus, count: usize| {
        let mut relay = Relay::open(&bus.core, &topic, PortId(77)).expect("a relay");
        let deadline = Deadline::after(PATIENCE);
        while !relay.is_ready() || subscriber.readers.len() + subscriber.standby.len() < count {
            assert!(!deadline.expired(), "the subscriber meets it");
            assert!(subscriber.try_recv().expect("the bus is open").is_none(), "nothing was sent");
        }
        relay
    };
    // Its node ends before anything of the publisher came over it, when the node that follows it is there already.
    let silent = open(&first, 1);
    let mut next = open(&second, 2);
    drop(silent);
    let mut header = Header::new(Kind::Publish);
    header.sequence.set(1);
    next.send(&header, b"first").expect("there is room");
    let deadline = Deadline::after(PATIENCE);
    let mut looks = 0;
    let got = loop {
        if let Some(sample) = subscriber.try_recv().expect("the bus is open") {
            break sample;
        }
        looks += 1;
        assert!(looks < LOOKS || !deadline.expired(), "what the other relay brings is read");
    };
    assert_eq!((got.sequence(), got.payload()), (1, &b"first"[..]));
}
