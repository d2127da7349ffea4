//! Few descriptors, few addresses, small files: it works, or ends with 3 and a remedy.

use std::process::Stdio;

use crate::harness::{Place, Running, names};

#[test]
fn with_256_descriptors_the_bus_works() {
    let place = Place::new();
    let mut subscriber =
        Running::start(place.limited("ulimit -n 256", &["sub", "x", "--reliable", "--count", "3"]));
    subscriber.stderr_until(|line| line == "ready x");
    Running::start(place.limited("ulimit -n 256", &["pub", "x", "y", "--count", "3", "--wait"]))
        .finish()
        .expect(0);
    assert_eq!(subscriber.finish().expect(0).text(), "x\ty\n".repeat(3));
}

#[test]
fn a_limit_that_is_too_small_is_refused_with_a_remedy() {
    let place = Place::new();
    for limits in ["ulimit -n 6", "ulimit -v 131072", "ulimit -f 1"] {
        let ended = Running::start(place.limited(limits, &["pub", "x", "--size", "1MiB"])).finish();
        if ended.code == Some(0) {
            continue;
        }
        let ended = ended.expect(3);
        let (code, _, _, remedy) = ended.report();
        assert!(code.starts_with("BUS-0") && !remedy.is_empty(), "{limits}: {:?}", ended.stderr);
    }
}

#[test]
fn the_first_program_of_a_domain_sets_its_budget_and_the_next_are_told_of_it() {
    for first in [&["sub", "x", "--reliable"][..], &["up"], &["pub", "x", "--lines"]] {
        for by in ["flag", "variable"] {
            let place = Place::new();
            let mut arguments = first.to_vec();
            if by == "flag" {
                arguments.extend(["--budget", "24MiB"]);
            }
            let mut command = place.command(&arguments);
            command.stdin(Stdio::piped()).stdout(Stdio::null());
            if by == "variable" {
                command.env("BUSWAY_BUDGET", "24MiB");
            }
            let mut running = Running::start(command);
            let _stdin = running.stdin();
            while !names(&place.bus_directory()).contains(&"default.sock".to_string()) {
                std::thread::yield_now();
            }
            let segments = place.run(&["shm", "ls"]).expect(0);
            assert!(
                segments.stderr.iter().any(|line| line.ends_with("of 24 MiB reserved")),
                "{:?}",
                segments.stderr
            );
            let note = "domain default was there before and keeps its budget of 24 MiB";
            let second = place.run(&["pub", "y", "z", "--budget", "1GiB"]).expect(0);
            assert!(second.stderr.iter().any(|line| line == note), "{:?}", second.stderr);
            let refused = place.run(&["pub", "y", "--size", "32MiB"]).expect(3);
            assert_eq!(refused.report().0, "BUS-0301");
        }
    }
}

#[test]
fn doctor_finds_few_descriptors_and_says_what_to_do() {
    let place = Place::new();
    let ended = Running::start(place.limited("ulimit -n 256", &["doctor", "--json"])).finish().expect(1);
    let findings = ended.object();
    let found = findings["checks"]
        .as_array()
        .and_then(|checks| checks.iter().find(|check| check["name"] == "descriptors"))
        .cloned()
        .expect("descriptors are looked at");
    assert_eq!(found["status"], "finding");
    assert!(found["remedy"].as_str().is_some_and(|remedy| remedy.contains("ulimit -n")), "{found}");
    assert!(findings["findings"].as_u64() >= Some(1));
    for check in findings["checks"].as_array().expect("checks") {
        let remedy = check.get("remedy").is_some();
        assert_eq!(
            check["status"] == "finding",
            remedy,
            "a finding, and only a finding, has a remedy: {check}"
        );
    }
    let text = Running::start(place.limited("ulimit -n 256", &["doctor"])).finish().expect(1).text();
    assert!(text.contains("try: "), "{text}");
}
