//! The tour: its last line, its fields, its processes, and what it leaves behind.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Place, Running, keys, names};

/// Waits until a process has so many children.
fn until_children(running: &Running, count: usize) -> Vec<String> {
    let pid = running.pid();
    loop {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it is there");
        let children: Vec<String> = children.split_whitespace().map(str::to_string).collect();
        if children.len() >= count {
            return children;
        }
        std::thread::yield_now();
    }
}

/// Waits until these have ended, whether or not whoever inherited them has asked how.
fn until_ended(pids: &[String]) {
    let ended = |pid: &String| fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty());
    while !pids.iter().all(ended) {
        std::thread::yield_now();
    }
}

#[test]
fn what_the_tour_says_to_type_next_is_what_a_shell_finds() {
    let place = Place::new();
    let file = std::path::Path::new(env!("CARGO_BIN_EXE_busway"));
    let directory = file.parent().expect("it lies in one");
    let empty = place.temporary().join("it's empty");
    fs::create_dir(&empty).expect("a directory");
    for (path, within, typed) in [
        (directory, &*empty, "busway".to_owned()),
        (&empty, &empty, file.display().to_string()),
        (&empty, directory, "./busway".to_owned()),
    ] {
        let mut command = place.command(&["tour", "--seconds", "1", "--subscribers", "1"]);
        command.env("PATH", path).current_dir(within);
        let text = Running::start(command).finish().expect(0).text();
        let (_, next) = text.split_once("Type next, in two terminals:\n  ").expect("it says so");
        let line = next.lines().next().expect("a line");
        assert_eq!(line, format!("{typed} sub 'price.>'"));
        let shell = place.adopt(std::process::Command::new("/bin/sh"), &["-c", &format!("{line} --help")]);
        let mut shell = shell;
        shell.env("PATH", path).current_dir(within);
        assert!(Running::start(shell).finish().expect(0).text().starts_with("Print messages"));
    }
}

#[test]
fn an_interrupt_of_the_parent_alone_ends_every_process_at_once() {
    let place = Place::new();
    // Were each waited for in turn, for two seconds, they would outlive the patience of this test.
    let bench = place.start(&[
        "bench",
        "fanout",
        "--subscribers",
        "32",
        "--wake",
        "--rate",
        "1",
        "--count",
        "100000",
    ]);
    let children = until_children(&bench, 32);
    bench.signal(Signal::INT);
    bench.finish().expect(130);
    for pid in children {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
    }
    assert!(names(&place.temporary()).is_empty(), "a bench that is interrupted leaves nothing behind");
}

#[test]
fn what_a_killed_bench_left_is_removed_by_the_next_and_what_is_in_use_is_not() {
    let place = Place::new();
    let idle = ["bench", "lat", "--wake", "--rate", "1", "--count", "100000"];
    let killed = place.start(&idle);
    let children = until_children(&killed, 2);
    let left = names(&place.temporary());
    killed.signal(Signal::KILL);
    drop(killed);
    // A child that was only just forked has the lock of its parent until it is another program.
    until_ended(&children);
    assert_eq!((left.len(), names(&place.temporary())), (1, left.clone()), "nobody could remove it");
    let busy = place.start(&idle);
    until_children(&busy, 2);
    let in_use = names(&place.temporary());
    assert!(in_use.len() == 1 && in_use != left, "{in_use:?} {left:?}");
    place.run(&["tour", "--seconds", "1", "--subscribers", "1"]).expect(0);
    assert_eq!(names(&place.temporary()), in_use, "the tour has swept nothing that is in use");
    busy.signal(Signal::INT);
    busy.finish().expect(130);
    assert!(names(&place.temporary()).is_empty());
}

#[test]
fn a_process_whose_parent_went_before_it_could_ask_ends_at_once() {
    let job = r#"{"name":"orphan","core":null,"role":{"BenchSource":{"size":64,"count":100000,"rate":1.0,"subscribers":1}}}"#;
    // No process has this number, so whoever started it is not its parent.
    let ended = Place::new().run(&["__role", job, "0"]);
    ended.expect(1);
}

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
    // On a machine that is busy with something else it may have died with nothing on its way, or after the last message.
    assert!(dropped.keys().all(|cause| cause == "subscriber_died"), "{dropped:?}");
    let died = dropped.get("subscriber_died").map_or(0, number);
    assert!(delivered >= 2 * sent && delivered + died <= 3 * sent, "two get all of {sent}: {delivered}");
    assert_eq!((&outcome["closed"], &outcome["in_flight"]), (&true.into(), &0.into()));
    assert_eq!(outcome["hashes"].as_array().map(Vec::len), Some(2));
    let pids: Vec<_> =
        outcome["processes"].as_array().expect("processes").iter().map(|one| &one["pid"]).collect();
    assert!(pids.contains(&&outcome["killed_pid"]));
}
