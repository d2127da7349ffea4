//! Very many publishers of one subscriber: only those are looked at that have something.
//!
//! Marks say which those are (`busway_shm::marks`); a few times a second all are looked at, and some are asked whether they have ended, which
//! no mark tells. What is needed for each is spread over more memory than any cache has, so it is read in the order in which it
//! lies, and asked for ahead. It does not take messages: that is the same for one publisher and for ten thousand.
//!
//! Invariant: a publisher that has something is queued, or its mark has changed since it was looked at, or it is found by the
//! next look at all.

use std::collections::BTreeSet;

use busway_shm::clock;
use busway_shm::marks::Look;
use busway_shm::row::ReadyRings;
use busway_wire::limits::SAMPLE_SOURCES_MAX;

use super::{Reader, Seen, Small, Subscriber, join_sources};
use crate::outcome::RecvError;
use crate::sample::Sample;

/// Of very many publishers all are looked at so long after the last time, whatever their marks say: four times a second, as those look who
/// carry to other hosts.
const FULL_NS: u64 = 250_000_000;
/// Of so many it is then asked whether they have ended, of the others the next times: that is as much work as to take a message of each.
pub(super) const ENDS: usize = 1024;
/// So many messages before its turn something is asked for that is needed then, in two steps: the second is where the first
/// says. A few messages take as long as memory.
const AHEAD: usize = 3;

/// Beside the readers of many publishers, which of them are to be looked at.
#[derive(Debug, Default)]
pub(super) struct Many {
    pub(super) ready: ReadyRings,
    /// Those that waited for their seats when they were looked at.
    unseated: BTreeSet<usize>,
    /// Those that have more and had their part of the last look.
    later: Vec<usize>,
    /// When all of them are looked at again.
    pub(super) full_at_ns: u64,
    /// Where the next look for ends begins.
    pub(super) ends_at: usize,
    /// One came that stands behind one whose ring lies behind its own.
    scattered: bool,
}

impl Many {
    /// Of all these.
    pub(super) fn of(readers: &mut [Reader]) -> Self {
        let mut many = Self::default();
        many.begin(readers);
        many
    }

    /// Begins anew, of all these: each is looked at once.
    fn begin(&mut self, readers: &mut [Reader]) {
        self.ready.clear();
        self.later.clear();
        // Who waits for its seat says so when it is looked at.
        self.unseated.clear();
        for Reader { reader, .. } in readers.iter() {
            reader.row().watch(&mut self.ready, reader.reached());
        }
        self.scattered = !readers.is_sorted_by_key(Reader::key);
        readers.chunks_exact_mut(SAMPLE_SOURCES_MAX).for_each(join_sources);
    }

    /// The last of these is new.
    pub(super) fn add(&mut self, readers: &[Reader]) {
        let [.., before, last] = readers else { return };
        last.reader.row().watch(&mut self.ready, last.reader.reached());
        self.scattered |= before.key() > last.key();
    }

    /// Rows may have got their seats.
    pub(super) fn seats_came(&mut self) {
        for at in std::mem::take(&mut self.unseated) {
            self.ready.again(at);
        }
    }

    /// The one at this place is gone; the last one has it now.
    pub(super) fn remove(&mut self, at: usize) {
        self.ready.remove(at);
        let last = self.ready.len();
        self.scattered |= at < last;
        self.later.retain(|later| *later != at);
        self.later.iter_mut().filter(|later| **later == last).for_each(|later| *later = at);
        self.unseated.remove(&at);
        if self.unseated.remove(&last) {
            self.unseated.insert(at);
        }
    }
}

impl Subscriber {
    /// As `take_any`, where the publishers are so many that only those are looked at that have something. It returns from
    /// where a message was found: to move the result would wait until all that taking it has written is in memory.
    #[inline(never)]
    pub(super) fn take_ready(&mut self) -> Result<Option<Sample>, RecvError> {
        if let Some(many) = self.many.as_mut().filter(|many| !many.later.is_empty()) {
            for at in std::mem::take(&mut many.later) {
                many.ready.again(at);
            }
        }
        let mut looked = false;
        loop {
            let Some(turn) = self.many.as_mut().and_then(|many| many.ready.pop()) else {
                if looked {
                    return Ok(None);
                }
                looked = true;
                self.look();
                self.fetch_first();
                continue;
            };
            let at = turn.place;
            self.fetch_ahead();
            let seen = match self.take_small_of(at) {
                Small::Message(sample) => Ok(Seen::Message(sample)),
                Small::Empty => Ok(Seen::Nothing),
                Small::Dropped | Small::Other => self.take_of(at),
            };
            let (Some(many), Some(Reader { reader, .. })) = (&mut self.many, self.readers.get_mut(at)) else {
                seen?;
                continue;
            };
            match seen {
                Ok(Seen::Message(sample)) => {
                    many.ready.read(turn, reader.reached());
                    reader.turn_ends();
                    if reader.has_taken() {
                        many.ready.again(at);
                    }
                    return Ok(Some(sample));
                }
                Ok(Seen::Nothing) => {
                    many.ready.rest(turn, reader.reached());
                    // Whether it had its seat when it was looked at, not whether it has it by now.
                    if !reader.has_begun() {
                        many.unseated.insert(at);
                    }
                }
                Ok(Seen::More) => many.later.push(at),
                Ok(Seen::End) => {}
                Err(error) => {
                    many.ready.again(at);
                    return Err(error);
                }
            }
        }
    }

    /// Finds out which of many publishers have something; now and then also which have ended, which no mark tells of.
    fn look(&mut self) {
        let now_ns = clock::monotonic_coarse_ns();
        let due = self.many.as_ref().is_some_and(|many| now_ns >= many.full_at_ns);
        if due {
            let from = self.many.as_ref().map_or(0, |many| many.ends_at);
            // A relay that stands by is read when another has ended, wherever that one stands.
            let next = if self.standby.is_empty() {
                self.drop_finished(from, ENDS)
            } else {
                self.drop_finished(0, usize::MAX)
            };
            if let Some(many) = &mut self.many {
                many.full_at_ns = now_ns.saturating_add(FULL_NS);
                many.ends_at = next;
            }
        }
        if due {
            self.put_in_order();
        }
        if let Some(many) = &mut self.many {
            many.ready.look(if due { Look::All } else { Look::Marked });
        }
    }

    /// Readers stand as their rings do, as they are looked at: of very many what is needed for the next one then lies behind
    /// what was needed for this one. Those that came one by one, or took a place that was left, are put there.
    fn put_in_order(&mut self) {
        let Some(many) = self.many.as_mut().filter(|many| many.scattered) else { return };
        self.readers.sort_unstable_by_key(Reader::key);
        many.begin(&mut self.readers);
    }

    /// After a look: asks for the memory of the first, which `fetch_ahead` has had no time for. Where messages come one by one there
    /// are no more than these.
    fn fetch_first(&self) {
        let Some(many) = &self.many else { return };
        let first = |others: usize| many.ready.later(others).and_then(|at| self.readers.get(at));
        (0..=2 * AHEAD).map_while(first).for_each(Reader::fetch);
        (0..=AHEAD).map_while(first).for_each(|reader| reader.reader.fetch());
    }

    /// Asks for the memory of those that come next: of very many none is in a cache, and to wait for one thing after the
    /// other would take longer than all that is done with them.
    #[inline]
    fn fetch_ahead(&self) {
        let Some(many) = &self.many else { return };
        let later = |others: usize| many.ready.later(others).and_then(|at| self.readers.get(at));
        if let Some(reader) = later(2 * AHEAD) {
            reader.fetch();
        }
        if let Some(reader) = later(AHEAD) {
            reader.reader.fetch();
        }
    }
}
