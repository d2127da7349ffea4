//! What ends, or works, apart from the interpreter: its end may ask a node of another process, and its work may take long.
//!
//! Invariant: nobody holds the interpreter while one of these is dropped or works; whoever waits for the work sees signals.

use std::ops::Deref;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};

use busway::{Code, Error};
use pyo3::prelude::*;

use crate::deadline::SLICE;
use crate::failure::OrRaise;

/// It, dropped without the interpreter.
#[derive(Debug)]
pub(crate) struct Apart<T: Send>(Option<T>);

impl<T: Send> Apart<T> {
    pub(crate) fn new(item: T) -> Self {
        Self(Some(item))
    }
}

impl<T: Send> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<T: Send> Drop for Apart<T> {
    fn drop(&mut self) {
        let item = self.0.take();
        // At the end of the interpreter there is nobody to be let go.
        Python::try_attach(|py| py.detach(|| drop(item)));
    }
}

/// What `work` comes to in a thread of its own, while this one sees signals. Where it is interrupted `unwanted` is given what comes.
pub(crate) fn apart<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> T + Send + 'static,
    unwanted: impl FnOnce(T) + Send + 'static,
) -> PyResult<T> {
    // Without room between them: what was not taken when this one leaves is known to be so.
    let (done, comes) = sync_channel(0);
    let thread = std::thread::Builder::new().name("bw-python".to_owned()).spawn(move || {
        if let Err(nobody) = done.send(work()) {
            unwanted(nobody.0);
        }
    });
    let refused = |error| {
        Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
            .at("bw-python")
            .remedy("raise the limit on processes: ulimit -u")
    };
    drop(thread.map_err(refused).or_raise(py)?);
    let comes = Mutex::new(comes);
    loop {
        let came = py.detach(|| comes.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(SLICE));
        match came {
            Ok(item) => return Ok(item),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(Code::Closed, "the thread that did it has ended")).or_raise(py);
            }
        }
    }
}
