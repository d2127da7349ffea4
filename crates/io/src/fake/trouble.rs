//! What befalls hosts and connections, in the network in memory.
//!
//! Crashes, starts and cuts in the middle. It does not choose them: who tests does.
//!
//! Invariant: after a crash nothing of the process is left on its host; its peers learn of it only by the network.

use crate::driver::Fault;
use crate::fake::host::{Contact, HostId};
use crate::fake::network::{Crash, Happening, State, StreamId};
use crate::fake::stream::{Segment, Side};

impl State {
    pub(crate) fn crash(&mut self, id: HostId, how: Crash) {
        let host = self.host(id);
        host.up = how == Crash::Process;
        let contacts: Vec<Contact> = host.contacts.values().copied().collect();
        let waiting: Vec<StreamId> =
            host.doors.values().flat_map(|d| d.waiting.iter().map(|(s, _)| *s)).collect();
        host.forget_process();
        let held = contacts.iter().filter_map(|contact| contact.stream);
        let ends: Vec<(StreamId, Side)> =
            held.chain(waiting.iter().map(|id| (*id, Side::Accepted))).collect();
        for (id, side) in ends {
            match how {
                Crash::Process => self.end(id, side),
                Crash::Power => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.end_mut(side).open = false;
                        stream.pipe_mut(side).lose();
                    }
                    self.forget_if_over(id);
                }
            }
        }
    }

    /// The process of `id` starts, on a host that has power.
    pub(crate) fn start(&mut self, id: HostId) -> u64 {
        let host = self.host(id);
        let was_up = std::mem::replace(&mut host.up, true);
        host.forget_process();
        let incarnation = host.incarnation;
        if !was_up {
            let others: Vec<HostId> = self.hosts.keys().copied().collect();
            for other in others {
                self.heal(other, id);
            }
        }
        incarnation
    }

    /// Every connection between the two, and which end of it the first one has.
    pub(crate) fn between(&self, one: HostId, other: HostId) -> Vec<(StreamId, Side)> {
        let mut found = Vec::new();
        for (id, stream) in &self.streams {
            for side in Side::BOTH {
                if stream.route(side) == (one, other) {
                    found.push((*id, side));
                }
            }
        }
        found
    }

    /// What `side` has sent ends somewhere on its way, as if that were all; the sender is told that it is cut.
    pub(crate) fn truncate(&mut self, id: StreamId, side: Side) {
        let now_ns = self.now_ns;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let pipe = stream.pipe_mut(side);
        let mut flight = std::mem::take(&mut pipe.flight);
        let kept = self.dice.below(flight.len() + 1);
        if let Some(cut) = flight.get_mut(kept) {
            let size = self.dice.below(cut.bytes.len() + 1);
            cut.bytes.truncate(size);
            cut.end = false;
        }
        flight.truncate(kept + 1);
        let arrives_ns = flight.back().map_or(now_ns, |last| last.arrives_ns);
        flight.push_back(Segment { arrives_ns, bytes: Vec::new(), end: true });
        self.fail(id, side, Fault::Reset);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pipe_mut(side).flight = flight;
        }
        self.later(arrives_ns.saturating_sub(now_ns), Happening::Land { stream: id, side });
    }
}
