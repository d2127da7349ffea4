//! What came, in Python's hands: a read-only view of where it lies.
//!
//! `memoryview(message)` and `numpy.frombuffer(message)` show the memory of who sent it, for messages of more than 96 bytes;
//! nothing is copied. The memory is held until the message is released or collected, and it cannot be released while it is
//! shown. Samples, tasks, replies and requests are messages, and say for themselves what else they are.
//!
//! Invariant: the bytes that a buffer shows stay where they are as long as the buffer exists: it has a reference to the
//! message, which keeps the body while `exports` is not 0.

use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::failure::{inherited, raise};
use crate::fork;
use crate::payload::Payload;

/// What came.
#[derive(Debug)]
pub(crate) enum Body {
    Sample(busway::Sample),
    Task(Box<busway::Task>),
    Reply(busway::Reply),
    Request(Box<busway::Request>),
}

impl Body {
    fn payload(&self) -> &[u8] {
        match self {
            Self::Sample(sample) => sample,
            Self::Task(task) => task,
            Self::Reply(reply) => reply,
            Self::Request(request) => request,
        }
    }

    fn is_held(&self) -> bool {
        match self {
            Self::Sample(sample) => sample.is_held(),
            Self::Task(task) => task.sample().is_held(),
            Self::Reply(reply) => reply.is_held(),
            Self::Request(request) => request.is_held(),
        }
    }

    fn context(&self) -> busway::Context<'_> {
        match self {
            Self::Sample(sample) => sample.context(),
            Self::Task(task) => task.sample().context(),
            Self::Reply(reply) => reply.context(),
            Self::Request(request) => request.context(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Sample(_) => "sample",
            Self::Task(_) => "task",
            Self::Reply(_) => "reply",
            Self::Request(_) => "request",
        }
    }

    /// The payload, which a child made by `fork` does not have: a message is held only if it has one, or something beside it.
    fn here(&self) -> Option<&[u8]> {
        let payload = self.payload();
        let gone = self.is_held() && payload.is_empty() && self.context().is_empty();
        (!gone).then_some(payload)
    }
}

/// Lets it go. A request that was not answered is told to be so, which may take a moment.
fn drop_body(py: Python<'_>, body: Option<Body>) {
    if matches!(body, Some(Body::Request(_))) {
        py.detach(|| drop(body));
    }
}

/// What came: a sample, a task, a reply or a request.
///
/// It is a read-only buffer: `bytes(message)` copies it, `memoryview(message)` and `numpy.frombuffer(message)` show it where
/// it lies. One of more than 96 bytes is held in the memory of who sent it until it is released, by `release()`, by `with`, or
/// by the collector.
#[pyclass(frozen, weakref, subclass, module = "busway")]
pub(crate) struct Message {
    state: Mutex<State>,
}

struct State {
    body: Option<Body>,
    /// Buffers that show it now.
    exports: usize,
}

pub(crate) fn released() -> PyErr {
    PyValueError::new_err("it was released")
}

impl Message {
    pub(crate) fn new(body: Body) -> Self {
        Self { state: Mutex::new(State { body: Some(body), exports: 0 }) }
    }

    /// Who opens a lane for a reply has it for as long as that takes: it is waited for without the interpreter.
    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, State> {
        loop {
            match self.state.try_lock() {
                Ok(state) => return state,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => py.detach(|| drop(self.state.lock())),
            }
        }
    }

    /// What the body comes to. No Python runs under the lock: another thread might ask for it meanwhile.
    pub(crate) fn of<T>(&self, py: Python<'_>, what: impl FnOnce(&mut Body) -> T) -> PyResult<T> {
        self.lock(py).body.as_mut().map(what).ok_or_else(released)
    }

    /// What the body comes to, also without the interpreter; `None` where it was released.
    pub(crate) fn of_request<T>(&self, what: impl FnOnce(&mut Body) -> Option<T>) -> Option<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.body.as_mut().and_then(what)
    }

    fn payload<T>(&self, py: Python<'_>, what: impl FnOnce(&[u8]) -> T) -> PyResult<T> {
        self.of(py, |body| body.here().map(what))?.ok_or_else(|| raise(py, &inherited()))
    }

    /// Lets it go, unless something shows it.
    pub(crate) fn let_go(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.lock(py);
        if state.exports > 0 {
            let kind = state.body.as_ref().map_or("message", Body::kind);
            let cause = format!("the {kind} is still shown by {} buffers; release them first", state.exports);
            return Err(PyBufferError::new_err(cause));
        }
        let body = state.body.take();
        drop(state);
        drop_body(py, body);
        Ok(())
    }

    /// For `repr`: what kind it is and how long, or `None` where it was released.
    pub(crate) fn size(&self, py: Python<'_>) -> Option<(&'static str, usize)> {
        self.lock(py).body.as_ref().map(|body| (body.kind(), body.payload().len()))
    }
}

#[pymethods]
impl Message {
    /// Whether it lies in the memory of who sent it and is held there.
    #[getter]
    fn held(&self, py: Python<'_>) -> PyResult<bool> {
        self.of(py, |body| body.is_held())
    }

    /// Its id, a ULID, or None where who sent it gave it none.
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.of(py, |body| body.context().id().map(|id| id.to_string()))
    }

    /// The trace to which it belongs, as W3C Trace Context writes it, or None.
    #[getter]
    fn traceparent(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.of(py, |body| body.context().trace().map(|trace| trace.to_string()))
    }

    /// What vendors keep beside the trace, or None.
    #[getter]
    fn tracestate(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.of(py, |body| Some(body.context().state()).filter(|state| !state.is_empty()))
    }

    /// The payload where it lies, read-only.
    #[getter]
    fn data<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf.as_any())
    }

    /// The value that the payload holds as JSON. Raises CodecError.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.payload(py, |payload| PyBytes::new(py, payload).unbind())?;
        py.import("busway._codec")?.call_method1("decoded", (bytes,))
    }

    /// Lets the memory go. Raises BufferError while a memoryview or an array still shows it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.let_go(py)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.let_go(py)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.payload(py, <[u8]>::len)
    }

    /// It is true even if its payload is empty.
    fn __bool__(&self) -> bool {
        true
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let equal = match Payload::of(other) {
            Ok(Payload::Bytes(bytes)) => self.payload(py, |payload| payload == bytes)?,
            Ok(Payload::Buffer(buffer)) => {
                let bytes = buffer.to_vec(py)?;
                self.payload(py, |payload| payload == bytes)?
            }
            Err(_) => return Ok(py.NotImplemented()),
        };
        Ok(equal.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        match self.size(py) {
            None => "<busway message released>".to_owned(),
            Some((kind, bytes)) => format!("<busway {kind} of {bytes} bytes>"),
        }
    }

    #[expect(unsafe_code, reason = "the buffer protocol is a pair of C functions")]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if flags & ffi::PyBUF_WRITABLE != 0 {
            return Err(PyBufferError::new_err("what was received is read-only"));
        }
        // Asked without the lock, for what it raises.
        slf.get().payload(slf.py(), |_| ())?;
        let mut state = slf.get().lock(slf.py());
        let payload = state.body.as_ref().and_then(Body::here).ok_or_else(released)?;
        // Never written through: the view is read-only.
        let start = payload.as_ptr().cast_mut().cast::<c_void>();
        let len = isize::try_from(payload.len()).unwrap_or(0);
        // SAFETY: the interpreter gives a view to be filled; the bytes stay there while it exists (the head's invariant).
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 1, flags) };
        if filled != 0 {
            drop(state);
            return Err(PyErr::fetch(slf.py()));
        }
        fork::show(payload);
        state.exports += 1;
        Ok(())
    }

    #[expect(unsafe_code, reason = "the buffer protocol is a pair of C functions")]
    unsafe fn __releasebuffer__(&self, py: Python<'_>, view: *mut ffi::Py_buffer) {
        // SAFETY: the interpreter gives the view that `__getbuffer__` filled.
        fork::hide(unsafe { (*view).buf }.addr());
        let mut state = self.lock(py);
        state.exports = state.exports.saturating_sub(1);
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let body = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).body.take();
        if matches!(body, Some(Body::Request(_))) {
            // At the end of the interpreter there is nobody to be let go.
            Python::try_attach(|py| drop_body(py, body));
        }
    }
}
