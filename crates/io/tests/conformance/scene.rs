//! Two drivers and what they have said: the words in which the claims are written.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use busway_io::{ConnectionId, Driver, Event, Fault, Listen, ListenError, Listening, Read, Submitted};

use crate::place::{Landing, Parcel, Place};

pub(crate) type Said = Event<Landing, Parcel>;

/// Whose driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Near,
    Far,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) near: ConnectionId,
    pub(crate) far: ConnectionId,
}

pub(crate) struct Scene<P: Place> {
    pub(crate) place: P,
    pub(crate) dice: fastrand::Rng,
    near: Vec<Said>,
    far: Vec<Said>,
    far_sleeps: bool,
}

impl<P: Place> Scene<P> {
    pub(crate) fn new(place: P) -> Self {
        Self {
            place,
            dice: fastrand::Rng::with_seed(7),
            near: Vec::new(),
            far: Vec::new(),
            far_sleeps: false,
        }
    }

    pub(crate) fn driver(&self, who: Who) -> &P::Driver {
        match who {
            Who::Near => self.place.near(),
            Who::Far => self.place.far(),
        }
    }

    /// What `who` was told and has not looked at.
    pub(crate) fn said(&mut self, who: Who) -> &mut Vec<Said> {
        match who {
            Who::Near => &mut self.near,
            Who::Far => &mut self.far,
        }
    }

    /// Lets both go on for a moment.
    pub(crate) fn step(&mut self) {
        self.place.near().poll(Some(Duration::from_millis(1)), &mut self.near);
        if !self.far_sleeps {
            self.place.far().poll(Some(Duration::from_millis(1)), &mut self.far);
        }
    }

    /// Whether the far process polls.
    pub(crate) fn far_sleeps(&mut self, sleeps: bool) {
        self.far_sleeps = sleeps;
    }

    /// Goes on until `done` says so; for a minute of the driver's clock.
    pub(crate) fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline_ns = self.place.near().now_ns() + 60_000_000_000;
        loop {
            if let Some(found) = done(self) {
                return found;
            }
            let late = self.place.near().now_ns() > deadline_ns;
            assert!(
                !late,
                "never: {what}; {}; near {:?}, far {:?}",
                self.place.describe(),
                self.near,
                self.far
            );
            self.step();
        }
    }

    /// Waits for what `pick` takes.
    pub(crate) fn wait<T>(&mut self, who: Who, what: &str, mut pick: impl FnMut(&Said) -> Option<T>) -> T {
        self.until(what, |scene| {
            let said = scene.said(who);
            let (index, found) = said.iter().enumerate().find_map(|(index, s)| Some((index, pick(s)?)))?;
            said.remove(index);
            Some(found)
        })
    }

    /// Nothing that `wrong` recognises is said for 50 ms of the driver's clock.
    pub(crate) fn quiet(&mut self, what: &str, wrong: impl Fn(&Said) -> bool) {
        let until_ns = self.place.near().now_ns() + 50_000_000;
        while self.place.near().now_ns() < until_ns {
            self.step();
            let said = self.near.iter().chain(&self.far).find(|said| wrong(said));
            assert!(said.is_none(), "{what}: {said:?}; {}", self.place.describe());
        }
    }

    pub(crate) fn listen_at(&mut self, ip: IpAddr, refusal: &[u8]) -> Listening {
        let how = Listen { address: SocketAddr::new(ip, 0), backlog: 1024, refusal: refusal.to_vec() };
        self.place.far().listen(how).unwrap()
    }

    /// Listens at the far host's first address, at a port that nobody is given who asks for any: where nobody listens any more,
    /// nobody does.
    pub(crate) fn listen_apart(&mut self) -> Listening {
        let ip = self.place.far_addresses()[0];
        loop {
            let port = self.place.port_apart(&mut self.dice);
            let how = Listen { address: SocketAddr::new(ip, port), backlog: 1024, refusal: Vec::new() };
            match self.place.far().listen(how) {
                Err(ListenError { fault: Fault::AddressInUse, .. }) => {}
                listening => return listening.unwrap(),
            }
        }
    }

    /// Listens at the far host's first address.
    pub(crate) fn listen(&mut self) -> Listening {
        let ip = self.place.far_addresses()[0];
        self.listen_at(ip, b"")
    }

    pub(crate) fn dialed(&mut self, who: Who, connection: ConnectionId) -> Result<(), Fault> {
        self.wait(who, "a dial's outcome", |said| match said {
            Event::Dialed { connection: c, result } if *c == connection => Some(*result),
            _ => None,
        })
    }

    pub(crate) fn accepted(&mut self) -> (ConnectionId, SocketAddr) {
        self.wait(Who::Far, "an accepted connection", |said| match said {
            Event::Accepted { connection, peer, .. } => Some((*connection, *peer)),
            _ => None,
        })
    }

    pub(crate) fn connect_to(&mut self, address: SocketAddr) -> (Pair, SocketAddr) {
        let near = self.place.near().dial(address);
        assert_eq!(self.dialed(Who::Near, near), Ok(()), "{}", self.place.describe());
        let (far, peer) = self.accepted();
        (Pair { near, far }, peer)
    }

    /// A listener and one connection.
    pub(crate) fn connect(&mut self) -> Pair {
        let listening = self.listen();
        self.connect_to(listening.address).0
    }

    /// One write, whenever it is done.
    pub(crate) fn write(
        &mut self,
        who: Who,
        connection: ConnectionId,
        parcel: Parcel,
    ) -> (Parcel, Result<usize, Fault>) {
        match self.driver(who).write(connection, parcel) {
            Submitted::Done { buffer, result } => (buffer, result),
            Submitted::Pending => self.written(who, connection),
        }
    }

    pub(crate) fn written(&mut self, who: Who, connection: ConnectionId) -> (Parcel, Result<usize, Fault>) {
        self.until("a write's end", |scene| {
            let said = scene.said(who);
            let found =
                |said: &Said| matches!(said, Event::Written { connection: c, .. } if *c == connection);
            let index = said.iter().position(found)?;
            match said.remove(index) {
                Event::Written { pieces, result, .. } => Some((pieces, result)),
                _ => None,
            }
        })
    }

    /// One read, whenever it is done.
    pub(crate) fn read(
        &mut self,
        who: Who,
        connection: ConnectionId,
        sizes: [usize; 2],
    ) -> (Landing, Result<Read, Fault>) {
        match self.driver(who).read(connection, landing(sizes)) {
            Submitted::Done { buffer, result } => (buffer, result),
            Submitted::Pending => self.read_done(who, connection),
        }
    }

    pub(crate) fn read_done(&mut self, who: Who, connection: ConnectionId) -> (Landing, Result<Read, Fault>) {
        self.until("a read's end", |scene| {
            let said = scene.said(who);
            let found = |said: &Said| matches!(said, Event::Read { connection: c, .. } if *c == connection);
            let index = said.iter().position(found)?;
            match said.remove(index) {
                Event::Read { space, result, .. } => Some((space, result)),
                _ => None,
            }
        })
    }

    /// Writes all, while nobody reads.
    pub(crate) fn send(&mut self, who: Who, connection: ConnectionId, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let (_, result) = self.write(who, connection, Parcel(vec![left.to_vec()]));
            left = &left[result.unwrap()..];
        }
    }

    /// Reads until the end or a fault, and says which.
    pub(crate) fn drain(&mut self, who: Who, connection: ConnectionId) -> (Vec<u8>, Result<(), Fault>) {
        let mut bytes = Vec::new();
        loop {
            let (landing, result) = self.read(who, connection, [300, 4096]);
            match result {
                Ok(Read::Bytes(count)) => bytes.extend(landed(&landing, count)),
                Ok(Read::End) => return (bytes, Ok(())),
                Err(fault) => return (bytes, Err(fault)),
            }
        }
    }

    /// Reads exactly `count` bytes.
    pub(crate) fn receive(&mut self, who: Who, connection: ConnectionId, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (landing, result) = self.read(who, connection, [count - bytes.len(), 0]);
            match result {
                Ok(Read::Bytes(count)) => bytes.extend(landed(&landing, count)),
                other => panic!("{other:?} after {} bytes; {}", bytes.len(), self.place.describe()),
            }
        }
        bytes
    }
}

pub(crate) fn landing(sizes: [usize; 2]) -> Landing {
    Landing { first: vec![0; sizes[0]], second: vec![0; sizes[1]] }
}

/// The first `count` bytes of both spans.
pub(crate) fn landed(landing: &Landing, count: usize) -> Vec<u8> {
    landing.first.iter().chain(&landing.second).copied().take(count).collect()
}
