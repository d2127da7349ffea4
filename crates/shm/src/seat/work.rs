//! Work of another host as the node sees it that lays it out here: messages of a ring for one group, of which it tells that host what becomes.
//!
//! The claim word of a task says whether somebody has it, how often it was given, and what became of it. A node may take back what nobody
//! has: then no puller of this host gets it any more, and the other host gives it to whom it likes.
//!
//! It does not know hosts, nor when a task has waited for too long.
//!
//! Invariant: nothing here waits. A task that was taken back was nobody's, and is nobody's here from then on.

use busway_wire::Cause;

use super::RingShared;
use crate::claims::Found;
use crate::sync::Ordering;

/// What the claim word of a task says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// Nobody has it; it was given to pullers so often.
    Waiting(u8),
    /// A puller has it.
    Taken,
    /// It was handled.
    Done,
    /// It is lost.
    Lost(Cause),
}

impl RingShared {
    /// Of the message that is published next: it was given to pullers so often before.
    pub fn begins_at(&self, sequence: u64, attempt: u8) {
        if attempt > 0 {
            self.begin_first_at(sequence, attempt);
        }
    }

    /// It was not published: another has its place, of which nothing is known yet.
    pub fn begins_not(&self, sequence: u64) {
        self.begin_first_at(sequence, 0);
    }

    /// How these messages stand, each of which was sent.
    pub fn stand(&self, sequences: impl Iterator<Item = u64>) -> Vec<Stands> {
        let run = self.first_run();
        let stands = |sequence| match run.as_ref().map(|run| run.claims().look(sequence)) {
            None => Stands::Waiting(0),
            Some(Found::Free(attempt)) => Stands::Waiting(attempt),
            Some(Found::Taken(_)) => Stands::Taken,
            // The word is of a later message: this one is over, or that would not be there.
            Some(Found::Done | Found::Other) => Stands::Done,
            Some(Found::Lost(cause)) => {
                Stands::Lost(Cause::from_index(cause.into()).unwrap_or(Cause::Corrupt))
            }
        };
        sequences.map(stands).collect()
    }

    /// Takes a message back that nobody has. `false`: somebody has it, or it is over.
    pub fn take_back(&self, sequence: u64) -> bool {
        self.first_run().is_some_and(|run| run.claims().give_up(sequence, Cause::NoSubscriber as u8))
    }

    /// Of each place of a puller how often it has begun or ended to look for work: odd while it looks.
    pub fn looking(&self) -> Vec<u64> {
        let of = |run: crate::claims::file::Run| {
            run.lines().iter().map(|line| line.looking.load(Ordering::Relaxed)).collect()
        };
        self.first_run().map(of).unwrap_or_default()
    }
}
