//! What two hosts say to each other about work that they share, and about requests.
//!
//! These words travel as messages of one source on each way of a link, on a topic that no user has, so that they come whole, in order and
//! once, over any number of connections. A host says for which groups its programs pull and how much they are ready for; the other takes
//! so much from its pushers, in the name of the group, and is told what became of it. A request is work whose group is that of the responders.
//!
//! A body is a word in postcard, and behind it a payload where the word has one. The correlation of the message is the source of the words of
//! the host that is spoken to: what was said to an earlier source of it means nothing to this one.
//!
//! A host may have two such sources: words that are large go by the second, in pieces, so that no small one waits behind them.
//!
//! It does not know who may say what, nor what follows.
//!
//! Invariant: a word has one encoding. `decode` accepts no bytes but those that `encode` makes of its result.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::error::{DecodeError, FrameFault};
use crate::extension::{Extensions, Part};
use crate::group::Group;
use crate::header::Kind;
use crate::ids::PortId;
use crate::pattern::Pattern;
use crate::topic::Topic;

/// The topic of these words.
const WORK: &str = "$work";
/// The topic of those that are large.
const LARGE: &str = "$work.large";
/// The highest bit of a number.
const HIGHEST: u64 = 1 << 63;

/// The topic of the messages in which these words travel.
///
/// ```
/// assert!(busway_wire::work::topic().is_reserved());
/// ```
#[must_use]
pub fn topic() -> Topic {
    Topic::reserved(WORK).expect("it is in the grammar")
}

/// The topic of the messages in which the pieces of large words travel, to who wants it.
///
/// ```
/// assert_ne!(busway_wire::work::topic_of_large(), busway_wire::work::topic());
/// ```
#[must_use]
pub fn topic_of_large() -> Topic {
    Topic::reserved(LARGE).expect("it is in the grammar")
}

/// The source of the large words of who says the others by this one: so both hosts know which two belong together.
///
/// ```
/// use busway_wire::{PortId, work::large_of};
/// assert_eq!(large_of(large_of(PortId(7))), PortId(7));
/// ```
#[must_use]
pub const fn large_of(source: PortId) -> PortId {
    PortId(source.0 ^ HIGHEST)
}

/// The number of a task whose words go by the source of the large ones; without that it is the number of another.
///
/// ```
/// use busway_wire::work::{is_of_large, number_of_large};
/// assert!(is_of_large(number_of_large(7)) && !is_of_large(7));
/// ```
#[must_use]
pub const fn number_of_large(task: u64) -> u64 {
    task | HIGHEST
}

/// Whether the words of a task go by the source of the large ones.
#[must_use]
pub const fn is_of_large(task: u64) -> bool {
    task & HIGHEST != 0
}

/// Which part of a word a message of the large source bears. It stands in the header where others have their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// It is the first of its word.
    pub begins: bool,
    /// Bytes of the word behind it.
    pub missing: u64,
}

impl Piece {
    /// All of a word.
    pub const WHOLE: Piece = Piece { begins: true, missing: 0 };

    /// As it stands in a header.
    ///
    /// ```
    /// use busway_wire::work::Piece;
    /// let piece = Piece { begins: true, missing: 70_000 };
    /// assert_eq!(Piece::from_bits(piece.to_bits()), piece);
    /// ```
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.missing & !HIGHEST) | if self.begins { HIGHEST } else { 0 }
    }

    /// What stands in a header.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Piece {
        Piece { begins: bits & HIGHEST != 0, missing: bits & !HIGHEST }
    }
}

/// What became of work that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It was handled.
    Done,
    /// It is lost.
    Lost(Cause),
    /// Nobody there has it. It was given to pullers so often, those before it came included.
    Back {
        /// How often.
        attempt: u8,
    },
    /// It may not be pushed there by who gave it: it counts as not given.
    Denied,
}

/// One thing that is said. The order of the variants is the format: a new one goes to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Programs of the sender's host pull. Said again, what was denied may be given again.
    Pull {
        /// The sender's number for it.
        pull: u32,
        /// The topics.
        pattern: Pattern,
        /// For which group.
        group: Group,
    },
    /// They no longer do.
    Unpull {
        /// The number.
        pull: u32,
    },
    /// So many tasks may be given, since the beginning; it says all.
    Grant {
        /// For which pull.
        pull: u32,
        /// How many.
        tasks: u64,
    },
    /// A task, or a request, for that pull. The payload follows.
    Task {
        /// For which pull.
        pull: u32,
        /// The sender's number for it.
        task: u64,
        /// Its topic.
        topic: Topic,
        /// Who pushed it.
        source: PortId,
        /// Its sequence there.
        sequence: u64,
        /// How often it was given to a puller before.
        attempt: u8,
        /// The codec of its payload, as in a header's flags.
        flags: u8,
        /// Of a request: for how long somebody waits, in nanoseconds; of a task 0.
        left_ns: u64,
        /// Bytes of extensions before the payload, divided by 8.
        extensions: u8,
    },
    /// That task is not the receiver's any more: nobody waits for that request, or it is given to another. In the place of a task that has
    /// not been said it is one that came and is over.
    Cancel {
        /// For which pull it was.
        pull: u32,
        /// The number.
        task: u64,
    },
    /// A task is over.
    Over {
        /// The receiver's number for it.
        task: u64,
        /// What became of it.
        end: End,
    },
    /// A reply to a request. The payload follows.
    Reply {
        /// The receiver's number for the request.
        task: u64,
        /// The place of the reply among all to it.
        index: u32,
        /// The number of a [`ReplyState`](crate::ReplyState).
        state: u8,
        /// Bytes of extensions before the payload, divided by 8.
        extensions: u8,
    },
}

/// What follows a task or a reply: extensions, and payload. Where there are not so many bytes all are payload; extensions that are
/// malformed, or say that it is a part of something, are left away.
///
/// ```
/// use busway_wire::work::parted;
/// assert_eq!(parted(0, b"payload"), (&b""[..], &b"payload"[..]));
/// assert_eq!(parted(1, b"garbage!payload"), (&b""[..], &b"payload"[..]));
/// ```
#[must_use]
pub fn parted(extensions: u8, following: &[u8]) -> (&[u8], &[u8]) {
    let size = usize::from(extensions) * 8;
    let (extensions, payload) = following.split_at_checked(size).unwrap_or((&[], following));
    let whole = matches!(Part::of(Extensions::new(extensions)), Ok(None));
    let sound = whole && Extensions::check(extensions).is_ok();
    (if sound { extensions } else { &[] }, payload)
}

/// Replaces `out` by the body of a message that says this.
pub fn encode(word: &Word, payload: &[u8], out: &mut Vec<u8>) {
    out.clear();
    *out = postcard::to_extend(word, core::mem::take(out))
        .expect("a vector takes any number of bytes, and no field has an unknown length");
    out.extend_from_slice(payload);
}

/// Reads a body: what it says, and the payload behind it.
///
/// ```
/// use busway_wire::work::{Word, decode, encode};
/// let mut body = Vec::new();
/// encode(&Word::Grant { pull: 3, tasks: 7 }, b"", &mut body);
/// assert_eq!(decode(&body), Ok((Word::Grant { pull: 3, tasks: 7 }, &b""[..])));
/// assert!(decode(&body[..1]).is_err());
/// ```
///
/// # Errors
/// Bytes that are no word, a second encoding of one, or a payload behind one that has none.
pub fn decode(body: &[u8]) -> Result<(Word, &[u8]), DecodeError> {
    let fault = |fault| DecodeError::Frame { kind: Kind::Publish, fault };
    let (word, payload) = postcard::take_from_bytes::<Word>(body).map_err(|_| fault(FrameFault::Body))?;
    let mut again = Vec::new();
    encode(&word, &[], &mut again);
    if body.get(..again.len()) != Some(&again) {
        return Err(fault(FrameFault::NotCanonical));
    }
    let has_payload = matches!(word, Word::Task { .. } | Word::Reply { .. });
    if !has_payload && !payload.is_empty() {
        return Err(fault(FrameFault::Trailing { size: payload.len() }));
    }
    Ok((word, payload))
}
