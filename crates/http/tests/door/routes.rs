//! What each route does.

use std::net::SocketAddr;
use std::time::Duration;

use busway::{Codec, Policy};
use busway_http::HttpConfig;

use crate::client::{Moment, Place, ask, get, metric, open};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn what_is_published_reaches_subscribers_with_its_type_its_id_and_its_trace() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut subscriber = bus.subscriber("orders.>").policy(Policy::Block).open().expect("a subscriber");
    let trace = format!("traceparent: {TRACE}");
    let headers =
        ["content-type: application/json; charset=utf-8", "busway-id: new", &trace, "tracestate: a=1"];
    let sent = ask(at, "POST", "/v1/publish/orders.one", &headers, b"{\"apples\":17}");
    assert_eq!(sent.status, 200, "{sent:?}");
    let sample = subscriber.recv_timeout(Duration::from_secs(5)).expect("a bus").expect("it came");
    assert_eq!((&sample[..], sample.codec()), (&b"{\"apples\":17}"[..], Codec::Json));
    assert_eq!(sample.trace().map(|trace| trace.to_string()).as_deref(), Some(TRACE));
    assert_eq!(sample.context().state(), "a=1");
    let id = sample.id().expect("an id").to_string();
    assert_eq!(sent.headers["busway-id"], id);
    let told = sent.json();
    assert_eq!((told["topic"].as_str(), told["id"].as_str()), (Some("orders.one"), Some(id.as_str())));
    assert_eq!(told["sequence"].as_u64(), Some(sample.sequence()));
    assert_eq!(told["source"].as_str(), Some(sample.source().to_string().as_str()));
    // The same topic, percents and all, goes through the same publisher; no body is a message too.
    let second = ask(at, "POST", "/v1/publish/orders%2eone", &[], &[]);
    assert_eq!(
        (second.json()["sequence"].as_u64(), second.json()["source"].clone()),
        (Some(2), told["source"].clone())
    );
    let empty = subscriber.recv_timeout(Duration::from_secs(5)).expect("a bus").expect("it came");
    assert_eq!((empty.len(), empty.codec(), empty.id()), (0, Codec::Bytes, None));
    for (path, headers, code) in [
        ("/v1/publish/a..b", vec![], "BUS-0101"),
        ("/v1/publish/a.*", vec![], "BUS-0101"),
        ("/v1/publish/$sys", vec![], "BUS-0105"),
        ("/v1/publish/%ff", vec![], "BUS-0113"),
        ("/v1/publish/a", vec!["busway-id: none"], "BUS-0111"),
        ("/v1/publish/a", vec!["traceparent: 00-zz"], "BUS-0110"),
    ] {
        let answer = ask(at, "POST", path, &headers, b"x");
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{path} {headers:?}");
        let told = answer.json();
        assert!(
            ["cause", "place", "remedy"]
                .iter()
                .all(|key| told[key].as_str().is_some_and(|text| !text.is_empty()))
        );
    }
}

#[test]
fn what_is_pushed_is_done_by_one_puller() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut pullers =
        [bus.puller("jobs").open().expect("a puller"), bus.puller("jobs").open().expect("a puller")];
    for number in 0..10 {
        let body = number.to_string();
        assert_eq!(ask(at, "POST", "/v1/push/jobs", &[], body.as_bytes()).status, 200);
    }
    let mut done = Vec::new();
    let deadline = Moment::now() + crate::client::LIMIT;
    while done.len() < 10 && Moment::now() < deadline {
        for puller in &mut pullers {
            if let Some(task) = puller.recv_timeout(Duration::from_millis(10)).expect("a bus") {
                done.push(String::from_utf8_lossy(&task).into_owned());
            }
        }
    }
    done.sort();
    assert_eq!(done, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_request_is_answered_with_its_reply_or_with_why_there_is_none() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let nobody = ask(at, "POST", "/v1/request/double", &[], b"1");
    assert_eq!((nobody.status, nobody.code().as_str()), (503, "BUS-0406"));
    assert_eq!(nobody.headers["retry-after"], "1");
    let mut responder = bus.responder("double").open().expect("a responder");
    let server = std::thread::spawn(move || {
        let mut kept = Vec::new();
        loop {
            let Ok(request) = responder.recv() else { return };
            match &request[..] {
                b"end" => return,
                b"silence" => kept.push(request),
                b"who" => {
                    let (id, trace) = (request.id().expect("an id"), request.trace().expect("a trace"));
                    request.reply(format!("{id} {trace}").as_bytes()).expect("a reply");
                }
                b"three" => {
                    let mut request = request;
                    for part in ["a", "b"] {
                        request.reply_part(part.as_bytes()).expect("a reply");
                    }
                    request.reply(b"\xff").expect("a reply");
                }
                other => {
                    let twice = [other, other].concat();
                    request.reply(&twice).expect("a reply");
                }
            }
        }
    });
    let deadline = Moment::now() + crate::client::LIMIT;
    // It is found within a moment.
    let mut answer = ask(at, "POST", "/v1/request/double?timeout=5s", &[], b"ab");
    while answer.status == 503 && Moment::now() < deadline {
        answer = ask(at, "POST", "/v1/request/double?timeout=5s", &[], b"ab");
    }
    assert_eq!((answer.status, answer.text().as_str()), (200, "abab"));
    let trace = format!("traceparent: {TRACE}");
    let who = ask(at, "POST", "/v1/request/double", &["busway-id: new", &trace], b"who");
    assert_eq!((who.status, who.text()), (200, format!("{} {TRACE}", who.headers["busway-id"])));
    let late = ask(at, "POST", "/v1/request/double?timeout=50ms", &[], b"silence");
    assert_eq!((late.status, late.code().as_str()), (504, "BUS-0402"));
    for wrong in ["timeout=1h", "timeout=61s", "timeout=", "other=1"] {
        assert_eq!(ask(at, "POST", &format!("/v1/request/double?{wrong}"), &[], b"x").status, 400, "{wrong}");
    }
    // Many at once share a requester, and each gets its own.
    let many: Vec<_> = (0..40)
        .map(|number: u32| {
            std::thread::spawn(move || {
                let body = format!("{number};");
                let answer = ask(at, "POST", "/v1/request/double", &[], body.as_bytes());
                assert_eq!((answer.status, answer.text()), (200, body.repeat(2)));
            })
        })
        .collect();
    many.into_iter().for_each(|thread| thread.join().expect("answered"));
    let stream = ask(at, "POST", "/v1/request/double", &["accept: text/event-stream"], b"three");
    assert_eq!(stream.status, 200);
    let text = stream.text();
    let events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events, ["reply", "reply", "reply", "end"]);
    assert!(
        text.contains("\"index\":1")
            && text.contains("\"body\":\"b\"")
            && text.contains("\"body_base64\":\"/w==\"")
    );
    ask(at, "POST", "/v1/request/double?timeout=30s", &[], b"end");
    server.join().expect("it ends");
    until_room_is_given_back(at);
}

/// Who asked has its answer a moment before its place is another's.
fn until_room_is_given_back(at: SocketAddr) {
    let deadline = Moment::now() + crate::client::LIMIT;
    while metric(at, "busway_http_ingress_requests") > 0 {
        assert!(Moment::now() < deadline, "room is given back");
    }
}

#[test]
fn health_topics_and_metrics_are_told() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let _publisher = bus.publisher("price.tick").open().expect("a publisher");
    assert_eq!(get(at, "/healthz").json()["ok"], true);
    assert_eq!(get(at, "/readyz").json()["ok"], true);
    let listed = get(at, "/v1/topics").json();
    assert_eq!(listed["topics"][0]["topic"], "price.tick");
    let metrics = get(at, "/metrics");
    assert!(metrics.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    assert!(metrics.text().contains("busway_messages_sent_total{"));
    let unknown = get(at, "/v2/publish/x");
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "BUS-0114"));
    let other = ask(at, "PUT", "/v1/publish/x", &[], b"x");
    assert_eq!((other.status, other.code().as_str()), (405, "BUS-0113"));
    bus.close();
    assert_eq!(get(at, "/readyz").status, 503);
}
