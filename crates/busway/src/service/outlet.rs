//! What stands before a publisher or a pusher: hooks, retries, and a breaker.
//!
//! A message that was refused has no sequence and nobody saw it, so that trying it again makes no second one. Tried again is what
//! time can mend: a full ring, and memory that cannot be had. While a breaker is open nothing is tried.
//!
//! It has no thread: who sends waits, and not longer than its deadline or the bus lasts.
//!
//! Invariant: `asked = sent + rejected + refused + failed`.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::{Breaker, BreakerState, Ended, Retry, Time};
use busway_shm::clock::Deadline;
use busway_shm::counters::Event;
use busway_wire::{Context, Topic};

use super::{Answer, answered, now, text_of};
use crate::bus::{Bus, Core};
use crate::error::{Code, Error};
use crate::outcome::{SendError, Sent};
use crate::publisher::Publisher;
use crate::pusher::Pusher;

/// A pause is cut into such pieces, so that it ends with the bus.
const SLICE: Duration = Duration::from_millis(50);

/// What an outlet sends through.
#[derive(Debug)]
#[non_exhaustive]
pub enum Port {
    /// All subscribers get it.
    Publisher(Publisher),
    /// One puller of each group gets it.
    Pusher(Pusher),
}

impl From<Publisher> for Port {
    fn from(publisher: Publisher) -> Port {
        Port::Publisher(publisher)
    }
}

impl From<Pusher> for Port {
    fn from(pusher: Pusher) -> Port {
        Port::Pusher(pusher)
    }
}

impl Port {
    fn topic(&self) -> &Topic {
        match self {
            Port::Publisher(publisher) => publisher.topic(),
            Port::Pusher(pusher) => pusher.topic(),
        }
    }

    fn send(&mut self, message: &Outgoing<'_>, deadline: Deadline) -> Result<Sent, SendError> {
        let mut port = match self {
            Port::Publisher(publisher) => publisher.in_context(message.context),
            Port::Pusher(pusher) => pusher.in_context(message.context),
        };
        match deadline.remaining() {
            None => port.send(message.payload),
            Some(rest) => port.send_timeout(message.payload, rest),
        }
    }
}

/// What a hook is asked about. Derefs to the payload.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    topic: &'a Topic,
    context: Context<'a>,
    payload: &'a [u8],
}

impl<'a> Outgoing<'a> {
    /// Where it goes.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        self.topic
    }

    /// What it says beside its payload.
    #[must_use]
    pub fn context(&self) -> Context<'a> {
        self.context
    }
}

impl Deref for Outgoing<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.payload
    }
}

/// Why an outlet did not send.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutletError {
    /// A hook rejected it, or panicked, for this reason.
    Rejected(String),
    /// The breaker is open: nothing is tried before this time.
    Open(Time),
    /// It was refused, at the last attempt.
    Refused(SendError),
}

impl OutletError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            OutletError::Rejected(_) => Code::Rejected,
            OutletError::Open(_) => Code::BreakerOpen,
            OutletError::Refused(error) => error.code(),
        }
    }
}

impl From<OutletError> for Error {
    fn from(error: OutletError) -> Self {
        let remedy = match &error {
            OutletError::Refused(inner) => return inner.clone().into(),
            OutletError::Rejected(_) => "send what the hook lets through, or change the hook",
            OutletError::Open(_) => "try again after that time, and look at who is behind with busway info",
        };
        Error::new(error.code(), error.to_string()).at("send").remedy(remedy)
    }
}

impl fmt::Display for OutletError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutletError::Rejected(reason) => write!(f, "a hook rejected it: {reason}"),
            OutletError::Open(until) => {
                let rest = Duration::from_nanos(until.since(now()));
                write!(f, "sending failed again and again, and is tried next in {} ms", rest.as_millis())
            }
            OutletError::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OutletError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OutletError::Refused(error) => Some(error),
            OutletError::Rejected(_) | OutletError::Open(_) => None,
        }
    }
}

/// What became of the messages that an outlet was asked to send: `asked = sent + rejected + refused + failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutletAccount {
    /// Calls.
    pub asked: u64,
    /// They went out.
    pub sent: u64,
    /// A hook rejected them, or panicked over them.
    pub rejected: u64,
    /// The breaker was open.
    pub refused: u64,
    /// Their last attempt failed.
    pub failed: u64,
    /// Attempts that failed and were followed by another.
    pub retried: u64,
    /// Hooks that panicked.
    pub hooks_panicked: u64,
}

type SendHook = Box<dyn FnMut(&Outgoing<'_>) -> Result<(), String> + Send>;

/// A publisher or a pusher behind hooks, retries and a breaker. Made by [`Bus::outlet`].
pub struct Outlet {
    port: Port,
    hooks: Vec<SendHook>,
    retry: Retry,
    breaker: Option<Breaker>,
    gives_ids: bool,
    account: OutletAccount,
    core: Arc<Core>,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet")
            .field("port", &self.port)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// A publisher or a pusher of this bus behind hooks, retries and a breaker.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use busway::service::{Breaker, OutletError, Retry};
    ///
    /// let bus = busway::Bus::open("example-of-outlet")?;
    /// let mut subscriber = bus.subscriber("orders.new").open()?;
    /// let mut outlet = bus
    ///     .outlet(bus.publisher("orders.new").open()?)
    ///     .before_send(|order| if order.is_empty() { Err("an empty order") } else { Ok(()) })
    ///     .retry(Retry::times(3))
    ///     .breaker(Breaker::default());
    /// outlet.send(b"17 apples")?;
    /// assert_eq!(outlet.send(b""), Err(OutletError::Rejected("an empty order".to_owned())));
    /// assert_eq!(&subscriber.recv()?[..], b"17 apples");
    /// # Ok(())
    /// # }
    /// ```
    pub fn outlet(&self, port: impl Into<Port>) -> Outlet {
        Outlet {
            port: port.into(),
            hooks: Vec::new(),
            retry: Retry::default(),
            breaker: None,
            gives_ids: false,
            account: OutletAccount::default(),
            core: self.core.clone(),
        }
    }
}

impl Outlet {
    /// Asks `hook` about each message before it is sent, once and not with each attempt; hooks are asked in the order in which they
    /// were added. One that fails, or panics, rejects the message.
    #[must_use]
    pub fn before_send<A: Answer>(
        mut self,
        mut hook: impl FnMut(&Outgoing<'_>) -> A + Send + 'static,
    ) -> Self {
        self.hooks.push(Box::new(move |message| answered(hook(message))));
        self
    }

    /// How often a message that was refused for a full ring or for memory is tried again. Default: not at all.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Tries nothing for a while when sending fails again and again. Default: it is always tried.
    #[must_use]
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Gives each message that has no id one, before its first attempt: it is the same in all of them, and hooks see it.
    #[must_use]
    pub fn with_ids(mut self) -> Self {
        self.gives_ids = true;
        self
    }

    /// What is sent through what this returns bears this context, the same in each attempt. Who sends the same again, also
    /// from another process, gives it the same id.
    pub fn in_context<'a>(&'a mut self, context: Context<'a>) -> OutletInContext<'a> {
        OutletInContext { outlet: self, context }
    }

    /// Sends, in as many attempts as may be.
    ///
    /// # Errors
    /// [`OutletError`], with what [`Publisher::send`] or [`Pusher::send`] said at the last attempt.
    pub fn send(&mut self, payload: &[u8]) -> Result<Sent, OutletError> {
        self.deliver(Context::default(), payload, Deadline::never())
    }

    /// Sends, with all attempts and the pauses between them within `timeout`.
    ///
    /// # Errors
    /// As [`Outlet::send`].
    pub fn send_timeout(&mut self, payload: &[u8], timeout: Duration) -> Result<Sent, OutletError> {
        self.deliver(Context::default(), payload, Deadline::after(timeout))
    }

    /// What became of the messages.
    #[must_use]
    pub fn account(&self) -> OutletAccount {
        self.account
    }

    /// The state of its breaker; `None` where there is none.
    #[must_use]
    pub fn state(&self) -> Option<BreakerState> {
        self.breaker.as_ref().map(|breaker| breaker.state(now()))
    }

    /// The publisher or pusher.
    #[must_use]
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// The publisher or pusher, without what stands before it.
    #[must_use]
    pub fn into_port(self) -> Port {
        self.port
    }

    fn deliver(
        &mut self,
        context: Context<'_>,
        payload: &[u8],
        deadline: Deadline,
    ) -> Result<Sent, OutletError> {
        self.account.asked += 1;
        let topic = self.port.topic().clone();
        let asked = self.with_id(context).and_then(|context| {
            let message = Outgoing { topic: &topic, context, payload };
            self.ask(&message).map(|()| message)
        });
        let message = match asked {
            Ok(message) => message,
            Err(reason) => {
                self.account.rejected += 1;
                self.core.ports.count(Event::OutletRejected, 1);
                return Err(OutletError::Rejected(reason));
            }
        };
        let mut attempts = self.retry.begin(self.account.asked);
        loop {
            let pass = match self.breaker.as_mut().map(|breaker| breaker.admit(now())) {
                Some(Err(refused)) => {
                    self.account.refused += 1;
                    self.core.ports.count(Event::OutletRefused, 1);
                    return Err(OutletError::Open(refused.until));
                }
                Some(Ok(pass)) => Some(pass),
                None => None,
            };
            let sent = self.port.send(&message, deadline);
            // What the caller has to mend says nothing about the other side.
            let ended = if sent.as_ref().is_err_and(passes) { Ended::Badly } else { Ended::Well };
            if let (Some(breaker), Some(pass)) = (&mut self.breaker, pass) {
                breaker.settle(now(), pass, ended);
            }
            let error = match sent {
                Ok(sent) => {
                    self.account.sent += 1;
                    return Ok(sent);
                }
                Err(error) => error,
            };
            let due = if passes(&error) { attempts.failed(now()) } else { None };
            if let Some(due) = due
                && self.pause(due, deadline)
            {
                self.account.retried += 1;
                self.core.ports.count(Event::OutletRetried, 1);
                continue;
            }
            self.account.failed += 1;
            return Err(OutletError::Refused(if self.core.is_closed() { SendError::Closed } else { error }));
        }
    }

    /// The context with an id, where it is to have one and has none. Of a bus that is closed or inherited nothing is sent anyway.
    fn with_id<'a>(&self, context: Context<'a>) -> Result<Context<'a>, String> {
        if !self.gives_ids || context.id().is_some() || self.core.check().is_err() {
            return Ok(context);
        }
        let id = self.core.ids.next().map_err(|error| error.cause().to_owned())?;
        Ok(context.with_id(id))
    }

    fn ask(&mut self, message: &Outgoing<'_>) -> Result<(), String> {
        for hook in &mut self.hooks {
            match catch_unwind(AssertUnwindSafe(|| hook(message))) {
                Ok(answer) => answer?,
                Err(panic) => {
                    self.account.hooks_panicked += 1;
                    return Err(text_of(panic));
                }
            }
        }
        Ok(())
    }

    /// Waits until `due`; false where the deadline comes before that, or the bus was closed.
    fn pause(&self, due: Time, deadline: Deadline) -> bool {
        let pause = Duration::from_nanos(due.since(now()));
        // Without a thread for the control plane nobody moves the clock while we wait.
        let stepped = self.core.control.due_ns().is_some();
        if stepped || deadline.remaining().is_some_and(|rest| rest <= pause) {
            return false;
        }
        let until = Deadline::after(pause);
        while !self.core.is_closed() {
            if until.expired() {
                return true;
            }
            self.core.ports.wait_for(until, SLICE, || self.core.is_closed());
        }
        false
    }
}

/// An outlet whose next messages bear a context. Made by [`Outlet::in_context`].
#[derive(Debug)]
#[must_use = "it sends what it is given"]
pub struct OutletInContext<'a> {
    outlet: &'a mut Outlet,
    context: Context<'a>,
}

impl OutletInContext<'_> {
    /// As [`Outlet::send`].
    ///
    /// # Errors
    /// As [`Outlet::send`].
    pub fn send(&mut self, payload: &[u8]) -> Result<Sent, OutletError> {
        self.outlet.deliver(self.context, payload, Deadline::never())
    }

    /// As [`Outlet::send_timeout`].
    ///
    /// # Errors
    /// As [`Outlet::send`].
    pub fn send_timeout(&mut self, payload: &[u8], timeout: Duration) -> Result<Sent, OutletError> {
        self.outlet.deliver(self.context, payload, Deadline::after(timeout))
    }
}

/// Whether time can mend it.
fn passes(error: &SendError) -> bool {
    match error {
        SendError::Full(_) | SendError::Timeout(_) | SendError::OutOfMemory(_) => true,
        SendError::TooLarge { .. } | SendError::Encode(_) | SendError::Closed | SendError::Forked => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::{Deadline, Time, now, passes};
    use crate::bus::Bus;
    use crate::outcome::{Behind, SendError};

    #[test]
    fn only_what_time_can_mend_is_tried_again() {
        assert!(
            passes(&SendError::Full(Behind(Vec::new()))) && passes(&SendError::Timeout(Behind(Vec::new())))
        );
        assert!(!passes(&SendError::TooLarge { bytes: 2, most: 1 }));
        assert!(!passes(&SendError::Closed) && !passes(&SendError::Forked));
    }

    #[test]
    fn no_pause_outlasts_its_bus() {
        let directory = std::env::temp_dir().join(format!("busway-pause-{}", std::process::id()));
        let bus = Bus::builder().directory(&directory).open().expect("a bus");
        let outlet = bus.outlet(bus.publisher("jobs").open().expect("a publisher"));
        let (tell, told) = channel();
        let pauses = std::thread::spawn(move || {
            let hour = Time(now().0 + 3_600_000_000_000);
            tell.send(()).expect("the test waits");
            assert!(!outlet.pause(hour, Deadline::never()));
            tell.send(()).expect("the test waits");
        });
        let patience = Duration::from_secs(30);
        told.recv_timeout(patience).expect("it begins");
        bus.close();
        let ended = told.recv_timeout(patience);
        let _ = std::fs::remove_dir_all(&directory);
        ended.expect("it goes on pausing on a closed bus");
        pauses.join().expect("it says that it was cut short");
    }
}
