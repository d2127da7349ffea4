//! What one host's kernel holds in the network in memory: its listeners and its connections.
//!
//! It decides nothing; `network.rs` says what happens when, and `fake.rs` what a process sees of it.
//!
//! Invariant: a name of a connection or of a listener is given once, also across crashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::driver::{ConnectionId, Counters, Fault, Listen, ListenError, ListenerId, Listening};
use crate::fake::network::StreamId;
use crate::fake::stream::Side;

/// A host of the network in memory. Its addresses follow from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u16);

impl HostId {
    /// Its IPv4 address, in 10.77.0.0/16.
    #[must_use]
    pub fn ipv4(self) -> IpAddr {
        let [high, low] = [(self.0 >> 8) as u8, (self.0 & 0xff) as u8];
        IpAddr::V4(Ipv4Addr::new(10, 77, high, low))
    }

    /// Its IPv6 address, in fd77::/16.
    #[must_use]
    pub fn ipv6(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.0))
    }

    /// Whose address this is.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => match address.octets() {
                [10, 77, high, low] => Some(Self(u16::from(high) << 8 | u16::from(low))),
                _ => None,
            },
            IpAddr::V6(address) => match address.segments() {
                [0xfd77, 0, 0, 0, 0, 0, 0, number] => Some(Self(number)),
                _ => None,
            },
        }
    }
}

/// What the process was told nothing of yet.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) connection: ConnectionId,
    pub(crate) result: Result<(), Fault>,
}

/// A connection as its own host knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contact {
    /// None while nobody has answered the dial.
    pub(crate) stream: Option<(StreamId, Side)>,
    /// False until the process was told that it is connected.
    pub(crate) stands: bool,
}

#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    backlog: usize,
    pub(crate) refusal: Vec<u8>,
    pub(crate) waiting: VecDeque<(StreamId, SocketAddr)>,
    pub(crate) paused: bool,
    pub(crate) held: bool,
}

impl Door {
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= self.backlog
    }
}

#[derive(Debug)]
pub(crate) struct Host {
    id: HostId,
    /// Drivers of earlier starts of the process are dead.
    pub(crate) incarnation: u64,
    pub(crate) up: bool,
    pub(crate) stopped: bool,
    pub(crate) swallows_connects: bool,
    pub(crate) descriptors_max: Option<usize>,
    pub(crate) contacts: BTreeMap<ConnectionId, Contact>,
    pub(crate) doors: BTreeMap<ListenerId, Door>,
    pub(crate) answers: VecDeque<Answer>,
    /// Connections on which something has changed since the last poll.
    pub(crate) touched: BTreeSet<ConnectionId>,
    pub(crate) counters: Counters,
    named: u64,
    ports: u16,
}

impl Host {
    pub(crate) fn new(id: HostId) -> Self {
        Self {
            id,
            incarnation: 0,
            up: true,
            stopped: false,
            swallows_connects: false,
            descriptors_max: None,
            contacts: BTreeMap::new(),
            doors: BTreeMap::new(),
            answers: VecDeque::new(),
            touched: BTreeSet::new(),
            counters: Counters::default(),
            named: 0,
            ports: 0,
        }
    }

    pub(crate) fn name(&mut self) -> u64 {
        self.named += 1;
        self.named
    }

    /// Whether the process would be told something now.
    pub(crate) fn is_stirred(&self) -> bool {
        let knocked = |door: &Door| !door.paused && !door.held && !door.waiting.is_empty();
        let any = !self.touched.is_empty() || !self.answers.is_empty() || self.doors.values().any(knocked);
        any && !self.stopped
    }

    /// A port that the kernel chooses. Distinct as long as fewer than 16 384 are in use.
    pub(crate) fn port(&mut self) -> u16 {
        self.ports = (self.ports + 1) % 16_384;
        49_152 + self.ports
    }

    pub(crate) fn has_descriptor(&self) -> bool {
        self.descriptors_max.is_none_or(|most| self.contacts.len() < most)
    }

    pub(crate) fn listen(&mut self, how: Listen) -> Result<Listening, ListenError> {
        let mut address = how.address;
        let error = |fault| Err(ListenError { address: how.address, fault });
        if !address.ip().is_unspecified() && HostId::of(address.ip()) != Some(self.id) {
            return error(Fault::AddressUnknown);
        }
        if address.port() == 0 {
            address.set_port(self.port());
        }
        if self.doors.values().any(|door| overlap(door.address, address)) {
            return error(Fault::AddressInUse);
        }
        let listener = ListenerId(self.name());
        let door = Door {
            address,
            backlog: usize::from(how.backlog).max(1),
            refusal: how.refusal,
            waiting: VecDeque::new(),
            paused: false,
            held: false,
        };
        self.doors.insert(listener, door);
        Ok(Listening { listener, address })
    }

    /// Who listens at `address`.
    pub(crate) fn door_at(&self, address: SocketAddr) -> Option<ListenerId> {
        self.doors.iter().find(|(_, door)| overlap(door.address, address)).map(|(listener, _)| *listener)
    }

    /// The process has died: what it had is gone.
    pub(crate) fn forget_process(&mut self) {
        self.incarnation += 1;
        self.stopped = false;
        self.contacts.clear();
        self.doors.clear();
        self.answers.clear();
        self.touched.clear();
        self.counters = Counters::default();
    }
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && (everywhere || one.ip() == other.ip())
}
