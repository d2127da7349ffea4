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
    let (done, asked, answered) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let reply = vec![7; LARGE_BYTES];
    let ended = || done.load(Ordering::SeqCst);
    let tick = Duration::from_millis(100);
    std::thread::scope(|scope| {
        let ends = Ends(&done);
        let ends_asking = Ends(&asked);
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
        let asks = scope.spawn(|| {
            while !asked.load(Ordering::SeqCst) {
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
        // Who answers stays until the last question is answered.
        drop(ends_asking);
        asks.join().unwrap();
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

/// Asks and pushes, small and large, until so many of each are done, whatever becomes of the link.
fn work_with(host: &Host, other: &Host, name: &str, done: &AtomicU64) {
    const EACH: u64 = 6;
    let (tasks, asks) = (format!("work.{name}"), format!("ask.{name}"));
    let mut pusher = host.bus.pusher(&tasks).bytes_max(1 << 30).open().unwrap();
    let requester = host.bus.requester(&asks).open().unwrap();
    let mut puller = other.bus.puller(&tasks).ack(PATIENCE).attempts(60).open().unwrap();
    let mut responder = other.bus.responder(&asks).open().unwrap();
    let ended = AtomicBool::new(false);
    let tick = Duration::from_millis(50);
    let bytes = |n: u64| if n.is_multiple_of(2) { LARGE_BYTES / 16 } else { 40 };
    let is_whole = |bytes: &[u8]| bytes.iter().all(|byte| *byte == bytes[0]);
    std::thread::scope(|scope| {
        let ends = Ends(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let Some(mut request) = responder.recv_timeout(tick).unwrap() else { continue };
                assert!(is_whole(&request));
                let reply = vec![request[0] + 1; bytes(u64::from(request[0]))];
                // A part and an end, which go by one source.
                let _ = request.reply_part(&reply).and_then(|()| request.reply(&reply[..1]));
            }
        });
        let taker = scope.spawn(|| {
            let mut times = [0_u32; EACH as usize];
            let deadline = Deadline::after(4 * PATIENCE);
            while times.contains(&0) {
                assert!(!deadline.expired(), "{times:?}");
                let Some(task) = puller.recv_timeout(tick).unwrap() else { continue };
                let n = task[0];
                assert!(is_whole(&task) && task.len() == bytes(u64::from(n)));
                times[usize::from(n)] += 1;
                assert!(
                    times[usize::from(n)] == 1 || task.deliveries() > 1,
                    "task {n} came twice, and is not counted"
                );
                task.ack().unwrap();
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
        for n in 0..EACH {
            until("there is room", || pusher.send(&vec![n as u8; bytes(n)]).is_ok());
            // A request ends with its link, and is asked again.
            until("an answer", || {
                let Ok(mut pending) = requester.send(&vec![n as u8; bytes(n)], PATIENCE) else {
                    return false;
                };
                let mut replies = Vec::new();
                while let Ok(Some(reply)) = pending.recv() {
                    assert!(reply.iter().all(|byte| *byte == n as u8 + 1), "it is whole");
                    replies.push(reply.len());
                }
                replies.len() == 2
            });
        }
        done.fetch_add(1, Ordering::SeqCst);
        taker.join().unwrap();
        drop(ends);
    });
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped_total()), (EACH, 0), "{account:?}");
}

#[test]
fn a_link_that_is_cut_again_and_again_loses_no_task_and_no_answer_of_either_way_and_size() {
    let far = Host::new(1, &[]);
    let proxy = Proxy::to(far.address());
    let near = Host::new(0, &[(1, proxy.address())]);
    near.wait_for_peers(1);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| work_with(&near, &far, "there", &done));
        scope.spawn(|| work_with(&far, &near, "here", &done));
        let mut cuts = 0;
        let mut next = Deadline::after(Duration::from_millis(100));
        let deadline = Deadline::after(8 * PATIENCE);
        while done.load(Ordering::SeqCst) < 4 {
            assert!(!deadline.expired(), "{} of 4 are done", done.load(Ordering::SeqCst));
            if next.expired() && cuts < 12 {
                proxy.cut();
                cuts += 1;
                next = Deadline::after(Duration::from_millis(100 + 50 * cuts));
            }
            std::thread::yield_now();
        }
    });
    println!("evidence: ways=2 tasks_each=6 answers_each=6 cuts={} lost=0", proxy.cuts());
}
