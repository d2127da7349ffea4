//! All links of a host: the two threads, the peers, and the connections that are not yet known to be anybody's.
//!
//! Who has the door has the membership machine and the newcomers; that is `bw-link-rx`, or who takes its place. `bw-link-tx`
//! sleeps on the bell of the domain and pumps the peers (`crew`). What both touch is a peer, under its lock.
//!
//! Invariant: a connection is in one place: dialing, a newcomer's, a peer's, or closed.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_io::{Driver, Epoll, Event, Fault, Listen, ListenerId};
use busway_protocol::gossip::NodeIndex;
use busway_protocol::membership::Attempt;
use busway_protocol::{Config, Input, Passing, PeerId, State, Time};
use busway_shm::bell::ANY;
use busway_shm::counters;
use busway_shm::sync::{AtomicBool, AtomicU64, Ordering};

use busway_wire::PortId;
use busway_wire::limits::ARTIFACT_JOIN_MS;

use crate::acl::Acl;
use crate::artifacts::store::StoreConfig;
use crate::artifacts::{Handling, Workers, WorkersBuilder};
use crate::bus::Core;
use crate::control::Watched;
use crate::error::{Code, Error};
use crate::node::{FlowLimits, Granted, LinkState, PeerView, Strangers};
use crate::ports::{Carrier, lock, work_line};
use crate::runtime::backlog::Backlogs;
use crate::runtime::crew::{Carried, Crew};
use crate::runtime::desk::Desk;
use crate::runtime::door::Change;
use crate::runtime::gate::Gates;
use crate::runtime::gossip::{Call, Calls, Intake, Plugged, Relay, Swarm};
use crate::runtime::interest::Interests;
use crate::runtime::occupant::{self, Occupant};
use crate::runtime::peer::{Peer, Speakers};
use crate::runtime::{Outbound, Pieces, Staging};
use crate::tls::Tls;
use crate::tokens::{Secret, Tokens};

/// Of those who were not let in, so many are shown: enough to find a wrong certificate, and no more than a screen.
const STRANGERS_SHOWN: usize = 8;

/// The driver of production.
pub(super) type Sockets = Epoll<Staging, Pieces>;

/// What moves the bytes of a hub: sockets, or a network in memory that the simulator has.
pub(crate) trait Wires: Driver<Staging, Pieces> + Send + Sync + 'static {}

impl<D: Driver<Staging, Pieces> + Send + Sync + 'static> Wires for D {}

/// What a hub is made of.
#[derive(Clone, Debug)]
pub(crate) struct HubConfig {
    /// The name of the cluster.
    pub(crate) cluster: String,
    pub(crate) identity: PeerId,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) nodes: BTreeMap<u8, String>,
    pub(crate) clients_max: usize,
    pub(crate) keep_alive_ms: u64,
    pub(crate) strangers: Strangers,
    pub(crate) flows: FlowLimits,
    pub(crate) data: Granted,
    pub(crate) host: String,
    /// Links beyond this host may be in clear, and that is wanted.
    pub(crate) plain_beyond_loopback: bool,
    /// Links are encrypted.
    pub(crate) tls: Option<Tls>,
    /// What we show to those that we dial.
    pub(crate) token: Option<Secret>,
    /// What others may show.
    pub(crate) tokens: Tokens,
    /// What others may do; everything without it.
    pub(crate) acl: Option<Acl>,
    /// Groups and requests are shared with other hosts.
    pub(crate) shares_work: bool,
    /// Artifacts are, between nodes.
    pub(crate) shares_artifacts: bool,
    pub(crate) store: StoreConfig,
    /// What decides about them in the place of the machine.
    pub(crate) handling: Option<Handling>,
    /// What tells the machine what peers say; without, it hears them itself.
    pub(crate) artifact_workers: Option<WorkersBuilder>,
}

/// What the membership knows of a peer, for people.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) state: LinkState,
    pub(super) since_ns: u64,
    pub(super) last_error: Option<String>,
    pub(super) denied: u64,
    /// The number of its latest start; 0 before its first hello.
    pub(super) instance: u64,
    /// How far earlier starts of it had confirmed the sources that were for them.
    pub(super) left: BTreeMap<PortId, u64>,
}

impl Known {
    /// It has started again, and had confirmed so much before. What a later start confirms counts for nothing.
    pub(super) fn leave(&mut self, left: Vec<(PortId, u64)>) {
        if left.is_empty() {
            return;
        }
        let earlier = std::mem::take(&mut self.left);
        let first = |(source, confirmed)| (source, earlier.get(&source).copied().unwrap_or(confirmed));
        self.left = left.into_iter().map(first).collect();
    }
}

/// One peer, for those who send to it.
#[derive(Clone, Debug)]
pub(crate) struct LinkView {
    pub(crate) peer: PeerId,
    /// The number of its latest start.
    pub(crate) instance: u64,
    pub(crate) connected: bool,
    pub(crate) last_error: Option<String>,
    /// How far earlier starts of it had confirmed the sources that were for them.
    pub(crate) left: BTreeMap<PortId, u64>,
}

/// An address that was looked up, for whom and for which try.
pub(super) type Resolved = (PeerId, Attempt, Result<SocketAddr, String>);

/// What all threads share.
pub(super) struct Shared<D> {
    pub(super) core: Arc<Core>,
    pub(super) driver: D,
    pub(super) listeners: Vec<ListenerId>,
    pub(super) config: HubConfig,
    pub(super) link: Config,
    pub(super) peers: Mutex<BTreeMap<PeerId, Arc<Mutex<Peer>>>>,
    /// The same, to be looked at without copying them.
    listed: Mutex<Arc<[Arc<Mutex<Peer>>]>>,
    pub(super) interests: Mutex<Interests>,
    pub(super) known: Mutex<BTreeMap<PeerId, Known>>,
    pub(super) changed: Condvar,
    /// Raised with each change of `known`, under its lock.
    pub(super) changes: AtomicU64,
    pub(super) speakers: Arc<Speakers>,
    pub(super) gates: Arc<Gates>,
    pub(super) backlogs: Arc<Backlogs>,
    /// When publishers of this process have sent what they had published.
    pub(super) carried: Carried,
    /// What new connections use.
    pub(super) tls: Mutex<Option<Tls>>,
    /// What others may do now.
    acl: Mutex<Option<Acl>>,
    /// Who was turned away last, and why; for people.
    pub(super) strangers: Mutex<VecDeque<Known>>,
    /// What the control thread has said and the receiving thread has not heard.
    watched: Mutex<Vec<Watched>>,
    /// The same, for who shares work with other hosts, if somebody does.
    pub(super) watched_of_work: Mutex<Vec<Watched>>,
    /// What a person has changed and the receiving thread has not.
    pub(super) changes_wanted: Mutex<Vec<Change>>,
    /// Addresses that were looked up.
    pub(super) resolved: Mutex<Vec<Resolved>>,
    /// There is something in `watched` or in `resolved`.
    news: AtomicBool,
    /// Until then the thread that sends sleeps if it is not rung for, in nanoseconds; the latest time of all while it looks before it sleeps, and 0 while
    /// it is awake and looks again soon.
    pub(super) sleeps_until: AtomicU64,
    /// Where the thread that sends lingers.
    pub(super) linger: Mutex<()>,
    pub(super) lingered: Condvar,
    stop: AtomicBool,
    work_ends: AtomicBool,
    /// What programs want of the artifacts, if this is a node that shares them.
    pub(super) calls: Option<Arc<Calls>>,
}

impl<D> std::fmt::Debug for Shared<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Without threads of its own: what is published is found by `pump`, and nobody leads.
impl<D: Wires> Carrier for Shared<D> {
    fn watched(&self, watched: Watched) {
        lock(&self.watched).push(watched);
        self.tell_news();
    }

    fn changed(&self) {
        self.driver.wake();
    }
}

impl<D: Wires> Shared<D> {
    /// Listens where the configuration says; nobody is let in before a door is there.
    pub(super) fn listen(
        core: Arc<Core>,
        driver: D,
        config: HubConfig,
    ) -> Result<(Arc<Self>, Vec<SocketAddr>), Error> {
        let (mut listening, mut listeners) = (Vec::new(), Vec::new());
        for address in &config.listen {
            let how = Listen { address: *address, backlog: 4_096, refusal: crate::runtime::door::too_full() };
            let stands = driver.listen(how).map_err(|error| {
                core.ports.count(counters::Event::BindFailed, 1);
                unusable(*address, &error)
            })?;
            listening.push(stands.address);
            listeners.push(stands.listener);
        }
        let instance = Core::new_port()?.0;
        let mut link = Config::new(busway_wire::cluster_id(&config.cluster), config.identity, instance);
        link.keep_alive_ms = config.keep_alive_ms;
        link.hello.credit_messages = config.data.messages;
        link.hello.credit_bytes = config.data.bytes;
        link.hello.name = busway_wire::link::label_of(&config.host);
        let node = matches!(config.identity, PeerId::Node { .. });
        let calls = if config.shares_artifacts && node { Some(Calls::new(&config.store)?) } else { None };
        let shared = Arc::new(Self {
            core,
            driver,
            calls,
            tls: Mutex::new(config.tls.clone()),
            acl: Mutex::new(config.acl.clone()),
            strangers: Mutex::new(VecDeque::new()),
            listeners,
            config,
            link,
            peers: Mutex::new(BTreeMap::new()),
            listed: Mutex::new(Arc::new([])),
            interests: Mutex::new(Interests::default()),
            known: Mutex::new(BTreeMap::new()),
            changed: Condvar::new(),
            changes: AtomicU64::new(0),
            speakers: Arc::new(Speakers::default()),
            gates: Arc::new(Gates::default()),
            backlogs: Arc::new(Backlogs::default()),
            carried: Carried::new(),
            watched: Mutex::new(Vec::new()),
            watched_of_work: Mutex::new(Vec::new()),
            changes_wanted: Mutex::new(Vec::new()),
            resolved: Mutex::new(Vec::new()),
            news: AtomicBool::new(false),
            sleeps_until: AtomicU64::new(0),
            linger: Mutex::new(()),
            lingered: Condvar::new(),
            stop: AtomicBool::new(false),
            work_ends: AtomicBool::new(false),
        });
        Ok((shared, listening))
    }

    fn tell_news(&self) {
        self.news.store(true, Ordering::Release); // pairs with AcqRel in `take_news`
        self.driver.wake();
    }

    /// Whether there are addresses or subscriptions that the door has not heard of.
    pub(super) fn take_news(&self) -> bool {
        self.news.load(Ordering::Relaxed) && self.news.swap(false, Ordering::AcqRel) // pairs with Release in `tell_news`
    }

    pub(super) fn insert(&self, id: PeerId, peer: Arc<Mutex<Peer>>) {
        let mut peers = lock(&self.peers);
        peers.insert(id, peer);
        *lock(&self.listed) = peers.values().cloned().collect();
    }

    pub(super) fn remove(&self, id: PeerId) -> Option<Arc<Mutex<Peer>>> {
        let mut peers = lock(&self.peers);
        let removed = peers.remove(&id);
        *lock(&self.listed) = peers.values().cloned().collect();
        removed
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire) // pairs with Release in `stop`
    }

    /// Whether nothing more is shared with peers.
    pub(super) fn work_ends(&self) -> bool {
        self.work_ends.load(Ordering::Acquire) // pairs with Release in `Hub::drop`
    }

    /// The threads end from now on.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release); // pairs with Acquire in `stopping`
    }

    /// What a new connection uses.
    pub(super) fn tls(&self) -> Option<Tls> {
        lock(&self.tls).clone()
    }

    /// What others may do now.
    pub(super) fn acl(&self) -> Option<Acl> {
        lock(&self.acl).clone()
    }

    /// Notes that somebody was not let in, and why. One from each host is enough.
    pub(super) fn turned_away(&self, from: SocketAddr, reason: String) {
        tracing::info!(target: "busway::link", %from, "not let in: {reason}");
        let (address, since_ns) = (from.to_string(), self.driver.now_ns());
        let mut strangers = lock(&self.strangers);
        let same = |known: &Known, address: &str| {
            let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.to_owned());
            host(&known.address) == host(address)
        };
        let before = strangers.iter().find(|known| same(known, &address)).map_or(0, |known| known.denied);
        let stranger = Known {
            name: String::new(),
            address,
            state: LinkState::Closed,
            since_ns,
            last_error: Some(reason),
            denied: before.saturating_add(1),
            instance: 0,
            left: BTreeMap::new(),
        };
        strangers.retain(|known| !same(known, &stranger.address));
        strangers.push_back(stranger);
        if strangers.len() > STRANGERS_SHOWN {
            strangers.pop_front();
        }
        drop(strangers);
        let _known = lock(&self.known);
        self.known_changed();
    }

    /// Wakes who waits for a change of `known`, which the caller has locked.
    pub(super) fn known_changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// The peers, as they are now.
    pub(super) fn all(&self) -> Arc<[Arc<Mutex<Peer>>]> {
        lock(&self.listed).clone()
    }

    /// Looks `address` up on a thread of its own: a name server may take seconds.
    pub(super) fn resolve(self: &Arc<Self>, peer: PeerId, attempt: Attempt, address: String) {
        if let Ok(address) = address.parse::<SocketAddr>() {
            lock(&self.resolved).push((peer, attempt, Ok(address)));
            return self.tell_news();
        }
        let shared = self.clone();
        let started = std::thread::Builder::new().name("bw-resolve".to_owned()).spawn(move || {
            let found = address.to_socket_addrs().map(|mut found| found.next());
            let found = match found {
                Ok(Some(found)) => Ok(found),
                Ok(None) => Err(format!("{address} has no address")),
                Err(error) => Err(format!("{address}: {error}")),
            };
            lock(&shared.resolved).push((peer, attempt, found));
            shared.tell_news();
        });
        if let Err(error) = started {
            lock(&self.resolved).push((peer, attempt, Err(format!("cannot look a name up: {error}"))));
            self.tell_news();
        }
    }

    /// Tells all peers what this host wants, as far as that has changed.
    pub(super) fn tell_interests(&self) {
        let watched = std::mem::take(&mut *lock(&self.watched));
        if watched.is_empty() {
            return;
        }
        if self.config.shares_work {
            lock(&self.watched_of_work).extend(watched.iter().cloned());
            self.core.ports.ring_bell(work_line());
        }
        let mut tell = Vec::new();
        let mut interests = lock(&self.interests);
        for watched in watched {
            interests.watched(watched, &mut tell);
        }
        // Under the lock of the interests, so that a peer that is made meanwhile hears everything once.
        for input in tell {
            for peer in self.all().iter() {
                lock(peer).tell(&self.driver, input.clone());
            }
        }
    }

    /// Tells the driver to say what has happened, without waiting.
    pub(super) fn poll_now(&self, events: &mut Vec<Event<Staging, Pieces>>) {
        self.driver.poll(Some(Duration::ZERO), events);
    }

    /// The time of the driver.
    pub(super) fn now_ns(&self) -> u64 {
        self.driver.now_ns()
    }

    /// Whether the door has not taken what others have left for it.
    pub(super) fn has_news(&self) -> bool {
        !lock(&self.watched).is_empty() || !lock(&self.resolved).is_empty()
    }

    /// Begins to end all links in order.
    pub(super) fn drain(&self) {
        for peer in self.all().iter() {
            let reason = "the node is going down".to_owned();
            lock(peer).tell(&self.driver, Input::<Outbound>::Drain { reason });
        }
    }

    /// Sends what is there to be sent now; whether there was anything.
    pub(super) fn pump(&self) -> bool {
        let mut found = false;
        for peer in self.all().iter() {
            found |= lock(peer).pump(&self.driver) > 0;
        }
        found
    }

    /// Wakes `bw-link-tx` where it sleeps for longer than bulk of a peer is held: nobody else looks at that. Called by who has given the peer something,
    /// and has it still locked.
    pub(super) fn tell_held(&self, peer: &Peer) {
        if self.is_held_unseen(peer)
            && let Some(domain) = self.core.ports.domain()
        {
            domain.bell().ring_nodes();
        }
    }

    /// Whether bulk of a peer is held, and may go before `bw-link-tx` looks if nobody wakes it.
    pub(super) fn is_held_unseen(&self, peer: &Peer) -> bool {
        // Pairs with Release in `Crew::sleep`: who locks a peer after the last look of that thread sees that it sleeps, and before, that one sees what is held.
        peer.held_until().is_some_and(|until| until.0 < self.sleeps_until.load(Ordering::Acquire))
    }

    /// As [`Shared::pump`], of peers that nobody else is at: who is sends what it finds, and is not waited for. Whose bulk was held and was given least of
    /// its interface goes first.
    pub(super) fn carry(&self, whom: Whom) -> CarriedFree {
        let (mut all, peers) = (CarriedFree::default(), self.all());
        let now = Time(self.driver.now_ns());
        let mut order = Vec::with_capacity(peers.len());
        for peer in peers.iter() {
            let Some(free) = free(peer) else {
                all.missed = true;
                continue;
            };
            let due = free.is_left() || free.held_until().is_some_and(|until| until <= now);
            if due || whom == Whom::All {
                order.push((free.turn(), peer));
            } else {
                all.waits(free.held_until());
            }
        }
        order.sort_by_key(|(turn, _)| *turn);
        for (_, peer) in order {
            let Some(mut peer) = free(peer) else {
                all.missed = true;
                continue;
            };
            all.found |= match whom {
                Whom::All => peer.pump(&self.driver) > 0,
                Whom::Held => peer.pump_held(&self.driver),
            };
            all.waits(peer.held_until());
        }
        all
    }
}

/// A peer that nobody else is at.
fn free(peer: &Mutex<Peer>) -> Option<MutexGuard<'_, Peer>> {
    match peer.try_lock() {
        Ok(peer) => Some(peer),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Whom `bw-link-tx` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    All,
    /// Peers whose bulk was held until now.
    Held,
}

/// What a look of `bw-link-tx` has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CarriedFree {
    /// There was something.
    pub(super) found: bool,
    /// Somebody else was at a peer, who may have looked before a message was there.
    pub(super) missed: bool,
    /// Bulk waits until there is room for it, which may be then.
    pub(super) held_until: Option<Time>,
}

impl CarriedFree {
    fn waits(&mut self, held_until: Option<Time>) {
        self.held_until = [self.held_until, held_until].into_iter().flatten().min();
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Hub {
    shared: Arc<Shared<Sockets>>,
    crew: Arc<Crew<Sockets>>,
    listening: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    /// The thread that shares work, which ends first: what it says last goes out over the links.
    desk: Option<JoinHandle<()>>,
    /// The thread that has the artifacts.
    swarm: Option<JoinHandle<()>>,
    /// That it has ended, where it asks a handler of the program's own, which need not return.
    plugged: Option<Mutex<Receiver<()>>>,
    /// What tells who decides about artifacts what peers say.
    workers: Option<Arc<Workers>>,
}

impl Hub {
    /// Listens, and starts the threads.
    pub(crate) fn start(core: Arc<Core>, config: HubConfig) -> Result<Hub, Error> {
        let driver = Sockets::new().map_err(|fault| {
            Error::new(Code::Descriptors, format!("cannot make a poller: {fault}"))
                .at("the links of this host")
                .remedy("raise the limit: ulimit -n 4096")
        })?;
        let (shared, listening) = Shared::listen(core.clone(), driver, config)?;
        let crew = Arc::new(Crew::new(shared.clone()));
        core.ports.add_carrier(crew.clone());
        let mut hub = Hub {
            shared,
            crew: crew.clone(),
            listening,
            threads: Vec::new(),
            desk: None,
            swarm: None,
            plugged: None,
            workers: None,
        };
        hub.run("bw-link-rx", {
            let crew = crew.clone();
            move || crew.receive()
        })?;
        hub.run("bw-link-tx", move || crew.send())?;
        if hub.shared.config.shares_work {
            let desk = Desk::new(hub.shared.clone())?;
            hub.run("bw-work", move || desk.run())?;
            hub.desk = hub.threads.pop();
        }
        hub.share_artifacts()?;
        core.control.watch()?;
        Ok(hub)
    }

    /// Starts the thread that has the artifacts, or gives them to a handler of the program's own.
    fn share_artifacts(&mut self) -> Result<(), Error> {
        let (Some(calls), PeerId::Node { index }) = (self.shared.calls.clone(), self.shared.config.identity)
        else {
            return Ok(());
        };
        if let Some(Handling { handler, voice, workers }) = self.shared.config.handling.clone() {
            let workers = Arc::new(workers.start(handler)?);
            workers.count_for(self.shared.core.own.clone());
            let plugged = Plugged::new(self.shared.clone(), calls, workers.clone(), voice)?;
            let (ends, ended) = channel::<()>();
            self.run("bw-gossip", move || {
                plugged.run();
                drop(ends);
            })?;
            self.swarm = self.threads.pop();
            (self.workers, self.plugged) = (Some(workers), Some(Mutex::new(ended)));
            return Ok(());
        }
        let intake = match self.shared.config.artifact_workers.clone() {
            None => None,
            Some(workers) => {
                // Its timer has nothing to do: the machine has deadlines of its own.
                let workers = workers.timer(Duration::MAX).start(Arc::new(Relay::new(calls.clone())))?;
                let (workers, rouse) = (Arc::new(workers), calls.clone());
                workers.count_for(self.shared.core.own.clone());
                workers.rouse_with(move || rouse.wake());
                self.workers = Some(workers.clone());
                Some(Intake::new(workers))
            }
        };
        let swarm = Swarm::new(self.shared.clone(), calls.clone(), NodeIndex(index), intake)?;
        self.run("bw-gossip", move || swarm.run())?;
        self.swarm = self.threads.pop();
        *lock(&self.shared.core.artifacts) = Some(calls);
        Ok(())
    }

    /// Whether a handler of the program's own decides about artifacts.
    pub(crate) fn has_handler(&self) -> bool {
        self.shared.config.handling.is_some()
    }

    /// What tells who decides about artifacts what peers say, if there is something between.
    pub(crate) fn workers(&self) -> Option<&Workers> {
        self.workers.as_deref()
    }

    fn run(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at(name.to_owned())
                .remedy("raise the limit on processes: ulimit -u")
        })?);
        Ok(())
    }

    /// What programs want of the artifacts, if this is a node that shares them.
    pub(crate) fn calls(&self) -> Option<Arc<Calls>> {
        self.shared.calls.clone()
    }

    pub(crate) fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// The number of this start of the node.
    pub(crate) fn instance(&self) -> u64 {
        self.shared.link.hello.instance
    }

    /// Whether there is a link to this peer.
    pub(crate) fn is_connected(&self, peer: PeerId) -> bool {
        lock(&self.shared.known).get(&peer).is_some_and(|known| known.state == LinkState::Connected)
    }

    /// Every peer, for those who send to one of them.
    pub(crate) fn links(&self) -> Vec<LinkView> {
        let known = lock(&self.shared.known);
        let view = |(id, known): (&PeerId, &Known)| LinkView {
            peer: *id,
            instance: known.instance,
            connected: known.state == LinkState::Connected,
            last_error: known.last_error.clone(),
            left: known.left.clone(),
        };
        known.iter().map(view).collect()
    }

    pub(crate) fn peers(&self) -> Vec<PeerView> {
        let now_ns = self.shared.driver.now_ns();
        let known = lock(&self.shared.known).clone();
        let peers = known.into_iter().map(|(id, known)| self.view(id, known, now_ns));
        let strangers = lock(&self.shared.strangers).clone();
        peers.chain(strangers.into_iter().map(|known| view("stranger".to_owned(), known, now_ns))).collect()
    }

    /// What new connections use from now on.
    pub(crate) fn set_tls(&self, tls: Tls) {
        *lock(&self.shared.tls) = Some(tls);
    }

    /// The receiving thread makes this change soon.
    pub(crate) fn change(&self, change: Change) {
        lock(&self.shared.changes_wanted).push(change);
        self.shared.tell_news();
    }

    /// The linked peer that is shown under this name.
    pub(crate) fn linked(&self, name: &str) -> Option<PeerId> {
        let known = lock(&self.shared.known);
        let linked = |state| matches!(state, LinkState::Connected | LinkState::Draining);
        known.iter().find(|(id, known)| id.to_string() == name && linked(known.state)).map(|(id, _)| *id)
    }

    /// What others may do from now on. When it returns, nothing more is read for who may not read it.
    pub(crate) fn set_acl(&self, acl: Option<Acl>) {
        let changed = {
            let mut rules = lock(&self.shared.acl);
            std::mem::replace(&mut *rules, acl.clone()) != acl
        };
        for peer in self.shared.all().iter() {
            lock(peer).permit(&self.shared.driver, acl.as_ref().map(Acl::rules));
        }
        if let Some(calls) = self.shared.calls.as_ref().filter(|_| changed) {
            calls.leave(Call::FollowRules);
        }
        self.shared.driver.wake();
    }

    /// The cluster and who we are in it.
    pub(crate) fn own(&self) -> (&str, PeerId) {
        (&self.shared.config.cluster, self.shared.config.identity)
    }

    fn view(&self, id: PeerId, known: Known, now_ns: u64) -> PeerView {
        let peer = lock(&self.shared.peers).get(&id).cloned();
        let (state, stats) = peer.map_or((None, None), |peer| {
            let peer = lock(&peer);
            (peer.state(), peer.stats())
        });
        let state = match state {
            Some(State::Draining) => LinkState::Draining,
            Some(State::Established) => LinkState::Connected,
            Some(State::Greeting | State::Greeted) => LinkState::Handshaking,
            Some(State::Closed(_)) | None => known.state,
        };
        let stats = stats.unwrap_or_default();
        PeerView {
            messages_in: stats.messages_in,
            messages_out: stats.messages_out,
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            round_trip: (stats.round_trip_ns > 0).then(|| Duration::from_nanos(stats.round_trip_ns)),
            ..view(id.to_string(), Known { state, ..known }, now_ns)
        }
    }

    /// What is under way with each peer that is linked, from it and to it.
    pub(crate) fn traffic(&self) -> Vec<(PeerId, [Passing; 3])> {
        let peers = lock(&self.shared.peers).clone();
        let linked = peers.into_iter().filter_map(|(id, peer)| {
            let peer = lock(&peer);
            peer.state()?;
            Some((id, peer.traffic()))
        });
        linked.collect()
    }

    /// Waits until the links have changed since `seen`, at most for `timeout`; returns what is seen then.
    pub(crate) fn wait_for_change(&self, seen: u64, timeout: Duration) -> u64 {
        let known = lock(&self.shared.known);
        let unchanged = |_: &mut BTreeMap<PeerId, Known>| self.shared.changes.load(Ordering::Relaxed) == seen;
        let waited = self.shared.changed.wait_timeout_while(known, timeout, unchanged);
        drop(waited.unwrap_or_else(std::sync::PoisonError::into_inner));
        self.shared.changes.load(Ordering::Relaxed)
    }

    /// Wakes who waits for a change.
    pub(crate) fn nudge(&self) {
        let _known = lock(&self.shared.known);
        self.shared.known_changed();
    }

    pub(crate) fn wait_for_peers(&self, count: usize, timeout: Duration) -> bool {
        let deadline = busway_shm::clock::Deadline::after(timeout);
        let mut known = lock(&self.shared.known);
        loop {
            let linked = known.values().filter(|peer| peer.state == LinkState::Connected).count();
            if linked >= count {
                return true;
            }
            let left = deadline.remaining().unwrap_or(timeout);
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(known, left);
            known = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

impl Hub {
    /// A handler that does not say whether it has something to say keeps its thread, and nobody else.
    fn leave_stuck(&mut self) {
        let (Some(ended), Some(_)) = (self.plugged.take(), &self.swarm) else { return };
        let ended = ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_millis(ARTIFACT_JOIN_MS)) {
            tracing::warn!(target: "busway::gossip", "a handler of artifacts that was asked for a word has not returned {ARTIFACT_JOIN_MS} ms after the end; its thread is left to itself");
            drop(self.swarm.take());
            // It has them too, and they end before it does.
            self.workers.iter().for_each(|workers| workers.part(&[]));
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.core.ports.remove_carrier(&self.crew);
        let now = Time(self.shared.driver.now_ns());
        tracing::debug!(target: "busway::link", at = now.0, "the links are ending");
        self.shared.work_ends.store(true, Ordering::Release); // pairs with Acquire in `Shared::work_ends`
        self.shared.core.ports.ring_bell(ANY);
        self.shared.core.ports.ring_bell(work_line());
        if let Some(calls) = &self.shared.calls {
            lock(&self.shared.core.artifacts).take_if(|of_bus| Arc::ptr_eq(of_bus, calls));
            calls.wake();
        }
        let own = std::thread::current().id();
        if self.workers.as_ref().is_some_and(|workers| workers.is_own_thread())
            || self.swarm.as_ref().is_some_and(|thread| thread.thread().id() == own)
        {
            // A handler that closes its node: the thread ends when it returns, and cannot be waited for.
            drop(self.swarm.take());
        }
        self.leave_stuck();
        for thread in [self.desk.take(), self.swarm.take()].into_iter().flatten() {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
        // What was published before we are dropped is on its way, also what was left to `bw-link-tx`.
        self.shared.pump();
        self.shared.drain();
        self.shared.stop();
        self.shared.driver.wake();
        self.shared.core.ports.ring_bell(ANY);
        self.crew.leave();
        self.crew.stop_lingering();
        for thread in self.threads.drain(..) {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// What is known of a peer that has no link.
fn view(peer: String, known: Known, now_ns: u64) -> PeerView {
    PeerView {
        peer,
        name: known.name,
        address: known.address,
        state: known.state,
        age: Duration::from_nanos(now_ns.saturating_sub(known.since_ns)),
        last_error: known.last_error,
        denied: known.denied,
        messages_in: 0,
        messages_out: 0,
        bytes_in: 0,
        bytes_out: 0,
        round_trip: None,
    }
}

fn unusable(address: SocketAddr, error: &busway_io::ListenError) -> Error {
    let occupant = (error.fault == Fault::AddressInUse).then(|| occupant::of(address)).flatten();
    let (cause, remedy) = match occupant {
        Some(Occupant { pid, name }) => (
            format!("{error}; pid {pid} ({name}) listens there"),
            format!("end pid {pid}, or choose another port"),
        ),
        None => {
            let remedy = match error.fault {
                Fault::Denied => "choose a port from 1024 on, or let it have CAP_NET_BIND_SERVICE",
                Fault::AddressUnknown => "name an address of this host: ip address",
                _ => "choose another port, or end who has it: ss -ltnp",
            };
            (error.to_string(), remedy.to_owned())
        }
    };
    Error::new(Code::AddressUnusable, cause).at(address.to_string()).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use busway_io::{Fault, ListenError};

    use super::unusable;

    #[test]
    fn what_helps_where_nobody_can_listen_follows_from_why() {
        let address = "192.0.2.1:80".parse().expect("an address");
        for (fault, remedy) in [
            (Fault::Denied, "from 1024 on"),
            (Fault::AddressUnknown, "of this host"),
            (Fault::AddressInUse, "another port"),
        ] {
            let error = unusable(address, &ListenError { address, fault });
            assert_eq!(error.place(), "192.0.2.1:80");
            assert!(error.try_().contains(remedy), "{fault}: {}", error.try_());
        }
    }
}
