//! What happens when: events in the order of their time, and of their entry where the times are equal.
//!
//! It knows neither what an event means nor what time it is.
//!
//! Invariant: two runs that enter the same events take them out in the same order.

use std::collections::BTreeMap;

use busway_protocol::Time;

/// Events that are still to come.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    events: BTreeMap<(Time, u64), E>,
    entered: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Agenda<E> {
        Agenda { events: BTreeMap::new(), entered: 0 }
    }
}

impl<E> Agenda<E> {
    /// Enters an event.
    pub(crate) fn enter(&mut self, at: Time, event: E) {
        self.entered += 1;
        self.events.insert((at, self.entered), event);
    }

    /// When the next one is.
    #[must_use]
    pub(crate) fn next(&self) -> Option<Time> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out the next one if its time has come.
    pub(crate) fn due(&mut self, now: Time) -> Option<E> {
        if self.next()? > now {
            return None;
        }
        self.events.pop_first().map(|(_, event)| event)
    }
}
