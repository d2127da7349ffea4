//! One connection of the control plane: whole messages with descriptors beside them, never blocking.
//!
//! A `Channel` turns control messages into datagrams of a SOCK_SEQPACKET socket and back. What the socket does not
//! take waits in a queue that is bounded in bytes and messages (and so in descriptors); past either bound the
//! channel reports an overflow and its owner hangs up. It never reconnects and knows no meaning of any message.
//!
//! Invariant: a message is given out only if it arrived whole: not shortened, with all of its descriptors, with a
//! checksum that fits. Anything else is an error after which the channel must be dropped.

use crate::error::{Code, Error, system};
use busway_shm::arena::OwnArena;
use busway_shm::claims::file::ClaimsFile;
use busway_shm::domain::Domain;
use busway_shm::error::ShmError;
use busway_shm::fork::PrivateFd;
use busway_shm::sys::credentials::{self, Credentials};
use busway_wire::limits::{
    CONTROL_BYTES_MAX, MEMBER_QUEUE_ASKS_MAX, MEMBER_QUEUE_BYTES_MAX, MEMBER_QUEUE_FDS_MAX,
    MEMBER_QUEUE_MESSAGES_MAX,
};
use busway_wire::{Control, DecodeError, EncodeError};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;

/// The most descriptors beside one message: arena and bulk.
pub(super) const DESCRIPTORS_MAX: usize = 2;

/// The most descriptors that are taken beside one message: another version may send more with its Hello, and is to be told
/// that it is another version.
const DESCRIPTORS_TAKEN_MAX: usize = 8;

/// Up to here answers to standing queries are queued ahead: enough to fill a socket buffer, not more.
pub(super) const QUEUE_MESSAGES_AHEAD: usize = 64;

const _: () =
    assert!(QUEUE_MESSAGES_AHEAD < MEMBER_QUEUE_MESSAGES_MAX / 4, "pulled answers leave room for relays");
const _: () = assert!(
    MEMBER_QUEUE_MESSAGES_MAX * DESCRIPTORS_MAX <= MEMBER_QUEUE_FDS_MAX,
    "bounded messages bound the descriptors that wait"
);

/// The descriptors of one member: arena and bulk, as they came with its Hello. A child made by fork does not get them:
/// it would keep the member's memory when the member is gone.
#[derive(Debug)]
pub(super) struct MemberFds {
    pub(super) arena: PrivateFd,
    pub(super) bulk: PrivateFd,
}

/// What goes beside a message. Cloning costs a count, no descriptor.
#[derive(Clone, Debug)]
pub(super) enum Enclosed {
    /// No descriptor.
    Nothing,
    /// Our own arena and bulk.
    Own(Arc<OwnArena>),
    /// Those of another process.
    Member(Arc<MemberFds>),
    /// The domain segment.
    Domain(Arc<Domain>),
    /// Our own claims file.
    OwnClaims(Arc<ClaimsFile>),
    /// That of another process.
    Claims(Arc<PrivateFd>),
}

impl Enclosed {
    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Enclosed::Nothing => Vec::new(),
            Enclosed::Own(own) => vec![own.arena_fd(), own.bulk_fd()],
            Enclosed::Member(fds) => vec![fds.arena.as_fd(), fds.bulk.as_fd()],
            Enclosed::Domain(domain) => vec![domain.fd()],
            Enclosed::OwnClaims(claims) => vec![claims.fd()],
            Enclosed::Claims(fd) => vec![fd.as_fd()],
        }
    }

    /// Arena and bulk, if that is what it is.
    pub(super) fn member(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        match self.borrowed()[..] {
            [arena, bulk] => Some((arena, bulk)),
            _ => None,
        }
    }
}

impl Enclosed {
    /// The one descriptor, if that is what it is.
    pub(super) fn single(&self) -> Option<BorrowedFd<'_>> {
        match self.borrowed()[..] {
            [fd] => Some(fd),
            _ => None,
        }
    }

    /// A claims file, if one descriptor came.
    pub(super) fn claims_from(fds: Vec<OwnedFd>) -> Option<Enclosed> {
        let [claims] = <[OwnedFd; 1]>::try_from(fds).ok()?;
        Some(Enclosed::Claims(Arc::new(PrivateFd::new(claims).ok()?)))
    }
}

impl MemberFds {
    /// The two descriptors of a member, if they are two.
    pub(super) fn from_received(fds: Vec<OwnedFd>) -> Option<MemberFds> {
        let [arena, bulk] = <[OwnedFd; 2]>::try_from(fds).ok()?;
        // Refused only in a process that could never keep anything from its children: that one has no bus.
        Some(MemberFds { arena: PrivateFd::new(arena).ok()?, bulk: PrivateFd::new(bulk).ok()? })
    }
}

/// Why a channel is over. Each says who must act.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// The other side has closed, or its process has ended.
    #[error("the peer hung up")]
    HungUp,
    /// A datagram longer than any control message.
    #[error("the peer sent more than {CONTROL_BYTES_MAX} bytes at once")]
    Shortened,
    /// The kernel could not give us the descriptors beside a message: there were too many, or we have none left.
    #[error("descriptors beside a message were lost")]
    DescriptorsLost,
    /// What lay beside a message could not be mapped, for something that was short: it is not said twice on one connection.
    #[error("the memory of a process could not be mapped")]
    Unmapped(Error),
    /// The bytes are no control message.
    #[error("the peer sent what is no control message: {0}")]
    Undecodable(DecodeError),
    /// A message of ours is too long to be sent: a name or a list that was not bounded before.
    #[error("a message to the peer is too long: {0}")]
    Unencodable(EncodeError),
    /// The peer does not read what is sent to it.
    #[error(
        "the peer does not read: more than {MEMBER_QUEUE_MESSAGES_MAX} messages or {MEMBER_QUEUE_ASKS_MAX} requests for seats wait for it"
    )]
    Overflow,
    /// The kernel refused.
    #[error("the kernel refused: {0}")]
    System(Errno),
}

/// What `receive` found.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing is there now.
    Nothing,
    /// A whole message and what lay beside it.
    Message(Control, Vec<OwnedFd>),
}

#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    enclosed: Enclosed,
    /// A request for a seat, which is counted apart: how many of them come is not up to who is to read them.
    asks: bool,
}

/// One connection: a non-blocking socket and what waits to be sent.
#[derive(Debug)]
pub(super) struct Channel {
    // A child made by fork must not keep the connection open: the hang-up is a witness of our death.
    socket: PrivateFd,
    queue: VecDeque<Queued>,
    /// Of it, how many are requests for seats, and how many bytes all others have.
    queued_asks: usize,
    queued_bytes: usize,
    /// The kernel refuses for a reason that no readiness event will end.
    stuck: bool,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Result<Channel, ShmError> {
        let (queue, queued_asks, queued_bytes) = (VecDeque::new(), 0, 0);
        Ok(Channel { socket: PrivateFd::new(socket)?, queue, queued_asks, queued_bytes, stuck: false })
    }

    /// Connects without waiting: a listener whose backlog is full answers EAGAIN.
    pub(super) fn connect(address: &Path) -> Result<Channel, Errno> {
        let socket = seqpacket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(address)?)?;
        Channel::new(socket).map_err(|error| match error {
            ShmError::System { errno, .. } => errno,
            _ => Errno::MFILE,
        })
    }

    /// Sends, or queues behind what waits already.
    pub(super) fn send(&mut self, message: &Control, enclosed: Enclosed) -> Result<(), ChannelError> {
        let mut bytes = Vec::new();
        busway_wire::encode(message, &mut bytes).map_err(ChannelError::Unencodable)?;
        let asks = matches!(message, Control::Attach { .. } | Control::Join { .. });
        let full = if asks {
            self.queued_asks >= MEMBER_QUEUE_ASKS_MAX
        } else {
            self.queue.len() - self.queued_asks >= MEMBER_QUEUE_MESSAGES_MAX
                || self.queued_bytes + bytes.len() > MEMBER_QUEUE_BYTES_MAX
        };
        if full {
            return Err(ChannelError::Overflow);
        }
        if asks {
            self.queued_asks += 1;
        } else {
            self.queued_bytes += bytes.len();
        }
        self.queue.push_back(Queued { bytes, enclosed, asks });
        self.flush()
    }

    /// Whether the other side has closed it, as far as the kernel knows now.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Sends what waits until the socket takes no more.
    pub(super) fn flush(&mut self) -> Result<(), ChannelError> {
        self.stuck = false;
        while let Some(first) = self.queue.front() {
            match send_now(&self.socket, &first.bytes, &first.enclosed.borrowed()) {
                Ok(()) => {
                    if first.asks {
                        self.queued_asks -= 1;
                    } else {
                        self.queued_bytes -= first.bytes.len();
                    }
                    self.queue.pop_front();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                // This user has too much under way now. It passes as others read; the next tick tries again.
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => {
                    self.stuck = true;
                    return Ok(());
                }
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(ChannelError::HungUp),
                Err(errno) => return Err(ChannelError::System(errno)),
            }
        }
        debug_assert_eq!((self.queued_bytes, self.queued_asks), (0, 0), "an empty queue holds nothing");
        Ok(())
    }

    /// Takes one datagram, if there is one. `buffer` is scratch that the caller lends to all of its channels.
    pub(super) fn receive(&self, buffer: &mut Vec<u8>) -> Result<Received, ChannelError> {
        // One more than allowed, so that a longer datagram is told from one that just fits.
        buffer.resize(CONTROL_BYTES_MAX + 1, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_TAKEN_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN) => return Err(ChannelError::HungUp),
                Err(errno) => return Err(ChannelError::System(errno)),
            }
        };
        // Taken into owners first: whatever is wrong below, they are closed.
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > DESCRIPTORS_TAKEN_MAX {
            return Err(ChannelError::DescriptorsLost);
        }
        if received.flags.contains(ReturnFlags::TRUNC) || received.bytes > CONTROL_BYTES_MAX {
            return Err(ChannelError::Shortened);
        }
        if received.bytes == 0 {
            return Err(ChannelError::HungUp);
        }
        let message = busway_wire::decode(&buffer[..received.bytes]).map_err(ChannelError::Undecodable)?;
        Ok(Received::Message(message, fds))
    }

    /// Whether something waits for the socket to take more.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.queue.is_empty() && !self.stuck
    }

    /// Whether everything has been taken by the socket.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many answers to standing queries may be queued now.
    pub(super) fn room(&self) -> usize {
        QUEUE_MESSAGES_AHEAD.saturating_sub(self.queue.len())
    }

    /// Who is at the other end, as the kernel says.
    pub(super) fn credentials(&self) -> Result<Credentials, ShmError> {
        credentials::of(&self.socket)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A new non-blocking socket of the control plane's kind.
pub(super) fn seqpacket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

fn send_now(socket: &PrivateFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(
            ancillary.push(SendAncillaryMessage::ScmRights(fds)),
            "the space is made for the most there are"
        );
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // A datagram goes whole or not at all, so the count needs no look.
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags).map(drop)
}

/// What a user is told about a channel that failed.
pub(super) fn explain(error: &ChannelError, place: &str) -> Error {
    match error {
        ChannelError::System(errno) => {
            system(*errno, "the control socket failed", Code::SocketUnusable).at(place)
        }
        ChannelError::DescriptorsLost => {
            Error::new(Code::Descriptors, "descriptors from the rendezvous could not be received")
                .at(place)
                .remedy("raise the limit: ulimit -n 4096")
        }
        ChannelError::Unmapped(error) => error.clone(),
        ChannelError::HungUp | ChannelError::Overflow => Error::new(Code::HolderSilent, error.to_string())
            .at(place)
            .remedy("try again; `busway doctor` shows who holds the rendezvous"),
        ChannelError::Shortened | ChannelError::Undecodable(_) | ChannelError::Unencodable(_) => {
            Error::new(Code::ProtocolBroken, error.to_string())
                .at(place)
                .remedy("use the same version of busway everywhere")
        }
    }
}

#[cfg(test)]
mod tests;
