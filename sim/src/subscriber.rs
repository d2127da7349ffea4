//! A subscriber with the library's rule: each message once and in order, each hole told with its cause.
//!
//! It reads the relay rings of a source in the order in which they were opened, so that the ring of a dead node is
//! read to its end before that of the next one. What it has had is known by source and origin sequence.
//!
//! Invariant: what it is told of a source is one rising line of sequences without a hole.

use std::collections::{BTreeMap, VecDeque};

use busway_wire::{Cause, Pattern, PortId};

use crate::few::Few;
use crate::message::Payload;
use crate::relay::Entry;

/// What the user is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// A message.
    Message {
        /// Its origin sequence.
        sequence: u64,
        /// Its payload.
        payload: Payload,
    },
    /// Messages that will never come.
    Hole {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
        /// Why; `None` where nobody said so and the library has found it by the sequences.
        cause: Option<Cause>,
    },
}

/// Where the library is with one source.
#[derive(Debug, Default)]
struct Place {
    rings: VecDeque<u64>,
    /// The last sequence that was told; `None` before the first.
    last: Option<u64>,
    lapped: bool,
}

/// A subscriber.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// What it wants.
    pub pattern: Pattern,
    /// Whether publishers wait for it.
    pub reliable: bool,
    /// How long it takes over a message.
    pub work_ns: u64,
    places: BTreeMap<PortId, Place>,
    /// Sources of which there may be something to read.
    news: Few<PortId>,
    /// How many messages came that it had.
    pub duplicates: u64,
}

impl Subscriber {
    /// A subscriber that has read nothing.
    #[must_use]
    pub(crate) fn new(pattern: Pattern, reliable: bool, work_ns: u64) -> Subscriber {
        Subscriber {
            pattern,
            reliable,
            work_ns,
            places: BTreeMap::new(),
            news: Few::default(),
            duplicates: 0,
        }
    }

    /// A relay ring of the source has been opened.
    pub(crate) fn opened(&mut self, source: PortId, ring: u64) {
        self.places.entry(source).or_default().rings.push_back(ring);
        self.news.insert(source);
    }

    /// There may be something to read of the source.
    pub(crate) fn rung(&mut self, source: PortId) {
        self.news.insert(source);
    }

    /// There is nothing more to read of the source.
    pub(crate) fn emptied(&mut self, source: PortId) {
        self.news.remove(source);
    }

    /// The next source of which there may be something to read, and the ring of it to read now.
    pub(crate) fn next(&mut self) -> Option<(PortId, u64)> {
        while let Some(source) = self.news.first() {
            if let Some(&ring) = self.places.get(&source).and_then(|place| place.rings.front()) {
                return Some((source, ring));
            }
            self.news.remove(source);
        }
        None
    }

    /// The ring of the source is read to its end.
    pub(crate) fn ended(&mut self, source: PortId) {
        if let Some(place) = self.places.get_mut(&source) {
            place.rings.pop_front();
        }
    }

    /// The ring has lapped it: the next hole is explained by that.
    pub(crate) fn lapped(&mut self, source: PortId) {
        if let Some(place) = self.places.get_mut(&source) {
            place.lapped = true;
        }
    }

    /// Takes an entry of the ring of `source`, and tells the user what is new in it.
    pub(crate) fn take(&mut self, source: PortId, entry: Entry, mut tell: impl FnMut(Told)) {
        let place = self.places.entry(source).or_default();
        let (first, end) = (entry.first(), entry.last());
        let next = place.last.map_or(first, |last| last + 1);
        if end < next {
            self.duplicates += 1;
            return;
        }
        if first > next {
            let cause = place.lapped.then_some(Cause::Lapped);
            tell(Told::Hole { from: next, to: first - 1, cause });
        }
        place.lapped = false;
        place.last = Some(end);
        match entry {
            Entry::Message { sequence, payload } => tell(Told::Message { sequence, payload }),
            Entry::Gap { to, cause, .. } => {
                tell(Told::Hole { from: first.max(next), to, cause: Some(cause) });
            }
        }
    }
}
