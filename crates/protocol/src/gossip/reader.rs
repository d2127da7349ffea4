//! How far one peer knows our table and our marks, and what it is told next.
//!
//! It is two versions, and a bit for each slot whose change is under way. A slot that changes meanwhile is held, by its number, until
//! the earlier change is done with; a change that is replaced before it was said is never said.
//!
//! Invariant: of each slot one change is under way at most, and one held; all changes up to `through` were said, or are not wanted.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use busway_wire::Topic;
use busway_wire::gossip::{Exchange, Filter, Since, Slot, SlotNumber, Tell};
use busway_wire::limits::{GOSSIP_FLIGHT_SLOTS_MAX, GOSSIP_WALK_MAX, GOSSIP_WORD_BYTES_MAX};

use crate::gossip::due::Due;
use crate::gossip::nodes::Slots;
use crate::gossip::table::{Offered, Table};
use crate::time::Time;

/// A *tell* has more than its slots.
const TELL_BYTES: usize = 32;

/// How far one peer is.
#[derive(Debug, Default)]
pub(super) struct Reader {
    filter: Option<Filter>,
    /// All changes up to it were said, are held, or are not wanted.
    next: u64,
    /// Changes of slots of which an earlier one is under way, by version, and by slot.
    held: BTreeMap<u64, SlotNumber>,
    holding: BTreeMap<SlotNumber, u64>,
    /// Whether one of them may be said now.
    released: bool,
    /// What is under way: in which *tell*, and whether it is the last of it.
    flight: VecDeque<(u64, SlotNumber)>,
    flying: Slots,
    /// Slots in which something stands that it was told of on this link; and whether others may, which it was told of before.
    live: Slots,
    resumed: bool,
    told: u64,
    handled: u64,
    /// All marks up to it were said, or need not be.
    pub(super) marks: u64,
    /// By when further ones are said.
    pub(super) marks_due: Due,
    /// All marks up to it have come there, and what they name is known.
    pub(super) acknowledged: u64,
    /// Words *exchange* of this link that were followed.
    pub(super) exchanges: u64,
}

/// It says more than can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ahead;

impl Reader {
    /// The peer has said how far it knows our table and our marks. What is under way stays so.
    pub(super) fn begin(&mut self, exchange: Exchange, ours: Since) {
        let sound = |since: &Since| {
            since.epoch == ours.epoch && since.slots <= ours.slots && since.marks <= ours.marks
        };
        let since = exchange.since.filter(sound);
        // Who has heard of us at all may know, of us or of others, what stands nowhere any more.
        self.resumed |= since.is_some();
        let since = since.unwrap_or_default();
        self.filter = exchange.filter;
        self.next = since.slots;
        self.held.clear();
        self.holding.clear();
        self.released = false;
        (self.marks, self.acknowledged) = (since.marks, since.marks);
        self.marks_due = if since.marks < ours.marks { Due::Now } else { Due::Never };
    }

    /// Whether the change with which a slot came to this version has not been said yet, so that the next one takes its place.
    pub(super) fn misses(&self, version: u64) -> bool {
        version > self.next || self.held.contains_key(&version)
    }

    /// Whether something may be said of a table at that version.
    pub(super) fn has_news(&self, version: u64) -> bool {
        (self.next < version || self.released) && self.flight.len() < GOSSIP_FLIGHT_SLOTS_MAX
    }

    /// What is said next.
    pub(super) fn tell(&mut self, now: Time, table: &Table, looked: &mut u64) -> Option<Tell> {
        let mut slots = Vec::new();
        let (mut bytes, mut walked, mut more) = (TELL_BYTES, 0, false);
        if core::mem::take(&mut self.released) {
            let held: Vec<(u64, SlotNumber)> = self.held.iter().map(|(v, slot)| (*v, *slot)).collect();
            for (version, slot) in held {
                if table.slot(slot).is_none_or(|own| own.version != version) {
                    self.release(version, slot);
                } else if !self.flying.has(slot) {
                    if !self.say(now, table, slot, (&mut slots, &mut bytes)) {
                        self.released = true;
                        break;
                    }
                    self.release(version, slot);
                }
            }
        }
        for (version, slot) in table.after(self.next) {
            if self.released {
                break;
            }
            if walked == GOSSIP_WALK_MAX {
                more = true;
                break;
            }
            walked += 1;
            if self.flying.has(slot) {
                if let Some(before) = self.holding.insert(slot, version) {
                    self.held.remove(&before);
                }
                self.held.insert(version, slot);
            } else if !self.say(now, table, slot, (&mut slots, &mut bytes)) {
                break;
            }
            self.next = version;
        }
        *looked += walked as u64;
        // Where all of so many was passed over, the peer is told how far that is, and the rest is looked at the next time.
        if slots.is_empty() && !more {
            return None;
        }
        self.told += 1;
        Some(Tell { exchanges: self.exchanges, through: self.through(), slots })
    }

    fn release(&mut self, version: u64, slot: SlotNumber) {
        self.held.remove(&version);
        self.holding.remove(&slot);
    }

    /// Changes that wait for an earlier one of their slots.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Puts a slot into a word, as far as the peer is to know of it; whether there was room.
    fn say(
        &mut self,
        now: Time,
        table: &Table,
        slot: SlotNumber,
        (slots, bytes): (&mut Vec<Slot>, &mut usize),
    ) -> bool {
        let Some(own) = table.slot(slot) else { return true };
        let wanted = own.offered.as_ref().filter(|offered| self.admits(now, &offered.topic, own.since));
        // What was withdrawn it may know of others, whatever we told it; what it does not want only of us.
        if own.offered.is_some() && wanted.is_none() && !self.resumed && !self.live.has(slot) {
            return true;
        }
        let more = wanted.map_or(24, Offered::said_bytes);
        if *bytes + more > GOSSIP_WORD_BYTES_MAX || self.flight.len() >= GOSSIP_FLIGHT_SLOTS_MAX {
            return false;
        }
        if wanted.is_some() {
            self.live.insert(slot);
        } else {
            self.live.remove(slot);
        }
        *bytes += more;
        slots.push(Slot { slot, version: own.version, offer: wanted.map(Offered::said) });
        self.flying.insert(slot);
        self.flight.push_back((self.told + 1, slot));
        true
    }

    /// So many words *tell* are done with, and all marks up to one are known: up to which they were before, and are now.
    pub(super) fn handled(&mut self, tells: u64, marks: u64) -> Result<(u64, u64), Ahead> {
        if tells > self.told || tells < self.handled || marks > self.marks {
            return Err(Ahead);
        }
        self.handled = tells;
        while let Some((_, slot)) = self.flight.front().copied().filter(|(tell, _)| *tell <= tells) {
            self.flight.pop_front();
            self.flying.remove(slot);
        }
        self.released |= !self.held.is_empty();
        let before = self.acknowledged;
        self.acknowledged = before.max(marks);
        Ok((before, self.acknowledged))
    }

    /// Slots that are under way.
    pub(super) fn under_way(&self) -> usize {
        self.flight.len()
    }

    /// Whether something of this topic that came so long ago is wanted.
    pub(super) fn admits(&self, now: Time, topic: &Topic, since: Time) -> bool {
        self.filter.as_ref().is_none_or(|filter| {
            let young = filter.age_ms_max.is_none_or(|ms| now <= since.after_ms(ms));
            let of = &filter.patterns;
            young && (of.is_empty() || of.iter().any(|pattern| pattern.matches(topic)))
        })
    }

    fn through(&self) -> u64 {
        self.held.first_key_value().map_or(self.next, |(version, _)| self.next.min(version - 1))
    }
}
