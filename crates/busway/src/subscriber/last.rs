//! The last messages of a subscriber that ends: what was there when it was told, and nothing that comes later.
//!
//! Who ends in order handles what has come. Under load something always comes, so an end is drawn through each ring where its publisher is at that moment.
//! It stops nobody: what lies behind the end is counted when the subscriber is dropped.
//!
//! Invariant: once it ends no message is taken that was published later, of whomever it is, but one of a ring that has run over: what it then has is
//! what is newer.

use super::Subscriber;

impl Subscriber {
    /// From now on only what is there is taken. Again it changes nothing.
    pub(crate) fn end_here(&mut self) {
        if self.ends {
            return;
        }
        // Who came before is read up to where it is, also if nobody has looked since.
        self.meet();
        self.ends = true;
        for reader in self.readers.iter_mut().chain(&mut self.standby) {
            let last = reader.reader.row().head();
            reader.reader.end_at(last);
        }
        self.stop_at_the_end();
    }

    /// To be called before each look of a subscriber that ends.
    pub(crate) fn stop_at_the_end(&mut self) {
        if !self.ends {
            return;
        }
        for reader in &mut self.readers {
            // What a policy keeps the first of lies here already.
            reader.held |= !reader.reader.has_taken() && reader.reader.has_reached_end();
        }
    }
}
