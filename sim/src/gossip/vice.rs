//! What hostile hosts do to others by words: they say what is not so, and do not what they should.
//!
//! A hostile host has a sound machine, whose words it changes, drops and delays; and it says some of its own. It does nothing that needs another
//! host's keys: it speaks on its own lines.
//!
//! Invariant: what it does follows from its seed and what it heard.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use busway_protocol::Time;
use busway_protocol::gossip::{ArtifactId, Epoch, Lane, NodeIndex, SlotNumber};
use busway_wire::Topic;
use busway_wire::gossip::{Content, Mark, Marked, Marks, Offer, Slot, Standing, Tell, Word};
use fastrand::Rng;

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vice {
    /// It says that it has everything, and never answers a request.
    Drop,
    /// It says that it has everything, and answers that it has not.
    NotFound,
    /// It says that it has everything, and sends other bytes.
    Corrupt,
    /// It says what it has, gives most of it as it is, and changes a bit of some.
    Spoil,
    /// It offers things without end that nobody can get of it.
    Flood,
    /// It says that it has everything, and sends a chunk a second.
    Trickle,
    /// It gives other sizes than there are, of what it offers and of what it has.
    Lie,
    /// It says again what it said before.
    Replay,
    /// It offers many things as large as a store, of which nobody is given anything.
    Hoard,
}

impl Vice {
    /// All of them but the last, which is for hosts with little room.
    pub const ALL: [Vice; 8] = [
        Vice::Drop,
        Vice::NotFound,
        Vice::Corrupt,
        Vice::Spoil,
        Vice::Flood,
        Vice::Trickle,
        Vice::Lie,
        Vice::Replay,
    ];
}

/// What a hostile host keeps for it.
#[derive(Debug)]
pub(super) struct Mischief {
    vice: Vice,
    rng: Rng,
    /// Words of its own, by peer.
    own: BTreeMap<u8, VecDeque<Word>>,
    /// Words that it said, by peer.
    said: BTreeMap<u8, Vec<Word>>,
    /// The start of each node, as that has said.
    epochs: BTreeMap<NodeIndex, Epoch>,
    flooded: BTreeMap<u8, u64>,
    next_chunk: Time,
    began: BTreeMap<u8, bool>,
}

/// Slots of one word of a flood, and words to one peer.
const FLOOD_SLOTS: u64 = 100;
const FLOOD_WORDS: u64 = 15;
/// One of so many chunks is changed by who gives the others as they are.
const SPOILS: u8 = 6;
/// Bytes of what is offered to take the room of others.
const HOARDED: Range<u64> = 7 << 20..8 << 20;

impl Mischief {
    pub(super) fn new(vice: Vice, seed: u64) -> Mischief {
        Mischief {
            vice,
            rng: Rng::with_seed(seed),
            own: BTreeMap::new(),
            said: BTreeMap::new(),
            epochs: BTreeMap::new(),
            flooded: BTreeMap::new(),
            next_chunk: Time(0),
            began: BTreeMap::new(),
        }
    }

    /// A word that no machine said.
    pub(super) fn of_its_own(&mut self, now: Time, to: u8, lane: Lane) -> Option<(Word, Vec<u8>)> {
        let _ = now;
        // Nobody listens before the first word.
        if !self.began.get(&to).copied().unwrap_or(false) || lane != Lane::Advert {
            return None;
        }
        if matches!(self.vice, Vice::Flood | Vice::Hoard) {
            let words = self.flooded.entry(to).or_default();
            if *words < FLOOD_WORDS {
                *words += 1;
                let first = 1_000 + *words * FLOOD_SLOTS;
                let slots = (first..first + FLOOD_SLOTS).map(|number| self.bogus(number)).collect();
                return Some((Word::Tell(Tell { exchanges: 0, through: 0, slots }), Vec::new()));
            }
        }
        self.own.get_mut(&to)?.pop_front().map(|word| (word, Vec::new()))
    }

    fn bogus(&mut self, number: u64) -> Slot {
        let id = ArtifactId([self.rng.u8(..); 32]);
        let large = self.vice == Vice::Hoard;
        let size = if large { self.rng.u64(HOARDED) } else { self.rng.u64(2_000..200_000) };
        let content = Content::Apart { id, size };
        let topic = Topic::new("flood").expect("a topic");
        let offer = Offer { topic, attribute: Vec::new(), confirm: false, content };
        let slot = SlotNumber(u32::try_from(number).unwrap_or(0));
        Slot { slot, version: 1_000_000 + number, offer: Some(offer) }
    }

    /// It says nothing on this lane now.
    pub(super) fn holds_back(&self, now: Time, lane: Lane) -> bool {
        self.vice == Vice::Trickle && lane == Lane::Chunk && now < self.next_chunk
    }

    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        (self.vice == Vice::Trickle && self.next_chunk > now).then_some(self.next_chunk)
    }

    /// What becomes of a word of the machine; nothing if it is not said.
    pub(super) fn turn(
        &mut self,
        now: Time,
        to: u8,
        word: Word,
        mut following: Vec<u8>,
    ) -> Option<(Word, Vec<u8>)> {
        if matches!(word, Word::Exchange(_)) {
            self.began.insert(to, true);
        }
        if self.vice == Vice::Replay {
            self.replay(to, &word);
        }
        match (self.vice, word) {
            (Vice::Drop, Word::Chunk { .. } | Word::NotFound { .. }) => None,
            // What it was not asked for in vain it gives.
            (Vice::Hoard, Word::NotFound { .. }) => None,
            (Vice::NotFound, Word::Chunk { request, .. }) => Some((Word::NotFound { request }, Vec::new())),
            (Vice::Corrupt, Word::NotFound { request }) => {
                Some((Word::Chunk { request, offset: 0 }, vec![0; self.rng.usize(1..9_000)]))
            }
            (Vice::Corrupt, word @ Word::Chunk { .. }) => {
                let at = self.rng.usize(..following.len());
                following[at] ^= 1;
                Some((word, following))
            }
            (Vice::Spoil, word @ Word::Chunk { .. }) => {
                if self.rng.u8(..SPOILS) == 0 {
                    let at = self.rng.usize(..following.len());
                    following[at] ^= 1;
                }
                Some((word, following))
            }
            (Vice::Trickle, word @ Word::Chunk { .. }) => {
                self.next_chunk = now.after_ms(1_000);
                Some((word, following))
            }
            (Vice::Trickle, Word::NotFound { .. }) => None,
            (Vice::Lie, Word::Chunk { request, offset }) => {
                following.truncate(self.rng.usize(1..=following.len()));
                Some((Word::Chunk { request, offset }, following))
            }
            (Vice::Lie, Word::Tell(tell)) => Some((Word::Tell(self.enlarge(tell)), following)),
            (Vice::Lie, Word::Describe(mut describe)) => {
                let tell = self.enlarge(Tell { exchanges: 0, through: 0, slots: describe.slots });
                describe.slots = tell.slots;
                Some((Word::Describe(describe), following))
            }
            (_, word) => Some((word, following)),
        }
    }

    /// Each word is said once more, later and out of order.
    fn replay(&mut self, to: u8, word: &Word) {
        if matches!(word, Word::Chunk { .. } | Word::Exchange(_)) {
            return;
        }
        let said = self.said.entry(to).or_default();
        said.push(word.clone());
        if said.len() < 200 {
            let again = said[self.rng.usize(..said.len())].clone();
            self.own.entry(to).or_default().push_back(again);
        }
    }

    fn enlarge(&mut self, mut tell: Tell) -> Tell {
        for slot in &mut tell.slots {
            if let Some(Offer { content: Content::Apart { size, .. }, .. }) = &mut slot.offer {
                *size = self.rng.u64(1_025..300_000);
            }
        }
        tell
    }

    /// Whatever others offer, it says at once that it has it.
    pub(super) fn overhear(&mut self, from: NodeIndex, word: &Word, us: NodeIndex, peers: &[u8]) {
        let claims =
            matches!(self.vice, Vice::Drop | Vice::NotFound | Vice::Corrupt | Vice::Trickle | Vice::Lie);
        match word {
            Word::Exchange(exchange) => {
                self.epochs.insert(from, exchange.epoch);
            }
            Word::Tell(tell) if claims && from != us => {
                let epoch = self.epochs.get(&from).copied().unwrap_or_default();
                let mark =
                    |slot: &Slot| Mark { slot: slot.slot, version: slot.version, standing: Standing::Has };
                let marks: Vec<Mark> =
                    tell.slots.iter().filter(|slot| slot.offer.is_some()).map(mark).collect();
                for to in peers.iter().filter(|to| **to != from.0) {
                    let of = vec![Marked { node: from, epoch, marks: marks.clone() }];
                    self.own.entry(*to).or_default().push_back(Word::Marks(Marks {
                        exchanges: 0,
                        through: 0,
                        of,
                    }));
                }
            }
            _ => {}
        }
    }
}
