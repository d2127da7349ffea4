//! A reader of many rings against heads and marks that are written here as publishers write them.

use super::{GROUP, Group, Look, Ready, Stamp, Turn};
use crate::sync::{AtomicU64, Ordering};
use busway_wire::{Generation, ProcessId, RingIndex};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The rings of one process: the heads of each group, and its mark.
struct World {
    heads: Vec<Arc<[AtomicU64]>>,
    marks: Arc<[AtomicU64]>,
    rings: u32,
}

type Rings = Ready<Arc<[AtomicU64]>>;

impl World {
    fn new(rings: u32) -> Self {
        let groups = || 0..rings.div_ceil(GROUP);
        let heads = groups().map(|_| (0..GROUP).map(|_| AtomicU64::new(0)).collect()).collect();
        Self { heads, marks: groups().map(|_| AtomicU64::new(0)).collect(), rings }
    }

    fn publish(&self, ring: u32) {
        let head = &self.heads[(ring / GROUP) as usize][(ring % GROUP) as usize];
        let sequence = head.load(Ordering::Relaxed) + 1;
        head.store(sequence, Ordering::Release); // pairs with Acquire in `Ready::look`
        if Group::of(ProcessId(1), RingIndex(ring)).is_marked() {
            Stamp::of(RingIndex(ring), Generation(1)).put(&self.marks[(ring / GROUP) as usize], sequence);
        }
    }

    fn reader(&self) -> Rings {
        let mut ready = Rings::default();
        for ring in 0..self.rings {
            self.add(&mut ready, ring, 0);
        }
        drain(&mut ready);
        ready
    }

    fn add(&self, ready: &mut Rings, ring: u32, read: u64) {
        ready.add(ProcessId(1), RingIndex(ring), read, |group| {
            let at = group.number as usize;
            (Some(self.marks.clone()), Some(self.heads[at].clone()))
        });
    }
}

/// All that is given out until nothing is found.
fn turns(ready: &mut Rings) -> Vec<Turn> {
    ready.look(Look::Marked);
    std::iter::from_fn(|| ready.pop()).collect()
}

/// The places of all that is given out.
fn drain(ready: &mut Rings) -> Vec<usize> {
    turns(ready).into_iter().map(|turn| turn.place).collect()
}

#[test]
fn of_ten_thousand_rings_those_are_given_out_that_have_something() {
    let world = World::new(10_000);
    let mut ready = world.reader();
    assert_eq!(drain(&mut ready), [], "all were read");
    let published: BTreeSet<usize> = [0, 63, 64, 127, 5_000, 9_999].into();
    for ring in &published {
        world.publish(u32::try_from(*ring).unwrap());
    }
    let found = turns(&mut ready);
    assert_eq!(found.iter().map(|turn| turn.place).collect::<BTreeSet<_>>(), published);
    for turn in found {
        assert!(!ready.read(turn, 1), "that was all");
    }
    assert_eq!(drain(&mut ready), []);
    world.publish(5_000);
    world.publish(5_000);
    let found = turns(&mut ready);
    assert_eq!(found.iter().map(|turn| turn.place).collect::<Vec<_>>(), [5_000]);
    assert!(ready.read(found[0], 2), "there is another one");
    assert_eq!(turns(&mut ready), found);
    ready.rest(found[0], 3);
    assert_eq!(drain(&mut ready), []);
}

#[test]
fn a_ring_that_is_used_anew_is_not_taken_for_the_one_before() {
    let world = World::new(2 * GROUP);
    let mut ready = world.reader();
    world.publish(70);
    assert_eq!(drain(&mut ready), [70]);
    ready.remove(70);
    // Its first message has the sequence that the mark had last.
    let head = &world.heads[1][6];
    head.store(0, Ordering::Release); // pairs with Acquire in `Ready::look`
    world.add(&mut ready, 70, 0);
    assert_eq!(drain(&mut ready), [127], "a new one is looked at once, at the last place");
    head.store(1, Ordering::Release); // pairs with Acquire in `Ready::look`
    Stamp::of(RingIndex(70), Generation(2)).put(&world.marks[1], 1);
    assert_eq!(drain(&mut ready), [127]);
}

#[test]
fn who_is_taken_out_hides_nothing_of_who_has_its_place() {
    for queued in [false, true] {
        for (gone, kept) in [(3, 199), (199, 3), (100, 199), (5, 6)] {
            let world = World::new(200);
            let mut ready = world.reader();
            world.publish(kept);
            if queued {
                world.publish(gone);
            }
            ready.look(Look::Marked);
            ready.remove(gone as usize);
            let mut found = Vec::new();
            while let Some(turn) = ready.pop() {
                found.push(turn.place);
            }
            let place = if kept == 199 { gone } else { kept };
            assert_eq!(found, [place as usize], "{gone} is gone, queued: {queued}");
            assert_eq!(ready.len(), 199);
        }
    }
}

#[test]
fn while_one_ring_has_more_and_more_the_others_are_found() {
    let world = World::new(1_000);
    let mut ready = world.reader();
    let mut busy = 0;
    world.publish(500);
    for round in 0..1_000 {
        let Some(turn) = ready.pop() else {
            ready.look(Look::Marked);
            continue;
        };
        if turn.place == 700 {
            return assert!(busy <= 2 * GROUP, "{busy} messages came first");
        }
        busy += 1;
        world.publish(500);
        ready.read(turn, u64::from(busy));
        if round == 10 {
            world.publish(700);
        }
    }
    panic!("700 was never given out");
}

#[test]
fn a_ring_that_has_ended_and_one_that_uses_its_memory_anew_are_both_given_out() {
    let world = World::new(2 * GROUP);
    let mut ready = world.reader();
    // Of the one that has ended something is still to be read.
    world.publish(70);
    world.add(&mut ready, 70, 0);
    let sorted = |ready: &mut Rings| drain(ready).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(sorted(&mut ready), [70, 128].into());
    world.publish(70);
    assert_eq!(sorted(&mut ready), [70, 128].into(), "neither was read");
    ready.remove(70);
    assert_eq!(ready.len(), 128);
    world.publish(127);
    assert_eq!(sorted(&mut ready), [70, 127].into(), "the last one has the place of the one that is gone");
}
