//! What a peer says that it pulls, without a link: what is asked of the rendezvous for it.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use busway_protocol::PeerId;
use busway_wire::limits::{
    WORK_DENIED_MAX, WORK_OPENINGS_MAX, WORK_PULLS_MAX, WORK_PULLS_WAITING_MAX, WORK_REPLIES_BYTES_MAX,
    WORK_TOO_LARGE_NS, WORK_WAITING_BYTES_ALL, WORK_WAITING_BYTES_FLOOR, WORK_WAITING_BYTES_MAX,
};
use busway_wire::work::{End, Word, decode, is_of_large};
use busway_wire::{Group, Pattern, PortId, ProcessId, ReplyState, Topic};

use super::{FORMER_MAX, Near};
use crate::control::Watched;
use crate::puller::PullerBuilder;
use crate::requester::RequestError;
use crate::runtime::desk::channel::{Channel, Course};
use crate::runtime::desk::opener::{For, Wanted};
use crate::runtime::desk::partner::{Heard, Partner};
use crate::runtime::desk::pulls::Pulls;
use crate::runtime::desk::says::{SHORT, Saying};
use crate::runtime::desk::scene::Scene;
use crate::runtime::desk::{Says, Standing};
use crate::runtime::import::Inputs;

/// How late a test may be before it gives up.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

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

fn step(scene: &Scene, near: &mut Near, now_ns: u64) {
    near.step(&scene.context(now_ns), &Pulls::default(), &mut Says::default(), UP);
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn group() -> Group {
    Group::new(Topic::new("g").unwrap(), None).unwrap()
}

#[test]
fn however_much_a_peer_says_that_it_pulls_few_pullers_are_asked_for_at_a_time() {
    let scene = Scene::new();
    let mut near = Near::default();
    for round in 0..1_000 {
        near.pull(&scene.context(round), 1, pattern(["a", "b"][round as usize % 2]), group());
        step(&scene, &mut near, round);
        assert_eq!(scene.opener.waiting(), 1, "a number is one pull");
    }
    for pull in 2..1_000 {
        near.pull(&scene.context(2_000), pull, pattern("a"), group());
        step(&scene, &mut near, 2_000);
        // It may take them back, and say others.
        near.unpull(pull - 1);
    }
    assert!(scene.opener.waiting() <= WORK_OPENINGS_MAX, "{}", scene.opener.waiting());
    println!("evidence: pulls=2000 asked_for={}", scene.opener.waiting());
}

#[test]
fn for_who_may_read_nothing_of_it_no_puller_is_asked_for() {
    let mut scene = Scene::new();
    scene.may(&[], &["price.>"]);
    let mut near = Near::default();
    near.pull(&scene.context(0), 1, pattern("order.*"), group());
    step(&scene, &mut near, 0);
    assert_eq!(scene.opener.waiting(), 0);
    near.pull(&scene.context(0), 2, pattern("*.eu"), group());
    step(&scene, &mut near, 0);
    assert_eq!(scene.opener.waiting(), 1);
    scene.may(&[], &["price.>", "order.>"]);
    near.permit(&scene.context(1));
    step(&scene, &mut near, 1);
    assert_eq!(scene.opener.waiting(), 2, "what it may now is asked for");
}

#[test]
fn a_puller_that_was_asked_for_under_other_rules_is_not_kept_and_another_is_asked_for() {
    let mut scene = Scene::new();
    let mut near = Near::default();
    near.pull(&scene.context(0), 1, pattern(">"), group());
    step(&scene, &mut near, 0);
    scene.may(&[], &["b"]);
    near.permit(&scene.context(1));
    let asked_for = scene.opener.taken();
    let puller = || PullerBuilder::new(&scene.bus, Ok(pattern(">"))).open().unwrap();
    near.opened(&scene.context(1), &asked_for[0], puller());
    assert!(near.pulls[&1].puller.is_none(), "it has what was allowed when it was asked for");
    step(&scene, &mut near, 2);
    let again = scene.opener.taken();
    assert_eq!(again.len(), 1);
    // An answer to what was asked before is none to this.
    near.opened(&scene.context(2), &asked_for[0], puller());
    assert!(near.pulls[&1].puller.is_none());
    near.opened(&scene.context(2), &again[0], puller());
    assert!(near.pulls[&1].puller.is_some());
}

#[test]
fn peers_have_their_ports_opened_in_turn() {
    let scene = Scene::new();
    let whom = |index, pull| For { peer: PeerId::Node { index }, pull, ..scene.context(0).whom };
    for pull in 0..3 {
        for index in [1, 2] {
            if index == 1 || pull == 0 {
                let builder = PullerBuilder::new(&scene.bus, Ok(pattern("a")));
                scene.opener.want(whom(index, pull), Wanted::Puller(Box::new(builder)));
            }
        }
    }
    let order: Vec<_> = scene.opener.taken().into_iter().map(|whom| (whom.peer, whom.pull)).collect();
    let node = |index| PeerId::Node { index };
    assert_eq!(order, [(node(1), 0), (node(2), 0), (node(1), 1), (node(1), 2)]);
}

/// Answers what was asked for, gives one task that is pushed meanwhile, and returns it.
fn given(scene: &Scene, near: &mut Near, pusher: &mut crate::pusher::Pusher, now_ns: u64) -> Option<u64> {
    step(scene, near, now_ns);
    for whom in scene.opener.taken() {
        let puller = scene.bus.puller("a").group("g").open().unwrap();
        near.opened(&scene.context(now_ns), &whom, puller);
    }
    near.pulls[&1].puller.as_ref()?;
    pusher.send(b"task").unwrap();
    let before = near.next;
    let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
    while near.next == before {
        assert!(busway_shm::clock::monotonic_ns() < until_ns, "nothing is given");
        step(scene, near, now_ns);
    }
    Some(near.next)
}

#[test]
fn a_peer_that_ends_nothing_has_few_pullers_and_one_that_works_on_goes_on() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    for lies in [false, true] {
        let mut near = Near::default();
        near.pull(&scene.context(0), 1, pattern("a"), group());
        near.grant(1, 1_000);
        let (mut had, mut pullers) = (0, 0);
        for round in 1..=20 {
            let task = given(&scene, &mut near, &mut pusher, round);
            had += u64::from(task.is_some());
            // One task is under way for ever; of the others an honest peer says what became of them.
            if let Some(task) = task.filter(|task| !lies && *task > 1) {
                near.over(&scene.context(round), task, End::Done);
            }
            near.permit(&scene.context(round));
            let pull = &near.pulls[&1];
            pullers = pullers.max(pull.former.len() + usize::from(pull.puller.is_some()));
        }
        assert_eq!(had, if lies { FORMER_MAX as u64 } else { 20 });
        assert!(pullers <= FORMER_MAX, "{pullers}");
        println!("evidence: lies={lies} rounds=20 given={had} pullers={pullers}");
        near.end_all(&scene.context(30), &mut Says::default());
    }
}

#[test]
fn a_pull_that_ended_at_its_last_denied_topic_works_again_when_it_is_said_again() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    let mut near = Near::default();
    near.pull(&scene.context(0), 1, pattern(">"), group());
    near.grant(1, 3);
    let task = given(&scene, &mut near, &mut pusher, 1).unwrap();
    near.over(&scene.context(1), task, End::Done);
    for number in 0..=WORK_DENIED_MAX {
        let topic = Topic::new(&format!("t{number}")).unwrap();
        near.pulls.get_mut(&1).unwrap().deny(topic, &scene.context(2));
    }
    step(&scene, &mut near, 3);
    let _ = scene.opener.taken();
    assert!(near.pulls[&1].puller.is_none());
    near.pull(&scene.context(4), 1, pattern(">"), group());
    assert_eq!((near.pulls[&1].granted, near.pulls[&1].given), (3, 1), "it counts on");
    given(&scene, &mut near, &mut pusher, 5).unwrap();
    // The answer to a task that had ended here before costs nothing either.
    near.over(&scene.context(6), task, End::Denied);
    near.over(&scene.context(6), near.next, End::Denied);
    assert_eq!(near.pulls[&1].given, 2, "it was given, and is over");
}

#[test]
fn a_task_that_is_too_large_for_a_peer_is_done_by_others_and_counted_where_there_are_none() {
    let scene = Scene::new();
    let small_peer = Standing { largest: 16 << 10, ..UP };
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    let mut near = Near::default();
    let now_ns = busway_shm::clock::monotonic_ns();
    near.pull(&scene.context(now_ns), 1, pattern("a"), group());
    near.grant(1, 100);
    step(&scene, &mut near, now_ns);
    for whom in scene.opener.taken() {
        near.opened(&scene.context(now_ns), &whom, scene.bus.puller("a").group("g").open().unwrap());
    }
    let look = |near: &mut Near, pusher: &crate::pusher::Pusher, given: usize, over: u64| {
        let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
        while near.given.len() < given || pusher.account().dropped_total() < over {
            assert!(
                busway_shm::clock::monotonic_ns() < until_ns,
                "{} {:?}",
                near.given.len(),
                pusher.account()
            );
            near.step(&scene.context(now_ns), &Pulls::default(), &mut Says::default(), small_peer);
        }
    };
    pusher.send(&vec![1; 20_000]).unwrap();
    pusher.send(b"small").unwrap();
    look(&mut near, &pusher, 1, 0);
    assert_eq!(
        (near.given.len(), near.pulls[&1].given),
        (1, 1),
        "the large one is no part of what is granted"
    );
    // It lies there for whoever may have it.
    let mut here = scene.bus.puller("a").group("g").open().unwrap();
    let task = here.recv_timeout(std::time::Duration::from_secs(30)).unwrap().expect("the large one");
    assert_eq!((task.len(), task.deliveries()), (20_000, 1));
    drop(task);
    drop(here);
    near.over(&scene.context(now_ns), 1, End::Done);
    // Nobody else is there, and the time for others is up.
    pusher.send(&vec![2; 20_000]).unwrap();
    let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
    let mut later_ns = 1;
    while pusher.account().dropped_total() == 0 {
        assert!(busway_shm::clock::monotonic_ns() < until_ns, "it is nowhere");
        near.step(&scene.context(later_ns), &Pulls::default(), &mut Says::default(), small_peer);
        later_ns += WORK_TOO_LARGE_NS / 100;
    }
    assert!(later_ns > WORK_TOO_LARGE_NS);
    assert_eq!(pusher.account().dropped["link_budget"], 1);
    println!("evidence: too_large=2 done_by_others=1 counted=1");
    near.end_all(&scene.context(now_ns), &mut Says::default());
}

/// A peer that pulls `a`, and takes messages of at most so many bytes.
fn peer_that_takes(scene: &Scene, largest: u64) -> Partner {
    let mut partner = Partner::default();
    let mut body = Vec::new();
    busway_wire::work::encode(&Word::Pull { pull: 1, pattern: pattern("a"), group: group() }, &[], &mut body);
    let heard = Heard { come: vec![body], ..Heard::default() };
    let standing = Standing { largest, ..UP };
    partner.serve(&scene.context(0), &Pulls::default(), standing, heard, &mut Says::default());
    partner
}

#[test]
fn a_task_that_is_too_large_for_a_peer_waits_as_long_as_somebody_is_there_who_could_have_it() {
    const LARGE: u64 = 3;
    let mut scene = Scene::new();
    let small_peer = Standing { largest: 16 << 10, ..UP };
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    let (mut near, mut pulls, mut now_ns) = (Near::default(), Pulls::default(), 0);
    near.pull(&scene.context(0), 1, pattern("a"), group());
    near.grant(1, 1);
    let mut rounds = |near: &mut Near, scene: &Scene, pulls: &Pulls, pusher: &crate::pusher::Pusher| {
        for round in 0..4 {
            now_ns += WORK_TOO_LARGE_NS + WORK_TOO_LARGE_NS / 10;
            if round == 2 {
                near.permit(&scene.context(now_ns));
            }
            for _ in 0..100 {
                near.step(&scene.context(now_ns), pulls, &mut Says::default(), small_peer);
                for whom in scene.opener.taken().into_iter().filter(|whom| whom.number > 0) {
                    let puller = scene.bus.puller("a").group("g").open().unwrap();
                    near.opened(&scene.context(now_ns), &whom, puller);
                }
            }
        }
        pusher.account().dropped_total()
    };
    for _ in 0..LARGE {
        pusher.send(&[1; 20_000]).unwrap();
    }
    // One of this host, which is busy for all that time.
    let (process, port) = (ProcessId(1), PortId(2));
    pulls.watched(Watched::Pulled { process, port, pattern: pattern("a"), group: group() });
    assert_eq!(rounds(&mut near, &scene, &pulls, &pusher), 0);
    pulls.watched(Watched::Unwanted { process, port });
    // One of another host, which was granted nothing.
    let (other, between) = (PeerId::Node { index: 2 }, scene.context(0).whom.between);
    let able = peer_that_takes(&scene, 1 << 20);
    let _ = scene.opener.taken();
    scene.others.insert(other, (between, able));
    assert_eq!(rounds(&mut near, &scene, &pulls, &pusher), 0);
    let unable = peer_that_takes(&scene, 16 << 10);
    let _ = scene.opener.taken();
    scene.others.insert(other, (between, unable));
    assert_eq!(rounds(&mut near, &scene, &pulls, &pusher), LARGE, "nobody is there who could have it");
    assert_eq!(near.has_given(), 0);
    println!("evidence: too_large={LARGE} waited=8 counted_behind_that={LARGE}");
}

#[test]
fn where_memory_is_short_a_task_is_given_when_there_is_some_however_often_it_was_not() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    let mut near = Near::default();
    near.pull(&scene.context(0), 1, pattern("a"), group());
    near.grant(1, 1);
    step(&scene, &mut near, 0);
    for whom in scene.opener.taken() {
        near.opened(&scene.context(0), &whom, scene.bus.puller("a").group("g").open().unwrap());
    }
    pusher.send(b"task").unwrap();
    SHORT.set(5);
    let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
    let mut now_ns = 0;
    while near.has_given() == 0 {
        assert!(busway_shm::clock::monotonic_ns() < until_ns, "{:?}", pusher.account());
        step(&scene, &mut near, now_ns);
        now_ns += WORK_TOO_LARGE_NS;
    }
    assert_eq!((SHORT.get(), pusher.account().dropped_total()), (0, 0));
    assert_eq!(near.given[&1].claim.attempt(), 0);
    near.end_all(&scene.context(now_ns), &mut Says::default());
}

#[test]
fn a_pull_that_waits_for_a_place_has_none_while_its_host_is_away() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    let mut near = Near::default();
    near.pull(&scene.context(0), 1, pattern("a"), group());
    near.grant(1, 1);
    given(&scene, &mut near, &mut pusher, 1).unwrap();
    near.unpull(1);
    for pull in 2..=WORK_PULLS_MAX as u32 + 1 {
        near.pull(&scene.context(1), pull, pattern("b"), group());
    }
    step(&scene, &mut near, 1);
    assert_eq!((near.pulls.len(), near.waiting.len()), (WORK_PULLS_MAX, 1));
    // The link is gone for long, and the task with it.
    near.end_all(&scene.context(2), &mut Says::default());
    for whom in scene.opener.taken() {
        near.refused(&scene.context(2), &whom);
    }
    let away = Standing { up: false, ..UP };
    for now_ns in [3, 4] {
        near.step(&scene.context(now_ns), &Pulls::default(), &mut Says::default(), away);
    }
    assert_eq!((near.waiting.len(), scene.opener.waiting()), (1, 0), "nothing is pulled for who is away");
    near.back(&scene.context(5));
    step(&scene, &mut near, 5);
    assert!(near.waiting.is_empty() && scene.opener.waiting() > 0);
}

#[test]
fn what_a_peer_denies_it_denies_also_when_the_task_was_over_before() {
    let scene = Scene::new();
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    let mut near = Near::default();
    near.pull(&scene.context(0), 1, pattern("a"), group());
    near.grant(1, 3);
    let task = given(&scene, &mut near, &mut pusher, 1).unwrap();
    near.take_from_peer(task, &mut Says::default()).unwrap().claim.lose(busway_wire::Cause::Expired);
    assert!(near.pulls[&1].denied.is_empty());
    near.over(&scene.context(2), task, End::Denied);
    assert_eq!(near.pulls[&1].denied.iter().map(Topic::as_str).collect::<Vec<_>>(), ["a"]);
    for other in 0..10_000 {
        near.over(&scene.context(2), other, End::Denied);
    }
    assert!(near.late.is_empty());
}

#[test]
fn a_pull_for_which_there_is_no_place_has_the_next_that_is_free_and_what_was_granted_for_it() {
    let scene = Scene::new();
    let mut near = Near::default();
    let most = WORK_PULLS_MAX as u32;
    for pull in 1..=most + 3 {
        near.pull(&scene.context(0), pull, pattern("a"), group());
        near.grant(pull, u64::from(pull));
    }
    step(&scene, &mut near, 0);
    assert_eq!((near.pulls.len(), near.waiting.len()), (WORK_PULLS_MAX, 3));
    // One of those that wait goes, and two of those that have a place and were not asked for.
    for pull in [most + 2, most, most - 1] {
        near.unpull(pull);
    }
    step(&scene, &mut near, 0);
    assert!(near.waiting.is_empty());
    assert_eq!(near.pulls[&(most + 1)].granted, u64::from(most + 1));
    assert!(!near.pulls.contains_key(&(most + 2)) && near.pulls.contains_key(&(most + 3)));
    for pull in 0..3 * WORK_PULLS_MAX as u32 {
        near.pull(&scene.context(0), 100_000 + pull, pattern("a"), group());
    }
    assert!(near.pulls.len() + near.waiting.len() <= WORK_PULLS_MAX + WORK_PULLS_WAITING_MAX);
    println!("evidence: pulls={} waiting={}", near.pulls.len(), near.waiting.len());
}

#[test]
fn what_waits_for_all_peers_together_is_bounded_and_small_tasks_go_on() {
    let standing = |waiting_bytes, of_all| Standing { waiting_bytes, of_all, ..UP };
    let (all, floor) = (WORK_WAITING_BYTES_ALL, WORK_WAITING_BYTES_FLOOR);
    let has_room = |standing: Standing| standing.has_room(Course::Quick, &Says::default());
    assert!(has_room(standing(1 << 20, all - 1)));
    assert!(!has_room(standing(1 << 20, all)) && !has_room(standing(floor, all)));
    assert!(has_room(standing(floor - 1, usize::MAX)), "whatever others do not confirm");
    assert!(!has_room(standing(WORK_WAITING_BYTES_MAX, 0)));
    assert!(!has_room(Standing { up: false, ..UP }));
    // What waits of large words stops no small one, of this peer or of all.
    let large_bytes = 10 * WORK_WAITING_BYTES_MAX;
    let two = Standing { has_two: true, large_bytes, ..standing(large_bytes, usize::MAX) };
    assert!(has_room(two) && !two.has_room(Course::Large, &Says::default()));
    let known = Standing { between: Some(Scene::new().context(0).whom.between), ..UP };
    let least = busway_wire::limits::WORK_WORD_BYTES as u64;
    assert!(known.takes(least).between.is_some() && known.takes(least - 1).between.is_none());
    assert_eq!(known.takes(least).largest, least);
}

#[test]
fn what_is_small_is_given_while_large_ones_wait_for_room() {
    let scene = Scene::new();
    let full = WORK_WAITING_BYTES_MAX;
    let two = Standing { has_two: true, waiting_bytes: full, large_bytes: full, ..UP };
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    let mut near = Near::default();
    near.pull(&scene.context(0), 1, pattern("a"), group());
    near.grant(1, 10);
    step(&scene, &mut near, 0);
    for whom in scene.opener.taken() {
        near.opened(&scene.context(0), &whom, scene.bus.puller("a").group("g").open().unwrap());
    }
    for bytes in [20_000, 3, 20_000, 3] {
        pusher.send(&vec![7; bytes]).unwrap();
    }
    let now_ns = busway_shm::clock::monotonic_ns;
    let until = |near: &mut Near, standing: Standing, given: usize| {
        let mut says = Says::default();
        let until_ns = now_ns() + 30_000_000_000;
        while near.has_given() < given {
            assert!(now_ns() < until_ns, "{} are given", near.has_given());
            near.step(&scene.context(now_ns()), &Pulls::default(), &mut says, standing);
        }
        let bodies = says.into_all().into_iter().map(|saying| saying.body(0).len());
        bodies.collect::<Vec<_>>()
    };
    let small = until(&mut near, two, 2);
    assert!(small.len() == 2 && small.iter().all(|bytes| *bytes < 100), "{small:?}");
    assert_eq!(near.given.keys().filter(|task| is_of_large(**task)).count(), 0);
    let large = until(&mut near, Standing { waiting_bytes: 0, large_bytes: 0, ..two }, 4);
    assert!(large.len() == 2 && large.iter().all(|bytes| *bytes > 20_000), "{large:?}");
    assert_eq!(near.given.keys().filter(|task| is_of_large(**task)).count(), 2);
    near.end_all(&scene.context(now_ns()), &mut Says::default());
    println!("evidence: small_beside_full=2 large_when_there_is_room=2");
}

#[test]
fn large_tasks_for_which_there_is_no_room_are_looked_at_seldom_and_what_is_small_behind_them_is_given() {
    const LARGE: usize = 1_000;
    let scene = Scene::new();
    let full = WORK_WAITING_BYTES_MAX;
    let two = Standing { has_two: true, waiting_bytes: full, large_bytes: full, ..UP };
    let mut pusher = scene.bus.pusher("a").slots_max(2_048).open().unwrap();
    let mut near = Near::default();
    near.pull(&scene.context(0), 1, pattern("a"), group());
    near.grant(1, 1_000_000);
    step(&scene, &mut near, 0);
    for whom in scene.opener.taken() {
        near.opened(&scene.context(0), &whom, scene.bus.puller("a").group("g").open().unwrap());
    }
    pusher.wait_for_pullers(1, PATIENCE).unwrap();
    for _ in 0..LARGE {
        pusher.send(&[7; 8_200]).unwrap();
    }
    pusher.send(b"small").unwrap();
    let taken = |near: &Near| near.pulls[&1].puller.as_ref().unwrap().puller.taken();
    let (mut says, mut again) = (Says::default(), 0);
    let look = |near: &mut Near, says: &mut Says, now_ns: u64, standing: Standing| {
        near.step(&scene.context(now_ns), &Pulls::default(), says, standing)
    };
    // For how long they are left is counted from here: no time of that is over while the test runs.
    let mut now_ns = busway_shm::clock::monotonic_ns() + 3_600_000_000_000;
    let mut looks = 0;
    while near.has_given() == 0 {
        looks += 1;
        assert!(looks < 1_000, "the small one is not given");
        again += u32::from(look(&mut near, &mut says, now_ns, two).again);
        now_ns += 10_000_000;
    }
    let passed = taken(&near);
    assert_eq!(passed as usize, LARGE + 1, "each was left once");
    // All are left: nothing is claimed, and it may sleep.
    for _ in 0..100 {
        again += u32::from(look(&mut near, &mut says, now_ns, two).again);
    }
    assert_eq!((taken(&near), again), (passed, 0));
    let room = Standing { waiting_bytes: 0, large_bytes: 0, ..two };
    look(&mut near, &mut says, now_ns, room);
    assert!(near.has_given() > 1, "when there is room it is found at once");
    near.end_all(&scene.context(now_ns), &mut Says::default());
    println!("evidence: large={LARGE} left={passed} looks={looks} more=0");
}

/// The channel to a peer whose words are heard.
fn spoken_with(scene: &Scene, inputs: &mut Inputs) -> Channel {
    let mut channel = Channel::new(&scene.bus.core, "here").unwrap();
    channel.established(1, inputs);
    channel.wanted(Course::Quick, 1, inputs);
    channel.open(Course::Quick, PortId(7), inputs);
    channel
}

fn saying(task: u64, until_ns: Option<u64>) -> Saying {
    let (topic, source) = (Topic::new("a").unwrap(), PortId(3));
    let (sequence, attempt, flags, left_ns, extensions) = (11, 0, 0, 0, 0);
    let word = Word::Task { pull: 1, task, topic, source, sequence, attempt, flags, left_ns, extensions };
    Saying::task(word, [b"late", b""], until_ns).unwrap()
}

#[test]
fn what_waits_for_a_peer_that_may_have_it_no_more_does_not_go_and_is_done_by_others_as_if_it_had_not_been_given()
 {
    let mut scene = Scene::new();
    let mut pusher = scene.bus.pusher("a").open().unwrap();
    let (mut near, mut inputs) = (Near::default(), Inputs::new());
    let mut channel = spoken_with(&scene, &mut inputs);
    let between = channel.standing().between.unwrap();
    near.pull(&scene.context(0), 1, pattern("a"), group());
    near.grant(1, 10);
    let mut says = Says::default();
    step(&scene, &mut near, 0);
    for whom in scene.opener.taken() {
        near.opened(&scene.context(0), &whom, scene.bus.puller("a").group("g").open().unwrap());
    }
    for number in 0..10 {
        pusher.send(&[number]).unwrap();
    }
    let until_ns = busway_shm::clock::monotonic_ns() + 30_000_000_000;
    while near.has_given() < 10 {
        assert!(busway_shm::clock::monotonic_ns() < until_ns, "{} are given", near.has_given());
        near.step(&scene.context(1), &Pulls::default(), &mut says, UP);
    }
    let by = scene.permits().clone();
    // Five of them go, of which two arrive.
    channel.say_all(between, says, [&by, &by], &mut inputs);
    let next = |channel: &mut Channel| Some(decode(channel.next(Course::Quick)?.1.as_ref()).unwrap().0);
    for task in 1..=5 {
        assert!(matches!(next(&mut channel), Some(Word::Task { task: of, .. }) if of == task));
    }
    scene.may(&[">"], &[]);
    channel.lost();
    channel.withhold(scene.permits());
    near.permit(&scene.context(2));
    near.withheld(&scene.context(2), &channel.withheld());
    assert_eq!(near.has_given(), 5, "what may have arrived is not done by others as well");
    let mut here = scene.bus.puller("a").group("g").open().unwrap();
    let mut done = Vec::new();
    let mut take = |count: usize| {
        while done.len() < count {
            let task = here.recv_timeout(std::time::Duration::from_secs(30)).unwrap().expect("a task");
            assert_eq!(task.deliveries(), 1);
            done.push(task[0]);
        }
        assert!(here.try_recv().unwrap().is_none());
    };
    take(5);
    channel.established(1, &mut inputs);
    channel.rewind(Course::Quick, 2, scene.permits());
    near.withheld(&scene.context(3), &channel.withheld());
    take(8);
    for task in 3..=10 {
        assert_eq!(next(&mut channel), Some(Word::Cancel { pull: 1, task }), "in its place");
    }
    // What was given while the rights changed does not go either.
    let mut late = Says::default();
    for until_ns in [None, Some(1)] {
        late.push(saying(11, until_ns));
    }
    channel.say_all(between, late, [&by, scene.permits()], &mut inputs);
    for _ in 0..2 {
        assert_eq!(next(&mut channel), Some(Word::Cancel { pull: 1, task: 11 }));
    }
    assert_eq!((near.has_given(), channel.withheld()), (2, vec![11, 11]));
    println!("evidence: given=10 arrived=2 done_by_others=8");
    near.end_all(&scene.context(4), &mut Says::default());
}

/// A host that was given one request, which somebody here waits for.
fn with_a_request(scene: &Scene) -> (Near, crate::requester::Requester, crate::requester::Pending) {
    let mut near = Near::default();
    let responders = Group::new(busway_wire::responders(), None).unwrap();
    near.pull(&scene.context(0), 1, pattern("ask"), responders);
    near.grant(1, 1);
    step(scene, &mut near, 0);
    for whom in scene.opener.taken() {
        let puller = PullerBuilder::new(&scene.bus, Ok(pattern("ask"))).of_responders().open().unwrap();
        near.opened(&scene.context(0), &whom, puller);
    }
    let requester = scene.bus.requester("ask").open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let pending = requester.send_within(b"what", PATIENCE, std::time::Duration::ZERO).unwrap().unwrap();
    let until_ns = busway_shm::clock::monotonic_ns() + PATIENCE.as_nanos() as u64;
    while near.has_given() == 0 {
        assert!(busway_shm::clock::monotonic_ns() < until_ns, "nothing is given");
        step(scene, &mut near, 1);
    }
    (near, requester, pending)
}

fn replies(near: &mut Near, scene: &Scene, replies: &[(u32, ReplyState, &[u8])]) {
    for (index, state, payload) in replies {
        near.reply(&scene.context(2), 1, *index, *state as u8, (&[], payload));
    }
}

/// Opens the lane that is asked for, as the opener does.
fn open_lane(near: &mut Near, scene: &Scene) {
    let Some((whom, Wanted::Lane { requester, pusher, deadline_ns })) = scene.opener.next() else {
        panic!("a lane is asked for")
    };
    assert!(scene.opener.next().is_none(), "once");
    let lane = scene.lanes.open_for(requester, pusher, deadline_ns).unwrap();
    near.lane(&scene.context(3), whom.number, Some(lane), &mut Says::default());
}

#[test]
fn who_serves_all_peers_opens_no_lane_and_what_is_said_meanwhile_comes_in_its_order_and_whole() {
    let scene = Scene::new();
    let (mut near, requester, mut pending) = with_a_request(&scene);
    let (part, last) = (ReplyState::Part, ReplyState::Last);
    replies(&mut near, &scene, &[(0, part, b"one"), (1, part, b"two"), (2, last, b"three")]);
    near.over(&scene.context(2), 1, End::Done);
    assert_eq!((scene.lanes.count(), near.has_given()), (0, 1), "nobody is asked, and it is not over");
    assert!(near.held_bytes > 0 && pending.try_recv().unwrap().is_none());
    open_lane(&mut near, &scene);
    assert_eq!((near.held_bytes, near.has_given()), (0, 0));
    for (index, said) in [b"one".as_slice(), b"two", b"three"].into_iter().enumerate() {
        let reply = pending.recv_timeout(PATIENCE).unwrap().expect("a reply");
        assert_eq!((&reply[..], reply.index(), reply.is_last()), (said, index as u32, index == 2));
    }
    // The next finds its lane open.
    near.grant(1, 2);
    let mut again = requester.send_within(b"what", PATIENCE, std::time::Duration::ZERO).unwrap().unwrap();
    let until_ns = busway_shm::clock::monotonic_ns() + PATIENCE.as_nanos() as u64;
    while near.has_given() == 0 {
        assert!(busway_shm::clock::monotonic_ns() < until_ns, "nothing is given");
        step(&scene, &mut near, 4);
    }
    near.reply(&scene.context(4), 2, 0, last as u8, (&[], b"at once"));
    assert_eq!(&again.recv_timeout(PATIENCE).unwrap().expect("a reply")[..], b"at once");
    assert!(scene.opener.next().is_none() && near.has_given() == 0);
    println!("evidence: held=3 opened_by_another=1 at_once=1");
}

#[test]
fn what_waits_for_a_lane_is_bounded_and_what_ends_meanwhile_leaves_nothing() {
    let scene = Scene::new();
    let large = vec![7; WORK_REPLIES_BYTES_MAX / 4];
    let (mut near, _requester, mut pending) = with_a_request(&scene);
    for index in 0..16 {
        replies(&mut near, &scene, &[(index, ReplyState::Part, &large)]);
        assert!(near.held_bytes < WORK_REPLIES_BYTES_MAX + 1_024, "{}", near.held_bytes);
    }
    open_lane(&mut near, &scene);
    let mut came = 0;
    let error = loop {
        match pending.recv_timeout(PATIENCE) {
            Ok(reply) => came += usize::from(reply.is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RequestError::Unanswered), "{error:?}");
    assert_eq!((came, near.held_bytes, near.has_given()), (3, 0, 0));
    // The link is lost before its lane is there: who asked is told all the same.
    let scene = Scene::new();
    let (mut near, _requester, mut pending) = with_a_request(&scene);
    replies(&mut near, &scene, &[(0, ReplyState::Part, b"one")]);
    near.end_requests(&scene.context(3), &mut Says::default());
    assert_eq!((near.held_bytes, near.has_given()), (0, 0));
    let error = pending.recv_timeout(PATIENCE).map(drop).unwrap_err();
    assert!(matches!(error, RequestError::ResponderDied), "{error:?}");
    // And one whose lane cannot be had.
    let scene = Scene::new();
    let (mut near, _requester, mut pending) = with_a_request(&scene);
    replies(&mut near, &scene, &[(0, ReplyState::Last, b"one")]);
    near.lane(&scene.context(3), 1, None, &mut Says::default());
    assert_eq!((near.held_bytes, near.has_given()), (0, 0));
    let error = pending.recv_timeout(PATIENCE).map(drop).unwrap_err();
    assert!(matches!(error, RequestError::Unanswered), "{error:?}");
    println!("evidence: said=16 held=3 told=3");
}
