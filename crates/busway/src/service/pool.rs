//! The workers of a service: they do what the schedule says.
//!
//! A worker takes the next message of a subscriber itself when it has a hand free, so that there is no thread between the
//! ring and the handler, and what nobody has time for stays in the ring, where the subscriber's policy decides. While nothing is
//! there all sleep; who publishes wakes one, by the thread that sleeps for async tasks (`wake`).
//!
//! It decides nothing: order, bounds and accounts are the schedule's, and what becomes of a message is the desk's.
//!
//! Invariant: no lock is held while a handler or a hook runs, nor while a message is let go.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_shm::bell::ANY;
use busway_shm::clock::Deadline;

use super::desk::Desk;
use super::intake::Taken;
use super::now;
use super::schedule::{Job, Schedule, Work};
use crate::error::{Code, Error};
use crate::ports::lock;

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

    /// From now on only what has come is taken.
    pub(super) fn drain(&self) {
        self.desks.iter().for_each(Desk::end_here);
        lock(&self.shared.floor).schedule.drain();
        self.shared.changed.notify_all();
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
        self.drain();
        let mut floor = lock(&self.shared.floor);
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
        left.into_iter().for_each(let_go);
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
                let busy = floor.schedule.busy(at);
                drop(floor);
                let read = desks[at].read(busy, &wakers[at]);
                floor = lock(&shared.floor);
                if let Some(late) = floor.schedule.read(at, read) {
                    drop(floor);
                    let_go(late);
                    floor = lock(&shared.floor);
                }
            }
            Work::Handle(at, job) => {
                if floor.idle > 0 && floor.schedule.wants_another() {
                    shared.changed.notify_one();
                }
                drop(floor);
                let mut job = job;
                let attempt = desks[at].attempt(&mut job);
                let end = desks[at].judge(job, attempt);
                floor = lock(&shared.floor);
                if let Some(late) = end.tell(&mut floor.schedule, at) {
                    drop(floor);
                    let_go(late);
                    floor = lock(&shared.floor);
                }
            }
        }
    }
}

/// What nobody handles any more goes back, where it can.
pub(super) fn let_go(job: Job<Taken>) {
    let begun = job.attempts.count() > 1;
    job.message.let_go(begun);
}
