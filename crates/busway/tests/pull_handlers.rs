//! Handlers of shared work: what is acknowledged, what is given back, and what others of the group get.
//!
//! Nothing here depends on how long something takes: what is waited for has a deadline, and pauses are an hour or nothing.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use busway::service::{DeadLetter, DeadReason, Retry};
use busway::{Bus, Policy, PullerBuilder};

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);

struct Scene {
    bus: Bus,
    directory: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let directory = std::env::temp_dir().join(format!("busway-pulled-{random:016x}"));
        Scene { bus: Bus::builder().directory(&directory).open().unwrap(), directory }
    }

    fn puller(&self) -> PullerBuilder {
        self.bus.puller("work").group("workers").ack(HOUR).attempts(5)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.bus.close();
        let _ = std::fs::remove_dir_all(&self.directory);
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
fn closing_a_service_that_pulls_handles_what_was_pushed() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("work").open().unwrap();
    let (tell, told) = lines();
    let gate = Gate::default();
    let inside = gate.clone();
    let service = scene
        .bus
        .service("drained")
        .pull(scene.puller(), move |_| {
            tell.send(String::new()).unwrap();
            inside.pass();
        })
        .start()
        .unwrap();
    for _ in 0..20 {
        pusher.send(b"x").unwrap();
    }
    next(&told);
    gate.open();
    assert_eq!(service.close(PATIENCE).handlers[0].handled, 20);
    assert_eq!(pusher.account().in_flight, 0);
}
