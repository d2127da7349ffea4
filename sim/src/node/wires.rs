//! Connections of a node: bytes in and out, and their end.
//!
//! Invariant: bytes that a machine has not taken stay in front of those that come after them.

use busway_protocol::{ConnectionId, Destination, Event, Time, membership};
use busway_wire::HEADER_SIZE;
use busway_wire::limits::{
    EXTENSION_BYTES_MAX, LINK_BATCH_BYTES, LINK_FRAME_BYTES_MAX, LINK_PIECE_BYTES_MAX,
};

use super::{Around, Node, Stage};
use crate::network::Read;
use crate::seen::{Budget, Seen};

/// A slow host comes back to what it has not read after this long.
const AGAIN_MS: u64 = 2;

/// A whole frame is taken from staging; what is larger is taken in pieces. One read may be behind it.
const STAGING_BYTES_MAX: usize = LINK_FRAME_BYTES_MAX + HEADER_SIZE + EXTENSION_BYTES_MAX;

impl Node {
    /// Reads what is there, as far as this step may.
    pub(super) fn read(&mut self, connection: u64, around: &mut Around<'_>) {
        loop {
            let Some(wire) = self.wires.get_mut(&connection) else { return };
            if around.reads_left == 0 {
                self.readable.insert(connection);
                self.again = Some(Time(around.now.0 + AGAIN_MS * 1_000_000));
                return;
            }
            if let (Stage::Peer(peer), true) = (&wire.stage, self.setup.direct && wire.staging.is_empty()) {
                let peer = *peer;
                let destination = self.peers.get(&peer).map(|peer| peer.session.destination());
                if let Some(Destination::Message { source, offset, remaining }) = destination {
                    let read_max = usize::try_from(remaining).unwrap_or(usize::MAX);
                    let place = super::relays::Place { source, offset };
                    if self.read_direct(connection, peer, (place, read_max), around) {
                        continue;
                    }
                    return;
                }
            }
            let read_max = self.setup.read_max.min(around.reads_left);
            match around.network.read(around.world, wire.end, read_max) {
                Read::Bytes(bytes) => {
                    around.reads_left -= bytes.len();
                    wire.staging.extend(bytes);
                    self.take_staging(connection, around);
                }
                Read::Nothing => return,
                Read::End => return self.lose(connection, around),
            }
        }
    }

    /// Reads to where the payload stays; false when there is nothing more to read now.
    fn read_direct(
        &mut self,
        connection: u64,
        id: busway_protocol::PeerId,
        (place, read_max): (super::relays::Place, usize),
        around: &mut Around<'_>,
    ) -> bool {
        let Some(wire) = self.wires.get_mut(&connection) else { return false };
        let read_max = read_max.min(around.reads_left).min(self.setup.read_max.saturating_mul(4));
        let bytes = match around.network.read(around.world, wire.end, read_max) {
            Read::Bytes(bytes) => bytes,
            Read::Nothing => return false,
            Read::End => {
                self.lose(connection, around);
                return false;
            }
        };
        around.reads_left -= bytes.len();
        self.place_bytes(id, place, &bytes, around);
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let mut out = Vec::new();
        let delivery = peer.session.receive_direct(around.now, &bytes, &mut out);
        self.busy.insert(connection);
        self.carry_out(id, out, around);
        if let Some(delivery) = delivery {
            self.deliver(id, delivery, around);
        }
        self.heed(id, around);
        true
    }

    /// Gives what has come to the machine.
    fn take_staging(&mut self, connection: u64, around: &mut Around<'_>) {
        let Some(wire) = self.wires.get_mut(&connection) else { return };
        let staging = std::mem::take(&mut wire.staging);
        self.busy.insert(connection);
        let mut at = 0;
        loop {
            let Some(wire) = self.wires.get_mut(&connection) else { return };
            let before = at;
            let going_on = match &wire.stage {
                Stage::Unidentified(_) => self.identify(connection, &staging, &mut at, around),
                Stage::Peer(id) => {
                    let id = *id;
                    self.receive(id, &staging, &mut at, around)
                }
                Stage::Closing { .. } => {
                    at = staging.len();
                    false
                }
            };
            if at > staging.len() {
                let host = around.memory.host;
                around.seen.push(Seen::Broken { host, what: "more bytes were taken than there are" });
                return;
            }
            if !going_on && at == before {
                break;
            }
        }
        if let Some(Stage::Peer(id)) = self.wires.get(&connection).map(|wire| &wire.stage) {
            let id = *id;
            self.heed(id, around);
        }
        if let Some(wire) = self.wires.get_mut(&connection) {
            wire.staging = staging;
            wire.staging.drain(..at);
            let (host, held) = (around.memory.host, wire.staging.len() as u64);
            let bound = STAGING_BYTES_MAX as u64;
            around.seen.push(Seen::Held { host, what: Budget::Staging, held, bound });
        }
    }

    /// One call of the session's `receive`: whether there is more to do.
    fn receive(
        &mut self,
        id: busway_protocol::PeerId,
        staging: &[u8],
        at: &mut usize,
        around: &mut Around<'_>,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let mut out = std::mem::take(&mut self.spare);
        let (taken, delivery) = peer.session.receive(around.now, &staging[*at..], &mut out);
        *at += taken;
        let going_on = taken > 0 || delivery.is_some();
        self.carry_out(id, out, around);
        if let Some(delivery) = delivery {
            self.deliver(id, delivery, around);
        }
        going_on
    }

    /// One call of an unidentified link's `receive`: whether there is more to do.
    fn identify(&mut self, connection: u64, staging: &[u8], at: &mut usize, around: &mut Around<'_>) -> bool {
        let Some(wire) = self.wires.get_mut(&connection) else { return false };
        let Stage::Unidentified(link) = &mut wire.stage else { return false };
        match link.receive(around.now, &staging[*at..]) {
            Ok((taken, event)) => {
                *at += taken;
                if let Some(Event::Hello(hello)) = event {
                    let connection = ConnectionId(connection);
                    let identity = hello.identity;
                    self.decide(membership::Input::Identified { connection, identity }, around);
                }
                taken > 0
            }
            Err(_) => {
                link.transmit(around.now, &mut wire.batch);
                let until = around.now.after_ms(super::LINGER_MS);
                wire.stage = Stage::Closing { peer: None, until };
                *at = staging.len();
                false
            }
        }
    }

    /// Writes what may go, as far as there is room.
    pub(super) fn write(&mut self, connection: u64, around: &mut Around<'_>) {
        let mut held_up = false;
        loop {
            let Some(wire) = self.wires.get_mut(&connection) else { return };
            if wire.batch.is_empty() {
                match &mut wire.stage {
                    Stage::Unidentified(link) => link.transmit(around.now, &mut wire.batch),
                    Stage::Peer(id) => {
                        let id = *id;
                        held_up = self.fill(id, around);
                        let Some(wire) = self.wires.get_mut(&connection) else { return };
                        let Some(peer) = self.peers.get_mut(&id) else { return };
                        peer.session.transmit(around.now, &mut wire.batch);
                        let (host, held) = (around.memory.host, wire.batch.bytes() as u64);
                        // The piece that passes the bound is put in whole.
                        let bound = LINK_BATCH_BYTES as u64 + LINK_PIECE_BYTES_MAX + STAGING_BYTES_MAX as u64;
                        around.seen.push(Seen::Held { host, what: Budget::Batch, held, bound });
                    }
                    Stage::Closing { .. } => return self.hang_up(connection, around),
                }
            }
            let Some(wire) = self.wires.get_mut(&connection) else { return };
            if wire.batch.is_empty() {
                return self.expect_no_output(connection, around);
            }
            let mut written = 0;
            for piece in wire.batch.pieces() {
                let taken = around.network.write(around.world, wire.end, piece);
                written += taken;
                if taken < piece.len() {
                    break;
                }
            }
            let all = written == wire.batch.bytes();
            wire.batch.advance(written);
            let more = match &wire.stage {
                Stage::Peer(id) => {
                    held_up || self.peers.get(id).is_some_and(|peer| peer.session.has_output())
                }
                Stage::Unidentified(_) | Stage::Closing { .. } => true,
            };
            if !all || !more {
                return;
            }
        }
    }

    /// A session that put nothing out has nothing to put out: else whoever asks it would ask for ever.
    fn expect_no_output(&self, connection: u64, around: &mut Around<'_>) {
        let Some(Stage::Peer(id)) = self.wires.get(&connection).map(|wire| &wire.stage) else { return };
        if self.peers.get(id).is_some_and(|peer| peer.session.has_output()) {
            let host = around.memory.host;
            around.seen.push(Seen::Broken { host, what: "there is output, and none comes out" });
        }
    }

    /// Looks at the deadlines of a connection that is not a session's.
    pub(super) fn tick_wire(&mut self, connection: u64, around: &mut Around<'_>) {
        let Some(wire) = self.wires.get_mut(&connection) else { return };
        match &mut wire.stage {
            Stage::Unidentified(link) => {
                let due = link.deadline().is_some_and(|(at, _)| at <= around.now);
                if due && link.tick(around.now).is_err() {
                    link.transmit(around.now, &mut wire.batch);
                    let until = around.now.after_ms(super::LINGER_MS);
                    wire.stage = Stage::Closing { peer: None, until };
                }
                self.busy.insert(connection);
            }
            Stage::Peer(_) => {}
            Stage::Closing { until, .. } if *until <= around.now => self.hang_up(connection, around),
            Stage::Closing { .. } => self.arm_wire(connection),
        }
    }

    /// The connection is gone by itself.
    pub(super) fn lose(&mut self, connection: u64, around: &mut Around<'_>) {
        self.dial_failed(connection, around);
        self.hang_up(connection, around);
    }

    /// Closes the connection and tells whom it was with.
    pub(super) fn hang_up(&mut self, connection: u64, around: &mut Around<'_>) {
        let Some(wire) = self.wires.remove(&connection) else { return };
        if let Some(at) = wire.alarm {
            self.alarms.remove(&(at, super::Alarm::Wire(connection)));
        }
        around.network.close(around.world, wire.end);
        let id = match wire.stage {
            Stage::Unidentified(_) => None,
            Stage::Peer(id) => Some(id),
            Stage::Closing { peer, .. } => peer,
        };
        let of_peer = id.and_then(|id| Some((id, self.peers.get_mut(&id)?)));
        if let Some((id, peer)) = of_peer.filter(|(_, peer)| peer.connection == Some(connection)) {
            peer.connection = None;
            let mut out = Vec::new();
            peer.session.disconnected(around.now, &mut out);
            self.carry_out(id, out, around);
            self.expect_nothing_open(id, around);
            self.forget_clients(id, around);
        }
        let (connection, reason) = (ConnectionId(connection), String::from("the connection has ended"));
        self.decide(membership::Input::Closed { connection, reason }, around);
    }
}
