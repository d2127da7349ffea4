//! What subscribers are told, however little they take and however much there is.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::gossip::{Advert, ArtifactId, Epoch, Interest, NodeIndex, Reference, SlotNumber};
use busway_shm::clock::Deadline;
use busway_wire::{Pattern, Topic};

use super::Users;
use super::reader::{QUEUE_MAX, SHOWN};
use crate::runtime::gossip::calls::{ReaderId, Tells, Wants};
use crate::runtime::gossip::mailbox::{Mailbox, Note, Taken};

fn advert(slot: u32) -> Advert {
    let of = Reference { node: NodeIndex(1), epoch: Epoch(1), slot: SlotNumber(slot), version: 1 };
    let topic = Topic::new("block.new").unwrap();
    Advert { of, topic, id: ArtifactId([0; 32]), size: 2_000, attribute: Vec::new(), confirm: false }
}

fn subscribe(users: &mut Users, judges: bool) -> (ReaderId, Arc<Mailbox>) {
    let pattern = Pattern::parse(">").unwrap();
    let wants = Wants { pattern, judges, tells: Tells::default(), only: None };
    let mailbox = Arc::<Mailbox>::default();
    (users.subscribe(wants, mailbox.clone()), mailbox)
}

fn deliver(users: &mut Users) {
    users.deliver(|_| Some(Arc::from([0; 8])), |_| None);
}

fn take(mailbox: &Mailbox) -> Option<Note> {
    match mailbox.take(Deadline::after(Duration::ZERO)) {
        Taken::Note(note, _) => Some(note),
        Taken::Nothing | Taken::Ended => None,
    }
}

/// What this process has in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

#[test]
fn who_is_told_of_what_comes_and_takes_nothing_costs_no_more_for_what_begins_and_ends_again_and_again() {
    let mut users = Users::default();
    let tells = Tells { arriving: true, ..Tells::default() };
    let wants = Wants { pattern: Pattern::parse(">").unwrap(), judges: false, tells, only: None };
    let mailbox = Arc::<Mailbox>::default();
    let id = users.subscribe(wants, mailbox.clone());
    let most = |users: &Users| users.readers.get(&id).unwrap().coming.len();
    for round in 0..20 {
        for slot in 0..1_000 {
            users.advertised(advert(round * 1_000 + slot));
            users.begun(advert(round * 1_000 + slot).of);
        }
        deliver(&mut users);
        assert!(most(&users) <= QUEUE_MAX, "round {round}: {}", most(&users));
        if round < 17 {
            (0..1_000).for_each(|slot| users.gone(advert(round * 1_000 + slot).of));
        }
    }
    // What stands is shown to it once it takes.
    let began = users.items.len();
    while most(&users) > 0 || users.readers.get(&id).unwrap().more_coming {
        deliver(&mut users);
        while take(&mailbox).is_some() {}
    }
    let shown = users.items.values().filter(|item| users.readers[&id].has(item, SHOWN)).count();
    assert_eq!((began, shown), (3_000, 3_000));
    println!("evidence: begun=20000 queue_max={QUEUE_MAX} shown={shown}");
}

#[test]
fn who_never_takes_costs_little_however_much_is_offered_and_withdrawn_in_whatever_order() {
    const OFFERS: u32 = 20_000;
    const READERS: usize = 32;
    let mut users = Users::default();
    let before = resident();
    let readers: Vec<_> = (0..READERS).map(|reader| subscribe(&mut users, reader % 2 == 0)).collect();
    let deadline = Deadline::after(Duration::from_secs(20));
    for slot in 0..OFFERS {
        users.advertised(advert(slot));
        users.received(advert(slot).of);
    }
    deliver(&mut users);
    users.verdicts();
    for slot in (0..OFFERS).rev() {
        users.gone(advert(slot).of);
    }
    deliver(&mut users);
    let grown = resident().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown}");
    assert!(!deadline.expired(), "each costs all that is known");
    for (id, mailbox) in &readers {
        let reader = users.readers.get(id).unwrap();
        assert!(reader.ask.len() <= QUEUE_MAX && reader.owed.len() <= QUEUE_MAX);
        // What it was told before it was over it is told the end of, and nothing of the rest.
        assert!(reader.gone.len() <= QUEUE_MAX);
        let told = std::iter::from_fn(|| take(mailbox)).count();
        assert!(told <= QUEUE_MAX);
    }
    println!("evidence: readers={READERS} offers={OFFERS} grown_kib={}", grown >> 10);
}

/// What a subscriber was told, as it should be.
#[derive(Default)]
struct Told {
    given: BTreeSet<u32>,
    asked: BTreeSet<u32>,
    last: Option<u64>,
}

#[test]
fn however_slowly_it_takes_each_subscriber_is_given_each_once_in_order_and_told_each_end_behind_that() {
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut users = Users::default();
        let readers = [subscribe(&mut users, false), subscribe(&mut users, true)];
        let mut told: [Told; 2] = Default::default();
        let (mut stand, mut next, mut ended) = (Vec::<(u32, bool)>::new(), 0, 0);
        for round in 0..24_000 {
            let last = round >= 18_000;
            match random.u32(..10) {
                0..6 if !last => {
                    users.advertised(advert(next));
                    stand.push((next, false));
                    next += 1;
                }
                6..9 if !stand.is_empty() => {
                    let at = random.usize(..stand.len());
                    if !std::mem::replace(&mut stand[at].1, true) {
                        users.received(advert(stand[at].0).of);
                    }
                }
                9 if !stand.is_empty() && !last => {
                    let (slot, _) = stand.swap_remove(random.usize(..stand.len()));
                    users.gone(advert(slot).of);
                    ended += 1;
                }
                _ => {}
            }
            // It is far behind: beyond its mailbox and its queue.
            if !last && random.u32(..1_000) > 0 {
                continue;
            }
            deliver(&mut users);
            for ((id, mailbox), told) in readers.iter().zip(&mut told) {
                for _ in 0..random.u32(..60) {
                    match take(mailbox) {
                        Some(Note::Received(advert, _)) => {
                            assert!(told.given.insert(advert.of.slot.0), "seed {seed}: given twice");
                            let came = users.items.get(&advert.of).map(|item| item.came);
                            // One that it judged late may have come early.
                            if id.0 == 0 {
                                assert!(came.is_none() || came > told.last, "seed {seed}: out of order");
                                told.last = came.or(told.last);
                            }
                        }
                        Some(Note::Asked(advert)) => {
                            assert!(told.asked.insert(advert.of.slot.0), "seed {seed}: asked twice");
                            let interest =
                                if advert.of.slot.0 % 3 == 0 { Interest::Drop } else { Interest::Fetch };
                            users.judged(*id, advert.of, interest);
                        }
                        Some(Note::Withdrawn(advert)) => {
                            assert!(told.given.contains(&advert.of.slot.0), "seed {seed}: not given");
                        }
                        Some(other) => panic!("{other:?}"),
                        None => break,
                    }
                }
            }
        }
        let here: Vec<u32> = stand.iter().filter(|(_, here)| *here).map(|(slot, _)| *slot).collect();
        for slot in &here {
            assert!(told[0].given.contains(slot), "seed {seed}: {slot} was not given");
            assert_eq!(told[1].given.contains(slot), slot % 3 != 0, "seed {seed}: {slot}");
        }
        println!("evidence: seed={seed} stand={} given={} ended={ended}", here.len(), told[0].given.len());
    }
}
