//! Requests of a peer that are asked anew here: those of one topic, and the replies that are told.
//!
//! What there is no room for in the ring waits, and so does a large reply for which there is none among the words; it is taken already, and others need not
//! wait for it.
//!
//! It does not know links, nor who else answers.
//!
//! Invariant: of each request it is told once that it is over, or it was cancelled. Nothing here waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use busway_shm::seat::work::Stands;
use busway_wire::work::{End, Word};
use busway_wire::{Cause, ReplyState};

use super::super::near::Look;
use super::super::says::Says;
use super::super::{Course, Standing};
use super::{Came, Ended, STALE_NS, not_begun, over, tell};
use crate::outcome::{RecvError, SendError};
use crate::publisher::Beside;
use crate::requester::{Pending, Reply, RequestError, Requester};

/// Replies of one request that are told before others have their turn.
const REPLIES_MAX: usize = 64;

/// A request that was asked anew.
pub(super) struct Waits {
    pending: Pending,
    /// A large reply for which there is no room.
    held: Option<Reply>,
}

/// Requests that were asked anew.
pub(super) struct Asked {
    pub(super) requester: Requester,
    pub(super) pending: BTreeMap<u64, Waits>,
    /// Those for which there is no room yet.
    pub(super) waiting: VecDeque<Came>,
}

impl Asked {
    pub(super) fn new(requester: Requester) -> Self {
        Self { requester, pending: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// Takes back what was asked and nobody has.
    pub(super) fn take_back(&mut self) -> Vec<(u64, End)> {
        let (ring, mut ended) = (self.requester.ring().clone(), Vec::new());
        self.pending.retain(|task, waits| {
            let attempt = not_begun(&ring, waits.pending.sequence());
            ended.extend(attempt.map(|_| (*task, End::Denied)));
            attempt.is_none()
        });
        ended
    }

    pub(super) fn taken(&self) -> u64 {
        let ring = self.requester.ring();
        let stand = ring.stand(self.pending.values().map(|waits| waits.pending.sequence()));
        stand.into_iter().filter(|stands| *stands == Stands::Taken).count() as u64
    }

    /// Asks, or keeps what there is no room for. Returns the request where it is over by that.
    pub(super) fn ask(&mut self, came: Came, now_ns: u64) -> Option<(u64, End)> {
        if !self.waiting.is_empty() {
            self.waiting.push_back(came);
            return None;
        }
        self.try_ask(came, now_ns)
    }

    fn try_ask(&mut self, came: Came, now_ns: u64) -> Option<(u64, End)> {
        let spent_ns = now_ns.saturating_sub(came.since_ns);
        let left = Duration::from_nanos(came.left_ns.saturating_sub(spent_ns));
        let (task, attempt) = (came.task, came.attempt);
        if left.is_zero() {
            return Some((task, End::Lost(Cause::Expired)));
        }
        let beside = Beside::Came(&came.beside);
        match self.requester.send_beside_within(&beside, &came.payload, left, Duration::ZERO) {
            Ok(Some(pending)) => {
                self.pending.insert(task, Waits { pending, held: None });
                None
            }
            Ok(None) if spent_ns >= STALE_NS => Some((task, End::Back { attempt })),
            Ok(None) => {
                self.waiting.push_front(came);
                None
            }
            Err(RequestError::TimedOut) => Some((task, End::Lost(Cause::Expired))),
            Err(RequestError::Send(SendError::TooLarge { .. })) => Some((task, End::Lost(Cause::LinkBudget))),
            Err(_) => Some((task, End::Back { attempt })),
        }
    }

    /// Asks what waits, and tells the replies that have come.
    pub(super) fn step(&mut self, now_ns: u64, say: &mut Says, standing: Standing, look: &mut Look) -> Ended {
        let mut ended = Ended::default();
        while let Some(came) = self.waiting.pop_front() {
            let (left, end) = (self.waiting.len(), self.try_ask(came, now_ns));
            if let Some((task, end)) = end {
                ended.count(end);
                over(say, task, end);
            }
            // It is the first again.
            if self.waiting.len() > left {
                break;
            }
        }
        self.tell_replies(say, standing, look, &mut ended);
        ended
    }

    fn tell_replies(&mut self, say: &mut Says, standing: Standing, look: &mut Look, ended: &mut Ended) {
        self.pending.retain(|task, Waits { pending, held }| {
            for _ in 0..REPLIES_MAX {
                let course = held.as_ref().map_or(Course::Quick, |reply| standing.course_of(size_of(reply)));
                if !standing.has_room(course, say) {
                    return true;
                }
                match held.take().map_or_else(|| pending.try_recv(), |reply| Ok(Some(reply))) {
                    Ok(Some(reply)) if !standing.has_room(standing.course_of(size_of(&reply)), say) => {
                        // It is taken already, and others need not wait for it.
                        *held = Some(reply);
                        return true;
                    }
                    Ok(Some(reply)) => {
                        let last = reply.is_last();
                        let state = if last { ReplyState::Last } else { ReplyState::Part };
                        let extensions = reply.extensions();
                        let (task, index, beside) = (*task, reply.index(), (extensions.len() / 8) as u8);
                        let word = Word::Reply { task, index, state: state as u8, extensions: beside };
                        let bytes = size_of(&reply);
                        let too_large = standing.is_too_large(bytes);
                        let said = !too_large && say.with(&word, [extensions, &reply]);
                        if too_large {
                            // As a word it would be lost, and with it all that both hosts share.
                            let why = too_large_of(bytes, standing.largest);
                            tell(say, task, 0, ReplyState::Failed, why.as_bytes());
                        } else if !said {
                            tell(say, task, 0, ReplyState::Unanswered, &[]);
                        }
                        if last || !said {
                            ended.count(End::Done);
                            over(say, task, End::Done);
                            return false;
                        }
                    }
                    Ok(None) if pending.is_over() => {
                        ended.count(End::Done);
                        over(say, *task, End::Done);
                        return false;
                    }
                    // Other rows of this process hold what it may hold: the reply lies there still.
                    Ok(None) | Err(RequestError::Receive(RecvError::HoldsExhausted)) => return true,
                    Err(error) => {
                        ended.count(failed(say, *task, &error, standing));
                        return false;
                    }
                }
            }
            look.again = true;
            true
        });
    }
}

/// Bytes of a reply that go to the peer.
fn size_of(reply: &Reply) -> usize {
    reply.extensions().len().saturating_add(reply.len())
}

/// What who asked is told of a reply that its host does not take.
fn too_large_of(bytes: usize, largest: u64) -> String {
    format!(
        "the reply has {bytes} bytes, and the host that asked takes messages of at most {largest}: reply in parts, or ask for less"
    )
}

/// A request has come to an error. Returns how it ended.
fn failed(say: &mut Says, task: u64, error: &RequestError, standing: Standing) -> End {
    // What is no reply has no place among them: who takes it gives it one.
    let last = 0;
    let end = match error {
        RequestError::NoResponders => End::Back { attempt: 0 },
        RequestError::ResponderDied => {
            tell(say, task, last, ReplyState::Died, &[]);
            End::Lost(Cause::PullerDied)
        }
        RequestError::TimedOut => End::Lost(Cause::Expired),
        RequestError::Failed(why) => {
            let why = if standing.is_too_large(why.len()) { &[][..] } else { why };
            tell(say, task, last, ReplyState::Failed, why);
            End::Done
        }
        RequestError::Unanswered => {
            tell(say, task, last, ReplyState::Unanswered, &[]);
            End::Done
        }
        // Done, and no reply: who asked is told that it is lost.
        RequestError::ReplyLost
        | RequestError::TooMany
        | RequestError::TooFarAhead
        | RequestError::Open(_)
        | RequestError::Send(_)
        | RequestError::Receive(_) => End::Done,
    };
    over(say, task, end);
    end
}
