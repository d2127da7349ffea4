//! Between two holders: finding one, becoming one, and leaving for good.
//!
//! *One domain segment.* The first holder makes the segment with bell and ledger; it travels with every Welcome,
//! and an heir is a member, so it goes on with the one it has. Only a process that starts while the members of a
//! dead holder have not found each other yet could make a second one. So a starter that finds a socket nobody listens
//! on, and in the lock's text that the dead holder had members, leaves them the lock for 100 ms (they need about
//! one). Should they all be stopped for longer, the starter makes a segment, and they switch to it when they join: the
//! holder's Welcome always decides. Until a member has switched, a bell may ring where it does not listen, which costs
//! a sleeper at most one second and never a message, because bells carry hints only and every sleep is bounded; and
//! the ledger is repaired from what arenas really use. So the rule is one direction, and holders need none.
//!
//! Invariant: the lock is taken here only, and given back by whoever ends the role.

use super::{Standing, Worker};
use crate::control::base::{Interest, Token};
use crate::control::channel::ChannelError;
use crate::control::holder::Holder;
use crate::control::member::{Member, NoConnection, Search, Stage, Turn};
use crate::control::shared::Phase;
use crate::control::{ControlSettings, Role};
use crate::error::{Code, memory, system};
use crate::log::Line;
use busway_shm::clock::Deadline;
use busway_shm::domain::{Domain, default_budget};
use busway_wire::limits::HAND_OVER_MS;
use busway_wire::{Control as Message, ProcessId};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::Duration;

/// How long the others leave the lock to the process that a holder named, and how long that one tries nothing else.
pub(super) const HAND_OVER_NS: u64 = HAND_OVER_MS * 1_000_000;

/// How long a starter leaves the lock to the members of a dead holder.
const ORPHANS_NS: u64 = 100_000_000;

/// How long leaving may wait for a socket to take the last words.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The first and the longest pause after a connection that failed.
const PAUSE_NS_MIN: u64 = 1_000_000;
const PAUSE_NS_MAX: u64 = 256_000_000;

/// So many failures in a row have the longest pause.
pub(super) const FAILURES_LONGEST: u32 = 8;

const _: () =
    assert!(PAUSE_NS_MIN << FAILURES_LONGEST >= PAUSE_NS_MAX, "the pause after them is the longest");

impl Worker {
    /// Looks for a holder: at once after a connection that was of use, later and later after others.
    pub(in crate::control) fn search_again(&mut self, now_ns: u64) {
        let pause_ns = match self.failures {
            0 => 0,
            failures => PAUSE_NS_MAX.min(PAUSE_NS_MIN << failures.min(16)),
        };
        self.failures += 1;
        let mut search = Search::new(Turn::Anybodys, now_ns, 0);
        search.next_ns = now_ns.saturating_add(pause_ns);
        self.standing = Standing::Searching(search);
    }

    /// The holder said who is next.
    pub(in crate::control) fn move_on(&mut self, to: ProcessId, now_ns: u64) {
        if let Standing::Member { member, .. } = &self.standing {
            self.base.unwatch(member);
        }
        let search = if to == self.base.process() {
            Search::new(Turn::Ours, now_ns, now_ns)
        } else {
            Search::new(Turn::Anybodys, now_ns, now_ns.saturating_add(HAND_OVER_NS))
        };
        self.standing = Standing::Searching(search);
    }

    /// One step of the search for a holder, if it is time.
    pub(super) fn search(&mut self, now_ns: u64) {
        let Standing::Searching(search) = &mut self.standing else { return };
        if now_ns < search.next_ns {
            return;
        }
        search.later(now_ns);
        if search.turn == Turn::Ours {
            if now_ns.saturating_sub(search.lock_from_ns) > HAND_OVER_NS {
                search.turn = Turn::Anybodys;
            }
            return self.try_to_hold(now_ns);
        }
        let greeted = self.base.directory.address_of(&self.base.domain.socket()).map(|address| {
            let ControlSettings { name, monitored, .. } = &self.base.settings;
            Member::greet(&address, &self.base.arena, name, *monitored, now_ns)
        });
        let error = match greeted {
            Ok(Ok(member)) => match self.base.watch(&member, Token::Holder, Interest::Read) {
                Ok(()) => {
                    self.standing = Standing::Member { member, interest: Interest::Read };
                    // Right behind the Hello: when it has been read, so have these.
                    return self.register_all();
                }
                Err(errno) => NoConnection::Refused(errno),
            },
            Ok(Err(error)) => NoConnection::from_error(&error),
            Err(error) => return self.fail(error),
        };
        self.without_connection(error, now_ns);
    }

    fn without_connection(&mut self, error: NoConnection, now_ns: u64) {
        match error {
            NoConnection::NoSocket => {}
            NoConnection::NobodyListens => {
                let stranger = self.base.shared.lock().domain.is_none();
                let orphans = || self.base.lock.note().is_some_and(|note| note.members > 0);
                if stranger
                    && orphans()
                    && let Standing::Searching(search) = &mut self.standing
                {
                    search.yield_to_orphans(now_ns, ORPHANS_NS);
                }
            }
            NoConnection::Busy => return,
            NoConnection::Refused(errno) => return self.refused_by_kernel(errno),
        }
        if let Standing::Searching(search) = &self.standing
            && now_ns >= search.lock_from_ns
        {
            self.try_to_hold(now_ns);
        }
    }

    fn refused_by_kernel(&mut self, errno: Errno) {
        let error = system(errno, "cannot connect to the rendezvous", Code::SocketUnusable);
        let error = if error.try_().is_empty() {
            error.remedy("see who owns the socket and its mode")
        } else {
            error
        };
        let error = error.at(self.base.directory.path_of(&self.base.domain.socket()).display().to_string());
        if self.joining() {
            return self.fail(error);
        }
        self.base.shared.update(|state| state.trouble = Some(error));
    }

    /// Becomes the holder if the lock is free.
    fn try_to_hold(&mut self, now_ns: u64) {
        match self.base.lock.try_take() {
            Ok(false) => return,
            Err(error) => return self.fail(error),
            Ok(true) => {}
        }
        let known = self.base.shared.lock().domain.clone();
        // A stranger has waited for the members already; an heir is one of them, and waits for the others.
        let before = known.as_ref().and_then(|_| self.base.lock.note());
        let expected = before.map_or(0, |note| note.members.saturating_sub(1));
        let domain = match known {
            Some(domain) => Ok(domain),
            None => {
                let budget_bytes = self.base.settings.budget_bytes.unwrap_or_else(default_budget);
                Domain::create(budget_bytes)
                    .map(Arc::new)
                    .map_err(|error| memory(&error, "the domain segment"))
            }
        };
        match domain.and_then(|domain| {
            Ok((Holder::take(&mut self.base, Arc::clone(&domain), expected, now_ns)?, domain))
        }) {
            Ok((holder, domain)) => {
                self.standing = Standing::Holding(Box::new(holder));
                if self.base.shared.lock().domain.is_none() {
                    self.use_domain(domain);
                }
                self.register_all();
                self.base.shared.update(|state| {
                    state.holding = true;
                    if matches!(state.phase, Phase::Joining) {
                        state.phase = Phase::Joined;
                    }
                });
                self.base.log.info(Line::Role, now_ns, || "holds the rendezvous".to_owned());
            }
            Err(error) => {
                self.base.lock.release();
                self.base.shared.update(|state| state.trouble = Some(error.clone()));
                self.fail(error);
            }
        }
    }

    /// Whether this process wants the role from whoever has it.
    pub(in crate::control) fn wants_role(&self) -> bool {
        self.base.settings.role == Role::Take && self.joining()
    }

    /// Leaves the domain: hands over, or says goodbye, or cleans up as the last.
    pub(super) fn leave(&mut self) {
        let search = Search::new(Turn::Anybodys, 0, 0);
        match std::mem::replace(&mut self.standing, Standing::Searching(search)) {
            Standing::Holding(holder) => self.let_go(holder, None),
            Standing::Member { mut member, .. } => {
                if member.stage == Stage::Joined {
                    // Whether it was heard is not known: the holder may be leaving too, and have named us.
                    let _ = farewell(&mut member);
                    self.clean_up();
                }
            }
            Standing::Searching(_) => self.clean_up(),
        }
    }

    /// If the lock is free, nobody holds, and the socket's name is nobody's.
    pub(super) fn clean_up(&mut self) {
        if self.base.shared.lock().domain.is_some() && self.base.lock.try_take().unwrap_or(false) {
            let _ = rustix::fs::unlinkat(&self.base.directory, self.base.domain.socket(), AtFlags::empty());
            self.base.lock.clear();
            self.base.lock.release();
        }
    }
}

/// Says goodbye and waits a little for the socket to take it; a stopped holder has our hang-up at least.
fn farewell(member: &mut Member) -> Result<(), ChannelError> {
    member.tell(&Message::Goodbye {})?;
    let deadline = Deadline::after(LAST_WORDS);
    while !member.is_flushed() && !deadline.expired() {
        let mut poll = [PollFd::new(&*member, PollFlags::OUT)];
        let left = deadline.remaining().unwrap_or(LAST_WORDS).min(Duration::from_millis(10));
        let left = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        let _ = rustix::event::poll(&mut poll, Some(&left));
        member.flush()?;
    }
    Ok(())
}
