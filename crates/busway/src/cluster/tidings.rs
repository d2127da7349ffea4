//! What the threads of an endpoint tell each other and its user: orders to who receives, events, counters.
//!
//! Who receives may sleep on the bell; an order is put here first, and then the bell is rung, so that none is overslept.
//!
//! Invariant: no lock is held while anything is waited for but its own condition.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use busway_shm::bell::ANY;
use busway_shm::clock::Deadline;
use busway_shm::sync::{AtomicBool, Ordering};
use busway_wire::limits::CLUSTER_EVENTS_MAX;

use super::{Counters, Event, Message, Peer};
use crate::bus::Core;
use crate::ports::lock;

/// What who receives has to do, in order.
#[derive(Debug)]
pub(super) enum Order {
    /// Keep this one and hold its sender back.
    Suspend(Message),
    /// Hand out again what was kept.
    Resume,
    /// This peer is forgotten.
    Forget(Peer),
}

#[derive(Debug, Default)]
struct State {
    orders: VecDeque<Order>,
    /// Nothing is handed out.
    paused: bool,
    closing: bool,
}

#[derive(Debug, Default)]
struct Events {
    all: VecDeque<Event>,
    overrun: u64,
    closed: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Tidings {
    core: Arc<Core>,
    state: Mutex<State>,
    ordered: Condvar,
    news: AtomicBool,
    events: Mutex<Events>,
    told: Condvar,
    counters: Mutex<Counters>,
}

/// What who receives may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    Open,
    Paused,
    Closing,
}

impl Tidings {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            state: Mutex::default(),
            ordered: Condvar::new(),
            news: AtomicBool::new(false),
            events: Mutex::default(),
            told: Condvar::new(),
            counters: Mutex::default(),
        }
    }

    /// Gives an order.
    pub(super) fn order(&self, order: Order) {
        let mut state = lock(&self.state);
        if matches!(order, Order::Resume) {
            state.paused = false;
        }
        state.orders.push_back(order);
        drop(state);
        self.wake();
    }

    /// Hands out nothing until the order to resume.
    pub(super) fn pause(&self) {
        lock(&self.state).paused = true;
        self.wake();
    }

    /// From now on nothing is handed out.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.wake();
        lock(&self.events).closed = true;
        self.told.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        lock(&self.state).closing
    }

    fn wake(&self) {
        self.news.store(true, Ordering::Release); // pairs with Acquire in `has_news`
        self.ordered.notify_all();
        self.core.ports.ring_bell(ANY);
    }

    /// Whether there is something that who receives does not know.
    pub(super) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire) // pairs with Release in `wake`
    }

    /// All that was ordered, and what may be done now.
    pub(super) fn take(&self) -> (VecDeque<Order>, Stance) {
        let mut state = lock(&self.state);
        // Under the lock: what is ordered after this is news again.
        self.news.store(false, Ordering::Release); // pairs with Acquire in `has_news`
        let stance = match (state.closing, state.paused) {
            (true, _) => Stance::Closing,
            (false, true) => Stance::Paused,
            (false, false) => Stance::Open,
        };
        (std::mem::take(&mut state.orders), stance)
    }

    /// Waits for news, until `deadline` at most.
    pub(super) fn wait(&self, deadline: Deadline) {
        let state = lock(&self.state);
        let quiet = |_: &mut State| !self.has_news();
        match deadline.remaining() {
            Some(left) => drop(self.ordered.wait_timeout_while(state, left, quiet)),
            None => drop(self.ordered.wait_while(state, quiet)),
        }
    }

    /// Tells the user; the oldest gives way where nobody asks.
    pub(super) fn tell(&self, event: Event) {
        self.count(|counters| match &event {
            Event::Lost { count, .. } => counters.lost += count,
            Event::Missed { count, .. } => counters.missed += count,
            Event::Up { .. } | Event::Down { .. } | Event::Overrun { .. } => {}
        });
        let mut events = lock(&self.events);
        if events.all.len() >= CLUSTER_EVENTS_MAX {
            events.all.pop_front();
            events.overrun += 1;
        }
        events.all.push_back(event);
        self.told.notify_all();
    }

    /// The next event; waits for it, at most `timeout`.
    pub(super) fn event(&self, timeout: Duration) -> Option<Event> {
        let quiet = |events: &mut Events| events.all.is_empty() && events.overrun == 0 && !events.closed;
        let waited = self.told.wait_timeout_while(lock(&self.events), timeout, quiet);
        let mut events = waited.unwrap_or_else(PoisonError::into_inner).0;
        if events.overrun > 0 {
            return Some(Event::Overrun { count: std::mem::take(&mut events.overrun) });
        }
        events.all.pop_front()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut lock(&self.counters));
    }

    pub(super) fn counters(&self) -> Counters {
        *lock(&self.counters)
    }
}
