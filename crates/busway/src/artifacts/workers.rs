//! The threads that tell a handler what peers did: some for each flow, and one for its timer.
//!
//! Each flow has a budget of events and bytes, for what waits and what is being handled, of which each peer has a floor; and peers have their turns, so that one that says
//! much keeps no other waiting longer than it takes to handle one event of each. A flow that is full stops itself alone.
//!
//! Where the last handle is dropped the threads end and are joined, as soon as the handler returns; one that does not return is left to itself after a second, and told in the log, and one that drops the
//! handle itself cannot be waited for: its threads end when it returns.
//! It knows no links, and what comes it does not read.
//!
//! Invariant: of one peer and flow one event is handled at a time, in order. What was taken is handled, replaced, or dropped and counted.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use busway_protocol::flow::{Budget, LimitFault, Limits, Rule};
use busway_protocol::gossip::Lane;
use busway_shm::arena::OwnArena;
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::fork;
use busway_wire::gossip::{decode, encode};
use busway_wire::limits::{ARTIFACT_FLOW_WORKERS_MAX, ARTIFACT_JOIN_MS, ARTIFACT_TIMER_MS};

use crate::artifacts::handler::{ArtifactHandler, Flow, PeerEvent, WhenFull, lane_of, tell};
use crate::bus::forked;
use crate::error::{Code, Error, memory};
use crate::ports::lock;

mod lanes;
mod tally;

use lanes::{Put, Queued, State, charge};
use tally::{Tally, event};

/// The flows that have workers, in the order in which they are listed.
pub const EVENT_FLOWS: [Flow; 5] =
    [Flow::Transport, Flow::Advert, Flow::Request, Flow::Chunk, Flow::Retransmission];

/// What a flow has counted, and what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowCounts {
    /// Events that were taken, also those that were then dropped: always `handled` + `coalesced` + `dropped_full` + `dropped_ended` + `in_flight`.
    pub taken: u64,
    /// Events that the handler was told.
    pub handled: u64,
    /// Calls in which it panicked; those of the timer are counted in `transport`.
    pub panicked: u64,
    /// Events that found the flow full and waited for room, or were given back.
    pub waited: u64,
    /// Words that it wanted to say in this flow and that do not belong there, or are none.
    pub left_out: u64,
    /// Events whose place a newer one took.
    pub coalesced: u64,
    /// Events that were dropped because the flow was full.
    pub dropped_full: u64,
    /// Events that were dropped because the workers ended.
    pub dropped_ended: u64,
    /// Nanoseconds in the handler.
    pub handler_ns: u64,
    /// Events that wait or are being handled.
    pub in_flight: u64,
    /// The most that there ever were.
    pub in_flight_max: u64,
}

/// How workers are started. See [`Workers::builder`].
#[derive(Clone, Debug)]
#[must_use = "workers are started by `start`"]
pub struct WorkersBuilder {
    limits: Limits,
    workers: [usize; EVENT_FLOWS.len()],
    timer: Duration,
    fault: Option<String>,
}

impl WorkersBuilder {
    /// Of this flow so many events, and so many bytes of them, wait or are handled at a time, beyond the floors of peers.
    pub fn limit(mut self, flow: Flow, events: u64, bytes: u64, when_full: WhenFull) -> Self {
        let rule = Rule { limit: Budget { messages: events, bytes }, when_full };
        match self.limits.set(flow, rule) {
            Ok(()) if place(flow).is_some() => {}
            Ok(()) => self.fault = Some(format!("the flow {flow} has no workers")),
            Err(fault @ (LimitFault::Zero { .. } | LimitFault::WhenFull { .. } | LimitFault::ZeroAll)) => {
                self.fault = Some(fault.to_string());
            }
        }
        self
    }

    /// What each peer has of each flow, whatever others have, at least one event and one byte. Default: as links.
    pub fn floor(mut self, events: u64, bytes: u64) -> Self {
        if events == 0 || bytes == 0 {
            self.fault = Some("a floor of 0 would leave a peer to what others leave".to_owned());
        }
        self.limits.floor = Budget { messages: events, bytes };
        self
    }

    /// So many threads tell the handler of this flow: several peers at a time. Default: one.
    pub fn workers(mut self, flow: Flow, count: usize) -> Self {
        match place(flow) {
            Some(at) if (1..=ARTIFACT_FLOW_WORKERS_MAX).contains(&count) => self.workers[at] = count,
            Some(_) => {
                self.fault =
                    Some(format!("{count} workers of a flow, 1 to {ARTIFACT_FLOW_WORKERS_MAX} are allowed"));
            }
            None => self.fault = Some(format!("the flow {flow} has no workers")),
        }
        self
    }

    /// How often the handler's timer is called. Default: each 100 ms.
    pub fn timer(mut self, period: Duration) -> Self {
        if period.is_zero() {
            self.fault = Some("a timer of 0 s".to_owned());
        }
        self.timer = period;
        self
    }

    /// Starts the threads: `bw-advert-0` and so on, and `bw-timer`.
    ///
    /// # Errors
    /// [`Code::BadSetting`] for a setting that cannot be; [`Code::ThreadRefused`].
    pub fn start(self, handler: Arc<dyn ArtifactHandler>) -> Result<Workers, Error> {
        self.check()?;
        let forks = fork::generation().map_err(|error| memory(&error, "the workers of artifacts"))?;
        let inner = Arc::new(Inner {
            handler,
            state: Mutex::new(State::new(self.limits)),
            work: Default::default(),
            room: Condvar::new(),
            over: Condvar::new(),
            rouse: Mutex::default(),
            tally: OnceLock::new(),
        });
        let workers = Workers { inner, threads: Mutex::default(), own: Mutex::default(), forks };
        for (at, flow) in EVENT_FLOWS.into_iter().enumerate() {
            for number in 0..self.workers[at] {
                workers.thread(&format!("bw-{flow}-{number}"), move |inner| inner.work(at))?;
            }
        }
        let period = self.timer;
        workers.thread("bw-timer", move |inner| inner.tick(period))?;
        Ok(workers)
    }

    fn check(&self) -> Result<(), Error> {
        let Some(fault) = &self.fault else { return Ok(()) };
        let error = Error::new(Code::BadSetting, fault.clone()).at("the workers of artifacts");
        Err(error.remedy("see [flows] in docs/config.md for what each flow allows"))
    }

    /// Whether a node can be told by them: what its words mean hangs on that none of these flows is dropped.
    pub(crate) fn check_for_node(&self) -> Result<(), Error> {
        self.check_kept(&[Flow::Advert, Flow::Retransmission])
    }

    /// Whether its own machine can, which takes pieces that do not follow on each other for a fault of who gives them.
    pub(crate) fn check_for_machine(&self) -> Result<(), Error> {
        self.check_kept(&[Flow::Advert, Flow::Retransmission, Flow::Chunk])
    }

    fn check_kept(&self, kept: &[Flow]) -> Result<(), Error> {
        self.check()?;
        for flow in kept.iter().copied() {
            if self.limits.rule(flow).when_full == WhenFull::Drop {
                let cause =
                    format!("of the flow {flow} of a node nothing may be dropped: a later word builds on it");
                let error = Error::new(Code::BadSetting, cause).at("the workers of artifacts");
                return Err(error.remedy(format!(
                    "let it {}: what has no room waits, and its link bounds it",
                    flow.when_full()[0].name()
                )));
            }
        }
        Ok(())
    }
}

/// See the head of this file.
pub struct Workers {
    inner: Arc<Inner>,
    /// Those that have not been joined.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Who they are.
    own: Mutex<Vec<ThreadId>>,
    /// How many forks there were when they were started.
    forks: u64,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

impl Workers {
    /// How they are started, with the defaults of the flows.
    pub fn builder() -> WorkersBuilder {
        WorkersBuilder {
            limits: Limits::default(),
            workers: [1; EVENT_FLOWS.len()],
            timer: Duration::from_millis(ARTIFACT_TIMER_MS),
            fault: None,
        }
    }

    fn thread(&self, name: &str, body: impl FnOnce(&Inner) + Send + 'static) -> Result<(), Error> {
        let inner = self.inner.clone();
        lock(&inner.state).alive += 1;
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Also where something panics that is not the handler.
            let alive = Alive(&inner);
            body(&inner);
            drop(alive);
        });
        let thread = started.map_err(|error| {
            lock(&self.inner.state).alive -= 1;
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at(name.to_owned())
                .remedy("raise the limit on processes: ulimit -u")
        })?;
        lock(&self.own).push(thread.thread().id());
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Takes an event of a peer. Where its flow is full it waits, takes the place of an older one or is dropped, as the flow says; that something is not wanted any more is not dropped but waits.
    ///
    /// # Errors
    /// [`Code::Closed`] where the workers have ended, [`Code::Full`] where it was dropped, [`Code::Forked`].
    pub fn deliver(&self, from: u8, event: PeerEvent) -> Result<(), Error> {
        self.refuse_inherited()?;
        let mut waited = false;
        let mut event = Queued { event, replaces: None };
        let mut state = lock(&self.inner.state);
        loop {
            event = match self.put(&mut state, from, event, &mut waited)? {
                None => return Ok(()),
                Some(event) => event,
            };
            state = self.inner.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The same, but where it would wait it comes back.
    ///
    /// # Errors
    /// As [`Workers::deliver`].
    pub fn try_deliver(&self, from: u8, event: PeerEvent) -> Result<Option<PeerEvent>, Error> {
        self.try_replace(from, event, None)
    }

    /// The same for what is worth more than all before it of this peer, flow and `key`: where the flow is full and may coalesce, those that wait are left out, and it stands behind all else.
    ///
    /// # Errors
    /// As [`Workers::deliver`].
    pub fn try_replace(
        &self,
        from: u8,
        event: PeerEvent,
        key: Option<u64>,
    ) -> Result<Option<PeerEvent>, Error> {
        self.try_again(from, event, key, &mut false)
    }

    /// The same for what may have come back before, which is counted as having waited once.
    pub(crate) fn try_again(
        &self,
        from: u8,
        event: PeerEvent,
        key: Option<u64>,
        waited: &mut bool,
    ) -> Result<Option<PeerEvent>, Error> {
        self.refuse_inherited()?;
        let queued = Queued { event, replaces: key };
        let back = self.put(&mut lock(&self.inner.state), from, queued, waited)?;
        Ok(back.map(|queued| queued.event))
    }

    /// What comes back found no room.
    fn put(
        &self,
        state: &mut State,
        from: u8,
        queued: Queued,
        waited: &mut bool,
    ) -> Result<Option<Queued>, Error> {
        let (flow, before) = (queued.event.flow(), *waited);
        let coalesced = state.counts(flow).coalesced;
        let put = state.put(from, queued, waited);
        if *waited && !before {
            self.inner.tally(flow, Tally::Waited, 1);
        }
        match put {
            Put::Taken(at) => {
                self.inner.tally(flow, Tally::Coalesced, state.counts(flow).coalesced - coalesced);
                self.inner.work[at].notify_one();
                Ok(None)
            }
            Put::Full(queued) => Ok(Some(queued)),
            Put::Dropped => {
                self.inner.tally(flow, Tally::Dropped, 1);
                Err(dropped())
            }
            Put::Ended => Err(ended()),
        }
    }

    fn refuse_inherited(&self) -> Result<(), Error> {
        if self.is_inherited() { Err(forked()) } else { Ok(()) }
    }

    /// Whether this is a child made by `fork`: it has none of the threads, and must not touch the locks.
    fn is_inherited(&self) -> bool {
        fork::forked_since(self.forks)
    }

    /// What a flow has counted; nothing for one without workers, and in a child made by `fork`.
    #[must_use]
    pub fn counts(&self, flow: Flow) -> FlowCounts {
        if self.is_inherited() {
            return FlowCounts::default();
        }
        lock(&self.inner.state).counts(flow)
    }

    /// What a flow may have, what it does when it is full, and what it has.
    pub(crate) fn usage(&self, flow: Flow) -> Option<(Rule, Budget, FlowCounts)> {
        place(flow).filter(|_| !self.is_inherited())?;
        let state = lock(&self.inner.state);
        Some((state.rule(flow), state.in_use(flow), state.counts(flow)))
    }

    /// Takes nothing more, waits until all that was taken is handled, then ends the threads and joins them. Where the handler itself calls it nothing is waited for: what waits is dropped and counted,
    /// the threads end when the handler returns, and the next call or drop by another joins them.
    ///
    /// # Errors
    /// [`Code::TimedOut`] where that takes longer: what waits then is dropped and counted, and a handler that has not returned a second later is left to itself. [`Code::Forked`].
    pub fn close(&self, timeout: Duration) -> Result<(), Error> {
        self.refuse_inherited()?;
        let deadline = Deadline::after(timeout);
        let mut late = false;
        if !self.is_own_thread() {
            let mut state = lock(&self.inner.state);
            state.closing = true;
            // Who waits for room does so in vain.
            self.inner.room.notify_all();
            while !late && !state.ended && state.lanes.iter().any(|lane| lane.counts.in_flight > 0) {
                let left = deadline.remaining().unwrap_or(timeout);
                late = left.is_zero();
                if !late {
                    state =
                        self.inner.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        let over = self.end();
        if late || !over {
            let error = Error::new(Code::TimedOut, format!("events still waited after {timeout:?}"));
            return Err(error
                .at("the workers of artifacts")
                .remedy("give it more time, or handlers less to do"));
        }
        Ok(())
    }

    /// Tells the threads to end, and joins them, but where one of them asks, and those whose handler does not return; whether none of these is left.
    fn end(&self) -> bool {
        self.inner.end(&[]);
        if self.is_own_thread() {
            // A callback cannot wait for its own end: the next call joins them, if there is one.
            return true;
        }
        let deadline = Deadline::after(Duration::from_millis(ARTIFACT_JOIN_MS));
        let mut state = lock(&self.inner.state);
        while state.alive > 0 {
            let left = deadline.remaining().unwrap_or_default();
            if left.is_zero() {
                break;
            }
            state = self.inner.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let stuck = state.alive;
        // Who was to be told still of the end of a peer is not: the handler has not returned from something else of it.
        self.inner.dropping(&mut state, State::drop_all);
        drop(state);
        let mut threads = lock(&self.threads);
        let (over, left) =
            std::mem::take(&mut *threads).into_iter().partition(|thread| stuck == 0 || thread.is_finished());
        *threads = left;
        drop(threads);
        let over: Vec<JoinHandle<()>> = over;
        for thread in over {
            // It has nothing to say; a panic of the handler was caught and told.
            let _ = thread.join();
        }
        if stuck > 0 {
            tracing::warn!(target: "busway::gossip", stuck, "a handler of artifacts has not returned {ARTIFACT_JOIN_MS} ms after the end; its threads are left to themselves");
        }
        stuck == 0
    }

    /// Whether something of this peer waits or is being handled, in any flow.
    pub(crate) fn is_under_way(&self, from: u8) -> bool {
        lock(&self.inner.state).is_under_way(from)
    }

    /// Whether something of this peer about tables waits or is being handled. Who was told so is roused when that may be over.
    pub(crate) fn are_tables_under_way(&self, from: u8) -> bool {
        lock(&self.inner.state).are_tables_under_way(from)
    }

    /// This is called when there may be room for what came back, and when all of a peer is handled.
    pub(crate) fn rouse_with(&self, rouse: impl Fn() + Send + Sync + 'static) {
        *lock(&self.inner.rouse) = Some(Box::new(rouse));
    }

    /// What the handler wants to say to this peer in this lane, as bytes. What is no word, or belongs into another lane, is left out and counted.
    pub(crate) fn next_word(&self, to: u8, lane: Lane) -> Option<Vec<u8>> {
        let (flow, mut said) = (lane.flow(), None);
        if !self.inner.call(|handler| said = handler.next_word(to, flow)) {
            lock(&self.inner.state).panicked(flow);
        }
        let (heard, mut body) = (said?, Vec::new());
        encode(&heard.word, &heard.following, &mut body);
        let fault = match decode(&body) {
            Ok(_) if lane_of(&heard.word) == lane => return Some(body),
            Ok(_) => "what belongs into another flow".to_owned(),
            Err(error) => format!("what is no word: {error}"),
        };
        if lock(&self.inner.state).left_out(flow) {
            tracing::warn!(target: "busway::gossip", peer = to, %flow, "a handler of artifacts said {fault}; further ones are counted");
        }
        None
    }

    /// The node has ended: nothing more is taken, what waits is dropped, and of these peers the end is told still.
    pub(crate) fn part(&self, known: &[u8]) {
        self.inner.end(known);
    }

    /// From now on the counters of this process count with it.
    pub(crate) fn count_for(&self, own: Arc<OwnArena>) {
        let _ = self.inner.tally.set(own);
    }

    /// Whether the thread that asks is one of these.
    pub(crate) fn is_own_thread(&self) -> bool {
        let own = std::thread::current().id();
        lock(&self.own).contains(&own)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if self.is_inherited() {
            // The threads are the parent's, and what they had locked stays so.
            let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(threads).into_iter().for_each(std::mem::forget);
            std::mem::forget(self.inner.clone());
            return;
        }
        self.end();
    }
}

/// One of the threads, until it ends.
struct Alive<'a>(&'a Inner);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).alive -= 1;
        self.0.room.notify_all();
    }
}

fn place(flow: Flow) -> Option<usize> {
    EVENT_FLOWS.iter().position(|known| *known == flow)
}

fn ended() -> Error {
    Error::new(Code::Closed, "the workers of artifacts have ended").remedy("start new ones")
}

fn dropped() -> Error {
    Error::new(Code::Full, "the flow of this event is full, and drops what it has no room for")
        .at("the workers of artifacts")
        .remedy("let the flow wait, or give it more room")
}

struct Inner {
    handler: Arc<dyn ArtifactHandler>,
    state: Mutex<State>,
    /// For the workers of a flow: there is something to do.
    work: [Condvar; EVENT_FLOWS.len()],
    /// For those who deliver, or wait for the end: something was done.
    room: Condvar,
    /// For the timer: all ends.
    over: Condvar,
    /// Called when there may be room for what came back.
    rouse: Mutex<Option<Rouse>>,
    /// Where it is counted beside, if these are a node's.
    tally: OnceLock<Arc<OwnArena>>,
}

type Rouse = Box<dyn Fn() + Send + Sync>;

impl Inner {
    fn tally(&self, flow: Flow, what: Tally, times: u64) {
        if let (Some(own), Some(event)) = (self.tally.get(), event(flow, what))
            && times > 0
        {
            own.count(event, times);
        }
    }

    fn end(&self, known: &[u8]) {
        self.dropping(&mut lock(&self.state), |state| state.end(known));
    }

    /// Does what may drop what waits, counts that, and wakes all that wait for an end.
    fn dropping(&self, state: &mut State, ending: impl FnOnce(&mut State)) {
        let dropped = |state: &State| EVENT_FLOWS.map(|flow| state.counts(flow).dropped_ended);
        let before = dropped(state);
        ending(state);
        for ((flow, before), after) in EVENT_FLOWS.into_iter().zip(before).zip(dropped(state)) {
            self.tally(flow, Tally::Dropped, after - before);
        }
        self.work.iter().for_each(Condvar::notify_all);
        self.room.notify_all();
        self.over.notify_all();
    }

    /// The body of a worker of this lane.
    fn work(&self, at: usize) {
        let mut state = lock(&self.state);
        loop {
            let Some((from, event)) = state.next(at) else {
                if state.is_over(at) {
                    return;
                }
                state = self.work[at].wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let (begun_ns, charge) = (monotonic_ns(), charge(from, &event));
            let panicked = !self.call(|handler| tell(handler, from, &event));
            let took_ns = monotonic_ns().saturating_sub(begun_ns);
            drop(event);
            self.tally(EVENT_FLOWS[at], Tally::Handled, 1);
            self.tally(EVENT_FLOWS[at], Tally::Nanoseconds, took_ns);
            state = lock(&self.state);
            let came_back = state.done(at, from, charge, took_ns, panicked);
            if state.ended {
                // The end of this peer may wait for it.
                self.work.iter().for_each(Condvar::notify_all);
            }
            self.room.notify_all();
            if came_back {
                drop(state);
                if let Some(rouse) = &*lock(&self.rouse) {
                    rouse();
                }
                state = lock(&self.state);
            }
        }
    }

    /// The body of the timer.
    fn tick(&self, period: Duration) {
        let mut due = Deadline::after(period);
        let mut state = lock(&self.state);
        while !state.ended {
            let left = due.remaining().unwrap_or(period);
            if !left.is_zero() {
                state = self.over.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            drop(state);
            if !self.call(|handler| handler.on_timer()) {
                lock(&self.state).panicked(Flow::Transport);
            }
            due = Deadline::after(period);
            state = lock(&self.state);
        }
    }

    /// Whether the handler returned. One that panics is told in the log.
    fn call(&self, body: impl FnOnce(&dyn ArtifactHandler)) -> bool {
        let handler: &dyn ArtifactHandler = &*self.handler;
        let returned = catch_unwind(AssertUnwindSafe(|| body(handler))).is_ok();
        if !returned {
            tracing::warn!(target: "busway::gossip", "a handler of artifacts panicked; it is called again with what comes next");
        }
        returned
    }
}

#[cfg(test)]
mod tests;
