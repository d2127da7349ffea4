//! Replicas and clients: how each is made.
//!
//! An endpoint gets a domain of its own, named after its cluster and itself, because two nodes in one domain would carry
//! each other's topics. The name is the same at each start, so that a killed process leaves one socket behind and not one
//! a start; and a second process under the same name on the same host is found and refused.
//!
//! Invariant: at most one live process of a user and directory has the domain of an endpoint.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use busway_protocol::PeerId;

use super::{Ending, Endpoint, Outcome, Peer};
use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::inspection::PortState;
use crate::node::{Node, NodeBuilder};

/// What both builders hold.
#[derive(Clone, Debug)]
struct Setup {
    cluster: String,
    own: PeerId,
    node: NodeBuilder,
    directory: Option<PathBuf>,
}

impl Setup {
    fn new(cluster: &str, own: PeerId) -> Self {
        let node = Node::builder().apart().cluster(cluster);
        let node = match own {
            PeerId::Node { index } => node.index(index),
            PeerId::Client { id } => node.client(id),
        };
        Self { cluster: cluster.to_owned(), own, node, directory: None }
    }

    fn open(self) -> Result<Endpoint, Error> {
        let name = match self.own {
            PeerId::Node { index } => format!("replica-{index}"),
            PeerId::Client { id } => format!("client-{id:016x}"),
        };
        let domain = format!("cluster-{:016x}-{name}", busway_wire::cluster_id(&self.cluster));
        let mut bus = Bus::builder().domain(&domain).name(&name);
        if let Some(directory) = self.directory {
            bus = bus.directory(directory);
        }
        let bus = bus.open()?;
        alone(&bus, &self.cluster)?;
        Endpoint::start(self.own, bus, self.node)
    }
}

/// Refuses where another process is this endpoint already: the two would take each other's messages.
fn alone(bus: &Bus, cluster: &str) -> Result<(), Error> {
    let found = bus.inspect()?;
    let live = |state: PortState| matches!(state, PortState::Live | PortState::Hung | PortState::Stalled);
    let same = found.processes.iter().filter(|process| process.name == bus.name() && live(process.state));
    if same.count() <= 1 {
        return Ok(());
    }
    let what = format!("{} of cluster {cluster} runs on this host already", bus.name());
    Err(Error::new(Code::EndpointTaken, what)
        .at(format!("domain {}", bus.domain()))
        .remedy("end the other process (busway ls --domain shows it), or take another index or id"))
}

/// How a replica is made. See [`Replica::builder`].
#[derive(Clone, Debug)]
#[must_use = "a replica is made by `open`"]
pub struct ReplicaBuilder(Setup);

impl ReplicaBuilder {
    /// Where others may connect; may be called again. Port 0 lets the kernel choose.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.0.node = self.0.node.listen(address);
        self
    }

    /// Another replica: its index, and `host:port`. Of two the one with the lower index connects.
    pub fn peer(mut self, index: u8, address: &str) -> Self {
        self.0.node = self.0.node.peer(index, address);
        self
    }

    /// Clients that may be connected at once. Default 1 000.
    pub fn clients_max(mut self, count: usize) -> Self {
        self.0.node = self.0.node.clients_max(count);
        self
    }

    /// The runtime directory, if not the one of this user: two endpoints of one name can be on one host in two of them.
    pub fn directory(mut self, path: impl AsRef<Path>) -> Self {
        self.0.directory = Some(path.as_ref().to_owned());
        self
    }

    /// Further settings of the node that carries the messages. Cluster, index, addresses and peers are set already.
    pub fn with_node(mut self, change: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        self.0.node = change(self.0.node);
        self
    }

    /// Listens, and begins to link.
    ///
    /// # Errors
    /// [`Code::EndpointTaken`]; as [`NodeBuilder::open`] and [`BusBuilder::open`](crate::BusBuilder::open).
    pub fn open(self) -> Result<Replica, Error> {
        self.0.open().map(Replica)
    }
}

/// One replica of a cluster: it sends to other replicas by index and to clients by id.
///
/// ```
/// use busway::cluster::{Client, Next, Outcome, Peer, Replica};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let replica = Replica::open("example-of-a-replica", 0, "127.0.0.1:0".parse()?, &[])?;
/// replica.on_message(|sender, message| match sender.send(message.from(), b"heard") {
///     Outcome::Full => Next::Suspend,
///     _ => Next::Taken,
/// })?;
///
/// let client = Client::open("example-of-a-replica", 7, &[(0, &replica.listening()[0].to_string())])?;
/// client.event(Duration::from_secs(5)).expect("the replica is there");
/// assert_eq!(client.send_to_replica(0, b"hello"), Outcome::Queued);
/// let answer = client.recv(Duration::from_secs(5))?.expect("an answer");
/// assert_eq!((answer.from(), &answer[..]), (Peer::Replica(0), &b"heard"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Replica(Endpoint);

impl Replica {
    /// How to make replica `index` of `cluster`, setting by setting.
    pub fn builder(cluster: &str, index: u8) -> ReplicaBuilder {
        ReplicaBuilder(Setup::new(cluster, PeerId::Node { index }))
    }

    /// Replica `index` of `cluster`, where others connect at `listen`; `peers` are the others, each with its index and
    /// `host:port`.
    ///
    /// # Errors
    /// As [`ReplicaBuilder::open`].
    pub fn open(
        cluster: &str,
        index: u8,
        listen: SocketAddr,
        peers: &[(u8, &str)],
    ) -> Result<Replica, Error> {
        let builder = Self::builder(cluster, index).listen(listen);
        peers.iter().fold(builder, |builder, (index, address)| builder.peer(*index, address)).open()
    }

    /// Sends to the client with this id. It never waits.
    pub fn send_to_client(&self, id: u64, payload: &[u8]) -> Outcome {
        self.0.send(Peer::Client(id), payload)
    }

    /// Where others can connect.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        self.0.node().map(Node::listening).unwrap_or_default()
    }

    /// Ends in order: shuts down, waits for what is queued to be acknowledged by those that are there, at most a second,
    /// closes the links, and frees everything. Says what was left.
    pub fn close(mut self) -> Ending {
        self.0.end()
    }
}

impl Deref for Replica {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

/// How a client is made. See [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "a client is made by `open`"]
pub struct ClientBuilder(Setup);

impl ClientBuilder {
    /// A replica: its index, and `host:port`. The client connects to each.
    pub fn replica(mut self, index: u8, address: &str) -> Self {
        self.0.node = self.0.node.peer(index, address);
        self
    }

    /// As [`ReplicaBuilder::directory`].
    pub fn directory(mut self, path: impl AsRef<Path>) -> Self {
        self.0.directory = Some(path.as_ref().to_owned());
        self
    }

    /// As [`ReplicaBuilder::with_node`].
    pub fn with_node(mut self, change: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        self.0.node = change(self.0.node);
        self
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// As [`ReplicaBuilder::open`].
    pub fn open(self) -> Result<Client, Error> {
        self.0.open().map(Client)
    }
}

/// A client of a cluster, by an id of its own choice: it sends to each replica. An id is one client's at a time: of two,
/// the newer takes the place of the older.
///
/// See [`Replica`] for an example.
#[derive(Debug)]
pub struct Client(Endpoint);

impl Client {
    /// How to make client `id` of `cluster`, setting by setting.
    pub fn builder(cluster: &str, id: u64) -> ClientBuilder {
        ClientBuilder(Setup::new(cluster, PeerId::Client { id }))
    }

    /// Client `id` of `cluster`, whose replicas are `nodes`, each with its index and `host:port`.
    ///
    /// # Errors
    /// As [`ReplicaBuilder::open`].
    pub fn open(cluster: &str, id: u64, nodes: &[(u8, &str)]) -> Result<Client, Error> {
        let builder = Self::builder(cluster, id);
        nodes.iter().fold(builder, |builder, (index, address)| builder.replica(*index, address)).open()
    }

    /// As [`Replica::close`].
    pub fn close(mut self) -> Ending {
        self.0.end()
    }
}

impl Deref for Client {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}
