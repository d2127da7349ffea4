//! What a request comes to: replies, or one error.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use busway_protocol::Time;
use busway_wire::{Context, Extensions, ReplyHead, TraceParent};
use serde::de::DeserializeOwned;

use crate::error::{Code, Error};
use crate::outcome::{RecvError, SendError};
use crate::sample::Sample;
use crate::service::now;

/// Why a request has no reply, or no further one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// Nobody answers requests on the topic. Nobody had this one.
    NoResponders,
    /// The responder that had it died before its last reply. What it did before is not known.
    ResponderDied,
    /// The time was up.
    TimedOut,
    /// The responder let it go without an answer.
    Unanswered,
    /// The responder failed: what it says.
    Failed(Vec<u8>),
    /// It was answered, and the requester has lost a reply, because it did not take its replies in time.
    ReplyLost,
    /// It was not sent: as many are under way as may be, and none of them ended in time; or replies to so many others are unread.
    TooMany,
    /// It was not sent: one that has not ended is so many requests behind that its place is needed, and did not end in time; or larger requests under way have
    /// as many bytes as they may.
    TooFarAhead,
    /// It was not sent: the breaker is open, and nothing is asked before this time ([`RequesterBuilder::breaker`](crate::RequesterBuilder::breaker)).
    Open(Time),
    /// It was not sent.
    Send(SendError),
    /// Nothing can be received.
    Receive(RecvError),
}

impl RequestError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoResponders => Code::NoResponders,
            Self::ResponderDied => Code::ResponderDied,
            Self::TimedOut => Code::TimedOut,
            Self::Unanswered => Code::Unanswered,
            Self::Failed(_) => Code::ResponderFailed,
            Self::ReplyLost => Code::ReplyLost,
            Self::TooMany => Code::TooManyRequests,
            Self::TooFarAhead => Code::TooFarAhead,
            Self::Open(_) => Code::BreakerOpen,
            Self::Send(error) => error.code(),
            Self::Receive(error) => error.code(),
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponders => formatter.write_str("nobody answers requests on the topic"),
            Self::ResponderDied => formatter.write_str("the responder died before its last reply"),
            Self::TimedOut => formatter.write_str("there was no reply in time"),
            Self::Unanswered => formatter.write_str("the responder let the request go without an answer"),
            Self::Failed(why) if why.is_empty() => formatter.write_str("the responder failed"),
            Self::Failed(why) => {
                write!(formatter, "the responder failed: {}", String::from_utf8_lossy(why).escape_debug())
            }
            Self::ReplyLost => {
                formatter.write_str("a reply was lost, because replies were not taken in time")
            }
            Self::TooMany => formatter.write_str("as many requests are under way or unread as may be"),
            Self::TooFarAhead => formatter.write_str("a request has not ended, and its place is needed"),
            Self::Open(until) => {
                let rest = Duration::from_nanos(until.since(now()));
                write!(
                    formatter,
                    "requests failed again and again, and the next is sent in {} ms",
                    rest.as_millis()
                )
            }
            Self::Send(error) => error.fmt(formatter),
            Self::Receive(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        let remedy = match &error {
            RequestError::Send(inner) => return inner.clone().into(),
            RequestError::Receive(inner) => return inner.clone().into(),
            RequestError::NoResponders => {
                "start a responder, as busway reply is one, or wait longer for the first (late_join)"
            }
            RequestError::ResponderDied => "ask again where it may be done twice",
            RequestError::TimedOut => "allow more time, or start more responders",
            RequestError::Unanswered => "look into the log of the responder",
            RequestError::Failed(_) => "see what it says",
            RequestError::ReplyLost => "receive replies as they come, or ask for less at a time",
            RequestError::TooMany => "receive replies before asking more, or allow more (in_flight)",
            RequestError::TooFarAhead => {
                "give slow requests a requester of their own, or a time that is up sooner; or allow more (slots_max)"
            }
            RequestError::Open(_) => "ask again after that time, and look at who answers with busway info",
        };
        Error::new(error.code(), error.to_string()).at("request").remedy(remedy)
    }
}

/// A reply. Derefs to its payload.
#[derive(Debug)]
pub struct Reply {
    body: Body,
    index: u32,
    last: bool,
}

#[derive(Debug)]
enum Body {
    /// Shown where it lies, behind its head.
    There(Sample),
    /// Extensions, so many bytes, and the payload.
    Copied(Box<[u8]>, usize),
}

impl Reply {
    /// The reply that lies in this sample, whose head was checked.
    pub(super) fn there(sample: Sample, index: u32, last: bool) -> Self {
        Self { body: Body::There(sample), index, last }
    }

    /// A copy, so that nothing of its responder is held.
    pub(super) fn copied(self) -> Self {
        match &self.body {
            Body::There(sample) if sample.is_held() => {
                let extensions = sample.extensions();
                let copy = [extensions, self.payload()].concat();
                Self { body: Body::Copied(copy.into(), extensions.len()), ..self }
            }
            _ => self,
        }
    }

    /// The payload. In a child made by `fork` it may be empty.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.body {
            Body::There(sample) => ReplyHead::split(sample).map_or(&[], |(_, _, payload)| payload),
            Body::Copied(copy, skip) => copy.get(*skip..).unwrap_or_default(),
        }
    }

    /// What it says beside its payload: the trace of what was asked, unless who answers said another.
    #[must_use]
    pub fn context(&self) -> Context<'_> {
        match &self.body {
            Body::There(sample) => sample.context(),
            Body::Copied(copy, skip) => Context::read(Extensions::new(copy.get(..*skip).unwrap_or_default())),
        }
    }

    /// The trace to which it belongs.
    #[must_use]
    pub fn trace(&self) -> Option<TraceParent> {
        self.context().trace()
    }

    /// What stands between header and payload.
    pub(crate) fn extensions(&self) -> &[u8] {
        match &self.body {
            Body::There(sample) => sample.extensions(),
            Body::Copied(copy, skip) => copy.get(..*skip).unwrap_or_default(),
        }
    }

    /// Its place among the replies to its request, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether it is the last.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// Whether the payload lies in the responder's memory and is held there.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(&self.body, Body::There(sample) if sample.is_held())
    }

    /// The value that the payload holds as JSON.
    ///
    /// # Errors
    /// [`Code::DecodeFailed`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(self.payload()).map_err(|error| {
            Error::new(Code::DecodeFailed, format!("the reply does not hold the value: {error}"))
                .at(format!("reply {}", self.index))
                .remedy("ask and answer with the same type and codec")
        })
    }
}

impl Deref for Reply {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.payload()
    }
}

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}
