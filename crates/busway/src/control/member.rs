//! The connection of a member to the holder of its rendezvous, and the search for one.
//!
//! A `Member` greets, sends what its owner gives it, and notices that a holder does not answer. A `Search` is the
//! state between two holders: when to try to connect, and from when on the lock may be tried. Both leave what
//! messages mean to `thread`.
//!
//! Invariant: a member of which the connection broke has nothing to send later: whatever is still valid is
//! registered again with the next holder.

use super::channel::{Channel, ChannelError, Enclosed, Received};
use busway_shm::arena::OwnArena;
use busway_shm::layout::layout_hash;
use busway_wire::Control as Message;
use busway_wire::limits::HOLDER_ANSWER_MS;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;

/// The first and the longest pause between two attempts to find a holder. A take-over is over in some 0.1 ms.
const PAUSE_NS_MIN: u64 = 500_000;
const PAUSE_NS_MAX: u64 = 50_000_000;

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Hello was said.
    Greeting,
    /// Welcomed: registrations may be sent.
    Joined,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Member {
    channel: Channel,
    pub(super) stage: Stage,
    /// Since when an answer is waited for.
    asked_ns: Option<u64>,
    /// Whether it was said that the holder does not answer.
    reported: bool,
}

impl Member {
    /// Connects and says Hello.
    pub(super) fn greet(
        address: &Path,
        own: &Arc<OwnArena>,
        name: &str,
        monitored: bool,
        now_ns: u64,
    ) -> Result<Member, ChannelError> {
        let mut channel = Channel::connect(address).map_err(ChannelError::System)?;
        let hello = Message::Hello {
            layout_hash: layout_hash(),
            process: own.process(),
            pid: std::process::id(),
            name: name.to_owned(),
            monitored,
        };
        channel.send(&hello, Enclosed::Own(Arc::clone(own)))?;
        Ok(Member { channel, stage: Stage::Greeting, asked_ns: Some(now_ns), reported: false })
    }

    /// Sends a message that the holder will answer.
    pub(super) fn ask(&mut self, message: &Message, now_ns: u64) -> Result<(), ChannelError> {
        self.asked_ns.get_or_insert(now_ns);
        self.channel.send(message, Enclosed::Nothing)
    }

    /// Sends a message that has no answer.
    pub(super) fn tell(&mut self, message: &Message) -> Result<(), ChannelError> {
        self.channel.send(message, Enclosed::Nothing)
    }

    /// As [`Member::tell`], with something beside it.
    pub(super) fn tell_with(&mut self, message: &Message, enclosed: Enclosed) -> Result<(), ChannelError> {
        self.channel.send(message, enclosed)
    }

    pub(super) fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Received, ChannelError> {
        let received = self.channel.receive(buffer)?;
        if let Received::Message(..) = received {
            self.asked_ns = None;
            self.reported = false;
        }
        Ok(received)
    }

    pub(super) fn flush(&mut self) -> Result<(), ChannelError> {
        self.channel.flush()
    }

    pub(super) fn wants_to_write(&self) -> bool {
        self.channel.wants_to_write()
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.channel.is_empty()
    }

    /// How many registrations may be sent now.
    pub(super) fn room(&self) -> usize {
        self.channel.room()
    }

    /// True once for each time that the holder leaves us without an answer for too long.
    pub(super) fn misses_answer(&mut self, now_ns: u64) -> bool {
        let late = self.silent_at_ns().is_some_and(|at| now_ns >= at);
        if late {
            self.reported = true;
        }
        late
    }

    /// When `misses_answer` will have something to say.
    pub(super) fn silent_at_ns(&self) -> Option<u64> {
        let asked = self.asked_ns.filter(|_| !self.reported)?;
        Some(asked.saturating_add(HOLDER_ANSWER_MS * 1_000_000))
    }
}

impl AsFd for Member {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Whom the next holder is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Ours: the last holder named us, so only the lock is tried.
    Ours,
    /// Anybody's: connect, and where nobody listens try the lock.
    Anybodys,
}

/// Looking for a holder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    pub(super) turn: Turn,
    /// When to try next.
    pub(super) next_ns: u64,
    /// The lock is left to others until then.
    pub(super) lock_from_ns: u64,
    pause_ns: u64,
    /// When it was first seen that a holder has died who had members.
    orphans_since_ns: Option<u64>,
}

impl Search {
    pub(super) fn new(turn: Turn, now_ns: u64, lock_from_ns: u64) -> Search {
        Search { turn, next_ns: now_ns, lock_from_ns, pause_ns: PAUSE_NS_MIN, orphans_since_ns: None }
    }

    /// Tries again after a pause that doubles.
    pub(super) fn later(&mut self, now_ns: u64) {
        self.next_ns = now_ns.saturating_add(self.pause_ns);
        self.pause_ns = (self.pause_ns * 2).min(PAUSE_NS_MAX);
    }

    /// Leaves the lock to the members of a dead holder for `grace_ns` after they were first noticed.
    pub(super) fn yield_to_orphans(&mut self, now_ns: u64, grace_ns: u64) {
        let since = *self.orphans_since_ns.get_or_insert(now_ns);
        self.lock_from_ns = self.lock_from_ns.max(since.saturating_add(grace_ns));
        // They are there within a millisecond or so: do not miss them by pausing long.
        self.pause_ns = self.pause_ns.min(4 * PAUSE_NS_MIN);
    }
}

/// What a failed connect says about the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoConnection {
    /// There is no socket.
    NoSocket,
    /// There is a socket that nobody listens on: its holder has died or is moving.
    NobodyListens,
    /// Somebody listens, and is behind with accepting.
    Busy,
    /// The kernel refuses for another reason.
    Refused(Errno),
}

impl NoConnection {
    pub(super) fn from_error(error: &ChannelError) -> NoConnection {
        match error {
            ChannelError::System(Errno::NOENT) => NoConnection::NoSocket,
            ChannelError::System(Errno::CONNREFUSED) | ChannelError::HungUp => NoConnection::NobodyListens,
            ChannelError::System(Errno::AGAIN | Errno::INTR) => NoConnection::Busy,
            ChannelError::System(errno) => NoConnection::Refused(*errno),
            ChannelError::Shortened
            | ChannelError::DescriptorsLost
            | ChannelError::Unmapped(_)
            | ChannelError::Undecodable(_)
            | ChannelError::Unencodable(_)
            | ChannelError::Overflow => NoConnection::Busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAUSE_NS_MAX, Search, Turn};

    #[test]
    fn pauses_of_a_search_double_up_to_their_bound() {
        let mut search = Search::new(Turn::Anybodys, 0, 0);
        let mut last = 0;
        for _ in 0..20 {
            search.later(0);
            assert!(search.next_ns >= last && search.next_ns <= PAUSE_NS_MAX);
            last = search.next_ns;
        }
        assert_eq!(last, PAUSE_NS_MAX);
    }

    #[test]
    fn orphans_get_their_time_once_from_when_they_were_noticed() {
        let mut search = Search::new(Turn::Anybodys, 5, 0);
        search.yield_to_orphans(10, 100);
        search.yield_to_orphans(90, 100);
        assert_eq!(search.lock_from_ns, 110);
    }
}
