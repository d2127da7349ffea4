//! Artifacts between a few nodes whose words arrive at once: what is said, to whom, how often, and what is believed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "rig/mesh.rs"]
mod mesh;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busway_protocol::Time;
use busway_protocol::flow::Budget;
use busway_protocol::gossip::{
    Advert, ArtifactId, Config, Epoch, Fault, Gossip, Input, Interest, Lane, NodeIndex, Nodes, Offering,
    Output, Part, Reference, Said, SlotNumber, Word,
};
use busway_wire::Topic;
use busway_wire::gossip::{
    Content, Describe, Exchange, Mark, Marked, Marks, Offer, Since, Slot, Standing, Tell, encode,
};
use mesh::{Mesh, config, limits, offering, word};

#[test]
fn who_comes_again_is_told_what_changed_since_and_nothing_that_was_replaced_meanwhile() {
    let mut mesh = Mesh::new(2);
    mesh.link(0, 1);
    for number in 0..100_u8 {
        mesh.nodes[0].offer(mesh.now, offering(&[number])).unwrap();
    }
    mesh.settle(500);
    assert_eq!(mesh.received(1).len(), 100);
    mesh.cut(0, 1);
    mesh.said.clear();
    for number in 0..50_u8 {
        let instead_of = Some(SlotNumber(7));
        mesh.nodes[0].offer(mesh.now, Offering { instead_of, ..offering(&[200, number]) }).unwrap();
    }
    mesh.handle(0, Input::Withdraw { slot: SlotNumber(9) });
    mesh.link(0, 1);
    mesh.settle(500);
    assert_eq!(mesh.slots_said(0, 1), [(7, 150, true), (9, 151, false)]);
    assert_eq!(mesh.received(1).last().unwrap()[..], [200, 49]);
    assert_eq!(mesh.received(1).len(), 101, "what was replaced never came");
}

#[test]
fn of_each_slot_one_change_is_under_way_and_newer_ones_take_the_place_of_what_was_not_said() {
    let mut mesh = Mesh::new(2);
    mesh.link(0, 1);
    mesh.settle(500);
    let slot = mesh.nodes[0].offer(mesh.now, offering(b"0")).unwrap();
    let first = mesh.nodes[0].transmit(mesh.now, NodeIndex(1), Lane::Advert).unwrap();
    let other = mesh.nodes[0].offer(mesh.now, offering(b"other")).unwrap();
    for number in 1..=1_000_u16 {
        let body = number.to_le_bytes();
        mesh.nodes[0].offer(mesh.now, Offering { instead_of: Some(slot), ..offering(&body) }).unwrap();
        let said = mesh.nodes[0].transmit(mesh.now, NodeIndex(1), Lane::Advert);
        if number == 1 {
            let Some(Said { word: Word::Tell(tell), .. }) = said else { panic!("{said:?}") };
            assert_eq!(tell.slots.iter().map(|slot| slot.slot).collect::<Vec<_>>(), [other]);
            assert_eq!(tell.through, 2, "the change that is held is not known with this word");
            mesh.handle(1, word(0, Word::Tell(tell)));
        } else {
            assert_eq!(said, None, "an earlier change is under way");
        }
    }
    mesh.handle(1, word(0, first.word));
    mesh.settle(500);
    assert_eq!(mesh.slots_said(0, 1).last(), Some(&(slot.0, 1_002, true)));
    assert_eq!(mesh.slots_said(0, 1).len(), 1, "999 of 1000 were never said");
    let counts = mesh.nodes[0].counts();
    assert_eq!((counts.said, counts.replaced), (3, 999));
    assert_eq!(mesh.received(1).last().unwrap()[..], 1_000_u16.to_le_bytes());
}

#[test]
fn what_a_node_has_goes_on_by_marks_to_who_has_no_link_to_its_origin_and_so_does_its_end() {
    let mut mesh = Mesh::new(4);
    for node in 0..3 {
        mesh.link(node, node + 1);
    }
    let small = mesh.nodes[0].offer(mesh.now, offering(b"small")).unwrap();
    let large: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    let slot = mesh.nodes[0].offer(mesh.now, offering(&large)).unwrap();
    mesh.settle(2_000);
    for node in 1..4 {
        let bodies: BTreeSet<Arc<[u8]>> = mesh.received(node).into_iter().collect();
        assert_eq!(bodies, [b"small"[..].into(), large[..].into()].into_iter().collect(), "node {node}");
        assert_eq!(mesh.received(node).len(), 2, "once each");
    }
    let direct =
        mesh.said.iter().filter(|(from, _, said)| *from == 0 && matches!(said.word, Word::Chunk { .. }));
    assert_eq!(direct.count(), 7, "its origin gave it once");
    mesh.handle(0, Input::Withdraw { slot });
    mesh.handle(0, Input::Withdraw { slot: small });
    mesh.settle(2_000);
    for node in 1..4 {
        let gone = mesh.outputs.iter().filter(|(at, out)| *at == node && matches!(out, Output::Gone { .. }));
        assert_eq!(gone.count(), 2, "node {node}");
    }
}

#[test]
fn what_others_say_of_a_node_that_speaks_for_itself_changes_nothing() {
    let mut mesh = Mesh::new(3);
    mesh.link(0, 1);
    mesh.link(1, 2);
    mesh.nodes[0].offer(mesh.now, offering(b"true")).unwrap();
    mesh.settle(500);
    let told = mesh.outputs_of(1);
    let forged = Slot { slot: SlotNumber(0), version: u64::MAX, offer: None };
    let mark = Mark { slot: SlotNumber(0), version: u64::MAX, standing: Standing::Lacks };
    for (node, epoch) in [(0, 1), (0, u64::MAX)] {
        let (node, epoch) = (NodeIndex(node), Epoch(epoch));
        let of = vec![Marked { node, epoch, marks: vec![mark] }];
        mesh.handle(1, word(2, Word::Marks(Marks { exchanges: 1, through: 9, of })));
        let slots = vec![forged.clone()];
        // The second is of a start that there never was.
        mesh.handle(1, word(2, Word::Describe(Describe { node, epoch, slots })));
    }
    mesh.settle(500);
    assert_eq!(mesh.outputs_of(1), told, "nothing is gone");
    for node in [1, 2] {
        let slots = vec![forged.clone()];
        mesh.handle(1, word(2, Word::Describe(Describe { node: NodeIndex(node), epoch: Epoch(1), slots })));
    }
    let blamed = |(at, out): &&(u8, Output)| {
        *at == 1 && *out == Output::Blame { node: NodeIndex(2), fault: Fault::Forged }
    };
    assert_eq!(mesh.outputs.iter().filter(blamed).count(), 2, "of us, and of itself");
    // Nor while it is away: what it has said it has not taken back.
    mesh.cut(0, 1);
    let told = mesh.outputs_of(1);
    let (node, epoch) = (NodeIndex(0), Epoch(1));
    let of = vec![Marked { node, epoch, marks: vec![mark] }];
    mesh.handle(1, word(2, Word::Marks(Marks { exchanges: 1, through: 9, of })));
    mesh.handle(1, word(2, Word::Describe(Describe { node, epoch, slots: vec![forged] })));
    mesh.settle(500);
    assert_eq!(mesh.outputs_of(1), told, "nothing is gone");
    mesh.link(0, 1);
    mesh.settle(500);
    let of = Reference { node: NodeIndex(0), epoch: Epoch(1), slot: SlotNumber(0), version: 1 };
    assert_eq!(mesh.nodes[1].body(of).as_deref(), Some(&b"true"[..]));
}

#[test]
fn an_offer_that_must_reach_all_keeps_its_slot_until_each_has_or_declines_it_or_its_time_is_up() {
    let mut mesh = Mesh::new(4);
    mesh.link(0, 1);
    mesh.link(0, 2);
    let reach = |ms, body: &[u8]| Offering { reach_all_ms: Some(ms), ..offering(body) };
    let slot = mesh.nodes[0].offer(mesh.now, reach(60_000, b"for all")).unwrap();
    mesh.settle(1_000);
    assert!(mesh.nodes[0].own(slot).is_some(), "node 3 does not have it");
    mesh.interest = Interest::Drop;
    mesh.link(0, 3);
    mesh.settle(1_000);
    assert!(mesh.outputs.contains(&(0, Output::Reached { slot })), "one has declined it");
    assert_eq!(mesh.nodes[0].own(slot), None);
    mesh.cut(0, 3);
    mesh.interest = Interest::Fetch;
    let slot = mesh.nodes[0].offer(mesh.now, reach(5_000, b"late")).unwrap();
    mesh.settle(4_900);
    assert!(mesh.nodes[0].own(slot).is_some());
    mesh.settle(200);
    let missing: Nodes = [NodeIndex(3)].into_iter().collect();
    assert!(mesh.outputs.contains(&(0, Output::Expired { slot, missing })));
}

#[test]
fn interest_decides_what_is_fetched_and_is_asked_again_when_the_user_says_so() {
    let mut mesh = Mesh::new(2);
    mesh.link(0, 1);
    mesh.interest = Interest::Stash;
    let bodies = [vec![1; 10], vec![2; 40_000]];
    for body in &bodies {
        mesh.nodes[0].offer(mesh.now, offering(body)).unwrap();
    }
    mesh.settle(1_000);
    assert_eq!(mesh.received(1).len(), 0);
    mesh.handle(1, Input::Reconsider);
    mesh.interest = Interest::Fetch;
    mesh.settle(1_000);
    assert_eq!(mesh.received(1).len(), 2);
    mesh.interest = Interest::Drop;
    mesh.nodes[0].offer(mesh.now, offering(&[3; 50_000])).unwrap();
    mesh.settle(1_000);
    mesh.handle(1, Input::Reconsider);
    mesh.interest = Interest::FetchNow;
    mesh.settle(1_000);
    assert_eq!(mesh.received(1).len(), 2, "what was dropped is not asked about again");
    assert_eq!(mesh.nodes[1].counts().bytes_useful, 40_000);
}

#[test]
fn what_was_dropped_is_fetched_when_somebody_wants_it_and_ends_with_its_offer() {
    let mut mesh = Mesh::new(3);
    mesh.link(0, 1);
    mesh.interest = Interest::Drop;
    let mut must = offering(&[4; 50_000]);
    must.reach_all_ms = Some(60_000);
    let slots = [offering(b"inside"), offering(&[3; 50_000]), must]
        .map(|offering| mesh.nodes[0].offer(mesh.now, offering).unwrap());
    mesh.settle(1_000);
    assert_eq!((mesh.received(1).len(), mesh.nodes[1].usage().slots), (0, 3));
    for slot in slots {
        let of = mesh.nodes[0].own(slot).unwrap();
        mesh.handle(1, Input::Judged { of, interest: Interest::Fetch });
    }
    mesh.settle(1_000);
    assert_eq!(mesh.received(1).len(), 3);
    let slot = mesh.nodes[0].offer(mesh.now, offering(b"other")).unwrap();
    mesh.settle(1_000);
    for slot in slots.into_iter().chain([slot]) {
        mesh.handle(0, Input::Withdraw { slot });
    }
    mesh.settle(1_000);
    assert_eq!((mesh.gone(1), mesh.nodes[1].usage().slots, mesh.nodes[1].usage().slots_bytes), (4, 0, 0));
}

/// Any word, of a few nodes, slots and versions.
fn any_word(rng: &mut fastrand::Rng) -> (Word, Vec<u8>) {
    let small = |rng: &mut fastrand::Rng| [0, 1, 2, 3, 9, u64::MAX][rng.usize(..6)];
    let reference = |rng: &mut fastrand::Rng| Reference {
        node: NodeIndex(rng.u8(..4)),
        epoch: Epoch(small(rng)),
        slot: SlotNumber(rng.u32(..4)),
        version: small(rng),
    };
    let slot = |rng: &mut fastrand::Rng| {
        let inside = Content::Inside { body: vec![rng.u8(..); rng.usize(..20)] };
        let apart = Content::Apart {
            id: ArtifactId::of(&[rng.u8(..3); 2_000]),
            size: [1_025 + small(rng) / 2, 300_000][rng.usize(..2)],
        };
        let content = if rng.bool() { inside } else { apart };
        let topic = Topic::new("block").unwrap();
        let offer = Offer { topic, attribute: vec![], confirm: rng.bool(), content };
        let SlotNumber(number) = reference(rng).slot;
        Slot { slot: SlotNumber(number), version: small(rng), offer: rng.bool().then_some(offer) }
    };
    let many = |rng: &mut fastrand::Rng| rng.usize(..4);
    let since = Since { epoch: Epoch(small(rng)), slots: small(rng), marks: small(rng) };
    let word = match rng.u8(..13) {
        0 => Word::Exchange(Exchange {
            epoch: Epoch(small(rng)),
            version: small(rng),
            since: rng.bool().then_some(since),
            filter: None,
        }),
        1 | 2 => {
            let slots = (0..many(rng)).map(|_| slot(rng)).collect();
            Word::Tell(Tell { exchanges: 1, through: small(rng), slots })
        }
        3 => Word::Handled { tells: small(rng), marks: small(rng) },
        4 | 5 => {
            let mark = |rng: &mut fastrand::Rng| {
                let standing = [Standing::Has, Standing::Lacks, Standing::Declines][rng.usize(..3)];
                Mark { slot: SlotNumber(rng.u32(..4)), version: small(rng), standing }
            };
            let of = (0..many(rng)).map(|_| {
                let Reference { node, epoch, .. } = reference(rng);
                Marked { node, epoch, marks: (0..many(rng)).map(|_| mark(rng)).collect() }
            });
            let of = of.collect();
            Word::Marks(Marks { exchanges: rng.u64(..2), of, through: small(rng) })
        }
        6 => Word::Ask { of: (0..many(rng)).map(|_| reference(rng)).collect() },
        7 => {
            let Reference { node, epoch, .. } = reference(rng);
            Word::Describe(Describe { node, epoch, slots: (0..many(rng)).map(|_| slot(rng)).collect() })
        }
        8 => {
            let part = [Part::Whole, Part::Tree, Part::Piece { index: rng.u32(..9) }][rng.usize(..3)];
            Word::Request { request: small(rng), of: reference(rng), part, offset: small(rng) }
        }
        9 => {
            return (
                Word::Chunk { request: small(rng), offset: small(rng) },
                vec![7; 1 + rng.usize(..2_000)],
            );
        }
        10 => Word::NotFound { request: small(rng) },
        11 => Word::Have { of: reference(rng), pieces: (0..many(rng)).map(|_| rng.u32(..9)).collect() },
        _ => Word::Cancel { request: small(rng) },
    };
    (word, Vec::new())
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn whatever_peers_say_nothing_panics_and_every_change_is_handled_coalesced_or_dropped() {
    let (mut words, mut blamed, mut dropped) = (0_u64, BTreeMap::new(), 0);
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut tight = limits(2_000);
        tight.bytes_all = 4_000;
        tight.floor = Budget { messages: 2, bytes: 1_500 };
        let limits = if seed % 2 == 0 { tight } else { limits(1 << 20) };
        let mut node = Gossip::new(Config { limits, ..config(0, 2, 4) });
        let (mut now, mut out, mut bytes) = (Time(0), Vec::new(), Vec::new());
        for _ in 0..400 {
            let peer = NodeIndex(rng.u8(1..4));
            match rng.u8(..20) {
                0 => node.handle(now, Input::PeerUp { node: peer }, &mut out),
                1 => node.handle(now, Input::PeerDown { node: peer }, &mut out),
                2 => drop(node.offer(now, offering(&vec![rng.u8(..); rng.usize(..3_000)]))),
                3 => node.handle(now, Input::Withdraw { slot: SlotNumber(rng.u32(..4)) }, &mut out),
                4 => {
                    now = now.after_ms(rng.u64(..300));
                    node.handle(now, Input::Tick, &mut out);
                }
                5 => node.handle(now, Input::Reconsider, &mut out),
                _ => {
                    let (word, following) = any_word(&mut rng);
                    words += 1;
                    node.handle(now, Input::Word { from: peer, word, following: &following }, &mut out);
                }
            }
            while let Some(Advert { of, .. }) = node.next_advert() {
                let interest =
                    [Interest::Drop, Interest::Stash, Interest::Later, Interest::Fetch][rng.usize(..4)];
                node.handle(now, Input::Judged { of, interest }, &mut out);
            }
            for lane in Lane::ALL {
                let Some(said) = node.transmit(now, peer, lane) else { continue };
                encode(&said.word, said.following(), &mut bytes);
                assert!(busway_wire::gossip::decode(&bytes).is_ok(), "seed {seed}: {said:?} is no word");
            }
            let counts = node.counts();
            dropped = counts.dropped.iter().sum::<u64>();
            assert_eq!(counts.told_of, counts.handled + counts.coalesced + dropped, "seed {seed}");
            let usage = node.usage();
            assert!(seed % 2 == 1 || usage.slots_bytes <= 4_000 + 4 * 1_500, "seed {seed}: {usage:?}");
        }
        for output in out {
            if let Output::Blame { fault, .. } = output {
                *blamed.entry(fault).or_insert(0_u64) += 1;
            }
        }
    }
    assert!(blamed.len() >= 4 && dropped > 0, "{blamed:?}");
    println!("evidence: words={words} panics=0 faults={}", blamed.values().sum::<u64>());
}
