//! Each word that names an artifact, of and to a peer that may do what it may with topics of `open` alone.

use busway_protocol::gossip::{Epoch, NodeIndex, Reference, SlotNumber, Word};
use busway_protocol::{Acl, Permits, Principal, Rule, Whom};
use busway_wire::gossip::{Content, Describe, Mark, Marked, Marks, Offer, Part, Slot, Standing, Tell};
use busway_wire::{Pattern, Topic};

use super::{Passed, heard, said};

const PEER: NodeIndex = NodeIndex(1);
const OTHER: NodeIndex = NodeIndex(2);

fn permits(publish: &str, subscribe: &str) -> Permits {
    let list = |pattern: &str| vec![Pattern::parse(pattern).unwrap()];
    let (publish, subscribe) = (list(publish), list(subscribe));
    let rule = Rule {
        whom: Whom::Anybody,
        publish,
        subscribe,
        deny_publish: Vec::new(),
        deny_subscribe: Vec::new(),
        push: None,
        request: None,
        pull: None,
        answer: None,
    };
    Permits::new(Principal::Node { index: PEER.0 }, Some(&Acl::new(vec![rule])))
}

fn slot(number: u32, topic: &str) -> Slot {
    let content = Content::Inside { body: b"body".to_vec() };
    let topic = Topic::new(topic).unwrap();
    let offer = Offer { topic, attribute: Vec::new(), confirm: false, content };
    Slot { slot: SlotNumber(number), version: 1, offer: Some(offer) }
}

/// What answers a question without telling more.
fn without_offer(number: u32) -> Slot {
    Slot { slot: SlotNumber(number), version: 1, offer: None }
}

fn slots() -> Vec<Slot> {
    vec![slot(0, "secret.a"), slot(1, "open.a")]
}

fn reference(slot: u32) -> Reference {
    Reference { node: OTHER, epoch: Epoch(1), slot: SlotNumber(slot), version: 1 }
}

/// What is known here: slot 0 of another node is secret, slot 1 is open.
fn topics() -> [Topic; 2] {
    ["secret.a", "open.a"].map(|topic| Topic::new(topic).unwrap())
}

fn hear(permits: &Permits, origin: &Permits, word: Word) -> (Passed, u64) {
    let (topics, mut denied) = (topics(), 0);
    let topic = |of: Reference| topics.get(of.slot.0 as usize);
    let passed = heard(permits, word, topic, |_| origin.clone(), &mut denied);
    (passed, denied)
}

fn say(permits: &Permits, word: Word) -> Word {
    let topics = topics();
    said(permits, PEER, word, |of| topics.get(of.slot.0 as usize)).expect("something is left")
}

#[test]
fn a_peer_brings_in_nothing_that_it_or_its_origin_may_not_publish() {
    let (all, open) = (permits(">", ">"), permits("open.>", ">"));
    let (passed, denied) = hear(&open, &all, Word::Tell(Tell { exchanges: 1, through: 1, slots: slots() }));
    let Passed::Word(Word::Tell(tell)) = passed else { panic!("{passed:?}") };
    assert_eq!((tell.slots.len(), denied), (2, 1), "the end of one, and the other");
    assert!(tell.slots[0].offer.is_none() && tell.slots[1] == slot(1, "open.a"));
    for (of_peer, of_origin) in [(&open, &all), (&all, &open)] {
        let describe = Describe { node: OTHER, epoch: Epoch(1), slots: slots() };
        let (passed, denied) = hear(of_peer, of_origin, Word::Describe(describe));
        let Passed::Word(Word::Describe(describe)) = passed else { panic!("{passed:?}") };
        assert_eq!((describe.slots, denied), (vec![without_offer(0), slot(1, "open.a")], 1));
    }
}

#[test]
fn a_peer_is_given_no_bytes_of_what_it_may_not_see_or_of_what_is_not_known() {
    let open = permits(">", "open.>");
    let request = |slot| Word::Request { request: 7, of: reference(slot), part: Part::Whole, offset: 0 };
    for slot in [0, 2] {
        assert_eq!(hear(&open, &open, request(slot)).0, Passed::NotFound { request: 7 });
    }
    assert_eq!(hear(&open, &open, request(1)).0, Passed::Word(request(1)));
}

#[test]
fn a_peer_is_told_no_offer_mark_or_description_of_what_it_may_not_see() {
    let open = permits(">", "open.>");
    let Word::Tell(tell) = say(&open, Word::Tell(Tell { exchanges: 1, through: 1, slots: slots() })) else {
        panic!("a tell")
    };
    assert!(tell.slots[0].offer.is_none() && tell.slots[1] == slot(1, "open.a"));
    let describe = Describe { node: OTHER, epoch: Epoch(1), slots: slots() };
    let Word::Describe(describe) = say(&open, Word::Describe(describe)) else { panic!("a description") };
    assert_eq!(describe.slots, [without_offer(0), slot(1, "open.a")]);
    let mark = |slot, standing| Mark { slot: SlotNumber(slot), version: 1, standing };
    let marked = |node, marks| {
        Word::Marks(Marks { exchanges: 1, through: 1, of: vec![Marked { node, epoch: Epoch(1), marks }] })
    };
    let all: Vec<Mark> = (0..3).map(|slot| mark(slot, Standing::Has)).collect();
    assert_eq!(say(&open, marked(OTHER, all.clone())), marked(OTHER, vec![mark(1, Standing::Has)]));
    assert_eq!(say(&open, marked(PEER, all.clone())), marked(PEER, all), "its own it knows");
    let ended = vec![mark(2, Standing::Lacks)];
    assert_eq!(say(&open, marked(OTHER, ended.clone())), marked(OTHER, ended));
}

#[test]
fn a_peer_neither_hears_nor_says_who_has_pieces_of_what_it_may_not_see() {
    let (all, open) = (permits(">", ">"), permits(">", "open.>"));
    let (topics, have) = (topics(), |slot| Word::Have { of: reference(slot), pieces: vec![1] });
    let said = |slot| said(&open, PEER, have(slot), |of| topics.get(of.slot.0 as usize));
    assert_eq!((said(0), said(1)), (None, Some(have(1))));
    assert_eq!(hear(&open, &all, have(0)).0, Passed::Nothing);
    assert_eq!(hear(&open, &all, have(1)).0, Passed::Word(have(1)));
}
