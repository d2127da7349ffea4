//! Whose turn it is, and what a link that has ended leaves for the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_protocol::Time;
use busway_protocol::flow::{Flow, WhenFull};
use busway_protocol::gossip::{Epoch, Lane, NodeIndex, Part, Reference, SlotNumber, Word};
use busway_shm::clock::Deadline;
use busway_wire::gossip::encode;

use super::{Calls, Intake, Swarm, in_turn};
use crate::artifacts::{ArtifactHandler, Heard, Workers};
use crate::bus::Bus;
use crate::control::scratch::Scratch;
use crate::ports::lock;
use crate::runtime::hub::Shared;
use crate::runtime::scene::{FAR, NEAR, config, network};

/// Far longer than any step here takes on a machine that does ten other things.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn each_peer_is_spoken_to_first_as_often_as_any_other_whatever_its_number() {
    let of: BTreeMap<u8, ()> = [0, 1, 7, 200, 255].map(|index| (index, ())).into();
    let (mut turn, mut first) = (3, BTreeMap::new());
    for _ in 0..of.len() * 10 {
        let all: Vec<u8> = in_turn(&mut turn, &of).map(|(index, ())| *index).collect();
        assert!(all.iter().copied().collect::<BTreeSet<u8>>().iter().eq(of.keys()), "{all:?}: each once");
        *first.entry(all[0]).or_insert(0) += 1;
    }
    assert!(of.keys().all(|index| first.get(index) == Some(&10)), "{first:?}");
    let none: BTreeMap<u8, ()> = BTreeMap::new();
    assert_eq!((in_turn(&mut turn, &none).count(), turn), (0, 0));
}

/// Handles a request when it is told to, one at a time.
struct Busy {
    begun: Sender<()>,
    ends: Mutex<Receiver<()>>,
}

impl ArtifactHandler for Busy {
    fn on_request(&self, _: u8, _: &Heard) {
        self.begun.send(()).expect("the test goes on");
        lock(&self.ends).recv_timeout(PATIENCE).expect("the test goes on");
    }
}

/// Over the link that stands ten requests have come, numbered from here.
fn ask(intake: &mut Intake, first: u64) {
    let of = Reference { node: NodeIndex(9), epoch: Epoch(1), slot: SlotNumber(7), version: 1 };
    let words = (first..first + 10).map(|request| {
        let mut body = Vec::new();
        encode(&Word::Request { request, of, part: Part::Whole, offset: 0 }, &[], &mut body);
        (Lane::Request, Some(body))
    });
    intake.take(1, words);
    intake.hand_on(1);
}

#[test]
fn a_request_that_was_dropped_is_answered_on_its_link_and_on_no_later_one() {
    let (begun, begins) = channel();
    let (end, ends) = channel();
    let handler = Arc::new(Busy { begun, ends: Mutex::new(ends) });
    // Requests have room for one at a time, and of each peer for one.
    let narrow = Workers::builder().limit(Flow::Request, 1, 1 << 20, WhenFull::Drop).floor(1, 1);
    let mut intake = Intake::new(Arc::new(narrow.start(handler).expect("they start")));
    let until_told = |intake: &mut Intake, link: u64| {
        let deadline = Deadline::after(PATIENCE);
        while intake.may_speak(1) != Some(link) {
            assert!(!deadline.expired(), "link {link} is not told of");
            begins.try_iter().for_each(|()| end.send(()).expect("it waits"));
            intake.hand_on(1);
            std::thread::yield_now();
        }
    };
    intake.stand(1, Some(7));
    until_told(&mut intake, 7);
    ask(&mut intake, 1);
    begins.recv_timeout(PATIENCE).expect("one is handled");
    ask(&mut intake, 11);
    assert!((11..21).contains(&first_of_later(&mut intake, 11)));
    intake.stand(1, Some(8));
    assert_eq!(intake.dropped(1), None, "who asked on a link that has ended waits for nothing");
    end.send(()).expect("it waits");
    until_told(&mut intake, 8);
    ask(&mut intake, 31);
    let all: Vec<u64> = std::iter::from_fn(|| intake.dropped(1)).collect();
    assert!(!all.is_empty() && all.iter().all(|request| (31..41).contains(request)), "{all:?}");
    // They end with what was begun.
    (0..10).for_each(|_| end.send(()).expect("it waits"));
}

#[test]
fn what_a_peer_waits_for_in_vain_it_is_told_on_the_link_on_which_it_asked() {
    let scratch = Scratch::new();
    let bus = Bus::builder().directory(scratch.path().join("run")).in_steps().open().expect("a bus");
    let (network, config) = (network(1 << 20), config(0, NEAR, &[(1, FAR)]));
    let calls = Calls::new(&config.store).expect("it has a store");
    let (shared, _) = Shared::listen(bus.core.clone(), network.start(NEAR), config).expect("it listens");
    let mut swarm = Swarm::new(shared, calls, NodeIndex(0), None).expect("a machine");
    swarm.stand(Time(1), 1, Some(7));
    swarm.lines.get_mut(&1).expect("its line").not_found.push_back(57);
    swarm.stand(Time(2), 1, Some(7));
    assert_eq!(swarm.lines[&1].not_found, [57], "the same link stands");
    swarm.stand(Time(3), 1, Some(8));
    assert!(swarm.lines[&1].not_found.is_empty(), "another one does");
}

/// The first dropped one that has this number or a later one; others are left.
fn first_of_later(intake: &mut Intake, least: u64) -> u64 {
    let mut dropped = std::iter::from_fn(|| intake.dropped(1));
    dropped.find(|request| *request >= least).expect("more than two have no room")
}
