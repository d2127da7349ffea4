//! The control plane of one process: how its ports find those of others, without a daemon.
//!
//! One thread, `bw-control`, is a member of the domain's rendezvous or holds it. It carries registrations to the
//! holder, hands descriptors and seats to [`Ports`], beats, looks whether others live, and takes over when the
//! holder dies. It knows nothing of rings, slots or messages, and no message waits for it: pairs that have met need
//! it for nothing.
//!
//! Invariants:
//! - Callbacks of [`Ports`] run on the control thread and under no lock of this module.
//! - Every wait of a caller ends by its deadline, also while the holder is stopped; the error names the holder.
//! - `close` leaves nothing behind: no registration, after the last member no socket, and no thread; but where samples
//!   are still held, the thread stays as the witness of their end.

use crate::directory::{Directory, DomainName, Realm};
use crate::error::{Code, Error, memory};
use busway_shm::arena::{OwnArena, PeerArena};
use busway_shm::claims::file::ClaimsFile;
use busway_shm::clock::Deadline;
use busway_shm::domain::Domain;
use busway_shm::fork;
pub(crate) use busway_shm::seat::group::Joined as GroupPlace;
use busway_wire::limits::RINGS_MAX;
use busway_wire::{
    Control as Message, Generation, Group, Pattern, Policy, PortId, ProcessId, RingIndex, RowIndex,
};
use busway_wire::{SeatIndex, Topic};
use lock::LockFile;
use runner::Runner;
pub(crate) use runner::Runs;
use rustix::fd::BorrowedFd;
use shared::{Answer, Answers, Phase, Question, Registration, Shared};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod asks;
mod base;
mod channel;
mod deliver;
mod holder;
mod lock;
mod member;
mod peers;
mod rendezvous;
mod runner;
#[cfg(test)]
pub(crate) mod scratch;
mod shared;
mod silence;
mod thread;

/// What a process of another version is told of ours.
const VERSION: &str = concat!("busway ", env!("CARGO_PKG_VERSION"));

/// A ring in its owner's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RingKey {
    pub(crate) index: RingIndex,
    pub(crate) generation: Generation,
}

/// A row in its owner's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowKey {
    pub(crate) index: RowIndex,
    pub(crate) generation: Generation,
}

/// What the control plane drives. Every method may be called again with the same arguments after a take-over.
pub(crate) trait Ports: Send + Sync {
    /// A publisher matches `subscription`: make a row and give its key, again while it has no seat.
    /// `None`: it has a seat already, or the subscription is not known (any more).
    fn ring_added(&self, added: &RingAdded<'_>) -> Option<RowKey>;
    /// A subscriber's row asks for a seat at our ring; the reason of a refusal is shown to its user.
    fn attach(&self, attach: &Attach<'_>) -> Result<SeatIndex, String>;
    /// A puller's row asks for a place in its group at our ring; the reason of a refusal is shown to its user.
    fn join(&self, join: &Join<'_>) -> Result<(GroupPlace, Arc<ClaimsFile>), String> {
        let _ = join;
        Err("groups are not known here".to_owned())
    }
    /// The answer of `publisher` for a puller's row of ours, and its claims file.
    fn joined(
        &self,
        publisher: ProcessId,
        ring: RingKey,
        row: RowKey,
        place: GroupPlace,
        claims: BorrowedFd<'_>,
    ) {
        let _ = (publisher, ring, row, place, claims);
    }
    /// The answer of `publisher` for a row of ours.
    fn attached(&self, publisher: ProcessId, ring: RingKey, row: RowKey, seat: Result<SeatIndex, String>);
    /// `process` has died or left, by its life word, or nothing of ours refers to it any more. Called once a process.
    fn gone(&self, process: ProcessId);
    /// The holder says that `process` is gone, its life word does not: it is waited for no more, and keeps what it holds.
    fn doubted(&self, process: ProcessId);
    /// The domain segment is another one from now on: bells and ledger must be taken from it. It happens only to
    /// members that lost a holder and found the next one started without them; see `thread`.
    fn domain_changed(&self, domain: &Arc<Domain>);
    /// Every 250 ms, and soon after a poke.
    fn tick(&self, now_ns: u64);
    /// Rows that ask for their seats again, because there was no memory for one or the other before. With each tick.
    fn retry(&self, now_ns: u64) -> Vec<Wanted>;
    /// Something is subscribed to on this host, or no longer; said after [`Control::watch`] only.
    fn watched(&self, watched: Watched);
}

/// A row of ours that asks for a seat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) publisher: ProcessId,
    pub(crate) ring: RingKey,
    pub(crate) subscription: PortId,
    pub(crate) row: RowKey,
    pub(crate) policy: Policy,
}

/// A publisher that a subscription of ours matches.
#[derive(Debug)]
pub(crate) struct RingAdded<'a> {
    pub(crate) subscription: PortId,
    pub(crate) peer: &'a Arc<PeerArena>,
    pub(crate) ring: RingKey,
    pub(crate) port: PortId,
    pub(crate) topic: &'a Topic,
    /// The ring was there before the subscription: then the subscription begins with the present.
    pub(crate) ring_is_older: bool,
}

/// A row that asks for a seat at a ring of ours.
#[derive(Debug)]
pub(crate) struct Attach<'a> {
    pub(crate) subscriber: &'a Arc<PeerArena>,
    pub(crate) ring: RingKey,
    pub(crate) subscription: PortId,
    pub(crate) row: RowKey,
    pub(crate) policy: Policy,
}

/// A puller's row that asks for a place in its group, at a ring of ours.
#[derive(Debug)]
pub(crate) struct Join<'a> {
    pub(crate) subscriber: &'a Arc<PeerArena>,
    pub(crate) ring: RingKey,
    pub(crate) row: RowKey,
    pub(crate) group: &'a Group,
}

/// Whether a process takes the rendezvous also where somebody else holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Hold it if nobody does.
    WhereFree,
    /// Ask whoever holds it to hand it over: `busway up`.
    Take,
}

/// How to join.
#[derive(Clone, Debug)]
pub(crate) struct ControlSettings {
    pub(crate) directory: PathBuf,
    pub(crate) domain: String,
    /// The name of this process, for people.
    pub(crate) name: String,
    /// How long joining may take.
    pub(crate) timeout: Duration,
    pub(crate) realm: Realm,
    /// The domain's byte budget, if this process is the one that makes the domain; `None`: a part of the machine's.
    pub(crate) budget_bytes: Option<u64>,
    pub(crate) role: Role,
    pub(crate) monitored: bool,
    pub(crate) runs: Runs,
}

/// A publisher as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublisherRecord {
    pub(crate) port: PortId,
    pub(crate) topic: Topic,
    pub(crate) ring: RingKey,
    pub(crate) created_ns: u64,
    /// Its messages come from another host.
    pub(crate) relay: bool,
    /// Of one for groups: its messages come from another host and are for this one alone.
    pub(crate) only: Option<Topic>,
}

/// A subscriber as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriberRecord {
    pub(crate) port: PortId,
    pub(crate) pattern: Pattern,
    pub(crate) policy: Policy,
    pub(crate) created_ns: u64,
    /// It asks on behalf of another host.
    pub(crate) export: bool,
}

/// What a watcher hears of the subscriptions of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Somebody subscribes. May be said again.
    Wanted { process: ProcessId, port: PortId, pattern: Pattern, policy: Policy },
    /// Somebody pulls. May be said again.
    Pulled { process: ProcessId, port: PortId, pattern: Pattern, group: Group },
    /// A subscription is gone.
    Unwanted { process: ProcessId, port: PortId },
    /// A listing begins: another holder may have been told less than the last.
    Begin,
    /// What was not named since `Begin` is gone.
    End,
}

/// A subscription for which the holder knew no publisher.
#[derive(Clone, Debug)]
pub(crate) struct Unmatched {
    pub(crate) process: ProcessId,
    pub(crate) port: PortId,
    pub(crate) pattern: Pattern,
    pub(crate) policy: Policy,
}

/// Every process of the domain, and what waits for publishers.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemberList {
    pub(crate) members: Vec<Arc<PeerArena>>,
    pub(crate) unmatched: Vec<Unmatched>,
}

/// The handle that the rest of the crate has on the control thread.
#[derive(Debug)]
pub(crate) struct Control {
    shared: Arc<Shared>,
    lock: LockFile,
    socket_path: PathBuf,
    runner: Runner,
    /// Of the process that has the thread; a child made by fork has not.
    generation: u64,
}

impl Control {
    /// Joins the domain: returns when welcomed by its holder, or when holding it.
    pub(crate) fn start(
        settings: ControlSettings,
        arena: Arc<OwnArena>,
        ports: Arc<dyn Ports>,
    ) -> Result<Control, Error> {
        let deadline = Deadline::after(settings.timeout);
        let domain = DomainName::new(&settings.domain)?;
        busway_wire::check_process_name(&settings.name).map_err(|refusal| {
            Error::new(Code::BadSetting, format!("the name of a process is refused: {refusal}"))
                .at("the setting `name`")
                .remedy("use 1 to 64 bytes without control characters")
        })?;
        let directory = Directory::open(&settings.directory, settings.realm)?;
        let lock = LockFile::open(&directory, &domain)?;
        let socket_path = directory.path_of(&domain.socket());
        let shared = Arc::new(Shared::new()?);
        let generation = fork::generation().map_err(|error| memory(&error, "fork"))?;
        let runs = settings.runs;
        let worker = thread::Worker::new(thread::Parts {
            settings,
            directory,
            domain,
            arena,
            ports,
            shared: Arc::clone(&shared),
        })?;
        let runner = Runner::start(runs, worker)?;
        let control = Control { shared, lock, socket_path, runner, generation };
        match control.wait(deadline, |state| match &state.phase {
            Phase::Joining => None,
            Phase::Joined => Some(Ok(())),
            Phase::Failed(error) => Some(Err(error.clone())),
            Phase::Closing | Phase::Closed => Some(Err(closed())),
        }) {
            Some(Ok(())) => Ok(control),
            Some(Err(error)) => Err(error),
            None => Err(control.silent("joining the domain")),
        }
        // On an error `control` is dropped here, and with it the thread.
    }

    /// The domain segment: the bell and the ledger. A caller that may be a child of fork asks `check_fork` first.
    pub(crate) fn domain(&self) -> Arc<Domain> {
        let state = self.shared.lock();
        Arc::clone(state.domain.as_ref().expect("`start` returns after the domain is known"))
    }

    /// Registers a publisher; returns the processes that have a matching subscription, one entry a subscription.
    pub(crate) fn publish(
        &self,
        record: PublisherRecord,
        deadline: Deadline,
    ) -> Result<Vec<ProcessId>, Error> {
        let port = record.port;
        match self.register(Registration::Publisher(record), deadline)? {
            Answer::Published(matched) => Ok(matched),
            Answer::Subscribed(_) => Err(mismatch(port)),
        }
    }

    /// As [`Control::publish`], of a ring for groups.
    pub(crate) fn push(&self, record: PublisherRecord, deadline: Deadline) -> Result<Vec<ProcessId>, Error> {
        let port = record.port;
        match self.register(Registration::Pusher(record), deadline)? {
            Answer::Published(matched) => Ok(matched),
            Answer::Subscribed(_) => Err(mismatch(port)),
        }
    }

    /// As [`Control::subscribe`], for a group.
    pub(crate) fn pull(
        &self,
        record: SubscriberRecord,
        group: Group,
        deadline: Deadline,
    ) -> Result<u32, Error> {
        let port = record.port;
        match self.register(Registration::Puller(record, group), deadline)? {
            Answer::Subscribed(pushers) => Ok(pushers),
            Answer::Published(_) => Err(mismatch(port)),
        }
    }

    /// As [`Control::publish`], without waiting: [`Control::matched`] gives the answer when it has come.
    pub(crate) fn publish_later(&self, record: PublisherRecord) -> Result<(), Error> {
        self.check_fork()?;
        self.shared.register(Registration::Publisher(record), Answers::Wanted)
    }

    /// How many subscriptions match a publisher that was registered by [`Control::publish_later`]. Given once.
    pub(crate) fn matched(&self, port: PortId) -> Option<usize> {
        let mut state = self.shared.lock();
        let Some(Some(Answer::Published(matched))) = state.answers.get(&port) else { return None };
        let count = matched.len();
        state.answers.remove(&port);
        Some(count)
    }

    /// Registers a subscriber without waiting for the publishers that are there: they come when they come.
    pub(crate) fn subscribe_later(&self, record: SubscriberRecord) -> Result<(), Error> {
        self.check_fork()?;
        self.shared.register(Registration::Subscriber(record), Answers::Unwanted)
    }

    /// Takes a publisher back; does not wait.
    pub(crate) fn unpublish(&self, port: PortId) {
        if self.check_fork().is_err() {
            return;
        }
        self.shared.withdraw(port, Message::Unpublish { port });
    }

    /// Registers a subscriber; returns the number of publishers that were known.
    pub(crate) fn subscribe(&self, record: SubscriberRecord, deadline: Deadline) -> Result<u32, Error> {
        let port = record.port;
        match self.register(Registration::Subscriber(record), deadline)? {
            Answer::Subscribed(publishers) => Ok(publishers),
            Answer::Published(_) => Err(mismatch(port)),
        }
    }

    /// Takes a subscriber back; does not wait.
    pub(crate) fn unsubscribe(&self, port: PortId) {
        if self.check_fork().is_err() {
            return;
        }
        self.shared.withdraw(port, Message::Unsubscribe { port });
    }

    /// From now on [`Ports::watched`] is told what is subscribed to on this host.
    pub(crate) fn watch(&self) -> Result<(), Error> {
        self.check_fork()?;
        self.shared.watch();
        Ok(())
    }

    /// Every process of the domain, this one included.
    pub(crate) fn members(&self, deadline: Deadline) -> Result<MemberList, Error> {
        self.check_fork()?;
        let ticket = self.shared.ask()?;
        let found = self.wait(deadline, |state| match &state.question {
            Question::Answered { ticket: answered, list } if *answered >= ticket => Some(Ok(list.clone())),
            _ if state.phase.is_over() => Some(Err(closed())),
            _ => None,
        });
        found.unwrap_or_else(|| Err(self.silent("listing the members")))
    }

    /// Makes the thread call [`Ports::tick`] soon.
    pub(crate) fn poke(&self) {
        if self.check_fork().is_ok() {
            self.shared.poke();
        }
    }

    /// Whether this process holds the rendezvous now.
    pub(crate) fn is_holder(&self) -> bool {
        self.check_fork().is_ok() && self.shared.lock().holding
    }

    /// The socket of the domain, as a person would type it.
    pub(crate) fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// Leaves cleanly and ends the thread; waits for no other process. May be called twice.
    pub(crate) fn close(&self) {
        // In a child of fork there is no thread, and the mutex may be locked by one that does not exist there.
        if self.check_fork().is_err() {
            return;
        }
        self.shared.close();
        self.runner.end(&self.shared);
    }

    /// Lets the loop do what there is to do, if there is no thread that does.
    pub(crate) fn step(&self) {
        self.runner.step(&self.shared);
    }

    /// When the loop wants to be stepped; `None` where a thread runs it.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.runner.due_ns(&self.shared)
    }

    fn wait<T>(&self, deadline: Deadline, look: impl Fn(&shared::State) -> Option<T>) -> Option<T> {
        self.runner.wait(&self.shared, deadline, look)
    }

    /// `BUS-0601` in a child made by fork.
    pub(crate) fn check_fork(&self) -> Result<(), Error> {
        fork::check(self.generation).map_err(|error| memory(&error, "a handle of the parent process"))
    }

    fn register(&self, registration: Registration, deadline: Deadline) -> Result<Answer, Error> {
        self.check_fork()?;
        let port = registration.port();
        self.shared.register(registration, Answers::Wanted)?;
        let answer = self.wait(deadline, |state| match state.answers.get(&port) {
            Some(Some(answer)) => Some(Ok(answer.clone())),
            _ if state.phase.is_over() => Some(Err(closed())),
            _ => None,
        });
        self.shared.lock().answers.remove(&port);
        let answer = answer.unwrap_or_else(|| Err(self.silent("registering a port")));
        if answer.is_err() {
            self.shared.forget(port);
        }
        answer
    }

    /// Nobody answered in time: says what stands in the way if that is known, else who did not answer.
    fn silent(&self, doing: &str) -> Error {
        if let Some(trouble) = self.shared.lock().trouble.clone() {
            return trouble;
        }
        let place = self.socket_path.display().to_string();
        match self.lock.note() {
            Some(note) => {
                let (holder, (why, remedy)) = (note.shown(), silence::of(note.pid));
                let cause = format!("{doing}: {holder} holds the rendezvous and {why}");
                Error::new(Code::HolderSilent, cause).at(place).remedy(remedy)
            }
            None => Error::new(Code::HolderSilent, format!("{doing}: nobody answers"))
                .at(place)
                .remedy("try again with a longer timeout"),
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.check_fork().is_err() {
            self.runner.forget();
            return;
        }
        self.close();
    }
}

fn closed() -> Error {
    Error::new(Code::Closed, "the bus is closed").at("the control thread").remedy("open the bus again")
}

fn too_many() -> Error {
    Error::new(
        Code::TooManyPorts,
        format!("a process has at most {RINGS_MAX} publishers and as many subscribers"),
    )
    .at("this process")
    .remedy("close some, or use a pattern instead of many names")
}

fn mismatch(port: PortId) -> Error {
    Error::new(Code::ProtocolBroken, "the holder of the rendezvous gave the answer to another question")
        .at(format!("port {port}"))
        .remedy("use the same version of busway everywhere")
}

#[cfg(test)]
mod tests;
