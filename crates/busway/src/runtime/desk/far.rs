//! Work of a peer that this host handles: laid out here for the one group that pulls it, and told to the peer as it ends.
//!
//! Tasks of one topic for one group of ours lie in a ring that no other group and no other host sees; requests are asked here anew. The
//! peer gives no more than was granted, and what is granted is what our pullers are ready for: one task for each that looks for work, and
//! so many more as they have handled in [`PREFETCH_NS`] of late, so that who is quick need not wait for a word to go there and back, and who
//! is slow or has stopped keeps nothing from others. What nobody has taken for [`STALE_NS`] goes back to the peer.
//!
//! It does not know links, nor whose the tasks were.
//!
//! Invariant: each task that came is told as over once, or is of a peer that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busway_protocol::Deed;
use busway_shm::clock;
use busway_shm::seat::RingShared;
use busway_shm::seat::work::Stands;
use busway_wire::work::{End, Word};
use busway_wire::{Cause, Flags, ReplyState, Topic};

use super::near::Look;
use super::opener::{For, Wanted};
use super::pulls::Pulls;
use super::{Context, put};
use crate::outcome::SendError;
use crate::publisher::{Beside, Publisher, WorkOrigin};
use crate::requester::{Pending, RequestError, Requester};

/// What nobody has taken for so long is not kept from others: many time slices of a machine with more work than processors, so that it is seldom
/// who only waits for one.
const STALE_NS: u64 = 300_000_000;
/// So much work lies ready beyond what is worked on: what goes to the peer and back is there in far less time.
const PREFETCH_NS: u64 = 5_000_000;
/// And no more than so many tasks for each puller.
const PREFETCH_MAX: u64 = 64;
/// How quick pullers are is measured over at least so long.
const RATE_NS: u64 = 10_000_000;
/// While something is under way it is looked at so often, whatever is heard.
const LOOK_NS: u64 = 20_000_000;
/// A ring of which nothing has come for so long is closed.
const IDLE_NS: u64 = 30_000_000_000;
/// Topics of one pull that are laid out at a time. What comes of another goes back.
const RINGS_MAX: usize = 1_024;
/// Replies of one request that are told before others have their turn.
const REPLIES_MAX: usize = 64;

/// A task that has come.
struct Came {
    task: u64,
    origin: WorkOrigin,
    attempt: u8,
    flags: u8,
    left_ns: u64,
    since_ns: u64,
    payload: Vec<u8>,
}

/// Tasks that lie in a ring, by their place there.
struct Ring {
    publisher: Publisher,
    tasks: BTreeMap<u64, (u64, u64)>,
}

/// Requests that were asked anew.
struct Asked {
    requester: Requester,
    pending: BTreeMap<u64, Pending>,
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
    /// Who looked and took nothing for too long, and what it said then: it counts again when it says something else.
    absent: BTreeMap<usize, u64>,
    used_ns: u64,
}

/// One pull of ours, as far as this peer gives to it.
#[derive(Default)]
struct Taking {
    granted: u64,
    came: u64,
    finished: u64,
    places: BTreeMap<Topic, (Place, Watch)>,
    /// What was handled up to the last measure, when that was, and how many a second since then.
    handled: u64,
    measured: u64,
    measured_ns: u64,
    rate: u64,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Far {
    takings: BTreeMap<u32, Taking>,
    told: BTreeSet<u32>,
}

impl Far {
    /// A task has come.
    pub(super) fn task(
        &mut self,
        context: &Context<'_>,
        pulls: &Pulls,
        word: Word,
        payload: &[u8],
        say: &mut Vec<Vec<u8>>,
    ) {
        let Word::Task { pull, task, topic, source, sequence, attempt, flags, left_ns } = word else {
            return;
        };
        let (since_ns, payload) = (clock::monotonic_ns(), payload.to_vec());
        let origin = WorkOrigin { source, sequence };
        let came = Came { task, origin, attempt, flags, left_ns, since_ns, payload };
        let Some(known) = pulls.get(pull) else { return over(say, task, End::Back { attempt }) };
        let taking = self.takings.entry(pull).or_default();
        if taking.came >= taking.granted {
            // Nobody who keeps to the page gives more than was granted.
            return over(say, task, End::Back { attempt });
        }
        taking.came += 1;
        if topic.is_reserved()
            || !known.pattern.matches(&topic)
            || !context.permits.allow(Deed::Publish, &topic)
        {
            taking.finished += 1;
            return over(say, task, End::Lost(Cause::Denied));
        }
        if let Some((place, watch)) = taking.places.get_mut(&topic) {
            watch.used_ns = since_ns;
            let finished = match place {
                Place::Opening(waiting) => {
                    waiting.push(came);
                    0
                }
                Place::Ring(ring) => ring.lay(came, say),
                Place::Asked(asked) => asked.ask(came, say),
            };
            taking.finished += finished;
            return;
        }
        if taking.places.len() >= RINGS_MAX {
            taking.finished += 1;
            return over(say, task, End::Back { attempt });
        }
        let whom = For { pull, ..context.whom.clone() };
        let wanted = match known.group.name().is_reserved() {
            true => Wanted::Requester(topic.clone()),
            false => Wanted::Pusher(topic.clone(), known.group.name().clone()),
        };
        context.opener.want(whom, wanted);
        let watch = Watch { used_ns: since_ns, ..Watch::default() };
        taking.places.insert(topic, (Place::Opening(vec![came]), watch));
    }

    /// A ring that was wanted is there.
    pub(super) fn laid_out(
        &mut self,
        pull: u32,
        topic: &Topic,
        publisher: Publisher,
        say: &mut Vec<Vec<u8>>,
    ) {
        let Some((taking, waiting)) = self.waiting(pull, topic) else { return };
        let mut ring = Ring { publisher, tasks: BTreeMap::new() };
        let finished: u64 = waiting.into_iter().map(|came| ring.lay(came, say)).sum();
        taking.finished += finished;
        taking.settle(topic, Place::Ring(Box::new(ring)));
    }

    /// A requester that was wanted is there.
    pub(super) fn asks(&mut self, pull: u32, topic: &Topic, requester: Requester, say: &mut Vec<Vec<u8>>) {
        let Some((taking, waiting)) = self.waiting(pull, topic) else { return };
        let mut asked = Asked { requester, pending: BTreeMap::new() };
        let finished: u64 = waiting.into_iter().map(|came| asked.ask(came, say)).sum();
        taking.finished += finished;
        taking.settle(topic, Place::Asked(asked));
    }

    /// It cannot be had: what waits for it goes back.
    pub(super) fn refused(&mut self, pull: u32, topic: &Topic, say: &mut Vec<Vec<u8>>) {
        let Some((taking, waiting)) = self.waiting(pull, topic) else { return };
        for Came { task, attempt, .. } in waiting {
            taking.finished += 1;
            over(say, task, End::Back { attempt });
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

    /// Nobody waits for that request any more.
    pub(super) fn cancel(&mut self, task: u64) {
        for taking in self.takings.values_mut() {
            for (place, _) in taking.places.values_mut() {
                let gone = match place {
                    Place::Opening(waiting) => {
                        let before = waiting.len();
                        waiting.retain(|came| came.task != task);
                        before > waiting.len()
                    }
                    Place::Asked(asked) => asked.pending.remove(&task).is_some(),
                    Place::Ring(_) => false,
                };
                if gone {
                    taking.finished += 1;
                    return;
                }
            }
        }
    }

    /// The link is gone: nobody waits for replies over it.
    pub(super) fn end_requests(&mut self) {
        for taking in self.takings.values_mut() {
            for (place, _) in taking.places.values_mut() {
                match place {
                    Place::Asked(asked) => {
                        taking.finished += asked.pending.len() as u64;
                        asked.pending.clear();
                    }
                    Place::Opening(waiting) => {
                        let before = waiting.len();
                        waiting.retain(|came| came.left_ns == 0);
                        taking.finished += (before - waiting.len()) as u64;
                    }
                    Place::Ring(_) => {}
                }
            }
        }
    }

    /// The peer has started again, or is gone: nothing of what it gave is its any more. What somebody here has, is finished; what nobody has,
    /// is not begun.
    pub(super) fn forget(&mut self) {
        for taking in self.takings.values() {
            for (place, _) in taking.places.values() {
                if let Place::Ring(ring) = place {
                    for sequence in ring.tasks.keys() {
                        // Who has it finishes it.
                        let _ = ring.shared().take_back(*sequence);
                    }
                }
            }
        }
        self.takings.clear();
        self.told.clear();
    }

    /// Tells what has changed. Returns when to look again.
    pub(super) fn step(&mut self, pulls: &Pulls, say: &mut Vec<Vec<u8>>, room: bool) -> Look {
        let mut look = Look::default();
        let now_ns = clock::monotonic_ns();
        for (pull, known) in pulls.all() {
            if self.told.insert(pull) {
                let (pattern, group) = (known.pattern.clone(), known.group.clone());
                put(say, &Word::Pull { pull, pattern, group });
                self.takings.entry(pull).or_default();
            }
        }
        let gone: Vec<u32> = self.told.iter().filter(|pull| pulls.get(**pull).is_none()).copied().collect();
        for pull in gone {
            self.told.remove(&pull);
            put(say, &Word::Unpull { pull });
        }
        self.takings.retain(|pull, taking| {
            let pullers = pulls.get(*pull).map_or(0, |known| known.pullers);
            let busy = taking.step(pullers, now_ns, say, room, &mut look);
            if pullers > 0 && taking.grant(pullers, now_ns) {
                put(say, &Word::Grant { pull: *pull, tasks: taking.granted });
            }
            busy || pullers > 0
        });
        look
    }
}

impl Taking {
    fn settle(&mut self, topic: &Topic, place: Place) {
        if let Some((former, _)) = self.places.get_mut(topic) {
            *former = place;
        }
    }

    /// Whether something is under way.
    fn step(
        &mut self,
        pullers: u64,
        now_ns: u64,
        say: &mut Vec<Vec<u8>>,
        room: bool,
        look: &mut Look,
    ) -> bool {
        let mut busy = false;
        let before = self.finished;
        self.places.retain(|_, (place, watch)| {
            let (finished, under_way) = match place {
                Place::Opening(waiting) => (0, waiting.len()),
                Place::Ring(ring) => (ring.step(pullers, watch, now_ns, say), ring.tasks.len()),
                Place::Asked(asked) => (asked.step(say, room, look), asked.pending.len()),
            };
            self.finished += finished;
            busy |= under_way > 0;
            look.any |= under_way > 0 && matches!(place, Place::Asked(_));
            let idle = now_ns.saturating_sub(watch.used_ns) >= IDLE_NS || pullers == 0;
            under_way > 0 || !idle
        });
        self.handled += self.finished - before;
        if busy {
            look.by(now_ns.saturating_add(LOOK_NS));
        }
        busy
    }

    /// Whether the peer may give more than it was told.
    fn grant(&mut self, pullers: u64, now_ns: u64) -> bool {
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
                Place::Asked(asked) => (asked.requester.ring().clone(), asked.taken()),
            };
            taken += of_it;
            ready = ready.max(Some(watch.ready(&ring)));
        }
        let wanted = self.finished + taken + ready.unwrap_or(pullers) + ahead;
        let more = wanted > self.granted;
        self.granted = self.granted.max(wanted);
        more
    }
}

impl Watch {
    /// How many look for work now, or have looked since this was asked last.
    fn ready(&mut self, ring: &RingShared) -> u64 {
        let looking = ring.looking();
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
    fn nobody_came(&mut self, ring: &RingShared) {
        self.absent = ring.looking().into_iter().enumerate().collect();
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

    /// Lays a task out. Returns how many are over by that.
    fn lay(&mut self, came: Came, say: &mut Vec<Vec<u8>>) -> u64 {
        let Came { task, origin, attempt, flags, since_ns, payload, .. } = came;
        let back = End::Back { attempt };
        let end = if self.shared().pullers() == 0 {
            back
        } else {
            let codec = Flags::from_bits(flags).unwrap_or_default().codec();
            match self.publisher.push_work(origin, attempt, codec, &Beside::NOTHING, &payload) {
                Ok(sent) => {
                    self.tasks.insert(sent.sequence, (task, since_ns));
                    return 0;
                }
                Err(SendError::TooLarge { .. }) => End::Lost(Cause::LinkBudget),
                Err(_) => back,
            }
        };
        over(say, task, end);
        1
    }

    /// Tells what has ended, and takes back what nobody takes. Returns how many that were.
    fn step(&mut self, pullers: u64, watch: &mut Watch, now_ns: u64, say: &mut Vec<Vec<u8>>) -> u64 {
        let before = self.tasks.len();
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
            self.tasks.remove(sequence);
        }
        if stale {
            watch.nobody_came(&ring);
        }
        (before - self.tasks.len()) as u64
    }
}

impl Asked {
    fn taken(&self) -> u64 {
        let ring = self.requester.ring();
        let stand = ring.stand(self.pending.values().map(Pending::sequence));
        stand.into_iter().filter(|stands| *stands == Stands::Taken).count() as u64
    }

    /// Asks. Returns how many requests are over by that.
    fn ask(&mut self, came: Came, say: &mut Vec<Vec<u8>>) -> u64 {
        let Came { task, attempt, left_ns, since_ns, payload, .. } = came;
        let spent_ns = clock::monotonic_ns().saturating_sub(since_ns);
        let left = Duration::from_nanos(left_ns.saturating_sub(spent_ns));
        let end = match self.requester.send(&payload, left) {
            Ok(pending) => {
                self.pending.insert(task, pending);
                return 0;
            }
            Err(RequestError::TimedOut) => End::Lost(Cause::Expired),
            Err(RequestError::Send(SendError::TooLarge { .. })) => End::Lost(Cause::LinkBudget),
            Err(_) => End::Back { attempt },
        };
        over(say, task, end);
        1
    }

    /// Tells the replies that have come. Returns how many requests are over.
    fn step(&mut self, say: &mut Vec<Vec<u8>>, room: bool, look: &mut Look) -> u64 {
        if !room {
            return 0;
        }
        let before = self.pending.len();
        self.pending.retain(|task, pending| {
            for _ in 0..REPLIES_MAX {
                match pending.try_recv() {
                    Ok(Some(reply)) => {
                        let last = reply.is_last();
                        let state = if last { ReplyState::Last } else { ReplyState::Part };
                        tell(say, *task, reply.index(), state, &reply);
                        if last {
                            over(say, *task, End::Done);
                            return false;
                        }
                    }
                    Ok(None) if pending.is_over() => {
                        over(say, *task, End::Done);
                        return false;
                    }
                    Ok(None) => return true,
                    Err(error) => {
                        failed(say, *task, &error);
                        return false;
                    }
                }
            }
            look.again = true;
            true
        });
        (before - self.pending.len()) as u64
    }
}

/// A request has come to an error.
fn failed(say: &mut Vec<Vec<u8>>, task: u64, error: &RequestError) {
    // What is no reply has no place among them: who takes it gives it one.
    let last = 0;
    match error {
        RequestError::NoResponders => over(say, task, End::Back { attempt: 0 }),
        RequestError::ResponderDied => {
            tell(say, task, last, ReplyState::Died, &[]);
            over(say, task, End::Lost(Cause::PullerDied));
        }
        RequestError::TimedOut => over(say, task, End::Lost(Cause::Expired)),
        RequestError::Failed(why) => {
            tell(say, task, last, ReplyState::Failed, why);
            over(say, task, End::Done);
        }
        RequestError::Unanswered => {
            tell(say, task, last, ReplyState::Unanswered, &[]);
            over(say, task, End::Done);
        }
        // Done, and no reply: who asked is told that it is lost.
        RequestError::ReplyLost
        | RequestError::TooMany
        | RequestError::TooFarAhead
        | RequestError::Send(_)
        | RequestError::Receive(_) => over(say, task, End::Done),
    }
}

fn over(say: &mut Vec<Vec<u8>>, task: u64, end: End) {
    put(say, &Word::Over { task, end });
}

fn tell(say: &mut Vec<Vec<u8>>, task: u64, index: u32, state: ReplyState, payload: &[u8]) {
    let mut body = Vec::new();
    busway_wire::work::encode(&Word::Reply { task, index, state: state as u8 }, payload, &mut body);
    say.push(body);
}
