//! How long a call of Python's may take.
//!
//! Invariant: a time that is no number is refused; one that is too large for the clock is no limit.

use std::time::Duration;

use busway::{Code, Error};
use pyo3::prelude::*;
use rustix::time::{ClockId, clock_gettime};

use crate::failure::OrRaise;

/// Nobody sleeps longer in one piece: an interrupt, and a port that is closed by another thread, are seen then.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// A moment of the monotonic clock, or never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Duration>);

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Deadline {
    /// `timeout` seconds from now; `None`: never. A negative time is over at once, as elsewhere in Python.
    pub(crate) fn after(py: Python<'_>, timeout: Option<f64>) -> PyResult<Self> {
        let Some(timeout) = seconds(timeout).or_raise(py)? else { return Ok(Self(None)) };
        Ok(Self(now().checked_add(timeout)))
    }

    /// A moment that is over.
    pub(crate) fn over() -> Self {
        Self(Some(Duration::ZERO))
    }

    /// So long from now.
    pub(crate) fn within(time: Duration) -> Self {
        Self(now().checked_add(time))
    }

    /// No limit.
    pub(crate) fn never() -> Self {
        Self(None)
    }

    /// Time that is left; `None`: endless.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_sub(now()))
    }

    /// How long to sleep now.
    pub(crate) fn slice(self) -> Duration {
        self.left().map_or(SLICE, |left| left.min(SLICE))
    }

    pub(crate) fn expired(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// What a Python caller says, as a time; `None`: endless.
pub(crate) fn seconds(timeout: Option<f64>) -> Result<Option<Duration>, Error> {
    match timeout {
        None => Ok(None),
        Some(timeout) if timeout.is_nan() => Err(Error::new(Code::BadSetting, "a time that is no number")
            .at("timeout")
            .remedy("give seconds, or None to wait without end")),
        Some(timeout) => Ok(Duration::try_from_secs_f64(timeout.max(0.0)).ok()),
    }
}
