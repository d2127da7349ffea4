//! Subscribing from Python: take what is there, wait for it, or be told by a descriptor.
//!
//! Who waits has let the interpreter go, and does not have the subscriber either: another thread can ask it what was lost,
//! or close it. An event loop watches `_fileno()`; it arms it when it has found nothing, and is woken once for whatever
//! comes then.
//!
//! Invariant: a message that was taken is returned, or the call raises before it takes one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use busway::{Code, Error, RecvError};
use futures_core::Stream;
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;

use crate::deadline::Deadline;
use crate::doorbell::Doorbell;
use crate::failure::{OrRaise, inherited, missed};
use crate::sample::Sample;
use crate::turn::{Missed, Taken, Turn};

/// A subscriber of one pattern. Made by `Bus.subscriber`; threads may share it, and each message goes to one of them.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.subscriber("news.*") as subscriber:
/// ...     with bus.publisher("news.today") as publisher:
/// ...         sent = publisher.send(b"one"), publisher.send(b"two")
/// ...     bytes(subscriber.recv(timeout=5)), bytes(next(subscriber))
/// (b'one', b'two')
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Subscriber {
    turn: Turn<busway::Subscriber>,
    bus: busway::Bus,
    pattern: String,
    policy: String,
    /// What an event loop watches, if one does.
    doorbell: Mutex<Option<Arc<Doorbell>>>,
    /// What followed the messages of a batch, which were returned first.
    untold: Mutex<Option<Error>>,
}

/// What a look came to.
enum Look {
    Found(busway::Sample),
    /// So much was lost that nothing was found yet.
    Again,
}

impl Subscriber {
    pub(crate) fn new(subscriber: busway::Subscriber, bus: busway::Bus) -> Self {
        let (pattern, policy) = (subscriber.pattern().to_string(), subscriber.policy().to_string());
        Self {
            turn: Turn::new(subscriber),
            bus,
            pattern,
            policy,
            doorbell: Mutex::default(),
            untold: Mutex::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.bus.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    fn take(&self) -> Result<Taken<'_, busway::Subscriber>, Error> {
        self.turn.take(Deadline::never()).map_err(|why| missed(why, "subscriber"))
    }

    /// What a call on the subscriber comes to. It is short: at first it is tried with the interpreter held.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut busway::Subscriber) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.check().or_raise(py)?;
        match self.turn.try_take() {
            Ok(mut subscriber) => call(&mut subscriber),
            Err(Missed::Away) => py.detach(|| call(&mut *self.take()?)),
            Err(why) => Err(missed(why, "subscriber")),
        }
        .or_raise(py)
    }

    /// As `with`, for a call that takes messages: what followed the last batch is told first.
    fn taking<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut busway::Subscriber) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.check().or_raise(py)?;
        let untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner).take();
        untold.map_or(Ok(()), Err).or_raise(py)?;
        self.with(py, call)
    }

    /// Looks, and sleeps if there is nothing; without the interpreter.
    fn look_and_sleep(&self, most: Duration) -> Result<Option<busway::Sample>, Error> {
        let news = {
            let mut subscriber = self.take()?;
            // Spins for about the time of a message that is on its way.
            if let Some(sample) = subscriber.recv_timeout(Duration::ZERO)? {
                return Ok(Some(sample));
            }
            subscriber.news()
        };
        let look = || -> Option<Result<Look, Error>> {
            let mut subscriber = match self.take() {
                Ok(subscriber) => subscriber,
                Err(error) => return Some(Err(error)),
            };
            match subscriber.try_recv() {
                Ok(Some(sample)) => Some(Ok(Look::Found(sample))),
                Ok(None) if subscriber.must_look_again() => Some(Ok(Look::Again)),
                Ok(None) => None,
                Err(error) => Some(Err(error.into())),
            }
        };
        match news.wait(most, look)? {
            Some(Ok(Look::Found(sample))) => Ok(Some(sample)),
            Some(Ok(Look::Again)) | None => Ok(None),
            Some(Err(error)) => Err(error),
        }
    }

    /// The next message, waited for until `deadline`.
    fn wait(&self, py: Python<'_>, deadline: Deadline) -> PyResult<Option<busway::Sample>> {
        if let Some(sample) = self.taking(py, |subscriber| Ok(subscriber.try_recv()?))? {
            return Ok(Some(sample));
        }
        loop {
            let slice = deadline.slice();
            if let Some(sample) = py.detach(|| self.look_and_sleep(slice)).or_raise(py)? {
                return Ok(Some(sample));
            }
            py.check_signals()?;
            if deadline.expired() {
                return Ok(None);
            }
        }
    }

    /// What is there after `first`, in order. What follows it and is no message is told by the next call.
    fn rest(&self, py: Python<'_>, first: busway::Sample, most: usize) -> PyResult<Vec<Sample>> {
        let mut batch = vec![Sample::new(first)];
        let ended = self.with(py, |subscriber| {
            while batch.len() < most {
                match subscriber.try_recv() {
                    Ok(Some(sample)) => batch.push(Sample::new(sample)),
                    Ok(None) => break,
                    Err(error) => return Ok(Some(Error::from(error))),
                }
            }
            Ok(None)
        });
        // One that was closed meanwhile says so by itself.
        if let Ok(Some(error)) = ended {
            *self.untold.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        Ok(batch)
    }

    fn timed_out(&self) -> Error {
        Error::new(Code::TimedOut, "no message came in time")
            .at(format!("subscriber of {}", self.pattern))
            .remedy("wait longer, or see with busway ls who publishes")
    }
}

#[pymethods]
impl Subscriber {
    /// Its pattern.
    #[getter]
    fn pattern(&self) -> &str {
        &self.pattern
    }

    /// What happens when it is slow, as `busway sub --policy` takes it.
    #[getter]
    fn policy(&self) -> &str {
        &self.policy
    }

    /// Waits for a message; raises TimedOut when `timeout` seconds are over before one comes.
    #[pyo3(signature = (timeout = None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Sample> {
        let deadline = Deadline::after(py, timeout)?;
        match self.wait(py, deadline)? {
            Some(sample) => Ok(Sample::new(sample)),
            None => Err(self.timed_out()).or_raise(py),
        }
    }

    /// A message if one is there, or None.
    fn try_recv(&self, py: Python<'_>) -> PyResult<Option<Sample>> {
        Ok(self.taking(py, |subscriber| Ok(subscriber.try_recv()?))?.map(Sample::new))
    }

    /// Waits for a message and returns it with those that are there by then, at most `most`; an empty list when `timeout`
    /// seconds are over before one comes.
    #[pyo3(signature = (most = 256, timeout = None))]
    fn recv_many(&self, py: Python<'_>, most: usize, timeout: Option<f64>) -> PyResult<Vec<Sample>> {
        let deadline = Deadline::after(py, timeout)?;
        if most == 0 {
            return Ok(Vec::new());
        }
        match self.wait(py, deadline)? {
            Some(first) => self.rest(py, first, most),
            None => Ok(Vec::new()),
        }
    }

    /// The messages that are there, at most `most`.
    #[pyo3(signature = (most = 256))]
    fn try_recv_many(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Sample>> {
        match self.taking(py, |subscriber| Ok(if most == 0 { None } else { subscriber.try_recv()? }))? {
            Some(first) => self.rest(py, first, most),
            None => Ok(Vec::new()),
        }
    }

    /// What was missed since this was asked last, oldest first: topic, cause, count, and the range of sequences.
    fn losses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let losses = self.with(py, |subscriber| Ok(subscriber.losses()))?;
        let losses: Vec<serde_json::Value> = losses
            .into_iter()
            .map(|loss| {
                serde_json::json!({
                    "topic": loss.topic.as_str(),
                    "cause": loss.cause.to_string(),
                    "count": loss.count,
                    "source": loss.source.0,
                    "from": loss.from,
                    "to": loss.to,
                    "link": loss.link,
                })
            })
            .collect();
        crate::bus::as_dict(py, &losses)
    }

    /// What became of every message that was sent to this subscriber.
    fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let account = self.with(py, |subscriber| Ok(subscriber.account()))?;
        crate::bus::as_dict(py, &account)
    }

    /// Publishers that it reads now.
    #[getter]
    fn publishers(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |subscriber| Ok(subscriber.publishers()))
    }

    /// Ends the subscription; threads that wait in it return. Samples that were received stay what they are.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.check().is_err() {
            return Ok(());
        }
        let close = || self.turn.close(Deadline::never()).map(drop).map_err(|why| missed(why, "subscriber"));
        py.detach(close).or_raise(py)?;
        if let Some(doorbell) = &*self.doorbell.lock().unwrap_or_else(PoisonError::into_inner) {
            doorbell.ring();
        }
        Ok(())
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.check().or_raise(py)?;
        Ok(self.turn.is_closed())
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// The next message; the end when the subscriber or its bus is closed.
    fn __next__(&self, py: Python<'_>) -> PyResult<Sample> {
        match self.wait(py, Deadline::never()) {
            Ok(Some(sample)) => Ok(Sample::new(sample)),
            Ok(None) => Err(PyStopIteration::new_err(())),
            Err(error) if is_closed(py, &error) => Err(PyStopIteration::new_err(())),
            Err(error) => Err(error),
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<busway.Subscriber of {}>", self.pattern)
    }

    /// For an event loop: the descriptor that becomes readable when something comes after `_arm()` found nothing.
    fn _fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.check().or_raise(py)?;
        let mut doorbell = self.doorbell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(doorbell) = &*doorbell {
            return Ok(doorbell.number());
        }
        let new = Doorbell::new().or_raise(py)?;
        Ok(doorbell.insert(Arc::new(new)).number())
    }

    /// For an event loop: the messages that are there, at most `most`; where there is none, the descriptor tells of the next.
    #[pyo3(signature = (most = 1))]
    fn _arm(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Sample>> {
        self._fileno(py)?;
        let doorbell = self.doorbell.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(doorbell) = doorbell else { return Ok(Vec::new()) };
        doorbell.clear();
        let waker = Waker::from(Arc::clone(&doorbell));
        let polled = self.taking(py, |subscriber| {
            let polled = Pin::new(&mut subscriber.stream()).poll_next(&mut Context::from_waker(&waker));
            match polled {
                Poll::Pending => Ok(None),
                Poll::Ready(Some(taken)) => Ok(Some(taken?)),
                Poll::Ready(None) => Err(RecvError::Closed.into()),
            }
        });
        if !matches!(polled, Ok(None)) {
            // What was cleared may have been for another task, which sleeps still.
            doorbell.ring();
        }
        polled?.map_or(Ok(Vec::new()), |first| self.rest(py, first, most))
    }

    /// For an event loop: what made the descriptor readable was seen.
    fn _clear(&self) {
        // A child of fork has the same descriptor as its parent, for which it rings.
        if self.check().is_err() {
            return;
        }
        if let Some(doorbell) = &*self.doorbell.lock().unwrap_or_else(PoisonError::into_inner) {
            doorbell.clear();
        }
    }
}

/// Whether it says that the subscriber or its bus is closed.
fn is_closed(py: Python<'_>, error: &PyErr) -> bool {
    let code = error.value(py).getattr("code").and_then(|code| code.extract::<String>());
    code.is_ok_and(|code| code == Code::Closed.to_string())
}
