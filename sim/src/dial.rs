//! Who dials whom, and when: the smallest policy that links every node with every other.
//!
//! The lower index dials the higher, after a back-off that grows with each attempt until a message has come. It
//! refuses nobody who is a member and keeps no pool.
//!
//! Invariant: at most one connection or attempt a peer is in use.

use std::collections::BTreeMap;

use busway_protocol::{ConnectionId, PeerId, Time};
use busway_wire::link::RefusalCode;
use fastrand::Rng;

/// The least wait between two attempts.
const WAIT_MS_MIN: u64 = 50;
/// The longest wait between two attempts to reach a node.
const WAIT_MS_MAX: u64 = 1_000;

/// What the policy is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    /// The node has started, or the time has come that `deadline` named.
    Tick,
    /// The attempt has a connection.
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// Who was dialed.
        peer: PeerId,
    },
    /// The attempt has failed.
    ConnectFailed {
        /// Who was dialed.
        peer: PeerId,
    },
    /// An accepted connection has said who it is.
    Identified {
        /// The connection.
        connection: ConnectionId,
        /// Who it says it is.
        identity: PeerId,
    },
    /// A message has come.
    Message {
        /// From whom.
        peer: PeerId,
    },
    /// A connection is gone.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// How long the peer asked us to wait, in milliseconds.
        retry_after_ms: u32,
    },
}

/// What the node is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Output {
    /// Dial this peer.
    Dial {
        /// Whom.
        peer: PeerId,
    },
    /// Refuse the connection.
    Refuse {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        code: RefusalCode,
    },
    /// The connection is that of the peer from now on; an older one is closed.
    Use {
        /// The connection.
        connection: ConnectionId,
        /// Whose.
        identity: PeerId,
    },
}

#[derive(Debug)]
enum Attempt {
    Waiting(Time),
    Dialing,
    Linked(ConnectionId),
    /// It is the peer that dials.
    Awaited,
}

#[derive(Debug)]
struct Peer {
    attempt: Attempt,
    failures: u32,
    dialed: bool,
}

/// The policy of one node.
#[derive(Debug)]
pub(crate) struct Dial {
    peers: BTreeMap<PeerId, Peer>,
    rng: Rng,
}

impl Dial {
    /// The policy of node `own` of so many.
    #[must_use]
    pub(crate) fn new(own: u8, nodes: u8, seed: u64) -> Dial {
        let peers = (0..nodes).filter(|&index| index != own).map(|index| {
            let dialed = own < index;
            let attempt = if dialed { Attempt::Waiting(Time(0)) } else { Attempt::Awaited };
            (PeerId::Node { index }, Peer { attempt, failures: 0, dialed })
        });
        Dial { peers: peers.collect(), rng: Rng::with_seed(seed) }
    }

    /// Takes one input.
    pub(crate) fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {
                for (&peer, state) in &mut self.peers {
                    if matches!(state.attempt, Attempt::Waiting(at) if at <= now) {
                        state.attempt = Attempt::Dialing;
                        out.push(Output::Dial { peer });
                    }
                }
            }
            Input::Connected { connection, peer } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.attempt = Attempt::Linked(connection);
                }
            }
            Input::ConnectFailed { peer } => self.wait(now, peer, 0),
            Input::Identified { connection, identity } => match self.peers.get_mut(&identity) {
                Some(state) if !state.dialed => {
                    state.attempt = Attempt::Linked(connection);
                    out.push(Output::Use { connection, identity });
                }
                Some(_) | None => out.push(Output::Refuse { connection, code: RefusalCode::Identity }),
            },
            Input::Message { peer } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.failures = 0;
                }
            }
            Input::Closed { connection, retry_after_ms } => {
                let linked = |(_, state): &(&PeerId, &Peer)| matches!(state.attempt, Attempt::Linked(used) if used == connection);
                if let Some(peer) = self.peers.iter().find(linked).map(|(&peer, _)| peer) {
                    self.wait(now, peer, retry_after_ms);
                }
            }
        }
    }

    /// When `Tick` is wanted.
    #[must_use]
    pub(crate) fn deadline(&self) -> Option<Time> {
        let waiting = self.peers.values().filter_map(|state| match state.attempt {
            Attempt::Waiting(at) => Some(at),
            Attempt::Dialing | Attempt::Linked(_) | Attempt::Awaited => None,
        });
        waiting.min()
    }

    fn wait(&mut self, now: Time, peer: PeerId, retry_after_ms: u32) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !state.dialed {
            state.attempt = Attempt::Awaited;
            return;
        }
        let spread = (WAIT_MS_MAX - WAIT_MS_MIN).min(WAIT_MS_MIN << state.failures.min(10));
        let ms = (WAIT_MS_MIN + self.rng.u64(0..=spread)).max(u64::from(retry_after_ms));
        state.failures = state.failures.saturating_add(1);
        state.attempt = Attempt::Waiting(now.after_ms(ms));
    }
}
