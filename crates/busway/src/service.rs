//! Services: handlers of what is published, on a bounded number of threads.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::mpsc;
//! use std::time::Duration;
//! use busway::service::{Breaker, Retry};
//!
//! let bus = busway::Bus::open("example-of-service")?;
//! let mut publisher = bus.publisher("orders.new").open()?;
//! let (sender, receiver) = mpsc::sync_channel(8);
//! let service = bus
//!     .service("billing")
//!     .on("orders.>", move |message| {
//!         let order = std::str::from_utf8(message).map_err(|error| error.to_string())?;
//!         sender.try_send(format!("{} {order}", message.topic())).map_err(|error| error.to_string())
//!     })
//!     .concurrency(4)
//!     .retry(Retry::times(3))
//!     .breaker(Breaker::default())
//!     .start()?;
//! publisher.send(b"17 apples")?;
//! assert_eq!(receiver.recv_timeout(Duration::from_secs(5))?, "orders.new 17 apples");
//! let closed = service.close(Duration::from_secs(1));
//! assert_eq!((closed.handlers[0].handled, closed.running), (1, 0));
//! # Ok(())
//! # }
//! ```
//!
//! Each handler has a subscriber of its own, so that a slow one stops no other. A message is taken when there is a hand free for it;
//! what nobody has time for stays in its publisher's ring, where the subscriber's [`Policy`](crate::Policy) decides. Messages of
//! one topic are handled in order, one after the other, unless [`Order::None`] is asked for.
//!
//! A handler that returns an error, or panics, has failed: the message is tried again as its [`Retry`] says. Each attempt
//! has the same message, whose source and sequence say which it is, and [`Message::attempt`] its number. With a [`Breaker`] a
//! handler that fails again and again is not called for a while: attempts at what was published are refused, and no shared work is taken. What was refused at its last attempt and never handled counts as such
//! ([`HandlerAccount::unhandled`]) and not as failed. What has no attempt left is
//! published as a [`DeadLetter`], where a topic was given for that ([`ServiceBuilder::dead_letters`]).
//!
//! Handlers of shared work ([`ServiceBuilder::pull`]) acknowledge what they handled, and give back what failed, which rests a while before it comes again
//! ([`PullerBuilder::redelivery`](crate::PullerBuilder::redelivery)).
//! Handlers of requests ([`ServiceBuilder::reply`]) return the reply, and who asked is told why where they fail. Handlers may be futures ([`ServiceBuilder::on_async`]): a
//! [`Driver`] runs them on whichever executor the program has. Who sends has the same for what it sends: see [`Outlet`].
//!
//! When to try again, and what to leave alone, is decided by machines that know no clock. They can be used alone:
//!
//! ```
//! use busway::service::{Breaker, Ended, Retry, now};
//!
//! let mut breaker = Breaker::default();
//! let pass = breaker.admit(now()).expect("it is closed");
//! breaker.settle(now(), pass, Ended::Badly);
//! let mut attempts = Retry::times(3).begin(17);
//! assert!(attempts.failed(now()).is_some_and(|second| second > now()));
//! ```

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

pub use busway_protocol::{Attempts, Breaker, BreakerState, Ended, Pass, Refused, Retry, Time};
use busway_shm::clock::Deadline;
pub use busway_wire::{DeadLetter, DeadLetterError, DeadReason};

use crate::bus::Core;
use crate::ports::lock;
use crate::sample::Sample;

mod builder;
mod dead_letters;
mod desk;
mod driver;
mod intake;
mod outlet;
mod pace;
mod pool;
mod schedule;

pub use builder::{HandlerBuilder, ServiceBuilder};
use desk::Desk;
use driver::Board;
pub use driver::{Driver, Received};
use intake::Taken;
pub use outlet::{Outgoing, Outlet, OutletAccount, OutletError, OutletInContext, Port};
use pool::Pool;
use schedule::Job;
pub use schedule::{HandlerAccount, Order};

/// The time of the machines here: the monotonic clock, which nobody sets.
#[must_use]
pub fn now() -> Time {
    Time(busway_shm::clock::monotonic_ns())
}

/// A message in the hands of a handler or of a hook. Derefs to its [`Sample`].
#[derive(Debug)]
pub struct Message<'a> {
    taken: &'a Taken,
    attempt: u32,
}

impl<'a> Message<'a> {
    fn of(job: &'a Job<Taken>) -> Message<'a> {
        Message { taken: &job.message, attempt: job.attempts.count() }
    }
}

impl Message<'_> {
    /// Which attempt at it this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often it was given to a puller, this time included; 1 for what was published or asked.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.taken.deliveries()
    }

    /// For how long a reply is waited for; `None` where nobody asked.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.taken.remaining()
    }

    /// Whether nobody waits for the reply any more: the time is up, the request was cancelled, or who asked is gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.taken.is_cancelled()
    }
}

impl Deref for Message<'_> {
    type Target = Sample;

    fn deref(&self) -> &Sample {
        self.taken.sample()
    }
}

/// What a handler or a hook says at its end: nothing, or a `Result` whose error can be shown.
pub trait Answer {
    /// Why it failed; `None` if it did not.
    fn failure(self) -> Option<String>;
}

impl Answer for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> Answer for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

fn answered(answer: impl Answer) -> Result<(), String> {
    answer.failure().map_or(Ok(()), Err)
}

/// What is asked about a message before its handler is.
pub(crate) type Hook = Box<dyn Fn(&Message<'_>) -> Result<(), String> + Send + Sync>;

/// What somebody said when panicking.
fn text_of(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic").to_owned();
    // What was thrown may panic when it is dropped, and then what that throws.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
    text
}

/// Handlers that are at work. Dropped, it closes with the linger time that it was made with, also inside of one of its handlers.
pub struct Service {
    pool: Pool,
    board: Arc<Board>,
    /// Where each handler is, in the order in which they were added.
    places: Vec<Place>,
    name: String,
    linger: Duration,
    // Last: the pool is closed before the bus may be.
    core: Arc<Core>,
}

/// Where a handler is: among those that workers call, or those of the driver.
#[derive(Clone, Copy, Debug)]
enum Place {
    Workers(usize),
    Driver(usize),
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a service was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// What became of the messages of each handler, in the order in which they were added.
    pub handlers: Vec<HandlerAccount>,
    /// Handlers that still run: they were not done in time. Their threads end when they do.
    pub running: u64,
}

impl Service {
    /// What became of the messages of each handler, in the order in which they were added; empty in a child made
    /// by `fork`.
    #[must_use]
    pub fn account(&self) -> Vec<HandlerAccount> {
        if self.core.own.forked() {
            return Vec::new();
        }
        let account = |place: &Place| {
            let account = match place {
                Place::Workers(at) => lock(&self.pool.shared().floor).schedule.account(*at),
                Place::Driver(at) => self.board.account(*at),
            };
            let pace = self.desk(*place).map(|desk| (desk.pace.slow(), desk.pace.p99()));
            let (slow, p99) = pace.unwrap_or_default();
            HandlerAccount { slow, p99, ..account }
        };
        self.places.iter().map(account).collect()
    }

    fn desk(&self, place: Place) -> Option<&Desk> {
        match place {
            Place::Workers(at) => self.pool.desks().get(at),
            Place::Driver(at) => self.board.desks().get(at),
        }
    }

    /// The state of each handler's breaker, in the order in which they were added; `None` where there is none.
    #[must_use]
    pub fn breakers(&self) -> Vec<Option<BreakerState>> {
        if self.core.own.forked() {
            return Vec::new();
        }
        let state = |desk: &Desk| desk.breaker.as_ref().map(|breaker| lock(breaker).state(now()));
        self.places.iter().map(|place| self.desk(*place).and_then(state)).collect()
    }

    /// Handles what has come, for at most `linger`, and ends. What is published later is not handled any more, and of shared work nothing more is taken: what this service has in hand it
    /// handles, and the rest is for others of the group. What has been taken and is not handled by then is counted as dropped, and shared work is given back; what is
    /// still in the rings is counted by the bus as `subscriber_left`. Called inside of a handler it handles nothing more.
    ///
    /// It blocks: where handlers are futures, call it from a thread that their driver does not need, or [`drain`](Service::drain) first and await the driver. Futures that are not done by
    /// then are dropped when the driver is polled next.
    pub fn close(mut self, linger: Duration) -> Closed {
        let running = self.end(linger);
        Closed { handlers: self.account(), running }
    }

    /// Takes nothing new from now on, as [`close`](Service::close), and does not wait: the [`Driver`] ends when what has come to handlers that are futures is handled.
    pub fn drain(&self) {
        if !self.core.own.forked() {
            self.board.drain();
            self.pool.drain();
        }
    }

    fn end(&mut self, linger: Duration) -> u64 {
        if self.core.own.forked() {
            self.pool.forget();
            return 0;
        }
        let deadline = Deadline::after(linger);
        self.drain();
        let running = self.pool.close(linger);
        // Workers and the driver have the same time.
        running + self.board.close(deadline.remaining().unwrap_or(Duration::MAX))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end(self.linger);
    }
}
