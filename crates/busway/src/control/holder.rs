//! The role of the process that holds the rendezvous: its socket, its connections, and who may be on them.
//!
//! The holder has the lock. It binds under a temporary name, listens, and renames over `NAME.sock`, so that nobody
//! ever connects to a socket that is not listened on but one whose holder has died. It turns datagrams into inputs
//! of the [`Rendezvous`] and its outputs into datagrams; it decides nothing about topics.
//!
//! Who may come in is decided at its `door`. Whoever breaks the protocol is told why and loses its own connection only.
//!
//! Invariant: every member of the rendezvous but the holder itself has exactly one connection here, and its arena
//! has been checked and mapped.

use super::base::{Base, Beside, Interest, Token};
use super::channel::{Channel, ChannelError, Enclosed, Received, seqpacket};
use super::lock::Note;
use super::rendezvous::{Identity, Input, Leaving, MemberId, Output, Pulled, Rendezvous};
use crate::error::{Code, Error, memory, system};
use crate::log::Line;
use busway_shm::domain::Domain;
use busway_shm::fork::PrivateFd;
use busway_shm::life::Life;
use busway_shm::sync::Ordering;
use busway_wire::limits::HOLDER_ANSWER_MS;
use busway_wire::{Control as Message, ProcessId};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

mod door;

/// Connections that wait to be accepted: the kernel's own default ceiling.
const BACKLOG: i32 = 4_096;

/// Connections accepted, and messages read from one connection, before others get their turn.
const BATCH: usize = 64;

/// How long answers wait after a take-over: a hundred times what members need to come again.
const SETTLE_NS: u64 = 100_000_000;

const _: () = assert!(
    HOLDER_ANSWER_MS * 1_000_000 >= 4 * SETTLE_NS,
    "a holder that waits for the others must not be called silent"
);

/// How long registrations may be behind the last Hello of those who were expected.
const BEHIND_HELLO_NS: u64 = 5_000_000;

/// Processes that may be without a connection and alive: stopped ones that were disconnected because they did not
/// read. Past it the one that has been away longest counts as gone.
const LOST_MAX: usize = 256;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has to say Hello by then.
    Unidentified { until_ns: u64 },
    /// It speaks for this process.
    Joined(ProcessId),
}

#[derive(Debug)]
struct Connection {
    channel: Channel,
    stage: Stage,
    interest: Interest,
    uid: u32,
    pid: u32,
}

/// The time after a take-over in which members come again.
#[derive(Clone, Copy, Debug)]
struct Settling {
    until_ns: u64,
    /// Members that have yet to come, as far as the lock's text knew.
    expected: usize,
    /// All of them are here; what they had registered is right behind their Hello.
    complete: bool,
}

/// What the thread has to do after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on.
    Stay,
    /// A member asked for the role.
    HandOver(ProcessId),
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Holder {
    listener: PrivateFd,
    rendezvous: Rendezvous<Enclosed>,
    connections: BTreeMap<MemberId, Connection>,
    last_member: u64,
    paused_until_ns: Option<u64>,
    /// What the lock's text says of us.
    described: Option<Note>,
    /// Until when answers wait after a take-over, and how far that is.
    settling: Option<Settling>,
    /// Connections of processes that were members under an earlier holder.
    returned: usize,
    /// Processes that live, as their life words say, and have lost their connection: the oldest first.
    lost: VecDeque<ProcessId>,
    domain: Arc<Domain>,
    since_ns: u64,
    /// As many members are here as the former holder had, or more.
    complete: bool,
    /// By how much the ledger was above the sum a tick ago.
    ledger_off: i64,
}

impl Holder {
    /// Takes the role; the caller has the lock.
    pub(super) fn take(
        base: &mut Base,
        domain: Arc<Domain>,
        expected: usize,
        now_ns: u64,
    ) -> Result<Holder, Error> {
        let place = base.directory.path_of(&base.domain.socket()).display().to_string();
        let refuse = |errno: Errno, tried: &str| {
            system(errno, tried, Code::SocketUnusable)
                .at(place.clone())
                .remedy("see that the directory can be written and is on a local file system")
        };
        let (name, new) = (base.domain.socket(), base.domain.socket_new());
        let address = base.directory.address_of(&new)?;
        let listener = seqpacket().map_err(|errno| refuse(errno, "cannot make the socket"))?;
        let listener = PrivateFd::new(listener).map_err(|error| memory(&error, &place))?;
        // Left by a holder that was killed at this very place: the lock says that it is nobody's.
        let _ = rustix::fs::unlinkat(&base.directory, &new, AtFlags::empty());
        SocketAddrUnix::new(&address)
            .and_then(|address| rustix::net::bind(&listener, &address))
            .and_then(|()| {
                rustix::fs::chmodat(&base.directory, &new, base.directory.file_mode(), AtFlags::empty())
            })
            .and_then(|()| rustix::net::listen(&listener, BACKLOG))
            .map_err(|errno| refuse(errno, "cannot bind the socket"))?;
        base.watch(&listener, Token::Listener, Interest::Read)
            .map_err(|errno| refuse(errno, "cannot watch the socket"))?;
        rustix::fs::renameat(&base.directory, &new, &base.directory, &name)
            .map_err(|errno| refuse(errno, "cannot name the socket"))?;
        let mut holder = Holder {
            listener,
            rendezvous: Rendezvous::new(),
            connections: BTreeMap::new(),
            last_member: MemberId::HOLDER.0,
            paused_until_ns: None,
            described: None,
            settling: None,
            returned: 0,
            lost: VecDeque::new(),
            domain,
            since_ns: now_ns,
            complete: expected == 0,
            ledger_off: 0,
        };
        let identity =
            Identity { process: base.process(), pid: std::process::id(), name: base.settings.name.clone() };
        let own = Enclosed::Own(Arc::clone(&base.arena));
        holder.rendezvous.handle(MemberId::HOLDER, Input::Joined(identity, own), &mut Vec::new());
        if expected > 0 {
            holder.rendezvous.begin_settling();
            let until_ns = now_ns.saturating_add(SETTLE_NS);
            holder.settling = Some(Settling { until_ns, expected, complete: false });
        }
        holder.describe(base);
        Ok(holder)
    }

    /// What the holder itself says to the rendezvous.
    pub(super) fn say(&mut self, base: &mut Base, message: Message, now_ns: u64) -> Next {
        let mut out = Vec::new();
        self.rendezvous.handle(MemberId::HOLDER, Input::Message(message), &mut out);
        self.dispatch(base, out, now_ns)
    }

    /// What the holder itself answers for a ring of its own, with something beside it.
    pub(super) fn answer(
        &mut self,
        base: &mut Base,
        message: Message,
        enclosed: Enclosed,
        now_ns: u64,
    ) -> Next {
        let mut out = Vec::new();
        self.rendezvous.handle(MemberId::HOLDER, Input::Answer(message, enclosed), &mut out);
        self.dispatch(base, out, now_ns)
    }

    /// A member's connection can be read or written, or has hung up.
    pub(super) fn event(&mut self, base: &mut Base, id: MemberId, now_ns: u64) -> Next {
        let mut next = Next::Stay;
        for _ in 0..BATCH {
            let Some(connection) = self.connections.get_mut(&id) else { return next };
            let received =
                connection.channel.flush().and_then(|()| connection.channel.receive(&mut base.buffer));
            match received {
                Ok(Received::Nothing) => break,
                Ok(Received::Message(message, fds)) => {
                    if let asked @ Next::HandOver(_) = self.message(base, id, message, fds, now_ns) {
                        next = asked;
                    }
                }
                Err(error) => {
                    let out = self.broken(base, id, &error, now_ns);
                    self.dispatch(base, out, now_ns);
                    return next;
                }
            }
        }
        self.look_again(base, id);
        next
    }

    /// Answers standing queries where there is room; true if there is more to answer right away.
    pub(super) fn pump(&mut self, base: &mut Base, now_ns: u64) -> bool {
        let mut more = false;
        for id in self.rendezvous.pending() {
            let room = self.connections.get(&id).map_or(BATCH, |connection| connection.channel.room());
            let mut out = Vec::new();
            let pulled = self.rendezvous.transmit(id, room, &mut out);
            self.dispatch(base, out, now_ns);
            let room = self.connections.get(&id).map_or(BATCH, |connection| connection.channel.room());
            more |= pulled == Pulled::More && room > 0;
        }
        more
    }

    /// Ends the time in which answers wait, when those who were here before are here again, or it is over.
    pub(super) fn settle(&mut self, base: &mut Base, now_ns: u64) {
        let Some(settling) = &mut self.settling else { return };
        if now_ns >= settling.until_ns {
            self.settling = None;
            let mut out = Vec::new();
            self.rendezvous.settle(&mut out);
            self.dispatch(base, out, now_ns);
        } else if !settling.complete && self.returned >= settling.expected {
            settling.complete = true;
            self.complete = true;
            settling.until_ns = settling.until_ns.min(now_ns.saturating_add(BEHIND_HELLO_NS));
        }
    }

    /// A process has gone, by its life word.
    pub(super) fn ended(&mut self, base: &mut Base, process: ProcessId, now_ns: u64) {
        self.lost.retain(|lost| *lost != process);
        let Some(id) = self.rendezvous.member_of(process).filter(|id| *id != MemberId::HOLDER) else {
            return;
        };
        let out = self.remove(base, id, Some(Leaving::Ended));
        self.dispatch(base, out, now_ns);
    }

    /// Every 250 ms: deadlines of handshakes, stuck queues, the ledger.
    pub(super) fn tick(&mut self, base: &mut Base, now_ns: u64) {
        self.describe(base);
        self.expire(base, now_ns);
        let all: Vec<MemberId> = self.connections.keys().copied().collect();
        for id in all {
            if let Some(Err(error)) = self.connections.get_mut(&id).map(|found| found.channel.flush()) {
                let out = self.broken(base, id, &error, now_ns);
                self.dispatch(base, out, now_ns);
            }
            self.look_again(base, id);
        }
        self.repair_ledger(base, now_ns);
    }

    /// Lets the role go, to `to` or to whoever is the best heir, and says who that is; with nobody there, cleans up. The
    /// caller gives the lock back afterwards.
    pub(super) fn let_go(mut self, base: &mut Base, to: Option<ProcessId>) -> Option<ProcessId> {
        let staying = usize::from(to.is_some());
        let heir = to.or_else(|| self.heir(base));
        match heir {
            Some(to) => {
                if let Some(note) = &self.described {
                    // The next one waits a moment for all of us.
                    base.lock.describe(&Note { members: note.members + staying, ..note.clone() });
                }
                let mut out = Vec::new();
                self.rendezvous.announce(to, &mut out);
                for output in out {
                    if let Output::Send { to, message, .. } = output
                        && let Some(connection) = self.connections.get_mut(&to)
                    {
                        // What a full socket does not take is lost; the hang-up behind it says enough.
                        let _ = connection.channel.send(&message, Enclosed::Nothing);
                    }
                }
            }
            None => {
                let _ = rustix::fs::unlinkat(&base.directory, base.domain.socket(), AtFlags::empty());
                base.lock.clear();
            }
        }
        for connection in self.connections.values() {
            base.unwatch(&connection.channel);
        }
        base.unwatch(&self.listener);
        heir
    }

    fn heir(&self, base: &Base) -> Option<ProcessId> {
        let members = self.rendezvous.members().filter(|(id, _)| *id != MemberId::HOLDER);
        let mut alive = members
            .map(|(_, identity)| identity.process)
            .filter(|process| base.peers.get(*process).is_some_and(|peer| peer.life() == Life::Alive));
        let first = alive.next();
        // The one that has been here longest and beats; one that hangs only if there is nobody else.
        first.into_iter().chain(alive).find(|process| !base.peers.hangs(*process)).or(first)
    }

    fn message(
        &mut self,
        base: &mut Base,
        id: MemberId,
        message: Message,
        fds: Vec<rustix::fd::OwnedFd>,
        now_ns: u64,
    ) -> Next {
        let Some(stage) = self.connections.get(&id).map(|connection| connection.stage) else {
            return Next::Stay;
        };
        let out = match (stage, message) {
            (Stage::Unidentified { .. }, hello @ Message::Hello { .. }) => {
                match self.hello(base, id, hello, fds) {
                    Ok(out) => out,
                    Err(error) => self.refuse(base, id, error.code(), error.cause(), now_ns),
                }
            }
            (Stage::Unidentified { .. }, _) => {
                self.refuse(base, id, Code::ProtocolBroken, "the first message must be Hello", now_ns)
            }
            (Stage::Joined(_), message @ Message::Joined { .. }) => match Enclosed::claims_from(fds) {
                Some(claims) => {
                    let mut out = Vec::new();
                    self.rendezvous.handle(id, Input::Answer(message, claims), &mut out);
                    out
                }
                None => {
                    self.refuse(base, id, Code::ProtocolBroken, "a claims file comes with Joined", now_ns)
                }
            },
            (Stage::Joined(_), _) if !fds.is_empty() => self.refuse(
                base,
                id,
                Code::ProtocolBroken,
                "descriptors come with Hello and Joined only",
                now_ns,
            ),
            (Stage::Joined(_), Message::Goodbye {}) => self.remove(base, id, Some(Leaving::Ended)),
            (Stage::Joined(_), message) => {
                let mut out = Vec::new();
                self.rendezvous.handle(id, Input::Message(message), &mut out);
                out
            }
        };
        self.dispatch(base, out, now_ns)
    }

    /// Does what the rendezvous says, and what follows from it.
    fn dispatch(&mut self, base: &mut Base, out: Vec<Output<Enclosed>>, now_ns: u64) -> Next {
        let mut next = Next::Stay;
        let mut queue = VecDeque::from(out);
        while let Some(output) = queue.pop_front() {
            match output {
                Output::Send { to: MemberId::HOLDER, message, fds } => {
                    base.inbox.push_back((message, Beside::Own(fds)));
                }
                Output::Send { to, message, fds } => {
                    let Some(connection) = self.connections.get_mut(&to) else { continue };
                    match connection.channel.send(&message, fds.unwrap_or(Enclosed::Nothing)) {
                        Ok(()) => self.look_again(base, to),
                        Err(error) => queue.extend(self.broken(base, to, &error, now_ns)),
                    }
                }
                Output::Refuse { member, code, reason } => {
                    queue.extend(self.refuse(base, member, code, reason, now_ns));
                }
                Output::HandOver { to } => next = Next::HandOver(to),
            }
        }
        next
    }

    /// Tells a connection why, and closes it.
    fn refuse(
        &mut self,
        base: &mut Base,
        id: MemberId,
        code: Code,
        reason: &str,
        now_ns: u64,
    ) -> Vec<Output<Enclosed>> {
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        let message = Message::Refused { code: code.number(), reason: Message::reason(reason) };
        let _ = connection.channel.send(&message, Enclosed::Nothing);
        let pid = connection.pid;
        let kind = if code == Code::LayoutDiffers { Line::Mismatch } else { Line::Refusal };
        base.log.warn(kind, now_ns, || format!("refused a connection of pid {pid}: {reason}"));
        self.remove(base, id, None)
    }

    fn broken(
        &mut self,
        base: &mut Base,
        id: MemberId,
        error: &ChannelError,
        now_ns: u64,
    ) -> Vec<Output<Enclosed>> {
        let code = match error {
            ChannelError::HungUp | ChannelError::System(_) => return self.remove(base, id, None),
            ChannelError::DescriptorsLost | ChannelError::Unmapped(_) => Code::Descriptors,
            ChannelError::Overflow => Code::HolderRefused,
            ChannelError::Shortened | ChannelError::Undecodable(_) | ChannelError::Unencodable(_) => {
                Code::ProtocolBroken
            }
        };
        if code == Code::HolderRefused {
            base.log.warn(Line::Full, now_ns, || format!("a member is disconnected: {error}"));
        }
        self.refuse(base, id, code, &error.to_string(), now_ns)
    }

    /// Closes a connection; without a word about why, the life word of its process decides.
    fn remove(&mut self, base: &mut Base, id: MemberId, leaving: Option<Leaving>) -> Vec<Output<Enclosed>> {
        let Some(connection) = self.connections.remove(&id) else { return Vec::new() };
        base.unwatch(&connection.channel);
        let mut out = Vec::new();
        if let Stage::Joined(process) = connection.stage {
            self.release_of(base, process);
            let gone = base.peers.get(process).is_none_or(|peer| peer.life().is_gone());
            let leaving = leaving.unwrap_or(if gone { Leaving::Ended } else { Leaving::Lost });
            self.rendezvous.handle(id, Input::Left(leaving), &mut out);
            match leaving {
                // Our own process hears of it as the others do, also if the rendezvous has not told it anything.
                Leaving::Ended => base.inbox.push_back((Message::Gone { process }, Beside::Own(None))),
                Leaving::Lost => self.remember_lost(base, process, &mut out),
            }
        }
        out
    }

    /// A process writes its own life word, so a bad one could live for ever in everybody's table of peers.
    fn remember_lost(&mut self, base: &mut Base, process: ProcessId, out: &mut Vec<Output<Enclosed>>) {
        self.lost.push_back(process);
        if self.lost.len() > LOST_MAX
            && let Some(oldest) = self.lost.pop_front()
        {
            self.rendezvous.forget(oldest, out);
            base.inbox.push_back((Message::Gone { process: oldest }, Beside::Own(None)));
        }
    }

    /// Watches for writing exactly while something waits.
    fn look_again(&mut self, base: &Base, id: MemberId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let wanted = Interest::of(connection.channel.wants_to_write());
        if wanted != connection.interest {
            connection.interest = wanted;
            base.change(&connection.channel, Token::Member(id), wanted);
        }
    }

    fn joined(&self) -> impl Iterator<Item = ProcessId> {
        self.connections.values().filter_map(|connection| match connection.stage {
            Stage::Joined(process) => Some(process),
            Stage::Unidentified { .. } => None,
        })
    }

    /// Keeps the lock's text true: who holds, and how many could go on.
    fn describe(&mut self, base: &Base) {
        let (pid, name) = (std::process::id(), base.settings.name.clone());
        // Whoever takes over from us while members are on their way here must leave them as much time as we do.
        let expected = self.settling.map_or(0, |settling| settling.expected);
        let note = Note { pid, name, members: self.joined().count().max(expected) };
        if self.described.as_ref() != Some(&note) {
            base.lock.describe(&note);
            self.described = Some(note);
        }
    }

    /// What was reserved by who died while nobody saw it is given back. Only what was too much at two ticks is
    /// believed, because a member reserves first and commits then; and not before orphans had time to come.
    fn repair_ledger(&mut self, base: &Base, now_ns: u64) {
        let ledger = self.domain.ledger();
        let found = ledger.raw();
        let own = base.arena.tables().header().committed_bytes.load(Ordering::Relaxed);
        let sum = own.saturating_add(base.peers.committed_bytes(base.process()));
        let off = found.wrapping_sub(sum).cast_signed();
        let lasting = lasting(self.ledger_off, off);
        let settled = self.complete || now_ns.saturating_sub(self.since_ns) >= 1_000_000_000;
        if settled && lasting != 0 {
            ledger.correct(lasting);
            self.ledger_off = off.wrapping_sub(lasting);
        } else {
            self.ledger_off = off;
        }
    }

    /// What a member had reserved that was killed is free as soon as its death is known.
    fn release_of(&self, base: &Base, process: ProcessId) {
        let Some(peer) = base.peers.get(process).filter(|peer| peer.life() == Life::Dead) else { return };
        let ledger = self.domain.ledger();
        // Its own word, which it may have written nonsense into.
        ledger.release(peer.committed_bytes().min(ledger.reserved()));
    }
}

/// By how much a counter was off at both of two looks.
fn lasting(before: i64, now: i64) -> i64 {
    if before.signum() != now.signum() {
        return 0;
    }
    if now > 0 { before.min(now) } else { before.max(now) }
}

#[cfg(test)]
mod tests {
    use super::lasting;

    #[test]
    fn only_what_was_off_twice_in_the_same_direction_lasts() {
        let looks = [(0, 5), (5, 0), (5, -5), (-5, 5), (5, 7), (7, 5), (-5, -7), (-7, -5), (i64::MIN, -1)];
        let found = looks.map(|(before, now)| lasting(before, now));
        assert_eq!(found, [0, 0, 0, 0, 5, 5, -5, -5, -1]);
    }
}
