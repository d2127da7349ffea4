//! Publishing before anybody subscribes, between the buses of one process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/directory.rs"]
mod directory;

use std::collections::BTreeMap;
use std::time::Duration;

use busway::{Policy, SendError, Subscriber};

use directory::Directory;

const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3_600);

fn numbers(subscriber: &mut Subscriber, count: u64) -> Vec<u64> {
    let mut next = || subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
    (0..count).map(|_| u64::from_le_bytes(next()[..8].try_into().unwrap())).collect()
}

#[test]
fn nobody_sleeps_before_publishing_and_the_account_is_exact() {
    let directory = Directory::new();
    let (one, two) = (directory.join("publisher"), directory.join("subscriber"));
    let mut publisher = one.publisher("news").late_join(HOUR).open().unwrap();
    for n in 1..=1000_u64 {
        publisher.send(&n.to_le_bytes()).unwrap();
    }
    let account = publisher.account();
    assert_eq!(
        (account.sent, account.subscribers, account.expected, account.in_flight),
        (1000, 0, 1000, 1000)
    );
    assert!(account.closed() && publisher.subscribers() == 0, "{account:?}");
    assert!(publisher.wait_for_subscribers(1, Duration::ZERO).is_err());
    let view = two.inspect().unwrap().topics.remove(0);
    assert!(view.closed && view.subscribers.is_empty(), "{view:?}");
    assert_eq!((view.publishers[0].waiting, view.publishers[0].no_subscriber), (1000, 0));
    let mut first = two.subscriber("news").policy(Policy::Block).open().unwrap();
    let mut second = two.subscriber("news").policy(Policy::Block).open().unwrap();
    publisher.send(&1001_u64.to_le_bytes()).unwrap();
    assert_eq!(numbers(&mut first, 1001), (1..=1001).collect::<Vec<u64>>());
    assert_eq!(numbers(&mut second, 1), [1001]);
    publisher.flush(PATIENCE).unwrap();
    let account = publisher.account();
    assert_eq!((account.subscribers, account.delivered, account.in_flight), (2, 1002, 0), "{account:?}");
    assert!(account.closed() && account.dropped.is_empty(), "{account:?}");
    println!("evidence: sent=1001 first=1001 lost=0");
}

#[test]
fn what_finds_no_room_or_waits_too_long_is_lost_to_nobody() {
    let directory = Directory::new();
    let (one, two) = (directory.join("publisher"), directory.join("subscriber"));
    let mut publisher = one.publisher("small").slots_max(32).late_join(HOUR).open().unwrap();
    for n in 1..=100_u64 {
        publisher.send(&n.to_le_bytes()).unwrap();
    }
    let lost = publisher.account().dropped["no_subscriber"];
    assert!((68..72).contains(&lost), "{lost}");
    let mut first = two.subscriber("small").open().unwrap();
    assert_eq!(numbers(&mut first, 100 - lost), (lost + 1..=100).collect::<Vec<u64>>());
    assert_eq!(publisher.account().dropped, BTreeMap::from([("no_subscriber".to_owned(), lost)]));
    let mut hasty = one.publisher("hasty").late_join(Duration::from_millis(1)).open().unwrap();
    hasty.send(b"nobody").unwrap();
    hasty.flush(PATIENCE).unwrap();
    let account = hasty.account();
    assert!(account.closed() && account.subscribers == 0, "{account:?}");
    assert_eq!((account.dropped["no_subscriber"], account.in_flight), (1, 0));
    // What stood there is still told when somebody is there.
    let _there = two.subscriber("hasty").open().unwrap();
    let view = two.inspect().unwrap().topics.remove(0);
    assert_eq!(
        (&view.topic[..], view.publishers[0].waiting, view.publishers[0].no_subscriber),
        ("hasty", 0, 1)
    );
}

#[test]
fn without_late_join_what_nobody_reads_is_no_loss_and_takes_one_page() {
    let directory = Directory::new();
    let bus = directory.join("publisher");
    let mut publisher = bus.publisher("plain").open().unwrap();
    for _ in 0..10_000 {
        publisher.send(b"x").unwrap();
    }
    publisher.flush(Duration::ZERO).unwrap();
    let account = publisher.account();
    assert_eq!((account.sent, account.expected, account.dropped_total()), (10_000, 0, 0));
    let rings = bus.inspect().unwrap().segments.into_iter().filter(|segment| segment.kind == "ring");
    assert_eq!(rings.map(|ring| ring.bytes).sum::<u64>(), 4096);
}

#[test]
fn a_flush_says_that_nobody_is_there_and_closing_the_bus_ends_it() {
    let directory = Directory::new();
    let bus = directory.join("publisher");
    let mut publisher = bus.publisher("news").late_join(HOUR).open().unwrap();
    publisher.send(b"x").unwrap();
    let Err(SendError::Timeout(behind)) = publisher.flush(Duration::from_millis(5)) else {
        panic!("it waits")
    };
    assert!(behind.to_string().contains("no subscriber yet"), "{behind}");
    let closing = std::thread::spawn(move || publisher.flush(PATIENCE));
    bus.close();
    assert!(matches!(closing.join().unwrap(), Err(SendError::Closed)));
}

#[test]
fn what_is_kept_for_a_time_is_given_to_who_asks_for_history() {
    let directory = Directory::new();
    let (one, two) = (directory.join("publisher"), directory.join("subscriber"));
    let mut kept = one.publisher("kept").history_for(HOUR).open().unwrap();
    let mut gone = one.publisher("gone").history(1).history_for(Duration::ZERO).open().unwrap();
    for n in 1..=1000_u64 {
        kept.send(&n.to_le_bytes()).unwrap();
        gone.send(&n.to_le_bytes()).unwrap();
    }
    let mut late = two.subscriber("kept").history(u64::MAX).open().unwrap();
    assert_eq!(numbers(&mut late, 1000), (1..=1000).collect::<Vec<u64>>());
    let mut late = two.subscriber("gone").history(u64::MAX).open().unwrap();
    assert_eq!(numbers(&mut late, 1), [1000]);
    assert!(late.try_recv().unwrap().is_none());
}
