//! What is under way between a peer and us, in each direction: the limit that holds, what of it is in use, and what became
//! of the rest.
//!
//! It counts what the link and the sources have counted; it decides nothing.
//!
//! Invariant: what is in use and what is handled are of the present link; what waited and what was dropped are of the
//! whole session.

use busway_wire::Cause;

use crate::flow::{Budget, Flow};
use crate::link::{Amount, Link};
use crate::session::Session;
use crate::session::export::Phase;

/// One flow between a peer and us, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// Which.
    pub flow: Flow,
    /// From the peer.
    pub from: Traffic,
    /// To it.
    pub to: Traffic,
}

/// One direction of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What may be under way: what its receiver granted. Nothing without a link, and for what is outside of all credit.
    pub limit: Budget,
    /// What is.
    pub in_use: Budget,
    /// Messages that came or went over the present link.
    pub handled: u64,
    /// To us: messages that waited for a subscriber here. To the peer: times that its limit, or the connection, made all
    /// of our sources wait.
    pub waited: u64,
    /// Messages that were dropped, or lost and told so, by cause.
    pub dropped: [u64; Cause::COUNT],
    /// Nanoseconds in which what came was taken, as far as whoever carries has measured them.
    pub handler_ns: u64,
}

/// What a session notes for it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    waited_in: u64,
    waited_out: u64,
    starved: bool,
    /// Of sources that are gone.
    lost: [u64; Cause::COUNT],
}

impl Tally {
    /// A message waits for a subscriber.
    pub(super) const fn suspended(&mut self) {
        self.waited_in = self.waited_in.saturating_add(1);
    }

    /// One of our sources may send.
    pub(super) const fn has_room(&mut self) {
        self.starved = false;
    }

    /// None of those that the peer has accepted may.
    pub(super) const fn starves(&mut self) {
        if !self.starved {
            self.waited_out = self.waited_out.saturating_add(1);
        }
        self.starved = true;
    }

    /// A source is done with; this was lost of it.
    pub(super) fn done(&mut self, lost: &[u64; Cause::COUNT]) {
        add(&mut self.lost, lost);
    }
}

fn add(all: &mut [u64; Cause::COUNT], more: &[u64; Cause::COUNT]) {
    for (word, more) in all.iter_mut().zip(more) {
        *word = word.saturating_add(*more);
    }
}

fn budget(amount: Amount) -> Budget {
    Budget { messages: amount.messages, bytes: amount.bytes }
}

impl<P: AsRef<[u8]> + Clone> Session<P> {
    /// What goes from the peer to us and from us to the peer, of each flow that a link carries.
    #[must_use]
    pub fn traffic(&self) -> [Passing; 3] {
        let stats = self.stats().unwrap_or_default();
        // Words about artifacts take credit, and are no messages.
        let usage = |of: Option<(Amount, Amount)>, handled, waited, dropped| {
            let (limit, in_use) = of.unwrap_or_default();
            let (limit, in_use) = (budget(limit), budget(in_use));
            Traffic { limit, in_use, handled, waited, dropped, handler_ns: 0 }
        };
        let mut lost = self.tally.lost;
        for export in self.exports.values() {
            add(&mut lost, &export.account().dropped);
        }
        let counted = |handled| Traffic { handled, ..Traffic::default() };
        let waiting = self.link.as_ref().map_or(0, Link::frames_waiting);
        let in_use = Budget { messages: waiting, bytes: 0 };
        [
            Passing {
                flow: Flow::Control,
                from: counted(stats.frames_in.control),
                to: Traffic { in_use, ..counted(stats.frames_out.control) },
            },
            Passing {
                flow: Flow::Transport,
                from: counted(stats.frames_in.transport),
                to: counted(stats.frames_out.transport),
            },
            Passing {
                flow: Flow::Data,
                from: usage(
                    self.link.as_ref().map(Link::granted_use),
                    stats.messages_in,
                    self.tally.waited_in,
                    self.dropped,
                ),
                to: usage(
                    self.link.as_ref().and_then(Link::grant_use),
                    stats.messages_out,
                    self.tally.waited_out,
                    lost,
                ),
            },
        ]
    }

    /// Whether a source has been accepted, so that it could send.
    pub(super) fn is_flowing(&self) -> bool {
        self.exports.values().any(|export| export.phase() == Phase::Flowing)
    }
}
