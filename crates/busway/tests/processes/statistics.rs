//! The statistics (A13) beside what the callers counted themselves.

use std::time::Duration;

use busway::{Account, Inspection, Policy, Subscriber, SubscriberView, TopicView};
use busway_shm::clock::monotonic_ns;

use crate::child::{PATIENCE, Place, number, until};

fn topic<'a>(inspection: &'a Inspection, name: &str) -> &'a TopicView {
    inspection.topics.iter().find(|view| view.topic == name).expect("the topic is listed")
}

fn view_of<'a>(topic: &'a TopicView, subscriber: &Subscriber) -> &'a SubscriberView {
    let port = subscriber.id().to_string();
    topic.subscribers.iter().find(|view| view.port == port).expect("the subscriber is listed")
}

/// What a caller has counted of one subscriber.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    taken: u64,
    lost: u64,
    /// The most that can be right.
    lag_highest: u64,
}

#[test]
fn statistics_agree_with_the_callers() {
    let seed = std::env::var("BUSWAY_SEED").ok().map_or(0xa13, |seed| number(&seed));
    let mut random = fastrand::Rng::with_seed(seed);
    let began = monotonic_ns();
    let place = Place::new();
    let bus = place.join("here");
    let policies = ["block", "drop-oldest:20", "keep-latest", "drop-newest:8", "drop-oldest"];
    let mut subscribers: Vec<Subscriber> = policies
        .iter()
        .map(|policy| bus.subscriber("counted").policy(policy.parse().unwrap()).holds(64).open().unwrap())
        .collect();
    let mut publisher =
        bus.publisher("counted").slots_max(256).max_wait(Duration::from_secs(3600)).open().unwrap();
    publisher.wait_for_subscribers(policies.len(), PATIENCE).unwrap();
    let mut counted = vec![Counted::default(); policies.len()];
    let mut kept = Vec::new();
    let (mut sent, mut bytes) = (0_u64, 0_u64);
    for round in 0..200 {
        for _ in 0..random.u64(1..100) {
            // A payload that lies in a chunk and is held, and one that is copied.
            let size = if random.bool() { 500 } else { 50 };
            // The one that blocks is read before it would hold the others up.
            if sent - counted[0].taken >= 250 {
                take(&mut subscribers[0], &mut counted[0], u64::MAX);
            }
            publisher.send(&vec![7; size]).unwrap();
            sent += 1;
            bytes += size as u64;
        }
        let inspection = bus.inspect().unwrap();
        let view = topic(&inspection, "counted");
        let publisher = &view.publishers[0];
        assert_eq!((publisher.sent, publisher.bytes, view.closed), (sent, bytes, true), "round {round}");
        for (subscriber, counted) in subscribers.iter().zip(&mut counted) {
            check(view_of(view, subscriber), counted, sent, (monotonic_ns() - began) / 1_000_000);
        }
        let held: u64 = view.subscribers.iter().map(|view| view.held).sum();
        assert_eq!(held, bus.held().0, "what is held by each is what the process holds");
        kept.clear();
        for (at, (subscriber, counted)) in subscribers.iter_mut().zip(&mut counted).enumerate() {
            // The last takes less than comes, so that the ring laps it.
            let most = if at == 4 { 30 } else { 150 };
            kept.extend(take(subscriber, counted, random.u64(0..most)));
        }
        kept.truncate(random.usize(0..40));
        let inspection = bus.inspect().unwrap();
        let in_hand = kept.iter().filter(|sample| sample.is_held()).count() as u64;
        let queued = view_of(topic(&inspection, "counted"), &subscribers[3]).held;
        assert!(bus.held().0 >= in_hand && bus.held().0 <= in_hand + queued, "round {round}");
    }
    kept.clear();
    for (subscriber, counted) in subscribers.iter_mut().zip(&mut counted) {
        take(subscriber, counted, u64::MAX);
    }
    let mut sums = Account { sent, ..Account::default() };
    for ((subscriber, counted), policy) in subscribers.iter().zip(&counted).zip(policies) {
        let account = subscriber.account();
        assert!(account.closed() && account.in_flight == 0, "{policy}: {account:?}");
        let found = (account.expected, account.delivered, account.dropped_total());
        assert_eq!(found, (sent, counted.taken, counted.lost), "{policy}: {account:?}");
        assert_eq!(counted.lost == 0, policy == "block", "{policy}: the others have lost something");
        sums.delivered += counted.taken;
        sums.expected += sent;
        sums.subscribers += 1;
        for (cause, count) in account.dropped {
            *sums.dropped.entry(cause).or_default() += count;
        }
    }
    assert_eq!(publisher.account(), sums, "the publisher's ledger is the sum of the subscribers'");
    println!("evidence: seed={seed:#x} sent={sent} counted={counted:?} account={sums:?}");
}

#[test]
fn a_group_that_takes_nothing_is_said_to_be_behind_for_longer_than_between_two_looks() {
    let place = Place::new();
    let bus = place.join("here");
    let mut puller = bus.puller("work").group("g").open().unwrap();
    let mut pusher = bus.pusher("work").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(b"done").unwrap();
    puller.recv_timeout(PATIENCE).unwrap().expect("a task").ack().unwrap();
    let began = monotonic_ns();
    for _ in 0..3 {
        pusher.send(b"waits").unwrap();
    }
    let behind = || {
        let inspection = bus.inspect().unwrap();
        let view = topic(&inspection, "work").subscribers.iter().find(|view| view.policy == "group").cloned();
        view.expect("the group is listed").behind_ms
    };
    until("it is not behind", || behind() > 1_000);
    let (behind, elapsed_ms) = (behind(), (monotonic_ns() - began) / 1_000_000 + 300);
    assert!(behind <= elapsed_ms, "{behind} ms, of {elapsed_ms}");
    println!("evidence: behind_ms={behind}");
}

/// What is shown of a subscriber, beside what its caller has counted.
fn check(seen: &SubscriberView, counted: &mut Counted, sent: u64, elapsed_ms: u64) {
    let policy = &seen.policy;
    let dropped = seen.dropped.values().sum::<u64>();
    assert_eq!(seen.delivered + dropped + seen.in_flight, sent, "{policy}: {seen:?}");
    assert!(seen.lag_max >= seen.lag, "{policy}: {seen:?}");
    assert!(seen.behind_ms <= elapsed_ms, "{policy}: nothing waits for longer than it exists: {seen:?}");
    // What drop-newest keeps for its user has been passed and not been taken, so it does not lag.
    if policy.starts_with("drop-newest") {
        return;
    }
    let lag = sent - counted.taken - counted.lost;
    counted.lag_highest = counted.lag_highest.max(lag);
    assert_eq!((seen.lag, seen.in_flight), (lag, lag), "{policy}: {seen:?} {counted:?}");
    assert_eq!((seen.delivered, dropped), (counted.taken, counted.lost), "{policy}: {seen:?}");
    assert!(seen.lag_max <= counted.lag_highest, "{policy}: nobody lagged more: {seen:?} {counted:?}");
}

/// Takes at most so many; counts what was taken and what was lost.
fn take(subscriber: &mut Subscriber, counted: &mut Counted, most: u64) -> Vec<busway::Sample> {
    let mut samples = Vec::new();
    while (samples.len() as u64) < most {
        let Some(sample) = subscriber.try_recv().unwrap() else { break };
        samples.push(sample);
        counted.taken += 1;
        if samples.len() > 40 {
            samples.remove(0);
        }
    }
    counted.lost += subscriber.losses().iter().map(|loss| loss.count).sum::<u64>();
    samples
}

#[test]
fn registrations_are_counted_rightly() {
    let place = Place::new();
    let bus = place.join("here");
    let mut other = place.member("there");
    let mut random = fastrand::Rng::with_seed(13);
    let (mut publishers, mut subscribers) = (Vec::new(), Vec::new());
    other.ask("batch 3 4");
    for _ in 0..50 {
        match random.u32(0..4) {
            0 => publishers.push(bus.publisher("batch").open().unwrap()),
            1 => subscribers.push(bus.subscriber("batch").policy(Policy::Block).open().unwrap()),
            2 => drop(publishers.pop()),
            _ => drop(subscribers.pop()),
        }
        let wanted = (3 + publishers.len(), 4 + subscribers.len());
        until("the counts are right", || {
            let inspection = bus.inspect().unwrap();
            let view = topic(&inspection, "batch");
            (view.publishers.len(), view.subscribers.len()) == wanted
        });
    }
    let all = (publishers.len() + 3, subscribers.len() + 4);
    println!("evidence: changes=50 publishers={} subscribers={}", all.0, all.1);
}

#[test]
fn the_rate_is_that_of_the_last_second_or_so() {
    let place = Place::new();
    let bus = place.join("here");
    let mut publisher = bus.publisher("paced").open().unwrap();
    let rate = || topic(&bus.inspect().unwrap(), "paced").publishers[0].rate;
    assert!(rate().abs() < f64::EPSILON, "nothing was sent");
    let mut sent = 0_u64;
    // Some 10 000 a second, by the clock; then twice as many, which an old rate does not say. A machine that held us up holds on
    // no longer than we send.
    let (mut said, mut paced) = (Vec::new(), Vec::new());
    for pause_ns in [100_000, 50_000] {
        let mut second = (monotonic_ns(), sent);
        let mut next_ns = second.0;
        until("the rate is what was sent in the last second", || {
            while monotonic_ns() - second.0 < 1_500_000_000 {
                if monotonic_ns() >= next_ns {
                    publisher.send(b"tick").unwrap();
                    (sent, next_ns) = (sent + 1, monotonic_ns() + pause_ns);
                } else {
                    std::thread::yield_now();
                }
            }
            let counted = (sent - second.1) as f64 / (monotonic_ns() - second.0) as f64 * 1e9;
            let seen = rate();
            second = (monotonic_ns(), sent);
            said.push(seen);
            paced.push(counted);
            seen > 0.7 * counted && seen < 1.4 * counted
        });
    }
    until("the rate falls when nothing is sent", || rate().abs() < f64::EPSILON);
    println!("evidence: rates={said:.0?} counted={paced:.0?}");
}
