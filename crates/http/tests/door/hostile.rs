//! What strangers try: too much, too slowly, too often, and under another name.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::mpsc;
use std::time::Duration;

use busway_http::HttpConfig;
use busway_http::limits::{BODY_TIME, HEADER_BYTES_MAX, HEADER_TIME, HEADERS_MAX};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, SocketType, bind, socket};

use crate::client::{Answer, LIMIT, Moment, Place, answer, ask, connect, get, metric, open, raw, request};

/// A request whose body is asked for, and has not come.
fn begin(at: SocketAddr, topic: &str) -> TcpStream {
    let mut stream = connect(at);
    let expects = ["expect: 100-continue"];
    let all = request("POST", &format!("/v1/request/{topic}?timeout=60s"), &expects, b"x");
    stream.write_all(&all[..all.len() - 1]).expect("it is read");
    let mut told = [0; 25];
    stream.read_exact(&mut told).expect("it is told");
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

/// Its body, and the answer.
fn go_on(mut stream: TcpStream) -> Answer {
    stream.write_all(b"x").expect("it is read");
    answer(stream)
}

#[test]
fn of_more_requests_than_may_be_under_way_each_is_answered_or_told_when_to_come_again() {
    let place = Place::new();
    let bus = place.bus();
    let in_flight = 20_u32;
    let http = open(&bus, HttpConfig { in_flight, ..HttpConfig::default() });
    let at = http.addresses()[0];
    // A topic has half of them. Nothing is answered before that is told.
    let (mut go, mut servers) = (Vec::new(), Vec::new());
    for topic in ["slow.0", "slow.1"] {
        let mut responder = bus.responder(topic).open().expect("a responder");
        let (tell, told) = mpsc::channel::<()>();
        go.push(tell);
        servers.push(std::thread::spawn(move || {
            let mut kept = Vec::new();
            while kept.len() < in_flight as usize / 2 {
                kept.push(responder.recv().expect("a request"));
            }
            told.recv().expect("it is told");
            kept.into_iter().for_each(|request| request.reply(b"done").expect("it is waited for"));
        }));
    }
    let asking = |numbers: Range<u32>, topics: u32| -> Vec<_> {
        let one = move |number| {
            let path = format!("/v1/request/slow.{}?timeout=60s", number % topics);
            std::thread::spawn(move || ask(at, "POST", &path, &[], b"x"))
        };
        numbers.map(one).collect()
    };
    let under_way = |count: u32| {
        let deadline = Moment::now() + LIMIT;
        while metric(at, "busway_http_ingress_requests") < count.into() {
            assert!(Moment::now() < deadline, "{count} are under way");
        }
    };
    let mut first = asking(0..in_flight - 1, 2);
    under_way(in_flight - 1);
    // Of a third topic none is under way: only the bound of all refuses those. Three are told to go on while there is a place.
    let begun: Vec<TcpStream> = (0..3).map(|_| begin(at, "slow.2")).collect();
    first.extend(asking(in_flight - 1..in_flight, 2));
    under_way(in_flight);
    let more = asking(0..60, 3).into_iter().map(|thread| thread.join().expect("an answer"));
    let more: Vec<_> = begun.into_iter().map(go_on).chain(more).collect();
    for answer in &more {
        assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (429, "1"), "{answer:?}");
        assert_eq!(answer.code(), "BUS-0417");
    }
    // What is not of the flow is answered all the while.
    assert_eq!(get(at, "/healthz").status, 200);
    go.iter().for_each(|go| go.send(()).expect("it waits"));
    let answered = first.into_iter().filter(|_| true).map(|thread| thread.join().expect("an answer"));
    let answered = answered.filter(|answer| answer.status == 200).count();
    servers.into_iter().for_each(|server| server.join().expect("it ends"));
    assert_eq!(answered, in_flight as usize);
    assert_eq!(metric(at, "busway_http_refused_total{cause=\"requests\"}"), 63);
    let all = ["answered_total", "broken_off_total", "under_way"]
        .map(|name| metric(at, &format!("busway_http_{name}")));
    // The last two questions were asked after those before them were answered.
    let requests = metric(at, "busway_http_requests_total");
    assert!(requests >= all[0] + all[1] + 63, "{requests} {all:?}");
    assert_eq!(metric(at, "busway_http_ingress_requests"), 0);
    println!("evidence: sent=83 answered={answered} refused=63 in_flight=0");
}

#[test]
fn the_account_of_requests_closes_whatever_becomes_of_them() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut responder = bus.responder("silent").open().expect("a responder");
    for number in 0..30 {
        match number % 3 {
            0 => assert_eq!(ask(at, "POST", "/v1/publish/a", &[], b"x").status, 200),
            1 => assert_eq!(ask(at, "POST", "/v1/publish/a..b", &[], b"x").status, 400),
            _ => {
                // It goes while it is waited for.
                let mut stream = connect(at);
                let request = request("POST", "/v1/request/silent?timeout=60s", &[], b"x");
                stream.write_all(&request).expect("it is read");
                let asked = responder.recv_timeout(LIMIT).expect("a bus").expect("a request");
                drop(stream);
                let deadline = Moment::now() + LIMIT;
                while metric(at, "busway_http_ingress_requests") > 0 {
                    assert!(Moment::now() < deadline, "who has gone is waited for no more");
                }
                drop(asked);
            }
        }
    }
    // What it has of the flow is given back before it is counted.
    let deadline = Moment::now() + LIMIT;
    let of = |name: &str| -> u64 {
        let text = http.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("busway_http_{name} ")));
        line.expect("it is told").parse().expect("a number")
    };
    while of("under_way") > 0 {
        assert!(Moment::now() < deadline, "each is counted");
    }
    assert_eq!((of("broken_off_total"), of("refused_total{cause=\"wrong\"}")), (10, 10));
    assert_eq!(of("requests_total"), of("answered_total") + 20);
}

#[test]
fn bytes_that_are_under_way_have_a_bound_for_all_together() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig { bytes: 100_000, body_bytes_max: 80_000, ..HttpConfig::default() });
    let at = http.addresses()[0];
    let mut slow = connect(at);
    // All but its last byte.
    let all = request("POST", "/v1/publish/a", &[], &[b'x'; 70_000]);
    slow.write_all(&all[..all.len() - 1]).expect("read");
    let deadline = Moment::now() + LIMIT;
    while metric(at, "busway_http_ingress_bytes") != 70_000 {
        assert!(Moment::now() < deadline, "what has come is charged");
    }
    let refused = ask(at, "POST", "/v1/publish/a", &[], &[b'y'; 40_000]);
    assert_eq!((refused.status, refused.code().as_str()), (429, "BUS-0417"));
    assert_eq!(ask(at, "POST", "/v1/publish/a", &[], &[b'y'; 20_000]).status, 200);
    drop(slow);
    let deadline = Moment::now() + LIMIT;
    while metric(at, "busway_http_ingress_bytes") != 0 {
        assert!(Moment::now() < deadline, "it is given back");
    }
    assert_eq!(ask(at, "POST", "/v1/publish/a", &[], &[b'y'; 40_000]).status, 200);
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_has_come() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig { body_bytes_max: 1_000, ..HttpConfig::default() });
    let at = http.addresses()[0];
    // Only the head is sent.
    let head = b"POST /v1/publish/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1001\r\n\r\n";
    let refused = raw(at, head);
    assert_eq!((refused.status, refused.code().as_str()), (413, "BUS-0107"));
    let endless = [
        &b"POST /v1/publish/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"[..],
        &b"100\r\n".iter().copied().chain([b'z'; 256]).chain(*b"\r\n").collect::<Vec<u8>>().repeat(4),
    ]
    .concat();
    assert_eq!(raw(at, &endless).status, 413);
    assert_eq!(ask(at, "POST", "/v1/publish/a", &[], &[b'y'; 1_000]).status, 200);
    assert_eq!(metric(at, "busway_http_ingress_bytes"), 0);
    // What can never have room is not told to come again.
    let small = open(&bus, HttpConfig { body_bytes_max: 1_000, bytes: 500, ..HttpConfig::default() });
    let publish =
        |size: usize| ask(small.addresses()[0], "POST", "/v1/publish/a", &[], &vec![b'y'; size]).status;
    assert_eq!((publish(501), publish(500)), (413, 200));
}

#[test]
fn who_is_refused_while_it_sends_a_large_body_reads_why() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig { body_bytes_max: 1_000, ..HttpConfig::default() });
    let at = http.addresses()[0];
    let all = request("POST", "/v1/publish/a", &[], &vec![b'x'; 1 << 20]);
    for _ in 0..20 {
        let mut stream = connect(at);
        // It waits for each part to be taken.
        set_socket_send_buffer_size(&stream, 8 << 10).expect("a buffer");
        stream.write_all(&all).expect("what is on the way is taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it ends by itself");
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("BUS-0107"), "{answer}");
    }
    // Who neither sends nor closes is closed all the same.
    let mut silent = connect(at);
    silent.write_all(&all[..10_000]).expect("it is read");
    let deadline = Moment::now() + LIMIT;
    while metric(at, "busway_http_connections") > 1 {
        assert!(Moment::now() < deadline, "it is waited for");
    }
    println!("evidence: refused=20 read_why=20");
}

#[test]
fn a_reader_whose_place_cannot_be_read_is_told_so_and_does_not_begin_anew() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    for id in [&b"\xff\xfe"[..], b"v1,zzz", b"v2", b"v1,1.99999999999999999999"] {
        let head =
            [b"GET /v1/subscribe/a HTTP/1.1\r\nhost: localhost\r\nlast-event-id: ", id, b"\r\n\r\n"].concat();
        let mut stream = connect(http.addresses()[0]);
        stream.write_all(&head).expect("it is read");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 400", "{id:?}");
    }
}

#[test]
fn heads_without_end_are_refused() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let head = |lines: String| format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n");
    let long = head(format!("x: {}\r\n", "y".repeat(4 * HEADER_BYTES_MAX)));
    let many: String = (0..HEADERS_MAX + 1).map(|number| format!("x{number}: y\r\n")).collect();
    let path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "z".repeat(4 * HEADER_BYTES_MAX));
    for (what, bytes, wanted) in [
        ("a long line", long, vec![431]),
        ("many lines", head(many), vec![431]),
        ("a long path", path, vec![414, 431]),
    ] {
        let mut stream = connect(at);
        // It may be closed before all has been sent.
        let _ = stream.write_all(bytes.as_bytes());
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("{what}: {error}"));
        let status = String::from_utf8_lossy(&answer[9..]).parse::<u16>().expect("a status");
        assert!(wanted.contains(&status), "{what}: {status}");
    }
    for bytes in
        [&b"\x16\x03\x01\x02\x00"[..], b"SSH-2.0-x\r\n\r\n", b"GET / HTTP/3.0\r\n\r\n", b"\0\0\0\0\r\n\r\n"]
    {
        let mut stream = connect(at);
        stream.write_all(bytes).expect("it is read");
        // Refused, or nothing at all; and closed.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 400") || rest.starts_with(b"HTTP/1.1 505"),
            "{bytes:?}"
        );
    }
    assert_eq!(get(at, "/healthz").status, 200);
}

#[test]
fn who_sends_a_head_or_a_body_byte_by_byte_is_cut_off_in_its_time() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let trickle = |first: &'static [u8], rest: &'static [u8], most: Duration| {
        std::thread::spawn(move || {
            let began = Moment::now();
            let mut stream = connect(at);
            stream.write_all(first).expect("it is read");
            stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
            let mut answer = Vec::new();
            let mut bytes = rest.iter().cycle();
            while began.elapsed() < most + LIMIT {
                let mut part = [0; 512];
                match stream.read(&mut part) {
                    Ok(0) => return (began.elapsed(), answer),
                    Ok(count) => answer.extend_from_slice(&part[..count]),
                    // Who has nothing to send says nothing.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        let byte: Vec<u8> = bytes.next().copied().into_iter().collect();
                        if stream.write_all(&byte).is_err() {
                            // It may have been told why since it looked.
                            let _ = stream.read_to_end(&mut answer);
                            return (began.elapsed(), answer);
                        }
                    }
                    Err(_) => return (began.elapsed(), answer),
                }
            }
            panic!("it is never cut off");
        })
    };
    let head = trickle(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n", b"x: yyyyyyyyyyy\r\n", HEADER_TIME);
    let silent = trickle(b"", b"", HEADER_TIME);
    let body = trickle(
        b"POST /v1/publish/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n",
        b"z",
        BODY_TIME,
    );
    let (after, answer) = silent.join().expect("it is cut off");
    assert!(after >= HEADER_TIME - Duration::from_millis(100), "{after:?}");
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
    let (after, _) = head.join().expect("it is cut off");
    assert!(after >= HEADER_TIME - Duration::from_millis(100), "{after:?}");
    let (after, answer) = body.join().expect("it is cut off");
    assert!(after >= BODY_TIME - Duration::from_millis(100), "{after:?}");
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(get(at, "/healthz").status, 200);
}

/// Connects from this address of the loopback interface.
fn connect_from(from: Ipv4Addr, at: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddr::from((from, 0))).expect("it is ours");
    rustix::net::connect(&socket, &at).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
    stream
}

#[test]
fn one_connection_more_than_may_be_or_than_an_address_may_have_is_told_so_and_one_that_ends_makes_room() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig { connections_max: 8, ..HttpConfig::default() });
    let at = http.addresses()[0];
    let [greedy, other, third] = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let hold = |from: Ipv4Addr| {
        // One that is used: who says nothing between two requests is closed soon.
        let mut stream = connect_from(from, at);
        stream.write_all(b"GET /v1/subscribe/a HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("read");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    };
    let refused = |from: Ipv4Addr, status: &str| {
        let mut told = String::new();
        let _ = connect_from(from, at).read_to_string(&mut told);
        assert!(told.starts_with(status) && told.contains("retry-after: 1"), "{told}");
    };
    let mut held: Vec<_> = (0..4).map(|_| hold(greedy)).collect();
    refused(greedy, "HTTP/1.1 429");
    held.extend((0..4).map(|_| hold(other)));
    refused(third, "HTTP/1.1 503");
    refused(other, "HTTP/1.1 429");
    held.clear();
    let deadline = Moment::now() + LIMIT;
    loop {
        let mut stream = connect(at);
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut told = String::new();
        let _ = stream.read_to_string(&mut told);
        if told.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(Moment::now() < deadline, "room is given back");
    }
    let text = http.metrics();
    let refused = text.lines().find_map(|line| line.strip_prefix("busway_http_connections_refused_total "));
    assert!(refused.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count >= 3)), "{refused:?}");
    println!("evidence: connections=8 of_one_address=4 refused={refused:?}");
}

#[test]
fn a_page_of_another_origin_and_a_name_that_is_not_ours_are_refused() {
    let place = Place::new();
    let bus = place.bus();
    let config = HttpConfig {
        hosts: vec!["bus.example".to_owned()],
        origins: vec!["https://board.example".to_owned()],
        ..HttpConfig::default()
    };
    let http = open(&bus, config);
    let at = http.addresses()[0];
    let own = format!("host: {at}");
    let own_page = format!("origin: http://{at}");
    for (headers, wanted) in [
        (vec!["host: localhost"], 200),
        (vec!["host: LOCALHOST:99"], 200),
        (vec![own.as_str()], 200),
        (vec!["host: bus.example"], 200),
        (vec!["host: evil.example"], 421),
        (vec!["host: localhost.evil.example"], 421),
        (vec!["host: 127.0.0.1.evil.example"], 421),
        (vec!["host: 127.0.0.2"], 421),
        (vec!["host: 0.0.0.0"], 421),
        (vec!["host: [::1]"], 421),
        (vec!["host: localhost@evil.example"], 400),
        (vec!["host: "], 400),
        (vec!["host: localhost", "host: evil.example"], 400),
        (vec![own.as_str(), own_page.as_str()], 200),
        (vec!["origin: https://board.example"], 200),
        (vec!["origin: https://board.example.evil.example"], 403),
        (vec!["origin: http://board.example"], 403),
        (vec!["origin: http://localhost:3000"], 403),
        (vec!["origin: null"], 403),
        (vec!["sec-fetch-site: same-origin"], 200),
        (vec!["sec-fetch-site: none"], 200),
        (vec!["sec-fetch-site: cross-site"], 403),
        (vec!["sec-fetch-site: same-site"], 403),
    ] {
        for path in ["/v1/topics", "/healthz", "/metrics", "/openapi.json", "/nothing"] {
            let answer = ask(at, "GET", path, &headers, &[]);
            let wanted = if path == "/nothing" && wanted == 200 { 404 } else { wanted };
            assert_eq!(answer.status, wanted, "{path} {headers:?}");
        }
    }
    assert_eq!(raw(at, b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n").status, 400, "no Host");
    let other =
        raw(at, b"GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert_eq!(other.status, 400, "another name in the first line");
    // What a page may send is told to one that is listed, and to no other.
    let asked = ["origin: https://board.example", "access-control-request-method: POST"];
    let preflight = ask(at, "OPTIONS", "/v1/publish/a", &asked, &[]);
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.headers["access-control-allow-origin"], "https://board.example");
    assert!(preflight.headers["access-control-allow-headers"].contains("last-event-id"));
    let refused = ask(at, "OPTIONS", "/v1/publish/a", &["origin: https://evil.example"], &[]);
    assert_eq!(refused.status, 403);
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
    assert!(metric(at, "busway_http_refused_total{cause=\"origin\"}") > 50);
}
