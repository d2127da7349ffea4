//! What is counted, and whether anybody counts it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/directory.rs"]
mod directory;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use busway::artifacts::{ArtifactHandler, Flow, Heard, Interest, SwarmHandler, Voice, WhenFull, Workers};
use busway::metrics::{METRICS, MetricKind, ProcessMetrics};
use busway::service::{Breaker, Retry};
use busway::{Bus, Node, Policy, RequestError, SendError};
use busway_shm::clock::Deadline;

use directory::Directory;

const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3_600);

/// The values that are above zero, by name and label.
fn fed(metrics: &ProcessMetrics) -> BTreeMap<String, u64> {
    let label = |label: Option<(&str, &str)>| label.map_or(String::new(), |(_, value)| format!(" {value}"));
    let fed = metrics.values.iter().filter(|value| value.value > 0);
    fed.map(|value| (format!("{}{}", value.name, label(value.label)), value.value)).collect()
}

fn until(metrics: impl Fn() -> ProcessMetrics, what: &str, holds: impl Fn(&ProcessMetrics) -> bool) {
    let deadline = Deadline::after(PATIENCE);
    loop {
        let now = metrics();
        if holds(&now) {
            return;
        }
        assert!(!deadline.expired(), "{what}: {:?}", fed(&now));
        std::thread::yield_now();
    }
}

/// Refusals and losses of messages.
fn lose(bus: &Bus, reader: &Bus) {
    let mut full = bus.publisher("full").slots_max(32).open().unwrap();
    let strict = reader.subscriber("full").policy(Policy::Fail).open().unwrap();
    for _ in 0..32 {
        full.send(b"x").unwrap();
    }
    assert!(matches!(full.send(b"x"), Err(SendError::Full(_))));
    drop(strict);
    let mut waits = bus.publisher("waits").slots_max(32).max_wait(PATIENCE).open().unwrap();
    let _block = reader.subscriber("waits").policy(Policy::Block).open().unwrap();
    for _ in 0..32 {
        waits.send(b"x").unwrap();
    }
    assert!(matches!(waits.send_timeout(b"x", Duration::from_millis(2)), Err(SendError::Timeout(_))));
    assert!(matches!(waits.loan(usize::MAX / 4).map(|_| ()), Err(SendError::TooLarge { .. })));
    let no_json = BTreeMap::from([(vec![1], 1)]);
    assert!(matches!(waits.send_json(&no_json), Err(SendError::Encode(_))));
    let mut early = bus.publisher("early").late_join(Duration::from_millis(1)).open().unwrap();
    early.send(b"x").unwrap();
    early.flush(PATIENCE).unwrap();
    let mut laps = bus.publisher("laps").slots_max(32).open().unwrap();
    let mut slow = bus.subscriber("laps").open().unwrap();
    for _ in 0..100 {
        laps.send(b"x").unwrap();
    }
    let kept = slow.recv_timeout(PATIENCE).unwrap();
    assert!(kept.is_some());
    let mut outlet = bus.outlet(laps).before_send(|body| if body.is_empty() { Err("empty") } else { Ok(()) });
    assert!(outlet.send(b"").is_err());
    let full = bus.publisher("full.too").slots_max(32).open().unwrap();
    let _strict = reader.subscriber("full.too").policy(Policy::Fail).open().unwrap();
    let mut outlet = bus.outlet(full).retry(Retry::times(2)).breaker(Breaker::default());
    while outlet.send(b"x").is_ok() {}
    while outlet.account().refused == 0 {
        assert!(outlet.send(b"x").is_err());
    }
}

/// Requests with each outcome that a test can wait for.
fn ask(bus: &Bus, reader: &Bus) {
    let alone = bus.requester("nobody").late_join(Duration::ZERO).open().unwrap();
    assert_eq!(alone.request(b"?", PATIENCE).unwrap_err(), RequestError::NoResponders);
    let requester = bus.requester("time").open().unwrap();
    let mut responder = reader.responder("time").open().unwrap();
    let (has, late) = sync_channel(1);
    let server = std::thread::spawn(move || {
        responder.recv().unwrap().reply(b"noon").unwrap();
        responder.recv().unwrap().fail(b"no").unwrap();
        drop(responder.recv().unwrap());
        let kept = responder.recv().unwrap();
        has.send(()).unwrap();
        (kept, responder)
    });
    assert_eq!(&requester.request(b"1", PATIENCE).unwrap()[..], b"noon");
    assert_eq!(requester.request(b"2", PATIENCE).unwrap_err(), RequestError::Failed(b"no".to_vec()));
    assert_eq!(requester.request(b"3", PATIENCE).unwrap_err(), RequestError::Unanswered);
    // Who answers has it before its time is up, on a machine that is busier too.
    let mut time = Duration::from_millis(5);
    while late.try_recv().is_err() {
        assert_eq!(requester.request(b"4", time).unwrap_err(), RequestError::TimedOut);
        time = (2 * time).min(PATIENCE);
    }
    drop(requester.send(b"5", PATIENCE).unwrap());
    drop(server.join().unwrap());
    let one = bus.requester("one").in_flight(1).open().unwrap();
    let mut responder = reader.responder("one").open().unwrap();
    let first = one.send(b"1", PATIENCE).unwrap();
    assert_eq!(one.request(b"2", Duration::from_millis(5)).unwrap_err(), RequestError::TooMany);
    responder.recv().unwrap().reply(b"1").unwrap();
    drop(first);
    let stream = bus.requester("stream").open().unwrap();
    let mut responder = reader.responder("stream").open().unwrap();
    let mut parts = stream.send(b"all", PATIENCE).unwrap();
    let mut request = responder.recv().unwrap();
    // More than a lane keeps, and nobody takes them.
    for part in 0..6_000_u32 {
        request.reply_part(&part.to_le_bytes()).unwrap();
    }
    request.reply(b"last").unwrap();
    let lost =
        std::iter::from_fn(|| parts.recv().map_or_else(Some, |reply| reply.map(|_| RequestError::TimedOut)));
    assert!(lost.take(6_000).any(|error| error == RequestError::ReplyLost));
    drop(parts);
}

/// A responder whose bus ends with a request in hand.
fn die(bus: &Bus, other: Bus) {
    let requester = bus.requester("dies").open().unwrap();
    let mut responder = other.responder("dies").open().unwrap();
    let mut pending = requester.send(b"?", PATIENCE).unwrap();
    let request = responder.recv().unwrap();
    other.close();
    assert_eq!(pending.recv().unwrap_err(), RequestError::ResponderDied);
    drop((pending, request));
}

/// More than its process may take.
fn starve(bus: &Bus) {
    let mut publisher = bus.publisher("large").open().unwrap();
    assert!(matches!(publisher.loan(1 << 30).map(|_| ()), Err(SendError::OutOfMemory(_))));
}

/// Handlers with each outcome.
fn handle(bus: &Bus) {
    let mut publisher = bus.publisher("orders").open().unwrap();
    let (tell, told) = sync_channel(64);
    let service = bus
        .service("billing")
        .after_receive(|message| if message.is_empty() { Err("empty") } else { Ok(()) })
        .dead_letters("orders.dead")
        .on("orders", move |message| {
            tell.try_send(message.to_vec()).unwrap();
            assert!(&message[..] != b"panic", "as it was told");
            if &message[..] == b"fail" { Err("as it was told") } else { Ok(()) }
        })
        .retry(Retry::times(2).pause(Duration::from_millis(1)))
        .breaker(Breaker::default().failures(4).window(HOUR).pause(HOUR))
        .start()
        .unwrap();
    for order in [&b""[..], b"well", b"fail", b"panic", b"refused"] {
        publisher.send(order).unwrap();
    }
    for _ in 0..5 {
        told.recv_timeout(PATIENCE).unwrap();
    }
    let closed = service.close(PATIENCE);
    assert_eq!(closed.handlers[0].received, 5, "{closed:?}");
}

fn until_cancelled(is: impl Fn() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !is() {
        assert!(!deadline.expired(), "it is waited for");
        std::thread::yield_now();
    }
}

/// Handlers of shared work, of requests and of dead letters.
fn share(bus: &Bus) {
    let mut pusher = bus.pusher("tasks").open().unwrap();
    // Far longer than an acknowledgement takes here, and waited for once.
    let puller = || bus.puller("tasks").group("g").ack(Duration::from_secs(3)).redelivery(Duration::ZERO);
    let (tell, told) = sync_channel(64);
    let (go, gone) = sync_channel::<()>(64);
    let gone = std::sync::Mutex::new(gone);
    let service = bus
        .service("late")
        .pull(puller(), move |task| {
            tell.send(task.deliveries()).unwrap();
            gone.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            if &task[..] == b"fail" { Err("as it was told") } else { Ok(()) }
        })
        .slow_after(Duration::ZERO)
        .retry(Retry::times(1).pause(Duration::ZERO))
        .breaker(Breaker::default().failures(1).pause(HOUR))
        .start()
        .unwrap();
    pusher.send(b"late").unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 1);
    let mut other = puller().open().unwrap();
    let task = other.recv_timeout(PATIENCE).unwrap().expect("its time is up");
    go.send(()).unwrap();
    task.ack().unwrap();
    pusher.send(b"fail").unwrap();
    assert!(told.recv_timeout(PATIENCE).is_ok());
    go.send(()).unwrap();
    let task = other.recv_timeout(PATIENCE).unwrap().expect("it was given back");
    task.ack().unwrap();
    let account = service.close(PATIENCE).handlers[0];
    assert_eq!((account.late, account.returned), (1, 1), "{account:?}");
    let service = bus.service("late").reply("late", |request| {
        until_cancelled(|| request.is_cancelled());
        Ok::<_, String>("nobody waits")
    });
    let service = service.start().unwrap();
    let requester = bus.requester("late").open().unwrap();
    // What is late before it is taken is not handled: then it is asked again.
    let asked = || {
        assert_eq!(requester.request(b"?", Duration::from_millis(20)).unwrap_err(), RequestError::TimedOut);
        bus.metrics().unwrap()
    };
    until(asked, "expired", |now| now.with("handler_events", "expired") > Some(0));
    drop((service, requester));
    let mut letters = bus.publisher("dead").open().unwrap();
    let service =
        bus.service("digs").dead_letters("dead").on("dead", |_| Err("not even this")).start().unwrap();
    letters.send(b"no letter").unwrap();
    // The first lies among the dead letters, where this handler finds it and fails again.
    until(|| bus.metrics().unwrap(), "unburied", |now| now.with("handler_events", "unburied") > Some(0));
    drop(service);
}

/// Work and requests between ports that come and go.
fn ask_and_push(asks: &Bus, answers: &Bus, topic: &str) {
    let mut pusher = asks.pusher(topic).open().unwrap();
    let mut puller = answers.puller(topic).ack(PATIENCE).redelivery(Duration::ZERO).open().unwrap();
    pusher.send(b"x").unwrap();
    puller.recv().unwrap().nack();
    puller.recv().unwrap().ack().unwrap();
    let requester = asks.requester(topic).open().unwrap();
    let mut responder = answers.responder(topic).open().unwrap();
    let mut pending = requester.send(b"?", PATIENCE).unwrap();
    responder.recv().unwrap().reply(b"!").unwrap();
    assert!(pending.recv().unwrap().is_some());
    let mut letters = asks.publisher(topic).open().unwrap();
    let service =
        answers.service("x").on(topic, |_| Err("never")).retry(Retry::times(1).pause(Duration::ZERO));
    let service = service.start().unwrap();
    letters.send(b"x").unwrap();
    assert_eq!(service.close(PATIENCE).handlers[0].failed, 1);
}

/// A handler that runs until it is told to end.
fn run(bus: &Bus) -> (busway::service::Service, SyncSender<()>) {
    let (tell, told) = sync_channel(1);
    let (go, gone) = sync_channel::<()>(1);
    let gone = std::sync::Mutex::new(gone);
    let running = bus.service("runs").on("runs", move |_| {
        tell.send(()).unwrap();
        let _ = gone.lock().unwrap().recv_timeout(PATIENCE);
    });
    let running = running.start().unwrap();
    bus.publisher("runs").open().unwrap().send(b"x").unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    (running, go)
}

/// Stands still at each word about who has what until it is let on, and before the machine.
struct Slow {
    machine: SwarmHandler,
    stands: Mutex<bool>,
    on: Condvar,
}

impl ArtifactHandler for Slow {
    fn on_advert(&self, from: u8, advert: &Heard) {
        drop(self.on.wait_while(self.stands.lock().unwrap(), |stands| *stands).unwrap());
        self.machine.on_advert(from, advert);
    }

    fn on_request(&self, from: u8, request: &Heard) {
        self.machine.on_request(from, request);
    }

    fn on_retransmission(&self, from: u8, request: &Heard) {
        self.machine.on_retransmission(from, request);
    }

    fn on_timer(&self) {
        self.machine.on_timer();
    }

    fn next_word(&self, to: u8, flow: Flow) -> Option<Heard> {
        self.machine.next_word(to, flow)
    }

    fn on_peer_up(&self, peer: u8) {
        self.machine.on_peer_up(peer);
    }

    fn on_peer_down(&self, peer: u8) {
        self.machine.on_peer_down(peer);
    }
}

/// A node whose handler is slow, and another that tells it much and says what it has done with.
fn swarm(bus: &Bus, far: &Bus) {
    let voice = Voice::new();
    let machine = SwarmHandler::new(1, &voice, |_| Interest::Drop, |_, _| {});
    let slow = Arc::new(Slow { machine, stands: Mutex::new(true), on: Condvar::new() });
    let workers = Workers::builder().limit(Flow::Advert, 2, 1 << 20, WhenFull::Coalesce).floor(1, 1);
    let loopback = "127.0.0.1:0".parse().unwrap();
    let node = Node::builder().cluster("slow").index(1).listen(loopback);
    let node = node.artifact_handler(slow.clone(), &voice, workers).open(bus).unwrap();
    let other = Node::builder().cluster("slow").index(0).peer(1, &node.listening()[0].to_string());
    let other = other.open(far).unwrap();
    assert!(node.wait_for_peers(1, PATIENCE));
    let counted = |name: &str, flow: &str| bus.metrics().unwrap().with(name, flow).unwrap();
    let deadline = Deadline::after(PATIENCE);
    let offers = far.artifacts("block").unwrap();
    // Each is told, and each of ours is done with: what says so makes what said so before worthless.
    while counted("flow_waited", "advert") == 0 || counted("flow_coalesced", "advert") == 0 {
        assert!(!deadline.expired(), "{:?}", fed(&bus.metrics().unwrap()));
        slow.machine.offer("block", b"x", b"").unwrap();
        let told = Deadline::after(Duration::from_millis(20));
        if counted("flow_coalesced", "advert") > 0 {
            offers.offer(b"y").keep().open().unwrap();
        }
        while !told.expired() {
            std::thread::yield_now();
        }
    }
    until(
        || bus.metrics().unwrap(),
        "its link is handled",
        |now| now.with("flow_handled", "transport") == Some(1),
    );
    std::thread::scope(|scope| {
        let ends = scope.spawn(move || drop(node));
        // What waits when it ends is dropped.
        until(|| bus.metrics().unwrap(), "an end", |now| now.with("flow_dropped", "advert") > Some(0));
        *slow.stands.lock().unwrap() = false;
        slow.on.notify_all();
        ends.join().unwrap();
    });
    drop(other);
}

/// Names of which each label is fed; of causes some belong to what a test here cannot do.
const FED_WHOLE: [&str; 5] = ["errors", "outbound_dropped", "requests", "handled", "handler_events"];

const FED_CAUSES: [(&str, &str); 4] = [
    ("inbound_dropped", "lapped"),
    ("dropped", "lapped"),
    ("dropped", "no_subscriber"),
    ("dropped", "subscriber_left"),
];

#[test]
fn every_name_in_the_table_is_fed_by_something() {
    let (here, there) = (Directory::new(), Directory::new());
    let (bus, reader, far) = (here.join("counts"), here.join("reads"), there.join("far"));
    lose(&bus, &reader);
    ask(&bus, &reader);
    die(&bus, here.join("dies"));
    handle(&bus);
    share(&bus);
    starve(&bus);
    swarm(&bus, &far);
    let (running, go) = run(&bus);
    let mut pusher = bus.pusher("work").open().unwrap();
    let mut puller = bus.puller("work").open().unwrap();
    pusher.send(b"x").unwrap();
    let before = bus.metrics().unwrap().get("messages_received").unwrap();
    puller.recv().unwrap().ack().unwrap();
    assert_eq!(bus.metrics().unwrap().get("messages_received"), Some(before + 1), "a puller receives");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |address| Node::builder().cluster("test").index(1).listen(address);
    assert!(at(taken.local_addr().unwrap()).open(&bus).is_err());
    let node = at("127.0.0.1:0".parse().unwrap()).open(&bus).unwrap();
    let other = Node::builder().cluster("test").index(0).peer(1, &node.listening()[0].to_string());
    let other = other.open(&far).unwrap();
    assert!(node.wait_for_peers(1, PATIENCE));
    until(|| bus.metrics().unwrap(), "a link", |now| now.get("active_connections") == Some(1));
    let mut abroad = bus.subscriber("abroad").policy(Policy::Block).open().unwrap();
    let mut brings = far.publisher("abroad").open().unwrap();
    brings.wait_for_subscribers(1, PATIENCE).unwrap();
    // One that is not copied out.
    brings.send(&[7; 1000]).unwrap();
    let sample = abroad.recv_timeout(PATIENCE).unwrap().unwrap();
    let _later = reader.subscriber("under.way").open().unwrap();
    let mut under_way = bus.publisher("under.way").open().unwrap();
    under_way.send(b"x").unwrap();
    let metrics = bus.metrics().unwrap();
    let fed = fed(&metrics);
    for metric in METRICS.iter().filter(|metric| metric.name != "accounts_open") {
        assert!(metrics.get(metric.name).unwrap() > 0, "nothing feeds {}: {fed:?}", metric.name);
    }
    assert_eq!(metrics.get("accounts_open"), Some(0));
    for (name, label) in FED_CAUSES {
        assert!(metrics.with(name, label).unwrap() > 0, "nothing feeds {name} {label}: {fed:?}");
    }
    for metric in METRICS.iter().filter(|metric| FED_WHOLE.contains(&metric.name)) {
        let of_it = metrics.values.iter().filter(|value| value.name == metric.name);
        assert!(of_it.clone().count() > 1, "{}", metric.name);
        assert!(
            of_it.clone().all(|value| value.value > 0),
            "something feeds no label of {}: {fed:?}",
            metric.name
        );
    }
    assert_eq!(metrics.get("request_timeouts"), metrics.with("requests", "timed_out"));
    go.send(()).unwrap();
    drop(running);
    assert_eq!(bus.metrics().unwrap().get("handlers_running"), Some(0));
    drop((sample, other));
    until(|| bus.metrics().unwrap(), "the end of a link", |now| now.get("active_connections") == Some(0));
    println!("evidence: names={} values={}", METRICS.len(), fed.len());
}

/// Looks at all counters until it is told; how often.
fn watch(bus: &Bus, watches: &Bus, seed: u64, told: &Receiver<()>) -> u64 {
    let counts = |metric: &&busway::metrics::Metric| metric.kind == MetricKind::Counter;
    let counters: BTreeSet<&str> = METRICS.iter().filter(counts).map(|metric| metric.name).collect();
    assert_eq!(counters.len(), 21, "{counters:?}");
    let mut last: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut looks = 0;
    while told.try_recv() == Err(TryRecvError::Empty) {
        // Its own account is exact in each moment; that of others is read while they go on.
        let mut all = watches.metrics_of_all().unwrap();
        let mut own = bus.metrics().unwrap();
        own.process.push_str(" itself");
        all.push(own);
        for of in &all {
            for value in of.values.iter().filter(|value| counters.contains(value.name)) {
                let name = format!("{} {}", value.name, value.label.map_or("", |(_, label)| label));
                let before = last.insert((of.process.clone(), name.clone()), value.value).unwrap_or(0);
                let (now, of) = (value.value, &of.name);
                assert!(now >= before, "seed {seed}: {name} of {of} went from {before} to {now}");
            }
        }
        looks += 1;
    }
    looks
}

#[test]
fn what_ports_have_counted_that_are_gone_stays_counted_once_and_nothing_goes_back() {
    let directory = Directory::new();
    let (bus, other, watches) = (directory.join("one"), directory.join("two"), directory.join("watches"));
    let (asks, answers) = (directory.join("asks"), directory.join("answers"));
    let seed = 5;
    let mut rng = fastrand::Rng::with_seed(seed);
    let (tell, told) = sync_channel::<()>(0);
    let watcher = std::thread::spawn({
        let bus = bus.clone();
        move || watch(&bus, &watches, seed, &told)
    });
    let (mut sent, mut received) = (0, 0);
    for n in 0..300 {
        // Each its own: a publisher waits a while for a subscriber of its topic that has just gone.
        let topic = format!("x{n}");
        let mut publisher = bus.publisher(&topic).open().unwrap();
        let count = rng.u64(0..40);
        let mut subscriber = other.subscriber(&topic).policy(Policy::Block).open().unwrap();
        for _ in 0..count {
            publisher.send(b"1234").unwrap();
        }
        let takes = rng.u64(0..=count);
        (0..takes).for_each(|_| assert!(subscriber.recv_timeout(PATIENCE).unwrap().is_some()));
        (sent, received) = (sent + count, received + takes);
        if n % 100 == 0 {
            ask_and_push(&asks, &answers, &topic);
        }
    }
    drop(tell);
    let looks = watcher.join().unwrap();
    let of = |name: &str| other.metrics_of_all().unwrap().into_iter().find(|of| of.name == name).unwrap();
    let own = bus.metrics().unwrap();
    assert_eq!((own.get("messages_sent"), own.get("bytes_sent")), (Some(sent), Some(4 * sent)));
    assert_eq!(of("one").get("messages_sent"), Some(sent), "as others see it");
    assert_eq!(
        (other.metrics().unwrap().get("messages_received"), of("two").get("messages_received")),
        (Some(received), Some(received))
    );
    let lost = Some(sent - received);
    until(|| bus.metrics().unwrap(), "all are settled", |own| own.with("dropped", "subscriber_left") == lost);
    until(|| of("one"), "also for others", |own| own.with("dropped", "subscriber_left") == lost);
    let own = bus.metrics().unwrap();
    assert_eq!(
        (own.get("delivered"), own.get("in_flight"), own.get("accounts_open")),
        (Some(received), Some(0), Some(0))
    );
    println!("evidence: publishers=300 sent={sent} received={received} looks={looks}");
}

#[test]
fn the_page_on_metrics_is_the_table() {
    let page = include_str!("../../../docs/metrics.md");
    let shown: Vec<&str> = page.lines().filter(|line| line.starts_with("| `busway_")).collect();
    let line = |metric: &busway::metrics::Metric| {
        let (suffix, kind) = match metric.kind {
            MetricKind::Counter => ("_total", "counter"),
            _ => ("", "gauge"),
        };
        let label = metric.label.map_or("-".to_owned(), |label| format!("`{label}`"));
        format!(
            "| `busway_{}{suffix}` | {kind} | {} | {label} | {} | {} |",
            metric.name, metric.unit, metric.help, metric.counted
        )
    };
    let table: Vec<String> = METRICS.iter().map(line).collect();
    assert_eq!(shown, table, "the table:\n{}", table.join("\n"));
    for name in METRICS.iter().map(|metric| metric.name) {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!(METRICS.iter().filter(|metric| metric.name == name).count(), 1, "{name} twice");
    }
    let first = [
        "messages_sent",
        "messages_received",
        "errors",
        "outbound_dropped",
        "inbound_dropped",
        "backpressure_events",
        "request_timeouts",
        "failed_bind_count",
        "active_connections",
    ];
    assert_eq!(METRICS.iter().take(9).map(|metric| metric.name).collect::<Vec<_>>(), first);
}
