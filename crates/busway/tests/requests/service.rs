//! Who answers, and who asks, in a process of its own.

use std::time::Duration;

use busway::{Bus, Request};

use crate::part::{Part, hear, say};
use crate::place::PATIENCE;

pub(crate) const TOPIC: &str = "service.work";

/// What a part does until its test has gone.
pub(crate) fn play(part: &Part) {
    let bus = part.bus();
    match part.name.as_str() {
        "echo" => echo(&bus, || ()),
        "work" => echo(&bus, || {
            for n in 0..20_000_u32 {
                std::hint::black_box(n);
            }
        }),
        "hold" => hold(&bus),
        "ask" => ask(&bus),
        "ask-twice" => ask_twice(&bus),
        "callers" => callers(&bus),
        other => panic!("there is no part {other}"),
    }
}

/// Answers everything with what was asked, after some work.
fn echo(bus: &Bus, work: impl Fn() + Send + 'static) {
    let mut responder = bus.responder(TOPIC).open().unwrap();
    std::thread::spawn(move || {
        loop {
            let request = responder.recv().unwrap();
            let payload = request.to_vec();
            work();
            // Who asked may have gone.
            let _ = request.reply(&payload);
        }
    });
    say("ready");
    while hear().is_some() {}
}

/// Takes as many requests as it is told, and answers none.
fn hold(bus: &Bus) {
    let mut responder = bus.responder(TOPIC).open().unwrap();
    say("ready");
    let mut held: Vec<Request> = Vec::new();
    while let Some(line) = hear() {
        let count: usize = line.parse().unwrap();
        held.extend((0..count).map(|_| responder.recv_timeout(PATIENCE).unwrap().unwrap()));
        let numbers: Vec<String> =
            held.iter().map(|held| String::from_utf8(held.to_vec()).unwrap()).collect();
        say(&numbers.join(" "));
    }
    held.into_iter().for_each(std::mem::forget);
}

/// Asks as often as it is told, and waits for the first reply.
fn ask(bus: &Bus) {
    let requester = bus.requester(TOPIC).open().unwrap();
    say("ready");
    let mut all = Vec::new();
    while let Some(line) = hear() {
        let count: usize = line.parse().unwrap();
        all.extend((0..count).map(|n| requester.send(&vec![n as u8; 100_000], PATIENCE).unwrap()));
        let reply = all[0].recv().unwrap().unwrap();
        say(&format!("{} bytes", reply.len()));
    }
}

/// Asks as often as it is told, and takes the replies when it is told to.
fn ask_twice(bus: &Bus) {
    let requester = bus.requester(TOPIC).open().unwrap();
    say("ready");
    let count: usize = hear().unwrap().parse().unwrap();
    let asked: Vec<_> = (0..count).map(|_| requester.send(b"hello?", PATIENCE).unwrap()).collect();
    say("asked");
    hear().unwrap();
    let replies = asked.into_iter().filter_map(|mut pending| pending.recv().unwrap());
    say(&format!("{} replies", replies.filter(|reply| reply.len() == 1_000).count()));
    while hear().is_some() {}
}

/// Many callers at once.
fn callers(bus: &Bus) {
    say("ready");
    while hear().is_some() {
        say(&format!("{} answered", call(bus, 4, 25, 20)));
    }
}

/// So many threads, each with so many requests under way, so often; returns how many replies came.
pub(crate) fn call(bus: &Bus, threads: u64, at_once: u64, rounds: u64) -> u64 {
    let requester = bus.requester(TOPIC).open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let caller = |thread: u64| {
            let requester = requester.clone();
            move || {
                let mut answered = 0;
                for round in 0..rounds {
                    let name = |n: u64| format!("{} {thread} {round} {n}", std::process::id());
                    let asked: Vec<_> = (0..at_once)
                        .map(|n| (n, requester.send(name(n).as_bytes(), PATIENCE).unwrap()))
                        .collect();
                    // The last first, so that each finds what others have received for it.
                    for (n, mut pending) in asked.into_iter().rev() {
                        let reply = pending.recv().unwrap().unwrap();
                        assert_eq!(String::from_utf8_lossy(&reply), name(n));
                        assert!(reply.is_last() && pending.recv().unwrap().is_none());
                        answered += 1;
                    }
                }
                answered
            }
        };
        let callers: Vec<_> = (0..threads).map(|thread| scope.spawn(caller(thread))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    })
}

/// A short time, for what is looked at again.
pub(crate) const SOON: Duration = Duration::from_millis(20);
