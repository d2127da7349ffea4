//! A publisher that writes anything, and what its subscribers meet.

use std::sync::Arc;

use busway_shm::arena::PeerArena;
use busway_shm::clock::monotonic_ns;
use busway_shm::ring::{Patience, RingOptions, RingWriter};
use busway_shm::row::{Message, RowReader, Taken};
use busway_shm::seat::RingShared;
use busway_shm::sync::Ordering;
use busway_wire::Cause;

use crate::scene::{arena, bytes, options, payload, ring, send, timed};
use crate::words::{self, Words};

/// A hostile publisher: an honest one's arena, spoiled and put right again.
pub(crate) struct HostilePublisher {
    pub(crate) peer: Arc<PeerArena>,
    pub(crate) writer: RingWriter,
    pub(crate) shared: Arc<RingShared>,
    pub(crate) words: Words,
}

impl HostilePublisher {
    pub(crate) fn new() -> Self {
        let (own, peer) = arena("hostile");
        let (mut writer, shared) = ring(&own, RingOptions { max_wait_ns: 0, ..options() });
        for sequence in 1..=40 {
            send(&mut writer, &payload(sequence), Patience::None).expect("nobody gates");
        }
        let index = shared.key().index;
        let stage = shared.entry().stage_at[0].load(Ordering::Relaxed);
        let mut parts = vec![
            words::of_header(&own),
            words::of_ring(&own, index),
            words::of_slots(&own, stage & !63, 1 << (stage & 63)),
        ];
        parts.extend((0..4).map(|seat| words::of_seat(&own, seat)));
        parts.extend((0..3).map(|extent| words::of_extent(&own, extent)));
        parts.extend((0..3).map(|extent| words::of_chunks(&own, extent, 16)));
        Self { peer, writer, shared, words: Words::new(parts) }
    }
}

/// What subscribers of a hostile publisher met.
#[derive(Default)]
pub(crate) struct Met {
    pub(crate) messages: u64,
    pub(crate) corrupt: u64,
    pub(crate) gaps: u64,
    pub(crate) ends: u64,
    pub(crate) checksum: u64,
    pub(crate) held: Vec<Message>,
}

impl Met {
    /// A few takes: none of them may panic or hang, and what comes out can be read to its end.
    pub(crate) fn take(&mut self, reader: &mut RowReader) {
        for _ in 0..6 {
            match timed("take", || reader.take()) {
                Taken::Message(message) => {
                    self.messages += 1;
                    let payload = bytes(&message);
                    let ends = [payload.first(), payload.last()].into_iter().flatten();
                    self.checksum = ends.fold(self.checksum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
                    self.held.push(message);
                }
                Taken::Gap(gap) => {
                    self.gaps += 1;
                    self.corrupt += u64::from(gap.cause == Cause::Corrupt);
                }
                Taken::Empty => break,
                Taken::End | Taken::Evicted(_) | Taken::HoldsExhausted => {
                    self.ends += 1;
                    break;
                }
            }
        }
        self.held.truncate(8);
        timed("is_over", || reader.is_over());
        reader.row().look(monotonic_ns());
        timed("has_nothing", || reader.has_nothing());
        let account = reader.row().account();
        assert!(account.held <= 16, "{account:?}");
    }
}
