//! Where memory is short a subscriber is told, and reads as soon as it is not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/place.rs"]
mod place;

use busway::{Bus, Code, Publisher, Subscriber};
use busway_shm::clock::Deadline;
use place::{PATIENCE, Scene, join};

const BUDGET: u64 = 6 << 20;

/// Takes all of the domain's budget. Closing the bus gives it back.
fn fill(bus: &Bus) -> Vec<Publisher> {
    let mut publishers = vec![bus.publisher("fill").open().unwrap()];
    for size in [60_000, 9_000, 300] {
        for _ in 0..BUDGET / size {
            // When nothing is left the oldest message gives way.
            publishers[0].send(&vec![1; size as usize]).unwrap();
        }
    }
    loop {
        match bus.publisher(&format!("fill.{}", publishers.len())).open() {
            Ok(publisher) => publishers.push(publisher),
            Err(error) => {
                assert_eq!(error.code(), Code::DomainBudget, "{error}");
                return publishers;
            }
        }
    }
}

/// Opens and drops a publisher, so that the next of the same process needs no memory that is not there.
fn warm_ring(bus: &Bus) {
    drop(bus.publisher("warm").open().unwrap());
}

fn reads(subscriber: &mut Subscriber, publisher: &mut Publisher) {
    let deadline = Deadline::after(PATIENCE);
    while publisher.subscribers() == 0 {
        assert!(!deadline.expired(), "it is not tried again: {:?}", subscriber.unread());
        std::thread::yield_now();
    }
    publisher.send(b"at last").unwrap();
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap()[..], *b"at last");
    assert_eq!(subscriber.unread(), []);
}

#[test]
fn a_subscriber_without_memory_is_told_and_reads_when_there_is_some() {
    let scene = Scene::new();
    let hungry = join(scene.directory(), "hungry").budget(BUDGET).open().unwrap();
    let (sender, receiver) = (scene.bus("sender"), scene.bus("receiver"));
    // The sender has room for a ring and for a seat, the receiver none for a row.
    let warm = sender.subscriber("warm").open().unwrap();
    warm_ring(&sender);
    drop(warm);
    let mut early = receiver.subscriber("late").open().unwrap();
    let filling = fill(&hungry);
    let mut publisher = loop {
        // The ring of the former publisher is free when the control thread has looked.
        if let Ok(publisher) = sender.publisher("late").open() {
            break publisher;
        }
    };
    let unread = early.unread();
    assert_eq!(unread.len(), 1, "{unread:?}");
    assert_eq!((unread[0].topic.as_str(), unread[0].error.code()), ("late", Code::DomainBudget));
    assert_eq!(unread[0].publisher.name, "sender");
    let error = receiver.subscriber("late").open().unwrap_err();
    assert_eq!(error.code(), Code::DomainBudget, "{error}");
    let rings = filling.len();
    drop(filling);
    hungry.close();
    reads(&mut early, &mut publisher);
    receiver.subscriber("late").open().unwrap();
    println!("evidence: rings={rings} told=DomainBudget");
}

#[test]
fn a_publisher_without_room_for_a_seat_is_asked_again() {
    let scene = Scene::new();
    let hungry = join(scene.directory(), "hungry").budget(BUDGET).open().unwrap();
    let (sender, receiver) = (scene.bus("sender"), scene.bus("receiver"));
    warm_ring(&sender);
    // Another topic: the former publisher may not have been forgotten yet, and would make a seat.
    let own = receiver.publisher("warm.too").open().unwrap();
    drop(receiver.subscriber("warm.too").open().unwrap());
    drop(own);
    let filling = fill(&hungry);
    let mut publisher = loop {
        if let Ok(publisher) = sender.publisher("late").open() {
            break publisher;
        }
    };
    // The refusal of another process keeps nobody from subscribing.
    let mut subscriber = receiver.subscriber("late").open().unwrap();
    let unread = subscriber.unread();
    assert_eq!(unread.len(), 1, "{} seated, {} read", publisher.subscribers(), subscriber.publishers());
    assert_eq!(unread[0].error.code(), Code::SeatRefused, "{:?}", unread[0].error);
    drop(filling);
    hungry.close();
    reads(&mut subscriber, &mut publisher);
}
