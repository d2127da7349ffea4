//! What is under way, what waits to be read, and what a slow request keeps from others.

use std::time::Duration;

use busway::{Code, Request, RequestError, Responder};

use crate::place::{PATIENCE, Scene};
use crate::service::{SOON, TOPIC};

/// Answers so many requests with what was asked, but for those that say `slow`, which it returns.
fn answer(responder: &mut Responder, count: usize) -> Vec<Request> {
    let mut slow = Vec::new();
    for _ in 0..count {
        let request = responder.recv_timeout(PATIENCE).unwrap().expect("it was sent");
        if &request[..] == b"slow" {
            slow.push(request);
        } else {
            let payload = request.to_vec();
            request.reply(&payload).unwrap();
        }
    }
    slow
}

#[test]
fn who_asks_much_before_it_reads_any_loses_no_reply() {
    const REQUESTS: u32 = 6_000;
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let mut responder = scene.bus("answers").responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let server = std::thread::spawn(move || {
        answer(&mut responder, REQUESTS as usize);
        responder
    });
    let asked: Vec<_> =
        (0..REQUESTS).map(|n| (n, requester.send(&n.to_le_bytes(), PATIENCE).unwrap())).collect();
    // All of them are answered before the first is read.
    let responder = server.join().unwrap();
    for (n, mut pending) in asked {
        assert_eq!(&pending.recv().unwrap().unwrap()[..], n.to_le_bytes(), "request {n}");
    }
    assert_eq!((requester.strays(), requester.under_way()), (busway::Strays::default(), 0));
    drop(responder);
    println!("evidence: requests={REQUESTS} lost=0");
}

#[test]
fn who_lets_go_of_requests_that_were_answered_loses_no_reply_to_another() {
    const LET_GO: u32 = 5_000;
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let mut responder = scene.bus("answers").responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut first = requester.send(b"first", PATIENCE).unwrap();
    assert!(answer(&mut responder, 1).is_empty());
    for n in 0..LET_GO {
        let pending = requester.send(&n.to_le_bytes(), PATIENCE).unwrap();
        assert!(answer(&mut responder, 1).is_empty());
        drop(pending);
    }
    assert_eq!(&first.recv().unwrap().unwrap()[..], b"first");
    assert_eq!(requester.strays().lost, 0);
    println!("evidence: let_go={LET_GO} lost=0");
}

#[test]
fn a_request_that_takes_long_keeps_no_other_waiting() {
    const REQUESTS: u32 = 5_000;
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let mut responder = scene.bus("answers").responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut slow = requester.send(b"slow", PATIENCE).unwrap();
    let server = std::thread::spawn(move || {
        let slow = answer(&mut responder, REQUESTS as usize + 1);
        (responder, slow)
    });
    for n in 0..REQUESTS {
        let reply = requester.request(&n.to_le_bytes(), PATIENCE);
        assert_eq!(&reply.unwrap_or_else(|error| panic!("request {n}: {error}"))[..], n.to_le_bytes());
    }
    let (responder, held) = server.join().unwrap();
    held.into_iter().for_each(|request| request.reply(b"at last").unwrap());
    assert_eq!(&slow.recv().unwrap().unwrap()[..], b"at last");
    drop(responder);
    println!("evidence: slow=1 behind_it={REQUESTS}");
}

#[test]
fn each_bound_of_what_is_under_way_has_an_error_of_its_own_and_ends_when_there_is_room() {
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let mut responder = scene.bus("answers").responder(TOPIC).open().unwrap();
    for wrong in [0, 4_097] {
        assert_eq!(bus.requester(TOPIC).in_flight(wrong).open().unwrap_err().code(), Code::BadSetting);
    }
    let requester = bus.requester(TOPIC).in_flight(4).slots_max(32).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut asked: Vec<_> = (0..4).map(|_| requester.send(b"slow", PATIENCE).unwrap()).collect();
    let error = requester.send(b"one more", SOON).unwrap_err();
    assert_eq!((&error, error.code()), (&RequestError::TooMany, Code::TooManyRequests));
    assert_eq!((requester.under_way(), requester.account().sent), (4, 4));
    // One waits for a place, and gets that of one that nobody wants any more, or that is answered.
    let waits = {
        let requester = requester.clone();
        std::thread::spawn(move || requester.request(b"two more", PATIENCE).unwrap().to_vec())
    };
    let mut held = answer(&mut responder, 4);
    drop(asked.pop());
    assert!(answer(&mut responder, 1).is_empty());
    assert_eq!(waits.join().unwrap(), b"two more");
    held.pop();
    // So far behind the oldest nothing follows.
    while requester.account().sent < 32 {
        let mut quick = requester.send(b"quick", PATIENCE).unwrap();
        assert!(answer(&mut responder, 1).is_empty());
        assert_eq!(&quick.recv().unwrap().unwrap()[..], b"quick");
    }
    let error = requester.send(b"too far", SOON).unwrap_err();
    assert_eq!((&error, error.code()), (&RequestError::TooFarAhead, Code::TooFarAhead));
    held.drain(..).for_each(|request| request.reply(b"at last").unwrap());
    for pending in &mut asked {
        assert_eq!(&pending.recv().unwrap().unwrap()[..], b"at last");
    }
    let mut after = requester.send(b"after", PATIENCE).unwrap();
    assert!(answer(&mut responder, 1).is_empty());
    assert_eq!(&after.recv().unwrap().unwrap()[..], b"after");
}

#[test]
fn replies_that_nobody_reads_are_kept_up_to_a_number_beyond_which_no_more_is_asked() {
    const UNREAD: usize = busway_wire::limits::REQUESTS_UNREAD_MAX;
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let mut responder = scene.bus("answers").responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).in_flight(4_096).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let server = std::thread::spawn(move || {
        answer(&mut responder, UNREAD + 1);
    });
    let mut asked: Vec<_> =
        (0..UNREAD).map(|n| requester.send(&n.to_le_bytes(), PATIENCE).unwrap()).collect();
    let error = requester.send(b"one more", PATIENCE).unwrap_err();
    assert_eq!((&error, error.code()), (&RequestError::TooMany, Code::TooManyRequests));
    for (n, pending) in asked.iter_mut().enumerate() {
        assert_eq!(&pending.recv().unwrap().unwrap()[..], n.to_le_bytes());
    }
    drop(asked);
    assert_eq!(&requester.request(b"one more", PATIENCE).unwrap()[..], b"one more");
    server.join().unwrap();
    assert_eq!(requester.strays(), busway::Strays::default());
    println!("evidence: unread={UNREAD} lost=0");
}

#[test]
fn a_responder_that_is_closed_with_a_request_in_hand_is_not_there_any_more() {
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let mut responder = scene.bus("answers").responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).late_join(Duration::ZERO).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut held = requester.send(b"the one that it has", PATIENCE).unwrap();
    let request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    let mut behind = requester.send(b"one that nobody has", Duration::MAX).unwrap();
    drop(responder);
    assert_eq!(behind.recv().unwrap_err(), RequestError::NoResponders);
    assert_eq!(requester.responders(), 0);
    assert_eq!(requester.request(b"anybody?", Duration::MAX).unwrap_err(), RequestError::NoResponders);
    // What it had it may answer still.
    request.reply(b"here").unwrap();
    assert_eq!(&held.recv().unwrap().unwrap()[..], b"here");
}

#[test]
fn a_responder_that_holds_as_much_as_it_may_waits_until_it_has_let_go() {
    const LARGE: usize = 1 << 20;
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let mut responder = scene.bus("answers").responder(TOPIC).holds(1).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut asked: Vec<_> =
        (0..3).map(|n| requester.send(&vec![n; LARGE], Duration::from_secs(60)).unwrap()).collect();
    let (hand, handed) = std::sync::mpsc::channel::<Request>();
    let (full, filled) = std::sync::mpsc::channel::<()>();
    let worker = std::thread::spawn(move || {
        for request in handed {
            // Until the loop has found that it may not hold another.
            filled.recv().unwrap();
            let first = request[..1].to_vec();
            request.reply(&first).unwrap();
        }
    });
    for n in 0..3 {
        let request = responder.recv_timeout(SOON).unwrap_or_else(|error| panic!("request {n}: {error}"));
        let request = match request {
            Some(request) => request,
            None => {
                full.send(()).unwrap();
                responder.recv().unwrap_or_else(|error| panic!("request {n}: {error}"))
            }
        };
        hand.send(request).unwrap();
    }
    full.send(()).unwrap();
    drop(hand);
    for (n, pending) in (0_u8..).zip(&mut asked) {
        assert_eq!(&pending.recv().unwrap().unwrap()[..], [n]);
    }
    worker.join().unwrap();
    println!("evidence: holds=1 large={}", asked.len());
}

#[test]
fn the_lanes_of_a_process_have_a_bound_together_and_who_takes_its_replies_loses_none() {
    const LARGE: usize = 1 << 20;
    const STREAMS: usize = 10;
    let scene = Scene::new();
    let answers = scene.bus("answers");
    let mut responder = answers.responder(TOPIC).open().unwrap();
    // Each of them leaves as much unread as one may.
    let buses: Vec<_> = (0..STREAMS).map(|n| scene.bus(&format!("unread{n}"))).collect();
    let quick = scene.bus("quick").requester(TOPIC).open().unwrap();
    let reserved = || answers.inspect().unwrap().budget.reserved_bytes;
    let before = reserved();
    let mut most = 0;
    let mut unread = Vec::new();
    for bus in &buses {
        let requester = bus.requester(TOPIC).open().unwrap();
        unread.push(requester.send(b"everything", PATIENCE).unwrap());
        let mut stream = responder.recv_timeout(PATIENCE).unwrap().unwrap();
        for part in 0..60_u8 {
            stream.reply_part(&vec![part; LARGE]).unwrap();
            if part % 20 == 0 {
                let mut asked = quick.send(&[part; 3], PATIENCE).unwrap();
                responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(&[part; 1_000]).unwrap();
                assert_eq!(&asked.recv().unwrap().unwrap()[..], [part; 1_000]);
            }
        }
        stream.reply(b"over").unwrap();
        most = most.max(reserved().saturating_sub(before));
    }
    assert_eq!(quick.strays(), busway::Strays::default());
    // And what rings have beside: arenas take memory in larger pieces.
    let bound = busway_wire::limits::LANES_BYTES_MAX * 3 / 2;
    assert!(most < bound, "{most} of {bound}");
    println!("evidence: unread={STREAMS} of 60 MiB reserved={most}");
}
