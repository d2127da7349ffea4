//! The ports of this door: a publisher, a pusher and a requester for each topic that is used, kept open between requests.
//!
//! Opening one takes a ring and asks the rendezvous; so they are kept, the ones that were used last. Who uses one has it alone for that time, and waits for it
//! without a thread. What may wait for the bus runs on a thread of its own kind, of which a topic has one at a time.
//!
//! Invariant: of each kind there are at most [`PORTS_MAX`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use busway::{Bus, Code, Error, Topic};
use tokio::sync::Mutex as Turn;

use crate::count::Count;
use crate::limits::PORTS_MAX;

/// A port that one at a time uses; `None` before it is opened.
pub(crate) type Slot<P> = Arc<Turn<Option<P>>>;

/// Ports of one kind by topic.
#[derive(Debug)]
pub(crate) struct Kept<P>(Mutex<BTreeMap<Topic, (Slot<P>, u64)>>);

impl<P> Default for Kept<P> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<P> Kept<P> {
    /// The slot of this topic; in its favour the one that was used least recently may be let go.
    fn slot(&self, topic: &Topic, now: u64) -> (Slot<P>, Option<Slot<P>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((slot, used)) = kept.get_mut(topic) {
            *used = now;
            return (slot.clone(), None);
        }
        let oldest = kept.iter().min_by_key(|(_, (_, used))| *used).map(|(topic, _)| topic.clone());
        let oldest = oldest.filter(|_| kept.len() >= PORTS_MAX);
        let gone = oldest.and_then(|topic| kept.remove(&topic)).map(|(slot, _)| slot);
        let slot = Slot::<P>::default();
        kept.insert(topic.clone(), (slot.clone(), now));
        (slot, gone)
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) bus: Bus,
    pub(crate) publishers: Kept<busway::Publisher>,
    pub(crate) pushers: Kept<busway::Pusher>,
    pub(crate) requesters: Kept<Arc<crate::ask::Desk>>,
    uses: Count,
}

impl Ports {
    pub(crate) fn new(bus: &Bus) -> Ports {
        Ports {
            bus: bus.clone(),
            publishers: Kept::default(),
            pushers: Kept::default(),
            requesters: Kept::default(),
            uses: Count::default(),
        }
    }

    /// Does something with the port of a topic, which is opened first where there is none, on a thread that may wait.
    pub(crate) async fn with<P: Send + 'static, T: Send + 'static>(
        &self,
        kept: &Kept<P>,
        topic: &Topic,
        open: impl FnOnce(&Bus, &Topic) -> Result<P, Error> + Send + 'static,
        deed: impl FnOnce(&mut P) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (slot, gone) = kept.slot(topic, self.uses.add(1));
        let mut port = slot.lock_owned().await;
        let (bus, topic) = (self.bus.clone(), topic.clone());
        waiting(move || {
            // Closing a port asks the rendezvous too.
            drop(gone);
            if port.is_none() {
                *port = Some(open(&bus, &topic)?);
            }
            match port.as_mut() {
                Some(port) => deed(port),
                None => Err(Error::new(Code::Closed, "the port is closed")),
            }
        })
        .await
    }
}

/// Runs what may wait for the bus on a thread for that.
pub(crate) async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(Code::Closed, "the door is closing")
            .at("http")
            .remedy("ask again when the node has been started anew")),
    }
}
