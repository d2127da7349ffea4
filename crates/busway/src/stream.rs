//! Messages, tasks and requests as a `Stream`, on any executor.
//!
//! It needs no reactor: one thread of the process sleeps on the bell for all streams and wakes their tasks (`wake`).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::outcome::RecvError;
use crate::puller::{Puller, Task};
use crate::responder::{Request, Responder};
use crate::sample::Sample;
use crate::subscriber::Subscriber;

/// The messages of a subscriber. It ends when the bus is closed, and never for want of publishers.
#[derive(Debug)]
pub struct SampleStream<'a> {
    subscriber: &'a mut Subscriber,
}

impl<'a> SampleStream<'a> {
    pub(crate) fn new(subscriber: &'a mut Subscriber) -> Self {
        Self { subscriber }
    }
}

impl Stream for SampleStream<'_> {
    type Item = Result<Sample, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.subscriber.poll(context) {
            Poll::Ready(Err(RecvError::Closed)) => Poll::Ready(None),
            Poll::Ready(item) => Poll::Ready(Some(item)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The work of a puller. It ends when the bus is closed, and never for want of pushers.
#[derive(Debug)]
pub struct TaskStream<'a> {
    puller: &'a mut Puller,
}

impl<'a> TaskStream<'a> {
    pub(crate) fn new(puller: &'a mut Puller) -> Self {
        Self { puller }
    }
}

impl Stream for TaskStream<'_> {
    type Item = Result<Task, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.puller.poll(context) {
            Poll::Ready(Err(RecvError::Closed)) => Poll::Ready(None),
            Poll::Ready(item) => Poll::Ready(Some(item)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The requests of a responder. It ends when the bus is closed, and never for want of requesters.
#[derive(Debug)]
pub struct RequestStream<'a> {
    responder: &'a mut Responder,
}

impl<'a> RequestStream<'a> {
    pub(crate) fn new(responder: &'a mut Responder) -> Self {
        Self { responder }
    }
}

impl Stream for RequestStream<'_> {
    type Item = Result<Request, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.responder.poll(context) {
            Poll::Ready(Err(RecvError::Closed)) => Poll::Ready(None),
            Poll::Ready(item) => Poll::Ready(Some(item)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Puller {
    /// Waits for a task without blocking the thread.
    ///
    /// # Errors
    /// [`RecvError`].
    pub async fn recv_async(&mut self) -> Result<Task, RecvError> {
        poll_fn(|context| self.poll(context)).await
    }
}

impl Subscriber {
    /// Waits for a message without blocking the thread.
    ///
    /// # Errors
    /// [`RecvError`].
    pub async fn recv_async(&mut self) -> Result<Sample, RecvError> {
        poll_fn(|context| self.poll(context)).await
    }
}
