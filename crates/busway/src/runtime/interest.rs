//! What the programs of this host want of other hosts.
//!
//! Every subscription of this host that is not itself on behalf of another one. Peers are told of each pattern once,
//! however many subscribers have it; it is reliable if one of them is.
//!
//! Invariant: after a listing has ended, the patterns that are told are those of the subscriptions that were named.

use std::collections::BTreeMap;

use busway_protocol::Input;
use busway_wire::{Pattern, Policy, PortId, ProcessId};

use crate::cluster::CLUSTER_PREFIX;
use crate::control::Watched;
use crate::runtime::Outbound;

#[derive(Clone, Debug)]
struct Subscribed {
    pattern: String,
    reliable: bool,
    listing: u64,
}

/// One pattern, as peers are told of it.
#[derive(Clone, Debug)]
struct Told {
    id: u32,
    pattern: Pattern,
    /// Subscriptions that may lose, and subscriptions that may not.
    lossy: usize,
    reliable: usize,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Interests {
    subscriptions: BTreeMap<(ProcessId, PortId), Subscribed>,
    patterns: BTreeMap<String, Told>,
    next_id: u32,
    listing: u64,
    /// The first listing has ended: all is known that is wanted here.
    listed: bool,
}

impl Interests {
    /// Takes a change; what peers have to be told is appended.
    pub(crate) fn watched(&mut self, watched: Watched, tell: &mut Vec<Input<Outbound>>) {
        match watched {
            Watched::Wanted { process, port, pattern, policy } => {
                self.wanted((process, port), &pattern, policy, tell);
            }
            Watched::Unwanted { process, port } => self.unwanted((process, port), tell),
            // `work` tells of it.
            Watched::Pulled { .. } => {}
            Watched::Begin => self.listing += 1,
            Watched::End => {
                let listing = self.listing;
                let gone = self.subscriptions.iter().filter(|(_, found)| found.listing < listing);
                let gone: Vec<_> = gone.map(|(key, _)| *key).collect();
                for key in gone {
                    self.unwanted(key, tell);
                }
                if !std::mem::replace(&mut self.listed, true) {
                    tell.push(Input::Listed { all: true });
                }
            }
        }
    }

    /// Everything, for a peer that is new.
    pub(crate) fn all(&self) -> Vec<Input<Outbound>> {
        let unlisted = (!self.listed).then_some(Input::Listed { all: false });
        unlisted.into_iter().chain(self.patterns.values().map(want)).collect()
    }

    fn wanted(
        &mut self,
        key: (ProcessId, PortId),
        pattern: &Pattern,
        policy: Policy,
        tell: &mut Vec<Input<Outbound>>,
    ) {
        let text = pattern.to_string();
        // What the bus says about itself stays on its host; what endpoints of a cluster say to each other is for others.
        let own = text.starts_with('$') || text.starts_with("^$");
        if own && !text.starts_with(CLUSTER_PREFIX) {
            return;
        }
        let reliable = policy == Policy::Block;
        if let Some(known) = self.subscriptions.get_mut(&key)
            && known.reliable == reliable
            && known.pattern == text
        {
            known.listing = self.listing;
            return;
        }
        self.unwanted(key, tell);
        let subscribed = Subscribed { pattern: text.clone(), reliable, listing: self.listing };
        self.subscriptions.insert(key, subscribed);
        let next_id = &mut self.next_id;
        let told = self.patterns.entry(text).or_insert_with(|| {
            *next_id = next_id.wrapping_add(1);
            Told { id: *next_id, pattern: pattern.clone(), lossy: 0, reliable: 0 }
        });
        let before = (told.lossy + told.reliable > 0, told.reliable > 0);
        if reliable {
            told.reliable += 1;
        } else {
            told.lossy += 1;
        }
        if before != (true, told.reliable > 0) {
            tell.push(want(told));
        }
    }

    fn unwanted(&mut self, key: (ProcessId, PortId), tell: &mut Vec<Input<Outbound>>) {
        let Some(gone) = self.subscriptions.remove(&key) else { return };
        let Some(told) = self.patterns.get_mut(&gone.pattern) else { return };
        let reliable = told.reliable > 0;
        if gone.reliable {
            told.reliable -= 1;
        } else {
            told.lossy -= 1;
        }
        if told.lossy + told.reliable == 0 {
            tell.push(Input::Unwant { id: told.id });
            self.patterns.remove(&gone.pattern);
        } else if reliable != (told.reliable > 0) {
            tell.push(want(told));
        }
    }
}

fn want(told: &Told) -> Input<Outbound> {
    Input::Want { id: told.id, pattern: told.pattern.clone(), reliable: told.reliable > 0 }
}

#[cfg(test)]
mod tests {
    use super::Interests;
    use crate::control::Watched;
    use busway_protocol::Input;
    use busway_wire::{Pattern, Policy, PortId, ProcessId};

    fn wanted(port: u64, pattern: &str, policy: Policy) -> Watched {
        let pattern = Pattern::parse(pattern).unwrap();
        Watched::Wanted { process: ProcessId(1), port: PortId(port), pattern, policy }
    }

    fn told(interests: &mut Interests, watched: Watched) -> Vec<String> {
        let mut tell = Vec::new();
        interests.watched(watched, &mut tell);
        tell.iter()
            .map(|input| match input {
                Input::Want { id, pattern, reliable } => format!("+{id} {pattern} {reliable}"),
                Input::Unwant { id } => format!("-{id}"),
                Input::Listed { all: true } => "all".to_owned(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_pattern_of_ten_subscribers_is_told_once_and_is_as_reliable_as_the_most_careful() {
        let mut interests = Interests::default();
        assert_eq!(told(&mut interests, wanted(1, "a.>", Policy::default())), ["+1 a.> false"]);
        for port in 2..10 {
            assert!(told(&mut interests, wanted(port, "a.>", Policy::default())).is_empty());
        }
        assert_eq!(told(&mut interests, wanted(10, "a.>", Policy::Block)), ["+1 a.> true"]);
        let gone = |port| Watched::Unwanted { process: ProcessId(1), port: PortId(port) };
        assert_eq!(told(&mut interests, gone(10)), ["+1 a.> false"]);
        for port in 2..10 {
            assert!(told(&mut interests, gone(port)).is_empty());
        }
        assert_eq!(told(&mut interests, gone(1)), ["-1"]);
        assert!(matches!(interests.all()[..], [Input::Listed { all: false }]), "no listing has ended");
    }

    #[test]
    fn what_another_holder_does_not_name_is_wanted_no_more() {
        let mut interests = Interests::default();
        told(&mut interests, wanted(1, "a", Policy::Block));
        told(&mut interests, wanted(2, "b", Policy::Block));
        assert!(told(&mut interests, Watched::Begin).is_empty());
        assert!(told(&mut interests, wanted(2, "b", Policy::Block)).is_empty(), "it is known");
        assert_eq!(told(&mut interests, Watched::End), ["-1", "all"]);
        assert_eq!(interests.all().len(), 1, "who comes now need not wait for a listing");
        told(&mut interests, Watched::Begin);
        assert_eq!(told(&mut interests, Watched::End), ["-2"], "once it is known, it is");
    }
}
