//! Artifacts, from the node that offers them to all who want them: who has what, who is told, who is asked.
//!
//! A node has a table of slots; what it offers stands there until it is withdrawn, replaced, or has reached all. State is repeated, not messages:
//! of each peer it is known up to which version it knows the table, and a change takes the place of the one before it, so that a peer
//! that is slow, or was away, is told what stands there now and nothing that no longer does. Small bodies stand in the table; larger ones are
//! asked for, of whoever says that it has them. What a node has from others it names by marks, late, and not to who has it.
//!
//! Words, events and the time go in; words, bodies and requests for a judgement come out. A peer is told and given what goes out now when its link
//! has room for it ([`Gossip::transmit`]), so that nothing queues here: what waits is a version and some bits for each peer. It knows no
//! links, no files and nothing of what is in an artifact.
//!
//! Invariant: of each slot one change is under way to each peer at most. Every change that comes is handled, coalesced or dropped by a cause.
//! Nobody is given bytes that were not asked for, but small ones, once, by their origin. What is kept for a peer is within its budget, whatever
//! it says, and what it says of others is believed less than what those say.

mod due;
mod hear;
mod known;
mod nodes;
mod peer;
mod pulls;
mod reader;
mod table;
mod words;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

pub use busway_wire::gossip::{ArtifactId, Epoch, Filter, NodeIndex, Reference, SlotNumber, Word};
use busway_wire::gossip::{Describe, Exchange, Since};
use busway_wire::limits::{
    ARTIFACT_CHUNK_BYTES, GOSSIP_AGAIN_MS, GOSSIP_MARKS_INSIDE_MS, GOSSIP_MARKS_MS, GOSSIP_SERVED_MAX,
    GOSSIP_WORD_BYTES_MAX,
};

use crate::artifact::Travel;
use crate::flow::{Charge, Flow, Flows};
use crate::time::{PeerId, Time};
use due::Due;
use known::{Gone, Key, Known};
pub use nodes::Nodes;
use peer::Peer;
use pulls::{Order, Pulls};
use reader::Reader;
use table::Table;
pub use words::{
    Advert, Config, Counts, Fault, Input, Interest, Lane, OfferError, Offering, Output, Said, Usage, Why,
};

/// When to come back, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Something is to be said to a peer.
    Say,
    /// A peer is late, or may be asked again.
    Pull,
    /// The time of an offer is up.
    Expire,
    /// There may be room for what was dropped.
    Recover,
}

/// What a slot that was dropped needs at most, so that it is worth asking for it again.
const ROOM_BYTES: u64 = 4 << 10;

/// The part of one node.
///
/// ```
/// use busway_protocol::Time;
/// use busway_protocol::gossip::{Config, Epoch, Gossip, Input, Lane, NodeIndex, Nodes, Offering, Word};
/// let other = NodeIndex(1);
/// let mut node = Gossip::new(Config::new(NodeIndex(0), Epoch(1), [other].into_iter().collect::<Nodes>()));
/// node.offer(Time(0), Offering::new("block.new".parse()?, b"body"[..].into()))?;
/// node.handle(Time(0), Input::PeerUp { node: other }, &mut Vec::new());
/// let said = node.transmit(Time(0), other, Lane::Advert).expect("the first word on a link");
/// assert!(matches!(said.word, Word::Exchange(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Gossip {
    config: Config,
    table: Table,
    known: Known,
    pulls: Pulls,
    peers: BTreeMap<NodeIndex, Peer>,
    flows: Flows,
    /// What is wanted and has no room.
    starved: BTreeSet<Key>,
    recover_at: Option<Time>,
    counts: Counts,
    /// Memory for what is to be asked.
    orders: Vec<Order>,
}

impl Gossip {
    /// A node that offers nothing and knows nobody.
    #[must_use]
    pub fn new(config: Config) -> Gossip {
        Gossip {
            table: Table::new(config.slots_max, config.bytes_max),
            known: Known::default(),
            pulls: Pulls::new(config.seed),
            peers: BTreeMap::new(),
            flows: Flows::new(config.limits),
            starved: BTreeSet::new(),
            recover_at: None,
            counts: Counts::default(),
            orders: Vec::new(),
            config,
        }
    }

    /// Takes what has happened, and says in `out` what follows. What is to be sent is asked for by [`Gossip::transmit`].
    pub fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Vec<Output>) {
        match input {
            Input::PeerUp { node } => {
                self.peers.insert(node, Peer::new());
                self.pulls.linked(node);
            }
            Input::PeerDown { node } => {
                self.peers.remove(&node);
                self.pulls.unlinked(node);
            }
            Input::Word { from, word, following } => self.hear(now, from, word, following, out),
            Input::Withdraw { slot } => {
                self.count_replaced(slot);
                self.table.withdraw(now, slot);
            }
            Input::Judged { of, interest } => self.judge(now, of, interest, out),
            Input::Reconsider => self.known.reconsider(),
            Input::Tick => self.tick(now, out),
        }
        self.feed();
        self.schedule(now);
    }

    /// Offers an artifact. It is told to who is linked now, and to who will be.
    ///
    /// # Errors
    /// Why it is not offered; then nothing has changed.
    pub fn offer(&mut self, now: Time, offering: Offering) -> Result<SlotNumber, OfferError> {
        let replaced = offering.instead_of;
        let version = replaced.and_then(|slot| self.table.slot(slot)).map(|own| own.version);
        let slot = self.table.offer(now, offering)?;
        if let Some(version) = version {
            self.count_missed(version);
        }
        Ok(slot)
    }

    /// The next advert that the user is to judge, by [`Input::Judged`].
    pub fn next_advert(&mut self) -> Option<Advert> {
        self.known.next_advert()
    }

    /// What is to be said to a peer now on this lane. To be called again while something comes and the link has room. Lanes
    /// before it go first.
    pub fn transmit(&mut self, now: Time, to: NodeIndex, lane: Lane) -> Option<Said> {
        match lane {
            Lane::Advert => self.say(now, to).map(Said::word),
            Lane::Request => self.peers.get_mut(&to)?.requests.pop_front().map(Said::word),
            Lane::Chunk => self.give(to),
        }
    }

    /// Whether `transmit` may have something for this peer.
    #[must_use]
    pub fn has_output(&self, to: NodeIndex) -> bool {
        self.peers.get(&to).is_some_and(|peer| peer.has_output(self.table.version()))
    }

    /// When [`Input::Tick`] is wanted next, and for what.
    #[must_use]
    pub fn deadline(&self) -> Option<(Time, Reason)> {
        let say = self.peers.values().filter_map(Peer::deadline).min().map(|at| (at, Reason::Say));
        let pull = self.pulls.deadline().map(|at| (at, Reason::Pull));
        let expire = self.table.deadline().map(|at| (at, Reason::Expire));
        let recover = self.recover_at.map(|at| (at, Reason::Recover));
        [say, pull, expire, recover].into_iter().flatten().min()
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What is in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (own_slots, own_bytes) = self.table.usage();
        let (requests, hedged, waiting) = self.pulls.usage();
        let in_use = |flow| self.flows.usage(flow).in_use.bytes;
        Usage {
            own_slots,
            own_bytes,
            slots: self.known.len(),
            slots_bytes: in_use(Flow::Advert),
            body_bytes: in_use(Flow::Chunk),
            requests,
            waiting: waiting + self.starved.len(),
            hedged,
        }
    }

    /// How far we know a node's table, and how many changes of ours are under way to it.
    #[must_use]
    pub fn progress(&self, node: NodeIndex) -> (Option<Since>, usize) {
        let reader = self.peers.get(&node).and_then(|peer| peer.reader.as_ref());
        (self.since(node), reader.map_or(0, Reader::under_way))
    }

    /// An artifact that is here, ours or another's.
    #[must_use]
    pub fn body(&self, of: Reference) -> Option<Arc<[u8]>> {
        if of.node != self.config.node {
            return self.known.artifact(of)?.body.clone();
        }
        let own = self.table.slot(of.slot).filter(|own| own.version == of.version)?;
        let offered = own.offered.as_ref().filter(|_| of.epoch == self.config.epoch)?;
        Some(offered.body.clone())
    }

    /// A slot of ours as others know it, if anything stands in it.
    #[must_use]
    pub fn own(&self, slot: SlotNumber) -> Option<Reference> {
        let version = self.table.slot(slot).filter(|own| own.offered.is_some())?.version;
        Some(Reference { node: self.config.node, epoch: self.config.epoch, slot, version })
    }

    fn since(&self, node: NodeIndex) -> Option<Since> {
        let origin = self.known.origins.get(&node)?;
        let (slots, marks) = origin.since();
        Some(Since { epoch: origin.epoch, slots, marks })
    }

    /// Where our own table is.
    fn ours(&self) -> Since {
        Since { epoch: self.config.epoch, slots: self.table.version(), marks: self.known.marked }
    }

    fn say(&mut self, now: Time, to: NodeIndex) -> Option<Word> {
        let since = self.peers.get(&to)?.exchange == Due::Now;
        let since = if since {
            self.known.asked_again(to);
            self.since(to)
        } else {
            None
        };
        let peer = self.peers.get_mut(&to)?;
        if peer.exchange.take() {
            let filter = self.config.filter.clone();
            return Some(Word::Exchange(Exchange { epoch: self.config.epoch, since, filter }));
        }
        if peer.handled.take() {
            return Some(Word::Handled { tells: peer.tells });
        }
        if let Some(describe) = next_description(peer, &self.known) {
            return Some(Word::Describe(describe));
        }
        let reader = peer.reader.as_mut()?;
        if reader.has_news(self.table.version())
            && let Some(tell) = reader.tell(now, &self.table)
        {
            self.counts.said += tell.slots.len() as u64;
            return Some(Word::Tell(tell));
        }
        if reader.marks_due.take()
            && let Some(marks) = self.known.next_marks(now, to, reader, &mut self.flows)
        {
            self.counts.marks_said += marks.of.iter().map(|of| of.marks.len() as u64).sum::<u64>();
            return Some(Word::Marks(marks));
        }
        if !peer.asks_due.take() {
            return None;
        }
        let known = &self.known;
        let of = peer.next_asks(|of| {
            known.entry(Key::of(*of)).is_none_or(|entry| entry.version < of.version)
                && known.origins.get(&of.node).is_none_or(|origin| origin.epoch <= of.epoch)
        });
        (!of.is_empty()).then_some(Word::Ask { of })
    }

    /// The next bytes for a peer that asked for them.
    fn give(&mut self, to: NodeIndex) -> Option<Said> {
        loop {
            let peer = self.peers.get(&to).filter(|peer| peer.requests.len() < GOSSIP_SERVED_MAX)?;
            let serving = peer.serving.front().copied()?;
            let body = self.body(serving.of);
            let peer = self.peers.get_mut(&to)?;
            let start = usize::try_from(serving.offset).unwrap_or(usize::MAX);
            let Some(body) = body.filter(|body| start < body.len()) else {
                peer.serving.pop_front();
                peer.requests.push_back(Word::NotFound { request: serving.request });
                continue;
            };
            let end = body.len().min(start + ARTIFACT_CHUNK_BYTES);
            if end == body.len() {
                peer.serving.pop_front();
            } else if let Some(serving) = peer.serving.front_mut() {
                serving.offset = end as u64;
            }
            self.counts.bytes_given += (end - start) as u64;
            let word = Word::Chunk { request: serving.request, offset: serving.offset };
            return Some(Said { word, following: Some((body, start..end)) });
        }
    }

    fn judge(&mut self, now: Time, of: Reference, interest: Interest, out: &mut Vec<Output>) {
        let key = Key::of(of);
        if self.known.artifact(of).is_none_or(|artifact| artifact.received) {
            return;
        }
        if interest == Interest::Drop {
            self.unwant(key);
            if self.known.decline(key, &mut self.flows) {
                self.known.mark(key);
                self.marks_by(now, GOSSIP_MARKS_MS);
            }
            return;
        }
        let Some(entry) = self.known.entry_mut(key) else { return };
        let Some(artifact) = entry.artifact.as_deref_mut() else { return };
        artifact.interest = Some(interest);
        match (artifact.body.clone(), interest) {
            (_, Interest::Drop) => {}
            (_, Interest::Stash) => self.unwant(key),
            (Some(body), Interest::Later | Interest::Fetch | Interest::FetchNow) => {
                self.received(now, key, body, out);
            }
            (None, Interest::Later | Interest::Fetch | Interest::FetchNow) => {
                self.starved.insert(key);
            }
        }
    }

    /// All of an artifact is here: the user has it, and others may ask us for it.
    fn received(&mut self, now: Time, key: Key, body: Arc<[u8]>, out: &mut Vec<Output>) {
        let Some(of) = self.known.reference(key) else { return };
        let Some(artifact) = self.known.entry_mut(key).and_then(|entry| entry.artifact.as_deref_mut()) else {
            return;
        };
        artifact.received = true;
        artifact.body = Some(body.clone());
        let inside = Travel::of(artifact.size) == Travel::Inside && !artifact.confirm;
        let (topic, id, size) = (artifact.topic.clone(), artifact.id, artifact.size);
        let advert = Advert { of, topic, id, size, attribute: artifact.attribute.to_vec() };
        out.push(Output::Received { advert, body });
        self.known.mark(key);
        self.marks_by(now, if inside { GOSSIP_MARKS_INSIDE_MS } else { GOSSIP_MARKS_MS });
    }

    fn marks_by(&mut self, now: Time, ms: u64) {
        for reader in self.peers.values_mut().filter_map(|peer| peer.reader.as_mut()) {
            reader.marks_due.by(now.after_ms(ms));
        }
    }

    /// What is wanted and has room is asked for.
    fn feed(&mut self) {
        while let Some(key) = self.starved.first().copied() {
            let of = self.known.reference(key);
            let entry = self.known.entry_mut(key);
            if let (Some(of), Some(entry)) = (of, entry)
                && let Some(artifact) = entry.artifact.as_deref()
                && let Some(interest) = artifact.interest
            {
                let (id, size) = (artifact.id, artifact.size);
                if !entry.charge_body(size, &mut self.flows) {
                    return;
                }
                self.pulls.want(of, (id, size), entry.holders, interest);
            }
            self.starved.remove(&key);
        }
    }

    fn unwant(&mut self, key: Key) {
        self.starved.remove(&key);
        self.pulls.unwant(key, &mut self.orders);
        if let Some(entry) = self.known.entry_mut(key) {
            entry.release_body(&mut self.flows);
        }
    }

    /// Those have lost what stood in them.
    fn gone(&mut self, gone: Vec<Gone>, out: &mut Vec<Output>) {
        for gone in gone {
            let key = Key::of(gone.of);
            self.starved.remove(&key);
            self.pulls.unwant(key, &mut self.orders);
            if gone.told {
                out.push(Output::Gone { of: gone.of });
            }
        }
    }

    fn schedule(&mut self, now: Time) {
        let mut orders = core::mem::take(&mut self.orders);
        self.pulls.schedule(now, &mut orders);
        for order in orders.drain(..) {
            let (from, word) = match order {
                Order::Ask { from, request, of, offset } => (from, Word::Request { request, of, offset }),
                Order::Cancel { from, request } => (from, Word::Cancel { request }),
            };
            let Some(peer) = self.peers.get_mut(&from) else { continue };
            let unsaid = |said: &Word| matches!((said, &word), (Word::Request { request: a, .. }, Word::Cancel { request: b }) if a == b);
            match peer.requests.iter().position(unsaid) {
                // Neither is said, then.
                Some(at) => {
                    peer.requests.remove(at);
                }
                None => peer.requests.push_back(word),
            }
        }
        self.orders = orders;
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        for peer in self.peers.values_mut() {
            peer.tick(now);
        }
        let mut stalled = Vec::new();
        self.pulls.tick(now, &mut stalled, &mut self.orders);
        for node in stalled {
            self.blame(node, Fault::Stalled, out);
        }
        while let Some((slot, confirmed)) = self.table.expire(now) {
            out.push(Output::Expired { slot, missing: self.config.members.without(&confirmed) });
        }
        if self.recover_at.is_some_and(|at| at <= now) {
            self.recover(now);
        }
    }

    /// Whoever told us what we had no room for is asked to tell it again, if there is some now.
    fn recover(&mut self, now: Time) {
        let mut misses = false;
        for (node, peer) in &mut self.peers {
            if !self.known.origins.get(node).is_some_and(known::Origin::misses) {
                continue;
            }
            misses = true;
            let of = PeerId::Node { index: node.0 };
            if self.flows.has_room(Charge { flow: Flow::Advert, peer: of, bytes: ROOM_BYTES }) {
                peer.exchange = Due::Now;
            }
        }
        self.recover_at = misses.then(|| now.after_ms(GOSSIP_AGAIN_MS));
    }

    fn blame(&mut self, node: NodeIndex, fault: Fault, out: &mut Vec<Output>) {
        self.counts.faults[fault as usize] += 1;
        out.push(Output::Blame { node, fault });
    }

    fn count_replaced(&mut self, slot: SlotNumber) {
        if let Some(version) = self.table.slot(slot).map(|own| own.version) {
            self.count_missed(version);
        }
    }

    /// What was said with this version is not said any more to who has not been told.
    fn count_missed(&mut self, version: u64) {
        let readers = self.peers.values().filter_map(|peer| peer.reader.as_ref());
        self.counts.replaced += readers.filter(|reader| reader.misses(version)).count() as u64;
    }
}

/// What a peer is told of that it asked about: slots of one node, as many as there is room for.
fn next_description(peer: &mut Peer, known: &Known) -> Option<Describe> {
    let mut describe: Option<Describe> = None;
    let mut bytes = 32;
    while let Some(of) = peer.describing.front().copied() {
        if describe.as_ref().is_some_and(|said| (said.node, said.epoch) != (of.node, of.epoch)) {
            break;
        }
        let Some(slot) = known.describe(of) else {
            peer.describing.pop_front();
            continue;
        };
        bytes += known.said_bytes(of);
        if bytes > GOSSIP_WORD_BYTES_MAX {
            break;
        }
        peer.describing.pop_front();
        let describe =
            describe.get_or_insert_with(|| Describe { node: of.node, epoch: of.epoch, slots: Vec::new() });
        describe.slots.push(slot);
    }
    describe
}
