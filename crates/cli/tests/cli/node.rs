//! `busway node`, SIGHUP and the service: what a running node says of itself, how it is changed and how it is ended.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Place, Running, keys, names};

/// Starts a node; returns when it is ready, with its line.
pub(crate) fn up(place: &Place, arguments: &[&str]) -> (Running, String) {
    let mut command = place.command(&[&["up"], arguments].concat());
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let node = Running::start(command);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("a line");
    (node, line)
}

#[test]
fn a_node_to_which_nobody_will_be_linked_says_so() {
    for (arguments, told) in [
        (&["--index", "2", "--peer", "1=127.0.0.1:1"][..], true),
        (&["--index", "2", "--peer", "1=127.0.0.1:1", "--peer", "3=127.0.0.1:1"], false),
        (&["--index", "2", "--peer", "1=127.0.0.1:1", "--listen", "127.0.0.1:0"], false),
        (&["--client", "2", "--peer", "1=127.0.0.1:1"], false),
        (&[], false),
    ] {
        let place = Place::new();
        let (node, line) = up(&place, arguments);
        assert!(line.starts_with("ready "), "{line}");
        node.signal(Signal::TERM);
        let ended = node.finish().expect(0);
        let note = "note: node 1 has the lower index and dials this node, which listens nowhere: \
                    give it --listen, and node 1 --peer 2=HOST:PORT";
        assert_eq!(ended.stderr.iter().any(|line| line == note), told, "{arguments:?}: {:?}", ended.stderr);
    }
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
        "http",
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
fn a_node_in_a_container_is_asked_by_who_has_no_process_number_there() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start processes in other namespaces");
        return;
    }
    let place = Place::new();
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let mut command = place.adopt(command, &[env!("CARGO_BIN_EXE_busway"), "up"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let node = Running::start(command);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("a line");
    assert_eq!(place.run(&["node", "info", "--json"]).expect(0).object()["pid"].as_u64(), Some(1), "{line}");
    // It holds the rendezvous as well.
    let subscriber = place.subscribe(&["x"]);
    subscriber.signal(Signal::INT);
    subscriber.finish().expect(0);
    place.run(&["node", "drain"]).expect(0);
    node.finish().expect(0);
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

/// Asks until it is so; only a defect takes as long as the deadline.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let (done, late) = std::sync::mpsc::channel::<()>();
    let timer = std::thread::spawn(move || late.recv_timeout(Duration::from_secs(60)).is_err());
    while !so() {
        assert!(!timer.is_finished(), "{what} did not come");
        std::thread::yield_now();
    }
    drop(done);
    let _ = timer.join();
}

/// The peers that a node is linked to.
pub(crate) fn linked(place: &Place) -> Vec<String> {
    let ended = place.run(&["peers", "--json"]);
    let peers = ended.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let connected = peers.filter(|peer| peer["state"] == "connected");
    connected.filter_map(|peer| peer["peer"].as_str().map(str::to_owned)).collect()
}

pub(crate) fn address(line: &str) -> String {
    line.split_whitespace().find_map(|word| word.strip_prefix("listen=")).expect("it listens").to_owned()
}

#[test]
fn a_hangup_changes_the_peers_and_a_wrong_file_changes_nothing() {
    let (first, second, near) = (Place::new(), Place::new(), Place::new());
    let (_first_node, first_line) = up(&first, &["--index", "1", "--listen", "127.0.0.1:0"]);
    let (_second_node, second_line) = up(&second, &["--index", "2", "--listen", "127.0.0.1:0"]);
    let file = near.temporary().join("busway.toml");
    let path = file.to_str().expect("a path of text");
    let write = |text: String| std::fs::write(&file, text).expect("a file");
    let (one, two) = (address(&first_line), address(&second_line));
    write(format!("[peers]\n1 = \"{one}\"\n"));
    let (mut node, _) = up(&near, &["--config", path]);
    until("the first", || linked(&near) == ["node 1"]);
    write(format!("[node]\ncluster = \"other\"\n[peers]\n1 = \"{one}\"\n2 = \"{two}\"\n"));
    node.signal(Signal::HUP);
    node.stderr_until(|line| line.starts_with("node.cluster has changed, and takes hold at the next start"));
    node.stderr_until(|line| line == "reloaded");
    until("both", || linked(&near) == ["node 1", "node 2"]);
    for wrong in
        ["[peers]\n1 = \"no port\"\n".to_owned(), "[peers]\n0 = \"us:1\"\n".to_owned(), "[".to_owned()]
    {
        write(wrong);
        node.signal(Signal::HUP);
        node.stderr_until(|line| line.starts_with("error[BUS-0812]"));
        node.stderr_until(|line| line == "not reloaded: everything is as it was");
        assert_eq!(linked(&near), ["node 1", "node 2"]);
    }
    write(format!("[peers]\n2 = \"{two}\"\n"));
    node.signal(Signal::HUP);
    node.stderr_until(|line| line == "reloaded");
    until("the second alone", || linked(&near) == ["node 2"]);
    near.run(&["node", "kick", "2"]).expect(0);
    let report = near.run(&["node", "kick", "node 9"]).expect(1).report();
    assert_eq!((report.0.as_str(), report.3.as_str()), ("BUS-0813", "busway peers"));
    until("back", || linked(&near) == ["node 2"]);
    near.run(&["node", "drain"]).expect(0);
    node.finish().expect(0);
}

#[test]
fn a_file_with_certificates_encrypts_links_and_a_wrong_one_is_told_with_its_place() {
    let (near, far) = (Place::new(), Place::new());
    let pki = far.temporary().join("pki");
    let pki = pki.to_str().expect("a path of text");
    far.run(&["cert", "new", "--dir", pki, "--node", "0", "--node", "1"]).expect(0);
    let certificates = |of: u8| {
        // The names that `cert new` gives are its own affair.
        let found = |suffix: &str| {
            let all = names(std::path::Path::new(pki));
            let wanted =
                all.into_iter().find(|name| name.contains(&of.to_string()) && name.ends_with(suffix));
            format!("{pki}/{}", wanted.expect("a file of the member"))
        };
        let (cert, key) = (found(".pem"), found(".key"));
        format!("[tls]\nca = \"{pki}/ca.pem\"\ncert = \"{cert}\"\nkey = \"{key}\"\n")
    };
    let started = |place: &Place, text: String| {
        let file = place.temporary().join("busway.toml");
        std::fs::write(&file, text).expect("a file");
        up(place, &["--config", file.to_str().expect("a path of text")])
    };
    // Any address of this host, which in clear would be refused.
    let (far_node, line) =
        started(&far, format!("[node]\nindex = 1\nlisten = [\"0.0.0.0:0\"]\n{}", certificates(1)));
    let port = address(&line).rsplit_once(':').expect("a port").1.to_owned();
    let (near_node, _) = started(&near, format!("[peers]\n1 = \"127.0.0.1:{port}\"\n{}", certificates(0)));
    until("linked", || linked(&near) == ["node 1"]);
    for node in [near_node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
    for (text, part) in [
        (format!("[peers]\n1 = \"a:1\"\n[tls]\nca = \"{pki}/ca.key\"\n"), ":4:1"),
        (format!("[peers]\n1 = \"a:1\"\n[tls]\nca = \"{pki}/ca.pem\"\ncert = \"x.pem\"\n"), "tls.key"),
        (format!("[tls]\nca = \"{pki}/ca.pem\"\n"), "no links"),
    ] {
        let file = near.temporary().join("busway.toml");
        std::fs::write(&file, text).expect("a file");
        let ended = near.run(&["config", "check", file.to_str().expect("a path of text")]).expect(2);
        assert!(ended.stderr.join("\n").contains(part), "{part}: {:?}", ended.stderr);
    }
}

#[test]
fn the_service_manager_is_told_when_the_node_is_ready_reads_anew_and_ends() {
    let place = Place::new();
    let path = place.temporary().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    let said = || {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).expect("it is told");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut command = place.command(&["up"]);
    command.env("NOTIFY_SOCKET", &path);
    let node = Running::start(command);
    assert_eq!(said(), "READY=1");
    node.signal(Signal::HUP);
    let reloading = said();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(said(), "READY=1");
    node.signal(Signal::TERM);
    assert_eq!(said(), "STOPPING=1");
    node.finish().expect(0);
}

#[test]
fn the_service_is_one_that_the_service_manager_takes() {
    let unit = include_str!("../../../../dist/busway.service");
    let place = Place::new();
    // It looks at the programs too, which are not installed here.
    let binary = env!("CARGO_BIN_EXE_busway");
    let text = unit.replace("/usr/local/bin/busway", binary);
    assert_eq!(text.matches(binary).count(), 2, "both programs are ours");
    let file = place.temporary().join("busway.service");
    std::fs::write(&file, &text).expect("a file");
    let Ok(ended) = std::process::Command::new("systemd-analyze").arg("verify").arg(&file).output() else {
        return println!("skipped: systemd-analyze is not installed");
    };
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !said.contains("busway.service"), "{said}");
    // What it runs is what the command takes.
    let words = |of: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(of)).expect("it stands there");
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(words("ExecStart="), ["up", "--config", "/etc/busway/busway.toml"]);
    assert_eq!(words("ExecStartPre="), ["config", "check", "/etc/busway/busway.toml"]);
    assert!(unit.contains("Type=notify\n") && unit.contains("ExecReload=/bin/kill -HUP $MAINPID\n"));
}

#[test]
fn the_container_is_one_static_program_that_starts_the_node() {
    let container = include_str!("../../../../dist/Containerfile");
    let of =
        |word: &str| container.lines().find_map(|line| line.strip_prefix(word)).expect("it stands there");
    assert_eq!((of("FROM "), of("ENTRYPOINT "), of("STOPSIGNAL ")), ("scratch", "[\"/busway\"]", "SIGTERM"));
    let place = Place::new();
    let file = place.temporary().join("busway.toml");
    std::fs::write(&file, "[node]\nlisten = [\"127.0.0.1:0\"]\n").expect("a file");
    let words: Vec<String> = serde_json::from_str(of("CMD ")).expect("a list of words");
    let file = file.to_str().expect("a path of text");
    let words: Vec<String> = words.iter().map(|word| word.replace("/etc/busway/busway.toml", file)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!((words[0], words.last()), ("up", Some(&file)));
    let (node, line) = up(&place, &words[1..]);
    assert!(line.starts_with("ready ") && line.contains("listen=127.0.0.1:"), "{line}");
    node.signal(Signal::TERM);
    node.finish().expect(0);
}

/// A flow of `busway flows --json`.
pub(crate) fn flow(place: &Place, direction: &str) -> Option<Value> {
    flow_of(place, direction, "data")
}

fn flow_of(place: &Place, direction: &str, name: &str) -> Option<Value> {
    let ended = place.run(&["flows", "--json"]);
    let flows = ended.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    flows.into_iter().find(|flow| flow["direction"] == direction && flow["flow"] == name)
}

#[test]
fn flows_of_artifacts_are_shown_with_what_was_configured_and_what_they_carried() {
    let (near, far) = (Place::new(), Place::new());
    let file = far.temporary().join("busway.toml");
    let text = "[node]\nindex = 1\nlisten = [\"127.0.0.1:0\"]\n[flows]\n\
                advert = { in_flight = 7, bytes = \"1MiB\", workers = 2, when_full = \"coalesce\" }\n";
    std::fs::write(&file, text).expect("a file");
    let (far_node, line) = up(&far, &["--config", file.to_str().expect("a path of text")]);
    let (near_node, _) = up(&near, &["--peer", &format!("1={}", address(&line))]);
    until("linked", || linked(&near) == ["node 1"]);
    let body = near.temporary().join("body");
    std::fs::write(&body, vec![7; 100_000]).expect("a file");
    near.run(&["put", "block.new", body.to_str().expect("a path of text"), "--keep"]).expect(0);
    let copy = far.temporary().join("copy");
    far.run(&["get", "block.new", "-o", copy.to_str().expect("a path of text"), "--timeout", "60s"])
        .expect(0);
    let of = |name: &str| {
        let ended = far.run(&["flows", "--json"]);
        let flows = ended.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        flows.into_iter().find(|flow| flow["peer"] == "all peers" && flow["flow"] == name)
    };
    let handled = |name: &str| of(name).and_then(|flow| flow["handled"].as_u64()).unwrap_or_default();
    until("what it carried", || handled("chunk") > 0 && handled("advert") > 0);
    let advert = of("advert").expect("a flow");
    assert_eq!((advert["limit_messages"].as_u64(), advert["limit_bytes"].as_u64()), (Some(7), Some(1 << 20)));
    assert_eq!((advert["direction"].as_str(), advert["rank"].as_u64()), (Some("in"), Some(1)));
    let chunk = of("chunk").expect("a flow");
    assert_eq!(chunk["limit_messages"].as_u64(), Some(100), "as it is where nobody says");
    until("each is told of once", || (handled("transport"), handled("retransmission")) == (1, 1));
    let shown = far.run(&["flows"]).expect(0).text();
    assert_eq!(column(&shown, "FLOW", "retransmission", "OF"), ["1000"], "{shown}");
    let metrics = far.run(&["stat", "--prometheus"]).expect(0).text();
    let counted =
        |line: &&str| line.starts_with("busway_flow_handled_total") && line.contains("flow=\"chunk\"");
    assert!(metrics.lines().filter(counted).any(|line| !line.ends_with(" 0")), "{metrics}");
    // Where nobody configured them there are none.
    assert!(!near.run(&["flows"]).expect(0).text().contains("all peers"));
    for node in [near_node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
}

/// What stands in the column `shown` of those lines of a table that have `value` in the column `key`. Values may have
/// spaces, so that columns are found by where their heads end or begin.
fn column(table: &str, key: &str, value: &str, shown: &str) -> Vec<String> {
    let head = table.lines().next().expect("a head");
    let at = |name: &str| head.find(name).expect("a column of this name");
    let (from, to) = (at(key), at(shown) + shown.len());
    let of = table.lines().skip(1).filter(|line| line[from..].starts_with(value));
    of.map(|line| line[..to].rsplit(' ').next().expect("a value").to_owned()).collect()
}

#[test]
fn flows_show_the_limit_what_is_in_use_and_what_waited_for_each_peer() {
    let (near, far) = (Place::new(), Place::new());
    let file = far.temporary().join("busway.toml");
    let text =
        "[node]\nindex = 1\nlisten = [\"127.0.0.1:0\"]\n[flows.data]\nin_flight = 1\nbytes = \"64KiB\"\n";
    std::fs::write(&file, text).expect("a file");
    let (far_node, line) = up(&far, &["--config", file.to_str().expect("a path of text")]);
    let (near_node, _) = up(&near, &["--peer", &format!("1={}", address(&line))]);
    until("linked", || linked(&near) == ["node 1"]);
    let mut subscriber = far.start(&["sub", "x", "--reliable", "--count", "201"]);
    subscriber.stderr_until(|line| line.starts_with("ready"));
    let sent = near.run(&["pub", "x", "--size", "100", "--count", "200", "--wait", "--max-wait", "60s"]);
    sent.expect(0);
    until("what has gone", || flow(&near, "out").is_some_and(|flow| flow["handled"] == 200));
    let out = flow(&near, "out").expect("a flow");
    assert_eq!((out["limit_messages"].as_u64(), out["limit_bytes"].as_u64()), (Some(1), Some(64 << 10)));
    assert_eq!((out["peer"].as_str(), out["in_use_messages"].as_u64()), (Some("node 1"), Some(0)));
    assert!(out["waited"].as_u64().is_some_and(|waited| waited > 0), "one at a time: {out}");
    assert_eq!(
        keys(&out),
        [
            "direction",
            "dropped",
            "flow",
            "handled",
            "handler_ns",
            "in_use_bytes",
            "in_use_messages",
            "limit_bytes",
            "limit_messages",
            "peer",
            "rank",
            "waited"
        ]
    );
    for (place, direction) in [(&near, "out"), (&near, "in"), (&far, "out"), (&far, "in")] {
        let transport = flow_of(place, direction, "transport").expect("a flow");
        assert_eq!(
            (transport["handled"].as_u64(), transport["rank"].as_u64()),
            (Some(1), Some(0)),
            "a hello"
        );
        let control = flow_of(place, direction, "control").expect("a flow");
        assert!(control["handled"].as_u64().is_some_and(|frames| frames > 1), "{control}");
        assert_eq!(control["limit_messages"].as_u64(), Some(0), "it is outside of all credit");
    }
    until("what has come", || flow(&far, "in").is_some_and(|flow| flow["handled"] == 200));
    let come = flow(&far, "in").expect("a flow");
    assert!(come["handler_ns"].as_u64().is_some_and(|ns| ns > 0), "it took some time: {come}");
    let text = near.run(&["flows"]).expect(0).text();
    assert!(text.starts_with("PEER") && text.contains("node 1"), "{text}");
    assert_eq!(column(&text, "FLOW", "data", "RANK"), ["2", "2"], "{text}");
    let text = near.run(&["peers"]).expect(0).text();
    assert_eq!(column(&text, "STATE", "connected", "DENIED"), ["0"], "{text}");
    subscriber.signal(Signal::INT);
    subscriber.finish().expect(0);
    for node in [near_node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
    near.run(&["flows"]).expect(1);
}
