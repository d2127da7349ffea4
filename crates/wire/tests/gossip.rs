//! What nodes say to each other about artifacts: bytes, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use busway_wire::gossip::{
    ArtifactId, Content, Describe, Epoch, Exchange, Filter, Mark, Marked, Marks, NodeIndex, Offer, Part,
    Reference, Since, Slot, SlotNumber, Standing, Tell, Word, WordError, decode, encode,
};
use busway_wire::limits::{
    ARTIFACT_ATTRIBUTE_BYTES_MAX, ARTIFACT_CHUNK_BYTES, ARTIFACT_INSIDE_BYTES_MAX, GOSSIP_WORD_BYTES_MAX,
};
use busway_wire::{Pattern, Topic};

fn inside() -> Slot {
    let content = Content::Inside { body: b"body".to_vec() };
    let topic = Topic::new("block").unwrap();
    let offer = Offer { topic, attribute: vec![9], confirm: true, content };
    Slot { slot: SlotNumber(300), version: 7, offer: Some(offer) }
}

fn apart(size: u64) -> Slot {
    let content = Content::Apart { id: ArtifactId([0xab; 32]), size };
    let topic = Topic::new("block").unwrap();
    let offer = Offer { topic, attribute: vec![], confirm: false, content };
    Slot { slot: SlotNumber(0), version: 8, offer: Some(offer) }
}

fn reference() -> Reference {
    Reference { node: NodeIndex(3), epoch: Epoch(2), slot: SlotNumber(300), version: 7 }
}

fn all() -> Vec<(Word, &'static [u8], String)> {
    let since = Since { epoch: Epoch(300), slots: 5, marks: 6 };
    let filter = Filter { patterns: vec![Pattern::parse("block.>").unwrap()], age_ms_max: Some(1_000) };
    let withdrawn = Slot { slot: SlotNumber(1), version: 9, offer: None };
    let mark = |version, standing| Mark { slot: SlotNumber(4), version, standing };
    let marks = vec![mark(7, Standing::Has), mark(8, Standing::Lacks), mark(9, Standing::Declines)];
    let of = vec![Marked { node: NodeIndex(3), epoch: Epoch(2), marks }];
    let exchange = |since, filter| Word::Exchange(Exchange { epoch: Epoch(1), version: 4, since, filter });
    let slots = vec![inside(), apart(65_536), withdrawn];
    let described = Describe { node: NodeIndex(3), epoch: Epoch(2), slots: vec![inside()] };
    let of_inside = "ac02070105626c6f636b0109010004626f6479";
    let id = "ab".repeat(32);
    vec![
        (exchange(None, None), b"", "0001040000".into()),
        (exchange(Some(since), Some(filter)), b"", "00010401ac020506010107626c6f636b2e3e01e807".into()),
        (
            Word::Tell(Tell { exchanges: 1, through: 9, slots }),
            b"",
            format!("01010903{of_inside}00080105626c6f636b000001{id}808004010900"),
        ),
        (Word::Handled { tells: 300, marks: 2 }, b"", "02ac0202".into()),
        (
            Word::Marks(Marks { exchanges: 1, through: 12, of }),
            b"",
            "03010c01030203040700040801040902".into(),
        ),
        (Word::Ask { of: vec![reference()] }, b"", "04010302ac0207".into()),
        (Word::Describe(described), b"", format!("05030201{of_inside}")),
        (
            Word::Request { request: 5, of: reference(), part: Part::Piece { index: 9 }, offset: 16_384 },
            b"",
            "06050302ac02070209808001".into(),
        ),
        (Word::Chunk { request: 5, offset: 0 }, b"body", "070500626f6479".into()),
        (Word::NotFound { request: 5 }, b"", "0805".into()),
        (Word::Cancel { request: 5 }, b"", "0905".into()),
        (Word::Have { of: reference(), pieces: vec![1, 300] }, b"", "0a0302ac02070201ac02".into()),
    ]
}

const PAGE: &str = include_str!("../../../FORMAT.md");

/// The rows of the section on these words, cell by cell.
fn page() -> impl Iterator<Item = Vec<String>> {
    let section = PAGE.split("### Words about artifacts").nth(1).unwrap().split("\n### ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// The names of the fields of a list of the page.
fn names(fields: &str) -> Vec<&str> {
    fields.split(", ").map(|field| field.split_once(": ").unwrap().0).collect()
}

#[test]
fn every_word_about_artifacts_has_the_number_and_the_fields_of_the_page() {
    let mut body = Vec::new();
    for (word, following, _) in all() {
        encode(&word, following, &mut body);
        let debug = format!("{word:?}");
        let name = debug.split(['(', ' ']).next().unwrap();
        let row = page().find(|row| row[0] == body[0].to_string()).unwrap();
        assert_eq!(row[1], name);
        for field in names(&row[2]) {
            assert!(debug.contains(&format!("{field}: ")), "{name}.{field}");
        }
    }
    let all = format!("{:?}", all());
    for row in page().filter(|row| row.len() == 2).skip(2) {
        let at = all.find(&format!("{} {{ ", row[0])).unwrap();
        let mut rest = &all[at..];
        for field in names(&row[1]) {
            let Some(at) = rest.find(&format!("{field}: ")) else { panic!("{}.{field}", row[0]) };
            rest = &rest[at + field.len()..];
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_word_about_artifacts_has_the_bytes_it_always_had_and_comes_back() {
    let mut body = Vec::new();
    for (word, following, golden) in all() {
        encode(&word, following, &mut body);
        assert_eq!(hex(&body), golden, "{word:?}");
        assert_eq!(decode(&body), Ok((word, following)));
    }
}

#[test]
fn a_word_about_artifacts_that_is_cut_or_followed_by_what_it_has_not_is_refused() {
    let mut body = Vec::new();
    for (word, following, _) in all() {
        encode(&word, following, &mut body);
        for size in 0..body.len() {
            let cut = decode(&body[..size]);
            assert!(cut.is_err() || size + following.len() > body.len(), "{word:?} cut to {size}");
        }
        body.push(0);
        assert_eq!(decode(&body).is_ok(), !following.is_empty(), "{word:?} with a byte behind it");
    }
    assert_eq!(decode(&[2, 0x83, 0, 0]), Err(WordError::NotCanonical), "a number in two spellings");
    assert_eq!(decode(&[11, 0]), Err(WordError::Body), "no such word");
}

#[test]
fn what_is_out_of_its_bounds_is_no_word() {
    let mut body = Vec::new();
    let tell = |slots| Word::Tell(Tell { exchanges: 1, through: 9, slots });
    encode(&tell(vec![apart(ARTIFACT_INSIDE_BYTES_MAX as u64)]), b"", &mut body);
    assert_eq!(decode(&body), Err(WordError::Size { size: 1_024 }), "bytes that fit stand in the offer");
    let mut slot = inside();
    let offer = slot.offer.as_mut().unwrap();
    offer.content = Content::Inside { body: vec![0; ARTIFACT_INSIDE_BYTES_MAX + 1] };
    encode(&tell(vec![slot.clone()]), b"", &mut body);
    assert_eq!(decode(&body), Err(WordError::Body));
    let offer = slot.offer.as_mut().unwrap();
    offer.content = Content::Inside { body: vec![0; ARTIFACT_INSIDE_BYTES_MAX] };
    offer.attribute = vec![0; ARTIFACT_ATTRIBUTE_BYTES_MAX];
    encode(&tell(vec![slot.clone()]), b"", &mut body);
    assert!(decode(&body).is_ok(), "the largest offer");
    slot.offer.as_mut().unwrap().attribute.push(0);
    encode(&tell(vec![slot]), b"", &mut body);
    assert_eq!(decode(&body), Err(WordError::Body));
    encode(&tell(vec![inside(); 600]), b"", &mut body);
    assert!(body.len() > GOSSIP_WORD_BYTES_MAX);
    assert!(matches!(decode(&body), Err(WordError::TooLarge { .. })));
    let chunk = Word::Chunk { request: 0, offset: 0 };
    encode(&chunk, &[7; ARTIFACT_CHUNK_BYTES], &mut body);
    assert!(decode(&body).is_ok());
    body.push(7);
    assert_eq!(decode(&body), Err(WordError::Following { size: ARTIFACT_CHUNK_BYTES + 1 }));
    encode(&chunk, b"", &mut body);
    assert_eq!(decode(&body), Err(WordError::Following { size: 0 }), "a chunk of nothing");
}

#[test]
fn noise_never_panics_and_what_is_read_of_it_is_said_in_the_same_bytes() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut known, mut again) = (0, Vec::new());
    let sound: Vec<Vec<u8>> = all()
        .iter()
        .map(|(word, following, _)| {
            encode(word, following, &mut again);
            again.clone()
        })
        .collect();
    for _ in 0..60_000 {
        let mut noise = sound[rng.usize(..sound.len())].clone();
        for _ in 0..rng.usize(..4) {
            let at = rng.usize(..noise.len());
            noise[at] = if rng.bool() { rng.u8(..) } else { rng.u8(..6) };
        }
        noise.truncate(rng.usize(..=noise.len()) + rng.usize(..noise.len()));
        if let Ok((word, following)) = decode(&noise) {
            encode(&word, following, &mut again);
            assert_eq!(again, noise);
            known += 1;
        }
    }
    assert!(known > 1_000, "{known}");
}
