//! The machines of `busway-protocol` over a simulated network: one thread, virtual time, one seed.
//!
//! A [`World`] holds hosts. Each host has a node, which drives sessions and links as the runtime does, and a memory
//! that outlives the node: publishers' rings, relay rings, subscribers. Between the hosts is a [`Network`] of byte
//! streams on which everything goes wrong that can. [`Checks`] judge what was seen. Stories tell one scenario each
//! through [`Cluster`]; [`swarm`] makes random ones. [`gossip`] is a world of artifacts, with lines of a rate. [`real`] is the second floor: the runtime that ships, with real
//! rings in memory, over the network in memory of `busway-io`.
//!
//! Invariant: the same seed gives the same run, event for event.

mod agenda;
mod check;
mod cluster;
mod coverage;
mod crowd;
pub mod day;
mod fault;
mod few;
pub mod gossip;
pub mod machine;
mod memory;
mod message;
mod network;
mod node;
mod phase;
#[cfg(feature = "runtime")]
pub mod real;
mod relay;
mod ring;
mod seen;
mod subscriber;
pub mod swarm;
mod trace;
mod world;

pub use check::Checks;
pub use cluster::Cluster;
pub use coverage::Coverage;
pub use crowd::Crowd;
pub use fault::{Fault, Pair, Planned};
pub use message::{Message, Payload, Which};
pub use network::{End, Network, Notice, Read, Shape, Side};
pub use node::Canary;
pub use phase::Phase;
pub use seen::{Budget, Seen};
pub use subscriber::Told;
pub use trace::{Happening, Trace};
pub use world::{Terms, Work, World, is_reliable};
