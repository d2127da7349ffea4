//! What comes of one source of a peer: messages, which are words or pieces of them.
//!
//! A word is put together in the memory where it stays. A link that ends in its midst takes nothing of the pieces that have come whole: the next goes on there.
//!
//! It does not know what words mean, nor which source is for whom.
//!
//! Invariant: memory is taken for one word at a time, for no more than twice of what has come or been granted, than it says that it has, and than it may have.

use busway_wire::work::Piece;
use busway_wire::{HEADER_SIZE, Header, PortId};

/// A message that is coming.
#[derive(Debug)]
struct Current {
    sequence: u64,
    /// Bytes of extensions, which are no part of it.
    extensions: usize,
    piece: Piece,
    for_us: bool,
    /// It does not follow what came.
    strays: bool,
}

/// A word of which some has come.
#[derive(Debug)]
struct Word {
    /// `None`: there is no room for it.
    body: Option<Vec<u8>>,
    /// Bytes of whole pieces.
    whole: usize,
    missing: u64,
}

/// What the end of a message has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was for nobody, or a piece of a word.
    Nothing,
    Word(Vec<u8>),
    /// Something of what was said is missing, or there is no room for it.
    Lost,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pub(super) source: Option<PortId>,
    /// The last sequence of which all has come, and the last that the session was told of.
    pub(super) arrived: u64,
    published: u64,
    /// Words of it that nobody has taken.
    pub(super) waiting: usize,
    current: Option<Current>,
    word: Option<Word>,
}

impl Incoming {
    /// The peer has announced its source.
    pub(super) fn open(&mut self, source: PortId) {
        if self.source != Some(source) {
            *self = Self { source: Some(source), ..Self::default() };
        }
        self.abort();
    }

    /// What was said means nothing any more.
    pub(super) fn forget(&mut self) {
        self.word = None;
        self.waiting = 0;
        if let Some(current) = &mut self.current {
            current.for_us = false;
        }
    }

    /// What has come of a word goes. Returns whether there was any.
    pub(super) fn drop_word(&mut self) -> bool {
        self.word.take().is_some()
    }

    /// What the session is to be told of, if it was not: the last sequence.
    pub(super) fn publish(&mut self) -> Option<(PortId, u64)> {
        let source = self.source.filter(|_| self.arrived > self.published)?;
        self.published = self.arrived;
        Some((source, self.arrived))
    }

    /// A message begins to come. A word has at most `most` bytes.
    pub(super) fn begin(&mut self, for_us: bool, piece: Piece, header: &Header, most: u64) {
        self.abort();
        let (sequence, extensions) = (header.sequence.get(), header.extension_bytes());
        let size = usize::try_from(header.size.get()).unwrap_or(usize::MAX);
        let size = size.saturating_sub(HEADER_SIZE + extensions);
        let all = piece.missing.saturating_add(size as u64);
        if for_us && piece.begins {
            self.word = Some(Word { body: (all <= most).then(Vec::new), whole: 0, missing: all });
        }
        let follows = self.word.as_mut().filter(|word| for_us && word.missing == all);
        let strays = for_us && follows.is_none();
        if let Some(word) = follows {
            word.make_room(size);
        }
        self.current = Some(Current { sequence, extensions, piece, for_us, strays });
    }

    /// Bytes of the message that is coming which are no part of it.
    pub(super) fn skips(&self) -> usize {
        self.current.as_ref().map_or(0, |current| current.extensions)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if let (Some(Current { for_us: true, strays: false, .. }), Some(Word { body: Some(body), .. })) =
            (&self.current, &mut self.word)
        {
            body.extend_from_slice(bytes);
        }
    }

    /// The message is whole.
    pub(super) fn end(&mut self) -> Ended {
        let Some(current) = self.current.take() else { return Ended::Nothing };
        let Current { sequence, piece, for_us, strays, .. } = current;
        self.arrived = sequence;
        if !for_us {
            return Ended::Nothing;
        }
        let Some(Word { body: Some(body), whole, missing }) = self.word.as_mut().filter(|_| !strays) else {
            self.word = None;
            return Ended::Lost;
        };
        (*whole, *missing) = (body.len(), piece.missing);
        if piece.missing > 0 {
            return Ended::Nothing;
        }
        let body = std::mem::take(body);
        self.word = None;
        Ended::Word(body)
    }

    /// The rest of the message will not come; it comes again.
    pub(super) fn abort(&mut self) {
        self.current = None;
        if let Some(Word { body: Some(body), whole, .. }) = &mut self.word {
            body.truncate(*whole);
        }
    }

    /// Bytes that are kept of a word that is not whole.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Option<usize> {
        self.word.as_ref()?.body.as_ref().map(Vec::capacity)
    }
}

impl Word {
    /// Memory for so much more of it: refused rather than aborted. What a word says that it has is no reason to take it.
    fn make_room(&mut self, more: usize) {
        let Some(body) = &mut self.body else { return };
        if body.capacity() - body.len() >= more {
            return;
        }
        let missing = usize::try_from(self.missing).unwrap_or(usize::MAX);
        if body.try_reserve_exact(body.len().max(more).min(missing)).is_err() {
            self.body = None;
        }
    }
}
