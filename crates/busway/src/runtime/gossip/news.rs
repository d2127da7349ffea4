//! Whose news wait: for one thread that tells the subscribers and offers of several programs.
//!
//! It carries no news, only who has some; who looks there finds them.
//!
//! Invariant: whoever had news since `take` is in what the next `take` returns.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::ports::lock;

/// Who has news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// A subscriber of a session.
    Reader { session: u64, reader: u64 },
    /// An offer of a session.
    Offer { session: u64, offer: u64 },
}

#[derive(Debug, Default)]
struct State {
    waits: BTreeSet<Whose>,
    woken: bool,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct News {
    state: Mutex<State>,
    changed: Condvar,
}

impl News {
    pub(crate) fn tell(&self, whose: Whose) {
        if lock(&self.state).waits.insert(whose) {
            self.changed.notify_one();
        }
    }

    /// Wakes who waits, without news.
    pub(crate) fn wake(&self) {
        lock(&self.state).woken = true;
        self.changed.notify_one();
    }

    /// Waits for news, at most for so long.
    pub(crate) fn take(&self, most: Duration) -> BTreeSet<Whose> {
        let state = lock(&self.state);
        let quiet = |state: &mut State| state.waits.is_empty() && !state.woken;
        let waited = self.changed.wait_timeout_while(state, most, quiet);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0).waits
    }
}
