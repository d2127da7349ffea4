//! What the programs of a host and their node say to each other about artifacts.
//!
//! The node has the artifacts; a program that has no node in its own process asks it by requests of the bus. One request is open as long as the program wants anything: its
//! partial replies are what the program is told, and its end is the end of all that the program had there. All other requests are answered at once, and name it.
//!
//! A body is a word in postcard, and behind some words the bytes of an artifact. It does not know what follows from a word.
//!
//! Invariant: a word has one encoding. `decode_ask` and `decode_tell` accept no bytes but those that `encode` makes of their result, and keep no more memory than a
//! constant times their number.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::gossip::{ArtifactId, Reference};
use crate::limits::{
    ARTIFACT_ATTRIBUTE_BYTES_MAX, HATCH_BYTES_MAX, HATCH_DROPPED, HATCH_LISTED_MAX, HATCH_MISSING_MAX,
    HATCH_WORD_BYTES_MAX,
};
use crate::pattern::Pattern;
use crate::topic::Topic;

/// Where a program begins: what is asked there is *open*.
const TOPIC: &str = "$artifacts";
const TOPIC_ALONE: &str = "$artifacts.alone";

/// The topic on which a program asks for a session.
///
/// ```
/// assert!(busway_wire::hatch::topic().is_reserved());
/// ```
#[must_use]
pub fn topic() -> Topic {
    Topic::reserved(TOPIC).expect("it is in the grammar")
}

/// The same of a node that neither listens nor dials, and has no artifacts but those of its host. There it is asked only where nobody answers on [`topic`].
///
/// ```
/// assert!(busway_wire::hatch::topic_alone().is_reserved());
/// ```
#[must_use]
pub fn topic_alone() -> Topic {
    Topic::reserved(TOPIC_ALONE).expect("it is in the grammar")
}

/// The topic of one node of the host, by a number that it draws: there what has a session is asked.
///
/// ```
/// use busway_wire::hatch::topic_of;
/// assert_eq!(topic_of(17).as_str(), "$artifacts.0000000000000011");
/// ```
#[must_use]
pub fn topic_of(hatch: u64) -> Topic {
    Topic::reserved(&format!("{TOPIC}.{hatch:016x}")).expect("it is in the grammar")
}

/// What a subscriber says of an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Interest {
    /// Not wanted, and not to be asked about again.
    Drop,
    /// Not now.
    Stash,
    /// Wanted, behind all else.
    Later,
    /// Wanted.
    Fetch,
    /// Wanted before all else.
    FetchNow,
}

/// An artifact that is offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Where it stands.
    pub of: Reference,
    /// On which topic.
    pub topic: Topic,
    /// Its name.
    pub id: ArtifactId,
    /// Its bytes.
    pub size: u64,
    /// What its origin says of it beside.
    #[serde(deserialize_with = "at_most::<ARTIFACT_ATTRIBUTE_BYTES_MAX, _, _>")]
    pub attribute: Vec<u8>,
    /// Whether its origin wants to know of each node that it has it.
    pub confirm: bool,
}

/// An artifact of which the node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub advert: Advert,
    /// All of its bytes are at the node.
    pub here: bool,
    /// The node offers it.
    pub own: bool,
}

/// How an offer has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stands {
    /// Each other node has it, or has declined it.
    Reached,
    /// Its time was up.
    Expired {
        /// These nodes have not said that they have it.
        #[serde(deserialize_with = "at_most::<HATCH_MISSING_MAX, _, _>")]
        missing: Vec<u8>,
    },
    /// It was withdrawn.
    Withdrawn,
}

/// What the node has counted of artifacts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Changes of offers that other nodes told.
    pub told: u64,
    /// Of these, those that are known now.
    pub handled: u64,
    /// Of these, those that were known already.
    pub coalesced: u64,
    /// Of these, those that are not kept.
    pub dropped: [u64; HATCH_DROPPED],
    /// Offers that their node may not publish here.
    pub denied: u64,
    /// Changes of its own offers that it told others.
    pub said: u64,
    /// Bytes that came and were wanted.
    pub bytes_useful: u64,
    /// Bytes that came and were not.
    pub bytes_wasted: u64,
    /// Bytes that it gave to others.
    pub bytes_given: u64,
    /// Pieces that were damaged in the store.
    pub damaged: u64,
    /// Times that there was no room in the store.
    pub full: u64,
    /// Bytes of the store that are taken.
    pub stored_bytes: u64,
    /// Artifacts that wait for room.
    pub waiting: u64,
    /// Requests of programs of this host that were refused.
    pub refused: u64,
}

/// What a program asks. The order of the variants is the format: a new one goes to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A session: this request stays open as long as it stands. It alone is asked on [`topic`].
    Open,
    /// The session ends, and what was offered in it and is not kept.
    Close {
        /// Which.
        session: u64,
    },
    /// Something is offered; its bytes follow.
    Offer {
        /// In which session.
        session: u64,
        /// The program's number for it, used once in a session.
        offer: u64,
        /// On which topic.
        topic: Topic,
        /// What is said of it beside.
        #[serde(deserialize_with = "at_most::<ARTIFACT_ATTRIBUTE_BYTES_MAX, _, _>")]
        attribute: Vec<u8>,
        /// It stands until the node ends, whoever offered it.
        keep: bool,
        /// It is to be at all nodes within so many milliseconds.
        reach_all_ms: Option<u64>,
    },
    /// The same of something larger, whose bytes come by *body*.
    Begin {
        /// In which session.
        session: u64,
        /// The program's number for it, used once in a session.
        offer: u64,
        /// On which topic.
        topic: Topic,
        /// What is said of it beside.
        #[serde(deserialize_with = "at_most::<ARTIFACT_ATTRIBUTE_BYTES_MAX, _, _>")]
        attribute: Vec<u8>,
        /// How many bytes it has, where that is known.
        size: Option<u64>,
        /// As of *offer*.
        keep: bool,
        /// As of *offer*.
        reach_all_ms: Option<u64>,
    },
    /// The next of its bytes follow; answered when they were taken.
    Body {
        /// In which session.
        session: u64,
        /// Of which offer.
        offer: u64,
    },
    /// These were all; answered when it is offered.
    Commit {
        /// In which session.
        session: u64,
        /// Of which offer.
        offer: u64,
    },
    /// It is not offered any more.
    Withdraw {
        /// In which session.
        session: u64,
        /// Which.
        offer: u64,
    },
    /// Somebody wants to be told of artifacts.
    Subscribe {
        /// In which session.
        session: u64,
        /// The program's number for it, from 1, used once in a session.
        reader: u64,
        /// On which topics.
        pattern: Pattern,
        /// It says of each advert whether it wants it.
        judges: bool,
        /// It is told how much is here of what comes in pieces.
        progress: bool,
        /// It is told when that begins to come.
        arriving: bool,
        /// It wants this one alone.
        only: Option<ArtifactId>,
    },
    /// It does not any more.
    Unsubscribe {
        /// In which session.
        session: u64,
        /// Who.
        reader: u64,
    },
    /// What it says of an advert.
    Judge {
        /// In which session.
        session: u64,
        /// Who.
        reader: u64,
        /// Of what.
        of: Reference,
        /// What.
        interest: Interest,
    },
    /// It would say something else now.
    Reconsider {
        /// In which session.
        session: u64,
        /// Who.
        reader: u64,
    },
    /// It has taken so much of what it was told: there is room for as much.
    Took {
        /// In which session.
        session: u64,
        /// Who; 0 for ends of offers.
        reader: u64,
        /// So many.
        notes: u32,
        /// With so many bytes of artifacts.
        bytes: u64,
    },
    /// What the node knows of.
    List {
        /// On which topics.
        pattern: Pattern,
        /// Those behind this one.
        after: Option<Reference>,
    },
    /// What it has counted.
    Counts,
    /// What the node offers, whoever offered it, is not offered any more.
    Remove {
        /// In which session.
        session: u64,
        /// Which.
        of: Reference,
    },
    /// Bytes of what is held for the program are wanted.
    Read {
        /// In which session.
        session: u64,
        /// What is held.
        held: u64,
        /// From which byte on.
        offset: u64,
        /// How many at most; no more than `HATCH_BYTES_MAX`.
        size: u32,
    },
    /// They are not wanted any more.
    Release {
        /// In which session.
        session: u64,
        /// What was held.
        held: u64,
    },
}

/// What the node says. The order of the variants is the format: a new one goes to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// It is done.
    Done,
    /// It is not.
    Refused {
        /// The number of the error.
        code: u16,
        /// What happened.
        cause: String,
        /// Where.
        place: String,
        /// What to try.
        remedy: String,
    },
    /// To *open*, as its first part.
    Opened {
        /// The session.
        session: u64,
        /// Of which node: where all else is asked.
        hatch: u64,
    },
    /// To *offer*, when all of its bytes are there.
    Offered {
        /// Where it stands.
        of: Reference,
        /// Its name.
        id: ArtifactId,
    },
    /// To *list*: some of them.
    Listed {
        /// In the order of their references.
        #[serde(deserialize_with = "at_most::<HATCH_LISTED_MAX, _, _>")]
        entries: Vec<Entry>,
        /// There are others behind them.
        more: bool,
    },
    /// To *counts*.
    Counted(Counts),
    /// A part of *open*: a subscriber is to say whether it wants this.
    Asked {
        /// Who.
        reader: u64,
        /// What.
        advert: Advert,
    },
    /// The same: it is given this.
    Received {
        /// Who.
        reader: u64,
        /// What.
        advert: Advert,
        /// Under which number its bytes are held; 0: they follow.
        held: u64,
    },
    /// The same: it begins to come.
    Arriving {
        /// Who.
        reader: u64,
        /// What.
        advert: Advert,
        /// Under which number its bytes are held.
        held: u64,
    },
    /// The same: so much of it is here.
    Progress {
        /// Who.
        reader: u64,
        /// What.
        advert: Advert,
        /// Bytes.
        have: u64,
    },
    /// The same: what it was given is not offered any more.
    Withdrawn {
        /// Who.
        reader: u64,
        /// What.
        advert: Advert,
    },
    /// The same: an offer has ended.
    Ended {
        /// Which.
        offer: u64,
        /// How.
        stands: Stands,
    },
    /// To *read*: the bytes follow; none at the end of the artifact.
    Bytes,
}

/// Why bytes are no word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HatchError {
    /// More bytes than a word may have.
    TooLarge {
        /// How many there are.
        size: usize,
    },
    /// It is cut short, or a name, a number or a list is out of bounds.
    Body,
    /// It says in more bytes what can be said in fewer.
    NotCanonical,
    /// Bytes follow that do not belong to it, or others than it says.
    Following {
        /// How many.
        size: usize,
    },
}

impl fmt::Display for HatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HatchError::TooLarge { size } => {
                write!(f, "a word of {size} bytes, at most {HATCH_WORD_BYTES_MAX} are allowed")
            }
            HatchError::Body => f.write_str("the word is malformed"),
            HatchError::NotCanonical => f.write_str("the word is not in its shortest form"),
            HatchError::Following { size } => write!(f, "{size} bytes behind the word"),
        }
    }
}

impl core::error::Error for HatchError {}

/// What says this, with these bytes behind it.
///
/// ```
/// use busway_wire::hatch::{Ask, decode_ask, encode};
/// let body = encode(&Ask::Close { session: 7 }, b"");
/// assert_eq!(decode_ask(&body), Ok((Ask::Close { session: 7 }, &b""[..])));
/// assert!(decode_ask(&body[..1]).is_err());
/// ```
#[must_use]
pub fn encode<W: Serialize>(word: &W, following: &[u8]) -> Vec<u8> {
    let mut body = postcard::to_extend(word, Vec::new())
        .expect("a vector takes any number of bytes, and no field has an unknown length");
    body.extend_from_slice(following);
    body
}

/// Reads what a program asks, and the bytes behind it.
///
/// # Errors
/// Bytes that are no word, a second encoding of one, or bytes behind one that has none.
pub fn decode_ask(body: &[u8]) -> Result<(Ask, &[u8]), HatchError> {
    let (word, following): (Ask, _) = decode(body)?;
    let sound = match &word {
        Ask::Offer { .. } | Ask::Body { .. } => true,
        Ask::Open
        | Ask::Close { .. }
        | Ask::Withdraw { .. }
        | Ask::Subscribe { .. }
        | Ask::Unsubscribe { .. }
        | Ask::Judge { .. }
        | Ask::Reconsider { .. }
        | Ask::Took { .. }
        | Ask::List { .. }
        | Ask::Counts
        | Ask::Remove { .. }
        | Ask::Begin { .. }
        | Ask::Commit { .. }
        | Ask::Read { .. }
        | Ask::Release { .. } => following.is_empty(),
    };
    if sound { Ok((word, following)) } else { Err(HatchError::Following { size: following.len() }) }
}

/// Reads what a node says, and the bytes behind it.
///
/// # Errors
/// As [`decode_ask`].
pub fn decode_tell(body: &[u8]) -> Result<(Tell, &[u8]), HatchError> {
    let (word, following): (Tell, _) = decode(body)?;
    let sound = match &word {
        Tell::Received { advert, held: 0, .. } => following.len() as u64 == advert.size,
        Tell::Bytes => true,
        Tell::Done
        | Tell::Refused { .. }
        | Tell::Opened { .. }
        | Tell::Offered { .. }
        | Tell::Listed { .. }
        | Tell::Counted(_)
        | Tell::Asked { .. }
        | Tell::Received { .. }
        | Tell::Arriving { .. }
        | Tell::Progress { .. }
        | Tell::Withdrawn { .. }
        | Tell::Ended { .. } => following.is_empty(),
    };
    if sound { Ok((word, following)) } else { Err(HatchError::Following { size: following.len() }) }
}

fn decode<W: DeserializeOwned + Serialize>(body: &[u8]) -> Result<(W, &[u8]), HatchError> {
    if body.len() > HATCH_WORD_BYTES_MAX + HATCH_BYTES_MAX {
        return Err(HatchError::TooLarge { size: body.len() });
    }
    let (word, following) = postcard::take_from_bytes::<W>(body).map_err(|_| HatchError::Body)?;
    let size = body.len() - following.len();
    if size > HATCH_WORD_BYTES_MAX || following.len() > HATCH_BYTES_MAX {
        return Err(HatchError::TooLarge { size });
    }
    if body.get(..size) != Some(&encode(&word, &[])) {
        return Err(HatchError::NotCanonical);
    }
    Ok((word, following))
}
