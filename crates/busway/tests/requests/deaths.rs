//! Responders and requesters that are killed.

use std::collections::BTreeMap;
use std::time::Duration;

use busway::{Pending, Request, RequestError, Responder};
use busway_shm::clock::Deadline;

use crate::part::Child;
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

/// Looks without a change after which nothing more is given back.
const SETTLED: u32 = 40;

#[test]
fn a_requester_that_is_killed_leaves_nothing_behind() {
    // A page has room for nine entries of the table of rows: what each death left behind would take another page in these.
    const AT_ONCE: usize = 5;
    const CALM: usize = 10;
    const KILLS_MAX: usize = 60;
    let scene = Scene::new();
    let bus = scene.bus("service");
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let used = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        (descriptors, bus.inspect().unwrap().budget.reserved_bytes)
    };
    let (mut most, mut kills, mut calm) = ((0, 0), 0, 0);
    while calm < CALM {
        assert!(kills < KILLS_MAX, "after {kills} deaths it still grows: {most:?} descriptors and bytes");
        let (victims, mut requests): (Vec<_>, Vec<_>) =
            (0..AT_ONCE).map(|_| one_answer_of_eight(&scene, &mut responder)).unzip();
        assert_eq!(responder.lanes(), AT_ONCE);
        victims.iter().for_each(|victim| victim.signal(Signal::KILL));
        let deadline = Deadline::after(PATIENCE);
        while requests.iter().flatten().any(|request| !request.is_cancelled())
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
        drop(victims);
        // What a dead process took is given back when its death is settled. How many entries of a table were in use at one moment
        // depends on when that was, and their memory stays the table's: so it may grow, and not go on growing.
        let (mut now, mut looks) = (used(), 0);
        while (now.0 > most.0 || now.1 > most.1) && looks < SETTLED {
            assert!(responder.recv_timeout(SOON).unwrap().is_none());
            let before = std::mem::replace(&mut now, used());
            looks = if now == before { looks + 1 } else { 0 };
        }
        calm = if now.0 > most.0 || now.1 > most.1 { 0 } else { calm + AT_ONCE };
        most = (most.0.max(now.0), most.1.max(now.1));
        kills += AT_ONCE;
    }
    assert_eq!(bus.held().0, 0);
    println!("evidence: kills={kills} calm={CALM} descriptors={} bytes={}", most.0, most.1);
}

/// A process that has asked eight times and had one answer, and the requests that wait for theirs.
fn one_answer_of_eight(scene: &Scene, responder: &mut Responder) -> (Child, Vec<Request>) {
    let mut victim = scene.start("ask");
    assert_eq!(victim.line(), "ready");
    let asks = std::thread::spawn(move || {
        let first = victim.ask("8");
        (victim, first)
    });
    let mut requests: Vec<_> = (0..8).map(|_| responder.recv_timeout(PATIENCE).unwrap().unwrap()).collect();
    requests.remove(0).reply(&[7; 1000]).unwrap();
    let (victim, first) = asks.join().unwrap();
    assert_eq!(first, "1000 bytes");
    (victim, requests)
}

#[test]
fn a_first_reply_waits_for_a_requester_that_is_stopped_and_keeps_nobody_else_waiting() {
    let scene = Scene::new();
    let mut responder = scene.bus("answers").responder(TOPIC).open().unwrap();
    let mut stopped = scene.start("ask-twice");
    assert_eq!(stopped.line(), "ready");
    assert_eq!(stopped.ask("64"), "asked");
    let mut requests: Vec<_> = (0..64).map(|_| responder.recv_timeout(PATIENCE).unwrap().unwrap()).collect();
    stopped.signal(Signal::STOP);
    // More than a ring has at first; the first of all is read by who is stopped.
    requests.drain(..).for_each(|request| request.reply(&[7; 1000]).unwrap());
    let other = scene.bus("asks").requester(TOPIC).open().unwrap();
    // For longer than any lane is kept that nobody will read.
    let until = Deadline::after(Duration::from_secs(3));
    let mut served = 0;
    while !until.expired() {
        let mut pending = other.send(b"and me?", PATIENCE).unwrap();
        responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(b"you too").unwrap();
        assert_eq!(&pending.recv().unwrap().unwrap()[..], b"you too");
        assert_eq!(responder.lanes(), 2, "after {served}");
        served += 1;
    }
    stopped.signal(Signal::CONT);
    assert_eq!(stopped.ask("go on"), "64 replies");
    println!("evidence: stopped_ms=3000 replies=64 served={served}");
}

#[test]
fn a_responder_that_goes_waits_for_a_requester_that_has_not_noticed_its_reply() {
    let scene = Scene::new();
    let mut responder = scene.bus("answers").responder(TOPIC).open().unwrap();
    let mut stopped = scene.start("ask-twice");
    assert_eq!(stopped.line(), "ready");
    assert_eq!(stopped.ask("1"), "asked");
    let request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    stopped.signal(Signal::STOP);
    request.reply(&[7; 1000]).unwrap();
    let (gone, goes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(responder);
        let _ = gone.send(());
    });
    assert!(goes.recv_timeout(Duration::from_millis(300)).is_err(), "it is gone, and its reply with it");
    stopped.signal(Signal::CONT);
    assert_eq!(stopped.ask("go on"), "1 replies");
    goes.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_reply_is_not_lost_with_a_responder_that_goes_at_once() {
    const ROUNDS: u32 = 60;
    let scene = Scene::new();
    let bus = scene.bus("asks");
    for round in 0..ROUNDS {
        let requester = bus.requester(TOPIC).late_join(PATIENCE).open().unwrap();
        let answers = scene.bus("answers");
        let mut responder = answers.responder(TOPIC).open().unwrap();
        let server = std::thread::spawn(move || {
            responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(b"and gone").unwrap();
            drop(responder);
            answers.close();
        });
        let reply = requester.request(b"quickly!", PATIENCE);
        assert_eq!(&reply.unwrap_or_else(|error| panic!("round {round}: {error}"))[..], b"and gone");
        server.join().unwrap();
    }
    println!("evidence: responders={ROUNDS} lost=0");
}
