//! What a network promises without faults, and what each fault does.

use super::*;

const SHAPE: Shape = Shape {
    latency_ns: 1_000,
    jitter_ns: 500,
    bytes_per_second: 1_000_000_000,
    room: 1_000,
    segment_max: 40,
};

struct Pair {
    network: Network,
    now: Time,
    told: Vec<(usize, End, Notice)>,
}

impl Pair {
    fn new() -> Pair {
        let mut network = Network::new(7, SHAPE);
        network.listen(1);
        Pair { network, now: Time(0), told: Vec::new() }
    }

    fn run(&mut self) {
        while let Some(at) = self.network.next() {
            self.now = at.max(self.now);
            while let Some(told) = self.network.due(self.now) {
                self.told.push(told);
            }
        }
    }

    fn connect(&mut self) -> (End, End) {
        let dialer = self.network.dial(self.now, 0, 1);
        self.run();
        (dialer, End { side: Side::Acceptor, ..dialer })
    }

    fn read_all(&mut self, end: End) -> (Vec<u8>, Read) {
        let mut all = Vec::new();
        loop {
            match self.network.read(self.now, end, 13) {
                Read::Bytes(bytes) => all.extend(bytes),
                last @ (Read::Nothing | Read::End) => return (all, last),
            }
        }
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 % 251) as u8).collect()
}

#[test]
fn what_is_written_is_read_in_order_and_no_more_is_taken_than_there_is_room() {
    let mut pair = Pair::new();
    let (a, b) = pair.connect();
    let sent = bytes(5_000);
    let (mut at, mut read) = (0, Vec::new());
    while at < sent.len() {
        let taken = pair.network.write(pair.now, a, &sent[at..]);
        assert!(taken <= SHAPE.room, "{taken}");
        at += taken;
        pair.run();
        read.extend(pair.read_all(b).0);
        pair.run();
    }
    assert!(read == sent, "the bytes differ");
    assert!(
        pair.told.contains(&(0, a, Notice::Writable)),
        "who was told that there is no room is told again"
    );
    pair.network.close(pair.now, a);
    pair.run();
    assert_eq!(pair.read_all(b).1, Read::End);
}

#[test]
fn nothing_passes_a_partition_and_all_of_it_comes_afterwards() {
    let mut pair = Pair::new();
    let (a, b) = pair.connect();
    pair.network.block(0, 1);
    assert_eq!(pair.network.write(pair.now, a, b"held"), 4);
    assert_eq!(pair.network.write(pair.now, b, b"free"), 4);
    pair.run();
    assert_eq!(pair.read_all(b), (Vec::new(), Read::Nothing));
    assert_eq!(pair.read_all(a).0, b"free", "the other direction is open");
    pair.network.unblock(pair.now, 0, 1);
    pair.run();
    assert_eq!(pair.read_all(b).0, b"held");
}

#[test]
fn a_connect_into_a_partition_is_answered_by_nobody() {
    let mut pair = Pair::new();
    pair.network.block(0, 1);
    pair.connect();
    assert!(pair.told.is_empty(), "{:?}", pair.told);
    let mut pair = Pair::new();
    pair.network.dial(Time(0), 1, 0);
    pair.run();
    assert_eq!(pair.told.iter().map(|told| told.2).collect::<Vec<_>>(), [Notice::Refused], "nobody listens");
}

#[test]
fn a_cut_direction_ends_after_its_bytes() {
    let mut pair = Pair::new();
    let (a, b) = pair.connect();
    pair.network.truncate(a, 3);
    pair.network.write(pair.now, a, b"abcdef");
    pair.network.write(pair.now, a, b"ghi");
    pair.run();
    assert_eq!(pair.read_all(b), (b"abc".to_vec(), Read::End));
}

#[test]
fn a_corrupted_direction_differs_in_one_bit() {
    let mut pair = Pair::new();
    let (a, b) = pair.connect();
    let sent = bytes(400);
    pair.network.write(pair.now, a, &sent);
    pair.network.corrupt(a);
    pair.run();
    let read = pair.read_all(b).0;
    let wrong: u32 = sent.iter().zip(&read).map(|(s, r)| (s ^ r).count_ones()).sum();
    assert_eq!((read.len(), wrong), (400, 1));
}

#[test]
fn who_writes_to_somebody_who_is_gone_is_told() {
    let mut pair = Pair::new();
    let (a, b) = pair.connect();
    pair.network.close(pair.now, b);
    pair.run();
    assert_eq!(pair.read_all(a).1, Read::End);
    pair.network.write(pair.now, a, b"late");
    pair.run();
    assert_eq!(pair.told.last(), Some(&(0, a, Notice::Reset)));
}

#[test]
fn who_vanishes_behind_a_partition_is_known_to_be_gone_after_it() {
    let mut pair = Pair::new();
    let (a, _) = pair.connect();
    pair.network.block(1, 0);
    pair.network.vanish(pair.now, 1);
    pair.run();
    assert!(!pair.told.iter().any(|told| told.2 == Notice::Reset));
    pair.network.unblock(pair.now, 1, 0);
    pair.run();
    assert_eq!(pair.told.last(), Some(&(0, a, Notice::Reset)));
}

#[test]
fn a_swallowed_connection_tells_nobody_anything() {
    let mut pair = Pair::new();
    let (a, b) = pair.connect();
    pair.told.clear();
    pair.network.swallow(a.connection);
    pair.network.write(pair.now, a, &bytes(2_000));
    pair.run();
    pair.network.close(pair.now, b);
    pair.run();
    assert!(pair.told.is_empty(), "{:?}", pair.told);
}

#[test]
fn nothing_of_a_connection_that_was_reset_comes_even_behind_a_partition() {
    let mut pair = Pair::new();
    let (a, b) = pair.connect();
    pair.network.block(0, 1);
    pair.network.block(1, 0);
    pair.network.write(pair.now, a, b"before");
    pair.network.reset(pair.now, a.connection);
    pair.network.write(pair.now, a, b"behind");
    pair.run();
    pair.network.unblock(pair.now, 0, 1);
    pair.network.unblock(pair.now, 1, 0);
    pair.run();
    assert_eq!(pair.read_all(b).0, b"");
    let resets = pair.told.iter().filter(|told| told.2 == Notice::Reset).count();
    assert_eq!(resets, 2, "both are told");
}
