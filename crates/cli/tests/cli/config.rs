//! `busway.toml`: `config check|show|explain` and what `up` takes from it.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Place, Running, keys, names};

const SOUND: &str = "domain = \"lab\"\n[node]\nindex = 3\nlisten = [\"127.0.0.1:0\"]\n";

/// A command that runs where `busway.toml` lies.
fn beside(place: &Place, text: &str, arguments: &[&str]) -> Command {
    fs::write(place.temporary().join("busway.toml"), text).expect("a file");
    let mut command = place.command(arguments);
    command.current_dir(place.temporary());
    command
}

fn run(place: &Place, text: &str, arguments: &[&str]) -> crate::harness::Ended {
    Running::start(beside(place, text, arguments)).finish()
}

#[test]
fn check_tells_everything_that_is_wrong_and_ends_with_two() {
    let place = Place::new();
    let wrong = "[node]\nindex = 64\nclutser = \"x\"\n";
    let ended = run(&place, wrong, &["config", "check"]).expect(2);
    assert_eq!(ended.stderr.len(), 6, "two reports of three lines: {:?}", ended.stderr);
    let all = ended.stderr.join("\n");
    for part in [
        "error[BUS-0812]: no key or section is called node.clutser",
        "at: busway.toml:3:1",
        "try: did you mean cluster?",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert!(all.contains("at: busway.toml:2:9"), "{all}");
    let ended = run(&place, wrong, &["config", "check", "--json"]).expect(2);
    let reports: Vec<Value> =
        ended.stderr.iter().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(reports.len(), 2);
    assert_eq!(keys(&reports[0]), ["at", "cause", "code", "try"]);
    let ended = run(&place, SOUND, &["config", "check"]).expect(0);
    assert_eq!(ended.text(), "busway.toml: sound\n");
    let ended = run(&place, SOUND, &["config", "check", "--json"]).expect(0);
    assert_eq!(keys(&ended.object()), ["file", "sound"]);
    let missing = place.run(&["config", "check", "/nonexistent.toml"]).expect(2).report();
    assert_eq!((missing.0.as_str(), missing.2.as_str()), ("BUS-0812", "/nonexistent.toml"));
    assert_eq!(names(&place.bus_directory()), Vec::<String>::new(), "the bus is not touched");
}

#[test]
fn show_prints_a_configuration_that_says_the_same_and_who_said_so() {
    let place = Place::new();
    let rules = "[[acl]]\nidentity = \"*\"\npublish = [\"a\", \"b.>\"]\n[[acl]]\nidentity = \"client/x\"\n";
    let sound = format!("{SOUND}{rules}");
    let mut command = beside(&place, &sound, &["config", "show"]);
    command.env("BUSWAY_CLUSTER", "a \"quoted\" one").env("BUSWAY_PEERS", "5=host-b:4420");
    let shown = Running::start(command).finish().expect(0).text();
    for part in [
        "domain = \"lab\"",
        "# busway.toml:1:1",
        "\n[node]\n",
        "\n[[acl]]\nidentity = \"client/x\"",
        "# BUSWAY_CLUSTER",
        "5 = \"host-b:4420\"",
        "# default",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let values = |text: &str, environment: Option<&str>| {
        let mut command = beside(&place, text, &["config", "show", "--json"]);
        command.env_remove("BUSWAY_DIR");
        if let Some(cluster) = environment {
            command.env("BUSWAY_CLUSTER", cluster).env("BUSWAY_PEERS", "5=host-b:4420");
        }
        let ended = Running::start(command).finish().expect(0);
        let objects =
            ended.lines().into_iter().map(|line| serde_json::from_str::<Value>(&line).expect("an object"));
        let pairs = objects.map(|object| (object["key"].clone(), object["value"].clone()));
        // Where the directory is, the environment of the first command has said.
        pairs.filter(|(key, _)| key != "directory").collect::<Vec<_>>()
    };
    assert_eq!(values(&shown, None), values(&sound, Some("a \"quoted\" one")), "read back it says the same");
    let by_flag = run(&place, SOUND, &["config", "show", "--domain", "other", "--json"]).expect(0).lines();
    let domain: Value = serde_json::from_str(&by_flag[0]).expect("an object");
    assert_eq!((domain["value"].as_str(), domain["from"].as_str()), (Some("\"other\""), Some("--domain")));
    assert_eq!(keys(&domain), ["from", "key", "value"]);
}

#[test]
fn explain_tells_of_each_key_and_suggests_the_one_that_was_meant() {
    let place = Place::new();
    let one = place.run(&["config", "explain", "node.listen"]).expect(0).text();
    for part in ["BUSWAY_LISTEN", "--listen", "a list of addresses"] {
        assert!(one.contains(part), "{part}: {one}");
    }
    let all = place.run(&["config", "explain"]).expect(0).text();
    assert!(all.contains("flows.data.bytes") && all.contains(one.trim()), "{all}");
    let report = place.run(&["config", "explain", "node.lisen"]).expect(2).report();
    assert_eq!(report.3, "did you mean node.listen?");
    // Every flag of a key is one of `up`.
    let help = place.run(&["up", "--help"]).expect(0).text();
    for line in all.lines().filter_map(|line| line.trim().strip_prefix("flag:")) {
        assert!(line.trim() == "-" || help.contains(line.trim()), "{line}");
    }
}

#[test]
fn up_takes_the_file_beside_it_and_flags_win() {
    let place = Place::new();
    let mut command = beside(&place, SOUND, &["up", "--listen", "127.0.0.1:0,127.0.0.1:0"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let node = Running::start(command);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("a line");
    assert!(line.contains(" domain=lab ") && line.ends_with(" config=busway.toml\n"), "{line}");
    assert_eq!(line.matches(" listen=127.0.0.1:").count(), 2, "{line}");
    node.signal(Signal::TERM);
    node.finish().expect(0);
    assert_eq!(names(&place.bus_directory()), ["lab.lock"]);
}

#[test]
fn up_with_a_wrong_configuration_starts_nothing() {
    let place = Place::new();
    for (text, arguments) in [
        ("[node]\nindex = 64\n", &["up"][..]),
        ("", &["up", "--index", "64"]),
        ("", &["up", "--peer", "1"]),
        ("", &["up", "--listen", "host:1"]),
        ("", &["up", "--listen", "0.0.0.0:0"]),
        ("", &["up", "--config", "/nonexistent.toml"]),
    ] {
        let report = run(&place, text, arguments).expect(2).report();
        assert_eq!(report.0, "BUS-0812", "{arguments:?}");
    }
    let mut command = beside(&place, "", &["up"]);
    command.env("BUSWAY_CONFIG", "/nonexistent.toml");
    assert_eq!(Running::start(command).finish().expect(2).report().2, "/nonexistent.toml");
    assert_eq!(names(&place.bus_directory()), Vec::<String>::new());
}

#[test]
fn a_file_that_somebody_else_left_in_the_directory_is_refused_unless_it_is_named() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can give a file away");
    }
    let place = Place::new();
    let file: PathBuf = place.temporary().join("busway.toml");
    fs::write(&file, SOUND).expect("a file");
    std::os::unix::fs::chown(&file, Some(65_534), None).expect("root gives it away");
    let start = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.current_dir(place.temporary());
        Running::start(command).finish()
    };
    let report = start(&["config", "check"]).expect(2).report();
    assert!(report.1.contains("belongs to uid 65534") && report.3.contains("--config"), "{report:?}");
    start(&["config", "check", "busway.toml"]).expect(0);
    // A link counts as both: itself, and where it leads.
    let elsewhere = place.temporary().join("elsewhere.toml");
    fs::rename(&file, &elsewhere).expect("it moves");
    std::os::unix::fs::symlink("elsewhere.toml", &file).expect("a link");
    let report = start(&["config", "check"]).expect(2).report();
    assert!(report.1.contains("belongs to uid 65534"), "our link to the file of somebody else: {report:?}");
    std::os::unix::fs::chown(&elsewhere, Some(0), None).expect("it is ours");
    start(&["config", "check"]).expect(0);
    std::os::unix::fs::lchown(&file, Some(65_534), None).expect("the link is not");
    let report = start(&["config", "check"]).expect(2).report();
    assert!(report.1.contains("belongs to uid 65534"), "the link of somebody else to our file: {report:?}");
}

#[test]
fn an_address_that_somebody_has_is_named_with_the_process_that_has_it() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    let (code, cause, at, remedy) = place.run(&["up", "--listen", &address]).expect(3).report();
    assert_eq!((code.as_str(), at), ("BUS-0211", address));
    let pid = format!("pid {} ", std::process::id());
    assert!(cause.contains("address already in use") && cause.contains(&pid), "{cause}");
    assert!(remedy.contains(pid.trim()), "{remedy}");
    assert_eq!(names(&place.bus_directory()), ["default.lock"], "it leaves as if it had not been");
}
