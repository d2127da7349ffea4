//! The index of a rendezvous: from a topic to its subscriptions, and from a pattern to its publishers.
//!
//! Publishers are numbered in the order in which they registered, so that a standing query is a number up to which
//! it has looked. Exact names are found by the id of the topic; patterns are a list that each new publisher is
//! compared with. The index knows nothing of processes, descriptors or messages.
//!
//! Invariants: both directions hold the same ports; a look-up by an exact name visits what it finds and nothing else; no
//! two names have one id, because whoever registers asks [`Index::clashes`] first.

use super::MemberId;
use busway_wire::{Generation, Pattern, PortId, RingIndex, Topic, TopicId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

/// The place of a publisher in the order of registration; 0 is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Serial(u64);

/// Whom a port meets: publishers for groups meet pullers, all others meet subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meets {
    /// Everybody gets each message.
    Subscribers,
    /// One puller of each group gets each message.
    Groups,
}

/// A publisher as it was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publisher {
    pub(super) member: MemberId,
    pub(super) port: PortId,
    pub(super) topic: Topic,
    pub(super) ring: RingIndex,
    pub(super) generation: Generation,
    pub(super) created_ns: u64,
    /// What it publishes comes from another host.
    pub(super) relay: bool,
    pub(super) meets: Meets,
    /// What it pushes is for this group alone.
    pub(super) only: Option<Topic>,
}

/// What a subscription asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) pattern: Pattern,
    /// On behalf of another host: relays do not match.
    pub(super) export: bool,
    pub(super) meets: Meets,
    /// For which group it pulls.
    pub(super) group: Option<Topic>,
}

impl Query {
    /// Whether watchers are told of it: it is of this host, and asks for what other hosts can send.
    pub(super) fn is_told(&self) -> bool {
        !self.export
    }

    pub(super) fn matches(&self, publisher: &Publisher) -> bool {
        self.meets == publisher.meets
            && self.pattern.matches(&publisher.topic)
            && !(self.export && publisher.relay)
            && (publisher.only.is_none() || publisher.only == self.group)
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Index {
    /// How a name gets its id: a test has one that gives the same to many, which BLAKE3 does for nobody.
    id_of: fn(&Topic) -> TopicId,
    last: Serial,
    publishers: BTreeMap<Serial, Publisher>,
    publishers_of: BTreeSet<(TopicId, Serial)>,
    exact: BTreeMap<(TopicId, MemberId, PortId), Query>,
    patterns: BTreeMap<(MemberId, PortId), Query>,
}

impl Default for Index {
    fn default() -> Self {
        Self::with_ids(Topic::id)
    }
}

impl Index {
    pub(super) fn with_ids(id_of: fn(&Topic) -> TopicId) -> Self {
        Self {
            id_of,
            last: Serial::default(),
            publishers: BTreeMap::new(),
            publishers_of: BTreeSet::new(),
            exact: BTreeMap::new(),
            patterns: BTreeMap::new(),
        }
    }

    /// Whether another name that is registered has the id of this one.
    pub(super) fn clashes(&self, topic: &Topic) -> bool {
        let id = (self.id_of)(topic);
        let published = self.publishers_of.range((id, Serial(u64::MIN))..=(id, Serial(u64::MAX))).next();
        let published =
            published.and_then(|(_, serial)| self.publishers.get(serial)).map(|known| &known.topic);
        let subscribed = self.exact_of(id).next().and_then(|(_, query)| query.pattern.exact());
        // All that are registered under one id have one name: the first tells it.
        published.into_iter().chain(subscribed).any(|known| known != topic)
    }

    fn exact_of(&self, id: TopicId) -> impl Iterator<Item = (&(TopicId, MemberId, PortId), &Query)> {
        let first = (id, MemberId(u64::MIN), PortId(u64::MIN));
        let last = (id, MemberId(u64::MAX), PortId(u64::MAX));
        self.exact.range(first..=last)
    }

    pub(super) fn add_publisher(&mut self, publisher: Publisher) -> Serial {
        self.last.0 += 1;
        self.publishers_of.insert(((self.id_of)(&publisher.topic), self.last));
        self.publishers.insert(self.last, publisher);
        self.last
    }

    pub(super) fn remove_publisher(&mut self, serial: Serial) -> Option<Publisher> {
        let publisher = self.publishers.remove(&serial)?;
        let listed = self.publishers_of.remove(&((self.id_of)(&publisher.topic), serial));
        assert!(listed, "a publisher is in both lists or in none");
        Some(publisher)
    }

    pub(super) fn publisher(&self, serial: Serial) -> Option<&Publisher> {
        self.publishers.get(&serial)
    }

    pub(super) fn add_subscription(&mut self, member: MemberId, port: PortId, query: Query) {
        match query.pattern.exact().map(self.id_of) {
            Some(id) => drop(self.exact.insert((id, member, port), query)),
            None => drop(self.patterns.insert((member, port), query)),
        }
    }

    pub(super) fn remove_subscription(&mut self, member: MemberId, port: PortId, pattern: &Pattern) {
        let removed = match pattern.exact() {
            Some(topic) => self.exact.remove(&((self.id_of)(topic), member, port)).is_some(),
            None => self.patterns.remove(&(member, port)).is_some(),
        };
        assert!(removed, "what a member registered is in the index");
    }

    /// Every subscription that a publisher, or a relay, matches.
    pub(super) fn subscriptions_of(&self, publisher: &Publisher) -> Vec<(MemberId, PortId)> {
        let exact = self.exact_of((self.id_of)(&publisher.topic));
        let exact = exact
            .filter(|(_, query)| query.matches(publisher))
            .map(|((_, member, port), _)| (*member, *port));
        let patterns =
            self.patterns.iter().filter(|(_, query)| query.matches(publisher)).map(|(key, _)| *key);
        exact.chain(patterns).collect()
    }

    /// The first publisher behind `seen` that matches; `seen` moves over all that were looked at, `visits` counts
    /// them down and the search stops at 0.
    pub(super) fn next_publisher(
        &self,
        query: &Query,
        seen: &mut Serial,
        visits: &mut usize,
    ) -> Option<(Serial, &Publisher)> {
        let check = |serial: Serial, seen: &mut Serial, visits: &mut usize| {
            *visits = visits.saturating_sub(1);
            *seen = serial;
            let publisher = self.publishers.get(&serial).expect("a publisher is in both lists or in none");
            query.matches(publisher).then_some((serial, publisher))
        };
        if let Some(topic) = query.pattern.exact() {
            let id = (self.id_of)(topic);
            let (from, to) = (Excluded((id, *seen)), Included((id, Serial(u64::MAX))));
            for (_, serial) in self.publishers_of.range((from, to)) {
                if let Some(found) = check(*serial, seen, visits) {
                    return Some(found);
                }
                if *visits == 0 {
                    return None;
                }
            }
            return None;
        }
        for serial in self.publishers.range((Excluded(*seen), Unbounded)).map(|(serial, _)| *serial) {
            if let Some(found) = check(serial, seen, visits) {
                return Some(found);
            }
            if *visits == 0 {
                return None;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Index, Meets, Publisher, Query, Serial};
    use crate::control::rendezvous::MemberId;
    use busway_wire::{Generation, Pattern, PortId, RingIndex, Topic};

    fn query(pattern: Pattern) -> Query {
        Query { pattern, export: false, meets: Meets::Subscribers, group: None }
    }

    /// A publisher of this topic that nobody has registered.
    fn asking(topic: &Topic) -> Publisher {
        Publisher {
            member: MemberId(9),
            port: PortId(u64::MAX),
            topic: topic.clone(),
            ring: RingIndex(0),
            generation: Generation(1),
            created_ns: 0,
            relay: false,
            meets: Meets::Subscribers,
            only: None,
        }
    }

    fn filled(count: u32) -> Index {
        let mut index = Index::default();
        for n in 0..count {
            let topic = Topic::new(&format!("load.t{n}")).unwrap();
            let port = PortId(u64::from(n));
            index.add_subscription(MemberId(1), port, query(Pattern::Exact(topic.clone())));
            index.add_publisher(Publisher {
                member: MemberId(1),
                port,
                topic,
                ring: RingIndex(n),
                generation: Generation(0),
                created_ns: 0,
                relay: false,
                meets: Meets::Subscribers,
                only: None,
            });
        }
        index
    }

    /// Entries that a query for the topic visits until it has its whole answer.
    fn visits(index: &Index, topic: &Topic) -> usize {
        let (mut seen, mut visits) = (Serial::default(), usize::MAX);
        let asked = query(Pattern::Exact(topic.clone()));
        while index.next_publisher(&asked, &mut seen, &mut visits).is_some() {}
        usize::MAX - visits
    }

    #[test]
    fn a_look_up_among_100_000_visits_as_many_entries_as_among_10() {
        let topic = Topic::new("load.t7").unwrap();
        for count in [10, 100_000] {
            let index = filled(count);
            assert_eq!(visits(&index, &topic), 1, "among {count} publishers");
            assert_eq!(
                index.subscriptions_of(&asking(&topic)),
                [(MemberId(1), PortId(7))],
                "among {count} subscribers"
            );
            let absent = Topic::new("load.absent").unwrap();
            assert_eq!(visits(&index, &absent), 0, "among {count} publishers");
            assert!(index.subscriptions_of(&asking(&absent)).is_empty());
        }
    }

    #[test]
    fn a_query_over_everything_stops_at_its_bound_and_goes_on_later() {
        let index = filled(100);
        let asked = query(Pattern::parse("load.*").unwrap());
        let (mut seen, mut found, mut rounds) = (Serial::default(), 0, 0);
        loop {
            let mut visits = 8;
            while visits > 0 && index.next_publisher(&asked, &mut seen, &mut visits).is_some() {
                found += 1;
            }
            rounds += 1;
            if visits > 0 {
                break;
            }
        }
        assert_eq!((found, rounds), (100, 13));
    }
}
