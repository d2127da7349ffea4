//! Asking from Python: requests, and those under way.
//!
//! Who waits has let the interpreter go, and looks up now and then for signals. An event loop watches one descriptor for all
//! requests of a requester: it is told which have something.
//!
//! Invariant: a request that nobody can ask for an answer any more is cancelled.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use busway::{Code, Error, RequestError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::deadline::{Deadline, seconds};
use crate::doorbell::Doorbell;
use crate::failure::{OrRaise, inherited, missed, raise};
use crate::payload::Payload;
use crate::reply::Reply;
use crate::sender::or_endless;
use crate::turn::{Missed, Turn};

/// The exception of this error. What a responder says of its failure is shown as it said it, too.
fn raised(py: Python<'_>, error: RequestError) -> PyErr {
    let why = match &error {
        RequestError::Failed(why) => Some(PyBytes::new(py, why)),
        _ => None,
    };
    let raised = raise(py, &error.into());
    match why.map(|why| raised.value(py).setattr("why", why)) {
        None | Some(Ok(())) => raised,
        Some(Err(other)) => other,
    }
}

fn answered_without_a_reply() -> RequestError {
    RequestError::Unanswered
}

/// A requester of one topic. Made by `Bus.requester`; threads may share it, and any number of requests may be under way.
///
/// ```text
/// >>> import busway, threading
/// >>> with busway.Bus("example") as bus, bus.responder("time") as responder, bus.requester("time") as requester:
/// ...     threading.Thread(target=lambda: responder.recv(5).reply(b"noon")).start()
/// ...     bytes(requester.request(b"what time is it?", timeout=5))
/// b'noon'
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Requester {
    requester: Mutex<Option<busway::Requester>>,
    bus: busway::Bus,
    topic: String,
    /// What an event loop watches, if one does.
    doorbell: Mutex<Option<Arc<Doorbell>>>,
}

impl Requester {
    pub(crate) fn new(requester: busway::Requester, bus: busway::Bus) -> Self {
        let topic = requester.topic().as_str().to_owned();
        Self { requester: Mutex::new(Some(requester)), bus, topic, doorbell: Mutex::default() }
    }

    fn check(&self) -> Result<(), Error> {
        if self.bus.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    /// A handle of its own: whoever closes the requester meanwhile stops nobody.
    fn handle(&self, py: Python<'_>) -> PyResult<busway::Requester> {
        self.check().or_raise(py)?;
        let requester = self.requester.lock().unwrap_or_else(PoisonError::into_inner).clone();
        requester.ok_or_else(|| missed(Missed::Closed, "requester")).or_raise(py)
    }

    /// Sends, in pieces between which signals are seen.
    fn ask(&self, py: Python<'_>, data: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<busway::Pending> {
        let requester = self.handle(py)?;
        let payload = Payload::of(data)?;
        let copy = match &payload {
            Payload::Bytes(_) => Vec::new(),
            Payload::Buffer(buffer) => buffer.to_vec(py)?,
        };
        let bytes = match &payload {
            Payload::Bytes(bytes) => bytes,
            Payload::Buffer(_) => &copy[..],
        };
        loop {
            let sent = py.detach(|| {
                let left = deadline.left().unwrap_or(Duration::MAX);
                requester.send_within(bytes, left, deadline.slice())
            });
            match sent.map_err(|error| raised(py, error))? {
                Some(pending) => return Ok(pending),
                None => py.check_signals()?,
            }
        }
    }
}

#[pymethods]
impl Requester {
    /// Its topic.
    #[getter]
    fn topic(&self) -> &str {
        &self.topic
    }

    /// Asks, and waits for the reply, at most `timeout` seconds. Of a stream of replies it is the first, and the others are not
    /// wanted. Raises NoResponders, ResponderDied, Unanswered, ResponderFailed, ReplyLost or TimedOut.
    #[pyo3(signature = (data, timeout = 5.0))]
    fn request(&self, py: Python<'_>, data: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<Py<Reply>> {
        let deadline = Deadline::after(py, timeout)?;
        let mut pending = self.ask(py, data, deadline)?;
        loop {
            let got = py.detach(|| {
                let got = pending.recv_timeout(crate::deadline::SLICE);
                match got {
                    Ok(None) if pending.is_over() => Err(answered_without_a_reply()),
                    other => other,
                }
            });
            match got.map_err(|error| raised(py, error))? {
                Some(reply) => {
                    // What is left of a stream is cancelled.
                    drop(pending);
                    return Reply::shown(py, reply);
                }
                None => py.check_signals()?,
            }
        }
    }

    /// Asks, and does not wait for the replies, for which nobody waits any more after `timeout` seconds. It waits for the first
    /// responder (`late_join`), and for a place where as many requests are under way as may be.
    #[pyo3(signature = (data, timeout = 5.0))]
    fn send(&self, py: Python<'_>, data: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<Pending> {
        let deadline = Deadline::after(py, timeout)?;
        Ok(Pending::new(self.ask(py, data, deadline)?, self.bus.clone()))
    }

    /// Waits until `count` responders at least are there, and returns how many are; raises TimedOut.
    #[pyo3(signature = (count = 1, timeout = None))]
    fn wait_for_responders(&self, py: Python<'_>, count: usize, timeout: Option<f64>) -> PyResult<usize> {
        let deadline = Deadline::after(py, timeout)?;
        let requester = self.handle(py)?;
        loop {
            match py.detach(|| requester.wait_for_responders(count, deadline.slice())) {
                Err(error) if error.code() == Code::TimedOut && !deadline.expired() => py.check_signals()?,
                other => return other.or_raise(py),
            }
        }
    }

    /// Responders that are there now.
    #[getter]
    fn responders(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.handle(py)?.responders())
    }

    /// Requests that have not ended.
    #[getter]
    fn under_way(&self, py: Python<'_>) -> PyResult<usize> {
        let requester = self.handle(py)?;
        Ok(py.detach(|| requester.under_way()))
    }

    /// Replies that were given to no request: late, duplicate, foreign, lost, dropped.
    fn strays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let requester = self.handle(py)?;
        let busway::Strays { late, duplicate, foreign, lost, dropped, .. } = py.detach(|| requester.strays());
        let strays = serde_json::json!({
            "late": late, "duplicate": duplicate, "foreign": foreign, "lost": lost, "dropped": dropped,
        });
        crate::bus::as_dict(py, &strays)
    }

    /// What became of every request: sent, delivered, dropped by cause, in flight.
    fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let requester = self.handle(py)?;
        let account = py.detach(|| requester.account());
        crate::bus::as_dict(py, &account)
    }

    /// Asks no more. Requests under way go on until their `Pending` is dropped.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.check().is_err() {
            return Ok(());
        }
        let requester = self.requester.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(requester));
        if let Some(doorbell) = &*self.doorbell.lock().unwrap_or_else(PoisonError::into_inner) {
            doorbell.ring();
        }
        Ok(())
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.check().or_raise(py)?;
        Ok(self.requester.lock().unwrap_or_else(PoisonError::into_inner).is_none())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<busway.Requester of {}>", self.topic)
    }

    /// For an event loop: sends within `wait` seconds what is waited for `timeout` seconds, or returns None. The descriptor tells
    /// of its replies.
    fn _send(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        wait: f64,
    ) -> PyResult<Option<Pending>> {
        let timeout = or_endless(timeout).or_raise(py)?;
        let wait = seconds(Some(wait)).or_raise(py)?.unwrap_or_default();
        let requester = self.handle(py)?;
        let payload = Payload::of(data)?;
        let copy = match &payload {
            Payload::Bytes(_) => Vec::new(),
            Payload::Buffer(buffer) => buffer.to_vec(py)?,
        };
        let bytes = match &payload {
            Payload::Bytes(bytes) => bytes,
            Payload::Buffer(_) => &copy[..],
        };
        let sent = py.detach(|| {
            let sent = requester.send_within(bytes, timeout, wait);
            sent.inspect(|pending| {
                if let Some(pending) = pending {
                    pending.watch();
                }
            })
        });
        let pending = sent.map_err(|error| raised(py, error))?;
        Ok(pending.map(|pending| Pending::new(pending, self.bus.clone())))
    }

    /// For an event loop: the descriptor that becomes readable when something comes after `_turn()`.
    fn _fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.doorbell(py)?.number())
    }

    /// For an event loop: receives; the requests that have something, and in how many seconds to look again at the latest.
    fn _turn(&self, py: Python<'_>) -> PyResult<(Vec<u64>, Option<f64>)> {
        let requester = self.handle(py)?;
        let doorbell = self.doorbell(py)?;
        doorbell.clear();
        let waker = Waker::from(doorbell);
        let mut ready = Vec::new();
        let most = py.detach(|| requester.poll_watched(&mut Context::from_waker(&waker), &mut ready));
        let most = most.map_err(|error| raised(py, error))?;
        Ok((ready, most.map(|most| most.as_secs_f64())))
    }
}

impl Drop for Requester {
    fn drop(&mut self) {
        let requester = self.requester.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        Python::try_attach(|py| py.detach(|| drop(requester)));
    }
}

impl Requester {
    fn doorbell(&self, py: Python<'_>) -> PyResult<Arc<Doorbell>> {
        self.check().or_raise(py)?;
        let mut doorbell = self.doorbell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(doorbell) = &*doorbell {
            return Ok(doorbell.clone());
        }
        Ok(doorbell.insert(Arc::new(Doorbell::new().or_raise(py)?)).clone())
    }
}

/// A request under way. Made by `Requester.send`; dropped before its last reply, it is cancelled.
///
/// `for reply in pending` hands over a stream of replies.
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Pending {
    turn: Turn<busway::Pending>,
    bus: busway::Bus,
    id: u64,
}

impl Pending {
    fn new(pending: busway::Pending, bus: busway::Bus) -> Self {
        let id = pending.id();
        Self { turn: Turn::new(pending), bus, id }
    }

    fn check(&self) -> Result<(), Error> {
        if self.bus.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    /// What a call on it comes to, made without the interpreter; `None` where it was cancelled.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut busway::Pending) -> Result<T, RequestError> + Send,
    ) -> PyResult<T> {
        self.check().or_raise(py)?;
        let called = py.detach(|| match self.turn.take(Deadline::never()) {
            Ok(mut pending) => Ok(call(&mut pending)),
            Err(why) => Err(missed(why, "request")),
        });
        called.or_raise(py)?.map_err(|error| raised(py, error))
    }

    /// The next reply within `most`, and whether there is none to come.
    fn step(&self, py: Python<'_>, most: Duration) -> PyResult<(Option<busway::Reply>, bool)> {
        self.with(py, |pending| {
            let reply = pending.recv_timeout(most)?;
            let over = reply.is_none() && pending.is_over();
            Ok((reply, over))
        })
    }
}

#[pymethods]
impl Pending {
    /// Waits for the next reply; None after the last. Raises what became of the request, and TimedOut when `timeout` seconds
    /// are over before.
    #[pyo3(signature = (timeout = None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<Reply>>> {
        let deadline = Deadline::after(py, timeout)?;
        loop {
            match self.step(py, deadline.slice())? {
                (Some(reply), _) => return Reply::shown(py, reply).map(Some),
                (None, true) => return Ok(None),
                (None, false) => py.check_signals()?,
            }
            if deadline.expired() {
                let error = Error::new(Code::TimedOut, "there was no reply in time").at("reply");
                return Err(error.remedy("wait longer; the request is still under way")).or_raise(py);
            }
        }
    }

    /// The next reply if it is there; None where it is not, or there is none to come (`over`).
    fn try_recv(&self, py: Python<'_>) -> PyResult<Option<Py<Reply>>> {
        let reply = self.with(py, busway::Pending::try_recv)?;
        reply.map(|reply| Reply::shown(py, reply)).transpose()
    }

    /// Whether all replies were taken, or there will be none.
    #[getter]
    fn over(&self, py: Python<'_>) -> PyResult<bool> {
        self.check().or_raise(py)?;
        if self.turn.is_closed() {
            return Ok(true);
        }
        self.with(py, |pending| Ok(pending.is_over()))
    }

    /// For how many seconds it is waited for; None without end.
    #[getter]
    fn remaining(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        self.with(py, |pending| Ok(pending.remaining().map(|left| left.as_secs_f64())))
    }

    /// The replies are not wanted any more; who waits for them gets Closed.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        if self.check().is_err() {
            return Ok(());
        }
        let close = || self.turn.close(Deadline::never()).map(drop).map_err(|why| missed(why, "request"));
        py.detach(close).or_raise(py)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// The next reply; the end after the last.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<Reply>>> {
        self.recv(py, None)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.cancel(py)
    }

    fn __repr__(&self) -> String {
        format!("<busway.Pending {:#x}>", self.id)
    }

    /// For an event loop: by which `Requester._turn` names it.
    #[getter]
    fn _id(&self) -> u64 {
        self.id
    }

    /// For an event loop: the next reply of those that were received, and whether there is none to come.
    fn _take(&self, py: Python<'_>) -> PyResult<(Option<Py<Reply>>, bool)> {
        let (reply, over) = self.with(py, |pending| {
            let reply = pending.take()?;
            let over = reply.is_none() && pending.is_over();
            Ok((reply, over))
        })?;
        Ok((reply.map(|reply| Reply::shown(py, reply)).transpose()?, over))
    }
}
