//! Every field of every shared structure, by name, so that no two layouts have the same hash.
//!
//! The hash is what keeps two builds apart whose structures differ: a field that it does not know could trade places
//! with another, and one process would read a cursor where the other keeps a count. So it is made of the name and the
//! offset of all fields. The lists cannot leave one out: a structure is taken apart where its list is made.
//!
//! It does not know what a field means: that is what `LAYOUT_VERSION` is for.

use super::{ArenaHeader, CounterPage, ExtentEntry, RingEntry, RowEntry, SeatEntry};
use crate::bell::Line;
use crate::claims::file::{ClaimsHeader, GroupHead, PullerLine};
use crate::domain::DomainHeader;
use crate::slot::Slot;

/// A field of a shared structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its offset in bytes.
    pub offset: usize,
}

/// A shared structure.
#[derive(Clone, Copy, Debug)]
pub struct Structure {
    /// Its name.
    pub name: &'static str,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its fields, all of them.
    pub fields: &'static [Field],
}

macro_rules! structure {
    ($of:ident: $($field:ident),+ $(,)?) => {
        Structure {
            name: stringify!($of),
            bytes: size_of::<$of>(),
            fields: {
                // Does not compile where a field is missing.
                const _: fn(&$of) = |value| { let $of { $($field: _),+ } = value; };
                &[$(Field { name: stringify!($field), offset: std::mem::offset_of!($of, $field) }),+]
            },
        }
    };
}

/// What an arena is made of, and the claims file that goes with it.
pub const ARENA: [Structure; 10] = [
    structure!(ArenaHeader: magic, layout_hash, version, pid, process, arena_bytes, bulk_bytes, started_ns, uid, flags,
        life, beat_ns, committed_bytes, rings_used, rows_used, seats_used, extents_used, name_bytes,
        spare, name),
    structure!(CounterPage: folds, past_sent, past_bytes, past_relayed, past_waits, past_delivered, past_received, spare,
        past_dropped, past_missed, events),
    structure!(ExtentEntry: offset, chunk_bytes, count, bulk, spare),
    structure!(RingEntry: key, topic, port, created_ns, stages_used, topic_bytes, history, flags, closed_at, rate_milli,
        waiting, waits, refused, evicted, past_delivered, past_rows, sent_bytes, lag_high, seated, past_dropped,
        stage_at, stage_first, name),
    structure!(RowEntry: key, publisher, ring, port, policy, holds_at, holds, seat, first, cursor, looked_ns, lag_high, held,
        losing, created_ns, history, delivered, woken, dropped, hold_words, place, group,
        dropped_by_group, looked_at),
    structure!(SeatEntry: key, subscriber, row, ring, from, waits, waited_ns, stalls),
    structure!(ClaimsHeader: magic, layout, process, spare),
    structure!(GroupHead: returned, late, woken, lines, left),
    structure!(PullerLine: turn, looking, spare),
    Structure { name: "Slot", bytes: size_of::<Slot>(), fields: &SLOT },
];

/// What a domain segment is made of.
pub const DOMAIN: [Structure; 2] = [
    structure!(DomainHeader: magic, layout, size, budget, reserved, bytes_reserved, ledger_reserved),
    Structure { name: "BellLine", bytes: size_of::<Line>(), fields: &LINE },
];

const SLOT: [Field; 5] = [
    Field { name: "word", offset: Slot::OFFSETS[0] },
    Field { name: "time", offset: Slot::OFFSETS[1] },
    Field { name: "correlation", offset: Slot::OFFSETS[2] },
    Field { name: "shape", offset: Slot::OFFSETS[3] },
    Field { name: "payload", offset: Slot::OFFSETS[4] },
];

const LINE: [Field; 4] = [
    Field { name: "armed", offset: Line::OFFSETS[0] as usize },
    Field { name: "rung", offset: Line::OFFSETS[1] as usize },
    Field { name: "done", offset: Line::OFFSETS[2] as usize },
    Field { name: "full_fences", offset: Line::OFFSETS[3] as usize },
];

/// A number that differs between any two layouts of these structures, with these limits and offsets beside them.
#[must_use]
pub const fn hash(structures: &[Structure], numbers: &[u64]) -> u64 {
    // FNV-1a, 64 bits (RFC 9923, section 5): it must tell layouts apart, not withstand anybody.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < numbers.len() {
        hash = add(hash, &numbers[at].to_le_bytes());
        at += 1;
    }
    at = 0;
    while at < structures.len() {
        hash = add_structure(hash, &structures[at]);
        at += 1;
    }
    hash
}

const fn add_structure(mut hash: u64, structure: &Structure) -> u64 {
    hash = add(hash, structure.name.as_bytes());
    hash = add(hash, &(structure.bytes as u64).to_le_bytes());
    let mut at = 0;
    while at < structure.fields.len() {
        hash = add(hash, structure.fields[at].name.as_bytes());
        hash = add(hash, &(structure.fields[at].offset as u64).to_le_bytes());
        at += 1;
    }
    hash
}

const fn add(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::{ARENA, DOMAIN, Field, Structure, hash};

    #[test]
    fn layouts_that_differ_in_the_place_of_any_two_fields_have_different_hashes() {
        let mut seen = std::collections::BTreeSet::new();
        let mut swaps = 0;
        for all in [&ARENA[..], &DOMAIN[..]] {
            seen.insert(hash(all, &[]));
            for (at, structure) in all.iter().enumerate() {
                for (one, other) in
                    (0..structure.fields.len()).flat_map(|one| (0..one).map(move |other| (one, other)))
                {
                    // Two fields trade places, as when somebody sorts them.
                    let mut fields: Vec<Field> = structure.fields.to_vec();
                    (fields[one].offset, fields[other].offset) = (fields[other].offset, fields[one].offset);
                    let mut changed = all.to_vec();
                    changed[at] = Structure { fields: fields.leak(), ..*structure };
                    swaps += 1;
                    assert!(seen.insert(hash(&changed, &[])), "{}: {one} and {other}", structure.name);
                }
            }
        }
        assert!(swaps > 600, "{swaps}");
        assert_ne!(hash(&ARENA, &[1, 2]), hash(&ARENA, &[2, 1]));
        let wider = ARENA.map(|structure| Structure { bytes: structure.bytes + 64, ..structure });
        assert_ne!(hash(&ARENA, &[]), hash(&wider, &[]));
    }
}
