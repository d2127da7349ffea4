//! What is said of one handler of a service that is being made, and of the next.
//!
//! It opens nothing and checks nothing: the service does, when it starts.
//!
//! Invariant: what is set is set for the handler that was added last.

use std::fmt;
use std::time::Duration;

use busway_protocol::{Breaker, Retry};
use busway_wire::Policy;

use super::{Handler, ServiceBuilder};
use crate::error::{Code, Error};
use crate::puller::PullerBuilder;
use crate::service::desk::Handle;
use crate::service::{Answer, Driver, Message, Order, Received, Service};

/// How a service is made, and its latest handler.
#[must_use = "a service is made by `start`"]
#[derive(Debug)]
pub struct HandlerBuilder {
    pub(super) service: ServiceBuilder,
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
    /// was refused at each is given up ([`HandlerAccount::unhandled`](crate::service::HandlerAccount::unhandled)).
    pub fn breaker(self, breaker: Breaker) -> Self {
        self.set(|handler| handler.breaker = Some(breaker))
    }

    /// A call of the handler that takes longer is counted ([`HandlerAccount::slow`](crate::service::HandlerAccount::slow)) and logged, at most one a second, with what 99 of a hundred calls take. Default 1 s.
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
