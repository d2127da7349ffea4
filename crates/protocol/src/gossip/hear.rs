//! What a peer says: what it means to us, and what it may not say.
//!
//! Nothing here answers: what is to be said follows from what is known, when there is room to say it.
//!
//! Invariant: no word of a peer changes what is known of a node that speaks for itself, but by saying who has what.

use alloc::vec::Vec;

use busway_wire::gossip::{
    Describe, Epoch, Exchange, Mark, Marks, NodeIndex, Reference, Slot, Standing, Tell, Word,
};
use busway_wire::limits::{
    GOSSIP_AGAIN_MS, GOSSIP_ASK_MS, GOSSIP_HANDLED_MS, GOSSIP_HANDLED_TELLS, GOSSIP_MARKS_INSIDE_MS,
};

use crate::gossip::due::Due;
use crate::gossip::known::{Applied, Key};
use crate::gossip::peer::Serving;
use crate::gossip::pulls::Came;
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
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.reader.is_none() && !matches!(word, Word::Exchange(_)) {
            return self.blame(from, Fault::Order, out);
        }
        match word {
            Word::Exchange(exchange) => self.hear_exchange(now, from, exchange, out),
            Word::Tell(tell) => self.hear_tell(now, from, tell, out),
            Word::Handled { tells } => {
                let handled = peer.reader.as_mut().map(|reader| reader.handled(tells));
                if handled.is_none_or(|handled| handled.is_err()) {
                    self.blame(from, Fault::Ahead, out);
                }
            }
            Word::Marks(marks) => self.hear_marks(now, from, marks, out),
            Word::Ask { of } => {
                if !peer.describe(&of) {
                    self.blame(from, Fault::Greedy, out);
                }
            }
            Word::Describe(describe) => self.hear_description(now, from, describe, out),
            Word::Request { request, of, offset } => {
                if !peer.serve(Serving { request, of, offset }) {
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

    fn hear_exchange(&mut self, now: Time, from: NodeIndex, exchange: Exchange, out: &mut Vec<Output>) {
        let marked = self.known.marked;
        let gone = self.known.begin(from, exchange.epoch, &mut self.flows);
        self.gone(gone, out);
        self.marked_since(now, marked);
        let ours = self.ours();
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.reader.get_or_insert_default().begin(exchange, ours);
        }
    }

    fn hear_tell(&mut self, now: Time, from: NodeIndex, tell: Tell, out: &mut Vec<Output>) {
        for slot in tell.slots {
            self.apply(now, from, from, slot, out);
        }
        self.known.through_slots(from, tell.through);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.tells += 1;
        if peer.tells.is_multiple_of(GOSSIP_HANDLED_TELLS) {
            peer.handled = Due::Now;
        } else {
            peer.handled.by(now.after_ms(GOSSIP_HANDLED_MS));
        }
    }

    /// Takes in what a peer says of a slot, and counts what became of it.
    fn apply(
        &mut self,
        now: Time,
        from: NodeIndex,
        node: NodeIndex,
        slot: Slot,
        out: &mut Vec<Output>,
    ) -> Applied {
        let key = Key { node, slot: slot.slot };
        let (mut gone, marked) = (Vec::new(), self.known.marked);
        let applied = self.known.apply(now, from, (node, slot), &mut self.flows, &mut gone);
        self.gone(gone, out);
        self.marked_since(now, marked);
        self.counts.told_of += 1;
        match applied {
            Applied::Handled => {
                self.counts.handled += 1;
                self.learned(key);
            }
            Applied::Coalesced => self.counts.coalesced += 1,
            Applied::Dropped(why) => {
                self.counts.dropped[why as usize] += 1;
                if why == Why::Room && self.recover_at.is_none() {
                    self.recover_at = Some(now.after_ms(GOSSIP_AGAIN_MS));
                }
            }
        }
        applied
    }

    /// What others were told of us may have changed.
    fn marked_since(&mut self, now: Time, marked: u64) {
        if self.known.marked > marked {
            self.marks_by(now, GOSSIP_MARKS_INSIDE_MS);
        }
    }

    /// A node of which others speak is at this start of it; whether what they say means anything.
    fn hear_of(&mut self, now: Time, node: NodeIndex, epoch: Epoch, out: &mut Vec<Output>) -> bool {
        let marked = self.known.marked;
        let linked = self.peers.get(&node).is_some_and(|peer| peer.reader.is_some());
        let (sound, gone) = self.known.hear_of(node, epoch, linked, &mut self.flows);
        self.gone(gone, out);
        self.marked_since(now, marked);
        sound
    }

    /// Who had said that it has what is known now, has it.
    fn learned(&mut self, key: Key) {
        for (node, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.has_asks()) {
            let Some(of) = peer.learned(key) else { continue };
            if self.known.artifact(of).is_some() {
                if let Some(entry) = self.known.entry_mut(key) {
                    entry.holders.insert(*node);
                }
                self.pulls.holder(key, *node, true);
            }
        }
    }

    fn hear_marks(&mut self, now: Time, from: NodeIndex, marks: Marks, out: &mut Vec<Output>) {
        for marked in marks.of {
            if marked.node == from {
                self.blame(from, Fault::Forged, out);
                continue;
            }
            if marked.marks.is_empty() && marked.node != self.config.node {
                self.hear_of(now, marked.node, marked.epoch, out);
            }
            for Mark { slot, version, standing } in marked.marks {
                self.counts.marks_heard += 1;
                let of = Reference { node: marked.node, epoch: marked.epoch, slot, version };
                if marked.node == self.config.node {
                    self.confirmed(now, from, of, standing, out);
                } else {
                    self.hear_mark(now, from, of, standing);
                }
            }
        }
        self.known.through_marks(from, marks.through);
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

    fn hear_mark(&mut self, now: Time, from: NodeIndex, of: Reference, standing: Standing) {
        let key = Key::of(of);
        let origin = self.known.origins.get(&of.node).copied();
        let linked = self.peers.get(&of.node).is_some_and(|peer| peer.reader.is_some());
        if origin.is_some_and(|origin| origin.epoch > of.epoch || (linked && origin.epoch != of.epoch)) {
            return;
        }
        let same = origin.is_some_and(|origin| origin.epoch == of.epoch);
        let has = standing == Standing::Has;
        let version = self.known.entry(key).filter(|_| same).map(|entry| entry.version);
        if let Some(entry) = self.known.entry_mut(key).filter(|_| same) {
            let holds = has && entry.version == of.version;
            if holds {
                entry.holders.insert(from);
            } else if entry.version <= of.version {
                entry.lacked_by(from);
            }
            self.pulls.holder(key, from, holds);
        }
        if has && self.known.is_over(of) {
            // It would else learn of the end from the origin alone.
            if let Some(peer) = self.peers.get_mut(&from) {
                peer.describe(&[of]);
            }
            return;
        }
        let newer = version.is_none_or(|version| version < of.version);
        // Who speaks for itself will tell us; but who is told by it before us may have it first.
        let told = origin.is_some_and(|origin| linked && origin.since().0 >= of.version);
        if newer && !told && (has || !linked) {
            let at = if linked { now.after_ms(GOSSIP_ASK_MS) } else { now };
            let asked = self.peers.get_mut(&from).is_some_and(|peer| peer.ask(of, standing, at));
            if !asked {
                let marks = self.known.origins.get(&from).map_or(0, |origin| origin.since().1);
                self.known.lose_marks(from, marks);
                self.recover_at.get_or_insert(now.after_ms(GOSSIP_AGAIN_MS));
            }
        }
    }

    fn hear_description(&mut self, now: Time, from: NodeIndex, describe: Describe, out: &mut Vec<Output>) {
        let Describe { node, epoch, slots } = describe;
        if node == from || node == self.config.node {
            return self.blame(from, Fault::Forged, out);
        }
        if !self.hear_of(now, node, epoch, out) {
            self.counts.told_of += slots.len() as u64;
            self.counts.coalesced += slots.len() as u64;
            return;
        }
        for slot in slots {
            let key = Key { node, slot: slot.slot };
            let offered = slot.offer.is_some();
            match self.apply(now, from, node, slot, out) {
                Applied::Handled | Applied::Coalesced if offered && self.described(from, key) => {
                    if let Some(entry) = self.known.entry_mut(key) {
                        entry.holders.insert(from);
                    }
                    self.pulls.holder(key, from, true);
                }
                Applied::Dropped(Why::Room) => self.known.lose_marks(from, 0),
                Applied::Handled | Applied::Coalesced | Applied::Dropped(_) => {}
            }
        }
    }

    fn described(&mut self, from: NodeIndex, key: Key) -> bool {
        self.peers.get_mut(&from).is_some_and(|peer| peer.described(key))
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
            Came::Useful => self.counts.bytes_useful += size,
            Came::Whole { key, body } => {
                self.counts.bytes_useful += size;
                self.received(now, key, body, out);
            }
            Came::Late => self.counts.bytes_wasted += size,
            Came::Wrong => {
                self.counts.bytes_wasted += size;
                self.blame(from, Fault::Chunk, out);
            }
            Came::Misplaced { key } => {
                self.counts.bytes_wasted += size;
                if self.known.is_first_hand(key) {
                    self.blame(from, Fault::Chunk, out);
                }
            }
            Came::Corrupt { key, by } => {
                self.counts.bytes_wasted += size;
                // Where its origin has not said what it is, who has may be wrong.
                if let Some(node) = by.filter(|_| self.known.is_first_hand(key)) {
                    self.blame(node, Fault::Corrupt, out);
                }
            }
        }
    }
}
