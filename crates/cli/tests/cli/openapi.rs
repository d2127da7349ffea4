//! The description of a node's HTTP, against which schemathesis tries that node: what it draws from it, good and bad, is answered as it says.
//!
//! It is a program of pip's: `cargo xtask ci openapi` fetches it and names it in `BUSWAY_SCHEMATHESIS`. Elsewhere the test is skipped.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::Place;
use crate::http::http;
use crate::node::up;

/// What is drawn for each route, at most. There is no bound of time: what is drawn is the same on each machine.
const EXAMPLES: &str = "25";

/// That nobody answers a request is the truth, and no failure.
const SETTINGS: &str = r#"
[[operations]]
include-name = "POST /v1/request/{topic}"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]
"#;

#[test]
fn what_is_drawn_from_the_description_of_a_node_finds_nothing() {
    let Some(program) = std::env::var_os("BUSWAY_SCHEMATHESIS") else {
        println!("skipped: the job openapi tries it: BUSWAY_SCHEMATHESIS names no program");
        return;
    };
    let seed = std::env::var("BUSWAY_OPENAPI_SEED").unwrap_or_else(|_| "51".to_owned());
    let place = Place::new();
    let (node, line) = up(&place, &["--http", "127.0.0.1:0"]);
    let settings = place.temporary().join("schemathesis.toml");
    std::fs::write(&settings, SETTINGS).expect("a file");
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(&settings)
        .args(["run", &format!("http://{}/openapi.json", http(&line))]);
    command.args(["--seed", &seed, "--max-examples", EXAMPLES, "--workers", "1"]);
    // A stream has no end that it could wait for.
    command.args(["--exclude-path-regex", "subscribe", "--request-timeout", "10"]);
    command.args(["--suppress-health-check", "all", "--continue-on-failure", "--no-color"]);
    let command = command.current_dir(place.temporary()).env("HOME", place.temporary()).stdin(Stdio::null());
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let tried = text.lines().find_map(|line| line.trim().split_once(" generated")).map(|(count, _)| count);
    let tried: u32 = tried.and_then(|count| count.parse().ok()).expect("it says how many it has tried");
    assert!(tried >= 200, "{tried} are too few to find anything: {text}");
    node.signal(Signal::TERM);
    let ended = node.finish().expect(0);
    assert!(!ended.stderr.iter().any(|line| line.contains("panicked")), "{:?}", ended.stderr);
    println!("evidence: seed={seed} cases={tried} found=0");
}
