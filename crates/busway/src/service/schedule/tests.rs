//! The schedule against its sentences, in virtual time and without a thread: who works is one loop here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use busway_protocol::{Retry, Time};

use super::{Job, Order, Outcome, Plan, Read, Schedule, Share, Work};

/// A message: its topic, and its place among those of the topic.
type Letter = (u64, u64);

fn job(letter: Letter, retry: Retry) -> Job<Letter> {
    Job {
        message: letter,
        topic: letter.0,
        attempts: retry.begin(letter.1),
        asked: false,
        called: false,
        pass: None,
    }
}

fn desk(concurrency: usize, parked_max: usize) -> Plan {
    Plan { concurrency, parked_max, order: Order::Topic, share: Share::Own }
}

/// Reads until nothing more is read, and returns what is to be handled.
fn fill(schedule: &mut Schedule<Letter>, queue: &mut VecDeque<Letter>, now: Time) -> Vec<Letter> {
    let mut handled = Vec::new();
    loop {
        match schedule.next(now) {
            Work::Read(at) => {
                let read = queue
                    .pop_front()
                    .map_or(Read::Nothing, |letter| Read::Message(job(letter, Retry::default())));
                schedule.read(at, read);
            }
            Work::Handle(_, job) => handled.push(job.message),
            Work::Wait(_) | Work::Over => return handled,
        }
    }
}

#[test]
fn a_topic_whose_message_is_in_hand_waits_and_others_go_past_it() {
    let mut schedule = Schedule::new([desk(2, 8)]);
    let mut queue = VecDeque::from([(1, 1), (1, 2), (1, 3), (2, 1)]);
    assert_eq!(fill(&mut schedule, &mut queue, Time(0)), [(1, 1), (2, 1)]);
    schedule.done(0, 2, Outcome::Handled);
    assert_eq!(fill(&mut schedule, &mut queue, Time(0)), [], "topic 1 is in hand");
    schedule.done(0, 1, Outcome::Handled);
    assert_eq!(fill(&mut schedule, &mut queue, Time(0)), [(1, 2)]);
}

#[test]
fn what_nobody_has_a_hand_or_a_place_for_stays_where_it_is() {
    let mut schedule = Schedule::new([desk(1, 1), desk(4, 3)]);
    let mut queues =
        [VecDeque::from_iter((1..100).map(|n| (1, n))), VecDeque::from_iter((1..100).map(|n| (2, n)))];
    loop {
        match schedule.next(Time(0)) {
            Work::Read(at) => {
                let letter = queues[at].pop_front().unwrap();
                schedule.read(at, Read::Message(job(letter, Retry::default())));
            }
            Work::Handle(..) => {}
            Work::Wait(until) => {
                assert_eq!(until, None);
                break;
            }
            Work::Over => panic!("it is open"),
        }
    }
    assert_eq!((queues[0].len(), queues[1].len()), (98, 95), "one in hand; one in hand and three parked");
}

#[test]
fn what_failed_keeps_its_hand_and_its_topic_until_its_time() {
    let mut schedule = Schedule::new([desk(1, 1)]);
    let mut queue = VecDeque::from([(1, 1), (1, 2)]);
    assert_eq!(fill(&mut schedule, &mut queue, Time(0)), [(1, 1)]);
    let mut failed = job((1, 1), Retry::times(1));
    let due = failed.attempts.failed(Time(0)).unwrap();
    schedule.again(0, failed, due);
    assert!(matches!(schedule.next(Time(due.0 - 1)), Work::Wait(Some(until)) if until == due));
    assert_eq!(fill(&mut schedule, &mut queue, due), [(1, 1)], "and not the one behind it");
    schedule.done(0, 1, Outcome::Failed);
    assert_eq!(fill(&mut schedule, &mut queue, due), [(1, 2)]);
    let account = schedule.account(0);
    assert_eq!((account.received, account.failed, account.retried, account.in_hand), (2, 1, 1, 1));
}

#[test]
fn it_is_over_when_all_that_was_there_is_handled_and_what_waits_at_the_end_is_counted() {
    for in_time in [true, false] {
        let mut schedule = Schedule::new([desk(2, 4)]);
        let mut queue = VecDeque::from([(1, 1), (1, 2), (2, 1)]);
        assert_eq!(fill(&mut schedule, &mut queue, Time(0)).len(), 2);
        schedule.drain();
        schedule.done(0, 2, Outcome::Handled);
        assert!(matches!(schedule.next(Time(0)), Work::Read(0)), "it looks once more");
        schedule.read(0, Read::Nothing);
        assert!(matches!(schedule.next(Time(0)), Work::Wait(None)));
        if in_time {
            schedule.done(0, 1, Outcome::Handled);
            assert_eq!(fill(&mut schedule, &mut queue, Time(0)), [(1, 2)]);
            schedule.done(0, 1, Outcome::Handled);
        } else {
            assert_eq!(schedule.close().len(), 1);
            schedule.done(0, 1, Outcome::Handled);
        }
        assert!(matches!(schedule.next(Time(0)), Work::Over));
        let account = schedule.account(0);
        assert_eq!((account.handled, account.dropped), if in_time { (3, 0) } else { (2, 1) });
        assert_eq!((account.received, account.in_hand, account.parked), (3, 0, 0));
    }
}

#[test]
fn what_is_looked_at_later_keeps_a_drain_open_and_nobody_awake_once_it_was_looked_at() {
    let mut schedule: Schedule<Letter> = Schedule::new([desk(1, 1)]);
    assert!(matches!(schedule.next(Time(0)), Work::Read(0)));
    schedule.read(0, Read::Later(Time(10)));
    assert!(matches!(schedule.next(Time(0)), Work::Wait(Some(Time(10)))));
    schedule.woken(0);
    assert!(matches!(schedule.next(Time(1)), Work::Read(0)));
    schedule.read(0, Read::Message(job((1, 1), Retry::default())));
    assert!(matches!(schedule.next(Time(1)), Work::Handle(0, _)));
    assert!(
        matches!(schedule.next(Time(20)), Work::Wait(None)),
        "no hand is free, so there is no time to wait for"
    );
    schedule.done(0, 1, Outcome::Handled);
    assert!(matches!(schedule.next(Time(20)), Work::Read(0)));
    schedule.read(0, Read::Later(Time(30)));
    schedule.drain();
    assert!(matches!(schedule.next(Time(20)), Work::Read(0)));
    schedule.read(0, Read::Later(Time(30)));
    assert!(matches!(schedule.next(Time(20)), Work::Wait(Some(Time(30)))), "something is there");
    assert!(matches!(schedule.next(Time(30)), Work::Read(0)));
    schedule.read(0, Read::Nothing);
    assert!(matches!(schedule.next(Time(30)), Work::Over));
}

#[test]
fn of_what_others_may_have_nothing_is_read_once_it_drains_and_what_is_in_hand_is_finished() {
    let mut schedule = Schedule::new([Plan { share: Share::Shared, ..desk(3, 1) }]);
    let mut queue = VecDeque::from([(1, 1)]);
    assert_eq!(fill(&mut schedule, &mut queue, Time(0)), [(1, 1)]);
    assert_eq!(schedule.busy(0), [1], "of its topic nothing is to be read");
    schedule.woken(0);
    assert!(matches!(schedule.next(Time(0)), Work::Read(0)));
    schedule.drain();
    assert!(matches!(schedule.next(Time(0)), Work::Wait(None)), "what is read now may bring one");
    schedule.done(0, 1, Outcome::Handled);
    assert!(matches!(schedule.next(Time(0)), Work::Wait(None)));
    assert!(schedule.read(0, Read::Message(job((2, 1), Retry::default()))).is_none());
    assert!(matches!(schedule.next(Time(0)), Work::Handle(0, _)), "it was taken");
    schedule.woken(0);
    assert!(matches!(schedule.next(Time(0)), Work::Wait(None)), "and nothing more is");
    schedule.done(0, 2, Outcome::Handled);
    assert!(matches!(schedule.next(Time(0)), Work::Over));
}

/// What a random world keeps beside the schedule.
struct World {
    random: fastrand::Rng,
    schedule: Schedule<Letter>,
    desks: Vec<Plan>,
    queues: Vec<VecDeque<Letter>>,
    sent: Vec<BTreeMap<u64, u64>>,
    /// The last message of each topic that was begun.
    begun: Vec<BTreeMap<u64, u64>>,
    reading: Vec<usize>,
    hands: Vec<(usize, Job<Letter>)>,
    retry: Retry,
    now: Time,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let some = random.usize(1..4);
        let desks: Vec<_> = (0..some).map(|_| desk(random.usize(1..5), random.usize(1..6))).collect();
        World {
            schedule: Schedule::new(desks.clone()),
            queues: vec![VecDeque::new(); some],
            sent: vec![BTreeMap::new(); some],
            begun: vec![BTreeMap::new(); some],
            reading: Vec::new(),
            hands: Vec::new(),
            retry: Retry::times(2).pause(Duration::from_nanos(50)),
            now: Time(0),
            desks,
            random,
        }
    }

    fn publish(&mut self) {
        let (at, topic) = (self.random.usize(..self.queues.len()), self.random.u64(0..6));
        let number = self.sent[at].entry(topic).or_default();
        *number += 1;
        self.queues[at].push_back((topic, *number));
        self.schedule.woken(at);
    }

    fn work(&mut self) {
        match self.schedule.next(self.now) {
            Work::Read(at) => {
                assert!(!self.reading.contains(&at), "two read the subscriber of desk {at}");
                self.reading.push(at);
            }
            Work::Handle(at, job) => {
                let (topic, number) = job.message;
                let others = self.hands.iter().filter(|(desk, _)| *desk == at);
                assert!(
                    others.clone().all(|(_, other)| other.topic != topic),
                    "two of topic {topic} at desk {at}"
                );
                assert!(others.count() < self.desks[at].concurrency);
                let last = self.begun[at].insert(topic, number).unwrap_or(0);
                let expected = if job.attempts.count() == 1 { last + 1 } else { last };
                assert_eq!(number, expected, "topic {topic} of desk {at} goes out of order");
                self.hands.push((at, job));
            }
            Work::Wait(_) | Work::Over => {}
        }
    }

    fn read(&mut self) {
        if self.reading.is_empty() {
            return;
        }
        let at = self.reading.swap_remove(self.random.usize(..self.reading.len()));
        let read = match self.queues[at].pop_front() {
            Some(letter) => Read::Message(job(letter, self.retry)),
            None => Read::Nothing,
        };
        self.schedule.read(at, read);
    }

    fn end(&mut self) {
        if self.hands.is_empty() {
            return;
        }
        let (at, mut job) = self.hands.swap_remove(self.random.usize(..self.hands.len()));
        match (self.random.u8(0..10), job.attempts.failed(self.now)) {
            (0..=2, Some(due)) => assert!(self.schedule.again(at, job, due).is_none(), "it is open"),
            (0..=2, None) => self.schedule.done(at, job.topic, Outcome::Failed),
            _ => self.schedule.done(at, job.topic, Outcome::Handled),
        }
    }

    fn check(&self) {
        for at in 0..self.desks.len() {
            let account = self.schedule.account(at);
            let ended =
                account.handled + account.failed + account.rejected + account.returned + account.dropped;
            assert_eq!(account.received, ended + account.in_hand + account.parked, "desk {at}: {account:?}");
            assert!(account.in_hand as usize <= self.desks[at].concurrency);
            assert!(account.parked as usize <= self.desks[at].parked_max);
        }
    }
}

#[test]
fn in_a_hundred_thousand_random_steps_order_bounds_and_accounts_hold_and_nothing_is_left() {
    let mut messages = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..1_000 {
            world.now = Time(world.now.0 + world.random.u64(0..20));
            match world.random.u8(0..8) {
                0 => world.publish(),
                1..=3 => world.work(),
                4 | 5 => world.read(),
                _ => world.end(),
            }
            world.check();
        }
        world.schedule.drain();
        let mut steps = 0;
        while !world.schedule.is_closed() {
            world.now = Time(world.now.0 + 10);
            world.work();
            world.read();
            world.end();
            world.check();
            steps += 1;
            assert!(steps < 100_000, "seed {seed}: it does not end");
        }
        let received: u64 = (0..world.desks.len()).map(|at| world.schedule.account(at).received).sum();
        let sent: u64 = world.sent.iter().flat_map(BTreeMap::values).sum();
        assert_eq!(received, sent, "seed {seed}: something was left behind");
        messages += sent;
    }
    assert!(messages > 10_000, "{messages}");
}
