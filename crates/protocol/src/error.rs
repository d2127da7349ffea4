//! Why a link ends: what the peer did wrong, or what else happened.
//!
//! A `PeerError` is the peer's fault. It is told to the peer as a refusal, counted and logged by whoever drives the
//! link, and ends the connection; the session stays.

use alloc::string::String;
use core::fmt;

use busway_wire::link::{Identity, Refusal, RefusalCode};
use busway_wire::{DecodeError, Kind, PortId, VERSION};

/// What a peer did that no peer may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// Its bytes are no frame.
    Decode(DecodeError),
    /// It belongs to another cluster.
    Cluster {
        /// Its cluster.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// It is not who was called.
    Identity {
        /// Who it says it is.
        theirs: Identity,
        /// Who was called.
        expected: Identity,
    },
    /// A frame that cannot come in this state.
    Unexpected {
        /// The frame.
        kind: Kind,
    },
    /// It sent more than it had been granted, of all sources or of one.
    Credit {
        /// The source of the message that was too much.
        source: PortId,
    },
    /// It acknowledged what was never sent, took an acknowledgement back, or reduced a grant.
    Acknowledgement {
        /// The source; `None` for a credit.
        source: Option<PortId>,
    },
    /// The parts of a message do not follow each other.
    Part {
        /// The message's source.
        source: PortId,
    },
    /// The sequences of a source go back within one link, or a gap is not in front of what comes next.
    Order {
        /// The source.
        source: PortId,
    },
    /// A message of another topic or reliability than its source was announced with.
    Announcement {
        /// The source.
        source: PortId,
    },
    /// It wants more patterns than anyone may.
    Interests,
}

impl PeerError {
    /// What the peer is told.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            PeerError::Decode(DecodeError::Version { .. }) => RefusalCode::Version,
            PeerError::Cluster { .. } => RefusalCode::Cluster,
            PeerError::Identity { .. } => RefusalCode::Identity,
            PeerError::Decode(_)
            | PeerError::Unexpected { .. }
            | PeerError::Credit { .. }
            | PeerError::Acknowledgement { .. }
            | PeerError::Part { .. }
            | PeerError::Order { .. }
            | PeerError::Announcement { .. }
            | PeerError::Interests => RefusalCode::Protocol,
        }
    }
}

impl From<DecodeError> for PeerError {
    fn from(error: DecodeError) -> PeerError {
        PeerError::Decode(error)
    }
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerError::Decode(DecodeError::Version { version }) => {
                write!(f, "format version {version} cannot talk to version {VERSION}; update the older one")
            }
            PeerError::Decode(error) => write!(f, "{error}"),
            PeerError::Cluster { theirs, ours } => {
                write!(f, "cluster {theirs:016x} is not cluster {ours:016x}; check the name of the cluster")
            }
            PeerError::Identity { theirs, expected } => {
                write!(f, "{theirs} answered where {expected} was expected; check the list of nodes")
            }
            PeerError::Unexpected { kind } => write!(f, "a {kind} cannot come here"),
            PeerError::Credit { source } => write!(f, "source {source} sent more than was granted"),
            PeerError::Acknowledgement { source: Some(source) } => {
                write!(f, "the acknowledgement of source {source} contradicts what was sent")
            }
            PeerError::Acknowledgement { source: None } => {
                f.write_str("the credit contradicts an earlier one or what was sent")
            }
            PeerError::Part { source } => {
                write!(f, "the parts of a message of source {source} do not follow each other")
            }
            PeerError::Order { source } => write!(f, "the sequences of source {source} go back"),
            PeerError::Announcement { source } => {
                write!(f, "a message of source {source} is not what was announced")
            }
            PeerError::Interests => f.write_str("more patterns are wanted than one peer may want"),
        }
    }
}

impl core::error::Error for PeerError {}

/// Why a link is at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer did what no peer may do; it was told so.
    Peer(PeerError),
    /// The peer refused us.
    Refused(Refusal),
    /// We refused the peer; it was told so.
    Refusing(Refusal),
    /// The peer said goodbye.
    Goodbye {
        /// Its words.
        reason: String,
    },
    /// We said goodbye, and all that was under way is settled or given up.
    Drained,
    /// The handshake took too long.
    Handshake,
    /// A frame began and did not end.
    Partial,
    /// The peer was silent too long.
    Silent,
    /// The bytes below the link could not be secured: TLS, whose machine is the caller's.
    Insecure {
        /// Why, for people.
        reason: String,
    },
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Peer(error) => write!(f, "{error}"),
            Closed::Refused(refusal) => write!(f, "refused ({}): {}", refusal.code, refusal.reason),
            Closed::Refusing(refusal) => write!(f, "we refused ({}): {}", refusal.code, refusal.reason),
            Closed::Goodbye { reason } => write!(f, "the peer said goodbye: {reason}"),
            Closed::Drained => f.write_str("closed in order"),
            Closed::Handshake => f.write_str("the handshake took too long"),
            Closed::Partial => f.write_str("a frame began and did not end in time"),
            Closed::Silent => f.write_str("the peer was silent too long"),
            Closed::Insecure { reason } => f.write_str(reason),
        }
    }
}

impl core::error::Error for Closed {}
