//! When a puller that waits for no thread is woken.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::sync::{AtomicU64, Ordering};

use super::topic_number;
use crate::bus::Bus;

const PATIENCE: Duration = Duration::from_secs(20);
/// Before the second delivery.
const REST: Duration = Duration::from_millis(40);

struct Woken {
    thread: Thread,
    count: AtomicU64,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

#[test]
fn a_task_that_has_rested_wakes_nobody_while_its_topic_is_in_hand() {
    let random = busway_shm::sys::identity::random_u64().unwrap();
    let directory = std::env::temp_dir().join(format!("busway-rests-{random:016x}"));
    let bus = Bus::builder().directory(&directory).open().unwrap();
    let mut pusher = bus.pusher("busy").open().unwrap();
    let mut puller =
        bus.puller("busy").group("g").ack(Duration::from_secs(60)).redelivery(REST).open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    for _ in 0..2 {
        pusher.send(b"work").unwrap();
    }
    puller.recv_timeout(PATIENCE).unwrap().unwrap().nack();
    let in_hand = puller.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(in_hand.deliveries(), 1, "the first rests");
    puller.leave(vec![topic_number("busy")]);
    let woken = Arc::new(Woken { thread: thread::current(), count: AtomicU64::new(0) });
    let waker = woken.clone().into();
    let mut polls = 0_u64;
    // Long after it has rested.
    let until = Deadline::after(5 * REST);
    while !until.expired() {
        assert!(matches!(puller.poll(&mut Context::from_waker(&waker)), Poll::Pending));
        polls += 1;
        thread::park_timeout(until.remaining().unwrap_or(REST));
    }
    let wakes = woken.count.load(Ordering::Relaxed);
    assert!(wakes < 10, "{wakes} wakes for a task that is left to others");
    puller.leave(Vec::new());
    in_hand.ack().unwrap();
    let again = puller.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(again.deliveries(), 2);
    again.ack().unwrap();
    println!("evidence: polls={polls} wakes={wakes}");
    drop((puller, pusher, bus));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn work_that_comes_while_another_pusher_goes_wakes_who_waits() {
    let random = busway_shm::sys::identity::random_u64().unwrap();
    let directory = std::env::temp_dir().join(format!("busway-goes-{random:016x}"));
    let bus = Bus::builder().directory(&directory).open().unwrap();
    let mut puller = bus.puller("work").group("g").open().unwrap();
    let mut stays = bus.pusher("work").open().unwrap();
    stays.wait_for_pullers(1, PATIENCE).unwrap();
    let (mut rounds, mut lost) = (0, 0);
    while rounds < 20 {
        // It goes, and with it as many messages as come then.
        let mut goes = bus.pusher("work").open().unwrap();
        goes.wait_for_pullers(1, PATIENCE).unwrap();
        goes.send(b"first").unwrap();
        puller.recv_timeout(PATIENCE).unwrap().unwrap().ack().unwrap();
        drop(goes);
        let woken = Arc::new(Woken { thread: thread::current(), count: AtomicU64::new(0) });
        let waker = woken.clone().into();
        assert!(matches!(puller.poll(&mut Context::from_waker(&waker)), Poll::Pending));
        stays.send(b"then").unwrap();
        let until = Deadline::after(Duration::from_secs(2));
        while woken.count.load(Ordering::Relaxed) == 0 && !until.expired() {
            thread::park_timeout(until.remaining().unwrap_or_default());
        }
        lost += u32::from(woken.count.load(Ordering::Relaxed) == 0);
        puller.recv_timeout(PATIENCE).unwrap().unwrap().ack().unwrap();
        rounds += 1;
    }
    assert_eq!(lost, 0, "of {rounds} messages nobody was told");
    println!("evidence: rounds={rounds}");
    drop((puller, stays, bus));
    std::fs::remove_dir_all(directory).unwrap();
}
