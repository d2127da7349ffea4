//! A thousand publishers that live for one message, 64 at a time, and ten reliable subscribers.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Ended, Place, Running, names};
use crate::load::now;

const PUBLISHERS: usize = 1_000;
const AT_A_TIME: usize = 64;
const SUBSCRIBERS: usize = 10;
/// For all of them, for each to join while 64 others do, and for who reads, on a machine that does ten other things.
const LONG: &str = "10m";
/// What is on its way when its process has ended is over long before.
const DEADLINE: Duration = Duration::from_secs(60);

/// Descriptors and mappings of a process.
fn held(pid: u32) -> (usize, usize) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process is there");
    // The heap and the stacks of threads come and go as the allocator likes; segments are what must go.
    let segments = maps.lines().filter(|line| line.contains("memfd:")).count();
    (names(Path::new(&format!("/proc/{pid}/fd"))).len(), segments)
}

fn crowd(place: &Place, limits: &str) -> Vec<Ended> {
    let count = PUBLISHERS.to_string();
    let subscribers: Vec<Running> = (0..SUBSCRIBERS)
        .map(|_| {
            let words = ["sub", "x", "--reliable", "--count", &count, "--timeout", LONG];
            let mut subscriber = Running::start(place.limited(limits, &words));
            subscriber.stderr_until(|line| line == "ready x");
            subscriber
        })
        .collect();
    let mut running = VecDeque::new();
    let mut publishers = Vec::new();
    for _ in 0..PUBLISHERS {
        if running.len() == AT_A_TIME {
            publishers.push(running.pop_front().map(Running::finish).expect("64 are running"));
        }
        let words = ["pub", "x", "hello", "--timeout", LONG, "--max-wait", LONG, "--linger", LONG];
        running.push_back(Running::start(place.limited(limits, &words)));
    }
    publishers.extend(running.into_iter().map(Running::finish));
    for subscriber in subscribers {
        assert_eq!(subscriber.finish().expect(0).text(), "x\thello\n".repeat(PUBLISHERS));
    }
    publishers
}

#[test]
fn a_thousand_publishers_leave_nothing_behind() {
    let place = Place::new();
    let node = place.up();
    let (before, shm) = (held(node.pid()), names(Path::new("/dev/shm")));
    for publisher in crowd(&place, "true") {
        publisher.expect(0);
    }
    // The last good-byes may still be on their way; a node that keeps something keeps it for ever.
    let deadline = now() + DEADLINE;
    while held(node.pid()) != before {
        assert!(now() < deadline, "the node held {before:?} before and holds {:?} now", held(node.pid()));
        std::thread::yield_now();
    }
    node.signal(Signal::TERM);
    node.finish().expect(0);
    assert_eq!(names(&place.bus_directory()), ["default.lock"]);
    // What other programs of this machine have there is theirs, and goes with them where it has our name.
    let mut left = names(Path::new("/dev/shm"));
    left.retain(|name| !shm.contains(name) && name.contains("busway"));
    let deadline = now() + DEADLINE;
    while !left.is_empty() {
        assert!(now() < deadline, "{left:?} is left");
        std::thread::yield_now();
        let there = names(Path::new("/dev/shm"));
        left.retain(|name| there.contains(name));
    }
    assert!(names(&place.temporary()).is_empty());
    println!(
        "evidence: {PUBLISHERS} publishers, {SUBSCRIBERS} subscribers, holder before and after {before:?}"
    );
}

#[test]
fn a_thousand_publishers_with_few_descriptors() {
    let place = Place::new();
    for publisher in crowd(&place, "ulimit -n 256") {
        publisher.expect(0);
    }
    assert_eq!(names(&place.bus_directory()), ["default.lock"]);
    println!("evidence: {PUBLISHERS} publishers, {SUBSCRIBERS} subscribers, 256 descriptors each");
}
