//! Streams of messages: what a reader is given, and given when it comes back.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use busway_http::HttpConfig;
use serde_json::Value;

use crate::client::{Events, Moment, Place, ask, connect, get, head, open};

#[test]
fn a_reader_that_comes_back_goes_on_where_it_was_also_after_the_node_was_started_anew() {
    let place = Place::new();
    // The publisher is a program of its own, and lives on.
    let program = place.bus();
    let mut publisher = program.publisher("news.one").history(1_000).open().expect("a publisher");
    publisher.send(b"before anybody asked").expect("sent");
    let (mut seen, mut id) = (Vec::new(), None::<String>);
    for round in 0..4 {
        let node = place.bus();
        let http = open(&node, HttpConfig::default());
        let at = http.addresses()[0];
        let last = id.clone().map(|id| format!("Last-Event-ID: {id}"));
        let mut events = Events::open(
            at,
            "/v1/subscribe/news.*",
            &last.as_slice().iter().map(String::as_str).collect::<Vec<_>>(),
        );
        let ready = events.next().expect("it is ready");
        assert_eq!((events.status, ready.name.as_str()), (200, "ready"));
        id = Some(ready.id);
        for number in 0..25 {
            publisher.send(format!("{round}.{number}").as_bytes()).expect("sent");
        }
        // What was sent while nobody served comes first.
        let due = if round == 0 { 25 } else { 50 };
        for _ in 0..due {
            let event = events.next().expect("an event");
            assert_eq!(event.name, "message", "{event:?}");
            seen.push(event.data["body"].as_str().expect("text").to_owned());
            id = Some(event.id);
        }
        drop(http);
        assert_eq!(events.next().map(|event| event.name).as_deref(), Some("end"), "the reader is told");
        drop(node);
        for number in 25..50 {
            publisher.send(format!("{round}.{number}").as_bytes()).expect("sent");
        }
    }
    let all = (0..4).flat_map(|round| (0..50).map(move |number| format!("{round}.{number}")));
    assert_eq!(seen, all.take(175).collect::<Vec<_>>());
    println!("evidence: starts=4 messages=175 lost=0 twice=0");
}

#[test]
fn what_was_not_kept_for_a_reader_that_was_away_is_told_as_lost() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut publisher = bus.publisher("news.one").slots_max(32).history(4).open().expect("a publisher");
    let mut events = Events::open(at, "/v1/subscribe/news.>", &[]);
    events.wait("ready");
    publisher.send(b"first").expect("sent");
    let first = events.next().expect("it came");
    drop(events);
    for number in 0..500 {
        publisher.send(format!("{number}").as_bytes()).expect("sent");
    }
    let last = format!("last-event-id: {}", first.id);
    let mut events = Events::open(at, "/v1/subscribe/news.>", &[&last]);
    events.wait("ready");
    let lost = events.next().expect("it is told");
    assert_eq!((lost.name.as_str(), &lost.data["cause"]), ("lost", &Value::from("not_kept")));
    let next = events.next().expect("and what was kept follows");
    let (from, to) = (lost.data["from"].as_u64().expect("from"), lost.data["to"].as_u64().expect("to"));
    assert_eq!((from, to + 1), (2, next.data["sequence"].as_u64().expect("a sequence")));
    assert_eq!(lost.data["count"].as_u64(), Some(to + 1 - from));
    for wrong in ["v2", "v1,1", "x"] {
        let refused = ask(at, "GET", "/v1/subscribe/a", &[&format!("last-event-id: {wrong}")], &[]);
        assert_eq!(refused.status, 400, "{wrong}");
    }
    // Without an id nothing of before comes, and with `history` so much.
    let mut events = Events::open(at, "/v1/subscribe/news.>?history=2", &[]);
    assert_eq!(events.bodies(2), ["498", "499"]);
}

#[test]
fn a_reader_that_is_slow_is_told_what_it_lost_and_holds_up_nobody() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let mut publisher = bus.publisher("flood").slots_max(64).bytes_max(1 << 20).open().expect("a publisher");
    let mut events = Events::open(http.addresses()[0], "/v1/subscribe/flood", &[]);
    events.wait("ready");
    let body = vec![b'x'; 16 << 10];
    // The reader reads nothing meanwhile: the kernel's buffers fill, and then its place in the ring.
    let count = 4_000_u64;
    for _ in 0..count {
        publisher.try_send(&body).expect("nobody is waited for");
    }
    publisher.send(b"last").expect("sent");
    let (mut got, mut lost) = (0, 0);
    loop {
        let event = events.next().expect("the stream goes on");
        match event.name.as_str() {
            "lost" => lost += event.data["count"].as_u64().expect("a count"),
            _ => got += 1,
        }
        if event.data["body"] == "last" {
            break;
        }
    }
    assert_eq!(got + lost, count + 1);
    assert!(lost > 0, "a reader this slow loses some");
    println!("evidence: sent={} read={got} told_as_lost={lost}", count + 1);
}

#[test]
fn a_message_that_is_larger_than_a_body_may_be_is_told_as_lost_and_takes_no_memory() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig { body_bytes_max: 1_000, ..HttpConfig::default() });
    let at = http.addresses()[0];
    let mut publisher = bus.publisher("news.one").open().expect("a publisher");
    let mut events = Events::open(at, "/v1/subscribe/news.*", &[]);
    events.wait("ready");
    publisher.send(&[b'x'; 1_001]).expect("sent");
    publisher.send(&[b'x'; 1_000]).expect("sent");
    let lost = events.next().expect("it is told");
    assert_eq!((lost.name.as_str(), &lost.data["cause"]), ("lost", &Value::from("too_large")));
    assert_eq!((&lost.data["from"], &lost.data["to"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(events.next().expect("it came").data["size"], 1_000);
    let mut responder = bus.responder("large").open().expect("a responder");
    let asked = std::thread::spawn(move || {
        let deadline = Moment::now() + crate::client::LIMIT;
        loop {
            let answer = ask(at, "POST", "/v1/request/large", &[], b"x");
            if answer.status != 503 || Moment::now() > deadline {
                return answer;
            }
        }
    });
    responder
        .recv_timeout(crate::client::LIMIT)
        .expect("a bus")
        .expect("a request")
        .reply(&[b'y'; 1_001])
        .expect("it is waited for");
    let answer = asked.join().expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (502, "BUS-0107"));
}

fn upgrade(at: SocketAddr, path: &str, headers: &[&str]) -> (TcpStream, u16, String) {
    let mut stream = connect(at);
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for line in headers {
        text.push_str(&format!("{line}\r\n"));
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).expect("it is read");
    // Byte by byte: what follows the head is not to be lost in a buffer.
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a head") == 1 {
        bytes.push(byte[0]);
    }
    let (status, headers) = head(&mut BufReader::new(&bytes[..]));
    (stream, status, headers.get("sec-websocket-accept").cloned().unwrap_or_default())
}

/// The kind and the payload of the next frame.
pub(crate) fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame");
    let mut len = u64::from(head[1]);
    if len >= 126 {
        let mut more = vec![0; if len == 126 { 2 } else { 8 }];
        stream.read_exact(&mut more).expect("its length");
        len = more.iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
    }
    let mut payload = vec![0; usize::try_from(len).expect("short")];
    stream.read_exact(&mut payload).expect("its payload");
    (head[0], payload)
}

#[test]
fn a_web_socket_gives_what_a_stream_of_events_gives() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut publisher = bus.publisher("news.one").history(100).open().expect("a publisher");
    let (mut socket, status, accept) = upgrade(at, "/v1/subscribe/news.*", &[]);
    // The example of the RFC.
    assert_eq!((status, accept.as_str()), (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let json = |frame: (u8, Vec<u8>)| -> Value {
        assert_eq!(frame.0, 0x81);
        serde_json::from_slice(&frame.1).expect("JSON")
    };
    assert_eq!(json(frame(&mut socket))["event"], "ready");
    let large = "y".repeat(70_000);
    publisher.send(b"one").expect("sent");
    publisher.send(large.as_bytes()).expect("sent");
    let first = json(frame(&mut socket));
    assert_eq!((&first["event"], &first["data"]["body"]), (&Value::from("message"), &Value::from("one")));
    assert_eq!(json(frame(&mut socket))["data"]["body"].as_str().map(str::len), Some(70_000));
    // A ping is answered, masked as every frame of a reader is.
    socket.write_all(&[0x89, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2]).expect("it is read");
    assert_eq!(frame(&mut socket), (0x8a, b"hi".to_vec()));
    socket.write_all(&[0x88, 0x80, 1, 2, 3, 4]).expect("it is read");
    assert_eq!(frame(&mut socket).0, 0x88);
    assert_eq!(socket.read(&mut [0]).expect("an end"), 0);
    // It comes back, and says where it was in the path.
    let path =
        format!("/v1/subscribe/news.*?last_event_id={}", first["last_event_id"].as_str().expect("an id"));
    let (mut socket, status, _) = upgrade(at, &path, &[]);
    assert_eq!((status, json(frame(&mut socket))["event"].as_str()), (101, Some("ready")));
    assert_eq!(json(frame(&mut socket))["data"]["sequence"], 2);
    drop(http);
    assert_eq!(frame(&mut socket), (0x88, vec![0x03, 0xe9]), "going away");
}

#[test]
fn whatever_is_sent_over_a_web_socket_ends_it_at_its_first_byte() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let endless = [0x01, 0x80, 0, 0, 0, 0].to_vec();
    let part = [0x00, 0x81, 0, 0, 0, 0, b'x'].repeat(1_000);
    for (what, bytes, status) in [
        ("fragments without end", [endless, part].concat(), 1003),
        (
            "a message of 2^63 bytes",
            vec![0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0],
            1003,
        ),
        ("a ping that is not masked", vec![0x89, 0x01, b'x'], 1002),
        ("a ping that is too long", vec![0x89, 0xfe, 0x01, 0x00, 0, 0, 0, 0], 1002),
        ("a reserved bit", vec![0xc9, 0x80, 0, 0, 0, 0], 1002),
    ] {
        let (mut socket, status_of_head, _) = upgrade(at, "/v1/subscribe/a", &[]);
        assert_eq!(status_of_head, 101);
        assert_eq!(frame(&mut socket).0, 0x81);
        let _ = socket.write_all(&bytes);
        let (kind, payload) = frame(&mut socket);
        assert_eq!((kind, u16::from(payload[0]) << 8 | u16::from(payload[1])), (0x88, status), "{what}");
    }
    let closed = |name: &str| crate::client::metric(at, name) == 0;
    let deadline = Moment::now() + crate::client::LIMIT;
    while !closed("busway_http_streams") && Moment::now() < deadline {}
    assert!(closed("busway_http_streams"), "nothing of them is left");
    assert_eq!(upgrade(at, "/v1/subscribe/a", &["origin: http://evil.example"]).1, 403);
    let old = ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 8"];
    assert_eq!(ask(at, "GET", "/v1/subscribe/a", &old, &[]).status, 400);
    assert_eq!(get(at, "/healthz").status, 200);
}

#[test]
fn streams_have_a_bound_and_one_that_ends_makes_room() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig { streams_max: 2, ..HttpConfig::default() });
    let at = http.addresses()[0];
    let first = Events::open(at, "/v1/subscribe/a", &[]);
    let second = Events::open(at, "/v1/subscribe/a", &[]);
    assert_eq!((first.status, second.status), (200, 200));
    let refused = ask(at, "GET", "/v1/subscribe/a", &[], &[]);
    assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (429, "1"));
    assert_eq!(refused.code(), "BUS-0417");
    drop(first);
    let deadline = Moment::now() + crate::client::LIMIT;
    while Events::open(at, "/v1/subscribe/a", &[]).status != 200 {
        assert!(Moment::now() < deadline, "room is given back");
    }
}
