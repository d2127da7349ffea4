//! The control plane with real sockets: members, holders, deaths and take-overs.
//!
//! Members of the test's own process are whole `Control`s with a recording stand-in for the ports; members that are
//! to be killed or stopped are other processes (`child`). Nothing waits for a time: everything waits for a condition,
//! with a deadline that only a broken build reaches.

use super::scratch::Scratch;
use super::{
    Attach, Control, ControlSettings, Ports, PublisherRecord, RingAdded, RingKey, Role, RowKey, Runs,
    SubscriberRecord, Wanted, Watched,
};
use crate::directory::Realm;
use crate::error::Error;
use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::domain::Domain;
use busway_shm::sync::{AtomicU64, Ordering};
use busway_wire::{Generation, Pattern, Policy, PortId, ProcessId, RingIndex, RowIndex, SeatIndex, Topic};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

mod child;
mod death;
mod hostile;
mod stories;

/// Far longer than anything here takes, also on a machine that does ten other things.
const PATIENCE: Duration = Duration::from_secs(20);

fn patience() -> Deadline {
    Deadline::after(PATIENCE)
}

/// What the control plane told the ports.
#[derive(Debug, Default)]
struct Told {
    /// Subscription and publisher -> its row, and whether it has its seat.
    rows: BTreeMap<(PortId, PortId), (RowKey, bool)>,
    older: BTreeMap<(PortId, PortId), bool>,
    /// Rows of others at our rings: (subscriber, ring).
    seats: Vec<(ProcessId, RingIndex)>,
    refused: Vec<String>,
    gone: Vec<ProcessId>,
    doubted: Vec<ProcessId>,
    ticks: u64,
    watched: Vec<Watched>,
    domains: u64,
    /// Who has a row or a seat here refers to its peer; the recorder does so if it is told to.
    refers: bool,
    peers: Vec<Arc<PeerArena>>,
}

/// Ports that record, and give every row a seat.
#[derive(Debug, Default)]
struct Recorder {
    told: Mutex<Told>,
    changed: Condvar,
}

impl Recorder {
    fn change<T>(&self, change: impl FnOnce(&mut Told) -> T) -> T {
        let result = change(&mut self.told.lock().unwrap());
        self.changed.notify_all();
        result
    }

    /// Waits for a condition; the sentence says what did not happen.
    fn until(&self, what: &str, condition: impl Fn(&Told) -> bool) {
        let deadline = patience();
        let mut told = self.told.lock().unwrap();
        while !condition(&told) {
            assert!(!deadline.expired(), "{what}: {told:?}");
            told = self.changed.wait_timeout(told, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// How many of a subscription's rows have a seat.
    fn seated(told: &Told, subscription: PortId) -> usize {
        told.rows.iter().filter(|((of, _), (_, seated))| *of == subscription && *seated).count()
    }
}

impl Ports for Recorder {
    fn ring_added(&self, added: &RingAdded<'_>) -> Option<RowKey> {
        self.change(|told| {
            let index = RowIndex(u32::try_from(told.rows.len()).unwrap());
            let row = RowKey { index, generation: Generation(added.ring.index.0) };
            let key = (added.subscription, added.port);
            told.older.insert(key, added.ring_is_older);
            let (row, seated) = told.rows.entry(key).or_insert((row, false));
            (!*seated).then_some(*row)
        })
    }

    fn attach(&self, attach: &Attach<'_>) -> Result<SeatIndex, String> {
        self.change(|told| {
            if told.refers {
                told.peers.push(Arc::clone(attach.subscriber));
            }
            told.seats.push((attach.subscriber.process(), attach.ring.index));
            Ok(SeatIndex(0))
        })
    }

    fn attached(&self, _: ProcessId, _: RingKey, row: RowKey, seat: Result<SeatIndex, String>) {
        self.change(|told| match seat {
            Ok(_) => {
                for (known, seated) in told.rows.values_mut() {
                    *seated |= *known == row;
                }
            }
            Err(reason) => told.refused.push(reason),
        });
    }

    fn gone(&self, process: ProcessId) {
        self.change(|told| told.gone.push(process));
    }

    fn doubted(&self, process: ProcessId) {
        self.change(|told| told.doubted.push(process));
    }

    fn domain_changed(&self, _: &Arc<Domain>) {
        self.change(|told| told.domains += 1);
    }

    fn tick(&self, _: u64) {
        self.change(|told| told.ticks += 1);
    }

    fn watched(&self, watched: Watched) {
        self.change(|told| told.watched.push(watched));
    }

    fn retry(&self, _: u64) -> Vec<Wanted> {
        Vec::new()
    }
}

/// One member: its control plane and what its ports were told.
struct Process {
    control: Control,
    ports: Arc<Recorder>,
    process: ProcessId,
}

static NEXT_PORT: AtomicU64 = AtomicU64::new(1);

/// Ids that differ between the processes of a test, as drawn ones would.
fn next_port() -> PortId {
    let number = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    PortId(u64::from(std::process::id()) << 32 | number)
}

fn settings(directory: &Path, name: &str) -> ControlSettings {
    ControlSettings {
        directory: directory.to_owned(),
        domain: "test".to_owned(),
        name: name.to_owned(),
        timeout: PATIENCE,
        realm: Realm::User,
        budget_bytes: Some(1 << 30),
        role: Role::WhereFree,
        monitored: true,
        runs: Runs::OnThread,
    }
}

fn start(settings: ControlSettings) -> Result<Process, Error> {
    let options =
        ArenaOptions { name: settings.name.clone(), bytes_max: 1 << 30, monitored: settings.monitored };
    let arena = OwnArena::create(&options).unwrap();
    let ports = Arc::new(Recorder::default());
    let process = arena.process();
    let control = Control::start(settings, arena, Arc::clone(&ports) as Arc<dyn Ports>)?;
    Ok(Process { control, ports, process })
}

fn join(directory: &Path, name: &str) -> Process {
    start(settings(directory, name)).unwrap_or_else(|error| panic!("{name} joins: {error}"))
}

impl Process {
    fn publish(&self, topic: &str) -> (PortId, Vec<ProcessId>) {
        self.try_publish(topic, patience()).unwrap_or_else(|error| panic!("publishing {topic}: {error}"))
    }

    fn try_publish(&self, topic: &str, deadline: Deadline) -> Result<(PortId, Vec<ProcessId>), Error> {
        let port = next_port();
        let index = RingIndex(u32::try_from(port.0 & 0xffff).unwrap());
        let ring = RingKey { index, generation: Generation(1) };
        let topic = Topic::new(topic).unwrap();
        let record =
            PublisherRecord { port, topic, ring, created_ns: monotonic_ns(), relay: false, only: None };
        self.control.publish(record, deadline).map(|matched| (port, matched))
    }

    fn subscribe(&self, pattern: &str) -> (PortId, u32) {
        let port = next_port();
        let pattern = Pattern::parse(pattern).unwrap();
        let record = SubscriberRecord {
            port,
            pattern,
            policy: Policy::Block,
            created_ns: monotonic_ns(),
            export: false,
        };
        let found = self.control.subscribe(record, patience());
        (port, found.unwrap_or_else(|error| panic!("subscribing: {error}")))
    }

    /// Waits until so many rows of a subscription have seats.
    fn until_seated(&self, subscription: PortId, count: usize) {
        self.ports.until("a row has no seat", |told| Recorder::seated(told, subscription) == count);
    }

    fn until_seated_at_least(&self, subscription: PortId, count: usize) {
        self.ports.until("a row has no seat", |told| Recorder::seated(told, subscription) >= count);
    }

    fn until_holder(&self) {
        self.ports.until("the member does not take over", |_| self.control.is_holder());
    }

    fn member_names(&self) -> Vec<String> {
        let members = self.control.members(patience()).unwrap();
        let mut names: Vec<String> = members.members.iter().map(|member| member.name()).collect();
        names.sort();
        names
    }
}

/// The names of the files in the runtime directory.
fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn run_directory(scratch: &Scratch) -> PathBuf {
    scratch.path().join("run")
}
