//! Stories of a rendezvous: who is told what, by whom, and what is left when somebody leaves.

use super::index::Index;
use super::{Identity, Input, Leaving, MemberId, Output, Rendezvous, SUBSCRIBERS_MAX};
use crate::error::Code;
use busway_wire::{
    Control, Generation, Pattern, Policy, PortId, ProcessId, RingIndex, RowIndex, SeatIndex, Topic, TopicId,
};

/// A rendezvous whose members are numbered; member n is process n, and its descriptors are the number n.
pub(super) struct Story {
    pub(super) machine: Rendezvous<u64>,
    pub(super) said: Vec<Output<u64>>,
}

impl Story {
    pub(super) fn new() -> Story {
        Story { machine: Rendezvous::new(), said: Vec::new() }
    }

    pub(super) fn with_members(count: u64) -> Story {
        let mut story = Story::new();
        for n in 0..count {
            story.join(n);
        }
        story
    }

    pub(super) fn join(&mut self, n: u64) {
        let identity = Identity { process: ProcessId(n), pid: 1, name: "same".to_owned() };
        self.machine.handle(MemberId(n), Input::Joined(identity, n), &mut self.said);
    }

    pub(super) fn leave(&mut self, n: u64, leaving: Leaving) {
        self.machine.handle(MemberId(n), Input::Left(leaving), &mut self.said);
        self.pull();
    }

    pub(super) fn say(&mut self, n: u64, message: Control) {
        self.machine.handle(MemberId(n), Input::Message(message), &mut self.said);
        self.pull();
    }

    pub(super) fn publish(&mut self, n: u64, port: u64, topic: &str) {
        self.say(n, publish(port, topic, 0));
    }

    pub(super) fn subscribe(&mut self, n: u64, port: u64, pattern: &str) {
        self.say(n, subscribe(port, pattern, 0));
    }

    /// Everything that standing queries have to say.
    pub(super) fn pull(&mut self) {
        for member in self.machine.pending() {
            while self.machine.transmit(member, 8, &mut self.said) == super::Pulled::More {}
        }
        assert!(self.machine.pending().is_empty(), "what was pulled to the end is not pending");
    }

    /// What was said to a member since the last call, and with whose descriptors.
    pub(super) fn heard(&mut self, n: u64) -> Vec<(Control, Option<u64>)> {
        let mut heard = Vec::new();
        self.said.retain(|output| match output {
            Output::Send { to, message, fds } if *to == MemberId(n) => {
                heard.push((message.clone(), *fds));
                false
            }
            _ => true,
        });
        heard
    }

    /// The publishers that a member was told of, as (process, port).
    fn rings(&mut self, n: u64) -> Vec<(u64, u64)> {
        self.heard(n)
            .into_iter()
            .filter_map(|(message, _)| match message {
                Control::RingAdded { process, port, .. } => Some((process.0, port.0)),
                _ => None,
            })
            .collect()
    }

    fn refusal(&mut self) -> Option<(u64, Code)> {
        let at = self.said.iter().position(|output| matches!(output, Output::Refuse { .. }))?;
        match self.said.remove(at) {
            Output::Refuse { member, code, .. } => Some((member.0, code)),
            _ => None,
        }
    }
}

pub(super) fn publish(port: u64, topic: &str, created_ns: u64) -> Control {
    let ring = RingIndex(u32::try_from(port).unwrap());
    let (port, topic) = (PortId(port), Topic::new(topic).unwrap());
    Control::Publish { port, topic, ring, generation: Generation(1), created_ns, relay: false }
}

pub(super) fn subscribe(port: u64, pattern: &str, created_ns: u64) -> Control {
    let (port, pattern) = (PortId(port), Pattern::parse(pattern).unwrap());
    Control::Subscribe { port, pattern, policy: Policy::Block, created_ns, export: false }
}

fn attach(publisher: u64, ring: u32, subscriber: u64, subscription: u64) -> Control {
    Control::Attach {
        publisher: ProcessId(publisher),
        ring: RingIndex(ring),
        generation: Generation(1),
        subscriber: ProcessId(subscriber),
        subscription: PortId(subscription),
        row: RowIndex(5),
        row_generation: Generation(2),
        policy: Policy::Block,
    }
}

fn attached(publisher: u64, ring: u32, subscriber: u64) -> Control {
    Control::Attached {
        publisher: ProcessId(publisher),
        ring: RingIndex(ring),
        generation: Generation(1),
        subscriber: ProcessId(subscriber),
        row: RowIndex(5),
        row_generation: Generation(2),
        seat: SeatIndex(3),
    }
}

fn published(port: u64, matched: &[u64]) -> (Control, Option<u64>) {
    (
        Control::Published {
            port: PortId(port),
            matched: matched.iter().map(|process| ProcessId(*process)).collect(),
        },
        None,
    )
}

#[test]
fn what_is_registered_is_found_and_what_is_deregistered_is_not() {
    let mut story = Story::with_members(3);
    story.publish(1, 10, "price.tick");
    assert_eq!(story.heard(1), [published(10, &[])]);
    story.subscribe(2, 20, "price.tick");
    assert_eq!(story.rings(2), [(1, 10)]);
    story.say(1, Control::Unpublish { port: PortId(10) });
    story.subscribe(2, 21, "price.tick");
    assert_eq!(
        story.heard(2),
        [(Control::Subscribed { port: PortId(21), publishers: 0 }, None)],
        "a publisher that was taken back is not found"
    );
    story.say(2, Control::Unsubscribe { port: PortId(20) });
    story.publish(1, 11, "price.tick");
    assert_eq!(story.heard(1), [published(11, &[2])], "one of the two subscriptions is left");
    assert_eq!(story.rings(2), [(1, 11)]);
}

#[test]
fn a_death_takes_exactly_its_own_registrations_also_among_equal_names() {
    let mut story = Story::with_members(4);
    for n in 1..4 {
        story.publish(n, 10, "same.topic");
        story.subscribe(n, 20, "same.topic");
    }
    story.leave(2, Leaving::Ended);
    let told = Control::Gone { process: ProcessId(2) };
    assert!(story.heard(1).contains(&(told.clone(), None)), "who was told of it is told that it has gone");
    assert!(story.heard(3).contains(&(told, None)));
    story.subscribe(0, 30, ">");
    assert_eq!(story.rings(0), [(1, 10), (3, 10)]);
    story.publish(0, 40, "same.topic");
    assert_eq!(story.heard(0).first(), Some(&published(40, &[1, 3, 0])));
}

#[test]
fn a_lost_connection_is_no_death_and_its_process_may_come_back() {
    let mut story = Story::with_members(3);
    story.publish(1, 10, "a");
    story.subscribe(2, 20, "a");
    assert!(story.heard(2).iter().any(|(_, fds)| *fds == Some(1)), "the first time with descriptors");
    story.leave(1, Leaving::Lost);
    assert_eq!(story.heard(2), [], "nobody is told that it has gone");
    story.join(1);
    story.publish(1, 10, "a");
    assert_eq!(story.rings(2), [(1, 10)], "it registers anew");
}

#[test]
fn services_match_by_their_three_names() {
    let mut story = Story::with_members(3);
    let topic = |s, i, e| Topic::service(s, i, e).unwrap();
    story.publish(1, 10, topic("camera", "left", "frame").as_str());
    story.publish(1, 11, topic("camera", "right", "frame").as_str());
    story.publish(1, 12, topic("camera", "left", "fault").as_str());
    story.subscribe(2, 20, topic("camera", "left", "frame").as_str());
    assert_eq!(story.rings(2), [(1, 10)], "all three must be equal");
    story.subscribe(2, 21, "camera.*.frame");
    assert_eq!(story.rings(2), [(1, 10), (1, 11)], "in the order of registration");
    story.subscribe(2, 22, "^camera.left");
    assert_eq!(story.rings(2), [(1, 10), (1, 12)]);
}

#[test]
fn an_attach_goes_to_the_publisher_and_its_answer_back_with_descriptors_once() {
    let mut story = Story::with_members(4);
    story.publish(1, 10, "a");
    story.publish(1, 11, "b");
    story.subscribe(2, 20, ">");
    let heard = story.heard(2);
    let fds: Vec<_> = heard.iter().map(|(_, fds)| *fds).collect();
    assert_eq!(fds, [Some(1), None, None], "descriptors come once");
    story.heard(1);
    story.say(2, attach(1, 10, 2, 20));
    story.say(2, attach(1, 11, 2, 20));
    assert_eq!(story.heard(1), [(attach(1, 10, 2, 20), Some(2)), (attach(1, 11, 2, 20), None)]);
    story.say(1, attached(1, 10, 2));
    assert_eq!(story.heard(2), [(attached(1, 10, 2), None)]);
    assert!(story.said.is_empty(), "nobody else is told");
}

#[test]
fn an_attach_to_what_has_gone_is_refused_at_once() {
    let mut story = Story::with_members(3);
    story.publish(1, 10, "a");
    story.subscribe(2, 20, "a");
    story.say(1, Control::Unpublish { port: PortId(10) });
    story.heard(2);
    for (publisher, subscription) in [(1, 20), (1, 99), (77, 20)] {
        story.say(2, attach(publisher, 10, 2, subscription));
        let heard = story.heard(2);
        assert!(matches!(heard[..], [(Control::AttachRefused { .. }, None)]), "{heard:?}");
    }
}

#[test]
fn a_member_cannot_speak_for_another() {
    for message in [attach(1, 10, 3, 20), attached(3, 10, 1), Control::Gone { process: ProcessId(1) }] {
        let mut story = Story::with_members(4);
        story.publish(1, 10, "a");
        story.subscribe(3, 20, "a");
        story.said.clear();
        story.say(2, message);
        assert_eq!(story.refusal(), Some((2, Code::ProtocolBroken)));
        assert!(story.said.is_empty(), "nothing of it reached anybody: {:?}", story.said);
    }
}

#[test]
fn a_repeated_registration_has_no_other_effect_than_its_answer() {
    let mut story = Story::with_members(3);
    story.publish(1, 10, "a");
    story.subscribe(2, 20, "a");
    story.said.clear();
    story.publish(1, 10, "a");
    assert_eq!(story.heard(1), [published(10, &[2])]);
    assert_eq!(story.heard(2), [], "the subscriber knows it already");
    story.subscribe(2, 20, "a");
    assert_eq!(story.rings(2), [(1, 10)], "who asks again is answered again");
    story.publish(1, 10, "b");
    story.subscribe(0, 30, ">");
    assert_eq!(story.rings(0), [(1, 10)], "a port that registers another topic has moved, not doubled");
}

#[test]
fn the_age_of_a_ring_is_judged_by_when_it_was_made_not_by_when_it_was_registered() {
    for (ring_ns, subscription_ns, older) in [(5, 9, true), (9, 5, false), (7, 7, false)] {
        let mut story = Story::with_members(3);
        story.say(1, publish(10, "a", ring_ns));
        story.say(2, subscribe(20, "a", subscription_ns));
        let heard = story.heard(2);
        assert!(
            matches!(heard[0].0, Control::RingAdded { ring_is_older, .. } if ring_is_older == older),
            "{heard:?}"
        );
    }
}

#[test]
fn a_member_that_registers_more_than_it_may_is_refused_and_others_are_not() {
    let mut story = Story::with_members(3);
    for port in 0..SUBSCRIBERS_MAX as u64 {
        let message = subscribe(port, "full", 0);
        story.machine.handle(MemberId(1), Input::Message(message), &mut story.said);
    }
    story.said.clear();
    let message = subscribe(SUBSCRIBERS_MAX as u64, "full", 0);
    story.machine.handle(MemberId(1), Input::Message(message), &mut story.said);
    assert_eq!(story.refusal(), Some((1, Code::TooManyPorts)));
    story.leave(1, Leaving::Lost);
    story.subscribe(2, 1, "full");
    story.publish(0, 1, "full");
    assert_eq!(story.heard(0), [published(1, &[2])], "what the refused one had is gone");
}

#[test]
fn of_two_names_with_one_id_the_second_is_refused_until_the_first_is_gone() {
    // Ids of one bit: what begins with a and what does not.
    let index = Index::with_ids(|topic| TopicId(u64::from(topic.as_str().starts_with('a'))));
    let mut story = Story { machine: Rendezvous::with_index(index), said: Vec::new() };
    (0..5).for_each(|n| story.join(n));
    story.publish(1, 1, "a.one");
    story.subscribe(2, 1, "a.one");
    story.subscribe(2, 2, "a.*");
    story.publish(2, 3, "other");
    story.said.clear();
    for message in [publish(9, "a.two", 0), subscribe(9, "a.two", 0)] {
        story.say(3, message);
        assert_eq!(story.refusal(), Some((3, Code::TopicClash)));
        story.leave(3, Leaving::Lost);
        story.join(3);
    }
    story.subscribe(3, 1, "a.one");
    assert_eq!(story.rings(3), [(1, 1)], "the first name is not disturbed");
    // With the last port of the first name its id is free.
    story.leave(1, Leaving::Ended);
    story.leave(3, Leaving::Ended);
    story.say(2, Control::Unsubscribe { port: PortId(1) });
    story.said.clear();
    story.publish(4, 1, "a.two");
    assert_eq!((story.refusal(), story.rings(2)), (None, vec![(4, 1)]));
}

#[test]
fn two_publishers_cannot_share_a_ring() {
    let mut story = Story::with_members(2);
    story.publish(1, 10, "a");
    let Control::Publish { topic, ring, generation, created_ns, .. } = publish(10, "b", 0) else { return };
    story.say(1, Control::Publish { port: PortId(11), topic, ring, generation, created_ns, relay: false });
    assert_eq!(story.refusal(), Some((1, Code::ProtocolBroken)));
}

#[test]
fn a_member_that_does_not_read_costs_no_messages() {
    let mut story = Story::with_members(3);
    story.machine.handle(MemberId(2), Input::Message(subscribe(20, ">", 0)), &mut story.said);
    for port in 0..1_000 {
        let message = publish(port, &format!("t{port}"), 0);
        story.machine.handle(MemberId(1), Input::Message(message), &mut story.said);
    }
    assert_eq!(story.heard(2), [], "nothing is queued for it");
    story.pull();
    let heard = story.heard(2);
    assert_eq!(heard.len(), 1_001);
    assert_eq!(heard[1_000].0, Control::Subscribed { port: PortId(20), publishers: 1_000 });
}

#[test]
fn the_members_are_listed_with_everybody_and_an_end() {
    let mut story = Story::with_members(3);
    story.say(1, Control::Inspect {});
    let heard = story.heard(1);
    let listed: Vec<_> = heard
        .iter()
        .map(|(message, fds)| match message {
            Control::Member { process, .. } => (Some(process.0), *fds),
            _ => (None, *fds),
        })
        .collect();
    assert_eq!(listed, [(Some(0), Some(0)), (Some(1), Some(1)), (Some(2), Some(2)), (None, None)]);
    assert_eq!(heard.last().unwrap().0, Control::InspectEnd {});
}

#[test]
fn subscriptions_without_a_publisher_are_listed_behind_their_member() {
    let mut story = Story::with_members(3);
    story.publish(0, 10, "a.b");
    for (port, pattern) in [(20, "a.b"), (21, "c"), (22, "a.*"), (23, "^x")] {
        story.subscribe(1, port, pattern);
    }
    story.subscribe(2, 30, "d.>");
    story.pull();
    (0..3).for_each(|n| drop(story.heard(n)));
    story.say(2, Control::Inspect {});
    story.pull();
    let listed = |(message, _): &(Control, Option<u64>)| match message {
        Control::Member { process, .. } => format!("member {}", process.0),
        Control::Unmatched { process, port, pattern, .. } => format!("{}: {} {pattern}", process.0, port.0),
        other => format!("{:?}", other.kind()),
    };
    let heard: Vec<String> = story.heard(2).iter().map(listed).collect();
    let expected = ["member 0", "member 1", "1: 21 c", "1: 23 ^x", "member 2", "2: 30 d.>", "InspectEnd"];
    assert_eq!(heard, expected);
}

#[test]
fn a_hand_over_is_asked_of_the_holder_and_announced_to_everybody_else() {
    let mut story = Story::with_members(3);
    story.say(2, Control::HandOver {});
    assert!(matches!(story.said[..], [Output::HandOver { to: ProcessId(2) }]));
    story.said.clear();
    story.machine.announce(ProcessId(2), &mut story.said);
    let moving = [(Control::Moving { to: ProcessId(2) }, None)];
    assert_eq!((story.heard(0).len(), story.heard(1), story.heard(2)), (0, moving.to_vec(), moving.to_vec()));
}

#[test]
fn after_a_take_over_counts_are_told_when_everybody_had_time_to_register() {
    let mut story = Story::new();
    story.machine.begin_settling();
    (0..3).for_each(|n| story.join(n));
    story.publish(1, 10, "a");
    story.publish(1, 11, "b");
    story.subscribe(2, 20, "a");
    assert_eq!(story.heard(1), [], "nobody is counted yet");
    let heard = story.heard(2);
    assert!(matches!(heard[..], [(Control::RingAdded { .. }, Some(1))]), "pairs meet at once: {heard:?}");
    story.subscribe(0, 30, "a");
    story.say(1, Control::Unpublish { port: PortId(11) });
    story.said.clear();
    story.machine.settle(&mut story.said);
    story.pull();
    assert_eq!(story.heard(1), [published(10, &[0, 2])]);
    assert_eq!(story.heard(2), [(Control::Subscribed { port: PortId(20), publishers: 1 }, None)]);
    story.publish(1, 12, "c");
    assert_eq!(story.heard(1), [published(12, &[])], "from then on answers come at once");
}
