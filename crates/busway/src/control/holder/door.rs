//! The door of the holder: who may come in, and how long one may stand in it.
//!
//! Everybody of the realm may connect, so what a connection can do before it has said Hello is bounded apart: a
//! deadline, and a number of such connections past which the oldest is closed. A Hello is believed after its memory
//! has been checked and mapped. Where descriptors are short, who connects waits in the backlog.
//!
//! Invariant: a connection is `Joined` only if its arena was mapped and says that its owner lives.

use super::{BATCH, Connection, Holder, Stage};
use crate::control::VERSION;
use crate::control::base::{Base, Interest, Token};
use crate::control::channel::{Channel, Enclosed, MemberFds, Received};
use crate::control::rendezvous::{Identity, Input, Leaving, MemberId, Output};
use crate::directory::Realm;
use crate::error::{Code, Error, memory};
use crate::log::Line;
use busway_shm::arena::PeerArena;
use busway_shm::fork::PrivateFd;
use busway_shm::layout::layout_hash;
use busway_shm::life::Life;
use busway_shm::sys::credentials::Credentials;
use busway_wire::Control as Message;
use busway_wire::limits::{ACCEPT_PAUSE_MS, MEMBERS_MAX};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::sync::Arc;

/// Connections that have not said Hello yet. A member says it with its connect, so a few are enough also when
/// hundreds start at once, if each is heard before it is judged; past it the oldest that is silent is closed.
const UNIDENTIFIED_MAX: usize = 64;

/// How long a connection may wait with its Hello.
const HANDSHAKE_NS: u64 = 2_000_000_000;

/// Descriptors that one accepted connection needs until it is a member: itself, two that are sent, two copies that are
/// kept of another user's, and one to spare.
const DESCRIPTORS_EACH: usize = 6;

impl Holder {
    /// Takes new connections.
    pub(in crate::control) fn accept(&mut self, base: &mut Base, now_ns: u64) {
        for _ in 0..BATCH {
            self.close_oldest_unidentified(base, now_ns);
            let unidentified = self.unidentified().count();
            let accepted =
                has_descriptors(&self.listener, DESCRIPTORS_EACH * (unidentified + 1)).and_then(|()| {
                    rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
                });
            let channel = match accepted {
                Ok(socket) => Channel::new(socket).map_err(|_| Errno::MFILE),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return,
                Err(errno) => Err(errno),
            };
            match channel {
                Ok(channel) => self.admit(base, channel, now_ns),
                // Who connects waits in the backlog; taking and closing would only make it come again.
                Err(errno) => return self.pause(base, errno, now_ns),
            }
        }
    }

    /// Ends pauses and handshakes whose time has come; says when the next comes.
    pub(in crate::control) fn expire(&mut self, base: &mut Base, now_ns: u64) -> Option<u64> {
        if self.paused_until_ns.is_some_and(|until| now_ns >= until) {
            self.paused_until_ns = None;
            base.change(&self.listener, Token::Listener, Interest::Read);
        }
        let late: Vec<MemberId> =
            self.unidentified().filter(|(_, until)| now_ns >= *until).map(|(id, _)| id).collect();
        for id in late {
            let out = self.refuse(base, id, Code::ProtocolBroken, "no Hello in time", now_ns);
            self.dispatch(base, out, now_ns);
        }
        let settled_ns = self.settling.map(|settling| settling.until_ns);
        self.unidentified().map(|(_, until)| until).chain(self.paused_until_ns).chain(settled_ns).min()
    }

    fn unidentified(&self) -> impl Iterator<Item = (MemberId, u64)> {
        self.connections.iter().filter_map(|(id, connection)| match connection.stage {
            Stage::Unidentified { until_ns } => Some((*id, until_ns)),
            Stage::Joined(_) => None,
        })
    }

    fn close_oldest_unidentified(&mut self, base: &mut Base, now_ns: u64) {
        if self.unidentified().count() < UNIDENTIFIED_MAX {
            return;
        }
        self.hear_unidentified(base, now_ns);
        if self.unidentified().count() < UNIDENTIFIED_MAX {
            return;
        }
        let oldest = self.unidentified().map(|(id, _)| id).next();
        if let Some(id) = oldest {
            let out =
                self.refuse(base, id, Code::ProtocolBroken, "too many connections without a Hello", now_ns);
            self.dispatch(base, out, now_ns);
        }
    }

    /// Reads the Hello of everybody who has said it: when hundreds connect at once we accept faster than we read, and
    /// who has spoken must not be taken for one who is silent.
    fn hear_unidentified(&mut self, base: &mut Base, now_ns: u64) {
        let all: Vec<MemberId> = self.unidentified().map(|(id, _)| id).collect();
        for id in all {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            // What is wrong with the connection shows again at its own event.
            if let Ok(Received::Message(message, fds)) = connection.channel.receive(&mut base.buffer) {
                self.message(base, id, message, fds, now_ns);
            }
        }
    }

    fn pause(&mut self, base: &mut Base, errno: Errno, now_ns: u64) {
        self.paused_until_ns = Some(now_ns.saturating_add(ACCEPT_PAUSE_MS * 1_000_000));
        base.change(&self.listener, Token::Listener, Interest::Nothing);
        base.log.warn(Line::Descriptors, now_ns, || {
            format!(
                "the holder cannot accept more connections now ({errno}); raise its limit: ulimit -n 4096"
            )
        });
    }

    fn admit(&mut self, base: &mut Base, channel: Channel, now_ns: u64) {
        let Ok(Credentials { uid, pid }) = channel.credentials() else { return };
        self.last_member += 1;
        let id = MemberId(self.last_member);
        let stage = Stage::Unidentified { until_ns: now_ns.saturating_add(HANDSHAKE_NS) };
        if base.watch(&channel, Token::Member(id), Interest::Read).is_err() {
            return;
        }
        self.connections.insert(id, Connection { channel, stage, interest: Interest::Read, uid, pid });
        let ours = rustix::process::geteuid().as_raw();
        if base.directory.realm() == Realm::User && uid != ours {
            let reason = format!("the realm is uid {ours}, you are uid {uid}");
            let out = self.refuse(base, id, Code::UserRefused, &reason, now_ns);
            self.dispatch(base, out, now_ns);
        }
    }

    pub(super) fn hello(
        &mut self,
        base: &mut Base,
        id: MemberId,
        hello: Message,
        fds: Vec<OwnedFd>,
    ) -> Result<Vec<Output<Enclosed>>, Error> {
        hello
            .check_layout(layout_hash())
            .map_err(|error| Error::new(Code::LayoutDiffers, format!("{error}; this is {VERSION}")))?;
        let Message::Hello { process, pid, name, .. } = hello else {
            return Err(Error::new(Code::ProtocolBroken, "the first message must be Hello"));
        };
        let Some(connection) = self.connections.get(&id) else { return Ok(Vec::new()) };
        // The kernel's word counts; in another pid namespace it has none and says 0.
        let (uid, pid) = (connection.uid, if connection.pid == 0 { pid } else { connection.pid });
        if self.connections.len() > MEMBERS_MAX {
            return Err(Error::new(Code::HolderRefused, "the domain has as many members as it may"));
        }
        let refused = |reason: &str| Error::new(Code::SegmentRefused, reason);
        let Some(fds) = MemberFds::from_received(fds) else {
            return Err(refused("Hello comes with arena and bulk"));
        };
        // Its memory is checked before anything is done in its name.
        let peer = PeerArena::map(&fds.arena, &fds.bulk, process).map_err(|error| {
            let error = memory(&error, "");
            Error::new(error.code(), format!("your memory is refused: {}", error.cause()))
        })?;
        let enclosed = Enclosed::Member(Arc::new(fds));
        if peer.life() != Life::Alive {
            return Err(refused("your life word does not say that you are alive"));
        }
        let mut out = Vec::new();
        if let Some(known) = self.rendezvous.member_of(process) {
            // Of two in other pid namespaces the kernel does not say whether they are one: the old connection does.
            let same = self.connections.get(&known).is_some_and(|old| {
                (old.uid, old.pid) == (uid, connection.pid) && (old.pid != 0 || old.channel.is_hung_up())
            });
            if !same {
                return Err(Error::new(Code::ProtocolBroken, "another process has this id"));
            }
            // It noticed the loss of its old connection before we did.
            out = self.remove(base, known, Some(Leaving::Lost));
        }
        self.lost.retain(|lost| *lost != process);
        // Strangers are not those whom answers wait for after a take-over.
        self.returned += usize::from(peer.was_member());
        base.peers.meet(peer);
        let welcome = Message::Welcome {
            process: base.process(),
            pid: std::process::id(),
            name: base.settings.name.clone(),
            budget_bytes: self.domain.ledger().budget(),
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = Stage::Joined(process);
        }
        // Before it is welcomed: if we die right after, a starter must know that it has a rival.
        self.describe(base);
        if let Some(connection) = self.connections.get_mut(&id) {
            // An error shows again with the next send or receive.
            let _ = connection.channel.send(&welcome, Enclosed::Domain(Arc::clone(&self.domain)));
        }
        self.rendezvous.handle(id, Input::Joined(Identity { process, pid, name }, enclosed), &mut out);
        Ok(out)
    }
}

/// Whether so many descriptors could be opened now: they are, and closed again.
fn has_descriptors(any: &PrivateFd, count: usize) -> Result<(), Errno> {
    let mut opened = Vec::with_capacity(count);
    for _ in 0..count {
        opened.push(rustix::io::fcntl_dupfd_cloexec(any, 0)?);
    }
    Ok(())
}
