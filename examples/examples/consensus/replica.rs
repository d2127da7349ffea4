//! One replica: the consensus, its log on disk, the counter, and `busway::cluster` between them and the others.
//!
//! One thread: take what has come, let the consensus think, bring to disk what it rests on, and only then let messages and
//! answers out. Messages may be lost here (`Full`, `NotConnected`): the consensus and the clients send again.
//!
//! Invariant: nothing leaves that is not on disk, and no request is counted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use busway::cluster::{Event, Message, Outcome, Peer, Replica};
use omnipaxos::util::LogEntry;
use omnipaxos::{ClusterConfig, OmniPaxos, ServerConfig};
use serde::{Deserialize, Serialize};

use crate::clock::now_ns;
use crate::log::{Disk, Increment, Log};

/// What goes between replicas and clients.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// Between replicas: whatever the consensus says.
    Consensus(omnipaxos::messages::Message<Increment>),
    /// Of a client: count this one. Its requests are numbered, and it asks for one at a time.
    Increment { request: u64 },
    /// To a client: it is counted, and this is the counter behind it. `leader` leads, as far as the replica knows.
    Counted { request: u64, value: u64, leader: Option<u8> },
    /// Of a client: how far are you?
    Look,
    /// To a client.
    Seen { counter: u64 },
}

/// The consensus's clock.
const TICK: Duration = Duration::from_millis(10);
/// Ticks without a heartbeat after which another leader is sought.
const ELECTION: u64 = 20;
/// Messages that are taken before the disk is asked.
const BATCH: usize = 64;

struct Node {
    index: u8,
    replica: Replica,
    paxos: OmniPaxos<Increment, Log>,
    disk: Disk,
    /// Decided entries that are counted.
    applied: usize,
    counter: u64,
    /// The last request of each client that was counted, and its value.
    counted: BTreeMap<u64, (u64, u64)>,
    /// Requests that wait for their turn here.
    waiting: BTreeSet<(u64, u64)>,
}

/// Runs until it is killed.
pub(crate) fn run(index: u8, replica: Replica, log: &Path) -> Result<(), Box<dyn Error>> {
    let log = Log::open(log)?;
    let disk = log.disk();
    let nodes = ClusterConfig { configuration_id: 1, nodes: vec![1, 2, 3], flexible_quorum: None };
    let server = ServerConfig {
        pid: u64::from(index) + 1,
        election_tick_timeout: ELECTION,
        resend_message_tick_timeout: 10,
        ..ServerConfig::default()
    };
    let paxos = nodes.build_for_server(server, log)?;
    let mut node = Node {
        index,
        replica,
        paxos,
        disk,
        applied: 0,
        counter: 0,
        counted: BTreeMap::new(),
        waiting: BTreeSet::new(),
    };
    let mut tick_ns = now_ns();
    loop {
        node.hear()?;
        if now_ns() >= tick_ns {
            tick_ns = now_ns() + TICK.as_nanos() as u64;
            node.paxos.tick();
        }
        node.act()?;
    }
}

impl Node {
    /// Takes what has come.
    fn hear(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(event) = self.replica.event(Duration::ZERO) {
            if let Event::Up { peer: Peer::Replica(index) } = event {
                // What was said while it was not there is missing: the consensus has to know.
                self.paxos.reconnected(u64::from(index) + 1);
            }
        }
        let mut patience = TICK / 2;
        for _ in 0..BATCH {
            let Some(message) = self.replica.recv(patience)? else { break };
            patience = Duration::ZERO;
            self.take(&message)?;
        }
        Ok(())
    }

    fn take(&mut self, message: &Message) -> Result<(), Box<dyn Error>> {
        match (message.from(), serde_json::from_slice(message)?) {
            (Peer::Replica(_), Said::Consensus(said)) => self.paxos.handle_incoming(said),
            (Peer::Client(client), Said::Increment { request }) => {
                match self.counted.get(&client) {
                    Some((last, value)) if *last == request => self.answer(client, request, *value)?,
                    // Somebody gave up waiting for it.
                    Some((last, _)) if *last > request => {}
                    Some(_) | None => {
                        self.waiting.insert((client, request));
                        let entry = Increment { client, request };
                        self.paxos.append(entry).map_err(|refused| format!("not proposed: {refused:?}"))?;
                    }
                }
            }
            (from, Said::Look) => self.say(from, &Said::Seen { counter: self.counter })?,
            (from, other) => eprintln!("replica {}: {from} says {other:?}", self.index),
        }
        Ok(())
    }

    /// Brings to disk what was decided here, counts what all have agreed on, and lets out what rests on it.
    fn act(&mut self) -> Result<(), Box<dyn Error>> {
        self.disk.sync()?;
        let mut said = Vec::new();
        self.paxos.take_outgoing_messages(&mut said);
        for message in said {
            let to = u8::try_from(message.get_receiver() - 1)?;
            self.say(Peer::Replica(to), &Said::Consensus(message))?;
        }
        if self.paxos.get_decided_idx() == self.applied {
            return Ok(());
        }
        for entry in self.paxos.read_decided_suffix(self.applied).unwrap_or_default() {
            let LogEntry::Decided(Increment { client, request }) = entry else {
                return Err(format!("not an increment: {entry:?}").into());
            };
            self.applied += 1;
            let last = self.counted.get(&client).map_or(0, |(last, _)| *last);
            // A request that was sent twice may stand in the log twice.
            if request > last {
                self.counter += 1;
                self.counted.insert(client, (request, self.counter));
            }
            if self.waiting.remove(&(client, request))
                && let Some((counted, value)) = self.counted.get(&client).copied()
                && counted == request
            {
                self.answer(client, request, value)?;
            }
        }
        Ok(())
    }

    fn answer(&self, client: u64, request: u64, value: u64) -> Result<(), Box<dyn Error>> {
        let leader = self.paxos.get_current_leader();
        let leader = leader.and_then(|(pid, _)| u8::try_from(pid - 1).ok());
        self.say(Peer::Client(client), &Said::Counted { request, value, leader })
    }

    fn say(&self, to: Peer, said: &Said) -> Result<(), Box<dyn Error>> {
        match self.replica.send(to, &serde_json::to_vec(said)?) {
            // Who misses it asks again.
            Outcome::Queued | Outcome::Full | Outcome::NotConnected => Ok(()),
            outcome => Err(format!("to {to}: {outcome:?}").into()),
        }
    }
}
