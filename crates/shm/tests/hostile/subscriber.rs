//! A subscriber that writes anything, and an honest one beside it.

use std::sync::Arc;

use busway_shm::arena::{OwnArena, PeerArena};
use busway_shm::heap::Table;
use busway_shm::layout::{ROWS_AT, RowEntry, key, state};
use busway_shm::row::{Message, RowReader, Taken};
use busway_shm::seat::{EntryKey, RingShared};
use busway_shm::sync::Ordering;
use busway_shm::view::Mapped;
use busway_wire::{Policy, ProcessId};

use crate::scene::{POLICIES, arena, bytes, payload, timed};
use crate::words::{self, Coverage, Words};

/// A row of a hostile process, made by hand.
pub(crate) struct HostileRow {
    pub(crate) index: u32,
    pub(crate) entry: Mapped<RowEntry>,
    pub(crate) policy: Policy,
    pub(crate) words: Words,
}

/// A hostile subscriber with one row of each policy.
pub(crate) struct HostileSubscriber {
    pub(crate) own: Arc<OwnArena>,
    pub(crate) peer: Arc<PeerArena>,
    pub(crate) rows: Vec<HostileRow>,
    pub(crate) header: Words,
    pub(crate) generation: u32,
}

impl HostileSubscriber {
    pub(crate) fn new() -> Self {
        let (own, peer) = arena("hostile");
        let row = |policy| {
            let index = own.take_entry(Table::Row).expect("an entry");
            let at = ROWS_AT + u64::from(index) * size_of::<RowEntry>() as u64;
            let entry = own.tables().at(at).expect("inside");
            HostileRow { index, entry, policy, words: Words::new(vec![words::of_row(&own, index)]) }
        };
        let rows = POLICIES.into_iter().map(row).collect();
        let header = Words::new(vec![words::of_header(&own)]);
        Self { own, peer, rows, header, generation: 0 }
    }

    /// Asks for seats again, as a row that looks right when it is asked about, or as one that does not.
    pub(crate) fn attach(
        &mut self,
        rng: &mut fastrand::Rng,
        publisher: ProcessId,
        ring: &RingShared,
        seen: &mut Coverage,
    ) -> u32 {
        self.generation += 1;
        self.own.life_word().store(1234, Ordering::Relaxed);
        let mut seats = 0;
        for row in &self.rows {
            let at = ROWS_AT + u64::from(row.index) * size_of::<RowEntry>() as u64;
            let entry = &row.entry;
            entry.publisher.store(publisher.0, Ordering::Relaxed);
            entry.ring.store(ring.key().word(), Ordering::Relaxed);
            entry.holds_at.store(at + std::mem::offset_of!(RowEntry, hold_words) as u64, Ordering::Relaxed);
            entry.holds.store(16, Ordering::Relaxed);
            entry.history.store(rng.u64(..) >> rng.u32(0..64), Ordering::Relaxed);
            entry.created_ns.store(rng.u64(..) >> rng.u32(0..64), Ordering::Relaxed);
            entry.cursor.store(0, Ordering::Relaxed);
            entry.key.store(key(self.generation, state::ACTIVE), Ordering::Release);
            if rng.bool() {
                seen.write(rng, &row.words, ring.head());
            }
            let row_key = EntryKey { index: row.index, generation: self.generation };
            seats += u32::from(timed("attach", || ring.attach(&self.peer, row_key, row.policy)).is_ok());
        }
        seats
    }

    pub(crate) fn close(&self, ring: &RingShared) {
        for row in &self.rows {
            row.entry.key.store(key(self.generation, state::CLOSED), Ordering::Release);
        }
        timed("reap", || ring.reap());
    }
}

/// What the honest subscriber has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) got: u64,
    pub(crate) lost: u64,
    pub(crate) held: Vec<Message>,
}

impl Seen {
    pub(crate) fn drain(&mut self, reader: &mut RowReader, rng: &mut fastrand::Rng) {
        loop {
            match reader.take() {
                Taken::Message(message) => {
                    assert_eq!(bytes(&message), payload(message.sequence), "message {}", message.sequence);
                    self.got += 1;
                    if rng.u32(0..8) == 0 {
                        self.held.push(message);
                    }
                }
                Taken::Gap(gap) => self.lost += gap.count,
                Taken::Empty => break,
                other => panic!("the publisher is there: {other:?}"),
            }
        }
        while self.held.len() > 12 {
            let message = self.held.swap_remove(rng.usize(0..self.held.len()));
            assert_eq!(bytes(&message), payload(message.sequence), "held message {}", message.sequence);
        }
    }
}
