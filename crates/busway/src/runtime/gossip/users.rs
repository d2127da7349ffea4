//! Who of this host wants which artifacts, what they were told of them, and what they offer.
//!
//! All that is known stands in one list; each subscriber has what it said of it and what it is to be told next. What it is told waits in its mailbox
//! as far as there is room; the rest stays with the machine, and is only named here. An artifact that several want is fetched once, for who wants it
//! most; one that nobody subscribes to is kept in mind, but fetched if its origin wants it to be at all nodes.
//!
//! It does not know peers or links, and calls nobody.
//!
//! Invariant: a subscriber is given an artifact once, in the order in which they came, and is told of its end only behind that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use busway_protocol::gossip::{Advert, Interest, Nodes, Reference, SlotNumber};
use busway_wire::{Pattern, Topic};

use crate::runtime::gossip::calls::{Listed, ReaderId};
use crate::runtime::gossip::mailbox::{Mailbox, Note};
use crate::runtime::gossip::standing::{Standing, Stands};

/// What is known of an artifact.
#[derive(Debug)]
struct Item {
    advert: Advert,
    /// All of its bytes are here.
    here: bool,
    own: bool,
    /// What the machine was told last.
    verdict: Option<Interest>,
}

/// A subscriber.
#[derive(Debug)]
struct Reader {
    pattern: Pattern,
    /// It says of each advert whether it wants it.
    judges: bool,
    mailbox: Arc<Mailbox>,
    said: BTreeMap<Reference, Interest>,
    /// What it is to judge.
    ask: BTreeSet<Reference>,
    /// What it is to be given, in order.
    owed: VecDeque<Reference>,
    /// All that it was or is to be given.
    given: BTreeSet<Reference>,
    /// What it was given and is not offered any more.
    gone: VecDeque<Advert>,
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
}

impl Users {
    /// Something is offered elsewhere.
    pub(super) fn advertised(&mut self, advert: Advert) {
        let of = advert.of;
        self.items.insert(of, Item { advert, here: false, own: false, verdict: None });
        for reader in self.readers.values_mut() {
            reader.meet(&self.items, of);
        }
        self.judge(of);
    }

    /// We offer something.
    pub(super) fn offered(&mut self, slot: SlotNumber, advert: Advert) -> Arc<Standing> {
        let (of, standing) = (advert.of, Arc::<Standing>::default());
        self.offers.insert(slot, (of, standing.clone()));
        self.items.insert(of, Item { advert, here: true, own: true, verdict: None });
        for reader in self.readers.values_mut() {
            reader.meet(&self.items, of);
        }
        standing
    }

    /// All bytes of something are here.
    pub(super) fn received(&mut self, of: Reference) {
        let Some(item) = self.items.get_mut(&of) else { return };
        item.here = true;
        for reader in self.readers.values_mut() {
            reader.owe(&self.items, of);
        }
    }

    /// It is not offered any more.
    pub(super) fn gone(&mut self, of: Reference) {
        let Some(item) = self.items.remove(&of) else { return };
        for reader in self.readers.values_mut() {
            reader.lose(of, &item.advert);
        }
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

    pub(super) fn subscribe(&mut self, pattern: Pattern, judges: bool, mailbox: Arc<Mailbox>) -> ReaderId {
        let id = ReaderId(self.next);
        self.next += 1;
        let mut reader = Reader {
            pattern,
            judges,
            mailbox,
            said: BTreeMap::new(),
            ask: BTreeSet::new(),
            owed: VecDeque::new(),
            given: BTreeSet::new(),
            gone: VecDeque::new(),
        };
        let all: Vec<Reference> = self.items.keys().copied().collect();
        for of in &all {
            reader.meet(&self.items, *of);
        }
        self.readers.insert(id, reader);
        for of in all {
            self.judge(of);
        }
        id
    }

    pub(super) fn unsubscribe(&mut self, id: ReaderId) {
        self.readers.remove(&id);
    }

    /// A subscriber says what it thinks of an advert.
    pub(super) fn judged(&mut self, id: ReaderId, of: Reference, interest: Interest) {
        let Some(reader) = self.readers.get_mut(&id).filter(|_| self.items.contains_key(&of)) else { return };
        reader.said.insert(of, interest);
        reader.owe(&self.items, of);
        self.judge(of);
    }

    /// A subscriber would judge otherwise now, but of what it has dropped.
    pub(super) fn reconsider(&mut self, id: ReaderId) {
        let Some(reader) = self.readers.get_mut(&id).filter(|reader| reader.judges) else { return };
        let open = |of: &Reference| !reader.given.contains(of) && reader.word(*of) != Interest::Drop;
        let asked = |(of, item): &(&Reference, &Item)| reader.pattern.matches(&item.advert.topic) && open(of);
        let of: Vec<Reference> = self.items.iter().filter(asked).map(|(of, _)| *of).collect();
        reader.ask.extend(of);
    }

    /// What the machine is to be told: the strongest word of those who subscribe to it.
    fn judge(&mut self, of: Reference) {
        let Some(item) = self.items.get_mut(&of).filter(|item| !item.own && !item.here) else { return };
        let readers = self.readers.values().filter(|reader| reader.pattern.matches(&item.advert.topic));
        let nobody = if item.advert.confirm { Interest::Fetch } else { Interest::Stash };
        let verdict = readers.map(|reader| reader.word(of)).max().unwrap_or(nobody);
        if item.verdict.replace(verdict) == Some(verdict) {
            return;
        }
        self.verdicts.push((of, verdict));
    }

    /// What the machine is to be told.
    pub(super) fn verdicts(&mut self) -> Vec<(Reference, Interest)> {
        std::mem::take(&mut self.verdicts)
    }

    /// Tells subscribers what there is room for. `body` has the bytes of what is here.
    pub(super) fn deliver(&mut self, body: impl Fn(Reference) -> Option<Arc<[u8]>>) {
        for reader in self.readers.values_mut() {
            reader.deliver(&self.items, &body);
        }
    }

    /// On which topic this is, if it is known.
    pub(super) fn topic(&self, of: Reference) -> Option<&Topic> {
        self.items.get(&of).map(|item| &item.advert.topic)
    }

    /// All that is known and not dropped.
    pub(super) fn list(&self) -> Vec<Listed> {
        let listed = |item: &Item| Listed { advert: item.advert.clone(), here: item.here, own: item.own };
        let wanted = |item: &&Item| item.here || item.verdict != Some(Interest::Drop);
        self.items.values().filter(wanted).map(listed).collect()
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

impl Reader {
    fn word(&self, of: Reference) -> Interest {
        let usual = if self.judges { Interest::Stash } else { Interest::Fetch };
        self.said.get(&of).copied().unwrap_or(usual)
    }

    /// There is something new.
    fn meet(&mut self, items: &BTreeMap<Reference, Item>, of: Reference) {
        let Some(item) = items.get(&of).filter(|item| self.pattern.matches(&item.advert.topic)) else {
            return;
        };
        if self.judges {
            self.ask.insert(item.advert.of);
        } else {
            self.owe(items, of);
        }
    }

    /// It is to be given this, if it wants it, it is here, and it was not given before.
    fn owe(&mut self, items: &BTreeMap<Reference, Item>, of: Reference) {
        let here = items.get(&of).is_some_and(|item| item.here && self.pattern.matches(&item.advert.topic));
        if here && self.word(of) >= Interest::Later && self.given.insert(of) {
            self.owed.push_back(of);
        }
    }

    fn lose(&mut self, of: Reference, advert: &Advert) {
        self.said.remove(&of);
        self.ask.remove(&of);
        if !self.given.remove(&of) {
            return;
        }
        match self.owed.iter().position(|owed| *owed == of) {
            Some(at) => {
                self.owed.remove(at);
            }
            None => self.gone.push_back(advert.clone()),
        }
    }

    fn deliver(&mut self, items: &BTreeMap<Reference, Item>, body: &impl Fn(Reference) -> Option<Arc<[u8]>>) {
        while !self.gone.is_empty() && self.mailbox.has_room(0) {
            self.mailbox.put(Note::Withdrawn(self.gone.pop_front().expect("there is one")));
        }
        while let Some(item) = self.ask.first().and_then(|of| items.get(of)) {
            if !self.mailbox.has_room(0) {
                return;
            }
            self.mailbox.put(Note::Asked(item.advert.clone()));
            self.ask.pop_first();
        }
        while let Some(of) = self.owed.front().copied() {
            let found = items.get(&of).and_then(|item| Some((item.advert.clone(), body(of)?)));
            if let Some((advert, body)) = found {
                if !self.mailbox.has_room(body.len()) {
                    return;
                }
                self.mailbox.put(Note::Received(advert, body));
            }
            self.owed.pop_front();
        }
    }
}

/// Those of `nodes` in words: `node 1, node 2`.
pub(crate) fn names(nodes: &Nodes) -> String {
    let names: Vec<String> = nodes.iter().map(|node| node.to_string()).collect();
    names.join(", ")
}
