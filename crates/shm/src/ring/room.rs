//! Who waits for whom: making room for the next message.
//!
//! A message may take its slot when every gating row has passed what lies there. If one has not: the ring grows if
//! it may; rows that ask for it are evicted; a row that asks for it makes the send fail; the others are waited for,
//! each no longer than the ring's `max_wait`, after which it is stalled and gates no more until it has caught up.
//! A row whose process has died gates no more from the moment its life word says so, but where its place is kept
//! (`seat::place`).
//!
//! A ring grows too where its messages follow each other so closely that the looks would take their time from the rows.
//!
//! Invariant: no row can make a publisher wait longer than `max_wait` in one piece, and all rows together no longer
//! than twice that for one message, however many older ones must give way for its slot, its bytes and its memory, and
//! whatever the rows write or fail to write: the wait is bounded by our own clock. What a message has waited so far stands
//! in `sent.waited_ns`, which begins anew with the next.

use std::time::Duration;

use busway_wire::Policy;

use super::stage::new_stage;
use super::{Patience, Refusal, RingWriter, RowName};
use crate::clock;
use crate::error::ShmError;
use crate::layout::state;
use crate::life;
use crate::seat::{Progress, Seat, between};
use crate::slot::ChunkRef;
use crate::sync::{Ordering, fence};
use crate::sys::futex;
use crate::view::futex_half;

/// A missed wake costs at most this: the subscriber looks at `waiting` without a fence while it is busy.
const WAIT_SLICE_NS: u64 = 1_000_000;
/// Slots that a ring of messages which follow each other closely has at least, where it may: 32 KiB, which the nearest
/// cache holds.
const SLOTS_BUSY: u64 = 256;
/// So many looks at the rows within a tick of the coarse clock make a ring such a one: 128 messages in 1-4 ms. A host
/// publishes so on some hundred topics at most.
const LOOKS_BUSY: u32 = 8;
/// Looks before the first sleep, each after a longer pause than the last. Looking takes the cursor's cache line from
/// the subscriber: looked at all the time, it would cost the subscriber a transfer for every message.
const SPINS: u32 = 48;

/// What must give way.
#[derive(Clone, Copy)]
enum Needed {
    /// Whatever lies in the slot that this message takes; nothing while the first turn lasts.
    SlotFor(u64),
    /// This message, for its bytes.
    Message(u64),
}

impl Needed {
    /// The message that must give way where a row may be so many behind.
    fn sequence(self, reach: u64) -> u64 {
        match self {
            Self::SlotFor(sequence) => sequence.saturating_sub(reach),
            Self::Message(oldest) => oldest,
        }
    }
}

/// What a look at the seats found.
struct Survey {
    /// Everything below was passed by every gating row.
    gate: u64,
    /// Everything below was passed by every row.
    slowest: u64,
    /// Rows that were stalled and gate again.
    back: Vec<usize>,
}

impl RingWriter {
    #[cold]
    pub(super) fn make_room(&mut self, sequence: u64, patience: Patience) -> Result<(), Refusal> {
        self.pass(Needed::SlotFor(sequence), patience)?;
        self.grow_for_history(sequence);
        let slots = self.stage.mask + 1;
        let gated = self.gate.saturating_sub(1).saturating_add(self.reach());
        self.limit = gated.min(sequence + slots / 2 - 1);
        debug_assert!(self.limit >= sequence, "room was made");
        self.grow_if_busy(slots);
        Ok(())
    }

    /// How many messages a gating row may be behind: the slots, or fewer where that was said.
    fn reach(&self) -> u64 {
        self.behind_max.min(self.stage.mask + 1)
    }

    /// Makes the ring larger where a message that is kept for a time would give way before the next look.
    fn grow_for_history(&mut self, sequence: u64) {
        let slots = self.stage.mask + 1;
        let gives_way = (sequence + slots / 2 - 1).saturating_sub(slots);
        if gives_way > 0 && self.shared.outdated().is_some_and(|outdated| gives_way > outdated) {
            self.grow(slots + 1);
        }
    }

    /// Makes a small ring larger whose messages follow each other closely: each look takes the cursor's line from a
    /// subscriber, who must have it back before its next message, and there are fewer looks in a larger ring.
    fn grow_if_busy(&mut self, slots: u64) {
        if slots >= SLOTS_BUSY || self.places.is_empty() {
            return;
        }
        let tick_ns = clock::monotonic_coarse_ns();
        self.looks = if self.looks.0 == tick_ns { (tick_ns, self.looks.1 + 1) } else { (tick_ns, 1) };
        if self.looks.1 >= LOOKS_BUSY {
            // Also where there is no memory for it: not again at once.
            self.looks.1 = 0;
            self.grow(SLOTS_BUSY);
        }
    }

    /// Gives up the oldest messages until a chunk of `class` bytes fits the ring's budget.
    pub(super) fn make_bytes(&mut self, class: u64, patience: Patience) -> Result<(), Refusal> {
        while self.chunk_bytes + class > self.options.bytes_max && self.give_up_oldest(patience)? {}
        Ok(())
    }

    /// Notes how many bytes the ring may take if messages that every gating row has passed give way, and looks how far the
    /// rows are where a chunk of `class` bytes needs to know. Waits for nobody: it is only so that neither lies between a
    /// message that is ready and its readers.
    pub(super) fn look_for_bytes(&mut self, class: u64) {
        self.spare_bytes = self.count_spare(class);
        if self.spare_bytes < class && self.chunks.front().is_some_and(|(oldest, _)| *oldest >= self.gate) {
            let oldest = self.chunks.front().map_or(0, |(oldest, _)| *oldest);
            self.gate = self.look(Needed::Message(oldest)).gate;
            self.spare_bytes = self.count_spare(class);
        }
    }

    /// Counts until there is enough for `wanted`.
    fn count_spare(&self, wanted: u64) -> u64 {
        let mut spare = self.options.bytes_max.saturating_sub(self.chunk_bytes);
        for (sequence, sized) in &self.chunks {
            if spare >= wanted || *sequence >= self.gate {
                break;
            }
            spare += sized.class;
        }
        spare
    }

    /// Gives up what `spare_bytes` counted on, when `class` bytes more are in the ring.
    pub(super) fn give_up_passed(&mut self, class: u64) {
        self.spare_bytes = self.spare_bytes.saturating_sub(class);
        while self.chunk_bytes + class > self.options.bytes_max && self.give_up_front() {}
    }

    /// Gives up the messages that every row has passed, but for the last and the history that is promised, so that their
    /// memory, which the caches still have, is used again before other memory. While nobody reads, all of them stay.
    #[cold]
    pub(super) fn reuse_read(&mut self) {
        self.unread_bytes = 0;
        let Some(&(oldest, _)) = self.chunks.front() else { return };
        let survey = self.look(Needed::Message(oldest));
        self.gate = survey.gate;
        // A survey leaves out those that do not gate, where it may. Of what they have passed a hint is enough.
        let passed = |seat: &Seat| match seat.progress(self.head) {
            Progress::Passed(cursor) if seat.counts() => Some(cursor),
            Progress::Passed(_) | Progress::Closed => None,
        };
        let Some(passed) = self.places.iter().filter_map(passed).min() else { return };
        let kept = self.head.saturating_sub(u64::from(self.options.history).max(1));
        let kept = self.shared.outdated().map_or(kept, |outdated| outdated.min(kept));
        let most = passed.min(kept).min(self.gate.saturating_sub(1));
        while self.chunks.front().is_some_and(|(oldest, _)| *oldest <= most) && self.give_up_front() {}
        self.recycle_all();
    }

    /// Finds a chunk of `class` bytes though memory was `refused`: gives up the oldest messages, as a full ring does,
    /// and then waits for those who hold what was given up.
    #[cold]
    pub(super) fn make_chunk(
        &mut self,
        class: u64,
        mut refused: ShmError,
        patience: Patience,
    ) -> Result<ChunkRef, Refusal> {
        // What can never fit is no reason to give anything up.
        if matches!(refused, ShmError::Budget { budget: most, .. } | ShmError::Share { most, .. } if class > most)
        {
            return Err(Refusal::Memory(refused));
        }
        let mut waited_ns = 0;
        loop {
            let gave_up = self.give_up_oldest(patience)?;
            self.recycle_all();
            let own = self.shared.own().clone();
            self.recycler.give_back_others(&own, class);
            match self.find_chunk(class) {
                Ok(chunk) => return Ok(chunk),
                Err(error) => refused = error,
            }
            if gave_up {
                continue;
            }
            let expired = match patience {
                Patience::None => true,
                Patience::Until(deadline) => deadline.expired(),
            };
            let waited = waited_ns >= self.options.max_wait_ns || self.sent.waited_ns >= self.wait_most_ns();
            // Who does not gate is not waited for, whatever it holds.
            let gated = self.places.iter().any(|seat| seat.gates && seat.counts());
            if expired || waited || !gated || !self.recycler.waits() || own.closed() {
                self.sent.waited_ns = 0;
                return Err(Refusal::Memory(refused));
            }
            let before = clock::monotonic_ns();
            // Nobody tells us that a sample was dropped: one look a slice.
            let word = &self.shared.entry().waiting.word;
            let _ =
                futex::wait(word, word.load(Ordering::Relaxed), Some(Duration::from_nanos(WAIT_SLICE_NS)));
            let slept_ns = clock::monotonic_ns().saturating_sub(before);
            waited_ns += slept_ns;
            self.sent.waited_ns += slept_ns;
        }
    }

    /// Gives up the oldest message that has a chunk, once every gating row has passed it; false where none has one.
    fn give_up_oldest(&mut self, patience: Patience) -> Result<bool, Refusal> {
        let Some(&(oldest, _)) = self.chunks.front() else { return Ok(false) };
        if oldest >= self.gate {
            self.pass(Needed::Message(oldest), patience)?;
        }
        Ok(self.give_up_front())
    }

    pub(super) fn give_up_front(&mut self) -> bool {
        let Some((oldest, sized)) = self.chunks.pop_front() else { return false };
        self.shared.give_up(oldest);
        self.overwrite(oldest);
        self.chunk_bytes -= sized.class;
        self.recycler.retire(sized);
        true
    }

    /// Returns when what is needed may be taken from all gating rows.
    fn pass(&mut self, what: Needed, patience: Patience) -> Result<(), Refusal> {
        let mut started = 0;
        let mut spins = 0;
        loop {
            let survey = self.look(what);
            self.gate = survey.gate;
            let lag = (self.head + 1).saturating_sub(survey.slowest);
            let slots = self.stage.mask + 1;
            if lag > slots / 2 {
                self.grow(lag);
            }
            // Asked again: growing has moved the slot.
            let needed = what.sequence(self.reach());
            if needed < self.gate {
                self.waited(started);
                return Ok(());
            }
            if self.give_up_early(needed) {
                continue;
            }
            let now = clock::monotonic_ns();
            if started == 0 {
                started = now;
                self.shared.entry().waits.fetch_add(1, Ordering::Relaxed);
            }
            if let Err(refusal) = self.settle(needed, now, patience, started) {
                // This message is not sent: the next may wait as long as any.
                self.sent.waited_ns = 0;
                return Err(refusal);
            }
            if spins < SPINS {
                spins += 1;
                pause(spins);
            } else {
                self.sleep(needed, now, patience);
            }
        }
    }

    /// What waits for the first subscriber gives way at once: nobody is waited for who is not there. False where nothing of it
    /// is in the way.
    fn give_up_early(&self, needed: u64) -> bool {
        let Some(early) = self.places.iter().find_map(|seat| seat.early.as_ref()) else { return false };
        let in_the_way = early.passed() < needed;
        if in_the_way {
            early.give_up(needed, self.reach());
        }
        in_the_way
    }

    /// Waits until every row that gates has passed the last message; at most until `deadline` or until this process
    /// leaves the bus, or while all who have not are groups for which nobody pulls in time. Returns who has not. Rows that are stalled, evicted or dead are not waited for.
    pub fn flush(&mut self, deadline: clock::Deadline) -> Vec<RowName> {
        let mut spins = 0;
        loop {
            self.refresh();
            let needed = self.head;
            let behind: Vec<&Seat> = self.places.iter().filter(|seat| self.blocks(seat, needed)).collect();
            // A seat of a list that has changed meanwhile may be free because another row has its place.
            let all = behind.is_empty() && self.shared.version() == self.seen;
            let in_vain = !behind.is_empty() && are_forsaken(&behind);
            if all || in_vain || deadline.expired() || self.shared.own().closed() {
                // Those that have passed it meanwhile are not named.
                return behind.into_iter().filter_map(|seat| self.name_if_behind(seat, self.head)).collect();
            }
            if spins < SPINS {
                spins += 1;
                pause(spins);
            } else {
                self.sleep(needed, clock::monotonic_ns(), Patience::Until(deadline));
            }
        }
    }

    /// What all rows together may make one message wait.
    fn wait_most_ns(&self) -> u64 {
        self.options.max_wait_ns.saturating_mul(2)
    }

    fn waited(&mut self, started: u64) {
        if started != 0 {
            self.sent.waited_ns += clock::monotonic_ns().saturating_sub(started);
        }
        // Nobody blocks any more.
        self.blocked.fill(0);
    }

    /// Whether a stalled row gates again. Half a ring: a row that had caught up just after the last look may be that
    /// far behind at this one. Where bytes are short before slots are, half of the messages that take them.
    fn caught_up(&self, cursor: u64) -> bool {
        let scarce = self.chunk_bytes > self.options.bytes_max / 2;
        let middle = self.chunks.get(self.chunks.len() / 2).filter(|_| scarce);
        cursor + self.stage.mask.div_ceil(2) >= self.head
            && middle.is_none_or(|(middle, _)| cursor >= *middle)
    }

    /// Looks how far the rows are. A row that is free on our list may have given its place to one that is not there yet
    /// (`seat::place`, K5): if the list has changed meanwhile, once more while nobody can change it.
    fn look(&mut self, what: Needed) -> Survey {
        let needed = what.sequence(self.reach());
        fence(Ordering::SeqCst); // R2: pairs with the fence in `row::attached`
        self.refresh();
        between::now(between::Step::Listed, &self.shared);
        let mut survey = self.survey(needed);
        if self.shared.version() != self.seen {
            let shared = self.shared.clone();
            let seats = shared.lock();
            fence(Ordering::SeqCst); // R2
            self.copy_list(&seats);
            survey = self.survey(needed);
        }
        for at in std::mem::take(&mut survey.back) {
            self.shared.mark(&self.places[at], state::ACTIVE);
        }
        survey
    }

    fn survey(&self, needed: u64) -> Survey {
        let head = self.head;
        let slowest = if self.awaits && self.places.is_empty() { 1 } else { u64::MAX };
        let mut survey = Survey { gate: u64::MAX, slowest, back: Vec::new() };
        let slots = self.stage.mask + 1;
        // A row that cannot make us wait matters only while the ring may still grow for it: its cursor lies in a line
        // that its process writes, and costs a transfer between processors.
        let growing = slots < u64::from(self.options.slots_max);
        for (at, seat) in self.places.iter().enumerate().filter(|(_, seat)| seat.gates || growing) {
            let Progress::Passed(cursor) = seat.progress(head) else { continue };
            if !seat.counts() {
                continue;
            }
            survey.slowest = survey.slowest.min(cursor + 1);
            if !seat.gates {
                continue;
            }
            match self.shared.marked(seat) {
                state::EVICTED | state::FREE => continue,
                // What is needed now decides as well, or the row would be stalled and waited for in turns.
                state::STALLED if cursor < needed || !self.caught_up(cursor) => continue,
                state::STALLED => survey.back.push(at),
                _ => {}
            }
            survey.gate = survey.gate.min(cursor + 1);
        }
        let lag = (head + 1).saturating_sub(survey.slowest);
        let high = &self.shared.entry().lag_high;
        if lag > high.load(Ordering::Relaxed) {
            high.store(lag, Ordering::Relaxed);
        }
        survey
    }

    /// Makes the ring larger, if it may be: the next message begins a new stage.
    fn grow(&mut self, wanted: u64) {
        let slots = self.stage.mask + 1;
        let most = u64::from(self.options.slots_max);
        if slots >= most || self.head < self.stage.first {
            return;
        }
        let index = self.older.len() + 1;
        if index >= crate::layout::STAGES_MAX {
            return;
        }
        let next = (slots * 4).max(wanted.next_power_of_two()).min(most);
        let grown = new_stage(self.shared.own(), self.shared.entry(), index, next as u32, self.head + 1);
        // Where memory cannot be had the ring stays as it is and the policies decide.
        if let Ok(stage) = grown {
            self.first_turn = stage.first + stage.mask + 1;
            let old = std::mem::replace(&mut self.stage, stage);
            self.older.push(old);
        }
    }

    /// Applies the policies of the rows that have not passed `needed`.
    fn settle(&mut self, needed: u64, now: u64, patience: Patience, started: u64) -> Result<(), Refusal> {
        let mut failing = false;
        let mut blocked = 0_u32;
        for at in 0..self.places.len() {
            let seat = &self.places[at];
            if !self.blocks(seat, needed) {
                self.blocked[at] = 0;
                continue;
            }
            if seat.policy == Policy::Evict {
                self.shared.mark(seat, state::EVICTED);
                self.shared.entry().evicted.fetch_add(1, Ordering::Relaxed);
                self.sent.evicted += 1;
                continue;
            }
            if seat.group.as_ref().is_some_and(|group| group.gives_up(needed, now)) {
                self.blocked[at] = 0;
                continue;
            }
            blocked += 1;
            failing |= seat.policy == Policy::Fail;
            if self.blocked[at] == 0 {
                self.blocked[at] = now;
            }
            let waited = now.saturating_sub(self.blocked[at]);
            // Twice: rows that are seated while we wait, take turns in blocking, or let one message after the other go
            // where several must give way, cannot draw it out for ever. Who is stalled here gates again only when it
            // has passed `needed`, and a cursor that goes back is not believed.
            let all_ns = self.sent.waited_ns.saturating_add(now.saturating_sub(started));
            let enough = waited >= self.options.max_wait_ns || all_ns >= self.wait_most_ns();
            if enough && seat.group.is_some() {
                // What a group was given it keeps: the new message is refused, and the next waits as long again.
                self.blocked[at] = 0;
                failing = true;
            } else if enough && !failing {
                self.stall(at, waited);
                blocked -= 1;
            }
        }
        if blocked == 0 {
            return Ok(());
        }
        if self.shared.own().closed() {
            return Err(Refusal::Closed);
        }
        let expired = match patience {
            Patience::None => true,
            Patience::Until(deadline) => deadline.expired(),
        };
        if failing || expired {
            self.shared.entry().refused.fetch_add(1, Ordering::Relaxed);
            let who = self.places.iter().filter_map(|seat| self.name_if_blocking(seat, needed)).collect();
            let timeout = matches!(patience, Patience::Until(_)) && !failing && started != 0;
            return Err(if timeout { Refusal::Timeout(who) } else { Refusal::Full(who) });
        }
        Ok(())
    }

    fn stall(&mut self, at: usize, waited: u64) {
        let seat = &self.places[at];
        self.shared.mark(seat, state::STALLED);
        if let Some(entry) = self.shared.entry_of(seat) {
            entry.stalls.fetch_add(1, Ordering::Relaxed);
            entry.waits.fetch_add(1, Ordering::Relaxed);
            entry.waited_ns.fetch_add(waited, Ordering::Relaxed);
        }
        self.blocked[at] = 0;
        self.sent.stalled += 1;
    }

    fn blocks(&self, seat: &Seat, needed: u64) -> bool {
        seat.gates
            && self.shared.marked(seat) == state::ACTIVE
            && matches!(seat.progress(self.head), Progress::Passed(cursor) if cursor < needed)
            && seat.counts()
    }

    fn name_if_blocking(&self, seat: &Seat, needed: u64) -> Option<RowName> {
        if self.blocks(seat, needed) { self.name_if_behind(seat, self.head) } else { None }
    }

    pub(super) fn name_if_behind(&self, seat: &Seat, head: u64) -> Option<RowName> {
        let Progress::Passed(cursor) = seat.progress(head) else { return None };
        let behind = head.saturating_sub(cursor);
        (behind > 0).then(|| {
            let (pid, name) = seat.reader();
            RowName { pid, name, behind }
        })
    }

    /// Sleeps until the first blocking row moves or dies, the slice ends or somebody's deadline comes.
    fn sleep(&self, needed: u64, now: u64, patience: Patience) {
        let Some(at) = self.places.iter().position(|seat| self.blocks(seat, needed)) else { return };
        let seat = &self.places[at];
        // Woken at the first message we would fill one slot and sleep again: an eighth of the ring is worth a wake.
        let target = (needed + (self.stage.mask + 1) / 8).min(self.head);
        let run = seat.group.as_ref().and_then(|group| group.run());
        let woken = futex_half(run.as_ref().map_or(&seat.row.woken, |run| &run.head().woken));
        let seen = woken.load(Ordering::Acquire); // pairs with Release in `take::wake_publisher`
        let waiting = &self.shared.entry().waiting.word;
        waiting.store(waiting_word(target), Ordering::Relaxed);
        fence(Ordering::SeqCst); // pairs with the fence in `take::wake_publisher`
        let life = seat.peer.life_word();
        let life_seen = life.load(Ordering::Relaxed);
        // Of a kept place nobody dies: it is looked at again after the slice.
        let lives = seat.keeps() || matches!(life::read(life), life::Life::Alive | life::Life::Starting);
        let still = self.blocks(seat, needed) && lives;
        if still {
            let since = if self.blocked[at] == 0 { now } else { self.blocked[at] };
            let own = self.options.max_wait_ns.saturating_sub(now.saturating_sub(since)).max(1);
            let caller = match patience {
                Patience::None => 0,
                Patience::Until(deadline) => {
                    deadline.remaining().map_or(u64::MAX, |left| left.as_nanos() as u64)
                }
            };
            let slice = own.min(caller).min(WAIT_SLICE_NS);
            let timeout = Duration::from_nanos(slice);
            let _ = futex::wait_any(&[(woken, seen), (life, life_seen)], Some(timeout));
        }
        waiting.store(0, Ordering::Relaxed);
    }
}

/// Whether all of these are groups for which nobody has pulled for longer than they are waited for.
fn are_forsaken(seats: &[&Seat]) -> bool {
    let now_ns = clock::monotonic_ns();
    seats.iter().all(|seat| seat.group.as_ref().is_some_and(|group| group.forsaken_ns(now_ns).is_some()))
}

/// What `waiting` says: the low half of the sequence that the publisher wants passed, made odd, so that it is not zero.
fn waiting_word(target: u64) -> u32 {
    target as u32 | 1
}

fn pause(looks: u32) {
    // Sixteen: about a microsecond. Longer pauses make a hypervisor take the processor away.
    for _ in 0..1_u32 << looks.min(4) {
        crate::sync::spin_hint();
    }
}
