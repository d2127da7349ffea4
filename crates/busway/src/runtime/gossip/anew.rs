//! What a peer knows of us by rules that hold no more: it is told all of that anew, over as many links as that takes.
//!
//! It says on each link how far it knows our slots and our marks. What it was not told by the former rules lies before that, so it is taken to know nothing until it has heard all up to there. It is
//! not asked to forget anything: no word says so, and it would have all bytes again.
//!
//! It knows no machine and no links: words go in, and are changed.
//!
//! Invariant: `slots` and `marks` end only when the peer has heard, by the rules of now, all that it said it knew.

use busway_protocol::gossip::Word;

/// How far a peer said that it knew our slots, or our marks, by former rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Former {
    /// It has not said so on this link, and up to there on those before.
    Before(u64),
    /// It has said so.
    Said(u64),
}

impl Former {
    /// It says that it knows so much: as much is believed.
    fn hear(&mut self, known: &mut u64) {
        let (Former::Before(before) | Former::Said(before)) = *self;
        *self = Former::Said(before.max(*known));
        *known = 0;
    }

    /// Another link begins.
    fn link(&mut self) {
        let (Former::Before(before) | Former::Said(before)) = *self;
        *self = Former::Before(before);
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Anew {
    slots: Option<Former>,
    marks: Option<Former>,
    /// Words *tell* on this link, and with which of them all slots were told.
    tells: u64,
    told: Option<u64>,
    /// Up to where marks were said on this link.
    marked: u64,
}

impl Anew {
    /// What it may be told has changed.
    pub(super) fn begin(&mut self) {
        (self.slots, self.marks) = (Some(Former::Before(0)), Some(Former::Before(0)));
    }

    /// A link begins; nothing of the one before comes any more.
    pub(super) fn link(&mut self) {
        (self.tells, self.told, self.marked) = (0, None, 0);
        self.slots.iter_mut().chain(&mut self.marks).for_each(Former::link);
    }

    /// The peer says this.
    pub(super) fn hear(&mut self, word: &mut Word) {
        match word {
            Word::Exchange(exchange) => {
                let Some(since) = &mut exchange.since else { return };
                self.slots.iter_mut().for_each(|former| former.hear(&mut since.slots));
                self.marks.iter_mut().for_each(|former| former.hear(&mut since.marks));
            }
            Word::Handled { tells, marks } => {
                self.slots.take_if(|_| self.told.is_some_and(|told| *tells >= told));
                // Beyond what it knew before it says nothing while it asks about any of what it is told anew.
                self.marks.take_if(|former| matches!(former, Former::Said(known) if *marks > *known));
                if self.marks.is_some() {
                    *marks = self.marked.min(*marks);
                }
            }
            _ => {}
        }
    }

    /// It is told this.
    pub(super) fn say(&mut self, word: &Word) {
        match word {
            Word::Tell(tell) => {
                self.tells += 1;
                if let Some(Former::Said(known)) = self.slots
                    && tell.through >= known
                {
                    self.told.get_or_insert(self.tells);
                }
            }
            Word::Marks(marks) => self.marked = self.marked.max(marks.through),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
