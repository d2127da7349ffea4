//! What a session and its caller say to each other: closed lists, each with what it asks of the other.
//!
//! Invariant: an output is to be carried out before the delivery of the same call, and outputs in their order.

use alloc::string::String;
use alloc::vec::Vec;

use busway_wire::link::{Announce, Hello, Refusal};
use busway_wire::{Cause, Header, Pattern, PortId, Records, Run};

use crate::error::Closed;

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
    /// Whether all that our host wants has been said. Until it is said that it has not, it has.
    Listed {
        /// All of it.
        all: bool,
    },
    /// A local ring that the peer wants has a row of ours now.
    Source {
        /// What the peer is told of it.
        announce: Announce,
        /// The first sequence that the row reads.
        next: u64,
    },
    /// That source ends, or the peer no longer wants it. The row stays until `Output::SourceDone`; before that the
    /// source is not to be given again.
    SourceGone {
        /// The source.
        source: PortId,
        /// The last sequence that was, or will still be, told by `Publish`, `Run` or `Lost`.
        last: u64,
    },
    /// The row's next message. Only while `may_send` says so of the source, as it does when `next_source` names it.
    Publish {
        /// The source.
        source: PortId,
        /// The message's header as it lies in the ring; sequence, kind, flags, topic, time, correlation and
        /// extensions are used.
        header: Header,
        /// What follows the header: extensions, then payload.
        payload: P,
    },
    /// The row's next messages, put together in what `spare_run` gave and within what `room` said: small ones that follow
    /// each other. One alone is one too. It goes out as a message of [`Input::Publish`] does, at once and in its order.
    Run(Run),
    /// Messages that the row has lost, before its next. Only while `may_send` says so of the source.
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
    /// It is not: another peer's live session has that source (`SpoofedSource`), there is no room (`LinkBudget`), or
    /// the peer may not publish it (`Denied`); this one the peer is told. What comes of it is dropped and counted.
    RelayRefused {
        /// The source.
        source: PortId,
        /// Why.
        cause: Cause,
    },
    /// The peer may not have this source of ours any more: the caller has dropped its row, and nothing more of it goes
    /// out.
    Revoked {
        /// The source.
        source: PortId,
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
    /// End the link now, and tell the peer why: it is not who it should be, may not be here, or gives way to another.
    Refuse {
        /// What the peer is told.
        refusal: Refusal,
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
    /// The row of a source that is gone is not needed any more.
    SourceDone {
        /// The source.
        source: PortId,
        /// What became of its messages.
        account: Account,
    },
    /// The peer does not take a source of ours: its row is not needed, and the source is not to be given again on this
    /// link.
    SourceDenied {
        /// The source.
        source: PortId,
        /// Why.
        cause: Cause,
        /// What became of its messages.
        account: Account,
    },
    /// The rest of a message that had begun will not come on this link: forget it. It comes again from its
    /// beginning, or as a gap.
    Abort {
        /// The source.
        source: PortId,
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
    /// Messages of one source that follow each other: to be taken one after the other, and told by `Input::Published`
    /// of the last.
    Run {
        /// The header of the run, with the origin's source and topic.
        header: Header,
        /// The messages.
        records: Records<'a>,
    },
    /// A message that comes in pieces. One of a source is open at a time, but of several sources at once.
    Begin {
        /// Its header; `size` is that of the whole message.
        header: Header,
        /// Its extensions, which belong behind the header; the payload follows.
        extensions: &'a [u8],
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
