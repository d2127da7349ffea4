//! What is to be written next: small bytes copied together, large payloads where they lie.
//!
//! A link appends, the driver writes the pieces with one vectored call and says how many bytes went out, wherever
//! that cut them. A payload is let go when its last byte is written, and a run is kept then to be filled again. The batch
//! knows no frames.
//!
//! Invariant: the concatenated pieces are what was appended, less what was advanced over.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

use busway_wire::Run;
use busway_wire::limits::LINK_BATCH_BYTES;

/// Runs that have gone and are kept to be filled again: what a batch has of full ones.
const SPARE_MAX: usize = 4;

/// Bytes on their way into a connection, in order. `P` keeps a payload alive while it lies here.
#[derive(Debug)]
pub struct Batch<P> {
    copied: Vec<u8>,
    /// How many bytes had been taken off the front of `copied` before its first byte was appended.
    base: u64,
    pieces: VecDeque<Piece<P>>,
    bytes: usize,
    spare: Vec<Run>,
}

#[derive(Debug)]
enum Piece<P> {
    /// Bytes of `copied`, counted from the batch's beginning.
    Copied(Range<u64>),
    /// Bytes of a payload.
    Payload(P, Range<usize>),
    /// Bytes of the records of a run.
    Run(Run, Range<usize>),
}

impl<P> Default for Batch<P> {
    fn default() -> Batch<P> {
        Batch { copied: Vec::new(), base: 0, pieces: VecDeque::new(), bytes: 0, spare: Vec::new() }
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
            Piece::Run(run, range) => run.bytes().get(range.clone()).unwrap_or_default(),
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
            if piece.len() == 0
                && let Some(piece) = self.pieces.pop_front()
            {
                keep(&mut self.spare, piece);
            }
        }
        self.forget_written();
    }

    /// Forgets everything, as when the connection is lost.
    pub fn clear(&mut self) {
        for piece in self.pieces.drain(..) {
            keep(&mut self.spare, piece);
        }
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
            Some(Piece::Copied(_) | Piece::Payload(..) | Piece::Run(..)) | None if end > start => {
                self.pieces.push_back(Piece::Copied(start..end));
            }
            Some(Piece::Copied(_) | Piece::Payload(..) | Piece::Run(..)) | None => {}
        }
    }

    /// Appends a part of a payload without copying it.
    pub(crate) fn payload(&mut self, payload: P, range: Range<usize>) {
        if !range.is_empty() && range.end <= payload.as_ref().len() {
            self.bytes += range.len();
            self.pieces.push_back(Piece::Payload(payload, range));
        }
    }

    /// Appends the records of a run without copying them.
    pub(crate) fn run(&mut self, run: Run) {
        let len = run.bytes().len();
        self.bytes += len;
        self.pieces.push_back(Piece::Run(run, 0..len));
    }

    /// A run that has gone, if there is one, to be filled again.
    pub(crate) fn take_spare(&mut self) -> Option<Run> {
        self.spare.pop()
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
            Piece::Payload(..) | Piece::Run(..) => None,
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
            Piece::Payload(_, range) | Piece::Run(_, range) => range.len(),
        }
    }

    fn take(&mut self, bytes: usize) {
        match self {
            Piece::Copied(range) => range.start += bytes as u64,
            Piece::Payload(_, range) | Piece::Run(_, range) => range.start += bytes,
        }
    }
}

/// Keeps the memory of a run that has gone.
fn keep<P>(spare: &mut Vec<Run>, piece: Piece<P>) {
    if let Piece::Run(run, _) = piece
        && spare.len() < SPARE_MAX
    {
        spare.push(run);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use busway_wire::{PortId, Run, TopicId};

    use super::Batch;

    #[test]
    fn what_is_appended_goes_out_in_order_wherever_a_write_ends_and_runs_come_back() {
        let mut run = Run::default();
        run.begin(TopicId(1), PortId(2), 1, 0);
        assert!(run.push(0, 0, 0, &[5; 40]) && run.push(0, 0, 0, &[6; 20]));
        let all = [&[1; 10][..], run.bytes(), &[2; 10], &[3; 30]].concat();
        for step in 1..=all.len() {
            let mut batch: Batch<&[u8]> = Batch::new();
            batch.copy(|out| out.extend_from_slice(&[1; 10]));
            batch.run(run.clone());
            batch.copy(|out| out.extend_from_slice(&[2; 10]));
            batch.payload(&[3; 30], 0..30);
            let mut out: Vec<u8> = Vec::new();
            while !batch.is_empty() {
                let rest: Vec<u8> = batch.pieces().flatten().copied().collect();
                assert_eq!(rest.len(), batch.bytes());
                out.extend(rest.iter().copied().take(step));
                batch.advance(step);
            }
            assert_eq!(out, all, "{step} bytes at a time");
            assert!(batch.take_spare().is_some_and(|run| run.count() == 2) && batch.take_spare().is_none());
        }
    }
}
