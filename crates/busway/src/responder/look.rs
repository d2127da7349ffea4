//! Waiting for requests without borrowing the responder or blocking a thread, and ending a request that is still read.
//!
//! For those who share a responder between threads, or have an event loop, and show requests for longer than they are theirs, as bindings to other
//! languages do. It takes what [`Responder::try_recv`] takes.
//!
//! Invariant: what a request shows stays where it is until the request is dropped, however it has ended.

use std::future::poll_fn;
use std::task::{Context, Poll};

use busway_wire::{Cause, ReplyState};

use super::{ReplyError, Request, Responder};
use crate::outcome::RecvError;
use crate::stream::RequestStream;
use crate::subscriber::News;

impl Responder {
    /// The requests as a stream, for any executor. Lanes that nobody needs any more are closed when it is polled.
    pub fn stream(&mut self) -> RequestStream<'_> {
        RequestStream::new(self)
    }

    /// Waits for a request without blocking the thread.
    ///
    /// # Errors
    /// [`RecvError`].
    pub async fn recv_async(&mut self) -> Result<Request, RecvError> {
        poll_fn(|context| self.poll(context)).await
    }

    /// Where to sleep until there may be a request, without borrowing the responder. See [`Puller::news`](crate::Puller::news).
    #[must_use]
    pub fn news(&self) -> News {
        self.puller.news()
    }

    /// As [`Responder::try_recv`], for who sleeps if there is nothing: other responders that are ahead leave it the next request. Who gives up
    /// waiting calls [`Responder::try_recv`].
    ///
    /// # Errors
    /// As [`Responder::try_recv`].
    pub fn look(&mut self) -> Result<Option<Request>, RecvError> {
        self.lanes.sweep();
        while let Some(task) = self.puller.look()? {
            if let Some(request) = self.accept(task) {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    /// Whether the last look came to its end before everything had been looked at: look again before you sleep.
    #[must_use]
    pub fn must_look_again(&self) -> bool {
        self.puller.must_look_again()
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Request, RecvError>> {
        self.lanes.sweep();
        loop {
            match self.puller.poll(context) {
                Poll::Ready(Ok(task)) => {
                    if let Some(request) = self.accept(task) {
                        return Poll::Ready(Ok(request));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Request {
    /// As [`Request::reply`], while the request is still read.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn answer(&mut self, payload: &[u8]) -> Result<(), ReplyError> {
        self.say(ReplyState::Last, payload)?;
        self.end()
    }

    /// As [`Request::fail`], while the request is still read.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn refuse(&mut self, why: &[u8]) -> Result<(), ReplyError> {
        self.say(ReplyState::Failed, why)?;
        self.end()
    }

    /// There is no answer, as for a request that is dropped, while it is still read.
    pub fn leave(&mut self) {
        if self.is_over() {
            return;
        }
        if self.is_cancelled() {
            self.close();
        } else {
            self.leave_unanswered();
        }
    }

    /// Whether the next reply goes at once: there is a lane to who asks. Else the rendezvous is asked for one first.
    #[must_use]
    pub fn has_lane(&self) -> bool {
        self.is_over() || self.lanes.is_open(self.requester)
    }

    /// Whether it has ended: with its last reply, without one, or because it could not be replied to.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.task.is_none()
    }

    fn end(&mut self) -> Result<(), ReplyError> {
        let Some(mut task) = self.task.take() else { return Ok(()) };
        let settled = task.settle();
        self.over = Some(task);
        settled.map_err(|_| {
            self.lanes.count_late();
            ReplyError::Cancelled
        })
    }

    /// Its claim is gone: there is nothing to end, and nobody to tell.
    pub(super) fn close(&mut self) {
        if let Some(mut task) = self.task.take() {
            task.give_back();
            self.over = Some(task);
        }
    }

    /// Tells who asks that no answer follows; where that cannot be said either, the claim does.
    pub(super) fn leave_unanswered(&mut self) {
        // A word without a payload needs no memory.
        let told = self.put(ReplyState::Unanswered, &[]).is_ok();
        let Some(mut task) = self.task.take() else { return };
        if told {
            task.give_back();
        } else {
            task.lose(Cause::Cancelled);
        }
        self.over = Some(task);
    }
}
