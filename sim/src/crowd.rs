//! Who there is: nodes by index, then clients by id, each on a host of its own; and strangers, from one more host.
//!
//! Invariant: a host's number says who it is, and the other way round.

use busway_protocol::PeerId;

use crate::fault::Pair;

/// How many of each there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// Nodes: the first hosts.
    pub nodes: usize,
    /// Clients: the hosts behind them.
    pub clients: usize,
}

impl Crowd {
    /// All hosts.
    #[must_use]
    pub fn hosts(self) -> usize {
        self.nodes + self.clients
    }

    /// The host that strangers come from.
    #[must_use]
    pub fn outside(self) -> usize {
        self.hosts()
    }

    /// Whether a client lives there.
    #[must_use]
    pub fn is_client(self, host: usize) -> bool {
        host >= self.nodes
    }

    /// Who lives there.
    #[must_use]
    pub fn identity(self, host: usize) -> PeerId {
        if self.is_client(host) {
            return PeerId::Client { id: host as u64 };
        }
        PeerId::Node { index: u8::try_from(host).expect("a cluster has at most 64 nodes") }
    }

    /// Where somebody lives.
    #[must_use]
    pub fn host_of(peer: PeerId) -> usize {
        match peer {
            PeerId::Node { index } => usize::from(index),
            PeerId::Client { id } => usize::try_from(id).unwrap_or(usize::MAX),
        }
    }

    /// Whom a host has links with: a node with all, a client with nodes.
    pub fn others(self, host: usize) -> impl Iterator<Item = usize> {
        let end = if self.is_client(host) { self.nodes } else { self.hosts() };
        (0..end).filter(move |&other| other != host)
    }

    /// Every two that have a link with each other, the lower number first.
    pub fn pairs(self) -> impl Iterator<Item = Pair> {
        (0..self.nodes).flat_map(move |from| (from + 1..self.hosts()).map(move |to| Pair { from, to }))
    }
}
