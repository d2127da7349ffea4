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
use busway_wire::{Codec, HEADER_SIZE, Header, PortId};
use zerocopy::FromBytes;

use super::{Publisher, Stamp};
use crate::outcome::{SendError, Sent};

/// As aligned as the words of a slot are.
#[derive(Debug)]
#[repr(align(8))]
pub(super) struct Small([u8; INLINE_BYTES]);

#[derive(Debug)]
pub(super) enum Place {
    Inline(Small),
    /// With so many bytes of extensions before the payload, which are written.
    Chunk(busway_shm::ring::Loan, usize),
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

    /// The loan without its publisher, for those who cannot keep a borrow: it goes back with [`Publisher::attach`], to be
    /// written, sent or given back. What never goes back is memory that its publisher cannot use again.
    #[must_use]
    pub fn detach(mut self) -> DetachedLoan {
        let place = self.place.take();
        DetachedLoan { place, len: self.len, port: self.publisher.port }
    }

    pub(crate) fn finish(mut self, codec: Codec, patience: Patience) -> Result<Sent, SendError> {
        let stamp = self.publisher.stamp;
        let sent = self.finish_as(stamp, codec, patience);
        self.publisher.counted(sent)
    }

    pub(super) fn finish_as(
        &mut self,
        stamp: Stamp,
        codec: Codec,
        patience: Patience,
    ) -> Result<Sent, SendError> {
        let len = self.len;
        let sent = match self.place.take() {
            Some(Place::Inline(small)) => {
                self.publisher.check()?;
                return self.publisher.send_small(&small.0[..len], codec, stamp, patience);
            }
            Some(Place::Chunk(mut chunk, skip)) => {
                // None in a child made by `fork`.
                let Ok((header, _)) = Header::mut_from_prefix(chunk.bytes_mut()) else {
                    return Err(SendError::Forked);
                };
                self.publisher.lay_header(header, skip + len, codec, stamp);
                // At most 2 040 bytes.
                header.extensions = (skip / 8) as u8;
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

impl Place {
    fn bytes(&self, len: usize) -> &[u8] {
        match self {
            Place::Inline(small) => &small.0[..len],
            // Nothing in a child made by fork.
            Place::Chunk(chunk, skip) => {
                let start = HEADER_SIZE + skip;
                chunk.bytes().get(start..start + len).unwrap_or_default()
            }
        }
    }

    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        match self {
            Place::Inline(small) => &mut small.0[..len],
            Place::Chunk(chunk, skip) => {
                let start = HEADER_SIZE + *skip;
                chunk.bytes_mut().get_mut(start..start + len).unwrap_or_default()
            }
        }
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.place.as_ref().map_or(&[], |place| place.bytes(self.len))
    }
}

impl DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.place.as_mut().map_or(&mut [], |place| place.bytes_mut(self.len))
    }
}

/// A loan that does not borrow its publisher. Made by [`Loan::detach`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = busway::Bus::open("example-of-a-detached-loan")?;
/// let mut subscriber = bus.subscriber("frames").open()?;
/// let mut publisher = bus.publisher("frames").open()?;
/// let mut later = publisher.loan(1000)?.detach();
/// publisher.send(b"meanwhile")?;
/// later.bytes_mut().fill(7);
/// publisher.attach(later).map_err(|_| "of another publisher")?.send()?;
/// assert_eq!(&subscriber.recv()?[..], b"meanwhile");
/// assert_eq!(subscriber.recv()?[..], [7; 1000]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DetachedLoan {
    place: Option<Place>,
    len: usize,
    port: PortId,
}

impl DetachedLoan {
    /// What was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.place.as_ref().map_or(&[], |place| place.bytes(self.len))
    }

    /// The bytes, to be written. Those of a message of more than 96 bytes stay where they are while the loan is moved.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.place.as_mut().map_or(&mut [], |place| place.bytes_mut(self.len))
    }
}

impl Publisher {
    /// The loan that was detached from this publisher.
    ///
    /// # Errors
    /// The loan itself, where it is another publisher's.
    pub fn attach(&mut self, mut loan: DetachedLoan) -> Result<Loan<'_>, DetachedLoan> {
        if loan.port != self.port {
            return Err(loan);
        }
        Ok(Loan { place: loan.place.take(), len: loan.len, publisher: self })
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(Place::Chunk(chunk, _)) = self.place.take() {
            self.publisher.writer.put_back(chunk);
        }
    }
}
