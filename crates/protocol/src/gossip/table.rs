//! Our own slots: what we offer, by version.
//!
//! A change of a slot takes the place of the one before it, also in the order of versions; so the order is as long as there are slots,
//! however often they change, and who knows it up to a version is told what comes behind. It knows no peers.
//!
//! Invariant: each slot that was ever used stands in the order once, at the version of its latest change.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use busway_wire::Topic;
use busway_wire::gossip::{ArtifactId, Content, Offer, SlotNumber};
use busway_wire::limits::GOSSIP_SLOT_BYTES;

use crate::artifact::Travel;
use crate::gossip::{Nodes, OfferError, Offering};
use crate::time::Time;

/// What we offer.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) topic: Topic,
    attribute: Box<[u8]>,
    pub(super) id: ArtifactId,
    pub(super) size: u64,
    /// Empty where it lies in the store.
    pub(super) body: Arc<[u8]>,
    /// Until when it is kept for who has not said that it has it, and who has.
    pub(super) until: Option<Time>,
    pub(super) confirmed: Nodes,
}

/// One slot.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) version: u64,
    pub(super) since: Time,
    /// Without, it was withdrawn.
    pub(super) offered: Option<Offered>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Own>,
    order: BTreeMap<u64, SlotNumber>,
    version: u64,
    /// Slots that were withdrawn, the longest ago first.
    free: BTreeSet<(u64, SlotNumber)>,
    deadlines: BTreeSet<(Time, SlotNumber)>,
    bytes: u64,
    slots_max: u32,
    bytes_max: u64,
}

impl Table {
    pub(super) fn new(slots_max: u32, bytes_max: u64) -> Table {
        Table {
            slots: Vec::new(),
            order: BTreeMap::new(),
            version: 0,
            free: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
            slots_max,
            bytes_max,
        }
    }

    /// The version of the latest change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn slot(&self, slot: SlotNumber) -> Option<&Own> {
        self.slots.get(slot.0 as usize)
    }

    pub(super) fn slot_mut(&mut self, slot: SlotNumber) -> Option<&mut Own> {
        self.slots.get_mut(slot.0 as usize)
    }

    /// Slots in use, and their bytes.
    pub(super) fn usage(&self) -> (usize, u64) {
        (self.slots.len() - self.free.len(), self.bytes)
    }

    /// Puts an offer into the slot that it names, or into a free one.
    pub(super) fn offer(&mut self, now: Time, offering: Offering) -> Result<SlotNumber, OfferError> {
        let size = offering.size();
        offering.check()?;
        let slot = match offering.instead_of {
            Some(slot) if self.offered(slot).is_none() => return Err(OfferError::Gone { slot }),
            Some(slot) => slot,
            None => self.free_slot()?,
        };
        let id = offering.id();
        let body = if Travel::of(size) == Travel::Pieces { Arc::from([]) } else { offering.body };
        let bytes = cost(&offering.topic, offering.attribute.len(), body.len() as u64);
        let before = self.slot(slot).and_then(|own| own.offered.as_ref()).map_or(0, Offered::cost);
        if self.bytes - before + bytes > self.bytes_max {
            return Err(OfferError::Bytes { bytes_max: self.bytes_max });
        }
        let offered = Offered {
            id,
            size,
            topic: offering.topic,
            attribute: offering.attribute.into(),
            body,
            until: offering.reach_all_ms.map(|ms| now.after_ms(ms)),
            confirmed: Nodes::default(),
        };
        if slot.0 as usize == self.slots.len() {
            self.slots.push(Own { version: 0, since: now, offered: None });
        }
        self.change(now, slot, Some(offered));
        Ok(slot)
    }

    /// Takes out what stands in a slot; whether something did.
    pub(super) fn withdraw(&mut self, now: Time, slot: SlotNumber) -> bool {
        let offered = self.offered(slot).is_some();
        if offered {
            self.change(now, slot, None);
        }
        offered
    }

    /// The next slot whose deadline has come: it is taken out, and with it who had not confirmed it.
    pub(super) fn expire(&mut self, now: Time) -> Option<(SlotNumber, Nodes)> {
        let (_, slot) = self.deadlines.first().copied().filter(|(at, _)| *at <= now)?;
        let confirmed = self.offered(slot).map(|offered| offered.confirmed).unwrap_or_default();
        self.change(now, slot, None);
        Some((slot, confirmed))
    }

    /// Those that are to reach all, and are with all of these.
    pub(super) fn reached(&self, members: &Nodes) -> Vec<SlotNumber> {
        let with_all = |slot: &SlotNumber| {
            self.offered(*slot).is_some_and(|offered| members.without(&offered.confirmed).is_empty())
        };
        self.deadlines.iter().map(|(_, slot)| *slot).filter(with_all).collect()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Changes behind this version, in their order.
    pub(super) fn after(&self, version: u64) -> impl Iterator<Item = (u64, SlotNumber)> {
        let behind = (Bound::Excluded(version), Bound::Unbounded);
        self.order.range(behind).map(|(version, slot)| (*version, *slot))
    }

    pub(super) fn offered(&self, slot: SlotNumber) -> Option<&Offered> {
        self.slot(slot)?.offered.as_ref()
    }

    fn free_slot(&mut self) -> Result<SlotNumber, OfferError> {
        if let Some((_, slot)) = self.free.first() {
            return Ok(*slot);
        }
        let next = u32::try_from(self.slots.len()).ok().filter(|next| *next < self.slots_max);
        next.map(SlotNumber).ok_or(OfferError::Slots { slots_max: self.slots_max })
    }

    fn change(&mut self, now: Time, slot: SlotNumber, offered: Option<Offered>) {
        let Some(own) = self.slots.get_mut(slot.0 as usize) else { return };
        self.version += 1;
        self.order.remove(&own.version);
        self.order.insert(self.version, slot);
        self.free.remove(&(own.version, slot));
        if let Some(before) = &own.offered {
            self.bytes -= before.cost();
            self.deadlines.remove(&(before.until.unwrap_or_default(), slot));
        }
        match &offered {
            None => {
                self.free.insert((self.version, slot));
            }
            Some(offered) => {
                self.bytes += offered.cost();
                if let Some(until) = offered.until {
                    self.deadlines.insert((until, slot));
                }
            }
        }
        *own = Own { version: self.version, since: now, offered };
    }
}

impl Offered {
    fn cost(&self) -> u64 {
        cost(&self.topic, self.attribute.len(), self.body.len() as u64)
    }

    pub(super) fn said(&self) -> Offer {
        let content = match Travel::of(self.size) {
            Travel::Inside => Content::Inside { body: self.body.to_vec() },
            Travel::Whole | Travel::Pieces => Content::Apart { id: self.id, size: self.size },
        };
        let attribute = self.attribute.to_vec();
        Offer { topic: self.topic.clone(), attribute, confirm: self.until.is_some(), content }
    }

    /// About how many bytes it takes in a word.
    pub(super) fn said_bytes(&self) -> usize {
        let content = if Travel::of(self.size) == Travel::Inside { self.body.len() } else { 42 };
        24 + self.topic.as_str().len() + self.attribute.len() + content
    }
}

/// What one slot is charged for what is kept of it.
pub(super) fn cost(topic: &Topic, attribute_bytes: usize, body_bytes: u64) -> u64 {
    GOSSIP_SLOT_BYTES + topic.as_str().len() as u64 + attribute_bytes as u64 + body_bytes
}
