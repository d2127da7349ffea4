//! What waits for the threads that tell a handler, flow by flow, and what became of it.
//!
//! Each flow has a turn for each peer. It starts nothing and calls nobody.
//!
//! Invariant: of one peer and flow one event is out at a time. `taken` = `handled` + `coalesced` + `dropped` + `in_flight`.

use std::collections::{BTreeMap, VecDeque};

use busway_protocol::PeerId;
use busway_protocol::flow::{Budget, Charge, Flows, Limits, Rule};

use super::{EVENT_FLOWS, FlowCounts, place};
use crate::artifacts::handler::{Flow, PeerEvent, WhenFull};

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
    /// Nothing more is taken; what was is handled.
    pub(super) closing: bool,
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
        let lanes = Default::default();
        Self { flows: Flows::new(limits), lanes, alive: 0, closing: false, ended: false }
    }

    /// Nothing for a flow without workers.
    pub(super) fn counts(&self, flow: Flow) -> FlowCounts {
        place(flow).map(|at| self.lanes[at].counts).unwrap_or_default()
    }

    pub(super) fn rule(&self, flow: Flow) -> Rule {
        self.flows.limits().rule(flow)
    }

    pub(super) fn in_use(&self, flow: Flow) -> Budget {
        self.flows.usage(flow).in_use
    }

    /// `waited`: that it found the flow full before was counted.
    pub(super) fn put(&mut self, from: u8, queued: Queued, waited: &mut bool) -> Put {
        let flow = queued.event.flow();
        let Some(at) = place(flow).filter(|_| !self.closing && !self.ended) else { return Put::Ended };
        let charge = charge(from, &queued.event);
        if !self.flows.has_room(charge) {
            return self.full(from, queued, at, waited);
        }
        let _ = self.flows.charge(charge);
        self.take(from, queued, at);
        Put::Taken(at)
    }

    /// Its room is charged.
    fn take(&mut self, from: u8, queued: Queued, at: usize) {
        let lane = &mut self.lanes[at];
        lane.counts.taken += 1;
        lane.counts.in_flight += 1;
        lane.counts.in_flight_max = lane.counts.in_flight_max.max(lane.counts.in_flight);
        let line = lane.lines.entry(from).or_default();
        // Where others of it were made worthless its turn has not gone.
        if line.events.is_empty() && !line.busy && !lane.turn.contains(&from) {
            lane.turn.push_back(from);
        }
        line.events.push_back(queued);
    }

    fn full(&mut self, from: u8, queued: Queued, at: usize, waited: &mut bool) -> Put {
        match self.flows.limits().rule(EVENT_FLOWS[at]).when_full {
            WhenFull::Drop | WhenFull::Policy | WhenFull::Fail if queued.event.may_be_dropped() => {
                let counts = &mut self.lanes[at].counts;
                (counts.taken, counts.dropped_full) = (counts.taken + 1, counts.dropped_full + 1);
                return Put::Dropped;
            }
            WhenFull::Coalesce if self.make_worthless(from, &queued, at) => {
                self.take(from, queued, at);
                return Put::Taken(at);
            }
            WhenFull::Coalesce | WhenFull::Wait | WhenFull::Drop | WhenFull::Policy | WhenFull::Fail => {}
        }
        let lane = &mut self.lanes[at];
        if !std::mem::replace(waited, true) {
            lane.counts.waited += 1;
        }
        lane.came_back = true;
        Put::Full(queued)
    }

    /// Whether all that waits of this peer and key had the room that a newer one needs: then they are gone and it is charged.
    fn make_worthless(&mut self, from: u8, newer: &Queued, at: usize) -> bool {
        let lane = &mut self.lanes[at];
        let (Some(key), Some(line)) = (newer.replaces, lane.lines.get_mut(&from)) else { return false };
        let is_older = |queued: &Queued| queued.replaces == Some(key);
        let older = line.events.iter().filter(|queued| is_older(queued));
        let older: Vec<Charge> = older.map(|queued| charge(from, &queued.event)).collect();
        older.iter().for_each(|charge| self.flows.release(*charge));
        let room = charge(from, &newer.event);
        if older.is_empty() || !self.flows.has_room(room) {
            // They had this room a moment ago.
            for charge in older {
                let _ = self.flows.charge(charge);
            }
            return false;
        }
        line.events.retain(|queued| !is_older(queued));
        lane.counts.coalesced += older.len() as u64;
        lane.counts.in_flight -= older.len() as u64;
        let _ = self.flows.charge(room);
        true
    }

    /// The next event of a lane, of the peer whose turn it is. At the end that is the end of a peer, of which nothing else is being handled.
    pub(super) fn next(&mut self, at: usize) -> Option<(u8, PeerEvent)> {
        let lanes = &self.lanes;
        let is_busy = |from| lanes.iter().any(|lane| lane.lines.get(from).is_some_and(|line| line.busy));
        let next = lanes[at].turn.iter().position(|from| !self.ended || !is_busy(from))?;
        let lane = &mut self.lanes[at];
        let from = lane.turn.remove(next)?;
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
        // Also of other flows: all of them share one cap of bytes.
        let came_back =
            self.lanes.iter_mut().fold(false, |any, lane| any | std::mem::take(&mut lane.came_back));
        came_back || !self.is_under_way(from)
    }

    /// Whether a worker of this lane has nothing to do any more.
    pub(super) fn is_over(&self, at: usize) -> bool {
        self.ended && self.lanes[at].turn.is_empty()
    }

    /// Whether something of this peer waits or is being handled, in any flow.
    pub(super) fn is_under_way(&self, from: u8) -> bool {
        self.lanes.iter().any(|lane| lane.lines.contains_key(&from))
    }

    /// The same of what it says about tables: who has what, and how far that is known. Who asks is roused when something was handled.
    pub(super) fn are_tables_under_way(&mut self, from: u8) -> bool {
        let mut tables = [Flow::Advert, Flow::Retransmission].into_iter().filter_map(place);
        let Some(at) = tables.find(|at| self.lanes[*at].lines.contains_key(&from)) else { return false };
        self.lanes[at].came_back = true;
        true
    }

    /// What waits is dropped. Of these peers the end is told still.
    pub(super) fn end(&mut self, known: &[u8]) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.drop_all();
        for from in known {
            let queued = Queued { event: PeerEvent::PeerDown, replaces: None };
            if let Some(at) = place(queued.event.flow()) {
                let _ = self.flows.charge(charge(*from, &queued.event));
                self.take(*from, queued, at);
            }
        }
    }

    /// What waits is dropped.
    pub(super) fn drop_all(&mut self) {
        for lane in &mut self.lanes {
            lane.turn.clear();
            for line in lane.lines.values_mut() {
                let left = line.events.drain(..).count() as u64;
                lane.counts.dropped_ended += left;
                lane.counts.in_flight -= left;
            }
        }
    }

    /// A function of the handler that is told of no event panicked.
    pub(super) fn panicked(&mut self, flow: Flow) {
        if let Some(at) = place(flow) {
            self.lanes[at].counts.panicked += 1;
        }
    }

    /// A handler wanted to say what does not belong there, or is no word; whether it was the first.
    pub(super) fn left_out(&mut self, flow: Flow) -> bool {
        let Some(at) = place(flow) else { return false };
        let counts = &mut self.lanes[at].counts;
        counts.left_out += 1;
        counts.left_out == 1
    }
}

pub(super) fn charge(from: u8, event: &PeerEvent) -> Charge {
    Charge { flow: event.flow(), peer: PeerId::Node { index: from }, bytes: event.size() }
}
