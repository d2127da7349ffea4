//! A request under way: who waits for it, and who receives for all who wait.
//!
//! The one that leads has the subscriber of the lanes; it gives it back when it has what it wants, and wakes another that waits. It looks at the
//! claims of all requests under way when a responder has gone, and a few times a second: first at the words, then at what lies in the lanes, and then it decides,
//! because a responder publishes its last reply before its word says so.
//!
//! Invariant: whoever has taken the subscriber gives it back.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use busway_shm::clock::{self, Deadline};
use busway_shm::counters::Event;
use busway_shm::seat::request::Standing;
use busway_shm::sync::Ordering;
use busway_wire::Cause;
use busway_wire::limits::{LANE_SLOTS_MAX, REPLY_MISSING_MS};

use super::inbox::{Got, Inbox};
use super::outcome::{Reply, RequestError};
use super::{Shared, now_ns};
use crate::ports::lock;
use crate::sample::Sample;
use crate::subscriber::Subscriber;

/// The claims are looked at so often, whatever is heard: a responder that closes is noticed then.
pub(super) const WATCH_NS: u64 = 250_000_000;
/// Who waits for another that leads looks so often whether there is one.
const SLEEP: Duration = Duration::from_secs(1);
/// Messages that are received before the claims are judged.
pub(super) const DRAIN_MAX: u32 = 4 * LANE_SLOTS_MAX;

/// A request under way. Its replies come until the last one; dropped before that, it is cancelled.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// let bus = busway::Bus::open("example-of-a-stream-of-replies")?;
/// let mut responder = bus.responder("count").open()?;
/// let server = std::thread::spawn(move || {
///     let mut request = responder.recv()?;
///     request.reply_part(b"one")?;
///     request.reply_part(b"two")?;
///     request.reply(b"three")?;
///     Ok::<_, busway::Error>(())
/// });
/// let requester = bus.requester("count").open()?;
/// let mut pending = requester.send(b"to three", Duration::from_secs(5))?;
/// let mut replies = Vec::new();
/// while let Some(reply) = pending.recv()? {
///     replies.push(String::from_utf8(reply.to_vec())?);
/// }
/// assert_eq!(replies, ["one", "two", "three"]);
/// # server.join().expect("it does not panic")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a request whose pending is dropped is cancelled"]
pub struct Pending {
    pub(super) shared: Arc<Shared>,
    pub(super) correlation: u64,
    sequence: u64,
    pub(super) deadline: Deadline,
}

impl Pending {
    pub(super) fn new(shared: Arc<Shared>, correlation: u64, deadline: Deadline) -> Self {
        Self { shared, correlation, sequence: 0, deadline }
    }

    pub(super) fn is_sent(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Waits for a place among the requests under way, and receives meanwhile.
    pub(super) fn take_place(&self, until: Deadline) -> Result<(), RequestError> {
        let shared = &*self.shared;
        let mut inbox = lock(&shared.inbox);
        loop {
            shared.check()?;
            if inbox.must_drain(self.correlation)
                && let Some(mut subscriber) = inbox.subscriber.take()
            {
                drop(inbox);
                let drained = shared.drain(&mut subscriber, self.correlation);
                inbox = lock(&shared.inbox);
                inbox.hand_on(subscriber);
                if !drained? && shared.spares && inbox.has_enough() {
                    return Err(RequestError::TooMany);
                }
                continue;
            }
            if inbox.place(self.correlation) {
                return Ok(());
            }
            if until.expired() {
                return Err(RequestError::TooMany);
            }
            inbox = self.serve(inbox, until)?;
        }
    }

    /// Waits for the next reply; `None` after the last.
    ///
    /// # Errors
    /// [`RequestError`]. No reply follows, but where nothing can be received for another reason than the request's.
    pub fn recv(&mut self) -> Result<Option<Reply>, RequestError> {
        self.wait(Deadline::never())
    }

    /// As [`Pending::recv`], at most `timeout`; `None` also when that is up. [`Pending::is_over`] tells.
    ///
    /// # Errors
    /// As [`Pending::recv`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Reply>, RequestError> {
        self.wait(Deadline::after(timeout))
    }

    /// As [`Pending::recv`], without waiting; `None` also where nothing is there yet. [`Pending::is_over`] tells.
    ///
    /// # Errors
    /// As [`Pending::recv`].
    pub fn try_recv(&mut self) -> Result<Option<Reply>, RequestError> {
        self.shared.check()?;
        let mut inbox = lock(&self.shared.inbox);
        if !inbox.has(self.correlation)
            && let Some(mut subscriber) = inbox.subscriber.take()
        {
            drop(inbox);
            let received = self.shared.receive(&mut subscriber, self.correlation);
            inbox = lock(&self.shared.inbox);
            inbox.hand_on(subscriber);
            received?;
        }
        let got = inbox.take(self.correlation);
        self.judge(inbox, got)
    }

    /// Whether all replies were taken, or there will be none. So it is in a child made by `fork`.
    #[must_use]
    pub fn is_over(&self) -> bool {
        if self.shared.core.own.forked() {
            return true;
        }
        lock(&self.shared.inbox).get(self.correlation).is_none_or(|asked| asked.is_over())
    }

    #[cfg(test)]
    pub(crate) fn correlation(&self) -> u64 {
        self.correlation
    }

    /// Its place in the ring of its requester.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What is left of its time.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.remaining()
    }

    fn wait(&mut self, until: Deadline) -> Result<Option<Reply>, RequestError> {
        let until = until.earlier(self.deadline);
        let shared = self.shared.clone();
        // Before the lock, which in a child made by `fork` may be taken for ever.
        shared.check()?;
        let mut inbox = lock(&shared.inbox);
        let mut served = false;
        loop {
            shared.check()?;
            let got = inbox.take(self.correlation);
            // What is there is taken before the clock is asked.
            if !matches!(got, Got::Nothing) || served && until.expired() {
                return self.judge(inbox, got);
            }
            inbox = self.serve(inbox, until)?;
            served = true;
        }
    }

    /// Leads, or waits for who does, until there is something for this request.
    fn serve<'a>(
        &'a self,
        mut inbox: MutexGuard<'a, Inbox>,
        until: Deadline,
    ) -> Result<MutexGuard<'a, Inbox>, RequestError> {
        let Some(mut subscriber) = inbox.subscriber.take() else { return Ok(self.sleep(inbox, until)) };
        drop(inbox);
        let led = self.shared.lead(&mut subscriber, self.correlation, until);
        let mut inbox = lock(&self.shared.inbox);
        inbox.hand_on(subscriber);
        led.map(|()| inbox)
    }

    /// Waits for who leads.
    fn sleep<'a>(&self, mut inbox: MutexGuard<'a, Inbox>, until: Deadline) -> MutexGuard<'a, Inbox> {
        let Some(woken) = inbox.sleep(self.correlation) else { return inbox };
        let most = until.remaining().unwrap_or(SLEEP).min(SLEEP);
        let waited = woken.wait_timeout(inbox, most);
        let (mut inbox, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        inbox.wake(self.correlation);
        // It leads, or what it has was put here by who led: then another has to.
        if inbox.has(self.correlation) || until.expired() || self.shared.core.is_closed() {
            inbox.call();
        }
        inbox
    }

    /// Whether it was sent and its time is up, and nobody has answered it: an answer that lies in a lane unseen is one.
    fn is_late(&self, inbox: &mut Inbox) -> bool {
        let waits = self.sequence > 0 && inbox.get(self.correlation).is_some_and(|asked| asked.end.is_none());
        waits
            && self.deadline.expired()
            && matches!(
                self.shared.ring.standing(self.sequence),
                Standing::Waiting | Standing::Taken(_) | Standing::Lost(Cause::Expired)
            )
    }

    /// What the caller is told.
    pub(super) fn judge(
        &self,
        mut inbox: MutexGuard<'_, Inbox>,
        got: Got,
    ) -> Result<Option<Reply>, RequestError> {
        match got {
            Got::Reply(reply) => Ok(Some(reply)),
            Got::Over => Ok(None),
            Got::Failed(error) => Err(error),
            Got::Nothing if self.deadline.expired() => {
                inbox.end(self.correlation, Err(RequestError::TimedOut));
                self.shared.tell_placeless(inbox);
                self.shared.withdraw(self.sequence, Cause::Expired);
                Err(RequestError::TimedOut)
            }
            Got::Nothing => Ok(None),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // A lock of the parent's may be taken for ever.
        if self.shared.core.own.forked() {
            return;
        }
        let mut inbox = lock(&self.shared.inbox);
        // Who asks no more when its time is up has waited for it.
        let late = self.is_late(&mut inbox);
        if late {
            inbox.end(self.correlation, Err(RequestError::TimedOut));
        }
        let asked = inbox.forget(self.correlation);
        self.shared.tell_placeless(inbox);
        if late {
            self.shared.withdraw(self.sequence, Cause::Expired);
        }
        // What was not sent was counted when it was refused.
        let Some(asked) = asked.filter(|_| self.sequence > 0) else { return };
        match asked.end {
            Some(end) => self.shared.count_end(&end),
            None => {
                self.shared.core.ports.count(Event::RequestCancelled, 1);
                self.shared.withdraw(self.sequence, Cause::Cancelled);
            }
        }
    }
}

impl Shared {
    /// A place may have come free: who leads and waits for one sleeps on the bell.
    fn tell_placeless(&self, inbox: MutexGuard<'_, Inbox>) {
        let waits = inbox.has_placeless() && inbox.subscriber.is_none();
        drop(inbox);
        if waits {
            self.core.ports.ring_bell(self.line);
        }
    }

    /// Receives for all who wait, until this request has something.
    fn lead(
        &self,
        subscriber: &mut Subscriber,
        correlation: u64,
        until: Deadline,
    ) -> Result<(), RequestError> {
        // What is there already needs no exact clock.
        if !self.is_due(clock::monotonic_coarse_ns())
            && let Some(sample) = subscriber.try_recv().map_err(RequestError::Receive)?
        {
            let has = self.route(subscriber, sample, correlation);
            self.count(subscriber);
            if has {
                return Ok(());
            }
        }
        loop {
            let now_ns = now_ns();
            if self.is_due(now_ns) {
                self.look(subscriber, correlation, now_ns)?;
            }
            if lock(&self.inbox).has(correlation) || until.expired_at(now_ns) {
                return Ok(());
            }
            let seen = self.seen.load(Ordering::Relaxed);
            let has = || lock(&self.inbox).has(correlation);
            let stop = || self.news.load(Ordering::Acquire) != seen || has(); // pairs with Release in `PortTable::tell_returned`
            let slice = until.earlier(Deadline::after_from(Duration::from_nanos(WATCH_NS), now_ns));
            let received = subscriber.recv_unless(slice, stop).map_err(RequestError::Receive)?;
            let has = received.is_some_and(|sample| self.route(subscriber, sample, correlation));
            self.count(subscriber);
            if has {
                return Ok(());
            }
        }
    }

    /// Takes what is there, and looks at the claims where that is due.
    fn receive(&self, subscriber: &mut Subscriber, correlation: u64) -> Result<(), RequestError> {
        let now_ns = now_ns();
        if self.is_due(now_ns) {
            return self.look(subscriber, correlation, now_ns);
        }
        self.drain(subscriber, correlation).map(|_| ())
    }

    /// Takes what is there; whether that was all.
    fn drain(&self, subscriber: &mut Subscriber, correlation: u64) -> Result<bool, RequestError> {
        for _ in 0..DRAIN_MAX {
            if self.spares && lock(&self.inbox).has_enough() {
                break;
            }
            match subscriber.try_recv() {
                Ok(Some(sample)) => _ = self.route(subscriber, sample, correlation),
                Ok(None) => {
                    self.count(subscriber);
                    lock(&self.inbox).is_drained();
                    return Ok(true);
                }
                Err(error) => return Err(RequestError::Receive(error)),
            }
        }
        Ok(false)
    }

    /// Gives a message of a lane to the request that it answers. Whether the request `correlation` has something now.
    pub(super) fn route(&self, subscriber: &Subscriber, sample: Sample, correlation: u64) -> bool {
        let is_its = |sequence, source| match self.ring.standing(sequence) {
            Standing::Waiting => false,
            Standing::Taken(process) => process.is_none() || process == subscriber.process_of(source),
            // Who had it may have gone, and another may have its place.
            Standing::Done(_) | Standing::Lost(_) => true,
        };
        let mut inbox = lock(&self.inbox);
        inbox.route(sample, correlation, is_its);
        inbox.has(correlation)
    }

    pub(super) fn count(&self, subscriber: &mut Subscriber) {
        let lost = subscriber.losses().iter().fold(0_u64, |sum, loss| sum.saturating_add(loss.count));
        if lost > 0 {
            lock(&self.inbox).lose(lost);
        }
    }

    /// Looks what became of the requests under way.
    pub(super) fn look(
        &self,
        subscriber: &mut Subscriber,
        correlation: u64,
        now_ns: u64,
    ) -> Result<(), RequestError> {
        let news = self.news.load(Ordering::Acquire); // pairs with Release in `PortTable::tell_returned`
        let open = lock(&self.inbox).open();
        let standings: Vec<_> = open.iter().map(|(_, sequence)| self.ring.standing(*sequence)).collect();
        let deserted = self.waits_until().is_some_and(|until| until.expired_at(now_ns));
        // What was published before a word said so is there by now.
        if !self.drain(subscriber, correlation)? {
            return Ok(());
        }
        self.looked_ns.store(now_ns, Ordering::Relaxed);
        self.seen.store(news, Ordering::Relaxed);
        let mut inbox = lock(&self.inbox);
        for ((correlation, sequence), standing) in open.into_iter().zip(standings) {
            let whole = inbox.has_lost_nothing(correlation);
            let Some(asked) = inbox.get(correlation).filter(|asked| asked.end.is_none()) else { continue };
            let error = match standing {
                Standing::Taken(_) => continue,
                Standing::Waiting if deserted && self.ring.withdraw(sequence, Cause::NoSubscriber) => {
                    RequestError::NoResponders
                }
                Standing::Waiting => continue,
                Standing::Done(by) => {
                    // It is there, and its lane is on its way to us: the reply is waited for as long as the request.
                    let comes = whole && by.is_some_and(|process| !subscriber.reads(process));
                    if comes || asked.done_for_ns(by, now_ns) < REPLY_MISSING_MS * 1_000_000 {
                        continue;
                    }
                    RequestError::ReplyLost
                }
                // The link to the host of who had it is lost: nobody there can be reached.
                Standing::Lost(Cause::PullerDied | Cause::LinkLost) => RequestError::ResponderDied,
                Standing::Lost(Cause::NoSubscriber) => RequestError::NoResponders,
                Standing::Lost(Cause::Expired) => RequestError::TimedOut,
                Standing::Lost(_) => RequestError::Unanswered,
            };
            inbox.end(correlation, Err(error));
        }
        Ok(())
    }
}
