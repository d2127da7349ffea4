//! The Busway node: a program whose purpose is to hold the rendezvous of a host, and its links to other hosts.
//!
//! A [`Node`] is a bus that asks for the role instead of taking it only when nobody has it, and stays until it is told
//! to stop. Local messages never pass through it. It does not speak HTTP or record yet; those doors will be opened here,
//! each by a field of [`NodeConfig`].
//!
//! Invariant: stopping a node loses no message of this host; another member takes the role over.

pub mod config;
pub mod near;
mod size;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busway::{Bus, Error, Realm};

pub use size::Size;

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The domain whose rendezvous it holds. Default: `default`.
    pub domain: String,
    /// Where its socket and lock lie. Default: `$BUSWAY_DIR`, else `$XDG_RUNTIME_DIR/busway`, else `/tmp/busway-UID`.
    pub directory: Option<PathBuf>,
    /// How long joining, and the hand-over by the present holder, may take. Default: 5 seconds.
    pub timeout: Duration,
    /// Who may join. Default: our user alone.
    pub realm: Realm,
    /// The domain's byte budget, if the node is the one that makes the domain. Default: a part of the machine's memory.
    pub budget_bytes: Option<u64>,
    /// How it is linked to other hosts; `None`: not at all.
    pub links: Option<Links>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let (domain, timeout) = ("default".to_string(), Duration::from_secs(5));
        let realm = Realm::User;
        Self { domain, directory: None, timeout, realm, budget_bytes: None, links: None }
    }
}

/// How a node is linked to other hosts.
#[derive(Debug, Clone)]
pub struct Links {
    /// The name of the cluster.
    pub cluster: String,
    /// The index of this node.
    pub index: u8,
    /// Or, instead, the id of a client.
    pub client: Option<u64>,
    /// What it is called, for people. Default: the kernel's name of this host.
    pub name: Option<String>,
    /// Where others may connect.
    pub listen: Vec<SocketAddr>,
    /// The other nodes: by index, where they listen.
    pub peers: BTreeMap<u8, String>,
    /// Links beyond this host are not encrypted, and that is wanted.
    pub allow_plain_beyond_loopback: bool,
    /// Clients that may be linked at once.
    pub clients_max: usize,
    /// Messages that each peer may have under way to this node.
    pub data_in_flight: u64,
    /// Bytes of them.
    pub data_bytes: u64,
}

impl Links {
    fn open(&self, bus: &Bus) -> Result<busway::Node, Error> {
        let mut builder = busway::Node::builder()
            .cluster(&self.cluster)
            .clients_max(self.clients_max)
            .data_in_flight(self.data_in_flight)
            .data_bytes(self.data_bytes);
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        builder = match self.client {
            Some(id) => builder.client(id),
            None => builder.index(self.index),
        };
        for address in &self.listen {
            builder = builder.listen(*address);
        }
        for (index, address) in &self.peers {
            builder = builder.peer(*index, address);
        }
        if self.allow_plain_beyond_loopback {
            builder = builder.allow_plain_beyond_loopback();
        }
        builder.open(bus)
    }
}

/// A running node.
///
/// Dropping it stops it.
///
/// ```no_run
/// use busway_node::{Node, NodeConfig};
///
/// let node = Node::start(&NodeConfig::default())?;
/// println!("listening at {}", node.socket_path().display());
/// node.stop();
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Debug)]
pub struct Node {
    // The links end before the bus.
    links: Option<busway::Node>,
    bus: Bus,
    socket: PathBuf,
    listening: Vec<SocketAddr>,
}

impl Node {
    /// Joins the domain and takes the role of its rendezvous, by hand-over where somebody holds it.
    ///
    /// # Errors
    ///
    /// Whatever keeps a bus from being opened (directory, owner, memory, versions), a holder that does not hand over
    /// within the time-out, and an address that cannot be listened at.
    pub fn start(config: &NodeConfig) -> Result<Self, Error> {
        let builder = Bus::builder()
            .domain(&config.domain)
            .name("busway-up")
            .timeout(config.timeout)
            .realm(config.realm)
            .take_role();
        let builder = match &config.directory {
            Some(directory) => builder.directory(directory),
            None => builder,
        };
        let bus = match config.budget_bytes {
            Some(bytes) => builder.budget(bytes),
            None => builder,
        };
        let bus = bus.open()?;
        let socket = bus.socket_path().to_path_buf();
        let links = config.links.as_ref().map(|links| links.open(&bus)).transpose()?;
        let listening = links.as_ref().map(|links| links.listening().to_vec()).unwrap_or_default();
        tracing::info!(domain = %config.domain, socket = %socket.display(), "holds the rendezvous");
        Ok(Self { links, bus, socket, listening })
    }

    /// Where members connect.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.socket
    }

    /// Where other hosts connect.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// The bus of this node, for programs that embed one.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Leaves the domain; the role goes to another member first.
    pub fn stop(mut self) {
        drop(self.links.take());
        self.bus.close();
    }
}
