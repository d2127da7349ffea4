//! Work in Python's hands: a sample that this puller alone has, until it says what became of it.
//!
//! What shows its bytes may go on to do so after it was acknowledged: the memory is held, and the work is done.
//!
//! Invariant: a task ends once: acknowledged, given back, or with its object.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::failure::{OrRaise, inherited};
use crate::fork::Birth;
use crate::message::{Body, Message};
use crate::sample::Sample;

/// A message that this puller alone has. Made by `Puller.recv`.
///
/// `with task:` acknowledges it at the end of the block, and gives it back where the block raises. One that is dropped or
/// released before it was acknowledged is given back; where its group does not acknowledge it is over then, and when its thread
/// waits for the next.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.puller("resize", ack=30) as puller:
/// ...     with bus.pusher("resize") as pusher:
/// ...         sent = pusher.send(b"cat.png")
/// ...         with puller.recv(timeout=5) as task:
/// ...             bytes(task), task.deliveries
/// ...         pusher.account()["delivered"]
/// (b'cat.png', 1)
/// 1
///
/// ```
#[pyclass(frozen, extends = Sample, module = "busway")]
pub(crate) struct Task {
    deliveries: u32,
    birth: Birth,
}

fn over() -> PyErr {
    PyValueError::new_err("the task was acknowledged, given back or released")
}

impl Task {
    /// For Python.
    pub(crate) fn shown(py: Python<'_>, task: busway::Task) -> PyResult<Py<Self>> {
        let own = Self { deliveries: task.deliveries(), birth: Birth::now() };
        let base = PyClassInitializer::from(Message::new(Body::Task(Box::new(task))));
        Py::new(py, base.add_subclass(Sample).add_subclass(own))
    }

    /// It is over, if it is not yet; what shows it goes on to do so.
    pub(crate) fn end(slf: &Bound<'_, Self>) {
        // A child made by fork leaves it to its parent.
        let _ = Self::ending(slf, busway::Task::settle);
    }

    /// What ends it comes to; `None` where it has ended.
    fn ending<T>(slf: &Bound<'_, Self>, end: impl FnOnce(&mut busway::Task) -> T) -> PyResult<Option<T>> {
        if slf.get().birth.is_inherited() {
            return Err(inherited()).or_raise(slf.py());
        }
        let ended = slf.as_super().as_super().get().of(slf.py(), |body| match body {
            Body::Task(task) if task.is_open() => Some(end(task)),
            Body::Task(_) | Body::Sample(_) | Body::Reply(_) | Body::Request(_) => None,
        });
        Ok(ended.unwrap_or_default())
    }
}

#[pymethods]
impl Task {
    /// How often it was given to a puller, this time included: from 1.
    #[getter]
    fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// Whether it has ended: acknowledged, given back or released.
    #[getter]
    fn done(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(Self::ending(slf, |_| ())?.is_none())
    }

    /// It was handled: nobody else gets it. Raises TooLate where it was given to another meanwhile, who handles it as well.
    fn ack(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::ending(slf, busway::Task::settle)?.ok_or_else(over)?.or_raise(slf.py())
    }

    /// It was not handled: another puller gets it, or this one again. Where the group does not acknowledge it is over.
    fn nack(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::ending(slf, busway::Task::give_back)?.ok_or_else(over)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*exception))]
    fn __exit__(slf: &Bound<'_, Self>, exception: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        let raised = exception.get_item(0).is_ok_and(|kind| !kind.is_none());
        let ended = match Self::ending(slf, |task| {
            if raised {
                task.give_back();
                return Ok(());
            }
            task.settle()
        }) {
            Ok(ended) => ended.unwrap_or(Ok(())).or_raise(slf.py()),
            // A child made by fork leaves it to its parent.
            Err(_) => Ok(()),
        };
        // What still shows it keeps it.
        let _ = slf.as_super().as_super().get().let_go(slf.py());
        ended
    }
}
