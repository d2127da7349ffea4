//! The gates of this host's interfaces, and the looks at the kernel by which they decide.
//!
//! A connection asks when it has bulk to send, and only then: what is small passes without a word. The gate says which connections are to be looked
//! at: this one, and, when there is no room, others, since theirs may have gone out meanwhile. Nothing leaves this host by the loopback interface, so
//! that there is no gate for it.
//!
//! Invariant: a connection that is gone is known to no gate.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use busway_io::{ConnectionId, Driver};
use busway_protocol::{Backlog, Gate, Session, Time};

use crate::ports::lock;
use crate::runtime::{Outbound, Pieces, Staging};

/// A gate for each of our own addresses: that is, for each interface.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<BTreeMap<IpAddr, Gate>>);

/// The way of one connection through its gate.
#[derive(Debug)]
pub(crate) struct Passage {
    gates: Arc<Gates>,
    interface: IpAddr,
    connection: ConnectionId,
    /// It has had bulk to send.
    entered: bool,
    /// It has some, as far as the gate knows.
    wants: bool,
    /// The round trip that was told last.
    round_trip_ns: u64,
    /// What had gone of bulk when the gate was told last.
    bulk_out: u64,
    /// Bulk waits at least until then.
    held_until: Option<Time>,
    /// What it was given of the interface when the gate was asked last.
    turn: u64,
    /// Bulk was held since its peer was pumped last, so that something may wait behind it.
    left: bool,
}

impl Passage {
    /// `None` where there is no gate.
    pub(crate) fn new<D: Driver<Staging, Pieces>>(
        gates: &Arc<Gates>,
        driver: &D,
        connection: ConnectionId,
    ) -> Option<Self> {
        let interface = driver.local_ip(connection).filter(|address| !address.is_loopback())?;
        let (gates, entered) = (gates.clone(), false);
        Some(Self {
            gates,
            interface,
            connection,
            entered,
            wants: false,
            round_trip_ns: 0,
            bulk_out: 0,
            held_until: None,
            turn: 0,
            left: false,
        })
    }

    /// Tells the session how much bulk may begin to go now.
    pub(crate) fn look<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        now: Time,
        session: &mut Session<Outbound>,
    ) {
        self.tell_round_trip(now, session);
        if !session.has_bulk() {
            if std::mem::take(&mut self.wants)
                && let Some(gate) = lock(&self.gates.0).get_mut(&self.interface)
            {
                gate.rests(id(self.connection));
            }
            self.held_until = None;
            return;
        }
        if self.held_until.is_some_and(|until| now < until) {
            return;
        }
        (self.entered, self.wants) = (true, true);
        let id = id(self.connection);
        let mut gates = lock(&self.gates.0);
        let gate = gates.entry(self.interface).or_default();
        let bulk_out = session.bulk_out();
        gate.charge(id, bulk_out.saturating_sub(std::mem::replace(&mut self.bulk_out, bulk_out)));
        // A connection that cannot say is about to be told as gone.
        let room = gate.room(now, id, |of| driver.backlog(ConnectionId(of.0)).ok().map(backlog_of));
        if gate.asks(now, id) {
            session.ask(now);
        }
        tracing::trace!(target: "busway::link", room, bound = gate.bound(), rate = gate.rate(id), round_trip_ns = self.round_trip_ns, "bulk");
        session.set_bulk_room(Some(room));
        self.held_until = (room == 0).then(|| gate.wait_until(now, id));
        self.turn = gate.charged(id);
        self.left |= room == 0;
    }

    /// A link that has just no bulk measures the way without it.
    fn tell_round_trip(&mut self, now: Time, session: &Session<Outbound>) {
        let round_trip_ns = session.stats().map_or(0, |stats| stats.round_trip_ns);
        if round_trip_ns != self.round_trip_ns {
            self.round_trip_ns = round_trip_ns;
            let mut gates = lock(&self.gates.0);
            gates.entry(self.interface).or_default().round_trip(now, id(self.connection), round_trip_ns);
        }
    }

    /// So much was written.
    pub(crate) fn wrote(&self, bytes: usize) {
        if self.entered
            && let Some(gate) = lock(&self.gates.0).get_mut(&self.interface)
        {
            gate.wrote(id(self.connection), bytes as u64);
        }
    }

    /// Its peer is pumped.
    pub(crate) const fn pumped(&mut self) {
        self.left = false;
    }

    /// Whether bulk that was held has gone, and nobody has looked what waited behind it.
    pub(crate) const fn is_left(&self) -> bool {
        self.left && self.held_until.is_none()
    }

    /// What the link was given of its interface, as far as others were as well.
    pub(crate) const fn turn(&self) -> u64 {
        self.turn
    }

    /// When to look again, while bulk is held up.
    pub(crate) const fn held_until(&self) -> Option<Time> {
        self.held_until
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut gates = lock(&self.gates.0);
        if let Some(gate) = gates.get_mut(&self.interface) {
            gate.forget(id(self.connection));
        }
    }
}

const fn backlog_of(backlog: busway_io::Backlog) -> Backlog {
    Backlog { unacknowledged: backlog.unacknowledged, here: backlog.here }
}

const fn id(connection: ConnectionId) -> busway_protocol::ConnectionId {
    busway_protocol::ConnectionId(connection.0)
}
