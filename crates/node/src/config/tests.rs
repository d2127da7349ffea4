//! Claims about files, layers, and the page.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use busway::{Acl, AclRule};

use busway::artifacts::{EVENT_FLOWS, Flow, WhenFull, Workers};

use super::{Applies, Choice, Instance, KEYS, Layers, Loaded, Origin, Problem, load, page};

/// A file of its own, removed at the end.
struct File(PathBuf);

impl File {
    fn new(bytes: &[u8]) -> File {
        let name = format!("busway-config-{}-{:016x}.toml", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).expect("a file");
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn layered(
    text: &[u8],
    environment: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Loaded, Vec<Problem>> {
    let file = File::new(text);
    let flags: Vec<(&'static str, String)> =
        flags.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    let variable = |wanted: &str| {
        environment.iter().find(|(name, _)| *name == wanted).map(|(_, text)| OsString::from(text))
    };
    load(&Layers { file: Choice::Named(file.0.clone()), environment: &variable, flags: &flags })
}

fn read(text: &str) -> Result<Loaded, Vec<Problem>> {
    layered(text.as_bytes(), &[], &[])
}

/// The only problem: cause, line and column, remedy.
#[track_caller]
fn problem(text: &str) -> (String, String, String) {
    let problems = read(text).expect_err("something is wrong with it");
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    let place = problem.place.rsplitn(3, ':').take(2).collect::<Vec<_>>();
    (problem.cause.clone(), format!("{}:{}", place[1], place[0]), problem.remedy.clone())
}

#[test]
fn the_later_layer_wins_key_by_key_and_each_value_knows_who_said_it() {
    let text =
        b"domain = \"lab\"\n[node]\nindex = 1\ncluster = \"from-file\"\n[peers]\n2 = \"b:1\"\n3 = \"c:1\"\n";
    let environment = [("BUSWAY_INDEX", "4"), ("BUSWAY_CLUSTER", ""), ("BUSWAY_PEERS", "3=d:1")];
    let loaded =
        layered(text, &environment, &[("node.index", "5"), ("peers.INDEX", "6=e:1,7=f:1")]).expect("sound");
    let said = |name: &str| {
        let setting = loaded.settings.iter().find(|setting| setting.name() == name).expect(name);
        let from = match &setting.origin {
            Origin::Default => "default".to_owned(),
            Origin::File { line, column, .. } => format!("{line}:{column}"),
            Origin::Environment(name) | Origin::Flag(name) => (*name).to_owned(),
        };
        (setting.value.as_ref().map(super::Value::show).unwrap_or_default(), from)
    };
    for (name, value, from) in [
        ("domain", "\"lab\"", "1:1"),
        ("node.index", "5", "--index"),
        ("node.cluster", "\"from-file\"", "4:1"),
        ("peers.2", "\"b:1\"", "6:1"),
        ("peers.3", "\"d:1\"", "BUSWAY_PEERS"),
        ("peers.6", "\"e:1\"", "--peer"),
        ("limits.clients_max", "1000", "default"),
        ("node.client", "", "default"),
    ] {
        assert_eq!(said(name), (value.to_owned(), from.to_owned()), "{name}");
    }
    let links = loaded.node.links.expect("it has peers");
    assert_eq!((links.index, links.cluster.as_str(), links.peers.len()), (5, "from-file", 4));
}

#[test]
fn every_key_reaches_what_the_node_is_started_with() {
    let loaded = read(
        "domain = \"lab\"\ndirectory = \"/run/x\"\nbudget = \"64MiB\"\n[node]\ncluster = \"prices\"\nindex = 7\nname = \"host-a\"\n\
         listen = [\"127.0.0.1:1\", \"[::1]:2\"]\n[peers]\n1 = \"[::1]:4420\"\n[limits]\nclients_max = 9\nkeep_alive_ms = 7000\nstrangers_max = 5\nstrangers_of_address_max = 4\n[flows]\nbytes = \"2MiB\"\n\
         [flows.floor]\nin_flight = 3\nbytes = \"32KiB\"\n[flows.data]\n\
         in_flight = 10\nbytes = \"1MiB\"\n[artifacts]\nstore = \"/var/x\"\nstore_bytes = \"3MiB\"\n[[acl]]\nidentity = \"*\"\nsubscribe = [\"a\"]\n",
    )
    .expect("sound");
    let node = loaded.node;
    assert_eq!((node.domain.as_str(), node.budget_bytes), ("lab", Some(64 << 20)));
    assert_eq!(node.directory, Some(PathBuf::from("/run/x")));
    let links = node.links.expect("it listens");
    assert_eq!((links.cluster.as_str(), links.index, links.client), ("prices", 7, None));
    assert_eq!((links.name.as_deref(), links.listen.len()), (Some("host-a"), 2));
    assert_eq!(links.peers.get(&1).map(String::as_str), Some("[::1]:4420"));
    assert_eq!(links.keep_alive, Duration::from_secs(7));
    assert_eq!((links.strangers_max, links.strangers_of_address_max), (5, 4));
    assert_eq!((links.flows_bytes, links.floor_in_flight, links.floor_bytes), (2 << 20, 3, 32 << 10));
    assert_eq!((links.clients_max, links.data_in_flight, links.data_bytes), (9, 10, 1 << 20));
    assert_eq!((links.artifact_store, links.artifact_store_bytes), (Some(PathBuf::from("/var/x")), 3 << 20));
    let rule = AclRule { identity: "*".into(), subscribe: vec!["a".into()], ..AclRule::default() };
    assert_eq!(links.acl, Some(Acl::new([rule]).expect("a rule")));
    let client = read("[node]\nclient = 18446744073709551615\n[peers]\n0 = \"a:1\"\n").expect("sound");
    assert_eq!(client.node.links.expect("it dials").client, Some(u64::MAX));
    let plain =
        read("[node]\nlisten = [\"0.0.0.0:1\"]\nallow_plain_beyond_loopback = true\n").expect("sound");
    assert!(plain.node.links.expect("it listens").allow_plain_beyond_loopback);
    let memory = read("[node]\nlisten = [\"[::1]:1\"]\n[artifacts]\nstore = \"memory\"\n").expect("sound");
    let links = memory.node.links.expect("it listens");
    assert_eq!((links.artifact_store, links.artifact_store_bytes), (None, 1 << 30));
    assert_eq!(read("").expect("nothing is sound too").node.links.map(|_| ()), None);
}

#[test]
fn an_unknown_key_or_section_is_named_with_its_place_and_what_was_meant() {
    for (text, place, name, meant) in [
        ("[node]\nclutser = \"x\"\n", "2:1", "node.clutser", "did you mean cluster?"),
        ("\n[nodes]\nindex = 1\n", "2:2", "nodes", "did you mean node?"),
        ("index = 1\n", "1:1", "index", "did you mean node.index?"),
        ("[node]\nindex.x = 1\n", "2:1", "node.index", "busway config explain node.index"),
        ("[flows.dota]\nbytes = 1\n", "1:8", "flows.dota", "did you mean data?"),
        ("[flows]\nquite_else = 1\n", "2:1", "flows.quite_else", "what there is: bytes, floor, data"),
        ("  \"q\\u001bzzzzzz\" = 1\n", "1:3", "\\u{1b}", "what there is: domain"),
    ] {
        let (cause, at, remedy) = problem(text);
        assert!(cause.contains(name), "{text:?}: {cause}");
        assert_eq!(at, place, "{text:?}");
        assert!(remedy.contains(meant), "{text:?}: {remedy}");
    }
}

#[test]
fn a_wrong_type_or_range_is_told_with_line_column_cause_and_remedy() {
    for (text, place, part, example) in [
        (
            "[node]\nindex = \"one\"\n",
            "2:9",
            "a string stands where a whole number, 0 to 63 belongs",
            "node.index",
        ),
        ("[node]\nindex = 64\n", "2:9", "64 is out of range: it is a whole number, 0 to 63", "1"),
        ("[node]\nindex = -1\n", "2:9", "-1 is no whole number", "1"),
        ("[node]\nindex = 1.5\n", "2:9", "a float", "1"),
        ("[node]\nclient = 99999999999999999999\n", "2:10", "fits 64 bits", "1"),
        ("node = 3\n", "1:1", "node is a section", "[node]"),
        ("domain = \"../x\"\n", "1:10", "byte 0", "\"default\""),
        ("domain = \"\"\n", "1:10", "empty", "\"default\""),
        ("budget = \"64MB\"\n", "1:10", "unknown unit 'MB'", "64MiB"),
        ("budget = 0\n", "1:10", "out of range", "64MiB"),
        (
            "[node]\nlisten = \"127.0.0.1:1\"\n",
            "2:10",
            "a string stands where a list",
            "[\"127.0.0.1:4420\"]",
        ),
        ("[node]\nlisten = [\"host:1\"]\n", "2:11", "'host:1' is no address", "127.0.0.1:4420"),
        ("[node]\nlisten = [1]\n", "2:11", "an integer stands in a list", "127.0.0.1:4420"),
        ("[node]\nlisten = [\"0.0.0.0:1\"]\n", "2:1", "can be reached from other hosts", "allow it in words"),
        (
            "[node]\nlisten = [\"127.0.0.1:1\"]\nclient = 1\n[peers]\n0 = \"a:1\"\n",
            "2:1",
            "dialed by nobody",
            "leave out",
        ),
        ("[peers]\n64 = \"a:1\"\n", "2:1", "0 to 63", "host-b:4420"),
        ("[peers]\n01 = \"a:1\"\n", "2:1", "0 to 63", "host-b:4420"),
        ("[peers]\n1 = \"a\"\n", "2:5", "the port is missing", "host-b:4420"),
        ("[peers]\n1 = \"a:0\"\n", "2:5", "1 to 65535", "host-b:4420"),
        ("[peers]\n1 = \"::1:80\"\n", "2:5", "brackets", "host-b:4420"),
        ("[peers]\n1 = \"a b:1\"\n", "2:5", "letters", "host-b:4420"),
        ("[peers]\n0 = \"a:1\"\n", "2:1", "node 0 is this node", "set node.index"),
        ("[node]\nindex = 1\nclient = 2\n[peers]\n0 = \"a:1\"\n", "3:1", "exclude each other", "leave one"),
        ("[flows.data]\nin_flight = 0\n", "2:13", "0 is out of range", "flows.data.in_flight"),
        ("[flows.data]\nbytes = 0\n", "2:9", "0 is out of range", "flows.data.bytes"),
        ("[limits]\nclients_max = 0\n", "2:15", "0 is out of range", "limits.clients_max"),
        ("realm = \"root\"\n", "1:1", "needs a directory", "BUSWAY_DIR"),
        ("directory = \"/tmp\"\nrealm = \"no-such-group-here\"\n", "2:1", "no group", "number"),
        ("# \u{e4}\u{f6}\n[node]\nname = \"\u{e4}\u{f6}\u{7}\"\n", "3:8", "TOML", "busway config explain"),
        ("[node]\nname = \"\u{e4}\u{f6}\\u0007\"\n", "2:8", "control character", "host-a"),
        ("[node\nindex = 1\n", "1:6", "this is no TOML", "toml.io"),
        ("[node]\nindex = 1\nindex = 2\n", "3:1", "duplicate key", "toml.io"),
    ] {
        let (cause, at, remedy) = problem(text);
        assert!(cause.contains(part), "{text:?}: {cause}");
        assert!(at == place || part == "TOML" || part.contains("no TOML"), "{text:?}: {at} is not {place}");
        assert!(remedy.contains(example), "{text:?}: {remedy}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_up_to_a_bound() {
    let problems = read("colour = 1\n[node]\nindex = 99\nlisten = [\"x\"]\n").expect_err("wrong");
    assert_eq!(problems.len(), 3, "{problems:?}");
    let many: String = (0..10_000).map(|number| format!("wrong{number} = 1\n")).collect();
    assert_eq!(read(&many).expect_err("wrong").len(), 20);
}

#[test]
fn variables_and_flags_are_read_as_strictly_as_the_file() {
    for (environment, flags, place, part) in [
        (("BUSWAY_INDEX", "64"), ("node.name", "x"), "BUSWAY_INDEX", "out of range"),
        (("BUSWAY_LISTEN", "127.0.0.1"), ("node.name", "x"), "BUSWAY_LISTEN", "IP:PORT"),
        (("BUSWAY_PEERS", "host:1"), ("node.name", "x"), "BUSWAY_PEERS", "NAME=VALUE"),
        (
            ("BUSWAY_ALLOW_PLAIN_BEYOND_LOOPBACK", "yes"),
            ("node.name", "x"),
            "BUSWAY_ALLOW",
            "neither true nor false",
        ),
        (("BUSWAY_NAME", "x"), ("peers.INDEX", "1=a:1,2"), "--peer", "NAME=VALUE"),
        (("BUSWAY_NAME", "x"), ("node.client", "x"), "--client", "whole number"),
    ] {
        let problems = layered(b"", &[environment], &[flags]).expect_err("wrong");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].place.starts_with(place), "{problems:?}");
        assert!(problems[0].cause.contains(part), "{problems:?}");
    }
    let variable = |name: &str| (name == "BUSWAY_NAME").then(|| OsString::from_vec(vec![0xff]));
    let problems =
        load(&Layers { file: Choice::None, environment: &variable, flags: &[] }).expect_err("wrong");
    assert!(problems[0].cause.contains("UTF-8"));
    // The later layer decides whether it is a node or a client.
    let peers = ("BUSWAY_PEERS", "9=a:1");
    let of = |environment: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        let links = layered(b"[node]\nindex = 3\n", environment, flags).expect("sound").node.links;
        links.expect("it dials").client
    };
    assert_eq!(of(&[peers, ("BUSWAY_CLIENT", "5")], &[]), Some(5));
    assert_eq!(of(&[peers, ("BUSWAY_CLIENT", "5")], &[("node.index", "2")]), None);
}

#[test]
fn files_that_are_huge_deep_binary_or_no_files_are_refused_at_once() {
    let deep = format!("a = {}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let tables = format!("a = {}1{}\n", "{b=".repeat(50_000), "}".repeat(50_000));
    let dotted = format!("{}x = 1\n", "a.".repeat(100_000));
    for text in [deep, tables, dotted, "\"".repeat(200_000), "[".repeat(200_000), "\0".repeat(1000)] {
        let problems = layered(text.as_bytes(), &[], &[]).expect_err("refused");
        assert!(problems.iter().all(|problem| problem.cause.len() < 500), "{problems:?}");
    }
    let comment = format!("#{}\n", "x".repeat(256 << 10));
    let problems = layered(comment.as_bytes(), &[], &[]).expect_err("refused");
    assert!(problems[0].cause.contains("more than 256 KiB"), "{problems:?}");
    let problems = layered(b"[node]\nname = \"\xff\"\n", &[], &[]).expect_err("refused");
    assert!(problems[0].place.ends_with(":2:9"), "{problems:?}");
    assert!(problems[0].cause.contains("UTF-8"), "{problems:?}");
    let load = |path: PathBuf| {
        let layers = Layers { file: Choice::Named(path), environment: &|_| None, flags: &[] };
        load(&layers).expect_err("refused").remove(0)
    };
    assert!(load(std::env::temp_dir()).cause.contains("not a regular file"));
    assert!(load("/nonexistent/busway.toml".into()).cause.contains("cannot be read"));
    let pipe = std::env::temp_dir().join(format!("busway-pipe-{:016x}", fastrand::u64(..)));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    let problem = load(pipe.clone());
    let _ = fs::remove_file(&pipe);
    assert!(problem.cause.contains("not a regular file"), "nobody writes to it, and nobody waits for that");
}

#[test]
fn any_bytes_are_a_configuration_or_refused_with_reasons() {
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    let words = [
        "[node]", "index", "=", "1", "\"", "[[", "]]", "\n", "peers", ".", "{", "}", "'", "\\u", ",", "-",
        "1e9",
    ];
    let mut sound = 0;
    for round in 0..2_000 {
        let mut text = Vec::new();
        for _ in 0..random.usize(..40) {
            match random.u8(..4) {
                0 => text.push(random.u8(..)),
                _ => text.extend_from_slice(words[random.usize(..words.len())].as_bytes()),
            }
        }
        match layered(&text, &[], &[]) {
            Ok(_) => sound += 1,
            Err(problems) => {
                assert!(
                    !problems.is_empty() && problems.len() <= 20,
                    "seed {seed}, round {round}: {problems:?}"
                );
                assert!(
                    problems.iter().all(|problem| !problem.place.is_empty() && !problem.remedy.is_empty())
                );
            }
        }
    }
    assert!(sound > 0, "some are sound");
}

#[test]
fn tokens_are_taken_and_shown_to_nobody() {
    use std::os::unix::fs::PermissionsExt;
    let text = "[node]\nlisten = [\"127.0.0.1:1\"]\ntoken = \"our-secret\"\n[tokens]\nlamp = \"lamp-secret\"\n\"node/3\" = \"c\"\n";
    let file = File::new(text.as_bytes());
    let read = || load(&Layers { file: Choice::Named(file.0.clone()), environment: &|_| None, flags: &[] });
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o644)).expect("a mode");
    let problems = read().expect_err("everybody can read it");
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].remedy.starts_with("chmod o= ") && !format!("{problems:?}").contains("-secret"));
    // What was read is judged by what it was then: a file that is exchanged meanwhile hides nothing.
    let exchange = |_: &str| {
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o640)).expect("a mode");
        None
    };
    let exchanged = load(&Layers { file: Choice::Named(file.0.clone()), environment: &exchange, flags: &[] });
    assert_eq!(exchanged.expect_err("everybody could read it").len(), 3);
    let loaded = read().expect("sound");
    let shown: String =
        loaded.settings.iter().filter_map(|setting| Some(setting.value.as_ref()?.show())).collect();
    assert!(shown.contains("(hidden)") && !shown.contains("-secret"), "{shown}");
    assert!(!format!("{loaded:?}").contains("-secret"));
    let links = loaded.node.links.expect("it listens");
    assert_eq!(links.token.as_ref().map(super::Secret::expose), Some("our-secret"));
    let tokens: Vec<(&str, &str)> =
        links.tokens.iter().map(|(name, token)| (name.as_str(), token.expose())).collect();
    assert_eq!(tokens, [("lamp", "lamp-secret"), ("node/3", "c")]);
    let twice = "[node]\nlisten = [\"127.0.0.1:1\"]\n[tokens]\na = \"x\"\nb = \"x\"\n";
    fs::write(&file.0, twice).expect("a file");
    let problems = read().expect_err("two of one token");
    assert!(problems[0].cause.contains("somebody else"), "{problems:?}");
}

#[test]
fn each_rule_reaches_the_node_whole_and_a_wrong_one_is_told_with_its_place() {
    let head = "[node]\nlisten = [\"127.0.0.1:1\"]\n";
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
    let rules = "[[acl]]\nidentity = \"client/*\"\nsubscribe = [\"price.>\"]\ndeny_subscribe = [\"price.x\", \"price.y\"]\n\
                 [[acl]]\nidentity = \"node/3\"\npublish = [\">\"]\ndeny_publish = [\"a.*\"]\n\
                 push = [\"b\"]\nrequest = []\npull = [\"c\"]\nanswer = [\"d\"]\n";
    let loaded = read(&format!("{head}{rules}")).expect("sound");
    let screens = AclRule {
        identity: "client/*".into(),
        subscribe: texts(&["price.>"]),
        deny_subscribe: texts(&["price.x", "price.y"]),
        ..AclRule::default()
    };
    let node = AclRule {
        identity: "node/3".into(),
        publish: texts(&[">"]),
        deny_publish: texts(&["a.*"]),
        push: Some(texts(&["b"])),
        request: Some(Vec::new()),
        pull: Some(texts(&["c"])),
        answer: Some(texts(&["d"])),
        ..AclRule::default()
    };
    assert_eq!(
        loaded.node.links.expect("it listens").acl,
        Some(Acl::new([screens, node]).expect("two rules"))
    );
    let names: Vec<String> = loaded.settings.iter().map(super::Setting::name).collect();
    let first = names.iter().position(|name| name.starts_with("acl.")).expect("rules are shown");
    let shown = "acl.1.identity acl.1.subscribe acl.1.deny_subscribe acl.2.identity acl.2.publish acl.2.deny_publish \
                 acl.2.push acl.2.request acl.2.pull acl.2.answer";
    assert_eq!(names[first..].join(" "), shown);
    for (text, place, part, meant) in [
        ("[[acl]]\nidentity = \"lamp\"\n", "4:12", "'lamp' is no identity", "client/*"),
        ("[[acl]]\nidentity = \"\"\n", "4:12", "empty", "client/*"),
        ("[[acl]]\nidentity = \"*\"\n[[acl]]\n", "5:1", "rule 2 of acl does not say", "identity = "),
        ("[[acl]]\npublish = [\">\"]\n", "3:1", "rule 1 of acl does not say", "identity = "),
        ("[acl]\nidentity = \"*\"\n", "3:2", "acl is a list", "[[acl]]"),
        (
            "[[acl]]\nidentity = \"*\"\npublish = \">\"\n",
            "5:11",
            "a string stands where a list",
            "[\"price.>\"]",
        ),
        (
            "[[acl]]\nidentity = \"*\"\npublish = [\"a\",\n  \"b.>.c\"]\n",
            "6:3",
            "'b.>.c' is no pattern",
            "[\"price.>\"]",
        ),
        ("[[acl]]\nidentity = \"*\"\nsubscribe = [1]\n", "5:14", "an integer stands", "[\"price.>\"]"),
        ("[[acl]]\nidentity = \"*\"\nsubscripe = [\"a\"]\n", "5:1", "acl.1.subscripe", "mean subscribe?"),
    ] {
        let (cause, at, remedy) = problem(&format!("{head}{text}"));
        assert!(cause.contains(part), "{text:?}: {cause}");
        assert_eq!(at, place, "{text:?}: {cause}");
        assert!(remedy.contains(meant), "{text:?}: {remedy}");
    }
    assert!(problem(&format!("acl = []\n{head}")).0.contains("has no rules"));
    assert!(problem(&format!("acl = [1]\n{head}")).0.contains("rule 1 of acl is no table"));
    assert!(problem("[[acl]]\nidentity = \"*\"\n").0.contains("no links"));
    let many = format!("{head}[[acl]]\nidentity = \"*\"\npublish = [{}]\n", "\"a\",".repeat(5_000));
    assert!(problem(&many).0.contains("more than 4096"));
    assert!(super::explain("acl.publish").expect("a key").starts_with("acl.RULE.publish\n"));
}

#[test]
fn certificates_and_rules_that_are_gone_are_named_as_what_holds_on() {
    let head = "[node]\nlisten = [\"127.0.0.1:1\"]\n";
    let with = read(&format!("{head}[[acl]]\nidentity = \"*\"\npublish = [\"a\"]\n")).expect("sound");
    let narrower = read(&format!("{head}[[acl]]\nidentity = \"*\"\n")).expect("sound");
    let without = read(head).expect("sound");
    let named = |old, new| super::start_only(old, new).iter().map(|key| key.name).collect::<Vec<&str>>();
    assert_eq!(named(&with, &without), ["acl.RULE.identity"]);
    for (old, new) in [(&with, &narrower), (&narrower, &with), (&without, &with), (&without, &without)] {
        assert_eq!(named(old, new), Vec::<&str>::new());
    }
}

#[test]
fn http_beyond_this_host_is_served_only_if_that_is_said_in_words() {
    use std::os::unix::fs::PermissionsExt;
    let read = |text: &str| {
        let file = File::new(text.as_bytes());
        // Tokens stand in it.
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o600)).expect("a mode");
        load(&Layers { file: Choice::Named(file.0.clone()), environment: &|_| None, flags: &[] })
    };
    let causes = |text: &str| -> Vec<String> {
        match read(text) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.cause).collect(),
        }
    };
    let beyond = "[http]\nlisten = [\"0.0.0.0:7443\"]\n";
    let plain = "allow_plain_beyond_loopback = true\n";
    let anybody = "allow_anybody_beyond_loopback = true\n";
    let token = "[tokens]\nlamp = \"a-token\"\n";
    let found = causes(beyond);
    assert!(
        found.len() == 2 && found[0].contains("not encrypted") && found[1].contains("token"),
        "{found:?}"
    );
    assert_eq!(causes(&format!("{beyond}{plain}")).len(), 1);
    assert_eq!(causes(&format!("{beyond}{anybody}")).len(), 1);
    assert_eq!(causes(&format!("{beyond}{token}")).len(), 1);
    for sound in [
        format!("{beyond}{plain}{anybody}"),
        format!("{beyond}{plain}{token}"),
        "[http]\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\n".to_owned(),
    ] {
        assert_eq!(causes(&sound), Vec::<String>::new(), "{sound}");
    }
    // Tokens and rules are for HTTP too, where there are no links.
    let loaded = read(&format!(
        "[http]\nlisten = [\"127.0.0.1:0\"]\nhosts = [\"Bus.Example\"]\norigins = [\"https://board.example:8443\"]\n\
         {token}[[acl]]\nidentity = \"client/lamp\"\npublish = [\"a\"]\n"
    ));
    let http = loaded.expect("sound").node.http.expect("it is served");
    assert!(!http.tokens.is_empty() && http.acl.is_some());
    assert_eq!((http.hosts, http.in_flight), (vec!["bus.example".to_owned()], 100));
    for wrong in [
        "origins = [\"board.example\"]",
        "origins = [\"https://board.example/path\"]",
        "origins = [\"null\"]",
        "hosts = [\"http://x\"]",
        "hosts = [\"x:80\"]",
        "streams_max = 0",
    ] {
        assert_eq!(causes(&format!("[http]\nlisten = [\"127.0.0.1:0\"]\n{wrong}\n")).len(), 1, "{wrong}");
    }
    assert!(causes("[http]\nhosts = [\"x\"]\n")[0].contains("no HTTP"), "a key without effect is told");
}

#[test]
fn the_page_of_the_documentation_is_the_table() {
    let written = include_str!("../../../../docs/config.md");
    assert!(written == page(), "busway config explain --page > docs/config.md");
}

#[test]
fn the_table_is_consistent() {
    let names: BTreeSet<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len(), "a name stands once");
    for key in KEYS {
        // Panics where the default is none of its kind.
        let _ = key.default_value();
        assert!(key.environment.is_none_or(|name| name.starts_with("BUSWAY_")), "{}", key.name);
        assert!(key.flag.is_none_or(|flag| flag.starts_with("--")), "{}", key.name);
        assert!(!key.sentence.ends_with('.'), "{}", key.name);
        assert!(super::explain(key.name).expect("it is explained").contains(key.sentence));
    }
    let reloaded = KEYS.iter().filter(|key| key.applies == Applies::Reload).count();
    assert!(reloaded > 0 && KEYS.iter().any(|key| key.instance == Instance::Node));
    assert_eq!(super::explain("listen"), Err(Some("node.listen")));
    assert_eq!(super::explain("quite something else"), Err(None));
}

/// How the flows of artifacts would be made, as it can be compared.
fn workers_of(flows: &str) -> Option<String> {
    let text = format!("[node]\nlisten = [\"127.0.0.1:1\"]\n{flows}");
    let links = read(&text).expect("sound").node.links.expect("it listens");
    links.artifact_workers.map(|workers| format!("{workers:?}"))
}

#[test]
fn each_flow_of_artifacts_is_configured_and_has_the_defaults_of_the_first_layer() {
    let defaults = || Workers::builder().floor(64, 256 << 10);
    assert_eq!(
        workers_of("[flows]\nbytes = \"2MiB\"\n"),
        None,
        "without a key of theirs there is nothing between"
    );
    // Those of the layer that this replaces, and bytes beside them.
    let layer = [
        (Flow::Transport, 1_000, 16),
        (Flow::Advert, 100_000, 64),
        (Flow::Request, 100, 1),
        (Flow::Chunk, 100, 256),
        (Flow::Retransmission, 1_000, 64),
    ];
    let written = layer.iter().fold(defaults(), |workers, (flow, events, mib)| {
        workers.limit(*flow, *events, mib << 20, flow.when_full()[0]).workers(*flow, 1)
    });
    assert_eq!(workers_of("[flows.advert]\nworkers = 1\n"), Some(format!("{written:?}")));
    for (flow, ..) in layer {
        for when_full in flow.when_full() {
            let refused =
                read(&format!("[flows]\n{flow} = {{ when_full = \"{}\" }}\n", when_full.name())).is_err();
            if refused {
                assert_eq!(*when_full, WhenFull::Drop, "{flow}");
                continue;
            }
            let text = format!(
                "[flows]\n{flow} = {{ in_flight = 7, bytes = \"1MiB\", workers = 3, when_full = \"{}\" }}\n",
                when_full.name()
            );
            let wanted = defaults().limit(flow, 7, 1 << 20, *when_full).workers(flow, 3);
            assert_eq!(workers_of(&text), Some(format!("{wanted:?}")), "{text}");
        }
    }
    let floor = workers_of("[flows.floor]\nin_flight = 3\n[flows.chunk]\nworkers = 2\n");
    let wanted = Workers::builder().floor(3, 256 << 10).workers(Flow::Chunk, 2);
    assert_eq!(floor, Some(format!("{wanted:?}")));
}

#[test]
fn what_a_flow_cannot_be_is_refused_with_its_place_and_what_it_can() {
    let mut refused = 0;
    for flow in EVENT_FLOWS {
        let allowed: &[&str] = match flow {
            Flow::Request => &["wait", "drop"],
            Flow::Transport | Flow::Chunk => &["wait"],
            _ => &["coalesce"],
        };
        for word in ["wait", "coalesce", "drop", "fail", "policy", "Wait", ""] {
            let text = format!("[flows]\n{flow} = {{ when_full = \"{word}\" }}\n");
            let outcome = read(&text);
            assert_eq!(outcome.is_ok(), allowed.contains(&word), "{text}");
            if outcome.is_err() {
                let (cause, place, remedy) = problem(&text);
                assert_eq!(place, format!("2:{}", flow.name().len() + 18), "{text}");
                assert!(cause.contains("cannot be") || word.is_empty(), "{cause}");
                let can = format!("write \"{}\"; busway config explain flows.{flow}.when_full", allowed[0]);
                assert_eq!(remedy, can);
                refused += 1;
            }
        }
        for wrong in [
            "in_flight = 0",
            "bytes = 0",
            "bytes = \"2048GiB\"",
            "workers = 0",
            "workers = 17",
            "in_flight = -1",
        ] {
            let (cause, place, _) = problem(&format!("[flows.{flow}]\n{wrong}\n"));
            assert!(place.starts_with("2:"), "{flow} {wrong}: {place}");
            assert!(
                cause.contains("out of range") || cause.contains("whole number"),
                "{flow} {wrong}: {cause}"
            );
            refused += 1;
        }
    }
    let client = "[node]\nclient = 7\n[peers]\n1 = \"a:1\"\n[flows.advert]\nworkers = 2\n";
    let (cause, place, remedy) = problem(client);
    assert!(
        cause.contains("flows.advert.workers") && place == "6:1" && remedy.contains("node.index"),
        "{cause} {place}"
    );
    println!("evidence: {refused} values refused, each with its place");
}
