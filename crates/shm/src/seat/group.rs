//! Groups as the pusher sees them: to it a group is one gating row of its own.
//!
//! The row's cursor follows the claim words (`claims`): it stands behind the last message before which all are over. So all that
//! is true of a row that blocks is true of a group, in making room, in waiting, in flushing and in the account, and publishing costs
//! what it costs without groups. Two things differ. A group is never stalled: where the ring is full of work the *new* message is
//! refused, since a message that was accepted must not be lost because all are busy. And a group without a puller gates for
//! as long as `late_join` says, and then gives up the oldest where room is needed, as lost to nobody; while other groups are pulled
//! it is over then.
//!
//! A ring that pushes has one group from the start, which has no name: the first puller names it, and so gets what was pushed before
//! it came. A group that comes later begins with the present.
//!
//! A puller has a row and a seat like a subscriber: its holds are respected, so that one who is too late reads no memory that
//! is used again, and when its process dies its seat says so. That is the only way in which a claim is freed at once; claims that are
//! too old are freed by the other pullers (`row::group`), also when the pusher is gone.
//!
//! It knows no topics and no bells: who finds that messages were given back rings.
//!
//! Invariants: (G1) a group's row is written under its lock only, and not once it is over. (G2) a claim word of a member is looked for after the member's
//! death was seen, so that none is made after. (G3) the run of a group is given back when no seat of a member is left.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busway_wire::limits::{GROUP_PULLERS_MAX, GROUPS_MAX};
use busway_wire::{Cause, ProcessId};

use super::request::Standing;
use super::{EntryKey, Rest, RingShared, Seat, place};
use crate::arena::{OwnArena, PeerArena};
use crate::claims::file::{Run, RunAt};
use crate::claims::{Found, Owner};
use crate::clock;
use crate::error::ShmError;
use crate::layout::{RowEntry, unkey};
use crate::sync::{AtomicU64, Ordering};
use crate::view::Mapped;

/// Of a group without pullers so many messages are given up beyond the one whose place is needed, as a part of the ring, so
/// that not each message that follows looks again.
const GIVE_UP_PART: u64 = 8;

/// What a puller is told of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its seat.
    pub seat: u32,
    /// Where the claims of its group lie.
    pub run: RunAt,
    /// As whom it claims.
    pub owner: Owner,
}

/// One group on one ring.
#[derive(Debug)]
pub struct Group {
    row: Mapped<RowEntry>,
    head: Mapped<AtomicU64>,
    late_join_ns: u64,
    slots_max: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    passed: u64,
    named: Option<Named>,
    /// Since when nobody pulls; `None` while somebody does.
    empty_since_ns: Option<u64>,
    /// Since when all who are there only finish what they have.
    left_since_ns: Option<u64>,
    /// Its place was needed since then, and its time was up.
    abandoned: bool,
    /// It has no row any more: who still has it in its list is not stopped by it, and writes nothing.
    over: bool,
}

#[derive(Debug)]
struct Named {
    group: busway_wire::Group,
    run: Run,
    pullers: Vec<Option<(ProcessId, EntryKey)>>,
}

impl Named {
    /// The puller's process and row, if there is one in this place.
    fn who(&self, owner: Owner) -> Option<(ProcessId, EntryKey)> {
        self.pullers.get(usize::from(owner.0).wrapping_sub(1)).copied().flatten()
    }

    /// Pullers that take what comes: not those that have closed and only finish what they have.
    fn takers(&self) -> usize {
        let head = self.run.head();
        let takes = |(place, puller): &(usize, &Option<_>)| puller.is_some() && !head.has_left(*place);
        self.pullers.iter().enumerate().filter(takes).count()
    }
}

/// A seat's place in its group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) group: Arc<Group>,
    pub(crate) owner: Owner,
}

/// What a puller that goes leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Its process died.
    Died,
    /// It closed, after its last task.
    Closed,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All messages up to here are over.
    pub(crate) fn passed(&self) -> u64 {
        let mut state = self.lock();
        self.advance(&mut state);
        state.passed
    }

    /// Moves the row behind all that is over.
    fn advance(&self, state: &mut State) {
        let head = self.head.load(Ordering::Acquire);
        if state.over {
            state.passed = head;
        }
        while state.passed < head {
            let Some(named) = &state.named else { return };
            let (claims, sequence) = (named.run.claims(), state.passed + 1);
            let mut found = claims.look(sequence);
            // Nobody who keeps to the page wrote this: the message is nobody's, and the queue goes on.
            if found == Found::Other && claims.give_up(sequence, Cause::Corrupt as u8) {
                found = claims.look(sequence);
            }
            // Nor this, in the name of a puller that there is not: it is as if it had died.
            if let Found::Taken(claim) = found
                && named.who(claim.owner()).is_none()
            {
                if named.group.acknowledge().is_none() {
                    claims.lose(claim, Cause::PullerDied as u8);
                } else if claims.give_back(claim) {
                    named.run.head().returned.fetch_add(1, Ordering::Release); // pairs with Acquire in `row::group`
                }
                found = claims.look(sequence);
            }
            let lost = match found {
                Found::Done => None,
                Found::Lost(cause) => Some(Cause::from_index(cause.into()).unwrap_or(Cause::Corrupt)),
                Found::Free(_) | Found::Taken(_) | Found::Other => return,
            };
            self.pass(state, lost);
        }
    }

    /// Counts the next message, and passes it.
    fn pass(&self, state: &mut State, lost: Option<Cause>) {
        let counter = match lost {
            None => Some(&self.row.delivered),
            Some(cause) => self.row.lost(cause.index()),
        };
        if let Some(counter) = counter {
            // Before the cursor; pairs with Acquire in `ledger::read`.
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        }
        state.passed += 1;
        self.row.cursor.store(state.passed, Ordering::Release); // pairs with Acquire in `ledger::read`
    }

    /// Notes of the next message how often it was given to pullers elsewhere, before it is published.
    fn begin_at(&self, sequence: u64, attempt: u8) {
        let mut state = self.lock();
        self.advance(&mut state);
        // Before that the word says what became of another message, which is still to be counted.
        if state.passed.saturating_add(u64::from(self.slots_max)) < sequence {
            return;
        }
        if let Some(named) = &state.named {
            named.run.claims().begin_at(sequence, attempt);
        }
    }

    /// Whether the group lets the message go whose place is needed, because nobody has pulled for too long.
    pub(crate) fn gives_up(&self, needed: u64, now_ns: u64) -> bool {
        let mut state = self.lock();
        if state.over {
            return true;
        }
        if !self.is_forsaken(&state, now_ns) {
            return false;
        }
        state.abandoned = state.named.is_some();
        let head = self.head.load(Ordering::Acquire);
        let last = needed.saturating_add(u64::from(self.slots_max) / GIVE_UP_PART).min(head);
        while state.passed < last {
            let sequence = state.passed + 1;
            let given_up = match &state.named {
                None => true,
                Some(named) => named.run.claims().give_up(sequence, Cause::NoSubscriber as u8),
            };
            if given_up {
                self.pass(&mut state, Some(Cause::NoSubscriber));
            } else {
                let before = state.passed;
                self.advance(&mut state);
                if state.passed == before {
                    break;
                }
            }
        }
        state.passed >= needed
    }

    /// Whether nobody has pulled for longer than it waits for somebody.
    fn is_forsaken(&self, state: &State, now_ns: u64) -> bool {
        state.empty_since_ns.is_some_and(|since| now_ns.saturating_sub(since) >= self.late_join_ns)
    }

    /// Whether its place was needed while it was forsaken. While others pull it is over then: one that will never come back, a
    /// version of a program for one, would be waited for as long as there is a pusher.
    pub(super) fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// Since when it is forsaken.
    pub(crate) fn forsaken_ns(&self, now_ns: u64) -> Option<u64> {
        let state = self.lock();
        state.empty_since_ns.filter(|_| self.is_forsaken(&state, now_ns))
    }

    /// Where the claims lie, once the group has a name.
    pub(crate) fn run(&self) -> Option<Run> {
        self.lock().named.as_ref().map(|named| named.run.clone())
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        match &self.lock().named {
            Some(named) => format!("group {}", named.group.name()),
            None => "no puller yet".to_owned(),
        }
    }

    /// Those that take what comes.
    fn pullers(&self) -> usize {
        self.lock().named.as_ref().map_or(0, Named::takers)
    }

    /// Since when nobody takes what comes.
    fn unattended_since(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.empty_since_ns.is_some() {
            return state.empty_since_ns;
        }
        if state.named.as_ref().is_some_and(|named| named.takers() > 0) {
            return None;
        }
        // Whoever closed with something in hand said so in its own time, and no more.
        Some(*state.left_since_ns.get_or_insert_with(clock::monotonic_ns))
    }

    /// What became of a request so far.
    fn standing(&self, sequence: u64) -> Standing {
        let state = self.lock();
        let Some(named) = &state.named else { return Standing::Waiting };
        let claims = named.run.claims();
        let process = |owner| named.who(owner).map(|(process, _)| process);
        match claims.look(sequence) {
            Found::Free(_) => Standing::Waiting,
            Found::Taken(claim) => Standing::Taken(process(claim.owner())),
            // The word is of a later message: this one is over, or that would not be there.
            Found::Done | Found::Other => Standing::Done(claims.done_by(sequence).and_then(process)),
            Found::Lost(cause) => Standing::Lost(Cause::from_index(cause.into()).unwrap_or(Cause::Corrupt)),
        }
    }

    /// Takes a puller in.
    fn join(
        &self,
        own: &OwnArena,
        wanted: &busway_wire::Group,
        process: ProcessId,
        row: EntryKey,
    ) -> Result<(Run, Owner), ShmError> {
        let mut state = self.lock();
        if state.named.is_none() {
            let run = own.claims()?.take(own, self.slots_max)?;
            run.claims().begin(state.passed);
            self.row.port.store(wanted.name().id().0, Ordering::Relaxed);
            state.named = Some(Named { group: wanted.clone(), run, pullers: Vec::new() });
        }
        let named = state.named.as_mut().expect("it was given a name");
        if named.pullers.iter().all(Option::is_none) {
            // Nobody is there who acknowledges otherwise.
            named.group = wanted.clone();
        }
        if named.group != *wanted {
            return Err(ShmError::Refused { what: OTHERWISE });
        }
        let free = named.pullers.iter().position(Option::is_none).unwrap_or(named.pullers.len());
        if free >= usize::from(GROUP_PULLERS_MAX) {
            return Err(ShmError::Refused { what: "more pullers of a group than one pusher has room for" });
        }
        if free == named.pullers.len() {
            named.pullers.push(None);
        }
        named.pullers[free] = Some((process, row));
        let used = named.pullers.len() as u64;
        named.run.head().lines.store(used, Ordering::Relaxed);
        if let Some(line) = named.run.lines().get(free) {
            line.looking.store(0, Ordering::Relaxed);
        }
        named.run.head().join(free);
        // At most 256, by the bound above.
        let joined = (named.run.clone(), Owner(free as u16 + 1));
        (state.empty_since_ns, state.left_since_ns, state.abandoned) = (None, None, false);
        Ok(joined)
    }

    /// Lets a puller go, if the place is still its; returns how many messages are free again.
    pub(super) fn leave(&self, owner: Owner, who: (ProcessId, EntryKey), left: Left) -> u32 {
        let mut state = self.lock();
        let head = self.head.load(Ordering::Acquire);
        self.advance(&mut state);
        let from = state.passed + 1;
        let Some(named) = state.named.as_mut().filter(|named| named.who(owner) == Some(who)) else {
            return 0;
        };
        let claims = named.run.claims();
        let mut returned = 0;
        for sequence in from..=head {
            let Found::Taken(claim) = claims.look(sequence) else { continue };
            if claim.owner() != owner {
                continue;
            }
            if named.group.acknowledge().is_some() || left == Left::Closed {
                returned += u32::from(claims.give_back(claim));
            } else {
                claims.lose(claim, Cause::PullerDied as u8);
            }
        }
        if returned > 0 {
            named.run.head().returned.fetch_add(u64::from(returned), Ordering::Release); // pairs with Acquire in `row::group`
        }
        let place = usize::from(owner.0).wrapping_sub(1);
        if let Some(puller) = named.pullers.get_mut(place) {
            *puller = None;
        }
        if let Some(line) = named.run.lines().get(place) {
            line.looking.store(0, Ordering::Relaxed);
        }
        if named.pullers.iter().all(Option::is_none) {
            state.empty_since_ns = Some(clock::monotonic_ns());
        }
        self.advance(&mut state);
        returned
    }
}

impl RingShared {
    /// Opens the ring for groups: from now on it keeps what is pushed for the first.
    pub(crate) fn open_groups(&self) -> Result<(), ShmError> {
        let mut seats = self.lock();
        let seat = self.group_seat(0)?;
        seats.push(seat);
        self.entry.seated.store(seats.len() as u64, Ordering::Relaxed);
        self.raise();
        Ok(())
    }

    /// A row of ours that stands for a group, and its seat.
    fn group_seat(&self, from: u64) -> Result<Seat, ShmError> {
        let (late_join_ns, slots_max) = self.pushes.ok_or(NOT_PUSHED)?;
        let mut seat = self.own_row(from, place::Row::OF_OURS)?;
        let empty_since_ns = Some(clock::monotonic_ns());
        let state = State {
            passed: from,
            named: None,
            empty_since_ns,
            left_since_ns: None,
            abandoned: false,
            over: false,
        };
        let (row, head) = (seat.row.clone(), self.head.clone());
        seat.group = Some(Arc::new(Group { row, head, late_join_ns, slots_max, state: Mutex::new(state) }));
        self.fill_entry(&seat);
        Ok(seat)
    }

    /// Gives a puller's row a seat, and its place in its group. Asked again for the same row, it answers the same.
    ///
    /// # Errors
    /// The row is not what the request says, the ring is not for groups, the group is another than it was or full, or there is
    /// no memory for it.
    pub fn attach_puller(
        &self,
        peer: &Arc<PeerArena>,
        row_key: EntryKey,
        group: &busway_wire::Group,
    ) -> Result<Joined, ShmError> {
        let seat = self.seat_for(peer, row_key, busway_wire::Policy::default(), Some(group))?;
        let member = seat.member.as_ref().ok_or(NOT_PUSHED)?;
        let run = member.group.run().ok_or(NOT_PUSHED)?;
        Ok(Joined { seat: seat.index, run: run.at(), owner: member.owner })
    }

    /// Its messages are for this group alone, which acknowledges as it says here: work of another host, given for these pullers. Before anybody
    /// else knows of it.
    pub fn reserve_for(&self, group: busway_wire::Group) {
        // What was said first holds.
        let _ = self.reserved.set(group);
    }

    /// Finds the group among the seats, or makes it, and takes the puller in.
    pub(super) fn join(
        &self,
        seats: &mut Vec<Seat>,
        wanted: &busway_wire::Group,
        process: ProcessId,
        row: EntryKey,
    ) -> Result<(Member, u64), ShmError> {
        if self.pushes.is_none() {
            return Err(NOT_PUSHED);
        }
        if self.asks() != wanted.name().is_reserved() || !wanted.is_open() {
            return Err(ShmError::Refused { what: "requests are for responders, and work is for pullers" });
        }
        if self.reserved.get().is_some_and(|group| group != wanted) {
            return Err(ShmError::Refused { what: OTHERWISE });
        }
        let groups = || seats.iter().filter_map(|seat| seat.group.as_ref());
        let of_name = |group: &&Arc<Group>| {
            group.lock().named.as_ref().is_none_or(|named| named.group.name() == wanted.name())
        };
        if let Some(group) = groups().find(of_name).cloned() {
            let (_, owner) = group.join(&self.own, wanted, process, row)?;
            let from = group.passed();
            return Ok((Member { group, owner }, from));
        }
        if groups().count() >= GROUPS_MAX {
            self.fold_forsaken(seats)?;
        }
        let seat = self.group_seat(self.head())?;
        let group = seat.group.clone().ok_or(NOT_PUSHED)?;
        // Without its puller it would gate for nobody.
        let joined =
            group.join(&self.own, wanted, process, row).inspect_err(|_| self.fold(&seat, Rest::Kept));
        let ((_, owner), from) = (joined?, group.passed());
        seats.push(seat);
        Ok((Member { group, owner }, from))
    }

    /// Notes of the next message how often it was given to pullers of the first of its groups before.
    pub(super) fn begin_first_at(&self, sequence: u64, attempt: u8) {
        let group = self.lock().iter().find_map(|seat| seat.group.clone());
        if let Some(group) = group {
            group.begin_at(sequence, attempt);
        }
    }

    /// Since when nobody takes what comes for the first of its groups.
    pub(super) fn unattended_since(&self) -> Option<u64> {
        let seats = self.lock();
        seats.iter().find_map(|seat| seat.group.as_ref())?.unattended_since()
    }

    /// What became of a message so far, for the first of its groups.
    pub(super) fn standing_of(&self, sequence: u64) -> Standing {
        let seats = self.lock();
        let group = seats.iter().find_map(|seat| seat.group.as_ref());
        group.map_or(Standing::Waiting, |group| group.standing(sequence))
    }

    /// The claims of the first of its groups.
    pub(super) fn first_run(&self) -> Option<Run> {
        let group = self.lock().iter().find_map(|seat| seat.group.clone())?;
        group.run()
    }

    /// Makes room for another group: the one ends that is forsaken for the longest time.
    fn fold_forsaken(&self, seats: &mut Vec<Seat>) -> Result<(), ShmError> {
        let now_ns = clock::monotonic_ns();
        let since = |seat: &Seat| seat.group.as_ref().and_then(|group| group.forsaken_ns(now_ns));
        let forsaken = seats.iter().enumerate().filter_map(|(at, seat)| Some((since(seat)?, at))).min();
        let Some((_, at)) = forsaken else {
            return Err(ShmError::Refused { what: "more groups than a pusher has room for" });
        };
        let seat = seats.remove(at);
        self.raise();
        self.fold(&seat, Rest::Died); // K5
        Ok(())
    }

    /// How many pullers there are that take what comes.
    pub fn pullers(&self) -> usize {
        self.lock().iter().filter_map(|seat| seat.group.as_ref()).map(|group| group.pullers()).sum()
    }

    /// The claims of a group that is gone, whose row is free next.
    pub(super) fn free_group(&self, group: &Group) {
        let mut state = group.lock();
        state.over = true;
        if let (Some(named), Ok(file)) = (state.named.take(), self.own.claims()) {
            file.give(&self.own, &named.run);
        }
    }
}

const OTHERWISE: &str = "another puller of this group acknowledges otherwise";
const NOT_PUSHED: ShmError = ShmError::Refused { what: "its messages are for subscribers, not for groups" };

/// Whether the row is still in use, so that what it holds counts.
pub(super) fn reads(seat: &Seat) -> bool {
    let (generation, at) = unkey(seat.row.key.load(Ordering::Acquire)); // pairs with Release in `row`
    generation == seat.row_key.generation
        && !matches!(at, crate::layout::state::CLOSED | crate::layout::state::FREE)
}
