//! Replies that no honest responder sends: whoever is in the domain may publish on a lane.

use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::ring::Patience;
use busway_wire::{Kind, ReplyHead, ReplyState, lane_of};

use super::Request;
use crate::bus::Bus;
use crate::publisher::{Beside, Publisher, Stamp};
use crate::requester::{Requester, Strays};

const PATIENCE: Duration = Duration::from_secs(20);

fn bus(name: &str) -> (Bus, std::path::PathBuf) {
    let random = busway_shm::sys::identity::random_u64().unwrap();
    let directory = std::env::temp_dir().join(format!("busway-replies-{random:016x}"));
    (Bus::builder().directory(&directory).name(name).open().unwrap(), directory)
}

/// Publishes on the lane of a requester whatever it likes.
fn stranger(bus: &Bus, requester: &Requester) -> Publisher {
    bus.publisher_of(lane_of(requester.id())).open_reserved().unwrap()
}

fn reply(correlation: u64) -> Stamp {
    Stamp { kind: Kind::Reply, correlation }
}

fn put(publisher: &mut Publisher, stamp: Stamp, index: u32, state: ReplyState, payload: &[u8]) {
    let head = ReplyHead::new(index, state).to_bytes();
    publisher.send_headed(stamp, head, &Beside::NOTHING, payload, Patience::None).unwrap();
}

/// Asks, and lets the responder say the first of its replies.
fn begin(request: &mut Request) -> u64 {
    request.reply_part(b"first").unwrap();
    request.correlation
}

#[test]
fn a_stream_that_pauses_for_longer_than_a_lane_is_kept_comes_whole() {
    let (bus, directory) = bus("pauses");
    let mut responder = bus.responder("t").open().unwrap();
    let requester = bus.requester("t").open().unwrap();
    let mut pending = requester.send(b"now", PATIENCE).unwrap();
    let mut request = responder.recv().unwrap();
    begin(&mut request);
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"first");
    responder.lanes.age();
    responder.lanes.sweep();
    assert_eq!(responder.lanes(), 0, "closed to others");
    request.reply(b"last").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"last");
    assert!(pending.recv().unwrap().is_none());
    assert_eq!(requester.strays(), Strays::default());
    drop((pending, requester, responder, bus));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_reply_that_answers_nothing_or_is_not_its_responders_is_counted_and_given_to_nobody() {
    let (bus, directory) = bus("strangers");
    let mut responder = bus.responder("t").open().unwrap();
    let requester = bus.requester("t").open().unwrap();
    let mut stranger = stranger(&bus, &requester);
    let mut ended = requester.send(b"before", PATIENCE).unwrap();
    responder.recv().unwrap().reply(b"done").unwrap();
    assert!(ended.recv().unwrap().is_some());
    drop(ended);
    let mut pending = requester.send(b"now", PATIENCE).unwrap();
    let mut request = responder.recv().unwrap();
    let correlation = begin(&mut request);
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"first");
    // Late, unknown, of another than who answers, and of its own: a second time.
    put(&mut stranger, reply(correlation - 1), 1, ReplyState::Last, b"late");
    put(&mut stranger, reply(correlation + 1), 0, ReplyState::Last, b"never asked");
    put(&mut stranger, reply(0), 0, ReplyState::Last, b"nobody");
    put(&mut stranger, reply(correlation), 1, ReplyState::Last, b"not yours");
    put(&mut stranger, Stamp { kind: Kind::Publish, correlation }, 1, ReplyState::Last, b"no reply");
    request.index = 0;
    request.reply_part(b"again").unwrap();
    request.reply(b"second").unwrap();
    let last = pending.recv().unwrap().unwrap();
    assert_eq!((&last[..], last.index()), (&b"second"[..], 1));
    let deadline = Deadline::after(PATIENCE);
    while requester.strays().foreign < 4 {
        assert!(!deadline.expired(), "{:?}", requester.strays());
        assert!(pending.try_recv().unwrap().is_none());
        // What has ended receives no more: another does.
        drop(requester.send(b"look", PATIENCE).unwrap().try_recv().unwrap());
    }
    assert_eq!(requester.strays(), Strays { late: 1, duplicate: 1, foreign: 4, ..Strays::default() });
    drop((pending, bus));
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn a_first_reply_is_believed_only_of_who_has_taken_the_request() {
    let (bus, directory) = bus("first");
    let other = Bus::builder().directory(&directory).name("stranger").open().unwrap();
    let mut responder = bus.responder("t").open().unwrap();
    let requester = bus.requester("t").open().unwrap();
    let mut stranger = stranger(&other, &requester);
    stranger.wait_for_subscribers(1, PATIENCE).unwrap();
    let mut pending = requester.send(b"who?", PATIENCE).unwrap();
    let correlation = pending.correlation();
    let mut expected = 0;
    let mut try_all = |pending: &mut crate::requester::Pending| {
        for (index, state) in [(0, ReplyState::Part), (7, ReplyState::Last), (0, ReplyState::Unanswered)] {
            put(&mut stranger, reply(correlation), index, state, b"me");
            expected += 1;
        }
        let deadline = Deadline::after(PATIENCE);
        while requester.strays().foreign < expected {
            assert!(!deadline.expired(), "{:?}", requester.strays());
            assert!(pending.try_recv().unwrap().is_none());
        }
    };
    // Nobody has it, then somebody has.
    try_all(&mut pending);
    let request = responder.recv().unwrap();
    try_all(&mut pending);
    request.reply(b"I").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"I");
    assert_eq!(requester.strays(), Strays { foreign: 6, ..Strays::default() });
    drop((pending, bus, other));
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
fn whatever_bytes_lie_in_a_lane_a_request_gets_its_own_reply() {
    let seed = busway_shm::sys::identity::random_u64().unwrap();
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (bus, directory) = bus("noise");
    let mut responder = bus.responder("t").open().unwrap();
    let requester = bus.requester("t").open().unwrap();
    let mut stranger = stranger(&bus, &requester);
    let kinds = Kind::ALL;
    for round in 0..200_u32 {
        let mut pending = requester.send(&round.to_le_bytes(), PATIENCE).unwrap();
        let mut request = responder.recv().unwrap();
        let correlation = begin(&mut request);
        assert_eq!(&pending.recv().unwrap().unwrap()[..], b"first");
        for _ in 0..50 {
            let near = correlation.wrapping_add(random.u64(0..4)).wrapping_sub(2);
            let stamp = Stamp {
                kind: kinds[random.usize(0..kinds.len())],
                correlation: if random.bool() { near } else { random.u64(..) },
            };
            let mut head = [0; 8];
            random.fill(&mut head[..random.clone().usize(0..9)]);
            let payload = vec![0xa5; random.usize(0..200)];
            stranger.send_headed(stamp, head, &Beside::NOTHING, &payload, Patience::None).unwrap();
            // No head at all.
            stranger.try_send(&payload[..random.usize(0..8).min(payload.len())]).unwrap();
        }
        // Takes the noise in.
        assert!(pending.try_recv().unwrap().is_none());
        request.reply(&round.to_le_bytes()).unwrap();
        assert_eq!(&pending.recv().unwrap().unwrap()[..], round.to_le_bytes());
        assert!(pending.recv().unwrap().is_none());
    }
    let strays = requester.strays();
    assert!(strays.foreign + strays.late + strays.duplicate > 5_000, "{strays:?}");
    println!("evidence: strays={strays:?}");
    drop(bus);
    let _ = std::fs::remove_dir_all(directory);
}
