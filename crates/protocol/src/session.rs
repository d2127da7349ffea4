//! All that we have with one peer: its link while there is one, our sources there, its sources here, what is wanted.
//!
//! A session outlives its connections. It remembers how far each source has come, so that after a reconnect a
//! reliable source loses nothing and delivers nothing twice, and of any other each message is either delivered or
//! told as lost with its cause. Rings, rows and connections are the caller's; the session says what to do with
//! them by `Output`s, to be carried out in order and before the `Delivery` of the same call.
//!
//! Invariant: for each source, sent = acknowledged + lost by a named cause + in flight.

use alloc::string::String;
use alloc::vec::Vec;
use core::marker::PhantomData;

use busway_wire::link::{Announce, Hello};
use busway_wire::{Cause, Header, Pattern, PortId};

use crate::batch::Batch;
use crate::error::Closed;
use crate::link::{Config, Deadline, Link, State, Stats};
use crate::time::{PeerId, Time};

/// Where a session puts what is to be done.
pub type Outbox = Vec<Output>;

/// What the caller tells a session.
#[derive(Clone, Debug)]
pub enum Input<P> {
    /// We want these topics of the peer.
    Want {
        /// Our number for it.
        id: u32,
        /// The topics.
        pattern: Pattern,
        /// Whether the publishers are to wait for us.
        reliable: bool,
    },
    /// We no longer want them.
    Unwant {
        /// Our number for it.
        id: u32,
    },
    /// A local ring that the peer wants has a row of ours now.
    Source {
        /// What the peer is told of it.
        announce: Announce,
        /// The first sequence that the row reads.
        next: u64,
    },
    /// That row reads no more.
    SourceGone {
        /// The source.
        source: PortId,
        /// The last sequence that was, or will have been, told by `Publish` or `Lost`.
        last: u64,
    },
    /// The row's next message. Only after `next_source` named the source, and at most one each time.
    Publish {
        /// The source.
        source: PortId,
        /// The message's header as it lies in the ring; sequence, kind, flags, topic, time, correlation and
        /// extensions are used.
        header: Header,
        /// What follows the header: extensions, then payload.
        payload: P,
    },
    /// Messages that the row has lost, before its next. Only after `next_source` named the source.
    Lost {
        /// The source.
        source: PortId,
        /// The first.
        from: u64,
        /// The last.
        to: u64,
        /// Why.
        cause: Cause,
    },
    /// The relay ring that `Output::OpenRelay` asked for is there: the peer may send.
    RelayOpened {
        /// The source.
        source: PortId,
    },
    /// It is not: another peer's live session has that source (`SpoofedSource`), or there is no room
    /// (`LinkBudget`). What comes of it is dropped and counted.
    RelayRefused {
        /// The source.
        source: PortId,
        /// Why.
        cause: Cause,
    },
    /// All up to this sequence stands in the relay ring: messages, and the gaps of `Output::RelayGap`.
    Published {
        /// The source.
        source: PortId,
        /// The last sequence.
        sequence: u64,
    },
    /// A delivered message could not be kept. It counts as passed, and as dropped.
    Dropped {
        /// The source.
        source: PortId,
        /// Its sequence.
        sequence: u64,
        /// Why.
        cause: Cause,
    },
    /// A delivered message waits for room in the relay ring; `Published` follows when it has it.
    Suspended {
        /// The source.
        source: PortId,
    },
    /// Settle what is under way, then close.
    Drain {
        /// What the peer is told.
        reason: String,
    },
    /// The time has come that `deadline` named, or may have.
    Tick,
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The link stands.
    Established {
        /// What the peer said of itself.
        hello: Hello,
        /// Whether the peer has been started again since the last link, and has forgotten all.
        restarted: bool,
    },
    /// The peer wants topics of ours: give it a row at each ring that matches, with `Input::Source`.
    PeerWants {
        /// The peer's number for it.
        id: u32,
        /// The topics.
        pattern: Pattern,
        /// Whether our publishers are to wait for it.
        reliable: bool,
    },
    /// It no longer does.
    PeerUnwants {
        /// The peer's number for it.
        id: u32,
    },
    /// A source of the peer matches what we want: open a relay ring, or find the one that is there, and answer
    /// with `Input::RelayOpened` or `Input::RelayRefused`.
    OpenRelay {
        /// The source.
        announce: Announce,
    },
    /// No message of this source will come any more.
    CloseRelay {
        /// The source.
        source: PortId,
    },
    /// A reliable row's cursor may move: the peer has all up to `to`.
    Pass {
        /// The source.
        source: PortId,
        /// The last sequence that is not needed any more.
        to: u64,
    },
    /// Read this row again from `to` + 1 on.
    Rewind {
        /// The source.
        source: PortId,
        /// The last sequence that the peer has.
        to: u64,
    },
    /// Messages of a source that will never come: put a gap into the relay ring, behind what was delivered
    /// before, and answer with `Input::Published` of `to`.
    RelayGap {
        /// The source.
        source: PortId,
        /// The first.
        from: u64,
        /// The last.
        to: u64,
        /// Why.
        cause: Cause,
        /// On which link, for people.
        link: String,
    },
    /// Write what `transmit` still has, then close the connection and say `disconnected`.
    Close {
        /// Why.
        reason: Closed,
        /// How long the peer asks us to wait before the next attempt, in milliseconds; 0: as usual.
        retry_after_ms: u32,
    },
}

/// What has come for a relay ring.
#[derive(Debug)]
pub enum Delivery<'a> {
    /// A whole message.
    Message {
        /// Its header, with the origin's source and sequence.
        header: Header,
        /// Extensions, then payload.
        body: &'a [u8],
    },
    /// A message that comes in pieces. One of a source is open at a time, but of several sources at once.
    Begin {
        /// Its header; `size` is that of the whole message.
        header: Header,
        /// Bytes of extensions and payload that will come.
        size: u64,
    },
    /// The next bytes of it.
    Bytes {
        /// The source.
        source: PortId,
        /// Where they belong, from the first byte behind the header.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// It is complete: publish it.
    End {
        /// The source.
        source: PortId,
    },
    /// The rest of it will not come on this link: forget it. It comes again from its beginning, or as a gap.
    Abort {
        /// The source.
        source: PortId,
    },
}

/// Where the next bytes of the connection may be read to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The staging buffer, then `receive`.
    Staging,
    /// The open message of a source, then `receive_direct`; what is beyond goes to the staging buffer.
    Message {
        /// The source.
        source: PortId,
        /// Where the next byte belongs, from the first byte behind the header.
        offset: u64,
        /// How many bytes at most.
        remaining: u64,
    },
}

/// What became of the messages of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Messages from the first that was asked for to the last that was told by `Publish` or `Lost`.
    pub sent: u64,
    /// Of these, those that the peer has.
    pub acked: u64,
    /// Of these, those that are lost, by cause.
    pub dropped: [u64; Cause::COUNT],
    /// Of these, those of which the peer has not said anything yet.
    pub in_flight: u64,
}

/// All that we have with one peer.
#[derive(Debug)]
pub struct Session<P> {
    peer: PeerId,
    config: Config,
    payload: PhantomData<P>,
}

impl<P: AsRef<[u8]> + Clone> Session<P> {
    /// A session without a link.
    #[must_use]
    pub fn new(config: Config, peer: PeerId) -> Session<P> {
        Session { peer, config, payload: PhantomData }
    }

    /// Who the peer is.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// There is a connection: one that we made, or an accepted one whose hello has come and named this peer. The
    /// session answers the hello. An older link is forgotten; the caller closes its connection.
    pub fn connected(&mut self, now: Time, link: Link<P>, out: &mut Outbox) {
        let _ = (now, link, out, &self.config);
    }

    /// The connection is gone, whoever closed it. The batch of that connection is to be cleared. Open messages
    /// are given up: `aborted` names each.
    pub fn disconnected(&mut self, now: Time, out: &mut Outbox) -> Vec<PortId> {
        let _ = (now, out);
        Vec::new()
    }

    /// Takes what the caller has to say.
    pub fn handle(&mut self, now: Time, input: Input<P>, out: &mut Outbox) {
        let _ = (now, input, out);
    }

    /// Takes bytes that have arrived: how many are done with, and at most one delivery. To be called again while
    /// bytes are done with; when none are, it needs more than there are.
    pub fn receive<'a>(
        &mut self,
        now: Time,
        bytes: &'a [u8],
        out: &mut Outbox,
    ) -> (usize, Option<Delivery<'a>>) {
        let _ = (now, bytes, out);
        (0, None)
    }

    /// Where the next bytes may be read to.
    #[must_use]
    pub fn destination(&self) -> Destination {
        Destination::Staging
    }

    /// Takes bytes that were read to where `destination` said, at most as many as remain.
    pub fn receive_direct(&mut self, now: Time, bytes: &[u8], out: &mut Outbox) -> Option<Delivery<'static>> {
        let _ = (now, bytes, out);
        None
    }

    /// The next source that may send a message now: accepted, with window, credit and room. Each call names
    /// another, in turn; `None` when there is none.
    pub fn next_source(&mut self) -> Option<PortId> {
        None
    }

    /// Puts out what may go now, until the batch has its size.
    pub fn transmit(&mut self, now: Time, batch: &mut Batch<P>) {
        let _ = (now, batch);
    }

    /// Whether `transmit` would put anything out.
    #[must_use]
    pub fn has_output(&self) -> bool {
        false
    }

    /// When `Input::Tick` is wanted next, and for what.
    #[must_use]
    pub fn deadline(&self) -> Option<(Time, Deadline)> {
        None
    }

    /// How far the link is; `None` without one.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        None
    }

    /// What the link has counted; `None` without one.
    #[must_use]
    pub fn stats(&self) -> Option<Stats> {
        None
    }

    /// What became of the messages of one of our sources.
    #[must_use]
    pub fn account(&self, source: PortId) -> Option<Account> {
        let _ = source;
        None
    }

    /// Messages of the peer that were dropped here, by cause, and those that came twice.
    #[must_use]
    pub fn dropped(&self) -> ([u64; Cause::COUNT], u64) {
        ([0; Cause::COUNT], 0)
    }
}
