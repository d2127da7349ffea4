//! The Busway node: a program whose purpose is to hold the rendezvous of a host.
//!
//! A [`Node`] is a bus that asks for the role instead of taking it only when nobody has it, and stays until it is told
//! to stop. Local messages never pass through it. It does not link hosts, speak HTTP or record yet; those doors
//! will be opened here, each by a field of [`NodeConfig`].
//!
//! Invariant: stopping a node loses no message; another member takes the role over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use busway::{Bus, Error};

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The domain whose rendezvous it holds. Default: `default`.
    pub domain: String,
    /// How long joining, and the hand-over by the present holder, may take. Default: 5 seconds.
    pub timeout: Duration,
    /// The domain's byte budget, if the node is the one that makes the domain. Default: a part of the machine's memory.
    pub budget_bytes: Option<u64>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { domain: "default".to_string(), timeout: Duration::from_secs(5), budget_bytes: None }
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
    bus: Bus,
    socket: PathBuf,
}

impl Node {
    /// Joins the domain and takes the role of its rendezvous, by hand-over where somebody holds it.
    ///
    /// # Errors
    ///
    /// Whatever keeps a bus from being opened (directory, owner, memory, versions), and a holder that does not hand
    /// over within the time-out.
    pub fn start(config: &NodeConfig) -> Result<Self, Error> {
        let builder =
            Bus::builder().domain(&config.domain).name("busway-up").timeout(config.timeout).take_role();
        let bus = match config.budget_bytes {
            Some(bytes) => builder.budget(bytes),
            None => builder,
        };
        let bus = bus.open()?;
        let socket = bus.socket_path().to_path_buf();
        tracing::info!(domain = %config.domain, socket = %socket.display(), "holds the rendezvous");
        Ok(Self { bus, socket })
    }

    /// Where members connect.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.socket
    }

    /// The bus of this node, for programs that embed one.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Leaves the domain; the role goes to another member first.
    pub fn stop(self) {
        self.bus.close();
    }
}
