//! Ids and traces at the command: given by flags, shown by JSON, in the environment of who answers, and dropped where they come again.

use serde_json::Value;

use crate::harness::{Place, Running};

const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn objects(running: Running) -> Vec<Value> {
    let ended = running.finish().expect(0);
    ended.lines().iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn said(object: &Value) -> [Option<&str>; 3] {
    ["id", "traceparent", "tracestate"]
        .map(|name| object.get(name).map(|value| value.as_str().expect("a text")))
}

#[test]
fn what_is_said_beside_a_body_is_shown_by_who_reads_it_and_comes_back_with_the_reply() {
    let place = Place::new();
    let flags = ["--id", ID, "--traceparent", TRACE, "--tracestate", "rojo=1"];
    for (send, take) in [("pub", "sub"), ("push", "pull")] {
        let mut reader = place.start(&[take, "x", "--json", "--count", "2"]);
        if take == "sub" {
            reader.stderr_until(|line| line.starts_with("ready "));
        }
        place.run(&[&[send, "x", "body", "--wait"], &flags[..]].concat()).expect(0);
        place.run(&[send, "x", "body"]).expect(0);
        let seen = objects(reader);
        assert_eq!(said(&seen[0]), [Some(ID), Some(TRACE), Some("rojo=1")]);
        assert_eq!(said(&seen[1]), [None; 3]);
    }
    let mut responder = place.start(&[
        "reply",
        "ask",
        "--count",
        "2",
        "--command",
        "echo $BUSWAY_ID $TRACEPARENT $TRACESTATE",
    ]);
    responder.stderr_until(|line| line.starts_with("ready "));
    let reply = place.run(&[&["req", "ask", "--json"], &flags[..]].concat()).expect(0).object();
    assert_eq!(reply["body"], format!("{ID} {TRACE} rojo=1\n"));
    assert_eq!(said(&reply), [None, Some(TRACE), Some("rojo=1")]);
    let mut command = place.command(&["req", "ask", "--json"]);
    command.env("TRACEPARENT", "of somebody else");
    let reply = Running::start(command).finish().expect(0).object();
    assert_eq!((&reply["body"], said(&reply)), (&"\n".into(), [None; 3]));
    responder.finish().expect(0);
}

#[test]
fn what_comes_again_with_its_id_is_printed_once_and_told_as_lost() {
    let place = Place::new();
    let once = place.subscribe(&["x", "--raw", "--drop-duplicates", "10", "--count", "4"]);
    for (body, id) in [("1", ID), ("again", ID), ("2", "new"), ("3", "new")] {
        place.run(&["pub", "x", body, "--wait", "--id", id]).expect(0);
    }
    // Each line has an id of its own.
    place.run_with(b"4\n5\n", &["pub", "x", "--lines", "--id", "new"]).expect(0);
    let ended = once.finish().expect(0);
    assert_eq!(ended.text(), "1\n2\n3\n4\n");
    assert!(
        ended.stderr.iter().any(|line| line.starts_with("lost 1 on x (duplicate): ")),
        "{:?}",
        ended.stderr
    );
    let puller = place.start(&["pull", "jobs", "--raw", "--drop-duplicates", "10", "--count", "2"]);
    for (body, id) in [("1", ID), ("again", ID), ("2", "new")] {
        place.run(&["push", "jobs", body, "--wait", "--id", id]).expect(0);
    }
    assert_eq!(puller.finish().expect(0).text(), "1\n2\n");
}

#[test]
fn what_is_no_id_and_no_trace_is_a_wrong_command_line() {
    let place = Place::new();
    for flags in [
        &["--id", "7"][..],
        &["--id", "81ARZ3NDEKTSV4RRFFQ69G5FAV"],
        &["--traceparent", "00-0-0-0"],
        &["--tracestate", "rojo=1"],
        &["--traceparent", TRACE, "--tracestate", "no"],
    ] {
        for send in ["pub", "push", "req"] {
            let ended = place.run(&[&[send, "x", "body"], flags].concat()).expect(2);
            assert!(!ended.stderr.is_empty());
        }
    }
    place.run(&["sub", "x", "--drop-duplicates", "0"]).expect(2);
}
