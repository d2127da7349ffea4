//! How an offer stands: who offers looks here, the thread that has the machine writes.
//!
//! Invariant: an end is the last word.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use busway_protocol::gossip::Nodes;

use crate::ports::lock;
use crate::runtime::gossip::news::{News, Whose};

/// How it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stands {
    /// It is offered.
    #[default]
    Offered,
    /// Each node has it, or has declined it.
    Reached,
    /// Its time is up, and these nodes have not said that they have it.
    Expired(Nodes),
    /// It was withdrawn, or its node has ended.
    Withdrawn,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    stands: Mutex<Stands>,
    changed: Condvar,
    /// Who is told of its end, beside who waits for it.
    told: OnceLock<(Arc<News>, Whose)>,
}

impl Standing {
    pub(crate) fn now(&self) -> Stands {
        *lock(&self.stands)
    }

    /// Waits until it is not offered any more, at most for so long.
    pub(crate) fn wait(&self, most: Duration) -> Stands {
        let stands = lock(&self.stands);
        let offered = |stands: &mut Stands| *stands == Stands::Offered;
        let waited = self.changed.wait_timeout_while(stands, most, offered);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Its end is told there, also if it was before.
    pub(crate) fn tell(&self, news: Arc<News>, whose: Whose) {
        let stands = lock(&self.stands);
        if *stands != Stands::Offered {
            news.tell(whose);
        }
        // It is told once, where the one that set it first says.
        let _ = self.told.set((news, whose));
    }

    pub(crate) fn end(&self, how: Stands) {
        let mut stands = lock(&self.stands);
        if *stands != Stands::Offered {
            return;
        }
        *stands = how;
        self.changed.notify_all();
        if let Some((news, whose)) = self.told.get() {
            news.tell(*whose);
        }
    }
}
