//! Small runs of the testbed, and what is left of one that is killed. No figure is asserted that processors decide. One test at a time: each has the processors for its nodes.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what it has shown, and ends where it cannot go on"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

const PATIENCE_SECONDS: i64 = 60;
/// A run that has not ended before somebody has seen that it began: minutes on its line.
const LONG: [&str; 6] = ["--nodes", "3", "--mbit", "10", "--size", "64MiB"];

/// `None`, with the reason said, where there can be no namespaces.
fn swarm(words: &[&str]) -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can make network namespaces");
        return None;
    }
    for program in ["ip", "tc"] {
        if !Command::new(program).arg("-V").output().is_ok_and(|ended| ended.status.success()) {
            println!("skipped: there is no `{program}`: install iproute2");
            return None;
        }
    }
    let mut command = Command::new("env");
    // Who starts the tests in the background of a shell has told them to ignore an interrupt.
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_busway-swarm")]);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

/// Namespaces and directories that have the name of the run of this process.
fn left(run: u32) -> Vec<String> {
    let first = format!("bw-swarm-{run}-");
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let files = std::fs::read_dir(std::env::temp_dir()).unwrap();
    let files = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let names = listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    names.chain(files).filter(|name| name.starts_with(&first)).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let now = || clock_gettime(ClockId::Monotonic).tv_sec;
    let until = now() + PATIENCE_SECONDS;
    while !done() {
        assert!(now() < until, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Those processes that this one has started.
fn children(of: u32) -> Vec<Pid> {
    let tasks = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    tasks.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn started(words: &[&str]) -> Option<Child> {
    let run = swarm(words)?.spawn().unwrap();
    // A node is there when its files are.
    until("the first node is started", || {
        let name = left(run.id()).into_iter().find(|name| name.matches('-').count() == 3);
        name.is_some_and(|name| std::env::temp_dir().join(name).join("0").exists())
    });
    Some(run)
}

#[test]
fn a_small_swarm_gives_all_to_all_and_what_it_was_told_is_accounted_for() {
    let words = ["--nodes", "4", "--mbit", "50", "--size", "1MiB", "--brief", "--json"];
    let Some(mut command) = swarm(&words) else { return };
    let child = command.spawn().unwrap();
    let run = child.id();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let rows = told["rows"].as_array().unwrap();
    let measured = |name: &str| {
        let row = rows.iter().find(|row| row["row"] == name);
        row.and_then(|row| row["measured"].as_f64()).unwrap_or_else(|| panic!("{name} is missing: {told}"))
    };
    // Nobody has written less than what all have; and nothing is quicker than the line.
    assert!(measured("G1") >= 1.0 && measured("G3") >= 0.95, "{told}");
    assert!(measured("G2") >= 0.0 && measured("G4") > 0.0, "{told}");
    assert!(measured("G9") == 0.0, "{told}");
    // A token bucket of 50 Mbit/s gives less than 6.25 MB/s to a stream, and not less than half of it: the kernel carries what it has, whoever has the processors.
    let line = told["line_bytes_per_s"].as_f64().unwrap();
    assert!((3e6..6.3e6).contains(&line), "{line}");
    assert_eq!(left(run), Vec::<String>::new());
    println!(
        "evidence: nodes=4 line_bytes_per_s={line:.0} written/useful={:.3} twice={:.2}% time/bound={:.2} unaccounted=0",
        measured("G1"),
        measured("G2"),
        measured("G3")
    );
}

#[test]
fn another_program_does_the_same_work_on_the_same_hosts_and_the_figures_of_both_are_shown() {
    // Ours says what another program has to say, so it can stand in for one.
    let program = env!("CARGO_BIN_EXE_busway-swarm");
    let words =
        ["--nodes", "3", "--size", "512KiB", "--brief", "--json", "--rounds", "2", "--against", program];
    let Some(mut command) = swarm(&words) else { return };
    let child = command.spawn().unwrap();
    let run = child.id();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let name = told["peer"].as_str().unwrap();
    assert!(name.starts_with("busway "), "it says what it is: {told}");
    let of = |figure: &str, side: &str| {
        let row = told["compared"].as_array().unwrap().iter().find(|row| row["figure"] == figure);
        row.and_then(|row| row[side]["median"].as_f64())
            .unwrap_or_else(|| panic!("{figure} of {side}: {told}"))
    };
    for side in ["ours", "theirs"] {
        assert!(of("written to sockets / useful", side) >= 1.0, "{told}");
        // With the headers of packets there is more on the lines than was written.
        assert!(of("sent on the lines / useful", side) > of("written to sockets / useful", side), "{told}");
        assert!(of("time until all have it / the least", side) >= 0.95, "{told}");
        assert!(of("p99 of a small message beside bulk", side) > 0.0, "{told}");
    }
    assert_eq!(told["curves"].as_array().unwrap().len(), 2, "when each node had it, of both: {told}");
    assert_eq!(left(run), Vec::<String>::new());
    println!(
        "evidence: sides=2 rounds=2 written/useful={:.3} beside {:.3}",
        of("written to sockets / useful", "ours"),
        of("written to sockets / useful", "theirs")
    );
}

#[test]
fn a_report_measures_its_shapes_and_writes_what_the_page_and_the_plot_have() {
    let files = std::env::temp_dir().join(format!("busway-report-{}", std::process::id()));
    let (page, plot) = (files.with_extension("md"), files.with_extension("svg"));
    let named = [page.to_str().unwrap(), plot.to_str().unwrap()];
    let words = ["--report", "--brief", "--json", "--markdown", named[0], "--plot", named[1]];
    let Some(mut command) = swarm(&words) else { return };
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("round 1 of 1: ours:"), "it says how far it is: {said}");
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let shapes = told["shapes"].as_array().unwrap();
    let (page, plot) = [page, plot].map(|path| (std::fs::read_to_string(&path).unwrap(), path)).into();
    for row in shapes[0]["rows"].as_array().unwrap() {
        let figure = row["figure"].as_str().unwrap();
        assert!(
            page.0.contains(&format!("| {figure} | {:.3}", row["measured"].as_f64().unwrap())),
            "{figure}"
        );
    }
    assert!(
        page.0.starts_with("#### 4 nodes, 50 Mbit/s, 1 MiB\n") && page.0.contains("| G9 |"),
        "{}",
        page.0
    );
    assert!(plot.0.starts_with("<svg") && plot.0.contains("busway, 4 nodes, 50 Mbit/s, 1 MiB"), "{}", plot.0);
    for path in [page.1, plot.1] {
        std::fs::remove_file(path).unwrap();
    }
    println!("evidence: shapes={} rows={}", shapes.len(), shapes[0]["rows"].as_array().unwrap().len());
}

#[test]
fn real_files_are_with_all_when_who_shared_them_is_killed_and_who_is_killed_half_way_is_sent_nothing_twice() {
    let words = ["--real", "--brief", "--json", "--nodes", "8"];
    let Some(mut command) = swarm(&words) else { return };
    let child = command.spawn().unwrap();
    let run = child.id();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let told: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let rows = told["rows"].as_array().unwrap();
    let measured = |name: &str| {
        let row = rows.iter().find(|row| row["row"] == name);
        row.and_then(|row| row["measured"].as_f64()).unwrap_or_else(|| panic!("{name} is missing: {told}"))
    };
    assert!(measured("R1") == 0.0, "each has each file, byte for byte: {told}");
    // Who is late to pass something on is waited for before who shares is asked for it too: a star would be 6.
    assert!((1.0..2.0).contains(&measured("R4")), "{told}");
    assert!(measured("R5") > 0.0 && measured("R6") == 0.0 && measured("R7") == 0.0, "{told}");
    assert_eq!(left(run), Vec::<String>::new());
    println!(
        "evidence: nodes=8 files={} bytes={} missing=0 by_origin={:.3} had_pieces={} sent_again=0 sent/useful={:.3}",
        told["files"],
        told["bytes"],
        measured("R4"),
        measured("R5"),
        measured("R8")
    );
}

#[test]
fn nothing_is_left_of_a_run_that_is_killed() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let Some(mut run) = started(&LONG) else { return };
        let pid = Pid::from_child(&run);
        kill_process(pid, signal).unwrap();
        run.wait().unwrap();
        until("who clears up has done so", || left(run.id()).is_empty());
    }
    println!("evidence: 3 runs ended by signals, nothing left");
}

#[test]
fn what_is_left_when_who_clears_up_is_killed_too_goes_at_the_next_start() {
    let Some(mut run) = started(&LONG) else { return };
    let command = |pid: &Pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let janitor = children(run.id()).into_iter().find(|pid| command(pid).contains("janitor"));
    kill_process(janitor.expect("one clears up"), Signal::KILL).unwrap();
    kill_process(Pid::from_child(&run), Signal::KILL).unwrap();
    run.wait().unwrap();
    let before = left(run.id()).len();
    assert!(before > 0, "there is something to clear up");
    let mut swept =
        swarm(&["sweep"]).expect("it was possible before").stdout(Stdio::piped()).spawn().unwrap();
    let line = BufReader::new(swept.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(line.starts_with("swept ") && swept.wait().unwrap().success(), "{line}");
    assert_eq!(left(run.id()), Vec::<String>::new());
    println!("evidence: {before} names left, 0 after the next start");
}
