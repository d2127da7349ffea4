//! What was put over HTTP and stands: how much it may be, and who may take it back.
//!
//! It is offered as long as the door is open and nobody withdraws it. What was put by others, at this node or elsewhere, is none of this door's.
//!
//! Invariant: what stands here, and what is being put, is within the count and the bytes that are allowed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busway::artifacts::{ArtifactId, Offer, Reach};
use busway::{Code, Error, Topic};

use crate::budget::{Room, Taken};
use crate::limits::ARTIFACTS_MAX;
use crate::refusal::Refusal;

/// Room for one artifact, taken before the first of its bytes is read.
#[derive(Debug)]
pub(crate) struct Place {
    _one: Taken,
    _bytes: Taken,
}

#[derive(Debug)]
struct Put {
    topic: Topic,
    offer: Offer,
    _place: Place,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Shelf {
    put: Mutex<Vec<Put>>,
    pub(crate) count: Arc<Room>,
    pub(crate) bytes: Arc<Room>,
}

impl Shelf {
    pub(crate) fn new(bytes: u64) -> Shelf {
        Shelf { put: Mutex::default(), count: Room::new(ARTIFACTS_MAX.into()), bytes: Room::new(bytes) }
    }

    fn put(&self) -> MutexGuard<'_, Vec<Put>> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for so many bytes.
    pub(crate) fn place(&self, size: u64) -> Result<Place, Refusal> {
        // What has ended otherwise, with the node that had it, makes room.
        let ended = |put: &mut Put| put.offer.reach() != Reach::Offered;
        let ended: Vec<Put> = self.put().extract_if(.., ended).collect();
        drop(ended);
        let one =
            self.count.take(1).ok_or_else(|| full(format!("{ARTIFACTS_MAX} artifacts"), "withdraw some"));
        let bytes = self.bytes.take(size).ok_or_else(|| {
            let what = format!("{} of {} bytes of artifacts", self.bytes.taken(), self.bytes.limit());
            full(what, "withdraw some, or allow more: http.artifacts_bytes")
        });
        Ok(Place { _one: one?, _bytes: bytes? })
    }

    /// Has it from here on. What stands already under this name on this topic stands for it.
    pub(crate) fn keep(&self, topic: &Topic, offer: Offer, place: Place) {
        let same = |put: &Put| put.topic == *topic && put.offer.id() == offer.id();
        let mut put = self.put();
        if !put.iter().any(|put| same(put) && put.offer.reach() == Reach::Offered) {
            put.push(Put { topic: topic.clone(), offer, _place: place });
        }
    }

    /// Takes back what was put of these; how many they were.
    pub(crate) fn withdraw(&self, wanted: impl Fn(&Topic, ArtifactId) -> bool) -> usize {
        let wanted = |put: &mut Put| wanted(&put.topic, put.offer.id());
        let gone: Vec<Put> = self.put().extract_if(.., wanted).collect();
        gone.iter().filter(|put| put.offer.reach() == Reach::Offered).count()
    }
}

fn full(what: String, remedy: &str) -> Refusal {
    let error = Error::new(
        Code::Full,
        format!("{what} that were put over HTTP stand, and there is no room for this"),
    );
    Refusal::no_store(error.at("what was put over HTTP").remedy(remedy))
}
