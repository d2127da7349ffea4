//! Whom we ask for bytes that we want, and what becomes of it.
//!
//! What is wanted waits in order until somebody who has it has room: the one who owes us least goes first, and who has failed us
//! lately goes last. Whoever says that it has nothing, sends what is wrong, or is silent for long, is passed over at once, and what
//! came of it so far goes on elsewhere; and what is asked of one who has failed and given nothing since is asked of another as soon as one has it. Of a request that is late one other is asked too, rarely; the first who answers goes on.
//!
//! Of what one node offers each artifact that comes whole is ours to pass on, or another's: ours is asked for first, and of whoever has it before its origin is asked. So who offers
//! many gives each about once.
//!
//! Of a large artifact each piece is wanted by itself. Where one node alone has all of it, it is asked for the pieces that are ours to pass on, and for others
//! only when nothing comes of it from anybody: so it gives each piece once, and those who want it give it to each other.
//!
//! Invariant: of one part of an artifact at most two requests are under way, and only until one of them is answered.

mod record;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use busway_wire::gossip::{NodeIndex, Part, Reference};
use busway_wire::limits::{
    GOSSIP_DRY_MS, GOSSIP_FAULT_MS_MAX, GOSSIP_HEDGE_LAST, GOSSIP_HEDGE_MS_FIRST, GOSSIP_HEDGE_PARTS,
    GOSSIP_LOOK_MS, GOSSIP_OWED_BYTES_FIRST, GOSSIP_OWED_BYTES_MIN, GOSSIP_OWED_PARTS,
    GOSSIP_PIECES_OF_PEER_MAX, GOSSIP_PULLS_MAX, GOSSIP_STALL_MS,
};

use self::record::{Rate, Record, pause_ms, weight};
use crate::artifact::{Assembly, Proof, Put};
use crate::gossip::{Interest, Nodes};
use crate::time::Time;

/// Answers of which the latencies are kept: the third largest of them is at 95 of 100.
const LATENCIES: usize = 60;
/// Who has failed us so often since it last gave us something is not asked at all while it is shunned.
const FAULTS_MAX: u32 = 4;
/// Pieces that who has given nothing yet is asked for at a time.
const TRIED_MAX: usize = 2;
/// So many times as long as that is very late.
const VERY_LATE: u64 = 3;
/// Wants of one origin that are looked at in one call: as many as may be under way to one peer.
const LOOKED_MAX: usize = GOSSIP_PIECES_OF_PEER_MAX;

/// What comes whole and is another's to pass on is asked for behind so many others, and at most twice as many: several times what an origin gives in a second.
const OTHERS_BEHIND: u64 = 4_096;

/// A part of what stands in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) of: Reference,
    pub(super) part: Part,
}

impl Key {
    pub(super) fn whole(of: Reference) -> Key {
        Key { of, part: Part::Whole }
    }
}

/// An artifact that comes in pieces.
#[derive(Debug)]
struct Parted {
    /// Who has all of it.
    holders: Nodes,
    /// Who has parts of it and does not give them: asked when nothing comes of others.
    away: Nodes,
    /// When bytes of it last came, and whether that is long ago.
    moved: Time,
    dry: bool,
    /// Pieces that wait for somebody to ask.
    waiting: usize,
    /// Requests for parts of it under way to its origin.
    owed: usize,
}

/// What is wanted.
#[derive(Debug)]
struct Want {
    place: Place,
    size: u64,
    assembly: Assembly,
    /// Who has it, as far as we know.
    holders: Nodes,
    /// Who could not give it.
    failed: Nodes,
    /// How often somebody could not, how often of those who had failed before, and when these are asked again.
    faults: u32,
    turns: u32,
    again: Time,
    requests: Vec<u64>,
    /// It is for us to ask who has all for it.
    ours: bool,
    /// Of several who gave parts of it one gave something else: it is taken of one alone.
    alone: bool,
}

/// Who goes first: what is urgent, then what came first.
type Place = (u8, u64);

/// What is wanted of one origin, in order; and up to where it was looked at in turn.
#[derive(Debug, Default)]
struct Waiting {
    of: BTreeSet<(Place, Key)>,
    turn: Option<(Place, Key)>,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Pull {
    key: Key,
    from: NodeIndex,
    /// When it was asked, or last answered.
    asked: Time,
    began: Time,
    size: u64,
    answered: bool,
    /// What it stands for in the load of its peer, as one that is asked and in bytes.
    weight: usize,
    bytes: u64,
}

/// Who may be asked for a piece that is not ours to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Who has it of others.
    Sharers,
    /// Its origin too.
    Anyone,
}

/// A word for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Ask { from: NodeIndex, request: u64, key: Key, offset: u64 },
    Cancel { from: NodeIndex, request: u64 },
}

/// What a chunk came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It was wanted.
    Useful,
    /// Nobody waits for it any more.
    Late,
    /// It is the last of what was wanted.
    Whole { key: Key, body: Arc<[u8]> },
    /// It was the last, and the whole is something else: only this peer can have sent it, where one is named.
    Corrupt { key: Key, size: u64, by: Option<NodeIndex> },
    /// It does not belong where it should.
    Misplaced { key: Key },
    /// It was never asked for.
    Wrong,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    wants: BTreeMap<Key, Want>,
    parted: BTreeMap<Reference, Parted>,
    /// Those that wait for somebody to ask, in order, by their origins, which have turns.
    waiting: BTreeMap<NodeIndex, Waiting>,
    /// When those are asked again that have failed.
    retries: BTreeSet<(Time, Key)>,
    pulls: BTreeMap<u64, Pull>,
    records: BTreeMap<NodeIndex, Record>,
    /// When requests that have no answer are late.
    late: BTreeSet<(Time, u64)>,
    latencies: Vec<u64>,
    answers: u64,
    hedged: u64,
    numbered: u64,
    dice: u64,
    /// Something has changed for those that wait, or for these alone: they are new.
    look: bool,
    new: Vec<Key>,
    /// How many of an origin were not looked at since then, and when the next of them are.
    unseen: usize,
    look_at: Option<Time>,
    /// Something new is to be looked at soon.
    later: bool,
    /// Bytes that all peers owe us, and how fast they come.
    owed: u64,
    rate: Rate,
}

impl Pulls {
    pub(super) fn new(seed: u64) -> Pulls {
        Pulls { dice: seed, ..Pulls::default() }
    }

    pub(super) fn linked(&mut self, node: NodeIndex) {
        self.records.entry(node).or_default().linked(self.numbered);
        for parted in self.parted.values_mut() {
            parted.away.remove(node);
        }
        self.look = true;
    }

    /// A peer is gone, and what it owed us.
    pub(super) fn unlinked(&mut self, node: NodeIndex) {
        let theirs = self.pulls.iter().filter(|(_, pull)| pull.from == node);
        let theirs: Vec<u64> = theirs.map(|(request, _)| *request).collect();
        for request in theirs {
            self.end(request);
        }
        self.records.entry(node).or_default().unlinked();
    }

    /// Bytes are wanted, or wanted otherwise than before.
    pub(super) fn want(
        &mut self,
        key: Key,
        (proof, size): (Proof, u64),
        holders: Nodes,
        (how, ours): (Interest, bool),
    ) {
        let class = how.class();
        if let Some(want) = self.wants.get_mut(&key) {
            let waits = unwait(&mut self.waiting, want.place, key);
            want.place.0 = class;
            if waits {
                wait(&mut self.waiting, want.place, key);
            }
            return;
        }
        self.numbered += 1;
        // What others are to pass on is asked for in no order, so that not all ask for the same.
        let turn = match key.part {
            _ if ours => self.numbered,
            // Behind some that came later, but not behind all that ever come.
            Part::Whole => self.numbered + OTHERS_BEHIND + self.roll() % OTHERS_BEHIND,
            Part::Tree | Part::Piece { .. } => self.numbered | 1 << 63 | self.roll() >> 1,
        };
        let place = (class, turn);
        let assembly = Assembly::new(proof, size);
        let (failed, faults, turns, again) = (Nodes::default(), 0, 0, Time(0));
        let requests = Vec::new();
        let alone = false;
        let want =
            Want { place, size, assembly, holders, failed, faults, turns, again, requests, ours, alone };
        self.wants.insert(key, want);
        self.wait(place, key);
        if key.part == Part::Whole && !ours {
            // What is ours may be wanted in a moment, and this be with others.
            self.later = true;
        } else {
            self.new.push(key);
        }
    }

    /// Nobody wants it any more; its requests are taken back. How many bytes of it had come.
    pub(super) fn unwant(&mut self, key: Key, out: &mut Vec<Order>) -> u64 {
        let Some(want) = self.wants.get(&key) else { return 0 };
        let came = want.assembly.offset();
        for request in want.requests.clone() {
            if let Some(pull) = self.end(request) {
                out.push(Order::Cancel { from: pull.from, request });
            }
        }
        self.forget(key);
        self.look = true;
        came
    }

    /// An artifact is wanted that comes in pieces; who has all of it.
    pub(super) fn want_parts(&mut self, now: Time, of: Reference, holders: Nodes) {
        let mut holders = holders;
        holders.insert(of.node);
        self.parted.insert(
            of,
            Parted { holders, away: Nodes::default(), moved: now, dry: false, waiting: 0, owed: 0 },
        );
    }

    /// No piece of it is wanted any more. How many bytes had come to nothing.
    pub(super) fn unwant_parts(&mut self, of: Reference, out: &mut Vec<Order>) -> u64 {
        let last = Part::Piece { index: u32::MAX };
        let wants = self.wants.range(Key { of, part: Part::Whole }..=Key { of, part: last });
        let keys: Vec<Key> = wants.map(|(key, _)| *key).collect();
        let came = keys.into_iter().map(|key| self.unwant(key, out)).sum();
        self.parted.remove(&of);
        came
    }

    /// When bytes of what comes in pieces last came, or it was begun.
    pub(super) fn moved(&self, of: Reference) -> Option<Time> {
        Some(self.parted.get(&of)?.moved)
    }

    /// Whether a node has all of what comes in pieces, as far as we know.
    pub(super) fn has_all(&self, of: Reference, node: NodeIndex) -> bool {
        self.parted.get(&of).is_some_and(|parted| parted.holders.has(node))
    }

    /// Whether a peer has failed us of late and given nothing since. Who is asked for nothing any more has nothing to give, and is as others are after a while.
    pub(super) fn gives_nothing(&self, now: Time, node: NodeIndex) -> bool {
        let of_late = |record: &Record| now < record.failed.after_ms(GOSSIP_FAULT_MS_MAX);
        self.records
            .get(&node)
            .is_some_and(|record| record.faults > u32::from(record.given) && of_late(record))
    }

    /// When bytes last came of a peer.
    pub(super) fn came(&self, node: NodeIndex) -> Option<Time> {
        self.records.get(&node)?.came
    }

    /// Who had pieces of an artifact gives none any more: others are asked for what it owes, and it, if it is linked, when nothing comes of them; and those
    /// of which nobody else is known that has them are ours to get where `ours` says so.
    pub(super) fn pass_over(
        &mut self,
        of: Reference,
        (node, linked): (NodeIndex, bool),
        ours: impl Fn(u32) -> bool,
        out: &mut Vec<Order>,
    ) {
        let Some(parted) = self.parted.get_mut(&of) else { return };
        if linked {
            parted.away.insert(node);
        }
        let away = parted.away;
        let range =
            Key { of, part: Part::Piece { index: 0 } }..=Key { of, part: Part::Piece { index: u32::MAX } };
        let keys: Vec<Key> = self.wants.range(range).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(want) = self.wants.get_mut(&key) else { continue };
            if !linked {
                want.holders.remove(node);
            }
            for request in want.requests.clone() {
                if self.pulls.get(&request).is_some_and(|pull| pull.from == node) {
                    out.push(Order::Cancel { from: node, request });
                    self.end(request);
                }
            }
            let Part::Piece { index } = key.part else { continue };
            let Some(want) = self.wants.get_mut(&key) else { continue };
            if !want.ours && want.holders.without(&away).is_empty() && ours(index) {
                want.ours = true;
                self.numbered += 1;
                let waits = unwait(&mut self.waiting, want.place, key);
                want.place.1 = self.numbered;
                if waits {
                    wait(&mut self.waiting, want.place, key);
                }
            }
        }
        self.look = true;
    }

    /// One that was passed over tells of pieces or gives them again.
    pub(super) fn back(&mut self, of: Reference, node: NodeIndex) {
        if let Some(parted) = self.parted.get_mut(&of) {
            parted.away.remove(node);
            self.look = true;
        }
    }

    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.dice ^ self.dice >> 32
    }

    /// A peer has it, or has it no more.
    pub(super) fn holder(&mut self, key: Key, node: NodeIndex, has: bool) {
        if let Some(parted) = self.parted.get_mut(&key.of).filter(|_| key.part == Part::Whole) {
            if has {
                parted.holders.insert(node);
            } else if node != key.of.node {
                parted.holders.remove(node);
            }
            self.look = true;
            return;
        }
        let Some(want) = self.wants.get_mut(&key) else { return };
        if has {
            want.holders.insert(node);
            want.failed.remove(node);
            if want.requests.len() < 2 {
                self.new.push(key);
            }
        } else {
            want.holders.remove(node);
        }
    }

    /// Asks whoever can be asked now.
    pub(super) fn schedule(&mut self, now: Time, out: &mut Vec<Order>) {
        let new = core::mem::take(&mut self.new);
        let changed = core::mem::take(&mut self.look);
        if core::mem::take(&mut self.later) {
            let soon = now.after_ms(GOSSIP_LOOK_MS);
            self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
        }
        let turn = self.look_at.is_some_and(|at| at <= now);
        let able = |record: &Record| record.linked && !record.owes_enough();
        if changed {
            self.unseen = self.waiting.values().map(|waiting| waiting.of.len()).max().unwrap_or(0);
        }
        if !self.records.values().any(able) || !(self.has_room() || self.has_room_for_pieces()) {
            // Whatever ends makes us look again.
            self.look_at = None;
            return;
        }
        // What is ours to pass on stands first.
        let mut keys = if changed || turn { self.looked_at(now) } else { Vec::new() };
        keys.extend(new);
        for key in keys {
            let room = self.has_room();
            if !room && (key.part == Part::Whole || !self.has_room_for_pieces()) {
                continue;
            }
            let Some(want) = self.wants.get(&key) else { continue };
            if let Some(request) = want.requests.first().copied() {
                self.ask_instead(now, request, out);
                continue;
            }
            let Some(from) = self.choose(now, key, None, Who::Sharers) else { continue };
            if room || self.records.get(&from).is_some_and(|record| record.pulls == 0) {
                self.ask(now, key, from, out);
            }
        }
    }

    /// Another who has it is asked in the place of one who has failed us and given nothing since.
    fn ask_instead(&mut self, now: Time, request: u64, out: &mut Vec<Order>) {
        let Some(pull) = self.pulls.get(&request).copied() else { return };
        if !self.gives_nothing(now, pull.from) {
            return;
        }
        let other = self.choose(now, pull.key, Some(pull.from), Who::Sharers);
        if let Some(other) = other.filter(|other| !self.gives_nothing(now, *other)) {
            self.end(request);
            out.push(Order::Cancel { from: pull.from, request });
            self.ask(now, pull.key, other, out);
        }
    }

    /// No more is asked for than comes in a second, as far as that is known, or in a part of one where there are pieces: what waits for others is late
    /// through no fault of who is asked.
    fn has_room(&self) -> bool {
        let parts = if self.parted.is_empty() { 1 } else { GOSSIP_OWED_PARTS };
        let bytes = self.rate.known.map_or(GOSSIP_OWED_BYTES_FIRST, |rate| rate / parts);
        let bytes = bytes.max(GOSSIP_OWED_BYTES_MIN);
        self.pulls.len() < 2 || (self.pulls.len() < GOSSIP_PULLS_MAX && self.owed() < bytes)
    }

    /// What is owed by those of whom something may come.
    fn owed(&self) -> u64 {
        if self.parted.is_empty() {
            return self.owed;
        }
        let silent = |record: &&Record| record.faults > 0 && !record.given;
        let lost: u64 = self.records.values().filter(silent).map(|record| record.bytes).sum();
        self.owed.saturating_sub(lost)
    }

    /// Who owes us nothing may be asked for a piece in any case: how fast they come says little while few are asked.
    fn has_room_for_pieces(&self) -> bool {
        !self.parted.is_empty() && self.pulls.len() < GOSSIP_PULLS_MAX
    }

    /// How much longer than usual an answer may take, because of all that comes before it.
    fn patience_ns(&self) -> u64 {
        self.rate.ns_for(self.owed())
    }

    /// The first of each origin and some behind them in turn, urgent ones first, then each origin in turn: who offers much keeps out nobody
    /// else, and what nobody can give keeps out nothing else.
    fn looked_at(&mut self, now: Time) -> Vec<Key> {
        self.dice = self.dice.wrapping_add(1);
        self.unseen = self.unseen.saturating_sub(LOOKED_MAX);
        self.look_at = (self.unseen > 0).then(|| now.after_ms(GOSSIP_LOOK_MS));
        let turn = self.dice.to_le_bytes()[0];
        let first = |(node, waiting): (&NodeIndex, &mut Waiting)| {
            let turn = node.0.wrapping_sub(turn);
            let first = waiting.next().into_iter().enumerate();
            first.map(move |(at, ((class, _), key))| ((class, at, turn), key))
        };
        let mut keys: Vec<_> = self.waiting.iter_mut().flat_map(first).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Who is asked for it: of those who have it and room, who has not failed, then who owes us least.
    fn choose(&mut self, now: Time, key: Key, but: Option<NodeIndex>, who: Who) -> Option<NodeIndex> {
        let [turn, ..] = self.roll().to_le_bytes();
        let want = self.wants.get(&key)?;
        let mut holders = want.holders;
        let parted = self.parted.contains_key(&key.of);
        let (mut gone, mut dry) = (Nodes::default(), false);
        match self.parted.get(&key.of) {
            None => {
                if want.ours || want.faults > 0 || but.is_some() || self.may_give_more(key.of.node) {
                    holders.insert(key.of.node);
                }
            }
            Some(parted) => {
                (gone, dry) = (parted.away.without(&parted.holders), parted.dry);
                if !dry {
                    holders = holders.without(&gone);
                }
                holders = holders.with(&parted.holders);
                if !want.ours && !parted.dry && want.faults == 0 && who == Who::Sharers {
                    holders.remove(key.of.node);
                }
            }
        }
        let able = holders.iter().filter_map(|node| {
            let record = self.records.get(&node).filter(|record| record.linked)?;
            let failed = want.failed.has(node);
            let busy = record.owes_enough();
            let shunned = now < record.shunned;
            let avoided = shunned && record.faults > FAULTS_MAX;
            let asked = but == Some(node) || busy || avoided || (failed && now < want.again);
            // Many have pieces: who has given none, or has failed, is tried with few, and not while it is shunned; and who has failed with this one when
            // nothing else comes.
            let tried = !record.given || record.faults > 0;
            let origin = node == key.of.node;
            let few = tried && record.pulls >= TRIED_MAX;
            let asked = asked || (!origin && (few || (parted && ((failed && !dry) || shunned))));
            // Where there are no pieces, who is not known to give goes before nobody.
            let last = origin || (tried && !parted);
            let behind = tried && parted;
            let rank =
                (failed, shunned, gone.has(node), last, behind, record.bytes, node.0.wrapping_sub(turn));
            (!asked).then_some((rank, node))
        });
        able.min_by_key(|(rank, _)| *rank).map(|(_, node)| node)
    }

    /// An origin is asked for what is another's to pass on: when what is ours is under way, and for little at a time where others give something.
    fn may_give_more(&self, origin: NodeIndex) -> bool {
        let next = self.waiting.get(&origin).and_then(|waiting| waiting.of.first());
        if next.and_then(|(_, key)| self.wants.get(key)).is_some_and(|want| want.ours) {
            return false;
        }
        let idle = self.records.get(&origin).is_some_and(|record| record.pulls < TRIED_MAX);
        let gives = |(node, record): (&NodeIndex, &Record)| *node != origin && record.linked && record.given;
        idle || !self.records.iter().any(gives)
    }

    fn ask(&mut self, now: Time, key: Key, from: NodeIndex, out: &mut Vec<Order>) {
        if self.pulls.is_empty() {
            self.rate.begin(now);
        }
        let late = Time(now.0.saturating_add(self.late_ns()));
        let Some(want) = self.wants.get_mut(&key) else { return };
        let waited = unwait(&mut self.waiting, want.place, key);
        if let Some(parted) = self.parted.get_mut(&key.of) {
            parted.waiting -= usize::from(waited && parted.waiting > 0);
            parted.owed += usize::from(from == key.of.node);
        }
        self.numbered += 1;
        let request = self.numbered;
        want.requests.push(request);
        if want.alone && want.requests.len() == 1 {
            want.assembly.restart();
        }
        let offset = want.assembly.offset();
        let bytes = want.size.saturating_sub(offset);
        let (asked, began) = (now, now);
        let weight = weight(key.part, want.size);
        let pull = Pull { key, from, asked, began, size: bytes, answered: false, weight, bytes };
        self.pulls.insert(request, pull);
        self.records.entry(from).or_default().ask(now, request, weight, bytes);
        self.owed += bytes;
        self.late.insert((late, request));
        out.push(Order::Ask { from, request, key, offset });
    }

    /// A request is over; if it was the last of what is still wanted, that waits again.
    fn end(&mut self, request: u64) -> Option<Pull> {
        let pull = self.pulls.remove(&request)?;
        self.records.entry(pull.from).or_default().end(pull.weight, pull.bytes);
        self.owed = self.owed.saturating_sub(pull.bytes);
        self.late.retain(|(_, late)| *late != request);
        self.look = true;
        if let Some(parted) = self.parted.get_mut(&pull.key.of) {
            parted.owed = parted.owed.saturating_sub(usize::from(pull.from == pull.key.of.node));
        }
        if let Some(want) = self.wants.get_mut(&pull.key) {
            want.requests.retain(|other| *other != request);
            let place = want.place;
            if want.requests.is_empty() {
                self.wait(place, pull.key);
            }
        }
        Some(pull)
    }

    /// A chunk has come.
    pub(super) fn chunk(
        &mut self,
        now: Time,
        (from, request): (NodeIndex, u64),
        (offset, bytes): (u64, &[u8]),
        out: &mut Vec<Order>,
    ) -> Came {
        if !self.pulls.is_empty() {
            self.rate.came(now, bytes.len() as u64);
        }
        let Some(pull) = self.pulls.get(&request).copied() else {
            return if self.was_asked(from, request) { Came::Late } else { Came::Wrong };
        };
        if pull.from != from {
            return Came::Wrong;
        }
        let key = pull.key;
        let Some(want) = self.wants.get_mut(&key) else { return Came::Late };
        let (put, size) = (want.assembly.put(from, offset, bytes), want.size);
        if put != Put::Misplaced {
            self.progressed(now, request, bytes.len() as u64, out);
        }
        match put {
            Put::More => Came::Useful,
            Put::Whole(body) => {
                self.end(request);
                self.forget(key);
                if let Some(record) = self.records.get_mut(&from) {
                    record.gave(pull.weight);
                }
                Came::Whole { key, body }
            }
            Put::Corrupt { of } => {
                let by = of.iter().next().filter(|_| of.len() == 1);
                self.end(request);
                if let Some(want) = self.wants.get_mut(&key) {
                    // Each may have been wrong: none of them is asked before others, and the next one gives all of it.
                    want.failed = want.failed.with(&of);
                    want.alone |= by.is_none();
                }
                self.fault(now, key, by.unwrap_or(from), by.map(|_| now));
                Came::Corrupt { key, size, by }
            }
            Put::Misplaced => {
                self.end(request);
                self.fault(now, key, from, Some(now));
                out.push(Order::Cancel { from, request });
                Came::Misplaced { key }
            }
        }
    }

    /// Bytes of a request have come that can be right.
    fn progressed(&mut self, now: Time, request: u64, bytes: u64, out: &mut Vec<Order>) {
        let late = Time(now.0.saturating_add(self.late_ns()));
        let Some(pull) = self.pulls.get_mut(&request) else { return };
        let (key, from, first) = (pull.key, pull.from, !core::mem::replace(&mut pull.answered, true));
        let taken = pull.bytes.min(bytes);
        pull.bytes -= taken;
        if let Some(parted) = self.parted.get_mut(&key.of) {
            (parted.moved, parted.dry) = (now, false);
        }
        let latency = now.since(core::mem::replace(&mut pull.asked, now));
        // The next chunk has as long.
        let record = self.records.entry(from).or_default();
        record.bytes = record.bytes.saturating_sub(taken);
        (record.heard, record.came) = (now, Some(now));
        self.owed = self.owed.saturating_sub(taken);
        self.late.retain(|(_, late)| *late != request);
        self.late.insert((late, request));
        if first {
            self.learn(latency);
            self.cancel_others(key, request, out);
        }
    }

    /// Whether a peer can have been asked that on this link.
    fn was_asked(&self, from: NodeIndex, request: u64) -> bool {
        self.records.get(&from).is_some_and(|record| record.before < request && request <= record.latest)
    }

    /// A peer says that it cannot give what it was asked for; whether it was asked.
    pub(super) fn not_found(&mut self, now: Time, from: NodeIndex, request: u64) -> bool {
        if self.pulls.get(&request).is_none_or(|pull| pull.from != from) {
            return self.was_asked(from, request);
        }
        if let Some(record) = self.records.get_mut(&from) {
            record.heard = now;
        }
        if let Some(pull) = self.end(request) {
            self.fault(now, pull.key, from, Some(pull.began));
        }
        true
    }

    /// Looks at the time: who is silent for too long, whose answers are late, who may be asked again.
    pub(super) fn tick(&mut self, now: Time, stalled: &mut Vec<NodeIndex>, out: &mut Vec<Order>) {
        let patience = self.patience_ns();
        let silent = |record: &Record| record.pulls > 0 && now >= record.silent_at(patience);
        let silent: Vec<NodeIndex> =
            self.records.iter().filter(|(_, record)| silent(record)).map(|(node, _)| *node).collect();
        for node in silent {
            let theirs = self.pulls.iter().filter(|(_, pull)| pull.from == node);
            let theirs: Vec<u64> = theirs.map(|(request, _)| *request).collect();
            for request in theirs {
                out.push(Order::Cancel { from: node, request });
                if let Some(pull) = self.end(request) {
                    self.fault(now, pull.key, node, None);
                }
            }
            self.shun(now, node, now);
            stalled.push(node);
        }
        while let Some((_, request)) = self.late.first().copied().filter(|(at, _)| *at <= now) {
            self.late.pop_first();
            self.hedge(now, request, out);
        }
        for parted in self.parted.values_mut() {
            let dry = parted.dry_at().is_some_and(|at| at <= now);
            parted.dry |= dry;
            self.look |= dry;
        }
        while self.retries.first().is_some_and(|(at, _)| *at <= now) {
            self.retries.pop_first();
            self.look = true;
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let owing = self.records.values().filter(|record| record.pulls > 0);
        let patience = self.patience_ns();
        let silent = owing.map(|record| record.silent_at(patience)).min();
        let late = self.late.first().map(|(at, _)| *at);
        let again = self.retries.first().map(|(at, _)| *at);
        let dry = self.parted.values().filter_map(Parted::dry_at).min();
        [silent, late, again, dry, self.look_at].into_iter().flatten().min()
    }

    fn forget(&mut self, key: Key) {
        if let Some(want) = self.wants.remove(&key) {
            if unwait(&mut self.waiting, want.place, key)
                && let Some(parted) = self.parted.get_mut(&key.of)
            {
                parted.waiting = parted.waiting.saturating_sub(1);
            }
            self.retries.remove(&(want.again, key));
        }
    }

    /// One other is asked for what is late, if that happens rarely; for what is very late, in the place of who was asked.
    fn hedge(&mut self, now: Time, request: u64, out: &mut Vec<Order>) {
        let Some(pull) = self.pulls.get(&request).copied() else { return };
        let Some(want) = self.wants.get(&pull.key).filter(|want| want.requests.len() == 1) else { return };
        let failed = want.failed;
        // Who has given nothing yet is no more than tried.
        let given = self.records.get(&pull.from).is_some_and(|record| record.given);
        let times = if given || pull.key.part == Part::Whole { VERY_LATE } else { 1 };
        let very = Time(pull.asked.0.saturating_add(self.late_ns().saturating_mul(times)));
        let very = Time(very.0.saturating_add(self.patience_ns())).min(self.due(&pull));
        // Where nothing else waits, this is what all waits for.
        let last = self.parted.get(&pull.key.of).is_some_and(|parted| parted.waiting == 0);
        let who = if now >= very || last { Who::Anyone } else { Who::Sharers };
        let more = if last { GOSSIP_HEDGE_LAST } else { 0 };
        let rare = self.hedged.saturating_sub(more) * GOSSIP_HEDGE_PARTS <= self.answers
            && self.pulls.len() < GOSSIP_PULLS_MAX;
        let other = self.choose(now, pull.key, Some(pull.from), who).filter(|other| !failed.has(*other));
        match other {
            Some(other) if now >= very => {
                self.end(request);
                out.push(Order::Cancel { from: pull.from, request });
                self.fault(now, pull.key, pull.from, Some(pull.began));
                self.ask(now, pull.key, other, out);
            }
            Some(other) if rare && !pull.answered => {
                self.hedged += 1;
                self.ask(now, pull.key, other, out);
            }
            // Later, then; where nobody else has it there is nothing to do but wait.
            Some(_) | None => {
                let later = Time(now.0.saturating_add(self.late_ns().max(1_000_000)));
                self.late.insert((if now < very { very } else { later }, request));
            }
        }
    }

    /// When all of a request should have come, as fast as others come: twice what it takes if it comes behind all that is owed.
    fn due(&self, pull: &Pull) -> Time {
        let all = self.patience_ns().saturating_add(self.rate.ns_for(pull.size)).saturating_mul(2);
        Time(pull.began.0.saturating_add(self.late_ns().saturating_mul(VERY_LATE)).saturating_add(all))
    }

    fn cancel_others(&mut self, key: Key, request: u64, out: &mut Vec<Order>) {
        let Some(want) = self.wants.get(&key) else { return };
        let others: Vec<u64> = want.requests.iter().copied().filter(|other| *other != request).collect();
        for other in others {
            if let Some(pull) = self.end(other) {
                out.push(Order::Cancel { from: pull.from, request: other });
            }
        }
    }

    /// A peer has failed with this; it is shunned for it where it is said since when it was asked.
    fn fault(&mut self, now: Time, key: Key, node: NodeIndex, asked: Option<Time>) {
        if let Some(asked) = asked {
            self.shun(now, node, asked);
        }
        if let Some(want) = self.wants.get_mut(&key) {
            // That many have failed once is no reason to wait longer for each of them.
            want.turns += u32::from(want.failed.has(node));
            want.failed.insert(node);
            self.retries.remove(&(want.again, key));
            want.again = now.after_ms(pause_ms(want.turns));
            want.faults = want.faults.saturating_add(1);
            self.retries.insert((want.again, key));
        }
    }

    /// It fails with what it was asked for since then.
    fn shun(&mut self, now: Time, node: NodeIndex, asked: Time) {
        let record = self.records.entry(node).or_default();
        if record.failed(now, asked) {
            let retried = Key { of: Reference { node, ..Reference::default() }, part: Part::Whole };
            self.retries.insert((record.shunned, retried));
        }
    }

    fn learn(&mut self, latency: u64) {
        let at = usize::try_from(self.answers % LATENCIES as u64).unwrap_or(0);
        self.answers += 1;
        match self.latencies.get_mut(at) {
            Some(place) => *place = latency,
            None => self.latencies.push(latency),
        }
    }

    /// After so long an answer is late: 95 of 100 have come earlier.
    fn late_ns(&self) -> u64 {
        if self.latencies.len() < LATENCIES {
            let first = GOSSIP_HEDGE_MS_FIRST * 1_000_000;
            // Of a few the longest, twice.
            let few = self.latencies.iter().max().filter(|_| self.latencies.len() >= LATENCIES / 6);
            return few.map_or(first, |longest| longest.saturating_mul(2).min(first));
        }
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(LATENCIES - LATENCIES / 20).copied().unwrap_or(u64::MAX)
    }

    fn wait(&mut self, place: Place, key: Key) {
        if wait(&mut self.waiting, place, key)
            && let Some(parted) = self.parted.get_mut(&key.of)
        {
            parted.waiting += 1;
        }
    }

    /// Requests under way, others that were asked beside them, and what waits.
    pub(super) fn usage(&self) -> (usize, u64, usize) {
        (self.pulls.len(), self.hedged, self.waiting.values().map(|waiting| waiting.of.len()).sum())
    }
}

impl Parted {
    /// When nothing has come for long, if something is to come. While its origin owes us some of it that is as long as who owes may be silent, since what it
    /// is asked for besides comes behind that, and behind what it owes all others.
    fn dry_at(&self) -> Option<Time> {
        let ms = if self.owed > 0 { GOSSIP_STALL_MS } else { GOSSIP_DRY_MS };
        (self.waiting > 0 && !self.dry).then(|| self.moved.after_ms(ms))
    }
}

fn wait(waiting: &mut BTreeMap<NodeIndex, Waiting>, place: Place, key: Key) -> bool {
    waiting.entry(key.of.node).or_default().of.insert((place, key))
}

fn unwait(waiting: &mut BTreeMap<NodeIndex, Waiting>, place: Place, key: Key) -> bool {
    let Some(of_origin) = waiting.get_mut(&key.of.node) else { return false };
    let waited = of_origin.of.remove(&(place, key));
    if of_origin.of.is_empty() {
        waiting.remove(&key.of.node);
    }
    waited
}

impl Waiting {
    /// The first, and as many in turn.
    fn next(&mut self) -> Vec<(Place, Key)> {
        let mut next: Vec<_> = self.of.iter().take(LOOKED_MAX).copied().collect();
        let from = match (self.turn, next.last()) {
            (Some(turn), Some(last)) => Bound::Excluded(turn.max(*last)),
            (None, Some(last)) => Bound::Excluded(*last),
            (_, None) => Bound::Unbounded,
        };
        let others: Vec<_> = self.of.range((from, Bound::Unbounded)).take(LOOKED_MAX).copied().collect();
        self.turn = others.last().copied();
        next.extend(others);
        next
    }
}

impl Interest {
    /// Who goes first.
    pub(super) fn class(self) -> u8 {
        match self {
            Interest::FetchNow => 0,
            Interest::Fetch => 1,
            Interest::Later | Interest::Stash | Interest::Drop => 2,
        }
    }
}
