//! `busway node`: what a running node says of itself, and how it is ended.

use std::io::{BufRead, BufReader};

use rustix::process::Signal;

use crate::harness::{Place, Running, keys, names};

/// Starts a node; returns when it is ready, with its line.
fn up(place: &Place, arguments: &[&str]) -> (Running, String) {
    let mut command = place.command(&[&["up"], arguments].concat());
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let node = Running::start(command);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("a line");
    (node, line)
}

#[test]
fn a_node_says_what_it_is_to_who_asks() {
    let place = Place::new();
    let (node, line) =
        up(&place, &["--index", "3", "--listen", "127.0.0.1:0", "--cluster", "prices", "--name", "host-a"]);
    let info = place.run(&["node", "info", "--json"]).expect(0).object();
    for key in [
        "bytes_in",
        "bytes_out",
        "cluster",
        "config",
        "connected",
        "domain",
        "identity",
        "listening",
        "messages_in",
        "messages_out",
        "name",
        "peers",
        "pid",
        "socket",
        "uptime_ms",
        "version",
    ] {
        assert!(keys(&info).contains(&key), "{key}: {info}");
    }
    assert_eq!((info["pid"].as_u64(), info["identity"].as_str()), (Some(node.pid().into()), Some("node 3")));
    assert_eq!((info["cluster"].as_str(), info["name"].as_str()), (Some("prices"), Some("host-a")));
    let listening = info["listening"][0].as_str().expect("an address");
    assert!(line.contains(&format!("listen={listening}")), "{line}");
    let text = place.run(&["node", "info"]).expect(0).text();
    assert!(text.contains("node        node 3\n") && text.contains(listening), "{text}");
    node.signal(Signal::TERM);
    node.finish().expect(0);
    let report = place.run(&["node", "info"]).expect(1).report();
    assert_eq!((report.0.as_str(), report.1.as_str()), ("BUS-0805", "no node runs in this domain"));
}

#[test]
fn drain_returns_when_the_node_has_ended_with_nought() {
    for flags in [&[][..], &["--json"]] {
        let place = Place::new();
        let (node, _) = up(&place, &["--listen", "127.0.0.1:0"]);
        let ended = place.run(&[&["node", "drain"], flags].concat()).expect(0);
        assert!(ended.text().contains(&node.pid().to_string()), "{}", ended.text());
        node.finish().expect(0);
        assert_eq!(names(&place.bus_directory()), ["default.lock"]);
        place.run(&["node", "drain"]).expect(1);
    }
}

#[test]
fn a_node_that_is_stopped_is_told_apart_from_one_that_is_not_there() {
    let place = Place::new();
    // Somebody else holds the rendezvous, so that only the node is silent.
    let subscriber = place.subscribe(&["x"]);
    let (node, _) = up(&place, &[]);
    node.stop();
    let report = place.run(&["node", "info", "--timeout", "2s"]).expect(3).report();
    assert!(report.0.starts_with("BUS-02"), "{report:?}");
    node.signal(Signal::CONT);
    place.run(&["node", "info"]).expect(0);
    node.signal(Signal::KILL);
    node.finish();
    place.run(&["node", "info"]).expect(1);
    subscriber.signal(Signal::INT);
    subscriber.finish().expect(0);
}
