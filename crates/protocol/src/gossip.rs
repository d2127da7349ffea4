//! Artifacts, from the node that offers them to all who want them: who has what, who is told, who is asked.
//!
//! A node has a table of slots; what it offers stands there until it is withdrawn, replaced, or has reached all. State is repeated, not messages:
//! of each peer it is known up to which version it knows the table, and a change takes the place of the one before it, so that a peer
//! that is slow, or was away, is told what stands there now and nothing that no longer does. Small bodies stand in the table; larger ones are
//! asked for, of whoever says that it has them; the largest in pieces, of all who have some, which lie in a store and not here. What a node has from others it names by marks, late, and not to who has it. Marks are acknowledged
//! when what they name is known, and until then count as not said: a link that is lost loses none.
//!
//! Words, events and the time go in; words, bodies and requests for a judgement come out. A peer is told and given what goes out now when its link
//! has room for it ([`Gossip::transmit`]), so that nothing queues here: what waits is a version and some bits for each peer. It knows no
//! links, no files and nothing of what is in an artifact.
//!
//! Invariant: of each slot one change is under way to each peer at most. Every change that comes is handled, coalesced or dropped by a cause.
//! Nobody is given bytes that were not asked for, but small ones, once, by their origin. What is kept for a peer is within its budget, whatever
//! it says, and what it says of others is not believed while those are there to speak, and takes nothing from anybody else's word when they are not.

mod asks;
mod due;
mod entry;
mod give;
mod hear;
mod known;
mod nodes;
mod origin;
mod parts;
mod passed;
mod peer;
mod pulls;
mod reader;
mod room;
mod starved;
mod stored;
mod table;
mod words;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

pub use busway_wire::gossip::{ArtifactId, Epoch, Filter, NodeIndex, Part, Reference, SlotNumber, Word};
use busway_wire::gossip::{Describe, Exchange, Since};
use busway_wire::limits::{
    GOSSIP_AGAIN_MS, GOSSIP_ASKS_MAX, GOSSIP_MARKS_INSIDE_MS, GOSSIP_MARKS_MS, GOSSIP_WORD_BYTES_MAX,
};

use crate::artifact::{Memory, Name, Proof, Store, Travel};
use crate::flow::{Charge, Flow, Flows};
use crate::time::{PeerId, Time};
use due::Due;
use give::Turns;
use known::{Gone, Known};
pub use nodes::Nodes;
use parts::Parts;
use passed::Passed;
use peer::Peer;
use pulls::{Key, Order, Pulls};
use reader::Reader;
pub use room::{Arriving, Room};
use starved::Starved;
use stored::Stored;
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
    /// There may be room for what was dropped, or somebody to ask about what is over.
    Recover,
}

/// One of so many parts of all room must be free, so that it is worth asking again for what was dropped.
const ROOM_PARTS: u64 = 32;

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
    /// What comes in pieces; and what lies in the store, or is to.
    parts: BTreeMap<Reference, Parts>,
    stored: Stored,
    /// What became of the pieces that we gave of our own.
    passed: BTreeMap<Reference, Passed>,
    turns: Turns,
    /// Up to which version of our own table the store was swept.
    swept: u64,
    members_changed: bool,
    store: Box<dyn Store>,
    /// What is wanted and has no room.
    starved: Starved,
    recover_at: Option<Time>,
    /// What is over by the word of one alone: when others who stood for it are asked.
    doubts: VecDeque<(Time, Reference, Nodes)>,
    counts: Counts,
    /// Memory for what is to be asked.
    orders: Vec<Order>,
}

impl Gossip {
    /// A node that offers nothing and knows nobody. It keeps pieces in memory, as many bytes as the flow of chunks may have.
    #[must_use]
    pub fn new(config: Config) -> Gossip {
        let store = Memory::new(config.limits.rule(Flow::Chunk).limit.bytes);
        Gossip::with_store(config, Box::new(store))
    }

    /// The same, which keeps pieces there.
    #[must_use]
    pub fn with_store(config: Config, store: Box<dyn Store>) -> Gossip {
        Gossip {
            parts: BTreeMap::new(),
            stored: Stored::default(),
            passed: BTreeMap::new(),
            turns: Turns::default(),
            swept: 0,
            members_changed: false,
            store,
            table: Table::new(config.slots_max, config.bytes_max),
            known: Known::default(),
            pulls: Pulls::new(config.seed),
            peers: BTreeMap::new(),
            flows: Flows::new(config.limits),
            starved: Starved::default(),
            recover_at: None,
            doubts: VecDeque::new(),
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
            Input::PeerDown { node } => self.unlinked(node),
            Input::Word { from, word, following } => self.hear(now, from, word, following, out),
            Input::Withdraw { slot } => {
                self.count_replaced(slot);
                self.table.withdraw(now, slot);
            }
            Input::Judged { of, interest } => self.judge(now, of, interest, out),
            Input::Release { of } => self.release(now, of),
            Input::Lost { name } => self.lost(now, name, out),
            Input::Forget { node } if self.peers.contains_key(&node) => {}
            Input::Forget { node } => {
                let marked = self.known.marked;
                let gone = self.known.forget(node, &mut self.flows);
                self.gone(gone, out);
                if self.known.marked > marked {
                    self.marks_by(now, GOSSIP_MARKS_INSIDE_MS);
                }
            }
            Input::Revoke { of } => {
                let marked = self.known.marked;
                let gone = self.known.retire(of, &mut self.flows);
                self.gone(gone.into_iter().collect(), out);
                if self.known.marked > marked {
                    self.marks_by(now, GOSSIP_MARKS_INSIDE_MS);
                }
            }
            Input::AskAnew { node } => {
                self.known.lose(node);
                self.recover_at.get_or_insert(now);
            }
            Input::Reconsider => self.known.reconsider(),
            Input::Tick => self.tick(now, out),
        }
        self.look_at_members(now, out);
        self.sweep();
        self.feed(now, out);
        self.schedule(now);
    }

    /// Offers an artifact. It is told to who is linked now, and to who will be.
    ///
    /// # Errors
    /// Why it is not offered; then nothing has changed.
    pub fn offer(&mut self, now: Time, offering: Offering) -> Result<SlotNumber, OfferError> {
        let mut offering = offering;
        if self.config.members.is_empty() {
            offering.reach_all_ms = offering.reach_all_ms.map(|_| 0);
        }
        let replaced = offering.instead_of;
        let version = replaced.and_then(|slot| self.table.slot(slot)).map(|own| own.version);
        offering.check()?;
        let parted = Travel::of(offering.size()) == Travel::Pieces;
        let kept = parted.then(|| self.keep(&offering)).transpose()?;
        let offered = self.table.offer(now, offering);
        if let (Ok(slot), Some(name)) = (&offered, kept)
            && let Some(of) = self.own(*slot)
        {
            self.stored.insert(of, name);
        }
        if let (Err(_), Some(name)) = (&offered, kept) {
            self.forget_unused(name);
        }
        self.sweep();
        let slot = offered?;
        if let Some(version) = version {
            self.count_missed(version);
        }
        Ok(slot)
    }

    /// The other nodes are these from now on: whom an offer is to reach that is to reach all. One that has reached all of these ends with the next input.
    pub fn set_members(&mut self, members: Nodes) {
        self.members_changed |= self.config.members != members;
        self.config.members = members;
    }

    /// What is with all who are there now has reached them.
    fn look_at_members(&mut self, now: Time, out: &mut Vec<Output>) {
        if !core::mem::take(&mut self.members_changed) {
            return;
        }
        for slot in self.table.reached(&self.config.members) {
            self.table.withdraw(now, slot);
            out.push(Output::Reached { slot });
        }
    }

    /// The next advert that the user is to judge, by [`Input::Judged`].
    pub fn next_advert(&mut self) -> Option<Advert> {
        self.known.next_advert()
    }

    /// What is to be said to a peer now on this lane. To be called again while something comes and the link has room. Lanes
    /// before it go first.
    pub fn transmit(&mut self, now: Time, to: NodeIndex, lane: Lane) -> Option<Said> {
        match lane {
            Lane::Advert => self.say(now, to).or_else(|| self.say_have(now, to)).map(Said::word),
            Lane::Request => self.peers.get_mut(&to)?.requests.pop_front().map(Said::word),
            Lane::Chunk => self.give(now, to),
        }
    }

    /// Whether `transmit` may have something for this peer.
    #[must_use]
    pub fn has_output(&self, to: NodeIndex) -> bool {
        self.peers.get(&to).is_some_and(|peer| peer.has_output(self.table.version()))
            || self.parts.values().any(|parts| parts.is_due(to))
    }

    /// When [`Input::Tick`] is wanted next, and for what.
    #[must_use]
    pub fn deadline(&self) -> Option<(Time, Reason)> {
        let have = self.parts.values().filter_map(Parts::deadline).min();
        let turn = self.turns.deadline();
        let say = self.peers.values().filter_map(Peer::deadline).chain(have).chain(turn);
        let say = say.min().map(|at| (at, Reason::Say));
        let pull = self.pulls.deadline().map(|at| (at, Reason::Pull));
        let expire = self.table.deadline().map(|at| (at, Reason::Expire));
        let doubt = self.doubts.front().map(|(at, ..)| *at);
        let recover = [self.recover_at, doubt].into_iter().flatten().min().map(|at| (at, Reason::Recover));
        [say, pull, expire, recover].into_iter().flatten().min()
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { looked: self.counts.looked + self.known.looked, ..self.counts }
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
            held: self.peers.values().filter_map(|peer| peer.reader.as_ref()).map(Reader::held).sum(),
            asks: self.peers.values().map(|peer| peer.asks.len()).sum(),
            waiting: waiting + self.starved.len(),
            starved: self.starved.len(),
            hedged,
        }
    }

    /// How far we know a node's table, and how many changes of ours are under way to it.
    #[must_use]
    pub fn progress(&self, node: NodeIndex) -> (Option<Since>, usize) {
        let reader = self.peers.get(&node).and_then(|peer| peer.reader.as_ref());
        (self.since(node), reader.map_or(0, Reader::under_way))
    }

    /// An artifact that is here, ours or another's, but one that lies in the store.
    #[must_use]
    pub fn body(&self, of: Reference) -> Option<Arc<[u8]>> {
        if of.node != self.config.node {
            return self.known.artifact(of)?.body.clone();
        }
        let own = self.table.slot(of.slot).filter(|own| own.version == of.version)?;
        let offered = own.offered.as_ref().filter(|_| of.epoch == self.config.epoch)?;
        (Travel::of(offered.size) != Travel::Pieces).then(|| offered.body.clone())
    }

    /// A slot of ours as others know it, if anything stands in it.
    #[must_use]
    pub fn own(&self, slot: SlotNumber) -> Option<Reference> {
        let version = self.table.slot(slot).filter(|own| own.offered.is_some())?.version;
        Some(Reference { node: self.config.node, epoch: self.config.epoch, slot, version })
    }

    fn since(&self, node: NodeIndex) -> Option<Since> {
        Some(self.known.origins.get(&node)?.said())
    }

    /// Where our own table is.
    fn ours(&self) -> Since {
        Since { epoch: self.config.epoch, slots: self.table.version(), marks: self.known.marked }
    }

    fn say(&mut self, now: Time, to: NodeIndex) -> Option<Word> {
        let peer = self.peers.get_mut(&to)?;
        if peer.exchange.take() {
            peer.exchanges += 1;
            let origin = self.known.origins.get_mut(&to);
            let since = origin.map(|origin| {
                origin.ask_again();
                origin.said()
            });
            let (epoch, version) = (self.config.epoch, self.table.version());
            return Some(Word::Exchange(Exchange {
                epoch,
                version,
                since,
                filter: self.config.filter.clone(),
            }));
        }
        if peer.handled.take() {
            // What they name is known up to the first that is not.
            let known = self.known.origins.get(&to).map_or(0, |origin| origin.since().1);
            let marks = peer.asks.floor().map_or(known, |floor| floor.min(known));
            return Some(Word::Handled { tells: peer.tells, marks });
        }
        if let Some(describe) = next_description(peer, &self.known) {
            return Some(Word::Describe(describe));
        }
        let reader = peer.reader.as_mut()?;
        if reader.has_news(self.table.version())
            && let Some(tell) = reader.tell(now, &self.table, &mut self.counts.looked)
        {
            self.counts.said += tell.slots.len() as u64;
            return Some(Word::Tell(tell));
        }
        if reader.marks_due.take()
            && let Some(marks) = self.known.next_marks(now, to, reader)
        {
            self.counts.marks_said += marks.of.iter().map(|of| of.marks.len() as u64).sum::<u64>();
            return Some(Word::Marks(marks));
        }
        if !peer.asks_due.take() {
            return None;
        }
        let (of, more) = peer.asks.next();
        if more {
            peer.asks_due = Due::Now;
        }
        (!of.is_empty()).then_some(Word::Ask { of })
    }

    fn judge(&mut self, now: Time, of: Reference, interest: Interest, out: &mut Vec<Output>) {
        if self.known.artifact(of).is_none_or(|artifact| artifact.received) {
            return;
        }
        if interest == Interest::Drop {
            self.unwant(of);
            if self.known.decline(of) {
                self.known.mark(of);
                self.marks_by(now, GOSSIP_MARKS_MS);
            }
            return;
        }
        let Some(entry) = self.known.entry_mut(of) else { return };
        let teller = entry.teller();
        entry.declined = false;
        let Some(artifact) = entry.artifact.as_deref_mut() else { return };
        artifact.interest = Some(interest);
        match (artifact.body.clone(), interest) {
            (_, Interest::Drop) => {}
            (_, Interest::Stash) => self.unwant(of),
            (Some(body), Interest::Later | Interest::Fetch | Interest::FetchNow) => {
                self.received(now, of, body, out);
            }
            (None, Interest::Later | Interest::Fetch | Interest::FetchNow) => {
                self.starved.insert(of, teller, interest.class());
            }
        }
    }

    /// All of an artifact is here: the user has it, and others may ask us for it.
    fn received(&mut self, now: Time, of: Reference, body: Arc<[u8]>, out: &mut Vec<Output>) {
        let Some(artifact) = self.known.artifact_mut(of) else { return };
        artifact.received = true;
        artifact.body = Some(body.clone());
        let inside = Travel::of(artifact.size) == Travel::Inside && !artifact.confirm;
        out.push(Output::Received { advert: artifact.advert(of), body });
        self.known.mark(of);
        self.marks_by(now, if inside { GOSSIP_MARKS_INSIDE_MS } else { GOSSIP_MARKS_MS });
    }

    /// What a peer has asked for and is given next.
    pub fn serving(&self, to: NodeIndex) -> impl Iterator<Item = (Name, Part)> {
        let asked = self.peers.get(&to).into_iter().flat_map(|peer| peer.serving.iter());
        asked.filter_map(|serving| Some((self.stored.get(serving.of)?, serving.part)))
    }

    /// Who has told us of something that is wanted and has no room.
    #[must_use]
    pub fn starving(&self) -> Nodes {
        self.starved.tellers()
    }

    /// Who is charged for the bytes of something.
    #[must_use]
    pub fn teller(&self, of: Reference) -> Option<NodeIndex> {
        self.known.entry(of).map(|entry| entry.teller())
    }

    /// What comes in pieces, and how much of it is here.
    pub fn arriving(&self) -> impl Iterator<Item = Arriving> {
        self.parts.iter().filter_map(|(of, parts)| {
            let (teller, moved) = (self.teller(*of)?, self.pulls.moved(*of)?);
            Some(Arriving { of: *of, teller, size: parts.size(), have: parts.bytes(), moved })
        })
    }

    /// The user has no need of the bytes any more.
    fn release(&mut self, now: Time, of: Reference) {
        let Some(entry) = self.known.entry_mut(of) else { return };
        let Some(artifact) = entry.artifact.as_deref_mut().filter(|artifact| artifact.received) else {
            return;
        };
        let stored = core::mem::take(&mut artifact.stored);
        if artifact.body.take().is_none() && !stored {
            return;
        }
        // Who comes later and wants it is given it again.
        (artifact.received, artifact.interest) = (false, Some(Interest::Stash));
        entry.release_body(&mut self.flows);
        if !entry.told.is_empty() {
            self.known.mark(of);
            self.marks_by(now, GOSSIP_MARKS_INSIDE_MS);
        }
        if let Some(name) = self.stored.remove(of) {
            self.forget_unused(name);
        }
    }

    /// A link is lost, and what was said on it and did not come to anything; it will be said again.
    fn unlinked(&mut self, node: NodeIndex) {
        let Some(peer) = self.peers.remove(&node) else { return };
        if let Some(after) = peer.asks.floor() {
            self.known.lose_marks(node, after);
        }
        for other in self.peers.values_mut() {
            if other.asks.unlinked(node) {
                other.asks_due = Due::Now;
            }
        }
        self.pulls.unlinked(node);
        self.passed.values_mut().for_each(|passed| passed.unlinked(node));
        self.parts_unlinked(node);
    }

    fn marks_by(&mut self, now: Time, ms: u64) {
        for reader in self.peers.values_mut().filter_map(|peer| peer.reader.as_mut()) {
            reader.marks_due.by(now.after_ms(ms));
        }
    }

    /// What is wanted and has room is asked for. Who has none left keeps no other waiting.
    fn feed(&mut self, now: Time, out: &mut Vec<Output>) {
        let mut full = Nodes::default();
        loop {
            let mut fed = false;
            for of in self.starved.first() {
                let entry = self.known.entry_mut(of);
                let Some(entry) = entry.filter(|entry| !full.has(entry.teller())) else { continue };
                let artifact = entry.artifact.as_deref();
                let Some((interest, artifact)) = artifact.and_then(|a| Some((a.interest?, a))) else {
                    continue;
                };
                let (id, size, name) = (artifact.id, artifact.size, artifact.name());
                let (parted, holders) = (name.is_some(), entry.holders);
                let charged = if parted { parts::cost(size) } else { size };
                if entry.charge_body(charged, &mut self.flows) {
                    fed = self.starved.remove(of);
                    if let Some(name) = name {
                        self.begin_parts(now, of, name, (holders, interest), out);
                        self.complete(now, of, out);
                    } else {
                        let (place, count) = self.place(of);
                        let ours = of.slot.0 as usize % count == place;
                        self.pulls.want(Key::whole(of), (Proof::Whole(id), size), holders, (interest, ours));
                    }
                } else {
                    full.insert(entry.teller());
                }
            }
            if !fed {
                return;
            }
        }
    }

    fn unwant(&mut self, of: Reference) {
        self.starved.remove(of);
        self.parts.remove(&of);
        if let Some(name) = self.stored.remove(of) {
            self.forget_unused(name);
        }
        self.counts.bytes_wasted += self.pulls.unwant_parts(of, &mut self.orders);
        if let Some(entry) = self.known.entry_mut(of) {
            entry.release_body(&mut self.flows);
        }
    }

    /// Those have lost what stood in them.
    fn gone(&mut self, gone: Vec<Gone>, out: &mut Vec<Output>) {
        for gone in gone {
            self.starved.remove(gone.of);
            self.parts.remove(&gone.of);
            self.counts.bytes_wasted += self.pulls.unwant_parts(gone.of, &mut self.orders);
            if let Some(name) = self.stored.remove(gone.of) {
                self.forget_unused(name);
            }
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
                Order::Ask { from, request, key: Key { of, part }, offset } => {
                    (from, Word::Request { request, of, part, offset })
                }
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
        self.turns.tick(now);
        let mut exchanges = Vec::new();
        for (node, peer) in &mut self.peers {
            peer.tick(now);
            exchanges.extend(peer.next_exchange(now).map(|exchange| (*node, exchange)));
        }
        for (node, exchange) in exchanges {
            self.follow(now, node, exchange, out);
        }
        let quiet = self.parts.iter_mut().map(|(of, parts)| (*of, parts.tick(now)));
        let quiet: Vec<(Reference, Nodes)> = quiet.filter(|(_, nodes)| !nodes.is_empty()).collect();
        for (of, nodes) in quiet {
            self.pass_over(now, of, nodes);
        }
        let mut stalled = Vec::new();
        self.pulls.tick(now, &mut stalled, &mut self.orders);
        for node in stalled {
            self.blame(node, Fault::Stalled, out);
        }
        while let Some((slot, confirmed)) = self.table.expire(now) {
            let missing = self.config.members.without(&confirmed);
            // Where there are no others, there is nobody to wait for.
            let reached = missing.is_empty();
            out.push(if reached { Output::Reached { slot } } else { Output::Expired { slot, missing } });
        }
        self.ask_others(now);
        if self.recover_at.is_some_and(|at| at <= now) {
            self.recover(now);
        }
    }

    /// Whoever told us what we had no room for is asked to tell it again, if there is some now; ever more rarely, if nothing comes of it.
    fn recover(&mut self, now: Time) {
        let mut misses = false;
        let part = self.flows.limits().rule(Flow::Advert).limit.bytes / ROOM_PARTS;
        for (node, peer) in &mut self.peers {
            let Some(origin) = self.known.origins.get_mut(node).filter(|origin| origin.misses()) else {
                continue;
            };
            misses = true;
            let of = PeerId::Node { index: node.0 };
            let room = self.flows.has_room(Charge { flow: Flow::Advert, peer: of, bytes: part });
            if room && peer.asks.len() < GOSSIP_ASKS_MAX / 2 && origin.may_ask_again(now) {
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
        if let Some(own) = self.table.slot(slot).filter(|own| own.offered.is_some()) {
            self.count_missed(own.version);
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
        let (slot, size) = known.describe(of);
        bytes += size;
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
