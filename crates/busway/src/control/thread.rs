//! The control thread `bw-control`: one loop for a member, for the holder, and for the search between the two. `runner`
//! can have it stepped by a simulator, without the thread.
//!
//! It locks the life word, beats every 250 ms, looks at the others' life words, says registrations, and hands what
//! arrives to `deliver`. It sleeps in one epoll; every wait has a deadline, so an idle process wakes four times a
//! second.
//!
//! Invariant: the thread holds the lock exactly while its role is `Holder`.

use super::asks::Asks;
use super::base::{Base, Interest, Token};
use super::channel::{ChannelError, Enclosed, Received, explain};
use super::holder::{Holder, Next};
use super::lock::LockFile;
use super::member::{Member, Search, Turn};
use super::peers::{Peers, Seen};
use super::shared::{Phase, Question, Shared, WatchRequest};
use super::{ControlSettings, MemberList, Ports, Watched};
use crate::directory::{Directory, DomainName};
use crate::error::{Code, Error, memory, system};
use crate::log::{Line, Log};
use busway_shm::arena::OwnArena;
use busway_shm::clock::monotonic_ns;
use busway_shm::domain::Domain;
use busway_shm::fork::PrivateFd;
use busway_shm::life::LifeLock;
use busway_shm::sys::event;
use busway_wire::limits::{BEAT_MS, HOLDER_ANSWER_MS};
use busway_wire::{Control as Message, ProcessId};
use rustix::event::epoll;
use std::collections::VecDeque;
use std::sync::Arc;

mod search;

const TICK_NS: u64 = BEAT_MS * 1_000_000;

/// Messages read from the holder before other things get their turn.
const BATCH: usize = 64;

/// What a worker is made of.
pub(super) struct Parts {
    pub(super) settings: ControlSettings,
    pub(super) directory: Directory,
    pub(super) domain: DomainName,
    pub(super) arena: Arc<OwnArena>,
    pub(super) ports: Arc<dyn Ports>,
    pub(super) shared: Arc<Shared>,
}

/// What the process is in its domain.
pub(super) enum Standing {
    Searching(Search),
    Member { member: Member, interest: Interest },
    Holding(Box<Holder>),
}

/// See the head of this file.
pub(super) struct Worker {
    pub(super) base: Base,
    pub(super) standing: Standing,
    /// Rows that wait for a seat.
    pub(super) asks: Asks,
    /// Connections that ended before they were of any use, in a row.
    pub(super) failures: u32,
    next_tick_ns: u64,
}

impl Worker {
    pub(super) fn new(parts: Parts) -> Result<Worker, Error> {
        let Parts { settings, directory, domain, arena, ports, shared } = parts;
        let lock = LockFile::open(&directory, &domain)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| system(errno, "cannot make an epoll", Code::SocketUnusable).at("bw-control"))?;
        let epoll = PrivateFd::new(epoll).map_err(|error| memory(&error, "bw-control"))?;
        let base = Base {
            settings,
            directory,
            domain,
            arena,
            ports,
            shared,
            lock,
            peers: Peers::default(),
            inbox: VecDeque::new(),
            log: Log::default(),
            buffer: Vec::new(),
            epoll,
        };
        base.watch(base.shared.wake_fd(), Token::Wake, Interest::Read).map_err(|errno| {
            system(errno, "cannot watch the wake-up", Code::SocketUnusable).at("bw-control")
        })?;
        let standing = Standing::Searching(Search::new(Turn::Anybodys, 0, 0));
        Ok(Worker { base, standing, asks: Asks::default(), failures: 0, next_tick_ns: 0 })
    }

    /// The body of the thread.
    pub(super) fn run(mut self) {
        let mut over = Over { shared: Arc::clone(&self.base.shared), lingers: false };
        let arena = Arc::clone(&self.base.arena);
        let life = match LifeLock::acquire(Arc::clone(&arena), OwnArena::life_word) {
            Ok(life) => life,
            Err(error) => return self.fail(memory(&error, "bw-control")),
        };
        self.turn();
        // Whoever is told that we leave finds us closed.
        arena.leave();
        self.leave();
        drop(self);
        over.lingers = arena.has_open_rows();
        drop(over);
        // Samples are still read in the memory of others, who must see it if we die first: our life word is how.
        arena.wait_for_rows();
        drop(life);
    }

    /// The loop, until the bus is closed or joining has failed.
    fn turn(&mut self) {
        let mut events = Vec::with_capacity(BATCH);
        while !self.is_over() {
            let busy = self.work(monotonic_ns());
            let timeout_ns = if busy { 0 } else { self.timeout_ns(monotonic_ns()) };
            self.hear(timeout_ns, &mut events);
        }
    }

    /// As the loop, for a caller that has no thread for it: until there is nothing left to do at this moment. Returns when
    /// there will be, though nothing comes.
    pub(super) fn step(&mut self) -> u64 {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            if self.is_over() {
                return u64::MAX;
            }
            let busy = self.work(monotonic_ns());
            if !self.hear(0, &mut events) && !busy {
                let now_ns = monotonic_ns();
                return now_ns.saturating_add(self.timeout_ns(now_ns));
            }
        }
    }

    /// As the end of the thread, for a caller that has none. Nobody watches our life word but ourselves.
    pub(super) fn end(mut self) {
        let over = Over { shared: Arc::clone(&self.base.shared), lingers: false };
        self.base.arena.leave();
        self.leave();
        drop(self);
        drop(over);
    }

    fn is_over(&self) -> bool {
        self.base.shared.lock().phase.is_over()
    }

    /// What the loop does between two sleeps; true if there is more to do at once.
    fn work(&mut self, now_ns: u64) -> bool {
        if now_ns >= self.next_tick_ns {
            self.tick(now_ns);
        }
        self.search(now_ns);
        let busy = self.take_requests(now_ns);
        self.settle(now_ns) || busy
    }

    /// Sleeps at most so long, and acts on what has come; whether anything has.
    fn hear(&mut self, timeout_ns: u64, events: &mut Vec<epoll::Event>) -> bool {
        let tokens = self.base.sleep(timeout_ns, events);
        let any = !tokens.is_empty();
        for token in tokens {
            self.event(token, monotonic_ns());
        }
        any
    }

    /// Says a message to whoever holds. Without a holder it is dropped: what is still valid is said again later.
    pub(super) fn say(&mut self, message: Message, now_ns: u64) {
        let result = match &mut self.standing {
            Standing::Searching(_) => Ok(()),
            Standing::Member { member, .. } => match message {
                Message::Publish { .. }
                | Message::Subscribe { .. }
                | Message::Push { .. }
                | Message::Pull { .. }
                | Message::Inspect {}
                | Message::HandOver {} => member.ask(&message, now_ns),
                other => member.tell(&other),
            },
            Standing::Holding(holder) => {
                let next = holder.say(&mut self.base, message, now_ns);
                return self.follow(next, now_ns);
            }
        };
        if let Err(error) = result {
            self.lose_holder(&error, now_ns);
        }
    }

    /// As [`Worker::say`], of an answer that has something beside it.
    pub(super) fn answer(&mut self, message: Message, enclosed: Enclosed, now_ns: u64) {
        let result = match &mut self.standing {
            Standing::Searching(_) => Ok(()),
            Standing::Member { member, .. } => member.tell_with(&message, enclosed),
            Standing::Holding(holder) => {
                let next = holder.answer(&mut self.base, message, enclosed, now_ns);
                return self.follow(next, now_ns);
            }
        };
        if let Err(error) = result {
            self.lose_holder(&error, now_ns);
        }
    }

    /// The connection to the holder is over: look for the next.
    pub(super) fn lose_holder(&mut self, error: &ChannelError, now_ns: u64) {
        let Standing::Member { member, .. } = &self.standing else { return };
        self.base.unwatch(member);
        if !matches!(error, ChannelError::HungUp) {
            let place = self.base.directory.path_of(&self.base.domain.socket()).display().to_string();
            let trouble = explain(error, &place);
            self.base.log.warn(Line::Descriptors, now_ns, || format!("lost the holder: {error}"));
            if matches!(error, ChannelError::DescriptorsLost | ChannelError::Unmapped(_)) {
                if self.joining() {
                    return self.fail(trouble);
                }
                // We were welcomed, and shall be again, and then lose the same: not as fast as that can be done.
                self.failures = self.failures.max(search::FAILURES_LONGEST);
            }
            self.base.shared.update(|state| state.trouble = Some(trouble));
        }
        self.search_again(now_ns);
    }

    /// Joining cannot succeed: tells the caller, and the loop ends.
    pub(super) fn fail(&mut self, error: Error) {
        self.base.shared.update(|state| {
            if matches!(state.phase, Phase::Joining) {
                state.phase = Phase::Failed(error);
            }
        });
    }

    pub(super) fn joining(&self) -> bool {
        matches!(self.base.shared.lock().phase, Phase::Joining)
    }

    /// Everything that is valid is said to the new holder.
    pub(super) fn register_all(&mut self) {
        self.asks.clear();
        self.base.shared.update(|state| {
            state.unsent = state.registrations.keys().copied().collect();
            state.withdrawn.clear();
            if state.watch == WatchRequest::Sent {
                state.watch = WatchRequest::Unsent;
            }
            if let Question::Running { ticket, again, .. } = &state.question {
                state.question = Question::Asked { ticket: again.unwrap_or(*ticket) };
            }
        });
    }

    /// Uses a domain segment from now on. The ports make the arena join it: who opens the bus first can be refused there.
    pub(super) fn use_domain(&mut self, domain: Arc<Domain>) {
        let mut before = None;
        self.base.arena.note_membership();
        self.base.shared.update(|state| before = state.domain.replace(Arc::clone(&domain)));
        if before.is_some() {
            self.base.ports.domain_changed(&domain);
        }
    }

    fn tick(&mut self, now_ns: u64) {
        self.next_tick_ns = now_ns.saturating_add(TICK_NS);
        self.base.arena.beat(now_ns);
        for (process, seen) in self.base.peers.look(now_ns) {
            match seen {
                Seen::Died | Seen::Left => self.gone(process, now_ns),
                Seen::Unused => self.forget(process),
                Seen::Hangs | Seen::Beats => self.report_pulse(process, seen, now_ns),
            }
        }
        match &mut self.standing {
            Standing::Holding(holder) => holder.tick(&mut self.base, now_ns),
            Standing::Member { member, .. } => {
                if let Err(error) = member.flush() {
                    self.lose_holder(&error, now_ns);
                }
            }
            Standing::Searching(_) => {}
        }
        self.base.ports.tick(now_ns);
        for wanted in self.base.ports.retry(now_ns) {
            self.ask_for_seat(wanted, now_ns);
        }
        for wanted in self.asks.tick(now_ns) {
            self.ask_now(wanted, now_ns);
        }
    }

    /// A process has ended: by its life word, or by the holder's word. Only the life word frees what a process holds: a
    /// holder may be wrong (about one that was stopped for long) or hostile, and the process may be reading.
    pub(super) fn gone(&mut self, process: ProcessId, now_ns: u64) {
        if let Standing::Holding(holder) = &mut self.standing {
            holder.ended(&mut self.base, process, now_ns);
        }
        let Some(peer) = self.base.peers.get(process) else { return };
        let (life, name, pid) = (peer.life(), peer.name(), peer.pid());
        if !life.is_gone() {
            if self.base.peers.doubt(process) {
                self.base.ports.doubted(process);
            }
            return;
        }
        if life == busway_shm::life::Life::Dead {
            self.base
                .log
                .warn(Line::Death, now_ns, || format!("`{}` (pid {pid}) has died", name.escape_debug()));
        }
        self.forget(process);
    }

    /// Nothing of a process is needed any more.
    fn forget(&mut self, process: ProcessId) {
        self.asks.gone(process);
        if self.base.peers.part(process) {
            self.base.ports.gone(process);
        }
    }

    fn report_pulse(&mut self, process: ProcessId, seen: Seen, now_ns: u64) {
        let Some(peer) = self.base.peers.get(process) else { return };
        let (name, pid) = (peer.name(), peer.pid());
        let what = if seen == Seen::Hangs {
            "has not beaten for 3 s: it hangs or is stopped"
        } else {
            "beats again"
        };
        self.base.log.warn(Line::Hang, now_ns, || format!("`{}` (pid {pid}) {what}", name.escape_debug()));
    }

    fn event(&mut self, token: Token, now_ns: u64) {
        match (token, &mut self.standing) {
            (Token::Wake, _) => drop(event::drain(self.base.shared.wake_fd())),
            (Token::Holder, Standing::Member { .. }) => self.read_holder(now_ns),
            (Token::Listener, Standing::Holding(holder)) => holder.accept(&mut self.base, now_ns),
            (Token::Member(id), Standing::Holding(holder)) => {
                let next = holder.event(&mut self.base, id, now_ns);
                self.follow(next, now_ns);
            }
            // Of a role that ended earlier in the same batch of events.
            (Token::Holder | Token::Listener | Token::Member(_), _) => {}
        }
    }

    fn read_holder(&mut self, now_ns: u64) {
        for _ in 0..BATCH {
            let Standing::Member { member, .. } = &mut self.standing else { return };
            match member.flush().and_then(|()| member.receive(&mut self.base.buffer)) {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(message, fds)) => {
                    self.deliver(message, super::base::Beside::Received(fds), now_ns);
                }
                Err(error) => return self.lose_holder(&error, now_ns),
            }
        }
    }

    /// Lets the role go if somebody asked for it.
    fn follow(&mut self, next: Next, now_ns: u64) {
        let Next::HandOver(to) = next else { return };
        let search = Search::new(Turn::Anybodys, now_ns, now_ns.saturating_add(search::HAND_OVER_NS));
        if let Standing::Holding(holder) = std::mem::replace(&mut self.standing, Standing::Searching(search))
        {
            self.base.log.info(Line::Role, now_ns, || "handed the rendezvous over".to_owned());
            self.let_go(holder, Some(to));
        }
    }

    fn let_go(&mut self, holder: Box<Holder>, to: Option<ProcessId>) {
        let heir = holder.let_go(&mut self.base, to);
        self.base.shared.update(|state| state.holding = false);
        self.base.lock.release();
        // It may have begun to leave before it heard of us: then it has tried the lock too early, or it does so now.
        let left = |process: ProcessId| self.base.peers.get(process).is_none_or(|peer| peer.life().is_gone());
        if heir.is_some_and(left) {
            self.clean_up();
        }
    }

    /// Hands the callers' registrations and questions on; true if there is more than there was room for.
    fn take_requests(&mut self, now_ns: u64) -> bool {
        let room = match &self.standing {
            Standing::Member { member, .. } => member.room(),
            Standing::Holding(_) => BATCH,
            Standing::Searching(_) => return false,
        };
        let mut messages = Vec::new();
        let (mut poked, mut more, mut watch) = (false, false, false);
        self.base.shared.update(|state| {
            messages.append(&mut state.withdrawn);
            for _ in 0..room {
                let Some(port) = state.unsent.pop_first() else { break };
                messages.extend(state.registrations.get(&port).map(|registration| registration.message()));
            }
            more = room > 0 && !state.unsent.is_empty();
            if let Question::Asked { ticket } = state.question {
                state.question = Question::Running { ticket, list: MemberList::default(), again: None };
                messages.push(Message::Inspect {});
            }
            if state.watch == WatchRequest::Unsent {
                state.watch = WatchRequest::Sent;
                watch = true;
            }
            poked = std::mem::take(&mut state.poked);
        });
        if watch {
            self.base.ports.watched(Watched::Begin);
            messages.push(Message::Watch {});
        }
        for message in messages {
            self.say(message, now_ns);
        }
        if poked {
            self.base.ports.tick(now_ns);
        }
        more
    }

    /// Delivers what the rendezvous said to its own process and answers standing queries; true if there is more.
    fn settle(&mut self, now_ns: u64) -> bool {
        let mut more = false;
        if let Standing::Holding(holder) = &mut self.standing {
            holder.settle(&mut self.base, now_ns);
            more = holder.pump(&mut self.base, now_ns);
        }
        // What is delivered may be answered, and the answer may be for ourselves: bounded, so that others come too.
        for _ in 0..BATCH {
            let Some((message, beside)) = self.base.inbox.pop_front() else { break };
            self.deliver(message, beside, now_ns);
        }
        if let Standing::Member { member, interest } = &mut self.standing {
            let wanted = Interest::of(member.wants_to_write());
            if wanted != *interest {
                *interest = wanted;
                self.base.change(&*member, Token::Holder, wanted);
            }
        }
        more || !self.base.inbox.is_empty()
    }

    fn timeout_ns(&mut self, now_ns: u64) -> u64 {
        let mut at_ns = self.next_tick_ns;
        match &mut self.standing {
            Standing::Searching(search) => at_ns = at_ns.min(search.next_ns),
            Standing::Member { member, .. } => {
                if member.misses_answer(now_ns) {
                    let note = self.base.lock.note();
                    let holder = note.map_or_else(|| "the holder".to_owned(), |note| note.shown());
                    self.base.log.warn(Line::Silent, now_ns, || {
                        format!("{holder} has not answered for {HOLDER_ANSWER_MS} ms")
                    });
                }
                at_ns = member.silent_at_ns().map_or(at_ns, |silent| at_ns.min(silent));
            }
            Standing::Holding(holder) => {
                let next = holder.expire(&mut self.base, now_ns);
                at_ns = next.map_or(at_ns, |next| at_ns.min(next));
            }
        }
        at_ns.saturating_sub(now_ns)
    }
}

/// Tells the callers that the thread has ended, however it ended.
struct Over {
    shared: Arc<Shared>,
    /// The thread stays, for the sake of samples that are held.
    lingers: bool,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.shared.update(|state| {
            state.holding = false;
            state.lingers = self.lingers;
            if !matches!(state.phase, Phase::Failed(_)) {
                state.phase = Phase::Closed;
            }
        });
    }
}
