//! What comes: newcomers, dials, and who is let in.
//!
//! It sleeps in the driver, hands what comes to the newcomer or the peer that it belongs to, and does what the
//! membership machine decides. A newcomer is nobody until its hello has come and the membership has let it in.
//!
//! Invariant: every connection that the driver gave us is in `connections` until it is closed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_io::{Admission, ConnectionId, Event, Fault, Read, Submitted};
use busway_protocol::flow::{Budget, Flow, Flows, Limits, Rule};
use busway_protocol::membership::{self, Attempt, Membership};
use busway_protocol::{Closed, Config, Input, Link, PeerId, Principal, State, Time};
use busway_wire::limits::LINK_DRAIN_MS;
use busway_wire::link::{Announce, Frame, Refusal, RefusalCode, encode};

use crate::node::{FlowLimits, LinkState};
use crate::ports::lock;
use crate::runtime::cipher::Cipher;
use crate::runtime::hub::{HubConfig, Known, Shared, Wires};
use crate::runtime::newcomer::{Heard, Newcomer};
use crate::runtime::peer::{Happened, Peer, Reason};
use crate::runtime::{Outbound, Pieces, Staging};

mod change;
mod memory;

pub(crate) use change::Change;

/// Soon: what waits for a subscriber is looked at again after this.
const SOON: Duration = Duration::from_millis(1);
/// So long a node that is told to end lets its links settle: it has a second in all. What is not settled by then is
/// told again, or told as lost, when it is back.
const DRAIN_NS: u64 = 800_000_000;
const _: () = assert!(DRAIN_NS < LINK_DRAIN_MS * 1_000_000);
/// A thread that leads looks at deadlines so often.
const TICK_NS: u64 = 500_000;
/// The thread wakes at least so often.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What those are told for whom there is no descriptor.
pub(super) fn too_full() -> Vec<u8> {
    let mut bytes = Vec::new();
    let refusal = Refusal::new(RefusalCode::Full, "no room for another connection", 1_000);
    encode(&Frame::Refusal(refusal), busway_wire::Seed::LOCAL, &mut bytes)
        .expect("a refusal with a short reason can be encoded");
    bytes
}

/// Whose a connection is.
enum Slot {
    /// We are connecting to this peer.
    Dialing(PeerId, Attempt),
    /// Somebody who has not said who it is, or has not been let in.
    Newcomer(Box<Newcomer>),
    Linked(PeerId, Arc<Mutex<Peer>>),
}

/// See the head of this file.
pub(super) struct Door<D> {
    shared: Arc<Shared<D>>,
    membership: Membership,
    connections: BTreeMap<ConnectionId, Slot>,
    /// Who a newcomer has shown to be, while the membership decides whether it is let in.
    proven: BTreeMap<ConnectionId, Principal>,
    staging: Option<Staging>,
    /// Whether newcomers wait in the kernel.
    holds: bool,
    /// Whom we dial, and where.
    nodes: BTreeMap<u8, String>,
    clients_max: usize,
    /// What new links say of us.
    link: Config,
    /// What peers were granted of what all may have under way to us.
    flows: Flows,
    decisions: Vec<membership::Output>,
    events: Vec<Event<Staging, Pieces>>,
    /// The connection that was read last.
    heard: Option<ConnectionId>,
    /// When something came on it.
    heard_ns: u64,
    begun: bool,
    /// Nobody else looks at what is held.
    alone: bool,
    /// Something has to be looked at again soon.
    soon: bool,
    ticked_ns: u64,
    /// When a node that is told to end does.
    end_ns: Option<u64>,
}

/// What a turn has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// There will be more.
    On,
    /// All links are closed.
    Ended,
}

impl<D> std::fmt::Debug for Door<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<D: Wires> Door<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        let membership = Membership::new(membership_config(&shared));
        let (nodes, clients_max) = (shared.config.nodes.clone(), shared.config.clients_max);
        let link = shared.link.clone();
        let flows = Flows::new(flow_limits(&shared.config));
        Self {
            shared,
            membership,
            connections: BTreeMap::new(),
            proven: BTreeMap::new(),
            staging: Some(Staging::new()),
            holds: false,
            nodes,
            clients_max,
            link,
            flows,
            decisions: Vec::new(),
            events: Vec::new(),
            heard: None,
            heard_ns: 0,
            begun: false,
            alone: false,
            soon: false,
            ticked_ns: 0,
            end_ns: None,
        }
    }

    /// There is no thread that sends: what is held is looked at here.
    pub(super) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Sleeps in the driver until something comes, at most `most`, and does what has come. The thread of the links
    /// gives no limit, and ends them when that is wanted; another thread gives one.
    pub(super) fn turn(&mut self, most: Option<Duration>) -> Turned {
        if !std::mem::replace(&mut self.begun, true) {
            self.start();
        }
        if self.shared.stopping() {
            if most.is_some() {
                return Turned::On;
            }
            if self.end_ns.is_none() {
                self.drain();
            }
            let now_ns = self.shared.driver.now_ns();
            let end = *self.end_ns.get_or_insert(now_ns.saturating_add(DRAIN_NS));
            if now_ns >= end || self.shared.all().iter().all(|peer| lock(peer).connection().is_none()) {
                self.close_all();
                return Turned::Ended;
            }
            self.soon = true;
        }
        let timeout = match most {
            None => self.timeout(self.shared.driver.now_ns(), self.soon),
            Some(most) if self.soon => most.min(SOON),
            Some(most) => most,
        };
        let mut events = std::mem::take(&mut self.events);
        match most {
            None => self.soon = self.step(timeout, &mut events),
            Some(_) => self.step_lightly(timeout, &mut events),
        }
        self.events = events;
        Turned::On
    }

    /// As `step`, for who has a message to wait for: what has its time is looked at now and then, and what is told
    /// seldom when it was told.
    fn step_lightly(&mut self, timeout: Duration, events: &mut Vec<Event<Staging, Pieces>>) {
        self.shared.driver.poll(Some(timeout), events);
        let unusual = events.iter().any(|event| !matches!(event, Event::Readable { .. }));
        for event in events.drain(..) {
            self.event(event);
        }
        if self.shared.take_news() {
            self.shared.tell_interests();
            self.change();
            self.dial_resolved();
        }
        let now_ns = self.shared.driver.now_ns();
        if unusual || now_ns >= self.ticked_ns.saturating_add(TICK_NS) {
            self.ticked_ns = now_ns;
            self.soon = self.tick();
            self.admit();
        } else {
            // Whoever is here next looks.
            self.soon = true;
        }
    }

    /// Nobody is dialed or let in any more.
    pub(super) fn drain(&mut self) {
        self.decide(membership::Input::Drain);
    }

    /// How long it may sleep from now on.
    pub(super) fn wait(&self, soon: bool) -> Duration {
        self.timeout(self.shared.driver.now_ns(), soon)
    }

    /// Begins to dial.
    pub(super) fn start(&mut self) {
        self.decide(membership::Input::Start);
    }

    /// Sleeps for so long at most, and takes what has come; true if something has to be looked at again soon.
    pub(super) fn step(&mut self, timeout: Duration, events: &mut Vec<Event<Staging, Pieces>>) -> bool {
        self.shared.driver.poll(Some(timeout), events);
        self.take(events)
    }

    /// Takes what has come; true if something has to be looked at again soon.
    pub(super) fn take(&mut self, events: &mut Vec<Event<Staging, Pieces>>) -> bool {
        for event in events.drain(..) {
            self.event(event);
        }
        self.shared.tell_interests();
        self.change();
        self.dial_resolved();
        let soon = self.tick();
        self.admit();
        soon
    }

    fn now(&self) -> Time {
        Time(self.shared.driver.now_ns())
    }

    /// Takes newcomers in, or leaves them to the kernel: while every stranger has only just come, each newcomer would
    /// cost another one its handshake.
    fn admit(&mut self) {
        let holds = self.membership.admits(self.now()).is_err();
        if holds == self.holds {
            return;
        }
        self.holds = holds;
        let admission = if holds { Admission::Held } else { Admission::Open };
        for listener in &self.shared.listeners {
            self.shared.driver.admit(*listener, admission);
        }
    }

    fn timeout(&self, now_ns: u64, soon: bool) -> Duration {
        if soon {
            return SOON;
        }
        let peers = self.shared.all();
        let deadlines = peers.iter().filter_map(|peer| {
            let peer = lock(peer);
            let held = peer.held_until().filter(|_| self.alone);
            peer.deadline().into_iter().chain(held).min()
        });
        let newcomers = self.connections.values().filter_map(|slot| match slot {
            Slot::Newcomer(newcomer) => newcomer.link.deadline().map(|(at, _)| at),
            Slot::Dialing(..) | Slot::Linked(..) => None,
        });
        let membership = self.membership.deadline().map(|(at, _)| at);
        let admits = self.membership.admits(Time(now_ns)).err();
        let next = deadlines.chain(newcomers).chain(membership).chain(admits).min();
        next.map_or(SLEEP_MAX, |at| Duration::from_nanos(at.0.saturating_sub(now_ns)).min(SLEEP_MAX))
    }

    fn event(&mut self, event: Event<Staging, Pieces>) {
        match event {
            Event::Accepted { connection, peer: from, .. } => {
                let address = address_of(from, self.shared.driver.local_ip(connection));
                let link = Link::accept(&self.link, self.now());
                let newcomer = Newcomer::new(link, from, self.shared.tls());
                self.connections.insert(connection, Slot::Newcomer(Box::new(newcomer)));
                self.decide(membership::Input::Accepted { connection: id(connection), address });
                self.shared.driver.watch(connection);
            }
            Event::Dialed { connection, result } => self.dialed(connection, result),
            Event::Readable { connection } => {
                self.readable(connection, Reason::Told);
            }
            Event::Read { connection, mut space, result } => {
                self.read_done(connection, &mut space, result);
                self.staging = Some(space);
            }
            Event::Written { connection, pieces, result } => self.written(connection, pieces, result),
            Event::Closed { connection } => self.closed(connection),
        }
    }

    fn written(&mut self, connection: ConnectionId, pieces: Pieces, result: Result<usize, Fault>) {
        match self.connections.get_mut(&connection) {
            Some(Slot::Linked(_, peer)) => {
                let mut peer = lock(peer);
                if peer.connection() == Some(connection) && peer.written(&self.shared.driver, pieces, result)
                {
                    peer.pump(&self.shared.driver);
                    self.shared.tell_held(&peer);
                }
            }
            Some(Slot::Newcomer(newcomer)) => match result {
                Ok(count) => {
                    newcomer.written(pieces, count);
                    self.answer_newcomer(connection);
                }
                Err(_) => self.shared.driver.close(connection),
            },
            Some(Slot::Dialing(..)) | None => {}
        }
    }

    fn dialed(&mut self, connection: ConnectionId, result: Result<(), Fault>) {
        let Some(Slot::Dialing(peer, attempt)) = self.connections.get(&connection) else { return };
        let (peer, attempt) = (*peer, *attempt);
        if let Err(fault) = result {
            self.connections.remove(&connection);
            let reason = fault.to_string();
            self.note(peer, LinkState::Waiting, Some(reason.clone()));
            return self.decide(membership::Input::ConnectFailed { attempt, reason });
        }
        self.decide(membership::Input::Connected { attempt, connection: id(connection) });
        if !matches!(self.connections.get(&connection), Some(Slot::Dialing(..))) {
            return;
        }
        let mut config = self.link.clone();
        if let Some(token) = &self.shared.config.token {
            // To who was dialed, never to who comes.
            config.hello.token = token.bytes().to_vec();
        }
        let link = Link::dial(&config, peer, self.now());
        let cluster = &self.shared.config.cluster;
        let cipher = match self.shared.tls().map(|tls| Cipher::dial(&tls, cluster, peer)).transpose() {
            Ok(cipher) => cipher.map(Box::new),
            Err(reason) => {
                self.note(peer, LinkState::Waiting, Some(reason));
                return self.shared.driver.close(connection);
            }
        };
        self.note(peer, LinkState::Handshaking, None);
        self.join(connection, peer, link, cipher, Vec::new());
    }

    /// A connection becomes that of a peer; `rest` was read behind its hello.
    fn join(
        &mut self,
        connection: ConnectionId,
        id: PeerId,
        mut link: Link<Outbound>,
        cipher: Option<Box<Cipher>>,
        mut rest: Vec<u8>,
    ) {
        let principal = self.proven.remove(&connection).unwrap_or_else(|| Principal::of_identity(id));
        let Some(peer) = self.peer(id, principal) else {
            self.shared.driver.close(connection);
            return;
        };
        let hello = &self.link.hello;
        let wanted = Budget { messages: hello.credit_messages, bytes: hello.credit_bytes };
        link.grant(self.flows.grant(id, Flow::Data, wanted));
        {
            let mut peer = lock(&peer);
            peer.connected(&self.shared.driver, connection, link, cipher);
            peer.come(self.now(), &mut rest);
            peer.write(&self.shared.driver);
        }
        self.connections.insert(connection, Slot::Linked(id, peer.clone()));
        self.heed(id, &peer);
        self.shared.driver.watch(connection);
    }

    fn readable(&mut self, connection: ConnectionId, reason: Reason) -> bool {
        match self.connections.get(&connection) {
            Some(Slot::Linked(id, peer)) => {
                let (id, peer) = (*id, peer.clone());
                let (read, happened) = {
                    let mut peer = lock(&peer);
                    let read = peer.read(&self.shared.driver, connection, &mut self.staging, reason);
                    // A publisher that sends what it publishes, many messages at a time, also goes on with what may go now. It
                    // does so for itself alone.
                    let goes_on = || self.shared.carried.is_under_way(self.shared.driver.now_ns());
                    if read && !(peer.has_one_source() && goes_on()) {
                        peer.pump_freed(&self.shared.driver);
                    }
                    self.shared.tell_held(&peer);
                    self.heard_ns = peer.heard_ns();
                    (read, !peer.happened.is_empty())
                };
                self.heard = Some(connection);
                if happened {
                    self.heed(id, &peer);
                }
                return read;
            }
            Some(Slot::Newcomer(_)) => {
                let staging = self.staging.take().unwrap_or_else(Staging::new);
                self.read_newcomer(connection, staging);
            }
            Some(Slot::Dialing(..)) | None => {}
        }
        false
    }

    /// Whether there is a connection for `glance`.
    pub(super) fn is_hearing(&self) -> bool {
        self.heard.is_some()
    }

    /// Takes what has come on the connection that was heard last, without asking which has; when that was, if it was
    /// something.
    pub(super) fn glance(&mut self) -> Option<u64> {
        let connection = self.heard?;
        self.readable(connection, Reason::Guess).then_some(self.heard_ns)
    }

    fn read_newcomer(&mut self, connection: ConnectionId, mut staging: Staging) {
        let Some(Slot::Newcomer(newcomer)) = self.connections.get_mut(&connection) else { return };
        staging.begin(newcomer.begun());
        match self.shared.driver.read(connection, staging) {
            Submitted::Done { mut buffer, result } => {
                self.read_done(connection, &mut buffer, result);
                self.staging = Some(buffer);
            }
            Submitted::Pending => {}
        }
    }

    fn read_done(&mut self, connection: ConnectionId, staging: &mut Staging, result: Result<Read, Fault>) {
        match self.connections.get(&connection) {
            Some(Slot::Linked(id, peer)) => {
                let (id, peer) = (*id, peer.clone());
                lock(&peer).read_done(&self.shared.driver, connection, staging, result);
                self.heed(id, &peer);
            }
            Some(Slot::Newcomer(_)) => match result {
                Ok(Read::Bytes(count)) => {
                    staging.filled(staging.len() + count);
                    self.hear_newcomer(connection, staging.bytes());
                }
                Ok(Read::End) | Err(_) => self.shared.driver.close(connection),
            },
            Some(Slot::Dialing(..)) | None => {}
        }
    }

    /// A newcomer has said something: its hello, or what is none.
    fn hear_newcomer(&mut self, connection: ConnectionId, bytes: &mut [u8]) {
        let now = self.now();
        let Some(Slot::Newcomer(newcomer)) = self.connections.get_mut(&connection) else { return };
        match newcomer.hear(now, &self.shared.config, bytes) {
            Heard::More => {
                self.answer_newcomer(connection);
                self.shared.driver.watch(connection);
            }
            Heard::Hello(identity, principal) => {
                if let Err(reason) = self.is_the_same(identity, &principal) {
                    return self.refuse(connection, Refusal::new(RefusalCode::Credentials, &reason, 0));
                }
                self.proven.insert(connection, principal);
                self.decide(membership::Input::Identified { connection: id(connection), identity });
                self.proven.remove(&connection);
            }
            Heard::Refused(reason) => {
                self.shared.turned_away(newcomer.from, reason);
                self.dismiss(connection);
            }
        }
    }

    /// Writes what a handshake has to say.
    fn answer_newcomer(&mut self, connection: ConnectionId) {
        while let Some(Slot::Newcomer(newcomer)) = self.connections.get_mut(&connection)
            && let Some(pieces) = newcomer.outgoing()
        {
            match self.shared.driver.write(connection, pieces) {
                Submitted::Done { buffer, result: Ok(count) } => newcomer.written(buffer, count),
                Submitted::Done { .. } => return self.shared.driver.close(connection),
                // `Event::Written` brings it back.
                Submitted::Pending => return,
            }
        }
    }

    /// Tells whoever is there why it cannot stay, and hangs up.
    fn refuse(&mut self, connection: ConnectionId, refusal: Refusal) {
        match self.connections.get_mut(&connection) {
            Some(Slot::Newcomer(newcomer)) => {
                self.shared.turned_away(newcomer.from, refusal.reason.clone());
                newcomer.link.refuse(refusal);
                self.dismiss(connection);
            }
            // The session has the last word, and closes behind it.
            Some(Slot::Linked(peer_id, peer)) => {
                let (peer_id, peer) = (*peer_id, peer.clone());
                let current = {
                    let mut peer = lock(&peer);
                    let current = peer.connection() == Some(connection);
                    if current {
                        peer.tell(&self.shared.driver, Input::Refuse { refusal });
                    }
                    current
                };
                if current {
                    self.heed(peer_id, &peer);
                } else {
                    self.shared.driver.close(connection);
                }
            }
            Some(Slot::Dialing(..)) | None => self.shared.driver.close(connection),
        }
    }

    /// Says the last frame, if there is one, and hangs up.
    fn dismiss(&mut self, connection: ConnectionId) {
        let now = self.now();
        if let Some(Slot::Newcomer(newcomer)) = self.connections.get_mut(&connection)
            && let Some(pieces) = newcomer.farewell(now)
        {
            // It fits a fresh socket's buffer; who does not take it is not waited for.
            let _ = self.shared.driver.write(connection, pieces);
        }
        self.shared.driver.close(connection);
    }

    fn closed(&mut self, connection: ConnectionId) {
        self.heard.take_if(|heard| *heard == connection);
        match self.connections.remove(&connection) {
            Some(Slot::Linked(id, peer)) => {
                let linked = {
                    let mut peer = lock(&peer);
                    peer.disconnected(&self.shared.driver, connection);
                    peer.connection().is_some()
                };
                if !linked {
                    self.flows.forget(id);
                }
                self.heed(id, &peer);
                self.note(id, LinkState::Waiting, None);
                self.forget_clients();
                self.forget_node(id);
            }
            Some(Slot::Dialing(peer, _)) => self.note(peer, LinkState::Waiting, None),
            Some(Slot::Newcomer(_)) | None => {}
        }
        let reason = "the connection has ended".to_owned();
        self.decide(membership::Input::Closed { connection: id(connection), reason });
    }

    /// Passes on what a peer's step has brought.
    fn heed(&mut self, peer_id: PeerId, peer: &Arc<Mutex<Peer>>) {
        let (happened, connection) = {
            let mut peer = lock(peer);
            (std::mem::take(&mut peer.happened), peer.connection())
        };
        for happened in happened {
            match happened {
                Happened::Established { name, instance, left } => {
                    if let Some(known) = lock(&self.shared.known).get_mut(&peer_id) {
                        (known.name, known.instance) = (name, instance);
                        known.leave(left);
                    }
                    self.note(peer_id, LinkState::Connected, None);
                    if let Some(connection) = connection {
                        let connection = id(connection);
                        self.decide(membership::Input::Identified { connection, identity: peer_id });
                    }
                }
                Happened::Message(connection) => {
                    self.decide(membership::Input::Message { connection: id(connection) });
                }
                Happened::Answered(connection) => {
                    self.decide(membership::Input::Answered { connection: id(connection) });
                }
                Happened::Denied(reason) => {
                    tracing::warn!(target: "busway::link", peer = %peer_id, "{reason}");
                    if let Some(known) = lock(&self.shared.known).get_mut(&peer_id) {
                        known.last_error = Some(reason);
                        known.denied = known.denied.saturating_add(1);
                        self.shared.known_changed();
                    }
                }
                Happened::Displaced { client, announce } => self.displace(client, peer_id, peer, &announce),
                Happened::Closed { connection, reason, retry_after_ms } => {
                    self.note(peer_id, LinkState::Closed, Some(reason.to_string()));
                    if retry_after_ms > 0 {
                        let connection = id(connection);
                        self.decide(membership::Input::Refused { connection, retry_after_ms });
                    }
                }
            }
        }
    }

    /// A node has announced a source that a client spoke for. One after the other: on this host a source has one ring.
    fn displace(&mut self, client: PeerId, id: PeerId, peer: &Arc<Mutex<Peer>>, announce: &Announce) {
        let displaced = lock(&self.shared.peers).get(&client).cloned();
        if let Some(displaced) = displaced {
            lock(&displaced).cut(&self.shared.driver, announce.source, id);
            self.heed(client, &displaced);
        }
        lock(peer).open_relay(&self.shared.driver, announce);
    }

    /// Deadlines; true if something has to be looked at again soon.
    fn tick(&mut self) -> bool {
        let now = self.now();
        let mut soon = false;
        for peer in self.shared.all().iter() {
            let id = {
                let mut peer = lock(peer);
                let held = || peer.held_until().filter(|_| self.alone || self.shared.stopping());
                if !peer.is_due(now) && held().is_none_or(|until| until > now) {
                    continue;
                }
                soon |= peer.tick(&self.shared.driver);
                self.shared.tell_held(&peer);
                peer.id
            };
            self.heed(id, peer);
        }
        let late: Vec<ConnectionId> = self
            .connections
            .iter_mut()
            .filter_map(|(connection, slot)| match slot {
                Slot::Newcomer(newcomer) => newcomer.link.tick(now).is_err().then_some(*connection),
                Slot::Dialing(..) | Slot::Linked(..) => None,
            })
            .collect();
        for connection in late {
            if let Some(Slot::Newcomer(newcomer)) = self.connections.get(&connection)
                && *newcomer.link.state() == State::Closed(Closed::Handshake)
            {
                self.shared.turned_away(newcomer.from, Closed::Handshake.to_string());
            }
            self.dismiss(connection);
        }
        if self.membership.deadline().is_some_and(|(at, _)| at <= now) {
            self.decide(membership::Input::Tick);
        }
        soon
    }

    /// Tells the membership what happened and does what it decides.
    fn decide(&mut self, input: membership::Input) {
        let now = self.now();
        let mut decisions = std::mem::take(&mut self.decisions);
        self.membership.handle(now, input, &mut decisions);
        for decision in decisions.drain(..) {
            self.carry_out(decision);
        }
        self.decisions = decisions;
    }

    fn carry_out(&mut self, decision: membership::Output) {
        match decision {
            membership::Output::Dial { peer, attempt } => self.dial(peer, attempt),
            membership::Output::Abandon { attempt } => {
                let dialing = self
                    .connections
                    .iter()
                    .find(|(_, slot)| matches!(slot, Slot::Dialing(_, of) if *of == attempt));
                if let Some((connection, _)) = dialing {
                    self.shared.driver.close(*connection);
                }
            }
            membership::Output::Close { connection, .. } => self.shared.driver.close(io_id(connection)),
            membership::Output::Refuse { connection, why, retry_after_ms } => {
                self.refuse(io_id(connection), Refusal::new(why.code(), why.text(), retry_after_ms));
            }
            membership::Output::Use { connection, identity } => {
                let connection = io_id(connection);
                // What we dialed is its peer's already.
                if !matches!(self.connections.get(&connection), Some(Slot::Newcomer(_))) {
                    return;
                }
                let Some(Slot::Newcomer(newcomer)) = self.connections.remove(&connection) else { return };
                let from = newcomer.from;
                lock(&self.shared.known).entry(identity).or_insert_with(|| known(from.to_string()));
                let (link, cipher, rest) = newcomer.into_parts();
                self.join(connection, identity, link, cipher, rest);
            }
        }
    }

    fn dial(&mut self, peer: PeerId, attempt: Attempt) {
        let PeerId::Node { index } = peer else { return };
        // A node whose address nobody gave us finds us, or is not there.
        let Some(address) = self.nodes.get(&index).cloned() else { return };
        lock(&self.shared.known).entry(peer).or_insert_with(|| known(address.clone()));
        self.note(peer, LinkState::Connecting, None);
        self.shared.resolve(peer, attempt, address);
    }

    fn dial_resolved(&mut self) {
        let resolved = std::mem::take(&mut *lock(&self.shared.resolved));
        for (peer, attempt, found) in resolved {
            // Only now is it known where a name leads.
            let encrypted = self.shared.tls().is_some();
            let safe = self.shared.config.plain_beyond_loopback || encrypted;
            let allowed = |address: &SocketAddr| safe || address.ip().is_loopback();
            let secret = self.shared.config.token.is_some() && !encrypted;
            let found = found.and_then(|address| {
                let beyond = "is beyond this host, and links are not encrypted; allow it in words";
                if secret && !address.ip().is_loopback() {
                    return Err(format!(
                        "{address} is beyond this host, and a token is not sent in clear; use TLS"
                    ));
                }
                if allowed(&address) { Ok(address) } else { Err(format!("{address} {beyond}")) }
            });
            match found {
                Ok(address) => {
                    let connection = self.shared.driver.dial(address);
                    self.connections.insert(connection, Slot::Dialing(peer, attempt));
                }
                Err(reason) => {
                    self.note(peer, LinkState::Waiting, Some(reason.clone()));
                    self.decide(membership::Input::ConnectFailed { attempt, reason });
                }
            }
        }
    }

    /// Notes how a link is, for people.
    fn note(&self, peer: PeerId, state: LinkState, error: Option<String>) {
        let now_ns = self.shared.driver.now_ns();
        let mut all = lock(&self.shared.known);
        if !all.contains_key(&peer) && self.is_struck(peer) {
            return;
        }
        let known = all.entry(peer).or_insert_with(|| known(String::new()));
        if known.state != state {
            (known.state, known.since_ns) = (state, now_ns);
        }
        if state == LinkState::Connected {
            known.last_error = None;
        } else if error.is_some() {
            known.last_error = error;
        }
        self.shared.known_changed();
    }

    fn close_all(&mut self) {
        for connection in self.connections.keys() {
            self.shared.driver.close(*connection);
        }
    }
}

fn membership_config<D>(shared: &Shared<D>) -> membership::Config {
    let own = match shared.config.identity {
        PeerId::Node { index } => Some(index),
        PeerId::Client { .. } => None,
    };
    let last = shared.config.nodes.keys().copied().chain(own).max().unwrap_or(0);
    membership::Config {
        identity: shared.config.identity,
        nodes: last.saturating_add(1),
        given: change::given(&shared.config.nodes),
        clients_max: change::clients(shared.config.clients_max),
        unidentified_max: shared.config.strangers.max,
        of_address_max: shared.config.strangers.of_address_max,
        seed: shared.link.hello.instance,
    }
}

/// All that peers may have under way is data: frames of the link are outside of credit.
fn flow_limits(config: &HubConfig) -> Limits {
    let FlowLimits { bytes, floor } = config.flows;
    let mut limits = Limits::default();
    limits.floor = Budget { messages: floor.messages, bytes: floor.bytes };
    limits_of(limits, bytes)
}

/// The same with another cap, which is not 0.
fn limits_of(mut limits: Limits, bytes_all: u64) -> Limits {
    let data = limits.rule(Flow::Data);
    let rule = Rule { limit: Budget { bytes: bytes_all, ..data.limit }, ..data };
    let set = limits.set(Flow::Data, rule).and_then(|()| limits.set_all(bytes_all));
    debug_assert!(set.is_ok(), "a cap is at least 1: {set:?}");
    limits
}

/// From where somebody has come, as far as that is counted: who is on this host is one of us.
fn address_of(from: SocketAddr, own: Option<IpAddr>) -> Option<IpAddr> {
    let address = from.ip().to_canonical();
    if address.is_loopback() || own.is_none_or(|own| own.is_loopback() || own.to_canonical() == address) {
        return None;
    }
    Some(match address {
        IpAddr::V4(_) => address,
        // Of these each host of a network has one in the same 64 bits.
        IpAddr::V6(link) if link.is_unicast_link_local() => address,
        // One subscriber has as many addresses as the rest of the bits has room for.
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    })
}

fn known(address: String) -> Known {
    Known {
        name: String::new(),
        address,
        state: LinkState::Waiting,
        since_ns: 0,
        last_error: None,
        denied: 0,
        instance: 0,
        left: BTreeMap::new(),
    }
}

/// The names of connections of the driver and of the protocol are one and the same number.
fn id(connection: ConnectionId) -> busway_protocol::ConnectionId {
    busway_protocol::ConnectionId(connection.0)
}

fn io_id(connection: busway_protocol::ConnectionId) -> ConnectionId {
    ConnectionId(connection.0)
}

#[cfg(test)]
mod tests;
