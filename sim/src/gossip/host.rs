//! One host of a swarm: its machine, its interface, and what is done to its words if it is hostile.
//!
//! What its machine puts into its store is kept as it was put, and shown to the checkers, whatever the machine takes it for.
//!
//! Invariant: a sound host says what its machine says and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busway_protocol::Time;
use busway_protocol::artifact::{Full, Name, Store};
use busway_protocol::flow::{Budget, Flow, Limits, Rule, WhenFull};
use busway_protocol::gossip::{
    Advert, ArtifactId, Config, Epoch, Gossip, Input, Interest, Lane, NodeIndex, Nodes, Output, Room,
};
use busway_wire::gossip::{Part, Word};

use super::Terms;
use super::vice::Mischief;

/// Parts of artifacts.
type Parts = BTreeMap<(Name, Part), Arc<[u8]>>;

/// As they were put first by anyone: who puts the same has no memory of its own for it.
pub(super) type Pool = Arc<Mutex<Parts>>;

/// What lies in the store of one host, and which parts of it nobody has looked at.
#[derive(Debug, Default)]
struct Kept {
    parts: Parts,
    taken: Vec<(Name, Part)>,
}

/// The store of one host.
#[derive(Debug, Default)]
struct Shelf {
    pool: Pool,
    kept: Arc<Mutex<Kept>>,
    /// What has room here, and how much there is.
    open: BTreeSet<Name>,
    bytes_max: u64,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for Shelf {
    fn open(&mut self, name: Name) -> Result<(), Full> {
        let taken: u64 = self.open.iter().map(|open| open.size).sum();
        if !self.open.contains(&name) && taken.saturating_add(name.size) > self.bytes_max {
            return Err(Full);
        }
        self.open.insert(name);
        Ok(())
    }

    fn put(&mut self, name: Name, part: Part, bytes: Arc<[u8]>) -> Result<(), Full> {
        let mut pool = lock(&self.pool);
        let first = pool.entry((name, part)).or_insert_with(|| bytes.clone());
        let bytes = if *first == bytes { first.clone() } else { bytes };
        let mut kept = lock(&self.kept);
        kept.parts.insert((name, part), bytes);
        kept.taken.push((name, part));
        Ok(())
    }

    fn get(&self, name: Name, part: Part) -> Option<Arc<[u8]>> {
        lock(&self.kept).parts.get(&(name, part)).cloned()
    }

    fn has(&self, name: Name, part: Part) -> bool {
        lock(&self.kept).parts.contains_key(&(name, part))
    }

    fn forget(&mut self, name: Name) {
        lock(&self.kept).parts.retain(|(of, _), _| *of != name);
        self.open.remove(&name);
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) gossip: Gossip,
    kept: Arc<Mutex<Kept>>,
    /// What waits for room in its store.
    room: Room,
    pool: Pool,
    index: u8,
    epoch: u64,
    /// Whom it has ever had a line to.
    pub(super) peers: BTreeSet<u8>,
    /// Whom it said something to last, of each lane: who is told much has its bytes when it is its turn.
    pub(super) turns: [u8; Lane::ALL.len()],
    /// Bytes a second of its interface, each way; when it is free to send, and to receive.
    pub(super) rate: u64,
    pub(super) busy_until: Time,
    pub(super) taken_until: Time,
    /// While it stands still: what has come, of whom, and how often that line had been cut.
    pub(super) stopped: Option<Vec<(u8, u64, Vec<u8>)>>,
    wake: Option<Time>,
    mischief: Option<Mischief>,
}

impl Host {
    pub(super) fn new(terms: &Terms, index: u8, pool: &Pool) -> Host {
        let vice = terms.vices.iter().find(|(of, _)| *of == index).map(|(_, vice)| *vice);
        let (gossip, kept) = machine(terms, (index, 1), pool);
        Host {
            gossip,
            kept,
            room: Room::default(),
            pool: pool.clone(),
            index,
            epoch: 1,
            peers: BTreeSet::new(),
            turns: [0; Lane::ALL.len()],
            rate: terms.rate,
            busy_until: Time(0),
            taken_until: Time(0),
            stopped: None,
            wake: None,
            mischief: vice.map(|vice| Mischief::new(vice, terms.seed ^ u64::from(index))),
        }
    }

    pub(super) fn restart(&mut self, terms: &Terms) {
        self.epoch += 1;
        (self.gossip, self.kept) = machine(terms, (self.index, self.epoch), &self.pool);
        self.room = Room::default();
    }

    /// The pieces that it has taken in since this was asked last, and still keeps.
    pub(super) fn taken_in(&self) -> Vec<(Name, u32, Arc<[u8]>)> {
        let mut kept = lock(&self.kept);
        let taken = std::mem::take(&mut kept.taken);
        let piece = |(name, part): (Name, Part)| match part {
            Part::Piece { index } => Some((name, index, kept.parts.get(&(name, part))?.clone())),
            Part::Whole | Part::Tree => None,
        };
        taken.into_iter().filter_map(piece).collect()
    }

    /// The pieces of an artifact that it keeps, and how many bytes each has.
    pub(super) fn pieces(&self, id: ArtifactId) -> Vec<(u32, u64)> {
        let kept = lock(&self.kept);
        let of_it = kept.parts.iter().filter(|((name, _), _)| name.id == id);
        let piece = |((_, part), bytes): (&(Name, Part), &Arc<[u8]>)| match part {
            Part::Piece { index } => Some((*index, bytes.len() as u64)),
            Part::Whole | Part::Tree => None,
        };
        of_it.filter_map(piece).collect()
    }

    /// All that it keeps of an artifact, one piece behind the other.
    pub(super) fn keeps(&self, name: Name) -> Vec<u8> {
        let pieces = (name, Part::Piece { index: 0 })..=(name, Part::Piece { index: u32::MAX });
        let kept = lock(&self.kept);
        let pieces: Vec<&[u8]> = kept.parts.range(pieces).map(|(_, piece)| &piece[..]).collect();
        pieces.concat()
    }

    /// Something happens to the machine, and its user judges what it is asked about.
    pub(super) fn handle(&mut self, now: Time, input: Input<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        self.gossip.handle(now, input, &mut out);
        while let Some(Advert { of, topic, .. }) = self.gossip.next_advert() {
            let interest = interest_in(topic.as_str());
            self.gossip.handle(now, Input::Judged { of, interest }, &mut out);
        }
        self.share_room(now, &mut out);
        out
    }

    /// What found no room in the store is tried again when there is some, and what does not come makes some.
    fn share_room(&mut self, now: Time, out: &mut Vec<Output>) {
        for of in self.room.makes_way(now, self.gossip.arriving()) {
            self.gossip.handle(now, Input::Judged { of, interest: Interest::Stash }, out);
        }
        let mut seen = 0;
        loop {
            for output in &out[seen..] {
                match output {
                    Output::Full { of } => {
                        let teller = self.gossip.teller(*of).unwrap_or(of.node);
                        self.room.found_none(now, *of, teller);
                    }
                    Output::Gone { of } => self.room.gone(*of),
                    Output::Stored { advert } => self.room.came(advert.of, advert.of.node),
                    Output::Received { .. }
                    | Output::Begun { .. }
                    | Output::Damaged { .. }
                    | Output::Reached { .. }
                    | Output::Expired { .. }
                    | Output::Blame { .. } => {}
                }
            }
            seen = out.len();
            let Some(of) = self.room.next(now) else { return };
            self.gossip.handle(now, Input::Judged { of, interest: Interest::Fetch }, out);
        }
    }

    /// What it says next to a peer on this lane.
    pub(super) fn say(&mut self, now: Time, to: u8, lane: Lane) -> Option<(Word, Vec<u8>)> {
        let Some(mischief) = &mut self.mischief else {
            let said = self.gossip.transmit(now, NodeIndex(to), lane)?;
            let following = said.following().to_vec();
            return Some((said.word, following));
        };
        if let Some(word) = mischief.of_its_own(now, to, lane) {
            return Some(word);
        }
        loop {
            if mischief.holds_back(now, lane) {
                return None;
            }
            let said = self.gossip.transmit(now, NodeIndex(to), lane)?;
            let following = said.following().to_vec();
            if let Some(word) = mischief.turn(now, to, said.word, following) {
                return Some(word);
            }
        }
    }

    /// A hostile host hears what others say.
    pub(super) fn overhear(&mut self, from: u8, word: &Word) {
        let peers: Vec<u8> = self.peers.iter().copied().collect();
        if let Some(mischief) = &mut self.mischief {
            mischief.overhear(NodeIndex(from), word, NodeIndex(self.index), &peers);
        }
    }

    /// All peers, beginning behind the one of the last turn of a lane.
    pub(super) fn in_turn(&self, lane: Lane) -> impl Iterator<Item = u8> {
        let turn = self.turns[lane as usize];
        let later = self.peers.range(turn.saturating_add(1)..);
        let earlier = self.peers.range(..=turn);
        later.chain(earlier).copied()
    }

    /// When it must be woken, if that is earlier than it will be.
    pub(super) fn arm(&mut self, now: Time) -> Option<Time> {
        let machine = self.gossip.deadline().map(|(at, _)| at);
        let mischief = self.mischief.as_ref().and_then(|mischief| mischief.deadline(now));
        let at = [machine, mischief, self.room.deadline()].into_iter().flatten().min()?.max(Time(now.0 + 1));
        if self.wake.is_some_and(|wake| wake <= at && wake > now) {
            return None;
        }
        self.wake = Some(at);
        Some(at)
    }

    /// Whether this is when it wanted to be woken.
    pub(super) fn woken(&mut self, now: Time) -> bool {
        let due = self.wake.is_some_and(|wake| wake <= now);
        if due {
            self.wake = None;
        }
        due
    }
}

fn machine(terms: &Terms, (index, epoch): (u8, u64), pool: &Pool) -> (Gossip, Arc<Mutex<Kept>>) {
    let members: Nodes = (0..terms.nodes).filter(|other| *other != index).map(NodeIndex).collect();
    let mut config = Config::new(NodeIndex(index), Epoch(epoch), members);
    let limit = Budget { messages: 1_000_000, bytes: terms.budget };
    let mut limits = Limits::default();
    limits.set(Flow::Advert, Rule { limit, when_full: WhenFull::Drop }).expect("a limit");
    limits.set(Flow::Chunk, Rule { limit, when_full: WhenFull::Wait }).expect("a limit");
    config.limits = limits;
    config.seed = terms.seed ^ u64::from(index) << 8;
    config.filter = terms.wants.get(&index).cloned();
    let kept = Arc::default();
    let open = BTreeSet::new();
    let shelf = Shelf { pool: pool.clone(), kept: Arc::clone(&kept), open, bytes_max: terms.store };
    (Gossip::with_store(config, Box::new(shelf)), kept)
}

/// What users want: all but what is on topics that say otherwise.
pub(super) fn interest_in(topic: &str) -> Interest {
    match topic.split('.').next() {
        Some("ignored") => Interest::Drop,
        Some("kept") => Interest::Stash,
        Some("late") => Interest::Later,
        Some("urgent") => Interest::FetchNow,
        Some(_) | None => Interest::Fetch,
    }
}
