//! What a peer may say and may be told about artifacts: the rights of its messages, at each word that names one.
//!
//! Who may publish a topic may offer on it, and describe what others offer; who may subscribe to it may be told of it, by an offer, a description or a mark, and is given its
//! bytes. A mark that may not be said is left out; a change of a slot becomes its end, so that versions mean what they did, and so does an answer, so that its question has one.
//!
//! It knows no machine: words go in, and what is left of them comes out.
//!
//! Invariant: no word that passes names the topic, the id or the bytes of what the peer may not have, and none brings in what it may not publish.

use busway_protocol::gossip::{NodeIndex, Reference, Word};
use busway_protocol::{Deed, Permits};
use busway_wire::Topic;
use busway_wire::gossip::{Describe, Slot, Standing};

/// What became of a word of the peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// This is left of it.
    Word(Word),
    /// It asks for bytes that it may not have: it is told that they are not found.
    NotFound {
        /// The number of its request.
        request: u64,
    },
    /// Nothing.
    Nothing,
}

/// Takes out of a word of the peer what it may not say, and what it may not ask for. `topic` says on which topic an artifact is, `origin` what a node may do. Counts what
/// was denied.
pub(super) fn heard<'a>(
    permits: &Permits,
    word: Word,
    topic: impl Fn(Reference) -> Option<&'a Topic>,
    origin: impl Fn(NodeIndex) -> Permits,
    denied: &mut u64,
) -> Passed {
    // What is not known has no bytes to give.
    let may_have = |of: Reference| topic(of).is_some_and(|topic| permits.allow(Deed::Subscribe, topic));
    Passed::Word(match word {
        Word::Tell(mut tell) => {
            for slot in &mut tell.slots {
                end_if(slot, |topic| !permits.allow(Deed::Publish, topic), denied);
            }
            Word::Tell(tell)
        }
        Word::Describe(Describe { node, epoch, mut slots }) => {
            let of_origin = origin(node);
            let may = |topic: &Topic| [permits, &of_origin].iter().all(|who| who.allow(Deed::Publish, topic));
            for slot in &mut slots {
                end_if(slot, |topic| !may(topic), denied);
            }
            Word::Describe(Describe { node, epoch, slots })
        }
        // Who may not have it is nobody who shares it.
        Word::Have { of, .. } if !may_have(of) => return Passed::Nothing,
        Word::Request { request, of, .. } if !may_have(of) => return Passed::NotFound { request },
        // They name nothing that is not known to who says them; the answer to a question is looked at when it is said.
        Word::Exchange(_)
        | Word::Handled { .. }
        | Word::Marks(_)
        | Word::Ask { .. }
        | Word::Request { .. }
        | Word::Chunk { .. }
        | Word::NotFound { .. }
        | Word::Cancel { .. }
        | Word::Have { .. } => word,
    })
}

/// Takes out of a word to the peer what it may not be told; nothing, where that is all of it.
pub(super) fn said<'a>(
    permits: &Permits,
    to: NodeIndex,
    word: Word,
    topic: impl Fn(Reference) -> Option<&'a Topic>,
) -> Option<Word> {
    let mut denied = 0;
    Some(match word {
        // That we have some of it would tell who may not have it that it is there.
        Word::Have { of, .. } if !topic(of).is_some_and(|topic| permits.allow(Deed::Subscribe, topic)) => {
            return None;
        }
        Word::Tell(mut tell) => {
            for slot in &mut tell.slots {
                end_if(slot, |topic| !permits.allow(Deed::Subscribe, topic), &mut denied);
            }
            Word::Tell(tell)
        }
        Word::Describe(Describe { node, epoch, mut slots }) => {
            for slot in &mut slots {
                end_if(slot, |topic| !permits.allow(Deed::Subscribe, topic), &mut denied);
            }
            Word::Describe(Describe { node, epoch, slots })
        }
        Word::Marks(mut marks) => {
            for marked in &mut marks.of {
                let (node, epoch) = (marked.node, marked.epoch);
                marked.marks.retain(|mark| {
                    let of = Reference { node, epoch, slot: mark.slot, version: mark.version };
                    // What is over has no topic here any more; of its end those hear who heard of it.
                    let known = topic(of).map(|topic| permits.allow(Deed::Subscribe, topic));
                    node == to || known.unwrap_or(mark.standing != Standing::Has)
                });
            }
            Word::Marks(marks)
        }
        Word::Exchange(_)
        | Word::Handled { .. }
        | Word::Ask { .. }
        | Word::Request { .. }
        | Word::Chunk { .. }
        | Word::NotFound { .. }
        | Word::Cancel { .. }
        | Word::Have { .. } => word,
    })
}

fn end_if(slot: &mut Slot, may_not: impl Fn(&Topic) -> bool, denied: &mut u64) {
    if slot.offer.take_if(|offer| may_not(&offer.topic)).is_some() {
        *denied += 1;
    }
}

#[cfg(test)]
mod tests;
