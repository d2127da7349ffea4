//! The Busway node: a program whose purpose is to hold the rendezvous of a host, and its links to other hosts.
//!
//! A [`Node`] is a bus that asks for the role instead of taking it only when nobody has it, and stays until it is told
//! to stop. Local messages never pass through it. What it is started with is [`config`]'s; what it is asked while it runs
//! comes through a door of its own ([`ask`]). HTTP is `busway_http`'s; here it is opened, given new rights, and closed. It does not record yet.
//!
//! Invariant: stopping a node loses no message of this host; another member takes the role over.

pub mod config;
mod door;
pub mod near;
mod notify;
mod size;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busway::{Acl, Bus, Error, LinkState, PeerView, Realm, Tls};
use busway_http::{Http, HttpConfig};

pub use door::{Answer, Ask, Asked, Info, ask};
pub use notify::{Moment, notify};
pub use size::Size;

use door::{Door, Host};

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
    /// What is served over HTTP; `None`: nothing.
    pub http: Option<HttpConfig>,
    /// The file that said so, for people.
    pub file: Option<PathBuf>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let (domain, timeout) = ("default".to_string(), Duration::from_secs(5));
        let realm = Realm::User;
        Self {
            domain,
            directory: None,
            timeout,
            realm,
            budget_bytes: None,
            links: None,
            http: None,
            file: None,
        }
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
    /// Links are encrypted, with these certificates.
    pub tls: Option<Tls>,
    /// The token that it shows to whom it dials.
    pub token: Option<config::Secret>,
    /// The tokens that it takes, each with the name of its member.
    pub tokens: BTreeMap<String, config::Secret>,
    /// Who may publish and subscribe what across links; `None`: everybody everything.
    pub acl: Option<Acl>,
    /// Links beyond this host are not encrypted, and that is wanted.
    pub allow_plain_beyond_loopback: bool,
    /// Clients that may be linked at once.
    pub clients_max: usize,
    /// Connections that may not have said who they are.
    pub strangers_max: u32,
    /// Of those, the ones from one address beyond this host.
    pub strangers_of_address_max: u32,
    /// The directory of artifacts that come in pieces; `None`: they lie in memory.
    pub artifact_store: Option<PathBuf>,
    /// Bytes of them.
    pub artifact_store_bytes: u64,
    /// What takes in what peers say about artifacts; `None`: one thread, as it comes.
    pub artifact_workers: Option<busway::artifacts::WorkersBuilder>,
    /// How long a peer may be silent before it is asked whether it is there.
    pub keep_alive: Duration,
    /// Messages that each peer may have under way to this node.
    pub data_in_flight: u64,
    /// Bytes of them.
    pub data_bytes: u64,
    /// Bytes that all peers together may have under way to this node.
    pub flows_bytes: u64,
    /// Messages that each may have in any case.
    pub floor_in_flight: u64,
    /// Bytes of them.
    pub floor_bytes: u64,
}

impl Links {
    fn open(&self, bus: &Bus) -> Result<busway::Node, Error> {
        let mut builder = busway::Node::builder()
            .cluster(&self.cluster)
            .clients_max(self.clients_max)
            .keep_alive(self.keep_alive)
            .data_in_flight(self.data_in_flight)
            .data_bytes(self.data_bytes)
            .flows_bytes(self.flows_bytes)
            .flows_floor(self.floor_in_flight, self.floor_bytes)
            .strangers_max(self.strangers_max, self.strangers_of_address_max);
        builder = builder.artifact_store_bytes(self.artifact_store_bytes);
        if let Some(workers) = &self.artifact_workers {
            builder = builder.artifact_workers(workers.clone());
        }
        if let Some(directory) = &self.artifact_store {
            builder = builder.artifact_store(directory);
        }
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
        if let Some(token) = &self.token {
            builder = builder.token(token.expose());
        }
        for (name, token) in &self.tokens {
            builder = builder.accept_token(name, token.expose());
        }
        if let Some(acl) = &self.acl {
            builder = builder.acl(acl.clone());
        }
        if let Some(tls) = &self.tls {
            builder = builder.tls(tls.clone());
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
    running: Arc<Running>,
    socket: PathBuf,
    listening: Vec<SocketAddr>,
    serving: Vec<SocketAddr>,
    /// Closes last: who waits for the end of the node hears of it by that.
    door: Option<Door>,
}

/// What runs, and can be asked about.
#[derive(Debug)]
struct Running {
    /// The links end before the bus.
    links: Mutex<Option<busway::Node>>,
    /// It ends before the links: what it has under way may need them.
    http: Mutex<Option<Http>>,
    /// While there are none: a node without peers, which has the artifacts of this host's programs.
    alone: Mutex<Option<busway::Node>>,
    bus: Bus,
    /// What it was started with, or changed to since.
    config: Mutex<NodeConfig>,
    /// What does not change.
    about: Info,
    started_ns: u64,
}

impl Running {
    fn links(&self) -> MutexGuard<'_, Option<busway::Node>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> MutexGuard<'_, Option<busway::Node>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> Vec<PeerView> {
        self.links().as_ref().map(busway::Node::peers).unwrap_or_default()
    }

    fn reload(&self, wanted: &NodeConfig) -> Result<(), Error> {
        self.reload_links(wanted)?;
        let http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(http), Some(wanted)) = (http.as_ref(), &wanted.http) {
            http.set_rights(wanted.tokens.clone(), wanted.acl.clone());
        }
        Ok(())
    }

    fn reload_links(&self, wanted: &NodeConfig) -> Result<(), Error> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guard = self.links();
        let Some(links) = guard.as_ref() else {
            // Nothing is listened at or dialed yet, so all of it is new.
            if let Some(links) = &wanted.links {
                // One node of a host has its artifacts: what was offered to the former ends with it.
                drop(self.alone().take());
                match links.open(&self.bus) {
                    Ok(links) => *guard = Some(links),
                    Err(error) => {
                        *self.alone() = Some(alone(&self.bus)?);
                        return Err(error);
                    }
                }
            }
            config.links.clone_from(&wanted.links);
            return Ok(());
        };
        let Some(old) = config.links.as_mut() else { return Ok(()) };
        let new = wanted.links.clone().unwrap_or_else(|| Links { peers: BTreeMap::new(), ..old.clone() });
        if new.peers != old.peers {
            links.set_peers(new.peers.clone())?;
        }
        if let Some(tls) = &new.tls
            && let Err(error) = links.set_tls(tls.clone())
        {
            // Those of before are good: they were in force.
            links.set_peers(old.peers.clone())?;
            return Err(error);
        }
        // Those of before hold on where there are none any more: an omission must not open what was closed.
        if let Some(acl) = new.acl.as_ref().filter(|acl| old.acl.as_ref() != Some(*acl)) {
            links.set_acl(acl.clone());
        }
        links.set_clients_max(new.clients_max);
        links.set_data_in_flight(new.data_in_flight);
        links.set_data_bytes(new.data_bytes);
        links.set_flows_bytes(new.flows_bytes);
        let (peers, tls) = (new.peers, new.tls.or_else(|| old.tls.clone()));
        let acl = new.acl.or_else(|| old.acl.clone());
        let (clients_max, data_in_flight, data_bytes) = (new.clients_max, new.data_in_flight, new.data_bytes);
        let flows_bytes = new.flows_bytes;
        *old = Links { peers, tls, acl, clients_max, data_in_flight, data_bytes, flows_bytes, ..old.clone() };
        Ok(())
    }

    fn info(&self) -> Info {
        let peers = self.peers();
        let sum = |count: fn(&PeerView) -> u64| peers.iter().map(count).fold(0, u64::saturating_add);
        Info {
            uptime_ms: now_ns().saturating_sub(self.started_ns) / 1_000_000,
            peers: peers.len(),
            connected: connected(&peers),
            messages_in: sum(|peer| peer.messages_in),
            messages_out: sum(|peer| peer.messages_out),
            bytes_in: sum(|peer| peer.bytes_in),
            bytes_out: sum(|peer| peer.bytes_out),
            ..self.about.clone()
        }
    }
}

impl Host for Running {
    fn answer(&self, ask: &Ask) -> Answer {
        match ask {
            Ask::Info => Answer::Info(Box::new(self.info())),
            Ask::Kick { peer } => {
                let kicked = self.links().as_ref().is_some_and(|links| links.kick(peer));
                if kicked {
                    Answer::Kicked { peer: peer.clone() }
                } else {
                    let peer: String = peer.chars().take(80).collect();
                    let cause = format!("no peer that is linked is called {}", peer.escape_debug());
                    Answer::Refused { cause, remedy: "busway peers".to_owned() }
                }
            }
            Ask::Drain => Answer::Draining { pid: self.about.pid, connected: connected(&self.peers()) },
        }
    }
}

impl Node {
    /// Joins the domain and takes the role of its rendezvous, by hand-over where somebody holds it.
    ///
    /// # Errors
    ///
    /// Whatever keeps a bus from being opened (directory, owner, memory, versions), a holder that does not hand over
    /// within the time-out, and an address that cannot be listened at.
    pub fn start(config: &NodeConfig) -> Result<Self, Error> {
        let started_ns = now_ns();
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
        let only = if links.is_none() { Some(alone(&bus)?) } else { None };
        let listening = links.as_ref().map(|links| links.listening().to_vec()).unwrap_or_default();
        let http = config.http.as_ref().map(|http| Http::open(&bus, http.clone())).transpose()?;
        let serving = http.as_ref().map(|http| http.addresses().to_vec()).unwrap_or_default();
        let about = about(config, &socket, &listening, &serving);
        let running = Arc::new(Running {
            links: Mutex::new(links),
            http: Mutex::new(http),
            alone: Mutex::new(only),
            bus,
            config: Mutex::new(config.clone()),
            about,
            started_ns,
        });
        let door = Some(Door::open(&running.bus, running.clone())?);
        tracing::info!(domain = %config.domain, socket = %socket.display(), "holds the rendezvous");
        Ok(Self { running, socket, listening, serving, door })
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

    /// Where HTTP is served.
    #[must_use]
    pub fn serving(&self) -> &[SocketAddr] {
        &self.serving
    }

    /// The bus of this node, for programs that embed one.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.running.bus
    }

    /// What it is, and what goes over its links.
    #[must_use]
    pub fn info(&self) -> Info {
        self.running.info()
    }

    /// Changes what can be changed while it runs: peers, limits, certificates, permissions. What else differs is left as it is.
    ///
    /// # Errors
    /// A list of peers or a certificate that is not for who this node is; then nothing has changed.
    pub fn reload(&self, config: &NodeConfig) -> Result<(), Error> {
        self.running.reload(config)
    }

    /// Can be read once somebody has asked by `busway node drain` that the node end. Whoever runs it calls [`Node::stop`].
    #[must_use]
    pub fn asked_to_end(&self) -> Option<BorrowedFd<'_>> {
        self.door.as_ref().map(Door::asked)
    }

    /// Ends the links in order, and leaves the domain; the role goes to another member first.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let http = self.running.http.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(http);
        let links = self.running.links().take();
        drop(links);
        let alone = self.running.alone().take();
        drop(alone);
        self.running.bus.close();
        drop(self.door.take());
    }
}

/// A node that neither listens nor dials.
fn alone(bus: &Bus) -> Result<busway::Node, Error> {
    busway::Node::builder().open(bus)
}

fn about(config: &NodeConfig, socket: &Path, listening: &[SocketAddr], serving: &[SocketAddr]) -> Info {
    let links = config.links.as_ref();
    Info {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        domain: config.domain.clone(),
        socket: socket.display().to_string(),
        identity: links.map(|links| match links.client {
            Some(id) => format!("client {id:016x}"),
            None => format!("node {}", links.index),
        }),
        cluster: links.map(|links| links.cluster.clone()),
        name: links.and_then(|links| links.name.clone()),
        listening: listening.iter().map(ToString::to_string).collect(),
        http: serving.iter().map(ToString::to_string).collect(),
        config: config.file.as_ref().map(|path| path.display().to_string()),
        ..Info::default()
    }
}

fn connected(peers: &[PeerView]) -> usize {
    peers.iter().filter(|peer| peer.state == LinkState::Connected).count()
}

/// Nanoseconds of the monotonic clock.
fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(time.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec))
}
