//! Every word that a process may write, what a hostile one writes there, and how often it did.

use std::collections::BTreeMap;

use busway_shm::arena::OwnArena;
use busway_shm::layout::{
    EXTENTS_AT, ExtentEntry, HEADS_AT, RINGS_AT, ROWS_AT, RingEntry, RowEntry, SEATS_AT, SeatEntry, key,
    state,
};
use busway_shm::slot::{ChunkRef, SLOT_BYTES, Slot};
use busway_shm::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use busway_shm::view::Mapped;

/// One word of an arena, by the name of its field.
pub(crate) struct Word {
    pub(crate) name: &'static str,
    place: Place,
}

enum Place {
    Short(Mapped<AtomicU32>),
    Long(Mapped<AtomicU64>),
}

impl Word {
    pub(crate) fn long(own: &OwnArena, name: &'static str, offset: u64) -> Self {
        Self { name, place: Place::Long(own.tables().at(offset).expect("inside the arena")) }
    }

    pub(crate) fn short(own: &OwnArena, name: &'static str, offset: u64) -> Self {
        Self { name, place: Place::Short(own.tables().at(offset).expect("inside the arena")) }
    }

    pub(crate) fn load(&self) -> u64 {
        match &self.place {
            Place::Short(word) => u64::from(word.load(Ordering::Relaxed)),
            Place::Long(word) => word.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn store(&self, value: u64) {
        match &self.place {
            Place::Short(word) => word.store(value as u32, Ordering::Release),
            Place::Long(word) => word.store(value, Ordering::Release),
        }
    }
}

macro_rules! words {
    ($own:expr, $at:expr, $of:ty; $($kind:ident: $($field:ident),+);+ $(;)?) => { vec![$($(
        Word::$kind($own, concat!(stringify!($of), ".", stringify!($field)),
            $at + std::mem::offset_of!($of, $field) as u64)
    ),+),+] };
}

/// Words of an array, of which any is as good as the other: all under one name.
fn array(own: &OwnArena, name: &'static str, at: u64, count: u64) -> Vec<Word> {
    (0..count).map(|index| Word::long(own, name, at + index * 8)).collect()
}

pub(crate) fn of_header(own: &OwnArena) -> Vec<Word> {
    use busway_shm::layout::ArenaHeader;
    let mut words = words!(own, 0, ArenaHeader;
        long: magic, layout_hash, process, arena_bytes, bulk_bytes, started_ns, beat_ns, committed_bytes;
        short: version, pid, uid, flags, life, rings_used, rows_used, seats_used, extents_used, name_bytes);
    words.extend((0..5).map(|index| {
        Word::short(own, "ArenaHeader.spare", std::mem::offset_of!(ArenaHeader, spare) as u64 + index * 4)
    }));
    words.extend(array(own, "ArenaHeader.name", std::mem::offset_of!(ArenaHeader, name) as u64, 8));
    words
}

pub(crate) fn of_row(own: &OwnArena, index: u32) -> Vec<Word> {
    let at = ROWS_AT + u64::from(index) * size_of::<RowEntry>() as u64;
    let mut words = words!(own, at, RowEntry;
        long: key, publisher, ring, port, policy, holds_at, first, cursor, looked_ns, lag_high, created_ns, history,
            delivered, woken, place, group, looked_at;
        short: holds, seat, held, losing);
    words.extend(array(own, "RowEntry.dropped", at + std::mem::offset_of!(RowEntry, dropped) as u64, 16));
    let further = at + std::mem::offset_of!(RowEntry, dropped_by_group) as u64;
    words.extend(array(own, "RowEntry.dropped_by_group", further, 4));
    words.extend(array(
        own,
        "RowEntry.hold_words",
        at + std::mem::offset_of!(RowEntry, hold_words) as u64,
        16,
    ));
    words
}

pub(crate) fn of_ring(own: &OwnArena, index: u32) -> Vec<Word> {
    let at = RINGS_AT + u64::from(index) * size_of::<RingEntry>() as u64;
    let mut words = words!(own, at, RingEntry;
        long: key, topic, port, created_ns, closed_at, waits, refused, evicted, past_delivered, past_rows,
            sent_bytes, lag_high, seated, rate_milli;
        short: stages_used, topic_bytes, history, flags, waiting);
    let part = |name, offset: usize, count| array(own, name, at + offset as u64, count);
    words.extend(part("RingEntry.past_dropped", std::mem::offset_of!(RingEntry, past_dropped), 16));
    words.extend(part("RingEntry.stage_at", std::mem::offset_of!(RingEntry, stage_at), 3));
    words.extend(part("RingEntry.stage_first", std::mem::offset_of!(RingEntry, stage_first), 3));
    words.extend(part("RingEntry.name", std::mem::offset_of!(RingEntry, name), 2));
    words.push(Word::long(own, "head", HEADS_AT + u64::from(index) * 8));
    words
}

pub(crate) fn of_seat(own: &OwnArena, index: u32) -> Vec<Word> {
    let at = SEATS_AT + u64::from(index) * size_of::<SeatEntry>() as u64;
    words!(own, at, SeatEntry; long: key, subscriber, row, ring, from, waits, waited_ns, stalls)
}

pub(crate) fn of_extent(own: &OwnArena, index: u32) -> Vec<Word> {
    let at = EXTENTS_AT + u64::from(index) * size_of::<ExtentEntry>() as u64;
    words!(own, at, ExtentEntry; long: offset, chunk_bytes, spare; short: count, bulk)
}

/// The words of `slots` slots that begin at `at`.
pub(crate) fn of_slots(own: &OwnArena, at: u64, slots: u64) -> Vec<Word> {
    let names = ["Slot.word", "Slot.time", "Slot.correlation", "Slot.shape", "Slot.payload"];
    let slot = |slot: u64| {
        (names.into_iter().zip(Slot::OFFSETS))
            .map(move |(name, field)| Word::long(own, name, at + slot * SLOT_BYTES as u64 + field as u64))
    };
    (0..slots).flat_map(slot).collect()
}

/// The headers of the messages in the first chunks of an extent of the arena file.
pub(crate) fn of_chunks(own: &OwnArena, extent: u32, chunks: u32) -> Vec<Word> {
    let names: [&'static str; 8] = [
        "Header.checksum",
        "Header.checksum_payload",
        "Header.size_and_kind",
        "Header.topic",
        "Header.source",
        "Header.sequence",
        "Header.time_ns",
        "Header.correlation",
    ];
    let place = |index| own.tables().resolve(ChunkRef::new(extent, index)?).filter(|place| !place.bulk);
    let words = |at: u64| (0..).zip(names).map(move |(word, name)| Word::long(own, name, at + word * 8));
    (0..chunks).filter_map(place).flat_map(|place| words(place.offset)).collect()
}

/// Kinds of values, each of which some check could forget.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Class {
    Zero,
    One,
    Max,
    MaxLess,
    HighBit,
    Head,
    HeadLess,
    HeadMore,
    FarAhead,
    Huge,
    State,
    OtherGeneration,
    Chunk,
    Mark,
    Offset,
    Flip,
}

impl Class {
    pub(crate) const ALL: [Self; 16] = [
        Self::Zero,
        Self::One,
        Self::Max,
        Self::MaxLess,
        Self::HighBit,
        Self::Head,
        Self::HeadLess,
        Self::HeadMore,
        Self::FarAhead,
        Self::Huge,
        Self::State,
        Self::OtherGeneration,
        Self::Chunk,
        Self::Mark,
        Self::Offset,
        Self::Flip,
    ];

    /// A value of this class for a word that holds `old`, where the ring in question has come to `head`.
    pub(crate) fn value(self, rng: &mut fastrand::Rng, old: u64, head: u64) -> u64 {
        let chunk = u64::from(rng.u32(0..3) << 12 | rng.u32(0..24));
        match self {
            Self::Zero => 0,
            Self::One => 1,
            Self::Max => u64::MAX,
            Self::MaxLess => u64::MAX - rng.u64(1..64),
            Self::HighBit => 1 << rng.u32(31..64),
            Self::Head => head,
            Self::HeadLess => head.wrapping_sub(rng.u64(1..70)),
            Self::HeadMore => head.wrapping_add(rng.u64(1..70)),
            Self::FarAhead => head.wrapping_add(1 << rng.u32(8..41)),
            Self::Huge => rng.u64(1 << 40..),
            Self::State => key((old >> 32) as u32, rng.u32(state::FREE..=state::EVICTED + 1)),
            Self::OtherGeneration => key((old >> 32) as u32 ^ rng.u32(1..4), old as u32),
            // As a hold word, as the low half of a slot's word for a sequence near the head, or bare.
            Self::Chunk => [chunk | 1 << 63, ((head + rng.u64(0..3)) << 24) | chunk, chunk][rng.usize(0..3)],
            Self::Mark => ((head + rng.u64(0..3)) << 24) | 0xff_f000 | rng.u64(0..5),
            Self::Offset => (rng.u64(0..1 << 29) & !63) | rng.u64(0..8),
            Self::Flip => old ^ 1 << rng.u32(0..64),
        }
    }
}

/// Words by the name of their field: those of an array are one.
pub(crate) struct Words {
    named: Vec<(&'static str, Vec<Word>)>,
}

impl Words {
    pub(crate) fn new(parts: Vec<Vec<Word>>) -> Self {
        let mut named: BTreeMap<&'static str, Vec<Word>> = BTreeMap::new();
        for word in parts.into_iter().flatten() {
            named.entry(word.name).or_default().push(word);
        }
        Self { named: named.into_iter().collect() }
    }

    /// Any word; that of an array no more often than a single one.
    pub(crate) fn any(&self, rng: &mut fastrand::Rng) -> &Word {
        let (_, same) = &self.named[rng.usize(0..self.named.len())];
        &same[rng.usize(0..same.len())]
    }

    /// Writes anything anywhere until `stop` is set; says how often.
    pub(crate) fn scribble(&self, seed: u64, head: &dyn Fn() -> u64, stop: &AtomicBool) -> u64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut writes = 0;
        while !stop.load(Ordering::Relaxed) {
            let word = self.any(&mut rng);
            let class = Class::ALL[rng.usize(0..Class::ALL.len())];
            word.store(class.value(&mut rng, word.load(), head()));
            writes += 1;
        }
        writes
    }
}

/// How often each class was written into each word.
#[derive(Default)]
pub(crate) struct Coverage {
    counts: BTreeMap<(&'static str, Class), u64>,
}

impl Coverage {
    /// Writes one value into one of `words`; gives the word and what it held before.
    pub(crate) fn write<'a>(
        &mut self,
        rng: &mut fastrand::Rng,
        words: &'a Words,
        head: u64,
    ) -> (&'a Word, u64) {
        let word = words.any(rng);
        let class = Class::ALL[rng.usize(0..Class::ALL.len())];
        let old = word.load();
        word.store(class.value(rng, old, head));
        *self.counts.entry((word.name, class)).or_default() += 1;
        (word, old)
    }

    /// Fails if a word of `words` was spared any class of values; says how many were written.
    pub(crate) fn assert_whole(&self, words: &Words) -> String {
        for (name, _) in &words.named {
            for class in Class::ALL {
                assert!(self.counts.contains_key(&(name, class)), "{name} was never written {class:?}");
            }
        }
        let (least, writes) = (self.counts.values().min(), self.counts.values().sum::<u64>());
        let least = least.copied().unwrap_or(0);
        format!("words={} classes={} writes={writes} least={least}", words.named.len(), Class::ALL.len())
    }
}
