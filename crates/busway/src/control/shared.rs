//! What callers and the control thread share: registrations, answers, and a bell for the thread.
//!
//! Callers put registrations and questions in, the thread takes them out and puts answers in. Registrations stay
//! here for as long as they are valid, because the thread says them again to every new holder. Nothing here
//! waits for a holder: `wait` ends by the caller's deadline.
//!
//! Invariant: the mutex is held for a few steps only, never across a system call that can wait nor a callback.

use super::rendezvous::SUBSCRIBERS_MAX;
use super::{MemberList, PublisherRecord, SubscriberRecord, closed, too_many};
use crate::error::{Error, memory};
use busway_shm::clock::Deadline;
use busway_shm::domain::Domain;
use busway_shm::fork::PrivateFd;
use busway_shm::sync::{AtomicBool, Ordering};
use busway_shm::sys::event;
use busway_wire::limits::RINGS_MAX;
use busway_wire::{Control as Message, Group, PortId, ProcessId};
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one sleep of a caller lasts where its deadline is never.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Where the process stands with its domain.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Not yet welcomed, not yet holding.
    Joining,
    /// A member or the holder; stays so while it looks for the next holder.
    Joined,
    /// Joining cannot succeed.
    Failed(Error),
    /// `close` was called.
    Closing,
    /// The thread has ended.
    Closed,
}

impl Phase {
    pub(super) fn is_over(&self) -> bool {
        match self {
            Phase::Joining | Phase::Joined => false,
            Phase::Failed(_) | Phase::Closing | Phase::Closed => true,
        }
    }
}

/// A port as it is said to every holder.
#[derive(Clone, Debug)]
pub(super) enum Registration {
    Publisher(PublisherRecord),
    Subscriber(SubscriberRecord),
    /// A publisher for groups.
    Pusher(PublisherRecord),
    /// A subscriber for a group.
    Puller(SubscriberRecord, Group),
}

impl Registration {
    pub(super) fn port(&self) -> PortId {
        match self {
            Registration::Publisher(record) | Registration::Pusher(record) => record.port,
            Registration::Subscriber(record) | Registration::Puller(record, _) => record.port,
        }
    }

    pub(super) fn message(&self) -> Message {
        match self.clone() {
            Registration::Publisher(PublisherRecord { port, topic, ring, created_ns, relay, only: _ }) => {
                let (ring, generation) = (ring.index, ring.generation);
                Message::Publish { port, topic, ring, generation, created_ns, relay }
            }
            Registration::Subscriber(SubscriberRecord { port, pattern, policy, created_ns, export }) => {
                Message::Subscribe { port, pattern, policy, created_ns, export }
            }
            Registration::Pusher(PublisherRecord { port, topic, ring, created_ns, relay: _, only }) => {
                let (ring, generation) = (ring.index, ring.generation);
                Message::Push { port, topic, ring, generation, created_ns, only }
            }
            Registration::Puller(record, group) => {
                let SubscriberRecord { port, pattern, policy: _, created_ns, export } = record;
                Message::Pull { port, pattern, group, created_ns, export }
            }
        }
    }

    /// Whether it reads.
    fn subscribes(&self) -> bool {
        match self {
            Registration::Publisher(_) | Registration::Pusher(_) => false,
            Registration::Subscriber(_) | Registration::Puller(..) => true,
        }
    }
}

/// Whether somebody waits for the answer to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    Wanted,
    Unwanted,
}

/// What a holder answered to a registration.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Published(Vec<ProcessId>),
    Subscribed(u32),
}

/// The list of members: at most one question is on its way; callers wait for an answer not older than their ticket.
#[derive(Debug)]
pub(super) enum Question {
    /// Nobody asked, or the answer was given.
    Answered { ticket: u64, list: MemberList },
    /// To be sent to the holder.
    Asked { ticket: u64 },
    /// The holder is answering.
    Running { ticket: u64, list: MemberList, again: Option<u64> },
}

/// Whether somebody of this process watches what the host subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchRequest {
    /// Nobody does.
    None,
    /// The present holder has to be told.
    Unsent,
    /// The present holder was told.
    Sent,
}

/// Everything under the mutex.
#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) holding: bool,
    pub(super) domain: Option<Arc<Domain>>,
    pub(super) registrations: BTreeMap<PortId, Registration>,
    /// Registrations that the present holder has not been told.
    pub(super) unsent: BTreeSet<PortId>,
    /// Withdrawals that the present holder has not been told. At most one for each registration that was made.
    pub(super) withdrawn: Vec<Message>,
    /// Ports that a caller waits for.
    pub(super) answers: BTreeMap<PortId, Option<Answer>>,
    pub(super) question: Question,
    pub(super) poked: bool,
    pub(super) watch: WatchRequest,
    /// What keeps this process from the holder, if it knows: told to callers whose deadline passes.
    pub(super) trouble: Option<Error>,
    /// The thread has done everything but to witness the end of samples that are held: nobody waits for it.
    pub(super) lingers: bool,
    subscribers: usize,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: PrivateFd,
    /// The loop was woken since it was last stepped: what a thread sees by `wake`.
    rung: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Result<Shared, Error> {
        let wake = event::create().and_then(PrivateFd::new).map_err(|error| memory(&error, "bw-control"))?;
        let state = State {
            phase: Phase::Joining,
            holding: false,
            domain: None,
            registrations: BTreeMap::new(),
            unsent: BTreeSet::new(),
            withdrawn: Vec::new(),
            answers: BTreeMap::new(),
            question: Question::Answered { ticket: 0, list: MemberList::default() },
            poked: false,
            watch: WatchRequest::None,
            trouble: None,
            lingers: false,
            subscribers: 0,
        };
        Ok(Shared { state: Mutex::new(state), changed: Condvar::new(), wake, rung: AtomicBool::new(false) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned state is still whole: nothing under the lock can panic half-way through a change of two fields.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the callers that wait.
    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `look` finds what it looks for, or the deadline has passed.
    pub(super) fn wait<T>(&self, deadline: Deadline, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = deadline.remaining().unwrap_or(SLEEP_MAX);
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The thread sleeps on this descriptor.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(super) fn register(&self, registration: Registration, answers: Answers) -> Result<(), Error> {
        let port = registration.port();
        let mut state = self.lock();
        if state.phase.is_over() {
            return Err(closed());
        }
        let publishers = state.registrations.len() - state.subscribers;
        let subscribes = registration.subscribes();
        let (found, most) =
            if subscribes { (state.subscribers, SUBSCRIBERS_MAX) } else { (publishers, RINGS_MAX as usize) };
        if found >= most {
            return Err(too_many());
        }
        let before = state.registrations.insert(port, registration);
        state.subscribers += usize::from(subscribes);
        state.subscribers -= usize::from(before.is_some_and(|before| before.subscribes()));
        state.unsent.insert(port);
        if answers == Answers::Wanted {
            state.answers.insert(port, None);
        }
        drop(state);
        self.ring();
        Ok(())
    }

    /// Takes a registration back and lets the holder know.
    pub(super) fn withdraw(&self, port: PortId, message: Message) {
        let mut state = self.lock();
        match state.registrations.remove(&port) {
            None => return,
            Some(registration) => state.subscribers -= usize::from(registration.subscribes()),
        }
        state.unsent.remove(&port);
        state.withdrawn.push(message);
        drop(state);
        self.ring();
    }

    /// Takes a registration back of which its caller was not told that it was made.
    pub(super) fn forget(&self, port: PortId) {
        let message = match self.lock().registrations.get(&port) {
            None => return,
            Some(registration) if registration.subscribes() => Message::Unsubscribe { port },
            Some(_) => Message::Unpublish { port },
        };
        self.withdraw(port, message);
    }

    /// Asks for the list of members; an answer with this ticket or a later one is new enough.
    pub(super) fn ask(&self) -> Result<u64, Error> {
        let mut state = self.lock();
        if state.phase.is_over() {
            return Err(closed());
        }
        let ticket = match &mut state.question {
            Question::Answered { ticket, .. } => {
                let ticket = *ticket + 1;
                state.question = Question::Asked { ticket };
                ticket
            }
            Question::Asked { ticket } => *ticket,
            // What is running may have begun before a change that the caller knows of.
            Question::Running { ticket, again, .. } => *again.get_or_insert(*ticket + 1),
        };
        drop(state);
        self.ring();
        Ok(ticket)
    }

    pub(super) fn watch(&self) {
        self.lock().watch = WatchRequest::Unsent;
        self.ring();
    }

    pub(super) fn poke(&self) {
        self.lock().poked = true;
        self.ring();
    }

    pub(super) fn close(&self) {
        self.update(|state| {
            if !matches!(state.phase, Phase::Closed | Phase::Failed(_)) {
                state.phase = Phase::Closing;
            }
        });
        self.ring();
    }

    /// Whether the loop was woken since [`Shared::heard`].
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire) // pairs with Release in `ring`
    }

    /// The loop is about to look at everything.
    pub(super) fn heard(&self) {
        self.rung.store(false, Ordering::Relaxed);
    }

    fn ring(&self) {
        self.rung.store(true, Ordering::Release); // pairs with Acquire in `is_rung`
        // It can only fail for something that is no eventfd, and this one we made.
        let _ = event::signal(&self.wake);
    }
}
