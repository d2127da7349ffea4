//! Values that strangers send as requests, replies and work: each is an error with a code, and nobody else loses anything.

use std::fmt::Debug;

use busway::{Bus, Code, Error};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::place::{PATIENCE, Scene};
use crate::service::TOPIC;

/// A value whose fields stand once.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only whether it can be decoded matters")]
struct Order {
    number: u64,
    price: f64,
}

/// What its decoders say of a payload that came as a reply and as work.
fn refused<T: DeserializeOwned + Debug>(bus: &Bus, payload: &[u8], binary: bool) {
    let mut responder = bus.responder(TOPIC).open().unwrap();
    let requester = bus.requester(TOPIC).open().unwrap();
    let mut pending = requester.send(payload, PATIENCE).unwrap();
    let request = responder.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(request.payload(), payload);
    request.reply(payload).unwrap();
    let reply = pending.recv().unwrap().unwrap();
    let mut puller = bus.puller("work").open().unwrap();
    bus.pusher("work").open().unwrap().send(payload).unwrap();
    let task = puller.recv_timeout(PATIENCE).unwrap().unwrap();
    let decoded: Vec<Result<T, Error>> =
        if binary { vec![task.sample().msgpack()] } else { vec![reply.json(), task.sample().json()] };
    for decoded in decoded {
        let start = String::from_utf8_lossy(&payload[..payload.len().min(20)]).into_owned();
        assert_eq!(decoded.expect_err(&start).code(), Code::DecodeFailed, "{start}");
    }
    task.ack().unwrap();
    // And the next is answered.
    let mut pending = requester.send(b"1", PATIENCE).unwrap();
    responder.recv_timeout(PATIENCE).unwrap().unwrap().reply(b"1").unwrap();
    assert_eq!(pending.recv().unwrap().unwrap().json::<u64>().unwrap(), 1);
}

#[test]
fn json_that_nests_a_hundred_thousand_deep_is_refused_where_it_is_decoded() {
    const DEPTH: usize = 100_000;
    let scene = Scene::new();
    let bus = scene.bus("both");
    for open in ["[", "{\"a\":", "[[{\"a\":"] {
        refused::<serde_json::Value>(&bus, open.repeat(DEPTH).as_bytes(), false);
    }
    refused::<serde_json::Value>(&bus, &vec![0x91; DEPTH], true);
    println!("evidence: depth={DEPTH}");
}

#[test]
fn numbers_without_bound_and_fields_that_stand_twice_are_refused() {
    let scene = Scene::new();
    let bus = scene.bus("both");
    for number in ["1e400", "-1e400", "NaN", "Infinity", "-", "0x10", "01", "1e"] {
        refused::<f64>(&bus, number.as_bytes(), false);
    }
    for number in ["-1", "1.5", "1e2", "18446744073709551616", &"9".repeat(100_000)] {
        refused::<u64>(&bus, number.as_bytes(), false);
    }
    for order in [
        r#"{"number":1,"price":1.0,"number":2}"#,
        r#"{"number":1,"price":1e400}"#,
        r#"{"number":1,"price":null}"#,
        r#"{"number":1}"#,
    ] {
        refused::<Order>(&bus, order.as_bytes(), false);
    }
}
