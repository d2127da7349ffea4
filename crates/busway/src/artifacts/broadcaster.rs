//! A gate before the offers of a program: they may be made before its node is there, and go out when it is.
//!
//! Until it is started whoever offers waits at the gate, all of them, and the start lets all of them through. From then on what is offered waits in a queue of a bounded length for one thread,
//! `bw-broadcast`, which gives it to the node; one more than that is dropped and counted, so that nobody waits for a node that is slow.
//!
//! Invariant: what was accepted is given out once, in order, or counted as dropped when the broadcaster is closed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_wire::limits::ARTIFACT_BROADCAST_MAX;

use crate::artifacts::Destination;
use crate::artifacts::offer::Source;
use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::ports::lock;

/// An artifact that is to be offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// On which topic.
    pub topic: String,
    /// Its bytes.
    pub body: Arc<[u8]>,
    /// What its receivers are told beside.
    pub attribute: Vec<u8>,
    /// Whom it is for.
    pub to: Destination,
}

impl Draft {
    /// These bytes, for all, without an attribute.
    #[must_use]
    pub fn new(topic: &str, body: &[u8]) -> Self {
        Self { topic: topic.to_owned(), body: body.into(), attribute: Vec::new(), to: Destination::All }
    }
}

/// What a broadcaster has counted: `accepted` = `given` + `failed` + `dropped_closed` + what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BroadcastCounts {
    /// Taken, to be given out.
    pub accepted: u64,
    /// Given out.
    pub given: u64,
    /// Not taken by whoever they were given to.
    pub failed: u64,
    /// Not accepted, because as many waited as may.
    pub dropped_full: u64,
    /// Accepted, and not given out before it was closed.
    pub dropped_closed: u64,
    /// Not accepted, because it was closed.
    pub refused: u64,
}

#[derive(Default)]
struct State {
    started: bool,
    closed: bool,
    /// That something came behind the end was said in the log.
    told: bool,
    waiting: VecDeque<Draft>,
    /// One is being given out.
    busy: bool,
    counts: BroadcastCounts,
}

struct Inner {
    state: Mutex<State>,
    /// Whether it has started, or closed: for who waits at the gate, and for the thread.
    changed: Condvar,
    most: usize,
}

/// See the head of this file.
///
/// ```
/// # fn main() -> Result<(), busway::Error> {
/// # use std::time::Duration;
/// use busway::artifacts::{Broadcaster, Draft, Event};
/// let gate = std::sync::Arc::new(Broadcaster::new());
/// let early = gate.clone();
/// let thread = std::thread::spawn(move || early.offer(Draft::new("block.new", b"a block")));
/// let bus = busway::Bus::open("example-of-a-gate")?;
/// let node = busway::Node::builder().index(0).open(&bus)?;
/// let mut subscriber = bus.artifacts("block.>")?.subscriber().open()?;
/// gate.start(&bus)?;
/// thread.join().expect("it does not panic")?;
/// assert!(matches!(subscriber.recv_timeout(Duration::from_secs(5))?, Some(Event::Received(_))));
/// # Ok(())
/// # }
/// ```
pub struct Broadcaster {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Broadcaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcaster").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Default for Broadcaster {
    fn default() -> Self {
        Self::new()
    }
}

impl Broadcaster {
    /// One that has not started, and lets 100 000 wait when it has.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room(ARTIFACT_BROADCAST_MAX)
    }

    /// The same with room for so many, at least one.
    #[must_use]
    pub fn with_room(most: usize) -> Self {
        let inner = Inner { state: Mutex::default(), changed: Condvar::new(), most: most.max(1) };
        Self { inner: Arc::new(inner), thread: Mutex::default() }
    }

    /// Opens the gate: what is offered goes to the node of this bus, where it stays offered until that ends.
    ///
    /// # Errors
    /// [`Code::NoNode`] where there is none; [`Code::BadSetting`] where it has started already; [`Code::Closed`]; [`Code::ThreadRefused`].
    pub fn start(&self, bus: &Bus) -> Result<(), Error> {
        let bus = bus.clone();
        // Asked before any is let through: without a node all would fail.
        bus.artifacts(">")?;
        self.start_with(move |draft: Draft| {
            let offer =
                bus.artifacts(&draft.topic)?.offer_of(Source::Bytes(draft.body)).attribute(&draft.attribute);
            offer.to(draft.to).keep().open().map(drop)
        })
    }

    /// Opens the gate: this function, on a thread of its own, is given one after the other.
    ///
    /// # Errors
    /// As [`Broadcaster::start`], but for the node.
    pub fn start_with(
        &self,
        give: impl FnMut(Draft) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let mut thread = lock(&self.thread);
        let mut state = lock(&self.inner.state);
        if state.closed {
            return Err(closed());
        }
        if state.started {
            return Err(Error::new(Code::BadSetting, "it has started already")
                .at("the broadcaster")
                .remedy("start it once"));
        }
        let inner = self.inner.clone();
        let begun =
            std::thread::Builder::new().name("bw-broadcast".to_owned()).spawn(move || inner.run(give));
        *thread = Some(begun.map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at("bw-broadcast")
                .remedy("raise the limit on processes: ulimit -u")
        })?);
        state.started = true;
        self.inner.changed.notify_all();
        Ok(())
    }

    /// Offers this. Before the start it waits for that.
    ///
    /// # Errors
    /// [`Code::Full`] where as many wait as may: it is dropped and counted. [`Code::Closed`] where the broadcaster was closed, also while this waited.
    pub fn offer(&self, draft: Draft) -> Result<(), Error> {
        self.offer_until(draft, Deadline::never())
    }

    /// The same, but for the start it waits at most so long.
    ///
    /// # Errors
    /// As [`Broadcaster::offer`]; [`Code::TimedOut`] where it had not started by then.
    pub fn offer_timeout(&self, draft: Draft, timeout: Duration) -> Result<(), Error> {
        self.offer_until(draft, Deadline::after(timeout))
    }

    fn offer_until(&self, draft: Draft, deadline: Deadline) -> Result<(), Error> {
        let mut state = lock(&self.inner.state);
        while !state.started && !state.closed {
            state = match deadline.remaining() {
                Some(left) if left.is_zero() => {
                    return Err(Error::new(Code::TimedOut, "the broadcaster has not started in time")
                        .at(format!("topic {}", draft.topic))
                        .remedy("start it, or wait longer"));
                }
                Some(left) => {
                    self.inner.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.inner.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        if state.closed {
            state.counts.refused += 1;
            if !std::mem::replace(&mut state.told, true) {
                tracing::warn!(target: "busway::gossip", topic = draft.topic, "offered to a broadcaster that is closed; further ones are counted");
            }
            return Err(closed());
        }
        if state.waiting.len() + usize::from(state.busy) >= self.inner.most {
            state.counts.dropped_full += 1;
            return Err(Error::new(Code::Full, format!("{} offers wait already", self.inner.most))
                .at(format!("topic {}", draft.topic))
                .remedy("offer it again when there is room"));
        }
        state.counts.accepted += 1;
        state.waiting.push_back(draft);
        self.inner.changed.notify_all();
        Ok(())
    }

    /// What it has counted.
    #[must_use]
    pub fn counts(&self) -> BroadcastCounts {
        lock(&self.inner.state).counts
    }

    /// Nothing is accepted any more, and who waits at the gate is told so; what has been accepted and not given out is dropped and counted. The thread is joined, but where it is
    /// that thread which asks.
    pub fn close(&self) {
        let mut state = lock(&self.inner.state);
        state.closed = true;
        let left = state.waiting.drain(..).count() as u64;
        state.counts.dropped_closed += left;
        self.inner.changed.notify_all();
        drop(state);
        let thread = lock(&self.thread).take();
        let Some(thread) = thread else { return };
        if thread.thread().id() == std::thread::current().id() {
            // What it was given to closes it: it ends when that returns, and the next call joins it.
            *lock(&self.thread) = Some(thread);
            return;
        }
        // It has nothing to say; a panic of what it gives to was printed when it happened.
        let _ = thread.join();
    }
}

impl Drop for Broadcaster {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn run(&self, mut give: impl FnMut(Draft) -> Result<(), Error>) {
        let mut state = lock(&self.state);
        while !state.closed {
            let Some(draft) = state.waiting.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy = true;
            drop(state);
            let topic = draft.topic.clone();
            let given = give(draft);
            state = lock(&self.state);
            state.busy = false;
            match given {
                Ok(()) => state.counts.given += 1,
                Err(error) => {
                    state.counts.failed += 1;
                    if state.counts.failed == 1 {
                        tracing::warn!(target: "busway::gossip", topic, "an artifact cannot be offered: {error}; further ones are counted");
                    }
                }
            }
        }
    }
}

fn closed() -> Error {
    Error::new(Code::Closed, "the broadcaster is closed").at("the broadcaster").remedy("make a new one")
}
