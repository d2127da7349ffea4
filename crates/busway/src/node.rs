//! A node: this host's links to other hosts.
//!
//! A program that opens a node carries messages between its domain and other hosts; one node a domain is enough for all
//! of its programs, and `busway up` is such a program. Local messages do not pass it: it subscribes to what others want
//! and publishes what they send.
//!
//! Invariant: closing a node loses nothing that its peers have acknowledged, and ends its threads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::PeerId;
use busway_wire::limits::{
    FLOW_BYTES_ALL_DEFAULT, FLOW_FLOOR_BYTES, FLOW_FLOOR_MESSAGES, LINK_CREDIT_BYTES_DEFAULT,
    LINK_CREDIT_MESSAGES_DEFAULT, LINK_PING_MS, LINK_UNIDENTIFIED_DEFAULT,
    LINK_UNIDENTIFIED_OF_ADDRESS_DEFAULT,
};

use crate::acl::Acl;
use crate::artifacts::store::StoreConfig;
use crate::artifacts::{
    ArtifactHandler, Flow, FlowCounts, Handling, Hatch, HatchReach, Voice, WorkersBuilder,
};
use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::runtime::{Change, Hub, HubConfig, Stepped};
use crate::tls::Tls;
use crate::tokens::{Secret, Tokens};

mod shared;
mod status;

pub use shared::SharedNode;
use status::Reporter;
pub use status::{FLOWS_TOPIC, FlowStatus, PEERS_TOPIC, PeerStatus};

/// Clients that a node takes unless the builder says otherwise.
const CLIENTS_DEFAULT: usize = 1_000;

/// What each peer may have under way to us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// How many connections may not have said who they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strangers {
    pub(crate) max: u32,
    pub(crate) of_address_max: u32,
}

/// What all peers together may have under way to us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowLimits {
    pub(crate) bytes: u64,
    /// What each may have, whatever the others do.
    pub(crate) floor: Granted,
}

/// How a node is made. See [`Node::builder`].
#[derive(Clone, Debug)]
#[must_use = "a node is made by `open`"]
pub struct NodeBuilder {
    cluster: String,
    identity: PeerId,
    listen: Vec<SocketAddr>,
    nodes: BTreeMap<u8, String>,
    clients_max: usize,
    keep_alive: Duration,
    strangers: Strangers,
    flows: FlowLimits,
    data: Granted,
    name: Option<String>,
    shares_work: bool,
    shares_artifacts: bool,
    store: StoreConfig,
    handling: Option<Handling>,
    artifact_workers: Option<WorkersBuilder>,
    plain_beyond_loopback: bool,
    tls: Option<Tls>,
    token: Option<Secret>,
    accepted: Vec<(String, Secret)>,
    acl: Option<Acl>,
}

impl NodeBuilder {
    /// The name of the cluster, the same at all of its nodes. Default `default`.
    pub fn cluster(mut self, name: &str) -> Self {
        self.cluster = name.to_owned();
        self
    }

    /// The index of this node in its cluster, 0 to 63. Default 0.
    pub fn index(mut self, index: u8) -> Self {
        self.identity = PeerId::Node { index };
        self
    }

    /// This is no node of the cluster but a client of it, by an id of its own choice, the same at each start. With a certificate or a token of
    /// a client it is the id of that name, [`Principal::id`](crate::Principal::id): the number that it is, else one from 2^63 on.
    pub fn client(mut self, id: u64) -> Self {
        self.identity = PeerId::Client { id };
        self
    }

    /// An address where others may connect; may be called again. Port 0 lets the kernel choose.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen.push(address);
        self
    }

    /// Another node of the cluster: its index, and `host:port`. The name is looked up again at each attempt.
    pub fn peer(mut self, index: u8, address: &str) -> Self {
        self.nodes.insert(index, address.to_owned());
        self
    }

    /// Clients that may be connected at once. Default 1 000.
    pub fn clients_max(mut self, count: usize) -> Self {
        self.clients_max = count;
        self
    }

    /// How long a peer may be silent before it is asked whether it is there. After four times that without an answer its
    /// link is given up. Default 1 s, and no less: more is for links that are many and mostly silent.
    pub fn keep_alive(mut self, silence: Duration) -> Self {
        self.keep_alive = silence;
        self
    }

    /// Messages that each peer may have under way to this node, at least 1. Past it the peer waits. Default 16 384.
    pub fn data_in_flight(mut self, count: u64) -> Self {
        self.data.messages = count;
        self
    }

    /// Bytes that each peer may have under way to this node. A message that is larger goes alone. Default 32 MiB.
    pub fn data_bytes(mut self, bytes: u64) -> Self {
        self.data.bytes = bytes;
        self
    }

    /// Bytes that all peers together may have under way to this node, beyond what each may have in any case. A link is
    /// granted one eighth of what is left of it at most, in place of [`NodeBuilder::data_bytes`]. Default 1 GiB.
    pub fn flows_bytes(mut self, bytes: u64) -> Self {
        self.flows.bytes = bytes;
        self
    }

    /// Messages, and bytes of them, that each peer may have under way to this node, whatever the others have. Default 64
    /// and 256 KiB.
    pub fn flows_floor(mut self, messages: u64, bytes: u64) -> Self {
        self.flows.floor = Granted { messages, bytes };
        self
    }

    /// Connections that may not have said who they are, and of those the ones from one address beyond this host; one more
    /// from there is refused. Default 64 and 32.
    pub fn strangers_max(mut self, count: u32, of_address: u32) -> Self {
        self.strangers = Strangers { max: count, of_address_max: of_address };
        self
    }

    /// Artifacts that come in pieces lie in this directory, which no other node has: what is there of them when the node is killed is not fetched again. It is made where it is not
    /// there, its parent is not. Default: they lie in memory.
    pub fn artifact_store(mut self, directory: impl AsRef<Path>) -> Self {
        self.store.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Bytes of artifacts that come in pieces, in memory or in [`NodeBuilder::artifact_store`]. What this node offers or wants stays; for what else there is the oldest goes first.
    /// Default 1 GiB.
    pub fn artifact_store_bytes(mut self, bytes: u64) -> Self {
        self.store.bytes_max = bytes;
        self
    }

    /// Bytes of artifacts of at most 256 KiB that this node has of others, in memory, beyond 256 KiB of each of them. What was given to all here who want it makes room for others, the
    /// oldest first. What it offers itself of that size has a quarter as much beside, and 64 MiB at least. Default 256 MiB.
    pub fn artifact_bodies_bytes(mut self, bytes: u64) -> Self {
        self.store.bodies_bytes_max = bytes;
        self
    }

    /// The name of this host, for people. Default: that of the kernel.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Links are encrypted, with TLS 1.3, and each side shows who it is by a certificate of the cluster's CA. All links:
    /// who does not speak TLS is refused, on this host too.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// What a client shows that has no certificate: 1 to 1 024 visible ASCII characters. It is said to nodes only, over
    /// TLS or on this host; an address beyond it is not dialed in clear by who has a token.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(Secret::new(token));
        self
    }

    /// Who shows this token is the client `name`; may be called again, up to 1 024 times. From then on a peer that shows
    /// neither a certificate nor a token is refused. On links in clear nodes need one too, with the name `node/INDEX`.
    pub fn accept_token(mut self, name: &str, token: &str) -> Self {
        self.accepted.push((name.to_owned(), Secret::new(token)));
        self
    }

    /// Who may publish and subscribe what through this node. Without it everybody who is let in may do everything.
    pub fn acl(mut self, acl: Acl) -> Self {
        self.acl = Some(acl);
        self
    }

    /// Links beyond this host are neither encrypted nor authenticated, and that is wanted. Without it, and without
    /// [`NodeBuilder::tls`], no address beyond this host is listened at or dialed.
    pub fn allow_plain_beyond_loopback(mut self) -> Self {
        self.plain_beyond_loopback = true;
        self
    }

    /// This decides about artifacts in the place of the node's own machine: it is told by `workers` what peers say, and speaks by `voice`. [`Bus::artifacts`] is not to be had then.
    ///
    /// ```
    /// # fn main() -> Result<(), busway::Error> {
    /// use busway::artifacts::{Interest, SwarmHandler, Voice, Workers};
    /// let voice = Voice::new();
    /// let handler = SwarmHandler::new(0, &voice, |_| Interest::Fetch, |advert, _| println!("{}", advert.id()));
    /// let bus = busway::Bus::open("example-of-a-handler")?;
    /// let builder = busway::Node::builder().index(0);
    /// let node = builder.artifact_handler(std::sync::Arc::new(handler), &voice, Workers::builder()).open(&bus)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn artifact_handler(
        mut self,
        handler: Arc<dyn ArtifactHandler>,
        voice: &Voice,
        workers: WorkersBuilder,
    ) -> Self {
        self.handling = Some(Handling { handler, voice: voice.clone(), workers });
        self
    }

    /// What peers say about artifacts is taken in by the workers of its flow: so what waits of each flow is bounded, counted ([`Node::artifact_flow`], `busway flows`, the metrics) and fair to each peer.
    /// Without it one thread takes in all as it comes, which is faster, and the window of each link alone bounds it. Their timer is not used.
    ///
    /// ```
    /// # fn main() -> Result<(), busway::Error> {
    /// use busway::artifacts::{Flow, WhenFull, Workers};
    /// let workers = Workers::builder().limit(Flow::Request, 100, 1 << 20, WhenFull::Wait);
    /// let bus = busway::Bus::open("example-of-flows")?;
    /// let node = busway::Node::builder().index(0).artifact_workers(workers).open(&bus)?;
    /// assert_eq!(node.artifact_flow(Flow::Request).taken, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn artifact_workers(mut self, workers: WorkersBuilder) -> Self {
        self.artifact_workers = Some(workers);
        self
    }

    /// Listens, and begins to link.
    ///
    /// # Errors
    /// [`Code::BadSetting`] for an index out of range or a peer that is this node, and where an address beyond this host
    /// would be used without [`NodeBuilder::tls`] or [`NodeBuilder::allow_plain_beyond_loopback`];
    /// [`Code::BadCredentials`] for the certificate of somebody else, and what is no token; [`Code::AddressUnusable`] where an address cannot be
    /// listened at; [`Code::StoreUnusable`] where the directory of artifacts cannot be made, read or locked; memory (03xx).
    pub fn open(self, bus: &Bus) -> Result<Node, Error> {
        let config = self.config()?;
        let alone = config.listen.is_empty() && config.nodes.is_empty();
        let reach = if alone { HatchReach::Alone } else { HatchReach::Hosts };
        let hub = Arc::new(Hub::start(bus.core.clone(), config)?);
        let reporter = Reporter::start(hub.clone(), bus)?;
        // A handler of the program's own serves no other programs: it has nothing to give them by.
        let calls = hub.calls().filter(|_| !hub.has_handler());
        let hatch = calls.map(|calls| Hatch::open(bus, calls, reach)).transpose()?;
        Ok(Node { reporter: Some(reporter), hatch, hub, _bus: bus.clone() })
    }

    /// As [`NodeBuilder::open`], over a network in memory, without threads: for the simulator.
    ///
    /// # Errors
    /// As [`NodeBuilder::open`].
    #[doc(hidden)]
    pub fn open_stepped(
        self,
        bus: &Bus,
        network: &busway_io::Network,
        host: busway_io::HostId,
    ) -> Result<Stepped, Error> {
        // The desk of work has a thread.
        Stepped::open(bus, self.apart().config()?, network, host)
    }

    /// Groups, requests and artifacts stay on its host.
    pub(crate) fn apart(mut self) -> Self {
        (self.shares_work, self.shares_artifacts) = (false, false);
        self
    }

    fn config(self) -> Result<HubConfig, Error> {
        self.check()?;
        let tokens = self.tokens()?;
        Ok(HubConfig {
            shares_work: self.shares_work,
            shares_artifacts: self.shares_artifacts,
            store: self.store,
            handling: self.handling,
            artifact_workers: self.artifact_workers,
            cluster: self.cluster,
            identity: self.identity,
            listen: self.listen,
            nodes: self.nodes,
            clients_max: self.clients_max,
            keep_alive_ms: u64::try_from(self.keep_alive.as_millis()).unwrap_or(u64::MAX),
            strangers: self.strangers,
            flows: self.flows,
            data: self.data,
            host: self.name.unwrap_or_else(host_name),
            plain_beyond_loopback: self.plain_beyond_loopback,
            tls: self.tls,
            token: self.token,
            tokens,
            acl: self.acl,
        })
    }

    fn tokens(&self) -> Result<Tokens, Error> {
        let refuse = |cause: String| {
            Error::new(Code::BadCredentials, cause)
                .at("the node")
                .remedy("make another: openssl rand -hex 32")
        };
        self.token.as_ref().map_or(Ok(()), Secret::check).map_err(refuse)?;
        let mut tokens = Tokens::default();
        for (name, token) in &self.accepted {
            tokens.accept(name, token).map_err(refuse)?;
        }
        Ok(tokens)
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |what: String, remedy: &str| {
            Err(Error::new(Code::BadSetting, what).at("the node").remedy(remedy.to_owned()))
        };
        if let Some(handling) = &self.handling {
            if self.acl.is_some() {
                return refuse(
                    "a handler of artifacts of its own is for a node without rules".to_owned(),
                    "leave out the rules, or the handler: it does not know who may have what",
                );
            }
            if !matches!(self.identity, PeerId::Node { .. }) {
                return refuse(
                    "a client shares no artifacts, so its handler would hear nobody".to_owned(),
                    "leave out the handler, or make it a node of the cluster",
                );
            }
            handling.workers.check_for_node()?;
        }
        if let Some(workers) = &self.artifact_workers {
            if self.handling.is_some() {
                return refuse(
                    "a handler of artifacts has workers of its own".to_owned(),
                    "give them to artifact_handler, and leave out artifact_workers",
                );
            }
            if !matches!(self.identity, PeerId::Node { .. }) {
                return refuse(
                    "a client shares no artifacts, so their flows would carry nothing".to_owned(),
                    "leave them out, or make it a node of the cluster",
                );
            }
            workers.check_for_machine()?;
        }
        check_peers(self.identity, &self.nodes)?;
        if [self.data.messages, self.data.bytes, self.flows.bytes].contains(&0)
            || [self.flows.floor.messages, self.flows.floor.bytes].contains(&0)
            || [self.strangers.max, self.strangers.of_address_max].contains(&0)
        {
            return refuse("a limit of 0 would stop all messages".to_owned(), "leave it out for the default");
        }
        if let Some(address) = self.listen.iter().find(|address| !address.ip().is_loopback())
            && !self.plain_beyond_loopback
            && self.tls.is_none()
        {
            return refuse(
                format!("{address} can be reached from other hosts, and links are not encrypted"),
                "listen at 127.0.0.1, give it a certificate, or allow it in words: allow_plain_beyond_loopback",
            );
        }
        self.tls.as_ref().map_or(Ok(()), |tls| check_tls(tls, &self.cluster, self.identity))
    }
}

/// Whether these can be the other nodes.
fn check_peers(identity: PeerId, nodes: &BTreeMap<u8, String>) -> Result<(), Error> {
    let refuse = |what: String, remedy: &str| {
        Err(Error::new(Code::BadSetting, what).at("the node").remedy(remedy.to_owned()))
    };
    let own = match identity {
        PeerId::Node { index } => Some(index),
        PeerId::Client { .. } => None,
    };
    let mut indices = own.into_iter().chain(nodes.keys().copied());
    if let Some(index) = indices.find(|index| *index >= NODES_MAX) {
        return refuse(format!("node {index} is out of range"), "number the nodes 0 to 63");
    }
    if let Some(index) = own.filter(|index| nodes.contains_key(index)) {
        return refuse(format!("node {index} is this node"), "name the other nodes only");
    }
    if nodes.is_empty() && own.is_none() {
        return refuse("a client without a node".to_owned(), "name a node to connect to");
    }
    Ok(())
}

/// Whether a certificate is that of who we are.
fn check_tls(tls: &Tls, cluster: &str, identity: PeerId) -> Result<(), Error> {
    let refuse = |cause: String| {
        let remedy = "use the certificate of this node and cluster: busway cert new";
        Err(Error::new(Code::BadCredentials, cause).at("the node").remedy(remedy))
    };
    match tls.own(cluster) {
        Ok(Some(own)) if own.may_be(identity) => Ok(()),
        Ok(Some(own)) => {
            let id = own.id().map(|id| format!(", whose id is {id}")).unwrap_or_default();
            refuse(format!("the certificate is of {own}{id}, and this is {identity}"))
        }
        Ok(None) if matches!(identity, PeerId::Node { .. }) => {
            refuse("a node needs a certificate".to_owned())
        }
        Ok(None) => Ok(()),
        Err(reason) => refuse(reason),
    }
}

/// Nodes of one cluster.
const NODES_MAX: u8 = 64;

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkState {
    /// Not there; the next attempt comes.
    Waiting,
    /// The connection is being made.
    Connecting,
    /// The connection stands, and says who is there.
    Handshaking,
    /// Messages flow.
    Connected,
    /// It ends: what is under way is settled.
    Draining,
    /// It has ended.
    Closed,
}

/// One peer, as [`Node::peers`] shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerView {
    /// Who it is: `node 1`, `client 00..2a`.
    pub peer: String,
    /// Its name, if it has said it.
    pub name: String,
    /// The address it is dialed at, or from which it came.
    pub address: String,
    /// How the link is.
    pub state: LinkState,
    /// For how long it has been so.
    pub age: Duration,
    /// Why the last link ended, or the last attempt failed.
    pub last_error: Option<String>,
    /// How often, since it is known, the one end was denied a source by the other: one that it may not publish, or that is
    /// of another peer. The last reason is `last_error` until the next link. Of a stranger, how often one from its address
    /// was not let in.
    pub denied: u64,
    /// Messages received over this link.
    pub messages_in: u64,
    /// Messages sent over this link.
    pub messages_out: u64,
    /// Bytes received over this link.
    pub bytes_in: u64,
    /// Bytes sent over this link.
    pub bytes_out: u64,
    /// The last round trip that was measured.
    pub round_trip: Option<Duration>,
}

/// This host's links. Dropping it closes them.
///
/// ```
/// # fn main() -> Result<(), busway::Error> {
/// let bus = busway::Bus::open("example-of-a-node")?;
/// let node = busway::Node::builder().index(0).listen("127.0.0.1:0".parse().expect("an address")).open(&bus)?;
/// println!("others connect to {}", node.listening()[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Node {
    /// Ends before what it reports.
    reporter: Option<Reporter>,
    /// Where other programs of this host come for artifacts; ends before who has them.
    hatch: Option<Hatch>,
    hub: Arc<Hub>,
    // The bus outlives the threads that use it.
    _bus: Bus,
}

impl Node {
    /// How to make one, setting by setting.
    pub fn builder() -> NodeBuilder {
        NodeBuilder {
            cluster: "default".to_owned(),
            identity: PeerId::Node { index: 0 },
            listen: Vec::new(),
            nodes: BTreeMap::new(),
            clients_max: CLIENTS_DEFAULT,
            keep_alive: Duration::from_millis(LINK_PING_MS),
            strangers: Strangers {
                max: LINK_UNIDENTIFIED_DEFAULT,
                of_address_max: LINK_UNIDENTIFIED_OF_ADDRESS_DEFAULT,
            },
            flows: FlowLimits {
                bytes: FLOW_BYTES_ALL_DEFAULT,
                floor: Granted { messages: FLOW_FLOOR_MESSAGES, bytes: FLOW_FLOOR_BYTES },
            },
            data: Granted { messages: LINK_CREDIT_MESSAGES_DEFAULT, bytes: LINK_CREDIT_BYTES_DEFAULT },
            name: None,
            shares_work: true,
            shares_artifacts: true,
            store: StoreConfig::default(),
            handling: None,
            artifact_workers: None,
            plain_beyond_loopback: false,
            tls: None,
            token: None,
            accepted: Vec::new(),
            acl: None,
        }
    }

    /// Where others can connect.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        self.hub.listening()
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Every peer that is configured or connected.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        self.hub.peers()
    }

    /// What a flow of artifacts has counted here, where the program has a handler of its own for them; nothing where it has none.
    #[must_use]
    pub fn artifact_flow(&self, flow: Flow) -> FlowCounts {
        self.hub.workers().map(|workers| workers.counts(flow)).unwrap_or_default()
    }

    /// Waits until `count` peers are connected; false if that takes longer than `timeout`.
    #[must_use]
    pub fn wait_for_peers(&self, count: usize, timeout: Duration) -> bool {
        self.hub.wait_for_peers(count, timeout)
    }

    /// What new connections use from now on, in place of what they did: certificates are renewed so. Links that stand go
    /// on.
    ///
    /// # Errors
    /// [`Code::BadCredentials`] for the certificate of somebody else; the old one stays.
    pub fn set_tls(&self, tls: Tls) -> Result<(), Error> {
        let (cluster, identity) = self.hub.own();
        check_tls(&tls, cluster, identity)?;
        self.hub.set_tls(tls);
        Ok(())
    }

    /// The other nodes are these from now on: each index with its `host:port`. One that is new is dialed, one that has
    /// another address is dialed there, and the link that was made to one that is not among them ends. The others are not
    /// disturbed.
    ///
    /// # Errors
    /// [`Code::BadSetting`] for an index out of range, a peer that is this node, and a client without a node; then
    /// nothing has changed.
    pub fn set_peers(&self, peers: BTreeMap<u8, String>) -> Result<(), Error> {
        let (_, identity) = self.hub.own();
        check_peers(identity, &peers)?;
        self.hub.change(Change::Peers(peers));
        Ok(())
    }

    /// So many clients may be linked from now on. Where more are, the idlest go.
    pub fn set_clients_max(&self, count: usize) {
        self.hub.change(Change::ClientsMax(count));
    }

    /// Messages that each peer may have under way to this node, at least 1, on links that are made from now on.
    pub fn set_data_in_flight(&self, count: u64) {
        self.hub.change(Change::DataInFlight(count.max(1)));
    }

    /// Bytes of them, at least 1.
    pub fn set_data_bytes(&self, bytes: u64) {
        self.hub.change(Change::DataBytes(bytes.max(1)));
    }

    /// Bytes that all peers together may have under way to this node, at least 1, on links that are made from now on.
    pub fn set_flows_bytes(&self, bytes: u64) {
        self.hub.change(Change::FlowsBytes(bytes.max(1)));
    }

    /// Ends the link to a peer, by the name that [`Node::peers`] shows, `node 1`; false where there is none. The peer is
    /// told, and may come back.
    #[must_use]
    pub fn kick(&self, peer: &str) -> bool {
        let found = self.hub.linked(peer);
        if let Some(peer) = found {
            self.hub.change(Change::Kick(peer));
        }
        found.is_some()
    }

    /// Who may publish and subscribe what from now on. What is no longer allowed stops before this returns, but for bytes
    /// that are with the kernel. Links to those whom the change concerns are made anew; reliable subscribers lose nothing
    /// that they still may have. What was taken before of who may not publish it any more is delivered: it was acknowledged.
    pub fn set_acl(&self, acl: Acl) {
        self.hub.set_acl(Some(acl));
    }

    /// Ends the links in order: what is under way is settled first, for most of a second.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.reporter.take());
        drop(self.hatch.take());
    }
}

fn host_name() -> String {
    let name = rustix::system::uname();
    let text = name.nodename().to_string_lossy().into_owned();
    if text.is_empty() { "unnamed".to_owned() } else { text }
}
