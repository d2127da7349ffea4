//! What a flood of offers costs in memory. One test at a time: it looks at the memory of the whole process.
#![expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]

use busway_protocol::Time;
use busway_protocol::flow::{Budget, Flow, Limits, Rule, WhenFull};
use busway_protocol::gossip::{
    Advert, ArtifactId, Config, Epoch, Gossip, Input, Interest, NodeIndex, Nodes, SlotNumber, Word,
};
use busway_wire::Topic;
use busway_wire::gossip::{Content, Exchange, Offer, Slot, Tell};

const SLOTS: u64 = 1_000_000;
const IN_ONE_WORD: u64 = 100;
const BUDGET: u64 = 24 << 20;

/// Bytes of this process that lie in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux says so");
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4_096
}

#[test]
fn a_flood_of_a_million_slots_takes_no_more_memory_than_its_budget_and_is_counted() {
    let (us, peer) = (NodeIndex(0), NodeIndex(1));
    let mut config = Config::new(us, Epoch(1), [peer].into_iter().collect::<Nodes>());
    let mut limits = Limits::default();
    // What the peer is guaranteed is a part of what it may have here.
    limits.floor = Budget { messages: 64, bytes: 64 << 10 };
    let limit = Budget { messages: SLOTS, bytes: BUDGET - limits.floor.bytes };
    limits.set(Flow::Advert, Rule { limit, when_full: WhenFull::Drop }).expect("a limit");
    config.limits = limits;
    let mut node = Gossip::new(config);
    let mut out = Vec::new();
    let topic = Topic::new("flood.of.offers").expect("a topic");
    node.handle(Time(0), Input::PeerUp { node: peer }, &mut out);
    let exchange = Word::Exchange(Exchange { epoch: Epoch(1), version: SLOTS, since: None, filter: None });
    node.handle(Time(0), Input::Word { from: peer, word: exchange, following: &[] }, &mut out);
    let (before, mut peak) = (resident(), 0);
    for first in (0..SLOTS).step_by(100) {
        let slot = |number: u64| {
            let inside =
                Content::Inside { body: vec![7; usize::try_from(number % 40).expect("it is small")] };
            let apart = Content::Apart { id: ArtifactId([7; 32]), size: 2_000 };
            let content = if number.is_multiple_of(2) { inside } else { apart };
            let offer = Offer { topic: topic.clone(), attribute: vec![1; 8], confirm: false, content };
            let slot = SlotNumber(u32::try_from(number).expect("it is small"));
            Slot { slot, version: number + 1, offer: Some(offer) }
        };
        let slots = (first..first + IN_ONE_WORD).map(slot).collect();
        let word = Word::Tell(Tell { exchanges: 1, through: first + IN_ONE_WORD, slots });
        node.handle(Time(first), Input::Word { from: peer, word, following: &[] }, &mut out);
        while let Some(Advert { of, .. }) = node.next_advert() {
            node.handle(Time(first), Input::Judged { of, interest: Interest::Stash }, &mut out);
        }
        peak = peak.max(resident().saturating_sub(before));
    }
    let (counts, usage) = (node.counts(), node.usage());
    let dropped: u64 = counts.dropped.iter().sum();
    let of = peak as f64 / BUDGET as f64;
    println!(
        "evidence: slots={SLOTS} kept={} dropped={dropped} budget={BUDGET} peak={peak} of_budget={of:.2}",
        usage.slots
    );
    assert_eq!(counts.told_of, SLOTS);
    assert_eq!(counts.handled + counts.coalesced + dropped, SLOTS);
    assert!(usage.slots_bytes <= BUDGET && usage.slots > 30_000, "{usage:?}");
    assert!(of <= 1.05, "{peak} of {BUDGET}");
}
