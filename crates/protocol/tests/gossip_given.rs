//! Who is given what of a large artifact while several want it: one node is real, and has it; the others are played, so that each asks for and tells of
//! what a test wants.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "rig/mesh.rs"]
mod mesh;

use busway_protocol::Time;
use busway_protocol::gossip::{
    Epoch, Fault, Gossip, Input, Lane, NodeIndex, Offering, Output, Part, Reference, Word,
};
use busway_wire::gossip::Exchange;
use busway_wire::limits::{ARTIFACT_CHUNK_BYTES, ARTIFACT_PIECE_BYTES_MIN};
use mesh::{config, word};

const REAL: u8 = 0;
const PEERS: [u8; 4] = [1, 2, 3, 4];
const PIECES: u32 = 16;
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
