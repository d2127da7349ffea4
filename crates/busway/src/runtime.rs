//! What joins memory, decisions and the kernel: this host's rings with those of other hosts.
//!
//! `protocol` decides, `io` moves bytes, the ports of this crate read and write rings; none of them knows another, and
//! only this module knows all. Two threads come here, and both are mere callers: `bw-link-rx` sleeps in the driver and
//! takes what comes; `bw-link-tx` sleeps on the bell and sends what was published. A subscriber of the node's process that
//! waits takes the place of the first, a publisher of it does the work of the second (`crew`). Each does what it has
//! found itself, under the lock of the peer concerned, so that no message waits for another thread.
//!
//! Invariant: no step waits: not for a peer, not for a subscriber, not for a publisher. Only the two sleeps do.

mod backlog;
mod cipher;
mod crew;
mod desk;
mod door;
mod export;
mod gate;
mod gossip;
mod hub;
mod import;
mod interest;
mod newcomer;
mod news;
mod occupant;
mod opening;
mod peer;
#[cfg(test)]
mod scene;
mod spin;
mod staging;
mod stepped;

pub(crate) use door::Change;
pub(crate) use export::Outbound;
pub(crate) use gossip::{
    Body, Call, Calls, Listed, Mailbox, News, Note, ReaderId, Standing, Stands, Taken, Tells, Wants, Whose,
    ended, names, not_offered,
};
pub(crate) use hub::{Hub, HubConfig, LinkView};
pub(crate) use staging::{Goal, Pieces, Staging};
pub use stepped::{Simulated, Stepped, UnderWay, control_due_ns, step_control};
