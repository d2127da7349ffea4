//! Marks: which of very many rings have something, told by one word for 64 of them.
//!
//! Who reads ten thousand rings must not look at each of them to find the one that has a message. The rings of a process
//! stand in groups of 64 neighbours, and each group but the first has a *mark*: a word that is another one after each
//! message of any of them. A reader compares the marks with what it saw last, the heads of the groups whose mark has
//! changed with what it has read, and looks at the rings whose head is ahead. The heads of the first group it compares
//! each time: a process with few rings writes no marks, and pays nothing for those that have many.
//!
//! ```text
//! publisher: store the slot; head = s; mark = {ring:6 | generation:10 | s:48}
//! reader:    m = mark; if m != seen { seen = m; look at the heads of the group }
//! ```
//!
//! A mark has as many writers as its group has rings, and is written by plain stores: to raise it by an atomic addition
//! would make every publisher wait until its slot has come from the processor of its readers. So no value may come
//! twice: a ring stores its own place, and its sequence, which only grows. It would take a ring that is used anew a
//! multiple of 1 024 times between two looks to repeat one.
//!
//! A mark is a hint: what it names is looked for in the rings, and what it does not name is found by a look at all of them
//! that readers take now and then. It does not tell of ends.
//!
//! Invariants (loom: `a_mark_hides_no_message`): (M1) a head is written before the mark. (M2) no two stores to a mark are
//! equal. (M3) a reader notes the mark before it looks at the heads. (M4) who sees a mark sees the heads of all whose marks
//! it has replaced: on the processors that we run on a store is there for all others at one time, and what was released
//! before it is there then. The language does not say so much; a model takes a mark for an exchange, which does.

use core::ops::Deref;
use std::collections::{BTreeMap, VecDeque};

use busway_wire::{Generation, ProcessId, RingIndex};

use crate::sync::{AtomicU64, Ordering};

/// Rings that share a mark.
pub const GROUP: u32 = 64;

const SEQUENCE_BITS: u32 = 48;
const GENERATION_BITS: u32 = 10;
const INDEX_BITS: u32 = 6;
const _: () = assert!(SEQUENCE_BITS + GENERATION_BITS + INDEX_BITS == u64::BITS && GROUP == 1 << INDEX_BITS);

/// After a look at least so many rings are given out before the next one: while one of them has more and more, the others
/// wait for so many messages, and the look is paid for by as many.
const ROUND_MIN: usize = 64;

/// The neighbours of a ring, itself among them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Group {
    /// Whose rings they are.
    pub process: ProcessId,
    /// Their indices, divided by [`GROUP`].
    pub number: u32,
}

impl Group {
    /// The group of a ring.
    pub const fn of(process: ProcessId, ring: RingIndex) -> Self {
        Self { process, number: ring.0 / GROUP }
    }

    /// Whether its publishers write a mark.
    pub const fn is_marked(self) -> bool {
        self.number > 0
    }
}

/// What one ring stores in the mark of its group, but for the sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(u64);

impl Stamp {
    /// Of this use of this ring.
    pub const fn of(ring: RingIndex, generation: Generation) -> Self {
        let index = (ring.0 % GROUP) as u64;
        let generation = generation.0 as u64 & ((1 << GENERATION_BITS) - 1);
        Self((index << (u64::BITS - INDEX_BITS)) | (generation << SEQUENCE_BITS))
    }

    /// Marks that the message of this sequence is there. To be called after the head was written.
    #[inline]
    pub fn put(self, mark: &AtomicU64, sequence: u64) {
        let value = self.0 | (sequence & ((1 << SEQUENCE_BITS) - 1));
        // Release: pairs with Acquire in `Ready::look`.
        #[cfg(not(loom))]
        mark.store(value, Ordering::Release);
        #[cfg(loom)]
        mark.swap(value, Ordering::AcqRel); // M4
    }
}

/// Which heads are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Those of groups whose mark has changed, or that have none.
    Marked,
    /// All of them.
    All,
}

/// Marks that lie in one line of a cache, and are compared without a branch for each.
const LINE: usize = 8;
/// Of this mark no ring is read.
const NOBODY: u32 = u32::MAX;

/// The marks of one process, from that of the first group of which a ring is read to that of the last. Most looks see nothing but these, so they lie where the
/// process has them, beside each other, and so does what was seen of each.
#[derive(Debug)]
struct Strip<H> {
    process: ProcessId,
    /// All marks of the process.
    words: H,
    /// The first that is looked at.
    first: usize,
    seen: Vec<u64>,
    /// Behind each mark the group that has it, or [`NOBODY`]; another one of the same mark stands behind that.
    groups: Vec<u32>,
}

impl<H: Deref<Target = [AtomicU64]>> Strip<H> {
    /// Whether there is such a mark.
    fn has(&self, number: usize) -> bool {
        number < self.words.len()
    }

    /// The place behind this mark, which is looked at from now on.
    fn place(&mut self, number: usize) -> &mut u32 {
        if self.groups.is_empty() {
            self.first = number;
        }
        let before = self.first.saturating_sub(number);
        self.seen.splice(0..0, core::iter::repeat_n(0, before));
        self.groups.splice(0..0, core::iter::repeat_n(NOBODY, before));
        self.first = self.first.min(number);
        let at = number - self.first;
        if at >= self.groups.len() {
            self.seen.resize(at + 1, 0);
            self.groups.resize(at + 1, NOBODY);
        }
        &mut self.groups[at]
    }
}

/// The rings of one group that are read, each at its index among the 64. A look at them reads all their heads and what was read
/// of each, which lie in a row, and nothing else: of very many readers nothing is in a cache.
#[derive(Debug)]
struct Members<H> {
    /// The heads of the whole group; `None` where they cannot be mapped: each look gives out all.
    heads: Option<H>,
    /// How far each was read; `u64::MAX`, which no head is ahead of, where there is none.
    read: Vec<u64>,
    /// Which there are, and which of them are queued: a bit for each.
    present: u64,
    queued: u64,
    /// The place of each.
    places: Vec<u32>,
    /// Another group with the same mark, or [`NOBODY`].
    beside: u32,
}

impl<H: Deref<Target = [AtomicU64]>> Members<H> {
    fn new(heads: Option<H>) -> Self {
        Self { heads, read: Vec::new(), present: 0, queued: 0, places: Vec::new(), beside: NOBODY }
    }

    fn put(&mut self, at: usize, read: u64, place: u32) {
        if at >= self.read.len() {
            self.read.resize(at + 1, u64::MAX);
            self.places.resize(at + 1, 0);
        }
        (self.read[at], self.places[at]) = (read, place);
        self.present |= 1 << at;
    }

    fn remove(&mut self, at: usize) {
        if let Some(read) = self.read.get_mut(at) {
            *read = u64::MAX;
        }
        self.present &= !(1 << at);
        self.queued &= !(1 << at);
    }

    /// Notes that this one is queued; `false` if it was.
    #[inline]
    fn enqueue(&mut self, at: usize) -> bool {
        let before = self.queued;
        self.queued |= (1 << at) & self.present;
        self.queued != before
    }

    /// Notes that this one is queued no more; `false` if it was not.
    #[inline]
    fn dequeue(&mut self, at: usize) -> bool {
        let before = self.queued;
        self.queued &= !(1 << at);
        self.queued != before
    }

    #[inline]
    fn is_ahead(&self, at: usize) -> bool {
        let Some(read) = self.read.get(at) else { return false };
        let head = self.heads.as_deref().and_then(|heads| heads.get(at));
        // Acquire: pairs with Release in `ring::published`.
        head.is_none_or(|head| head.load(Ordering::Acquire) > *read)
    }

    /// Notes which are ahead and not queued that they are, and returns those: a bit for each.
    #[inline]
    fn enqueue_ahead(&mut self) -> u64 {
        let Some(heads) = self.heads.as_deref() else {
            let found = self.present & !self.queued;
            self.queued |= found;
            return found;
        };
        let mut ahead = 0;
        // Without a branch for each: most often a few of 64 are.
        for (at, (head, read)) in heads.iter().zip(&self.read).enumerate() {
            // Acquire: pairs with Release in `ring::published`.
            ahead |= u64::from(head.load(Ordering::Acquire) > *read) << at;
        }
        let found = ahead & self.present & !self.queued;
        self.queued |= found;
        found
    }
}

/// Where the ring of a place is: its group, and its index there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Where(u32);

impl Where {
    fn new(group: usize, at: usize) -> Self {
        Self(
            u32::try_from(group * GROUP as usize + at)
                .expect("a process has fewer rows than groups fit here"),
        )
    }

    const fn group(self) -> usize {
        (self.0 / GROUP) as usize
    }

    const fn at(self) -> usize {
        (self.0 % GROUP) as usize
    }
}

fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("a process has fewer rows")
}

/// A ring whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Its place.
    pub place: usize,
    stands: Where,
}

/// The rings of one reader, each with a place from 0 without gaps, and which of them are to be looked at.
#[derive(Debug)]
pub struct Ready<H> {
    places: Vec<Where>,
    strips: Vec<Strip<H>>,
    /// Groups that have no mark: their heads are looked at each time.
    unmarked: Vec<u32>,
    members: Vec<Members<H>>,
    /// A second one of the same group where two rings have one index: one that has ended, and one that uses its memory anew.
    groups: BTreeMap<(Group, usize), usize>,
    /// Those of which the members do not say that they are queued count for nothing.
    queue: VecDeque<Where>,
    /// So many are given out before the next look.
    left: usize,
}

impl<H> Default for Ready<H> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            strips: Vec::new(),
            unmarked: Vec::new(),
            members: Vec::new(),
            groups: BTreeMap::new(),
            queue: VecDeque::new(),
            left: 0,
        }
    }
}

impl<H: Deref<Target = [AtomicU64]>> Ready<H> {
    /// A ring of which all up to `read` was read, with the next place. It is looked at once, whatever its head says. `words`
    /// are all marks of its process, each at the number of its group, and the heads of its group; they are only asked for where nothing else of the group is read.
    pub fn add(
        &mut self,
        process: ProcessId,
        ring: RingIndex,
        read: u64,
        words: impl FnOnce(Group) -> (Option<H>, Option<H>),
    ) {
        let (id, at) = (Group::of(process, ring), (ring.0 % GROUP) as usize);
        let is_free =
            |group: &usize| self.members.get(*group).is_some_and(|members| members.present & (1 << at) == 0);
        let mut same = 0;
        let group = loop {
            match self.groups.get(&(id, same)) {
                Some(group) if is_free(group) => break *group,
                Some(_) => same += 1,
                None => break self.add_group(id, same, words(id)),
            }
        };
        let place = self.places.len();
        if let Some(members) = self.members.get_mut(group) {
            self.places.push(Where::new(group, at));
            members.put(at, read, narrow(place));
        }
        self.again(place);
    }

    /// A group of which nothing is read yet, but by others that have its mark as well.
    fn add_group(&mut self, id: Group, same: usize, (marks, heads): (Option<H>, Option<H>)) -> usize {
        let (group, number) = (self.members.len(), id.number as usize);
        self.groups.insert((id, same), group);
        self.members.push(Members::new(heads));
        let known = self.strips.iter().position(|strip| strip.process == id.process);
        let strip = match (known, marks) {
            _ if !id.is_marked() => None,
            (Some(known), _) => Some(known),
            (None, Some(words)) => {
                let (seen, groups) = (Vec::new(), Vec::new());
                self.strips.push(Strip { process: id.process, words, first: number, seen, groups });
                Some(self.strips.len() - 1)
            }
            (None, None) => None,
        };
        match strip.and_then(|strip| self.strips.get_mut(strip)).filter(|strip| strip.has(number)) {
            Some(strip) => {
                let before = core::mem::replace(strip.place(number), narrow(group));
                self.members[group].beside = before;
            }
            None => self.unmarked.push(narrow(group)),
        }
        group
    }

    /// Takes out the ring at this place; the last one has its place now.
    pub fn remove(&mut self, place: usize) {
        let Some(gone) = self.places.get(place).copied() else { return };
        if let Some(members) = self.members.get_mut(gone.group()) {
            members.remove(gone.at());
        }
        self.places.swap_remove(place);
        if let Some(moved) = self.places.get(place)
            && let Some(members) = self.members.get_mut(moved.group())
            && let Some(of_moved) = members.places.get_mut(moved.at())
        {
            *of_moved = narrow(place);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many rings there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// All up to `read` was read of the ring whose turn it was; if its head says that there is more it is given out again, after
    /// the others, and this says so.
    #[inline]
    pub fn read(&mut self, turn: Turn, read: u64) -> bool {
        let at = turn.stands.at();
        let Some(members) = self.members.get_mut(turn.stands.group()) else { return false };
        let Some(word) = members.read.get_mut(at).filter(|word| **word != u64::MAX) else { return false };
        *word = read;
        let more = members.is_ahead(at);
        if more && members.enqueue(at) {
            self.queue.push_back(turn.stands);
        }
        more
    }

    /// There was nothing behind what was read of the ring whose turn it was, whatever its head says. What comes changes it.
    #[inline]
    pub fn rest(&mut self, turn: Turn, read: u64) {
        if let Some(members) = self.members.get_mut(turn.stands.group())
            && let Some(word) = members.read.get_mut(turn.stands.at()).filter(|word| **word != u64::MAX)
        {
            *word = read;
        }
    }

    /// The ring at this place is to be looked at, whatever its head says.
    pub fn again(&mut self, place: usize) {
        let Some(stands) = self.places.get(place).copied() else { return };
        if self.members.get_mut(stands.group()).is_some_and(|members| members.enqueue(stands.at())) {
            self.queue.push_back(stands);
        }
    }

    /// The next to be looked at; `None` when it is time for another [`Ready::look`].
    #[inline]
    pub fn pop(&mut self) -> Option<Turn> {
        while self.left > 0 {
            let stands = self.queue.pop_front()?;
            let Some(members) = self.members.get_mut(stands.group()) else { continue };
            if members.dequeue(stands.at())
                && let Some(place) = members.places.get(stands.at())
            {
                self.left -= 1;
                return Some(Turn { place: *place as usize, stands });
            }
        }
        None
    }

    /// The place that follows so many others, as far as is known now: to be asked for ahead.
    #[inline]
    pub fn later(&self, others: usize) -> Option<usize> {
        let stands = self.queue.get(others)?;
        let place = self.members.get(stands.group())?.places.get(stands.at())?;
        Some(*place as usize)
    }

    /// Finds the rings that have something. What has not been given out before stays.
    pub fn look(&mut self, look: Look) {
        let Self { strips, unmarked, members, queue, .. } = self;
        for group in unmarked {
            queue_ahead(members, queue, *group);
        }
        for Strip { words, first, seen, groups, .. } in strips {
            let words = words.get(*first..).unwrap_or_default();
            for (line, (words, seen)) in words.chunks(LINE).zip(seen.chunks_mut(LINE)).enumerate() {
                let mut changed = if look == Look::All { (1_u32 << seen.len()) - 1 } else { 0 };
                for (at, (word, seen)) in words.iter().zip(seen).enumerate() {
                    let now = word.load(Ordering::Acquire); // pairs with Release in `Stamp::put`
                    changed |= u32::from(now != core::mem::replace(seen, now)) << at; // M3
                }
                while changed != 0 {
                    let at = line * LINE + changed.trailing_zeros() as usize;
                    queue_ahead(members, queue, groups.get(at).copied().unwrap_or(NOBODY));
                    changed &= changed - 1;
                }
            }
        }
        self.left = self.queue.len().max(ROUND_MIN);
    }

    /// The bug that the model must find: the marks are noted when the heads have been looked at.
    #[cfg(loom)]
    pub fn look_and_note_late(&mut self) {
        let seen: Vec<Vec<u64>> = self.strips.iter().map(|strip| strip.seen.clone()).collect();
        self.look(Look::Marked);
        for (strip, before) in self.strips.iter_mut().zip(seen) {
            for (at, (seen, before)) in strip.seen.iter_mut().zip(before).enumerate() {
                if *seen != before {
                    *seen = strip.words[strip.first + at].load(Ordering::Acquire); // pairs with Release in `Stamp::put`
                }
            }
        }
    }
}

/// Queues what has something in this group, and in those that have the same mark.
#[inline]
fn queue_ahead<H: Deref<Target = [AtomicU64]>>(
    members: &mut [Members<H>],
    queue: &mut VecDeque<Where>,
    mut group: u32,
) {
    while let Some(of) = members.get_mut(group as usize) {
        let mut found = of.enqueue_ahead();
        while found != 0 {
            queue.push_back(Where::new(group as usize, found.trailing_zeros() as usize));
            found &= found - 1;
        }
        group = of.beside;
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
