//! The other processes that this one has met: their arenas, and whether they live, hang or have gone.
//!
//! A peer is mapped once and watched until it has gone. `look` is given the time, so that a hang is judged by the
//! caller's clock; it decides what to report, and reports nothing itself. A hang is only ever reported: a stopped
//! process keeps what it holds. So does one of which only the holder says that it is gone: its life word decides. It is
//! watched for as long as seats or rows refer to it, and then forgotten, because a bad one writes a word that lives for ever.
//!
//! Invariant: a process is reported as gone once, and as hung once for each time it stops beating.

use busway_shm::arena::PeerArena;
use busway_shm::life::Life;
use busway_wire::ProcessId;
use busway_wire::limits::HUNG_AFTER_MS;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What `look` saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The kernel says that it was killed or crashed.
    Died,
    /// It has left cleanly.
    Left,
    /// It has not beaten for three seconds.
    Hangs,
    /// It beats again.
    Beats,
    /// The holder has said that it is gone, and nothing here refers to it any more.
    Unused,
}

/// Whether a peer beats, as far as we have said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
    Beating,
    Hung,
}

/// Judges one beat; `None` if nothing new is to be said.
fn judge(pulse: &mut Pulse, now_ns: u64, last_beat_ns: u64) -> Option<Seen> {
    let silent_ns = now_ns.saturating_sub(last_beat_ns);
    let found = if silent_ns >= HUNG_AFTER_MS * 1_000_000 { Pulse::Hung } else { Pulse::Beating };
    if found == *pulse {
        return None;
    }
    *pulse = found;
    Some(match found {
        Pulse::Hung => Seen::Hangs,
        Pulse::Beating => Seen::Beats,
    })
}

#[derive(Debug)]
struct Peer {
    arena: Arc<PeerArena>,
    pulse: Pulse,
    /// The holder says that it is gone, its life word does not.
    doubted: bool,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<ProcessId, Peer>,
}

impl Peers {
    /// Takes a peer in. One that is known already keeps its mapping, which others may refer to.
    pub(super) fn meet(&mut self, arena: Arc<PeerArena>) -> Arc<PeerArena> {
        let new = Peer { arena, pulse: Pulse::Beating, doubted: false };
        let peer = self.peers.entry(new.arena.process()).or_insert(new);
        // It has come back.
        peer.doubted = false;
        Arc::clone(&peer.arena)
    }

    pub(super) fn get(&self, process: ProcessId) -> Option<&Arc<PeerArena>> {
        self.peers.get(&process).map(|peer| &peer.arena)
    }

    /// Forgets a process that has gone; false if that had been done.
    pub(super) fn part(&mut self, process: ProcessId) -> bool {
        self.peers.remove(&process).is_some()
    }

    /// Notes that the holder says a process is gone of which the life word says that it lives; false if that is known.
    pub(super) fn doubt(&mut self, process: ProcessId) -> bool {
        self.peers.get_mut(&process).is_some_and(|peer| !std::mem::replace(&mut peer.doubted, true))
    }

    pub(super) fn hangs(&self, process: ProcessId) -> bool {
        self.peers.get(&process).is_some_and(|peer| peer.pulse == Pulse::Hung)
    }

    /// Bytes that all of them have committed, but for `own`: a process need not have met itself.
    pub(super) fn committed_bytes(&self, own: ProcessId) -> u64 {
        let others = self.peers.iter().filter(|(process, _)| **process != own);
        others.fold(0, |sum, (_, peer)| sum.saturating_add(peer.arena.committed_bytes()))
    }

    /// Looks at everybody's life word and beat.
    pub(super) fn look(&mut self, now_ns: u64) -> Vec<(ProcessId, Seen)> {
        let mut seen = Vec::new();
        for (process, peer) in &mut self.peers {
            match peer.arena.life() {
                Life::Dead => seen.push((*process, Seen::Died)),
                Life::Closed => seen.push((*process, Seen::Left)),
                // New references come from here only, so that nobody can take one while we look.
                Life::Starting | Life::Alive if peer.doubted && Arc::strong_count(&peer.arena) == 1 => {
                    seen.push((*process, Seen::Unused));
                }
                Life::Alive if peer.arena.monitored() => {
                    let found = judge(&mut peer.pulse, now_ns, peer.arena.last_beat_ns());
                    seen.extend(found.map(|found| (*process, found)));
                }
                Life::Starting | Life::Alive => {}
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::{Pulse, Seen, judge};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_process_is_reported_hung_once_after_three_seconds_and_once_when_it_beats() {
        let mut pulse = Pulse::Beating;
        let last = 100 * SECOND;
        assert_eq!(judge(&mut pulse, last + 2_999_999_999, last), None);
        assert_eq!(judge(&mut pulse, last + 3 * SECOND, last), Some(Seen::Hangs));
        assert_eq!(judge(&mut pulse, last + 60 * SECOND, last), None, "it is said once");
        let again = last + 61 * SECOND;
        assert_eq!(judge(&mut pulse, again + 1, again), Some(Seen::Beats));
        assert_eq!(
            judge(&mut pulse, again + 3 * SECOND, again),
            Some(Seen::Hangs),
            "a new hang is said again"
        );
    }

    #[test]
    fn a_beat_from_the_future_is_no_hang() {
        let mut pulse = Pulse::Beating;
        assert_eq!(judge(&mut pulse, 5, u64::MAX), None);
    }
}
