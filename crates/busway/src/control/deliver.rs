//! What a message from the rendezvous means for this process, be it held here or elsewhere.
//!
//! It maps the peers that messages name, calls [`Ports`](super::Ports), and answers. A holder is believed about who
//! publishes what, never about memory: what it hands on is checked before it is mapped.
//!
//! Invariant: no lock of the control plane is held while ports are called.

use super::base::Beside;
use super::channel::{ChannelError, Enclosed};
use super::member::Stage;
use super::shared::{Answer, Phase, Question, Registration};
use super::thread::{Standing, Worker};
use super::{Attach, GroupPlace, Join, RingAdded, RingKey, RowKey, Unmatched, VERSION, Wanted, Watched};
use crate::error::{Code, Error, memory};
use crate::log::Line;
use busway_shm::arena::PeerArena;
use busway_shm::claims::Owner;
use busway_shm::claims::file::RunAt;
use busway_shm::domain::Domain;
use busway_wire::{Control as Message, ProcessId, SeatIndex};
use rustix::fd::AsFd;
use std::sync::Arc;

/// Subscriptions without a publisher that a list names: as many as one process may have. More are left out.
const UNMATCHED_MAX: usize = super::rendezvous::SUBSCRIBERS_MAX;

impl Worker {
    /// Acts on one message for this process.
    pub(super) fn deliver(&mut self, message: Message, beside: Beside, now_ns: u64) {
        match message {
            Message::Welcome { .. } => self.welcome(beside, now_ns),
            Message::Refused { code, reason } => self.refused(code, &reason, now_ns),
            Message::Published { port, matched } => self.base.shared.update(|state| {
                state.answers.entry(port).and_modify(|answer| *answer = Some(Answer::Published(matched)));
            }),
            Message::Subscribed { port, publishers } => self.base.shared.update(|state| {
                state.answers.entry(port).and_modify(|answer| *answer = Some(Answer::Subscribed(publishers)));
            }),
            Message::RingAdded { .. } => self.ring_added(message, beside, now_ns),
            Message::Attach { .. } => self.attach(message, beside, now_ns),
            Message::Join { .. } => self.join(message, beside, now_ns),
            Message::Joined { .. } => self.joined(message, beside, now_ns),
            Message::Attached { publisher, ring, generation, row, row_generation, seat, .. } => {
                let (ring, row) = keys(ring, generation, row, row_generation);
                self.base.ports.attached(publisher, ring, row, Ok(seat));
                self.answered(publisher, row, now_ns);
            }
            Message::AttachRefused { publisher, ring, generation, row, row_generation, reason, .. } => {
                let (ring, row) = keys(ring, generation, row, row_generation);
                let what = reason.clone();
                self.base
                    .log
                    .warn(Line::Refusal, now_ns, || format!("a publisher refused a subscriber: {what}"));
                self.base.ports.attached(publisher, ring, row, Err(reason));
                self.answered(publisher, row, now_ns);
            }
            Message::Gone { process } => self.gone(process, now_ns),
            Message::Member { process, .. } => {
                if let Some(peer) = self.meet(process, beside, now_ns) {
                    self.base.shared.update(|state| {
                        if let Question::Running { list, .. } = &mut state.question {
                            list.members.push(peer);
                        }
                    });
                }
            }
            Message::Unmatched { process, port, pattern, policy } => self.base.shared.update(|state| {
                if let Question::Running { list, .. } = &mut state.question
                    && list.unmatched.len() < UNMATCHED_MAX
                {
                    list.unmatched.push(Unmatched { process, port, pattern, policy });
                }
            }),
            Message::InspectEnd {} => self.inspected(),
            Message::Moving { to } => self.move_on(to, now_ns),
            Message::Wanted { process, port, pattern, policy } => {
                self.base.ports.watched(Watched::Wanted { process, port, pattern, policy });
            }
            Message::Pulled { process, port, pattern, group } => {
                self.base.ports.watched(Watched::Pulled { process, port, pattern, group });
            }
            Message::Unwanted { process, port } => {
                self.base.ports.watched(Watched::Unwanted { process, port })
            }
            Message::WatchEnd {} => self.base.ports.watched(Watched::End),
            Message::Hello { .. }
            | Message::Publish { .. }
            | Message::Unpublish { .. }
            | Message::Subscribe { .. }
            | Message::Push { .. }
            | Message::Pull { .. }
            | Message::Unsubscribe { .. }
            | Message::Inspect {}
            | Message::Watch {}
            | Message::HandOver {}
            | Message::Goodbye {} => {
                // A holder does not say this; somebody else sits there.
                self.lose_holder(&ChannelError::Shortened, now_ns);
            }
        }
    }

    fn welcome(&mut self, beside: Beside, now_ns: u64) {
        let Standing::Member { member, .. } = &mut self.standing else { return };
        if member.stage == Stage::Joined {
            return;
        }
        member.stage = Stage::Joined;
        let Beside::Received(fds) = beside else { return };
        let Ok([fd]) = <[_; 1]>::try_from(fds) else {
            return self.lose_holder(&ChannelError::DescriptorsLost, now_ns);
        };
        let known = self.base.shared.lock().domain.clone();
        if !known.is_some_and(|known| same_file(known.fd(), fd.as_fd())) {
            match Domain::map(fd) {
                Ok(domain) => self.use_domain(Arc::new(domain)),
                Err(error) => {
                    let error = memory(&error, "the domain segment");
                    self.base.log.warn(Line::Mismatch, now_ns, || error.cause().to_owned());
                    self.base.shared.update(|state| state.trouble = Some(error.clone()));
                    self.fail(error);
                    return self.lose_holder(&ChannelError::HungUp, now_ns);
                }
            }
        }
        self.failures = 0;
        self.base.shared.update(|state| state.trouble = None);
        if self.wants_role() {
            return self.say(Message::HandOver {}, now_ns);
        }
        self.base.shared.update(|state| {
            if matches!(state.phase, Phase::Joining) {
                state.phase = Phase::Joined;
            }
        });
    }

    fn refused(&mut self, code: u16, reason: &str, now_ns: u64) {
        let code = Code::from_number(code).unwrap_or(Code::HolderRefused);
        let note = self.base.lock.note();
        let holder = note.map_or_else(|| "the holder".to_owned(), |note| note.shown());
        let remedy = match code {
            Code::Descriptors => "raise the limit of the holder: ulimit -n 4096",
            Code::LayoutDiffers | Code::ProtocolBroken => "run the same version of busway everywhere",
            Code::UserRefused => "run as the same user, or open the realm of a group in every process",
            Code::TopicClash => "give the topic another name",
            _ => "see the log of the holder",
        };
        let error = Error::new(code, format!("{holder} refused us ({VERSION}): {reason}"))
            .at(self.base.directory.path_of(&self.base.domain.socket()).display().to_string())
            .remedy(remedy);
        let line = error.cause().to_owned();
        self.base.log.warn(Line::Refusal, now_ns, || line);
        self.fail(error.clone());
        self.base.shared.update(|state| state.trouble = Some(error));
        // The hang-up that follows starts the search, with a pause: it was of no use.
        self.failures = self.failures.max(4);
    }

    fn ring_added(&mut self, message: Message, beside: Beside, now_ns: u64) {
        let Message::RingAdded {
            subscription, process, port, topic, ring, generation, ring_is_older, ..
        } = message
        else {
            return;
        };
        // Met first: descriptors come once, also if the subscription has gone meanwhile.
        let Some(peer) = self.meet(process, beside, now_ns) else { return };
        let policy = match self.base.shared.lock().registrations.get(&subscription) {
            Some(Registration::Subscriber(record) | Registration::Puller(record, _)) => record.policy,
            Some(Registration::Publisher(_) | Registration::Pusher(_)) | None => return,
        };
        let ring = RingKey { index: ring, generation };
        let added = RingAdded { subscription, peer: &peer, ring, port, topic: &topic, ring_is_older };
        let Some(row) = self.base.ports.ring_added(&added) else { return };
        self.ask_for_seat(Wanted { publisher: process, ring, subscription, row, policy }, now_ns);
    }

    /// Asks for the seat of a row, now or when it is its turn.
    pub(super) fn ask_for_seat(&mut self, wanted: Wanted, now_ns: u64) {
        if let Some(wanted) = self.asks.ask(wanted, now_ns) {
            self.ask_now(wanted, now_ns);
        }
    }

    /// A publisher has answered for a row of ours: the next is asked for.
    fn answered(&mut self, publisher: ProcessId, row: RowKey, now_ns: u64) {
        if let Some(next) = self.asks.answered(publisher, row, now_ns) {
            self.ask_now(next, now_ns);
        }
    }

    pub(super) fn ask_now(&mut self, wanted: Wanted, now_ns: u64) {
        let Wanted { publisher, ring, subscription, row, policy } = wanted;
        let group = match self.base.shared.lock().registrations.get(&subscription) {
            Some(Registration::Puller(_, group)) => Some(group.clone()),
            _ => None,
        };
        if let Some(group) = group {
            let join = Message::Join {
                publisher,
                ring: ring.index,
                generation: ring.generation,
                subscriber: self.base.process(),
                subscription,
                row: row.index,
                row_generation: row.generation,
                group,
            };
            return self.say(join, now_ns);
        }
        let attach = Message::Attach {
            publisher,
            ring: ring.index,
            generation: ring.generation,
            subscriber: self.base.process(),
            subscription,
            row: row.index,
            row_generation: row.generation,
            policy,
        };
        self.say(attach, now_ns);
    }

    fn attach(&mut self, message: Message, beside: Beside, now_ns: u64) {
        let Message::Attach {
            publisher,
            ring,
            generation,
            subscriber,
            subscription,
            row,
            row_generation,
            policy,
        } = message
        else {
            return;
        };
        if publisher != self.base.process() {
            return;
        }
        let answer = match self.meet(subscriber, beside, now_ns) {
            Some(peer) => {
                let (ring, row) = keys(ring, generation, row, row_generation);
                let attach = Attach { subscriber: &peer, ring, subscription, row, policy };
                self.base.ports.attach(&attach)
            }
            None => Err("the publisher cannot map the subscriber's memory".to_owned()),
        };
        let answer = match answer {
            Ok(seat) => {
                Message::Attached { publisher, ring, generation, subscriber, row, row_generation, seat }
            }
            Err(reason) => {
                let reason = Message::reason(&reason);
                Message::AttachRefused {
                    publisher,
                    ring,
                    generation,
                    subscriber,
                    row,
                    row_generation,
                    reason,
                }
            }
        };
        self.say(answer, now_ns);
    }

    /// A puller asks for its place in a group at a ring of ours.
    fn join(&mut self, message: Message, beside: Beside, now_ns: u64) {
        let Message::Join { publisher, ring, generation, subscriber, row, row_generation, group, .. } =
            message
        else {
            return;
        };
        if publisher != self.base.process() {
            return;
        }
        let answer = match self.meet(subscriber, beside, now_ns) {
            Some(peer) => {
                let (ring, row) = keys(ring, generation, row, row_generation);
                self.base.ports.join(&Join { subscriber: &peer, ring, row, group: &group })
            }
            None => Err("the pusher cannot map the puller's memory".to_owned()),
        };
        match answer {
            Ok((place, claims)) => {
                let (seat, owner) = (SeatIndex(place.seat), place.owner.0);
                let (offset, slots) = (place.run.offset, place.run.slots);
                let message = Message::Joined {
                    publisher,
                    ring,
                    generation,
                    subscriber,
                    row,
                    row_generation,
                    seat,
                    offset,
                    slots,
                    owner,
                };
                self.answer(message, Enclosed::OwnClaims(claims), now_ns);
            }
            Err(reason) => {
                let reason = Message::reason(&reason);
                let message = Message::AttachRefused {
                    publisher,
                    ring,
                    generation,
                    subscriber,
                    row,
                    row_generation,
                    reason,
                };
                self.say(message, now_ns);
            }
        }
    }

    /// A pusher gave a row of ours its place.
    fn joined(&mut self, message: Message, beside: Beside, now_ns: u64) {
        let Message::Joined {
            publisher,
            ring,
            generation,
            row,
            row_generation,
            seat,
            offset,
            slots,
            owner,
            ..
        } = message
        else {
            return;
        };
        let claims = beside.into_claims();
        let Some(fd) = claims.as_ref().and_then(Enclosed::single) else {
            return self.lose_holder(&ChannelError::DescriptorsLost, now_ns);
        };
        let (ring, row) = keys(ring, generation, row, row_generation);
        let place = GroupPlace { seat: seat.0, run: RunAt { offset, slots }, owner: Owner(owner) };
        self.base.ports.joined(publisher, ring, row, place, fd);
        self.answered(publisher, row, now_ns);
    }

    /// The arena of a process that a message names: mapped now, if its descriptors lie beside, or known.
    fn meet(&mut self, process: ProcessId, beside: Beside, now_ns: u64) -> Option<Arc<PeerArena>> {
        let enclosed = beside.into_member();
        let Some((arena, bulk)) = enclosed.as_ref().and_then(Enclosed::member) else {
            return self.base.peers.get(process).cloned();
        };
        let met = PeerArena::map(arena, bulk, process)
            .map(|peer| self.base.peers.meet(peer))
            .map_err(|error| memory(&error, "a peer"));
        match met {
            Ok(peer) => Some(peer),
            Err(error) => {
                let kind = if error.code() == Code::LayoutDiffers { Line::Mismatch } else { Line::Refusal };
                let line = format!("the memory of process {process} is refused: {}", error.cause());
                self.base.log.warn(kind, now_ns, || line);
                self.base.shared.update(|state| state.trouble = Some(error.clone()));
                // Descriptors come once a connection: what is short now is there for the next.
                if matches!(error.code(), Code::Descriptors | Code::AddressSpace | Code::MemoryRefused) {
                    self.lose_holder(&ChannelError::Unmapped(error), now_ns);
                }
                None
            }
        }
    }

    fn inspected(&mut self) {
        self.base.shared.update(|state| {
            let Question::Running { ticket, list, again } = &mut state.question else { return };
            state.question = match again {
                None => Question::Answered { ticket: *ticket, list: std::mem::take(list) },
                Some(ticket) => Question::Asked { ticket: *ticket },
            };
        });
    }
}

fn keys(
    ring: busway_wire::RingIndex,
    generation: busway_wire::Generation,
    row: busway_wire::RowIndex,
    row_generation: busway_wire::Generation,
) -> (RingKey, RowKey) {
    (RingKey { index: ring, generation }, RowKey { index: row, generation: row_generation })
}

/// Whether two descriptors are of one segment.
fn same_file(one: rustix::fd::BorrowedFd<'_>, other: rustix::fd::BorrowedFd<'_>) -> bool {
    let (Ok(one), Ok(other)) = (rustix::fs::fstat(one), rustix::fs::fstat(other)) else { return false };
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
