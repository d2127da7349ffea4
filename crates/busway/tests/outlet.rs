//! Outlets: hooks before sending, retries that make no second message, breakers, and pauses that end.
//!
//! Nothing here depends on how long something takes: pauses are an hour, or nothing, or end when a thread has read.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

#[path = "scene/alone.rs"]
mod alone;

use std::sync::mpsc::channel;
use std::time::Duration;

use busway::service::{Breaker, BreakerState, OutletError, Retry};
use busway::{Code, Error, Policy, Publisher, SendError, Subscriber};

use alone::Scene;

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);

impl Scene {
    /// A ring that is full, and who could read it. So many messages are in it.
    fn full(&self) -> (Publisher, Subscriber, u64) {
        let subscriber = self.bus.subscriber("jobs").policy(Policy::Fail).open().unwrap();
        let mut publisher = self.bus.publisher("jobs").slots_max(32).open().unwrap();
        let mut sent = 0;
        while publisher.try_send(b"before").is_ok() {
            sent += 1;
        }
        (publisher, subscriber, sent)
    }
}

fn is_full(sent: Result<busway::Sent, OutletError>) -> bool {
    matches!(sent, Err(OutletError::Refused(SendError::Full(_))))
}

#[test]
fn hooks_before_sending_are_asked_in_order_and_one_that_fails_or_panics_rejects() {
    let scene = Scene::new();
    let mut subscriber = scene.bus.subscriber("jobs").open().unwrap();
    let (first, lines) = channel();
    let second = first.clone();
    let mut outlet = scene
        .bus
        .outlet(scene.bus.publisher("jobs").open().unwrap())
        .before_send(move |message| {
            first.send(format!("first {} {}", message.topic(), message.len())).unwrap();
            if &message[..] == b"no" { Err("not this one") } else { Ok(()) }
        })
        .before_send(move |message| {
            second.send(format!("second {}", message.len())).unwrap();
            if &message[..] == b"panic" {
                std::panic::panic_any("seen to");
            }
        });
    assert_eq!(outlet.send(b"no"), Err(OutletError::Rejected("not this one".to_owned())));
    assert_eq!(outlet.send(b"panic"), Err(OutletError::Rejected("seen to".to_owned())));
    assert_eq!(outlet.send(b"good").unwrap().sequence, 1);
    let asked = ["first jobs 2", "first jobs 5", "second 5", "first jobs 4", "second 4"];
    assert_eq!(lines.try_iter().collect::<Vec<_>>(), asked);
    assert_eq!(&subscriber.recv_timeout(PATIENCE).unwrap().unwrap()[..], b"good");
    assert!(subscriber.try_recv().unwrap().is_none(), "what was rejected came all the same");
    let account = outlet.account();
    assert_eq!((account.asked, account.sent, account.rejected, account.hooks_panicked), (3, 1, 2, 1));
}

#[test]
fn what_was_refused_is_tried_again_as_often_as_was_asked_for_and_comes_once() {
    let scene = Scene::new();
    let (publisher, mut subscriber, before) = scene.full();
    let mut outlet = scene.bus.outlet(publisher).retry(Retry::times(5).pause(Duration::ZERO));
    assert!(is_full(outlet.send(b"refused")));
    let account = outlet.account();
    assert_eq!((account.failed, account.retried, account.sent), (1, 5, 0));
    // Now somebody reads while it pauses.
    let (ask, asked) = channel();
    let mut outlet = scene
        .bus
        .outlet(outlet.into_port())
        .before_send(move |_| ask.send(()).unwrap())
        .retry(Retry::times(100).pause(Duration::from_millis(20)).cap(Duration::from_secs(1)));
    let reader = std::thread::spawn(move || {
        asked.recv_timeout(PATIENCE).unwrap();
        let mut last = None;
        for _ in 0..=before {
            last = Some(subscriber.recv_timeout(PATIENCE).unwrap().expect("a message"));
        }
        assert!(subscriber.try_recv().unwrap().is_none(), "it came twice");
        last.map(|sample| (sample.sequence(), sample.to_vec())).unwrap()
    });
    assert_eq!(outlet.send(b"at last").unwrap().sequence, before + 1);
    assert_eq!(reader.join().unwrap(), (before + 1, b"at last".to_vec()));
    let account = outlet.account();
    assert_eq!((account.asked, account.sent, account.failed), (1, 1, 0));
    println!("evidence: attempts=6 came_once=1");
}

#[test]
fn a_full_pusher_is_tried_again_until_a_puller_comes() {
    let scene = Scene::new();
    let pusher =
        scene.bus.pusher("work").slots_max(32).max_wait(Duration::ZERO).late_join(HOUR).open().unwrap();
    let mut outlet = scene.bus.outlet(pusher).retry(Retry::times(1).pause(Duration::ZERO));
    let mut pushed = 0;
    while outlet.send(b"work").is_ok() {
        pushed += 1;
    }
    assert_eq!((outlet.account().sent, outlet.account().failed, outlet.account().retried), (pushed, 1, 1));
    let mut puller = scene.bus.puller("work").open().unwrap();
    for _ in 0..pushed {
        drop(puller.recv_timeout(PATIENCE).unwrap().expect("a task"));
    }
    assert_eq!(outlet.send(b"more").unwrap().sequence, pushed + 1);
}

#[test]
fn an_outlet_that_fails_again_and_again_tries_nothing_for_a_while() {
    let scene = Scene::new();
    let (publisher, mut subscriber, before) = scene.full();
    let mut outlet =
        scene.bus.outlet(publisher).breaker(Breaker::default().failures(2).window(HOUR).pause(HOUR));
    assert!(is_full(outlet.send(b"one")));
    assert!(is_full(outlet.send(b"two")));
    for _ in 0..before {
        subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
    }
    // There is room now, and it is left alone all the same.
    assert!(matches!(outlet.send(b"three"), Err(OutletError::Open(_))));
    assert_eq!(outlet.state(), Some(BreakerState::Open));
    let account = outlet.account();
    assert_eq!((account.asked, account.failed, account.refused), (3, 2, 1));
    let brief = Breaker::default().failures(1).pause(Duration::from_nanos(1));
    let mut outlet = scene.bus.outlet(outlet.into_port()).breaker(brief);
    let mut sent = 0;
    while outlet.send(b"again").is_ok() {
        sent += 1;
    }
    for _ in 0..sent {
        subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
    }
    outlet.send(b"the probe").unwrap();
    assert_eq!(outlet.state(), Some(BreakerState::Closed));
}

#[test]
fn a_pause_ends_with_its_deadline_and_with_the_bus() {
    let scene = Scene::new();
    let (publisher, _subscriber, _) = scene.full();
    let (ask, asked) = channel();
    let (tell, told) = channel();
    let mut outlet = scene
        .bus
        .outlet(publisher)
        .before_send(move |_| ask.send(()).unwrap())
        .retry(Retry::times(100).pause(HOUR).cap(HOUR));
    let sender = std::thread::spawn(move || {
        tell.send(outlet.send_timeout(b"x", Duration::from_secs(60))).unwrap();
        tell.send(outlet.send(b"x")).unwrap();
    });
    asked.recv_timeout(PATIENCE).unwrap();
    let timed_out = told.recv_timeout(PATIENCE).expect("it would end after its deadline, so it ends at once");
    assert!(is_full(timed_out));
    asked.recv_timeout(PATIENCE).unwrap();
    scene.bus.close();
    let closed = told.recv_timeout(PATIENCE).expect("it goes on pausing on a closed bus");
    assert_eq!(closed, Err(OutletError::Refused(SendError::Closed)));
    sender.join().unwrap();
}

#[test]
fn what_an_outlet_refuses_has_a_code_and_says_what_to_try() {
    let scene = Scene::new();
    let (publisher, _subscriber, _) = scene.full();
    let breaker = Breaker::default().failures(1).window(HOUR).pause(HOUR);
    let mut outlet = scene
        .bus
        .outlet(publisher)
        .before_send(|order| if order.is_empty() { Err("an empty order") } else { Ok(()) })
        .breaker(breaker);
    let ends =
        [outlet.send(b"").unwrap_err(), outlet.send(b"x").unwrap_err(), outlet.send(b"x").unwrap_err()];
    assert_eq!(ends.each_ref().map(OutletError::code), [Code::Rejected, Code::Full, Code::BreakerOpen]);
    for (end, says) in ends.into_iter().zip(["an empty order", "full", "failed again and again"]) {
        let (code, error) = (end.code(), Error::from(end));
        let text = error.to_string();
        assert_eq!(error.code(), code);
        assert!(text.contains(&code.to_string()) && text.contains("try: "), "{text}");
        assert!(code == Code::Full || text.contains(says), "{text}");
    }
    println!("evidence: codes=3");
}
