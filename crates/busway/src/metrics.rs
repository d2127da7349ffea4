//! What is counted: one table, and the values of each process of the domain.
//!
//! A process counts in its own arena, where everybody who may map it can read it: nobody is asked, stopped or waited for. What rings
//! and rows count costs nothing more than the account does; [`METRICS`] says of each name where it is counted. The same values come as a
//! structure ([`Bus::metrics`](crate::Bus::metrics)), as the text of Prometheus ([`prometheus()`]), from `busway stat`, and in Python.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = busway::Bus::open("example-of-metrics")?;
//! let mut subscriber = bus.subscriber("ticks").open()?;
//! let mut publisher = bus.publisher("ticks").open()?;
//! publisher.send(b"1")?;
//! subscriber.recv()?;
//! let metrics = bus.metrics()?;
//! assert_eq!((metrics.get("messages_sent"), metrics.get("messages_received")), (Some(1), Some(1)));
//! assert_eq!((metrics.get("delivered"), metrics.get("in_flight")), (Some(1), Some(0)));
//! assert_eq!(metrics.with("dropped", "lapped"), Some(0));
//! # Ok(())
//! # }
//! ```
//!
//! Counters are those of the process since it joined, through all its ports; a process that ends takes its own along.
//!
//! It does not serve them: that is for a node, or for a program's own exporter.
//!
//! Invariant: a value is counted by one writer, where it happens, and shown under one name.

use std::collections::BTreeMap;
use std::sync::Arc;

use busway_shm::arena::{PeerArena, Tables};
use busway_shm::counters::{self, Event, at_one_moment};
use busway_shm::layout::{CAUSES, CounterPage, EVENTS, RING_RELAYS, RINGS_MAX, ROWS_MAX, state, unkey};
use busway_shm::row::RowAccount;
use busway_shm::seat::RingShared;
use busway_shm::sync::{AtomicU64, Ordering};
use busway_wire::ProcessId;
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};

use crate::inspection::PortState;

mod prometheus;
mod table;

pub use prometheus::prometheus;
pub use table::{METRICS, Metric, MetricKind};

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricValue {
    /// The name of its metric.
    pub name: &'static str,
    /// What tells it apart from the others of that name: the label and its value.
    pub label: Option<(&'static str, &'static str)>,
    /// The number.
    pub value: u64,
}

/// The metrics of one process. As JSON `metrics` is an object by name, whose values are numbers, or objects by label.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessMetrics {
    /// Its id, in hexadecimal.
    pub process: String,
    /// Its name.
    pub name: String,
    /// Its process id in this namespace.
    pub pid: u32,
    /// In the order of [`METRICS`].
    pub values: Vec<MetricValue>,
}

impl ProcessMetrics {
    fn new(process: ProcessId, tables: &Tables, sums: &Sums) -> Self {
        let mut values = Vec::new();
        for metric in METRICS {
            (metric.read)(sums, &mut |of, value| {
                let label = metric.label.map(|label| (label, of));
                values.push(MetricValue { name: metric.name, label, value });
            });
        }
        let pid = tables.header().pid.load(Ordering::Relaxed);
        Self { process: process.to_string(), name: tables.name(), pid, values }
    }

    /// The value of this name, summed over its labels; `None` where there is no such metric.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        let mut values = self.values.iter().filter(|value| value.name == name).peekable();
        values.peek()?;
        Some(values.fold(0, |sum, value| sum.saturating_add(value.value)))
    }

    /// The value of this name whose label has this value.
    #[must_use]
    pub fn with(&self, name: &str, label: &str) -> Option<u64> {
        let is = |value: &&MetricValue| value.name == name && value.label.is_some_and(|(_, of)| of == label);
        self.values.iter().find(is).map(|value| value.value)
    }
}

impl Serialize for ProcessMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("ProcessMetrics", 4)?;
        object.serialize_field("process", &self.process)?;
        object.serialize_field("name", &self.name)?;
        object.serialize_field("pid", &self.pid)?;
        object.serialize_field("metrics", &ByName(&self.values))?;
        object.end()
    }
}

struct ByName<'a>(&'a [MetricValue]);

impl Serialize for ByName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for of_name in self.0.chunk_by(|one, next| one.name == next.name) {
            match of_name {
                [MetricValue { name, label: None, value }] => object.serialize_entry(name, value)?,
                [MetricValue { name, .. }, ..] => {
                    let labels = of_name.iter().filter_map(|value| Some((value.label?.1, value.value)));
                    object.serialize_entry(name, &labels.collect::<BTreeMap<_, _>>())?;
                }
                [] => {}
            }
        }
        object.end()
    }
}

/// What all lines of the table are read from.
#[derive(Clone, Debug)]
struct Sums {
    sent: u64,
    bytes: u64,
    relayed: u64,
    waits: u64,
    delivered: u64,
    dropped: [u64; CAUSES],
    in_flight: u64,
    open: u64,
    received: u64,
    missed: [u64; CAUSES],
    events: [u64; EVENTS],
    publishers: u64,
    rows: u64,
    held: u64,
    memory: u64,
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

impl Sums {
    fn event(&self, event: Event) -> u64 {
        self.events.get(event as usize).copied().unwrap_or(0)
    }

    /// What the process has counted for itself, and what is there no more.
    fn past(page: &CounterPage) -> Self {
        Self {
            sent: load(&page.past_sent),
            bytes: load(&page.past_bytes),
            relayed: load(&page.past_relayed),
            waits: load(&page.past_waits),
            delivered: load(&page.past_delivered),
            dropped: std::array::from_fn(|cause| load(&page.past_dropped[cause])),
            in_flight: 0,
            open: 0,
            received: load(&page.past_received),
            missed: std::array::from_fn(|cause| load(&page.past_missed[cause])),
            events: std::array::from_fn(|event| load(&page.events[event])),
            publishers: 0,
            rows: 0,
            held: 0,
            memory: 0,
        }
    }

    /// That, and what its rings and rows have counted; but for the account of what it sent.
    fn of(tables: &Tables) -> Self {
        let mut sums = Self::past(tables.counters());
        let header = tables.header();
        sums.memory = load(&header.committed_bytes);
        for index in 0..header.rings_used.load(Ordering::Acquire).min(RINGS_MAX) {
            let (Some(ring), Some(head)) = (tables.ring(index), tables.head(index)) else { continue };
            let (_, at) = unkey(ring.key.load(Ordering::Acquire)); // pairs with Release in `ring`
            if !matches!(at, state::ACTIVE | state::CLOSED) {
                continue;
            }
            sums.publishers += u64::from(at == state::ACTIVE);
            add(&mut sums.waits, load(&ring.waits));
            if ring.flags.load(Ordering::Relaxed) & RING_RELAYS != 0 {
                add(&mut sums.relayed, load(head));
            } else {
                add(&mut sums.sent, load(head));
                add(&mut sums.bytes, load(&ring.sent_bytes));
            }
        }
        for row in (0..header.rows_used.load(Ordering::Acquire).min(ROWS_MAX)).filter_map(|at| tables.row(at))
        {
            let (_, at) = unkey(row.key.load(Ordering::Acquire)); // pairs with Release in `row`
            // Those that stand for somebody at a ring of this process were never made by a subscription: they have no time.
            if at == state::FREE || load(&row.created_ns) == 0 {
                continue;
            }
            sums.rows += u64::from(at != state::CLOSED);
            add(&mut sums.received, load(&row.delivered));
            add(&mut sums.held, u64::from(row.held.load(Ordering::Relaxed)));
            for (cause, missed) in sums.missed.iter_mut().enumerate() {
                add(missed, row.lost(cause).map_or(0, load));
            }
        }
        sums
    }

    /// Adds what became of the messages of a ring, for one of its rows.
    fn add_row(&mut self, row: &RowAccount) {
        add(&mut self.delivered, row.delivered);
        add(&mut self.in_flight, row.in_flight);
        self.open += u64::from(!row.closed());
        self.add_dropped(&row.dropped);
    }

    fn add_dropped(&mut self, dropped: &[u64; CAUSES]) {
        self.dropped.iter_mut().zip(dropped).for_each(|(sum, count)| add(sum, *count));
    }
}

/// The metrics of this process, whose rings these are.
pub(crate) fn of_own(process: ProcessId, tables: &Tables, rings: &[Arc<RingShared>]) -> ProcessMetrics {
    let read = |_| {
        let mut sums = Sums::of(tables);
        for ring in rings.iter().filter(|ring| !relays(ring) && !ring.is_free()) {
            let ledgers = ring.ledgers();
            ledgers.present.iter().chain(&ledgers.early).for_each(|row| sums.add_row(row));
            add(&mut sums.delivered, ledgers.past_delivered);
            sums.add_dropped(&ledgers.past_dropped);
        }
        sums
    };
    let sums = at_one_moment(&[tables.counters()], read, counters::wait);
    ProcessMetrics::new(process, tables, &sums[0])
}

fn relays(ring: &RingShared) -> bool {
    ring.entry().flags.load(Ordering::Relaxed) & RING_RELAYS != 0
}

/// The metrics of all processes of the domain that live, those of one name side by side.
pub(crate) fn of_all(members: &[Arc<PeerArena>]) -> Vec<ProcessMetrics> {
    of_all_with(members, counters::wait)
}

/// That, with how it waits for those in which something is moved.
fn of_all_with(members: &[Arc<PeerArena>], wait: impl FnMut(u32)) -> Vec<ProcessMetrics> {
    let peers = members.iter().map(|peer| (peer.process(), peer)).collect();
    let now_ns = busway_shm::clock::monotonic_ns();
    let lives = |peer: &&Arc<PeerArena>| crate::inspect::process_state(peer, now_ns) != PortState::Dead;
    let living: Vec<&Arc<PeerArena>> = members.iter().filter(lives).collect();
    let pages: Vec<&CounterPage> = living.iter().map(|peer| peer.tables().counters()).collect();
    let read = |at: usize| {
        let peer = living[at];
        let mut sums = Sums::of(peer.tables());
        let (present, past) = crate::inspect::accounts_of(peer, &peers);
        present.iter().for_each(|row| sums.add_row(row));
        for ring in past {
            add(&mut sums.delivered, ring.delivered);
            sums.add_dropped(&ring.dropped);
        }
        sums
    };
    let sums = at_one_moment(&pages, read, wait);
    let of =
        |(peer, sums): (&&Arc<PeerArena>, &Sums)| ProcessMetrics::new(peer.process(), peer.tables(), sums);
    let mut all: Vec<ProcessMetrics> = living.iter().zip(&sums).map(of).collect();
    all.sort_by(|one, other| (&one.name, one.pid).cmp(&(&other.name, other.pid)));
    all
}

#[cfg(test)]
mod tests;
