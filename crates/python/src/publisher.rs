//! Publishing from Python.
//!
//! How it sends, `sender` says.
//!
//! Invariant: it is withdrawn once, by whoever closes it first.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::loan::Loan;
use crate::sender::{Beside, Port, Sent, Shared};

/// A publisher of one topic. Made by `Bus.publisher`; threads may share it, and take turns.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.publisher("news", history=8) as publisher:
/// ...     publisher.send(b"one").sequence, publisher.send_json([2]).sequence
/// (1, 2)
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    pub(crate) fn new(publisher: busway::Publisher, bus: busway::Bus) -> Self {
        Self { shared: Shared::new(Port::Publisher(publisher), bus) }
    }
}

#[pymethods]
impl Publisher {
    /// Its topic.
    #[getter]
    fn topic(&self) -> &str {
        self.shared.topic()
    }

    /// Sends bytes, or whatever shows its memory (bytearray, memoryview, an array), waiting for subscribers that ask for it.
    /// Raises TimedOut when `timeout` seconds are over before.
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

    /// Sends without waiting; raises Full where a subscriber would have to be waited for.
    #[pyo3(signature = (data, *, id = None))]
    fn try_send(&self, py: Python<'_>, data: &Bound<'_, PyAny>, id: Option<&str>) -> PyResult<Sent> {
        self.shared.try_send(py, data, id)
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

    /// Room for a message of `size` bytes in the memory where subscribers will read it: write it, then `send()` it.
    fn loan(&self, py: Python<'_>, size: usize) -> PyResult<Loan> {
        self.shared.loan(py, size)
    }

    /// Subscribers that are attached now.
    #[getter]
    fn subscribers(&self, py: Python<'_>) -> PyResult<usize> {
        self.shared.takers(py)
    }

    /// Waits until `count` subscribers at least are attached, and returns how many are; raises TimedOut.
    #[pyo3(signature = (count = 1, timeout = None))]
    fn wait_for_subscribers(&self, py: Python<'_>, count: usize, timeout: Option<f64>) -> PyResult<usize> {
        self.shared.wait_for_takers(py, count, timeout)
    }

    /// Waits until every subscriber that may be waited for has passed the last message; raises TimedOut with those who
    /// have not.
    #[pyo3(signature = (timeout = 5.0))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        self.shared.flush(py, timeout)
    }

    /// What became of every message: sent, delivered, dropped by cause, in flight.
    fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.shared.account(py)
    }

    /// For `message_bus`: of the account only what is under way.
    #[getter]
    fn _in_flight(&self, py: Python<'_>) -> PyResult<u64> {
        self.shared.in_flight(py)
    }

    /// Withdraws the publisher. What was sent stays readable for those who were subscribed, while the bus is open.
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

    fn __repr__(&self) -> String {
        format!("<busway.Publisher of {}>", self.shared.topic())
    }
}
