//! What a world is made of: hosts, lines, limits.
//!
//! Invariant: two worlds on the same terms are the same.

use busway_protocol::{Config, PeerId};
use busway_wire::limits::{LINK_CLIENTS_DEFAULT, LINK_PING_MS, LINK_UNIDENTIFIED_DEFAULT};

use crate::crowd::Crowd;
use crate::network::Shape;
use crate::node::Canary;

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Everything random follows from it.
    pub seed: u64,
    /// Nodes, each on a host of its own.
    pub hosts: usize,
    /// Clients, each on a host of its own.
    pub clients: usize,
    /// How many clients a node takes.
    pub clients_max: u32,
    /// How many strangers a node takes.
    pub unidentified_max: u32,
    /// Whether a client is given the address of one node only.
    pub homes: bool,
    /// Milliseconds of silence after which a peer is asked whether it is there.
    pub keep_alive_ms: u64,
    /// Milliseconds between two looks at all accounts and links.
    pub check_ms: u64,
    /// Sizes of messages that the checkers remember of each source.
    pub kept_sizes: usize,
    /// How the lines are.
    pub shape: Shape,
    /// Messages that a peer may have under way to a node.
    pub credit_messages: u64,
    /// Their bytes.
    pub credit_bytes: u64,
    /// Messages of one source.
    pub window_messages: u32,
    /// Their bytes.
    pub window_bytes: u64,
    /// Entries of a relay ring.
    pub relay_slots: usize,
    /// Bytes that a node reads at once.
    pub read_max: usize,
    /// Whether large payloads are read straight to where they stay.
    pub direct: bool,
    /// What is broken on purpose.
    pub canary: Canary,
    /// Whether the last lines of the trace are kept.
    pub lines: bool,
}

impl Terms {
    /// Who there is.
    #[must_use]
    pub fn crowd(&self) -> Crowd {
        Crowd { nodes: self.hosts, clients: self.clients }
    }

    /// So many hosts in a local network, with the default limits.
    #[must_use]
    pub fn new(seed: u64, hosts: usize) -> Terms {
        let hello = Config::new(1, PeerId::Node { index: 0 }, 0).hello;
        Terms {
            seed,
            hosts,
            clients: 0,
            clients_max: LINK_CLIENTS_DEFAULT,
            unidentified_max: LINK_UNIDENTIFIED_DEFAULT,
            homes: false,
            keep_alive_ms: LINK_PING_MS,
            check_ms: 100,
            kept_sizes: usize::MAX,
            shape: Shape::default(),
            credit_messages: hello.credit_messages,
            credit_bytes: hello.credit_bytes,
            window_messages: hello.window_messages,
            window_bytes: hello.window_bytes,
            relay_slots: 1_024,
            read_max: 64 << 10,
            direct: true,
            canary: Canary::Sound,
            lines: false,
        }
    }
}

/// What a publisher does by itself.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// How many messages.
    pub messages: u64,
    /// Time between two, on average.
    pub gap_ns: u64,
    /// The largest payload.
    pub size_max: usize,
    /// Of twenty messages so many have any size up to that; the others are small.
    pub large: u32,
}
