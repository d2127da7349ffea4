//! Requests that end without a reply.

use std::time::Duration;

use busway::{Bus, Code, ReplyError, RequestError, Requester, Responder};
use busway_shm::clock::Deadline;

use crate::place::{PATIENCE, Scene};
use crate::service::{SOON, TOPIC};

fn pair(scene: &Scene) -> (Bus, Responder, Requester) {
    let bus = scene.bus("both");
    let responder = bus.responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    assert_eq!((requester.responders(), responder.requesters()), (1, 1));
    (bus, responder, requester)
}

fn lost(requester: &Requester, cause: &str) -> u64 {
    requester.account().dropped.get(cause).copied().unwrap_or(0)
}

#[test]
fn that_nobody_is_there_is_known_without_waiting_for_the_time_to_be_up() {
    let scene = Scene::new();
    let bus = scene.bus("alone");
    let requester = bus.requester(TOPIC).late_join(Duration::ZERO).open().unwrap();
    let error = requester.request(b"anybody?", Duration::MAX).unwrap_err();
    assert_eq!((&error, error.code()), (&RequestError::NoResponders, Code::NoResponders));
    assert_eq!(requester.account().sent, 0);
    // Work is for pullers and requests are for responders: neither takes the other's.
    let mut puller = bus.puller(TOPIC).open().unwrap();
    let mut pusher = bus.pusher(TOPIC).open().unwrap();
    pusher.send(b"work").unwrap();
    assert_eq!(requester.request(b"anybody?", Duration::MAX).unwrap_err(), RequestError::NoResponders);
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let task = puller.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(&task[..], b"work");
    let mut pending = requester.send(b"and now?", PATIENCE).unwrap();
    responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(b"yes").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"yes");
    assert!(responder.recv_timeout(SOON).unwrap().is_none() && puller.recv_timeout(SOON).unwrap().is_none());
}

#[test]
fn a_request_waits_for_the_first_responder() {
    let scene = Scene::new();
    let bus = scene.bus("early");
    let requester = bus.requester(TOPIC).late_join(PATIENCE).open().unwrap();
    let early = std::thread::spawn(move || requester.request(b"anybody?", PATIENCE).unwrap().to_vec());
    let mut responder = scene.bus("late").responder("service.*").open().unwrap();
    responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(b"me").unwrap();
    assert_eq!(early.join().unwrap(), b"me");
}

#[test]
fn requests_that_nobody_has_taken_when_the_last_responder_closes_end_at_once() {
    let scene = Scene::new();
    let (_bus, responder, _) = pair(&scene);
    let requester = scene.bus("asks").requester(TOPIC).late_join(Duration::ZERO).open().unwrap();
    let mut pending = requester.send(b"quickly!", Duration::MAX).unwrap();
    drop(responder);
    assert_eq!(pending.recv().unwrap_err(), RequestError::NoResponders);
    assert_eq!((requester.under_way(), lost(&requester, "no_subscriber")), (0, 1));
}

#[test]
fn a_request_that_is_let_go_and_one_that_fails_say_so_at_once() {
    let scene = Scene::new();
    let (_bus, mut responder, requester) = pair(&scene);
    let mut pending = requester.send(b"hello?", Duration::MAX).unwrap();
    drop(responder.recv_timeout(PATIENCE).unwrap().unwrap());
    let error = pending.recv().unwrap_err();
    assert_eq!((&error, error.code()), (&RequestError::Unanswered, Code::Unanswered));
    let mut pending = requester.send(b"1/0", Duration::MAX).unwrap();
    responder.recv_timeout(PATIENCE).unwrap().unwrap().fail(b"division by zero").unwrap();
    let error = pending.recv().unwrap_err();
    assert_eq!(error, RequestError::Failed(b"division by zero".to_vec()));
    assert_eq!(error.to_string(), "the responder failed: division by zero");
    assert_eq!(pending.recv().unwrap_err(), error, "it ends once");
    // A stream may break off as well.
    let mut pending = requester.send(b"count", Duration::MAX).unwrap();
    let mut request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    request.reply_part(b"one").unwrap();
    drop(request);
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"one");
    assert_eq!(pending.recv().unwrap_err(), RequestError::Unanswered);
    assert_eq!(requester.account().delivered, 3);
}

#[test]
fn a_request_that_is_cancelled_is_not_handled_or_its_responder_is_told() {
    let scene = Scene::new();
    let (_bus, mut responder, requester) = pair(&scene);
    // Before anybody has it.
    drop(requester.send(b"never mind", Duration::MAX).unwrap());
    assert!(responder.recv_timeout(SOON).unwrap().is_none());
    assert_eq!(lost(&requester, "cancelled"), 1);
    // After.
    let pending = requester.send(b"wait", Duration::MAX).unwrap();
    let mut request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(!request.is_cancelled());
    drop(pending);
    assert!(request.is_cancelled());
    assert_eq!(request.reply_part(b"part").unwrap_err(), ReplyError::Cancelled);
    assert_eq!(request.reply(b"late").unwrap_err().code(), Code::Cancelled);
    assert_eq!((responder.late(), lost(&requester, "cancelled")), (2, 2));
    assert_eq!((requester.under_way(), responder.lanes()), (0, 0));
}

#[test]
fn a_request_whose_deadline_has_passed_is_counted_and_not_handled() {
    let scene = Scene::new();
    let (_bus, mut responder, requester) = pair(&scene);
    let soon = Duration::from_millis(5);
    // The caller is told, and nobody else has to be.
    let error = requester.request(b"too late", soon).unwrap_err();
    assert_eq!((&error, error.code()), (&RequestError::TimedOut, Code::TimedOut));
    assert_eq!(lost(&requester, "expired"), 1);
    assert!(responder.try_recv().unwrap().is_none());
    // A caller that does not look leaves it to the responder.
    let mut pending = requester.send(b"too late", soon).unwrap();
    while pending.remaining() != Some(Duration::ZERO) {
        std::thread::yield_now();
    }
    while responder.unhandled().expired == 0 {
        assert!(responder.recv_timeout(soon).unwrap().is_none());
    }
    assert_eq!(pending.recv().unwrap_err(), RequestError::TimedOut);
    assert_eq!(lost(&requester, "expired"), 2);
    // Its time is up while it is handled.
    let mut time = Duration::from_millis(100);
    let (mut pending, request) = loop {
        let pending = requester.send(b"slow", time).unwrap();
        if let Some(request) = responder.recv_timeout(time).unwrap() {
            break (pending, request);
        }
        // The machine is busier than that.
        time *= 2;
        assert!(time < PATIENCE);
    };
    assert_eq!(pending.recv().unwrap_err(), RequestError::TimedOut);
    assert!(request.is_cancelled() && request.remaining().is_zero());
    assert_eq!(request.reply(b"late").unwrap_err(), ReplyError::Cancelled);
    assert_eq!((responder.late(), requester.under_way()), (1, 0));
    assert_eq!(requester.account().in_flight, 0);
}

#[test]
fn a_bus_that_closes_ends_requests_on_both_sides() {
    let scene = Scene::new();
    let (bus, mut responder, _requester) = pair(&scene);
    let asks = scene.bus("asks");
    let requester = asks.requester(TOPIC).open().unwrap();
    let mut pending = requester.send(b"hello?", PATIENCE).unwrap();
    let request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    let waits = std::thread::spawn(move || pending.recv().unwrap_err());
    asks.close();
    assert_eq!(waits.join().unwrap().code(), Code::Closed);
    assert_eq!(requester.request(b"again", PATIENCE).unwrap_err().code(), Code::Closed);
    let deadline = Deadline::after(PATIENCE);
    while !request.is_cancelled() {
        assert!(!deadline.expired(), "a responder sees that who asked has left");
        let _ = responder.recv_timeout(SOON).unwrap();
    }
    bus.close();
    assert_eq!(request.reply(b"hello").unwrap_err(), ReplyError::Cancelled);
    assert_eq!(responder.recv().unwrap_err().code(), Code::Closed);
}
