//! What waits for the threads that tell a handler, flow by flow, and what became of it.
//!
//! Each flow has a turn for each peer. It starts nothing and calls nobody.
//!
//! Invariant: of one peer and flow one event is out at a time. What was put is handled, replaced, or dropped and counted.

use std::collections::{BTreeMap, VecDeque};

use busway_protocol::PeerId;
use busway_protocol::flow::{Charge, Flows, Limits};

use super::{EVENT_FLOWS, FlowCounts, place};
use crate::artifacts::handler::{PeerEvent, WhenFull};

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) event: PeerEvent,
    /// It may take the place of what has the same.
    pub(super) replaces: Option<u64>,
}

/// What waits of one peer.
#[derive(Debug, Default)]
struct Line {
    events: VecDeque<Queued>,
    /// One of its events is being handled.
    busy: bool,
}

/// One flow.
#[derive(Debug, Default)]
pub(super) struct FlowLane {
    lines: BTreeMap<u8, Line>,
    /// Peers that have something to be handled, of which nothing is being handled, in turn.
    turn: VecDeque<u8>,
    pub(super) counts: FlowCounts,
    /// Something was given back, for want of room.
    came_back: bool,
}

#[derive(Debug)]
pub(super) struct State {
    flows: Flows,
    pub(super) lanes: [FlowLane; EVENT_FLOWS.len()],
    /// Threads that have not ended.
    pub(super) alive: usize,
    pub(super) ended: bool,
}

/// What became of an event that was put.
pub(super) enum Put {
    /// It is in this lane.
    Taken(usize),
    /// There is no room for it.
    Full(Queued),
    Dropped,
    Ended,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self { flows: Flows::new(limits), lanes: Default::default(), alive: 0, ended: false }
    }

    pub(super) fn put(&mut self, from: u8, queued: Queued, waits: &mut bool) -> Put {
        let flow = queued.event.flow();
        let Some(at) = place(flow).filter(|_| !self.ended) else { return Put::Ended };
        let charge = charge(from, &queued.event);
        let when_full = self.flows.limits().rule(flow).when_full;
        let lane = &mut self.lanes[at];
        if !self.flows.has_room(charge) {
            return self.full(from, queued, at, when_full, waits);
        }
        let _ = self.flows.charge(charge);
        lane.counts.in_flight += 1;
        lane.counts.in_flight_max = lane.counts.in_flight_max.max(lane.counts.in_flight);
        let line = lane.lines.entry(from).or_default();
        if line.events.is_empty() && !line.busy {
            lane.turn.push_back(from);
        }
        line.events.push_back(queued);
        Put::Taken(at)
    }

    fn full(&mut self, from: u8, queued: Queued, at: usize, when_full: WhenFull, waits: &mut bool) -> Put {
        let lane = &mut self.lanes[at];
        match when_full {
            WhenFull::Drop | WhenFull::Policy | WhenFull::Fail => {
                lane.counts.dropped_full += 1;
                return Put::Dropped;
            }
            WhenFull::Coalesce | WhenFull::Wait => {}
        }
        let same = |older: &&mut Queued| {
            older.replaces == queued.replaces && older.event.size() >= queued.event.size()
        };
        let coalesces = when_full == WhenFull::Coalesce && queued.replaces.is_some();
        let line = lane.lines.get_mut(&from).filter(|_| coalesces);
        if let Some(older) = line.and_then(|line| line.events.iter_mut().find(same)) {
            let (before, after) = (charge(from, &older.event), charge(from, &queued.event));
            *older = queued;
            lane.counts.coalesced += 1;
            self.flows.release(before);
            // It is no larger than what it takes the place of.
            let _ = self.flows.charge(after);
            return Put::Taken(at);
        }
        if !std::mem::replace(waits, true) {
            lane.counts.waited += 1;
        }
        lane.came_back = true;
        Put::Full(queued)
    }

    /// The next event of a lane, of the peer whose turn it is.
    pub(super) fn next(&mut self, at: usize) -> Option<(u8, PeerEvent)> {
        let lane = &mut self.lanes[at];
        let from = lane.turn.pop_front()?;
        let line = lane.lines.get_mut(&from)?;
        line.busy = true;
        Some((from, line.events.pop_front()?.event))
    }

    /// An event was handled; whether another found the flow full since the last, or all of this peer is handled.
    pub(super) fn done(&mut self, at: usize, from: u8, charge: Charge, took_ns: u64, panicked: bool) -> bool {
        self.flows.release(charge);
        let lane = &mut self.lanes[at];
        lane.counts.in_flight -= 1;
        lane.counts.handled += 1;
        lane.counts.panicked += u64::from(panicked);
        lane.counts.handler_ns = lane.counts.handler_ns.saturating_add(took_ns);
        if let Some(line) = lane.lines.get_mut(&from) {
            line.busy = false;
            if line.events.is_empty() {
                lane.lines.remove(&from);
            } else {
                lane.turn.push_back(from);
            }
        }
        let came_back = std::mem::take(&mut lane.came_back);
        came_back || !self.is_under_way(from)
    }

    /// Whether something of this peer waits or is being handled, in any flow.
    pub(super) fn is_under_way(&self, from: u8) -> bool {
        self.lanes.iter().any(|lane| lane.lines.contains_key(&from))
    }

    /// What waits is dropped.
    pub(super) fn end(&mut self) {
        self.ended = true;
        for lane in &mut self.lanes {
            lane.turn.clear();
            for line in lane.lines.values_mut() {
                let left = line.events.drain(..).count() as u64;
                lane.counts.dropped_ended += left;
                lane.counts.in_flight -= left;
            }
        }
    }
}

pub(super) fn charge(from: u8, event: &PeerEvent) -> Charge {
    Charge { flow: event.flow(), peer: PeerId::Node { index: from }, bytes: event.size() }
}
