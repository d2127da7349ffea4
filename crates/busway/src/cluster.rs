//! Endpoints of a cluster: replicas by index and clients by id, for programs that replicate a state machine.
//!
//! A fixed set of replicas knows each other by index; clients, known by an id of their own choice, know all replicas. Each
//! end sends to one other by name, is told at once what became of that, and learns who comes and goes. It is a thin layer:
//! each endpoint has a [`Node`](crate::Node), whose links, reconnects, credit and acknowledgements are those of every
//! other message, and a domain of its own, so that several in one process, or on one host, do not see each other's topics.
//!
//! Each pair of endpoints has, in each direction, one reserved topic that names whom it is for, which start of it, and who
//! sends (`address.rs`). What is wanted decides what crosses a link, and only the one it is for wants it: so a message goes
//! over one link. A pair is one source: so its order is that of the source, across reconnects too. A pair has its own ring
//! and window: so one that does not read stops nobody else. Nodes refuse such a topic from any link but that of the sender
//! it names: so [`Message::from`] is as good as the identity of the link.
//!
//! It keeps nothing on disk, and does not decide what a message means. What is sent is delivered at most once: once, unless
//! one of the two ends or the message is suspended there when it does; then it is lost, and counted ([`Event::Lost`]).
//!
//! Invariant: a message that is `Queued` is handed to the start of the peer it was sent to, in order and once, or told as lost.

mod address;
mod endpoint;
mod inbox;
mod outgoing;
mod setup;
mod tidings;

use std::fmt;
use std::ops::Deref;

use busway_protocol::PeerId;
use busway_wire::Cause;

use crate::sample::Sample;

pub(crate) use address::{CLUSTER_PREFIX, may_hear, may_speak, queue_of};
pub use endpoint::Endpoint;
pub use outgoing::Sender;
pub use setup::{Client, ClientBuilder, Replica, ReplicaBuilder};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A replica, by its index from 0.
    Replica(u8),
    /// A client, by the id that it has chosen.
    Client(u64),
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(index) => write!(formatter, "replica {index}"),
            Self::Client(id) => write!(formatter, "client {id:016x}"),
        }
    }
}

impl From<PeerId> for Peer {
    fn from(peer: PeerId) -> Self {
        match peer {
            PeerId::Node { index } => Self::Replica(index),
            PeerId::Client { id } => Self::Client(id),
        }
    }
}

impl From<Peer> for PeerId {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Replica(index) => Self::Node { index },
            Peer::Client(id) => Self::Client { id },
        }
    }
}

/// What became of a message that was to be sent. Nothing is ever waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a message that is not queued is not sent"]
#[non_exhaustive]
pub enum Outcome {
    /// It is on its way, behind those that were queued before.
    Queued,
    /// As much waits for this peer as may. Try again when it has taken some; no other peer is concerned.
    Full,
    /// The peer is not there. [`Event::Up`] says when it is.
    NotConnected,
    /// This end is closing.
    Closing,
    /// It is larger than any message between endpoints may be: split it.
    TooLarge,
}

/// What a handler has done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is done with it.
    Taken,
    /// It cannot take it now: the message is kept and comes again after [`Endpoint::resume`], before all others of its
    /// sender, who is held back meanwhile. Others are not.
    Suspend,
}

/// A message and who sent it. Derefs to its payload.
#[derive(Debug)]
pub struct Message {
    sample: Sample,
    from: Peer,
}

impl Message {
    /// Who sent it, as far as the identity of its link was checked. Unless it has gone, it can be answered at once.
    #[must_use]
    pub fn from(&self) -> Peer {
        self.from
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.sample.payload()
    }

    /// Its number among those of its sender to us: from 1, without gaps since both are linked.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sample.sequence()
    }
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.payload()
    }
}

/// What happened to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It is there, and messages to it are queued from now on.
    Up {
        /// Who.
        peer: Peer,
    },
    /// It is not there any more. What is queued for it goes on if it comes back without having ended.
    Down {
        /// Who.
        peer: Peer,
        /// Why, for people.
        reason: String,
    },
    /// It has ended or is forgotten, and had not acknowledged the last messages to it: it may have had some of them, and
    /// whoever comes under its name gets none.
    Lost {
        /// Who.
        peer: Peer,
        /// How many messages.
        count: u64,
    },
    /// Messages from it that will not come.
    Missed {
        /// Who.
        peer: Peer,
        /// How many messages.
        count: u64,
        /// Why.
        cause: Cause,
    },
    /// So many of these were not asked for in time, and are gone: look at [`Endpoint::peers`].
    Overrun {
        /// How many events.
        count: u64,
    },
}

/// What an endpoint has counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages that were queued.
    pub queued: u64,
    /// Sends that were refused because as much waited as may.
    pub full: u64,
    /// Sends that were refused because the peer was not there.
    pub not_connected: u64,
    /// Messages that were queued and told as lost.
    pub lost: u64,
    /// Messages that were handed out.
    pub received: u64,
    /// Messages to us that were told as missed.
    pub missed: u64,
    /// Messages that were for an earlier start of ours, or came from a sender after it had started again: not handed out.
    pub stale: u64,
    /// Messages that were suspended; one that is suspended again counts again.
    pub suspended: u64,
}

/// What was left when an endpoint was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ending {
    /// Messages that were queued and not acknowledged in time.
    pub unacknowledged: u64,
    /// Messages that had come and were not handed out, or were suspended.
    pub unread: u64,
}
