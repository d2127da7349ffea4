//! Sending from Python: what a publisher and a pusher have in common.
//!
//! What need not wait is sent at once, with the interpreter held: to let it go and get it back takes longer than to send.
//! What must wait, or is large and cannot change, goes without it.
//!
//! Invariant: a chunk that was loaned is sent or given back, whoever drops the loan and whenever.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busway::{Account, Code, Context, DetachedLoan, Error, InContext, SendError};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::deadline::{Deadline, seconds};
use crate::failure::{OrRaise, inherited, missed};
use crate::loan::Loan;
use crate::payload::Payload;
use crate::turn::{Missed, Taken, Turn};

/// `bytes` of this size and more are copied without the interpreter: that takes some ten microseconds. Of what may change
/// meanwhile, such as a bytearray, any size is copied with it.
const LARGE_BYTES: usize = 256 << 10;
/// So many messages of a list are sent while the interpreter is held: a tenth of a millisecond.
const SOME: usize = 1024;
/// Who sends what need not wait waits so long for its turn where another thread has the port: it has it for a message, and
/// not for as long as it waits for room.
const TURN: Duration = Duration::from_millis(1);
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

/// What a message says beside its payload, as Python has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) traceparent: Option<&'a str>,
    pub(crate) tracestate: Option<&'a str>,
}

impl<'a> Beside<'a> {
    fn is_nothing(&self) -> bool {
        self.id.or(self.traceparent).or(self.tracestate).is_none()
    }

    fn context(&self) -> Result<Context<'a>, Error> {
        let mut context = Context::default();
        if let Some(id) = self.id {
            context = context.with_id(id.parse()?);
        }
        if let Some(trace) = self.traceparent {
            context = context.with_trace(trace.parse()?);
        }
        match self.tracestate {
            Some(state) => Ok(context.with_state(state)?),
            None => Ok(context),
        }
    }
}

/// A port that sends.
#[derive(Debug)]
pub(crate) enum Port {
    Publisher(busway::Publisher),
    Pusher(busway::Pusher),
}

impl Port {
    fn try_send(&mut self, bytes: &[u8]) -> Result<busway::Sent, SendError> {
        match self {
            Self::Publisher(publisher) => publisher.try_send(bytes),
            Self::Pusher(pusher) => pusher.try_send(bytes),
        }
    }

    fn batch(&mut self) -> busway::Batch<'_> {
        match self {
            Self::Publisher(publisher) => publisher.batch(),
            Self::Pusher(pusher) => pusher.batch(),
        }
    }

    fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<busway::Sent, SendError> {
        match (self, deadline.left()) {
            (Self::Publisher(publisher), None) => publisher.send(bytes),
            (Self::Publisher(publisher), Some(left)) => publisher.send_timeout(bytes, left),
            (Self::Pusher(pusher), None) => pusher.send(bytes),
            (Self::Pusher(pusher), Some(left)) => pusher.send_timeout(bytes, left),
        }
    }

    fn in_context<'a>(&'a mut self, context: Context<'a>) -> InContext<'a> {
        match self {
            Self::Publisher(publisher) => publisher.in_context(context),
            Self::Pusher(pusher) => pusher.in_context(context),
        }
    }

    fn try_loan(&mut self, len: usize) -> Result<busway::Loan<'_>, SendError> {
        match self {
            Self::Publisher(publisher) => publisher.try_loan(len),
            Self::Pusher(pusher) => pusher.try_loan(len),
        }
    }

    fn loan(&mut self, len: usize) -> Result<busway::Loan<'_>, SendError> {
        match self {
            Self::Publisher(publisher) => publisher.loan(len),
            Self::Pusher(pusher) => pusher.loan(len),
        }
    }

    fn attach(&mut self, room: DetachedLoan) -> Result<busway::Loan<'_>, DetachedLoan> {
        match self {
            Self::Publisher(publisher) => publisher.attach(room),
            Self::Pusher(pusher) => pusher.attach(room),
        }
    }

    fn flush(&mut self, most: Duration) -> Result<(), SendError> {
        match self {
            Self::Publisher(publisher) => publisher.flush(most),
            Self::Pusher(pusher) => pusher.flush(most),
        }
    }

    fn account(&self) -> Account {
        match self {
            Self::Publisher(publisher) => publisher.account(),
            Self::Pusher(pusher) => pusher.account(),
        }
    }

    /// Who takes from it now: subscribers or pullers.
    fn takers(&self) -> usize {
        match self {
            Self::Publisher(publisher) => publisher.subscribers(),
            Self::Pusher(pusher) => pusher.pullers(),
        }
    }

    fn wait_for_takers(&self, count: usize, most: Duration) -> Result<usize, Error> {
        match self {
            Self::Publisher(publisher) => publisher.wait_for_subscribers(count, most),
            Self::Pusher(pusher) => pusher.wait_for_pullers(count, most),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Publisher(_) => "publisher",
            Self::Pusher(_) => "pusher",
        }
    }

    fn topic(&self) -> &str {
        match self {
            Self::Publisher(publisher) => publisher.topic().as_str(),
            Self::Pusher(pusher) => pusher.topic().as_str(),
        }
    }
}

/// A port that sends, and what its loans share with it.
#[derive(Debug)]
pub(crate) struct Shared {
    turn: Turn<Port>,
    /// Loans that were dropped while another thread had the port.
    dropped: Mutex<Vec<DetachedLoan>>,
    bus: busway::Bus,
    name: &'static str,
    topic: String,
}

impl Shared {
    pub(crate) fn new(port: Port, bus: busway::Bus) -> Arc<Self> {
        let (name, topic) = (port.name(), port.topic().to_owned());
        Arc::new(Self { turn: Turn::new(port), dropped: Mutex::default(), bus, name, topic })
    }

    /// `Err` in a child made by `fork`, before any lock of the parent's is touched.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.bus.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The port, without the interpreter.
    fn take(&self, deadline: Deadline) -> Result<Taken<'_, Port>, Error> {
        self.turn.take(deadline).map_err(|why| missed(why, self.name))
    }

    /// The port, if no other thread has it.
    fn try_take(&self) -> Result<Option<Taken<'_, Port>>, Error> {
        match self.turn.try_take() {
            Ok(taken) => Ok(Some(taken)),
            Err(Missed::Away) => Ok(None),
            Err(why) => Err(missed(why, self.name)),
        }
    }

    /// What a call on the port comes to, made without the interpreter.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Port) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.check().or_raise(py)?;
        py.detach(|| call(&mut *self.take(Deadline::never())?)).or_raise(py)
    }

    /// What the port tells at once: with the interpreter held, so that no other thread finds the port away for being looked at.
    fn look<T: Send>(&self, py: Python<'_>, tell: impl FnOnce(&Port) -> T + Send) -> PyResult<T> {
        self.check().or_raise(py)?;
        if let Some(port) = self.try_take().or_raise(py)? {
            return Ok(tell(&port));
        }
        py.detach(|| self.take(Deadline::never()).map(|port| tell(&port))).or_raise(py)
    }

    /// Sends what was written into a loan; without the interpreter.
    pub(crate) fn send_room(&self, room: DetachedLoan, deadline: Deadline) -> Result<Sent, Error> {
        let mut port = match self.take(deadline) {
            Ok(port) => port,
            Err(error) => {
                self.give_back(room);
                return Err(error);
            }
        };
        let loan = port.attach(room).map_err(|_| missed(Missed::Closed, "loan"))?;
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
            Ok(mut port) => drop(port.attach(room)),
            Err(Missed::Away) => self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(room),
            // Its memory went with the port.
            Err(Missed::Closed) => {}
        }
    }

    fn take_back(&self, port: &mut Port) {
        let dropped = std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        for room in dropped {
            drop(port.attach(room));
        }
    }

    /// Sends at once, or says that it must wait: for who takes, for memory, or for another thread.
    fn send_now(&self, py: Python<'_>, payload: &Payload<'_>) -> PyResult<Option<Sent>> {
        let Some(mut port) = self.try_take().or_raise(py)? else { return Ok(None) };
        let sent = match payload {
            Payload::Bytes(bytes) => port.try_send(bytes),
            Payload::Buffer(buffer) => match port.try_loan(buffer.len_bytes()) {
                Ok(mut loan) => {
                    buffer.copy_to_slice(py, &mut loan)?;
                    loan.try_send()
                }
                Err(error) => Err(error),
            },
        };
        // Put back before anything is raised: that runs Python, which may send.
        drop(port);
        match sent {
            Ok(sent) => Ok(Some(sent.into())),
            Err(SendError::Full(_)) => Ok(None),
            Err(error) => Err(error).or_raise(py),
        }
    }

    /// Sends without the interpreter.
    fn send_waiting(&self, py: Python<'_>, bytes: &[u8], deadline: Deadline) -> PyResult<Sent> {
        py.detach(|| -> Result<Sent, Error> { Ok(self.take(deadline)?.send(bytes, deadline)?.into()) })
            .or_raise(py)
    }

    /// Sends with what it says beside its payload, without the interpreter.
    pub(crate) fn send_beside(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        beside: &Beside<'_>,
    ) -> PyResult<Sent> {
        if beside.is_nothing() {
            return self.send(py, data, timeout);
        }
        let deadline = Deadline::after(py, timeout)?;
        self.check().or_raise(py)?;
        let context = beside.context().or_raise(py)?;
        let bytes = match Payload::of(data)? {
            Payload::Bytes(bytes) => Cow::Borrowed(bytes),
            Payload::Buffer(buffer) => Cow::Owned(buffer.to_vec(py)?),
        };
        py.detach(|| -> Result<Sent, Error> {
            let mut port = self.take(deadline)?;
            let mut port = port.in_context(context);
            Ok(match deadline.left() {
                None => port.send(&bytes),
                Some(left) => port.send_timeout(&bytes, left),
            }?
            .into())
        })
        .or_raise(py)
    }

    /// Sends, waiting where it must.
    pub(crate) fn send(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Sent> {
        let deadline = Deadline::after(py, timeout)?;
        self.check().or_raise(py)?;
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

    /// For an event loop: sends where there is room by now, or says that there is none. It raises where the port has been full for as long as
    /// it waits, which `try_send` cannot tell from a port that is full just now.
    pub(crate) fn send_soon(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Option<Sent>> {
        self.check().or_raise(py)?;
        let payload = Payload::of(data)?;
        let Payload::Bytes(bytes) = payload else {
            return Err(PyTypeError::new_err("what is sent later is bytes"));
        };
        let deadline = Deadline::over();
        let sent = py.detach(|| -> Result<Option<Sent>, Error> {
            let Some(mut port) = self.try_take()? else { return Ok(None) };
            match port.send(bytes, deadline) {
                Ok(sent) => Ok(Some(sent.into())),
                Err(SendError::Timeout(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
        sent.or_raise(py)
    }

    /// Sends, and waits for nothing but a thread that is about to put the port back.
    pub(crate) fn try_send(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        beside: &Beside<'_>,
    ) -> PyResult<Sent> {
        self.check().or_raise(py)?;
        let payload = Payload::of(data)?;
        if !beside.is_nothing() {
            return self.try_send_beside(py, payload, beside);
        }
        if let Some(sent) = self.send_now(py, &payload)? {
            return Ok(sent);
        }
        let bytes = match payload {
            Payload::Bytes(bytes) => Cow::Borrowed(bytes),
            Payload::Buffer(buffer) => Cow::Owned(buffer.to_vec(py)?),
        };
        let sent = match self.try_take().or_raise(py)? {
            // Full: once more for the names of those who are behind. It is put back before anything is raised.
            Some(mut port) => port.try_send(&bytes).map_err(Error::from),
            None => py.detach(|| Ok(self.take(Deadline::within(TURN))?.try_send(&bytes)?)),
        };
        sent.map(Sent::from).or_raise(py)
    }

    /// The same of a message that says something beside its payload.
    fn try_send_beside(&self, py: Python<'_>, payload: Payload<'_>, beside: &Beside<'_>) -> PyResult<Sent> {
        let context = beside.context().or_raise(py)?;
        let bytes = match payload {
            Payload::Bytes(bytes) => Cow::Borrowed(bytes),
            Payload::Buffer(buffer) => Cow::Owned(buffer.to_vec(py)?),
        };
        let sent = py.detach(|| -> Result<busway::Sent, Error> {
            Ok(self.take(Deadline::within(TURN))?.in_context(context).try_send(&bytes)?)
        });
        sent.map(Sent::from).or_raise(py)
    }

    /// Sends all of these, waiting where it must, and returns how many. Who raises says in `sent` how many were sent before.
    pub(crate) fn send_many(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let deadline = Deadline::after(py, timeout)?;
        self.check().or_raise(py)?;
        let all = all_of(messages)?;
        let payloads = payloads_of(&all)?;
        let mut sent = 0;
        self.send_all(py, &payloads, deadline, &mut sent).map_err(|error| told(py, error, sent))?;
        Ok(sent)
    }

    fn send_all(
        &self,
        py: Python<'_>,
        payloads: &[Payload<'_>],
        deadline: Deadline,
        sent: &mut usize,
    ) -> PyResult<()> {
        while let Some(rest) = payloads.get(*sent..).filter(|rest| !rest.is_empty()) {
            let some = rest.get(..SOME).unwrap_or(rest);
            let gone = self.send_some(py, some, sent)?;
            if gone < some.len() {
                match &some[gone] {
                    Payload::Bytes(bytes) => self.send_waiting(py, bytes, deadline)?,
                    Payload::Buffer(buffer) => {
                        let bytes = buffer.to_vec(py)?;
                        self.send_waiting(py, &bytes, deadline)?
                    }
                };
                *sent += 1;
            }
            // Other threads had to wait for the interpreter.
            py.detach(|| {});
            py.check_signals()?;
        }
        Ok(())
    }

    /// Sends those of these for which there is room, and returns how many.
    pub(crate) fn try_send_many(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.check().or_raise(py)?;
        let all = all_of(messages)?;
        let payloads = payloads_of(&all)?;
        let mut sent = 0;
        for some in payloads.chunks(SOME) {
            let gone = self.send_some(py, some, &mut sent).map_err(|error| told(py, error, sent))?;
            if gone < some.len() {
                break;
            }
        }
        Ok(sent)
    }

    /// Sends the first of these, as many as there is room for; the interpreter is held. `sent` grows by as many.
    fn send_some(&self, py: Python<'_>, payloads: &[Payload<'_>], sent: &mut usize) -> PyResult<usize> {
        let Some(mut port) = self.try_take().or_raise(py)? else { return Ok(0) };
        let mut batch = port.batch();
        let mut gone = 0;
        let ended = payloads.iter().try_for_each(|payload| {
            let said = match payload {
                Payload::Bytes(bytes) => batch.try_send(bytes),
                Payload::Buffer(buffer) => batch.try_send(&buffer.to_vec(py).map_err(Unsent::Raised)?),
            };
            gone += usize::from(said.is_ok());
            said.map(drop).map_err(Unsent::Refused)
        });
        drop(batch);
        // Put back before anything is raised: that runs Python, which may send.
        drop(port);
        *sent += gone;
        match ended {
            Ok(()) | Err(Unsent::Refused(SendError::Full(_))) => Ok(gone),
            Err(Unsent::Refused(error)) => Err(error).or_raise(py),
            Err(Unsent::Raised(error)) => Err(error),
        }
    }

    pub(crate) fn send_json(
        &self,
        py: Python<'_>,
        value: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Sent> {
        let text = py.import("busway._codec")?.call_method1("encoded", (value,))?;
        self.send(py, &text, timeout)
    }

    pub(crate) fn loan(self: &Arc<Self>, py: Python<'_>, size: usize) -> PyResult<Loan> {
        self.check().or_raise(py)?;
        let room = py.detach(|| -> Result<DetachedLoan, Error> {
            let mut port = self.take(Deadline::never())?;
            self.take_back(&mut port);
            Ok(port.loan(size)?.detach())
        });
        Ok(Loan::new(Box::new(room.or_raise(py)?), self.clone()))
    }

    /// Who takes from it now.
    pub(crate) fn takers(&self, py: Python<'_>) -> PyResult<usize> {
        self.look(py, Port::takers)
    }

    /// Waits until so many take from it.
    pub(crate) fn wait_for_takers(
        &self,
        py: Python<'_>,
        count: usize,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let deadline = Deadline::after(py, timeout)?;
        loop {
            let waited = self.with(py, |port| Ok(port.wait_for_takers(count, deadline.slice())))?;
            match waited {
                Err(error) if error.code() == Code::TimedOut && !deadline.expired() => py.check_signals()?,
                other => return other.or_raise(py),
            }
        }
    }

    /// Waits until all was taken.
    pub(crate) fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let deadline = Deadline::after(py, timeout)?;
        loop {
            let flushed = self.with(py, |port| Ok(port.flush(deadline.slice())))?;
            match flushed {
                Err(SendError::Timeout(_)) if !deadline.expired() => py.check_signals()?,
                other => return other.or_raise(py),
            }
        }
    }

    pub(crate) fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let account = self.look(py, Port::account)?;
        crate::bus::as_dict(py, &account)
    }

    /// Messages that were sent and are neither taken nor lost.
    pub(crate) fn in_flight(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |port| port.account().in_flight)
    }

    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.check().is_err() {
            return Ok(());
        }
        py.detach(|| self.turn.close(Deadline::never()).map(drop).map_err(|why| missed(why, self.name)))
            .or_raise(py)
    }

    pub(crate) fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.check().or_raise(py)?;
        Ok(self.turn.is_closed())
    }
}

/// Why a message of a list was not sent.
enum Unsent {
    Refused(SendError),
    Raised(PyErr),
}

/// What there is to send, so that nothing of Python's runs while it is sent.
fn all_of<'py>(messages: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    if messages.is_instance_of::<PyBytes>() || messages.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("several messages are a list of them, not one"));
    }
    messages.try_iter()?.collect()
}

fn payloads_of<'py>(all: &'py [Bound<'py, PyAny>]) -> PyResult<Vec<Payload<'py>>> {
    all.iter().map(Payload::of).collect()
}

/// The error says how many messages were sent before it.
fn told(py: Python<'_>, error: PyErr, sent: usize) -> PyErr {
    // What cannot be told is no reason to raise something else.
    let _ = error.value(py).setattr("sent", sent);
    error
}

/// Seconds as a duration without an end where none is given.
pub(crate) fn or_endless(timeout: Option<f64>) -> Result<Duration, Error> {
    Ok(seconds(timeout)?.unwrap_or(ENDLESS))
}
