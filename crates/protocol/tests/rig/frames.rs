//! Frames that a test says by hand.

use busway_wire::link::{
    Accept, Announce, Credit, Deny, Frame, Gap, Hello, Identity, Interest, Refusal, RefusalCode, Retire,
    Wanted, encode,
};
use busway_wire::{Cause, Header, Kind, Part, Pattern, PortId, Seed, Topic};

const SEED: Seed = Seed(0xc1);

pub(crate) fn frame(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    encode(frame, SEED, &mut out).unwrap();
    out
}

/// A message with this header, whose extensions are in front of the payload.
pub(crate) fn message(header: &Header, following: &[u8]) -> Vec<u8> {
    let mut header = *header;
    header.seal_seeded(following, SEED).unwrap();
    [header.bytes(), following].concat()
}

/// A part with so many bytes of payload.
pub(crate) fn part(sequence: u64, offset: u64, total: u64, size: usize) -> Vec<u8> {
    let mut following = Vec::new();
    Part { message: sequence, offset, total }.push(&mut following).unwrap();
    let mut header = Header::new(Kind::Publish);
    header.set_extensions(&following).unwrap();
    header.source.set(9);
    header.sequence.set(sequence);
    following.resize(following.len() + size, 5);
    message(&header, &following)
}

/// One frame of each kind that a link carries, as node 1 would say it to node 0.
pub(crate) fn every_frame() -> Vec<(Kind, Vec<u8>)> {
    let source = PortId(9);
    let hello = Hello {
        cluster: SEED.0,
        identity: Identity::Node { index: 1 },
        instance: 1,
        name: String::new(),
        message_bytes_max: 1 << 20,
        credit_messages: 100,
        credit_bytes: 1 << 20,
        window_messages: 10,
        window_bytes: 1 << 20,
        token: Vec::new(),
        features: 0,
    };
    let wanted = Wanted { id: 1, pattern: Pattern::parse(">").unwrap(), reliable: false };
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
    let config = busway_protocol::Config::new(SEED.0, Identity::Node { index: 1 }, 1).hello;
    let credit = Credit { messages: config.credit_messages, bytes: config.credit_bytes, received: 0 };
    let frames = [
        Frame::Hello(hello.clone()),
        Frame::Refusal(Refusal::new(RefusalCode::Full, "no room", 10)),
        Frame::Interest(Interest { add: vec![wanted], remove: vec![4], complete: true }),
        Frame::Announce(announce),
        Frame::Retire(Retire { source, last: 3 }),
        Frame::Accept(Accept { source, passed: None, window_messages: 1, window_bytes: 1 }),
        Frame::Credit(credit),
        Frame::Gap(Gap { source, from: 1, to: 2, cause: Cause::Lapped, link: String::new() }),
        Frame::Ping { stamp: 1 },
        Frame::Pong { stamp: 0 },
        Frame::Goodbye { reason: "bye".to_owned() },
        Frame::Deny(Deny { source, cause: Cause::Denied }),
    ];
    let mut header = Header::new(Kind::Publish);
    header.source.set(9);
    header.sequence.set(1);
    let mut all: Vec<(Kind, Vec<u8>)> = frames.iter().map(|one| (one.kind(), frame(one))).collect();
    all.push((Kind::Publish, message(&header, b"payload")));
    all
}
