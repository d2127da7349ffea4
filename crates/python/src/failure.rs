//! Errors of the bus as Python's exceptions.
//!
//! The classes are Python's (`python/busway/_errors.py`), so that each can be a TimeoutError or a ValueError as well. Here
//! they are only asked for by the number of the code.

use busway::{Code, Error};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::turn::Missed;

/// What makes an exception of a code, a cause, a place and a remedy.
static OF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The exception of this error.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let of = OF.get_or_try_init(py, || {
        py.import("busway._errors").and_then(|module| module.getattr("of")).map(Bound::unbind)
    });
    let made =
        of.and_then(|of| of.call1(py, (error.code().number(), error.cause(), error.place(), error.try_())));
    match made {
        Ok(exception) => PyErr::from_value(exception.into_bound(py)),
        Err(other) => other,
    }
}

/// Results as Python's.
pub(crate) trait OrRaise<T> {
    /// The value, or the exception of the error.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T, E: Into<Error>> OrRaise<T> for Result<T, E> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raise(py, &error.into()))
    }
}

/// The error of a port that cannot be had.
pub(crate) fn missed(missed: Missed, what: &str) -> Error {
    match missed {
        Missed::Closed => Error::new(Code::Closed, format!("the {what} is closed")).remedy("open a new one"),
        Missed::Away => Error::new(Code::TimedOut, format!("another thread uses the {what}"))
            .remedy("wait longer, or open one for each thread"),
    }
}

/// The error of what was inherited through fork.
pub(crate) fn inherited() -> Error {
    Error::new(Code::Forked, "the handle was inherited through fork and belongs to the parent")
        .remedy("open a new bus in the child")
}

/// Every code with its meaning: `(602, "the bus is closed")`.
#[pyfunction]
pub(crate) fn codes() -> Vec<(u16, &'static str)> {
    Code::ALL.iter().map(|code| (code.number(), code.meaning())).collect()
}
