//! What is shown of what processes count, also of those that were stopped while they counted.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_shm::layout::CAUSES;
use busway_shm::row::RowAccount;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

use super::{METRICS, ProcessMetrics, Sums, of_all_with};
use crate::bus::Bus;
use crate::control::scratch::Scratch;

#[test]
fn an_account_that_does_not_add_up_is_shown_and_so_is_each_sum() {
    let scratch = Scratch::new();
    let bus =
        Bus::builder().directory(scratch.path().join("run")).arena_bytes(1 << 30).open().expect("a bus");
    let tables = bus.core.own.tables();
    let mut sums = Sums::past(tables.counters());
    let row = RowAccount { expected: 10, delivered: 3, dropped: [0; CAUSES], in_flight: 6, held: 0 };
    sums.add_row(&row);
    sums.add_row(&RowAccount { in_flight: 7, ..row });
    let shown = ProcessMetrics::new(bus.core.own.process(), tables, &sums);
    let of = |name: &str| shown.get(name).expect("it is in the table");
    assert_eq!((of("accounts_open"), of("delivered"), of("in_flight")), (1, 6, 13));
    assert_eq!((shown.get("no such name"), shown.with("delivered", "x")), (None, None));
    assert!(METRICS.iter().all(|metric| shown.values.iter().any(|value| value.name == metric.name)));
    let json = serde_json::to_value(&shown).expect("it is JSON");
    assert_eq!(
        (&json["metrics"]["delivered"], &json["metrics"]["dropped"]["lapped"]),
        (&6.into(), &0.into())
    );
    bus.close();
}

const DIRECTORY: &str = "BUSWAY_TEST_STOPPED_DIRECTORY";

/// A process that has stopped itself, killed when dropped.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stops_while_it_counts_if_it_was_started_for_that() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let bus = Bus::builder().directory(directory).name("stopped").arena_bytes(1 << 30).open().expect("a bus");
    bus.core.own.folding(|_| {
        kill_process(getpid(), Signal::STOP).expect("it stops");
        // The signal may stop another thread first.
        loop {
            std::thread::park();
        }
    });
}

#[test]
fn processes_that_were_stopped_while_they_counted_are_waited_for_once_together_and_shown() {
    const STOPPED: usize = 5;
    let scratch = Scratch::new();
    let run = scratch.path().join("run");
    let bus = Bus::builder().directory(&run).name("reads").arena_bytes(1 << 30).open().expect("a bus");
    let stop = || {
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["metrics::tests::stops_while_it_counts_if_it_was_started_for_that", "--exact"])
            .env(DIRECTORY, &run)
            .stdout(Stdio::null())
            .spawn()
            .expect("a process");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("its id");
        let child = Stopped(child);
        let (_, status) =
            waitpid(Some(pid), WaitOptions::UNTRACED).expect("it is ours").expect("it is waited for");
        assert!(status.stopped(), "{status:?}");
        child
    };
    let stopped: Vec<Stopped> = (0..STOPPED).map(|_| stop()).collect();
    let deadline = Deadline::after(Duration::from_secs(30));
    let members = loop {
        let list = bus.core.control.members(deadline).expect("the members");
        if list.members.len() > STOPPED {
            break list.members;
        }
        assert!(!deadline.expired(), "{} members", list.members.len());
        std::thread::yield_now();
    };
    let mut waits = 0;
    let shown = of_all_with(&members, |_| waits += 1);
    let names: Vec<&str> = shown.iter().map(|process| process.name.as_str()).collect();
    assert_eq!(names, ["reads", "stopped", "stopped", "stopped", "stopped", "stopped"]);
    // As long as for one of them.
    assert!((1..1_000).contains(&waits), "{waits}");
    println!("evidence: stopped={STOPPED} waits={waits}");
    drop(stopped);
    bus.close();
}
