//! Where the messages of a handler come from: a subscriber; a puller, whose messages are acknowledged or given back; or a responder, whose requests are answered.
//!
//! A worker looks for a message when there is a hand for it, so that a puller keeps no work from the others of its group. It decides
//! nothing.
//!
//! Invariant: a task ends in one way: acknowledged when it was handled, rejected or is among the dead letters, else given back, or passed on where nobody has begun with it. A
//! request has its answer, its error, or is told to be unanswered when it is dropped.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::outcome::RecvError;
use crate::puller::{Puller, Task};
use crate::responder::{ReplyError, Request, Responder};
use crate::sample::Sample;
use crate::subscriber::Subscriber;

#[derive(Debug)]
pub(super) enum Intake {
    Subscriber(Box<Subscriber>),
    Puller(Box<Puller>),
    Responder(Box<Responder>),
}

/// A message, with what has to be said when it is done with.
#[derive(Debug)]
pub(super) enum Taken {
    Message(Sample),
    /// Dropped, it is given back.
    Task(Task),
    /// Dropped, it is unanswered. With what was asked.
    Request(Box<Request>),
}

/// What a message that is done with leaves to be said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    InTime,
    /// An acknowledgement came too late.
    Late,
    /// Nobody waits for the reply any more.
    Expired,
    /// The reply could not be sent, and why.
    Unsent(String),
}

impl Taken {
    pub(super) fn sample(&self) -> &Sample {
        match self {
            Taken::Message(sample) => sample,
            Taken::Task(task) => task.sample(),
            Taken::Request(request) => request.sample().expect("it shows what was asked until it is dropped"),
        }
    }

    /// How often it was given to somebody.
    pub(super) fn deliveries(&self) -> u32 {
        match self {
            Taken::Task(task) => task.deliveries(),
            Taken::Message(_) | Taken::Request(_) => 1,
        }
    }

    /// For how long it is waited for, of a request.
    pub(super) fn remaining(&self) -> Option<Duration> {
        match self {
            Taken::Request(request) => Some(request.remaining()),
            Taken::Message(_) | Taken::Task(_) => None,
        }
    }

    /// Whether nobody waits any more for what comes of it.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Taken::Request(request) if request.is_cancelled())
    }

    /// It is not handled any more. Where nobody has begun with it another gets it at once, and it counts as no delivery.
    pub(super) fn let_go(self, begun: bool) {
        match self {
            Taken::Task(task) if begun => task.nack(),
            Taken::Task(task) => task.pass_on(),
            Taken::Message(_) | Taken::Request(_) => {}
        }
    }

    /// Whether others could have had it.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Taken::Task(_))
    }

    pub(super) fn is_request(&self) -> bool {
        matches!(self, Taken::Request(_))
    }

    /// Whether it comes again, here or elsewhere, when it is let go.
    pub(super) fn comes_again(&self) -> bool {
        matches!(self, Taken::Task(task) if task.acknowledges())
    }

    /// It was handled, with this answer: nobody else is to get it, unless somebody has it already.
    pub(super) fn done(self, answer: &[u8]) -> Over {
        match self {
            Taken::Message(_) => Over::InTime,
            Taken::Task(task) => task.ack().map_or(Over::Late, |()| Over::InTime),
            Taken::Request(request) => replied(request.reply(answer)),
        }
    }

    /// Whatever becomes of it: what comes with its id is to be done.
    pub(super) fn was_not_done(&mut self) {
        if let Taken::Task(task) = self {
            task.forgets();
        }
    }

    /// It was refused, or given up, for this reason.
    pub(super) fn failed(mut self, why: &str) -> Over {
        self.was_not_done();
        match self {
            Taken::Request(request) => replied(request.fail(why.as_bytes())),
            Taken::Message(_) | Taken::Task(_) => self.done(&[]),
        }
    }
}

fn replied(replied: Result<(), ReplyError>) -> Over {
    match replied {
        Ok(()) => Over::InTime,
        Err(ReplyError::Cancelled) => Over::Expired,
        Err(error @ (ReplyError::Send(_) | ReplyError::Lane(_))) => Over::Unsent(error.to_string()),
    }
}

impl Intake {
    /// Whether others may have what is not taken here.
    pub(super) fn is_shared(&self) -> bool {
        match self {
            Intake::Subscriber(_) => false,
            Intake::Puller(_) | Intake::Responder(_) => true,
        }
    }

    /// Nobody need leave it a message: it does not look for one now.
    pub(super) fn rest(&mut self) {
        match self {
            Intake::Subscriber(_) => {}
            Intake::Puller(puller) => puller.rest(),
            Intake::Responder(responder) => responder.rest(),
        }
    }

    /// Only what has come is taken from now on.
    pub(super) fn end_here(&mut self) {
        match self {
            Intake::Subscriber(subscriber) => subscriber.end_here(),
            Intake::Puller(_) | Intake::Responder(_) => self.rest(),
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
            Intake::Responder(responder) => {
                responder.leave(busy);
                responder.poll(&mut context).map(|request| request.map(|it| Taken::Request(Box::new(it))))
            }
        }
    }
}
