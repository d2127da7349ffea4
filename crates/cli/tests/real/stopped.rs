//! A subscriber stopped with SIGSTOP, under each policy: others notice nothing beyond the publisher's cap.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::process::{ChildStdin, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Place, Running};

/// More than a ring of default size holds, so that a stopped subscriber is in the way.
const LINES: usize = 20_000;

struct Scene {
    // Holds the rendezvous, so that neither the stopped one nor one that ends does.
    _node: Running,
    stopped: Running,
    // Kept, or the stopped subscriber would end for want of a reader.
    _output: BufReader<PipeReader>,
    other: Running,
    publisher: Running,
    input: ChildStdin,
}

/// One subscriber of `policy` that has received a message and is stopped, a reliable one that goes on, one publisher.
fn scene(place: &Place, policy: &str) -> Scene {
    let node = place.up();
    let count = (LINES + 1).to_string();
    let other = place.subscribe(&["x", "--raw", "--reliable", "--count", &count]);
    let mut command = place.command(&["sub", "x", "--raw", "--policy", policy]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut stopped = Running::start(command);
    stopped.stderr_until(|line| line == "ready x");
    let mut command = place.command(&["pub", "x", "--lines", "--wait=2"]);
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let mut input = publisher.stdin().expect("stdin is a pipe");
    input.write_all(b"first\n").expect("a line is written");
    let mut output = BufReader::new(reader);
    let mut line = String::new();
    output.read_line(&mut line).expect("the first message arrives");
    stopped.signal(Signal::STOP);
    Scene { _node: node, stopped, _output: output, other, publisher, input }
}

fn body() -> Vec<u8> {
    (0..LINES).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

#[test]
fn lossy_policies_cost_the_others_nothing() {
    for policy in ["drop-oldest", "drop-oldest:4", "keep-latest", "drop-newest:4"] {
        let place = Place::new();
        let Scene { stopped, other, publisher, mut input, _output, _node } = scene(&place, policy);
        input.write_all(&body()).expect("lines are written");
        assert_eq!(other.finish().expect(0).stdout, [b"first\n", &body()[..]].concat(), "{policy}");
        drop(input);
        publisher.finish().expect(0);
        stopped.signal(Signal::KILL);
    }
}

#[test]
fn a_blocking_subscriber_costs_the_cap_once_and_is_named() {
    let place = Place::new();
    let Scene { stopped, other, publisher, mut input, _output, _node } = scene(&place, "block");
    input.write_all(&body()).expect("lines are written");
    assert_eq!(other.finish().expect(0).stdout, [b"first\n", &body()[..]].concat());
    let view = place.run(&["info", "x", "--json"]).expect(0).object();
    let subscribers = view["subscribers"].as_array().expect("subscribers");
    let behind: &Value =
        subscribers.iter().find(|one| one["pid"] == stopped.pid()).expect("the stopped one is there");
    assert_eq!((&behind["policy"], &behind["state"]), (&"block".into(), &"stalled".into()));
    assert!(behind["lag"].as_u64() > Some(0) && behind["behind_ms"].as_u64() > Some(0), "{behind}");
    drop(input);
    drop(publisher);
    stopped.signal(Signal::KILL);
}

#[test]
fn a_failing_subscriber_is_named_to_the_publisher() {
    let place = Place::new();
    let Scene { stopped, publisher, mut input, other, _output, _node } = scene(&place, "fail");
    // The publisher ends before it has read all.
    let _ = input.write_all(&body());
    drop(input);
    let ended = publisher.finish().expect(1);
    let (code, cause, at, _) = ended.report();
    assert_eq!(code, "BUS-0401");
    let pid = stopped.pid().to_string();
    assert!(cause.contains(&pid) || at.contains(&pid), "{cause} at {at}");
    drop(other);
    stopped.signal(Signal::KILL);
}

#[test]
fn an_evicted_subscriber_is_given_up_at_once() {
    let place = Place::new();
    let Scene { stopped, other, publisher, mut input, _output, _node } = scene(&place, "evict");
    input.write_all(&body()).expect("lines are written");
    assert_eq!(other.finish().expect(0).stdout, [b"first\n", &body()[..]].concat());
    let view = place.run(&["info", "x", "--json"]).expect(0).object();
    let subscribers = view["subscribers"].as_array().expect("subscribers");
    let gone = subscribers.iter().find(|one| one["pid"] == stopped.pid());
    assert!(gone.is_none_or(|one| one["state"] == "evicted"), "{gone:?}");
    drop(input);
    publisher.finish().expect(0);
    stopped.signal(Signal::KILL);
}
