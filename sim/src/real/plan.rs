//! A random world of the second floor, from one number.
//!
//! Invariant: a plan says everything.

use std::time::Duration;

use busway_io::{Manners, Path};
use busway_protocol::Time;
use busway_wire::{Pattern, Topic};
use fastrand::Rng;

use crate::crowd::Crowd;
use crate::fault::{Fault, Pair, Planned};
use crate::phase::Phase;

/// A publisher.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its host.
    pub host: usize,
    /// Its topic.
    pub topic: Topic,
    /// Slots of its ring.
    pub slots: u32,
    /// How many messages it sends.
    pub messages: u64,
    /// Time between two, on average.
    pub gap_ns: u64,
    /// The largest payload.
    pub size_max: usize,
    /// Decides sizes and gaps.
    pub seed: u64,
}

/// A subscriber.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Its host.
    pub host: usize,
    /// What it wants.
    pub pattern: String,
    /// Whether publishers wait for it.
    pub reliable: bool,
    /// When it begins.
    pub since_ns: u64,
}

/// A random world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All of it follows from this.
    pub seed: u64,
    /// Hosts.
    pub hosts: usize,
    /// How kernels behave.
    pub manners: Manners,
    /// How lines are.
    pub path: Path,
    /// Messages that a peer may have under way to a node.
    pub credit_messages: u64,
    /// Their bytes.
    pub credit_bytes: u64,
    /// Who publishes.
    pub sources: Vec<Source>,
    /// Who subscribes.
    pub readers: Vec<Reader>,
    /// What goes wrong.
    pub faults: Vec<Planned>,
    /// Control planes do what they are asked so much later at most, as threads that are not scheduled at once.
    pub late_ns: u64,
}

/// Messages of a world.
const MESSAGES_LEAST: u64 = 2_020;
/// Messages of a source.
const SOURCE_LEAST: u64 = 500;
/// Faults begin before this.
const FAULTS_UNTIL_NS: u64 = 42_000_000_000;

impl Plan {
    /// The one of this seed.
    #[must_use]
    pub fn of(seed: u64) -> Plan {
        let rng = &mut Rng::with_seed(seed);
        let hosts = rng.usize(3..=7);
        let buffer = [2_000, 20_000, 64 << 10][rng.usize(0..3)];
        let manners = if rng.bool() { Manners::rough() } else { Manners::smooth() };
        let manners = Manners { send_bytes_max: buffer, receive_bytes_max: buffer, ..manners };
        let least_us = rng.u64(20..5_000);
        let path = Path {
            latency_least: Duration::from_micros(least_us),
            latency_most: Duration::from_micros(least_us + rng.u64(1..2_000)),
            bytes_per_second: [None, Some(300_000), Some(5_000_000)][rng.usize(0..3)],
            ..Path::default()
        };
        let count = rng.usize(2..=5);
        // All together send at least what a world needs; each at least so many that it lives through some faults.
        let least = (MESSAGES_LEAST / count as u64).max(SOURCE_LEAST);
        let sources: Vec<Source> = (0..count).map(|_| source(hosts, least, &manners, path, rng)).collect();
        let readers: Vec<Reader> = (0..rng.usize(2..=6)).map(|_| reader(hosts, rng)).collect();
        let crowd = Crowd { nodes: hosts, clients: 0 };
        let mut faults = Vec::new();
        for _ in 0..rng.usize(9..20) {
            let fault = fault(crowd, rng);
            faults.extend(fault.occasion(crowd, rng));
            faults.push(fault);
        }
        let unheard = &mut Rng::with_seed(!seed);
        faults.extend(Planned::unheard(&far_readers(&sources, &readers), Time(FAULTS_UNTIL_NS), unheard));
        let credit_messages = [4, 40, 16_384][rng.usize(0..3)];
        let credit_bytes = [20_000, 300_000, 32 << 20][rng.usize(0..3)];
        let late_ns = [0, 0, 300_000, 5_000_000][rng.usize(0..4)];
        Plan { seed, hosts, manners, path, credit_messages, credit_bytes, sources, readers, faults, late_ns }
    }
}

/// Who reads what is published on another host, and is waited for: from there to the publisher's.
fn far_readers(sources: &[Source], readers: &[Reader]) -> Vec<Pair> {
    let of = |source: &Source| {
        let wants =
            |reader: &&Reader| Pattern::parse(&reader.pattern).is_ok_and(|p| p.matches(&source.topic));
        let far = readers.iter().filter(wants).filter(|reader| reader.reliable && reader.host != source.host);
        far.map(|reader| Pair { from: reader.host, to: source.host }).collect::<Vec<Pair>>()
    };
    sources.iter().flat_map(of).collect()
}

fn source(hosts: usize, least: u64, manners: &Manners, path: Path, rng: &mut Rng) -> Source {
    let messages = least + rng.u64(0..200);
    let slow = path.bytes_per_second.is_some_and(|bytes| bytes < 1_000_000);
    let size_max = match (rng.u32(0..4), slow) {
        (0, false) => 200_000,
        (1, false) => 40_000,
        (0 | 1, true) => 10_000,
        _ => 1_000,
    };
    // A large message goes through small buffers in a hundred pieces; more cost time and show nothing.
    let size_max = size_max.min(20 * manners.send_bytes_max);
    Source {
        host: rng.usize(0..hosts),
        topic: Topic::new(["a.x", "a.y", "lossy.x", "lossy.y"][rng.usize(0..4)]).expect("it is a topic"),
        slots: [4, 32, 1_024][rng.usize(0..3)],
        messages,
        gap_ns: 45_000_000_000 / messages,
        size_max,
        seed: rng.u64(..),
    }
}

fn reader(hosts: usize, rng: &mut Rng) -> Reader {
    let pattern = ["a.x", "a.>", "a.y", "lossy.x", "lossy.*", "lossy.y"][rng.usize(0..6)];
    let since_ns = if rng.u32(0..3) == 0 { rng.u64(0..40_000_000_000) } else { 0 };
    let reliable = !pattern.starts_with("lossy.");
    Reader { host: rng.usize(0..hosts), pattern: pattern.to_owned(), reliable, since_ns }
}

/// One of those that the network in memory knows.
fn fault(crowd: Crowd, rng: &mut Rng) -> Planned {
    loop {
        let mut planned = Planned::any(crowd, (Time(0), Time(FAULTS_UNTIL_NS)), rng);
        planned.phase = match planned.phase {
            // Its links do not show that.
            Some(Phase::Dialing) => Some(Phase::Greeting),
            // Here a relay ring has room for all that a world sends.
            Some(Phase::Suspended) => Some(Phase::Draining),
            other => other,
        };
        match planned.fault {
            Fault::Swallow(_) | Fault::Strangers(_) => {}
            Fault::Partition(_)
            | Fault::OneWay(_)
            | Fault::Isolate(_)
            | Fault::Reset(_)
            | Fault::Truncate(_)
            | Fault::Corrupt(_)
            | Fault::Ignore(_)
            | Fault::HalfClose(_)
            | Fault::ClockJump(_)
            | Fault::Slow(_)
            | Fault::Stop(_)
            | Fault::Crash(_)
            | Fault::Drain(_)
            | Fault::Idle(_) => return planned,
        }
    }
}
