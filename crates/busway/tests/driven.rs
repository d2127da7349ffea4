//! Handlers that are futures, on an executor of the test's own, and handlers that answer requests.
//!
//! Nothing here depends on how long something takes: what is waited for has a deadline.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

#[path = "scene/alone.rs"]
mod alone;

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use busway::service::{Breaker, BreakerState, DeadLetter, Driver, Received, Retry};
use busway::{Code, Policy, RequestError};
use busway_shm::clock::Deadline;

use alone::Scene;

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor: it polls when it was woken, and at no other time.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let (mut future, waker) = (pin!(future), Waker::from(Arc::new(Unpark(std::thread::current()))));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}

/// Runs a driver in a thread of its own.
fn spawn(driver: Driver) -> JoinHandle<()> {
    std::thread::spawn(move || block_on(driver))
}

/// Where futures wait until the test lets them go.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Gate {
    async fn pass(&self) {
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap();
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn open(&self) {
        let wakers = {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn lines() -> (Sender<String>, Receiver<String>) {
    channel()
}

fn next(lines: &Receiver<String>) -> String {
    lines.recv_timeout(PATIENCE).expect("a line of a handler")
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done() {
        assert!(!deadline.expired(), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn futures_of_one_thread_wait_beside_each_other_and_topics_keep_their_order() {
    const TOPICS: u64 = 50;
    let scene = Scene::new();
    let mut publishers: Vec<_> =
        (0..TOPICS).map(|n| scene.bus.publisher(&format!("work.{n}")).open().unwrap()).collect();
    let (tell, told) = lines();
    let gate = Gate::default();
    let inside = gate.clone();
    let service = scene.bus.service("futures").on_async("work.*", move |message: Received| {
        let (tell, gate) = (tell.clone(), inside.clone());
        async move {
            tell.send(format!("{} {}", message.topic(), message.sequence())).unwrap();
            gate.pass().await;
        }
    });
    let (service, driver) = service.policy(Policy::Block).concurrency(100).drive().unwrap();
    let runs = spawn(driver);
    for publisher in &mut publishers {
        (0..3).for_each(|_| assert!(publisher.send(b"x").is_ok()));
    }
    let mut first: Vec<String> = (0..TOPICS).map(|_| next(&told)).collect();
    assert!(first.iter().all(|line| line.ends_with(" 1")), "{first:?}");
    first.sort();
    first.dedup();
    assert_eq!(first.len() as u64, TOPICS, "one of each topic at once");
    until("they run", || scene.bus.metrics().unwrap().get("handlers_running") == Some(TOPICS));
    gate.open();
    let rest: Vec<String> = (0..2 * TOPICS).map(|_| next(&told)).collect();
    for topic in 0..TOPICS {
        let of = |line: &&String| line.starts_with(&format!("work.{topic} "));
        let order: Vec<&str> = rest.iter().filter(of).map(|line| &line[line.len() - 1..]).collect();
        assert_eq!(order, ["2", "3"], "of topic {topic}");
    }
    let account = service.close(PATIENCE).handlers[0];
    assert_eq!((account.received, account.handled, account.dropped), (150, 150, 0));
    runs.join().unwrap();
    assert_eq!(scene.bus.metrics().unwrap().get("handlers_running"), Some(0));
    println!("evidence: at_once={TOPICS} handled=150");
}

#[test]
fn a_future_that_fails_or_panics_is_tried_again_in_time_and_given_up_like_any_other() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "when it is dropped");
        }
    }
    let scene = Scene::new();
    let mut publisher = scene.bus.publisher("orders").open().unwrap();
    let mut dead = scene.bus.subscriber("dead").policy(Policy::Block).open().unwrap();
    let (service, driver) = scene
        .bus
        .service("fails")
        .dead_letters("dead")
        .on_async("orders", move |message: Received| {
            assert!(message.attempt() != 2, "before there is a future");
            async move {
                match message.attempt() {
                    1 => Err("as it was told".to_owned()),
                    3 => panic!("in the midst of it"),
                    _ if &message[..] == b"bad" => {
                        let _bomb = Bomb;
                        Err("at the end".to_owned())
                    }
                    _ => Ok(()),
                }
            }
        })
        // Nothing but the time of the next attempt wakes the driver.
        .retry(Retry::times(3).pause(Duration::from_millis(3)))
        .drive()
        .unwrap();
    let runs = spawn(driver);
    publisher.send(b"good").unwrap();
    until("it is handled at last", || service.account()[0].handled == 1);
    publisher.send(b"bad").unwrap();
    let message = dead.recv_timeout(PATIENCE).unwrap().expect("a dead letter");
    let letter = DeadLetter::decode(&message).unwrap();
    assert_eq!((letter.payload, letter.attempts), (&b"bad"[..], 4));
    let account = service.close(PATIENCE).handlers[0];
    assert_eq!((account.handled, account.failed, account.retried, account.buried), (1, 1, 6, 1));
    assert_eq!(account.panicked, 5, "before there was a future, in it, and when it was dropped");
    runs.join().unwrap();
}

#[test]
fn a_breaker_leaves_a_future_alone_and_wakes_for_the_probe() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let puller = scene.bus.puller("work").group("g").ack(HOUR).redelivery(Duration::ZERO);
    let (service, driver) = scene
        .bus
        .service("breaks")
        .pull_async(puller, |task: Received| async move {
            if task.deliveries() < 3 { Err("away") } else { Ok(()) }
        })
        .breaker(Breaker::default().failures(1).pause(Duration::from_millis(10)))
        .drive()
        .unwrap();
    let runs = spawn(driver);
    pusher.send(b"x").unwrap();
    pusher.flush(PATIENCE).unwrap();
    until("it closes", || service.breakers() == [Some(BreakerState::Closed)]);
    let account = service.close(PATIENCE).handlers[0];
    assert_eq!((account.received, account.failed, account.handled, account.refused), (3, 2, 1, 0));
    runs.join().unwrap();
}

#[test]
fn a_message_that_a_future_gave_away_is_in_hand_until_it_is_let_go() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let puller = scene.bus.puller("work").group("g").ack(HOUR);
    let (tell, told) = channel();
    let (service, driver) = scene
        .bus
        .service("gives")
        .pull_async(puller, move |task: Received| {
            let tell = tell.clone();
            async move { tell.send(task).map_err(|_| "nobody takes it") }
        })
        .drive()
        .unwrap();
    let runs = spawn(driver);
    pusher.send(b"kept").unwrap();
    let kept = told.recv_timeout(PATIENCE).unwrap();
    until("the handler has ended", || scene.bus.metrics().unwrap().get("handlers_running") == Some(0));
    assert_eq!((service.account()[0].in_hand, pusher.account().delivered), (1, 0));
    assert_eq!(&kept[..], b"kept");
    drop(kept);
    pusher.flush(PATIENCE).unwrap();
    assert_eq!(service.close(PATIENCE).handlers[0].handled, 1);
    runs.join().unwrap();
}

#[test]
fn what_runs_at_the_end_is_dropped_and_shared_work_goes_to_others() {
    for how in ["closed", "driver dropped", "drained"] {
        let scene = Scene::new();
        let mut pusher = scene.bus.pusher("work").open().unwrap();
        let puller = || scene.bus.puller("work").group("g").ack(HOUR).redelivery(Duration::ZERO);
        let (tell, told) = lines();
        let gate = Gate::default();
        let inside = gate.clone();
        let (service, mut driver) = scene
            .bus
            .service("ends")
            .pull_async(puller(), move |_task: Received| {
                let (tell, gate) = (tell.clone(), inside.clone());
                async move {
                    tell.send(String::new()).unwrap();
                    gate.pass().await;
                }
            })
            .on("other", |_| ())
            .drive()
            .unwrap();
        pusher.send(b"first").unwrap();
        let mut context = Context::from_waker(Waker::noop());
        until("it runs", || {
            assert!(pin!(&mut driver).poll(&mut context).is_pending());
            told.try_recv().is_ok()
        });
        pusher.send(b"second").unwrap();
        let mut other = puller().open().unwrap();
        let account = match how {
            "closed" => {
                let closed = service.close(Duration::ZERO);
                assert_eq!((closed.running, closed.handlers[0].in_hand), (1, 1));
                block_on(&mut driver);
                closed.handlers[0]
            }
            "driver dropped" => {
                drop(driver);
                let closed = service.close(HOUR);
                assert_eq!((closed.running, closed.handlers[0].dropped), (0, 1));
                closed.handlers[0]
            }
            _ => {
                service.drain();
                assert!(pin!(&mut driver).poll(&mut context).is_pending(), "it is in hand");
                gate.open();
                block_on(&mut driver);
                let closed = service.close(HOUR);
                assert_eq!((closed.handlers[0].handled, closed.handlers[0].dropped), (1, 0));
                closed.handlers[0]
            }
        };
        assert_eq!(account.received, 1, "{how}: it takes nothing more");
        for _ in account.handled..2 {
            let task = other.recv_timeout(PATIENCE).unwrap().expect("what is left");
            task.ack().unwrap();
        }
        pusher.flush(PATIENCE).unwrap();
        assert_eq!(pusher.account().delivered, 2, "{how}");
    }
}

#[test]
fn a_driver_is_any_executor_s_and_what_nobody_would_drive_is_refused() {
    fn is_for_all<T: Send + Unpin + 'static>(_: &T) {}
    let scene = Scene::new();
    let handler = |_: Received| async { pending::<()>().await };
    let refused = scene.bus.service("nobody").on("a", |_| ()).on_async("b", handler).start().unwrap_err();
    assert_eq!(refused.code(), Code::BadSetting);
    assert!(refused.to_string().contains("drive"), "{refused}");
    let (service, driver) = scene.bus.service("somebody").on_async("b", handler).drive().unwrap();
    is_for_all(&driver);
    // It was never polled: nobody has anything in hand.
    assert_eq!(service.close(Duration::ZERO).running, 0);
    block_on(driver);
    let (service, driver) = scene.bus.service("late").on_async("b", handler).drive().unwrap();
    let runs = spawn(driver);
    scene.bus.close();
    runs.join().unwrap();
    drop(service);
}

fn failed<T: std::fmt::Debug>(asked: Result<T, RequestError>) -> String {
    match asked.unwrap_err() {
        RequestError::Failed(why) => String::from_utf8(why).unwrap(),
        other => panic!("{other}"),
    }
}

fn price(of: &[u8], attempt: u32) -> Result<Vec<u8>, String> {
    match of {
        b"apple" => Ok(b"42".to_vec()),
        b"again" if attempt == 2 => Ok(b"at last".to_vec()),
        b"panic" => panic!("as it was told"),
        _ => Err("no such thing".to_owned()),
    }
}

#[test]
fn requests_are_answered_and_what_fails_panics_or_is_rejected_tells_who_asked_why() {
    let scene = Scene::new();
    let builder = |name| {
        scene.bus.service(name).after_receive(|message| {
            if message.topic() != "other" && message.is_empty() { Err("an empty order") } else { Ok(()) }
        })
    };
    let called = builder("calls")
        .reply("price.called", |request| price(request, request.attempt()))
        .retry(Retry::times(1).pause(Duration::ZERO))
        .concurrency(2)
        .start()
        .unwrap();
    let (polled, driver) = builder("polls")
        .reply_async("price.polled", |request: Received| async move { price(&request, request.attempt()) })
        .retry(Retry::times(1).pause(Duration::ZERO))
        .concurrency(2)
        .drive()
        .unwrap();
    let runs = spawn(driver);
    for topic in ["price.called", "price.polled"] {
        let requester = scene.bus.requester(topic).open().unwrap();
        let ask = |of: &[u8]| requester.request(of, PATIENCE);
        assert_eq!(&ask(b"apple").unwrap()[..], b"42");
        assert_eq!(&ask(b"again").unwrap()[..], b"at last");
        assert_eq!(failed(ask(b"pear")), "no such thing");
        assert_eq!(failed(ask(b"panic")), "a panic: as it was told");
        assert_eq!(failed(ask(b"")), "rejected: an empty order");
        let large = vec![7; 100_000];
        assert_eq!(failed(ask(&large)), "no such thing");
    }
    for service in [called, polled] {
        let account = service.close(PATIENCE).handlers[0];
        let ended = (account.received, account.handled, account.failed, account.rejected);
        assert_eq!((ended, account.retried, account.panicked), ((6, 2, 3, 1), 4, 2));
    }
    runs.join().unwrap();
}

#[test]
fn a_request_that_nobody_waits_for_is_not_handled_and_who_handles_one_sees_it() {
    let scene = Scene::new();
    let (tell, told) = lines();
    let gate = Gate::default();
    let inside = gate.clone();
    let service = scene
        .bus
        .service("late")
        .reply("time", move |request| {
            tell.send(String::from_utf8_lossy(request).into_owned()).unwrap();
            assert!(request.remaining().is_some_and(|left| left <= PATIENCE));
            if &request[..] == b"wait" {
                block_on(inside.pass());
            }
            if &request[..] == b"cancelled" {
                until("it is cancelled", || request.is_cancelled());
            }
            if &request[..] == b"fails" { Err("in an hour") } else { Ok("noon") }
        })
        .retry(Retry::times(1).pause(HOUR).cap(HOUR))
        .start()
        .unwrap();
    let requester = scene.bus.requester("time").open().unwrap();
    let mut first = requester.send(b"wait", PATIENCE).unwrap();
    assert_eq!(next(&told), "wait");
    let late = requester.request(b"late", Duration::from_millis(5));
    assert_eq!(late.unwrap_err(), RequestError::TimedOut);
    drop(requester.send(b"dropped", PATIENCE).unwrap());
    gate.open();
    assert_eq!(&first.recv().unwrap().unwrap()[..], b"noon");
    let cancelled = requester.send(b"cancelled", PATIENCE).unwrap();
    assert_eq!(next(&told), "cancelled", "nothing else was handled");
    drop(cancelled);
    assert_eq!(failed(requester.request(b"fails", PATIENCE)), "in an hour");
    assert_eq!(next(&told), "fails");
    let account = service.close(PATIENCE).handlers[0];
    assert_eq!((account.handled, account.failed, account.retried, account.expired), (2, 1, 0, 1));
    assert_eq!(told.try_iter().count(), 0, "an attempt that comes too late is not waited for");
}

#[test]
fn a_request_handler_whose_breaker_is_open_leaves_requests_to_others_and_closing_tells_who_asks() {
    let scene = Scene::new();
    let mut dead = scene.bus.subscriber("dead").open().unwrap();
    let broken = scene
        .bus
        .service("broken")
        .dead_letters("dead")
        .reply("x", |_| Err::<&str, _>("away"))
        .breaker(Breaker::default().failures(1).pause(HOUR))
        .start()
        .unwrap();
    let requester = scene.bus.requester("x").open().unwrap();
    assert_eq!(failed(requester.request(b"?", PATIENCE)), "away");
    until("it opens", || broken.breakers() == [Some(BreakerState::Open)]);
    let (service, driver) = scene
        .bus
        .service("well")
        .reply_async("x", |request: Received| async move {
            if &request[..] == b"never" {
                pending::<()>().await;
            }
            Ok::<_, String>(request.to_vec())
        })
        .concurrency(4)
        .drive()
        .unwrap();
    let runs = spawn(driver);
    for n in 0..50_u8 {
        assert_eq!(&requester.request(&[n], PATIENCE).unwrap()[..], [n], "another answers");
    }
    let account = broken.close(PATIENCE).handlers[0];
    assert_eq!((account.received, account.failed, account.unhandled), (1, 1, 0));
    assert_eq!((account.buried, account.unburied), (0, 0), "who asked was told: nothing is published");
    assert!(dead.try_recv().unwrap().is_none());
    let mut pending = requester.send(b"never", PATIENCE).unwrap();
    until("it is in hand", || service.account()[0].in_hand == 1);
    assert_eq!(service.close(Duration::ZERO).running, 1);
    runs.join().unwrap();
    assert_eq!(pending.recv().unwrap_err(), RequestError::Unanswered);
}
