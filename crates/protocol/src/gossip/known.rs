//! What others offer, as far as we know it, and which of them have it.
//!
//! Each slot of each node is an entry for each version of it that somebody stands for: what stood in it, and a bit for each peer that has said it has
//! the bytes. A node is believed alone about its own slots while it is linked, and what it has said until it says otherwise. Of a node that is not linked,
//! what one peer says stands beside what others say, and is charged to who said it. It is over when one who stood for it says so, since those who
//! have it of each other would else keep it for ever; the others who stood for it are asked in a while, when they should have heard of it.
//!
//! What we have to do with a slot has a place in one order of marks, which peers are told as they are told our slots. A peer that was told we have something
//! may believe so until it has acknowledged a later mark; so what is over is kept, as a note of whom to tell, until all of them have.
//! What has no room is dropped, and known to be missing.
//!
//! Invariant: an entry that stands here is charged to its teller; of a node we miss nothing up to `Origin::since`; of a slot one
//! entry at most is of its own node's word.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Bound;

use busway_wire::gossip::{
    Epoch, Mark, Marked, Marks, NodeIndex, Offer, Reference, Slot, SlotNumber, Standing,
};
use busway_wire::limits::{ARTIFACT_BYTES_MAX, GOSSIP_WALK_MAX, GOSSIP_WORD_BYTES_MAX};

use crate::flow::Flows;
use crate::gossip::due::Due;
use crate::gossip::entry::{Artifact, Entry};
use crate::gossip::origin::Origin;
use crate::gossip::reader::Reader;
use crate::gossip::{Advert, Nodes, Why};
use crate::time::Time;

/// A mark in a word takes at most so much, and its node as much again.
const MARK_BYTES: usize = 18;

/// Bytes of an offer in a word, but for its topic, its attribute and what it has inside.
const OFFER_BYTES: usize = 64;

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
    /// Those that have spoken for themselves.
    pub(super) origins: BTreeMap<NodeIndex, Origin>,
    entries: BTreeMap<Reference, Entry>,
    marks: BTreeMap<u64, Reference>,
    /// Those of them that say that we have something no more.
    lacking: BTreeMap<u64, Reference>,
    pub(super) marked: u64,
    /// Entries about which the user has not been asked.
    fresh: BTreeSet<Reference>,
    /// Where the next one stands that it is to be asked about again.
    again: Option<Reference>,
    /// Entries that were looked at to say what is so.
    pub(super) looked: u64,
}

impl Known {
    pub(super) fn entry(&self, of: Reference) -> Option<&Entry> {
        self.entries.get(&of)
    }

    pub(super) fn entry_mut(&mut self, of: Reference) -> Option<&mut Entry> {
        self.entries.get_mut(&of)
    }

    /// What stands there.
    pub(super) fn artifact(&self, of: Reference) -> Option<&Artifact> {
        self.entries.get(&of)?.artifact.as_deref()
    }

    pub(super) fn artifact_mut(&mut self, of: Reference) -> Option<&mut Artifact> {
        self.entries.get_mut(&of)?.artifact.as_deref_mut()
    }

    /// Whether its own node has told us all up to that, and so what stands there if something does.
    pub(super) fn is_told(&self, of: Reference) -> bool {
        self.origins.get(&of.node).is_some_and(|origin| {
            origin.epoch > of.epoch || (origin.epoch == of.epoch && of.version <= origin.since().0)
        })
    }

    /// Whether its own node has said what stands there.
    pub(super) fn is_first_hand(&self, of: Reference) -> bool {
        self.entries.get(&of).is_some_and(|entry| entry.first_hand)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn of_node(&self, node: NodeIndex) -> impl Iterator<Item = (Reference, &Entry)> {
        let first = Reference { node, ..Reference::default() };
        let of = self.entries.range(first..).map(|(of, entry)| (*of, entry));
        of.take_while(move |(of, _)| of.node == node)
    }

    /// All versions of the slot of this one, of the same start.
    fn of_slot(&self, of: Reference) -> impl DoubleEndedIterator<Item = (Reference, &Entry)> {
        let (first, last) = (Reference { version: 0, ..of }, Reference { version: u64::MAX, ..of });
        self.entries.range(first..=last).map(|(of, entry)| (*of, entry))
    }

    /// A node says which start it is, and where its table is: what it said before another start is over, and so is what others say of it that
    /// cannot be.
    pub(super) fn begin(
        &mut self,
        node: NodeIndex,
        (epoch, version): (Epoch, u64),
        flows: &mut Flows,
    ) -> Vec<Gone> {
        let before = self.origins.get(&node).map(|origin| origin.epoch);
        let over = self
            .of_node(node)
            .filter(|(of, entry)| of.epoch != epoch || (!entry.first_hand && of.version > version));
        let over: Vec<Reference> = over.map(|(of, _)| of).collect();
        let mut gone: Vec<Gone> = over.into_iter().filter_map(|of| self.retire(of, flows)).collect();
        match self.origins.get_mut(&node).filter(|origin| origin.epoch == epoch) {
            Some(origin) => origin.at(version),
            None => {
                self.origins.insert(node, Origin::new(epoch, version));
                if before.is_some() {
                    self.forget_of_others(node, flows, &mut gone);
                }
            }
        }
        self.confirm(node, flows, &mut gone);
        gone
    }

    /// A node is gone for good: what it offered, and what it was told.
    pub(super) fn forget(&mut self, node: NodeIndex, flows: &mut Flows) -> Vec<Gone> {
        let over: Vec<Reference> = self.of_node(node).map(|(of, _)| of).collect();
        let mut gone: Vec<Gone> = over.into_iter().filter_map(|of| self.retire(of, flows)).collect();
        self.origins.remove(&node);
        self.forget_of_others(node, flows, &mut gone);
        gone
    }

    /// A node knows nothing of what it was told, and stands for nothing, of whatever node that is.
    fn forget_of_others(&mut self, node: NodeIndex, flows: &mut Flows, gone: &mut Vec<Gone>) {
        let (mut over, mut spent) = (Vec::new(), Vec::new());
        for (of, entry) in &mut self.entries {
            entry.told.remove(node);
            let stood = entry.holders.remove(node);
            if entry.is_over() && entry.told.is_empty() {
                spent.push(*of);
            } else if stood && !entry.first_hand && entry.holders.is_empty() {
                over.push(*of);
            }
        }
        spent.into_iter().for_each(|of| self.drop_note(of, flows));
        gone.extend(over.into_iter().filter_map(|of| self.retire(of, flows)));
    }

    /// What others say of a node that has now told all of its table, and not that, is not so.
    fn confirm(&mut self, node: NodeIndex, flows: &mut Flows, gone: &mut Vec<Gone>) {
        let told = self.origins.get_mut(&node).is_some_and(Origin::is_first_told);
        if told {
            let over = self.of_node(node).filter(|(_, entry)| !entry.first_hand);
            let over: Vec<Reference> = over.map(|(of, _)| of).collect();
            gone.extend(over.into_iter().filter_map(|of| self.retire(of, flows)));
        }
    }

    /// Takes in what a node says of its own slot. What was lost by it goes to `gone`.
    pub(super) fn told(
        &mut self,
        now: Time,
        (node, slot): (NodeIndex, Slot),
        flows: &mut Flows,
        gone: &mut Vec<Gone>,
    ) -> (Option<Reference>, Applied) {
        let Some(origin) = self.origins.get(&node) else { return (None, Applied::Dropped(Why::Forged)) };
        let Slot { slot, version, offer } = slot;
        let of = Reference { node, epoch: origin.epoch, slot, version };
        let newest = self.of_slot(of).rev().find(|(_, entry)| entry.first_hand);
        // An end of the version that stands is one: it may not be offered any more. And what is over here may stand there still: we forgot it, or could not be told.
        let known = |(newest, entry): (Reference, &Entry)| {
            newest.version > version || newest.version == version && entry.is_over() == offer.is_none()
        };
        if newest.is_some_and(known) {
            return (Some(of), Applied::Coalesced);
        }
        let same = |entry: &Entry| offer.as_ref().is_some_and(|offer| entry.says(offer));
        let known =
            self.entries.get_mut(&of).filter(|entry| same(entry)).map(|entry| entry.first_hand = true);
        let others: Vec<Reference> = self.of_slot(of).map(|(other, _)| other).collect();
        for other in others.into_iter().filter(|other| known.is_none() || *other != of) {
            gone.extend(self.retire(other, flows));
        }
        match offer {
            Some(offer) if known.is_none() => (Some(of), self.insert(now, of, offer, (node, true), flows)),
            Some(_) | None => (Some(of), Applied::Handled),
        }
    }

    /// Takes in what a peer says of the slot of a node that is not there to speak for itself.
    pub(super) fn described(
        &mut self,
        now: Time,
        from: NodeIndex,
        (of, offer): (Reference, Offer),
        flows: &mut Flows,
    ) -> Applied {
        let told = self.is_told(of);
        match self.entries.get_mut(&of) {
            Some(entry) if entry.says(&offer) => {
                entry.holders.insert(from);
                Applied::Coalesced
            }
            // Who spoke first is believed until its node speaks.
            Some(entry) if !entry.is_over() => Applied::Coalesced,
            None if told => Applied::Coalesced,
            Some(_) | None => {
                let applied = self.insert(now, of, offer, (from, false), flows);
                if let Some(entry) = self.entries.get_mut(&of) {
                    entry.holders.insert(from);
                }
                applied
            }
        }
    }

    fn insert(
        &mut self,
        now: Time,
        of: Reference,
        offer: Offer,
        (teller, first_hand): (NodeIndex, bool),
        flows: &mut Flows,
    ) -> Applied {
        let artifact = Artifact::of(offer);
        if artifact.size > ARTIFACT_BYTES_MAX {
            return Applied::Dropped(Why::Size);
        }
        let Some(mut entry) = Entry::of(now, artifact, (teller, first_hand), flows) else {
            if first_hand {
                self.lose_slots(of.node, of.version.saturating_sub(1));
            }
            return Applied::Dropped(Why::Room);
        };
        if let Some(mut note) = self.entries.remove(&of) {
            // Who believes that we had it is told when we have it again.
            note.release(flows);
            entry.told = note.told;
            self.unmark(note.mark);
        }
        self.entries.insert(of, entry);
        self.fresh.insert(of);
        Applied::Handled
    }

    /// What stood there is over; a note stays for whom to tell.
    pub(super) fn retire(&mut self, of: Reference, flows: &mut Flows) -> Option<Gone> {
        let entry = self.entries.get_mut(&of).filter(|entry| !entry.is_over())?;
        let declined = core::mem::take(&mut entry.declined);
        let artifact = entry.shrink(flows);
        let spent = entry.told.is_empty();
        self.fresh.remove(&of);
        if spent {
            self.drop_note(of, flows);
        } else {
            self.mark(of);
        }
        let told =
            artifact.is_some_and(|artifact| declined || artifact.received || artifact.interest.is_some());
        Some(Gone { of, told })
    }

    fn drop_note(&mut self, of: Reference, flows: &mut Flows) {
        if let Some(mut entry) = self.entries.remove(&of) {
            entry.release_body(flows);
            entry.release(flows);
            self.unmark(entry.mark);
        }
    }

    /// A peer has it.
    pub(super) fn has(&mut self, of: Reference, from: NodeIndex) {
        if let Some(entry) = self.entries.get_mut(&of) {
            entry.holders.insert(from);
        }
    }

    /// A peer has it no more. What was known by others alone is over then; who stood for it too.
    pub(super) fn lacks(
        &mut self,
        of: Reference,
        from: NodeIndex,
        flows: &mut Flows,
    ) -> Option<(Gone, Nodes)> {
        let entry = self.entries.get_mut(&of)?;
        let stood = entry.holders.remove(from);
        if !stood || entry.first_hand {
            return None;
        }
        let others = core::mem::take(&mut entry.holders);
        Some((self.retire(of, flows)?, others))
    }

    /// All that this node has said of its slots is known up to here.
    pub(super) fn through_slots(&mut self, node: NodeIndex, through: u64, flows: &mut Flows) -> Vec<Gone> {
        let mut gone = Vec::new();
        if let Some(origin) = self.origins.get_mut(&node) {
            origin.slots = origin.slots.max(through);
            self.confirm(node, flows, &mut gone);
        }
        gone
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

    /// All that a node says is missing.
    pub(super) fn lose(&mut self, node: NodeIndex) {
        self.lose_slots(node, 0);
        self.lose_marks(node, 0);
        if let Some(origin) = self.origins.get_mut(&node) {
            origin.asks_afresh();
        }
    }

    /// The next entry about which the user is to be asked.
    pub(super) fn next_advert(&mut self) -> Option<Advert> {
        while let Some(of) = self.fresh.pop_first() {
            if let Some(artifact) = self.artifact(of) {
                return Some(artifact.advert(of));
            }
        }
        while let Some(from) = self.again {
            let asked = |entry: &Entry| {
                let of = entry.artifact.as_ref();
                of.is_some_and(|a| !a.received && a.interest.is_some())
            };
            let next = self.entries.range(from..).find(|(_, entry)| asked(entry)).map(|(of, _)| *of);
            self.again = next.and_then(after);
            let advert = next.and_then(|of| Some(self.artifact(of)?.advert(of)));
            if advert.is_some() {
                return advert;
            }
        }
        None
    }

    /// All that is not received is asked about again.
    pub(super) fn reconsider(&mut self) {
        self.again = Some(Reference::default());
    }

    /// The user does not want it: it is not asked about again, but kept in mind, since another user may come. Whether its node is to be told.
    pub(super) fn decline(&mut self, of: Reference) -> bool {
        let Some(entry) = self.entries.get_mut(&of).filter(|entry| !entry.declined) else { return false };
        let Some(artifact) = entry.artifact.as_deref_mut() else { return false };
        artifact.interest = None;
        entry.declined = true;
        artifact.confirm
    }

    /// What we have to do with this entry has changed: it is told behind all other marks.
    pub(super) fn mark(&mut self, of: Reference) {
        let Some(entry) = self.entries.get_mut(&of) else { return };
        let before = entry.mark;
        self.marked += 1;
        entry.mark = self.marked;
        let lacks = !entry.has_body() && !entry.told.is_empty();
        self.unmark(before);
        self.marks.insert(self.marked, of);
        if lacks {
            self.lacking.insert(self.marked, of);
        }
    }

    fn unmark(&mut self, mark: u64) {
        self.marks.remove(&mark);
        self.lacking.remove(&mark);
    }

    /// A peer knows all our marks up to one, of which it knew those up to another before.
    pub(super) fn acknowledged(&mut self, peer: NodeIndex, (after, through): (u64, u64), flows: &mut Flows) {
        if through <= after {
            return;
        }
        let told = self.lacking.range((Bound::Excluded(after), Bound::Included(through)));
        let told: Vec<Reference> = told.map(|(_, of)| *of).collect();
        for of in told {
            let Some(entry) = self.entries.get_mut(&of) else { continue };
            entry.told.remove(peer);
            if entry.is_over() && entry.told.is_empty() {
                self.drop_note(of, flows);
            }
        }
    }

    /// The next marks for a peer.
    pub(super) fn next_marks(&mut self, now: Time, to: NodeIndex, reader: &mut Reader) -> Option<Marks> {
        let mut marks: BTreeMap<(NodeIndex, Epoch), Vec<Mark>> = BTreeMap::new();
        let (mut bytes, mut looked, mut more) = (2 * MARK_BYTES, 0, false);
        for (at, of) in self.marks.range((Bound::Excluded(reader.marks), Bound::Unbounded)) {
            let start = (of.node, of.epoch);
            let room = if marks.contains_key(&start) { MARK_BYTES } else { 2 * MARK_BYTES };
            if bytes + room > GOSSIP_WORD_BYTES_MAX || looked == GOSSIP_WALK_MAX {
                more = true;
                break;
            }
            looked += 1;
            reader.marks = *at;
            let Some(entry) = self.entries.get_mut(of) else { continue };
            let Some(standing) = entry.standing(now, *of, to, reader) else { continue };
            if standing == Standing::Has && to != of.node {
                entry.told.insert(to);
            }
            bytes += room;
            marks.entry(start).or_default().push(Mark { slot: of.slot, version: of.version, standing });
        }
        self.looked += looked as u64;
        reader.marks_due = if more { Due::Now } else { Due::Never };
        let of = marks.into_iter().map(|((node, epoch), marks)| Marked { node, epoch, marks });
        let of: Vec<Marked> = of.collect();
        (more || !of.is_empty()).then_some(Marks { exchanges: reader.exchanges, through: reader.marks, of })
    }

    /// A slot as it is described to others, and about how many bytes that takes: what we have of it, or that we have it no more.
    pub(super) fn describe(&self, of: Reference) -> (Slot, usize) {
        let entry = self.entries.get(&of).filter(|entry| entry.has_body());
        let offer = entry.and_then(|entry| entry.artifact.as_deref()).map(Artifact::said);
        let bytes = offer.as_ref().map_or(0, |offer| {
            let inside = match &offer.content {
                busway_wire::gossip::Content::Inside { body } => body.len(),
                busway_wire::gossip::Content::Apart { .. } => 0,
            };
            offer.topic.as_str().len() + offer.attribute.len() + inside
        });
        (Slot { slot: of.slot, version: of.version, offer }, OFFER_BYTES + bytes)
    }
}

/// The reference behind this one, in their order.
fn after(of: Reference) -> Option<Reference> {
    if let Some(version) = of.version.checked_add(1) {
        return Some(Reference { version, ..of });
    }
    if let Some(slot) = of.slot.0.checked_add(1) {
        return Some(Reference { slot: SlotNumber(slot), version: 0, ..of });
    }
    if let Some(epoch) = of.epoch.0.checked_add(1) {
        return Some(Reference { epoch: Epoch(epoch), slot: SlotNumber(0), version: 0, ..of });
    }
    let node = of.node.0.checked_add(1)?;
    Some(Reference { node: NodeIndex(node), ..Reference::default() })
}
