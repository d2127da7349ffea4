//! What goes wrong, and when.
//!
//! A fault begins at its time, or when the pair that it is meant for is next as far as it says; most end after a
//! while. This file only names them; the world carries them out.
//!
//! Invariant: a plan says everything: the same plan in the same world is the same run.

use busway_protocol::Time;
use fastrand::Rng;

use crate::crowd::Crowd;
use crate::phase::Phase;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing passes between these hosts and all others.
    Partition(Vec<usize>),
    /// Nothing passes from one host to another; back it does.
    OneWay(Pair),
    /// Nothing passes between one host and any other.
    Isolate(usize),
    /// Their connection is reset.
    Reset(Pair),
    /// Of what the first writes, a few bytes more come, and then the end.
    Truncate(Pair),
    /// A bit of what the first writes comes wrong.
    Corrupt(Pair),
    /// Their connection swallows everything, and nobody is told.
    Swallow(Pair),
    /// No new connection comes through between them.
    Ignore(Pair),
    /// The first ends its direction of the connection.
    HalfClose(Pair),
    /// The node reads a little at a time.
    Slow(usize),
    /// The node stands still, and goes on afterwards.
    Stop(usize),
    /// The node dies, and is started again.
    Crash(usize),
    /// The node ends its links in order, and is started again.
    Drain(usize),
    /// The host's clock leaps forward.
    ClockJump(usize),
    /// Subscribers of the host read nothing.
    Idle(usize),
    /// Strangers connect to the node, say nothing, or what nobody should, and stay.
    Strangers(usize),
}

/// Two hosts; where there is a direction, from the first to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The first.
    pub from: usize,
    /// The second.
    pub to: usize,
}

impl Fault {
    /// Names of all, for tables, in the order of `number`.
    pub const NAMES: [&'static str; 16] = [
        "partition",
        "one way",
        "isolate",
        "reset",
        "truncate",
        "corrupt",
        "swallow",
        "ignore",
        "half-close",
        "slow",
        "stop",
        "crash",
        "drain",
        "clock jump",
        "idle subscribers",
        "strangers",
    ];

    /// Which it is.
    #[must_use]
    pub fn number(&self) -> usize {
        match self {
            Fault::Partition(_) => 0,
            Fault::OneWay(_) => 1,
            Fault::Isolate(_) => 2,
            Fault::Reset(_) => 3,
            Fault::Truncate(_) => 4,
            Fault::Corrupt(_) => 5,
            Fault::Swallow(_) => 6,
            Fault::Ignore(_) => 7,
            Fault::HalfClose(_) => 8,
            Fault::Slow(_) => 9,
            Fault::Stop(_) => 10,
            Fault::Crash(_) => 11,
            Fault::Drain(_) => 12,
            Fault::ClockJump(_) => 13,
            Fault::Idle(_) => 14,
            Fault::Strangers(_) => 15,
        }
    }

    /// The pairs of hosts that it touches.
    #[must_use]
    pub fn pairs(&self, crowd: Crowd) -> Vec<Pair> {
        match self {
            Fault::Partition(left) => {
                let apart = |pair: &Pair| left.contains(&pair.from) != left.contains(&pair.to);
                crowd.pairs().filter(apart).collect()
            }
            Fault::OneWay(pair)
            | Fault::Reset(pair)
            | Fault::Truncate(pair)
            | Fault::Corrupt(pair)
            | Fault::Swallow(pair)
            | Fault::Ignore(pair)
            | Fault::HalfClose(pair) => vec![*pair],
            Fault::Isolate(host)
            | Fault::Slow(host)
            | Fault::Stop(host)
            | Fault::Crash(host)
            | Fault::Drain(host)
            | Fault::ClockJump(host)
            | Fault::Idle(host)
            | Fault::Strangers(host) => crowd.others(*host).map(|to| Pair { from: *host, to }).collect(),
        }
    }

    /// Any, among so many.
    pub fn any(crowd: Crowd, rng: &mut Rng) -> Fault {
        let hosts = crowd.hosts();
        let host = rng.usize(0..hosts);
        let others: Vec<usize> = crowd.others(host).collect();
        let pair = Pair { from: host, to: others[rng.usize(0..others.len())] };
        match rng.usize(0..Fault::NAMES.len()) {
            0 => {
                let size = rng.usize(1..hosts);
                let mut all: Vec<usize> = (0..hosts).collect();
                rng.shuffle(&mut all);
                all.truncate(size);
                all.sort_unstable();
                Fault::Partition(all)
            }
            1 => Fault::OneWay(pair),
            2 => Fault::Isolate(host),
            3 => Fault::Reset(pair),
            4 => Fault::Truncate(pair),
            5 => Fault::Corrupt(pair),
            6 => Fault::Swallow(pair),
            7 => Fault::Ignore(pair),
            8 => Fault::HalfClose(pair),
            9 => Fault::Slow(host),
            10 => Fault::Stop(host),
            11 => Fault::Crash(host),
            12 => Fault::Drain(host),
            13 => Fault::ClockJump(host),
            14 => Fault::Idle(host),
            _ => Fault::Strangers(host % crowd.nodes),
        }
    }
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// When, at the earliest.
    pub at: Time,
    /// Only when its first pair is that far, but not later than [`Planned::PATIENCE_MS`] after `at`.
    pub phase: Option<Phase>,
    /// For how long, where it ends by itself.
    pub duration_ms: u64,
    /// How much, where there is an amount.
    pub amount: u64,
}

impl Planned {
    /// How long a fault waits for its phase.
    pub const PATIENCE_MS: u64 = 4_000;

    /// Any, between two times.
    pub fn any(crowd: Crowd, (from, to): (Time, Time), rng: &mut Rng) -> Planned {
        let fault = Fault::any(crowd, rng);
        let at = Time(rng.u64(from.0..to.0));
        let phase = (rng.u32(0..3) > 0).then(|| Phase::ALL[rng.usize(0..Phase::ALL.len())]);
        let duration_ms = [rng.u64(1..50), rng.u64(50..1_000), rng.u64(1_000..7_000)][rng.usize(0..3)];
        let amount = [rng.u64(0..100), rng.u64(0..70_000)][rng.usize(0..2)];
        Planned { fault, at, phase, duration_ms, amount }
    }

    /// What brings a pair that it touches into its phase, where that is rare by itself.
    pub fn occasion(&self, crowd: Crowd, rng: &mut Rng) -> Option<Planned> {
        let pair = *self.fault.pairs(crowd).first()?;
        let (fault, duration_ms) = match self.phase? {
            Phase::Apart => (Fault::Crash(pair.to), rng.u64(100..900)),
            Phase::Dialing | Phase::Greeting => (Fault::Reset(pair), 0),
            Phase::Suspended => (Fault::Idle(pair.to), rng.u64(300..3_000)),
            Phase::Draining => (Fault::Drain(pair.to), rng.u64(1..500)),
            Phase::Idle | Phase::Flowing | Phase::Partial => return None,
        };
        let at = self.at.after_ms(rng.u64(0..500));
        Some(Planned { fault, at, phase: None, duration_ms, amount: 0 })
    }

    /// In one world of four: a node hears nothing for a while of one that reads what is published beside it, and dies
    /// meanwhile. The next one reads again what that one has, and must let the publisher go on though nobody acknowledges it.
    pub fn unheard(pairs: &[Pair], until: Time, rng: &mut Rng) -> Vec<Planned> {
        if pairs.is_empty() || rng.u32(0..4) > 0 {
            return Vec::new();
        }
        let mut faults = Vec::new();
        for _ in 0..4 {
            let (pair, at) = (pairs[rng.usize(0..pairs.len())], Time(rng.u64(0..until.0)));
            let planned = |fault, at, duration_ms| Planned { fault, at, phase: None, duration_ms, amount: 0 };
            faults.push(planned(Fault::OneWay(pair), at, 1_500));
            faults.push(planned(Fault::Crash(pair.to), at.after_ms(rng.u64(300..1_400)), rng.u64(50..500)));
        }
        faults
    }
}
