//! Artifacts that come in pieces: which pieces we have of them, which the others who want them have, and who is told.
//!
//! Who begins to fetch one says so to all; those who fetch it too say which pieces they have, and from then on what they get: at once what they had of
//! who has all, since nobody else can have it yet, and the rest together; and its origin what they have of others, since it knows then who passes on. Each piece is one node's to get there and to pass on, by its place among
//! those who are linked; so who has all gives each piece about once. Who tells of no piece for several times as long as it usually takes is away:
//! what was its own to get is shared among the others, and it is asked for nothing until it speaks or gives again, or nothing comes of the others.
//! Pieces lie in the store.
//!
//! Invariant: of each peer a place in the order of what we got is kept, and a bit for each piece; nothing here is a queue. A piece is never nobody's to
//! get: of those who are there each node that has heard the same finds the same one. Who is given nothing by anybody passes over nobody.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use busway_wire::gossip::{NodeIndex, Part, Reference, SlotNumber, Word};
use busway_wire::limits::{
    GOSSIP_AWAY_MS_MAX, GOSSIP_AWAY_MS_MIN, GOSSIP_AWAY_TIMES, GOSSIP_HAVE_MS, GOSSIP_MARKS_INSIDE_MS,
    GOSSIP_MARKS_MS, GOSSIP_PIECE_BYTES, GOSSIP_STALL_MS, GOSSIP_WORD_ENTRIES_MAX,
};

use crate::artifact::{Full, Name, Proof, TopicHash, pieces};
use crate::gossip::due::Due;
use crate::gossip::nodes::Slots;
use crate::gossip::pulls::Key;
use crate::gossip::{Gossip, Interest, Nodes, OfferError, Offering, Output};
use crate::time::Time;

/// One that comes.
#[derive(Debug)]
pub(super) struct Parts {
    name: Name,
    interest: Interest,
    /// The values have come, and pieces are wanted.
    begun: bool,
    have: Slots,
    /// How many pieces are here, and how many bytes.
    here: (u32, u64),
    /// What we have, in the order in which it came.
    got: Vec<u32>,
    peers: BTreeMap<NodeIndex, Sharer>,
    /// Whose it is to get pieces there and to pass them on, in order, we among them.
    sharing: Vec<NodeIndex>,
}

/// So many ask who has all for the values of all pieces, a thousandth of its bytes each at most, a thirtieth in all: who waits until others have them has its first pieces late,
/// and the last of them at the end. Further ones have them of others.
const TREES_OF_ORIGIN: usize = 32;

/// A peer that wants it too.
#[derive(Debug, Default)]
struct Sharer {
    have: Slots,
    /// How much of what we got it was told, and when it is told more.
    named: usize,
    due: Due,
    /// Since when it speaks, how often it has spoken of what it got, and when it last has.
    since: Time,
    words: u64,
    spoke: Time,
    /// How often others do, in milliseconds between two words, where that is known.
    others_ms: Option<u64>,
    /// When it is away unless it speaks before; never, where it is already, or has all.
    quiet: Due,
    away: bool,
}

impl Sharer {
    fn new(now: Time) -> Sharer {
        let mut sharer = Sharer { due: Due::Now, since: now, spoke: now, ..Sharer::default() };
        sharer.waits(now);
        sharer
    }

    /// How long it may say nothing.
    fn patience_ms(&self) -> u64 {
        let own_ms = self.spoke.since(self.since) / 1_000_000 / self.words.max(1);
        // Few words say little of how often there are some: then it is as often as others speak.
        let (usual_ms, least) = match self.others_ms {
            Some(others_ms) if self.has_said_little() => (others_ms, GOSSIP_AWAY_MS_MIN),
            None if self.has_said_little() => (own_ms, GOSSIP_STALL_MS),
            Some(_) | None => (own_ms, GOSSIP_AWAY_MS_MIN),
        };
        usual_ms.saturating_mul(GOSSIP_AWAY_TIMES).clamp(least, GOSSIP_AWAY_MS_MAX)
    }

    fn has_said_little(&self) -> bool {
        self.words < GOSSIP_AWAY_TIMES
    }

    /// It tells or gives something; whether it was away until now.
    fn is_back(&mut self, now: Time) -> bool {
        let back = core::mem::take(&mut self.away);
        if back {
            (self.since, self.words, self.spoke) = (now, 0, now);
            self.waits(now);
        }
        back
    }

    /// It has given a sign of life then.
    fn waits(&mut self, heard: Time) {
        self.quiet = Due::At(heard.after_ms(self.patience_ms()));
    }
}

/// What one is charged while it comes.
pub(super) fn cost(size: u64) -> u64 {
    GOSSIP_PIECE_BYTES * u64::from(pieces::count(size)).max(1)
}

impl Parts {
    /// Something is to be said to a peer now.
    pub(super) fn is_due(&self, to: NodeIndex) -> bool {
        self.peers.get(&to).is_some_and(|sharer| sharer.due == Due::Now)
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.peers.values().flat_map(|sharer| [sharer.due.at(), sharer.quiet.at()]).flatten().min()
    }

    /// Looks at the time; who has said nothing for long.
    pub(super) fn tick(&mut self, now: Time) -> Nodes {
        let mut quiet = Nodes::default();
        for (node, sharer) in &mut self.peers {
            sharer.due.tick(now);
            sharer.quiet.tick(now);
            if sharer.quiet.take() {
                quiet.insert(*node);
            }
        }
        quiet
    }

    /// Whose it is to get a piece of who has all.
    fn owner(&self, me: NodeIndex, index: u32) -> Option<NodeIndex> {
        let (index, count) = (index as usize, self.sharing.len());
        let away = |node: &NodeIndex| *node != me && self.peers.get(node).is_none_or(|sharer| sharer.away);
        let owner = *self.sharing.get(index.checked_rem(count)?)?;
        if !away(&owner) {
            return Some(owner);
        }
        let here = || self.sharing.iter().filter(|node| !away(node));
        here().nth((index / count).checked_rem(here().count())?).copied()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.here.1
    }

    pub(super) fn size(&self) -> u64 {
        self.name.size
    }

    fn insert(&mut self, index: u32) {
        self.have.insert(SlotNumber(index));
        self.got.push(index);
        let bytes = pieces::place(self.name.size, index).map_or(0, |(_, bytes)| bytes);
        self.here = (self.here.0 + 1, self.here.1 + bytes);
    }

    /// One has spoken: how often those speak who have said enough is how often others may be waited for. It is the middle one of them, so that who
    /// speaks without end makes nobody seem away.
    fn compare(&mut self) {
        let often = self.peers.values().filter(|sharer| !sharer.has_said_little());
        let mut usual: Vec<u64> =
            often.map(|sharer| sharer.spoke.since(sharer.since) / sharer.words.max(1)).collect();
        usual.sort_unstable();
        let Some(usual_ns) = usual.get(usual.len() / 2).copied() else { return };
        for sharer in self.peers.values_mut().filter(|sharer| sharer.has_said_little()) {
            sharer.others_ms = Some(usual_ns / 1_000_000);
            if sharer.quiet.at().is_some() {
                sharer.quiet.by(sharer.spoke.after_ms(sharer.patience_ms()));
            }
        }
    }

    fn greet(&mut self, now: Time, node: NodeIndex) {
        self.peers.entry(node).or_insert_with(|| Sharer::new(now));
    }

    /// Its origin is told what we have of others.
    fn tell_origin(&mut self, now: Time, origin: NodeIndex) {
        self.peers.entry(origin).or_insert_with(|| Sharer { due: Due::Never, ..Sharer::new(now) });
    }

    fn holders(&self, index: u32) -> Nodes {
        let have = self.peers.iter().filter(|(_, sharer)| sharer.have.has(SlotNumber(index)));
        have.map(|(node, _)| *node).collect()
    }
}

impl Gossip {
    /// Puts a body of our own into the store, where it does not lie there already.
    pub(super) fn keep(&mut self, offering: &Offering) -> Result<Name, OfferError> {
        let (body, id, size) = (&offering.body, offering.id(), offering.size());
        let name = Name { id, size, topic: TopicHash::of(&offering.topic) };
        if self.store.open(name).is_err() {
            return Err(OfferError::Store { size });
        }
        if offering.stored.is_some() {
            return Ok(name);
        }
        let mut put = self.store.put(name, Part::Tree, pieces::tree(body).into());
        for index in 0..pieces::count(size) {
            let Some((offset, bytes)) = pieces::place(size, index).filter(|_| put.is_ok()) else { break };
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let piece =
                body.get(at..).and_then(|rest| rest.get(..usize::try_from(bytes).ok()?)).unwrap_or_default();
            put = self.store.put(name, Part::Piece { index }, piece.into());
        }
        if put == Err(Full) {
            self.forget_unused(name);
            return Err(OfferError::Store { size });
        }
        Ok(name)
    }

    /// What of ours is offered no more lies in the store no more.
    pub(super) fn sweep(&mut self) {
        if core::mem::replace(&mut self.swept, self.table.version()) == self.table.version() {
            return;
        }
        let own = self.stored.of_node(self.config.node);
        let over: Vec<Reference> = own.filter(|of| self.own(of.slot) != Some(*of)).collect();
        for of in over {
            self.passed.remove(&of);
            if let Some(name) = self.stored.remove(of) {
                self.forget_unused(name);
            }
        }
    }

    pub(super) fn forget_unused(&mut self, name: Name) {
        if self.stored.of_name(name).next().is_none() {
            self.store.forget(name);
        }
    }

    /// A part of an artifact that is here.
    pub(super) fn part(&self, of: Reference, part: Part) -> Option<Arc<[u8]>> {
        match part {
            Part::Whole => self.body(of),
            Part::Tree | Part::Piece { .. } => self.store.get(self.stored.get(of)?, part),
        }
    }

    /// Begins to fetch it: the values of its pieces come first.
    pub(super) fn begin_parts(
        &mut self,
        now: Time,
        of: Reference,
        name: Name,
        (holders, interest): (Nodes, Interest),
        out: &mut Vec<Output>,
    ) {
        let Name { id, size, .. } = name;
        if self.store.open(name).is_err() {
            return self.has_no_room(of, out);
        }
        self.pulls.want_parts(now, of, holders);
        let (have, got, peers, sharing) = (Slots::default(), Vec::new(), BTreeMap::new(), Vec::new());
        let mut parts = Parts { name, interest, begun: false, have, here: (0, 0), got, peers, sharing };
        let others = self.peers.iter().filter(|(node, peer)| peer.reader.is_some() && **node != of.node);
        others.filter(|(node, _)| !holders.has(**node)).for_each(|(node, _)| parts.greet(now, *node));
        if self.peers.get(&of.node).is_some_and(|peer| peer.reader.is_some()) {
            parts.tell_origin(now, of.node);
        }
        self.parts.insert(of, parts);
        self.stored.insert(of, name);
        match self.store.get(name, Part::Tree) {
            Some(tree) => self.want_pieces(of, &tree, out),
            None => {
                let bytes = u64::from(pieces::count(size)) * pieces::VALUE_BYTES as u64;
                let key = Key { of, part: Part::Tree };
                // As many as there are in most swarms have it of who has all, and the others of those.
                let ours = self.place(of).0 < TREES_OF_ORIGIN;
                self.pulls.want(key, (Proof::Tree(id, size), bytes), Nodes::default(), (interest, ours));
            }
        }
    }

    /// Which of those who are to pass it on we are, or pieces of it, and how many there are.
    pub(super) fn place(&self, of: Reference) -> (usize, usize) {
        let sharing = self.sharing(of);
        (sharing.iter().filter(|node| **node < self.config.node).count(), sharing.len())
    }

    /// Those who are to pass it on, or pieces of it, in order, we among them.
    fn sharing(&self, of: Reference) -> Vec<NodeIndex> {
        let linked = self.peers.iter().filter(|(_, peer)| peer.reader.is_some()).map(|(node, _)| *node);
        let has_all = |node: &NodeIndex| *node == of.node || self.pulls.has_all(of, *node);
        let others = linked.filter(|node| !has_all(node) && *node != self.config.node);
        let mut sharing: Vec<NodeIndex> = others.chain([self.config.node]).collect();
        sharing.sort_unstable();
        sharing
    }

    /// Those who come to nothing in pieces of an artifact: what was theirs to get is others' now, and what they were asked for is asked of others.
    pub(super) fn pass_over(&mut self, now: Time, of: Reference, quiet: Nodes) {
        let Some(parts) = self.parts.get_mut(&of) else { return };
        for node in quiet.iter() {
            let Some(sharer) = parts.peers.get_mut(&node) else { continue };
            if self.pulls.has_all(of, node) {
                // It has nothing to tell.
                sharer.waits(now);
                continue;
            }
            let patience_ms = sharer.patience_ms();
            if let Some(came) = self.pulls.came(node).filter(|came| now < came.after_ms(patience_ms)) {
                // It gives.
                sharer.waits(came);
                continue;
            }
            if self.pulls.moved(of).is_none_or(|moved| now >= moved.after_ms(patience_ms / 2)) {
                // Nobody does: it may be we who stand still, or our line, or who has all. What came last came behind its last word.
                sharer.waits(now);
                continue;
            }
            sharer.away = true;
            let me = self.config.node;
            let ours = |index| parts.owner(me, index) == Some(me);
            self.pulls.pass_over(of, (node, true), ours, &mut self.orders);
        }
    }

    /// The link of a peer is gone, and so is what it was to get.
    pub(super) fn parts_unlinked(&mut self, node: NodeIndex) {
        let me = self.config.node;
        for (of, parts) in &mut self.parts {
            if parts.peers.remove(&node).is_some() && node != of.node {
                let ours = |index| parts.owner(me, index) == Some(me);
                self.pulls.pass_over(*of, (node, false), ours, &mut self.orders);
            }
        }
    }

    /// The values are known: each piece that is not here is wanted.
    fn want_pieces(&mut self, of: Reference, tree: &[u8], out: &mut Vec<Output>) {
        let (sharing, me) = (self.sharing(of), self.config.node);
        out.extend(self.known.artifact(of).map(|artifact| Output::Begun { advert: artifact.advert(of) }));
        let Some(parts) = self.parts.get_mut(&of) else { return };
        (parts.begun, parts.sharing) = (true, sharing);
        for (index, value) in (0..).zip(tree.as_chunks().0) {
            let Some((offset, bytes)) = pieces::place(parts.name.size, index) else { break };
            let part = Part::Piece { index };
            if self.store.has(parts.name, part) {
                parts.insert(index);
                continue;
            }
            let ours = parts.owner(me, index) == Some(me);
            let proof = Proof::Piece(*value, offset);
            self.pulls.want(Key { of, part }, (proof, bytes), parts.holders(index), (parts.interest, ours));
        }
    }

    /// A part has come, and is what it should be.
    pub(super) fn part_came(
        &mut self,
        now: Time,
        from: NodeIndex,
        key: Key,
        body: Arc<[u8]>,
        out: &mut Vec<Output>,
    ) {
        let Key { of, part } = key;
        let Some(parts) = self.parts.get_mut(&of) else { return };
        if self.store.put(parts.name, part, body.clone()).is_err() {
            return self.has_no_room(of, out);
        }
        if let Part::Piece { index } = part {
            self.counts.bytes_useful += body.len() as u64;
            parts.insert(index);
            if parts.peers.get_mut(&from).is_some_and(|sharer| sharer.is_back(now)) {
                self.pulls.back(of, from);
            }
            let first = self.pulls.has_all(of, from);
            for (node, sharer) in &mut parts.peers {
                match (*node == of.node, first) {
                    // It knows what it gave itself.
                    (true, _) if from == of.node => sharer.have.insert(SlotNumber(index)),
                    (false, true) => sharer.due = Due::Now,
                    (true | false, _) => sharer.due.by(now.after_ms(GOSSIP_HAVE_MS)),
                }
            }
        } else {
            self.want_pieces(of, &body, out);
        }
        self.complete(now, of, out);
    }

    /// The store does not take it: nothing more is asked for until the user wants it again.
    fn has_no_room(&mut self, of: Reference, out: &mut Vec<Output>) {
        if let Some(artifact) = self.known.artifact_mut(of) {
            artifact.interest = Some(Interest::Stash);
        }
        self.unwant(of);
        out.push(Output::Full { of });
    }

    /// A part is in the store no more. What comes begins again, with what there is.
    pub(super) fn lost(&mut self, now: Time, name: Name, out: &mut Vec<Output>) {
        let of_it: Vec<Reference> = self.stored.of_name(name).collect();
        for of in of_it {
            if of.node == self.config.node {
                out.push(Output::Damaged { of });
                continue;
            }
            self.parts.remove(&of);
            self.counts.bytes_wasted += self.pulls.unwant_parts(of, &mut self.orders);
            let Some(entry) = self.known.entry_mut(of) else { continue };
            entry.release_body(&mut self.flows);
            let (teller, told) = (entry.teller(), !entry.told.is_empty());
            let Some(artifact) = entry.artifact.as_deref_mut() else { continue };
            (artifact.received, artifact.stored) = (false, false);
            let interest = *artifact.interest.get_or_insert(Interest::Fetch);
            if told {
                self.known.mark(of);
                self.marks_by(now, GOSSIP_MARKS_INSIDE_MS);
            }
            self.starved.insert(of, teller, interest.class());
        }
    }

    /// If all pieces are here, the user has it, and others may ask us for all of it.
    pub(super) fn complete(&mut self, now: Time, of: Reference, out: &mut Vec<Output>) {
        let whole = |parts: &Parts| parts.begun && parts.here.0 >= pieces::count(parts.name.size);
        if !self.parts.get(&of).is_some_and(whole) {
            return;
        }
        self.parts.remove(&of);
        self.pulls.unwant_parts(of, &mut self.orders);
        let Some(entry) = self.known.entry_mut(of) else { return };
        entry.release_body(&mut self.flows);
        let Some(artifact) = entry.artifact.as_deref_mut() else { return };
        (artifact.received, artifact.stored) = (true, true);
        out.push(Output::Stored { advert: artifact.advert(of) });
        self.known.mark(of);
        self.marks_by(now, GOSSIP_MARKS_MS);
    }

    /// A peer is there that may want what we want.
    pub(super) fn greet(&mut self, now: Time, node: NodeIndex) {
        for (of, parts) in &mut self.parts {
            if node == of.node {
                parts.tell_origin(now, node);
            } else if !self.pulls.has_all(*of, node) {
                parts.greet(now, node);
            }
        }
    }

    /// A peer wants what we want, or has got more of it.
    pub(super) fn hear_have(&mut self, now: Time, from: NodeIndex, of: Reference, named: &[u32]) {
        if let (Some(passed), Some(name)) = (self.passed.get_mut(&of), self.stored.get(of)) {
            let told = named.iter().filter(|index| **index < pieces::count(name.size));
            told.for_each(|index| passed.told(from, *index));
        }
        let Some(parts) = self.parts.get_mut(&of) else { return };
        parts.greet(now, from);
        let count = pieces::count(parts.name.size);
        let Some(sharer) = parts.peers.get_mut(&from) else { return };
        if sharer.is_back(now) {
            self.pulls.back(of, from);
        } else if !named.is_empty() {
            sharer.words += 1;
        }
        sharer.spoke = now;
        sharer.waits(now);
        if !parts.begun && !named.is_empty() {
            self.pulls.holder(Key { of, part: Part::Tree }, from, true);
        }
        for index in named.iter().copied().filter(|index| *index < count) {
            sharer.have.insert(SlotNumber(index));
            self.pulls.holder(Key { of, part: Part::Piece { index } }, from, true);
        }
        parts.compare();
    }

    /// What a peer is to be told of pieces.
    pub(super) fn say_have(&mut self, _now: Time, to: NodeIndex) -> Option<Word> {
        let (of, parts) = self.parts.iter_mut().find(|(_, parts)| parts.is_due(to))?;
        let sharer = parts.peers.get_mut(&to)?;
        let news = parts.got.get(sharer.named..).unwrap_or_default();
        let news = news.get(..GOSSIP_WORD_ENTRIES_MAX / 2).unwrap_or(news);
        sharer.named += news.len();
        sharer.due = if sharer.named < parts.got.len() { Due::Now } else { Due::Never };
        let pieces = news.iter().copied().filter(|index| !sharer.have.has(SlotNumber(*index))).collect();
        Some(Word::Have { of: *of, pieces })
    }
}
