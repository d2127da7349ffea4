//! What goes into the machine of artifacts and what comes out of it.
//!
//! Invariant: the sums of `Counts` close: told of = handled + coalesced + dropped.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use busway_wire::Topic;
use busway_wire::gossip::{ArtifactId, Epoch, Filter, NodeIndex, Part, Reference, SlotNumber, Word};
use busway_wire::limits::{
    ARTIFACT_ATTRIBUTE_BYTES_MAX, ARTIFACT_BYTES_MAX, GOSSIP_OFFERS_BYTES_DEFAULT, GOSSIP_OFFERS_DEFAULT,
};

use crate::artifact::Name;
use crate::flow::{Budget, Flow, Limits, Rule, WhenFull};
use crate::gossip::Nodes;

/// How one node takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which node it is.
    pub node: NodeIndex,
    /// Which start of it: larger than that of any earlier one.
    pub epoch: Epoch,
    /// The other nodes, which all are reached when an offer is to reach all.
    pub members: Nodes,
    /// Slots that it offers at most.
    pub slots_max: u32,
    /// Bytes of what it offers, at most.
    pub bytes_max: u64,
    /// What it keeps of others: slots, and small artifacts, under `advert`; the bytes of larger ones under `chunk`.
    pub limits: Limits,
    /// What it wants to be told of others.
    pub filter: Option<Filter>,
    /// Who is asked first where all are alike.
    pub seed: u64,
}

impl Config {
    /// That of a node among these others, with the limits that hold unless the user says otherwise.
    #[must_use]
    pub fn new(node: NodeIndex, epoch: Epoch, members: Nodes) -> Config {
        let mut limits = Limits::default();
        let advert = limits.rule(Flow::Advert).limit;
        // What is kept is not under way: the flow of chunks has its limit of messages where they are sent.
        let bytes = limits.rule(Flow::Chunk).limit.bytes;
        let rule = Rule { limit: Budget { bytes, ..advert }, when_full: WhenFull::Wait };
        limits.set(Flow::Chunk, rule).expect("it has a limit, and may wait");
        let (slots_max, bytes_max) = (GOSSIP_OFFERS_DEFAULT, GOSSIP_OFFERS_BYTES_DEFAULT);
        Config { node, epoch, members, slots_max, bytes_max, limits, filter: None, seed: u64::from(node.0) }
    }
}

/// An artifact that is offered.
#[derive(Clone, Debug)]
pub struct Offering {
    /// On which topic.
    pub topic: Topic,
    /// What its receivers are told beside, to decide whether they want it.
    pub attribute: Vec<u8>,
    /// Its bytes; none where they lie in the store already.
    pub body: Arc<[u8]>,
    /// The name and the size of what lies in the store already, all of it, and comes in pieces.
    pub stored: Option<(ArtifactId, u64)>,
    /// A slot of ours, in whose place it comes.
    pub instead_of: Option<SlotNumber>,
    /// It stands until each member has it or declines it, or so many milliseconds have passed; then it is withdrawn. Without, until
    /// it is withdrawn or replaced.
    pub reach_all_ms: Option<u64>,
}

impl Offering {
    /// One that stands until it is withdrawn.
    #[must_use]
    pub fn new(topic: Topic, body: Arc<[u8]>) -> Offering {
        Offering { topic, attribute: Vec::new(), body, stored: None, instead_of: None, reach_all_ms: None }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.stored.map_or(self.body.len() as u64, |(_, size)| size)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> ArtifactId {
        self.stored.map_or_else(|| ArtifactId::of(&self.body), |(id, _)| id)
    }

    pub(super) fn check(&self) -> Result<(), OfferError> {
        let size = self.size();
        if self.attribute.len() > ARTIFACT_ATTRIBUTE_BYTES_MAX {
            return Err(OfferError::Attribute { size: self.attribute.len() });
        }
        if size > ARTIFACT_BYTES_MAX { Err(OfferError::TooLarge { size }) } else { Ok(()) }
    }
}

/// Why something is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferError {
    /// It is larger than any may be.
    TooLarge {
        /// Its bytes.
        size: u64,
    },
    /// Its attribute is too long.
    Attribute {
        /// Its bytes.
        size: usize,
    },
    /// All slots are in use.
    Slots {
        /// How many there are.
        slots_max: u32,
    },
    /// The offers would have too many bytes.
    Bytes {
        /// How many they may have.
        bytes_max: u64,
    },
    /// The store has no room for it.
    Store {
        /// Its bytes.
        size: u64,
    },
    /// There is nothing in the slot that it is to take the place of.
    Gone {
        /// That slot.
        slot: SlotNumber,
    },
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OfferError::TooLarge { size } => {
                write!(f, "an artifact of {size} bytes, at most {ARTIFACT_BYTES_MAX} are allowed")
            }
            OfferError::Attribute { size } => {
                write!(f, "an attribute of {size} bytes, at most {ARTIFACT_ATTRIBUTE_BYTES_MAX} are allowed")
            }
            OfferError::Slots { slots_max } => {
                write!(f, "{slots_max} artifacts are offered already; withdraw one, or allow for more")
            }
            OfferError::Bytes { bytes_max } => {
                write!(
                    f,
                    "the offers would have more than {bytes_max} bytes; withdraw one, or allow for more"
                )
            }
            OfferError::Store { size } => {
                write!(f, "the store has no room for {size} bytes; withdraw an artifact, or allow for more")
            }
            OfferError::Gone { slot } => write!(f, "nothing is offered in slot {}", slot.0),
        }
    }
}

impl core::error::Error for OfferError {}

/// What the user says of an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interest {
    /// Not wanted: nothing is fetched, and who said so is not asked again.
    Drop,
    /// Not now: it is kept in mind, and asked about again.
    Stash,
    /// Wanted, behind all else.
    Later,
    /// Wanted.
    Fetch,
    /// Wanted before all else.
    FetchNow,
}

/// An artifact that another node offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Where it stands.
    pub of: Reference,
    /// On which topic.
    pub topic: Topic,
    /// Its name.
    pub id: ArtifactId,
    /// Its bytes.
    pub size: u64,
    /// What its origin says of it.
    pub attribute: Vec<u8>,
    /// Whether its origin wants to know of each node that it has it, or will not have it.
    pub confirm: bool,
}

/// What happens to the machine.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// There is a link to a node.
    PeerUp {
        /// Which.
        node: NodeIndex,
    },
    /// There is none any more; what was under way on it is lost.
    PeerDown {
        /// Which.
        node: NodeIndex,
    },
    /// A peer says something.
    Word {
        /// Who.
        from: NodeIndex,
        /// What.
        word: Word,
        /// The bytes behind it.
        following: &'a [u8],
    },
    /// What stands in a slot of ours is not offered any more.
    Withdraw {
        /// Which.
        slot: SlotNumber,
    },
    /// The user's word on an advert. It means nothing where that has changed meanwhile.
    Judged {
        /// Which.
        of: Reference,
        /// What it is.
        interest: Interest,
    },
    /// The user needs the bytes of something that it has received no more: nobody is given them any more, and their room is free.
    Release {
        /// Which.
        of: Reference,
    },
    /// A part that lay in the store is damaged, or gone: it is asked for again, of who has it.
    Lost {
        /// Of which artifact.
        name: Name,
    },
    /// A node is gone for good, and with it what it offered; it is not to be waited for, nor told anything. Not of one with a link.
    Forget {
        /// Which.
        node: NodeIndex,
    },
    /// What stands there may not be offered any more, by rules that its node need not know: it is over here, until that is asked anew and says it again.
    Revoke {
        /// Which.
        of: Reference,
    },
    /// What is taken of a node's word has changed: it is asked for all of it again, on the link that stands or on the next.
    AskAnew {
        /// Which.
        node: NodeIndex,
    },
    /// The user would judge otherwise now: all that it has not received is asked about again.
    Reconsider,
    /// The time has come that `deadline` told.
    Tick,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes that the user wanted, all of them and checked.
    Received {
        /// What it is.
        advert: Advert,
        /// They.
        body: Arc<[u8]>,
    },
    /// What the user wants comes in pieces, and the values of all of them are in the store, checked: from now on pieces are.
    Begun {
        /// What it is.
        advert: Advert,
    },
    /// All of what the user wanted is in the store, checked: what is too large to be handed out.
    Stored {
        /// What it is.
        advert: Advert,
    },
    /// The store has no room for what the user wanted: nothing more of it is asked for until the user judges it again.
    Full {
        /// What it was.
        of: Reference,
    },
    /// Something that we offer is damaged in the store: who asks us for that part of it is told that it is not found.
    Damaged {
        /// What it is.
        of: Reference,
    },
    /// What the user was asked about, or has received, is not offered any more.
    Gone {
        /// What it was.
        of: Reference,
    },
    /// Each member has what was to reach all, or has declined it; the slot is free.
    Reached {
        /// Which.
        slot: SlotNumber,
    },
    /// The time of an offer that was to reach all has passed; the slot is free.
    Expired {
        /// Which.
        slot: SlotNumber,
        /// Who has not confirmed it.
        missing: Nodes,
    },
    /// A peer did what no sound peer does.
    Blame {
        /// Who.
        node: NodeIndex,
        /// What.
        fault: Fault,
    },
}

/// What no sound peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A word before its *exchange*.
    Order,
    /// It speaks of its own slots, or of ours, as of another's.
    Forged,
    /// It has done with more than it was told.
    Ahead,
    /// A chunk that was not asked for, or is not where it belongs.
    Chunk,
    /// The bytes are not those that were offered.
    Corrupt,
    /// It owes bytes, and is silent.
    Stalled,
    /// It asks for more at a time than anybody may.
    Greedy,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 7] = [
        Fault::Order,
        Fault::Forged,
        Fault::Ahead,
        Fault::Chunk,
        Fault::Corrupt,
        Fault::Stalled,
        Fault::Greedy,
    ];
}

/// Why a slot that was told is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its teller has no room left: it is asked for again when there is.
    Room,
    /// It is larger than what can be asked for.
    Size,
    /// Nobody may say so.
    Forged,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes of slots that came: handled + coalesced + dropped.
    pub told_of: u64,
    /// Those that are known now.
    pub handled: u64,
    /// Those that were known already, or older than what was.
    pub coalesced: u64,
    /// Those that are not kept, by [`Why`].
    pub dropped: [u64; 3],
    /// Changes of our slots that were said.
    pub said: u64,
    /// Changes of our slots that were replaced before they were said, for each peer.
    pub replaced: u64,
    /// Marks that were said.
    pub marks_said: u64,
    /// Marks that came.
    pub marks_heard: u64,
    /// Bytes of chunks that came to what was wanted.
    pub bytes_useful: u64,
    /// Bytes of chunks that did not, that nobody waited for any more, or that were wrong.
    pub bytes_wasted: u64,
    /// Bytes of chunks that were given.
    pub bytes_given: u64,
    /// Requests that nobody could answer, as they said.
    pub not_found: u64,
    /// Places of tables and marks that were looked at, to say what stands there.
    pub looked: u64,
    /// What peers did that no sound one does, by [`Fault`].
    pub faults: [u64; 7],
}

/// What is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Slots of ours with something in them.
    pub own_slots: usize,
    /// Bytes that they are charged.
    pub own_bytes: u64,
    /// Slots of others that are kept.
    pub slots: usize,
    /// Bytes that those are charged.
    pub slots_bytes: u64,
    /// Bytes of larger artifacts, here or to come.
    pub body_bytes: u64,
    /// Requests under way.
    pub requests: usize,
    /// Artifacts that wait for somebody to be asked.
    pub waiting: usize,
    /// Of those, the ones for whose bytes there is no room.
    pub starved: usize,
    /// Changes of ours that wait for an earlier one of their slot to be done with, at all peers.
    pub held: usize,
    /// What peers have and we have yet to be told.
    pub asks: usize,
    /// Requests that were asked beside late ones.
    pub hedged: u64,
}

/// Who goes first of what is said to one peer: see [`Flow::rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Who offers and has what.
    Advert,
    /// Requests and their ends.
    Request,
    /// Bytes.
    Chunk,
}

impl Lane {
    /// All of them, the first first.
    pub const ALL: [Lane; 3] = [Lane::Advert, Lane::Request, Lane::Chunk];

    /// The flow that it is of.
    #[must_use]
    pub const fn flow(self) -> Flow {
        match self {
            Lane::Advert => Flow::Advert,
            Lane::Request => Flow::Request,
            Lane::Chunk => Flow::Chunk,
        }
    }
}

/// A word to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What.
    pub word: Word,
    /// The bytes that follow it: a part of these.
    pub following: Option<(Arc<[u8]>, Range<usize>)>,
    /// Of what they are, if they are bytes of an artifact.
    pub of: Option<(Reference, Part)>,
}

impl Said {
    pub(super) fn word(word: Word) -> Said {
        Said { word, following: None, of: None }
    }

    /// The bytes that follow it.
    #[must_use]
    pub fn following(&self) -> &[u8] {
        let following = self.following.as_ref();
        following.and_then(|(body, range)| body.get(range.clone())).unwrap_or_default()
    }
}
