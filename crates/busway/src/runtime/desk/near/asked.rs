//! A request of this host that a peer has: its replies, and the lane in which they go to who asked.
//!
//! A lane is a ring, and opening one asks the rendezvous. So it is opened by who opens ports, and what the peer has said waits here meanwhile, also that
//! the request is over. What waits for all requests of a peer is bounded: beyond that a request is told that it has no answer, and its replies are dropped.
//!
//! It does not know the peer, nor who waits for the replies.
//!
//! Invariant: what is said goes in the order in which it was said, and nothing behind the end.

use std::collections::VecDeque;
use std::sync::Arc;

use busway_shm::row::group;
use busway_wire::limits::WORK_REPLIES_BYTES_MAX;
use busway_wire::work::End;
use busway_wire::{HEAD_BYTES, Kind, PortId, ReplyHead, ReplyState};

use super::super::opener::{For, Wanted};
use super::Context;
use crate::publisher::{Beside, Stamp};
use crate::responder::{Lane, To};

/// What a word takes beside its payload, for the sum.
const HELD_BYTES: usize = 64;

/// See the head of this file.
pub(super) struct Asked {
    requester: PortId,
    correlation: u64,
    pub(super) deadline_ns: u64,
    lane: Option<Arc<Lane>>,
    next: u32,
    /// A lane is asked for.
    opening: bool,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// How it ends when all that is held has gone.
    end: Option<End>,
}

/// A reply that waits for its lane.
struct Held {
    index: u32,
    state: ReplyState,
    beside: Vec<u8>,
    payload: Vec<u8>,
}

impl Asked {
    pub(super) fn new(requester: PortId, correlation: u64, deadline_ns: u64) -> Self {
        let (held, held_bytes) = (VecDeque::new(), 0);
        let (lane, next, opening, end) = (None, 0, false, None);
        Self { requester, correlation, deadline_ns, lane, next, opening, held, held_bytes, end }
    }

    /// Bytes that wait here.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Its lane, if that is open.
    fn has_lane(&mut self, context: &Context<'_>) -> bool {
        if self.lane.is_none() {
            self.lane = context.lanes.opened(self.requester);
        }
        self.lane.is_some()
    }

    /// Says this to who asked, or keeps it until there is a lane; `of_all` is what waits for all of the peer. `false`: it is kept.
    pub(super) fn say(
        &mut self,
        context: &Context<'_>,
        (task, claim): (u64, &group::Task),
        (index, state): (u32, ReplyState),
        (beside, payload): (&[u8], &[u8]),
        of_all: usize,
    ) -> bool {
        if self.held.is_empty() && self.has_lane(context) {
            self.send(context, claim, (index, state), (beside, payload));
            return true;
        }
        if self.end.is_some() {
            return false;
        }
        let size = beside.len().saturating_add(payload.len()).saturating_add(HELD_BYTES);
        let held = (of_all.saturating_add(size) <= WORK_REPLIES_BYTES_MAX)
            .then(|| super::copied(beside).zip(super::copied(payload)))
            .flatten();
        if let Some((beside, payload)) = held {
            self.held.push_back(Held { index, state, beside, payload });
            self.held_bytes += size;
        } else {
            let (beside, payload) = (Vec::new(), Vec::new());
            self.held.push_back(Held { index, state: ReplyState::Unanswered, beside, payload });
            self.held_bytes += HELD_BYTES;
            self.end = Some(End::Done);
        }
        if !std::mem::replace(&mut self.opening, true) {
            let whom = For { number: task, ..context.whom.clone() };
            let (requester, pusher, deadline_ns) = (self.requester, claim.pusher(), self.deadline_ns);
            context.opener.want(whom, Wanted::Lane { requester, pusher, deadline_ns });
        }
        false
    }

    /// It is over, once what is held has gone. `false`: nothing is held.
    pub(super) fn ends(&mut self, end: End) -> bool {
        if self.held.is_empty() {
            return false;
        }
        self.end.get_or_insert(end);
        true
    }

    /// Its lane is there. Returns how it ended meanwhile, if it did.
    pub(super) fn opened(
        &mut self,
        context: &Context<'_>,
        claim: &group::Task,
        lane: Arc<Lane>,
    ) -> Option<End> {
        (self.opening, self.held_bytes) = (false, 0);
        self.lane = Some(lane);
        for Held { index, state, beside, payload } in std::mem::take(&mut self.held) {
            self.send(context, claim, (index, state), (&beside, &payload));
        }
        self.end.take()
    }

    /// Nobody answers it any more: said where that costs nothing, as its claim says it too.
    pub(super) fn died(&mut self, context: &Context<'_>, claim: &group::Task) {
        if self.held.is_empty() && self.has_lane(context) {
            self.send(context, claim, (self.next, ReplyState::Died), (&[], &[]));
        }
    }

    fn send(
        &mut self,
        context: &Context<'_>,
        claim: &group::Task,
        (index, state): (u32, ReplyState),
        (beside, payload): (&[u8], &[u8]),
    ) {
        // What is no reply comes behind those that have come, however many are still on their way to the peer.
        let index = match state {
            ReplyState::Part | ReplyState::Last => index,
            ReplyState::Failed | ReplyState::Unanswered | ReplyState::Died => self.next,
        };
        let stamp = Stamp { kind: Kind::Reply, correlation: self.correlation };
        let head: [u8; HEAD_BYTES] = ReplyHead::new(index, state).to_bytes();
        self.next = index.saturating_add(1);
        let to = To { requester: self.requester, claim: Some(claim), deadline_ns: self.deadline_ns };
        let said = context.lanes.send(&to, &mut self.lane, stamp, head, &Beside::Came(beside), payload);
        if let Err(error) = said {
            tracing::debug!(target: "busway::work", "a reply of another host is lost: {error}");
            // A word without a payload needs no memory; where that fails too, the claim says that the reply is lost.
            let head = ReplyHead::new(index, ReplyState::Unanswered).to_bytes();
            let _ = context.lanes.send(&to, &mut self.lane, stamp, head, &Beside::NOTHING, &[]);
        }
    }
}
