//! Responders and requesters that are killed.

use std::collections::BTreeMap;
use std::time::Duration;

use busway::{Pending, RequestError};
use busway_shm::clock::Deadline;

use crate::place::{PATIENCE, Scene};
use crate::service::{SOON, TOPIC};
use rustix::process::Signal;

#[test]
fn who_had_asked_a_responder_that_is_killed_is_told_and_others_are_answered() {
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let mut victim = scene.start("hold");
    assert_eq!(victim.line(), "ready");
    let requester = bus.requester(TOPIC).open().unwrap();
    let mut asked: BTreeMap<String, Pending> = (0..20)
        .map(|n: u32| n.to_string())
        .map(|n| (n.clone(), requester.send(n.as_bytes(), Duration::MAX).unwrap()))
        .collect();
    let taken: Vec<String> = victim.ask("8").split(' ').map(str::to_owned).collect();
    assert_eq!(taken.len(), 8);
    let other = scene.start("echo");
    assert_eq!(other.line(), "ready");
    for (n, pending) in asked.iter_mut().filter(|(n, _)| !taken.contains(n)) {
        assert_eq!(&pending.recv().unwrap().unwrap()[..], n.as_bytes());
    }
    victim.signal(Signal::KILL);
    for n in &taken {
        assert_eq!(asked.get_mut(n).unwrap().recv().unwrap_err(), RequestError::ResponderDied, "request {n}");
    }
    let account = requester.account();
    assert_eq!(
        (account.sent, account.delivered, account.dropped.get("puller_died")),
        (20, 12, Some(&8)),
        "{account:?}"
    );
    // Who comes later is answered as if nothing had been.
    assert_eq!(&requester.request(b"and now?", PATIENCE).unwrap()[..], b"and now?");
    println!("evidence: requests=20 taken={} answered=12", taken.len());
}

#[test]
fn under_fire_each_request_is_answered_or_its_caller_is_told() {
    const REQUESTS: u32 = 10_000;
    const KILLS: u32 = 8;
    let scene = Scene::new();
    let bus = scene.bus("asks");
    let start = || {
        let service = scene.start("work");
        assert_eq!(service.line(), "ready");
        service
    };
    let mut services: Vec<_> = (0..3).map(|_| start()).collect();
    let requester = bus.requester(TOPIC).open().unwrap();
    requester.wait_for_responders(3, PATIENCE).unwrap();
    let (mut answered, mut died) = (0_u32, 0_u32);
    let mut asked = std::collections::VecDeque::new();
    let mut next = |asked: &mut std::collections::VecDeque<(u32, Pending)>| {
        let Some((number, mut pending)) = asked.pop_front() else { return false };
        match pending.recv() {
            Ok(reply) => {
                assert_eq!(reply.unwrap()[..], number.to_le_bytes());
                answered += 1;
            }
            Err(RequestError::ResponderDied) => died += 1,
            Err(error) => panic!("request {number}: {error}"),
        }
        true
    };
    // Killed whenever the next one is ready, and not when nothing is under way.
    let mut sent = 0;
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            for _ in 0..KILLS {
                services.push(start());
                services.remove(0).signal(Signal::KILL);
            }
        });
        while sent < REQUESTS || !killer.is_finished() {
            asked.push_back((sent, requester.send(&sent.to_le_bytes(), Duration::MAX).unwrap()));
            sent += 1;
            if asked.len() >= 200 {
                next(&mut asked);
            }
        }
    });
    while next(&mut asked) {}
    // A reply is there before the word that says so.
    let settled = Deadline::after(PATIENCE);
    while requester.account().in_flight > 0 && !settled.expired() {
        std::thread::yield_now();
    }
    let account = requester.account();
    let lost = account.dropped.get("puller_died").copied().unwrap_or(0);
    assert_eq!((account.sent, account.delivered + lost), (sent.into(), sent.into()), "{account:?}");
    // One that was killed between its reply and its word has answered, and is counted as dead.
    assert!(answered + died == sent && u64::from(died) <= lost, "{died} of {lost}");
    assert!(died > 0, "none was killed at work");
    assert_eq!(requester.under_way(), 0);
    println!("evidence: requests={sent} kills={KILLS} answered={answered} died={died}");
}

#[test]
fn a_requester_that_is_killed_leaves_nothing_behind() {
    const ROUNDS: u32 = 6;
    let scene = Scene::new();
    let bus = scene.bus("service");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let (mut open, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut victim = scene.start("ask");
        assert_eq!(victim.line(), "ready");
        let asks = std::thread::spawn(move || {
            let first = victim.ask("8");
            (victim, first)
        });
        let mut requests: Vec<_> =
            (0..8).map(|_| responder.recv_timeout(PATIENCE).unwrap().unwrap()).collect();
        requests.remove(0).reply(&[7; 1000]).unwrap();
        let (victim, first) = asks.join().unwrap();
        assert_eq!((first.as_str(), responder.lanes()), ("1000 bytes", 1));
        victim.signal(Signal::KILL);
        let deadline = Deadline::after(PATIENCE);
        while requests.iter().any(|request| !request.is_cancelled())
            || responder.lanes() + responder.requesters() > 0
        {
            assert!(
                !deadline.expired(),
                "{} lanes, {} requesters",
                responder.lanes(),
                responder.requesters()
            );
            assert!(responder.recv_timeout(SOON).unwrap().is_none());
            if responder.lanes() == 0 {
                requests.clear();
            }
        }
        drop(requests);
        drop(victim);
        open.push(std::fs::read_dir("/proc/self/fd").unwrap().count());
        bytes.push(bus.inspect().unwrap().budget.reserved_bytes);
        // What a dead process took is given back when its death is settled.
        while bytes.len() > 2 && bytes[bytes.len() - 1] > bytes[1] {
            assert!(!deadline.expired(), "bytes of the domain after each death: {bytes:?}");
            assert!(responder.recv_timeout(SOON).unwrap().is_none());
            let last = bytes.len() - 1;
            bytes[last] = bus.inspect().unwrap().budget.reserved_bytes;
        }
    }
    assert_eq!(open[1], open[ROUNDS as usize - 1], "descriptors after each death: {open:?}");
    assert_eq!(bus.held().0, 0);
    println!("evidence: kills={ROUNDS} descriptors={open:?} bytes={bytes:?}");
}
