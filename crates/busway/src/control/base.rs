//! What the control thread has whatever its role: its epoll, its peers, its lock, and its log.
//!
//! It is the ground under `member` and `holder`, and decides nothing.
//!
//! Invariant: a descriptor is in the epoll under one token, and leaves it before it is closed: a process that is
//! being spawned may keep it open for a moment longer.

use super::channel::{Enclosed, MemberFds};
use super::lock::LockFile;
use super::peers::Peers;
use super::rendezvous::MemberId;
use super::shared::Shared;
use super::{ControlSettings, Ports};
use crate::directory::{Directory, DomainName};
use crate::log::Log;
use busway_shm::arena::OwnArena;
use busway_shm::fork::PrivateFd;
use busway_wire::{Control as Message, ProcessId};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::collections::VecDeque;
use std::sync::Arc;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A caller has something for the thread.
    Wake,
    /// The connection to the holder.
    Holder,
    /// The listening socket.
    Listener,
    /// The connection of a member.
    Member(MemberId),
}

impl Token {
    const MEMBERS_FROM: u64 = 16;

    fn number(self) -> u64 {
        match self {
            Token::Wake => 0,
            Token::Holder => 1,
            Token::Listener => 2,
            Token::Member(MemberId(id)) => Token::MEMBERS_FROM + id,
        }
    }

    fn from_number(number: u64) -> Token {
        match number {
            0 => Token::Wake,
            1 => Token::Holder,
            2 => Token::Listener,
            other => Token::Member(MemberId(other.saturating_sub(Token::MEMBERS_FROM))),
        }
    }
}

/// What a descriptor is watched for. A hang-up is always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Nothing,
    Read,
    ReadAndWrite,
}

impl Interest {
    /// Reading always; writing if something waits.
    pub(super) fn of(wants_to_write: bool) -> Interest {
        if wants_to_write { Interest::ReadAndWrite } else { Interest::Read }
    }

    fn flags(self) -> EventFlags {
        match self {
            Interest::Nothing => EventFlags::empty(),
            Interest::Read => EventFlags::IN,
            Interest::ReadAndWrite => EventFlags::IN | EventFlags::OUT,
        }
    }
}

/// What lay beside a message for us.
#[derive(Debug)]
pub(super) enum Beside {
    /// Descriptors that came through the socket.
    Received(Vec<OwnedFd>),
    /// From our own rendezvous: somebody's descriptors, which it keeps.
    Own(Option<Enclosed>),
}

impl Beside {
    /// Arena and bulk, if that is what lay there.
    pub(super) fn into_member(self) -> Option<Enclosed> {
        match self {
            Beside::Received(fds) => MemberFds::from_received(fds).map(|fds| Enclosed::Member(Arc::new(fds))),
            Beside::Own(enclosed) => enclosed,
        }
    }

    /// A claims file, if that is what lay there.
    pub(super) fn into_claims(self) -> Option<Enclosed> {
        match self {
            Beside::Received(fds) => Enclosed::claims_from(fds),
            Beside::Own(enclosed) => enclosed.filter(|enclosed| enclosed.single().is_some()),
        }
    }
}

/// See the head of this file.
pub(super) struct Base {
    pub(super) settings: ControlSettings,
    pub(super) directory: Directory,
    pub(super) domain: DomainName,
    pub(super) arena: Arc<OwnArena>,
    pub(super) ports: Arc<dyn Ports>,
    pub(super) shared: Arc<Shared>,
    pub(super) lock: LockFile,
    pub(super) peers: Peers,
    /// Messages for this process, in order.
    pub(super) inbox: VecDeque<(Message, Beside)>,
    pub(super) log: Log,
    /// Room for one datagram, lent to whichever connection is read.
    pub(super) buffer: Vec<u8>,
    pub(super) epoll: PrivateFd,
}

impl Base {
    /// The process itself.
    pub(super) fn process(&self) -> ProcessId {
        self.arena.process()
    }

    pub(super) fn watch(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.number()), interest.flags())
    }

    pub(super) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) {
        // It can only fail for a descriptor that is not watched: then there is nothing to change.
        let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(token.number()), interest.flags());
    }

    pub(super) fn unwatch(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Sleeps until something happens, at most so long.
    pub(super) fn sleep(&self, timeout_ns: u64, events: &mut Vec<Event>) -> Vec<Token> {
        events.clear();
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout_ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(timeout_ns % 1_000_000_000).unwrap_or(0),
        };
        // An error (EINTR) is an early wake-up: everything is looked at again anyway.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout));
        events.iter().map(|event| Token::from_number(event.data.u64())).collect()
    }
}
