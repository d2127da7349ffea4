//! What a Python caller wants to send: `bytes`, or anything that shows its memory in one piece.
//!
//! `bytes` are read where they lie, since they never change. The rest is copied while the interpreter is held, since
//! somebody may change it meanwhile otherwise: into the memory where its readers read it, or, where it must wait to be
//! sent, first to where it does not change, and from there once more.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

/// What is to be sent.
#[derive(Debug)]
pub(crate) enum Payload<'py> {
    Bytes(&'py [u8]),
    Buffer(PyBuffer<u8>),
}

impl<'py> Payload<'py> {
    /// What `data` shows.
    ///
    /// # Errors
    /// `TypeError` where it shows no memory, or not in one piece.
    pub(crate) fn of(data: &'py Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes.as_bytes()));
        }
        let Ok(view) = PyMemoryView::from(data) else {
            let kind = data.get_type().qualname()?;
            let cause =
                format!("a message is bytes or shows its memory (bytearray, memoryview, numpy), not {kind}");
            return Err(PyTypeError::new_err(cause));
        };
        if view.getattr("nbytes")?.extract::<usize>()? == 0 {
            return Ok(Self::Bytes(&[]));
        }
        // Numbers of any size, in any number of dimensions, are the bytes they consist of.
        Ok(Self::Buffer(PyBuffer::get(&view.call_method1("cast", ("B",))?)?))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Buffer(buffer) => buffer.len_bytes(),
        }
    }
}
