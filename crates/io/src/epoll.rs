//! The driver of every Linux: TCP by `epoll`.
//!
//! Each socket is put on the poller once, for both directions and for edges (`EPOLLET`), so that no work costs a
//! system call of its own to arm. What is submitted is tried at once; what the kernel cannot do yet is kept in its
//! half of the connection and tried again when the poller says so, in the thread that polls.
//!
//! It does not resolve names, encrypt, or decide how long anything may take.
//!
//! Invariant: locks are taken in this order: doors or table, reading half, writing half, results; and no lock is
//! held while the poller sleeps.

mod door;
mod errno;
mod socket;

use std::collections::{BTreeMap, VecDeque};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, connect, getpeername, getsockname, shutdown, sockopt};

use crate::backlog;
use crate::clock;
use crate::driver::{
    Admission, Backlog, ConnectionId, Counters, Driver, Event, Fault, Listen, ListenError, ListenerId,
    Listening, Pieces, Read, Space, Submitted,
};
use crate::epoll::door::{Doors, Newcomer, stream};
use crate::epoll::socket::{Socket, Stage, Told};

// What the poller reports at once. More wait for the next call; the kernel reports them in turn.
const REPORTED_COUNT_MAX: usize = 128;

// Names of connections and listeners count up from 1.
const BELL: u64 = 0;

/// TCP by `epoll`.
#[derive(Debug)]
pub struct Epoll<R, W> {
    poller: OwnedFd,
    bell: OwnedFd,
    doors: Mutex<Doors>,
    table: RwLock<Table<R, W>>,
    results: Mutex<Results<R, W>>,
}

#[derive(Debug)]
struct Table<R, W> {
    sockets: BTreeMap<ConnectionId, Arc<Socket<R, W>>>,
    named: u64,
}

/// What is done and was not told yet, and who sleeps meanwhile.
#[derive(Debug)]
struct Results<R, W> {
    events: VecDeque<Event<R, W>>,
    sleepers: usize,
    woken: bool,
}

impl<R: Space, W: Pieces> Epoll<R, W> {
    /// A driver without connections.
    ///
    /// # Errors
    /// [`Fault::Shortage`] where no descriptors are left.
    pub fn new() -> Result<Self, Fault> {
        let poller = epoll::create(CreateFlags::CLOEXEC).map_err(errno::fault)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(errno::fault)?;
        epoll::add(&poller, &bell, EventData::new_u64(BELL), EventFlags::IN).map_err(errno::fault)?;
        let doors = Mutex::new(Doors::new(&poller));
        let table = RwLock::new(Table { sockets: BTreeMap::new(), named: BELL });
        let results = Mutex::new(Results { events: VecDeque::new(), sleepers: 0, woken: false });
        Ok(Self { poller, bell, doors, table, results })
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn results(&self) -> MutexGuard<'_, Results<R, W>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self, connection: ConnectionId) -> Option<Arc<Socket<R, W>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).sockets.get(&connection).cloned()
    }

    fn name(&self) -> u64 {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.named += 1;
        table.named
    }

    /// Gives the socket a name and puts it on the poller.
    fn adopt(&self, socket: OwnedFd, stage: Stage) -> Result<ConnectionId, Errno> {
        let connection = ConnectionId(self.name());
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let socket = Arc::new(Socket::new(socket, stage));
        let descriptor = socket.reading().descriptor.clone();
        self.table.write().unwrap_or_else(PoisonError::into_inner).sockets.insert(connection, socket);
        // In the table first: an event may come before this call returns.
        let added = descriptor.map_or(Ok(()), |descriptor| {
            epoll::add(&self.poller, &*descriptor, EventData::new_u64(connection.0), interest)
        });
        if let Err(number) = added {
            self.table.write().unwrap_or_else(PoisonError::into_inner).sockets.remove(&connection);
            return Err(number);
        }
        Ok(connection)
    }

    fn begin_dial(&self, address: SocketAddr) -> Result<ConnectionId, Errno> {
        let socket = stream(address)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => self.adopt(socket, Stage::Dialing),
            Err(number) => Err(number),
        }
    }

    /// Tells `event` in the next `poll`, also to one that sleeps already.
    fn tell(&self, event: Event<R, W>) {
        let mut results = self.results();
        results.events.push_back(event);
        self.ring(&results);
    }

    fn ring(&self, results: &Results<R, W>) {
        if results.sleepers > 0 {
            // Any number rings, and a full counter is as good as one more.
            let _ = write(&self.bell, &1u64.to_le_bytes());
        }
    }

    /// Sleeps until the poller has something, `timeout` has passed or the bell rings.
    fn sleep<'a>(
        &self,
        timeout: Option<Duration>,
        out: &'a mut [MaybeUninit<epoll::Event>],
    ) -> &'a [epoll::Event] {
        let mut results = self.results();
        let at_once = !results.events.is_empty() || std::mem::take(&mut results.woken);
        results.sleepers += 1;
        drop(results);
        let timeout = if at_once { Some(Duration::ZERO) } else { timeout };
        // Whole milliseconds, rounded up: kernels before 5.11 know no shorter sleep, and waking early would spin.
        let timeout = timeout.map(|timeout| {
            let millis = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128);
            let millis = i64::try_from(millis).unwrap_or(i64::from(i32::MAX));
            Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
        });
        // An interrupted sleep is an early return. Anything else would be our bug; then `poll` returns empty.
        let reported =
            epoll::wait(&self.poller, out, timeout.as_ref()).map_or(&[][..], |(reported, _)| reported);
        let mut results = self.results();
        results.sleepers -= 1;
        results.woken = false;
        reported
    }

    fn take_in(&self, listener: ListenerId, events: &mut Vec<Event<R, W>>) {
        let newcomers = self.doors().accept(&self.poller, listener, clock::monotonic_ns());
        for Newcomer { listener, descriptor, peer } in newcomers {
            // Without memory for one more entry of the poller the newcomer is closed: it was not promised anything.
            if let Ok(connection) = self.adopt(descriptor, Stage::Open) {
                events.push(Event::Accepted { listener, connection, peer });
            }
        }
    }

    /// Goes on with what is in flight on a connection that the poller has named.
    fn go_on(&self, connection: ConnectionId, flags: EventFlags, events: &mut Vec<Event<R, W>>) {
        let Some(socket) = self.socket(connection) else { return };
        let over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let stage = socket.writing().stage;
        if stage == Stage::Dialing && !self.finish_dial(connection, &socket, flags, events) {
            return;
        }
        if over || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            let ended = over || flags.contains(EventFlags::RDHUP);
            go_on_reading(connection, &socket, if ended { Told::Over } else { Told::Ready }, events);
        }
        if over || flags.contains(EventFlags::OUT) {
            let mut half = socket.writing();
            half.tell(if over { Told::Over } else { Told::Ready });
            if let Some(pieces) = half.pending.take() {
                match half.try_write(&pieces) {
                    Some(result) => events.push(Event::Written { connection, pieces, result }),
                    None => half.pending = Some(pieces),
                }
            }
        }
    }

    /// Whether the connection stands now.
    fn finish_dial(
        &self,
        connection: ConnectionId,
        socket: &Socket<R, W>,
        flags: EventFlags,
        events: &mut Vec<Event<R, W>>,
    ) -> bool {
        if !flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            return false;
        }
        let (mut reading, mut writing) = (socket.reading(), socket.writing());
        let Some(descriptor) = writing.descriptor.clone() else { return false };
        if writing.stage != Stage::Dialing {
            return true;
        }
        let result = outcome_of_dial(&descriptor);
        if result.is_ok() {
            reading.stage = Stage::Open;
            writing.stage = Stage::Open;
        } else {
            let _ = epoll::delete(&self.poller, &*descriptor);
            reading.descriptor = None;
            writing.descriptor = None;
            drop((reading, writing));
            self.table.write().unwrap_or_else(PoisonError::into_inner).sockets.remove(&connection);
        }
        events.push(Event::Dialed { connection, result });
        result.is_ok()
    }
}

fn go_on_reading<R: Space, W: Pieces>(
    connection: ConnectionId,
    socket: &Socket<R, W>,
    told: Told,
    events: &mut Vec<Event<R, W>>,
) {
    let mut half = socket.reading();
    half.tell(told);
    if let Some(mut space) = half.pending.take() {
        match half.try_read(&mut space) {
            Some(result) => events.push(Event::Read { connection, space, result }),
            None => half.pending = Some(space),
        }
    } else if half.descriptor.is_some() && std::mem::take(&mut half.watched) {
        events.push(Event::Readable { connection });
    }
}

fn outcome_of_dial(descriptor: &OwnedFd) -> Result<(), Fault> {
    match sockopt::socket_error(descriptor) {
        Ok(Ok(())) => {}
        Ok(Err(number)) | Err(number) => return Err(errno::of_dial(number)),
    }
    let (near, far) = (getsockname(descriptor), getpeername(descriptor));
    match (near, far) {
        // TCP lets a socket connect to itself when the kernel gave it the very port that it dials: nobody listens.
        (Ok(near), Ok(Some(far))) if near == far => Err(Fault::Refused),
        (Ok(_), Ok(Some(_))) => Ok(()),
        (Ok(_), Ok(None)) => Err(Fault::Reset),
        (Err(number), _) | (_, Err(number)) => Err(errno::of_dial(number)),
    }
}

impl<R: Space, W: Pieces> Driver<R, W> for Epoll<R, W> {
    fn listen(&self, how: Listen) -> Result<Listening, ListenError> {
        let listener = ListenerId(self.name());
        self.doors().open(&self.poller, listener, how)
    }

    fn unlisten(&self, listener: ListenerId) {
        self.doors().shut(listener);
    }

    fn admit(&self, listener: ListenerId, admission: Admission) {
        self.doors().admit(&self.poller, listener, admission);
    }

    fn dial(&self, address: SocketAddr) -> ConnectionId {
        self.begin_dial(address).unwrap_or_else(|number| {
            let connection = ConnectionId(self.name());
            self.tell(Event::Dialed { connection, result: Err(errno::of_dial(number)) });
            connection
        })
    }

    fn read(&self, connection: ConnectionId, mut space: R) -> Submitted<R, Read> {
        let Some(socket) = self.socket(connection) else {
            return Submitted::Done { buffer: space, result: Err(Fault::Closed) };
        };
        let mut half = socket.reading();
        match half.try_read(&mut space) {
            Some(result) => Submitted::Done { buffer: space, result },
            None => {
                half.pending = Some(space);
                Submitted::Pending
            }
        }
    }

    fn read_now(&self, connection: ConnectionId, mut space: R) -> (R, Option<Result<Read, Fault>>) {
        let Some(socket) = self.socket(connection) else { return (space, Some(Err(Fault::Closed))) };
        let mut half = socket.reading();
        half.doubt();
        let result = half.try_read(&mut space);
        (space, result)
    }

    fn watch_for(&self, connection: ConnectionId, least: usize) {
        let Some(socket) = self.socket(connection) else { return };
        let mut half = socket.reading();
        // First, so that what comes from here on is told by this measure.
        half.expect(least);
        if half.descriptor.is_none() || half.watched {
            return;
        }
        // What is there already makes no edge.
        half.watched = !half.has_bytes();
        if !half.watched {
            drop(half);
            self.tell(Event::Readable { connection });
        }
    }

    fn write(&self, connection: ConnectionId, pieces: W) -> Submitted<W, usize> {
        let Some(socket) = self.socket(connection) else {
            return Submitted::Done { buffer: pieces, result: Err(Fault::Closed) };
        };
        let mut half = socket.writing();
        match half.try_write(&pieces) {
            Some(result) => Submitted::Done { buffer: pieces, result },
            None => {
                half.pending = Some(pieces);
                Submitted::Pending
            }
        }
    }

    fn shutdown(&self, connection: ConnectionId) -> Result<(), Fault> {
        let socket = self.socket(connection).ok_or(Fault::Closed)?;
        let mut half = socket.writing();
        let descriptor = half.descriptor.clone().ok_or(Fault::Closed)?;
        match half.stage {
            Stage::Dialing => return Err(Fault::Dialing),
            Stage::ShutDown => return Ok(()),
            Stage::Open if half.pending.is_some() => return Err(Fault::Busy),
            Stage::Open => half.stage = Stage::ShutDown,
        }
        shutdown(&*descriptor, Shutdown::Write).map_err(errno::fault)
    }

    fn close(&self, connection: ConnectionId) {
        let removed = self.table.write().unwrap_or_else(PoisonError::into_inner).sockets.remove(&connection);
        let Some(socket) = removed else { return };
        let (mut reading, mut writing) = (socket.reading(), socket.writing());
        if let Some(descriptor) = reading.descriptor.take() {
            let _ = epoll::delete(&self.poller, &*descriptor);
        }
        writing.descriptor = None;
        let (space, pieces) = (reading.pending.take(), writing.pending.take());
        drop((reading, writing));
        let mut results = self.results();
        let closed = Err(Fault::Closed);
        results.events.extend(space.map(|space| Event::Read { connection, space, result: closed }));
        let closed = Err(Fault::Closed);
        results.events.extend(pieces.map(|pieces| Event::Written { connection, pieces, result: closed }));
        results.events.push_back(Event::Closed { connection });
        self.ring(&results);
    }

    fn backlog(&self, connection: ConnectionId) -> Result<Backlog, Fault> {
        let socket = self.socket(connection).ok_or(Fault::Closed)?;
        let descriptor = socket.writing().descriptor.clone().ok_or(Fault::Closed)?;
        backlog::of(&*descriptor).map_err(errno::fault)
    }

    fn local_ip(&self, connection: ConnectionId) -> Option<IpAddr> {
        let descriptor = self.socket(connection)?.writing().descriptor.clone()?;
        let ours = SocketAddr::try_from(getsockname(&*descriptor).ok()?).ok()?.ip().to_canonical();
        let theirs = SocketAddr::try_from(getpeername(&*descriptor).ok()??).ok()?.ip().to_canonical();
        // The kernel leads what is for one of its own addresses past every interface.
        Some(if ours == theirs { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { ours })
    }

    fn poll(&self, timeout: Option<Duration>, events: &mut Vec<Event<R, W>>) {
        let mut timeout = timeout;
        let deadline_ns = self.doors().deadline_ns();
        if let Some(deadline_ns) = deadline_ns {
            let pause = Duration::from_nanos(deadline_ns.saturating_sub(clock::monotonic_ns()));
            timeout = Some(timeout.map_or(pause, |timeout| timeout.min(pause)));
        }
        let mut reported = [const { MaybeUninit::uninit() }; REPORTED_COUNT_MAX];
        for report in self.sleep(timeout, &mut reported) {
            let name = report.data.u64();
            if name == BELL {
                let _ = read(&self.bell, &mut [0u8; 8]);
            } else if self.doors().has(ListenerId(name)) {
                self.take_in(ListenerId(name), events);
            } else {
                self.go_on(ConnectionId(name), report.flags, events);
            }
        }
        // Mostly there is nothing to resume, and the clock costs more than the question.
        let mut doors = self.doors();
        if !doors.is_calm() {
            doors.resume(&self.poller, clock::monotonic_ns());
        }
        drop(doors);
        events.extend(self.results().events.drain(..));
    }

    fn wake(&self) {
        let mut results = self.results();
        results.woken = true;
        self.ring(&results);
    }

    fn now_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn counters(&self) -> Counters {
        self.doors().counters()
    }
}
