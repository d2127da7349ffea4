//! One connection of the network in memory: two ends and two pipes.
//!
//! A pipe behaves as TCP does for those who use it: what is written waits in the sender until it was acknowledged,
//! arrives in order and in pieces of any size, and stays in the sender while the receiver's buffer is full. Chance
//! decides how large the pieces are and when they arrive.
//!
//! It does not know hosts, listeners or drivers; `network.rs` says what happens when.
//!
//! Invariant: `unacknowledged` is what lies in `flight` plus what landed and was not acknowledged.

use std::collections::VecDeque;

use crate::driver::{ConnectionId, Fault};
use crate::fake::HostId;

/// Which of the two ends: the one that dialed, or the one that accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Dialed,
    Accepted,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Dialed, Self::Accepted];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Dialed => Self::Accepted,
            Self::Accepted => Self::Dialed,
        }
    }
}

/// What one end's kernel knows.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) host: HostId,
    /// None until it is accepted.
    pub(crate) connection: Option<ConnectionId>,
    /// Its process has it, or will be given it.
    pub(crate) open: bool,
    /// It has failed, and how.
    pub(crate) failed: Option<Fault>,
    /// It will send nothing more.
    pub(crate) shut: bool,
}

/// What is on its way: bytes, or the end of them.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) arrives_ns: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: bool,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    pub(crate) flight: VecDeque<Segment>,
    pub(crate) landed: VecDeque<u8>,
    pub(crate) ended: bool,
    pub(crate) unacknowledged: usize,
    /// Acknowledgements that a cut path keeps from the sender.
    pub(crate) withheld: usize,
    /// The receiver's buffer is full; the front waits for a read.
    pub(crate) blocked: bool,
    /// The path is cut, and since when; the front waits for it to heal.
    pub(crate) held_since_ns: Option<u64>,
    /// Until then the wire is busy with what was sent before.
    pub(crate) busy_until_ns: u64,
    /// Nothing overtakes.
    pub(crate) last_arrival_ns: u64,
}

impl Pipe {
    /// Whether a read would bring so many bytes, or fewer and no more will come.
    pub(crate) fn has_news(&self, least: usize) -> bool {
        self.landed.len() >= least || self.ended || self.blocked
    }

    /// Forgets what has not landed.
    pub(crate) fn lose(&mut self) {
        self.flight.clear();
        self.unacknowledged = 0;
        self.withheld = 0;
        self.held_since_ns = None;
        self.blocked = false;
    }

    /// Moves landed bytes into the spans.
    pub(crate) fn take(&mut self, spans: [&mut [u8]; 2], most: usize) -> usize {
        let mut left = most.min(self.landed.len());
        let taken = left;
        for span in spans {
            let count = left.min(span.len());
            for (place, byte) in span.iter_mut().zip(self.landed.drain(..count)) {
                *place = byte;
            }
            left -= count;
        }
        taken
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    dialed: End,
    accepted: End,
    out: Pipe,
    back: Pipe,
}

impl Stream {
    pub(crate) fn new(dialer: (HostId, ConnectionId), accepter: HostId) -> Self {
        let end = |host, connection| End { host, connection, open: true, failed: None, shut: false };
        Self {
            dialed: end(dialer.0, Some(dialer.1)),
            accepted: end(accepter, None),
            out: Pipe::default(),
            back: Pipe::default(),
        }
    }

    pub(crate) fn end(&self, side: Side) -> &End {
        match side {
            Side::Dialed => &self.dialed,
            Side::Accepted => &self.accepted,
        }
    }

    pub(crate) fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Dialed => &mut self.dialed,
            Side::Accepted => &mut self.accepted,
        }
    }

    /// The pipe that `side` writes.
    pub(crate) fn pipe(&self, side: Side) -> &Pipe {
        match side {
            Side::Dialed => &self.out,
            Side::Accepted => &self.back,
        }
    }

    pub(crate) fn pipe_mut(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Dialed => &mut self.out,
            Side::Accepted => &mut self.back,
        }
    }

    /// The hosts of a pipe that `side` writes: from where, to where.
    pub(crate) fn route(&self, side: Side) -> (HostId, HostId) {
        (self.end(side).host, self.end(side.other()).host)
    }

    /// The end has failed: what it sent and what is on its way to it is lost.
    pub(crate) fn fail(&mut self, side: Side, fault: Fault) {
        let end = self.end_mut(side);
        if end.failed.is_none() {
            end.failed = Some(fault);
        }
        self.pipe_mut(side).lose();
        self.pipe_mut(side.other()).lose();
    }
}
