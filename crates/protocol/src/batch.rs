//! What is to be written next: small bytes copied together, large payloads where they lie.
//!
//! A link appends, the driver writes the pieces with one vectored call and says how many bytes went out, wherever
//! that cut them. A payload is let go when its last byte is written. The batch knows no frames.
//!
//! Invariant: the concatenated pieces are what was appended, less what was advanced over.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

use busway_wire::limits::LINK_BATCH_BYTES;

/// Bytes on their way into a connection, in order. `P` keeps a payload alive while it lies here.
#[derive(Debug)]
pub struct Batch<P> {
    copied: Vec<u8>,
    /// How many bytes had been taken off the front of `copied` before its first byte was appended.
    base: u64,
    pieces: VecDeque<Piece<P>>,
    bytes: usize,
}

#[derive(Debug)]
enum Piece<P> {
    /// Bytes of `copied`, counted from the batch's beginning.
    Copied(Range<u64>),
    /// Bytes of a payload.
    Payload(P, Range<usize>),
}

impl<P> Default for Batch<P> {
    fn default() -> Batch<P> {
        Batch { copied: Vec::new(), base: 0, pieces: VecDeque::new(), bytes: 0 }
    }
}

impl<P: AsRef<[u8]>> Batch<P> {
    /// An empty batch, which has no memory yet.
    #[must_use]
    pub fn new() -> Batch<P> {
        Batch::default()
    }

    /// The bytes to write, in order, for a vectored write.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Copied(range) => self.copied.get(self.place(range)).unwrap_or_default(),
            Piece::Payload(payload, range) => payload.as_ref().get(range.clone()).unwrap_or_default(),
        })
    }

    /// How many bytes there are to write.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Takes off the first `written` bytes; more than there are is all.
    pub fn advance(&mut self, written: usize) {
        let mut left = written.min(self.bytes);
        self.bytes -= left;
        while left > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let taken = left.min(piece.len());
            piece.take(taken);
            left -= taken;
            if piece.len() == 0 {
                self.pieces.pop_front();
            }
        }
        self.forget_written();
    }

    /// Forgets everything, as when the connection is lost.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.copied.clear();
        self.base = 0;
        self.bytes = 0;
    }

    /// Puts other bytes into the place of all that is here, as when it was encrypted. What the batch had for bytes of
    /// its own is left in `bytes`, empty, so that two buffers do for any number of batches.
    pub fn replace(&mut self, bytes: &mut Vec<u8>) {
        self.clear();
        core::mem::swap(&mut self.copied, bytes);
        self.bytes = self.copied.len();
        if self.bytes > 0 {
            self.pieces.push_back(Piece::Copied(0..self.bytes as u64));
        }
    }

    /// Appends a copy of these bytes, whatever `write` puts at the end of the vector that it is given.
    pub(crate) fn copy(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.end();
        write(&mut self.copied);
        let end = self.end();
        // A batch that is emptied now and then stays far below 2^63 bytes of one start.
        self.bytes += usize::try_from(end - start).unwrap_or(0);
        match self.pieces.back_mut() {
            Some(Piece::Copied(range)) if range.end == start => range.end = end,
            Some(Piece::Copied(_) | Piece::Payload(..)) | None if end > start => {
                self.pieces.push_back(Piece::Copied(start..end));
            }
            Some(Piece::Copied(_) | Piece::Payload(..)) | None => {}
        }
    }

    /// Appends a part of a payload without copying it.
    pub(crate) fn payload(&mut self, payload: P, range: Range<usize>) {
        if !range.is_empty() && range.end <= payload.as_ref().len() {
            self.bytes += range.len();
            self.pieces.push_back(Piece::Payload(payload, range));
        }
    }

    fn end(&self) -> u64 {
        self.base + self.copied.len() as u64
    }

    /// Where a range of the batch lies in `copied` now.
    fn place(&self, range: &Range<u64>) -> Range<usize> {
        let place = |at: u64| usize::try_from(at.saturating_sub(self.base)).unwrap_or(usize::MAX);
        place(range.start)..place(range.end)
    }

    /// Takes written bytes off the front of `copied`: all at once when nothing is left, else rarely, since the
    /// rest moves.
    fn forget_written(&mut self) {
        let copied_from = self.pieces.iter().find_map(|piece| match piece {
            Piece::Copied(range) => Some(range.start),
            Piece::Payload(..) => None,
        });
        let Some(from) = copied_from else {
            self.base = self.end();
            self.copied.clear();
            return;
        };
        let written = usize::try_from(from - self.base).unwrap_or(0);
        if written >= LINK_BATCH_BYTES {
            self.copied.drain(..written);
            self.base = from;
        }
    }
}

impl<P> Piece<P> {
    fn len(&self) -> usize {
        match self {
            Piece::Copied(range) => usize::try_from(range.end - range.start).unwrap_or(0),
            Piece::Payload(_, range) => range.len(),
        }
    }

    fn take(&mut self, bytes: usize) {
        match self {
            Piece::Copied(range) => range.start += bytes as u64,
            Piece::Payload(_, range) => range.start += bytes,
        }
    }
}
