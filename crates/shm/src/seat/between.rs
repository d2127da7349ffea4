//! Where tests of this crate step in between two threads.
//!
//! Nothing but an empty function outside tests.
//!
//! Invariant: what was asked for happens once, on the thread that asked.

use super::RingShared;

/// A moment at which something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The control thread has chosen where a row begins, and has not listed it yet.
    Placed,
    /// The publisher has its list and has not looked at the rows yet.
    Listed,
    /// The control thread has noted who is dead.
    DeathsSeen,
    /// A row's words are free.
    Folded,
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) fn now(_step: Step, _ring: &RingShared) {}

#[cfg(test)]
pub(crate) use asked::{ask, now};

#[cfg(test)]
mod asked {
    use std::cell::RefCell;

    use super::{RingShared, Step};

    type Asked = (Step, Box<dyn FnOnce(&RingShared)>);

    thread_local! {
        static ASKED: RefCell<Option<Asked>> = const { RefCell::new(None) };
    }

    /// Does `what` the next time that this thread comes to `step`.
    pub(crate) fn ask(step: Step, what: impl FnOnce(&RingShared) + 'static) {
        ASKED.with_borrow_mut(|asked| *asked = Some((step, Box::new(what))));
    }

    pub(crate) fn now(step: Step, ring: &RingShared) {
        let due = ASKED.with_borrow_mut(|asked| asked.take_if(|(at, _)| *at == step));
        if let Some((_, what)) = due {
            what(ring);
        }
    }
}
