//! Random worlds with random faults, each from one number.
//!
//! Invariant: a configuration says everything: with the same one, and some of its faults left out, the rest of the
//! world is the same.

use busway_protocol::Time;
use busway_wire::{Pattern, Topic};
use fastrand::Rng;

use crate::coverage::Coverage;
use crate::fault::{Pair, Planned};
use crate::network::Shape;
use crate::node::Canary;
use crate::seen::Budget;
use crate::world::{Terms, Work, World, is_reliable};

/// Every run lasts at least so long.
const SECONDS_MIN: u64 = 60;
/// Faults begin before this.
const FAULTS_UNTIL_S: u64 = 42;
/// After the last fault has ended, all must have arrived within this long.
const QUIET_MS: u64 = 120_000;

/// A publisher of a random world.
#[derive(Clone, Debug)]
pub struct Source {
    host: usize,
    topic: Topic,
    slots: usize,
    work: Work,
}

/// A subscriber of a random world.
#[derive(Clone, Debug)]
pub struct Reader {
    host: usize,
    pattern: Pattern,
    reliable: bool,
    work_ns: u64,
    since: Time,
}

/// A random world.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The world.
    pub terms: Terms,
    /// Who publishes.
    pub sources: Vec<Source>,
    /// Who subscribes.
    pub readers: Vec<Reader>,
    /// What goes wrong.
    pub faults: Vec<Planned>,
}

/// What became of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was wrong, if anything.
    pub violation: Option<String>,
    /// Of the trace.
    pub hash: u64,
    /// What happened, in number.
    pub events: u64,
    /// Messages published.
    pub messages: u64,
    /// Messages that users were told of.
    pub delivered: u64,
    /// Clients that had to give way to others.
    pub evicted: u64,
    /// Holes that users were told of, by cause; the last is of those that nobody could explain.
    pub holes: Vec<u64>,
    /// Virtual nanoseconds.
    pub virtual_ns: u64,
    /// Faults that were planned.
    pub faults: usize,
    /// Which faults met which states.
    pub coverage: Coverage,
    /// The most of each budget, and its bound.
    pub peaks: Vec<(Budget, u64, u64)>,
    /// The last lines of the trace, if they were asked for.
    pub lines: Vec<String>,
}

impl Configuration {
    /// The one of this seed.
    #[must_use]
    pub fn of(seed: u64) -> Configuration {
        let rng = &mut Rng::with_seed(seed);
        let hosts = rng.usize(3..=7);
        let shape = Shape {
            latency_ns: rng.u64(20_000..5_000_000),
            jitter_ns: rng.u64(0..2_000_000),
            bytes_per_second: [200_000, 5_000_000, 100_000_000][rng.usize(0..3)],
            room: [2_000, 20_000, 200_000][rng.usize(0..3)],
            segment_max: [40, 1_400, 16_384][rng.usize(0..3)],
        };
        let clients = [0, 0, 1, 2, 4][rng.usize(0..5)];
        // Sometimes there is not room for all of them.
        let crowded = clients > 1 && rng.u32(0..3) == 0;
        let terms = Terms {
            shape,
            clients,
            clients_max: if crowded { clients as u32 - 1 } else { [clients as u32, 1_024][rng.usize(0..2)] },
            unidentified_max: [1, 4, 64][rng.usize(0..3)],
            credit_messages: [4, 40, 16_384][rng.usize(0..3)],
            credit_bytes: [20_000, 300_000, 32 << 20][rng.usize(0..3)],
            window_messages: [2, 16, 4_096][rng.usize(0..3)],
            window_bytes: [10_000, 200_000, 8 << 20][rng.usize(0..3)],
            relay_slots: [4, 64, 1_024][rng.usize(0..3)],
            read_max: [37, 4_096, 262_144][rng.usize(0..3)],
            direct: rng.bool(),
            ..Terms::new(rng.u64(..), hosts)
        };
        let topics: Vec<Topic> = ["a.x", "a.y", "lossy.x", "lossy.y"]
            .iter()
            .map(|name| Topic::new(name).expect("it is a topic"))
            .collect();
        let crowd = terms.crowd();
        let sources = sources(&terms, &topics, rng);
        let readers = readers(&terms, rng);
        let mut faults = Vec::new();
        for _ in 0..rng.usize(8..20) {
            let fault = Planned::any(crowd, (Time(0), Time(FAULTS_UNTIL_S * 1_000_000_000)), rng);
            faults.extend(fault.occasion(crowd, rng));
            faults.push(fault);
        }
        let until = Time(FAULTS_UNTIL_S * 1_000_000_000);
        faults.extend(Planned::unheard(&far_readers(&sources, &readers), until, &mut Rng::with_seed(!seed)));
        Configuration { terms, sources, readers, faults }
    }

    /// Lets it happen.
    #[must_use]
    pub fn run(&self, canary: Canary, lines: bool) -> Outcome {
        let mut world = World::new(Terms { canary, lines, ..self.terms.clone() });
        for planned in &self.faults {
            world.plan(planned.clone());
        }
        let mut readers = self.readers.clone();
        readers.sort_by_key(|reader| reader.since);
        let mut later = readers.into_iter().peekable();
        while let Some(reader) = later.next_if(|reader| reader.since == Time(0)) {
            let _ = world.subscribe(reader.host, &reader.pattern, reader.reliable, reader.work_ns);
        }
        for source in &self.sources {
            let _ = world.publisher(source.host, &source.topic, source.slots, source.work);
        }
        for reader in later {
            world.run_until(reader.since);
            let _ = world.subscribe(reader.host, &reader.pattern, reader.reliable, reader.work_ns);
        }
        world.run_until(Time(SECONDS_MIN * 1_000_000_000));
        // What was found stands in the checks.
        let _ = world.run_until_quiet(QUIET_MS);
        Outcome {
            violation: world.checks.violation().map(str::to_owned),
            hash: world.trace.hash(),
            events: world.trace.events(),
            messages: world.checks.messages(),
            delivered: world.checks.delivered,
            evicted: world.checks.evicted,
            holes: world.checks.holes.to_vec(),
            virtual_ns: world.now().0,
            faults: self.faults.len(),
            coverage: world.coverage.clone(),
            peaks: world.checks.peaks().collect(),
            lines: world.trace.lines().map(str::to_owned).collect(),
        }
    }

    /// The same with as few faults as still show a violation, and how often it was run for that.
    #[must_use]
    pub fn minimise(&self, canary: Canary, runs_max: usize) -> (Configuration, usize) {
        let mut least = self.clone();
        let mut runs = 0;
        let mut at = 0;
        while at < least.faults.len() && runs < runs_max {
            let mut fewer = least.clone();
            fewer.faults.remove(at);
            runs += 1;
            if fewer.run(canary, false).violation.is_some() {
                least = fewer;
            } else {
                at += 1;
            }
        }
        (least, runs)
    }
}

/// A host for somebody, and whether what it says and hears is reliable there: where clients must give way to each
/// other, nobody waits for them.
fn place(terms: &Terms, reliable: bool, rng: &mut Rng) -> usize {
    let crowd = terms.crowd();
    let crowded = crowd.clients > terms.clients_max as usize;
    rng.usize(0..if crowded && reliable { crowd.nodes } else { crowd.hosts() })
}

fn sources(terms: &Terms, topics: &[Topic], rng: &mut Rng) -> Vec<Source> {
    let count = rng.usize(2..=5);
    let each = 2_000_u64.div_ceil(count as u64) + rng.u64(0..200);
    // In some worlds all of them are on one host and send large messages one after the other, which share its links and
    // the credit there.
    let heavy = (rng.u32(0..4) == 0).then(|| place(terms, true, rng));
    let one = |_| {
        let slow = terms.shape.bytes_per_second < 1_000_000;
        let (size_max, large) = match (rng.u32(0..4), slow) {
            (_, slow) if heavy.is_some() => (if slow { 12_000 } else { 40_000 }, 10),
            (0, false) => (300_000, 1),
            (1, false) => (40_000, 1),
            (0 | 1, true) => (20_000, 1),
            _ => (1_000, 1),
        };
        let work = Work { messages: each, gap_ns: 45_000_000_000 / each, size_max, large };
        let topic = topics[rng.usize(0..topics.len())].clone();
        let host = heavy.unwrap_or_else(|| place(terms, is_reliable(&topic), rng));
        Source { host, topic, slots: [4, 32, 1_024][rng.usize(0..3)], work }
    };
    (0..count).map(one).collect()
}

/// Who reads what is published reliably on another host: from there to the publisher's.
fn far_readers(sources: &[Source], readers: &[Reader]) -> Vec<Pair> {
    let of = |source: &Source| {
        let far = |reader: &&Reader| reader.pattern.matches(&source.topic) && reader.host != source.host;
        let pair = |reader: &Reader| Pair { from: reader.host, to: source.host };
        readers.iter().filter(far).map(pair).collect::<Vec<Pair>>()
    };
    sources.iter().filter(|source| is_reliable(&source.topic)).flat_map(of).collect()
}

fn readers(terms: &Terms, rng: &mut Rng) -> Vec<Reader> {
    let count = rng.usize(2..=6);
    let one = |_| {
        let name = ["a.x", "a.>", "a.y", "lossy.x", "lossy.*", "lossy.y"][rng.usize(0..6)];
        let since = if rng.u32(0..3) == 0 { Time(rng.u64(0..40_000_000_000)) } else { Time(0) };
        Reader {
            host: place(terms, !name.starts_with("lossy."), rng),
            pattern: Pattern::parse(name).expect("it is a pattern"),
            reliable: !name.starts_with("lossy."),
            work_ns: [1_000, 500_000, 8_000_000][rng.usize(0..3)],
            since,
        }
    };
    (0..count).map(one).collect()
}
