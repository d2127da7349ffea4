//! The bus as a medium: letters of 64 bytes through publishers and subscribers.
//!
//! Lossy receivers take the default policy, reliable ones `block`. A letter goes by `try_send` of its
//! bytes where loss is allowed and by `send` where it is not: what a user would write first.

use crate::Failure;
use crate::bus::{PATIENCE, join};
use crate::medium::{Channel, Letter, Medium, Quality, Receiver, Scene, Sender, from_bytes, to_bytes};
use busway::{Bus, Node, Policy, Publisher, Subscriber};
use std::rc::Rc;
use std::time::Duration;

/// One process on the bus.
#[derive(Debug)]
pub struct Busway {
    bus: Bus,
}

/// A publisher.
#[derive(Debug)]
pub struct BuswaySender {
    publisher: Publisher,
    quality: Quality,
    /// Of payloads that are not letters: one that fits a slot is sent from here, another is loaned.
    buffer: Vec<u8>,
    // Where the messages leave the host, if they do; it ends after the publisher.
    _node: Option<Rc<Node>>,
}

/// Payloads up to this lie in the slot: a loan would only be copied.
const INLINE_BYTES: usize = 96;

/// A subscriber.
#[derive(Debug)]
pub struct BuswayReceiver {
    subscriber: Subscriber,
}

fn topic(channel: Channel) -> &'static str {
    match channel {
        Channel::There => "bench.there",
        Channel::Back => "bench.back",
    }
}

impl Medium for Busway {
    type Sender = BuswaySender;
    type Receiver = BuswayReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        Ok(Self { bus: join(scene)? })
    }

    fn sender(&self, channel: Channel, quality: Quality) -> Result<BuswaySender, Failure> {
        BuswaySender::open(&self.bus, channel, quality, 0, None)
    }

    fn receiver(&self, channel: Channel, quality: Quality) -> Result<BuswayReceiver, Failure> {
        BuswayReceiver::open(&self.bus, channel, quality)
    }
}

impl BuswaySender {
    /// A publisher of payloads of `size` bytes.
    pub(super) fn open(
        bus: &Bus,
        channel: Channel,
        quality: Quality,
        size: usize,
        node: Option<Rc<Node>>,
    ) -> Result<Self, Failure> {
        let publisher = bus.publisher(topic(channel)).max_wait(PATIENCE).open()?;
        Ok(Self { publisher, quality, buffer: vec![0; size], _node: node })
    }
}

impl BuswayReceiver {
    /// A subscriber.
    pub(super) fn open(bus: &Bus, channel: Channel, quality: Quality) -> Result<Self, Failure> {
        let builder = bus.subscriber(topic(channel));
        let builder = match quality {
            Quality::Lossy => builder,
            Quality::Reliable => builder.policy(Policy::Block),
        };
        Ok(Self { subscriber: builder.open()? })
    }
}

impl Sender for BuswaySender {
    fn settle(&mut self, receivers: usize) -> Result<(), Failure> {
        self.publisher.wait_for_subscribers(receivers, PATIENCE)?;
        Ok(())
    }

    #[inline]
    fn send(&mut self, letter: &Letter) -> Result<(), Failure> {
        let bytes = to_bytes(letter);
        match self.quality {
            Quality::Lossy => self.publisher.try_send(&bytes)?,
            Quality::Reliable => self.publisher.send(&bytes)?,
        };
        Ok(())
    }

    #[inline]
    fn send_filled(&mut self, fill: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        if self.buffer.len() <= INLINE_BYTES {
            fill(&mut self.buffer);
            self.publisher.send(&self.buffer)?;
        } else {
            let mut loan = self.publisher.loan(self.buffer.len())?;
            fill(&mut loan);
            loan.send()?;
        }
        Ok(())
    }
}

impl Receiver for BuswayReceiver {
    const PAUSES: bool = true;

    #[inline]
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        match self.subscriber.try_recv()? {
            Some(sample) => from_bytes(&sample).map(Some),
            None => Ok(None),
        }
    }

    fn sleep(&mut self, timeout: Duration) -> Result<Option<Letter>, Failure> {
        match self.subscriber.recv_timeout(timeout)? {
            Some(sample) => from_bytes(&sample).map(Some),
            None => Ok(None),
        }
    }

    #[inline]
    fn read_sized(&mut self, timeout: Duration, look: impl FnOnce(&[u8])) -> Result<bool, Failure> {
        Ok(self.subscriber.recv_timeout(timeout)?.map(|sample| look(&sample)).is_some())
    }
}
