//! What publishers and pushers of Python have in common: the class that both extend.
//!
//! How it sends, `sender` says. Who takes what was sent, and how they are called, say `publisher` and `pusher`.
//!
//! Invariant: it is withdrawn once, by whoever closes it first.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::loan::Loan;
use crate::sender::{Beside, Port, Sent, Shared};

/// Sends what is on one topic; threads may share it, and take turns.
#[pyclass(frozen, weakref, subclass, module = "busway")]
pub(crate) struct Sender {
    pub(crate) shared: Arc<Shared>,
}

impl Sender {
    pub(crate) fn new(port: Port, bus: busway::Bus) -> Self {
        Self { shared: Shared::new(port, bus) }
    }
}

#[pymethods]
impl Sender {
    /// Its topic.
    #[getter]
    fn topic(&self) -> &str {
        self.shared.topic()
    }

    /// Sends bytes, or whatever shows its memory (bytearray, memoryview, an array). Where there is no room, as long as a
    /// subscriber that asks for it is waited for or the work is not done, it waits for `max_wait`, or for `timeout` seconds:
    /// then a publisher goes on without those who are slow, a pusher raises Full, and either TimedOut where `timeout` is over.
    /// `id` is a ULID, `traceparent` and `tracestate` are what W3C Trace Context writes.
    #[pyo3(signature = (data, timeout = None, *, id = None, traceparent = None, tracestate = None))]
    fn send(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        id: Option<&str>,
        traceparent: Option<&str>,
        tracestate: Option<&str>,
    ) -> PyResult<Sent> {
        slf.get().shared.send_beside(slf.py(), data, timeout, &Beside { id, traceparent, tracestate })
    }

    /// Sends without waiting; raises Full where it would have to. What it may say beside is as with `send`.
    #[pyo3(signature = (data, *, id = None, traceparent = None, tracestate = None))]
    fn try_send(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        id: Option<&str>,
        traceparent: Option<&str>,
        tracestate: Option<&str>,
    ) -> PyResult<Sent> {
        self.shared.try_send(py, data, &Beside { id, traceparent, tracestate })
    }

    /// Sends all of a list of messages, waiting as `send` does, and returns how many: those who sleep are woken once for all
    /// that has room. `timeout` is for all of them. What is raised says in `sent` how many were sent before.
    #[pyo3(signature = (messages, timeout = None))]
    fn send_many(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        self.shared.send_many(py, messages, timeout)
    }

    /// Sends the first of a list of messages, as many as there is room for, and returns how many; waits for nothing.
    fn try_send_many(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.shared.try_send_many(py, messages)
    }

    /// Sends a value as JSON, as `json.dumps` writes it.
    #[pyo3(signature = (value, timeout = None))]
    fn send_json(&self, py: Python<'_>, value: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<Sent> {
        self.shared.send_json(py, value, timeout)
    }

    /// Room for a message of `size` bytes in the memory where it will be read: write it, then `send()` it.
    fn loan(&self, py: Python<'_>, size: usize) -> PyResult<Loan> {
        self.shared.loan(py, size)
    }

    /// Waits until every subscriber that may be waited for has passed the last message, or until all work is finished; raises
    /// TimedOut with those who have not.
    #[pyo3(signature = (timeout = 5.0))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        self.shared.flush(py, timeout)
    }

    /// What became of every message: sent, delivered, dropped by cause, in flight; of a pusher for all groups.
    fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.shared.account(py)
    }

    /// For `message_bus`: of the account only what is under way.
    #[getter]
    fn _in_flight(&self, py: Python<'_>) -> PyResult<u64> {
        self.shared.in_flight(py)
    }

    /// Withdraws it. What was sent stays there for those who subscribe or pull, while the bus is open.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.shared.close(py)
    }

    /// For an event loop: sends bytes if there is room by now, or returns None; raises where the port has waited as long as it may.
    fn _send_soon(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Option<Sent>> {
        self.shared.send_soon(py, data)
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.shared.closed(py)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.shared.close(py)
    }
}
