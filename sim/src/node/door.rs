//! Who is let in, who is dialed, who gives way: what the membership decides, carried out as the runtime's door does.
//!
//! Invariant: the membership is told of the end of each connection that it was told of.

use busway_protocol::{Closed, ConnectionId, Input, Link, PeerId, Session, membership};
use busway_wire::link::Refusal;

use super::{Around, LINGER_MS, Node, Peer, RefusalCode, Stage, Told, Wire, number_of};
use crate::message::Payload;
use crate::network::{End, Side};
use crate::seen::{Budget, Seen};
use crate::trace::Happening;

impl Node {
    /// Somebody has connected: a stranger.
    pub(super) fn accept(&mut self, end: End, around: &mut Around<'_>) {
        let connection = end.connection;
        let link = Link::accept(&self.setup.config, around.now);
        self.wires.insert(connection, Wire::new(end, Stage::Unidentified(Box::new(link))));
        self.readable.insert(connection);
        self.busy.insert(connection);
        let connection = ConnectionId(connection);
        self.decide(membership::Input::Accepted { connection, address: None }, around);
        let ((held, bound), what) = (self.membership.slots(), Budget::Slots);
        let (host, held, bound) = (around.memory.host, held as u64, bound as u64);
        around.seen.push(Seen::Held { host, what, held, bound });
    }

    /// Whom we dialed has answered.
    pub(super) fn connected(&mut self, end: End, around: &mut Around<'_>) {
        let Some((peer, attempt)) = self.dialing.remove(&end.connection) else { return };
        let connection = ConnectionId(end.connection);
        self.wires.insert(end.connection, Wire::new(end, Stage::Peer(peer)));
        self.readable.insert(end.connection);
        self.decide(membership::Input::Connected { attempt, connection }, around);
        if self.wires.contains_key(&end.connection) {
            let link = Link::dial(&self.setup.config, peer, around.now);
            self.adopt(end.connection, peer, link, around);
        }
    }

    /// The connection that we were making will not be.
    pub(super) fn dial_failed(&mut self, connection: u64, around: &mut Around<'_>) {
        if let Some((_, attempt)) = self.dialing.remove(&connection) {
            let reason = "refused".to_owned();
            self.decide(membership::Input::ConnectFailed { attempt, reason }, around);
        }
    }

    /// The link of a peer stands.
    pub(super) fn established(&mut self, id: PeerId, instance: u64, around: &mut Around<'_>) {
        around.seen.push(Seen::Linked { host: around.memory.host, peer: id, instance });
        if let Some(connection) = self.peers.get(&id).and_then(|peer| peer.connection) {
            let connection = ConnectionId(connection);
            self.decide(membership::Input::Identified { connection, identity: id }, around);
        }
    }

    /// Tells the membership what has come from a peer.
    pub(super) fn heed(&mut self, id: PeerId, around: &mut Around<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (Some(stats), Some(connection)) = (peer.session.stats(), peer.connection) else { return };
        let connection = ConnectionId(connection);
        let messages = stats.messages_in.saturating_add(stats.messages_seen);
        if messages != peer.told.messages {
            peer.told = Told { messages, answered: true };
            self.decide(membership::Input::Message { connection }, around);
        } else if stats.round_trip_ns > 0 && !peer.told.answered {
            peer.told.answered = true;
            self.decide(membership::Input::Answered { connection }, around);
        }
    }

    /// Takes newcomers in, or lets them wait.
    pub(super) fn admit(&mut self, around: &mut Around<'_>) {
        let admits = self.membership.admits(around.now);
        if self.holds != admits.is_err() {
            self.holds = admits.is_err();
            around.network.hold(around.world, around.memory.host, self.holds);
        }
        if let Err(until) = admits {
            self.again = Some(self.again.map_or(until, |again| again.min(until)));
        }
    }

    /// Tells the membership what has happened, and does what it decides.
    pub(super) fn decide(&mut self, input: membership::Input, around: &mut Around<'_>) {
        let mut out = Vec::new();
        self.membership.handle(around.now, input, &mut out);
        self.membership_at = self.membership.deadline().map(|(at, _)| at);
        for output in out {
            match output {
                membership::Output::Dial { peer: PeerId::Node { index }, attempt } => {
                    let end = around.network.dial(around.world, around.memory.host, usize::from(index));
                    self.dialing.insert(end.connection, (PeerId::Node { index }, attempt));
                }
                membership::Output::Dial { peer: PeerId::Client { .. }, .. } => {
                    around.seen.push(Seen::Broken { host: around.memory.host, what: "a client is dialed" });
                }
                membership::Output::Abandon { attempt } => {
                    let dialing = self.dialing.iter().find(|(_, (_, of))| *of == attempt);
                    if let Some(connection) = dialing.map(|(&connection, _)| connection) {
                        self.dialing.remove(&connection);
                        around.network.close(around.world, End { connection, side: Side::Dialer });
                    }
                }
                membership::Output::Use { connection, identity } => {
                    let Some(wire) = self.wires.get_mut(&connection.0) else { continue };
                    // What we dialed is its peer's already.
                    if !matches!(wire.stage, Stage::Unidentified(_)) {
                        continue;
                    }
                    let stage = std::mem::replace(&mut wire.stage, Stage::Peer(identity));
                    let Stage::Unidentified(link) = stage else { continue };
                    self.adopt(connection.0, identity, *link, around);
                }
                membership::Output::Refuse { connection, why, retry_after_ms } => {
                    let refusal = Refusal::new(why.code(), why.text(), retry_after_ms);
                    self.refuse(connection.0, refusal, around);
                }
                membership::Output::Close { connection, .. } => self.hang_up(connection.0, around),
            }
        }
    }

    /// The connection is the peer's from now on; an older one is closed.
    pub(super) fn adopt(
        &mut self,
        connection: u64,
        id: PeerId,
        link: Link<Payload>,
        around: &mut Around<'_>,
    ) {
        self.meet(id, around);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let older = peer.connection.replace(connection);
        peer.told = Told::default();
        let mut out = Vec::new();
        peer.session.connected(around.now, link, &mut out);
        self.gone.retain(|(_, gone)| *gone != id);
        self.busy.insert(connection);
        self.carry_out(id, out, around);
        let is_peers = |wire: &Wire| matches!(wire.stage, Stage::Peer(_));
        if let Some(older) = older.filter(|older| self.wires.get(older).is_some_and(is_peers)) {
            self.hang_up(older, around);
        }
    }

    /// The peer of this name, made if it is new.
    fn meet(&mut self, id: PeerId, around: &mut Around<'_>) {
        if self.peers.contains_key(&id) {
            return;
        }
        let session = Session::new(self.setup.config.clone(), id);
        self.peers.insert(id, Peer::new(session));
        for wish in around.memory.wishes.clone() {
            self.want(id, &wish, around);
        }
    }

    /// Tells whoever is there why it cannot stay.
    fn refuse(&mut self, connection: u64, refusal: Refusal, around: &mut Around<'_>) {
        let Some(wire) = self.wires.get_mut(&connection) else { return };
        match &mut wire.stage {
            Stage::Unidentified(link) => {
                link.refuse(refusal);
                link.transmit(around.now, &mut wire.batch);
                wire.stage = Stage::Closing { peer: None, until: around.now.after_ms(LINGER_MS) };
                self.busy.insert(connection);
            }
            Stage::Peer(id) => {
                let id = *id;
                let evicted = refusal.code == RefusalCode::Full;
                if evicted {
                    around.seen.push(Seen::Evicted { host: around.memory.host, peer: id });
                }
                self.tell(id, Input::Refuse { refusal }, around);
            }
            Stage::Closing { .. } => {}
        }
    }

    /// The session of a peer is done with its connection: what it has still to say is written, then it is closed.
    pub(super) fn begin_close(
        &mut self,
        id: PeerId,
        reason: &Closed,
        retry_after_ms: u32,
        around: &mut Around<'_>,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(connection) = peer.connection else { return };
        let Some(wire) = self.wires.get_mut(&connection) else { return };
        if !matches!(wire.stage, Stage::Peer(_)) {
            return;
        }
        around.trace.note(
            around.world,
            Happening {
                host: around.memory.host,
                what: "close",
                whom: connection,
                much: number_of(id),
                source: 0,
                note: &reason.to_string(),
            },
        );
        if let Closed::Peer(error) = reason {
            let (host, what) = (around.memory.host, error.to_string());
            around.seen.push(Seen::Blamed { host, connection, what });
        }
        peer.session.transmit(around.now, &mut wire.batch);
        wire.stage = Stage::Closing { peer: Some(id), until: around.now.after_ms(LINGER_MS) };
        self.busy.insert(connection);
        if retry_after_ms > 0 {
            let connection = ConnectionId(connection);
            self.decide(membership::Input::Refused { connection, retry_after_ms }, around);
        }
    }

    /// Clients that are gone are remembered, as many as may be connected.
    pub(super) fn forget_clients(&mut self, id: PeerId, around: &mut Around<'_>) {
        let PeerId::Client { .. } = id else { return };
        self.gone.insert((around.now, id));
        let most = self.setup.membership.clients_max as usize;
        while self.gone.len() > most
            && let Some((_, id)) = self.gone.pop_first()
            && let Some(peer) = self.peers.remove(&id)
        {
            for source in peer.exports.into_keys() {
                if let Some(ring) = around.memory.rings.get_mut(&source) {
                    ring.detach(id);
                }
            }
            for inbound in peer.relays.into_values() {
                around.memory.close_relay(inbound.ring());
            }
            self.suspended.retain(|(peer, _)| *peer != id);
            if let Some(at) = peer.alarm {
                self.alarms.remove(&(at, super::Alarm::Peer(id)));
            }
            around.seen.push(Seen::Forgotten { host: around.memory.host, peer: id });
        }
    }
}
