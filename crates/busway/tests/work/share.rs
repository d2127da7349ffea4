//! Tasks of one host that pullers of both do.

use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::time::Duration;

use busway::{Acl, AclRule, Puller, RequestError};
use busway_shm::clock::Deadline;
use busway_shm::sync::{AtomicBool, Ordering};

use crate::part::Part;
use crate::stage::{Host, PATIENCE, laid_out, two_hosts, until};

/// Does so many tasks; their numbers.
fn pull(puller: &mut Puller, count: usize) -> Vec<u64> {
    let done = |_| {
        let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
        let number = u64::from_le_bytes(task.sample()[..8].try_into().unwrap());
        task.ack().unwrap();
        number
    };
    (0..count).map(done).collect()
}

/// Does what comes until all tasks are over; their numbers.
fn pull_until(over: &AtomicBool, puller: &mut Puller) -> Vec<u64> {
    let mut done = Vec::new();
    loop {
        let was_over = over.load(Ordering::SeqCst);
        let Some(task) = puller.recv_timeout(Duration::from_millis(20)).unwrap() else {
            if was_over {
                return done;
            }
            continue;
        };
        done.push(u64::from_le_bytes(task.sample()[..8].try_into().unwrap()));
        task.ack().unwrap();
    }
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
    // They are equal in this: in so many rounds none does a second task before the other has had one.
    const ROUNDS: usize = 280;
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut pullers = [&near, &far].map(|host| host.bus.puller("work").open().unwrap());
    pusher.wait_for_pullers(2, PATIENCE).unwrap();
    let over = AtomicBool::new(false);
    let (to_far, from_near) = channel();
    let (to_near, from_far) = channel();
    let ways = [(to_far, from_far), (to_near, from_near)];
    let parts = std::thread::scope(|scope| {
        let mut ways = ways.into_iter();
        let over = &over;
        let parts = pullers.each_mut().map(|puller| {
            let (tell, told) = ways.next().expect("two");
            scope.spawn(move || {
                let mut done = Vec::new();
                for round in 0..ROUNDS {
                    let task = puller.recv_timeout(PATIENCE).unwrap().expect("the other's part is its own");
                    done.push(u64::from_le_bytes(task.sample()[..8].try_into().unwrap()));
                    tell.send(round).unwrap();
                    assert_eq!(told.recv_timeout(2 * PATIENCE), Ok(round), "the other has one too");
                    task.ack().unwrap();
                }
                done.append(&mut pull_until(over, puller));
                done
            })
        });
        for n in 0..TASKS {
            pusher.send(&n.to_le_bytes()).unwrap();
        }
        pusher.flush(4 * PATIENCE).unwrap();
        over.store(true, Ordering::SeqCst);
        parts.map(|part| part.join().unwrap())
    });
    let counts = [parts[0].len(), parts[1].len()];
    let mut all: Vec<u64> = parts.concat();
    all.sort_unstable();
    assert_eq!(all, (0..TASKS).collect::<Vec<_>>(), "each once");
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

/// Three hosts: the first is linked with the second, the second with the third, and the first with the third if it is to be.
fn three_hosts(linked: bool) -> [Host; 3] {
    let third = Host::new(2, &[]);
    let far = Host::new(1, &[(2, third.address())]);
    let mut peers = vec![(1, far.address())];
    peers.extend(linked.then(|| (2, third.address())));
    let near = Host::new(0, &peers);
    near.wait_for_peers(peers.len());
    far.wait_for_peers(2);
    third.wait_for_peers(peers.len());
    [near, far, third]
}

#[test]
fn of_three_hosts_that_are_all_linked_one_puller_of_each_group_does_each_task() {
    const TASKS: u64 = 300;
    let [near, far, third] = three_hosts(true);
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let pull = |host: &Host, group: &str| host.bus.puller("work").group(group).open().unwrap();
    let mut pullers = [pull(&far, "one"), pull(&third, "one"), pull(&third, "two"), pull(&near, "two")];
    pusher.wait_for_pullers(4, PATIENCE).unwrap();
    let over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        let parts = pullers.each_mut().map(|puller| scope.spawn(|| pull_until(&over, puller)));
        for n in 0..TASKS {
            pusher.send(&n.to_le_bytes()).unwrap();
        }
        pusher.flush(PATIENCE).unwrap();
        over.store(true, Ordering::SeqCst);
        parts.map(|part| part.join().unwrap())
    });
    for group in done.chunks(2) {
        let mut all = group.concat();
        all.sort_unstable();
        assert_eq!(all, (0..TASKS).collect::<Vec<_>>(), "each once in each group");
    }
    println!("evidence: hosts=3 groups=2 tasks={TASKS} twice=0 lost=0");
}

#[test]
fn what_came_over_a_link_is_not_given_on_to_a_third_host() {
    let [near, far, third] = three_hosts(false);
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut there = far.bus.puller("work").open().unwrap();
    let mut beyond = third.bus.puller("work").open().unwrap();
    let mut own = far.bus.pusher("work").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    own.wait_for_pullers(2, PATIENCE).unwrap();
    assert_eq!(pusher.pullers(), 1, "of a host that is not linked nobody is known");
    for n in 0..50_u64 {
        pusher.send(&n.to_le_bytes()).unwrap();
    }
    // One is busy, and the other has nothing to do.
    let held = there.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert!(beyond.recv_timeout(Duration::from_secs(1)).unwrap().is_none());
    held.ack().unwrap();
    assert_eq!(pull(&mut there, 49).len(), 49);
    drop(there);
    own.send(&u64::MAX.to_le_bytes()).unwrap();
    assert_eq!(pull(&mut beyond, 1), [u64::MAX], "what its own programs push is");
}

#[test]
fn groups_of_another_host_get_each_task_once_each_and_none_of_it_twice() {
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut one = far.bus.puller("work").group("one").open().unwrap();
    let mut two = far.bus.puller("*").group("two").open().unwrap();
    pusher.wait_for_pullers(2, PATIENCE).unwrap();
    for n in 0..50_u64 {
        pusher.send(&n.to_le_bytes()).unwrap();
    }
    for puller in [&mut one, &mut two] {
        let mut done = pull(puller, 50);
        done.sort_unstable();
        assert_eq!(done, (0..50).collect::<Vec<_>>());
    }
    pusher.flush(PATIENCE).unwrap();
    assert!(one.try_recv().unwrap().is_none() && two.try_recv().unwrap().is_none(), "none twice");
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
    until("who may not push there has no puller there", || refused.pullers() == 0);
    // Nobody did it, and nobody lost it.
    let mut here = near.bus.puller(">").open().unwrap();
    let task = here.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!((task.sample().topic(), &task[..], task.deliveries()), ("may.not", &b"task"[..], 1));
    task.ack().unwrap();
    refused.flush(PATIENCE).unwrap();
    assert_eq!(refused.account().dropped_total(), 0, "{:?}", refused.account());
}

#[test]
fn what_another_host_denies_is_done_by_who_may_have_it_and_none_of_it_is_lost() {
    const TASKS: u64 = 300;
    let list = |topics: &[&str]| topics.iter().map(|topic| (*topic).to_owned()).collect::<Vec<_>>();
    let rule = |topics: &[&str]| AclRule {
        identity: "node/0".to_owned(),
        publish: list(topics),
        subscribe: list(&[">"]),
        ..AclRule::default()
    };
    let far = Host::with_rules(1, Acl::new([rule(&["may.push"])]).unwrap());
    let near = Host::new(0, &[(1, far.address())]);
    near.wait_for_peers(1);
    let mut there = far.bus.puller(">").open().unwrap();
    let mut here = near.bus.puller("may.not").open().unwrap();
    let mut pusher = near.bus.pusher("may.not").open().unwrap();
    let requester = near.bus.requester("may.not").late_join(Duration::ZERO).open().unwrap();
    let _responder = far.bus.responder("*.*").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    for n in 0..TASKS {
        pusher.send(&n.to_le_bytes()).unwrap();
    }
    let mut done = pull(&mut here, TASKS as usize);
    done.sort_unstable();
    assert_eq!(done, (0..TASKS).collect::<Vec<_>>());
    assert!(there.try_recv().unwrap().is_none());
    assert_eq!(pusher.account().dropped_total(), 0, "{:?}", pusher.account());
    // Nor may it ask there; whether it was there before it said so or not, nobody answers.
    assert_eq!(requester.request(b"?", PATIENCE).unwrap_err(), RequestError::NoResponders);
    // Other rules hold at once, also for what was denied.
    far.node.as_ref().unwrap().set_acl(Acl::new([rule(&[">"])]).unwrap());
    drop(here);
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(&TASKS.to_le_bytes()).unwrap();
    assert_eq!(pull(&mut there, 1), [TASKS]);
    println!("evidence: denied={TASKS} lost=0 done_elsewhere={TASKS}");
}

#[test]
fn a_puller_of_another_host_that_was_stopped_has_work_again_soon_after_it_goes_on() {
    let (near, far) = two_hosts();
    let mut part = Part::start(&far.directory.0, "pull", None);
    let mut pusher = near.bus.pusher("work").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(b"one").unwrap();
    part.hear("has");
    // It looks for more.
    part.waits();
    part.stop();
    pusher.send(b"two").unwrap();
    until("it is given what it looked for", || laid_out(&far.bus, "work") == 2);
    // What it does not take comes back, and is done here.
    let mut here = near.bus.puller("work").open().unwrap();
    let task = here.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!((&task[..], task.deliveries()), (&b"two"[..], 1));
    drop((task, here));
    part.go_on();
    let stopped = Deadline::after(Duration::from_secs(15));
    pusher.send(b"three").unwrap();
    part.hear("has");
    assert!(!stopped.expired(), "it had nothing for longer than it was stopped");
    pusher.flush(PATIENCE).unwrap();
}

#[test]
fn a_peer_that_was_forgotten_while_it_lived_shares_work_again() {
    let (near, far) = two_hosts();
    let mut hosts = [&near, &far].map(|host| {
        let pusher = host.bus.pusher(if host.directory.0 == near.directory.0 { "there" } else { "here" });
        (
            pusher.open().unwrap(),
            host.bus
                .puller(if host.directory.0 == near.directory.0 { "here" } else { "there" })
                .open()
                .unwrap(),
        )
    });
    let mut cross = |round: u64| {
        for at in [0, 1] {
            hosts[at].0.wait_for_pullers(1, PATIENCE).unwrap();
            hosts[at].0.send(&round.to_le_bytes()).unwrap();
            let task = hosts[1 - at].1.recv_timeout(PATIENCE).unwrap().expect("a task");
            assert_eq!(&task[..], round.to_le_bytes());
            task.ack().unwrap();
            hosts[at].0.flush(PATIENCE).unwrap();
        }
    };
    for round in 0..20 {
        cross(round);
    }
    let node = near.node.as_ref().unwrap();
    node.set_peers([].into()).unwrap();
    until("it is forgotten", || node.peers().is_empty());
    node.set_peers([(1, far.address().to_string())].into()).unwrap();
    near.wait_for_peers(1);
    for round in 20..40 {
        cross(round);
    }
}
