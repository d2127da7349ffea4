//! Whose turn it is on a link: the sources that have something to send, by the rank of what they would send next.
//!
//! The highest rank goes first. A lower one is passed by at most [`LINK_SHARE_BYTES`] before it has a turn, so that it is
//! slowed down and never stopped; as much of the credit that one of it waits for may be spent by others, and then they
//! wait with it. Control is not here: it is outside of credit, and goes before all of this. Nothing of messages is known.
//!
//! Invariant: a source stands in one lane at most, once.

use alloc::collections::VecDeque;

use busway_wire::PortId;
use busway_wire::limits::LINK_SHARE_BYTES;

use crate::flow::RANKS;

/// The ranks that stand here: all but the first, which is control.
pub(crate) const LANES: usize = RANKS as usize - 1;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(usize);

impl Rank {
    /// Of what is cut into fragments, whatever flow it is of.
    pub(crate) const BULK: Rank = Rank(LANES - 1);

    /// The rank of a flow; that of control does not stand here, and is the highest.
    pub(crate) const fn of(rank: u8) -> Rank {
        let lane = (rank as usize).saturating_sub(1);
        if lane < LANES { Rank(lane) } else { Rank::BULK }
    }
}

/// Who may go now, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) rank: Rank,
    /// Until so many bytes have gone; what has begun then goes whole.
    pub(crate) bytes: usize,
}

/// Lanes that have nothing more that can go, until the next call of `transmit`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held([bool; LANES]);

impl Held {
    pub(crate) fn hold(&mut self, rank: Rank) {
        if let Some(held) = self.0.get_mut(rank.0) {
            *held = true;
        }
    }

    fn has(&self, lane: usize) -> bool {
        self.0.get(lane).copied().unwrap_or(true)
    }
}

#[derive(Debug, Default)]
struct Lane {
    turn: VecDeque<PortId>,
    /// Bytes that went before it since it had a turn.
    passed: usize,
    /// One of it waits for credit.
    short: bool,
    /// Bytes that went before it since then, or since another one got some.
    outspent: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Lanes([Lane; LANES]);

impl Lanes {
    pub(crate) fn push_back(&mut self, rank: Rank, source: PortId) {
        if let Some(lane) = self.0.get_mut(rank.0) {
            lane.turn.push_back(source);
        }
    }

    pub(crate) fn pop_front(&mut self, rank: Rank) -> Option<PortId> {
        self.0.get_mut(rank.0)?.turn.pop_front()
    }

    /// Those wait for credit, in this order; none does if there are none.
    pub(crate) fn put_back(&mut self, rank: Rank, mut short: VecDeque<PortId>) {
        let Some(lane) = self.0.get_mut(rank.0) else { return };
        lane.short = !short.is_empty();
        if !lane.short {
            lane.outspent = 0;
        }
        while let Some(source) = short.pop_back() {
            lane.turn.push_front(source);
        }
    }

    /// One of a lane has got its credit: for the next that waits others may spend as much anew.
    pub(crate) fn paid(&mut self, rank: Rank) {
        if let Some(lane) = self.0.get_mut(rank.0) {
            lane.outspent = 0;
        }
    }

    /// Forgets a source.
    pub(crate) fn remove(&mut self, source: PortId) {
        for lane in &mut self.0 {
            lane.turn.retain(|other| *other != source);
        }
    }

    /// The sources of a lane, if it may go at all.
    pub(crate) fn sources(&self, rank: Rank) -> impl Iterator<Item = PortId> {
        let open = self.may_spend(rank.0);
        self.0.get(rank.0).filter(|_| open).into_iter().flat_map(|lane| lane.turn.iter().copied())
    }

    /// All ranks, from the highest.
    pub(crate) fn ranks() -> impl Iterator<Item = Rank> {
        (0..LANES).map(Rank)
    }

    /// Whether a lane has sources.
    pub(crate) fn has_any(&self, rank: Rank) -> bool {
        self.0.get(rank.0).is_some_and(|lane| !lane.turn.is_empty())
    }

    /// Whether a lane has more sources than one.
    pub(crate) fn has_many(&self, rank: Rank) -> bool {
        self.0.get(rank.0).is_some_and(|lane| lane.turn.len() > 1)
    }

    /// Who goes next: the highest rank that has something and may go, unless a lower one was passed by enough.
    pub(crate) fn next(&self, held: &Held) -> Option<Turn> {
        let waits = |at: usize| !held.has(at) && self.0.get(at).is_some_and(|lane| !lane.turn.is_empty());
        let due =
            |at: &usize| waits(*at) && self.0.get(*at).is_some_and(|lane| lane.passed >= LINK_SHARE_BYTES);
        if let Some(at) = (1..LANES).rev().find(due) {
            return Some(Turn { rank: Rank(at), bytes: 1 });
        }
        let first = (0..LANES).find(|at| waits(*at) && self.may_spend(*at))?;
        let later = self.0.iter().enumerate().skip(first + 1);
        let left = later.filter(|(_, lane)| !lane.turn.is_empty()).map(|(at, lane)| {
            let passed = if held.has(at) { 0 } else { lane.passed };
            let outspent = if lane.short { lane.outspent } else { 0 };
            LINK_SHARE_BYTES.saturating_sub(passed.max(outspent))
        });
        // At least one message, or there would be no end of turns.
        Some(Turn { rank: Rank(first), bytes: left.min().unwrap_or(usize::MAX).max(1) })
    }

    /// So many bytes of a lane have gone.
    pub(crate) fn went(&mut self, rank: Rank, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(lane) = self.0.get_mut(rank.0) {
            lane.passed = 0;
        }
        for lane in self.0.iter_mut().skip(rank.0 + 1).filter(|lane| !lane.turn.is_empty()) {
            lane.passed = lane.passed.saturating_add(bytes).min(LINK_SHARE_BYTES);
            if lane.short {
                lane.outspent = lane.outspent.saturating_add(bytes).min(LINK_SHARE_BYTES);
            }
        }
    }

    /// Whether this lane may go though a lower one waits for credit.
    fn may_spend(&self, at: usize) -> bool {
        let short = |lane: &Lane| lane.short && !lane.turn.is_empty() && lane.outspent >= LINK_SHARE_BYTES;
        !self.0.iter().skip(at + 1).any(short)
    }
}
