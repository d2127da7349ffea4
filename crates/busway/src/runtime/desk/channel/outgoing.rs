//! What is said to a peer by one source, until the peer has confirmed it.
//!
//! A word that is large goes in pieces, each with a sequence of its own, so that a link grants it no more at a time than others and
//! goes on in its midst. A piece shows bytes of the word: nothing is copied for it. What takes the place of a word stands where its last piece did, and the others
//! keep their places and say nothing; who has heard the first of them drops it when the next word begins.
//!
//! It does not know the other source, nor who may have what.
//!
//! Invariant: `out` holds each message from the first that the peer has not confirmed, in order; its sequences have no hole. `kept` is at least what all of it takes as bodies.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use busway_protocol::Permits;
use busway_wire::PortId;
use busway_wire::work::Piece;

use crate::runtime::Outbound;
use crate::runtime::desk::says::{Saying, WORD_BYTES};

/// Which bytes of a word a message has.
#[derive(Clone, Debug)]
enum Part {
    All,
    /// What is made when it goes.
    Head,
    Rest(Range<usize>),
}

/// A message under way to the peer.
#[derive(Clone, Debug)]
pub(super) struct Said {
    to: PortId,
    /// `None`: it was for an earlier source of the peer's, or is over, and only keeps its place.
    pub(super) saying: Option<Saying>,
    part: Part,
    piece: Piece,
    size: usize,
    /// Bytes of memory that are free when this is confirmed: those of a word stand at its last piece.
    keeps: usize,
    /// It does not go before the other source was confirmed up to there.
    after: u64,
}

impl Said {
    /// What it says, if it is the last of it.
    pub(super) fn ends(&self) -> Option<&Saying> {
        self.saying.as_ref().filter(|_| self.piece.missing == 0)
    }
}

/// A message for the session.
pub(super) struct Going {
    pub(super) sequence: u64,
    pub(super) to: PortId,
    pub(super) piece: Piece,
    pub(super) payload: Outbound,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The peer wants it.
    pub(super) told: bool,
    out: VecDeque<Said>,
    /// The sequence before the first of `out`, and the last that was given to the session.
    confirmed: u64,
    read: u64,
    bytes: usize,
    kept: usize,
}

impl Outgoing {
    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Bytes that the peer has not confirmed.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory: all of a word until the peer has confirmed its last piece.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    pub(super) fn read(&self) -> u64 {
        self.read
    }

    fn end(&self) -> u64 {
        self.confirmed + self.out.len() as u64
    }

    fn at(&self, sequence: u64) -> Option<usize> {
        sequence.checked_sub(self.confirmed + 1).and_then(|at| usize::try_from(at).ok())
    }

    /// All is for nobody: another source takes its place.
    pub(super) fn clear(&mut self) {
        self.out.clear();
        (self.confirmed, self.read, self.bytes, self.kept) = (0, 0, 0, 0);
    }

    /// What it was for is no more: all keeps its place.
    pub(super) fn mute(&mut self) {
        for said in &mut self.out {
            (said.saying, said.size, said.keeps) = (None, 0, 0);
        }
        (self.bytes, self.kept) = (0, 0);
    }

    /// Puts a word behind all others. Returns its sequence.
    pub(super) fn push(&mut self, to: PortId, saying: Saying) -> u64 {
        let size = saying.size();
        self.bytes += size;
        self.kept += size;
        let (saying, part, piece) = (Some(saying), Part::All, Piece::WHOLE);
        self.out.push_back(Said { to, saying, part, piece, size, keeps: size, after: 0 });
        self.end()
    }

    /// Into how many messages of so many bytes each a word is cut.
    pub(super) fn pieces(saying: &Saying, most: usize) -> usize {
        let rest = saying.rest().map_or(0, |rest| rest.len());
        rest.div_ceil(most.max(1))
            + usize::from(matches!(saying, Saying::Request { .. } | Saying::Cancel { .. }))
    }

    /// The same in pieces of so many bytes, when the other source was confirmed up to `after`. Returns the sequence of the last.
    pub(super) fn push_pieces(&mut self, to: PortId, saying: Saying, most: usize, after: u64) -> u64 {
        let Some(rest) = saying.rest().map(|rest| rest.len()) else { return self.push(to, saying) };
        let (mut begins, whole) = (true, saying.size());
        let mut add = |part: Part, size: usize, missing: usize| {
            let piece = Piece { begins: std::mem::take(&mut begins), missing: missing as u64 };
            let keeps = if missing == 0 { whole } else { 0 };
            self.bytes += size;
            self.kept += keeps;
            self.out.push_back(Said { to, saying: Some(saying.clone()), part, piece, size, keeps, after });
        };
        if matches!(saying, Saying::Request { .. }) {
            add(Part::Head, WORD_BYTES, rest);
        }
        let mut at = 0;
        while at < rest {
            let next = rest.min(at + most.max(1));
            add(Part::Rest(at..next), next - at, rest - next);
            at = next;
        }
        self.end()
    }

    /// Puts a word in the place of one that the peer has not confirmed, whose last piece this is. Returns whether the other may be there already.
    pub(super) fn instead(&mut self, sequence: u64, saying: &Saying, nobody: PortId) -> bool {
        let Some(mut at) = self.at(sequence) else { return true };
        let Some(said) = self.out.get_mut(at) else { return true };
        let mut begins = said.piece.begins;
        let size = saying.size();
        self.bytes = (self.bytes + size).saturating_sub(said.size);
        self.kept = (self.kept + size).saturating_sub(said.keeps);
        (said.saying, said.part, said.piece, said.size, said.keeps) =
            (Some(saying.clone()), Part::All, Piece::WHOLE, size, size);
        while !begins
            && let Some(before) = at.checked_sub(1)
            && let Some(said) = self.out.get_mut(before)
        {
            begins = said.piece.begins;
            self.bytes = self.bytes.saturating_sub(said.size);
            (said.to, said.saying, said.size) = (nobody, None, 0);
            at = before;
        }
        sequence <= self.read
    }

    /// What the peer may not have, and has not had all of: the sequence of its last piece, its pull, and its number.
    pub(super) fn denied(&self, permits: &Permits) -> Vec<(u64, u32, u64)> {
        let first = usize::try_from(self.read - self.confirmed).unwrap_or(usize::MAX);
        let unread = self.out.iter().enumerate().skip(first);
        let denied = unread.filter_map(|(at, said)| {
            let (pull, task) = said.ends()?.denied_by(permits)?;
            Some((self.confirmed + at as u64 + 1, pull, task))
        });
        denied.collect()
    }

    fn first(&self, other_confirmed: u64) -> Option<&Said> {
        let at = usize::try_from(self.read - self.confirmed).ok()?;
        self.out.get(at).filter(|said| said.after <= other_confirmed)
    }

    pub(super) fn has_next(&self, other_confirmed: u64) -> bool {
        self.first(other_confirmed).is_some()
    }

    /// The next message, if there is one that may go.
    pub(super) fn next(&mut self, other_confirmed: u64, now_ns: u64) -> Option<Going> {
        let Said { to, saying, part, piece, .. } = self.first(other_confirmed)?;
        let payload = match (saying, part) {
            (None, _) => Outbound::Said(Arc::default()),
            (Some(saying), Part::All) => Outbound::Said(saying.body(now_ns)),
            (Some(saying), Part::Head) => Outbound::Said(saying.head(now_ns).unwrap_or_default()),
            (Some(saying), Part::Rest(range)) => match saying.rest() {
                Some(rest) => Outbound::Piece(rest.clone(), range.clone()),
                None => Outbound::Said(Arc::default()),
            },
        };
        let (to, piece) = (*to, *piece);
        self.read += 1;
        Some(Going { sequence: self.read, to, piece, payload })
    }

    /// The peer has all up to here. `over` is told of what that was, with its sequences.
    pub(super) fn confirm(&mut self, sequence: u64, mut over: impl FnMut(u64, Said)) {
        let sequence = sequence.min(self.read);
        while self.confirmed < sequence {
            self.confirmed += 1;
            let Some(said) = self.out.pop_front() else { continue };
            self.bytes = self.bytes.saturating_sub(said.size);
            self.kept = self.kept.saturating_sub(said.keeps);
            over(self.confirmed, said);
        }
    }

    /// What followed this has not arrived.
    pub(super) fn rewind(&mut self, to: u64) {
        self.read = to.clamp(self.confirmed, self.read);
    }
}
