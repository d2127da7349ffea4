//! Command lines that are wrong, and names that are hostile: exit 2, three lines, nothing done.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::Value;

use crate::harness::{Place, Running, keys, names};

#[test]
fn the_command_alone_prints_five_examples_and_ends_with_nought() {
    let ended = Place::new().run::<&str>(&[]).expect(0);
    let lines = ended.lines();
    let examples = lines.iter().take_while(|line| !line.is_empty()).count();
    assert_eq!(examples, 5, "{lines:?}");
    assert!(lines[..5].iter().all(|line| line.starts_with("busway ")));
    assert!(ended.stderr.is_empty(), "{:?}", ended.stderr);
}

#[test]
fn short_help_is_shorter_than_long_help_which_has_examples() {
    let place = Place::new();
    for command in ["pub", "sub", "push", "pull", "req", "reply", "ls", "info", "tour", "doctor", "up"] {
        let short = place.run(&[command, "-h"]).expect(0).text();
        let long = place.run(&[command, "--help"]).expect(0).text();
        assert!(short.len() < long.len(), "{command}");
        assert!(long.contains("Examples:\n"), "{command}");
        assert!(!short.contains("Examples:\n"), "{command}");
    }
    assert!(place.run(&["-V"]).expect(0).text().starts_with("busway 0."));
    assert_eq!(names(&place.bus_directory()), Vec::<String>::new(), "help touches nothing");
}

#[test]
fn each_command_shows_examples_and_its_own_options_before_those_of_all() {
    let place = Place::new();
    let all = place.run(&["--help"]).expect(0).text();
    let (_, commands) = all.split_once("Commands:\n").expect("a list of commands");
    let (commands, _) = commands.split_once("\n\n").expect("its end");
    // What a command does may take a second line, which stands further in.
    let names = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    assert!(names.len() > 20 && names.contains(&"artifacts"), "{names:?}");
    for name in names {
        let help = place.run(&[name, "--help"]).expect(0).text();
        assert!(help.contains(&format!("Examples:\n  {}busway {name}", before(name))), "{help}");
        let (own, others) = help.split_once("Options of every command:\n").expect("both sorts of options");
        for option in ["--domain", "--timeout", "--json", "--quiet", "--log"] {
            let line = format!("{option} <");
            assert!(!own.contains(&line) && others.contains(option), "{name}: {help}");
        }
        assert!(!others.contains("--budget <"), "{name}: {help}");
    }
}

/// What an example has to do first.
fn before(name: &str) -> &'static str {
    if name == "completions" { "mkdir -p ~/.local/share/bash-completion/completions\n  " } else { "" }
}

#[test]
fn a_wrong_command_line_is_reported_in_three_lines() {
    let place = Place::new();
    for (arguments, part) in [
        (&["pub"][..], "<TOPIC>"),
        (&["sub"], "<PATTERN>"),
        (&["pub", "x"], "nothing to send"),
        (&["pub", "x", "body", "--lines"], "--lines"),
        (&["pub", "x", "body", "--size", "1"], "--size"),
        (&["pub", "x", "--size", "1KB"], "unknown unit 'KB'"),
        (&["pub", "x", "y", "--rate", "0"], "more than 0"),
        (&["pub", "x", "y", "--linger", "5"], "5s or 5ms"),
        (&["sub", "x", "--timeout", "1x"], "unknown unit 'x'"),
        (&["sub", "x", "--policy", "keep-all"], "keep-all"),
        (&["sub", "x", "--policy", "block", "--reliable"], "--reliable"),
        (&["sub", "x", "--raw", "--raw0"], "--raw0"),
        (&["sub", "x", "--count", "-1"], "-1"),
        (&["push", "x"], "nothing to send"),
        (&["push", "x.*", "y"], "wildcard"),
        (&["pull", "x", "--ack", "5"], "5s or 5ms"),
        (&["pull", "x", "--attempts", "3"], "--ack"),
        (&["pull", "x", "--ack", "5s", "--attempts", "63"], "1..=62"),
        (&["pull", "x", "--group", "a b"], "a space"),
        (&["req", "x.*", "y"], "wildcard"),
        (&["req", "x", "--replies", "0"], "0 is not in 1.."),
        (&["reply", "x"], "nothing to answer with"),
        (&["reply", "x", "y", "--echo"], "--echo"),
        (&["reply", "x", "--command", "cat", "--echo"], "--echo"),
        (&["up", "--budget", "0"], "0 bytes"),
        (&["pub", "x", "y", "--budget", "0KiB"], "0 bytes"),
        (&["sub", "x", "--budget", "1GB"], "unknown unit 'GB'"),
        (&["frobnicate"], "frobnicate"),
        (&["shm"], "missing"),
        (&["bench", "lat", "--size", "4"], "8 bytes"),
        (&["tour", "--subscribers", "0"], "0"),
        (&["ls", "--log", "busway=="], "busway=="),
    ] {
        let ended = place.run(arguments).expect(2);
        let (code, cause, at, remedy) = ended.report();
        assert!(code.starts_with("BUS-"), "{arguments:?}: {code}");
        assert!(cause.contains(part), "{arguments:?}: {cause}");
        assert!(!at.is_empty() && !remedy.is_empty(), "{arguments:?}");
        assert_eq!(ended.stderr.len(), 3, "{arguments:?}: {:?}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(names(&place.bus_directory()), Vec::<String>::new(), "a wrong command line touches nothing");
}

#[test]
fn with_json_an_error_is_one_object() {
    let place = Place::new();
    for arguments in
        [&["pub", "--json"][..], &["--json", "pub", "a..b", "x"], &["sub", "x", "--raw", "--json"]]
    {
        let ended = place.run(arguments).expect(2);
        assert_eq!(ended.stderr.len(), 1, "{:?}", ended.stderr);
        let report: Value = serde_json::from_str(&ended.stderr[0]).expect("JSON");
        assert_eq!(keys(&report), ["at", "cause", "code", "try"]);
    }
}

#[test]
fn hostile_topics_are_refused_by_name() {
    let place = Place::new();
    let long = "a".repeat(256);
    let huge = "a.".repeat(32 * 1024);
    for topic in [
        "", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\nb", "a\u{1b}b", "*", ">", "a.*", "a.>", "a.>.b",
        "^a", "$SYS", "$SYS.x", &long, &huge,
    ] {
        let ended = place.run(&["pub", topic, "x"]).expect(2);
        let (code, cause, at, remedy) = ended.report();
        assert!(!cause.contains(&remedy), "said once: {cause}");
        let begin: String = topic.chars().take(80).collect();
        assert!(at.starts_with("byte ") && at.contains(&format!("{begin:?}")) && at.len() < 120, "{at}");
        let expected = if topic.starts_with('$') { "BUS-0105" } else { "BUS-0101" };
        assert_eq!(code, expected, "{topic:?}");
        assert!(
            ended.stderr.iter().all(|line| !line.contains('\u{1b}')),
            "a name must not drive the terminal"
        );
    }
    let not_text = OsString::from_vec(vec![b'a', 0xff]);
    place.run(&["pub".into(), not_text, OsString::from("x")]).expect(2);
    place.run(&["pub", &"a".repeat(255), "x"]).expect(0);
}

#[test]
fn hostile_patterns_are_refused_and_long_ones_at_once() {
    let place = Place::new();
    let stars = vec!["*"; 10_000].join(".");
    for pattern in ["", "a..b", "a.>.b", ">.a", "a b", "$SYS\n", &stars] {
        for command in ["sub", "ls", "info"] {
            let (code, ..) = place.run(&[command, pattern]).expect(2).report();
            assert_eq!(code, "BUS-0102", "{command} {pattern:.40}");
        }
    }
}

#[test]
fn hostile_domains_never_reach_the_file_system() {
    let place = Place::new();
    let long = "a".repeat(65_536);
    for domain in ["", ".", "..", "../x", "a/b", "/etc/x", "a\nb", &long] {
        let ended = place.run(&["--domain", domain, "ls"]).expect(2);
        assert!(ended.report().0.starts_with("BUS-01"), "{domain:?}");
    }
    assert!(!place.bus_directory().parent().expect("a parent").join("x.lock").exists());
}

#[test]
fn a_realm_needs_a_group_that_there_is_and_a_directory_of_its_own() {
    let place = Place::new();
    let ended = place.run(&["ls", "--realm", "no-such-group"]).expect(3);
    assert_eq!(ended.report().0, "BUS-0210");
    let mut command = place.command(&["ls", "--realm", "0"]);
    command.env_remove("BUSWAY_DIR");
    assert_eq!(Running::start(command).finish().expect(2).report().0, "BUS-0801");
}
