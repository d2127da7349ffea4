//! The kernel, as Busway sees it: connections that carry bytes.
//!
//! [`Driver`] is the one trait. [`Epoll`] implements it for TCP on Linux, [`FakeDriver`] for a network in memory
//! that has a seed, virtual time and the faults of a real one. Both pass one suite, `tests/conformance.rs`. Nothing
//! here knows what the bytes mean, who a peer is, or when to try again.
//!
//! Invariant: `unsafe` stands in `backlog.rs` and `least.rs` only.

mod backlog;
pub mod clock;
mod driver;
mod epoll;
mod fake;
mod least;

pub use driver::{
    Admission, Backlog, ConnectionId, Counters, Driver, Event, Fault, Listen, ListenError, ListenerId,
    Listening, PIECES_COUNT_MAX, Pieces, Read, Space, Submitted,
};
pub use epoll::Epoll;
pub use fake::{Crash, FakeDriver, HostId, Manners, Network, Path};
