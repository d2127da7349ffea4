//! `ls`, `info`, `stat`, `shm ls`: fields, and what does not match.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Place, Running, keys};

const PUBLISHER: [&str; 8] = ["bytes", "name", "no_subscriber", "pid", "port", "rate", "sent", "waiting"];
const SUBSCRIBER: [&str; 9] =
    ["behind_ms", "delivered", "dropped", "held", "in_flight", "lag", "name", "pid", "policy"];

/// A publisher of `flights` that stays, having sent one message to one subscriber.
fn pair(place: &Place) -> (Running, Running, std::process::ChildStdin) {
    let subscriber = place.subscribe(&["flights", "--reliable", "--raw"]);
    let mut command = place.command(&["pub", "flights", "--lines", "--wait"]);
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let mut stdin = publisher.stdin().expect("stdin is a pipe");
    stdin.write_all(b"one\n").expect("a line is written");
    // One publisher may be seen before its line has been sent and taken; ask until it has.
    loop {
        let ended = place.run(&["ls", "flights", "--json"]);
        let delivered = ended.lines().first().and_then(|line| serde_json::from_str::<Value>(line).ok());
        if delivered.is_some_and(|view| view["subscribers"][0]["delivered"] == 1) {
            return (publisher, subscriber, stdin);
        }
    }
}

#[test]
fn info_shows_a_group_what_it_did_and_its_pullers() {
    let place = Place::new();
    let mut command = place.command(&["push", "work", "--lines", "--wait=2"]);
    command.stdin(Stdio::piped());
    let mut pusher = Running::start(command);
    let mut stdin = pusher.stdin().expect("stdin is a pipe");
    let pullers = [0, 1].map(|_| {
        let mut puller = place.start(&["pull", "work", "--group", "g"]);
        puller.stderr_until(|line| line.starts_with("ready "));
        puller
    });
    stdin.write_all(b"one\ntwo\n").expect("lines are written");
    let view = loop {
        let view = place.run(&["info", "work", "--json"]).expect(0).object();
        let readers = view["subscribers"].as_array().expect("a list").clone();
        let done = |reader: &Value| reader["policy"] == "group" && reader["delivered"] == 2;
        if readers.len() == 3 && readers.iter().any(done) {
            break view;
        }
    };
    assert_eq!(view["closed"], true);
    let readers = view["subscribers"].as_array().expect("a list");
    let mut shown: Vec<(&str, u64)> = readers
        .iter()
        .map(|reader| {
            assert_eq!(reader["group"], readers[0]["group"], "one group");
            (reader["policy"].as_str().expect("a word"), reader["pid"].as_u64().expect("a number"))
        })
        .collect();
    shown.sort_unstable();
    let [mut one, mut two] = pullers.each_ref().map(|puller| u64::from(puller.pid()));
    (one, two) = (one.min(two), one.max(two));
    assert_eq!(shown, [("group", pusher.pid().into()), ("pull", one), ("pull", two)]);
    let text = place.run(&["info", "work"]).expect(0).text();
    assert_eq!(text.lines().filter(|line| line.starts_with("puller ")).count(), 2, "{text}");
    assert!(text.contains("delivered 2, dropped nothing, waiting or in hand 0"), "{text}");
    drop(stdin);
    pusher.finish().expect(0);
}

#[test]
fn ls_and_info_have_the_fields_of_the_contract() {
    let place = Place::new();
    let (publisher, subscriber, _stdin) = pair(&place);
    for command in ["ls", "info"] {
        let view = place.run(&[command, "flights", "--json"]).expect(0).object();
        assert_eq!(view["topic"], "flights");
        assert_eq!(view["closed"], true);
        let (one, other) = (&view["publishers"][0], &view["subscribers"][0]);
        assert_eq!(keys(one), PUBLISHER);
        for field in SUBSCRIBER.iter().chain(&["state"]) {
            assert!(other.get(field).is_some(), "{command}: {field} is missing in {other}");
        }
        assert_eq!(
            (&one["name"], &one["pid"], &one["sent"], &one["bytes"]),
            (&"busway-pub".into(), &publisher.pid().into(), &1.into(), &3.into())
        );
        assert_eq!((&other["name"], &other["pid"]), (&"busway-sub".into(), &subscriber.pid().into()));
        assert_eq!((&other["policy"], &other["state"]), (&"block".into(), &"live".into()));
        assert_eq!((&other["delivered"], &other["in_flight"]), (&1.into(), &0.into()));
    }
    let info = place.run(&["info", "flights", "--json"]).expect(0).object();
    let process = &info["processes"][0];
    for field in ["name", "pid", "state", "since_ns", "last_beat_ms", "missed_beats", "monitored"] {
        assert!(process.get(field).is_some(), "{field} is missing in {process}");
    }
}

#[test]
fn what_nobody_publishes_has_a_rate_of_nought() {
    let place = Place::new();
    let _subscriber = place.subscribe(&["price.>"]);
    let list = place.run(&["ls"]).expect(0).lines();
    let words: Vec<&str> = list[1].split_whitespace().collect();
    assert_eq!(words, ["price.>", "0", "1", "0", "0", "no", "publisher"]);
}

#[test]
fn ls_and_info_are_readable() {
    let place = Place::new();
    let (publisher, subscriber, _stdin) = pair(&place);
    let list = place.run(&["ls"]).expect(0).lines();
    assert!(list[0].starts_with("TOPIC"), "{list:?}");
    assert!(list[1].starts_with("flights ") && list[1].ends_with("ok"), "{list:?}");
    let info = place.run(&["info", "flights"]).expect(0).text();
    for part in [
        format!("pid {}", publisher.pid()),
        format!("pid {}", subscriber.pid()),
        "account closed".to_string(),
    ] {
        assert!(info.contains(&part), "{part} is missing in {info}");
    }
}

#[test]
fn a_subscription_without_a_publisher_is_shown_under_its_pattern() {
    let place = Place::new();
    let exact = place.subscribe(&["flights", "--reliable"]);
    let pattern = place.subscribe(&["price.*"]);
    let list = place.run(&["ls"]).expect(0).lines();
    let line =
        |name: &str| list.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{list:?}"));
    assert!(
        line("flights ").ends_with("no publisher") && line("price.* ").ends_with("no publisher"),
        "{list:?}"
    );
    for (name, pid, policy) in [("flights", exact.pid(), "block"), ("price.*", pattern.pid(), "drop-oldest")]
    {
        for command in ["ls", "info"] {
            let view = place.run(&[command, name, "--json"]).expect(0).object();
            assert_eq!((&view["topic"], &view["publishers"]), (&name.into(), &Value::Array(vec![])));
            let subscriber = &view["subscribers"][0];
            assert_eq!((&subscriber["pid"], &subscriber["policy"]), (&pid.into(), &policy.into()));
        }
    }
    assert!(place.run(&["info", "flights"]).expect(0).text().contains("publisher   none"));
    // With a publisher it is one of its subscribers, and nothing else.
    place.run(&["pub", "price.tick", "1"]).expect(0);
    let mut publisher = place.command(&["pub", "price.tick", "--lines"]);
    publisher.stdin(Stdio::piped());
    let mut publisher = Running::start(publisher);
    let _stdin = publisher.stdin();
    loop {
        let list = place.run(&["ls", "--json"]).expect(0).lines();
        let topics: Vec<Value> = list.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let names: Vec<&str> = topics.iter().filter_map(|view| view["topic"].as_str()).collect();
        if names == ["flights", "price.tick"] && topics[1]["subscribers"][0]["pid"] == pattern.pid() {
            return;
        }
    }
}

#[test]
fn segments_have_the_fields_of_the_contract() {
    let place = Place::new();
    let (publisher, _subscriber, _stdin) = pair(&place);
    let ended = place.run(&["shm", "ls", "--json"]).expect(0);
    let segments: Vec<Value> =
        ended.lines().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for segment in &segments {
        assert_eq!(keys(segment), ["bytes", "kind", "name", "owner_pid", "topic"]);
    }
    assert!(segments.iter().any(|segment| segment["owner_pid"] == publisher.pid()), "{segments:?}");
    assert!(place.run(&["shm", "ls"]).expect(0).lines()[0].contains("KIND"));
}

#[test]
fn what_is_not_there_ends_with_one() {
    let place = Place::new();
    assert_eq!(place.run(&["ls", "nothing.>"]).expect(1).report().0, "BUS-0805");
    assert_eq!(place.run(&["info", "nothing"]).expect(1).report().0, "BUS-0805");
    place.run(&["ls"]).expect(0);
}

#[test]
fn what_each_process_has_counted_is_a_table_or_json_or_what_prometheus_reads() {
    let place = Place::new();
    let subscriber = place.subscribe(&["x", "--reliable"]);
    let publisher =
        place.start(&["pub", "x", "12345", "--count", "2", "--rate", "1000", "--wait", "--late-join", "60s"]);
    publisher.finish().expect(0);
    let all: Vec<Value> = place
        .run(&["stat", "--json"])
        .expect(0)
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [process] = &all[..] else { panic!("it shows who is there, and not itself: {all:?}") };
    assert_eq!(keys(process), ["metrics", "name", "pid", "process"]);
    assert_eq!(
        (&process["name"], &process["metrics"]["messages_received"]),
        (&json!("busway-sub"), &json!(2))
    );
    assert_eq!(process["metrics"]["inbound_dropped"]["lapped"], 0);
    let text = place.run(&["stat", "--prometheus"]).expect(0).text();
    assert!(
        text.contains(
            "# TYPE busway_messages_received_total counter\nbusway_messages_received_total{process="
        ),
        "{text}"
    );
    let lines = place.run(&["stat", "--interval", "1ms", "--count", "3"]).expect(0).lines();
    let of = |line: &String| line.starts_with("busway-sub ");
    assert_eq!((lines.len(), lines.iter().filter(|line| of(line)).count()), (6, 3), "{lines:?}");
    assert!(lines[0].starts_with("NAME") && lines[5].contains(" 2 "), "{lines:?}");
    drop(subscriber);
}
