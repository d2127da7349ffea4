//! What a host says that it wants, without a link.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use busway_wire::work::{End, Word, decode, number_of_large};
use busway_wire::{Acknowledge, Group, Pattern, PortId, ProcessId, Topic, responders};

use super::Far;
use crate::control::Watched;
use crate::runtime::desk::pulls::Pulls;
use crate::runtime::desk::scene::Scene;
use crate::runtime::desk::{Says, Standing};

const UP: Standing = Standing {
    between: None,
    up: true,
    has_two: false,
    waiting_bytes: 0,
    large_bytes: 0,
    kept_bytes: 0,
    of_all: 0,
    largest: u64::MAX,
};

fn group(within_ms: Option<u32>) -> Group {
    let how = within_ms.map(|within_ms| Acknowledge { within_ms, attempts: 5 });
    Group::new(Topic::new("g").unwrap(), how).unwrap()
}

fn pulled(port: u64, pattern: &str) -> Watched {
    let (pattern, group) = (Pattern::parse(pattern).unwrap(), group(None));
    Watched::Pulled { process: ProcessId(1), port: PortId(port), pattern, group }
}

#[test]
fn work_of_another_host_is_for_those_of_a_group_that_acknowledge_as_was_told_and_no_others() {
    let scene = Scene::new();
    let kept = || scene.bus.puller("t").group("g").ack(std::time::Duration::from_secs(60));
    let mut lax = scene.bus.puller("t").group("g").open().unwrap();
    let mut pusher = scene.bus.pusher("t").open_for_work(group(Some(60_000))).unwrap();
    let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
    while lax.unread().is_empty() {
        assert!(busway_shm::clock::monotonic_ns() < until_ns, "who acknowledges otherwise is not refused");
        std::thread::yield_now();
    }
    assert_eq!(lax.unread()[0].error.code(), crate::error::Code::SeatRefused);
    let mut puller = kept().open().unwrap();
    pusher.wait_for_pullers(1, std::time::Duration::from_secs(30)).unwrap();
    let origin = crate::publisher::WorkOrigin { source: PortId(3), sequence: 1 };
    pusher.push_work(origin, 0, Default::default(), &crate::publisher::Beside::NOTHING, b"kept").unwrap();
    let task = puller.recv_timeout(std::time::Duration::from_secs(30)).unwrap().expect("a task");
    assert!(lax.try_recv().unwrap().is_none());
    task.ack().unwrap();
}

fn words(says: Says) -> Vec<Word> {
    says.into_all().into_iter().map(|saying| decode(&saying.body(0)).unwrap().0).collect()
}

fn step(scene: &Scene, far: &mut Far, pulls: &Pulls, standing: Standing) -> Vec<Word> {
    let mut says = Says::default();
    far.step(&scene.context(0), pulls, &mut says, standing);
    words(says)
}

#[test]
fn what_is_pulled_while_nobody_hears_it_is_told_as_it_is_when_somebody_does() {
    let (scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    let down = Standing { up: false, ..UP };
    for port in 0..10_000 {
        pulls.watched(pulled(port, &format!("t{port}")));
        assert!(step(&scene, &mut far, &pulls, down).is_empty());
        if port > 0 {
            pulls.watched(Watched::Unwanted { process: ProcessId(1), port: PortId(port - 1) });
        }
    }
    let said = step(&scene, &mut far, &pulls, UP);
    let [Word::Pull { pattern, .. }, Word::Grant { tasks: 1, .. }] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!(pattern.as_str(), "t9999");
    println!("evidence: came_and_went=9999 said=2");
}

#[test]
fn who_may_push_nothing_of_it_is_not_told_and_is_once_it_may() {
    let (mut scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    pulls.watched(pulled(1, "order.>"));
    scene.may(&["price.*"], &[]);
    assert!(step(&scene, &mut far, &pulls, UP).is_empty());
    scene.may(&["order.new"], &[]);
    far.permit(&scene.context(0), &mut Says::default());
    assert_eq!(step(&scene, &mut far, &pulls, UP).len(), 2);
}

#[test]
fn a_task_that_may_not_be_pushed_and_one_that_was_over_before_it_went_cost_what_they_should_of_what_was_granted()
 {
    let (mut scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    pulls.watched(pulled(1, ">"));
    scene.may(&["may"], &[]);
    step(&scene, &mut far, &pulls, UP);
    let task = |task, topic: &str| {
        let (topic, source) = (Topic::new(topic).unwrap(), PortId(3));
        Word::Task {
            pull: 1,
            task,
            topic,
            source,
            sequence: 1,
            attempt: 0,
            flags: 0,
            left_ns: 0,
            extensions: 0,
        }
    };
    for number in 1..=10 {
        let mut says = Says::default();
        far.task(&scene.context(0), &pulls, task(number, "may.not"), &[], &mut says);
        assert_eq!(words(says), [Word::Over { task: number, end: End::Denied }]);
        // It came and is over, also where its giver had ended it before: so one more is granted.
        assert_eq!(step(&scene, &mut far, &pulls, UP), [Word::Grant { pull: 1, tasks: number + 1 }]);
    }
    // It takes the one that is granted, and is not there: so one more is.
    far.cancel(1, 11);
    assert_eq!(step(&scene, &mut far, &pulls, UP), [Word::Grant { pull: 1, tasks: 12 }]);
    // Said once more behind its place, it is not one more.
    far.cancel(1, 11);
    assert!(step(&scene, &mut far, &pulls, UP).is_empty());
}

#[test]
fn a_pull_that_goes_while_rights_change_or_that_they_end_is_taken_back_and_comes_again_as_another() {
    let (mut scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    pulls.watched(pulled(1, "order.>"));
    assert_eq!(step(&scene, &mut far, &pulls, UP).len(), 2);
    // The link is closed for it; what may be given is said as it stands.
    far.permit(&scene.context(0), &mut Says::default());
    assert!(step(&scene, &mut far, &pulls, Standing { up: false, ..UP }).is_empty());
    let said = step(&scene, &mut far, &pulls, UP);
    assert!(matches!(said[..], [Word::Pull { pull: 1, .. }, Word::Grant { pull: 1, tasks: 1 }]), "{said:?}");
    scene.may(&[], &[]);
    far.permit(&scene.context(0), &mut Says::default());
    assert_eq!(step(&scene, &mut far, &pulls, UP), [Word::Unpull { pull: 1 }]);
    scene.may(&["order.new"], &[]);
    far.permit(&scene.context(0), &mut Says::default());
    let said = step(&scene, &mut far, &pulls, UP);
    assert!(matches!(said[..], [Word::Pull { pull: 2, .. }, Word::Grant { pull: 2, tasks: 1 }]), "{said:?}");
    far.permit(&scene.context(0), &mut Says::default());
    pulls.watched(Watched::Unwanted { process: ProcessId(1), port: PortId(1) });
    assert_eq!(step(&scene, &mut far, &pulls, UP), [Word::Unpull { pull: 2 }]);
    assert!(step(&scene, &mut far, &pulls, UP).is_empty());
}

#[test]
fn what_nobody_took_counts_for_nothing_that_is_granted_ahead() {
    let (scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    let puller = scene.bus.puller("t").group("g").open().unwrap();
    pulls.watched(pulled(1, "t"));
    step(&scene, &mut far, &pulls, UP);
    let (topic, source) = (Topic::new("t").unwrap(), PortId(3));
    let word = Word::Task {
        pull: 1,
        task: 1,
        topic: topic.clone(),
        source,
        sequence: 1,
        attempt: 0,
        flags: 0,
        left_ns: 0,
        extensions: 0,
    };
    let mut says = Says::default();
    far.task(&scene.context(0), &pulls, word, &[], &mut says);
    let pusher = scene.bus.pusher("t").open_for_work(group(None)).unwrap();
    pusher.wait_for_pullers(1, std::time::Duration::from_secs(30)).unwrap();
    far.laid_out(0, 1, &topic, pusher, &mut says);
    far.step(&scene.context(super::STALE_NS), &pulls, &mut says, UP);
    assert!(words(says).contains(&Word::Over { task: 1, end: End::Back { attempt: 0 } }));
    assert_eq!((far.takings[&1].finished, far.takings[&1].handled), (1, 0));
    drop(puller);
}

#[test]
fn what_waits_here_for_its_port_or_for_room_is_not_begun_when_its_host_may_not_give_it_any_more() {
    let (mut scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    let mut puller = scene.bus.puller("t").group("g").open().unwrap();
    let _responder = scene.bus.responder("t").open().unwrap();
    pulls.watched(pulled(1, "t"));
    let (pattern, group_of_it) = (Pattern::parse("t").unwrap(), Group::new(responders(), None).unwrap());
    let (process, port) = (ProcessId(1), PortId(2));
    pulls.watched(Watched::Pulled { process, port, pattern, group: group_of_it });
    step(&scene, &mut far, &pulls, UP);
    let topic = Topic::new("t").unwrap();
    let mut says = Says::default();
    for (pull, task, left_ns) in [(1, 1, 0), (2, 2, 1 << 40)] {
        let (topic, source) = (topic.clone(), PortId(3));
        let (sequence, attempt, flags, extensions) = (1, 0, 0, 0);
        let word = Word::Task { pull, task, topic, source, sequence, attempt, flags, left_ns, extensions };
        far.task(&scene.context(0), &pulls, word, b"x", &mut says);
    }
    // One of the requests has its port, and waits for room.
    let requester = scene.bus.requester("t").for_another_host().open().unwrap();
    let Some((_, waiting)) = far.waiting(2, &topic) else { panic!("it waits for a port") };
    let waiting = waiting.into();
    let asked = super::Asked { waiting, ..super::Asked::new(requester) };
    far.takings.get_mut(&2).unwrap().settle(&topic, super::Place::Asked(asked));
    scene.may_by(|rule| rule.push = Some(vec![Pattern::parse("t").unwrap()]));
    far.permit(&scene.context(1), &mut says);
    assert_eq!(words(std::mem::take(&mut says)), [Word::Over { task: 2, end: End::Denied }], "it may push");
    scene.may(&[], &[]);
    far.permit(&scene.context(1), &mut says);
    assert_eq!(words(std::mem::take(&mut says)), [Word::Over { task: 1, end: End::Denied }]);
    let pusher = scene.bus.pusher("t").open_for_work(group(None)).unwrap();
    pusher.wait_for_pullers(1, std::time::Duration::from_secs(30)).unwrap();
    far.laid_out(1, 1, &topic, pusher, &mut says);
    assert!(words(says).is_empty() && puller.try_recv().unwrap().is_none());
    assert!(far.counts().values().all(|[_, came, open]| (*came, *open) == (1, 0)), "{:?}", far.counts());
    println!("evidence: waited=2 begun=0");
}

#[test]
fn what_lies_in_a_ring_is_not_begun_when_its_host_may_not_give_it_any_more_and_what_is_begun_is_finished() {
    let (mut scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    let mut puller = scene.bus.puller("t").group("g").open().unwrap();
    let mut responder = scene.bus.responder("t").open().unwrap();
    pulls.watched(pulled(1, "t"));
    let (pattern, group_of_it) = (Pattern::parse("t").unwrap(), Group::new(responders(), None).unwrap());
    let (process, port) = (ProcessId(1), PortId(2));
    pulls.watched(Watched::Pulled { process, port, pattern, group: group_of_it });
    step(&scene, &mut far, &pulls, UP);
    far.takings.values_mut().for_each(|taking| taking.granted = 3);
    let (topic, patience) = (Topic::new("t").unwrap(), std::time::Duration::from_secs(30));
    let mut says = Says::default();
    // Of the tasks the last was given before.
    for (pull, task, left_ns, attempt) in
        [(1, 1, 0, 0), (1, 2, 0, 0), (1, 3, 0, 2), (2, 4, 1 << 40, 0), (2, 5, 1 << 40, 0)]
    {
        let (topic, source) = (topic.clone(), PortId(3));
        let (sequence, flags, extensions) = (task, 0, 0);
        let word = Word::Task { pull, task, topic, source, sequence, attempt, flags, left_ns, extensions };
        far.task(&scene.context(0), &pulls, word, b"x", &mut says);
    }
    let pusher = scene.bus.pusher("t").open_for_work(group(None)).unwrap();
    pusher.wait_for_pullers(1, patience).unwrap();
    far.laid_out(0, 1, &topic, pusher, &mut says);
    let requester = scene.bus.requester("t").for_another_host().open().unwrap();
    requester.wait_for_responders(1, patience).unwrap();
    far.asks(0, 2, &topic, requester, &mut says);
    let begun = puller.recv_timeout(patience).unwrap().expect("a task");
    let asked = responder.recv_timeout(patience).unwrap().expect("a request");
    scene.may_by(|rule| rule.push = Some(vec![Pattern::parse("t").unwrap()]));
    far.permit(&scene.context(1), &mut says);
    let denied = |task| Word::Over { task, end: End::Denied };
    assert_eq!(words(std::mem::take(&mut says)), [denied(5)], "it may push");
    scene.may(&[], &[]);
    far.permit(&scene.context(1), &mut says);
    let back = Word::Over { task: 3, end: End::Back { attempt: 2 } };
    assert_eq!(words(std::mem::take(&mut says)), [denied(2), back]);
    assert!(puller.try_recv().unwrap().is_none() && responder.try_recv().unwrap().is_none());
    asked.reply(b"that").unwrap();
    begun.ack().unwrap();
    let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
    let mut done = std::collections::BTreeSet::new();
    while done.len() < 2 {
        assert!(busway_shm::clock::monotonic_ns() < until_ns, "what was begun is not told: {done:?}");
        for word in step(&scene, &mut far, &pulls, UP) {
            if let Word::Over { task, end: End::Done } = word {
                done.insert(task);
            }
        }
    }
    assert!(done == [1, 4].into() && far.counts().values().all(|[_, _, open]| *open == 0), "{done:?}");
    println!("evidence: lay=3 begun_of_them=0 had=2 finished=2");
}

#[test]
fn a_reply_that_is_larger_than_its_host_takes_ends_its_request_and_nothing_else() {
    let (scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    let mut responder = scene.bus.responder("t").open().unwrap();
    let group = Group::new(responders(), None).unwrap();
    let (process, port, pattern) = (ProcessId(1), responder.id(), responder.pattern().clone());
    pulls.watched(Watched::Pulled { process, port, pattern, group });
    step(&scene, &mut far, &pulls, UP);
    let small = Standing { largest: 16 << 10, ..UP };
    let mut ask = |task: u64, answer: &dyn Fn(crate::responder::Request)| {
        let mut says = Says::default();
        far.takings.get_mut(&1).unwrap().granted = task;
        let (topic, source, extensions) = (Topic::new("t").unwrap(), PortId(3), 0);
        let (pull, sequence, attempt, flags, left_ns) = (1, task, 0, 0, 1 << 40);
        let word = Word::Task { pull, task, topic, source, sequence, attempt, flags, left_ns, extensions };
        far.task(&scene.context(0), &pulls, word, b"what", &mut says);
        if scene.opener.next().is_some() {
            let requester = scene.bus.requester("t").for_another_host().open().unwrap();
            requester.wait_for_responders(1, std::time::Duration::from_secs(30)).unwrap();
            far.asks(0, 1, &Topic::new("t").unwrap(), requester, &mut says);
        }
        answer(responder.recv_timeout(std::time::Duration::from_secs(30)).unwrap().expect("a request"));
        let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        loop {
            far.step(&scene.context(0), &pulls, &mut says, small);
            let said = std::mem::take(&mut says).into_all().into_iter();
            bodies.extend(said.map(|saying| saying.body(0).to_vec()));
            if bodies.iter().any(|body| matches!(decode(body).unwrap().0, Word::Over { .. })) {
                break;
            }
            assert!(busway_shm::clock::monotonic_ns() < until_ns, "it does not end");
        }
        assert!(bodies.iter().all(|body| body.len() <= 16 << 10), "no word is too large");
        let replies = bodies.iter().filter_map(|body| match decode(body).unwrap() {
            (Word::Reply { state, .. }, payload) => Some((state, payload.to_vec())),
            _ => None,
        });
        replies.collect::<Vec<_>>()
    };
    let failed = busway_wire::ReplyState::Failed as u8;
    let said = ask(1, &|request| request.reply(&[7; 20_000]).unwrap());
    let [(state, why)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(*state, failed);
    assert!(why.starts_with(b"the reply has 20000 bytes"), "{}", String::from_utf8_lossy(why));
    assert_eq!(ask(2, &|request| drop(request.fail(&[7; 20_000]))), [(failed, Vec::new())]);
    let last = busway_wire::ReplyState::Last as u8;
    assert_eq!(ask(3, &|request| request.reply(b"small").unwrap()), [(last, b"small".to_vec())]);
    println!("evidence: too_large=2 answered=1");
}

#[test]
fn a_large_reply_that_has_no_room_waits_and_keeps_no_small_one_waiting() {
    let (scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    let mut responder = scene.bus.responder("t").open().unwrap();
    let group = Group::new(responders(), None).unwrap();
    let (process, port, pattern) = (ProcessId(1), responder.id(), responder.pattern().clone());
    pulls.watched(Watched::Pulled { process, port, pattern, group });
    step(&scene, &mut far, &pulls, UP);
    far.takings.get_mut(&1).unwrap().granted = 2;
    let topic = Topic::new("t").unwrap();
    let patience = std::time::Duration::from_secs(30);
    let mut says = Says::default();
    for task in 1..=2 {
        let (topic, source, extensions) = (topic.clone(), PortId(3), 0);
        let (pull, sequence, attempt, flags, left_ns) = (1, task, 0, 0, 1 << 40);
        let word = Word::Task { pull, task, topic, source, sequence, attempt, flags, left_ns, extensions };
        far.task(&scene.context(0), &pulls, word, b"what", &mut says);
    }
    let requester = scene.bus.requester("t").for_another_host().open().unwrap();
    requester.wait_for_responders(1, patience).unwrap();
    far.asks(0, 1, &topic, requester, &mut says);
    for bytes in [20_000, 3] {
        let request = responder.recv_timeout(patience).unwrap().expect("a request");
        request.reply(&vec![7; bytes]).unwrap();
    }
    let full = 16 << 20;
    let two = Standing { has_two: true, waiting_bytes: full, large_bytes: full, ..UP };
    let mut until = |far: &mut Far, standing: Standing, of: u64| {
        let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
        let mut told = Vec::new();
        while !told.contains(&(of, None)) {
            assert!(busway_shm::clock::monotonic_ns() < until_ns, "{told:?}");
            far.step(&scene.context(0), &pulls, &mut says, standing);
            for saying in std::mem::take(&mut says).into_all() {
                match decode(&saying.body(0)).unwrap() {
                    (Word::Reply { task, .. }, payload) => told.push((task, Some(payload.len()))),
                    (Word::Over { task, .. }, _) => told.push((task, None)),
                    _ => {}
                }
            }
        }
        told
    };
    assert_eq!(until(&mut far, two, 2), [(2, Some(3)), (2, None)]);
    let room = Standing { waiting_bytes: 0, large_bytes: 0, ..two };
    assert_eq!(until(&mut far, room, 1), [(1, Some(20_000)), (1, None)]);
}

/// No room for large words.
const FULL: Standing = Standing { has_two: true, waiting_bytes: 16 << 20, large_bytes: 16 << 20, ..UP };

/// A service of this host that a peer asks.
struct Service {
    scene: Scene,
    far: Far,
    pulls: Pulls,
    topic: Topic,
    came: u64,
    /// What was told of each request: the bytes of its replies, and how it ended.
    told: std::collections::BTreeMap<u64, (Vec<usize>, Option<End>)>,
}

impl Service {
    fn new() -> Self {
        let (scene, mut pulls, topic) = (Scene::new(), Pulls::default(), Topic::new("t").unwrap());
        let (process, port, pattern) = (ProcessId(1), PortId(2), Pattern::parse("t").unwrap());
        let group = Group::new(responders(), None).unwrap();
        pulls.watched(Watched::Pulled { process, port, pattern, group });
        Self { scene, far: Far::default(), pulls, topic, came: 0, told: Default::default() }
    }

    /// The peer asks once more, if it may.
    fn ask(&mut self, payload: &[u8], left_ns: u64) -> bool {
        if self.far.counts().get(&1).is_none_or(|[granted, came, _]| came >= granted) {
            return false;
        }
        self.came += 1;
        let (pull, task, topic, source) = (1, self.came, self.topic.clone(), PortId(3));
        let (sequence, attempt, flags, extensions) = (task, 0, 0, 0);
        let word = Word::Task { pull, task, topic, source, sequence, attempt, flags, left_ns, extensions };
        let mut says = Says::default();
        self.far.task(&self.scene.context(0), &self.pulls, word, payload, &mut says);
        if self.scene.opener.next().is_some() {
            let requester = self.scene.bus.requester("t").for_another_host().open().unwrap();
            requester.wait_for_responders(1, PATIENCE).unwrap();
            self.far.asks(0, 1, &self.topic, requester, &mut says);
        }
        self.heard(says);
        true
    }

    fn look(&mut self, now_ns: u64, standing: Standing) {
        let mut says = Says::default();
        self.far.step(&self.scene.context(now_ns), &self.pulls, &mut says, standing);
        self.heard(says);
    }

    fn heard(&mut self, says: Says) {
        for saying in says.into_all() {
            match decode(&saying.body(0)).unwrap() {
                (Word::Reply { task, .. }, payload) => {
                    self.told.entry(task).or_default().0.push(payload.len());
                }
                (Word::Over { task, end }, _) => self.told.entry(task).or_default().1 = Some(end),
                _ => {}
            }
        }
    }

    /// Looks until then.
    fn until(&mut self, standing: Standing, done: impl Fn(&Self) -> bool) {
        let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
        while !done(self) {
            let counts = self.far.counts();
            assert!(busway_shm::clock::monotonic_ns() < until_ns, "{counts:?} {:?}", self.told);
            self.look(0, standing);
        }
    }
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

#[test]
fn a_large_reply_that_has_no_room_takes_nothing_that_others_of_the_process_may_hold_and_ends_with_its_time() {
    const BYTES: usize = 65 << 20;
    let mut service = Service::new();
    let mut responder = service.scene.bus.responder("t").open().unwrap();
    let mut publisher = service.scene.bus.publisher("p").open().unwrap();
    let mut subscriber = service.scene.bus.subscriber("p").open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    service.look(0, FULL);
    assert!(service.ask(b"what", 1 << 40));
    let request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
    request.reply(&vec![7; BYTES]).unwrap();
    service.until(FULL, |service| service.far.held_bytes() > BYTES);
    publisher.send(&vec![7; 1 << 20]).unwrap();
    let taken = subscriber.recv_timeout(PATIENCE).unwrap().expect("it may be held");
    assert!(taken.is_held() && taken.len() == 1 << 20);
    // Nobody hears it in its time.
    service.look((1 << 40) - 1, FULL);
    assert!(service.told.is_empty() && service.far.held_bytes() > BYTES);
    service.look(1 << 40, FULL);
    assert_eq!(service.told[&1], (Vec::new(), Some(End::Lost(busway_wire::Cause::Expired))));
    assert_eq!(service.far.held_bytes(), 0);
    println!("evidence: kept={BYTES} held=0");
}

#[test]
fn a_large_reply_that_has_no_room_keeps_no_small_request_of_its_own_topic_back() {
    const SMALL: usize = 30;
    let mut service = Service::new();
    let mut responder = service.scene.bus.responder("t").open().unwrap();
    let ended = busway_shm::sync::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = &ended;
        scope.spawn(move || {
            while !ended.load(busway_shm::sync::Ordering::SeqCst) {
                let tick = std::time::Duration::from_millis(20);
                let Some(request) = responder.recv_timeout(tick).unwrap() else { continue };
                // As a word that is just none of the large ones.
                let bytes = if request.payload() == b"large" { 20_000 } else { 8_170 };
                request.reply(&vec![7; bytes]).unwrap();
            }
        });
        let told = |service: &Service| service.told.values().filter(|(_, end)| end.is_some()).count();
        let (mut asked, until_ns) = (0, busway_shm::clock::monotonic_ns() + 30_000_000_000);
        while told(&service) < SMALL && busway_shm::clock::monotonic_ns() < until_ns {
            let payload = if asked < 3 { &b"large"[..] } else { b"small" };
            asked += usize::from(asked < SMALL + 3 && service.ask(payload, 1 << 40));
            service.look(0, FULL);
        }
        ended.store(true, busway_shm::sync::Ordering::SeqCst);
        assert!(told(&service) == SMALL && service.told.keys().all(|task| *task > 3), "{:?}", service.told);
        let room = Standing { waiting_bytes: 0, large_bytes: 0, ..FULL };
        service.until(room, |service| told(service) == SMALL + 3);
        assert!((1..=3).all(|task| service.told[&task].0 == [20_000]));
    });
    println!("evidence: large_without_room=3 small_beside={SMALL}");
}

#[test]
fn however_much_who_answers_has_said_nothing_of_it_is_lost_while_there_is_no_room_for_large_replies() {
    const BYTES: usize = 16 << 20;
    let mut service = Service::new();
    let buses = [(); 3].map(|()| service.scene.another_bus());
    let mut responders = buses.each_ref().map(|bus| bus.responder("t").open().unwrap());
    service.look(0, FULL);
    service.far.takings.get_mut(&1).unwrap().granted = 7;
    let mut requests = Vec::new();
    assert!((0..7).all(|_| service.ask(b"what", 1 << 40)));
    let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
    while requests.len() < 7 {
        assert!(busway_shm::clock::monotonic_ns() < until_ns);
        for (at, responder) in responders.iter_mut().enumerate() {
            // More of one than a lane keeps are lost there.
            if requests.iter().filter(|(of, _)| *of == at).count() < 3 {
                requests.extend(responder.try_recv().unwrap().map(|request| (at, request)));
            }
        }
    }
    let small = requests.pop().expect("one of them").1;
    for (_, request) in requests {
        request.reply(&vec![7; BYTES]).unwrap();
    }
    small.reply(b"yes").unwrap();
    for _ in 0..100 {
        service.look(0, FULL);
        assert!(service.far.held_bytes() < 2 * BYTES + 100);
    }
    let room = Standing { waiting_bytes: 0, large_bytes: 0, ..FULL };
    service.until(room, |service| service.told.values().filter(|(_, end)| end.is_some()).count() == 7);
    let mut bytes: Vec<usize> = service.told.values().flat_map(|(replies, _)| replies.clone()).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, [3, BYTES, BYTES, BYTES, BYTES, BYTES, BYTES], "none is lost");
    println!("evidence: large=6 bytes_each={BYTES} lost=0");
}

#[test]
fn a_task_that_was_over_before_it_went_is_told_from_one_that_came_whatever_came_by_the_other_source() {
    let (scene, mut far, mut pulls) = (Scene::new(), Far::default(), Pulls::default());
    let _puller = scene.bus.puller("t").group("g").open().unwrap();
    pulls.watched(pulled(1, "t"));
    step(&scene, &mut far, &pulls, UP);
    far.takings.get_mut(&1).unwrap().granted = 10;
    let mut says = Says::default();
    // The large one is the earlier, and comes late; of the small ones the first went, and the second was over before.
    for task in [2, number_of_large(1)] {
        let (topic, source) = (Topic::new("t").unwrap(), PortId(3));
        let (pull, sequence, attempt, flags, left_ns, extensions) = (1, task, 0, 0, 0, 0);
        let word = Word::Task { pull, task, topic, source, sequence, attempt, flags, left_ns, extensions };
        far.task(&scene.context(0), &pulls, word, b"x", &mut says);
    }
    for (task, came) in [(3, 3), (number_of_large(1), 3), (2, 3), (number_of_large(4), 4), (5, 5), (5, 5)] {
        far.cancel(1, task);
        assert_eq!(far.takings[&1].came, came, "{task:x}");
    }
    assert_eq!(far.takings[&1].finished, 5);
}
