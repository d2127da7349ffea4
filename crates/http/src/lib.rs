//! The HTTP door of a node: publish, push, ask, subscribe, put and get artifacts, and look, with what every language has.
//!
//! It is a user of the bus like any other, with ports of its own in its process, and has no private path into it. What comes in is charged to one flow, `ingress`: so
//! many requests at once, so many bytes of bodies, and what is more is told to come again (429). What it serves stands in one table of routes, from which
//! the OpenAPI document is made. Sockets wait together on a few threads; what may wait for the bus waits on others, a bounded number. All are called `bw-ingress-N`.
//!
//! It knows nothing of configuration files, and does not speak HTTP/2. docs/http.md is its page.
//!
//! Invariant: each request is answered, refused by a cause that is counted, or broken off: `requests = answered + refused + broken off + under way`.

#![forbid(unsafe_code)]

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use busway::{Acl, Bus, Code, Error, Tokens};
use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

mod account;
mod artifacts;
mod ask;
mod body;
mod budget;
mod count;
mod feed;
mod gate;
pub mod limits;
mod openapi;
mod place;
mod ports;
mod query;
mod range;
mod refusal;
mod rights;
mod routes;
mod send;
mod serve;
mod shelf;
mod socket;
mod sse;
mod stall;
mod topics;
mod transfer;
mod turns;

pub use account::{COUNTERS, Counter};
pub use routes::{ROUTES, Route};

use account::Accounts;
use budget::Budget;
use count::Count;
use ports::Ports;
use rights::Rights;
use serve::Connections;
use shelf::Shelf;

/// How the door is opened.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where it listens; port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// Names by which browsers may call it, beside those of this host itself.
    pub hosts: Vec<String>,
    /// Origins of pages that may use it, beside its own: `https://board.example`.
    pub origins: Vec<String>,
    /// Who may come in; without any, everybody who can connect, as `client/http`.
    pub tokens: Tokens,
    /// What they may; `None`: everything but what is reserved.
    pub acl: Option<Acl>,
    /// Bytes of one body.
    pub body_bytes_max: u64,
    /// Requests that may be under way.
    pub in_flight: u32,
    /// Bytes of bodies that may be under way.
    pub bytes: u64,
    /// Streams of messages that may be open.
    pub streams_max: u32,
    /// Connections that may be open; half of them from one address.
    pub connections_max: u32,
    /// Bytes of one artifact that is put.
    pub artifact_bytes_max: u64,
    /// Bytes of all artifacts that were put and stand.
    pub artifacts_bytes: u64,
    /// Artifacts that may be put or given at once.
    pub transfers_max: u32,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            hosts: Vec::new(),
            origins: Vec::new(),
            tokens: Tokens::default(),
            acl: None,
            body_bytes_max: limits::BODY_BYTES_MAX_DEFAULT,
            in_flight: limits::IN_FLIGHT_DEFAULT,
            bytes: limits::BYTES_DEFAULT,
            streams_max: limits::STREAMS_MAX_DEFAULT,
            connections_max: limits::CONNECTIONS_MAX_DEFAULT,
            artifact_bytes_max: limits::ARTIFACT_BYTES_MAX_DEFAULT,
            artifacts_bytes: limits::ARTIFACTS_BYTES_DEFAULT,
            transfers_max: limits::TRANSFERS_MAX_DEFAULT,
        }
    }
}

/// What all requests share.
#[derive(Debug)]
struct Shared {
    bus: Bus,
    hosts: Vec<String>,
    origins: Vec<String>,
    body_bytes_max: u64,
    artifact_bytes_max: u64,
    rights: Rights,
    budget: Budget,
    shelf: Shelf,
    ports: Ports,
    accounts: Accounts,
    ends: watch::Receiver<bool>,
}

impl Shared {
    fn ends(&self) -> bool {
        *self.ends.borrow()
    }

    /// Waits until the door closes.
    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ends = self.ends.clone();
        async move {
            // Who would say so has gone: that is an end too.
            let _ = ends.wait_for(|ends| *ends).await;
        }
    }
}

/// An open door. Dropping it closes it.
///
/// ```
/// use busway_http::{Http, HttpConfig};
/// use std::io::{Read, Write};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = busway::Bus::open("example-of-http")?;
/// let mut subscriber = bus.subscriber("greetings").open()?;
/// let http = Http::open(&bus, HttpConfig { listen: vec!["127.0.0.1:0".parse()?], ..HttpConfig::default() })?;
/// let mut stream = std::net::TcpStream::connect(http.addresses()[0])?;
/// stream.write_all(b"POST /v1/publish/greetings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello")?;
/// assert_eq!(&subscriber.recv()?[..], b"hello");
/// let mut answer = String::new();
/// stream.read_to_string(&mut answer)?;
/// assert!(answer.starts_with("HTTP/1.1 200 OK"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Http {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    ends: watch::Sender<bool>,
    connections: Arc<Connections>,
    runtime: Option<Runtime>,
}

impl Http {
    /// Listens, and serves from now on.
    ///
    /// # Errors
    /// [`Code::AddressUnusable`] for an address that cannot be listened at, [`Code::ThreadRefused`] where the kernel gives no thread.
    pub fn open(bus: &Bus, config: HttpConfig) -> Result<Http, Error> {
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.push(listen(*address)?);
        }
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let runtime = runtime()?;
        let (ends, heard) = watch::channel(false);
        let connections = Connections::new(config.connections_max);
        let budget = Budget::new(&config);
        let shared = Arc::new(Shared {
            bus: bus.clone(),
            hosts: config.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            origins: config.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            body_bytes_max: config.body_bytes_max,
            artifact_bytes_max: config.artifact_bytes_max,
            rights: Rights::new(config.tokens, config.acl),
            shelf: Shelf::new(config.artifacts_bytes),
            ports: Ports::new(bus, &budget.threads),
            budget,
            accounts: Accounts::default(),
            ends: heard,
        });
        let door = serve::Door::new(shared.clone(), connections.clone());
        for listener in listeners {
            let _entered = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| {
                Error::new(Code::AddressUnusable, format!("the kernel does not watch the address: {error}"))
                    .at("http")
                    .remedy("raise the limit: ulimit -n 4096")
            })?;
            runtime.spawn(door.clone().accept(listener));
        }
        Ok(Http { addresses, shared, ends, connections, runtime: Some(runtime) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Exchanges who may come in and what they may. What there was is never taken away whole: without any tokens, or rules, those of before
    /// hold on. It holds for what is under way too: a stream of who may come in no more ends.
    pub fn set_rights(&self, tokens: Tokens, acl: Option<Acl>) {
        self.shared.rights.change(tokens, acl);
    }

    /// The text of `/metrics`, without a connection.
    #[must_use]
    pub fn metrics(&self) -> String {
        account::text(&self.shared)
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.ends.send_replace(true);
        let Some(runtime) = self.runtime.take() else { return };
        // What is under way has this long; streams end at once. It is the clock of the machine that says so: that of the runtime goes only as long as its threads do.
        self.connections.wait_for_none(limits::GRACE);
        runtime.shutdown_timeout(limits::GRACE);
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        Error::new(Code::AddressUnusable, format!("HTTP cannot be served at {address}: {error}"))
            .at(address.to_string())
            .remedy("choose an address of this host and a port that is free, or port 0")
    })
}

fn runtime() -> Result<Runtime, Error> {
    let number = Count::default();
    // Of who opens it: a thread begins as nice as the one that starts it, which may be another of these.
    let nice = (getpriority_process(None).unwrap_or(0).max(0) + limits::NICE).min(19);
    Builder::new_multi_thread()
        .worker_threads(limits::THREADS)
        .max_blocking_threads(limits::THREADS_WAITING_MAX + limits::UPLOADS_MAX as usize)
        .thread_keep_alive(Duration::from_secs(5))
        // Who presses this door takes the processors from nobody else: what these threads do waits for what others do, and never for long.
        .on_thread_start(move || {
            // Who may not is as others.
            let _ = setpriority_process(None, nice);
        })
        .thread_name_fn(move || format!("bw-ingress-{}", number.add(1)))
        .enable_all()
        .build()
        .map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at("bw-ingress-0")
                .remedy("raise the limit on processes: ulimit -u")
        })
}
