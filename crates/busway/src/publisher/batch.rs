//! Several messages of which those who sleep are told once.
//!
//! Whoever sleeps is woken by a system call, which costs as much as twenty small messages. While a publisher has more to send at once,
//! that can wait until the last of them, or until some hundred lie there. What is sent is sent all the same: who is awake
//! sees each message as soon as it is there.
//!
//! Invariant: nobody is left asleep over a message: who is to be told is told before the publisher waits, and when the batch ends.

use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::ring::Patience;
use busway_shm::slot::INLINE_BYTES;
use busway_wire::{Codec, Context};

use super::{InContext, Publisher};
use crate::outcome::{SendError, Sent};

/// So many messages at most wait to be told of: a few microseconds, which is what it takes to wake somebody.
const UNTOLD_MAX: u32 = 256;

/// Messages of one publisher, sent one after the other. Made by [`Publisher::batch`]; ends when it is dropped.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = busway::Bus::open("example-of-batch")?;
/// let mut subscriber = bus.subscriber("lines").open()?;
/// let mut publisher = bus.publisher("lines").open()?;
/// let mut batch = publisher.batch();
/// for line in ["one", "two", "three"] {
///     batch.send(line.as_bytes())?;
/// }
/// drop(batch);
/// assert_eq!(subscriber.recv()?.payload(), b"one");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a batch sends what it is given"]
pub struct Batch<'publisher> {
    publisher: &'publisher mut Publisher,
    /// Messages of which nobody has been told, and their bytes.
    untold: u32,
    untold_bytes: usize,
}

impl<'publisher> Batch<'publisher> {
    pub(super) fn new(publisher: &'publisher mut Publisher) -> Self {
        Self { publisher, untold: 0, untold_bytes: 0 }
    }
}

impl Batch<'_> {
    /// As [`Publisher::send`].
    ///
    /// # Errors
    /// As [`Publisher::send`]; what was sent before stays sent.
    #[inline]
    pub fn send(&mut self, payload: &[u8]) -> Result<Sent, SendError> {
        self.put(payload, || Patience::Until(Deadline::never()))
    }

    /// As [`Publisher::send_timeout`]; each message has so much time.
    ///
    /// # Errors
    /// As [`Publisher::send_timeout`]; what was sent before stays sent.
    #[inline]
    pub fn send_timeout(&mut self, payload: &[u8], timeout: Duration) -> Result<Sent, SendError> {
        self.put(payload, || Patience::Until(Deadline::after(timeout)))
    }

    /// As [`Publisher::try_send`].
    ///
    /// # Errors
    /// As [`Publisher::try_send`]; what was sent before stays sent.
    #[inline]
    pub fn try_send(&mut self, payload: &[u8]) -> Result<Sent, SendError> {
        self.put(payload, || Patience::None)
    }

    #[inline]
    fn put(&mut self, payload: &[u8], patience: impl FnOnce() -> Patience) -> Result<Sent, SendError> {
        self.publisher.check()?;
        if payload.len() <= INLINE_BYTES {
            let meta = self.publisher.meta(Codec::Bytes, self.publisher.stamp);
            if let Some(sequence) = self.publisher.writer.put_inline(&meta, payload) {
                self.untold += 1;
                self.untold_bytes += payload.len();
                if self.untold >= UNTOLD_MAX {
                    self.tell();
                }
                return Ok(Sent { sequence, waited_ns: 0, stalled: 0, evicted: 0 });
            }
        }
        // It may have to wait for those who sleep.
        self.tell();
        self.publisher.send_coded(payload, Codec::Bytes, patience())
    }

    /// What is sent through what this returns bears this context, each message its own. Whoever sleeps is told of those at once.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use busway::Context;
    /// let bus = busway::Bus::open("example-of-a-batch-in-context")?;
    /// let mut subscriber = bus.subscriber("lines").open()?;
    /// let mut publisher = bus.publisher("lines").open()?;
    /// let id = bus.next_id()?;
    /// let mut batch = publisher.batch();
    /// batch.send(b"one")?;
    /// batch.in_context(Context::default().with_id(id)).send(b"two")?;
    /// drop(batch);
    /// assert_eq!((subscriber.recv()?.id(), subscriber.recv()?.id()), (None, Some(id)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_context<'a>(&'a mut self, context: Context<'a>) -> InContext<'a> {
        self.tell();
        InContext::new(self.publisher, context)
    }

    /// Tells those who sleep of what was sent so far.
    pub fn tell(&mut self) {
        if self.untold > 0 {
            self.publisher.tell(self.untold_bytes);
            (self.untold, self.untold_bytes) = (0, 0);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // What was sent before a fork is its parent's.
        if self.publisher.check().is_ok() {
            self.tell();
        }
    }
}
