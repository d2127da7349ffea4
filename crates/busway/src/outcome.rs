//! What happened to a send or a receive that did not go through.
//!
//! These are the small errors of the data path: closed enums that a program can match on. Each turns into the crate's
//! [`Error`] with its stable code, its place and its remedy.

use std::fmt;

use busway_shm::error::ShmError;
use busway_shm::ring::{Refusal, RowName};
use busway_wire::{Cause, MessageIdError, NameError, NameFault, PolicyError, PortId, Topic, TraceError};

use crate::error::{Code, Error, memory};
use crate::sample::PublisherInfo;

/// What happened to a message that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// Its sequence, from 1, without gaps for each publisher.
    pub sequence: u64,
    /// Nanoseconds that the call waited for subscribers.
    pub waited_ns: u64,
    /// Subscribers that were waited for too long: they gate no more until they have caught up.
    pub stalled: u32,
    /// Subscribers that were evicted, because they asked for that.
    pub evicted: u32,
}

/// A subscriber that has not passed everything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Who {
    /// Its process id.
    pub pid: u32,
    /// Its process's name.
    pub name: String,
    /// Messages that it has not passed.
    pub behind: u64,
}

impl fmt::Display for Who {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (pid {}, {} behind)", self.name, self.pid, self.behind)
    }
}

impl From<RowName> for Who {
    fn from(row: RowName) -> Self {
        Self { pid: row.pid, name: row.name, behind: row.behind }
    }
}

/// The subscribers that a publisher waited for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind(pub Vec<Who>);

impl fmt::Display for Behind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, who) in self.0.iter().enumerate() {
            write!(formatter, "{}{who}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Behind {}

/// Why a message was not sent. It has no sequence, and no subscriber saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// These subscribers would lose a message, and asked that the publisher waits or fails.
    Full(Behind),
    /// The caller's time was up while these subscribers were waited for; in a flush, the message was sent.
    Timeout(Behind),
    /// The message is larger than the publisher's ring, or than any chunk.
    TooLarge {
        /// Bytes of the payload.
        bytes: u64,
        /// Most bytes that can be sent.
        most: u64,
    },
    /// The memory that it takes cannot be had.
    OutOfMemory(Error),
    /// The value cannot be encoded.
    Encode(String),
    /// The bus is closed.
    Closed,
    /// The handle belongs to the parent process.
    Forked,
}

impl SendError {
    pub(crate) fn of(refusal: Refusal, topic: &Topic) -> Self {
        let behind = |who: Vec<RowName>| Behind(who.into_iter().map(Who::from).collect());
        match refusal {
            Refusal::Full(who) => Self::Full(behind(who)),
            Refusal::Timeout(who) => Self::Timeout(behind(who)),
            Refusal::Memory(ShmError::TooLarge { bytes, most }) => Self::TooLarge { bytes, most },
            Refusal::Memory(error) => Self::OutOfMemory(memory(&error, &format!("topic {topic}"))),
            Refusal::Closed => Self::Closed,
        }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Full(_) => Code::Full,
            Self::Timeout(_) => Code::TimedOut,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::OutOfMemory(error) => error.code(),
            Self::Encode(_) => Code::EncodeFailed,
            Self::Closed => Code::Closed,
            Self::Forked => Code::Forked,
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(behind) => {
                write!(formatter, "a subscriber has not read what would be overwritten: {behind}")
            }
            Self::Timeout(behind) => write!(formatter, "the time was up while waiting for {behind}"),
            Self::TooLarge { bytes, most } => {
                write!(
                    formatter,
                    "a message of {bytes} bytes is larger than the {most} bytes that can be sent"
                )
            }
            Self::OutOfMemory(error) => formatter.write_str(error.cause()),
            Self::Encode(reason) => write!(formatter, "the value cannot be encoded: {reason}"),
            Self::Closed => formatter.write_str("the bus is closed"),
            Self::Forked => {
                formatter.write_str("the handle was inherited through fork and belongs to the parent")
            }
        }
    }
}

impl std::error::Error for SendError {}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        let remedy = match &error {
            SendError::OutOfMemory(inner) => return inner.clone(),
            SendError::Full(_) => "wait with send or send_timeout, or use a policy that drops",
            SendError::Timeout(_) => "give it more time, or look at who is behind with busway info",
            SendError::TooLarge { .. } => "split the message, or allow the publisher more bytes",
            SendError::Encode(_) => "send a value that its format can express",
            SendError::Closed => "open a new bus",
            SendError::Forked => "open a new bus in the child",
        };
        Error::new(error.code(), error.to_string()).at("send").remedy(remedy)
    }
}

/// Why nothing can be received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvError {
    /// A publisher has evicted this subscriber, which asked for that. The other publishers go on.
    Evicted(Topic),
    /// So many samples are held that the next, too large to be copied, cannot be taken. Drop one.
    HoldsExhausted,
    /// The bus is closed.
    Closed,
    /// The handle belongs to the parent process.
    Forked,
}

impl RecvError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Evicted(_) => Code::Evicted,
            Self::HoldsExhausted => Code::HoldBudget,
            Self::Closed => Code::Closed,
            Self::Forked => Code::Forked,
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evicted(topic) => write!(formatter, "a publisher of {topic} has evicted this subscriber"),
            Self::HoldsExhausted => formatter.write_str("as many samples are held as may be"),
            Self::Closed => formatter.write_str("the bus is closed"),
            Self::Forked => {
                formatter.write_str("the handle was inherited through fork and belongs to the parent")
            }
        }
    }
}

impl std::error::Error for RecvError {}

impl From<RecvError> for Error {
    fn from(error: RecvError) -> Self {
        let remedy = match &error {
            RecvError::Evicted(_) => "read faster, or subscribe with another policy",
            RecvError::HoldsExhausted => "drop samples, or copy what must be kept",
            RecvError::Closed => "open a new bus",
            RecvError::Forked => "open a new bus in the child",
        };
        Error::new(error.code(), error.to_string()).at("receive").remedy(remedy)
    }
}

impl From<NameError> for Error {
    /// The error of a topic's name; that of a pattern is [`Error::bad_pattern`].
    fn from(error: NameError) -> Self {
        let reserved = matches!(error.fault, NameFault::Reserved | NameFault::NotReserved);
        named(if reserved { Code::ReservedTopic } else { Code::BadTopic }, &error)
    }
}

impl Error {
    /// The error of a text that is no pattern.
    #[must_use]
    pub fn bad_pattern(error: NameError) -> Error {
        named(Code::BadPattern, &error)
    }
}

fn named(code: Code, error: &NameError) -> Error {
    Error::new(code, error.fault.to_string()).at(format!("byte {}", error.at)).remedy(error.remedy())
}

impl From<PolicyError> for Error {
    fn from(error: PolicyError) -> Self {
        Error::new(Code::BadPolicy, error.to_string()).at("a policy").remedy("see busway sub --help")
    }
}

impl From<TraceError> for Error {
    fn from(error: TraceError) -> Self {
        let remedy = "take both as the header of the request has them, or leave the tracestate out";
        Error::new(Code::BadTrace, error.to_string()).at("a trace").remedy(remedy)
    }
}

impl From<MessageIdError> for Error {
    fn from(error: MessageIdError) -> Self {
        Error::new(Code::BadId, error.to_string()).at("an id").remedy("draw one: busway pub --id new")
    }
}

/// A publisher that matches a subscription and cannot be read now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unread {
    /// Its topic.
    pub topic: Topic,
    /// Who it is.
    pub publisher: PublisherInfo,
    /// Why it cannot be read.
    pub error: Error,
}

/// Messages that a subscriber missed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Their topic.
    pub topic: Topic,
    /// Why they were missed.
    pub cause: Cause,
    /// How many.
    pub count: u64,
    /// Their publisher's port.
    pub source: PortId,
    /// First sequence of the range that was missed. It has `count` messages, or more where so many losses were not asked
    /// for that several were put together.
    pub from: u64,
    /// Last sequence of that range.
    pub to: u64,
    /// The link between two hosts that lost them, `node 0 > node 2`; empty where they were lost on this host.
    pub link: String,
}
