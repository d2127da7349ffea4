//! Subscribing from Python.
//!
//! How it waits, and what an event loop does with it, says `intake`.
//!
//! Invariant: messages come in the order in which they were taken, to whichever thread asks next.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use busway::{News, RecvError};
use futures_core::Stream;
use pyo3::prelude::*;

use crate::batch::{Batch, Reads, Run};
use crate::intake::{Intake, Port, all};
use crate::sample::Sample;

impl Port for busway::Subscriber {
    type Item = busway::Sample;
    const NAME: &'static str = "subscriber";
    const NOTHING: (&'static str, &'static str) =
        ("no message came in time", "wait longer, or see with busway ls who publishes");

    fn try_recv(&mut self) -> Result<Option<busway::Sample>, RecvError> {
        self.try_recv()
    }

    fn spin(&mut self) -> Result<Option<busway::Sample>, RecvError> {
        self.recv_timeout(Duration::ZERO)
    }

    fn look(&mut self) -> Result<Option<busway::Sample>, RecvError> {
        self.try_recv()
    }

    fn must_look_again(&self) -> bool {
        self.must_look_again()
    }

    fn news(&self) -> News {
        self.news()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<busway::Sample, RecvError>> {
        Pin::new(&mut self.stream()).poll_next(context).map(|taken| taken.unwrap_or(Err(RecvError::Closed)))
    }
}

/// A subscriber of one pattern. Made by `Bus.subscriber`; threads may share it, and each message goes to one of them.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.subscriber("news.*") as subscriber:
/// ...     with bus.publisher("news.today") as publisher:
/// ...         sent = publisher.send(b"one"), publisher.send(b"two")
/// ...     bytes(subscriber.recv(timeout=5)), bytes(next(subscriber))
/// (b'one', b'two')
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Subscriber {
    intake: Intake<busway::Subscriber>,
    policy: String,
    /// What was taken in runs and not shown, of several calls where one goes on below another: the oldest last.
    left: Mutex<Vec<Batch>>,
}

impl Subscriber {
    pub(crate) fn new(subscriber: busway::Subscriber, bus: busway::Bus) -> Self {
        let (pattern, policy) = (subscriber.pattern().to_string(), subscriber.policy().to_string());
        Self { intake: Intake::new(subscriber, bus, pattern), policy, left: Mutex::default() }
    }
}

#[pymethods]
impl Subscriber {
    /// Its pattern.
    #[getter]
    fn pattern(&self) -> &str {
        self.intake.pattern()
    }

    /// What happens when it is slow, as `busway sub --policy` takes it.
    #[getter]
    fn policy(&self) -> &str {
        &self.policy
    }

    /// Waits for a message; raises TimedOut when `timeout` seconds are over before one comes.
    #[pyo3(signature = (timeout = None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<Sample>> {
        Sample::shown(py, self.intake.recv(py, timeout)?)
    }

    /// A message if one is there, or None.
    fn try_recv(&self, py: Python<'_>) -> PyResult<Option<Py<Sample>>> {
        self.intake.try_recv(py)?.map(|sample| Sample::shown(py, sample)).transpose()
    }

    /// Waits for a message and returns it with those that are there by then, at most `most`; an empty list when `timeout`
    /// seconds are over before one comes.
    #[pyo3(signature = (most = 256, timeout = None))]
    fn recv_many(&self, py: Python<'_>, most: usize, timeout: Option<f64>) -> PyResult<Vec<Py<Sample>>> {
        all(py, self.intake.recv_many(py, most, timeout)?, Sample::shown)
    }

    /// The messages that are there, at most `most`.
    #[pyo3(signature = (most = 256))]
    fn try_recv_many(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<Sample>>> {
        all(py, self.intake.try_recv_many(py, most)?, Sample::shown)
    }

    /// What was missed since this was asked last, oldest first: topic, cause, count, and the range of sequences.
    fn losses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let losses = self.intake.with(py, |subscriber| Ok(subscriber.losses()))?;
        let losses: Vec<serde_json::Value> = losses
            .into_iter()
            .map(|loss| {
                serde_json::json!({
                    "topic": loss.topic.as_str(),
                    "cause": loss.cause.to_string(),
                    "count": loss.count,
                    "source": loss.source.0,
                    "from": loss.from,
                    "to": loss.to,
                    "link": loss.link,
                })
            })
            .collect();
        crate::bus::as_dict(py, &losses)
    }

    /// What became of every message that was sent to this subscriber.
    fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let account = self.intake.with(py, |subscriber| Ok(subscriber.account()))?;
        crate::bus::as_dict(py, &account)
    }

    /// Publishers that it reads now.
    #[getter]
    fn publishers(&self, py: Python<'_>) -> PyResult<usize> {
        self.intake.with(py, |subscriber| Ok(subscriber.publishers()))
    }

    /// Ends the subscription; threads that wait in it return. Samples that were received stay what they are.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
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

    /// The next message; the end when the subscriber or its bus is closed.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<Sample>>> {
        self.intake.next(py)?.map(|sample| Sample::shown(py, sample)).transpose()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.intake.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<busway.Subscriber of {}>", self.intake.pattern())
    }

    /// For an event loop: the descriptor that becomes readable when something comes after `_arm()` found nothing.
    fn _fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.intake.fileno(py)
    }

    /// For an event loop: the messages that are there, at most `most`; where there is none, the descriptor tells of the next.
    #[pyo3(signature = (most = 1))]
    fn _arm(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<Sample>>> {
        all(py, self.intake.arm(py, most)?, Sample::shown)
    }

    /// For `message_bus`: the messages that are there, at most `most`, as pairs of a topic and a list of what came of it together, decoded
    /// from JSON. What is no message of that kind for sure comes as None and a list of bytes, and all of it where no JSON is to be read.
    /// A MemoryError is for one message, which is lost.
    fn _try_recv_runs<'py>(&self, py: Python<'py>, most: usize, reads_json: bool) -> PyResult<Vec<Run<'py>>> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut batch = left.unwrap_or_default();
        if batch.is_empty() {
            self.intake.try_each(py, most, |sample| batch.add(sample))?;
        } else {
            // A child made by fork is shown nothing of its parent's.
            self.intake.closed(py)?;
        }
        let runs = batch.runs(py, most, if reads_json { Reads::Json } else { Reads::Nothing });
        if !batch.is_empty() {
            self.left.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
        }
        runs
    }

    /// For an event loop: what made the descriptor readable was seen.
    fn _clear(&self) {
        self.intake.clear();
    }
}
