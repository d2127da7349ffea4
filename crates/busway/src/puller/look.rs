//! Waiting for work without borrowing the puller, and ending a task that is still read.
//!
//! For those who share a puller between threads and show messages for longer than they are theirs, as bindings to other languages do. It
//! takes what [`Puller::try_recv`] takes.
//!
//! Invariant: who looks and finds nothing keeps its turn among the pullers of its group until it finds something or asks without waiting.

use super::{Late, Puller, Task};
use crate::outcome::RecvError;
use crate::subscriber::News;

impl Puller {
    /// Where to sleep until there may be work, without borrowing the puller. In a group that acknowledges, look a few times within its
    /// time all the same: what another has had for too long is noticed by who looks.
    ///
    /// ```
    /// # fn main() -> Result<(), busway::Error> {
    /// # use std::time::Duration;
    /// let bus = busway::Bus::open("example-of-news-of-work")?;
    /// let mut puller = bus.puller("resize").open()?;
    /// bus.pusher("resize").open()?.send(b"cat.png")?;
    /// let news = puller.news();
    /// let task = loop {
    ///     if let Some(taken) = news.wait(Duration::from_millis(100), || puller.look().transpose())? {
    ///         break taken?;
    ///     }
    /// };
    /// assert_eq!(&task[..], b"cat.png");
    /// # task.ack()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn news(&self) -> News {
        News::of(&self.core, &self.subscription)
    }

    /// As [`Puller::try_recv`], for who sleeps if there is nothing: others of the group that are ahead leave it the next message. Who
    /// gives up waiting calls [`Puller::try_recv`].
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn look(&mut self) -> Result<Option<Task>, RecvError> {
        self.check()?;
        let looked = self.take();
        match looked {
            Ok(None) => {
                // Nobody rings when something has rested.
                let rested_ns = self.readers.iter().filter_map(|reader| reader.reader.rested_ns()).min();
                self.subscription.look_by(rested_ns);
            }
            Ok(Some(_)) | Err(_) => self.rest(),
        }
        looked
    }

    /// Whether the last look came to its end before everything had been looked at: look again before you sleep.
    #[must_use]
    pub fn must_look_again(&self) -> bool {
        self.unfinished
    }
}

impl Task {
    /// As [`Task::ack`], while the message is still read: its memory is held until the task is dropped.
    ///
    /// # Errors
    /// As [`Task::ack`].
    pub fn settle(&mut self) -> Result<(), Late> {
        let settled = match self.claim.take().is_none_or(super::group::Task::done) {
            true => Ok(()),
            false => Err(Late),
        };
        self.note_done();
        self.tell_node();
        settled
    }

    /// As [`Task::nack`], while the message is still read: its memory is held until the task is dropped.
    pub fn give_back(&mut self) {
        self.end();
    }

    /// Whether it was neither acknowledged nor given back.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.claim.is_some()
    }
}
