//! Sleeping until something comes for a subscriber or a puller, without borrowing it.
//!
//! For those who share a subscriber between threads, as bindings to other languages do: one thread sleeps, and another can
//! ask what was lost meanwhile. It takes nothing; the look is the caller's.
//!
//! Invariant: what comes after the look ends the sleep.

use std::sync::Arc;
use std::time::Duration;

use busway_shm::clock;

use crate::bus::Core;
use crate::outcome::RecvError;
use crate::ports::Subscription;

use super::Subscriber;

/// Where to sleep until something comes. Made by [`Subscriber::news`] and [`Puller::news`](crate::Puller::news); it keeps the bus open.
///
/// ```
/// # fn main() -> Result<(), busway::Error> {
/// # use std::time::Duration;
/// let bus = busway::Bus::open("example-of-news")?;
/// let mut subscriber = bus.subscriber("price.*").open()?;
/// bus.publisher("price.tick").open()?.send(b"42")?;
/// let news = subscriber.news();
/// let sample = loop {
///     // What the look returns ends the wait; `None` sleeps.
///     if let Some(taken) = news.wait(Duration::from_secs(1), || subscriber.try_recv().transpose())? {
///         break taken?;
///     }
/// };
/// assert_eq!(&sample[..], b"42");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct News {
    core: Arc<Core>,
    subscription: Arc<Subscription>,
}

impl Subscriber {
    /// Where to sleep until something comes, without borrowing the subscriber.
    #[must_use]
    pub fn news(&self) -> News {
        News::of(&self.core, &self.subscription)
    }

    /// Whether the last look came to its end before everything had been looked at, because so much was lost: look again
    /// before you sleep.
    #[must_use]
    pub fn must_look_again(&self) -> bool {
        self.unfinished
    }
}

impl News {
    pub(crate) fn of(core: &Arc<Core>, subscription: &Arc<Subscription>) -> Self {
        Self { core: core.clone(), subscription: subscription.clone() }
    }

    /// Announces that the caller sleeps, calls `look`, returns what it found, and sleeps if that is nothing: at most
    /// `timeout`, and until something comes or the bus is closed. It may return for nothing: look again.
    ///
    /// # Errors
    /// [`RecvError::Closed`], [`RecvError::Forked`].
    pub fn wait<T>(
        &self,
        timeout: Duration,
        look: impl FnOnce() -> Option<T>,
    ) -> Result<Option<T>, RecvError> {
        if self.core.own.forked() {
            return Err(RecvError::Forked);
        }
        let Some(domain) = self.core.ports.domain() else { return Err(RecvError::Closed) };
        let bell = domain.bell();
        let sleeper = bell.prepare(self.subscription.line);
        let version = self.subscription.version();
        // Announced: what comes now will ring. What came before is seen by this look.
        if let Some(found) = look() {
            return Ok(Some(found));
        }
        if self.core.is_closed() {
            return Err(RecvError::Closed);
        }
        // A publisher that was met meanwhile may have something that the look could not see.
        if self.subscription.version() == version {
            let due_ns = self.subscription.due_ns();
            let due = due_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(clock::monotonic_ns())));
            sleeper.wait(Some(due.map_or(timeout, |due| due.min(timeout))));
        }
        Ok(None)
    }
}
