//! Handlers of shared work: what is acknowledged, what is given back, and what others of the group get.
//!
//! Nothing here depends on how long something takes: what is waited for has a deadline, and pauses are an hour or nothing.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

#[path = "scene/alone.rs"]
mod alone;

use busway_shm::sync::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use busway::service::{Breaker, BreakerState, DeadLetter, DeadReason, Order, Retry};
use busway::{Policy, PullerBuilder};
use busway_shm::clock::Deadline;

use alone::Scene;

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);

impl Scene {
    fn puller(&self) -> PullerBuilder {
        self.bus.puller("work").group("workers").ack(HOUR).attempts(5)
    }
}

/// Where handlers wait until the test lets them go.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let closed = |open: &mut bool| !*open;
        let (_open, waited) =
            self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), PATIENCE, closed).unwrap();
        assert!(!waited.timed_out(), "the gate is not opened");
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
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

fn lines() -> (Sender<String>, Receiver<String>) {
    channel()
}

fn next(lines: &Receiver<String>) -> String {
    lines.recv_timeout(PATIENCE).expect("a line of a handler")
}

#[test]
fn what_is_pushed_is_handled_and_what_failed_comes_again_until_it_is_handled() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let (tell, told) = lines();
    let service = scene
        .bus
        .service("shared")
        .pull(scene.puller(), move |task| {
            tell.send(format!("{}.{}", task.sequence(), task.deliveries())).unwrap();
            if &task[..] == b"twice" && task.deliveries() == 1 { Err("once more") } else { Ok(()) }
        })
        .concurrency(3)
        .start()
        .unwrap();
    for n in 0..100 {
        pusher.send(if n % 10 == 0 { b"twice" } else { b"once" }).unwrap();
    }
    pusher.flush(PATIENCE).unwrap();
    let account = service.close(PATIENCE).handlers[0];
    assert_eq!((account.received, account.handled, account.failed, account.late), (110, 100, 10, 0));
    let mut came: Vec<String> = told.try_iter().collect();
    came.sort();
    came.dedup();
    assert_eq!(came.len(), 110, "each once, and ten a second time");
    let sent = pusher.account();
    assert_eq!((sent.sent, sent.delivered, sent.in_flight), (100, 100, 0));
    println!("evidence: pushed=100 given=110 handled=100");
}

#[test]
fn a_pull_handler_keeps_nothing_from_others_that_it_has_no_hand_for() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let (tell, told) = lines();
    let gate = Gate::default();
    let inside = gate.clone();
    let service = scene
        .bus
        .service("hands")
        .workers(3)
        .pull(scene.puller(), move |task| {
            tell.send(task.sequence().to_string()).unwrap();
            inside.pass();
        })
        .concurrency(2)
        .start()
        .unwrap();
    pusher.send(b"x").unwrap();
    pusher.send(b"x").unwrap();
    let mut begun = [next(&told), next(&told)];
    begun.sort();
    assert_eq!(begun, ["1", "2"], "both at once");
    for _ in 0..50 {
        pusher.send(b"x").unwrap();
    }
    let mut other = scene.puller().open().unwrap();
    for _ in 0..50 {
        other.recv_timeout(PATIENCE).unwrap().expect("what the handler has no hand for").ack().unwrap();
    }
    assert_eq!(service.account()[0].received, 2);
    gate.open();
    assert_eq!(service.close(PATIENCE).handlers[0].handled, 2);
}

#[test]
fn what_is_among_the_dead_letters_is_acknowledged_and_what_waits_at_the_end_is_given_back() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let mut dead = scene.bus.subscriber("work.dead").policy(Policy::Block).open().unwrap();
    let service = scene
        .bus
        .service("graves")
        .dead_letters("work.dead")
        .pull(scene.puller(), |_| Err("never"))
        .start()
        .unwrap();
    pusher.send(b"bad").unwrap();
    let message = dead.recv_timeout(PATIENCE).unwrap().expect("a dead letter");
    let letter = DeadLetter::decode(&message).unwrap();
    assert_eq!((letter.payload, letter.reason, letter.topic), (&b"bad"[..], DeadReason::Error, "work"));
    pusher.flush(PATIENCE).unwrap();
    assert_eq!(pusher.account().delivered, 1);
    drop(service);
    let (tell, told) = lines();
    let service = scene
        .bus
        .service("late")
        .pull(scene.puller(), move |task| {
            tell.send(task.sequence().to_string()).unwrap();
            Err("in an hour")
        })
        .retry(Retry::times(1).pause(HOUR).cap(HOUR))
        .start()
        .unwrap();
    pusher.send(b"waits").unwrap();
    assert_eq!(next(&told), "2");
    let account = service.close(Duration::ZERO).handlers[0];
    assert_eq!((account.received, account.handled, account.failed), (1, 0, 0));
    let mut other = scene.puller().open().unwrap();
    let task = other.recv_timeout(PATIENCE).unwrap().expect("what was given back");
    assert_eq!((&task[..], task.deliveries()), (&b"waits"[..], 2));
    task.ack().unwrap();
}

#[test]
fn closing_a_service_that_pulls_handles_what_it_has_and_leaves_the_rest_to_others() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").max_wait(PATIENCE).open().unwrap();
    let (tell, told) = lines();
    let service = scene.bus.service("drained").pull(scene.puller(), move |_| {
        let _ = tell.send(String::new());
        // Slower than who pushes.
        std::hint::black_box((0..20_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n)));
    });
    let service = service.start().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    // Its ring is full most of the time: there is always more.
    let pushes = std::thread::spawn(move || {
        let mut pushed = 0;
        while !stop.load(Ordering::Relaxed) {
            pushed += u64::from(pusher.send_timeout(b"x", Duration::from_millis(100)).is_ok());
        }
        (pusher, pushed)
    });
    (0..100).for_each(|_| drop(next(&told)));
    let (close, closed) = channel();
    std::thread::spawn(move || close.send(service.close(HOUR)).unwrap());
    let closed = closed.recv_timeout(PATIENCE).expect("it goes on taking work for as long as it may linger");
    over.store(true, Ordering::Relaxed);
    let (pusher, pushed) = pushes.join().unwrap();
    let account = closed.handlers[0];
    assert_eq!((account.received, account.dropped, closed.running), (account.handled, 0, 0));
    let mut other = scene.puller().open().unwrap();
    for _ in account.handled..pushed {
        let task = other.recv_timeout(PATIENCE).unwrap().expect("what it left");
        assert_eq!(task.deliveries(), 1, "nobody had it");
        task.ack().unwrap();
    }
    let sent = pusher.account();
    assert_eq!((sent.sent, sent.delivered, sent.in_flight), (pushed, pushed, 0));
    println!("evidence: pushed={pushed} handled={} left={}", account.handled, pushed - account.handled);
}

#[test]
fn while_its_breaker_is_open_a_pull_handler_takes_nothing_and_others_have_the_work() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let puller = || scene.puller().redelivery(Duration::ZERO);
    let (tell, told) = lines();
    let service = scene
        .bus
        .service("broken")
        .pull(puller(), move |task| {
            tell.send(task.deliveries().to_string()).unwrap();
            Err("what it needs is away")
        })
        .concurrency(3)
        .breaker(Breaker::default().failures(2).pause(HOUR))
        .start()
        .unwrap();
    pusher.send(b"first").unwrap();
    assert_eq!([next(&told), next(&told)], ["1", "2"]);
    until("the breaker opens", || service.breakers() == [Some(BreakerState::Open)]);
    for _ in 0..50 {
        pusher.send(b"later").unwrap();
    }
    let mut other = puller().open().unwrap();
    let mut deliveries = Vec::new();
    while deliveries.len() < 51 {
        let task = other.recv_timeout(PATIENCE).unwrap().expect("what the broken service left");
        deliveries.push(task.deliveries());
        task.ack().unwrap();
    }
    deliveries.sort_unstable();
    assert_eq!((deliveries[49], deliveries[50]), (1, 3), "only the first was tried");
    let account = service.close(PATIENCE).handlers[0];
    // It may have had its hands out in the moment in which its breaker opened: that went back as it was.
    assert_eq!((account.received - account.refused, account.failed), (2, 2));
    assert!(account.refused <= 3, "it took {} while its breaker was open", account.refused);
    assert_eq!(pusher.account().delivered, 51);
    println!("evidence: pushed=51 tried=2 others=51 refused={}", account.refused);
}

#[test]
fn a_breaker_that_is_half_open_takes_one_piece_of_work_and_what_is_tried_no_more_goes_back() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let puller = || scene.puller().redelivery(Duration::ZERO);
    let (tell, told) = lines();
    let gate = Gate::default();
    let inside = gate.clone();
    let service = scene
        .bus
        .service("probes")
        .pull(puller(), move |task| {
            tell.send(format!("{} {}", task.deliveries(), task.attempt())).unwrap();
            if task.deliveries() == 1 {
                return Err("away");
            }
            inside.pass();
            Ok(())
        })
        .concurrency(4)
        .retry(Retry::times(3).pause(Duration::ZERO))
        .breaker(Breaker::default().failures(1).pause(Duration::from_secs(3)))
        .start()
        .unwrap();
    pusher.send(b"x").unwrap();
    assert_eq!([next(&told), next(&told)], ["1 1", "2 1"], "it went back and came again as the probe");
    for _ in 0..9 {
        pusher.send(b"x").unwrap();
    }
    let mut other = puller().open().unwrap();
    for _ in 0..9 {
        other.recv_timeout(PATIENCE).unwrap().expect("what is not probed with").ack().unwrap();
    }
    let account = service.account()[0];
    // What a hand took while the first failed went back untried as well.
    assert_eq!((account.received - account.returned, account.in_hand, account.failed), (1, 1, 0));
    gate.open();
    until("the breaker closes", || service.breakers() == [Some(BreakerState::Closed)]);
    assert_eq!(service.close(PATIENCE).handlers[0].handled, 1);
}

#[test]
fn what_cannot_be_given_back_waits_for_the_breaker_and_is_tried_then() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let (tell, told) = lines();
    let service = scene
        .bus
        .service("waits")
        .pull(scene.bus.puller("work").group("once"), move |task| {
            tell.send(task.attempt().to_string()).unwrap();
            if task.attempt() == 1 { Err("away") } else { Ok(()) }
        })
        .retry(Retry::times(1).pause(Duration::ZERO))
        .breaker(Breaker::default().failures(1).pause(Duration::from_millis(20)))
        .start()
        .unwrap();
    pusher.send(b"x").unwrap();
    assert_eq!([next(&told), next(&told)], ["1", "2"]);
    let account = service.close(PATIENCE).handlers[0];
    assert_eq!((account.received, account.handled, account.failed, account.returned), (1, 1, 0, 0));
    assert!(account.refused <= 1, "it is not asked again and again");
}

#[test]
fn what_waits_for_the_breaker_was_let_through_by_the_hooks_and_is_not_asked_about_again() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let (hook, asked) = lines();
    let (fails, goes_on) = (Gate::default(), Gate::default());
    let (failing, going, inside) = (fails.clone(), goes_on.clone(), goes_on.clone());
    let service = scene
        .bus
        .service("once")
        .after_receive(move |task| {
            hook.send(task.sequence().to_string()).unwrap();
            if task.sequence() == 2 {
                inside.pass();
            }
        })
        .pull(scene.bus.puller("work").group("once"), move |task| {
            if task.sequence() == 1 && task.attempt() == 1 {
                failing.pass();
                return Err("away");
            }
            going.pass();
            Ok(())
        })
        .concurrency(2)
        .retry(Retry::times(1).pause(Duration::ZERO))
        .breaker(Breaker::default().failures(1).pause(Duration::from_millis(300)))
        .start()
        .unwrap();
    pusher.send(b"x").unwrap();
    pusher.send(b"x").unwrap();
    let mut both = [next(&asked), next(&asked)];
    both.sort();
    assert_eq!(both, ["1", "2"]);
    // Now the second finds that the breaker has opened while the hook was asked.
    fails.open();
    until("the breaker opens", || service.breakers() != [Some(BreakerState::Closed)]);
    goes_on.open();
    until("both are handled", || service.account()[0].handled == 2);
    let account = service.close(PATIENCE).handlers[0];
    assert_eq!((account.rejected, account.failed, asked.try_recv().ok()), (0, 0, None));
    println!("evidence: asked=2 refused={}", account.refused);
}

#[test]
fn a_topic_whose_work_is_in_hand_is_left_to_others_and_holds_up_no_other_topic() {
    let scene = Scene::new();
    let mut one = scene.bus.pusher("jobs.one").open().unwrap();
    let mut two = scene.bus.pusher("jobs.two").open().unwrap();
    let puller = || scene.bus.puller("jobs.*").group("ordered").ack(HOUR);
    let (tell, told) = lines();
    let gate = Gate::default();
    let inside = gate.clone();
    let service = scene
        .bus
        .service("ordered")
        .pull(puller(), move |task| {
            tell.send(task.topic().to_owned()).unwrap();
            if task.topic() == "jobs.one" {
                inside.pass();
            }
        })
        .order(Order::Topic)
        .concurrency(3)
        .start()
        .unwrap();
    for _ in 0..5 {
        one.send(b"x").unwrap();
    }
    assert_eq!(next(&told), "jobs.one");
    for _ in 0..5 {
        two.send(b"x").unwrap();
    }
    (0..5).for_each(|_| assert_eq!(next(&told), "jobs.two"));
    assert_eq!(service.account()[0].received, 6, "one of the first topic, and all of the second");
    let mut other = puller().open().unwrap();
    other.recv_timeout(PATIENCE).unwrap().expect("what is left to others").ack().unwrap();
    gate.open();
    (0..3).for_each(|_| assert_eq!(next(&told), "jobs.one", "it goes on with what is there"));
    assert_eq!(service.close(PATIENCE).handlers[0].handled, 9);
}
