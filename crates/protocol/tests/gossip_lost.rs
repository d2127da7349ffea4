//! Artifacts where links are lost with what was said on them, where there is no room, and where many wait.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "rig/mesh.rs"]
mod mesh;

use busway_protocol::flow::Budget;
use busway_protocol::gossip::{
    Config, Epoch, Gossip, Input, Interest, Lane, NodeIndex, Nodes, Offering, Output, Reference, Said,
    SlotNumber, Word,
};
use busway_wire::Pattern;
use busway_wire::gossip::Part;
use busway_wire::gossip::{
    Content, Describe, Exchange, Filter, Mark, Marked, Marks, Offer, Slot, Standing, Tell,
};
use busway_wire::limits::{
    GOSSIP_AGAIN_MS, GOSSIP_FAULT_MS, GOSSIP_PIECES_OF_PEER_MAX, GOSSIP_PULLS_OF_PEER_MAX, GOSSIP_STALL_MS,
};
use mesh::{Mesh, config, limits, offering, word};

fn chain() -> Mesh {
    let mut mesh = Mesh::new(3);
    mesh.link(0, 1);
    mesh.link(1, 2);
    mesh.settle(500);
    mesh
}

fn of(node: u8, slot: u32, version: u64) -> Reference {
    Reference { node: NodeIndex(node), epoch: Epoch(1), slot: SlotNumber(slot), version }
}

/// Everything of that kind that node 1 and node 2 say to each other is lost, and then their link.
fn lose_between(mesh: &mut Mesh, loses: fn(u8, u8, &Word) -> bool) {
    mesh.loses = loses;
    mesh.settle(3_000);
    mesh.loses = |_, _, _| false;
    mesh.cut(1, 2);
    mesh.link(1, 2);
    mesh.settle(3_000);
}

#[test]
fn a_mark_that_was_lost_with_its_link_is_said_again_and_so_is_an_end() {
    let mut mesh = chain();
    let slot = mesh.nodes[0].offer(mesh.now, offering(b"body")).unwrap();
    lose_between(&mut mesh, |from, to, word| (from, to) == (1, 2) && matches!(word, Word::Marks(_)));
    assert_eq!(mesh.received(2).len(), 1);
    mesh.handle(0, Input::Withdraw { slot });
    lose_between(&mut mesh, |from, to, word| (from, to) == (1, 2) && matches!(word, Word::Marks(_)));
    assert_eq!(mesh.gone(2), 1);
    mesh.settle(3_000);
    let kept: Vec<usize> = mesh.nodes.iter().map(|node| node.usage().slots).collect();
    assert_eq!(kept, [0, 0, 0], "nobody keeps a note of it when all know");
}

#[test]
fn a_question_or_a_description_that_was_lost_with_its_link_is_asked_and_given_again() {
    for lost in [
        (|_, _, word: &Word| matches!(word, Word::Ask { .. })) as fn(u8, u8, &Word) -> bool,
        |_, _, word: &Word| matches!(word, Word::Describe(_)),
    ] {
        let mut mesh = chain();
        mesh.nodes[0].offer(mesh.now, offering(b"body")).unwrap();
        lose_between(&mut mesh, lost);
        assert_eq!(mesh.received(2).len(), 1);
    }
}

#[test]
fn an_end_reaches_who_knows_a_slot_by_others_alone_when_its_origin_comes() {
    // It has the slot by node 1, which hears of its end no more.
    let mut mesh = chain();
    let slot = mesh.nodes[0].offer(mesh.now, offering(b"body")).unwrap();
    mesh.settle(3_000);
    assert_eq!(mesh.received(2).len(), 1);
    mesh.cut(0, 1);
    mesh.handle(0, Input::Withdraw { slot });
    mesh.link(0, 2);
    mesh.settle(3_000);
    assert_eq!((mesh.gone(2), mesh.nodes[2].usage().slots), (1, 0));
    // A slot that its origin never used is over when that has told its table.
    let mut mesh = Mesh::new(3);
    mesh.link(1, 2);
    mesh.settle(500);
    forge(&mut mesh, of(0, 77, 9), b"cannot be");
    forge(&mut mesh, of(0, 77, 1), b"never was");
    mesh.settle(500);
    assert_eq!(mesh.received(1).len(), 2, "nobody can know better");
    mesh.nodes[0].offer(mesh.now, offering(b"is")).unwrap();
    mesh.link(0, 1);
    mesh.settle(500);
    assert_eq!((mesh.gone(1), mesh.nodes[1].usage().slots), (2, 1));
}

/// Node 2 tells node 1 that it has this, whatever it is, and describes it when it is asked.
fn forge(mesh: &mut Mesh, of: Reference, body: &[u8]) {
    let mark = Mark { slot: of.slot, version: of.version, standing: Standing::Has };
    let marked = vec![Marked { node: of.node, epoch: of.epoch, marks: vec![mark] }];
    mesh.handle(1, word(2, Word::Marks(Marks { exchanges: 1, through: 0, of: marked })));
    while let Some(said) = mesh.nodes[1].transmit(mesh.now, NodeIndex(2), Lane::Advert) {
        if said.word != (Word::Ask { of: vec![of] }) {
            mesh.handle(2, word(1, said.word));
        }
    }
    mesh.handle(1, word(2, described(of, body)));
    mesh.judge();
}

fn described(of: Reference, body: &[u8]) -> Word {
    let content = Content::Inside { body: body.to_vec() };
    let topic = "block".parse().unwrap();
    let offer = Some(Offer { topic, attribute: vec![], confirm: false, content });
    let slots = vec![Slot { slot: of.slot, version: of.version, offer }];
    Word::Describe(Describe { node: of.node, epoch: of.epoch, slots })
}

#[test]
fn a_question_that_is_answered_by_nothing_has_ended_and_the_marks_are_acknowledged() {
    const MARKS: u32 = 5_000;
    let mut mesh = Mesh::new(3);
    mesh.link(1, 2);
    mesh.settle(500);
    for slot in 0..MARKS {
        let (of, through) = (of(0, slot, 1), u64::from(slot) + 1);
        let mark = Mark { slot: of.slot, version: 1, standing: Standing::Has };
        let of_node = vec![Marked { node: of.node, epoch: of.epoch, marks: vec![mark] }];
        mesh.handle(1, word(2, Word::Marks(Marks { exchanges: 1, through, of: of_node })));
        let asked = mesh.nodes[1].transmit(mesh.now, NodeIndex(2), Lane::Advert).map(|said| said.word);
        assert_eq!(asked, Some(Word::Ask { of: vec![of] }));
        let slots = vec![Slot { slot: of.slot, version: 1, offer: None }];
        mesh.handle(1, word(2, Word::Describe(Describe { node: of.node, epoch: of.epoch, slots })));
    }
    assert_eq!((mesh.nodes[1].usage().asks, mesh.nodes[1].usage().slots), (0, 0));
    mesh.settle(5_000);
    let known = |(from, _, said): &(u8, u8, Said)| match said.word {
        Word::Handled { marks, .. } if *from == 1 => Some(marks),
        _ => None,
    };
    assert_eq!(mesh.said.iter().rev().find_map(known), Some(u64::from(MARKS)));
}

#[test]
fn what_was_said_of_a_slot_before_its_origin_uses_it_is_not_what_its_origin_says() {
    let mut mesh = Mesh::new(3);
    mesh.link(1, 2);
    mesh.settle(500);
    forge(&mut mesh, of(0, 0, 1), b"forged");
    mesh.link(0, 1);
    mesh.settle(500);
    forge(&mut mesh, of(0, 0, 2), b"forged");
    mesh.nodes[0].offer(mesh.now, offering(b"first")).unwrap();
    mesh.nodes[0].offer(mesh.now, offering(b"second")).unwrap();
    mesh.settle(500);
    let received = mesh.received(1);
    let received: Vec<&[u8]> = received.iter().map(|body| &body[..]).collect();
    assert_eq!(received, [b"forged", &b"first"[..], b"second"], "while it was away it was all there was");
}

#[test]
fn a_restart_is_heard_by_others_and_one_that_never_was_takes_nothing_away() {
    let mut mesh = chain();
    for number in 0..5 {
        mesh.nodes[0].offer(mesh.now, offering(&[number])).unwrap();
    }
    mesh.settle(3_000);
    assert_eq!(mesh.received(2).len(), 5);
    // Of a start that there was not, beside what is there.
    let forged = Reference { epoch: Epoch(u64::MAX), ..of(0, 0, 1) };
    let taken = mesh.outputs_of(1);
    forge(&mut mesh, forged, b"forged");
    mesh.cut(0, 1);
    let node = NodeIndex(0);
    mesh.handle(1, word(2, Word::Describe(Describe { node, epoch: Epoch(u64::MAX), slots: vec![] })));
    mesh.settle(500);
    assert_eq!((mesh.outputs_of(1), mesh.gone(2)), (taken, 0));
    // It starts again, and uses the first slot.
    mesh.nodes[0] = Gossip::new(config(0, 2, 3));
    mesh.link(0, 1);
    mesh.nodes[0].offer(mesh.now, offering(b"anew")).unwrap();
    mesh.settle(3_000);
    assert_eq!(mesh.gone(2), 5);
    assert_eq!(mesh.received(2).last().unwrap()[..], *b"anew");
}

#[test]
fn who_was_told_of_a_slot_is_told_that_it_went_where_its_next_body_is_not_fetched() {
    let mut mesh = chain();
    let slot = mesh.nodes[0].offer(mesh.now, offering(b"first")).unwrap();
    mesh.settle(3_000);
    mesh.interest = Interest::Stash;
    mesh.nodes[0].offer(mesh.now, Offering { instead_of: Some(slot), ..offering(b"second") }).unwrap();
    mesh.settle(3_000);
    assert_eq!((mesh.gone(1), mesh.gone(2)), (1, 1));
}

#[test]
fn what_one_says_is_over_is_had_of_another_who_has_it_still() {
    let mut mesh = Mesh::new(4);
    for (a, b) in [(0, 1), (0, 3), (1, 2), (2, 3)] {
        mesh.link(a, b);
    }
    mesh.nodes[0].offer(mesh.now, offering(b"body")).unwrap();
    mesh.settle(3_000);
    let lacks = Mark { slot: SlotNumber(0), version: 1, standing: Standing::Lacks };
    let marked = vec![Marked { node: NodeIndex(0), epoch: Epoch(1), marks: vec![lacks] }];
    mesh.handle(2, word(1, Word::Marks(Marks { exchanges: 1, through: 0, of: marked })));
    mesh.settle(3_000);
    assert_eq!((mesh.gone(2), mesh.received(2).len()), (1, 2));
}

#[test]
fn what_was_under_way_before_a_peer_is_asked_again_is_not_taken_for_the_answer() {
    let mut mesh = Mesh::new(2);
    let tight = |bytes| Config {
        limits: {
            let mut tight = limits(bytes);
            tight.floor = Budget { messages: 1, bytes: 1 };
            tight
        },
        ..config(1, 1, 2)
    };
    mesh.nodes[1] = Gossip::new(tight(1_200));
    mesh.link(0, 1);
    mesh.interest = Interest::Stash;
    for number in 0..3 {
        mesh.nodes[0].offer(mesh.now, offering(&[number])).unwrap();
    }
    mesh.settle(500);
    assert_eq!(mesh.nodes[1].counts().dropped[0], 1, "one had no room");
    mesh.handle(0, Input::Withdraw { slot: SlotNumber(0) });
    mesh.settle(100);
    // A change is under way when it asks for what it missed.
    mesh.nodes[0].offer(mesh.now, offering(b"late")).unwrap();
    mesh.handle(0, Input::Withdraw { slot: SlotNumber(0) });
    let late = mesh.nodes[0].transmit(mesh.now, NodeIndex(1), Lane::Advert).unwrap().word;
    mesh.now = mesh.now.after_ms(2_000);
    mesh.handle(1, Input::Tick);
    let again = mesh.nodes[1].transmit(mesh.now, NodeIndex(0), Lane::Advert).unwrap().word;
    assert!(
        matches!(&again, Word::Exchange(Exchange { since: Some(since), .. }) if since.slots == 2),
        "{again:?}"
    );
    mesh.handle(1, word(0, late));
    mesh.cut(0, 1);
    mesh.link(0, 1);
    mesh.settle(3_000);
    assert_eq!(mesh.nodes[1].usage().slots, 2, "the one that had no room is there, beside the one that had");
}

#[test]
fn changes_of_one_slot_that_wait_for_a_peer_which_has_not_done_with_the_first_are_one() {
    let mut mesh = Mesh::new(2);
    mesh.link(0, 1);
    mesh.settle(500);
    let slot = mesh.nodes[0].offer(mesh.now, offering(b"0")).unwrap();
    let to = NodeIndex(1);
    mesh.nodes[0].transmit(mesh.now, to, Lane::Advert).unwrap();
    for number in 0..100_000_u32 {
        let body = number.to_le_bytes();
        mesh.nodes[0].offer(mesh.now, Offering { instead_of: Some(slot), ..offering(&body) }).unwrap();
        assert_eq!(mesh.nodes[0].transmit(mesh.now, to, Lane::Advert), None);
    }
    assert_eq!(mesh.nodes[0].usage().held, 1);
}

#[test]
fn what_nobody_can_give_keeps_nothing_else_waiting() {
    let mut mesh = Mesh::new(3);
    let filter = Some(Filter { patterns: vec![Pattern::parse("late.>").unwrap()], age_ms_max: None });
    mesh.nodes[1] = Gossip::new(Config { filter, ..config(1, 1, 3) });
    mesh.loses = |from, to, word| (from, to) == (2, 0) && matches!(word, Word::Chunk { .. });
    mesh.link(0, 2);
    mesh.link(1, 2);
    mesh.settle(100);
    for number in 0..600_u32 {
        let mut body = vec![3; 2_000];
        body[..4].copy_from_slice(&number.to_le_bytes());
        let topic = if number < 590 { "block" } else { "late.block" };
        mesh.nodes[2].offer(mesh.now, Offering::new(topic.parse().unwrap(), body.into())).unwrap();
    }
    mesh.settle(100);
    mesh.cut(0, 2);
    // The last of them are with another node, and what that has of its own.
    mesh.link(0, 1);
    mesh.nodes[1].offer(mesh.now, offering(&[7; 2_000])).unwrap();
    mesh.settle(2_000);
    assert_eq!(mesh.received(0).len(), 11);
}

#[test]
fn who_has_no_room_left_keeps_no_other_waiting_and_what_is_urgent_goes_first() {
    let mut mesh = Mesh::new(3);
    let tight = Config {
        limits: {
            let mut tight = limits(1 << 20);
            tight.floor = Budget { messages: 1, bytes: 256 << 10 };
            tight
        },
        ..config(0, 1, 3)
    };
    mesh.nodes[0] = Gossip::new(tight);
    mesh.loses = |from, _, word| from == 1 && matches!(word, Word::Chunk { .. });
    mesh.link(0, 1);
    mesh.link(0, 2);
    mesh.settle(100);
    for number in 0..20 {
        mesh.nodes[1].offer(mesh.now, offering(&vec![number; 256 << 10])).unwrap();
    }
    mesh.settle(100);
    mesh.nodes[2].offer(mesh.now, offering(&[7; 100_000])).unwrap();
    mesh.settle(5_000);
    assert_eq!(mesh.received(0).len(), 1, "of who gives");
}

#[test]
fn what_costs_one_word_is_bounded_however_much_there_is_and_however_often_it_is_asked() {
    const SLOTS: u32 = 20_000;
    let mut mesh = Mesh::new(2);
    mesh.nodes[0] = Gossip::new(Config { slots_max: SLOTS, ..config(0, 1, 2) });
    for number in 0..SLOTS {
        mesh.nodes[0].offer(mesh.now, offering(&number.to_le_bytes())).unwrap();
    }
    mesh.handle(0, Input::PeerUp { node: NodeIndex(1) });
    let filter = Some(Filter { patterns: vec![Pattern::parse("other.>").unwrap()], age_ms_max: None });
    let exchange = Word::Exchange(Exchange { epoch: Epoch(1), version: 0, since: None, filter });
    let (mut most, mut words) = (0, 0);
    for _ in 0..50 {
        mesh.handle(0, word(1, exchange.clone()));
        let before = mesh.nodes[0].counts().looked;
        words += usize::from(mesh.nodes[0].transmit(mesh.now, NodeIndex(1), Lane::Advert).is_some());
        most = most.max(mesh.nodes[0].counts().looked - before);
    }
    let looked = mesh.nodes[0].counts().looked;
    assert!(most <= 2_048 && looked <= u64::from(SLOTS), "{most} for a word, {looked} for one table");
    assert!(words > 8, "it is told how far that is");
    // Another start would have another link.
    let other = Word::Exchange(Exchange { epoch: Epoch(2), version: 0, since: None, filter: None });
    mesh.handle(0, word(1, other));
    assert_eq!(mesh.blamed(0).len(), 1);
    mesh.settle(1_000);
    assert_eq!(mesh.nodes[0].counts().looked, looked, "the last that it said is followed, later");
}

#[test]
fn where_two_gave_parts_of_what_is_wrong_one_is_asked_alone_and_blamed() {
    let body: Vec<u8> = (0..40_000_u32).map(|at| (at % 241) as u8).collect();
    let mut mesh = Mesh::new(3);
    mesh.loses = |from, _, word| from == 1 && matches!(word, Word::Chunk { .. });
    mesh.link(0, 2);
    mesh.link(0, 1);
    mesh.link(1, 2);
    mesh.settle(100);
    mesh.nodes[2].offer(mesh.now, offering(&body)).unwrap();
    // Node 1 gives the first chunk, wrong, and goes, as often as it is asked.
    let mut rounds = 0;
    while mesh.received(0).is_empty() && rounds < 20_000 {
        mesh.step();
        let asked = mesh.said.iter().rev().find_map(|(from, to, said)| match said {
            Said { word: Word::Request { request, offset: 0, .. }, .. } if (*from, *to) == (0, 1) => {
                Some(*request)
            }
            _ => None,
        });
        mesh.said.clear();
        if let Some(request) = asked {
            let word = Word::Chunk { request, offset: 0 };
            mesh.handle(0, Input::Word { from: NodeIndex(1), word, following: &[9; 16_384] });
            mesh.cut(0, 1);
            mesh.link(0, 1);
        }
        mesh.now = mesh.now.after_ms(1);
        mesh.handle(0, Input::Tick);
        rounds += 1;
    }
    assert_eq!(mesh.received(0).first().map(|body| body.len()), Some(body.len()));
}

#[test]
fn who_fails_with_all_that_it_was_asked_for_at_one_time_is_asked_again_as_soon_as_who_fails_with_one() {
    let mut mesh = Mesh::new(2);
    mesh.link(0, 1);
    mesh.settle(500);
    mesh.loses = |from, _, word| from == 1 && matches!(word, Word::Request { .. });
    for number in 0..GOSSIP_PULLS_OF_PEER_MAX {
        mesh.nodes[0].offer(mesh.now, offering(&vec![u8::try_from(number).unwrap(); 20_000])).unwrap();
    }
    mesh.settle(100);
    let asked = |(from, _, said): &(u8, u8, Said)| match said.word {
        Word::Request { request, .. } if *from == 1 => Some(request),
        _ => None,
    };
    let asked: Vec<u64> = mesh.said.iter().filter_map(asked).collect();
    assert_eq!(asked.len(), GOSSIP_PULLS_OF_PEER_MAX);
    asked.iter().for_each(|request| mesh.handle(1, word(0, Word::NotFound { request: *request })));
    mesh.loses = |_, _, _| false;
    mesh.settle(GOSSIP_FAULT_MS / 2);
    assert_eq!(mesh.received(1).len(), 0, "not at once");
    mesh.settle(GOSSIP_FAULT_MS);
    assert_eq!(mesh.received(1).len(), GOSSIP_PULLS_OF_PEER_MAX, "it was away for a moment");
}

/// Pieces that node 1 has asked for since then.
fn pieces_asked(mesh: &Mesh, since: usize) -> Vec<u64> {
    let asked = |(from, _, said): &(u8, u8, Said)| match said.word {
        Word::Request { request, part: Part::Piece { .. }, .. } if *from == 1 => Some(request),
        _ => None,
    };
    mesh.said[since..].iter().filter_map(asked).collect()
}

#[test]
fn of_small_pieces_as_many_bytes_are_asked_of_one_at_a_time_as_of_larger_ones() {
    for (size, at_a_time) in [(4 << 20, GOSSIP_PIECES_OF_PEER_MAX), (16 << 20, GOSSIP_PULLS_OF_PEER_MAX)] {
        let mut mesh = Mesh::new(2);
        mesh.link(0, 1);
        mesh.loses =
            |from, _, word| from == 1 && matches!(word, Word::Request { part: Part::Piece { .. }, .. });
        mesh.nodes[0].offer(mesh.now, offering(&vec![7; size])).unwrap();
        mesh.settle(100);
        assert_eq!(pieces_asked(&mesh, 0).len(), at_a_time, "{size} bytes");
    }
}

/// All of a piece of 32 KiB is given by node 0.
fn give(mesh: &mut Mesh, request: u64) {
    for offset in [0, 16_384] {
        let given = Word::Chunk { request, offset };
        mesh.handle(1, Input::Word { from: NodeIndex(0), word: given, following: &[7; 16_384] });
        mesh.settle(10);
    }
}

#[test]
fn what_is_urgent_waits_for_one_answer_of_who_owes_many_pieces() {
    let mut mesh = Mesh::new(2);
    mesh.link(0, 1);
    mesh.loses = |from, _, word| from == 1 && matches!(word, Word::Request { part: Part::Piece { .. }, .. });
    mesh.nodes[0].offer(mesh.now, offering(&vec![7; 4 << 20])).unwrap();
    mesh.settle(100);
    let asked = pieces_asked(&mesh, 0);
    assert_eq!(asked.len(), GOSSIP_PIECES_OF_PEER_MAX);
    mesh.interest = Interest::FetchNow;
    mesh.nodes[0].offer(mesh.now, offering(&vec![9; 20_000])).unwrap();
    mesh.settle(10);
    assert_eq!(mesh.received(1).len(), 0, "it owes as much as it may");
    give(&mut mesh, asked[0]);
    assert_eq!(mesh.received(1).len(), 1, "before the next piece");
}

#[test]
fn who_fails_is_asked_for_half_as_much_at_a_time_and_for_one_more_each_time_it_gives() {
    let mut mesh = Mesh::new(2);
    mesh.link(0, 1);
    let deaf = |from, _: u8, word: &Word| {
        from == 1 && matches!(word, Word::Request { part: Part::Piece { .. }, .. })
    };
    mesh.loses = deaf;
    mesh.nodes[0].offer(mesh.now, offering(&vec![7; 4 << 20])).unwrap();
    mesh.settle(100);
    let mut asked = pieces_asked(&mesh, 0);
    for half in [8, 4, 2, 1, 1] {
        let since = mesh.said.len();
        asked.iter().for_each(|request| mesh.handle(1, word(0, Word::NotFound { request: *request })));
        // The fifth time it is shunned for eight seconds.
        for _ in 0..20 {
            let waits = pieces_asked(&mesh, since).is_empty();
            mesh.settle(if waits { GOSSIP_FAULT_MS } else { 0 });
        }
        asked = pieces_asked(&mesh, since);
        assert_eq!(asked.len(), half);
    }
    let since = mesh.said.len();
    give(&mut mesh, asked[0]);
    assert_eq!(pieces_asked(&mesh, since).len(), 2, "one in its place, and one more");
    mesh.loses = |_, _, _| false;
    mesh.settle(GOSSIP_STALL_MS + 60_000);
    assert!(mesh.outputs.iter().any(|(at, output)| *at == 1 && matches!(output, Output::Stored { .. })));
    // It has given many: it is asked for all of them again.
    mesh.loses = deaf;
    let since = mesh.said.len();
    mesh.nodes[0].offer(mesh.now, offering(&vec![8; 4 << 20])).unwrap();
    mesh.settle(100);
    assert_eq!(pieces_asked(&mesh, since).len(), GOSSIP_PIECES_OF_PEER_MAX);
}

#[test]
fn a_peer_that_trickles_is_passed_over_for_one_that_gives() {
    let run = |trickles: bool| {
        let mut mesh = Mesh::new(3);
        mesh.link(0, 1);
        mesh.link(0, 2);
        mesh.link(1, 2);
        mesh.settle(100);
        // Both have all of it before node 0 wants any.
        mesh.cut(0, 1);
        mesh.cut(0, 2);
        for number in 0..16 {
            mesh.nodes[1].offer(mesh.now, offering(&vec![number; 256 << 10])).unwrap();
        }
        mesh.settle(5_000);
        assert_eq!(mesh.received(2).len(), 16);
        mesh.link(0, 1);
        mesh.link(0, 2);
        let (began, mut next) = (mesh.now, mesh.now);
        while mesh.received(0).len() < 16 {
            // A chunk of each in 2 ms; of node 1, if it trickles, one in 0.4 s.
            for from in [1_u8, 2] {
                for lane in Lane::ALL {
                    if from == 1 && trickles && lane == Lane::Chunk && mesh.now < next {
                        continue;
                    }
                    let Some(said) = mesh.nodes[usize::from(from)].transmit(mesh.now, NodeIndex(0), lane)
                    else {
                        continue;
                    };
                    if from == 1 && lane == Lane::Chunk {
                        next = mesh.now.after_ms(400);
                    }
                    let (word, following) = (said.word.clone(), said.following().to_vec());
                    mesh.handle(0, Input::Word { from: NodeIndex(from), word, following: &following });
                }
                for lane in Lane::ALL {
                    while let Some(said) = mesh.nodes[0].transmit(mesh.now, NodeIndex(from), lane) {
                        mesh.handle(from, word(0, said.word));
                    }
                }
            }
            mesh.judge();
            mesh.now = mesh.now.after_ms(2);
            (0..3).for_each(|node| mesh.handle(node, Input::Tick));
        }
        mesh.now.since(began) / 1_000_000
    };
    let (clean, trickled) = (run(false), run(true));
    assert!(trickled < clean + 4_000, "{trickled} ms, {clean} without");
}

#[test]
fn nothing_is_kept_when_all_is_withdrawn_released_or_forgotten() {
    let mut mesh = chain();
    let slots: Vec<SlotNumber> = (0..50)
        .map(|number| {
            mesh.nodes[0].offer(mesh.now, offering(&vec![number; 20 + 60 * usize::from(number)])).unwrap()
        })
        .collect();
    mesh.settle(5_000);
    assert_eq!(mesh.received(2).len(), 50);
    let used = mesh.nodes[2].usage().body_bytes;
    let of_last = of(0, 49, 50);
    mesh.handle(2, Input::Release { of: of_last });
    assert_eq!(mesh.nodes[2].usage().body_bytes, used - (20 + 60 * 49));
    assert_eq!(mesh.nodes[2].body(of_last), None);
    for slot in &slots[..25] {
        mesh.handle(0, Input::Withdraw { slot: *slot });
    }
    mesh.settle(5_000);
    mesh.cut(0, 1);
    mesh.handle(1, Input::Forget { node: NodeIndex(0) });
    mesh.settle(5_000);
    for node in 1..3 {
        let usage = mesh.nodes[node].usage();
        assert_eq!((usage.slots, usage.slots_bytes, usage.body_bytes), (0, 0, 0), "node {node}");
    }
}

/// For a minute node 1 had no room for most of what node 0 offers, and asked for it ever more rarely.
fn in_vain_for_a_minute() -> Mesh {
    let mut mesh = Mesh::new(2);
    let mut tight = limits(8_000);
    tight.floor = Budget { messages: 1, bytes: 1 };
    mesh.nodes[1] = Gossip::new(Config { limits: tight, ..config(1, 1, 2) });
    mesh.interest = Interest::Stash;
    mesh.link(0, 1);
    // What fits does not fill it, and what does not never will.
    for number in 0..100 {
        let wide = Offering { attribute: vec![number; 256], ..offering(&[number; 700]) };
        mesh.nodes[0].offer(mesh.now, wide).unwrap();
    }
    mesh.settle(60_000);
    mesh
}

#[test]
fn what_has_no_room_is_asked_for_again_ever_more_rarely() {
    let mesh = in_vain_for_a_minute();
    let told = mesh.slots_said(0, 1).len();
    assert!((100..1_000).contains(&told), "{told} in a minute");
    let of_them = mesh.nodes[1].usage().slots;
    assert!(of_them >= 5, "{of_them}");
}

#[test]
fn who_is_to_be_asked_anew_is_asked_soon_however_rarely_it_was_asked_for_want_of_room() {
    // From where on node 1 asks, for so long as it would wait between two questions at first.
    let asks = |anew: bool| {
        let mut mesh = in_vain_for_a_minute();
        mesh.said.clear();
        if anew {
            mesh.handle(1, Input::AskAnew { node: NodeIndex(0) });
        }
        mesh.settle(GOSSIP_AGAIN_MS);
        let since = mesh.said.iter().filter_map(|(from, _, said)| match &said.word {
            Word::Exchange(exchange) if *from == 1 => exchange.since.map(|since| since.slots),
            _ => None,
        });
        since.collect::<Vec<u64>>()
    };
    assert_eq!(asks(false), [], "it was asked in vain for long");
    assert_eq!(asks(true), [0], "for all that it says");
}

#[test]
fn what_nobody_may_say_is_counted_as_that_and_an_offer_to_all_of_none_has_reached_them() {
    let mut mesh = Mesh::new(2);
    mesh.handle(1, Input::PeerUp { node: NodeIndex(0) });
    let slot = Slot { slot: SlotNumber(0), version: 1, offer: None };
    mesh.handle(1, word(0, Word::Tell(Tell { exchanges: 0, through: 1, slots: vec![slot.clone(), slot] })));
    let counts = mesh.nodes[1].counts();
    assert_eq!((counts.told_of, counts.dropped), (2, [0, 0, 2]));
    let mut alone = Gossip::new(Config { members: Nodes::default(), ..config(0, 1, 1) });
    let slot = alone.offer(mesh.now, Offering { reach_all_ms: Some(60_000), ..offering(b"all") }).unwrap();
    let mut out = Vec::new();
    assert!(alone.deadline().is_some_and(|(at, _)| at <= mesh.now));
    alone.handle(mesh.now, Input::Tick, &mut out);
    assert_eq!(out, [Output::Reached { slot }]);
}

#[test]
fn who_is_forgotten_and_comes_again_with_the_same_start_is_believed_about_what_it_offered_before() {
    let mut mesh = chain();
    for number in 0..3 {
        mesh.nodes[0].offer(mesh.now, offering(&[number; 20])).unwrap();
    }
    mesh.settle(3_000);
    assert_eq!((mesh.received(1).len(), mesh.received(2).len()), (3, 3));
    // Node 2 has been told that node 1 has them, and acknowledges nothing more: notes of them stay there.
    mesh.cut(1, 2);
    mesh.cut(0, 1);
    mesh.handle(1, Input::Forget { node: NodeIndex(0) });
    mesh.settle(1_000);
    assert_eq!((mesh.gone(1), mesh.nodes[1].body(of(0, 0, 1))), (3, None));
    mesh.link(0, 1);
    mesh.settle(3_000);
    assert_eq!(mesh.received(1).len(), 6, "it has them again");
    // And the end of one is an end.
    mesh.handle(0, Input::Withdraw { slot: SlotNumber(0) });
    mesh.settle(3_000);
    assert_eq!((mesh.gone(1), mesh.nodes[1].body(of(0, 1, 2)).is_some()), (4, true));
}

#[test]
fn an_end_of_the_version_that_stands_ends_it_and_an_offer_of_that_version_stands_again() {
    let mut mesh = Mesh::new(2);
    mesh.link(0, 1);
    mesh.nodes[0].offer(mesh.now, offering(&[7; 20])).unwrap();
    mesh.settle(1_000);
    let tell = |offer| {
        let slots = vec![Slot { slot: SlotNumber(0), version: 1, offer }];
        word(0, Word::Tell(Tell { exchanges: 1, through: 1, slots }))
    };
    // As rights make it of what its node may not offer any more, and again.
    for round in 1..3 {
        mesh.handle(1, tell(None));
        mesh.handle(1, tell(None));
        assert_eq!((mesh.gone(1), mesh.nodes[1].body(of(0, 0, 1))), (round, None));
        let (topic, content) =
            (busway_wire::Topic::new("block").unwrap(), Content::Inside { body: vec![7; 20] });
        let offer = Offer { topic, attribute: Vec::new(), confirm: false, content };
        mesh.handle(1, tell(Some(offer.clone())));
        mesh.handle(1, tell(Some(offer)));
        mesh.settle(100);
        assert_eq!(mesh.received(1).len(), 1 + round, "once for each time that it stood");
    }
}

#[test]
fn an_offer_that_waits_for_one_that_is_no_member_any_more_has_reached_all() {
    let mut mesh = Mesh::new(3);
    mesh.link(0, 1);
    let of_all = Offering { reach_all_ms: Some(600_000), ..offering(&[7; 20]) };
    let slot = mesh.nodes[0].offer(mesh.now, of_all).unwrap();
    mesh.settle(3_000);
    let reached = |mesh: &Mesh| {
        mesh.outputs
            .iter()
            .any(|(at, output)| *at == 0 && matches!(output, Output::Reached { slot: of } if *of == slot))
    };
    assert!(!reached(&mesh), "node 2 does not have it");
    mesh.nodes[0].set_members([NodeIndex(1)].into_iter().collect());
    mesh.handle(0, Input::Tick);
    assert!(reached(&mesh));
}
