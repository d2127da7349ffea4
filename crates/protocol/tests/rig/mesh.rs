//! A few nodes whose words arrive at once, but for those that are lost. No test lies here.
#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::collections::BTreeSet;
use std::sync::Arc;

use busway_protocol::Time;
use busway_protocol::flow::{Budget, Flow, Limits, Rule, WhenFull};
use busway_protocol::gossip::{
    Advert, Config, Epoch, Fault, Gossip, Input, Interest, Lane, NodeIndex, Offering, Output, Said, Word,
};
use busway_wire::Topic;

/// A few nodes.
pub(crate) struct Mesh {
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Gossip>,
    pub(crate) links: BTreeSet<(u8, u8)>,
    pub(crate) outputs: Vec<(u8, Output)>,
    /// All that was said: from, to, what.
    pub(crate) said: Vec<(u8, u8, Said)>,
    pub(crate) interest: Interest,
    /// Words that are lost, by who says them to whom.
    pub(crate) loses: fn(u8, u8, &Word) -> bool,
}

pub(crate) fn config(node: u8, epoch: u64, nodes: u8) -> Config {
    Config {
        node: NodeIndex(node),
        epoch: Epoch(epoch),
        members: (0..nodes).filter(|other| *other != node).map(NodeIndex).collect(),
        slots_max: 1_000,
        bytes_max: 1 << 30,
        limits: limits(1 << 30),
        filter: None,
        seed: u64::from(node),
    }
}

pub(crate) fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::default();
    let limit = Budget { messages: 1_000_000, bytes };
    limits.set(Flow::Chunk, Rule { limit, when_full: WhenFull::Wait }).unwrap();
    limits.set(Flow::Advert, Rule { limit, when_full: WhenFull::Drop }).unwrap();
    limits
}

pub(crate) fn offering(body: &[u8]) -> Offering {
    Offering::new(Topic::new("block").unwrap(), body.into())
}

impl Mesh {
    pub(crate) fn new(count: u8) -> Mesh {
        let nodes = (0..count).map(|node| Gossip::new(config(node, 1, count))).collect();
        let (links, outputs, said) = (BTreeSet::new(), Vec::new(), Vec::new());
        Mesh { now: Time(0), nodes, links, outputs, said, interest: Interest::Fetch, loses: |_, _, _| false }
    }

    pub(crate) fn handle(&mut self, node: u8, input: Input<'_>) {
        let mut out = Vec::new();
        self.nodes[usize::from(node)].handle(self.now, input, &mut out);
        self.outputs.extend(out.into_iter().map(|output| (node, output)));
    }

    pub(crate) fn link(&mut self, a: u8, b: u8) {
        self.links.insert((a.min(b), a.max(b)));
        self.handle(a, Input::PeerUp { node: NodeIndex(b) });
        self.handle(b, Input::PeerUp { node: NodeIndex(a) });
    }

    pub(crate) fn cut(&mut self, a: u8, b: u8) {
        self.links.remove(&(a.min(b), a.max(b)));
        self.handle(a, Input::PeerDown { node: NodeIndex(b) });
        self.handle(b, Input::PeerDown { node: NodeIndex(a) });
    }

    pub(crate) fn judge(&mut self) {
        for node in 0..self.nodes.len() {
            while let Some(Advert { of, .. }) = self.nodes[node].next_advert() {
                let interest = self.interest;
                self.handle(u8::try_from(node).unwrap(), Input::Judged { of, interest });
            }
        }
    }

    /// One word of each link and lane, if there is any; whether there was one.
    pub(crate) fn step(&mut self) -> bool {
        let mut any = false;
        for (a, b) in self.links.clone() {
            for (from, to) in [(a, b), (b, a)] {
                for lane in Lane::ALL {
                    let said = self.nodes[usize::from(from)].transmit(self.now, NodeIndex(to), lane);
                    let Some(said) = said else { continue };
                    any = true;
                    let following = said.following().to_vec();
                    let word = said.word.clone();
                    self.said.push((from, to, said));
                    if (self.loses)(from, to, &word) {
                        continue;
                    }
                    self.handle(to, Input::Word { from: NodeIndex(from), word, following: &following });
                }
            }
        }
        self.judge();
        any
    }

    /// Until nothing more is said for so long.
    pub(crate) fn settle(&mut self, ms: u64) {
        let until = self.now.after_ms(ms);
        loop {
            while self.step() {}
            let due = self.nodes.iter().filter_map(Gossip::deadline).map(|(at, _)| at).min();
            let Some(at) = due.filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            for node in 0..self.nodes.len() {
                self.handle(u8::try_from(node).unwrap(), Input::Tick);
            }
        }
        self.now = until;
    }

    pub(crate) fn received(&self, node: u8) -> Vec<Arc<[u8]>> {
        let of = self.outputs.iter().filter(|(at, _)| *at == node);
        of.filter_map(
            |(_, output)| if let Output::Received { body, .. } = output { Some(body.clone()) } else { None },
        )
        .collect()
    }

    pub(crate) fn outputs_of(&self, node: u8) -> usize {
        self.outputs.iter().filter(|(at, _)| *at == node).count()
    }

    pub(crate) fn gone(&self, node: u8) -> usize {
        self.outputs.iter().filter(|(at, out)| *at == node && matches!(out, Output::Gone { .. })).count()
    }

    pub(crate) fn blamed(&self, by: u8) -> Vec<(u8, Fault)> {
        let of = self.outputs.iter().filter(|(at, _)| *at == by);
        of.filter_map(
            |(_, out)| if let Output::Blame { node, fault } = out { Some((node.0, *fault)) } else { None },
        )
        .collect()
    }

    pub(crate) fn slots_said(&self, from: u8, to: u8) -> Vec<(u32, u64, bool)> {
        let of = self.said.iter().filter(|(f, t, _)| (*f, *t) == (from, to));
        of.flat_map(|(_, _, said)| match &said.word {
            Word::Tell(tell) => {
                tell.slots.iter().map(|slot| (slot.slot.0, slot.version, slot.offer.is_some())).collect()
            }
            _ => Vec::new(),
        })
        .collect()
    }
}

/// A peer says that.
pub(crate) fn word(from: u8, word: Word) -> Input<'static> {
    Input::Word { from: NodeIndex(from), word, following: &[] }
}
