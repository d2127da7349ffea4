//! Who is given artifacts.
//!
//! Its function of interest is called where it receives, by the thread that receives, so that one that is slow, or panics, hurts itself alone: while nobody receives
//! nothing is judged, and what nobody wants yet stays where it is.
//!
//! Invariant: no lock is held while the function runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::gossip::Interest;
use busway_shm::clock::Deadline;
use busway_wire::Pattern;

use crate::artifacts::{Advert, Artifact};
use crate::error::Error;
use crate::runtime::{Call, Calls, Mailbox, Note, ReaderId, Taken, ended};

/// What says whether an artifact is wanted.
type Judge = Box<dyn FnMut(&Advert) -> Interest + Send>;

/// How to subscribe. See [`Artifacts::subscriber`](crate::artifacts::Artifacts::subscriber).
#[must_use = "a subscriber is made by `open`"]
pub struct SubscriberBuilder {
    calls: Arc<Calls>,
    pattern: Pattern,
    judge: Option<Judge>,
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An artifact, whole and checked.
    Received(Artifact),
    /// One that was received is not offered any more.
    Withdrawn(Advert),
}

impl SubscriberBuilder {
    pub(super) fn new(calls: &Arc<Calls>, pattern: Pattern) -> Self {
        Self { calls: calls.clone(), pattern, judge: None }
    }

    /// What is wanted: the function is called with each advert, by the thread that receives. Without it all is wanted. What it drops is not asked about again; what it
    /// stashes is, after [`Subscriber::reconsider`].
    pub fn interest(mut self, judge: impl FnMut(&Advert) -> Interest + Send + 'static) -> Self {
        self.judge = Some(Box::new(judge));
        self
    }

    /// Subscribes. What stands already comes first.
    ///
    /// # Errors
    /// [`Code::Closed`](crate::Code::Closed) where the node has ended.
    pub fn open(self) -> Result<Subscriber, Error> {
        let mailbox = Arc::<Mailbox>::default();
        let (pattern, judges) = (self.pattern, self.judge.is_some());
        let reader = self.calls.ask(|answer| {
            let mailbox = mailbox.clone();
            Call::Subscribe { pattern, judges, mailbox, answer }
        })?;
        Ok(Subscriber { calls: self.calls, mailbox, reader, judge: self.judge })
    }
}

impl fmt::Debug for SubscriberBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberBuilder").field("pattern", &self.pattern).finish_non_exhaustive()
    }
}

/// Who is given artifacts, each once.
pub struct Subscriber {
    calls: Arc<Calls>,
    mailbox: Arc<Mailbox>,
    reader: ReaderId,
    judge: Option<Judge>,
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Subscriber {
    /// Waits for the next event, at most for `timeout`; `None` where nothing comes in time.
    ///
    /// # Errors
    /// [`Code::Closed`](crate::Code::Closed) where the node has ended and all was taken that had come;
    /// [`Code::Forked`](crate::Code::Forked).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        if self.calls.is_inherited() {
            return Err(crate::bus::forked());
        }
        let deadline = Deadline::after(timeout);
        loop {
            let note = match self.mailbox.take(deadline) {
                Taken::Nothing => return Ok(None),
                Taken::Ended => return Err(ended()),
                Taken::Note(note, was_full) => {
                    if was_full {
                        self.calls.wake();
                    }
                    note
                }
            };
            match note {
                Note::Received(advert, body) => {
                    return Ok(Some(Event::Received(Artifact::new(advert, body))));
                }
                Note::Withdrawn(advert) => return Ok(Some(Event::Withdrawn(Advert::new(advert)))),
                Note::Asked(advert) => {
                    let Some(judge) = &mut self.judge else { continue };
                    let advert = Advert::new(advert);
                    let interest = judge(&advert);
                    let (reader, of) = (self.reader, advert.reference());
                    self.calls.leave(Call::Judge { reader, of, interest });
                }
            }
        }
    }

    /// The function of interest would judge otherwise now: it is asked again about all that was not given.
    pub fn reconsider(&self) {
        self.calls.leave(Call::Reconsider { reader: self.reader });
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.calls.leave(Call::Unsubscribe { reader: self.reader });
    }
}
