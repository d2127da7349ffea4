//! One connection: handshake, refusal, credit, pings, goodbye, and the order in which frames go out.
//!
//! A link is made when a connection is and ends with it; what must survive it is in the session. TLS is outside:
//! a link sees plain bytes. It does not know what is wanted, nor which source is where.
//!
//! Invariant: it never sends more than the peer granted, and never holds more than it granted.

use alloc::string::String;
use alloc::vec::Vec;
use core::marker::PhantomData;

use busway_wire::limits::{
    LINK_CREDIT_BYTES_DEFAULT, LINK_CREDIT_MESSAGES_DEFAULT, LINK_WINDOW_BYTES_DEFAULT,
    LINK_WINDOW_MESSAGES_DEFAULT, MESSAGE_BYTES_MAX,
};
use busway_wire::link::{Frame, Hello, Refusal};
use busway_wire::{Header, Part};

use crate::batch::Batch;
use crate::error::Closed;
use crate::time::{PeerId, Time};

/// What we are on every link: our own hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What we say of ourselves. Its credit and windows are what each peer may have under way to us.
    pub hello: Hello,
}

impl Config {
    /// With the default limits, without a name or a token.
    #[must_use]
    pub fn new(cluster: u64, identity: PeerId, instance: u64) -> Config {
        Config {
            hello: Hello {
                cluster,
                identity,
                instance,
                name: String::new(),
                message_bytes_max: MESSAGE_BYTES_MAX as u32,
                credit_messages: LINK_CREDIT_MESSAGES_DEFAULT,
                credit_bytes: LINK_CREDIT_BYTES_DEFAULT,
                window_messages: LINK_WINDOW_MESSAGES_DEFAULT,
                window_bytes: LINK_WINDOW_BYTES_DEFAULT,
                token: Vec::new(),
                features: 0,
            },
        }
    }
}

/// Who made the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We did: we know whom we called, and speak first.
    Dialed,
    /// The peer did: it says who it is before we say anything.
    Accepted,
}

/// How far a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for the peer's hello.
    Greeting,
    /// The peer's hello has come on an accepted connection; `welcome` or `refuse` answers it.
    Greeted,
    /// Both have said hello.
    Established,
    /// No new messages; what is under way is settled.
    Draining,
    /// At its end. A last frame may still have to be written.
    Closed(Closed),
}

/// Which deadline is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The handshake must be over.
    Handshake,
    /// The frame that has begun must have ended.
    Partial,
    /// A ping is due.
    Ping,
    /// The peer must have said something.
    Silent,
    /// The link must be drained.
    Drain,
    /// An acknowledgement is due.
    Acknowledge,
}

/// What the bytes of the peer mean.
#[derive(Debug)]
pub enum Event<'a> {
    /// The handshake's hello. On an accepted connection the link now waits for `welcome` or `refuse`.
    Hello(Hello),
    /// A frame for the session: interest, announce, retire, accept, gap.
    Frame(Frame),
    /// A message in one piece, or a part of one.
    Message {
        /// Its header.
        header: Header,
        /// Which part it is.
        part: Option<Part>,
        /// What follows the header.
        body: &'a [u8],
    },
    /// A piece of a message, of which the payload follows.
    Begin {
        /// Its header.
        header: Header,
        /// Which part it is.
        part: Option<Part>,
        /// Its extensions.
        extensions: &'a [u8],
    },
    /// More of that payload.
    Bytes(&'a [u8]),
    /// That payload is complete.
    End,
}

/// What a link has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes put into batches.
    pub bytes_out: u64,
    /// Messages received, each once however many parts it had.
    pub messages_in: u64,
    /// Messages put into batches.
    pub messages_out: u64,
    /// Messages of ours that the peer has counted.
    pub messages_seen: u64,
    /// The last round trip of a ping in nanoseconds; 0 before the first.
    pub round_trip_ns: u64,
}

/// One connection to a peer.
#[derive(Debug)]
pub struct Link<P> {
    state: State,
    payload: PhantomData<P>,
}

impl<P: AsRef<[u8]> + Clone> Link<P> {
    /// The link of a connection that we made to `peer`. Its hello goes out with the first `transmit`.
    #[must_use]
    pub fn dial(config: &Config, peer: PeerId, now: Time) -> Link<P> {
        let _ = (config, peer, now);
        Link { state: State::Greeting, payload: PhantomData }
    }

    /// The link of a connection that was made to us. It says nothing before the peer has said who it is.
    #[must_use]
    pub fn accept(config: &Config, now: Time) -> Link<P> {
        let _ = (config, now);
        Link { state: State::Greeting, payload: PhantomData }
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The peer's hello, once it has come.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        None
    }

    /// Answers the hello of an accepted connection with ours.
    pub fn welcome(&mut self, now: Time) {
        let _ = now;
    }

    /// Ends the link with a reason, which the next `transmit` puts out.
    pub fn refuse(&mut self, now: Time, refusal: Refusal) {
        self.state = State::Closed(Closed::Refusing(refusal));
        let _ = now;
    }

    /// Takes bytes that have arrived: how many are done with, and at most one event. When it returns no event
    /// and not all bytes are done with, it needs more of them.
    ///
    /// # Errors
    /// Why the link is at its end. `transmit` may still have a last frame for the peer.
    pub fn receive<'a>(&mut self, now: Time, bytes: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Closed> {
        let _ = (now, bytes);
        Ok((0, None))
    }

    /// Puts out what may go now, until the batch has its size.
    pub fn transmit(&mut self, now: Time, batch: &mut Batch<P>) {
        let _ = (now, batch);
    }

    /// When `tick` is wanted next, and for what.
    #[must_use]
    pub fn deadline(&self) -> Option<(Time, Deadline)> {
        None
    }

    /// Looks at the time.
    ///
    /// # Errors
    /// Why the link is at its end. `transmit` may still have a last frame for the peer.
    pub fn tick(&mut self, now: Time) -> Result<(), Closed> {
        let _ = now;
        Ok(())
    }

    /// What it has counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
