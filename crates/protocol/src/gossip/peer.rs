//! What is under way with one peer: what it is to be told, asked and given.
//!
//! Invariant: every list here has a limit; who wants more is refused.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use busway_wire::gossip::{Reference, Standing, Word};
use busway_wire::limits::{GOSSIP_ASKS_MAX, GOSSIP_SERVED_MAX, GOSSIP_WORD_ENTRIES_MAX};

use crate::gossip::due::Due;
use crate::gossip::known::Key;
use crate::gossip::reader::Reader;
use crate::time::Time;

/// Bytes that a peer waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Serving {
    pub(super) request: u64,
    pub(super) of: Reference,
    pub(super) offset: u64,
}

/// A peer with a link.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// There is one since its first *exchange*.
    pub(super) reader: Option<Reader>,
    pub(super) exchange: Due,
    /// Words *tell* that came, and of how many it knows that they are done with.
    pub(super) tells: u64,
    pub(super) handled: Due,
    /// What it has and we do not know: it is asked when its origin has not told us by then.
    asks: BTreeMap<Key, (Reference, Standing)>,
    /// What it was asked because it has it.
    asked: BTreeSet<Key>,
    pub(super) asks_due: Due,
    /// What it asked us.
    pub(super) describing: VecDeque<Reference>,
    /// Words for the lane of requests.
    pub(super) requests: VecDeque<Word>,
    pub(super) serving: VecDeque<Serving>,
}

impl Peer {
    /// One whose link has just begun.
    pub(super) fn new() -> Peer {
        Peer { exchange: Due::Now, ..Peer::default() }
    }

    /// It is to be asked what that is; whether there is room for the question.
    pub(super) fn ask(&mut self, of: Reference, standing: Standing, at: Time) -> bool {
        if self.asks.len() >= GOSSIP_ASKS_MAX {
            return false;
        }
        self.asks.insert(Key::of(of), (of, standing));
        self.asks_due.by(at);
        true
    }

    /// What it has of that slot, which is known now: it need not be asked.
    pub(super) fn learned(&mut self, key: Key) -> Option<Reference> {
        let (of, standing) = self.asks.remove(&key)?;
        (standing == Standing::Has).then_some(of)
    }

    /// It says what stands in that slot; whether it was asked because it has it.
    pub(super) fn described(&mut self, key: Key) -> bool {
        self.asked.remove(&key)
    }

    /// Whether it has anything that it is to be asked about.
    pub(super) fn has_asks(&self) -> bool {
        !self.asks.is_empty()
    }

    /// The next questions, of those that are asked still.
    pub(super) fn next_asks(&mut self, mut open: impl FnMut(&Reference) -> bool) -> Vec<Reference> {
        let mut of = Vec::new();
        let most = GOSSIP_WORD_ENTRIES_MAX / 8;
        while let Some((key, (reference, standing))) = self.asks.pop_first() {
            if open(&reference) {
                of.push(reference);
                if standing == Standing::Has && self.asked.len() < GOSSIP_ASKS_MAX {
                    self.asked.insert(key);
                }
            }
            if of.len() == most {
                self.asks_due = Due::Now;
                break;
            }
        }
        of
    }

    /// It asks what those are; whether there is room for the answers.
    pub(super) fn describe(&mut self, of: &[Reference]) -> bool {
        if self.describing.len() + of.len() > GOSSIP_ASKS_MAX {
            return false;
        }
        self.describing.extend(of);
        true
    }

    /// It wants bytes; whether there is room for that.
    pub(super) fn serve(&mut self, serving: Serving) -> bool {
        if self.serving.len() >= GOSSIP_SERVED_MAX {
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
        [self.handled.at(), self.asks_due.at(), marks].into_iter().flatten().min()
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
