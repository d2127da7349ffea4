//! The machine as a handler, told by hand: no node, no thread, no link.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::sync::{Arc, Mutex};

use busway_protocol::flow::{Budget, Flow, Rule};
use busway_protocol::gossip::{Config, Epoch, Interest, Lane, NodeIndex, Nodes};
use busway_shm::clock::Deadline;

use super::SwarmHandler;
use crate::artifacts::{ArtifactHandler, PeerEvent, Voice};

const MIB: u64 = 1 << 20;
const OFFERS: usize = 24;

fn config(index: u8, epoch: u64) -> Config {
    Config::new(NodeIndex(index), Epoch(epoch), Nodes::default())
}

/// Says what one has to say to the other; how much that was.
fn carry(from: (u8, &SwarmHandler), to: (u8, &SwarmHandler)) -> usize {
    let mut said = 0;
    for lane in Lane::ALL {
        while let Some(heard) = from.1.next_word(to.0, lane.flow()) {
            match PeerEvent::of(heard.word, &heard.following) {
                PeerEvent::Advert(heard) => to.1.on_advert(from.0, &heard),
                PeerEvent::Request(heard) => to.1.on_request(from.0, &heard),
                PeerEvent::Piece(heard) => to.1.on_piece(from.0, &heard),
                PeerEvent::Retransmission(heard) => to.1.on_retransmission(from.0, &heard),
                PeerEvent::PeerUp | PeerEvent::PeerDown => {}
            }
            said += 1;
        }
    }
    said
}

fn until(what: &str, (first, second): (&SwarmHandler, &SwarmHandler), done: impl Fn() -> bool) {
    let deadline = Deadline::after(std::time::Duration::from_secs(30));
    while !done() {
        assert!(!deadline.expired(), "in vain: {what}");
        if carry((1, first), (2, second)) + carry((2, second), (1, first)) == 0 {
            std::thread::yield_now();
        }
        first.on_timer();
        second.on_timer();
    }
}

#[test]
fn what_the_program_was_given_makes_room_for_what_has_none() {
    let gives = SwarmHandler::with(config(1, 1), &Voice::new(), |_| Interest::Drop, |_, _| {});
    let (taken, gone) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let mut small = config(2, 1);
    let rule = small.limits.rule(Flow::Chunk);
    let limit = Budget { bytes: MIB, ..rule.limit };
    small.limits.set(Flow::Chunk, Rule { limit, ..rule }).unwrap();
    let (list, count) = (taken.clone(), gone.clone());
    let take = move |_: &crate::artifacts::Advert, body: Arc<[u8]>| list.lock().unwrap().push(body[0]);
    let takes = SwarmHandler::with(small, &Voice::new(), |_| Interest::Fetch, take);
    let takes = takes.gone(move |_| *count.lock().unwrap() += 1);
    let offer = |number: usize| gives.offer("block", &vec![number as u8; 256 << 10], b"").unwrap();
    let offers: Vec<_> = (0..OFFERS).map(offer).collect();
    gives.on_peer_up(2);
    takes.on_peer_up(1);
    until("all are given, six times what has room", (&gives, &takes), || {
        taken.lock().unwrap().len() == OFFERS
    });
    offers.into_iter().for_each(|offer| gives.withdraw(offer));
    until("their ends are told", (&gives, &takes), || *gone.lock().unwrap() == OFFERS);
    // There is room for others again where it offers.
    let again = offer(7);
    until("another is given", (&gives, &takes), || taken.lock().unwrap().len() == OFFERS + 1);
    gives.withdraw(again);
    gives.withdraw(again);
    println!("evidence: {OFFERS} of 256 KiB in 1 MiB, {OFFERS} ends told");
}

#[test]
fn what_is_stashed_is_asked_about_again_and_what_is_too_large_is_told_so() {
    let gives = SwarmHandler::new(1, &Voice::new(), |_| Interest::Drop, |_, _| {});
    let (open, taken) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(0)));
    let (is_open, count) = (open.clone(), taken.clone());
    let judge = move |_: &crate::artifacts::Advert| {
        if *is_open.lock().unwrap() { Interest::Fetch } else { Interest::Stash }
    };
    let takes = SwarmHandler::new(2, &Voice::new(), judge, move |_, _| *count.lock().unwrap() += 1);
    gives.on_peer_up(2);
    takes.on_peer_up(1);
    let _offer = gives.offer("block", &[7; 5_000], b"").unwrap();
    let code = |refused: Result<_, crate::Error>| refused.map(|_: super::SwarmOffer| ()).unwrap_err().code();
    assert_eq!(code(gives.offer("block", &[7; (256 << 10) + 1], b"")), crate::Code::TooLarge);
    assert_eq!(code(gives.offer("block", b"x", &[7; 257])), crate::Code::TooLarge);
    assert_eq!(code(gives.offer("block..x", b"x", b"")), crate::Code::BadTopic);
    let asked = || takes.state.lock().unwrap().machine.counts().handled > 0;
    until("it is told", (&gives, &takes), asked);
    assert_eq!(*taken.lock().unwrap(), 0);
    *open.lock().unwrap() = true;
    takes.reconsider();
    until("it is given", (&gives, &takes), || *taken.lock().unwrap() == 1);
    println!("evidence: 1 stashed, 1 given later, 3 refused");
}

#[test]
fn of_two_machines_the_later_has_the_larger_epoch_also_behind_a_boot() {
    let epoch = || {
        let machine = SwarmHandler::new(1, &Voice::new(), |_| Interest::Drop, |_, _| {});
        let _ = machine.offer("block", b"x", b"").unwrap();
        let state = machine.state.lock().unwrap();
        state.machine.own(busway_protocol::gossip::SlotNumber(0)).unwrap().epoch
    };
    let first = epoch();
    // It is of the clock, in milliseconds, as the ids of messages are: not of the time since the boot.
    let now_ms = busway_shm::clock::realtime_ns() / 1_000_000;
    assert!(now_ms.abs_diff(first.0 >> 16) < 60_000, "{first:?} at {now_ms} ms");
    println!("evidence: epoch={}", first.0);
}
