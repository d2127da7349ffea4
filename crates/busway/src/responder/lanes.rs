//! Where this process replies: one ring for each requester, which nobody else reads.
//!
//! A lane is an ordinary ring on a reserved topic with the requester's id, made with the first reply. Its one row does not gate: a requester that
//! does not take its replies loses the oldest of them, and nobody waits for it. One ring for all requesters would make each read the replies to the
//! others, and let the slowest decide what is kept for all.
//!
//! A lane is closed when its requester is gone, or when it was not used for a while and its replies were taken; there are at most `LANES_MAX`. Who answers looks for
//! such lanes in passing, so there is no thread for it, and a process that takes no requests keeps its lanes until it does or goes.
//!
//! All lanes together have at most `LANES_BYTES_MAX`. Beyond that those that were not used for longest are closed, first those whose replies were taken; then
//! they lose what was not, and at last the lane that wants more loses its own oldest.
//!
//! What is said before the requester has taken notice of its lane waits there, as long as any of the requests so answered is waited for, and nobody waits for that:
//! no reply, and no other request. Only the last responder that goes waits a moment, or its first reply would go with it.
//!
//! It does not know which request is answered.
//!
//! Invariants: a lane is opened under its own lock only, so that a requester whose rendezvous is slow holds up its own replies. A
//! request goes on in the lane in which it has begun to reply, also if that is closed to others meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_shm::clock::{self, Deadline};
use busway_shm::ring::Patience;
use busway_shm::row::group::{self, Pusher};
use busway_shm::sync::{AtomicU64, Ordering};
use busway_wire::limits::{
    LANE_BYTES_MAX, LANE_IDLE_MS, LANE_LINGER_MS, LANE_SLOTS_MAX, LANES_BYTES_MAX, LANES_MAX,
};
use busway_wire::{HEAD_BYTES, PortId, lane_of};

use super::ReplyError;
use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::ports::lock;
use crate::publisher::{Beside, Gating, Publisher, Stamp};

/// Lanes that are not needed any more are looked for so often.
const SWEEP_NS: u64 = 1_000_000_000;

/// The lanes of a process.
#[derive(Debug)]
pub(crate) struct Lanes {
    bus: Bus,
    lanes: Mutex<BTreeMap<PortId, Arc<Lane>>>,
    /// Of all lanes.
    bytes: Arc<AtomicU64>,
    swept_ns: AtomicU64,
    late: AtomicU64,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Lane {
    publisher: Mutex<Option<Publisher>>,
    used_ns: AtomicU64,
    /// Of its ring, as it was counted last, and of all lanes.
    bytes: AtomicU64,
    bytes_of_all: Arc<AtomicU64>,
    /// Until when somebody waits for what lies here, at the latest.
    wanted_ns: AtomicU64,
    requester: Option<Pusher>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.bytes_of_all.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Lane {
    /// Counts its bytes anew; returns those of all lanes.
    fn count(&self, publisher: &Publisher) -> u64 {
        let now = publisher.ring_bytes();
        let before = self.bytes.swap(now, Ordering::Relaxed);
        // Each adds what it takes away later: the sum never falls below zero.
        self.bytes_of_all.fetch_add(now, Ordering::Relaxed);
        let all = self.bytes_of_all.fetch_sub(before, Ordering::Relaxed);
        all.saturating_sub(before)
    }

    /// Whether it is not in use, and nobody is on the way to it.
    fn may_close(&self, now_ns: u64) -> bool {
        let Ok(publisher) = self.publisher.try_lock() else { return false };
        publisher.as_ref().is_none_or(|publisher| !self.is_awaited(publisher, now_ns))
    }

    /// Whether its requester has not taken notice of it, and may still.
    fn is_awaited(&self, publisher: &Publisher, now_ns: u64) -> bool {
        let gone = self.requester.as_ref().is_none_or(Pusher::is_gone);
        !gone && now_ns < self.wanted_ns.load(Ordering::Relaxed) && !publisher.was_met()
    }
}

/// Whom a reply is for.
#[derive(Debug)]
pub(crate) struct To<'a> {
    pub(crate) requester: PortId,
    /// The claim of the request, in the requester's ring.
    pub(crate) claim: Option<&'a group::Task>,
    pub(crate) deadline_ns: u64,
}

impl Lanes {
    /// Those of this process.
    pub(crate) fn of(bus: &Bus) -> Arc<Self> {
        let mut known = lock(&bus.core.lanes);
        if let Some(lanes) = known.upgrade() {
            return lanes;
        }
        let (swept_ns, late) = (AtomicU64::new(0), AtomicU64::new(0));
        let (bus, lanes, bytes) = (bus.clone(), Mutex::default(), Arc::default());
        let lanes = Arc::new(Self { bus, lanes, bytes, swept_ns, late });
        *known = Arc::downgrade(&lanes);
        lanes
    }

    /// Publishes a reply to this requester. `kept` is the lane of the request, once it has said something: all of its replies
    /// come from one ring, however long it pauses between them.
    pub(crate) fn send(
        &self,
        to: &To<'_>,
        kept: &mut Option<Arc<Lane>>,
        stamp: Stamp,
        head: [u8; HEAD_BYTES],
        beside: &Beside<'_>,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        self.bus.core.check().map_err(ReplyError::Lane)?;
        let lane = match kept {
            Some(lane) => lane,
            none => {
                none.insert(self.lane(to.requester, to.deadline_ns, || to.claim.map(group::Task::pusher))?)
            }
        };
        lane.wanted_ns.fetch_max(to.deadline_ns, Ordering::Relaxed);
        let mut publisher = lock(&lane.publisher);
        let publisher = match &mut *publisher {
            Some(publisher) => publisher,
            none => none.insert(self.open(to.requester)?),
        };
        // Nobody may make it wait; what is in the way is given up.
        publisher.send_headed(stamp, head, beside, payload, Patience::None).map_err(ReplyError::Send)?;
        lane.used_ns.store(clock::monotonic_coarse_ns(), Ordering::Relaxed);
        if lane.count(publisher) > LANES_BYTES_MAX {
            self.make_room(lane, publisher, payload.len() as u64);
        }
        Ok(())
    }

    /// Brings all lanes back within their bytes, after this one has taken more; `len` are those of its last reply, which stays.
    #[cold]
    fn make_room(&self, own: &Arc<Lane>, publisher: &mut Publisher, len: u64) {
        let mut lanes = lock(&self.lanes);
        let mut others: Vec<(u64, PortId)> = lanes
            .iter()
            .filter(|(_, lane)| !Arc::ptr_eq(lane, own))
            .map(|(requester, lane)| (lane.used_ns.load(Ordering::Relaxed), *requester))
            .collect();
        others.sort_unstable();
        let is_over = || self.bytes.load(Ordering::Relaxed) > LANES_BYTES_MAX;
        for only_read in [true, false] {
            for (_, requester) in &others {
                if !is_over() {
                    return;
                }
                let Some(lane) = lanes.get(requester) else { continue };
                // One that is locked is in use.
                let Ok(mut other) = lane.publisher.try_lock() else { continue };
                let Some(unused) = other.as_mut() else { continue };
                let was_read = unused.was_met() && unused.was_read();
                if !was_read && only_read {
                    continue;
                }
                unused.give_up_to(0);
                lane.count(unused);
                let closes = was_read;
                drop(other);
                if closes {
                    lanes.remove(requester);
                }
            }
        }
        let over = self.bytes.load(Ordering::Relaxed).saturating_sub(LANES_BYTES_MAX);
        // A chunk is larger than what lies in it, by less than once more.
        publisher.give_up_to(publisher.ring_bytes().saturating_sub(over).max(2 * len));
        own.count(publisher);
    }

    fn open(&self, requester: PortId) -> Result<Publisher, ReplyError> {
        let opened = self
            .bus
            .publisher_of(lane_of(requester))
            .slots_max(LANE_SLOTS_MAX)
            .bytes_max(LANE_BYTES_MAX)
            .gating(Gating::Refused)
            .kept_for_first()
            .open_reserved();
        opened.map_err(ReplyError::Lane)
    }

    /// The lane to this requester, if it is open and nobody is at it.
    pub(crate) fn opened(&self, requester: PortId) -> Option<Arc<Lane>> {
        let lane = lock(&self.lanes).get(&requester).cloned()?;
        let open = lane.publisher.try_lock().is_ok_and(|publisher| publisher.is_some());
        open.then_some(lane)
    }

    /// Opens the lane to this requester, which waits for a reply until then, if it is not open: it asks the rendezvous. Who may not wait for that
    /// has it opened by another thread, and sends when it is.
    pub(crate) fn open_for(
        &self,
        requester: PortId,
        pusher: Pusher,
        deadline_ns: u64,
    ) -> Result<Arc<Lane>, ReplyError> {
        self.bus.core.check().map_err(ReplyError::Lane)?;
        let lane = self.lane(requester, deadline_ns, || Some(pusher))?;
        lane.wanted_ns.fetch_max(deadline_ns, Ordering::Relaxed);
        let mut publisher = lock(&lane.publisher);
        if publisher.is_none() {
            *publisher = Some(self.open(requester)?);
        }
        drop(publisher);
        Ok(lane)
    }

    /// The lane to this requester; a new one takes the place of the one that was used longest ago, but of none that is awaited.
    fn lane(
        &self,
        requester: PortId,
        deadline_ns: u64,
        pusher: impl FnOnce() -> Option<Pusher>,
    ) -> Result<Arc<Lane>, ReplyError> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(&requester) {
            return Ok(lane.clone());
        }
        if lanes.len() >= LANES_MAX {
            let now_ns = clock::monotonic_ns();
            let idle = lanes.iter().filter(|(_, lane)| lane.may_close(now_ns));
            let oldest = idle.min_by_key(|(_, lane)| lane.used_ns.load(Ordering::Relaxed));
            let oldest = oldest.map(|(requester, _)| *requester).ok_or_else(no_lane)?;
            lanes.remove(&oldest);
        }
        let used_ns = AtomicU64::new(clock::monotonic_coarse_ns());
        let (publisher, wanted_ns) = (Mutex::default(), AtomicU64::new(deadline_ns));
        let (bytes, bytes_of_all) = (AtomicU64::new(0), self.bytes.clone());
        let of = pusher();
        let lane = Arc::new(Lane { publisher, used_ns, bytes, bytes_of_all, wanted_ns, requester: of });
        lanes.insert(requester, lane.clone());
        Ok(lane)
    }

    /// Closes the lanes that nobody reads or uses, now and then.
    pub(crate) fn sweep(&self) {
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
            let Ok(mut publisher) = lane.publisher.try_lock() else { return true };
            let Some(publisher) = publisher.as_mut() else { return idle_ns < SWEEP_NS };
            let read = publisher.subscribers() > 0;
            idle_ns < if read { LANE_IDLE_MS * 1_000_000 } else { SWEEP_NS }
                || lane.is_awaited(publisher, clock::monotonic_ns())
                // What nobody takes counts as long as it is there, so the lane is.
                || read && !publisher.was_read()
        });
    }

    /// Whether there is a lane to this requester, and nobody is at it.
    pub(super) fn is_open(&self, requester: PortId) -> bool {
        if self.bus.core.own.forked() {
            return false;
        }
        let lane = lock(&self.lanes).get(&requester).cloned();
        lane.is_some_and(|lane| lane.publisher.try_lock().is_ok_and(|publisher| publisher.is_some()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub(crate) fn count(&self) -> usize {
        // A lock of the parent's may be taken for ever.
        if self.bus.core.own.forked() {
            return 0;
        }
        lock(&self.lanes).len()
    }

    /// Whether the requester of no lane has still to take notice of it.
    fn are_all_met(&self) -> bool {
        let now_ns = clock::monotonic_ns();
        lock(&self.lanes).values().all(|lane| {
            lock(&lane.publisher).as_ref().is_none_or(|publisher| !lane.is_awaited(publisher, now_ns))
        })
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

fn no_lane() -> ReplyError {
    let cause = format!("{LANES_MAX} requesters that were answered have not taken notice yet");
    ReplyError::Lane(
        Error::new(Code::TooManyPorts, cause).at("reply").remedy("start more responders, as processes"),
    )
}

impl Drop for Lanes {
    fn drop(&mut self) {
        if self.bus.core.own.forked() {
            return;
        }
        let core = self.bus.core.clone();
        let linger = Duration::from_millis(LANE_LINGER_MS);
        core.wait_for(Deadline::after(linger), linger, || core.is_closed() || self.are_all_met());
    }
}
