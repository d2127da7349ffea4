//! Work of this host that is given to a peer: pulled here in the name of the peer's groups, and ended here as the peer says.
//!
//! For each pull of the peer there is a puller here, which takes as much as the peer is ready for and no more. What it took is its claim
//! until the peer has said what became of it, so that a task is one puller's at a time, whichever host that is on; the time for an
//! acknowledgement runs here. If the peer is gone, or was away for too long, what is to be acknowledged is given back and the rest is
//! lost with its link. A request ends with the link at once: its requester is told.
//!
//! It does not know links, nor what the peer does with a task.
//!
//! Invariant: a task that was given ends once: as the peer says, or when the peer is gone; what is said of it after that means nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use busway_protocol::Deed;
use busway_shm::clock;
use busway_shm::row::group;
use busway_wire::work::{End, Word};
use busway_wire::{
    Cause, Group, HEAD_BYTES, Kind, Pattern, PortId, ReplyHead, ReplyState, RequestHead, Topic, responders,
};

use super::Context;
use super::opener::{For, Wanted};
use crate::ports::Filter;
use crate::publisher::{Beside, Stamp};
use crate::puller::{Puller, PullerBuilder, Task};
use crate::responder::{Lane, To};

/// Pulls of a peer: as many groups and patterns as a host has at most, by far.
const PULLS_MAX: usize = 4_096;
/// Tasks of one pull that a peer has at a time: more than any host works on.
const GIVEN_MAX: u64 = 1_024;
/// Tasks of one pull that are given before others have their turn.
const TURN_MAX: usize = 64;
/// Bytes that wait for the peer, beyond which nothing more is pulled for it.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Whether somebody still waits for a request is looked at so often.
const CANCEL_NS: u64 = 20_000_000;
/// A puller that cannot be had is asked for again after so long.
const REFUSED_NS: u64 = 1_000_000_000;
/// What cannot be taken at the moment is tried again after so long.
const AGAIN_NS: u64 = 20_000_000;

/// One pull of the peer.
struct Giving {
    pattern: Pattern,
    group: Group,
    puller: Option<Puller>,
    /// Those that it had before, until what they took is over.
    former: Vec<Puller>,
    granted: u64,
    given: u64,
    under_way: u64,
    /// No puller can be had: when it is tried again.
    again_ns: Option<u64>,
    ending: bool,
}

/// A task that the peer has.
struct Given {
    pull: u32,
    claim: group::Task,
    /// Where to ring when it is given back.
    line: usize,
    acknowledges: bool,
    asked: Option<Asked>,
}

/// What a request is.
struct Asked {
    requester: PortId,
    correlation: u64,
    deadline_ns: u64,
    lane: Option<Arc<Lane>>,
    next: u32,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Near {
    pulls: BTreeMap<u32, Giving>,
    given: BTreeMap<u64, Given>,
    next: u64,
    looked_ns: u64,
}

impl Near {
    /// The peer's programs pull.
    pub(super) fn pull(&mut self, context: &Context<'_>, pull: u32, pattern: Pattern, group: Group) {
        // Of the groups that no user can name there is one, in which nothing is acknowledged.
        let name = group.name();
        if name.is_reserved() && (*name != responders() || group.acknowledge().is_some()) {
            return;
        }
        let known = self.pulls.get(&pull);
        let same =
            known.is_some_and(|known| known.pattern == pattern && known.group == group && !known.ending);
        if same || (known.is_none() && self.pulls.len() >= PULLS_MAX) {
            return;
        }
        let former = self
            .pulls
            .remove(&pull)
            .map_or_else(Vec::new, |known| known.former.into_iter().chain(known.puller).collect());
        let giving = Giving {
            pattern,
            group,
            puller: None,
            former,
            granted: 0,
            given: 0,
            under_way: 0,
            again_ns: None,
            ending: false,
        };
        open(context, pull, &giving);
        self.pulls.insert(pull, giving);
    }

    pub(super) fn unpull(&mut self, pull: u32) {
        if let Some(giving) = self.pulls.get_mut(&pull) {
            giving.ending = true;
            giving.former.extend(giving.puller.take().map(|mut puller| {
                puller.rest();
                puller
            }));
        }
    }

    pub(super) fn grant(&mut self, pull: u32, tasks: u64) {
        if let Some(giving) = self.pulls.get_mut(&pull) {
            let most = giving.given.saturating_add(GIVEN_MAX);
            giving.granted = giving.granted.max(tasks.min(most));
        }
    }

    /// A puller that was wanted is there.
    pub(super) fn opened(&mut self, pull: u32, mut puller: Puller) {
        match self.pulls.get_mut(&pull).filter(|giving| !giving.ending && giving.puller.is_none()) {
            Some(giving) => giving.puller = Some(puller),
            None => puller.rest(),
        }
    }

    /// A puller that was wanted cannot be had now.
    pub(super) fn refused(&mut self, pull: u32) {
        if let Some(giving) = self.pulls.get_mut(&pull).filter(|giving| giving.puller.is_none()) {
            giving.again_ns = Some(clock::monotonic_ns().saturating_add(REFUSED_NS));
        }
    }

    /// The peer may do something else than before: what is pulled for it is asked for anew.
    pub(super) fn permit(&mut self, context: &Context<'_>) {
        for (pull, giving) in self.pulls.iter_mut().filter(|(_, giving)| !giving.ending) {
            giving.former.extend(giving.puller.take().map(|mut puller| {
                puller.rest();
                puller
            }));
            open(context, *pull, giving);
        }
    }

    /// The peer says what became of a task.
    pub(super) fn over(&mut self, context: &Context<'_>, task: u64, end: End) {
        let Some(given) = self.take(task) else { return };
        match end {
            End::Done => drop(given.claim.done()),
            End::Lost(cause) => drop(given.claim.lose(cause)),
            End::Back { attempt } => {
                let attempt = attempt.max(given.claim.attempt());
                if given.claim.give_back_as(attempt) {
                    context.ports.ring_bell(given.line);
                }
            }
        }
    }

    /// A reply to a request of this host.
    pub(super) fn reply(&mut self, context: &Context<'_>, task: u64, index: u32, state: u8, payload: &[u8]) {
        let state = ReplyState::ALL.get(usize::from(state));
        let Some((Given { claim, asked: Some(asked), .. }, state)) = self.given.get_mut(&task).zip(state)
        else {
            return;
        };
        // What is no reply comes behind those that have come, however many are still on their way to the peer.
        let index = match state {
            ReplyState::Part | ReplyState::Last => index,
            ReplyState::Failed | ReplyState::Unanswered | ReplyState::Died => asked.next,
        };
        asked.say(context, claim, index, *state, payload);
    }

    fn take(&mut self, task: u64) -> Option<Given> {
        let given = self.given.remove(&task)?;
        if let Some(giving) = self.pulls.get_mut(&given.pull) {
            giving.under_way = giving.under_way.saturating_sub(1);
        }
        Some(given)
    }

    /// Requests end with their link.
    pub(super) fn end_requests(&mut self, context: &Context<'_>) {
        let asked: Vec<u64> =
            self.given.iter().filter(|(_, given)| given.asked.is_some()).map(|(task, _)| *task).collect();
        for task in asked {
            if let Some(given) = self.take(task) {
                given.end(context);
            }
        }
    }

    /// The peer is gone, or was away for so long that it counts as gone: what it has is given back or lost.
    pub(super) fn end_all(&mut self, context: &Context<'_>) {
        while let Some((task, _)) = self.given.first_key_value() {
            let task = *task;
            if let Some(given) = self.take(task) {
                given.end(context);
            }
        }
    }

    /// Gives what the peer is ready for, and looks after what it has. Returns whether there may be more at once.
    pub(super) fn step(&mut self, context: &Context<'_>, say: &mut Vec<Vec<u8>>, room: bool) -> Look {
        let mut look = Look::default();
        let now_ns = clock::monotonic_ns();
        if now_ns.saturating_sub(self.looked_ns) >= CANCEL_NS {
            self.looked_ns = now_ns;
            self.cancel(say);
        }
        if self.given.values().any(|given| given.asked.is_some()) {
            look.by(now_ns.saturating_add(CANCEL_NS));
        }
        self.pulls.retain(|_, giving| {
            if giving.under_way == 0 {
                giving.former.clear();
            }
            !giving.ending || giving.under_way > 0
        });
        let mut all = std::mem::take(&mut self.pulls);
        for (pull, giving) in &mut all {
            if let Some(again_ns) = giving.again_ns.filter(|_| !giving.ending) {
                look.by(again_ns);
                if now_ns >= again_ns {
                    giving.again_ns = None;
                    open(context, *pull, giving);
                }
            }
            self.give(context, *pull, giving, room, say, &mut look);
        }
        self.pulls = all;
        look
    }

    fn give(
        &mut self,
        context: &Context<'_>,
        pull: u32,
        giving: &mut Giving,
        room: bool,
        say: &mut Vec<Vec<u8>>,
        look: &mut Look,
    ) {
        let Some(mut puller) = giving.puller.take() else { return };
        let now_ns = clock::monotonic_ns();
        if let Some(due_ns) = puller.watch(now_ns) {
            look.by(due_ns);
        }
        let mut turn = 0;
        let room = |say: &Vec<Vec<u8>>| room && say.iter().map(Vec::len).sum::<usize>() < WAITING_BYTES_MAX;
        while giving.given < giving.granted && turn < TURN_MAX && room(say) {
            match puller.look() {
                Ok(Some(task)) => {
                    turn += 1;
                    if let Some((word, payload, given)) = self.given_of(pull, giving, task) {
                        let Word::Task { task, .. } = word else { continue };
                        let mut body = Vec::new();
                        busway_wire::work::encode(&word, &payload, &mut body);
                        say.push(body);
                        giving.given += 1;
                        giving.under_way += 1;
                        self.given.insert(task, given);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(target: "busway::work", peer = %context.whom.peer, "cannot pull: {error}");
                    look.by(now_ns.saturating_add(AGAIN_NS));
                    break;
                }
            }
        }
        if giving.given < giving.granted && room(say) {
            look.again |= turn >= TURN_MAX || puller.must_look_again();
            look.any |= puller.pushers() > 0;
        } else {
            puller.rest();
        }
        giving.puller = Some(puller);
    }

    /// What is said of a task that was taken, if it is to be given.
    fn given_of(&mut self, pull: u32, giving: &Giving, mut task: Task) -> Option<(Word, Vec<u8>, Given)> {
        let sample = task.sample();
        let (source, sequence, flags) = (sample.source(), sample.sequence(), sample.codec());
        let topic = Topic::new(sample.topic()).ok()?;
        let mut left_ns = 0;
        let mut asked = None;
        let mut payload = sample.payload();
        if giving.group.name().is_reserved() {
            let head = RequestHead::split(payload).filter(|_| sample.kind() == Kind::Request);
            let Some((head, rest)) = head.filter(|_| sample.correlation() != 0) else {
                task.lose(Cause::Corrupt);
                return None;
            };
            left_ns = head.deadline_ns.get().saturating_sub(clock::monotonic_ns());
            if left_ns == 0 {
                task.lose(Cause::Expired);
                return None;
            }
            payload = rest;
            let correlation = sample.correlation();
            let deadline_ns = head.deadline_ns.get();
            asked = Some(Asked { requester: source, correlation, deadline_ns, lane: None, next: 0 });
        }
        let payload = payload.to_vec();
        self.next += 1;
        let acknowledges = giving.group.acknowledge().is_some();
        let (claim, line) = task.into_claim()?;
        let flags = busway_wire::Flags::from_codec(flags).bits();
        let attempt = claim.attempt();
        let word = Word::Task { pull, task: self.next, topic, source, sequence, attempt, flags, left_ns };
        Some((word, payload, Given { pull, claim, line, acknowledges, asked }))
    }

    /// Tells the peer of requests for which nobody waits any more.
    fn cancel(&mut self, say: &mut Vec<Vec<u8>>) {
        let gone = |given: &Given| given.asked.is_some() && !given.claim.is_wanted();
        let gone: Vec<u64> =
            self.given.iter().filter(|(_, given)| gone(given)).map(|(task, _)| *task).collect();
        for task in gone {
            self.take(task);
            super::put(say, &Word::Cancel { task });
        }
    }
}

impl Given {
    /// The peer will say nothing of it.
    fn end(self, context: &Context<'_>) {
        if let Some(mut asked) = self.asked {
            let next = asked.next;
            asked.say(context, &self.claim, next, ReplyState::Died, &[]);
            self.claim.lose(Cause::LinkLost);
        } else if !self.acknowledges {
            self.claim.lose(Cause::LinkLost);
        } else if self.claim.give_back() {
            context.ports.ring_bell(self.line);
        }
    }
}

impl Asked {
    fn say(
        &mut self,
        context: &Context<'_>,
        claim: &group::Task,
        index: u32,
        state: ReplyState,
        payload: &[u8],
    ) {
        let stamp = Stamp { kind: Kind::Reply, correlation: self.correlation };
        let head: [u8; HEAD_BYTES] = ReplyHead::new(index, state).to_bytes();
        self.next = index.saturating_add(1);
        let to = To { requester: self.requester, claim: Some(claim), deadline_ns: self.deadline_ns };
        let said = context.lanes.send(&to, &mut self.lane, stamp, head, &Beside::NOTHING, payload);
        if let Err(error) = said {
            tracing::debug!(target: "busway::work", "a reply of another host is lost: {error}");
            // A word without a payload needs no memory; where that fails too, the claim says that the reply is lost.
            let head = ReplyHead::new(index, ReplyState::Unanswered).to_bytes();
            let _ = context.lanes.send(&to, &mut self.lane, stamp, head, &Beside::NOTHING, &[]);
        }
    }
}

/// What a look has come to.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// There may be more at once.
    pub(super) again: bool,
    /// Something may come of which only the line of all topics tells.
    pub(super) any: bool,
    /// When to look again anyway.
    pub(super) due_ns: Option<u64>,
}

impl Look {
    pub(super) fn by(&mut self, due_ns: u64) {
        self.due_ns = Some(self.due_ns.map_or(due_ns, |due| due.min(due_ns)));
    }

    pub(super) fn add(&mut self, other: Look) {
        self.again |= other.again;
        self.any |= other.any;
        if let Some(due_ns) = other.due_ns {
            self.by(due_ns);
        }
    }
}

fn open(context: &Context<'_>, pull: u32, giving: &Giving) {
    let permits = context.permits.clone();
    let may = move |topic: &Topic| !topic.is_reserved() && permits.allow(Deed::Subscribe, topic);
    let builder = PullerBuilder::new(context.bus, Ok(giving.pattern.clone()));
    let builder = builder.export(&giving.group, Filter(Arc::new(may)));
    let whom = For { pull, ..context.whom.clone() };
    context.opener.want(whom, Wanted::Puller(Box::new(builder)));
}
