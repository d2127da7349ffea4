//! Pullers, responders, nodes and links that are gone in the middle.

use std::collections::BTreeMap;
use std::time::Duration;

use busway::{Cause, RequestError};

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
