//! Where strangers come: a node as it is shipped, and another that is linked with it and must not notice anything.

use std::net::SocketAddr;
use std::time::Duration;

use busway::{Bus, Node, Policy, Publisher, Subscriber};

use crate::harness::{Place, Running};
use crate::stranger::Stranger;

/// Far longer than any step here takes, also on a machine that does ten other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The cluster of the node.
pub(crate) const CLUSTER: &str = "test";
/// Clients that the node has room for.
pub(crate) const CLIENTS: usize = 1_000;

pub(crate) struct Stage {
    /// A member of the node's domain.
    pub(crate) local: Bus,
    node: Running,
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
        let places = [Place::new(), Place::new()];
        let bus = join(&places[1]);
        let loopback = "127.0.0.1:0".parse().unwrap();
        let bystander = Node::builder().cluster(CLUSTER).index(1).listen(loopback).open(&bus).unwrap();
        let file = places[0].temporary().join("busway.toml");
        let text = format!(
            "[node]\ncluster = \"{CLUSTER}\"\nlisten = [\"{loopback}\"]\n[peers]\n1 = \"{}\"\n\
             [limits]\nclients_max = {CLIENTS}\n",
            bystander.listening()[0]
        );
        std::fs::write(&file, text).unwrap();
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
        let mut stage = Self { local, node, address, far, near, asked: 0, peak: 0, bystander, _bus, _places };
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
