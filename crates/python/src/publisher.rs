//! Publishing from Python.
//!
//! What it has in common with others that send, `outlet` says.

use pyo3::prelude::*;

use crate::outlet::Sender;
use crate::sender::Port;

/// A publisher of one topic. Made by `Bus.publisher`; threads may share it, and take turns.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.publisher("news", history=8) as publisher:
/// ...     publisher.send(b"one").sequence, publisher.send_json([2]).sequence
/// (1, 2)
///
/// ```
#[pyclass(frozen, extends = Sender, module = "busway")]
pub(crate) struct Publisher;

impl Publisher {
    pub(crate) fn of(py: Python<'_>, publisher: busway::Publisher, bus: busway::Bus) -> PyResult<Py<Self>> {
        let sender = Sender::new(Port::Publisher(publisher), bus);
        Py::new(py, PyClassInitializer::from(sender).add_subclass(Self))
    }
}

#[pymethods]
impl Publisher {
    /// Subscribers that are attached now.
    #[getter]
    fn subscribers(slf: PyRef<'_, Self>) -> PyResult<usize> {
        let py = slf.py();
        slf.as_super().shared.takers(py)
    }

    /// Waits until `count` subscribers at least are attached, and returns how many are; raises TimedOut.
    #[pyo3(signature = (count = 1, timeout = None))]
    fn wait_for_subscribers(slf: PyRef<'_, Self>, count: usize, timeout: Option<f64>) -> PyResult<usize> {
        let py = slf.py();
        slf.as_super().shared.wait_for_takers(py, count, timeout)
    }

    fn __repr__(slf: PyRef<'_, Self>) -> String {
        format!("<busway.Publisher of {}>", slf.as_super().shared.topic())
    }
}
