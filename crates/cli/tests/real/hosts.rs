//! Two hosts, as a newcomer tries them: two runtime directories that share nothing, a node in each, linked over TCP.

use std::io::{BufReader, PipeReader, Read, Write};
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Place, Running, flights, free_address, names};

const DEADLINE: Duration = Duration::from_secs(60);
/// Of the node beside the publisher.
const KILLS: usize = 3;

/// A node that listens where the kernel chooses, or at a port that was its own before.
pub(crate) fn listen(place: &Place, index: &str, address: &str) -> (Running, BufReader<PipeReader>, String) {
    let (node, stream, line) = Running::spoken(place.command(&["up", "--index", index, "--listen", address]));
    let listening =
        line.split_whitespace().find_map(|word| word.strip_prefix("listen=")).expect("it listens");
    let listening = listening.to_owned();
    (node, stream, listening)
}

pub(crate) fn dial(place: &Place, index: &str, peer: &str) -> (Running, BufReader<PipeReader>) {
    let (node, stream, _) = Running::spoken(place.command(&["up", "--index", index, "--peer", peer]));
    (node, stream)
}

/// Reads to the end, and tells of each step.
fn read_all(mut from: PipeReader, progress: &Sender<usize>) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let count = from.read(&mut buffer).expect("the pipe can be read");
        if count == 0 {
            return all;
        }
        all.extend_from_slice(&buffer[..count]);
        let _ = progress.send(all.len());
    }
}

fn lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn records_cross_to_a_reliable_subscriber_on_another_host_unchanged() {
    let (near, far) = (Place::new(), Place::new());
    let records = flights();
    let count = lines(&records).to_string();
    let (far_node, _far_stream, address) = listen(&far, "1", "127.0.0.1:0");
    let (near_node, _near_stream) = dial(&near, "0", &format!("1={address}"));
    let subscriber = far.subscribe(&["flights", "--reliable", "--raw", "--count", &count]);
    let mut command =
        near.command(&["pub", "flights", "--lines", "--wait", "--max-wait", "60s", "--linger", "60s"]);
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let mut input = publisher.stdin().expect("stdin is a pipe");
    input.write_all(&records).expect("lines are written");
    drop(input);
    assert!(subscriber.finish().expect(0).stdout == records, "what arrived differs");
    publisher.finish().expect(0);
    let listed = near.run(&["peers", "--json"]).expect(0).text();
    let peer: Value = serde_json::from_str(listed.lines().next().expect("a peer")).expect("an object");
    assert_eq!((peer["peer"].as_str(), peer["state"].as_str()), (Some("node 1"), Some("connected")));
    for node in [near_node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
    for place in [near, far] {
        assert_eq!(names(&place.bus_directory()), ["default.lock"], "a clean end leaves the empty lock");
    }
    println!("evidence: {count} records, {} bytes, from one host to another", records.len());
}

#[test]
fn a_reliable_subscriber_far_away_loses_nothing_while_the_node_beside_it_is_killed_twice() {
    let (near, far) = (Place::new(), Place::new());
    let records = flights();
    let count = lines(&records).to_string();
    let (mut far_node, mut _far_stream, address) = listen(&far, "1", &free_address().to_string());
    let (near_node, _near_stream) = dial(&near, "0", &format!("1={address}"));
    let mut command = far.command(&["sub", "flights", "--reliable", "--raw", "--count", &count]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut subscriber = Running::start(command);
    subscriber.stderr_until(|line| line == "ready flights");
    let mut command =
        near.command(&["pub", "flights", "--lines", "--wait", "--max-wait", "60s", "--linger", "60s"]);
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let mut input = publisher.stdin().expect("stdin is a pipe");
    let (progress, arrived) = channel();
    let output = std::thread::spawn(move || read_all(reader, &progress));
    let third = records.len() / 3;
    for part in [&records[..third], &records[third..2 * third]] {
        input.write_all(part).expect("lines are written");
        // Somewhere in the middle of it.
        let _ = arrived.recv_timeout(DEADLINE).expect("messages arrive");
        far_node.signal(Signal::KILL);
        far_node.finish();
        (far_node, _far_stream, _) = listen(&far, "1", &address);
    }
    input.write_all(&records[2 * third..]).expect("lines are written");
    drop(input);
    assert!(output.join().expect("the reader does not panic") == records, "what arrived differs");
    subscriber.finish().expect(0);
    publisher.finish().expect(0);
    for node in [near_node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
    println!("evidence: {count} records whole, the far node killed twice");
}

#[test]
fn the_node_beside_the_publisher_is_killed() {
    let (near, far) = (Place::new(), Place::new());
    let records = flights();
    let count = lines(&records).to_string();
    let (far_node, _far_stream, address) = listen(&far, "1", "127.0.0.1:0");
    let peer = format!("1={address}");
    let (mut near_node, mut _near_stream) = dial(&near, "0", &peer);
    let mut command = far.command(&["sub", "flights", "--reliable", "--raw", "--count", &count]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut subscriber = Running::start(command);
    subscriber.stderr_until(|line| line == "ready flights");
    let mut command =
        near.command(&["pub", "flights", "--lines", "--wait", "--max-wait", "60s", "--linger", "60s"]);
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let mut input = publisher.stdin().expect("stdin is a pipe");
    let (progress, arrived) = channel();
    let output = std::thread::spawn(move || read_all(reader, &progress));
    let all = records.clone();
    let writer = std::thread::spawn(move || input.write_all(&all));
    for part in 1..=KILLS {
        while arrived.recv_timeout(DEADLINE).expect("messages arrive") < records.len() / (KILLS + 1) * part {}
        near_node.signal(Signal::KILL);
        near_node.finish();
        (near_node, _near_stream) = dial(&near, "0", &peer);
    }
    writer.join().expect("it does not panic").expect("all lines were taken");
    assert!(output.join().expect("the reader does not panic") == records, "what arrived differs");
    subscriber.finish().expect(0);
    let ended = publisher.finish().expect(0);
    let account = format!("sent {count} subscribers 1 delivered {count} dropped 0 in-flight 0");
    assert_eq!(ended.last_error_line(), account);
    for node in [near_node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
    println!("evidence: {count} records whole, the near node killed {KILLS} times");
}
