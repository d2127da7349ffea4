//! Tasks that are to be acknowledged, across a link.

use std::time::Duration;

use crate::stage::{PATIENCE, two_hosts};

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
    let mut here = near.bus.puller("work").ack(within).open().unwrap();
    let second = here.recv_timeout(PATIENCE).unwrap().expect("it again");
    assert_eq!(second.deliveries(), 2);
    second.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
    // Whoever watches there may have given it back before this, or not; here it is refused either way.
    let _ = first.ack();
    assert!(there.recv_timeout(Duration::from_secs(2)).unwrap().is_none_or(|task| task.deliveries() > 1));
    let account = pusher.account();
    assert_eq!(account.sent, 1, "{account:?}");
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
