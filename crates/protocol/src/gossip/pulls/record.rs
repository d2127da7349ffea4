//! What we think of a peer that we ask, and how fast bytes come of all of them.
//!
//! How much is asked of a peer at a time is half as much each time that it has failed, and more again each time that it has given all of one: who drops what
//! it has no room for is asked for less. A small piece is half of anything else, and who asks next has the room that is left, whatever it asks for: what is urgent waits for one
//! answer at most.
//!
//! Invariant: one request at least may be under way to each peer, and never more than `GOSSIP_PIECES_OF_PEER_MAX`.

use busway_wire::gossip::Part;
use busway_wire::limits::{
    ARTIFACT_PIECE_BYTES, ARTIFACT_PIECE_BYTES_MIN, GOSSIP_FAULT_MS, GOSSIP_FAULT_MS_MAX,
    GOSSIP_OWED_BYTES_MIN, GOSSIP_PATIENCE_NS_MAX, GOSSIP_PIECES_OF_PEER_MAX, GOSSIP_PULLS_OF_PEER_MAX,
    GOSSIP_RATE_NS, GOSSIP_STALL_MS,
};

use crate::time::Time;

/// What we think of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    pub(super) linked: bool,
    /// It has given all of what it was asked for, once on this link.
    pub(super) given: bool,
    pub(super) pulls: usize,
    /// What they weigh.
    weight: usize,
    /// What it owes us.
    pub(super) bytes: u64,
    /// The latest request that it was asked on this link, and the latest of all before that.
    pub(super) latest: u64,
    pub(super) before: u64,
    /// When it last gave us anything, or was asked when it owed nothing.
    pub(super) heard: Time,
    /// When bytes last came of it.
    pub(super) came: Option<Time>,
    pub(super) faults: u32,
    /// When it failed last.
    pub(super) failed: Time,
    /// Until when others are asked first.
    pub(super) shunned: Time,
    /// So much less may be under way to it than to who has never failed.
    fewer: usize,
}

impl Record {
    /// As much is under way to it as may be.
    pub(super) fn owes_enough(&self) -> bool {
        self.weight >= GOSSIP_PIECES_OF_PEER_MAX - self.fewer
    }

    /// A link stands: what it did on the one before says little.
    pub(super) fn linked(&mut self, numbered: u64) {
        (self.linked, self.given, self.fewer) = (true, false, 0);
        (self.before, self.latest) = (numbered, numbered);
    }

    /// None does.
    pub(super) fn unlinked(&mut self) {
        (self.linked, self.pulls, self.weight, self.bytes) = (false, 0, 0, 0);
    }

    /// It is asked for so many bytes.
    pub(super) fn ask(&mut self, now: Time, request: u64, weight: usize, bytes: u64) {
        self.latest = request;
        if self.pulls == 0 {
            self.heard = now;
        }
        self.pulls += 1;
        self.weight += weight;
        self.bytes += bytes;
    }

    /// A request is over of which it owed so many bytes.
    pub(super) fn end(&mut self, weight: usize, bytes: u64) {
        self.pulls = self.pulls.saturating_sub(1);
        self.weight = self.weight.saturating_sub(weight);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// It has given all of one.
    pub(super) fn gave(&mut self, weight: usize) {
        (self.faults, self.given) = (0, true);
        self.fewer = self.fewer.saturating_sub(weight);
    }

    /// It fails with what it was asked for since then; whether that is another failure than its last: all that it was asked for before that is one.
    pub(super) fn failed(&mut self, now: Time, asked: Time) -> bool {
        if asked < self.failed {
            return false;
        }
        self.failed = now;
        self.shunned = now.after_ms(pause_ms(self.faults));
        self.faults = self.faults.saturating_add(1);
        self.fewer += (GOSSIP_PIECES_OF_PEER_MAX - self.fewer) / 2;
        true
    }

    /// It owes us bytes, and is silent for too long then.
    pub(super) fn silent_at(&self, patience_ns: u64) -> Time {
        Time(self.heard.after_ms(GOSSIP_STALL_MS).0.saturating_add(patience_ns))
    }
}

const _: () = assert!(
    GOSSIP_PIECES_OF_PEER_MAX as u64 * ARTIFACT_PIECE_BYTES_MIN
        == GOSSIP_PULLS_OF_PEER_MAX as u64 * ARTIFACT_PIECE_BYTES,
    "of small pieces as many bytes are asked of one at a time as of usual ones"
);

/// What a request counts for of `GOSSIP_PIECES_OF_PEER_MAX`.
pub(super) const fn weight(part: Part, size: u64) -> usize {
    let small = matches!(part, Part::Piece { .. }) && size <= ARTIFACT_PIECE_BYTES_MIN;
    if small { 1 } else { GOSSIP_PIECES_OF_PEER_MAX / GOSSIP_PULLS_OF_PEER_MAX }
}

/// How long who has failed so often is left alone, in milliseconds.
pub(super) fn pause_ms(faults: u32) -> u64 {
    GOSSIP_FAULT_MS.saturating_mul(1 << faults.min(16)).min(GOSSIP_FAULT_MS_MAX)
}

/// How fast bytes come while they are owed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    pub(super) since: Time,
    pub(super) bytes: u64,
    /// Bytes a second, once known.
    pub(super) known: Option<u64>,
}

impl Rate {
    /// How long so many bytes take, as far as that is known.
    pub(super) fn ns_for(&self, bytes: u64) -> u64 {
        let Some(rate) = self.known else { return 0 };
        let ns = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        u64::try_from(ns).unwrap_or(u64::MAX).min(GOSSIP_PATIENCE_NS_MAX)
    }

    /// Something is asked for, and nothing was before.
    pub(super) fn begin(&mut self, now: Time) {
        (self.since, self.bytes) = (now, 0);
    }

    pub(super) fn came(&mut self, now: Time, bytes: u64) {
        self.bytes += bytes;
        let took = now.since(self.since).max(1);
        // A few bytes that came late say how late they were, not how fast they come.
        let many = self.known.is_some() || self.bytes >= GOSSIP_OWED_BYTES_MIN || took >= 4 * GOSSIP_RATE_NS;
        if took >= GOSSIP_RATE_NS && many {
            let rate = u128::from(self.bytes) * 1_000_000_000 / u128::from(took);
            // A window in which little was owed says little.
            let known = self.known.map_or(0, |known| known - known / 8);
            self.known = Some(u64::try_from(rate).unwrap_or(u64::MAX).max(known).max(1));
            self.begin(now);
        }
    }
}
