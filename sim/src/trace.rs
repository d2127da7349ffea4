//! What happened, as one number and, on demand, as lines.
//!
//! The number of two runs of one seed is the same, or something in the run came from outside of it.
//!
//! Invariant: the lines are never looked at by the run that they tell of.

use std::collections::VecDeque;
use std::fmt::Write as _;

use busway_protocol::Time;
use busway_wire::Checksum;

/// Lines that are kept: what came just before a failure.
const LINES_MAX: usize = 40_000;

/// The record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    sum: Checksum,
    events: u64,
    lines: Option<VecDeque<String>>,
}

/// One thing that happened; the numbers mean what the name says.
#[derive(Clone, Copy, Debug)]
pub struct Happening<'a> {
    /// The host.
    pub host: usize,
    /// What.
    pub what: &'static str,
    /// To whom, mostly a connection or a source.
    pub whom: u64,
    /// How much, mostly bytes or a sequence.
    pub much: u64,
    /// The source that it is about, or 0.
    pub source: u64,
    /// What is told to people beyond it.
    pub note: &'a str,
}

impl Trace {
    /// A record that keeps its last lines too.
    #[must_use]
    pub fn with_lines() -> Trace {
        Trace { lines: Some(VecDeque::new()), ..Trace::default() }
    }

    /// Notes a happening.
    pub fn note(&mut self, now: Time, happening: Happening<'_>) {
        let Happening { host, what, whom, much, source, note } = happening;
        self.events += 1;
        let mut words = [0; 40];
        for (word, at) in [now.0, host as u64, whom, much, source].into_iter().zip(words.chunks_exact_mut(8))
        {
            at.copy_from_slice(&word.to_le_bytes());
        }
        self.sum.update(&words);
        self.sum.update(what.as_bytes());
        self.sum.update(note.as_bytes());
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            let mut line = String::new();
            let seconds = now.0 / 1_000_000_000;
            let micros = now.0 / 1_000 % 1_000_000;
            // Writing to a string cannot fail.
            let _ = write!(line, "{seconds:>4}.{micros:06} host {host} {what} {whom:x} {much} {note}");
            if source != 0 {
                let _ = write!(line, " {source:x}");
            }
            lines.push_back(line);
        }
    }

    /// One number for all of it.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.sum.value()
    }

    /// How much happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().flatten().map(String::as_str)
    }
}
