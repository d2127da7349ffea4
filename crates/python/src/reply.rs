//! A reply in Python's hands: which of the replies to its request it is.
//!
//! Where its bytes lie, and for how long, `message` says.
//!
//! Invariant: its place and whether it is the last are known also after it was released.

use pyo3::prelude::*;

use crate::message::{Body, Message};

/// A reply to a request. Made by `Requester.request` and `Pending.recv`.
#[pyclass(frozen, extends = Message, get_all, module = "busway")]
pub(crate) struct Reply {
    /// Its place among the replies to its request, from 0.
    index: u32,
    /// Whether it is the last.
    last: bool,
}

impl Reply {
    /// For Python.
    pub(crate) fn shown(py: Python<'_>, reply: busway::Reply) -> PyResult<Py<Self>> {
        let own = Self { index: reply.index(), last: reply.is_last() };
        let base = PyClassInitializer::from(Message::new(Body::Reply(reply)));
        Py::new(py, base.add_subclass(own))
    }
}

#[pymethods]
impl Reply {
    fn __repr__(slf: &Bound<'_, Self>) -> String {
        match slf.as_super().get().size(slf.py()) {
            None => "<busway.Reply released>".to_owned(),
            Some((_, bytes)) => format!("<busway.Reply {} of {bytes} bytes>", slf.get().index),
        }
    }
}
