//! Many requests that one waker is told of.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use busway::{RequestError, Requester};
use busway_shm::clock::Deadline;

use crate::place::{PATIENCE, Scene};
use crate::service::TOPIC;

/// What an event loop sleeps on.
#[derive(Default)]
struct Doorbell {
    rung: Mutex<bool>,
    came: Condvar,
}

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.came.notify_all();
    }
}

impl Doorbell {
    /// The requests that have something, once some have; an empty set where nothing rang for too long.
    fn next(self: &Arc<Self>, requester: &Requester) -> BTreeSet<u64> {
        let waker = Waker::from(self.clone());
        let end = Deadline::after(PATIENCE);
        loop {
            *self.rung.lock().unwrap() = false;
            let mut ready = Vec::new();
            let most = requester.poll_watched(&mut Context::from_waker(&waker), &mut ready).unwrap();
            if !ready.is_empty() || end.expired() {
                return ready.into_iter().collect();
            }
            let rung = self.rung.lock().unwrap();
            let most = most.unwrap_or(Duration::MAX).min(PATIENCE);
            drop(self.came.wait_timeout_while(rung, most, |rung| !*rung).unwrap());
        }
    }
}

#[test]
fn watched_requests_are_named_when_they_have_something_also_where_a_thread_waits_for_others() {
    let scene = Scene::new();
    let bus = scene.bus("watched");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    let doorbell = Arc::new(Doorbell::default());
    let mut named = 0;
    for round in 0..200_u32 {
        // A thread that waits for its own receives for all meanwhile, or not.
        let other = requester.clone();
        let blocked = (round % 2 == 0).then(|| {
            let mut pending = other.send(b"for a thread", PATIENCE).unwrap();
            std::thread::spawn(move || pending.recv().unwrap().unwrap().to_vec())
        });
        let mut pendings: Vec<_> = (0..4).map(|_| requester.send(b"for a loop", PATIENCE).unwrap()).collect();
        pendings.iter().for_each(busway::Pending::watch);
        let server = std::thread::spawn(move || {
            for _ in 0..(if round % 2 == 0 { 5 } else { 4 }) {
                let mut request = responder.recv().unwrap();
                // The thread is content with the first reply, and cancels the rest.
                let asked = request.to_vec();
                let _ = request.reply_part(&asked);
                let _ = request.reply(&[7; 3000]);
            }
            responder
        });
        let mut over = BTreeSet::new();
        while over.len() < pendings.len() {
            let ready = doorbell.next(&requester);
            assert!(!ready.is_empty(), "round {round}: nothing rang, {} of 4 are over", over.len());
            named += ready.len();
            for pending in pendings.iter_mut().filter(|pending| ready.contains(&pending.id())) {
                while pending.take().unwrap().is_some() {}
                if pending.is_over() {
                    over.insert(pending.id());
                }
            }
        }
        if let Some(blocked) = blocked {
            assert_eq!(blocked.join().unwrap(), b"for a thread");
        }
        responder = server.join().unwrap();
    }
    assert_eq!(requester.under_way(), 0);
    println!("evidence: watched=800 named={named}");
}

#[test]
fn watched_requests_end_when_their_time_is_up_and_when_their_responder_has_gone() {
    let scene = Scene::new();
    let bus = scene.bus("watched");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).late_join(Duration::ZERO).open().unwrap();
    let doorbell = Arc::new(Doorbell::default());
    let mut long = requester.send(b"long", PATIENCE).unwrap();
    let first = responder.recv().unwrap();
    let mut time = Duration::from_millis(50);
    let (mut short, second) = loop {
        let short = requester.send(b"short", time).unwrap();
        if let Some(request) = responder.recv_timeout(time).unwrap() {
            break (short, request);
        }
        // The machine is busier than that.
        time *= 2;
        assert!(time < PATIENCE);
    };
    long.watch();
    short.watch();
    let taken = [first, second];
    assert_eq!(doorbell.next(&requester), BTreeSet::from([short.id()]));
    assert_eq!(short.take().unwrap_err(), RequestError::TimedOut);
    assert!(taken.iter().any(|request| request.is_cancelled()) && !taken[0].is_cancelled());
    drop(taken);
    assert_eq!(doorbell.next(&requester), BTreeSet::from([long.id()]));
    assert_eq!(long.take().unwrap_err(), RequestError::Unanswered);
    // Who has gone takes nothing, and nobody rings.
    let mut deserted = requester.send(b"deserted", PATIENCE).unwrap();
    deserted.watch();
    drop(responder);
    assert_eq!(doorbell.next(&requester), BTreeSet::from([deserted.id()]));
    assert_eq!(deserted.take().unwrap_err(), RequestError::NoResponders);
    // It cannot be sent within no time, and says so.
    assert!(matches!(requester.send_within(b"x", PATIENCE, Duration::ZERO), Err(RequestError::NoResponders)));
    println!("evidence: ends=3");
}

#[test]
fn a_request_that_would_have_to_wait_is_not_sent_and_may_be_tried_again() {
    let scene = Scene::new();
    let bus = scene.bus("room");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).in_flight(2).open().unwrap();
    let mut under_way: Vec<_> = (0..2).map(|_| requester.send(b"one", PATIENCE).unwrap()).collect();
    for wait in [Duration::ZERO, Duration::from_millis(10)] {
        assert!(requester.send_within(b"another", PATIENCE, wait).unwrap().is_none());
    }
    assert_eq!(requester.under_way(), 2);
    responder.recv().unwrap().reply(b"done").unwrap();
    let sent = requester.send_within(b"another", PATIENCE, PATIENCE).unwrap();
    assert!(sent.is_some());
    assert_eq!(&under_way[0].recv().unwrap().unwrap()[..], b"done");
    assert_eq!(requester.under_way(), 2);
}
