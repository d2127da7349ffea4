//! Many requests, one waker: for event loops, which cannot have a thread or a future wait for each.
//!
//! Requests that are *watched* are looked after together: who polls the requester receives for all of them, is told which have something, and is
//! woken when there may be more. Threads may wait for other requests of the same requester meanwhile; whoever leads puts what it receives
//! where it belongs, and rings.
//!
//! It has no clock of its own: it says when it is to be polled again whatever comes, which is when the next time is up or the claims are to be
//! looked at.
//!
//! Invariant: a watched request that has something, and was asked before in vain, is named by the next poll, which the waker is told of.

use std::collections::BTreeSet;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use busway_wire::Cause;

use super::inbox::{Asked, Inbox};
use super::outcome::{Reply, RequestError};
use super::pending::{DRAIN_MAX, Pending, WATCH_NS};
use super::{Requester, Shared, now_ns};
use crate::outcome::RecvError;
use crate::ports::lock;
use crate::subscriber::Subscriber;

/// Nobody: what is received is for whoever watches.
const NOBODY: u64 = 0;
/// Replies that wait for who watches, shown where they lie. What is beyond is copied: it must not keep all that a lane may hold.
const SHOWN_MAX: u32 = super::HOLDS / 2;
/// After so long a large reply is tried again for which too many others are held.
const AGAIN: Duration = Duration::from_millis(10);

/// The watched requests of a requester.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// By when they are up.
    until: BTreeSet<(u64, u64)>,
    /// Those that have something.
    ready: BTreeSet<u64>,
    /// Replies that are kept where they lie.
    shown: u32,
    /// Who polls.
    waker: Option<Waker>,
}

impl Watched {
    /// A watched request has something.
    pub(super) fn tell(&mut self, correlation: u64, asked: &Asked) {
        if asked.until_ns.is_some() && self.ready.insert(correlation) {
            self.wake();
        }
    }

    /// Nobody receives: who polls has to look.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.as_ref().filter(|_| !self.until.is_empty()) {
            waker.wake_by_ref();
        }
    }

    /// Whether a reply to this request may wait where it lies.
    pub(super) fn shows(&mut self, asked: &Asked, reply: &Reply) -> bool {
        let shows = asked.until_ns.is_some() && (!reply.is_held() || self.shown < SHOWN_MAX);
        self.shown += u32::from(shows && reply.is_held());
        shows
    }

    /// A reply that waited was taken, or is not wanted.
    pub(super) fn took(&mut self, asked: &Asked, reply: &Reply) {
        self.shown -= u32::from(asked.until_ns.is_some() && reply.is_held()).min(self.shown);
    }

    /// There is nothing for this request; `over`: nor will there be.
    pub(super) fn has_nothing(&mut self, correlation: u64) {
        self.ready.remove(&correlation);
    }

    /// It is asked for no more.
    pub(super) fn forget(&mut self, correlation: u64, asked: &Asked) {
        let Some(until_ns) = asked.until_ns else { return };
        self.until.remove(&(until_ns, correlation));
        self.ready.remove(&correlation);
    }
}

impl Inbox {
    fn watch(&mut self, correlation: u64, until_ns: u64) {
        let has = self.has(correlation);
        let Some(asked) = self.asked.get_mut(&correlation) else { return };
        asked.until_ns = Some(until_ns);
        self.watched.until.insert((until_ns, correlation));
        if has {
            self.watched.ready.insert(correlation);
        }
        // Who polls knows until when it need not.
        if has || self.watched.until.first() == Some(&(until_ns, correlation)) {
            self.watched.wake();
        }
    }

    /// Ends the watched requests whose time is up; those that were sent, with their places in the ring.
    fn expire(&mut self, now_ns: u64) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Some((until_ns, correlation)) = self.watched.until.first().copied() {
            if until_ns > now_ns {
                break;
            }
            self.watched.until.pop_first();
            let Some(asked) = self.asked.get(&correlation).filter(|asked| asked.end.is_none()) else {
                continue;
            };
            sent.push(asked.sequence);
            self.end(correlation, Err(RequestError::TimedOut));
        }
        sent
    }
}

impl Pending {
    /// Its number, by which [`Requester::poll_watched`] names it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.correlation
    }

    /// From now on [`Requester::poll_watched`] looks after it: that names it when it has something, and again after
    /// [`Pending::take`] has found nothing.
    pub fn watch(&self) {
        if !self.shared.core.own.forked() {
            lock(&self.shared.inbox).watch(self.correlation, self.deadline.at_ns().unwrap_or(u64::MAX));
        }
    }

    /// As [`Pending::try_recv`], of what was received: for one that is [watched](Pending::watch).
    ///
    /// # Errors
    /// As [`Pending::recv`].
    pub fn take(&mut self) -> Result<Option<Reply>, RequestError> {
        self.shared.check()?;
        let mut inbox = lock(&self.shared.inbox);
        let got = inbox.take(self.correlation);
        self.judge(inbox, got)
    }
}

impl Requester {
    /// Receives for the requests that are [watched](Pending::watch), adds those that have something to `ready`, and says after how long at most to
    /// be polled again. The waker is told when there may be more; it must not ask this requester while it is told.
    ///
    /// # Errors
    /// [`RequestError::Receive`]. The requests are what they were.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::task::{Context, Wake};
    /// # use std::time::Duration;
    /// # struct Unpark(std::thread::Thread);
    /// # impl Wake for Unpark { fn wake(self: std::sync::Arc<Self>) { self.0.unpark() } }
    /// let bus = busway::Bus::open("example-of-many-requests")?;
    /// let mut responder = bus.responder("double").open()?;
    /// let server = std::thread::spawn(move || {
    ///     for _ in 0..100 {
    ///         let request = responder.recv()?;
    ///         let doubled = [2 * request[0]];
    ///         request.reply(&doubled)?;
    ///     }
    ///     Ok::<_, busway::Error>(())
    /// });
    /// let requester = bus.requester("double").open()?;
    /// let mut pendings = std::collections::HashMap::new();
    /// for number in 0..100 {
    ///     let pending = requester.send(&[number], Duration::from_secs(5))?;
    ///     pending.watch();
    ///     pendings.insert(pending.id(), (number, pending));
    /// }
    /// let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    /// let (mut ready, mut answered) = (Vec::new(), 0);
    /// while answered < 100 {
    ///     let most = requester.poll_watched(&mut Context::from_waker(&waker), &mut ready)?;
    ///     for id in ready.drain(..) {
    ///         if let Some((number, pending)) = pendings.get_mut(&id) {
    ///             while let Some(reply) = pending.take()? {
    ///                 assert_eq!(reply[..], [2 * *number]);
    ///                 answered += 1;
    ///             }
    ///         }
    ///     }
    ///     if answered < 100 {
    ///         std::thread::park_timeout(most.unwrap_or(Duration::MAX));
    ///     }
    /// }
    /// # server.join().expect("it does not panic")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_watched(
        &self,
        context: &mut Context<'_>,
        ready: &mut Vec<u64>,
    ) -> Result<Option<Duration>, RequestError> {
        let shared = &*self.shared;
        shared.check()?;
        let mut inbox = lock(&shared.inbox);
        inbox.watched.waker = Some(context.waker().clone());
        let mut again = None;
        if let Some(mut subscriber) = inbox.subscriber.take() {
            drop(inbox);
            let received = shared.receive_watched(&mut subscriber, context);
            inbox = lock(&shared.inbox);
            // Who polls is here, and need not be woken for it.
            let waker = inbox.watched.waker.take();
            inbox.hand_on(subscriber);
            inbox.watched.waker = waker;
            match received {
                Ok(()) => {}
                Err(RequestError::Receive(RecvError::HoldsExhausted)) => again = Some(AGAIN),
                Err(error) => return Err(error),
            }
        }
        let now_ns = now_ns();
        let sent = inbox.expire(now_ns);
        ready.extend(std::mem::take(&mut inbox.watched.ready));
        let due_ns = inbox.watched.until.first().map(|(until_ns, _)| *until_ns);
        drop(inbox);
        for sequence in sent.into_iter().filter(|sequence| *sequence > 0) {
            shared.withdraw(sequence, Cause::Expired);
        }
        let due = due_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns).min(WATCH_NS)));
        Ok(due.map(|due| again.map_or(due, |again| due.min(again))))
    }
}

impl Shared {
    /// Takes what is there, looks at the claims where that is due, and has the waker told of what comes.
    fn receive_watched(
        &self,
        subscriber: &mut Subscriber,
        context: &mut Context<'_>,
    ) -> Result<(), RequestError> {
        let now_ns = now_ns();
        if self.is_due(now_ns) {
            self.look(subscriber, NOBODY, now_ns)?;
        }
        for _ in 0..DRAIN_MAX {
            match subscriber.poll(context) {
                Poll::Ready(Ok(sample)) => _ = self.route(subscriber, sample, NOBODY),
                Poll::Ready(Err(error)) => return Err(RequestError::Receive(error)),
                Poll::Pending => {
                    self.count(subscriber);
                    lock(&self.inbox).is_drained();
                    return Ok(());
                }
            }
        }
        context.waker().wake_by_ref();
        Ok(())
    }
}
