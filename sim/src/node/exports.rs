//! Local rings towards peers: who has a row where, and what it reads.
//!
//! Invariant: a peer has one row at each ring that it wants, and none at others.

use busway_protocol::{Input, PeerId, Room};
use busway_wire::link::Announce;
use busway_wire::{Flags, Pattern, PortId, Run, TopicId};

use super::{Around, Node};
use crate::memory::Wish;
use crate::message::Message;
use crate::ring::Taken;
use crate::seen::Seen;
use crate::trace::Happening;

impl Node {
    /// Somebody on this host wants something new.
    pub(crate) fn wish(&mut self, wish: &Wish, around: &mut Around<'_>) {
        for peer in self.peer_ids() {
            self.want(peer, wish, around);
        }
        self.pump(around);
    }

    /// Nobody on this host wants it any more.
    pub(crate) fn unwish(&mut self, wish: &Wish, around: &mut Around<'_>) {
        for peer in self.peer_ids() {
            self.tell(peer, Input::Unwant { id: wish.id }, around);
        }
        self.pump(around);
    }

    /// A publisher on this host has opened its ring.
    pub(crate) fn ring_opened(&mut self, source: PortId, around: &mut Around<'_>) {
        for peer in self.peer_ids() {
            self.attach_wanted(peer, source, around);
        }
        self.pump(around);
    }

    /// A publisher on this host has left; its messages stay until they are read.
    pub(crate) fn ring_closed(&mut self, source: PortId, around: &mut Around<'_>) {
        let Some(last) = around.memory.rings.get(&source).map(|ring| ring.next() - 1) else { return };
        for peer in self.peer_ids() {
            if self.peers.get(&peer).is_some_and(|peer| peer.exports.contains_key(&source)) {
                self.tell(peer, Input::SourceGone { source, last }, around);
            }
        }
        self.pump(around);
    }

    /// Whether a peer has asked for a topic that this pattern names.
    #[must_use]
    pub(crate) fn is_wanted_by(&self, id: PeerId, pattern: &Pattern) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.wants.values().any(|(wanted, _)| wanted == pattern))
    }

    pub(super) fn want(&mut self, id: PeerId, wish: &Wish, around: &mut Around<'_>) {
        let Wish { id: number, pattern, reliable } = wish.clone();
        self.tell(id, Input::Want { id: number, pattern, reliable }, around);
    }

    pub(super) fn peer_wants(
        &mut self,
        id: PeerId,
        number: u32,
        wanted: (Pattern, bool),
        around: &mut Around<'_>,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.wants.insert(number, wanted);
        let sources: Vec<PortId> = around.memory.rings.keys().copied().collect();
        for source in sources {
            self.attach_wanted(id, source, around);
        }
    }

    pub(super) fn peer_unwants(&mut self, id: PeerId, number: u32, around: &mut Around<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.wants.remove(&number);
        let unwanted = |source: &&PortId| {
            let topic = around.memory.rings.get(*source).map(|ring| &ring.topic);
            !topic.is_some_and(|topic| peer.wants.values().any(|(pattern, _)| pattern.matches(topic)))
        };
        let gone: Vec<PortId> = peer.exports.keys().filter(unwanted).copied().collect();
        for source in gone {
            let Some(ring) = around.memory.rings.get_mut(&source) else { continue };
            let Some(last) = ring.end(id) else { continue };
            around.seen.push(Seen::RowClosed { source, peer: id });
            self.tell(id, Input::SourceGone { source, last }, around);
        }
    }

    /// A row that was to end is not needed any more; the peer may have asked for the ring again meanwhile.
    pub(super) fn source_done(&mut self, id: PeerId, source: PortId, around: &mut Around<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.exports.remove(&source);
        if let Some(ring) = around.memory.rings.get_mut(&source) {
            ring.detach(id);
            if !ring.closed {
                self.attach_wanted(id, source, around);
            }
        }
    }

    /// Gives the peer a row at the ring if it wants one and has none.
    fn attach_wanted(&mut self, id: PeerId, source: PortId, around: &mut Around<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(ring) = around.memory.rings.get_mut(&source) else { return };
        let matching = peer.wants.values().filter(|(pattern, _)| pattern.matches(&ring.topic));
        let Some(reliable) = matching.map(|(_, reliable)| *reliable).reduce(|a, b| a || b) else { return };
        if peer.exports.contains_key(&source) {
            return;
        }
        let (row, new) = ring.attach(id, reliable);
        peer.exports.insert(source, row.read);
        if new {
            around.seen.push(Seen::RowOpened { source, peer: id, first: row.first });
        }
        let announce = Announce {
            source,
            topic: ring.topic.clone(),
            publisher: "publisher".to_owned(),
            process: "simulated".to_owned(),
            host: format!("host {}", around.memory.host),
            created_ns: 1,
            reliable,
            resumes: false,
        };
        around.trace.note(
            around.world,
            Happening {
                host: around.memory.host,
                what: if new { "new row" } else { "row again" },
                whom: super::number_of(id),
                much: row.read,
                source: source.0,
                note: "",
            },
        );
        let closed = ring.closed.then(|| ring.next() - 1);
        self.tell(id, Input::Source { announce, next: row.read }, around);
        if let Some(last) = closed {
            self.tell(id, Input::SourceGone { source, last }, around);
        }
    }

    /// Gives the session what it may send now. Whether there may be more when this is written.
    pub(super) fn fill(&mut self, id: PeerId, around: &mut Around<'_>) -> bool {
        let Some(exports) = self.peers.get(&id).map(|peer| peer.exports.len()) else { return false };
        let mut idle = 0;
        while idle <= exports {
            let Some(peer) = self.peers.get_mut(&id) else { return false };
            let Some(source) = peer.session.next_source() else { return exports > 0 };
            let (room, mut run) = (peer.session.room(source), peer.session.spare_run());
            run.begin(TopicId(0), source, 0, 0);
            // Small messages that follow each other go together, as they do from a real ring.
            let taken = loop {
                if !room.has(&run, 0) && run.count() > 0 {
                    break Taken::Nothing;
                }
                let taken = around.memory.rings.get_mut(&source).map_or(Taken::Nothing, |ring| ring.take(id));
                match taken {
                    Taken::Message(message) if pack(&mut run, &room, source, &message) => {}
                    other => break other,
                }
            };
            if run.count() > 0 {
                idle = 0;
                self.tell(id, Input::Run(run), around);
            } else if matches!(taken, Taken::Nothing) {
                peer.session.put_back(run);
                idle += 1;
            }
            match taken {
                Taken::Nothing => {}
                Taken::Overrun => {
                    let host = around.memory.host;
                    around.seen.push(Seen::Broken { host, what: "a reliable row reads what it has passed" });
                    return false;
                }
                Taken::Message(message) => {
                    idle = 0;
                    let (header, payload) = (message.header, message.body);
                    self.tell(id, Input::Publish { source, header, payload }, around);
                }
                Taken::Lost { from, to, cause } => {
                    idle = 0;
                    self.tell(id, Input::Lost { source, from, to, cause }, around);
                }
            }
        }
        false
    }
}

/// Puts a message into a run that it follows, if it is one for runs and has room there.
fn pack(run: &mut Run, room: &Room, source: PortId, message: &Message) -> bool {
    let (header, body) = (&message.header, message.body.as_ref());
    let Some(flags) = Flags::from_bits(header.flags) else { return false };
    let (sequence, time_ns) = (header.sequence.get(), header.time_ns.get());
    if run.count() == 0 {
        run.begin(TopicId(header.topic.get()), source, sequence, time_ns);
    }
    header.extensions == 0
        && sequence == run.last() + 1
        && room.has(run, body.len())
        && run.push(flags.without(Flags::OF_A_HOST).bits(), time_ns, header.correlation.get(), body)
}
