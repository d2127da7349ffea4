//! The tour: its last line, its fields, its processes, and what it leaves behind.

use crate::harness::{Place, keys, names};

#[test]
fn the_tour_ends_with_a_closed_account() {
    let place = Place::new();
    let ended = place.run(&["tour", "--seconds", "1"]).expect(0);
    let lines = ended.lines();
    let last = lines.last().expect("a last line");
    let sent: u64 = last
        .strip_prefix("account closed: sent ")
        .and_then(|rest| rest.split(',').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("the last line is {last}"));
    assert_eq!(*last, format!("account closed: sent {sent}, delivered {}, dropped 0, in flight 0", 3 * sent));
    assert!(sent >= 20_000 && sent.is_multiple_of(20_000), "whole passes over the file: {sent}");
    assert_eq!(lines.iter().filter(|line| line.ends_with(" equal")).count(), 3, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("Type next")), "{lines:?}");
    let left: Vec<String> = names(&place.temporary());
    assert!(left.is_empty(), "the tour leaves {left:?}");
}

#[test]
fn the_tour_names_its_processes() {
    let place = Place::new();
    let outcome = place.run(&["tour", "--seconds", "1", "--subscribers", "2", "--json"]).expect(0).object();
    let processes = outcome["processes"].as_array().expect("processes");
    assert_eq!(processes.len(), 3);
    for process in processes {
        for field in ["role", "pid"] {
            assert!(keys(process).contains(&field), "{process}");
        }
    }
    let roles: Vec<&str> = processes.iter().filter_map(|process| process["role"].as_str()).collect();
    assert_eq!(roles, ["publisher", "subscriber", "subscriber"]);
    let mut pids: Vec<u64> = processes.iter().filter_map(|process| process["pid"].as_u64()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3, "each is a process of its own");
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
    }
    assert_eq!((&outcome["closed"], &outcome["hashes_equal"]), (&true.into(), &true.into()));
    let sent = outcome["sent"].as_u64().expect("a number");
    assert_eq!(outcome["delivered"], 2 * sent);
}

#[test]
fn a_killed_subscriber_is_accounted_for_and_the_others_get_all() {
    let place = Place::new();
    let outcome = place.run(&["tour", "--seconds", "2", "--kill", "--json"]).expect(0).object();
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    let (sent, delivered) = (number(&outcome["sent"]), number(&outcome["delivered"]));
    let dropped = outcome["dropped"].as_object().expect("an object");
    assert_eq!(dropped.keys().collect::<Vec<_>>(), ["subscriber_died"], "{dropped:?}");
    assert!(delivered >= 2 * sent && delivered < 3 * sent, "two get all of {sent}, one less: {delivered}");
    assert_eq!((&outcome["closed"], &outcome["in_flight"]), (&true.into(), &0.into()));
    assert_eq!(outcome["hashes"].as_array().map(Vec::len), Some(2));
    let pids: Vec<_> =
        outcome["processes"].as_array().expect("processes").iter().map(|one| &one["pid"]).collect();
    assert!(pids.contains(&&outcome["killed_pid"]));
}
