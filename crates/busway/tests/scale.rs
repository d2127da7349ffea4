//! Numbers are no limit: many subscribers on a topic, many topics in a process, many of everything at once.
//! One test at a time: each takes both cores.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/part.rs"]
mod part;
#[path = "scene/place.rs"]
mod place;

use std::collections::{BTreeMap, BTreeSet};

use busway::{Account, Bus, Policy, PortId, Subscriber};
use busway_shm::clock::{Deadline, monotonic_ns};
use part::{Part, hear, say};
use place::{PATIENCE, Scene};
use rustix::process::Signal;

/// Subscribers of each child, and children: a thousand subscribers in four processes.
const SUBSCRIBERS: usize = 250;
const CHILDREN: usize = 4;
const MESSAGES: u64 = 100;
const TOPICS: usize = 10_000;

#[test]
fn plays_its_part_if_it_was_started_for_one() {
    let Some(part) = Part::given() else { return };
    match part.name.as_str() {
        "crowd" => crowd(&part),
        "twin" => twin(&part),
        other => panic!("no part is called {other}"),
    }
}

/// Waits for each subscriber's messages in turn and says their sum.
fn crowd(part: &Part) {
    let bus = part.bus();
    let open = |_| bus.subscriber("crowd").policy(Policy::Block).open().unwrap();
    let mut subscribers: Vec<Subscriber> = (0..SUBSCRIBERS).map(open).collect();
    say("ready");
    let mut sum = 0;
    for message in 1..=MESSAGES {
        for subscriber in &mut subscribers {
            let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("every message comes");
            assert_eq!(sample.sequence(), message);
            sum += u64::from_le_bytes(sample[..8].try_into().unwrap());
        }
    }
    say(&sum.to_string());
    assert_eq!(hear(), None);
}

#[test]
fn a_thousand_subscribers_on_one_topic_all_read_everything() {
    let scene = Scene::new();
    let bus = scene.bus("publishes");
    let mut publisher = bus.publisher("crowd").open().unwrap();
    let begun = monotonic_ns();
    let children: Vec<_> = (0..CHILDREN).map(|_| scene.start("crowd")).collect();
    for child in &children {
        assert_eq!(child.line(), "ready");
    }
    let all = CHILDREN * SUBSCRIBERS;
    assert_eq!(publisher.wait_for_subscribers(all, PATIENCE).unwrap(), all);
    let joined_ms = (monotonic_ns() - begun) / 1_000_000;
    let mut sum = 0;
    for message in 0..MESSAGES {
        let sent = publisher.send(&message.to_le_bytes()).unwrap();
        assert_eq!((sent.stalled, sent.evicted), (0, 0), "nobody is too slow");
        sum += message;
    }
    for child in &children {
        assert_eq!(child.line(), (sum * SUBSCRIBERS as u64).to_string());
    }
    let account = publisher.account();
    let expected = Account {
        sent: MESSAGES,
        subscribers: all as u64,
        expected: MESSAGES * all as u64,
        delivered: MESSAGES * all as u64,
        ..Account::default()
    };
    assert_eq!(account, expected);
    for child in &children {
        child.signal(Signal::KILL);
    }
    let deadline = Deadline::after(PATIENCE);
    while publisher.subscribers() > 0 {
        assert!(!deadline.expired(), "{} subscribers outlive their processes", publisher.subscribers());
        std::thread::yield_now();
    }
    assert_eq!(publisher.account().delivered, expected.delivered, "the account survives them");
    println!("evidence: subscribers={all} processes={CHILDREN} messages={MESSAGES} joined_ms={joined_ms}");
}

/// Nanoseconds that processors have worked for this process, in which the holder of the rendezvous lives as well.
fn cpu_ns() -> u64 {
    let worked = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(worked.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(worked.tv_nsec).unwrap()
}

#[test]
fn ten_thousand_topics_in_one_process_are_published_and_read() {
    let scene = Scene::new();
    let bus = scene.bus("topics");
    let begun = monotonic_ns();
    let mut all = bus.subscriber("load.>").open().unwrap();
    let mut ports = Vec::new();
    let mut thousands = Vec::new();
    for topic in 0..TOPICS {
        if topic % 1_000 == 0 {
            thousands.push(cpu_ns());
        }
        let publisher = bus.publisher(&format!("load.t{topic}")).open().unwrap();
        let subscriber = bus.subscriber(&format!("load.t{topic}")).open().unwrap();
        ports.push((publisher, subscriber));
    }
    let opened = monotonic_ns();
    thousands.push(cpu_ns());
    let costs: Vec<u64> = thousands.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let least = |costs: &[u64]| costs.iter().copied().min().expect("there are some");
    let (first, last) = (least(&costs[..3]), least(&costs[costs.len() - 3..]));
    // Of processor time, which other programs do not take; what the control thread does once a second falls into some
    // thousands and not into others. A second is nothing to speak of; a look at everybody for each would cost the last
    // ones twenty times the first.
    assert!(last < 1_000_000_000 || last < 8 * first, "the last thousand took {last} ns, the first {first}");
    for (topic, (publisher, _)) in ports.iter_mut().enumerate() {
        assert_eq!(publisher.subscribers(), 2, "the topic {topic} has both of its subscribers at once");
        publisher.try_send(&topic.to_le_bytes()).unwrap();
    }
    let mut seen = BTreeSet::new();
    for (topic, (publisher, subscriber)) in ports.iter_mut().enumerate() {
        let sample = subscriber.try_recv().unwrap().expect("it is there when it was sent");
        assert_eq!((&sample[..], sample.source()), (&topic.to_le_bytes()[..], publisher.id()));
        let sample = all.try_recv().unwrap().expect("the pattern reads them all");
        assert!(seen.insert(sample.topic().to_owned()), "{} came twice", sample.topic());
    }
    assert_eq!(all.try_recv().unwrap().map(|sample| sample.topic().to_owned()), None);
    let read = monotonic_ns();
    drop(ports);
    bus.close();
    let closed = monotonic_ns();
    let ms = |from: u64, to: u64| (to - from) / 1_000_000;
    println!(
        "evidence: topics={TOPICS} open_ms={} messages_ms={} close_ms={}",
        ms(begun, opened),
        ms(opened, read),
        ms(read, closed)
    );
}

/// More than those at which each look is at all, and than those of which one look asks whether they have ended.
const MANY: usize = 1100;
/// Those that stay: the others stand behind them.
const KEPT: usize = 1060;

#[test]
fn of_more_publishers_than_are_looked_at_each_time_every_message_is_read_and_every_end_is_found() {
    let scene = Scene::new();
    let (bus, other) = (scene.bus("reads"), scene.bus("publishes"));
    let mut all = bus.subscriber("many.>").policy(Policy::Block).open().unwrap();
    let open = |bus: &Bus, number: usize| bus.publisher(&format!("many.t{number}")).open().unwrap();
    // While they come, somebody looks all the time: also at those whose seats are not there yet.
    let mut publishers = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let of = |number| open(if number % 3 == 0 { &bus } else { &other }, number);
            (0..MANY).map(of).collect::<Vec<_>>()
        });
        while !opened.is_finished() {
            assert!(all.try_recv().unwrap().is_none(), "nobody has sent anything");
        }
        opened.join().unwrap()
    });
    let mut read = 0;
    for round in 0..10 {
        for step in 0..MANY {
            let publisher = &mut publishers[(step * 7 + round) % MANY];
            publisher.try_send(b"alone").unwrap();
            let sample = all.try_recv().unwrap().expect("it is there when it was sent");
            assert_eq!((sample.source(), &sample[..]), (publisher.id(), &b"alone"[..]));
            read += 1;
        }
    }
    for publisher in &mut publishers {
        for _ in 0..3 {
            publisher.try_send(b"together").unwrap();
        }
    }
    while all.try_recv().unwrap().is_some() {
        read += 1;
    }
    assert_eq!(read, 13 * MANY, "each message is read once");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for publisher in &mut publishers {
                publisher.send(b"for a sleeper").unwrap();
            }
        });
        (0..MANY).for_each(|_| drop(all.recv_timeout(PATIENCE).unwrap().expect("every message comes")));
    });
    publishers.truncate(KEPT);
    let deadline = Deadline::after(PATIENCE);
    while all.publishers() > KEPT {
        assert!(!deadline.expired(), "{} publishers are read", all.publishers());
        assert!(all.try_recv().unwrap().is_none(), "nobody has sent anything");
    }
    for publisher in &mut publishers {
        publisher.try_send(b"still").unwrap();
        assert_eq!(all.try_recv().unwrap().map(|sample| sample.source()), Some(publisher.id()));
    }
    println!("evidence: publishers={MANY} messages={}", read + MANY + KEPT);
}

/// Publishes on `same.a` and `same.b` when told to, and says what it read of both, by publisher.
fn twin(part: &Part) {
    let bus = part.bus();
    let mut a = [bus.publisher("same.a").open().unwrap(), bus.publisher("same.a").open().unwrap()];
    let mut b = bus.publisher("same.b").open().unwrap();
    let mut read = Vec::new();
    for pattern in ["same.a", "same.a", "same.b", "same.*", "^same"] {
        read.push(bus.subscriber(pattern).policy(Policy::Block).open().unwrap());
    }
    say("ready");
    while let Some(line) = hear() {
        if line == "send" {
            for message in 0..MESSAGES {
                for publisher in a.iter_mut().chain([&mut b]) {
                    publisher.send(&message.to_le_bytes()).unwrap();
                }
            }
            say("sent");
        } else {
            let wanted: Vec<usize> = line.split(' ').map(|count| count.parse().unwrap()).collect();
            let counts: Vec<String> = read
                .iter_mut()
                .zip(wanted)
                .map(|(subscriber, publishers)| by_publisher(subscriber, publishers).to_string())
                .collect();
            say(&counts.join(" "));
        }
    }
}

/// Reads until `publishers` publishers have sent all they have; how many sent it in order and without a gap.
fn by_publisher(subscriber: &mut Subscriber, publishers: usize) -> usize {
    let mut next: BTreeMap<PortId, u64> = BTreeMap::new();
    for _ in 0..publishers as u64 * MESSAGES {
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("every message comes");
        let next = next.entry(sample.source()).or_default();
        *next += 1;
        assert_eq!(sample.sequence(), *next, "in order, without a gap, none twice");
        assert_eq!(sample[..], (*next - 1).to_le_bytes(), "with its own payload");
    }
    assert!(subscriber.try_recv().unwrap().is_none(), "nothing more comes");
    assert_eq!(subscriber.losses(), []);
    next.len()
}

#[test]
fn many_publishers_and_subscribers_of_equal_names_are_told_apart() {
    let scene = Scene::new();
    let bus = scene.bus("twin");
    let mut children: Vec<_> = (0..3).map(|_| scene.start("twin")).collect();
    for child in &children {
        assert_eq!(child.line(), "ready");
    }
    let topics = bus.inspect().unwrap().topics;
    let named: Vec<(&str, usize, usize)> = topics
        .iter()
        .map(|topic| (topic.topic.as_str(), topic.publishers.len(), topic.subscribers.len()))
        .collect();
    assert_eq!(named, [("same.a", 6, 12), ("same.b", 3, 9)], "ports are told apart by their ids");
    for child in &mut children {
        assert_eq!(child.ask("send"), "sent");
    }
    // Two publishers of `same.a` and one of `same.b` in each of three processes.
    for child in &mut children {
        assert_eq!(child.ask("6 6 3 9 9"), "6 6 3 9 9");
    }
    println!("evidence: processes=3 publishers=9 subscribers=15 messages_each={MESSAGES}");
}
