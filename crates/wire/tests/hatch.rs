//! What programs and the node of their host say to each other: bytes, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use busway_wire::gossip::{ArtifactId, Epoch, NodeIndex, Reference, SlotNumber};
use busway_wire::hatch::{
    Advert, Ask, Counts, Entry, HatchError, Interest, Stands, Tell, decode_ask, decode_tell, encode,
};
use busway_wire::limits::{
    ARTIFACT_ATTRIBUTE_BYTES_MAX, HATCH_BYTES_MAX, HATCH_LISTED_MAX, HATCH_WORD_BYTES_MAX,
};
use busway_wire::{Pattern, Topic};

fn of() -> Reference {
    Reference { node: NodeIndex(3), epoch: Epoch(2), slot: SlotNumber(300), version: 7 }
}

fn advert(size: u64) -> Advert {
    let topic = Topic::new("block").unwrap();
    Advert { of: of(), topic, id: ArtifactId([0xab; 32]), size, attribute: vec![9], confirm: true }
}

fn offer() -> Ask {
    let topic = Topic::new("block").unwrap();
    Ask::Offer { session: 300, offer: 1, topic, attribute: vec![9], keep: true, reach_all_ms: Some(5) }
}

fn begin() -> Ask {
    let (topic, size) = (Topic::new("block").unwrap(), Some(4));
    Ask::Begin { session: 300, offer: 1, topic, attribute: vec![9], size, keep: true, reach_all_ms: None }
}

fn asks() -> Vec<(Ask, &'static [u8], &'static str)> {
    let pattern = || Pattern::parse("b.>").unwrap();
    vec![
        (Ask::Open, b"", "00"),
        (Ask::Close { session: 300 }, b"", "01ac02"),
        (offer(), b"body", "02ac020105626c6f636b0109010105 626f6479"),
        (begin(), b"", "03ac020105626c6f636b0109 0104 0100"),
        (Ask::Body { session: 300, offer: 1 }, b"body", "04ac0201 626f6479"),
        (Ask::Commit { session: 300, offer: 1 }, b"", "05ac0201"),
        (Ask::Withdraw { session: 300, offer: 1 }, b"", "06ac0201"),
        (
            Ask::Subscribe {
                session: 300,
                reader: 2,
                pattern: pattern(),
                judges: true,
                progress: false,
                arriving: true,
                only: None,
            },
            b"",
            "07ac020203622e3e01000100",
        ),
        (Ask::Unsubscribe { session: 300, reader: 2 }, b"", "08ac0202"),
        (
            Ask::Judge { session: 300, reader: 2, of: of(), interest: Interest::FetchNow },
            b"",
            "09ac0202 0302ac0207 04",
        ),
        (Ask::Reconsider { session: 300, reader: 2 }, b"", "0aac0202"),
        (Ask::Took { session: 300, reader: 2, notes: 16, bytes: 0 }, b"", "0bac02021000"),
        (Ask::List { pattern: pattern(), after: Some(of()) }, b"", "0c03622e3e01 0302ac0207"),
        (Ask::Counts, b"", "0d"),
        (Ask::Remove { session: 300, of: of() }, b"", "0eac02 0302ac0207"),
        (Ask::Read { session: 300, held: 1, offset: 2, size: 3 }, b"", "0fac02010203"),
        (Ask::Release { session: 300, held: 1 }, b"", "10ac0201"),
    ]
}

fn tells() -> Vec<(Tell, &'static [u8], String)> {
    let known = format!("0302ac0207 05626c6f636b {} 04 0109 01", "ab".repeat(32));
    let refused = Tell::Refused { code: 107, cause: "a".into(), place: String::new(), remedy: "b".into() };
    let entry = Entry { advert: advert(4), here: true, own: false };
    let counts = Counts { told: 1, dropped: [2, 3, 4], refused: 5, ..Counts::default() };
    let expired = Stands::Expired { missing: vec![1, 2] };
    vec![
        (Tell::Done, b"", "00".into()),
        (refused, b"", "016b0161000162".into()),
        (Tell::Opened { session: 300, hatch: 1 }, b"", "02ac0201".into()),
        (
            Tell::Offered { of: of(), id: ArtifactId([0xab; 32]) },
            b"",
            format!("03 0302ac0207 {}", "ab".repeat(32)),
        ),
        (Tell::Listed { entries: vec![entry], more: true }, b"", format!("0401 {known} 0100 01")),
        (Tell::Counted(counts), b"", "05 01 00 00 020304 00 00 00 00 00 00 00 00 00 05".into()),
        (Tell::Asked { reader: 2, advert: advert(4) }, b"", format!("0602 {known}")),
        (
            Tell::Received { reader: 2, advert: advert(4), held: 0 },
            b"body",
            format!("0702 {known} 00 626f6479"),
        ),
        (Tell::Received { reader: 2, advert: advert(4), held: 1 }, b"", format!("0702 {known} 01")),
        (Tell::Arriving { reader: 2, advert: advert(4), held: 1 }, b"", format!("0802 {known} 01")),
        (Tell::Progress { reader: 2, advert: advert(4), have: 3 }, b"", format!("0902 {known} 03")),
        (Tell::Withdrawn { reader: 2, advert: advert(4) }, b"", format!("0a02 {known}")),
        (Tell::Ended { offer: 1, stands: expired }, b"", "0b01 01 02 01 02".into()),
        (Tell::Bytes, b"body", "0c 626f6479".into()),
    ]
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn words_at_the_hatch_have_the_bytes_of_the_page_and_no_others() {
    for (ask, following, hex) in asks() {
        let body = encode(&ask, following);
        assert_eq!(body, bytes(hex), "{ask:?}");
        assert_eq!(decode_ask(&body), Ok((ask.clone(), following)));
        assert!(decode_ask(&body[..body.len() - following.len() - 1]).is_err(), "{ask:?} cut short");
        let takes_any = matches!(ask, Ask::Offer { .. } | Ask::Body { .. });
        let more = [&body[..], b"xxxxx"].concat();
        assert!(takes_any || matches!(decode_ask(&more), Err(HatchError::Following { .. })), "{ask:?}");
    }
    for (tell, following, hex) in tells() {
        let body = encode(&tell, following);
        assert_eq!(body, bytes(&hex), "{tell:?}");
        assert_eq!(decode_tell(&body), Ok((tell.clone(), following)));
        assert!(decode_tell(&body[..body.len() - following.len() - 1]).is_err(), "{tell:?} cut short");
        let more = [&body[..], b"xxxxx"].concat();
        let follows = matches!(decode_tell(&more), Err(HatchError::Following { .. }));
        assert!(follows || tell == Tell::Bytes, "{tell:?}");
    }
}

#[test]
fn what_is_larger_than_a_word_or_said_in_more_bytes_is_no_word_of_the_hatch() {
    assert_eq!(decode_ask(&[0x01, 0x80, 0x00]), Err(HatchError::NotCanonical));
    assert_eq!(decode_tell(&[0xff]), Err(HatchError::Body));
    assert_eq!(decode_ask(&[]), Err(HatchError::Body));
    let at_most = encode(&offer(), &vec![0; HATCH_BYTES_MAX]);
    assert!(decode_ask(&at_most).is_ok());
    let too_many = encode(&offer(), &vec![0; HATCH_BYTES_MAX + 1]);
    assert!(matches!(decode_ask(&too_many), Err(HatchError::TooLarge { .. })));
    let long = "x".repeat(HATCH_WORD_BYTES_MAX);
    let refused = Tell::Refused { code: 1, cause: long, place: String::new(), remedy: String::new() };
    assert!(matches!(decode_tell(&encode(&refused, b"")), Err(HatchError::TooLarge { .. })));
    let mut talkative = advert(0);
    talkative.attribute = vec![0; ARTIFACT_ATTRIBUTE_BYTES_MAX + 1];
    assert_eq!(
        decode_tell(&encode(&Tell::Asked { reader: 1, advert: talkative }, b"")),
        Err(HatchError::Body)
    );
    let entry = Entry { advert: advert(4), here: true, own: false };
    for (count, sound) in [(HATCH_LISTED_MAX, true), (HATCH_LISTED_MAX + 1, false)] {
        let listed = Tell::Listed { entries: vec![entry.clone(); count], more: false };
        assert_eq!(decode_tell(&encode(&listed, b"")).is_ok(), sound, "{count}");
    }
}
