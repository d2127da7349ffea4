//! Link frames: what two hosts say to each other beside the messages themselves.
//!
//! Each is a header of its own kind and a body in postcard. A hello and a refusal are seeded with 0 and name the
//! cluster, so that a stranger can be told why it is one; all others carry the cluster's seed. This file knows the
//! bytes and their bounds; who may say what, and when, is decided by the protocol.
//!
//! Invariant: a frame has one encoding. `decode` accepts no bytes but those `encode` makes of its result.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::cause::Cause;
use crate::error::{DecodeError, EncodeError, FrameFault};
use crate::header::{HEADER_SIZE, Header, Kind, Seed};
use crate::ids::PortId;
use crate::limits::{
    LINK_FRAME_BYTES_MAX, LINK_INTEREST_ENTRIES_MAX, LINK_TOKEN_BYTES_MAX, PROCESS_NAME_BYTES_MAX,
    REASON_BYTES_MAX,
};
use crate::name::{self, NameError, NameFault};
use crate::pattern::Pattern;
use crate::topic::Topic;

/// Who is at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Identity {
    /// A node of the cluster, by its index.
    Node {
        /// From 0.
        index: u8,
    },
    /// A client, by 64 bits of its own choice.
    Client {
        /// Chosen by the client, the same at each start.
        id: u64,
    },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Node { index } => write!(f, "node {index}"),
            Identity::Client { id } => write!(f, "client {id:016x}"),
        }
    }
}

/// The first frame of each side: who it is and what it takes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster that the sender belongs to.
    pub cluster: u64,
    /// Who the sender says it is.
    pub identity: Identity,
    /// 64 random bits a start: a peer that was started again has forgotten all it knew.
    pub instance: u64,
    /// The sender's name, for people; at most 64 bytes.
    pub name: String,
    /// The largest message that it takes, in bytes of payload.
    pub message_bytes_max: u32,
    /// Messages that may be under way to it, until a credit says more.
    pub credit_messages: u64,
    /// Bytes that may be under way to it, until a credit says more.
    pub credit_bytes: u64,
    /// Messages of one source that may be under way to it.
    pub window_messages: u32,
    /// Bytes of one source that may be under way to it.
    pub window_bytes: u64,
    /// What shows that it is who it says; empty without. At most 1 024 bytes.
    #[serde(deserialize_with = "at_most::<LINK_TOKEN_BYTES_MAX, _, _>")]
    pub token: Vec<u8>,
    /// What the sender can do that not everybody can, see [`Features`]; unknown bits are ignored.
    pub features: u64,
}

/// What a side of a link can do that not everybody can: the bits of [`Hello::features`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features;

impl Features {
    /// It takes runs. Who does not say so gets each message by itself.
    pub const RUNS: u64 = 1;
    /// All that this version can.
    pub const OURS: u64 = Features::RUNS;
}

/// Without the token, which belongs into no log.
impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("cluster", &self.cluster)
            .field("identity", &self.identity)
            .field("instance", &self.instance)
            .field("name", &self.name)
            .field("message_bytes_max", &self.message_bytes_max)
            .field("credit_messages", &self.credit_messages)
            .field("credit_bytes", &self.credit_bytes)
            .field("window_messages", &self.window_messages)
            .field("window_bytes", &self.window_bytes)
            .field("token", &format_args!("({} bytes)", self.token.len()))
            .field("features", &self.features)
            .finish()
    }
}

/// Why a link is refused or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum RefusalCode {
    /// Another version of the format.
    Version = 0,
    /// Another cluster.
    Cluster = 1,
    /// Not who was expected, or not a member.
    Identity = 2,
    /// The certificate or token is missing, wrong or expired.
    Credentials = 3,
    /// No room for another link.
    Full = 4,
    /// The host is going down.
    Draining = 5,
    /// A newer link of the same peer has taken its place.
    Duplicate = 6,
    /// Something was said that cannot be said there.
    Protocol = 7,
    /// Something was not said in time.
    Timeout = 8,
}

impl RefusalCode {
    /// Every code, in order of its number.
    pub const ALL: [RefusalCode; 9] = [
        RefusalCode::Version,
        RefusalCode::Cluster,
        RefusalCode::Identity,
        RefusalCode::Credentials,
        RefusalCode::Full,
        RefusalCode::Draining,
        RefusalCode::Duplicate,
        RefusalCode::Protocol,
        RefusalCode::Timeout,
    ];

    /// The number in a body.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in FORMAT.md, counters and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RefusalCode::Version => "version",
            RefusalCode::Cluster => "cluster",
            RefusalCode::Identity => "identity",
            RefusalCode::Credentials => "credentials",
            RefusalCode::Full => "full",
            RefusalCode::Draining => "draining",
            RefusalCode::Duplicate => "duplicate",
            RefusalCode::Protocol => "protocol",
            RefusalCode::Timeout => "timeout",
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The last frame of a link that is refused. Its encoding is the same in every version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why, for programs.
    pub code: RefusalCode,
    /// Why, for people; at most 1 024 bytes.
    pub reason: String,
    /// How long to wait before the next attempt, in milliseconds; 0: as usual.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// A refusal whose reason is made fit to be sent.
    #[must_use]
    pub fn new(code: RefusalCode, reason: &str, retry_after_ms: u32) -> Refusal {
        Refusal { code, reason: reason_of(reason), retry_after_ms }
    }
}

/// One pattern that the sender wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The sender's number for it, by which it is taken back.
    pub id: u32,
    /// The topics.
    pub pattern: Pattern,
    /// Whether the publisher is to wait for the sender.
    pub reliable: bool,
}

/// What the sender wants of the receiver's topics, from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// Patterns that are new, or new on this link.
    #[serde(deserialize_with = "at_most::<LINK_INTEREST_ENTRIES_MAX, _, _>")]
    pub add: Vec<Wanted>,
    /// Numbers of patterns that are no longer wanted.
    #[serde(deserialize_with = "at_most::<LINK_INTEREST_ENTRIES_MAX, _, _>")]
    pub remove: Vec<u32>,
    /// Whether all that is wanted has now been said on this link; what was not, is no longer wanted.
    pub complete: bool,
}

/// A source that matches what the receiver wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// The publisher's port.
    pub source: PortId,
    /// Its topic.
    pub topic: Topic,
    /// The publisher's name, for people.
    pub publisher: String,
    /// Its process's name, for people.
    pub process: String,
    /// Its host's name, for people.
    pub host: String,
    /// When it was opened, in nanoseconds of its host's monotonic clock.
    pub created_ns: u64,
    /// Whether it waits for the receiver.
    pub reliable: bool,
    /// Whether the sender has announced it before and still keeps what became of that: then the receiver's
    /// progress counts. If not, and the receiver has seen its end, it begins anew.
    pub resumes: bool,
}

/// The end of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retire {
    /// The source.
    pub source: PortId,
    /// No message after this one will come.
    pub last: u64,
}

/// How far a source has arrived. The first answers an announcement, the others acknowledge; each says all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// The source.
    pub source: PortId,
    /// All up to this one have come or were told as lost; `None` if nothing is known of the source.
    pub passed: Option<u64>,
    /// Messages beyond `passed` that may be under way.
    pub window_messages: u32,
    /// Bytes beyond `passed` that may be under way; a larger message goes alone.
    pub window_bytes: u64,
}

/// How much may be sent on this link since its beginning; each says all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Messages of all sources.
    pub messages: u64,
    /// Bytes of all sources.
    pub bytes: u64,
    /// Messages that have arrived on this link.
    pub received: u64,
}

/// Messages of a source that will never come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The source.
    pub source: PortId,
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// Why.
    pub cause: Cause,
    /// On which link they were lost, for people; empty if before any.
    pub link: String,
}

/// A source that was announced and is not taken: nothing of it is wanted on this link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deny {
    /// The source.
    pub source: PortId,
    /// Why.
    pub cause: Cause,
}

/// A frame of a link that is no user's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first frame of each side.
    Hello(Hello),
    /// The last frame of a link that is refused.
    Refusal(Refusal),
    /// What the sender wants.
    Interest(Interest),
    /// A source that matches.
    Announce(Announce),
    /// The end of a source.
    Retire(Retire),
    /// How far a source has arrived.
    Accept(Accept),
    /// How much may be sent.
    Credit(Credit),
    /// Messages that will never come.
    Gap(Gap),
    /// Is the other side there?
    Ping {
        /// Comes back unchanged.
        stamp: u64,
    },
    /// It is.
    Pong {
        /// Of the ping.
        stamp: u64,
    },
    /// The last frame of a link that ends in order.
    Goodbye {
        /// Why, for people; at most 1 024 bytes.
        reason: String,
    },
    /// A source that is not taken.
    Deny(Deny),
}

impl Frame {
    /// The kind in the header.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Frame::Hello(_) => Kind::Hello,
            Frame::Refusal(_) => Kind::Refusal,
            Frame::Interest(_) => Kind::Interest,
            Frame::Announce(_) => Kind::Announce,
            Frame::Retire(_) => Kind::Retire,
            Frame::Accept(_) => Kind::Accept,
            Frame::Credit(_) => Kind::Credit,
            Frame::Gap(_) => Kind::Gap,
            Frame::Ping { .. } => Kind::Ping,
            Frame::Pong { .. } => Kind::Pong,
            Frame::Goodbye { .. } => Kind::Goodbye,
            Frame::Deny(_) => Kind::Deny,
        }
    }

    /// The bounds that the types alone do not hold.
    fn check(&self) -> Result<(), FrameFault> {
        match self {
            Frame::Hello(hello) => {
                if hello.token.len() > LINK_TOKEN_BYTES_MAX {
                    return Err(FrameFault::Field("token"));
                }
                if hello.credit_messages == 0 || hello.window_messages == 0 {
                    return Err(FrameFault::Field("credit"));
                }
                check_text(&hello.name, PROCESS_NAME_BYTES_MAX)
            }
            Frame::Refusal(refusal) => check_text(&refusal.reason, REASON_BYTES_MAX),
            Frame::Interest(interest) => {
                let count = interest.add.len().saturating_add(interest.remove.len());
                if count > LINK_INTEREST_ENTRIES_MAX { Err(FrameFault::Field("add")) } else { Ok(()) }
            }
            Frame::Announce(announce) => {
                check_text(&announce.publisher, PROCESS_NAME_BYTES_MAX)?;
                check_text(&announce.process, PROCESS_NAME_BYTES_MAX)?;
                check_text(&announce.host, PROCESS_NAME_BYTES_MAX)
            }
            Frame::Accept(accept) => {
                if accept.window_messages == 0 {
                    Err(FrameFault::Field("window_messages"))
                } else {
                    Ok(())
                }
            }
            Frame::Gap(gap) => {
                if gap.from == 0 || gap.from > gap.to {
                    return Err(FrameFault::Field("from"));
                }
                check_text(&gap.link, PROCESS_NAME_BYTES_MAX)
            }
            Frame::Goodbye { reason } => check_text(reason, REASON_BYTES_MAX),
            Frame::Retire(_)
            | Frame::Credit(_)
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Deny(_) => Ok(()),
        }
    }
}

/// The seed of frames of this kind: a stranger must be able to read a hello and a refusal.
#[must_use]
pub const fn seed_of(kind: Kind, cluster: Seed) -> Seed {
    match kind {
        Kind::Hello | Kind::Refusal => Seed::LOCAL,
        Kind::Publish
        | Kind::Request
        | Kind::Reply
        | Kind::Push
        | Kind::Control
        | Kind::Interest
        | Kind::Announce
        | Kind::Retire
        | Kind::Accept
        | Kind::Credit
        | Kind::Gap
        | Kind::Ping
        | Kind::Pong
        | Kind::Goodbye
        | Kind::Deny
        | Kind::Run
        | Kind::Advert
        | Kind::Fetch
        | Kind::Chunk => cluster,
    }
}

/// Makes a reason fit to be sent: control characters become spaces, and what is too long is cut off.
#[must_use]
pub fn reason_of(text: &str) -> String {
    name::printable(text, REASON_BYTES_MAX)
}

/// Makes a name for people fit to be sent, as [`reason_of`].
#[must_use]
pub fn label_of(text: &str) -> String {
    name::printable(text, PROCESS_NAME_BYTES_MAX)
}

/// Appends this frame to `out`.
///
/// # Errors
/// When a text or a list is out of its bounds; `out` is then as it was.
pub fn encode(frame: &Frame, cluster: Seed, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let kind = frame.kind();
    frame.check().map_err(|fault| EncodeError::Frame { kind, fault })?;
    let start = out.len();
    out.resize(start + HEADER_SIZE, 0);
    *out = write_body(frame, core::mem::take(out));
    // The relations in `limits.rs` make it impossible; a frame that nobody accepts would be hard to find.
    assert!(out.len() - start <= LINK_FRAME_BYTES_MAX, "frame {kind} is larger than its bound");
    let mut header = Header::new(kind);
    let (head, body) = out.split_at_mut(start).1.split_at_mut(HEADER_SIZE);
    header.seal_seeded(body, seed_of(kind, cluster))?;
    head.copy_from_slice(header.bytes());
    Ok(())
}

/// Reads the body of a frame whose header and checksums have been checked.
///
/// # Errors
/// The first thing that is wrong: the header, the body, or a second way of saying the same.
pub fn decode(header: &Header, body: &[u8]) -> Result<Frame, DecodeError> {
    let size = HEADER_SIZE.saturating_add(body.len());
    if size > LINK_FRAME_BYTES_MAX {
        return Err(DecodeError::TooLarge { size: size as u64, size_max: LINK_FRAME_BYTES_MAX as u64 });
    }
    let kind = check_header(header)?;
    let frame = match kind {
        Kind::Hello => Frame::Hello(read_body(kind, body)?),
        Kind::Refusal => Frame::Refusal(read_body(kind, body)?),
        Kind::Interest => Frame::Interest(read_body(kind, body)?),
        Kind::Announce => Frame::Announce(read_body(kind, body)?),
        Kind::Retire => Frame::Retire(read_body(kind, body)?),
        Kind::Accept => Frame::Accept(read_body(kind, body)?),
        Kind::Credit => Frame::Credit(read_body(kind, body)?),
        Kind::Gap => Frame::Gap(read_body(kind, body)?),
        Kind::Ping => Frame::Ping { stamp: read_body(kind, body)? },
        Kind::Pong => Frame::Pong { stamp: read_body(kind, body)? },
        Kind::Goodbye => Frame::Goodbye { reason: read_body(kind, body)? },
        Kind::Deny => Frame::Deny(read_body(kind, body)?),
        // Messages are no frames of this sort: a run is read by `Records`.
        Kind::Publish
        | Kind::Request
        | Kind::Reply
        | Kind::Push
        | Kind::Run
        | Kind::Control
        | Kind::Advert
        | Kind::Fetch
        | Kind::Chunk => return Err(DecodeError::Kind { kind: header.kind }),
    };
    frame.check().map_err(|fault| DecodeError::Frame { kind, fault })?;
    // Two encodings of one frame would make a recording or a comparison lie.
    if write_body(&frame, Vec::with_capacity(body.len())) != body {
        return Err(DecodeError::Frame { kind, fault: FrameFault::NotCanonical });
    }
    Ok(frame)
}

/// The header of a frame says nothing but kind, version and size.
fn check_header(header: &Header) -> Result<Kind, DecodeError> {
    let Some(kind) = header.kind() else {
        return Err(DecodeError::Kind { kind: header.kind });
    };
    // Above all not "unsealed": it would switch off the checksum of the body.
    if header.flags != 0 {
        return Err(DecodeError::Flags { flags: header.flags });
    }
    match header.first_field_in_use() {
        Some(offset) => Err(DecodeError::Reserved { offset }),
        None => Ok(kind),
    }
}

fn write_body(frame: &Frame, out: Vec<u8>) -> Vec<u8> {
    match frame {
        Frame::Hello(body) => postcard::to_extend(body, out),
        Frame::Refusal(body) => postcard::to_extend(body, out),
        Frame::Interest(body) => postcard::to_extend(body, out),
        Frame::Announce(body) => postcard::to_extend(body, out),
        Frame::Retire(body) => postcard::to_extend(body, out),
        Frame::Accept(body) => postcard::to_extend(body, out),
        Frame::Credit(body) => postcard::to_extend(body, out),
        Frame::Gap(body) => postcard::to_extend(body, out),
        Frame::Ping { stamp } | Frame::Pong { stamp } => postcard::to_extend(stamp, out),
        Frame::Goodbye { reason } => postcard::to_extend(reason, out),
        Frame::Deny(body) => postcard::to_extend(body, out),
    }
    .expect("a vector takes any number of bytes, and no field has an unknown length")
}

fn read_body<'a, T: Deserialize<'a>>(kind: Kind, body: &'a [u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::Frame { kind, fault: FrameFault::Trailing { size: rest.len() } }),
        Err(_) => Err(DecodeError::Frame { kind, fault: FrameFault::Body }),
    }
}

fn check_text(text: &str, size_max: usize) -> Result<(), FrameFault> {
    let size = text.len();
    if size > size_max {
        let fault = NameFault::TooLong { size, size_max };
        return Err(FrameFault::Text(NameError::new(size_max, fault)));
    }
    name::check_printable(text).map_err(FrameFault::Text)
}
