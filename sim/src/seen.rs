//! What the hosts report of themselves, for the checkers: facts, without a judgement.
//!
//! Invariant: nothing that a checker decides by comes from the machines that are checked, but these facts.

use busway_protocol::PeerId;
use busway_wire::PortId;

use crate::subscriber::Told;

/// One fact.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A publisher has put a message into its ring.
    Published {
        /// The publisher's port.
        source: PortId,
        /// The place among its messages.
        sequence: u64,
        /// Bytes of payload.
        size: usize,
    },
    /// A peer has a row at a publisher's ring.
    RowOpened {
        /// The publisher's port.
        source: PortId,
        /// The peer.
        peer: PeerId,
        /// What it reads first.
        first: u64,
    },
    /// The peer's row is gone: nothing beyond is owed.
    RowClosed {
        /// The publisher's port.
        source: PortId,
        /// The peer.
        peer: PeerId,
    },
    /// A host has a ring for the messages of another.
    RelayOpened {
        /// The host.
        host: usize,
        /// The ring's number on its host.
        ring: u64,
        /// Whose messages.
        source: PortId,
        /// Whether the source waits.
        reliable: bool,
    },
    /// Something stands in it.
    RelayPushed {
        /// The host.
        host: usize,
        /// The ring's number on its host.
        ring: u64,
        /// Whose message.
        source: PortId,
        /// The first sequence.
        first: u64,
        /// The last.
        last: u64,
    },
    /// A subscriber reads a relay ring from now on.
    Attached {
        /// The host.
        host: usize,
        /// The subscriber.
        subscriber: u64,
        /// Whose messages.
        source: PortId,
        /// Whether nothing had been in the ring before.
        from_start: bool,
    },
    /// A user has been told something.
    Told {
        /// The host.
        host: usize,
        /// The subscriber.
        subscriber: u64,
        /// Whose message.
        source: PortId,
        /// What.
        told: Told,
    },
    /// A node holds so much of something that is bounded.
    Held {
        /// The host.
        host: usize,
        /// Of what.
        what: Budget,
        /// How much.
        held: u64,
        /// How much it may be.
        bound: u64,
    },
    /// A node has heard the hello of a peer.
    Linked {
        /// The host.
        host: usize,
        /// The peer.
        peer: PeerId,
        /// Which start of the peer it is.
        instance: u64,
    },
    /// A node has ended the link of a client because another one needs its slot.
    Evicted {
        /// The host.
        host: usize,
        /// The client.
        peer: PeerId,
    },
    /// A node has forgotten a client that is gone, with all it knew of it.
    Forgotten {
        /// The host.
        host: usize,
        /// The client.
        peer: PeerId,
    },
    /// A node has died, with all it knew.
    Died {
        /// The host.
        host: usize,
    },
    /// A node says that its peer broke the protocol.
    Blamed {
        /// The host.
        host: usize,
        /// The connection.
        connection: u64,
        /// What it says.
        what: String,
    },
    /// A machine did what none may do.
    Broken {
        /// The host.
        host: usize,
        /// What.
        what: &'static str,
    },
}

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Budget {
    /// Bytes that have come and that no machine has taken.
    Staging,
    /// Bytes that are to be written.
    Batch,
    /// Messages that have come and wait for room in their relay ring.
    SuspendedMessages,
    /// Their bytes.
    SuspendedBytes,
    /// Bytes of messages that have begun to come.
    OpenBytes,
    /// Slots for connections.
    Slots,
}

impl Budget {
    /// Each.
    pub const ALL: [Budget; 6] = [
        Budget::Staging,
        Budget::Batch,
        Budget::SuspendedMessages,
        Budget::SuspendedBytes,
        Budget::OpenBytes,
        Budget::Slots,
    ];

    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Budget::Staging => "staging bytes",
            Budget::Batch => "batch bytes",
            Budget::SuspendedMessages => "suspended messages",
            Budget::SuspendedBytes => "suspended bytes",
            Budget::OpenBytes => "open bytes",
            Budget::Slots => "slots",
        }
    }
}
