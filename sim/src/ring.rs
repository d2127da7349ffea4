//! A publisher's ring: its last messages, and a row for each peer that reads them.
//!
//! It lives in the publisher's process, so that the death of its host's node does not touch it. A reliable row
//! gates: what it has not passed stays, and the publisher waits; it stays when its node dies, until the next one
//! takes it over. Any other row is lapped and told so, and dies with its node.
//!
//! Invariant: what a reliable row has not passed is in the ring.

use std::collections::{BTreeMap, VecDeque};

use busway_protocol::PeerId;
use busway_wire::{Cause, Topic, TopicId};

use crate::message::Message;

/// Where one peer reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Whether the publisher waits for it.
    pub reliable: bool,
    /// The first sequence that it was to read.
    pub first: u64,
    /// The last that is not needed any more.
    pub passed: u64,
    /// The next to read.
    pub read: u64,
    /// Nothing behind this one is read any more.
    pub until: Option<u64>,
}

/// What a row reads.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Its next message.
    Message(Message),
    /// Messages that went by.
    Lost {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
        /// Why.
        cause: Cause,
    },
    /// Nothing yet.
    Nothing,
    /// A reliable row was sent back behind what it had passed, where nothing is kept for it.
    Overrun,
}

/// The ring is full of what somebody still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A publisher's ring.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Its topic.
    pub topic: Topic,
    /// Of the topic: it costs a hash.
    pub id: TopicId,
    slots: usize,
    messages: VecDeque<Message>,
    next: u64,
    rows: BTreeMap<PeerId, Row>,
    /// Whether the publisher has left.
    pub closed: bool,
}

impl Ring {
    /// An empty ring.
    #[must_use]
    pub(crate) fn new(topic: Topic, slots: usize) -> Ring {
        Ring {
            id: topic.id(),
            topic,
            slots: slots.max(1),
            messages: VecDeque::new(),
            next: 1,
            rows: BTreeMap::new(),
            closed: false,
        }
    }

    /// The sequence of the next message.
    #[must_use]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether the next message finds room: the oldest is not one that a reliable row needs.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        let oldest = self.next - self.messages.len() as u64;
        self.messages.len() < self.slots || !self.rows.values().any(|row| row.reliable && row.passed < oldest)
    }

    /// Puts the next message in, in the place of the oldest if need be.
    ///
    /// # Errors
    /// A reliable row needs the oldest.
    pub(crate) fn push(&mut self, message: Message) -> Result<(), Full> {
        assert_eq!(message.header.sequence.get(), self.next, "a publisher counts its messages");
        if !self.has_room() {
            return Err(Full);
        }
        if self.messages.len() == self.slots {
            self.messages.pop_front();
        }
        self.messages.push_back(message);
        self.next += 1;
        Ok(())
    }

    /// The peer's row, new or the one that its last node has left: returns it, and whether it is new.
    pub(crate) fn attach(&mut self, peer: PeerId, reliable: bool) -> (Row, bool) {
        let next = self.next;
        let old = self.rows.get(&peer).copied().filter(|row| row.reliable && reliable && row.until.is_none());
        let row = match old {
            Some(row) => Row { read: row.passed + 1, ..row },
            None => Row { reliable, first: next, passed: next - 1, read: next, until: None },
        };
        self.rows.insert(peer, row);
        (row, old.is_none())
    }

    /// The row reads nothing new; what it has read may be read again. Returns the last of it.
    pub(crate) fn end(&mut self, peer: PeerId) -> Option<u64> {
        let row = self.rows.get_mut(&peer)?;
        Some(*row.until.get_or_insert(row.read - 1))
    }

    /// The peer's row is gone for good.
    pub(crate) fn detach(&mut self, peer: PeerId) -> Option<Row> {
        self.rows.remove(&peer)
    }

    /// The node is dead: reliable rows stay.
    pub(crate) fn orphan(&mut self) {
        self.rows.retain(|_, row| row.reliable);
    }

    /// The peer's row.
    #[must_use]
    pub(crate) fn row(&self, peer: PeerId) -> Option<&Row> {
        self.rows.get(&peer)
    }

    /// All rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&PeerId, &Row)> {
        self.rows.iter()
    }

    /// The row's next.
    pub(crate) fn take(&mut self, peer: PeerId) -> Taken {
        let oldest = self.next - self.messages.len() as u64;
        let Some(row) = self.rows.get_mut(&peer) else { return Taken::Nothing };
        if row.until.is_some_and(|until| row.read > until) {
            return Taken::Nothing;
        }
        if row.read < oldest {
            if row.reliable {
                return Taken::Overrun;
            }
            let (from, to) = (row.read, oldest - 1);
            row.read = oldest;
            return Taken::Lost { from, to, cause: Cause::Lapped };
        }
        let index = usize::try_from(row.read - oldest).expect("a ring has few slots");
        match self.messages.get(index) {
            Some(message) => {
                row.read += 1;
                Taken::Message(message.clone())
            }
            None => Taken::Nothing,
        }
    }

    /// All up to `to` is not needed any more.
    pub(crate) fn pass(&mut self, peer: PeerId, to: u64) {
        if let Some(row) = self.rows.get_mut(&peer) {
            row.passed = row.passed.max(to);
        }
    }

    /// The row reads again from `to` + 1 on.
    pub(crate) fn rewind(&mut self, peer: PeerId, to: u64) {
        if let Some(row) = self.rows.get_mut(&peer) {
            row.read = to + 1;
        }
    }
}
