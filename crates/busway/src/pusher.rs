//! Pushing: work that is shared, each message going to one puller of each group.
//!
//! A pusher is a publisher whose ring is for groups: it costs the same to push as to publish. What was accepted is never given up
//! for a newer message while somebody pulls: where the ring is full of work that nobody has finished, the new message is refused.
//!
//! It does not know its pullers, nor what became of one message; the account says what became of all.
//!
//! Invariant: a message that was accepted is handled, or counted with its cause.

use std::time::Duration;

use busway_wire::{Context, PortId, Topic};
use serde::Serialize;

use crate::bus::Bus;
use crate::error::Error;
use crate::inspection::Account;
use crate::outcome::{SendError, Sent};
use crate::publisher::{Batch, DetachedLoan, InContext, Loan, Publisher, PublisherBuilder};

/// Messages that wait or are being handled, unless the builder says otherwise: a second's work of a quick puller.
const SLOTS_DEFAULT: u32 = 1024;
/// For so long messages wait for the first puller, unless the builder says otherwise: programs that are started together
/// meet well within it.
const LATE_JOIN_DEFAULT: Duration = Duration::from_secs(1);

/// How a pusher is made. See [`Bus::pusher`].
#[derive(Clone, Debug)]
#[must_use = "a pusher is made by `open`"]
pub struct PusherBuilder {
    publisher: PublisherBuilder,
    late_join: Duration,
}

impl PusherBuilder {
    pub(crate) fn new(bus: &Bus, topic: Result<Topic, Error>) -> Self {
        let publisher = PublisherBuilder::new(bus, topic).slots_max(SLOTS_DEFAULT);
        Self { publisher, late_join: LATE_JOIN_DEFAULT }
    }

    /// Messages that wait or are being handled at most; rounded up to a power of two, at least 32, at most 2^20. Default 1 024. A
    /// message that is not finished keeps its place, so one that takes long holds up what is so far behind it.
    pub fn slots_max(mut self, slots: u32) -> Self {
        self.publisher = self.publisher.slots_max(slots);
        self
    }

    /// Bytes of chunks that the ring holds at most. Default 64 MiB. A single larger message is sent all the same.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.publisher = self.publisher.bytes_max(bytes);
        self
    }

    /// How long a full ring makes this pusher wait before the new message is refused. Default 1 s.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.publisher = self.publisher.max_wait(wait);
        self
    }

    /// For so long a full ring waits for a group's first puller, or for the next where all have gone. After that the oldest messages give
    /// way where their place is needed, and are counted as `no_subscriber`; while another group is pulled, all that waits for the one without
    /// pullers is. Default 1 s.
    pub fn late_join(mut self, wait: Duration) -> Self {
        self.late_join = wait;
        self
    }

    /// For tasks of another host, which are for this group alone.
    pub(crate) fn open_for_work(self, group: busway_wire::Group) -> Result<Publisher, Error> {
        self.publisher.reserved(group).open_for_groups(self.late_join)
    }

    /// Registers the pusher. Returns when the pullers that are known now can take what it sends.
    ///
    /// # Errors
    /// As [`PublisherBuilder::open`].
    pub fn open(self) -> Result<Pusher, Error> {
        Ok(Pusher { publisher: self.publisher.open_for_groups(self.late_join)? })
    }
}

/// A pusher of one topic.
#[derive(Debug)]
pub struct Pusher {
    publisher: Publisher,
}

impl Pusher {
    /// Sends. Where the ring is full of work, waits for at most the pusher's `max_wait`.
    ///
    /// # Errors
    /// [`SendError::Full`] where there was no room until then; memory; a closed bus.
    pub fn send(&mut self, payload: &[u8]) -> Result<Sent, SendError> {
        self.publisher.send(payload)
    }

    /// As [`Pusher::send`], waiting at most `timeout`.
    ///
    /// # Errors
    /// [`SendError::Timeout`], and as [`Pusher::send`].
    pub fn send_timeout(&mut self, payload: &[u8], timeout: Duration) -> Result<Sent, SendError> {
        self.publisher.send_timeout(payload, timeout)
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// [`SendError::Full`], and as [`Pusher::send`].
    #[inline]
    pub fn try_send(&mut self, payload: &[u8]) -> Result<Sent, SendError> {
        self.publisher.try_send(payload)
    }

    /// Several messages, of which pullers that sleep are told once. See [`Batch`].
    pub fn batch(&mut self) -> Batch<'_> {
        self.publisher.batch()
    }

    /// What is sent through what this returns bears this context: an id, a trace, or both.
    pub fn in_context<'a>(&'a mut self, context: Context<'a>) -> InContext<'a> {
        self.publisher.in_context(context)
    }

    /// Sends a value as JSON.
    ///
    /// # Errors
    /// [`SendError::Encode`], and as [`Pusher::send`].
    pub fn send_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<Sent, SendError> {
        self.publisher.send_json(value)
    }

    /// Sends a value as MessagePack, with the names of its fields.
    ///
    /// # Errors
    /// [`SendError::Encode`], and as [`Pusher::send`].
    pub fn send_msgpack<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<Sent, SendError> {
        self.publisher.send_msgpack(value)
    }

    /// A place for a payload of `len` bytes, as [`Publisher::loan`].
    ///
    /// # Errors
    /// As [`Publisher::loan`].
    pub fn loan(&mut self, len: usize) -> Result<Loan<'_>, SendError> {
        self.publisher.loan(len)
    }

    /// As [`Pusher::loan`], without waiting for room.
    ///
    /// # Errors
    /// [`SendError::Full`], and as [`Publisher::loan`].
    pub fn try_loan(&mut self, len: usize) -> Result<Loan<'_>, SendError> {
        self.publisher.try_loan(len)
    }

    /// Takes a detached loan back, to send or to drop it.
    ///
    /// # Errors
    /// The loan, where it is another pusher's.
    pub fn attach(&mut self, loan: DetachedLoan) -> Result<Loan<'_>, DetachedLoan> {
        self.publisher.attach(loan)
    }

    /// Waits until every message is finished. Not for groups for which nobody has pulled for as long as [`PusherBuilder::late_join`] says: where only they
    /// are left it returns at once. What they have not is kept for them as long as this pusher, and until its place is needed.
    ///
    /// # Errors
    /// [`SendError::Timeout`] with the groups that have not, when the time is up or they are forsaken; a closed bus.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), SendError> {
        self.publisher.flush(timeout)
    }

    /// Its id: the source of its messages.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.publisher.id()
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        self.publisher.topic()
    }

    /// Pullers that are attached now; 0 in a child made by `fork`.
    #[must_use]
    pub fn pullers(&self) -> usize {
        self.publisher.pullers()
    }

    /// Waits until at least `count` pullers are attached; returns how many are.
    ///
    /// # Errors
    /// [`Code::TimedOut`](crate::Code::TimedOut), [`Code::Closed`](crate::Code::Closed), [`Code::Forked`](crate::Code::Forked).
    pub fn wait_for_pullers(&self, count: usize, timeout: Duration) -> Result<usize, Error> {
        self.publisher.wait_for_pullers(count, timeout)
    }

    /// The ledger: what became of every message, for every group there ever was. Empty in a child made by `fork`.
    #[must_use]
    pub fn account(&self) -> Account {
        self.publisher.account()
    }
}
