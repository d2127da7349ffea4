//! The breaker of a requester: whether it asks at all.
//!
//! What it guards is the topic, through this requester and its clones. A requester cannot choose who answers: whoever is ready has the request. So a breaker for each
//! responder could keep no request from a bad one; a responder that fails has a breaker of its own (`busway::service`), and while that is open it takes none.
//!
//! It waits for nothing. It reads the clock only where there is a breaker.
//!
//! Invariant: what it let through is settled or given back once, by the end of the request.

use busway_protocol::{Breaker, BreakerState, Ended, Pass};

use super::inbox::Inbox;
use super::outcome::RequestError;
use super::{Requester, Shared};
use crate::ports::lock;
use crate::service::now;

/// What stands before the requests.
#[derive(Debug, Default)]
pub(super) struct Guard {
    breaker: Option<Breaker>,
}

/// What an end says of who answers; `None`: nothing.
fn ended(end: &Result<(), RequestError>) -> Option<Ended> {
    match end {
        // It was answered, and the answer was lost here.
        Ok(()) | Err(RequestError::ReplyLost) => Some(Ended::Well),
        Err(
            RequestError::NoResponders
            | RequestError::ResponderDied
            | RequestError::TimedOut
            | RequestError::Unanswered
            | RequestError::Failed(_),
        ) => Some(Ended::Badly),
        Err(
            RequestError::TooMany
            | RequestError::TooFarAhead
            | RequestError::Open(_)
            | RequestError::Send(_)
            | RequestError::Receive(_),
        ) => None,
    }
}

impl Guard {
    pub(super) fn new(breaker: Option<Breaker>) -> Self {
        Self { breaker }
    }

    /// Leave to ask.
    fn admit(&mut self) -> Result<Option<Pass>, RequestError> {
        let Some(breaker) = &mut self.breaker else { return Ok(None) };
        breaker.admit(now()).map(Some).map_err(|refused| RequestError::Open(refused.until))
    }

    /// This leave, or another where something was decided since.
    pub(super) fn renew(&mut self, pass: Option<Pass>) -> Result<Option<Pass>, RequestError> {
        let holds = |pass: &Pass| self.breaker.as_ref().is_some_and(|breaker| breaker.holds(pass));
        match pass.filter(holds) {
            Some(pass) => Ok(Some(pass)),
            None => self.admit(),
        }
    }

    /// How the request ended, or that nothing came of it that says anything.
    pub(super) fn settle(&mut self, pass: Option<Pass>, end: Option<&Result<(), RequestError>>) {
        let Some((breaker, pass)) = self.breaker.as_mut().zip(pass) else { return };
        match end.and_then(ended) {
            Some(ended) => breaker.settle(now(), pass, ended),
            None => breaker.forgo(pass),
        }
    }
}

impl Inbox {
    /// Asks once more for leave for a request that has waited.
    pub(super) fn renew(&mut self, correlation: u64) -> Result<(), RequestError> {
        let Some(asked) = self.asked.get_mut(&correlation) else { return Ok(()) };
        asked.pass = self.guard.renew(asked.pass.take())?;
        Ok(())
    }
}

impl Shared {
    /// Leave to ask, where there is a breaker.
    pub(super) fn admit(&self) -> Result<Option<Pass>, RequestError> {
        if self.guarded { lock(&self.inbox).guard.admit() } else { Ok(None) }
    }

    /// A request ended before it was among those under way.
    pub(super) fn give_up(&self, pass: Option<Pass>, end: Option<&RequestError>) {
        if pass.is_some() {
            lock(&self.inbox).guard.settle(pass, end.map(|error| Err(error.clone())).as_ref());
        }
    }
}

impl Requester {
    /// The state of its breaker; `None` where there is none, and in a child made by `fork`.
    #[must_use]
    pub fn breaker(&self) -> Option<BreakerState> {
        if self.shared.core.own.forked() {
            return None;
        }
        lock(&self.shared.inbox).guard.breaker.as_ref().map(|breaker| breaker.state(now()))
    }
}
