//! Where a service puts what it gives up: a topic, on which each such message is published with its reason.
//!
//! It is written where its readers read it, so that a large message is copied once. It keeps nothing itself: a dead letter
//! lies in the ring like any message, and readers may make the worker that writes it wait, as long as they may any publisher.
//!
//! Invariant: what is a dead letter itself is not published again: a handler that fails at them makes no new ones.

use std::sync::Mutex;

use busway_wire::limits::SERVICE_DEAD_LETTERS_KEPT;
use busway_wire::{DeadLetter, DeadLetterHead, DeadReason};

use super::intake::Taken;
use super::schedule::Job;
use crate::bus::Bus;
use crate::error::Error;
use crate::ports::lock;
use crate::publisher::Publisher;

#[derive(Debug)]
pub(super) struct DeadLetters {
    publisher: Mutex<Publisher>,
}

impl DeadLetters {
    pub(super) fn open(bus: &Bus, topic: &str) -> Result<DeadLetters, Error> {
        let publisher = bus.publisher(topic).history(SERVICE_DEAD_LETTERS_KEPT).open()?;
        Ok(DeadLetters { publisher: Mutex::new(publisher) })
    }

    /// Publishes what `service` gave up, or says why that was not possible.
    pub(super) fn bury(
        &self,
        service: &str,
        job: &Job<Taken>,
        reason: DeadReason,
        said: &str,
    ) -> Result<(), String> {
        let message = job.message.sample();
        // One of a later version may not be read here, and is one.
        if message.payload().starts_with(&DeadLetterHead::MAGIC) {
            return Err("it is a dead letter itself".to_owned());
        }
        let letter = DeadLetter {
            source: message.source(),
            sequence: message.sequence(),
            time_ns: message.time_ns(),
            correlation: message.correlation(),
            attempts: job.attempts.count(),
            reason,
            codec: message.codec(),
            topic: message.topic(),
            error: &DeadLetter::text(said),
            service,
            context: message.context(),
            payload: message.payload(),
        };
        let mut publisher = lock(&self.publisher);
        // It has another id than what it is about: several services may bury one message.
        let mut loan = publisher
            .in_context(letter.context.without_id())
            .loan(letter.size())
            .map_err(|error| error.to_string())?;
        letter.write(&mut loan).map_err(|error| error.to_string())?;
        loan.send().map(drop).map_err(|error| error.to_string())
    }
}
