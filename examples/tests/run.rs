//! Every example runs to its end, in a directory of its own and within seconds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "built/program.rs"]
mod built;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use built::program;

/// The examples that this file runs; a new one is added here.
const EXAMPLES: [&str; 7] = ["async", "consensus", "hello", "policies", "requests", "swarm", "typed"];

fn run(name: &str) {
    let directory = std::env::temp_dir().join(format!("busway-example-{name}-{}", std::process::id()));
    let output = Command::new(program(name)).env("BUSWAY_DIR", &directory).output().unwrap();
    let _ = std::fs::remove_dir_all(&directory);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} ends with {}: {said}", output.status);
    assert!(!said.is_empty(), "{name} shows what it does");
    println!("evidence: example={name} lines={}", said.lines().count());
}

#[test]
fn every_example_is_run_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let names: BTreeSet<String> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names, EXAMPLES.map(str::to_owned).into());
}

#[test]
fn hello_runs() {
    run("hello");
}

#[test]
fn typed_runs() {
    run("typed");
}

#[test]
fn async_runs() {
    run("async");
}

#[test]
fn policies_runs() {
    run("policies");
}

#[test]
fn swarm_runs() {
    run("swarm");
}

#[test]
fn requests_runs() {
    run("requests");
}

#[test]
fn consensus_runs() {
    run("consensus");
}
