//! Replies, and whose they are.

use std::time::Duration;

use busway::{Request, RequestError};
use busway_shm::clock::Deadline;

use crate::place::{PATIENCE, Scene};
use crate::service::{TOPIC, call};

#[test]
fn each_of_many_callers_gets_its_own_reply() {
    let scene = Scene::new();
    let bus = scene.bus("callers");
    let services: Vec<_> = (0..3).map(|_| scene.start("echo")).collect();
    services.iter().for_each(|service| assert_eq!(service.line(), "ready"));
    let mut others = scene.start("callers");
    assert_eq!(others.line(), "ready");
    let theirs = std::thread::spawn(move || others.ask("go"));
    // A hundred under way here, and a hundred there.
    assert_eq!(call(&bus, 4, 25, 20), 2_000);
    assert_eq!(theirs.join().unwrap(), "2000 answered");
    println!("evidence: replies=4000 processes=5 at_once=200");
}

#[test]
fn replies_of_a_stream_come_in_order_and_end() {
    let scene = Scene::new();
    let bus = scene.bus("streams");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let server = std::thread::spawn(move || {
        let mut requests: Vec<Request> = (0..2).map(|_| responder.recv().unwrap()).collect();
        // Two streams, one through the other; every third part is large.
        for part in 0..300_u32 {
            for request in &mut requests {
                let mut payload = request.to_vec();
                payload.extend(part.to_le_bytes());
                payload.resize(if part % 3 == 0 { 5_000 } else { 12 }, 0);
                request.reply_part(&payload).unwrap();
            }
        }
        requests.into_iter().for_each(|request| request.reply(b"over").unwrap());
    });
    let requester = bus.requester(TOPIC).open().unwrap();
    let asked: Vec<_> = [b"aaaa", b"bbbb"].map(|name| (name, requester.send(name, PATIENCE).unwrap())).into();
    for (name, mut pending) in asked {
        for part in 0..300_u32 {
            let reply = pending.recv().unwrap().unwrap();
            assert_eq!((&reply[..4], &reply[4..8]), (&name[..], &part.to_le_bytes()[..]));
            assert_eq!((reply.index(), reply.is_last()), (part, false));
        }
        let last = pending.recv().unwrap().unwrap();
        assert_eq!((&last[..], last.index(), last.is_last()), (&b"over"[..], 300, true));
        assert!(pending.is_over() && pending.recv().unwrap().is_none());
    }
    server.join().unwrap();
    println!("evidence: streams=2 parts=300");
}

#[test]
fn a_stream_of_large_replies_comes_whole_however_late_it_is_read() {
    const PARTS: u32 = 100;
    let scene = Scene::new();
    let bus = scene.bus("late");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    let mut pending = requester.send(b"all of it", PATIENCE).unwrap();
    let mut request = responder.recv().unwrap();
    for part in 0..PARTS {
        let mut payload = part.to_le_bytes().to_vec();
        payload.resize(128 << 10, 7);
        request.reply_part(&payload).unwrap();
    }
    request.reply(b"over").unwrap();
    for part in 0..PARTS {
        assert_eq!(&pending.recv().unwrap().unwrap()[..4], part.to_le_bytes());
    }
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"over");
    println!("evidence: parts={PARTS} bytes={}", 128 << 10);
}

#[test]
fn a_hundred_requests_are_all_with_their_service_at_once() {
    let scene = Scene::new();
    let bus = scene.bus("at-once");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    let callers: Vec<_> = (0..100_u32)
        .map(|n| {
            let requester = requester.clone();
            std::thread::spawn(move || requester.request(&n.to_le_bytes(), PATIENCE).unwrap().to_vec())
        })
        .collect();
    // None is answered before all are here.
    let all: Vec<Request> = (0..100)
        .map(|_| responder.recv_timeout(PATIENCE).unwrap().expect("all are under way at once"))
        .collect();
    for request in all {
        let payload = request.to_vec();
        request.reply(&payload).unwrap();
    }
    for (n, caller) in (0..100_u32).zip(callers) {
        assert_eq!(caller.join().unwrap(), n.to_le_bytes());
    }
    assert_eq!(requester.under_way(), 0);
    println!("evidence: at_once=100");
}

#[test]
fn large_requests_and_replies_lie_where_they_were_written() {
    let scene = Scene::new();
    let bus = scene.bus("large");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    for size in [0, 1, 87, 88, 89, 96, 97, 4_096, 3 << 20] {
        let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let mut pending = requester.send(&body, PATIENCE).unwrap();
        let request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(request.payload() == body && request.topic() == TOPIC, "{size} bytes");
        assert!(!request.is_cancelled() && request.remaining() <= PATIENCE);
        request.reply(&body).unwrap();
        let reply = pending.recv().unwrap().unwrap();
        assert!(reply.payload() == body, "{size} bytes");
    }
}

#[test]
fn three_responders_share_the_load() {
    // They are equal in this: in so many rounds none answers a second request before each of the others has one.
    const ROUNDS: u64 = 600;
    let scene = Scene::new();
    let bus = scene.bus("shared");
    let ways: Vec<_> = (0..3).map(|_| std::sync::mpsc::channel()).collect();
    let all: Vec<_> = ways.iter().map(|(tell, _)| tell.clone()).collect();
    let over = std::sync::Arc::new(busway_shm::sync::AtomicBool::new(false));
    let servers: Vec<_> = ways
        .into_iter()
        .map(|(_, told)| {
            let mut responder = bus.responder(TOPIC).open().unwrap();
            let (over, all) = (over.clone(), all.clone());
            std::thread::spawn(move || {
                let mut handled = 0_u64;
                while handled < ROUNDS {
                    let request = responder.recv_timeout(PATIENCE).unwrap().expect("one for each of three");
                    all.iter().for_each(|tell| tell.send(()).unwrap());
                    (0..all.len())
                        .for_each(|_| told.recv_timeout(PATIENCE).expect("the others have one too"));
                    let payload = request.to_vec();
                    request.reply(&payload).unwrap();
                    handled += 1;
                }
                drop(all);
                while !over.load(busway_shm::sync::Ordering::Relaxed) {
                    if let Some(request) = responder.recv_timeout(Duration::from_millis(20)).unwrap() {
                        let payload = request.to_vec();
                        request.reply(&payload).unwrap();
                        handled += 1;
                    }
                }
                handled
            })
        })
        .collect();
    assert_eq!(call(&bus, 4, 50, 30), 6_000);
    over.store(true, busway_shm::sync::Ordering::Relaxed);
    let shares: Vec<u64> = servers.into_iter().map(|server| server.join().unwrap()).collect();
    assert_eq!(shares.iter().sum::<u64>(), 6_000);
    println!("evidence: requests=6000 shares={shares:?}");
}

#[test]
fn who_does_not_take_its_replies_is_cut_off_and_others_are_served() {
    let scene = Scene::new();
    let (bus, other) = (scene.bus("slow"), scene.bus("quick"));
    let mut responder = scene.bus("service").responder(TOPIC).open().unwrap();
    let slow = bus.requester(TOPIC).open().unwrap();
    let quick = other.requester(TOPIC).open().unwrap();
    let mut unread = slow.send(b"everything", PATIENCE).unwrap();
    let mut stream = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    for part in 0..10_000_u32 {
        stream.reply_part(&part.to_le_bytes()).unwrap();
        if part % 200 == 0 {
            let mut asked = quick.send(&part.to_le_bytes(), PATIENCE).unwrap();
            let request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
            let payload = request.to_vec();
            request.reply(&payload).unwrap();
            assert_eq!(&asked.recv().unwrap().unwrap()[..], part.to_le_bytes());
        }
    }
    let deadline = Deadline::after(PATIENCE);
    let error = loop {
        match unread.recv() {
            Ok(reply) => assert!(reply.is_some() && !deadline.expired()),
            Err(error) => break error,
        }
    };
    assert_eq!(error, RequestError::ReplyLost);
    assert!(slow.strays().lost >= 5_000, "{:?}", slow.strays());
    assert_eq!(quick.strays(), busway::Strays::default());
    println!("evidence: parts=10000 lost={} served=50", slow.strays().lost);
}
