//! Who watches: what is subscribed to on this host, told to members that carry it to other hosts.
//!
//! A watcher is told of a subscription when it is there, and that it is gone; what comes and goes between two answers
//! is not said. Subscriptions on behalf of another host are not told: they would go round for ever.
//!
//! Invariant: what a watcher was told and not told the end of is registered, or is noted as changed for it. A note is
//! one entry however often a subscription changes, so that a watcher that does not read costs no more than what is
//! registered and what it was told.

use super::index::Query;
use super::{MemberId, Output, Phase, Rendezvous};
use busway_wire::{Control, PortId, ProcessId};
use std::collections::{BTreeMap, BTreeSet};

/// What one watcher knows.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Subscriptions that came or went since it was told.
    changed: BTreeSet<(MemberId, PortId)>,
    /// Subscriptions it was told of, and whose they are.
    told: BTreeMap<(MemberId, PortId), ProcessId>,
    /// The first listing is complete.
    ended: bool,
}

impl<F: Clone> Rendezvous<F> {
    /// `from` watches from now on; asked again, it is told everything again.
    pub(super) fn watch(&mut self, from: MemberId) {
        let all = self.members.iter().flat_map(|(id, member)| {
            let told = member.subscriptions.iter().filter(|(_, found)| found.query.is_told());
            told.map(|(port, _)| (*id, *port))
        });
        let watch = Watch { changed: all.collect(), ..Watch::default() };
        self.member(from).watch = Some(watch);
        self.pending.insert(from);
    }

    /// A subscription came or went.
    pub(super) fn changed(&mut self, member: MemberId, port: PortId, query: &Query) {
        if !query.is_told() {
            return;
        }
        for (id, watcher) in &mut self.members {
            if let Some(watch) = &mut watcher.watch {
                watch.changed.insert((member, port));
                self.pending.insert(*id);
            }
        }
    }

    /// Tells `to` of at most one change; false if there is none.
    pub(super) fn watch_one(&mut self, to: MemberId, out: &mut Vec<Output<F>>) -> bool {
        let settled = matches!(self.phase, Phase::Settled);
        let Some(watch) = self.member(to).watch.as_mut() else { return false };
        let Some((member, port)) = watch.changed.pop_first() else {
            // Before those who were here under the last holder are back, the listing is not complete.
            if watch.ended || !settled {
                return false;
            }
            watch.ended = true;
            out.push(Output::Send { to, message: Control::WatchEnd {}, fds: None });
            return true;
        };
        let found = self.members.get(&member).and_then(|found| {
            let subscription = found.subscriptions.get(&port).filter(|found| found.query.is_told())?;
            let (process, policy) = (found.identity.process, subscription.policy);
            let pattern = subscription.query.pattern.clone();
            Some(match subscription.group.clone() {
                Some(group) => Control::Pulled { process, port, pattern, group },
                None => Control::Wanted { process, port, pattern, policy },
            })
        });
        let watch = self.member(to).watch.as_mut().expect("it was there two lines above");
        let message = match found {
            Some(message) => {
                if let Control::Wanted { process, .. } | Control::Pulled { process, .. } = &message {
                    watch.told.insert((member, port), *process);
                }
                message
            }
            None => match watch.told.remove(&(member, port)) {
                Some(process) => Control::Unwanted { process, port },
                // It came and went unseen.
                None => return true,
            },
        };
        out.push(Output::Send { to, message, fds: None });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Story, publish, subscribe};
    use super::super::{Leaving, MemberId};
    use busway_wire::{Control, Generation, Group, Pattern, PortId, RingIndex, Topic};

    fn exported(port: u64, pattern: &str) -> Control {
        match subscribe(port, pattern, 0) {
            Control::Subscribe { port, pattern, policy, created_ns, .. } => {
                Control::Subscribe { port, pattern, policy, created_ns, export: true }
            }
            other => other,
        }
    }

    fn relayed(port: u64, topic: &str) -> Control {
        match publish(port, topic, 0) {
            Control::Publish { port, topic, ring, generation, created_ns, .. } => {
                Control::Publish { port, topic, ring, generation, created_ns, relay: true }
            }
            other => other,
        }
    }

    /// What a watcher heard, as one word each.
    fn heard(story: &mut Story, n: u64) -> Vec<String> {
        story
            .heard(n)
            .into_iter()
            .filter_map(|(message, _)| match message {
                Control::Wanted { process, pattern, .. } => Some(format!("+{} {pattern}", process.0)),
                Control::Unwanted { process, port } => Some(format!("-{} {}", process.0, port.0)),
                Control::WatchEnd {} => Some("end".to_owned()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_watcher_is_told_what_is_subscribed_and_every_change_of_it() {
        let mut story = Story::with_members(3);
        story.subscribe(1, 10, "price.>");
        story.say(0, Control::Watch {});
        assert_eq!(heard(&mut story, 0), ["+1 price.>", "end"]);
        story.subscribe(2, 20, "a.b");
        story.subscribe(0, 30, "own");
        assert_eq!(heard(&mut story, 0), ["+2 a.b", "+0 own"]);
        story.say(1, Control::Unsubscribe { port: busway_wire::PortId(10) });
        story.leave(2, Leaving::Ended);
        assert_eq!(heard(&mut story, 0), ["-1 10", "-2 20"]);
        assert!(heard(&mut story, 1).is_empty(), "who does not watch is told nothing");
    }

    #[test]
    fn what_leaves_the_host_is_not_told_and_does_not_match_what_came_from_another() {
        let mut story = Story::with_members(3);
        story.say(0, Control::Watch {});
        story.say(0, exported(10, "price.>"));
        story.subscribe(1, 20, "price.>");
        assert_eq!(heard(&mut story, 0), ["end", "+1 price.>"]);
        story.say(2, relayed(30, "price.tick"));
        story.publish(2, 31, "price.tock");
        let rings = |story: &mut Story, n: u64| {
            let told = story.heard(n).into_iter().filter_map(|(message, _)| match message {
                Control::RingAdded { port, .. } => Some(port.0),
                _ => None,
            });
            told.collect::<Vec<_>>()
        };
        assert_eq!(rings(&mut story, 0), [31], "a node carries on what its own host publishes");
        assert_eq!(rings(&mut story, 1), [30, 31]);
        // The other order: the export comes when both are there.
        story.say(0, exported(11, "price.tick"));
        story.say(0, exported(12, "price.tock"));
        assert_eq!(rings(&mut story, 0), [31]);
    }

    fn pull(port: u64, group: &str, export: bool) -> Control {
        let group = Group::new(Topic::new(group).unwrap(), None).unwrap();
        let pattern = Pattern::parse("work").unwrap();
        Control::Pull { port: PortId(port), pattern, group, created_ns: 0, export }
    }

    fn push(port: u64, only: Option<&str>) -> Control {
        let (topic, only) = (Topic::new("work").unwrap(), only.map(|group| Topic::new(group).unwrap()));
        let ring = RingIndex(u32::try_from(port).unwrap());
        Control::Push { port: PortId(port), topic, ring, generation: Generation(1), created_ns: 0, only }
    }

    #[test]
    fn what_another_host_gives_is_for_its_group_alone_and_is_not_pulled_for_a_third() {
        let mut story = Story::with_members(3);
        story.say(0, Control::Watch {});
        story.say(0, pull(10, "g", true));
        story.say(1, pull(20, "g", false));
        story.say(1, pull(21, "other", false));
        let told: Vec<String> = story
            .heard(0)
            .into_iter()
            .filter_map(|(message, _)| match message {
                Control::Pulled { process, port, group, .. } => {
                    Some(format!("+{} {} {}", process.0, port.0, group.name()))
                }
                _ => None,
            })
            .collect();
        assert_eq!(told, ["+1 20 g", "+1 21 other"], "what is pulled for another host is not told");
        story.say(2, push(30, Some("g")));
        story.say(2, push(31, None));
        let mut met = |n: u64| {
            let met = story.heard(n).into_iter().filter_map(|(message, _)| match message {
                Control::RingAdded { subscription, port, .. } => Some((subscription.0, port.0)),
                _ => None,
            });
            let mut met: Vec<_> = met.collect();
            met.sort_unstable();
            met
        };
        assert_eq!(met(0), [(10, 31)]);
        assert_eq!(met(1), [(20, 30), (20, 31), (21, 31)]);
        story.say(1, Control::Unsubscribe { port: PortId(20) });
        let gone =
            |(message, _): &(Control, _)| matches!(message, Control::Unwanted { port: PortId(20), .. });
        assert!(story.heard(0).iter().any(gone), "nobody was told that it pulls no more");
    }

    #[test]
    fn what_came_and_went_between_two_answers_costs_a_watcher_nothing() {
        let mut story = Story::with_members(2);
        story.say(0, Control::Watch {});
        heard(&mut story, 0);
        for _ in 0..1_000 {
            let message = super::super::Input::Message(subscribe(10, "a", 0));
            story.machine.handle(MemberId(1), message, &mut story.said);
            let message =
                super::super::Input::Message(Control::Unsubscribe { port: busway_wire::PortId(10) });
            story.machine.handle(MemberId(1), message, &mut story.said);
        }
        story.pull();
        assert!(heard(&mut story, 0).is_empty());
    }

    #[test]
    fn after_a_take_over_the_end_is_said_when_those_who_were_here_are_back() {
        let mut story = Story::new();
        story.machine.begin_settling();
        story.join(0);
        story.say(0, Control::Watch {});
        assert!(heard(&mut story, 0).is_empty());
        story.join(1);
        story.subscribe(1, 10, "a");
        assert_eq!(heard(&mut story, 0), ["+1 a"]);
        story.machine.settle(&mut story.said);
        story.pull();
        assert_eq!(heard(&mut story, 0), ["end"]);
    }
}
