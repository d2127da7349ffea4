//! Handlers that are futures, on whichever executor their program has.
//!
//! A driver is one future. It does what the schedule says, as a worker does, but a handler's future waits in a slot instead of on a thread, and is polled when it was
//! woken. The program spawns the driver where it likes, or blocks on it; there is no executor here. Hooks are called where the driver is polled.
//!
//! A handler owns its message, and may give it to somebody else: the message is in hand until it was dropped, so that a task is acknowledged, and a request answered, when
//! nobody reads it any more.
//!
//! It decides nothing: order, bounds and accounts are the schedule's, and what becomes of a message is the desk's.
//!
//! Invariant: no lock is held while a handler, a hook or a future of theirs runs; a slot that was woken is polled, or its future was dropped.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use busway_protocol::{Attempts, Pass, Time};
use busway_shm::clock::Deadline;

use super::desk::{Attempt, Desk, Handle, Later};
use super::intake::Taken;
use super::pool::let_go;
use super::schedule::{Job, Outcome, Schedule, Work};
use super::{now, text_of};
use crate::bus::Core;
use crate::ports::lock;
use crate::sample::Sample;

/// So much is done in one poll before the executor has its turn.
const TURN: u32 = 64;

/// A message in the hands of a handler that is a future. Derefs to its [`Sample`].
///
/// Until it is dropped it is in hand: its task is not acknowledged, and its request not answered.
pub struct Received {
    taken: Option<Arc<Taken>>,
    attempt: u32,
    waker: Waker,
}

impl Received {
    /// Which attempt at it this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often it was given to a puller, this time included; 1 for what was published or asked.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.taken().deliveries()
    }

    /// For how long a reply is waited for; `None` where nobody asked.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.taken().remaining()
    }

    /// Whether nobody waits for the reply any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.taken().is_cancelled()
    }

    fn taken(&self) -> &Taken {
        self.taken.as_ref().expect("it is let go when this is dropped")
    }
}

impl Deref for Received {
    type Target = Sample;

    fn deref(&self) -> &Sample {
        self.taken().sample()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("sample", &**self).field("attempt", &self.attempt).finish()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        drop(self.taken.take());
        self.waker.wake_by_ref();
    }
}

/// What the driver, and who wakes or closes it, share.
pub(super) struct Board {
    floor: Mutex<Floor>,
    ended: Condvar,
    desks: Box<[Desk]>,
}

struct Floor {
    schedule: Schedule<Taken>,
    /// Slots that were woken, once each.
    ready: VecDeque<usize>,
    /// The task of the driver.
    waker: Option<Waker>,
    /// The thread in which it is polled now: it looks itself before it ends.
    polling: Option<ThreadId>,
    over: bool,
}

impl Floor {
    /// Whom to wake, where nobody looks anyway.
    fn sleeper(&self) -> Option<Waker> {
        if self.polling.is_some() { None } else { self.waker.clone() }
    }
}

impl Board {
    pub(super) fn desks(&self) -> &[Desk] {
        &self.desks
    }

    pub(super) fn account(&self, at: usize) -> super::HandlerAccount {
        lock(&self.floor).schedule.account(at)
    }

    /// From now on only what has come is taken.
    pub(super) fn drain(&self) {
        self.desks.iter().for_each(Desk::end_here);
        let sleeper = {
            let mut floor = lock(&self.floor);
            floor.schedule.drain();
            floor.sleeper()
        };
        sleeper.iter().for_each(Waker::wake_by_ref);
    }

    /// Waits for what is there, as far as `linger` goes; how many handlers run still. Their futures are dropped when the driver is polled next.
    pub(super) fn close(&self, linger: Duration) -> u64 {
        self.drain();
        let deadline = Deadline::after(linger);
        let mut floor = lock(&self.floor);
        // Inside of a handler nobody polls while we wait.
        let inside = floor.polling == Some(std::thread::current().id());
        while !floor.over && !inside {
            floor = match deadline.remaining() {
                None => self.ended.wait(floor).unwrap_or_else(PoisonError::into_inner),
                Some(rest) if rest.is_zero() => break,
                Some(rest) => self.ended.wait_timeout(floor, rest).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        let left = floor.schedule.close();
        let running = floor.schedule.running();
        let sleeper = floor.sleeper();
        drop(floor);
        sleeper.iter().for_each(Waker::wake_by_ref);
        left.into_iter().for_each(let_go);
        for desk in &self.desks {
            drop(lock(&desk.intake).take());
        }
        running.saturating_sub(u64::from(inside))
    }
}

/// Wakes the driver for one desk.
struct DeskWaker {
    board: Arc<Board>,
    at: usize,
}

impl Wake for DeskWaker {
    fn wake(self: Arc<Self>) {
        let sleeper = {
            let mut floor = lock(&self.board.floor);
            floor.schedule.woken(self.at);
            floor.sleeper()
        };
        sleeper.iter().for_each(Waker::wake_by_ref);
    }
}

/// Wakes the driver for one slot.
struct SlotWaker {
    board: Arc<Board>,
    at: usize,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let sleeper = {
            let mut floor = lock(&self.board.floor);
            if floor.over || floor.ready.contains(&self.at) {
                return;
            }
            floor.ready.push_back(self.at);
            floor.sleeper()
        };
        sleeper.iter().for_each(Waker::wake_by_ref);
    }
}

/// A message in hand.
struct Slot {
    desk: usize,
    topic: u64,
    attempts: Attempts,
    taken: Arc<Taken>,
    /// `None` once it has ended.
    future: Option<Later>,
    attempt: Option<Attempt>,
    /// Since when the handler runs, and by which leave; `None` once it has ended.
    call: Option<(Time, Option<Pass>)>,
}

enum Step {
    Again,
    Wait(Option<Time>),
    Over,
}

/// Runs the handlers of a service that are futures, while it is polled: spawn it on your executor, or block on it. Made by
/// [`HandlerBuilder::drive`](super::HandlerBuilder::drive).
///
/// It ends when the service has been closed and what was there is handled, or the time for that is up, or the bus is closed. Dropped before, it ends the service's handlers that are futures: what they
/// have in hand is dropped, or given back where it can be, and counted.
#[must_use = "handlers that are futures run while their driver is polled"]
pub struct Driver {
    board: Arc<Board>,
    wakers: Box<[Waker]>,
    slots: Vec<Option<Slot>>,
    slot_wakers: Vec<Waker>,
    free: Vec<usize>,
    // Last: what is read goes before the bus may.
    core: Arc<Core>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("handlers", &self.board.desks.len()).finish_non_exhaustive()
    }
}

impl Driver {
    pub(super) fn new(desks: Vec<Desk>, schedule: Schedule<Taken>, core: Arc<Core>) -> Driver {
        let (ready, waker, polling) = (VecDeque::new(), None, None);
        let floor = Mutex::new(Floor { schedule, ready, waker, polling, over: false });
        let board = Arc::new(Board { floor, ended: Condvar::new(), desks: desks.into() });
        let waker = |at| Waker::from(Arc::new(DeskWaker { board: board.clone(), at }));
        let wakers = (0..board.desks.len()).map(waker).collect();
        Driver { board, wakers, slots: Vec::new(), slot_wakers: Vec::new(), free: Vec::new(), core }
    }

    pub(super) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// No other driver of this process has it while this one lives.
    fn number(&self) -> usize {
        Arc::as_ptr(&self.board).addr()
    }

    fn step(&mut self) -> Step {
        let board = self.board.clone();
        let mut floor = lock(&board.floor);
        let work = floor.schedule.next(now());
        if let (Work::Read(_) | Work::Wait(_), Some(at)) = (&work, floor.ready.front().copied()) {
            // What runs comes first; what was to be read is so the next time.
            if let Work::Read(at) = work {
                floor.schedule.unread(at);
            }
            floor.ready.pop_front();
            drop(floor);
            self.run(at);
            return Step::Again;
        }
        match work {
            Work::Over => return Step::Over,
            Work::Wait(until) => {
                // Under the lock: what comes from here on wakes the task.
                floor.polling = None;
                return Step::Wait(until);
            }
            Work::Read(at) => {
                let busy = floor.schedule.busy(at);
                drop(floor);
                let read = board.desks[at].read(busy, &self.wakers[at]);
                let late = lock(&board.floor).schedule.read(at, read);
                late.into_iter().for_each(let_go);
            }
            Work::Handle(at, job) => {
                drop(floor);
                self.begin(at, job);
            }
        }
        Step::Again
    }

    /// Calls the handler of a message, whose future has a slot from now on.
    fn begin(&mut self, at: usize, mut job: Job<Taken>) {
        let board = self.board.clone();
        let desk = &board.desks[at];
        let pass = match desk.begin(&mut job) {
            Ok(pass) => pass,
            Err(attempt) => return self.finish(at, job, attempt),
        };
        let place = self.place();
        let Job { message, topic, attempts, .. } = job;
        let taken = Arc::new(message);
        let waker = self.slot_wakers[place].clone();
        let received = Received { taken: Some(taken.clone()), attempt: attempts.count(), waker };
        let began = desk.called();
        let (mut future, mut attempt) = (None, None);
        match &desk.handle {
            Handle::Future(call) => match catch_unwind(AssertUnwindSafe(|| call(received))) {
                Ok(later) => future = Some(later),
                Err(panic) => attempt = Some(Attempt::Panicked(text_of(panic))),
            },
            Handle::Call(_) => attempt = Some(Attempt::Failed("a worker calls it".to_owned())),
        }
        let slot = Slot { desk: at, topic, attempts, taken, future, attempt, call: Some((began, pass)) };
        self.slots[place] = Some(slot);
        self.run(place);
    }

    /// A free slot.
    fn place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let at = self.slots.len();
            self.slots.push(None);
            self.slot_wakers.push(Waker::from(Arc::new(SlotWaker { board: self.board.clone(), at })));
            at
        })
    }

    /// Polls the future of a slot, and ends it where that has ended and nobody has the message any more.
    fn run(&mut self, place: usize) {
        let Some(mut slot) = self.slots.get_mut(place).and_then(Option::take) else { return };
        if let Some(future) = &mut slot.future {
            let mut context = Context::from_waker(&self.slot_wakers[place]);
            let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
            slot.attempt = match polled {
                Ok(Poll::Pending) => None,
                Ok(Poll::Ready(made)) => Some(Attempt::of(Ok(made))),
                Err(panic) => Some(Attempt::of(Err(panic))),
            };
        }
        let Some(attempt) = slot.attempt.take() else {
            self.slots[place] = Some(slot);
            return;
        };
        drop_caught(slot.future.take());
        let board = self.board.clone();
        if let Some((began, pass)) = slot.call.take() {
            board.desks[slot.desk].returned(slot.taken.sample(), began, pass, &attempt);
        }
        let Slot { desk, topic, attempts, taken, .. } = slot;
        match Arc::try_unwrap(taken) {
            Ok(message) => {
                self.free.push(place);
                self.finish(
                    desk,
                    Job { message, topic, attempts, asked: true, called: true, pass: None },
                    attempt,
                );
            }
            Err(taken) => {
                // Somebody has the message still.
                let (future, attempt, call) = (None, Some(attempt), None);
                self.slots[place] = Some(Slot { desk, topic, attempts, taken, future, attempt, call });
            }
        }
    }

    fn finish(&self, at: usize, job: Job<Taken>, attempt: Attempt) {
        let end = self.board.desks[at].judge(job, attempt);
        let late = end.tell(&mut lock(&self.board.floor).schedule, at);
        late.into_iter().for_each(let_go);
    }

    /// Nothing begins any more, and what runs is dropped.
    fn end(&mut self) {
        let board = self.board.clone();
        let left = lock(&board.floor).schedule.close();
        left.into_iter().for_each(let_go);
        for slot in std::mem::take(&mut self.slots).into_iter().flatten() {
            let Slot { desk, topic, taken, future, call, .. } = slot;
            drop_caught(future);
            if call.is_some() {
                board.desks[desk].abandoned();
            }
            drop(taken);
            lock(&board.floor).schedule.done(desk, topic, Outcome::Dropped);
        }
        let mut floor = lock(&board.floor);
        (floor.over, floor.polling, floor.waker) = (true, None, None);
        drop(floor);
        self.core.wake.forget(self.number());
        board.ended.notify_all();
    }
}

/// What a handler's future drops may panic.
fn drop_caught(future: Option<Later>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
        drop(text_of(panic));
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // In a child made by `fork` locks may be held by nobody.
        if this.core.own.forked() {
            return Poll::Ready(());
        }
        {
            let mut floor = lock(&this.board.floor);
            if floor.over {
                return Poll::Ready(());
            }
            if !floor.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                floor.waker = Some(context.waker().clone());
            }
            floor.polling = Some(std::thread::current().id());
        }
        for _ in 0..TURN {
            match this.step() {
                Step::Again => {}
                Step::Wait(until) => {
                    if let Some(until) = until {
                        let (core, whose) = (&this.core, this.number());
                        core.wake.wake_at(&core.ports, whose, until.0, context.waker());
                    }
                    return Poll::Pending;
                }
                Step::Over => {
                    this.end();
                    return Poll::Ready(());
                }
            }
        }
        lock(&this.board.floor).polling = None;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.core.own.forked() {
            std::mem::take(&mut self.slots).into_iter().for_each(std::mem::forget);
            return;
        }
        if !lock(&self.board.floor).over {
            self.end();
        }
    }
}
