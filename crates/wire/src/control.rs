//! Control messages: how a process, the rendezvous and other processes find each other.
//!
//! Each is one datagram: the header, then the body in postcard. Descriptors travel beside it, not in it. A
//! registration is one idempotent message, so that it can be said again to the next holder. This file knows the
//! bytes and their bounds; who may say what, and what follows, is decided where it is received.
//!
//! Invariant: a message has one encoding. `decode` accepts no bytes but those `encode` makes of its result.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{DecodeError, EncodeError};
use crate::group::Group;
use crate::header::{HEADER_SIZE, Header, Kind};
use crate::ids::{Generation, PortId, ProcessId, RingIndex, RowIndex, SeatIndex};
use crate::limits::{CONTROL_BYTES_MAX, MATCHED_MAX, REASON_BYTES_MAX};
use crate::name::{self, NameError, NameFault};
use crate::pattern::Pattern;
use crate::policy::Policy;
use crate::topic::Topic;

/// A message of the control plane. The order of the variants is the format: a new one goes to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Member to holder, first of all. Descriptors: its arena, its bulk arena.
    Hello {
        /// The hash of the layout of everything in shared memory.
        layout_hash: u64,
        /// The member.
        process: ProcessId,
        /// Its pid as it sees it itself; the holder compares it with the kernel's where it can.
        pid: u32,
        /// Its name, for people.
        name: String,
        /// Whether a missing beat is to be reported.
        monitored: bool,
    },
    /// Holder to member: it is in. Descriptors: the domain's segment.
    Welcome {
        /// The holder.
        process: ProcessId,
        /// Its pid.
        pid: u32,
        /// Its name, for people.
        name: String,
        /// The domain's budget.
        budget_bytes: u64,
    },
    /// Holder to member: it is not in, and the connection ends.
    Refused {
        /// The number of the error, `BUS-nnnn`.
        code: u16,
        /// What is wrong, for people.
        reason: String,
    },
    /// Member to holder: it publishes. Answered by `Published`.
    Publish {
        /// The publisher.
        port: PortId,
        /// Its topic.
        topic: Topic,
        /// Where its ring lies in the member's arena.
        ring: RingIndex,
        /// The ring's generation.
        generation: Generation,
        /// When it was opened, in nanoseconds of the host's monotonic clock.
        created_ns: u64,
        /// The messages come from another host: nobody carries them on to a third.
        relay: bool,
    },
    /// Member to holder: it no longer publishes.
    Unpublish {
        /// The publisher.
        port: PortId,
    },
    /// Holder to member: who gets what it publishes.
    Published {
        /// The publisher.
        port: PortId,
        /// The processes with a matching subscription, one entry a subscription; at most `MATCHED_MAX`.
        #[serde(deserialize_with = "deserialize_matched")]
        matched: Vec<ProcessId>,
    },
    /// Member to holder: it subscribes. Answered by one `RingAdded` a publisher, then `Subscribed`.
    Subscribe {
        /// The subscription.
        port: PortId,
        /// What it asks for.
        pattern: Pattern,
        /// What is to happen when it is slow.
        policy: Policy,
        /// When it was opened, in nanoseconds of the host's monotonic clock.
        created_ns: u64,
        /// It asks on behalf of another host: relays do not match it, and no watcher is told of it.
        export: bool,
    },
    /// Member to holder: it no longer subscribes.
    Unsubscribe {
        /// The subscription.
        port: PortId,
    },
    /// Holder to member: it was told about all publishers that are known.
    Subscribed {
        /// The subscription.
        port: PortId,
        /// How many publishers there are.
        publishers: u32,
    },
    /// Holder to member: a publisher matches. Descriptors: arena and bulk arena of the publisher's process,
    /// if this member has not had them on this connection.
    RingAdded {
        /// The subscription that it matches.
        subscription: PortId,
        /// The publisher's process.
        process: ProcessId,
        /// The publisher.
        port: PortId,
        /// Its topic.
        topic: Topic,
        /// Where its ring lies.
        ring: RingIndex,
        /// The ring's generation.
        generation: Generation,
        /// When the publisher was opened.
        created_ns: u64,
        /// Whether the publisher was there before the subscription: then it begins with the present.
        ring_is_older: bool,
    },
    /// Subscriber to holder to publisher: look at this row from now on. Descriptors, on the second way: those of
    /// the subscriber's process, if that member has not had them on this connection.
    Attach {
        /// The publisher's process.
        publisher: ProcessId,
        /// The ring.
        ring: RingIndex,
        /// The ring's generation.
        generation: Generation,
        /// The subscriber's process.
        subscriber: ProcessId,
        /// The subscription.
        subscription: PortId,
        /// The row in the subscriber's arena.
        row: RowIndex,
        /// The row's generation.
        row_generation: Generation,
        /// What is to happen when the row is slow.
        policy: Policy,
    },
    /// Publisher to holder to subscriber: the row has a seat.
    Attached {
        /// The publisher's process.
        publisher: ProcessId,
        /// The ring.
        ring: RingIndex,
        /// The ring's generation.
        generation: Generation,
        /// The subscriber's process.
        subscriber: ProcessId,
        /// The row.
        row: RowIndex,
        /// The row's generation.
        row_generation: Generation,
        /// Its seat at the ring.
        seat: SeatIndex,
    },
    /// Publisher to holder to subscriber: the row gets no seat.
    AttachRefused {
        /// The publisher's process.
        publisher: ProcessId,
        /// The ring.
        ring: RingIndex,
        /// The ring's generation.
        generation: Generation,
        /// The subscriber's process.
        subscriber: ProcessId,
        /// The row.
        row: RowIndex,
        /// The row's generation.
        row_generation: Generation,
        /// Why, for people.
        reason: String,
    },
    /// Holder to all that were told of it: the process has died or left.
    Gone {
        /// The process.
        process: ProcessId,
    },
    /// Member to holder: name all members. Answered by one `Member` each with its `Unmatched` behind it, then
    /// `InspectEnd`.
    Inspect {},
    /// Holder to member: one member. Descriptors: its arena, its bulk arena.
    Member {
        /// The member.
        process: ProcessId,
        /// Its pid.
        pid: u32,
        /// Its name, for people.
        name: String,
    },
    /// Holder to member: all members have been named.
    InspectEnd {},
    /// Member to holder: hand the role over to me.
    HandOver {},
    /// Holder to members: this member is the next holder; connect again.
    Moving {
        /// The next holder.
        to: ProcessId,
    },
    /// Member to holder: it leaves, and all that it registered with it.
    Goodbye {},
    /// Holder to member: a subscription of the process for which no publisher was found.
    Unmatched {
        /// The subscriber's process.
        process: ProcessId,
        /// The subscription.
        port: PortId,
        /// What it asks for.
        pattern: Pattern,
        /// What is to happen when it is slow.
        policy: Policy,
    },
    /// Member to holder: tell me what is subscribed to on this host, now and later. Answered by one `Wanted` each,
    /// then `WatchEnd`; then by every change.
    Watch {},
    /// Holder to member that watches: somebody subscribes.
    Wanted {
        /// The subscriber's process.
        process: ProcessId,
        /// The subscription.
        port: PortId,
        /// What it asks for.
        pattern: Pattern,
        /// What is to happen when it is slow.
        policy: Policy,
    },
    /// Holder to member that watches: a subscription of which it was told is gone.
    Unwanted {
        /// The subscriber's process.
        process: ProcessId,
        /// The subscription.
        port: PortId,
    },
    /// Holder to member that watches: all subscriptions have been named; what was not is gone.
    WatchEnd {},
    /// Member to holder: it publishes for groups: `Pull` matches it, and `Subscribe` does not. Answered by `Published`; ends
    /// with `Unpublish`.
    Push {
        /// The pusher.
        port: PortId,
        /// Its topic.
        topic: Topic,
        /// Where its ring lies in the member's arena.
        ring: RingIndex,
        /// The ring's generation.
        generation: Generation,
        /// When it was opened, in nanoseconds of the host's monotonic clock.
        created_ns: u64,
        /// The messages come from another host and are for this group alone: nobody carries them on to a third.
        only: Option<Topic>,
    },
    /// Member to holder: it pulls for a group. Answered as `Subscribe`; ends with `Unsubscribe`.
    Pull {
        /// The subscription.
        port: PortId,
        /// What it asks for.
        pattern: Pattern,
        /// For which group.
        group: Group,
        /// When it was opened, in nanoseconds of the host's monotonic clock.
        created_ns: u64,
        /// It pulls on behalf of another host: what came from one does not match it, and no watcher is told of it.
        export: bool,
    },
    /// Puller to holder to pusher: take this row into its group. Descriptors as with `Attach`; refused by `AttachRefused`.
    Join {
        /// The pusher's process.
        publisher: ProcessId,
        /// The ring.
        ring: RingIndex,
        /// The ring's generation.
        generation: Generation,
        /// The puller's process.
        subscriber: ProcessId,
        /// The subscription.
        subscription: PortId,
        /// The row in the puller's arena.
        row: RowIndex,
        /// The row's generation.
        row_generation: Generation,
        /// Its group.
        group: Group,
    },
    /// Pusher to holder to puller: the row has a seat, and claims for its group. Descriptor: the pusher's claims file.
    Joined {
        /// The pusher's process.
        publisher: ProcessId,
        /// The ring.
        ring: RingIndex,
        /// The ring's generation.
        generation: Generation,
        /// The puller's process.
        subscriber: ProcessId,
        /// The row.
        row: RowIndex,
        /// The row's generation.
        row_generation: Generation,
        /// Its seat at the ring.
        seat: SeatIndex,
        /// Where in the claims file the group's run lies.
        offset: u64,
        /// The claim words of the run.
        slots: u32,
        /// As whom the row claims.
        owner: u16,
    },
    /// Holder to member that watches: somebody pulls. Ends with `Unwanted`.
    Pulled {
        /// The puller's process.
        process: ProcessId,
        /// The subscription.
        port: PortId,
        /// What it asks for.
        pattern: Pattern,
        /// For which group.
        group: Group,
    },
}

macro_rules! control_kinds {
    ($($name:ident),+ $(,)?) => {
        /// Which control message: the number at the beginning of a body.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ControlKind {
            $(#[doc = concat!("[`Control::", stringify!($name), "`].")] $name),+
        }

        impl ControlKind {
            /// Every control message, in order of its number.
            pub const ALL: [ControlKind; Control::COUNT] = [$(ControlKind::$name),+];

            /// The name in FORMAT.md and in logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(ControlKind::$name => stringify!($name)),+
                }
            }
        }

        impl Control {
            /// How many control messages there are.
            pub const COUNT: usize = [$(stringify!($name)),+].len();

            /// Which message this is.
            #[must_use]
            pub const fn kind(&self) -> ControlKind {
                match self {
                    $(Control::$name { .. } => ControlKind::$name),+
                }
            }
        }
    };
}

// The same order as in `Control`; `tests/golden.rs` holds the number of each.
control_kinds!(
    Hello,
    Welcome,
    Refused,
    Publish,
    Unpublish,
    Published,
    Subscribe,
    Unsubscribe,
    Subscribed,
    RingAdded,
    Attach,
    Attached,
    AttachRefused,
    Gone,
    Inspect,
    Member,
    InspectEnd,
    HandOver,
    Moving,
    Goodbye,
    Unmatched,
    Watch,
    Wanted,
    Unwanted,
    WatchEnd,
    Push,
    Pull,
    Join,
    Joined,
    Pulled,
);

impl ControlKind {
    /// The number at the beginning of a body.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for ControlKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Control {
    /// Makes a reason fit to be sent: control characters become spaces, and what is too long is cut off.
    #[must_use]
    pub fn reason(text: &str) -> String {
        name::printable(text, REASON_BYTES_MAX)
    }

    /// Refuses a `Hello` whose sender lays out shared memory in another way; every other message passes.
    ///
    /// # Errors
    /// [`DecodeError::Layout`] with both hashes.
    pub const fn check_layout(&self, ours: u64) -> Result<(), DecodeError> {
        match *self {
            Control::Hello { layout_hash: theirs, .. } if theirs != ours => {
                Err(DecodeError::Layout { theirs, ours })
            }
            _ => Ok(()),
        }
    }

    /// The bounds that the types alone do not hold.
    fn check_texts(&self) -> Result<(), NameError> {
        match self {
            Control::Hello { name, .. } | Control::Welcome { name, .. } | Control::Member { name, .. } => {
                name::check_process_name(name)
            }
            Control::Refused { reason, .. } | Control::AttachRefused { reason, .. } => {
                let size = reason.len();
                if size > REASON_BYTES_MAX {
                    let fault = NameFault::TooLong { size, size_max: REASON_BYTES_MAX };
                    return Err(NameError::new(REASON_BYTES_MAX, fault));
                }
                name::check_printable(reason)
            }
            _ => Ok(()),
        }
    }
}

/// Replaces `out` by the datagram of this message.
///
/// # Errors
/// When a text, a depth or a list is out of its bounds; `out` is then empty.
pub fn encode(control: &Control, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.clear();
    control.check_texts().map_err(|error| EncodeError::Text { error })?;
    if let Control::Published { matched, .. } = control
        && matched.len() > MATCHED_MAX
    {
        return Err(EncodeError::Matched { count: matched.len() });
    }
    if let Control::Subscribe { policy, .. }
    | Control::Attach { policy, .. }
    | Control::Wanted { policy, .. }
    | Control::Unmatched { policy, .. } = control
    {
        policy.checked().map_err(|error| EncodeError::Policy { error })?;
    }
    out.resize(HEADER_SIZE, 0);
    *out = postcard::to_extend(control, core::mem::take(out))
        .expect("a vector takes any number of bytes, and no field has an unknown length");
    // The relations in `limits.rs` make it impossible; a datagram that nobody accepts would be hard to find.
    assert!(out.len() <= CONTROL_BYTES_MAX, "control message {} is larger than its bound", control.kind());
    let mut header = Header::new(Kind::Control);
    let (head, body) = out.split_at_mut(HEADER_SIZE);
    header.seal(body)?;
    head.copy_from_slice(header.bytes());
    Ok(())
}

/// Reads one datagram.
///
/// # Errors
/// The first thing that is wrong: size, header, version, body, or a second way of saying the same.
pub fn decode(datagram: &[u8]) -> Result<Control, DecodeError> {
    if datagram.len() > CONTROL_BYTES_MAX {
        let size = datagram.len() as u64;
        return Err(DecodeError::TooLarge { size, size_max: CONTROL_BYTES_MAX as u64 });
    }
    let header = Header::validate(datagram)?;
    check_header(&header)?;
    let body = header.payload(datagram);
    let number = body.first().copied().unwrap_or(u8::MAX);
    let Some(kind) = ControlKind::ALL.get(usize::from(number)).copied() else {
        return Err(DecodeError::ControlUnknown { number });
    };
    let (control, rest) =
        postcard::take_from_bytes::<Control>(body).map_err(|_| DecodeError::Body { kind })?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { kind, size: rest.len() });
    }
    control.check_texts().map_err(|error| DecodeError::Text { kind, error })?;
    // Postcard takes a number in more bytes than it needs. Two encodings of one message would make a recording
    // or a comparison of messages lie, so what does not come out as it went in is refused.
    let canonical = postcard::to_allocvec(&control)
        .expect("a vector takes any number of bytes, and no field has an unknown length");
    if canonical != body {
        return Err(DecodeError::NotCanonical { kind });
    }
    Ok(control)
}

/// The header of a control message says nothing but kind, version and size.
fn check_header(header: &Header) -> Result<(), DecodeError> {
    if header.kind() != Some(Kind::Control) {
        return Err(DecodeError::Kind { kind: header.kind });
    }
    // Above all not "unsealed": it would switch off the checksum of the body.
    if header.flags != 0 {
        return Err(DecodeError::Flags { flags: header.flags });
    }
    match header.first_field_in_use() {
        Some(offset) => Err(DecodeError::Reserved { offset }),
        None => Ok(()),
    }
}

/// Reads a list without believing its length: memory grows with what really comes.
fn deserialize_matched<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ProcessId>, D::Error> {
    struct Matched;

    impl<'de> Visitor<'de> for Matched {
        type Value = Vec<ProcessId>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MATCHED_MAX} processes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<ProcessId>, A::Error> {
            let mut matched = Vec::new();
            while let Some(process) = sequence.next_element()? {
                if matched.len() == MATCHED_MAX {
                    return Err(serde::de::Error::invalid_length(MATCHED_MAX + 1, &self));
                }
                matched.push(process);
            }
            Ok(matched)
        }
    }

    deserializer.deserialize_seq(Matched)
}
