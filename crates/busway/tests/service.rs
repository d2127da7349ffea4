//! Services on real buses: order, bounds, retries, breakers, hooks, and what becomes of what waits at the end.
//!
//! Nothing here depends on how long something takes: what is waited for has a deadline, and pauses are an hour or nothing.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

#[path = "scene/alone.rs"]
mod alone;

use busway_shm::sync::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use busway::service::{Breaker, BreakerState, DeadLetter, DeadReason, HandlerAccount, Order, Retry, Service};
use busway::{Account, Cause, Code, Policy};
use busway_shm::clock::Deadline;

use alone::Scene;

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);

/// What handlers tell the test, and the gate at which some of them wait.
#[derive(Clone, Default)]
struct Notes(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    lines: Vec<String>,
    open: bool,
}

impl Notes {
    fn write(&self, line: impl Into<String>) {
        self.0.0.lock().unwrap().lines.push(line.into());
        self.0.1.notify_all();
    }

    fn until(&self, what: &str, mut done: impl FnMut(&State) -> bool) {
        let (state, timeout) =
            self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), PATIENCE, |state| !done(state)).unwrap();
        assert!(!timeout.timed_out(), "{what}: {} lines", state.lines.len());
    }

    fn wait_for(&self, lines: usize) -> Vec<String> {
        self.until("lines do not come", |state| state.lines.len() >= lines);
        self.0.0.lock().unwrap().lines.clone()
    }

    /// Waits at the gate.
    fn gate(&self) {
        self.until("the gate is not opened", |state| state.open);
    }

    fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done() {
        assert!(!deadline.expired(), "{what}");
        std::thread::yield_now();
    }
}

fn ended(account: &HandlerAccount) -> u64 {
    account.handled + account.failed + account.unhandled + account.rejected + account.dropped
}

fn account(service: &Service) -> HandlerAccount {
    let account = service.account()[0];
    assert_eq!(account.received, ended(&account) + account.in_hand + account.parked, "{account:?}");
    account
}

#[test]
fn messages_of_a_topic_come_one_after_the_other_and_as_many_topics_at_once_as_was_asked_for() {
    let scene = Scene::new();
    let mut publishers: Vec<_> =
        (0..4).map(|n| scene.bus.publisher(&format!("work.{n}")).open().unwrap()).collect();
    let (notes, seen) = (Notes::default(), Notes::default());
    let (first, wrote) = (notes.clone(), seen.clone());
    let service = scene
        .bus
        .service("order")
        .on("work.*", move |message| {
            if message.sequence() == 1 {
                first.write(message.topic());
                first.gate();
            }
            wrote.write(format!("{} {}", message.topic(), message.sequence()));
        })
        .policy(Policy::Block)
        .concurrency(4)
        .start()
        .unwrap();
    for _ in 0..200 {
        for publisher in &mut publishers {
            publisher.try_send(b"x").unwrap();
        }
    }
    notes.wait_for(4);
    assert_eq!(seen.wait_for(0).len(), 0, "all four are in hand, and no other of their topics");
    notes.open();
    let lines = seen.wait_for(800);
    for topic in 0..4 {
        let of_topic = lines.iter().filter_map(|line| line.strip_prefix(&format!("work.{topic} ")));
        let sequences: Vec<u64> = of_topic.map(|sequence| sequence.parse().unwrap()).collect();
        assert_eq!(sequences, Vec::from_iter(1..=200), "topic {topic}");
    }
    let closed = service.close(PATIENCE);
    assert_eq!((closed.handlers[0].received, closed.handlers[0].handled, closed.running), (800, 800, 0));
    println!("evidence: messages=800 topics=4");
}

#[test]
fn without_order_messages_of_one_topic_are_handled_beside_each_other() {
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("work").open().unwrap();
    let notes = Notes::default();
    let inside = notes.clone();
    let service = scene
        .bus
        .service("beside")
        .on("work", move |_| {
            inside.write("in");
            inside.gate();
        })
        .concurrency(3)
        .order(Order::None)
        .start()
        .unwrap();
    for _ in 0..5 {
        publisher.send(b"x").unwrap();
    }
    notes.wait_for(3);
    assert_eq!(account(&service).in_hand, 3);
    notes.open();
    assert_eq!(service.close(PATIENCE).handlers[0].handled, 5);
}

#[test]
fn what_a_full_pool_has_no_hand_for_stays_in_the_ring_where_the_policy_decides() {
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("flood").open().unwrap();
    let (notes, others) = (Notes::default(), Notes::default());
    let (inside, other) = (notes.clone(), others.clone());
    let service = scene
        .bus
        .service("full")
        .workers(2)
        .on("flood", move |message| {
            inside.write(message.sequence().to_string());
            inside.gate();
        })
        .policy(Policy::DropOldest { depth: 16 })
        .on("flood", move |_| other.write("other"))
        .policy(Policy::Block)
        .start()
        .unwrap();
    publisher.send(b"x").unwrap();
    notes.wait_for(1);
    for _ in 0..9_999 {
        publisher.send(b"x").unwrap();
    }
    // The second worker asked 10 000 times what there is to do.
    others.wait_for(10_000);
    let taken = account(&service);
    assert_eq!((taken.received, taken.in_hand, taken.parked), (1, 1, 0), "nothing is kept here");
    notes.open();
    let lines = notes.wait_for(17);
    assert_eq!(lines[16], "10000", "the newest 16 came, behind the one in hand");
    let closed = service.close(PATIENCE);
    assert_eq!(closed.handlers[0].handled, 17);
    let sent = publisher.account();
    assert_eq!((sent.delivered, sent.dropped.get(Cause::Lapped.name()).copied()), (10_017, Some(9_983)));
    println!("evidence: sent=10000 handled=17 lapped=9983");
}

/// Panics once more when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "seen to as well");
    }
}

#[test]
fn what_failed_or_panicked_is_tried_again_as_the_same_message_and_no_more_often_than_was_asked_for() {
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("jobs").open().unwrap();
    let notes = Notes::default();
    let inside = notes.clone();
    let service = scene
        .bus
        .service("again")
        .on("jobs", move |message| {
            let (sequence, attempt) = (message.sequence(), message.attempt());
            inside.write(format!("{sequence}.{attempt} of {}", message.source().0));
            match &message[..] {
                b"bad" => Err("it is bad".to_owned()),
                b"panic" if attempt == 1 => panic!("seen to"),
                b"panic" if attempt == 2 => std::panic::panic_any(Bomb),
                _ => Ok(()),
            }
        })
        .retry(Retry::times(2).pause(Duration::ZERO))
        .policy(Policy::Block)
        .start()
        .unwrap();
    for payload in [&b"bad"[..], b"panic", b"good"] {
        publisher.send(payload).unwrap();
    }
    let source = publisher.id().0;
    let expected = ["1.1", "1.2", "1.3", "2.1", "2.2", "2.3", "3.1"].map(|id| format!("{id} of {source}"));
    assert_eq!(notes.wait_for(7), expected, "in order, and none behind one that is tried again");
    let closed = service.close(PATIENCE).handlers[0];
    assert_eq!((closed.handled, closed.failed, closed.retried, closed.panicked), (2, 1, 4, 2));
}

#[test]
fn a_handler_that_fails_is_left_alone_until_a_probe_ends_well_and_others_are_not() {
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("jobs").open().unwrap();
    let notes = Notes::default();
    let (bad, good, back) = (notes.clone(), Notes::default(), Notes::default());
    let (other, cured) = (good.clone(), back.clone());
    let service = scene
        .bus
        .service("breaker")
        .on("jobs", move |_| {
            bad.write("bad");
            Err("always")
        })
        .breaker(Breaker::default().failures(3).window(HOUR).pause(HOUR))
        .policy(Policy::Block)
        .on("jobs", move |_| other.write("good"))
        .breaker(Breaker::default().failures(1))
        .policy(Policy::Block)
        .on("jobs", move |message| {
            cured.write("back");
            if message.sequence() == 1 { Err("only once") } else { Ok(()) }
        })
        .breaker(Breaker::default().failures(1).pause(Duration::from_nanos(1)))
        .policy(Policy::Block)
        .start()
        .unwrap();
    for _ in 0..10 {
        publisher.send(b"x").unwrap();
    }
    good.wait_for(10);
    back.wait_for(10);
    until("the third handler ends", || service.account()[2].handled == 9);
    until("all are dealt with", || ended(&service.account()[0]) == 10);
    let (closed, half) = (BreakerState::Closed, BreakerState::Open);
    assert_eq!(service.breakers(), [Some(half), Some(closed), Some(closed)]);
    let account = account(&service);
    assert_eq!((notes.wait_for(0).len(), account.refused), (3, 7), "after three failures it was not called");
    assert_eq!((account.failed, account.unhandled), (3, 7), "who was not called has not failed");
}

#[test]
fn hooks_are_asked_in_order_once_a_message_and_one_that_fails_or_panics_rejects() {
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("jobs").open().unwrap();
    let notes = Notes::default();
    let [first, second, handler] = [notes.clone(), notes.clone(), notes.clone()];
    let service = scene
        .bus
        .service("hooks")
        .after_receive(move |message| {
            first.write(format!("first {}", message.sequence()));
            if &message[..] == b"refuse" { Err("not this one") } else { Ok(()) }
        })
        .after_receive(move |message| {
            second.write(format!("second {}", message.sequence()));
            assert!(&message[..] != b"panic", "seen to");
        })
        .on("jobs", move |message| {
            handler.write(format!("handler {}", message.sequence()));
            if message.attempt() == 1 { Err("once more") } else { Ok(()) }
        })
        .retry(Retry::times(1).pause(Duration::ZERO))
        .policy(Policy::Block)
        .start()
        .unwrap();
    for payload in [&b"refuse"[..], b"panic", b"good"] {
        publisher.send(payload).unwrap();
    }
    let expected = ["first 1", "first 2", "second 2", "first 3", "second 3", "handler 3", "handler 3"];
    assert_eq!(notes.wait_for(7), expected);
    let closed = service.close(PATIENCE).handlers[0];
    assert_eq!((closed.handled, closed.rejected, closed.hooks_panicked), (1, 2, 1));
}

#[test]
fn what_is_given_up_lies_whole_on_the_topic_for_dead_letters_and_none_of_those_is_buried_again() {
    let scene = Scene::new();
    let mut dead = scene.bus.subscriber("jobs.dead").policy(Policy::Block).open().unwrap();
    let mut publisher = scene.bus.publisher("jobs.new").open().unwrap();
    // Its handler is called with the dead letters as well, and fails at them.
    let service = scene
        .bus
        .service("graves")
        .dead_letters("jobs.dead")
        .on("jobs.>", move |message| {
            if &message[..] == b"panic" {
                std::panic::panic_any("seen to");
            }
            Err("two\nlines")
        })
        .retry(Retry::times(2).pause(Duration::ZERO))
        .breaker(Breaker::default().failures(9).window(HOUR).pause(HOUR))
        .policy(Policy::Block)
        .start()
        .unwrap();
    let large: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut expect = |payload: &[u8], sequence, reason, error: &str| {
        publisher.send(payload).unwrap();
        let message = dead.recv_timeout(PATIENCE).unwrap().expect("a dead letter");
        let letter = DeadLetter::decode(&message).unwrap();
        assert!(letter.payload == payload, "the payload is another");
        assert_eq!((letter.source, letter.sequence), (publisher.id(), sequence));
        assert_eq!((letter.topic, letter.service, letter.attempts), ("jobs.new", "graves", 3));
        assert_eq!((letter.reason, letter.error), (reason, error));
        let counted = || {
            let account = service.account()[0];
            assert!(account.buried < sequence + 1, "a dead letter is buried again");
            account
        };
        until("the dead letter is given up as well", || counted().unburied == sequence);
        let account = counted();
        // The breaker refuses the second dead letter, the third message and its dead letter: none of those has failed.
        let (unhandled, retried) = [(0, 4), (1, 6), (3, 6)][sequence as usize - 1];
        assert_eq!((account.failed + account.unhandled, account.buried), (2 * sequence, sequence));
        assert_eq!((account.unhandled, account.retried), (unhandled, retried));
    };
    expect(&large, 1, DeadReason::Error, "two lines");
    expect(b"panic", 2, DeadReason::Panic, "seen to");
    // Those were six attempts, and three at the first dead letter: the breaker is open.
    expect(b"later", 3, DeadReason::Breaker, "the breaker is open");
    drop(service);
    assert!(dead.try_recv().unwrap().is_none());
    println!("evidence: given_up=6 buried=3 bytes=1000010");
}

#[test]
fn dead_letters_of_services_that_bury_in_each_other_go_no_further_than_once() {
    let scene = Scene::new();
    let start = |name: &str, reads: &str, buries: &str| {
        let service = scene.bus.service(name).dead_letters(buries).on(reads, |_| Err("no"));
        service.policy(Policy::Block).start().unwrap()
    };
    let (one, two) = (start("one", "a", "b"), start("two", "b", "a"));
    let mut publisher = scene.bus.publisher("a").open().unwrap();
    for _ in 0..3 {
        publisher.send(b"?").unwrap();
    }
    until("each is given up twice", || account(&two).failed == 3);
    let (first, second) = (one.close(PATIENCE).handlers[0], two.close(PATIENCE).handlers[0]);
    assert_eq!((first.failed, first.buried, first.unburied), (3, 3, 0));
    assert_eq!((second.failed, second.buried, second.unburied), (3, 0, 3));
}

#[test]
fn a_dead_letter_that_this_version_cannot_read_is_not_buried_in_another() {
    let scene = Scene::new();
    let service = scene.bus.service("old").dead_letters("dead").on("jobs", |_| Err("no"));
    let service = service.policy(Policy::Block).start().unwrap();
    let mut publisher = scene.bus.publisher("jobs").open().unwrap();
    publisher.send(b"BUSWAYDL and what a later version says").unwrap();
    until("it is given up", || account(&service).failed == 1);
    let closed = service.close(PATIENCE).handlers[0];
    assert_eq!((closed.failed, closed.buried, closed.unburied), (1, 0, 1));
}

#[test]
fn closing_handles_what_is_there_and_what_it_has_no_time_for_is_counted() {
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("jobs").open().unwrap();
    for linger in [PATIENCE, Duration::MAX, Duration::ZERO] {
        let notes = Notes::default();
        let inside = notes.clone();
        let service = scene
            .bus
            .service("drain")
            .on("jobs", move |_| {
                inside.write("in");
                inside.gate();
            })
            .policy(Policy::Block)
            .start()
            .unwrap();
        let before = publisher.account();
        for _ in 0..20 {
            publisher.send(b"x").unwrap();
        }
        notes.wait_for(1);
        if !linger.is_zero() {
            notes.open();
        }
        let closed = service.close(linger);
        let counted = closed.handlers[0];
        assert_eq!(
            closed.running,
            u64::from(linger.is_zero()),
            "a handler that runs is told, not waited for"
        );
        notes.open();
        let gone =
            |account: &Account| account.dropped.get(Cause::SubscriberLeft.name()).copied().unwrap_or(0);
        // The publisher takes note of who has left at its next look.
        until("what was left in the ring is not counted", || {
            let left = gone(&publisher.account()) - gone(&before);
            ended(&counted) + counted.in_hand + left == 20
        });
        assert_eq!(counted.handled, if linger.is_zero() { 0 } else { 20 });
    }
    println!("evidence: sent=60 lost_uncounted=0");
}

#[test]
fn closing_under_load_handles_what_had_come_and_goes_on_with_nothing_else() {
    let (account, before) = close_under_load(Policy::Block);
    assert!(account.handled >= before, "what had come: {account:?}, {before} sent");
    println!("evidence: sent_before={before} handled={}", account.handled);
}

#[test]
fn closing_under_load_ends_also_where_what_is_too_much_is_lost() {
    for policy in [Policy::DropNewest { depth: 64 }, Policy::DropOldest { depth: 64 }, Policy::KeepLatest] {
        let (account, before) = close_under_load(policy);
        println!("evidence: policy={policy:?} sent_before={before} handled={}", account.handled);
    }
}

/// Closes a service whose handler publishes more than it handles, and that may linger for an hour. Its account, and what was sent before.
fn close_under_load(policy: Policy) -> (HandlerAccount, u64) {
    let scene = Scene::new();
    let mut first = scene.bus.publisher("load").open().unwrap();
    let publisher = Mutex::new(scene.bus.publisher("load").open().unwrap());
    let (notes, sent) = (Notes::default(), Arc::new(AtomicU64::new(0)));
    let (wrote, counts, begun) = (notes.clone(), sent.clone(), AtomicBool::new(false));
    let service = scene.bus.service("load").on("load", move |message| {
        if message.sequence() >= 100 && !begun.swap(true, Ordering::Relaxed) {
            wrote.write("busy");
        }
        let mut publisher = publisher.lock().unwrap();
        for _ in 0..2 {
            // A full ring waits for this handler.
            counts.fetch_add(u64::from(publisher.try_send(b"x").is_ok()), Ordering::Relaxed);
        }
    });
    let service = service.policy(policy).start().unwrap();
    first.send(b"x").unwrap();
    drop(first);
    notes.wait_for(1);
    let (close, closed) = channel();
    let before = sent.load(Ordering::Relaxed);
    std::thread::spawn(move || close.send(service.close(HOUR)).unwrap());
    let closed = closed.recv_timeout(PATIENCE).expect("it goes on for as long as it may linger");
    let account = closed.handlers[0];
    assert_eq!((account.received, account.dropped, closed.running), (account.handled, 0, 0));
    (account, before)
}

#[test]
fn a_handler_that_takes_too_long_is_counted_and_how_long_calls_take_is_known() {
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("slow").open().unwrap();
    let (notes, waits) = (Notes::default(), Notes::default());
    let (wrote, gate) = (notes.clone(), waits.clone());
    let service = scene
        .bus
        .service("slow")
        .on("slow", move |_| {
            wrote.write("in");
            gate.gate();
        })
        .slow_after(Duration::ZERO)
        .on("slow", |_| ())
        .slow_after(HOUR)
        .start()
        .unwrap();
    publisher.send(b"x").unwrap();
    notes.wait_for(1);
    until("it runs", || scene.bus.metrics().unwrap().get("handlers_running") == Some(1));
    waits.open();
    let closed = service.close(PATIENCE).handlers;
    assert_eq!((closed[0].slow, closed[1].slow), (1, 0));
    assert!(closed.iter().all(|account| !account.p99.is_zero()), "{closed:?}");
    let metrics = scene.bus.metrics().unwrap();
    assert_eq!((metrics.get("handlers_running"), metrics.with("handler_events", "slow")), (Some(0), Some(1)));
}

#[test]
fn a_service_may_be_dropped_inside_of_its_own_handler_and_ten_thousand_handlers_leave_no_thread() {
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("stop").open().unwrap();
    let place: Arc<Mutex<Option<Service>>> = Arc::default();
    let (inside, notes) = (place.clone(), Notes::default());
    let wrote = notes.clone();
    let service = scene
        .bus
        .service("itself")
        .linger(PATIENCE)
        .on("stop", move |_| {
            // The test may not have put it there yet.
            until("the service is put there", || inside.lock().unwrap().is_some());
            drop(inside.lock().unwrap().take());
            wrote.write("closed");
        })
        .concurrency(3)
        .start()
        .unwrap();
    *place.lock().unwrap() = Some(service);
    publisher.send(b"x").unwrap();
    notes.wait_for(1);
    until("its workers end", || threads("itself") == 0);
    for _ in 0..100 {
        let mut service = scene.bus.service("many").workers(1).on("none.0", |_| {});
        for n in 1..100 {
            service = service.on(&format!("none.{n}"), |_| {});
        }
        drop(service.start().unwrap());
    }
    // One that was joined is listed while the kernel clears it away.
    until("none of their workers is left", || threads("many") == 0);
    println!("evidence: handlers=10000 threads=0");
}

/// Threads of this process whose name ends so.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let named = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm"))
            .ok()
            .filter(|comm| comm.starts_with("bw-") && comm.trim_end().ends_with(name))
    };
    tasks.filter_map(named).count()
}

#[test]
fn the_workers_end_when_the_bus_is_closed_and_settings_out_of_range_are_refused() {
    let scene = Scene::new();
    let service = scene.bus.service("ending").on("jobs", |_| {}).concurrency(2).start().unwrap();
    scene.bus.close();
    until("the workers end by themselves", || threads("ending") == 0);
    assert_eq!(service.close(PATIENCE).running, 0);
    let other = Scene::new();
    let refused = |service: Result<Service, busway::Error>| service.unwrap_err().code();
    let bus = &other.bus;
    assert_eq!(refused(bus.service("").on("a", |_| {}).start()), Code::BadSetting);
    assert_eq!(refused(bus.service("a\0b").on("a", |_| {}).start()), Code::BadSetting);
    assert_eq!(refused(bus.service("s").workers(0).on("a", |_| {}).start()), Code::BadSetting);
    assert_eq!(refused(bus.service("s").workers(257).on("a", |_| {}).start()), Code::BadSetting);
    assert_eq!(refused(bus.service("s").on("a", |_| {}).concurrency(0).start()), Code::BadSetting);
    assert_eq!(refused(bus.service("s").on("a", |_| {}).concurrency(1_025).start()), Code::BadSetting);
    assert_eq!(refused(bus.service("s").on("a..b", |_| {}).start()), Code::BadPattern);
    assert_eq!(refused(bus.service("s").dead_letters("a..b").on("a", |_| {}).start()), Code::BadTopic);
    assert_eq!(refused(bus.service("s").dead_letters("$a").on("a", |_| {}).start()), Code::ReservedTopic);
}
