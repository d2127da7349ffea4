//! What each thread has taken last of a puller whose group does not acknowledge.
//!
//! A task of such a group is over when it is dropped. A loop of Python keeps it in its variable until it has the next, for which it may
//! wait for ever: the ring is full behind the one that is not over, and its pusher waits too. So a task is over as well when its thread
//! waits for another of the same puller, or closes it.
//!
//! It keeps no task alive.
//!
//! Invariant: no Python runs under the lock.

use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::task::Task;

/// More threads than share a puller at a time. Beyond, the one that is remembered longest is forgotten: its task is over when it is
/// dropped.
const THREADS_MAX: usize = 64;

type Taken = Vec<Py<PyWeakrefReference>>;

/// What each thread has taken last.
#[derive(Debug, Default)]
pub(crate) struct Last(Mutex<Vec<(ThreadId, Taken)>>);

impl Last {
    /// What this thread took is over.
    pub(crate) fn end(&self, py: Python<'_>) {
        for task in self.swap(Vec::new()) {
            if let Some(task) = task.bind(py).upgrade().and_then(|task| task.cast_into::<Task>().ok()) {
                Task::end(&task);
            }
        }
    }

    /// This thread took these.
    pub(crate) fn note(&self, py: Python<'_>, tasks: &[Py<Task>]) -> PyResult<()> {
        let of = |task: &Py<Task>| Ok(PyWeakrefReference::new(task.bind(py))?.unbind());
        let taken = tasks.iter().map(of).collect::<PyResult<Taken>>()?;
        drop(self.swap(taken));
        Ok(())
    }

    fn swap(&self, taken: Taken) -> Taken {
        let me = thread::current().id();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, last)) = all.iter_mut().find(|(thread, _)| *thread == me) {
            return std::mem::replace(last, taken);
        }
        if taken.is_empty() {
            return taken;
        }
        all.push((me, taken));
        if all.len() > THREADS_MAX { all.remove(0).1 } else { Vec::new() }
    }
}
