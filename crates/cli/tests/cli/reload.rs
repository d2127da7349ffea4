//! SIGHUP, between real nodes: permissions, certificates and limits of a file that has changed.

use std::fs;
use std::io::Write;
use std::process::{ChildStdin, Stdio};

use rustix::process::Signal;

use crate::harness::{Place, Running};
use crate::node::{address, flow, linked, until, up};

/// A node with a file, which can be changed.
struct Configured {
    place: Place,
    node: Running,
    line: String,
}

impl Configured {
    fn new(text: &str) -> Configured {
        let place = Place::new();
        let file = place.temporary().join("busway.toml");
        fs::write(&file, text).expect("a file");
        let (node, line) = up(&place, &["--config", file.to_str().expect("a path of text")]);
        Configured { place, node, line }
    }

    /// Returns when the node has taken this for its configuration, with what it has said of it.
    fn reload(&mut self, text: &str) -> Vec<String> {
        fs::write(self.place.temporary().join("busway.toml"), text).expect("a file");
        self.node.signal(Signal::HUP);
        let mut said = Vec::new();
        loop {
            let line = self.node.stderr_until(|_| true);
            assert!(!line.starts_with("not reloaded"), "{said:?}");
            if line == "reloaded" {
                return said;
            }
            said.push(line);
        }
    }
}

/// A publisher that says what it is told, line by line.
fn speaking(place: &Place, words: &[&str]) -> (Running, ChildStdin) {
    let mut command = place.command(&[&["pub", "--lines"], words].concat());
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let lines = publisher.stdin().expect("stdin is a pipe");
    (publisher, lines)
}

#[test]
fn the_rules_of_a_file_hold_and_a_narrower_file_narrows_them_at_a_hangup() {
    let rules = |list: &str| {
        format!(
            "[node]\nindex = 1\nlisten = [\"127.0.0.1:0\"]\n\
             [[acl]]\nidentity = \"client/*\"\nsubscribe = {list}\ndeny_subscribe = [\"price.secret\"]\n"
        )
    };
    let mut node = Configured::new(&rules("[\"price.*\", \"news\"]"));
    let screen = Place::new();
    let peer = format!("1={}", address(&node.line));
    let _screen_node = up(&screen, &["--client", "9", "--peer", &peer]);
    until("linked", || linked(&screen) == ["node 1"]);
    let everything = screen.subscribe(&[">", "--reliable", "--count", "2"]);
    let first = screen.subscribe(&["price.tick", "--reliable", "--count", "1"]);
    // Those that may not be read are there first, and would be taken first.
    let mut publishers = [&["price.secret"][..], &["cost"], &["price.tick", "--wait"]]
        .map(|words| speaking(&node.place, words));
    let mut say = |which: usize, line: &[u8]| publishers[which].1.write_all(line).expect("a line");
    say(2, b"before\n");
    first.finish().expect(0);
    say(0, b"hidden\n");
    say(1, b"hidden\n");
    assert_eq!(node.reload(&rules("[\"news\"]")), Vec::<String>::new());
    say(2, b"after\n");
    for (publisher, lines) in publishers {
        drop(lines);
        publisher.finish().expect(0);
    }
    node.place.run(&["pub", "news", "end", "--wait"]).expect(0);
    assert_eq!(everything.finish().expect(0).text(), "price.tick\tbefore\nnews\tend\n");
    // A file without rules opens nothing that they have closed.
    let said = node.reload("[node]\nindex = 1\nlisten = [\"127.0.0.1:0\"]\n");
    assert_eq!(said, ["acl.RULE.identity is gone, and holds as it was until the next start"]);
    let everything = screen.subscribe(&[">", "--reliable", "--count", "2"]);
    let (publisher, mut lines) = speaking(&node.place, &["price.tick"]);
    node.place.run(&["pub", "news", "linked", "--wait"]).expect(0);
    lines.write_all(b"never\n").expect("a line");
    drop(lines);
    publisher.finish().expect(0);
    node.place.run(&["pub", "news", "end", "--wait"]).expect(0);
    assert_eq!(everything.finish().expect(0).text(), "news\tlinked\nnews\tend\n");
}

#[test]
fn a_certificate_that_is_renewed_by_a_hangup_is_used_by_the_next_link() {
    let pki = Place::new();
    // Two authorities, so that it shows which certificate a link was made with.
    let tls = |authority: &str, index: u8| {
        let directory = pki.temporary().join(authority);
        let directory = directory.to_str().expect("a path of text").to_owned();
        if !fs::exists(format!("{directory}/node-{index}.pem")).expect("it can be asked") {
            pki.run(&["cert", "new", "--dir", &directory, "--node", &index.to_string()]).expect(0);
        }
        format!(
            "[tls]\nca = \"{directory}/ca.pem\"\ncert = \"{directory}/node-{index}.pem\"\n\
             key = \"{directory}/node-{index}.key\"\n"
        )
    };
    let far_text =
        |authority| format!("[node]\nindex = 1\nlisten = [\"127.0.0.1:0\"]\n{}", tls(authority, 1));
    let mut far = Configured::new(&far_text("old"));
    let port = address(&far.line);
    let peers = format!("[peers]\n1 = \"{port}\"\n");
    let mut near = Configured::new(&format!("{peers}{}", tls("old", 0)));
    until("linked", || linked(&near.place) == ["node 1"]);
    near.reload(&format!("{peers}{}", tls("new", 0)));
    assert_eq!(linked(&near.place), ["node 1"], "a link that stands goes on");
    near.place.run(&["node", "kick", "1"]).expect(0);
    until("a refusal", || {
        let shown = near.place.run(&["peers", "--json"]).lines();
        shown.iter().any(|line| line.contains("certificate") && !line.contains("\"connected\""))
    });
    far.reload(&far_text("new"));
    until("linked with the new ones", || linked(&near.place) == ["node 1"]);
    // Without [tls] the certificates are kept, and that is told.
    let said = near.reload(&peers);
    assert_eq!(said, ["tls.ca is gone, and holds as it was until the next start"]);
    near.place.run(&["node", "kick", "1"]).expect(0);
    until("linked as before", || linked(&near.place) == ["node 1"]);
}

#[test]
fn limits_that_are_changed_by_a_hangup_hold_for_clients_and_for_the_next_link() {
    let limits = |clients: u32, messages: u32, bytes: &str| {
        format!(
            "[node]\nindex = 1\nlisten = [\"127.0.0.1:0\"]\n[limits]\nclients_max = {clients}\n\
             [flows.data]\nin_flight = {messages}\nbytes = \"{bytes}\"\n"
        )
    };
    let mut node = Configured::new(&limits(2, 7, "1MiB"));
    let peer = format!("1={}", address(&node.line));
    let clients = [Place::new(), Place::new()];
    let _nodes: Vec<_> = ["8", "9"]
        .iter()
        .zip(&clients)
        .map(|(id, place)| up(place, &["--client", id, "--peer", &peer]))
        .collect();
    until("both are linked", || linked(&node.place).len() == 2);
    let limit = |place: &Place| {
        let flow = flow(place, "out")?;
        Some((flow["limit_messages"].as_u64()?, flow["limit_bytes"].as_u64()?))
    };
    until("the limits of the start", || limit(&clients[0]) == Some((7, 1 << 20)));
    node.reload(&limits(1, 3, "2MiB"));
    until("one is let go", || linked(&node.place).len() == 1);
    node.reload(&limits(2, 3, "2MiB"));
    until("both are linked again", || linked(&node.place).len() == 2);
    for peer in linked(&node.place) {
        node.place.run(&["node", "kick", &peer]).expect(0);
    }
    for place in &clients {
        until("the limits of the file", || limit(place) == Some((3, 2 << 20)));
    }
    // Of one mebibyte for all each has an eighth of what is left, beside its floor.
    node.reload(&format!("{}[flows]\nbytes = \"1MiB\"\n", limits(2, 3, "2MiB")));
    for peer in linked(&node.place) {
        node.place.run(&["node", "kick", &peer]).expect(0);
    }
    for place in &clients {
        let share = |(_, bytes)| (300 << 10..400 << 10).contains(&bytes);
        until("the part of each", || limit(place).is_some_and(share));
    }
}

/// A node with rules for its clients, a client of it, and the node of that.
fn with_rules(rules: &str) -> (Configured, Place, Running) {
    let node = Configured::new(&text_of(rules));
    let client = Place::new();
    let peer = format!("1={}", address(&node.line));
    let client_node = up(&client, &["--client", "9", "--peer", &peer]);
    until("linked", || linked(&client) == ["node 1"]);
    (node, client, client_node.0)
}

fn text_of(rules: &str) -> String {
    format!("[node]\nindex = 1\nlisten = [\"127.0.0.1:0\"]\n[[acl]]\nidentity = \"client/*\"\n{rules}")
}

fn answers(place: &Place, words: &[&str]) -> Running {
    let mut service = place.start(&[&["reply"], words].concat());
    service.stderr_until(|line| line.starts_with("ready "));
    service
}

/// Asks until it is answered.
fn answered(place: &Place, topic: &str) -> String {
    let mut said = String::new();
    until("an answer", || {
        let ended = place.run(&["req", topic, "--timeout", "1s"]);
        said = ended.text();
        !said.is_empty()
    });
    said
}

#[test]
fn what_a_client_may_pull_and_answer_is_what_the_file_says_and_what_it_says_at_a_hangup() {
    let rules =
        |which: &str| format!("subscribe = [\">\"]\npull = [\"job.{which}\"]\nanswer = [\"ask.{which}\"]\n");
    let (mut node, worker, _worker_node) = with_rules(&rules("a"));
    let mut puller = worker.start(&["pull", "job.*", "--count", "2"]);
    puller.stderr_until(|line| line.starts_with("ready "));
    let _service = answers(&worker, &["ask.*", "theirs"]);
    // It is there first, and would be done first.
    let mut second = node.place.start(&["push", "job.b", "done", "--linger", "1m"]);
    second.stderr_until(|line| line.starts_with("note: nobody pulls job.b"));
    node.place.run(&["push", "job.a", "done", "--linger", "1m"]).expect(0);
    assert_eq!(answered(&node.place, "ask.a"), "theirs\n");
    assert_eq!(node.place.run(&["req", "ask.b"]).expect(1).report().0, "BUS-0406");
    assert_eq!(node.reload(&text_of(&rules("b"))), Vec::<String>::new());
    second.finish().expect(0);
    assert_eq!(puller.finish().expect(0).text(), "job.a\tdone\njob.b\tdone\n");
    assert_eq!(answered(&node.place, "ask.b"), "theirs\n");
    assert_eq!(node.place.run(&["req", "ask.a"]).expect(1).report().0, "BUS-0406");
}

#[test]
fn what_a_client_may_push_and_ask_is_what_the_file_says_and_what_it_says_at_a_hangup() {
    let rules =
        |which: &str| format!("publish = [\">\"]\npush = [\"job.{which}\"]\nrequest = [\"ask.{which}\"]\n");
    let (mut node, client, _client_node) = with_rules(&rules("a"));
    let mut puller = node.place.start(&["pull", "job.*", "--count", "2"]);
    puller.stderr_until(|line| line.starts_with("ready "));
    let service = answers(&node.place, &["ask.*", "--command", "printf %s $BUSWAY_TOPIC"]);
    let second = client.start(&["push", "job.b", "done", "--linger", "1m"]);
    client.run(&["push", "job.a", "done", "--linger", "1m"]).expect(0);
    assert_eq!(answered(&client, "ask.a"), "ask.a\n");
    client.run(&["req", "ask.b", "--timeout", "500ms"]).expect(1);
    assert_eq!(node.reload(&text_of(&rules("b"))), Vec::<String>::new());
    second.finish().expect(0);
    assert_eq!(puller.finish().expect(0).text(), "job.a\tdone\njob.b\tdone\n");
    assert_eq!(answered(&client, "ask.b"), "ask.b\n");
    client.run(&["req", "ask.a", "--timeout", "500ms"]).expect(1);
    service.signal(Signal::INT);
    let ended = service.finish().expect(0);
    assert!(ended.last_error_line().starts_with("answered 2 failed 0"), "{}", ended.last_error_line());
}
