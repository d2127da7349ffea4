//! A relay ring: messages of another host's source, and the local subscribers that read them.
//!
//! It lies in memory that its subscribers have mapped, so that they read to its end when its node is dead. Where
//! the source is reliable the slowest subscriber gates; else it is lapped.
//!
//! Invariant: sequences rise; between two neighbours there is no hole but one that a gap tells of.

use std::collections::{BTreeMap, VecDeque};

use busway_wire::link::Announce;
use busway_wire::{Cause, PortId};

use crate::message::Payload;
use crate::ring::Full;

/// One place of a relay ring.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A message.
    Message {
        /// Its origin sequence.
        sequence: u64,
        /// Its payload, without extensions.
        payload: Payload,
    },
    /// Messages that will never come.
    Gap {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
        /// Why.
        cause: Cause,
    },
}

impl Entry {
    /// The last sequence that it stands for.
    #[must_use]
    pub(crate) fn last(&self) -> u64 {
        match self {
            Entry::Message { sequence, .. } => *sequence,
            Entry::Gap { to, .. } => *to,
        }
    }

    /// The first sequence that it stands for.
    #[must_use]
    pub(crate) fn first(&self) -> u64 {
        match self {
            Entry::Message { sequence, .. } => *sequence,
            Entry::Gap { from, .. } => *from,
        }
    }

    /// Bytes of payload.
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        match self {
            Entry::Message { payload, .. } => payload.len(),
            Entry::Gap { .. } => 0,
        }
    }
}

/// What a subscriber reads.
#[derive(Debug)]
pub(crate) enum Next {
    /// An entry.
    Entry(Entry),
    /// So many entries went by.
    Lapped,
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
}

/// A relay ring.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Whose messages.
    pub announce: Announce,
    slots: usize,
    entries: VecDeque<Entry>,
    /// How many entries have gone by before the first.
    gone: u64,
    /// Where each subscriber reads, in entries.
    cursors: BTreeMap<u64, u64>,
    /// Whether nothing will be added.
    pub closed: bool,
}

impl Relay {
    /// An empty ring.
    #[must_use]
    pub(crate) fn new(announce: Announce, slots: usize) -> Relay {
        let (entries, cursors) = (VecDeque::new(), BTreeMap::new());
        Relay { announce, slots: slots.max(1), entries, gone: 0, cursors, closed: false }
    }

    /// The source.
    #[must_use]
    pub(crate) fn source(&self) -> PortId {
        self.announce.source
    }

    /// A subscriber reads from now on.
    pub(crate) fn attach(&mut self, subscriber: u64) {
        let end = self.gone + self.entries.len() as u64;
        self.cursors.entry(subscriber).or_insert(end);
    }

    /// A subscriber reads no more.
    pub(crate) fn detach(&mut self, subscriber: u64) {
        self.cursors.remove(&subscriber);
    }

    /// The subscribers that read it.
    pub(crate) fn subscribers(&self) -> impl Iterator<Item = u64> {
        self.cursors.keys().copied()
    }

    /// The last entry.
    #[must_use]
    pub(crate) fn last(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// A subscriber for which the source waits has not read the oldest.
    pub(crate) fn push(&mut self, entry: Entry) -> Result<(), Full> {
        if self.entries.len() >= self.slots {
            if self.announce.reliable && self.cursors.values().any(|&cursor| cursor <= self.gone) {
                return Err(Full);
            }
            self.entries.pop_front();
            self.gone += 1;
        }
        self.entries.push_back(entry);
        Ok(())
    }

    /// The subscriber's next.
    pub(crate) fn take(&mut self, subscriber: u64) -> Next {
        let Some(cursor) = self.cursors.get_mut(&subscriber) else { return Next::End };
        if *cursor < self.gone {
            *cursor = self.gone;
            return Next::Lapped;
        }
        let index = usize::try_from(*cursor - self.gone).expect("a ring has few slots");
        match self.entries.get(index) {
            Some(entry) => {
                *cursor += 1;
                Next::Entry(entry.clone())
            }
            None if self.closed => Next::End,
            None => Next::Nothing,
        }
    }
}
