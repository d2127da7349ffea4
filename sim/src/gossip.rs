//! Artifacts among simulated nodes: the machine of `busway-protocol` over lines of a rate and a delay, in virtual time.
//!
//! Each host has one interface: what it says leaves one word after the other at a rate, arrives after a delay, and passes
//! the interface of its receiver in the same way. Words are bytes on the way, and a header is counted for each. Lines are cut and
//! come again, hosts start again with nothing, and some of them are hostile. What is seen is judged by [`Checks`].
//!
//! Invariant: nothing comes from outside but the terms and the calls; the same seed gives the same run.

mod check;
mod host;
mod vice;

use std::collections::BTreeMap;
use std::sync::Arc;

use busway_protocol::Time;
use busway_protocol::artifact::{Name, TopicHash};
use busway_protocol::gossip::{
    Filter, Input, Lane, NodeIndex, Offering, Output, Reference, SlotNumber, Usage,
};
use busway_wire::HEADER_SIZE;
use busway_wire::Topic;
use busway_wire::gossip::{Word, decode, encode};
use fastrand::Rng;

use crate::agenda::Agenda;
pub use check::{Checks, Traffic};
use host::{Host, Pool};
pub use vice::Vice;

/// What there is.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Decides everything.
    pub seed: u64,
    /// How many hosts.
    pub nodes: u8,
    /// Lines of each host at least; without a number, to every other.
    pub lines: Option<usize>,
    /// Bytes a second of each interface, each way.
    pub rate: u64,
    /// Nanoseconds on the way.
    pub delay_ns: u64,
    /// Bytes under way on one line, each way.
    pub window: u64,
    /// Bytes that each host keeps of others' slots, and of their larger artifacts.
    pub budget: u64,
    /// Bytes of artifacts in pieces that each host has room for.
    pub store: u64,
    /// Who is hostile, and how.
    pub vices: Vec<(u8, Vice)>,
    /// Topics that a host wants; others want all.
    pub wants: BTreeMap<u8, Filter>,
}

impl Terms {
    /// So many hosts, each with a line to each other, at 100 Mbit/s and 1 ms away.
    #[must_use]
    pub fn new(seed: u64, nodes: u8) -> Terms {
        Terms {
            seed,
            nodes,
            lines: None,
            rate: 12_500_000,
            delay_ns: 1_000_000,
            window: 256 << 10,
            budget: 256 << 20,
            store: u64::MAX,
            vices: Vec::new(),
            wants: BTreeMap::new(),
        }
    }

    /// What is on its way when a line is full for a round trip.
    #[must_use]
    pub fn bandwidth_delay_product(&self) -> u64 {
        self.rate * 2 * self.delay_ns / 1_000_000_000
    }
}

#[derive(Debug, Default)]
struct Line {
    up: bool,
    /// How often it was cut: what was on its way then is lost.
    cuts: u64,
    under_way: [u64; 2],
}

#[derive(Debug)]
enum Event {
    /// The interface of a host is free.
    Free { host: u8 },
    /// Bytes arrive.
    Arrive { from: u8, to: u8, cuts: u64, bytes: Vec<u8> },
    /// A machine wants to be told the time.
    Wake { host: u8 },
    /// A line comes again.
    Join { a: u8, b: u8 },
}

/// All hosts and the lines between them.
#[derive(Debug)]
pub struct Swarm {
    terms: Terms,
    now: Time,
    rng: Rng,
    hosts: Vec<Host>,
    lines: BTreeMap<(u8, u8), Line>,
    agenda: Agenda<Event>,
    /// What was seen, judged.
    pub checks: Checks,
    digest: u64,
    spare: Vec<u8>,
}

impl Swarm {
    /// Hosts that have just started, and whose lines are up.
    #[must_use]
    pub fn new(terms: Terms) -> Swarm {
        let mut rng = Rng::with_seed(terms.seed);
        let pool = Pool::default();
        let hosts = (0..terms.nodes).map(|index| Host::new(&terms, index, &pool)).collect();
        let mut swarm = Swarm {
            now: Time(0),
            hosts,
            lines: BTreeMap::new(),
            agenda: Agenda::default(),
            checks: Checks::new(&terms),
            digest: 0,
            spare: Vec::new(),
            rng: rng.fork(),
            terms,
        };
        for (a, b) in pairs(&swarm.terms, &mut rng) {
            swarm.lines.insert((a, b), Line::default());
            swarm.join(a, b);
        }
        swarm
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// A number that is the same when the same has happened.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// What the machine of a host has in use.
    #[must_use]
    pub fn usage(&self, host: u8) -> Usage {
        self.hosts[usize::from(host)].gossip.usage()
    }

    /// What the machine of a host has counted.
    #[must_use]
    pub fn counts(&self, host: u8) -> busway_protocol::gossip::Counts {
        self.hosts[usize::from(host)].gossip.counts()
    }

    /// Bytes of an artifact in pieces that lie in the stores of hosts which did not offer it, each piece counted once.
    #[must_use]
    pub fn others_keep(&self, of: Reference) -> u64 {
        let Some(id) = self.checks.id(of) else { return 0 };
        let others = self.hosts.iter().zip(0..).filter(|(_, host)| *host != of.node.0);
        let pieces: BTreeMap<u32, u64> = others.flat_map(|(host, _)| host.pieces(id)).collect();
        pieces.values().sum()
    }

    /// A host offers an artifact of random bytes.
    pub fn offer(&mut self, host: u8, topic: &str, size: usize) -> Reference {
        let body: Vec<u8> = (0..size).map(|_| self.rng.u8(..)).collect();
        self.offer_instead(host, topic, body.into(), None)
    }

    /// A host offers an artifact, in the place of another where one is named.
    ///
    /// # Panics
    /// Where the host has no room for it.
    pub fn offer_instead(
        &mut self,
        host: u8,
        topic: &str,
        body: Arc<[u8]>,
        instead_of: Option<SlotNumber>,
    ) -> Reference {
        let topic = Topic::new(topic).expect("a topic");
        let at = &mut self.hosts[usize::from(host)];
        let before = instead_of.and_then(|slot| at.gossip.own(slot));
        let offering = Offering { instead_of, ..Offering::new(topic.clone(), body.clone()) };
        let slot = at.gossip.offer(self.now, offering).expect("there is room");
        let of = at.gossip.own(slot).expect("it stands there");
        if let Some(before) = before {
            self.checks.withdrawn(self.now, before);
        }
        self.checks.offered(of, topic, body);
        self.look_at_store(host);
        self.pump(host);
        of
    }

    /// A host offers it no more.
    pub fn withdraw(&mut self, of: Reference) {
        self.checks.withdrawn(self.now, of);
        self.tell(of.node.0, Input::Withdraw { slot: of.slot });
    }

    /// Cuts a line; what is on its way is lost.
    pub fn cut(&mut self, a: u8, b: u8) {
        let Some(line) = self.lines.get_mut(&(a.min(b), a.max(b))).filter(|line| line.up) else { return };
        (line.up, line.cuts, line.under_way) = (false, line.cuts + 1, [0; 2]);
        self.tell(a, Input::PeerDown { node: NodeIndex(b) });
        self.tell(b, Input::PeerDown { node: NodeIndex(a) });
    }

    /// The line is there again.
    pub fn join(&mut self, a: u8, b: u8) {
        let Some(line) = self.lines.get_mut(&(a.min(b), a.max(b))).filter(|line| !line.up) else { return };
        line.up = true;
        self.hosts[usize::from(a)].peers.insert(b);
        self.hosts[usize::from(b)].peers.insert(a);
        self.tell(a, Input::PeerUp { node: NodeIndex(b) });
        self.tell(b, Input::PeerUp { node: NodeIndex(a) });
    }

    /// All lines between the two parts.
    #[must_use]
    pub fn between(&self, part: impl Fn(u8) -> bool) -> Vec<(u8, u8)> {
        self.lines.keys().copied().filter(|(a, b)| part(*a) != part(*b)).collect()
    }

    /// The line is cut, and comes again after so long.
    pub fn flap(&mut self, a: u8, b: u8, ms: u64) {
        self.cut(a, b);
        self.agenda.enter(self.now.after_ms(ms), Event::Join { a, b });
    }

    /// Every line, in order.
    #[must_use]
    pub fn lines(&self) -> Vec<(u8, u8)> {
        self.lines.keys().copied().collect()
    }

    /// A host starts again with nothing; its lines come again after so long.
    pub fn restart(&mut self, host: u8, ms: u64) {
        for (a, b) in self.between(|other| other == host) {
            self.flap(a, b, ms);
        }
        self.checks.restarted(self.now, NodeIndex(host));
        let terms = self.terms.clone();
        self.hosts[usize::from(host)].restart(&terms);
    }

    /// The interface of a host takes and gives only so many bytes a second from now on.
    pub fn slow(&mut self, host: u8, rate: u64) {
        self.hosts[usize::from(host)].rate = rate;
    }

    /// A host stands still: it says nothing, what comes waits until its lines are full, and these stay up.
    pub fn stop(&mut self, host: u8) {
        self.hosts[usize::from(host)].stopped.get_or_insert_default();
    }

    /// One that stood still goes on, with all that came.
    pub fn go_on(&mut self, host: u8) {
        for (from, cuts, bytes) in self.hosts[usize::from(host)].stopped.take().into_iter().flatten() {
            self.arrive(from, host, cuts, &bytes);
        }
        self.tell(host, Input::Tick);
    }

    /// Goes on until this time, or until a checker has found something.
    pub fn run_until(&mut self, until: Time) {
        while self.checks.violation().is_none() {
            let Some(at) = self.agenda.next().filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(at);
            if let Some(event) = self.agenda.due(self.now) {
                self.happen(event);
            }
        }
    }

    /// Goes on for so long.
    pub fn run_for_ms(&mut self, ms: u64) {
        self.run_until(self.now.after_ms(ms));
    }

    /// Goes on until all that is offered is where it is wanted, and what is not is nowhere; how long it took, or nothing if it did not come to that.
    pub fn settle(&mut self, ms_max: u64) -> Option<u64> {
        let (since, until) = (self.now, self.now.after_ms(ms_max));
        while self.checks.violation().is_none() {
            if self.checks.owed() == 0 {
                return Some(self.now.since(since));
            }
            let at = self.agenda.next().filter(|at| *at <= until)?;
            self.now = self.now.max(at);
            if let Some(event) = self.agenda.due(self.now) {
                self.happen(event);
            }
        }
        None
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Free { host } => self.pump(host),
            Event::Arrive { from, to, cuts, bytes } => self.arrive(from, to, cuts, &bytes),
            Event::Wake { host } => {
                let at = &mut self.hosts[usize::from(host)];
                if at.woken(self.now) && at.stopped.is_none() {
                    self.tell(host, Input::Tick);
                }
            }
            Event::Join { a, b } => self.join(a, b),
        }
    }

    fn arrive(&mut self, from: u8, to: u8, cuts: u64, bytes: &[u8]) {
        let Some(line) = self.lines.get_mut(&(from.min(to), from.max(to))) else { return };
        if line.cuts != cuts || !line.up {
            return;
        }
        if let Some(came) = &mut self.hosts[usize::from(to)].stopped {
            came.push((from, cuts, bytes.to_vec()));
            return;
        }
        line.under_way[usize::from(from > to)] -= (HEADER_SIZE + bytes.len()) as u64;
        self.digest =
            self.digest.rotate_left(5) ^ self.now.0 ^ (bytes.len() as u64) ^ (u64::from(from) << 32);
        match decode(bytes) {
            Ok((word, following)) => {
                self.checks.arrived((from, to), &word, following);
                self.hosts[usize::from(to)].overhear(from, &word);
                self.tell(to, Input::Word { from: NodeIndex(from), word, following });
            }
            // A link ends with who says what is no word; a hostile host comes again.
            Err(_) => self.flap(from, to, 100),
        }
        self.pump(from);
    }

    /// Something happens to the machine of a host; what follows is seen.
    fn tell(&mut self, host: u8, input: Input<'_>) {
        let now = self.now;
        let at = &mut self.hosts[usize::from(host)];
        let out = at.handle(now, input);
        self.look_at_store(host);
        for output in out {
            match output {
                Output::Stored { advert } => {
                    let topic = TopicHash::of(&advert.topic);
                    let name = Name { id: advert.id, size: advert.size, topic };
                    let body = self.hosts[usize::from(host)].keeps(name);
                    self.checks.stored(now, NodeIndex(host), (advert.of, advert.id), &body);
                }
                output => self.checks.output(now, NodeIndex(host), output),
            }
        }
        self.pump(host);
    }

    /// What a host has taken in is compared with what was offered.
    fn look_at_store(&mut self, host: u8) {
        for (name, index, piece) in self.hosts[usize::from(host)].taken_in() {
            self.checks.taken_in(NodeIndex(host), name.id, (index, &piece));
        }
    }

    /// Lets the interface of a host take what it can.
    fn pump(&mut self, host: u8) {
        let now = self.now;
        let at = &mut self.hosts[usize::from(host)];
        if at.stopped.is_some() {
            return;
        }
        if at.busy_until <= now
            && let Some((to, word)) = next_word(at, &self.lines, (host, now, self.terms.window))
        {
            let bytes = std::mem::take(&mut self.spare);
            self.put(host, to, word, bytes);
        }
        let at = &mut self.hosts[usize::from(host)];
        if let Some(wake) = at.arm(now) {
            self.agenda.enter(wake, Event::Wake { host });
        }
    }

    /// A word leaves.
    fn put(&mut self, from: u8, to: u8, (word, following): (Word, Vec<u8>), mut bytes: Vec<u8>) {
        encode(&word, &following, &mut bytes);
        let size = (HEADER_SIZE + bytes.len()) as u64;
        self.checks.sent(self.now, (from, to), &word, size);
        let Some(line) = self.lines.get_mut(&(from.min(to), from.max(to))) else { return };
        line.under_way[usize::from(from > to)] += size;
        let left = Time(self.now.0 + size * 1_000_000_000 / self.hosts[usize::from(from)].rate);
        self.hosts[usize::from(from)].busy_until = left;
        self.agenda.enter(left, Event::Free { host: from });
        let receiver = &mut self.hosts[usize::from(to)];
        // Its interface takes it while it comes, but for what comes at the same time.
        let took = size * 1_000_000_000 / receiver.rate;
        let ends = Time((left.0 + self.terms.delay_ns).max(receiver.taken_until.0 + took));
        receiver.taken_until = ends;
        self.agenda.enter(ends, Event::Arrive { from, to, cuts: line.cuts, bytes });
    }
}

/// What a host says next, and to whom: lanes in their order, peers in turn.
fn next_word(
    at: &mut Host,
    lines: &BTreeMap<(u8, u8), Line>,
    (host, now, window): (u8, Time, u64),
) -> Option<(u8, (Word, Vec<u8>))> {
    let is_open = |to: &u8| {
        let line = lines.get(&(host.min(*to), host.max(*to)));
        line.is_some_and(|line| line.up && line.under_way[usize::from(host > *to)] < window)
    };
    for lane in Lane::ALL {
        let open: Vec<u8> = at.in_turn(lane).filter(is_open).collect();
        for to in open {
            if let Some(said) = at.say(now, to, lane) {
                at.turns[lane as usize] = to;
                return Some((to, said));
            }
        }
    }
    None
}

/// Who has a line to whom: a ring, so that all hang together, and others by chance.
fn pairs(terms: &Terms, rng: &mut Rng) -> Vec<(u8, u8)> {
    let count = terms.nodes;
    let mut pairs = Vec::new();
    for a in 0..count {
        match terms.lines {
            None => pairs.extend((a + 1..count).map(|b| (a, b))),
            Some(lines) => {
                pairs.push((a, (a + 1) % count));
                pairs.extend((2..lines.max(2)).step_by(2).map(|_| (a, rng.u8(..count))));
            }
        }
    }
    let mut pairs: Vec<(u8, u8)> = pairs.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
    pairs.retain(|(a, b)| a != b);
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}
