//! A subscriber and a publisher that writes nonsense into its own memory, which only the inside of a bus can reach.

use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::time::Duration;

use busway_shm::layout::{state, unkey};
use busway_shm::slot::{ChunkRef, Slot};
use busway_shm::sync::Ordering;
use busway_shm::view::Mapped;

use busway_shm::clock::Deadline;
use busway_wire::{Header, Kind, Policy, PortId, Topic};

use busway_wire::limits::SAMPLE_SOURCES_MAX;

use super::many::ENDS;
use super::{GAPS_MAX, Subscriber};
use crate::bus::Bus;
use crate::control::scratch::Scratch;
use crate::ports::FULL_MAX;
use crate::publisher::{Publisher, Relay};

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
    next.send(&header, &[], b"first").expect("there is room");
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

/// The publisher whose relays are read here.
const RELAYED: PortId = PortId(77);

/// So many publishers of `news.*` that send nothing.
fn others(bus: &Bus, count: usize) -> Vec<Publisher> {
    (0..count).map(|number| bus.publisher(&format!("news.{number}")).open().expect("a publisher")).collect()
}

/// A relay that is read by all who were there before.
fn relay(bus: &Bus) -> Relay {
    let topic = Topic::new("news.relayed").expect("a name");
    let mut relay = Relay::open(&bus.core, &topic, RELAYED).expect("a relay");
    let deadline = Deadline::after(PATIENCE);
    while !relay.is_ready() {
        assert!(!deadline.expired(), "the relay is read");
        std::thread::yield_now();
    }
    relay
}

fn send(relay: &mut Relay, sequence: u64) {
    let mut header = Header::new(Kind::Publish);
    header.sequence.set(sequence);
    relay.send(&header, &[], b"news").expect("there is room");
}

/// Looks until it is so; nothing comes meanwhile.
fn look_until(subscriber: &mut Subscriber, done: impl Fn(&Subscriber) -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done(subscriber) {
        assert!(
            !deadline.expired(),
            "{} are read, {} stand by",
            subscriber.readers.len(),
            subscriber.standby.len()
        );
        assert!(subscriber.try_recv().expect("the bus is open").is_none(), "nothing was sent");
    }
}

#[test]
fn of_two_relays_that_are_met_at_once_the_one_that_came_first_is_read_first() {
    let scratch = Scratch::new();
    let join =
        |name: &str| Bus::builder().directory(scratch.path().join("run")).name(name).open().expect("a bus");
    let (one, two, here) = (join("one"), join("two"), join("here"));
    // The memory of the one that comes first stands behind that of the other.
    let behind = one.core.own.process() > two.core.own.process();
    let (first, second) = if behind { (one, two) } else { (two, one) };
    let mut subscriber = here.subscriber("news.*").open().expect("a subscriber");
    let _others = others(&here, FULL_MAX + 1);
    // It does not look before both are there.
    let mut older = relay(&first);
    send(&mut older, 1);
    send(&mut older, 2);
    let mut newer = relay(&second);
    send(&mut newer, 3);
    let mut next = || {
        let deadline = Deadline::after(PATIENCE);
        loop {
            if let Some(sample) = subscriber.try_recv().expect("the bus is open") {
                return sample.sequence();
            }
            assert!(!deadline.expired(), "what was sent is read");
        }
    };
    assert_eq!([next(), next()], [1, 2], "the newer relay does not have what was sent before it came");
    drop(older);
    assert_eq!(next(), 3);
    assert!(subscriber.losses().is_empty());
}

#[test]
fn a_relay_that_stands_by_is_read_at_the_next_look_for_ends_wherever_the_other_stands() {
    let scratch = Scratch::new();
    let join =
        |name: &str| Bus::builder().directory(scratch.path().join("run")).name(name).open().expect("a bus");
    let (first, second, here) = (join("first"), join("second"), join("here"));
    let mut subscriber = here.subscriber("news.*").open().expect("a subscriber");
    let _others = others(&here, ENDS);
    look_until(&mut subscriber, |subscriber| subscriber.readers.len() == ENDS);
    let together = subscriber.readers.iter().map(|reader| reader.source.together());
    assert_eq!(together.max(), Some(SAMPLE_SOURCES_MAX), "a sample keeps the names of no more publishers");
    let of_relay =
        |subscriber: &Subscriber| subscriber.readers.iter().position(|known| known.origin.is_some());
    let begun = |subscriber: &Subscriber| {
        of_relay(subscriber).is_some_and(|at| subscriber.readers[at].reader.has_begun())
    };
    let ended = relay(&first);
    look_until(&mut subscriber, begun);
    let _other = relay(&second);
    look_until(&mut subscriber, |subscriber| subscriber.standby.len() == 1);
    drop(ended);
    let deadline = Deadline::after(PATIENCE);
    let at = of_relay(&subscriber).expect("it is read");
    while !subscriber.readers[at].reader.is_over() {
        assert!(!deadline.expired(), "it has ended");
        std::thread::yield_now();
    }
    let many = subscriber.many.as_mut().expect("they are many");
    // It is the last that would be looked at.
    (many.full_at_ns, many.ends_at) = (0, (at + 1) % (ENDS + 1));
    assert!(subscriber.try_recv().expect("the bus is open").is_none(), "nothing was sent");
    assert!(subscriber.standby.is_empty(), "one look for ends is enough");
}

#[test]
fn readers_of_many_publishers_stand_as_their_rings_do_and_miss_nothing_by_that() {
    let scratch = Scratch::new();
    let here = Bus::builder().directory(scratch.path().join("run")).open().expect("a bus");
    let mut subscriber = here.subscriber("news.*").policy(Policy::Block).open().expect("a subscriber");
    let mut publishers = others(&here, FULL_MAX + 40);
    let are_read = |subscriber: &Subscriber, count: usize| {
        subscriber.readers.len() == count && subscriber.readers.iter().all(|known| known.reader.has_begun())
    };
    look_until(&mut subscriber, |subscriber| are_read(subscriber, FULL_MAX + 40));
    // Every other one ends, and the last takes its place; those that come then have its ring.
    let mut number = 0;
    publishers.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    look_until(&mut subscriber, |subscriber| are_read(subscriber, publishers.len()));
    for number in 0..FULL_MAX {
        publishers.push(here.publisher(&format!("news.again-{number}")).open().expect("a publisher"));
    }
    let count = publishers.len();
    look_until(&mut subscriber, |subscriber| are_read(subscriber, count));
    for publisher in &mut publishers {
        publisher.send(b"news").expect("there is room");
    }
    // A look at all, with messages that were found before it.
    let first = subscriber.try_recv().expect("the bus is open").expect("there is one").publisher().port;
    subscriber.many.as_mut().expect("they are many").full_at_ns = 0;
    let mut seen = BTreeSet::from([first]);
    let deadline = Deadline::after(PATIENCE);
    while seen.len() < count {
        assert!(!deadline.expired(), "{} of {count} are read", seen.len());
        if let Some(sample) = subscriber.try_recv().expect("the bus is open") {
            assert!(seen.insert(sample.publisher().port), "each message once");
        }
    }
    assert!(subscriber.try_recv().expect("the bus is open").is_none(), "each sent one");
    assert!(subscriber.readers.is_sorted_by_key(super::Reader::key), "as their rings do");
}
