//! Requests as their requester sees them: messages of its ring of which it looks what becomes.
//!
//! The claim word of a request says all that a requester must know of it and cannot be told by one who is dead: whether somebody has it,
//! and whether that one has died or has done with it. It is also how a responder is told that nobody waits any more: the requester
//! takes the word back, and the responder finds its claim gone.
//!
//! It does not know replies, which travel elsewhere, nor when a request is late.
//!
//! Invariant: nothing here waits, and a word of another message is left alone (`Claims::withdraw`).

use busway_wire::{Cause, ProcessId};

use super::RingShared;
use crate::sync::Ordering;

/// What the claim word of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has it.
    Waiting,
    /// A responder of this process has it.
    Taken(Option<ProcessId>),
    /// Its responder has done with it, and is of this process, if it is there still. Whatever it replied was published before.
    Done(Option<ProcessId>),
    /// It is lost.
    Lost(Cause),
}

impl RingShared {
    /// From now on the ring is for requests. Before anybody else knows of it.
    pub fn ask(&self) {
        self.asks.store(true, Ordering::Relaxed);
    }

    pub(super) fn asks(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    /// Since when there is no responder that takes requests, on the monotonic clock; `None` while there is one. One that was closed and has some in hand takes no more.
    pub fn unanswered_since(&self) -> Option<u64> {
        self.unattended_since()
    }

    /// What became of this request, which was sent.
    pub fn standing(&self, sequence: u64) -> Standing {
        self.standing_of(sequence)
    }

    /// Takes a request back: nobody will handle it, and who does is told so. `false`: it is over.
    pub fn withdraw(&self, sequence: u64, cause: Cause) -> bool {
        self.first_run().is_some_and(|run| run.claims().withdraw(sequence, cause as u8))
    }
}
