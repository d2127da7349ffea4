//! Long times: nodes with many clients, each of which sends about a message a second, while now and then something goes
//! wrong.
//!
//! It shows what is kept after hours: each budget, at its highest. Faults come as in a cluster that is looked after: a
//! client every half minute, a node or the lines between nodes every few minutes; random worlds ([`crate::swarm`]) have
//! far more of them. Each client is given one node, its home.
//!
//! Invariant: it runs in constant memory, whatever the hours.

use busway_protocol::Time;
use busway_wire::{Pattern, Topic};
use fastrand::Rng;

use crate::crowd::Crowd;
use crate::fault::{Fault, Pair, Planned};
use crate::seen::Budget;
use crate::world::{Terms, Work, World};

/// Nodes of the cluster.
const NODES: usize = 5;
/// Silence before a peer is asked whether it is there.
const KEEP_ALIVE_MS: u64 = 10_000;
/// How often accounts and links are looked at.
const CHECK_MS: u64 = 60_000;
/// What a checker remembers of each source: far more than can be under way.
const SIZES: usize = 1_024;
const SLOTS: usize = 64;
const SIZE_MAX: usize = 200;
/// One client in so many sends messages that come in pieces, too.
const LARGE_EACH: usize = 100;
const LARGE_SIZE_MAX: usize = 200_000;
/// Between two faults of clients, and of nodes or between them.
const CLIENT_FAULT_MS: u64 = 30_000;
const NODE_FAULT_MS: u64 = 240_000;
/// Who is behind at the end, by chance, is done after this.
const QUIET_MS: u64 = 1_800_000;

/// How long, and with how many.
#[derive(Clone, Copy, Debug)]
pub struct Day {
    /// All follows from it.
    pub seed: u64,
    /// Virtual minutes.
    pub minutes: u64,
    /// Clients.
    pub clients: usize,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// What was wrong, if anything.
    pub violation: Option<String>,
    /// Of the trace.
    pub hash: u64,
    /// Messages published.
    pub messages: u64,
    /// Messages that users were told of.
    pub delivered: u64,
    /// What went wrong.
    pub faults: u64,
    /// Virtual nanoseconds.
    pub virtual_ns: u64,
    /// The most of each budget, and its bound.
    pub peaks: Vec<(Budget, u64, u64)>,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Virtual minutes that have passed.
    pub minutes: u64,
    /// Messages published.
    pub messages: u64,
}

impl Day {
    /// Lets it pass; `minute` is called after each.
    #[must_use]
    pub fn pass(self, mut minute: impl FnMut(Progress)) -> Outcome {
        let terms = Terms {
            clients: self.clients,
            clients_max: u32::try_from(self.clients).unwrap_or(u32::MAX),
            homes: true,
            keep_alive_ms: KEEP_ALIVE_MS,
            check_ms: CHECK_MS,
            kept_sizes: SIZES,
            relay_slots: SLOTS,
            ..Terms::new(self.seed, NODES)
        };
        let mut world = World::new(terms);
        let pattern = Pattern::parse("day.*").expect("it is a pattern");
        for node in 0..NODES {
            let _ = world.subscribe(node, &pattern, true, 1_000);
        }
        let topic = Topic::new("day.client").expect("it is a topic");
        // The gaps are a little shorter than this on average, so that there is more than one a second.
        for client in 0..self.clients {
            let size_max = if client % LARGE_EACH == 0 { LARGE_SIZE_MAX } else { SIZE_MAX };
            let work = Work { messages: self.minutes * 60, gap_ns: 980_000_000, size_max, large: 1 };
            let _ = world.publisher(NODES + client, &topic, SLOTS, work);
        }
        let faults = self.faults(world.crowd());
        let count = faults.len() as u64;
        for fault in faults {
            world.plan(fault);
        }
        for minutes in 1..=self.minutes {
            if !world.run_until(Time(minutes * 60_000_000_000)) {
                break;
            }
            minute(Progress { minutes, messages: world.checks.messages() });
        }
        let _ = world.run_until_quiet(QUIET_MS);
        Outcome {
            violation: world.checks.violation().map(str::to_owned),
            hash: world.trace.hash(),
            messages: world.checks.messages(),
            delivered: world.checks.delivered,
            faults: count,
            virtual_ns: world.now().0,
            peaks: world.checks.peaks().collect(),
        }
    }

    /// What goes wrong, and when.
    fn faults(self, crowd: Crowd) -> Vec<Planned> {
        let rng = &mut Rng::with_seed(self.seed);
        let end_ms = self.minutes * 60_000;
        let mut faults = Vec::new();
        let mut enter = |each_ms: u64, rng: &mut Rng, of: fn(Crowd, &mut Rng) -> (Fault, u64)| {
            let mut at_ms = rng.u64(0..each_ms);
            while at_ms < end_ms {
                let (fault, duration_ms) = of(crowd, rng);
                faults.push(Planned {
                    fault,
                    at: Time(0).after_ms(at_ms),
                    phase: None,
                    duration_ms,
                    amount: 0,
                });
                at_ms += rng.u64(each_ms / 2..each_ms * 3 / 2);
            }
        };
        enter(CLIENT_FAULT_MS, rng, of_a_client);
        enter(NODE_FAULT_MS, rng, of_a_node);
        faults
    }
}

/// A client goes, and comes back; or its line to its home fails.
fn of_a_client(crowd: Crowd, rng: &mut Rng) -> (Fault, u64) {
    let client = rng.usize(crowd.nodes..crowd.hosts());
    let home = Pair { from: client % crowd.nodes, to: client };
    match rng.u32(0..6) {
        0 => (Fault::Drain(client), rng.u64(0..600_000)),
        1 => (Fault::Crash(client), rng.u64(0..600_000)),
        2 => (Fault::Reset(home), 0),
        3 => (Fault::Swallow(home), 0),
        4 => (Fault::OneWay(home), rng.u64(0..60_000)),
        _ => (Fault::Stop(client), rng.u64(0..60_000)),
    }
}

/// A node goes and comes back, stands still, is cut off from some or from all, or its subscribers read nothing.
fn of_a_node(crowd: Crowd, rng: &mut Rng) -> (Fault, u64) {
    let node = rng.usize(0..crowd.nodes);
    match rng.u32(0..7) {
        0 => (Fault::Drain(node), rng.u64(0..30_000)),
        1 => (Fault::Crash(node), rng.u64(0..30_000)),
        2 => (Fault::Isolate(node), rng.u64(0..30_000)),
        3 => {
            let other = (node + rng.usize(1..crowd.nodes)) % crowd.nodes;
            (Fault::Partition(vec![node, other]), rng.u64(0..30_000))
        }
        4 => (Fault::Stop(node), rng.u64(0..30_000)),
        5 => (Fault::Slow(node), rng.u64(0..30_000)),
        // Long enough that a relay ring is full, and messages wait in the node.
        _ => (Fault::Idle(node), rng.u64(60_000..200_000)),
    }
}
