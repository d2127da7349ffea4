//! The second floor: the runtime that ships, stepped in one thread and virtual time, with real rings in real memory.
//!
//! Each host is a domain of its own with a node, publishers and subscribers; between the nodes is the network in memory
//! of `busway-io`. There is one thread: control planes are stepped as nodes are, clocks and random numbers are those of
//! the simulation, and time moves only when no host has anything left to do. In half of the worlds control planes do late
//! what they are asked, as threads that are not scheduled at once. Of the machine's own time nothing is decided,
//! but that a world which does not end in minutes of it has failed.
//!
//! Invariant: the same plan gives the same run, as far as it is seen by users and by the network.

mod host;
mod line;
mod plan;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use busway::{Simulated, UnderWay};
use busway_io::{Crash, HostId, Network, Path};
use busway_protocol::{State, Time};
use busway_wire::PortId;

use crate::coverage::Coverage;
use crate::crowd::Crowd;
use crate::fault::{Fault, Pair, Planned};
use crate::machine;
use crate::phase::Phase;
use crate::trace::{Happening, Trace};
use host::{Host, Sent, Told};
pub use line::{Forgotten, Line};
pub use plan::{Plan, Reader, Source};

/// Every run lasts at least so long.
const SECONDS_MIN: u64 = 60;
/// After the last fault has ended, all must have arrived within this long.
const QUIET_MS: u64 = 60_000;
/// Two nodes that can reach each other are linked within this long.
const LINKED_MS: u64 = 2_500;
/// How often links are looked at.
const CHECK_MS: u64 = 100;
/// A publisher that found its ring full tries again after this long.
const FULL_MS: u64 = 5;
/// A node that was told to end its links in order is gone after this long.
const DRAIN_MS: u64 = 1_000;
/// A world that has more than this of the machine's time is one that does not end: others have a tenth of a second.
const SEED_MOST: Duration = Duration::from_secs(60);
/// What wall clocks say at first: some time of a day in our years, with room for ten of them either way.
const WALL_NS: i64 = 1_800_000_000_000_000_000;
/// How often the machine's time is looked at: a thousand moments take some ten milliseconds.
const WATCH_EVERY: u64 = 1_000;

/// What became of one run.
#[derive(Debug)]
pub struct Outcome {
    /// What was wrong, if anything.
    pub violation: Option<String>,
    /// Of what users and links saw.
    pub hash: u64,
    /// Messages published.
    pub messages: u64,
    /// Messages that users received.
    pub delivered: u64,
    /// Messages that users were told are lost.
    pub lost: u64,
    /// Virtual nanoseconds.
    pub virtual_ns: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Which faults met which states.
    pub coverage: Coverage,
    /// The last lines of the trace, if they were asked for.
    pub lines: Vec<String>,
}

#[derive(Debug)]
enum Event {
    Publish { source: usize },
    Open { reader: usize },
    Strike(Planned),
    Expire { number: u64 },
    Undo(Undo),
    Check,
}

#[derive(Debug)]
enum Undo {
    Paths { ways: Vec<Pair>, touched: Vec<Pair> },
    Hear { host: usize },
    Go { host: usize },
    Start { host: usize },
    Drained { host: usize, duration_ms: u64 },
    Read { host: usize },
}

/// What is known apart from those who are judged.
struct Known<'a> {
    plan: &'a Plan,
    ports: BTreeMap<PortId, usize>,
    /// When each message of each source was sent.
    times: Vec<Vec<u64>>,
    /// When the node of each host has gone last.
    gone_ns: Vec<Option<u64>>,
}

impl Known<'_> {
    fn number(&self, port: PortId) -> Result<usize, String> {
        self.ports.get(&port).copied().ok_or_else(|| format!("nobody has published as {port}"))
    }

    /// Whose node has gone since a message of a source was sent.
    fn forgotten(&self, source: usize, sequence: u64, far: usize) -> Forgotten {
        let index = usize::try_from(sequence.saturating_sub(1)).unwrap_or(usize::MAX);
        let sent_ns = self.times[source].get(index).copied().unwrap_or(0);
        let since = |host: usize| self.gone_ns[host].is_some_and(|gone_ns| gone_ns >= sent_ns);
        Forgotten { near: since(self.plan.sources[source].host), far: since(far) }
    }
}

/// All hosts and what is between them.
struct World<'a> {
    plan: &'a Plan,
    known: Known<'a>,
    network: Network,
    hosts: Vec<Host>,
    agenda: BTreeMap<(u64, u64), Event>,
    entered: u64,
    armed: BTreeMap<u64, Planned>,
    touched: BTreeMap<(usize, usize), (u64, u32)>,
    violation: Option<String>,
    coverage: Coverage,
    trace: Trace,
    faults: u64,
    clocks: Simulated,
    rests: u64,
    /// What this thread had had of the machine when it began.
    began: Duration,
}

/// Lets a plan happen.
#[must_use]
pub fn run(plan: &Plan, lines: bool) -> Outcome {
    let clocks = Simulated::begin(plan.seed);
    let network = Network::new(plan.seed, plan.manners);
    network.set_usual_path(plan.path);
    let trace = if lines { Trace::with_lines() } else { Trace::default() };
    let known = Known {
        plan,
        ports: BTreeMap::new(),
        times: vec![Vec::new(); plan.sources.len()],
        gone_ns: vec![None; plan.hosts],
    };
    let mut world = World {
        plan,
        known,
        network,
        hosts: Vec::new(),
        agenda: BTreeMap::new(),
        entered: 0,
        armed: BTreeMap::new(),
        touched: BTreeMap::new(),
        violation: None,
        coverage: Coverage::default(),
        trace,
        faults: 0,
        clocks,
        rests: 0,
        began: machine::of_this_thread(),
    };
    if let Err(what) = world.live() {
        world.violate(|| what);
    }
    let lines = world.hosts.iter().flat_map(Host::lines);
    let (delivered, lost) = lines.fold((0, 0), |sum, line| (sum.0 + line.messages, sum.1 + line.lost));
    Outcome {
        hash: world.trace.hash(),
        messages: world.hosts.iter().map(Host::sent).sum(),
        delivered,
        lost,
        virtual_ns: world.network.now_ns(),
        faults: world.faults,
        coverage: world.coverage.clone(),
        lines: world.trace.lines().map(str::to_owned).collect(),
        violation: world.violation,
    }
}

impl World<'_> {
    fn live(&mut self) -> Result<(), String> {
        for index in 0..self.plan.hosts {
            self.hosts.push(Host::new(index, self.plan)?);
        }
        for index in 0..self.plan.hosts {
            self.start(index)?;
        }
        for (number, source) in self.plan.sources.iter().enumerate() {
            let port = self.hosts[source.host].publisher(number, source)?;
            self.known.ports.insert(port, number);
            self.enter(source.gap_ns, Event::Publish { source: number });
        }
        for (number, reader) in self.plan.readers.iter().enumerate() {
            self.enter(reader.since_ns, Event::Open { reader: number });
        }
        for planned in &self.plan.faults {
            self.enter(planned.at.0, Event::Strike(planned.clone()));
        }
        self.enter(CHECK_MS * 1_000_000, Event::Check);
        self.run_until(SECONDS_MIN * 1_000_000_000)?;
        self.finish()
    }

    /// Lets every message arrive, and judges.
    fn finish(&mut self) -> Result<(), String> {
        let end_ns = self.network.now_ns() + QUIET_MS * 1_000_000;
        loop {
            self.run_until(self.network.now_ns() + 50_000_000)?;
            let Some(stuck) = self.unfinished() else { break };
            if self.network.now_ns() >= end_ns {
                return Err(format!("not quiet after {QUIET_MS} ms: {stuck}"));
            }
        }
        for host in &self.hosts {
            host.close_accounts()?;
        }
        Ok(())
    }

    fn unfinished(&self) -> Option<String> {
        if let Some(source) = self.hosts.iter().find_map(Host::unsent) {
            return Some(format!("source {source} has messages to send"));
        }
        let counts: BTreeMap<usize, u64> = self.hosts.iter().flat_map(Host::counts).collect();
        let mut hosts = self.hosts.iter().enumerate();
        hosts.find_map(|(index, host)| host.missing(index, &self.known, &counts))
    }

    fn enter(&mut self, at_ns: u64, event: Event) {
        self.entered += 1;
        self.agenda.insert((at_ns.max(self.network.now_ns()), self.entered), event);
    }

    fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// Goes on until this time.
    fn run_until(&mut self, until_ns: u64) -> Result<(), String> {
        loop {
            self.rest()?;
            if let Some(violation) = &self.violation {
                return Err(violation.clone());
            }
            let now_ns = self.network.now_ns();
            if let Some((&(at_ns, _), _)) = self.agenda.first_key_value()
                && at_ns <= now_ns
            {
                if let Some((_, event)) = self.agenda.pop_first() {
                    self.happen(event)?;
                }
                continue;
            }
            if now_ns >= until_ns {
                return Ok(());
            }
            let event = self.agenda.first_key_value().map(|(&(at_ns, _), _)| at_ns);
            let hosts = self.hosts.iter().map(Host::due_ns);
            let next_ns = hosts.chain(event).chain(self.network.next_ns()).chain([until_ns]).min();
            let by_ns = next_ns.unwrap_or(until_ns).saturating_sub(now_ns).max(1);
            self.network.advance(Duration::from_nanos(by_ns));
            self.clocks.pass(now_ns + by_ns);
        }
    }

    /// Lets all hosts do what they can at this moment. What one does reaches no other before time has passed.
    fn rest(&mut self) -> Result<(), String> {
        let now_ns = self.network.now_ns();
        self.network.stirred(|id| {
            if let Some(host) = self.hosts.get_mut(usize::from(id.0)) {
                host.stir();
            }
        });
        let mut any = false;
        for (index, host) in self.hosts.iter_mut().enumerate().filter(|(_, host)| host.due_ns() <= now_ns) {
            any = true;
            let trace = &mut self.trace;
            let mut told = |told: Told| {
                let (what, whom, much) = ("told", told.reader as u64, told.sequence);
                let source = told.source as u64 + 1;
                trace.note(Time(now_ns), Happening { host: index, what, whom, much, source, note: "" });
            };
            self.clocks.set_wall(host.wall_ns);
            host.run(index, now_ns, &self.known, &mut told)?;
        }
        if any {
            self.spring();
            self.rests += 1;
            if self.rests.is_multiple_of(WATCH_EVERY) {
                self.watch()?;
            }
        }
        Ok(())
    }

    /// Ends a world that does not come to its end, with what its hosts wait for.
    fn watch(&mut self) -> Result<(), String> {
        let took = machine::of_this_thread().saturating_sub(self.began);
        if took < SEED_MOST {
            return Ok(());
        }
        Err(self.stuck(&format!("not at its end after {} s of the machine's time", took.as_secs())))
    }

    fn stuck(&self, what: &str) -> String {
        let mut text =
            format!("{what}; {} ns, the network next at {:?}", self.network.now_ns(), self.network.next_ns());
        for (index, host) in self.hosts.iter().enumerate() {
            text.push_str(&format!("\n  host {index}: {}", host.describe()));
        }
        text
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Publish { source } => self.publish(source)?,
            Event::Open { reader } => {
                let of = &self.plan.readers[reader];
                self.hosts[of.host].subscriber(reader, of)?;
            }
            Event::Strike(planned) => self.arm(planned)?,
            Event::Expire { number } => {
                if let Some(planned) = self.armed.remove(&number) {
                    self.strike(&planned)?;
                }
            }
            Event::Undo(undo) => self.undo(undo)?,
            Event::Check => {
                self.check_links();
                self.enter(self.network.now_ns() + CHECK_MS * 1_000_000, Event::Check);
            }
        }
        Ok(())
    }

    fn publish(&mut self, number: usize) -> Result<(), String> {
        let source = &self.plan.sources[number];
        let now_ns = self.network.now_ns();
        self.clocks.set_wall(self.hosts[source.host].wall_ns);
        match self.hosts[source.host].publish(number, source)? {
            Sent::Done => {}
            Sent::Message { gap_ns, sequence } => {
                self.known.times[number].push(now_ns);
                let (what, whom, note) = ("sent", number as u64, "");
                let happening = Happening { host: source.host, what, whom, much: sequence, source: 0, note };
                self.trace.note(Time(now_ns), happening);
                self.enter(now_ns + gap_ns, Event::Publish { source: number });
            }
            Sent::Full => self.enter(now_ns + FULL_MS * 1_000_000, Event::Publish { source: number }),
        }
        Ok(())
    }

    fn crowd(&self) -> Crowd {
        Crowd { nodes: self.plan.hosts, clients: 0 }
    }

    fn start(&mut self, index: usize) -> Result<(), String> {
        let own = u8::try_from(index).map_err(|_| "too many hosts".to_owned())?;
        let mut builder = busway::Node::builder().cluster("sim").index(own).listen(address(index));
        for other in (0..self.plan.hosts).filter(|&other| other != index) {
            let number = u8::try_from(other).map_err(|_| "too many hosts".to_owned())?;
            builder = builder.peer(number, &address(other).to_string());
        }
        let builder = builder.name(&format!("host {index}")).allow_plain_beyond_loopback();
        let (messages, bytes) = (self.plan.credit_messages, self.plan.credit_bytes);
        let builder = builder.data_in_flight(messages).data_bytes(bytes);
        self.hosts[index].start(builder, &self.network, id(index))
    }

    /// How far the two are with each other: the further of both.
    fn phase_of(&self, pair: Pair) -> Phase {
        match self.stage_of(pair) {
            Phase::Idle => self.under_way(pair),
            other => other,
        }
    }

    /// As far as the states of their links say: one that stands is idle.
    fn stage_of(&self, pair: Pair) -> Phase {
        let one = |a: usize, b: usize| match self.hosts[a].state(b) {
            None => Phase::Apart,
            Some(State::Greeting | State::Greeted) => Phase::Greeting,
            Some(State::Established) => Phase::Idle,
            Some(State::Draining | State::Closed(_)) => Phase::Draining,
        };
        one(pair.from, pair.to).max(one(pair.to, pair.from))
    }

    /// What is under way on a link that stands.
    fn under_way(&self, pair: Pair) -> Phase {
        let one = |a: usize, b: usize| match self.hosts[a].under_way(b) {
            UnderWay::Nothing => Phase::Idle,
            UnderWay::Messages => Phase::Flowing,
            UnderWay::Part => Phase::Partial,
            UnderWay::Waits => Phase::Suspended,
        };
        one(pair.from, pair.to).max(one(pair.to, pair.from))
    }

    fn is_met(&self, planned: &Planned) -> bool {
        let stands = |phase| !matches!(phase, Phase::Apart | Phase::Greeting | Phase::Draining);
        planned.fault.pairs(self.crowd()).into_iter().any(|pair| match (self.stage_of(pair), planned.phase) {
            // What is under way is counted, which costs time: only where it is asked for.
            (Phase::Idle, Some(wanted)) => stands(wanted) && self.under_way(pair) == wanted,
            (stage, wanted) => Some(stage) == wanted,
        })
    }

    fn arm(&mut self, planned: Planned) -> Result<(), String> {
        if planned.phase.is_none() || self.is_met(&planned) {
            return self.strike(&planned);
        }
        self.entered += 1;
        let number = self.entered;
        self.armed.insert(number, planned);
        self.enter(self.network.now_ns() + Planned::PATIENCE_MS * 1_000_000, Event::Expire { number });
        Ok(())
    }

    fn spring(&mut self) {
        let met = self.armed.iter().find(|(_, planned)| self.is_met(planned)).map(|(&number, _)| number);
        if let Some(planned) = met.and_then(|number| self.armed.remove(&number)) {
            self.enter(self.network.now_ns(), Event::Strike(Planned { phase: None, ..planned }));
        }
    }

    fn strike(&mut self, planned: &Planned) -> Result<(), String> {
        let pairs = planned.fault.pairs(self.crowd());
        self.faults += 1;
        for &pair in &pairs {
            self.coverage.met(&planned.fault, self.phase_of(pair));
        }
        if let Fault::ClockJump(host) = planned.fault {
            // That somebody sets a wall clock excuses nothing.
            self.hosts[host].wall_ns = leap_ns(planned);
            return Ok(());
        }
        self.hold(&pairs);
        let note = &format!("{:?}", planned.fault);
        let (what, whom, much) = ("fault", planned.fault.number() as u64, planned.duration_ms);
        let host = pairs.first().map_or(0, |pair| pair.from);
        let happening = Happening { host, what, whom, much, source: 0, note };
        self.trace.note(Time(self.network.now_ns()), happening);
        let both = |pair: &Pair| [*pair, Pair { from: pair.to, to: pair.from }];
        let ways: Vec<Pair> = pairs.iter().flat_map(both).collect();
        match planned.fault {
            Fault::Partition(_) | Fault::Isolate(_) => {
                self.paths(planned, ways, pairs, |path| Path { cut: true, ..path });
            }
            Fault::OneWay(pair) => self.paths(planned, vec![pair], pairs, |path| Path { cut: true, ..path }),
            Fault::Corrupt(pair) => {
                self.paths(planned, vec![pair], pairs, |path| Path { corrupt_ppm: 200_000, ..path });
            }
            Fault::Slow(_) => {
                let slow = |path| Path { bytes_per_second: Some(20_000), ..path };
                self.paths(planned, ways, pairs, slow);
            }
            Fault::Reset(pair) => {
                self.network.reset(id(pair.from), id(pair.to));
                self.release(&pairs);
            }
            Fault::Truncate(pair) => {
                self.network.truncate(id(pair.from), id(pair.to));
                self.release(&pairs);
            }
            Fault::HalfClose(pair) => {
                self.network.half_close(id(pair.from), id(pair.to));
                self.release(&pairs);
            }
            Fault::Ignore(pair) => {
                self.release(&pairs);
                self.hold_host(pair.to);
                self.network.swallow_connects(id(pair.to), true);
                self.end(planned.duration_ms, Undo::Hear { host: pair.to });
            }
            Fault::Stop(host) => {
                self.network.stop(id(host), true);
                self.hosts[host].stopped += 1;
                self.end(planned.duration_ms, Undo::Go { host });
            }
            Fault::Drain(host) => {
                self.hosts[host].drain();
                let duration_ms = planned.duration_ms;
                self.end(DRAIN_MS, Undo::Drained { host, duration_ms });
            }
            Fault::Idle(host) => {
                self.hosts[host].idle += 1;
                self.end(planned.duration_ms, Undo::Read { host });
            }
            _ => {
                let host = pairs.first().map_or(0, |pair| pair.from);
                self.kill(host);
                self.end(planned.duration_ms, Undo::Start { host });
            }
        }
        Ok(())
    }

    fn kill(&mut self, host: usize) {
        if self.hosts[host].kill() {
            self.known.gone_ns[host] = Some(self.network.now_ns());
            self.network.crash(id(host), Crash::Process);
        }
    }

    fn paths(
        &mut self,
        planned: &Planned,
        ways: Vec<Pair>,
        touched: Vec<Pair>,
        change: impl Fn(Path) -> Path,
    ) {
        for way in &ways {
            let path = self.network.path(id(way.from), id(way.to));
            self.network.set_path(id(way.from), id(way.to), change(path));
        }
        self.end(planned.duration_ms, Undo::Paths { ways, touched });
    }

    fn end(&mut self, duration_ms: u64, undo: Undo) {
        self.enter(self.network.now_ns() + duration_ms * 1_000_000, Event::Undo(undo));
    }

    fn undo(&mut self, undo: Undo) -> Result<(), String> {
        match undo {
            Undo::Paths { ways, touched } => {
                // Two faults of one way: the first that ends heals it.
                for way in &ways {
                    self.network.set_path(id(way.from), id(way.to), self.plan.path);
                }
                self.release(&touched);
            }
            Undo::Hear { host } => {
                self.network.swallow_connects(id(host), false);
                self.release_host(host);
            }
            Undo::Go { host } => {
                self.hosts[host].stopped -= 1;
                if self.hosts[host].stopped == 0 {
                    self.network.stop(id(host), false);
                    self.hosts[host].go_on();
                }
                self.release_host(host);
            }
            Undo::Drained { host, duration_ms } => {
                self.kill(host);
                self.end(duration_ms, Undo::Start { host });
            }
            Undo::Start { host } => {
                if self.hosts[host].is_down() {
                    self.start(host)?;
                }
                self.release_host(host);
            }
            Undo::Read { host } => {
                self.hosts[host].idle -= 1;
                self.hosts[host].go_on();
                self.release_host(host);
            }
        }
        Ok(())
    }

    fn hold_host(&mut self, host: usize) {
        let pairs = Fault::Stop(host).pairs(self.crowd());
        self.hold(&pairs);
    }

    fn release_host(&mut self, host: usize) {
        let pairs = Fault::Stop(host).pairs(self.crowd());
        self.release(&pairs);
    }

    fn hold(&mut self, pairs: &[Pair]) {
        for pair in pairs {
            self.touched.entry(key(*pair)).or_default().1 += 1;
        }
    }

    fn release(&mut self, pairs: &[Pair]) {
        let now_ns = self.network.now_ns();
        for pair in pairs {
            let touched = self.touched.entry(key(*pair)).or_default();
            *touched = (now_ns, touched.1.saturating_sub(1));
        }
    }

    /// Whoever can reach each other has a link.
    fn check_links(&mut self) {
        for pair in self.crowd().pairs() {
            let (touched_ns, held) = self.touched.get(&key(pair)).copied().unwrap_or_default();
            let late = self.network.now_ns() > touched_ns + self.patience_ms() * 1_000_000;
            let linked = |a: usize, b: usize| self.hosts[a].state(b) == Some(State::Established);
            if held == 0 && late && !(linked(pair.from, pair.to) && linked(pair.to, pair.from)) {
                let patience_ms = self.patience_ms();
                self.violate(|| format!("{pair:?} can reach each other since {patience_ms} ms: no link"));
            }
        }
    }

    /// What was corrupted or cut is noticed when the peer has been silent for long, or was sent a part only.
    fn patience_ms(&self) -> u64 {
        LINKED_MS + SILENT_MS
    }
}

/// A peer that says nothing for so long is given up, or one whose frame does not end.
const SILENT_MS: u64 = 10_000;

/// To where a wall clock is set: a little or ten years, forward or back, always from what the others say.
fn leap_ns(planned: &Planned) -> i64 {
    const TEN_YEARS_NS: i64 = 10 * 365 * 86_400 * 1_000_000_000;
    let little_ns = planned.duration_ms.cast_signed().saturating_mul(1_000_000);
    let by_ns = match planned.amount % 4 {
        0 => TEN_YEARS_NS,
        1 => -TEN_YEARS_NS,
        2 => little_ns,
        _ => -little_ns,
    };
    WALL_NS + by_ns
}

fn key(pair: Pair) -> (usize, usize) {
    (pair.from.min(pair.to), pair.from.max(pair.to))
}

fn id(host: usize) -> HostId {
    HostId(u16::try_from(host).unwrap_or(u16::MAX))
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::new(id(host).ipv4(), 7_700)
}
