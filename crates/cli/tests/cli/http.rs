//! HTTP of `busway up`, as it is shipped: how it begins, is changed and ends. What each route does is tried in `busway-http`.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Place, Running};
use crate::node::up;

const LIMIT: Duration = Duration::from_secs(30);

/// The address after `http=` of a ready line.
pub(crate) fn http(line: &str) -> String {
    let at = line.trim_end().split(" http=").nth(1).expect("it serves HTTP");
    at.split(' ').next().expect("an address").to_owned()
}

pub(crate) fn send(address: &str, method: &str, path: &str, token: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
    let request =
        format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n{more}");
    stream.write_all(request.as_bytes()).expect("it is read");
    stream
}

fn status(address: &str, token: &str) -> String {
    let mut answer = String::new();
    send(address, "GET", "/v1/topics", token, "\r\n").read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).expect("a status").to_owned()
}

/// The next `count` bodies of a stream, and the id of the last.
fn bodies(stream: &mut BufReader<TcpStream>, count: usize) -> (Vec<String>, String) {
    let (mut bodies, mut id) = (Vec::new(), String::new());
    while bodies.len() < count {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).expect("a line") > 0, "the stream goes on");
        if let Some(text) = line.trim_end().strip_prefix("id: ") {
            text.clone_into(&mut id);
        }
        assert!(!line.starts_with("event: lost"), "{line}");
        if let Some((_, body)) = line.split_once("\"body\":\"") {
            bodies.push(body.split('"').next().expect("a body").to_owned());
        }
    }
    (bodies, id)
}

#[test]
fn a_node_serves_http_until_it_is_told_to_end_and_its_successor_goes_on() {
    let place = Place::new();
    let file = place.temporary().join("busway.toml");
    let text = |token: &str| format!("[http]\nlisten = [\"127.0.0.1:0\"]\n[tokens]\npage = \"{token}\"\n");
    let write = |text: &str| {
        fs::write(&file, text).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mode).expect("a mode");
    };
    write(&text("token-one-81c4"));
    let arguments = ["--config", file.to_str().expect("a path of text")];
    let (mut node, line) = up(&place, &arguments);
    let at = http(&line);
    assert_eq!(
        place.run(&["node", "info", "--json"]).expect(0).object()["http"][0].as_str(),
        Some(at.as_str())
    );
    // A program of its own, which lives on while nodes come and go.
    let mut publisher = place.command(&["pub", "news", "--lines"]);
    publisher.stdin(Stdio::piped());
    let mut publisher = Running::start(publisher);
    let mut lines = publisher.stdin().expect("a pipe");
    let open = |at: &str, token: &str, id: &str| {
        let more = if id.is_empty() { "\r\n".to_owned() } else { format!("last-event-id: {id}\r\n\r\n") };
        BufReader::new(send(at, "GET", "/v1/subscribe/news", token, &more))
    };
    let mut stream = open(&at, "token-one-81c4", "");
    let mut head = String::new();
    while !head.contains("event: ready") {
        assert!(stream.read_line(&mut head).expect("a line") > 0, "{head}");
    }
    lines.write_all(b"1\n2\n").expect("lines");
    let (seen, id) = bodies(&mut stream, 2);
    assert_eq!(seen, ["1", "2"]);
    // Another token takes hold at a hangup.
    assert_eq!((status(&at, "token-one-81c4"), status(&at, "token-two-0f3e")), ("200".into(), "401".into()));
    write(&text("token-two-0f3e"));
    node.signal(Signal::HUP);
    node.stderr_until(|line| line == "reloaded");
    assert_eq!((status(&at, "token-one-81c4"), status(&at, "token-two-0f3e")), ("401".into(), "200".into()));
    let _open = open(&at, "token-two-0f3e", &id);
    node.signal(Signal::TERM);
    let ended = node.finish().expect(0);
    assert!(!ended.stderr.iter().any(|line| line.contains("token-")), "no log has a token");
    lines.write_all(b"3\n").expect("a line");
    let (node, line) = up(&place, &arguments);
    lines.write_all(b"4\n").expect("a line");
    let (seen, _) = bodies(&mut open(&http(&line), "token-two-0f3e", &id), 2);
    assert_eq!(seen, ["3", "4"]);
    // An address that somebody has is named, and nothing is left.
    let other = Place::new();
    let refused = other.run(&["up", "--http", &http(&line)]).expect(3).report();
    assert_eq!((refused.0.as_str(), refused.2.contains(&http(&line))), ("BUS-0211", true), "{refused:?}");
    drop(lines);
    publisher.finish().expect(0);
    node.signal(Signal::TERM);
    node.finish().expect(0);
    println!("evidence: starts=2 messages=4 lost=0");
}
