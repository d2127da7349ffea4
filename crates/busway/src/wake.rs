//! The thread that sleeps on the bell so that async tasks need not.
//!
//! It starts with the first task that finds nothing. It announces that it sleeps (which makes publishers ring), wakes the
//! tasks for which something came before that, and then sleeps. A task that registers while it sleeps looks again itself.
//! It takes no messages: of each waiting subscription it only asks whether there may be news. Who waits for a time as well is woken at that time, as there is no
//! other thread for it.
//! Where it is rung while no task waits, all of them being busy with what came, it is no longer announced, and publishers ring for
//! nobody: it waits for the next task that finds nothing, and announces itself then.
//!
//! Invariant: after a task has registered and looked once more in vain, the next message for its subscription wakes it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use busway_shm::bell::ANY;
use busway_shm::clock;

use crate::ports::{PortTable, Subscription, lock};

/// The thread, if any task has needed it.
#[derive(Debug, Default)]
pub(crate) struct WakeThread {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Somebody waits again, or this is the end: for a thread that is not announced.
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    thread: Option<JoinHandle<()>>,
    stopping: bool,
    /// It is not announced: the next that waits tells it.
    resting: bool,
    /// Until when the thread sleeps, whatever comes.
    until_ns: Option<u64>,
    /// Who wants to be woken at a time, and by nothing else: one time each.
    timers: Vec<Timer>,
}

#[derive(Debug)]
struct Timer {
    whose: usize,
    due_ns: u64,
    waker: Waker,
}

/// A task that waits. Of one subscription only one can: it is borrowed for that.
#[derive(Debug)]
struct Waiting {
    subscription: Weak<Subscription>,
    /// The publishers that it knew.
    version: u64,
    waker: Waker,
}

impl Waiting {
    fn has_news(&self) -> bool {
        // One that is gone waits for nothing, and its task may as well know.
        self.subscription.upgrade().is_none_or(|subscription| subscription.has_news(self.version))
    }
}

impl State {
    /// When the first of those that wait looks again whatever comes.
    fn due_ns(&self) -> Option<u64> {
        let due = |waiting: &Waiting| waiting.subscription.upgrade()?.due_ns();
        self.waiting.iter().filter_map(due).chain(self.timers.iter().map(|timer| timer.due_ns)).min()
    }

    /// Those whose time has come; all at the end.
    fn rung(&mut self) -> Vec<Waker> {
        let (now_ns, all) = (clock::monotonic_ns(), self.stopping);
        let rung = self.timers.extract_if(.., |timer| all || timer.due_ns <= now_ns);
        rung.map(|timer| timer.waker).collect()
    }

    /// Whether there is somebody to wake.
    fn is_wanted(&self) -> bool {
        self.stopping || !self.waiting.is_empty() || !self.timers.is_empty()
    }

    /// Adds a task, unless a later look of the same subscription is known.
    fn wait(&mut self, waiting: Waiting) {
        if !self.waiting.iter().any(|known| known.subscription.ptr_eq(&waiting.subscription)) {
            self.waiting.push(waiting);
        }
    }
}

impl WakeThread {
    /// The task of `waker` will be woken by the next news for `subscription`, of which it knows the publishers of
    /// `version`. The caller looks at its rings once more.
    pub(crate) fn register(
        &self,
        ports: &Arc<PortTable>,
        subscription: &Arc<Subscription>,
        version: u64,
        waker: &Waker,
    ) {
        let mut state = lock(&self.shared.state);
        if state.stopping {
            return;
        }
        let due_ns = subscription.due_ns();
        let subscription = Arc::downgrade(subscription);
        state.waiting.retain(|known| !known.subscription.ptr_eq(&subscription));
        state.waiting.push(Waiting { subscription, version, waker: waker.clone() });
        self.awake(state, ports, due_ns, waker);
    }

    /// The task of `waker` will be woken at this time, and not at the one that was given before under this number. On a bus that is closed nothing is waited for.
    pub(crate) fn wake_at(&self, ports: &Arc<PortTable>, whose: usize, due_ns: u64, waker: &Waker) {
        let mut state = lock(&self.shared.state);
        if state.stopping {
            return;
        }
        state.timers.retain(|timer| timer.whose != whose);
        state.timers.push(Timer { whose, due_ns, waker: waker.clone() });
        self.awake(state, ports, Some(due_ns), waker);
    }

    /// The time that was given under this number is waited for no more.
    pub(crate) fn forget(&self, whose: usize) {
        lock(&self.shared.state).timers.retain(|timer| timer.whose != whose);
    }

    /// The thread runs, and does not sleep beyond this time.
    fn awake(
        &self,
        mut state: MutexGuard<'_, State>,
        ports: &Arc<PortTable>,
        due_ns: Option<u64>,
        waker: &Waker,
    ) {
        if state.thread.is_none() {
            let (shared, ports) = (self.shared.clone(), ports.clone());
            let thread =
                std::thread::Builder::new().name("bw-wake".to_owned()).spawn(move || run(&shared, &ports));
            match thread {
                Ok(thread) => state.thread = Some(thread),
                // Without a thread the task polls: slow, and nothing is lost.
                Err(_) => waker.wake_by_ref(),
            }
        } else if state.resting {
            self.shared.wanted.notify_one();
        } else if let Some(due_ns) = due_ns
            && state.until_ns.is_none_or(|until_ns| due_ns < until_ns)
        {
            state.until_ns = Some(due_ns);
            drop(state);
            ports.ring_bell(ANY);
        }
    }

    /// Wakes all tasks a last time and ends the thread.
    pub(crate) fn stop(&self, ports: &PortTable) {
        let thread = {
            let mut state = lock(&self.shared.state);
            state.stopping = true;
            state.thread.take()
        };
        if let Some(thread) = thread {
            self.shared.wanted.notify_one();
            ports.ring_bell(ANY);
            // It has nothing to say; a panic in a waker is the executor's.
            let _ = thread.join();
        }
    }
}

/// Wakes the tasks for which there may be news, and at the end all of them; says whether that is the end.
fn wake(state: &Mutex<State>) -> bool {
    let (all, rung, stopping) = {
        let mut state = lock(state);
        (std::mem::take(&mut state.waiting), state.rung(), state.stopping)
    };
    // Without the lock: looking at rows and waking run the code of others.
    let (woken, waiting): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|waiting| stopping || waiting.has_news());
    {
        let mut state = lock(state);
        waiting.into_iter().for_each(|waiting| state.wait(waiting));
    }
    for waker in woken.into_iter().map(|task| task.waker).chain(rung) {
        waker.wake();
    }
    stopping
}

fn run(shared: &Shared, ports: &PortTable) {
    let state = &shared.state;
    loop {
        let Some(domain) = ports.domain() else { return };
        let bell = domain.bell();
        let sleeper = bell.prepare(ANY);
        // Announced: what comes now rings. What came before is news.
        if wake(state) {
            return;
        }
        let until_ns = {
            let mut state = lock(state);
            state.until_ns = state.due_ns();
            state.until_ns
        };
        let left =
            until_ns.map(|until_ns| Duration::from_nanos(until_ns.saturating_sub(clock::monotonic_ns())));
        sleeper.wait(left);
        // Rung for nobody: until somebody waits, it is not announced again.
        let mut now = lock(state);
        now.resting = !now.is_wanted();
        while now.resting {
            now = shared.wanted.wait(now).unwrap_or_else(PoisonError::into_inner);
            now.resting = !now.is_wanted();
        }
        drop(now);
        if wake(state) {
            return;
        }
    }
}
