//! What a host says that it wants, without a link.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use busway_wire::work::{End, Word, decode};
use busway_wire::{Group, Pattern, PortId, ProcessId, Topic};

use super::Far;
use crate::control::Watched;
use crate::runtime::desk::pulls::Pulls;
use crate::runtime::desk::scene::Scene;
use crate::runtime::desk::{Says, Standing};

const UP: Standing = Standing { between: None, up: true, waiting_bytes: 0 };

fn pulled(port: u64, pattern: &str) -> Watched {
    let (pattern, name) = (Pattern::parse(pattern).unwrap(), Topic::new("g").unwrap());
    let group = Group::new(name, None).unwrap();
    Watched::Pulled { process: ProcessId(1), port: PortId(port), pattern, group }
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
    far.permit();
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
    let mut says = Says::default();
    for number in 1..=10 {
        far.task(&scene.context(0), &pulls, task(number, "may.not"), &[], &mut says);
    }
    let denied = |task| Word::Over { task, end: End::Denied };
    assert_eq!(words(says), (1..=10).map(denied).collect::<Vec<_>>());
    assert!(step(&scene, &mut far, &pulls, UP).is_empty(), "no more is granted for it");
    // It takes the one that is granted, and is not there: so one more is.
    far.cancel(1, 11);
    assert_eq!(step(&scene, &mut far, &pulls, UP), [Word::Grant { pull: 1, tasks: 2 }]);
    // Said once more behind its place, it is not one more.
    far.cancel(1, 11);
    assert!(step(&scene, &mut far, &pulls, UP).is_empty());
}
