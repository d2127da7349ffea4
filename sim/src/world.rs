//! All hosts, the network between them, and the time: one thread, one seed.
//!
//! The world takes the next thing that happens, lets the host that it happens to act on it, and hands what was seen
//! to the checkers. Hosts' clocks differ from the world's by what they have leapt.
//!
//! Invariant: nothing comes from outside but the seed and the calls.

mod faults;
mod quiet;
mod strangers;
mod terms;

use std::collections::{BTreeMap, VecDeque};

use busway_protocol::{Config, PeerId, Time, membership};
use busway_wire::{Pattern, PortId, Topic};
use fastrand::Rng;

use crate::agenda::Agenda;
use crate::check::Checks;
use crate::coverage::Coverage;
use crate::crowd::Crowd;
use crate::fault::{Pair, Planned};
use crate::few::Few;
use crate::memory::{Memory, Wish};
use crate::message::{Which, place_of, port};
use crate::network::{End, Network, Notice};
use crate::node::{Around, Node, Setup};
use crate::ring::Ring;
use crate::seen::Seen;
use crate::subscriber::Subscriber;
use crate::trace::{Happening, Trace};
use faults::Undo;
pub use terms::{Terms, Work};

#[derive(Debug)]
struct Host {
    setup: Setup,
    memory: Memory,
    node: Option<Node>,
    starts: u64,
    skew_ns: u64,
    stopped: u32,
    slow: u32,
    idle: u32,
    pending: VecDeque<(End, Notice)>,
    wake: Option<Time>,
    consuming: Few<u64>,
    /// Steps at the same moment, against a machine that asks for ever.
    steps: (Time, u32),
}

#[derive(Debug)]
struct Publisher {
    source: PortId,
    host: usize,
    work: Work,
    rng: Rng,
    /// A message that waits for room.
    waiting: Option<usize>,
}

#[derive(Debug)]
enum Event {
    Wake {
        host: usize,
    },
    Consume {
        host: usize,
        subscriber: u64,
    },
    Publish {
        source: PortId,
    },
    /// Large and rare: what moves with the events is a word of it.
    Plan(Box<Planned>),
    Expire {
        number: u64,
    },
    Undo(Box<Undo>),
    Check,
}

/// All hosts and what is between them.
#[derive(Debug)]
pub struct World {
    terms: Terms,
    now: Time,
    rng: Rng,
    /// The lines.
    pub network: Network,
    hosts: Vec<Host>,
    /// By the place in their ids.
    publishers: Vec<Publisher>,
    agenda: Agenda<Event>,
    /// Faults that wait for their phase, by a number.
    armed: BTreeMap<u64, Planned>,
    /// Ends of strangers, and what each says.
    strangers: BTreeMap<u64, Vec<u8>>,
    numbered: u64,
    /// When each pair was last touched by a fault, and how many touch it now.
    touched: BTreeMap<(usize, usize), (Time, u32)>,
    /// What was seen, judged.
    pub checks: Checks,
    /// Which faults met which states.
    pub coverage: Coverage,
    /// What happened.
    pub trace: Trace,
    seen: Vec<Seen>,
}

/// A publisher that found its ring full tries again after this long.
const FULL_MS: u64 = 5;
/// A slow node reads this much in one step.
const SLOW_BYTES: usize = 700;
/// More steps of one host at one moment are a loop.
const STEPS_MAX: u32 = 20_000;
/// The cluster of every world.
const CLUSTER: u64 = 0x5eed;

impl World {
    /// A world in which every node has just started.
    #[must_use]
    pub fn new(terms: Terms) -> World {
        let mut rng = Rng::with_seed(terms.seed);
        let network = Network::new(rng.u64(..), terms.shape);
        let trace = if terms.lines { Trace::with_lines() } else { Trace::default() };
        let mut world = World {
            now: Time(0),
            rng,
            network,
            hosts: Vec::new(),
            publishers: Vec::new(),
            agenda: Agenda::default(),
            armed: BTreeMap::new(),
            strangers: BTreeMap::new(),
            numbered: 0,
            touched: BTreeMap::new(),
            checks: Checks::new(terms.kept_sizes),
            coverage: Coverage::default(),
            trace,
            seen: Vec::new(),
            terms,
        };
        for index in 0..world.crowd().hosts() {
            let host = world.make_host(index);
            world.hosts.push(host);
            world.start(index);
        }
        world.agenda.enter(Time(0).after_ms(world.terms.check_ms), Event::Check);
        world
    }

    fn make_host(&mut self, index: usize) -> Host {
        let crowd = self.crowd();
        let identity = crowd.identity(index);
        let mut config = Config::new(CLUSTER, identity, 0);
        config.keep_alive_ms = self.terms.keep_alive_ms;
        config.hello.name = format!("{identity}");
        if self.terms.seed.wrapping_add(index as u64).is_multiple_of(5) {
            // One that was built before there were runs.
            config.hello.features = 0;
        }
        config.hello.credit_messages = self.terms.credit_messages;
        config.hello.credit_bytes = self.terms.credit_bytes;
        config.hello.window_messages = self.terms.window_messages;
        config.hello.window_bytes = self.terms.window_bytes;
        let home = self.terms.homes && crowd.is_client(index);
        let membership = membership::Config {
            identity,
            nodes: u8::try_from(crowd.nodes).expect("a cluster has at most 64 nodes"),
            given: if home { 1 << (index % crowd.nodes) } else { u64::MAX },
            clients_max: self.terms.clients_max,
            unidentified_max: self.terms.unidentified_max,
            of_address_max: u32::MAX,
            seed: 0,
        };
        let setup = Setup {
            config,
            membership,
            read_max: self.terms.read_max,
            direct: self.terms.direct,
            canary: self.terms.canary,
        };
        Host {
            setup,
            memory: Memory::new(index, self.terms.relay_slots),
            node: None,
            starts: 0,
            // No two clocks began at the same time.
            skew_ns: self.rng.u64(0..1_000_000_000_000),
            stopped: 0,
            slow: 0,
            idle: 0,
            pending: VecDeque::new(),
            wake: None,
            consuming: Few::default(),
            steps: (Time(0), 0),
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// How many nodes there are.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.terms.hosts
    }

    /// Who there is.
    #[must_use]
    pub fn crowd(&self) -> Crowd {
        self.terms.crowd()
    }

    /// What the membership of a node has counted.
    #[must_use]
    pub fn counters(&self, host: usize) -> membership::Counters {
        self.hosts[host].node.as_ref().map(Node::counters).unwrap_or_default()
    }

    /// Lets a subscriber begin.
    pub fn subscribe(&mut self, host: usize, pattern: &Pattern, reliable: bool, work_ns: u64) -> u64 {
        self.numbered += 1;
        let number = self.numbered;
        self.checks.subscriber(self.now, number, host);
        let subscriber = Subscriber::new(pattern.clone(), reliable, work_ns);
        let mut seen = std::mem::take(&mut self.seen);
        let wish = self.hosts[host].memory.subscribe(number, subscriber, &mut seen);
        self.seen = seen;
        if let Some(wish) = wish {
            self.with_node(host, |node, around| node.wish(&wish, around));
        }
        number
    }

    /// Lets a subscriber leave.
    pub fn unsubscribe(&mut self, host: usize, subscriber: u64) {
        self.checks.unsubscribed(subscriber);
        let wish: Option<Wish> = self.hosts[host].memory.unsubscribe(subscriber);
        if let Some(wish) = wish {
            self.with_node(host, |node, around| node.unwish(&wish, around));
        }
    }

    /// Opens a publisher, which sends by itself what `work` says.
    pub fn publisher(&mut self, host: usize, topic: &Topic, slots: usize, work: Work) -> PortId {
        let source = port(self.rng.u64(..), self.publishers.len());
        let reliable = is_reliable(topic);
        self.checks.source(source, host, reliable);
        self.hosts[host].memory.rings.insert(source, Ring::new(topic.clone(), slots));
        let rng = Rng::with_seed(self.rng.u64(..));
        self.publishers.push(Publisher { source, host, work, rng, waiting: None });
        self.with_node(host, |node, around| node.ring_opened(source, around));
        if work.messages > 0 {
            self.agenda.enter(Time(self.now.0 + self.rng.u64(0..=work.gap_ns)), Event::Publish { source });
        }
        source
    }

    /// Lets a publisher leave; what it has sent is still read.
    pub fn leave(&mut self, source: PortId) {
        let Some(publisher) = self.publishers.get_mut(place_of(source)) else { return };
        publisher.work.messages = 0;
        let host = publisher.host;
        if let Some(ring) = self.hosts[host].memory.rings.get_mut(&source) {
            ring.closed = true;
        }
        self.with_node(host, |node, around| node.ring_closed(source, around));
    }

    /// Publishes one message of this size now; false if the ring is full of what somebody needs.
    pub fn publish(&mut self, source: PortId, size: usize) -> bool {
        let Some(publisher) = self.publishers.get(place_of(source)) else { return false };
        let host = publisher.host;
        let Some(ring) = self.hosts[host].memory.rings.get_mut(&source) else { return false };
        let sequence = ring.next();
        if !ring.has_room() {
            return false;
        }
        let message = Which { source, sequence, size }.message(ring.id);
        if ring.push(message).is_err() {
            return false;
        }
        self.seen.push(Seen::Published { source, sequence, size });
        self.with_node(host, |node, around| node.published(source, around));
        true
    }

    /// Goes on until this time; false when a checker has found something.
    pub fn run_until(&mut self, until: Time) -> bool {
        while self.checks.violation().is_none() {
            let next = [self.agenda.next(), self.network.next()].into_iter().flatten().min();
            match next {
                Some(at) if at <= until => self.now = self.now.max(at),
                Some(_) | None => {
                    self.now = self.now.max(until);
                    return true;
                }
            }
            while let Some((host, end, notice)) = self.network.due(self.now) {
                self.notice(host, end, notice);
            }
            if let Some(event) = self.agenda.due(self.now) {
                self.happen(event);
            }
        }
        false
    }

    /// Goes on for so long.
    pub fn run_for_ms(&mut self, ms: u64) -> bool {
        self.run_until(self.now.after_ms(ms))
    }

    /// Starts the node of a host.
    pub fn start(&mut self, host: usize) {
        let instance = self.rng.u64(1..);
        let seed = self.rng.u64(..);
        let h = &mut self.hosts[host];
        if h.node.is_some() {
            return;
        }
        h.starts += 1;
        self.checks.started(host, instance);
        h.pending.clear();
        h.setup.config.hello.instance = instance;
        h.setup.membership.seed = seed;
        let setup = h.setup.clone();
        self.around(host, |around, slot| *slot = Some(Node::start(setup, around)));
    }

    /// Kills the node of a host.
    pub fn kill(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        if h.node.take().is_none() {
            return;
        }
        h.pending.clear();
        h.memory.node_died();
        self.seen.push(Seen::Died { host });
        self.network.vanish(self.now, host);
        self.settle(host);
    }

    /// How many relay rings were ever opened on a host.
    #[must_use]
    pub fn relays_opened(&self, host: usize) -> u64 {
        self.hosts[host].memory.relays_opened()
    }

    /// Whether the hosts' nodes have a link.
    #[must_use]
    pub fn is_linked(&self, a: usize, b: usize) -> bool {
        let one = |a: usize, b: usize| self.hosts[a].node.as_ref().is_some_and(|n| n.is_linked(self.peer(b)));
        one(a, b) && one(b, a)
    }

    /// Whether the node of a host knows that another wants the pattern.
    #[must_use]
    pub fn knows_wish(&self, host: usize, of: usize, pattern: &Pattern) -> bool {
        self.hosts[host].node.as_ref().is_some_and(|node| node.is_wanted_by(self.peer(of), pattern))
    }

    fn notice(&mut self, host: usize, end: End, notice: Notice) {
        self.note(host, "notice", end.connection, notice_number(notice));
        if host == self.crowd().outside() {
            return self.stranger_hears(end, notice);
        }
        if self.hosts[host].stopped > 0 {
            self.hosts[host].pending.push_back((end, notice));
            return;
        }
        self.with_node(host, |node, around| node.notice(end, notice, around));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { host } => {
                if self.hosts[host].wake == Some(self.now) {
                    self.hosts[host].wake = None;
                    self.with_node(host, Node::pump);
                }
            }
            Event::Consume { host, subscriber } => self.consume(host, subscriber),
            Event::Publish { source } => self.publish_next(source),
            Event::Plan(planned) => self.arm(*planned),
            Event::Expire { number } => {
                if let Some(planned) = self.armed.remove(&number) {
                    self.strike(&planned);
                }
            }
            Event::Undo(undo) => self.undo(*undo),
            Event::Check => {
                self.check();
                self.agenda.enter(self.now.after_ms(self.terms.check_ms), Event::Check);
            }
        }
    }

    fn publish_next(&mut self, source: PortId) {
        let Some(publisher) = self.publishers.get_mut(place_of(source)) else { return };
        let Work { messages, gap_ns, size_max, large } = publisher.work;
        if messages == 0 {
            return;
        }
        let rng = &mut publisher.rng;
        let size = publisher.waiting.take().unwrap_or_else(|| match rng.u32(0..20) {
            at if at < large => rng.usize(0..=size_max),
            at if at < large + 4 => rng.usize(0..=size_max.min(3_000)),
            _ => rng.usize(0..=size_max.min(200)),
        });
        // In bursts, so that something waits somewhere: seven of eight follow at once.
        let gap = if rng.u8(0..8) > 0 { rng.u64(0..=gap_ns / 16) } else { rng.u64(0..=gap_ns * 15) };
        if self.publish(source, size) {
            let Some(publisher) = self.publishers.get_mut(place_of(source)) else { return };
            publisher.work.messages -= 1;
            self.agenda.enter(Time(self.now.0 + gap), Event::Publish { source });
        } else {
            let Some(publisher) = self.publishers.get_mut(place_of(source)) else { return };
            publisher.waiting = Some(size);
            self.agenda.enter(self.now.after_ms(FULL_MS), Event::Publish { source });
        }
    }

    fn consume(&mut self, host: usize, subscriber: u64) {
        let h = &mut self.hosts[host];
        h.consuming.remove(subscriber);
        if h.idle > 0 {
            // It stays rung, and is looked at when it is idle no more.
            h.memory.rung.insert(subscriber);
            return;
        }
        let mut seen = std::mem::take(&mut self.seen);
        let more = h.memory.consume(subscriber, &mut seen);
        self.seen = seen;
        if more {
            h.memory.rung.insert(subscriber);
            if h.memory.room_made && h.node.as_ref().is_some_and(Node::waits_for_room) {
                self.with_node(host, Node::pump);
            }
        }
        self.settle(host);
    }

    fn with_node(&mut self, host: usize, act: impl FnOnce(&mut Node, &mut Around<'_>)) {
        if self.hosts[host].stopped > 0 {
            return;
        }
        self.around(host, |around, slot| {
            if let Some(node) = slot {
                act(node, around);
            }
        });
    }

    fn around(&mut self, host: usize, act: impl FnOnce(&mut Around<'_>, &mut Option<Node>)) {
        let World { hosts, network, seen, trace, now, .. } = self;
        let h = &mut hosts[host];
        let mut around = Around {
            now: Time(now.0 + h.skew_ns),
            world: *now,
            memory: &mut h.memory,
            network,
            seen,
            trace,
            reads_left: if h.slow > 0 { SLOW_BYTES } else { usize::MAX },
        };
        act(&mut around, &mut h.node);
        if h.steps.0 == *now {
            h.steps.1 += 1
        } else {
            h.steps = (*now, 0)
        }
        if h.steps.1 > STEPS_MAX {
            self.checks.violate(|| format!("host {host} does not come to rest"));
        }
        self.settle(host);
    }

    /// Does what follows from a step: judges, wakes subscribers, sets the alarm, springs what is armed.
    fn settle(&mut self, host: usize) {
        let network = &self.network;
        for seen in self.seen.drain(..) {
            self.checks.see(self.now, seen, |connection| network.is_spoiled(connection));
        }
        let h = &mut self.hosts[host];
        if h.idle == 0 {
            let rung = h.memory.rung.take();
            for subscriber in rung.iter() {
                if h.consuming.insert(subscriber) {
                    let work_ns = h.memory.subscriber_mut(subscriber).map_or(0, |s| s.work_ns);
                    self.agenda.enter(Time(self.now.0 + work_ns), Event::Consume { host, subscriber });
                }
            }
            h.memory.rung.give_back(rung);
        }
        let node = h.node.as_ref().filter(|_| h.stopped == 0);
        if let Some(deadline) = node.and_then(Node::deadline) {
            let at = Time(deadline.0.saturating_sub(h.skew_ns)).max(self.now);
            if h.wake.is_none_or(|wake| wake > at || wake < self.now) {
                h.wake = Some(at);
                self.agenda.enter(at, Event::Wake { host });
            }
        }
        if !self.armed.is_empty() {
            self.spring(host);
        }
    }

    fn peer(&self, host: usize) -> PeerId {
        self.crowd().identity(host)
    }

    fn note(&mut self, host: usize, what: &'static str, whom: u64, much: u64) {
        self.trace.note(self.now, Happening { host, what, whom, much, source: 0, note: "" });
    }

    fn pair_key(pair: Pair) -> (usize, usize) {
        (pair.from.min(pair.to), pair.from.max(pair.to))
    }
}

/// Whether subscribers of a topic are those for which its publishers wait: in this world its name says so.
#[must_use]
pub fn is_reliable(topic: &Topic) -> bool {
    !topic.as_str().starts_with("lossy.")
}

fn notice_number(notice: Notice) -> u64 {
    match notice {
        Notice::Accepted => 0,
        Notice::Connected => 1,
        Notice::Refused => 2,
        Notice::Readable => 3,
        Notice::Writable => 4,
        Notice::Reset => 5,
    }
}
