//! Who may offer and who may see, on each way on which an artifact becomes known.

use std::collections::BTreeSet;
use std::time::Duration;

use busway::artifacts::{ArtifactId, Event, Offer, Subscriber};
use busway::{Acl, AclRule};
use busway_shm::clock::Deadline;

use crate::line::Line;
use crate::stage::{Host, PATIENCE, body, receive, subscribe, until};

/// Rules under which nodes may do what is said there, with all topics or with those of `open` alone.
fn rules(publish: &str, subscribe: &str) -> Acl {
    let list = |pattern: &str| vec![pattern.to_owned()];
    let (publish, subscribe) = (list(publish), list(subscribe));
    Acl::new([AclRule { identity: "node/*".into(), publish, subscribe, ..AclRule::default() }]).unwrap()
}

/// Rules under which the first node may publish all, and the others this.
fn with_all_for_node_0(publish: &str) -> Acl {
    let rule = |identity: &str, publish: &str| {
        let (publish, subscribe) = (vec![publish.to_owned()], vec![">".to_owned()]);
        AclRule { identity: identity.into(), publish, subscribe, ..AclRule::default() }
    };
    Acl::new([rule("node/0", ">"), rule("node/*", publish)]).unwrap()
}

/// Two nodes, and the rules of the first.
fn two(acl: Acl) -> [Host; 2] {
    let last = Host::new(1, &[]);
    let first = Host::with_rules(0, &[(1, last.address())], Some(acl));
    for host in [&first, &last] {
        assert!(host.node.wait_for_peers(1, PATIENCE));
    }
    [first, last]
}

#[test]
fn nobody_is_told_of_an_artifact_on_a_topic_that_it_may_not_subscribe_to() {
    for size in [100, 100_000] {
        let hosts = two(rules(">", "open.>"));
        let mut seen = subscribe(&hosts[1], ">");
        let offer = |topic: &str, seed| {
            hosts[0].bus.artifacts(topic).unwrap().offer(&body(size, seed)).open().unwrap()
        };
        let (_secret, open) = (offer("secret.a", 1), offer("open.a", 2));
        assert_eq!(receive(&mut seen).advert().id(), open.id());
        let listed = hosts[1].bus.artifacts(">").unwrap().list().unwrap();
        assert_eq!(listed.len(), 1, "the other is not known there: {listed:?}");
    }
}

#[test]
fn nothing_is_taken_of_an_artifact_on_a_topic_that_its_node_may_not_publish() {
    for size in [100, 100_000] {
        let hosts = two(rules("open.>", ">"));
        let mut seen = subscribe(&hosts[0], ">");
        let offer = |topic: &str, seed| {
            hosts[1].bus.artifacts(topic).unwrap().offer(&body(size, seed)).open().unwrap()
        };
        let (_forged, open) = (offer("secret.a", 1), offer("open.a", 2));
        assert_eq!(receive(&mut seen).advert().id(), open.id());
        let artifacts = hosts[0].bus.artifacts(">").unwrap();
        assert_eq!(artifacts.list().unwrap().len(), 1);
        assert_eq!(artifacts.counts().denied, 1);
    }
}

#[test]
fn who_is_between_two_nodes_passes_on_no_more_than_the_other_may_see() {
    let last = Host::new(2, &[]);
    let middle = Host::with_rules(1, &[(2, last.address())], Some(rules(">", "open.>")));
    let first = Host::new(0, &[(1, middle.address())]);
    assert!(middle.node.wait_for_peers(2, PATIENCE));
    let (mut here, mut there) = (subscribe(&middle, ">"), subscribe(&last, ">"));
    for size in [100, 100_000] {
        let offer = |topic: &str, seed| {
            first.bus.artifacts(topic).unwrap().offer(&body(size, seed)).keep().open().unwrap().id()
        };
        let (secret, open) = (offer("secret.a", 1), offer("open.a", 2));
        let both = [receive(&mut here).advert().id(), receive(&mut here).advert().id()];
        assert!(both.contains(&secret) && both.contains(&open));
        assert_eq!(receive(&mut there).advert().id(), open, "{size} bytes");
    }
    let known = last.bus.artifacts(">").unwrap().list().unwrap();
    assert!(known.iter().all(|listed| listed.advert.topic() == "open.a"), "{known:?}");
}

#[test]
fn what_a_node_may_not_pass_on_hides_nothing_that_comes_behind_it() {
    // More than the questions that one node may have open to another.
    const SECRETS: u64 = 4_200;
    let last = Host::with_rules(2, &[], Some(with_all_for_node_0("open.>")));
    let middle = Host::new(1, &[(2, last.address())]);
    let first = Host::new(0, &[(1, middle.address())]);
    assert!(middle.node.wait_for_peers(2, PATIENCE));
    let (_here, mut there) = (subscribe(&middle, ">"), subscribe(&last, ">"));
    let at = last.bus.artifacts(">").unwrap();
    let offer =
        |topic: &str, seed| first.bus.artifacts(topic).unwrap().offer(&body(100, seed)).open().unwrap();
    let _secrets: Vec<Offer> = (0..SECRETS).map(|seed| offer("secret.a", seed)).collect();
    until("each is described and denied", || at.counts().denied == SECRETS);
    let open = offer("open.a", SECRETS);
    assert_eq!(receive(&mut there).advert().id(), open.id());
    assert_eq!(at.list().unwrap().len(), 1, "nothing else is known there");
    println!("evidence: denied={SECRETS} came_behind_them=1");
}

#[test]
fn who_gets_a_right_is_told_of_what_stood_before() {
    let hosts = two(rules("open.>", "open.>"));
    let offer = |at: usize, seed| {
        let artifacts = hosts[at].bus.artifacts("secret.a").unwrap();
        artifacts.offer(&body(100_000, seed)).keep().open().unwrap().id()
    };
    let (near, far) = (offer(0, 1), offer(1, 2));
    let [mut here, mut there] = hosts.each_ref().map(|host| subscribe(host, ">"));
    assert_eq!([receive(&mut here).advert().id(), receive(&mut there).advert().id()], [near, far]);
    // What is told in one order is told when something behind it is.
    let last = hosts
        .each_ref()
        .map(|host| host.bus.artifacts("open.a").unwrap().offer(&body(100, 3)).keep().open().unwrap().id());
    assert_eq!([receive(&mut here).advert().id(), receive(&mut here).advert().id()], last);
    hosts[0].node.set_acl(rules(">", ">"));
    let mut again = [receive(&mut there).advert().id(), receive(&mut there).advert().id()];
    again.sort();
    assert_eq!(again, {
        let mut last = last;
        last.sort();
        last
    });
    assert_eq!([receive(&mut here).advert().id(), receive(&mut there).advert().id()], [far, near]);
}

#[test]
fn what_its_node_may_not_publish_any_more_is_over_and_stands_again_when_it_may() {
    for size in [100, 100_000, 300_000] {
        let hosts = two(rules(">", ">"));
        let mut seen = subscribe(&hosts[0], ">");
        let artifacts = hosts[1].bus.artifacts("secret.a").unwrap();
        let offer = artifacts.offer(&body(size, 1)).open().unwrap();
        assert_eq!(receive(&mut seen).advert().id(), offer.id());
        hosts[0].node.set_acl(rules("open.>", ">"));
        let event = seen.recv_timeout(PATIENCE).unwrap().expect("it is told so");
        assert!(matches!(event, Event::Withdrawn(advert) if advert.id() == offer.id()));
        assert!(hosts[0].bus.artifacts(">").unwrap().list().unwrap().is_empty());
        hosts[0].node.set_acl(rules(">", ">"));
        assert_eq!(receive(&mut seen).advert().id(), offer.id());
    }
    println!("evidence: sizes=3 ended=3 stood_again=3");
}

/// Two nodes with a line between them, and the rules of the first, which dials.
fn with_line(acl: Acl) -> ([Host; 2], Line) {
    let last = Host::new(1, &[]);
    let line = Line::to(last.address());
    let first = Host::with_rules(0, &[(1, line.address())], Some(acl));
    for host in [&first, &last] {
        assert!(host.node.wait_for_peers(1, PATIENCE));
    }
    ([first, last], line)
}

#[test]
fn who_gets_a_right_is_told_of_what_stood_before_though_its_links_end_in_the_midst_of_it() {
    const OFFERS: u64 = 600;
    let (hosts, line) = with_line(rules("open.>", "open.>"));
    let mut seen = hosts.each_ref().map(|host| subscribe(host, "*.a"));
    let offer = |at: usize, topic: &str, seed| {
        hosts[at].bus.artifacts(topic).unwrap().offer(&body(100, seed)).keep().open().unwrap().id()
    };
    let secrets = [0, 1].map(|at| (0..OFFERS).map(|n| offer(at, "secret.a", n << 1 | at as u64)).collect());
    // Each has heard of all that the other may tell it.
    let open = [offer(0, "open.a", 5_000), offer(1, "open.a", 5_001)];
    let secrets: [BTreeSet<ArtifactId>; 2] = secrets;
    for (at, seen) in seen.iter_mut().enumerate() {
        let known = secrets[at].iter().chain(&open).copied().collect();
        assert_eq!(receive_all(seen, OFFERS + 2), known);
    }
    // Some of it goes over each of two links, and all over none.
    line.end_after(60_000);
    hosts[0].node.set_acl(rules(">", ">"));
    let before = line.cuts();
    until("two links end", || line.cuts() >= before + 2);
    line.end_after(u64::MAX);
    for (at, seen) in seen.iter_mut().enumerate() {
        let mut missed = secrets[1 - at].clone();
        let deadline = Deadline::after(PATIENCE);
        while !missed.is_empty() && !deadline.expired() {
            if let Some(Event::Received(artifact)) = seen.recv_timeout(Duration::from_secs(1)).unwrap() {
                missed.remove(&artifact.advert().id());
            }
        }
        assert!(missed.is_empty(), "{} of {OFFERS} never came to node {at}", missed.len());
    }
    println!("evidence: links={} told_of={}", line.cuts() - before, 2 * OFFERS);
}

/// What comes, as so many come.
fn receive_all(seen: &mut Subscriber, count: u64) -> BTreeSet<ArtifactId> {
    (0..count).map(|_| receive(seen).advert().id()).collect()
}

#[test]
fn a_node_to_which_no_link_stands_loses_and_gets_rights_as_one_that_is_linked() {
    let rules = |first: &str| {
        let rule = |identity: &str, publish: &str| {
            let (publish, subscribe) = (vec![publish.to_owned()], vec![">".to_owned()]);
            AclRule { identity: identity.into(), publish, subscribe, ..AclRule::default() }
        };
        Acl::new([rule("node/0", first), rule("node/1", ">")]).unwrap()
    };
    for size in [100, 100_000, 300_000] {
        let last = Host::with_rules(2, &[], Some(rules("open.>")));
        let middle = Host::new(1, &[(2, last.address())]);
        let first = Host::new(0, &[(1, middle.address())]);
        assert!(middle.node.wait_for_peers(2, PATIENCE));
        let (mut here, mut there) = (subscribe(&middle, ">"), subscribe(&last, ">"));
        let offer = |topic: &str, seed| {
            first.bus.artifacts(topic).unwrap().offer(&body(size, seed)).keep().open().unwrap().id()
        };
        let (secret, open) = (offer("secret.a", 1), offer("open.a", 2));
        assert_eq!(receive_all(&mut here, 2), [secret, open].into_iter().collect());
        assert_eq!(receive(&mut there).advert().id(), open);
        // It gets it, loses it, and gets it again; of the link between the others nothing changes.
        for (publish, has) in [(">", true), ("open.>", false), (">", true)] {
            last.node.set_acl(rules(publish));
            match there.recv_timeout(PATIENCE).unwrap() {
                Some(Event::Received(artifact)) => {
                    assert!(has && artifact.advert().id() == secret, "{size} bytes: it came with {publish}");
                }
                Some(Event::Withdrawn(advert)) => {
                    assert!(!has && advert.id() == secret, "{size} bytes: it ended with {publish}");
                }
                other => panic!("{size} bytes, {publish}: {other:?}"),
            }
            let known = last.bus.artifacts(">").unwrap().list().unwrap();
            assert_eq!(known.len(), 1 + usize::from(has), "{size} bytes, {publish}: {known:?}");
        }
    }
    println!("evidence: sizes=3 got=6 lost=3");
}
