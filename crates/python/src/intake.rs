//! What a subscriber, a puller and a responder have in common: take what is there, wait for it, or be told by a descriptor.
//!
//! Who waits has let the interpreter go, and does not have the port either: another thread can ask it what was lost, or close
//! it. An event loop watches a descriptor; it arms it when it has found nothing, and is woken once for whatever comes then.
//!
//! It does not know what is taken.
//!
//! Invariant: what was taken is returned, or the call raises before it takes it.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use busway::{Code, Error, News, RecvError};
use pyo3::prelude::*;

use crate::deadline::Deadline;
use crate::doorbell::Doorbell;
use crate::failure::{OrRaise, inherited, missed};
use crate::turn::{Missed, Taken, Turn};

/// A port that takes.
pub(crate) trait Port: Send + 'static {
    /// What it takes.
    type Item: Send;
    /// Its name in errors.
    const NAME: &'static str;
    /// What is said when nothing came in time, and what to try.
    const NOTHING: (&'static str, &'static str);

    fn try_recv(&mut self) -> Result<Option<Self::Item>, RecvError>;
    /// Spins for about the time of a message that is on its way.
    fn spin(&mut self) -> Result<Option<Self::Item>, RecvError>;
    /// As `try_recv`, for who sleeps if there is nothing.
    fn look(&mut self) -> Result<Option<Self::Item>, RecvError>;
    fn must_look_again(&self) -> bool;
    fn news(&self) -> News;
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Self::Item, RecvError>>;

    /// Who is not taken from though it matches, and why: told where nothing came in time.
    fn unmet(&self) -> Option<String> {
        None
    }
}

/// A port that several threads or an event loop take from.
pub(crate) struct Intake<P: Port> {
    turn: Turn<P>,
    bus: busway::Bus,
    /// Its pattern.
    pattern: String,
    /// What an event loop watches, if one does.
    doorbell: Mutex<Option<Arc<Doorbell>>>,
    /// What followed the items of a batch, which were returned first.
    untold: Mutex<Option<Error>>,
}

/// What a look came to.
enum Look<T> {
    Found(T),
    /// It came to its end before everything was looked at, and nothing was found yet.
    Again,
}

impl<P: Port> Intake<P> {
    pub(crate) fn new(port: P, bus: busway::Bus, pattern: String) -> Self {
        let (doorbell, untold) = (Mutex::default(), Mutex::default());
        Self { turn: Turn::new(port), bus, pattern, doorbell, untold }
    }

    pub(crate) fn pattern(&self) -> &str {
        &self.pattern
    }

    fn check(&self) -> Result<(), Error> {
        if self.bus.is_inherited() { Err(inherited()) } else { Ok(()) }
    }

    fn take(&self) -> Result<Taken<'_, P>, Error> {
        self.turn.take(Deadline::never()).map_err(|why| missed(why, P::NAME))
    }

    /// What a call on the port comes to. It is short: at first it is tried with the interpreter held.
    pub(crate) fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut P) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.check().or_raise(py)?;
        match self.turn.try_take() {
            Ok(mut port) => call(&mut port),
            Err(Missed::Away) => py.detach(|| call(&mut *self.take()?)),
            Err(why) => Err(missed(why, P::NAME)),
        }
        .or_raise(py)
    }

    /// As `with`, for a call that takes: what followed the last batch is told first.
    fn taking<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut P) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.check().or_raise(py)?;
        let untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner).take();
        untold.map_or(Ok(()), Err).or_raise(py)?;
        self.with(py, call)
    }

    /// Looks, and sleeps if there is nothing; without the interpreter.
    fn look_and_sleep(&self, most: Duration) -> Result<Option<P::Item>, Error> {
        let news = {
            let mut port = self.take()?;
            if let Some(item) = port.spin()? {
                return Ok(Some(item));
            }
            port.news()
        };
        let look = || -> Option<Result<Look<P::Item>, Error>> {
            let mut port = match self.take() {
                Ok(port) => port,
                Err(error) => return Some(Err(error)),
            };
            match port.look() {
                Ok(Some(item)) => Some(Ok(Look::Found(item))),
                Ok(None) if port.must_look_again() => Some(Ok(Look::Again)),
                Ok(None) => None,
                Err(error) => Some(Err(error.into())),
            }
        };
        match news.wait(most, look)? {
            Some(Ok(Look::Found(item))) => Ok(Some(item)),
            Some(Ok(Look::Again)) | None => Ok(None),
            Some(Err(error)) => Err(error),
        }
    }

    /// The next, waited for until `deadline`.
    pub(crate) fn wait(&self, py: Python<'_>, deadline: Deadline) -> PyResult<Option<P::Item>> {
        if let Some(item) = self.try_recv(py)? {
            return Ok(Some(item));
        }
        loop {
            let slice = deadline.slice();
            if let Some(item) = py.detach(|| self.look_and_sleep(slice)).or_raise(py)? {
                return Ok(Some(item));
            }
            py.check_signals()?;
            if deadline.expired() {
                // A last look, which says as well that nobody waits any more.
                return self.try_recv(py);
            }
        }
    }

    /// The next; raises TimedOut.
    pub(crate) fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<P::Item> {
        let deadline = Deadline::after(py, timeout)?;
        match self.wait(py, deadline)? {
            Some(item) => Ok(item),
            None => {
                let (cause, remedy) = P::NOTHING;
                let place = format!("{} of {}", P::NAME, self.pattern);
                let cause = match self.with(py, |port| Ok(port.unmet()))? {
                    Some(unmet) => format!("{cause}, and {unmet}"),
                    None => cause.to_owned(),
                };
                Err(Error::new(Code::TimedOut, cause).at(place).remedy(remedy)).or_raise(py)
            }
        }
    }

    /// One, if it is there.
    pub(crate) fn try_recv(&self, py: Python<'_>) -> PyResult<Option<P::Item>> {
        self.taking(py, |port| Ok(port.try_recv()?))
    }

    /// What is there by the time that something is.
    pub(crate) fn recv_many(
        &self,
        py: Python<'_>,
        most: usize,
        timeout: Option<f64>,
    ) -> PyResult<Vec<P::Item>> {
        let deadline = Deadline::after(py, timeout)?;
        if most == 0 {
            return Ok(Vec::new());
        }
        match self.wait(py, deadline)? {
            Some(first) => self.rest(py, first, most),
            None => Ok(Vec::new()),
        }
    }

    /// What is there.
    pub(crate) fn try_recv_many(&self, py: Python<'_>, most: usize) -> PyResult<Vec<P::Item>> {
        match self.taking(py, |port| Ok(if most == 0 { None } else { port.try_recv()? }))? {
            Some(first) => self.rest(py, first, most),
            None => Ok(Vec::new()),
        }
    }

    /// Gives what is there to `each`, in order and at most `most`, with the port taken: it must not touch Python.
    pub(crate) fn try_each(
        &self,
        py: Python<'_>,
        most: usize,
        mut each: impl FnMut(P::Item) + Send,
    ) -> PyResult<()> {
        let mut ended = None;
        self.taking(py, |port| {
            for count in 0..most {
                match port.try_recv() {
                    Ok(Some(item)) => each(item),
                    Ok(None) => break,
                    Err(error) if count == 0 => return Err(error.into()),
                    Err(error) => {
                        ended = Some(Error::from(error));
                        break;
                    }
                }
            }
            Ok(())
        })?;
        if ended.is_some() {
            *self.untold.lock().unwrap_or_else(PoisonError::into_inner) = ended;
        }
        Ok(())
    }

    /// What is there after `first`, in order. What follows it and is nothing to take is told by the next call.
    fn rest(&self, py: Python<'_>, first: P::Item, most: usize) -> PyResult<Vec<P::Item>> {
        let mut batch = vec![first];
        let ended = self.with(py, |port| {
            while batch.len() < most {
                match port.try_recv() {
                    Ok(Some(item)) => batch.push(item),
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

    /// The next; `None` when the port or its bus is closed.
    pub(crate) fn next(&self, py: Python<'_>) -> PyResult<Option<P::Item>> {
        match self.wait(py, Deadline::never()) {
            Err(error) if is_closed(py, &error) => Ok(None),
            other => other,
        }
    }

    /// Closes it; threads that wait in it return.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.check().is_err() {
            return Ok(());
        }
        let close = || self.turn.close(Deadline::never()).map(drop).map_err(|why| missed(why, P::NAME));
        py.detach(close).or_raise(py)?;
        if let Some(doorbell) = &*self.doorbell.lock().unwrap_or_else(PoisonError::into_inner) {
            doorbell.ring();
        }
        Ok(())
    }

    pub(crate) fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.check().or_raise(py)?;
        Ok(self.turn.is_closed())
    }

    /// The descriptor that becomes readable when something comes after `arm` found nothing.
    pub(crate) fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.check().or_raise(py)?;
        let mut doorbell = self.doorbell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(doorbell) = &*doorbell {
            return Ok(doorbell.number());
        }
        let new = Doorbell::new().or_raise(py)?;
        Ok(doorbell.insert(Arc::new(new)).number())
    }

    /// What is there, at most `most`; where there is nothing, the descriptor tells of the next.
    pub(crate) fn arm(&self, py: Python<'_>, most: usize) -> PyResult<Vec<P::Item>> {
        self.fileno(py)?;
        let doorbell = self.doorbell.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(doorbell) = doorbell else { return Ok(Vec::new()) };
        doorbell.clear();
        let waker = Waker::from(Arc::clone(&doorbell));
        let polled = self.taking(py, |port| match port.poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => Ok(None),
            Poll::Ready(taken) => Ok(Some(taken?)),
        });
        if !matches!(polled, Ok(None)) {
            // What was cleared may have been for another task, which sleeps still.
            doorbell.ring();
        }
        polled?.map_or(Ok(Vec::new()), |first| self.rest(py, first, most))
    }

    /// What made the descriptor readable was seen.
    pub(crate) fn clear(&self) {
        // A child of fork has the same descriptor as its parent, for which it rings.
        if self.check().is_err() {
            return;
        }
        if let Some(doorbell) = &*self.doorbell.lock().unwrap_or_else(PoisonError::into_inner) {
            doorbell.clear();
        }
    }
}

impl<P: Port> Drop for Intake<P> {
    fn drop(&mut self) {
        // To go may take a moment, as for a responder whose first reply is on its way.
        if self.check().is_ok() {
            Python::try_attach(|py| py.detach(|| self.turn.close(Deadline::never()).map(drop)));
        }
    }
}

/// Whether it says that the port or its bus is closed.
pub(crate) fn is_closed(py: Python<'_>, error: &PyErr) -> bool {
    let code = error.value(py).getattr("code").and_then(|code| code.extract::<String>());
    code.is_ok_and(|code| code == Code::Closed.to_string())
}

/// A list for Python.
pub(crate) fn all<T, S>(
    py: Python<'_>,
    items: Vec<T>,
    show: impl Fn(Python<'_>, T) -> PyResult<Py<S>>,
) -> PyResult<Vec<Py<S>>> {
    items.into_iter().map(|item| show(py, item)).collect()
}
