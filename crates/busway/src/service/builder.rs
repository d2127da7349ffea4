//! How a service is made: its handlers, and what they share.
//!
//! A handler is where its messages come from and what is made of them; the six ways to say one differ in nothing else. It opens no port before `start` or `drive`.
//!
//! Invariant: a service that is opened has no handler that nobody calls: workers call those that return, a driver polls those that are futures.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_protocol::{Breaker, Retry};
use busway_wire::limits::{
    HOLDS_MAX, SERVICE_CONCURRENCY_MAX, SERVICE_HANDLERS_MAX, SERVICE_LINGER_MS_DEFAULT, SERVICE_PARKED_MAX,
    SERVICE_SLOW_MS_DEFAULT, SERVICE_WORKERS_MAX,
};
use busway_wire::{Policy, check_process_name};

use super::dead_letters::DeadLetters;
use super::desk::{Bytes, Desk, Handle, Made};
use super::driver::{Driver, Received};
use super::intake::Intake;
use super::pace::Pace;
use super::pool::Pool;
use super::schedule::{Order, Plan, Schedule, Share};
use super::{Answer, Hook, Message, Place, Service, answered};
use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::puller::PullerBuilder;
use crate::responder::ResponderBuilder;

mod handler;

pub use handler::HandlerBuilder;

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

impl Origin {
    /// Whether messages of one topic come one after the other, unless that is said.
    fn order(&self) -> Order {
        match self {
            Origin::Pattern(_) => Order::Topic,
            Origin::Group(_) | Origin::Requests(_) => Order::None,
        }
    }
}

/// What a handler makes of a message, where nobody asked.
fn made(answer: impl Answer) -> Made {
    answered(answer).map(|()| None)
}

/// What a handler answers who asked.
fn reply_of<R, E>(answer: Result<R, E>) -> Made
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

/// How a service is made. See [`Bus::service`] and the head of [this module](crate::service).
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
    /// the reason, and its whole payload, as a [`DeadLetter`](crate::service::DeadLetter). Default: it is counted, and its reason logged.
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
        self,
        pattern: &str,
        handler: impl Fn(&Message<'_>) -> A + Send + Sync + 'static,
    ) -> HandlerBuilder {
        self.add(Origin::Pattern(pattern.to_owned()), called(move |message| made(handler(message))))
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
        self,
        puller: PullerBuilder,
        handler: impl Fn(&Message<'_>) -> A + Send + Sync + 'static,
    ) -> HandlerBuilder {
        self.add(Origin::Group(Box::new(puller)), called(move |message| made(handler(message))))
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
        self,
        pattern: &str,
        handler: impl Fn(&Message<'_>) -> Result<R, E> + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        R: AsRef<[u8]> + Send + 'static,
        E: fmt::Display,
    {
        let responder = Box::new(self.bus.responder(pattern));
        self.add(Origin::Requests(responder), called(move |message| reply_of(handler(message))))
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
        self,
        pattern: &str,
        handler: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        A: Answer + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        self.add(Origin::Pattern(pattern.to_owned()), driven(handler, made))
    }

    /// As [`ServiceBuilder::pull`], with a handler that is a future.
    pub fn pull_async<A, F>(
        self,
        puller: PullerBuilder,
        handler: impl Fn(Received) -> F + Send + Sync + 'static,
    ) -> HandlerBuilder
    where
        A: Answer + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        self.add(Origin::Group(Box::new(puller)), driven(handler, made))
    }

    /// As [`ServiceBuilder::reply`], with a handler that is a future.
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
        let responder = Box::new(self.bus.responder(pattern));
        self.add(Origin::Requests(responder), driven(handler, reply_of))
    }

    /// Every handler is made here, whatever it is called by.
    fn add(mut self, origin: Origin, handle: Handle) -> HandlerBuilder {
        let order = origin.order();
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
        HandlerBuilder { service: self }
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

/// A handler that a worker calls.
fn called(handler: impl Fn(&Message<'_>) -> Made + Send + Sync + 'static) -> Handle {
    Handle::Call(Box::new(handler))
}

/// A handler that is a future, which a driver polls.
fn driven<A, F>(handler: impl Fn(Received) -> F + Send + Sync + 'static, made: fn(A) -> Made) -> Handle
where
    A: 'static,
    F: Future<Output = A> + Send + 'static,
{
    Handle::Future(Box::new(move |message| {
        let future = handler(message);
        Box::pin(async move { made(future.await) })
    }))
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
