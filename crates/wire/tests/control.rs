//! The control protocol at its door: what is accepted, what is refused, and with which words.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "sample/fixed.rs"]
mod fixed;
#[path = "sample/random.rs"]
mod random;

use busway_wire::limits::{CONTROL_BYTES_MAX, MATCHED_MAX, REASON_BYTES_MAX};
use busway_wire::{
    Control, ControlKind, DecodeError, EncodeError, Flags, HEADER_SIZE, Header, Kind, NameFault, Policy,
    PortId, ProcessId, VERSION, decode, encode,
};

fn bytes(control: &Control) -> Vec<u8> {
    let mut out = Vec::new();
    encode(control, &mut out).unwrap();
    out
}

/// A datagram with valid checksums around any body.
fn sealed(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.seal(body).unwrap();
    [header.bytes(), body].concat()
}

fn control(body: &[u8]) -> Vec<u8> {
    sealed(Header::new(Kind::Control), body)
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn every_single_bit_flip_of_a_control_message_is_refused() {
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut messages, mut flips) = (0, 0);
    for kind in ControlKind::ALL {
        for control in
            [fixed::control(kind), random::control(kind, &mut rng), random::control(kind, &mut rng)]
        {
            let mut datagram = bytes(&control);
            assert_eq!(decode(&datagram), Ok(control.clone()), "{kind} is accepted as it is");
            for bit in 0..datagram.len() * 8 {
                datagram[bit / 8] ^= 1 << (bit % 8);
                let result = decode(&datagram);
                assert!(result.is_err(), "{kind} with bit {bit} flipped was accepted as {result:?}");
                datagram[bit / 8] ^= 1 << (bit % 8);
                flips += 1;
            }
            messages += 1;
        }
    }
    println!("evidence: kinds={} messages={messages} bits_flipped={flips} accepted=0", Control::COUNT);
}

#[test]
fn every_control_message_comes_back_as_it_was() {
    let mut rng = fastrand::Rng::with_seed(12);
    let mut out = Vec::new();
    for round in 0..400 {
        for kind in ControlKind::ALL {
            let control = random::control(kind, &mut rng);
            encode(&control, &mut out).unwrap();
            assert_eq!(decode(&out), Ok(control), "round {round}");
            assert_eq!(out[HEADER_SIZE], kind.number(), "the body begins with the number of {kind}");
        }
    }
}

#[test]
fn a_control_message_cut_or_extended_anywhere_is_refused() {
    for kind in ControlKind::ALL {
        let whole = bytes(&fixed::control(kind));
        for size in 0..whole.len() {
            assert!(decode(&whole[..size]).is_err(), "{kind} cut to {size} bytes");
        }
        let body = &whole[HEADER_SIZE..];
        for size in 0..body.len() {
            assert!(decode(&control(&body[..size])).is_err(), "{kind}, body cut to {size} bytes and sealed");
        }
        let longer = [body, &[0]].concat();
        assert_eq!(decode(&control(&longer)), Err(DecodeError::Trailing { kind, size: 1 }));
        let longer = [whole.as_slice(), &[0]].concat();
        let (claimed, size) = (u32::try_from(whole.len()).unwrap(), longer.len());
        assert_eq!(decode(&longer), Err(DecodeError::Size { claimed, size }));
    }
}

#[test]
fn another_version_is_refused_by_its_number_and_not_as_damage() {
    let body = [ControlKind::Goodbye.number()];
    for version in (0..16).filter(|version| *version != VERSION) {
        let mut header = Header::new(Kind::Control);
        header.hops_version = version << 4;
        assert_eq!(decode(&sealed(header, &body)), Err(DecodeError::Version { version }));
    }
    let words = DecodeError::Version { version: 9 }.to_string();
    assert_eq!(words, "format version 9 is not understood; this is version 1");
}

#[test]
fn another_layout_is_refused_with_both_hashes() {
    let hello = fixed::control(ControlKind::Hello);
    assert_eq!(hello.check_layout(0xfeed_f00d_dead_beef), Ok(()));
    let error = hello.check_layout(1).unwrap_err();
    assert_eq!(error, DecodeError::Layout { theirs: 0xfeed_f00d_dead_beef, ours: 1 });
    let words = error.to_string();
    assert!(words.contains("feedf00ddeadbeef") && words.contains("0000000000000001"), "{words}");
    assert_eq!(Control::Goodbye {}.check_layout(1), Ok(()), "only a hello carries a layout");
}

#[test]
fn a_header_that_says_more_than_a_control_message_may_is_refused() {
    let body = [ControlKind::Goodbye.number()];
    let spoilt = |change: fn(&mut Header)| {
        let mut header = Header::new(Kind::Control);
        change(&mut header);
        decode(&sealed(header, &body)).unwrap_err()
    };
    assert_eq!(spoilt(|header| header.kind = 2), DecodeError::Kind { kind: 2 });
    assert_eq!(spoilt(|header| header.kind = Kind::Publish.number()), DecodeError::Kind { kind: 1 });
    assert_eq!(spoilt(|header| header.flags = 0x80), DecodeError::Flags { flags: 0x80 });
    let unsealed = Flags::UNSEALED.bits();
    assert_eq!(
        spoilt(|header| header.flags = Flags::UNSEALED.bits()),
        DecodeError::Flags { flags: unsealed }
    );
    assert_eq!(spoilt(|header| header.hops_version |= 1), DecodeError::Reserved { offset: 21 });
    assert_eq!(spoilt(|header| header.topic.set(1)), DecodeError::Reserved { offset: 24 });
    assert_eq!(spoilt(|header| header.source.set(1)), DecodeError::Reserved { offset: 32 });
    assert_eq!(spoilt(|header| header.sequence.set(1)), DecodeError::Reserved { offset: 40 });
    assert_eq!(spoilt(|header| header.time_ns.set(1)), DecodeError::Reserved { offset: 48 });
    assert_eq!(spoilt(|header| header.correlation.set(1)), DecodeError::Reserved { offset: 56 });
}

#[test]
fn an_unknown_control_message_is_refused_by_its_number() {
    let first = u8::try_from(Control::COUNT).unwrap();
    for number in first..=u8::MAX {
        assert_eq!(decode(&control(&[number])), Err(DecodeError::ControlUnknown { number }));
    }
    assert!(decode(&control(&[])).is_err(), "an empty body has no number");
}

#[test]
fn a_number_in_more_bytes_than_it_needs_is_refused() {
    let kind = ControlKind::Gone;
    let short = control(&[kind.number(), 5]);
    assert_eq!(decode(&short), Ok(Control::Gone { process: ProcessId(5) }));
    assert_eq!(decode(&control(&[kind.number(), 0x85, 0])), Err(DecodeError::NotCanonical { kind }));
    assert_eq!(decode(&control(&[0x80 | kind.number(), 0, 5])), {
        Err(DecodeError::ControlUnknown { number: 0x80 | kind.number() })
    });
}

#[test]
fn a_claimed_length_is_not_believed() {
    // 2^63 - 1, 2^64 - 1, 2^32 and the bound plus one, as varints; then nothing that fulfils them.
    let lengths: [&[u8]; 4] = [
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x80, 0x80, 0x80, 0x80, 0x10],
        &[0xf1, 0x2e],
    ];
    for length in lengths {
        let kind = ControlKind::Published;
        let body = [&[kind.number(), 1], length].concat();
        assert_eq!(decode(&control(&body)), Err(DecodeError::Body { kind }), "list of {length:x?}");
        let kind = ControlKind::Refused;
        let body = [&[kind.number(), 1], length, b"because"].concat();
        assert_eq!(decode(&control(&body)), Err(DecodeError::Body { kind }), "text of {length:x?}");
    }
}

#[test]
fn a_list_longer_than_its_bound_is_refused_on_both_sides() {
    let port = PortId(u64::MAX);
    let full = Control::Published { port, matched: vec![ProcessId(u64::MAX); MATCHED_MAX] };
    let datagram = bytes(&full);
    assert!(datagram.len() <= CONTROL_BYTES_MAX);
    assert_eq!(decode(&datagram), Ok(full));
    let count = MATCHED_MAX + 1;
    let over = Control::Published { port, matched: vec![ProcessId(1); count] };
    let mut out = vec![1, 2, 3];
    assert_eq!(encode(&over, &mut out), Err(EncodeError::Matched { count }));
    assert!(out.is_empty(), "nothing is left to be sent by mistake");
    let kind = ControlKind::Published;
    // 6 001 as a varint, and as many items of one byte.
    let body = [&[kind.number(), 1, 0xf1, 0x2e], vec![1; count].as_slice()].concat();
    assert_eq!(decode(&control(&body)), Err(DecodeError::Body { kind }));
}

#[test]
fn a_datagram_above_the_bound_is_refused_before_it_is_read() {
    let datagram = vec![0; CONTROL_BYTES_MAX + 1];
    let error = DecodeError::TooLarge { size: 65_537, size_max: 65_536 };
    assert_eq!(decode(&datagram), Err(error));
    assert_eq!(decode(&datagram[1..]), Err(DecodeError::Checksum), "at the bound it is read");
}

#[test]
fn a_text_that_could_write_on_a_terminal_is_refused_on_both_sides() {
    let hello = |name: &str| Control::Member { process: ProcessId(1), pid: 2, name: name.to_owned() };
    let kind = ControlKind::Member;
    for (name, at, fault) in [
        ("", 0, NameFault::Empty),
        ("a\u{1b}[2J", 1, NameFault::Forbidden('\u{1b}')),
        ("line\nline", 4, NameFault::Forbidden('\n')),
        (&"x".repeat(65), 64, NameFault::TooLong { size: 65, size_max: 64 }),
    ] {
        let mut out = Vec::new();
        let Err(EncodeError::Text { error }) = encode(&hello(name), &mut out) else {
            panic!("{name:?} was encoded");
        };
        assert_eq!((error.at, error.fault), (at, fault), "{name:?}");
        let body = [&[kind.number(), 1, 2, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        assert_eq!(decode(&control(&body)), Err(DecodeError::Text { kind, error }));
    }
    let refused = Control::Refused { code: 1, reason: "x".repeat(REASON_BYTES_MAX + 1) };
    assert!(encode(&refused, &mut Vec::new()).is_err());
}

#[test]
fn any_text_can_be_made_a_reason_and_a_process_name() {
    let mut rng = fastrand::Rng::with_seed(13);
    for _ in 0..500 {
        let text: String = (0..rng.usize(0..1_500)).map(|_| rng.char(..)).collect();
        let reason = Control::reason(&text);
        assert!(reason.len() <= REASON_BYTES_MAX);
        let control = Control::Refused { code: 1, reason };
        assert_eq!(decode(&bytes(&control)), Ok(control));
        assert_eq!(busway_wire::check_process_name(&busway_wire::process_name(&text)), Ok(()));
    }
    assert_eq!(Control::reason("no\tmemory\n"), "no memory ");
    assert_eq!(busway_wire::process_name(""), "unnamed");
}

#[test]
fn a_policy_out_of_its_bounds_is_refused_on_both_sides() {
    let subscribe = |policy| Control::Subscribe {
        port: PortId(1),
        pattern: busway_wire::Pattern::parse("a").unwrap(),
        policy,
        created_ns: 0,
        export: false,
    };
    let kind = ControlKind::Subscribe;
    for depth in [0, 257, u32::MAX] {
        let result = encode(&subscribe(Policy::DropNewest { depth }), &mut Vec::new());
        assert!(matches!(result, Err(EncodeError::Policy { .. })), "depth {depth}");
    }
    // port 1, pattern "a", drop-newest with depth 256, 257 and 0, created at 0, no export.
    let body = |low: u8, high: u8| [kind.number(), 1, 1, b'a', 2, low, high, 0, 0];
    assert_eq!(decode(&control(&body(0x80, 2))), Ok(subscribe(Policy::DropNewest { depth: 256 })));
    assert_eq!(decode(&control(&body(0x81, 2))), Err(DecodeError::Body { kind }));
    assert_eq!(decode(&control(&[kind.number(), 1, 1, b'a', 2, 0, 0, 0])), Err(DecodeError::Body { kind }));
    assert_eq!(decode(&control(&[kind.number(), 1, 1, b'a', 6, 0, 0])), Err(DecodeError::Body { kind }));
}

#[test]
fn a_name_that_breaks_the_grammar_is_refused_in_a_control_message() {
    let kind = ControlKind::Publish;
    let publish = |topic: &[u8]| {
        let size = u8::try_from(topic.len()).unwrap();
        // Lengths here are below 128, so one byte; port, ring, generation and time are 1, and it is no relay.
        control(&[&[kind.number(), 1, size], topic, &[1, 1, 1, 0]].concat())
    };
    assert!(decode(&publish(b"price.tick")).is_ok());
    assert!(decode(&publish(b"$bus.up")).is_ok(), "the bus may tell its members about its own topics");
    for topic in [&b""[..], b"a..b", b"a b", b"a\0b", b"*", b"a.>", b"^a", b"a\xff", b"\n"] {
        assert_eq!(decode(&publish(topic)), Err(DecodeError::Body { kind }), "{topic:x?}");
    }
}
