//! What has room, what makes some, and what is damaged meanwhile.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use busway::Code;
use busway::artifacts::{ArtifactId, Event, Offer};
use busway_shm::clock::Deadline;

use crate::stage::{Directory, Host, PATIENCE, body, receive, subscribe, until};

/// Two linked nodes, of which the second has so many bytes for what comes in pieces, and as many for the rest.
fn two(store: &std::path::Path, bytes: u64) -> [Host; 2] {
    let last = Host::built(1, &[], |node| {
        node.artifact_store(store).artifact_store_bytes(bytes).artifact_bodies_bytes(bytes)
    });
    let first = Host::new(0, &[(1, last.address())]);
    assert!(first.node.wait_for_peers(1, PATIENCE));
    [first, last]
}

#[test]
fn what_was_delivered_makes_room_for_what_comes_and_is_given_again_to_who_comes_later() {
    let directory = Directory::new();
    for (size, count, room) in [(200_000, 60, 1 << 20), (1 << 20, 12, 5 << 19)] {
        let hosts = two(&directory.path().join(format!("{size}")), room);
        // Each makes room for the next at once, and not when all is looked at again.
        let deadline = Deadline::after(PATIENCE);
        let mut here = subscribe(&hosts[1], ">");
        let artifacts = hosts[0].bus.artifacts("block.new").unwrap();
        let offers: Vec<Offer> =
            (0..count).map(|seed| artifacts.offer(&body(size, seed)).open().unwrap()).collect();
        let all = |subscriber: &mut busway::artifacts::Subscriber| {
            let mut ids: Vec<_> = offers
                .iter()
                .map(|_| {
                    let artifact = receive(subscriber);
                    assert_eq!(artifact.bytes().unwrap().len(), size);
                    artifact.advert().id()
                })
                .collect();
            ids.sort();
            ids
        };
        let mut sent: Vec<_> = offers.iter().map(Offer::id).collect();
        sent.sort();
        assert!(all(&mut here) == sent);
        assert!(all(&mut subscribe(&hosts[1], ">")) == sent, "who comes later");
        assert_eq!(here.recv_timeout(Duration::ZERO).unwrap(), None, "nobody is given it twice");
        assert!(!deadline.expired());
        println!("evidence: size={size} stand={count} room={room} came=2x{count}");
    }
}

#[test]
fn a_node_offers_small_artifacts_of_64_mib_and_more_where_it_has_room_for_more() {
    const SIZE: usize = 256 << 10;
    for (node, count) in
        [(Host::new(0, &[]), 256), (Host::built(0, &[], |node| node.artifact_bodies_bytes(1 << 30)), 1_024)]
    {
        let artifacts = node.bus.artifacts("block.new").unwrap();
        let mut body = vec![0; SIZE];
        let mut offers = Vec::new();
        let error = loop {
            body[..8].copy_from_slice(&(offers.len() as u64).to_le_bytes());
            match artifacts.offer(&body).open() {
                Ok(offer) => offers.push(offer),
                Err(error) => break error,
            }
        };
        // What stands beside each of them is counted too.
        assert_eq!(error.code(), Code::Full);
        assert!((count - count / 64..=count).contains(&offers.len()), "{} for {count}", offers.len());
        println!("evidence: offered={} of {SIZE} bytes, then {}", offers.len(), error.code());
    }
}

#[test]
fn what_somebody_has_in_hand_stays_and_what_finds_no_room_comes_when_there_is_some() {
    let directory = Directory::new();
    let hosts = two(&directory.path().join("store"), 5 << 19);
    let mut here = subscribe(&hosts[1], ">");
    let artifacts = hosts[0].bus.artifacts("block.new").unwrap();
    let sent: Vec<Vec<u8>> = (0..3).map(|seed| body(1 << 20, seed)).collect();
    let _offers: Vec<Offer> = sent.iter().map(|sent| artifacts.offer(sent).open().unwrap()).collect();
    let mut held = vec![receive(&mut here), receive(&mut here)];
    let counts = || hosts[1].bus.artifacts(">").unwrap().counts();
    until("there is no room for the third", || counts().full > 0);
    for artifact in &held {
        assert!(sent.iter().any(|sent| artifact.bytes().unwrap()[..] == sent[..]));
    }
    drop(held.pop());
    let third = receive(&mut here);
    assert!(sent.iter().any(|sent| third.bytes().unwrap()[..] == sent[..]));
    // What this node offers itself is refused where there is no room.
    let own = hosts[1].bus.artifacts("own").unwrap();
    assert_eq!(own.offer(&body(3 << 20, 9)).open().unwrap_err().code(), Code::Full);
}

#[test]
fn what_has_taken_the_room_and_does_not_come_makes_room_for_what_does() {
    const SIZE: usize = 2 << 20;
    let directory = Directory::new();
    let store = directory.path().join("of the first");
    let last = Host::built(2, &[], |node| node.artifact_store_bytes(5 << 19));
    let other = Host::new(1, &[(2, last.address())]);
    let first = Host::built(0, &[(2, last.address())], |node| node.artifact_store(&store));
    assert!(last.node.wait_for_peers(2, PATIENCE));
    let offer =
        |host: &Host, sent: &[u8]| host.bus.artifacts("block.new").unwrap().offer(sent).open().unwrap();
    let never = offer(&first, &body(SIZE, 1));
    damage(&store, never.id(), SIZE);
    let sent = body(SIZE, 2);
    let _comes = offer(&other, &sent);
    let known = last.bus.artifacts(">").unwrap();
    until("both are known", || known.list().unwrap().len() == 2);
    let mut there = subscribe(&last, ">");
    assert!(receive(&mut there).bytes().unwrap()[..] == sent);
    let counts = last.bus.artifacts(">").unwrap().counts();
    assert!(counts.full > 0, "it had no room at first: {counts:?}");
    println!("evidence: stalled=1 came=1 full={}", counts.full);
}

/// Overwrites so many bytes of an artifact in a store.
fn damage(store: &std::path::Path, id: ArtifactId, size: usize) {
    let files = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap());
    let is_of = |file: &std::fs::DirEntry| file.file_name().to_string_lossy().starts_with(&id.to_string());
    let file = files.into_iter().find(is_of).expect("it lies there").path();
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(&vec![0; size], 4_096).unwrap();
}

#[test]
fn what_is_damaged_on_the_disk_is_found_when_it_is_read_and_fetched_again_where_somebody_has_it() {
    let directory = Directory::new();
    let store = directory.path().join("store");
    let hosts = two(&store, 64 << 20);
    let mut here = subscribe(&hosts[1], ">");
    let sent = body(2 << 20, 1);
    let offer = hosts[0].bus.artifacts("block.new").unwrap().offer(&sent).open().unwrap();
    let artifact = receive(&mut here);
    damage(&store, offer.id(), 100_000);
    assert!(artifact.bytes().unwrap()[..] == sent);
    let damaged = hosts[1].bus.artifacts(">").unwrap().counts().damaged;
    assert_eq!(damaged, 4, "pieces of 32 KiB");
    // What is offered here nobody else has: it is an error, and never a wrong byte.
    let own = body(2 << 20, 2);
    let artifacts = hosts[1].bus.artifacts("block.own").unwrap();
    let offer = artifacts.offer(&own).open().unwrap();
    let artifact = loop {
        match here.recv_timeout(PATIENCE).unwrap().expect("it comes") {
            Event::Received(artifact) if artifact.advert().id() == offer.id() => break artifact,
            _ => {}
        }
    };
    damage(&store, offer.id(), 100_000);
    assert_eq!(artifact.bytes().unwrap_err().code(), Code::BytesLost);
    let error = hosts[0].bus.artifacts(">").unwrap().fetch(offer.id(), Duration::from_millis(300));
    assert_eq!(error.unwrap_err().code(), Code::TimedOut);
    println!("evidence: damaged={damaged} wrong=0");
}
