//! Who is given the room of a store when there is not enough for all: what found none waits here, by who told of it.
//!
//! The first of each teller is tried when something is given back, and the next one only when that found room: who tells of much keeps nobody waiting and costs one look.
//! What has taken room while others wait must come. Of what nothing comes for a while the room goes to others, soon if nothing came of it yet, and what takes very long
//! makes way once, then for twice as long. Its teller is behind all others then, and waits ever longer. So an advert alone keeps room from nobody.
//!
//! It knows no store. Who has one says what found no room, and tries what is named.
//!
//! Invariant: what waits stands in one queue, and nothing waits for ever while room is given back.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use busway_wire::gossip::{NodeIndex, Reference};

use crate::time::Time;

/// What had no room is tried again after so long at the latest: somebody may have made some on the disk.
const AGAIN_MS: u64 = 5_000;
/// Nothing has come of it for so long, of which nothing came before: some round trips. Twice as long the next time, for links that are slower.
const FIRST_MS: u64 = 250;
/// Nothing has come of it for so long: as long as a peer may be silent, and a little.
const STALLED_MS: u64 = 3_000;
/// It is not half here after so long: 1 GiB comes meanwhile at 150 Mbit/s. Twice as long the next time.
const SLICE_MS: u64 = 60_000;
/// Neither pauses nor slices are doubled more often: five minutes, and an hour.
const DOUBLED_MAX: u32 = 6;

/// Something that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arriving {
    /// What.
    pub of: Reference,
    /// Who told of it.
    pub teller: NodeIndex,
    /// How many bytes it has.
    pub size: u64,
    /// How many of them are here.
    pub have: u64,
    /// When bytes of it last came, or it was begun.
    pub moved: Time,
}

/// What one teller told of.
#[derive(Debug, Default)]
struct Queue {
    waits: BTreeSet<(u64, Reference)>,
    /// Its first found no room since there was some.
    closed: bool,
    /// How often something of it did not come.
    faults: u32,
    again: Time,
}

/// See the head of this file.
///
/// ```
/// use busway_protocol::Time;
/// use busway_protocol::gossip::{NodeIndex, Reference, Room};
/// let (mut room, of) = (Room::default(), Reference::default());
/// room.found_none(Time(0), of, NodeIndex(1));
/// assert_eq!(room.next(Time(0)), None, "it was tried just now");
/// room.open();
/// assert_eq!(room.next(Time(0)), Some(of));
/// ```
#[derive(Debug, Default)]
pub struct Room {
    queues: BTreeMap<NodeIndex, Queue>,
    of: BTreeMap<Reference, (NodeIndex, u64)>,
    came: u64,
    /// What was named last, and its place.
    tried: Option<(Reference, u64)>,
    /// What comes while others wait, since when, and how often it made way.
    coming: BTreeMap<Reference, Time>,
    made_way: BTreeMap<Reference, u32>,
    /// When all are tried again, and when one is late that comes now.
    again: Option<Time>,
    late: Option<Time>,
}

impl Room {
    /// It is wanted, and found no room.
    pub fn found_none(&mut self, now: Time, of: Reference, teller: NodeIndex) {
        let place = self.tried.take().filter(|(tried, _)| *tried == of).map(|(_, place)| place);
        self.insert(of, teller, place);
        self.queues.entry(teller).or_default().closed = true;
        self.again.get_or_insert(now.after_ms(AGAIN_MS));
    }

    /// Whether what this one tells of needs not be tried now: something of it waits before that.
    #[must_use]
    pub fn is_closed(&self, teller: NodeIndex) -> bool {
        self.queues.get(&teller).is_some_and(|queue| queue.closed && !queue.waits.is_empty())
    }

    fn insert(&mut self, of: Reference, teller: NodeIndex, place: Option<u64>) {
        self.remove(of);
        self.came += 1;
        let place = place.unwrap_or(self.came);
        self.of.insert(of, (teller, place));
        self.queues.entry(teller).or_default().waits.insert((place, of));
    }

    fn remove(&mut self, of: Reference) {
        if let Some((teller, place)) = self.of.remove(&of)
            && let Some(queue) = self.queues.get_mut(&teller)
        {
            queue.waits.remove(&(place, of));
        }
        if self.of.is_empty() {
            (self.again, self.late) = (None, None);
        }
    }

    /// It is not offered any more.
    pub fn gone(&mut self, of: Reference) {
        self.remove(of);
        self.made_way.remove(&of);
        self.coming.remove(&of);
        self.open();
    }

    /// All of it has come: half of what its teller did wrong is forgotten.
    pub fn came(&mut self, of: Reference, teller: NodeIndex) {
        self.remove(of);
        self.made_way.remove(&of);
        if let Some(queue) = self.queues.get_mut(&teller) {
            queue.faults /= 2;
        }
    }

    /// Something was given back.
    pub fn open(&mut self) {
        self.queues.values_mut().for_each(|queue| queue.closed = false);
    }

    /// What is to be tried now, one after the other.
    pub fn next(&mut self, now: Time) -> Option<Reference> {
        if self.again.is_some_and(|again| again <= now) {
            self.again = Some(now.after_ms(AGAIN_MS));
            self.open();
        }
        let open = self.queues.values().filter(|queue| !queue.closed && queue.again <= now);
        let first = open.filter_map(|queue| Some((queue.faults, *queue.waits.first()?)));
        let (_, (place, of)) = first.min()?;
        self.remove(of);
        self.tried = Some((of, place));
        Some(of)
    }

    /// What makes way for others, of what comes: it waits behind them from now on.
    pub fn makes_way(&mut self, now: Time, arriving: impl Iterator<Item = Arriving>) -> Vec<Reference> {
        self.late = None;
        let ready = self.queues.iter().filter(|(_, queue)| !queue.waits.is_empty() && queue.again <= now);
        let ready: Vec<NodeIndex> = ready.map(|(teller, _)| *teller).collect();
        if ready.is_empty() {
            self.coming.clear();
            return Vec::new();
        }
        let arriving: Vec<Arriving> = arriving.collect();
        let mut moved = BTreeMap::<NodeIndex, Time>::new();
        for one in &arriving {
            // What waits behind others of its teller comes when those do.
            let latest = moved.entry(one.teller).or_insert(one.moved);
            *latest = one.moved.max(*latest);
        }
        let before = core::mem::take(&mut self.coming);
        let mut ways = Vec::new();
        for one in arriving {
            let since = before.get(&one.of).copied().unwrap_or(now);
            let last = moved.get(&one.teller).copied().unwrap_or(one.moved);
            let made_way = self.made_way.get(&one.of).copied().unwrap_or(0).min(DOUBLED_MAX);
            let (first, slice) = (FIRST_MS << made_way, SLICE_MS << made_way);
            let nothing = last.after_ms(if one.have == 0 { first } else { STALLED_MS });
            let others =
                one.have > 0 && one.have < one.size / 2 && ready.iter().any(|other| *other != one.teller);
            let due = if others { nothing.min(since.after_ms(slice)) } else { nothing };
            // Those that wait have waited for as long, too.
            let due = due.max(since.after_ms(FIRST_MS));
            if due <= now {
                self.push_back(now, &one);
                ways.push(one.of);
            } else {
                self.coming.insert(one.of, since);
                self.late = Some(self.late.map_or(due, |late| late.min(due)));
            }
        }
        if !ways.is_empty() {
            self.open();
        }
        ways
    }

    fn push_back(&mut self, now: Time, one: &Arriving) {
        self.insert(one.of, one.teller, None);
        let made_way = self.made_way.entry(one.of).or_default();
        *made_way = made_way.saturating_add(1);
        let queue = self.queues.entry(one.teller).or_default();
        queue.again = now.after_ms(AGAIN_MS << queue.faults.min(DOUBLED_MAX));
        queue.faults = queue.faults.saturating_add(1);
        self.again.get_or_insert(now.after_ms(AGAIN_MS));
    }

    /// When to look again.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        [self.again, self.late].into_iter().flatten().min()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

#[cfg(test)]
mod tests;
