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
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use busway_protocol::flow::{Budget, LimitFault, Limits, Rule};
use busway_protocol::gossip::Lane;
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_wire::gossip::{decode, encode};
use busway_wire::limits::{ARTIFACT_FLOW_WORKERS_MAX, ARTIFACT_JOIN_MS, ARTIFACT_TIMER_MS};

use crate::artifacts::handler::{ArtifactHandler, Flow, PeerEvent, WhenFull, tell};
use crate::error::{Code, Error};
use crate::ports::lock;

mod lanes;

use lanes::{Put, Queued, State, charge};

/// The flows that have workers, in the order in which they are listed.
pub const EVENT_FLOWS: [Flow; 5] =
    [Flow::Transport, Flow::Advert, Flow::Request, Flow::Chunk, Flow::Retransmission];

/// What a flow has counted, and what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowCounts {
    /// Events that the handler was told.
    pub handled: u64,
    /// Of these, those in which it panicked.
    pub panicked: u64,
    /// Times that one found the flow full, and waited or was given back.
    pub waited: u64,
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

    /// What each peer has of each flow, whatever others have. Default: as links.
    pub fn floor(mut self, events: u64, bytes: u64) -> Self {
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
        if let Some(fault) = self.fault {
            let error = Error::new(Code::BadSetting, fault).at("the workers of artifacts");
            return Err(error.remedy("see docs/config.md for what each flow allows"));
        }
        let inner = Arc::new(Inner {
            handler,
            state: Mutex::new(State::new(self.limits)),
            work: Default::default(),
            room: Condvar::new(),
            over: Condvar::new(),
            rouse: Mutex::default(),
        });
        let workers = Workers { inner, threads: Mutex::default(), own: Mutex::default() };
        for (at, flow) in EVENT_FLOWS.into_iter().enumerate() {
            for number in 0..self.workers[at] {
                workers.thread(&format!("bw-{flow}-{number}"), move |inner| inner.work(at))?;
            }
        }
        let period = self.timer;
        workers.thread("bw-timer", move |inner| inner.tick(period))?;
        Ok(workers)
    }
}

/// See the head of this file.
pub struct Workers {
    inner: Arc<Inner>,
    /// Those that have not been joined.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Who they are.
    own: Mutex<Vec<ThreadId>>,
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
            body(&inner);
            lock(&inner.state).alive -= 1;
            inner.room.notify_all();
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

    /// Takes an event of a peer. Where its flow is full it waits, takes the place of an older one or is dropped, as the flow says.
    ///
    /// # Errors
    /// [`Code::Closed`] where the workers have ended, [`Code::Full`] where it was dropped.
    pub fn deliver(&self, from: u8, event: PeerEvent) -> Result<(), Error> {
        let mut waits = false;
        let mut event = Queued { event, replaces: None };
        let mut state = lock(&self.inner.state);
        loop {
            event = match state.put(from, event, &mut waits) {
                Put::Taken(at) => {
                    drop(state);
                    self.inner.work[at].notify_one();
                    return Ok(());
                }
                Put::Dropped => return Err(dropped()),
                Put::Ended => return Err(ended()),
                Put::Full(event) => event,
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

    /// The same for what is worth more than all before it of this peer, flow and `key`: where the flow is full and may coalesce, it takes the place of one of those.
    ///
    /// # Errors
    /// As [`Workers::deliver`].
    pub fn try_replace(
        &self,
        from: u8,
        event: PeerEvent,
        key: Option<u64>,
    ) -> Result<Option<PeerEvent>, Error> {
        let mut state = lock(&self.inner.state);
        match state.put(from, Queued { event, replaces: key }, &mut false) {
            Put::Taken(at) => {
                drop(state);
                self.inner.work[at].notify_one();
                Ok(None)
            }
            Put::Full(queued) => Ok(Some(queued.event)),
            Put::Dropped => Err(dropped()),
            Put::Ended => Err(ended()),
        }
    }

    /// What a flow has counted; nothing for one without workers.
    #[must_use]
    pub fn counts(&self, flow: Flow) -> FlowCounts {
        let state = lock(&self.inner.state);
        place(flow).map(|at| state.lanes[at].counts).unwrap_or_default()
    }

    /// Waits until all that was taken is handled, then ends the threads and joins them. Where the handler itself calls it nothing is waited for: what waits is dropped and counted,
    /// the threads end when the handler returns, and the next call or drop by another joins them.
    ///
    /// # Errors
    /// [`Code::TimedOut`] where that takes longer: what waits then is dropped and counted, and a handler that has not returned a second later is left to itself.
    pub fn close(&self, timeout: Duration) -> Result<(), Error> {
        let deadline = Deadline::after(timeout);
        let mut late = false;
        if !self.is_own_thread() {
            let mut state = lock(&self.inner.state);
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
        lock(&self.inner.state).end();
        self.inner.work.iter().for_each(Condvar::notify_all);
        self.inner.room.notify_all();
        self.inner.over.notify_all();
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

    /// This is called when there may be room for what came back, and when all of a peer is handled.
    pub(crate) fn rouse_with(&self, rouse: impl Fn() + Send + Sync + 'static) {
        *lock(&self.inner.rouse) = Some(Box::new(rouse));
    }

    /// What the handler wants to say to this peer in this lane, as bytes. What is no word is left out.
    pub(crate) fn next_word(&self, to: u8, lane: Lane) -> Option<Vec<u8>> {
        let mut said = None;
        self.inner.call(|handler| said = handler.next_word(to, lane.flow()));
        let (heard, mut body) = (said?, Vec::new());
        encode(&heard.word, &heard.following, &mut body);
        match decode(&body) {
            Ok(_) => Some(body),
            Err(error) => {
                tracing::warn!(target: "busway::gossip", peer = to, "a handler of artifacts said what is no word: {error}");
                None
            }
        }
    }

    /// Whether the thread that asks is one of these.
    pub(crate) fn is_own_thread(&self) -> bool {
        let own = std::thread::current().id();
        lock(&self.own).contains(&own)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
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
}

type Rouse = Box<dyn Fn() + Send + Sync>;

impl Inner {
    /// The body of a worker of this lane.
    fn work(&self, at: usize) {
        let mut state = lock(&self.state);
        loop {
            let Some((from, event)) = state.next(at) else {
                if state.ended {
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
            state = lock(&self.state);
            let came_back = state.done(at, from, charge, took_ns, panicked);
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
            self.call(|handler| handler.on_timer());
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
