//! What tasks, requests and replies say beside their payload, on the other host.

use std::time::Duration;

use busway::{Context, MessageId};

use crate::stage::{PATIENCE, two_hosts};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn ids_and_traces_of_tasks_requests_and_replies_cross_a_link() {
    let (near, far) = two_hosts();
    let all = Context::default().with_id(MessageId(77)).with_trace(TRACE.parse().unwrap());
    let all = all.with_state("rojo=00f067aa0ba902b7").unwrap();
    let contexts = [Context::default(), all, Context::default().with_id(MessageId(9))];
    let mut pusher = near.bus.pusher("jobs").open().unwrap();
    let mut puller = far.bus.puller("jobs").ack(Duration::from_secs(60)).open().unwrap();
    let requester = near.bus.requester("ask").open().unwrap();
    let mut responder = far.bus.responder("ask").open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let mut count = 0;
    for size in [0_usize, 20, 500, 200_000] {
        for context in contexts {
            let payload = vec![7; size];
            pusher.in_context(context).send(&payload).unwrap();
            let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
            assert_eq!((task.sample().context(), &task[..]), (context, &payload[..]), "{size}");
            task.ack().unwrap();
            let mut pending = requester.in_context(context).send(&payload, PATIENCE).unwrap();
            let mut request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
            assert_eq!((request.context(), &request[..]), (context, &payload[..]), "{size}");
            request.reply_part(&payload).unwrap();
            request.reply(b"last").unwrap();
            for body in [&payload[..], b"last"] {
                let reply = pending.recv().unwrap().expect("a reply");
                assert_eq!((reply.context(), &reply[..]), (context.without_id(), body), "{size}");
            }
            count += 4;
        }
    }
    println!("evidence: messages={count}");
}
