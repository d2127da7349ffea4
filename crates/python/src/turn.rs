//! One at a time: a port that several Python threads share.
//!
//! The port is taken, used and put back. Who finds it away tries without the interpreter, and no longer than it has time;
//! nobody waits for it while holding the interpreter, because who has the port may need that to go on.
//!
//! Invariant: what was taken comes back or is closed; the lock itself is held for a few instructions only.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline::Deadline;

/// What several threads use in turn.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    place: Mutex<Place<T>>,
    came_back: Condvar,
}

#[derive(Debug)]
struct Place<T> {
    state: State<T>,
    /// Who waits for it to come back: to notify a condition is a call of the kernel, also where nobody waits.
    waiting: usize,
}

#[derive(Debug)]
enum State<T> {
    Here(Box<T>),
    Away,
    Closed,
}

/// Why it cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// Another thread has it.
    Away,
    /// It was closed.
    Closed,
}

/// It, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a, T> {
    turn: &'a Turn<T>,
    item: Option<Box<T>>,
}

impl<T> Turn<T> {
    pub(crate) fn new(item: T) -> Self {
        let place = Place { state: State::Here(Box::new(item)), waiting: 0 };
        Self { place: Mutex::new(place), came_back: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Place<T>> {
        // Nothing that could panic is done under the lock.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It, if nobody has it.
    pub(crate) fn try_take(&self) -> Result<Taken<'_, T>, Missed> {
        self.take_from(&mut self.lock().state)
    }

    fn take_from(&self, state: &mut State<T>) -> Result<Taken<'_, T>, Missed> {
        match std::mem::replace(state, State::Away) {
            State::Here(item) => Ok(Taken { turn: self, item: Some(item) }),
            State::Away => Err(Missed::Away),
            State::Closed => {
                *state = State::Closed;
                Err(Missed::Closed)
            }
        }
    }

    /// It, as soon as nobody has it. Call this without the interpreter.
    pub(crate) fn take(&self, deadline: Deadline) -> Result<Taken<'_, T>, Missed> {
        let mut place = self.lock();
        loop {
            match self.take_from(&mut place.state) {
                Err(Missed::Away) if !deadline.expired() => {
                    let slice = deadline.slice();
                    place.waiting += 1;
                    let waited = self.came_back.wait_timeout(place, slice);
                    place = waited.unwrap_or_else(PoisonError::into_inner).0;
                    place.waiting -= 1;
                }
                other => return other,
            }
        }
    }

    /// Closes it for everybody, as soon as nobody has it; `None` where it was closed. Call this without the interpreter.
    pub(crate) fn close(&self, deadline: Deadline) -> Result<Option<Box<T>>, Missed> {
        match self.take(deadline) {
            Ok(mut taken) => {
                let item = taken.item.take();
                self.lock().state = State::Closed;
                self.came_back.notify_all();
                Ok(item)
            }
            Err(Missed::Closed) => Ok(None),
            Err(Missed::Away) => Err(Missed::Away),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.lock().state, State::Closed)
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            let mut place = self.turn.lock();
            place.state = State::Here(item);
            let waits = place.waiting > 0;
            drop(place);
            if waits {
                self.turn.came_back.notify_one();
            }
        }
    }
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.item.as_deref().expect("it is there until it is dropped or closed")
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.item.as_deref_mut().expect("it is there until it is dropped or closed")
    }
}
