//! Who is given artifacts.
//!
//! Its function of interest is called where it receives, by the thread that receives, so that one that is slow, or panics, hurts itself alone: while nobody receives
//! nothing is judged, and what nobody wants yet stays where it is.
//!
//! Invariant: no lock is held while the function runs.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use busway_protocol::gossip::{ArtifactId, Interest};
use busway_shm::clock::Deadline;
use busway_wire::Pattern;

use crate::artifacts::{Advert, Arriving, Artifact};
use crate::error::Error;
use crate::runtime::{Call, Calls, Mailbox, Note, ReaderId, Taken, Tells, Wants, ended};

/// What says whether an artifact is wanted.
type Judge = Box<dyn FnMut(&Advert) -> Interest + Send>;

/// How to subscribe. See [`Artifacts::subscriber`](crate::artifacts::Artifacts::subscriber).
#[must_use = "a subscriber is made by `open`"]
pub struct SubscriberBuilder {
    calls: Arc<Calls>,
    pattern: Pattern,
    judge: Option<Judge>,
    tells: Tells,
    only: Option<ArtifactId>,
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An artifact, whole and checked.
    Received(Artifact),
    /// One that was received, or arrives, is not offered any more.
    Withdrawn(Advert),
    /// So much of one is here: see [`SubscriberBuilder::progress`].
    Progress {
        /// Which.
        advert: Advert,
        /// Bytes that are here, and checked.
        have: u64,
        /// Bytes that it has.
        size: u64,
    },
    /// One begins to come: see [`SubscriberBuilder::as_it_arrives`].
    Arriving(Arriving),
}

impl SubscriberBuilder {
    pub(super) fn new(calls: &Arc<Calls>, pattern: Pattern) -> Self {
        Self { calls: calls.clone(), pattern, judge: None, tells: Tells::default(), only: None }
    }

    /// It is told how much of an artifact that comes in pieces is here, by [`Event::Progress`]: the latest only, if it does not receive.
    pub fn progress(mut self) -> Self {
        self.tells.progress = true;
        self
    }

    /// It is given an artifact that comes in pieces when it begins to come too, by [`Event::Arriving`], to read what is here of it already. [`Event::Received`] follows.
    pub fn as_it_arrives(mut self) -> Self {
        self.tells.arriving = true;
        self
    }

    /// Only this artifact is wanted: of others it says nothing.
    pub fn only(mut self, id: ArtifactId) -> Self {
        self.only = Some(id);
        self
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
        let wants =
            Wants { pattern: self.pattern, judges: self.judge.is_some(), tells: self.tells, only: self.only };
        let reader = self.calls.ask(|answer| {
            let mailbox = mailbox.clone();
            Call::Subscribe { wants, mailbox, answer }
        })??;
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
            match self.mailbox.take(deadline) {
                Taken::Nothing => return Ok(None),
                Taken::Ended => return Err(ended()),
                Taken::Note(note, was_full) => {
                    if let Some(event) = self.took(note, was_full) {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// The next event, if it is there; else the task is woken by what comes. One task at a time: the last that asked is woken.
    ///
    /// # Errors
    /// As [`Subscriber::recv_timeout`].
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, Error>> {
        if self.calls.is_inherited() {
            return Poll::Ready(Err(crate::bus::forked()));
        }
        loop {
            match self.mailbox.poll(context.waker()) {
                Taken::Nothing => return Poll::Pending,
                Taken::Ended => return Poll::Ready(Err(ended())),
                Taken::Note(note, was_full) => {
                    if let Some(event) = self.took(note, was_full) {
                        return Poll::Ready(Ok(event));
                    }
                }
            }
        }
    }

    /// What this is for the program; none where only the function of interest is asked.
    fn took(&mut self, note: Note, was_full: bool) -> Option<Event> {
        if was_full {
            self.calls.wake();
        }
        // Of progress it takes the latest only.
        if !matches!(note, Note::Progress(..)) {
            self.calls.took(self.reader, note.size());
        }
        match note {
            Note::Received(advert, body) => Some(Event::Received(Artifact::new(advert, body, &self.calls))),
            Note::Arriving(advert, body) => Some(Event::Arriving(Arriving::new(advert, body, &self.calls))),
            Note::Progress(advert, have) => {
                let (advert, size) = (Advert::new(advert.clone()), advert.size);
                Some(Event::Progress { advert, have, size })
            }
            Note::Withdrawn(advert) => Some(Event::Withdrawn(Advert::new(advert))),
            Note::Asked(advert) => {
                let judge = self.judge.as_mut()?;
                let advert = Advert::new(advert);
                let interest = judge(&advert);
                let (reader, of) = (self.reader, advert.reference());
                self.calls.leave(Call::Judge { reader, of, interest });
                None
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
