//! Marks: what two publishers of one group tell a reader that then sleeps.
//!
//! The marks and the reader are those that ship; the bell is one word that the reader raises before it sleeps, and that each
//! publisher looks at after its message.

use std::ops::Deref;

use busway_shm::marks::{Look, Ready, Stamp};
use busway_shm::sync::{AtomicU32, AtomicU64, Ordering, fence};
use busway_wire::{Generation, ProcessId, RingIndex};
use loom::sync::Arc;
use loom::thread;

use super::{failure_is_found, holds};

/// What is done otherwise, if anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seeded {
    Nothing,
    /// The mark is written before the head.
    MarkFirst,
    /// All publishers of a group write the same.
    SameStamp,
    /// The reader notes the mark after it has looked at the heads.
    NotedLate,
}

/// Some of the words, from this one on.
struct Words(Arc<World>, usize);

/// Where the heads begin, and where the marks do: the second of them is that of our group.
const HEADS: usize = 0;
const MARKS: usize = 1;

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0.words[self.1..self.1 + 2]
    }
}

/// Two heads and their mark.
struct World {
    words: [AtomicU64; 3],
    asleep: AtomicU32,
    rung: [AtomicU32; 2],
}

impl World {
    fn publish(&self, number: usize, seeded: Seeded) {
        let ring = if seeded == Seeded::SameStamp { 64 } else { 64 + number as u32 };
        let mark = || Stamp::of(RingIndex(ring), Generation(1)).put(&self.words[2], 1);
        if seeded == Seeded::MarkFirst {
            mark();
        }
        self.words[number].store(1, Ordering::Release);
        if seeded != Seeded::MarkFirst {
            mark();
        }
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) == 1 {
            self.rung[number].store(1, Ordering::Relaxed);
        }
    }

    /// Looks at what is named, and marks what is there as found.
    fn look(&self, ready: &mut Ready<Words>, seeded: Seeded, found: &mut [bool; 2]) {
        match seeded {
            Seeded::NotedLate => ready.look_and_note_late(),
            _ => ready.look(Look::Marked),
        }
        while let Some(turn) = ready.pop() {
            let read = self.words[turn.place].load(Ordering::Acquire);
            found[turn.place] |= read == 1;
            ready.rest(turn, read);
        }
    }
}

fn two_publishers(seeded: Seeded) {
    let words = [(); 3].map(|()| AtomicU64::new(0));
    let rung = [(); 2].map(|()| AtomicU32::new(0));
    let world = Arc::new(World { words, asleep: AtomicU32::new(0), rung });
    let mut ready = Ready::default();
    for ring in 64..66 {
        let words = || (Some(Words(Arc::clone(&world), MARKS)), Some(Words(Arc::clone(&world), HEADS)));
        ready.add(ProcessId(1), RingIndex(ring), 0, |_| words());
    }
    // New ones are looked at whatever the mark says: those looks are over.
    let mut found = [false; 2];
    world.look(&mut ready, seeded, &mut found);
    let publishers = [0, 1].map(|number| {
        let world = Arc::clone(&world);
        thread::spawn(move || world.publish(number, seeded))
    });
    world.look(&mut ready, seeded, &mut found);
    world.asleep.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    world.look(&mut ready, seeded, &mut found);
    for publisher in publishers {
        publisher.join().expect("no thread of the model panics");
    }
    if found != [true; 2] {
        assert!(world.rung.iter().any(|rung| rung.load(Ordering::Relaxed) == 1), "nobody wakes the reader");
        // Woken, it finds what there is before it sleeps again.
        fence(Ordering::SeqCst);
        world.look(&mut ready, seeded, &mut found);
        assert_eq!(found, [true; 2], "a mark hides a message");
    }
}

#[test]
fn a_mark_hides_no_message() {
    holds("marks_two_publishers", || two_publishers(Seeded::Nothing));
}

#[test]
fn a_mark_that_is_written_before_the_head_is_found_to_hide_a_message() {
    failure_is_found("mark_before_head", "a mark hides", || two_publishers(Seeded::MarkFirst));
}

#[test]
fn marks_that_are_equal_are_found_to_hide_a_message() {
    failure_is_found("equal_marks", "a mark hides", || two_publishers(Seeded::SameStamp));
}

#[test]
fn a_reader_that_notes_the_mark_late_is_found_to_miss_a_message() {
    failure_is_found("mark_noted_late", "a mark hides", || two_publishers(Seeded::NotedLate));
}
