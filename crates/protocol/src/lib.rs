//! What hosts say to each other, as machines: framing, links, and the sessions that outlive them; who has which artifact; and what is tried again, and when.
//!
//! Bytes and the time go in; bytes, events and requests come out. There is no socket, clock, thread, lock or
//! random number here, so that the simulator drives the very code that runs. Whoever calls keeps the rings, the
//! connections and the time.
//!
//! Invariant: no bytes of a peer make any of it panic, or keep memory beyond what was granted to that peer.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod acl;
pub mod artifact;
mod batch;
mod breaker;
mod error;
pub mod flow;
mod framing;
mod gate;
pub mod gossip;
mod link;
pub mod membership;
mod principal;
mod retry;
mod session;
mod time;

pub use acl::{Acl, Deed, Permits, Rule, Whom};
pub use batch::Batch;
pub use breaker::{Breaker, BreakerState, Ended, Pass, Refused};
pub use error::{Closed, PeerError};
pub use framing::{Framer, Step, Sum, Want};
pub use gate::{Backlog, Gate};
pub use link::{Config, Deadline, Event, Frames, Link, Room, State, Stats};
pub use principal::{Principal, PrincipalError};
pub use retry::{Attempts, Retry};
pub use session::{Account, Delivery, Destination, Input, Outbox, Output, Passing, Session, Traffic};
pub use time::{ConnectionId, PeerId, Time};
