//! Joining the bus: the one place that turns global flags into a `Bus`.
//!
//! It also holds what every command works with, [`Context`], and reads names, so that all commands refuse a wrong name
//! before they touch the bus.

use std::time::Duration;

use busway::{Bus, Error, Pattern, Topic};

use crate::command::Global;
use crate::exit::Failure;
use crate::output::Output;
use crate::signals::Signals;

/// How long joining may take where `--timeout` does not say: a holder that hangs is found out well before.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) global: &'a Global,
    pub(crate) output: &'a mut Output,
    pub(crate) signals: &'a Signals,
}

impl Context<'_> {
    /// What `--timeout` says, if it was given.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.global.timeout.map(|span| span.0)
    }

    /// How long to wait for the bus.
    pub(crate) fn join_timeout(&self) -> Duration {
        self.timeout().unwrap_or(JOIN_TIMEOUT)
    }

    /// Joins the domain under the name of the command.
    pub(crate) fn join(&self, name: &str) -> Result<Bus, Failure> {
        join(&self.global.domain, name, self.join_timeout())
    }
}

/// Joins `domain` as `name`.
pub(crate) fn join(domain: &str, name: &str, timeout: Duration) -> Result<Bus, Failure> {
    Ok(Bus::builder().domain(domain).name(name).timeout(timeout).open()?)
}

/// A topic to publish to, or the reason why it is none.
pub(crate) fn topic(text: &str) -> Result<Topic, Failure> {
    Topic::new(text).map_err(|error| Failure::from(Error::from(error)))
}

/// A pattern to subscribe to, or the reason why it is none.
pub(crate) fn pattern(text: &str) -> Result<Pattern, Failure> {
    Pattern::parse(text).map_err(|error| Failure::from(Error::bad_pattern(error)))
}
