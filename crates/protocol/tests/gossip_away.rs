//! Who gives nothing while a large artifact comes: when others are asked in its place, and when it is asked again. One node is real; the others are
//! played, so that each says and gives what a test wants, when it wants it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "rig/mesh.rs"]
mod mesh;

use std::collections::BTreeMap;

use busway_protocol::Time;
use busway_protocol::artifact::pieces;
use busway_protocol::gossip::{
    ArtifactId, Epoch, Gossip, Input, Interest, Lane, NodeIndex, Output, Part, Reference, SlotNumber, Word,
};
use busway_wire::gossip::{Content, Exchange, Mark, Marked, Marks, Offer, Slot, Standing, Tell};
use busway_wire::limits::{ARTIFACT_CHUNK_BYTES, ARTIFACT_PIECE_BYTES_MIN, GOSSIP_DRY_MS};
use mesh::{config, word};

/// Who has all, who is real, and two others who want it too: of pieces 0 to 14 each third is of one of these three to get, in this order.
const ORIGIN: u8 = 0;
const REAL: u8 = 1;
const SILENT: u8 = 2;
const OTHER: u8 = 3;
/// Two more who want it, where a test has them.
const CHATTY: u8 = 4;
const SLOW: u8 = 5;
/// Chunks of a piece.
const CHUNKS: u64 = ARTIFACT_PIECE_BYTES_MIN / ARTIFACT_CHUNK_BYTES as u64;
const PIECES: u32 = 15;

struct Played {
    now: Time,
    node: Gossip,
    /// All others.
    peers: Vec<u8>,
    /// What the origin has, in its slots from the first on.
    bodies: Vec<Vec<u8>>,
    outputs: Vec<Output>,
    /// What each is asked for and has not given, by requests: of which slot, what of it, and from where on.
    asked: BTreeMap<(u8, u64), (SlotNumber, Part, usize)>,
    /// Who was told to give what it was asked for no more.
    cancelled: Vec<u8>,
}

impl Played {
    /// It has the values of all pieces, and asks for its own.
    fn new() -> Played {
        Played::after(0)
    }

    /// The same where those values take so many milliseconds to come.
    fn after(ms: u64) -> Played {
        let played = Played::among(&[ORIGIN, SILENT, OTHER], ms);
        assert_eq!(played.asked_of(ORIGIN), [0, 3, 6, 9, 12]);
        played
    }

    /// The same with these others, of whom the first is the origin.
    fn among(peers: &[u8], ms: u64) -> Played {
        let (node, asked) = (Gossip::new(config(REAL, 1, 6)), BTreeMap::new());
        let (outputs, cancelled) = (Vec::new(), Vec::new());
        let (peers, bodies) = (peers.to_vec(), Vec::new());
        let mut played = Played { now: Time(0), node, peers, bodies, outputs, asked, cancelled };
        for peer in played.peers.clone() {
            played.handle(Input::PeerUp { node: NodeIndex(peer) });
            let version = u64::from(peer == ORIGIN);
            let exchange = Exchange { epoch: Epoch(1), version, since: None, filter: None };
            played.handle(word(peer, Word::Exchange(exchange)));
        }
        played.offers();
        played.wait_until(ms);
        assert!(played.gives(ORIGIN));
        played
    }

    /// The same when both others have told for a while, every 20 ms, of a piece that they got: they are away when they say nothing for 100 ms. Neither
    /// has given anything, so each was asked for two.
    fn begun() -> Played {
        let mut played = Played::new();
        for round in 0..5 {
            played.wait_until(20 * (u64::from(round) + 1));
            played.has(SILENT, &[1 + 3 * round]);
            played.has(OTHER, &[2 + 3 * round]);
            assert!(played.gives(ORIGIN));
        }
        assert_eq!((played.asked_of(SILENT), played.asked_of(OTHER)), (vec![1, 4], vec![2, 5]));
        assert_eq!(played.cancelled, []);
        played
    }

    /// The same when one is passed over: it has been silent, and the others have not.
    fn passed_over() -> Played {
        let mut played = Played::begun();
        for ms in (120..=220).step_by(20) {
            played.wait_until(ms);
            played.has(OTHER, &[]);
            assert!(played.gives(ORIGIN));
        }
        played
    }

    /// The origin offers one more, which is wanted.
    fn offers(&mut self) {
        let (size, seed) = (u64::from(PIECES) * ARTIFACT_PIECE_BYTES_MIN, self.bodies.len() as u64);
        let body: Vec<u8> = (0..size).map(|at| ((at + seed) % 251) as u8).collect();
        let (topic, content) = ("block".parse().unwrap(), Content::Apart { id: ArtifactId::of(&body), size });
        let offer = Some(Offer { topic, attribute: vec![], confirm: false, content });
        let of = of_origin(self.bodies.len());
        self.bodies.push(body);
        let slots = vec![Slot { slot: of.slot, version: of.version, offer }];
        self.handle(word(ORIGIN, Word::Tell(Tell { exchanges: 1, through: of.version, slots })));
        assert_eq!(self.node.next_advert().unwrap().of, of);
        self.handle(Input::Judged { of, interest: Interest::Fetch });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.node.handle(self.now, input, &mut self.outputs);
        for (peer, lane) in self.peers.iter().copied().flat_map(|peer| Lane::ALL.map(|lane| (peer, lane))) {
            while let Some(said) = self.node.transmit(self.now, NodeIndex(peer), lane) {
                if let Word::Request { request, of, part, offset } = said.word {
                    self.asked.insert((peer, request), (of.slot, part, usize::try_from(offset).unwrap()));
                } else if let Word::Cancel { request } = said.word {
                    self.asked.remove(&(peer, request)).unwrap();
                    self.cancelled.push(peer);
                }
            }
        }
    }

    /// Until so many milliseconds after the beginning nobody says anything; the node looks at the time when it wants to.
    fn wait_until(&mut self, ms: u64) {
        let until = Time(0).after_ms(ms);
        while let Some((at, _)) = self.node.deadline().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.handle(Input::Tick);
        }
        self.now = until;
    }

    /// A peer tells that it has got these.
    fn has(&mut self, peer: u8, pieces: &[u32]) {
        self.handle(word(peer, Word::Have { of: of_origin(0), pieces: pieces.to_vec() }));
    }

    /// A peer gives a chunk of the first that it is asked for; whether it is asked for anything.
    fn gives(&mut self, peer: u8) -> bool {
        let first = self.asked.range((peer, 0)..=(peer, u64::MAX)).next().map(|((_, request), _)| *request);
        first.inspect(|request| self.gives_of(peer, *request)).is_some()
    }

    /// A peer gives all that it is asked for of the origin's artifact in that slot.
    fn gives_all(&mut self, peer: u8, slot: u32) {
        loop {
            let mut of = self.asked.iter().filter(|((from, _), (of, ..))| (*from, of.0) == (peer, slot));
            let Some(request) = of.next().map(|((_, request), _)| *request) else { return };
            self.gives_of(peer, request);
        }
    }

    /// The origin gives the values of the pieces of the artifact in that slot, and nothing else.
    fn gives_tree(&mut self, slot: u32) {
        let of = |(_, (of, part, _)): &(&(u8, u64), &(SlotNumber, Part, usize))| {
            of.0 == slot && *part == Part::Tree
        };
        let ((peer, request), _) = self.asked.iter().find(of).unwrap();
        self.gives_of(*peer, *request);
    }

    fn gives_of(&mut self, peer: u8, request: u64) {
        let (slot, part, offset) = self.asked.remove(&(peer, request)).unwrap();
        let body = &self.bodies[slot.0 as usize];
        let bytes = match part {
            Part::Tree => pieces::tree(body),
            Part::Piece { index } => {
                let pieces = body.chunks(usize::try_from(ARTIFACT_PIECE_BYTES_MIN).unwrap());
                pieces.collect::<Vec<_>>()[index as usize].to_vec()
            }
            Part::Whole => panic!("it comes in pieces"),
        };
        let end = bytes.len().min(offset + ARTIFACT_CHUNK_BYTES);
        if end < bytes.len() {
            self.asked.insert((peer, request), (slot, part, end));
        }
        let word = Word::Chunk { request, offset: offset as u64 };
        self.handle(Input::Word { from: NodeIndex(peer), word, following: &bytes[offset..end] });
    }

    /// A peer cannot give the first that it is asked for.
    fn refuses(&mut self, peer: u8) {
        let (_, request) = *self.asked.range((peer, 0)..=(peer, u64::MAX)).next().unwrap().0;
        self.asked.remove(&(peer, request));
        self.handle(word(peer, Word::NotFound { request }));
    }

    /// The link of a peer ends, and with it what it was asked for.
    fn unlink(&mut self, peer: u8) {
        self.asked.retain(|(of, _), _| *of != peer);
        self.handle(Input::PeerDown { node: NodeIndex(peer) });
    }

    /// The pieces of the first artifact that a peer is asked for, in order.
    fn asked_of(&self, peer: u8) -> Vec<u32> {
        self.asked_of_slot(peer, 0)
    }

    fn asked_of_slot(&self, peer: u8, slot: u32) -> Vec<u32> {
        let of = self.asked.range((peer, 0)..=(peer, u64::MAX));
        let mut pieces: Vec<u32> = of
            .filter_map(|(_, what)| match what {
                (SlotNumber(of), Part::Piece { index }, _) if *of == slot => Some(*index),
                _ => None,
            })
            .collect();
        pieces.sort_unstable();
        pieces
    }

    fn is_whole(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output, Output::Stored { .. }))
    }
}

/// So many artifacts the origin has offered before.
fn of_origin(before: usize) -> Reference {
    let slot = SlotNumber(u32::try_from(before).unwrap());
    Reference { node: NodeIndex(ORIGIN), epoch: Epoch(1), slot, version: before as u64 + 1 }
}

#[test]
fn how_slowly_a_few_bytes_came_says_nothing_of_how_much_is_asked_for() {
    // The values of fifteen pieces are 480 bytes: in 200 ms that is 2 400 a second, and no more than the least would be asked for.
    for ms in [20, 200, 400] {
        assert_eq!(Played::after(ms).asked_of(ORIGIN), [0, 3, 6, 9, 12], "after {ms} ms");
    }
}

#[test]
fn who_has_said_little_is_passed_over_as_soon_as_who_speaks_as_often_as_others_do() {
    let mut played = Played::new();
    played.wait_until(10);
    played.has(SILENT, &[1]);
    assert_eq!(played.asked_of(SILENT), [1]);
    // The other tells every 20 ms of a piece that it got: four times as long, and 100 ms at least, is long.
    for round in 0..4 {
        played.wait_until(10 + 20 * (u64::from(round) + 1));
        played.has(OTHER, &[2 + 3 * round]);
        assert!(played.gives(ORIGIN));
    }
    played.wait_until(109);
    assert_eq!(played.cancelled, []);
    played.wait_until(110);
    assert_eq!(played.cancelled, [SILENT]);
    // What was its own to get is ours too now, and asked of who has all.
    assert!(played.asked_of(ORIGIN).iter().any(|index| index % 3 == 1));
}

#[test]
fn who_has_said_little_may_be_silent_as_long_as_the_middle_one_of_those_who_have_said_enough() {
    let mut played = Played::among(&[ORIGIN, SILENT, OTHER, CHATTY, SLOW], 0);
    let tell = |played: &mut Played, ms: u64| {
        for (peer, every_ms) in [(CHATTY, 10), (OTHER, 40), (SLOW, 100)] {
            if ms.is_multiple_of(every_ms) {
                played.has(peer, &[u32::from(peer) - 1]);
            }
        }
    };
    for ms in (10..=400).step_by(10) {
        played.wait_until(ms);
        tell(&mut played, ms);
    }
    [CHATTY, OTHER, SLOW].into_iter().for_each(|peer| played.gives_all(peer, 0));
    // They owe nothing, and each of the three has spoken four times at least. This one speaks for the first time, and something comes all the while.
    played.has(SILENT, &[1]);
    assert_eq!(played.asked_of(SILENT), [1]);
    for ms in (410..560).step_by(10) {
        played.wait_until(ms);
        tell(&mut played, ms);
        assert!(!ms.is_multiple_of(30) || played.gives(ORIGIN));
    }
    // Four times 40 ms: not what who speaks without end would make of it, and not what the slowest one would.
    played.wait_until(559);
    assert_eq!(played.cancelled, []);
    played.wait_until(560);
    assert_eq!(played.cancelled, [SILENT]);
}

#[test]
fn an_origin_that_owes_what_is_ours_to_pass_on_is_asked_for_nothing_of_others() {
    let mut played = Played::new();
    // Its line is slow: it gives what others asked for.
    played.wait_until(2 * GOSSIP_DRY_MS);
    assert_eq!(played.asked_of(ORIGIN), [0, 3, 6, 9, 12]);
    while played.gives(ORIGIN) {}
    let moved_ms = played.now.0 / 1_000_000;
    played.wait_until(moved_ms + GOSSIP_DRY_MS - 1);
    assert_eq!(played.asked_of(ORIGIN), [], "it may come of others");
    played.wait_until(moved_ms + GOSSIP_DRY_MS);
    assert!(!played.asked_of(ORIGIN).is_empty());
}

#[test]
fn what_an_origin_owes_of_one_artifact_keeps_nothing_of_another_from_being_asked_for() {
    for (slow, other) in [(0, 1), (1, 0)] {
        let mut played = Played::new();
        played.offers();
        played.gives_tree(1);
        // All of the one that is ours to get comes, and nothing of the other, whichever was asked for first.
        played.gives_all(ORIGIN, other);
        assert_eq!(played.asked_of_slot(ORIGIN, slow), [0, 3, 6, 9, 12]);
        assert_eq!(played.asked_of_slot(ORIGIN, other), []);
        let moved_ms = played.now.0 / 1_000_000;
        played.wait_until(moved_ms + GOSSIP_DRY_MS - 1);
        assert_eq!(played.asked_of_slot(ORIGIN, other), [], "it may come of others");
        played.wait_until(moved_ms + GOSSIP_DRY_MS);
        assert!(!played.asked_of_slot(ORIGIN, other).is_empty());
        assert_eq!(played.asked_of_slot(ORIGIN, slow), [0, 3, 6, 9, 12]);
    }
}

#[test]
fn who_was_passed_over_is_asked_when_nothing_comes_of_others() {
    let mut played = Played::passed_over();
    assert_eq!(played.cancelled, [SILENT, SILENT]);
    // Of who has all nothing comes any more, and the other one gives what it has: all but what the silent one alone has.
    played.unlink(ORIGIN);
    let rest: Vec<u32> = (0..PIECES).filter(|index| index % 3 != 1).collect();
    played.has(OTHER, &rest);
    while played.gives(OTHER) {}
    assert_eq!((played.asked.len(), played.is_whole()), (0, false));
    let moved_ms = played.now.0 / 1_000_000;
    played.wait_until(moved_ms + GOSSIP_DRY_MS - 1);
    assert_eq!(played.asked_of(SILENT), [], "it may still come of others");
    played.wait_until(moved_ms + GOSSIP_DRY_MS);
    assert_eq!(played.asked_of(SILENT).len(), 2);
}

#[test]
fn who_was_passed_over_and_gives_is_asked_as_others_are() {
    let mut played = Played::passed_over();
    played.unlink(ORIGIN);
    let rest: Vec<u32> = (0..PIECES).filter(|index| index % 3 != 1).collect();
    played.has(OTHER, &rest);
    while played.gives(OTHER) {}
    played.wait_until(played.now.0 / 1_000_000 + GOSSIP_DRY_MS);
    // It has nothing new to tell, and gives what it is asked for; no time passes meanwhile.
    while played.gives(SILENT) {}
    assert!(played.is_whole());
}

#[test]
fn who_is_given_nothing_by_anybody_passes_over_nobody() {
    // Its own line is down: what comes last is of who speaks most often.
    let mut played = Played::begun();
    played.wait_until(115);
    assert!(played.gives(ORIGIN));
    played.wait_until(500);
    assert_eq!(played.cancelled, []);
    // It stood still itself.
    let mut played = Played::begun();
    played.now = Time(0).after_ms(480);
    played.handle(Input::Tick);
    assert_eq!(played.cancelled, []);
}

#[test]
fn what_a_peer_was_asked_for_when_its_link_ends_is_asked_of_others_at_once() {
    let mut played = Played::begun();
    // One who has given a piece is asked for more than two.
    (0..CHUNKS).for_each(|_| assert!(played.gives(OTHER)));
    played.has(OTHER, &[4]);
    assert_eq!(played.asked_of(SILENT), [1, 4]);
    played.unlink(SILENT);
    assert!(played.asked_of(OTHER).contains(&4), "it has it");
    let of_origin = played.asked_of(ORIGIN);
    assert!(of_origin.contains(&1), "it is ours to get now that nobody else has it: {of_origin:?}");
}

#[test]
fn what_one_who_has_all_was_to_get_is_others_to_get_when_its_link_ends() {
    let mut played = Played::begun();
    let mark = Mark { slot: SlotNumber(0), version: 1, standing: Standing::Has };
    let marked = vec![Marked { node: NodeIndex(ORIGIN), epoch: Epoch(1), marks: vec![mark] }];
    played.handle(word(SILENT, Word::Marks(Marks { exchanges: 1, through: 1, of: marked })));
    played.unlink(SILENT);
    let of_origin = played.asked_of(ORIGIN);
    assert!([1, 7, 13].iter().all(|index| of_origin.contains(index)), "{of_origin:?}");
}

#[test]
fn another_who_has_a_piece_is_asked_at_once_in_the_place_of_who_has_failed_and_gave_nothing() {
    let mut played = Played::new();
    for peer in [SILENT, OTHER] {
        played.has(peer, &[if peer == SILENT { 1 } else { 2 }]);
    }
    played.refuses(SILENT);
    assert!((0..CHUNKS).all(|_| played.gives(OTHER)));
    for ms in (20..=600).step_by(20) {
        played.wait_until(ms);
        [SILENT, OTHER].into_iter().for_each(|peer| played.has(peer, &[]));
        assert!(!ms.is_multiple_of(60) || played.gives(ORIGIN));
    }
    played.has(SILENT, &[4]);
    assert_eq!(played.asked_of(SILENT), [4], "nobody else has it");
    played.has(OTHER, &[4]);
    assert_eq!((played.asked_of(SILENT), played.asked_of(OTHER)), (vec![], vec![4]));
    assert_eq!(played.cancelled, [SILENT]);
}
