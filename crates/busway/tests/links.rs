//! Two hosts on one: two domains that share nothing, each with a node, linked over the loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

#[path = "scene/stranger.rs"]
mod stranger;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::PathBuf;

use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::sync::{AtomicU64, Ordering};

use busway::{Bus, Cause, Context, LinkState, Node, Policy, Subscriber};
use busway_wire::link::{Accept, Frame, Identity, Interest, Wanted};
use busway_wire::{Pattern, Topic};
use stranger::{Stranger, announce, hello};

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let random = fastrand::u64(..);
        let path = std::env::temp_dir().join(format!("busway-links-{}-{random:x}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A host: a domain of its own, and a node.
struct Host {
    node: Option<Node>,
    bus: Bus,
    _directory: Directory,
}

impl Host {
    fn new(index: u8, peers: &[(u8, SocketAddr)]) -> Self {
        let directory = Directory::new();
        let bus = Bus::builder().directory(&directory.0).domain("links").arena_bytes(1 << 30).open().unwrap();
        let mut host = Host { node: None, bus, _directory: directory };
        host.start(index, "127.0.0.1:0".parse().unwrap(), peers);
        host
    }

    fn start(&mut self, index: u8, listen: SocketAddr, peers: &[(u8, SocketAddr)]) {
        let mut builder = Node::builder().cluster("test").index(index).listen(listen);
        for (peer, address) in peers {
            builder = builder.peer(*peer, &address.to_string());
        }
        self.node = Some(builder.open(&self.bus).unwrap());
    }

    fn address(&self) -> SocketAddr {
        self.node.as_ref().unwrap().listening()[0]
    }

    fn wait_for_peers(&self, count: usize) {
        assert!(
            self.node.as_ref().unwrap().wait_for_peers(count, PATIENCE),
            "{:?}",
            self.node.as_ref().unwrap().peers()
        );
    }
}

/// Two hosts that are linked: the lower index dials.
fn two_hosts() -> (Host, Host) {
    let far = Host::new(1, &[]);
    let near = Host::new(0, &[(1, far.address())]);
    near.wait_for_peers(1);
    far.wait_for_peers(1);
    (near, far)
}

#[test]
fn what_a_message_says_beside_its_payload_crosses_a_link_whatever_its_size() {
    let (near, far) = two_hosts();
    // Of those that are held more than there may be are kept: the rest is copied.
    let mut subscriber = far.bus.subscriber("sizes").policy(Policy::Block).holds(2).open().unwrap();
    let mut publisher = near.bus.publisher("sizes").open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let mut state = String::from("a=");
    state.extend(std::iter::repeat_n('b', 255));
    let traced = Context::default().with_trace(trace);
    let mut sent = Vec::new();
    for size in [0_usize, 60, 88, 89, 96, 97, 5_000, 100_000, 1 << 20, (3 << 20) + 5] {
        let all = traced.with_state(&state).unwrap().with_id(near.bus.next_id().unwrap());
        for context in [Context::default(), traced, all, Context::default()] {
            let payload: Vec<u8> = (0..size).map(|at| (at / 7 + size) as u8).collect();
            sent.push((context, payload));
        }
    }
    let mut seen = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (context, payload) in &sent {
                publisher.in_context(*context).send(payload).unwrap();
            }
        });
        let mut kept = std::collections::VecDeque::new();
        for (context, payload) in &sent {
            if payload.len() > 5_000 {
                // What is too large to be copied waits for a hold.
                kept.clear();
            }
            let message = subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
            assert!(message.payload() == payload, "of {} bytes", payload.len());
            assert_eq!(message.context(), *context, "of {} bytes", payload.len());
            seen += u64::from(!message.context().is_empty());
            if payload.len() <= 5_000 {
                kept.push_back(message);
            }
            if kept.len() > 4 {
                kept.pop_front();
            }
        }
    });
    assert!(subscriber.losses().is_empty());
    println!("evidence: messages={} with_context={seen}", sent.len());
}

#[test]
fn what_another_host_sends_again_is_dropped_by_who_wants_each_once() {
    let (near, far) = two_hosts();
    let mut subscriber =
        far.bus.subscriber("orders").policy(Policy::Block).drop_duplicates(100).open().unwrap();
    let id = Context::default().with_id(near.bus.next_id().unwrap());
    // Who sends it again has taken the place of who did not know that it had gone out.
    for (first, payload) in [(true, "small"), (false, "small"), (false, "the end")] {
        let mut publisher = near.bus.publisher("orders").open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        publisher.in_context(id).send(payload.as_bytes()).unwrap();
        publisher.in_context(id).send(&vec![7; 200_000]).unwrap();
        publisher.send(b"without an id").unwrap();
        if first {
            assert_eq!(receive(&mut subscriber), b"small");
        }
        assert_eq!(receive(&mut subscriber), b"without an id");
        publisher.flush(PATIENCE).unwrap();
    }
    let lost = subscriber.losses();
    assert!(lost.iter().all(|loss| loss.cause == Cause::Duplicate), "{lost:?}");
    assert_eq!(lost.iter().map(|loss| loss.count).sum::<u64>(), 5);
    assert_eq!(subscriber.account().dropped.get(Cause::Duplicate.name()), Some(&5));
    println!("evidence: duplicates=5");
}

fn receive(subscriber: &mut Subscriber) -> Vec<u8> {
    subscriber.recv_timeout(PATIENCE).unwrap().expect("a message").to_vec()
}

#[test]
fn a_message_crosses_to_another_host_with_its_source_and_sequence() {
    let (near, far) = two_hosts();
    let mut subscriber = far.bus.subscriber("price.>").open().unwrap();
    let mut publisher = near.bus.publisher("price.tick").open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    for n in 1..=100_u64 {
        publisher.send(format!("message {n}").as_bytes()).unwrap();
    }
    for n in 1..=100_u64 {
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!(&sample[..], format!("message {n}").as_bytes());
        assert_eq!((sample.topic(), sample.sequence(), sample.source()), ("price.tick", n, publisher.id()));
    }
    assert!(subscriber.losses().is_empty());
}

#[test]
fn messages_of_every_size_cross_unharmed_both_ways() {
    let (near, far) = two_hosts();
    for (from, to, topic) in [(&near, &far, "there"), (&far, &near, "back")] {
        let mut subscriber = to.bus.subscriber(topic).policy(Policy::Block).open().unwrap();
        let mut publisher = from.bus.publisher(topic).open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        for size in
            [0, 1, 87, 88, 89, 96, 97, 1_023, 1_024, 16_383, 16_384, 65_536, 65_537, 1 << 20, 5_000_001]
        {
            let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            publisher.send(&payload).unwrap();
            assert!(receive(&mut subscriber) == payload, "{size} bytes {topic}");
        }
    }
}

#[test]
fn who_subscribes_late_on_another_host_gets_nothing_that_was_sent_before() {
    let (near, far) = two_hosts();
    let mut publisher = near.bus.publisher("late").open().unwrap();
    for _ in 0..10 {
        publisher.send(b"before").unwrap();
    }
    let mut subscriber = far.bus.subscriber("late").policy(Policy::Block).open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    publisher.send(b"after").unwrap();
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap()[..], *b"after");
}

#[test]
fn what_waits_for_the_first_subscriber_waits_beside_a_node_and_goes_to_whoever_is_first_here_or_elsewhere() {
    let (near, far) = two_hosts();
    let long = Duration::from_secs(3_600);
    for (topic, here, elsewhere) in [("near", &near, &far), ("far", &far, &near)] {
        let mut publisher = near.bus.publisher(topic).late_join(long).open().unwrap();
        for n in 1..=500_u64 {
            publisher.send(&n.to_le_bytes()).unwrap();
        }
        // The nodes are linked and nobody subscribes: whatever they do, it waits.
        assert_eq!((publisher.account().in_flight, publisher.account().subscribers), (500, 0), "{topic}");
        let mut first = here.bus.subscriber(topic).policy(Policy::Block).open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        let mut second = elsewhere.bus.subscriber(topic).policy(Policy::Block).open().unwrap();
        publisher.wait_for_subscribers(2, PATIENCE).unwrap();
        publisher.send(&501_u64.to_le_bytes()).unwrap();
        for n in 1..=501_u64 {
            assert_eq!(receive(&mut first), n.to_le_bytes(), "{topic}");
        }
        assert_eq!(receive(&mut second), 501_u64.to_le_bytes(), "{topic}");
        publisher.flush(PATIENCE).unwrap();
        let account = publisher.account();
        assert_eq!(
            (account.delivered, account.dropped_total(), account.in_flight),
            (502, 0, 0),
            "{account:?}"
        );
    }
}

#[test]
fn a_topic_that_nobody_wants_abroad_does_not_cross_and_one_that_ten_want_crosses_once() {
    let (near, far) = two_hosts();
    let mut unwanted = near.bus.publisher("unwanted").open().unwrap();
    let mut subscribers: Vec<Subscriber> =
        (0..10).map(|_| far.bus.subscriber("wanted").policy(Policy::Block).open().unwrap()).collect();
    let mut publisher = near.bus.publisher("wanted").open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    for n in 0..50_u8 {
        unwanted.send(&[n]).unwrap();
        publisher.send(&[n]).unwrap();
    }
    for subscriber in &mut subscribers {
        for n in 0..50_u8 {
            assert_eq!(receive(subscriber), [n]);
        }
    }
    let received = || far.node.as_ref().unwrap().peers()[0].messages_in;
    let deadline = Deadline::after(PATIENCE);
    while received() < 50 {
        assert!(!deadline.expired(), "{} are counted", received());
        std::thread::yield_now();
    }
    assert_eq!(received(), 50, "each message once, however many want it");
}

#[test]
fn a_reliable_subscriber_far_away_loses_nothing_while_it_is_slow() {
    let (near, far) = two_hosts();
    let mut subscriber = far.bus.subscriber("slow").policy(Policy::Block).open().unwrap();
    let sent = 100_000_u64;
    let bus = near.bus.clone();
    let sender = std::thread::spawn(move || {
        let mut publisher = bus.publisher("slow").slots_max(64).max_wait(PATIENCE).open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        for n in 1..=sent {
            let outcome = publisher.send(&n.to_le_bytes()).unwrap();
            assert_eq!(outcome.stalled, 0);
        }
        publisher.flush(PATIENCE).unwrap();
    });
    for n in 1..=sent {
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!(sample[..], n.to_le_bytes());
        if n % 10_000 == 0 {
            // Slow now and then: everything behind fills up.
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
    sender.join().unwrap();
    assert!(subscriber.losses().is_empty());
}

#[test]
fn of_more_sources_than_are_looked_at_each_time_each_message_crosses_and_each_end_is_told() {
    let (near, far) = two_hosts();
    let mut subscriber = far.bus.subscriber("many.*").policy(Policy::Block).open().unwrap();
    // Another process for the node: its publishers ring, and do not carry themselves.
    let beside = Bus::builder().directory(&near._directory.0).domain("links").open().unwrap();
    let open = |n: usize| beside.publisher(&format!("many.{n}")).slots_max(64).open().unwrap();
    let mut publishers: Vec<_> = (0..100).map(open).collect();
    for publisher in &publishers {
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    }
    let mut seen = BTreeMap::new();
    let mut take = |subscriber: &mut Subscriber, count: usize| {
        for _ in 0..count {
            let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
            let sequence = seen.entry(sample.source()).or_insert(0);
            assert_eq!(sample.sequence(), *sequence + 1, "of {}", sample.topic());
            *sequence += 1;
        }
    };
    for round in 0..5 {
        for publisher in &mut publishers {
            publisher.send(b"of all").unwrap();
        }
        take(&mut subscriber, 100);
        // One alone, at another place each time.
        publishers[round * 21].send(b"of one").unwrap();
        take(&mut subscriber, 1);
    }
    drop(publishers);
    let deadline = Deadline::after(PATIENCE);
    while subscriber.publishers() > 0 {
        assert!(!deadline.expired(), "{} ends were not told", subscriber.publishers());
        assert!(subscriber.recv_timeout(Duration::from_millis(10)).unwrap().is_none());
    }
    assert!(subscriber.losses().is_empty());
}

/// Looks until so many publishers are read; nothing is sent meanwhile.
fn wait_for_publishers(subscriber: &mut Subscriber, count: usize) {
    let deadline = Deadline::after(PATIENCE);
    while subscriber.publishers() != count {
        assert!(!deadline.expired(), "{} of {count} publishers are read", subscriber.publishers());
        assert!(subscriber.recv_timeout(Duration::from_millis(10)).unwrap().is_none(), "nothing was sent");
    }
}

#[test]
fn of_more_sources_than_are_looked_at_each_time_all_are_heard_through_another_node_when_one_ends() {
    let near = Host::new(2, &[]);
    let mut far = Host::new(0, &[(2, near.address())]);
    near.wait_for_peers(1);
    // Another process for either node.
    let join = || Bus::builder().directory(&far._directory.0).domain("links").open().unwrap();
    let (beside, reads) = (join(), join());
    let mut subscriber = reads.subscriber("many.*").policy(Policy::Block).open().unwrap();
    let open = |n: usize| near.bus.publisher(&format!("many.{n}")).slots_max(64).open().unwrap();
    let mut publishers: Vec<_> = (0..100).map(open).collect();
    wait_for_publishers(&mut subscriber, 100);
    // What it brings stands by.
    let node = Node::builder().cluster("test").index(1).listen("127.0.0.1:0".parse().unwrap());
    let _node = node.peer(2, &near.address().to_string()).open(&beside).unwrap();
    near.wait_for_peers(2);
    wait_for_publishers(&mut subscriber, 200);
    for publisher in &publishers {
        publisher.wait_for_subscribers(2, PATIENCE).unwrap();
    }
    // The first node ends before it has brought anything.
    drop(far.node.take());
    wait_for_publishers(&mut subscriber, 100);
    for round in 1..=3 {
        for publisher in &mut publishers {
            publisher.send(b"of all").unwrap();
        }
        let mut seen = BTreeMap::new();
        for _ in 0..100 {
            let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("each is heard");
            assert_eq!(sample.sequence(), round, "of {}", sample.topic());
            *seen.entry(sample.topic().to_owned()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 100, "each is heard once");
    }
    assert!(subscriber.losses().is_empty(), "{:?}", subscriber.losses());
}

/// Takes `count` messages in order: by waiting, or by looking again and again.
fn take_in_order(subscriber: &mut Subscriber, count: u64, spinning: bool) {
    let deadline = Deadline::after(PATIENCE);
    for expected in 0..count {
        let sample = loop {
            let found = if spinning {
                subscriber.try_recv().unwrap()
            } else {
                subscriber.recv_timeout(PATIENCE).unwrap()
            };
            if let Some(sample) = found {
                break sample;
            }
            assert!(!deadline.expired(), "message {expected} of {count} did not come");
            std::thread::yield_now();
        };
        assert_eq!(sample[..8], expected.to_le_bytes(), "in order, each once");
    }
}

#[test]
fn whichever_thread_of_the_node_s_process_carries_each_message_comes_once_and_in_order() {
    const COUNT: u64 = 3_000;
    let (near, far) = two_hosts();
    let topics = ["one", "two", "three", "four"];
    let publish = |topic: &'static str| {
        let mut publisher = near.bus.publisher(topic).max_wait(PATIENCE).open().unwrap();
        move || {
            publisher.wait_for_subscribers(1, PATIENCE).unwrap();
            for number in 0..COUNT {
                // Sizes on both sides of a slot.
                let mut payload = vec![0; 8 + 64 * usize::try_from(number % 4).unwrap()];
                payload[..8].copy_from_slice(&number.to_le_bytes());
                publisher.send(&payload).unwrap();
                if number % 7 == 0 {
                    std::thread::yield_now();
                }
            }
            publisher
        }
    };
    let subscribe = |topic: &str| far.bus.subscriber(topic).policy(Policy::Block).open().unwrap();
    let mut subscribers: Vec<Subscriber> = topics.iter().map(|topic| subscribe(topic)).collect();
    let publishers = topics.map(publish);
    std::thread::scope(|scope| {
        let publishing = publishers.map(|publish| scope.spawn(publish));
        for (at, subscriber) in subscribers.iter_mut().enumerate() {
            // One looks all the time; the others wait, and one of them at a time holds the door.
            scope.spawn(move || take_in_order(subscriber, COUNT, at == 0));
        }
        // Publishers stay until all has come.
        let _published = publishing.map(|publisher| publisher.join().unwrap());
    });
    assert!(subscribers.iter_mut().all(|subscriber| subscriber.losses().is_empty()));
}

#[test]
fn a_message_for_who_does_not_wait_any_more_is_taken_by_the_node_s_own_thread() {
    let (near, far) = two_hosts();
    let mut leader = far.bus.subscriber("lead").policy(Policy::Block).open().unwrap();
    let mut other = far.bus.subscriber("other").policy(Policy::Block).open().unwrap();
    let mut to_leader = near.bus.publisher("lead").open().unwrap();
    let mut to_other = near.bus.publisher("other").open().unwrap();
    to_leader.wait_for_subscribers(1, PATIENCE).unwrap();
    to_other.wait_for_subscribers(1, PATIENCE).unwrap();
    for number in 0..50_u64 {
        // Who waits has the door, and leaves it: first with nothing, then with a message.
        assert!(leader.recv_timeout(Duration::from_millis(1)).unwrap().is_none());
        to_leader.send(&number.to_le_bytes()).unwrap();
        take_in_order_from(&mut leader, number);
        // Nobody waits for this where it could be carried; it is there all the same.
        to_other.send(&number.to_le_bytes()).unwrap();
        let deadline = Deadline::after(PATIENCE);
        while far.node.as_ref().unwrap().peers()[0].messages_in < 2 * (number + 1) {
            assert!(!deadline.expired(), "message {number} lies in the socket");
            std::thread::yield_now();
        }
        take_in_order_from(&mut other, number);
    }
}

fn take_in_order_from(subscriber: &mut Subscriber, expected: u64) {
    assert_eq!(receive(subscriber), expected.to_le_bytes());
}

#[test]
fn a_reliable_subscriber_loses_nothing_while_the_node_beside_it_restarts() {
    let mut far = Host::new(1, &[]);
    let address = far.address();
    let near = Host::new(0, &[(1, address)]);
    near.wait_for_peers(1);
    let mut subscriber = far.bus.subscriber("kept").policy(Policy::Block).open().unwrap();
    let mut publisher = near.bus.publisher("kept").max_wait(PATIENCE).open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let mut next = 1_u64;
    for round in 0..3 {
        for _ in 0..1_000 {
            publisher.send(&next.to_le_bytes()).unwrap();
            next += 1;
        }
        if round < 2 {
            drop(far.node.take());
            far.start(1, address, &[]);
        }
    }
    for n in 1..next {
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!((sample.sequence(), &sample[..]), (n, &n.to_le_bytes()[..]));
    }
    assert!(subscriber.losses().is_empty(), "{:?}", subscriber.losses());
}

#[test]
fn what_a_lossy_subscriber_far_away_does_not_get_is_told_with_its_range() {
    let (near, far) = two_hosts();
    let mut subscriber = far.bus.subscriber("lossy").open().unwrap();
    let mut publisher = near.bus.publisher("lossy").slots_max(64).open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let sent = 200_000_u64;
    for n in 1..=sent {
        publisher.send(&n.to_le_bytes()).unwrap();
    }
    // The last message is no use as a mark while it may be lost: further ones come until one arrives.
    let (mut received, mut lost, mut last) = (0, 0, 0);
    let mut extra = sent;
    while last <= sent {
        extra += 1;
        publisher.send(&extra.to_le_bytes()).unwrap();
        while let Some(sample) = subscriber.recv_timeout(Duration::from_millis(20)).unwrap() {
            assert!(sample.sequence() > last, "in order");
            last = sample.sequence();
            received += 1;
            lost += subscriber
                .losses()
                .iter()
                .map(|loss| {
                    assert!(
                        matches!(loss.cause, Cause::Lapped | Cause::RingBytes | Cause::Stalled),
                        "{loss:?}"
                    );
                    loss.count
                })
                .sum::<u64>();
        }
    }
    assert_eq!(received + lost, last, "received {received} and lost {lost} of {last}");
}

/// A program that goes on writing in what it has sent, one byte after the other, until it is told to stop.
fn write_on(at: &AtomicU64, size: u64) {
    let memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    loop {
        match at.load(Ordering::Relaxed) {
            u64::MAX => break,
            0 => std::thread::yield_now(),
            at => memory.write_all_at(&[rng.u8(..)], at + rng.u64(0..size)).unwrap(),
        }
    }
}

#[test]
fn a_program_that_writes_on_in_what_it_has_sent_loses_that_alone_or_it_comes_again_as_a_copy() {
    const SIZE: usize = 1 << 20;
    let (near, far) = two_hosts();
    let mut steady = far.bus.subscriber("steady").policy(Policy::Block).open().unwrap();
    let mut ticks = near.bus.publisher("steady").open().unwrap();
    ticks.wait_for_subscribers(1, PATIENCE).unwrap();
    let mut tick = 0;
    let mut told = Vec::new();
    for (topic, policy, most) in [("lossy", Policy::default(), 400_u64), ("reliable", Policy::Block, 8)] {
        let mut subscriber = far.bus.subscriber(topic).policy(policy).open().unwrap();
        let mut publisher = near.bus.publisher(topic).open().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        let at = AtomicU64::new(0);
        let (mut sent, mut received, mut corrupt) = (0, 0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| write_on(&at, SIZE as u64));
            let stop = Stop(&at);
            while sent < most && (corrupt < 20 || policy == Policy::Block) {
                let mut loan = publisher.loan(SIZE).unwrap();
                loan.fill(sent as u8);
                at.store(loan.as_ptr() as u64, Ordering::Relaxed);
                loan.send().unwrap();
                sent += 1;
                tick += 1;
                ticks.send(&u64::to_le_bytes(tick)).unwrap();
                take_in_order_from(&mut steady, tick);
                let patience = Deadline::after(PATIENCE);
                while received + corrupt < sent && !patience.expired() {
                    received +=
                        u64::from(subscriber.recv_timeout(Duration::from_millis(5)).unwrap().is_some());
                    for loss in subscriber.losses() {
                        assert_eq!(loss.cause, Cause::Corrupt, "{topic}: {loss:?}");
                        corrupt += loss.count;
                    }
                }
                assert_eq!(received + corrupt, sent, "{topic}: each comes, or is told");
                at.store(0, Ordering::Relaxed);
            }
            drop(stop);
        });
        told.push((sent, corrupt));
        if policy != Policy::Block {
            for host in [&near, &far] {
                let peers = host.node.as_ref().unwrap().peers();
                assert!(peers.iter().all(|peer| peer.last_error.is_none()), "{peers:?}");
            }
        }
    }
    let [(lossy, lost), (reliable, none)] = told[..] else { panic!("two topics") };
    assert!(lost > 0, "none of {lossy} was changed between its sum and the socket");
    assert_eq!(none, 0, "of a reliable source a copy goes when it goes again");
    println!("evidence: lossy={lossy} lost_as_corrupt={lost} reliable={reliable} lost={none} others={tick}");
}

/// Ends who writes on, also where a test fails.
struct Stop<'a>(&'a AtomicU64);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }
}

#[test]
fn an_address_beyond_this_host_is_neither_listened_at_nor_dialed_unless_that_is_said_in_words() {
    let directory = Directory::new();
    let bus = Bus::builder().directory(&directory.0).domain("links").arena_bytes(1 << 30).open().unwrap();
    let builder = || Node::builder().cluster("test").index(0);
    let refused = builder().listen("0.0.0.0:0".parse().unwrap()).open(&bus).unwrap_err();
    assert_eq!(refused.code(), busway::Code::BadSetting);
    // An address of the documentation: nobody would answer.
    let node = builder().peer(1, "192.0.2.1:4420").open(&bus).unwrap();
    let deadline = Deadline::after(PATIENCE);
    while !node
        .peers()
        .iter()
        .any(|peer| peer.last_error.as_ref().is_some_and(|error| error.contains("in words")))
    {
        assert!(!deadline.expired(), "{:?}", node.peers());
        std::thread::yield_now();
    }
}

#[test]
fn clients_that_come_under_ever_new_names_are_forgotten() {
    let directory = Directory::new();
    let bus = Bus::builder().directory(&directory.0).domain("links").arena_bytes(1 << 30).open().unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let node = Node::builder().cluster("test").index(0).listen(loopback).clients_max(2).open(&bus).unwrap();
    let address = node.listening()[0].to_string();
    for id in 0..12 {
        let client = Node::builder().cluster("test").client(id).peer(0, &address).open(&bus).unwrap();
        assert!(client.wait_for_peers(1, PATIENCE), "{:?}", client.peers());
    }
    let deadline = Deadline::after(PATIENCE);
    while node.peers().len() > 2 {
        assert!(!deadline.expired(), "{:?}", node.peers());
        std::thread::yield_now();
    }
}

#[test]
fn the_idlest_client_gives_way_and_is_told_why() {
    let directory = Directory::new();
    let bus = Bus::builder().directory(&directory.0).domain("links").arena_bytes(1 << 30).open().unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let node = Node::builder().cluster("test").index(0).listen(loopback).clients_max(2).open(&bus).unwrap();
    let address = node.listening()[0].to_string();
    let client = |id| Node::builder().cluster("test").client(id).peer(0, &address).open(&bus).unwrap();
    let (mut first, _) = Stranger::client("test", 1, node.listening()[0]);
    let second = client(2);
    assert!(second.wait_for_peers(1, PATIENCE), "{:?}", second.peers());
    let third = client(3);
    assert!(third.wait_for_peers(1, PATIENCE), "{:?}", third.peers());
    // Whoever has said nothing for the longest time: the first.
    let text = first.told();
    assert!(text.contains("the client was the idlest one"), "{text}");
}

/// Node 1 of the cluster, on a connection that was dialed to it.
fn node_1(listener: &TcpListener) -> Stranger {
    listener.set_nonblocking(true).unwrap();
    let deadline = Deadline::after(PATIENCE);
    let dialed = loop {
        match listener.accept() {
            Ok((dialed, _)) => break dialed,
            Err(error) => assert!(!deadline.expired(), "nobody dials: {error}"),
        }
        std::thread::yield_now();
    };
    dialed.set_nonblocking(false).unwrap();
    let mut stranger = Stranger::on(dialed, "test");
    assert!(matches!(stranger.hear(), Frame::Hello(_)));
    stranger.say(&Frame::Hello(hello("test", Identity::Node { index: 1 })));
    stranger
}

#[test]
fn a_node_gets_its_source_back_from_a_client_that_announced_it_first() {
    let home = Host::new(1, &[]);
    let mut far = Host::new(0, &[]);
    far.node = None;
    let mut publisher = far.bus.publisher("true").open().unwrap();
    let mut subscriber = home.bus.subscriber("true").policy(Policy::Block).open().unwrap();
    let mut misled = home.bus.subscriber("forged").open().unwrap();
    let mut has = |count: usize| {
        let deadline = Deadline::after(PATIENCE);
        while misled.publishers() != count {
            assert!(!deadline.expired(), "{} publishers", misled.publishers());
            assert!(misled.try_recv().unwrap().is_none());
            std::thread::yield_now();
        }
    };
    let (mut thief, _) = Stranger::client("test", 9, home.address());
    // Before it is wanted nobody listens to what is announced.
    let forged = Pattern::parse("forged").unwrap();
    thief.hear_until(|frame| match frame {
        Frame::Interest(interest) => interest.add.iter().any(|wanted| wanted.pattern == forged),
        _ => false,
    });
    thief.say(&announce(publisher.id(), Topic::new("forged").unwrap(), true));
    has(1);
    far.start(0, "127.0.0.1:0".parse().unwrap(), &[(1, home.address())]);
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    publisher.send(b"true").unwrap();
    assert_eq!(receive(&mut subscriber), b"true");
    has(0);
    let said = home.node.as_ref().unwrap().peers().into_iter().find_map(|peer| peer.last_error);
    assert!(said.as_deref().is_some_and(|said| said.contains("which is of node 0")), "{said:?}");
    drop(thief);
}

#[test]
fn a_peer_that_takes_no_bytes_is_given_up_and_dialed_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = Host::new(0, &[(1, listener.local_addr().unwrap())]);
    let mut stranger = node_1(&listener);
    let wanted = Wanted { id: 1, pattern: Pattern::parse("flood").unwrap(), reliable: false };
    stranger.say(&Frame::Interest(Interest { add: vec![wanted], remove: Vec::new(), complete: true }));
    let mut publisher = near.bus.publisher("flood").open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let (window_messages, window_bytes) = (1 << 20, 1 << 40);
    // Once the source was announced: before that there is nothing to accept.
    stranger.hear_until(|frame| matches!(frame, Frame::Announce(_)));
    stranger.say(&Frame::Accept(Accept {
        source: publisher.id(),
        passed: None,
        window_messages,
        window_bytes,
    }));
    for _ in 0..200 {
        publisher.send(&[7; 64 << 10]).unwrap();
    }
    // It reads nothing more, and never says that it is there.
    let again = node_1(&listener);
    drop((stranger, again));
}

#[test]
fn all_peers_share_what_may_be_under_way_to_a_node_each_has_its_floor_and_who_goes_gives_its_part_back() {
    const CAP: u64 = 8 << 20;
    const FLOOR: u64 = 100_000;
    let directory = Directory::new();
    let bus = Bus::builder().directory(&directory.0).domain("links").arena_bytes(1 << 30).open().unwrap();
    let builder = Node::builder().cluster("test").listen("127.0.0.1:0".parse().unwrap());
    let node = builder.data_bytes(1 << 20).flows_bytes(CAP).flows_floor(5, FLOOR).open(&bus).unwrap();
    let address = node.listening()[0];
    let mut clients: Vec<_> = (0..100).map(|id| Stranger::client("test", id, address)).collect();
    let granted: Vec<u64> = clients.iter().map(|(_, hello)| hello.credit_bytes).collect();
    assert_eq!(granted[0], 1 << 20, "the first gets what it may have");
    assert!(granted.iter().all(|bytes| *bytes >= FLOOR), "{granted:?}");
    assert!(granted.iter().map(|bytes| bytes - FLOOR).sum::<u64>() <= CAP, "{granted:?}");
    let last = granted[99];
    assert!(last < 2 * FLOOR, "there is little left: {granted:?}");
    clients.drain(..50);
    let deadline = Deadline::after(PATIENCE);
    let linked = || node.peers().iter().filter(|peer| peer.state == LinkState::Connected).count();
    while linked() > 50 {
        assert!(!deadline.expired(), "{:?}", node.peers());
        std::thread::yield_now();
    }
    let (_newcomer, hello) = Stranger::client("test", 100, address);
    assert!(hello.credit_bytes > 4 * last, "{} after {last}", hello.credit_bytes);
}
