//! FORMAT.md is true of shared memory (row A16): its tables against the structures, offsets and marks of this crate.
//!
//! The page is read as a stranger would read it, by heading and column; nothing here knows line numbers.
#![cfg(not(loom))]
#![expect(clippy::print_stdout, reason = "evidence lines are read by the test runner")]

use std::mem::offset_of;

use busway_shm::claims::file::{ClaimsHeader, GroupHead, PullerLine};
use busway_shm::claims::{self, Claims, Found, Owner};
use busway_shm::counters::Event;
use busway_shm::domain::{self, DomainHeader};
use busway_shm::layout::{
    ARENA_BYTES_MAX, ARENA_BYTES_MIN, ArenaHeader, COUNTERS_AT, CounterPage, EVENTS, EXTENTS_AT, EXTENTS_MAX,
    ExtentEntry, HEADS_AT, HEAP_AT, LAYOUT_VERSION, MAGIC, MARKS, MARKS_AT, RINGS_AT, RINGS_MAX, ROWS_AT,
    ROWS_MAX, RingEntry, RowEntry, SEATS_AT, SEATS_MAX, SeatEntry, layout_hash, state,
};
use busway_shm::slot::{ChunkRef, INLINE_BYTES, InlineMeta, Look, SLOT_BYTES, Slot};
use busway_shm::sync::{AtomicU64, Ordering};
use busway_shm::{bell, heap, life, ring, seat};

const PAGE: &str = include_str!("../../../FORMAT.md");

/// The rows of the table under a heading whose header row begins with these columns; cells without code marks.
fn rows(heading: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let mut lines =
        PAGE.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with('#'));
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let is_head = |line: &str| {
        line.starts_with('|') && cells(line).iter().zip(columns).all(|(cell, name)| cell == name)
    };
    lines
        .by_ref()
        .find(|line| is_head(line))
        .unwrap_or_else(|| panic!("no table {columns:?} under {heading:?}"));
    let table: Vec<_> = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!table.is_empty(), "the table {columns:?} under {heading:?} is empty");
    table
}

/// Offset, size and name of each field that the page gives a structure.
fn fields(name: &str) -> Vec<(usize, usize, String)> {
    let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{cell:?} in {name} is no number"));
    rows(&format!("### struct {name}"), &["offset", "size", "field", "meaning"])
        .into_iter()
        .map(|row| (number(&row[0]), number(&row[1]), row[2].clone()))
        .collect()
}

fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Compares a structure with its table. Every field is named here, or this does not compile.
macro_rules! check {
    ($of:ident, $end:expr; $($field:ident),+ $(,)?) => {{
        let _exhaustive = |value: &$of| { let $of { $($field: _),+ } = value; };
        let code = vec![$((
            offset_of!($of, $field), size_of_field(|value: &$of| &value.$field), stringify!($field).to_owned()
        )),+];
        assert_eq!(fields(stringify!($of)), code, "FORMAT.md, struct {}", stringify!($of));
        assert_eq!(size_of::<$of>(), $end, "size of {}", stringify!($of));
        code.len()
    }};
}

#[test]
fn every_field_of_an_arena_lies_where_the_page_says() {
    let named = [
        check!(ArenaHeader, 256; magic, layout_hash, version, pid, process, arena_bytes, bulk_bytes, started_ns, uid,
            flags, life, beat_ns, committed_bytes, rings_used, rows_used, seats_used, extents_used,
            name_bytes, spare, name),
        check!(CounterPage, 896; folds, past_sent, past_bytes, past_relayed, past_waits, past_delivered, past_received, spare,
            past_dropped, past_missed, events),
        check!(ExtentEntry, 32; offset, chunk_bytes, count, bulk, spare),
        check!(RingEntry, 832; key, topic, port, created_ns, stages_used, topic_bytes, history, flags, closed_at, rate_milli,
            waiting, waits, refused, evicted, past_delivered, past_rows, sent_bytes, lag_high, seated, past_dropped, stage_at,
            stage_first, name),
        check!(RowEntry, 448; key, publisher, ring, port, policy, holds_at, holds, seat, first, cursor, looked_ns,
            lag_high, held, losing, created_ns, history, delivered, woken, dropped, hold_words, place, group,
            dropped_by_group, looked_at),
        check!(SeatEntry, 64; key, subscriber, row, ring, from, waits, waited_ns, stalls),
        check!(ClaimsHeader, 64; magic, layout, process, spare),
        check!(GroupHead, 64; returned, late, woken, lines, left),
        check!(PullerLine, 64; turn, looking, spare),
        check!(DomainHeader, 128; magic, layout, size, budget, reserved, bytes_reserved, ledger_reserved),
    ];
    println!("evidence: structs={} fields={}", named.len() + 2, named.iter().sum::<usize>() + 5 + 4);
}

#[test]
fn every_field_of_slots_and_bell_lines_lies_where_the_page_says() {
    let slot = fields("Slot");
    assert_eq!(slot.iter().map(|field| field.0).collect::<Vec<_>>(), Slot::OFFSETS);
    assert_eq!(slot.iter().map(|field| field.1).sum::<usize>(), SLOT_BYTES, "no byte of a slot is left out");
    assert_eq!(slot.last().map(|field| field.1), Some(INLINE_BYTES));
    let line = fields("BellLine");
    let starts: Vec<u64> = line.iter().map(|field| field.0 as u64).collect();
    assert_eq!(starts[..4], bell::Line::OFFSETS);
    assert_eq!(line.iter().map(|field| field.1).sum::<usize>(), size_of::<bell::Line>());
    assert!(PAGE.contains("a topic has line 1 + id mod 65 534") && bell::LINES == 65_536);
}

#[test]
fn a_claim_word_has_the_bits_that_the_page_says() {
    let table = rows("### Groups", &["bits", "field", "meaning"]);
    let bits: Vec<&str> = table.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(bits, ["24 to 63", "8 to 23", "6, 7", "0 to 5"]);
    let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let word = |at: usize| words[at].load(Ordering::Relaxed);
    let claims = Claims::new(&words);
    claims.begin(0);
    assert_eq!(word(1), ((1_u64 << 40) - 3) << 24 | 2 << 6, "done, of the message one turn before");
    let claim = claims.claim(1, Owner(7)).expect("it is free");
    assert_eq!(word(1), 1 << 24 | 7 << 8 | 1 << 6);
    assert!(claims.give_back(claim));
    assert_eq!((word(1), claims.look(1)), (1 << 24 | 7 << 8 | 1, Found::Free(1)), "and who gave it back");
    assert!(claims.give_up(1, 10));
    assert_eq!(word(1), 1 << 24 | 3 << 6 | 10);
    let claim = claims.claim(2, Owner(9)).expect("it is free");
    assert!(claims.done(claim));
    assert_eq!(word(2), 2 << 24 | 9 << 8 | 2 << 6);
    assert!(PAGE.contains(&format!("one memfd of {} bytes", claims::file::CLAIMS_BYTES)));
    assert_eq!(claims::file::WORDS_AT, 64 + 256 * 64);
    assert_eq!(claims::file::MAGIC.to_le_bytes(), *b"BUSWAYCL");
}

#[test]
fn what_a_claim_word_means_changes_only_with_the_version_of_the_layout() {
    // Members with one layout hash share claim words. Who gives these another meaning raises LAYOUT_VERSION, and then writes both here.
    const KNOWN: (u32, u64) = (9, 0x6b79_f394_7ef6_d261);
    let words = rows("### Groups", &["bits", "field", "meaning"]).concat().concat();
    let hash = words
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    assert_eq!((LAYOUT_VERSION, hash), KNOWN, "{hash:#x}");
    let header = rows("### struct ArenaHeader", &["offset", "size", "field", "meaning"]);
    let version = header.iter().find(|row| row[2] == "version").expect("it has one");
    assert!(version[3].starts_with(&format!("{LAYOUT_VERSION};")), "{version:?}");
}

#[test]
fn events_have_the_places_that_the_page_says() {
    let page: Vec<(String, String)> = rows("### Events", &["index", "event", "counted"])
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let code: Vec<(String, String)> =
        Event::ALL.iter().map(|event| ((*event as usize).to_string(), event.name().to_owned())).collect();
    assert_eq!(page, code);
    assert!(code.len() <= EVENTS);
}

#[test]
fn regions_limits_and_hashes_are_those_of_the_page() {
    let region = |at: u64, entries: u32, name: &str, bytes: usize| {
        (at.to_string(), entries.to_string(), name.to_owned(), bytes)
    };
    let code = [
        region(0, 1, "ArenaHeader", size_of::<ArenaHeader>()),
        region(COUNTERS_AT, 1, "CounterPage", size_of::<CounterPage>()),
        region(EXTENTS_AT, EXTENTS_MAX, "ExtentEntry", size_of::<ExtentEntry>()),
        region(HEADS_AT, RINGS_MAX, "", 8),
        region(MARKS_AT, MARKS, "", 8),
        region(RINGS_AT, RINGS_MAX, "RingEntry", size_of::<RingEntry>()),
        region(ROWS_AT, ROWS_MAX, "RowEntry", size_of::<RowEntry>()),
        region(SEATS_AT, SEATS_MAX, "SeatEntry", size_of::<SeatEntry>()),
    ];
    let page = rows("### Regions", &["offset", "entries", "region", "entry"]);
    assert_eq!(page.len(), code.len() + 1);
    let mut end = 0;
    for (row, (at, entries, name, bytes)) in page.iter().zip(&code) {
        assert_eq!((&row[0], &row[1]), (at, entries), "{row:?}");
        assert!(row[3].starts_with(name.as_str()), "{row:?}");
        let start: u64 = at.parse().expect("a number");
        assert!(start >= end, "{row:?} overlaps what is before it");
        end = start + entries.parse::<u64>().expect("a number") * *bytes as u64;
    }
    assert_eq!(page[code.len()][0], HEAP_AT.to_string());
    assert!(end <= HEAP_AT);
    let sizes =
        format!("at least {HEAP_AT} + {}\nand at most {ARENA_BYTES_MAX} bytes", ARENA_BYTES_MIN - HEAP_AT);
    assert!(PAGE.contains(&sizes), "{sizes}");
    assert!(PAGE.contains(&format!("a chunk is at most {} bytes", heap::CHUNK_BYTES_MAX)));
    assert!(PAGE.contains(&format!("number of hold words, at most {}", seat::HOLDS_MAX)));
    assert!(PAGE.contains(&format!("at most {} hold words at one ring", seat::PROCESS_HOLDS_MAX)));
    assert!(PAGE.contains("a power of two of at most 2^20") && ring::SLOTS_MAX == 1 << 20);
    assert!(PAGE.contains("4 198 400 bytes") && domain::SIZE == 4_198_400 && domain::LINES_OFFSET == 4096);
    assert!(PAGE.contains("at most 2^62; read once") && domain::BUDGET_MAX == 1 << 62);
    let hashes = rows("## The arena", &["layout", "hash"]);
    assert_eq!(hashes[0], ["arena".to_owned(), format!("{:#018x}", layout_hash())]);
    assert_eq!(hashes[1], ["domain segment".to_owned(), format!("{:#018x}", domain::layout_hash())]);
    assert_eq!(MAGIC.to_le_bytes(), *b"BUSWAYA1");
    assert_eq!(domain::MAGIC.to_le_bytes(), *b"BUSWAYDM");
}

#[test]
fn states_and_values_of_the_life_word_are_those_of_the_page() {
    let states: Vec<(String, String)> = rows("### Keys", &["state", "name"])
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let code = [
        (state::FREE, "free"),
        (state::STARTING, "starting"),
        (state::ACTIVE, "active"),
        (state::CLOSED, "closed"),
        (state::STALLED, "stalled"),
        (state::EVICTED, "evicted"),
    ];
    assert_eq!(states, code.map(|(number, name)| (number.to_string(), name.to_owned())));
    let life: Vec<String> =
        rows("### The life word", &["value", "meaning"]).into_iter().map(|row| row.join(": ")).collect();
    assert_eq!(life.len(), 4);
    assert!(life[0].starts_with(&format!("{:#010x}: ", 0)) && life::of(0) == life::Life::Starting);
    assert!(life[1].starts_with(&format!("{:#010x}: closed", life::CLOSED)));
    assert!(life[2].starts_with(&format!("bit `{:#010x}` set", life::OWNER_DIED)));
    assert!(life[3].contains(&format!("bit `{:#010x}` (`FUTEX_WAITERS`)", life::WAITERS)));
    assert_eq!(life::of(4711 | life::WAITERS), life::Life::Alive);
    assert_eq!(life::of(4711 | life::WAITERS | life::OWNER_DIED), life::Life::Dead);
}

/// The 64-bit word of a slot's field, by the offset of the page.
fn stored(slot: &Slot, field: &str) -> u64 {
    let (at, ..) = *fields("Slot").iter().find(|(_, _, name)| name == field).expect("the page names it");
    assert!(Slot::OFFSETS.contains(&at));
    let pointer = std::ptr::from_ref(slot).cast::<AtomicU64>();
    #[expect(unsafe_code, reason = "the fields are private, and this is the test of where they lie")]
    // SAFETY: `at` is a field of the slot, as the line above says, and all fields are of this type.
    let pointer = unsafe { pointer.byte_add(at) };
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: as above; the slot is borrowed.
    let word = unsafe { &*pointer };
    word.load(Ordering::Relaxed)
}

#[test]
fn words_of_slots_and_holds_have_the_bits_of_the_page() {
    let slot = Slot::empty();
    let sequence = (0xabc << 40) | 0x12_3456_789a;
    let chunk = ChunkRef::new(0xfed, 0xcba).expect("fits");
    slot.publish(sequence, chunk);
    assert_eq!(stored(&slot, "word"), 0x12_3456_789a << 24 | 0xfed << 12 | 0xcba);
    assert_eq!(chunk.hold_word(), 1 << 63 | 0xfed << 12 | 0xcba);
    let marks: Vec<(String, String)> = rows("### struct Slot", &["mark", "name"])
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let code = [(ChunkRef::INLINE, "inline"), (ChunkRef::GONE, "gone"), (ChunkRef::BUSY, "busy")];
    let number = |mark: ChunkRef| format!("{:#08x}", mark.extent() << 12 | mark.index());
    assert_eq!(marks, code.map(|(mark, name)| (number(mark), name.to_owned())));
    slot.publish(1, ChunkRef::GONE);
    assert_eq!(stored(&slot, "word"), 1 << 24 | 0xff_f002);
    assert!(matches!(slot.look(1), Look::Gone));
    let meta = InlineMeta { time_ns: 7, correlation: 9, size: 5, kind: 1, flags: 0x20 };
    slot.publish_inline(sequence, &meta, b"hello");
    assert_eq!(stored(&slot, "word"), 0x12_3456_789a << 24 | 0xff_f001);
    assert_eq!((stored(&slot, "time"), stored(&slot, "correlation")), (7, 9));
    assert_eq!(stored(&slot, "shape"), 0xabc << 48 | 0x20 << 40 | 1 << 32 | 5);
    assert_eq!(stored(&slot, "payload").to_le_bytes(), *b"hello\0\0\0");
}
