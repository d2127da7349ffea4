//! An artifact in Python's hands: whole, or as it arrives.
//!
//! A whole one is a read-only buffer: of at most 256 KiB it shows where it lies; a larger one lies with the node, and is read into memory, once, when it is first shown.
//!
//! Invariant: the bytes that a buffer shows stay where they are as long as the artifact exists, to which the buffer has a reference; what is shown lies on the heap, and so
//! comes along to a child made by `fork`.

use std::ffi::{c_int, c_void};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use busway::artifacts;
use busway::{Code, Error};
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::apart::Apart;
use crate::deadline::{Deadline, SLICE};
use crate::failure::{OrRaise, inherited, missed};
use crate::turn::Turn;

/// An artifact that is offered, without its bytes.
#[pyclass(frozen, eq, module = "busway.artifacts")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advert {
    pub(crate) of: artifacts::Advert,
}

#[pymethods]
impl Advert {
    /// On which topic.
    #[getter]
    fn topic(&self) -> &str {
        self.of.topic()
    }

    /// The name of the bytes: BLAKE3 of them, in hexadecimal.
    #[getter]
    fn id(&self) -> String {
        self.of.id().to_string()
    }

    /// How many bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.of.size()
    }

    /// What its origin says of it beside.
    #[getter]
    fn attribute<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.of.attribute())
    }

    /// The index of the node that offers it.
    #[getter]
    fn node(&self) -> u8 {
        self.of.node()
    }

    fn __repr__(&self) -> String {
        let of = &self.of;
        format!("<busway.artifacts.Advert {:.8} on {}, {} bytes>", of.id().to_string(), of.topic(), of.size())
    }
}

/// So much of an artifact is here: for who asked for `progress`.
#[pyclass(frozen, get_all, module = "busway.artifacts")]
#[derive(Debug)]
pub(crate) struct Progress {
    /// Which.
    advert: Advert,
    /// Bytes that are here, and checked.
    have: u64,
    /// Bytes that it has.
    size: u64,
}

/// An artifact that was received, or arrives, is not offered any more.
#[pyclass(frozen, get_all, module = "busway.artifacts")]
#[derive(Debug)]
pub(crate) struct Withdrawn {
    /// Which.
    advert: Advert,
}

/// An artifact, whole and checked. It is a read-only buffer: `memoryview(artifact)`, `bytes(artifact)`.
///
/// One of at most 256 KiB is shown where it lies. A larger one is read into memory when it is first shown, at most 256 MiB of it; `save`,
/// `read_at` and `reader` need no such room.
#[pyclass(frozen, weakref, module = "busway.artifacts")]
pub(crate) struct Artifact {
    artifact: Apart<artifacts::Artifact>,
    bytes: OnceLock<Arc<[u8]>>,
}

impl Artifact {
    pub(crate) fn new(artifact: artifacts::Artifact) -> Self {
        Self { artifact: Apart::new(artifact), bytes: OnceLock::new() }
    }

    fn bytes(&self, py: Python<'_>) -> PyResult<&Arc<[u8]>> {
        if let Some(bytes) = self.bytes.get() {
            return Ok(bytes);
        }
        let bytes = py.detach(|| self.artifact.bytes()).or_raise(py)?;
        Ok(self.bytes.get_or_init(|| bytes))
    }
}

#[pymethods]
impl Artifact {
    /// What it is.
    #[getter]
    fn advert(&self) -> Advert {
        Advert { of: self.artifact.advert().clone() }
    }

    /// Its topic.
    #[getter]
    fn topic(&self) -> &str {
        self.artifact.advert().topic()
    }

    /// The name of its bytes.
    #[getter]
    fn id(&self) -> String {
        self.artifact.advert().id().to_string()
    }

    /// How many bytes it has.
    #[getter]
    fn size(&self) -> u64 {
        self.artifact.size()
    }

    /// Its bytes, read-only. Raises TooLarge above 256 MiB.
    #[getter]
    fn data<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf.as_any())
    }

    /// At most `size` bytes from `offset`; fewer at its end. Raises BytesLost where they were damaged, and nobody offers it any more.
    fn read_at<'py>(&self, py: Python<'py>, offset: u64, size: u64) -> PyResult<Bound<'py, PyBytes>> {
        let read = py.detach(|| {
            let room = self.artifact.size().saturating_sub(offset).min(size);
            let mut bytes = vec![0; usize::try_from(room).unwrap_or(0)];
            let count = self.artifact.read_at(offset, &mut bytes)?;
            bytes.truncate(count);
            Ok::<_, Error>(bytes)
        });
        Ok(PyBytes::new(py, &read.or_raise(py)?))
    }

    /// Writes it into a file, which is there when all of it is. Raises JoinError (BUS-0214) where it cannot be written.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.artifact.save(path)).or_raise(py)
    }

    /// For `reader`.
    fn _reader(&self) -> ArtifactReader {
        ArtifactReader::new(self.artifact.reader())
    }

    fn __len__(&self) -> usize {
        usize::try_from(self.artifact.size()).unwrap_or(usize::MAX)
    }

    /// It is true even if it has no bytes.
    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self) -> String {
        let of = self.artifact.advert();
        format!(
            "<busway.artifacts.Artifact {:.8} on {}, {} bytes>",
            of.id().to_string(),
            of.topic(),
            of.size()
        )
    }

    #[expect(unsafe_code, reason = "the buffer protocol is a pair of C functions")]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if flags & ffi::PyBUF_WRITABLE != 0 {
            return Err(PyBufferError::new_err("an artifact is read-only"));
        }
        let bytes = slf.get().bytes(slf.py())?;
        // Never written through: the view is read-only.
        let start = bytes.as_ptr().cast_mut().cast::<c_void>();
        let len = isize::try_from(bytes.len()).unwrap_or(0);
        // SAFETY: the interpreter gives a view to be filled; the bytes stay there while it exists (the head's invariant).
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// An artifact that comes: its bytes can be read as they are here, by `reader`.
#[pyclass(frozen, weakref, module = "busway.artifacts")]
pub(crate) struct Arriving {
    arriving: Apart<artifacts::Arriving>,
}

#[pymethods]
impl Arriving {
    /// What it is.
    #[getter]
    fn advert(&self) -> Advert {
        Advert { of: self.arriving.advert().clone() }
    }

    /// For `reader`.
    fn _reader(&self) -> ArtifactReader {
        ArtifactReader::new(self.arriving.reader(SLICE))
    }
}

/// What `busway.artifacts.Reader` reads.
#[pyclass(frozen, module = "busway.artifacts")]
pub(crate) struct ArtifactReader {
    turn: Turn<artifacts::Reader>,
    birth: crate::fork::Birth,
}

impl ArtifactReader {
    fn new(reader: artifacts::Reader) -> Self {
        Self { turn: Turn::new(reader), birth: crate::fork::Birth::now() }
    }

    fn check(&self) -> Result<(), Error> {
        if self.birth.is_inherited() { Err(inherited()) } else { Ok(()) }
    }
}

/// The bus's own error, which is inside of that of a read.
fn inside(error: std::io::Error) -> Error {
    let text = error.to_string();
    let inner = error.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
    inner.map_or_else(|| Error::new(Code::BytesLost, text), |error| *error)
}

#[pymethods]
impl ArtifactReader {
    /// The next bytes, at most `most`; none at the end. Waits for the first of them, at most `timeout` seconds.
    fn _read<'py>(
        &self,
        py: Python<'py>,
        most: usize,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let deadline = Deadline::after(py, timeout)?;
        loop {
            self.check().or_raise(py)?;
            let read = py.detach(|| {
                let mut reader = match self.turn.take(Deadline::within(SLICE)) {
                    Ok(reader) => reader,
                    Err(why) => return Err(missed(why, "reader")),
                };
                let mut bytes = vec![0; most];
                match reader.read(&mut bytes) {
                    Ok(count) => {
                        bytes.truncate(count);
                        Ok(Some(bytes))
                    }
                    Err(error) if error.kind() == ErrorKind::TimedOut && !deadline.expired() => Ok(None),
                    Err(error) => Err(inside(error)),
                }
            });
            if let Some(bytes) = read.or_raise(py)? {
                return Ok(PyBytes::new(py, &bytes));
            }
            py.check_signals()?;
        }
    }

    /// Where it reads next, after `offset` from the begin (0), from there (1), or from the end (2).
    fn _seek(&self, py: Python<'_>, offset: i64, whence: u8) -> PyResult<u64> {
        self.check().or_raise(py)?;
        let to = match whence {
            0 => {
                SeekFrom::Start(u64::try_from(offset).map_err(|_| PyValueError::new_err("before the begin"))?)
            }
            1 => SeekFrom::Current(offset),
            2 => SeekFrom::End(offset),
            _ => return Err(PyValueError::new_err("whence is 0, 1 or 2")),
        };
        let sought = py.detach(|| {
            let mut reader = self.turn.take(Deadline::never()).map_err(|why| missed(why, "reader"))?;
            Ok::<_, Error>(reader.seek(to))
        });
        sought.or_raise(py)?.map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// It reads no more; who waits in it is told so.
    fn _close(&self, py: Python<'_>) {
        if self.check().is_ok() {
            // One that is away is taken for closed by who has it.
            py.detach(|| drop(self.turn.close(Deadline::never())));
        }
    }
}

impl Drop for ArtifactReader {
    fn drop(&mut self) {
        Python::try_attach(|py| self._close(py));
    }
}

/// What came, for Python.
pub(crate) fn shown(py: Python<'_>, event: artifacts::Event) -> PyResult<Py<PyAny>> {
    use artifacts::Event;
    let event = match event {
        Event::Received(artifact) => Py::new(py, Artifact::new(artifact))?.into_any(),
        Event::Arriving(arriving) => Py::new(py, Arriving { arriving: Apart::new(arriving) })?.into_any(),
        Event::Progress { advert, have, size } => {
            Py::new(py, Progress { advert: Advert { of: advert }, have, size })?.into_any()
        }
        Event::Withdrawn(advert) => Py::new(py, Withdrawn { advert: Advert { of: advert } })?.into_any(),
        other => {
            let cause = format!("an event that this version does not know: {other:?}");
            return Err(Error::new(Code::NotYet, cause)).or_raise(py);
        }
    };
    Ok(event)
}
