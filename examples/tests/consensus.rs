//! A consensus crate on top of the cluster library, in three processes, while the leader is killed.
//! One test at a time: three replicas write to disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "built/program.rs"]
mod built;

use std::process::Command;

use busway_examples::linear::{Operation, Violation, check};

use built::program;

const INCREMENTS: u64 = 1_000;
const KILLS: u64 = 3;

#[test]
fn a_thousand_increments_are_counted_once_each_while_the_leader_is_killed_three_times() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let directory = std::env::temp_dir().join(format!("busway-consensus-test-{seed:x}"));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("history");
    let arguments = [INCREMENTS, KILLS, seed].map(|number| number.to_string());
    let mut command = Command::new(program("consensus"));
    command.args(&arguments).arg(&path).env("BUSWAY_DIR", directory.join("bus"));
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let history: String = std::fs::read_to_string(&path).unwrap_or_default();
    let _ = std::fs::remove_dir_all(&directory);
    assert!(output.status.success(), "seed {seed}: {said}");
    let history: Vec<Operation> = history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said.matches("is killed").count() as u64, KILLS, "{said}");
    let counter = said.rsplit_once("counter ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let found = check(&history, counter).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    assert_eq!((found.acknowledged, found.unacknowledged_applied), (INCREMENTS, 0), "seed {seed}");
    assert_eq!(counter, INCREMENTS, "seed {seed}");
    spoiled(&history, counter);
    println!(
        "evidence: increments={INCREMENTS} kills={KILLS} counter={counter} acknowledged={}",
        found.acknowledged
    );
}

/// The same history with one thing wrong is refused: the checker looks.
fn spoiled(history: &[Operation], counter: u64) {
    let refused = |change: &dyn Fn(&mut Vec<Operation>)| -> Violation {
        let mut spoiled = history.to_vec();
        change(&mut spoiled);
        check(&spoiled, counter).unwrap_err()
    };
    let value = |operation: &Operation| operation.answer.unwrap().value;
    let with = |wanted: u64| history.iter().position(|operation| value(operation) == wanted).unwrap();
    let (first, last) = (with(1), with(counter));
    // Two that change places: the last began long after the first had ended.
    let swapped = refused(&|all| {
        let answers = (all[first].answer.as_mut().unwrap().value, all[last].answer.as_mut().unwrap().value);
        all[first].answer.as_mut().unwrap().value = answers.1;
        all[last].answer.as_mut().unwrap().value = answers.0;
    });
    assert!(matches!(swapped, Violation::Order(..)), "{swapped}");
    // An answer that somebody else has had.
    let twice = refused(&|all| all[first].answer.as_mut().unwrap().value = 2);
    assert!(matches!(twice, Violation::SameValue(..)), "{twice}");
    // Counted, and nobody asked for it.
    let missing = refused(&|all| {
        all.remove(first);
    });
    assert!(matches!(missing, Violation::Nobody(1)), "{missing}");
    // Acknowledged, and not counted.
    assert!(matches!(check(history, counter - 1), Err(Violation::Beyond(..))));
}
