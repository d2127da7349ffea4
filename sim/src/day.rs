//! Long quiet times: nodes with many clients, each of which sends about a message a second, without any fault.
//!
//! It shows what is kept after hours, not what goes wrong. Each client is given one node, its home.
//!
//! Invariant: it runs in constant memory, whatever the hours.

use busway_protocol::Time;
use busway_wire::{Pattern, Topic};

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
/// Who is behind at the end, by chance, is done after this.
const QUIET_MS: u64 = 1_800_000;

/// How long, and with how many.
#[derive(Clone, Copy, Debug)]
pub struct Day {
    /// All follows from it.
    pub seed: u64,
    /// Virtual hours.
    pub hours: u64,
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
    /// Virtual nanoseconds.
    pub virtual_ns: u64,
    /// The most of each budget, and its bound.
    pub peaks: Vec<(Budget, u64, u64)>,
}

impl Day {
    /// Lets it pass; `hour` is called after each.
    #[must_use]
    pub fn pass(self, mut hour: impl FnMut(u64)) -> Outcome {
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
        let work = Work { messages: self.hours * 3_600, gap_ns: 980_000_000, size_max: SIZE_MAX };
        for client in NODES..NODES + self.clients {
            let _ = world.publisher(client, &topic, SLOTS, work);
        }
        for number in 1..=self.hours {
            if !world.run_until(Time(number * 3_600_000_000_000)) {
                break;
            }
            hour(number);
        }
        let _ = world.run_until_quiet(QUIET_MS);
        Outcome {
            violation: world.checks.violation().map(str::to_owned),
            hash: world.trace.hash(),
            messages: world.checks.messages(),
            delivered: world.checks.delivered,
            virtual_ns: world.now().0,
            peaks: world.checks.peaks().collect(),
        }
    }
}
