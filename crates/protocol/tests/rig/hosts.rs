//! Two hosts in memory: rings, relay rings and a stream of bytes that dies where a test wants it to.
//!
//! A host carries out what its session says as the real one does: rows are read when a source is named, relay rings
//! take so many messages a step. What both hold in the end is compared by the tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use busway_protocol::{
    Account, Batch, Closed, Config, Delivery, Destination, Event, Input, Link, Outbox, Output, PeerId,
    Session, Time,
};
use busway_wire::link::Announce;
use busway_wire::{Cause, Header, Kind, Pattern, PortId, Topic};

pub(crate) const CLUSTER: u64 = 0xc1;

/// A local publisher's ring and the row that one peer has there.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) source: PortId,
    pub(crate) topic: Topic,
    pub(crate) reliable: bool,
    /// Payloads from sequence `first` on.
    pub(crate) messages: VecDeque<Arc<[u8]>>,
    pub(crate) first: u64,
    slots: usize,
    next: u64,
    passed: u64,
    pub(crate) attached: bool,
    pub(crate) done: Option<Account>,
    pub(crate) rewinds: u64,
}

impl Ring {
    fn message(&self, sequence: u64) -> Option<&Arc<[u8]>> {
        let at = sequence.checked_sub(self.first)?;
        self.messages.get(usize::try_from(at).unwrap())
    }

    fn head(&self) -> u64 {
        self.first + self.messages.len() as u64 - 1
    }

    /// Publishes unless a reliable row would be overtaken.
    pub(crate) fn publish(&mut self, payload: Arc<[u8]>) -> bool {
        if self.messages.len() == self.slots {
            if self.reliable && self.attached && self.passed < self.first {
                return false;
            }
            self.messages.pop_front();
            self.first += 1;
        }
        self.messages.push_back(payload);
        true
    }
}

/// What stands in a relay ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Message(u64, Vec<u8>),
    Gap(u64, u64, Cause),
}

#[derive(Debug, Default)]
pub(crate) struct RelayRing {
    pub(crate) entries: Vec<Entry>,
    queue: VecDeque<Entry>,
    open: Option<(u64, Vec<u8>)>,
    pub(crate) closed: bool,
}

impl RelayRing {
    /// The sequences that have come, and the gaps, in order; panics if they do not follow each other.
    pub(crate) fn covered(&self) -> (Vec<u64>, Vec<(u64, u64, Cause)>) {
        let (mut received, mut gaps, mut next) = (Vec::new(), Vec::new(), None);
        for entry in &self.entries {
            let (from, to) = match entry {
                Entry::Message(sequence, _) => {
                    received.push(*sequence);
                    (*sequence, *sequence)
                }
                Entry::Gap(from, to, cause) => {
                    gaps.push((*from, *to, *cause));
                    (*from, *to)
                }
            };
            assert!(next.is_none_or(|next| from == next), "{entry:?} where {next:?} was next");
            assert!(from <= to);
            next = Some(to + 1);
        }
        (received, gaps)
    }
}

pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) session: Session<Arc<[u8]>>,
    pub(crate) rings: BTreeMap<PortId, Ring>,
    pub(crate) relays: BTreeMap<PortId, RelayRing>,
    pub(crate) batch: Batch<Arc<[u8]>>,
    staging: Vec<u8>,
    out: Outbox,
    wants: BTreeMap<u32, Pattern>,
    pub(crate) closed: Vec<Closed>,
    /// Messages that the relay rings take in one step.
    pub(crate) room: usize,
    /// Whether payloads are read straight to their places.
    pub(crate) direct: bool,
    /// Whether what lies in a ring is put together, as far as the session has room for it.
    pub(crate) packs: bool,
    /// The most messages of a run so far.
    pub(crate) packed: u64,
}

pub(crate) fn node(index: u8) -> PeerId {
    PeerId::Node { index }
}

impl Host {
    pub(crate) fn new(index: u8, peer: u8, change: impl Fn(&mut Config)) -> Host {
        let mut config = Config::new(CLUSTER, node(index), 1_000 + u64::from(index));
        change(&mut config);
        Host {
            session: Session::new(config.clone(), node(peer)),
            config,
            rings: BTreeMap::new(),
            relays: BTreeMap::new(),
            batch: Batch::new(),
            staging: Vec::new(),
            out: Vec::new(),
            wants: BTreeMap::new(),
            closed: Vec::new(),
            room: usize::MAX,
            direct: false,
            packs: true,
            packed: 0,
        }
    }

    pub(crate) fn want(&mut self, id: u32, pattern: &str, reliable: bool) {
        let pattern = Pattern::parse(pattern).unwrap();
        self.session.handle(Time(0), Input::Want { id, pattern, reliable }, &mut self.out);
    }

    pub(crate) fn ring(&mut self, source: u64, topic: &str, reliable: bool, slots: usize) {
        let source = PortId(source);
        let topic = Topic::new(topic).unwrap();
        let (messages, done) = (VecDeque::new(), None);
        let ring = Ring {
            source,
            topic,
            reliable,
            messages,
            first: 1,
            slots,
            next: 1,
            passed: 0,
            attached: false,
            done,
            rewinds: 0,
        };
        self.rings.insert(source, ring);
    }

    /// The process is started again: publishers and what subscribers hold stay, the session and its memory go.
    pub(crate) fn restart(&mut self, peer: u8) {
        self.config.hello.instance += 1;
        self.session = Session::new(self.config.clone(), node(peer));
        self.batch.clear();
        self.staging.clear();
        self.out.clear();
        for ring in self.rings.values_mut() {
            ring.attached = false;
        }
        for relay in self.relays.values_mut() {
            (relay.open, relay.queue) = (None, VecDeque::new());
        }
    }

    fn attach(&mut self, now: Time) {
        let wanted: Vec<PortId> = self
            .rings
            .values()
            .filter(|ring| !ring.attached && ring.done.is_none())
            .filter(|ring| self.wants.values().any(|pattern| pattern.matches(&ring.topic)))
            .map(|ring| ring.source)
            .collect();
        for source in wanted {
            let ring = self.rings.get_mut(&source).unwrap();
            ring.attached = true;
            ring.next = ring.first;
            ring.passed = ring.next - 1;
            let announce = Announce {
                source,
                topic: ring.topic.clone(),
                publisher: String::new(),
                process: String::new(),
                host: String::new(),
                created_ns: 0,
                reliable: ring.reliable,
                resumes: false,
            };
            let input = Input::Source { announce, next: ring.next };
            self.session.handle(now, input, &mut self.out);
        }
    }

    /// Carries out what the session says. Whether the connection is to be closed.
    pub(crate) fn carry_out(&mut self, now: Time) -> bool {
        let mut close = false;
        loop {
            let outputs = std::mem::take(&mut self.out);
            if outputs.is_empty() {
                return close;
            }
            for output in outputs {
                close |= self.output(now, output);
            }
        }
    }

    fn output(&mut self, now: Time, output: Output) -> bool {
        match output {
            Output::Established { .. } => {}
            Output::PeerWants { id, pattern, reliable: _ } => {
                self.wants.insert(id, pattern);
                self.attach(now);
            }
            Output::PeerUnwants { id } => drop(self.wants.remove(&id)),
            Output::OpenRelay { announce } => {
                self.relays.entry(announce.source).or_default().closed = false;
                self.session.handle(now, Input::RelayOpened { source: announce.source }, &mut self.out);
            }
            Output::CloseRelay { source } => self.relays.get_mut(&source).unwrap().closed = true,
            Output::Pass { source, to } => {
                let ring = self.rings.get_mut(&source).unwrap();
                assert!(ring.reliable && to >= ring.passed && to < ring.next, "pass to {to}");
                ring.passed = to;
            }
            Output::Rewind { source, to } => {
                let ring = self.rings.get_mut(&source).unwrap();
                assert!(ring.reliable && to >= ring.passed, "rewind to {to}");
                ring.next = to + 1;
                ring.rewinds += 1;
            }
            Output::SourceDone { source, account } | Output::SourceDenied { source, account, .. } => {
                let ring = self.rings.get_mut(&source).unwrap();
                (ring.attached, ring.done) = (false, Some(account));
            }
            Output::Abort { source } => self.relays.get_mut(&source).unwrap().open = None,
            Output::RelayGap { source, from, to, cause, link: _ } => {
                self.relays.get_mut(&source).unwrap().queue.push_back(Entry::Gap(from, to, cause));
            }
            Output::Close { reason, .. } => {
                self.closed.push(reason);
                return true;
            }
        }
        false
    }

    /// Reads the rows of the sources that may send.
    pub(crate) fn read_rows(&mut self, now: Time) {
        let mut idle = 0;
        while idle <= self.rings.len()
            && let Some(source) = self.session.next_source()
        {
            let Some(ring) = self.rings.get_mut(&source) else { break };
            if ring.next < ring.first {
                let (from, to) = (ring.next, ring.first - 1);
                ring.next = ring.first;
                let input = Input::Lost { source, from, to, cause: Cause::Lapped };
                self.session.handle(now, input, &mut self.out);
                idle = 0;
            } else if ring.next <= ring.head() {
                let room = self.session.room(source);
                let mut run = self.session.spare_run();
                run.begin(ring.topic.id(), source, ring.next, 0);
                while self.packs
                    && let Some(payload) = ring.message(ring.next)
                    && room.has(&run, payload.len())
                    && run.push(0, ring.next, ring.next % 3, payload)
                {
                    ring.next += 1;
                }
                self.packed = self.packed.max(run.count());
                if run.count() > 0 {
                    self.session.handle(now, Input::Run(run), &mut self.out);
                } else if let Some(payload) = ring.message(ring.next).cloned() {
                    self.session.put_back(run);
                    let mut header = Header::new(Kind::Publish);
                    header.sequence.set(ring.next);
                    ring.next += 1;
                    self.session.handle(now, Input::Publish { source, header, payload }, &mut self.out);
                }
                idle = 0;
            } else {
                idle += 1;
            }
        }
    }

    /// Tells the session of the ends of rings.
    pub(crate) fn end_ring(&mut self, now: Time, source: u64) {
        let source = PortId(source);
        let ring = self.rings.get_mut(&source).unwrap();
        let last = ring.head();
        self.session.handle(now, Input::SourceGone { source, last }, &mut self.out);
    }

    /// Takes bytes from the connection.
    pub(crate) fn receive(&mut self, now: Time, mut bytes: &[u8]) {
        if self.direct
            && self.staging.is_empty()
            && let Destination::Message { source, offset, remaining } = self.session.destination()
        {
            let (here, rest) = bytes.split_at(bytes.len().min(usize::try_from(remaining).unwrap()));
            let open = &mut self.relays.get_mut(&source).unwrap().open.as_mut().unwrap().1;
            assert_eq!(open.len() as u64, offset);
            open.extend_from_slice(here);
            if let Some(delivery) = self.session.receive_direct(now, here, &mut self.out) {
                deliver(&mut self.relays, delivery);
            }
            bytes = rest;
        }
        self.staging.extend_from_slice(bytes);
        let staging = std::mem::take(&mut self.staging);
        let mut at = 0;
        loop {
            let (consumed, delivery) = self.session.receive(now, &staging[at..], &mut self.out);
            at += consumed;
            // Gaps, and what ends a message, stand before the message of the same call.
            let is_first = |output: &Output| matches!(output, Output::RelayGap { .. } | Output::Abort { .. });
            let first: Vec<Output> = self.out.iter().filter(|output| is_first(output)).cloned().collect();
            self.out.retain(|output| !is_first(output));
            for output in first {
                self.output(now, output);
            }
            let Some(delivery) = delivery else { break };
            deliver(&mut self.relays, delivery);
        }
        self.staging = staging[at..].to_vec();
    }

    /// Moves what waits into the relay rings, as far as there is room.
    pub(crate) fn publish_relays(&mut self, now: Time) {
        let mut room = self.room;
        for (source, relay) in &mut self.relays {
            while room > 0
                && let Some(entry) = relay.queue.pop_front()
            {
                room -= 1;
                let sequence = match &entry {
                    Entry::Message(sequence, _) => *sequence,
                    Entry::Gap(_, to, _) => *to,
                };
                relay.entries.push(entry);
                self.session.handle(now, Input::Published { source: *source, sequence }, &mut self.out);
            }
        }
    }

    pub(crate) fn tick(&mut self, now: Time) {
        if self.session.deadline().is_some_and(|(at, _)| at <= now) {
            self.session.handle(now, Input::Tick, &mut self.out);
        }
    }

    pub(crate) fn handle(&mut self, now: Time, input: Input<Arc<[u8]>>) {
        self.session.handle(now, input, &mut self.out);
    }

    pub(crate) fn disconnected(&mut self, now: Time) {
        self.session.disconnected(now, &mut self.out);
        self.batch.clear();
        self.staging.clear();
        self.carry_out(now);
    }

    /// Changes each piece of what goes that lies in a ring, and no copy.
    fn write_on(&self, bytes: &mut [u8]) {
        let mut at = 0;
        for piece in self.batch.pieces() {
            let mut messages = self.rings.values().flat_map(|ring| &ring.messages);
            if messages.any(|message| message.as_ptr_range().contains(&piece.as_ptr())) {
                bytes[at] ^= 1;
            }
            at += piece.len();
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.relays.values().map(|relay| relay.queue.len()).sum()
    }
}

fn deliver(relays: &mut BTreeMap<PortId, RelayRing>, delivery: Delivery<'_>) {
    match delivery {
        Delivery::Message { header, body } => {
            let relay = relays.get_mut(&header.source()).unwrap();
            relay.queue.push_back(Entry::Message(header.sequence.get(), body.to_vec()));
        }
        Delivery::Run { header, records } => {
            let relay = relays.get_mut(&header.source()).unwrap();
            assert!(records.count_left() > 0);
            for message in records {
                relay.queue.push_back(Entry::Message(message.sequence, message.payload.to_vec()));
            }
        }
        Delivery::Begin { header, extensions } => {
            let relay = relays.get_mut(&header.source()).unwrap();
            relay.open = Some((header.sequence.get(), extensions.to_vec()));
        }
        Delivery::Bytes { source, offset, bytes } => {
            let open = &mut relays.get_mut(&source).unwrap().open.as_mut().unwrap().1;
            assert_eq!(open.len() as u64, offset);
            open.extend_from_slice(bytes);
        }
        Delivery::End { source } => {
            let relay = relays.get_mut(&source).unwrap();
            let (sequence, bytes) = relay.open.take().unwrap();
            relay.queue.push_back(Entry::Message(sequence, bytes));
        }
    }
}

/// An accepted connection whose hello has not come, and what has.
type Greeting = (Link<Arc<[u8]>>, Vec<u8>);

/// Two hosts and the connection between them: `dialer` calls `listener`.
pub(crate) struct Net {
    pub(crate) now: Time,
    pub(crate) dialer: Host,
    pub(crate) listener: Host,
    /// The link of an accepted connection until its hello has come, with what has come.
    greeting: Option<Greeting>,
    pub(crate) connected: bool,
    pub(crate) connects: u64,
    /// Bytes that have passed, both ways, and the number at which the connection dies next.
    pub(crate) moved: u64,
    pub(crate) dies_at: Option<u64>,
    /// The byte of all that pass, both ways, of which a bit is changed if it goes from the dialer to the listener; `None` again
    /// when that is done.
    pub(crate) flips_at: Option<u64>,
    /// The dialer's programs go on writing in what they have sent: whatever goes from where it lies is another than was summed.
    pub(crate) writes_on: bool,
    /// The most bytes that pass one way in one step.
    pub(crate) step: usize,
}

impl Net {
    pub(crate) fn new(dialer: Host, listener: Host) -> Net {
        Net {
            now: Time(0),
            dialer,
            listener,
            greeting: None,
            connected: false,
            connects: 0,
            moved: 0,
            dies_at: None,
            flips_at: None,
            writes_on: false,
            step: usize::MAX,
        }
    }

    pub(crate) fn connect(&mut self) {
        let peer = self.listener.config.hello.identity;
        let link = Link::dial(&self.dialer.config, peer, self.now);
        self.dialer.session.connected(self.now, link, &mut self.dialer.out);
        self.greeting = Some((Link::accept(&self.listener.config, self.now), Vec::new()));
        self.connected = true;
        self.connects += 1;
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.greeting = None;
        self.dialer.disconnected(self.now);
        self.listener.disconnected(self.now);
    }

    /// One step of a millisecond: both send what they may, and take what has come.
    pub(crate) fn step(&mut self) {
        self.now = self.now.after_ms(1);
        if !self.connected {
            self.connect();
        }
        let mut close = false;
        for host in [&mut self.dialer, &mut self.listener] {
            host.publish_relays(self.now);
            host.tick(self.now);
            close |= host.carry_out(self.now);
            host.attach(self.now);
            host.read_rows(self.now);
            close |= host.carry_out(self.now);
        }
        let forth = self.forth();
        let back = forth && self.back();
        for host in [&mut self.dialer, &mut self.listener] {
            close |= host.carry_out(self.now);
        }
        if close && forth && back {
            // The last words.
            let _ = self.forth() && self.back();
            for host in [&mut self.dialer, &mut self.listener] {
                host.carry_out(self.now);
            }
        }
        if close || !forth || !back {
            self.disconnect();
        }
    }

    /// How many bytes pass before the connection dies.
    fn pass(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.step);
        let left = self.dies_at.map_or(u64::MAX, |at| at.saturating_sub(self.moved));
        let bytes = bytes.min(usize::try_from(left).unwrap_or(usize::MAX));
        self.moved += bytes as u64;
        bytes
    }

    fn forth(&mut self) -> bool {
        self.dialer.session.transmit(self.now, &mut self.dialer.batch);
        let mut bytes = flat(&self.dialer.batch);
        if self.writes_on {
            self.dialer.write_on(&mut bytes);
        }
        let before = self.moved;
        let passed = self.pass(bytes.len());
        if let Some(at) = self.flips_at.take_if(|at| (before..self.moved).contains(at)) {
            bytes[usize::try_from(at - before).unwrap()] ^= 1;
        }
        self.dialer.batch.advance(passed);
        if let Some((link, mut staging)) = self.greeting.take() {
            staging.extend_from_slice(&bytes[..passed]);
            self.greet(link, staging);
        } else {
            self.listener.receive(self.now, &bytes[..passed]);
        }
        !self.is_dead()
    }

    fn back(&mut self) -> bool {
        self.listener.session.transmit(self.now, &mut self.listener.batch);
        let bytes = flat(&self.listener.batch);
        let passed = self.pass(bytes.len());
        self.listener.batch.advance(passed);
        self.dialer.receive(self.now, &bytes[..passed]);
        !self.is_dead()
    }

    fn is_dead(&mut self) -> bool {
        let dead = self.dies_at.is_some_and(|at| at == self.moved);
        if dead {
            self.dies_at = None;
        }
        dead
    }

    fn greet(&mut self, mut link: Link<Arc<[u8]>>, staging: Vec<u8>) {
        let (consumed, event) = link.receive(self.now, &staging).unwrap();
        let rest = staging[consumed..].to_vec();
        match event {
            Some(Event::Hello(hello)) => {
                assert_eq!(hello.identity, self.listener.session.peer());
                self.listener.session.connected(self.now, link, &mut self.listener.out);
                self.listener.receive(self.now, &rest);
            }
            Some(other) => panic!("{other:?} before a hello"),
            None => self.greeting = Some((link, rest)),
        }
    }
}

pub(crate) fn flat(batch: &Batch<Arc<[u8]>>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(batch.bytes());
    for piece in batch.pieces() {
        bytes.extend_from_slice(piece);
    }
    assert_eq!(bytes.len(), batch.bytes());
    assert_eq!(bytes.is_empty(), batch.is_empty());
    bytes
}
