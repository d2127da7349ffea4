//! How far two nodes are with each other, in the words of the tables.
//!
//! Invariant: the further a link is, the later its phase stands.

/// How far a node is with a peer, for the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No connection.
    Apart,
    /// A connection is being made.
    Dialing,
    /// The handshake is under way.
    Greeting,
    /// Linked, nothing is under way.
    Idle,
    /// Linked, messages are under way.
    Flowing,
    /// Linked, a large message has begun to come.
    Partial,
    /// Messages wait for room here.
    Suspended,
    /// The link is being drained or closed.
    Draining,
}

impl Phase {
    /// Each.
    pub const ALL: [Phase; 8] = [
        Phase::Apart,
        Phase::Dialing,
        Phase::Greeting,
        Phase::Idle,
        Phase::Flowing,
        Phase::Partial,
        Phase::Suspended,
        Phase::Draining,
    ];

    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Apart => "apart",
            Phase::Dialing => "dialing",
            Phase::Greeting => "greeting",
            Phase::Idle => "idle",
            Phase::Flowing => "flowing",
            Phase::Partial => "partial",
            Phase::Suspended => "suspended",
            Phase::Draining => "draining",
        }
    }
}
