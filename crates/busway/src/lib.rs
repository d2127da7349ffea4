//! Busway: publish and subscribe, between the programs of one host through shared memory.
//!
//! A payload is laid out once, in memory that its publisher owns and its subscribers read. No daemon is on the path of a
//! message; two programs find each other with nothing started before them. Every message that is not delivered is
//! counted, with its cause.
//!
//! Start with [`Bus`]. What happens to slow subscribers is a [`Policy`]; what happened to messages is an [`Account`].

#![forbid(unsafe_code)]

mod acl;
pub mod artifacts;
mod bus;
pub mod cluster;
mod control;
mod directory;
mod error;
mod ids;
mod inspect;
mod inspection;
mod log;
pub mod metrics;
mod node;
mod outcome;
mod ports;
mod publisher;
mod puller;
mod pusher;
mod requester;
mod responder;
mod runtime;
mod sample;
pub mod service;
mod stream;
mod subscriber;
mod tls;
mod tokens;
mod typed;
mod wake;

pub use acl::{Acl, AclRule};
pub use bus::{Bus, BusBuilder};
pub use busway_protocol::{Deed, Principal, PrincipalError};
pub use busway_wire::{
    Cause, Codec, Context, Kind, MessageId, MessageIdError, NameError, Pattern, Policy, PolicyError, PortId,
    ProcessId, Sampled, SpanId, Topic, TopicId, TraceError, TraceId, TraceParent, check_domain_name,
};
pub use directory::Realm;
#[doc(hidden)]
pub use directory::peer_uid;
pub use error::{Code, Error};
pub use inspection::{
    Account, BudgetView, Dropped, Inspection, PortState, ProcessView, PublisherView, SegmentView,
    SubscriberView, TopicView,
};
pub use node::{
    FLOWS_TOPIC, FlowStatus, LinkState, Node, NodeBuilder, PEERS_TOPIC, PeerStatus, PeerView, SharedNode,
};
pub use outcome::{Behind, Loss, RecvError, SendError, Sent, Unread, Who};
pub use publisher::{Batch, Clock, DetachedLoan, Gating, InContext, Loan, Publisher, PublisherBuilder};
pub use puller::{Late, Puller, PullerBuilder, Task};
pub use pusher::{Pusher, PusherBuilder};
pub use requester::{Pending, Reply, RequestError, Requester, RequesterBuilder, RequesterInContext, Strays};
pub use responder::{ReplyError, Request, Responder, ResponderBuilder, Unhandled};
#[doc(hidden)]
pub use runtime::{Simulated, Stepped, UnderWay, control_due_ns, step_control};
pub use sample::{PublisherInfo, Sample};
pub use stream::{RequestStream, SampleStream, TaskStream};
pub use subscriber::{News, Subscriber, SubscriberBuilder};
pub use tls::Tls;
pub use tokens::Tokens;
pub use typed::{TypedInContext, TypedLoan, TypedPublisher};

/// The code blocks of the documents run as tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/guide.md")]
    struct Guide;
    #[doc = include_str!("../../../docs/cluster.md")]
    struct Cluster;
}
