//! What is sent again bears the id that it had: who wants each once takes it once, and counts the rest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

#[path = "scene/alone.rs"]
mod alone;

use std::sync::mpsc::channel;
use std::time::Duration;

use busway::service::Retry;
use busway::{Account, Cause, Code, Context, MessageId, Policy, Puller, Pusher};
use busway_wire::limits::IDS_SEEN_MAX;

use alone::Scene;

const PATIENCE: Duration = Duration::from_secs(30);

/// What was dropped because it had come before.
fn duplicates(account: &Account) -> u64 {
    account.dropped.get(Cause::Duplicate.name()).copied().unwrap_or(0)
}

fn id(number: u128) -> Context<'static> {
    Context::default().with_id(MessageId(number))
}

#[test]
fn what_comes_again_is_taken_once_within_the_window_and_counted_from_whomever_it_comes() {
    const WINDOW: u32 = 8;
    let scene = Scene::new();
    // One held: the next is copied, and looked at as well.
    let once = || {
        scene.bus.subscriber("orders").policy(Policy::Block).drop_duplicates(WINDOW).holds(1).open().unwrap()
    };
    let (mut once, mut all) = (once(), scene.bus.subscriber("orders").policy(Policy::Block).open().unwrap());
    let mut publishers: Vec<_> = (0..2).map(|_| scene.bus.publisher("orders").open().unwrap()).collect();
    let mut rng = fastrand::Rng::with_seed(83);
    let mut model: Vec<u128> = Vec::new();
    let (mut sent, mut twice, mut kept) = (0, 0, None);
    for at in 0..4_000_u128 {
        // An order of its own, one of those that went out of late, one that was forgotten long since, or one without an id.
        let number = match rng.u8(0..4) {
            0 => Some(1_000_000 + at),
            1 => Some(rng.u128(0..12)),
            2 => model.get(rng.usize(0..=model.len())).copied(),
            _ => None,
        };
        let payload = vec![at as u8; [0, 20, 200, 5_000][rng.usize(0..4)]];
        let publisher = &mut publishers[rng.usize(0..2)];
        publisher.in_context(number.map_or(Context::default(), id)).send(&payload).unwrap();
        sent += 1;
        assert_eq!(&all.recv_timeout(PATIENCE).unwrap().unwrap()[..], &payload[..]);
        if number.is_some_and(|number| model.contains(&number)) {
            twice += 1;
            assert!(once.try_recv().unwrap().is_none(), "{number:?} came again");
            continue;
        }
        if let Some(number) = number {
            model.push(number);
            if model.len() > WINDOW as usize {
                model.remove(0);
            }
        }
        let message = once.recv_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!((message.id(), &message[..]), (number.map(MessageId), &payload[..]));
        kept = rng.bool().then_some(message);
    }
    drop(kept);
    let account = once.account();
    assert_eq!((account.delivered, duplicates(&account)), (sent - twice, twice));
    let lost = once.losses();
    assert!(lost.iter().all(|loss| loss.cause == Cause::Duplicate));
    assert_eq!(lost.iter().map(|loss| loss.count).sum::<u64>(), twice);
    let accounts = publishers.iter().map(busway::Publisher::account);
    assert_eq!(accounts.map(|account| duplicates(&account)).sum::<u64>(), twice);
    let metrics = scene.bus.metrics().unwrap();
    assert_eq!(metrics.with("inbound_dropped", "duplicate"), Some(twice));
    assert!(twice > 500 && all.losses().is_empty());
    println!("evidence: messages={sent} duplicates={twice}");
}

fn take(puller: &mut Puller) -> busway::Task {
    puller.recv_timeout(PATIENCE).unwrap().expect("a task")
}

/// Waits until so many tasks of this pusher were dropped because they had been done.
fn dropped(pusher: &Pusher, puller: &mut Puller, count: u64) {
    let deadline = busway_shm::clock::Deadline::after(PATIENCE);
    while duplicates(&pusher.account()) < count {
        assert!(!deadline.expired(), "{:?}", pusher.account());
        let given = puller.recv_timeout(Duration::from_millis(10)).unwrap();
        assert!(given.is_none(), "it was done before");
    }
}

#[test]
fn a_task_that_is_given_again_is_no_duplicate_until_it_was_done() {
    let scene = Scene::new();
    let puller =
        || scene.bus.puller("jobs").ack(Duration::from_secs(3_600)).drop_duplicates(100).open().unwrap();
    let mut puller = puller();
    let mut pusher = scene.bus.pusher("jobs").open().unwrap();
    let mut push = |number| pusher.in_context(id(number)).send(b"work").unwrap();
    // Nobody did it, so it comes again, however often.
    push(1);
    for deliveries in 1..4 {
        let task = take(&mut puller);
        assert_eq!((task.deliveries(), task.sample().id()), (deliveries, Some(MessageId(1))));
        if deliveries == 3 { task.ack().unwrap() } else { task.nack() }
    }
    // Two that are under way at once: neither is done.
    push(2);
    push(2);
    let (one, other) = (take(&mut puller), take(&mut puller));
    one.nack();
    other.ack().unwrap();
    // Now it is done, and so is the first: what is given again, and what is pushed again.
    push(1);
    push(3);
    let task = take(&mut puller);
    assert_eq!(task.sample().id(), Some(MessageId(3)));
    task.ack().unwrap();
    dropped(&pusher, &mut puller, 2);
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.sent, account.delivered, account.in_flight), (5, 3, 0));
    println!("evidence: tasks=5 duplicates=2");
}

#[test]
fn what_was_done_too_late_was_done_and_is_not_done_again_by_the_same_puller() {
    let scene = Scene::new();
    let puller =
        || scene.bus.puller("jobs").ack(Duration::from_millis(50)).drop_duplicates(100).open().unwrap();
    let (mut slow, mut other) = (puller(), puller());
    let mut pusher = scene.bus.pusher("jobs").open().unwrap();
    pusher.in_context(id(1)).send(b"work").unwrap();
    let late = take(&mut slow);
    let again = take(&mut other);
    assert_eq!((late.deliveries(), again.deliveries()), (1, 2));
    late.ack().unwrap_err();
    again.nack();
    dropped(&pusher, &mut slow, 1);
    pusher.flush(PATIENCE).unwrap();
}

#[test]
fn in_a_group_that_does_not_acknowledge_what_was_taken_and_is_over_was_done() {
    let scene = Scene::new();
    let mut puller = scene.bus.puller("jobs").drop_duplicates(100).open().unwrap();
    let mut pusher = scene.bus.pusher("jobs").open().unwrap();
    pusher.in_context(id(1)).send(b"work").unwrap();
    drop(take(&mut puller));
    pusher.in_context(id(1)).send(b"work").unwrap();
    pusher.send(b"without an id").unwrap();
    pusher.send(b"without an id").unwrap();
    for _ in 0..2 {
        assert_eq!(&take(&mut puller)[..], b"without an id");
    }
    dropped(&pusher, &mut puller, 1);
}

#[test]
fn what_was_given_up_is_done_when_it_is_sent_again_with_its_id() {
    let scene = Scene::new();
    let mut dead = scene.bus.subscriber("dead").policy(Policy::Block).open().unwrap();
    for ack in [Some(Duration::from_secs(3_600)), None] {
        let topic = if ack.is_some() { "acknowledged" } else { "once" };
        let mut pusher = scene.bus.pusher(topic).open().unwrap();
        let (tell, told) = channel();
        let puller = scene.bus.puller(topic).drop_duplicates(100);
        let puller = match ack {
            Some(within) => puller.ack(within),
            None => puller,
        };
        let service = scene.bus.service(topic).dead_letters("dead").pull(puller, move |_| {
            tell.send(()).unwrap();
            Err("what it needs is away")
        });
        let service = service.start().unwrap();
        for _ in 0..2 {
            pusher.in_context(id(1)).send(b"work").unwrap();
            assert!(told.recv_timeout(PATIENCE).is_ok(), "{topic}: it is called");
            assert!(dead.recv_timeout(PATIENCE).unwrap().is_some(), "{topic}");
        }
        service.close(PATIENCE);
    }
}

#[test]
fn what_bears_an_id_on_one_topic_takes_nothing_from_another() {
    let scene = Scene::new();
    let mut all = scene.bus.subscriber("orders.*").policy(Policy::Block).drop_duplicates(100).open().unwrap();
    let mut puller = scene.bus.puller("jobs.*").drop_duplicates(100).open().unwrap();
    let (mut taken, mut done) = (Vec::new(), Vec::new());
    for topic in ["a", "b", "a", "b"] {
        let mut publisher = scene.bus.publisher(&format!("orders.{topic}")).open().unwrap();
        publisher.in_context(id(1)).send(topic.as_bytes()).unwrap();
        let mut pusher = scene.bus.pusher(&format!("jobs.{topic}")).open().unwrap();
        pusher.in_context(id(1)).send(topic.as_bytes()).unwrap();
        // Each is taken, or dropped because it was taken before.
        let deadline = busway_shm::clock::Deadline::after(PATIENCE);
        let over = |account: &Account| account.delivered + account.dropped_total() == 1;
        while !over(&publisher.account()) || !over(&pusher.account()) {
            assert!(!deadline.expired(), "{:?} {:?}", publisher.account(), pusher.account());
            taken.extend(all.recv_timeout(Duration::from_millis(10)).unwrap().map(|sample| sample.to_vec()));
            if let Some(task) = puller.recv_timeout(Duration::from_millis(10)).unwrap() {
                done.push(task.to_vec());
                task.ack().unwrap();
            }
        }
    }
    assert_eq!((taken, done), (vec![b"a".to_vec(), b"b".to_vec()], vec![b"a".to_vec(), b"b".to_vec()]));
}

#[test]
fn what_lies_behind_duplicates_is_found_by_the_next_look() {
    let scene = Scene::new();
    let mut puller = scene.bus.puller("jobs").drop_duplicates(100).open().unwrap();
    let mut pusher = scene.bus.pusher("jobs").slots_max(2_048).open().unwrap();
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    for _ in 0..1_001 {
        pusher.in_context(id(1)).send(b"same").unwrap();
    }
    pusher.in_context(id(2)).send(b"other").unwrap();
    take(&mut puller).ack().unwrap();
    let looks = (1..).find(|_| puller.try_recv().unwrap().is_some_and(|task| &task[..] == b"other"));
    assert!(looks.is_some_and(|looks| looks <= 1_000 / 60), "{looks:?} looks");
    println!("evidence: duplicates=1000 looks={}", looks.unwrap_or_default());
}

#[test]
fn what_was_given_back_and_then_settled_was_not_done() {
    let scene = Scene::new();
    let mut puller = scene
        .bus
        .puller("jobs")
        .ack(Duration::from_secs(3_600))
        .redelivery(Duration::ZERO)
        .drop_duplicates(100)
        .open()
        .unwrap();
    let mut pusher = scene.bus.pusher("jobs").open().unwrap();
    pusher.in_context(id(1)).send(b"work").unwrap();
    let mut task = take(&mut puller);
    task.give_back();
    // As one does who settles all there is.
    let _ = task.settle();
    drop(task);
    let again = take(&mut puller);
    assert_eq!(again.deliveries(), 2);
    again.ack().unwrap();
}

#[test]
fn a_handler_is_called_again_for_what_failed_and_not_for_what_comes_again() {
    let scene = Scene::new();
    let (tell, told) = channel();
    let service = scene
        .bus
        .service("billing")
        .on("orders", move |message| {
            tell.send((message.id().unwrap().0, message.attempt())).unwrap();
            if message.attempt() == 1 { Err("not yet") } else { Ok(()) }
        })
        .drop_duplicates(100)
        .retry(Retry::times(1).pause(Duration::ZERO))
        .start()
        .unwrap();
    let mut publisher = scene.bus.publisher("orders").open().unwrap();
    for number in [1, 1, 2, 1, 2] {
        publisher.in_context(id(number)).send(b"17 apples").unwrap();
    }
    let called: Vec<_> = (0..4).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(called, [(1, 1), (1, 2), (2, 1), (2, 2)]);
    let closed = service.close(PATIENCE);
    assert_eq!((closed.handlers[0].handled, closed.handlers[0].received), (2, 2));
    assert_eq!(duplicates(&publisher.account()), 3);
}

#[test]
fn a_window_without_bound_and_one_of_nothing_are_refused() {
    let scene = Scene::new();
    for ids in [0, IDS_SEEN_MAX + 1, u32::MAX] {
        let subscriber = scene.bus.subscriber("orders").drop_duplicates(ids).open().unwrap_err();
        let puller = scene.bus.puller("jobs").drop_duplicates(ids).open().unwrap_err();
        assert_eq!((subscriber.code(), puller.code()), (Code::BadSetting, Code::BadSetting));
    }
}

#[test]
fn who_keeps_the_latest_may_not_drop_what_comes_again_which_would_push_out_the_newest() {
    let scene = Scene::new();
    let latest = || scene.bus.subscriber("orders").policy(Policy::KeepLatest);
    assert_eq!(latest().drop_duplicates(8).open().unwrap_err().code(), Code::BadSetting);
    let handler = scene.bus.service("latest").on("orders", |_| {}).policy(Policy::KeepLatest);
    assert_eq!(handler.drop_duplicates(8).start().unwrap_err().code(), Code::BadSetting);
    // Without it the one that came again is the latest.
    let mut subscriber = latest().open().unwrap();
    let mut publisher = scene.bus.publisher("orders").open().unwrap();
    for (number, payload) in [(1, b"a"), (2, b"b"), (1, b"a")] {
        publisher.in_context(id(number)).send(payload).unwrap();
    }
    assert_eq!(&subscriber.recv_timeout(PATIENCE).unwrap().unwrap()[..], b"a");
}
