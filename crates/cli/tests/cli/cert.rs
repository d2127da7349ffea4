//! `busway cert new`: what it makes, what it leaves alone, and that a node takes it.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use busway::{Principal, Tls};

use crate::harness::{Place, Running, keys, names};

#[test]
fn cert_new_makes_a_ca_once_and_certificates_that_a_node_takes() {
    let place = Place::new();
    let pki = place.temporary().join("pki");
    let dir = pki.to_str().expect("a path");
    let ended =
        place.run(&["cert", "new", "--dir", dir, "--cluster", "north sea", "--node", "0", "--node", "1"]);
    let ended = ended.expect(0);
    assert!(ended.stderr.iter().any(|line| line.starts_with("next")), "{:?}", ended.stderr);
    let made = ["ca.key", "ca.pem", "node-0.key", "node-0.pem", "node-1.key", "node-1.pem"];
    assert_eq!(names(&pki), made);
    let ca = fs::read(pki.join("ca.pem")).expect("a CA");
    let more =
        ["cert", "new", "--dir", dir, "--cluster", "north sea", "--client", "7", "--json", "--days", "30"];
    let object = place.run(&more).expect(0).object();
    assert_eq!((keys(&object), &object["identity"]), (vec!["cert", "identity", "key"], &"client/7".into()));
    assert_eq!(fs::read(pki.join("ca.pem")).expect("a CA"), ca, "the CA is used again");
    for name in names(&pki).iter().filter(|name| name.ends_with(".key")) {
        let mode = fs::metadata(pki.join(name)).expect("a key").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    for member in ["node-0", "node-1", "client-7"] {
        let file = |ending: &str| pki.join(format!("{member}.{ending}"));
        Tls::from_files(pki.join("ca.pem"), file("pem"), file("key")).expect("a node takes it");
    }
}

#[test]
fn the_readme_makes_certificates_of_two_nodes() {
    let page = include_str!("../../../../README.md");
    let line = page.lines().find(|line| line.starts_with("busway cert new")).expect("the README shows it");
    let place = Place::new();
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let mut command = place.command(&words);
    command.current_dir(place.temporary());
    Running::start(command).finish().expect(0);
    let pki = place.temporary().join("pki");
    for index in [0, 1] {
        let file = |ending: &str| pki.join(format!("node-{index}.{ending}"));
        Tls::from_files(pki.join("ca.pem"), file("pem"), file("key")).expect("a node takes it");
    }
}

#[test]
fn cert_new_writes_nothing_over_and_no_member_of_another_cluster() {
    let place = Place::new();
    let pki = place.temporary().join("pki");
    let dir = pki.to_str().expect("a path");
    place.run(&["cert", "new", "--dir", dir, "--node", "0"]).expect(0);
    let before: Vec<Vec<u8>> =
        names(&pki).iter().map(|name| fs::read(pki.join(name)).expect("a file")).collect();
    let report = place.run(&["cert", "new", "--dir", dir, "--node", "1", "--node", "0"]).expect(2).report();
    assert!(report.2.ends_with("node-0.pem") && report.1.contains("not written over"), "{report:?}");
    let report =
        place.run(&["cert", "new", "--dir", dir, "--cluster", "other", "--node", "1"]).expect(2).report();
    assert!(report.1.contains("not the CA of cluster other"), "{report:?}");
    place.run(&["cert", "new", "--dir", dir, "--node", "64"]).expect(2);
    place.run(&["cert", "new", "--dir", dir, "--client", "../x"]).expect(2);
    assert_eq!(names(&pki), ["ca.key", "ca.pem", "node-0.key", "node-0.pem"]);
    let after: Vec<Vec<u8>> =
        names(&pki).iter().map(|name| fs::read(pki.join(name)).expect("a file")).collect();
    assert!(before == after, "nothing has changed");
    fs::remove_file(pki.join("ca.key")).expect("it goes");
    let report = place.run(&["cert", "new", "--dir", dir, "--node", "1"]).expect(2).report();
    assert!(report.1.contains("one is missing"), "{report:?}");
}

#[test]
fn a_directory_or_a_ca_that_others_can_change_or_read_is_refused() {
    let place = Place::new();
    let pki = place.temporary().join("pki");
    let dir = pki.to_str().expect("a path");
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    let refused = || place.run(&["cert", "new", "--dir", dir, "--node", "1"]).expect(2).report();
    fs::create_dir(&pki).expect("a directory");
    for others in [0o777, 0o1777, 0o730, 0o702] {
        mode(&pki, others);
        let (_, cause, at, remedy) = refused();
        assert!(cause.contains("others may write") && at == dir, "{others:o}: {cause}");
        assert!(remedy.contains("chmod go-w"), "{remedy}");
        assert_eq!(names(&pki), [""; 0], "{others:o}");
    }
    mode(&pki, 0o755);
    place.run(&["cert", "new", "--dir", dir, "--node", "0"]).expect(0);
    for (file, wrong, right) in [("ca.key", 0o640, 0o600), ("ca.key", 0o602, 0o600), ("ca.pem", 0o664, 0o644)]
    {
        mode(&pki.join(file), wrong);
        let (_, cause, at, _) = refused();
        assert!(cause.contains("others may") && at.ends_with(file), "{file} {wrong:o}: {cause}");
        mode(&pki.join(file), right);
    }
    // A link leads to what the directory does not hold.
    fs::rename(pki.join("ca.key"), place.temporary().join("ca.key")).expect("it moves");
    std::os::unix::fs::symlink(place.temporary().join("ca.key"), pki.join("ca.key")).expect("a link");
    place.run(&["cert", "new", "--dir", dir, "--node", "1"]).expect(1);
    fs::rename(place.temporary().join("ca.key"), pki.join("ca.key")).expect("it is back");
    if chown(pki.join("ca.key"), Some(65_534), None).is_err() {
        println!("skipped: only root can give a file to somebody else");
    } else {
        let (_, cause, at, _) = refused();
        assert!(cause.contains("belongs to uid 65534") && at.ends_with("ca.key"), "{cause}");
        chown(pki.join("ca.key"), Some(rustix::process::geteuid().as_raw()), None).expect("an owner");
        chown(&pki, Some(65_534), None).expect("an owner");
        let (_, cause, at, _) = refused();
        assert!(cause.contains("belongs to uid 65534") && at == dir, "{cause}");
        chown(&pki, Some(rustix::process::geteuid().as_raw()), None).expect("an owner");
    }
    assert_eq!(names(&pki), ["ca.key", "ca.pem", "node-0.key", "node-0.pem"]);
    place.run(&["cert", "new", "--dir", dir, "--node", "1"]).expect(0);
}

#[test]
fn what_is_told_next_is_a_configuration_that_a_node_takes() {
    for member in [["--node", "3"], ["--client", "7"], ["--client", "dash.board"]] {
        let place = Place::new();
        let run = |words: &[&str]| {
            let mut command = place.command(words);
            command.current_dir(place.temporary());
            Running::start(command).finish().expect(0)
        };
        let told = run(
            &[&["cert", "new", "--dir", "p k\u{ef}", "--cluster", "north \"sea\""], &member[..]].concat()
        );
        let lines = told.stderr.iter().filter_map(|line| line.strip_prefix("  "));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        assert!(text.contains("[tls]\n"), "{:?}", told.stderr);
        fs::write(place.temporary().join("busway.toml"), &text).expect("a file");
        run(&["config", "check"]);
        let shown = run(&["config", "show"]).text();
        // A client's id is that of its name.
        let id = Principal::client(member[1]).ok().and_then(|client| client.id()).expect("an id");
        assert!(shown.contains(&format!(" = {id}")), "{shown}");
    }
}
