//! What leaves a link next: small before large, large in fragments, and nobody never.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::sync::Arc;

use busway_protocol::{Batch, Config, Input, Link, Output, PeerId, Session, Time};
use busway_wire::limits::{
    LINK_ALONG_BYTES, LINK_BATCH_BYTES, LINK_FRAGMENT_BYTES, LINK_PART_BYTES, LINK_PART_BYTES_MAX,
    LINK_QUEUE_BYTES_MIN, LINK_SHARE_BYTES, LINK_SHARED_MS,
};
use busway_wire::link::{Accept, Announce, Credit, Frame, Hello, encode};
use busway_wire::{Extensions, HEADER_SIZE, Header, Kind, Part, PortId, Seed, Topic};

const CLUSTER: u64 = 0xc1;
const SEED: Seed = Seed(CLUSTER);
const SMALL: PortId = PortId(1);
const LARGE: PortId = PortId(2);
const OTHER: PortId = PortId(3);
const MIB: usize = 1 << 20;

/// What left: a frame of the link, or so many bytes of a source's message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Left {
    Frame(Kind),
    Bytes { source: PortId, sequence: u64, offset: u64, size: usize },
}

impl Left {
    fn source(&self) -> Option<PortId> {
        match self {
            Left::Frame(_) => None,
            Left::Bytes { source, .. } => Some(*source),
        }
    }

    fn size(&self) -> usize {
        match self {
            Left::Frame(_) => 0,
            Left::Bytes { size, .. } => *size,
        }
    }
}

/// A host whose peer is played by hand.
struct Host {
    session: Session<Arc<[u8]>>,
    now: Time,
    granted: Hello,
    next: [u64; 4],
}

impl Host {
    /// With sources that the peer has accepted, and so much credit.
    fn new(credit_bytes: u64) -> Host {
        let config = Config::new(CLUSTER, PeerId::Node { index: 0 }, 1);
        let peer = PeerId::Node { index: 1 };
        let mut granted = Config::new(CLUSTER, peer, 1).hello;
        granted.credit_bytes = credit_bytes;
        let session = Session::new(config.clone(), peer);
        let mut host = Host { session, now: Time(0).after_ms(1), granted: granted.clone(), next: [0; 4] };
        host.session.connected(host.now, Link::dial(&config, peer, host.now), &mut Vec::new());
        host.say(&Frame::Hello(granted));
        for source in [SMALL, LARGE, OTHER] {
            let announce = Announce {
                source,
                topic: Topic::new("a.b").unwrap(),
                publisher: String::new(),
                process: String::new(),
                host: String::new(),
                created_ns: 0,
                reliable: false,
                resumes: false,
            };
            host.session.handle(host.now, Input::Source { announce, next: 1 }, &mut Vec::new());
        }
        host.transmit();
        for source in [SMALL, LARGE, OTHER] {
            host.accept(source, None);
        }
        host
    }

    fn say(&mut self, said: &Frame) {
        let (mut bytes, mut outputs) = (Vec::new(), Vec::new());
        encode(said, SEED, &mut bytes).unwrap();
        self.session.receive(self.now, &bytes, &mut outputs);
        assert!(!outputs.iter().any(|output| matches!(output, Output::Close { .. })), "{outputs:?}");
    }

    /// The peer has taken all of a source up to a sequence.
    fn accept(&mut self, source: PortId, passed: Option<u64>) {
        let (window_messages, window_bytes) = (60_000, 1 << 30);
        self.say(&Frame::Accept(Accept { source, passed, window_messages, window_bytes }));
    }

    /// The peer has consumed so much.
    fn consumed(&mut self, messages: u64, bytes: u64) {
        let (messages_all, bytes_all) = (self.granted.credit_messages, self.granted.credit_bytes);
        let credit =
            Credit { messages: messages_all + messages, bytes: bytes_all + bytes, received: messages };
        self.say(&Frame::Credit(credit));
    }

    fn publish(&mut self, source: PortId, size: usize) {
        let next = &mut self.next[source.0 as usize];
        *next += 1;
        let mut header = Header::new(Kind::Publish);
        header.topic.set(Topic::new("a.b").unwrap().id().0);
        header.source.set(source.0);
        header.sequence.set(*next);
        header.size.set((HEADER_SIZE + size) as u32);
        let payload: Arc<[u8]> = vec![7; size].into();
        self.session.handle(self.now, Input::Publish { source, header, payload }, &mut Vec::new());
    }

    /// One batch, as its parts leave.
    fn transmit(&mut self) -> Vec<Left> {
        let mut batch = Batch::new();
        self.session.transmit(self.now, &mut batch);
        let bytes: Vec<u8> = batch.pieces().flatten().copied().collect();
        let (mut left, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let head = |seed| Header::validate_head(&bytes[at..], seed);
            let header = head(SEED).or_else(|_| head(Seed(0))).unwrap();
            let size = header.size.get() as usize;
            let extensions = &bytes[at + HEADER_SIZE..at + HEADER_SIZE + header.extension_bytes()];
            let kind = header.kind().unwrap();
            left.push(match kind {
                Kind::Publish => Left::Bytes {
                    source: header.source(),
                    sequence: header.sequence.get(),
                    offset: Part::of(Extensions::new(extensions)).unwrap().map_or(0, |part| part.offset),
                    size: size - HEADER_SIZE - extensions.len(),
                },
                _ => Left::Frame(kind),
            });
            at += size;
        }
        left
    }

    /// Batches until nothing more goes.
    fn drain(&mut self) -> Vec<Left> {
        let mut all = Vec::new();
        loop {
            let more = self.transmit();
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }
}

fn bytes_of(left: &[Left], source: PortId) -> usize {
    left.iter().filter(|left| left.source() == Some(source)).map(Left::size).sum()
}

#[test]
fn a_small_message_goes_before_what_is_left_of_two_large_ones() {
    let mut host = Host::new(64 << 20);
    host.publish(LARGE, MIB);
    host.publish(OTHER, MIB);
    let first = host.transmit();
    assert!(bytes_of(&first, LARGE) > 0 && bytes_of(&first, OTHER) > 0, "they take turns: {first:?}");
    assert!(first.iter().map(Left::size).sum::<usize>() <= LINK_BATCH_BYTES + LINK_PART_BYTES);
    host.publish(SMALL, 256);
    let second = host.transmit();
    assert_eq!(second[0], Left::Bytes { source: SMALL, sequence: 1, offset: 0, size: 256 });
    let rest = host.drain();
    for source in [LARGE, OTHER] {
        assert_eq!(bytes_of(&first, source) + bytes_of(&second, source) + bytes_of(&rest, source), MIB);
    }
}

#[test]
fn large_messages_that_wait_keep_out_no_source_of_small_ones() {
    let mut host = Host::new(64 << 20);
    host.publish(SMALL, 10);
    host.transmit();
    host.session.set_bulk_room(Some(0));
    while host.session.may_send(LARGE) {
        host.publish(LARGE, MIB);
    }
    assert!(host.next[LARGE.0 as usize] < 4, "of large ones no more are asked for than wait");
    assert!(host.session.may_send(SMALL), "of small ones more are");
    let mut small = 0;
    while host.session.may_send(SMALL) {
        host.publish(SMALL, 256);
        small += 1;
    }
    assert!((500..2_000).contains(&small), "as many as wait: {small}");
}

#[test]
fn a_link_that_is_full_says_so_of_all_sources_at_once() {
    let mut host = Host::new(64 << 20);
    host.publish(SMALL, 10);
    host.transmit();
    host.session.set_bulk_room(Some(0));
    for (source, size) in [(LARGE, MIB), (SMALL, 256)] {
        while host.session.may_send(source) {
            assert!(host.session.may_any_send(), "what one may is not denied to all");
            host.publish(source, size);
        }
    }
    assert!(!host.session.may_any_send() && host.session.next_source().is_none(), "neither sort has room");
    host.transmit();
    assert!(host.session.may_any_send() && host.session.may_send(SMALL), "small ones have gone");
}

#[test]
fn no_more_waits_for_a_link_and_goes_at_once_than_it_is_told_from_outside() {
    for size in [1_000, MIB / 64] {
        let mut host = Host::new(64 << 20);
        host.session.set_queue_bytes(LINK_QUEUE_BYTES_MIN);
        while host.session.may_send(SMALL) {
            host.publish(SMALL, size);
        }
        let waiting = host.next[SMALL.0 as usize] as usize * size;
        let most = LINK_QUEUE_BYTES_MIN as usize + size;
        assert!((most - 2 * size..=most).contains(&waiting), "{waiting} bytes wait");
        assert!(host.session.room(SMALL).bytes <= LINK_QUEUE_BYTES_MIN);
        let went = bytes_of(&host.transmit(), SMALL);
        assert!(went <= most, "{went} bytes go at once");
        host.session.set_queue_bytes(u64::MAX);
        assert!(host.session.may_send(SMALL), "there may be more again");
        assert_eq!(went + bytes_of(&host.drain(), SMALL), waiting);
    }
}

#[test]
fn control_goes_before_every_message() {
    let mut host = Host::new(64 << 20);
    host.publish(LARGE, MIB);
    host.transmit();
    host.publish(SMALL, 100);
    host.say(&Frame::Ping { stamp: 5 });
    let left = host.transmit();
    assert_eq!(left[0], Left::Frame(Kind::Pong));
    assert_eq!(left[1].source(), Some(SMALL));
}

#[test]
fn a_little_that_is_left_of_a_message_goes_with_the_part_before_it() {
    for (size, parts) in [
        // As a chunk of an artifact is: two fragments and a few bytes.
        (2 * LINK_FRAGMENT_BYTES + 5, vec![LINK_FRAGMENT_BYTES, LINK_FRAGMENT_BYTES + 5]),
        (
            2 * LINK_FRAGMENT_BYTES + LINK_ALONG_BYTES,
            vec![LINK_FRAGMENT_BYTES, LINK_FRAGMENT_BYTES + LINK_ALONG_BYTES],
        ),
        (
            2 * LINK_FRAGMENT_BYTES + LINK_ALONG_BYTES + 1,
            vec![LINK_FRAGMENT_BYTES, LINK_FRAGMENT_BYTES, LINK_ALONG_BYTES + 1],
        ),
    ] {
        let mut host = Host::new(64 << 20);
        host.publish(SMALL, 10);
        host.publish(LARGE, size);
        let left = host.drain();
        let sizes: Vec<usize> =
            left.iter().filter(|left| left.source() == Some(LARGE)).map(Left::size).collect();
        assert_eq!(sizes, parts);
    }
    // A part is never larger than a peer takes.
    let mut host = Host::new(64 << 20);
    host.publish(LARGE, LINK_PART_BYTES_MAX + 5);
    let sizes: Vec<usize> = host.drain().iter().map(Left::size).collect();
    assert_eq!(sizes, [LINK_PART_BYTES_MAX, 5]);
    println!("evidence: parts=2 of {} bytes", 2 * LINK_FRAGMENT_BYTES + 5);
}

#[test]
fn fragments_are_small_while_others_share_the_link_and_large_when_they_do_not() {
    let mut host = Host::new(64 << 20);
    let largest = |left: &[Left]| left.iter().map(Left::size).max().unwrap();
    host.publish(LARGE, 4 * MIB);
    assert_eq!(largest(&host.transmit()), LINK_PART_BYTES_MAX, "it is alone");
    host.publish(SMALL, 10);
    let shared = host.transmit();
    assert_eq!(largest(&shared), LINK_FRAGMENT_BYTES, "somebody shares the link");
    host.now = host.now.after_ms(LINK_SHARED_MS - 1);
    assert_eq!(largest(&host.transmit()), LINK_FRAGMENT_BYTES, "and is taken to be still there");
    host.now = host.now.after_ms(2);
    for (room, size) in [(LINK_PART_BYTES, LINK_PART_BYTES), (8 * LINK_PART_BYTES, 2 * LINK_PART_BYTES)] {
        host.session.set_bulk_room(Some(room as u64));
        assert_eq!(largest(&host.transmit()), size, "until it has been silent, of {room} bytes that may go");
    }
    host.session.set_bulk_room(None);
    host.publish(OTHER, MIB);
    assert_eq!(largest(&host.transmit()), LINK_PART_BYTES, "beside other large ones");
}

#[test]
fn bulk_begins_only_while_there_is_room_and_nothing_else_waits_for_that() {
    let mut host = Host::new(64 << 20);
    host.publish(LARGE, MIB);
    host.session.set_bulk_room(Some(20_000));
    let left = host.transmit();
    assert_eq!(left.iter().map(Left::size).collect::<Vec<_>>(), [20_000], "as large as there is room for");
    assert!(host.session.has_bulk(), "the rest waits");
    assert!(!host.session.has_output(), "nothing is said to go out that will not");
    let out = host.session.bulk_out();
    assert!((20_000..21_000).contains(&out), "what has gone of it is told, with frames: {out}");
    host.publish(SMALL, 256);
    assert_eq!(host.transmit(), [Left::Bytes { source: SMALL, sequence: 1, offset: 0, size: 256 }]);
    assert_eq!(host.session.bulk_out(), out, "and nothing else");
    host.session.set_bulk_room(Some(1));
    let left = host.transmit();
    assert_eq!(left.iter().map(Left::size).collect::<Vec<_>>(), [LINK_FRAGMENT_BYTES], "what begins goes");
    host.session.set_bulk_room(None);
    assert_eq!(bytes_of(&host.drain(), LARGE), MIB - 20_000 - LINK_FRAGMENT_BYTES);
    assert!(!host.session.has_bulk());
}

#[test]
fn bulk_that_the_peer_gives_no_credit_is_not_there_to_go() {
    let mut host = Host::new(MIB as u64);
    host.publish(LARGE, MIB / 4 * 3);
    assert!(host.session.has_bulk());
    host.publish(OTHER, MIB / 4 * 3);
    assert_eq!(bytes_of(&host.drain(), LARGE), MIB / 4 * 3);
    assert!(
        !host.session.has_bulk(),
        "it would wait for nothing before an interface, and keep others from it"
    );
}

#[test]
fn bulk_has_its_share_of_a_link_that_small_messages_would_fill() {
    let mut host = Host::new(64 << 20);
    host.publish(LARGE, 2 * MIB);
    let mut all = Vec::new();
    for _ in 0..20 {
        for _ in 0..400 {
            host.publish(SMALL, 1_000);
        }
        all.extend(host.transmit());
    }
    let (small, large) = (bytes_of(&all, SMALL), bytes_of(&all, LARGE));
    assert!(small > 4 * MIB, "{small} bytes of small ones");
    // One fragment of eight, as far as headers and the ends of batches leave it so.
    assert!(large * 10 > small && large * 6 < small, "{large} bytes of bulk beside {small}");
    let mut between = 0;
    for left in &all {
        if left.source() == Some(LARGE) {
            between = 0;
        } else {
            between += left.size();
        }
        assert!(between <= LINK_SHARE_BYTES + LINK_FRAGMENT_BYTES, "bulk waits for {between} bytes");
    }
}

#[test]
fn bulk_that_waits_for_credit_gets_it_though_small_messages_would_use_it_up() {
    let mut host = Host::new(100_000);
    // Something is under way, so that the large one has to wait for all of its own credit.
    host.publish(SMALL, 1_000);
    host.transmit();
    host.publish(LARGE, 99_500);
    let (mut messages, mut bytes, mut passed) = (0, 0, 0);
    for _ in 0..1_000 {
        (messages, bytes) = (messages + 1, bytes + 1_000);
        for _ in 0..10 {
            host.publish(SMALL, 1_000);
        }
        let left = host.transmit();
        if bytes_of(&left, LARGE) > 0 {
            assert!(passed > 0, "small ones passed it while they could");
            return;
        }
        passed += bytes_of(&left, SMALL);
        assert!(passed <= 2 * LINK_SHARE_BYTES, "{passed} bytes have passed it");
        // The peer consumes a message at a time.
        if messages <= host.next[SMALL.0 as usize] && bytes <= 1_000 + passed as u64 {
            host.consumed(messages, bytes);
        } else {
            (messages, bytes) = (messages - 1, bytes - 1_000);
        }
    }
    panic!("it never went");
}

#[test]
fn messages_of_one_source_stay_in_order_however_large_they_are() {
    let mut dice = fastrand::Rng::with_seed(7);
    let mut host = Host::new(64 << 20);
    let mut all = Vec::new();
    for _ in 0..300 {
        for source in [SMALL, LARGE, OTHER] {
            host.publish(source, *dice.choice(&[0, 100, 8_192, 8_193, 70_000]).unwrap());
        }
        host.session.set_bulk_room(*dice.choice(&[None, Some(0), Some(1), Some(30_000)]).unwrap());
        host.now = host.now.after_ms(dice.u64(..30));
        all.extend(host.transmit());
    }
    host.session.set_bulk_room(None);
    all.extend(host.drain());
    for source in [SMALL, LARGE, OTHER] {
        let mut at = (0, 0);
        for left in all.iter().filter(|left| left.source() == Some(source)) {
            let Left::Bytes { sequence, offset, size, .. } = left else { continue };
            if *offset == 0 {
                assert_eq!(*sequence, at.0 + 1, "{source}");
            } else {
                assert_eq!((*sequence, *offset), at, "{source}");
            }
            at = (*sequence, offset + *size as u64);
        }
        assert_eq!(at.0, 300, "{source}");
    }
}
