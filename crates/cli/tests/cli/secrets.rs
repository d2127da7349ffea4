//! Secrets of a cluster and the payloads of its users: in nothing that is shown, logged, counted or visible from outside of a process.
//!
//! Two nodes with TLS: one with a certificate, one with a token. Whoever is asked for something is asked in every form, with every log line.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use busway::Principal;
use rustix::process::Signal;

use crate::harness::{Ended, Place, Running};
use crate::http::{http, send};
use crate::node::{address, linked, until, up};

const TOKEN: &str = "5ecret-token-of-dashboard";
const WRONG: &str = "5ecret-token-of-nobody";
const PAYLOAD: &str = "5ecret-payload-of-a-user";
/// What is in each of the above.
const MARK: &str = "5ecret-";

/// What nobody may find anywhere.
struct Hidden {
    words: Vec<String>,
    looked: usize,
}

impl Hidden {
    /// The lines of these keys.
    fn of(pki: &Path) -> Hidden {
        let mut words = vec![MARK.to_owned()];
        for entry in fs::read_dir(pki).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|ending| ending == "key") {
                let key = fs::read_to_string(path).expect("a key");
                words.extend(
                    key.lines()
                        .filter(|line| !line.starts_with("-----") && line.len() > 8)
                        .map(str::to_owned),
                );
                words.push("PRIVATE KEY".to_owned());
            }
        }
        assert!(words.len() > 3);
        Hidden { words, looked: 0 }
    }

    fn look(&mut self, what: &str, text: &str) {
        self.looked += 1;
        for word in &self.words {
            let at = text.find(word.as_str());
            assert_eq!(
                at,
                None,
                "{what}: {word} is shown: {}",
                text.lines().find(|line| line.contains(word.as_str())).unwrap_or("")
            );
        }
    }

    fn look_at(&mut self, what: &str, ended: &Ended) {
        self.look(what, &String::from_utf8_lossy(&ended.stdout));
        self.look(what, &ended.stderr.join("\n"));
    }

    /// What others see of a process.
    fn look_at_process(&mut self, pid: u32) {
        for file in ["cmdline", "environ", "comm"] {
            let seen = fs::read(format!("/proc/{pid}/{file}")).expect("it runs");
            self.look(file, &String::from_utf8_lossy(&seen));
        }
    }
}

fn write(place: &Place, name: &str, text: &str) -> String {
    let file = place.temporary().join(name);
    fs::write(&file, text).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a file of ours");
    file.to_str().expect("a path of text").to_owned()
}

/// A place with a file of a client that shows this token.
fn client(pki: &Path, token: &str, to: &str) -> (Place, String) {
    let place = Place::new();
    let id = Principal::client("dashboard").ok().and_then(|client| client.id()).expect("an id");
    let ca = pki.join("ca.pem").display().to_string();
    let text = format!(
        "[node]\nclient = {id}\ncluster = \"north sea\"\ntoken = \"{token}\"\n[tls]\nca = \"{ca}\"\n[peers]\n0 = \"{to}\"\n"
    );
    let path = write(&place, "busway.toml", &text);
    (place, path)
}

/// What users send goes by every command, and is printed by those alone whose work that is.
fn users_send(near: &Place, far: &Place, hidden: &mut Hidden) {
    let puller = far.start(&["pull", "jobs", "--json", "--log", "trace", "--count", "1"]);
    let mut responder = far.start(&["reply", "ask", "--echo", "--log", "trace", "--count", "1"]);
    responder.stderr_until(|line| line.starts_with("ready "));
    for place in [near, far] {
        let sent = place
            .run_with(PAYLOAD.as_bytes(), &["pub", "news", "-", "--json", "--log", "trace", "--wait"])
            .expect(0);
        hidden.look_at("pub", &sent);
    }
    let pushed = near
        .run_with(PAYLOAD.as_bytes(), &["push", "jobs", "-", "--json", "--log", "trace", "--linger", "30s"])
        .expect(0);
    hidden.look_at("push", &pushed);
    let asked = near
        .run_with(PAYLOAD.as_bytes(), &["req", "ask", "-", "--log", "trace", "--timeout", "30s"])
        .expect(0);
    hidden.look("req", &asked.stderr.join("\n"));
    hidden.look("reply", &responder.finish().expect(0).stderr.join("\n"));
    let pulled = puller.finish().expect(0);
    assert!(pulled.text().contains(PAYLOAD));
    hidden.look("pull", &pulled.stderr.join("\n"));
}

/// Each way in over HTTP, with a token that is known and one that is not, shown in each way; and what is put, got and taken back.
fn over_http(at: &str, hidden: &mut Hidden) {
    let body = format!("content-length: {}\r\n\r\n{PAYLOAD}", PAYLOAD.len());
    let shown = format!("sec-websocket-protocol: busway.v1, busway.bearer.{TOKEN}\r\n\r\n");
    let mut given = 0;
    for (method, path, more) in [
        ("PUT", "/v1/artifacts/model?attribute=5ecret-attribute", body.as_str()),
        ("PUT", "/v1/artifacts/model", &body),
        ("GET", "/v1/artifacts/model", "\r\n"),
        ("GET", "/v1/artifacts/model", "range: bytes=0-3\r\n\r\n"),
        ("GET", "/v1/artifacts/model", &shown),
        ("HEAD", "/v1/artifacts/model", "\r\n"),
        ("GET", "/v1/artifacts", "\r\n"),
        ("DELETE", "/v1/artifacts/model", "\r\n"),
        ("PUT", "/v1/artifacts/$sys", &body),
        ("POST", "/v1/publish/else", &body),
        ("POST", "/v1/push/else", &body),
        ("POST", "/v1/request/nobody", &body),
        ("GET", "/v1/topics", "\r\n"),
        ("GET", "/metrics", "\r\n"),
    ] {
        for token in [TOKEN, WRONG] {
            let mut answer = Vec::new();
            // A refusal may come before all was sent.
            let _ = send(at, method, path, token, more).read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
            hidden.look(path, head);
            // Who may get it is given it, and nobody else.
            let own = (method, token) == ("GET", TOKEN) && path.starts_with("/v1/artifacts");
            let rest = text.replace(PAYLOAD, "").replace("5ecret-attribute", "");
            given += u32::from(own && rest != text);
            hidden.look(path, if own { &rest } else { text });
        }
    }
    // Whole twice, and in the list its attribute.
    assert_eq!(given, 3);
}

/// Every command that shows something, with every log line.
fn all_are_asked(places: &[&Place], hidden: &mut Hidden) {
    let commands: [&[&str]; 13] = [
        &["stat"],
        &["stat", "--json"],
        &["stat", "--prometheus"],
        &["ls", "--json"],
        &["info", "news", "--json"],
        &["peers"],
        &["peers", "--json"],
        &["flows", "--json"],
        &["node", "info"],
        &["node", "info", "--json"],
        &["shm", "ls", "--json"],
        &["doctor", "--json"],
        &["doctor"],
    ];
    for place in places {
        for command in commands {
            let ended = place.run(&[command, &["--log", "trace"]].concat());
            hidden.look_at(&command.join(" "), &ended);
        }
    }
}

#[test]
fn no_secret_and_no_payload_is_shown_counted_logged_or_seen_from_outside() {
    let near = Place::new();
    let pki = near.temporary().join("pki");
    let made = near
        .run(&[
            "cert",
            "new",
            "--dir",
            pki.to_str().expect("a path"),
            "--cluster",
            "north sea",
            "--node",
            "0",
        ])
        .expect(0);
    let mut hidden = Hidden::of(&pki);
    hidden.look_at("cert new", &made);
    let pem = |name: &str| pki.join(name).display().to_string();
    let file = write(
        &near,
        "busway.toml",
        &format!(
            "[node]\nindex = 0\ncluster = \"north sea\"\nlisten = [\"127.0.0.1:0\"]\n[tls]\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n[http]\nlisten = [\"127.0.0.1:0\"]\n[tokens]\n\"dashboard\" = \"{TOKEN}\"\n",
            pem("ca.pem"),
            pem("node-0.pem"),
            pem("node-0.key"),
        ),
    );
    let (node, line) = up(&near, &["--config", &file, "--log", "trace"]);
    let (to, at) = (address(&line), http(&line));
    let (far, far_file) = client(&pki, TOKEN, &to);
    let (other, other_line) = up(&far, &["--config", &far_file, "--log", "trace"]);
    let (stranger, stranger_file) = client(&pki, WRONG, &to);
    let (refused, refused_line) = up(&stranger, &["--config", &stranger_file, "--log", "trace"]);
    hidden.look("up", &[line, other_line, refused_line].concat());
    until("the link", || !linked(&far).is_empty());
    until("the stranger's refusal", || {
        let peers = stranger.run(&["peers", "--json"]).expect(0).text();
        peers.contains("\"last_error\":\"")
    });

    let subscriber = far.subscribe(&["news", "--json", "--log", "trace"]);
    users_send(&near, &far, &mut hidden);
    over_http(&at, &mut hidden);
    all_are_asked(&[&near, &far, &stranger], &mut hidden);
    for (place, file) in [(&near, &file), (&far, &far_file)] {
        for command in [&["config", "show"][..], &["config", "show", "--json"], &["config", "check"]] {
            let ended = place.run(&[command, &[file.as_str(), "--log", "trace"]].concat()).expect(0);
            hidden.look_at(&command.join(" "), &ended);
        }
    }
    for pid in [node.pid(), other.pid(), refused.pid(), subscriber.pid()] {
        hidden.look_at_process(pid);
    }
    // A hangup reads it anew, and all say what they did.
    for running in [node, other, refused] {
        running.signal(Signal::HUP);
        running.signal(Signal::TERM);
        let ended = running.finish().expect(0);
        assert!(ended.stderr.iter().any(|line| line.contains("TRACE") || line.contains("DEBUG")), "it logs");
        hidden.look_at("up --log trace", &ended);
    }
    subscriber.signal(Signal::INT);
    let ended = subscriber.finish().expect(0);
    assert_eq!(ended.text().matches(PAYLOAD).count(), 2);
    hidden.look("sub", &ended.stderr.join("\n"));
    println!("evidence: texts={}", hidden.looked);
}

#[test]
fn a_configuration_that_is_wrong_is_told_without_its_secrets() {
    let place = Place::new();
    let pki = place.temporary().join("pki");
    place.run(&["cert", "new", "--dir", pki.to_str().expect("a path"), "--node", "0"]).expect(0);
    let mut hidden = Hidden::of(&pki);
    let key = fs::read_to_string(pki.join("node-0.key")).expect("a key");
    let inline = key.replace('\n', "\\n");
    let pem = |name: &str| pki.join(name).display().to_string();
    let long = TOKEN.repeat(100);
    let wrong = [
        format!("[node]\ntoken = \"{TOKEN}\n"),
        format!("[node]\ntoken = {TOKEN}\n"),
        format!("[node]\ntoken = [\"{TOKEN}\"]\n"),
        format!("[node]\ntoken = {{ is = \"{TOKEN}\" }}\n"),
        format!("[node]\ntoken = \"{long}\"\n"),
        format!("[node]\ntokne = \"{TOKEN}\"\n"),
        format!("[node]\ntoken = \"{TOKEN}\"\ntoken = \"{WRONG}\"\n"),
        format!("[tokens]\n\"dashboard\" = {TOKEN}\n"),
        format!("[tokens]\n\"a b\" = \"{TOKEN}\"\n"),
        format!("[tokens]\na = \"{TOKEN}\"\nb = \"{TOKEN}\"\n"),
        format!("tokens = \"{TOKEN}\"\n"),
        format!(
            "[node]\nlisten = [\"127.0.0.1:0\"]\n[tls]\nca = \"{}\"\ncert = \"{}\"\nkey = \"{inline}\"\n",
            pem("ca.pem"),
            pem("node-0.pem")
        ),
        format!("[node]\ntoken = \"\\q{TOKEN}\"\n"),
    ];
    for text in &wrong {
        let file = write(&place, "busway.toml", text);
        for command in [
            &["config", "check"][..],
            &["config", "check", "--json"],
            &["config", "show"],
            &["up", "--config"],
        ] {
            let ended =
                Running::start(place.command(&[command, &[file.as_str(), "--log", "trace"]].concat()))
                    .finish();
            assert_ne!(ended.code, Some(0), "{text} is taken by {command:?}");
            hidden.look_at(
                &format!(
                    "{} of {}",
                    command.join(" "),
                    text.replace(MARK, "...").chars().take(60).collect::<String>()
                ),
                &ended,
            );
        }
    }
    // And one that came by the environment, which nobody hands on.
    let mut command = place.command(&["up", "--log", "trace"]);
    command.env("BUSWAY_TOKEN", &long);
    let ended = Running::start(command).finish();
    assert_ne!(ended.code, Some(0));
    hidden.look_at("BUSWAY_TOKEN", &ended);
    println!("evidence: texts={}", hidden.looked);
}
