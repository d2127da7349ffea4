//! What one node offers comes to the others.

use std::sync::Arc;
use std::time::Duration;

use busway::Code;
use busway::artifacts::{Advert, ArtifactId, Destination, Event, Interest, OfferBuilder, Reach};
use busway_shm::sync::{AtomicBool, Ordering};

use crate::stage::{Host, PATIENCE, body, chain, receive, subscribe, three, until};

#[test]
fn an_offer_of_any_size_comes_to_each_node_whole_and_ends_at_each_when_it_is_withdrawn() {
    for hosts in [three(), chain()] {
        let mut subscribers = hosts.each_ref().map(|host| subscribe(host, "block.>"));
        for size in [0, 1, 1_024, 1_025, 16_384, 16_385, 256 << 10] {
            let sent = body(size, 7);
            let offer = hosts[0].bus.artifacts("block.new").unwrap().offer(&sent).open().unwrap();
            for subscriber in &mut subscribers {
                let artifact = receive(subscriber);
                assert!(artifact.bytes().unwrap()[..] == sent[..], "{size} bytes");
                let advert = artifact.advert();
                assert_eq!((advert.id(), advert.topic(), advert.node()), (offer.id(), "block.new", 0));
            }
            offer.withdraw();
            for subscriber in &mut subscribers {
                let Some(Event::Withdrawn(advert)) = subscriber.recv_timeout(PATIENCE).unwrap() else {
                    panic!("the end of it comes")
                };
                assert_eq!(advert.size(), size as u64);
            }
        }
        let listed = hosts.each_ref().map(|host| host.bus.artifacts(">").unwrap().list().unwrap().len());
        assert_eq!(listed, [0, 0, 0], "nothing is left");
    }
    println!("evidence: offers=14 nodes=3 came=42 ended=42");
}

#[test]
fn who_offers_learns_when_it_is_at_all_nodes_and_who_has_not_said_so_in_time() {
    let hosts = three();
    let mut there = subscribe(&hosts[2], ">");
    let artifacts = hosts[0].bus.artifacts("block.new").unwrap();
    let sent = body(100_000, 3);
    // Nobody subscribes at one of them: it is to be there all the same.
    let offer = artifacts.offer(&sent).reach_all(PATIENCE).open().unwrap();
    offer.wait_reached(PATIENCE).unwrap();
    assert_eq!(offer.reach(), Reach::Reached);
    assert!(receive(&mut there).bytes().unwrap()[..] == sent[..], "who has it keeps it");
    let [first, middle, last] = hosts;
    drop((there, last));
    // The one that is there needs a little of this time, on a machine that does much else.
    let offer = artifacts.offer(&sent[..100]).reach_all(Duration::from_secs(3)).open().unwrap();
    let error = offer.wait_reached(PATIENCE).unwrap_err();
    assert_eq!((error.code(), offer.reach()), (Code::TimedOut, Reach::Expired(vec![2])));
    assert!(error.to_string().contains("node 2"), "{error}");
    println!("evidence: reached=2 expired_without=1");
    drop((first, middle));
}

#[test]
fn a_function_of_interest_decides_and_is_asked_again_when_that_is_wanted() {
    let hosts = three();
    let now = Arc::new(AtomicBool::new(false));
    let asked = now.clone();
    let interest = move |advert: &Advert| match advert.attribute() {
        b"never" => Interest::Drop,
        b"soon" if !asked.load(Ordering::Acquire) => Interest::Stash, // pairs with Release below
        _ => Interest::FetchNow,
    };
    let mut chooses = hosts[1].bus.artifacts(">").unwrap().subscriber().interest(interest).open().unwrap();
    let artifacts = hosts[0].bus.artifacts("block.new").unwrap();
    let offer =
        |attribute: &[u8], seed| artifacts.offer(&body(50_000, seed)).attribute(attribute).open().unwrap();
    let (_never, soon, at_once) = (offer(b"never", 1), offer(b"soon", 2), offer(b"", 3));
    assert_eq!(receive(&mut chooses).advert().id(), at_once.id());
    now.store(true, Ordering::Release); // pairs with Acquire above
    chooses.reconsider();
    assert_eq!(receive(&mut chooses).advert().id(), soon.id());
    let at = hosts[1].bus.artifacts(">").unwrap();
    let known: Vec<ArtifactId> = at.list().unwrap().iter().map(|listed| listed.advert.id()).collect();
    assert!(known.len() == 2 && known.contains(&soon.id()) && known.contains(&at_once.id()));
    assert_eq!(at.counts().bytes_useful, 100_000, "what is dropped or stashed is not fetched");
}

#[test]
fn what_one_subscriber_drops_another_that_comes_later_is_given() {
    let hosts = three();
    for size in [100, 50_000] {
        let artifacts = hosts[0].bus.artifacts("block.new").unwrap();
        let offer =
            |attribute: &[u8], seed| artifacts.offer(&body(size, seed)).attribute(attribute).open().unwrap();
        let at = hosts[1].bus.artifacts(">").unwrap();
        let interest = |advert: &Advert| match advert.attribute() {
            b"dropped" => Interest::Drop,
            _ => Interest::Fetch,
        };
        let mut first = at.subscriber().interest(interest).open().unwrap();
        let (dropped, taken) = (offer(b"dropped", 1), offer(b"", 2));
        assert_eq!(receive(&mut first).advert().id(), taken.id());
        let mut known = at.list().unwrap();
        until("it is dropped", || {
            known = at.list().unwrap();
            known.len() == 1
        });
        assert_eq!(known[0].advert.id(), taken.id());
        first.reconsider();
        let mut later = subscribe(&hosts[1], "block.>");
        assert_eq!(
            [taken.id(), dropped.id()].map(|_| receive(&mut later).advert().id()),
            [taken.id(), dropped.id()]
        );
        let mut last = at.subscriber().interest(|_| Interest::FetchNow).open().unwrap();
        let both = [receive(&mut last), receive(&mut last)].map(|artifact| artifact.advert().id());
        assert!(both.contains(&taken.id()) && both.contains(&dropped.id()));
        drop((taken, dropped));
        for _ in 0..2 {
            assert!(matches!(later.recv_timeout(PATIENCE).unwrap(), Some(Event::Withdrawn(_))));
        }
        assert!(matches!(first.recv_timeout(PATIENCE).unwrap(), Some(Event::Withdrawn(_))));
        until("nothing is left", || at.list().unwrap().is_empty());
        assert_eq!(first.recv_timeout(Duration::ZERO).unwrap(), None, "who drops it is told no more of it");
    }
    println!("evidence: dropped=2 given_to_later=4");
}

#[test]
fn what_cannot_be_offered_is_refused_with_what_to_do() {
    let host = Host::new(0, &[]);
    let artifacts = |pattern: &str| host.bus.artifacts(pattern).map_err(|error| error.code());
    let offer = |pattern: &str, size: usize| artifacts(pattern).unwrap().offer(&body(size, 1));
    let code = |builder: OfferBuilder| builder.open().map(|offer| offer.id()).unwrap_err().code();
    assert_eq!(code(offer("a", 1).attribute(&[0; 257])), Code::TooLarge);
    assert_eq!(code(offer("a.*", 1)), Code::BadTopic);
    assert_eq!(code(offer("a", 1).to(Destination::Peers(vec![1]))), Code::NotYet);
    assert_eq!(code(offer("a", 1).to(Destination::Group("fast".to_owned()))), Code::NotYet);
    assert_eq!(artifacts("$a").unwrap_err(), Code::ReservedTopic);
    assert_eq!(artifacts("a..b").unwrap_err(), Code::BadPattern);
    let artifacts = artifacts("a").unwrap();
    let (builder, mut subscriber) = (artifacts.offer(b"late"), artifacts.subscriber().open().unwrap());
    host.node.close();
    assert_eq!(code(builder), Code::Closed);
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap_err().code(), Code::Closed);
    assert_eq!(host.bus.artifacts("a").unwrap_err().code(), Code::NoNode);
}
