//! Which worker does what next: it reads a subscriber, handles a message, or waits.
//!
//! Each handler has a place here. A message is taken from its subscriber only when there is a hand free for it, and waits
//! here (parked) while another of its topic is in hand. One that failed and is to be tried again keeps its hand, so that
//! what waits for its time is bounded like what runs. It knows no threads, no clock and no ports: workers ask, and tell.
//!
//! Invariants, checked step by step in the tests:
//! - of one handler no more messages are in hand than its concurrency, and no more parked than it has room for;
//! - with [`Order::Topic`] no two messages of one topic are in hand, and they come into hands in the order in which they were read;
//! - one worker reads a subscriber at a time;
//! - what is shared with others is not read any more once it drains;
//! - `received = handled + failed + unhandled + rejected + returned + unwanted + dropped + in hand + parked`.

use std::collections::VecDeque;
use std::time::Duration;

use busway_protocol::{Attempts, Pass, Time};

/// Whether messages of one topic are handled one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Those of one topic one after the other, in order; others beside them.
    #[default]
    Topic,
    /// All beside each other.
    None,
}

/// What became of the messages of one handler.
///
/// `received = handled + failed + unhandled + rejected + returned + unwanted + dropped + in_hand + parked`, at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerAccount {
    /// Taken from the subscriber.
    pub received: u64,
    /// The handler was done with them.
    pub handled: u64,
    /// Their last attempt failed.
    pub failed: u64,
    /// The breaker was open at each attempt: they were given up, and the handler was never called with them.
    pub unhandled: u64,
    /// Of those that failed or were not handled, those that were published as dead letters. With
    /// [`dead_letters`](super::ServiceBuilder::dead_letters) `failed + unhandled = buried + unburied` of messages and work; requests are answered, and not published.
    pub buried: u64,
    /// Of those that failed or were not handled, those that could not be published as dead letters, or were dead letters themselves.
    pub unburied: u64,
    /// A hook refused them, or panicked over them.
    pub rejected: u64,
    /// Given back to the group because the breaker had opened: they come again, here or elsewhere.
    pub returned: u64,
    /// Requests for whose reply nobody waited any more when their turn came: the handler was not called.
    pub unwanted: u64,
    /// They waited when the service was closed and its time was up.
    pub dropped: u64,
    /// Being handled, or waiting for their next attempt.
    pub in_hand: u64,
    /// Waiting for one of the same topic.
    pub parked: u64,
    /// Attempts that failed and were followed by another.
    pub retried: u64,
    /// Attempts in which the handler panicked.
    pub panicked: u64,
    /// Attempts that the breaker refused: the handler was not called.
    pub refused: u64,
    /// Acknowledgements that came too late: another puller was given the message as well. Of pull handlers.
    pub late: u64,
    /// Hooks that panicked.
    pub hooks_panicked: u64,
    /// Replies for which nobody waited any more, the unwanted requests among them.
    pub expired: u64,
    /// Calls of the handler that took longer than [`slow_after`](super::HandlerBuilder::slow_after) says.
    pub slow: u64,
    /// Of a hundred calls of the handler 99 took no longer than this; up to twice as long as they did. Zero before the first.
    pub p99: Duration,
}

/// How the work on a message ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Handled,
    Failed,
    Unhandled,
    Rejected,
    Returned,
    Expired,
    Dropped,
}

/// A message with what is known of its handling.
#[derive(Debug)]
pub(super) struct Job<M> {
    pub(super) message: M,
    /// Of its topic. Two topics with the same are handled one after the other, which harms nobody.
    pub(super) topic: u64,
    pub(super) attempts: Attempts,
    /// The hooks have let it through: they are asked once, however often it is put off.
    pub(super) asked: bool,
    /// The handler was called with it.
    pub(super) called: bool,
    /// Leave of the breaker to try it, where that had to be had before it was taken.
    pub(super) pass: Option<Pass>,
}

/// What a worker is to do.
#[derive(Debug)]
pub(super) enum Work<M> {
    /// Read the subscriber of this desk once.
    Read(usize),
    /// Handle this message of this desk.
    Handle(usize, Job<M>),
    /// Wait until something changes, or until this time.
    Wait(Option<Time>),
    /// End.
    Over,
}

/// What reading a subscriber came to.
#[derive(Debug)]
pub(super) enum Read<M> {
    Message(Job<M>),
    /// Nothing is there; it tells when there is.
    Nothing,
    /// Look again at once.
    Again,
    /// Look again at this time, or when a hand becomes free.
    Later(Time),
    /// Nothing will come any more.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// What is there is still handled.
    Draining,
    Closed,
}

/// Whom messages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// For this handler: all that came is its.
    Own,
    /// For one of a group: what it does not take another gets.
    Shared,
}

/// How the work of one handler is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) concurrency: usize,
    pub(super) parked_max: usize,
    pub(super) order: Order,
    pub(super) share: Share,
}

#[derive(Debug)]
struct State<M> {
    plan: Plan,
    /// Topics of the messages in hand.
    in_hand: Vec<u64>,
    parked: VecDeque<Job<M>>,
    /// In hand, until their time comes.
    waiting: Vec<(Time, Job<M>)>,
    /// The subscriber may have something.
    ready: bool,
    reading: bool,
    look_at: Option<Time>,
    ended: bool,
    account: HandlerAccount,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Schedule<M> {
    desks: Vec<State<M>>,
    turn: usize,
    stage: Stage,
}

impl<M> State<M> {
    fn has_hand(&self) -> bool {
        self.in_hand.len() < self.plan.concurrency
    }

    fn is_free(&self, topic: u64) -> bool {
        self.plan.order == Order::None || !self.in_hand.contains(&topic)
    }

    fn idle(&self) -> bool {
        let looks = self.ready || self.look_at.is_some();
        // What is read now may bring one.
        let works = self.reading || !self.in_hand.is_empty() || !self.parked.is_empty();
        !works && (self.ended || !looks)
    }

    fn is_to_be_read(&self) -> bool {
        self.ready && !self.reading && !self.ended && self.parked.len() < self.plan.parked_max
    }

    fn due(&self) -> Option<Time> {
        let again = self.waiting.iter().map(|(due, _)| *due).min();
        match (again, self.look_at) {
            (Some(again), Some(look)) => Some(again.min(look)),
            (again, look) => again.or(look),
        }
    }

    /// The next thing to do at this desk, if there is any.
    fn next(&mut self, at: usize, now: Time) -> Option<Work<M>> {
        if let Some(place) = self.waiting.iter().position(|(due, _)| *due <= now) {
            return Some(Work::Handle(at, self.waiting.swap_remove(place).1));
        }
        if !self.has_hand() {
            return None;
        }
        if let Some(place) = self.parked.iter().position(|job| self.is_free(job.topic)) {
            let job = self.parked.remove(place)?;
            self.in_hand.push(job.topic);
            return Some(Work::Handle(at, job));
        }
        if self.look_at.is_some_and(|look| look <= now) {
            (self.ready, self.look_at) = (true, None);
        }
        self.is_to_be_read().then(|| {
            (self.ready, self.reading) = (false, true);
            Work::Read(at)
        })
    }
}

impl<M> Schedule<M> {
    pub(super) fn new(plans: impl IntoIterator<Item = Plan>) -> Self {
        let state = |plan: Plan| State {
            plan,
            in_hand: Vec::with_capacity(plan.concurrency),
            parked: VecDeque::with_capacity(plan.parked_max),
            waiting: Vec::new(),
            ready: true,
            reading: false,
            look_at: None,
            ended: false,
            account: HandlerAccount::default(),
        };
        Self { desks: plans.into_iter().map(state).collect(), turn: 0, stage: Stage::Open }
    }

    /// What a worker is to do now. Desks have their turns.
    pub(super) fn next(&mut self, now: Time) -> Work<M> {
        if self.stage == Stage::Closed {
            return Work::Over;
        }
        for step in 0..self.desks.len() {
            let at = (self.turn + step) % self.desks.len();
            if let Some(work) = self.desks[at].next(at, now) {
                self.turn = at + 1;
                return work;
            }
        }
        if self.desks.iter().all(|desk| desk.idle() && (desk.ended || self.stage == Stage::Draining)) {
            self.stage = Stage::Closed;
            return Work::Over;
        }
        Work::Wait(self.desks.iter().filter_map(State::due).min())
    }

    /// Whether another worker may have something to do, now or at a time that it has to wait for.
    pub(super) fn wants_another(&self) -> bool {
        let may = |desk: &State<M>| {
            let handles = desk.parked.iter().any(|job| desk.is_free(job.topic));
            desk.due().is_some() || (desk.has_hand() && (desk.is_to_be_read() || handles))
        };
        self.stage == Stage::Closed || self.desks.iter().any(may)
    }

    /// The subscriber of this desk may have something.
    pub(super) fn woken(&mut self, at: usize) {
        if let Some(desk) = self.desks.get_mut(at) {
            desk.ready = true;
        }
    }

    /// Topics of which nothing is to be read now: it would wait here, where another could have it.
    pub(super) fn busy(&self, at: usize) -> Vec<u64> {
        let keeps = |desk: &&State<M>| desk.plan.share == Share::Shared && desk.plan.order == Order::Topic;
        self.desks.get(at).filter(keeps).map_or_else(Vec::new, |desk| desk.in_hand.clone())
    }

    /// This desk was to be read, and was not.
    pub(super) fn unread(&mut self, at: usize) {
        if let Some(desk) = self.desks.get_mut(at) {
            (desk.ready, desk.reading) = (true, false);
        }
    }

    /// The subscriber of this desk was read. What came too late is handed out to be let go.
    pub(super) fn read(&mut self, at: usize, read: Read<M>) -> Option<Job<M>> {
        let stage = self.stage;
        let desk = self.desks.get_mut(at)?;
        // An earlier time to look is met by this look. One that stayed while all hands are full would be waited for without end.
        (desk.reading, desk.look_at) = (false, None);
        match read {
            Read::Message(job) => {
                desk.ready = true;
                desk.account.received += 1;
                if stage == Stage::Closed {
                    desk.account.dropped += 1;
                    return Some(job);
                }
                desk.parked.push_back(job);
            }
            // What came before it had to end was there to be found, unless the look began earlier than that.
            Read::Nothing => desk.ended |= stage == Stage::Draining && !desk.ready,
            Read::Again => desk.ready = true,
            Read::Later(time) => desk.look_at = Some(time),
            Read::End => desk.ended = true,
        }
        None
    }

    /// What was handled is done with.
    pub(super) fn done(&mut self, at: usize, topic: u64, outcome: Outcome) {
        let Some(desk) = self.desks.get_mut(at) else { return };
        if let Some(place) = desk.in_hand.iter().position(|known| *known == topic) {
            desk.in_hand.swap_remove(place);
        }
        if desk.look_at.take().is_some()
            || (desk.plan.share, desk.plan.order) == (Share::Shared, Order::Topic)
        {
            desk.ready = true;
        }
        match outcome {
            Outcome::Handled => desk.account.handled += 1,
            Outcome::Failed => desk.account.failed += 1,
            Outcome::Unhandled => desk.account.unhandled += 1,
            Outcome::Rejected => desk.account.rejected += 1,
            Outcome::Returned => desk.account.returned += 1,
            Outcome::Expired => desk.account.unwanted += 1,
            Outcome::Dropped => desk.account.dropped += 1,
        }
    }

    /// What was handled is to be tried again at this time; it keeps its hand.
    pub(super) fn again(&mut self, at: usize, job: Job<M>, due: Time) -> Option<Job<M>> {
        let late = self.later(at, job, due);
        if late.is_none() {
            self.count(at, |account| account.retried += 1);
        }
        late
    }

    /// As `again`, of what was not tried. What comes too late is handed out to be let go.
    pub(super) fn later(&mut self, at: usize, job: Job<M>, due: Time) -> Option<Job<M>> {
        let closed = self.stage == Stage::Closed;
        let desk = self.desks.get_mut(at)?;
        if !closed {
            desk.waiting.push((due, job));
            return None;
        }
        desk.account.dropped += 1;
        if let Some(place) = desk.in_hand.iter().position(|known| *known == job.topic) {
            desk.in_hand.swap_remove(place);
        }
        Some(job)
    }

    /// Counts what happened on the way.
    pub(super) fn count(&mut self, at: usize, count: impl FnOnce(&mut HandlerAccount)) {
        if let Some(desk) = self.desks.get_mut(at) {
            count(&mut desk.account);
        }
    }

    /// From now on it is over as soon as nothing is there. Of what others may have nothing more is read.
    pub(super) fn drain(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Draining;
            for desk in &mut self.desks {
                desk.ready = true;
                desk.ended |= desk.plan.share == Share::Shared;
            }
        }
    }

    /// Nothing begins any more. What waits is counted as dropped, and handed out to be let go.
    pub(super) fn close(&mut self) -> Vec<Job<M>> {
        self.stage = Stage::Closed;
        let mut left = Vec::new();
        for desk in &mut self.desks {
            let before = left.len();
            for (_, job) in desk.waiting.drain(..) {
                if let Some(place) = desk.in_hand.iter().position(|known| *known == job.topic) {
                    desk.in_hand.swap_remove(place);
                }
                left.push(job);
            }
            left.extend(desk.parked.drain(..));
            desk.account.dropped += (left.len() - before) as u64;
        }
        left
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// Messages that are being handled now.
    pub(super) fn running(&self) -> u64 {
        self.desks.iter().map(|desk| (desk.in_hand.len() - desk.waiting.len()) as u64).sum()
    }

    pub(super) fn account(&self, at: usize) -> HandlerAccount {
        self.desks.get(at).map_or_else(HandlerAccount::default, |desk| HandlerAccount {
            in_hand: desk.in_hand.len() as u64,
            parked: desk.parked.len() as u64,
            ..desk.account
        })
    }
}

#[cfg(test)]
mod tests;
