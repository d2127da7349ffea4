//! The workers of a service: they do what the schedule says.
//!
//! A worker takes the next message of a subscriber itself when it has a hand free, so that there is no thread between the
//! ring and the handler, and what nobody has time for stays in the ring, where the subscriber's policy decides. While nothing is
//! there all sleep; who publishes wakes one, by the thread that sleeps for async tasks (`wake`).
//!
//! It decides nothing: order, bounds and accounts are the schedule's.
//!
//! Invariant: no lock is held while a handler or a hook runs, and what panics there ends nothing but the attempt.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_protocol::{Breaker, Ended, Retry, Time};
use busway_shm::bell::ANY;
use busway_shm::clock::Deadline;
use busway_shm::counters::Event;
use busway_wire::DeadReason;

use super::dead_letters::DeadLetters;
use super::intake::{Intake, Taken};
use super::schedule::{Job, Outcome, Read, Schedule, Work};
use super::{Hook, Message, now, text_of};
use crate::error::{Code, Error};
use crate::log::Line;
use crate::outcome::RecvError;
use crate::ports::{PortTable, lock};

/// While a subscriber holds as much as it may, it is looked at so often, in nanoseconds, if nothing is done meanwhile.
const HOLDS_NS: u64 = 10_000_000;

/// What the workers, and who wakes them, share. It owns no port: whoever wakes may be the last to let go of it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) floor: Mutex<Floor>,
    changed: Condvar,
    /// For who closes: a thread has ended. Who closes must not take what is meant to wake a worker.
    ended: Condvar,
}

#[derive(Debug)]
pub(super) struct Floor {
    pub(super) schedule: Schedule<Taken>,
    /// Workers that sleep.
    idle: usize,
    /// Workers that have not ended.
    alive: usize,
}

/// Wakes a worker for one desk.
#[derive(Debug)]
struct DeskWaker {
    shared: Arc<Shared>,
    at: usize,
}

impl Wake for DeskWaker {
    fn wake(self: Arc<Self>) {
        let mut floor = lock(&self.shared.floor);
        floor.schedule.woken(self.at);
        if floor.idle > 0 {
            self.shared.changed.notify_one();
        }
    }
}

/// What a handler makes of a message.
pub(super) type Handle = Box<dyn Fn(&Message<'_>) -> Result<(), String> + Send + Sync>;

/// A handler with what belongs to it.
pub(super) struct Desk {
    pub(super) handle: Handle,
    pub(super) hooks: Arc<[Hook]>,
    pub(super) retry: Retry,
    pub(super) breaker: Option<Mutex<Breaker>>,
    pub(super) intake: Mutex<Option<Intake>>,
    pub(super) dead_letters: Option<Arc<DeadLetters>>,
    pub(super) ports: Arc<PortTable>,
    pub(super) name: String,
}

/// How one attempt ended.
enum Attempt {
    Well,
    Failed(String),
    Panicked(String),
    Refused,
    Rejected { panicked: bool, reason: String },
}

impl Desk {
    /// The next message, if one is there; else `waker` is told when one may be.
    fn read(&self, waker: &Waker) -> Read<Taken> {
        let mut place = lock(&self.intake);
        let Some(intake) = place.as_mut() else { return Read::End };
        match intake.poll(waker) {
            Poll::Pending => Read::Nothing,
            Poll::Ready(Ok(taken)) => Read::Message(self.job(taken)),
            Poll::Ready(Err(RecvError::Evicted(topic))) => {
                let name = &self.name;
                self.ports
                    .warn(Line::Evicted, || format!("service {name}: evicted by a publisher of {topic}"));
                Read::Again
            }
            Poll::Ready(Err(RecvError::HoldsExhausted)) => {
                Read::Later(Time(now().0.saturating_add(HOLDS_NS)))
            }
            Poll::Ready(Err(RecvError::Closed | RecvError::Forked)) => Read::End,
        }
    }

    fn job(&self, message: Taken) -> Job<Taken> {
        let sample = message.sample();
        let attempts = self.retry.begin(sample.source().0 ^ sample.sequence());
        Job { topic: hash(sample.topic()), attempts, message }
    }

    fn attempt(&self, job: &Job<Taken>) -> Attempt {
        let (sample, deliveries) = (job.message.sample(), job.message.deliveries());
        let message = Message { sample, attempt: job.attempts.count(), deliveries };
        if message.attempt == 1 {
            for hook in self.hooks.iter() {
                match catch_unwind(AssertUnwindSafe(|| hook(&message))) {
                    Ok(Ok(())) => {}
                    Ok(Err(reason)) => return Attempt::Rejected { panicked: false, reason },
                    Err(panic) => return Attempt::Rejected { panicked: true, reason: text_of(panic) },
                }
            }
        }
        let pass = match self.breaker.as_ref().map(|breaker| lock(breaker).admit(now())) {
            Some(Err(_)) => return Attempt::Refused,
            Some(Ok(pass)) => Some(pass),
            None => None,
        };
        let attempt = match catch_unwind(AssertUnwindSafe(|| (self.handle)(&message))) {
            Ok(Ok(())) => Attempt::Well,
            Ok(Err(reason)) => Attempt::Failed(reason),
            Err(panic) => Attempt::Panicked(text_of(panic)),
        };
        if let (Some(breaker), Some(pass)) = (&self.breaker, pass) {
            let ended = if matches!(attempt, Attempt::Well) { Ended::Well } else { Ended::Badly };
            lock(breaker).settle(now(), pass, ended);
        }
        attempt
    }

    /// Publishes a message that is given up, where that was asked for; says whether it could.
    fn bury(&self, job: &Job<Taken>, dead: DeadReason, reason: &str) -> Option<bool> {
        let buried = self.dead_letters.as_ref()?.bury(&self.name, job, dead, reason);
        if let Err(why) = &buried {
            self.say(job, "it is not among the dead letters", why);
        }
        Some(buried.is_ok())
    }

    /// Counts what happened.
    fn tell(&self, events: &[(Event, bool)]) {
        events.iter().filter(|(_, happened)| *happened).for_each(|(event, _)| self.ports.count(*event, 1));
    }

    /// Says at most once a second what went wrong.
    fn say(&self, job: &Job<Taken>, what: &str, reason: &str) {
        self.ports.warn(Line::Handler, || {
            let (name, topic, count) = (&self.name, job.message.sample().topic(), job.attempts.count());
            let (topic, reason) = (topic.escape_debug(), reason.escape_debug());
            format!("service {name}: topic {topic}: {what} at attempt {count}: {reason}")
        });
    }
}

/// The workers of one service.
pub(super) struct Pool {
    shared: Arc<Shared>,
    desks: Arc<[Desk]>,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Pool {
    pub(super) fn start(
        name: &str,
        desks: Vec<Desk>,
        schedule: Schedule<Taken>,
        workers: usize,
    ) -> Result<Pool, Error> {
        let floor = Mutex::new(Floor { schedule, idle: 0, alive: 0 });
        let shared = Arc::new(Shared { floor, changed: Condvar::new(), ended: Condvar::new() });
        let mut pool =
            Pool { shared, desks: desks.into(), threads: Vec::with_capacity(workers), closed: false };
        let waker = |at| Waker::from(Arc::new(DeskWaker { shared: pool.shared.clone(), at }));
        let wakers: Arc<[Waker]> = (0..pool.desks.len()).map(waker).collect();
        for number in 0..workers {
            let (shared, desks, wakers) = (pool.shared.clone(), pool.desks.clone(), wakers.clone());
            lock(&shared.floor).alive += 1;
            let thread = std::thread::Builder::new().name(format!("bw-{number}-{name}"));
            match thread.spawn(move || work(&shared, &desks, &wakers)) {
                Ok(thread) => pool.threads.push(thread),
                Err(error) => {
                    lock(&pool.shared.floor).alive -= 1;
                    pool.close(Duration::ZERO);
                    return Err(Error::new(
                        Code::ThreadRefused,
                        format!("a worker cannot be started: {error}"),
                    )
                    .at(format!("service {name}"))
                    .remedy("ask for fewer workers, or raise the limit: ulimit -u"));
                }
            }
        }
        Ok(pool)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn desks(&self) -> &[Desk] {
        &self.desks
    }

    /// Handles what is there, as far as `linger` goes, ends the workers, and says how many handlers still run. From inside a
    /// handler nothing more is handled, and its own thread ends after it.
    pub(super) fn close(&mut self, linger: Duration) -> u64 {
        if std::mem::replace(&mut self.closed, true) {
            return 0;
        }
        let deadline = Deadline::after(linger);
        let current = std::thread::current().id();
        let own = usize::from(self.threads.iter().any(|thread| thread.thread().id() == current));
        let mut floor = lock(&self.shared.floor);
        floor.schedule.drain();
        let mut left = if own > 0 { floor.schedule.close() } else { Vec::new() };
        self.shared.changed.notify_all();
        while floor.alive > own {
            floor = match deadline.remaining() {
                None => self.shared.ended.wait(floor).unwrap_or_else(PoisonError::into_inner),
                Some(rest) if rest.is_zero() => break,
                Some(rest) => {
                    let waited = self.shared.ended.wait_timeout(floor, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        left.extend(floor.schedule.close());
        let running = floor.schedule.running();
        self.shared.changed.notify_all();
        drop(floor);
        // Who sleeps ends now; who runs a handler is not waited for any more.
        let mut floor = lock(&self.shared.floor);
        while floor.alive as u64 > running.max(own as u64) {
            floor = self.shared.ended.wait(floor).unwrap_or_else(PoisonError::into_inner);
        }
        drop(floor);
        drop(left);
        for desk in self.desks.iter() {
            drop(lock(&desk.intake).take());
        }
        // Who sleeps for our tasks forgets them.
        if let Some(desk) = self.desks.first() {
            desk.ports.ring_bell(ANY);
        }
        for thread in self.threads.drain(..) {
            if thread.is_finished() || running <= own as u64 && thread.thread().id() != current {
                // It has nothing to say: what panics is caught where it is called.
                let _ = thread.join();
            }
        }
        running.saturating_sub(own as u64)
    }

    /// In a child made by `fork` there are no threads to wait for, and locks may be held by nobody.
    pub(super) fn forget(&mut self) {
        std::mem::take(&mut self.threads).into_iter().for_each(std::mem::forget);
    }
}

/// Tells who closes the pool that this worker has ended, however it does.
struct Alive<'a>(&'a Shared);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        lock(&self.0.floor).alive -= 1;
        self.0.ended.notify_all();
    }
}

fn work(shared: &Shared, desks: &[Desk], wakers: &[Waker]) {
    let _alive = Alive(shared);
    let mut floor = lock(&shared.floor);
    loop {
        match floor.schedule.next(now()) {
            Work::Over => {
                shared.changed.notify_all();
                return;
            }
            Work::Wait(until) => {
                floor.idle += 1;
                let rest = until.map(|until| Duration::from_nanos(until.since(now())));
                floor = match rest {
                    None => shared.changed.wait(floor).unwrap_or_else(PoisonError::into_inner),
                    Some(rest) => {
                        let waited = shared.changed.wait_timeout(floor, rest);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                floor.idle -= 1;
            }
            Work::Read(at) => {
                drop(floor);
                let read = desks[at].read(&wakers[at]);
                floor = lock(&shared.floor);
                floor.schedule.read(at, read);
            }
            Work::Handle(at, job) => {
                if floor.idle > 0 && floor.schedule.wants_another() {
                    shared.changed.notify_one();
                }
                drop(floor);
                handle(shared, &desks[at], at, job);
                floor = lock(&shared.floor);
            }
        }
    }
}

/// Handles a message once, and tells the schedule what came of it.
fn handle(shared: &Shared, desk: &Desk, at: usize, mut job: Job<Taken>) {
    let attempt = desk.attempt(&job);
    let topic = job.topic;
    let (dead, reason) = match attempt {
        Attempt::Well => {
            // The message is let go before the next of its topic comes into hand, and without the lock.
            let late = job.message.acknowledge().is_err();
            let mut floor = lock(&shared.floor);
            floor.schedule.count(at, |account| account.late += u64::from(late));
            floor.schedule.done(at, topic, Outcome::Handled);
            drop(floor);
            return desk.tell(&[(Event::Handled, true), (Event::HandlerLate, late)]);
        }
        Attempt::Rejected { panicked, reason } => {
            desk.say(&job, if panicked { "a hook panicked" } else { "a hook rejected it" }, &reason);
            let late = job.message.acknowledge().is_err();
            let mut floor = lock(&shared.floor);
            floor.schedule.count(at, |account| {
                (account.hooks_panicked, account.late) =
                    (account.hooks_panicked + u64::from(panicked), account.late + u64::from(late));
            });
            floor.schedule.done(at, topic, Outcome::Rejected);
            drop(floor);
            return desk.tell(&[(Event::HandlerRejected, true), (Event::HandlerLate, late)]);
        }
        Attempt::Failed(reason) => (DeadReason::Error, reason),
        Attempt::Panicked(reason) => {
            desk.tell(&[(Event::HandlerPanicked, true)]);
            lock(&shared.floor).schedule.count(at, |account| account.panicked += 1);
            (DeadReason::Panic, reason)
        }
        Attempt::Refused => {
            desk.tell(&[(Event::HandlerRefused, true)]);
            lock(&shared.floor).schedule.count(at, |account| account.refused += 1);
            (DeadReason::Breaker, "the breaker is open".to_owned())
        }
    };
    match job.attempts.failed(now()) {
        Some(due) => {
            desk.tell(&[(Event::HandlerRetried, true)]);
            lock(&shared.floor).schedule.again(at, job, due);
        }
        None => {
            desk.say(&job, "it failed", &reason);
            let buried = desk.bury(&job, dead, &reason);
            // What is among the dead letters need not come back. What is nowhere is given back, where that can be.
            let late = if buried == Some(true) {
                job.message.acknowledge().is_err()
            } else {
                drop(job);
                false
            };
            let mut floor = lock(&shared.floor);
            floor.schedule.count(at, |account| {
                account.late += u64::from(late);
                account.buried += u64::from(buried == Some(true));
                account.unburied += u64::from(buried == Some(false));
            });
            floor.schedule.done(at, topic, Outcome::Failed);
            drop(floor);
            desk.tell(&[
                (Event::HandlerFailed, true),
                (Event::HandlerLate, late),
                (Event::HandlerBuried, buried == Some(true)),
                (Event::HandlerUnburied, buried == Some(false)),
            ]);
        }
    }
}

/// FNV-1a: topics are short, and two with the same hash only wait for each other.
fn hash(topic: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    topic.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
