//! Nobody keeps room from others, and who comes is not disturbed.

use alloc::vec::Vec;

use busway_wire::gossip::{Epoch, NodeIndex, Reference, SlotNumber};

use super::{Arriving, Room};
use crate::time::Time;

const MIB: u64 = 1 << 20;

fn of(node: u8, slot: u32) -> Reference {
    Reference { node: NodeIndex(node), epoch: Epoch(1), slot: SlotNumber(slot), version: 1 }
}

fn at(ms: u64) -> Time {
    Time(0).after_ms(ms)
}

/// What comes of `node`: so many bytes of 100 MiB are here, the last since then.
fn comes(node: u8, have: u64, moved_ms: u64) -> Arriving {
    Arriving { of: of(node, 0), teller: NodeIndex(node), size: 100 * MIB, have, moved: at(moved_ms) }
}

/// When, looked at each tenth of a second while another waits, this makes way.
fn makes_way_at(room: &mut Room, from_ms: u64, comes: impl Fn(u64) -> Arriving) -> Option<u64> {
    room.found_none(at(from_ms), of(9, 0), NodeIndex(9));
    let way = |ms: &u64| !room.makes_way(at(*ms), [comes(*ms)].into_iter()).is_empty();
    (from_ms..from_ms + 400_000).step_by(50).find(way).map(|ms| ms - from_ms)
}

#[test]
fn what_does_not_come_makes_way_for_others_soon_and_what_comes_does_not() {
    let nothing = makes_way_at(&mut Room::default(), 0, |_| comes(1, 0, 0));
    let stopped = makes_way_at(&mut Room::default(), 0, |_| comes(1, MIB, 0));
    let trickles = makes_way_at(&mut Room::default(), 0, |ms| comes(1, 1 + ms / 100, ms));
    let well = makes_way_at(&mut Room::default(), 0, |ms| comes(1, (ms * 2_000).min(100 * MIB), ms));
    assert_eq!((nothing, stopped, trickles, well), (Some(250), Some(3_000), Some(60_000), None));
    // Where nobody else waits it has all the time.
    let mut room = Room::default();
    assert!(room.makes_way(at(900_000), [comes(1, 0, 0)].into_iter()).is_empty());
    // What waits behind what comes of its teller is not late.
    room.found_none(at(0), of(9, 0), NodeIndex(9));
    let second = Arriving { of: of(1, 1), ..comes(1, 0, 0) };
    for ms in (0..50_000).step_by(100) {
        assert!(room.makes_way(at(ms), [comes(1, MIB, ms), second].into_iter()).is_empty());
    }
}

#[test]
fn whose_adverts_come_to_nothing_is_behind_all_others_and_tried_ever_more_rarely() {
    let mut room = Room::default();
    let mut tried = Vec::new();
    // What it tells of finds room each time, and nothing comes of it; another waits all the time.
    room.found_none(at(0), of(9, 0), NodeIndex(9));
    room.found_none(at(0), of(1, 0), NodeIndex(1));
    let mut has_room = false;
    for ms in (0..300_000).step_by(100) {
        let arriving = has_room.then(|| comes(1, 0, 0));
        has_room &= room.makes_way(at(ms), arriving.into_iter()).is_empty();
        while let Some(next) = room.next(at(ms)) {
            if next.node == NodeIndex(1) {
                tried.push(ms);
                has_room = true;
            } else {
                room.found_none(at(ms), next, NodeIndex(9));
            }
        }
    }
    assert!(tried.len() < 10, "{tried:?}");
    let pauses: Vec<u64> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.windows(2).all(|pair| pair[0] < pair[1]), "{pauses:?}");
    // When all of something has come it is thought better of.
    let before = room.queues[&NodeIndex(1)].faults;
    room.came(of(1, 0), NodeIndex(1));
    assert!(room.queues[&NodeIndex(1)].faults < before);
}

#[test]
fn however_much_one_tells_of_the_first_of_each_is_tried_and_no_more_until_it_finds_room() {
    let mut room = Room::default();
    for slot in 0..10_000 {
        room.found_none(at(0), of(1, slot), NodeIndex(1));
    }
    room.found_none(at(0), of(2, 0), NodeIndex(2));
    assert!(room.is_closed(NodeIndex(1)) && !room.is_closed(NodeIndex(3)));
    for round in 0..3 {
        room.open();
        let mut tried = Vec::new();
        while let Some(next) = room.next(at(round)) {
            tried.push(next);
            room.found_none(at(round), next, next.node);
        }
        assert_eq!(tried, [of(1, 0), of(2, 0)]);
    }
    // The first finds room, and the next is tried at once.
    room.open();
    assert_eq!((room.next(at(9)), room.next(at(9))), (Some(of(1, 0)), Some(of(1, 1))));
    room.found_none(at(9), of(1, 1), NodeIndex(1));
    assert_eq!(room.next(at(9)), Some(of(2, 0)));
    assert_eq!(
        (room.next(at(9)), room.next(at(5_000))),
        (None, Some(of(1, 1))),
        "it is looked at again in any case"
    );
    for slot in 0..10_000 {
        room.gone(of(1, slot));
    }
    assert!(room.is_empty() && room.deadline().is_none());
}
