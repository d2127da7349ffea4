//! The framer: the same frames however the bytes are cut, and an error or silence for everything else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use busway_protocol::{Framer, Step, Sum, Want};
use busway_wire::limits::{LINK_DIRECT_BYTES, LINK_FRAME_BYTES_MAX, LINK_PIECE_BYTES_MAX};
use busway_wire::link::{Frame, Refusal, RefusalCode, encode, seed_of};
use busway_wire::{DecodeError, Flags, HEADER_SIZE, Header, Kind, Part, PortId, Seed, VERSION};

const CLUSTER: Seed = Seed(77);

/// What a framer said, with the bytes of a payload put together again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    header: Header,
    part: Option<Part>,
    following: Vec<u8>,
}

fn frame(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    encode(frame, CLUSTER, &mut out).unwrap();
    out
}

fn message(size: usize, part: Option<Part>) -> Vec<u8> {
    let mut following = Vec::new();
    let mut header = Header::new(Kind::Publish);
    if let Some(part) = part {
        part.push(&mut following).unwrap();
    }
    header.set_extensions(&following).unwrap();
    following.extend((0..size).map(|i| (i % 251) as u8));
    header.source.set(9);
    header.sequence.set(5);
    header.seal_seeded(&following, CLUSTER).unwrap();
    [header.bytes(), &following].concat()
}

fn small_stream() -> Vec<u8> {
    let part = Part { message: 5, offset: 10, total: 200 };
    [
        frame(&Frame::Refusal(Refusal::new(RefusalCode::Full, "no room", 5))),
        message(0, None),
        frame(&Frame::Ping { stamp: 4 }),
        message(300, None),
        message(100, Some(part)),
        frame(&Frame::Goodbye { reason: String::new() }),
        message(1, Some(part)),
    ]
    .concat()
}

/// Feeds the bytes as a driver does, so many at a time as `cuts` says; what came of it, and what is left.
fn feed(bytes: &[u8], mut cuts: impl FnMut() -> usize) -> Result<(Vec<Seen>, usize), DecodeError> {
    let mut framer = Framer::new(CLUSTER);
    let (mut seen, mut open): (Vec<Seen>, Option<Seen>) = (Vec::new(), None);
    let (mut at, mut end) = (0, 0);
    loop {
        match framer.next(&bytes[at..end])? {
            Step::Need(need) => {
                assert!(need > 0 && need > end - at && need <= Framer::NEED_MAX);
                if end == bytes.len() {
                    assert_eq!(open.is_some(), framer.want() != Want::Bytes);
                    return Ok((seen, end - at));
                }
                end = (end + cuts().max(1)).min(bytes.len());
            }
            Step::Frame { consumed, header, body } => {
                at += consumed;
                seen.push(Seen { header, part: None, following: body.to_vec() });
            }
            Step::Begin { consumed, header, part, extensions } => {
                at += consumed;
                open = Some(Seen { header, part, following: extensions.to_vec() });
            }
            Step::Body { consumed, bytes } => {
                at += consumed;
                open.as_mut().unwrap().following.extend_from_slice(bytes);
            }
            Step::End { header, sum } => {
                let done = open.take().unwrap();
                assert_eq!(done.header, header);
                if sum == Sum::Fails {
                    return Err(DecodeError::ChecksumPayload);
                }
                seen.push(done);
            }
            Step::Spoiled { .. } => return Err(DecodeError::ChecksumPayload),
        }
    }
}

#[test]
fn frames_are_the_same_at_every_split_and_byte_by_byte() {
    let stream = small_stream();
    let (whole, left) = feed(&stream, || usize::MAX / 2).unwrap();
    assert_eq!((whole.len(), left), (7, 0));
    assert_eq!(whole.iter().map(|seen| seen.following.len()).sum::<usize>(), stream.len() - 7 * HEADER_SIZE);
    for split in 0..=stream.len() {
        let mut cuts = [split, stream.len()].into_iter();
        assert_eq!(feed(&stream, || cuts.next().unwrap_or(1)), Ok((whole.clone(), 0)), "split at {split}");
    }
    assert_eq!(feed(&stream, || 1), Ok((whole, 0)));
}

#[test]
fn large_messages_are_the_same_however_they_are_cut() {
    let large = message(LINK_DIRECT_BYTES + 7, None);
    let stream =
        [message(LINK_DIRECT_BYTES - 1, None), large, message(70_000, None), small_stream()].concat();
    let (whole, _) = feed(&stream, || usize::MAX / 2).unwrap();
    assert_eq!(whole.len(), 10);
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..50 {
        let most = [3, 100, 5_000, 50_000][rng.usize(0..4)];
        assert_eq!(feed(&stream, || rng.usize(1..=most)), Ok((whole.clone(), 0)));
    }
}

#[test]
fn a_stream_cut_at_every_offset_gives_the_frames_before_and_no_error() {
    let stream = small_stream();
    let (whole, _) = feed(&stream, || usize::MAX / 2).unwrap();
    for size in 0..stream.len() {
        let (seen, _) = feed(&stream[..size], || usize::MAX / 2).unwrap();
        assert_eq!(seen, whole[..seen.len()], "cut at {size}");
        assert!(seen.len() < whole.len());
    }
}

#[test]
fn every_single_bit_flip_is_refused() {
    for part in [Some(Part { message: 5, offset: 0, total: 40 }), None] {
        let stream = message(40, part);
        for bit in 0..stream.len() * 8 {
            let mut bad = stream.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(feed(&bad, || usize::MAX / 2).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn behind_a_message_that_is_not_what_was_summed_the_next_frame_begins() {
    let part = Some(Part { message: 5, offset: 10, total: 200 });
    let mut told = 0;
    for (size, part) in [(1, None), (300, None), (300, part), (70_000, None), (70_000, part)] {
        let good = message(size, part);
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        let stream = [bad.as_slice(), &good, &frame(&Frame::Ping { stamp: 4 })].concat();
        for room in [usize::MAX, 1 << 16, 700] {
            let mut framer = Framer::new(CLUSTER);
            let (mut at, mut end, mut fails, mut holds, mut frames) = (0, 0, 0, 0, 0);
            while at < stream.len() || framer.want() != Want::Bytes {
                match framer.next(&stream[at..end]).unwrap() {
                    Step::Need(_) => end = end.saturating_add(room).min(stream.len()),
                    Step::Frame { consumed, header, .. } => {
                        at += consumed;
                        (holds, frames) =
                            (holds + u32::from(header.kind() == Some(Kind::Publish)), frames + 1);
                    }
                    Step::Spoiled { consumed, header } => {
                        at += consumed;
                        assert_eq!((header.source(), header.sequence.get()), (PortId(9), 5));
                        fails += 1;
                    }
                    Step::Begin { consumed, .. } | Step::Body { consumed, .. } => at += consumed,
                    Step::End { sum: Sum::Holds, .. } => holds += 1,
                    Step::End { sum: Sum::Fails, .. } => fails += 1,
                }
                if at == stream.len() && frames > 0 {
                    break;
                }
            }
            assert_eq!((fails, holds, frames > 0), (1, 1, true), "{size} {part:?} {room}");
            told += fails;
        }
    }
    // What a link says itself is not changed by programs.
    let mut bad = frame(&Frame::Ping { stamp: 4 });
    *bad.last_mut().unwrap() ^= 1;
    assert!(matches!(Framer::new(CLUSTER).next(&bad), Err(DecodeError::ChecksumPayload)));
    assert_eq!(told, 15);
}

#[test]
fn a_payload_read_elsewhere_is_summed_and_ends_with_its_header() {
    let stream = message(50_000, None);
    for (first, flip) in [(HEADER_SIZE, false), (HEADER_SIZE + 1, false), (HEADER_SIZE + 900, true)] {
        let mut framer = Framer::new(CLUSTER);
        let Step::Begin { consumed, header, .. } = framer.next(&stream[..first]).unwrap() else {
            panic!("a large payload is not waited for")
        };
        assert_eq!(consumed, HEADER_SIZE);
        if first > consumed {
            assert!(matches!(framer.next(&stream[consumed..first]), Ok(Step::Body { .. })));
        }
        assert_eq!(framer.want(), Want::Payload { remaining: (stream.len() - first) as u64 });
        assert!(framer.read_direct(&stream[first..first + 20_000]).unwrap().is_none());
        let mut rest = stream[first + 20_000..].to_vec();
        rest[7] ^= u8::from(flip);
        let end = framer.read_direct(&rest);
        if flip {
            assert_eq!(end, Ok(Some((header, Sum::Fails))));
        } else {
            assert_eq!(end, Ok(Some((header, Sum::Holds))));
        }
        assert_eq!(framer.want(), Want::Bytes);
        assert!(matches!(framer.next(&small_stream()), Ok(Step::Frame { .. })));
    }
    let mut framer = Framer::new(CLUSTER);
    assert!(framer.read_direct(&[0]).is_err(), "nothing was asked for");
}

/// What the framer says of a header alone.
fn head(set: impl Fn(&mut Header)) -> Result<(), DecodeError> {
    let mut header = Header::new(Kind::Publish);
    set(&mut header);
    let claimed = header.size.get();
    let kind = header.kind().unwrap_or(Kind::Publish);
    let (flags, extensions) = (header.flags, header.extensions);
    header.extensions = 0;
    header.seal_seeded(&[], seed_of(kind, CLUSTER)).unwrap();
    (header.flags, header.extensions) = (flags, extensions);
    header.size.set(claimed);
    let sum = xxh(&header.bytes()[8..], seed_of(kind, CLUSTER).0);
    header.checksum.set(sum);
    Framer::new(CLUSTER).next(header.bytes()).map(|_| ())
}

/// The seeded checksum of some bytes, through a header that says nothing else.
fn xxh(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

#[test]
fn a_size_above_the_bound_of_its_kind_is_refused_from_the_header_alone() {
    let piece = u32::try_from(LINK_PIECE_BYTES_MAX).unwrap() + HEADER_SIZE as u32;
    let frame = LINK_FRAME_BYTES_MAX as u32;
    let claim = |kind: Kind, size: u32| {
        head(|header| {
            header.kind = kind.number();
            header.size.set(size);
        })
    };
    assert_eq!(claim(Kind::Publish, piece), Ok(()));
    assert!(matches!(claim(Kind::Publish, piece + 1), Err(DecodeError::TooLarge { .. })));
    for kind in Kind::ALL {
        if !matches!(kind, Kind::Publish | Kind::Control | Kind::Request | Kind::Reply | Kind::Push) {
            assert_eq!(claim(kind, frame), Ok(()), "{kind}");
            assert!(matches!(claim(kind, frame + 1), Err(DecodeError::TooLarge { .. })), "{kind}");
            assert!(matches!(claim(kind, u32::MAX), Err(DecodeError::TooLarge { .. })), "{kind}");
        }
    }
}

#[test]
fn what_no_link_carries_is_refused_from_the_header_alone() {
    for kind in [Kind::Control, Kind::Request, Kind::Reply, Kind::Push] {
        assert!(matches!(head(|header| header.kind = kind.number()), Err(DecodeError::Kind { .. })));
    }
    let unsealed = |header: &mut Header| header.flags = Flags::UNSEALED.bits();
    assert!(matches!(head(unsealed), Err(DecodeError::Flags { .. })));
    let version = |header: &mut Header| header.hops_version = (VERSION + 1) << 4;
    assert_eq!(head(version), Err(DecodeError::Version { version: VERSION + 1 }));
    let mut other = Header::new(Kind::Publish);
    other.seal_seeded(&[], Seed(CLUSTER.0 + 1)).unwrap();
    assert!(matches!(Framer::new(CLUSTER).next(other.bytes()), Err(DecodeError::Checksum)));
}

#[test]
fn strangers_that_speak_http_tls_or_ssh_are_refused_at_the_first_header() {
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n and more";
    let ssh = [b"SSH-2.0-OpenSSH_9.6\r\n".as_slice(), &[0; 64]].concat();
    let tls = [[0x16, 3, 1, 2, 0, 1].as_slice(), &[0xab; 90]].concat();
    for stranger in [http.as_slice(), &ssh, &tls, &[0; 64], &[0xff; 64]] {
        assert!(matches!(Framer::new(CLUSTER).next(stranger), Err(DecodeError::Checksum)));
    }
}

#[test]
fn arbitrary_headers_with_valid_checksums_never_panic_and_never_ask_for_much() {
    let mut rng = fastrand::Rng::with_seed(13);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut header = Header::new(Kind::Publish);
        header.kind = if rng.bool() { Kind::Publish.number() } else { rng.u8(..) };
        header.flags = if rng.bool() { 0 } else { rng.u8(..) };
        header.source.set(PortId(rng.u64(..)).0);
        header.sequence.set(rng.u64(..));
        header.extensions = if rng.bool() { 0 } else { rng.u8(0..6) };
        let size = rng.usize(0..200).max(header.extension_bytes());
        let mut following: Vec<u8> = (0..size).map(|_| rng.u8(..)).collect();
        if rng.bool() && following.len() > 32 {
            let part = Part { message: rng.u64(0..3), offset: rng.u64(0..9), total: rng.u64(..) };
            let mut extensions = Vec::new();
            part.push(&mut extensions).unwrap();
            following[..32].copy_from_slice(&extensions);
            header.extensions = 4;
        }
        let kind = header.kind().unwrap_or(Kind::Publish);
        header.seal_seeded(&following, seed_of(kind, CLUSTER)).unwrap();
        if rng.u8(0..4) == 0 {
            header.size.set(rng.u32(..));
            let sum = xxh(&header.bytes()[8..], seed_of(kind, CLUSTER).0);
            header.checksum.set(sum);
        }
        let bytes = [header.bytes(), &following].concat();
        match feed(&bytes, || rng.usize(1..100)) {
            Ok(_) => taken += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(taken > 1_000 && refused > 1_000, "{taken} taken, {refused} refused");
}
