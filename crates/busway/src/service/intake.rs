//! Where the messages of a handler come from: a subscriber, or a puller, whose messages are acknowledged or given back.
//!
//! Workers read a subscriber, which wakes them. A puller has a thread of its own that waits for work, because it also has to watch
//! what other pullers of its group have; it takes what a worker can begin at once, so that it keeps nothing from them.
//!
//! Invariant: a task ends in one way: acknowledged when it was handled, rejected or is among the dead letters, else given back.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::outcome::RecvError;
use crate::puller::{Late, Puller, Task};
use crate::sample::Sample;
use crate::subscriber::Subscriber;

#[derive(Debug)]
pub(super) enum Intake {
    Subscriber(Box<Subscriber>),
    Puller(Box<Puller>),
}

/// A message, with what has to be said when it is done with.
#[derive(Debug)]
pub(super) enum Taken {
    Message(Sample),
    /// Dropped, it is given back.
    Task(Task),
}

impl Taken {
    pub(super) fn sample(&self) -> &Sample {
        match self {
            Taken::Message(sample) => sample,
            Taken::Task(task) => task.sample(),
        }
    }

    /// How often it was given to somebody.
    pub(super) fn deliveries(&self) -> u32 {
        match self {
            Taken::Message(_) => 1,
            Taken::Task(task) => task.deliveries(),
        }
    }

    /// Nobody else is to get it, unless somebody has it already.
    pub(super) fn acknowledge(self) -> Result<(), Late> {
        match self {
            Taken::Message(_) => Ok(()),
            Taken::Task(task) => task.ack(),
        }
    }
}

impl Intake {
    /// The next message, if one is there; else `waker` is told when one may be. A puller has none: its thread brings them.
    pub(super) fn poll(&mut self, waker: &Waker) -> Poll<Result<Taken, RecvError>> {
        match self {
            Intake::Subscriber(subscriber) => {
                subscriber.poll(&mut Context::from_waker(waker)).map(|taken| taken.map(Taken::Message))
            }
            Intake::Puller(_) => Poll::Pending,
        }
    }

    /// The next message, waited for. A subscriber has none: its workers read it.
    pub(super) fn pull(&mut self, timeout: Duration) -> Result<Option<Taken>, RecvError> {
        match self {
            Intake::Subscriber(_) => Ok(None),
            Intake::Puller(puller) => puller.recv_timeout(timeout).map(|task| task.map(Taken::Task)),
        }
    }
}
