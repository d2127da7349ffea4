//! `busway cert new`: what it makes, what it leaves alone, and that a node takes it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use busway::Tls;

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
