//! The nodes of this process, which ports see as one carrier.
//!
//! Most often there is one. Where there are several, who publishes tells each of them, and nobody leads: one thread cannot
//! wait for the links of two, and each node has threads of its own. It does not decide what crosses: each node does.
//!
//! Invariant: each carrier that was added and not removed is told everything.

use std::sync::Arc;

use busway_shm::bell::Bell;
use busway_shm::clock::Deadline;
use busway_wire::PortId;

use super::{Ahead, Carrier};
use crate::control::Watched;

#[derive(Debug, Default)]
pub(super) struct Carriers {
    all: Vec<Arc<dyn Carrier>>,
    /// All of them; ports keep a weak reference.
    shown: Option<Arc<dyn Carrier>>,
}

impl Carriers {
    pub(super) fn add(&mut self, carrier: Arc<dyn Carrier>) {
        self.all.push(carrier);
        self.show();
    }

    pub(super) fn remove<C: Carrier>(&mut self, carrier: &Arc<C>) {
        self.all.retain(|known| !std::ptr::addr_eq(Arc::as_ptr(known), Arc::as_ptr(carrier)));
        self.show();
    }

    pub(super) fn shown(&self) -> Option<Arc<dyn Carrier>> {
        self.shown.clone()
    }

    fn show(&mut self) {
        self.shown = match self.all.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => Some(Arc::new(Several(several.to_vec()))),
        };
    }
}

#[derive(Debug)]
struct Several(Vec<Arc<dyn Carrier>>);

impl Carrier for Several {
    fn watched(&self, watched: Watched) {
        for carrier in &self.0 {
            carrier.watched(watched.clone());
        }
    }

    fn changed(&self) {
        for carrier in &self.0 {
            carrier.changed();
        }
    }

    fn published(&self, publisher: PortId, bell: &Bell<'_>) -> u32 {
        self.0.iter().map(|carrier| carrier.published(publisher, bell)).min().unwrap_or(0)
    }

    fn pace(&self, publisher: PortId, ahead: Ahead) {
        // One time for all.
        let deadline = Deadline::after(ahead.most);
        for carrier in &self.0 {
            let most = deadline.remaining().unwrap_or(ahead.most);
            carrier.pace(publisher, Ahead { most, ..ahead });
        }
    }

    fn is_here(&self) {
        for carrier in &self.0 {
            carrier.is_here();
        }
    }
}
