//! Which sources of a peer have something to read, by their heads alone.
//!
//! To look at a ring costs its slot, what its session says and what its publisher's life is: with ten thousand sources
//! a look at all of them costs milliseconds, mostly for rings of which nothing has come. Heads lie eight in a line, and
//! who publishes writes its head before it rings. So the looks between two full ones compare heads with what was read.
//! A head tells of messages only, not of ends: those a full look finds. It decides nothing: what it names is looked at.
//!
//! Invariant: what has a head behind what was read of it is named in each round.

use std::ops::Range;

use busway_shm::row::Head;
use busway_wire::PortId;

/// One source.
#[derive(Debug)]
struct Watch {
    source: PortId,
    head: Head,
    read: u64,
}

/// All sources of a peer, in no order.
#[derive(Debug, Default)]
pub(super) struct News {
    all: Vec<Watch>,
}

impl News {
    /// A source of which nothing behind `read` was read. Returns its place.
    pub(super) fn add(&mut self, source: PortId, head: Head, read: u64) -> usize {
        self.all.push(Watch { source, head, read });
        self.all.len() - 1
    }

    /// All up to `read` was read of the source at this place.
    pub(super) fn read(&mut self, place: usize, read: u64) {
        if let Some(watch) = self.all.get_mut(place) {
            watch.read = read;
        }
    }

    /// Takes out the source at this place. Returns the one that has its place now.
    pub(super) fn remove(&mut self, place: usize) -> Option<PortId> {
        if place < self.all.len() {
            self.all.swap_remove(place);
        }
        self.all.get(place).map(|watch| watch.source)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.all.clear();
    }

    /// The first place of these whose source has something, and that source.
    pub(super) fn next(&self, places: Range<usize>) -> Option<(usize, PortId)> {
        let start = places.start;
        let at = self.all.get(places)?.iter().position(|watch| watch.head.get() > watch.read)?;
        Some((start + at, self.all.get(start + at)?.source))
    }
}
