//! Pushing from Python: work that is shared.
//!
//! What it has in common with others that send, `outlet` says.

use pyo3::prelude::*;

use crate::outlet::Sender;
use crate::sender::Port;

/// A pusher of one topic: each message goes to one puller of each group. Made by `Bus.pusher`; threads may share it, and take
/// turns.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.pusher("resize") as pusher:
/// ...     pusher.send(b"cat.png").sequence, pusher.send_json({"name": "dog.png"}).sequence
/// (1, 2)
///
/// ```
#[pyclass(frozen, extends = Sender, module = "busway")]
pub(crate) struct Pusher;

impl Pusher {
    pub(crate) fn of(py: Python<'_>, pusher: busway::Pusher, bus: busway::Bus) -> PyResult<Py<Self>> {
        let sender = Sender::new(Port::Pusher(pusher), bus);
        Py::new(py, PyClassInitializer::from(sender).add_subclass(Self))
    }
}

#[pymethods]
impl Pusher {
    /// Pullers that are attached now.
    #[getter]
    fn pullers(slf: PyRef<'_, Self>) -> PyResult<usize> {
        let py = slf.py();
        slf.as_super().shared.takers(py)
    }

    /// Waits until `count` pullers at least are attached, and returns how many are; raises TimedOut.
    #[pyo3(signature = (count = 1, timeout = None))]
    fn wait_for_pullers(slf: PyRef<'_, Self>, count: usize, timeout: Option<f64>) -> PyResult<usize> {
        let py = slf.py();
        slf.as_super().shared.wait_for_takers(py, count, timeout)
    }

    fn __repr__(slf: PyRef<'_, Self>) -> String {
        format!("<busway.Pusher of {}>", slf.as_super().shared.topic())
    }
}
