//! Tasks that are to be acknowledged, across a link.

use std::time::Duration;

use crate::stage::{Host, PATIENCE, two_hosts, until};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_task_that_is_given_back_or_whose_puller_goes_is_done_on_the_other_host_and_its_count_travels() {
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut there = far.bus.puller("work").ack(LONG).open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(b"task").unwrap();
    let task = there.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!(task.deliveries(), 1);
    task.nack();
    let task = there.recv_timeout(PATIENCE).unwrap().expect("it again");
    assert_eq!(task.deliveries(), 2);
    drop(task);
    drop(there);
    let mut here = near.bus.puller("work").ack(LONG).open().unwrap();
    let task = here.recv_timeout(PATIENCE).unwrap().expect("it again, here");
    assert_eq!((task.deliveries(), &task[..]), (3, &b"task"[..]));
    task.nack();
    drop(here);
    let mut there = far.bus.puller("work").ack(LONG).open().unwrap();
    let task = there.recv_timeout(PATIENCE).unwrap().expect("it again, there");
    assert_eq!((task.deliveries(), task.sample().sequence()), (4, 1));
    task.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
}

#[test]
fn a_task_that_is_not_acknowledged_in_time_on_another_host_is_given_to_another_and_the_late_word_is_refused()
{
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let within = Duration::from_millis(500);
    let mut there = far.bus.puller("work").ack(within).open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(b"task").unwrap();
    let first = there.recv_timeout(PATIENCE).unwrap().expect("a task");
    let requester = near.bus.requester("ask").open().unwrap();
    let mut responder = far.bus.responder("ask").open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let pending = requester.send(b"?", PATIENCE).unwrap();
    let request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
    let mut here = near.bus.puller("work").ack(within).open().unwrap();
    let second = here.recv_timeout(PATIENCE).unwrap().expect("it again");
    assert_eq!(second.deliveries(), 2);
    second.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
    drop(here);
    // A word that is said after the one that its time was up.
    drop(pending);
    until("it is cancelled there", || request.is_cancelled());
    assert!(first.ack().is_err(), "it was too late, and is told");
    assert!(there.try_recv().unwrap().is_none());
    let account = pusher.account();
    assert_eq!((account.sent, account.delivered, account.dropped_total()), (1, 1, 0), "{account:?}");
}

#[test]
fn a_task_that_nobody_acknowledges_in_time_is_given_as_often_as_its_group_allows_and_no_more_on_both_hosts() {
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut dead =
        [&near, &far].map(|host| host.bus.puller("dead-letters.g").group("undertaker").open().unwrap());
    let within = Duration::from_millis(300);
    let pull = |host: &Host| host.bus.puller("work").group("g").ack(within).attempts(4).open().unwrap();
    let mut pullers = [pull(&far), pull(&far), pull(&near)];
    pusher.wait_for_pullers(2, PATIENCE).unwrap();
    pusher.send(b"task").unwrap();
    let (mut kept, mut letters) = (Vec::new(), 0);
    until("there is a dead letter", || {
        for puller in &mut pullers {
            kept.extend(puller.try_recv().unwrap());
        }
        letters += dead.iter_mut().filter_map(|dead| dead.try_recv().unwrap()).count();
        letters > 0
    });
    pusher.flush(PATIENCE).unwrap();
    for dead in &mut dead {
        letters += usize::from(dead.recv_timeout(3 * within).unwrap().is_some());
    }
    let mut deliveries: Vec<u32> = kept.iter().map(busway::Task::deliveries).collect();
    deliveries.sort_unstable();
    assert_eq!((deliveries, letters), (vec![1, 2, 3, 4], 1));
    println!("evidence: attempts=4 deliveries=4 dead_letters=1");
}

#[test]
fn what_nobody_acknowledges_on_another_host_lies_with_its_dead_letters() {
    let (near, far) = two_hosts();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    let mut dead = far.bus.puller("dead-letters.g").group("undertaker").open().unwrap();
    let mut there = far.bus.puller("work").group("g").ack(LONG).attempts(3).open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    pusher.send(b"task").unwrap();
    for attempt in 1..=3 {
        let task = there.recv_timeout(PATIENCE).unwrap().expect("a task");
        assert_eq!(task.deliveries(), attempt);
        task.nack();
    }
    assert!(there.recv_timeout(Duration::from_millis(500)).unwrap().is_none());
    assert_eq!(&dead.recv_timeout(PATIENCE).unwrap().expect("a dead letter")[..], b"task");
    pusher.flush(PATIENCE).unwrap();
}
