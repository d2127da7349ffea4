//! Taking one message by its number: for who has claimed it.
//!
//! It decides nothing: a message that was claimed is not overwritten, so that it lies where its number says.
//!
//! Invariant: the row's cursor does not move by it; it stands where the claims began.

use super::RowReader;
use crate::row::Taken;

impl RowReader {
    /// Takes the message of this number, wherever it lies in the ring.
    pub(crate) fn take_at(&mut self, sequence: u64) -> Taken {
        if self.stage.is_none() && !self.begin() {
            return Taken::Empty;
        }
        if sequence != self.next {
            self.next = sequence;
            self.locate();
        }
        self.over = false;
        self.take_next()
    }
}
