//! What a world is made of: hosts, lines, limits.
//!
//! Invariant: two worlds on the same terms are the same.

use busway_protocol::{Config, PeerId};

use crate::network::Shape;
use crate::node::Canary;

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Everything random follows from it.
    pub seed: u64,
    /// Hosts, each with a node.
    pub hosts: usize,
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
    /// So many hosts in a local network, with the default limits.
    #[must_use]
    pub fn new(seed: u64, hosts: usize) -> Terms {
        let hello = Config::new(1, PeerId::Node { index: 0 }, 0).hello;
        Terms {
            seed,
            hosts,
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
}
