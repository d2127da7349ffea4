//! `push` to `pull`: work is shared, printed once, and not lost with who had it.

use std::io::{PipeReader, Read, Write};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Ended, Place, Running, flights, keys};
use crate::signals::until_signals_are_handled;

fn pull(place: &Place, arguments: &[&str]) -> Running {
    let words: Vec<&str> = std::iter::once("pull").chain(arguments.iter().copied()).collect();
    let mut running = place.start(&words);
    running.stderr_until(|line| line.starts_with("ready "));
    running
}

/// A puller that has begun to print a message which nobody reads to its end.
fn stuck(place: &Place, arguments: &[&str]) -> (Running, PipeReader) {
    let words: Vec<&str> = std::iter::once("pull").chain(arguments.iter().copied()).collect();
    let mut command = place.command(&words);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut running = Running::start(command);
    running.stderr_until(|line| line.starts_with("ready "));
    let mut byte = [0];
    reader.read_exact(&mut byte).expect("the message has begun to come");
    (running, reader)
}

fn interrupted(puller: Running) -> Ended {
    puller.signal(Signal::INT);
    puller.finish().expect(0)
}

fn object(ended: &Ended) -> Value {
    serde_json::from_str(ended.lines().first().expect("a line")).expect("a line is JSON")
}

#[test]
fn real_records_are_shared_by_two_pullers_and_each_is_printed_once() {
    let place = Place::new();
    let flights = flights();
    // Each ends when it has its half.
    let half = ["flights", "--raw", "--count", "10000"];
    let pullers = [pull(&place, &half), pull(&place, &[&half[..], &["--group", "pullers"]].concat())];
    let arguments = ["push", "flights", "--lines", "--wait=2", "--linger", "60s"];
    let ended = place.run_with(&flights, &arguments).expect(0);
    assert_eq!(ended.last_error_line(), "sent 20000 delivered 20000 dropped 0 in-flight 0");
    let ended = pullers.map(|puller| puller.finish().expect(0));
    let mut printed: Vec<&[u8]> =
        ended.iter().flat_map(|ended| ended.stdout.split_inclusive(|byte| *byte == b'\n')).collect();
    let mut sent: Vec<&[u8]> = flights.split_inclusive(|byte| *byte == b'\n').collect();
    for ended in &ended {
        assert_eq!(ended.stdout.iter().filter(|byte| **byte == b'\n').count(), 10_000);
        assert_eq!(ended.last_error_line(), "pulled 10000 late 0");
    }
    printed.sort_unstable();
    sent.sort_unstable();
    assert!(printed == sent, "{} lines were printed of {}", printed.len(), sent.len());
}

#[test]
fn what_a_puller_has_in_hand_goes_to_another_when_a_signal_ends_it() {
    for signal in [Signal::INT, Signal::KILL] {
        let place = Place::new();
        let arguments = ["w", "--group", "g", "--ack", "10m", "--raw0"];
        let pusher = place.start(&["push", "w", "--size", "1MiB", "--linger", "1m"]);
        let (puller, reader) = stuck(&place, &arguments);
        puller.signal(signal);
        let ended = puller.finish();
        if signal == Signal::INT {
            let ended = ended.expect(0);
            assert!(
                ended.stderr.iter().any(|line| line.starts_with("nobody read stdout")),
                "{:?}",
                ended.stderr
            );
            assert_eq!(ended.last_error_line(), "pulled 1 late 0");
        }
        drop(reader);
        let again = pull(&place, &["w", "--group", "g", "--ack", "10m", "--json", "--count", "1"]);
        let again = object(&again.finish().expect(0));
        assert_eq!((&again["deliveries"], &again["size"]), (&json!(2), &json!(1 << 20)), "{signal:?}");
        let ended = pusher.finish().expect(0);
        assert_eq!(ended.last_error_line(), "sent 1 delivered 1 dropped 0 in-flight 0");
    }
}

#[test]
fn what_no_puller_finished_lies_with_the_dead_letters() {
    let place = Place::new();
    let pusher = place.start(&["push", "w", "--size", "1MiB", "--linger", "1m", "--json"]);
    let arguments = ["w", "--group", "g", "--ack", "10m", "--attempts", "1"];
    let (puller, _reader) = stuck(&place, &arguments);
    puller.signal(Signal::KILL);
    puller.finish();
    let other = pull(&place, &arguments);
    let letter = pull(&place, &["dead-letters.g", "--json", "--count", "1"]).finish().expect(0);
    assert_eq!(object(&letter)["size"], 1 << 20);
    let account = pusher.finish().expect(0).object();
    assert_eq!(keys(&account), ["delivered", "dropped", "in_flight", "seconds", "sent", "topic"]);
    assert_eq!(account["dropped"], json!({ "dead_letter": 1 }));
    assert_eq!(interrupted(other).text(), "");
}

#[test]
fn work_waits_for_the_first_puller_and_for_room_as_long_as_it_takes() {
    let place = Place::new();
    // Twice as many as the ring has room for.
    let mut pusher = place.start(&["push", "w", "x", "--count", "2048", "--linger", "1m"]);
    pusher.stderr_until(|line| line.starts_with("note: nobody pulls w yet"));
    let puller = pull(&place, &["w", "--raw", "--count", "2048"]);
    assert_eq!(puller.finish().expect(0).text(), "x\n".repeat(2048));
    let ended = pusher.finish().expect(0);
    assert_eq!(ended.last_error_line(), "sent 2048 delivered 2048 dropped 0 in-flight 0");
}

#[test]
fn a_puller_that_ends_after_a_count_takes_nothing_that_it_does_not_print() {
    let place = Place::new();
    // Who comes first holds the rendezvous, and is not stopped.
    let _holder = place.subscribe(&["other"]);
    for ack in [&[][..], &["--ack", "60s"]] {
        for _ in 0..2 {
            let words = [&["w", "--raw", "--count", "1"], ack].concat();
            let first = pull(&place, &words);
            // While it waits both pieces of work come.
            first.stop();
            let pusher = place.start(&["push", "w", "x", "--count", "2", "--linger", "60s"]);
            let sent = |ended: Ended| {
                ended.lines().first().is_some_and(|line| {
                    serde_json::from_str::<Value>(line).expect("JSON")["publishers"][0]["sent"] == 2
                })
            };
            while !sent(place.run(&["ls", "w", "--json"])) {}
            first.signal(Signal::CONT);
            assert_eq!(first.finish().expect(0).text(), "x\n");
            assert_eq!(pull(&place, &words).finish().expect(0).text(), "x\n", "{ack:?}");
            pusher.finish().expect(0);
        }
    }
}

#[test]
fn work_that_nobody_does_in_time_ends_with_one() {
    let place = Place::new();
    let ended = place.run(&["push", "w", "x", "--linger", "100ms"]).expect(1);
    let (code, cause, ..) = ended.report();
    assert_eq!(code, "BUS-0806");
    assert!(cause.starts_with("not all work was done in 100ms"), "{cause}");
    assert_eq!(ended.last_error_line(), "sent 1 delivered 0 dropped 0 in-flight 1");
    let ended = place.run(&["push", "w", "x", "--count", "1025", "--max-wait", "100ms"]).expect(1);
    assert!(ended.report().1.starts_with("there was no room"), "{:?}", ended.stderr);
    let ended = place.run(&["push", "w", "x", "--wait=2", "--timeout", "100ms"]).expect(1);
    assert_eq!(ended.report().1, "0 of 2 pullers came in 100ms");
    let ended = place.run(&["pull", "w", "--timeout", "100ms"]).expect(1);
    assert_eq!((ended.report().0.as_str(), ended.stdout.len()), ("BUS-0804", 0));
}

#[test]
fn a_puller_that_acknowledges_otherwise_than_its_group_is_told_why_it_gets_nothing() {
    let place = Place::new();
    let first = pull(&place, &["w", "--group", "g", "--count", "1", "--json"]);
    let mut pusher = place.command(&["push", "w", "--lines", "--wait"]);
    pusher.stdin(Stdio::piped());
    let mut pusher = Running::start(pusher);
    let mut lines = pusher.stdin().expect("stdin is a pipe");
    lines.write_all(b"one\n").expect("a line is written");
    let message = object(&first.finish().expect(0));
    assert_eq!(
        keys(&message),
        ["body", "deliveries", "publisher", "sequence", "size", "source", "time_ns", "topic"]
    );
    assert_eq!((&message["body"], &message["deliveries"]), (&json!("one"), &json!(1)));
    let keeper = pull(&place, &["w", "--group", "g"]);
    let mut other = pull(&place, &["w", "--group", "g", "--ack", "1s"]);
    let told = other.stderr_until(|line| line.starts_with("cannot pull w of busway-push"));
    assert!(told.contains("acknowledges otherwise"), "{told}");
    assert_eq!(interrupted(other).last_error_line(), "pulled 0 late 0");
    drop(lines);
    pusher.finish().expect(0);
    interrupted(keeper);
}

#[test]
fn a_pusher_is_interrupted_while_it_waits_for_pullers_for_room_and_for_the_end() {
    for arguments in [
        &["push", "w", "x", "--wait"][..],
        &["push", "w", "x", "--count", "4096"],
        &["push", "w", "x", "--linger", "1h"],
    ] {
        let place = Place::new();
        let pusher = place.start(arguments);
        until_signals_are_handled(pusher.pid());
        pusher.signal(Signal::INT);
        let ended = pusher.finish().expect(130);
        assert!(ended.last_error_line().starts_with("sent "), "{:?}", ended.stderr);
    }
}
