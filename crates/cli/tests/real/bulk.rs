//! Large messages over a slow cable, and small ones beside them.

use std::io::BufRead;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::Running;
use crate::networks::{Cluster, FAR};

/// Slow enough that a busy machine can fill it, in the words of `tc`.
const RATE: &str = "20mbit";
/// Small messages, and how many go in a second.
const SMALL: usize = 300;
const SMALL_RATE: &str = "100";
/// So many of them come before the kernel is looked at: by then it is known how fast the cable is.
const FIRST: usize = 150;
/// What lies in the kernel may be so much: a second of the cable is 2 500 000 bytes, what the gate lets through 16 to 33
/// thousand.
const SENT_MAX: u64 = 100_000;

/// What the kernel of a host has to send, in the connection that has most of it.
fn unsent(cluster: &Cluster) -> u64 {
    let mut command = cluster.network.on(0, &Command::new("ss"));
    command.args(["-tnH"]);
    let ended = Running::start(command).finish().expect(0).text();
    let sent = ended.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse().ok());
    sent.max().expect("there are connections")
}

/// The clock by which a publisher says when it sent something: all hosts here have the same.
#[expect(clippy::disallowed_methods, reason = "it is told to people; no test depends on it")]
fn realtime_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_nanos()).expect("before 2554")
}

#[test]
fn large_messages_leave_the_kernel_of_a_slow_link_to_small_ones() {
    let Some(cluster) = Cluster::new() else { return };
    if !Command::new("ss").arg("-V").output().is_ok_and(|ended| ended.status.success()) {
        println!("skipped: there is no `ss`: install iproute2");
        return;
    }
    for index in [0, FAR] {
        cluster.network.slow_down(index, RATE);
    }
    let mut bulk = cluster.command(FAR, &["sub", "bulk", "--reliable", "--raw0", "-q"]);
    bulk.stdout(Stdio::null());
    let bulk = Running::start(bulk);
    let count = SMALL.to_string();
    let mut command = cluster.command(FAR, &["sub", "small", "--json", "--count", &count]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let small = Running::start(command);
    let size = ["--size", "1MiB", "--count", "100000", "--wait", "--max-wait", "60s"];
    let large = Running::start(cluster.command(0, &[&["pub", "bulk"][..], &size].concat()));
    let rate = ["--size", "256", "--rate", SMALL_RATE, "--count", "100000", "--wait"];
    let beside = Running::start(cluster.command(0, &[&["pub", "small"][..], &rate].concat()));
    let (mut waits, mut lain) = (Vec::new(), Vec::new());
    for line in std::io::BufReader::new(reader).lines() {
        let message: Value = serde_json::from_str(&line.expect("a line is read")).expect("an object");
        let sent_ns = message["time_ns"].as_u64().expect("a time");
        waits.push(realtime_ns().saturating_sub(sent_ns) / 1_000);
        if waits.len() > FIRST && waits.len().is_multiple_of(5) {
            lain.push(unsent(&cluster));
        }
    }
    small.finish().expect(0);
    for process in [large, beside, bulk] {
        process.signal(Signal::KILL);
        process.finish();
    }
    lain.sort_unstable();
    waits.drain(..FIRST);
    waits.sort_unstable();
    let (median, p50, p99) = (lain[lain.len() / 2], waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    println!(
        "evidence: {RATE}, 256 B beside 1 MiB: p50 {p50} us, p99 {p99} us; in the kernel {median} B in the median"
    );
    assert!(median <= SENT_MAX, "small messages wait for {median} bytes in the kernel");
    cluster.end();
}
