//! A publisher beside a carrier that only notes what it is asked, which only the inside of a bus can give it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_wire::PortId;

use super::{Gating, PACE_BYTES, PACE_NS_A_BYTE, Publisher};
use crate::bus::Bus;
use crate::control::Watched;
use crate::control::scratch::Scratch;
use crate::ports::{Ahead, Carrier, lock};

const MESSAGE: usize = 1 << 20;
/// What a link of 1 GB/s takes for one of them.
const MOST: Duration = Duration::from_nanos(MESSAGE as u64 * PACE_NS_A_BYTE);

/// How long a publisher was asked to wait at most, each time.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<Duration>>);

impl Carrier for Notes {
    fn watched(&self, _: Watched) {}

    fn changed(&self) {}

    fn pace(&self, _: PortId, ahead: Ahead) {
        lock(&self.0).push(ahead.most);
    }
}

impl Notes {
    /// What was noted while `publish` ran.
    fn of(&self, publish: impl FnOnce()) -> Vec<Duration> {
        lock(&self.0).clear();
        publish();
        std::mem::take(&mut *lock(&self.0))
    }
}

/// A bus in whose process somebody carries.
fn carried() -> (Bus, Arc<Notes>, Scratch) {
    let scratch = Scratch::new();
    let bus =
        Bus::builder().directory(scratch.path().join("run")).arena_bytes(1 << 30).open().expect("a bus");
    let notes = Arc::new(Notes::default());
    bus.core.ports.add_carrier(notes.clone());
    (bus, notes, scratch)
}

fn send(publisher: &mut Publisher) {
    publisher.send(&[7; MESSAGE]).expect("it is sent");
}

#[test]
fn a_publisher_of_large_messages_is_slowed_by_a_link_no_longer_than_it_waits_for_anybody() {
    assert_eq!(MESSAGE as u64, PACE_BYTES, "each of them is looked at");
    let (bus, notes, _scratch) = carried();
    let slow = Duration::from_micros(50);
    for (max_wait, most) in [(Duration::from_secs(1), MOST), (slow, slow), (Duration::ZERO, Duration::ZERO)] {
        let mut publisher = bus.publisher("large").max_wait(max_wait).open().expect("a publisher");
        assert_eq!(notes.of(|| send(&mut publisher)), [most], "max_wait {max_wait:?}");
    }
    let mut refuses = bus.publisher("large").gating(Gating::Refused).open().expect("a publisher");
    assert_eq!(notes.of(|| send(&mut refuses)), [Duration::ZERO], "nobody may make it wait");
}

#[test]
fn what_was_tried_without_patience_is_not_waited_for_later() {
    let (bus, notes, _scratch) = carried();
    let mut publisher = bus.publisher("large").open().expect("a publisher");
    let tried = notes.of(|| {
        for _ in 0..64 {
            publisher.try_send(&[7; MESSAGE]).expect("it is sent");
        }
    });
    assert!(tried.is_empty(), "{tried:?}");
    assert_eq!(
        notes.of(|| send(&mut publisher)),
        [2 * MOST],
        "for itself, and for what a publisher may be ahead"
    );
    let hurried = notes.of(|| {
        publisher.send_timeout(&[7; MESSAGE], Duration::ZERO).expect("it is sent");
    });
    assert_eq!(hurried, [Duration::ZERO], "no longer than its caller waits");
}

#[test]
fn a_detached_loan_goes_back_to_its_own_publisher_and_to_no_other() {
    let scratch = Scratch::new();
    let bus =
        Bus::builder().directory(scratch.path().join("run")).arena_bytes(1 << 30).open().expect("a bus");
    let open = |topic: &str| bus.publisher(topic).open().expect("a publisher");
    let (mut own, mut other) = (open("own"), open("other"));
    let mut subscriber = bus.subscriber("own").open().expect("a subscriber");
    let mut detached = own.loan(500).expect("room").detach();
    let at = detached.bytes().as_ptr();
    detached.bytes_mut().fill(7);
    let detached = other.attach(detached).expect_err("it is not the other's");
    own.send(b"meanwhile").expect("it is sent");
    assert_eq!(detached.bytes().as_ptr(), at, "it stays where it is");
    own.attach(detached).expect("it is its own").send().expect("it is sent");
    assert_eq!(&subscriber.recv().expect("a message")[..], b"meanwhile");
    assert_eq!(subscriber.recv().expect("a message")[..], [7; 500]);
    drop(own.try_loan(500).expect("room"));
    let before = own.census();
    for _ in 0..50 {
        let detached = own.try_loan(500).expect("room").detach();
        drop(own.attach(detached).expect("it is its own"));
    }
    assert_eq!(own.census(), before, "what goes back is used again");
}
