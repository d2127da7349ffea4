//! Pulling: taking work that no other puller of the group has.
//!
//! A puller looks at every pusher whose topic matches, in turn, and claims the first message that nobody has (`busway_shm::row::group`).
//! It waits as a subscriber does: by spinning a little, then yielding, then asleep on the bell. In a group that acknowledges it watches
//! what the other pullers have, and gives back what they have had for too long; what was given back it leaves alone for a while.
//!
//! Invariant: a task that was returned is nobody else's until it is acknowledged, given back, dropped or too late.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use busway_shm::clock::{self, Deadline};
use busway_shm::layout::RING_RELAYS;
use busway_shm::ring::Patience;
use busway_shm::row::RowOptions;
use busway_shm::row::group::{self, GroupReader, Pauses, Pulled};
use busway_shm::sync::spin_hint;
use busway_wire::limits::{HOLDS_MAX, REDELIVERY_MS_DEFAULT, REDELIVERY_MS_MAX, RETRY_PAUSE_MS_MAX};
use busway_wire::{
    Acknowledge, Cause, DEAD_LETTERS, Group, MessageId, Pattern, Policy, PortId, Topic, responders,
};

use crate::bus::{Bus, Core};
use crate::control::SubscriberRecord;
use crate::error::{Code, Error};
use crate::ids::Seen;
use crate::outcome::{RecvError, Unread};
use crate::ports::unmet::{Short, Unmet};
use crate::ports::{Arrival, Filter, PortTable, Subscription, line_of, work_line};
use crate::publisher::WORK_ORIGIN_BYTES;
use crate::pusher::Pusher;
use crate::sample::{PublisherInfo, Sample, SampleTray, Source, SourceRef};
use crate::stream::TaskStream;

mod look;

/// A puller's constructor waits this long after the last news for pushers that are known.
const QUIET: Duration = Duration::from_secs(1);
/// Looks before yielding, and yields before sleeping, as a subscriber's.
const SPINS: u32 = 100;
const YIELDS: u32 = 4;
/// Who has as many tasks as it may looks again so often whether one is over.
const HAND: Duration = Duration::from_millis(5);
/// The group of who does not name one.
const GROUP_DEFAULT: &str = "pullers";
/// Pullers to which a message is given, unless the builder says otherwise.
const ATTEMPTS_DEFAULT: u8 = 5;
/// Tasks of one pusher that one puller may have at a time, unless the builder says otherwise.
const HOLDS_DEFAULT: u32 = 15;
/// What the others have is looked at so often while acknowledgement is near: in so many parts of its time.
const WATCH_PARTS: u64 = 8;
/// Messages in one look that are nobody's work: duplicates, and what goes to the dead letters.
const PASSED_MAX: u32 = 64;
/// A message that cannot be laid with the dead letters is tried again after so long: who reads them is slow, or memory is short.
const ASIDE_NS: u64 = 250_000_000;

/// FNV-1a: topics are short, and two with the same number only wait for each other.
pub(crate) fn topic_number(topic: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    topic.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// How a puller is made. See [`Bus::puller`].
#[derive(Clone, Debug)]
#[must_use = "a puller is made by `open`"]
pub struct PullerBuilder {
    bus: Bus,
    pattern: Result<Pattern, Error>,
    group: Result<Topic, Error>,
    within: Option<Duration>,
    attempts: u8,
    holds: u32,
    redelivery: Duration,
    duplicates: Option<u32>,
    export: Option<Filter>,
}

impl PullerBuilder {
    pub(crate) fn new(bus: &Bus, pattern: Result<Pattern, Error>) -> Self {
        let group = Topic::new(GROUP_DEFAULT).map_err(Error::from);
        let bus = bus.clone();
        Self {
            bus,
            pattern,
            group,
            within: None,
            attempts: ATTEMPTS_DEFAULT,
            holds: HOLDS_DEFAULT,
            redelivery: Duration::from_millis(REDELIVERY_MS_DEFAULT),
            duplicates: None,
            export: None,
        }
    }

    /// The group with which it shares the work: each message goes to one puller of each group. Default `pullers`. The name follows the
    /// grammar of topics.
    pub fn group(mut self, name: &str) -> Self {
        self.group = Topic::new(name).map_err(Error::from);
        self
    }

    /// Messages are acknowledged, each within this time: one that is not, or whose puller dies, is given to another. All pullers of a
    /// group say the same. Default: not acknowledged; a message is given to one puller, and what a puller that
    /// dies had is counted as `puller_died`.
    pub fn ack(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }

    /// How often a message that is to be acknowledged is given to a puller, 1 to 62. Default 5. After that it is pushed on the topic
    /// `dead-letters.` and the group's name, and counted as `dead_letter`; it lies there as long as this puller.
    pub fn attempts(mut self, attempts: u8) -> Self {
        self.attempts = attempts;
        self
    }

    /// How long a task that was given back, or not acknowledged in time, is left alone before this puller takes it again: between half of `first` and all of it, before each further
    /// delivery twice as long, up to 10 s, or `first` if that is longer; at most an hour. Default 100 ms; zero: at once. What is behind it goes on meanwhile, and what the last puller gave back
    /// is with the dead letters at once. All pullers of a group should say the same: the task goes to the first that takes it.
    pub fn redelivery(mut self, first: Duration) -> Self {
        self.redelivery = first;
        self
    }

    /// Tasks of one pusher that it may have at one moment, 1 to 256. Default 15. Beyond, payloads of up to 64 KiB are
    /// copied, and larger ones wait.
    pub fn holds(mut self, tasks: u32) -> Self {
        self.holds = tasks;
        self
    }

    /// Drops a message whose [id](Sample::id) is among the last so many that were done here, 1 to 1 048 576: it is counted as `duplicate`, and is over. Done is
    /// what was acknowledged, also too late, and in a group that does not acknowledge what was taken and is over. So a task that is given again because nobody
    /// did it is no duplicate, one that this puller did and could not say so is, and of two tasks of one id that are under way at once both are done. Each
    /// puller remembers its own; another of the group knows nothing of it. What has no id is never dropped for that, nor are dead letters: one task may leave several.
    /// Default: everything is taken.
    pub fn drop_duplicates(mut self, ids: u32) -> Self {
        self.duplicates = Some(ids);
        self
    }

    /// On behalf of another host, of the topics that it may have.
    pub(crate) fn export(mut self, group: &Group, filter: Filter) -> Self {
        self.group = Ok(group.name().clone());
        self.within = group.acknowledge().map(|how| Duration::from_millis(u64::from(how.within_ms)));
        self.attempts = group.acknowledge().map_or(ATTEMPTS_DEFAULT, |how| how.attempts);
        self.export = Some(filter);
        self
    }

    /// For requests.
    pub(crate) fn of_responders(mut self) -> Self {
        self.group = Ok(responders());
        self
    }

    fn group_of(&self) -> Result<Group, Error> {
        let name = self.group.clone()?;
        let place = format!("puller of group {name}");
        let acknowledge = self.within.map(|within| Acknowledge {
            within_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
            attempts: self.attempts,
        });
        let group = Group::new(name, acknowledge).map_err(|error| {
            Error::new(Code::BadSetting, error.to_string())
                .at(place.clone())
                .remedy("use 1 ms to a day, and 1 to 62")
        })?;
        // Now, and not when there is a dead letter.
        Topic::new(&format!("{DEAD_LETTERS}{}", group.name()))?;
        Ok(group)
    }

    /// Registers the puller. Returns when it can take from the pushers that are known now.
    ///
    /// # Errors
    /// A pattern or a name that breaks the grammar ([`Code::BadPattern`], [`Code::BadTopic`]) or a setting out of range; the rendezvous
    /// does not answer ([`Code::HolderSilent`]); memory (03xx); the bus is closed. That the others of the group acknowledge otherwise is
    /// no error here: each pusher has groups of its own, also one that comes later, and [`Puller::unread`] says which has refused.
    pub fn open(self) -> Result<Puller, Error> {
        let group = self.group_of()?;
        let pattern = self.pattern?;
        let core = self.bus.core.clone();
        core.check()?;
        if self.holds == 0 || self.holds > HOLDS_MAX {
            return Err(Error::new(Code::BadSetting, format!("holds must be 1 to {HOLDS_MAX}"))
                .at(format!("puller of {pattern}"))
                .remedy("take fewer tasks at a time"));
        }
        let first = self.redelivery.min(Duration::from_millis(RETRY_PAUSE_MS_MAX));
        let most = first.max(Duration::from_millis(REDELIVERY_MS_MAX));
        let [first_ns, most_ns] = [first, most].map(|pause| pause.as_nanos() as u64);
        let seen = crate::ids::seen(self.duplicates, &core.own, || format!("puller of {pattern}"))?;
        let port = Core::new_port()?;
        let created_ns = clock::monotonic_ns();
        let (policy, holds) = (Policy::default(), self.holds);
        let options = RowOptions { port, policy, history: 0, holds, created_ns, place: 0 };
        let export = self.export.is_some();
        let line = if export { work_line() } else { line_of(pattern.exact()) };
        let subscription = Subscription::for_group(options, line, group.clone());
        if let Some(filter) = self.export {
            subscription.set_filter(filter);
        }
        let subscription = Arc::new(subscription);
        core.ports.add_subscription(port, &subscription, created_ns);
        let record = SubscriberRecord { port, pattern: pattern.clone(), policy, created_ns, export };
        let deadline = Deadline::after(core.timeout);
        let mut puller = Puller {
            bus: self.bus,
            core,
            subscription,
            pattern,
            group,
            port,
            line,
            readers: Vec::new(),
            unseated: Vec::new(),
            turn: 0,
            version: 0,
            unfinished: false,
            watch_ns: 0,
            dead: None,
            aside: Vec::new(),
            lays_out: false,
            habits: Box::new(Habits { busy: Vec::new(), pauses: Pauses { first_ns, most_ns } }),
            seen,
        };
        // From here on the drop of `puller` takes everything back.
        let pushers = puller.core.control.pull(record, puller.group.clone(), deadline)? as usize;
        let subscription = puller.subscription.clone();
        let settled = || subscription.begun() + subscription.unmet_count() >= pushers;
        // Who pulls for another host takes what there is when it looks, and may not have all that was counted.
        if !export {
            puller.core.wait_for(deadline, QUIET, settled);
        }
        if let Some(unmet) = subscription.unmet().into_iter().find(|unmet| unmet.short == Short::Own) {
            return Err(unmet.error);
        }
        puller.meet();
        puller.open_dead_letters()?;
        Ok(puller)
    }
}

/// One pusher, as a puller sees it.
#[derive(Debug)]
struct Reader {
    reader: GroupReader,
    source: SourceRef,
    tray: SampleTray,
    /// Where those sleep who want what it pushes.
    line: usize,
    /// The number of its topic.
    topic: u64,
    /// It is a node that lays out work of another host, and waits for what becomes of it.
    of_node: bool,
}

/// A message that could not be laid with the dead letters: nobody else gets it, and what is behind it goes on.
#[derive(Debug)]
struct Aside {
    claim: group::Task,
    line: usize,
    until_ns: u64,
}

/// What a puller leaves alone.
#[derive(Debug)]
struct Habits {
    /// Topics that others are to have for now, by their numbers.
    busy: Vec<u64>,
    pauses: Pauses,
}

/// A puller of one pattern, in one group.
#[derive(Debug)]
pub struct Puller {
    bus: Bus,
    core: Arc<Core>,
    subscription: Arc<Subscription>,
    pattern: Pattern,
    group: Group,
    port: PortId,
    line: usize,
    readers: Vec<Reader>,
    /// Pushers that have not given a seat yet.
    unseated: Vec<Arrival>,
    turn: usize,
    version: u64,
    /// The last look ended before everything was looked at.
    unfinished: bool,
    /// When to look next at what others have.
    watch_ns: u64,
    /// Who takes what nobody acknowledges.
    dead: Option<Pusher>,
    aside: Vec<Aside>,
    /// A node lays work of other hosts out for it.
    lays_out: bool,
    habits: Box<Habits>,
    /// What was done here, where it is not to be done again.
    seen: Option<Seen>,
}

impl Puller {
    /// Takes a message if one is free.
    ///
    /// # Errors
    /// [`RecvError`]; [`RecvError::HoldsExhausted`] where it has as many tasks as it may and the next is too large to be copied.
    pub fn try_recv(&mut self) -> Result<Option<Task>, RecvError> {
        self.check()?;
        let task = self.take();
        self.rest();
        task
    }

    /// Waits for a message; where this puller has as many tasks as it may, until one of them is over. So who keeps all of them waits for ever.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn recv(&mut self) -> Result<Task, RecvError> {
        let task = loop {
            if let Some(task) = self.wait(Deadline::never()).transpose() {
                break task;
            }
        };
        self.rest();
        task
    }

    /// As [`Puller::recv`], at most `timeout`; `None` when the time is up.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Task>, RecvError> {
        self.recv_until(Deadline::after(timeout))
    }

    pub(crate) fn recv_until(&mut self, deadline: Deadline) -> Result<Option<Task>, RecvError> {
        let task = self.wait(deadline);
        self.rest();
        task
    }

    /// The tasks as a stream, for any executor. Between two polls, what others have is not watched: where the group acknowledges,
    /// keep polling or have another puller that waits.
    pub fn stream(&mut self) -> TaskStream<'_> {
        TaskStream::new(self)
    }

    fn wait(&mut self, deadline: Deadline) -> Result<Option<Task>, RecvError> {
        let mut looks = 0_u32;
        loop {
            self.check()?;
            match self.take() {
                Err(RecvError::HoldsExhausted) if deadline.expired() => return Ok(None),
                Err(RecvError::HoldsExhausted) => {
                    // Nobody rings when a task is over, and a ring would wake those who cannot take either.
                    self.rest();
                    std::thread::park_timeout(deadline.remaining().unwrap_or(HAND).min(HAND));
                    continue;
                }
                taken => {
                    if let Some(task) = taken? {
                        return Ok(Some(task));
                    }
                }
            }
            looks = looks.saturating_add(1);
            if looks <= SPINS {
                spin_hint();
            } else if looks <= SPINS + YIELDS {
                std::thread::yield_now();
            } else if deadline.expired() {
                return Ok(None);
            } else if let Some(task) = self.sleep(deadline)? {
                return Ok(Some(task));
            }
        }
    }

    fn sleep(&mut self, deadline: Deadline) -> Result<Option<Task>, RecvError> {
        let Some(domain) = self.core.ports.domain() else { return Err(RecvError::Closed) };
        let bell = domain.bell();
        let sleeper = bell.prepare(self.line);
        // Announced: what comes now will ring. What came before is seen by this look.
        match self.take() {
            // Said by the next look.
            Err(RecvError::HoldsExhausted) => return Ok(None),
            taken => {
                if let Some(task) = taken? {
                    return Ok(Some(task));
                }
            }
        }
        // After the last look: what another has taken since the one before is watched too.
        let next_ns = self.watch(clock::monotonic_ns());
        let next_ns = self.aside.iter().map(|aside| aside.until_ns).chain(next_ns).min();
        self.check()?;
        if self.unfinished {
            std::thread::yield_now();
        } else if self.subscription.version() == self.version {
            if self.lays_out {
                self.core.ports.ring_work();
            }
            let left = next_ns.map(|next| Duration::from_nanos(next.saturating_sub(clock::monotonic_ns())));
            let left = [left, deadline.remaining()].into_iter().flatten().min();
            sleeper.wait(left);
        }
        Ok(None)
    }

    /// Messages of these topics are left to others from now on.
    pub(crate) fn leave(&mut self, busy: Vec<u64>) {
        self.habits.busy = busy;
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Task, RecvError>> {
        let polled = self.look_or_register(context).transpose().map_or(Poll::Pending, Poll::Ready);
        if polled.is_ready() {
            self.rest();
        }
        polled
    }

    fn look_or_register(&mut self, context: &Context<'_>) -> Result<Option<Task>, RecvError> {
        self.check()?;
        // Before the looks: what comes after it is news.
        let work = self.subscription.work();
        let mut full = false;
        let mut unless_full = |taken| match taken {
            Err(RecvError::HoldsExhausted) => {
                full = true;
                Ok(None)
            }
            taken => taken,
        };
        if let Some(task) = unless_full(self.take())? {
            return Ok(Some(task));
        }
        let now_ns = clock::monotonic_ns();
        let next_ns = self.watch(now_ns);
        let hand_ns = full.then(|| now_ns.saturating_add(HAND.as_nanos() as u64));
        // What a look has just passed by, since it was full before, is not looked at again at once.
        let next_ns =
            next_ns.map(|next_ns| if full { next_ns.max(now_ns + HAND.as_nanos() as u64) } else { next_ns });
        let due_ns = self.aside.iter().map(|aside| aside.until_ns).chain(next_ns).chain(hand_ns).min();
        self.subscription.found_nothing(work, due_ns);
        self.core.wake.register(&self.core.ports, &self.subscription, self.version, context.waker());
        // Registered: what comes now will wake. What came before is seen by this look.
        let task = self.take();
        if self.unfinished {
            context.waker().wake_by_ref();
        }
        match task {
            // It has been found before, or the bell that told of work rings for the next look.
            Err(RecvError::HoldsExhausted) if full => {}
            Err(RecvError::HoldsExhausted) => context.waker().wake_by_ref(),
            task => {
                if let Some(task) = task? {
                    return Ok(Some(task));
                }
            }
        }
        self.check()?;
        Ok(None)
    }

    #[inline]
    fn check(&self) -> Result<(), RecvError> {
        if self.core.own.forked() {
            return Err(RecvError::Forked);
        }
        if self.core.is_closed() { Err(RecvError::Closed) } else { Ok(()) }
    }

    /// The next message that is free, of the pushers in turn.
    fn take(&mut self) -> Result<Option<Task>, RecvError> {
        if self.subscription.version() != self.version {
            self.meet();
        }
        if self.group.acknowledge().is_some() {
            let now_ns = clock::monotonic_coarse_ns();
            if now_ns >= self.watch_ns {
                self.watch(clock::monotonic_ns());
            }
        }
        if !self.aside.is_empty() {
            self.bring_back(clock::monotonic_ns());
        }
        self.unfinished = false;
        let mut passed = 0;
        let mut left = self.readers.len();
        let mut at = self.turn;
        while left > 0 {
            if at >= self.readers.len() {
                at = 0;
            }
            let reader = &mut self.readers[at];
            if self.habits.busy.contains(&reader.topic) {
                reader.reader.rest();
                at += 1;
                left -= 1;
                continue;
            }
            match reader.reader.pull(clock::monotonic_ns) {
                Pulled::Message(message, claim) => {
                    // The next take begins with the next pusher: none of them starves.
                    self.turn = at + 1;
                    let sample = reader.tray.blank(&reader.source).show(message);
                    let sample = if reader.of_node { sample.of_work() } else { sample };
                    let (line, of_node) = (reader.line, reader.of_node);
                    // It is busy now: nobody need leave it the messages of other pushers.
                    self.rest_others(at);
                    if let Some(task) = self.task(sample, claim, line, of_node) {
                        return Ok(Some(task));
                    }
                    // What had come, and what goes to the dead letters, is nobody's: what lies behind it is.
                    passed += 1;
                    if passed < PASSED_MAX {
                        continue;
                    }
                    self.unfinished = true;
                    return Ok(None);
                }
                Pulled::HoldsExhausted => {
                    // Another may have room for it, and was told before that we had it.
                    self.core.ports.ring_bell(reader.line);
                    return Err(RecvError::HoldsExhausted);
                }
                Pulled::Unfinished => self.unfinished = true,
                Pulled::Nothing => {}
                Pulled::End => {
                    self.readers.swap_remove(at);
                    left -= 1;
                    continue;
                }
            }
            at += 1;
            left -= 1;
        }
        Ok(None)
    }

    /// What was taken, unless it was given to pullers too often.
    fn task(&mut self, sample: Sample, claim: group::Task, line: usize, of_node: bool) -> Option<Task> {
        let mut done = None;
        // A dead letter has the id of its task, and a task that was mended in vain leaves another.
        if let Some(seen) = &self.seen
            && let Some(id) = sample.id()
            && !sample.topic().starts_with(DEAD_LETTERS)
        {
            let topic = topic_number(sample.topic());
            if seen.has(topic, id) {
                claim.lose(Cause::Duplicate);
                self.core.ports.ring_work();
                return None;
            }
            done = Some((seen.clone(), topic, id));
        }
        let last = self.group.acknowledge().map(|how| how.attempts);
        if last.is_some_and(|attempts| claim.attempt() >= attempts) {
            self.bury(&sample, claim, line);
            return None;
        }
        let acknowledges = last.is_some();
        let ports = self.core.ports.clone();
        Some(Task { sample, claim: Some(claim), acknowledges, ports, line, of_node, done })
    }

    /// Before there is a dead letter: a pusher waits for the rendezvous, and who only tries to take waits for nobody. The dead letters
    /// of those who pull dead letters are lost.
    fn open_dead_letters(&mut self) -> Result<(), Error> {
        if self.group.acknowledge().is_some() && !self.pattern.to_string().starts_with(DEAD_LETTERS) {
            let topic = format!("{DEAD_LETTERS}{}", self.group.name());
            self.dead = Some(self.bus.pusher(&topic).open()?);
        }
        Ok(())
    }

    /// Pushes what nobody acknowledged where somebody may look at it. Where that fails the message is set aside for a while. What nobody
    /// acknowledged among the dead letters themselves is lost as one: it would come back for ever.
    #[cold]
    fn bury(&mut self, sample: &Sample, claim: group::Task, line: usize) {
        if sample.topic().starts_with(DEAD_LETTERS) {
            claim.lose(Cause::DeadLetter);
            self.core.ports.ring_work();
            return;
        }
        // As it was: who mends the cause pushes it again, and joins it with its trace.
        let (context, codec) = (sample.context(), sample.codec());
        let push = |dead: &mut Pusher| dead.in_context(context).put(codec, sample, Patience::None).is_ok();
        let pushed = self.dead.as_mut().is_some_and(push);
        if pushed {
            claim.lose(Cause::DeadLetter);
            self.core.ports.ring_work();
        } else {
            let until_ns = clock::monotonic_ns().saturating_add(ASIDE_NS);
            self.aside.push(Aside { claim, line, until_ns });
        }
    }

    /// Frees what was set aside until now: it is the next that is taken, and is tried once more.
    #[cold]
    fn bring_back(&mut self, now_ns: u64) {
        for aside in self.aside.extract_if(.., |aside| aside.until_ns <= now_ns) {
            aside.claim.give_back();
        }
    }

    /// Gives back what others have had for too long; returns when to look again.
    pub(crate) fn watch(&mut self, now_ns: u64) -> Option<u64> {
        let within_ns = u64::from(self.group.acknowledge()?.within_ms) * 1_000_000;
        let mut next = None;
        for reader in &mut self.readers {
            // The time of what another host has given runs there, and it says when that is up: two clocks would give it twice.
            let (count, due) = if reader.of_node { (0, None) } else { reader.reader.watch(now_ns) };
            if count > 0 {
                self.core.ports.ring_bell(reader.line);
            }
            // What is left to others is looked at when it is in hand no more, and not before.
            let rested =
                if self.habits.busy.contains(&reader.topic) { None } else { reader.reader.rested_ns() };
            next = [next, due, rested].into_iter().flatten().min();
        }
        self.watch_ns = now_ns.saturating_add(within_ns / WATCH_PARTS);
        next
    }

    /// Nobody need leave a message to who does not look for one. In a child made by `fork` nothing is mapped to say it in.
    pub(crate) fn rest(&mut self) {
        if self.core.own.forked() {
            return;
        }
        self.readers.iter_mut().for_each(|reader| reader.reader.rest());
    }

    fn rest_others(&mut self, but: usize) {
        let others = self.readers.iter_mut().enumerate().filter(|(at, _)| *at != but);
        others.for_each(|(_, reader)| reader.reader.rest());
    }

    /// It takes nothing more of this topic, and no pusher but those of the filter from now on. What it has taken stays its.
    pub(crate) fn forgo(&mut self, topic: &Topic, filter: Filter) {
        self.subscription.set_filter(filter);
        self.meet();
        self.rest();
        self.readers.retain(|reader| reader.source.topic != *topic);
        self.unseated.retain(|arrival| arrival.topic != *topic);
        // The control thread frees the rows.
        self.core.control.poke();
    }

    /// Leaves a task that it has not begun to others until then, as if it had not been taken.
    pub(crate) fn leave_to_others(&mut self, task: Task, until_ns: u64) {
        self.hand_back(task, |reader, claim| reader.leave(claim, until_ns));
    }

    /// The same, but no longer than until [`Puller::has_room`].
    pub(crate) fn leave_for_room(&mut self, task: Task, until_ns: u64) {
        self.hand_back(task, |reader, claim| reader.leave_for_room(claim, until_ns));
    }

    /// So many of each pusher that it left for want of room it may take now. Returns whether there are more.
    pub(crate) fn has_room(&mut self, count: usize) -> bool {
        let more = self.readers.iter_mut().filter_map(|reader| reader.reader.has_room(count).then_some(()));
        more.count() > 0
    }

    /// Tasks that it has had in hand, those that it left included.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> u64 {
        self.readers.iter().map(|reader| reader.reader.taken()).sum()
    }

    fn hand_back(&mut self, task: Task, leave: impl FnOnce(&mut GroupReader, group::Task) -> bool) {
        let Some((claim, line)) = task.into_claim() else { return };
        let left = match self.readers.iter_mut().find(|reader| reader.reader.has(&claim)) {
            Some(reader) => leave(&mut reader.reader, claim),
            None => claim.put_back(),
        };
        if left {
            self.core.ports.ring_bell(line);
        }
    }

    /// Ends a task that nobody can have: as a dead letter, where there are such, or as lost for this cause.
    pub(crate) fn end_for_all(&mut self, mut task: Task, cause: Cause) {
        let Some(claim) = task.claim.take() else { return };
        if self.dead.is_some() {
            self.bury(&task.sample, claim, task.line);
        } else {
            claim.lose(cause);
        }
    }

    /// Takes up the pushers that the control thread has met.
    #[cold]
    fn meet(&mut self) {
        self.version = self.subscription.version();
        self.unseated.append(&mut self.subscription.arrived());
        let uid = busway_shm::sys::identity::uid();
        let arrived = std::mem::take(&mut self.unseated);
        for arrival in arrived {
            let Some((run, owner)) = arrival.row.place_in_group() else {
                // Also where the pusher has died: the place that it gave may be on its way.
                if !arrival.row.is_refused() {
                    self.unseated.push(arrival);
                }
                continue;
            };
            let peer = arrival.row.peer().clone();
            let publisher = PublisherInfo { name: peer.name(), pid: peer.pid(), port: arrival.publisher };
            let line = line_of(Some(&arrival.topic));
            let flags = arrival.row.ring().flags.load(busway_shm::sync::Ordering::Relaxed);
            let relays = flags & RING_RELAYS != 0;
            let of_node = relays || self.group.name().is_reserved();
            self.lays_out |= of_node;
            let skip = if relays { WORK_ORIGIN_BYTES as u8 } else { 0 };
            let topic = topic_number(arrival.topic.as_str());
            let source = SourceRef::alone(Source { topic: arrival.topic, publisher, skip });
            let mut reader = GroupReader::new(arrival.row, run, owner, &self.group, peer.uid() != uid);
            reader.rests(self.habits.pauses);
            self.readers.push(Reader { reader, source, tray: SampleTray::default(), line, topic, of_node });
        }
    }

    /// Pushers that this puller takes from now; 0 in a child made by `fork`.
    #[must_use]
    pub fn pushers(&self) -> usize {
        if self.core.own.forked() { 0 } else { self.subscription.reading() }
    }

    /// Pushers that match and from which it cannot take, and why: this process or theirs has no memory for it, or another puller of the
    /// group acknowledges otherwise. It is tried again.
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

    /// The name of its group.
    #[must_use]
    pub fn group(&self) -> &Topic {
        self.group.name()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.port
    }
}

impl Drop for Puller {
    fn drop(&mut self) {
        if self.core.own.forked() {
            return;
        }
        self.rest();
        for Aside { claim, line, .. } in self.aside.drain(..) {
            if claim.give_back() {
                self.core.ports.ring_bell(line);
            }
        }
        self.core.ports.remove_subscription(self.port);
        self.core.control.unsubscribe(self.port);
        self.readers.clear();
        self.unseated.clear();
        drop(self.subscription.arrived());
        // The control thread frees the rows once their pushers have taken note.
        self.core.control.poke();
    }
}

/// An acknowledgement that came too late: the message was given to another puller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

impl fmt::Display for Late {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the acknowledgement is too late: the message was given to another puller")
    }
}

impl std::error::Error for Late {}

impl From<Late> for Error {
    fn from(late: Late) -> Self {
        Error::new(Code::TooLate, late.to_string())
            .at("acknowledge")
            .remedy("allow more time in every puller of the group, or give it smaller pieces of work")
    }
}

/// A message that this puller alone has. Derefs to its payload.
///
/// Where the group acknowledges, one that is dropped is given back. Where it does not, it is over when it is dropped: until then
/// what a death costs is counted.
#[must_use = "a task that is dropped is given back where it is to be acknowledged"]
pub struct Task {
    sample: Sample,
    claim: Option<group::Task>,
    acknowledges: bool,
    ports: Arc<PortTable>,
    line: usize,
    /// A node waits for what becomes of it.
    of_node: bool,
    /// Where to note that it was done.
    done: Option<(Seen, u64, MessageId)>,
}

impl Task {
    /// It was done here.
    fn note_done(&mut self) {
        if let Some((seen, topic, id)) = self.done.take() {
            seen.add(topic, id);
        }
    }

    /// The message.
    #[must_use]
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// How often it was given to a puller, this time included: from 1.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.claim.as_ref().map_or(1, |claim| u32::from(claim.attempt()) + 1)
    }

    /// Nothing of its pusher is held any more: see [`Sample::let_go`]. It is this puller's still.
    pub(crate) fn let_go(&mut self) {
        self.sample.let_go();
    }

    /// Its claim, while it is this puller's.
    pub(crate) fn claim(&self) -> Option<&group::Task> {
        self.claim.as_ref()
    }

    /// Whether it is this puller's still, and its pusher is there.
    pub(crate) fn is_wanted(&self) -> bool {
        self.claim.as_ref().is_some_and(group::Task::is_wanted)
    }

    /// It will not be handled, and is counted.
    pub(crate) fn lose(&mut self, cause: Cause) {
        if let Some(claim) = self.claim.take() {
            claim.lose(cause);
            self.tell_node();
        }
    }

    /// The claim alone, of a message whose payload was copied, and where to ring when it is given back.
    pub(crate) fn into_claim(mut self) -> Option<(group::Task, usize)> {
        let line = self.line;
        self.claim.take().map(|claim| (claim, line))
    }

    fn tell_node(&self) {
        if self.of_node {
            self.ports.ring_work();
        }
    }

    /// It was handled.
    ///
    /// # Errors
    /// [`Late`]: it was given to another meanwhile, who handles it as well.
    pub fn ack(mut self) -> Result<(), Late> {
        self.settle()
    }

    /// It was not handled: after a pause ([`PullerBuilder::redelivery`]) another puller gets it, or this one again. Where the group does not acknowledge there is
    /// nothing to give back, and it is over.
    pub fn nack(mut self) {
        self.end();
    }

    /// Nobody has begun with it: another puller gets it at once, or this one again, and it counts as no delivery. For who ends, or finds that it has no time for
    /// what it took. Where the group does not acknowledge there is nothing to give back, and it is over.
    pub fn pass_on(mut self) {
        self.put_back();
    }

    pub(crate) fn put_back(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        self.forgets();
        if !self.acknowledges {
            claim.done();
        } else if claim.put_back() {
            self.ports.ring_bell(self.line);
        }
        self.tell_node();
    }

    /// So many bytes more before its payload are not part of it.
    pub(crate) fn skip(&mut self, bytes: u8) {
        self.sample.skip(bytes);
    }

    /// Whether it can be given back.
    pub(crate) fn acknowledges(&self) -> bool {
        self.acknowledges
    }

    fn end(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        if !self.acknowledges {
            claim.done();
            self.note_done();
        } else {
            self.forgets();
            if claim.give_back() {
                self.ports.ring_bell(self.line);
            }
        }
        self.tell_node();
    }

    /// It was not done here, however it ends: what comes with its id is to be done.
    pub(crate) fn forgets(&mut self) {
        self.done = None;
    }
}

impl Deref for Task {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.sample
    }
}

impl AsRef<[u8]> for Task {
    fn as_ref(&self) -> &[u8] {
        &self.sample
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Task")
            .field("sample", &self.sample)
            .field("deliveries", &self.deliveries())
            .finish()
    }
}

#[cfg(test)]
mod tests;
