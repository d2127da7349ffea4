//! Accounts that do not add up, and tables that are as full as they can be: what only the inside of a bus can write.

use std::sync::mpsc::channel;
use std::time::Duration;

use busway_shm::layout::{RINGS_MAX, SEATS_MAX, key, state};
use busway_shm::sync::Ordering;
use busway_wire::Policy;

use crate::bus::Bus;
use crate::control::scratch::Scratch;
use crate::inspection::Inspection;

/// Longer than any call here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn closed(inspection: &Inspection, topic: &str) -> bool {
    let found = inspection.topics.iter().find(|view| view.topic == topic);
    found.expect("the topic is listed").closed
}

#[test]
fn an_account_that_does_not_add_up_is_open_for_everybody_who_asks() {
    let scratch = Scratch::new();
    let bus = Bus::builder().directory(scratch.path().join("run")).open().expect("a bus");
    let mut publisher = bus.publisher("counted").open().expect("a publisher");
    let mut subscriber = bus.subscriber("counted").policy(Policy::Block).open().expect("a subscriber");
    publisher.wait_for_subscribers(1, PATIENCE).expect("they meet");
    for _ in 0..10 {
        publisher.send(b"x").expect("there is room");
    }
    for _ in 0..7 {
        subscriber.try_recv().expect("the bus is open").expect("a message");
    }
    let account = publisher.account();
    assert_eq!((account.expected, account.delivered, account.in_flight), (10, 7, 3));
    assert!(account.closed() && subscriber.account().closed());
    assert!(closed(&bus.inspect().expect("it can be asked"), "counted"));
    // A message that was passed and neither taken nor lost.
    let row = bus.core.own.tables().row(0).expect("a row");
    row.delivered.store(6, Ordering::Release);
    assert!(!publisher.account().closed() && !subscriber.account().closed(), "{:?}", publisher.account());
    assert!(!closed(&bus.inspect().expect("it can be asked"), "counted"));
    // It stays open when the row has gone.
    drop(subscriber);
    while publisher.subscribers() > 0 {
        std::thread::yield_now();
    }
    let account = publisher.account();
    assert_eq!((account.expected, account.closed()), (10, false), "{account:?}");
}

#[test]
fn a_process_with_every_ring_and_every_seat_is_gone_through_once() {
    let scratch = Scratch::new();
    let bus = Bus::builder().directory(scratch.path().join("run")).open().expect("a bus");
    let tables = bus.core.own.tables();
    for ring in (0..RINGS_MAX).filter_map(|index| tables.ring(index)) {
        ring.topic_bytes.store(1, Ordering::Relaxed);
        ring.name[0].store(u64::from(b't'), Ordering::Relaxed);
        ring.key.store(key(0, state::ACTIVE), Ordering::Release);
    }
    tables.header().rings_used.store(u32::MAX, Ordering::Release);
    tables.header().seats_used.store(u32::MAX, Ordering::Release);
    for seat in (0..SEATS_MAX).step_by(1024).filter_map(|index| tables.seat(index)) {
        seat.ring.store(u64::from(RINGS_MAX - 1), Ordering::Relaxed);
        seat.key.store(key(0, state::ACTIVE), Ordering::Release);
    }
    let (sender, answer) = channel();
    std::thread::spawn(move || sender.send(bus.inspect().map(|inspection| inspection.topics.len())));
    let topics = answer.recv_timeout(PATIENCE).expect("an inspection ends");
    assert_eq!(topics.expect("it can be asked"), 1);
}
