//! A network of byte streams between hosts, which does what networks do.
//!
//! Bytes take their time, come in other pieces than they were sent in, wait behind a partition and come after it,
//! or never. A connection has two ends; each direction is a queue of segments with a bounded room, like the two
//! kernels' buffers together. It knows no frames and no hosts beyond their index.
//!
//! Invariant: without a fault, what is read from one end is what was written to the other, in order, each byte once.

mod connections;
mod faults;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use busway_protocol::Time;
use fastrand::Rng;

use crate::agenda::Agenda;
use connections::Connections;
use stream::Stream;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// The connection.
    pub connection: u64,
    /// Whose end.
    pub side: Side,
}

/// The two sides of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Who dialed.
    Dialer,
    /// Who was dialed.
    Acceptor,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        }
    }

    fn index(self) -> usize {
        match self {
            Side::Dialer => 0,
            Side::Acceptor => 1,
        }
    }
}

/// What a host is told of one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Somebody has connected.
    Accepted,
    /// The connection that was dialed stands.
    Connected,
    /// It was refused.
    Refused,
    /// There is something to read: bytes, or the end.
    Readable,
    /// There is room again.
    Writable,
    /// The peer's kernel knows the connection no more.
    Reset,
}

/// What a read gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// Nothing any more: the other side has ended its direction.
    End,
}

/// How the lines are.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// One way, in nanoseconds.
    pub latency_ns: u64,
    /// As much more at most, at random.
    pub jitter_ns: u64,
    /// Bytes a second, each way of each connection.
    pub bytes_per_second: u64,
    /// Room of one direction in bytes.
    pub room: usize,
    /// The largest segment.
    pub segment_max: usize,
}

impl Default for Shape {
    /// A local network.
    fn default() -> Shape {
        let (latency_ns, jitter_ns) = (200_000, 100_000);
        Shape { latency_ns, jitter_ns, bytes_per_second: 100_000_000, room: 128 << 10, segment_max: 16 << 10 }
    }
}

#[derive(Clone, Copy, Debug)]
enum Item {
    Syn(u64),
    /// Who waited in the kernel is taken in.
    Accept(u64),
    Answer {
        connection: u64,
        accepted: bool,
    },
    Arrive {
        connection: u64,
        from: Side,
    },
    Room {
        connection: u64,
        to: Side,
    },
    Reset {
        connection: u64,
        to: Side,
    },
}

#[derive(Debug)]
struct Connection {
    hosts: [usize; 2],
    /// What each side has sent: index 0 is the dialer's.
    streams: [Stream; 2],
    /// Whether each side still holds it.
    held: [bool; 2],
    /// What waits for the end of a partition, to be done then.
    waiting: Vec<Item>,
}

/// All lines between all hosts.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    shape: Shape,
    connections: Connections,
    listening: BTreeSet<usize>,
    /// Hosts that take nobody in at the moment, and who waits in their kernels.
    holding: BTreeMap<usize, Vec<u64>>,
    /// From whom to whom nothing passes, and how many faults say so.
    blocked: BTreeMap<(usize, usize), u32>,
    /// Between whom no connection is made, though those that stand go on.
    deaf: BTreeMap<(usize, usize), u32>,
    /// Connections whose bytes are not what was written.
    spoiled: BTreeSet<u64>,
    agenda: Agenda<Item>,
}

impl Network {
    /// Lines of this shape.
    #[must_use]
    pub fn new(seed: u64, shape: Shape) -> Network {
        Network {
            rng: Rng::with_seed(seed),
            shape,
            connections: Connections::default(),
            listening: BTreeSet::new(),
            holding: BTreeMap::new(),
            blocked: BTreeMap::new(),
            deaf: BTreeMap::new(),
            spoiled: BTreeSet::new(),
            agenda: Agenda::default(),
        }
    }

    /// The host takes connections from now on.
    pub fn listen(&mut self, host: usize) {
        self.listening.insert(host);
    }

    /// The host takes newcomers in, or leaves them in its kernel until it does.
    pub fn hold(&mut self, now: Time, host: usize, held: bool) {
        if held {
            self.holding.entry(host).or_default();
            return;
        }
        for connection in self.holding.remove(&host).unwrap_or_default() {
            self.agenda.enter(now, Item::Accept(connection));
        }
    }

    /// The process of the host is gone: its kernel resets all that it held.
    pub fn vanish(&mut self, now: Time, host: usize) {
        self.listening.remove(&host);
        self.holding.remove(&host);
        let ends: Vec<End> = self.ends_of(host).collect();
        for end in ends {
            self.abort(now, end);
        }
    }

    /// The ends that a host holds.
    pub fn ends_of(&self, host: usize) -> impl Iterator<Item = End> {
        self.connections.iter().flat_map(move |(connection, c)| {
            [Side::Dialer, Side::Acceptor]
                .into_iter()
                .filter(move |side| c.hosts[side.index()] == host && c.held[side.index()])
                .map(move |side| End { connection, side })
        })
    }

    /// The connections between two hosts of which at least one end is held.
    pub fn between(&self, a: usize, b: usize) -> impl Iterator<Item = u64> {
        self.connections
            .iter()
            .filter(move |(_, c)| c.hosts == [a, b] || c.hosts == [b, a])
            .map(|(connection, _)| connection)
    }

    /// The host at the other end.
    #[must_use]
    pub fn peer_of(&self, end: End) -> Option<usize> {
        Some(self.connections.get(end.connection)?.hosts[end.side.other().index()])
    }

    /// Starts a connection. `Connected` or `Refused` follows, or nothing at all.
    pub fn dial(&mut self, now: Time, from: usize, to: usize) -> End {
        let streams = [Stream::new(self.shape.room), Stream::new(self.shape.room)];
        let fresh = Connection { hosts: [from, to], streams, held: [true, false], waiting: Vec::new() };
        let connection = self.connections.add(fresh);
        let at = Time(now.0 + self.delay());
        self.agenda.enter(at, Item::Syn(connection));
        End { connection, side: Side::Dialer }
    }

    /// Writes as much as there is room for.
    pub fn write(&mut self, now: Time, end: End, bytes: &[u8]) -> usize {
        let arrivals = {
            let Some(connection) = self.connections.get_mut(end.connection) else { return 0 };
            let stream = &mut connection.streams[end.side.index()];
            let taken = stream.room().min(bytes.len());
            if taken < bytes.len() {
                stream.wants_room = true;
            }
            if taken == 0 {
                return 0;
            }
            let segments = stream.take(&bytes[..taken], self.shape.segment_max, &mut self.rng);
            (taken, segments)
        };
        let (taken, segments) = arrivals;
        for size in segments {
            self.send_segment(now, end, size);
        }
        taken
    }

    /// Reads at most so many bytes.
    pub fn read(&mut self, now: Time, end: End, bytes_max: usize) -> Read {
        let Some(connection) = self.connections.get_mut(end.connection) else { return Read::End };
        let stream = &mut connection.streams[end.side.other().index()];
        let bytes = stream.read(bytes_max);
        if bytes.is_empty() {
            return if stream.at_end() { Read::End } else { Read::Nothing };
        }
        if stream.wants_room {
            stream.wants_room = false;
            let at = Time(now.0 + self.shape.latency_ns);
            let item = Item::Room { connection: end.connection, to: end.side.other() };
            self.agenda.enter(at, item);
        }
        Read::Bytes(bytes)
    }

    /// Ends this side's direction; the other stays.
    pub fn shutdown(&mut self, now: Time, end: End) {
        let Some(connection) = self.connections.get_mut(end.connection) else { return };
        let stream = &mut connection.streams[end.side.index()];
        if stream.finish() {
            self.send_segment(now, end, 0);
        }
    }

    /// Lets go of the end. What was written still goes out.
    pub fn close(&mut self, now: Time, end: End) {
        self.shutdown(now, end);
        self.let_go(end);
    }

    /// Lets go of the end at once; the peer is told by a reset.
    pub fn abort(&mut self, now: Time, end: End) {
        if let Some(connection) = self.connections.get_mut(end.connection) {
            connection.streams[end.side.index()].drop_all();
            self.enter_reset(now, end.connection, end.side.other());
        }
        self.let_go(end);
    }

    /// What is to be told next, if its time has come: whose end, and what.
    pub fn due(&mut self, now: Time) -> Option<(usize, End, Notice)> {
        while let Some(item) = self.agenda.due(now) {
            if let Some(told) = self.happen(now, item) {
                return Some(told);
            }
        }
        None
    }

    /// When something happens next.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.agenda.next()
    }

    fn happen(&mut self, now: Time, item: Item) -> Option<(usize, End, Notice)> {
        match item {
            Item::Syn(connection) => self.syn(now, connection),
            Item::Accept(connection) => {
                let c = self.connections.get(connection)?;
                let end = End { connection, side: Side::Acceptor };
                c.held[1].then_some((c.hosts[1], end, Notice::Accepted))
            }
            Item::Answer { connection, accepted } => {
                let c = self.connections.get_mut(connection)?;
                if self.blocked.contains_key(&(c.hosts[1], c.hosts[0])) {
                    return None;
                }
                let end = End { connection, side: Side::Dialer };
                let notice = if accepted { Notice::Connected } else { Notice::Refused };
                c.held[0].then_some((c.hosts[0], end, notice))
            }
            Item::Arrive { connection, from } => {
                let c = self.connections.get_mut(connection)?;
                let to = from.other();
                let stream = &mut c.streams[from.index()];
                stream.scheduled = stream.scheduled.saturating_sub(1);
                if stream.black || self.blocked.contains_key(&(c.hosts[from.index()], c.hosts[to.index()])) {
                    return None;
                }
                if !c.held[to.index()] {
                    // Its kernel knows the connection no more, and says so.
                    stream.drop_all();
                    self.enter_reset(now, connection, from);
                    return None;
                }
                stream.arrive().then_some((
                    c.hosts[to.index()],
                    End { connection, side: to },
                    Notice::Readable,
                ))
            }
            Item::Room { connection, to } => {
                let c = self.connections.get_mut(connection)?;
                if c.streams[to.index()].black {
                    return None;
                }
                if self.blocked.contains_key(&(c.hosts[to.other().index()], c.hosts[to.index()])) {
                    c.waiting.push(item);
                    return None;
                }
                let end = End { connection, side: to };
                c.held[to.index()].then_some((c.hosts[to.index()], end, Notice::Writable))
            }
            Item::Reset { connection, to } => {
                let c = self.connections.get_mut(connection)?;
                if c.streams[to.other().index()].black {
                    return None;
                }
                if self.blocked.contains_key(&(c.hosts[to.other().index()], c.hosts[to.index()])) {
                    c.waiting.push(item);
                    return None;
                }
                let host = c.hosts[to.index()];
                let end = End { connection, side: to };
                if !c.held[to.index()] {
                    return None;
                }
                self.let_go(end);
                Some((host, end, Notice::Reset))
            }
        }
    }

    fn syn(&mut self, now: Time, connection: u64) -> Option<(usize, End, Notice)> {
        let delay = self.delay();
        let c = self.connections.get_mut(connection)?;
        let [from, to] = c.hosts;
        if self.blocked.contains_key(&(from, to)) || self.deaf.contains_key(&(from, to)) {
            return None;
        }
        let accepted = self.listening.contains(&to);
        self.agenda.enter(Time(now.0 + delay), Item::Answer { connection, accepted });
        if !accepted {
            return None;
        }
        c.held[1] = true;
        if let Some(waiting) = self.holding.get_mut(&to) {
            waiting.push(connection);
            return None;
        }
        Some((to, End { connection, side: Side::Acceptor }, Notice::Accepted))
    }

    /// Lets a segment arrive in its time, behind those before it.
    fn send_segment(&mut self, now: Time, end: End, size: usize) {
        let delay = self.delay();
        let bytes_per_second = self.shape.bytes_per_second.max(1);
        let Some(c) = self.connections.get_mut(end.connection) else { return };
        let stream = &mut c.streams[end.side.index()];
        if stream.black {
            return;
        }
        let sending_ns = size as u64 * 1_000_000_000 / bytes_per_second;
        stream.free_at = Time(stream.free_at.max(now).0 + sending_ns);
        stream.arrives_at = stream.arrives_at.max(Time(stream.free_at.0 + delay));
        stream.scheduled += 1;
        let item = Item::Arrive { connection: end.connection, from: end.side };
        self.agenda.enter(stream.arrives_at, item);
    }

    fn enter_reset(&mut self, now: Time, connection: u64, to: Side) {
        let at = Time(now.0 + self.delay());
        self.agenda.enter(at, Item::Reset { connection, to });
    }

    fn let_go(&mut self, end: End) {
        let Some(c) = self.connections.get_mut(end.connection) else { return };
        c.held[end.side.index()] = false;
        c.streams[end.side.other().index()].drop_arrived();
        // What a side has written before it let go still goes out, as far as the other is there to take it.
        if !c.held[0] && !c.held[1] {
            self.connections.remove(end.connection);
        }
    }

    fn delay(&mut self) -> u64 {
        self.shape.latency_ns + self.rng.u64(0..=self.shape.jitter_ns)
    }
}
