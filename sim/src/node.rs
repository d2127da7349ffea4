//! One node: sessions, connections and the host's memory, joined as the runtime joins them.
//!
//! Every step is called with the time: a notice of the network, a deadline, a message in a local ring. It decides
//! nothing about the protocol; it carries out what the machines say.
//!
//! Invariant: a session has at most one connection, and no bytes of an older one reach it.

mod exports;
mod relays;
mod wires;

use std::collections::BTreeMap;

use busway_protocol::{
    Account, Batch, Closed, Config, ConnectionId, Input, Link, Output, PeerId, Session, State, Time,
};
use busway_wire::link::{Refusal, RefusalCode};
use busway_wire::{Pattern, PortId};

use crate::dial::{self, Dial};
use crate::memory::Memory;
use crate::message::Payload;
use crate::network::{End, Network, Notice};
use crate::phase::Phase;
use crate::seen::Seen;
use crate::trace::{Happening, Trace};
use relays::Inbound;

/// An attempt to connect is given up after this long.
const CONNECT_MS: u64 = 500;
/// A connection that is closed may still write for so long.
const LINGER_MS: u64 = 300;

/// Who is refused is to come again after this long.
const RETRY_MS: u32 = 500;

/// How a node is made.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The host's index, which is the node's.
    pub index: u8,
    /// Nodes of the cluster.
    pub nodes: u8,
    /// What it says of itself.
    pub config: Config,
    /// For its policy of dialing.
    pub seed: u64,
    /// Bytes that it reads at once.
    pub read_max: usize,
    /// Whether large payloads are read straight to where they stay.
    pub direct: bool,
    /// What is broken in it on purpose.
    pub canary: Canary,
}

/// A node that is broken on purpose, to see whether the checkers notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Canary {
    /// Nothing is.
    #[default]
    Sound,
    /// It acknowledges messages before they stand in the relay ring.
    AcknowledgesEarly,
}

/// What is around a node: the time, and all that it may touch.
#[derive(Debug)]
pub(crate) struct Around<'a> {
    /// By the host's clock.
    pub now: Time,
    /// By no host's clock.
    pub world: Time,
    /// Of its host.
    pub memory: &'a mut Memory,
    /// The lines.
    pub network: &'a mut Network,
    /// What is reported.
    pub seen: &'a mut Vec<Seen>,
    /// What is noted.
    pub trace: &'a mut Trace,
    /// How much may be read in this step: a slow host reads little.
    pub reads_left: usize,
}

/// All that a node has with one peer.
#[derive(Debug)]
struct Peer {
    session: Session<Payload>,
    connection: Option<u64>,
    wants: BTreeMap<u32, (Pattern, bool)>,
    /// The rings that it has a row at, each with the first sequence that the session was given.
    exports: BTreeMap<PortId, u64>,
    relays: BTreeMap<PortId, Inbound>,
    /// Where it stood when it was looked at last.
    linked: bool,
}

#[derive(Debug)]
struct Wire {
    end: End,
    stage: Stage,
    staging: Vec<u8>,
    batch: Batch<Payload>,
    readable: bool,
}

#[derive(Debug)]
enum Stage {
    Unidentified(Box<Link<Payload>>),
    Peer(PeerId),
    Closing { peer: Option<PeerId>, until: Time, retry_after_ms: u32 },
}

/// One node of the cluster.
#[derive(Debug)]
pub(crate) struct Node {
    setup: Setup,
    dial: Dial,
    peers: BTreeMap<PeerId, Peer>,
    wires: BTreeMap<u64, Wire>,
    dialing: BTreeMap<u64, (PeerId, Time)>,
    /// When it has something left to do without being told.
    again: Option<Time>,
    /// It is going down: it dials nobody and refuses whoever dials.
    draining: bool,
}

impl Node {
    /// A node that has just started.
    pub(crate) fn start(setup: Setup, around: &mut Around<'_>) -> Node {
        let dial = Dial::new(setup.index, setup.nodes, setup.seed);
        let mut node = Node {
            dial,
            peers: BTreeMap::new(),
            wires: BTreeMap::new(),
            dialing: BTreeMap::new(),
            again: Some(around.now),
            draining: false,
            setup,
        };
        let (own, nodes) = (node.setup.index, node.setup.nodes);
        for index in (0..nodes).filter(|&index| index != own) {
            let id = PeerId::Node { index };
            let session = Session::new(node.setup.config.clone(), id);
            node.peers.insert(id, Peer::new(session));
            for wish in around.memory.wishes.clone() {
                node.want(id, &wish, around);
            }
        }
        around.network.listen(around.memory.host);
        node.pump(around);
        node
    }

    /// The network says something of one of our ends.
    pub(crate) fn notice(&mut self, end: End, notice: Notice, around: &mut Around<'_>) {
        let connection = end.connection;
        match notice {
            Notice::Accepted => {
                let link = Link::accept(&self.setup.config, around.now);
                self.wires.insert(connection, Wire::new(end, Stage::Unidentified(Box::new(link))));
            }
            Notice::Connected => {
                let Some((peer, _)) = self.dialing.remove(&connection) else { return };
                let dialed = dial::Input::Connected { connection: ConnectionId(connection), peer };
                self.tell_dial(dialed, around);
                let link = Link::dial(&self.setup.config, peer, around.now);
                self.wires.insert(connection, Wire::new(end, Stage::Peer(peer)));
                self.adopt(connection, peer, link, around);
            }
            Notice::Refused => {
                around.network.close(around.world, end);
                if let Some((peer, _)) = self.dialing.remove(&connection) {
                    self.tell_dial(dial::Input::ConnectFailed { peer }, around);
                }
            }
            Notice::Readable => {
                if let Some(wire) = self.wires.get_mut(&connection) {
                    wire.readable = true;
                }
            }
            Notice::Writable => {}
            Notice::Reset => self.lose(connection, around),
        }
        self.pump(around);
    }

    /// Does all that can be done now.
    pub(crate) fn pump(&mut self, around: &mut Around<'_>) {
        self.again = None;
        let readable: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| wire.readable).map(|(&connection, _)| connection).collect();
        for connection in readable {
            self.read(connection, around);
        }
        self.tick(around);
        if std::mem::take(&mut around.memory.room_made) || self.setup.canary != Canary::Sound {
            self.resume_all(around);
        }
        let connections: Vec<u64> = self.wires.keys().copied().collect();
        for connection in connections {
            self.write(connection, around);
        }
        self.report(around);
    }

    /// When it must be pumped again, by the host's clock.
    #[must_use]
    pub(crate) fn deadline(&self) -> Option<Time> {
        let sessions = self.peers.values().filter_map(|peer| peer.session.deadline().map(|(at, _)| at));
        let wires = self.wires.values().filter_map(|wire| match &wire.stage {
            Stage::Unidentified(link) => link.deadline().map(|(at, _)| at),
            Stage::Closing { until, .. } => Some(*until),
            Stage::Peer(_) => None,
        });
        let dialing = self.dialing.values().map(|(_, until)| *until);
        sessions.chain(wires).chain(dialing).chain(self.dial.deadline()).chain(self.again).min()
    }

    /// Ends every link in order.
    pub(crate) fn drain(&mut self, around: &mut Around<'_>) {
        self.draining = true;
        for peer in self.peer_ids() {
            self.tell(peer, Input::Drain { reason: "the node is going down".to_owned() }, around);
        }
        self.pump(around);
    }

    /// How far it is with a peer.
    #[must_use]
    pub(crate) fn phase(&self, id: PeerId) -> Phase {
        if self.dialing.values().any(|(peer, _)| *peer == id) {
            return Phase::Dialing;
        }
        let Some(peer) = self.peers.get(&id) else { return Phase::Apart };
        let closing = |wire: &Wire| matches!(wire.stage, Stage::Closing { peer: Some(p), .. } if p == id);
        if self.wires.values().any(closing) {
            return Phase::Draining;
        }
        match peer.session.state() {
            None => Phase::Apart,
            Some(State::Greeting | State::Greeted) => Phase::Greeting,
            Some(State::Draining | State::Closed(_)) => Phase::Draining,
            Some(State::Established) => peer.flowing(),
        }
    }

    /// The account of each ring towards each peer, and the first sequence that it begins with.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = (PeerId, PortId, u64, Option<Account>)> {
        self.peers.iter().flat_map(|(&id, peer)| {
            let account =
                move |(&source, &first): (&PortId, &u64)| (id, source, first, peer.session.account(source));
            peer.exports.iter().map(account)
        })
    }

    /// Whether nothing waits for room in a relay ring, and no message has begun to come.
    #[must_use]
    pub(crate) fn is_settled(&self) -> bool {
        let mut inbound = self.peers.values().flat_map(|peer| peer.relays.values());
        inbound.all(|inbound| inbound.suspended.is_empty() && inbound.open.is_none())
    }

    /// Whether the link with the peer stands.
    #[must_use]
    pub(crate) fn is_linked(&self, id: PeerId) -> bool {
        let state = self.peers.get(&id).and_then(|peer| peer.session.state());
        matches!(state, Some(State::Established))
    }

    /// What is told to a peer's session, and what follows from it.
    fn tell(&mut self, id: PeerId, input: Input<Payload>, around: &mut Around<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut out = Vec::new();
        peer.session.handle(around.now, input, &mut out);
        self.carry_out(id, out, around);
    }

    fn carry_out(&mut self, id: PeerId, outputs: Vec<Output>, around: &mut Around<'_>) {
        for output in outputs {
            around.trace.note(
                around.world,
                Happening {
                    host: around.memory.host,
                    what: name_of(&output),
                    whom: number_of(id),
                    much: amount_of(&output),
                    note: &source_of(&output).map(|source| source.to_string()).unwrap_or_default(),
                },
            );
            match output {
                Output::Established { .. } => {}
                Output::PeerWants { id: number, pattern, reliable } => {
                    self.peer_wants(id, number, (pattern, reliable), around);
                }
                Output::PeerUnwants { id: number } => self.peer_unwants(id, number, around),
                Output::OpenRelay { announce } => self.open_relay(id, &announce, around),
                Output::CloseRelay { source } => self.close_relay(id, source, around),
                Output::Abort { source } => self.abort(id, source, around),
                Output::SourceDone { source, .. } => self.source_done(id, source, around),
                Output::Pass { source, to } => {
                    if let Some(ring) = around.memory.rings.get_mut(&source) {
                        ring.pass(id, to);
                    }
                }
                Output::Rewind { source, to } => {
                    if let Some(ring) = around.memory.rings.get_mut(&source) {
                        ring.rewind(id, to);
                    }
                }
                Output::RelayGap { source, from, to, cause, .. } => {
                    self.relay_gap(id, source, (from, to, cause), around);
                }
                Output::Close { reason, retry_after_ms } => {
                    self.begin_close(id, &reason, retry_after_ms, around);
                }
            }
        }
    }

    /// Looks at every deadline.
    fn tick(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        for id in self.peer_ids() {
            let due = |peer: &Peer| peer.session.deadline().is_some_and(|(at, _)| at <= now);
            if self.peers.get(&id).is_some_and(due) {
                self.tell(id, Input::Tick, around);
            }
        }
        let late: Vec<u64> =
            self.dialing.iter().filter(|(_, (_, until))| *until <= now).map(|(&c, _)| c).collect();
        for connection in late {
            let Some((peer, _)) = self.dialing.remove(&connection) else { continue };
            let side = crate::network::Side::Dialer;
            around.network.close(around.world, End { connection, side });
            self.tell_dial(dial::Input::ConnectFailed { peer }, around);
        }
        for connection in self.wires.keys().copied().collect::<Vec<_>>() {
            self.tick_wire(connection, around);
        }
        self.tell_dial(dial::Input::Tick, around);
    }

    fn tell_dial(&mut self, input: dial::Input, around: &mut Around<'_>) {
        let mut out = Vec::new();
        self.dial.handle(around.now, input, &mut out);
        for output in out {
            match output {
                dial::Output::Dial { .. } if self.draining => {}
                dial::Output::Use { connection, .. } if self.draining => {
                    self.refuse(connection.0, RefusalCode::Draining, around);
                }
                dial::Output::Dial { peer } => {
                    let PeerId::Node { index } = peer else { continue };
                    let end = around.network.dial(around.world, around.memory.host, usize::from(index));
                    self.dialing.insert(end.connection, (peer, around.now.after_ms(CONNECT_MS)));
                }
                dial::Output::Refuse { connection, code } => self.refuse(connection.0, code, around),
                dial::Output::Use { connection, identity } => {
                    let Some(wire) = self.wires.get_mut(&connection.0) else { continue };
                    let stage = std::mem::replace(&mut wire.stage, Stage::Peer(identity));
                    let Stage::Unidentified(link) = stage else { continue };
                    self.adopt(connection.0, identity, *link, around);
                }
            }
        }
    }

    /// The connection is the peer's from now on; an older one is closed.
    fn adopt(&mut self, connection: u64, id: PeerId, link: Link<Payload>, around: &mut Around<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let older = peer.connection.replace(connection);
        let mut out = Vec::new();
        peer.session.connected(around.now, link, &mut out);
        if let Some(older) = older.and_then(|older| self.wires.remove(&older)) {
            around.network.close(around.world, older.end);
        }
        self.carry_out(id, out, around);
    }

    fn refuse(&mut self, connection: u64, code: RefusalCode, around: &mut Around<'_>) {
        let Some(wire) = self.wires.get_mut(&connection) else { return };
        if let Stage::Unidentified(link) = &mut wire.stage {
            link.refuse(Refusal::new(code, "not now, or not you", RETRY_MS));
            link.transmit(around.now, &mut wire.batch);
        }
        wire.stage = Stage::Closing { peer: None, until: around.now.after_ms(LINGER_MS), retry_after_ms: 0 };
    }

    fn begin_close(&mut self, id: PeerId, reason: &Closed, retry_after_ms: u32, around: &mut Around<'_>) {
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
                note: &reason.to_string(),
            },
        );
        if let Closed::Peer(error) = reason {
            let (host, what) = (around.memory.host, error.to_string());
            around.seen.push(Seen::Blamed { host, connection, what });
        }
        peer.session.transmit(around.now, &mut wire.batch);
        let until = around.now.after_ms(LINGER_MS);
        wire.stage = Stage::Closing { peer: Some(id), until, retry_after_ms };
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    /// Notes which links have come and gone.
    fn report(&mut self, around: &mut Around<'_>) {
        for (&id, peer) in &mut self.peers {
            let linked = matches!(peer.session.state(), Some(State::Established));
            if linked == peer.linked {
                continue;
            }
            peer.linked = linked;
            around.trace.note(
                around.world,
                Happening {
                    host: around.memory.host,
                    what: if linked { "linked" } else { "parted" },
                    whom: number_of(id),
                    much: peer.connection.unwrap_or(0),
                    note: "",
                },
            );
        }
    }
}

impl Peer {
    fn new(session: Session<Payload>) -> Peer {
        Peer {
            session,
            connection: None,
            wants: BTreeMap::new(),
            exports: BTreeMap::new(),
            relays: BTreeMap::new(),
            linked: false,
        }
    }

    fn flowing(&self) -> Phase {
        if self.relays.values().any(|inbound| inbound.open.is_some()) {
            return Phase::Partial;
        }
        if self.relays.values().any(|inbound| !inbound.suspended.is_empty()) {
            return Phase::Suspended;
        }
        let under_way = |source: &PortId| self.session.account(*source).is_some_and(|a| a.in_flight > 0);
        if self.exports.keys().any(under_way) { Phase::Flowing } else { Phase::Idle }
    }
}

impl Wire {
    fn new(end: End, stage: Stage) -> Wire {
        Wire { end, stage, staging: Vec::new(), batch: Batch::new(), readable: true }
    }
}

/// A peer as a number, for the trace.
pub(crate) fn number_of(id: PeerId) -> u64 {
    match id {
        PeerId::Node { index } => u64::from(index),
        PeerId::Client { id } => id,
    }
}

fn name_of(output: &Output) -> &'static str {
    match output {
        Output::Established { .. } => "established",
        Output::PeerWants { .. } => "peer wants",
        Output::PeerUnwants { .. } => "peer unwants",
        Output::OpenRelay { .. } => "open relay",
        Output::CloseRelay { .. } => "close relay",
        Output::Abort { .. } => "abort",
        Output::SourceDone { .. } => "source done",
        Output::Pass { .. } => "pass",
        Output::Rewind { .. } => "rewind",
        Output::RelayGap { .. } => "relay gap",
        Output::Close { .. } => "closing",
    }
}

fn source_of(output: &Output) -> Option<PortId> {
    match output {
        Output::OpenRelay { announce } => Some(announce.source),
        Output::CloseRelay { source }
        | Output::Abort { source }
        | Output::SourceDone { source, .. }
        | Output::Pass { source, .. }
        | Output::Rewind { source, .. }
        | Output::RelayGap { source, .. } => Some(*source),
        Output::Established { .. }
        | Output::PeerWants { .. }
        | Output::PeerUnwants { .. }
        | Output::Close { .. } => None,
    }
}

fn amount_of(output: &Output) -> u64 {
    match output {
        Output::Pass { to, .. } | Output::Rewind { to, .. } | Output::RelayGap { to, .. } => *to,
        Output::PeerWants { id, .. } | Output::PeerUnwants { id } => u64::from(*id),
        Output::Established { restarted, .. } => u64::from(*restarted),
        Output::OpenRelay { .. }
        | Output::CloseRelay { .. }
        | Output::Abort { .. }
        | Output::SourceDone { .. }
        | Output::Close { .. } => 0,
    }
}
