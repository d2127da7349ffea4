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
