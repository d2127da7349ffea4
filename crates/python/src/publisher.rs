//! Publishing from Python.
//!
//! What need not wait is sent at once, with the interpreter held: to let it go and get it back takes longer than to send.
//! What must wait, or is large and cannot change, goes without it.
//!
//! Invariant: a chunk that was loaned is sent or given back, whoever drops the loan and whenever.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busway::{DetachedLoan, Error, SendError};
use pyo3::prelude::*;

use crate::deadline::{Deadline, seconds};
use crate::failure::{OrRaise, inherited, missed};
use crate::loan::Loan;
use crate::payload::Payload;
use crate::turn::{Missed, Taken, Turn};

/// `bytes` of this size and more are copied without the interpreter: that takes some ten microseconds. Of what may change
/// meanwhile, such as a bytearray, any size is copied with it.
const LARGE_BYTES: usize = 256 << 10;
/// As long as the clock can tell: no limit.
const ENDLESS: Duration = Duration::MAX;

/// What happened to a message that was sent.
#[pyclass(frozen, eq, get_all, module = "busway")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Its number: from 1, without gaps for each publisher.
    sequence: u64,
    /// Nanoseconds that the call waited for subscribers.
    waited_ns: u64,
    /// Subscribers that were waited for too long: they are waited for no more until they have caught up.
    stalled: u32,
    /// Subscribers that were evicted, because they asked for that.
    evicted: u32,
}

impl From<busway::Sent> for Sent {
    fn from(sent: busway::Sent) -> Self {
        let busway::Sent { sequence, waited_ns, stalled, evicted, .. } = sent;
        Self { sequence, waited_ns, stalled, evicted }
    }
}

#[pymethods]
impl Sent {
    fn __repr__(&self) -> String {
        let Self { sequence, waited_ns, stalled, evicted } = self;
        format!("Sent(sequence={sequence}, waited_ns={waited_ns}, stalled={stalled}, evicted={evicted})")
    }
}

/// A publisher and what its loans share with it.
#[derive(Debug)]
pub(crate) struct Shared {
    turn: Turn<busway::Publisher>,
    /// Loans that were dropped while another thread had the publisher.
    dropped: Mutex<Vec<DetachedLoan>>,
    bus: busway::Bus,
}

impl Shared {
    /// `Err` in a child made by `fork`, before any lock of the parent's is touched.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.bus.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    /// The publisher, without the interpreter.
    fn take(&self, deadline: Deadline) -> Result<Taken<'_, busway::Publisher>, Error> {
        self.turn.take(deadline).map_err(|why| missed(why, "publisher"))
    }

    /// The publisher, if no other thread has it.
    fn try_take(&self) -> Result<Option<Taken<'_, busway::Publisher>>, Error> {
        match self.turn.try_take() {
            Ok(taken) => Ok(Some(taken)),
            Err(Missed::Away) => Ok(None),
            Err(why) => Err(missed(why, "publisher")),
        }
    }

    /// Sends what was written into a loan; without the interpreter.
    pub(crate) fn send_room(&self, room: DetachedLoan, deadline: Deadline) -> Result<Sent, Error> {
        let mut publisher = match self.take(deadline) {
            Ok(publisher) => publisher,
            Err(error) => {
                self.give_back(room);
                return Err(error);
            }
        };
        let loan = publisher.attach(room).map_err(|_| missed(Missed::Closed, "loan"))?;
        let sent = match deadline.left() {
            None => loan.send(),
            Some(left) => loan.send_timeout(left),
        };
        Ok(sent?.into())
    }

    /// Gives back what was not sent, at the latest with the next loan.
    pub(crate) fn give_back(&self, room: DetachedLoan) {
        if self.bus.is_inherited() {
            return;
        }
        match self.turn.try_take() {
            Ok(mut publisher) => drop(publisher.attach(room)),
            Err(Missed::Away) => self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(room),
            // Its memory went with the publisher.
            Err(Missed::Closed) => {}
        }
    }

    fn take_back(&self, publisher: &mut busway::Publisher) {
        let dropped = std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        for room in dropped {
            drop(publisher.attach(room));
        }
    }
}

/// A publisher of one topic. Made by `Bus.publisher`; threads may share it, and take turns.
///
/// ```text
/// >>> import busway
/// >>> with busway.Bus("example") as bus, bus.publisher("news", history=8) as publisher:
/// ...     publisher.send(b"one").sequence, publisher.send_json([2]).sequence
/// (1, 2)
///
/// ```
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    topic: String,
}

impl Publisher {
    pub(crate) fn new(publisher: busway::Publisher, bus: busway::Bus) -> Self {
        let topic = publisher.topic().as_str().to_owned();
        let shared = Shared { turn: Turn::new(publisher), dropped: Mutex::default(), bus };
        Self { shared: Arc::new(shared), topic }
    }

    /// Sends at once, or says that it must wait: for a subscriber, for memory, or for another thread.
    fn send_now(&self, py: Python<'_>, payload: &Payload<'_>) -> PyResult<Option<Sent>> {
        let Some(mut publisher) = self.shared.try_take().or_raise(py)? else { return Ok(None) };
        let sent = match payload {
            Payload::Bytes(bytes) => publisher.try_send(bytes),
            Payload::Buffer(buffer) => match publisher.try_loan(buffer.len_bytes()) {
                Ok(mut loan) => {
                    buffer.copy_to_slice(py, &mut loan)?;
                    loan.try_send()
                }
                Err(error) => Err(error),
            },
        };
        // Put back before anything is raised: that runs Python, which may send.
        drop(publisher);
        match sent {
            Ok(sent) => Ok(Some(sent.into())),
            Err(SendError::Full(_)) => Ok(None),
            Err(error) => Err(error).or_raise(py),
        }
    }

    /// Sends without the interpreter.
    fn send_waiting(&self, py: Python<'_>, bytes: &[u8], deadline: Deadline) -> PyResult<Sent> {
        let shared = &self.shared;
        let send = || -> Result<Sent, Error> {
            let mut publisher = shared.take(deadline)?;
            let sent = match deadline.left() {
                None => publisher.send(bytes),
                Some(left) => publisher.send_timeout(bytes, left),
            };
            Ok(sent?.into())
        };
        py.detach(send).or_raise(py)
    }
}

#[pymethods]
impl Publisher {
    /// Its topic.
    #[getter]
    fn topic(&self) -> &str {
        &self.topic
    }

    /// Sends bytes, or whatever shows its memory (bytearray, memoryview, an array), waiting for subscribers that ask for it.
    /// Raises TimedOut when `timeout` seconds are over before.
    #[pyo3(signature = (data, timeout = None))]
    fn send(&self, py: Python<'_>, data: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<Sent> {
        let deadline = Deadline::after(py, timeout)?;
        self.shared.check().or_raise(py)?;
        let payload = Payload::of(data)?;
        let waits = payload.len() >= LARGE_BYTES && matches!(payload, Payload::Bytes(_));
        if !waits && let Some(sent) = self.send_now(py, &payload)? {
            return Ok(sent);
        }
        match payload {
            Payload::Bytes(bytes) => self.send_waiting(py, bytes, deadline),
            Payload::Buffer(buffer) => {
                let bytes = buffer.to_vec(py)?;
                self.send_waiting(py, &bytes, deadline)
            }
        }
    }

    /// Sends without waiting; raises Full where a subscriber would have to be waited for.
    fn try_send(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Sent> {
        self.shared.check().or_raise(py)?;
        let payload = Payload::of(data)?;
        if let Some(sent) = self.send_now(py, &payload)? {
            return Ok(sent);
        }
        let mut publisher = match self.shared.try_take().or_raise(py)? {
            Some(publisher) => publisher,
            None => return Err(missed(Missed::Away, "publisher")).or_raise(py),
        };
        // Full: once more for the names of those who are behind.
        let sent = match payload {
            Payload::Bytes(bytes) => publisher.try_send(bytes),
            Payload::Buffer(buffer) => publisher.try_send(&buffer.to_vec(py)?),
        };
        drop(publisher);
        sent.map(Sent::from).or_raise(py)
    }

    /// Sends a value as JSON, as `json.dumps` writes it.
    #[pyo3(signature = (value, timeout = None))]
    fn send_json(&self, py: Python<'_>, value: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<Sent> {
        let text = py.import("json")?.call_method1("dumps", (value,))?.call_method0("encode")?;
        self.send(py, &text, timeout)
    }

    /// Room for a message of `size` bytes in the memory where subscribers will read it: write it, then `send()` it.
    fn loan(&self, py: Python<'_>, size: usize) -> PyResult<Loan> {
        self.shared.check().or_raise(py)?;
        let shared = &self.shared;
        let room = py.detach(|| -> Result<DetachedLoan, Error> {
            let mut publisher = shared.take(Deadline::never())?;
            shared.take_back(&mut publisher);
            Ok(publisher.loan(size)?.detach())
        });
        Ok(Loan::new(Box::new(room.or_raise(py)?), self.shared.clone()))
    }

    /// Subscribers that are attached now.
    #[getter]
    fn subscribers(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |publisher| Ok(publisher.subscribers()))
    }

    /// Waits until `count` subscribers at least are attached, and returns how many are; raises TimedOut.
    #[pyo3(signature = (count = 1, timeout = None))]
    fn wait_for_subscribers(&self, py: Python<'_>, count: usize, timeout: Option<f64>) -> PyResult<usize> {
        let deadline = Deadline::after(py, timeout)?;
        loop {
            let waited =
                self.with(py, |publisher| Ok(publisher.wait_for_subscribers(count, deadline.slice())))?;
            match waited {
                Err(error) if error.code() == busway::Code::TimedOut && !deadline.expired() => {
                    py.check_signals()?
                }
                other => return other.or_raise(py),
            }
        }
    }

    /// Waits until every subscriber that may be waited for has passed the last message; raises TimedOut with those who
    /// have not.
    #[pyo3(signature = (timeout = 5.0))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let deadline = Deadline::after(py, timeout)?;
        loop {
            let flushed = self.with(py, |publisher| Ok(publisher.flush(deadline.slice())))?;
            match flushed {
                Err(SendError::Timeout(_)) if !deadline.expired() => py.check_signals()?,
                other => return other.or_raise(py),
            }
        }
    }

    /// What became of every message: sent, delivered, dropped by cause, in flight.
    fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let account = self.with(py, |publisher| Ok(publisher.account()))?;
        crate::bus::as_dict(py, &account)
    }

    /// Withdraws the publisher. What was sent stays readable for those who were subscribed, while the bus is open.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.shared.check().is_err() {
            return Ok(());
        }
        let shared = &self.shared;
        py.detach(|| shared.turn.close(Deadline::never()).map(drop).map_err(|why| missed(why, "publisher")))
            .or_raise(py)
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.shared.check().or_raise(py)?;
        Ok(self.shared.turn.is_closed())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<busway.Publisher of {}>", self.topic)
    }
}

impl Publisher {
    /// What a call on the publisher comes to, made without the interpreter.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut busway::Publisher) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.shared.check().or_raise(py)?;
        let shared = &self.shared;
        py.detach(|| call(&mut *shared.take(Deadline::never())?)).or_raise(py)
    }
}

/// Seconds as a duration without an end where none is given.
pub(crate) fn or_endless(timeout: Option<f64>) -> Result<Duration, Error> {
    Ok(seconds(timeout)?.unwrap_or(ENDLESS))
}
