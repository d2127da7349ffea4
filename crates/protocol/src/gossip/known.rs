//! What others offer, as far as we know it, and which of them have it.
//!
//! Each slot of each node is an entry: what stands in it, and a bit for each peer that has said it has the bytes. What a node says of its
//! own slots is believed before what others say of them. What we have to do with a slot has a place in one order of marks, which peers are told
//! as they are told our slots. Entries are charged to who said them; what has no room is dropped, and known to be missing.
//!
//! Invariant: an entry that stands here is charged to its teller; of a node we miss nothing up to `Origin::since`.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use busway_wire::Topic;
use busway_wire::gossip::{
    ArtifactId, Content, Epoch, Mark, Marked, Marks, NodeIndex, Offer, Reference, Slot, SlotNumber, Standing,
};
use busway_wire::limits::GOSSIP_WORD_BYTES_MAX;

use crate::artifact::Travel;
use crate::flow::{Charge, Flow, Flows};
use crate::gossip::due::Due;
use crate::gossip::reader::Reader;
use crate::gossip::table::cost;
use crate::gossip::{Advert, Interest, Nodes, Why};
use crate::time::{PeerId, Time};

/// A mark in a word takes at most so much, and its node as much again.
const MARK_BYTES: usize = 18;

/// Where a node that began anew stands in the order of marks: in the place of a slot that no table is large enough to have.
const NEWS: SlotNumber = SlotNumber(u32::MAX);

/// A slot of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) node: NodeIndex,
    pub(super) slot: SlotNumber,
}

/// How far we know a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    pub(super) epoch: Epoch,
    /// It has said itself that it began so.
    pub(super) first_hand: bool,
    slots: u64,
    marks: u64,
    /// From where on something was dropped, of its slots and of its marks.
    slots_lost: Option<u64>,
    marks_lost: Option<u64>,
    /// Its place in the order of marks since it began anew, or 0.
    news: u64,
}

impl Origin {
    /// Up to where nothing is missing.
    pub(super) fn since(&self) -> (u64, u64) {
        let known = |known: u64, lost: Option<u64>| lost.map_or(known, |lost| known.min(lost));
        (known(self.slots, self.slots_lost), known(self.marks, self.marks_lost))
    }

    pub(super) fn misses(&self) -> bool {
        self.slots_lost.is_some() || self.marks_lost.is_some()
    }
}

/// What stands in a slot.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) topic: Topic,
    pub(super) attribute: Box<[u8]>,
    pub(super) confirm: bool,
    pub(super) id: ArtifactId,
    pub(super) size: u64,
    /// All of it, checked.
    pub(super) body: Option<Arc<[u8]>>,
    pub(super) interest: Option<Interest>,
    /// The user has it.
    pub(super) received: bool,
}

/// A slot of another node.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) version: u64,
    /// Its node has said so itself.
    first_hand: bool,
    /// Who is charged for it, and how much.
    teller: NodeIndex,
    bytes: u32,
    /// The bytes apart from it that are charged.
    body_bytes: u32,
    since: Time,
    /// Without, it was withdrawn, or we do not want to know more of it.
    pub(super) artifact: Option<Box<Artifact>>,
    declined: bool,
    /// Who has said that it has the bytes.
    pub(super) holders: Nodes,
    /// Whom we have said that we have them, as it is now, and as it was at an earlier version.
    told: Nodes,
    knew: Nodes,
    /// Its place in the order of marks, or 0.
    mark: u64,
}

/// What became of something that was said of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// It is known now.
    Handled,
    /// As much or more was known.
    Coalesced,
    /// It is not kept.
    Dropped(Why),
}

/// An entry that has lost what stood in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) of: Reference,
    /// The user was given it, or asked about it.
    pub(super) told: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) origins: BTreeMap<NodeIndex, Origin>,
    entries: BTreeMap<Key, Entry>,
    marks: BTreeMap<u64, Key>,
    pub(super) marked: u64,
    /// Entries about which the user has not been asked.
    fresh: BTreeSet<Key>,
    /// Where the next one stands that it is to be asked about again.
    again: Option<Key>,
}

impl Known {
    pub(super) fn entry(&self, key: Key) -> Option<&Entry> {
        self.entries.get(&key)
    }

    pub(super) fn entry_mut(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries.get_mut(&key)
    }

    /// The entry, if it is at this version of this start of its node, and something stands in it.
    pub(super) fn artifact(&self, of: Reference) -> Option<&Artifact> {
        let origin = self.origins.get(&of.node)?;
        let entry = self.entries.get(&Key::of(of)).filter(|entry| entry.version == of.version)?;
        entry.artifact.as_deref().filter(|_| origin.epoch == of.epoch)
    }

    /// Whether this was withdrawn, as far as we know.
    pub(super) fn is_over(&self, of: Reference) -> bool {
        let Some(origin) = self.origins.get(&of.node).filter(|origin| origin.epoch == of.epoch) else {
            return false;
        };
        match self.entries.get(&Key::of(of)) {
            Some(entry) => entry.version > of.version && entry.artifact.is_none() && !entry.declined,
            None => of.version <= origin.since().0,
        }
    }

    /// Whether its own node has said what stands there.
    pub(super) fn is_first_hand(&self, key: Key) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.first_hand)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A slot as we know it.
    pub(super) fn reference(&self, key: Key) -> Option<Reference> {
        let epoch = self.origins.get(&key.node)?.epoch;
        Some(Reference { node: key.node, epoch, slot: key.slot, version: self.entries.get(&key)?.version })
    }

    /// A node says which start it is: what it said before another one is gone, and whatever it had.
    pub(super) fn begin(&mut self, node: NodeIndex, epoch: Epoch, flows: &mut Flows) -> Vec<Gone> {
        let origin = self.origins.entry(node).or_default();
        if origin.epoch == epoch {
            origin.first_hand = true;
            return Vec::new();
        }
        let news = origin.news;
        let gone = self.forget(node, flows);
        // Who has no link to it may know it as it was, of others who have begun anew since.
        self.marks.remove(&news);
        self.marked += 1;
        self.marks.insert(self.marked, Key { node, slot: NEWS });
        let origin = Origin { epoch, first_hand: true, news: self.marked, ..Origin::default() };
        self.origins.insert(node, origin);
        for entry in self.entries.values_mut() {
            entry.holders.remove(node);
            entry.told.remove(node);
            entry.knew.remove(node);
        }
        gone
    }

    fn forget(&mut self, node: NodeIndex, flows: &mut Flows) -> Vec<Gone> {
        let first = Key { node, slot: SlotNumber(0) };
        let keys = self.entries.range(first..).take_while(|(key, _)| key.node == node);
        let keys: Vec<Key> = keys.map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| self.remove(key, flows)).collect()
    }

    /// Takes in what `teller` says of a slot. What was lost by it goes to `gone`.
    pub(super) fn apply(
        &mut self,
        now: Time,
        teller: NodeIndex,
        (node, slot): (NodeIndex, Slot),
        flows: &mut Flows,
        gone: &mut Vec<Gone>,
    ) -> Applied {
        let key = Key { node, slot: slot.slot };
        let first_hand = teller == node;
        let heard = self.origins.get(&node).map_or(0, |origin| origin.since().0);
        match self.entries.get_mut(&key) {
            Some(entry) if (entry.first_hand || !first_hand) && entry.version >= slot.version => {
                return Applied::Coalesced;
            }
            Some(entry) if entry.version == slot.version && entry.says(slot.offer.as_ref()) => {
                entry.first_hand = true;
                return Applied::Handled;
            }
            // What its node says takes the place of what others said.
            Some(_) => {}
            None if first_hand => {}
            // Its node has said all up to that, and not this.
            None if slot.version <= heard => return Applied::Coalesced,
            None => {}
        }
        let before = self.entries.get(&key).map(|entry| {
            // Who has it may know of its end by us alone.
            (entry.first_hand, entry.version, entry.knew.with(&entry.told).with(&entry.holders))
        });
        if !first_hand && let Some((true, version, _)) = before {
            // If it was not true, its node will say again what is.
            self.lose_slots(node, version.saturating_sub(1));
        }
        let knew = before.map(|(_, _, knew)| knew).unwrap_or_default();
        gone.extend(self.remove(key, flows));
        match slot.offer {
            None if knew.is_empty() && first_hand => Applied::Handled,
            offer => self.insert(now, (key, slot.version, offer), (teller, knew), flows),
        }
    }

    fn insert(
        &mut self,
        now: Time,
        (key, version, offer): (Key, u64, Option<Offer>),
        (teller, knew): (NodeIndex, Nodes),
        flows: &mut Flows,
    ) -> Applied {
        let first_hand = teller == key.node;
        let (artifact, too_large) = match offer.map(Artifact::of) {
            Some(artifact) if Travel::of(artifact.size) == Travel::Pieces => (None, true),
            artifact => (artifact, false),
        };
        if too_large && !first_hand {
            return Applied::Dropped(Why::Size);
        }
        let bytes = artifact.as_ref().map_or_else(cost_of_nothing, Artifact::cost);
        let charge = Charge { flow: Flow::Advert, peer: peer(teller), bytes };
        if flows.charge(charge).is_err() {
            if first_hand {
                self.lose_slots(key.node, version.saturating_sub(1));
            }
            return Applied::Dropped(Why::Room);
        }
        if artifact.is_some() {
            self.fresh.insert(key);
        }
        let entry = Entry {
            version,
            first_hand,
            teller,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            body_bytes: 0,
            since: now,
            artifact: artifact.map(Box::new),
            declined: too_large,
            holders: Nodes::default(),
            told: Nodes::default(),
            knew,
            mark: 0,
        };
        self.entries.insert(key, entry);
        if !knew.is_empty() {
            self.mark(key);
        }
        if too_large { Applied::Dropped(Why::Size) } else { Applied::Handled }
    }

    /// Takes an entry out, and gives back what it was charged.
    fn remove(&mut self, key: Key, flows: &mut Flows) -> Option<Gone> {
        let of = self.reference(key)?;
        let mut entry = self.entries.remove(&key)?;
        self.fresh.remove(&key);
        self.marks.remove(&entry.mark);
        flows.release(Charge { flow: Flow::Advert, peer: peer(entry.teller), bytes: u64::from(entry.bytes) });
        entry.release_body(flows);
        let artifact = entry.artifact?;
        Some(Gone { of, told: artifact.received || artifact.interest.is_some() })
    }

    /// All that this node has said of its slots is known up to here.
    pub(super) fn through_slots(&mut self, node: NodeIndex, through: u64) {
        if let Some(origin) = self.origins.get_mut(&node) {
            origin.slots = origin.slots.max(through);
        }
    }

    pub(super) fn through_marks(&mut self, node: NodeIndex, through: u64) {
        if let Some(origin) = self.origins.get_mut(&node) {
            origin.marks = origin.marks.max(through);
        }
    }

    /// Something of a node that came behind this version is not kept.
    fn lose_slots(&mut self, node: NodeIndex, after: u64) {
        if let Some(origin) = self.origins.get_mut(&node) {
            origin.slots_lost = Some(origin.slots_lost.map_or(after, |lost| lost.min(after)));
        }
    }

    /// A mark that came behind this one is not kept.
    pub(super) fn lose_marks(&mut self, node: NodeIndex, after: u64) {
        if let Some(origin) = self.origins.get_mut(&node) {
            origin.marks_lost = Some(origin.marks_lost.map_or(after, |lost| lost.min(after)));
        }
    }

    /// What is missing of a node is asked for: it will be said again from there on.
    pub(super) fn asked_again(&mut self, node: NodeIndex) {
        if let Some(origin) = self.origins.get_mut(&node) {
            (origin.slots, origin.marks) = origin.since();
            (origin.slots_lost, origin.marks_lost) = (None, None);
        }
    }

    /// A node of which we hear only by others begins, or goes on, as they say; whether what they say of this start means anything.
    pub(super) fn hear_of(
        &mut self,
        node: NodeIndex,
        epoch: Epoch,
        linked: bool,
        flows: &mut Flows,
    ) -> (bool, Vec<Gone>) {
        let known = self.origins.get(&node).copied();
        match known {
            Some(origin) if origin.epoch == epoch => (true, Vec::new()),
            Some(origin) if (linked && origin.first_hand) || origin.epoch > epoch => (false, Vec::new()),
            Some(_) | None => {
                let gone = self.begin(node, epoch, flows);
                if let Some(origin) = self.origins.get_mut(&node) {
                    origin.first_hand = false;
                }
                (true, gone)
            }
        }
    }

    /// The next entry about which the user is to be asked.
    pub(super) fn next_advert(&mut self) -> Option<Advert> {
        if let Some(key) = self.fresh.pop_first() {
            return self.advert(key);
        }
        while let Some(from) = self.again {
            let asked = |entry: &Entry| {
                let of = entry.artifact.as_ref();
                of.is_some_and(|a| !a.received && a.interest.is_some())
            };
            let next = self.entries.range(from..).find(|(_, entry)| asked(entry)).map(|(key, _)| *key);
            self.again = next.and_then(Key::next);
            if let Some(advert) = next.and_then(|key| self.advert(key)) {
                return Some(advert);
            }
        }
        None
    }

    /// All that is not received is asked about again.
    pub(super) fn reconsider(&mut self) {
        self.again = Some(Key { node: NodeIndex(0), slot: SlotNumber(0) });
    }

    fn advert(&self, key: Key) -> Option<Advert> {
        let of = self.reference(key)?;
        let artifact = self.entries.get(&key)?.artifact.as_deref()?;
        Some(Advert {
            of,
            topic: artifact.topic.clone(),
            id: artifact.id,
            size: artifact.size,
            attribute: artifact.attribute.to_vec(),
        })
    }

    /// The user does not want it: nothing of it is kept but that.
    pub(super) fn decline(&mut self, key: Key, flows: &mut Flows) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        let Some(artifact) = entry.artifact.take() else { return false };
        entry.declined = true;
        entry.release_body(flows);
        let charged = |bytes| Charge { flow: Flow::Advert, peer: peer(entry.teller), bytes };
        flows.release(charged(u64::from(entry.bytes)));
        // It is less than what was given back.
        let charged = charged(cost_of_nothing());
        entry.bytes =
            if flows.charge(charged).is_ok() { u32::try_from(charged.bytes).unwrap_or(0) } else { 0 };
        artifact.confirm
    }

    /// What we have to do with this entry has changed: it is told behind all other marks.
    pub(super) fn mark(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.marks.remove(&entry.mark);
        self.marked += 1;
        entry.mark = self.marked;
        self.marks.insert(self.marked, key);
    }

    /// The next marks for a peer.
    pub(super) fn next_marks(
        &mut self,
        now: Time,
        to: NodeIndex,
        reader: &mut Reader,
        flows: &mut Flows,
    ) -> Option<Marks> {
        let mut marks: BTreeMap<NodeIndex, Vec<Mark>> = BTreeMap::new();
        let mut bytes = 2 * MARK_BYTES;
        let (mut spent, mut more) = (Vec::new(), false);
        for (at, key) in self.marks.range((Bound::Excluded(reader.marks), Bound::Unbounded)) {
            let room = if marks.contains_key(&key.node) { MARK_BYTES } else { 2 * MARK_BYTES };
            if bytes + room > GOSSIP_WORD_BYTES_MAX {
                more = true;
                break;
            }
            reader.marks = *at;
            let Some(entry) = self.entries.get_mut(key) else {
                // Only which start it is: what was said of another is over.
                if to != key.node {
                    bytes += room;
                    marks.entry(key.node).or_default();
                }
                continue;
            };
            let Some(standing) = entry.standing(now, *key, to, reader) else { continue };
            if entry.is_spent() {
                spent.push(*key);
            }
            bytes += room;
            marks.entry(key.node).or_default().push(Mark {
                slot: key.slot,
                version: entry.version,
                standing,
            });
        }
        reader.marks_due = if more { Due::Now } else { Due::Never };
        let of = marks
            .into_iter()
            .filter_map(|(node, marks)| Some(Marked { node, epoch: self.origins.get(&node)?.epoch, marks }));
        let of: Vec<Marked> = of.collect();
        for key in spent {
            self.remove(key, flows);
        }
        (!of.is_empty()).then_some(Marks { through: reader.marks, of })
    }

    /// About how many bytes a description takes.
    pub(super) fn said_bytes(&self, of: Reference) -> usize {
        let artifact = self.entries.get(&Key::of(of)).and_then(|entry| entry.artifact.as_deref());
        OFFER_BYTES
            + artifact.map_or(0, |artifact| {
                let inside = artifact.body.as_ref().filter(|_| Travel::of(artifact.size) == Travel::Inside);
                artifact.topic.as_str().len() + artifact.attribute.len() + inside.map_or(0, |body| body.len())
            })
    }

    /// A slot as it is described to others. What its node has told us and stands nowhere was withdrawn.
    pub(super) fn describe(&self, of: Reference) -> Option<Slot> {
        let origin = self.origins.get(&of.node).filter(|origin| origin.epoch == of.epoch)?;
        let (version, offer) = match self.entries.get(&Key::of(of)) {
            Some(entry) if entry.declined => return None,
            Some(entry) => (entry.version, entry.artifact.as_deref().map(Artifact::said)),
            None if of.version <= origin.since().0 => (origin.since().0, None),
            None => return None,
        };
        Some(Slot { slot: of.slot, version, offer })
    }
}

/// Bytes of an offer in a word, but for its topic, its attribute and what it has inside.
const OFFER_BYTES: usize = 64;

impl Key {
    pub(super) fn of(of: Reference) -> Key {
        Key { node: of.node, slot: of.slot }
    }

    fn next(self) -> Option<Key> {
        match self.slot.0.checked_add(1) {
            Some(slot) => Some(Key { slot: SlotNumber(slot), ..self }),
            None => Some(Key { node: NodeIndex(self.node.0.checked_add(1)?), slot: SlotNumber(0) }),
        }
    }
}

impl Artifact {
    fn of(offer: Offer) -> Artifact {
        let (id, size, body) = match offer.content {
            Content::Inside { body } => (ArtifactId::of(&body), body.len() as u64, Some(body.into())),
            Content::Apart { id, size } => (id, size, None),
        };
        Artifact {
            topic: offer.topic,
            attribute: offer.attribute.into(),
            confirm: offer.confirm,
            id,
            size,
            body,
            interest: None,
            received: false,
        }
    }

    fn cost(&self) -> u64 {
        cost(&self.topic, self.attribute.len(), self.body.as_ref().map_or(0, |body| body.len() as u64))
    }

    fn said(&self) -> Offer {
        let content = match (&self.body, Travel::of(self.size)) {
            (Some(body), Travel::Inside) => Content::Inside { body: body.to_vec() },
            (_, Travel::Inside | Travel::Whole | Travel::Pieces) => {
                Content::Apart { id: self.id, size: self.size }
            }
        };
        let attribute = self.attribute.to_vec();
        Offer { topic: self.topic.clone(), attribute, confirm: self.confirm, content }
    }
}

impl Entry {
    /// Whether we have the bytes, and want to give them.
    fn has_body(&self) -> bool {
        self.artifact.as_ref().is_some_and(|artifact| artifact.received && artifact.body.is_some())
    }

    /// It was withdrawn, and there is nobody left to tell.
    fn is_spent(&self) -> bool {
        self.artifact.is_none()
            && !self.declined
            && self.first_hand
            && self.told.is_empty()
            && self.knew.is_empty()
    }

    fn says(&self, offer: Option<&Offer>) -> bool {
        match (&self.artifact, offer) {
            (None, None) => true,
            // It was declined for what others said that it is.
            (None, Some(_)) | (Some(_), None) => false,
            (Some(artifact), Some(offer)) => artifact.said() == *offer,
        }
    }

    /// What `to` is to know of us and this slot.
    fn standing(&mut self, now: Time, key: Key, to: NodeIndex, reader: &Reader) -> Option<Standing> {
        if to == key.node {
            let confirm = self.artifact.as_ref().is_some_and(|artifact| artifact.confirm);
            return match (self.has_body(), self.declined) {
                (true, _) if confirm => Some(Standing::Has),
                (false, true) => Some(Standing::Declines),
                (true | false, _) => None,
            };
        }
        if !self.has_body() {
            let told = self.told.remove(to);
            return (self.knew.remove(to) || told).then_some(Standing::Lacks);
        }
        let wanted = self.artifact.as_ref().is_some_and(|a| reader.admits(now, &a.topic, self.since));
        let knew = self.knew.remove(to);
        if wanted && !self.holders.has(to) && self.told.insert(to) {
            return Some(Standing::Has);
        }
        (knew && !wanted).then_some(Standing::Lacks)
    }

    /// A peer has said that it has it no more: it need not be told so.
    pub(super) fn lacked_by(&mut self, node: NodeIndex) {
        self.holders.remove(node);
        if self.artifact.is_none() {
            self.told.remove(node);
            self.knew.remove(node);
        }
    }

    /// Charges its bytes, which are to come; whether there is room.
    pub(super) fn charge_body(&mut self, size: u64, flows: &mut Flows) -> bool {
        let Ok(bytes) = u32::try_from(size) else { return false };
        let charge = Charge { flow: Flow::Chunk, peer: peer(self.teller), bytes: size };
        if self.body_bytes == 0 && flows.charge(charge).is_ok() {
            self.body_bytes = bytes;
        }
        self.body_bytes > 0
    }

    pub(super) fn release_body(&mut self, flows: &mut Flows) {
        let bytes = u64::from(core::mem::take(&mut self.body_bytes));
        if bytes > 0 {
            flows.release(Charge { flow: Flow::Chunk, peer: peer(self.teller), bytes });
        }
    }
}

/// What an entry without an offer is charged.
fn cost_of_nothing() -> u64 {
    busway_wire::limits::GOSSIP_SLOT_BYTES / 2
}

fn peer(node: NodeIndex) -> PeerId {
    PeerId::Node { index: node.0 }
}
