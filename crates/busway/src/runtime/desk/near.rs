//! Work of this host that is given to a peer: pulled here in the name of the peer's groups, and ended here as the peer says.
//!
//! For each pull of the peer there is a puller here, which takes as much as the peer is ready for and no more. What it took is its claim
//! until the peer has said what became of it, so that a task is one puller's at a time, whichever host that is on; the time for an
//! acknowledgement runs here. If the peer is gone, or was away for too long, what is to be acknowledged is given back and the rest is
//! lost with its link. A request ends with the link at once: its requester is told. While it is away the peer is no puller here.
//!
//! What the peer may pull and answer is asked for each task, and what it may no more before it went to it is given back as it was. What it says that we may not push there is given to others, and it gets no more of that topic.
//!
//! It does not know links or clocks, nor what the peer does with a task.
//!
//! Invariant: a task that was given ends once: as the peer says, or when the peer is gone; what is said of it after that means nothing. Where
//! it ends otherwise than the peer has said, the peer is told. One puller of a pull is asked for at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use busway_protocol::{Deed, Permits};
use busway_shm::row::group;
use busway_wire::limits::{
    WORK_DENIED_MAX, WORK_GIVEN_MAX, WORK_OPENINGS_MAX, WORK_PULLS_MAX, WORK_PULLS_WAITING_MAX,
    WORK_TOO_LARGE_NS,
};
use busway_wire::work::{End, Word, number_of_large, parted};
use busway_wire::{Cause, Group, Kind, Pattern, ReplyState, RequestHead, Topic, responders};

use super::far::copied;
use super::opener::{For, Wanted};
use super::pulls::Pulls;
use super::says::{Saying, Says};
use super::too_large::{TooLarge, Verdict};
use super::{Context, Course, Standing};
use crate::ports::Filter;
use crate::puller::{Puller, PullerBuilder, Task};
use crate::responder::Lane;

mod asked;

use asked::Asked;

/// Tasks of one pull that are given before others have their turn.
const TURN_MAX: usize = 64;
/// Tasks that ended here otherwise than the peer said, of which its word is still heard: as many as a pull may have under way.
const LATE_MAX: usize = 1_024;
/// Whether somebody still waits for a request is looked at so often.
const CANCEL_NS: u64 = 20_000_000;
/// A puller that cannot be had is asked for again after so long.
const REFUSED_NS: u64 = 1_000_000_000;
/// With so many earlier pullers that have tasks no further one is asked for: a peer that ends nothing would have one more with each word.
const FORMER_MAX: usize = 2;
/// What cannot be taken at the moment is tried again after so long.
const AGAIN_NS: u64 = 20_000_000;
/// Whether there is room for large tasks is looked at so often, where nothing tells of it: 10 Gbit/s make room for most of what may wait meanwhile.
const ROOM_NS: u64 = 10_000_000;
/// A task for which there is no room is left to others for so long, unless there is some before.
const ROOMLESS_NS: u64 = 1_000_000_000;

/// One pull of the peer.
struct Giving {
    pattern: Pattern,
    group: Group,
    puller: Option<Holder>,
    /// Those that it had before, until what they took is over.
    former: Vec<Holder>,
    /// The number of the puller that is asked for, and whether another is wanted by now.
    opening: Option<(u64, Wish)>,
    granted: u64,
    given: u64,
    under_way: u64,
    /// When a puller is asked for.
    again_ns: Option<u64>,
    /// Topics that we may not push there.
    denied: BTreeSet<Topic>,
    /// There were too many of these: nothing more until the peer says anew that it pulls. What was granted and given stays counted.
    stopped: bool,
    /// Those that were too large for the peer.
    too_large: TooLarge,
    /// Some were left for want of room. After many of them nothing is looked at before that.
    roomless: bool,
    passes_ns: u64,
    /// It was taken back, for good: its number is not used again.
    ending: bool,
    /// The peer is not there.
    away: bool,
}

/// A puller, and how much the peer has of what it took.
struct Holder {
    number: u64,
    under_way: u64,
    puller: Puller,
}

/// What is wanted of a puller that was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    This,
    Another,
}

/// A task that the peer has.
struct Given {
    pull: u32,
    /// Which puller took it.
    number: u64,
    topic: Topic,
    claim: group::Task,
    /// Where to ring when it is given back.
    line: usize,
    acknowledges: bool,
    asked: Option<Asked>,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Near {
    pulls: BTreeMap<u32, Giving>,
    given: BTreeMap<u64, Given>,
    /// Pulls for which there is no place yet, and what was granted for them.
    waiting: BTreeMap<u32, (Pattern, Group, u64)>,
    /// Bytes of replies that wait for their lanes.
    held_bytes: usize,
    /// Of those that ended here the latest, with their pull and topic: what the peer denies it denies also then.
    late: VecDeque<(u64, u32, Topic)>,
    /// It was said that there are more pulls than are heard.
    warned: bool,
    next: u64,
    opened: u64,
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
        if let Some(known) = self.pulls.get_mut(&pull) {
            // A number is not used for something else: nobody who keeps to the page says so.
            if known.pattern != pattern || known.group != group || known.ending {
                return;
            }
            // Said again: it may be given what was denied.
            if std::mem::take(&mut known.stopped) || !known.denied.is_empty() {
                known.denied.clear();
                known.renew(context.now_ns);
            }
            return;
        }
        if self.pulls.len() < WORK_PULLS_MAX {
            self.pulls.insert(pull, Giving::new(pattern, group, context.now_ns));
            return;
        }
        if !std::mem::replace(&mut self.warned, true) {
            let peer = &context.whom.peer;
            tracing::warn!(target: "busway::work", %peer, "pulls more than {WORK_PULLS_MAX} patterns and groups: the rest waits");
        }
        if self.waiting.len() < WORK_PULLS_WAITING_MAX || self.waiting.contains_key(&pull) {
            self.waiting.entry(pull).or_insert((pattern, group, 0));
        }
    }

    /// Those that wait have the places that are free.
    fn take_up(&mut self, now_ns: u64) {
        while self.pulls.len() < WORK_PULLS_MAX
            && let Some((pull, (pattern, group, granted))) = self.waiting.pop_first()
        {
            self.pulls.insert(pull, Giving { granted, ..Giving::new(pattern, group, now_ns) });
        }
    }

    pub(super) fn unpull(&mut self, pull: u32) {
        self.waiting.remove(&pull);
        if let Some(giving) = self.pulls.get_mut(&pull) {
            giving.ending = true;
            giving.let_go();
        }
    }

    pub(super) fn grant(&mut self, pull: u32, tasks: u64) {
        if let Some(giving) = self.pulls.get_mut(&pull) {
            giving.granted = giving.granted.max(tasks);
        } else if let Some((_, _, granted)) = self.waiting.get_mut(&pull) {
            *granted = tasks.max(*granted);
        }
    }

    /// A puller that was asked for is there.
    pub(super) fn opened(&mut self, context: &Context<'_>, whom: &For, puller: Puller) {
        let Some((giving, wish)) = self.asked_for(whom) else { return };
        match wish {
            Wish::This if !giving.ends() => {
                giving.puller = Some(Holder { number: whom.number, under_way: 0, puller });
            }
            Wish::This => {}
            Wish::Another => giving.again_ns = Some(context.now_ns),
        }
    }

    /// A puller that was asked for cannot be had now.
    pub(super) fn refused(&mut self, context: &Context<'_>, whom: &For) {
        if let Some((giving, _)) = self.asked_for(whom) {
            giving.again_ns = Some(context.now_ns.saturating_add(REFUSED_NS));
        }
    }

    fn asked_for(&mut self, whom: &For) -> Option<(&mut Giving, Wish)> {
        let giving = self.pulls.get_mut(&whom.pull)?;
        let (_, wish) = giving.opening.take_if(|(number, _)| *number == whom.number)?;
        Some((giving, wish))
    }

    /// The peer may do something else than before: what is pulled for it is asked for anew.
    pub(super) fn permit(&mut self, context: &Context<'_>) {
        for giving in self.pulls.values_mut() {
            giving.renew(context.now_ns);
        }
    }

    /// These tasks did not go, as the peer may not have them any more: they are as they were. It is told that they are over.
    pub(super) fn withheld(&mut self, context: &Context<'_>, tasks: &[u64]) {
        for task in tasks {
            let Some(given) = self.take(*task) else { continue };
            let attempt = given.claim.attempt();
            if given.claim.give_back_as(attempt) {
                context.ports.ring_bell(given.line);
            }
        }
    }

    /// The lane of a request is there: what waited for it goes. Where it cannot be had there is no answer.
    pub(super) fn lane(&mut self, context: &Context<'_>, task: u64, lane: Option<Arc<Lane>>, say: &mut Says) {
        let Some(lane) = lane else {
            if let Some(given) = self.take_from_peer(task, say) {
                given.claim.lose(Cause::LinkBudget);
            }
            return;
        };
        let Some(Given { claim, asked: Some(asked), .. }) = self.given.get_mut(&task) else { return };
        self.held_bytes -= asked.held_bytes();
        if let Some(end) = asked.opened(context, claim, lane) {
            self.over(context, task, end);
        }
    }

    /// The peer says what became of a task.
    pub(super) fn over(&mut self, context: &Context<'_>, task: u64, end: End) {
        let asked = self.given.get_mut(&task).and_then(|given| given.asked.as_mut());
        if asked.is_some_and(|asked| asked.ends(end)) {
            return;
        }
        let Some(given) = self.take(task) else {
            if end == End::Denied {
                self.denied_late(context, task);
            }
            return;
        };
        let attempt = match end {
            End::Done => {
                given.claim.done();
                return;
            }
            End::Lost(cause) => {
                given.claim.lose(cause);
                return;
            }
            End::Back { attempt } => attempt.max(given.claim.attempt()),
            End::Denied => {
                if let Some(giving) = self.pulls.get_mut(&given.pull) {
                    giving.deny(given.topic, context);
                }
                given.claim.attempt()
            }
        };
        if given.claim.give_back_as(attempt) {
            context.ports.ring_bell(given.line);
        }
    }

    /// What was over here may not be pushed there: the next of its topic would not be either.
    fn denied_late(&mut self, context: &Context<'_>, task: u64) {
        let Some(at) = self.late.iter().position(|(late, ..)| *late == task) else { return };
        if let Some((_, pull, topic)) = self.late.remove(at)
            && let Some(giving) = self.pulls.get_mut(&pull)
        {
            giving.deny(topic, context);
        }
    }

    /// Takes a task from the peer, which is told, before it has said what became of it.
    fn take_from_peer(&mut self, task: u64, say: &mut Says) -> Option<Given> {
        let given = self.take(task)?;
        say.push(Saying::Cancel { pull: given.pull, task });
        self.late.truncate(LATE_MAX - 1);
        self.late.push_front((task, given.pull, given.topic.clone()));
        Some(given)
    }

    /// A reply to a request of this host. The last is the end of the request, whatever follows.
    pub(super) fn reply(
        &mut self,
        context: &Context<'_>,
        task: u64,
        index: u32,
        state: u8,
        following: (&[u8], &[u8]),
    ) {
        let state = ReplyState::ALL.get(usize::from(state));
        let Some((Given { claim, asked: Some(asked), .. }, state)) = self.given.get_mut(&task).zip(state)
        else {
            return;
        };
        let before = asked.held_bytes();
        asked.say(context, (task, claim), (index, *state), following, self.held_bytes);
        self.held_bytes += asked.held_bytes() - before;
        match state {
            ReplyState::Last | ReplyState::Failed | ReplyState::Unanswered => {
                self.over(context, task, End::Done);
            }
            // Why, its end says.
            ReplyState::Part | ReplyState::Died => {}
        }
    }

    fn take(&mut self, task: u64) -> Option<Given> {
        let given = self.given.remove(&task)?;
        self.held_bytes -= given.asked.as_ref().map_or(0, Asked::held_bytes);
        if let Some(giving) = self.pulls.get_mut(&given.pull) {
            giving.under_way = giving.under_way.saturating_sub(1);
            let mut holders = giving.puller.iter_mut().chain(&mut giving.former);
            if let Some(holder) = holders.find(|holder| holder.number == given.number) {
                holder.under_way = holder.under_way.saturating_sub(1);
            }
        }
        Some(given)
    }

    /// Requests end with their link, and are cancelled where they are. The peer answers none until it is back.
    pub(super) fn end_requests(&mut self, context: &Context<'_>, say: &mut Says) {
        self.end(context, say, |given| given.asked.is_some());
        self.leave(|giving| giving.group.name().is_reserved());
    }

    /// The peer is gone, or was away for so long that it counts as gone: what it has is given back or lost. It pulls nothing until it is back.
    pub(super) fn end_all(&mut self, context: &Context<'_>, say: &mut Says) {
        self.end(context, say, |_| true);
        self.leave(|_| true);
    }

    fn end(&mut self, context: &Context<'_>, say: &mut Says, which: impl Fn(&Given) -> bool) {
        let ended: Vec<u64> =
            self.given.iter().filter(|(_, given)| which(given)).map(|(task, _)| *task).collect();
        for task in ended {
            if let Some(given) = self.take_from_peer(task, say) {
                given.end(context);
            }
        }
    }

    fn leave(&mut self, which: impl Fn(&Giving) -> bool) {
        for giving in self.pulls.values_mut().filter(|giving| which(giving)) {
            giving.away = true;
            giving.let_go();
        }
    }

    /// The peer was away, and is there again.
    pub(super) fn back(&mut self, context: &Context<'_>) {
        for giving in self.pulls.values_mut() {
            if std::mem::replace(&mut giving.away, false) {
                giving.renew(context.now_ns);
            }
        }
    }

    /// Gives what the peer is ready for, and looks after what it has. Returns whether there may be more at once.
    pub(super) fn step(
        &mut self,
        context: &Context<'_>,
        pulls: &Pulls,
        say: &mut Says,
        standing: Standing,
    ) -> Look {
        let mut look = Look::default();
        let now_ns = context.now_ns;
        if now_ns.saturating_sub(self.looked_ns) >= CANCEL_NS {
            self.looked_ns = now_ns;
            self.cancel(now_ns, say);
        }
        if !self.given.is_empty() {
            look.by(now_ns.saturating_add(CANCEL_NS));
        }
        self.pulls.retain(|_, giving| {
            giving.former.retain(|holder| holder.under_way > 0);
            // Of one that was asked for the answer is waited for: who says and takes back asks for no more than who stays.
            !giving.ending || giving.under_way > 0 || giving.opening.is_some()
        });
        // For who is away none is asked for; when it is back, this comes again.
        if standing.up {
            self.take_up(now_ns);
        }
        let mut all = std::mem::take(&mut self.pulls);
        let mut openings = all.values().filter(|giving| giving.opening.is_some()).count();
        for (pull, giving) in &mut all {
            if let Some(again_ns) = giving.again_ns {
                if now_ns < again_ns {
                    look.by(again_ns);
                } else if openings < WORK_OPENINGS_MAX && giving.former.len() < FORMER_MAX {
                    openings += usize::from(giving.ask(context, *pull, &mut self.opened));
                }
            }
            self.give(context, pulls, (*pull, giving), standing, say, &mut look);
        }
        self.pulls = all;
        look
    }

    /// Whether the peer pulls this topic in this group, and may.
    pub(super) fn could_have(&self, permits: &Permits, group: &Group, topic: &Topic) -> bool {
        self.pulls.values().any(|giving| giving.could_have(permits, group, topic))
    }

    /// Whether the peer has had anything of this host.
    pub(super) fn gives(&self) -> bool {
        self.next > 0
    }

    /// Of each pull what was granted, given, and is under way.
    #[cfg(test)]
    pub(super) fn counts(&self) -> BTreeMap<u32, [u64; 3]> {
        let counts = |giving: &Giving| [giving.granted, giving.given, giving.under_way];
        self.pulls.iter().map(|(pull, giving)| (*pull, counts(giving))).collect()
    }

    /// Tasks that the peer has.
    #[cfg(test)]
    pub(super) fn has_given(&self) -> usize {
        self.given.len()
    }

    fn give(
        &mut self,
        context: &Context<'_>,
        pulls: &Pulls,
        (pull, giving): (u32, &mut Giving),
        standing: Standing,
        say: &mut Says,
        look: &mut Look,
    ) {
        let Some(mut holder) = giving.puller.take() else { return };
        let (now_ns, before) = (context.now_ns, giving.under_way);
        if let Some(due_ns) = holder.puller.watch(now_ns) {
            look.by(due_ns);
        }
        let (mut turn, mut roomless) = (0, 0);
        let mut keeps = true;
        giving.look_for_room(&mut holder.puller, standing.has_room(Course::Large, say), now_ns, look);
        let passes = now_ns >= giving.passes_ns;
        if !giving.too_large.is_empty() {
            look.by(now_ns.saturating_add(WORK_TOO_LARGE_NS));
        }
        let room = |say: &Says| standing.has_room(Course::Quick, say);
        while keeps && passes && giving.may_have_more() && turn < TURN_MAX && room(say) {
            match holder.puller.look() {
                Ok(Some(task)) if standing.is_too_large(size_of_task(&task)) => {
                    turn += 1;
                    giving.leave(context, pulls, &mut holder.puller, task);
                }
                Ok(Some(task)) => {
                    turn += 1;
                    let course = standing.course_of_task(size_of_task(&task) + task.sample().topic().len());
                    if standing.has_room(course, say) {
                        keeps = self.give_one(context, (pull, course, &mut holder), giving, task, say);
                        continue;
                    }
                    // Others may have it until there is room; small ones go on.
                    holder.puller.leave_for_room(task, now_ns.saturating_add(ROOMLESS_NS));
                    roomless += 1;
                    look.by(now_ns.saturating_add(ROOM_NS));
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(target: "busway::work", peer = %context.whom.peer, "cannot pull: {error}");
                    look.by(now_ns.saturating_add(AGAIN_NS));
                    break;
                }
            }
        }
        giving.has_left(roomless, now_ns);
        if keeps && now_ns >= giving.passes_ns && giving.may_have_more() && room(say) {
            look.again |= turn >= TURN_MAX || holder.puller.must_look_again();
            look.any |= holder.puller.pushers() > 0;
        } else {
            holder.puller.rest();
        }
        holder.under_way += giving.under_way - before;
        giving.puller = Some(holder);
        if !keeps {
            giving.renew(now_ns);
        }
    }

    /// Gives a task that was taken, if there is memory for it. `false`: the peer may not have it, and others do; the puller takes what it should not.
    fn give_one(
        &mut self,
        context: &Context<'_>,
        (pull, course, holder): (u32, Course, &mut Holder),
        giving: &mut Giving,
        mut task: Task,
        say: &mut Says,
    ) -> bool {
        let sample = task.sample();
        let (source, sequence, flags) = (sample.source(), sample.sequence(), sample.codec());
        let Ok(topic) = Topic::new(sample.topic()) else { return true };
        if !context.permits.allow(giving.deed(), &topic) || giving.denied.contains(&topic) {
            if let Some((claim, line)) = task.into_claim() {
                let attempt = claim.attempt();
                if claim.give_back_as(attempt) {
                    context.ports.ring_bell(line);
                }
            }
            return false;
        }
        let mut asked = None;
        let mut payload = sample.payload();
        if giving.group.name().is_reserved() {
            let head = RequestHead::split(payload).filter(|_| sample.kind() == Kind::Request);
            let Some((head, rest)) = head.filter(|_| sample.correlation() != 0) else {
                task.lose(Cause::Corrupt);
                return true;
            };
            let deadline_ns = head.deadline_ns.get();
            if deadline_ns <= context.now_ns {
                task.lose(Cause::Expired);
                return true;
            }
            payload = rest;
            let correlation = sample.correlation();
            asked = Some(Asked::new(source, correlation, deadline_ns));
        }
        // Whatever a program of this host wrote there, the peer gets what is sound.
        let beside = sample.extensions();
        let (beside, _) = parted((beside.len() / 8) as u8, beside);
        let extensions = (beside.len() / 8) as u8;
        let acknowledges = giving.group.acknowledge().is_some();
        let flags = busway_wire::Flags::from_codec(flags).bits();
        let attempt = task.claim().map_or(0, group::Task::attempt);
        let (next, of) = (self.next + 1, topic.clone());
        let number_of_task = match course {
            Course::Quick => next,
            Course::Large => number_of_large(next),
        };
        let word = Word::Task {
            pull,
            task: number_of_task,
            topic: of,
            source,
            sequence,
            attempt,
            flags,
            left_ns: 0,
            extensions,
        };
        let until_ns = asked.as_ref().map(|asked| asked.deadline_ns);
        let Some(saying) = Saying::task(word, [beside, payload], until_ns) else {
            // It is free again; there may be memory later, or another who does it. However often: what is short is not the peer's.
            holder.puller.leave_to_others(task, context.now_ns.saturating_add(REFUSED_NS));
            return true;
        };
        let Some((claim, line)) = task.into_claim() else { return true };
        let (task, number) = (number_of_task, holder.number);
        self.next = next;
        say.push(saying);
        giving.too_large.given((source, sequence));
        giving.given += 1;
        giving.under_way += 1;
        self.given.insert(task, Given { pull, number, topic, claim, line, acknowledges, asked });
        true
    }

    /// Tells the peer of what is not its any more: requests for which nobody waits, and tasks whose time is up, which others get.
    fn cancel(&mut self, now_ns: u64, say: &mut Says) {
        let is_over = |given: &Given| match &given.asked {
            Some(asked) => asked.deadline_ns <= now_ns || !given.claim.is_wanted(),
            None => !given.claim.is_held(),
        };
        let over: Vec<u64> =
            self.given.iter().filter(|(_, given)| is_over(given)).map(|(task, _)| *task).collect();
        for task in over {
            let Some(given) = self.take_from_peer(task, say) else { continue };
            if given.asked.is_some() {
                given.claim.lose(Cause::Expired);
            }
        }
    }
}

impl Giving {
    fn new(pattern: Pattern, group: Group, now_ns: u64) -> Self {
        Self {
            pattern,
            group,
            puller: None,
            former: Vec::new(),
            opening: None,
            granted: 0,
            given: 0,
            under_way: 0,
            again_ns: Some(now_ns),
            denied: BTreeSet::new(),
            too_large: TooLarge::default(),
            roomless: false,
            passes_ns: 0,
            stopped: false,
            ending: false,
            away: false,
        }
    }

    /// The peer cannot have this task: others may take it for a while. What nobody could take is over.
    fn leave(&mut self, context: &Context<'_>, pulls: &Pulls, puller: &mut Puller, task: Task) {
        let key = (task.sample().source(), task.sample().sequence());
        let attempt = task.claim().map_or(0, group::Task::attempt);
        let others =
            context.others_could_have(pulls, &self.group, task.sample().topic(), size_of_task(&task));
        match self.too_large.found(key, attempt, others, context.now_ns) {
            Verdict::Leave { until_ns } => puller.leave_to_others(task, until_ns),
            Verdict::End => puller.end_for_all(task, Cause::LinkBudget),
        }
    }

    /// Where there is room, some of what was left for want of it is looked at again. The others wait: small ones behind them have their turn.
    fn look_for_room(&mut self, puller: &mut Puller, has_room: bool, now_ns: u64, look: &mut Look) {
        if self.roomless && has_room {
            self.roomless = puller.has_room(TURN_MAX / 2);
            self.passes_ns = 0;
        }
        if self.roomless {
            look.by(now_ns.saturating_add(ROOM_NS));
        }
    }

    /// So many were left for want of room. A long row of them is gone through in steps: one thread serves all peers.
    fn has_left(&mut self, roomless: usize, now_ns: u64) {
        self.roomless |= roomless > 0;
        if roomless >= TURN_MAX {
            self.passes_ns = now_ns.saturating_add(ROOM_NS);
        }
    }

    /// Whether something of this topic and group is pulled here for the peer, as far as its rights go.
    fn could_have(&self, permits: &Permits, group: &Group, topic: &Topic) -> bool {
        let pulls = !self.ends() && self.group == *group && self.pattern.matches(topic);
        pulls && !self.denied.contains(topic) && permits.allow(self.deed(), topic)
    }

    fn may_have_more(&self) -> bool {
        self.given < self.granted && self.under_way < WORK_GIVEN_MAX
    }

    /// It takes nothing more with the puller that it has.
    fn let_go(&mut self) {
        self.again_ns = None;
        if let Some((_, wish)) = &mut self.opening {
            *wish = Wish::Another;
        }
        if let Some(mut holder) = self.puller.take() {
            holder.puller.rest();
            // What it took is its until it is over.
            if holder.under_way > 0 {
                self.former.push(holder);
            }
        }
    }

    /// Nothing is pulled for it.
    fn ends(&self) -> bool {
        self.ending || self.stopped || self.away
    }

    /// Another puller is wanted than it has, or was asked for.
    fn renew(&mut self, now_ns: u64) {
        self.let_go();
        if self.opening.is_none() && !self.ends() {
            self.again_ns = Some(now_ns);
        }
    }

    /// We may not push this there: others get it.
    fn deny(&mut self, topic: Topic, context: &Context<'_>) {
        if self.stopped || !self.denied.insert(topic.clone()) {
            return;
        }
        let (pull, group) = (&self.pattern, self.group.name());
        tracing::info!(target: "busway::work", peer = %context.whom.peer, "may not push {topic} for {pull} of {group}");
        if self.denied.len() > WORK_DENIED_MAX {
            self.stopped = true;
            self.denied.clear();
            return self.let_go();
        }
        let filter = self.filter(context);
        match &mut self.puller {
            Some(holder) => holder.puller.forgo(&topic, filter),
            None => self.renew(context.now_ns),
        }
    }

    /// What the peer does with what it is given.
    fn deed(&self) -> Deed {
        if self.group.name().is_reserved() { Deed::Answer } else { Deed::Pull }
    }

    /// What the peer may have now.
    fn filter(&self, context: &Context<'_>) -> Filter {
        let (permits, denied, deed) = (context.permits.clone(), self.denied.clone(), self.deed());
        Filter(Arc::new(move |topic: &Topic| {
            !topic.is_reserved() && permits.allow(deed, topic) && !denied.contains(topic)
        }))
    }

    /// Asks for a puller, if the peer may have anything of it. Returns whether it does.
    fn ask(&mut self, context: &Context<'_>, pull: u32, number: &mut u64) -> bool {
        self.again_ns = None;
        if self.ends() || self.opening.is_some() {
            return false;
        }
        if !context.permits.could(self.deed(), &self.pattern) {
            return false;
        }
        let builder = PullerBuilder::new(context.bus, Ok(self.pattern.clone()));
        let builder = builder.export(&self.group, self.filter(context));
        *number += 1;
        self.opening = Some((*number, Wish::This));
        let whom = For { pull, number: *number, ..context.whom.clone() };
        context.opener.want(whom, Wanted::Puller(Box::new(builder)));
        true
    }
}

/// Bytes of a task that go to the peer, but for its topic.
fn size_of_task(task: &Task) -> usize {
    let sample = task.sample();
    sample.payload().len().saturating_add(sample.extensions().len())
}

impl Given {
    /// The peer will say nothing of it.
    fn end(self, context: &Context<'_>) {
        if let Some(mut asked) = self.asked {
            asked.died(context, &self.claim);
            self.claim.lose(Cause::LinkLost);
        } else if !self.acknowledges {
            self.claim.lose(Cause::LinkLost);
        } else if self.claim.give_back() {
            context.ports.ring_bell(self.line);
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

#[cfg(test)]
mod tests;
