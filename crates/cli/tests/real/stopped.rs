//! A subscriber stopped with SIGSTOP, under each policy: others notice nothing beyond the publisher's cap, and the
//! policy does what its name says once the subscriber goes on.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::process::{ChildStdin, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Place, Running};

/// Fewer than a ring holds: nothing is overwritten.
const FEW: usize = 2_000;
/// More than a ring of default size holds, so that a stopped subscriber is in the way.
const MANY: usize = 20_000;

/// One subscriber of a policy that has received `first` and is stopped, a reliable one that goes on, one publisher.
struct Scene {
    // Holds the rendezvous, so that neither the stopped one nor one that ends does.
    _node: Running,
    stopped: Running,
    output: BufReader<PipeReader>,
    other: Option<Running>,
    publisher: Running,
    input: ChildStdin,
    lines: usize,
}

impl Scene {
    /// The other subscriber ends after `lines` messages more than the first.
    fn new(place: &Place, policy: &str, lines: usize) -> Self {
        let node = place.up();
        let count = (lines + 1).to_string();
        let other = place.subscribe(&["x", "--raw", "--reliable", "--count", &count]);
        let mut command = place.command(&["sub", "x", "--raw", "--policy", policy]);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer);
        let mut stopped = Running::start(command);
        stopped.stderr_until(|line| line == "ready x");
        // The other one may have no processor for a while; who is stopped is waited for only where its policy says so.
        let max_wait = if ["block", "evict"].contains(&policy) { "2s" } else { "60s" };
        let words = ["pub", "x", "--lines", "--wait=2", "--max-wait", max_wait];
        let mut command = place.command(&words);
        command.stdin(Stdio::piped());
        let mut publisher = Running::start(command);
        let mut input = publisher.stdin().expect("stdin is a pipe");
        input.write_all(b"first\n").expect("a line is written");
        let mut output = BufReader::new(reader);
        assert_eq!(next(&mut output), "first");
        stopped.stop();
        Self { _node: node, stopped, output, other: Some(other), publisher, input, lines }
    }

    /// Sends all lines; returns when the other subscriber has them, each once and in order.
    fn send_all(&mut self, policy: &str) {
        let body: Vec<u8> = (0..self.lines).flat_map(|number| format!("{number}\n").into_bytes()).collect();
        self.input.write_all(&body).expect("lines are written");
        let other = self.other.take().expect("the lines are sent once");
        assert!(other.finish().expect(0).stdout == [b"first\n", &body[..]].concat(), "{policy}");
    }

    /// What `busway info` says of the stopped one.
    fn view(&self, place: &Place) -> Option<Value> {
        let view = place.run(&["info", "x", "--json"]).expect(0).object();
        assert_eq!(view["closed"], true, "{view}");
        let subscribers = view["subscribers"].as_array().expect("subscribers");
        subscribers.iter().find(|one| one["pid"] == self.stopped.pid()).cloned()
    }

    /// Lets the stopped one go on; returns what it prints up to `last`.
    fn go_on(&mut self, last: &str) -> Vec<String> {
        self.stopped.signal(Signal::CONT);
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line| line != last) {
            lines.push(next(&mut self.output));
        }
        lines
    }

    /// Ends all; returns the last line of the publisher and of the stopped one.
    fn end(self) -> (String, Vec<String>) {
        drop(self.input);
        let account = self.publisher.finish().expect(0).last_error_line().to_owned();
        self.stopped.signal(Signal::INT);
        (account, self.stopped.finish().expect(0).stderr)
    }
}

fn next(output: &mut BufReader<PipeReader>) -> String {
    let mut line = String::new();
    assert_ne!(output.read_line(&mut line).expect("a line is read"), 0, "the subscriber ended");
    line.trim_end().to_owned()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A policy that makes nobody wait: which of the few lines arrive, and the cause under which the others are lost.
fn check_lossy(policy: &str, expected: std::ops::Range<usize>, cause: &str) {
    let place = Place::new();
    let mut scene = Scene::new(&place, policy, FEW);
    scene.send_all(policy);
    let behind = scene.view(&place).expect("the stopped one is there");
    assert_eq!((&behind["policy"], &behind["lag"]), (&policy.into(), &FEW.into()), "{behind}");
    assert!(behind["behind_ms"].as_u64() > Some(0), "{behind}");
    let lost = FEW - expected.len();
    let last = (expected.end - 1).to_string();
    assert_eq!(scene.go_on(&last), numbers(expected.clone()), "{policy}");
    if lost > 0 {
        // The first line has sequence 1, so that line `n` has `n + 2`.
        let range = if expected.start > 0 { 2..expected.start + 2 } else { expected.end + 2..FEW + 2 };
        let wanted = format!("lost {lost} on x ({cause}): {}-{}", range.start, range.end - 1);
        scene.stopped.stderr_until(|line| line == wanted);
    }
    let (account, words) = scene.end();
    let delivered = FEW + 1 + expected.len() + 1;
    let wanted = format!("sent {} subscribers 2 delivered {delivered} dropped {lost} in-flight 0", FEW + 1);
    assert_eq!(account, wanted, "{policy}");
    assert_eq!(words.last(), Some(&format!("received {} lost {lost}", expected.len() + 1)), "{policy}");
    println!("evidence: {policy}: {FEW} messages behind, {lost} lost, others lost 0");
}

#[test]
fn drop_oldest_keeps_what_the_ring_holds_and_of_a_depth_the_newest() {
    check_lossy("drop-oldest", 0..FEW, "");
    check_lossy("drop-oldest:4", FEW - 4..FEW, "lapped");
}

#[test]
fn keep_latest_keeps_the_last() {
    check_lossy("keep-latest", FEW - 1..FEW, "conflated");
}

#[test]
fn drop_newest_keeps_the_oldest() {
    check_lossy("drop-newest:4", 0..4, "drop_newest");
}

#[test]
fn a_blocking_subscriber_costs_the_cap_once_and_is_named() {
    let place = Place::new();
    let mut scene = Scene::new(&place, "block", MANY);
    scene.send_all("block");
    let behind = scene.view(&place).expect("the stopped one is there");
    assert_eq!(behind["policy"], "block");
    // Where this look comes late its process is known to stand still, which says more.
    assert!(behind["state"] == "stalled" || behind["state"] == "hung", "{behind}");
    assert_eq!(behind["lag"], MANY, "{behind}");
    assert!(behind["behind_ms"].as_u64() > Some(0), "{behind}");
    let arrived = scene.go_on(&(MANY - 1).to_string());
    let lost = MANY - arrived.len();
    assert_eq!(arrived, numbers(lost..MANY), "what the ring still holds arrives");
    let (account, words) = scene.end();
    let delivered = MANY + 1 + arrived.len() + 1;
    let wanted = format!("sent {} subscribers 2 delivered {delivered} dropped {lost} in-flight 0", MANY + 1);
    assert_eq!(account, wanted);
    assert!(words.contains(&format!("lost {lost} on x (stalled): 2-{}", lost + 1)), "{words:?}");
    println!("evidence: block: {MANY} messages behind, {lost} lost as stalled, others lost 0");
}

#[test]
fn a_failing_subscriber_is_named_to_the_publisher_and_loses_nothing() {
    let place = Place::new();
    let mut scene = Scene::new(&place, "fail", MANY);
    // The publisher ends before it has read all.
    let _ = scene.input.write_all(&"line\n".repeat(MANY).into_bytes());
    drop(scene.input);
    let ended = scene.publisher.finish().expect(1);
    let (code, cause, at, _) = ended.report();
    assert_eq!(code, "BUS-0401");
    let pid = scene.stopped.pid().to_string();
    assert!(cause.contains(&pid) || at.contains(&pid), "{cause} at {at}");
    let sent: usize =
        ended.last_error_line().split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a count");
    assert!(sent > 1_000 && sent < MANY, "the ring was filled and not overrun: {sent}");
    scene.stopped.signal(Signal::CONT);
    for _ in 1..sent {
        assert_eq!(next(&mut scene.output), "line");
    }
    let other = scene.other.take().expect("the other one runs");
    other.signal(Signal::INT);
    assert_eq!(other.finish().expect(0).lines().len(), sent);
    println!("evidence: fail: {sent} messages sent before the refusal, 0 lost");
}

#[test]
fn an_evicted_subscriber_is_given_up_at_once_and_told() {
    let place = Place::new();
    let mut scene = Scene::new(&place, "evict", MANY);
    scene.send_all("evict");
    let gone = scene.view(&place);
    assert!(gone.as_ref().is_none_or(|one| one["state"] == "evicted"), "{gone:?}");
    drop(scene.input);
    let account = scene.publisher.finish().expect(0).last_error_line().to_owned();
    assert!(account.starts_with(&format!("sent {} subscribers 2 ", MANY + 1)), "{account}");
    scene.stopped.signal(Signal::CONT);
    let ended = scene.stopped.finish().expect(1);
    assert_eq!(ended.report().0, "BUS-0403");
    println!("evidence: evict: {account}");
}
