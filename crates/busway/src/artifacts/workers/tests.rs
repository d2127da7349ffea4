//! When who gives events to workers is roused: what it was told is over, and there is nothing that would rouse it later.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Workers, WorkersBuilder};
use crate::artifacts::{ArtifactHandler, Flow, Heard, PeerEvent, WhenFull, Word};

const PATIENCE: Duration = Duration::from_secs(30);
const PEER: u8 = 1;

/// Stands still in these flows until they are let on.
struct Stands {
    flows: Mutex<BTreeSet<Flow>>,
    on: Condvar,
}

impl Stands {
    fn stand(&self, flow: Flow) {
        let flows = self.flows.lock().unwrap();
        drop(self.on.wait_while(flows, |flows| flows.contains(&flow)).unwrap());
    }

    fn go_on(&self, flow: Flow) {
        self.flows.lock().unwrap().remove(&flow);
        self.on.notify_all();
    }
}

impl ArtifactHandler for Stands {
    fn on_advert(&self, _: u8, _: &Heard) {
        self.stand(Flow::Advert);
    }

    fn on_request(&self, _: u8, _: &Heard) {
        self.stand(Flow::Request);
    }
}

/// Workers whose handler stands still with adverts and requests, and what comes when they rouse.
fn standing(builder: WorkersBuilder) -> (Arc<Stands>, Workers, Receiver<()>) {
    let flows = Mutex::new(BTreeSet::from([Flow::Advert, Flow::Request]));
    let stands = Arc::new(Stands { flows, on: Condvar::new() });
    let workers = builder.timer(Duration::from_secs(86_400)).start(stands.clone()).unwrap();
    let (rouse, roused) = channel();
    workers.rouse_with(move || rouse.send(()).unwrap());
    (stands, workers, roused)
}

fn advert() -> PeerEvent {
    PeerEvent::of(Word::Ask { of: Vec::new() }, &[])
}

fn request(request: u64) -> PeerEvent {
    PeerEvent::of(Word::Cancel { request }, &[])
}

#[test]
fn who_is_told_that_something_is_under_way_is_roused_when_it_was_handled() {
    let (stands, workers, roused) = standing(Workers::builder());
    assert!(!workers.are_tables_under_way(PEER));
    workers.deliver(PEER, advert()).unwrap();
    workers.deliver(PEER, request(1)).unwrap();
    assert!(workers.are_tables_under_way(PEER) && !workers.are_tables_under_way(PEER + 1));
    // Something else of that peer stands still meanwhile.
    stands.go_on(Flow::Advert);
    roused.recv_timeout(PATIENCE).expect("it is roused");
    assert!(!workers.are_tables_under_way(PEER) && workers.is_under_way(PEER));
    stands.go_on(Flow::Request);
    roused.recv_timeout(PATIENCE).expect("it is roused when all is handled");
    assert!(!workers.is_under_way(PEER));
}

#[test]
fn who_was_given_an_event_back_is_roused_when_there_is_room_for_it() {
    let builder = Workers::builder().limit(Flow::Request, 1, 1 << 20, WhenFull::Wait).floor(1, 1 << 16);
    let (stands, workers, roused) = standing(builder);
    // Something else of that peer stands still meanwhile, so that it is not roused because all is handled.
    workers.deliver(PEER, advert()).unwrap();
    let mut waits = None;
    for number in 0..3 {
        waits = workers.try_deliver(PEER, request(number)).unwrap();
    }
    assert_eq!(waits, Some(request(2)), "one is handled, one waits, one comes back");
    assert!(roused.try_recv().is_err(), "there is no room yet");
    stands.go_on(Flow::Request);
    roused.recv_timeout(PATIENCE).expect("it is roused");
    assert_eq!(workers.try_deliver(PEER, request(2)).unwrap(), None);
    stands.go_on(Flow::Advert);
    workers.close(PATIENCE).unwrap();
    assert_eq!((workers.counts(Flow::Request).waited, workers.counts(Flow::Request).handled), (1, 3));
}
