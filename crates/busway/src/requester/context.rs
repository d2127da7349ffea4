//! Asking with a context: an id, a trace, or both.
//!
//! It is the requester with something beside each payload, and decides nothing.
//!
//! Invariant: what stands beside a request says what it was given, and nothing else.

use std::time::Duration;

use busway_wire::Context;

use super::{Pending, Reply, RequestError, Requester};
use crate::publisher::Beside;

/// A requester whose next requests bear a context; so do their replies, as far as its trace goes. Made by [`Requester::in_context`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// use busway::Context;
/// let bus = busway::Bus::open("example-of-a-request-in-a-context")?;
/// let mut responder = bus.responder("double").open()?;
/// let server = std::thread::spawn(move || {
///     let request = responder.recv()?;
///     let trace = request.trace();
///     request.reply(b"34")?;
///     Ok::<_, busway::Error>(trace)
/// });
/// let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// let requester = bus.requester("double").open()?;
/// let asking = requester.in_context(Context::default().with_trace(trace));
/// let reply = asking.request(b"17", Duration::from_secs(5))?;
/// assert_eq!(reply.trace(), Some(trace));
/// assert_eq!(server.join().expect("it does not panic")?, Some(trace));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "it asks what it is given"]
pub struct RequesterInContext<'a> {
    requester: &'a Requester,
    beside: Beside<'a>,
}

impl RequesterInContext<'_> {
    /// As [`Requester::request`].
    ///
    /// # Errors
    /// As [`Requester::request`].
    pub fn request(&self, payload: &[u8], timeout: Duration) -> Result<Reply, RequestError> {
        self.send(payload, timeout)?.recv()?.ok_or(RequestError::Unanswered)
    }

    /// As [`Requester::send`].
    ///
    /// # Errors
    /// As [`Requester::send`].
    pub fn send(&self, payload: &[u8], timeout: Duration) -> Result<Pending, RequestError> {
        self.requester.send_beside(&self.beside, payload, timeout)
    }

    /// As [`Requester::send_within`].
    ///
    /// # Errors
    /// As [`Requester::send_within`].
    pub fn send_within(
        &self,
        payload: &[u8],
        timeout: Duration,
        wait: Duration,
    ) -> Result<Option<Pending>, RequestError> {
        self.requester.send_beside_within(&self.beside, payload, timeout, wait)
    }
}

impl Requester {
    /// What is asked through what this returns bears this context: an id, a trace, or both.
    pub fn in_context<'a>(&'a self, context: Context<'a>) -> RequesterInContext<'a> {
        RequesterInContext { requester: self, beside: Beside::Context(context) }
    }
}
