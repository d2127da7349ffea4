//! One connection: handshake, refusal, credit, pings, goodbye, and the order in which frames go out.
//!
//! A link is made when a connection is and ends with it; what must survive it is in the session. TLS is outside:
//! a link sees plain bytes. It does not know what is wanted, nor which source is where.
//!
//! Invariant: it never sends more than the peer granted, and never holds more than it granted.

mod credit;
mod incoming;
mod lanes;
mod outgoing;
mod parts;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use busway_wire::limits::{
    LINK_BATCH_BYTES, LINK_CREDIT_BYTES_DEFAULT, LINK_CREDIT_MESSAGES_DEFAULT, LINK_DRAIN_MS,
    LINK_HANDSHAKE_MS, LINK_IDLE_MS, LINK_PART_BYTES, LINK_PARTIAL_MS, LINK_PING_MS, LINK_TOKEN_BYTES_MAX,
    LINK_WINDOW_BYTES_DEFAULT, LINK_WINDOW_MESSAGES_DEFAULT, MESSAGE_BYTES_MAX,
};
use busway_wire::link::{Accept, Deny, Features, Frame, Hello, Refusal, RefusalCode, label_of, reason_of};
use busway_wire::{Header, Kind, PortId, Records, Run, Seed};

use crate::batch::Batch;
use crate::error::{Closed, PeerError};
use crate::flow::{Budget, Flow};
use crate::framing::{Framer, Step, Want};
use crate::time::{PeerId, Time};

pub(crate) use credit::Amount;
use credit::{Grant, Granted};
use outgoing::{Outgoing, put_frame};
pub(crate) use outgoing::{Way, can_go};
use parts::Parts;

/// What we are on every link: our own hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What we say of ourselves. Its credit and windows are what each peer may have under way to us.
    pub hello: Hello,
    /// Milliseconds of silence after which the peer is asked whether it is there: `LINK_PING_MS`, or more where links
    /// are many and mostly silent. Four times that without an answer, and the link is given up.
    pub keep_alive_ms: u64,
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
                features: Features::OURS,
            },
            keep_alive_ms: LINK_PING_MS,
        }
    }

    /// The hello as it is sent: what no peer would take is made fit.
    fn fit_hello(&self) -> Hello {
        let mut hello = self.hello.clone();
        hello.name = label_of(&hello.name);
        hello.token.truncate(LINK_TOKEN_BYTES_MAX);
        hello.credit_messages = hello.credit_messages.max(1);
        hello.window_messages = hello.window_messages.max(1);
        hello
    }
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
    /// What was consumed of the peer's credit is to be told.
    Credit,
    /// The peer must have announced again what it still has.
    Resume,
}

/// What the bytes of the peer mean.
#[derive(Debug)]
pub enum Event<'a> {
    /// The handshake's hello. On an accepted connection the link now waits for `welcome` or `refuse`.
    Hello(Hello),
    /// A frame for the session: interest, announce, retire, accept, gap.
    Frame(Frame),
    /// A message in one piece.
    Message {
        /// Its header.
        header: Header,
        /// What follows the header.
        body: &'a [u8],
    },
    /// A message in one piece whose payload is not what its sender summed.
    Spoiled {
        /// Its header, whose checksum holds.
        header: Header,
    },
    /// Messages of one source that follow each other and share a header.
    Run {
        /// The header of the run.
        header: Header,
        /// The messages.
        records: Records<'a>,
    },
    /// A message that comes in pieces. Those of other sources may come between them, in pieces or whole.
    Begin {
        /// Its header, whose size is that of the whole message.
        header: Header,
        /// Its extensions; the payload follows.
        extensions: &'a [u8],
    },
    /// More of a message that has begun.
    Bytes {
        /// Its source.
        source: PortId,
        /// The next bytes of its payload.
        bytes: &'a [u8],
    },
    /// That message is complete, and all its checksums hold but those of which it was told.
    End {
        /// Its source.
        source: PortId,
    },
    /// A piece of that message is not what its sender summed.
    SpoiledPiece {
        /// Its source.
        source: PortId,
        /// It was the last.
        ends: bool,
    },
}

/// How large a run may be that a link takes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Messages.
    pub messages: u64,
    /// Bytes of payload.
    pub bytes: u64,
    /// Bytes of the largest payload.
    pub largest: usize,
}

impl Room {
    /// Whether a message of `size` bytes may be the next of `run`.
    #[must_use]
    pub const fn has(&self, run: &Run, size: usize) -> bool {
        run.count() < self.messages
            && run.payload_bytes().saturating_add(size as u64) <= self.bytes
            && size <= self.largest
    }
}

/// Frames that are no messages, by their flow. What takes the place of messages counts as one of them, not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Of the link itself.
    pub control: u64,
    /// Of peers that come and go.
    pub transport: u64,
}

impl Frames {
    fn count(&mut self, kind: Kind) {
        match (Flow::of(kind), kind) {
            (_, Kind::Gap | Kind::Retire) => {}
            (Flow::Transport, _) => self.transport = self.transport.saturating_add(1),
            (_, _) => self.control = self.control.saturating_add(1),
        }
    }
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
    /// Frames received that are no messages.
    pub frames_in: Frames,
    /// Frames put into batches that are no messages.
    pub frames_out: Frames,
    /// The last round trip of a ping in nanoseconds; 0 before the first.
    pub round_trip_ns: u64,
}

/// One connection to a peer.
#[derive(Debug)]
pub struct Link<P> {
    ours: Hello,
    keep_alive_ms: u64,
    expected: Option<PeerId>,
    state: State,
    framer: Framer,
    theirs: Option<Hello>,
    parts: Parts,
    /// The source of the piece that is coming.
    coming: Option<PortId>,
    control: Control,
    ordered: VecDeque<Frame>,
    outgoing: Outgoing<P>,
    /// What the peer granted us; nothing before its hello.
    grant: Option<Grant>,
    granted: Granted,
    /// The peer has granted more since that was asked last.
    raised: bool,
    /// The peer has sent a ping since that was asked last.
    asked: bool,
    clock: Clock,
    stats: Stats,
}

/// Frames of which one waits at most, outside all credit.
#[derive(Debug, Default)]
struct Control {
    hello: bool,
    last: Option<Frame>,
    ping: Option<u64>,
    pong: Option<u64>,
    credit: bool,
    accepts: BTreeMap<PortId, Accept>,
    denies: BTreeMap<PortId, Deny>,
}

/// A link is given up after so many times its keep-alive.
const IDLE_PINGS: u64 = LINK_IDLE_MS / LINK_PING_MS;

/// When what happened.
#[derive(Debug)]
struct Clock {
    /// When the handshake, or the draining, must be over.
    limit: Option<Time>,
    heard: Time,
    asked: Option<Time>,
    /// When the frame began that has not ended.
    partial: Option<Time>,
    /// Bytes of its payload since then.
    progress: u64,
}

impl<P: AsRef<[u8]> + Clone> Link<P> {
    /// The link of a connection that we made to `peer`. Its hello goes out with the first `transmit`.
    #[must_use]
    pub fn dial(config: &Config, peer: PeerId, now: Time) -> Link<P> {
        let mut link = Link::new(config, now);
        link.expected = Some(peer);
        link.control.hello = true;
        link
    }

    /// The link of a connection that was made to us. It says nothing before the peer has said who it is.
    #[must_use]
    pub fn accept(config: &Config, now: Time) -> Link<P> {
        Link::new(config, now)
    }

    fn new(config: &Config, now: Time) -> Link<P> {
        let ours = config.fit_hello();
        let cluster = Seed(ours.cluster);
        Link {
            granted: Granted::new(&ours),
            ours,
            keep_alive_ms: config.keep_alive_ms.max(LINK_PING_MS),
            expected: None,
            state: State::Greeting,
            framer: Framer::new(cluster),
            theirs: None,
            parts: Parts::default(),
            coming: None,
            control: Control::default(),
            ordered: VecDeque::new(),
            outgoing: Outgoing::new(cluster),
            grant: None,
            raised: false,
            asked: false,
            clock: Clock {
                limit: Some(now.after_ms(LINK_HANDSHAKE_MS)),
                heard: now,
                asked: None,
                partial: None,
                progress: 0,
            },
            stats: Stats::default(),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The peer's hello, once it has come.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        self.theirs.as_ref()
    }

    /// What the peer may have under way to us, in place of what our hello says. Before that has gone out: it is a promise.
    pub fn grant(&mut self, granted: Budget) {
        let ours = &mut self.ours;
        (ours.credit_messages, ours.credit_bytes) = (granted.messages.max(1), granted.bytes);
        self.granted = Granted::new(&self.ours);
    }

    /// Answers the hello of an accepted connection with ours.
    pub fn welcome(&mut self, now: Time) {
        if self.state == State::Greeted {
            self.control.hello = true;
            self.establish(now);
        }
    }

    /// Ends the link with a reason, which the next `transmit` puts out.
    pub fn refuse(&mut self, refusal: Refusal) {
        if !matches!(self.state, State::Closed(_)) {
            let refusal = Refusal::new(refusal.code, &refusal.reason, refusal.retry_after_ms);
            self.end(Closed::Refusing(refusal.clone()), Some(Frame::Refusal(refusal)));
        }
    }

    /// Takes no more messages; what is under way has until a deadline.
    pub fn drain(&mut self, now: Time) {
        match self.state {
            State::Established => {
                self.state = State::Draining;
                self.clock.limit = Some(now.after_ms(LINK_DRAIN_MS));
            }
            State::Greeting | State::Greeted => {
                self.refuse(Refusal::new(RefusalCode::Draining, "going down", 0));
            }
            State::Draining | State::Closed(_) => {}
        }
    }

    /// Ends the link in order: the next `transmit` puts out a last frame.
    pub fn goodbye(&mut self, reason: &str) {
        if !matches!(self.state, State::Closed(_)) {
            self.end(Closed::Drained, Some(Frame::Goodbye { reason: reason_of(reason) }));
        }
    }

    /// Takes bytes that have arrived: how many are done with, and at most one event. When it returns no event
    /// and not all bytes are done with, it needs more of them; never more than [`Framer::NEED_MAX`].
    ///
    /// # Errors
    /// Why the link is at its end. `transmit` may still have a last frame for the peer.
    pub fn receive<'a>(&mut self, now: Time, bytes: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Closed> {
        if !bytes.is_empty() {
            self.clock.heard = now;
        }
        let mut at = 0;
        loop {
            if self.state == State::Greeted {
                // What follows a hello is not looked at before it is answered.
                return Ok((at, None));
            }
            if let State::Closed(closed) = &self.state {
                return Err(closed.clone());
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let step = self.framer.next(rest).map_err(|error| self.fail(error.into()))?;
            let (consumed, event) = match step {
                Step::Need(_) => {
                    self.begin_partial(now, !rest.is_empty());
                    return Ok((at, None));
                }
                Step::Frame { consumed, header, body } => {
                    self.clock.partial = None;
                    (consumed, self.frame(now, header, body)?)
                }
                Step::Spoiled { consumed, header } => {
                    self.clock.partial = None;
                    (consumed, Some(self.spoiled(header)?))
                }
                Step::Begin { consumed, header, part, extensions } => {
                    self.begin_partial(now, true);
                    (consumed, self.begin(header, part, extensions)?)
                }
                Step::Body { consumed, bytes } => {
                    self.progress(now, bytes.len());
                    let source = self.coming.unwrap_or_default();
                    (consumed, Some(Event::Bytes { source, bytes }))
                }
                Step::End { header, sum } => {
                    self.clock.partial = None;
                    (0, self.finish(&header, sum))
                }
            };
            at += consumed;
            self.stats.bytes_in = self.stats.bytes_in.saturating_add(consumed as u64);
            if event.is_some() {
                return Ok((at, event));
            }
        }
    }

    /// Whether the peer has granted more since this was asked last.
    pub(crate) fn take_raised(&mut self) -> bool {
        core::mem::take(&mut self.raised)
    }

    /// Whether the rest of a payload may be read elsewhere, and how many bytes.
    #[must_use]
    pub fn want(&self) -> Want {
        self.framer.want()
    }

    /// The source of the payload that `want` speaks of.
    #[must_use]
    pub fn coming(&self) -> Option<PortId> {
        self.coming
    }

    /// Takes bytes of a payload that were read elsewhere, at most as many as `want` said.
    ///
    /// # Errors
    /// As [`Link::receive`].
    pub fn receive_direct(&mut self, now: Time, bytes: &[u8]) -> Result<Option<Event<'static>>, Closed> {
        if let State::Closed(closed) = &self.state {
            return Err(closed.clone());
        }
        if !bytes.is_empty() {
            self.clock.heard = now;
        }
        self.stats.bytes_in = self.stats.bytes_in.saturating_add(bytes.len() as u64);
        match self.framer.read_direct(bytes) {
            Ok(Some((header, sum))) => {
                self.clock.partial = None;
                Ok(self.finish(&header, sum))
            }
            Ok(None) => {
                self.progress(now, bytes.len());
                Ok(None)
            }
            Err(error) => Err(self.fail(error.into())),
        }
    }

    /// Puts out what may go now, until the batch has its size.
    pub fn transmit(&mut self, now: Time, batch: &mut Batch<P>) {
        let before = batch.bytes();
        if core::mem::take(&mut self.control.hello) {
            self.put(&Frame::Hello(self.ours.clone()), batch);
        }
        if matches!(self.state, State::Established | State::Draining) {
            self.transmit_control(now, batch);
            while batch.bytes() < LINK_BATCH_BYTES
                && let Some(frame) = self.ordered.pop_front()
            {
                self.put(&frame, batch);
            }
            if let Some(grant) = &mut self.grant {
                let begun = self.outgoing.transmit(now, batch, grant);
                self.stats.messages_out = self.stats.messages_out.saturating_add(begun);
            }
        }
        if let Some(last) = self.control.last.take() {
            self.put(&last, batch);
        }
        let bytes = batch.bytes().saturating_sub(before);
        self.stats.bytes_out = self.stats.bytes_out.saturating_add(bytes as u64);
    }

    fn transmit_control(&mut self, now: Time, batch: &mut Batch<P>) {
        if let Some(stamp) = self.control.pong.take() {
            self.put(&Frame::Pong { stamp }, batch);
        }
        if self.control.ping.take().is_some() {
            self.put(&Frame::Ping { stamp: now.0 }, batch);
        }
        if core::mem::take(&mut self.control.credit) {
            let credit = self.granted.tell();
            self.put(&Frame::Credit(credit), batch);
        }
        while batch.bytes() < LINK_BATCH_BYTES
            && let Some((_, accept)) = self.control.accepts.pop_first()
        {
            self.put(&Frame::Accept(accept), batch);
        }
        while batch.bytes() < LINK_BATCH_BYTES
            && let Some((_, deny)) = self.control.denies.pop_first()
        {
            self.put(&Frame::Deny(deny), batch);
        }
    }

    /// Puts out a frame that is no message and goes before all of them.
    fn put(&mut self, frame: &Frame, batch: &mut Batch<P>) {
        put_frame(frame, Seed(self.ours.cluster), batch);
        self.stats.frames_out.count(frame.kind());
    }

    /// How many such frames wait.
    pub(crate) fn frames_waiting(&self) -> u64 {
        let control = &self.control;
        let single = [control.hello, control.credit, control.ping.is_some(), control.pong.is_some()];
        let single = single.into_iter().filter(|waits| *waits).count();
        (single + control.accepts.len() + control.denies.len() + self.ordered.len()) as u64
    }

    /// Whether `transmit` would put anything out.
    #[must_use]
    pub fn has_output(&self) -> bool {
        let control = &self.control;
        if control.hello || control.last.is_some() {
            return true;
        }
        matches!(self.state, State::Established | State::Draining)
            && (control.ping.is_some()
                || control.pong.is_some()
                || control.credit
                || !control.accepts.is_empty()
                || !control.denies.is_empty()
                || !self.ordered.is_empty()
                || self.grant.as_ref().is_some_and(|grant| self.outgoing.is_ready(grant)))
    }

    /// When `tick` is wanted next, and for what.
    #[must_use]
    pub fn deadline(&self) -> Option<(Time, Deadline)> {
        let partial = self.clock.partial.map(|at| (at.after_ms(LINK_PARTIAL_MS), Deadline::Partial));
        let limit = |deadline| self.clock.limit.map(|at| (at, deadline));
        match self.state {
            State::Greeting | State::Greeted => limit(Deadline::Handshake),
            State::Established | State::Draining => {
                let ping = self.clock.asked.unwrap_or(self.clock.heard).max(self.clock.heard);
                let ping = Some((ping.after_ms(self.keep_alive_ms), Deadline::Ping));
                let idle_ms = self.keep_alive_ms.saturating_mul(IDLE_PINGS);
                let silent = Some((self.clock.heard.after_ms(idle_ms), Deadline::Silent));
                let drain = limit(Deadline::Drain);
                [partial, ping, silent, drain].into_iter().flatten().min_by_key(|(at, _)| *at)
            }
            State::Closed(_) => None,
        }
    }

    /// Looks at the time.
    ///
    /// # Errors
    /// Why the link is at its end. `transmit` may still have a last frame for the peer.
    pub fn tick(&mut self, now: Time) -> Result<(), Closed> {
        loop {
            if let State::Closed(closed) = &self.state {
                return Err(closed.clone());
            }
            let Some((at, deadline)) = self.deadline() else { return Ok(()) };
            if at > now {
                return Ok(());
            }
            match deadline {
                Deadline::Handshake => self.time_out(Closed::Handshake),
                Deadline::Partial => self.time_out(Closed::Partial),
                Deadline::Silent => self.time_out(Closed::Silent),
                Deadline::Drain => self.goodbye("what is under way has taken too long"),
                Deadline::Ping => {
                    self.control.ping = Some(now.0);
                    self.clock.asked = Some(now);
                }
                Deadline::Acknowledge | Deadline::Credit | Deadline::Resume => return Ok(()),
            }
        }
    }

    /// What it has counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Both have said hello.
    fn establish(&mut self, now: Time) {
        self.state = State::Established;
        self.clock = Clock { limit: None, heard: now, asked: None, partial: None, progress: 0 };
        self.grant = self.theirs.as_ref().map(Grant::new);
    }

    fn begin_partial(&mut self, now: Time, begun: bool) {
        if begun || self.framer.want() != Want::Bytes {
            self.clock.partial.get_or_insert(now);
        }
    }

    /// A frame may be large: each part of 64 KiB has the time that a small frame has.
    fn progress(&mut self, now: Time, bytes: usize) {
        let clock = &mut self.clock;
        clock.progress =
            if clock.partial.is_some() { clock.progress.saturating_add(bytes as u64) } else { 0 };
        if clock.progress >= LINK_PART_BYTES as u64 {
            (clock.partial, clock.progress) = (Some(now), 0);
        }
    }

    /// The peer did what no peer may do: it is told, and the link is at its end.
    pub(crate) fn fail(&mut self, error: PeerError) -> Closed {
        let refusal = Refusal::new(error.code(), &error.to_string(), 0);
        let closed = Closed::Peer(error);
        self.end(closed.clone(), Some(Frame::Refusal(refusal)));
        closed
    }

    fn time_out(&mut self, closed: Closed) {
        let refusal = Refusal::new(RefusalCode::Timeout, &closed.to_string(), 0);
        self.end(closed, Some(Frame::Refusal(refusal)));
    }

    /// At the end only the last frame goes out; what waits is the session's to send again or to tell as lost.
    fn end(&mut self, closed: Closed, last: Option<Frame>) {
        let cluster = Seed(self.ours.cluster);
        // Who was dialed and refuses says so without a hello of its own.
        self.control = Control { last, ..Control::default() };
        self.ordered = VecDeque::new();
        self.outgoing = Outgoing::new(cluster);
        self.state = State::Closed(closed);
    }

    // What a session does with its link.

    /// What we granted, and what of it is in use.
    pub(crate) fn granted_use(&self) -> (Amount, Amount) {
        self.granted.usage()
    }

    /// The same of what the peer granted us; nothing before its hello.
    pub(crate) fn grant_use(&self) -> Option<(Amount, Amount)> {
        self.grant.as_ref().map(Grant::usage)
    }

    /// Something of what came is in its place, or dropped.
    pub(crate) fn consume(&mut self, amount: Amount) {
        self.granted.consume(amount);
        if self.granted.is_due() {
            self.control.credit = true;
        }
    }

    /// Whether consumed credit waits to be told.
    pub(crate) fn owes_credit(&self) -> bool {
        self.granted.is_owed() && !self.control.credit
    }

    /// Whether the peer sends what may not find room while it is not told of a little.
    pub(crate) fn takes_large(&self) -> bool {
        self.granted.takes_large()
    }

    /// Tells the peer all that has been consumed.
    pub(crate) fn tell_credit(&mut self) {
        self.control.credit |= self.granted.is_owed();
    }

    /// Answers or acknowledges a source; a newer answer takes the place of one that has not gone.
    pub(crate) fn tell_accept(&mut self, accept: Accept) {
        self.control.accepts.insert(accept.source, accept);
    }

    /// Answers a source that is not taken. One answer a source waits, however often it is announced.
    pub(crate) fn tell_deny(&mut self, deny: Deny) {
        self.control.accepts.remove(&deny.source);
        self.control.denies.insert(deny.source, deny);
    }

    /// How many interests and announcements wait.
    pub(crate) fn ordered_len(&self) -> usize {
        self.ordered.len()
    }

    pub(crate) fn push_ordered(&mut self, frame: Frame) {
        self.ordered.push_back(frame);
    }

    /// Of bulk so many bytes may begin to go until this is said again; without a number, any.
    pub fn set_bulk_room(&mut self, room: Option<u64>) {
        self.outgoing.set_room(room);
    }

    /// Of messages so many bytes may wait here from now on, `LINK_QUEUE_BYTES_MAX` at most. A new link has that.
    pub fn set_queue_bytes(&mut self, bytes: u64) {
        self.outgoing.set_most(bytes);
    }

    /// Asks the peer how far away it is, as a ping does that is due.
    pub fn ask(&mut self, now: Time) {
        if matches!(self.state, State::Established | State::Draining) {
            self.control.ping = Some(now.0);
            self.clock.asked = Some(now);
        }
    }

    /// Whether the peer has asked since the last time how far away we are: what it waits to hear goes with the answer.
    pub(crate) fn take_asked(&mut self) -> bool {
        core::mem::take(&mut self.asked)
    }

    /// Bytes of bulk that have gone on this link, with their frames.
    #[must_use]
    pub fn bulk_out(&self) -> u64 {
        self.outgoing.bulk_out()
    }

    /// Whether bulk is there to go, as far as credit allows.
    #[must_use]
    pub fn has_bulk(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| self.outgoing.has_bulk(grant))
    }

    pub(crate) fn outgoing(&mut self) -> &mut Outgoing<P> {
        &mut self.outgoing
    }

    /// Whether one more message of a source may be queued.
    pub(crate) fn has_room(&self, source: PortId) -> bool {
        self.state == State::Established
            && self.grant.as_ref().is_some_and(|grant| self.outgoing.has_room(source, grant))
    }

    /// Whether the latest message of a source was bulk.
    pub(crate) fn is_bulk(&self, source: PortId) -> bool {
        self.outgoing.is_bulk(source)
    }

    /// Whether one more message of any source may be queued, as far as that does not depend on the source.
    pub(crate) fn has_room_for_any(&self) -> bool {
        self.state == State::Established
            && self.grant.as_ref().is_some_and(|grant| self.outgoing.has_room_for_any(grant))
    }

    /// What may be queued of a source and goes out when it is its turn; at most so many messages in one run.
    pub(crate) fn room(&self, source: PortId) -> Room {
        let (Some(grant), Some(theirs)) = (&self.grant, &self.theirs) else { return Room::default() };
        let Amount { messages, bytes } = self.outgoing.room(source, grant);
        let most = if theirs.features & Features::RUNS == 0 { 1 } else { u64::MAX };
        Room { messages: messages.min(most), bytes, largest: theirs.message_bytes_max as usize }
    }

    /// A run to be filled.
    pub(crate) fn spare_run(&mut self) -> Run {
        self.outgoing.spare()
    }

    /// The last sequence of a source that went out whole.
    pub(crate) fn sent(&self, source: PortId) -> u64 {
        self.outgoing.sent(source)
    }
}
