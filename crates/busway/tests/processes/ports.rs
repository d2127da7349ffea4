//! What is registered: described truly, freed when it goes (A5), counted rightly, found by service (A15).

use busway::{Policy, Topic};

use crate::child::{Child, Place, number, pids_on, until};

/// Ports opened and closed in all. `cargo xtask soak ports` sets it to 100 000; the suite has less patience.
const PORTS: &str = "BUSWAY_TEST_PORTS";
const PORTS_DEFAULT: u64 = 20_000;
/// One batch opens so many publishers here and subscribers there, and each of these meets each of those.
const BATCH: u64 = 10;

/// What a process uses: see `usage` in `member`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    resident: u64,
    descriptors: u64,
    maps: u64,
    threads: u64,
    committed: u64,
}

fn usage(child: &mut Child, committed: u64) -> Usage {
    let said = child.ask("usage");
    let numbers: Vec<u64> = said.split(' ').map(number).collect();
    let [resident, _, descriptors, maps, threads] = numbers[..] else { panic!("{said}") };
    Usage { resident, descriptors, maps, threads, committed }
}

/// Both sides as they are when nothing is registered any more.
fn settled(bus: &busway::Bus, children: &mut [Child; 2]) -> [Usage; 2] {
    until("rings, rows and seats are given back", || {
        let (publishers, subscribers) = pids_on(&bus.inspect().unwrap(), "batch");
        publishers.is_empty() && subscribers.is_empty()
    });
    let inspection = bus.inspect().unwrap();
    children.each_mut().map(|child| {
        let pid = child.pid_number();
        let committed = inspection.processes.iter().find(|process| process.pid == pid);
        usage(child, committed.expect("it is a member").committed_bytes)
    })
}

#[test]
fn registrations_leave_nothing_behind() {
    let wanted = std::env::var(PORTS).map_or(PORTS_DEFAULT, |count| number(&count));
    let place = Place::new();
    let bus = place.join("witness");
    let mut pair = [place.member("left"), place.member("right")];
    let (mut done, mut early) = (0, None);
    while done < wanted {
        // In turn: each side publishes and subscribes.
        let (publishing, subscribing) = if (done / BATCH).is_multiple_of(4) { (0, 1) } else { (1, 0) };
        pair[subscribing].tell(&format!("batch 0 {BATCH}"));
        pair[publishing].tell(&format!("batch {BATCH} 0"));
        for child in &pair {
            assert_eq!(child.answer(), "opened");
        }
        for child in &mut pair {
            child.tell("end-batch");
        }
        for child in &pair {
            assert_eq!(child.answer(), "closed");
        }
        done += 2 * BATCH;
        if early.is_none() && done >= wanted / 10 {
            early = Some((done, settled(&bus, &mut pair)));
        }
    }
    let late = settled(&bus, &mut pair);
    let (early_at, early) = early.expect("a tenth comes before the end");
    for (early, late) in early.iter().zip(&late) {
        // An allocator keeps pages back: a leak of 64 bytes a port would be 1 MiB here.
        let most = early.resident + 512 * 1024;
        assert!(late.resident <= most, "resident at {early_at} and {done} ports: {early:?} {late:?}");
        let rest = |usage: &Usage| (usage.descriptors, usage.maps, usage.threads);
        assert_eq!(rest(early), rest(late), "descriptors, maps, threads at {early_at} and {done} ports");
        // How many ports wait for the control thread at one moment differs from run to run; what they take is used again.
        // A leak of a slot a port would be 2 MiB.
        let most = early.committed + 64 * 1024;
        assert!(late.committed <= most, "arena at {early_at} and {done} ports: {early:?} {late:?}");
    }
    println!("evidence: ports={done} early_at={early_at} early={early:?} late={late:?}");
}

#[test]
fn what_is_registered_is_described_truly() {
    let place = Place::new();
    let bus = place.join("witness");
    let mut publisher = bus.publisher("described").slots_max(1024).bytes_max(1 << 20).open().unwrap();
    let mut subscriber = bus.subscriber("described").policy(Policy::Block).open().unwrap();
    publisher.wait_for_subscribers(1, crate::child::PATIENCE).unwrap();
    for size in [97, 128, 1000, 4096, 100_000, 2 << 20] {
        let mut loan = publisher.loan(size).unwrap();
        assert_eq!(loan.len(), size, "the capacity is what was asked for");
        assert_eq!(loan.as_ptr() as usize % 64, 0, "a payload of {size} bytes begins on a cache line");
        loan.fill(7);
        loan.send().unwrap();
        let sample = subscriber.recv().unwrap();
        assert_eq!((sample.len(), sample.as_ptr() as usize % 64), (size, 0));
        assert!(sample.is_held() && sample.iter().all(|byte| *byte == 7));
    }
    let inspection = bus.inspect().unwrap();
    let rings: Vec<_> = inspection.segments.iter().filter(|segment| segment.kind == "ring").collect();
    assert_eq!(rings.len(), 1);
    assert_eq!(
        (rings[0].bytes, rings[0].topic.as_deref()),
        (32 * 128, Some("described")),
        "a slot has 128 bytes"
    );
    for _ in 0..1024 {
        publisher.send(b"grow").unwrap();
    }
    let inspection = bus.inspect().unwrap();
    let ring = inspection.segments.iter().find(|segment| segment.kind == "ring").unwrap();
    assert!(ring.bytes >= 1024 * 128, "it has grown to its slots: {}", ring.bytes);
    let arena = inspection.segments.iter().find(|segment| segment.kind == "arena").unwrap();
    let bulk = inspection.segments.iter().find(|segment| segment.kind == "bulk").unwrap();
    assert_eq!(arena.bytes + bulk.bytes, inspection.processes[0].committed_bytes);
    assert!(bulk.bytes >= 2 << 20, "chunks of a MiB and more lie in the second file");
    let first = publisher.id();
    let (subscribers, publishers) = (subscriber.id(), first.to_string());
    assert_eq!(inspection.topics[0].publishers[0].port, publishers);
    assert_eq!(inspection.topics[0].subscribers[0].port, subscribers.to_string());
    drop((publisher, subscriber));
    until("it is gone", || bus.inspect().unwrap().topics.is_empty());
    let again = bus.publisher("described").open().unwrap();
    assert_ne!(again.id(), first, "whoever uses the entry next is another port");
}

#[test]
fn ports_are_found_while_they_are_registered_and_not_after() {
    let place = Place::new();
    let bus = place.join("here");
    let mut other = place.member("there");
    for round in 0..20 {
        let topic = format!("round.{round}");
        assert_eq!(pids_on(&bus.inspect().unwrap(), &topic), (vec![], vec![]));
        other.ask(&format!("pub {topic} 64 1000"));
        let subscriber = bus.subscriber(&topic).open().unwrap();
        assert_eq!(subscriber.publishers(), 1, "the answer to a subscription is complete");
        let (publishers, subscribers) = pids_on(&bus.inspect().unwrap(), &topic);
        assert_eq!((publishers, subscribers), (vec![other.pid_number()], vec![std::process::id()]));
        drop(subscriber);
        other.ask("end-batch");
        until("both are gone", || pids_on(&bus.inspect().unwrap(), &topic) == (vec![], vec![]));
        assert_eq!(bus.subscriber(&topic).open().unwrap().publishers(), 0);
    }
}

#[test]
fn a_service_is_found_by_service_instance_and_event() {
    let place = Place::new();
    let bus = place.join("caller");
    let mut other = place.member("responder");
    for topic in ["camera.left.frame", "camera.left.fault", "camera.right.frame", "radar.left.frame"] {
        assert_eq!(Topic::service("camera", "left", "frame").unwrap().as_str(), "camera.left.frame");
        other.ask(&format!("pub {topic} 64 1000"));
    }
    let found = |pattern: &str| bus.subscriber(pattern).open().unwrap().publishers();
    let exact = Topic::service("camera", "left", "frame").unwrap();
    assert_eq!(bus.subscriber_of(busway::Pattern::Exact(exact)).open().unwrap().publishers(), 1);
    assert_eq!(found("camera.*.frame"), 2, "any instance");
    assert_eq!(found("camera.left.*"), 2, "any event");
    assert_eq!(found("*.left.frame"), 2, "any service");
    assert_eq!(found("camera.>"), 3);
    assert_eq!(found("camera.left"), 0, "a service without its event is another topic");
    assert!(Topic::service("camera", "*", "frame").is_err(), "a wildcard names no instance");
}

#[test]
fn a_message_is_routed_to_who_matches_and_to_nobody_else() {
    let place = Place::new();
    let bus = place.join("caller");
    let patterns =
        ["camera.left.frame", "camera.*.frame", "camera.>", "^cam", ">", "camera.left.fault", "radar.>"];
    let mut subscribers: Vec<_> =
        patterns.iter().map(|pattern| bus.subscriber(pattern).open().unwrap()).collect();
    let mut other = place.member("responder");
    other.ask("pub camera.left.frame 64 1000");
    assert_eq!(other.ask("wait 5"), "5");
    assert_eq!(other.ask("send 3"), "begin");
    for (pattern, subscriber) in patterns.iter().zip(&mut subscribers).take(5) {
        for sequence in 1..=3 {
            let sample = subscriber.recv_timeout(crate::child::PATIENCE).unwrap().expect("it matches");
            assert_eq!((sample.topic(), sample.sequence()), ("camera.left.frame", sequence), "{pattern}");
            assert_eq!(sample.publisher().pid, other.pid_number());
        }
    }
    for (pattern, subscriber) in patterns.iter().zip(&mut subscribers) {
        assert!(subscriber.try_recv().unwrap().is_none(), "{pattern}: nobody gets more");
        assert!(subscriber.losses().is_empty());
    }
}

#[test]
fn a_full_queue_is_told_to_the_sender_by_name() {
    let place = Place::new();
    let bus = place.join("caller");
    let mut other = place.member("the slow one");
    let topic = Topic::service("camera", "left", "command").unwrap();
    let mut publisher = bus.publisher_of(topic.clone()).slots_max(32).open().unwrap();
    other.ask(&format!("sub {topic} fail"));
    publisher.wait_for_subscribers(1, crate::child::PATIENCE).unwrap();
    for _ in 0..32 {
        publisher.send(b"do").unwrap();
    }
    let error = publisher.send(b"do").unwrap_err();
    let busway::SendError::Full(behind) = &error else { panic!("{error}") };
    assert_eq!((behind.0[0].name.as_str(), behind.0[0].behind), ("the slow one", 32));
    assert_eq!(behind.0[0].pid, other.pid_number());
    assert_eq!(busway::Error::from(error).code().to_string(), "BUS-0401");
    assert_eq!(other.ask("take 32"), "32");
    publisher.send(b"do").expect("there is room again");
}
