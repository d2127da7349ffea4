//! A gate before the offers of a program: they may be made before its node is there, and go out when it is.
//!
//! Until it is started whoever offers waits at the gate, all of them, and the start lets all of them through. From then on what is offered waits in a queue of a bounded length, in drafts and in bytes, for one thread,
//! `bw-broadcast`, which gives it to the node; one more than that is dropped and counted, so that nobody waits for a node that is slow. What can be seen to be no offer is refused before it waits.
//!
//! One thread gives all, in order: a large draft goes before the small ones behind it.
//!
//! Invariant: what was accepted is given out once, in order, or counted as dropped when the broadcaster is closed.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::fork;
use busway_wire::Topic;
use busway_wire::limits::{
    ARTIFACT_ATTRIBUTE_BYTES_MAX, ARTIFACT_BROADCAST_BYTES_MAX, ARTIFACT_BROADCAST_MAX, ARTIFACT_BYTES_MAX,
    ARTIFACT_JOIN_MS,
};

use crate::artifacts::Destination;
use crate::artifacts::offer::{Source, refuse_destination};
use crate::bus::{Bus, forked};
use crate::error::{Code, Error, memory};
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

impl Draft {
    fn size(&self) -> u64 {
        (self.body.len() + self.attribute.len() + self.topic.len() + size_of::<Self>()) as u64
    }

    /// What the node would refuse is told at once.
    fn check(&self) -> Result<(), Error> {
        let topic = Topic::new(&self.topic).map_err(Error::from)?;
        refuse_destination(&topic, &self.to)?;
        let too_large = |what: String, remedy: &str| {
            Err(Error::new(Code::TooLarge, what).at(format!("topic {topic}")).remedy(remedy.to_owned()))
        };
        if self.attribute.len() > ARTIFACT_ATTRIBUTE_BYTES_MAX {
            let size = self.attribute.len();
            return too_large(
                format!("an attribute of {size} bytes, at most {ARTIFACT_ATTRIBUTE_BYTES_MAX} are allowed"),
                "say less in the attribute",
            );
        }
        if self.body.len() as u64 > ARTIFACT_BYTES_MAX {
            let size = self.body.len();
            return too_large(
                format!("an artifact of {size} bytes, at most {ARTIFACT_BYTES_MAX} are allowed"),
                "send it in parts, each an artifact",
            );
        }
        Ok(())
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
    /// Not taken by whoever they were given to, also those at which it panicked.
    pub failed: u64,
    /// Of these, those at which it panicked.
    pub panicked: u64,
    /// Not accepted, because as many waited as may, or as many bytes.
    pub dropped_full: u64,
    /// Accepted, and not given out before it was closed.
    pub dropped_closed: u64,
    /// Not accepted, because it was closed, or because they cannot be offered.
    pub refused: u64,
    /// Not accepted, because it had not started by their deadline.
    pub late: u64,
}

#[derive(Default)]
struct State {
    started: bool,
    closed: bool,
    /// That something came behind the end was said in the log.
    told: bool,
    waiting: VecDeque<Draft>,
    /// Bytes of what waits and of what is being given out.
    bytes: u64,
    /// One is being given out.
    busy: bool,
    /// The thread has not ended.
    runs: bool,
    counts: BroadcastCounts,
}

struct Inner {
    state: Mutex<State>,
    /// Whether it has started, or closed: for who waits at the gate, and for the thread.
    changed: Condvar,
    most: usize,
    bytes_max: u64,
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
    /// How many forks there were when it was made.
    forks: Option<u64>,
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
    /// One that has not started, and lets 100 000 wait when it has, of up to 256 MiB together.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room(ARTIFACT_BROADCAST_MAX, ARTIFACT_BROADCAST_BYTES_MAX)
    }

    /// The same with room for so many drafts, at least one, and for so many bytes of them; one that is larger waits alone.
    #[must_use]
    pub fn with_room(drafts: usize, bytes: u64) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let inner = Inner { state, changed, most: drafts.max(1), bytes_max: bytes };
        Self { inner: Arc::new(inner), thread: Mutex::default(), forks: fork::generation().ok() }
    }

    /// Whether this is a child made by `fork`: it has no such thread, and must not touch the locks.
    fn is_inherited(&self) -> bool {
        self.forks.is_some_and(fork::forked_since)
    }

    fn refuse_inherited(&self) -> Result<(), Error> {
        if self.is_inherited() { Err(forked()) } else { Ok(()) }
    }

    /// Opens the gate: what is offered goes to the node of this bus, where it stays offered until that ends.
    ///
    /// # Errors
    /// [`Code::NoNode`] where there is none; [`Code::BadSetting`] where it has started already; [`Code::Closed`]; [`Code::ThreadRefused`]; [`Code::Forked`].
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

    /// Opens the gate: this function, on a thread of its own, is given one after the other. Where it panics that one has failed, and the next is given.
    ///
    /// # Errors
    /// As [`Broadcaster::start`], but for the node.
    pub fn start_with(
        &self,
        give: impl FnMut(Draft) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        self.refuse_inherited()?;
        if self.forks.is_none() {
            // Where it cannot be known that this is a child there is no thread for it either.
            fork::generation().map_err(|error| memory(&error, "the broadcaster"))?;
        }
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
        (state.started, state.runs) = (true, true);
        self.inner.changed.notify_all();
        Ok(())
    }

    /// Offers this. Before the start it waits for that.
    ///
    /// # Errors
    /// [`Code::BadTopic`], [`Code::TooLarge`] and [`Code::NotYet`] for what cannot be offered, as [`OfferBuilder::open`](crate::artifacts::OfferBuilder::open) has them, before it waits.
    /// [`Code::Full`] where as many wait as may, or as many bytes: it is dropped and counted. [`Code::Closed`] where the broadcaster was closed, also while this waited. [`Code::Forked`].
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
        self.refuse_inherited()?;
        if let Err(error) = draft.check() {
            lock(&self.inner.state).counts.refused += 1;
            return Err(error);
        }
        let mut state = lock(&self.inner.state);
        while !state.started && !state.closed {
            state = match deadline.remaining() {
                Some(left) if left.is_zero() => {
                    state.counts.late += 1;
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
        let (waits, bytes) = (state.waiting.len() + usize::from(state.busy), draft.size());
        if waits >= self.inner.most || (waits > 0 && state.bytes.saturating_add(bytes) > self.inner.bytes_max)
        {
            state.counts.dropped_full += 1;
            let cause = format!("{waits} offers of {} bytes wait already", state.bytes);
            return Err(Error::new(Code::Full, cause)
                .at(format!("topic {}", draft.topic))
                .remedy("offer it again when there is room"));
        }
        state.bytes += bytes;
        state.counts.accepted += 1;
        state.waiting.push_back(draft);
        self.inner.changed.notify_all();
        Ok(())
    }

    /// What it has counted; nothing in a child made by `fork`.
    #[must_use]
    pub fn counts(&self) -> BroadcastCounts {
        if self.is_inherited() { BroadcastCounts::default() } else { lock(&self.inner.state).counts }
    }

    /// Nothing is accepted any more, and who waits at the gate is told so; what has been accepted and not given out is dropped and counted. The thread is joined when it returns from what
    /// it gives to, but where it is that thread which asks; where that takes more than a second it is left to itself, told in the log.
    pub fn close(&self) {
        if self.is_inherited() {
            return;
        }
        let mut state = lock(&self.inner.state);
        state.closed = true;
        let left = state.waiting.drain(..).map(|draft| draft.size()).collect::<Vec<u64>>();
        state.counts.dropped_closed += left.len() as u64;
        state.bytes -= left.iter().sum::<u64>();
        self.inner.changed.notify_all();
        drop(state);
        let own = std::thread::current().id();
        if lock(&self.thread).as_ref().is_none_or(|thread| thread.thread().id() == own) {
            // What it was given to closes it: it ends when that returns, and the next call joins it.
            return;
        }
        let deadline = Deadline::after(Duration::from_millis(ARTIFACT_JOIN_MS));
        let mut state = lock(&self.inner.state);
        while state.runs {
            let left = deadline.remaining().unwrap_or_default();
            if left.is_zero() {
                tracing::warn!(target: "busway::gossip", "what a broadcaster gives to has not returned {ARTIFACT_JOIN_MS} ms after the end; its thread is left to itself");
                return;
            }
            state = self.inner.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        if let Some(thread) = lock(&self.thread).take() {
            // It has nothing to say; a panic of what it gives to was caught and told.
            let _ = thread.join();
        }
    }
}

impl Drop for Broadcaster {
    fn drop(&mut self) {
        if self.is_inherited() {
            // The thread is the parent's, and what it had locked stays so.
            std::mem::forget(self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            std::mem::forget(self.inner.clone());
            return;
        }
        self.close();
    }
}

/// The thread, until it ends.
struct Runs<'a>(&'a Inner);

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).runs = false;
        self.0.changed.notify_all();
    }
}

impl Inner {
    fn run(&self, mut give: impl FnMut(Draft) -> Result<(), Error>) {
        let runs = Runs(self);
        let mut state = lock(&self.state);
        while !state.closed {
            let Some(draft) = state.waiting.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy = true;
            drop(state);
            let (topic, bytes) = (draft.topic.clone(), draft.size());
            let given = catch_unwind(AssertUnwindSafe(|| give(draft)));
            state = lock(&self.state);
            state.busy = false;
            state.bytes -= bytes;
            let failed = match given {
                Ok(Ok(())) => {
                    state.counts.given += 1;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => {
                    state.counts.panicked += 1;
                    "what it is given to panicked".to_owned()
                }
            };
            state.counts.failed += 1;
            if state.counts.failed == 1 {
                tracing::warn!(target: "busway::gossip", topic, "an artifact cannot be offered: {failed}; further ones are counted");
            }
        }
        drop(state);
        // What was captured may be of the user, and may take its time: that is waited for too.
        drop(give);
        drop(runs);
    }
}

fn closed() -> Error {
    Error::new(Code::Closed, "the broadcaster is closed").at("the broadcaster").remedy("make a new one")
}
