//! Answering: each request goes to one responder, who sees how long it is waited for and whether it still is.
//!
//! The responders of a topic are one group of pullers over the rings of its requesters, so the load is shared as work is; a request is given
//! to one of them, at most once. What it replies goes into a ring of its process that the requester alone reads (`lanes`).
//!
//! A request whose deadline has passed, or that nobody waits for any more, is not handled but counted ([`Unhandled`]).
//!
//! Invariant: a request that was returned ends once: with its last reply, as failed, or as unanswered when it is dropped; after that its claim says
//! that it is done.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use busway_shm::clock::{self, Deadline};
use busway_wire::{
    Cause, Context, Kind, MessageId, Pattern, PortId, ReplyHead, ReplyState, RequestHead, TraceParent,
};

use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::outcome::{RecvError, SendError};
use crate::publisher::{Beside, Stamp};
use crate::puller::{Puller, PullerBuilder, Task};
use crate::sample::Sample;

mod lanes;
mod look;

pub(crate) use lanes::{Lane, Lanes, To};

/// Requests of one requester that one responder may have where they lie, unless the builder says otherwise.
const HOLDS_DEFAULT: u32 = 64;
/// While there are lanes, those that are not needed any more are looked for so often.
const SWEEP: Duration = Duration::from_secs(1);

/// Before the payload of a request.
const REQUEST_HEAD_BYTES: u8 = size_of::<RequestHead>() as u8;

/// How a responder is made. See [`Bus::responder`].
#[derive(Clone, Debug)]
#[must_use = "a responder is made by `open`"]
pub struct ResponderBuilder {
    bus: Bus,
    puller: PullerBuilder,
    /// It is of topics of the bus.
    reserved: bool,
}

impl ResponderBuilder {
    pub(crate) fn new(bus: &Bus, pattern: &str) -> Self {
        let puller = bus.puller(pattern).of_responders().holds(HOLDS_DEFAULT);
        let reserved = pattern.trim_start_matches('^').starts_with('$');
        Self { bus: bus.clone(), puller, reserved }
    }

    /// Requests of one requester that it may have at one moment where they lie, 1 to 256. Default 64. Beyond, payloads of up to 64 KiB are
    /// copied, and larger ones wait.
    pub fn holds(mut self, requests: u32) -> Self {
        self.puller = self.puller.holds(requests);
        self
    }

    /// Registers the responder. Returns when it can take from the requesters that are known now.
    ///
    /// # Errors
    /// A pattern that breaks the grammar ([`Code::BadPattern`]) or is of topics of the bus ([`Code::ReservedTopic`]), or a setting out of range; the rendezvous does not answer
    /// ([`Code::HolderSilent`]); memory (03xx); the bus is closed.
    pub fn open(self) -> Result<Responder, Error> {
        if self.reserved {
            return Err(Error::new(Code::ReservedTopic, "names that begin with `$` belong to the bus")
                .at("responder")
                .remedy("choose a name that does not begin with `$`"));
        }
        self.open_reserved()
    }

    /// As [`ResponderBuilder::open`], also for what is asked of the bus itself.
    pub(crate) fn open_reserved(self) -> Result<Responder, Error> {
        let puller = self.puller.open()?;
        Ok(Responder { puller, lanes: Lanes::of(&self.bus), unhandled: Unhandled::default() })
    }
}

/// Requests that a responder took and did not handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unhandled {
    /// Their deadline had passed.
    pub expired: u64,
    /// Nobody waited for the reply any more.
    pub cancelled: u64,
    /// What was taken was no request.
    pub corrupt: u64,
}

/// A responder to what is asked on the topics of one pattern.
#[derive(Debug)]
pub struct Responder {
    puller: Puller,
    lanes: Arc<Lanes>,
    unhandled: Unhandled,
}

impl Responder {
    /// Takes a request if one is there.
    ///
    /// # Errors
    /// [`RecvError`]; [`RecvError::HoldsExhausted`] where it has as many requests as it may and the next is too large to be copied.
    pub fn try_recv(&mut self) -> Result<Option<Request>, RecvError> {
        self.lanes.sweep();
        while let Some(task) = self.puller.try_recv()? {
            if let Some(request) = self.accept(task) {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    /// Waits for a request; where this responder has as many as it may, until one of them has ended. So who keeps all of them waits for ever.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn recv(&mut self) -> Result<Request, RecvError> {
        loop {
            if let Some(request) = self.wait(Deadline::never())? {
                return Ok(request);
            }
        }
    }

    /// Waits for a request, at most `timeout`; `None` when the time is up.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Request>, RecvError> {
        self.wait(Deadline::after(timeout))
    }

    fn wait(&mut self, deadline: Deadline) -> Result<Option<Request>, RecvError> {
        loop {
            self.lanes.sweep();
            // Somebody has to look after lanes that nobody needs any more.
            let sweep = Deadline::after_from(SWEEP, clock::monotonic_coarse_ns());
            let until = if self.lanes.is_empty() { deadline } else { deadline.earlier(sweep) };
            match self.puller.recv_until(until)? {
                Some(task) => {
                    if let Some(request) = self.accept(task) {
                        return Ok(Some(request));
                    }
                }
                None if deadline.expired() => return Ok(None),
                None => {}
            }
        }
    }

    /// What was taken, if it is to be handled.
    fn accept(&mut self, mut task: Task) -> Option<Request> {
        let sample = task.sample();
        let head = RequestHead::split(sample).filter(|_| sample.kind() == Kind::Request);
        let Some((head, _)) = head.filter(|_| sample.correlation() != 0) else {
            self.unhandled.corrupt += 1;
            task.lose(Cause::Corrupt);
            return None;
        };
        let deadline_ns = head.deadline_ns.get();
        if clock::monotonic_ns() >= deadline_ns {
            self.unhandled.expired += 1;
            task.lose(Cause::Expired);
            return None;
        }
        if !task.is_wanted() {
            self.unhandled.cancelled += 1;
            return None;
        }
        let (correlation, requester) = (sample.correlation(), sample.source());
        task.skip(REQUEST_HEAD_BYTES);
        let lanes = self.lanes.clone();
        Some(Request {
            task: Some(task),
            over: None,
            lanes,
            lane: None,
            deadline_ns,
            correlation,
            requester,
            index: 0,
        })
    }

    /// Requesters that this responder takes from now; 0 in a child made by `fork`.
    #[must_use]
    pub fn requesters(&self) -> usize {
        self.puller.pushers()
    }

    /// Requests that were taken and not handled.
    #[must_use]
    pub fn unhandled(&self) -> Unhandled {
        self.unhandled
    }

    /// Replies of this process for which nobody waited any more.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.lanes.late()
    }

    /// Requesters to which this process has a lane now.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.count()
    }

    /// The pattern.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        self.puller.pattern()
    }

    /// Nobody need leave it a request: it does not look for one now.
    pub(crate) fn rest(&mut self) {
        self.puller.rest();
    }

    /// Requests of these topics are left to others from now on.
    pub(crate) fn leave(&mut self, busy: Vec<u64>) {
        self.puller.leave(busy);
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.puller.id()
    }
}

/// Why a reply was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyError {
    /// Nobody waits for it any more: the time is up, the request was cancelled, or who asked is gone.
    Cancelled,
    /// It cannot be sent. Who asked is told that there is no answer.
    Send(SendError),
    /// Its lane cannot be opened.
    Lane(Error),
}

impl ReplyError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Cancelled => Code::Cancelled,
            Self::Send(error) => error.code(),
            Self::Lane(error) => error.code(),
        }
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => formatter.write_str("nobody waits for the reply any more"),
            Self::Send(error) => error.fmt(formatter),
            Self::Lane(error) => formatter.write_str(error.cause()),
        }
    }
}

impl std::error::Error for ReplyError {}

impl From<ReplyError> for Error {
    fn from(error: ReplyError) -> Self {
        match error {
            ReplyError::Cancelled => Error::new(Code::Cancelled, error.to_string())
                .at("reply")
                .remedy("look at is_cancelled and remaining during long work"),
            ReplyError::Send(error) => error.into(),
            ReplyError::Lane(error) => error,
        }
    }
}

/// A request that this responder alone has. Derefs to its payload.
///
/// Dropped without a reply it is unanswered, and who asked is told so at once.
#[must_use = "a request that is dropped is unanswered"]
pub struct Request {
    /// `None` when it has ended.
    task: Option<Task>,
    /// What it was, after that: its payload may still be read.
    over: Option<Task>,
    lanes: Arc<Lanes>,
    /// The lane of its replies, from the first on.
    lane: Option<Arc<Lane>>,
    deadline_ns: u64,
    correlation: u64,
    requester: PortId,
    index: u32,
}

impl Request {
    /// What was asked, without the head of a request.
    pub(crate) fn sample(&self) -> Option<&Sample> {
        self.task.as_ref().or(self.over.as_ref()).map(Task::sample)
    }

    /// Whether the payload lies in the requester's memory and is held there.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.sample().is_some_and(Sample::is_held)
    }

    /// Its payload is empty from now on, and nothing of the requester is held any more: for one that stays open. Its replies carry no context.
    pub(crate) fn let_go(&mut self) {
        self.task.iter_mut().chain(&mut self.over).for_each(Task::let_go);
    }

    /// The payload, where the requester put it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.sample().map_or(&[][..], Sample::payload)
    }

    /// The name of its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.sample().map_or("", Sample::topic)
    }

    /// What it says beside its payload: its id, and the trace to which it belongs. Its replies belong to the same trace.
    #[must_use]
    pub fn context(&self) -> Context<'_> {
        self.sample().map(Sample::context).unwrap_or_default()
    }

    /// Its id, if who asks gave it one.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        self.context().id()
    }

    /// The trace to which it belongs, if who asks said so.
    #[must_use]
    pub fn trace(&self) -> Option<TraceParent> {
        self.context().trace()
    }

    /// A span of `tracing` for what is done with it, as [`Sample::span`].
    #[must_use]
    pub fn span(&self) -> tracing::Span {
        self.sample().map_or_else(tracing::Span::none, Sample::span)
    }

    /// Who asks.
    #[must_use]
    pub fn requester(&self) -> PortId {
        self.requester
    }

    /// For how long it is waited for.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        Duration::from_nanos(self.deadline_ns.saturating_sub(clock::monotonic_ns()))
    }

    /// Whether nobody waits for a reply any more: the time is up, the request was cancelled, or who asked is gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.remaining().is_zero() || !self.task.as_ref().is_some_and(Task::is_wanted)
    }

    /// The reply, or the last one.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn reply(mut self, payload: &[u8]) -> Result<(), ReplyError> {
        self.answer(payload)
    }

    /// A reply that others follow.
    ///
    /// # Errors
    /// [`ReplyError`]. No other can follow.
    pub fn reply_part(&mut self, payload: &[u8]) -> Result<(), ReplyError> {
        self.say(ReplyState::Part, payload)
    }

    /// There is no answer, and why: for the program that asked.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn fail(mut self, why: &[u8]) -> Result<(), ReplyError> {
        self.refuse(why)
    }

    fn say(&mut self, state: ReplyState, payload: &[u8]) -> Result<(), ReplyError> {
        if self.is_cancelled() {
            self.lanes.count_late();
            self.close();
            return Err(ReplyError::Cancelled);
        }
        let said = self.put(state, payload);
        if said.is_err() {
            self.leave_unanswered();
        }
        self.index = self.index.saturating_add(1);
        said
    }

    fn put(&mut self, state: ReplyState, payload: &[u8]) -> Result<(), ReplyError> {
        let stamp = Stamp { kind: Kind::Reply, correlation: self.correlation };
        let head = ReplyHead::new(self.index, state).to_bytes();
        let to = To {
            requester: self.requester,
            claim: self.task.as_ref().and_then(Task::claim),
            deadline_ns: self.deadline_ns,
        };
        let asked = self.task.as_ref().map(|task| task.sample().context().without_id());
        let beside = Beside::Context(asked.unwrap_or_default());
        self.lanes.send(&to, &mut self.lane, stamp, head, &beside, payload)
    }
}

impl Deref for Request {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.payload()
    }
}

impl AsRef<[u8]> for Request {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.task.is_some() && !self.is_cancelled() {
            self.leave_unanswered();
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Request")
            .field("topic", &self.topic())
            .field("bytes", &self.payload().len())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
