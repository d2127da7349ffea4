//! A message of a publisher in Python's hands: what it says beside its payload.
//!
//! A task of a puller is a sample as well. Where the bytes lie, and for how long, `message` says.
//!
//! Invariant: it is asked for nothing after it was released.

use pyo3::prelude::*;

use crate::message::{Body, Message, released};

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

/// One message of a publisher.
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
#[pyclass(frozen, subclass, extends = Message, module = "busway")]
pub(crate) struct Sample;

impl Sample {
    /// For Python.
    pub(crate) fn shown(py: Python<'_>, message: busway::Sample) -> PyResult<Py<Self>> {
        let base = PyClassInitializer::from(Message::new(Body::Sample(message)));
        Py::new(py, base.add_subclass(Self))
    }

    fn of<T>(slf: &Bound<'_, Self>, what: impl FnOnce(&busway::Sample) -> T) -> PyResult<T> {
        let of = |body: &mut Body| match body {
            Body::Sample(sample) => Some(what(sample)),
            Body::Task(task) => Some(what(task.sample())),
            Body::Reply(_) | Body::Request(_) => None,
        };
        slf.as_super().get().of(slf.py(), of)?.ok_or_else(released)
    }
}

#[pymethods]
impl Sample {
    /// The name of its topic.
    #[getter]
    fn topic(slf: &Bound<'_, Self>) -> PyResult<String> {
        Self::of(slf, |sample| sample.topic().to_owned())
    }

    /// Its number: from 1, without gaps for each publisher.
    #[getter]
    fn sequence(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Self::of(slf, busway::Sample::sequence)
    }

    /// Who published it.
    #[getter]
    fn publisher(slf: &Bound<'_, Self>) -> PyResult<Origin> {
        Self::of(slf, |sample| {
            let publisher = sample.publisher();
            Origin { name: publisher.name.clone(), pid: publisher.pid, port: publisher.port.0 }
        })
    }

    /// When it was sent, by its publisher's clock: nanoseconds since 1970.
    #[getter]
    fn time_ns(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Self::of(slf, busway::Sample::time_ns)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let Some((kind, bytes)) = slf.as_super().get().size(slf.py()) else {
            return "<busway.Sample released>".to_owned();
        };
        let kind = if kind == "task" { "Task" } else { "Sample" };
        let of = Self::of(slf, |sample| (sample.sequence(), sample.topic().to_owned()));
        let (sequence, topic) = of.unwrap_or_default();
        format!("<busway.{kind} {sequence} of {topic}, {bytes} bytes>")
    }
}
