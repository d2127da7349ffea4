//! What is under way with one peer: what it is to be told, asked and given.
//!
//! Invariant: every list here has a limit; who wants more is refused.

use alloc::collections::VecDeque;

use busway_wire::gossip::{Epoch, Exchange, Part, Reference, Word};
use busway_wire::limits::{GOSSIP_AGAIN_MS, GOSSIP_ASKS_MAX, GOSSIP_SERVED_MAX};

use crate::gossip::asks::Asks;
use crate::gossip::due::Due;
use crate::gossip::reader::Reader;
use crate::time::Time;

/// Bytes that a peer waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Serving {
    pub(super) request: u64,
    pub(super) of: Reference,
    pub(super) part: Part,
    pub(super) offset: u64,
}

/// A peer with a link.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// There is one since its first *exchange*, and the start that it said then.
    pub(super) reader: Option<Reader>,
    pub(super) epoch: Epoch,
    /// A further *exchange*, until which time it waits, and how many have come.
    waiting: Option<Exchange>,
    follow_at: Time,
    exchanges_heard: u64,
    pub(super) exchange: Due,
    /// How many we have said.
    pub(super) exchanges: u64,
    /// Words *tell* that came, and of how many it knows that they are done with.
    pub(super) tells: u64,
    pub(super) handled: Due,
    /// What it has and we do not know.
    pub(super) asks: Asks,
    pub(super) asks_due: Due,
    /// What it asked us.
    pub(super) describing: VecDeque<Reference>,
    /// Words for the lane of requests.
    pub(super) requests: VecDeque<Word>,
    pub(super) serving: VecDeque<Serving>,
    /// The largest number of a request that came.
    numbered: Option<u64>,
}

impl Peer {
    /// One whose link has just begun.
    pub(super) fn new() -> Peer {
        Peer { exchange: Due::Now, ..Peer::default() }
    }

    /// It says how far it knows us: that is followed now, or in a while, where it says so again and again; only the latest counts.
    pub(super) fn exchanged(&mut self, now: Time, exchange: Exchange) -> Option<(Exchange, u64)> {
        self.exchanges_heard += 1;
        self.waiting = Some(exchange);
        self.next_exchange(now)
    }

    /// What it has said of that, if it is to be followed now; and how often it has said so.
    pub(super) fn next_exchange(&mut self, now: Time) -> Option<(Exchange, u64)> {
        if now < self.follow_at {
            return None;
        }
        let exchange = self.waiting.take()?;
        self.follow_at = now.after_ms(GOSSIP_AGAIN_MS / 2);
        Some((exchange, self.exchanges_heard))
    }

    /// It asks what those are; whether there is room for the answers.
    pub(super) fn describe(&mut self, of: &[Reference]) -> bool {
        if self.describing.len() + of.len() > GOSSIP_ASKS_MAX {
            return false;
        }
        self.describing.extend(of);
        true
    }

    /// It wants bytes; whether there is room for that, and it has not asked so before.
    pub(super) fn serve(&mut self, serving: Serving) -> bool {
        let again = self.numbered.is_some_and(|numbered| serving.request <= numbered);
        self.numbered = self.numbered.max(Some(serving.request));
        if again || self.serving.len() >= GOSSIP_SERVED_MAX {
            return false;
        }
        self.serving.push_back(serving);
        true
    }

    /// Looks at the time.
    pub(super) fn tick(&mut self, now: Time) {
        self.handled.tick(now);
        self.asks_due.tick(now);
        if let Some(reader) = &mut self.reader {
            reader.marks_due.tick(now);
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let marks = self.reader.as_ref().and_then(|reader| reader.marks_due.at());
        let follow = self.waiting.as_ref().map(|_| self.follow_at);
        [self.handled.at(), self.asks_due.at(), marks, follow].into_iter().flatten().min()
    }

    /// Whether anything is to be said, of a table at that version.
    pub(super) fn has_output(&self, version: u64) -> bool {
        let reader = self.reader.as_ref();
        self.exchange == Due::Now
            || self.handled == Due::Now
            || self.asks_due == Due::Now
            || !self.describing.is_empty()
            || !self.requests.is_empty()
            || !self.serving.is_empty()
            || reader.is_some_and(|reader| reader.has_news(version) || reader.marks_due == Due::Now)
    }
}
