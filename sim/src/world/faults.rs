//! Carries out what goes wrong, and takes it back.
//!
//! Invariant: what one fault has done, its end undoes, whatever others do meanwhile.

use busway_protocol::Time;

use super::{Event, World};
use crate::fault::{Fault, Pair, Planned};
use crate::network::{End, Side};
use crate::node::Node;
use crate::phase::Phase;
use crate::trace::Happening;

/// How a fault ends.
#[derive(Debug)]
pub(super) enum Undo {
    Unblock { ways: Vec<Pair>, touched: Vec<Pair> },
    Hear { pair: Pair },
    Fast { host: usize },
    Go { host: usize },
    Start { host: usize },
    Drained { host: usize, duration_ms: u64 },
    Wanted { host: usize },
    Leave { host: usize, connections: Vec<u64> },
}

/// A node that was told to end its links in order is killed after this long.
const DRAIN_MS: u64 = 3_000;

impl World {
    /// Enters a fault.
    pub fn plan(&mut self, planned: Planned) {
        self.agenda.enter(planned.at, Event::Plan(Box::new(planned)));
    }

    /// Lets it happen now.
    pub fn strike_now(&mut self, fault: Fault, duration_ms: u64) {
        let (at, amount) = (self.now, 0);
        self.strike(&Planned { fault, at, phase: None, duration_ms, amount });
    }

    /// Waits for its phase, or lets it happen.
    pub(super) fn arm(&mut self, planned: Planned) {
        if planned.phase.is_none() || self.is_met(&planned) {
            return self.strike(&planned);
        }
        self.numbered += 1;
        let number = self.numbered;
        let at = self.now.after_ms(Planned::PATIENCE_MS);
        self.agenda.enter(at, Event::Expire { number });
        self.armed.insert(number, planned);
    }

    /// Lets happen what has waited for what this host has just come to.
    pub(super) fn spring(&mut self, host: usize) {
        let touches = |planned: &Planned| {
            planned.fault.pairs(self.crowd()).iter().any(|pair| pair.from == host || pair.to == host)
        };
        let met = |(_, planned): &(&u64, &Planned)| touches(planned) && self.is_met(planned);
        let Some(number) = self.armed.iter().find(met).map(|(&number, _)| number) else { return };
        if let Some(planned) = self.armed.remove(&number) {
            // Not inside the step that has led to it.
            self.agenda.enter(self.now, Event::Plan(Box::new(Planned { phase: None, ..planned })));
        }
    }

    fn is_met(&self, planned: &Planned) -> bool {
        let pairs = planned.fault.pairs(self.crowd());
        pairs.iter().any(|pair| Some(self.phase_of(*pair)) == planned.phase)
    }

    /// How far the two are with each other: the further of both.
    fn phase_of(&self, pair: Pair) -> Phase {
        let one = |a: usize, b: usize| {
            self.hosts[a].node.as_ref().map_or(Phase::Apart, |node| node.phase(self.peer(b)))
        };
        one(pair.from, pair.to).max(one(pair.to, pair.from))
    }

    /// Lets a fault happen.
    pub(super) fn strike(&mut self, planned: &Planned) {
        let pairs = planned.fault.pairs(self.crowd());
        for &pair in &pairs {
            let phase = self.phase_of(pair);
            self.coverage.met(&planned.fault, phase);
            self.touch(pair);
        }
        let note = &format!("{:?}", planned.fault);
        let host = pairs.first().map_or(0, |pair| pair.from);
        let (whom, much) = (planned.fault.number() as u64, planned.duration_ms);
        self.trace.note(self.now, Happening { host, what: "fault", whom, much, source: 0, note });
        let both = |pair: Pair| [pair, Pair { from: pair.to, to: pair.from }];
        match planned.fault.clone() {
            Fault::Partition(_) | Fault::Isolate(_) => {
                let ways = pairs.iter().copied().flat_map(both).collect();
                self.block(ways, pairs, planned.duration_ms);
            }
            Fault::OneWay(pair) => self.block(vec![pair], pairs, planned.duration_ms),
            Fault::Reset(pair) => {
                for connection in self.connections(pair) {
                    self.network.reset(self.now, connection);
                }
            }
            Fault::Truncate(pair) => {
                for end in self.ends(pair) {
                    self.network.truncate(end, usize::try_from(planned.amount).unwrap_or(0));
                }
            }
            Fault::Corrupt(pair) => {
                for end in self.ends(pair) {
                    self.network.corrupt(end);
                }
            }
            Fault::Swallow(pair) => {
                for connection in self.connections(pair) {
                    self.network.swallow(connection);
                }
            }
            Fault::Ignore(pair) => {
                self.network.ignore(pair.from, pair.to);
                self.network.ignore(pair.to, pair.from);
                self.hold(&[pair]);
                self.end(planned.duration_ms, Undo::Hear { pair });
            }
            Fault::HalfClose(pair) => {
                for end in self.ends(pair) {
                    self.network.shutdown(self.now, end);
                }
            }
            Fault::Slow(host) | Fault::Stop(host) | Fault::Crash(host) | Fault::Drain(host) => {
                self.strike_host(planned, host, &pairs);
            }
            Fault::Strangers(host) => {
                self.hold(&pairs);
                let connections = self.strangers_come(host, planned.amount);
                self.end(planned.duration_ms, Undo::Leave { host, connections });
            }
            Fault::ClockJump(host) => {
                self.hosts[host].skew_ns += planned.duration_ms * 1_000_000;
                self.with_node(host, Node::pump);
            }
            Fault::Idle(host) => {
                self.hosts[host].idle += 1;
                self.end(planned.duration_ms, Undo::Wanted { host });
            }
        }
    }

    fn strike_host(&mut self, planned: &Planned, host: usize, pairs: &[Pair]) {
        self.hold(pairs);
        match planned.fault {
            Fault::Slow(_) => {
                self.hosts[host].slow += 1;
                self.end(planned.duration_ms, Undo::Fast { host });
            }
            Fault::Stop(_) => {
                self.hosts[host].stopped += 1;
                self.end(planned.duration_ms, Undo::Go { host });
            }
            Fault::Drain(_) => {
                self.with_node(host, Node::drain);
                self.end(DRAIN_MS, Undo::Drained { host, duration_ms: planned.duration_ms });
            }
            _ => {
                self.kill(host);
                self.end(planned.duration_ms, Undo::Start { host });
            }
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Unblock { ways, touched } => {
                for way in ways {
                    self.network.unblock(self.now, way.from, way.to);
                }
                self.release(&touched);
            }
            Undo::Hear { pair } => {
                self.network.hear(pair.from, pair.to);
                self.network.hear(pair.to, pair.from);
                self.release(&[pair]);
            }
            Undo::Fast { host } => {
                self.hosts[host].slow -= 1;
                self.release_host(host);
                self.with_node(host, Node::pump);
            }
            Undo::Go { host } => {
                self.hosts[host].stopped -= 1;
                self.release_host(host);
                if self.hosts[host].stopped == 0 {
                    for (end, notice) in std::mem::take(&mut self.hosts[host].pending) {
                        self.with_node(host, |node, around| node.notice(end, notice, around));
                    }
                    self.with_node(host, Node::pump);
                }
            }
            Undo::Drained { host, duration_ms } => {
                self.kill(host);
                self.end(duration_ms, Undo::Start { host });
            }
            Undo::Start { host } => {
                self.start(host);
                self.release_host(host);
            }
            Undo::Leave { host, connections } => {
                self.strangers_leave(&connections);
                self.release_host(host);
            }
            Undo::Wanted { host } => {
                self.hosts[host].idle -= 1;
                self.settle(host);
            }
        }
    }

    /// Blocks these ways until the fault ends.
    pub fn block(&mut self, ways: Vec<Pair>, touched: Vec<Pair>, duration_ms: u64) {
        for way in &ways {
            self.network.block(way.from, way.to);
        }
        self.hold(&touched);
        self.end(duration_ms, Undo::Unblock { ways, touched });
    }

    fn end(&mut self, duration_ms: u64, undo: Undo) {
        self.agenda.enter(self.now.after_ms(duration_ms), Event::Undo(Box::new(undo)));
    }

    fn connections(&self, pair: Pair) -> Vec<u64> {
        self.network.between(pair.from, pair.to).collect()
    }

    /// The first host's ends of the connections of a pair.
    fn ends(&self, pair: Pair) -> Vec<End> {
        let mine = |&connection: &u64| {
            let dialed = End { connection, side: Side::Dialer };
            let side =
                if self.network.peer_of(dialed) == Some(pair.to) { Side::Dialer } else { Side::Acceptor };
            End { connection, side }
        };
        self.connections(pair).iter().map(mine).collect()
    }

    /// The pair cannot be expected to be linked, until `calm`.
    pub fn disturb(&mut self, pair: Pair) {
        self.hold(&[pair]);
    }

    /// Takes one `disturb` back.
    pub fn calm(&mut self, pair: Pair) {
        self.release(&[pair]);
    }

    /// A fault has touched the pair just now.
    pub fn touch(&mut self, pair: Pair) {
        let now = self.now;
        self.touched.entry(World::pair_key(pair)).or_insert((Time(0), 0)).0 = now;
    }

    /// A fault touches the pairs until it ends.
    pub(super) fn hold(&mut self, pairs: &[Pair]) {
        for &pair in pairs {
            self.touch(pair);
            self.touched.entry(World::pair_key(pair)).or_insert((Time(0), 0)).1 += 1;
        }
    }

    pub(super) fn release(&mut self, pairs: &[Pair]) {
        for &pair in pairs {
            self.touch(pair);
            self.touched.entry(World::pair_key(pair)).or_insert((Time(0), 1)).1 -= 1;
        }
    }

    fn release_host(&mut self, host: usize) {
        let pairs = Fault::Stop(host).pairs(self.crowd());
        self.release(&pairs);
    }
}
