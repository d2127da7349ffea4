//! Pulling from Python: work that no other puller of the group has.
//!
//! How it waits, and what an event loop does with it, says `intake`; how a task ends, `task`.
//!
//! Invariant: a task that was taken is in somebody's hands, or given back.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use busway::{News, RecvError, Unread};
use futures_core::Stream;
use pyo3::prelude::*;

use crate::intake::{Intake, Port, all};
use crate::last::Last;
use crate::task::Task;

impl Port for busway::Puller {
    type Item = busway::Task;
    const NAME: &'static str = "puller";
    const NOTHING: (&'static str, &'static str) =
        ("no work came in time", "wait longer, or see with busway ls who pushes");

    fn try_recv(&mut self) -> Result<Option<busway::Task>, RecvError> {
        self.try_recv()
    }

    fn spin(&mut self) -> Result<Option<busway::Task>, RecvError> {
        self.recv_timeout(Duration::ZERO)
    }

    fn look(&mut self) -> Result<Option<busway::Task>, RecvError> {
        self.look()
    }

    fn must_look_again(&self) -> bool {
        self.must_look_again()
    }

    fn news(&self) -> News {
        self.news()
    }

    fn unmet(&self) -> Option<String> {
        let first = self.unread().into_iter().next()?;
        let Unread { topic, publisher, error, .. } = first;
        Some(format!(
            "{topic} of {} (pid {}) cannot be pulled: {}",
            publisher.name,
            publisher.pid,
            error.cause()
        ))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<busway::Task, RecvError>> {
        Pin::new(&mut self.stream()).poll_next(context).map(|taken| taken.unwrap_or(Err(RecvError::Closed)))
    }
}

/// A puller of one pattern, in one group: each message goes to one puller of each group. Made by `Bus.puller`; threads may
/// share it.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.pusher("resize") as pusher:
/// ...     with bus.puller("resize", group="resizers", ack=30) as puller:
/// ...         sent = pusher.send(b"cat.png")
/// ...         puller.recv(timeout=5).nack()
/// ...         task = puller.recv(timeout=5)
/// ...         task.deliveries, task.ack()
/// (2, None)
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Puller {
    intake: Intake<busway::Puller>,
    group: String,
    ack: Option<f64>,
    last: Last,
}

impl Puller {
    pub(crate) fn new(puller: busway::Puller, bus: busway::Bus, ack: Option<f64>) -> Self {
        let (pattern, group) = (puller.pattern().to_string(), puller.group().as_str().to_owned());
        Self { intake: Intake::new(puller, bus, pattern), group, ack, last: Last::default() }
    }

    /// Before a wait, and where it is closed: where nothing is acknowledged, what this thread took is over.
    fn end_last(&self, py: Python<'_>) {
        if self.ack.is_none() {
            self.last.end(py);
        }
    }

    /// For Python, and remembered where nothing is acknowledged.
    fn shown(&self, py: Python<'_>, task: busway::Task) -> PyResult<Py<Task>> {
        let task = Task::shown(py, task)?;
        if self.ack.is_none() {
            self.last.note(py, std::slice::from_ref(&task))?;
        }
        Ok(task)
    }
}

#[pymethods]
impl Puller {
    /// Its pattern.
    #[getter]
    fn pattern(&self) -> &str {
        self.intake.pattern()
    }

    /// The name of its group.
    #[getter]
    fn group(&self) -> &str {
        &self.group
    }

    /// Within how many seconds a task is to be acknowledged; None where the group does not acknowledge.
    #[getter]
    fn ack(&self) -> Option<f64> {
        self.ack
    }

    /// Waits for a task; raises TimedOut when `timeout` seconds are over before one comes. Where the group does not acknowledge, what
    /// this thread had taken is over then.
    #[pyo3(signature = (timeout = None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<Task>> {
        self.end_last(py);
        self.shown(py, self.intake.recv(py, timeout)?)
    }

    /// A task if one is free, or None.
    fn try_recv(&self, py: Python<'_>) -> PyResult<Option<Py<Task>>> {
        self.intake.try_recv(py)?.map(|task| Task::shown(py, task)).transpose()
    }

    /// Waits for a task and returns it with those that are free by then, at most `most`; an empty list when `timeout` seconds
    /// are over before one comes. Who asks for many keeps them from the other pullers of the group.
    #[pyo3(signature = (most = 256, timeout = None))]
    fn recv_many(&self, py: Python<'_>, most: usize, timeout: Option<f64>) -> PyResult<Vec<Py<Task>>> {
        self.end_last(py);
        let tasks = all(py, self.intake.recv_many(py, most, timeout)?, Task::shown)?;
        if self.ack.is_none() {
            self.last.note(py, &tasks)?;
        }
        Ok(tasks)
    }

    /// The tasks that are free, at most `most`.
    #[pyo3(signature = (most = 256))]
    fn try_recv_many(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<Task>>> {
        all(py, self.intake.try_recv_many(py, most)?, Task::shown)
    }

    /// Pushers that it takes from now.
    #[getter]
    fn pushers(&self, py: Python<'_>) -> PyResult<usize> {
        self.intake.with(py, |puller| Ok(puller.pushers()))
    }

    /// Pushers that match and that it cannot take from, and why: memory, or a group whose other pullers acknowledge otherwise. A dict
    /// each: topic, name and pid of the pusher, code, cause, remedy. It is tried again.
    fn unread<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let unread = self.intake.with(py, |puller| Ok(puller.unread()))?;
        let unread: Vec<serde_json::Value> = unread
            .into_iter()
            .map(|Unread { topic, publisher, error, .. }| {
                serde_json::json!({
                    "topic": topic.as_str(),
                    "name": publisher.name,
                    "pid": publisher.pid,
                    "code": error.code().to_string(),
                    "cause": error.cause(),
                    "remedy": error.try_(),
                })
            })
            .collect();
        crate::bus::as_dict(py, &unread)
    }

    /// Leaves the group; threads that wait in it return. Tasks that were taken stay what they are.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.end_last(py);
        self.intake.close(py)
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.intake.closed(py)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// The next task; the end when the puller or its bus is closed.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<Task>>> {
        self.end_last(py);
        self.intake.next(py)?.map(|task| self.shown(py, task)).transpose()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.end_last(py);
        self.intake.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<busway.Puller of {} in {}>", self.intake.pattern(), self.group)
    }

    /// For an event loop: the descriptor that becomes readable when something comes after `_arm()` found nothing.
    fn _fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.intake.fileno(py)
    }

    /// For an event loop: the tasks that are free, at most `most`; where there is none, the descriptor tells of the next.
    #[pyo3(signature = (most = 1))]
    fn _arm(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<Task>>> {
        all(py, self.intake.arm(py, most)?, Task::shown)
    }

    /// For an event loop: what made the descriptor readable was seen.
    fn _clear(&self) {
        self.intake.clear();
    }
}
