//! Where the messages of a handler come from: a subscriber, or a puller, whose messages are acknowledged or given back.
//!
//! A worker looks for a message when there is a hand for it, so that a puller keeps no work from the others of its group. It decides
//! nothing.
//!
//! Invariant: a task ends in one way: acknowledged when it was handled, rejected or is among the dead letters, else given back.

use std::task::{Context, Poll, Waker};

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
    /// The next message, if one is there; else `waker` is told when one may be.
    pub(super) fn poll(&mut self, waker: &Waker) -> Poll<Result<Taken, RecvError>> {
        let mut context = Context::from_waker(waker);
        match self {
            Intake::Subscriber(subscriber) => {
                subscriber.poll(&mut context).map(|taken| taken.map(Taken::Message))
            }
            Intake::Puller(puller) => puller.poll(&mut context).map(|task| task.map(Taken::Task)),
        }
    }
}
