//! Who of this host wants which artifacts, what they were told of them, and what they offer.
//!
//! All that is known stands in one list; each subscriber has what it said of it and what it is to be told next. What it is told waits in its mailbox
//! as far as there is room; the rest stays with the machine, and is only named here. An artifact that several want is fetched once, for who wants it
//! most; one that nobody subscribes to is kept in mind, but fetched if its origin wants it to be at all nodes. What was given to all who want it stays here for others as long as there is
//! room; where there is none it is let go, the oldest first, and fetched again for who comes later.
//!
//! A subscriber that does not take costs a byte for each artifact that is known, and two short queues: what is behind them is looked for when they are empty.
//!
//! It does not know peers or links, and calls nobody.
//!
//! Invariant: a subscriber is given an artifact once, in the order in which they came, and is told of its end only behind that.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use busway_protocol::artifact::{Name, TopicHash};
use busway_protocol::gossip::{Advert, Interest, Nodes, Reference, SlotNumber};
use busway_wire::limits::{ARTIFACT_INSIDE_BYTES_MAX, ARTIFACT_WHOLE_BYTES_MAX};
use busway_wire::{Pattern, Topic};

use crate::artifacts::store::Lease;
use crate::runtime::gossip::calls::{Listed, ReaderId, Wants};
use crate::runtime::gossip::mailbox::{Body, Mailbox};
use crate::runtime::gossip::standing::{Standing, Stands};

mod reader;

use reader::{GIVEN, OWED, Reader};

/// What is known of an artifact.
#[derive(Debug)]
struct Item {
    advert: Arc<Advert>,
    /// Where subscribers keep their byte for it.
    place: usize,
    /// So many subscribers have it next.
    owed: u32,
    /// All of its bytes are here.
    here: bool,
    /// Pieces of it come, and so many bytes are here.
    begun: bool,
    have: u64,
    /// When all of it came: its place among others.
    came: u64,
    own: bool,
    /// What the machine was told last.
    verdict: Option<Interest>,
}

impl Item {
    fn new(advert: Advert, place: usize, own: bool) -> Item {
        let advert = Arc::new(advert);
        Item { advert, place, owed: 0, here: own, begun: false, have: 0, came: 0, own, verdict: None }
    }

    fn name(&self) -> Name {
        let Advert { id, size, topic, .. } = &*self.advert;
        Name { id: *id, size: *size, topic: TopicHash::of(topic) }
    }

    fn is_stored(&self) -> bool {
        self.advert.size > ARTIFACT_WHOLE_BYTES_MAX
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Users {
    items: BTreeMap<Reference, Item>,
    readers: BTreeMap<ReaderId, Reader>,
    next: u64,
    offers: BTreeMap<SlotNumber, (Reference, Arc<Standing>)>,
    /// What the machine is to be told.
    verdicts: Vec<(Reference, Interest)>,
    came: u64,
    /// Places of items that are used no more, and the first that never was.
    free: Vec<usize>,
    places: usize,
}

impl Users {
    /// Something is offered elsewhere.
    pub(super) fn advertised(&mut self, advert: Advert) {
        let of = advert.of;
        self.insert(advert, false);
        self.judge(of);
    }

    /// Something is known now, or anew.
    fn insert(&mut self, advert: Advert, own: bool) {
        let of = advert.of;
        let known = self.items.get(&of).map(|item| (item.place, item.owed));
        let (place, owed) = known.unwrap_or_else(|| {
            let place = self.free.pop().unwrap_or(self.places);
            self.places = self.places.max(place + 1);
            (place, 0)
        });
        let mut item = Item { owed, ..Item::new(advert, place, own) };
        for reader in self.readers.values_mut() {
            reader.meet(&mut item);
        }
        self.items.insert(of, item);
    }

    /// We offer something.
    pub(super) fn offered(&mut self, slot: SlotNumber, advert: Advert) -> Arc<Standing> {
        let (of, standing) = (advert.of, Arc::<Standing>::default());
        self.offers.insert(slot, (of, standing.clone()));
        self.insert(advert, true);
        standing
    }

    /// All bytes of something are here.
    pub(super) fn received(&mut self, of: Reference) {
        let Some(item) = self.items.get_mut(&of) else { return };
        self.came += 1;
        (item.here, item.begun, item.came) = (true, false, self.came);
        for reader in self.readers.values_mut() {
            reader.owe(item);
        }
    }

    /// Pieces of something come.
    pub(super) fn begun(&mut self, of: Reference) {
        let Some(item) = self.items.get_mut(&of).filter(|item| !item.here) else { return };
        item.begun = true;
        for reader in self.readers.values_mut() {
            reader.owe(item);
        }
    }

    /// So many bytes of what comes in pieces are here.
    pub(super) fn progress(&mut self, of: Reference, have: u64) {
        let Some(item) = self.items.get_mut(&of).filter(|item| item.have != have) else { return };
        item.have = have;
        let readers = self.readers.values().filter(|reader| reader.wants.tells.progress);
        for reader in readers.filter(|reader| reader.wants_now(item)) {
            reader.mailbox.progress(&item.advert, have);
        }
    }

    /// Whether anybody is told of progress.
    pub(super) fn watch_progress(&self) -> bool {
        self.readers.values().any(|reader| reader.wants.tells.progress)
    }

    /// The store had no room for it, or its room went to others: it is wanted again when there is some.
    pub(super) fn had_no_room(&mut self, of: Reference) {
        if let Some(item) = self.items.get_mut(&of) {
            (item.verdict, item.begun, item.here) = (Some(Interest::Stash), false, false);
        }
    }

    /// There may be room in the store for it now.
    pub(super) fn try_again(&mut self, of: Reference) {
        self.judge(of);
    }

    /// Whether it lies in the store when it is here.
    pub(super) fn is_stored(&self, of: Reference) -> bool {
        self.items.get(&of).is_some_and(Item::is_stored)
    }

    /// What was given to all who want it, and can be let go: of what lies in the store, or of what does not, the oldest.
    pub(super) fn let_go(
        &mut self,
        stored: bool,
        most: usize,
        helps: impl Fn(Reference) -> bool,
    ) -> Vec<Reference> {
        let behind: Vec<&Reader> = self.readers.values().filter(|reader| reader.more_owed).collect();
        let owed = |item: &Item| item.owed > 0 || behind.iter().any(|reader| reader.is_to_be_given(item));
        let can = |(of, item): &(&Reference, &mut Item)| {
            let large = item.advert.size > ARTIFACT_INSIDE_BYTES_MAX as u64 && item.is_stored() == stored;
            item.here && !item.own && large && !item.advert.confirm && helps(**of) && !owed(item)
        };
        let mut items: Vec<_> = self.items.iter_mut().filter(can).collect();
        items.sort_by_key(|(_, item)| item.came);
        items.truncate(most);
        for (_, item) in &mut items {
            (item.here, item.verdict) = (false, Some(Interest::Stash));
        }
        items.into_iter().map(|(of, _)| *of).collect()
    }

    /// The name of what is known.
    pub(super) fn name(&self, of: Reference) -> Option<Name> {
        self.items.get(&of).map(Item::name)
    }

    /// It is not offered any more.
    pub(super) fn gone(&mut self, of: Reference) {
        let Some(item) = self.items.remove(&of) else { return };
        for reader in self.readers.values_mut() {
            reader.lose(&item);
        }
        self.free.push(item.place);
    }

    /// An offer of ours has ended in this way. Returns what it was, if it had not ended before.
    pub(super) fn ended(&mut self, slot: SlotNumber, how: Stands) -> Option<Reference> {
        let (of, standing) = self.offers.remove(&slot)?;
        standing.end(how);
        self.gone(of);
        Some(of)
    }

    /// The slot of what we offer, if it is this.
    pub(super) fn slot_of(&self, of: Reference) -> Option<SlotNumber> {
        self.offers.get(&of.slot).filter(|(offered, _)| *offered == of).map(|_| of.slot)
    }

    pub(super) fn subscribe(&mut self, wants: Wants, mailbox: Arc<Mailbox>) -> ReaderId {
        let id = ReaderId(self.next);
        self.next += 1;
        let mut reader = Reader::new(wants, mailbox);
        let all: Vec<Reference> = self.items.keys().copied().collect();
        for item in self.items.values_mut() {
            reader.meet(item);
        }
        self.readers.insert(id, reader);
        for of in all {
            self.judge(of);
        }
        id
    }

    pub(super) fn unsubscribe(&mut self, id: ReaderId) {
        let Some(mut reader) = self.readers.remove(&id) else { return };
        for of in std::mem::take(&mut reader.owed) {
            if let Some(item) = self.items.get_mut(&of).filter(|item| reader.has(item, OWED)) {
                reader.unset(item.place, OWED);
                item.owed = item.owed.saturating_sub(1);
            }
        }
        // What it alone wanted, or kept from being wanted, is judged by the others.
        let met = self.items.values().filter(|item| reader.matches(&item.advert));
        let met: Vec<Reference> = met.map(|item| item.advert.of).collect();
        for of in met {
            self.judge(of);
        }
    }

    /// A subscriber says what it thinks of an advert.
    pub(super) fn judged(&mut self, id: ReaderId, of: Reference, interest: Interest) {
        let (Some(reader), Some(item)) = (self.readers.get_mut(&id), self.items.get_mut(&of)) else { return };
        reader.say(item.place, interest);
        reader.owe(item);
        self.judge(of);
    }

    /// A subscriber would judge otherwise now, but of what it has dropped.
    pub(super) fn reconsider(&mut self, id: ReaderId) {
        let Some(reader) = self.readers.get_mut(&id).filter(|reader| reader.wants.judges) else { return };
        for item in self.items.values() {
            reader.ask_again(item);
        }
    }

    /// What the machine is to be told: the strongest word of those who subscribe to it.
    fn judge(&mut self, of: Reference) {
        let Some(item) = self.items.get_mut(&of).filter(|item| !item.own && !item.here) else { return };
        // Who was given it needs it no more.
        let readers = self.readers.values().filter(|reader| reader.matches(&item.advert));
        let readers = readers.filter(|reader| !reader.has(item, GIVEN | OWED));
        let nobody = if item.advert.confirm { Interest::Fetch } else { Interest::Stash };
        let verdict = readers.map(|reader| reader.word(item)).max().unwrap_or(nobody);
        if item.verdict.replace(verdict) == Some(verdict) {
            return;
        }
        self.verdicts.push((of, verdict));
    }

    /// Whether the machine is to be told something.
    pub(super) fn has_verdicts(&self) -> bool {
        !self.verdicts.is_empty()
    }

    /// That, once.
    pub(super) fn verdicts(&mut self) -> Vec<(Reference, Interest)> {
        std::mem::take(&mut self.verdicts)
    }

    /// Tells subscribers what there is room for; whether something that lies in the store went to one. `body` has the bytes of what is here and small, `lease` takes what lies in the store.
    pub(super) fn deliver(
        &mut self,
        body: impl Fn(Reference) -> Option<Arc<[u8]>>,
        lease: impl Fn(Name) -> Option<Lease>,
    ) -> bool {
        let body = |item: &Item| {
            if item.is_stored() {
                lease(item.name()).map(Body::Stored)
            } else {
                body(item.advert.of).map(Body::Here)
            }
        };
        let (mut missed, mut stored) = (Vec::new(), false);
        for reader in self.readers.values_mut().filter(|reader| reader.waits()) {
            stored |= reader.deliver(&mut self.items, &body, &lease, &mut missed);
        }
        missed.into_iter().for_each(|of| self.judge(of));
        stored
    }

    /// On which topic this is, if it is known.
    pub(super) fn topic(&self, of: Reference) -> Option<&Topic> {
        self.items.get(&of).map(|item| &item.advert.topic)
    }

    /// What others offer, and on which topic.
    pub(super) fn of_others(&self) -> impl Iterator<Item = (Reference, &Topic)> {
        self.items.iter().filter(|(_, item)| !item.own).map(|(of, item)| (*of, &item.advert.topic))
    }

    /// What is known and not dropped, of these topics, behind that one, at most so many.
    pub(super) fn list(&self, pattern: &Pattern, after: Option<Reference>, most: usize) -> Vec<Listed> {
        let listed =
            |item: &Item| Listed { advert: Advert::clone(&item.advert), here: item.here, own: item.own };
        let wanted = |item: &&Item| {
            pattern.matches(&item.advert.topic) && (item.here || item.verdict != Some(Interest::Drop))
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let items = self.items.range((from, Bound::Unbounded)).map(|(_, item)| item);
        items.filter(wanted).take(most).map(listed).collect()
    }

    /// The node ends.
    pub(super) fn end(&mut self) {
        for (_, standing) in self.offers.values() {
            standing.end(Stands::Withdrawn);
        }
        for reader in self.readers.values() {
            reader.mailbox.end();
        }
    }
}

/// Those of `nodes` in words: `node 1, node 2`.
pub(crate) fn names(nodes: &Nodes) -> String {
    let names: Vec<String> = nodes.iter().map(|node| node.to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
