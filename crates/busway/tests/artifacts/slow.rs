//! Who does not receive.

use std::collections::BTreeSet;

use busway::artifacts::{ArtifactId, Event, Interest};

use crate::stage::{PATIENCE, body, receive, subscribe, three};

#[test]
fn a_subscriber_that_does_not_receive_slows_nobody_and_is_given_what_stands_when_it_does() {
    const OFFERS: u64 = 3_000;
    let hosts = three();
    let (mut slow, mut fast) = (subscribe(&hosts[1], ">"), subscribe(&hosts[1], ">"));
    let artifacts = hosts[0].bus.artifacts("block.new").unwrap();
    let offer = |seed| artifacts.offer(&body(200, seed)).open().unwrap();
    let first: Vec<_> = (1..=OFFERS).map(offer).collect();
    let all: BTreeSet<ArtifactId> = first.iter().map(|offer| offer.id()).collect();
    let received: BTreeSet<ArtifactId> = all.iter().map(|_| receive(&mut fast).advert().id()).collect();
    assert!(received == all, "the other has all");
    let stand = OFFERS as usize * 2 / 3;
    let mut kept = first;
    let ended = kept.split_off(stand).len();
    for _ in 0..ended {
        assert!(matches!(fast.recv_timeout(PATIENCE).unwrap(), Some(Event::Withdrawn(_))));
    }
    let late: BTreeSet<ArtifactId> = kept.iter().map(|_| receive(&mut slow).advert().id()).collect();
    assert!(late == kept.iter().map(|offer| offer.id()).collect(), "what stands, and nothing else");
    let last = offer(OFFERS + 1);
    assert_eq!(
        receive(&mut slow).advert().id(),
        last.id(),
        "what ended before it had room for it never comes"
    );
    println!("evidence: offers={OFFERS} fast={} ended={ended} slow={}", received.len(), late.len());
}

#[test]
fn a_function_of_interest_that_panics_hurts_who_receives_alone() {
    let hosts = three();
    let panics = |_: &busway::artifacts::Advert| -> Interest { panic!("it is meant to") };
    let mut one = hosts[1].bus.artifacts(">").unwrap().subscriber().interest(panics).open().unwrap();
    let mut other = subscribe(&hosts[1], ">");
    let _offer = hosts[0].bus.artifacts("block.new").unwrap().offer(b"body").open().unwrap();
    let thread = std::thread::spawn(move || one.recv_timeout(PATIENCE).map(|event| event.is_some()));
    assert!(thread.join().is_err());
    assert_eq!(receive(&mut other).bytes().unwrap()[..], b"body"[..]);
}
