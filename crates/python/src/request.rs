//! A request in Python's hands: a view of what is asked, and the way back to who asks.
//!
//! What shows its bytes may go on to do so after it was answered. To answer needs no waiting but for the first reply to a
//! requester, for which a lane is opened; that is done without the interpreter.
//!
//! Invariant: a request ends once: with its last reply, as failed, or with its object, unanswered.

use busway::ReplyError;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::failure::{OrRaise, inherited};
use crate::fork::Birth;
use crate::message::{Body, Message, released};
use crate::payload::Payload;

/// A request that this responder alone has. Made by `Responder.recv`.
///
/// One that is dropped or released without a reply, or left by a `with` without one, is unanswered, and who asked is told so
/// at once.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.responder("double") as responder, bus.requester("double") as requester:
/// ...     pending = requester.send(b"ab", timeout=5)
/// ...     with responder.recv(timeout=5) as request:
/// ...         request.reply(2 * bytes(request))
/// ...     bytes(pending.recv())
/// b'abab'
///
/// ```
#[pyclass(frozen, extends = Message, module = "busway")]
pub(crate) struct Request {
    topic: String,
    requester: u64,
    birth: Birth,
}

fn over() -> PyErr {
    PyValueError::new_err("the request was answered or released")
}

impl Request {
    /// For Python.
    pub(crate) fn shown(py: Python<'_>, request: busway::Request) -> PyResult<Py<Self>> {
        let (topic, requester) = (request.topic().to_owned(), request.requester().0);
        let own = Self { topic, requester, birth: Birth::now() };
        let base = PyClassInitializer::from(Message::new(Body::Request(Box::new(request))));
        Py::new(py, base.add_subclass(own))
    }

    /// What it comes to.
    fn of<T>(slf: &Bound<'_, Self>, what: impl FnOnce(&mut busway::Request) -> T) -> PyResult<T> {
        if slf.get().birth.is_inherited() {
            return Err(inherited()).or_raise(slf.py());
        }
        let of = |body: &mut Body| match body {
            Body::Request(request) => Some(what(request)),
            Body::Sample(_) | Body::Task(_) | Body::Reply(_) => None,
        };
        slf.as_super().get().of(slf.py(), of)?.ok_or_else(released)
    }

    /// Says something to who asked: at once where there is a lane, else without the interpreter.
    fn say(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        say: impl FnOnce(&mut busway::Request, &[u8]) -> Result<(), ReplyError> + Send,
    ) -> PyResult<()> {
        let py = slf.py();
        let (is_over, has_lane) = Self::of(slf, |request| (request.is_over(), request.has_lane()))?;
        if is_over {
            return Err(over());
        }
        let payload = Payload::of(data)?;
        let copy = match &payload {
            Payload::Bytes(_) => Vec::new(),
            Payload::Buffer(buffer) => buffer.to_vec(py)?,
        };
        let bytes = match &payload {
            Payload::Bytes(bytes) => bytes,
            Payload::Buffer(_) => &copy[..],
        };
        let call = |request: &mut busway::Request| {
            // Another thread may have been quicker.
            if request.is_over() { None } else { Some(say(request, bytes)) }
        };
        let said = if has_lane {
            Self::of(slf, call)?
        } else {
            let message: &Message = slf.as_super().get();
            py.detach(|| {
                message.of_request(|body| match body {
                    Body::Request(request) => call(request),
                    Body::Sample(_) | Body::Task(_) | Body::Reply(_) => None,
                })
            })
        };
        said.ok_or_else(over)?.or_raise(py)
    }
}

#[pymethods]
impl Request {
    /// The name of its topic.
    #[getter]
    fn topic(&self) -> &str {
        &self.topic
    }

    /// The port that asks.
    #[getter]
    fn requester(&self) -> u64 {
        self.requester
    }

    /// For how many seconds it is waited for.
    #[getter]
    fn remaining(slf: &Bound<'_, Self>) -> PyResult<f64> {
        Self::of(slf, |request| request.remaining().as_secs_f64())
    }

    /// Whether nobody waits for a reply any more: the time is up, the request was cancelled, or who asked is gone.
    #[getter]
    fn is_cancelled(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::of(slf, |request| request.is_cancelled())
    }

    /// Whether it has ended: with its last reply, or without one.
    #[getter]
    fn done(slf: &Bound<'_, Self>) -> PyResult<bool> {
        match Self::of(slf, |request| request.is_over()) {
            Err(error) if error.is_instance_of::<PyValueError>(slf.py()) => Ok(true),
            other => other,
        }
    }

    /// The reply, or the last one: bytes, or whatever shows its memory. Raises Cancelled where nobody waits for it any more.
    fn reply(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::say(slf, data, busway::Request::answer)
    }

    /// A reply that others follow. Where it raises, no other can follow.
    fn reply_part(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::say(slf, data, busway::Request::reply_part)
    }

    /// A value as JSON, as the reply or the last one.
    fn reply_json(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = slf.py().import("busway._codec")?.call_method1("encoded", (value,))?;
        Self::reply(slf, &text)
    }

    /// There is no answer, and why, in text or in bytes: who asked gets ResponderFailed.
    #[pyo3(signature = (why = None))]
    fn fail(slf: &Bound<'_, Self>, why: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let why = match why {
            None => pyo3::types::PyBytes::new(slf.py(), b"").into_any(),
            Some(text) if text.is_instance_of::<PyString>() => text.call_method0("encode")?,
            Some(bytes) => bytes.clone(),
        };
        if why.is_none() {
            return Err(PyTypeError::new_err("why is text or bytes"));
        }
        Self::say(slf, &why, busway::Request::refuse)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(slf: &Bound<'_, Self>, _exception: &Bound<'_, PyAny>) {
        let message: &Message = slf.as_super().get();
        if !slf.get().birth.is_inherited() {
            slf.py().detach(|| {
                message.of_request(|body| {
                    if let Body::Request(request) = body {
                        request.leave();
                    }
                    None::<()>
                })
            });
        }
        // What still shows it keeps it.
        let _ = message.let_go(slf.py());
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        match slf.as_super().get().size(slf.py()) {
            None => "<busway.Request released>".to_owned(),
            Some((_, bytes)) => format!("<busway.Request on {}, {bytes} bytes>", slf.get().topic),
        }
    }

    /// For an event loop: whether a reply goes at once.
    fn _has_lane(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::of(slf, |request| request.has_lane())
    }
}
