//! The bus as a medium: letters of 64 bytes through publishers and subscribers.
//!
//! Lossy receivers take the default policy, reliable ones `block`. A letter goes by `try_send` of its
//! bytes where loss is allowed and by `send` where it is not: what a user would write first.

use crate::Failure;
use crate::bus::{PATIENCE, join};
use crate::medium::{Channel, Letter, Medium, Quality, Receiver, Scene, Sender};
use busway::{Bus, Policy, Publisher, Subscriber};
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
}

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
        let publisher = self.bus.publisher(topic(channel)).max_wait(PATIENCE).open()?;
        Ok(BuswaySender { publisher, quality })
    }

    fn receiver(&self, channel: Channel, quality: Quality) -> Result<BuswayReceiver, Failure> {
        let builder = self.bus.subscriber(topic(channel));
        let builder = match quality {
            Quality::Lossy => builder,
            Quality::Reliable => builder.policy(Policy::Block),
        };
        Ok(BuswayReceiver { subscriber: builder.open()? })
    }
}

impl Sender for BuswaySender {
    fn settle(&mut self, receivers: usize) -> Result<(), Failure> {
        self.publisher.wait_for_subscribers(receivers, PATIENCE)?;
        Ok(())
    }

    #[inline]
    fn send(&mut self, letter: &Letter) -> Result<(), Failure> {
        let bytes = bytes(letter);
        match self.quality {
            Quality::Lossy => self.publisher.try_send(&bytes)?,
            Quality::Reliable => self.publisher.send(&bytes)?,
        };
        Ok(())
    }
}

impl Receiver for BuswayReceiver {
    const PAUSES: bool = true;

    #[inline]
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        match self.subscriber.try_recv()? {
            Some(sample) => letter(&sample).map(Some),
            None => Ok(None),
        }
    }

    fn sleep(&mut self, timeout: Duration) -> Result<Option<Letter>, Failure> {
        match self.subscriber.recv_timeout(timeout)? {
            Some(sample) => letter(&sample).map(Some),
            None => Ok(None),
        }
    }
}

/// The bytes of a letter; the compiler makes one copy of it.
#[inline]
fn bytes(letter: &Letter) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(letter) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The letter of some bytes.
#[inline]
fn letter(payload: &[u8]) -> Result<Letter, Failure> {
    let bytes: &[u8; 64] = payload.try_into().map_err(|_| "a letter is not 64 bytes long")?;
    let mut letter = Letter::default();
    for (word, chunk) in letter.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    Ok(letter)
}
