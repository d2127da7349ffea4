//! What nodes say to each other about artifacts: who offers what, who has what, and the bytes themselves.
//!
//! A node has a table of slots. A change of a slot is an update that replaces the one before it, so nothing is repeated for who
//! missed it: who comes again says how far it knows the table, and is told the rest. What a node has from others it does not
//! offer anew; it names the slot of the origin by a mark of a few bytes.
//!
//! A body is a word in postcard, and behind a *chunk* its bytes. Nobody says in a word who it is: the link knows that.
//! It does not know what follows from a word.
//!
//! Invariant: a word has one encoding. `decode` accepts no bytes but those that `encode` makes of its result, and keeps no more
//! memory than a constant times their number.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::header::Kind;
use crate::limits::{
    ARTIFACT_ATTRIBUTE_BYTES_MAX, ARTIFACT_CHUNK_BYTES, ARTIFACT_INSIDE_BYTES_MAX,
    GOSSIP_FILTER_PATTERNS_MAX, GOSSIP_WORD_BYTES_MAX, GOSSIP_WORD_ENTRIES_MAX,
};
use crate::pattern::Pattern;
use crate::topic::Topic;

/// The topics of the messages in which these words travel, each of one source: who has what, requests, bytes.
const TOPICS: [&str; 3] = ["$artifact.advert", "$artifact.fetch", "$artifact.chunk"];

/// The topics of the messages in which these words travel, by what they carry: who has what, requests and their ends, bytes.
///
/// ```
/// use busway_wire::gossip::{pattern, topics};
/// assert!(topics().iter().all(|topic| topic.is_reserved() && pattern().matches(topic)));
/// ```
#[must_use]
pub fn topics() -> [Topic; 3] {
    TOPICS.map(|topic| Topic::reserved(topic).expect("it is in the grammar"))
}

/// The kind of the messages of a topic that cross a link: those of these words have their own, so that their flow follows from it.
///
/// ```
/// use busway_wire::gossip::{kind_of, topics};
/// use busway_wire::{Kind, Topic};
/// assert_eq!(topics().map(|topic| kind_of(&topic)), [Kind::Advert, Kind::Fetch, Kind::Chunk]);
/// assert_eq!(kind_of(&Topic::new("price.tick")?), Kind::Publish);
/// # Ok::<(), busway_wire::NameError>(())
/// ```
#[must_use]
pub fn kind_of(topic: &Topic) -> Kind {
    match TOPICS.iter().position(|text| *text == topic.as_str()) {
        Some(0) => Kind::Advert,
        Some(1) => Kind::Fetch,
        Some(_) => Kind::Chunk,
        None => Kind::Publish,
    }
}

/// What who takes these words says that it wants.
#[must_use]
pub fn pattern() -> Pattern {
    Pattern::parse("$artifact.*").expect("it is in the grammar")
}

/// The name of a body: BLAKE3 of its bytes.
///
/// ```
/// use busway_wire::gossip::ArtifactId;
/// let id = ArtifactId::of(b"");
/// assert!(id.to_string().starts_with("af1349b9f5f9a1a6"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArtifactId(pub [u8; 32]);

impl ArtifactId {
    /// That of these bytes.
    #[must_use]
    pub fn of(body: &[u8]) -> ArtifactId {
        ArtifactId(*blake3::hash(body).as_bytes())
    }
}

/// The text is no name of an artifact: 64 digits of `0-9a-f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoArtifactId;

impl fmt::Display for NoArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an artifact has 64 digits of 0-9a-f")
    }
}

impl core::error::Error for NoArtifactId {}

impl core::str::FromStr for ArtifactId {
    type Err = NoArtifactId;

    fn from_str(text: &str) -> Result<ArtifactId, NoArtifactId> {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(NoArtifactId),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut id = [0; 32];
        if pairs.len() != id.len() || !rest.is_empty() {
            return Err(NoArtifactId);
        }
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(ArtifactId(id))
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArtifactId({self})")
    }
}

/// One start of a node, as its table is named: a later start has a larger number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// A node, by its index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeIndex(pub u8);

impl fmt::Display for NodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// A slot in the table of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotNumber(pub u32);

/// How far somebody knows a table of that epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// Of which start.
    pub epoch: Epoch,
    /// All changes of slots up to this version are known.
    pub slots: u64,
    /// All marks up to this one are known.
    pub marks: u64,
}

/// What somebody wants to be told of a table; what matches nothing here is passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The topics; none means all.
    #[serde(deserialize_with = "at_most::<GOSSIP_FILTER_PATTERNS_MAX, _, _>")]
    pub patterns: Vec<Pattern>,
    /// Not what was offered longer ago, in milliseconds of the one who is asked.
    pub age_ms_max: Option<u64>,
}

/// The first word on a link, and whenever something is to be told again: where both tables are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The start of the sender.
    pub epoch: Epoch,
    /// The version of the sender's table: what others say that it has behind this is not so.
    pub version: u64,
    /// How far the sender knows the receiver's table; without it, nothing of it.
    pub since: Option<Since>,
    /// What the sender wants to be told.
    pub filter: Option<Filter>,
}

/// The bytes of an offer, or what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The bytes: their name follows from them.
    Inside {
        /// At most `ARTIFACT_INSIDE_BYTES_MAX`.
        #[serde(deserialize_with = "at_most::<ARTIFACT_INSIDE_BYTES_MAX, _, _>")]
        body: Vec<u8>,
    },
    /// They are to be asked for.
    Apart {
        /// Their name.
        id: ArtifactId,
        /// How many; more than `ARTIFACT_INSIDE_BYTES_MAX`.
        size: u64,
    },
}

/// What stands in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// On which topic.
    pub topic: Topic,
    /// What the application says of it beside; at most `ARTIFACT_ATTRIBUTE_BYTES_MAX`.
    #[serde(deserialize_with = "at_most::<ARTIFACT_ATTRIBUTE_BYTES_MAX, _, _>")]
    pub attribute: Vec<u8>,
    /// Whether the origin wants to know of each node that it has it, or will not have it.
    pub confirm: bool,
    /// The bytes, or what they are.
    pub content: Content,
}

/// A change of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Which.
    pub slot: SlotNumber,
    /// The version of its table that the change made.
    pub version: u64,
    /// What stands in it now; without, it was withdrawn.
    pub offer: Option<Offer>,
}

/// Changes of the sender's own slots, in the order of their versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tell {
    /// So many words *exchange* of this link the sender has followed: what is known up to, is known since the last of them.
    pub exchanges: u64,
    /// With these, the receiver knows all changes up to this version that it asked for.
    pub through: u64,
    /// The changes.
    #[serde(deserialize_with = "at_most::<GOSSIP_WORD_ENTRIES_MAX, _, _>")]
    pub slots: Vec<Slot>,
}

/// What the sender has to do with a slot of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It has the bytes, all of them and checked, and gives them to who asks.
    Has,
    /// It has them no more: they were withdrawn, or there is no room.
    Lacks,
    /// It does not want them. Said to the origin alone.
    Declines,
}

/// What the sender has to do with one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which.
    pub slot: SlotNumber,
    /// The version of the origin's table at which the slot was as the sender knows it.
    pub version: u64,
    /// What the sender has to do with it.
    pub standing: Standing,
}

/// Marks of slots of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// Whose slots; never the sender's.
    pub node: NodeIndex,
    /// Of which start of it.
    pub epoch: Epoch,
    /// The marks.
    #[serde(deserialize_with = "at_most::<GOSSIP_WORD_ENTRIES_MAX, _, _>")]
    pub marks: Vec<Mark>,
}

/// What the sender has to do with slots of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// As of a *tell*.
    pub exchanges: u64,
    /// With these, the receiver knows all the sender's marks up to this one.
    pub through: u64,
    /// By node.
    #[serde(deserialize_with = "at_most::<GOSSIP_WORD_ENTRIES_MAX, _, _>")]
    pub of: Vec<Marked>,
}

/// A slot as somebody knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reference {
    /// Whose slot.
    pub node: NodeIndex,
    /// Of which start of it.
    pub epoch: Epoch,
    /// Which.
    pub slot: SlotNumber,
    /// The version of its table at which it was so.
    pub version: u64,
}

/// Slots of another node, as its sender has them: the answer to *ask*. Without an offer, it has it no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Describe {
    /// Whose.
    pub node: NodeIndex,
    /// Of which start of it.
    pub epoch: Epoch,
    /// What stands in them.
    #[serde(deserialize_with = "at_most::<GOSSIP_WORD_ENTRIES_MAX, _, _>")]
    pub slots: Vec<Slot>,
}

/// What of an artifact is asked for. It has a tree and pieces if it is larger than `ARTIFACT_WHOLE_BYTES_MAX`, and is asked for whole if not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// All of it.
    Whole,
    /// The chaining values of its pieces, 32 bytes each.
    Tree,
    /// One piece.
    Piece {
        /// Which, from 0.
        index: u32,
    },
}

/// One thing that is said. The order of the variants is the format: a new one goes to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Where both tables are.
    Exchange(Exchange),
    /// Changes of the sender's slots.
    Tell(Tell),
    /// So many words *tell* of this link are done with, and all marks up to one.
    Handled {
        /// All of them since the link began.
        tells: u64,
        /// All marks up to this one are known, and what they name.
        marks: u64,
    },
    /// What the sender has of others.
    Marks(Marks),
    /// The receiver marked these, and the sender does not know what they are.
    Ask {
        /// Which.
        #[serde(deserialize_with = "at_most::<GOSSIP_WORD_ENTRIES_MAX, _, _>")]
        of: Vec<Reference>,
    },
    /// What they are.
    Describe(Describe),
    /// The bytes of a slot are wanted, from an offset on.
    Request {
        /// The sender's number for it, used once on a link.
        request: u64,
        /// Which slot.
        of: Reference,
        /// What of it.
        part: Part,
        /// From which byte of that on.
        offset: u64,
    },
    /// Bytes that were asked for; they follow.
    Chunk {
        /// The receiver's number for the request.
        request: u64,
        /// Where they belong.
        offset: u64,
    },
    /// The sender cannot give what was asked for.
    NotFound {
        /// The receiver's number for the request.
        request: u64,
    },
    /// Nothing more of that request is wanted.
    Cancel {
        /// The sender's number for it.
        request: u64,
    },
    /// The sender wants that, and has these pieces of it beside those that it has named on this link.
    Have {
        /// Which slot.
        of: Reference,
        /// Which pieces.
        #[serde(deserialize_with = "at_most::<GOSSIP_WORD_ENTRIES_MAX, _, _>")]
        pieces: Vec<u32>,
    },
}

/// Bytes that the allocator takes beside those that it was asked for, at most on the machines that we know.
const BLOCK_BYTES: usize = 16;

impl Word {
    /// Bytes that it takes beside itself while it is kept: those of its lists and names, and what the allocator takes for them.
    ///
    /// ```
    /// use busway_wire::gossip::{Reference, Word};
    /// assert_eq!(Word::Cancel { request: 1 }.heap_bytes(), 0);
    /// let many = Word::Ask { of: vec![Reference::default(); 100] };
    /// assert!(many.heap_bytes() >= 100 * size_of::<Reference>());
    /// ```
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Word::Exchange(exchange) => exchange.filter.as_ref().map_or(0, |filter| {
                let patterns = filter.patterns.iter().map(|pattern| BLOCK_BYTES + pattern.as_str().len());
                list(&filter.patterns) + patterns.sum::<usize>()
            }),
            Word::Tell(Tell { slots, .. }) | Word::Describe(Describe { slots, .. }) => {
                list(slots) + slots.iter().filter_map(|slot| slot.offer.as_ref()).map(of_offer).sum::<usize>()
            }
            Word::Marks(Marks { of, .. }) => {
                list(of) + of.iter().map(|marked| list(&marked.marks)).sum::<usize>()
            }
            Word::Ask { of } => list(of),
            Word::Have { pieces, .. } => list(pieces),
            Word::Handled { .. }
            | Word::Request { .. }
            | Word::Chunk { .. }
            | Word::NotFound { .. }
            | Word::Cancel { .. } => 0,
        }
    }
}

fn list<T>(list: &Vec<T>) -> usize {
    if list.capacity() == 0 { 0 } else { BLOCK_BYTES + list.capacity() * size_of::<T>() }
}

fn of_offer(offer: &Offer) -> usize {
    let inside = match &offer.content {
        Content::Inside { body } => list(body),
        Content::Apart { .. } => 0,
    };
    // A name is shared with its two counts.
    2 * BLOCK_BYTES + offer.topic.as_str().len() + list(&offer.attribute) + inside
}

/// Why bytes are no word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordError {
    /// More bytes than a word may have.
    TooLarge {
        /// How many there are.
        size: usize,
    },
    /// It is cut short, or a name, a number or a list is out of bounds.
    Body,
    /// It says in more bytes what can be said in fewer.
    NotCanonical,
    /// Bytes follow that do not belong to it, or none where some must.
    Following {
        /// How many.
        size: usize,
    },
    /// A size that bytes apart from their offer cannot have.
    Size {
        /// What it is.
        size: u64,
    },
}

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WordError::TooLarge { size } => {
                write!(
                    f,
                    "a word about artifacts of {size} bytes, at most {GOSSIP_WORD_BYTES_MAX} are allowed"
                )
            }
            WordError::Body => f.write_str("a word about artifacts is malformed"),
            WordError::NotCanonical => f.write_str("a word about artifacts is not in its shortest form"),
            WordError::Following { size } => write!(f, "{size} bytes behind a word about artifacts"),
            WordError::Size { size } => write!(f, "an offer of {size} bytes has them inside"),
        }
    }
}

impl core::error::Error for WordError {}

/// Replaces `out` by what says this; `following` are the bytes of a chunk, and empty for all else.
///
/// ```
/// use busway_wire::gossip::{Word, decode, encode};
/// let mut body = Vec::new();
/// encode(&Word::Chunk { request: 1, offset: 0 }, b"bytes", &mut body);
/// assert_eq!(decode(&body), Ok((Word::Chunk { request: 1, offset: 0 }, &b"bytes"[..])));
/// assert!(decode(&body[..2]).is_err());
/// ```
pub fn encode(word: &Word, following: &[u8], out: &mut Vec<u8>) {
    out.clear();
    *out = postcard::to_extend(word, core::mem::take(out))
        .expect("a vector takes any number of bytes, and no field has an unknown length");
    out.extend_from_slice(following);
}

/// Reads a word, and the bytes behind it.
///
/// # Errors
/// Bytes that are no word, a second encoding of one, or bytes behind one that has none.
pub fn decode(body: &[u8]) -> Result<(Word, &[u8]), WordError> {
    if body.len() > GOSSIP_WORD_BYTES_MAX + ARTIFACT_CHUNK_BYTES {
        return Err(WordError::TooLarge { size: body.len() });
    }
    let (word, following) = postcard::take_from_bytes::<Word>(body).map_err(|_| WordError::Body)?;
    let size = body.len() - following.len();
    if size > GOSSIP_WORD_BYTES_MAX {
        return Err(WordError::TooLarge { size });
    }
    let mut again = Vec::with_capacity(size);
    encode(&word, &[], &mut again);
    if body.get(..size) != Some(&again) {
        return Err(WordError::NotCanonical);
    }
    check_following(&word, following.len())?;
    match &word {
        Word::Tell(Tell { slots, .. }) | Word::Describe(Describe { slots, .. }) => check_sizes(slots)?,
        Word::Exchange(_)
        | Word::Handled { .. }
        | Word::Marks(_)
        | Word::Ask { .. }
        | Word::Request { .. }
        | Word::Chunk { .. }
        | Word::NotFound { .. }
        | Word::Cancel { .. }
        | Word::Have { .. } => {}
    }
    Ok((word, following))
}

fn check_following(word: &Word, size: usize) -> Result<(), WordError> {
    let sound = if matches!(word, Word::Chunk { .. }) { 1..=ARTIFACT_CHUNK_BYTES } else { 0..=0 };
    if sound.contains(&size) { Ok(()) } else { Err(WordError::Following { size }) }
}

/// What fits into an offer stands in it: two ways to say the same would be two versions of it.
fn check_sizes(slots: &[Slot]) -> Result<(), WordError> {
    for slot in slots {
        if let Some(Offer { content: Content::Apart { size, .. }, .. }) = &slot.offer
            && *size <= ARTIFACT_INSIDE_BYTES_MAX as u64
        {
            return Err(WordError::Size { size: *size });
        }
    }
    Ok(())
}
