//! What a peer is given of what it asked for, and whose turn it is.
//!
//! Each is given what it waits for as its link has room, but who gives nothing: who has failed us and given nothing since, and who keeps to itself what we gave it of ours.
//! It has a small part of what we give while others wait, and all that these leave. So who only takes does not take from those who give.
//!
//! Invariant: of those who give nothing one waits no longer than [`GOSSIP_BEHIND_MS`] for its next chunk, whatever others take.

use busway_wire::gossip::{NodeIndex, Part, Reference, Word};
use busway_wire::limits::{ARTIFACT_CHUNK_BYTES, GOSSIP_BEHIND_MS, GOSSIP_BEHIND_PARTS, GOSSIP_SERVED_MAX};

use crate::gossip::due::Due;
use crate::gossip::peer::Peer;
use crate::gossip::{Gossip, Said};
use crate::time::Time;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Bytes that others were given since one had some who gives nothing.
    given: u64,
    /// Until when such a one waits for others.
    held: Due,
}

impl Turns {
    pub(super) fn tick(&mut self, now: Time) {
        self.held.tick(now);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.held.at()
    }

    /// Whether one who gives nothing waits for others.
    fn holds(&mut self, now: Time, chunk: u64) -> bool {
        let waits = self.given < (GOSSIP_BEHIND_PARTS - 1) * chunk && self.held != Due::Now;
        if waits {
            self.held.by(now.after_ms(GOSSIP_BEHIND_MS));
        }
        waits
    }

    fn gave(&mut self, bytes: u64, behind: bool) {
        if behind {
            (self.given, self.held) = (0, Due::Never);
            return;
        }
        self.given = self.given.saturating_add(bytes);
    }
}

impl Gossip {
    /// The next bytes for a peer that asked for them.
    pub(super) fn give(&mut self, now: Time, to: NodeIndex) -> Option<Said> {
        loop {
            let peer = self.peers.get(&to).filter(|peer| peer.requests.len() < GOSSIP_SERVED_MAX)?;
            let serving = peer.serving.front().copied()?;
            let body = self.part(serving.of, serving.part);
            let start = usize::try_from(serving.offset).unwrap_or(usize::MAX);
            let Some(body) = body.filter(|body| start < body.len()) else {
                let peer = self.peers.get_mut(&to)?;
                peer.serving.pop_front();
                peer.requests.push_back(Word::NotFound { request: serving.request });
                continue;
            };
            let end = body.len().min(start + ARTIFACT_CHUNK_BYTES);
            let (bytes, behind) = ((end - start) as u64, self.gives_nothing(now, to, serving.of));
            if behind && self.others_wait(now, to) && self.turns.holds(now, ARTIFACT_CHUNK_BYTES as u64) {
                return None;
            }
            self.turns.gave(bytes, behind);
            let peer = self.peers.get_mut(&to)?;
            if end == body.len() {
                peer.serving.pop_front();
                if let (Part::Piece { index }, true) = (serving.part, serving.of.node == self.config.node) {
                    self.passed.entry(serving.of).or_default().given(to, index);
                }
            } else if let Some(serving) = peer.serving.front_mut() {
                serving.offset = end as u64;
            }
            self.counts.bytes_given += bytes;
            let word = Word::Chunk { request: serving.request, offset: serving.offset };
            let of = Some((serving.of, serving.part));
            return Some(Said { word, following: Some((body, start..end)), of });
        }
    }

    /// Whether a peer gives nothing, as far as we know, that wants something of this.
    fn gives_nothing(&self, now: Time, node: NodeIndex, of: Reference) -> bool {
        self.pulls.gives_nothing(now, node) || self.passed.get(&of).is_some_and(|passed| passed.keeps(node))
    }

    /// Whether one who gives waits for bytes too.
    fn others_wait(&self, now: Time, but: NodeIndex) -> bool {
        let waits = |(node, peer): (&NodeIndex, &Peer)| {
            let next = peer.serving.front().filter(|_| *node != but);
            next.is_some_and(|serving| !self.gives_nothing(now, *node, serving.of))
        };
        self.peers.iter().any(waits)
    }
}
