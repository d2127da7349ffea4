//! The network in memory: hosts, paths between them, and what happens when.
//!
//! One clock, which only moves when somebody waits or says so; one list of what will happen, in order of time and
//! then of arrival; one seed. So a run is decided by its seed and its calls, byte for byte.
//!
//! It does not know drivers or buffers: `fake.rs` asks it what a kernel would be asked.
//!
//! Invariant: nothing happens before its time, and no two things are in an order that the seed does not decide.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::driver::{ConnectionId, Fault, ListenerId};
use crate::fake::dice::Dice;
use crate::fake::host::{Answer, Contact, Host, HostId};
use crate::fake::stream::{Segment, Side, Stream};

// Linux tries a connect again after 1 s, 2 s, 4 s and so on, and gives up after the sixth time.
const CONNECT_AGAIN_NS: u64 = 1_000_000_000;
const CONNECT_TRIED_COUNT_MAX: u32 = 6;

// tcp_retries2 gives up after about this long.
const GIVE_UP_NS: u64 = 924_000_000_000;

// The least time until TCP sends again what was lost.
const SEND_AGAIN_NS: u64 = 200_000_000;

/// How the kernels of all hosts behave. Shares are in a million.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// How often a read or a write does only a part of what it could.
    pub partial_ppm: u32,
    /// How often what could be done at once is done later.
    pub late_ppm: u32,
    /// How much later at most.
    pub late_most: Duration,
    /// Bytes that one end may have written and not seen acknowledged.
    pub send_bytes_max: usize,
    /// Bytes that lie with the receiver and that nobody has read.
    pub receive_bytes_max: usize,
}

impl Manners {
    /// All that can be done is done at once, as on an idle machine.
    #[must_use]
    pub fn smooth() -> Self {
        let buffer = 64 << 10;
        let late_most = Duration::ZERO;
        Self { partial_ppm: 0, late_ppm: 0, late_most, send_bytes_max: buffer, receive_bytes_max: buffer }
    }

    /// Every third call does a part only, and every fifth waits up to a millisecond.
    #[must_use]
    pub fn rough() -> Self {
        Self {
            partial_ppm: 333_333,
            late_ppm: 200_000,
            late_most: Duration::from_millis(1),
            ..Self::smooth()
        }
    }
}

/// The way from one host to another. The way back is another.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// The least time that a byte takes.
    pub latency_least: Duration,
    /// The most, while nothing is in its way.
    pub latency_most: Duration,
    /// None is no limit.
    pub bytes_per_second: Option<u64>,
    /// Nothing comes through; what was sent is sent again when it heals.
    pub cut: bool,
    /// How many segments in a million have a bit flipped.
    pub corrupt_ppm: u32,
}

impl Default for Path {
    /// A room with one switch.
    fn default() -> Self {
        Self {
            latency_least: Duration::from_micros(50),
            latency_most: Duration::from_micros(150),
            bytes_per_second: None,
            cut: false,
            corrupt_ppm: 0,
        }
    }
}

/// How a host's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed; its kernel closes what it had.
    Process,
    /// The power is cut: nobody is told anything.
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamId(u64);

#[derive(Debug)]
pub(crate) enum Happening {
    Connect { from: HostId, connection: ConnectionId, to: SocketAddr, tried: u32 },
    Answer { host: HostId, connection: ConnectionId, result: Result<(), Fault> },
    Knock { stream: StreamId, host: HostId, listener: ListenerId, from: SocketAddr },
    Land { stream: StreamId, side: Side },
    Acknowledge { stream: StreamId, side: Side, count: usize },
    Reset { stream: StreamId, side: Side },
    GiveUp { stream: StreamId, side: Side, since_ns: u64 },
    Touch { host: HostId, connection: ConnectionId },
    Resume { host: HostId, listener: ListenerId },
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) now_ns: u64,
    counted: u64,
    happenings: BTreeMap<(u64, u64), Happening>,
    pub(crate) dice: Dice,
    pub(crate) manners: Manners,
    usual: Path,
    paths: BTreeMap<(HostId, HostId), Path>,
    pub(crate) hosts: BTreeMap<HostId, Host>,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
}

impl State {
    pub(crate) fn new(seed: u64, manners: Manners) -> Self {
        Self {
            now_ns: 0,
            counted: 0,
            happenings: BTreeMap::new(),
            dice: Dice::new(seed),
            manners,
            usual: Path::default(),
            paths: BTreeMap::new(),
            hosts: BTreeMap::new(),
            streams: BTreeMap::new(),
        }
    }

    pub(crate) fn host(&mut self, id: HostId) -> &mut Host {
        self.hosts.entry(id).or_insert_with(|| Host::new(id))
    }

    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.happenings.first_key_value().map(|((at_ns, _), _)| *at_ns)
    }

    /// Lets everything happen that is due until `until_ns`, and moves the clock there.
    pub(crate) fn advance_to(&mut self, until_ns: u64) {
        while let Some(entry) = self.happenings.first_entry() {
            let (at_ns, _) = *entry.key();
            if at_ns > until_ns {
                break;
            }
            let happening = entry.remove();
            self.now_ns = self.now_ns.max(at_ns);
            self.happen(happening);
        }
        self.now_ns = self.now_ns.max(until_ns);
    }

    pub(crate) fn path(&self, from: HostId, to: HostId) -> Path {
        self.paths.get(&(from, to)).copied().unwrap_or(self.usual)
    }

    pub(crate) fn set_usual(&mut self, path: Path) {
        self.usual = path;
    }

    pub(crate) fn set_path(&mut self, from: HostId, to: HostId, path: Path) {
        let healed = self.path(from, to).cut && !path.cut;
        self.paths.insert((from, to), path);
        if healed {
            self.heal(from, to);
        }
    }

    /// What was lost on the way is sent again: bytes one way, acknowledgements the other.
    pub(crate) fn heal(&mut self, from: HostId, to: HostId) {
        let mut again = Vec::new();
        for (id, stream) in &mut self.streams {
            for side in Side::BOTH {
                let route = stream.route(side);
                let pipe = stream.pipe_mut(side);
                if route == (from, to) && pipe.held_since_ns.take().is_some() {
                    again.push(Happening::Land { stream: *id, side });
                }
                if route == (to, from) && pipe.withheld > 0 {
                    let count = std::mem::take(&mut pipe.withheld);
                    again.push(Happening::Acknowledge { stream: *id, side, count });
                }
            }
        }
        for happening in again {
            let after_ns = self.dice.up_to(SEND_AGAIN_NS);
            self.later(after_ns, happening);
        }
    }

    pub(crate) fn later(&mut self, after_ns: u64, happening: Happening) {
        self.counted += 1;
        self.happenings.insert((self.now_ns.saturating_add(after_ns), self.counted), happening);
    }

    pub(crate) fn latency_ns(&mut self, from: HostId, to: HostId) -> u64 {
        let path = self.path(from, to);
        self.dice.between(path.latency_least, path.latency_most)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Connect { from, connection, to, tried } => self.connect(from, connection, to, tried),
            Happening::Answer { host, connection, result } => self.answer(host, connection, result),
            Happening::Knock { stream, host, listener, from } => self.knock(stream, host, listener, from),
            Happening::Land { stream, side } => self.land(stream, side),
            Happening::Acknowledge { stream, side, count } => self.acknowledge(stream, side, count),
            Happening::Reset { stream, side } => self.reset(stream, side),
            Happening::GiveUp { stream, side, since_ns } => self.give_up(stream, side, since_ns),
            Happening::Touch { host, connection } => {
                self.host(host).touched.insert(connection);
            }
            Happening::Resume { host, listener } => {
                if let Some(door) = self.host(host).doors.get_mut(&listener) {
                    door.paused = false;
                }
            }
        }
    }

    pub(crate) fn dial(&mut self, from: HostId, to: SocketAddr) -> ConnectionId {
        let host = self.host(from);
        let connection = ConnectionId(host.name());
        if !host.has_descriptor() {
            host.answers.push_back(Answer { connection, result: Err(Fault::Shortage) });
            return connection;
        }
        host.contacts.insert(connection, Contact { stream: None, stands: false });
        let Some(target) = HostId::of(to.ip()).filter(|target| self.hosts.contains_key(target)) else {
            self.later(0, Happening::Answer { host: from, connection, result: Err(Fault::Unreachable) });
            return connection;
        };
        let after_ns = self.latency_ns(from, target);
        self.later(after_ns, Happening::Connect { from, connection, to, tried: 0 });
        connection
    }

    /// The first packet of a connection arrives, or gets lost.
    fn connect(&mut self, from: HostId, connection: ConnectionId, to: SocketAddr, tried: u32) {
        let Some(target) = HostId::of(to.ip()) else { return };
        if !self.host(from).contacts.contains_key(&connection) {
            return;
        }
        let cut = self.path(from, target).cut || self.path(target, from).cut;
        let host = self.host(target);
        let door = host.door_at(to);
        let full = door.and_then(|listener| host.doors.get(&listener)).is_some_and(|door| door.is_full());
        if cut || !host.up || host.swallows_connects || full {
            let again = if tried < CONNECT_TRIED_COUNT_MAX {
                Happening::Connect { from, connection, to, tried: tried + 1 }
            } else {
                Happening::Answer { host: from, connection, result: Err(Fault::TimedOut) }
            };
            return self.later(CONNECT_AGAIN_NS << tried.min(6), again);
        }
        let back_ns = self.latency_ns(target, from);
        let Some(listener) = door else {
            return self
                .later(back_ns, Happening::Answer { host: from, connection, result: Err(Fault::Refused) });
        };
        self.counted += 1;
        let stream = StreamId(self.counted);
        self.streams.insert(stream, Stream::new((from, connection), target));
        let port = self.host(from).port();
        if let Some(contact) = self.host(from).contacts.get_mut(&connection) {
            contact.stream = Some((stream, Side::Dialed));
        }
        let peer = SocketAddr::new(if to.is_ipv4() { from.ipv4() } else { from.ipv6() }, port);
        self.later(back_ns, Happening::Answer { host: from, connection, result: Ok(()) });
        let third_ns = self.latency_ns(from, target);
        let knock = Happening::Knock { stream, host: target, listener, from: peer };
        self.later(back_ns.saturating_add(third_ns), knock);
    }

    fn answer(&mut self, host: HostId, connection: ConnectionId, result: Result<(), Fault>) {
        let host = self.host(host);
        // A dial that was closed, or whose process has died, wants no answer.
        let Some(contact) = host.contacts.get_mut(&connection) else { return };
        contact.stands = result.is_ok();
        if result.is_err() {
            host.contacts.remove(&connection);
        }
        host.answers.push_back(Answer { connection, result });
        host.touched.insert(connection);
    }

    fn knock(&mut self, stream: StreamId, host: HostId, listener: ListenerId, from: SocketAddr) {
        let taken = match self.host(host).doors.get_mut(&listener) {
            Some(door) if !door.is_full() => {
                door.waiting.push_back((stream, from));
                true
            }
            Some(_) | None => false,
        };
        if !taken {
            self.abandon(stream, Side::Accepted);
        }
    }

    /// The first of those who wait at `listener`. Its connection has no name yet.
    pub(crate) fn accept(
        &mut self,
        host: HostId,
        listener: ListenerId,
    ) -> Option<(ConnectionId, SocketAddr)> {
        let door = self.host(host).doors.get_mut(&listener)?;
        let (stream, from) = door.waiting.pop_front()?;
        let host = self.host(host);
        let connection = ConnectionId(host.name());
        host.contacts.insert(connection, Contact { stream: Some((stream, Side::Accepted)), stands: true });
        host.touched.insert(connection);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.end_mut(Side::Accepted).connection = Some(connection);
        }
        Some((connection, from))
    }

    /// Leaves `listener` alone for `pause_ns`.
    pub(crate) fn pause(&mut self, host: HostId, listener: ListenerId, pause_ns: u64) {
        if let Some(door) = self.host(host).doors.get_mut(&listener) {
            door.paused = true;
            self.later(pause_ns, Happening::Resume { host, listener });
        }
    }

    pub(crate) fn unlisten(&mut self, host: HostId, listener: ListenerId) {
        let Some(door) = self.host(host).doors.remove(&listener) else { return };
        for (stream, _) in door.waiting {
            self.abandon(stream, Side::Accepted);
        }
    }

    /// The end goes without having read: its peer is reset.
    fn abandon(&mut self, id: StreamId, side: Side) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.end_mut(side).open = false;
        self.send_reset(id, side.other());
        self.forget_if_over(id);
    }

    pub(crate) fn send_reset(&mut self, id: StreamId, to: Side) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from_host, to_host) = stream.route(to.other());
        // It may overtake what is on its way: then that is lost, at any byte.
        let after_ns = self.latency_ns(from_host, to_host);
        self.later(after_ns, Happening::Reset { stream: id, side: to });
    }

    fn reset(&mut self, id: StreamId, side: Side) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, to) = stream.route(side.other());
        // Nobody sends a reset again.
        if !self.path(from, to).cut && self.host(to).up {
            self.fail(id, side, Fault::Reset);
        }
    }

    pub(crate) fn fail(&mut self, id: StreamId, side: Side, fault: Fault) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.fail(side, fault);
            self.touch(id, side);
        }
    }

    fn touch(&mut self, id: StreamId, side: Side) {
        let Some(stream) = self.streams.get(&id) else { return };
        let end = stream.end(side);
        if let (true, Some(connection)) = (end.open, end.connection) {
            let host = end.host;
            self.host(host).touched.insert(connection);
        }
    }

    /// Touches `connection` a little later.
    pub(crate) fn touch_later(&mut self, host: HostId, connection: ConnectionId) {
        let after_ns = self.dice.between(Duration::from_nanos(1), self.manners.late_most);
        self.later(after_ns, Happening::Touch { host, connection });
    }

    /// Lets all segments land whose time has come, in the pipe that `side` writes.
    pub(crate) fn land(&mut self, id: StreamId, side: Side) {
        loop {
            let now_ns = self.now_ns;
            let Some(stream) = self.streams.get_mut(&id) else { return };
            let (from, to) = stream.route(side);
            match stream.pipe(side).flight.front() {
                Some(segment) if segment.arrives_ns <= now_ns => {}
                Some(_) | None => return,
            }
            let path = self.path(from, to);
            if path.cut || !self.host(to).up {
                return self.hold(id, side);
            }
            let Some(stream) = self.streams.get_mut(&id) else { return };
            let receiver = stream.end(side.other());
            if !receiver.open || receiver.failed.is_some() {
                stream.pipe_mut(side).lose();
                return self.send_reset(id, side);
            }
            let room = self.manners.receive_bytes_max;
            let pipe = stream.pipe_mut(side);
            let fits = pipe.flight.front().is_some_and(|s| pipe.landed.len() + s.bytes.len() <= room);
            if !fits && !pipe.landed.is_empty() {
                pipe.blocked = true;
                // Who waits for more than fits is told of what there is.
                return self.touch(id, side.other());
            }
            let Some(mut segment) = pipe.flight.pop_front() else { return };
            if !segment.bytes.is_empty() && self.dice.chance(path.corrupt_ppm) {
                let index = self.dice.below(segment.bytes.len());
                segment.bytes[index] ^= 1 << self.dice.up_to(7);
            }
            self.landed(id, side, segment);
        }
    }

    fn landed(&mut self, id: StreamId, side: Side, segment: Segment) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (from, to) = stream.route(side);
        let count = segment.bytes.len();
        let pipe = stream.pipe_mut(side);
        pipe.landed.extend(segment.bytes);
        pipe.ended |= segment.end;
        self.touch(id, side.other());
        if count > 0 {
            let back_ns = self.latency_ns(to, from);
            self.later(back_ns, Happening::Acknowledge { stream: id, side, count });
        }
    }

    fn hold(&mut self, id: StreamId, side: Side) {
        let since_ns = self.now_ns;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let pipe = stream.pipe_mut(side);
        if pipe.held_since_ns.is_none() {
            pipe.held_since_ns = Some(since_ns);
            self.later(GIVE_UP_NS, Happening::GiveUp { stream: id, side, since_ns });
        }
    }

    fn give_up(&mut self, id: StreamId, side: Side, since_ns: u64) {
        let held = self.streams.get(&id).and_then(|stream| stream.pipe(side).held_since_ns);
        if held == Some(since_ns) {
            self.fail(id, side, Fault::TimedOut);
        }
    }

    fn acknowledge(&mut self, id: StreamId, side: Side, count: usize) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, to) = stream.route(side);
        let cut = self.path(to, from).cut;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let pipe = stream.pipe_mut(side);
        if cut {
            pipe.withheld += count;
            return;
        }
        pipe.unacknowledged = pipe.unacknowledged.saturating_sub(count);
        self.touch(id, side);
    }

    pub(crate) fn forget_if_over(&mut self, id: StreamId) {
        let over = self.streams.get(&id).is_some_and(|s| Side::BOTH.iter().all(|side| !s.end(*side).open));
        if over {
            self.streams.remove(&id);
        }
    }
}
