//! One subscriber: what it has to do with each artifact, and what it is told next.
//!
//! Of each artifact it keeps a byte, whether it takes what it is told or not. What it is told next stands in short queues; what is behind them is looked for when they are empty, so that a
//! thousand cost one look at all that is known.
//!
//! Invariant: what stands in a queue and is not marked so is passed over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use busway_protocol::artifact::Name;
use busway_protocol::gossip::{Advert, Interest, Reference};
use busway_wire::limits::ARTIFACT_EVENTS_MAX;

use crate::artifacts::store::Lease;
use crate::runtime::gossip::calls::Wants;
use crate::runtime::gossip::mailbox::{Body, Mailbox, Note};
use crate::runtime::gossip::users::Item;

/// It was given it.
pub(super) const GIVEN: u8 = 1;
/// It stands among what it is given next.
pub(super) const OWED: u8 = 2;
/// It was given it while it came, or stands among what it is given so next.
pub(super) const SHOWN: u8 = 4;
const COMES: u8 = 8;
/// It is to judge it.
const ASK: u8 = 16;
/// What it said of it, in three bits: nothing, or one more than its place among the words.
const SAID: u8 = 5;
const WORDS: [Interest; 5] =
    [Interest::Drop, Interest::Stash, Interest::Later, Interest::Fetch, Interest::FetchNow];
/// What stands in each of its queues at most. What is behind that is looked for when one is empty: for a thousand at a time, all that is known is looked at once.
pub(super) const QUEUE_MAX: usize = ARTIFACT_EVENTS_MAX;

/// A subscriber.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) wants: Wants,
    pub(super) mailbox: Arc<Mailbox>,
    /// What it has to do with each artifact, by its place: bits as above.
    pub(super) known: Vec<u8>,
    /// What it is to judge, and whether there is more behind that.
    pub(super) ask: VecDeque<Reference>,
    pub(super) more_to_ask: bool,
    /// What it is to be given, in order, and whether there is more.
    pub(super) owed: VecDeque<Reference>,
    pub(super) more_owed: bool,
    /// What it is to be given while it comes, and whether there is more.
    pub(super) coming: VecDeque<Reference>,
    pub(super) more_coming: bool,
    /// What it was given and is not offered any more.
    pub(super) gone: VecDeque<Arc<Advert>>,
}

impl Reader {
    pub(super) fn new(wants: Wants, mailbox: Arc<Mailbox>) -> Reader {
        Reader {
            wants,
            mailbox,
            known: Vec::new(),
            ask: VecDeque::new(),
            more_to_ask: false,
            owed: VecDeque::new(),
            more_owed: false,
            coming: VecDeque::new(),
            more_coming: false,
            gone: VecDeque::new(),
        }
    }

    pub(super) fn has(&self, item: &Item, any: u8) -> bool {
        self.known.get(item.place).is_some_and(|known| known & any != 0)
    }

    pub(super) fn set(&mut self, place: usize, bits: u8) {
        if self.known.len() <= place {
            self.known.resize(place + 1, 0);
        }
        self.known[place] |= bits;
    }

    pub(super) fn unset(&mut self, place: usize, bits: u8) {
        if let Some(known) = self.known.get_mut(place) {
            *known &= !bits;
        }
    }

    pub(super) fn say(&mut self, place: usize, interest: Interest) {
        let said = (1..).zip(WORDS).find(|(_, word)| *word == interest).map_or(0, |(said, _)| said);
        self.unset(place, 7 << SAID);
        self.set(place, said << SAID);
    }

    pub(super) fn word(&self, item: &Item) -> Interest {
        let said = self.known.get(item.place).map_or(0, |known| known >> SAID);
        let usual = if self.wants.judges { Interest::Stash } else { Interest::Fetch };
        usize::from(said).checked_sub(1).and_then(|said| WORDS.get(said)).copied().unwrap_or(usual)
    }

    pub(super) fn matches(&self, advert: &Advert) -> bool {
        self.wants.only.is_none_or(|only| only == advert.id) && self.wants.pattern.matches(&advert.topic)
    }

    pub(super) fn wants_now(&self, item: &Item) -> bool {
        self.matches(&item.advert) && self.word(item) >= Interest::Later
    }

    /// It is here, and stands behind what it is given next.
    pub(super) fn is_to_be_given(&self, item: &Item) -> bool {
        item.here && !self.has(item, GIVEN | OWED) && self.wants_now(item)
    }

    /// There is something new.
    pub(super) fn meet(&mut self, item: &mut Item) {
        if !self.matches(&item.advert) {
            return;
        }
        if !self.wants.judges {
            return self.owe(item);
        }
        self.set(item.place, ASK);
        if self.more_to_ask || self.ask.len() >= QUEUE_MAX {
            self.more_to_ask = true;
        } else {
            self.ask.push_back(item.advert.of);
        }
    }

    /// It would judge otherwise now, but of what it was given or has dropped.
    pub(super) fn ask_again(&mut self, item: &Item) {
        let open = !self.has(item, GIVEN | OWED) && self.word(item) != Interest::Drop;
        if open && self.matches(&item.advert) {
            self.set(item.place, ASK);
            self.more_to_ask = true;
        }
    }

    /// It is to be given this, if it wants it, it is here, and it was not given before.
    pub(super) fn owe(&mut self, item: &mut Item) {
        if self.is_to_be_given(item) {
            if self.more_owed || self.owed.len() >= QUEUE_MAX {
                self.more_owed = true;
            } else {
                self.owe_next(item);
            }
        } else if self.is_to_be_shown(item) {
            if self.more_coming || self.coming.len() >= QUEUE_MAX {
                self.more_coming = true;
            } else {
                self.set(item.place, COMES);
                self.coming.push_back(item.advert.of);
            }
        }
    }

    /// It comes, and stands behind what it is given next while it comes.
    fn is_to_be_shown(&self, item: &Item) -> bool {
        let told = GIVEN | OWED | SHOWN | COMES;
        item.begun && self.wants.tells.arriving && !self.has(item, told) && self.wants_now(item)
    }

    pub(super) fn owe_next(&mut self, item: &mut Item) {
        self.set(item.place, OWED);
        item.owed += 1;
        self.owed.push_back(item.advert.of);
    }

    pub(super) fn lose(&mut self, item: &Item) {
        // What stands in a queue is passed over there.
        if self.has(item, GIVEN | SHOWN) {
            self.gone.push_back(item.advert.clone());
        }
        self.unset(item.place, u8::MAX);
    }

    /// There is something that it is to be told.
    pub(super) fn waits(&self) -> bool {
        self.more_to_ask
            || self.more_coming
            || self.more_owed
            || !(self.gone.is_empty()
                && self.ask.is_empty()
                && self.coming.is_empty()
                && self.owed.is_empty())
    }

    /// Looks for what is behind the queues that are empty.
    pub(super) fn refill(&mut self, items: &mut BTreeMap<Reference, Item>) {
        if self.ask.is_empty() && std::mem::take(&mut self.more_to_ask) {
            let asked = items.values().filter(|item| self.has(item, ASK)).map(|item| item.advert.of);
            let mut asked: VecDeque<Reference> = asked.take(QUEUE_MAX + 1).collect();
            self.more_to_ask = asked.len() > QUEUE_MAX;
            asked.truncate(QUEUE_MAX);
            self.ask = asked;
        }
        if self.coming.is_empty() && std::mem::take(&mut self.more_coming) {
            let next = items.values().filter(|item| !item.here && self.is_to_be_shown(item));
            let mut next: Vec<(usize, Reference)> = next.map(|item| (item.place, item.advert.of)).collect();
            self.more_coming = next.len() > QUEUE_MAX;
            next.truncate(QUEUE_MAX);
            for (place, of) in next {
                self.set(place, COMES);
                self.coming.push_back(of);
            }
        }
        if self.owed.is_empty() && std::mem::take(&mut self.more_owed) {
            let next = items.values().filter(|item| self.is_to_be_given(item));
            let mut next: Vec<(u64, Reference)> = next.map(|item| (item.came, item.advert.of)).collect();
            self.more_owed = next.len() > QUEUE_MAX;
            if self.more_owed {
                next.select_nth_unstable(QUEUE_MAX);
                next.truncate(QUEUE_MAX);
            }
            next.sort_unstable();
            for (_, of) in next {
                items.get_mut(&of).into_iter().for_each(|item| self.owe_next(item));
            }
        }
    }

    /// Puts what there is room for into its mailbox; whether something was that lies in the store. What is not here any more goes to `missed`.
    pub(super) fn deliver(
        &mut self,
        items: &mut BTreeMap<Reference, Item>,
        body: &impl Fn(&Item) -> Option<Body>,
        lease: &impl Fn(Name) -> Option<Lease>,
        missed: &mut Vec<Reference>,
    ) -> bool {
        let mut stored = false;
        loop {
            if !self.mailbox.has_room(0) {
                return stored;
            }
            self.refill(items);
            if let Some(advert) = self.gone.pop_front() {
                self.mailbox.put(Note::Withdrawn(Arc::unwrap_or_clone(advert)));
            } else if let Some(of) = self.ask.pop_front() {
                let Some(item) = items.get(&of).filter(|item| self.has(item, ASK)) else { continue };
                self.unset(item.place, ASK);
                self.mailbox.put(Note::Asked(Advert::clone(&item.advert)));
            } else if let Some(of) = self.coming.pop_front() {
                let Some(item) = items.get(&of).filter(|item| self.has(item, COMES)) else { continue };
                self.unset(item.place, COMES);
                self.set(item.place, SHOWN);
                if let Some(lease) = lease(item.name()) {
                    self.mailbox.put(Note::Arriving(Advert::clone(&item.advert), Body::Stored(lease)));
                }
            } else if let Some(of) = self.owed.front().copied() {
                let Some(item) = items.get_mut(&of).filter(|item| self.has(item, OWED)) else {
                    self.owed.pop_front();
                    continue;
                };
                let body = body(item);
                if body.as_ref().is_some_and(|body| !self.mailbox.has_room(body.in_memory())) {
                    return stored;
                }
                self.owed.pop_front();
                item.owed = item.owed.saturating_sub(1);
                self.unset(item.place, OWED);
                if let Some(body) = body {
                    self.set(item.place, GIVEN);
                    stored |= item.is_stored();
                    self.mailbox.put(Note::Received(Advert::clone(&item.advert), body));
                } else {
                    // It was damaged, or let go: it is given when it is here again.
                    missed.push(of);
                }
            } else {
                return stored;
            }
        }
    }
}
