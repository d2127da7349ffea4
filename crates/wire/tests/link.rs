//! Link frames: their bytes, their bounds, and that nothing else is taken for one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "sample/frames.rs"]
mod frames;

use busway_wire::limits::{
    LINK_FRAME_BYTES_MAX, LINK_INTEREST_ENTRIES_MAX, LINK_TOKEN_BYTES_MAX, REASON_BYTES_MAX,
};
use busway_wire::link::{self, Frame, Hello, Interest, Refusal, RefusalCode, Wanted};
use busway_wire::{
    Checksum, DecodeError, EncodeError, Extensions, FrameFault, HEADER_SIZE, Header, Kind, Part, Pattern,
    Seed, VERSION,
};

const CLUSTER: Seed = Seed(0xfeed_f00d_dead_beef);

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    link::encode(frame, CLUSTER, &mut out).unwrap();
    out
}

/// Reads a frame as a link does: header with the seed of its kind, what follows, then the body.
fn read(bytes: &[u8]) -> Result<Frame, DecodeError> {
    let kind = bytes.get(20).and_then(|kind| Kind::from_number(*kind)).unwrap_or(Kind::Publish);
    let header = Header::validate_head_of_any_version(bytes, link::seed_of(kind, CLUSTER))?;
    let body = bytes.get(HEADER_SIZE..).unwrap_or_default();
    header.validate_following(body)?;
    link::decode(&header, body)
}

/// A frame of this kind whose checksums hold, whatever its body says.
fn sealed(mut header: Header, body: &[u8]) -> Vec<u8> {
    let kind = header.kind().unwrap_or(Kind::Publish);
    header.seal_seeded(body, link::seed_of(kind, CLUSTER)).unwrap();
    [header.bytes(), body].concat()
}

fn body_of(frame: &Frame) -> Vec<u8> {
    bytes(frame)[HEADER_SIZE..].to_vec()
}

fn fault(frame: &Frame) -> Result<(), FrameFault> {
    match link::encode(frame, CLUSTER, &mut Vec::new()) {
        Ok(()) => Ok(()),
        Err(EncodeError::Frame { kind, fault }) if kind == frame.kind() => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_frame_comes_back_as_it_was_and_is_appended() {
    let mut out = vec![7, 7];
    for frame in frames::all() {
        let start = out.len();
        link::encode(&frame, CLUSTER, &mut out).unwrap();
        assert_eq!(read(&out[start..]), Ok(frame));
    }
    assert_eq!(out[..2], [7, 7]);
}

#[test]
fn every_single_bit_flip_of_a_frame_is_refused() {
    let mut flips = 0;
    for frame in frames::all() {
        let good = bytes(&frame);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit} of {}", frame.kind());
            flips += 1;
        }
    }
    assert!(flips > 5_000);
}

#[test]
fn a_body_that_is_cut_or_extended_anywhere_is_refused_though_its_checksum_holds() {
    for frame in frames::all() {
        let (kind, body) = (frame.kind(), body_of(&frame));
        for size in 0..body.len() {
            let error = read(&sealed(Header::new(kind), &body[..size])).unwrap_err();
            assert!(matches!(error, DecodeError::Frame { .. }), "{kind} of {size} bytes: {error}");
        }
        let longer = [body.as_slice(), &[0]].concat();
        let fault = FrameFault::Trailing { size: 1 };
        assert_eq!(read(&sealed(Header::new(kind), &longer)), Err(DecodeError::Frame { kind, fault }));
    }
}

#[test]
fn arbitrary_bodies_with_valid_checksums_are_refused_or_come_out_as_they_went_in() {
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..60_000 {
        let samples = frames::all();
        let frame = &samples[round % samples.len()];
        let mut body = body_of(frame);
        for _ in 0..rng.usize(1..4) {
            match rng.u8(0..4) {
                0 => body.push(rng.u8(..)),
                1 if !body.is_empty() => drop(body.pop()),
                _ if !body.is_empty() => {
                    let at = rng.usize(0..body.len());
                    body[at] = rng.u8(..);
                }
                _ => {}
            }
        }
        match read(&sealed(Header::new(frame.kind()), &body)) {
            Ok(decoded) => {
                assert_eq!(body_of(&decoded), body);
                taken += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(taken > 1_000 && refused > 1_000, "{taken} taken, {refused} refused");
}

#[test]
fn a_stranger_reads_hello_and_refusal_and_nothing_else() {
    for frame in frames::all() {
        let bytes = bytes(&frame);
        let open = matches!(frame, Frame::Hello(_) | Frame::Refusal(_));
        assert_eq!(Header::validate_seeded(&bytes, Seed::LOCAL).is_ok(), open, "{}", frame.kind());
        assert_eq!(Header::validate_seeded(&bytes, CLUSTER).is_ok(), !open, "{}", frame.kind());
    }
}

#[test]
fn a_refusal_of_another_version_is_read_and_nothing_else_of_it() {
    for frame in frames::all() {
        let mut header = Header::new(frame.kind());
        header.hops_version = (VERSION + 1) << 4;
        let result = read(&sealed(header, &body_of(&frame)));
        if frame.kind() == Kind::Refusal {
            assert_eq!(result, Ok(frame));
        } else {
            assert_eq!(result, Err(DecodeError::Version { version: VERSION + 1 }));
        }
    }
}

#[test]
fn a_header_that_says_more_than_a_frame_may_is_refused() {
    let body = body_of(&Frame::Ping { stamp: 1 });
    let with = |set: fn(&mut Header)| {
        let mut header = Header::new(Kind::Ping);
        set(&mut header);
        read(&sealed(header, &body))
    };
    assert!(with(|_| {}).is_ok());
    assert!(matches!(with(|header| header.flags = 0b0010_0000), Err(DecodeError::Flags { .. })));
    assert_eq!(with(|header| header.topic.set(1)), Err(DecodeError::Reserved { offset: 24 }));
    assert_eq!(with(|header| header.source.set(1)), Err(DecodeError::Reserved { offset: 32 }));
    assert_eq!(with(|header| header.sequence.set(1)), Err(DecodeError::Reserved { offset: 40 }));
    assert_eq!(with(|header| header.time_ns.set(1)), Err(DecodeError::Reserved { offset: 48 }));
    assert_eq!(with(|header| header.correlation.set(1)), Err(DecodeError::Reserved { offset: 56 }));
    assert_eq!(with(|header| header.hops_version |= 1), Err(DecodeError::Reserved { offset: 21 }));
    for kind in [Kind::Publish, Kind::Request, Kind::Reply, Kind::Push, Kind::Control] {
        assert_eq!(read(&sealed(Header::new(kind), &body)), Err(DecodeError::Kind { kind: kind.number() }));
    }
}

#[test]
fn texts_tokens_lists_and_numbers_out_of_their_bounds_are_refused_on_both_sides() {
    let samples = frames::all();
    let Frame::Hello(hello) = &samples[0] else { panic!("the first frame is a hello") };
    let hellos = [
        Hello { token: vec![0; LINK_TOKEN_BYTES_MAX + 1], ..hello.clone() },
        Hello { name: "x".repeat(65), ..hello.clone() },
        Hello { name: "a\u{1b}[2J".to_owned(), ..hello.clone() },
        Hello { credit_messages: 0, ..hello.clone() },
        Hello { window_messages: 0, ..hello.clone() },
    ];
    for hello in hellos {
        assert!(fault(&Frame::Hello(hello)).is_err());
    }
    let full = Hello { token: vec![9; LINK_TOKEN_BYTES_MAX], ..hello.clone() };
    assert_eq!(read(&bytes(&Frame::Hello(full.clone()))), Ok(Frame::Hello(full)));
    let reason = "r".repeat(REASON_BYTES_MAX + 1);
    assert!(fault(&Frame::Goodbye { reason: reason.clone() }).is_err());
    assert!(fault(&Frame::Refusal(Refusal { code: RefusalCode::Full, reason, retry_after_ms: 0 })).is_err());
    let made = Refusal::new(RefusalCode::Protocol, &"\n".repeat(5_000), 0);
    assert_eq!((made.reason.len(), fault(&Frame::Refusal(made))), (REASON_BYTES_MAX, Ok(())));
    // On the receiving side, with bytes that the encoder would not make.
    let Frame::Gap(gap) = &samples[7] else { panic!("the eighth frame is a gap") };
    let mut body = body_of(&Frame::Gap(gap.clone()));
    let at = body.iter().position(|byte| *byte == 7).unwrap();
    body[at] = 0;
    let error = DecodeError::Frame { kind: Kind::Gap, fault: FrameFault::Field("from") };
    assert_eq!(read(&sealed(Header::new(Kind::Gap), &body)), Err(error));
}

#[test]
fn an_interest_has_128_entries_and_the_longest_fits_a_frame() {
    let wanted = Wanted { id: u32::MAX, pattern: Pattern::parse(&"x".repeat(255)).unwrap(), reliable: true };
    let interest = |add: usize, remove: usize| {
        let (add, remove) = (vec![wanted.clone(); add], vec![u32::MAX; remove]);
        Frame::Interest(Interest { add, remove, complete: false })
    };
    let longest = interest(LINK_INTEREST_ENTRIES_MAX, 0);
    assert!(bytes(&longest).len() <= LINK_FRAME_BYTES_MAX);
    assert_eq!(read(&bytes(&longest)), Ok(longest));
    assert!(fault(&interest(LINK_INTEREST_ENTRIES_MAX, 1)).is_err());
    // 129 ids in a body that no encoder made; then a claimed length that no byte stands behind.
    let body = [&[0, 0x81, 1][..], &[1; 129], &[0]].concat();
    let error = DecodeError::Frame { kind: Kind::Interest, fault: FrameFault::Body };
    assert_eq!(read(&sealed(Header::new(Kind::Interest), &body)), Err(error));
    let body = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(read(&sealed(Header::new(Kind::Interest), &body)), Err(error));
}

#[test]
fn a_part_is_found_among_extensions_and_a_wrong_one_is_refused() {
    let part = Part { message: 42, offset: 65_536, total: 65_541 };
    let mut extensions = Vec::new();
    part.push(&mut extensions).unwrap();
    assert_eq!(extensions.len(), Part::SIZE);
    assert_eq!(Part::of(Extensions::new(&extensions)), Ok(Some(part)));
    assert_eq!(Part::of(Extensions::new(&[])), Ok(None));
    let twice = [extensions.as_slice(), &extensions].concat();
    assert!(Part::of(Extensions::new(&twice)).is_err());
    for wrong in
        [Part { offset: 65_541, ..part }, Part { total: u64::MAX, ..part }, Part { total: 0, ..part }]
    {
        let mut extensions = Vec::new();
        wrong.push(&mut extensions).unwrap();
        assert!(Part::of(Extensions::new(&extensions)).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_checksum_taken_in_pieces_is_that_of_the_whole() {
    let following: Vec<u8> = (0..5_000_u32).map(|i| (i * 7) as u8).collect();
    let mut whole = Header::new(Kind::Publish);
    whole.seal_seeded(&following, CLUSTER).unwrap();
    for cut in [0, 1, 63, 64, 240, 241, 1_024, 4_999, 5_000] {
        let (first, second) = following.split_at(cut);
        let mut pieces = Header::new(Kind::Publish);
        pieces.seal_pieces([first, second], CLUSTER).unwrap();
        assert_eq!(pieces, whole, "cut at {cut}");
        let mut checksum = Checksum::new();
        checksum.update(first);
        checksum.update(second);
        assert_eq!(checksum.value(), whole.checksum_payload.get(), "cut at {cut}");
    }
}
