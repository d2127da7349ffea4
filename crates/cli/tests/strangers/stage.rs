//! Where strangers come: a node as it is shipped, and another that is linked with it and must not notice anything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use busway::{
    Bus, FLOWS_TOPIC, FlowStatus, Node, PEERS_TOPIC, Pattern, PeerStatus, Policy, Publisher, Subscriber,
    Topic,
};
use rustix::process::Signal;
use serde::de::DeserializeOwned;

use crate::harness::{Place, Running};
use crate::stranger::Stranger;

/// Far longer than any step here takes, also on a machine that does ten other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// So long nobody has to say that it is there: who is given up for silence, and when, is another question.
const SILENCE: Duration = PATIENCE;
/// The cluster of the node.
pub(crate) const CLUSTER: &str = "test";
/// Clients that the node has room for.
pub(crate) const CLIENTS: usize = 1_000;

pub(crate) struct Stage {
    /// A member of the node's domain.
    pub(crate) local: Bus,
    node: Running,
    /// The configuration of the node, and what of it stands in each.
    file: PathBuf,
    text: String,
    address: SocketAddr,
    far: Ends,
    near: Ends,
    asked: u64,
    peak: u64,
    bystander: Node,
    _bus: Bus,
    _places: [Place; 2],
}

/// What one side of the link between the two nodes has of it.
struct Ends {
    publisher: Publisher,
    subscriber: Subscriber,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// The file of the node ends with `more`.
    pub(crate) fn with(more: &str) -> Self {
        let places = [Place::new(), Place::new()];
        let bus = join(&places[1]);
        let loopback = "127.0.0.1:0".parse().unwrap();
        let bystander = Node::builder().cluster(CLUSTER).index(1).listen(loopback).keep_alive(SILENCE);
        let bystander = bystander.open(&bus).unwrap();
        let file = places[0].temporary().join("busway.toml");
        let text = format!(
            "[node]\ncluster = \"{CLUSTER}\"\nlisten = [\"{loopback}\"]\n[peers]\n1 = \"{}\"\n\
             [limits]\nclients_max = {CLIENTS}\nkeep_alive_ms = {}\n",
            bystander.listening()[0],
            SILENCE.as_millis()
        );
        std::fs::write(&file, format!("{text}{more}")).unwrap();
        let (node, _, line) = Running::spoken(places[0].command(&["up", "--config", file.to_str().unwrap()]));
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("listen=")).unwrap();
        let address = address.parse().unwrap();
        assert!(bystander.wait_for_peers(1, PATIENCE), "{:?}", bystander.peers());
        let local = join(&places[0]);
        let reliable = |bus: &Bus, topic: &str| bus.subscriber(topic).policy(Policy::Block).open().unwrap();
        let (there, back) = (reliable(&local, "ping"), reliable(&bus, "pong"));
        let far = Ends { publisher: bus.publisher("ping").open().unwrap(), subscriber: back };
        let near = Ends { publisher: local.publisher("pong").open().unwrap(), subscriber: there };
        for ends in [&far, &near] {
            ends.publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        }
        let (_bus, _places) = (bus, places);
        let mut stage =
            Self { local, node, file, text, address, far, near, asked: 0, peak: 0, bystander, _bus, _places };
        stage.echo();
        stage.peak = stage.high_water();
        stage
    }

    /// A message goes to the node's domain over the other link and comes back.
    pub(crate) fn echo(&mut self) {
        self.asked += 1;
        self.far.publisher.send(&self.asked.to_le_bytes()).unwrap();
        for ends in [&mut self.near, &mut self.far] {
            let Some(message) = ends.subscriber.recv_timeout(PATIENCE).unwrap() else {
                panic!("the other link does not work: {:?}", self.bystander.peers());
            };
            assert_eq!(message[..], self.asked.to_le_bytes());
            if message.topic() == "ping" {
                ends.publisher.send(&message).unwrap();
            }
        }
    }

    /// The file of the node ends with `more` from now on, and the node has read it.
    pub(crate) fn reload(&mut self, more: &str) {
        std::fs::write(&self.file, format!("{}{more}", self.text)).unwrap();
        self.node.signal(Signal::HUP);
        let line = self.node.stderr_until(|line| line.contains("reloaded"));
        assert_eq!(line, "reloaded");
    }

    /// What the node has said last on one of its topics.
    fn said<T: DeserializeOwned>(&self, topic: &str) -> Vec<T> {
        let topic = Topic::reserved(topic).unwrap();
        let mut said = self.local.subscriber_of(Pattern::Exact(topic)).history(1).open().unwrap();
        said.recv_timeout(PATIENCE).unwrap().expect("the node says it").json().unwrap()
    }

    /// To how many peers nothing more of what is published can go for now: all that may wait for them does.
    pub(crate) fn starved(&self) -> usize {
        let flows: Vec<FlowStatus> = self.said(FLOWS_TOPIC);
        let starved = |flow: &&FlowStatus| flow.flow == "data" && flow.direction == "out" && flow.waited > 0;
        flows.iter().filter(starved).count()
    }

    /// How many peers are in which state, and why.
    pub(crate) fn states(&self) -> BTreeMap<String, usize> {
        let mut states = BTreeMap::new();
        for peer in self.said::<PeerStatus>(PEERS_TOPIC) {
            *states.entry(format!("{} {:?}", peer.state, peer.last_error)).or_default() += 1;
        }
        states
    }

    /// Most memory that the node's process has had, in bytes.
    fn high_water(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.node.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Nothing was disturbed; returns how much more memory the node has had than before the strangers came.
    pub(crate) fn is_well(&mut self, most: u64) -> u64 {
        self.echo();
        let more = self.high_water() - self.peak;
        assert!(more <= most, "the node has taken {more} bytes more");
        more
    }

    /// One that has said nothing yet.
    pub(crate) fn stranger(&self) -> Stranger {
        Stranger::new(CLUSTER, self.address)
    }

    /// One that was let in.
    pub(crate) fn client(&self, id: u64) -> Stranger {
        Stranger::client(CLUSTER, id, self.address).0
    }
}

fn join(place: &Place) -> Bus {
    let bus = Bus::builder().domain("default").directory(place.bus_directory()).arena_bytes(1 << 30);
    bus.timeout(PATIENCE).open().unwrap()
}
