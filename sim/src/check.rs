//! What must hold, whatever goes wrong: judged by what was seen, apart from whoever made it happen.
//!
//! Order: a user is told of a source one rising line without a hole; of a reliable source no message is lost, ever.
//! Bounds: nothing is held beyond what was granted. Blame: nobody breaks the protocol while the network does not.
//! The first violation is kept.
//!
//! Invariant: a checker changes nothing in the run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use busway_protocol::{PeerId, Time};
use busway_wire::{Cause, PortId};

use crate::crowd::Crowd;
use crate::message::{Which, place_of};
use crate::seen::{Budget, Seen};
use crate::subscriber::Told;

/// What has been published by one source, and what was seen of it since: at each message one place of memory is looked
/// at, and the lists are as short as there are hosts and subscribers that have to do with it.
#[derive(Debug)]
struct Published {
    source: PortId,
    host: usize,
    reliable: bool,
    count: u64,
    /// Of the last ones.
    sizes: VecDeque<u32>,
    /// Its relay rings, by host and number, and what stood last in each.
    relays: Vec<((usize, u64), u64)>,
    /// By host.
    pushed: Vec<(usize, Pushed)>,
    /// By subscriber.
    lines: Vec<(u64, Line)>,
}

/// The entry of this key, made if it is new.
fn entry<K: Copy + PartialEq, V: Default>(list: &mut Vec<(K, V)>, key: K) -> &mut V {
    let at = list.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
        list.push((key, V::default()));
        list.len() - 1
    });
    &mut list[at].1
}

/// The entry of this key.
fn find<K: PartialEq, V>(list: &[(K, V)], key: K) -> Option<&V> {
    list.iter().find(|(other, _)| *other == key).map(|(_, value)| value)
}

/// What one user has been told of one source.
#[derive(Debug, Default)]
struct Line {
    first: u64,
    last: u64,
    messages: u64,
    lost: u64,
}

/// What stood last in any relay ring of a source on a host, and how often the two nodes had died then.
#[derive(Clone, Copy, Debug, Default)]
struct Pushed {
    last: u64,
    deaths: Deaths,
}

/// Of the publisher's node, and of the subscriber's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Deaths {
    near: u64,
    far: u64,
}

impl Deaths {
    /// Whether both nodes have forgotten what they knew since.
    fn both_since(self, earlier: Deaths) -> bool {
        self.near > earlier.near && self.far > earlier.far
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    first: u64,
    at: Time,
    /// It was closed at least once, so that not everything was owed.
    interrupted: bool,
}

/// The checkers of one run.
#[derive(Debug, Default)]
pub struct Checks {
    violation: Option<String>,
    kept_sizes: usize,
    /// By the place in their ids.
    published: Vec<Published>,
    rows: BTreeMap<(PortId, PeerId), Row>,
    subscribed: BTreeMap<u64, (usize, Time)>,
    attached: BTreeSet<(u64, PortId)>,
    deaths: BTreeMap<usize, u64>,
    /// How often a host's node had died when it was started under this name.
    instances: BTreeMap<u64, u64>,
    /// Whose messages a host receives: those of that start of the other host's node.
    linked: BTreeMap<(usize, usize), u64>,
    /// Where a hole begins that nobody can know of, because both nodes died.
    forgotten: BTreeSet<(usize, PortId, u64)>,
    /// Nodes that have forgotten a client with all they knew of it.
    estranged: BTreeSet<(usize, usize)>,
    /// Clients that had to give way to others.
    pub evicted: u64,
    peaks: BTreeMap<Budget, (u64, u64)>,
    /// Holes by cause; the last is of those that nobody told of.
    pub holes: [u64; Cause::COUNT + 1],
    /// Messages that users were told of.
    pub delivered: u64,
}

impl Checks {
    /// Checkers that have seen nothing, and remember so many sizes of each source.
    #[must_use]
    pub fn new(kept_sizes: usize) -> Checks {
        Checks { kept_sizes, ..Checks::default() }
    }

    /// A node begins.
    pub fn started(&mut self, host: usize, instance: u64) {
        let deaths = self.deaths.get(&host).copied().unwrap_or(0);
        self.instances.insert(instance, deaths);
    }

    /// A publisher begins.
    pub fn source(&mut self, source: PortId, host: usize, reliable: bool) {
        assert_eq!(place_of(source), self.published.len(), "sources are told of in their order");
        let (sizes, relays) = (VecDeque::new(), Vec::new());
        let (pushed, lines) = (Vec::new(), Vec::new());
        self.published.push(Published { source, host, reliable, count: 0, sizes, relays, pushed, lines });
    }

    /// A subscriber begins.
    pub fn subscriber(&mut self, now: Time, subscriber: u64, host: usize) {
        self.subscribed.insert(subscriber, (host, now));
    }

    /// A subscriber has left: nothing is owed to it.
    pub fn unsubscribed(&mut self, subscriber: u64) {
        self.subscribed.remove(&subscriber);
    }

    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Keeps a violation if it is the first.
    pub fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// The most that was held of each budget, and its bound then.
    pub fn peaks(&self) -> impl Iterator<Item = (Budget, u64, u64)> {
        self.peaks.iter().map(|(&budget, &(held, bound))| (budget, held, bound))
    }

    /// Messages that were published.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.published.iter().map(|published| published.count).sum()
    }

    /// How many messages a subscriber was told of, and how many that are lost.
    #[must_use]
    pub fn told_to(&self, subscriber: u64) -> (u64, u64) {
        let theirs = self
            .published
            .iter()
            .filter_map(|published| published.lines.iter().find(|(number, _)| *number == subscriber));
        theirs.fold((0, 0), |sum, (_, line)| (sum.0 + line.messages, sum.1 + line.lost))
    }

    /// Takes one fact; `spoiled` says of which connections the network has changed bytes.
    pub fn see(&mut self, now: Time, seen: Seen, spoiled: impl Fn(u64) -> bool) {
        match seen {
            Seen::Published { source, sequence, size } => self.publish(source, sequence, size),
            Seen::RowOpened { source, peer, first } => {
                let interrupted = self.rows.contains_key(&(source, peer));
                self.rows.insert((source, peer), Row { first, at: now, interrupted });
            }
            Seen::RowClosed { source, peer } => {
                if let Some(row) = self.rows.get_mut(&(source, peer)) {
                    row.interrupted = true;
                }
            }
            Seen::RelayOpened { host, ring, source, reliable } => {
                if self.of(source).is_none_or(|published| published.reliable != reliable) {
                    self.violate(|| format!("host {host} has a relay ring of {source}, announced wrongly"));
                }
                if let Some(published) = self.of_mut(source) {
                    *entry(&mut published.relays, (host, ring)) = 0;
                }
            }
            Seen::RelayPushed { host, ring, source, first, last } => {
                self.relay_pushed((host, ring), source, (first, last));
            }
            Seen::Attached { subscriber, source, .. } => {
                self.attached.insert((subscriber, source));
            }
            Seen::Told { host, subscriber, source, told } => self.told(host, subscriber, source, told),
            Seen::Held { host, what, held, bound } => {
                if held > bound {
                    let name = what.name();
                    self.violate(|| format!("host {host} holds {held} {name}, and may hold {bound}"));
                }
                let peak = self.peaks.entry(what).or_default();
                *peak = (*peak).max((held, bound));
            }
            Seen::Linked { host, peer, instance } => {
                let near = self.instances.get(&instance).copied().unwrap_or(0);
                self.linked.insert((host, Crowd::host_of(peer)), near);
            }
            Seen::Evicted { .. } => self.evicted += 1,
            Seen::Forgotten { host, peer } => {
                self.estranged.insert((host, Crowd::host_of(peer)));
                for (_, row) in self.rows.iter_mut().filter(|((_, of), _)| *of == peer) {
                    row.interrupted = true;
                }
            }
            Seen::Died { host } => *self.deaths.entry(host).or_default() += 1,
            Seen::Blamed { host, connection, what } => {
                if !spoiled(connection) {
                    self.violate(|| format!("host {host} blames its peer on a sound connection: {what}"));
                }
            }
            Seen::Broken { host, what } => self.violate(|| format!("on host {host}: {what}")),
        }
    }

    fn publish(&mut self, source: PortId, sequence: u64, size: usize) {
        let kept = self.kept_sizes;
        let Some(published) = self.of_mut(source) else { return };
        published.sizes.push_back(u32::try_from(size).unwrap_or(u32::MAX));
        published.count += 1;
        if published.sizes.len() > kept {
            published.sizes.pop_front();
        }
        assert_eq!(published.count, sequence, "a publisher counts its messages");
    }

    fn relay_pushed(&mut self, ring: (usize, u64), source: PortId, (first, last): (u64, u64)) {
        let host = ring.0;
        let mut deaths = self.deaths_of(source, host);
        let near = self.of(source).and_then(|published| self.linked.get(&(host, published.host)));
        // What comes from a host may have been sent by a node that has died since.
        deaths.near = near.copied().unwrap_or(deaths.near);
        let Some(published) = self.of_mut(source) else { return };
        let previous = std::mem::replace(entry(&mut published.relays, ring), last);
        let pushed = entry(&mut published.pushed, host);
        let older = std::mem::replace(pushed, Pushed { last, deaths });
        if older.last > 0 && first > older.last + 1 && deaths.both_since(older.deaths) {
            self.forgotten.insert((host, source, older.last + 1));
        }
        if first > last || (previous > 0 && first != previous + 1) {
            self.violate(|| {
                format!("in the relay ring of {source} on host {host}, {first} to {last} follows {previous}")
            });
        }
    }

    fn told(&mut self, host: usize, subscriber: u64, source: PortId, told: Told) {
        let Some(published) = self.of(source) else {
            return self.violate(|| format!("subscriber {subscriber} has a message of unknown {source}"));
        };
        let (reliable, count) = (published.reliable, published.count);
        let (first, last) = match &told {
            Told::Message { sequence, .. } => (*sequence, *sequence),
            Told::Hole { from, to, .. } => (*from, *to),
        };
        let sound = match &told {
            Told::Message { sequence, payload } => {
                let gone = count - published.sizes.len() as u64;
                let index = usize::try_from(sequence.wrapping_sub(1 + gone)).unwrap_or(usize::MAX);
                published.sizes.get(index).is_some_and(|&size| {
                    Which { source, sequence: *sequence, size: size as usize }.is(payload)
                })
            }
            Told::Hole { .. } => true,
        };
        let estranged = self.are_estranged(published.host, host);
        let Some(published) = self.of_mut(source) else { return };
        let line = entry(&mut published.lines, subscriber);
        let expected = line.last + 1;
        let fresh = line.last == 0;
        if fresh {
            line.first = first;
        }
        line.last = last;
        let who = || format!("subscriber {subscriber} on host {host}, source {source}");
        match &told {
            Told::Message { .. } => line.messages += 1,
            Told::Hole { .. } => line.lost += last - first + 1,
        }
        match &told {
            Told::Message { sequence, .. } => {
                self.delivered += 1;
                if !sound {
                    self.violate(|| format!("{}: message {sequence} is not what was published", who()));
                }
            }
            Told::Hole { cause, .. } => {
                self.holes[cause.map_or(Cause::COUNT, Cause::index)] += 1;
                if reliable {
                    self.violate(|| {
                        format!("{}: {first} to {last} of a reliable source lost ({cause:?})", who())
                    });
                }
                let forgotten = estranged || self.forgotten.contains(&(host, source, expected));
                if cause.is_none() && !forgotten {
                    self.violate(|| format!("{}: nobody told why {first} to {last} are missing", who()));
                }
            }
        }
        if !fresh && first != expected {
            self.violate(|| format!("{}: {first} follows {}", who(), expected - 1));
        }
        if last > count {
            self.violate(|| format!("{}: told of {last}, of {count} that were published", who()));
        }
    }

    /// Whether one of the two has forgotten the other.
    #[must_use]
    pub fn are_estranged(&self, one: usize, other: usize) -> bool {
        self.estranged.contains(&(one, other)) || self.estranged.contains(&(other, one))
    }

    fn of(&self, source: PortId) -> Option<&Published> {
        self.published.get(place_of(source)).filter(|published| published.source == source)
    }

    fn of_mut(&mut self, source: PortId) -> Option<&mut Published> {
        self.published.get_mut(place_of(source)).filter(|published| published.source == source)
    }

    fn deaths_of(&self, source: PortId, far: usize) -> Deaths {
        let of = |host: usize| self.deaths.get(&host).copied().unwrap_or(0);
        let near = self.of(source).map_or(0, |published| of(published.host));
        Deaths { near, far: of(far) }
    }

    /// When all is quiet: nothing that was owed is missing.
    pub fn finish(&mut self) {
        let mut missing = None;
        for (&(source, peer), row) in &self.rows {
            let index = Crowd::host_of(peer);
            let Some(published) = self.of(source) else { continue };
            let count = published.count;
            let deaths = self.deaths_of(source, index);
            let pushed = find(&published.pushed, index);
            let estranged = self.are_estranged(published.host, index);
            let forgotten = estranged || pushed.is_none_or(|pushed| deaths.both_since(pushed.deaths));
            if row.interrupted && published.reliable || row.first > count {
                continue;
            }
            for (&subscriber, &(host, since)) in &self.subscribed {
                let theirs = self.attached.contains(&(subscriber, source));
                if host != index || since > row.at || !theirs {
                    continue;
                }
                let line = find(&published.lines, subscriber);
                let (first, last) = line.map_or((0, 0), |line| (line.first, line.last));
                let excused = !published.reliable && forgotten;
                let wrong_start = published.reliable && first != row.first;
                if (last != count || wrong_start) && !excused {
                    missing = Some(format!(
                        "subscriber {subscriber} on host {host} was told {first} to {last} of source {source}, \
                         and was owed {} to {count}",
                        row.first
                    ));
                }
            }
        }
        if let Some(missing) = missing {
            self.violate(|| missing);
        }
    }
}
