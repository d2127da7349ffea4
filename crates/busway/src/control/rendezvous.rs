//! Who publishes and subscribes what in a domain: the decisions of the process that holds the rendezvous.
//!
//! A pure machine. Registrations go in with [`Rendezvous::handle`], answers come out as messages for members; it
//! holds no socket, clock or thread, and descriptors pass through it as opaque values of type `F`. It allocates
//! nothing for anybody: owners draw the ids, and a registration may be repeated, on this connection or to the
//! next holder, without any other effect than a repeated answer.
//!
//! A subscription is a *standing query*: it remembers up to which publisher it has been answered, and
//! [`Rendezvous::transmit`] pulls the next answers when the member's connection has room. So a member that does not
//! read costs nothing but its registrations, and a query over 100 000 publishers is answered in pieces.
//!
//! Invariants:
//! - What a member registered, and nothing else, is gone after it has left.
//! - A standing query visits each publisher at most once, in the order in which they registered.
//! - The descriptors of a process go to a member at most once, until that process has left.
//! - Memory is bounded by the registrations, which are bounded per member by `RINGS_MAX` and `SUBSCRIBERS_MAX`.

use crate::error::Code;
use busway_wire::limits::{MATCHED_MAX, RINGS_MAX};
use busway_wire::{Control, Generation, Group, Policy, PortId, ProcessId, RingIndex};
use index::{Index, Meets, Publisher, Query, Serial};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use watch::Watch;

mod index;
mod relay;
mod watch;

/// Subscribers of one process: as many as it may have publishers, since each needs at least one of 65 536 rows.
pub(super) const SUBSCRIBERS_MAX: usize = 65_536;

/// Publishers that one `transmit` looks at: some 0.2 ms, so that nobody waits long for a query over all topics.
const VISITS_MAX: usize = 4_096;

/// What is said of the second of two names with one id.
const CLASH: &str = "another topic, which is registered, has the id of this one";

/// A connection of a member, as the holder numbers them. A number is never given again while it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId(pub(super) u64);

impl MemberId {
    /// The holder itself, which has no connection.
    pub(super) const HOLDER: MemberId = MemberId(0);
}

/// Who a member is, as its Hello and the kernel said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) process: ProcessId,
    pub(super) pid: u32,
    pub(super) name: String,
}

/// Why a member is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It said goodbye, or its life word says that it has ended.
    Ended,
    /// Its connection broke, but its process may live: it will come back, and its peers need not be told.
    Lost,
}

/// What happens to the machine.
#[derive(Debug)]
pub(super) enum Input<F> {
    /// A member whose Hello was found good.
    Joined(Identity, F),
    /// A message of a member that has joined.
    Message(Control),
    /// An answer of a member, to be handed on with what lay beside it.
    Answer(Control, F),
    /// A member is no longer there.
    Left(Leaving),
}

/// What the holder has to do, in this order.
#[derive(Debug)]
pub(super) enum Output<F> {
    /// Send the message, with the descriptors of a process beside it.
    Send { to: MemberId, message: Control, fds: Option<F> },
    /// Tell the member why and hang up.
    Refuse { member: MemberId, code: Code, reason: &'static str },
    /// A member asks for the role.
    HandOver { to: ProcessId },
}

/// Whether a standing query has more to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulled {
    /// Everything known has been said.
    All,
    /// There is more; ask again.
    More,
}

#[derive(Debug)]
struct Subscription {
    query: Query,
    policy: Policy,
    /// For which group it pulls.
    group: Option<Group>,
    created_ns: u64,
    /// The last publisher that was looked at.
    seen: Serial,
    /// How many were found until the first answer was complete.
    found: u32,
    answered: bool,
}

#[derive(Debug)]
struct Member<F> {
    identity: Identity,
    fds: F,
    publishers: BTreeMap<PortId, Serial>,
    rings: BTreeMap<(RingIndex, Generation), PortId>,
    subscriptions: BTreeMap<PortId, Subscription>,
    /// Processes whose descriptors this member has been given.
    told: BTreeSet<ProcessId>,
    /// Subscriptions that have publishers to look at.
    unfinished: BTreeSet<PortId>,
    /// It wants to know what is subscribed to on this host.
    watch: Option<Watch>,
    /// The list of members that was asked for, and how far it was said.
    inspecting: Option<Listed>,
}

/// How far a list of members was said: the last member, and the last of its subscriptions that was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Listed {
    member: Option<MemberId>,
    subscription: Option<PortId>,
}

/// The machine; see the head of this file.
#[derive(Debug)]
pub(super) struct Rendezvous<F> {
    members: BTreeMap<MemberId, Member<F>>,
    by_process: BTreeMap<ProcessId, MemberId>,
    index: Index,
    /// Members for which `transmit` has work.
    pending: BTreeSet<MemberId>,
    phase: Phase,
}

/// Whether those who were registered with the last holder have had time to register here.
#[derive(Debug)]
enum Phase {
    /// Not yet: who asks how many there are is answered when they are there. These publishers wait.
    Settling {
        publishers: BTreeSet<(MemberId, PortId)>,
    },
    Settled,
}

impl<F: Clone> Rendezvous<F> {
    pub(super) fn new() -> Rendezvous<F> {
        Self::with_index(Index::default())
    }

    fn with_index(index: Index) -> Rendezvous<F> {
        Rendezvous {
            members: BTreeMap::new(),
            by_process: BTreeMap::new(),
            index,
            pending: BTreeSet::new(),
            phase: Phase::Settled,
        }
    }

    /// The role was taken over: publishers and subscribers hear how many match them only after [`settle`].
    ///
    /// [`settle`]: Rendezvous::settle
    pub(super) fn begin_settling(&mut self) {
        self.phase = Phase::Settling { publishers: BTreeSet::new() };
    }

    /// Answers what has waited since the take-over.
    pub(super) fn settle(&mut self, out: &mut Vec<Output<F>>) {
        let Phase::Settling { publishers } = std::mem::replace(&mut self.phase, Phase::Settled) else {
            return;
        };
        for (member, port) in publishers {
            if let Some(serial) =
                self.members.get(&member).and_then(|member| member.publishers.get(&port)).copied()
            {
                self.answer_publisher(serial, out);
            }
        }
        for (id, member) in &mut self.members {
            let waiting = member.subscriptions.iter().filter(|(_, subscription)| !subscription.answered);
            member.unfinished.extend(waiting.map(|(port, _)| *port));
            if !member.unfinished.is_empty() || member.watch.is_some() {
                self.pending.insert(*id);
            }
        }
    }

    /// Feeds one event; what has to be done is pushed, in order.
    pub(super) fn handle(&mut self, from: MemberId, input: Input<F>, out: &mut Vec<Output<F>>) {
        match input {
            Input::Joined(identity, fds) => self.join(from, identity, fds),
            Input::Left(leaving) => self.leave(from, leaving, out),
            Input::Message(message) if self.members.contains_key(&from) => self.message(from, message, out),
            Input::Answer(message, beside) if self.members.contains_key(&from) => {
                self.relay_answer(from, message, Some(beside), out);
            }
            // Its last words, read after it was refused.
            Input::Message(_) | Input::Answer(..) => {}
        }
    }

    /// Members for which [`Rendezvous::transmit`] has something to say.
    pub(super) fn pending(&self) -> Vec<MemberId> {
        self.pending.iter().copied().collect()
    }

    /// Pulls at most `room` answers to what a member asked.
    pub(super) fn transmit(&mut self, to: MemberId, room: usize, out: &mut Vec<Output<F>>) -> Pulled {
        let mut visits = VISITS_MAX;
        let room_end = out.len() + room;
        while out.len() < room_end && visits > 0 {
            if !self.answer_one(to, &mut visits, out) {
                self.pending.remove(&to);
                return Pulled::All;
            }
        }
        Pulled::More
    }

    /// The member that speaks for a process.
    pub(super) fn member_of(&self, process: ProcessId) -> Option<MemberId> {
        self.by_process.get(&process).copied()
    }

    /// Everybody, the holder included, in the order in which they joined.
    pub(super) fn members(&self) -> impl Iterator<Item = (MemberId, &Identity)> {
        self.members.iter().map(|(id, member)| (*id, &member.identity))
    }

    /// Tells everybody else who holds next.
    pub(super) fn announce(&self, to: ProcessId, out: &mut Vec<Output<F>>) {
        for member in self.members.keys().filter(|member| **member != MemberId::HOLDER) {
            out.push(Output::Send { to: *member, message: Control::Moving { to }, fds: None });
        }
    }

    /// Tells everybody else that a process which is no member counts as gone.
    pub(super) fn forget(&self, process: ProcessId, out: &mut Vec<Output<F>>) {
        for member in self.members.keys().filter(|member| **member != MemberId::HOLDER) {
            out.push(Output::Send { to: *member, message: Control::Gone { process }, fds: None });
        }
    }

    fn join(&mut self, id: MemberId, identity: Identity, fds: F) {
        assert!(!self.members.contains_key(&id), "the holder never gives a number twice");
        assert!(!self.by_process.contains_key(&identity.process), "the holder ends the old connection first");
        self.by_process.insert(identity.process, id);
        let member = Member {
            identity,
            fds,
            publishers: BTreeMap::new(),
            rings: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            told: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            inspecting: None,
            watch: None,
        };
        self.members.insert(id, member);
    }

    fn leave(&mut self, id: MemberId, leaving: Leaving, out: &mut Vec<Output<F>>) {
        let Some(member) = self.members.remove(&id) else { return };
        let process = member.identity.process;
        self.by_process.remove(&process);
        self.pending.remove(&id);
        for serial in member.publishers.values() {
            self.index.remove_publisher(*serial);
        }
        for (port, subscription) in &member.subscriptions {
            self.index.remove_subscription(id, *port, &subscription.query.pattern);
            self.changed(id, *port, &subscription.query);
        }
        for (other, witness) in &mut self.members {
            // Also after a lost connection: if the process comes back, its descriptors are simply sent again.
            if witness.told.remove(&process) && leaving == Leaving::Ended {
                out.push(Output::Send { to: *other, message: Control::Gone { process }, fds: None });
            }
        }
    }

    fn message(&mut self, from: MemberId, message: Control, out: &mut Vec<Output<F>>) {
        match message {
            Control::Publish { port, topic, ring, generation, created_ns, relay } => {
                let (member, meets, only) = (from, Meets::Subscribers, None);
                let publisher =
                    Publisher { member, port, topic, ring, generation, created_ns, relay, meets, only };
                self.publish(publisher, out);
            }
            Control::Push { port, topic, ring, generation, created_ns, only } => {
                let (member, relay, meets) = (from, only.is_some(), Meets::Groups);
                let publisher =
                    Publisher { member, port, topic, ring, generation, created_ns, relay, meets, only };
                self.publish(publisher, out);
            }
            Control::Unpublish { port } => self.unpublish(from, port),
            Control::Subscribe { port, pattern, policy, created_ns, export } => {
                let (seen, found, answered) = (Serial::default(), 0, false);
                let query = Query { pattern, export, meets: Meets::Subscribers, group: None };
                let group = None;
                let subscription = Subscription { query, policy, group, created_ns, seen, found, answered };
                self.subscribe(from, port, subscription, out);
            }
            Control::Pull { group, .. } if !group.is_open() => {
                refuse(from, Code::ReservedTopic, "names that begin with `$` belong to the bus", out);
            }
            Control::Pull { port, pattern, group, created_ns, export } => {
                let (seen, found, answered) = (Serial::default(), 0, false);
                let of = Some(group.name().clone());
                let query = Query { pattern, export, meets: Meets::Groups, group: of };
                let (policy, group) = (Policy::default(), Some(group));
                let subscription = Subscription { query, policy, group, created_ns, seen, found, answered };
                self.subscribe(from, port, subscription, out);
            }
            Control::Unsubscribe { port } => self.unsubscribe(from, port),
            Control::Attach { .. } | Control::Join { .. } => self.relay_attach(from, message, out),
            Control::Attached { .. } | Control::AttachRefused { .. } => {
                self.relay_answer(from, message, None, out);
            }
            Control::Inspect { .. } => {
                self.member(from).inspecting = Some(Listed::default());
                self.pending.insert(from);
            }
            Control::Watch { .. } => self.watch(from),
            Control::HandOver { .. } => {
                let to = self.member(from).identity.process;
                out.push(Output::HandOver { to });
            }
            Control::Goodbye { .. } => self.leave(from, Leaving::Ended, out),
            Control::Joined { .. } => {
                refuse(from, Code::ProtocolBroken, "a claims file comes with Joined", out);
            }
            Control::Hello { .. }
            | Control::Welcome { .. }
            | Control::Refused { .. }
            | Control::Published { .. }
            | Control::Subscribed { .. }
            | Control::RingAdded { .. }
            | Control::Gone { .. }
            | Control::Member { .. }
            | Control::InspectEnd { .. }
            | Control::Wanted { .. }
            | Control::Pulled { .. }
            | Control::Unwanted { .. }
            | Control::WatchEnd { .. }
            | Control::Moving { .. }
            | Control::Unmatched { .. } => {
                refuse(from, Code::ProtocolBroken, "a member does not say this to the holder", out);
            }
        }
    }

    fn publish(&mut self, publisher: Publisher, out: &mut Vec<Output<F>>) {
        let (from, port) = (publisher.member, publisher.port);
        let matched = self.index.subscriptions_of(&publisher);
        let known = self.member(from).publishers.get(&port).copied();
        let repeated = known.and_then(|serial| self.index.publisher(serial)) == Some(&publisher);
        if !repeated {
            self.unpublish(from, port);
            let ring = (publisher.ring, publisher.generation);
            let member = self.member(from);
            if member.publishers.len() >= RINGS_MAX as usize {
                return refuse(from, Code::TooManyPorts, "more publishers than a process may have", out);
            }
            if member.rings.contains_key(&ring) {
                return refuse(from, Code::ProtocolBroken, "two publishers cannot share a ring", out);
            }
            if self.index.clashes(&publisher.topic) {
                return refuse(from, Code::TopicClash, CLASH, out);
            }
            let member = self.member(from);
            member.rings.insert(ring, port);
            let serial = self.index.add_publisher(publisher);
            self.member(from).publishers.insert(port, serial);
        }
        for (member, subscription) in matched {
            let found = self.members.get_mut(&member).expect("the index holds what members registered");
            found.unfinished.insert(subscription);
            self.pending.insert(member);
        }
        match (&mut self.phase, self.members[&from].publishers.get(&port).copied()) {
            (Phase::Settling { publishers }, _) => drop(publishers.insert((from, port))),
            (Phase::Settled, serial) => self.answer_publisher(serial.expect("it was registered above"), out),
        }
    }

    fn answer_publisher(&mut self, serial: Serial, out: &mut Vec<Output<F>>) {
        let publisher = self.index.publisher(serial).expect("what a member registered is in the index");
        let matched = self.index.subscriptions_of(publisher).into_iter().take(MATCHED_MAX);
        let matched = matched.map(|(member, _)| self.members[&member].identity.process).collect();
        let message = Control::Published { port: publisher.port, matched };
        out.push(Output::Send { to: publisher.member, message, fds: None });
    }

    fn unpublish(&mut self, from: MemberId, port: PortId) {
        let Some(serial) = self.member(from).publishers.remove(&port) else { return };
        if let Some(publisher) = self.index.remove_publisher(serial) {
            self.member(from).rings.remove(&(publisher.ring, publisher.generation));
        }
    }

    fn subscribe(&mut self, from: MemberId, port: PortId, new: Subscription, out: &mut Vec<Output<F>>) {
        // A repeated registration asks the whole query again, and gets the whole answer again.
        self.unsubscribe(from, port);
        let member = self.member(from);
        if member.subscriptions.len() >= SUBSCRIBERS_MAX {
            return refuse(from, Code::TooManyPorts, "more subscribers than a process may have", out);
        }
        if new.query.pattern.exact().is_some_and(|topic| self.index.clashes(topic)) {
            return refuse(from, Code::TopicClash, CLASH, out);
        }
        let member = self.member(from);
        member.unfinished.insert(port);
        let query = new.query.clone();
        member.subscriptions.insert(port, new);
        self.changed(from, port, &query);
        self.index.add_subscription(from, port, query);
        self.pending.insert(from);
    }

    fn unsubscribe(&mut self, from: MemberId, port: PortId) {
        let member = self.member(from);
        member.unfinished.remove(&port);
        if let Some(subscription) = member.subscriptions.remove(&port) {
            self.index.remove_subscription(from, port, &subscription.query.pattern);
            self.changed(from, port, &subscription.query);
        }
    }

    /// Sends a message that names the process of `about`, with its descriptors if `to` has not had them.
    fn send_about(&mut self, to: MemberId, about: MemberId, message: Control, out: &mut Vec<Output<F>>) {
        let (process, fds) = {
            let about = self.member(about);
            (about.identity.process, about.fds.clone())
        };
        let first = self.member(to).told.insert(process);
        out.push(Output::Send { to, message, fds: first.then_some(fds) });
    }

    /// Pushes at most one answer; false if nothing is left to say.
    fn answer_one(&mut self, to: MemberId, visits: &mut usize, out: &mut Vec<Output<F>>) -> bool {
        let Some(member) = self.members.get_mut(&to) else { return false };
        let Some(port) = member.unfinished.first().copied() else {
            return self.inspect_one(to, visits, out) || self.watch_one(to, out);
        };
        let subscription =
            member.subscriptions.get_mut(&port).expect("only what is registered is unfinished");
        if let Some((serial, publisher)) =
            self.index.next_publisher(&subscription.query, &mut subscription.seen, visits)
        {
            debug_assert_eq!(serial, subscription.seen, "a query goes on behind what it found");
            if !subscription.answered {
                subscription.found += 1;
            }
            let about = publisher.member;
            let message = Control::RingAdded {
                subscription: port,
                process: self.members[&about].identity.process,
                port: publisher.port,
                topic: publisher.topic.clone(),
                ring: publisher.ring,
                generation: publisher.generation,
                created_ns: publisher.created_ns,
                ring_is_older: publisher.created_ns < self.members[&to].subscriptions[&port].created_ns,
            };
            self.send_about(to, about, message, out);
        } else if *visits > 0 {
            // The end was reached, not the bound on visits.
            member.unfinished.remove(&port);
            if !subscription.answered && matches!(self.phase, Phase::Settled) {
                subscription.answered = true;
                let message = Control::Subscribed { port, publishers: subscription.found };
                out.push(Output::Send { to, message, fds: None });
            }
        }
        true
    }

    fn inspect_one(&mut self, to: MemberId, visits: &mut usize, out: &mut Vec<Output<F>>) -> bool {
        let Some(listed) = self.member(to).inspecting else { return false };
        if let Some(subscription) = self.say_if_unmatched(to, listed, visits, out) {
            self.member(to).inspecting = Some(Listed { subscription: Some(subscription), ..listed });
            return true;
        }
        let next = self.members.range((listed.member.map_or(Unbounded, Excluded), Unbounded)).next();
        let Some((about, identity)) = next.map(|(id, member)| (*id, member.identity.clone())) else {
            self.member(to).inspecting = None;
            out.push(Output::Send { to, message: Control::InspectEnd {}, fds: None });
            return true;
        };
        self.member(to).inspecting = Some(Listed { member: Some(about), subscription: None });
        let Identity { process, pid, name } = identity;
        self.send_about(to, about, Control::Member { process, pid, name }, out);
        true
    }

    /// Looks at the next subscription of the last member that was listed; `None` if it has no more. One that has a
    /// publisher is found in the publisher's memory by whoever asks. A pattern for which none is found in so many visits
    /// is said as well: who asks knows better.
    fn say_if_unmatched(
        &self,
        to: MemberId,
        listed: Listed,
        visits: &mut usize,
        out: &mut Vec<Output<F>>,
    ) -> Option<PortId> {
        let about = self.members.get(&listed.member?)?;
        let rest = (listed.subscription.map_or(Unbounded, Excluded), Unbounded);
        let (port, subscription) = about.subscriptions.range(rest).next()?;
        let (mut seen, mut left) = (Serial::default(), VISITS_MAX);
        if !subscription.query.export
            && self.index.next_publisher(&subscription.query, &mut seen, &mut left).is_none()
        {
            let (process, pattern) = (about.identity.process, subscription.query.pattern.clone());
            let message = Control::Unmatched { process, port: *port, pattern, policy: subscription.policy };
            out.push(Output::Send { to, message, fds: None });
        }
        *visits = visits.saturating_sub(VISITS_MAX - left);
        Some(*port)
    }

    fn member(&mut self, id: MemberId) -> &mut Member<F> {
        self.members.get_mut(&id).expect("`handle` and `transmit` looked: the member is there")
    }
}

fn refuse<F>(member: MemberId, code: Code, reason: &'static str, out: &mut Vec<Output<F>>) {
    out.push(Output::Refuse { member, code, reason });
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
