//! What happens when: events in the order of their time, and of their entry where the times are equal.
//!
//! It knows neither what an event means nor what time it is.
//!
//! Invariant: two runs that enter the same events take them out in the same order.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use busway_protocol::Time;

/// Events that are still to come: the next one on top.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    events: BinaryHeap<Reverse<Entry<E>>>,
    entered: u64,
}

/// An event in its place. No two have the same number, so that their order is one.
#[derive(Debug)]
struct Entry<E> {
    at: Time,
    number: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (Time, u64) {
        (self.at, self.number)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Entry<E>) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Entry<E>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Entry<E>) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<E> Default for Agenda<E> {
    fn default() -> Agenda<E> {
        Agenda { events: BinaryHeap::new(), entered: 0 }
    }
}

impl<E> Agenda<E> {
    /// Enters an event.
    pub(crate) fn enter(&mut self, at: Time, event: E) {
        self.entered += 1;
        self.events.push(Reverse(Entry { at, number: self.entered, event }));
    }

    /// When the next one is.
    #[must_use]
    pub(crate) fn next(&self) -> Option<Time> {
        self.events.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes out the next one if its time has come.
    pub(crate) fn due(&mut self, now: Time) -> Option<E> {
        if self.next()? > now {
            return None;
        }
        self.events.pop().map(|Reverse(entry)| entry.event)
    }
}
