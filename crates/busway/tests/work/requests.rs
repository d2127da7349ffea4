//! Requests of one host that responders of the other answer.

use std::time::Duration;

use busway::{Pending, RequestError};
use busway_shm::clock::Deadline;

use crate::stage::{PATIENCE, two_hosts, until};

#[test]
fn a_request_is_answered_on_another_host_with_a_stream_a_failure_or_nothing() {
    let (near, far) = two_hosts();
    let requester = near.bus.requester("count").open().unwrap();
    let mut responder = far.bus.responder("count").open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    for size in [0_usize, 10, 100, 5_000, 300_000] {
        let asked = vec![7; size];
        let mut pending = requester.send(&asked, PATIENCE).unwrap();
        let mut request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
        assert_eq!((request.payload(), request.topic()), (&asked[..], "count"));
        assert!(request.remaining() <= PATIENCE && !request.is_cancelled());
        request.reply_part(&asked).unwrap();
        request.reply_part(b"two").unwrap();
        request.reply(b"three").unwrap();
        assert_eq!(&pending.recv().unwrap().unwrap()[..], &asked[..]);
        assert_eq!(&pending.recv().unwrap().unwrap()[..], b"two");
        let last = pending.recv().unwrap().unwrap();
        assert!(last.is_last() && &last[..] == b"three");
        assert!(pending.recv().unwrap().is_none());
    }
    let mut pending = requester.send(b"fail", PATIENCE).unwrap();
    let mut request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
    request.reply_part(b"begun").unwrap();
    request.fail(b"no luck").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"begun");
    assert_eq!(pending.recv().unwrap_err(), RequestError::Failed(b"no luck".to_vec()));
    let mut pending = requester.send(b"nothing", PATIENCE).unwrap();
    drop(responder.recv_timeout(PATIENCE).unwrap().expect("a request"));
    assert_eq!(pending.recv().unwrap_err(), RequestError::Unanswered);
    until("all is over", || requester.under_way() == 0);
}

#[test]
fn without_a_responder_on_either_host_a_request_fails_at_once_and_a_late_one_is_waited_for() {
    let (near, far) = two_hosts();
    let requester = near.bus.requester("count").late_join(Duration::ZERO).open().unwrap();
    assert_eq!(requester.request(b"?", PATIENCE).unwrap_err(), RequestError::NoResponders);
    let patient = near.bus.requester("count").late_join(PATIENCE).open().unwrap();
    let server = std::thread::spawn({
        let bus = far.bus.clone();
        move || bus.responder("count").open().unwrap().recv().unwrap().reply(b"yes").unwrap()
    });
    assert_eq!(&patient.request(b"?", PATIENCE).unwrap()[..], b"yes");
    server.join().unwrap();
    until("the responder has gone", || requester.responders() == 0);
    assert_eq!(requester.request(b"?", PATIENCE).unwrap_err(), RequestError::NoResponders);
}

#[test]
fn a_request_that_nobody_waits_for_any_more_is_cancelled_on_the_other_host() {
    let (near, far) = two_hosts();
    let requester = near.bus.requester("count").open().unwrap();
    let mut responder = far.bus.responder("count").open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let pending = requester.send(b"dropped", Duration::from_secs(600)).unwrap();
    let request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
    assert!(!request.is_cancelled());
    drop(pending);
    until("it is cancelled", || request.is_cancelled());
    drop(request);
    let mut time = Duration::from_millis(400);
    let (mut pending, request) = loop {
        let pending = requester.send(b"late", time).unwrap();
        if let Some(request) = responder.recv_timeout(time).unwrap() {
            break (pending, request);
        }
        // The machine is busier than that.
        time *= 2;
        assert!(time < PATIENCE);
    };
    assert!(request.remaining() <= time, "{:?}", request.remaining());
    assert_eq!(pending.recv().unwrap_err(), RequestError::TimedOut);
    until("it is cancelled there too", || request.is_cancelled());
}

#[test]
fn as_many_requests_as_one_service_may_have_keep_no_other_work_waiting_nor_its_node_from_ending() {
    let (near, mut far) = two_hosts();
    let (large, small) = (near.bus.requester("large"), near.bus.requester("small"));
    let large = large.bytes_max(1 << 30).open().unwrap();
    let small = small.open().unwrap();
    let mut pusher = near.bus.pusher("work").open().unwrap();
    // What is asked is more than the node asks for another host at a time.
    let mut busy = far.bus.responder("large").holds(256).open().unwrap();
    let mut idle = far.bus.responder("small").open().unwrap();
    let mut puller = far.bus.puller("work").open().unwrap();
    large.wait_for_responders(1, PATIENCE).unwrap();
    small.wait_for_responders(1, PATIENCE).unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    let asked = vec![1; 1 << 20];
    let send = || large.send(&asked, Duration::from_secs(600)).unwrap();
    let mut pending: Vec<Pending> = Vec::new();
    let mut requests = Vec::new();
    for _ in 0..20 {
        pending.push(send());
        requests.push(busy.recv_timeout(PATIENCE).unwrap().expect("a request"));
    }
    pending.extend((0..100).map(|_| send()));
    // It looks for more than there is room for.
    for _ in 0..60 {
        requests.extend(busy.recv_timeout(Duration::from_millis(20)).unwrap());
        let mut other = small.send(b"?", PATIENCE).unwrap();
        idle.recv_timeout(PATIENCE).unwrap().expect("a request").reply(b"yes").unwrap();
        assert_eq!(&other.recv().unwrap().unwrap()[..], b"yes");
        pusher.send(b"task").unwrap();
        puller.recv_timeout(PATIENCE).unwrap().expect("a task").ack().unwrap();
    }
    let ends = Deadline::after(Duration::from_secs(20));
    far.node = None;
    assert!(!ends.expired(), "the node waited for who waits for 600 s");
    println!("evidence: asked=120 in_hand={} others=120", requests.len());
}
