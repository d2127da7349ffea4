//! The kernel, as Busway sees it: connections that carry bytes.
//!
//! [`Driver`] is the one trait. Nothing here knows what the bytes mean, who a peer is, or when to try again.
//!
//! Invariant: no `unsafe`.

pub mod clock;
mod driver;

pub use driver::{
    ConnectionId, Counters, Driver, Event, Fault, Listen, ListenError, ListenerId, Listening,
    PIECES_COUNT_MAX, Pieces, Read, Space, Submitted,
};
