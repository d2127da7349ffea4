//! The thread that sleeps on the bell so that async tasks need not.
//!
//! It starts with the first task that finds nothing. It announces that it sleeps (which makes publishers ring), wakes the
//! tasks that registered before that, so that they look again, and then sleeps. A task that registers while it sleeps
//! looks again itself. It knows no rings and no messages: it wakes too often rather than too seldom.
//!
//! Invariant: after a task has registered and looked once more in vain, the next ring of any bell line wakes it.

use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::thread::JoinHandle;

use busway_shm::bell::ANY;

use crate::ports::{PortTable, lock};

/// The thread, if any task has needed it.
#[derive(Debug, Default)]
pub(crate) struct WakeThread {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    wakers: Vec<Waker>,
    thread: Option<JoinHandle<()>>,
    stopping: bool,
}

impl WakeThread {
    /// The task of `waker` will be woken by the next ring. The caller looks at its rings once more.
    pub(crate) fn register(&self, ports: &Arc<PortTable>, waker: &Waker) {
        let mut state = lock(&self.state);
        if state.stopping {
            return;
        }
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        if state.thread.is_none() {
            let (shared, ports) = (self.state.clone(), ports.clone());
            let thread =
                std::thread::Builder::new().name("bw-wake".to_owned()).spawn(move || run(&shared, &ports));
            match thread {
                Ok(thread) => state.thread = Some(thread),
                // Without a thread the task polls: slow, and nothing is lost.
                Err(_) => waker.wake_by_ref(),
            }
        }
    }

    /// Wakes all tasks a last time and ends the thread.
    pub(crate) fn stop(&self, ports: &PortTable) {
        let thread = {
            let mut state = lock(&self.state);
            state.stopping = true;
            state.thread.take()
        };
        if let Some(thread) = thread {
            ports.ring_bell(ANY);
            // It has nothing to say; a panic in a waker is the executor's.
            let _ = thread.join();
        }
    }
}

fn wake_all(state: &Mutex<State>) -> bool {
    let (wakers, stopping) = {
        let mut state = lock(state);
        (std::mem::take(&mut state.wakers), state.stopping)
    };
    for waker in wakers {
        waker.wake();
    }
    stopping
}

fn run(state: &Mutex<State>, ports: &PortTable) {
    loop {
        let Some(domain) = ports.domain() else { return };
        let bell = domain.bell();
        let sleeper = bell.prepare(ANY);
        // Announced. Those who looked before that must look again; they register anew.
        if wake_all(state) {
            return;
        }
        sleeper.wait(None);
        if wake_all(state) {
            return;
        }
    }
}
