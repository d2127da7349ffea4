//! What must hold of artifacts, whatever goes wrong: judged by what was seen, apart from whoever made it happen.
//!
//! What a user is given was offered, under that name, and comes once. What lies in the store of a sound host is, byte for byte, what was offered: each piece when it is
//! taken in, and all of it when the host says that it has it, by the bytes that were offered and not by a hash. What is offered reaches all who want it and are sound; what was
//! withdrawn is withdrawn everywhere. And what all that cost is counted: on the wire, of use, twice, and after an end.
//!
//! Invariant: a checker changes nothing in the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busway_protocol::Time;
use busway_protocol::artifact::pieces;
use busway_protocol::gossip::{ArtifactId, Fault, Filter, Interest, NodeIndex, Output, Reference};
use busway_wire::Topic;
use busway_wire::gossip::{Content, Slot, Word};

use super::Terms;
use super::host::interest_in;

/// An artifact that was offered.
#[derive(Debug)]
struct Offered {
    topic: Topic,
    id: ArtifactId,
    body: Arc<[u8]>,
    withdrawn: Option<Time>,
}

/// What was seen on the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that left, with a header for each word.
    pub sent: u64,
    /// Words that left.
    pub words: u64,
    /// Bytes of bodies that arrived, in chunks and in offers.
    pub bodies: u64,
    /// Bytes of bodies that users were given.
    pub useful: u64,
}

/// The checkers of one run.
#[derive(Debug, Default)]
pub struct Checks {
    violation: Option<String>,
    nodes: u8,
    hostile: BTreeSet<NodeIndex>,
    filters: BTreeMap<NodeIndex, Filter>,
    offered: BTreeMap<Reference, Offered>,
    /// What each host's user has, and has been told of since that host began.
    has: BTreeMap<NodeIndex, BTreeSet<Reference>>,
    /// How many things are not where they should be, or are where they should not.
    owed: i64,
    /// Requests under way, by who asked and the number.
    requests: BTreeMap<(u8, u64), Reference>,
    /// Bytes of chunks of what was withdrawn that left since then, by receiver, and the most of one.
    after_end: BTreeMap<(u8, Reference), u64>,
    last_change: Time,
    /// What was seen on the lines.
    pub traffic: Traffic,
    /// Whom sound hosts have blamed, and how often.
    pub blamed: BTreeMap<(NodeIndex, Fault), u64>,
}

impl Checks {
    pub(super) fn new(terms: &Terms) -> Checks {
        Checks {
            nodes: terms.nodes,
            hostile: terms.vices.iter().map(|(node, _)| NodeIndex(*node)).collect(),
            filters: terms.wants.iter().map(|(node, filter)| (NodeIndex(*node), filter.clone())).collect(),
            ..Checks::default()
        }
    }

    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// The name of what was offered.
    pub(super) fn id(&self, of: Reference) -> Option<ArtifactId> {
        Some(self.offered.get(&of)?.id)
    }

    fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// How much is not where it should be yet, or where it should not be any more, among sound hosts.
    #[must_use]
    pub fn owed(&self) -> i64 {
        self.owed
    }

    /// The first of what is owed, for people.
    #[must_use]
    pub fn owing(&self) -> String {
        let mut owing = Vec::new();
        for (of, offered) in self.offered.iter().filter(|(of, _)| self.is_sound(of.node)) {
            for node in self.wanting(*of, &offered.topic) {
                let has = self.has.get(&node).is_some_and(|has| has.contains(of));
                if has == offered.withdrawn.is_some() {
                    let what = if has { "was not told of the end of" } else { "has not" };
                    owing.push(format!("{node} {what} {of:?} ({} bytes)", offered.body.len()));
                }
            }
        }
        let count = owing.len();
        owing.truncate(5);
        format!("{count} are owed: {}", owing.join("; "))
    }

    /// When a user was last given something, or told of an end.
    #[must_use]
    pub fn last_change(&self) -> Time {
        self.last_change
    }

    /// The most bytes that one host was sent of one artifact after it had been withdrawn.
    #[must_use]
    pub fn after_end_max(&self) -> u64 {
        self.after_end.values().copied().max().unwrap_or(0)
    }

    fn is_sound(&self, node: NodeIndex) -> bool {
        !self.hostile.contains(&node)
    }

    /// Sound hosts, but for the origin, that want what is on this topic.
    fn wanting(&self, of: Reference, topic: &Topic) -> impl Iterator<Item = NodeIndex> + use<'_> {
        let wanted =
            matches!(interest_in(topic.as_str()), Interest::Later | Interest::Fetch | Interest::FetchNow);
        let topic = topic.clone();
        (0..self.nodes).map(NodeIndex).filter(move |node| {
            let filter = self.filters.get(node);
            let told =
                filter.is_none_or(|filter| filter.patterns.iter().any(|pattern| pattern.matches(&topic)));
            wanted && told && *node != of.node && self.is_sound(*node)
        })
    }

    pub(super) fn offered(&mut self, of: Reference, topic: Topic, body: Arc<[u8]>) {
        if self.is_sound(of.node) {
            self.owed += i64::try_from(self.wanting(of, &topic).count()).unwrap_or(0);
        }
        let id = ArtifactId::of(&body);
        self.offered.insert(of, Offered { topic, id, body, withdrawn: None });
    }

    pub(super) fn withdrawn(&mut self, now: Time, of: Reference) {
        let Some(offered) = self.offered.get_mut(&of).filter(|offered| offered.withdrawn.is_none()) else {
            return;
        };
        offered.withdrawn = Some(now);
        let topic = offered.topic.clone();
        if self.is_sound(of.node) {
            let wanting: Vec<NodeIndex> = self.wanting(of, &topic).collect();
            let has =
                wanting.iter().filter(|node| self.has.get(node).is_some_and(|has| has.contains(&of))).count();
            // Those that have not got it need not, those that have must hear of the end.
            self.owed -= i64::try_from(wanting.len() - has).unwrap_or(0);
            self.owed += i64::try_from(has).unwrap_or(0);
        }
    }

    /// A host begins with nothing: nothing that it offered is offered any more, and it is owed all that others offer.
    pub(super) fn restarted(&mut self, now: Time, node: NodeIndex) {
        let own: Vec<Reference> = self.offered.keys().filter(|of| of.node == node).copied().collect();
        for of in own {
            self.withdrawn(now, of);
        }
        for of in self.has.remove(&node).unwrap_or_default() {
            let Some(offered) = self.offered.get(&of) else { continue };
            if self.is_sound(of.node) && self.is_sound(node) {
                self.owed += if offered.withdrawn.is_none() { 1 } else { -1 };
            }
        }
    }

    pub(super) fn output(&mut self, now: Time, node: NodeIndex, output: Output) {
        if !self.is_sound(node) {
            return;
        }
        match output {
            // What lies in its store is looked at, too.
            Output::Stored { .. } => {}
            Output::Received { advert, body } => self.received(now, node, advert.of, (advert.id, &body)),
            Output::Gone { of } => {
                let had = self.has.get_mut(&node).is_some_and(|has| has.remove(&of));
                if !had || !self.is_sound(of.node) {
                    return;
                }
                self.last_change = now;
                match self.offered.get(&of) {
                    Some(offered) if offered.withdrawn.is_some() => self.owed -= 1,
                    // It is true for who has no line to the origin, until it has one again.
                    Some(_) => self.owed += 1,
                    None => self.violate(|| format!("{node} is told of the end of {of:?}, which never was")),
                }
            }
            Output::Blame { node: whom, fault } => {
                if self.is_sound(whom) && !matches!(fault, Fault::Stalled) {
                    self.violate(|| format!("{node} blames {whom}, which is sound: {fault:?}"));
                }
                *self.blamed.entry((whom, fault)).or_default() += 1;
            }
            Output::Damaged { of } => self.violate(|| format!("{node} has lost a part of {of:?}")),
            Output::Full { .. } | Output::Begun { .. } | Output::Reached { .. } | Output::Expired { .. } => {}
        }
    }

    /// A host has put a piece of an artifact into its store.
    pub(super) fn taken_in(&mut self, node: NodeIndex, id: ArtifactId, (index, piece): (u32, &[u8])) {
        let Some(offered) = self.offered.values().find(|offered| offered.id == id) else { return };
        let at = pieces::place(offered.body.len() as u64, index).map(|(offset, _)| offset);
        let at = at.and_then(|at| usize::try_from(at).ok());
        let same = at.and_then(|at| offered.body.get(at..)?.get(..piece.len())) == Some(piece);
        if !same && self.is_sound(node) {
            self.violate(|| format!("{node} keeps other bytes than were offered as piece {index} of {id}"));
        }
    }

    /// A host says that it has all of an artifact; what lies in its store.
    pub(super) fn stored(
        &mut self,
        now: Time,
        node: NodeIndex,
        (of, id): (Reference, ArtifactId),
        body: &[u8],
    ) {
        if self.is_sound(node) {
            self.received(now, node, of, (id, body));
        }
    }

    fn received(&mut self, now: Time, node: NodeIndex, of: Reference, (id, body): (ArtifactId, &[u8])) {
        let known =
            self.offered.get(&of).is_some_and(|offered| offered.id == id && offered.body[..] == *body);
        if !known && id != ArtifactId::of(body) {
            return self.violate(|| format!("{node} is given bytes that are not {id}"));
        }
        if !self.has.entry(node).or_default().insert(of) {
            return self.violate(|| format!("{node} is given {of:?} twice"));
        }
        if !self.is_sound(of.node) {
            return;
        }
        let Some(offered) = self.offered.get(&of) else {
            return self.violate(|| format!("{node} is given {of:?}, which nobody offered"));
        };
        let (same, withdrawn) = (offered.body[..] == *body, offered.withdrawn.is_some());
        self.last_change = now;
        self.owed += if withdrawn { 1 } else { -1 };
        self.traffic.useful += body.len() as u64;
        if !same {
            self.violate(|| format!("{node} is given other bytes than were offered as {of:?}"));
        }
    }

    pub(super) fn sent(&mut self, now: Time, (from, to): (u8, u8), word: &Word, size: u64) {
        self.traffic.sent += size;
        self.traffic.words += 1;
        match word {
            Word::Request { request, of, .. } => {
                self.requests.insert((from, *request), *of);
            }
            Word::Chunk { request, .. } => {
                let Some(of) = self.requests.get(&(to, *request)).copied() else { return };
                let ended = self.offered.get(&of).and_then(|offered| offered.withdrawn);
                if ended.is_some_and(|ended| ended < now) {
                    *self.after_end.entry((to, of)).or_default() += size;
                }
            }
            _ => {}
        }
    }

    pub(super) fn arrived(&mut self, (_, to): (u8, u8), word: &Word, following: &[u8]) {
        let inside = |slots: &[Slot]| -> u64 {
            let bodies = slots.iter().filter_map(|slot| match &slot.offer.as_ref()?.content {
                Content::Inside { body } => Some(body.len() as u64),
                Content::Apart { .. } => None,
            });
            bodies.sum()
        };
        if !self.is_sound(NodeIndex(to)) {
            return;
        }
        self.traffic.bodies += match word {
            Word::Tell(tell) => inside(&tell.slots),
            Word::Describe(describe) => inside(&describe.slots),
            Word::Chunk { .. } => following.len() as u64,
            _ => 0,
        };
    }
}
