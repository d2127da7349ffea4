//! `bench`: its fields, and that nothing is lost where nothing may be.

use serde_json::Value;

use crate::harness::{Place, keys, names};

const FIELDS: [&str; 16] = [
    "bytes_per_s",
    "commit",
    "count",
    "lost",
    "machine",
    "max_ns",
    "messages_per_s",
    "p50_ns",
    "p999_ns",
    "p99_ns",
    "rate",
    "size",
    "subscribers",
    "suggested",
    "threads",
    "what",
];

fn check(arguments: &[&str], count: u64, subscribers: u64) {
    let place = Place::new();
    let words: Vec<&str> = ["bench"].iter().chain(arguments).chain(&["--json"]).copied().collect();
    let figures: Value = place.run(&words).expect(0).object();
    assert_eq!(keys(&figures), FIELDS, "{arguments:?}");
    assert_eq!((&figures["what"], &figures["count"]), (&arguments[0].into(), &count.into()));
    assert_eq!((&figures["lost"], &figures["subscribers"]), (&0.into(), &subscribers.into()));
    let order: Vec<u64> = ["p50_ns", "p99_ns", "p999_ns", "max_ns"]
        .iter()
        .filter_map(|field| figures[field].as_u64())
        .collect();
    assert_eq!(order.len(), 4);
    assert!(order.is_sorted() && order[3] > 0, "{order:?}");
    assert_eq!(figures["suggested"].is_object(), arguments.contains(&"--rate"), "{arguments:?}");
    assert!(names(&place.temporary()).is_empty(), "a bench leaves nothing behind");
}

#[test]
fn a_round_trip_is_measured() {
    check(&["lat", "--count", "2000"], 2000, 1);
}

#[test]
fn sleeping_receivers_are_measured_against_intended_times() {
    check(&["lat", "--count", "200", "--rate", "2000", "--wake"], 200, 1);
}

#[test]
fn throughput_is_measured() {
    check(&["thr", "--count", "20000", "--size", "1KiB"], 20_000, 1);
}

#[test]
fn fan_out_is_measured() {
    check(&["fanout", "--count", "2000", "--subscribers", "3"], 2000, 3);
}

#[test]
fn a_core_that_is_not_there_is_a_wrong_command_line() {
    let place = Place::new();
    let ended = place.run(&["bench", "lat", "--pin", "4095"]).expect(2);
    assert_eq!(ended.report().0, "BUS-0801");
}
