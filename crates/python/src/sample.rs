//! A message in Python's hands: a read-only view of where it lies.
//!
//! `memoryview(sample)` and `numpy.frombuffer(sample)` show the publisher's memory itself, for messages of more than 96
//! bytes; nothing is copied. The memory is held until the sample is released or collected, and it cannot be released while
//! it is shown.
//!
//! Invariant: the bytes that a buffer shows stay where they are as long as the buffer exists: it has a reference to the
//! sample, which keeps the message while `exports` is not 0.

use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::failure::{inherited, raise};
use crate::fork;
use crate::payload::Payload;

/// Who published a message: the process's name and id, and the port.
#[pyclass(frozen, eq, get_all, module = "busway")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The name of its process.
    name: String,
    /// Its process id, as that process sees it.
    pid: u32,
    /// Its port, which is the source of its messages.
    port: u64,
}

#[pymethods]
impl Origin {
    fn __repr__(&self) -> String {
        format!("Origin(name={:?}, pid={}, port={:#x})", self.name, self.pid, self.port)
    }
}

/// One message.
///
/// It is a read-only buffer: `bytes(sample)` copies it, `memoryview(sample)` and `numpy.frombuffer(sample)` show it where
/// it lies. A message of more than 96 bytes is held in its publisher's memory until the sample is released, by
/// `release()`, by `with`, or by the collector.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus:
/// ...     subscriber, publisher = bus.subscriber("news"), bus.publisher("news")
/// ...     sent = publisher.send(b"x" * 1000)
/// ...     with subscriber.recv(timeout=5) as sample, memoryview(sample) as view:
/// ...         sample.topic, sample.held, len(view), view.readonly
/// ('news', True, 1000, True)
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Sample {
    state: Mutex<State>,
}

struct State {
    message: Option<busway::Sample>,
    /// Buffers that show it now.
    exports: usize,
}

fn released() -> PyErr {
    PyValueError::new_err("the sample was released")
}

impl Sample {
    pub(crate) fn new(message: busway::Sample) -> Self {
        Self { state: Mutex::new(State { message: Some(message), exports: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, what: impl FnOnce(&busway::Sample) -> T) -> PyResult<T> {
        self.lock().message.as_ref().map(what).ok_or_else(released)
    }

    /// What its payload comes to. No Python runs under the lock: another thread might ask for it meanwhile.
    fn payload<T>(&self, py: Python<'_>, what: impl FnOnce(&[u8]) -> T) -> PyResult<T> {
        self.of(|message| here(message).map(what))?.ok_or_else(|| raise(py, &inherited()))
    }

    fn let_go(&self) -> PyResult<()> {
        let mut state = self.lock();
        if state.exports > 0 {
            let cause = format!("the sample is still shown by {} buffers; release them first", state.exports);
            return Err(PyBufferError::new_err(cause));
        }
        let message = state.message.take();
        drop(state);
        drop(message);
        Ok(())
    }
}

/// The payload, which a child made by `fork` does not have: a message is held only if it has one.
fn here(message: &busway::Sample) -> Option<&[u8]> {
    let payload = message.payload();
    if message.is_held() && payload.is_empty() { None } else { Some(payload) }
}

#[pymethods]
impl Sample {
    /// The name of its topic.
    #[getter]
    fn topic(&self) -> PyResult<String> {
        self.of(|message| message.topic().to_owned())
    }

    /// Its number: from 1, without gaps for each publisher.
    #[getter]
    fn sequence(&self) -> PyResult<u64> {
        self.of(busway::Sample::sequence)
    }

    /// Who published it.
    #[getter]
    fn publisher(&self) -> PyResult<Origin> {
        self.of(|message| {
            let publisher = message.publisher();
            Origin { name: publisher.name.clone(), pid: publisher.pid, port: publisher.port.0 }
        })
    }

    /// When it was sent, by its publisher's clock: nanoseconds since 1970.
    #[getter]
    fn time_ns(&self) -> PyResult<u64> {
        self.of(busway::Sample::time_ns)
    }

    /// Whether it lies in its publisher's memory and is held there.
    #[getter]
    fn held(&self) -> PyResult<bool> {
        self.of(busway::Sample::is_held)
    }

    /// The payload where it lies, read-only.
    #[getter]
    fn data<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf.as_any())
    }

    /// The value that the payload holds as JSON.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.payload(py, |payload| PyBytes::new(py, payload).unbind())?;
        py.import("json")?.call_method1("loads", (bytes,))
    }

    /// Lets the memory go. Raises BufferError while a memoryview or an array still shows it.
    fn release(&self) -> PyResult<()> {
        self.let_go()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.let_go()
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.payload(py, <[u8]>::len)
    }

    /// A sample is true even if its message is empty.
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

    fn __repr__(&self) -> String {
        let state = self.lock();
        match &state.message {
            None => "<busway.Sample released>".to_owned(),
            Some(message) => format!(
                "<busway.Sample {} of {}, {} bytes>",
                message.sequence(),
                message.topic(),
                message.payload().len()
            ),
        }
    }

    #[expect(unsafe_code, reason = "the buffer protocol is a pair of C functions")]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if flags & ffi::PyBUF_WRITABLE != 0 {
            return Err(PyBufferError::new_err("a sample is read-only"));
        }
        // Asked without the lock, for what it raises.
        slf.get().payload(slf.py(), |_| ())?;
        let mut state = slf.get().lock();
        let payload = state.message.as_ref().and_then(here).ok_or_else(released)?;
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
    unsafe fn __releasebuffer__(&self, view: *mut ffi::Py_buffer) {
        // SAFETY: the interpreter gives the view that `__getbuffer__` filled.
        fork::hide(unsafe { (*view).buf }.addr());
        let mut state = self.lock();
        state.exports = state.exports.saturating_sub(1);
    }
}
