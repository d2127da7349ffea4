//! One of our sources towards one peer, across connections: what was taken of it, and what became of that.
//!
//! The peer says how far it has come; the export answers with what the row is to do. A reliable source is read
//! again from there after a reconnect. Of any other, what had been taken and is not there is told as lost. The
//! export neither holds messages nor knows when they may go.
//!
//! Invariant: `flight` covers each sequence from `acked` + 1 to `taken` once, in order.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use busway_wire::limits::LINK_GAPS_MAX;
use busway_wire::link::{Accept, Announce, Gap};
use busway_wire::{Cause, Kind, Topic, TopicId, gossip};

use crate::error::PeerError;
use crate::link::{Amount, Way};
use crate::session::Account;

/// One source towards one peer.
#[derive(Debug)]
pub(crate) struct Export {
    announce: Announce,
    /// Of the announced topic: it is a hash, too slow to be made for each message.
    topic: TopicId,
    kind: Kind,
    phase: Phase,
    /// The sequence before the first that this export accounts for.
    before: u64,
    /// How far the peer was when it answered first on this link.
    answered: u64,
    acked: u64,
    taken: u64,
    /// Up to here a reliable source says again what a lost link had of it.
    again: u64,
    flight: VecDeque<Flown>,
    lost: [u64; Cause::COUNT],
    lost_all: u64,
    /// The last sequence that there will be.
    last: Option<u64>,
    retired: bool,
}

/// Where an export is on the present link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The peer has not been told of it.
    Unannounced,
    /// It has, and has not answered.
    Announced,
    /// It has: messages may go.
    Flowing,
}

/// Messages that were sent together, or a range of lost ones, that the peer has not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Flown {
    to: u64,
    /// What of it is under way: of messages that were sent together, those that are not acknowledged and all bytes.
    amount: Amount,
    lost: Option<Cause>,
}

/// What follows from an `Accept`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// What is no longer under way.
    pub(crate) settled: Amount,
    /// The row's cursor may move to here.
    pub(crate) pass: Option<u64>,
    /// The row is to be read again behind here.
    pub(crate) rewind: Option<u64>,
    /// To be told to the peer, in order.
    pub(crate) gaps: Vec<Gap>,
}

impl Export {
    /// A source of which the row reads `next` first.
    pub(crate) fn new(announce: Announce, next: u64) -> Export {
        let before = next.saturating_sub(1);
        Export {
            topic: announce.topic.id(),
            kind: gossip::kind_of(&announce.topic),
            announce,
            phase: Phase::Unannounced,
            before,
            answered: before,
            acked: before,
            taken: before,
            again: before,
            flight: VecDeque::new(),
            lost: [0; Cause::COUNT],
            lost_all: 0,
            last: None,
            retired: false,
        }
    }

    pub(crate) fn topic(&self) -> TopicId {
        self.topic
    }

    /// Of its messages.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn topic_name(&self) -> &Topic {
        &self.announce.topic
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The peer is told of it.
    pub(crate) fn announced(&mut self) -> Announce {
        self.phase = Phase::Announced;
        Announce { resumes: self.taken > self.before, ..self.announce.clone() }
    }

    /// How a message goes out of memory that its writer may write still. Of a reliable source none may be lost for that: what goes
    /// again goes as a copy, so that one that its program keeps changing costs one link, and no second.
    pub(crate) fn way(&self, sequence: u64) -> Way {
        if self.announce.reliable && sequence <= self.again { Way::Copied } else { Way::InPlace }
    }

    /// How many notes it keeps.
    pub(crate) fn flight_len(&self) -> usize {
        self.flight.len()
    }

    /// Takes the row's next messages, of which `to` is the last. Whether they are to be sent: not if the peer has them.
    pub(crate) fn publish(&mut self, to: u64, amount: Amount) -> bool {
        if to <= self.taken {
            return false;
        }
        self.taken = to;
        self.flight.push_back(Flown { to, amount, lost: None });
        true
    }

    /// Whether a reliable row is to be told that this message is not needed.
    pub(crate) fn has_passed(&self, sequence: u64) -> bool {
        self.announce.reliable && sequence <= self.acked
    }

    /// Takes a loss of the row that reads for `link`: what is to be told of it, if anything.
    pub(crate) fn lose(&mut self, to: u64, cause: Cause, link: &dyn Fn() -> String) -> Option<Gap> {
        if to <= self.taken {
            return None;
        }
        let from = self.taken + 1;
        self.taken = to;
        self.flight.push_back(Flown { to, amount: Amount::message(0), lost: Some(cause) });
        Some(self.gap(from, to, cause, link))
    }

    /// The first sequence that has not been taken.
    pub(crate) fn next(&self) -> u64 {
        self.taken.saturating_add(1)
    }

    /// The row reads no more.
    pub(crate) fn end(&mut self, last: u64) {
        self.last = Some(last);
    }

    /// The last sequence there will be, if the peer is to be told now: behind all that was taken.
    pub(crate) fn retire_now(&mut self) -> Option<u64> {
        let last =
            self.last.filter(|last| self.phase == Phase::Flowing && !self.retired && self.taken >= *last);
        self.retired |= last.is_some();
        // Nothing behind what was taken has been promised to the peer.
        last.map(|last| last.max(self.taken))
    }

    /// Whether nothing has to be kept for it any more: it has ended, and the peer has all, or there is nothing.
    pub(crate) fn is_done(&self) -> bool {
        let settled = self.acked == self.taken;
        self.last.is_some_and(|last| match self.phase {
            Phase::Flowing => self.retired && self.acked >= last && settled,
            // What was sent before it ended is still to come, however late the peer answers.
            Phase::Unannounced | Phase::Announced => self.taken == self.before && self.taken >= last,
        })
    }

    /// Whether the row has ended, whatever is still to be told.
    pub(crate) fn has_ended(&self) -> bool {
        self.last.is_some()
    }

    /// The link is gone. What was told to be over has to be told again.
    pub(crate) fn disconnected(&mut self) {
        self.phase = Phase::Unannounced;
        self.retired = false;
    }

    /// The peer accepts the source, or has got further. `sent` is the last sequence that went out whole on this
    /// link; `link` names it, for people.
    pub(crate) fn accepted(
        &mut self,
        accept: &Accept,
        sent: u64,
        link: &dyn Fn() -> String,
    ) -> Result<Accepted, PeerError> {
        let wrong = PeerError::Acknowledgement { source: Some(self.announce.source) };
        match self.phase {
            Phase::Unannounced => Err(wrong),
            Phase::Announced => {
                let passed = accept.passed.unwrap_or(self.acked);
                let fresh = self.taken == self.before;
                if !fresh && (passed < self.acked || passed > self.taken) {
                    return Err(wrong);
                }
                self.phase = Phase::Flowing;
                let accepted = if fresh { self.begin(passed, link) } else { self.resume(passed, link) };
                self.answered = self.acked;
                Ok(accepted)
            }
            Phase::Flowing => match accept.passed {
                Some(passed) if passed >= self.acked && passed <= sent.max(self.acked) => {
                    let mut accepted = Accepted { settled: self.settle(passed), ..Accepted::default() };
                    accepted.pass = self.pass(accepted.settled.messages > 0);
                    Ok(accepted)
                }
                // Nothing had come when it first answered, and nothing has.
                None if self.acked == self.answered => Ok(Accepted::default()),
                Some(_) | None => Err(wrong),
            },
        }
    }

    /// What became of all that was taken.
    pub(crate) fn account(&self) -> Account {
        let sent = self.taken.saturating_sub(self.before);
        let settled = self.acked.saturating_sub(self.before);
        Account {
            sent,
            acked: settled.saturating_sub(self.lost_all),
            dropped: self.lost,
            in_flight: sent.saturating_sub(settled),
        }
    }

    /// The first answer to a source of which nothing was taken yet: the peer may know it from before our start.
    fn begin(&mut self, passed: u64, link: &dyn Fn() -> String) -> Accepted {
        let mut accepted = Accepted::default();
        let asked = self.before;
        (self.before, self.acked, self.taken) = (passed, passed, passed);
        if passed < asked {
            if self.announce.reliable {
                accepted.rewind = Some(passed);
            } else {
                accepted.gaps.extend(self.lose(asked, Cause::LinkLost, link));
            }
        }
        accepted
    }

    /// The first answer after a reconnect.
    fn resume(&mut self, passed: u64, link: &dyn Fn() -> String) -> Accepted {
        let moved = self.settle(passed);
        let pass = self.pass(moved.messages > 0);
        if self.announce.reliable {
            let rewind = (self.taken > self.acked).then_some(self.acked);
            self.flight.clear();
            (self.again, self.taken) = (self.taken, self.acked);
            return Accepted { pass, rewind, ..Accepted::default() };
        }
        let mut lost: VecDeque<Flown> = VecDeque::new();
        for flown in self.flight.drain(..) {
            let cause = flown.lost.unwrap_or(Cause::LinkLost);
            let full = lost.len() >= LINK_GAPS_MAX;
            match lost.back_mut() {
                Some(last) if last.lost == Some(cause) || full => {
                    (last.to, last.lost) = (flown.to, Some(cause));
                }
                Some(_) | None => {
                    let amount = Amount::message(0);
                    lost.push_back(Flown { to: flown.to, amount, lost: Some(cause) });
                }
            }
        }
        let mut from = self.acked + 1;
        let mut gaps = Vec::new();
        for flown in &lost {
            let cause = flown.lost.unwrap_or(Cause::LinkLost);
            gaps.push(self.gap(from, flown.to, cause, link));
            from = flown.to.saturating_add(1);
        }
        self.flight = lost;
        Accepted { pass, gaps, ..Accepted::default() }
    }

    /// Moves `acked` as far as the notes of the flight allow: into one of messages that were sent together, but not into
    /// one of a loss, which is told and heard as one.
    fn settle(&mut self, passed: u64) -> Amount {
        let mut settled = Amount::default();
        while let Some(flown) = self.flight.front().filter(|flown| flown.to <= passed) {
            settled.add(flown.amount);
            if let Some(cause) = flown.lost {
                let count = flown.to.saturating_sub(self.acked);
                self.lost_all = self.lost_all.saturating_add(count);
                if let Some(word) = self.lost.get_mut(cause.index()) {
                    *word = word.saturating_add(count);
                }
            }
            self.acked = flown.to;
            self.flight.pop_front();
        }
        if passed > self.acked
            && let Some(flown) = self.flight.front_mut().filter(|flown| flown.lost.is_none())
        {
            // How many bytes that is, is known when all of it has passed.
            let part = Amount { messages: passed - self.acked, bytes: 0 };
            flown.amount.take(part);
            settled.add(part);
            self.acked = passed;
        }
        settled
    }

    fn pass(&self, moved: bool) -> Option<u64> {
        (moved && self.announce.reliable).then_some(self.acked)
    }

    fn gap(&self, from: u64, to: u64, cause: Cause, link: &dyn Fn() -> String) -> Gap {
        Gap { source: self.announce.source, from, to, cause, link: link() }
    }
}
