//! Which worker does what next: it reads a subscriber, handles a message, or waits.
//!
//! Each handler has a desk. A message is taken from its subscriber only when the desk has a hand free for it, and waits
//! here (parked) while another of its topic is in hand. One that failed and is to be tried again keeps its hand, so that
//! what waits for its time is bounded like what runs. It knows no threads, no clock and no ports: workers ask, and tell.
//!
//! Invariants, checked step by step in the tests:
//! - of one desk no more messages are in hand than its concurrency, and no more parked than it has room for;
//! - with [`Order::Topic`] no two messages of one topic are in hand, and they come into hands in the order in which they were read;
//! - one worker reads a subscriber at a time;
//! - `received = handled + failed + rejected + dropped + in hand + parked`.

use std::collections::VecDeque;

use busway_protocol::{Attempts, Time};

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
/// `received = handled + failed + rejected + dropped + in_hand + parked`, at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerAccount {
    /// Taken from the subscriber.
    pub received: u64,
    /// The handler was done with them.
    pub handled: u64,
    /// Their last attempt failed.
    pub failed: u64,
    /// Of those that failed, those that were published as dead letters. With [`dead_letters`](super::ServiceBuilder::dead_letters)
    /// `failed = buried + unburied`.
    pub buried: u64,
    /// Of those that failed, those that could not be published as dead letters, or were dead letters themselves.
    pub unburied: u64,
    /// A hook refused them, or panicked over them.
    pub rejected: u64,
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
}

/// How the work on a message ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Handled,
    Failed,
    Rejected,
}

/// A message with what is known of its handling.
#[derive(Debug)]
pub(super) struct Job<M> {
    pub(super) message: M,
    /// Of its topic. Two topics with the same are handled one after the other, which harms nobody.
    pub(super) topic: u64,
    pub(super) attempts: Attempts,
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

/// How a desk works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desk {
    pub(super) concurrency: usize,
    pub(super) parked_max: usize,
    pub(super) order: Order,
}

#[derive(Debug)]
struct State<M> {
    desk: Desk,
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
        self.in_hand.len() < self.desk.concurrency
    }

    fn is_free(&self, topic: u64) -> bool {
        self.desk.order == Order::None || !self.in_hand.contains(&topic)
    }

    fn idle(&self) -> bool {
        let looks = self.reading || self.ready || self.look_at.is_some();
        self.in_hand.is_empty() && self.parked.is_empty() && (self.ended || !looks)
    }

    fn is_to_be_read(&self) -> bool {
        self.ready && !self.reading && !self.ended && self.parked.len() < self.desk.parked_max
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
    pub(super) fn new(desks: impl IntoIterator<Item = Desk>) -> Self {
        let state = |desk: Desk| State {
            desk,
            in_hand: Vec::with_capacity(desk.concurrency),
            parked: VecDeque::with_capacity(desk.parked_max),
            waiting: Vec::new(),
            ready: true,
            reading: false,
            look_at: None,
            ended: false,
            account: HandlerAccount::default(),
        };
        Self { desks: desks.into_iter().map(state).collect(), turn: 0, stage: Stage::Open }
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

    /// The subscriber of this desk was read.
    pub(super) fn read(&mut self, at: usize, read: Read<M>) {
        let closed = self.stage == Stage::Closed;
        let Some(desk) = self.desks.get_mut(at) else { return };
        // An earlier time to look is met by this look. One that stayed while all hands are full would be waited for without end.
        (desk.reading, desk.look_at) = (false, None);
        match read {
            Read::Message(job) => {
                desk.ready = true;
                desk.account.received += 1;
                if closed {
                    desk.account.dropped += 1;
                } else {
                    desk.parked.push_back(job);
                }
            }
            Read::Nothing => {}
            Read::Again => desk.ready = true,
            Read::Later(time) => desk.look_at = Some(time),
            Read::End => desk.ended = true,
        }
    }

    /// What was handled is done with.
    pub(super) fn done(&mut self, at: usize, topic: u64, outcome: Outcome) {
        let Some(desk) = self.desks.get_mut(at) else { return };
        if let Some(place) = desk.in_hand.iter().position(|known| *known == topic) {
            desk.in_hand.swap_remove(place);
        }
        if desk.look_at.take().is_some() {
            desk.ready = true;
        }
        match outcome {
            Outcome::Handled => desk.account.handled += 1,
            Outcome::Failed => desk.account.failed += 1,
            Outcome::Rejected => desk.account.rejected += 1,
        }
    }

    /// What was handled is to be tried again at this time; it keeps its hand.
    pub(super) fn again(&mut self, at: usize, job: Job<M>, due: Time) {
        let closed = self.stage == Stage::Closed;
        let Some(desk) = self.desks.get_mut(at) else { return };
        if closed {
            desk.account.dropped += 1;
            if let Some(place) = desk.in_hand.iter().position(|known| *known == job.topic) {
                desk.in_hand.swap_remove(place);
            }
        } else {
            desk.account.retried += 1;
            desk.waiting.push((due, job));
        }
    }

    /// Counts what happened on the way.
    pub(super) fn count(&mut self, at: usize, count: impl FnOnce(&mut HandlerAccount)) {
        if let Some(desk) = self.desks.get_mut(at) {
            count(&mut desk.account);
        }
    }

    /// From now on it is over as soon as nothing is there.
    pub(super) fn drain(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Draining;
            self.desks.iter_mut().for_each(|desk| desk.ready = true);
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
