//! Publishing: loan, write, send.
//!
//! A payload of at most 96 bytes lies in the slot itself; a larger one in a chunk that subscribers read where it lies.
//! A publisher belongs to one thread at a time; more publishers of a topic are cheap.
//!
//! Invariant: every send says what happened to it. A message that was sent has the next sequence; one that was not has
//! none, and nobody saw it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use busway_shm::clock::{self, Deadline};
use busway_shm::counters::Event;
use busway_shm::domain::Domain;
use busway_shm::error::ShmError;
use busway_shm::ring::{Patience, RingOptions, RingWriter, SLOTS_MAX};
use busway_shm::seat::RingShared;
use busway_shm::slot::{INLINE_BYTES, InlineMeta};
use busway_wire::limits::{MAX_WAIT_MS_DEFAULT, RING_BYTES_DEFAULT, RING_SLOTS_MAX_DEFAULT};
use busway_wire::{Codec, Flags, HEAD_BYTES, HEADER_SIZE, Header, Kind, PortId, Topic, TopicId};
use serde::Serialize;

use crate::bus::{Bus, Core};
use crate::control::PublisherRecord;
use crate::error::{Code, Error, memory};
use crate::inspection::Account;
use crate::log::Line;
use crate::outcome::{Behind, SendError, Sent, Who};
use crate::ports::{Ahead, Carrier, line_of, ring_key};
use crate::typed::TypedPublisher;

mod batch;
mod context;
mod loan;
mod relay;
mod work;

pub use batch::Batch;
pub(crate) use context::Beside;
pub use context::InContext;
use loan::Place;
pub use loan::{DetachedLoan, Loan};
pub(crate) use relay::{Missing, ORIGIN_BYTES, Relay, RelayLoan};
pub(crate) use work::{WORK_ORIGIN_BYTES, WorkOrigin};

/// For so long messages wait for the first subscriber, unless the builder says otherwise: not at all. A publisher that nobody reads
/// takes one page, and one whose messages wait as much as its ring may have; there may be ten thousand of them. And who was
/// there before is waited for by the constructor, so that only programs which are started together need more.
const LATE_JOIN_DEFAULT: Duration = Duration::ZERO;

/// A publisher's constructor waits this long after the last news for subscribers that are known to come.
const QUIET: Duration = Duration::from_secs(1);

/// Whether subscribers may make a publisher wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gating {
    /// Those that ask for it may, each for at most [`PublisherBuilder::max_wait`] in one piece.
    #[default]
    Allowed,
    /// Nobody may: who asks for `block`, `fail` or `evict` loses the oldest instead, and counts it.
    Refused,
}

/// When a message says it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The kernel's coarse clock, a few milliseconds old: costs a few nanoseconds.
    #[default]
    Coarse,
    /// The exact clock: costs about a tenth of a microsecond where the machine is virtual.
    Exact,
}

/// Whom a ring is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    Subscribers,
    /// Groups, for the first of which it waits so long.
    Groups(Duration),
    /// The responders of its topic.
    Responders(Duration),
}

/// What a message says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) kind: Kind,
    pub(crate) correlation: u64,
}

impl Stamp {
    const fn of(kind: Kind) -> Self {
        Self { kind, correlation: 0 }
    }
}

impl Readers {
    /// What messages for them are, where nothing else is said.
    const fn stamp(self) -> Stamp {
        Stamp::of(match self {
            Self::Subscribers => Kind::Publish,
            Self::Groups(_) => Kind::Push,
            Self::Responders(_) => Kind::Request,
        })
    }
}

/// How a publisher is made. See [`Bus::publisher`].
#[derive(Clone, Debug)]
#[must_use = "a publisher is made by `open`"]
pub struct PublisherBuilder {
    bus: Bus,
    topic: Result<Topic, Error>,
    slots_max: u32,
    bytes_max: u64,
    history: u32,
    history_for: Option<Duration>,
    late_join: Duration,
    max_wait: Duration,
    gating: Gating,
    clock: Clock,
    kept_for_first: bool,
    only: Option<Topic>,
    behind_max: Option<u32>,
    /// How that group acknowledges, where that matters.
    reserved: Option<busway_wire::Group>,
}

impl PublisherBuilder {
    pub(crate) fn new(bus: &Bus, topic: Result<Topic, Error>) -> Self {
        Self {
            bus: bus.clone(),
            topic,
            slots_max: RING_SLOTS_MAX_DEFAULT,
            bytes_max: RING_BYTES_DEFAULT,
            history: 0,
            history_for: None,
            late_join: LATE_JOIN_DEFAULT,
            max_wait: Duration::from_millis(MAX_WAIT_MS_DEFAULT),
            gating: Gating::Allowed,
            clock: Clock::Coarse,
            kept_for_first: false,
            only: None,
            behind_max: None,
            reserved: None,
        }
    }

    /// Its constructor does not wait for subscribers that are known to come: what is sent until the first is there is kept for it, as
    /// much as the ring may hold.
    pub(crate) fn kept_for_first(mut self) -> Self {
        self.kept_for_first = true;
        self
    }

    /// What it pushes comes from another host, and is for this group alone.
    pub(crate) fn only(mut self, group: Topic) -> Self {
        self.only = Some(group);
        self
    }

    /// For pullers of this group that acknowledge so, and no others.
    pub(crate) fn reserved(mut self, group: busway_wire::Group) -> Self {
        self = self.only(group.name().clone());
        self.reserved = Some(group);
        self
    }

    /// Messages that the ring holds at most; rounded up to a power of two, at most 2^20. Default 4 096. It starts with
    /// 32 and grows when a subscriber falls behind, or when messages follow each other closely.
    pub fn slots_max(mut self, slots: u32) -> Self {
        self.slots_max = slots;
        self
    }

    /// Messages that a subscriber which is waited for may be behind, at least 1: exactly so many, where `slots_max` is rounded up.
    /// What waits for the first subscriber is as many, less a thirty-second where room is made. Who is not waited for may be as far
    /// behind as the ring is long. Default: as long as the ring.
    ///
    /// ```
    /// # fn main() -> Result<(), busway::Error> {
    /// use busway::Policy;
    /// let bus = busway::Bus::open("example-of-a-limit")?;
    /// let mut publisher = bus.publisher("news").behind_max(3).open()?;
    /// let _subscriber = bus.subscriber("news").policy(Policy::Block).open()?;
    /// assert_eq!((0..10).take_while(|_| publisher.try_send(b"one").is_ok()).count(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn behind_max(mut self, messages: u32) -> Self {
        self.behind_max = Some(messages);
        self
    }

    /// Bytes of chunks that the ring holds at most. Default 64 MiB. A single larger message is sent all the same.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Messages that are kept for subscribers who come later and ask for history. Default 0: what happens to be there,
    /// which of messages of more than 96 bytes is the last at least, once all present subscribers have read them.
    pub fn history(mut self, messages: u32) -> Self {
        self.history = messages;
        self
    }

    /// Keeps what was sent in the last `time` for subscribers who come later and ask for history, as far as `slots_max` and
    /// `bytes_max` let it: the ring grows for it. Such a subscriber gets nothing that is older, by more than a quarter of a second and a
    /// sixteenth of the time, but the messages that [`PublisherBuilder::history`] keeps. Default: no time is looked at.
    pub fn history_for(mut self, time: Duration) -> Self {
        self.history_for = Some(time);
        self
    }

    /// For so long each message that is sent before anybody subscribes waits for the first subscriber, as far as `slots_max` and
    /// `bytes_max` let it: nobody need sleep before publishing. The first subscriber, here or on another host, reads on from the oldest that
    /// waits. What waits too long (by up to a quarter of a second and a sixteenth of the time more), or is in the way of newer messages, is
    /// counted as `no_subscriber`; nothing is ever waited for. [`Publisher::flush`] waits until somebody has come, or the time is up.
    /// What is sent when all subscribers have gone again does not wait. Default: zero, not at all.
    ///
    /// ```
    /// # let directory = std::env::temp_dir().join(format!("busway-early-{}", std::process::id()));
    /// use std::time::Duration;
    /// let bus = busway::Bus::builder().directory(&directory).open()?;
    /// let mut publisher = bus.publisher("news").late_join(Duration::from_secs(60)).open()?;
    /// publisher.send(b"nobody is there yet")?;
    /// let mut subscriber = bus.subscriber("news").open()?;
    /// assert_eq!(&subscriber.recv()?[..], b"nobody is there yet");
    /// # drop((subscriber, publisher));
    /// # bus.close();
    /// # let _ = std::fs::remove_dir_all(&directory);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn late_join(mut self, time: Duration) -> Self {
        self.late_join = time;
        self
    }

    /// How long one subscriber may make this publisher wait in one piece. Default 1 s.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// Whether subscribers may make this publisher wait at all. Default: those that ask may.
    pub fn gating(mut self, gating: Gating) -> Self {
        self.gating = gating;
        self
    }

    /// Which clock stamps the messages. Default: the coarse one.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Registers the publisher. Returns when the subscribers that are known now can read what it sends.
    ///
    /// # Errors
    /// A topic that breaks the grammar ([`Code::BadTopic`]) or is reserved ([`Code::ReservedTopic`]), or a setting out of
    /// range; the rendezvous does not answer ([`Code::HolderSilent`]); memory (03xx); the bus is closed.
    pub fn open(self) -> Result<Publisher, Error> {
        if let Ok(topic) = &self.topic
            && topic.is_reserved()
        {
            // Refused with the reason that a user's own name would have.
            Topic::new(topic.as_str())?;
        }
        self.open_reserved()
    }

    /// As [`PublisherBuilder::open`], also for what the bus says of itself.
    pub(crate) fn open_reserved(self) -> Result<Publisher, Error> {
        self.open_with(Readers::Subscribers)
    }

    /// As [`PublisherBuilder::open`], of a ring for groups, which waits so long for pullers where there are none.
    pub(crate) fn open_for_groups(self, late_join: Duration) -> Result<Publisher, Error> {
        if let Ok(topic) = &self.topic
            && topic.is_reserved()
        {
            Topic::new(topic.as_str())?;
        }
        self.open_with(Readers::Groups(late_join))
    }

    /// As [`PublisherBuilder::open`], of a ring for requests, which are for the responders of its topic alone.
    pub(crate) fn open_for_requests(self, late_join: Duration, of_bus: bool) -> Result<Publisher, Error> {
        if let Ok(topic) = &self.topic
            && topic.is_reserved()
            && !of_bus
        {
            Topic::new(topic.as_str())?;
        }
        self.open_with(Readers::Responders(late_join))
    }

    fn options(&self) -> RingOptions {
        RingOptions {
            slots_max: self.slots_max.next_power_of_two().max(busway_shm::ring::SLOTS_FIRST),
            bytes_max: self.bytes_max,
            history: self.history,
            max_wait_ns: nanoseconds(self.max_wait),
            gating: self.gating == Gating::Allowed,
            // Of requests it is the node that asks, and not who asked there: its messages are its own.
            relay: self.only.as_ref().is_some_and(|group| !group.is_reserved()),
        }
    }

    /// Has the ring keep what those will want who come later.
    fn keep(&self, ring: &RingShared, readers: Readers) -> Result<(), ShmError> {
        if let Some(time) = self.history_for {
            ring.keep_history_for(nanoseconds(time));
        }
        if let Some(group) = &self.reserved {
            ring.reserve_for(group.clone());
        }
        if readers == Readers::Subscribers && !self.late_join.is_zero() {
            ring.keep_for_the_first(nanoseconds(self.late_join))?;
        }
        Ok(())
    }

    /// Whether its settings can be meant.
    fn check(&self, topic: &Topic) -> Result<(), Error> {
        if self.behind_max == Some(0) {
            return Err(Error::new(Code::BadSetting, "behind_max is 0, and nothing could be sent")
                .at(format!("publisher of {topic}"))
                .remedy("use 1 or more"));
        }
        if self.slots_max == 0 || self.slots_max > SLOTS_MAX || self.history >= SLOTS_MAX {
            return Err(Error::new(
                Code::BadSetting,
                format!("slots_max and history must be below {SLOTS_MAX}"),
            )
            .at(format!("publisher of {topic}"))
            .remedy("use slots_max 1..=1048576"));
        }
        Ok(())
    }

    fn open_with(self, readers: Readers) -> Result<Publisher, Error> {
        let topic = self.topic.clone()?;
        let core = self.bus.core.clone();
        core.check()?;
        self.check(&topic)?;
        let port = Core::new_port()?;
        let options = self.options();
        let place = format!("publisher of {topic}");
        let made = match readers {
            Readers::Subscribers => RingWriter::create(&core.own, &topic, port, options),
            Readers::Groups(wait) | Readers::Responders(wait) => {
                RingWriter::create_for_groups(&core.own, &topic, port, options, nanoseconds(wait))
            }
        };
        let (mut writer, ring) = made.map_err(|error| memory(&error, &place))?;
        if self.kept_for_first {
            writer.await_first();
        }
        if let Some(messages) = self.behind_max {
            writer.hold_back_at(messages.into());
        }
        if matches!(readers, Readers::Responders(_)) {
            ring.ask();
        }
        self.keep(&ring, readers).map_err(|error| memory(&error, &place))?;
        core.ports.add_ring(&ring);
        let created_ns = ring.entry().created_ns.load(busway_shm::sync::Ordering::Relaxed);
        let (at, relay, only) = (ring_key(ring.key()), self.only.is_some(), self.only);
        let record = PublisherRecord { port, topic: topic.clone(), ring: at, created_ns, relay, only };
        let line = line_of(Some(&topic));
        let domain = core.ports.domain().ok_or_else(crate::bus::closed)?;
        let domain_version = core.ports.domain_version();
        let carrier = core.ports.carrier().map(|carrier| Arc::downgrade(&carrier));
        let deadline = Deadline::after(core.timeout);
        let publisher = Publisher {
            core,
            writer,
            topic_id: topic.id(),
            topic,
            port,
            line,
            domain,
            domain_version,
            clock: self.clock,
            bytes_sent: 0,
            unpaced: 0,
            carrier,
            untold: 0,
            stamp: readers.stamp(),
            relays: false,
        };
        // From here on the drop of `publisher` takes everything back.
        let subscribers = matches!(readers, Readers::Subscribers);
        let matched = if subscribers {
            publisher.core.control.publish(record, deadline)?
        } else {
            publisher.core.control.push(record, deadline)?
        };
        let wanted = matched.len();
        let seated = || if subscribers { ring.seated() } else { ring.pullers() };
        let enough = || self.kept_for_first || seated() + past(&ring) >= wanted;
        publisher.core.wait_for(deadline, QUIET, enough);
        Ok(publisher)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn past(ring: &RingShared) -> usize {
    ring.entry().past_rows.load(busway_shm::sync::Ordering::Relaxed) as usize
}

/// Bytes of chunks that a publisher may be ahead of the links of its own process, and between two looks at them: half of
/// what the cache of one processor has.
const PACE_BYTES: u64 = 1 << 20;
/// Nanoseconds that a byte is worth then: a link that is slower than 1 GB/s is not waited for until the ring is full.
const PACE_NS_A_BYTE: u64 = 1;

/// Payloads from this size on take so long to be filled that their header's line might be gone again.
const TOUCHED_BYTES: usize = 64 << 10;

/// A publisher of one topic.
#[derive(Debug)]
pub struct Publisher {
    writer: RingWriter,
    topic: Topic,
    /// Of the topic: it costs a hash.
    topic_id: TopicId,
    port: PortId,
    line: usize,
    domain: Arc<Domain>,
    domain_version: u64,
    clock: Clock,
    bytes_sent: u64,
    /// Bytes of chunks since this publisher looked last how far it is ahead of the links.
    unpaced: u64,
    /// The node of this process: it carries at once what is sent here.
    carrier: Option<Weak<dyn Carrier>>,
    /// Messages of which it need not be told: it has so much to carry that it is asked for nothing.
    untold: u32,
    /// What its messages are, where nothing else is said.
    stamp: Stamp,
    /// Stands for a publisher elsewhere: the node that writes here knows of each message.
    relays: bool,
    // Last: the ring is closed before the bus may be.
    core: Arc<Core>,
}

impl Publisher {
    /// Sends, waiting for subscribers that ask for it, each for at most the publisher's `max_wait`.
    ///
    /// # Errors
    /// [`SendError::Full`] where a subscriber asks that the publisher fails; memory; a closed bus.
    pub fn send(&mut self, payload: &[u8]) -> Result<Sent, SendError> {
        self.send_coded(payload, Codec::Bytes, Patience::Until(Deadline::never()))
    }

    /// Sends, waiting at most `timeout`.
    ///
    /// # Errors
    /// [`SendError::Timeout`], and as [`Publisher::send`].
    pub fn send_timeout(&mut self, payload: &[u8], timeout: Duration) -> Result<Sent, SendError> {
        self.send_coded(payload, Codec::Bytes, Patience::Until(Deadline::after(timeout)))
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// [`SendError::Full`] where a subscriber would have to be waited for, and as [`Publisher::send`].
    #[inline]
    pub fn try_send(&mut self, payload: &[u8]) -> Result<Sent, SendError> {
        self.send_coded(payload, Codec::Bytes, Patience::None)
    }

    /// Several messages, of which those who sleep are told once: for who has more to send at once. See [`Batch`].
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Sends a value as JSON.
    ///
    /// # Errors
    /// [`SendError::Encode`], and as [`Publisher::send`].
    pub fn send_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<Sent, SendError> {
        let bytes = serde_json::to_vec(value).map_err(|error| SendError::Encode(error.to_string()));
        let bytes = self.counted(bytes)?;
        self.send_coded(&bytes, Codec::Json, Patience::Until(Deadline::never()))
    }

    /// Sends a value as MessagePack, with the names of its fields.
    ///
    /// # Errors
    /// [`SendError::Encode`], and as [`Publisher::send`].
    pub fn send_msgpack<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<Sent, SendError> {
        let bytes = rmp_serde::to_vec_named(value).map_err(|error| SendError::Encode(error.to_string()));
        let bytes = self.counted(bytes)?;
        self.send_coded(&bytes, Codec::MessagePack, Patience::Until(Deadline::never()))
    }

    #[inline]
    pub(crate) fn send_coded(
        &mut self,
        payload: &[u8],
        codec: Codec,
        patience: Patience,
    ) -> Result<Sent, SendError> {
        if payload.len() > INLINE_BYTES {
            let mut loan = self.loan_with(payload.len(), patience)?;
            loan.copy_from_slice(payload);
            return loan.finish(codec, patience);
        }
        let sent = self.check().and_then(|()| self.send_small(payload, codec, self.stamp, patience));
        self.counted(sent)
    }

    /// Counts what was refused to a caller.
    #[inline]
    pub(super) fn counted<T>(&self, sent: Result<T, SendError>) -> Result<T, SendError> {
        if let Err(error) = &sent {
            self.count(error);
        }
        sent
    }

    #[cold]
    fn count(&self, error: &SendError) {
        self.core.ports.count(
            match error {
                SendError::Full(_) => Event::SendFull,
                SendError::Timeout(_) => Event::SendTimeout,
                SendError::TooLarge { .. } => Event::SendTooLarge,
                SendError::OutOfMemory(_) => Event::SendMemory,
                SendError::Encode(_) => Event::SendEncode,
                // Of a closed bus nobody reads the words any more, and in a child they are the parent's.
                SendError::Closed | SendError::Forked => return,
            },
            1,
        );
    }

    /// Pushes a task of another host, which was given to pullers there so often before, without waiting.
    pub(crate) fn push_work(
        &mut self,
        origin: WorkOrigin,
        attempt: u8,
        codec: Codec,
        beside: &Beside<'_>,
        payload: &[u8],
    ) -> Result<Sent, SendError> {
        let next = self.writer.head() + 1;
        self.writer.shared().begins_at(next, attempt);
        let sent = self.send_behind(self.stamp, origin.to_bytes(), codec, beside, payload, Patience::None);
        if sent.is_err() && attempt > 0 {
            self.writer.shared().begins_not(next);
        }
        sent
    }

    /// Sends a message of this kind whose payload lies behind a head.
    pub(crate) fn send_headed(
        &mut self,
        stamp: Stamp,
        head: [u8; HEAD_BYTES],
        beside: &Beside<'_>,
        payload: &[u8],
        patience: Patience,
    ) -> Result<Sent, SendError> {
        self.send_behind(stamp, head, Codec::Bytes, beside, payload, patience)
    }

    fn send_behind<const HEAD: usize>(
        &mut self,
        stamp: Stamp,
        head: [u8; HEAD],
        codec: Codec,
        beside: &Beside<'_>,
        payload: &[u8],
        patience: Patience,
    ) -> Result<Sent, SendError> {
        if !beside.is_empty() {
            return self.send_beside(stamp, beside, &head, codec, payload, patience);
        }
        self.check()?;
        let bytes = HEAD.saturating_add(payload.len());
        if bytes > INLINE_BYTES {
            let place = self.place(bytes, patience)?;
            let mut loan = Loan::new(self, place, bytes);
            // Shorter in a child made by `fork` only.
            if let Some((before, behind)) = loan.split_at_mut_checked(HEAD) {
                before.copy_from_slice(&head);
                behind.copy_from_slice(payload);
            }
            return loan.finish_as(stamp, codec, patience);
        }
        let mut small = [0; INLINE_BYTES];
        small[..HEAD].copy_from_slice(&head);
        small[HEAD..bytes].copy_from_slice(payload);
        self.send_small(&small[..bytes], codec, stamp, patience)
    }

    #[inline]
    fn send_small(
        &mut self,
        payload: &[u8],
        codec: Codec,
        stamp: Stamp,
        patience: Patience,
    ) -> Result<Sent, SendError> {
        let meta = self.meta(codec, stamp);
        if let Some(sequence) = self.writer.put_inline(&meta, payload) {
            self.tell(payload.len());
            return Ok(Sent { sequence, waited_ns: 0, stalled: 0, evicted: 0 });
        }
        let sent = self.writer.send_inline(&meta, payload, patience);
        self.after(sent.map_err(|refusal| SendError::of(refusal, &self.topic)), payload.len())
    }

    /// What lies before a small payload.
    #[inline]
    fn meta(&self, codec: Codec, stamp: Stamp) -> InlineMeta {
        InlineMeta {
            time_ns: self.now_ns(),
            correlation: stamp.correlation,
            size: 0,
            kind: stamp.kind.number(),
            flags: self.flags(codec).bits(),
        }
    }

    /// A place for a payload of `len` bytes, in the memory where subscribers will read it. At most 96 bytes lie in the
    /// loan itself and are copied when it is sent. The bytes are what was there before: write all of them.
    ///
    /// Where memory is short the oldest messages are given up for it, as in a full ring: subscribers that ask for it
    /// are waited for, as by [`Publisher::send`].
    ///
    /// # Errors
    /// [`SendError::TooLarge`], [`SendError::OutOfMemory`], [`SendError::Full`] where memory is short, a closed bus.
    pub fn loan(&mut self, len: usize) -> Result<Loan<'_>, SendError> {
        self.loan_with(len, Patience::Until(Deadline::never()))
    }

    /// As [`Publisher::loan`], without waiting.
    ///
    /// # Errors
    /// As [`Publisher::loan`].
    pub fn try_loan(&mut self, len: usize) -> Result<Loan<'_>, SendError> {
        self.loan_with(len, Patience::None)
    }

    fn loan_with(&mut self, len: usize, patience: Patience) -> Result<Loan<'_>, SendError> {
        let place = self.place(len, patience);
        let place = self.counted(place)?;
        Ok(Loan::new(self, place, len))
    }

    fn place(&mut self, len: usize, patience: Patience) -> Result<Place, SendError> {
        self.check()?;
        Ok(if len <= INLINE_BYTES {
            Place::small()
        } else {
            let bytes = (HEADER_SIZE as u64).saturating_add(len as u64);
            let chunk = self.writer.loan(bytes, patience);
            let mut chunk = chunk.map_err(|refusal| SendError::of(refusal, &self.topic))?;
            // Brings the header's line in now: it is written when the message is ready and its readers wait. Asking for it,
            // as was done, is enough for one that is filled soon; what follows would wait for a write.
            if len >= TOUCHED_BYTES {
                chunk.bytes_mut()[..HEADER_SIZE].fill(0);
            }
            Place::Chunk(chunk, 0)
        })
    }

    #[inline]
    fn check(&self) -> Result<(), SendError> {
        if self.core.own.forked() {
            return Err(SendError::Forked);
        }
        if self.core.is_closed() { Err(SendError::Closed) } else { Ok(()) }
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        match self.clock {
            Clock::Coarse => clock::realtime_coarse_ns(),
            Clock::Exact => clock::realtime_ns(),
        }
    }

    fn flags(&self, codec: Codec) -> Flags {
        let flags = Flags::UNSEALED.with(Flags::from_codec(codec));
        if self.clock == Clock::Exact { flags.with(Flags::EXACT_TIME) } else { flags }
    }

    /// Gives the node of this process time where a link that loses nothing is far behind, at most as long as a slow link
    /// takes for what was published, and never longer than it waits for anybody: who runs a whole ring ahead fills, and has
    /// sent, memory that no cache has any more.
    fn pace(&mut self, sequence: u64, len: usize, patience: Patience) {
        // What was tried without patience is not waited for later.
        self.unpaced = self.unpaced.min(PACE_BYTES).saturating_add(len as u64);
        let Patience::Until(deadline) = patience else { return };
        if self.unpaced < PACE_BYTES {
            return;
        }
        let bytes = std::mem::take(&mut self.unpaced);
        if let Some(carrier) = self.carrier.as_ref().and_then(Weak::upgrade) {
            let most = bytes.saturating_mul(PACE_NS_A_BYTE).min(self.writer.waits_ns());
            let most = Duration::from_nanos(most);
            let most = deadline.remaining().map_or(most, |left| left.min(most));
            let messages = (PACE_BYTES / len.max(1) as u64).max(1);
            carrier.pace(self.port, Ahead { sequence, messages, most });
        }
    }

    /// What follows a message that was sent, or was not.
    fn after(
        &mut self,
        sent: Result<busway_shm::ring::Sent, SendError>,
        payload_bytes: usize,
    ) -> Result<Sent, SendError> {
        let sent = match sent {
            Ok(sent) if sent.stalled | sent.evicted == 0 => sent,
            other => self.report(other)?,
        };
        self.tell(payload_bytes);
        Ok(Sent {
            sequence: sent.sequence,
            waited_ns: sent.waited_ns,
            stalled: sent.stalled,
            evicted: sent.evicted,
        })
    }

    /// Rings for sleepers, after the slot was stored.
    #[inline]
    fn tell(&mut self, payload_bytes: usize) {
        self.bytes_sent += payload_bytes as u64;
        self.writer.shared().entry().sent_bytes.store(self.bytes_sent, busway_shm::sync::Ordering::Relaxed);
        if self.domain_version != self.core.ports.domain_version() {
            self.renew_domain();
        }
        let bell = self.domain.bell();
        let mut carrier = None;
        if self.untold > 0 {
            self.untold -= 1;
        } else {
            carrier = self.carrier.as_ref().and_then(Weak::upgrade);
        }
        let rang = if self.relays || carrier.is_some() {
            bell.ring_but_nodes(self.line)
        } else {
            bell.ring(self.line)
        };
        if rang.more {
            self.core.ports.finish_later(self.line);
            self.core.control.poke();
        }
        if let Some(carrier) = carrier {
            self.untold = carrier.published(self.port, &bell);
        }
    }

    /// Says in the log who held a message up: at most a line a second, whatever is tried meanwhile.
    #[cold]
    fn report(
        &self,
        sent: Result<busway_shm::ring::Sent, SendError>,
    ) -> Result<busway_shm::ring::Sent, SendError> {
        let topic = &self.topic;
        match &sent {
            Ok(sent) => {
                let (stalled, evicted) = (sent.stalled, sent.evicted);
                if stalled > 0 {
                    self.core.ports.warn(Line::Stalled, || {
                        format!(
                            "topic {topic}: {stalled} subscribers were waited for too long; see busway info"
                        )
                    });
                }
                if evicted > 0 {
                    self.core.ports.warn(Line::Evicted, || {
                        format!("topic {topic}: {evicted} slow subscribers were evicted, as they asked for")
                    });
                }
            }
            Err(error @ (SendError::Full(_) | SendError::Timeout(_))) => {
                let line = || format!("topic {topic}: {}", error.to_string().escape_debug());
                self.core.ports.warn(Line::Full, line);
            }
            Err(_) => {}
        }
        sent
    }

    #[cold]
    fn renew_domain(&mut self) {
        self.domain_version = self.core.ports.domain_version();
        self.untold = 0;
        if let Some(domain) = self.core.ports.domain() {
            self.domain = domain;
        }
        if !self.relays {
            self.carrier = self.core.ports.carrier().map(|carrier| Arc::downgrade(&carrier));
        }
    }

    /// A publisher that sends values of one type as they lie in memory.
    #[must_use]
    pub fn typed<T>(self) -> TypedPublisher<T> {
        TypedPublisher::new(self)
    }

    /// Its id: the source of its messages.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.port
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Subscribers that are attached now; 0 in a child made by `fork`, which may not take the parent's locks.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        if self.core.own.forked() {
            return 0;
        }
        self.writer.shared().seated()
    }

    /// Bytes of its ring.
    pub(crate) fn ring_bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Whether all who subscribe have taken everything.
    pub(crate) fn was_read(&mut self) -> bool {
        self.writer.behind().is_empty()
    }

    /// Gives up the oldest messages until the chunks have no more than so many bytes; nobody is waited for.
    pub(crate) fn give_up_to(&mut self, most: u64) {
        self.writer.give_up_to(most);
    }

    /// Whether a subscriber has come, also where it has gone since.
    pub(crate) fn was_met(&self) -> bool {
        let ring = self.writer.shared();
        ring.seated() + past(ring) > 0
    }

    /// What the control thread shares with it.
    pub(crate) fn ring(&self) -> &Arc<RingShared> {
        self.writer.shared()
    }

    /// Pullers that are attached now; 0 in a child made by `fork`.
    pub(crate) fn pullers(&self) -> usize {
        if self.core.own.forked() { 0 } else { self.writer.shared().pullers() }
    }

    /// Waits until at least `count` pullers are attached; returns how many are.
    pub(crate) fn wait_for_pullers(&self, count: usize, timeout: Duration) -> Result<usize, Error> {
        self.core.check()?;
        let enough = || self.pullers() >= count || self.core.is_closed();
        self.core.wait_for(Deadline::after(timeout), timeout, enough);
        self.core.check()?;
        let attached = self.pullers();
        if attached >= count {
            return Ok(attached);
        }
        Err(Error::new(Code::TimedOut, format!("{attached} of {count} pullers came within {timeout:?}"))
            .at(format!("topic {}", self.topic))
            .remedy("start pullers first, or wait longer"))
    }

    /// Waits until at least `count` subscribers are attached; returns how many are.
    ///
    /// # Errors
    /// [`Code::TimedOut`], [`Code::Closed`], [`Code::Forked`].
    pub fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<usize, Error> {
        self.core.check()?;
        let deadline = Deadline::after(timeout);
        let enough = || self.subscribers() >= count || self.core.is_closed();
        self.core.wait_for(deadline, timeout, enough);
        self.core.check()?;
        let attached = self.subscribers();
        if attached >= count {
            return Ok(attached);
        }
        Err(Error::new(Code::TimedOut, format!("{attached} of {count} subscribers came within {timeout:?}"))
            .at(format!("topic {}", self.topic))
            .remedy("start subscribers first, or wait longer"))
    }

    /// Waits until every subscriber that gates has passed the last message, and until nothing waits for the first
    /// ([`PublisherBuilder::late_join`]).
    ///
    /// # Errors
    /// [`SendError::Timeout`] with those who have not, when the time is up; a closed bus.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), SendError> {
        self.check()?;
        let who = self.writer.flush(Deadline::after(timeout));
        self.check()?;
        if who.is_empty() {
            return Ok(());
        }
        Err(SendError::Timeout(Behind(who.into_iter().map(Who::from).collect())))
    }

    /// Payload bytes sent so far.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// The ledger: what became of every message, for every subscriber there ever was. Empty in a child made by `fork`.
    #[must_use]
    pub fn account(&self) -> Account {
        if self.core.own.forked() {
            return Account::default();
        }
        // Rows that closed and processes that died since the control thread looked are settled now.
        let reaped = self.writer.shared().reap();
        self.core.ports.tell_returned(self.writer.shared(), reaped);
        crate::inspect::account_of(self.writer.shared())
    }

    /// Where this publisher's chunks are, for those who check that none is lost. Empty in a child made by `fork`.
    #[must_use]
    pub fn census(&self) -> busway_shm::ring::Census {
        if self.core.own.forked() {
            return busway_shm::ring::Census::default();
        }
        self.writer.census()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if !self.core.own.forked() {
            self.core.control.unpublish(self.port);
        }
    }
}

impl Publisher {
    /// Writes the header of the next message where it stays, word by word: a copy of one made elsewhere would be read
    /// again in other pieces than it was written in, and wait for all that was written before, which is the payload.
    #[inline]
    fn lay_header(&self, header: &mut Header, len: usize, codec: Codec, stamp: Stamp) {
        header.checksum.set(0);
        header.checksum_payload.set(0);
        header.size.set((HEADER_SIZE + len) as u32);
        header.kind = stamp.kind.number();
        header.hops_version = Header::FIRST_HOP;
        header.flags = self.flags(codec).bits();
        header.extensions = 0;
        header.topic.set(self.topic_id.0);
        header.source.set(self.port.0);
        header.sequence.set(self.writer.head() + 1);
        header.time_ns.set(self.now_ns());
        header.correlation.set(stamp.correlation);
    }
}

#[cfg(test)]
mod tests;
