//! What one subscriber was told of one source, judged.
//!
//! Invariant: sequences rise, and each hole is told with its cause, or nobody was left who could know it.

use std::collections::BTreeMap;

/// Whose node has gone, with what it knew.
#[derive(Clone, Copy, Debug)]
pub struct Forgotten {
    /// The publisher's.
    pub near: bool,
    /// The subscriber's.
    pub far: bool,
}

/// What one subscriber was told of one source.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// The first sequence.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Messages.
    pub messages: u64,
    /// Messages that were told as lost.
    pub lost: u64,
    /// Ranges that were told as lost and are not passed yet.
    told: BTreeMap<u64, u64>,
}

impl Line {
    /// A range was told as lost.
    pub fn lose(&mut self, from: u64, to: u64) {
        let end = self.told.entry(from).or_default();
        *end = (*end).max(to);
    }

    /// A message has come; `forgotten` says whose node has gone since the last one was sent.
    ///
    /// # Errors
    /// What rule it breaks.
    pub fn take(&mut self, sequence: u64, reliable: bool, forgotten: Forgotten) -> Result<(), String> {
        let before = self.last;
        if before > 0 && sequence <= before {
            return Err(format!("{sequence} comes after {before}"));
        }
        if before == 0 {
            self.first = sequence;
        } else if sequence > before + 1 {
            let (from, to) = (before + 1, sequence - 1);
            // Rows of a node die with it: what it had not read is lost. Who knows of it is told by the next one.
            if reliable && !forgotten.near {
                return Err(format!("{from} to {to} of a reliable source are lost"));
            }
            let nobody_knows = forgotten.near && forgotten.far;
            if !nobody_knows && !self.covers(from, to) {
                return Err(format!("nobody told why {from} to {to} are missing"));
            }
            self.lost += to - from + 1;
        }
        self.told.retain(|_, to| *to > sequence);
        self.last = sequence;
        self.messages += 1;
        Ok(())
    }

    /// Whether what was told as lost has all of it.
    fn covers(&self, from: u64, to: u64) -> bool {
        let mut next = from;
        for (&start, &end) in &self.told {
            if start > next {
                break;
            }
            next = next.max(end.saturating_add(1));
        }
        next > to
    }
}
