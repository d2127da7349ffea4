//! Answering from Python: each request goes to one responder.
//!
//! How it waits, and what an event loop does with it, says `intake`; how a request ends, `request`.
//!
//! Invariant: a request that was taken is in somebody's hands, or who asked is told that there is no answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use busway::{News, RecvError};
use futures_core::Stream;
use pyo3::prelude::*;

use crate::intake::{Intake, Port, all};
use crate::request::Request;

impl Port for busway::Responder {
    type Item = busway::Request;
    const NAME: &'static str = "responder";
    const NOTHING: (&'static str, &'static str) =
        ("no request came in time", "wait longer, or see with busway ls who asks");

    fn try_recv(&mut self) -> Result<Option<busway::Request>, RecvError> {
        self.try_recv()
    }

    fn spin(&mut self) -> Result<Option<busway::Request>, RecvError> {
        self.recv_timeout(Duration::ZERO)
    }

    fn look(&mut self) -> Result<Option<busway::Request>, RecvError> {
        self.look()
    }

    fn must_look_again(&self) -> bool {
        self.must_look_again()
    }

    fn news(&self) -> News {
        self.news()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<busway::Request, RecvError>> {
        Pin::new(&mut self.stream()).poll_next(context).map(|taken| taken.unwrap_or(Err(RecvError::Closed)))
    }
}

/// A responder to what is asked on the topics of one pattern. Made by `Bus.responder`; threads may share it, and each request
/// goes to one of them.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.responder("time") as responder, bus.requester("time") as requester:
/// ...     pending = requester.send(b"what time is it?", timeout=5)
/// ...     responder.recv(timeout=5).reply(b"noon")
/// ...     bytes(pending.recv())
/// b'noon'
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Responder {
    intake: Intake<busway::Responder>,
}

impl Responder {
    pub(crate) fn new(responder: busway::Responder, bus: busway::Bus) -> Self {
        let pattern = responder.pattern().to_string();
        Self { intake: Intake::new(responder, bus, pattern) }
    }
}

#[pymethods]
impl Responder {
    /// Its pattern.
    #[getter]
    fn pattern(&self) -> &str {
        self.intake.pattern()
    }

    /// Waits for a request; raises TimedOut when `timeout` seconds are over before one comes.
    #[pyo3(signature = (timeout = None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<Request>> {
        Request::shown(py, self.intake.recv(py, timeout)?)
    }

    /// A request if one is there, or None.
    fn try_recv(&self, py: Python<'_>) -> PyResult<Option<Py<Request>>> {
        self.intake.try_recv(py)?.map(|request| Request::shown(py, request)).transpose()
    }

    /// Waits for a request and returns it with those that are there by then, at most `most`; an empty list when `timeout`
    /// seconds are over before one comes. Who asks for many keeps them from the other responders.
    #[pyo3(signature = (most = 256, timeout = None))]
    fn recv_many(&self, py: Python<'_>, most: usize, timeout: Option<f64>) -> PyResult<Vec<Py<Request>>> {
        all(py, self.intake.recv_many(py, most, timeout)?, Request::shown)
    }

    /// The requests that are there, at most `most`.
    #[pyo3(signature = (most = 256))]
    fn try_recv_many(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<Request>>> {
        all(py, self.intake.try_recv_many(py, most)?, Request::shown)
    }

    /// Requesters that it takes from now.
    #[getter]
    fn requesters(&self, py: Python<'_>) -> PyResult<usize> {
        self.intake.with(py, |responder| Ok(responder.requesters()))
    }

    /// Requesters to which this process has a lane now.
    #[getter]
    fn lanes(&self, py: Python<'_>) -> PyResult<usize> {
        self.intake.with(py, |responder| Ok(responder.lanes()))
    }

    /// Requests that were taken and not handled: expired, cancelled, corrupt; and replies that came too late.
    fn unhandled<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (unhandled, late) =
            self.intake.with(py, |responder| Ok((responder.unhandled(), responder.late())))?;
        let busway::Unhandled { expired, cancelled, corrupt, .. } = unhandled;
        let unhandled = serde_json::json!({
            "expired": expired, "cancelled": cancelled, "corrupt": corrupt, "late": late,
        });
        crate::bus::as_dict(py, &unhandled)
    }

    /// Answers no more; threads that wait in it return. Requests that were taken stay what they are.
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

    /// The next request; the end when the responder or its bus is closed.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<Request>>> {
        self.intake.next(py)?.map(|request| Request::shown(py, request)).transpose()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.intake.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<busway.Responder of {}>", self.intake.pattern())
    }

    /// For an event loop: the descriptor that becomes readable when something comes after `_arm()` found nothing.
    fn _fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.intake.fileno(py)
    }

    /// For an event loop: the requests that are there, at most `most`; where there is none, the descriptor tells of the next.
    #[pyo3(signature = (most = 1))]
    fn _arm(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<Request>>> {
        all(py, self.intake.arm(py, most)?, Request::shown)
    }

    /// For an event loop: what made the descriptor readable was seen.
    fn _clear(&self) {
        self.intake.clear();
    }
}
