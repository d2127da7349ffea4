//! Room for one message, in the memory where its readers will read it.
//!
//! A small message lies in the loan itself and is copied into the slot when it is sent; a larger one lies in a chunk.
//!
//! Invariant: a chunk that was loaned is sent or put back, whatever becomes of the loan.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::ring::Patience;
use busway_shm::slot::INLINE_BYTES;
use busway_wire::{Codec, HEADER_SIZE, Header};
use zerocopy::FromBytes;

use super::Publisher;
use crate::outcome::{SendError, Sent};

/// As aligned as the words of a slot are.
#[derive(Debug)]
#[repr(align(8))]
pub(super) struct Small([u8; INLINE_BYTES]);

#[derive(Debug)]
pub(super) enum Place {
    Inline(Small),
    Chunk(busway_shm::ring::Loan),
}

impl Place {
    pub(super) fn small() -> Self {
        Self::Inline(Small([0; INLINE_BYTES]))
    }
}

/// Room for one message. Write it, then send it; dropped, it is given back.
#[derive(Debug)]
pub struct Loan<'a> {
    publisher: &'a mut Publisher,
    place: Option<Place>,
    len: usize,
}

impl<'a> Loan<'a> {
    pub(super) fn new(publisher: &'a mut Publisher, place: Place, len: usize) -> Self {
        Self { publisher, place: Some(place), len }
    }
}

impl Loan<'_> {
    /// As [`Publisher::send`].
    ///
    /// # Errors
    /// As [`Publisher::send`]; what was written is lost then.
    pub fn send(self) -> Result<Sent, SendError> {
        self.finish(Codec::Bytes, Patience::Until(Deadline::never()))
    }

    /// As [`Publisher::try_send`].
    ///
    /// # Errors
    /// As [`Publisher::try_send`].
    pub fn try_send(self) -> Result<Sent, SendError> {
        self.finish(Codec::Bytes, Patience::None)
    }

    /// As [`Publisher::send_timeout`].
    ///
    /// # Errors
    /// As [`Publisher::send_timeout`].
    pub fn send_timeout(self, timeout: Duration) -> Result<Sent, SendError> {
        self.finish(Codec::Bytes, Patience::Until(Deadline::after(timeout)))
    }

    pub(crate) fn finish(mut self, codec: Codec, patience: Patience) -> Result<Sent, SendError> {
        let len = self.len;
        let sent = match self.place.take() {
            Some(Place::Inline(small)) => return self.publisher.send_coded(&small.0[..len], codec, patience),
            Some(Place::Chunk(mut chunk)) => {
                // None in a child made by `fork`.
                let Ok((header, _)) = Header::mut_from_prefix(chunk.bytes_mut()) else {
                    return Err(SendError::Forked);
                };
                self.publisher.lay_header(header, len, codec);
                self.publisher.writer.send_loan(chunk, patience).map_err(|(refusal, chunk)| {
                    self.publisher.writer.put_back(chunk);
                    SendError::of(refusal, &self.publisher.topic)
                })
            }
            None => Err(SendError::Closed),
        };
        let sent = self.publisher.after(sent, len)?;
        self.publisher.pace(sent.sequence, len, patience);
        Ok(sent)
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.place {
            Some(Place::Inline(small)) => &small.0[..self.len],
            // Nothing in a child made by fork.
            Some(Place::Chunk(chunk)) => {
                chunk.bytes().get(HEADER_SIZE..HEADER_SIZE + self.len).unwrap_or_default()
            }
            None => &[],
        }
    }
}

impl DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.place {
            Some(Place::Inline(small)) => &mut small.0[..self.len],
            Some(Place::Chunk(chunk)) => {
                chunk.bytes_mut().get_mut(HEADER_SIZE..HEADER_SIZE + self.len).unwrap_or_default()
            }
            None => &mut [],
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(Place::Chunk(chunk)) = self.place.take() {
            self.publisher.writer.put_back(chunk);
        }
    }
}
