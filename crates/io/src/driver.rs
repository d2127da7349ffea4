//! The contract between those who move bytes and those who know what they mean.
//!
//! Work is *submitted* and *completes*. A read or a write takes its buffer by value; the driver owns it until the
//! work is done and gives it back with the result, either at once ([`Submitted::Done`]) or as an [`Event`] of a
//! later [`Driver::poll`].
//!
//! Why by value: a driver on completions (`io_uring`) leaves the buffer with the kernel, which writes to it when it
//! likes. A borrowed slice would have to be copied or waited for; what the driver owns it can put in a box, hand its
//! address to the kernel, and free when the completion has come, also after `close`. A driver on readiness
//! (`epoll`) tries at once and keeps the buffer only where the kernel says "later", so it loses nothing. What a
//! completion driver needs is therefore all here, and it adds a file:
//!
//! | here | on readiness | on completions |
//! | --- | --- | --- |
//! | `listen`, `Accepted` | a burst of `accept4` when the listener is readable | a multishot accept |
//! | `dial`, `Dialed` | `connect`, then writable, then `SO_ERROR` | a connect |
//! | `read` | `readv` now, or when readable | a `readv`; a box holds the space |
//! | `write` | `sendmsg` now, or when writable | a `sendmsg` or its zero-copy form |
//! | `watch`, `Readable` | the readiness that is known anyway, from `SO_RCVLOWAT` bytes on | a one-shot poll, so that an idle connection needs no buffer |
//! | `close`, then the buffers, then `Closed` | at once | cancel, wait for what is in flight, close |
//! | `wake` | an eventfd | an eventfd, or a message to the ring |
//!
//! Every method takes `&self`: one thread sleeps in `poll` while others submit. A driver does not know what bytes
//! mean, who the peer is, when to dial again, or how long a connect may take: who decides so calls `close`.
//!
//! Invariant: each buffer that was submitted comes back exactly once. A [`ConnectionId`] is never used again.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Pieces that one write looks at. A system call takes 1024 at most; 256 of 1 KiB are as much as a batch of the
/// link holds, and their table fits a page of the stack. What lies behind them goes with the next write.
pub const PIECES_COUNT_MAX: usize = 256;

/// One connection of a driver, dialed or accepted. Counted up and never used again, so that an event that comes
/// late cannot be taken for one of another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What a kernel has of what was written to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes that the peer's kernel has not acknowledged.
    pub unacknowledged: u64,
    /// Bytes, about, that wait in this host behind what else leaves it: with what goes around them, and without what the
    /// kernel keeps back because the way or the peer is slow.
    pub here: u64,
}

/// One address that a driver listens at. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u64);

/// Where a read puts bytes: first the one span, then the other. So the rest of a large payload lands in its chunk,
/// and what follows it in the staging buffer. The second may be empty.
pub trait Space: Send + 'static {
    /// The same spans each time, until the space was given back.
    fn spans(&mut self) -> [&mut [u8]; 2];
}

/// What a write sends, in order, piece by piece.
pub trait Pieces: Send + 'static {
    /// The same pieces each time, until they were given back.
    fn pieces(&self) -> impl Iterator<Item = &[u8]>;
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Port 0 lets the kernel choose; [`Listening`] says which.
    pub address: SocketAddr,
    /// Connections that the kernel holds for us until they are accepted. It cuts this to its own limit.
    pub backlog: u16,
    /// Sent to those for whom no descriptor is left, before they are closed: why, in the words of the protocol.
    /// As it can only be tried, and not waited for, it must fit a socket's buffer: more than 4 KiB is cut.
    pub refusal: Vec<u8>,
}

/// Whether newcomers are taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// As they come.
    Open,
    /// They wait in the kernel.
    Held,
}

/// A listener that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Its name in events.
    pub listener: ListenerId,
    /// Where it really listens.
    pub address: SocketAddr,
}

/// Why nobody can be listened for at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub fault: Fault,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen at {}: {}", self.address, self.fault)
    }
}

impl std::error::Error for ListenError {}

/// Why something could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nobody listens there.
    Refused,
    /// There is no way to the address.
    Unreachable,
    /// The peer, or something between, has cut the connection.
    Reset,
    /// The peer has not answered for as long as the kernel tries.
    TimedOut,
    /// Somebody else listens at the address.
    AddressInUse,
    /// The address is not one of this host.
    AddressUnknown,
    /// The kernel forbids it.
    Denied,
    /// Descriptors, memory or ports have run out.
    Shortage,
    /// We have closed the connection, or there is none of this name.
    Closed,
    /// Our own half was shut down before.
    ShutDown,
    /// One such operation is in flight already.
    Busy,
    /// There is no room in the space, or no piece: such an operation would never be done.
    Empty,
    /// The connection is not made yet.
    Dialing,
    /// Anything else, by the kernel's number.
    System(i32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Refused => "connection refused: nobody listens there",
            Self::Unreachable => "unreachable",
            Self::Reset => "connection reset",
            Self::TimedOut => "timed out",
            Self::AddressInUse => "address already in use",
            Self::AddressUnknown => "no such address on this host",
            Self::Denied => "permission denied",
            Self::Shortage => "out of descriptors, memory or ports",
            Self::Closed => "closed",
            Self::ShutDown => "already shut down for writing",
            Self::Busy => "the one before it is not done yet",
            Self::Empty => "nothing to read into or to write",
            Self::Dialing => "not connected yet",
            Self::System(errno) => return write!(f, "system error {errno}"),
        };
        f.write_str(text)
    }
}

impl std::error::Error for Fault {}

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one: the first span is filled before the second.
    Bytes(usize),
    /// The peer sends nothing more. It may still read.
    End,
}

/// What became of a submission.
#[derive(Debug)]
pub enum Submitted<B, T> {
    /// It is done, or cannot be done. No event follows.
    Done {
        /// The buffer, back again.
        buffer: B,
        /// What came of it.
        result: Result<T, Fault>,
    },
    /// The driver keeps the buffer; an event brings it back.
    Pending,
}

/// What has happened.
#[derive(Debug)]
pub enum Event<R, W> {
    /// A peer has come. Nothing of it was read yet.
    Accepted {
        /// Where it came in.
        listener: ListenerId,
        /// Its name from now on.
        connection: ConnectionId,
        /// From where it came.
        peer: SocketAddr,
    },
    /// A dialed connection stands, or will not. After a failure the connection is gone and needs no `close`.
    Dialed {
        /// Which.
        connection: ConnectionId,
        /// Whether it stands.
        result: Result<(), Fault>,
    },
    /// A connection that is watched has bytes, has ended, or has failed: the next read says which.
    Readable {
        /// Which.
        connection: ConnectionId,
    },
    /// A read is done.
    Read {
        /// On which connection.
        connection: ConnectionId,
        /// The space, back again.
        space: R,
        /// What it brought.
        result: Result<Read, Fault>,
    },
    /// A write is done.
    Written {
        /// On which connection.
        connection: ConnectionId,
        /// The pieces, back again.
        pieces: W,
        /// The bytes that are on their way, at least one, maybe not all.
        result: Result<usize, Fault>,
    },
    /// The last event of a connection that was closed: its buffers are back and its descriptor is free.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
}

/// What a driver has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Peers refused because no descriptor was left.
    pub refused: u64,
    /// Peers that had gone before they were accepted.
    pub aborted: u64,
    /// Times that accepting was paused because no descriptor or memory was left.
    pub pauses: u64,
}

/// Moves bytes. The module says why it looks as it does.
pub trait Driver<R: Space, W: Pieces> {
    /// Begins to listen. Peers come as [`Event::Accepted`], in bursts of bounded length, so that a storm of
    /// newcomers does not starve those who are there. While no descriptor is left, newcomers are refused with
    /// [`Listen::refusal`] as far as the one descriptor that is kept for it allows, counted, and after that left to
    /// wait in the kernel for a while.
    fn listen(&self, how: Listen) -> Result<Listening, ListenError>;

    /// Ends listening. Peers that the kernel has taken in and we have not accepted are reset.
    fn unlisten(&self, listener: ListenerId);

    /// Takes in who comes, or leaves newcomers to the kernel, which holds as many as [`Listen::backlog`] says. A
    /// listener begins open.
    fn admit(&self, listener: ListenerId, admission: Admission);

    /// Begins to connect; [`Event::Dialed`] tells the outcome, whatever it is. Who does not want to wait closes.
    fn dial(&self, address: SocketAddr) -> ConnectionId;

    /// Reads once, as soon as there is something. One read at a time.
    fn read(&self, connection: ConnectionId, space: R) -> Submitted<R, Read>;

    /// Reads once, if that is possible now; the space comes back in any case, with `None` where nothing is there. It
    /// asks the kernel whatever the driver has heard, so it also sees what nobody has polled for.
    fn read_now(&self, connection: ConnectionId, space: R) -> (R, Option<Result<Read, Fault>>);

    /// Asks for one [`Event::Readable`] as soon as a read would be done at once. So a connection that is idle
    /// needs no buffer. A second call before the event changes nothing; one for a connection that is gone neither.
    fn watch(&self, connection: ConnectionId) {
        self.watch_for(connection, 1);
    }

    /// As [`Driver::watch`], for who has no use for less than `least` bytes: the event may wait until so many are there,
    /// and comes with fewer where more will not come: the peer has ended or failed, or the kernel takes no more. A second
    /// call before the event changes how many.
    fn watch_for(&self, connection: ConnectionId, least: usize);

    /// Writes once, as soon as there is room: the first [`PIECES_COUNT_MAX`] pieces or a part of them. One write
    /// at a time.
    fn write(&self, connection: ConnectionId, pieces: W) -> Submitted<W, usize>;

    /// Tells the peer that nothing more will come, behind what was written. Reading goes on.
    fn shutdown(&self, connection: ConnectionId) -> Result<(), Fault>;

    /// Ends the connection. What is in flight comes back with [`Fault::Closed`], then comes [`Event::Closed`]. What
    /// was written and lies in the kernel is still sent, unless the peer has bytes here that nobody has read.
    /// Closing twice does nothing.
    fn close(&self, connection: ConnectionId);

    /// What was written and is not done with.
    fn backlog(&self, connection: ConnectionId) -> Result<Backlog, Fault>;

    /// An address of our own that says by which interface a connection leaves: one of the loopback where it leads to this
    /// host, whichever of its addresses was dialed. `None` where it is gone.
    fn local_ip(&self, connection: ConnectionId) -> Option<IpAddr>;

    /// Appends what has happened to `events`. It returns as soon as there is something, somebody has called
    /// `wake`, or `timeout` has passed; without one it waits for ever. It may return early with nothing.
    fn poll(&self, timeout: Option<Duration>, events: &mut Vec<Event<R, W>>);

    /// Makes `poll` return, now or the next time it is called.
    fn wake(&self);

    /// Nanoseconds on the driver's clock, which never goes back.
    fn now_ns(&self) -> u64;

    /// What was counted.
    fn counters(&self) -> Counters;
}
