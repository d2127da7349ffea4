//! Who runs the loop of the control plane: a thread of its own, or whoever calls, step by step.
//!
//! Both run the same [`Worker`]. Without a thread nothing is waited for: whoever would wait for an answer steps until
//! there is nothing left to do, and a simulator steps when the loop was woken or its time has come.
//!
//! Invariant: a worker that is stepped is stepped by one caller at a time, and not from within its own callbacks.

use super::shared::{Phase, Shared, State};
use super::thread::Worker;
use crate::error::{Code, Error};
use busway_shm::clock::Deadline;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// How the loop is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// By the thread `bw-control`.
    OnThread,
    /// By [`Runner::step`], for a simulator.
    InSteps,
}

/// A loop that is stepped.
pub(super) struct Steps {
    worker: Box<Worker>,
    /// When it has something to do though nothing comes.
    due_ns: u64,
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("due_ns", &self.due_ns).finish_non_exhaustive()
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) enum Runner {
    Thread(Mutex<Option<JoinHandle<()>>>),
    Steps(Mutex<Option<Steps>>),
}

impl Runner {
    pub(super) fn start(runs: Runs, worker: Worker) -> Result<Runner, Error> {
        match runs {
            Runs::OnThread => {
                let thread =
                    std::thread::Builder::new().name("bw-control".to_owned()).spawn(move || worker.run());
                let thread = thread.map_err(|error| {
                    Error::new(Code::ThreadRefused, format!("the control thread cannot be started: {error}"))
                        .at("bw-control")
                        .remedy("raise the limit on processes: ulimit -u")
                })?;
                Ok(Runner::Thread(Mutex::new(Some(thread))))
            }
            Runs::InSteps => {
                Ok(Runner::Steps(Mutex::new(Some(Steps { worker: Box::new(worker), due_ns: 0 }))))
            }
        }
    }

    /// Waits until `look` finds what it looks for. In steps: until there is nothing left to do, whatever the deadline.
    pub(super) fn wait<T>(
        &self,
        shared: &Shared,
        deadline: Deadline,
        look: impl Fn(&State) -> Option<T>,
    ) -> Option<T> {
        match self {
            Runner::Thread(_) => shared.wait(deadline, look),
            Runner::Steps(_) => {
                self.step(shared);
                look(&shared.lock())
            }
        }
    }

    /// Lets the loop do what there is to do; nothing where a thread does.
    pub(super) fn step(&self, shared: &Shared) {
        let Runner::Steps(steps) = self else { return };
        let mut steps = match steps.try_lock() {
            Ok(steps) => steps,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // From within a callback: the step that is under way goes on.
            Err(TryLockError::WouldBlock) => return,
        };
        if let Some(steps) = &mut *steps {
            shared.heard();
            steps.due_ns = steps.worker.step();
        }
    }

    /// When the loop has something to do: 0 if it was woken. `None`: a thread knows.
    pub(super) fn due_ns(&self, shared: &Shared) -> Option<u64> {
        let Runner::Steps(steps) = self else { return None };
        let steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        let due_ns = steps.as_ref().map_or(u64::MAX, |steps| steps.due_ns);
        Some(if shared.is_rung() { 0 } else { due_ns })
    }

    /// Ends the loop, which was told to.
    pub(super) fn end(&self, shared: &Arc<Shared>) {
        match self {
            Runner::Thread(thread) => {
                let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(thread) =
                    thread.filter(|thread| thread.thread().id() != std::thread::current().id())
                else {
                    return;
                };
                let over = |state: &State| match state.phase {
                    Phase::Closed | Phase::Failed(_) => Some(state.lingers),
                    Phase::Joining | Phase::Joined | Phase::Closing => None,
                };
                if shared.wait(Deadline::never(), over) != Some(true) {
                    // The thread's own panic would have ended in `Phase::Closed` as well; there is nobody left to tell.
                    let _ = thread.join();
                }
            }
            Runner::Steps(steps) => {
                let steps = steps.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(steps) = steps {
                    steps.worker.end();
                }
            }
        }
    }

    /// In a child made by fork: drops nothing of the parent's thread, which would detach whatever thread of the child has
    /// been given the same memory: a thread of the child's own bus.
    pub(super) fn forget(&mut self) {
        match self {
            Runner::Thread(thread) => {
                std::mem::forget(thread.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            }
            Runner::Steps(steps) => {
                std::mem::forget(steps.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            }
        }
    }
}
