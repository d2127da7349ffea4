//! Beginning and end: closing returns whoever waits, every error has its code, and a silent process is told apart
//! from a dead one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/asleep.rs"]
mod asleep;
#[path = "scene/part.rs"]
mod part;
#[path = "scene/place.rs"]
mod place;

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use asleep::until_asleep;
use busway::{Bus, Code, Policy, PortState, ProcessView, Publisher, RecvError, SendError, Topic};
use busway_shm::clock::{Deadline, monotonic_ns};
use part::{Part, hear, say};
use place::{PATIENCE, Scene};
use rustix::process::{Pid, Signal};
use rustix::thread::gettid;

/// What waits for so long was woken, and not by its own time.
const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn plays_its_part_if_it_was_started_for_one() {
    let Some(part) = Part::given() else { return };
    let bus = part.bus();
    say("joined");
    while let Some(line) = hear() {
        if line == "close" {
            bus.close();
            say("closed");
        }
    }
}

/// What a waiting thread says.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Runs(Pid),
    Received(Result<(), RecvError>),
    Sent(Result<(), SendError>),
    Flushed(Result<(), SendError>),
    Waited(Result<usize, Code>),
}

fn runs(results: &Receiver<Told>) -> Pid {
    match results.recv_timeout(PATIENCE).unwrap() {
        Told::Runs(thread) => thread,
        other => panic!("a thread that does not wait: {other:?}"),
    }
}

/// Milliseconds that `close` takes, and that the waiting thread takes to return after it began.
fn close_ms(bus: &Bus, returned: impl FnOnce()) -> (u64, u64) {
    let begun = monotonic_ns();
    bus.close();
    let closed = monotonic_ns();
    returned();
    ((closed - begun) / 1_000_000, (monotonic_ns() - begun) / 1_000_000)
}

#[test]
fn closing_returns_while_a_thread_waits_in_recv() {
    for pattern in ["one.topic", "all.>"] {
        let scene = Scene::new();
        let bus = scene.bus("waits");
        let (sender, results) = channel();
        let mut subscriber = bus.subscriber(pattern).open().unwrap();
        let thread = std::thread::spawn(move || {
            sender.send(Told::Runs(gettid())).unwrap();
            sender.send(Told::Received(subscriber.recv().map(drop))).unwrap();
        });
        until_asleep(runs(&results));
        let (closing, returning) = close_ms(&bus, || {
            let result = results.recv_timeout(PATIENCE).expect("recv returns after close");
            assert_eq!(result, Told::Received(Err(RecvError::Closed)));
        });
        thread.join().unwrap();
        println!("evidence: pattern={pattern} close_ms={closing} recv_returned_ms={returning}");
    }
}

/// Fills a ring until its subscriber, which does not read, makes the next send wait.
fn fill(publisher: &mut Publisher) {
    for _ in 0..1_000 {
        match publisher.try_send(&[7; 64]) {
            Ok(_) => {}
            Err(SendError::Full(_)) => return,
            Err(error) => panic!("filling the ring: {error}"),
        }
    }
    panic!("a ring of 32 slots takes a thousand messages");
}

#[test]
fn closing_returns_while_a_thread_waits_in_send() {
    let scene = Scene::new();
    let (theirs, ours) = (scene.bus("reads"), scene.bus("writes"));
    let _subscriber = theirs.subscriber("full.ring").policy(Policy::Block).open().unwrap();
    let mut publisher = ours.publisher("full.ring").slots_max(32).max_wait(HOUR).open().unwrap();
    assert_eq!(publisher.wait_for_subscribers(1, PATIENCE).unwrap(), 1);
    fill(&mut publisher);
    let (sender, results) = channel();
    let thread = std::thread::spawn(move || {
        sender.send(Told::Runs(gettid())).unwrap();
        sender.send(Told::Sent(publisher.send(b"waits").map(drop))).unwrap();
    });
    until_asleep(runs(&results));
    let (closing, returning) = close_ms(&ours, || {
        let result = results.recv_timeout(PATIENCE).expect("send returns after close");
        assert_eq!(result, Told::Sent(Err(SendError::Closed)));
    });
    thread.join().unwrap();
    println!("evidence: max_wait_ms=3600000 close_ms={closing} send_returned_ms={returning}");
}

#[test]
fn closing_returns_while_threads_wait_for_subscribers_and_for_a_flush() {
    let scene = Scene::new();
    let (theirs, ours) = (scene.bus("reads"), scene.bus("writes"));
    let _subscriber = theirs.subscriber("flushed").policy(Policy::Block).open().unwrap();
    let mut flushing = ours.publisher("flushed").max_wait(HOUR).open().unwrap();
    assert_eq!(flushing.wait_for_subscribers(1, PATIENCE).unwrap(), 1);
    flushing.send(b"unread").unwrap();
    let waiting = ours.publisher("unheard").open().unwrap();
    let (sender, results) = channel();
    let second = sender.clone();
    let flush = std::thread::spawn(move || {
        sender.send(Told::Runs(gettid())).unwrap();
        sender.send(Told::Flushed(flushing.flush(HOUR))).unwrap();
    });
    let wait = std::thread::spawn(move || {
        second.send(Told::Runs(gettid())).unwrap();
        let waited = waiting.wait_for_subscribers(1, HOUR);
        second.send(Told::Waited(waited.map_err(|error| error.code()))).unwrap();
    });
    let threads = [runs(&results), runs(&results)];
    threads.into_iter().for_each(until_asleep);
    let (closing, returning) = close_ms(&ours, || {
        let ended = [results.recv_timeout(PATIENCE).unwrap(), results.recv_timeout(PATIENCE).unwrap()];
        assert!(ended.contains(&Told::Flushed(Err(SendError::Closed))), "{ended:?}");
        assert!(ended.contains(&Told::Waited(Err(Code::Closed))), "{ended:?}");
    });
    flush.join().unwrap();
    wait.join().unwrap();
    println!("evidence: close_ms={closing} returned_ms={returning}");
}

#[test]
fn every_call_on_a_closed_bus_says_so_and_closing_twice_is_nothing() {
    let scene = Scene::new();
    let bus = scene.bus("closes");
    let mut publisher = bus.publisher("a").open().unwrap();
    let mut subscriber = bus.subscriber("a").open().unwrap();
    publisher.send(&[1; 200]).unwrap();
    let kept = subscriber.recv().unwrap();
    bus.clone().close();
    bus.close();
    assert_eq!(publisher.try_send(b"x").unwrap_err(), SendError::Closed);
    assert_eq!(publisher.send(b"x").unwrap_err(), SendError::Closed);
    assert_eq!(publisher.loan(8).unwrap_err(), SendError::Closed);
    assert_eq!(publisher.flush(PATIENCE).unwrap_err(), SendError::Closed);
    assert_eq!(subscriber.try_recv().unwrap_err(), RecvError::Closed);
    assert_eq!(subscriber.recv_timeout(Duration::ZERO).unwrap_err(), RecvError::Closed);
    assert_eq!(bus.publisher("b").open().unwrap_err().code(), Code::Closed);
    assert_eq!(bus.subscriber("b").open().unwrap_err().code(), Code::Closed);
    assert_eq!(bus.inspect().unwrap_err().code(), Code::Closed);
    assert_eq!(&kept[..], &[1; 200], "a sample outlives the bus");
    drop((publisher, subscriber));
    let left: Vec<String> = std::fs::read_dir(scene.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["test.lock"], "only the lock stays");
}

#[test]
fn two_members_that_leave_at_once_leave_only_the_lock() {
    let scene = Scene::new();
    let rounds = 300;
    for round in 0..rounds {
        let buses = [scene.bus("one"), scene.bus("other")];
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for bus in &buses {
                scope.spawn(|| {
                    start.wait();
                    bus.close();
                });
            }
        });
        let left: Vec<String> = std::fs::read_dir(scene.directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(left, ["test.lock"], "round {round}");
    }
    println!("evidence: rounds={rounds}");
}

#[test]
fn names_that_are_none_have_the_code_of_what_they_should_be() {
    let scene = Scene::new();
    let bus = scene.bus("names");
    for (topic, code) in [("a..b", Code::BadTopic), ("a.*", Code::BadTopic), ("$bus.up", Code::ReservedTopic)]
    {
        assert_eq!(bus.publisher(topic).open().unwrap_err().code(), code, "{topic}");
    }
    let reserved = Topic::reserved("$bus.up").unwrap();
    assert_eq!(bus.publisher_of(reserved).open().unwrap_err().code(), Code::ReservedTopic);
    for pattern in ["", "a..b", "a.>.b", "a b"] {
        assert_eq!(bus.subscriber(pattern).open().unwrap_err().code(), Code::BadPattern, "{pattern}");
    }
    bus.subscriber("$bus.>").open().unwrap();
}

#[test]
fn every_error_code_of_the_library_is_listed_in_the_docs_with_its_meaning() {
    const PAGE: &str = include_str!("../../../docs/errors.md");
    let (_, library) = PAGE.split_once("\n## The library\n").expect("the page lists the library's codes");
    let library = library.split("\n## ").next().unwrap();
    let listed: Vec<(&str, &str)> = library
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .collect();
    let ours: Vec<(String, &str)> = Code::ALL.iter().map(|code| (code.to_string(), code.meaning())).collect();
    let listed: Vec<(String, &str)> =
        listed.iter().map(|(code, meaning)| ((*code).to_owned(), *meaning)).collect();
    assert_eq!(listed, ours, "docs/errors.md and `Code::ALL` differ");
    println!("evidence: codes={}", ours.len());
}

/// Looks until the process of this name is as wanted.
fn until(bus: &Bus, name: &str, what: &str, wanted: impl Fn(Option<&ProcessView>) -> bool) {
    let deadline = Deadline::after(PATIENCE);
    loop {
        let found = bus.inspect().unwrap();
        let view = found.processes.iter().find(|process| process.name == name);
        if wanted(view) {
            return;
        }
        assert!(!deadline.expired(), "{what}: {view:?}");
        std::thread::yield_now();
    }
}

#[test]
fn inspection_says_when_a_process_last_beat_and_whether_it_lives_hangs_or_has_gone() {
    let scene = Scene::new();
    let bus = scene.bus("looks");
    let mut child = scene.start("beats");
    assert_eq!(child.line(), "joined");
    let looked = monotonic_ns();
    until(&bus, "beats", "a live process beats every 250 ms", |view| {
        view.is_some_and(|v| v.state == PortState::Live && v.missed_beats == 0 && v.last_beat_ms <= 500)
    });
    let begun = monotonic_ns();
    child.signal(Signal::STOP);
    until(&bus, "beats", "a stopped process misses beats before it counts as hung", |view| {
        view.is_some_and(|v| v.state == PortState::Live && v.missed_beats >= 4 && v.last_beat_ms >= 1_000)
    });
    let missed = monotonic_ns();
    until(&bus, "beats", "a stopped process is reported as hung", |view| {
        view.is_some_and(|v| v.state == PortState::Hung)
    });
    let hung_ms = (monotonic_ns() - begun) / 1_000_000;
    // A beat may be 250 ms old when the signal comes. How late we look is the machine's.
    assert!((2_700..11_000).contains(&hung_ms), "reported as hung after {hung_ms} ms");
    until(&bus, "beats", "it hangs since three seconds after its last beat", |view| {
        view.is_some_and(|v| {
            let last_beat_ns = v.since_ns - 3_000_000_000;
            v.missed_beats >= 11 && (looked - 500_000_000..=missed - 1_000_000_000).contains(&last_beat_ns)
        })
    });
    child.signal(Signal::CONT);
    until(&bus, "beats", "it lives again", |view| {
        view.is_some_and(|v| v.state == PortState::Live && v.missed_beats == 0)
    });
    assert_eq!(child.ask("close"), "closed");
    until(&bus, "beats", "who has left is not listed", |view| view.is_none());
    println!("evidence: hung_after_ms={hung_ms}");
}
