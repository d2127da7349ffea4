//! Publishers that match a subscription and cannot be read yet.
//!
//! A row needs memory of ours, a seat needs memory of the publisher. Where one of them has none, the publisher is kept
//! here, its subscriber is told, and the control thread tries again, more and more seldom, until it succeeds or the
//! publisher is gone.
//!
//! Invariant: a publisher that was told to us is read, is over, or stands here with the reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use busway_shm::arena::PeerArena;
use busway_shm::seat::EntryKey;
use busway_wire::{PortId, ProcessId, Topic};

use crate::error::{Code, Error};

/// The first pause between two tries, and the longest: trying costs the publisher as much as us.
const PAUSE_NS_MIN: u64 = 250_000_000;
const PAUSE_NS_MAX: u64 = 8_000_000_000;

/// Whose memory was short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Short {
    /// Ours.
    Own,
    /// The publisher's.
    Publishers,
}

/// A publisher that cannot be read yet.
#[derive(Clone, Debug)]
pub(crate) struct Unmet {
    pub(crate) peer: Arc<PeerArena>,
    pub(crate) ring: EntryKey,
    pub(crate) topic: Topic,
    pub(crate) publisher: PortId,
    pub(crate) short: Short,
    pub(crate) error: Error,
}

impl Unmet {
    /// A publisher that refused a seat.
    pub(crate) fn refused(
        peer: Arc<PeerArena>,
        ring: EntryKey,
        topic: Topic,
        publisher: PortId,
        reason: &str,
    ) -> Self {
        let error =
            Error::new(Code::SeatRefused, format!("the publisher refused a seat: {}", reason.escape_debug()))
                .at(format!("topic {topic}"))
                .remedy("raise the budget of who makes the domain, or close subscribers; it is tried again");
        Self { peer, ring, topic, publisher, short: Short::Publishers, error }
    }

    fn key(&self) -> (ProcessId, EntryKey) {
        (self.peer.process(), self.ring)
    }
}

#[derive(Debug)]
struct Waiting {
    unmet: Unmet,
    next_ns: u64,
    pause_ns: u64,
}

/// All of a subscription.
#[derive(Debug, Default)]
pub(crate) struct UnmetList {
    waiting: BTreeMap<(ProcessId, EntryKey), Waiting>,
}

impl UnmetList {
    /// Notes that a publisher cannot be read; each time in a row the pause until the next try doubles.
    pub(crate) fn note(&mut self, unmet: Unmet, now_ns: u64) {
        let first = || Waiting { unmet: unmet.clone(), next_ns: 0, pause_ns: PAUSE_NS_MIN / 2 };
        let waiting = self.waiting.entry(unmet.key()).or_insert_with(first);
        waiting.pause_ns = (2 * waiting.pause_ns).min(PAUSE_NS_MAX);
        waiting.next_ns = now_ns.saturating_add(waiting.pause_ns);
        waiting.unmet = unmet;
    }

    /// The publisher has its row and its seat, or is over.
    pub(crate) fn forget(&mut self, process: ProcessId, ring: EntryKey) {
        self.waiting.remove(&(process, ring));
    }

    /// All publishers of a process are gone.
    pub(crate) fn gone(&mut self, process: ProcessId) {
        self.waiting.retain(|(of, _), _| *of != process);
    }

    /// Those that are to be tried now, at most `most`. They are due again later, whatever becomes of the try.
    pub(crate) fn due(&mut self, now_ns: u64, most: usize) -> Vec<Unmet> {
        let due = self.waiting.values_mut().filter(|waiting| now_ns >= waiting.next_ns).take(most);
        due.map(|waiting| {
            waiting.next_ns = now_ns.saturating_add(waiting.pause_ns);
            waiting.unmet.clone()
        })
        .collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Unmet> {
        self.waiting.values().map(|waiting| &waiting.unmet)
    }
}
