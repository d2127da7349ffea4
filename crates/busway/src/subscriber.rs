//! Subscribing: take what is there, or wait for it.
//!
//! A subscriber has one row for every publisher that its pattern matches, and takes from them in turn. It waits by
//! spinning a little, then yielding, then asleep on the bell. Publishers that come later are met by the control thread.
//!
//! Invariant: messages of one publisher come in order, each at most once; what was missed is counted before the message
//! that follows it is returned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use busway_shm::clock::{self, Deadline};
use busway_shm::layout::RING_RELAYS;
use busway_shm::row::{Gap, Message, RowOptions, RowReader, RowShared, Taken, TakenSmall};
use busway_shm::slot;
use busway_shm::sync::spin_hint;
use busway_wire::limits::{HOLDS_MAX, SAMPLE_SOURCES_MAX};
use busway_wire::{Pattern, Policy, PortId, ProcessId};

use crate::bus::{Bus, Core};
use crate::control::SubscriberRecord;
use crate::error::{Code, Error};
use crate::inspection::Account;
use crate::outcome::{Loss, RecvError, Unread};
use crate::ports::unmet::{Short, Unmet};
use crate::ports::{Carrier, FULL_MAX, Looked, Subscription, line_of};
use crate::publisher::ORIGIN_BYTES;
use crate::sample::{PublisherInfo, Sample, SampleTray, Source, SourceRef};
use crate::stream::SampleStream;

mod last;
mod many;
mod news;
mod origin;

use many::Many;
pub use news::News;
use origin::{Hole, Origin, Verdict};

/// A subscriber's constructor waits this long after the last news for publishers that are known.
const QUIET: Duration = Duration::from_secs(1);
/// Looks before yielding: about two microseconds, the time of a message that is on its way.
const SPINS: u32 = 100;
/// Yields before sleeping.
const YIELDS: u32 = 4;
/// Looks between two words to the node that brings us everything: about as long as a few system calls.
const BUSY: u32 = 64;
/// Ranges of losses that are kept apart until [`Subscriber::losses`] is asked; further ones are added to the last.
const LOSSES_MAX: usize = 1024;
/// Losses of one publisher in one look. An honest one gives up what it gives up in one go, or nearly; one that is not
/// could go on for ever, and the others wait.
const GAPS_MAX: u32 = 64;
/// Ended publishers on other hosts of which it is remembered how far they were. Past it a relay that comes again may
/// bring again what was delivered.
const ORIGINS_MAX: usize = 65_536;
/// Samples that may be held of one publisher unless the builder says otherwise.
const HOLDS_DEFAULT: u32 = 15;

/// How a subscriber is made. See [`Bus::subscriber`].
#[derive(Clone, Debug)]
#[must_use = "a subscriber is made by `open`"]
pub struct SubscriberBuilder {
    bus: Bus,
    pattern: Result<Pattern, Error>,
    policy: Policy,
    history: u64,
    holds: u32,
    duplicates: Option<u32>,
}

impl SubscriberBuilder {
    pub(crate) fn new(bus: &Bus, pattern: Result<Pattern, Error>) -> Self {
        let (policy, holds) = (Policy::default(), HOLDS_DEFAULT);
        Self { bus: bus.clone(), pattern, policy, history: 0, holds, duplicates: None }
    }

    /// What happens when this subscriber is slow. Default: the oldest messages are lost, and counted.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Messages from before the subscription, as far as the publishers still have them. Default 0.
    pub fn history(mut self, messages: u64) -> Self {
        self.history = messages;
        self
    }

    /// Samples of one publisher that may be held at one moment, 1 to 256. Default 15. Beyond, samples of up to 64 KiB
    /// are copied, and larger ones wait.
    pub fn holds(mut self, samples: u32) -> Self {
        self.holds = samples;
        self
    }

    /// Drops a message whose [id](Sample::id) is among the last so many that came, 1 to 1 048 576, from whichever publisher: it is counted as
    /// lost, with the cause `duplicate`. An id is remembered from when its message was taken; 64 bytes are enough for each. What has no id is never dropped
    /// for that. Default: everything is taken as it comes.
    ///
    /// Not together with [`Policy::KeepLatest`]: an old message that comes again would push out the newest, and then be dropped itself. With the policies that drop, what comes again takes
    /// room as anything does.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use busway::{Cause, Context};
    /// let bus = busway::Bus::open("example-of-duplicates")?;
    /// let mut subscriber = bus.subscriber("orders").drop_duplicates(1_000).open()?;
    /// let mut publisher = bus.publisher("orders").open()?;
    /// let order = Context::default().with_id(bus.next_id()?);
    /// publisher.in_context(order).send(b"17 apples")?;
    /// publisher.in_context(order).send(b"17 apples")?; // who sent it did not know that it had gone out
    /// publisher.send(b"the next")?;
    /// assert_eq!(&subscriber.recv()?[..], b"17 apples");
    /// assert_eq!(&subscriber.recv()?[..], b"the next");
    /// assert_eq!(subscriber.losses()[0].cause, Cause::Duplicate);
    /// # Ok(())
    /// # }
    /// ```
    pub fn drop_duplicates(mut self, ids: u32) -> Self {
        self.duplicates = Some(ids);
        self
    }

    /// Registers the subscriber. Returns when the publishers that are known now are attached, or have refused: those are
    /// tried again, and [`Subscriber::unread`] names them meanwhile.
    ///
    /// # Errors
    /// A pattern that breaks the grammar ([`Code::BadPattern`]) or a setting out of range; the rendezvous does not
    /// answer ([`Code::HolderSilent`]); memory (03xx); the bus is closed.
    pub fn open(self) -> Result<Subscriber, Error> {
        let pattern = self.pattern?;
        let policy = self.policy.checked().map_err(Error::from)?;
        let core = self.bus.core.clone();
        core.check()?;
        if self.holds == 0 || self.holds > HOLDS_MAX {
            return Err(Error::new(Code::BadSetting, format!("holds must be 1 to {HOLDS_MAX}"))
                .at(format!("subscriber of {pattern}"))
                .remedy("hold fewer samples, or copy what must be kept"));
        }
        let seen = crate::ids::seen(self.duplicates, &core.own, || format!("subscriber of {pattern}"))?;
        if seen.is_some() && policy == Policy::KeepLatest {
            let cause = "of what comes again the latest is no news, and what was before it is gone";
            return Err(Error::new(Code::BadSetting, cause)
                .at(format!("subscriber of {pattern}"))
                .remedy("keep the latest, or drop what comes again with another policy"));
        }
        let holds = match policy {
            Policy::DropNewest { depth } => self.holds.max(depth),
            _ => self.holds,
        };
        let port = Core::new_port()?;
        let created_ns = clock::monotonic_ns();
        let options = RowOptions { port, policy, history: self.history, holds, created_ns, place: 0 };
        let subscription = Arc::new(Subscription::new(options, line_of(pattern.exact())));
        core.ports.add_subscription(port, &subscription, created_ns);
        let record = SubscriberRecord { port, pattern: pattern.clone(), policy, created_ns, export: false };
        let deadline = Deadline::after(core.timeout);
        let mut subscriber = Subscriber {
            core,
            subscription,
            pattern,
            policy,
            seen,
            port,
            readers: Vec::new(),
            tray: SampleTray::default(),
            many: None,
            own_relays: 0,
            relayed: BTreeSet::new(),
            turn: 0,
            version: 0,
            losses: Vec::new(),
            past: Account::default(),
            unfinished: false,
            standby: Vec::new(),
            origins: BTreeMap::new(),
            held: BTreeSet::new(),
            ends: false,
            carrier: None,
            busy: 0,
        };
        // From here on the drop of `subscriber` takes everything back.
        let publishers = subscriber.core.control.subscribe(record, deadline)? as usize;
        let subscription = subscriber.subscription.clone();
        let settled = || subscription.begun() + subscription.unmet_count() >= publishers;
        subscriber.core.wait_for(deadline, QUIET, settled);
        // What this process has no room for is its user's to mend. What a publisher refuses must not keep us from the others.
        if let Some(unmet) = subscription.unmet().into_iter().find(|unmet| unmet.short == Short::Own) {
            return Err(unmet.error);
        }
        subscriber.meet();
        Ok(subscriber)
    }
}

/// One publisher, as a subscriber reads it, in four lines. What a take needs stands first, in three: of ten thousand readers
/// none is in a cache.
#[derive(Debug)]
#[repr(C)]
struct Reader {
    source: SourceRef,
    /// How far a publisher on another host is.
    origin: Option<Origin>,
    /// Its messages stay where they are.
    held: bool,
    reader: RowReader,
}

impl Reader {
    /// Asks for the memory that a take of a small message needs.
    #[inline]
    fn fetch(&self) {
        slot::fetch_first(self, std::mem::offset_of!(Self, reader) + RowReader::TAKE_BYTES);
    }

    fn port(&self) -> PortId {
        self.source.publisher.port
    }

    /// Where its ring is, among those of all processes.
    fn key(&self) -> (ProcessId, u32) {
        let row = self.reader.row();
        (row.peer().process(), row.ring_key().index)
    }
}

/// A subscriber of one pattern.
#[derive(Debug)]
pub struct Subscriber {
    core: Arc<Core>,
    subscription: Arc<Subscription>,
    pattern: Pattern,
    policy: Policy,
    /// What it has had, where it is not to have it again.
    seen: Option<crate::ids::Seen>,
    port: PortId,
    readers: Vec<Reader>,
    /// One for all publishers: of very many it is in a cache, and what each had for itself would not be.
    tray: SampleTray,
    /// Where the readers are many: which of them have something.
    many: Option<Box<Many>>,
    /// Readers of relays of this process.
    own_relays: usize,
    /// Publishers on other hosts of which a relay is read.
    relayed: BTreeSet<PortId>,
    turn: usize,
    version: u64,
    losses: Vec<Loss>,
    past: Account,
    /// The last look ended before everything had been looked at: nobody sleeps on that.
    unfinished: bool,
    /// Relays of publishers that another relay of ours still brings: read when that one is at its end.
    standby: Vec<Reader>,
    /// How far publishers on other hosts were whose relays have ended.
    origins: BTreeMap<PortId, u64>,
    /// Publishers whose messages stay where they are: back pressure on them alone.
    held: BTreeSet<PortId>,
    /// Only what was there when that was said is taken any more.
    ends: bool,
    /// The node of this process, while it is all that brings us something.
    carrier: Option<Weak<dyn Carrier>>,
    /// Looks since that node was told that we are busy with what it brought.
    busy: u32,
}

impl Subscriber {
    /// Takes a message if one is there. So much may have been lost that the next call goes on looking: `None` until then.
    ///
    /// # Errors
    /// [`RecvError`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Sample>, RecvError> {
        self.check()?;
        let taken = self.take()?;
        if taken.is_some() || self.carrier.is_none() {
            return Ok(taken);
        }
        match self.fed() {
            Some(carrier) if carrier.glance() => self.take(),
            _ => Ok(None),
        }
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn recv(&mut self) -> Result<Sample, RecvError> {
        loop {
            if let Some(sample) = self.wait(Deadline::never(), || false)? {
                return Ok(sample);
            }
        }
    }

    /// Waits for a message, at most `timeout`; `None` when the time is up.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Sample>, RecvError> {
        // Most often something is there, and the clock need not be asked.
        self.check()?;
        match self.take()? {
            Some(sample) => Ok(Some(sample)),
            None => self.wait(Deadline::after(timeout), || false),
        }
    }

    /// Handles what is there, in place and in order, and returns how many messages that were: no more than were ready
    /// when they were looked at, and at most `most`. Nothing is waited for.
    ///
    /// # Errors
    /// [`RecvError`]; messages before it have been handled.
    pub fn handle(&mut self, most: usize, mut handler: impl FnMut(&Sample)) -> Result<usize, RecvError> {
        self.check()?;
        let mut handled = 0;
        while handled < most {
            match self.take()? {
                Some(sample) => handler(&sample),
                None => break,
            }
            handled += 1;
        }
        Ok(handled)
    }

    /// The messages as a stream, for any executor.
    pub fn stream(&mut self) -> SampleStream<'_> {
        SampleStream::new(self)
    }

    /// As [`Subscriber::recv_timeout`], but returns also once `stop` says so; who makes it say so rings the bell.
    pub(crate) fn recv_unless(
        &mut self,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<Option<Sample>, RecvError> {
        self.wait(deadline, stop)
    }

    fn wait(&mut self, deadline: Deadline, stop: impl Fn() -> bool) -> Result<Option<Sample>, RecvError> {
        let mut looks = 0;
        loop {
            self.check()?;
            if let Some(sample) = self.take()? {
                return Ok(Some(sample));
            }
            // Looking at memory does not bring what only a link can.
            looks = if self.carrier.is_some() { u32::MAX } else { looks.saturating_add(1) };
            if looks <= SPINS {
                spin_hint();
            } else if looks <= SPINS + YIELDS {
                std::thread::yield_now();
            } else if deadline.expired() || stop() {
                return Ok(None);
            } else if let Some(sample) = self.sleep(deadline, &stop)? {
                return Ok(Some(sample));
            }
        }
    }

    /// The node of this process, if nobody else brings anything to this subscriber.
    fn fed(&self) -> Option<Arc<dyn Carrier>> {
        self.carrier.as_ref().and_then(Weak::upgrade)
    }

    /// Tells the node that brings us everything that we are at it.
    #[cold]
    fn is_here(&mut self) {
        self.busy = 0;
        if let Some(carrier) = self.fed() {
            carrier.is_here();
        }
    }

    /// Looks again who brings something. Called when publishers have come or gone.
    fn look_who_feeds(&mut self) {
        let fed = !self.readers.is_empty() && self.own_relays == self.readers.len();
        let carrier = if fed { self.core.ports.carrier() } else { None };
        self.carrier = carrier.map(|carrier| Arc::downgrade(&carrier));
    }

    fn sleep(&mut self, deadline: Deadline, stop: impl Fn() -> bool) -> Result<Option<Sample>, RecvError> {
        if self.many.is_none() {
            self.drop_finished(0, usize::MAX);
        }
        if let Some(carrier) = self.fed() {
            let mut taken = Ok(None);
            let mut look = || {
                taken = self.check().and_then(|()| self.take());
                if matches!(taken, Ok(None)) && self.carrier.is_some() && !self.unfinished && !stop() {
                    Looked::Nothing
                } else {
                    Looked::Done
                }
            };
            if carrier.lead(deadline, &mut look) == Looked::Done {
                return taken;
            }
        }
        let Some(domain) = self.core.ports.domain() else { return Err(RecvError::Closed) };
        let bell = domain.bell();
        let sleeper = bell.prepare(self.subscription.line);
        // Announced: what comes now will ring. What came before is seen by this look.
        if let Some(sample) = self.take()? {
            return Ok(Some(sample));
        }
        self.check()?;
        if self.unfinished {
            std::thread::yield_now();
        } else if self.subscription.version() == self.version && !stop() {
            sleeper.wait(deadline.remaining());
        }
        Ok(None)
    }

    #[inline]
    fn check(&self) -> Result<(), RecvError> {
        if self.core.own.forked() {
            return Err(RecvError::Forked);
        }
        if self.core.is_closed() { Err(RecvError::Closed) } else { Ok(()) }
    }

    /// The next message, if it is there. What happens most is seen at a glance: the message whose turn it is is small and
    /// there, or there is but one publisher and nothing of it.
    #[inline]
    fn take(&mut self) -> Result<Option<Sample>, RecvError> {
        if self.subscription.version() != self.version {
            self.meet();
        }
        self.unfinished = false;
        if self.carrier.is_some() {
            self.busy += 1;
            if self.busy >= BUSY {
                self.is_here();
            }
        }
        if self.many.is_some() {
            return self.take_ready();
        }
        let count = self.readers.len();
        let at = self.turn;
        match self.take_small_of(at) {
            Small::Message(sample) => {
                // The next take begins with the next publisher: none of them starves.
                self.turn = if at + 1 < count { at + 1 } else { 0 };
                return Ok(Some(sample));
            }
            Small::Dropped => self.turn = if at + 1 < count { at + 1 } else { 0 },
            Small::Empty if count == 1 => return Ok(None),
            Small::Empty | Small::Other => {}
        }
        self.take_any()
    }

    /// The next message of the publisher at this place, if it is small and nothing but to copy it is to be done.
    #[inline]
    fn take_small_of(&mut self, at: usize) -> Small {
        let Some(reader) = self.readers.get_mut(at).filter(|reader| !reader.held) else {
            return Small::Other;
        };
        if reader.reader.is_empty() {
            return Small::Empty;
        }
        let mut blank = self.tray.blank(&reader.source);
        match blank.place().map_or(TakenSmall::Other, |place| reader.reader.take_small(place)) {
            TakenSmall::Message(sequence) => {
                let sample = blank.copied(sequence);
                let Some(origin) = &mut reader.origin else { return Small::Message(sample) };
                let next = origin.next();
                match sample.relayed_as(next) {
                    Ok(sample) => {
                        origin.follow(next);
                        Small::Message(sample)
                    }
                    Err(sample) => self.judge(at, sample).map_or(Small::Dropped, Small::Message),
                }
            }
            TakenSmall::Empty => {
                self.tray.keep(blank);
                Small::Empty
            }
            TakenSmall::Other => {
                self.tray.keep(blank);
                Small::Other
            }
        }
    }

    /// The next message of any publisher, whatever it is.
    #[inline(never)]
    fn take_any(&mut self) -> Result<Option<Sample>, RecvError> {
        let mut left = self.readers.len();
        let mut at = self.turn;
        while left > 0 {
            if at >= self.readers.len() {
                at = 0;
            }
            match self.take_of(at)? {
                // The next take begins with the next publisher: none of them starves.
                Seen::Message(sample) => {
                    self.turn = if self.readers.len() == 1 { 0 } else { at + 1 };
                    return Ok(Some(sample));
                }
                Seen::Nothing | Seen::More => {
                    at += 1;
                    left -= 1;
                }
                // One that has ended gave its place to the last one, which may have been looked at already: it costs one look
                // more, and none is left out.
                Seen::End => {}
            }
        }
        Ok(None)
    }

    /// The next message of the publisher at this place, whatever it is.
    fn take_of(&mut self, at: usize) -> Result<Seen, RecvError> {
        let mut gaps = 0;
        loop {
            let Some(reader) = self.readers.get_mut(at).filter(|reader| !reader.held) else {
                return Ok(Seen::Nothing);
            };
            match reader.reader.take() {
                Taken::Message(message) => {
                    if reader.origin.is_none() {
                        return Ok(Seen::Message(self.tray.blank(&reader.source).show(message)));
                    }
                    if let Some(sample) = self.relayed(at, message) {
                        return Ok(Seen::Message(sample));
                    }
                }
                Taken::Empty => return Ok(Seen::Nothing),
                other => {
                    if self.unusual(at, other)? == Next::OtherReader {
                        return Ok(Seen::End);
                    }
                    gaps += 1;
                    if gaps >= GAPS_MAX {
                        self.unfinished = true;
                        return Ok(Seen::More);
                    }
                }
            }
        }
    }

    #[cold]
    fn unusual(&mut self, at: usize, taken: Taken) -> Result<Next, RecvError> {
        match taken {
            Taken::Gap(gap) if self.readers[at].origin.is_some() => {
                // Which of the origin's messages they were, the next one says.
                if let Some(origin) = &mut self.readers[at].origin {
                    origin.missed(gap.cause, gap.count);
                }
                Ok(Next::SameReader)
            }
            Taken::Gap(gap) => {
                self.lose_here(at, gap);
                Ok(Next::SameReader)
            }
            Taken::End => {
                self.finish(at);
                Ok(Next::OtherReader)
            }
            Taken::Evicted(gap) => {
                self.lose_here(at, gap);
                let topic = self.readers[at].source.topic.clone();
                self.finish(at);
                Err(RecvError::Evicted(topic))
            }
            Taken::HoldsExhausted => Err(RecvError::HoldsExhausted),
            Taken::Empty | Taken::Message(_) => Ok(Next::SameReader),
        }
    }

    /// Notes what was lost on this host. Of a publisher elsewhere the sequences go on from the last that is known.
    fn lose_here(&mut self, at: usize, gap: Gap) {
        let reader = &self.readers[at];
        let (topic, source) = (reader.source.topic.clone(), reader.port());
        let from = reader.origin.as_ref().map_or(gap.from, |origin| origin.last().saturating_add(1));
        let to = from.saturating_add(gap.count).saturating_sub(1);
        self.lose(Loss { topic, cause: gap.cause, count: gap.count, source, from, to, link: String::new() });
    }

    fn lose(&mut self, loss: Loss) {
        let full = self.losses.len() >= LOSSES_MAX;
        let goes_on = |old: &&mut Loss| {
            let same = old.source == loss.source && old.cause == loss.cause && old.link == loss.link;
            full || (same && old.to.checked_add(1) == Some(loss.from))
        };
        match self.losses.last_mut().filter(goes_on) {
            Some(last) => {
                last.count = last.count.saturating_add(loss.count);
                last.to = loss.to;
            }
            None => self.losses.push(loss),
        }
    }

    /// Takes up the publishers that the control thread has met.
    #[cold]
    pub(crate) fn meet(&mut self) {
        self.version = self.subscription.version();
        let uid = busway_shm::sys::identity::uid();
        let mut come = Vec::new();
        // In the order in which they came: of two relays of a publisher the older one has what was sent first.
        for arrival in self.subscription.arrived() {
            let peer = arrival.row.peer().clone();
            let publisher = PublisherInfo { name: peer.name(), pid: peer.pid(), port: arrival.publisher };
            let flags = arrival.row.ring().flags.load(busway_shm::sync::Ordering::Relaxed);
            let relay = flags & RING_RELAYS != 0;
            let skip = if relay { ORIGIN_BYTES as u8 } else { 0 };
            let mut reader = RowReader::new(arrival.row, self.policy, peer.uid() != uid);
            if let Some(seen) = &self.seen {
                reader.drop_duplicates(seen.sieve(arrival.topic.as_str()));
            }
            let source = SourceRef::alone(Source { topic: arrival.topic, publisher, skip });
            let origin = relay
                .then(|| self.origins.remove(&arrival.publisher).map_or_else(Origin::default, Origin::after));
            let held = self.ends || self.held.contains(&arrival.publisher);
            let reader = Reader { source, origin, held, reader };
            if reader.origin.is_some() && !self.relayed.insert(reader.port()) {
                self.standby.push(reader);
            } else {
                come.push(reader);
            }
        }
        if self.readers.len() + come.len() > FULL_MAX {
            // In the order in which they are looked at, so that what comes next lies behind what there is.
            come.sort_by_key(Reader::key);
        }
        come.into_iter().for_each(|reader| self.add(reader));
        if let Some(many) = &mut self.many {
            many.seats_came();
        }
        self.look_who_feeds();
    }

    fn add(&mut self, reader: Reader) {
        self.own_relays += usize::from(self.is_own_relay(&reader));
        self.readers.push(reader);
        let count = self.readers.len();
        match &mut self.many {
            Some(many) => {
                many.add(&self.readers);
                if count.is_multiple_of(SAMPLE_SOURCES_MAX) {
                    join_sources(&mut self.readers[count - SAMPLE_SOURCES_MAX..]);
                }
            }
            None if count > FULL_MAX => self.many = Some(Box::new(Many::of(&mut self.readers))),
            None => {}
        }
    }

    /// Whether it is a relay of this process.
    fn is_own_relay(&self, reader: &Reader) -> bool {
        reader.origin.is_some() && reader.reader.row().peer().process() == self.core.own.process()
    }

    fn finish(&mut self, at: usize) {
        let reader = self.readers.swap_remove(at);
        self.own_relays -= usize::from(self.is_own_relay(&reader));
        if reader.origin.is_some() {
            self.relayed.remove(&reader.port());
        }
        if let Some(many) = &mut self.many {
            many.remove(at);
        }
        crate::inspect::add_row(&mut self.past, &reader.reader.row().account());
        self.replace(&reader);
        self.look_who_feeds();
    }

    /// What follows a reader that is at its end: the next relay of the same publisher, or the memory of where it was.
    fn replace(&mut self, reader: &Reader) {
        let Some(origin) = &reader.origin else { return };
        let reached = (origin.last() > 0).then(|| origin.last());
        match self.standby.iter().position(|next| next.port() == reader.port()) {
            Some(next) => {
                let mut next = self.standby.remove(next);
                if let Some(reached) = reached {
                    next.origin = Some(Origin::after(reached));
                }
                self.relayed.insert(next.port());
                self.add(next);
            }
            None => {
                if let Some(reached) = reached.filter(|_| self.origins.len() < ORIGINS_MAX) {
                    self.origins.insert(reader.port(), reached);
                }
            }
        }
    }

    /// What a relay brings: a message that is new, or something else that is dealt with here.
    fn relayed(&mut self, at: usize, message: Message) -> Option<Sample> {
        let sample = self.tray.blank(&self.readers[at].source).show(message);
        self.judge(at, sample)
    }

    fn judge(&mut self, at: usize, sample: Sample) -> Option<Sample> {
        let reader = &mut self.readers[at];
        let origin = reader.origin.as_mut()?;
        let mut holes = Vec::new();
        let delivered = match sample.relayed() {
            Ok(sample) => match origin.message(sample.sequence(), &mut holes) {
                Verdict::Deliver => Some(sample),
                Verdict::Duplicate => None,
            },
            Err(missing) => {
                if let Some(missing) = missing {
                    origin.missing(&missing, &mut holes);
                }
                None
            }
        };
        if holes.is_empty() {
            return delivered;
        }
        let (topic, source) = (reader.source.topic.clone(), reader.port());
        for Hole { from, to, cause, link } in holes {
            self.lose(Loss { topic: topic.clone(), cause, count: to - from + 1, source, from, to, link });
        }
        delivered
    }

    /// Lets go of publishers that are gone and have been read to their end, until so many are found that are not. Returns where to go on.
    fn drop_finished(&mut self, from: usize, most: usize) -> usize {
        let (mut at, mut left) = (from, most);
        while at < self.readers.len() && left > 0 {
            if self.readers[at].reader.is_over() {
                self.finish(at);
            } else {
                at += 1;
                left -= 1;
            }
        }
        if at < self.readers.len() { at } else { 0 }
    }

    /// What was missed since this was asked last, oldest first.
    pub fn losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// Messages of `source` stay where they are from now on, so that its publisher waits for us and no other does.
    pub(crate) fn hold(&mut self, source: PortId) {
        self.held.insert(source);
        self.mark_held(source, true);
    }

    /// Messages of `source` are taken again.
    pub(crate) fn let_go(&mut self, source: PortId) {
        self.held.remove(&source);
        self.mark_held(source, false);
    }

    fn mark_held(&mut self, source: PortId, held: bool) {
        for (at, reader) in self.readers.iter_mut().enumerate().filter(|(_, known)| known.port() == source) {
            reader.held = held;
            if let Some(many) = &mut self.many {
                many.ready.again(at);
            }
        }
        for reader in self.standby.iter_mut().filter(|known| known.port() == source) {
            reader.held = held;
        }
    }

    /// Whether something of `source` is there, or its end.
    pub(crate) fn has_of(&self, source: PortId) -> bool {
        self.readers.iter().any(|known| known.port() == source && known.reader.row().has_news())
    }

    /// Whose publisher this is, of those that are read.
    pub(crate) fn process_of(&self, publisher: PortId) -> Option<ProcessId> {
        let reader = self.readers.iter().find(|reader| reader.port() == publisher)?;
        Some(reader.reader.row().peer().process())
    }

    /// Whether it reads a publisher of this process.
    pub(crate) fn reads(&self, process: ProcessId) -> bool {
        let of_it = |row: &RowShared| row.peer().process() == process && row.is_attached();
        self.readers.iter().any(|reader| of_it(reader.reader.row()))
    }

    /// Publishers that this subscriber reads now: what they send from here on it sees. 0 in a child made by `fork`, which
    /// may not take the parent's locks.
    #[must_use]
    pub fn publishers(&self) -> usize {
        if self.core.own.forked() {
            return 0;
        }
        self.subscription.reading()
    }

    /// Publishers that match and cannot be read now, because this process or theirs has no memory for it. It is tried
    /// again, at first four times a second. Messages that they send before it succeeds may be missed without being counted.
    #[must_use]
    pub fn unread(&self) -> Vec<Unread> {
        if self.core.own.forked() {
            return Vec::new();
        }
        let unread = |unmet: Unmet| {
            let (name, pid) = (unmet.peer.name(), unmet.peer.pid());
            let publisher = PublisherInfo { name, pid, port: unmet.publisher };
            Unread { topic: unmet.topic, publisher, error: unmet.error }
        };
        self.subscription.unmet().into_iter().map(unread).collect()
    }

    /// The pattern.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// What happens when this subscriber is slow.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.port
    }

    /// The ledger: what became of every message that was sent to this subscriber.
    #[must_use]
    pub fn account(&self) -> Account {
        let mut account = self.past.clone();
        for reader in &self.readers {
            crate::inspect::add_row(&mut account, &reader.reader.row().account());
        }
        account
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Sample, RecvError>> {
        if let Err(error) = self.check() {
            return Poll::Ready(Err(error));
        }
        match self.take() {
            Ok(Some(sample)) => return Poll::Ready(Ok(sample)),
            Err(error) => return Poll::Ready(Err(error)),
            Ok(None) => {}
        }
        if self.many.is_none() {
            self.drop_finished(0, usize::MAX);
        }
        self.core.wake.register(&self.core.ports, &self.subscription, self.version, context.waker());
        // Registered: what comes now will wake. What came before is seen by this look.
        let taken = self.take();
        if self.unfinished {
            context.waker().wake_by_ref();
        }
        match taken {
            Ok(Some(sample)) => Poll::Ready(Ok(sample)),
            Err(error) => Poll::Ready(Err(error)),
            Ok(None) => self.check().map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending),
        }
    }
}

/// Neighbours are counted together from now on.
fn join_sources(readers: &mut [Reader]) {
    SourceRef::join(readers.iter_mut().map(|reader| &mut reader.source));
}

/// What a look at one publisher came to.
enum Seen {
    Message(Sample),
    Nothing,
    /// There is more, and others wait.
    More,
    /// Another publisher has its place now.
    End,
}

/// What a look for a small message of one publisher came to.
enum Small {
    Message(Sample),
    /// It was taken, and is not for the user.
    Dropped,
    Empty,
    /// Something else may be there.
    Other,
}

#[derive(PartialEq, Eq)]
enum Next {
    SameReader,
    OtherReader,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if self.core.own.forked() {
            return;
        }
        self.core.ports.remove_subscription(self.port);
        self.core.control.unsubscribe(self.port);
        self.readers.clear();
        self.standby.clear();
        drop(self.subscription.arrived());
        // The control thread frees the rows once their publishers have taken note.
        self.core.control.poke();
    }
}

#[cfg(test)]
mod tests;
