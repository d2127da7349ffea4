//! The alert rules for Prometheus in `dist/`, against the table of what is counted.
//!
//! A rule about a name that nobody serves never fires, and nobody notices: so each name, label and value that a rule asks
//! for is looked up where it is made. What Prometheus itself makes of an expression is not tried here.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use busway::Bus;
use busway::metrics::{METRICS, MetricKind};

const RULES: &str = include_str!("../../../dist/busway.rules.yml");
/// What the module for Python serves.
const OF_PYTHON: &str = include_str!("../../python/python/message_bus/_metrics.py");
/// What each series has, whatever it is of.
const OF_ALL: [&str; 3] = ["process", "name", "pid"];

/// A name of a series in an expression, and what stands in its braces.
#[derive(Debug, PartialEq)]
struct Series<'a> {
    name: &'a str,
    matchers: &'a str,
}

/// The series that an expression asks for: what begins with `busway_` or `bus_`.
fn series(expression: &str) -> Vec<Series<'_>> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("bus") {
        let begins = !rest[..at].ends_with(is_part);
        let end = rest[at..].find(|c| !is_part(c)).map_or(rest.len(), |end| at + end);
        let (name, behind) = (&rest[at..end], &rest[end..]);
        if begins && (name.starts_with("busway_") || name.starts_with("bus_")) {
            let braces = behind.strip_prefix('{').and_then(|inside| inside.split_once('}'));
            found.push(Series { name, matchers: braces.map_or("", |(inside, _)| inside) });
        }
        rest = behind;
    }
    found
}

fn expressions() -> Vec<&'static str> {
    RULES.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect()
}

/// The label and the values of `cause!~"a|b"`.
fn matcher(text: &str) -> (&str, Vec<&str>) {
    let (label, rest) = text.split_once(['=', '!']).expect("a label and what it is to be");
    (label.trim(), rest.split('"').nth(1).expect("a value in quotes").split('|').collect())
}

#[test]
fn every_alert_asks_for_names_labels_and_values_that_there_are() {
    let directory = std::env::temp_dir().join(format!("busway-alerts-{:016x}", fastrand::u64(..)));
    let bus = Bus::builder().directory(&directory).domain("alerts").open().unwrap();
    let own = bus.metrics().unwrap();
    let mut asked = 0;
    for expression in expressions() {
        let all = series(expression);
        assert!(!all.is_empty(), "asks for nothing of ours: {expression}");
        for Series { name, matchers } in all {
            asked += 1;
            let Some(name) = name.strip_prefix("busway_") else {
                let bare = name.strip_prefix("bus_").unwrap();
                let bare = bare.strip_suffix("_total").unwrap_or(bare);
                assert!(OF_PYTHON.contains(&format!("    \"{bare}\": \"")), "message_bus serves no {name}");
                continue;
            };
            let bare = name.strip_suffix("_total").unwrap_or(name);
            let metric = METRICS.iter().find(|metric| metric.name == bare);
            let metric = metric.unwrap_or_else(|| panic!("nothing is called {name}: {expression}"));
            assert_eq!(name.ends_with("_total"), metric.kind == MetricKind::Counter, "{name}");
            for text in matchers.split(',').filter(|text| !text.is_empty()) {
                let (label, values) = matcher(text);
                if OF_ALL.contains(&label) {
                    continue;
                }
                assert_eq!(metric.label, Some(label), "{name} has no label {label}");
                for value in values {
                    assert!(own.with(bare, value).is_some(), "{name} has no {label} {value}");
                }
            }
        }
    }
    bus.close();
    let _ = std::fs::remove_dir_all(&directory);
    println!("evidence: alerts={} series={asked}", expressions().len());
}

#[test]
fn every_alert_is_named_once_and_says_what_to_do() {
    let of = |key: &str| {
        let lines = RULES.lines().map(|line| line.trim().trim_start_matches("- "));
        lines.filter_map(|line| line.strip_prefix(key).map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut names = of("alert: ");
    let count = names.len();
    for key in ["expr: ", "summary: ", "description: ", "labels: "] {
        assert_eq!(of(key).len(), count, "each alert has one `{key}`");
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn a_series_is_found_wherever_it_stands() {
    let found = series("rate(busway_a_total{cause!~\"x|y\"}[5m]) > 2 * bus_b and mybus_c or busway_d");
    let names: Vec<&str> = found.iter().map(|one| one.name).collect();
    assert_eq!(names, ["busway_a_total", "bus_b", "busway_d"]);
    assert_eq!(matcher(found[0].matchers), ("cause", vec!["x", "y"]));
    assert_eq!(matcher("cause=\"a\""), ("cause", vec!["a"]));
}
