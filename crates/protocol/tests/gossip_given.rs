//! Who is given what of a large artifact while several want it: one node is real, and has it; the others are played, so that each asks for and tells of
//! what a test wants.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "rig/mesh.rs"]
mod mesh;

use busway_protocol::Time;
use busway_protocol::gossip::{
    ArtifactId, Epoch, Fault, Gossip, Input, Interest, Lane, NodeIndex, Offering, Output, Part, Reference,
    SlotNumber, Word,
};
use busway_wire::gossip::{Content, Exchange, Offer, Slot, Tell};
use busway_wire::limits::{
    ARTIFACT_CHUNK_BYTES, ARTIFACT_PIECE_BYTES_MIN, GOSSIP_BEHIND_MS, GOSSIP_BEHIND_PARTS,
    GOSSIP_FAULT_MS_MAX,
};
use mesh::{config, word};

const REAL: u8 = 0;
/// Who takes pieces and passes none on.
const TAKER: u8 = 4;
const PEERS: [u8; 4] = [1, 2, 3, TAKER];
const PIECES: u32 = 96;
/// Pieces that each has before a test begins: more than it is given in one.
const BEFORE: u32 = 12;
const CHUNKS: usize = ARTIFACT_PIECE_BYTES_MIN as usize / ARTIFACT_CHUNK_BYTES;

struct Played {
    now: Time,
    node: Gossip,
    of: Reference,
    outputs: Vec<Output>,
    numbered: u64,
}

impl Played {
    fn new() -> Played {
        let mut node = Gossip::new(config(REAL, 1, 5));
        let size = PIECES as usize * CHUNKS * ARTIFACT_CHUNK_BYTES;
        let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let slot = node.offer(Time(0), Offering::new("block".parse().unwrap(), body.into())).unwrap();
        let of = node.own(slot).unwrap();
        let mut played = Played { now: Time(0), node, of, outputs: Vec::new(), numbered: 0 };
        for peer in PEERS {
            played.handle(Input::PeerUp { node: NodeIndex(peer) });
            let exchange = Exchange { epoch: Epoch(1), version: 0, since: None, filter: None };
            played.handle(word(peer, Word::Exchange(exchange)));
        }
        played
    }

    /// The same when each was given some pieces, and those of all but one have been passed on.
    fn begun() -> Played {
        let mut played = Played::new();
        for round in 0..BEFORE {
            for peer in PEERS {
                played.asks(peer, round * 4 + u32::from(peer));
                assert_eq!(played.gives(peer, usize::MAX), CHUNKS);
            }
            for peer in PEERS {
                let others = PEERS.iter().filter(|other| **other != peer && **other != TAKER);
                let pieces = others.map(|other| round * 4 + u32::from(*other)).collect();
                played.handle(word(peer, Word::Have { of: played.of, pieces }));
            }
        }
        played
    }

    fn handle(&mut self, input: Input<'_>) {
        self.node.handle(self.now, input, &mut self.outputs);
    }

    fn asks(&mut self, peer: u8, index: u32) -> u64 {
        self.numbered += 1;
        self.asks_by(peer, index, self.numbered);
        self.numbered
    }

    fn asks_by(&mut self, peer: u8, index: u32, request: u64) {
        let part = Part::Piece { index };
        self.handle(word(peer, Word::Request { request, of: self.of, part, offset: 0 }));
    }

    /// A peer takes so many chunks at most; how many it is given.
    fn gives(&mut self, peer: u8, most: usize) -> usize {
        (0..most).take_while(|_| self.node.transmit(self.now, NodeIndex(peer), Lane::Chunk).is_some()).count()
    }
}

#[test]
fn who_takes_pieces_and_passes_none_on_has_a_small_part_while_others_wait_and_all_that_they_leave() {
    let mut played = Played::begun();
    for round in BEFORE..BEFORE + 8 {
        for peer in PEERS {
            played.asks(peer, round * 4 + u32::from(peer));
        }
    }
    // Each could take a chunk in each round.
    let (mut taken, mut others) = (0, 0);
    while others < 3 * 7 * CHUNKS {
        taken += played.gives(TAKER, 1);
        others += [1, 2, 3].map(|peer| played.gives(peer, 1)).iter().sum::<usize>();
    }
    let part = GOSSIP_BEHIND_PARTS as usize;
    assert!((1..=others / (part - 1) + 1).contains(&taken), "{taken} beside {others}");
    // When the others have all that they asked for it is given the rest.
    for peer in [1, 2, 3] {
        played.gives(peer, usize::MAX);
    }
    assert_eq!(played.gives(TAKER, usize::MAX), 8 * CHUNKS - taken);
}

#[test]
fn who_has_failed_and_given_nothing_since_has_a_small_part_too() {
    let mut played = Played::new();
    let content = Content::Apart { id: ArtifactId::of(b"nothing"), size: 100_000 };
    let offer = Offer { topic: "block".parse().unwrap(), attribute: vec![], confirm: false, content };
    let slots = vec![Slot { slot: SlotNumber(0), version: 1, offer: Some(offer) }];
    played.handle(word(TAKER, Word::Tell(Tell { exchanges: 1, through: 1, slots: slots.clone() })));
    let of = played.node.next_advert().unwrap().of;
    played.handle(Input::Judged { of, interest: Interest::Fetch });
    let said = played.node.transmit(played.now, NodeIndex(TAKER), Lane::Request).unwrap();
    let Word::Request { request, .. } = said.word else { panic!("it asks for it: {said:?}") };
    for peer in [1, TAKER] {
        played.asks(peer, u32::from(peer));
    }
    assert_eq!(played.gives(TAKER, 1), 1, "it has had no time to give");
    played.handle(word(TAKER, Word::NotFound { request }));
    assert_eq!(played.gives(TAKER, 1), 0);
    assert_eq!(played.gives(1, usize::MAX), CHUNKS);
    assert_eq!(played.gives(TAKER, usize::MAX), CHUNKS - 1);
    // It may not have been asked for anything since: after a minute it is as others are.
    for (ms, gives) in [(GOSSIP_FAULT_MS_MAX - 1, 0), (GOSSIP_FAULT_MS_MAX, 1)] {
        let mut late = Played::new();
        late.handle(word(TAKER, Word::Tell(Tell { exchanges: 1, through: 1, slots: slots.clone() })));
        let of = late.node.next_advert().unwrap().of;
        late.handle(Input::Judged { of, interest: Interest::Fetch });
        let said = late.node.transmit(late.now, NodeIndex(TAKER), Lane::Request).unwrap();
        let Word::Request { request, .. } = said.word else { panic!("it asks for it: {said:?}") };
        late.handle(word(TAKER, Word::NotFound { request }));
        late.now = late.now.after_ms(ms);
        for peer in [1, TAKER] {
            late.asks(peer, u32::from(peer));
        }
        assert_eq!(late.gives(TAKER, 1), gives, "{ms} ms later");
    }
}

#[test]
fn who_gives_nothing_waits_no_longer_than_a_moment_for_one_who_takes_little_all_the_time() {
    let mut played = Played::begun();
    let turns = 5 * GOSSIP_BEHIND_MS / 20;
    (0..turns.div_ceil(CHUNKS as u64)).for_each(|piece| {
        played.asks(1, 80 + piece as u32);
    });
    (PIECES - 3..PIECES).for_each(|piece| {
        played.asks(TAKER, piece);
    });
    assert_eq!(played.gives(TAKER, 1), 0);
    let mut taken = 0;
    for _ in 0..turns {
        assert_eq!(played.gives(1, 1), 1, "it takes one now and then");
        played.now = played.now.after_ms(20);
        played.handle(Input::Tick);
        taken += played.gives(TAKER, 1);
    }
    assert!(taken >= 3, "{taken}");
}

#[test]
fn who_gives_nothing_waits_for_others_who_take_nothing_for_a_moment() {
    let mut played = Played::begun();
    played.asks(1, 81);
    played.asks(TAKER, 84);
    assert_eq!(played.gives(1, 1), 1);
    assert_eq!(played.gives(TAKER, 1), 0);
    // The link of the other has no room any more.
    let (at, _) = played.node.deadline().unwrap();
    assert!(at <= played.now.after_ms(GOSSIP_BEHIND_MS), "it is looked at again");
    played.now = at;
    played.handle(Input::Tick);
    assert_eq!(played.gives(TAKER, 2), 1);
}

#[test]
fn a_request_that_is_said_again_is_not_answered_again() {
    let mut played = Played::new();
    let request = played.asks(1, 7);
    assert_eq!(played.gives(1, usize::MAX), CHUNKS);
    assert_eq!(played.outputs, []);
    for _ in 0..3 {
        played.asks_by(1, 7, request);
    }
    assert_eq!(played.gives(1, usize::MAX), 0);
    let greedy = Output::Blame { node: NodeIndex(1), fault: Fault::Greedy };
    assert_eq!(played.outputs, [greedy.clone(), greedy.clone(), greedy]);
    // Who wants it again, and says so, has it.
    played.asks(1, 7);
    assert_eq!(played.gives(1, usize::MAX), CHUNKS);
}
