//! What a peer says: what it means to us, and what it may not say.
//!
//! Nothing here answers: what is to be said follows from what is known, when there is room to say it.
//!
//! Invariant: no word of a peer changes what is known of a node that speaks for itself, but by saying who has what. No word costs
//! more than it says.

use alloc::vec::Vec;

use busway_wire::gossip::{
    Describe, Exchange, Mark, Marks, NodeIndex, Part, Reference, Slot, Standing, Tell, Word,
};
use busway_wire::limits::{
    GOSSIP_AGAIN_MS, GOSSIP_ASKS_MAX, GOSSIP_HANDLED_MS, GOSSIP_HANDLED_TELLS, GOSSIP_MARKS_HANDLED_MS,
    GOSSIP_MARKS_INSIDE_MS,
};

use crate::gossip::asks::Stage;
use crate::gossip::due::Due;
use crate::gossip::known::Applied;
use crate::gossip::peer::Serving;
use crate::gossip::pulls::{Came, Key};
use crate::gossip::reader::Ahead;
use crate::gossip::{Fault, Gossip, Output, Why};
use crate::time::Time;

impl Gossip {
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeIndex,
        word: Word,
        following: &[u8],
        out: &mut Vec<Output>,
    ) {
        let early = self.peers.get(&from).is_none_or(|peer| peer.reader.is_none());
        if early && !matches!(word, Word::Exchange(_)) {
            self.count_forged(&word);
            if self.peers.contains_key(&from) {
                self.blame(from, Fault::Order, out);
            }
            return;
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        match word {
            Word::Exchange(exchange) => self.hear_exchange(now, from, exchange, out),
            Word::Tell(tell) => self.hear_tell(now, from, tell, out),
            Word::Handled { tells, marks } => {
                match peer.reader.as_mut().map(|reader| reader.handled(tells, marks)) {
                    Some(Ok(known)) => self.known.acknowledged(from, known, &mut self.flows),
                    Some(Err(Ahead)) | None => self.blame(from, Fault::Ahead, out),
                }
            }
            Word::Marks(marks) => self.hear_marks(now, from, marks, out),
            Word::Ask { of } => {
                if !peer.describe(&of) {
                    self.blame(from, Fault::Greedy, out);
                }
            }
            Word::Describe(describe) => self.hear_description(now, from, describe, out),
            Word::Have { of, pieces } => self.hear_have(now, from, of, &pieces),
            Word::Request { request, of, part, offset } => {
                if !peer.serve(Serving { request, of, part, offset }) {
                    self.blame(from, Fault::Greedy, out);
                }
            }
            Word::Chunk { request, offset } => {
                self.hear_chunk(now, (from, request), (offset, following), out);
            }
            Word::NotFound { request } => {
                self.counts.not_found += 1;
                if !self.pulls.not_found(now, from, request) {
                    self.blame(from, Fault::Chunk, out);
                }
            }
            Word::Cancel { request } => peer.serving.retain(|serving| serving.request != request),
        }
    }

    /// A link has one start of each side: another one would have another link.
    fn hear_exchange(&mut self, now: Time, from: NodeIndex, exchange: Exchange, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.reader.is_some() && peer.epoch != exchange.epoch {
            return self.blame(from, Fault::Order, out);
        }
        if let Some((exchange, count)) = peer.exchanged(now, exchange) {
            self.follow(now, from, (exchange, count), out);
        }
    }

    /// A peer is to be told what it says it does not know.
    pub(super) fn follow(
        &mut self,
        now: Time,
        from: NodeIndex,
        (exchange, count): (Exchange, u64),
        out: &mut Vec<Output>,
    ) {
        let marked = self.known.marked;
        let gone = self.known.begin(from, (exchange.epoch, exchange.version), &mut self.flows);
        self.gone(gone, out);
        self.marked_since(now, marked);
        let ours = self.ours();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.epoch = exchange.epoch;
        let reader = peer.reader.get_or_insert_default();
        reader.begin(exchange, ours);
        reader.exchanges = count;
        let known = (0, reader.acknowledged);
        self.known.acknowledged(from, known, &mut self.flows);
        self.greet(now, from);
    }

    fn hear_tell(&mut self, now: Time, from: NodeIndex, tell: Tell, out: &mut Vec<Output>) {
        for slot in tell.slots {
            let (mut gone, marked) = (Vec::new(), self.known.marked);
            let (_, applied) = self.known.told(now, (from, slot), &mut self.flows, &mut gone);
            self.gone(gone, out);
            self.marked_since(now, marked);
            self.count(now, applied);
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.tells += 1;
        if peer.tells.is_multiple_of(GOSSIP_HANDLED_TELLS) {
            peer.handled = Due::Now;
        } else {
            peer.handled.by(now.after_ms(GOSSIP_HANDLED_MS));
        }
        // What it said before it heard that something is missing says nothing of what is missing.
        if tell.exchanges == peer.exchanges {
            let gone = self.known.through_slots(from, tell.through, &mut self.flows);
            self.gone(gone, out);
        }
        self.learned(from, tell.through);
    }

    /// Counts what became of a change of a slot.
    fn count(&mut self, now: Time, applied: Applied) {
        self.counts.told_of += 1;
        match applied {
            Applied::Handled => self.counts.handled += 1,
            Applied::Coalesced => self.counts.coalesced += 1,
            Applied::Dropped(why) => {
                self.counts.dropped[why as usize] += 1;
                if why == Why::Room {
                    self.recover_at.get_or_insert(now.after_ms(GOSSIP_AGAIN_MS));
                }
            }
        }
    }

    /// What nobody may say is counted, and nothing else.
    fn count_forged(&mut self, word: &Word) {
        let slots = match word {
            Word::Tell(tell) => tell.slots.len(),
            Word::Describe(describe) => describe.slots.len(),
            _ => 0,
        };
        self.counts.told_of += slots as u64;
        self.counts.dropped[Why::Forged as usize] += slots as u64;
    }

    /// What others were told of us may have changed.
    fn marked_since(&mut self, now: Time, marked: u64) {
        if self.known.marked > marked {
            self.marks_by(now, GOSSIP_MARKS_INSIDE_MS);
        }
    }

    /// A node has told us all up to there: who has said that it has what is known now, has it; and what is not known now is over.
    fn learned(&mut self, of: NodeIndex, through: u64) {
        let Some(epoch) = self.known.origins.get(&of).map(|origin| origin.epoch) else { return };
        for (node, peer) in self.peers.iter_mut().filter(|(_, peer)| !peer.asks.is_empty()) {
            for of in peer.asks.told(of, epoch, through) {
                if self.known.artifact(of).is_some() {
                    self.known.has(of, *node);
                    self.pulls.holder(Key::whole(of), *node, true);
                }
            }
        }
    }

    /// Whether a node is there to speak for itself.
    fn is_linked(&self, node: NodeIndex) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.reader.is_some())
    }

    fn hear_marks(&mut self, now: Time, from: NodeIndex, marks: Marks, out: &mut Vec<Output>) {
        for marked in marks.of {
            if marked.node == from {
                self.blame(from, Fault::Forged, out);
                continue;
            }
            for Mark { slot, version, standing } in marked.marks {
                self.counts.marks_heard += 1;
                let of = Reference { node: marked.node, epoch: marked.epoch, slot, version };
                if marked.node == self.config.node {
                    self.confirmed(now, from, of, standing, out);
                } else if standing == Standing::Has {
                    self.hear_has(now, from, of);
                } else {
                    self.hear_lacks(now, from, of, out);
                }
            }
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.handled.by(now.after_ms(GOSSIP_MARKS_HANDLED_MS));
        if marks.exchanges == peer.exchanges {
            self.known.through_marks(from, marks.through);
        }
    }

    /// A peer has what we offer, or will not have it.
    fn confirmed(
        &mut self,
        now: Time,
        from: NodeIndex,
        of: Reference,
        standing: Standing,
        out: &mut Vec<Output>,
    ) {
        if standing == Standing::Lacks || self.own(of.slot) != Some(of) {
            return;
        }
        let Some(own) = self.table.slot_mut(of.slot) else { return };
        let Some(offered) = own.offered.as_mut().filter(|offered| offered.until.is_some()) else { return };
        offered.confirmed.insert(from);
        if self.config.members.without(&offered.confirmed).is_empty() {
            self.table.withdraw(now, of.slot);
            out.push(Output::Reached { slot: of.slot });
        }
    }

    fn hear_lacks(&mut self, now: Time, from: NodeIndex, of: Reference, out: &mut Vec<Output>) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.asks.remove(of);
        }
        let marked = self.known.marked;
        let over = self.known.lacks(of, from, &mut self.flows);
        self.pulls.holder(Key::whole(of), from, false);
        if let Some((gone, others)) = over {
            if !others.is_empty() && self.doubts.len() < GOSSIP_ASKS_MAX {
                self.doubts.push_back((now.after_ms(GOSSIP_AGAIN_MS), of, others));
            }
            self.gone(Vec::from([gone]), out);
            self.marked_since(now, marked);
        }
    }

    /// Of what is over by the word of one, two others who stood for it are asked whether they have it still.
    pub(super) fn ask_others(&mut self, now: Time) {
        while let Some((_, of, others)) = self.doubts.front().copied().filter(|(at, ..)| *at <= now) {
            self.doubts.pop_front();
            let linked: Vec<NodeIndex> = others.iter().filter(|node| self.is_linked(*node)).take(2).collect();
            linked.into_iter().for_each(|node| self.hear_has(now, node, of));
        }
    }

    fn hear_has(&mut self, now: Time, from: NodeIndex, of: Reference) {
        if self.known.entry(of).is_some_and(|entry| !entry.is_over()) {
            self.known.has(of, from);
            self.pulls.holder(Key::whole(of), from, true);
            return;
        }
        if self.known.is_told(of) {
            return;
        }
        // Who speaks for itself will tell us; but who is told by it before us may have it first.
        let linked = self.is_linked(of.node);
        let stage = if linked { Stage::Waits } else { Stage::Open };
        let known = self.known.origins.get(&from).map_or(0, |origin| origin.since().1);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if !peer.asks.insert(of, known, stage) {
            self.known.lose_marks(from, known);
            self.recover_at.get_or_insert(now.after_ms(GOSSIP_AGAIN_MS));
        } else if !linked {
            peer.asks_due = Due::Now;
        }
    }

    fn hear_description(&mut self, now: Time, from: NodeIndex, describe: Describe, out: &mut Vec<Output>) {
        let Describe { node, epoch, slots } = describe;
        if node == from || node == self.config.node {
            self.count_forged(&Word::Describe(Describe { node, epoch, slots }));
            return self.blame(from, Fault::Forged, out);
        }
        for slot in slots {
            let Slot { slot, version, offer } = slot;
            let of = Reference { node, epoch, slot, version };
            let Some(peer) = self.peers.get_mut(&from) else { return };
            let asked = peer.asks.remove(of);
            peer.handled.by(now.after_ms(GOSSIP_MARKS_HANDLED_MS));
            let Some((after, Stage::Said)) = asked else {
                // It may have said meanwhile that it has it no more.
                let over = offer.is_none();
                self.count(now, if over { Applied::Coalesced } else { Applied::Dropped(Why::Forged) });
                continue;
            };
            let applied = match offer {
                None => Applied::Coalesced,
                Some(_) if self.is_linked(node) => {
                    // It speaks for itself since we have asked.
                    self.hear_has(now, from, of);
                    Applied::Coalesced
                }
                Some(offer) => self.known.described(now, from, (of, offer), &mut self.flows),
            };
            self.count(now, applied);
            if applied == Applied::Dropped(Why::Room) {
                self.known.lose_marks(from, after);
            }
            let holds = self.known.entry(of).is_some_and(|entry| entry.holders.has(from));
            self.pulls.holder(Key::whole(of), from, holds);
        }
    }

    fn hear_chunk(
        &mut self,
        now: Time,
        (from, request): (NodeIndex, u64),
        (offset, bytes): (u64, &[u8]),
        out: &mut Vec<Output>,
    ) {
        let mut orders = core::mem::take(&mut self.orders);
        let came = self.pulls.chunk(now, (from, request), (offset, bytes), &mut orders);
        self.orders = orders;
        let size = bytes.len() as u64;
        match came {
            // It counts when the whole is what it should be.
            Came::Useful => {}
            Came::Whole { key, body } if key.part == Part::Whole => {
                self.counts.bytes_useful += body.len() as u64;
                self.received(now, key.of, body, out);
            }
            Came::Whole { key, body } => self.part_came(now, from, key, body, out),
            Came::Late => self.counts.bytes_wasted += size,
            Came::Wrong => {
                self.counts.bytes_wasted += size;
                self.blame(from, Fault::Chunk, out);
            }
            Came::Misplaced { key } => {
                self.counts.bytes_wasted += size;
                if self.known.is_first_hand(key.of) {
                    self.blame(from, Fault::Chunk, out);
                }
            }
            Came::Corrupt { key, size, by } => {
                self.counts.bytes_wasted += size;
                // Where its origin has not said what it is, who has may be wrong.
                if let Some(node) = by.filter(|_| self.known.is_first_hand(key.of)) {
                    self.blame(node, Fault::Corrupt, out);
                }
            }
        }
    }
}
