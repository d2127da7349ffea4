//! Requests of a peer that are asked anew here: those of one topic, and the replies that are told.
//!
//! What there is no room for in the ring waits, and so does a large reply for which there is none among the words: as a copy, so that small ones go on and who answers has
//! its memory. What is kept so is bounded for each topic, peer and host: then nothing more is taken of that topic, or for that peer. It is kept no longer than the request is waited for.
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
use super::super::says::{Saying, Says};
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
    /// When its time is up.
    until_ns: u64,
    /// What there is no room for.
    held: Option<Answer>,
}

/// What is to be said of a request, copied: nothing of the memory of who answers is kept for a peer that takes nothing.
struct Answer {
    saying: Saying,
    /// It ends the request.
    last: bool,
}

/// What a look has to do with.
pub(super) struct Turn<'a> {
    pub(super) now_ns: u64,
    pub(super) standing: Standing,
    pub(super) say: &'a mut Says,
    pub(super) look: &'a mut Look,
    /// Bytes of replies to this peer for which there is no room, and those of the topic that is looked at.
    pub(super) held_bytes: usize,
    pub(super) held_of_topic: usize,
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
                let until_ns = came.since_ns.saturating_add(came.left_ns);
                self.pending.insert(task, Waits { pending, until_ns, held: None });
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

    /// Replies that were taken and for which there is no room, and their bytes.
    pub(super) fn held(&self) -> impl Iterator<Item = usize> {
        self.pending.values().filter_map(|waits| waits.held.as_ref()).map(Answer::bytes)
    }

    /// Asks what waits, and tells the replies that have come.
    pub(super) fn step(&mut self, turn: &mut Turn<'_>) -> Ended {
        let mut ended = Ended::default();
        while let Some(came) = self.waiting.pop_front() {
            let (left, end) = (self.waiting.len(), self.try_ask(came, turn.now_ns));
            if let Some((task, end)) = end {
                ended.count(end);
                over(turn.say, task, end);
            }
            // It is the first again.
            if self.waiting.len() > left {
                break;
            }
        }
        turn.held_of_topic = self.held().sum();
        self.pending.retain(|task, waits| {
            let end = waits.tell(*task, turn);
            if let Some(end) = end {
                ended.count(end);
                over(turn.say, *task, end);
            }
            end.is_none()
        });
        ended
    }
}

impl Turn<'_> {
    fn holds(&mut self, sum: impl Fn(usize) -> usize) {
        self.held_bytes = sum(self.held_bytes);
        self.held_of_topic = sum(self.held_of_topic);
    }

    /// Whether a reply may be taken, which may be a large one.
    fn may_take(&self) -> bool {
        let Self { standing, say, held_bytes, held_of_topic, .. } = self;
        standing.has_room(Course::Quick, say)
            && (standing.has_room(Course::Large, say) || standing.may_hold(*held_of_topic, *held_bytes))
    }
}

impl Waits {
    /// Tells what has come. Returns how the request has ended, if it has.
    fn tell(&mut self, task: u64, turn: &mut Turn<'_>) -> Option<End> {
        for _ in 0..REPLIES_MAX {
            let answer = match self.held.take() {
                Some(held) => {
                    turn.holds(|all| all.saturating_sub(held.bytes()));
                    // The peer may be another program by now.
                    Answer::checked(held, task, turn.standing)
                }
                None if !turn.may_take() => return None,
                None => match self.pending.try_recv() {
                    Ok(Some(reply)) => Answer::of(task, &reply, turn.standing),
                    Ok(None) if self.pending.is_over() => return Some(End::Done),
                    // Other rows of this process hold what it may hold: the reply lies there still.
                    Ok(None) | Err(RequestError::Receive(RecvError::HoldsExhausted)) => return None,
                    Err(RequestError::Failed(why)) => Answer::failed(task, &why, turn.standing),
                    Err(error) => return Some(failed(turn.say, task, &error)),
                },
            };
            let Some(answer) = answer else {
                // There is no memory for it.
                tell(turn.say, task, 0, ReplyState::Unanswered, &[]);
                return Some(End::Done);
            };
            if !turn.standing.has_room(turn.standing.course(&answer.saying), turn.say) {
                if turn.now_ns >= self.until_ns {
                    return Some(End::Lost(Cause::Expired));
                }
                turn.look.by(self.until_ns);
                turn.holds(|all| all.saturating_add(answer.bytes()));
                self.held = Some(answer);
                return None;
            }
            turn.say.push(answer.saying);
            if answer.last {
                return Some(End::Done);
            }
        }
        turn.look.again = true;
        None
    }
}

impl Answer {
    /// A copy of a reply. `None`: there is no memory for it.
    fn of(task: u64, reply: &Reply, standing: Standing) -> Option<Self> {
        let (extensions, last) = (reply.extensions(), reply.is_last());
        let bytes = extensions.len().saturating_add(reply.len());
        if standing.is_too_large(bytes) {
            return Self::too_large(task, bytes, standing);
        }
        let state = if last { ReplyState::Last } else { ReplyState::Part };
        let (index, beside) = (reply.index(), (extensions.len() / 8) as u8);
        let word = Word::Reply { task, index, state: state as u8, extensions: beside };
        Some(Self { saying: Saying::with(&word, [extensions, reply])?, last })
    }

    /// As a word it would be lost, and with it all that both hosts share: who asked is told why it does not come.
    fn too_large(task: u64, bytes: usize, standing: Standing) -> Option<Self> {
        let largest = standing.largest;
        let why = format!(
            "the reply has {bytes} bytes, and the host that asked takes messages of at most {largest}: reply in parts, or ask for less"
        );
        Self::failed(task, why.as_bytes(), standing)
    }

    /// Why it failed, as far as the peer takes that.
    fn failed(task: u64, why: &[u8], standing: Standing) -> Option<Self> {
        let why = if standing.is_too_large(why.len()) { &[][..] } else { why };
        // What is no reply has no place among them: who takes it gives it one.
        let word = Word::Reply { task, index: 0, state: ReplyState::Failed as u8, extensions: 0 };
        Some(Self { saying: Saying::with(&word, [why, &[]])?, last: true })
    }

    /// The same, if the peer takes it still.
    fn checked(self, task: u64, standing: Standing) -> Option<Self> {
        let bytes = self.bytes();
        if standing.is_too_large(bytes) { Self::too_large(task, bytes, standing) } else { Some(self) }
    }

    fn bytes(&self) -> usize {
        self.saying.size()
    }
}

/// A request has come to an error. Returns how it ends.
fn failed(say: &mut Says, task: u64, error: &RequestError) -> End {
    match error {
        RequestError::NoResponders => End::Back { attempt: 0 },
        RequestError::ResponderDied => {
            tell(say, task, 0, ReplyState::Died, &[]);
            End::Lost(Cause::PullerDied)
        }
        RequestError::TimedOut => End::Lost(Cause::Expired),
        RequestError::Unanswered => {
            tell(say, task, 0, ReplyState::Unanswered, &[]);
            End::Done
        }
        // Done, and no reply: who asked is told that it is lost. Why one failed is a reply.
        RequestError::ReplyLost
        | RequestError::Failed(_)
        | RequestError::TooMany
        | RequestError::TooFarAhead
        | RequestError::Open(_)
        | RequestError::Send(_)
        | RequestError::Receive(_) => End::Done,
    }
}
