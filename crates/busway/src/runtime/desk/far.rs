//! Work of a peer that this host handles: laid out here for the one group that pulls it, and told to the peer as it ends.
//!
//! Tasks of one topic for one group of ours lie in a ring that no other group and no other host sees; requests are asked here anew. The
//! peer gives no more than was granted, and what is granted is what our pullers are ready for: one task for each that looks for work, and
//! so many more as they have handled in [`PREFETCH_NS`] of late, so that who is quick need not wait for a word to go there and back, and who
//! is slow or has stopped keeps nothing from others. What nobody has taken for [`STALE_NS`] goes back to the peer.
//!
//! What we want is told while the link stands, and to who may push some of it. A task that the peer may not push is not taken: it goes back as
//! one that came and is over, and another is granted in its place.
//!
//! It does not know links or clocks, nor whose the tasks were.
//!
//! Invariant: each task that came is told as over once, or was cancelled, or is of a peer that is gone. Nothing here waits.

use std::collections::BTreeMap;

use busway_protocol::Deed;
use busway_shm::seat::RingShared;
use busway_shm::seat::work::Stands;
use busway_wire::work::{End, Word, is_of_large, parted};
use busway_wire::{Cause, Flags, ReplyState, Topic};

use super::near::Look;
use super::opener::{For, Wanted};
use super::pulls::{Known, Pulls};
use super::says::Says;
use super::{Context, Standing};
use crate::outcome::SendError;
use crate::publisher::{Beside, Publisher, WorkOrigin};
use crate::requester::Requester;

mod asked;

use asked::{Asked, Turn};

/// What nobody has taken for so long is not kept from others: many time slices of a machine with more work than processors, so that it is seldom
/// who only waits for one.
const STALE_NS: u64 = 300_000_000;
/// So much work lies ready beyond what is worked on: what goes to the peer and back is there in far less time.
const PREFETCH_NS: u64 = 5_000_000;
/// And no more than so many tasks for each puller.
const PREFETCH_MAX: u64 = 64;
/// So many more are granted of a pull as have a reply for which there is no room, at most: small ones go on beside them, and a peer that takes no large one has a bound.
const HELD_AHEAD_MAX: usize = 64;
/// How quick pullers are is measured over at least so long.
const RATE_NS: u64 = 10_000_000;
/// While something is under way it is looked at so often, whatever is heard.
const LOOK_NS: u64 = 20_000_000;
/// A ring of which nothing has come for so long is closed.
const IDLE_NS: u64 = 30_000_000_000;
/// Topics of one pull that are laid out at a time. What comes of another goes back.
const RINGS_MAX: usize = 1_024;
/// Who took nothing for too long is tried again after so long: it may have been stopped, and go on.
const ABSENT_NS: u64 = 1_000_000_000;
/// Where there is no memory, or no port, nothing more is granted for so long.
const SHORT_NS: u64 = 1_000_000_000;

/// A task that has come, of a request with the time that is left.
struct Came {
    task: u64,
    origin: WorkOrigin,
    attempt: u8,
    flags: u8,
    left_ns: u64,
    since_ns: u64,
    /// What it says beside its payload, checked.
    beside: Vec<u8>,
    payload: Vec<u8>,
}

impl Came {
    /// What the peer does that gives it.
    fn deed(&self) -> Deed {
        if self.left_ns > 0 { Deed::Request } else { Deed::Push }
    }
}

/// Tasks that lie in a ring, by their place there.
struct Ring {
    publisher: Publisher,
    tasks: BTreeMap<u64, (u64, u64)>,
}

/// One topic.
enum Place {
    Opening(Vec<Came>),
    Ring(Box<Ring>),
    Asked(Asked),
}

/// Who looks for work at one ring.
#[derive(Default)]
struct Watch {
    seen: Vec<u64>,
    /// Who looked and took nothing for too long, and what it said then: it counts again when it says something else, or some time later.
    absent: BTreeMap<usize, u64>,
    absent_until_ns: u64,
    used_ns: u64,
}

/// What has ended in a look.
#[derive(Default)]
struct Ended {
    /// Handled, or lost.
    handled: u64,
    /// Nobody had it.
    back: u64,
}

impl Ended {
    fn count(&mut self, end: End) {
        match end {
            End::Back { .. } | End::Denied => self.back += 1,
            End::Done | End::Lost(_) => self.handled += 1,
        }
    }
}

/// One pull of ours, as far as this peer gives to it.
#[derive(Default)]
struct Taking {
    /// Which pull of ours it is.
    of: u32,
    /// It was taken back: nothing more is granted.
    ending: bool,
    granted: u64,
    came: u64,
    finished: u64,
    places: BTreeMap<Topic, (Place, Watch)>,
    /// What was handled up to the last measure, when that was, and how many a second since then.
    handled: u64,
    measured: u64,
    measured_ns: u64,
    rate: u64,
    /// Nothing is granted before that: memory or a port was missing.
    short_until_ns: u64,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Far {
    /// By the numbers that the peer was told.
    takings: BTreeMap<u32, Taking>,
    /// Those numbers, by our own. What is told anew after it was taken back has another, so that both count from 0.
    told: BTreeMap<u32, u32>,
    numbers: u32,
    /// What the peer may do has changed, and it was not told since.
    permitted: bool,
    /// The number of the latest task that came, or that was cancelled before it did, of those that come by each source of the peer.
    last: [u64; 2],
    held_bytes: usize,
}

impl Far {
    /// A task has come.
    pub(super) fn task(
        &mut self,
        context: &Context<'_>,
        pulls: &Pulls,
        word: Word,
        payload: &[u8],
        say: &mut Says,
    ) {
        let Word::Task { pull, task, topic, source, sequence, attempt, flags, left_ns, extensions } = word
        else {
            return;
        };
        self.comes(task);
        let (beside, payload) = parted(extensions, payload);
        let since_ns = context.now_ns;
        let origin = WorkOrigin { source, sequence };
        // Nobody who keeps to the page gives more than was granted.
        let Some(taking) = self.takings.get_mut(&pull).filter(|taking| taking.came < taking.granted) else {
            return over(say, task, End::Back { attempt });
        };
        // Whatever comes of it: what was given there came here.
        taking.came += 1;
        let known = pulls.get(taking.of);
        if known.is_some_and(|known| topic.is_reserved() || !known.pattern.matches(&topic))
            || known.is_some_and(|known| !context.permits.allow(known.gives(), &topic))
        {
            taking.finished += 1;
            return over(say, task, End::Denied);
        }
        let Some(known) = known else {
            taking.finished += 1;
            return over(say, task, End::Back { attempt });
        };
        let Some((beside, payload)) = copied(beside).zip(copied(payload)) else {
            return taking.ends(Some((task, End::Back { attempt })), since_ns, say);
        };
        let came = Came { task, origin, attempt, flags, left_ns, since_ns, beside, payload };
        if let Some((place, watch)) = taking.places.get_mut(&topic) {
            watch.used_ns = since_ns;
            let end = match place {
                Place::Opening(waiting) => {
                    waiting.push(came);
                    None
                }
                Place::Ring(ring) => ring.lay(came),
                Place::Asked(asked) => asked.ask(came, since_ns),
            };
            return taking.ends(end, since_ns, say);
        }
        if taking.places.len() >= RINGS_MAX {
            return taking.ends(Some((task, End::Back { attempt })), since_ns, say);
        }
        let whom = For { pull, ..context.whom.clone() };
        let wanted = match known.group.name().is_reserved() {
            true => Wanted::Requester(topic.clone()),
            false => Wanted::Pusher(topic.clone(), known.group.clone()),
        };
        context.opener.want(whom, wanted);
        let watch = Watch { used_ns: since_ns, ..Watch::default() };
        taking.places.insert(topic, (Place::Opening(vec![came]), watch));
    }

    /// A ring that was wanted is there.
    pub(super) fn laid_out(
        &mut self,
        now_ns: u64,
        pull: u32,
        topic: &Topic,
        publisher: Publisher,
        say: &mut Says,
    ) {
        let Some((taking, waiting)) = self.waiting(pull, topic) else { return };
        let mut ring = Ring { publisher, tasks: BTreeMap::new() };
        for came in waiting {
            let end = ring.lay(came);
            taking.ends(end, now_ns, say);
        }
        taking.settle(topic, Place::Ring(Box::new(ring)));
    }

    /// A requester that was wanted is there.
    pub(super) fn asks(
        &mut self,
        now_ns: u64,
        pull: u32,
        topic: &Topic,
        requester: Requester,
        say: &mut Says,
    ) {
        let Some((taking, waiting)) = self.waiting(pull, topic) else { return };
        let mut asked = Asked::new(requester);
        for came in waiting {
            let end = asked.ask(came, now_ns);
            taking.ends(end, now_ns, say);
        }
        taking.settle(topic, Place::Asked(asked));
    }

    /// It cannot be had: what waits for it goes back.
    pub(super) fn refused(&mut self, now_ns: u64, pull: u32, topic: &Topic, say: &mut Says) {
        let Some((taking, waiting)) = self.waiting(pull, topic) else { return };
        for Came { task, attempt, .. } in waiting {
            taking.ends(Some((task, End::Back { attempt })), now_ns, say);
        }
        taking.places.remove(topic);
    }

    fn waiting(&mut self, pull: u32, topic: &Topic) -> Option<(&mut Taking, Vec<Came>)> {
        let taking = self.takings.get_mut(&pull)?;
        match taking.places.get_mut(topic) {
            Some((Place::Opening(waiting), _)) => {
                let waiting = std::mem::take(waiting);
                Some((taking, waiting))
            }
            Some((Place::Ring(_) | Place::Asked(_), _)) | None => None,
        }
    }

    /// Whether nothing has come of that task, nor of later ones. Of each source the numbers rise, but not of both together.
    fn comes(&mut self, task: u64) -> bool {
        let [quick, large] = &mut self.last;
        let last = if is_of_large(task) { large } else { quick };
        let comes = task > *last;
        *last = task.max(*last);
        comes
    }

    /// That task is not ours any more: whoever has it is too late.
    pub(super) fn cancel(&mut self, pull: u32, task: u64) {
        if self.comes(task) {
            // In the place of one that was over before it went.
            if let Some(taking) = self.takings.get_mut(&pull) {
                taking.came += 1;
                taking.finished += 1;
            }
            return;
        }
        let Some(taking) = self.takings.get_mut(&pull) else { return };
        for (place, _) in taking.places.values_mut() {
            let gone = match place {
                Place::Opening(waiting) => {
                    let before = waiting.len();
                    waiting.retain(|came| came.task != task);
                    before > waiting.len()
                }
                Place::Asked(asked) => {
                    let before = asked.waiting.len();
                    asked.waiting.retain(|came| came.task != task);
                    before > asked.waiting.len() || asked.pending.remove(&task).is_some()
                }
                Place::Ring(ring) => ring.cancel(task),
            };
            if gone {
                taking.finished += 1;
                return;
            }
        }
    }

    /// The link is gone: nobody waits for replies over it. The peer, which need not have noticed, is told when it is back.
    pub(super) fn end_requests(&mut self, say: &mut Says) {
        for taking in self.takings.values_mut() {
            for (place, _) in taking.places.values_mut() {
                let mut ended = Vec::new();
                match place {
                    Place::Asked(asked) => {
                        ended.extend(std::mem::take(&mut asked.pending).into_keys());
                        ended.extend(asked.waiting.drain(..).map(|came| came.task));
                    }
                    Place::Opening(waiting) => {
                        ended.extend(waiting.extract_if(.., |came| came.left_ns > 0).map(|came| came.task));
                    }
                    Place::Ring(_) => {}
                }
                for task in ended {
                    taking.finished += 1;
                    tell(say, task, 0, ReplyState::Died, &[]);
                    over(say, task, End::Lost(Cause::LinkLost));
                }
            }
        }
    }

    /// The peer has started again, or is gone: nothing of what it gave is its any more. What somebody here has, is finished; what nobody has,
    /// is not begun, and goes back if the peer hears of it.
    pub(super) fn forget(&mut self, say: &mut Says) {
        // Before that: who may still give something would give here again what goes back.
        for pull in self.told.values() {
            say.word(&Word::Unpull { pull: *pull });
        }
        let mut back = |task, attempt| over(say, task, End::Back { attempt });
        for taking in self.takings.values() {
            for (place, _) in taking.places.values() {
                match place {
                    Place::Ring(ring) => {
                        let shared = ring.shared();
                        let all = shared.stand(ring.tasks.keys().copied());
                        for ((sequence, (task, _)), stands) in ring.tasks.iter().zip(all) {
                            // Who has it finishes it.
                            if let Stands::Waiting(attempt) = stands
                                && shared.take_back(*sequence)
                            {
                                back(*task, attempt);
                            }
                        }
                    }
                    Place::Opening(waiting) => waiting.iter().for_each(|came| back(came.task, came.attempt)),
                    Place::Asked(asked) => {
                        asked.waiting.iter().for_each(|came| back(came.task, came.attempt))
                    }
                }
            }
        }
        self.takings.clear();
        self.told.clear();
    }

    /// The peer may do something else than before: we may be given what was denied, and what it may no more is not begun.
    pub(super) fn permit(&mut self, context: &Context<'_>, say: &mut Says) {
        self.permitted = true;
        for taking in self.takings.values_mut() {
            let mut denied = Vec::new();
            for (topic, (place, _)) in &mut taking.places {
                let may = |deed| context.permits.allow(deed, topic);
                match place {
                    Place::Opening(waiting) => {
                        let those = waiting.extract_if(.., |came| !may(came.deed()));
                        denied.extend(those.map(|came| (came.task, End::Denied)));
                    }
                    Place::Asked(asked) if !may(Deed::Request) => {
                        denied.extend(asked.waiting.drain(..).map(|came| (came.task, End::Denied)));
                        denied.extend(asked.take_back());
                    }
                    Place::Ring(ring) if !may(Deed::Push) => denied.extend(ring.take_back()),
                    Place::Asked(_) | Place::Ring(_) => {}
                }
            }
            for (task, end) in denied {
                taking.finished += 1;
                over(say, task, end);
            }
        }
    }

    /// Tells what has changed. Returns when to look again.
    pub(super) fn step(
        &mut self,
        context: &Context<'_>,
        pulls: &Pulls,
        say: &mut Says,
        standing: Standing,
    ) -> Look {
        let mut look = Look::default();
        let now_ns = context.now_ns;
        if standing.up {
            self.tell_pulls(context, pulls, say);
        }
        let held_bytes = self.takings.values().flat_map(Taking::held).sum();
        let mut turn = Turn { now_ns, standing, say, look: &mut look, held_bytes, held_of_topic: 0 };
        self.takings.retain(|pull, taking| {
            let pullers = pulls.get(taking.of).map_or(0, |known| known.pullers);
            let busy = taking.step(pullers, &mut turn);
            // What may be given is a state: later is enough where nobody hears it now.
            let wanted = pullers > 0 && !taking.ending;
            if wanted && standing.up && taking.grant(pullers, now_ns, turn.look) {
                turn.say.word(&Word::Grant { pull: *pull, tasks: taking.granted });
            }
            busy || wanted
        });
        self.held_bytes = turn.held_bytes;
        look
    }

    /// Bytes of replies that were taken and for which there was no room among the words at the last look.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Of each pull what was granted, came, and is not over.
    #[cfg(test)]
    pub(super) fn counts(&self) -> BTreeMap<u32, [u64; 3]> {
        let counts = |taking: &Taking| [taking.granted, taking.came, taking.came - taking.finished];
        self.takings.iter().map(|(pull, taking)| (*pull, counts(taking))).collect()
    }

    fn tell_pulls(&mut self, context: &Context<'_>, pulls: &Pulls, say: &mut Says) {
        let may = |known: &Known| context.permits.could(known.gives(), &known.pattern);
        let permitted = std::mem::take(&mut self.permitted);
        let takings = &mut self.takings;
        self.told.retain(|of, number| {
            let pull = *number;
            let Some(known) = pulls.get(*of).filter(|known| !permitted || may(known)) else {
                if let Some(taking) = takings.get_mut(&pull) {
                    taking.ending = true;
                }
                say.word(&Word::Unpull { pull });
                return false;
            };
            // It may be given what it was denied.
            if permitted {
                let (pattern, group) = (known.pattern.clone(), known.group.clone());
                say.word(&Word::Pull { pull, pattern, group });
                let tasks = takings.get(&pull).map_or(0, |taking| taking.granted);
                say.word(&Word::Grant { pull, tasks });
            }
            true
        });
        for (of, known) in pulls.all() {
            if !self.told.contains_key(&of) && may(known) {
                self.numbers = self.numbers.wrapping_add(1);
                let (pull, pattern, group) = (self.numbers, known.pattern.clone(), known.group.clone());
                self.told.insert(of, pull);
                say.word(&Word::Pull { pull, pattern, group });
                self.takings.insert(pull, Taking { of, ..Taking::default() });
            }
        }
    }

    /// Whether the peer may give us anything, or could before.
    pub(super) fn takes(&self) -> bool {
        !self.takings.is_empty()
    }
}

impl Taking {
    fn settle(&mut self, topic: &Topic, place: Place) {
        if let Some((former, _)) = self.places.get_mut(topic) {
            *former = place;
        }
    }

    /// Tells of a task that is over, if there is one. One that goes back was not wanted: nothing more is granted for a while.
    fn ends(&mut self, end: Option<(u64, End)>, now_ns: u64, say: &mut Says) {
        let Some((task, end)) = end else { return };
        self.finished += 1;
        if matches!(end, End::Back { .. }) {
            self.short_until_ns = now_ns.saturating_add(SHORT_NS);
        }
        over(say, task, end);
    }

    /// Replies that were taken and for which there is no room, and their bytes.
    fn held(&self) -> impl Iterator<Item = usize> {
        let asked = self.places.values().filter_map(|(place, _)| match place {
            Place::Asked(asked) => Some(asked),
            Place::Opening(_) | Place::Ring(_) => None,
        });
        asked.flat_map(Asked::held)
    }

    /// Whether something is under way.
    fn step(&mut self, pullers: u64, turn: &mut Turn<'_>) -> bool {
        let mut busy = false;
        let now_ns = turn.now_ns;
        self.places.retain(|_, (place, watch)| {
            let (ended, under_way) = match place {
                Place::Opening(waiting) => (Ended::default(), waiting.len()),
                Place::Ring(ring) => (ring.step(pullers, watch, now_ns, turn.say), ring.tasks.len()),
                Place::Asked(asked) => {
                    let ended = asked.step(turn);
                    // Who answered is gone, or has no room: nothing more is granted for a while.
                    if ended.back > 0 {
                        self.short_until_ns = now_ns.saturating_add(SHORT_NS);
                    }
                    (ended, asked.pending.len() + asked.waiting.len())
                }
            };
            self.finished += ended.handled + ended.back;
            self.handled += ended.handled;
            busy |= under_way > 0;
            turn.look.any |= under_way > 0 && matches!(place, Place::Asked(_));
            let idle = now_ns.saturating_sub(watch.used_ns) >= IDLE_NS || pullers == 0;
            under_way > 0 || !idle
        });
        if busy {
            turn.look.by(now_ns.saturating_add(LOOK_NS));
        }
        busy
    }

    /// Whether the peer may give more than it was told.
    fn grant(&mut self, pullers: u64, now_ns: u64, look: &mut Look) -> bool {
        if now_ns < self.short_until_ns {
            look.by(self.short_until_ns);
            return false;
        }
        let passed_ns = now_ns.saturating_sub(self.measured_ns);
        if passed_ns >= RATE_NS {
            let count = self.handled - self.measured;
            let rate = count.saturating_mul(1_000_000_000) / passed_ns.max(1);
            self.rate = u64::midpoint(self.rate, rate);
            (self.measured, self.measured_ns) = (self.handled, now_ns);
        }
        let ahead = (self.rate.saturating_mul(PREFETCH_NS) / 1_000_000_000).min(pullers * PREFETCH_MAX);
        let (mut taken, mut ready) = (0, None);
        for (place, watch) in self.places.values_mut() {
            let (ring, of_it) = match place {
                Place::Opening(_) => continue,
                Place::Ring(ring) => (ring.shared().clone(), ring.taken()),
                // As much as it takes is under way: what waits comes first.
                Place::Asked(asked) if !asked.waiting.is_empty() => {
                    ready = ready.max(Some(0));
                    continue;
                }
                Place::Asked(asked) => (asked.requester.ring().clone(), asked.taken()),
            };
            taken += of_it;
            ready = ready.max(Some(watch.ready(&ring, now_ns, look)));
        }
        // Who has said a reply for which there is no room is free for the next request.
        let held = self.held().take(HELD_AHEAD_MAX).count() as u64;
        let wanted = self.finished + taken + ready.unwrap_or(pullers) + ahead + held;
        let more = wanted > self.granted;
        self.granted = self.granted.max(wanted);
        more
    }
}

impl Watch {
    /// How many look for work now, or have looked since this was asked last.
    fn ready(&mut self, ring: &RingShared, now_ns: u64, look: &mut Look) -> u64 {
        let looking = ring.looking();
        if now_ns >= self.absent_until_ns {
            self.absent.clear();
        } else {
            look.by(self.absent_until_ns);
        }
        let mut ready = 0;
        for (at, now) in looking.iter().enumerate() {
            let moved = self.seen.get(at).is_some_and(|seen| seen != now);
            let absent = self.absent.get(&at) == Some(now);
            ready += u64::from((moved || !now.is_multiple_of(2)) && !absent);
        }
        self.seen = looking;
        ready
    }

    /// Something lay there for too long: who looks for work does not come.
    fn nobody_came(&mut self, ring: &RingShared, now_ns: u64) {
        self.absent = ring.looking().into_iter().enumerate().collect();
        self.absent_until_ns = now_ns.saturating_add(ABSENT_NS);
    }
}

impl Ring {
    fn shared(&self) -> &std::sync::Arc<RingShared> {
        self.publisher.ring()
    }

    /// How many tasks somebody has.
    fn taken(&self) -> u64 {
        let stand = self.shared().stand(self.tasks.keys().copied());
        stand.into_iter().filter(|stands| *stands == Stands::Taken).count() as u64
    }

    /// Lays a task out. Returns it where it is over by that.
    fn lay(&mut self, came: Came) -> Option<(u64, End)> {
        let Came { task, origin, attempt, flags, since_ns, beside, payload, .. } = came;
        let back = End::Back { attempt };
        if self.shared().pullers() == 0 {
            return Some((task, back));
        }
        let codec = Flags::from_bits(flags).unwrap_or_default().codec();
        match self.publisher.push_work(origin, attempt, codec, &Beside::Came(&beside), &payload) {
            Ok(sent) => {
                self.tasks.insert(sent.sequence, (task, since_ns));
                None
            }
            Err(SendError::TooLarge { .. }) => Some((task, End::Lost(Cause::LinkBudget))),
            Err(_) => Some((task, back)),
        }
    }

    /// Takes back what lies here and nobody has. Returns how that ends.
    fn take_back(&mut self) -> Vec<(u64, End)> {
        let (ring, mut ended) = (self.shared().clone(), Vec::new());
        self.tasks.retain(|sequence, (task, _)| {
            let attempt = not_begun(&ring, *sequence);
            // How often it was given is not forgotten, though for that it comes once more.
            let end = |attempt| if attempt > 0 { End::Back { attempt } } else { End::Denied };
            ended.extend(attempt.map(|attempt| (*task, end(attempt))));
            attempt.is_none()
        });
        ended
    }

    /// Takes a task out of reach, whoever has it. `false`: it does not lie here.
    fn cancel(&mut self, task: u64) -> bool {
        let Some(sequence) = self.tasks.iter().find(|(_, (of, _))| *of == task).map(|(at, _)| *at) else {
            return false;
        };
        // What is over here by now was told, and that means nothing any more.
        let _ = self.shared().withdraw(sequence, Cause::Cancelled);
        self.tasks.remove(&sequence).is_some()
    }

    /// Tells what has ended, and takes back what nobody takes.
    fn step(&mut self, pullers: u64, watch: &mut Watch, now_ns: u64, say: &mut Says) -> Ended {
        let mut ended = Ended::default();
        let ring = self.publisher.ring().clone();
        let mut stale = false;
        // From the youngest on: what is not taken back meanwhile was pushed before what is.
        let tasks: Vec<u64> = self.tasks.keys().rev().copied().collect();
        for (sequence, stands) in tasks.iter().zip(ring.stand(tasks.iter().copied())) {
            let Some((task, since_ns)) = self.tasks.get_mut(sequence) else { continue };
            let end = match stands {
                Stands::Done => End::Done,
                Stands::Lost(cause) => End::Lost(cause),
                Stands::Taken => {
                    *since_ns = now_ns;
                    continue;
                }
                Stands::Waiting(attempt) => {
                    let late = now_ns.saturating_sub(*since_ns) >= STALE_NS;
                    if !(late || pullers == 0) || !ring.take_back(*sequence) {
                        continue;
                    }
                    stale = true;
                    End::Back { attempt }
                }
            };
            over(say, *task, end);
            ended.count(end);
            self.tasks.remove(sequence);
        }
        if stale {
            watch.nobody_came(&ring, now_ns);
        }
        ended
    }
}

/// Takes back a message that nobody has. Returns how often it was given.
fn not_begun(ring: &RingShared, sequence: u64) -> Option<u8> {
    let stands = ring.stand([sequence].into_iter()).pop()?;
    let Stands::Waiting(attempt) = stands else { return None };
    ring.take_back(sequence).then_some(attempt)
}

/// A copy, if there is memory for it.
pub(super) fn copied(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).ok()?;
    copy.extend_from_slice(bytes);
    Some(copy)
}

fn over(say: &mut Says, task: u64, end: End) {
    say.word(&Word::Over { task, end });
}

fn tell(say: &mut Says, task: u64, index: u32, state: ReplyState, payload: &[u8]) {
    let state = state as u8;
    if !say.with(&Word::Reply { task, index, state, extensions: 0 }, [payload, &[]]) {
        // Why it failed cannot be told.
        say.word(&Word::Reply { task, index, state, extensions: 0 });
    }
}

#[cfg(test)]
mod tests;
