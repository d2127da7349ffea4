//! Tasks of one host that pullers of both do.

use std::collections::BTreeSet;
use std::time::Duration;

use busway::{Acl, AclRule, Cause, Puller};
use busway_shm::clock::Deadline;

use crate::stage::{Host, PATIENCE, two_hosts, until};

/// Works for so long, at something for which it needs no processor: two that spin would leave the nodes none.
fn work(time: Duration) {
    let deadline = Deadline::after(time);
    while let Some(left) = deadline.remaining().filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// Pulls until nothing has come for a second; the numbers of what came.
fn pull_all(puller: &mut Puller, time: Duration) -> Vec<u64> {
    let mut done = Vec::new();
    while let Some(task) = puller.recv_timeout(Duration::from_secs(1)).unwrap() {
        work(time);
        done.push(u64::from_le_bytes(task.sample()[..8].try_into().unwrap()));
        task.ack().unwrap();
    }
    done
}

#[test]
fn a_task_crosses_to_the_only_puller_with_its_source_sequence_and_topic() {
    let (near, far) = two_hosts();
    let mut puller = far.bus.puller("resize.>").open().unwrap();
    let mut pusher = near.bus.pusher("resize.small").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    for n in 1..=100_u64 {
        pusher.send(format!("task {n} {}", "x".repeat(3 * n as usize)).as_bytes()).unwrap();
    }
    let mut done = BTreeSet::new();
    for _ in 1..=100_u64 {
        let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
        let sample = task.sample();
        let n = sample.sequence();
        assert_eq!(&sample[..], format!("task {n} {}", "x".repeat(3 * n as usize)).as_bytes());
        assert_eq!((sample.topic(), sample.source()), ("resize.small", pusher.id()));
        assert_eq!(task.deliveries(), 1);
        assert!(done.insert(n), "{n} came twice");
        task.ack().unwrap();
    }
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!(account.sent, 100, "{account:?}");
}

#[test]
fn each_task_is_done_by_one_puller_of_two_hosts_and_equal_ones_do_about_equal_parts() {
    const TASKS: u64 = 600;
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut pullers = [&near, &far].map(|host| host.bus.puller("work").open().unwrap());
    pusher.wait_for_pullers(2, PATIENCE).unwrap();
    let parts = std::thread::scope(|scope| {
        let parts =
            pullers.each_mut().map(|puller| scope.spawn(|| pull_all(puller, Duration::from_millis(2))));
        for n in 0..TASKS {
            pusher.send(&n.to_le_bytes()).unwrap();
        }
        parts.map(|part| part.join().unwrap())
    });
    pusher.flush(PATIENCE).unwrap();
    let counts = [parts[0].len(), parts[1].len()];
    let mut all: Vec<u64> = parts.concat();
    all.sort_unstable();
    assert_eq!(all, (0..TASKS).collect::<Vec<_>>(), "each once");
    assert!(counts.iter().all(|count| *count as u64 >= TASKS / 4), "{counts:?}");
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped_total()), (TASKS, 0), "{account:?}");
    println!("evidence: tasks={TASKS} here={} there={} twice=0 lost=0", counts[0], counts[1]);
}

#[test]
fn a_puller_of_another_host_that_does_not_come_keeps_nothing_from_one_that_does() {
    const TASKS: u64 = 200;
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    // It has one task in hand for as long as this takes.
    let mut stuck = far.bus.puller("work").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(&u64::MAX.to_le_bytes()).unwrap();
    let held = stuck.recv_timeout(PATIENCE).unwrap().expect("a task");
    // Nor does this one look for any.
    let _idle = far.bus.puller("work").group("pullers").open().unwrap();
    let mut puller = near.bus.puller("work").open().unwrap();
    for n in 0..TASKS {
        pusher.send(&n.to_le_bytes()).unwrap();
    }
    let mut done = BTreeSet::new();
    while done.len() < TASKS as usize {
        let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
        done.insert(u64::from_le_bytes(task.sample()[..8].try_into().unwrap()));
        task.ack().unwrap();
    }
    held.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
}

#[test]
fn groups_of_another_host_get_each_task_once_each_and_a_third_host_none_of_it_twice() {
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut one = far.bus.puller("work").group("one").open().unwrap();
    let mut two = far.bus.puller("*").group("two").open().unwrap();
    pusher.wait_for_pullers(2, PATIENCE).unwrap();
    for n in 0..50_u64 {
        pusher.send(&n.to_le_bytes()).unwrap();
    }
    for puller in [&mut one, &mut two] {
        let mut done = pull_all(puller, Duration::ZERO);
        done.sort_unstable();
        assert_eq!(done, (0..50).collect::<Vec<_>>());
    }
    drop((one, two));
    until("nobody pulls any more", || pusher.pullers() == 0);
}

#[test]
fn a_host_pulls_what_it_may_subscribe_to_and_pushes_what_it_may_publish_and_nothing_else() {
    let list = |topics: &[&str]| topics.iter().map(|topic| (*topic).to_owned()).collect::<Vec<_>>();
    let rule = AclRule {
        identity: "node/0".to_owned(),
        publish: list(&["may.push"]),
        subscribe: list(&["may.pull"]),
        ..AclRule::default()
    };
    let far = Host::with_rules(1, Acl::new([rule]).unwrap());
    let near = Host::new(0, &[(1, far.address())]);
    near.wait_for_peers(1);
    let mut puller = near.bus.puller(">").open().unwrap();
    let mut hidden = far.bus.pusher("may.not").open().unwrap();
    let mut shown = far.bus.pusher("may.pull").open().unwrap();
    shown.wait_for_pullers(1, PATIENCE).unwrap();
    hidden.send(b"hidden").unwrap();
    shown.send(b"shown").unwrap();
    let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!((task.sample().topic(), &task[..]), ("may.pull", &b"shown"[..]));
    task.ack().unwrap();
    assert_eq!(hidden.pullers(), 0);
    assert!(puller.recv_timeout(Duration::from_millis(300)).unwrap().is_none());
    drop(puller);
    let mut puller = far.bus.puller(">").open().unwrap();
    let mut refused = near.bus.pusher("may.not").open().unwrap();
    let mut taken = near.bus.pusher("may.push").open().unwrap();
    for pusher in [&mut refused, &mut taken] {
        pusher.wait_for_pullers(1, PATIENCE).unwrap();
        pusher.send(b"task").unwrap();
    }
    let mut topics = BTreeSet::new();
    while !topics.contains("may.push") {
        let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
        // What that host has pushed itself is its own.
        if &task[..] == b"task" {
            topics.insert(task.sample().topic().to_owned());
        }
        task.ack().unwrap();
    }
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), ["may.push"]);
    refused.flush(PATIENCE).unwrap();
    assert_eq!(refused.account().dropped.get(Cause::Denied.name()), Some(&1), "{:?}", refused.account());
}
