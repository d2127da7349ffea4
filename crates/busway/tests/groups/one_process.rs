//! Groups between the buses of one process.

use std::collections::BTreeSet;
use std::time::Duration;

use busway::{Bus, Code, Late, Puller, SendError};
use busway_shm::clock::{self, Deadline};

use crate::part::{Directory, PATIENCE};

fn number(task: &[u8]) -> u64 {
    u64::from_le_bytes(task.try_into().unwrap())
}

fn all(puller: &mut Puller) -> Vec<u64> {
    std::iter::from_fn(|| {
        let task = puller.recv_timeout(Duration::from_millis(20)).unwrap()?;
        let number = number(&task);
        task.ack().unwrap();
        Some(number)
    })
    .collect()
}

#[test]
fn three_pushers_and_five_pullers_share_all_work_and_a_subscriber_gets_none_of_it() {
    let directory = Directory::new();
    let buses: Vec<Bus> = (0..8).map(|n| directory.join(&format!("bus{n}"))).collect();
    let mut pushers: Vec<_> = buses[..3]
        .iter()
        .zip(0..)
        .map(|(bus, n)| bus.pusher(&format!("jobs.k{n}")).open().unwrap())
        .collect();
    let mut subscriber = buses[0].subscriber("jobs.>").open().unwrap();
    let mut publisher = buses[0].publisher("jobs.news").open().unwrap();
    let mut pullers: Vec<Puller> =
        buses[3..].iter().map(|bus| bus.puller("jobs.*").group("g").open().unwrap()).collect();
    assert!(pullers.iter().all(|puller| puller.pushers() == 3));
    publisher.send(b"for subscribers").unwrap();
    let mut came = BTreeSet::new();
    for round in 0..200_u64 {
        for (pusher, n) in pushers.iter_mut().zip(0..) {
            pusher.send(&(round * 3 + n).to_le_bytes()).unwrap();
        }
        for puller in &mut pullers {
            while let Some(task) = puller.try_recv().unwrap() {
                assert!(came.insert(number(&task)), "given twice");
            }
        }
    }
    let deadline = Deadline::after(PATIENCE);
    while came.len() < 600 {
        assert!(!deadline.expired(), "{} of 600", came.len());
        for puller in &mut pullers {
            while let Some(task) = puller.try_recv().unwrap() {
                assert!(came.insert(number(&task)), "given twice");
            }
        }
    }
    for pusher in &mut pushers {
        pusher.flush(PATIENCE).unwrap();
        let account = pusher.account();
        assert_eq!((account.sent, account.delivered, account.in_flight), (200, 200, 0), "{account:?}");
    }
    assert_eq!(&subscriber.recv().unwrap()[..], b"for subscribers");
    assert!(subscriber.try_recv().unwrap().is_none());
    println!("evidence: pushers=3 pullers=5 messages={}", came.len());
}

#[test]
fn what_is_pushed_before_anybody_pulls_waits_and_when_the_time_is_up_is_counted() {
    let directory = Directory::new();
    let (one, two) = (directory.join("pusher"), directory.join("puller"));
    let mut pusher =
        one.pusher("w").slots_max(32).max_wait(Duration::ZERO).late_join(PATIENCE).open().unwrap();
    for n in 1..=32_u64 {
        pusher.send(&n.to_le_bytes()).unwrap();
    }
    assert!(matches!(pusher.send(b"one more"), Err(SendError::Full(_))));
    let mut puller = two.puller("w").open().unwrap();
    assert_eq!(all(&mut puller), (1..=32).collect::<Vec<u64>>());
    let mut hasty = one.pusher("x").slots_max(32).late_join(Duration::ZERO).open().unwrap();
    for n in 1..=100_u64 {
        hasty.send(&n.to_le_bytes()).unwrap();
    }
    let lost = hasty.account().dropped["no_subscriber"];
    let mut puller = two.puller("x").open().unwrap();
    assert_eq!(all(&mut puller), (lost + 1..=100).collect::<Vec<u64>>());
    assert!((68..100).contains(&lost), "{lost}");
}

#[test]
fn work_says_that_it_is_work() {
    let directory = Directory::new();
    let bus = directory.join("both");
    let mut puller = bus.puller("w").open().unwrap();
    let mut pusher = bus.pusher("w").open().unwrap();
    pusher.send(&[1; 8]).unwrap();
    pusher.send(&[2; 5_000]).unwrap();
    pusher.send_json(&3).unwrap();
    let mut loan = pusher.loan(200_000).unwrap();
    loan.fill(4);
    loan.send().unwrap();
    for _ in 0..4 {
        let task = puller.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(task.sample().kind(), busway_wire::Kind::Push, "{} bytes", task.len());
    }
}

#[test]
fn a_flush_waits_for_no_group_that_nobody_came_to_in_time() {
    let directory = Directory::new();
    let bus = directory.join("both");
    let mut pusher = bus.pusher("w").late_join(Duration::ZERO).open().unwrap();
    pusher.send(&7_u64.to_le_bytes()).unwrap();
    let deadline = Deadline::after(PATIENCE);
    let Err(SendError::Timeout(behind)) = pusher.flush(Duration::MAX) else { panic!("nobody has done it") };
    assert!(!deadline.expired());
    assert_eq!(behind.0.len(), 1, "{behind}");
    // It is kept all the same, and a flush waits for who is there.
    let mut puller = bus.puller("w").open().unwrap();
    let task = puller.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(matches!(pusher.flush(Duration::from_millis(20)), Err(SendError::Timeout(_))));
    task.ack().unwrap();
    pusher.flush(PATIENCE).unwrap();
    assert_eq!(pusher.account().delivered, 1);
}

#[test]
fn what_nobody_acknowledges_is_a_dead_letter_after_so_many_attempts() {
    let directory = Directory::new();
    let (one, two) = (directory.join("pusher"), directory.join("puller"));
    let mut pusher = one.pusher("w").open().unwrap();
    let puller = two.puller("w").group("g").ack(PATIENCE).attempts(3);
    let mut puller = puller.redelivery(Duration::ZERO).open().unwrap();
    pusher.send(&7_u64.to_le_bytes()).unwrap();
    pusher.send(&8_u64.to_le_bytes()).unwrap();
    for delivery in 1..=3 {
        let task = puller.recv().unwrap();
        assert_eq!((number(&task), task.deliveries()), (7, delivery));
        if delivery == 2 { drop(task) } else { task.nack() }
    }
    let mut dead = one.puller("dead-letters.g").open().unwrap();
    assert_eq!(all(&mut puller), [8]);
    let letter = dead.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(number(&letter), 7);
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped["dead_letter"]), (1, 1), "{account:?}");
}

#[test]
fn what_is_given_back_rests_holds_up_nothing_and_is_another_s_who_waits_for_no_rest() {
    let directory = Directory::new();
    let (one, two) = (directory.join("pusher"), directory.join("puller"));
    let mut pusher = one.pusher("w").open().unwrap();
    let open = |rest| two.puller("w").group("g").ack(PATIENCE).attempts(4).redelivery(rest).open().unwrap();
    let mut puller = open(Duration::from_secs(3_600));
    for letter in 1..=3_u64 {
        pusher.send(&letter.to_le_bytes()).unwrap();
    }
    let task = puller.recv().unwrap();
    assert_eq!((number(&task), task.deliveries()), (1, 1));
    task.nack();
    assert_eq!(all(&mut puller), [2, 3], "what is behind it goes on");
    assert!(puller.recv_timeout(Duration::from_millis(20)).unwrap().is_none(), "it rests");
    assert!(pusher.account().in_flight > 0);
    let mut other = open(Duration::ZERO);
    let task = other.recv_timeout(PATIENCE).unwrap().expect("who waits for no rest has it");
    assert_eq!((number(&task), task.deliveries()), (1, 2));
    task.pass_on();
    let task = other.recv_timeout(PATIENCE).unwrap().expect("it was passed on");
    assert_eq!((number(&task), task.deliveries()), (1, 2), "that is no delivery");
    task.nack();
    for delivery in 3..=4 {
        let task = other.recv_timeout(PATIENCE).unwrap().expect("it again");
        assert_eq!(task.deliveries(), delivery);
        task.nack();
    }
    // Its last puller had it: nobody waits for the dead letter.
    assert!(puller.try_recv().unwrap().is_none());
    assert_eq!(pusher.account().dropped["dead_letter"], 1);
}

#[test]
fn what_was_passed_on_by_who_ends_is_another_s_at_once() {
    let directory = Directory::new();
    let bus = directory.join("both");
    let mut pusher = bus.pusher("w").open().unwrap();
    let hour = Duration::from_secs(3_600);
    let open = || bus.puller("w").group("g").ack(hour).redelivery(hour).open().unwrap();
    let (mut one, mut two) = (open(), open());
    pusher.send(&7_u64.to_le_bytes()).unwrap();
    let task = one.recv_timeout(PATIENCE).unwrap().expect("it is there");
    task.pass_on();
    drop(one);
    let task = two.recv_timeout(PATIENCE).unwrap().expect("without a rest");
    assert_eq!((number(&task), task.deliveries()), (7, 1));
    task.ack().unwrap();
}

#[test]
fn who_sleeps_is_woken_when_what_was_given_back_has_rested() {
    let directory = Directory::new();
    let bus = directory.join("both");
    let rest = Duration::from_millis(60);
    let mut pusher = bus.pusher("w").open().unwrap();
    let mut puller = bus.puller("w").group("g").ack(PATIENCE).redelivery(rest).open().unwrap();
    pusher.send(&7_u64.to_le_bytes()).unwrap();
    let given_back = |task: busway::Task| {
        task.nack();
        clock::monotonic_ns()
    };
    let since = given_back(puller.recv().unwrap());
    let task = puller.recv_timeout(PATIENCE).unwrap().expect("it has rested");
    let rested = Duration::from_nanos(clock::monotonic_ns() - since);
    assert!(rested >= rest / 2, "it came after {rested:?}");
    let since = given_back(task);
    let news = puller.news();
    let task = loop {
        // Longer than it rests: who sleeps so long is woken before.
        if let Some(taken) = news.wait(PATIENCE, || puller.look().transpose()).unwrap() {
            break taken.unwrap();
        }
    };
    let rested = Duration::from_nanos(clock::monotonic_ns() - since);
    assert!(rested >= rest && task.deliveries() == 3, "it came after {rested:?}");
    task.ack().unwrap();
}

#[test]
fn a_dead_letter_that_finds_no_room_stops_no_other_work_and_is_laid_down_when_there_is() {
    const LETTERS: u64 = 1024 + 6;
    let directory = Directory::new();
    let (one, two) = (directory.join("pusher"), directory.join("puller"));
    let mut pusher = one.pusher("w").open().unwrap();
    // Somebody who wants them and takes none: their ring fills.
    let mut dead = one.puller("dead-letters.g").open().unwrap();
    let mut puller = two.puller("w").group("g").ack(PATIENCE).attempts(1).open().unwrap();
    for letter in 1..=LETTERS {
        pusher.send(&letter.to_le_bytes()).unwrap();
        let task = puller.recv_timeout(PATIENCE).unwrap().expect("nothing stands before it");
        assert_eq!(number(&task), letter);
        task.nack();
    }
    pusher.send(&0_u64.to_le_bytes()).unwrap();
    let task = puller.recv_timeout(PATIENCE).unwrap().expect("nothing stands before it");
    assert_eq!(number(&task), 0);
    task.ack().unwrap();
    let mut letters = BTreeSet::new();
    let deadline = Deadline::after(PATIENCE);
    while letters.len() < LETTERS as usize {
        assert!(!deadline.expired(), "{} came", letters.len());
        assert!(puller.recv_timeout(Duration::from_millis(1)).unwrap().is_none());
        letters.extend(all(&mut dead));
    }
    assert_eq!(letters, (1..=LETTERS).collect());
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped["dead_letter"]), (1, LETTERS), "{account:?}");
}

#[test]
fn an_acknowledgement_that_comes_too_late_is_refused_and_says_so() {
    let directory = Directory::new();
    let (one, two) = (directory.join("pusher"), directory.join("puller"));
    let mut pusher = one.pusher("w").open().unwrap();
    let open = || two.puller("w").group("g").ack(Duration::from_millis(30)).attempts(60).open().unwrap();
    let (mut slow, mut other) = (open(), open());
    pusher.send(&1_u64.to_le_bytes()).unwrap();
    let late = slow.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(late.deliveries(), 1);
    // A machine with much else to do may take it from this one as well: then it comes again.
    let deadline = Deadline::after(PATIENCE);
    let mut again =
        other.recv_timeout(PATIENCE).unwrap().expect("it is given to another when its time is up");
    assert_eq!(late.ack(), Err(Late));
    assert_eq!(busway::Error::from(Late).code(), Code::TooLate);
    loop {
        assert!(again.deliveries() > 1 && number(&again) == 1);
        if again.ack().is_ok() {
            break;
        }
        assert!(!deadline.expired());
        again = other.recv_timeout(PATIENCE).unwrap().expect("it was given back");
    }
    pusher.flush(PATIENCE).unwrap();
    assert_eq!(pusher.account().delivered, 1);
}

#[test]
fn settings_that_no_group_has_are_refused_and_so_is_a_puller_that_acknowledges_otherwise() {
    let directory = Directory::new();
    let bus = directory.join("bus");
    let code = |error: busway::Error| error.code();
    assert_eq!(bus.puller("w").group("a..b").open().map_err(code).unwrap_err(), Code::BadTopic);
    assert_eq!(bus.puller("w").ack(Duration::ZERO).open().map_err(code).unwrap_err(), Code::BadSetting);
    assert_eq!(
        bus.puller("w").ack(PATIENCE).attempts(63).open().map_err(code).unwrap_err(),
        Code::BadSetting
    );
    assert_eq!(bus.puller("w").holds(0).open().map_err(code).unwrap_err(), Code::BadSetting);
    assert_eq!(bus.pusher("$w").open().map_err(code).unwrap_err(), Code::ReservedTopic);
    assert_eq!(bus.pusher("w").slots_max(0).open().map_err(code).unwrap_err(), Code::BadSetting);
    let mut pusher = bus.pusher("w").open().unwrap();
    let mut first = bus.puller("w").group("g").open().unwrap();
    let mut other = bus.puller("w").group("g").ack(PATIENCE).open().unwrap();
    assert_eq!((first.pushers(), other.unread().len()), (1, 1));
    assert_eq!(other.unread()[0].error.code(), Code::SeatRefused);
    pusher.send(b"work").unwrap();
    assert_eq!(&first.recv().unwrap()[..], b"work");
    assert!(other.try_recv().unwrap().is_none());
    bus.close();
    assert!(first.recv().is_err() && pusher.send(b"more").is_err());
}

#[test]
fn what_a_puller_had_whose_bus_was_closed_is_counted_and_holds_up_nobody() {
    let directory = Directory::new();
    let (one, two) = (directory.join("pusher"), directory.join("puller"));
    let mut pusher = one.pusher("w").open().unwrap();
    let mut puller = two.puller("w").open().unwrap();
    pusher.send(b"one").unwrap();
    let task = puller.recv_timeout(PATIENCE).unwrap().expect("it was pushed");
    two.close();
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.dropped["puller_died"], account.in_flight), (1, 0), "{account:?}");
    assert_eq!(&task[..], b"one", "what is held stays as it was");
}
