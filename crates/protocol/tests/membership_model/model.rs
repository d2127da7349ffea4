//! What always holds for membership: a model of the driver's side, which believes nothing it is told.
//!
//! The input is read in steps of four bytes: what happens, to whom, who they say they are, and how much later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use busway_protocol::membership::{Attempt, Config, Counters, Input, Membership, Output, Why};
use busway_protocol::{ConnectionId, PeerId, Time};

const NODES: u8 = 4;

struct Model {
    machine: Membership,
    ours: PeerId,
    now: Time,
    named: u64,
    /// Dials that were asked for and neither answered nor given up.
    attempts: BTreeMap<Attempt, PeerId>,
    /// Connections that are not closed, and whether we were told to end them.
    open: BTreeMap<ConnectionId, bool>,
    links: BTreeMap<PeerId, ConnectionId>,
    /// Who was dialed for a connection.
    dialed: BTreeMap<ConnectionId, PeerId>,
}

/// Runs the steps, and says what was counted.
pub(crate) fn run(input: &[u8]) -> Counters {
    let first = input.first().copied().unwrap_or(0);
    let ours = match first % 4 {
        0 => PeerId::Client { id: 1 },
        index => PeerId::Node { index },
    };
    let config = Config {
        identity: ours,
        nodes: NODES,
        given: if first < 192 { u64::MAX } else { 0b0110 },
        clients_max: u32::from(first / 4 % 4),
        unidentified_max: u32::from(first / 16 % 4),
        of_address_max: u32::from(first / 64),
        seed: u64::from(first),
    };
    let machine = Membership::new(config);
    let (attempts, open) = (BTreeMap::new(), BTreeMap::new());
    let (links, dialed) = (BTreeMap::new(), BTreeMap::new());
    let mut model = Model { machine, ours, now: Time(0), named: 0, attempts, open, links, dialed };
    for step in input.chunks_exact(4) {
        model.step([step[0], step[1], step[2], step[3]]);
    }
    model.machine.counters()
}

impl Model {
    fn step(&mut self, [what, whom, who, later]: [u8; 4]) {
        self.now = self.now.after_ms(u64::from(later).pow(2) / 16);
        let connection = self.open.keys().nth(usize::from(whom) % self.open.len().max(1)).copied();
        let attempt = self.attempts.keys().nth(usize::from(whom) % self.attempts.len().max(1)).copied();
        let identity = match who % 8 {
            index @ 0..5 => PeerId::Node { index },
            id => PeerId::Client { id: u64::from(id) },
        };
        // Half of those who were dialed are who they should be.
        let expected = connection.and_then(|connection| self.dialed.get(&connection)).filter(|_| who < 128);
        let identity = expected.copied().unwrap_or(identity);
        let unknown = ConnectionId(u64::MAX - u64::from(whom));
        let connection_or_not = connection.unwrap_or(unknown);
        let reason = String::from("so it is");
        let input = match what % 16 {
            0 => Input::Start,
            1 | 2 => Input::Tick,
            3..=5 => {
                let address = (who > 64).then(|| IpAddr::from([10, 0, 0, who % 4]));
                Input::Accepted { connection: self.new_connection(), address }
            }
            6 | 7 => match attempt {
                Some(attempt) => Input::Connected { attempt, connection: self.new_connection() },
                None => Input::Tick,
            },
            8 => Input::ConnectFailed { attempt: attempt.unwrap_or(Attempt(u64::from(whom))), reason },
            9..=11 => Input::Identified { connection: connection_or_not, identity },
            12 if who < 128 => Input::Message { connection: connection_or_not },
            12 => Input::Answered { connection: connection_or_not },
            13 => Input::Refused { connection: connection_or_not, retry_after_ms: u32::from(who) << 24 },
            14 => Input::Closed { connection: connection_or_not, reason },
            _ if who == 0 && whom == 0 => Input::Drain,
            15 if who < 64 => Input::Kick { peer: identity },
            15 if who < 96 => Input::Moved { index: whom % 8 },
            15 if who < 160 => Input::Configured { given: u64::from(whom), clients_max: u32::from(who % 4) },
            _ => Input::Connected { attempt: Attempt(u64::from(whom)), connection: self.new_connection() },
        };
        self.feed(input);
    }

    fn new_connection(&mut self) -> ConnectionId {
        self.named += 1;
        let connection = ConnectionId(self.named);
        self.open.insert(connection, false);
        connection
    }

    fn feed(&mut self, input: Input) {
        match &input {
            Input::Connected { attempt, connection } => {
                let peer = self.attempts.remove(attempt);
                self.dialed.extend(peer.map(|peer| (*connection, peer)));
            }
            Input::ConnectFailed { attempt, .. } => {
                self.attempts.remove(attempt);
            }
            Input::Closed { connection, .. } => {
                self.open.remove(connection);
                self.links.retain(|_, link| link != connection);
            }
            Input::Start
            | Input::Tick
            | Input::Accepted { .. }
            | Input::Identified { .. }
            | Input::Message { .. }
            | Input::Answered { .. }
            | Input::Refused { .. }
            | Input::Drain
            | Input::Configured { .. }
            | Input::Moved { .. }
            | Input::Kick { .. } => {}
        }
        let ticked = input == Input::Tick;
        let mut out = Vec::new();
        self.machine.handle(self.now, input, &mut out);
        out.into_iter().for_each(|output| self.obey(output));
        self.check(ticked);
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Dial { peer, attempt } => {
                assert!(!self.links.contains_key(&peer), "{peer} is dialed though there is a link");
                assert!(!self.attempts.values().any(|other| *other == peer), "{peer} is dialed twice");
                assert!(self.attempts.insert(attempt, peer).is_none(), "{attempt:?} is used again");
            }
            Output::Abandon { attempt } => {
                assert!(self.attempts.remove(&attempt).is_some(), "{attempt:?} is not under way");
            }
            Output::Use { connection, identity } => {
                assert_eq!(self.open.get(&connection), Some(&false), "{connection} is used");
                assert_ne!(identity, self.ours);
                let before = self.links.insert(identity, connection);
                assert_eq!(before, None, "two links to {identity}");
            }
            Output::Refuse { connection, why, .. } => {
                let ended = self.open.insert(connection, true);
                assert_eq!(
                    ended,
                    Some(false),
                    "{connection} is refused, and was not open or was refused before"
                );
                let peer = self.links.iter().find(|(_, link)| **link == connection).map(|(peer, _)| *peer);
                if let Some(PeerId::Node { .. }) = peer {
                    let wanted = [Why::Duplicate, Why::NotGiven, Why::Moved, Why::Kicked];
                    assert!(wanted.contains(&why), "a node gave way");
                }
                self.links.retain(|_, link| *link != connection);
            }
            Output::Close { connection, .. } => {
                assert_eq!(self.open.remove(&connection), Some(false), "{connection} is closed");
            }
        }
    }

    fn check(&self, ticked: bool) {
        let (held, most) = self.machine.slots();
        assert!(held <= most, "{held} of {most} slots");
        let told: BTreeSet<ConnectionId> =
            self.machine.view().iter().filter_map(|view| view.connection).collect();
        for (peer, link) in &self.links {
            assert_eq!(self.machine.link(*peer), Some(*link), "{peer}");
            assert!(told.contains(link), "{peer} is not shown");
        }
        for connection in told {
            assert!(self.open.contains_key(&connection), "{connection} is shown and closed");
        }
        if let (true, Some((at, reason))) = (ticked, self.machine.deadline()) {
            assert!(at > self.now, "{reason:?} at {at:?}, and it is {:?}: nobody moves on", self.now);
        }
    }
}
