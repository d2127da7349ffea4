//! The bytes of Busway: header, names, ids, control bodies, link frames and the limits of the system.
//!
//! This crate knows what a thing looks like and whether it is well-formed. It decides nothing, holds no socket,
//! clock, thread or mapping, and needs no operating system: it is `no_std` with an allocator, without `unsafe`.
//! FORMAT.md describes the same bytes for people; `tests/format.rs` compares the two.
//!
//! Invariant: no input can make a decoder panic, or allocate more than a constant times the size of that input.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bounded;
mod cause;
mod context;
mod control;
mod dead_letter;
mod error;
mod extension;
pub mod gossip;
mod group;
pub mod hatch;
mod header;
mod ids;
pub mod limits;
pub mod link;
mod message_id;
mod name;
mod pattern;
mod policy;
mod request;
mod run;
mod topic;
mod trace;
pub mod work;

pub use cause::Cause;
pub use context::Context;
pub use control::{Control, ControlKind, decode, encode};
pub use dead_letter::{DeadLetter, DeadLetterError, DeadLetterHead, DeadReason};
pub use error::{DecodeError, EncodeError, FrameFault};
pub use extension::{Extension, ExtensionKind, Extensions, Part};
pub use group::{Acknowledge, DEAD_LETTERS, Group, GroupError};
pub use header::{Checksum, Codec, Flags, HEADER_SIZE, Header, Kind, Seed, VERSION};
pub use ids::{Generation, PortId, ProcessId, RingIndex, RowIndex, SeatIndex, TopicId};
pub use message_id::{MessageId, MessageIdError};
pub use name::{NameError, NameFault, check_domain_name, check_process_name, process_name};
pub use pattern::{Pattern, Prefix, Tokens};
pub use policy::{Policy, PolicyError};
pub use request::{HEAD_BYTES, ReplyHead, ReplyState, RequestHead, lane_of, responders};
pub use run::{Packed, RECORD_SIZE, Record, Records, Run};
pub use topic::{Topic, cluster_id, named_client_id};
pub use trace::{Sampled, SpanId, TraceError, TraceId, TraceParent};
