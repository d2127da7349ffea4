//! Processes that die: exactly what was theirs goes (A7), and nobody else is held up (A14).

use std::time::Duration;

use busway::{Bus, Policy};
use busway_shm::clock::monotonic_ns;

use crate::child::{Child, PATIENCE, Place, number, pids_on, until};

/// What the domain knows of each topic, when it knows these members.
fn registered(bus: &Bus, members: usize, topics: &[&str]) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut found = Vec::new();
    until("the members are these", || {
        let inspection = bus.inspect().unwrap();
        found = topics.iter().map(|topic| pids_on(&inspection, topic)).collect();
        inspection.processes.len() == members
    });
    found
}

#[test]
fn a_death_takes_exactly_its_own() {
    let place = Place::new();
    let witness = place.join("witness");
    let mut twins: Vec<Child> = (0..3).map(|_| place.member("twin")).collect();
    for (n, twin) in twins.iter_mut().enumerate() {
        twin.ask(&format!("pub own.{n} 64 1000"));
        twin.ask("pub common 64 1000");
        twin.ask("sub common block");
    }
    let pids: Vec<u32> = twins.iter().map(Child::pid_number).collect();
    let topics = ["own.0", "own.1", "own.2", "common"];
    let before = registered(&witness, 4, &topics);
    assert_eq!(before[1], (vec![pids[1]], vec![]));
    assert_eq!(before[3].0.len(), 3);
    twins[1].kill();
    let after = registered(&witness, 3, &topics);
    let survivors = vec![pids[0].min(pids[2]), pids[0].max(pids[2])];
    assert_eq!(after[0], before[0]);
    assert_eq!(after[1], (vec![], vec![]), "what was its own is gone");
    assert_eq!(after[2], before[2]);
    assert_eq!(after[3], (survivors.clone(), survivors), "the others of its name keep theirs");
    // The rendezvous says so too, and not only the memory.
    assert_eq!(witness.subscriber("own.>").open().unwrap().publishers(), 2);
    assert_eq!(witness.subscriber("common").open().unwrap().publishers(), 2);
    assert_eq!(witness.publisher("common").open().unwrap().subscribers(), 2);
    let names: Vec<String> =
        witness.inspect().unwrap().processes.into_iter().map(|process| process.name).collect();
    assert_eq!(names, ["witness", "twin", "twin"]);
    println!("evidence: processes=4 of_the_same_name=3 killed=1 topics=4");
}

#[test]
fn a_service_that_dies_is_reclaimed_and_its_successor_is_found() {
    let place = Place::new();
    let bus = place.join("caller");
    let mut subscriber = bus.subscriber("camera.left.frame").open().unwrap();
    for round in 1..=10 {
        let mut responder = place.member("responder");
        responder.ask("pub camera.left.frame 64 1000");
        responder.ask("wait 1");
        assert_eq!(responder.ask("send 5"), "begin");
        responder.answer();
        responder.kill();
        for sequence in 1..=5 {
            let sample =
                subscriber.recv_timeout(PATIENCE).unwrap().expect("what was published stays readable");
            assert_eq!((sample.sequence(), sample.publisher().pid), (sequence, responder.pid_number()));
        }
        until("it is reclaimed", || {
            assert!(subscriber.try_recv().unwrap().is_none());
            let inspection = bus.inspect().unwrap();
            let waits = |view: &busway::TopicView| view.publishers.is_empty() && view.subscribers.len() == 1;
            inspection.processes.len() == 1 && inspection.topics.len() == 1 && waits(&inspection.topics[0])
        });
        assert_eq!(bus.subscriber("camera.left.frame").open().unwrap().publishers(), 0, "round {round}");
    }
    assert_eq!(subscriber.account().delivered, 50);
}

#[test]
fn a_publisher_sees_the_death_of_who_it_waits_for_though_the_holder_dies_with_it() {
    let rounds = 5;
    let mut worst = Duration::ZERO;
    for round in 0..rounds {
        let place = Place::new();
        let holder = place.holder("up");
        let mut reliable = place.member("reliable");
        let mut publisher = place.member("publisher");
        reliable.ask("sub topic block");
        // An hour: who waited for its cap would not be back before the end of the test.
        publisher.ask("pub topic 64 3600000");
        assert_eq!(publisher.ask("wait 1"), "1");
        let tid = publisher.ask("tid");
        assert_eq!(publisher.ask("send 1000"), "begin");
        until("the publisher waits for its subscriber", || {
            publisher.proc(&format!("task/{tid}/stat")).contains(") S ")
                && publisher.proc(&format!("task/{tid}/wchan")).contains("futex")
        });
        assert_eq!(publisher.heard(), Vec::<String>::new(), "it cannot send all");
        holder.kill();
        reliable.kill();
        let before = monotonic_ns();
        let longest_us = number(&publisher.answer());
        let took = Duration::from_nanos(monotonic_ns() - before);
        worst = worst.max(took);
        assert!(took < Duration::from_secs(2), "round {round}: it goes on by its own witness: {took:?}");
        assert!(longest_us > 0, "it has waited");
        until("somebody holds the rendezvous again", || publisher.ask("holds") == "true");
    }
    println!("evidence: rounds={rounds} kills={} cap_s=3600 worst_ms={}", 2 * rounds, worst.as_millis());
}

#[test]
fn who_has_left_and_still_holds_a_sample_keeps_its_place_until_it_lets_go_or_dies() {
    let place = Place::new();
    let bus = place.join("publisher");
    for (end, cause) in [("dies", "subscriber_died"), ("lets go", "subscriber_left")] {
        let mut child = place.member("holds on");
        child.ask("sub topic drop-oldest");
        let mut publisher = bus.publisher("topic").slots_max(32).open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        publisher.send(&[7; 1000]).unwrap();
        assert_eq!(child.ask("leave-holding"), "1000");
        until("it has left", || bus.inspect().unwrap().processes.len() == 1);
        for _ in 0..1000 {
            publisher.try_send(&[8; 1000]).unwrap();
        }
        assert_eq!((publisher.subscribers(), publisher.account().in_flight), (1, 1000), "its place is kept");
        if end == "dies" {
            child.kill();
        } else {
            assert_eq!(child.ask("let-go"), "let go");
        }
        until("its place is free", || publisher.subscribers() == 0);
        let account = publisher.account();
        assert!(account.closed() && account.dropped.get(cause) == Some(&1000), "{end}: {account:?}");
    }
    println!("evidence: kills=1 left=2 messages_while_held=2000");
}

#[test]
fn a_hundred_deaths_at_once_stop_nobody() {
    let place = Place::new();
    let bus = place.join("survivor");
    let mut publisher =
        bus.publisher("topic").slots_max(64).max_wait(Duration::from_secs(3600)).open().unwrap();
    let mut own = bus.subscriber("topic").policy(Policy::Block).open().unwrap();
    let mut crowd: Vec<Child> = (0..100).map(|_| place.spawn("one of many")).collect();
    for child in &mut crowd {
        child.tell("join");
        child.tell("sub topic block");
        child.tell("pub theirs 32 1000");
    }
    for child in &crowd {
        assert_eq!(child.answer(), "joined");
        child.answer();
        child.answer();
    }
    publisher.wait_for_subscribers(101, PATIENCE).unwrap();
    let mut sent = 0_u64;
    // Until the crowd, which does not read, holds it up.
    while publisher.send_timeout(&sent.to_le_bytes(), Duration::from_millis(1)).is_ok() {
        assert_eq!(own.recv_timeout(PATIENCE).unwrap().expect("it is there")[..], sent.to_le_bytes());
        sent += 1;
    }
    let held_up_at = sent;
    for child in &crowd {
        child.kill();
    }
    let mut send = |own: &mut busway::Subscriber| {
        publisher.send_timeout(&sent.to_le_bytes(), PATIENCE).expect("nobody alive holds it up");
        assert_eq!(own.recv_timeout(PATIENCE).unwrap().expect("it is there")[..], sent.to_le_bytes());
        sent += 1;
    };
    let before = monotonic_ns();
    for _ in 0..10_000 {
        send(&mut own);
    }
    let took = Duration::from_nanos(monotonic_ns() - before);
    assert!(took < Duration::from_secs(10), "no wait for the dead: {took:?}");
    until("all are forgotten", || {
        let inspection = bus.inspect().unwrap();
        let topics: Vec<&str> = inspection.topics.iter().map(|view| view.topic.as_str()).collect();
        inspection.processes.len() == 1 && topics == ["topic"]
    });
    until("the account closes", || publisher.subscribers() == 1);
    let account = publisher.account();
    assert!(account.closed() && own.losses().is_empty(), "{account:?}");
    let died = account.dropped.get("subscriber_died").copied().unwrap_or(0);
    assert!(died >= 100 * held_up_at, "what was sent while they lived is counted as theirs: {account:?}");
    println!("evidence: killed=100 messages_after=10000 took_ms={} account={account:?}", took.as_millis());
}
