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
//! what nobody has time for stays in its publisher's ring, where the subscriber's [`Policy`] decides. Messages of
//! one topic are handled in order, one after the other, unless [`Order::None`] is asked for.
//!
//! A handler that returns an error, or panics, has failed: the message is tried again as its [`Retry`] says. Each attempt
//! has the same message, whose source and sequence say which it is, and [`Message::attempt`] its number. With a [`Breaker`] a
//! handler that fails again and again is not called for a while: attempts at what was published are refused, and no shared work is taken. What was refused at its last attempt and never handled counts as such
//! ([`HandlerAccount::unhandled`]) and not as failed. What has no attempt left is
//! published as a [`DeadLetter`], where a topic was given for that ([`ServiceBuilder::dead_letters`]).
//!
//! Handlers of shared work ([`ServiceBuilder::pull`]) acknowledge what they handled, and give back what failed, which rests a while before it comes again
//! ([`PullerBuilder::redelivery`]).
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
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use busway_protocol::{Attempts, Breaker, BreakerState, Ended, Pass, Refused, Retry, Time};
use busway_shm::clock::Deadline;
use busway_wire::limits::{
    HOLDS_MAX, SERVICE_CONCURRENCY_MAX, SERVICE_HANDLERS_MAX, SERVICE_LINGER_MS_DEFAULT, SERVICE_PARKED_MAX,
    SERVICE_SLOW_MS_DEFAULT, SERVICE_WORKERS_MAX,
};
pub use busway_wire::{DeadLetter, DeadLetterError, DeadReason};
use busway_wire::{Policy, check_process_name};

use crate::bus::{Bus, Core};
use crate::error::{Code, Error};
use crate::ports::lock;
use crate::puller::PullerBuilder;
use crate::responder::ResponderBuilder;
use crate::sample::Sample;

mod dead_letters;
mod desk;
mod driver;
mod intake;
mod outlet;
mod pace;
mod pool;
mod schedule;

use dead_letters::DeadLetters;
use desk::{Bytes, Call, CallAsync, Desk, Handle};
use driver::Board;
pub use driver::{Driver, Received};
use intake::{Intake, Taken};
pub use outlet::{Outgoing, Outlet, OutletAccount, OutletError, OutletInContext, Port};
use pace::Pace;
use pool::Pool;
pub use schedule::{HandlerAccount, Order};
use schedule::{Job, Plan, Schedule, Share};

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

impl Bus {
    /// A service: handlers of what is published. The name is for threads and logs.
    pub fn service(&self, name: &str) -> ServiceBuilder {
        ServiceBuilder {
            bus: self.clone(),
            name: name.to_owned(),
            hooks: Vec::new(),
            handlers: Vec::new(),
            dead_letters: None,
            workers: None,
            linger: Duration::from_millis(SERVICE_LINGER_MS_DEFAULT),
        }
    }
}

/// Where the messages of a handler come from.
enum Origin {
    Pattern(String),
    Group(Box<PullerBuilder>),
    Requests(Box<ResponderBuilder>),
}

/// What a handler makes of a message, where nobody asked.
fn made(answer: impl Answer) -> Result<Option<Bytes>, String> {
    answered(answer).map(|()| None)
}

/// What a handler answers who asked.
fn reply_of<R, E>(answer: Result<R, E>) -> Result<Option<Bytes>, String>
where
    R: AsRef<[u8]> + Send + 'static,
    E: fmt::Display,
{
    answer.map(|bytes| Some(Box::new(bytes) as Bytes)).map_err(|error| error.to_string())
}

struct Handler {
    origin: Origin,
    handle: Handle,
    policy: Policy,
    history: u64,
    duplicates: Option<u32>,
    concurrency: u32,
    order: Order,
    retry: Retry,
    breaker: Option<Breaker>,
    slow: Duration,
}

/// How a service is made. See [`Bus::service`] and the head of [this module](self).
#[must_use = "a service is made by `start`"]
pub struct ServiceBuilder {
    bus: Bus,
    name: String,
    hooks: Vec<Hook>,
    handlers: Vec<Handler>,
    dead_letters: Option<String>,
    workers: Option<u32>,
    linger: Duration,
}

impl fmt::Debug for ServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ServiceBuilder {
    /// Asks `hook` about each message before its handler, once and not with each attempt; hooks are asked in the order in which they
    /// were added. One that fails, or panics, rejects the message: it is counted, its reason logged, and nothing else sees it.
    ///
    /// ```
    /// # fn main() -> Result<(), busway::Error> {
    /// # let bus = busway::Bus::open("example-of-hooks")?;
    /// let service = bus
    ///     .service("billing")
    ///     .after_receive(|message| if message.len() > 4096 { Err("too long for an order") } else { Ok(()) })
    ///     .on("orders.>", |message| println!("{}", message.topic()))
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn after_receive<A: Answer>(
        mut self,
        hook: impl Fn(&Message<'_>) -> A + Send + Sync + 'static,
    ) -> Self {
        self.hooks.push(Box::new(move |message| answered(hook(message))));
        self
    }

    /// Publishes on `topic` what a handler gave up: each message whose last attempt failed, or was refused by the breaker, with its source, sequence and topic,
    /// the reason, and its whole payload, as a [`DeadLetter`]. Default: it is counted, and its reason logged.
    ///
    /// A dead letter is a message like any other: who subscribes gets it, who comes later and asks for history gets up to 64 of the
    /// last while the service lives, and a subscriber that may make publishers wait makes a worker wait. What a hook rejected is not
    /// published, nor is a dead letter again whose handler failed.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use busway::service::{DeadLetter, DeadReason};
    /// # let bus = busway::Bus::open("example-of-dead-letters")?;
    /// let mut dead = bus.subscriber("orders.dead").open()?;
    /// let mut publisher = bus.publisher("orders.new").open()?;
    /// let service = bus
    ///     .service("billing")
    ///     .dead_letters("orders.dead")
    ///     .on("orders.new", |_| Err("no such customer"))
    ///     .start()?;
    /// publisher.send(b"17 apples")?;
    /// let message = dead.recv()?;
    /// let letter = DeadLetter::decode(&message)?;
    /// assert_eq!((letter.topic, letter.payload), ("orders.new", &b"17 apples"[..]));
    /// assert_eq!((letter.reason, letter.error), (DeadReason::Error, "no such customer"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn dead_letters(mut self, topic: &str) -> Self {
        self.dead_letters = Some(topic.to_owned());
        self
    }

    /// Threads for all handlers together, 1 to 256. Default: as many as the handlers' concurrency comes to.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How long the drop of the service waits for what is there. Default 100 ms; [`Service::close`] takes its own.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Calls `handler` with each message of a topic that `pattern` matches.
    pub fn on<A: Answer>(
        mut self,
        pattern: &str,
        handler: impl Fn(&Message<'_>) -> A + Send + Sync + 'static,
    ) -> HandlerBuilder {
        let call: Call = Box::new(move |message| made(handler(message)));
        self.add(Origin::Pattern(pattern.to_owned()), Order::Topic, Handle::Call(call));
        HandlerBuilder { service: self }
    }

    /// Calls `handler` with each message that this puller is given, as many at once as its concurrency says; another puller of the group
    /// gets what there is no worker for. What was handled is acknowledged, and so is what a hook rejected.
    /// What failed is published as a dead letter and acknowledged, where this service has a topic for those; else it is given back. All
    /// attempts have to fit into the group's time for an acknowledgement.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # let bus = busway::Bus::open("example-of-pull-handlers")?;
    /// let mut pusher = bus.pusher("resize").open()?;
    /// let resizers = bus.puller("resize").group("resizers").ack(Duration::from_secs(30));
    /// let service = bus.service("images").pull(resizers, |image| println!("{}", image.len())).concurrency(4).start()?;
    /// pusher.send(b"cat.png")?;
    /// pusher.flush(Duration::from_secs(5))?;
    /// assert_eq!(service.close(Duration::from_secs(1)).handlers[0].handled, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pull<A: Answer>(
        mut self,
        puller: PullerBuilder,
        handler: impl Fn(&Message<'_>) -> A + Send + Sync + 'static,
    ) -> HandlerBuilder {
        let call: Call = Box::new(move |message| made(handler(message)));
        self.add(Origin::Group(Box::new(puller)), Order::None, Handle::Call(call));
        HandlerBuilder { service: self }
    }

    /// Answers each request of a topic that `pattern` matches with what `handler` returns. Where its last attempt fails, or panics, or a hook rejects the request, who asked is told
    /// why (`RequestError::Failed`). A request for which nobody waits any more is not handled, and an attempt that would come too late is not waited for. While the
    /// breaker is open no request is taken: other responders may have it.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// let bus = busway::Bus::open("example-of-reply-handlers")?;
    /// let service = bus
    ///     .service("shop")
    ///     .reply("shop.price", |request| match &request[..] {
    ///         b"apple" => Ok("42"),
    ///         _ => Err("no such thing"),
    ///     })
    ///     .concurrency(4)
    ///     .start()?;
    /// let requester = bus.requester("shop.price").open()?;
    /// assert_eq!(&requester.request(b"apple", Duration::from_secs(5))?[..], b"42");
    /// assert_eq!(service.close(Duration::from_secs(1)).handlers[0].handled, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reply<R, E>(
        mut self,
        pattern: &str,
        handler: impl Fn(&Message<'_>) -> Result<R, E> + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        R: AsRef<[u8]> + Send + 'static,
        E: fmt::Display,
    {
        let call: Call = Box::new(move |message| reply_of(handler(message)));
        self.add(Origin::Requests(Box::new(self.bus.responder(pattern))), Order::None, Handle::Call(call));
        HandlerBuilder { service: self }
    }

    /// As [`ServiceBuilder::on`], with a handler that is a future: a [`Driver`] runs it, on whichever executor there is ([`HandlerBuilder::drive`]).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::pin::pin;
    /// # use std::sync::{Arc, mpsc};
    /// # use std::task::{Context, Poll, Wake, Waker};
    /// # use std::time::Duration;
    /// # struct Unpark(std::thread::Thread);
    /// # impl Wake for Unpark {
    /// #     fn wake(self: Arc<Self>) { self.0.unpark(); }
    /// # }
    /// # fn block_on(future: impl Future<Output = ()>) {
    /// #     let (mut future, waker) = (pin!(future), Waker::from(Arc::new(Unpark(std::thread::current()))));
    /// #     while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() { std::thread::park(); }
    /// # }
    /// let bus = busway::Bus::open("example-of-async-handlers")?;
    /// let mut publisher = bus.publisher("orders.new").open()?;
    /// let (sender, receiver) = mpsc::channel();
    /// let (service, driver) = bus
    ///     .service("billing")
    ///     .on_async("orders.>", move |order| {
    ///         let sender = sender.clone();
    ///         async move { sender.send(order.to_vec()).map_err(|error| error.to_string()) }
    ///     })
    ///     .concurrency(100)
    ///     .drive()?;
    /// let runs = std::thread::spawn(move || block_on(driver));
    /// publisher.send(b"17 apples")?;
    /// assert_eq!(receiver.recv_timeout(Duration::from_secs(5))?, b"17 apples");
    /// assert_eq!(service.close(Duration::from_secs(1)).handlers[0].handled, 1);
    /// # runs.join().expect("it does not panic");
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_async<A, F>(
        mut self,
        pattern: &str,
        handler: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        A: Answer + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        let handle = handle_async(handler, made);
        self.add(Origin::Pattern(pattern.to_owned()), Order::Topic, handle);
        HandlerBuilder { service: self }
    }

    /// As [`ServiceBuilder::pull`], with a handler that is a future.
    pub fn pull_async<A, F>(
        mut self,
        puller: PullerBuilder,
        handler: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        A: Answer + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        let handle = handle_async(handler, made);
        self.add(Origin::Group(Box::new(puller)), Order::None, handle);
        HandlerBuilder { service: self }
    }

    /// As [`ServiceBuilder::reply`], with a handler that is a future.
    pub fn reply_async<R, E, F>(
        mut self,
        pattern: &str,
        handler: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        R: AsRef<[u8]> + Send + 'static,
        E: fmt::Display + 'static,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        let handle = handle_async(handler, reply_of);
        self.add(Origin::Requests(Box::new(self.bus.responder(pattern))), Order::None, handle);
        HandlerBuilder { service: self }
    }

    fn add(&mut self, origin: Origin, order: Order, handle: Handle) {
        self.handlers.push(Handler {
            origin,
            handle,
            policy: Policy::default(),
            history: 0,
            duplicates: None,
            concurrency: 1,
            order,
            retry: Retry::default(),
            breaker: None,
            slow: Duration::from_millis(SERVICE_SLOW_MS_DEFAULT),
        });
    }

    fn check(&self) -> Result<(), Error> {
        let range = |what: &str, most: u32| {
            Error::new(Code::BadSetting, format!("{what} must be 1 to {most}"))
                .at(format!("service {}", self.name.escape_debug()))
                .remedy("take a number in that range")
        };
        check_process_name(&self.name).map_err(|error| {
            Error::new(Code::BadSetting, error.to_string())
                .at("the name of a service")
                .remedy("use 1 to 64 bytes without control characters")
        })?;
        if self.handlers.len() > SERVICE_HANDLERS_MAX {
            return Err(range("the number of handlers", SERVICE_HANDLERS_MAX as u32));
        }
        if self.workers.is_some_and(|workers| workers == 0 || workers > SERVICE_WORKERS_MAX) {
            return Err(range("workers", SERVICE_WORKERS_MAX));
        }
        let concurrency = |handler: &Handler| (1..=SERVICE_CONCURRENCY_MAX).contains(&handler.concurrency);
        if !self.handlers.iter().all(concurrency) {
            return Err(range("concurrency", SERVICE_CONCURRENCY_MAX));
        }
        Ok(())
    }

    /// Opens what the handlers read, and divides them between workers and a driver.
    fn open(self) -> Result<(Service, Driver), Error> {
        self.check()?;
        let (bus, name) = (self.bus, self.name);
        let called = |handler: &&Handler| matches!(handler.handle, Handle::Call(_));
        let hands = self.handlers.iter().filter(called).map(|handler| handler.concurrency);
        let together = hands.fold(0, u32::saturating_add);
        let workers =
            if together == 0 { 0 } else { self.workers.unwrap_or(together.min(SERVICE_WORKERS_MAX)) };
        let hooks: Arc<[Hook]> = self.hooks.into();
        let dead_letters = match &self.dead_letters {
            Some(topic) => Some(Arc::new(DeadLetters::open(&bus, topic)?)),
            None => None,
        };
        let (mut called, mut driven) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        let mut places = Vec::with_capacity(self.handlers.len());
        for handler in self.handlers {
            let (desk, plan) = handler.open(&bus, &name, &hooks, dead_letters.as_ref())?;
            let (of, place): (_, fn(usize) -> Place) = match desk.handle {
                Handle::Call(_) => (&mut called, Place::Workers),
                Handle::Future(_) => (&mut driven, Place::Driver),
            };
            places.push(place(of.0.len()));
            of.0.push(desk);
            of.1.push(plan);
        }
        let driver = Driver::new(driven.0, Schedule::new(driven.1), bus.core.clone());
        let pool = Pool::start(&name, called.0, Schedule::new(called.1), workers as usize)?;
        let board = driver.board();
        Ok((Service { pool, board, places, name, linger: self.linger, core: bus.core }, driver))
    }
}

/// The handle of a handler that is a future.
fn handle_async<A, F>(
    handler: impl Fn(Received) -> F + Send + Sync + 'static,
    made: fn(A) -> Result<Option<Bytes>, String>,
) -> Handle
where
    A: 'static,
    F: Future<Output = A> + Send + 'static,
{
    let call: CallAsync = Box::new(move |message| {
        let future = handler(message);
        Box::pin(async move { made(future.await) })
    });
    Handle::Future(call)
}

impl Handler {
    fn open(
        self,
        bus: &Bus,
        name: &str,
        hooks: &Arc<[Hook]>,
        dead_letters: Option<&Arc<DeadLetters>>,
    ) -> Result<(Desk, Plan), Error> {
        let share = match self.origin {
            Origin::Pattern(_) => Share::Own,
            Origin::Group(_) | Origin::Requests(_) => Share::Shared,
        };
        // With one hand nothing needs to wait beside it, and what a puller has others do not get.
        let parked = if self.concurrency == 1 || share == Share::Shared { 1 } else { SERVICE_PARKED_MAX };
        let holds = self.concurrency.saturating_add(parked as u32).clamp(15, HOLDS_MAX);
        let (intake, seed) = match self.origin {
            Origin::Pattern(pattern) => {
                let subscriber = bus.subscriber(&pattern).policy(self.policy).history(self.history);
                let subscriber = match self.duplicates {
                    Some(ids) => subscriber.drop_duplicates(ids),
                    None => subscriber,
                };
                let subscriber = subscriber.holds(holds).open()?;
                let seed = subscriber.id().0;
                (Intake::Subscriber(Box::new(subscriber)), seed)
            }
            Origin::Group(puller) => {
                let puller = match self.duplicates {
                    Some(ids) => puller.drop_duplicates(ids),
                    None => *puller,
                };
                let puller = puller.holds(holds).open()?;
                let seed = puller.id().0;
                (Intake::Puller(Box::new(puller)), seed)
            }
            Origin::Requests(responder) => {
                let responder = responder.holds(holds).open()?;
                let seed = responder.id().0;
                (Intake::Responder(Box::new(responder)), seed)
            }
        };
        let concurrency = self.concurrency as usize;
        let plan = Plan { concurrency, parked_max: parked, order: self.order, share };
        let desk = Desk {
            handle: self.handle,
            hooks: hooks.clone(),
            retry: self.retry.or_seed(seed),
            breaker: self.breaker.map(Mutex::new),
            intake: Mutex::new(Some(intake)),
            dead_letters: dead_letters.cloned(),
            ports: bus.core.ports.clone(),
            pace: Pace::new(self.slow),
            name: name.to_owned(),
        };
        Ok((desk, plan))
    }
}

/// How a service is made, and its latest handler.
#[must_use = "a service is made by `start`"]
#[derive(Debug)]
pub struct HandlerBuilder {
    service: ServiceBuilder,
}

impl HandlerBuilder {
    fn set(mut self, set: impl FnOnce(&mut Handler)) -> Self {
        if let Some(handler) = self.service.handlers.last_mut() {
            set(handler);
        }
        self
    }

    /// How many messages this handler has in hand at once, 1 to 1 024: those that it is called with and those that wait for their
    /// next attempt. Default 1.
    pub fn concurrency(self, messages: u32) -> Self {
        self.set(|handler| handler.concurrency = messages)
    }

    /// Whether messages of one topic come one after the other. Default: they do, but those of a puller do not. A puller that is asked for it takes none of a topic of which it has one
    /// in hand: others of the group may have it, and here it waits for nobody.
    pub fn order(self, order: Order) -> Self {
        self.set(|handler| handler.order = order)
    }

    /// What happens when this handler is slow. Default: the oldest messages are lost, and counted. Of a puller nothing is lost for that.
    pub fn policy(self, policy: Policy) -> Self {
        self.set(|handler| handler.policy = policy)
    }

    /// Messages from before the start, as far as publishers still have them. Default 0.
    pub fn history(self, messages: u64) -> Self {
        self.set(|handler| handler.history = messages)
    }

    /// Drops what comes again, by its id, as [`SubscriberBuilder::drop_duplicates`](crate::SubscriberBuilder::drop_duplicates) and
    /// [`PullerBuilder::drop_duplicates`] say. The attempts of this handler at one message are none. Default: everything is handled.
    pub fn drop_duplicates(self, ids: u32) -> Self {
        self.set(|handler| handler.duplicates = Some(ids))
    }

    /// How often a message whose handling failed is tried again. Default: not at all. Meanwhile others of its topic wait, unless
    /// [`Order::None`] was asked for.
    pub fn retry(self, retry: Retry) -> Self {
        self.set(|handler| handler.retry = retry)
    }

    /// Leaves this handler alone for a while when it fails again and again. Default: it is always called. While the breaker is open no shared work is taken, so that it stays
    /// where another of the group may have it; what was taken before goes back, or waits where it cannot. An attempt at what was published is refused; what
    /// was refused at each is given up ([`HandlerAccount::unhandled`]).
    pub fn breaker(self, breaker: Breaker) -> Self {
        self.set(|handler| handler.breaker = Some(breaker))
    }

    /// A call of the handler that takes longer is counted ([`HandlerAccount::slow`]) and logged, at most one a second, with what 99 of a hundred calls take. Default 1 s.
    pub fn slow_after(self, bound: Duration) -> Self {
        self.set(|handler| handler.slow = bound)
    }

    /// Another handler, with a subscriber of its own: a message that both match comes to both.
    pub fn on<A: Answer>(
        self,
        pattern: &str,
        handler: impl Fn(&Message<'_>) -> A + Send + Sync + 'static,
    ) -> HandlerBuilder {
        self.service.on(pattern, handler)
    }

    /// Another handler, as [`ServiceBuilder::pull`].
    pub fn pull<A: Answer>(
        self,
        puller: PullerBuilder,
        handler: impl Fn(&Message<'_>) -> A + Send + Sync + 'static,
    ) -> HandlerBuilder {
        self.service.pull(puller, handler)
    }

    /// Another handler, as [`ServiceBuilder::reply`].
    pub fn reply<R, E>(
        self,
        pattern: &str,
        handler: impl Fn(&Message<'_>) -> Result<R, E> + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        R: AsRef<[u8]> + Send + 'static,
        E: fmt::Display,
    {
        self.service.reply(pattern, handler)
    }

    /// Another handler, as [`ServiceBuilder::on_async`].
    pub fn on_async<A, F>(
        self,
        pattern: &str,
        handler: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        A: Answer + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        self.service.on_async(pattern, handler)
    }

    /// Another handler, as [`ServiceBuilder::pull_async`].
    pub fn pull_async<A, F>(
        self,
        puller: PullerBuilder,
        handler: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        A: Answer + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        self.service.pull_async(puller, handler)
    }

    /// Another handler, as [`ServiceBuilder::reply_async`].
    pub fn reply_async<R, E, F>(
        self,
        pattern: &str,
        handler: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        R: AsRef<[u8]> + Send + 'static,
        E: fmt::Display + 'static,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.service.reply_async(pattern, handler)
    }

    /// As [`HandlerBuilder::start`], with handlers that are futures: they run while the [`Driver`] is polled, which is for the program to spawn. The other handlers have
    /// their workers, as ever.
    ///
    /// # Errors
    /// As [`HandlerBuilder::start`].
    pub fn drive(self) -> Result<(Service, Driver), Error> {
        self.service.open()
    }

    /// Subscribes and starts the workers.
    ///
    /// # Errors
    /// A setting out of its range, or a handler that is a future, which nobody would drive ([`Code::BadSetting`]); a thread that cannot be started ([`Code::ThreadRefused`]); and as
    /// [`SubscriberBuilder::open`](crate::SubscriberBuilder::open).
    pub fn start(self) -> Result<Service, Error> {
        let later = |handler: &Handler| matches!(handler.handle, Handle::Future(_));
        if self.service.handlers.iter().any(later) {
            return Err(Error::new(Code::BadSetting, "nobody drives the handlers that are futures")
                .at(format!("service {}", self.service.name.escape_debug()))
                .remedy("call drive instead of start, and spawn the driver"));
        }
        self.service.open().map(|(service, _)| service)
    }
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
