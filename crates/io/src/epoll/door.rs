//! Where peers come in: listening sockets, and what happens when no descriptor is left for a newcomer.
//!
//! A process without descriptors cannot even refuse. So one is kept: it is closed, the newcomer takes its place,
//! is told why, and goes; then it is taken again. After a burst of refusals the listener pauses, because a storm
//! must not keep the poller busy; who waits, waits in the kernel.
//!
//! It does not know connections: it hands over descriptors.
//!
//! Invariant: a pause ends by the clock, whatever happens.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec, read};
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen,
    send, shutdown, socket_with, sockopt,
};

use crate::driver::{Admission, Counters, Fault, Listen, ListenError, ListenerId, Listening};
use crate::epoll::errno;

/// Peers accepted from one listener before others have their turn.
const ACCEPTED_COUNT_MAX: usize = 64;

/// Peers refused before a pause. As many as are accepted: the cost is the same.
const REFUSED_COUNT_MAX: usize = ACCEPTED_COUNT_MAX;

/// How long to leave newcomers to the kernel when descriptors have run out. Short against the second in which a
/// peer gives up its handshake, long against the time that 64 refusals take.
const PAUSE_NS: u64 = 50_000_000;

/// Bytes of a refusal that are tried. Every socket's buffer takes them at once.
const REFUSAL_BYTES_MAX: usize = 4096;

/// Bytes of a newcomer that are read and forgotten before it is closed: its hello. Left unread, they would make
/// the kernel cut the connection, and the refusal with it.
const FORGOTTEN_BYTES_MAX: usize = 4096;

/// A newcomer.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) listener: ListenerId,
    pub(crate) descriptor: OwnedFd,
    pub(crate) peer: SocketAddr,
}

#[derive(Debug)]
struct Door {
    socket: OwnedFd,
    refusal: Vec<u8>,
    paused_until_ns: Option<u64>,
    admission: Admission,
}

impl Door {
    /// Tells the poller whether we want to know who comes. It cannot fail: the listener is on the poller. If it did,
    /// the listener would only not pause.
    fn arm(&self, poller: &OwnedFd, listener: ListenerId) {
        let open = self.admission == Admission::Open && self.paused_until_ns.is_none();
        let interest = if open { EventFlags::IN } else { EventFlags::empty() };
        let _ = epoll::modify(poller, &self.socket, EventData::new_u64(listener.0), interest);
    }
}

/// All listeners of a driver, and the descriptor that is kept.
#[derive(Debug)]
pub(crate) struct Doors {
    doors: BTreeMap<ListenerId, Door>,
    spare: Option<OwnedFd>,
    counters: Counters,
}

/// What one attempt to accept has brought.
enum Attempt {
    Came(OwnedFd, SocketAddr),
    Nobody,
    Gone,
    Shortage,
}

impl Doors {
    /// `any` is a descriptor whose copy can be the one that is kept.
    pub(crate) fn new(any: impl AsFd) -> Self {
        Self { doors: BTreeMap::new(), spare: spare(&any), counters: Counters::default() }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn open(
        &mut self,
        poller: &OwnedFd,
        listener: ListenerId,
        how: Listen,
    ) -> Result<Listening, ListenError> {
        let error = |number| ListenError { address: how.address, fault: errno::fault(number) };
        let (socket, address) = bound(&how).map_err(error)?;
        epoll::add(poller, &socket, EventData::new_u64(listener.0), EventFlags::IN).map_err(error)?;
        let mut refusal = how.refusal;
        refusal.truncate(REFUSAL_BYTES_MAX);
        self.doors
            .insert(listener, Door { socket, refusal, paused_until_ns: None, admission: Admission::Open });
        Ok(Listening { listener, address })
    }

    pub(crate) fn shut(&mut self, listener: ListenerId) {
        // The descriptor has no copy, so closing it takes it off the poller too.
        self.doors.remove(&listener);
    }

    pub(crate) fn admit(&mut self, poller: &OwnedFd, listener: ListenerId, admission: Admission) {
        if let Some(door) = self.doors.get_mut(&listener) {
            door.admission = admission;
            door.arm(poller, listener);
        }
    }

    pub(crate) fn has(&self, listener: ListenerId) -> bool {
        self.doors.contains_key(&listener)
    }

    /// Takes in one burst of those who wait at `listener`.
    pub(crate) fn accept(&mut self, poller: &OwnedFd, listener: ListenerId, now_ns: u64) -> Vec<Newcomer> {
        let mut newcomers = Vec::new();
        let Some(door) = self.doors.get_mut(&listener) else { return newcomers };
        for _ in 0..ACCEPTED_COUNT_MAX {
            match attempt(&door.socket) {
                Attempt::Came(descriptor, peer) => {
                    // Refused only where the peer has gone already; the next call on the connection says so.
                    let _ = sockopt::set_tcp_nodelay(&descriptor, true);
                    self.counters.accepted += 1;
                    newcomers.push(Newcomer { listener, descriptor, peer });
                }
                Attempt::Nobody => return newcomers,
                Attempt::Gone => self.counters.aborted += 1,
                Attempt::Shortage => {
                    self.refuse(poller, listener, now_ns);
                    return newcomers;
                }
            }
        }
        newcomers
    }

    /// Refuses a burst of newcomers in the place of the spare descriptor, then pauses.
    fn refuse(&mut self, poller: &OwnedFd, listener: ListenerId, now_ns: u64) {
        let Some(door) = self.doors.get_mut(&listener) else { return };
        for _ in 0..REFUSED_COUNT_MAX {
            if self.spare.take().is_none() {
                break;
            }
            let attempt = attempt(&door.socket);
            let more = match attempt {
                Attempt::Came(descriptor, _) => {
                    send_away(&descriptor, &door.refusal);
                    self.counters.refused += 1;
                    true
                }
                Attempt::Gone => true,
                Attempt::Nobody | Attempt::Shortage => false,
            };
            self.spare = spare(poller);
            if !more {
                break;
            }
        }
        self.counters.pauses += 1;
        door.paused_until_ns = Some(now_ns.saturating_add(PAUSE_NS));
        door.arm(poller, listener);
    }

    /// Ends the pauses that are over.
    pub(crate) fn resume(&mut self, poller: &OwnedFd, now_ns: u64) {
        if self.spare.is_none() {
            self.spare = spare(poller);
        }
        for (listener, door) in &mut self.doors {
            if door.paused_until_ns.is_some_and(|until| until <= now_ns) {
                door.paused_until_ns = None;
                door.arm(poller, *listener);
            }
        }
    }

    /// Whether `resume` has nothing to do, whatever the time.
    pub(crate) fn is_calm(&self) -> bool {
        self.spare.is_some() && self.doors.values().all(|door| door.paused_until_ns.is_none())
    }

    /// When the next pause ends.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.doors.values().filter_map(|door| door.paused_until_ns).min()
    }
}

fn bound(how: &Listen) -> Result<(OwnedFd, SocketAddr), Errno> {
    let socket = stream(how.address)?;
    // A node that is started again must not wait until the connections of its predecessor are forgotten.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if how.address.is_ipv6() {
        // So that the same port of both families can be listened at, whatever the host's setting.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &how.address)?;
    listen(&socket, i32::from(how.backlog))?;
    let address = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, address))
}

/// A TCP socket that never blocks.
pub(crate) fn stream(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

fn attempt(socket: &OwnedFd) -> Attempt {
    loop {
        return match acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok((descriptor, peer)) => {
                // A peer that has gone may have no address any more; whoever reads will learn that it has gone.
                let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).unwrap_or(unknown);
                Attempt::Came(descriptor, peer)
            }
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Attempt::Nobody,
            Err(number) if errno::fault(number) == Fault::Shortage => Attempt::Shortage,
            // accept(2): errors of the newcomer's own connection come here too and say nothing about the listener.
            Err(_) => Attempt::Gone,
        };
    }
}

/// Best effort: says why, and that nothing more comes.
fn send_away(descriptor: &OwnedFd, refusal: &[u8]) {
    let _ = send(descriptor, refusal, SendFlags::NOSIGNAL);
    let _ = shutdown(descriptor, Shutdown::Write);
    let mut forgotten = [0u8; FORGOTTEN_BYTES_MAX];
    let _ = read(descriptor, &mut forgotten);
}

fn spare(any: &impl AsFd) -> Option<OwnedFd> {
    fcntl_dupfd_cloexec(any, 0).ok()
}
