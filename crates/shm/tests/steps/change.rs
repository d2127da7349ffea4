//! Words that change after they were checked and before they are used (row H44, case 44).
//!
//! A child reads what this process writes. It is led to some step of a take or of a send; there one word changes, from
//! what an honest peer writes to a lie or back, and the child goes on alone. Whatever it has checked before, it must
//! come to an end that its checks allow: it tells what it got, and this process, which knows the words, judges.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use busway_shm::arena::{ChunkPlace, OwnArena};
use busway_shm::clock::monotonic_ns;
use busway_shm::heap::{CHUNK_BYTES_MAX, Table};
use busway_shm::hold::HoldBudget;
use busway_shm::layout::{
    ArenaHeader, EXTENTS_AT, ExtentEntry, HEADS_AT, PAGE, RINGS_AT, ROWS_AT, RingEntry, RowEntry, key, state,
};
use busway_shm::ring::{Patience, RingOptions, RingWriter};
use busway_shm::row::{Body, RowOptions, RowReader, RowShared, Taken};
use busway_shm::seat::{EntryKey, Progress, RingShared};
use busway_shm::slot::{ChunkRef, SLOT_BYTES, Slot};
use busway_shm::sync::{AtomicU64, Ordering};
use busway_shm::view::Mapped;
use busway_wire::{Cause, Flags, HEADER_SIZE, Header, Kind, Policy, PortId, Topic};

use crate::child::{Child, Led, Stop, Trail, mark, trace_me};
use crate::{Files, MIB, RING_SLOTS, arena, hear, introduce, meet, patient, send, tell};

/// Changes of each word, each at another step.
const CHANGES: usize = 600;
const SMALL: usize = 24;
const LARGE: usize = 300;
/// Where in the payload of a large message another header lies, which is right but for its place: it is not aligned.
const INNER_AT: usize = 8;

fn options() -> RingOptions {
    RingOptions {
        slots_max: RING_SLOTS as u32,
        bytes_max: MIB,
        history: 0,
        max_wait_ns: 20_000,
        gating: true,
        relay: false,
    }
}

/// A word that a peer reads, and what is written there.
struct Lie {
    word: Mapped<AtomicU64>,
    honest: u64,
    lie: u64,
}

impl Lie {
    fn new(own: &OwnArena, at: u64, lie: impl FnOnce(u64) -> u64) -> Self {
        let word: Mapped<AtomicU64> = own.tables().at(at).expect("inside");
        let honest = word.load(Ordering::Relaxed);
        Self { word, honest, lie: lie(honest) }
    }
}

/// Leads `child`, which stands at the beginning of its walk, to `step`, changes the word there and lets the child come
/// to its mark. The word is honest again afterwards.
fn change(child: &Child, trail: &Trail, step: usize, lie: &Lie, honest_first: bool) {
    let (before, after) = if honest_first { (lie.honest, lie.lie) } else { (lie.lie, lie.honest) };
    lie.word.store(before, Ordering::Release);
    let led = trail.lead(child, step);
    lie.word.store(after, Ordering::Release);
    if led != Led::ToItsEnd {
        child.run_to_mark();
    }
    lie.word.store(lie.honest, Ordering::Release);
}

const MESSAGE: u64 = 1;
const CORRUPT: u64 = 2;
const OTHER: u64 = 3;

/// The part of a subscriber of a hostile publisher. Each round it is told to begin, takes one message between two marks,
/// and tells what it got: what kind of thing, of how many bytes, as its header says and as they are, at which place in
/// the arena (0: a copy), and the sum of its bytes, looked at a second time when it is told to.
fn subscriber_part(parent: &UnixStream, publisher: &Files, ring: EntryKey, foreign: bool) {
    let own = arena("subscriber");
    let peer = publisher.map();
    let budget = Arc::new(HoldBudget::new(256, 64 * MIB));
    let policy = Policy::DropOldest { depth: Policy::DEPTH_RING };
    tell(parent, [u64::from(trace_me())]);
    while hear(parent) == [1] {
        let options = RowOptions {
            port: PortId(9),
            policy,
            history: 0,
            holds: 15,
            created_ns: monotonic_ns(),
            place: 0,
        };
        let row = RowShared::create(&own, &peer, ring, &options, &budget).expect("a row");
        row.attached(Ok(0));
        let mut reader = RowReader::new(row, policy, foreign);
        mark();
        let taken = reader.take();
        mark();
        let (kind, message) = match taken {
            Taken::Message(message) => (MESSAGE, Some(message)),
            Taken::Gap(gap) if gap.cause == Cause::Corrupt => (CORRUPT, None),
            _ => (OTHER, None),
        };
        let (said, bytes, place): (usize, &[u8], usize) = match message.as_ref().map(|message| &message.body)
        {
            Some(Body::Inline(inline)) => (inline.meta.size as usize, inline.payload(), 0),
            Some(Body::Chunk(chunk)) => {
                let (header, payload) = (chunk.header(), chunk.payload());
                (
                    header.size.get() as usize - HEADER_SIZE,
                    payload,
                    // Its place in its page, and never 0: what lies outside of the mapping ends the child when it adds up.
                    payload.as_ptr().addr() % PAGE as usize + PAGE as usize,
                )
            }
            Some(Body::Copied(header, payload)) => (header.size.get() as usize - HEADER_SIZE, payload, 0),
            None => (0, &[], 0),
        };
        let sum =
            || bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        tell(parent, [kind, said as u64, bytes.len() as u64, place as u64, sum()]);
        hear::<1>(parent);
        tell(parent, [sum()]);
        drop(message);
        drop(reader);
        own.reap_rows();
    }
}

/// A publisher that changes its words while a subscriber looks at them.
struct Publisher {
    own: Arc<OwnArena>,
    writer: RingWriter,
    shared: Arc<RingShared>,
    size: usize,
}

impl Publisher {
    fn new(size: usize) -> Self {
        let own = arena("hostile");
        let topic = Topic::new("price.tick").expect("a name");
        let (writer, shared) = RingWriter::create(&own, &topic, PortId(7), options()).expect("a ring");
        Self { own, writer, shared, size }
    }

    /// Publishes a message, and gives the child a place just before it.
    fn publish(&mut self) {
        let mut payload = vec![7; self.size];
        if let Some(inner) = payload.get_mut(INNER_AT..INNER_AT + HEADER_SIZE) {
            let mut header = Header::new(Kind::Publish);
            header.flags = Flags::UNSEALED.bits();
            header.size.set(HEADER_SIZE as u32 + 8);
            header.sequence.set(self.writer.head() + 1);
            inner.copy_from_slice(header.bytes());
        }
        send(&mut self.writer, &payload, Patience::None);
        let seat = self.own.tables().seat(0).expect("in the table");
        seat.from.store(self.writer.head() - 1, Ordering::Relaxed);
    }

    fn slot_at(&self, field: usize) -> u64 {
        let stage = self.shared.entry().stage_at[0].load(Ordering::Relaxed) & !63;
        stage + (self.writer.head() % RING_SLOTS) * SLOT_BYTES as u64 + Slot::OFFSETS[field] as u64
    }

    fn chunk(&self) -> Option<(u32, ChunkPlace)> {
        let word: Mapped<AtomicU64> = self.own.tables().at(self.slot_at(0)).expect("inside");
        let chunk = (word.load(Ordering::Relaxed) & 0xff_ffff) as u32;
        let chunk = ChunkRef::new(chunk >> 12, chunk & 0xfff)?;
        Some((chunk.extent(), self.own.tables().resolve(chunk)?))
    }

    /// Every word on the way to the newest message, and a lie for each.
    fn lies(&self) -> Vec<Lie> {
        let own = &self.own;
        let index = u64::from(self.shared.key().index);
        let ring = RINGS_AT + index * size_of::<RingEntry>() as u64;
        let stage_at = ring + std::mem::offset_of!(RingEntry, stage_at) as u64;
        let mut lies = vec![
            Lie::new(own, self.slot_at(0), |old| old ^ 0x00_00ff),
            Lie::new(own, self.slot_at(0), |old| (old & !0xff_ffff) | 0xff_e001),
            Lie::new(own, HEADS_AT + index * 8, |_| u64::MAX),
            Lie::new(own, stage_at, |old| old | 63),
            Lie::new(own, stage_at, |old| old | 1 << 62),
        ];
        let Some((extent, place)) = self.chunk() else {
            let shape = self.slot_at(3);
            lies.push(Lie::new(own, shape, |old| (old & !0xff) | 97));
            lies.push(Lie::new(own, shape, |old| old | 0xffff_ffff));
            return lies;
        };
        let at = EXTENTS_AT + u64::from(extent) * size_of::<ExtentEntry>() as u64;
        let offset = at + std::mem::offset_of!(ExtentEntry, offset) as u64;
        let bytes = at + std::mem::offset_of!(ExtentEntry, chunk_bytes) as u64;
        let count = (at + std::mem::offset_of!(ExtentEntry, count) as u64) & !7;
        lies.extend([
            Lie::new(own, offset, |old| old + (HEADER_SIZE + INNER_AT) as u64),
            Lie::new(own, offset, |_| 1 << 41),
            Lie::new(own, offset, |_| u64::MAX - 63),
            Lie::new(own, bytes, |_| CHUNK_BYTES_MAX),
            Lie::new(own, count, |_| 0),
            Lie::new(own, place.offset + 16, |old| (old & !0xffff_ffff) | (place.bytes + 64)),
            Lie::new(own, place.offset + 16, |old| old | 0xffff_ffff),
            Lie::new(own, place.offset + 16, |old| old & !0xffff_ffff),
            Lie::new(own, place.offset + 40, |old| old + 1),
        ]);
        lies
    }

    /// Lets the child take a new message while `walk` changes words, and judges what it got; says what kind of thing it was.
    fn round(&mut self, child: &Child, talk: &UnixStream, foreign: bool, walk: impl FnOnce(&Self)) -> u64 {
        self.publish();
        tell(talk, [1]);
        assert_eq!(child.stopped(), Stop::Mark, "the walk begins");
        let place = self.chunk().map(|(_, place)| place);
        walk(self);
        child.go();
        let [kind, said, bytes, at, sum] = hear(talk);
        // What is not a copy may change now: its owner is of the same user, who may do so.
        let payload = place.map(|place| place.offset + HEADER_SIZE as u64).unwrap_or(self.slot_at(4));
        let word: Mapped<AtomicU64> = self.own.tables().at(payload).expect("inside");
        let old = word.swap(u64::MAX, Ordering::Relaxed);
        tell(talk, [0]);
        let [again] = hear(talk);
        word.store(old, Ordering::Relaxed);
        if kind == MESSAGE {
            assert_eq!(bytes, said, "a message has the size that its header says");
            let most = place.map_or(96, |place| place.bytes - HEADER_SIZE as u64);
            assert!(bytes <= most, "{bytes} bytes in a place of {most}");
            assert!(at.is_multiple_of(64), "{at:#x}: typed samples rely on it");
            assert!(at == 0 || !foreign, "what another user can change was not copied");
            assert!(sum == again || at != 0, "a copy changes with what it was copied from");
        }
        kind
    }
}

fn subscribers(name: &str, size: usize, foreign: bool) {
    let mut publisher = Publisher::new(size);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let files = Files::of(&publisher.own);
    let child = Child::fork(|| subscriber_part(&theirs, &files, publisher.shared.key(), foreign));
    // So that the end of the child is seen.
    drop(theirs);
    if hear(&ours) == [0] {
        println!("skipped: ptrace is not permitted here");
        return;
    }
    let mut trail = Trail::default();
    // The first takes another way: it makes room for what the others use again.
    for _ in 0..2 {
        let told = publisher.round(&child, &ours, foreign, |_| trail = Trail::record(&child));
        assert_eq!(told, MESSAGE, "an honest one is read");
    }
    let mut rng = fastrand::Rng::with_seed(44);
    let (mut kinds, mut changes) = ([0_u64; 4], 0_u64);
    let words = publisher.lies().len();
    for number in 0..words {
        for step in trail.some(CHANGES) {
            let honest_first = rng.u32(0..4) != 0;
            let walk = |publisher: &Publisher| {
                change(&child, &trail, step, &publisher.lies()[number], honest_first);
            };
            kinds[publisher.round(&child, &ours, foreign, walk) as usize] += 1;
            changes += 1;
        }
    }
    let [_, messages, corrupt, other] = kinds;
    assert!(messages > 0 && corrupt > 0, "{kinds:?}");
    println!(
        "evidence: {name} words={words} changes={changes} messages={messages} corrupt={corrupt} other={other}"
    );
}

#[test]
fn a_small_message_whose_words_change_under_its_reader_is_whole_or_refused() {
    subscribers("inline", SMALL, false);
}

#[test]
fn a_chunk_whose_words_change_under_its_reader_is_whole_or_refused() {
    subscribers("chunk", LARGE, false);
}

#[test]
fn what_another_user_sends_is_copied_and_the_copy_does_not_change() {
    subscribers("copy", LARGE, true);
}

/// The part of a publisher with a hostile subscriber. Each round it sends until its next message makes it look at its
/// rows, and then sends one and adds up its account between two marks.
fn publisher_part(parent: &UnixStream, subscriber: &Files) {
    let own = arena("publisher");
    let topic = Topic::new("price.tick").expect("a name");
    let (mut writer, shared) = RingWriter::create(&own, &topic, PortId(7), options()).expect("a ring");
    introduce(parent, &own, shared.key());
    let peer = subscriber.map();
    tell(parent, [u64::from(trace_me())]);
    loop {
        tell(parent, [writer.head()]);
        let [row] = hear(parent);
        if row == 0 {
            return;
        }
        // A row that is new: what it says has not been seen before, and the next message looks at it.
        shared.reap();
        let seat = shared.attach(&peer, EntryKey::from_word(row), Policy::Block).expect("a seat");
        let seat = shared.seats().into_iter().find(|other| other.index == seat).expect("it was given");
        let patience = patient();
        mark();
        send(&mut writer, &[7; SMALL], patience);
        let account = shared.ledgers().present[0];
        mark();
        // What it says that it has counted is shown as it is; what we know ourselves is not for it to say.
        assert!(account.in_flight <= writer.head(), "{account:?} of {} messages", writer.head());
        assert!(account.expected <= writer.head(), "{account:?} of {} messages", writer.head());
        let Progress::Passed(passed) = seat.progress(writer.head()) else { continue };
        assert!(passed <= writer.head(), "{passed} of {}", writer.head());
    }
}

/// What a hostile row may write, and a lie for each.
fn lies_of_row(own: &OwnArena, row: EntryKey, head: u64) -> Vec<Lie> {
    let EntryKey { index, generation } = row;
    let at = |field: usize| ROWS_AT + u64::from(index) * size_of::<RowEntry>() as u64 + field as u64;
    let cursor = at(std::mem::offset_of!(RowEntry, cursor));
    let life = std::mem::offset_of!(ArenaHeader, life) as u64 & !7;
    vec![
        Lie::new(own, cursor, |_| u64::MAX),
        Lie::new(own, cursor, |_| head + 7),
        Lie::new(own, cursor, |_| 0),
        Lie::new(own, cursor, |old| old.saturating_sub(5)),
        Lie::new(own, at(std::mem::offset_of!(RowEntry, key)), |_| key(generation, state::CLOSED)),
        Lie::new(own, at(std::mem::offset_of!(RowEntry, key)), |_| key(generation, state::STARTING)),
        Lie::new(own, at(std::mem::offset_of!(RowEntry, key)), |_| key(generation + 1, state::ACTIVE)),
        Lie::new(own, at(std::mem::offset_of!(RowEntry, first)), |_| u64::MAX),
        Lie::new(own, at(std::mem::offset_of!(RowEntry, dropped)), |_| u64::MAX),
        Lie::new(own, at(std::mem::offset_of!(RowEntry, holds)), |_| u64::MAX),
        Lie::new(own, life, |old| old | 0x4000_0000_4000_0000),
    ]
}

#[test]
fn a_row_whose_words_change_under_its_publisher_stops_and_confuses_nobody() {
    let own = arena("hostile");
    let index = own.take_entry(Table::Row).expect("an entry");
    let at = ROWS_AT + u64::from(index) * size_of::<RowEntry>() as u64;
    let entry: Mapped<RowEntry> = own.tables().at(at).expect("inside");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let files = Files::of(&own);
    let child = Child::fork(|| publisher_part(&theirs, &files));
    // So that the end of the child is seen.
    drop(theirs);
    let (peer, ring) = meet(&ours, &child);
    entry.publisher.store(peer.process().0, Ordering::Relaxed);
    entry.ring.store(ring.word(), Ordering::Relaxed);
    entry.holds_at.store(at + std::mem::offset_of!(RowEntry, hold_words) as u64, Ordering::Relaxed);
    entry.holds.store(16, Ordering::Relaxed);
    if hear(&ours) == [0] {
        println!("skipped: ptrace is not permitted here");
        return;
    }
    let mut row = EntryKey { index, generation: 0 };
    let words = lies_of_row(&own, row, 0).len();
    let mut round = |walk: &mut dyn FnMut(EntryKey, u64)| {
        let [head] = hear(&ours);
        row.generation += 1;
        entry.cursor.store(head, Ordering::Release);
        entry.key.store(key(row.generation, state::ACTIVE), Ordering::Release);
        tell(&ours, [row.word()]);
        assert_eq!(child.stopped(), Stop::Mark, "the walk begins");
        walk(row, head);
        child.go();
    };
    let mut trail = Trail::default();
    for _ in 0..2 {
        round(&mut |_, _| trail = Trail::record(&child));
    }
    let mut rng = fastrand::Rng::with_seed(44);
    let mut changes = 0_u64;
    for number in 0..words {
        for step in trail.some(CHANGES) {
            let honest_first = rng.u32(0..4) != 0;
            round(&mut |row, head| {
                change(&child, &trail, step, &lies_of_row(&own, row, head)[number], honest_first);
            });
            changes += 1;
        }
    }
    // It has judged the last round, and goes on.
    hear::<1>(&ours);
    println!("evidence: row words={words} changes={changes} steps={}", trail.steps());
}
