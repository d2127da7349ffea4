//! Pullers, responders, nodes and links that are gone in the middle.

use std::collections::BTreeMap;
use std::time::Duration;

use busway::{Cause, Puller, RequestError, SubscriberView};

use crate::part::{ACK, Part};
use crate::proxy::Proxy;
use crate::stage::{Host, PATIENCE, two_hosts, until};

#[test]
fn what_a_killed_puller_of_another_host_had_is_done_here_and_counted_as_given_twice() {
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut part = Part::start(&far.directory.0, "hold", None);
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(b"task").unwrap();
    part.hear("has");
    let mut here = near.bus.puller("work").ack(ACK).open().unwrap();
    assert!(here.try_recv().unwrap().is_none());
    part.kill();
    let task = here.recv_timeout(PATIENCE).unwrap().expect("it again");
    assert_eq!((&task[..], task.deliveries()), (&b"task"[..], 2));
    task.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
    println!("evidence: killed=1 lost=0 deliveries=2");
}

#[test]
fn a_requester_is_told_at_once_that_its_responder_on_another_host_was_killed() {
    let (near, far) = two_hosts();
    let requester = near.bus.requester("work").open().unwrap();
    let mut part = Part::start(&far.directory.0, "answer", None);
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut pending = requester.send(b"?", Duration::from_secs(600)).unwrap();
    part.hear("has");
    part.kill();
    assert_eq!(pending.recv().unwrap_err(), RequestError::ResponderDied);
    // The word about it overtakes the one that ends the claim.
    until("it is counted", || requester.account().dropped.get(Cause::PullerDied.name()) == Some(&1));
}

#[test]
fn a_request_ends_with_the_link_over_which_it_went_on_both_hosts_and_before_tasks_are_given_up() {
    let far = Host::new(1, &[]);
    let proxy = Proxy::to(far.address());
    let near = Host::new(0, &[(1, proxy.address())]);
    near.wait_for_peers(1);
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut there = far.bus.puller("work").ack(ACK).open().unwrap();
    let requester = near.bus.requester("ask").open().unwrap();
    let mut responder = far.bus.responder("ask").open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(b"task").unwrap();
    let held = there.recv_timeout(PATIENCE).unwrap().expect("a task");
    let mut here = near.bus.puller("work").ack(ACK).open().unwrap();
    let mut pending = requester.send(b"?", Duration::from_secs(600)).unwrap();
    let mut request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
    request.reply_part(b"begun").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"begun");
    proxy.close();
    assert_eq!(pending.recv().unwrap_err(), RequestError::ResponderDied);
    assert!(here.try_recv().unwrap().is_none(), "the task waits for the link");
    until("it is cancelled there", || request.is_cancelled());
    proxy.open();
    near.wait_for_peers(1);
    held.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
    drop(request);
    until("it can be asked again", || {
        let mut pending = requester.send(b"again", PATIENCE).unwrap();
        match responder.recv_timeout(Duration::from_secs(1)).unwrap() {
            Some(request) => {
                request.reply(b"yes").is_ok() && pending.recv().is_ok_and(|reply| reply.is_some())
            }
            None => false,
        }
    });
}

#[test]
fn a_link_that_is_cut_again_and_again_loses_no_task_that_is_acknowledged_and_does_none_twice_uncounted() {
    const TASKS: u64 = 3_000;
    let far = Host::new(1, &[]);
    let proxy = Proxy::to(far.address());
    let near = Host::new(0, &[(1, proxy.address())]);
    near.wait_for_peers(1);
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut puller = far.bus.puller("work").ack(ACK).attempts(60).open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    let mut done: BTreeMap<u64, u32> = BTreeMap::new();
    let mut twice = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..TASKS {
                until("there is room", || pusher.send(&n.to_le_bytes()).is_ok());
            }
        });
        while (done.len() as u64) < TASKS {
            let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
            let n = u64::from_le_bytes(task[..].try_into().unwrap());
            let times = done.entry(n).or_insert(0);
            *times += 1;
            assert!(*times == 1 || task.deliveries() > 1, "task {n} came twice, and is not counted");
            twice += u64::from(*times > 1);
            task.ack().unwrap();
            if done.len().is_multiple_of(100) && proxy.cuts() < done.len() as u64 / 100 {
                proxy.cut();
            }
        }
    });
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped_total()), (TASKS, 0), "{account:?}");
    println!("evidence: tasks={TASKS} cuts={} lost=0 twice={twice} uncounted=0", proxy.cuts());
}

#[test]
fn a_killed_node_gives_what_it_had_to_others_and_its_successor_carries_on() {
    let far = Host::new(1, &[]);
    let directory = crate::stage::Directory::new();
    let bus = crate::stage::join(&directory.0, "pusher");
    let mut pusher = bus.pusher("work").open().unwrap();
    let node = Part::start(&directory.0, "node", Some(far.address()));
    let mut there = far.bus.puller("work").ack(ACK).open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(b"one").unwrap();
    let held = there.recv_timeout(PATIENCE).unwrap().expect("a task");
    node.kill();
    let mut here = bus.puller("work").ack(ACK).open().unwrap();
    let task = here.recv_timeout(PATIENCE).unwrap().expect("it again");
    assert_eq!((&task[..], task.deliveries()), (&b"one"[..], 2));
    task.ack().unwrap();
    drop(here);
    pusher.flush(PATIENCE).unwrap();
    let _ = held.ack();
    let _node = Part::start(&directory.0, "node", Some(far.address()));
    pusher.send(b"two").unwrap();
    let task = there.recv_timeout(PATIENCE).unwrap().expect("the next");
    assert_eq!(&task[..], b"two");
    task.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
}

#[test]
fn what_a_host_that_is_gone_had_is_done_here_or_lost_with_its_link_and_counted() {
    let (near, mut far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut careful = far.bus.puller("work").group("careful").ack(ACK).open().unwrap();
    let mut careless = far.bus.puller("work").group("careless").open().unwrap();
    pusher.wait_for_pullers(2, PATIENCE).unwrap();
    pusher.send(b"task").unwrap();
    let held =
        [&mut careful, &mut careless].map(|puller| puller.recv_timeout(PATIENCE).unwrap().expect("a task"));
    far.node = None;
    let mut here = near.bus.puller("work").group("careful").ack(ACK).open().unwrap();
    let task = here.recv_timeout(PATIENCE).unwrap().expect("it again");
    assert_eq!(task.deliveries(), 2);
    task.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!(account.dropped.get(Cause::LinkLost.name()), Some(&1), "{account:?}");
    drop(held);
    println!("evidence: acknowledged=done link_lost=1");
}

/// Two hosts behind a proxy: the first dials.
fn proxied() -> (Host, Proxy, Host) {
    let far = Host::new(1, &[]);
    let proxy = Proxy::to(far.address());
    let near = Host::new(0, &[(1, proxy.address())]);
    near.wait_for_peers(1);
    far.wait_for_peers(1);
    (near, proxy, far)
}

#[test]
fn a_host_that_is_away_counts_as_nobody_and_pulls_and_answers_again_when_it_is_back() {
    let (near, proxy, far) = proxied();
    let mut pusher = near.bus.pusher("work").slots_max(32).open().unwrap();
    let requester = near.bus.requester("ask").late_join(Duration::ZERO).open().unwrap();
    let mut there = far.bus.puller("work").group("far").open().unwrap();
    let mut responder = far.bus.responder("ask").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    proxy.close();
    until("nobody answers", || requester.responders() == 0);
    assert_eq!(requester.request(b"?", PATIENCE).unwrap_err(), RequestError::NoResponders);
    assert_eq!(pusher.pullers(), 1, "a task waits for the link longer than a request");
    until("nobody pulls", || pusher.pullers() == 0);
    // Another group has what is pushed, however much that is.
    let mut here = near.bus.puller("work").group("near").open().unwrap();
    for n in 0..200_u64 {
        let pushed = || pusher.send(&n.to_le_bytes()).is_ok();
        until("the group that is gone gives way", pushed);
        let task = here.recv_timeout(PATIENCE).unwrap().expect("a task");
        assert_eq!(&task[..], n.to_le_bytes());
        task.ack().unwrap();
    }
    proxy.open();
    pusher.wait_for_pullers(2, PATIENCE).unwrap();
    pusher.send(b"again").unwrap();
    until("it is done there", || {
        there.recv_timeout(PATIENCE).unwrap().is_some_and(|task| &task[..] == b"again")
    });
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut pending = requester.send(b"again", PATIENCE).unwrap();
    responder.recv_timeout(PATIENCE).unwrap().expect("a request").reply(b"yes").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"yes");
}

#[test]
fn what_was_given_to_others_while_its_host_was_away_is_not_done_there_when_it_is_back() {
    let (near, proxy, far) = proxied();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let requester = near.bus.requester("ask").open().unwrap();
    let mut there = far.bus.puller("work").ack(ACK).open().unwrap();
    let mut responder = far.bus.responder("ask").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    pusher.send(b"held").unwrap();
    let held = there.recv_timeout(PATIENCE).unwrap().expect("a task");
    proxy.swallow();
    // They look for work, and are granted some, which is on its way and never there.
    pusher.send(b"first").unwrap();
    let mut asked = requester.send(b"and answer", Duration::from_secs(600)).unwrap();
    until("both were given", || {
        let none = Duration::from_millis(10);
        assert!(there.recv_timeout(none).unwrap().is_none());
        assert!(responder.recv_timeout(none).unwrap().is_none());
        proxy.has_swallowed(b"first") && proxy.has_swallowed(b"and answer")
    });
    proxy.close();
    assert_eq!(asked.recv().unwrap_err(), RequestError::ResponderDied);
    let mut here = near.bus.puller("work").ack(ACK).open().unwrap();
    let mut done: Vec<(Vec<u8>, u32)> = Vec::new();
    for _ in 0..2 {
        let task = here.recv_timeout(PATIENCE).unwrap().expect("it again");
        done.push((task.to_vec(), task.deliveries()));
        task.ack().unwrap();
    }
    done.sort();
    assert_eq!(done, [(b"first".to_vec(), 2), (b"held".to_vec(), 2)]);
    drop(here);
    proxy.open();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    pusher.send(b"second").unwrap();
    let task = there.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!((&task[..], task.deliveries()), (&b"second"[..], 1), "what is over is not done again");
    task.ack().unwrap();
    assert!(held.ack().is_err(), "another has done it, and who had it is told");
    let mut pending = requester.send(b"second", PATIENCE).unwrap();
    let request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
    assert_eq!(request.payload(), b"second", "what is over is not asked again");
    request.reply(b"yes").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"yes");
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped_total()), (3, 0), "{account:?}");
    println!("evidence: away=5s tasks=3 done=3 twice_uncounted=0 requests_after_their_end=0");
}

#[test]
fn of_tasks_that_nobody_acknowledges_none_is_done_twice_and_each_is_done_or_counted_though_their_host_was_away()
 {
    let (near, proxy, far) = proxied();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut there = far.bus.puller("work").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    let mut done: BTreeMap<u64, u32> = BTreeMap::new();
    let mut count = |task: busway::Task| {
        *done.entry(u64::from_le_bytes(task[..].try_into().unwrap())).or_default() += 1;
    };
    for n in 0..100_u64 {
        pusher.send(&n.to_le_bytes()).unwrap();
    }
    for _ in 0..50 {
        count(there.recv_timeout(PATIENCE).unwrap().expect("a task"));
    }
    proxy.swallow();
    while let Some(task) = there.try_recv().unwrap() {
        count(task);
    }
    proxy.close();
    until("nobody pulls", || pusher.pullers() == 0);
    let mut here = near.bus.puller("work").open().unwrap();
    proxy.open();
    pusher.wait_for_pullers(2, PATIENCE).unwrap();
    until("each is over", || {
        for puller in [&mut here, &mut there] {
            if let Some(task) = puller.recv_timeout(Duration::from_millis(10)).unwrap() {
                count(task);
            }
        }
        pusher.account().in_flight == 0
    });
    // Before the next one comes there whatever was on its way.
    drop(here);
    pusher.send(&100_u64.to_le_bytes()).unwrap();
    let mut at_last = false;
    while !at_last {
        let task = there.recv_timeout(PATIENCE).unwrap().expect("the last");
        at_last = task[..] == 100_u64.to_le_bytes();
        count(task);
    }
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    let lost = account.dropped_total();
    assert!(done.values().all(|times| *times == 1), "{done:?}");
    // What was done there while nobody could be told is done, and counted as lost with its link.
    assert_eq!(account.dropped.get(Cause::LinkLost.name()).copied().unwrap_or_default(), lost, "{account:?}");
    assert_eq!((account.delivered + lost, done.len() as u64 + lost >= 101), (101, true), "{account:?}");
    println!("evidence: tasks=101 done={} link_lost={lost} twice=0", done.len());
}

#[test]
fn a_request_ends_also_where_only_one_side_has_missed_the_link() {
    for asks_who_dials in [true, false] {
        let (dials, proxy, waits) = proxied();
        let (near, far) = if asks_who_dials { (&dials, &waits) } else { (&waits, &dials) };
        let requester = near.bus.requester("ask").open().unwrap();
        let mut responder = far.bus.responder("ask").open().unwrap();
        requester.wait_for_responders(1, PATIENCE).unwrap();
        let mut pending = requester.send(b"?", Duration::from_secs(600)).unwrap();
        let request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
        proxy.close_for_who_dials();
        if asks_who_dials {
            assert_eq!(pending.recv().unwrap_err(), RequestError::ResponderDied);
        } else {
            until("it is cancelled there", || request.is_cancelled());
        }
        proxy.open();
        if asks_who_dials {
            until("it is cancelled there", || request.is_cancelled());
        } else {
            let told = pending.recv_timeout(PATIENCE);
            assert_eq!(told.unwrap_err(), RequestError::ResponderDied);
        }
    }
}

#[test]
fn a_node_that_ends_gives_back_what_nobody_there_has_begun() {
    const GROUPS: usize = 4;
    const TASKS: u64 = 20;
    let (near, mut far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let pull = |host: &Host, group| host.bus.puller("work").group(&format!("g{group}")).open().unwrap();
    let mut there: Vec<_> = (0..GROUPS).map(|group| pull(&far, group)).collect();
    pusher.wait_for_pullers(GROUPS, PATIENCE).unwrap();
    let mut done = vec![Vec::new(); GROUPS];
    let mut take = |group: usize, puller: &mut Puller| {
        done[group].push(puller.recv_timeout(PATIENCE).unwrap().expect("a task").to_vec());
    };
    for n in 0..TASKS {
        pusher.send(&n.to_le_bytes()).unwrap();
    }
    for (group, there) in there.iter_mut().enumerate() {
        (0..TASKS).for_each(|_| take(group, there));
    }
    // Who took that many looked for another. It is all there is, so that nothing is on its way.
    pusher.send(&TASKS.to_le_bytes()).unwrap();
    until("it lies ready for each", || {
        let topics = far.bus.inspect().unwrap().topics;
        let views = topics.iter().filter(|view| view.topic == "work").flat_map(|view| &view.subscribers);
        let ready = |group: &&SubscriberView| group.delivered == TASKS && group.in_flight == 1;
        views.filter(|port| port.policy == "group").filter(ready).count() == GROUPS
    });
    far.node = None;
    let mut here: Vec<_> = (0..GROUPS).map(|group| pull(&near, group)).collect();
    for (group, here) in here.iter_mut().enumerate() {
        take(group, here);
    }
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped_total()), (GROUPS as u64 * (TASKS + 1), 0), "{account:?}");
    for mut of_group in done {
        of_group.sort();
        assert_eq!(of_group, (0..=TASKS).map(|n| n.to_le_bytes().to_vec()).collect::<Vec<_>>());
    }
}
