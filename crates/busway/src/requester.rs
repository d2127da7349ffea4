//! Asking: a request goes to one responder, and its replies come back to who asked.
//!
//! A requester is a pusher whose messages are for the responders of its topic, and a subscriber of a topic of its own, its *lane*, on
//! which each process that answers publishes to it. So a request costs what work costs and a reply what a message does; nothing lies between
//! the two. What a reply cannot say, the claim word of the request does (`busway_shm::seat::request`): that nobody has it, that who had
//! it died, that it was answered and the answer is lost. A requester looks there when a responder has gone and a few times a second.
//!
//! Who does not take the replies of a stream loses the oldest of its own lanes, and no responder waits for it: a lane has one subscriber, which does not gate. Of
//! requests with one reply none is lost: no more are under way than a lane has places, and who asks receives what is there before it goes beyond (`inbox`).
//!
//! Any number of requests may be under way, and any number of threads may wait. One of those who wait *leads*: it receives for all, and hands
//! the lead on when it has what it wants. So a lone caller is woken by its reply and by nothing else, and there is no thread between.
//!
//! Across a link nothing here changes: the node beside it is a responder of this requester, and the far node a requester there; the replies are
//! words between them, and the deadline becomes the time that is left (`busway_wire::work`).
//!
//! Invariant: each request that was sent ends once, with its last reply or with one error; a reply is given to the request that it answers
//! or counted ([`Strays`]).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_protocol::Breaker;
use busway_shm::clock::{self, Deadline};
use busway_shm::counters::Event;
use busway_shm::ring::Patience;
use busway_shm::seat::RingShared;
use busway_shm::sync::{AtomicU64, Ordering};
use busway_wire::limits::{REQUESTS_AHEAD_PARTS, REQUESTS_UNDER_WAY_DEFAULT, REQUESTS_UNDER_WAY_MAX};
use busway_wire::{Cause, Kind, Pattern, PortId, RequestHead, Topic, lane_of, responders};

use crate::bus::{Bus, Core};
use crate::error::{Code, Error};
use crate::inspection::Account;
use crate::outcome::{RecvError, SendError};
use crate::ports::{Asker, line_of, lock};
use crate::publisher::{Beside, Publisher, PublisherBuilder, Stamp};
use crate::subscriber::SubscriberBuilder;

mod context;
mod guard;
mod inbox;
mod outcome;
mod pending;
mod watch;

pub use context::RequesterInContext;
use guard::Guard;
use inbox::Inbox;
pub use inbox::Strays;
pub use outcome::{Reply, RequestError};
pub use pending::Pending;

/// For so long a request waits for the first responder, unless the builder says otherwise: programs that are started together meet well
/// within it.
const LATE_JOIN_DEFAULT: Duration = Duration::from_secs(1);
/// Replies of one responder that are shown where they lie at one moment. Beyond, those of up to 64 KiB are copied.
const HOLDS: u32 = 32;
/// While the ring is full a thread keeps the others from it for so long.
const ROOM_WAIT: Duration = Duration::from_millis(5);

/// How a requester is made. See [`Bus::requester`].
#[derive(Clone, Debug)]
#[must_use = "a requester is made by `open`"]
pub struct RequesterBuilder {
    bus: Bus,
    publisher: PublisherBuilder,
    in_flight: u32,
    slots_max: Option<u32>,
    late_join: Duration,
    breaker: Option<Breaker>,
    of_bus: bool,
    spares: bool,
}

impl RequesterBuilder {
    pub(crate) fn new(bus: &Bus, topic: Result<Topic, Error>) -> Self {
        let publisher = PublisherBuilder::new(bus, topic);
        let (in_flight, slots_max) = (REQUESTS_UNDER_WAY_DEFAULT, None);
        Self {
            bus: bus.clone(),
            publisher,
            in_flight,
            slots_max,
            late_join: LATE_JOIN_DEFAULT,
            breaker: None,
            of_bus: false,
            spares: false,
        }
    }

    /// On a topic of the bus.
    pub(crate) fn of_bus(bus: &Bus, topic: Topic) -> Self {
        Self { of_bus: true, ..Self::new(bus, Ok(topic)) }
    }

    /// Requests under way at most, 1 to 4 096. Default 1 024. One more waits until one of them has ended, and is refused where none does in its
    /// own time ([`RequestError::TooMany`]).
    pub fn in_flight(mut self, requests: u32) -> Self {
        self.in_flight = requests;
        self
    }

    /// Requests that may be sent after one that has not ended, that one included, at most 2^20; rounded up to a power of two, at least 32. Default: eight
    /// times as many as may be under way. A request keeps its place among those that were sent until it has ended, so one that takes long holds up what is so far behind it:
    /// one more waits for it, and is refused where it does not end in time ([`RequestError::TooFarAhead`]).
    pub fn slots_max(mut self, requests: u32) -> Self {
        self.slots_max = Some(requests);
        self
    }

    /// Bytes of larger requests under way at most. Default 64 MiB. A single larger request is sent all the same.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.publisher = self.publisher.bytes_max(bytes);
        self
    }

    /// For so long a request waits for the first responder, or for the next where all have gone. After that it fails at once, as
    /// [`RequestError::NoResponders`]. Default 1 s.
    pub fn late_join(mut self, wait: Duration) -> Self {
        self.late_join = wait;
        self
    }

    /// Asks nothing for a while when requests end badly again and again: meanwhile each is refused at once ([`RequestError::Open`]). Default: it always asks. After the pause as many as the
    /// breaker's probes are sent, and it closes when they are answered.
    ///
    /// What it guards is the topic, for this requester and its clones; who answers is not theirs to choose. Badly ends what has no reply in time or no responder, whose responder died,
    /// failed or let it go. What was cancelled, and what could not be sent for want of room here, says nothing of who answers. Of a stream of replies the last counts.
    /// That there was no reply in time is found when the reply is asked for, or its [`Pending`] dropped.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// use busway::RequestError;
    /// use busway::service::Breaker;
    /// let bus = busway::Bus::open("example-of-a-breaker-of-requests")?;
    /// let breaker = Breaker::default().failures(1).pause(Duration::from_secs(10));
    /// let requester = bus.requester("nobody").late_join(Duration::ZERO).breaker(breaker).open()?;
    /// let asked = requester.request(b"17", Duration::from_secs(1));
    /// assert_eq!(asked.unwrap_err(), RequestError::NoResponders);
    /// let asked = requester.request(b"17", Duration::from_secs(1));
    /// assert!(matches!(asked.unwrap_err(), RequestError::Open(_)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// For requests of another host. While more than `WORK_TAKEN_IN_BYTES_MAX` bytes are kept for requests that nobody asks for an answer, what lies in the lanes stays there.
    pub(crate) fn for_another_host(mut self) -> Self {
        self.spares = true;
        self.publisher = self.publisher.only(responders());
        self.late_join = Duration::ZERO;
        self
    }

    /// Registers the requester. Returns when the responders that are known now can take what it asks.
    ///
    /// # Errors
    /// A topic that breaks the grammar ([`Code::BadTopic`]) or is reserved ([`Code::ReservedTopic`]), or a setting out of
    /// range; the rendezvous does not answer ([`Code::HolderSilent`]); memory (03xx); the bus is closed.
    pub fn open(self) -> Result<Requester, Error> {
        let core = self.bus.core.clone();
        if self.in_flight == 0 || self.in_flight > REQUESTS_UNDER_WAY_MAX {
            let cause = format!("in_flight must be 1 to {REQUESTS_UNDER_WAY_MAX}");
            return Err(Error::new(Code::BadSetting, cause).at("requester").remedy("use more requesters"));
        }
        let slots = self.slots_max.unwrap_or(self.in_flight * REQUESTS_AHEAD_PARTS);
        let publisher = self.publisher.slots_max(slots).open_for_requests(self.late_join, self.of_bus)?;
        let lane = lane_of(publisher.id());
        let pattern = Pattern::parse(lane.as_str()).map_err(Error::bad_pattern)?;
        let subscriber = SubscriberBuilder::new(&self.bus, Ok(pattern)).holds(HOLDS).open()?;
        let (port, topic, ring) = (publisher.id(), publisher.topic().clone(), publisher.ring().clone());
        let news = Arc::new(AtomicU64::new(0));
        let line = line_of(Some(&lane));
        core.ports.add_asker(ring.key(), Asker { line, news: news.clone() });
        let shared = Shared {
            guarded: self.breaker.is_some(),
            spares: self.spares,
            inbox: Mutex::new(Inbox::new(
                subscriber,
                Guard::new(self.breaker),
                Core::new_port()?.0,
                self.in_flight,
            )),
            sending: Mutex::new(publisher),
            late_join_ns: u64::try_from(self.late_join.as_nanos()).unwrap_or(u64::MAX),
            core,
            ring,
            news,
            seen: AtomicU64::new(0),
            looked_ns: AtomicU64::new(0),
            line,
            port,
            topic,
        };
        Ok(Requester { shared: Arc::new(shared) })
    }
}

/// What the handles of a requester and its requests share.
#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    /// It has a breaker.
    guarded: bool,
    /// It asks for another host: what it has no room for stays in the lanes.
    spares: bool,
    sending: Mutex<Publisher>,
    ring: Arc<RingShared>,
    /// Raised when a responder has gone.
    news: Arc<AtomicU64>,
    /// The news when the claims were looked at last, and when that was.
    seen: AtomicU64,
    looked_ns: AtomicU64,
    late_join_ns: u64,
    /// Where who leads sleeps.
    line: usize,
    port: PortId,
    topic: Topic,
    // Last: the ring is closed before the bus may be.
    core: Arc<Core>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.core.own.forked() {
            self.core.ports.remove_asker(self.ring.key());
        }
    }
}

impl Shared {
    fn check(&self) -> Result<(), RequestError> {
        if self.core.own.forked() {
            return Err(RequestError::Receive(RecvError::Forked));
        }
        if self.core.is_closed() { Err(RequestError::Receive(RecvError::Closed)) } else { Ok(()) }
    }

    /// Until when a request may wait for a responder: now or in the past, where there has been none for too long.
    fn waits_until(&self) -> Option<Deadline> {
        let since = self.ring.unanswered_since()?;
        Some(Deadline::after_from(Duration::from_nanos(self.late_join_ns), since))
    }

    /// Waits until somebody answers requests.
    fn wait_for_responders(&self, deadline: Deadline) -> Result<(), RequestError> {
        let Some(late) = self.waits_until() else { return Ok(()) };
        let until = late.earlier(deadline);
        let there = || self.ring.pullers() > 0 || self.core.is_closed();
        let left = until.remaining().unwrap_or(Duration::MAX);
        if !there() && !left.is_zero() {
            self.core.wait_for(until, left, there);
        }
        self.check()?;
        if self.ring.pullers() > 0 {
            return Ok(());
        }
        Err(if late.expired() { RequestError::NoResponders } else { RequestError::TimedOut })
    }

    /// Whether a request that has waited may still be sent.
    fn still(&self, correlation: u64) -> Result<(), RequestError> {
        self.check()?;
        if self.guarded { lock(&self.inbox).renew(correlation) } else { Ok(()) }
    }

    /// Puts a request into the ring; its place there.
    fn publish(
        &self,
        correlation: u64,
        beside: &Beside<'_>,
        payload: &[u8],
        deadline: Deadline,
        until: Deadline,
        began_ns: u64,
    ) -> Result<u64, RequestError> {
        let head = RequestHead { deadline_ns: deadline.at_ns().unwrap_or(u64::MAX).into() };
        let stamp = Stamp { kind: Kind::Request, correlation };
        // The clock is read again only where there was no room.
        let mut room_until = Deadline::after_from(ROOM_WAIT, began_ns);
        loop {
            let patience = Patience::Until(until.earlier(room_until));
            let mut sending = lock(&self.sending);
            // Before it can be answered: a reply is believed of who has taken it.
            let placed = |sequence| lock(&self.inbox).is_sent(correlation, sequence);
            placed(self.ring.head() + 1);
            let sent = sending.send_headed(stamp, head.to_bytes(), beside, payload, patience);
            if sent.is_err() {
                placed(0);
            }
            drop(sending);
            match sent {
                Ok(sent) => return Ok(sent.sequence),
                Err(SendError::Full(_) | SendError::Timeout(_)) if !until.expired() => {
                    self.still(correlation)?
                }
                Err(SendError::Full(_) | SendError::Timeout(_)) => return Err(RequestError::TooFarAhead),
                Err(error) => return Err(RequestError::Send(error)),
            }
            room_until = Deadline::after(ROOM_WAIT);
        }
    }

    /// Counts what a request came to.
    fn count_end(&self, end: &Result<(), RequestError>) {
        let event = match end {
            Ok(()) => Event::RequestAnswered,
            Err(RequestError::TimedOut) => Event::RequestTimedOut,
            Err(RequestError::NoResponders) => Event::RequestNoResponders,
            Err(RequestError::ResponderDied) => Event::RequestResponderDied,
            Err(RequestError::Unanswered) => Event::RequestUnanswered,
            Err(RequestError::Failed(_)) => Event::RequestFailed,
            Err(RequestError::ReplyLost) => Event::RequestReplyLost,
            Err(
                RequestError::Send(_)
                | RequestError::Receive(_)
                | RequestError::TooMany
                | RequestError::TooFarAhead
                | RequestError::Open(_),
            ) => Event::RequestRefused,
        };
        self.core.ports.count(event, 1);
    }

    /// Nobody waits for this request any more.
    fn withdraw(&self, sequence: u64, cause: Cause) -> bool {
        !self.core.own.forked() && self.ring.withdraw(sequence, cause)
    }

    /// Whether the claims are to be looked at: a responder has gone, or it is some time ago.
    fn is_due(&self, now_ns: u64) -> bool {
        // pairs with Release in `PortTable::tell_returned`
        self.news.load(Ordering::Acquire) != self.seen.load(Ordering::Relaxed)
            || now_ns.saturating_sub(self.looked_ns.load(Ordering::Relaxed)) >= pending::WATCH_NS
    }
}

/// A requester of one topic. Its clones share what is under way; any number of threads may ask at once.
#[derive(Clone, Debug)]
pub struct Requester {
    shared: Arc<Shared>,
}

impl Requester {
    /// Asks, and waits for the reply, at most `timeout`. Of a stream of replies it is the first, and the others are not wanted.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn request(&self, payload: &[u8], timeout: Duration) -> Result<Reply, RequestError> {
        self.send(payload, timeout)?.recv()?.ok_or(RequestError::Unanswered)
    }

    /// Asks, and does not wait for the replies, which nobody waits for any more after `timeout`. It waits, no longer than that, for the first
    /// responder ([`RequesterBuilder::late_join`]) and for a place where as many requests are under way as may be. Meanwhile it receives replies, for whomever they are.
    ///
    /// Its reply is kept until it is asked for. Replies to 16 384 requests, or 64 MiB of larger ones, that nobody asks for are as many as are kept: one more request is refused.
    ///
    /// # Errors
    /// [`RequestError::NoResponders`], [`RequestError::TimedOut`], [`RequestError::TooMany`], [`RequestError::TooFarAhead`], [`RequestError::Open`], [`RequestError::Send`]; a closed bus. The request was not sent.
    pub fn send(&self, payload: &[u8], timeout: Duration) -> Result<Pending, RequestError> {
        self.send_beside(&Beside::NOTHING, payload, timeout)
    }

    /// As [`Requester::send`], with something beside the payload.
    pub(crate) fn send_beside(
        &self,
        beside: &Beside<'_>,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Pending, RequestError> {
        let began_ns = now_ns();
        let deadline = Deadline::after_from(timeout, began_ns);
        self.counted(self.send_until(beside, payload, deadline, deadline, began_ns))
    }

    /// As [`Requester::send`], and returns `None` where it would have to wait for longer than `wait`: the request was not sent, and may be tried
    /// again.
    ///
    /// # Errors
    /// As [`Requester::send`].
    pub fn send_within(
        &self,
        payload: &[u8],
        timeout: Duration,
        wait: Duration,
    ) -> Result<Option<Pending>, RequestError> {
        self.send_beside_within(&Beside::NOTHING, payload, timeout, wait)
    }

    pub(crate) fn send_beside_within(
        &self,
        beside: &Beside<'_>,
        payload: &[u8],
        timeout: Duration,
        wait: Duration,
    ) -> Result<Option<Pending>, RequestError> {
        let began_ns = now_ns();
        let deadline = Deadline::after_from(timeout, began_ns);
        let until = deadline.earlier(Deadline::after_from(wait, began_ns));
        match self.send_until(beside, payload, deadline, until, began_ns) {
            Err(RequestError::TimedOut | RequestError::TooMany | RequestError::TooFarAhead)
                if !deadline.expired() =>
            {
                Ok(None)
            }
            sent => self.counted(sent).map(Some),
        }
    }

    /// Counts a request that was not sent.
    fn counted<T>(&self, sent: Result<T, RequestError>) -> Result<T, RequestError> {
        sent.inspect_err(|error| self.shared.count_end(&Err(error.clone())))
    }

    /// Sends what is waited for until `deadline`, if that can be done by `until`.
    fn send_until(
        &self,
        beside: &Beside<'_>,
        payload: &[u8],
        deadline: Deadline,
        until: Deadline,
        began_ns: u64,
    ) -> Result<Pending, RequestError> {
        let shared = &self.shared;
        shared.check()?;
        let pass = shared.admit()?;
        if let Err(error) = shared.wait_for_responders(until) {
            // Who may wait for less than the request tries again.
            let over = error != RequestError::TimedOut || deadline.expired();
            shared.give_up(pass, Some(&error).filter(|_| over));
            return Err(error);
        }
        let (correlation, placed) = lock(&shared.inbox).begin(pass)?;
        // From here on the drop of `pending` takes everything back.
        let mut pending = Pending::new(shared.clone(), correlation, deadline);
        if !placed {
            pending.take_place(until)?;
            shared.still(correlation)?;
        }
        let sequence = shared.publish(correlation, beside, payload, deadline, until, began_ns)?;
        pending.is_sent(sequence);
        Ok(pending)
    }

    /// Waits until at least `count` responders are there; returns how many are.
    ///
    /// # Errors
    /// [`Code::TimedOut`], [`Code::Closed`], [`Code::Forked`].
    pub fn wait_for_responders(&self, count: usize, timeout: Duration) -> Result<usize, Error> {
        let Shared { core, ring, topic, .. } = &*self.shared;
        core.check()?;
        let enough = || ring.pullers() >= count || core.is_closed();
        core.wait_for(Deadline::after(timeout), timeout, enough);
        core.check()?;
        let there = ring.pullers();
        if there >= count {
            return Ok(there);
        }
        Err(Error::new(Code::TimedOut, format!("{there} of {count} responders came within {timeout:?}"))
            .at(format!("topic {topic}"))
            .remedy("start responders first, or wait longer"))
    }

    /// Responders that are there now; 0 in a child made by `fork`.
    #[must_use]
    pub fn responders(&self) -> usize {
        if self.shared.core.own.forked() { 0 } else { self.shared.ring.pullers() }
    }

    /// Processes that reply to this requester now, or have not closed their lane yet; 0 in a child made by `fork`.
    #[must_use]
    pub fn lanes(&self) -> usize {
        if self.shared.core.own.forked() { 0 } else { lock(&self.shared.inbox).lanes() }
    }

    /// Requests that have not ended; 0 in a child made by `fork`, which may not take the parent's locks.
    #[must_use]
    pub fn under_way(&self) -> usize {
        if self.shared.core.own.forked() { 0 } else { lock(&self.shared.inbox).under_way() }
    }

    /// Replies that were given to no request; none in a child made by `fork`.
    #[must_use]
    pub fn strays(&self) -> Strays {
        if self.shared.core.own.forked() { Strays::default() } else { lock(&self.shared.inbox).strays() }
    }

    /// The ledger: what became of every request. Empty in a child made by `fork`.
    #[must_use]
    pub fn account(&self) -> Account {
        if self.shared.core.own.forked() {
            return Account::default();
        }
        // Words of responders that died since the control thread looked are settled now.
        let reaped = self.shared.ring.reap();
        self.shared.core.ports.tell_returned(&self.shared.ring, reaped);
        crate::inspect::account_of(&self.shared.ring)
    }

    /// The ring of its requests.
    pub(crate) fn ring(&self) -> &Arc<RingShared> {
        &self.shared.ring
    }

    /// Its id: the source of its requests.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.shared.port
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.shared.topic
    }
}

/// Now, as the inbox counts.
fn now_ns() -> u64 {
    clock::monotonic_ns()
}
