//! Large tasks and replies between two hosts, and what is small beside them.

use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::sync::{AtomicBool, AtomicU64, Ordering};

use crate::proxy::Proxy;
use crate::stage::{Host, PATIENCE, two_hosts, until};

const LARGE_BYTES: usize = 64 << 20;

/// Says that it is over when it is dropped, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn small_requests_are_answered_while_replies_and_tasks_of_64_mib_flow_over_the_same_link() {
    const LARGE: u64 = 3;
    let (near, far) = two_hosts();
    let large = near.bus.requester("large").open().unwrap();
    let small = near.bus.requester("small").open().unwrap();
    let mut server = far.bus.responder("large").open().unwrap();
    let mut echo = far.bus.responder("small").open().unwrap();
    let mut pusher = near.bus.pusher("work").bytes_max(1 << 30).open().unwrap();
    let mut puller = far.bus.puller("work").open().unwrap();
    for requester in [&large, &small] {
        requester.wait_for_responders(1, PATIENCE).unwrap();
    }
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let reply = vec![7; LARGE_BYTES];
    let ended = || done.load(Ordering::SeqCst);
    let tick = Duration::from_millis(100);
    std::thread::scope(|scope| {
        let ends = Ends(&done);
        scope.spawn(|| {
            while !ended() {
                if let Some(request) = server.recv_timeout(tick).unwrap() {
                    let bytes = if request.payload() == b"first" { 1 } else { LARGE_BYTES };
                    request.reply(&reply[..bytes]).unwrap();
                }
            }
        });
        scope.spawn(|| {
            while !ended() {
                if let Some(request) = echo.recv_timeout(tick).unwrap() {
                    request.reply(b"yes").unwrap();
                }
            }
        });
        scope.spawn(|| {
            while !ended() {
                if let Some(task) = puller.recv_timeout(tick).unwrap() {
                    assert_eq!(task.len(), LARGE_BYTES);
                }
            }
        });
        scope.spawn(|| {
            while !ended() {
                assert_eq!(&small.request(b"?", PATIENCE).unwrap()[..], b"yes");
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
        // The ring of replies to who asks is there from then on.
        assert_eq!(large.request(b"first", PATIENCE).unwrap().len(), 1);
        until("the small ones go", || answered.load(Ordering::SeqCst) > 0);
        let before = answered.load(Ordering::SeqCst);
        for _ in 0..LARGE {
            pusher.send(&reply).unwrap();
            let got = large.request(b"?", PATIENCE).unwrap();
            assert!(got[..] == reply);
        }
        let beside = answered.load(Ordering::SeqCst) - before;
        drop(ends);
        // Behind them each of these would have one, or two.
        assert!(beside >= 5 * LARGE, "{beside} small requests beside {LARGE} large ones each way");
        println!("evidence: large_each_way={LARGE} bytes_each={LARGE_BYTES} small_beside={beside}");
    });
}

#[test]
fn a_link_that_is_cut_in_the_midst_of_large_tasks_loses_none_and_each_is_done_whole() {
    const TASKS: u64 = 6;
    let far = Host::new(1, &[]);
    let proxy = Proxy::to(far.address());
    let near = Host::new(0, &[(1, proxy.address())]);
    near.wait_for_peers(1);
    let mut pusher = near.bus.pusher("work").bytes_max(1 << 30).open().unwrap();
    let mut puller = far.bus.puller("work").ack(PATIENCE).attempts(60).open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    let mut done = [0_u32; TASKS as usize];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..TASKS {
                let mut task = vec![n as u8; LARGE_BYTES / 4];
                task[0] = 255 - n as u8;
                until("there is room", || pusher.send(&task).is_ok());
            }
        });
        let deadline = Deadline::after(4 * PATIENCE);
        while done.contains(&0) {
            assert!(!deadline.expired(), "{done:?}");
            // Some of what is under way has gone when it is cut.
            for _ in 0..2 {
                let Some(task) = puller.recv_timeout(Duration::from_millis(300)).unwrap() else { continue };
                let n = task[1];
                assert_eq!((task.len(), task[0]), (LARGE_BYTES / 4, 255 - n));
                assert!(task[1..].iter().all(|byte| *byte == n), "task {n} is whole");
                let times = &mut done[usize::from(n)];
                *times += 1;
                assert!(*times == 1 || task.deliveries() > 1, "task {n} came twice, and is not counted");
                task.ack().unwrap();
            }
            proxy.cut();
        }
    });
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped_total()), (TASKS, 0), "{account:?}");
    println!("evidence: tasks={TASKS} bytes_each={} cuts={} lost=0", LARGE_BYTES / 4, proxy.cuts());
}
