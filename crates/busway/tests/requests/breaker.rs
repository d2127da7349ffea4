//! A requester that leaves alone what fails.

use std::sync::mpsc::channel;
use std::time::Duration;

use busway::service::{Breaker, BreakerState};
use busway::{Bus, Code, Pending, RequestError, Requester, Responder};
use busway_shm::clock::Deadline;

use crate::asleep::until_asleep;
use crate::place::{PATIENCE, Scene};
use crate::service::{SOON, TOPIC};

const HOUR: Duration = Duration::from_secs(3_600);
/// A pause that a test waits for, and for which a probe is waited for in its turn: longer than a step takes on a busy machine.
const PROBED: Duration = Duration::from_secs(2);

fn is_open(requester: &Requester) -> bool {
    requester.breaker() == Some(BreakerState::Open)
}

fn refused(asked: Result<impl Sized, RequestError>) -> bool {
    matches!(asked, Err(RequestError::Open(_)))
}

/// A requester with a breaker that the first bad end opens for an hour, and who answers it.
fn brittle(scene: &Scene) -> (Bus, Responder, Requester) {
    let bus = scene.bus("both");
    let responder = bus.responder(TOPIC).open().unwrap();
    let breaker = Breaker::default().failures(1).pause(HOUR);
    let requester = bus.requester(TOPIC).breaker(breaker).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    (bus, responder, requester)
}

#[test]
fn what_fails_is_not_asked_until_the_pause_is_over_and_then_by_one_until_that_is_answered() {
    let scene = Scene::new();
    let bus = scene.bus("both");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let breaker = Breaker::default().failures(2).window(HOUR).pause(PROBED);
    let requester = bus.requester(TOPIC).breaker(breaker).open().unwrap();
    assert_eq!(bus.requester(TOPIC).open().unwrap().breaker(), None);
    for failures in 1..=2 {
        assert_eq!(requester.breaker(), Some(BreakerState::Closed), "after {} failures", failures - 1);
        let mut pending = requester.send(b"1/0", PATIENCE).unwrap();
        responder.recv_timeout(PATIENCE).unwrap().unwrap().fail(b"no").unwrap();
        assert_eq!(pending.recv().unwrap_err(), RequestError::Failed(b"no".to_vec()));
    }
    assert_ne!(requester.breaker(), Some(BreakerState::Closed));
    let deadline = Deadline::after(PATIENCE);
    while requester.breaker() != Some(BreakerState::HalfOpen) {
        assert!(!deadline.expired(), "the pause does not end");
        std::thread::yield_now();
    }
    let mut probe = requester.send(b"is it well?", PATIENCE).unwrap();
    let clone = requester.clone();
    assert!(refused(clone.send(b"a second", PATIENCE)), "while the first is under way");
    responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(b"it is").unwrap();
    assert_eq!(&probe.recv().unwrap().unwrap()[..], b"it is");
    assert_eq!(clone.breaker(), Some(BreakerState::Closed));
    let mut pending = clone.send(b"again", PATIENCE).unwrap();
    responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(b"yes").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"yes");
}

#[test]
fn while_it_is_open_a_request_is_refused_at_once_by_name_and_counted() {
    let scene = Scene::new();
    let (bus, responder, requester) = brittle(&scene);
    drop(requester.request(b"too late", Duration::from_millis(1)).unwrap_err());
    drop(responder);
    // It would wait for a responder, and for the reply, for ever.
    for _ in 0..3 {
        let error = requester.request(b"?", Duration::MAX).unwrap_err();
        assert_eq!(error.code(), Code::BreakerOpen);
        assert!(error.to_string().contains("ms"), "{error}");
    }
    assert!(refused(requester.send_within(b"?", Duration::MAX, Duration::MAX)));
    let counted = bus.metrics().unwrap();
    assert_eq!(
        (counted.with("requests", "refused"), counted.with("requests", "timed_out")),
        (Some(4), Some(1))
    );
    assert_eq!((requester.account().sent, requester.under_way()), (1, 0));
}

#[test]
fn each_bad_end_opens_it_and_what_says_nothing_of_who_answers_does_not() {
    let scene = Scene::new();
    let mut opened = 0;
    // Nobody is there, or not in time.
    for (late_join, timeout) in [(Duration::ZERO, PATIENCE), (HOUR, Duration::from_millis(1))] {
        let bus = scene.bus("alone");
        let breaker = Breaker::default().failures(1).pause(HOUR);
        let requester = bus.requester("nobody").late_join(late_join).breaker(breaker).open().unwrap();
        assert!(requester.send_within(b"?", HOUR, Duration::ZERO).is_err() == late_join.is_zero());
        assert_eq!(is_open(&requester), late_join.is_zero(), "who may not wait has not tried");
        drop(requester.send(b"?", timeout).map(drop));
        assert!(is_open(&requester));
        opened += 1;
    }
    type Answers = fn(busway::Request);
    let ends: [Answers; 2] = [|request| request.fail(b"no").unwrap(), drop];
    for answer in ends {
        let (_bus, mut responder, requester) = brittle(&scene);
        let mut pending = requester.send(b"?", PATIENCE).unwrap();
        answer(responder.recv_timeout(PATIENCE).unwrap().unwrap());
        assert!(pending.recv().is_err() && is_open(&requester));
        opened += 1;
    }
    let (_bus, mut responder, requester) = brittle(&scene);
    // Nobody reads how it ended: it is known all the same when another is received.
    let unread = requester.send(b"unread", PATIENCE).unwrap();
    responder.recv_timeout(PATIENCE).unwrap().unwrap().fail(b"no").unwrap();
    let deadline = Deadline::after(PATIENCE);
    while !unread.is_over() && !is_open(&requester) {
        assert!(!deadline.expired());
        drop(requester.send(b"another", PATIENCE).map(|mut other| other.try_recv()));
    }
    assert!(is_open(&requester));
    // What its caller cancels, what has begun to be answered, and what finds no place here.
    let (bus, mut responder, _) = brittle(&scene);
    let breaker = Breaker::default().failures(1).pause(HOUR);
    let requester = bus.requester(TOPIC).in_flight(1).breaker(breaker).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    drop(requester.send(b"never mind", PATIENCE).unwrap());
    let mut pending = requester.send(b"count", PATIENCE).unwrap();
    assert_eq!(requester.send(b"no place", SOON).unwrap_err(), RequestError::TooMany);
    let mut request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    request.reply_part(b"one").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"one");
    drop((pending, request));
    assert_eq!(requester.breaker(), Some(BreakerState::Closed));
    println!("evidence: bad_ends={opened}");
}

#[test]
fn what_has_no_reply_in_time_opens_it_also_where_nobody_asks_for_the_reply() {
    let scene = Scene::new();
    let until_late = |pending: &Pending| {
        let deadline = Deadline::after(PATIENCE);
        while pending.remaining() != Some(Duration::ZERO) {
            assert!(!deadline.expired(), "its time does not end");
            std::thread::yield_now();
        }
    };
    let (bus, _hangs, requester) = brittle(&scene);
    let late = requester.send(b"?", Duration::from_millis(50)).unwrap();
    until_late(&late);
    drop(late);
    assert!(is_open(&requester));
    let counted = bus.metrics().unwrap();
    let [timed_out, cancelled] = ["timed_out", "cancelled"].map(|end| counted.with("requests", end));
    assert_eq!((timed_out, cancelled.unwrap_or(0)), (Some(1), 0));
    // It was answered, and nobody looked.
    let (_bus, mut responder, requester) = brittle(&scene);
    let unread = requester.send(b"?", Duration::from_secs(3)).unwrap();
    responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(b"yes").unwrap();
    until_late(&unread);
    drop(unread);
    assert_eq!(requester.breaker(), Some(BreakerState::Closed));
    println!("evidence: timed_out=1 unread=1");
}

#[test]
fn an_answer_that_was_begun_and_let_go_closes_nothing() {
    let scene = Scene::new();
    let bus = scene.bus("both");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let breaker = Breaker::default().failures(1).pause(Duration::from_millis(20));
    let requester = bus.requester(TOPIC).breaker(breaker).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut first = requester.send(b"first", PATIENCE).unwrap();
    responder.recv_timeout(PATIENCE).unwrap().unwrap().fail(b"no").unwrap();
    assert!(first.recv().is_err());
    let deadline = Deadline::after(PATIENCE);
    while requester.breaker() != Some(BreakerState::HalfOpen) {
        assert!(!deadline.expired(), "the pause does not end");
        std::thread::yield_now();
    }
    let mut probe = requester.send(b"count", PATIENCE).unwrap();
    let mut request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    request.reply_part(b"one").unwrap();
    assert_eq!(&probe.recv().unwrap().unwrap()[..], b"one");
    drop((probe, request));
    assert_eq!(requester.breaker(), Some(BreakerState::HalfOpen), "of a stream the last counts");
}

#[test]
fn who_waited_while_it_opened_does_not_ask_any_more() {
    let scene = Scene::new();
    let bus = scene.bus("both");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let breaker = Breaker::default().failures(1).pause(HOUR);
    let requester = bus.requester(TOPIC).in_flight(1).breaker(breaker).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut first = requester.send(b"first", PATIENCE).unwrap();
    let (tell, told) = channel();
    let waits = {
        let requester = requester.clone();
        std::thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            requester.send(b"second", PATIENCE).map(drop)
        })
    };
    until_asleep(told.recv_timeout(PATIENCE).unwrap());
    responder.recv_timeout(PATIENCE).unwrap().unwrap().fail(b"no").unwrap();
    assert!(first.recv().is_err());
    assert!(refused(waits.join().unwrap()));
    assert!(responder.recv_timeout(SOON).unwrap().is_none(), "it asked");
    assert_eq!((requester.account().sent, requester.under_way()), (1, 0));
}
