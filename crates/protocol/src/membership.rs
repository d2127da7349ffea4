//! Who is whom, who dials, and when; and who gives way when there is no room.
//!
//! The cluster is fixed: nodes by index, clients by id. The lower index dials the higher, a client dials every
//! node; so no two ever dial each other. A connection is a stranger until its handshake has shown who it is. There
//! is room for every node, for so many clients and, apart, for a few strangers; and one spare slot, in which
//! somebody can be told that there is none.
//!
//! It does not resolve names, move bytes or check credentials: it is told who was identified, and says what to do.
//!
//! Invariant: a node never gives way. There is at most one link to a peer. What is kept is bounded by the number of
//! slots, whatever strangers do.

mod backoff;
mod change;
mod view;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use busway_wire::limits::{
    LINK_BACKOFF_CLIENT_MS_MAX, LINK_BACKOFF_NODE_MS_MAX, LINK_CONNECT_MS, LINK_HANDSHAKE_MS, LINK_NODES_MAX,
    LINK_RETRY_AFTER_MS, LINK_RETRY_AFTER_MS_MAX, LINK_STRANGER_MS, REASON_BYTES_MAX,
};

use crate::membership::backoff::{Backoff, Dice};
pub use crate::membership::view::{Attempt, Counters, Input, Output, State, View, Why};
use crate::time::{ConnectionId, PeerId, Time};

/// The cluster, as one member sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who we are.
    pub identity: PeerId,
    /// How many nodes the cluster has: their indices are below it. At most `LINK_NODES_MAX`.
    pub nodes: u8,
    /// The nodes whose address we have, a bit for each index. Others are not dialed: they find us, or are not there.
    pub given: u64,
    /// How many clients may be linked at once.
    pub clients_max: u32,
    /// How many connections may be strangers at once.
    pub unidentified_max: u32,
    /// How many of them may come from one address, where that is known.
    pub of_address_max: u32,
    /// Decides every wait. From the kernel, so that no two processes wait alike.
    pub seed: u64,
}

/// When to come back, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A peer is to be dialed.
    Dial {
        /// Which.
        peer: PeerId,
    },
    /// A connect takes too long.
    Connect {
        /// To whom.
        peer: PeerId,
    },
    /// A handshake takes too long.
    Handshake {
        /// On which connection.
        connection: ConnectionId,
    },
}

/// Where the dial of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// It is not wanted: the peer dials us, there is a link, or we have not begun or are going down.
    Idle,
    Waiting {
        at: Time,
    },
    Connecting {
        attempt: Attempt,
        since: Time,
    },
    Handshaking {
        connection: ConnectionId,
    },
}

#[derive(Clone, Debug)]
struct Node {
    dial: Dial,
    backoff: Backoff,
    link: Option<ConnectionId>,
    /// A connection that we dialed, and that was told to end: it has the node's slot until it is closed.
    ending: Option<ConnectionId>,
    since: Time,
    last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Stranger,
    Dialed { index: u8 },
    Linked { peer: PeerId, heard: Time },
    Ending,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    since: Time,
    stage: Stage,
    /// From where it came, if that counts.
    address: Option<IpAddr>,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Membership {
    config: Config,
    dice: Dice,
    started: bool,
    draining: bool,
    nodes: BTreeMap<u8, Node>,
    clients: BTreeMap<u64, ConnectionId>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// By age.
    strangers: BTreeSet<(Time, ConnectionId)>,
    attempted: u64,
    /// Connections beyond all slots, since there were more of them.
    surplus: usize,
    counters: Counters,
}

impl Node {
    fn new(backoff: Backoff) -> Node {
        Node { dial: Dial::Idle, backoff, link: None, ending: None, since: Time(0), last_error: None }
    }
}

impl Membership {
    /// Nobody is connected, and nobody is dialed before [`Input::Start`].
    #[must_use]
    pub fn new(config: Config) -> Membership {
        let ours = config.identity;
        let others =
            (0..config.nodes.min(LINK_NODES_MAX)).filter(|index| ours != PeerId::Node { index: *index });
        let backoff = backoff_of(ours);
        let nodes = others.map(|index| (index, Node::new(backoff.clone()))).collect();
        Membership {
            config,
            dice: Dice::new(config.seed),
            started: false,
            draining: false,
            nodes,
            clients: BTreeMap::new(),
            connections: BTreeMap::new(),
            strangers: BTreeSet::new(),
            attempted: 0,
            surplus: 0,
            counters: Counters::default(),
        }
    }

    /// Takes what has happened, and says in `out` what is to be done.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Start => {
                self.started = true;
                self.dial_idle(now, out);
            }
            Input::Tick => self.tick(now, out),
            Input::Accepted { connection, address } => self.accepted(now, connection, address, out),
            Input::Connected { attempt, connection } => self.connected(now, attempt, connection, out),
            Input::ConnectFailed { attempt, reason } => {
                if let Some(index) = self.node_of(attempt) {
                    self.counters.dials_failed += 1;
                    self.failed(now, index, reason);
                }
            }
            Input::Identified { connection, identity } => self.identified(now, connection, identity, out),
            Input::Message { connection } => self.message(now, connection),
            Input::Answered { connection } => self.answered(connection),
            Input::Refused { connection, retry_after_ms } => {
                if let Some(node) = self.dialed_node(connection).and_then(|index| self.nodes.get_mut(&index))
                {
                    node.backoff.asked(retry_after_ms);
                }
            }
            Input::Closed { connection, reason } => self.closed(now, connection, reason),
            Input::Drain => self.drain(now, out),
            Input::Configured { given, clients_max } => self.configured(now, given, clients_max, out),
            Input::Moved { index } => self.moved(now, index, out),
            Input::Kick { peer } => self.kick(now, peer, out),
        }
    }

    /// When to come back, and why.
    #[must_use]
    pub fn deadline(&self) -> Option<(Time, Reason)> {
        let of_nodes = self.nodes.iter().filter_map(|(index, node)| {
            let peer = PeerId::Node { index: *index };
            match node.dial {
                Dial::Idle => None,
                // Its slot is taken; the end of what takes it is an input.
                Dial::Waiting { .. } if node.ending.is_some() => None,
                Dial::Waiting { at } => Some((at, Reason::Dial { peer })),
                Dial::Connecting { since, .. } => {
                    Some((since.after_ms(LINK_CONNECT_MS), Reason::Connect { peer }))
                }
                Dial::Handshaking { connection } => {
                    let since = self.connections.get(&connection)?.since;
                    Some((since.after_ms(LINK_HANDSHAKE_MS), Reason::Handshake { connection }))
                }
            }
        });
        let oldest = self.strangers.first().map(|(since, connection)| {
            let reason = Reason::Handshake { connection: *connection };
            (since.after_ms(LINK_HANDSHAKE_MS), reason)
        });
        of_nodes.chain(oldest).min()
    }

    /// Whether newcomers should be taken in. While every stranger's slot is held by somebody who has only just
    /// come, they better wait in the kernel: each of them would cost another one its handshake. Where it is not so,
    /// it says from when on.
    ///
    /// # Errors
    /// From when on newcomers should be taken in.
    pub fn admits(&self, now: Time) -> Result<(), Time> {
        match self.strangers.first() {
            Some((since, _)) if self.is_crowded() && now < since.after_ms(LINK_STRANGER_MS) => {
                Err(since.after_ms(LINK_STRANGER_MS))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The link to a peer.
    #[must_use]
    pub fn link(&self, peer: PeerId) -> Option<ConnectionId> {
        match peer {
            PeerId::Node { index } => self.nodes.get(&index)?.link,
            PeerId::Client { id } => self.clients.get(&id).copied(),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Connections that hold a slot now, and the most that ever can.
    #[must_use]
    pub fn slots(&self) -> (usize, usize) {
        (self.connections.len(), self.nodes.len() + self.guests_usual() + 1 + self.surplus)
    }

    /// `busway peers`: every other node, then clients, then strangers.
    #[must_use]
    pub fn view(&self) -> Vec<View> {
        let nodes = self.nodes.iter().map(|(index, node)| self.view_of_node(*index, node));
        let clients = self.clients.iter().map(|(id, connection)| {
            let state = if self.draining { State::Draining } else { State::Connected };
            self.view_of(Some(PeerId::Client { id: *id }), *connection, state)
        });
        let strangers =
            self.strangers.iter().map(|(_, connection)| self.view_of(None, *connection, State::Handshaking));
        nodes.chain(clients).chain(strangers).collect()
    }

    fn view_of(&self, peer: Option<PeerId>, connection: ConnectionId, state: State) -> View {
        let since = self.connections.get(&connection).map_or(Time(0), |connection| connection.since);
        let connection = Some(connection);
        View { peer, state, since, connection, failures: 0, dials_at: None, last_error: None }
    }

    fn view_of_node(&self, index: u8, node: &Node) -> View {
        let (state, since, connection) = match (node.link, node.dial) {
            (Some(link), _) if self.draining => (State::Draining, node.since, Some(link)),
            (Some(link), _) => (State::Connected, node.since, Some(link)),
            (None, Dial::Connecting { since, .. }) => (State::Connecting, since, None),
            (None, Dial::Handshaking { connection }) => (State::Handshaking, node.since, Some(connection)),
            (None, Dial::Idle | Dial::Waiting { .. }) => (State::Closed, node.since, None),
        };
        let dials_at = match node.dial {
            Dial::Waiting { at } => Some(at),
            Dial::Idle | Dial::Connecting { .. } | Dial::Handshaking { .. } => None,
        };
        let (failures, last_error) = (node.backoff.failures(), node.last_error.clone());
        View { peer: Some(PeerId::Node { index }), state, since, connection, failures, dials_at, last_error }
    }

    /// Slots for all but nodes, without the spare one.
    fn guests_usual(&self) -> usize {
        self.config.clients_max as usize + self.config.unidentified_max as usize
    }

    /// Connections that have no node's slot.
    fn guests(&self) -> usize {
        let held = |node: &Node| {
            let dialed = matches!(node.dial, Dial::Handshaking { .. });
            // One, also where a link has come while what was dialed before has not ended.
            usize::from(dialed || node.link.is_some() || node.ending.is_some())
        };
        self.connections.len() - self.nodes.values().map(held).sum::<usize>()
    }

    fn is_crowded(&self) -> bool {
        self.strangers.len() >= self.config.unidentified_max as usize
    }

    fn we_dial(&self, index: u8) -> bool {
        let given = self.config.given.checked_shr(u32::from(index)).is_some_and(|bits| bits & 1 == 1);
        match self.config.identity {
            PeerId::Node { index: ours } => given && ours < index,
            PeerId::Client { .. } => given,
        }
    }

    fn node_of(&self, attempt: Attempt) -> Option<u8> {
        let connecting =
            |node: &Node| matches!(node.dial, Dial::Connecting { attempt: a, .. } if a == attempt);
        self.nodes.iter().find(|(_, node)| connecting(node)).map(|(index, _)| *index)
    }

    /// The node that we dialed for `connection`.
    fn dialed_node(&self, connection: ConnectionId) -> Option<u8> {
        match self.connections.get(&connection)?.stage {
            Stage::Dialed { index } | Stage::Linked { peer: PeerId::Node { index }, .. } => {
                self.we_dial(index).then_some(index)
            }
            Stage::Linked { peer: PeerId::Client { .. }, .. } | Stage::Stranger | Stage::Ending => None,
        }
    }

    fn dial_idle(&mut self, now: Time, out: &mut Vec<Output>) {
        let indices: Vec<u8> = self.nodes.keys().copied().collect();
        for index in indices {
            let idle =
                self.nodes.get(&index).is_some_and(|node| node.dial == Dial::Idle && node.link.is_none());
            if !idle || !self.we_dial(index) || self.draining {
                continue;
            }
            match self.nodes.get_mut(&index).filter(|node| node.ending.is_some()) {
                // Its slot is taken by a connection that has not ended yet.
                Some(node) => node.dial = Dial::Waiting { at: now },
                None => self.dial(now, index, out),
            }
        }
    }

    fn dial(&mut self, now: Time, index: u8, out: &mut Vec<Output>) {
        let Some(node) = self.nodes.get_mut(&index) else { return };
        self.attempted += 1;
        self.counters.dials += 1;
        let attempt = Attempt(self.attempted);
        node.dial = Dial::Connecting { attempt, since: now };
        out.push(Output::Dial { peer: PeerId::Node { index }, attempt });
    }

    /// There is no link to the node and no dial under way any more: try again later, where it is on us.
    fn failed(&mut self, now: Time, index: u8, reason: String) {
        let again = self.started && !self.draining && self.we_dial(index);
        let Some(node) = self.nodes.get_mut(&index) else { return };
        node.since = now;
        node.last_error = Some(cut(reason));
        node.dial = if again {
            Dial::Waiting { at: Time(now.0.saturating_add(node.backoff.next_ns(&mut self.dice))) }
        } else {
            Dial::Idle
        };
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        let indices: Vec<u8> = self.nodes.keys().copied().collect();
        for index in indices {
            let Some(node) = self.nodes.get(&index) else { continue };
            match node.dial {
                Dial::Waiting { at } if at <= now && node.ending.is_none() => self.dial(now, index, out),
                Dial::Connecting { attempt, since } if since.after_ms(LINK_CONNECT_MS) <= now => {
                    out.push(Output::Abandon { attempt });
                    self.counters.dials_failed += 1;
                    self.failed(now, index, String::from("the connect took too long"));
                }
                Dial::Handshaking { connection } if self.is_overdue(now, connection) => {
                    self.counters.timeouts += 1;
                    self.end(now, connection, Why::Handshake, out);
                }
                Dial::Idle | Dial::Waiting { .. } | Dial::Connecting { .. } | Dial::Handshaking { .. } => {}
            }
        }
        while let Some((_, connection)) = self.strangers.first().copied() {
            if !self.is_overdue(now, connection) {
                break;
            }
            self.counters.timeouts += 1;
            self.end(now, connection, Why::Handshake, out);
        }
    }

    fn is_overdue(&self, now: Time, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_some_and(|c| c.since.after_ms(LINK_HANDSHAKE_MS) <= now)
    }

    /// Frees a slot of an address for one more stranger from there, if as many have come as may: the oldest gives way
    /// once it had the time to say who it is, so that who only opens connections does not keep out who shares its
    /// address.
    fn make_room_at(&mut self, now: Time, address: Option<IpAddr>, out: &mut Vec<Output>) -> Result<(), Why> {
        let from = |(_, connection): &&(Time, ConnectionId)| {
            self.connections.get(connection).is_some_and(|entry| entry.address == address)
        };
        let crowd = self.strangers.iter().filter(from);
        if address.is_none() || crowd.clone().count() < self.config.of_address_max as usize {
            return Ok(());
        }
        let slow = |(since, _): &&(Time, ConnectionId)| since.after_ms(LINK_STRANGER_MS) <= now;
        let Some((_, oldest)) = crowd.min().filter(slow).copied() else { return Err(Why::Crowded) };
        self.give_way(now, oldest, out);
        Ok(())
    }

    fn accepted(
        &mut self,
        now: Time,
        connection: ConnectionId,
        address: Option<IpAddr>,
        out: &mut Vec<Output>,
    ) {
        if self.connections.contains_key(&connection) {
            return;
        }
        if self.guests() > self.guests_usual() {
            // The spare slot is taken too.
            self.counters.turned_away += 1;
            out.push(Output::Close { connection, why: Why::Full });
            return;
        }
        let unwanted = match self.config.identity {
            PeerId::Client { .. } => Some(Why::NotANode),
            PeerId::Node { .. } => self.draining.then_some(Why::Draining),
        };
        // Before room is made among all: nobody from elsewhere gives way to one too many.
        let unwanted = unwanted.or_else(|| self.make_room_at(now, address, out).err());
        let stage = Stage::Stranger;
        self.connections.insert(connection, Connection { since: now, stage, address });
        let why = unwanted.or_else(|| self.make_room(now, out).err());
        self.strangers.insert((now, connection));
        match why {
            Some(why) => {
                self.counters.refused += 1;
                self.end(now, connection, why, out);
            }
            None => self.counters.let_in += 1,
        }
    }

    /// Frees a slot for one more stranger. Where only those that are ending are in its way nobody gives way: it has
    /// the spare slot until they are gone. Else the oldest stranger does, past its deadline or not.
    fn make_room(&mut self, now: Time, out: &mut Vec<Output>) -> Result<(), Why> {
        if !self.is_crowded() {
            return Ok(());
        }
        let Some((_, oldest)) = self.strangers.first().copied() else { return Err(Why::Full) };
        self.give_way(now, oldest, out);
        Ok(())
    }

    /// Ends a stranger for the sake of another, past its deadline or not.
    fn give_way(&mut self, now: Time, stranger: ConnectionId, out: &mut Vec<Output>) {
        let overdue = self.is_overdue(now, stranger);
        self.counters.timeouts += u64::from(overdue);
        self.counters.evicted += u64::from(!overdue);
        self.end(now, stranger, if overdue { Why::Handshake } else { Why::Evicted }, out);
    }

    fn connected(&mut self, now: Time, attempt: Attempt, connection: ConnectionId, out: &mut Vec<Output>) {
        if self.connections.contains_key(&connection) {
            return;
        }
        let Some(index) = self.node_of(attempt) else {
            out.push(Output::Close { connection, why: Why::TooLate });
            return;
        };
        self.connections
            .insert(connection, Connection { since: now, stage: Stage::Dialed { index }, address: None });
        if let Some(node) = self.nodes.get_mut(&index) {
            node.dial = Dial::Handshaking { connection };
            node.since = now;
        }
    }

    fn identified(&mut self, now: Time, connection: ConnectionId, identity: PeerId, out: &mut Vec<Output>) {
        let Some(stage) = self.connections.get(&connection).map(|connection| connection.stage) else {
            return;
        };
        let wrong = match stage {
            Stage::Stranger => self.wrong_stranger(identity),
            Stage::Dialed { index } => (identity != PeerId::Node { index }).then_some(Why::NotWhoWasDialed),
            Stage::Linked { .. } | Stage::Ending => return,
        };
        if let Some(why) = wrong {
            self.counters.refused += 1;
            self.end(now, connection, why, out);
            return;
        }
        if let Some(old) = self.link(identity) {
            self.counters.duplicates += 1;
            self.end(now, old, Why::Duplicate, out);
        }
        if let PeerId::Client { .. } = identity
            && self.clients.len() >= self.config.clients_max as usize
        {
            let Some(idlest) = self.idlest_client() else {
                self.counters.refused += 1;
                self.end(now, connection, Why::Full, out);
                return;
            };
            self.counters.evicted += 1;
            self.end(now, idlest, Why::Idlest, out);
        }
        self.use_link(now, connection, identity, out);
    }

    fn wrong_stranger(&self, identity: PeerId) -> Option<Why> {
        match identity {
            PeerId::Client { .. } => None,
            PeerId::Node { .. } if identity == self.config.identity => Some(Why::Ourselves),
            PeerId::Node { index } if !self.nodes.contains_key(&index) => Some(Why::NoSuchNode),
            PeerId::Node { index } => self.we_dial(index).then_some(Why::WrongWay),
        }
    }

    fn use_link(&mut self, now: Time, connection: ConnectionId, identity: PeerId, out: &mut Vec<Output>) {
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        self.strangers.remove(&(entry.since, connection));
        entry.stage = Stage::Linked { peer: identity, heard: now };
        entry.since = now;
        match identity {
            PeerId::Client { id } => {
                self.clients.insert(id, connection);
            }
            PeerId::Node { index } => {
                if let Some(node) = self.nodes.get_mut(&index) {
                    node.link = Some(connection);
                    node.since = now;
                    node.dial = Dial::Idle;
                }
            }
        }
        self.counters.links += 1;
        out.push(Output::Use { connection, identity });
    }

    /// Whoever has said nothing for the longest time; of two, who came first.
    fn idlest_client(&self) -> Option<ConnectionId> {
        let heard = |connection: &ConnectionId| match self.connections.get(connection).map(|c| c.stage) {
            Some(Stage::Linked { heard, .. }) => heard,
            Some(Stage::Stranger | Stage::Dialed { .. } | Stage::Ending) | None => Time(0),
        };
        self.clients.values().copied().min_by_key(|connection| (heard(connection), *connection))
    }

    fn message(&mut self, now: Time, connection: ConnectionId) {
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        let Stage::Linked { heard, .. } = &mut entry.stage else { return };
        *heard = now;
        self.answered(connection);
    }

    fn answered(&mut self, connection: ConnectionId) {
        let linked = |entry: &Connection| matches!(entry.stage, Stage::Linked { .. });
        if !self.connections.get(&connection).is_some_and(linked) {
            return;
        }
        let dialed = self.dialed_node(connection);
        if let Some(node) = dialed.and_then(|index| self.nodes.get_mut(&index)) {
            node.backoff.reset();
        }
    }

    /// Refuses a connection that holds a slot; it keeps it until it is closed.
    fn end(&mut self, now: Time, connection: ConnectionId, why: Why, out: &mut Vec<Output>) {
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        let stage = core::mem::replace(&mut entry.stage, Stage::Ending);
        self.strangers.remove(&(entry.since, connection));
        self.unlink(now, stage, connection, String::from(why.text()));
        self.keep_slot(stage, connection);
        let spread_ms = self.dice.up_to(4 * LINK_RETRY_AFTER_MS);
        let retry_after_ms = u32::try_from(LINK_RETRY_AFTER_MS + spread_ms).unwrap_or(u32::MAX);
        out.push(Output::Refuse { connection, why, retry_after_ms });
    }

    /// A dialed connection that is ending keeps its node's slot, so that the next dial waits for it.
    fn keep_slot(&mut self, stage: Stage, connection: ConnectionId) {
        if let Stage::Dialed { index } | Stage::Linked { peer: PeerId::Node { index }, .. } = stage
            && self.we_dial(index)
            && let Some(node) = self.nodes.get_mut(&index)
        {
            node.ending = Some(connection);
        }
    }

    fn unlink(&mut self, now: Time, stage: Stage, connection: ConnectionId, reason: String) {
        match stage {
            Stage::Stranger | Stage::Ending => {}
            Stage::Dialed { index } => self.failed(now, index, reason),
            Stage::Linked { peer: PeerId::Node { index }, .. } => {
                if let Some(node) = self.nodes.get_mut(&index).filter(|node| node.link == Some(connection)) {
                    node.link = None;
                    self.failed(now, index, reason);
                }
            }
            Stage::Linked { peer: PeerId::Client { id }, .. } => {
                if self.clients.get(&id) == Some(&connection) {
                    self.clients.remove(&id);
                }
            }
        }
    }

    fn closed(&mut self, now: Time, connection: ConnectionId, reason: String) {
        let Some(entry) = self.connections.remove(&connection) else { return };
        self.strangers.remove(&(entry.since, connection));
        self.unlink(now, entry.stage, connection, reason);
        for node in self.nodes.values_mut().filter(|node| node.ending == Some(connection)) {
            node.ending = None;
        }
        self.surplus = self.surplus.min(self.guests().saturating_sub(self.guests_usual() + 1));
    }

    fn drain(&mut self, now: Time, out: &mut Vec<Output>) {
        self.draining = true;
        for node in self.nodes.values_mut() {
            match node.dial {
                Dial::Connecting { attempt, .. } => {
                    out.push(Output::Abandon { attempt });
                    node.dial = Dial::Idle;
                }
                Dial::Waiting { .. } => node.dial = Dial::Idle,
                Dial::Idle | Dial::Handshaking { .. } => {}
            }
        }
        let unsettled: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, entry)| matches!(entry.stage, Stage::Stranger | Stage::Dialed { .. }))
            .map(|(connection, _)| *connection)
            .collect();
        for connection in unsettled {
            self.end(now, connection, Why::Draining, out);
        }
    }
}

/// How long who we are waits before it dials again. A node that was refused while its peer went down must be back soon
/// after the peer is, and there are never so many of them that they could be a storm.
fn backoff_of(ours: PeerId) -> Backoff {
    match ours {
        PeerId::Node { .. } => Backoff::new(LINK_BACKOFF_NODE_MS_MAX, LINK_BACKOFF_NODE_MS_MAX / 2),
        PeerId::Client { .. } => Backoff::new(LINK_BACKOFF_CLIENT_MS_MAX, LINK_RETRY_AFTER_MS_MAX),
    }
}

/// What a peer says is kept as long as a refusal may be.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests;
