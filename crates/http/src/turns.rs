//! Whose turn it is, where what is asked waits rather than being refused: on the threads that may wait for the bus, and with questions about all of it.
//!
//! Where callers can be told apart one has at most half of the turns, however many it asks for: what is more waits until one of its own ends, and others go before it. Nobody waits
//! on a thread. A turn is its owner's until it is dropped, by work that goes on when its caller has gone.
//!
//! Invariant: there are never more turns than the limit, nor of one caller than its share; who has none, and waits for none, is not remembered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busway::{Code, Error};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::budget::{Who, half};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    limit: usize,
    /// Those of each who can be told apart.
    own: Mutex<BTreeMap<Who, Arc<Semaphore>>>,
}

/// The turns of one caller, which are remembered as long as it has one or waits for one.
#[derive(Debug)]
struct Own {
    turns: Arc<Turns>,
    who: Who,
    own: Arc<Semaphore>,
}

/// One of the turns that a caller may have, which it may not have yet; `None` for who cannot be told apart. What stands last in it goes last.
#[derive(Debug)]
pub(crate) struct Share {
    _own: Option<(OwnedSemaphorePermit, Own)>,
}

/// A turn. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_own: Share,
}

impl Turns {
    pub(crate) fn new(limit: usize) -> Arc<Turns> {
        Arc::new(Turns { all: Arc::new(Semaphore::new(limit)), limit, own: Mutex::default() })
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<Who, Arc<Semaphore>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are at the moment.
    pub(crate) fn taken(&self) -> u64 {
        self.limit.saturating_sub(self.all.available_permits()) as u64
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit as u64
    }

    /// One of the turns of this caller, if it has not its share.
    pub(crate) fn try_share(self: &Arc<Turns>, who: &Who) -> Option<Share> {
        if *who == Who::Anybody {
            return Some(Share { _own: None });
        }
        let own = Own::of(self, who);
        Some(Share { _own: Some((own.own.clone().try_acquire_owned().ok()?, own)) })
    }

    /// One of the turns of this caller, as soon as it has fewer than its share.
    pub(crate) async fn share(self: &Arc<Turns>, who: &Who) -> Result<Share, Error> {
        if *who == Who::Anybody {
            return Ok(Share { _own: None });
        }
        let own = Own::of(self, who);
        Ok(Share { _own: Some((own.own.clone().acquire_owned().await.map_err(closed)?, own)) })
    }

    /// Its turn among all, as soon as it comes.
    pub(crate) async fn turn(&self, share: Share) -> Result<Turn, Error> {
        let of_all = self.all.clone().acquire_owned().await.map_err(closed)?;
        Ok(Turn { _of_all: of_all, _of_own: share })
    }

    /// The next turn of this caller, as soon as it comes.
    pub(crate) async fn next(self: &Arc<Turns>, who: &Who) -> Result<Turn, Error> {
        let share = self.share(who).await?;
        self.turn(share).await
    }
}

/// What cannot be as long as the door is open.
fn closed(_: AcquireError) -> Error {
    Error::new(Code::Closed, "the door is closing").at("http")
}

impl Own {
    fn of(turns: &Arc<Turns>, who: &Who) -> Own {
        let share = half(turns.limit());
        let new = || Arc::new(Semaphore::new(usize::try_from(share).unwrap_or(usize::MAX)));
        let own = turns.own().entry(who.clone()).or_insert_with(new).clone();
        Own { turns: turns.clone(), who: who.clone(), own }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut own = self.turns.own();
        // The table has it, and this one; whoever else wants it goes through the table.
        if Arc::strong_count(&self.own) <= 2 {
            own.remove(&self.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Turn, Turns, Who};
    use busway::{Error, Principal};
    use std::future::{Future, poll_fn};
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::task::Poll;

    /// What there is of a turn now.
    async fn now(turn: Pin<&mut impl Future<Output = Result<Turn, Error>>>) -> Option<Turn> {
        let mut turn = turn;
        let polled = poll_fn(|context| match turn.as_mut().poll(context) {
            Poll::Ready(turn) => Poll::Ready(Some(turn.expect("it is open"))),
            Poll::Pending => Poll::Ready(None),
        });
        polled.await
    }

    fn known(name: &str) -> Who {
        Who::Known(Principal::client(name).expect("a name"))
    }

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(test)
    }

    #[test]
    fn one_caller_has_half_of_the_turns_and_waits_for_its_own_while_others_have_the_rest() {
        block_on(async {
            let turns = Turns::new(8);
            let (greedy, other) = (known("greedy"), known("other"));
            let mut held = Vec::new();
            for _ in 0..4 {
                held.push(now(pin!(turns.next(&greedy))).await.expect("a turn"));
            }
            let mut fifth = pin!(turns.next(&greedy));
            assert!(now(fifth.as_mut()).await.is_none() && turns.taken() == 4);
            for _ in 0..4 {
                held.push(now(pin!(turns.next(&other))).await.expect("a turn"));
            }
            // The next that ends is of the other: it is its own that has it.
            let mut of_other = pin!(turns.next(&other));
            assert!(now(of_other.as_mut()).await.is_none());
            held.pop();
            assert!(now(fifth.as_mut()).await.is_none(), "who has its share waits");
            held.push(now(of_other.as_mut()).await.expect("a turn"));
            held.remove(0);
            held.push(now(fifth.as_mut()).await.expect("a turn"));
            assert_eq!((turns.taken(), turns.limit()), (8, 8));
            drop(held);
            assert_eq!((turns.taken(), turns.own().len()), (0, 0));
        });
    }

    #[test]
    fn who_waits_no_more_for_its_turn_is_not_remembered_and_takes_none() {
        block_on(async {
            let turns = Turns::new(2);
            let who = known("somebody");
            let turn = now(pin!(turns.next(&who))).await.expect("a turn");
            for _ in 0..3 {
                let mut more = Box::pin(turns.next(&who));
                assert!(now(more.as_mut()).await.is_none());
                drop(more);
                assert_eq!((turns.taken(), turns.own().len()), (1, 1));
            }
            drop(turn);
            assert_eq!((turns.taken(), turns.own().len()), (0, 0));
            // Of those who cannot be told apart all have all.
            let all: [_; 2] = [
                now(pin!(turns.next(&Who::Anybody))).await.expect("a turn"),
                now(pin!(turns.next(&Who::Anybody))).await.expect("a turn"),
            ];
            let mut more = Box::pin(turns.next(&who));
            assert!(now(more.as_mut()).await.is_none() && turns.own().len() == 1);
            drop(more);
            assert_eq!((turns.taken(), turns.own().len(), Arc::strong_count(&turns)), (2, 0, 1));
            drop(all);
            assert_eq!(turns.taken(), 0);
        });
    }
}
