//! Who is given artifacts in Python.
//!
//! Its function of interest is called by the thread that receives, in an event loop by the loop. What it raises is raised by that receive, and the artifact is stashed: it is asked about
//! again after `reconsider`.
//!
//! Invariant: what came is returned, also where the function of interest has raised beside it: then by the next call.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use busway::artifacts::{self, Event, Interest, SubscriberBuilder};
use busway::{Code, Error};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::artifact::{Advert, shown};
use crate::deadline::{Deadline, SLICE};
use crate::doorbell::Doorbell;
use crate::failure::{OrRaise, inherited, missed};
use crate::intake::is_closed;
use crate::turn::{Missed, Turn};

/// What the function of interest raised.
type Raised = Arc<Mutex<Option<PyErr>>>;

/// Who is given artifacts, each once. Made by `Artifacts.subscriber`; threads may share it, and each event goes to one of them.
#[pyclass(frozen, weakref, module = "busway.artifacts")]
pub(crate) struct ArtifactSubscriber {
    turn: Turn<artifacts::Subscriber>,
    bus: busway::Bus,
    pattern: String,
    raised: Raised,
    /// What came beside what was raised.
    kept: Mutex<Option<Event>>,
    /// Whoever has it closes it.
    is_closing: Mutex<bool>,
    doorbell: Mutex<Option<Arc<Doorbell>>>,
}

/// What the function says.
fn judged(py: Python<'_>, function: &Py<PyAny>, advert: &artifacts::Advert) -> PyResult<Interest> {
    let said = function.bind(py).call1((Advert { of: advert.clone() },))?;
    let Ok(word) = said.extract::<String>() else {
        let cause = "a function of interest returns an Interest (an async one cannot be asked)";
        return Err(PyTypeError::new_err(format!("{cause}, not {}", said.get_type().qualname()?)));
    };
    match word.as_str() {
        "drop" => Ok(Interest::Drop),
        "stash" => Ok(Interest::Stash),
        "later" => Ok(Interest::Later),
        "fetch" => Ok(Interest::Fetch),
        "fetch-now" => Ok(Interest::FetchNow),
        other => Err(PyValueError::new_err(format!("{other:?} is no Interest"))),
    }
}

impl ArtifactSubscriber {
    pub(crate) fn open(
        py: Python<'_>,
        bus: &busway::Bus,
        pattern: &str,
        builder: SubscriberBuilder,
        interest: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let raised = Raised::default();
        let builder = match interest {
            None => builder,
            Some(function) => {
                let raised = raised.clone();
                builder.interest(move |advert| {
                    let said = Python::try_attach(|py| judged(py, &function, advert));
                    match said {
                        Some(Ok(interest)) => interest,
                        Some(Err(error)) => {
                            *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                            Interest::Stash
                        }
                        None => Interest::Stash,
                    }
                })
            }
        };
        let subscriber = py.detach(|| builder.open()).or_raise(py)?;
        let (kept, doorbell, is_closing) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (bus, pattern) = (bus.clone(), pattern.to_owned());
        Ok(Self { turn: Turn::new(subscriber), bus, pattern, raised, kept, is_closing, doorbell })
    }

    fn check(&self) -> Result<(), Error> {
        if self.bus.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    /// What a look at it comes to, made without the interpreter; nothing where another thread has it for so long.
    fn look(
        &self,
        py: Python<'_>,
        most: Duration,
        look: impl FnOnce(&mut artifacts::Subscriber) -> Result<Option<Event>, Error> + Send,
    ) -> PyResult<Option<Event>> {
        self.check().or_raise(py)?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if kept.is_some() {
            return Ok(kept);
        }
        let found = py.detach(|| {
            let found = match self.turn.take(Deadline::within(most)) {
                Ok(mut subscriber) => look(&mut subscriber),
                Err(Missed::Away) => Ok(None),
                Err(why) => Err(missed(why, "subscriber")),
            };
            let is_closing = *self.is_closing.lock().unwrap_or_else(PoisonError::into_inner);
            if is_closing {
                drop(self.turn.close(Deadline::over()));
            }
            found
        });
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner).take();
        match raised {
            None => found.or_raise(py),
            Some(raised) => {
                if let Ok(Some(event)) = found {
                    *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(event);
                }
                Err(raised)
            }
        }
    }

    /// The next, waited for until `deadline`.
    pub(crate) fn wait(&self, py: Python<'_>, deadline: Deadline) -> PyResult<Option<Event>> {
        loop {
            let slice = deadline.slice();
            let found = self.look(py, slice, |subscriber| subscriber.recv_timeout(slice))?;
            if found.is_some() {
                return Ok(found);
            }
            py.check_signals()?;
            if deadline.expired() {
                return Ok(None);
            }
        }
    }

    /// The descriptor's other end.
    fn doorbell(&self, py: Python<'_>) -> PyResult<Arc<Doorbell>> {
        self.check().or_raise(py)?;
        let mut doorbell = self.doorbell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(doorbell) = &*doorbell {
            return Ok(doorbell.clone());
        }
        Ok(doorbell.insert(Arc::new(Doorbell::new().or_raise(py)?)).clone())
    }

    fn end(&self, py: Python<'_>) {
        if self.check().is_err() {
            return;
        }
        *self.is_closing.lock().unwrap_or_else(PoisonError::into_inner) = true;
        // A function of interest that does not return keeps nobody here: whoever called it closes.
        py.detach(|| drop(self.turn.close(Deadline::within(2 * SLICE))));
        if let Some(doorbell) = &*self.doorbell.lock().unwrap_or_else(PoisonError::into_inner) {
            doorbell.ring();
        }
    }
}

#[pymethods]
impl ArtifactSubscriber {
    /// Its pattern.
    #[getter]
    fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Waits for the next event: an Artifact, or Withdrawn, Progress or Arriving. Raises TimedOut when `timeout` seconds are over before
    /// one comes, what the function of interest raises, and Closed where the node has ended.
    #[pyo3(signature = (timeout = None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let deadline = Deadline::after(py, timeout)?;
        match self.wait(py, deadline)? {
            Some(event) => shown(py, event),
            None => Err(Error::new(Code::TimedOut, "no artifact came in time")
                .at(format!("artifacts {}", self.pattern))
                .remedy("wait longer, or see with busway artifacts ls what is offered"))
            .or_raise(py),
        }
    }

    /// An event if one is there, or None.
    fn try_recv(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let found = self.look(py, Duration::ZERO, |subscriber| subscriber.recv_timeout(Duration::ZERO))?;
        found.map(|event| shown(py, event)).transpose()
    }

    /// The function of interest would say something else now: it is asked again about all that was not given.
    fn reconsider(&self, py: Python<'_>) -> PyResult<()> {
        self.check().or_raise(py)?;
        let asked = py.detach(|| {
            let subscriber = self.turn.take(Deadline::never()).map_err(|why| missed(why, "subscriber"))?;
            subscriber.reconsider();
            Ok::<_, Error>(())
        });
        asked.or_raise(py)
    }

    /// Ends it; threads that wait in it return.
    fn close(&self, py: Python<'_>) {
        self.end(py);
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.check().or_raise(py)?;
        Ok(*self.is_closing.lock().unwrap_or_else(PoisonError::into_inner) || self.turn.is_closed())
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// The next event; the end when it, the node or the bus is closed.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.wait(py, Deadline::never()) {
            Ok(event) => event.map(|event| shown(py, event)).transpose(),
            Err(error) if is_closed(py, &error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.end(py);
    }

    fn __repr__(&self) -> String {
        format!("<busway.artifacts.Subscriber of {}>", self.pattern)
    }

    /// For an event loop: those that are there, at most `most`.
    #[pyo3(signature = (most = 256))]
    fn try_recv_many(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<PyAny>>> {
        let mut events = Vec::new();
        while events.len() < most {
            match self.try_recv(py) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) if events.is_empty() => return Err(error),
                // It is raised by the next call.
                Err(error) => {
                    *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    break;
                }
            }
        }
        Ok(events)
    }

    /// For an event loop: the descriptor that becomes readable when something comes after `_arm()` found nothing.
    fn _fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.doorbell(py)?.number())
    }

    /// For an event loop: what is there, at most `most`; where there is nothing, the descriptor tells of the next.
    #[pyo3(signature = (most = 1))]
    fn _arm(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<PyAny>>> {
        let doorbell = self.doorbell(py)?;
        doorbell.clear();
        let (waker, mut is_armed) = (Waker::from(doorbell.clone()), false);
        let found =
            self.look(py, SLICE, |subscriber| match subscriber.poll_recv(&mut Context::from_waker(&waker)) {
                Poll::Pending => {
                    is_armed = true;
                    Ok(None)
                }
                Poll::Ready(event) => event.map(Some),
            });
        if !is_armed || found.is_err() {
            // What was cleared may have been for another task, and who has it away tells nobody.
            doorbell.ring();
        }
        let Some(first) = found? else { return Ok(Vec::new()) };
        let mut events = vec![shown(py, first)?];
        events.extend(self.try_recv_many(py, most.saturating_sub(1))?);
        Ok(events)
    }

    /// For an event loop: what made the descriptor readable was seen.
    fn _clear(&self) {
        // A child of fork has the same descriptor as its parent, for which it rings.
        if self.check().is_ok()
            && let Some(doorbell) = &*self.doorbell.lock().unwrap_or_else(PoisonError::into_inner)
        {
            doorbell.clear();
        }
    }
}

impl Drop for ArtifactSubscriber {
    fn drop(&mut self) {
        if self.check().is_ok() {
            Python::try_attach(|py| self.end(py));
        }
    }
}
