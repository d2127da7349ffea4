//! Where this process replies: one ring for each requester, which nobody else reads.
//!
//! A lane is an ordinary ring on a reserved topic with the requester's id, made with the first reply. Its one row does not gate: a requester that
//! does not take its replies loses the oldest of them, and nobody waits for it. One ring for all requesters would make each read the replies to the
//! others, and let the slowest decide what is kept for all.
//!
//! A lane is closed when its requester is gone, or when it was not used for a while; there are at most `LANES_MAX`. Who answers looks for
//! such lanes in passing, so there is no thread for it, and a process that takes no requests keeps its lanes until it does or goes.
//!
//! It does not know which request is answered.
//!
//! Invariants: a lane is opened under its own lock only, so that a requester whose rendezvous is slow holds up its own replies. A
//! request goes on in the lane in which it has begun to reply, also if that is closed to others meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_shm::clock;
use busway_shm::ring::Patience;
use busway_shm::sync::{AtomicU64, Ordering};
use busway_wire::limits::{LANE_BYTES_MAX, LANE_IDLE_MS, LANE_OPEN_MS, LANE_SLOTS_MAX, LANES_MAX};
use busway_wire::{HEAD_BYTES, PortId, lane_of};

use super::ReplyError;
use crate::bus::Bus;
use crate::ports::lock;
use crate::publisher::{Gating, Publisher, Stamp};

/// Lanes that are not needed any more are looked for so often.
const SWEEP_NS: u64 = 1_000_000_000;

/// The lanes of a process.
#[derive(Debug)]
pub(crate) struct Lanes {
    bus: Bus,
    lanes: Mutex<BTreeMap<PortId, Arc<Lane>>>,
    swept_ns: AtomicU64,
    late: AtomicU64,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Lane {
    publisher: Mutex<Option<Publisher>>,
    used_ns: AtomicU64,
}

impl Lanes {
    /// Those of this process.
    pub(super) fn of(bus: &Bus) -> Arc<Self> {
        let mut known = lock(&bus.core.lanes);
        if let Some(lanes) = known.upgrade() {
            return lanes;
        }
        let (swept_ns, late) = (AtomicU64::new(0), AtomicU64::new(0));
        let lanes = Arc::new(Self { bus: bus.clone(), lanes: Mutex::default(), swept_ns, late });
        *known = Arc::downgrade(&lanes);
        lanes
    }

    /// Publishes a reply to this requester. `kept` is the lane of the request, once it has said something: all of its replies
    /// come from one ring, however long it pauses between them.
    pub(super) fn send(
        &self,
        requester: PortId,
        kept: &mut Option<Arc<Lane>>,
        stamp: Stamp,
        head: [u8; HEAD_BYTES],
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        self.bus.core.check().map_err(ReplyError::Lane)?;
        let lane = kept.get_or_insert_with(|| self.lane(requester));
        let mut publisher = lock(&lane.publisher);
        let publisher = match &mut *publisher {
            Some(publisher) => publisher,
            none => none.insert(self.open(requester)?),
        };
        // Nobody may make it wait; what is in the way is given up.
        publisher.send_headed(stamp, head, payload, Patience::None).map_err(ReplyError::Send)?;
        lane.used_ns.store(clock::monotonic_coarse_ns(), Ordering::Relaxed);
        Ok(())
    }

    fn open(&self, requester: PortId) -> Result<Publisher, ReplyError> {
        let opened = self
            .bus
            .publisher_of(lane_of(requester))
            .slots_max(LANE_SLOTS_MAX)
            .bytes_max(LANE_BYTES_MAX)
            .gating(Gating::Refused)
            .patience(Duration::from_millis(LANE_OPEN_MS))
            .open_reserved();
        opened.map_err(ReplyError::Lane)
    }

    fn lane(&self, requester: PortId) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(&requester) {
            return lane.clone();
        }
        if lanes.len() >= LANES_MAX {
            let oldest = lanes.iter().min_by_key(|(_, lane)| lane.used_ns.load(Ordering::Relaxed));
            let oldest = oldest.map(|(requester, _)| *requester);
            oldest.and_then(|oldest| lanes.remove(&oldest));
        }
        let used_ns = AtomicU64::new(clock::monotonic_coarse_ns());
        let lane = Arc::new(Lane { publisher: Mutex::default(), used_ns });
        lanes.insert(requester, lane.clone());
        lane
    }

    /// Closes the lanes that nobody reads or uses, now and then.
    pub(super) fn sweep(&self) {
        if self.bus.core.own.forked() {
            return;
        }
        let now_ns = clock::monotonic_coarse_ns();
        if now_ns.saturating_sub(self.swept_ns.load(Ordering::Relaxed)) < SWEEP_NS {
            return;
        }
        self.swept_ns.store(now_ns, Ordering::Relaxed);
        lock(&self.lanes).retain(|_, lane| {
            let idle_ns = now_ns.saturating_sub(lane.used_ns.load(Ordering::Relaxed));
            // One that is locked is in use.
            let Ok(publisher) = lane.publisher.try_lock() else { return true };
            let read = publisher.as_ref().is_some_and(|publisher| publisher.subscribers() > 0);
            idle_ns < if read { LANE_IDLE_MS * 1_000_000 } else { SWEEP_NS }
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub(super) fn count(&self) -> usize {
        // A lock of the parent's may be taken for ever.
        if self.bus.core.own.forked() {
            return 0;
        }
        lock(&self.lanes).len()
    }

    /// As if nothing had been said for long.
    #[cfg(test)]
    pub(super) fn age(&self) {
        self.swept_ns.store(0, Ordering::Relaxed);
        lock(&self.lanes).values().for_each(|lane| lane.used_ns.store(0, Ordering::Relaxed));
    }

    pub(super) fn count_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }
}
