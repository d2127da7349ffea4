//! Nobody takes the door from others: who never pauses, who takes all that there is, who is slow, and who waits for what never comes.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use busway::{Acl, AclRule, Bus, Policy, Publisher, Tokens};
use busway_http::limits::{NICE, RING_BYTES_MAX, SEND_TIME, THREADS, THREADS_WAITING_MAX};
use busway_http::{Http, HttpConfig};

use crate::client::{Answer, Events, LIMIT, Moment, Place, ask, connect, get, head, metric, open, request};

const GREEDY: &str = "greedy-token-51d0";
const OTHER: &str = "other-token-c7a2";

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Moment::now() + LIMIT;
    while !done() {
        assert!(Moment::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Two who may do everything, and are told apart.
fn two() -> HttpConfig {
    let mut tokens = Tokens::default();
    tokens.add("greedy", GREEDY).expect("a token");
    tokens.add("other", OTHER).expect("a token");
    HttpConfig { tokens, ..HttpConfig::default() }
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// Closes the door on a thread of its own, since it might never be closed.
fn closes(http: Http) -> bool {
    let (said, told) = mpsc::channel();
    std::thread::spawn(move || {
        drop(http);
        let _ = said.send(());
    });
    told.recv_timeout(LIMIT / 2).is_ok()
}

/// Somebody who publishes without pause until it is told; how much that was.
struct Flood {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<u64>,
}

impl Flood {
    fn begin(mut publisher: Publisher, body: Vec<u8>) -> Flood {
        let (stop, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while told.try_recv() == Err(mpsc::TryRecvError::Empty) {
                sent += u64::from(publisher.try_send(&body).is_ok());
            }
            sent
        });
        Flood { stop, thread }
    }

    fn end(self) -> u64 {
        let _ = self.stop.send(());
        self.thread.join().expect("it ends")
    }
}

#[test]
fn messages_without_pause_that_its_readers_may_not_have_stop_neither_the_door_nor_its_end() {
    let place = Place::new();
    let bus = place.bus();
    // So many rules that to judge a message takes longer than to send one.
    let denied: Vec<String> = (0..3_000).map(|number| format!("price.secret.{number}")).collect();
    let rule = AclRule {
        identity: "client/greedy".to_owned(),
        subscribe: vec!["price.*".to_owned()],
        deny_subscribe: [denied, vec!["price.secret".to_owned()]].concat(),
        ..AclRule::default()
    };
    let http = open(&bus, HttpConfig { acl: Some(Acl::new([rule]).expect("rules")), ..two() });
    let at = http.addresses()[0];
    // One for each thread on which sockets wait.
    let readers = [0, 1].map(|_| {
        let mut events = Events::open(at, "/v1/subscribe/>", &[&bearer(GREEDY)]);
        events.wait("ready");
        events
    });
    let flood = Flood::begin(bus.publisher("price.secret").open().expect("a publisher"), b"x".to_vec());
    let (said, told) = mpsc::channel();
    std::thread::spawn(move || {
        let answered = (0..20).filter(|_| get(at, "/healthz").status == 200).count();
        let _ = said.send(answered);
    });
    let answered = told.recv_timeout(LIMIT / 2);
    let closed = closes(http);
    let sent = flood.end();
    drop(readers);
    assert_eq!((answered, closed), (Ok(20), true), "{sent} messages");
    println!("evidence: messages={sent} answered=20 closed=1");
}

/// Reads until the end; its last bytes.
fn last_bytes(mut stream: impl Read) -> Vec<u8> {
    let (mut last, mut part) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count @ 1..) = stream.read(&mut part) {
        last.extend_from_slice(&part[..count]);
        last.drain(..last.len().saturating_sub(100));
    }
    last
}

#[test]
fn a_reader_that_always_has_messages_is_told_all_the_same_that_the_node_ends() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let stream = |headers: &str| {
        let mut stream = connect(at);
        let text = format!("GET /v1/subscribe/flood HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).expect("it is read");
        std::thread::spawn(move || last_bytes(stream))
    };
    let events = stream("");
    let socket = stream(
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    );
    until("both are there", || metric(at, "busway_http_streams") == 2);
    let flood = Flood::begin(bus.publisher("flood").open().expect("a publisher"), vec![b'x'; 1_000]);
    until("they are given much", || metric(at, "busway_http_events_total") > 1_000);
    assert!(closes(http));
    let (events, socket) = (events.join().expect("it ends"), socket.join().expect("it ends"));
    let sent = flood.end();
    let text = String::from_utf8_lossy(&events);
    assert!(text.contains("event: end\ndata: {\"cause\":\"the node ends\"}\n\n"), "{text:?}");
    assert!(socket.ends_with(&[0x88, 2, 0x03, 0xe9]), "{socket:?}");
    println!("evidence: messages={sent} told=2");
}

/// How nice each thread of a door is, which all have one name.
fn nice_of_doors() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("a folder").flatten();
    let nice = |task: std::fs::DirEntry| {
        // A thread of another door may end meanwhile.
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(')')?;
        let is_of_door = name.contains("(bw-ingress");
        is_of_door.then(|| rest.split_whitespace().nth(16)?.parse().ok()).flatten()
    };
    tasks.filter_map(nice).collect()
}

#[test]
fn threads_of_the_door_give_way_to_all_others() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    assert_eq!(ask(http.addresses()[0], "POST", "/v1/publish/a", &[], b"x").status, 200);
    let own = rustix::process::getpriority_process(None).expect("it is ours");
    let wanted = (own.max(0) + NICE).min(19);
    // One that has just begun is about to.
    until("all are nicer than this one", || {
        let nice = nice_of_doors();
        nice.len() > THREADS && nice.iter().all(|nice| *nice == wanted)
    });
    println!("evidence: nice={wanted} of_others={own}");
}

#[test]
fn heads_whose_bodies_never_come_take_no_room_from_others() {
    let place = Place::new();
    let bus = place.bus();
    let config = HttpConfig::default();
    let (heads, large) = (64, config.body_bytes_max);
    assert!(heads * large >= config.bytes, "as much as there is");
    let http = open(&bus, config);
    let at = http.addresses()[0];
    let head = format!("POST /v1/publish/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {large}\r\n\r\n");
    let held: Vec<TcpStream> = (0..heads)
        .map(|_| {
            let mut stream = connect(at);
            stream.write_all(head.as_bytes()).expect("it is read");
            stream
        })
        .collect();
    // This question is one of them.
    until("all heads were read", || metric(at, "busway_http_under_way") == heads + 1);
    let taken = metric(at, "busway_http_ingress_bytes");
    assert_eq!(ask(at, "POST", "/v1/publish/a", &[], &vec![b'y'; 1 << 20]).status, 200);
    assert_eq!(taken, 0);
    drop(held);
    println!("evidence: heads={heads} bytes_taken={taken}");
}

/// Asks what is never answered, on connections that stay.
fn unanswered(at: SocketAddr, topic: &str, token: &str) -> TcpStream {
    let mut stream = connect(at);
    let path = format!("/v1/request/{topic}?timeout=60s");
    let header = bearer(token);
    stream.write_all(&request("POST", &path, &[&header], b"x")).expect("it is read");
    stream
}

fn status(stream: &mut TcpStream) -> u16 {
    head(&mut BufReader::new(stream)).0
}

/// Responders that take what they are asked, and say nothing.
fn silent(bus: &Bus, topics: &[&str]) -> Vec<JoinHandle<()>> {
    let one = |topic: &&str| {
        let mut responder = bus.responder(topic).open().expect("a responder");
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok(asked) = responder.recv() {
                kept.push(asked);
            }
        })
    };
    topics.iter().map(one).collect()
}

#[test]
fn one_caller_and_one_topic_leave_half_of_the_requests_to_others() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig { in_flight: 8, ..two() });
    let at = http.addresses()[0];
    let threads = silent(&bus, &["silent.a", "silent.b", "silent.c"]);
    let under_way = || {
        let text = http.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix("busway_http_ingress_requests "));
        line.expect("it is told").parse::<u64>().expect("a number")
    };
    // Who asks from here on waits, since somebody is there to answer.
    for topic in ["silent.a", "silent.b", "silent.c"] {
        let path = format!("/v1/request/{topic}?timeout=20ms");
        until("its responder is found", || ask(at, "POST", &path, &[&bearer(OTHER)], b"x").status == 504);
    }
    until("nobody waits any more", || under_way() == 0);
    let mut held = Vec::new();
    let mut hold = |topic: &str, token: &str, count: u64| {
        held.push(unanswered(at, topic, token));
        until("it waits for its answer", || under_way() == count);
    };
    hold("silent.a", GREEDY, 1);
    hold("silent.a", GREEDY, 2);
    hold("silent.a", GREEDY, 3);
    hold("silent.b", GREEDY, 4);
    let refused = ask(at, "POST", "/v1/publish/news", &[&bearer(GREEDY)], b"x");
    assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (429, "1"), "{refused:?}");
    assert!(refused.json()["cause"].as_str().is_some_and(|cause| cause.contains("for this caller")));
    assert_eq!(ask(at, "POST", "/v1/publish/news", &[&bearer(OTHER)], b"x").status, 200);
    hold("silent.a", OTHER, 5);
    assert_eq!(status(&mut unanswered(at, "silent.a", OTHER)), 429, "its topic has its share");
    assert_eq!(ask(at, "POST", "/v1/publish/news", &[&bearer(OTHER)], b"x").status, 200);
    hold("silent.c", OTHER, 6);
    assert_eq!(under_way(), 6);
    drop(held);
    until("room is given back", || under_way() == 0);
    assert_eq!(ask(at, "POST", "/v1/publish/news", &[&bearer(GREEDY)], b"x").status, 200);
    bus.close();
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    println!("evidence: in_flight=8 of_one_caller=4 of_one_topic=4");
}

#[test]
fn bytes_and_streams_of_one_caller_leave_half_of_the_room_to_others() {
    let place = Place::new();
    let bus = place.bus();
    let config = HttpConfig { bytes: 100_000, body_bytes_max: 30_000, streams_max: 4, ..two() };
    let http = open(&bus, config);
    let at = http.addresses()[0];
    let publish = |token: &str| ask(at, "POST", "/v1/publish/a", &[&bearer(token)], &[b'y'; 25_000]);
    // All but its last byte comes.
    let header = bearer(GREEDY);
    let held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = connect(at);
            let all = request("POST", "/v1/publish/a", &[&header], &[b'x'; 25_000]);
            stream.write_all(&all[..all.len() - 1]).expect("it is read");
            stream
        })
        .collect();
    let taken = || {
        let text = http.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix("busway_http_ingress_bytes "));
        line.expect("it is told").parse::<u64>().expect("a number")
    };
    until("it has come", || taken() == 50_000);
    let refused = publish(GREEDY);
    assert_eq!((refused.status, refused.code().as_str()), (429, "BUS-0417"), "{refused:?}");
    assert_eq!(publish(OTHER).status, 200);
    drop(held);
    until("it is given back", || taken() == 0);
    assert_eq!(publish(GREEDY).status, 200);
    let stream = |token: &str| Events::open(at, "/v1/subscribe/a", &[&bearer(token)]);
    let streams = [stream(GREEDY), stream(GREEDY), stream(GREEDY), stream(OTHER), stream(OTHER)];
    assert_eq!(streams.map(|stream| stream.status), [200, 200, 429, 200, 200]);
}

#[test]
fn what_waits_behind_others_for_a_slow_subscriber_is_refused_in_the_time_of_one() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut slow = bus.subscriber("jobs").policy(Policy::Block).open().expect("a subscriber");
    let (begin, begins) = mpsc::channel::<()>();
    let (go, told) = mpsc::channel::<()>();
    let reader = std::thread::spawn(move || {
        let mut got = 0;
        begins.recv().expect("it is told");
        // One now and then, until it is told; then all the rest.
        while told.recv_timeout(SEND_TIME / 2) == Err(mpsc::RecvTimeoutError::Timeout) {
            got += u64::from(slow.try_recv().expect("a bus").is_some());
        }
        while slow.recv_timeout(Duration::from_secs(1)).expect("a bus").is_some() {
            got += 1;
        }
        got
    });
    let publish = move || ask(at, "POST", "/v1/publish/jobs", &[], &[b'x'; 64 << 10]);
    let mut sent = 0;
    until("its ring is full", || {
        let answer = publish();
        sent += u64::from(answer.status == 200);
        answer.status == 503
    });
    begin.send(()).expect("it waits");
    let began = Moment::now();
    let many: Vec<_> = (0..40).map(|_| std::thread::spawn(publish)).collect();
    let answers: Vec<Answer> = many.into_iter().map(|thread| thread.join().expect("an answer")).collect();
    let took = began.elapsed();
    let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    for answer in &refused {
        let again = answer.headers.get("retry-after").map(String::as_str);
        assert!(matches!(answer.status, 429 | 503) && again == Some("1"), "{answer:?}");
    }
    // One after the other it would be twenty times as much.
    assert!(refused.len() > 20 && took < 10 * SEND_TIME, "{} {took:?}", refused.len());
    assert_eq!(ask(at, "POST", "/v1/publish/other", &[], b"x").status, 200);
    go.send(()).expect("it reads");
    let (sent, got) = (sent + done.len() as u64, reader.join().expect("it ends"));
    assert_eq!(got, sent, "what was answered with 200 came, and nothing else");
    println!("evidence: at_once=40 refused={} sent={sent} received={got}", refused.len());
}

#[test]
fn who_hangs_up_is_charged_until_what_it_began_has_ended() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let body = [b'x'; 64 << 10];
    let _never_reads = bus.subscriber("jobs").policy(Policy::Block).open().expect("a subscriber");
    until("it is waited for", || ask(at, "POST", "/v1/publish/jobs", &[], &body).status == 503);
    let told = |names: [&str; 3]| {
        let text = http.metrics();
        names.map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.expect("it is told").parse::<u64>().expect("a number")
        })
    };
    // What is under way is counted before what is charged: who is not there any more is charged none the less.
    let names = ["busway_http_under_way", "busway_http_ingress_requests", "busway_http_ingress_bytes"];
    let mut tries = 0;
    until("it is charged though it has gone", || {
        tries += 1;
        let mut stream = connect(at);
        stream.write_all(&request("POST", "/v1/publish/jobs", &[], &body)).expect("it is read");
        until("it is under way", || told(names)[1] == 1);
        drop(stream);
        until("nobody waits for an answer", || told(names)[0] == 0);
        // It may have ended before it was seen to hang up; and before it begins it is charged in any case.
        let began = Moment::now();
        while told(names) == [0, 1, 64 << 10] && began.elapsed() < SEND_TIME / 4 {
            std::thread::yield_now();
        }
        began.elapsed() >= SEND_TIME / 4
    });
    until("it is given back", || told(names) == [0, 0, 0]);
    assert_eq!(ask(at, "POST", "/v1/publish/other", &[], b"x").status, 200);
    println!("evidence: tries={tries}");
}

#[test]
fn one_caller_leaves_half_of_the_threads_on_which_the_bus_is_waited_for_to_others() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, two());
    let at = http.addresses()[0];
    let topics: Vec<String> = (0..THREADS_WAITING_MAX).map(|number| format!("jobs.{number}")).collect();
    let slow = |topic: &String| bus.subscriber(topic).policy(Policy::Block).open().expect("a subscriber");
    let mut slow: Vec<_> = topics.iter().map(slow).collect();
    let (end, told) = mpsc::channel::<()>();
    let readers = std::thread::spawn(move || {
        // One of each now and then: who takes nothing for longer is waited for no more.
        while told.recv_timeout(SEND_TIME / 2) == Err(mpsc::RecvTimeoutError::Timeout) {
            slow.iter_mut().for_each(|slow| drop(slow.try_recv().expect("a bus")));
        }
    });
    let threads = || {
        let text = http.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix("busway_http_threads "));
        line.expect("it is told").parse::<usize>().expect("a number")
    };
    // It publishes one after the other on as many topics as there are threads: as soon as the rings are full each waits for its reader.
    let (say, answers) = mpsc::channel::<usize>();
    let bytes = 256 << 10;
    let press = |(number, topic): (usize, &String)| {
        let (stop, told) = mpsc::channel::<()>();
        let (path, say) = (format!("/v1/publish/{topic}"), say.clone());
        let thread = std::thread::spawn(move || {
            while told.try_recv() == Err(mpsc::TryRecvError::Empty) {
                ask(at, "POST", &path, &[&bearer(GREEDY)], &vec![b'x'; bytes]);
                say.send(number).expect("it is heard");
            }
        });
        (stop, thread)
    };
    let (stops, pressing): (Vec<_>, Vec<_>) = topics.iter().enumerate().map(press).unzip();
    let (mut most, mut times) = (0, [0; THREADS_WAITING_MAX]);
    until("each ring was full, and waited for again and again", || {
        most = most.max(threads());
        answers.try_iter().for_each(|number| times[number] += 1);
        times.iter().all(|times| *times >= RING_BYTES_MAX / bytes as u64 + 8)
    });
    // Others are answered all the while.
    for _ in 0..20 {
        assert_eq!(ask(at, "POST", "/v1/publish/news", &[&bearer(OTHER)], b"x").status, 200);
        assert_eq!(ask(at, "GET", "/v1/topics", &[&bearer(OTHER)], &[]).status, 200);
    }
    drop(stops);
    let mut of_greedy = 0;
    until("all have ended", || {
        of_greedy = of_greedy.max(threads());
        pressing.iter().all(JoinHandle::is_finished)
    });
    end.send(()).expect("it reads");
    readers.join().expect("it ends");
    let most = most.max(of_greedy);
    assert_eq!(most, THREADS_WAITING_MAX / 2);
    println!("evidence: threads={THREADS_WAITING_MAX} of_one_caller={most}");
}

#[test]
fn who_takes_the_replies_slowly_keeps_its_place_no_longer_than_it_said() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig { in_flight: 1, ..HttpConfig::default() });
    let at = http.addresses()[0];
    let mut responder = bus.responder("large").open().expect("a responder");
    let server = std::thread::spawn(move || {
        let part = vec![b'x'; 1 << 20];
        while let Ok(mut asked) = responder.recv() {
            if asked[..] == *b"end" {
                return;
            }
            // More than sockets keep. It is lost where nobody takes it.
            for _ in 0..64 {
                if asked.reply_part(&part).is_err() {
                    break;
                }
            }
        }
    });
    let mut stream = connect(at);
    until("its replies come, and it has the only place", || {
        stream = connect(at);
        let asked = request("POST", "/v1/request/large?timeout=3s", &["accept: text/event-stream"], b"x");
        stream.write_all(&asked).expect("it is read");
        // Where one was lost before sockets were full it is over, and asks again.
        status(&mut stream) == 200 && ask(at, "POST", "/v1/publish/news", &[], b"x").status == 429
    });
    // It reads nothing more. Its place is given back all the same.
    until("there is room again", || ask(at, "POST", "/v1/publish/news", &[], b"x").status == 200);
    // It was its time that ended it, and nobody cut it off: what it did not take still comes, and then the end.
    let (mut taken, mut part) = (Vec::new(), vec![0; 1 << 16]);
    while !taken.ends_with(b"\r\n0\r\n\r\n") {
        let size = stream.read(&mut part).expect("it stands");
        assert!(size > 0, "it was cut off behind {} bytes", taken.len());
        taken.extend_from_slice(&part[..size]);
    }
    println!("evidence: taken_later={}", taken.len());
    drop(stream);
    // It takes this and says nothing: who asked is told when it has gone.
    ask(at, "POST", "/v1/request/large?timeout=30s", &[], b"end");
    server.join().expect("it ends");
}

#[test]
fn a_right_that_is_taken_away_ends_replies_that_are_under_way() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, two());
    let at = http.addresses()[0];
    let mut responder = bus.responder("ticks").open().expect("a responder");
    let (go, told) = mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let mut asked = responder.recv().expect("a request");
        asked.reply_part(b"first").expect("a reply");
        told.recv().expect("it is told");
        let _ = asked.reply(b"second");
    });
    let mut reader = BufReader::new(connect(at));
    until("it is asked", || {
        reader = BufReader::new(connect(at));
        let headers = [&bearer(GREEDY)[..], "accept: text/event-stream"];
        let asked = request("POST", "/v1/request/ticks?timeout=30s", &headers, b"x");
        reader.get_mut().write_all(&asked).expect("it is read");
        head(&mut reader).0 == 200
    });
    let mut first = [0; 16];
    reader.read_exact(&mut first).expect("the first comes");
    let mut without = Tokens::default();
    without.add("other", OTHER).expect("a token");
    http.set_rights(without, None);
    go.send(()).expect("it waits");
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("second"), "{rest}");
    server.join().expect("it ends");
}

#[test]
fn what_shows_nothing_as_text_is_given_in_base64_and_is_no_more_than_a_third_larger() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut publisher = bus.publisher("bytes").open().expect("a publisher");
    let mut events = Events::open(at, "/v1/subscribe/bytes", &[]);
    events.wait("ready");
    publisher.send(&vec![1; 1 << 20]).expect("sent");
    let event = events.wait("message");
    assert!(event.data.to_string().len() < 3 << 19, "{}", event.data.to_string().len());
    assert_eq!(event.data["body_base64"].as_str().map(str::len), Some((1_usize << 20).div_ceil(3) * 4));
    // What people write stays text, however many quotation marks it has.
    for text in ["{\"a\":\"\"}", "\"\"\"\"", "a\nb\t\u{1}\\ \u{e9}", ""] {
        publisher.send(text.as_bytes()).expect("sent");
        assert_eq!(events.wait("message").data["body"], text);
    }
}

#[test]
fn publishers_that_are_there_no_more_are_told_whatever_number_the_reader_had() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let mut lives = bus.publisher("news").open().expect("a publisher");
    lives.send(b"x").expect("sent");
    let gone = format!("0000000000000001.{},0000000000000002.7", u64::MAX);
    let last = format!("last-event-id: v1,{gone},{}.1", lives.id());
    let mut events = Events::open(at, "/v1/subscribe/news", &[&last]);
    events.wait("ready");
    let mut told: Vec<_> = (0..2)
        .map(|_| {
            let lost = events.wait("lost").data;
            assert_eq!(lost["cause"], "publisher_gone");
            (lost["source"].as_str().expect("a source").to_owned(), lost["from"].as_u64().expect("a number"))
        })
        .collect();
    told.sort();
    assert_eq!(told, [("0000000000000001".to_owned(), u64::MAX), ("0000000000000002".to_owned(), 8)]);
    lives.send(b"y").expect("sent");
    assert_eq!(events.wait("message").data["body"], "y", "the stream goes on");
}
