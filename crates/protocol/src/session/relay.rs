//! One source of a peer, across connections: what has come of it, and what stands in its relay ring.
//!
//! Messages that wait for room in the relay ring lie with the caller; here stands only how much they are. What comes
//! twice is dropped, a hole without a word becomes a gap. The relay knows neither rings nor frames.
//!
//! Invariant: `passed <= arrived`; `pending` covers each sequence between them once, in order.

use alloc::collections::VecDeque;

use busway_wire::limits::LINK_ACKNOWLEDGE_BYTES;
use busway_wire::link::{Accept, Announce};
use busway_wire::{Cause, Header, Kind, TopicId, gossip};

use crate::link::Amount;

/// One source of a peer.
#[derive(Debug)]
pub(crate) struct Relay {
    announce: Announce,
    /// Of the announced topic: it is a hash, too slow to be made for each message.
    topic: TopicId,
    kind: Kind,
    phase: Phase,
    /// Whether it was announced on this link, and answered.
    here: bool,
    answered: bool,
    passed: Option<u64>,
    arrived: Option<u64>,
    pending: VecDeque<Pending>,
    under_way: Amount,
    window: Amount,
    untold: Amount,
    last: Option<u64>,
    open: Option<Open>,
}

/// What the caller has made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has been asked for a relay ring.
    Asked,
    /// There is one.
    Open,
    /// There is none, and this is the cause of what is lost.
    Refused(Cause),
    /// No more messages come, unless it is announced again.
    Closed,
}

/// What has arrived and does not stand in the relay ring yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    to: u64,
    amount: Amount,
}

/// A message that comes in pieces.
#[derive(Clone, Copy, Debug)]
struct Open {
    sequence: u64,
    offset: u64,
    amount: Amount,
    /// A piece of it is not what its sender summed: the rest comes, and is not used.
    spoiled: bool,
}

/// What a message that came in pieces is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// One that is dropped.
    Nothing,
    /// One to keep.
    Whole,
    /// One that is lost: its sequence.
    Spoiled(u64),
}

/// What is to be done with a message or a gap that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is next; before it, what is missing is lost without a word.
    Take { hole: Option<(u64, u64)> },
    /// It has come before.
    Duplicate,
    /// It is dropped for this cause.
    Drop(Cause),
    /// It is more than was granted.
    TooMuch,
}

impl Relay {
    pub(crate) fn new(announce: Announce, window: Amount) -> Relay {
        Relay {
            topic: announce.topic.id(),
            kind: gossip::kind_of(&announce.topic),
            announce,
            phase: Phase::Asked,
            here: true,
            answered: false,
            passed: None,
            arrived: None,
            pending: VecDeque::new(),
            under_way: Amount::default(),
            window,
            untold: Amount::default(),
            last: None,
            open: None,
        }
    }

    pub(crate) fn announce(&self) -> &Announce {
        &self.announce
    }

    /// Whether such a message may be of it. The topic of words about artifacts has a kind of its own, which does not come in runs.
    pub(crate) fn is_of(&self, header: &Header) -> bool {
        let kind = header.kind();
        let run = kind == Some(Kind::Run) && self.kind == Kind::Publish;
        header.topic() == self.topic && (run || kind == Some(self.kind))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn is_here(&self) -> bool {
        self.here
    }

    /// Whether it was announced on this link and has not ended: it was answered, or will be.
    pub(crate) fn stands(&self) -> bool {
        self.here && self.last.is_none() && matches!(self.phase, Phase::Asked | Phase::Open)
    }

    /// Where the next bytes of the message belong that comes in pieces and is to be kept.
    pub(crate) fn open(&self) -> Option<u64> {
        self.open.filter(|open| !open.spoiled).map(|open| open.offset)
    }

    /// Whether nothing of it may be lost.
    pub(crate) fn is_reliable(&self) -> bool {
        self.announce.reliable
    }

    /// It is announced again, on a new link or after its end.
    pub(crate) fn announced(&mut self, announce: Announce) {
        if self.phase == Phase::Closed && !announce.resumes {
            // What was sent while nobody here wanted it is not lost.
            (self.passed, self.arrived) = (None, None);
        }
        self.announce = announce;
        self.phase = Phase::Asked;
        self.here = true;
        self.answered = false;
        self.last = None;
    }

    /// The caller has a relay ring for it.
    pub(crate) fn opened(&mut self) {
        if self.phase == Phase::Asked {
            self.phase = Phase::Open;
        }
    }

    /// The caller has none: what is given back of what came.
    pub(crate) fn refused(&mut self, cause: Cause) -> Amount {
        self.phase = Phase::Refused(cause);
        let mut amount = self.published(u64::MAX);
        if let Some(open) = self.open.take() {
            amount.add(open.amount);
        }
        amount
    }

    /// The link is gone: whether a message was open. What waits costs no credit of the next link.
    pub(crate) fn disconnected(&mut self) -> bool {
        (self.here, self.answered) = (false, false);
        (self.untold, self.under_way) = (Amount::default(), Amount::default());
        for pending in &mut self.pending {
            pending.amount = Amount::default();
        }
        self.open.take().is_some()
    }

    /// The first answer on this link, once: when nothing of an earlier link waits any more, so that what has
    /// arrived is what has passed, and none of it is told as lost or sent twice.
    pub(crate) fn answer(&mut self) -> Option<Accept> {
        if self.phase != Phase::Open || !self.here || self.answered || !self.pending.is_empty() {
            return None;
        }
        self.answered = true;
        Some(self.accept())
    }

    /// The acknowledgement of all that has passed.
    pub(crate) fn tell(&mut self) -> Option<Accept> {
        let owed = self.answered && self.untold != Amount::default();
        self.untold = Amount::default();
        owed.then(|| self.accept())
    }

    /// Whether somebody may wait until it is acknowledged. Nobody does for what is said about artifacts.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.kind == Kind::Publish
    }

    /// Whether the peer should hear at once of what has passed.
    pub(crate) fn is_due(&self) -> bool {
        let much = self.untold.bytes >= LINK_ACKNOWLEDGE_BYTES || self.untold.is_large(self.window);
        self.answered && much
    }

    /// Looks at a message, or at a run or a gap from `sequence` to `to`, that has come. Of the latter the beginning may
    /// have come before.
    pub(crate) fn look(&self, sequence: u64, to: u64, amount: Amount) -> Verdict {
        match self.phase {
            Phase::Refused(cause) => return Verdict::Drop(cause),
            Phase::Asked | Phase::Closed => return Verdict::Drop(Cause::SpoofedSource),
            Phase::Open if !self.answered => return Verdict::Drop(Cause::SpoofedSource),
            Phase::Open => {}
        }
        if !self.under_way.has_room(amount, self.window) {
            return Verdict::TooMuch;
        }
        let Some(arrived) = self.arrived else { return Verdict::Take { hole: None } };
        if to <= arrived {
            return Verdict::Duplicate;
        }
        let missing = sequence > arrived.saturating_add(1);
        Verdict::Take { hole: missing.then(|| (arrived + 1, sequence - 1)) }
    }

    /// The next sequence, if any has come.
    pub(crate) fn next(&self) -> Option<u64> {
        self.arrived.map(|arrived| arrived.saturating_add(1))
    }

    /// All up to `to` has come: a message, a gap, or a hole, which costs nothing.
    pub(crate) fn arrive(&mut self, to: u64, amount: Amount) {
        self.arrived = Some(to);
        self.under_way.add(amount);
        self.pending.push_back(Pending { to, amount });
    }

    /// A message begins that comes in pieces; `offset` bytes of it have come.
    pub(crate) fn begin(&mut self, sequence: u64, offset: u64, amount: Amount) {
        self.open = Some(Open { sequence, offset, amount, spoiled: false });
    }

    /// More of it: where these bytes belong.
    pub(crate) fn advance(&mut self, bytes: u64) -> Option<u64> {
        let open = self.open.as_mut().filter(|open| !open.spoiled)?;
        let at = open.offset;
        open.offset = open.offset.saturating_add(bytes);
        Some(at)
    }

    /// A piece of it is not what was summed. Whether that is new of a message that was to be kept. It has not arrived before
    /// its end, as its sender may not hear sooner that it has passed.
    pub(crate) fn spoil(&mut self) -> bool {
        self.open.as_mut().is_some_and(|open| !core::mem::replace(&mut open.spoiled, true))
    }

    /// It has ended.
    pub(crate) fn end(&mut self) -> Ended {
        let Some(open) = self.open.take() else { return Ended::Nothing };
        self.arrive(open.sequence, open.amount);
        if open.spoiled { Ended::Spoiled(open.sequence) } else { Ended::Whole }
    }

    /// All up to `sequence` stands in the relay ring: what that is.
    pub(crate) fn published(&mut self, sequence: u64) -> Amount {
        let mut amount = Amount::default();
        while let Some(pending) = self.pending.front().filter(|pending| pending.to <= sequence) {
            amount.add(pending.amount);
            self.passed = Some(pending.to);
            self.pending.pop_front();
        }
        self.under_way.take(amount);
        self.untold.add(amount);
        amount
    }

    /// No message after `last` will come: what of that is missing.
    pub(crate) fn retire(&mut self, last: u64) -> Option<(u64, u64)> {
        self.last = Some(last);
        let arrived = self.arrived?;
        (self.phase == Phase::Open && self.answered && last > arrived).then(|| (arrived + 1, last))
    }

    /// Whether it ends now: the end was told, and nothing waits. Says so once.
    pub(crate) fn ends(&mut self) -> bool {
        let ends = self.last.is_some() && self.pending.is_empty() && self.phase != Phase::Closed;
        if ends {
            self.phase = Phase::Closed;
        }
        ends
    }

    fn accept(&self) -> Accept {
        Accept {
            source: self.announce.source,
            passed: self.passed,
            // Both come from a hello, where the first has 32 bits.
            window_messages: u32::try_from(self.window.messages).unwrap_or(u32::MAX),
            window_bytes: self.window.bytes,
        }
    }
}
