//! Which reply answers which request.
//!
//! A table of the requests under way, by correlation, and what came for each. Correlations are counted from a random start and not used
//! again, so a reply that comes late finds nothing. The first reply binds a request to its responder: another that answers it too is a stranger,
//! and so is who answers first a request that it has not taken, as the claim of the request says.
//!
//! Whatever a responder sends, it is given to the request whose correlation it bears, or counted. What is kept for requests that nobody asks for
//! an answer is bounded, in number and in bytes.
//!
//! Before it is sent a request has a place among those under way. There are no more places than a lane has slots, and before one is given beyond that what lies in the
//! lanes is taken in: so the one reply to a request is never lost in its lane, however late it is asked for. Nor here: its place among the kept is its own.
//!
//! It does not wait, and does not know claims.
//!
//! Invariants: a request that has ended takes no reply, and ends once. `open` counts those that have a place and have not ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar};

use busway_protocol::Pass;
use busway_wire::limits::{
    LANE_BYTES_MAX, LANE_SLOTS_MAX, REPLIES_KEPT_MAX, REQUESTS_UNREAD_MAX, WORK_TAKEN_IN_BYTES_MAX,
};
use busway_wire::{Kind, PortId, ProcessId, ReplyHead, ReplyState};

use super::guard::Guard;
use super::outcome::{Reply, RequestError};
use super::watch::Watched;
use crate::sample::Sample;
use crate::subscriber::Subscriber;

/// Replies that were given to no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Strays {
    /// Those to requests that had ended.
    pub late: u64,
    /// Those that had come before.
    pub duplicate: u64,
    /// What is no reply, or answers no request of this requester, or comes from another than who answers it.
    pub foreign: u64,
    /// Lost in the lanes of this requester because it did not take them in time.
    pub lost: u64,
    /// Lost here because too many were kept for requests that nobody asked for an answer.
    pub dropped: u64,
}

/// One request under way.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Its place in the ring; 0 until it was sent.
    pub(super) sequence: u64,
    /// Whether it has its place among those under way.
    placed: bool,
    replies: VecDeque<Reply>,
    bytes: usize,
    from: Option<PortId>,
    next: u32,
    pub(super) end: Option<Result<(), RequestError>>,
    /// Leave of the breaker, until it has ended.
    pub(super) pass: Option<Pass>,
    /// What had been lost in the lanes when it was sent.
    lost_before: u64,
    /// By whom it was answered, as its claim says, and since when it says so.
    done: Option<(Option<ProcessId>, u64)>,
    /// By when it is up, where it is watched.
    pub(super) until_ns: Option<u64>,
    /// Of who waits for another to receive its reply; made when somebody does.
    woken: Option<Arc<Condvar>>,
}

impl Asked {
    /// For how long it has been done, as its claim says, by the same one or by one who is gone.
    pub(super) fn done_for_ns(&mut self, by: Option<ProcessId>, now_ns: u64) -> u64 {
        let known = self.done.filter(|(known, _)| *known == by);
        let (_, since_ns) = *self.done.insert(known.unwrap_or((by, now_ns)));
        now_ns.saturating_sub(since_ns)
    }

    /// Whether it has ended, and nothing is kept for it.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some() && self.replies.is_empty()
    }
}

/// What a request has for who asked.
#[derive(Debug)]
pub(super) enum Got {
    Reply(Reply),
    /// All replies were taken.
    Over,
    Failed(RequestError),
    Nothing,
}

#[derive(Debug)]
pub(super) struct Inbox {
    /// `None` while somebody leads.
    pub(super) subscriber: Option<Subscriber>,
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) watched: Watched,
    pub(super) guard: Guard,
    /// Who waits and does not lead.
    sleeping: BTreeSet<u64>,
    first: u64,
    next: u64,
    kept: usize,
    kept_bytes: usize,
    strays: Strays,
    lanes: usize,
    /// Requests under way at most, and how many are.
    places: u32,
    open: u32,
    /// Who waits for a place.
    placeless: BTreeSet<u64>,
    /// Requests whose last reply may lie in a lane unseen.
    unseen: u32,
}

impl Inbox {
    pub(super) fn new(subscriber: Subscriber, guard: Guard, start: u64, places: u32) -> Self {
        // The upper half is far away: what is counted from here never comes round.
        let first = start >> 1;
        Self {
            subscriber: Some(subscriber),
            asked: BTreeMap::new(),
            watched: Watched::default(),
            guard,
            sleeping: BTreeSet::new(),
            first: first.max(1),
            next: first.max(1),
            kept: 0,
            kept_bytes: 0,
            strays: Strays::default(),
            lanes: 0,
            places,
            open: 0,
            placeless: BTreeSet::new(),
            unseen: 0,
        }
    }

    /// A request begins: its correlation, and whether it has its place already. Refused where replies to too many are unread, or the breaker has opened.
    pub(super) fn begin(&mut self, pass: Option<Pass>) -> Result<(u64, bool), RequestError> {
        let pass = self.guard.renew(pass)?;
        if self.asked.len() >= REQUESTS_UNREAD_MAX || self.kept_bytes as u64 > LANE_BYTES_MAX {
            self.guard.settle(pass, None);
            return Err(RequestError::TooMany);
        }
        let correlation = self.next;
        self.next += 1;
        let placed = self.open < self.places && self.unseen < LANE_SLOTS_MAX && self.placeless.is_empty();
        let mut asked = Asked { pass, ..Asked::default() };
        if placed {
            self.take_place(&mut asked);
        } else {
            self.placeless.insert(correlation);
        }
        self.asked.insert(correlation, asked);
        Ok((correlation, placed))
    }

    fn take_place(&mut self, asked: &mut Asked) {
        asked.placed = true;
        asked.lost_before = self.strays.lost;
        self.open += 1;
        self.unseen += 1;
    }

    /// Whether the next in turn for a place is this one, and there is one.
    fn may_be_placed(&self, correlation: u64) -> bool {
        self.open < self.places && self.placeless.first() == Some(&correlation)
    }

    /// Gives a request its place, if there is one for it.
    pub(super) fn place(&mut self, correlation: u64) -> bool {
        if !self.may_be_placed(correlation) {
            return false;
        }
        let Some(mut asked) = self.asked.remove(&correlation) else { return false };
        self.take_place(&mut asked);
        self.asked.insert(correlation, asked);
        self.placeless.pop_first();
        // There may be one for the next as well.
        self.call_placeless();
        true
    }

    /// Whether one more reply than are there might find its lane full: what lies in the lanes is taken in before this request gets its place.
    pub(super) fn must_drain(&self, correlation: u64) -> bool {
        self.unseen >= LANE_SLOTS_MAX && self.may_be_placed(correlation)
    }

    /// So much is kept for requests that nobody asks for an answer that who asks for another host takes no more.
    pub(super) fn has_enough(&self) -> bool {
        self.kept_bytes as u64 > WORK_TAKEN_IN_BYTES_MAX
    }

    /// Nothing lies in the lanes that was published before this.
    pub(super) fn is_drained(&mut self) {
        self.unseen = self.open;
    }

    /// Whether somebody waits for a place.
    pub(super) fn has_placeless(&self) -> bool {
        !self.placeless.is_empty()
    }

    fn call_placeless(&mut self) {
        if let Some(next) = self.placeless.first().copied().filter(|_| self.open < self.places) {
            self.rouse(next);
        }
    }

    /// Wakes who waits for this request and does not lead, if somebody does: to notify a condition is a call of the kernel, also where nobody
    /// waits.
    fn rouse(&mut self, correlation: u64) {
        if !self.sleeping.is_empty()
            && self.sleeping.remove(&correlation)
            && let Some(woken) = self.asked.get(&correlation).and_then(|asked| asked.woken.as_ref())
        {
            woken.notify_all();
        }
    }

    /// A request that had a place needs it no more.
    fn give_place(&mut self, placed: bool) {
        if placed {
            self.open -= 1;
            self.call_placeless();
        }
    }

    /// It is sent as the message of this sequence; 0: it is not yet.
    pub(super) fn is_sent(&mut self, correlation: u64, sequence: u64) {
        if let Some(asked) = self.asked.get_mut(&correlation) {
            asked.sequence = sequence;
        }
    }

    pub(super) fn get(&mut self, correlation: u64) -> Option<&mut Asked> {
        self.asked.get_mut(&correlation)
    }

    /// Nobody wants the replies of this request any more. Returns it.
    pub(super) fn forget(&mut self, correlation: u64) -> Option<Asked> {
        let mut asked = self.asked.remove(&correlation)?;
        // What has not ended says nothing, also where an answer was begun: of a stream the last counts.
        self.guard.settle(asked.pass.take(), asked.end.as_ref());
        self.watched.forget(correlation, &asked);
        asked.replies.iter().for_each(|reply| self.watched.took(&asked, reply));
        self.kept -= asked.replies.len();
        self.kept_bytes -= asked.bytes;
        self.sleeping.remove(&correlation);
        if self.placeless.remove(&correlation) {
            self.call_placeless();
        }
        self.give_place(asked.placed && asked.end.is_none());
        Some(asked)
    }

    /// The requests that were sent and have not ended, with their places in the ring.
    pub(super) fn open(&self) -> Vec<(u64, u64)> {
        let open = self.asked.iter().filter(|(_, asked)| asked.end.is_none() && asked.sequence > 0);
        open.map(|(correlation, asked)| (*correlation, asked.sequence)).collect()
    }

    /// The next of what this request has.
    pub(super) fn take(&mut self, correlation: u64) -> Got {
        let Some(asked) = self.asked.get_mut(&correlation) else { return Got::Over };
        if let Some(reply) = asked.replies.pop_front() {
            asked.bytes -= reply.len();
            self.kept -= 1;
            self.kept_bytes -= reply.len();
            self.watched.took(asked, &reply);
            return Got::Reply(reply);
        }
        self.watched.has_nothing(correlation);
        match &asked.end {
            None => Got::Nothing,
            Some(Ok(())) => Got::Over,
            Some(Err(error)) => Got::Failed(error.clone()),
        }
    }

    /// Whether this request has something, or its end.
    pub(super) fn has(&self, correlation: u64) -> bool {
        self.asked.get(&correlation).is_none_or(|asked| {
            !asked.replies.is_empty()
                || asked.end.is_some()
                || !asked.placed && self.may_be_placed(correlation)
        })
    }

    /// Ends a request, if it has not ended.
    pub(super) fn end(&mut self, correlation: u64, end: Result<(), RequestError>) {
        let Some(asked) = self.asked.get_mut(&correlation) else { return };
        let ends = asked.placed && asked.end.is_none();
        let end = asked.end.get_or_insert(end);
        self.guard.settle(asked.pass.take(), Some(end));
        self.watched.tell(correlation, asked);
        self.rouse(correlation);
        self.give_place(ends);
    }

    /// Takes a message of a lane in. `for_whom` is who leads, and takes its reply where it lies. `is_its` says whether the request of this sequence is with this
    /// source.
    pub(super) fn route(&mut self, sample: Sample, for_whom: u64, is_its: impl FnOnce(u64, PortId) -> bool) {
        let (correlation, source) = (sample.correlation(), sample.source());
        let head = ReplyHead::split(&sample).map(|(index, state, payload)| (index, state, payload.len()));
        let Some((index, state, bytes)) = head.filter(|_| sample.kind() == Kind::Reply) else {
            self.strays.foreign += 1;
            return;
        };
        let Some(asked) = self.asked.get_mut(&correlation) else {
            // It was ours, or we never asked.
            if (self.first..self.next).contains(&correlation) {
                self.strays.late += 1;
            } else {
                self.strays.foreign += 1;
            }
            return;
        };
        if asked.from.map_or_else(|| !is_its(asked.sequence, source), |from| from != source) {
            self.strays.foreign += 1;
            return;
        }
        asked.from = Some(source);
        if index < asked.next {
            self.strays.duplicate += 1;
            return;
        }
        if asked.end.is_some() {
            self.strays.late += 1;
            return;
        }
        if index > asked.next {
            // What was between was lost: a stream with a hole is none.
            asked.next = u32::MAX;
            return self.end(correlation, Err(RequestError::ReplyLost));
        }
        // The first is kept whatever others have: there are no more requests than there is room for.
        let follows = asked.next > 0 && self.kept >= REPLIES_KEPT_MAX;
        let full = follows || self.kept_bytes as u64 > LANE_BYTES_MAX;
        if full && matches!(state, ReplyState::Part | ReplyState::Last) {
            self.strays.dropped += 1;
            asked.next = u32::MAX;
            return self.end(correlation, Err(RequestError::ReplyLost));
        }
        asked.next += 1;
        let end = match state {
            ReplyState::Part => None,
            ReplyState::Last => Some(Ok(())),
            ReplyState::Failed => {
                let why = ReplyHead::split(&sample).map_or_else(Vec::new, |(_, _, why)| why.to_vec());
                Some(Err(RequestError::Failed(why)))
            }
            ReplyState::Unanswered => Some(Err(RequestError::Unanswered)),
            ReplyState::Died => Some(Err(RequestError::ResponderDied)),
        };
        if matches!(state, ReplyState::Part | ReplyState::Last) {
            let reply = Reply::there(sample, index, state == ReplyState::Last);
            // What waits, for another or behind another, must not keep the memory of its responder.
            let taken_now = correlation == for_whom && asked.replies.is_empty();
            let reply = if taken_now || self.watched.shows(asked, &reply) { reply } else { reply.copied() };
            asked.replies.push_back(reply);
            asked.bytes += bytes;
            self.kept += 1;
            self.kept_bytes += bytes;
        }
        let ends = asked.placed && end.is_some();
        asked.end = end;
        if asked.end.is_some() {
            self.guard.settle(asked.pass.take(), asked.end.as_ref());
        }
        self.watched.tell(correlation, asked);
        self.rouse(correlation);
        self.give_place(ends);
    }

    /// Whether nothing was lost in the lanes since this request was sent.
    pub(super) fn has_lost_nothing(&self, correlation: u64) -> bool {
        self.asked.get(&correlation).is_some_and(|asked| asked.lost_before == self.strays.lost)
    }

    /// Messages of the lanes that were not taken in time.
    pub(super) fn lose(&mut self, count: u64) {
        self.strays.lost = self.strays.lost.saturating_add(count);
    }

    /// The request waits for somebody else to receive its reply: what it sleeps on.
    pub(super) fn sleep(&mut self, correlation: u64) -> Option<Arc<Condvar>> {
        let asked = self.asked.get_mut(&correlation)?;
        self.sleeping.insert(correlation);
        Some(asked.woken.get_or_insert_default().clone())
    }

    pub(super) fn wake(&mut self, correlation: u64) {
        self.sleeping.remove(&correlation);
    }

    /// The lead is free: somebody else who waits takes it.
    pub(super) fn hand_on(&mut self, subscriber: Subscriber) {
        self.lanes = subscriber.publishers();
        self.subscriber = Some(subscriber);
        self.call();
    }

    /// Wakes one who waits, if nobody leads. Whoever was woken and leaves without having led calls the next.
    pub(super) fn call(&self) {
        if self.subscriber.is_none() {
            return;
        }
        let next = self.sleeping.first().and_then(|next| self.asked.get(next)?.woken.as_ref());
        match next {
            Some(woken) => woken.notify_all(),
            None => self.watched.wake(),
        }
    }

    pub(super) fn under_way(&self) -> usize {
        self.open as usize
    }

    pub(super) fn strays(&self) -> Strays {
        self.strays
    }

    pub(super) fn lanes(&self) -> usize {
        self.subscriber.as_ref().map_or(self.lanes, Subscriber::publishers)
    }
}
