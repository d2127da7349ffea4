//! Offering an artifact from Python.
//!
//! Bytes are copied before the call returns, so that who changes a buffer afterwards changes nothing. A file object of Python is read by the thread that offers; what is long else is
//! read by a thread of its own, while this one sees signals.
//!
//! Invariant: an offer whose handle was closed, dropped or interrupted is withdrawn, unless it is kept.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busway::artifacts::{self, Destination, OfferBuilder, Reach};
use busway::{Code, Error};
use pyo3::exceptions::{PyBlockingIOError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::apart::{Apart, apart};
use crate::deadline::Deadline;
use crate::failure::{OrRaise, inherited, missed};
use crate::payload::Payload;
use crate::turn::Missed;

/// What a file object raised.
pub(crate) type Raised = Arc<Mutex<Option<PyErr>>>;

/// A file object of Python's, read by whoever has it.
pub(crate) struct Source {
    file: Py<PyAny>,
    raised: Raised,
}

impl Source {
    pub(crate) fn new(file: Py<PyAny>) -> (Self, Raised) {
        let raised = Raised::default();
        (Self { file, raised: raised.clone() }, raised)
    }

    fn read_into(&self, py: Python<'_>, buf: &mut [u8]) -> PyResult<usize> {
        py.check_signals()?;
        let read = self.file.bind(py).call_method1("read", (buf.len(),))?;
        if read.is_none() {
            return Err(PyBlockingIOError::new_err(
                "what is to be offered has nothing now, and waits for nobody",
            ));
        }
        let of = |len: usize| {
            let cause = format!("read({}) has returned {len} bytes", buf.len());
            if len > buf.len() { Err(PyValueError::new_err(cause)) } else { Ok(len) }
        };
        match Payload::of(&read)? {
            Payload::Bytes(bytes) => {
                let len = of(bytes.len())?;
                buf[..len].copy_from_slice(bytes);
                Ok(len)
            }
            Payload::Buffer(buffer) => {
                let len = of(buffer.len_bytes())?;
                buffer.copy_to_slice(py, &mut buf[..len])?;
                Ok(len)
            }
        }
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let read = Python::try_attach(|py| self.read_into(py, buf));
        match read {
            Some(Ok(count)) => Ok(count),
            Some(Err(error)) => {
                let text = error.to_string();
                *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(io::Error::other(text))
            }
            None => Err(io::Error::other("the interpreter has ended")),
        }
    }
}

/// How an artifact is offered, as Python says it.
pub(crate) struct How<'a> {
    pub(crate) attribute: Option<&'a Bound<'a, PyAny>>,
    pub(crate) to: Option<&'a Bound<'a, PyAny>>,
    pub(crate) reach_all: Option<f64>,
    pub(crate) keep: bool,
}

impl How<'_> {
    pub(crate) fn set(&self, py: Python<'_>, builder: OfferBuilder) -> PyResult<OfferBuilder> {
        let mut builder = builder;
        if let Some(attribute) = self.attribute {
            builder = match Payload::of(attribute)? {
                Payload::Bytes(bytes) => builder.attribute(bytes),
                Payload::Buffer(buffer) => builder.attribute(&buffer.to_vec(py)?),
            };
        }
        if let Some(to) = self.to {
            let to = match to.extract::<String>() {
                Ok(group) => Destination::Group(group),
                Err(_) => Destination::Peers(to.extract::<Vec<u8>>().map_err(|_| {
                    PyTypeError::new_err("to is the name of a group, or a list of indices of nodes")
                })?),
            };
            builder = builder.to(to);
        }
        if let Some(within) = self.reach_all {
            builder = builder.reach_all(crate::sender::or_endless(Some(within)).or_raise(py)?);
        }
        Ok(if self.keep { builder.keep() } else { builder })
    }
}

/// Opens it in this thread.
pub(crate) fn open_here(py: Python<'_>, bus: &busway::Bus, builder: OfferBuilder) -> PyResult<Offer> {
    let offer = py.detach(|| builder.open()).or_raise(py)?;
    Ok(Offer::new(offer, bus))
}

/// Opens it in a thread of its own; where this one is interrupted nothing is offered.
pub(crate) fn open_apart(py: Python<'_>, bus: &busway::Bus, builder: OfferBuilder) -> PyResult<Offer> {
    let unwanted = |offer: Result<artifacts::Offer, Error>| {
        if let Ok(offer) = offer {
            offer.withdraw();
        }
    };
    let offer = apart(py, || builder.open(), unwanted)?.or_raise(py)?;
    Ok(Offer::new(offer, bus))
}

/// An artifact that this program offers. Made by `Artifacts.offer`; at the end of a `with`, or when it is dropped, it is withdrawn,
/// unless it is kept.
#[pyclass(frozen, weakref, module = "busway.artifacts", name = "ArtifactOffer")]
pub(crate) struct Offer {
    /// Who waits has it too, for a moment: the last of all ends it.
    offer: Mutex<Option<Apart<Arc<artifacts::Offer>>>>,
    bus: busway::Bus,
    id: String,
    /// It ends even if it is kept.
    is_withdrawn: Mutex<bool>,
}

impl Offer {
    fn new(offer: artifacts::Offer, bus: &busway::Bus) -> Self {
        let id = offer.id().to_string();
        let offer = Mutex::new(Some(Apart::new(Arc::new(offer))));
        Self { offer, bus: bus.clone(), id, is_withdrawn: Mutex::default() }
    }

    fn check(&self) -> Result<(), Error> {
        if self.bus.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    fn handle(&self) -> Result<Arc<artifacts::Offer>, Error> {
        self.check()?;
        let offer = self.offer.lock().unwrap_or_else(PoisonError::into_inner);
        offer.as_ref().map(|offer| Arc::clone(offer)).ok_or_else(|| missed(Missed::Closed, "offer"))
    }

    /// Without the interpreter: the last of all who have it ends it.
    fn let_go(&self, offer: Arc<artifacts::Offer>) {
        let Some(offer) = Arc::into_inner(offer) else { return };
        // Looked at behind that: who takes it back says so before it lets go.
        let is_withdrawn = *self.is_withdrawn.lock().unwrap_or_else(PoisonError::into_inner);
        if is_withdrawn {
            offer.withdraw();
        }
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&artifacts::Offer) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let called = py.detach(|| {
            let offer = self.handle()?;
            let called = call(&offer);
            self.let_go(offer);
            called
        });
        called.or_raise(py)
    }

    fn end(&self, py: Python<'_>) {
        if self.check().is_err() {
            return;
        }
        py.detach(|| {
            let offer = self.offer.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(own) = offer {
                let offer = Arc::clone(&own);
                drop(own);
                self.let_go(offer);
            }
        });
    }
}

#[pymethods]
impl Offer {
    /// The name of its bytes: BLAKE3 of them, in hexadecimal.
    #[getter]
    fn id(&self) -> &str {
        &self.id
    }

    /// How far it has come: "offered", "reached" (all nodes have it or have declined it), "expired" or "withdrawn".
    #[getter]
    fn reach(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.check().or_raise(py)?;
        let word = |reach| match reach {
            Reach::Offered => "offered",
            Reach::Reached => "reached",
            Reach::Expired(_) => "expired",
            _ => "withdrawn",
        };
        Ok(self.handle().map_or("withdrawn", |offer| {
            let word = word(offer.reach());
            py.detach(|| self.let_go(offer));
            word
        }))
    }

    /// The nodes that have not said that they have it when its time was up.
    #[getter]
    fn missing(&self, py: Python<'_>) -> PyResult<Vec<u16>> {
        self.with(py, |offer| match offer.reach() {
            Reach::Expired(missing) => Ok(missing.into_iter().map(u16::from).collect()),
            _ => Ok(Vec::new()),
        })
    }

    /// Waits until it is at all nodes, as `reach_all` says. Raises TimedOut when `timeout` seconds, or the time of the offer, are over before, and Closed where
    /// it was withdrawn.
    #[pyo3(signature = (timeout = None))]
    fn wait_reached(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let deadline = Deadline::after(py, timeout)?;
        loop {
            let slice = deadline.slice().max(Duration::from_micros(1));
            let again = self.with(py, |offer| match offer.wait_reached(slice) {
                Err(error) if error.code() == Code::TimedOut && offer.reach() == Reach::Offered => {
                    if deadline.expired() { Err(error) } else { Ok(true) }
                }
                other => other.map(|()| false),
            })?;
            if !again {
                return Ok(());
            }
            py.check_signals()?;
        }
    }

    /// Takes it back, also if it is kept: the others are told, and stop asking for it.
    fn withdraw(&self, py: Python<'_>) {
        *self.is_withdrawn.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.end(py);
    }

    /// Ends it as the end of a `with` does: it is withdrawn, unless it is kept.
    fn close(&self, py: Python<'_>) {
        self.end(py);
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.end(py);
    }

    fn __repr__(&self) -> String {
        format!("<busway.artifacts.Offer {:.8}>", self.id)
    }
}

/// What `data` shows, copied: at most so many bytes are offered by this thread.
pub(crate) fn copied(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        let bytes = bytes.as_bytes();
        return Ok(py.detach(|| bytes.to_vec()));
    }
    match Payload::of(data)? {
        Payload::Bytes(bytes) => Ok(bytes.to_vec()),
        Payload::Buffer(buffer) => buffer.to_vec(py),
    }
}
