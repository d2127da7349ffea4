//! The puller's side of one ring: which message it takes, and what it does when it is done.
//!
//! It looks through the claim words from where it was to the publisher's head, and takes the first message that nobody
//! has. What it took it reads as any row does, held where it lies. Messages that were given back lie behind: a count in the group's head says that
//! there are some, and then it begins again at the first that is not over.
//!
//! In a group that acknowledges, each puller watches what the others have: a claim that stood unchanged for as long as an
//! acknowledgement may take is given back, by whoever sees it, with or without its pusher. The time is that of who watches, so a
//! puller that has just come waits once more as long.
//!
//! What was given back is left alone for a while, twice as long each time (`Pauses`): who failed does not fail again at once. Like the
//! time of an acknowledgement the pause is that of who looks, from when it saw the message free, so nothing more is shared and nobody who dies takes a time with
//! it. What was put back unseen has no new attempt, and does not wait, whatever became of it before; but by who lets nothing rest it is put back as it
//! was found, since it may rest for others.
//!
//! Equal pullers get equal shares: who has had `AHEAD_MAX` messages more than one who is looking for work too leaves it the next,
//! and takes it all the same when that one does not come for `COURTESY_NS`. Without this the one that runs takes all while the others
//! wait for a processor.
//!
//! It does not sleep, ring bells or publish dead letters: `busway` does.
//!
//! Invariants: what it returns was claimed by it and by nobody else since. A look ends after `LOOKS_MAX` words, whatever stands in the
//! head.

use std::collections::BTreeMap;
use std::sync::Arc;

use busway_wire::{Acknowledge, Cause, Group, Policy};

use super::{Message, RowReader, RowShared, Taken};
use crate::arena::PeerArena;
use crate::claims::file::Run;
use crate::claims::{Claim, Found, Owner};
use crate::counters;
use crate::layout::{RingEntry, state, unkey};
use crate::seat::EntryKey;
use crate::sync::{Ordering, fence};
use crate::sys::futex;
use crate::view::Mapped;
use crate::view::futex_half;

mod resting;

pub use resting::Pauses;
use resting::Resting;

/// Claim words in one look.
const LOOKS_MAX: u32 = 4096;
/// Claims of others that are watched at a time: the oldest. What is behind them is watched when they are over.
const WATCHED_MAX: usize = 256;
/// So many messages more than another puller one may have had. Short bursts go to who is ready first; of a hundred thousand it is
/// well below a percent.
const AHEAD_MAX: u64 = 128;
/// So long one who is ahead waits for one who is not: some time slices of a machine with more work than processors. A
/// process that is stopped while it looks for work costs this once.
const COURTESY_NS: u64 = 20_000_000;

/// What a look for a message found.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is returned, and a box would be an allocation"
)]
pub enum Pulled {
    /// A message, which is this puller's until it says that it is done.
    Message(Message, Task),
    /// Nothing yet.
    Nothing,
    /// Nothing in so many words, and there are more; or another puller is left the next. Look again soon.
    Unfinished,
    /// The pusher is gone and nothing is left.
    End,
    /// So many messages are held that the next, too large to copy, cannot be taken.
    HoldsExhausted,
}

/// A claim that its puller must end.
#[derive(Debug)]
pub struct Task {
    row: Arc<RowShared>,
    run: Run,
    claim: Claim,
    /// Who had given it back, where its puller has not let it rest as others do.
    before: Owner,
}

impl Task {
    /// How often the message was given to a puller before.
    pub fn attempt(&self) -> u8 {
        self.claim.attempt()
    }

    /// The message was handled. `false`: too late, it was given to another.
    pub fn done(self) -> bool {
        !self.row.own.forked() && self.ended(self.run.claims().done(self.claim))
    }

    /// The message was not handled: another puller gets it, or the same. `false`: that was done by somebody already.
    pub fn give_back(self) -> bool {
        let in_time = !self.row.own.forked() && self.run.claims().give_back(self.claim);
        if in_time {
            self.run.head().returned.fetch_add(1, Ordering::Release); // pairs with Acquire in `look`
        }
        in_time
    }

    /// The message was not looked at: another puller gets it at once, and nothing is counted. `false`: it was given to another already.
    pub fn put_back(self) -> bool {
        let in_time = !self.row.own.forked() && self.run.claims().put_back_to(self.claim, self.before);
        if in_time {
            self.run.head().returned.fetch_add(1, Ordering::Release); // pairs with Acquire in `look`
        }
        in_time
    }

    /// As [`Task::give_back`], of a message that was given to pullers so often in all; as often as before, it was not looked at.
    pub fn give_back_as(self, attempt: u8) -> bool {
        let in_time = !self.row.own.forked() && self.run.claims().give_back_as(self.claim, attempt);
        if in_time {
            self.run.head().returned.fetch_add(1, Ordering::Release); // pairs with Acquire in `look`
        }
        in_time
    }

    /// The message is lost, and counted as such.
    pub fn lose(self, cause: Cause) -> bool {
        !self.row.own.forked() && self.ended(self.run.claims().lose(self.claim, cause as u8))
    }

    /// Who pushed it, to be asked later whether it is there.
    pub fn pusher(&self) -> Pusher {
        Pusher { peer: self.row.peer.clone(), ring: self.row.ring.clone(), key: self.row.ring_key }
    }

    /// Whether the message is this puller's still, and its pusher is there.
    pub fn is_wanted(&self) -> bool {
        !self.row.own.forked()
            && !self.row.peer.life().is_gone()
            && self.run.claims().look(self.claim.sequence()) == Found::Taken(self.claim)
    }

    /// Whether the message is this puller's still, whatever became of its pusher.
    pub fn is_held(&self) -> bool {
        !self.row.own.forked() && self.run.claims().look(self.claim.sequence()) == Found::Taken(self.claim)
    }

    fn ended(&self, in_time: bool) -> bool {
        if !in_time {
            self.run.head().late.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let wanted = self.row.ring.waiting.word.load(Ordering::Relaxed);
        // Those before it may be missing still: a pusher that waits looks once a slice anyway.
        let far = (self.claim.sequence() as u32).wrapping_add(1).wrapping_sub(wanted) <= u32::MAX / 2;
        if wanted != 0 && far {
            fence(Ordering::SeqCst); // pairs with the fence in `room::sleep`
            let woken = &self.run.head().woken;
            woken.fetch_add(1, Ordering::Release); // pairs with Acquire in `room::sleep`
            futex::wake_all(futex_half(woken));
        }
        true
    }
}

/// A pusher, as long as somebody wants to know whether it is there. It keeps its memory mapped, and no row.
#[derive(Clone, Debug)]
pub struct Pusher {
    peer: Arc<PeerArena>,
    ring: Mapped<RingEntry>,
    key: EntryKey,
}

impl Pusher {
    /// Whether it was closed, or its process is dead or has left.
    pub fn is_gone(&self) -> bool {
        is_over(&self.ring, self.key) || self.peer.life().is_gone()
    }
}

fn is_over(ring: &RingEntry, ring_key: EntryKey) -> bool {
    let (generation, at) = unkey(ring.key.load(Ordering::Acquire)); // pairs with Release in `RingShared::leave`
    generation != ring_key.generation || matches!(at, state::CLOSED | state::FREE)
}

/// A puller on one ring.
#[derive(Debug)]
pub struct GroupReader {
    reader: RowReader,
    run: Run,
    owner: Owner,
    acknowledge: Option<Acknowledge>,
    /// All messages up to here are over.
    low: u64,
    /// The next to look at.
    at: u64,
    /// The count of messages given back when it was seen last.
    returned: u64,
    taken: u64,
    /// What it says that it has taken: those who were away are not owed all that they missed.
    turn: u64,
    looking: u64,
    /// Whom it leaves the next message, since when, and how often that one had looked.
    courtesy: Option<(usize, u64, u64)>,
    /// Who did not come though a message was left to it, and how often it had looked: it is not waited for again before it looks
    /// anew.
    absent: BTreeMap<usize, u64>,
    /// Claims of which it knows since when they have stood.
    watched: BTreeMap<u64, (Claim, u64)>,
    resting: Resting,
}

impl GroupReader {
    /// The reader of a row that has its seat, and its place in the group.
    pub fn new(row: Arc<RowShared>, run: Run, owner: Owner, group: &Group, foreign: bool) -> Self {
        let low = row.entry.cursor.load(Ordering::Relaxed);
        let policy = Policy::DropOldest { depth: Policy::DEPTH_RING };
        let mut reader = RowReader::new(row, policy, foreign);
        // What becomes of a message stands in its claim word, and nothing in the row.
        reader.confirm_later();
        let turn = run.lines().iter().map(|line| line.turn.load(Ordering::Relaxed)).max().unwrap_or(0);
        Self {
            reader,
            run,
            owner,
            acknowledge: group.acknowledge(),
            low,
            at: low + 1,
            returned: 0,
            taken: 0,
            turn,
            looking: 0,
            courtesy: None,
            absent: BTreeMap::new(),
            watched: BTreeMap::new(),
            resting: Resting::default(),
        }
    }

    /// What was given back is left alone for so long. Without this it is taken at once.
    pub fn rests(&mut self, pauses: Pauses) {
        self.resting.pauses = pauses;
    }

    /// Whether the claim is of this row.
    pub fn has(&self, task: &Task) -> bool {
        Arc::ptr_eq(&task.row, self.row())
    }

    /// Leaves a message to others until then, as it was. It is no news to this puller, which would look at all that it leaves again for each.
    /// `false`: it is not its any more.
    pub fn leave(&mut self, task: Task, until_ns: u64) -> bool {
        let sequence = task.claim.sequence();
        let left = self.give_back_unseen(task);
        if left {
            self.resting.leave(sequence, until_ns);
        }
        left
    }

    /// As [`GroupReader::leave`], but no longer than until [`GroupReader::has_room`].
    pub fn leave_for_room(&mut self, task: Task, until_ns: u64) -> bool {
        let sequence = task.claim.sequence();
        let left = self.give_back_unseen(task);
        if left {
            self.resting.leave_for_room(sequence, until_ns);
        }
        left
    }

    /// The first so many that were left for want of room are looked at again. Returns whether there are more.
    pub fn has_room(&mut self, count: usize) -> bool {
        if let Some(first) = self.resting.has_room(count) {
            self.at = self.at.min(first).max(self.low + 1);
        }
        self.resting.lacks_room()
    }

    fn give_back_unseen(&mut self, task: Task) -> bool {
        let attempt = task.claim.attempt();
        if self.row().own.forked() || !self.run.claims().give_back_as(task.claim, attempt) {
            return false;
        }
        let before = self.run.head().returned.fetch_add(1, Ordering::Release); // pairs with Acquire in `come_up`
        if before == self.returned {
            self.returned = before.wrapping_add(1);
        }
        true
    }

    /// When something that was given back may be taken again.
    pub fn rested_ns(&self) -> Option<u64> {
        self.resting.next_ns
    }

    /// The row.
    pub fn row(&self) -> &Arc<RowShared> {
        self.reader.row()
    }

    /// Messages taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Acknowledgements of this group on this ring that came too late, of all pullers.
    pub fn late(&self) -> u64 {
        self.run.head().late.load(Ordering::Relaxed)
    }

    fn line(&self) -> Option<&crate::claims::file::PullerLine> {
        self.run.lines().get(usize::from(self.owner.0).wrapping_sub(1))
    }

    /// Takes a message if one is free. Never waits. `now_ns` is asked only where another is ahead, or something was given back.
    pub fn pull(&mut self, now_ns: impl Fn() -> u64) -> Pulled {
        // Read in this order: everything that a dead process stored is visible once its death is.
        let over = self.publisher_is_gone();
        let head = self.row().head();
        self.come_up(head);
        if let Some(rested) = self.resting.rested(&now_ns) {
            self.at = self.at.min(rested).max(self.low + 1);
        }
        self.say_looking();
        if self.at > head {
            return if over && self.nothing_follows(head) { Pulled::End } else { Pulled::Nothing };
        }
        if self.is_courteous(&now_ns) {
            return Pulled::Unfinished;
        }
        for _ in 0..LOOKS_MAX {
            if self.at > head {
                return Pulled::Nothing;
            }
            let sequence = self.at;
            self.at += 1;
            if self.resting.is_left(sequence, &now_ns) || self.is_resting(sequence, &now_ns) {
                continue;
            }
            let Some((claim, before)) = self.run.claims().claim_from(sequence, self.owner) else { continue };
            // What has rested here has rested for all.
            let before = if self.resting.has_rested(sequence, claim.attempt()) { Owner(0) } else { before };
            if let Some(pulled) = self.read(claim, before) {
                return pulled;
            }
        }
        Pulled::Unfinished
    }

    /// Whether a message was given back a short while ago, and is to be given to a puller again.
    fn is_resting(&mut self, sequence: u64, now_ns: impl FnOnce() -> u64) -> bool {
        let Some(how) = self.acknowledge.filter(|_| self.resting.pauses.first_ns > 0) else { return false };
        match self.run.claims().look(sequence) {
            // What came so has rested elsewhere, and what was put back unseen rests for nobody.
            Found::Free(attempt)
                if attempt > 0 && attempt < how.attempts && self.run.claims().was_given_back(sequence) =>
            {
                self.resting.is_resting(sequence, attempt, now_ns())
            }
            // It is not to be had, also where it comes free behind this look: who gives it back calls. As it was it goes on resting.
            Found::Taken(_) => true,
            _ => {
                self.resting.forget(sequence);
                false
            }
        }
    }

    /// Goes past what is over.
    fn come_up(&mut self, head: u64) {
        let slots = u64::from(self.run.at().slots);
        // What is a whole turn back is over, or its successor would not be there.
        self.low = self.low.max(head.saturating_sub(slots));
        for _ in 0..LOOKS_MAX {
            if self.low >= head || !self.run.claims().look(self.low + 1).is_over() {
                break;
            }
            self.low += 1;
        }
        self.resting.forget_up_to(self.low);
        let returned = self.run.head().returned.load(Ordering::Acquire); // pairs with Release in `Task::give_back`
        if returned != self.returned {
            self.returned = returned;
            self.at = self.low + 1;
        }
        self.at = self.at.max(self.low + 1);
    }

    /// `None`: it was no message; look on.
    fn read(&mut self, claim: Claim, before: Owner) -> Option<Pulled> {
        let task = Task { row: self.row().clone(), run: self.run.clone(), claim, before };
        let instead = match self.reader.take_at(claim.sequence()) {
            Taken::Message(message) if message.sequence == claim.sequence() => {
                self.say_taken();
                // For who counts what this process took: the account is the group's.
                counters::add(&self.row().entry.delivered, 1);
                return Some(Pulled::Message(message, task));
            }
            // What lay there was no message: nobody else would find one.
            Taken::Message(_) | Taken::Gap(_) | Taken::Evicted(_) => {
                task.lose(Cause::Corrupt);
                return None;
            }
            // Another row of this process may hold all that it may hold: its user must know.
            Taken::HoldsExhausted => Pulled::HoldsExhausted,
            // The head said that it is there: a pusher that says so and writes nothing would be looked at for ever.
            Taken::Empty | Taken::End if self.row().is_attached() => {
                task.lose(Cause::Corrupt);
                return None;
            }
            // Our seat is not there yet.
            Taken::Empty | Taken::End => Pulled::Unfinished,
        };
        self.run.claims().put_back_to(claim, before);
        self.run.head().returned.fetch_add(1, Ordering::Release); // pairs with Acquire in `come_up`
        Some(instead)
    }

    fn publisher_is_gone(&self) -> bool {
        let row = self.row();
        is_over(&row.ring, row.ring_key) || row.peer.life().is_gone()
    }

    /// Whether no message up to `head` can come free again. Where nothing is acknowledged, none does.
    fn nothing_follows(&self, head: u64) -> bool {
        let claims = self.run.claims();
        let open = |sequence: u64| match claims.look(sequence) {
            Found::Free(_) => true,
            Found::Taken(_) => self.acknowledge.is_some(),
            Found::Done | Found::Lost(_) | Found::Other => false,
        };
        !(self.low + 1..=head).take(self.run.at().slots as usize).any(open)
    }

    /// Gives back what somebody has had for too long; returns how many messages that were, and when to look again at the latest.
    pub fn watch(&mut self, now_ns: u64) -> (u32, Option<u64>) {
        let Some(Acknowledge { within_ms, .. }) = self.acknowledge else { return (0, None) };
        let within_ns = u64::from(within_ms) * 1_000_000;
        let head = self.row().head();
        self.come_up(head);
        let mut seen = BTreeMap::new();
        let mut returned = 0;
        for sequence in (self.low + 1..=head).take(LOOKS_MAX as usize) {
            if seen.len() >= WATCHED_MAX {
                break;
            }
            let Found::Taken(claim) = self.run.claims().look(sequence) else { continue };
            let known = self.watched.get(&sequence).filter(|(known, _)| *known == claim);
            let since = known.map_or(now_ns, |(_, since)| *since);
            if now_ns.saturating_sub(since) < within_ns {
                seen.insert(sequence, (claim, since));
            } else if self.run.claims().give_back(claim) {
                returned += 1;
            }
        }
        if returned > 0 {
            self.run.head().returned.fetch_add(u64::from(returned), Ordering::Release); // pairs with Acquire in `come_up`
        }
        let next = seen.values().map(|(_, since)| since.saturating_add(within_ns)).min();
        self.watched = seen;
        (returned, next)
    }

    /// Whether every message is over: nothing is to be watched or waited for.
    pub fn has_nothing(&mut self) -> bool {
        let head = self.row().head();
        self.come_up(head);
        self.at > head
    }
}

impl Drop for GroupReader {
    fn drop(&mut self) {
        // What it has taken may take long: nobody need wait for it to take more.
        if !self.row().own.forked() {
            self.run.head().leave(usize::from(self.owner.0).wrapping_sub(1));
        }
    }
}

/// Whose turn it is.
impl GroupReader {
    fn say_looking(&mut self) {
        if self.looking.is_multiple_of(2) {
            self.looking += 1;
            self.tell();
        }
    }

    fn say_taken(&mut self) {
        self.taken += 1;
        self.turn = self.turn.saturating_add(1); // the lines of others lift it
        self.looking += 1;
        self.courtesy = None;
        self.tell();
    }

    /// The puller stops looking without a message: nobody need leave it one.
    pub fn rest(&mut self) {
        if !self.looking.is_multiple_of(2) {
            self.looking += 1;
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some(line) = self.line() {
            line.turn.store(self.turn, Ordering::Relaxed);
            line.looking.store(self.looking, Ordering::Relaxed);
        }
    }

    /// Who has had so many fewer that the next is its, and how often it has looked; and how many the foremost has had.
    fn behind(&self) -> (Option<(usize, u64)>, u64) {
        let me = usize::from(self.owner.0).wrapping_sub(1);
        let mut behind = None;
        let mut foremost = 0;
        for (at, line) in self.run.lines().iter().enumerate().filter(|(at, _)| *at != me) {
            let (turn, looking) = (line.turn.load(Ordering::Relaxed), line.looking.load(Ordering::Relaxed));
            foremost = foremost.max(turn);
            let here = !looking.is_multiple_of(2) && self.absent.get(&at) != Some(&looking);
            if here && turn.saturating_add(AHEAD_MAX) < self.turn {
                behind = behind.min(Some((turn, at, looking))).or(Some((turn, at, looking)));
            }
        }
        (behind.map(|(_, at, looking)| (at, looking)), foremost)
    }

    /// Whether the next message is left to one who has had fewer and looks for work.
    fn is_courteous(&mut self, now_ns: impl FnOnce() -> u64) -> bool {
        // Not at each message: looking takes the lines of the others.
        if self.courtesy.is_none() && !self.turn.is_multiple_of(AHEAD_MAX / 4) {
            return false;
        }
        let (behind, foremost) = self.behind();
        // Nobody is owed more than a few turns, however long it was away.
        self.turn = self.turn.max(foremost.saturating_sub(2 * AHEAD_MAX));
        let Some((at, looking)) = behind else {
            self.courtesy = None;
            return false;
        };
        let now_ns = now_ns();
        match self.courtesy {
            Some((whom, since, when)) if (whom, when) == (at, looking) => {
                let waits = now_ns.saturating_sub(since) < COURTESY_NS;
                if !waits {
                    self.absent.insert(at, looking);
                    self.courtesy = None;
                }
                waits
            }
            _ => {
                self.courtesy = Some((at, now_ns, looking));
                true
            }
        }
    }
}
