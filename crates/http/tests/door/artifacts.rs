//! Artifacts over HTTP: put, got whole and in parts, as they arrive, within bounds, and by nobody who may not.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use busway::artifacts::{ArtifactId, Event};
use busway::{Acl, AclRule, Node, Tokens};
use busway_http::limits::{BODY_TIME, STALL, TRANSFER_BYTES_PER_S_MIN, TRANSFER_GRACE, UPLOADS_MAX};
use busway_http::{Http, HttpConfig};

use crate::client::{Answer, LIMIT, Moment, Place, ask, connect, get, head, metric, open, raw};

/// Bytes that nothing else has.
fn body(size: usize, seed: u64) -> Vec<u8> {
    let mut body = vec![0; size];
    fastrand::Rng::with_seed(seed).fill(&mut body);
    body
}

fn put(at: SocketAddr, topic: &str, body: &[u8]) -> Answer {
    ask(at, "PUT", &format!("/v1/artifacts/{topic}"), &[], body)
}

fn of(at: SocketAddr, method: &str, name: &str, headers: &[&str]) -> Answer {
    ask(at, method, &format!("/v1/artifacts/{name}"), headers, &[])
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Moment::now() + LIMIT;
    while !done() {
        assert!(Moment::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Gets an artifact by this name in every way; in how many parts.
fn got(at: SocketAddr, name: &str, topic: &str, (id, bytes): (&str, &[u8])) -> u32 {
    let (tag, size, mut parts) = (format!("\"{id}\""), bytes.len(), 0);
    let whole = of(at, "GET", name, &[]);
    assert_eq!((whole.status, whole.body == bytes), (200, true), "{name}");
    assert_eq!(whole.headers["content-length"], size.to_string());
    let wanted = [
        ("etag", tag.as_str()),
        ("accept-ranges", "bytes"),
        ("busway-topic", topic),
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
    ];
    for (header, value) in wanted {
        assert_eq!(whole.headers[header], value);
    }
    // It takes a moment to be handed out, which is seldom as long as that between two looks for it.
    for _ in 0..if size < 10_000 { 200 } else { 1 } {
        let at_once = get(at, &format!("/v1/artifacts/{name}?timeout=0s"));
        assert_eq!((at_once.status, at_once.body == bytes), (200, true), "what is here needs no time");
    }
    let head = of(at, "HEAD", name, &[]);
    assert_eq!((head.status, &head.headers["content-length"], head.body.len()), (200, &size.to_string(), 0));
    assert_eq!(head.headers["etag"], tag);
    let had = of(at, "GET", name, &[&format!("if-none-match: {tag}")]);
    assert_eq!((had.status, had.body.len()), (304, 0));
    if size == 0 {
        return 0;
    }
    for (range, from, to) in [
        (format!("bytes={}-", size / 2), size / 2, size),
        ("bytes=1-999".to_owned(), 1, 1_000),
        ("bytes=-7".to_owned(), size - 7, size),
        (format!("bytes=100-{}", u128::MAX), 100, size),
    ] {
        let part = of(at, "GET", name, &[&format!("range: {range}"), &format!("if-range: {tag}")]);
        assert_eq!((part.status, part.body == bytes[from..to]), (206, true), "{range}");
        assert_eq!(part.headers["content-range"], format!("bytes {from}-{}/{size}", to - 1));
        parts += 1;
    }
    let beyond = of(at, "GET", name, &[&format!("range: bytes={size}-")]);
    assert_eq!((beyond.status, &beyond.headers["content-range"]), (416, &format!("bytes */{size}")));
    let other = of(at, "GET", name, &["range: bytes=1-2", "if-range: \"another\""]);
    assert_eq!((other.status, other.body.len()), (200, size));
    parts
}

#[test]
fn what_is_put_is_got_by_its_id_and_its_topic_whole_and_in_parts_until_it_is_withdrawn() {
    let place = Place::new();
    let bus = place.bus();
    let _node = Node::builder().open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut subscriber = bus.artifacts("image.*").expect("a node").subscriber().open().expect("a subscriber");
    let mut parts = 0;
    for (topic, size) in
        [("image.none", 0), ("image.small", 1_000), ("image.whole", 256 << 10), ("image.large", 3_000_001)]
    {
        let bytes = body(size, size as u64);
        let answer = ask(at, "PUT", &format!("/v1/artifacts/{topic}?attribute=a+cat"), &[], &bytes);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        let tag = format!("\"{id}\"");
        assert_eq!(answer.json()["size"], size);
        assert_eq!(answer.headers["etag"], tag);
        let artifact = loop {
            match subscriber.recv_timeout(LIMIT).expect("a node").expect("subscribers are given it") {
                Event::Received(artifact) if artifact.advert().id().to_string() == id => break artifact,
                _ => {}
            }
        };
        assert_eq!(artifact.advert().attribute(), b"a cat");
        assert_eq!(artifact.bytes().expect("it is here")[..], bytes);
        // Once more is the same.
        assert_eq!(put(at, topic, &bytes).json()["id"], id.as_str());
        parts += got(at, &id, topic, (&id, &bytes)) + got(at, topic, topic, (&id, &bytes));
    }
    let listed = get(at, "/v1/artifacts?pattern=image.*").json();
    assert_eq!((listed["artifacts"].as_array().map(Vec::len), &listed["more"]), (Some(4), &false.into()));
    assert_eq!(
        (&listed["artifacts"][0]["attribute"], &listed["artifacts"][0]["own"]),
        (&"a cat".into(), &true.into())
    );
    put(at, "image.small", b"another");
    let several = of(at, "GET", "image.small", &[]);
    assert_eq!((several.status, several.code().as_str()), (409, "BUS-0113"));
    assert_eq!(metric(at, "busway_http_artifacts"), 5);
    assert_eq!(of(at, "DELETE", "image.small", &[]).json()["withdrawn"], 2);
    let id = ArtifactId::of(&body(256 << 10, 256 << 10)).to_string();
    assert_eq!(of(at, "DELETE", &id, &[]).json()["withdrawn"], 1);
    for name in [id.as_str(), "image.small"] {
        until("it is not offered any more", || of(at, "GET", name, &[]).status == 404);
        assert_eq!(of(at, "DELETE", name, &[]).status, 404);
    }
    assert_eq!(
        (metric(at, "busway_http_artifacts"), metric(at, "busway_http_artifacts_bytes")),
        (2, 3_000_001)
    );
    println!("evidence: artifacts=5 parts={parts} withdrawn=3");
}

/// A way between two nodes that lets so many bytes of what the second says through, and the rest when it is told.
fn gated(to: SocketAddr, most: usize) -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
    let at = listener.local_addr().expect("an address");
    let (open, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (near, _) = listener.accept().expect("a node connects");
        let far = TcpStream::connect(to).expect("a node listens");
        let (mut from, mut into) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
        std::thread::spawn(move || _ = std::io::copy(&mut from, &mut into));
        let (mut from, mut into) = (far, near);
        let _ = std::io::copy(&mut (&mut from).take(most as u64), &mut into);
        if told.recv().is_ok() {
            let _ = std::io::copy(&mut from, &mut into);
        }
    });
    (at, open)
}

#[test]
fn an_artifact_of_another_node_is_given_as_it_arrives_and_breaks_off_where_it_comes_no_more() {
    let bytes = body(8 << 20, 8);
    for ends_well in [true, false] {
        let (far, near) = (Place::new(), Place::new());
        let (far_bus, near_bus) = (far.bus(), near.bus());
        let origin =
            Node::builder().cluster("http").index(1).listen("127.0.0.1:0".parse().expect("an address"));
        let origin = origin.open(&far_bus).expect("a node");
        let (way, go) = gated(origin.listening()[0], 6 << 20);
        let node = Node::builder()
            .cluster("http")
            .index(0)
            .peer(1, &way.to_string())
            .open(&near_bus)
            .expect("a node");
        assert!(node.wait_for_peers(1, LIMIT));
        let http = open(&near_bus, HttpConfig::default());
        let at = http.addresses()[0];
        let offer = far_bus.artifacts("model").expect("a node").offer(&bytes).open().expect("offered");
        until("it is known", || of(at, "HEAD", "model", &[]).status == 200);
        let mut stream = connect(at);
        stream
            .write_all(
                format!(
                    "GET /v1/artifacts/{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
                    offer.id()
                )
                .as_bytes(),
            )
            .expect("it is read");
        let mut reader = BufReader::new(stream);
        let (status, headers) = head(&mut reader);
        assert_eq!((status, headers["content-length"].as_str()), (200, "8388608"));
        let mut got = vec![0; 256 << 10];
        reader.read_exact(&mut got).expect("the first bytes come before the last are there");
        let listed = get(at, "/v1/artifacts").json();
        assert_eq!(listed["artifacts"][0]["here"], false, "the rest is still with its origin");
        if ends_well {
            go.send(()).expect("it waits");
            reader.read_to_end(&mut got).expect("the rest");
            assert!(got == bytes);
        } else {
            drop((go, offer, origin));
            let _ = reader.read_to_end(&mut got);
            assert!(got.len() < bytes.len() && got == bytes[..got.len()], "a part of it, and no more");
        }
        until("nothing is on its way", || metric(at, "busway_http_transfers") == 0);
    }
    println!("evidence: given_before_whole=2 broken_off=1");
}

const READER: &str = "reader-token-2b7e";
const WRITER: &str = "writer-token-c14d";
const OTHER: &str = "other-token-90ab";

/// One who may read what is open, one who may write all, and one who may do nothing here.
fn guarded() -> HttpConfig {
    let mut tokens = Tokens::default();
    for (name, token) in [("reader", READER), ("writer", WRITER), ("other", OTHER)] {
        tokens.add(name, token).expect("a token");
    }
    let list = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let rule = |name: &str| AclRule { identity: format!("client/{name}"), ..AclRule::default() };
    let reader =
        AclRule { subscribe: list(&["image.*"]), deny_subscribe: list(&["image.secret"]), ..rule("reader") };
    let writer = AclRule { publish: list(&[">"]), ..rule("writer") };
    let other = AclRule { subscribe: list(&["elsewhere"]), publish: list(&["elsewhere"]), ..rule("other") };
    HttpConfig {
        tokens,
        acl: Some(Acl::new([reader, writer, other]).expect("rules")),
        ..HttpConfig::default()
    }
}

#[test]
fn who_may_not_subscribe_learns_of_no_artifact_and_who_may_not_publish_puts_and_withdraws_none() {
    let place = Place::new();
    let bus = place.bus();
    let _node = Node::builder().open(&bus).expect("a node");
    let http = open(&bus, guarded());
    let at = http.addresses()[0];
    let as_who = |token: &str, method: &str, path: &str, body: &[u8]| {
        ask(at, method, path, &[&format!("authorization: Bearer {token}")], body)
    };
    let mut ids = Vec::new();
    for (topic, bytes) in
        [("image.open", &b"open"[..]), ("image.secret", b"secret"), ("deep.secret", b"secret")]
    {
        let answer = as_who(WRITER, "PUT", &format!("/v1/artifacts/{topic}"), bytes);
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
    }
    let (open, secret) = (ids[0].clone(), ids[1].clone());
    // One that stands nowhere; for who may not know there is no difference.
    let nowhere = ArtifactId::of(b"nowhere").to_string();
    let same = |one: &Answer, other: &Answer| {
        (one.status, &one.body) == (other.status, &other.body) && one.headers.len() == other.headers.len()
    };
    let mut compared = 0;
    for (token, hidden) in
        [(READER, vec![&secret]), (OTHER, vec![&secret, &open]), (WRITER, vec![&secret, &open])]
    {
        for method in ["GET", "HEAD"] {
            for id in &hidden {
                let told = as_who(token, method, &format!("/v1/artifacts/{id}"), &[]);
                let none = as_who(token, method, &format!("/v1/artifacts/{nowhere}"), &[]);
                assert!(told.status == 404 && same(&told, &none), "{token} {method} {told:?} {none:?}");
                compared += 1;
            }
        }
        for topic in ["image.secret", "deep.secret"] {
            let there = as_who(token, "GET", &format!("/v1/artifacts/{topic}"), &[]);
            assert_eq!(there.status, 403, "whether something is there or not");
        }
        let list = as_who(token, "GET", "/v1/artifacts", &[]);
        let text = if list.status == 200 { list.text() } else { String::new() };
        assert!(!text.contains("secret") && !text.contains(&secret), "{token}: {text}");
        assert_eq!(text.contains(&open), token == READER, "{text}");
        let deep = as_who(token, "GET", "/v1/artifacts?pattern=deep.*", &[]);
        assert!(!deep.text().contains(&secret), "{token}: {}", deep.text());
    }
    for token in [READER, OTHER] {
        let told = as_who(token, "DELETE", &format!("/v1/artifacts/{open}"), &[]);
        assert!(same(&told, &as_who(token, "DELETE", &format!("/v1/artifacts/{nowhere}"), &[])), "{told:?}");
        for method in ["PUT", "DELETE"] {
            assert_eq!(as_who(token, method, "/v1/artifacts/image.open", b"other").status, 403);
        }
    }
    for path in ["/v1/artifacts", "/v1/artifacts/image.open"] {
        assert_eq!(get(at, path).status, 401);
    }
    assert_eq!(as_who(READER, "GET", &format!("/v1/artifacts/{open}"), &[]).body, b"open");
    // A topic of the bus is nobody's.
    for method in ["GET", "PUT", "DELETE"] {
        let status = as_who(WRITER, method, "/v1/artifacts/$artifact.x", b"x").status;
        assert!(matches!(status, 400 | 403), "{method} {status}");
    }
    println!("evidence: compared={compared} told=0");
}

#[test]
fn who_may_have_an_artifact_no_more_is_cut_off_in_its_midst() {
    let place = Place::new();
    let bus = place.bus();
    let _node = Node::builder().open(&bus).expect("a node");
    let http = open(&bus, guarded());
    let at = http.addresses()[0];
    let bytes = body(32 << 20, 32);
    let _offer = bus.artifacts("image.large").expect("a node").offer(&bytes).open().expect("offered");
    let mut stream = connect(at);
    stream.write_all(format!("GET /v1/artifacts/image.large HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {READER}\r\n\r\n").as_bytes()).expect("it is read");
    let mut reader = BufReader::new(stream);
    assert_eq!(head(&mut reader).0, 200);
    let mut tokens = Tokens::default();
    tokens.add("writer", WRITER).expect("a token");
    http.set_rights(tokens, None);
    let mut got = Vec::new();
    let _ = reader.read_to_end(&mut got);
    assert!(got.len() < bytes.len(), "all {} bytes came", got.len());
}

#[test]
fn what_lies_here_of_one_topic_is_not_given_by_its_id_on_another() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let (bus, of_other) = (place.bus(), elsewhere.bus());
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let node = Node::builder().cluster("swarm").index(9).listen(loopback).open(&bus).expect("a node");
    let http = open(&bus, guarded());
    let at = http.addresses()[0];
    let bytes = body(400_000, 1);
    let own = bus.artifacts("image.secret").expect("a node").offer(&bytes).open().expect("room");
    let address = node.listening()[0].to_string();
    let other = Node::builder().cluster("swarm").index(1).peer(9, &address).open(&of_other).expect("a node");
    let offered = of_other.artifacts("image.public").expect("a node").offer(&bytes).keep().open();
    assert_eq!(offered.expect("room").id(), own.id());
    let known = bus.artifacts("image.public").expect("a node");
    until("it is known here", || known.list().expect("a list").len() == 1);
    // It offers them, and gives none.
    drop(other);
    let get = |token: &str, name: &str| {
        let path = format!("/v1/artifacts/{name}?timeout=300ms");
        ask(at, "GET", &path, &[&format!("authorization: Bearer {token}")], &[])
    };
    let id = own.id().to_string();
    for name in [id.as_str(), "image.public"] {
        assert_eq!(get(READER, name).status, 504, "{name}");
    }
    assert_eq!(get(READER, "image.secret").status, 403);
    println!("evidence: bytes here on one topic, asked for by id and topic on another: 504");
}

/// Begins to put so many bytes, and sends none of them.
fn begin(at: SocketAddr, topic: &str, size: u64) -> TcpStream {
    let mut stream = connect(at);
    let request =
        format!("PUT /v1/artifacts/{topic} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is read");
    stream
}

#[test]
fn artifacts_have_bounds_of_their_own_and_what_is_more_is_refused_before_it_has_come() {
    let place = Place::new();
    let bus = place.bus();
    let _node = Node::builder().artifact_store_bytes(8 << 20).open(&bus).expect("a node");
    let config = HttpConfig {
        artifact_bytes_max: 9 << 20,
        artifacts_bytes: 9 << 20,
        transfers_max: 6,
        ..HttpConfig::default()
    };
    let http = open(&bus, config);
    let at = http.addresses()[0];
    let only_head = |size: u64| {
        let text =
            format!("PUT /v1/artifacts/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n");
        let answer = raw(at, text.as_bytes());
        (answer.status, answer.code())
    };
    assert_eq!(only_head((9 << 20) + 1), (413, "BUS-0107".to_owned()));
    let chunked = raw(at, b"PUT /v1/artifacts/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
    assert_eq!((chunked.status, chunked.code().as_str()), (411, "BUS-0113"));
    // The store of the node has no room for it, which is found before it has come too.
    assert_eq!(only_head(9 << 20), (507, "BUS-0401".to_owned()));
    assert_eq!(put(at, "first", &body(6 << 20, 1)).status, 200);
    // What was put has bounds: all of it together.
    assert_eq!(only_head(4 << 20), (507, "BUS-0401".to_owned()));
    assert_eq!(of(at, "DELETE", "first", &[]).status, 200);
    until("there is room again", || put(at, "second", &body(4 << 20, 2)).status == 200);
    // So many at once, of which none comes.
    let mut held: Vec<TcpStream> = (0..UPLOADS_MAX).map(|_| begin(at, "slow", 64 << 10)).collect();
    until("they are on their way", || {
        // Who says nothing for long is not on its way any more.
        held.iter_mut().for_each(|stream| stream.write_all(b"x").expect("it is read"));
        metric(at, "busway_http_transfers") == u64::from(UPLOADS_MAX)
    });
    let more = put(at, "more", b"x");
    assert_eq!(
        (more.status, more.code().as_str(), more.headers["retry-after"].as_str()),
        (429, "BUS-0417", "1")
    );
    // Others are not held up: what is published, and what is got.
    for number in 0..20 {
        assert_eq!(ask(at, "POST", &format!("/v1/publish/t{number}"), &[], b"x").status, 200);
    }
    assert_eq!(of(at, "GET", "second", &[]).body.len(), 4 << 20);
    assert_eq!(metric(at, "busway_http_refused_total{cause=\"transfers\"}"), 1);
    assert_eq!(metric(at, "busway_http_refused_total{cause=\"store\"}"), 2);
    // Who goes away leaves nothing.
    drop(held);
    until("nothing is on its way", || metric(at, "busway_http_transfers") == 0);
    until("and no room is taken", || metric(at, "busway_http_artifacts") == 1);
    assert_eq!(
        (metric(at, "busway_http_artifacts_bytes"), metric(at, "busway_http_ingress_bytes")),
        (4 << 20, 0)
    );
    until("and there is a thread again", || put(at, "more", b"x").status == 200);
    println!("evidence: 411=1 413=1 429=1 507=2 held_up=0");
}

/// The most memory that this process has had, in KiB.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse().ok()).expect("a number")
}

/// A directory for a store, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        let path = std::env::temp_dir().join(format!("busway-http-store-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&path).expect("a directory");
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_large_artifact_goes_in_and_out_without_being_in_memory() {
    const SIZE: usize = 128 << 20;
    let (place, store) = (Place::new(), Directory::new());
    let bus = place.bus();
    let _node = Node::builder().artifact_store(&store.0).open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let part = body(1 << 20, 5);
    let _ = put(at, "first", &part);
    let before = most_memory();
    let mut stream = begin(at, "large", SIZE as u64);
    (0..SIZE >> 20).for_each(|_| stream.write_all(&part).expect("it is read"));
    let mut reader = BufReader::new(stream);
    let (status, headers) = head(&mut reader);
    assert_eq!(status, 200);
    let mut hash = blake3::Hasher::new();
    (0..SIZE >> 20).for_each(|_| _ = hash.update(&part));
    assert_eq!(headers["etag"], format!("\"{}\"", hash.finalize()));
    let mut stream = connect(at);
    stream
        .write_all(b"GET /v1/artifacts/large HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .expect("read");
    let mut reader = BufReader::new(stream);
    assert_eq!(head(&mut reader).1["content-length"], SIZE.to_string());
    let (mut had, mut hash) = (vec![0; 1 << 20], blake3::Hasher::new());
    (0..SIZE >> 20).for_each(|_| {
        reader.read_exact(&mut had).expect("all of it");
        hash.update(&had);
    });
    assert_eq!(headers["etag"], format!("\"{}\"", hash.finalize()));
    let more = (most_memory() - before) >> 10;
    // The store keeps the pieces that were read last, 16 MiB of them; other tests may run in the same process.
    assert!(more < 64, "{more} MiB");
    println!("evidence: artifact_mib=128 resident_mib={more}");
}

#[test]
fn whatever_stands_for_a_name_is_refused_or_is_the_topic_that_it_is() {
    let (place, store) = (Place::new(), Directory::new());
    let bus = place.bus();
    let inside = store.0.join("store");
    let _node = Node::builder().artifact_store(&inside).open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let bytes = body(300_000, 3);
    let id = put(at, "image", &bytes).json()["id"].as_str().expect("an id").to_owned();
    let upper = id.to_ascii_uppercase();
    let long = "a".repeat(5_000);
    let names = [
        "..%2F..%2F..%2Fetc%2Fpasswd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%2Fetc%2Fpasswd",
        "..",
        ".",
        "%00",
        "a%00b",
        "%ff%fe",
        "a..b",
        ">",
        "*",
        "%3E",
        "^a",
        &id[..63],
        &upper,
        &format!("{id}0"),
        &format!("..%2F{id}"),
        &format!("{id}%00"),
        &long,
        "$SYS",
        "%24artifact.x",
    ];
    let mut tried = 0;
    for name in names {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let answer = ask(
                at,
                method,
                &format!("/v1/artifacts/{name}"),
                &[],
                if method == "PUT" { b"x" } else { b"" },
            );
            // A slash is a letter of a topic like any other: what is one may be put, and is got as it was put.
            let refused = matches!(answer.status, 400 | 403 | 404);
            let put = answer.status == 200 && (method != "GET" || answer.body == b"x");
            assert!(refused || put, "{method} {name}: {}", answer.status);
            tried += 1;
        }
    }
    for path in
        ["/v1/artifacts/", "/v1/artifacts/a/b", "/v1/artifacts/../metrics", "/v1/artifacts/image/..%2F"]
    {
        assert_eq!(ask(at, "GET", path, &[], &[]).status, 404, "{path}");
    }
    let left = std::fs::read_dir(&store.0).expect("a directory").count();
    assert_eq!(left, 1, "nothing lies beside the store");
    assert_eq!(std::fs::metadata(&inside).expect("it is there").mode() & 0o077, 0);
    println!("evidence: tried={tried} escaped=0");
}

#[test]
fn whatever_stands_for_a_range_is_answered_within_the_size_of_its_artifact() {
    let place = Place::new();
    let bus = place.bus();
    let _node = Node::builder().open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let bytes = body(300_000, 3);
    let id = put(at, "image", &bytes).json()["id"].as_str().expect("an id").to_owned();
    let mut tried = 0;
    let many = (0..2_000).map(|number| format!("{number}-")).collect::<Vec<_>>().join(",");
    for range in [
        format!("bytes={many}"),
        "bytes=0-,0-,0-".to_owned(),
        "bytes=-".to_owned(),
        "bytes=5-1".to_owned(),
        "x=1".to_owned(),
    ] {
        let answer = of(at, "GET", &id, &[&format!("range: {range}")]);
        assert_eq!((answer.status, answer.body == bytes), (200, true), "{range:.20}");
        tried += 1;
    }
    for (range, status) in [
        (u128::MAX.to_string() + "-", 416),
        ("-0".to_owned(), 416),
        ("0-".to_owned() + &u128::MAX.to_string(), 206),
    ] {
        assert_eq!(of(at, "GET", &id, &[&format!("range: bytes={range}")]).status, status, "{range}");
        tried += 1;
    }
    println!("evidence: tried={tried} beyond=0");
}

#[test]
fn an_artifact_that_comes_too_slowly_is_refused_and_leaves_no_room_taken() {
    let place = Place::new();
    let bus = place.bus();
    let _node = Node::builder().open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let began = Moment::now();
    let mut silent = begin(at, "slow", 1 << 20);
    silent.write_all(&[0; 100]).expect("it is read");
    // Long before it would be too slow if it said a little now and then.
    const _: () = assert!(TRANSFER_GRACE.as_secs() > 2 * BODY_TIME.as_secs());
    silent.set_read_timeout(Some(TRANSFER_GRACE - Duration::from_secs(2))).expect("a time-out");
    let mut answer = [0; 12];
    silent.read_exact(&mut answer).expect("an answer");
    assert!(began.elapsed() >= BODY_TIME - Duration::from_millis(100));
    assert_eq!(&answer, b"HTTP/1.1 408");
    until("nothing is left", || {
        metric(at, "busway_http_transfers") + metric(at, "busway_http_artifacts") == 0
    });
    assert_eq!(of(at, "GET", "slow", &[]).status, 404);
}

#[test]
fn an_artifact_that_comes_byte_by_byte_is_refused_soon_whatever_its_size() {
    let (place, store) = (Place::new(), Directory::new());
    let bus = place.bus();
    let _node = Node::builder().artifact_store(&store.0).open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let began = Moment::now();
    let mut slow = begin(at, "slow", 16 << 20);
    slow.set_read_timeout(Some(BODY_TIME / 10)).expect("a time-out");
    let mut answer = [0; 12];
    // It never says nothing for long, and would have minutes for all of it.
    while slow.read_exact(&mut answer).is_err() {
        assert!(began.elapsed() < 2 * TRANSFER_GRACE, "it is never cut off");
        let _ = slow.write_all(b"x");
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(began.elapsed() >= TRANSFER_GRACE - Duration::from_secs(1), "{:?}", began.elapsed());
    until("nothing is left", || metric(at, "busway_http_transfers") == 0);
}

/// Connects with so small a window that little waits in its sockets.
fn connect_narrow(at: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_recv_buffer_size(&socket, 4 << 10).expect("a size");
    connect(&socket, &at).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
    stream
}

#[test]
fn an_artifact_that_is_taken_too_slowly_breaks_off_soon_whatever_its_size_and_leaves_no_room_taken() {
    const SIZE: usize = 16 << 20;
    let (place, store) = (Place::new(), Directory::new());
    let bus = place.bus();
    let _node = Node::builder().artifact_store(&store.0).open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let bytes = body(SIZE, 9);
    let _offer = bus.artifacts("model").expect("a node").offer(&bytes).open().expect("offered");
    let mut stream = connect_narrow(at);
    let began = Moment::now();
    stream.write_all(b"GET /v1/artifacts/model HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it is read");
    let mut reader = BufReader::with_capacity(64, stream);
    assert_eq!(head(&mut reader).0, 200);
    // It always takes something, and is no peer that stands still.
    let (_keep, never) = mpsc::channel::<()>();
    let (mut got, mut some) = (Vec::new(), [0; 64]);
    // What waits in its sockets counts as taken: a few MiB at most.
    let most = TRANSFER_GRACE + Duration::from_secs((4 << 20) / TRANSFER_BYTES_PER_S_MIN);
    while metrics_of(&http, "busway_http_transfers") > 0 {
        assert!(began.elapsed() < most, "it is never cut off");
        // It may break off between this look and that.
        let count = reader.read(&mut some).unwrap_or(0);
        got.extend_from_slice(&some[..count]);
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
    let took = began.elapsed();
    assert!(took >= TRANSFER_GRACE - Duration::from_secs(1), "{took:?}");
    let _ = reader.read_to_end(&mut got);
    assert!(got.len() < SIZE / 4 && got == bytes[..got.len()], "a part of it, and no more");
    assert_eq!(metrics_of(&http, "busway_http_ingress_bytes"), 0);
    println!("evidence: size={SIZE} given={} after_s={}", got.len(), took.as_secs());
}

#[test]
fn a_reader_that_takes_nothing_any_more_is_cut_off_soon_however_much_it_took_before() {
    const SIZE: usize = 32 << 20;
    // For what it took it would have minutes more.
    const TOOK: usize = 16 << 20;
    let (place, store) = (Place::new(), Directory::new());
    let bus = place.bus();
    let _node = Node::builder().artifact_store(&store.0).open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let _offer = bus.artifacts("model").expect("a node").offer(&body(SIZE, 9)).open().expect("offered");
    let mut stream = connect_narrow(http.addresses()[0]);
    stream.write_all(b"GET /v1/artifacts/model HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it is read");
    let mut reader = BufReader::new(stream);
    assert_eq!(head(&mut reader).0, 200);
    reader.read_exact(&mut vec![0; TOOK]).expect("it comes");
    let (_keep, never) = mpsc::channel::<()>();
    let stopped = Moment::now();
    while metrics_of(&http, "busway_http_transfers") > 0 {
        assert!(stopped.elapsed() < STALL + LIMIT, "it is never cut off");
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
    println!("evidence: took={TOOK} cut_off_after_s={}", stopped.elapsed().as_secs());
}

/// Ends with the door, which it holds.
fn metrics_of(http: &Http, name: &str) -> u64 {
    let text = http.metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).expect("it is told")
}

#[test]
fn a_door_that_closes_ends_what_is_on_its_way_and_what_was_put() {
    let place = Place::new();
    let bus = place.bus();
    let _node = Node::builder().open(&bus).expect("a node");
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    assert_eq!(put(at, "image", &body(1 << 20, 4)).status, 200);
    // One that goes on for as long as it may.
    let mut slow = begin(at, "slow", 1 << 20);
    let (_keep, never) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        while slow.write_all(b"x").is_ok() {
            let _ = never.recv_timeout(Duration::from_millis(100));
        }
    });
    until("it is on its way", || metrics_of(&http, "busway_http_transfers") == 1);
    let began = Moment::now();
    drop(http);
    assert!(began.elapsed() < TRANSFER_GRACE * 2 / 3, "{:?}", began.elapsed());
    let artifacts = bus.artifacts(">").expect("a node");
    until("nothing is offered any more", || artifacts.list().expect("a node").is_empty());
}
