//! Each policy against each way to send: who was full, who was stalled, who was evicted, and what the slow one lost.
//!
//! Two buses of one process: the second is named `slow` and does not read. The ring has 64 slots, so that the 65th
//! message is the first that takes something from somebody.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

use std::path::PathBuf;
use std::time::Duration;

use busway::{Behind, Bus, Cause, Code, Gating, Policy, Publisher, RecvError, SendError, Sent, Subscriber};
use busway_shm::clock::{Deadline, monotonic_ns};

const SLOTS: u64 = 64;
/// The publisher's cap: short, because some tests wait it out.
const CAP: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(30);

/// The three ways to send.
const WAYS: [Way; 3] = [Way::Try, Way::Send, Way::Timeout(Duration::from_millis(5))];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Try,
    Send,
    Timeout(Duration),
}

/// A publisher and a subscriber in a domain of their own.
struct Scene {
    publisher: Publisher,
    subscriber: Subscriber,
    buses: [Bus; 2],
    directory: Directory,
}

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let path = std::env::temp_dir().join(format!("busway-policies-{random:016x}"));
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn scene(policy: Policy, gating: Gating) -> Scene {
    scene_of("topic", "topic", policy, gating)
}

fn scene_of(pattern: &str, topic: &str, policy: Policy, gating: Gating) -> Scene {
    let directory = Directory::new();
    let join = |name: &str| Bus::builder().directory(&directory.0).name(name).open().unwrap();
    let (quick, slow) = (join("quick"), join("slow"));
    let subscriber = slow.subscriber(pattern).policy(policy).open().unwrap();
    let publisher = quick.publisher(topic).slots_max(SLOTS as u32).max_wait(CAP).gating(gating).open();
    let publisher = publisher.unwrap();
    assert_eq!(publisher.subscribers(), 1, "the constructor returns when the subscriber can read");
    Scene { publisher, subscriber, buses: [quick, slow], directory }
}

impl Scene {
    fn send(&mut self, way: Way) -> Result<Sent, SendError> {
        let payload = (self.publisher.account().sent + 1).to_le_bytes();
        match way {
            Way::Try => self.publisher.try_send(&payload),
            Way::Send => self.publisher.send(&payload),
            Way::Timeout(timeout) => self.publisher.send_timeout(&payload, timeout),
        }
    }

    /// Messages that take nothing from anybody.
    fn fill(&mut self) {
        for sequence in 1..=SLOTS {
            let sent = self.send(Way::Try).expect("there is room for as many messages as slots");
            assert_eq!((sent.sequence, sent.stalled, sent.evicted), (sequence, 0, 0));
        }
    }

    /// Everything that can be read now: `Ok(sequence)`, or the error that ended it.
    fn drain(&mut self) -> (Vec<u64>, Option<RecvError>) {
        let mut read = Vec::new();
        // The first is waited for: the publisher may have been told of its subscriber before that was told of its seat.
        let mut taken = self.subscriber.recv_timeout(PATIENCE);
        loop {
            match taken {
                Ok(Some(sample)) => {
                    assert_eq!(&sample[..], sample.sequence().to_le_bytes(), "the payload is its own");
                    read.push(sample.sequence());
                }
                Ok(None) => return (read, None),
                Err(error) => return (read, Some(error)),
            }
            taken = self.subscriber.try_recv();
        }
    }

    /// What was lost: the one cause, how many, from where to where.
    fn lost(&mut self) -> (Cause, u64, u64, u64) {
        let losses = self.subscriber.losses();
        assert_eq!(losses.len(), 1, "{losses:?}");
        (losses[0].cause, losses[0].count, losses[0].from, losses[0].to)
    }

    /// Both ledgers close and say the same.
    fn assert_accounts(&self, sent: u64, delivered: u64, lost: u64) {
        for account in [self.publisher.account(), self.subscriber.account()] {
            assert!(account.closed(), "{account:?}");
            assert_eq!((account.expected, account.delivered), (sent, delivered), "{account:?}");
            assert_eq!(account.dropped_total(), lost, "{account:?}");
        }
    }
}

fn assert_names_the_slow_one(behind: &Behind) {
    let [who] = &behind.0[..] else { panic!("one subscriber is slow: {behind:?}") };
    assert_eq!((who.name.as_str(), who.pid, who.behind), ("slow", std::process::id(), SLOTS));
    assert!(behind.to_string().contains("slow (pid "), "{behind}");
}

#[test]
fn block_says_who_is_full_who_was_waited_for_and_who_is_stalled() {
    for way in WAYS {
        let mut scene = scene(Policy::Block, Gating::Allowed);
        scene.fill();
        let before = monotonic_ns();
        let outcome = scene.send(way);
        let waited = Duration::from_nanos(monotonic_ns() - before);
        match way {
            Way::Try => {
                let Err(SendError::Full(who)) = outcome else { panic!("{outcome:?}") };
                assert_names_the_slow_one(&who);
            }
            Way::Timeout(timeout) => {
                let Err(SendError::Timeout(who)) = outcome else { panic!("{outcome:?}") };
                assert_names_the_slow_one(&who);
                assert!(waited >= timeout, "{waited:?}");
            }
            Way::Send => {
                let sent = outcome.expect("after the cap the publisher goes on");
                assert_eq!((sent.sequence, sent.stalled, sent.evicted), (SLOTS + 1, 1, 0));
                assert!(waited >= CAP && sent.waited_ns >= CAP.as_nanos() as u64, "{waited:?} {sent:?}");
            }
        }
        if way != Way::Send {
            let (read, _) = scene.drain();
            assert_eq!(read, (1..=SLOTS).collect::<Vec<_>>(), "{way:?}: what was not sent was not seen");
            assert_eq!(scene.send(way).expect("there is room again").sequence, SLOTS + 1);
            scene.assert_accounts(SLOTS + 1, SLOTS, 0);
        }
        println!("evidence: policy=block way={way:?} waited_us={}", waited.as_micros());
    }
}

#[test]
fn a_stalled_subscriber_counts_what_it_lost_and_gates_again_once_it_has_caught_up() {
    let mut scene = scene(Policy::Block, Gating::Allowed);
    scene.fill();
    assert_eq!(scene.send(Way::Send).unwrap().stalled, 1);
    for _ in 0..3 * SLOTS {
        let sent = scene.send(Way::Send).unwrap();
        assert_eq!((sent.stalled, sent.waited_ns), (0, 0), "a stalled subscriber is waited for once");
    }
    let head = 4 * SLOTS + 1;
    let (read, _) = scene.drain();
    let (cause, count, from, to) = scene.lost();
    assert_eq!((cause, from), (Cause::Stalled, 1));
    assert_eq!((count, read.len() as u64), (to, head - to), "what is not lost is read");
    assert_eq!((read.first(), read.last()), (Some(&(to + 1)), Some(&head)));
    assert!(count <= head - SLOTS / 2, "no more is lost than the ring had to give up: {count}");
    scene.assert_accounts(head, head - count, count);
    let mut sends = 0;
    let refused = loop {
        sends += 1;
        if let Err(error) = scene.send(Way::Try) {
            break error;
        }
        assert!(sends <= 2 * SLOTS, "it gates again");
    };
    assert!(matches!(refused, SendError::Full(_)), "{refused:?}");
    println!("evidence: stalled_lost={count} sends_until_full_again={sends}");
}

#[test]
fn block_waits_no_longer_than_the_subscriber_takes() {
    let mut scene = scene(Policy::Block, Gating::Allowed);
    scene.fill();
    std::thread::scope(|scope| {
        let Scene { publisher, subscriber, .. } = &mut scene;
        let reader = scope.spawn(move || {
            for sequence in 1..=1000 + SLOTS {
                let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("a message comes");
                assert_eq!(sample.sequence(), sequence);
            }
            assert!(subscriber.losses().is_empty());
        });
        for sequence in SLOTS + 1..=1000 + SLOTS {
            let sent = publisher.send_timeout(&sequence.to_le_bytes(), PATIENCE).unwrap();
            // On a machine that is busy with other things the reader may be away for longer than the cap of this file.
            assert_eq!((sent.sequence, sent.evicted), (sequence, 0));
        }
        reader.join().unwrap();
    });
}

#[test]
fn fail_refuses_every_way_to_send_at_once_and_loses_nothing() {
    for way in WAYS {
        let mut scene = scene(Policy::Fail, Gating::Allowed);
        scene.fill();
        let before = monotonic_ns();
        let outcome = scene.send(way);
        let waited = Duration::from_nanos(monotonic_ns() - before);
        let Err(SendError::Full(who)) = outcome else { panic!("{way:?}: {outcome:?}") };
        assert_names_the_slow_one(&who);
        assert_eq!(SendError::Full(who).code(), Code::Full);
        assert_eq!(scene.drain().0, (1..=SLOTS).collect::<Vec<_>>());
        assert_eq!(scene.send(way).expect("there is room again").sequence, SLOTS + 1);
        scene.assert_accounts(SLOTS + 1, SLOTS, 0);
        println!("evidence: policy=fail way={way:?} waited_us={}", waited.as_micros());
    }
}

#[test]
fn evict_goes_on_with_every_way_to_send_and_both_sides_are_told() {
    for way in WAYS {
        let mut scene = scene(Policy::Evict, Gating::Allowed);
        scene.fill();
        let sent = scene.send(way).expect("the publisher goes on");
        assert_eq!((sent.sequence, sent.stalled, sent.evicted), (SLOTS + 1, 0, 1), "{way:?}");
        assert_eq!(scene.send(way).expect("it is evicted once").evicted, 0);
        let (read, error) = scene.drain();
        assert!(read.len() < SLOTS as usize, "what was overwritten is not read: {read:?}");
        let Some(RecvError::Evicted(topic)) = error else { panic!("{way:?}: {error:?}") };
        assert_eq!((topic.as_str(), RecvError::Evicted(topic.clone()).code()), ("topic", Code::Evicted));
        let account = scene.subscriber.account();
        assert!(account.closed(), "{account:?}");
        let evicted = SLOTS + 2 - read.len() as u64;
        assert_eq!(account.dropped.get("evicted"), Some(&evicted), "{account:?}");
        let (cause, count, _, to) = scene.lost();
        assert_eq!((cause, count, to), (Cause::Evicted, evicted, SLOTS + 2), "what it cost is told as well");
        println!("evidence: policy=evict way={way:?} dropped={:?}", account.dropped);
    }
}

#[test]
fn an_evicted_subscriber_stays_evicted_when_the_rendezvous_is_taken_over() {
    let mut scene = scene_of("topic.>", "topic.one", Policy::Evict, Gating::Allowed);
    scene.fill();
    assert_eq!(scene.send(Way::Try).map(|sent| sent.evicted), Ok(1));
    let (_, error) = scene.drain();
    assert!(matches!(error, Some(RecvError::Evicted(_))), "{error:?}");
    let next = Bus::builder().directory(&scene.directory.0).name("next").take_role().open().unwrap();
    assert!(next.is_rendezvous());
    // The publisher's process tells the new holder of its first ring, then of this one.
    let mut second = scene.buses[0].publisher("topic.two").open().unwrap();
    // So many that each publisher which has something gets its turn.
    for sequence in 1..=200 {
        second.send(b"two").unwrap();
        let sample = scene.subscriber.recv_timeout(PATIENCE).unwrap().expect("it reads other publishers");
        let read = (sample.topic(), sample.sequence());
        assert_eq!(read, ("topic.two", sequence), "nothing is read a second time");
    }
}

#[test]
fn drop_oldest_keeps_the_newest_of_its_depth_and_nobody_waits() {
    for way in WAYS {
        let mut scene = scene(Policy::DropOldest { depth: 10 }, Gating::Allowed);
        let sent = 1000;
        send_undisturbed(&mut scene, way, sent);
        assert_eq!(scene.drain().0, (sent - 9..=sent).collect::<Vec<_>>());
        assert_eq!(scene.lost(), (Cause::Lapped, sent - 10, 1, sent - 10));
        scene.assert_accounts(sent, 10, sent - 10);
    }
}

#[test]
fn drop_oldest_without_a_depth_keeps_what_the_ring_holds() {
    for way in WAYS {
        let mut scene = scene(Policy::default(), Gating::Allowed);
        let sent = 1000;
        send_undisturbed(&mut scene, way, sent);
        let (read, _) = scene.drain();
        let (cause, count, from, to) = scene.lost();
        assert_eq!((cause, from, count), (Cause::Lapped, 1, to));
        assert_eq!(read, (to + 1..=sent).collect::<Vec<_>>());
        assert!(read.len() as u64 >= SLOTS / 2, "the ring holds {} of {SLOTS}", read.len());
        scene.assert_accounts(sent, sent - count, count);
    }
}

#[test]
fn keep_latest_reads_the_newest_message_only() {
    for way in WAYS {
        let mut scene = scene(Policy::KeepLatest, Gating::Allowed);
        let sent = 1000;
        send_undisturbed(&mut scene, way, sent);
        assert_eq!(scene.drain().0, [sent]);
        assert_eq!(scene.lost(), (Cause::Conflated, sent - 1, 1, sent - 1));
        scene.assert_accounts(sent, 1, sent - 1);
    }
}

#[test]
fn losses_with_messages_between_them_are_told_range_by_range() {
    let mut scene = scene(Policy::KeepLatest, Gating::Allowed);
    for last in [3, 6] {
        for _ in 0..3 {
            scene.send(WAYS[0]).expect("nobody can hold it up");
        }
        assert_eq!(scene.drain().0, [last]);
    }
    let losses = scene.subscriber.losses();
    let ranges: Vec<_> = losses.iter().map(|loss| (loss.from, loss.to, loss.count)).collect();
    assert_eq!(ranges, [(1, 2, 2), (4, 5, 2)]);
}

#[test]
fn drop_newest_keeps_the_oldest_of_a_burst_and_loses_the_rest() {
    for way in WAYS {
        let mut scene = scene(Policy::DropNewest { depth: 10 }, Gating::Allowed);
        send_undisturbed(&mut scene, way, SLOTS / 2);
        assert_eq!(scene.drain().0, (1..=10).collect::<Vec<_>>());
        assert_eq!(scene.lost(), (Cause::DropNewest, SLOTS / 2 - 10, 11, SLOTS / 2));
        scene.assert_accounts(SLOTS / 2, 10, SLOTS / 2 - 10);
    }
}

#[test]
fn a_publisher_that_refuses_gating_waits_for_nobody_and_the_slow_one_counts() {
    for policy in [Policy::Block, Policy::Fail, Policy::Evict] {
        for way in WAYS {
            let mut scene = scene(policy, Gating::Refused);
            send_undisturbed(&mut scene, way, 1000);
            let (read, error) = scene.drain();
            assert_eq!(error, None, "{policy}: nobody is evicted who could not gate");
            let (cause, count, from, _) = scene.lost();
            assert_eq!((cause, from), (Cause::Lapped, 1), "{policy}");
            scene.assert_accounts(1000, read.len() as u64, count);
        }
    }
}

#[test]
fn a_slow_subscriber_of_each_policy_takes_nothing_from_a_quick_one() {
    let policies = "block fail evict drop-oldest:3 keep-latest drop-newest:3";
    for policy in policies.split(' ').map(|text| text.parse::<Policy>().unwrap()) {
        let mut scene = scene(policy, Gating::Allowed);
        let mut quick = scene.buses[0].subscriber("topic").policy(Policy::Block).open().unwrap();
        scene.publisher.wait_for_subscribers(2, PATIENCE).unwrap();
        let mut read = 0;
        let mut refused = 0;
        for _ in 0..4 * SLOTS {
            match scene.send(Way::Send) {
                Ok(sent) => {
                    let sample = quick.recv_timeout(PATIENCE).unwrap().expect("it comes");
                    read += 1;
                    assert_eq!((sample.sequence(), sent.sequence), (read, read), "{policy}");
                }
                Err(SendError::Full(who)) => {
                    assert_names_the_slow_one(&who);
                    refused += 1;
                }
                Err(error) => panic!("{policy}: {error}"),
            }
        }
        assert!(quick.losses().is_empty() && quick.account().closed(), "{policy}");
        let expected = if policy == Policy::Fail { 3 * SLOTS } else { 0 };
        assert_eq!(refused, expected, "{policy}: only who says fail makes a send fail");
        println!("evidence: policy={policy} quick_read={read} refused={refused}");
    }
}

/// Sends that nothing can hold up.
fn send_undisturbed(scene: &mut Scene, way: Way, count: u64) {
    let deadline = Deadline::after(PATIENCE);
    for sequence in 1..=count {
        let sent = scene.send(way).expect("nobody can hold it up");
        assert_eq!((sent.sequence, sent.waited_ns), (sequence, 0), "{way:?}");
        assert_eq!((sent.stalled, sent.evicted), (0, 0), "{way:?}");
    }
    assert!(!deadline.expired(), "it took too long");
}

#[test]
fn a_subscriber_that_is_waited_for_is_behind_by_as_many_as_was_said_to_the_message() {
    let mut sent = 0;
    for most in [1_u32, 2, 10, 31, 32, 33, 100, 1_000] {
        let directory = Directory::new();
        let join = |name: &str| Bus::builder().directory(&directory.0).name(name).open().unwrap();
        let (quick, slow) = (join("quick"), join("slow"));
        let mut subscriber = slow.subscriber("topic").policy(Policy::Block).open().unwrap();
        // One that is not waited for has no part in it.
        let _idle = slow.subscriber("topic").open().unwrap();
        let mut publisher =
            quick.publisher("topic").slots_max(most).behind_max(most).max_wait(PATIENCE).open().unwrap();
        publisher.wait_for_subscribers(2, PATIENCE).unwrap();
        let fill = |publisher: &mut Publisher| {
            (0..2 * most).take_while(|_| publisher.try_send(b"x").is_ok()).count() as u32
        };
        assert_eq!(fill(&mut publisher), most);
        for read in [1, most / 2 + 1, most] {
            for _ in 0..read {
                assert!(subscriber.recv_timeout(PATIENCE).unwrap().is_some());
            }
            assert_eq!(fill(&mut publisher), read, "of {most}");
            sent += read;
        }
        // Who comes while others are behind is held back at as many from where it came.
        let mut late = slow.subscriber("topic").policy(Policy::Block).open().unwrap();
        publisher.wait_for_subscribers(3, PATIENCE).unwrap();
        for _ in 0..most {
            assert!(subscriber.recv_timeout(PATIENCE).unwrap().is_some());
        }
        assert_eq!(fill(&mut publisher), most);
        assert!(late.recv_timeout(PATIENCE).unwrap().is_some());
        assert_eq!(fill(&mut publisher), 0, "the other one has read nothing");
    }
    println!("evidence: limits=8 sent={sent}");
}

#[test]
fn what_waits_for_the_first_subscriber_is_no_more_than_was_said() {
    for most in [1_u64, 10, 31, 100] {
        let directory = Directory::new();
        let bus = Bus::builder().directory(&directory.0).open().unwrap();
        let builder = bus.publisher("topic").slots_max(256).behind_max(u32::try_from(most).unwrap());
        let mut publisher = builder.late_join(PATIENCE).open().unwrap();
        for number in 1..=3 * most {
            publisher.send(&number.to_le_bytes()).unwrap();
        }
        let mut subscriber = bus.subscriber("topic").policy(Policy::Block).open().unwrap();
        let first = subscriber.recv_timeout(PATIENCE).unwrap().unwrap().sequence();
        let kept = 3 * most - first + 1;
        assert!(kept <= most && kept >= most - most / 32, "{kept} of {most}");
        assert_eq!(publisher.account().dropped_total(), first - 1);
    }
    let error = Bus::open("policies-none").unwrap().publisher("x").behind_max(0).open().unwrap_err();
    assert_eq!(error.code(), Code::BadSetting);
}
