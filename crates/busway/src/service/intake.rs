//! Where the messages of a handler come from: a subscriber, or a puller, whose messages are acknowledged or given back.
//!
//! A worker looks for a message when there is a hand for it, so that a puller keeps no work from the others of its group. It decides
//! nothing.
//!
//! Invariant: a task ends in one way: acknowledged when it was handled, rejected or is among the dead letters, else given back, or passed on where nobody has begun with it.

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

    /// It is not handled any more. Where nobody has begun with it another gets it at once, and it counts as no delivery.
    pub(super) fn let_go(self, begun: bool) {
        match self {
            Taken::Task(task) if begun => task.nack(),
            Taken::Task(task) => task.pass_on(),
            Taken::Message(_) => {}
        }
    }

    /// Whether others could have had it.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Taken::Task(_))
    }

    /// Whether it comes again, here or elsewhere, when it is let go.
    pub(super) fn comes_again(&self) -> bool {
        matches!(self, Taken::Task(task) if task.acknowledges())
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
    /// Whether others may have what is not taken here.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Intake::Puller(_))
    }

    /// Nobody need leave it a message: it does not look for one now.
    pub(super) fn rest(&mut self) {
        match self {
            Intake::Subscriber(_) => {}
            Intake::Puller(puller) => puller.rest(),
        }
    }

    /// Only what has come is taken from now on.
    pub(super) fn end_here(&mut self) {
        match self {
            Intake::Subscriber(subscriber) => subscriber.end_here(),
            Intake::Puller(puller) => puller.rest(),
        }
    }

    /// The next message, if one is there; else `waker` is told when one may be. Of `busy` topics others are to have it.
    pub(super) fn poll(&mut self, busy: Vec<u64>, waker: &Waker) -> Poll<Result<Taken, RecvError>> {
        let mut context = Context::from_waker(waker);
        match self {
            Intake::Subscriber(subscriber) => {
                subscriber.stop_at_the_end();
                subscriber.poll(&mut context).map(|taken| taken.map(Taken::Message))
            }
            Intake::Puller(puller) => {
                puller.leave(busy);
                puller.poll(&mut context).map(|task| task.map(Taken::Task))
            }
        }
    }
}
