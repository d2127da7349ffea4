//! Room for one message in Python's hands: a buffer to be written, where its readers will read it.
//!
//! It does not borrow its publisher, which can send other messages meanwhile.
//!
//! Invariant: a buffer that can be written exists only while the loan is not sent. Sending is refused while one exists, and
//! none is made afterwards.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busway::DetachedLoan;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::deadline::Deadline;
use crate::failure::{OrRaise, inherited, raise};
use crate::fork;
use crate::sender::{Sent, Shared};

/// Room for one message: a buffer that can be written until it is sent.
///
/// `memoryview(loan)` and `numpy.frombuffer(loan)` write into the memory where subscribers will read. Let go of them, then
/// `send()`. A loan that is not sent is given back by `release()`, by `with`, or by the collector. The bytes are what was
/// there before: write all of them.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.publisher("news") as publisher:
/// ...     with publisher.loan(1000) as loan:
/// ...         with memoryview(loan) as room:
/// ...             room[:5] = b"fresh"
/// ...         loan.send().sequence
/// 1
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Loan {
    state: Mutex<State>,
    shared: Arc<Shared>,
}

struct State {
    /// In a place of its own: a small message lies in the loan itself, and buffers show where.
    room: Option<Box<DetachedLoan>>,
    /// Buffers that show it now.
    exports: usize,
}

fn gone() -> PyErr {
    PyValueError::new_err("the loan was sent or released")
}

impl Loan {
    pub(crate) fn new(room: Box<DetachedLoan>, shared: Arc<Shared>) -> Self {
        Self { state: Mutex::new(State { room: Some(room), exports: 0 }), shared }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room, if nobody can write there.
    fn take(&self) -> PyResult<Option<Box<DetachedLoan>>> {
        let mut state = self.lock();
        if state.exports > 0 {
            let cause = format!("the loan is still shown by {} buffers; release them first", state.exports);
            return Err(PyBufferError::new_err(cause));
        }
        Ok(state.room.take())
    }
}

#[pymethods]
impl Loan {
    /// Sends what was written. Raises BufferError while a memoryview or an array can still write there; what cannot be sent
    /// for another reason, as a time that is over, is lost with the loan.
    #[pyo3(signature = (timeout = None))]
    fn send(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Sent> {
        let deadline = Deadline::after(py, timeout)?;
        self.shared.check().or_raise(py)?;
        let room = self.take()?.ok_or_else(gone)?;
        let shared = &self.shared;
        py.detach(|| shared.send_room(*room, deadline)).or_raise(py)
    }

    /// Gives the room back unsent. Raises BufferError while a memoryview or an array can still write there.
    fn release(&self) -> PyResult<()> {
        if let Some(room) = self.take()? {
            self.shared.give_back(*room);
        }
        Ok(())
    }

    /// The room, to be written.
    #[getter]
    fn data<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf.as_any())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.release()
    }

    fn __len__(&self) -> PyResult<usize> {
        self.lock().room.as_ref().map(|room| room.bytes().len()).ok_or_else(gone)
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self) -> String {
        match &self.lock().room {
            None => "<busway.Loan sent or released>".to_owned(),
            Some(room) => format!("<busway.Loan of {} bytes>", room.bytes().len()),
        }
    }

    #[expect(unsafe_code, reason = "the buffer protocol is a pair of C functions")]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let loan = slf.get();
        // A child made by `fork` does not have the memory.
        loan.shared.check().map_err(|_| raise(slf.py(), &inherited()))?;
        let mut state = loan.lock();
        let bytes = state.room.as_mut().ok_or_else(gone)?.bytes_mut();
        let len = isize::try_from(bytes.len()).unwrap_or(0);
        let start = bytes.as_mut_ptr().cast::<c_void>();
        // SAFETY: the interpreter gives a view to be filled; the bytes stay there, and are nobody else's, while it exists:
        // the view has a reference to the loan, and the room is not taken out while `exports` is not 0.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 0, flags) };
        if filled != 0 {
            drop(state);
            return Err(PyErr::fetch(slf.py()));
        }
        fork::show(bytes);
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

impl Drop for Loan {
    fn drop(&mut self) {
        let room = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).room.take();
        if let Some(room) = room {
            self.shared.give_back(*room);
        }
    }
}
