//! What can be told of peers and connections: inputs, outputs, reasons and the view for people.
//!
//! Data only; `membership.rs` decides.
//!
//! Invariant: every reason has a code that the peer can read and a sentence.

use alloc::string::String;
use core::fmt;
use core::net::IpAddr;

use busway_wire::link::RefusalCode;

use crate::time::{ConnectionId, PeerId, Time};

/// One try to reach a peer, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Begin to dial. Before it nothing is dialed.
    Start,
    /// Time has passed.
    Tick,
    /// A stranger has connected.
    Accepted {
        /// Its connection.
        connection: ConnectionId,
        /// From where, where that is to be counted: programs of this host have one address together, and are ours.
        address: Option<IpAddr>,
    },
    /// A dial has succeeded; the handshake begins.
    Connected {
        /// Which dial.
        attempt: Attempt,
        /// Its connection.
        connection: ConnectionId,
    },
    /// A dial has failed.
    ConnectFailed {
        /// Which dial.
        attempt: Attempt,
        /// Why, for people.
        reason: String,
    },
    /// The handshake has shown who is there.
    Identified {
        /// On which connection.
        connection: ConnectionId,
        /// Who.
        identity: PeerId,
    },
    /// Messages have come, or the peer has counted ours. A call for those of a while is enough: who has had none for
    /// the longest time gives way first.
    Message {
        /// On which connection.
        connection: ConnectionId,
    },
    /// The peer has answered a ping: it serves the link, though nobody has had anything to say on it.
    Answered {
        /// On which connection.
        connection: ConnectionId,
    },
    /// The peer has refused us.
    Refused {
        /// On which connection.
        connection: ConnectionId,
        /// How long it asks us to stay away.
        retry_after_ms: u32,
    },
    /// The connection is gone, whoever has ended it.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why, for people.
        reason: String,
    },
    /// We are going down: nobody is dialed or let in any more.
    Drain,
    /// Somebody has changed whom we dial, or how many clients there may be.
    Configured {
        /// As in the machine's `Config`.
        given: u64,
        /// As there.
        clients_max: u32,
    },
    /// Somebody has given us another address of this node.
    Moved {
        /// Which.
        index: u8,
    },
    /// Somebody wants the link to this peer to end; it may come back.
    Kick {
        /// Whose.
        peer: PeerId,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial this peer. Its name is resolved anew each time.
    Dial {
        /// Whom.
        peer: PeerId,
        /// The name of this try.
        attempt: Attempt,
    },
    /// The dial takes too long, or is not wanted any more: end it. No answer is needed.
    Abandon {
        /// Which.
        attempt: Attempt,
    },
    /// The connection is the one link to this peer from now on.
    Use {
        /// Which.
        connection: ConnectionId,
        /// To whom.
        identity: PeerId,
    },
    /// Say why, then close.
    Refuse {
        /// Which.
        connection: ConnectionId,
        /// Why.
        why: Why,
        /// How long the peer should stay away.
        retry_after_ms: u32,
    },
    /// Close at once: there is not even room for a refusal, or nobody to read it.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why.
        why: Why,
    },
}

/// Why a connection is refused or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Every slot is taken.
    Full,
    /// Too many from its address have not said who they are.
    Crowded,
    /// It had not said who it is when others needed its slot.
    Evicted,
    /// It was the idlest client when another one needed its slot.
    Idlest,
    /// It did not say in time who it is.
    Handshake,
    /// The same peer has connected anew.
    Duplicate,
    /// There is no such node.
    NoSuchNode,
    /// It says that it is who we are.
    Ourselves,
    /// Somebody else was dialed.
    NotWhoWasDialed,
    /// The lower index dials the higher.
    WrongWay,
    /// We are a client: nobody dials us.
    NotANode,
    /// We are going down.
    Draining,
    /// The dial had been given up.
    TooLate,
    /// It was taken from the list of nodes.
    NotGiven,
    /// It was given another address.
    Moved,
    /// Somebody wanted it to end.
    Kicked,
}

impl Why {
    /// What the peer's program reads.
    #[must_use]
    pub const fn code(self) -> RefusalCode {
        match self {
            Why::Full | Why::Crowded | Why::Evicted | Why::Idlest => RefusalCode::Full,
            Why::Handshake | Why::TooLate => RefusalCode::Timeout,
            Why::Duplicate => RefusalCode::Duplicate,
            Why::NoSuchNode | Why::Ourselves | Why::NotWhoWasDialed | Why::WrongWay | Why::NotANode => {
                RefusalCode::Identity
            }
            Why::Draining | Why::NotGiven | Why::Moved | Why::Kicked => RefusalCode::Draining,
        }
    }

    /// What the peer's user reads.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Why::Full => {
                "every slot for connections is taken; raise the limit of clients, or try again later"
            }
            Why::Crowded => {
                "too many connections from this address have not said who they are; see limits.strangers_of_address_max"
            }
            Why::Evicted => "the connection had not said who it is when its slot was needed",
            Why::Idlest => "the client was the idlest one when another one needed its slot",
            Why::Handshake => "the connection did not say in time who it is",
            Why::Duplicate => "a newer connection of the same peer has taken its place",
            Why::NoSuchNode => "the cluster has no node of this index; check the list of nodes",
            Why::Ourselves => "the peer has our own identity; give each node an index of its own",
            Why::NotWhoWasDialed => {
                "another peer answered than the one that was dialed; check the list of nodes"
            }
            Why::WrongWay => "the node with the lower index dials the one with the higher; check the index",
            Why::NotANode => "this is a client, which nobody dials",
            Why::Draining => "the node is going down",
            Why::TooLate => "the connect took too long",
            Why::NotGiven => "the node was taken from the list of nodes of its peer",
            Why::Moved => "the node was given another address by its peer",
            Why::Kicked => "a person has ended the link; it may be made again",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// How far we are with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is being dialed.
    Connecting,
    /// A connection stands; who is there is not settled.
    Handshaking,
    /// There is a link.
    Connected,
    /// There is a link that is about to end.
    Draining,
    /// There is none.
    Closed,
}

impl State {
    /// The name in `busway peers`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Handshaking => "handshaking",
            State::Connected => "connected",
            State::Draining => "draining",
            State::Closed => "closed",
        }
    }
}

/// One line of `busway peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whom it is about; `None` before it has said so.
    pub peer: Option<PeerId>,
    /// How far we are.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// Its connection, where there is one.
    pub connection: Option<ConnectionId>,
    /// Failures since it last said something.
    pub failures: u32,
    /// When it is dialed again.
    pub dials_at: Option<Time>,
    /// Why the last connection ended, or could not be made; cut to `REASON_BYTES_MAX`.
    pub last_error: Option<String>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dials begun.
    pub dials: u64,
    /// Dials that failed or took too long.
    pub dials_failed: u64,
    /// Strangers let in to say who they are.
    pub let_in: u64,
    /// Strangers refused with a reason.
    pub refused: u64,
    /// Strangers closed without a word: the spare slot was taken too.
    pub turned_away: u64,
    /// Connections ended because others needed their slots.
    pub evicted: u64,
    /// Links replaced by newer ones of the same peer.
    pub duplicates: u64,
    /// Connections that did not say in time who they are.
    pub timeouts: u64,
    /// Links made.
    pub links: u64,
}
