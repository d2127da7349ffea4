//! A network in memory, and a driver for each of its hosts.
//!
//! Everything that a real network does to a program happens here too, from a seed: parts of reads and writes, late
//! answers, slow paths, resets at any byte, flipped bits, connects that nobody answers, one-way partitions, hosts
//! that stop, die or lose power. Time is virtual: it moves when somebody polls with a timeout, or by
//! [`Network::advance`]. So one thread can step a cluster, and the same seed gives the same run.
//!
//! It has no descriptors, no threads, and no clock of its own.
//!
//! Invariant: a driver never keeps the network locked while its caller's code runs, but for `Space` and `Pieces`.

mod dice;
mod host;
mod kernel;
mod network;
mod stream;
mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::driver::{
    Admission, Backlog, ConnectionId, Counters, Driver, Event, Fault, Listen, ListenError, ListenerId,
    Listening, PIECES_COUNT_MAX, Pieces, Read, Space, Submitted,
};
pub use crate::fake::host::HostId;
use crate::fake::network::State;
pub use crate::fake::network::{Crash, Manners, Path};

// As the driver for TCP: what one burst accepts and refuses, and how long a pause is.
const ACCEPTED_COUNT_MAX: usize = 64;
const PAUSE_NS: u64 = 50_000_000;

/// The network: its clock, its paths and its faults. Copies are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

impl Network {
    /// A network without hosts, at time 0.
    #[must_use]
    pub fn new(seed: u64, manners: Manners) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(seed, manners))) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process of a host. Drivers that it had before are dead: they answer [`Fault::Closed`].
    #[must_use]
    pub fn start<R: Space, W: Pieces>(&self, host: HostId) -> FakeDriver<R, W> {
        let incarnation = self.state().start(host);
        FakeDriver { network: self.clone(), host, incarnation, own: Mutex::new(Own::new()) }
    }

    /// Nanoseconds since the network was made.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.state().now_ns
    }

    /// When something will happen next.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.state().next_ns()
    }

    /// Names the hosts whose process would be told something now if it polled. What its own calls have left for it is not
    /// known here.
    pub fn stirred(&self, mut name: impl FnMut(HostId)) {
        let state = self.state();
        state.hosts.iter().filter(|(_, host)| host.is_stirred()).for_each(|(id, _)| name(*id));
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        let until_ns = state.now_ns.saturating_add(nanoseconds(by));
        state.advance_to(until_ns);
    }

    /// How kernels behave from now on.
    pub fn set_manners(&self, manners: Manners) {
        self.state().manners = manners;
    }

    /// What paths are like that were not set themselves.
    pub fn set_usual_path(&self, path: Path) {
        self.state().set_usual(path);
    }

    /// What the path from one host to another is like from now on.
    pub fn set_path(&self, from: HostId, to: HostId, path: Path) {
        self.state().set_path(from, to, path);
    }

    /// What it is like now.
    #[must_use]
    pub fn path(&self, from: HostId, to: HostId) -> Path {
        self.state().path(from, to)
    }

    /// Cuts or heals the path from one host to another. The way back is another path.
    pub fn cut(&self, from: HostId, to: HostId, cut: bool) {
        let path = self.path(from, to);
        self.set_path(from, to, Path { cut, ..path });
    }

    /// Resets every connection between two hosts, at both ends. What was on its way is lost.
    pub fn reset(&self, one: HostId, other: HostId) {
        let mut state = self.state();
        for (stream, side) in state.between(one, other) {
            state.fail(stream, side, Fault::Reset);
            state.fail(stream, side.other(), Fault::Reset);
        }
    }

    /// Ends what `from` has on its way to `to` at some byte, as if that were all. `from` sees a reset.
    pub fn truncate(&self, from: HostId, to: HostId) {
        let mut state = self.state();
        for (stream, side) in state.between(from, to) {
            state.truncate(stream, side);
        }
    }

    /// Ends the direction from `from` to `to` of every connection between them, as if its process had. The other stays.
    pub fn half_close(&self, from: HostId, to: HostId) {
        let mut state = self.state();
        for (stream, side) in state.between(from, to) {
            // One that has failed has ended in both directions.
            let _ = state.half_close(stream, side);
        }
    }

    /// Nobody answers who connects to `host`, or again somebody does.
    pub fn swallow_connects(&self, host: HostId, swallow: bool) {
        self.state().host(host).swallows_connects = swallow;
    }

    /// The process of `host` is stopped, or goes on. Its kernel goes on taking in what fits.
    pub fn stop(&self, host: HostId, stopped: bool) {
        self.state().host(host).stopped = stopped;
    }

    /// The process of `host` may have so many connections; None is no limit.
    pub fn limit_descriptors(&self, host: HostId, most: Option<usize>) {
        self.state().host(host).descriptors_max = most;
    }

    /// Ends the process of `host`. [`Network::start`] starts it again.
    pub fn crash(&self, host: HostId, how: Crash) {
        self.state().crash(host, how);
    }
}

/// The driver of one host of a [`Network`].
#[derive(Debug)]
pub struct FakeDriver<R, W> {
    network: Network,
    host: HostId,
    incarnation: u64,
    own: Mutex<Own<R, W>>,
}

/// What the driver keeps for its process.
#[derive(Debug)]
struct Own<R, W> {
    reads: BTreeMap<ConnectionId, R>,
    writes: BTreeMap<ConnectionId, W>,
    /// And how many bytes each waits for.
    watched: BTreeMap<ConnectionId, usize>,
    events: VecDeque<Event<R, W>>,
    woken: bool,
}

impl<R, W> Own<R, W> {
    fn new() -> Self {
        Self {
            reads: BTreeMap::new(),
            writes: BTreeMap::new(),
            watched: BTreeMap::new(),
            events: VecDeque::new(),
            woken: false,
        }
    }
}

impl<R: Space, W: Pieces> FakeDriver<R, W> {
    /// Which host this is.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.host
    }

    fn own(&self) -> MutexGuard<'_, Own<R, W>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network, as long as our process lives.
    fn alive(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.network.state();
        let alive = state.hosts.get(&self.host).is_some_and(|host| host.incarnation == self.incarnation);
        alive.then_some(state)
    }

    /// What can be told now. Never waits.
    fn collect(&self, events: &mut Vec<Event<R, W>>) {
        let mut own = self.own();
        let mut alive = self.alive();
        if alive.as_mut().is_some_and(|state| state.host(self.host).stopped) {
            return;
        }
        events.extend(own.events.drain(..));
        let Some(mut state) = alive else { return };
        let answers = state.host(self.host).answers.drain(..);
        events.extend(answers.map(|a| Event::Dialed { connection: a.connection, result: a.result }));
        accept(&mut state, self.host, events);
        for connection in std::mem::take(&mut state.host(self.host).touched) {
            self.go_on(&mut own, &mut state, connection, events);
        }
    }

    fn go_on(
        &self,
        own: &mut Own<R, W>,
        state: &mut State,
        connection: ConnectionId,
        events: &mut Vec<Event<R, W>>,
    ) {
        if let Some(mut space) = own.reads.remove(&connection) {
            match state.read(self.host, connection, &mut space) {
                Some(result) => events.push(Event::Read { connection, space, result }),
                None => {
                    own.reads.insert(connection, space);
                }
            }
        } else if let Some(least) = own.watched.get(&connection)
            && state.has_bytes(self.host, connection, *least)
        {
            own.watched.remove(&connection);
            events.push(Event::Readable { connection });
        }
        if let Some(pieces) = own.writes.remove(&connection) {
            match state.write(self.host, connection, &chosen(&pieces)) {
                Some(result) => events.push(Event::Written { connection, pieces, result }),
                None => {
                    own.writes.insert(connection, pieces);
                }
            }
        }
    }

    /// Chance says that what could be done at once is done a little later.
    fn is_late(&self, state: &mut State, connection: ConnectionId) -> bool {
        let late = state.dice.chance(state.manners.late_ppm);
        if late {
            state.touch_later(self.host, connection);
        }
        late
    }
}

/// Takes in those who wait, or refuses them where no descriptor is left.
fn accept<R, W>(state: &mut State, id: HostId, events: &mut Vec<Event<R, W>>) {
    let doors: Vec<ListenerId> = state.host(id).doors.keys().copied().collect();
    for listener in doors {
        for _ in 0..ACCEPTED_COUNT_MAX {
            let host = state.host(id);
            if host
                .doors
                .get(&listener)
                .is_none_or(|door| door.paused || door.held || door.waiting.is_empty())
            {
                break;
            }
            if !host.has_descriptor() {
                refuse(state, id, listener);
                break;
            }
            let Some((connection, peer)) = state.accept(id, listener) else { break };
            state.host(id).counters.accepted += 1;
            events.push(Event::Accepted { listener, connection, peer });
        }
    }
}

fn refuse(state: &mut State, id: HostId, listener: ListenerId) {
    let refusal = state.host(id).doors.get(&listener).map(|door| door.refusal.clone()).unwrap_or_default();
    for _ in 0..ACCEPTED_COUNT_MAX {
        let Some((connection, _)) = state.accept(id, listener) else { break };
        let mut left = refusal.as_slice();
        // A fresh connection has room for all of it, in however many parts.
        while let Some(Ok(count)) = state.write(id, connection, &[left]) {
            left = left.get(count..).unwrap_or(&[]);
        }
        state.forget_bytes(id, connection);
        state.close(id, connection);
        state.host(id).counters.refused += 1;
    }
    state.host(id).counters.pauses += 1;
    state.pause(id, listener, PAUSE_NS);
}

impl<R: Space, W: Pieces> Driver<R, W> for FakeDriver<R, W> {
    fn listen(&self, how: Listen) -> Result<Listening, ListenError> {
        let closed = ListenError { address: how.address, fault: Fault::Closed };
        self.alive().ok_or(closed)?.host(self.host).listen(how)
    }

    fn unlisten(&self, listener: ListenerId) {
        if let Some(mut state) = self.alive() {
            state.unlisten(self.host, listener);
        }
    }

    fn admit(&self, listener: ListenerId, admission: Admission) {
        let mut alive = self.alive();
        let host = alive.as_mut().map(|state| state.host(self.host));
        if let Some(door) = host.and_then(|host| host.doors.get_mut(&listener)) {
            door.held = admission == Admission::Held;
        }
    }

    fn dial(&self, address: SocketAddr) -> ConnectionId {
        match self.alive() {
            Some(mut state) => state.dial(self.host, address),
            None => {
                let connection = ConnectionId(0);
                self.own().events.push_back(Event::Dialed { connection, result: Err(Fault::Closed) });
                connection
            }
        }
    }

    fn read(&self, connection: ConnectionId, mut space: R) -> Submitted<R, Read> {
        let mut own = self.own();
        if own.reads.contains_key(&connection) {
            return Submitted::Done { buffer: space, result: Err(Fault::Busy) };
        }
        let Some(mut state) = self.alive() else {
            return Submitted::Done { buffer: space, result: Err(Fault::Closed) };
        };
        let possible =
            state.has_bytes(self.host, connection, 1) && space.spans().iter().any(|span| !span.is_empty());
        if possible && self.is_late(&mut state, connection) {
            own.reads.insert(connection, space);
            return Submitted::Pending;
        }
        match state.read(self.host, connection, &mut space) {
            Some(result) => Submitted::Done { buffer: space, result },
            None => {
                own.reads.insert(connection, space);
                Submitted::Pending
            }
        }
    }

    fn read_now(&self, connection: ConnectionId, mut space: R) -> (R, Option<Result<Read, Fault>>) {
        if self.own().reads.contains_key(&connection) {
            return (space, Some(Err(Fault::Busy)));
        }
        let Some(mut state) = self.alive() else { return (space, Some(Err(Fault::Closed))) };
        let possible =
            state.has_bytes(self.host, connection, 1) && space.spans().iter().any(|span| !span.is_empty());
        // What comes late is not here yet.
        if possible && self.is_late(&mut state, connection) {
            return (space, None);
        }
        let result = state.read(self.host, connection, &mut space);
        (space, result)
    }

    fn watch_for(&self, connection: ConnectionId, least: usize) {
        let mut own = self.own();
        let Some(mut state) = self.alive() else { return };
        let host = state.host(self.host);
        if host.contacts.contains_key(&connection) {
            own.watched.insert(connection, least);
            // What is there already is told by the next poll.
            host.touched.insert(connection);
        }
    }

    fn write(&self, connection: ConnectionId, pieces: W) -> Submitted<W, usize> {
        let mut own = self.own();
        if own.writes.contains_key(&connection) {
            return Submitted::Done { buffer: pieces, result: Err(Fault::Busy) };
        }
        let Some(mut state) = self.alive() else {
            return Submitted::Done { buffer: pieces, result: Err(Fault::Closed) };
        };
        let possible = !chosen(&pieces).is_empty() && state.has_room(self.host, connection);
        if possible && self.is_late(&mut state, connection) {
            own.writes.insert(connection, pieces);
            return Submitted::Pending;
        }
        match state.write(self.host, connection, &chosen(&pieces)) {
            Some(result) => Submitted::Done { buffer: pieces, result },
            None => {
                own.writes.insert(connection, pieces);
                Submitted::Pending
            }
        }
    }

    fn shutdown(&self, connection: ConnectionId) -> Result<(), Fault> {
        if self.own().writes.contains_key(&connection) {
            return Err(Fault::Busy);
        }
        self.alive().ok_or(Fault::Closed)?.shutdown(self.host, connection)
    }

    fn close(&self, connection: ConnectionId) {
        let mut own = self.own();
        let closed = self.alive().is_some_and(|mut state| state.close(self.host, connection));
        if !closed {
            return;
        }
        own.watched.remove(&connection);
        if let Some(space) = own.reads.remove(&connection) {
            own.events.push_back(Event::Read { connection, space, result: Err(Fault::Closed) });
        }
        if let Some(pieces) = own.writes.remove(&connection) {
            own.events.push_back(Event::Written { connection, pieces, result: Err(Fault::Closed) });
        }
        own.events.push_back(Event::Closed { connection });
    }

    fn backlog(&self, connection: ConnectionId) -> Result<Backlog, Fault> {
        self.alive().ok_or(Fault::Closed)?.backlog(self.host, connection)
    }

    fn local_ip(&self, connection: ConnectionId) -> Option<IpAddr> {
        // A host has one interface, whichever address was dialed.
        let (from, to) = self.alive()?.route(self.host, connection)?;
        Some(if from == to { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { from.ipv4() })
    }

    fn poll(&self, timeout: Option<Duration>, events: &mut Vec<Event<R, W>>) {
        let before = events.len();
        let until_ns = timeout.map(|timeout| self.network.now_ns().saturating_add(nanoseconds(timeout)));
        loop {
            self.collect(events);
            let woken = std::mem::take(&mut self.own().woken);
            if woken || events.len() > before {
                return;
            }
            let mut state = self.network.state();
            let next_ns = match (state.next_ns(), until_ns) {
                (Some(next_ns), Some(until_ns)) if until_ns < next_ns => None,
                (next_ns, _) => next_ns,
            };
            match next_ns {
                Some(next_ns) => state.advance_to(next_ns),
                // Nothing will happen in time. Without a timeout that is for ever: return early.
                None => return until_ns.map_or((), |until_ns| state.advance_to(until_ns)),
            }
        }
    }

    fn wake(&self) {
        self.own().woken = true;
    }

    fn now_ns(&self) -> u64 {
        self.network.now_ns()
    }

    fn counters(&self) -> Counters {
        self.alive().map(|mut state| state.host(self.host).counters).unwrap_or_default()
    }
}

/// What one write looks at.
fn chosen<W: Pieces>(pieces: &W) -> Vec<&[u8]> {
    pieces.pieces().filter(|piece| !piece.is_empty()).take(PIECES_COUNT_MAX).collect()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
