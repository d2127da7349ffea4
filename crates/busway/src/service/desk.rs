//! One handler with what belongs to it: what it reads, hooks, breaker, retries, and what becomes of a message after each attempt.
//!
//! Of what is shared with others nothing is taken that could not be tried: the breaker is asked first, and while it lets nobody through the work stays where another
//! may have it. What was taken before that goes back. What was published is for this handler alone: there an attempt that is refused is over, and
//! what was refused at each of them is not handled, which is no failure of the handler.
//!
//! It knows neither threads nor futures: who calls the handler tells how that ended.
//!
//! Invariant: what panics in a handler or a hook ends nothing but the attempt.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use busway_protocol::{Breaker, Ended, Pass, Refused, Retry, Time};
use busway_shm::counters::Event;
use busway_wire::DeadReason;

use super::dead_letters::DeadLetters;
use super::intake::{Intake, Over, Taken};
use super::pace::Pace;
use super::schedule::{HandlerAccount, Job, Outcome, Read, Schedule};
use super::{Hook, Message, Received, now, text_of};
use crate::log::Line;
use crate::outcome::RecvError;
use crate::ports::{PortTable, lock};
use crate::puller::topic_number;
use crate::sample::Sample;

/// While a subscriber holds as much as it may, it is looked at so often, in nanoseconds, if nothing is done meanwhile.
const HOLDS_NS: u64 = 10_000_000;

/// What a handler answers: bytes for who asked; nothing where nobody did.
pub(super) type Bytes = Box<dyn AsRef<[u8]> + Send>;
/// What a handler made of a message.
pub(super) type Made = Result<Option<Bytes>, String>;
/// What makes something of a message.
pub(super) type Call = Box<dyn Fn(&Message<'_>) -> Made + Send + Sync>;
/// What makes something of a message later.
pub(super) type CallAsync = Box<dyn Fn(Received) -> Later + Send + Sync>;
pub(super) type Later = Pin<Box<dyn Future<Output = Made> + Send>>;

/// A handler.
pub(super) enum Handle {
    /// A worker calls it.
    Call(Call),
    /// A driver polls what it returns.
    Future(CallAsync),
}

/// See the head of this file.
pub(super) struct Desk {
    pub(super) handle: Handle,
    pub(super) hooks: Arc<[Hook]>,
    pub(super) retry: Retry,
    pub(super) breaker: Option<Mutex<Breaker>>,
    pub(super) intake: Mutex<Option<Intake>>,
    pub(super) dead_letters: Option<Arc<DeadLetters>>,
    pub(super) ports: Arc<PortTable>,
    pub(super) pace: Pace,
    pub(super) name: String,
}

/// How one attempt ended.
pub(super) enum Attempt {
    Well(Option<Bytes>),
    /// Nobody waits for what comes of it any more.
    Expired,
    Failed(String),
    Panicked(String),
    /// The breaker lets nobody through before this time.
    Refused(Time),
    Rejected {
        panicked: bool,
        reason: String,
    },
}

/// What becomes of a message.
enum Fate {
    /// It is over.
    Over(Outcome),
    /// Another attempt follows.
    Again(Job<Taken>, Time),
    /// It was not tried, and is looked at then.
    Later(Job<Taken>, Time),
}

/// What became of a message, to be told to the schedule.
pub(super) struct End {
    topic: u64,
    fate: Fate,
    /// What it adds to the account.
    adds: HandlerAccount,
}

impl End {
    /// Tells the schedule. What comes too late is handed out to be let go.
    pub(super) fn tell(self, schedule: &mut Schedule<Taken>, at: usize) -> Option<Job<Taken>> {
        let Self { topic, fate, adds } = self;
        schedule.count(at, |account| {
            account.panicked += adds.panicked;
            account.refused += adds.refused;
            account.late += adds.late;
            account.buried += adds.buried;
            account.unburied += adds.unburied;
            account.hooks_panicked += adds.hooks_panicked;
            account.expired += adds.expired;
        });
        match fate {
            Fate::Over(outcome) => {
                schedule.done(at, topic, outcome);
                None
            }
            Fate::Again(job, due) => schedule.again(at, job, due),
            Fate::Later(job, due) => schedule.later(at, job, due),
        }
    }
}

impl Attempt {
    /// How a call ended.
    pub(super) fn of(made: std::thread::Result<Made>) -> Attempt {
        match made {
            Ok(Ok(answer)) => Attempt::Well(answer),
            Ok(Err(reason)) => Attempt::Failed(reason),
            Err(panic) => Attempt::Panicked(text_of(panic)),
        }
    }
}

impl Desk {
    /// The next message, if one is there; else `waker` is told when one may be. Of `busy` topics others are to have it.
    pub(super) fn read(&self, busy: Vec<u64>, waker: &Waker) -> Read<Taken> {
        let mut place = lock(&self.intake);
        let Some(intake) = place.as_mut() else { return Read::End };
        let pass = match intake.is_shared().then(|| self.admit()) {
            Some(Err(refused)) => {
                intake.rest();
                return Read::Later(refused.until);
            }
            Some(Ok(pass)) => pass,
            None => None,
        };
        let polled = intake.poll(busy, waker);
        if let Poll::Ready(Ok(taken)) = polled {
            return Read::Message(self.job(taken, pass));
        }
        self.forgo(pass);
        match polled {
            Poll::Pending | Poll::Ready(Ok(_)) => Read::Nothing,
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

    fn job(&self, message: Taken, pass: Option<Pass>) -> Job<Taken> {
        let sample = message.sample();
        let attempts = self.retry.begin(sample.source().0 ^ sample.sequence());
        let topic = topic_number(sample.topic());
        Job { topic, attempts, asked: false, called: false, pass, message }
    }

    /// From now on only what has come is read.
    pub(super) fn end_here(&self) {
        if let Some(intake) = lock(&self.intake).as_mut() {
            intake.end_here();
        }
    }

    /// Leave of the breaker, where there is one.
    fn admit(&self) -> Result<Option<Pass>, Refused> {
        self.breaker.as_ref().map(|breaker| lock(breaker).admit(now())).transpose()
    }

    /// Nothing was tried with it.
    fn forgo(&self, pass: Option<Pass>) {
        if let Some((breaker, pass)) = self.breaker.as_ref().zip(pass) {
            lock(breaker).forgo(pass);
        }
    }

    /// Asks the hooks, where they were not asked yet, and the breaker.
    pub(super) fn begin(&self, job: &mut Job<Taken>) -> Result<Option<Pass>, Attempt> {
        let pass = job.pass.take();
        if job.message.is_cancelled() {
            self.forgo(pass);
            return Err(Attempt::Expired);
        }
        if !job.asked
            && let Err(rejected) = self.ask(&Message::of(job))
        {
            self.forgo(pass);
            return Err(rejected);
        }
        job.asked = true;
        // It may have opened since the message was taken.
        let holds = |pass: &Pass| self.breaker.as_ref().is_some_and(|breaker| lock(breaker).holds(pass));
        let pass = match pass.filter(holds) {
            Some(pass) => Some(pass),
            None => self.admit().map_err(|refused| Attempt::Refused(refused.until))?,
        };
        job.called = true;
        Ok(pass)
    }

    fn ask(&self, message: &Message<'_>) -> Result<(), Attempt> {
        for hook in self.hooks.iter() {
            match catch_unwind(AssertUnwindSafe(|| hook(message))) {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => return Err(Attempt::Rejected { panicked: false, reason }),
                Err(panic) => return Err(Attempt::Rejected { panicked: true, reason: text_of(panic) }),
            }
        }
        Ok(())
    }

    /// Calls the handler with it once.
    pub(super) fn attempt(&self, job: &mut Job<Taken>) -> Attempt {
        // Nobody's where the message belongs to no trace.
        let span = job.message.sample().span();
        let _under_way = span.enter();
        let pass = match self.begin(job) {
            Ok(pass) => pass,
            Err(ended) => return ended,
        };
        let Handle::Call(call) = &self.handle else {
            self.forgo(pass);
            return Attempt::Failed("nobody drives it".to_owned());
        };
        let began = self.called();
        let attempt = Attempt::of(catch_unwind(AssertUnwindSafe(|| call(&Message::of(job)))));
        self.returned(job.message.sample(), began, pass, &attempt);
        attempt
    }

    /// The handler is called.
    pub(super) fn called(&self) -> Time {
        self.ports.raise(Event::HandlersRunning);
        now()
    }

    /// The handler has returned.
    pub(super) fn returned(&self, sample: &Sample, began: Time, pass: Option<Pass>, attempt: &Attempt) {
        self.ports.lower(Event::HandlersRunning);
        if let Some(slow) = self.pace.took(Duration::from_nanos(now().since(began))) {
            self.tell(&[(Event::HandlerSlow, true)]);
            self.ports.warn(Line::Slow, || {
                let (name, topic) = (&self.name, sample.topic().escape_debug());
                format!("service {name}: topic {topic}: {slow}")
            });
        }
        if let Some((breaker, pass)) = self.breaker.as_ref().zip(pass) {
            let ended = if matches!(attempt, Attempt::Well(_)) { Ended::Well } else { Ended::Badly };
            lock(breaker).settle(now(), pass, ended);
        }
    }

    /// The handler will not return.
    pub(super) fn abandoned(&self) {
        self.ports.lower(Event::HandlersRunning);
    }

    /// What becomes of a message after an attempt; acknowledges, gives back and buries.
    pub(super) fn judge(&self, mut job: Job<Taken>, attempt: Attempt) -> End {
        let topic = job.topic;
        let mut adds = HandlerAccount::default();
        let (dead, reason) = match attempt {
            Attempt::Well(answer) => {
                // The message is let go before the next of its topic comes into hand, and without the lock.
                let answer = answer.as_ref().map_or(&[][..], |answer| (**answer).as_ref());
                self.over(job.message.done(answer), &mut adds);
                self.tell(&[(Event::Handled, true)]);
                return End { topic, fate: Fate::Over(Outcome::Handled), adds };
            }
            Attempt::Expired => {
                drop(job);
                self.over(Over::Expired, &mut adds);
                return End { topic, fate: Fate::Over(Outcome::Expired), adds };
            }
            Attempt::Rejected { panicked, reason } => {
                self.say(&job, if panicked { "a hook panicked" } else { "a hook rejected it" }, &reason);
                adds.hooks_panicked = u64::from(panicked);
                self.over(job.message.failed(&format!("rejected: {reason}")), &mut adds);
                self.tell(&[(Event::HandlerRejected, true)]);
                return End { topic, fate: Fate::Over(Outcome::Rejected), adds };
            }
            Attempt::Failed(reason) => (DeadReason::Error, reason),
            Attempt::Panicked(reason) => {
                self.tell(&[(Event::HandlerPanicked, true)]);
                adds.panicked = 1;
                (DeadReason::Panic, reason)
            }
            Attempt::Refused(until) => {
                self.tell(&[(Event::HandlerRefused, true)]);
                adds.refused = 1;
                if job.message.is_shared() {
                    return End { topic, fate: self.leave(job, until), adds };
                }
                (DeadReason::Breaker, "the breaker is open".to_owned())
            }
        };
        // Who asked need not wait for a breaker, nor for an attempt that comes too late.
        let too_late = |due: Time| {
            let rest = Duration::from_nanos(due.since(now()));
            dead == DeadReason::Breaker || job.message.remaining().is_some_and(|left| left <= rest)
        };
        let due = job.attempts.failed(now()).filter(|due| !(job.message.is_request() && too_late(*due)));
        let fate = match due {
            // Nothing was tried.
            Some(due) if dead == DeadReason::Breaker => Fate::Later(job, due),
            Some(due) => {
                self.tell(&[(Event::HandlerRetried, true)]);
                Fate::Again(job, due)
            }
            None => {
                let outcome = if job.called { Outcome::Failed } else { Outcome::Unhandled };
                self.give_up(job, dead, &reason, &mut adds);
                Fate::Over(outcome)
            }
        };
        End { topic, fate, adds }
    }

    /// Shared work that may not be tried now: another may have it, where it can be given back.
    fn leave(&self, job: Job<Taken>, until: Time) -> Fate {
        if !job.message.comes_again() {
            return Fate::Later(job, until);
        }
        self.tell(&[(Event::HandlerReturned, true)]);
        let begun = job.attempts.count() > 1;
        job.message.let_go(begun);
        Fate::Over(Outcome::Returned)
    }

    /// The last attempt has failed. Who asked is told why. What is among the dead letters need not come back; what is nowhere is given back, where that can be.
    fn give_up(&self, mut job: Job<Taken>, dead: DeadReason, reason: &str, adds: &mut HandlerAccount) {
        job.message.was_not_done();
        let (what, event) = if job.called {
            ("it failed", Event::HandlerFailed)
        } else {
            ("it was not handled", Event::HandlerUnhandled)
        };
        self.say(&job, what, reason);
        self.tell(&[(event, true)]);
        if job.message.is_request() {
            let why =
                if dead == DeadReason::Panic { format!("a panic: {reason}") } else { reason.to_owned() };
            return self.over(job.message.failed(&why), adds);
        }
        let buried = self.bury(&job, dead, reason);
        if buried == Some(true) {
            self.over(job.message.done(&[]), adds);
        }
        adds.buried = u64::from(buried == Some(true));
        adds.unburied = u64::from(buried == Some(false));
        self.tell(&[
            (Event::HandlerBuried, buried == Some(true)),
            (Event::HandlerUnburied, buried == Some(false)),
        ]);
    }

    /// Counts what the end of a message left to be said.
    fn over(&self, over: Over, adds: &mut HandlerAccount) {
        match over {
            Over::InTime => {}
            Over::Late => adds.late = 1,
            Over::Expired => adds.expired = 1,
            Over::Unsent(why) => {
                let name = &self.name;
                self.ports.warn(Line::Handler, || format!("service {name}: a reply was not sent: {why}"));
            }
        }
        self.tell(&[(Event::HandlerLate, adds.late > 0), (Event::HandlerExpired, adds.expired > 0)]);
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
