//! The rendezvous against a naive model: random steps, and after each the same answers.
//!
//! The model is a list of members with their ports. It compares every subscription with every publisher, and keeps
//! what each member must have heard, so that a wrong index, a lost answer or a leftover shows at once.

use super::tests::{Story, publish, subscribe};
use super::{Input, Leaving, MemberId};
use busway_wire::{Control, Pattern, PortId, ProcessId, Topic};
use std::collections::{BTreeMap, BTreeSet};

const MEMBERS: u64 = 6;
const PORTS: u64 = 8;
const TOPICS: [&str; 7] = ["a", "b", "a.b", "a.c", "a.b.c", "b.a", "abc"];
const PATTERNS: [&str; 9] = ["a", "a.b", "b.a", "a.*", "a.>", "*.b", ">", "^a", "^a.b"];

/// A publisher: its process, its port, and which registration of that port.
type Ring = (u64, u64, u64);

#[derive(Default)]
struct Member {
    /// Port -> (topic, how often its registration has changed).
    publishers: BTreeMap<u64, (String, u64)>,
    /// Port -> (pattern, publishers that it was told of since it was registered).
    subscribers: BTreeMap<u64, (String, BTreeSet<Ring>)>,
    /// Processes of which it has descriptors.
    told: BTreeSet<u64>,
}

#[derive(Default)]
struct Model {
    members: BTreeMap<u64, Member>,
    changes: u64,
}

impl Model {
    fn publishers(&self) -> impl Iterator<Item = (u64, u64, &str, u64)> {
        self.members.iter().flat_map(|(n, member)| {
            member.publishers.iter().map(move |(port, (topic, change))| (*n, *port, topic.as_str(), *change))
        })
    }

    fn matched(&self, topic: &str) -> Vec<u64> {
        let topic = Topic::new(topic).unwrap();
        let mut matched = Vec::new();
        for (n, member) in &self.members {
            let subscribers = member.subscribers.values();
            let count =
                subscribers.filter(|(pattern, _)| Pattern::parse(pattern).unwrap().matches(&topic)).count();
            matched.extend(std::iter::repeat_n(*n, count));
        }
        matched
    }
}

struct Run {
    story: Story,
    model: Model,
    random: fastrand::Rng,
}

impl Run {
    fn step(&mut self) {
        let n = self.random.u64(0..MEMBERS);
        let port = self.random.u64(0..PORTS);
        if !self.model.members.contains_key(&n) {
            self.story.join(n);
            self.model.members.insert(n, Member::default());
            return;
        }
        match self.random.u32(0..20) {
            0..7 => self.publish(n, port),
            7..13 => self.subscribe(n, port),
            13..15 => {
                self.unpublish(n, port);
                self.story.machine.handle(
                    MemberId(n),
                    Input::Message(Control::Unpublish { port: PortId(port) }),
                    &mut self.story.said,
                );
            }
            15..17 => {
                self.member(n).subscribers.remove(&port);
                let message = Control::Unsubscribe { port: PortId(port) };
                self.story.machine.handle(MemberId(n), Input::Message(message), &mut self.story.said);
            }
            17 => self.leave(n, Leaving::Ended),
            18 => self.leave(n, Leaving::Lost),
            _ => self.inspect(n),
        }
    }

    fn member(&mut self, n: u64) -> &mut Member {
        self.model.members.get_mut(&n).unwrap()
    }

    fn publish(&mut self, n: u64, port: u64) {
        let topic = TOPICS[self.random.usize(0..TOPICS.len())];
        let known = self.member(n).publishers.get(&port).is_some_and(|(before, _)| before == topic);
        if !known {
            self.model.changes += 1;
            let change = self.model.changes;
            self.member(n).publishers.insert(port, (topic.to_owned(), change));
        }
        self.story.machine.handle(MemberId(n), Input::Message(publish(port, topic, 0)), &mut self.story.said);
        let heard = self.listen(n);
        let Some(Control::Published { port: of, matched }) = heard.last() else {
            panic!("a publisher is answered at once: {heard:?}")
        };
        let mut matched: Vec<u64> = matched.iter().map(|process| process.0).collect();
        matched.sort_unstable();
        assert_eq!((of.0, matched), (port, self.model.matched(topic)), "who matches {topic}");
    }

    fn subscribe(&mut self, n: u64, port: u64) {
        let pattern = PATTERNS[self.random.usize(0..PATTERNS.len())];
        self.listen(n);
        self.member(n).subscribers.insert(port, (pattern.to_owned(), BTreeSet::new()));
        self.story.machine.handle(
            MemberId(n),
            Input::Message(subscribe(port, pattern, 0)),
            &mut self.story.said,
        );
    }

    fn unpublish(&mut self, n: u64, port: u64) {
        self.member(n).publishers.remove(&port);
    }

    fn leave(&mut self, n: u64, leaving: Leaving) {
        self.listen_all();
        self.model.members.remove(&n);
        self.story.machine.handle(MemberId(n), Input::Left(leaving), &mut self.story.said);
        let witnesses: Vec<u64> = self.model.members.keys().copied().collect();
        for witness in witnesses {
            let told = self.member(witness).told.remove(&n);
            let heard = self.listen(witness);
            let gone =
                heard.iter().filter(|message| **message == Control::Gone { process: ProcessId(n) }).count();
            let expected = usize::from(told && leaving == Leaving::Ended);
            assert_eq!(gone, expected, "member {witness} hears that {n} has gone if it knew it");
        }
        self.story.said.clear();
    }

    fn inspect(&mut self, n: u64) {
        self.listen_all();
        self.story.say(n, Control::Inspect {});
        let all: Vec<u64> = self.model.members.keys().copied().collect();
        let heard = self.listen(n);
        let listed: Vec<u64> = heard
            .iter()
            .filter_map(|message| match message {
                Control::Member { process, .. } => Some(process.0),
                _ => None,
            })
            .collect();
        assert_eq!(listed, all);
    }

    fn listen_all(&mut self) {
        self.story.pull();
        for n in 0..MEMBERS {
            self.listen(n);
        }
    }

    /// Takes what was said to a member into the model.
    fn listen(&mut self, n: u64) -> Vec<Control> {
        let heard = self.story.heard(n);
        for (message, fds) in &heard {
            let about = match message {
                Control::RingAdded { subscription, process, port, .. } => {
                    self.hear_ring(n, subscription.0, process.0, port.0);
                    process.0
                }
                Control::Member { process, .. } => process.0,
                _ => {
                    assert_eq!(*fds, None, "no other message has descriptors beside it");
                    continue;
                }
            };
            let first = self.member(n).told.insert(about);
            assert_eq!(*fds, first.then_some(about), "descriptors of {about} go to {n} once");
        }
        heard.into_iter().map(|(message, _)| message).collect()
    }

    fn hear_ring(&mut self, n: u64, subscription: u64, process: u64, port: u64) {
        let (topic, change) = self.model.members[&process]
            .publishers
            .get(&port)
            .cloned()
            .expect("a registered publisher is told of");
        let (pattern, told) = self.member(n).subscribers.get_mut(&subscription).expect("it is registered");
        assert!(Pattern::parse(pattern).unwrap().matches(&Topic::new(&topic).unwrap()), "{pattern} {topic}");
        assert!(told.insert((process, port, change)), "each publisher is told of once");
    }

    /// When everything has been pulled, every subscription knows exactly the publishers that match it.
    fn check(&mut self) {
        self.listen_all();
        for (n, member) in &self.model.members {
            for (port, (pattern, told)) in &member.subscribers {
                let parsed = Pattern::parse(pattern).unwrap();
                let living =
                    self.model.publishers().map(|(process, port, _, change)| (process, port, change));
                let living: BTreeSet<_> = living.collect();
                let expected: BTreeSet<_> = self
                    .model
                    .publishers()
                    .filter(|(_, _, topic, _)| parsed.matches(&Topic::new(topic).unwrap()))
                    .map(|(process, port, _, change)| (process, port, change))
                    .collect();
                let known: BTreeSet<_> = told.intersection(&living).copied().collect();
                assert_eq!(known, expected, "subscription {port} of {n} to {pattern}");
            }
        }
    }
}

#[test]
fn random_registrations_are_answered_as_a_naive_model_answers() {
    for seed in 0..20 {
        let random = fastrand::Rng::with_seed(seed);
        let mut run = Run { story: Story::new(), model: Model::default(), random };
        for step in 0..1_000 {
            run.step();
            // Sometimes answers pile up over several steps, sometimes they are pulled at once.
            if run.random.bool() || step % 50 == 0 {
                run.check();
            }
        }
        run.check();
    }
}
