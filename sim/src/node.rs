//! One node or client: sessions, connections, the membership and the host's memory, joined as the runtime joins them.
//!
//! Every step is called with the time: a notice of the network, a deadline, a message in a local ring. It decides
//! nothing about the protocol; it carries out what the machines say. Only what something has happened to is looked at,
//! so that a step costs the same with a thousand clients as with one.
//!
//! Invariant: a session has at most one connection, and no bytes of an older one reach it.

mod door;
mod exports;
mod names;
mod relays;
mod wires;

use std::collections::{BTreeMap, BTreeSet};

use busway_protocol::membership::{self, Attempt, Membership};
use busway_protocol::{Account, Batch, Config, Input, Link, Output, PeerId, Session, State, Time};
use busway_wire::link::RefusalCode;
use busway_wire::{Pattern, PortId};

use crate::few::Few;
use crate::memory::Memory;
use crate::message::Payload;
use crate::network::{End, Network, Notice};
use crate::phase::Phase;
use crate::seen::Seen;
use crate::trace::{Happening, Trace};
pub(crate) use names::number_of;
use names::{amount_of, name_of, source_of};
use relays::Inbound;

/// A connection that is closed may still write for so long.
const LINGER_MS: u64 = 300;

/// How a node is made.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// What it says of itself.
    pub config: Config,
    /// Who it is in the cluster, and what it has room for.
    pub membership: membership::Config,
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
    /// What the membership was told of that connection.
    told: Told,
    wants: BTreeMap<u32, (Pattern, bool)>,
    /// The rings that it has a row at, each with the first sequence that the session was given.
    exports: BTreeMap<PortId, u64>,
    relays: BTreeMap<PortId, Inbound>,
    /// Where it stood when it was looked at last.
    linked: bool,
    /// Its alarm that is set.
    alarm: Option<Time>,
}

/// How much of a connection's life the membership knows of.
#[derive(Debug, Default)]
struct Told {
    messages: u64,
    answered: bool,
}

#[derive(Debug)]
struct Wire {
    end: End,
    stage: Stage,
    staging: Vec<u8>,
    batch: Batch<Payload>,
    /// Its alarm that is set.
    alarm: Option<Time>,
}

#[derive(Debug)]
enum Stage {
    Unidentified(Box<Link<Payload>>),
    Peer(PeerId),
    Closing { peer: Option<PeerId>, until: Time },
}

/// What has a deadline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Peer(PeerId),
    Wire(u64),
}

/// One node of the cluster, or one client.
#[derive(Debug)]
pub(crate) struct Node {
    setup: Setup,
    membership: Membership,
    peers: BTreeMap<PeerId, Peer>,
    wires: BTreeMap<u64, Wire>,
    dialing: BTreeMap<u64, (PeerId, Attempt)>,
    /// Connections on which there is something to read.
    readable: Few<u64>,
    /// Connections on which something may be written.
    busy: Few<u64>,
    /// Peers that something has happened to in this step.
    touched: Few<PeerId>,
    /// Sources of peers of which messages wait for room.
    suspended: BTreeSet<(PeerId, PortId)>,
    /// Clients that are gone, by when.
    gone: BTreeSet<(Time, PeerId)>,
    /// Never later than what they are for, and mostly earlier: what rings too early is set again. A deadline that moves
    /// with every message would else be moved here as often.
    alarms: BTreeSet<(Time, Alarm)>,
    /// The next deadline of the membership, which moves when it is told something.
    membership_at: Option<Time>,
    /// Memory for what a session asks for.
    spare: Vec<Output>,
    /// Whether newcomers wait in the kernel.
    holds: bool,
    /// When it has something left to do without being told.
    again: Option<Time>,
}

impl Node {
    /// A node that has just started.
    pub(crate) fn start(setup: Setup, around: &mut Around<'_>) -> Node {
        let mut node = Node {
            membership: Membership::new(setup.membership),
            peers: BTreeMap::new(),
            wires: BTreeMap::new(),
            dialing: BTreeMap::new(),
            readable: Few::default(),
            busy: Few::default(),
            touched: Few::default(),
            suspended: BTreeSet::new(),
            gone: BTreeSet::new(),
            alarms: BTreeSet::new(),
            membership_at: None,
            spare: Vec::new(),
            holds: false,
            again: Some(around.now),
            setup,
        };
        if let PeerId::Node { .. } = node.setup.membership.identity {
            around.network.listen(around.memory.host);
        }
        node.decide(membership::Input::Start, around);
        node.pump(around);
        node
    }

    /// The network says something of one of our ends.
    pub(crate) fn notice(&mut self, end: End, notice: Notice, around: &mut Around<'_>) {
        match notice {
            Notice::Accepted => self.accept(end, around),
            Notice::Connected => self.connected(end, around),
            Notice::Refused => {
                around.network.close(around.world, end);
                self.dial_failed(end.connection, around);
            }
            Notice::Readable => {
                self.readable.insert(end.connection);
            }
            Notice::Writable => {
                self.busy.insert(end.connection);
            }
            Notice::Reset => self.lose(end.connection, around),
        }
        self.pump(around);
    }

    /// Does all that can be done now.
    pub(crate) fn pump(&mut self, around: &mut Around<'_>) {
        self.again = None;
        let readable = self.readable.take();
        for connection in readable.iter() {
            self.read(connection, around);
        }
        self.readable.give_back(readable);
        self.tick(around);
        if std::mem::take(&mut around.memory.room_made) || self.setup.canary != Canary::Sound {
            self.resume_all(around);
        }
        while let Some(connection) = self.busy.pop_first() {
            self.write(connection, around);
            // What it has written has touched it.
            self.busy.remove(connection);
            self.arm_wire(connection);
        }
        self.admit(around);
        let touched = self.touched.take();
        for id in touched.iter() {
            self.report(id, around);
            self.arm_peer(id);
        }
        self.touched.give_back(touched);
    }

    /// A publisher of this host has sent.
    pub(crate) fn published(&mut self, source: PortId, around: &mut Around<'_>) {
        if let Some(ring) = around.memory.rings.get(&source) {
            for (id, _) in ring.rows() {
                if let Some(connection) = self.peers.get(id).and_then(|peer| peer.connection) {
                    self.busy.insert(connection);
                }
            }
        }
        self.pump(around);
    }

    /// When it must be pumped again, by the host's clock.
    #[must_use]
    pub(crate) fn deadline(&self) -> Option<Time> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        [alarm, self.membership_at, self.again].into_iter().flatten().min()
    }

    /// Ends every link in order.
    pub(crate) fn drain(&mut self, around: &mut Around<'_>) {
        for peer in self.peer_ids() {
            self.tell(peer, Input::Drain { reason: "the node is going down".to_owned() }, around);
        }
        self.decide(membership::Input::Drain, around);
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

    /// Whether messages wait for room in a relay ring.
    #[must_use]
    pub(crate) fn waits_for_room(&self) -> bool {
        !self.suspended.is_empty()
    }

    /// What the membership has counted.
    #[must_use]
    pub(crate) fn counters(&self) -> membership::Counters {
        self.membership.counters()
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
        let mut out = std::mem::take(&mut self.spare);
        peer.session.handle(around.now, input, &mut out);
        if let Some(connection) = peer.connection {
            self.busy.insert(connection);
        }
        self.carry_out(id, out, around);
    }

    fn carry_out(&mut self, id: PeerId, mut outputs: Vec<Output>, around: &mut Around<'_>) {
        self.touched.insert(id);
        for output in outputs.drain(..) {
            around.trace.note(
                around.world,
                Happening {
                    host: around.memory.host,
                    what: name_of(&output),
                    whom: number_of(id),
                    much: amount_of(&output),
                    source: source_of(&output),
                    note: "",
                },
            );
            match output {
                Output::Established { hello, .. } => self.established(id, hello.instance, around),
                Output::PeerWants { id: number, pattern, reliable } => {
                    self.peer_wants(id, number, (pattern, reliable), around);
                }
                Output::PeerUnwants { id: number } => self.peer_unwants(id, number, around),
                Output::OpenRelay { announce } => self.open_relay(id, &announce, around),
                Output::CloseRelay { source } => self.close_relay(id, source, around),
                Output::Abort { source } => self.abort(id, source, around),
                // Nobody denies anything here; it would end the same way.
                Output::SourceDone { source, .. } | Output::SourceDenied { source, .. } => {
                    self.source_done(id, source, around);
                }
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
        self.spare = outputs;
    }

    /// Looks at every deadline that has come.
    fn tick(&mut self, around: &mut Around<'_>) {
        while let Some((_, alarm)) = self.alarms.first().copied().filter(|(at, _)| *at <= around.now) {
            self.alarms.pop_first();
            match alarm {
                Alarm::Peer(id) => {
                    let Some(peer) = self.peers.get_mut(&id) else { continue };
                    peer.alarm = None;
                    if peer.session.deadline().is_some_and(|(at, _)| at <= around.now) {
                        self.touched.insert(id);
                        self.tell(id, Input::Tick, around);
                    } else {
                        self.arm_peer(id);
                    }
                }
                Alarm::Wire(connection) => {
                    let Some(wire) = self.wires.get_mut(&connection) else { continue };
                    wire.alarm = None;
                    self.tick_wire(connection, around);
                }
            }
        }
        if self.membership_at.is_some_and(|at| at <= around.now) {
            self.decide(membership::Input::Tick, around);
        }
    }

    fn arm_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let at = peer.session.deadline().map(|(at, _)| at);
        arm(&mut self.alarms, Alarm::Peer(id), &mut peer.alarm, at);
    }

    fn arm_wire(&mut self, connection: u64) {
        let Some(wire) = self.wires.get_mut(&connection) else { return };
        let at = match &wire.stage {
            Stage::Unidentified(link) => link.deadline().map(|(at, _)| at),
            Stage::Closing { until, .. } => Some(*until),
            Stage::Peer(_) => None,
        };
        arm(&mut self.alarms, Alarm::Wire(connection), &mut wire.alarm, at);
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    /// Notes whether the link has come or gone.
    fn report(&mut self, id: PeerId, around: &mut Around<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let linked = matches!(peer.session.state(), Some(State::Established));
        if linked == peer.linked {
            return;
        }
        peer.linked = linked;
        around.trace.note(
            around.world,
            Happening {
                host: around.memory.host,
                what: if linked { "linked" } else { "parted" },
                whom: number_of(id),
                much: peer.connection.unwrap_or(0),
                source: 0,
                note: "",
            },
        );
    }
}

/// Sees to it that an alarm rings at `at` or before.
fn arm(alarms: &mut BTreeSet<(Time, Alarm)>, alarm: Alarm, set: &mut Option<Time>, at: Option<Time>) {
    let Some(at) = at.filter(|at| set.is_none_or(|set| *at < set)) else { return };
    if let Some(before) = set.replace(at) {
        alarms.remove(&(before, alarm));
    }
    alarms.insert((at, alarm));
}

impl Peer {
    fn new(session: Session<Payload>) -> Peer {
        Peer {
            session,
            connection: None,
            told: Told::default(),
            wants: BTreeMap::new(),
            exports: BTreeMap::new(),
            relays: BTreeMap::new(),
            linked: false,
            alarm: None,
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
        Wire { end, stage, staging: Vec::new(), batch: Batch::new(), alarm: None }
    }
}
