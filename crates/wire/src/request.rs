//! What stands before the payload of a request and of a reply, and on which topic replies travel.
//!
//! A head is 8 bytes and lies before the payload, not in the extensions: a slot has none, and most requests and replies lie in a
//! slot. A request that is carried to another host is asked there anew: what travels is the time that is left (`work`), since the clock of a head
//! is that of its host.
//!
//! It does not know who waits for what, nor what time it is.
//!
//! Invariant: any eight bytes are a request's head; of a reply's, each has one encoding, and others are refused.

use core::fmt::Write;

use alloc::string::String;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::PortId;
use crate::topic::Topic;

/// Bytes of a head.
pub const HEAD_BYTES: usize = 8;

/// The group of all responders of a service: no user can name it.
const RESPONDERS: &str = "$responders";
/// Before the requester's port: the topic of its replies.
const LANE: &str = "$lane.";

/// The name of the group of which the responders of a service are members.
///
/// ```
/// assert!(busway_wire::responders().is_reserved());
/// ```
#[must_use]
pub fn responders() -> Topic {
    Topic::reserved(RESPONDERS).expect("it is in the grammar")
}

/// The topic of the replies to what this port asks.
///
/// ```
/// # use busway_wire::{PortId, lane_of};
/// assert_eq!(lane_of(PortId(42)).as_str(), "$lane.000000000000002a");
/// ```
#[must_use]
pub fn lane_of(requester: PortId) -> Topic {
    let mut name = String::from(LANE);
    write!(name, "{:016x}", requester.0).expect("a string has room");
    Topic::reserved(&name).expect("it is in the grammar")
}

/// What stands before the payload of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RequestHead {
    /// Nobody waits for a reply from then on: nanoseconds of the host's monotonic clock.
    pub deadline_ns: U64,
}

impl RequestHead {
    /// The head and the payload behind it; `None` where there are too few bytes.
    ///
    /// ```
    /// # use busway_wire::RequestHead;
    /// let (head, payload) = RequestHead::split(b"\x07\0\0\0\0\0\0\0hello").unwrap();
    /// assert_eq!((head.deadline_ns.get(), payload), (7, &b"hello"[..]));
    /// assert!(RequestHead::split(b"hello").is_none());
    /// ```
    #[must_use]
    pub fn split(bytes: &[u8]) -> Option<(RequestHead, &[u8])> {
        RequestHead::read_from_prefix(bytes).ok()
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        self.deadline_ns.get().to_le_bytes()
    }
}

/// Which of the replies to a request a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ReplyState {
    /// More follow.
    Part = 0,
    /// It is the last.
    Last = 1,
    /// The responder failed.
    Failed = 2,
    /// The responder let the request go.
    Unanswered = 3,
    /// The responder, on another host, died or cannot be reached any more: who carried the request there says so.
    Died = 4,
}

impl ReplyState {
    /// Every state, in order of its number.
    pub const ALL: [ReplyState; 5] =
        [ReplyState::Part, ReplyState::Last, ReplyState::Failed, ReplyState::Unanswered, ReplyState::Died];

    /// The name in FORMAT.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ReplyState::Part => "part",
            ReplyState::Last => "last",
            ReplyState::Failed => "failed",
            ReplyState::Unanswered => "unanswered",
            ReplyState::Died => "died",
        }
    }
}

/// What stands before the payload of a reply, as it lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReplyHead {
    /// Its place among the replies to its request, from 0.
    pub index: U32,
    /// The number of a [`ReplyState`].
    pub state: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl ReplyHead {
    /// The head of a reply.
    #[must_use]
    pub fn new(index: u32, state: ReplyState) -> ReplyHead {
        ReplyHead { index: index.into(), state: state as u8, reserved: [0; 3] }
    }

    /// Its place, its state and the payload behind it; `None` where it is none that [`ReplyHead::new`] makes.
    ///
    /// ```
    /// # use busway_wire::{ReplyHead, ReplyState};
    /// let mut reply = ReplyHead::new(3, ReplyState::Last).to_bytes().to_vec();
    /// reply.extend(b"42");
    /// assert_eq!(ReplyHead::split(&reply), Some((3, ReplyState::Last, &b"42"[..])));
    /// reply[4] = 5;
    /// assert_eq!(ReplyHead::split(&reply), None);
    /// ```
    #[must_use]
    pub fn split(bytes: &[u8]) -> Option<(u32, ReplyState, &[u8])> {
        let (head, payload) = ReplyHead::read_from_prefix(bytes).ok()?;
        let state = *ReplyState::ALL.get(usize::from(head.state))?;
        (head.reserved == [0; 3]).then_some((head.index.get(), state, payload))
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes.copy_from_slice(self.as_bytes());
        bytes
    }
}

const _: () = assert!(size_of::<RequestHead>() == HEAD_BYTES && size_of::<ReplyHead>() == HEAD_BYTES);
