//! Sending with a context: an id, a trace, or both.
//!
//! They stand between header and payload, and a slot has neither: such a message lies in a chunk, however small it is. What is sent
//! without one goes another way and does not pay for it.
//!
//! Invariant: what stands beside the payload is written whole before the message has a sequence.

use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::ring::Patience;
use busway_wire::{Codec, Context, HEADER_SIZE, Header};
use serde::Serialize;
use zerocopy::FromBytes;

use super::loan::Place;
use super::{Loan, Publisher, Stamp};
use crate::outcome::{SendError, Sent};

/// What stands between header and payload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beside<'a> {
    Context(Context<'a>),
    /// Extensions as they came from another host, checked.
    Came(&'a [u8]),
}

impl Beside<'_> {
    pub(crate) const NOTHING: Self = Beside::Came(&[]);

    fn size(&self) -> usize {
        match self {
            Beside::Context(context) => context.size(),
            Beside::Came(bytes) => bytes.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.size() == 0
    }

    fn write(&self, out: &mut [u8]) {
        match self {
            Beside::Context(context) => context.write(out),
            Beside::Came(bytes) => out.copy_from_slice(bytes),
        }
    }
}

/// A publisher or a pusher whose next messages bear a context. Made by [`Publisher::in_context`] and
/// [`Pusher::in_context`](crate::Pusher::in_context).
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use busway::Context;
/// let bus = busway::Bus::open("example-of-a-context")?;
/// let mut subscriber = bus.subscriber("orders").open()?;
/// let mut publisher = bus.publisher("orders").open()?;
/// let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// let context = Context::default().with_id(bus.next_id()?).with_trace(trace);
/// publisher.in_context(context).send(b"17 apples")?;
/// let order = subscriber.recv()?;
/// assert_eq!((order.id(), order.trace()), (context.id(), Some(trace)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it sends what it is given"]
pub struct InContext<'a> {
    publisher: &'a mut Publisher,
    context: Context<'a>,
}

impl<'a> InContext<'a> {
    pub(crate) fn new(publisher: &'a mut Publisher, context: Context<'a>) -> Self {
        Self { publisher, context }
    }

    /// As [`Publisher::loan`]: room for one message that bears this context. What is written where readers read it lies behind the context: of a typed value
    /// no more than 8 bytes of alignment are sure.
    ///
    /// # Errors
    /// As [`Publisher::loan`].
    pub fn loan(self, len: usize) -> Result<Loan<'a>, SendError> {
        self.room(len, Patience::Until(Deadline::never()))
    }

    /// As [`Publisher::try_loan`].
    ///
    /// # Errors
    /// As [`Publisher::loan`].
    pub fn try_loan(self, len: usize) -> Result<Loan<'a>, SendError> {
        self.room(len, Patience::None)
    }

    fn room(self, len: usize, patience: Patience) -> Result<Loan<'a>, SendError> {
        let Self { publisher, context } = self;
        if context.is_empty() {
            return publisher.loan_with(len, patience);
        }
        let place = publisher.place_beside(&Beside::Context(context), len, patience);
        let place = publisher.counted(place)?;
        Ok(Loan::new(publisher, place, len))
    }
}

impl InContext<'_> {
    /// As [`Publisher::send`].
    ///
    /// # Errors
    /// As [`Publisher::send`].
    pub fn send(&mut self, payload: &[u8]) -> Result<Sent, SendError> {
        self.put(Codec::Bytes, payload, Patience::Until(Deadline::never()))
    }

    /// As [`Publisher::send_timeout`].
    ///
    /// # Errors
    /// As [`Publisher::send_timeout`].
    pub fn send_timeout(&mut self, payload: &[u8], timeout: Duration) -> Result<Sent, SendError> {
        self.put(Codec::Bytes, payload, Patience::Until(Deadline::after(timeout)))
    }

    /// As [`Publisher::try_send`].
    ///
    /// # Errors
    /// As [`Publisher::try_send`].
    pub fn try_send(&mut self, payload: &[u8]) -> Result<Sent, SendError> {
        self.put(Codec::Bytes, payload, Patience::None)
    }

    /// As [`Publisher::send_json`].
    ///
    /// # Errors
    /// As [`Publisher::send_json`].
    pub fn send_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<Sent, SendError> {
        let bytes = serde_json::to_vec(value).map_err(|error| SendError::Encode(error.to_string()));
        let bytes = self.publisher.counted(bytes)?;
        self.put(Codec::Json, &bytes, Patience::Until(Deadline::never()))
    }

    /// As [`Publisher::send_msgpack`].
    ///
    /// # Errors
    /// As [`Publisher::send_msgpack`].
    pub fn send_msgpack<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<Sent, SendError> {
        let bytes = rmp_serde::to_vec_named(value).map_err(|error| SendError::Encode(error.to_string()));
        let bytes = self.publisher.counted(bytes)?;
        self.put(Codec::MessagePack, &bytes, Patience::Until(Deadline::never()))
    }

    /// As [`InContext::send_timeout`], of bytes that are encoded already and are said to be so: for who passes on what another has written. They are not looked at.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use busway::{Codec, Context};
    /// let bus = busway::Bus::open("example-of-what-is-encoded")?;
    /// let mut subscriber = bus.subscriber("orders").open()?;
    /// let mut publisher = bus.publisher("orders").open()?;
    /// let wait = std::time::Duration::from_secs(1);
    /// publisher.in_context(Context::default()).send_encoded(Codec::Json, b"[17]", wait)?;
    /// assert_eq!(subscriber.recv()?.codec(), Codec::Json);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Publisher::send_timeout`].
    pub fn send_encoded(
        &mut self,
        codec: Codec,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Sent, SendError> {
        self.put(codec, payload, Patience::Until(Deadline::after(timeout)))
    }

    pub(crate) fn put(
        &mut self,
        codec: Codec,
        payload: &[u8],
        patience: Patience,
    ) -> Result<Sent, SendError> {
        if self.context.is_empty() {
            return self.publisher.send_coded(payload, codec, patience);
        }
        let (stamp, beside) = (self.publisher.stamp, Beside::Context(self.context));
        let sent = self.publisher.send_beside(stamp, &beside, &[], codec, payload, patience);
        self.publisher.counted(sent)
    }
}

impl Publisher {
    /// What is sent through what this returns bears this context.
    pub fn in_context<'a>(&'a mut self, context: Context<'a>) -> InContext<'a> {
        InContext::new(self, context)
    }

    /// Room for a message with something beside its payload, which is written.
    fn place_beside(
        &mut self,
        beside: &Beside<'_>,
        len: usize,
        patience: Patience,
    ) -> Result<Place, SendError> {
        self.check()?;
        let skip = beside.size();
        let bytes = ((HEADER_SIZE + skip) as u64).saturating_add(len as u64);
        let chunk = self.writer.loan(bytes, patience);
        let mut chunk = chunk.map_err(|refusal| SendError::of(refusal, &self.topic))?;
        // None in a child made by `fork`.
        let Some(place) = chunk.bytes_mut().get_mut(HEADER_SIZE..HEADER_SIZE + skip) else {
            return Err(SendError::Forked);
        };
        beside.write(place);
        Ok(Place::Chunk(chunk, skip))
    }

    /// Sends a message with something beside its payload, which lies behind a head.
    pub(super) fn send_beside(
        &mut self,
        stamp: Stamp,
        beside: &Beside<'_>,
        head: &[u8],
        codec: Codec,
        payload: &[u8],
        patience: Patience,
    ) -> Result<Sent, SendError> {
        self.check()?;
        let skip = beside.size();
        let len = head.len().saturating_add(payload.len());
        let bytes = ((HEADER_SIZE + skip) as u64).saturating_add(len as u64);
        let chunk = self.writer.loan(bytes, patience);
        let mut chunk = chunk.map_err(|refusal| SendError::of(refusal, &self.topic))?;
        // None in a child made by `fork`.
        let Ok((header, rest)) = Header::mut_from_prefix(chunk.bytes_mut()) else {
            return Err(SendError::Forked);
        };
        self.lay_header(header, skip + len, codec, stamp);
        // At most 2 040 bytes.
        header.extensions = (skip / 8) as u8;
        let (place, rest) = rest.split_at_mut(skip);
        beside.write(place);
        let (place, rest) = rest.split_at_mut(head.len());
        place.copy_from_slice(head);
        rest[..payload.len()].copy_from_slice(payload);
        let sent = self.writer.send_loan(chunk, patience).map_err(|(refusal, chunk)| {
            self.writer.put_back(chunk);
            SendError::of(refusal, &self.topic)
        });
        let sent = self.after(sent, len)?;
        self.pace(sent.sequence, len, patience);
        Ok(sent)
    }
}
