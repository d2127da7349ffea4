//! The text that Prometheus reads: exposition format 0.0.4.
//!
//! Invariant: whatever a process calls itself, a label value stays one.

use std::fmt::Write;

use super::ProcessMetrics;
use super::table::{METRICS, Metric, MetricKind};

/// What stands before each name.
const PREFIX: &str = "busway_";

/// The metrics of these processes as text that Prometheus reads (version 0.0.4, `text/plain`). Each value has the labels `process`,
/// `name` and `pid`, and the metric's own.
///
/// ```
/// # fn main() -> Result<(), busway::Error> {
/// let bus = busway::Bus::open("example-of-prometheus")?;
/// let text = busway::metrics::prometheus(&[bus.metrics()?]);
/// assert!(text.contains("# TYPE busway_messages_sent_total counter\n"));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn prometheus(processes: &[ProcessMetrics]) -> String {
    let mut text = String::new();
    for metric in METRICS {
        let name = name_of(metric);
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {} ({}).", metric.help, metric.unit);
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for process in processes {
            let (id, called, pid) = (&process.process, escaped(&process.name), process.pid);
            for value in process.values.iter().filter(|value| value.name == metric.name) {
                let _ = write!(text, "{name}{{process=\"{id}\",name=\"{called}\",pid=\"{pid}\"");
                if let Some((label, value)) = value.label {
                    let _ = write!(text, ",{label}=\"{value}\"");
                }
                let _ = writeln!(text, "}} {}", value.value);
            }
        }
    }
    text
}

fn name_of(metric: &Metric) -> String {
    let suffix = if metric.kind == MetricKind::Counter { "_total" } else { "" };
    format!("{PREFIX}{}{suffix}", metric.name)
}

/// In a label value these three are escaped, and nothing else is.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{METRICS, ProcessMetrics, prometheus};
    use crate::metrics::MetricValue;

    type Series = BTreeMap<(String, BTreeMap<String, String>), f64>;

    /// A label's name, its value, and what follows.
    fn label(text: &str) -> (String, String, &str) {
        let (name, rest) = text.split_once("=\"").expect("a label");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name}");
        let (mut value, mut rest) = (String::new(), rest.chars());
        loop {
            match rest.next().expect("its value ends") {
                '"' => return (name.to_owned(), value, rest.as_str()),
                '\\' => value.push(match rest.next() {
                    Some('n') => '\n',
                    Some(other @ ('\\' | '"')) => other,
                    other => panic!("no escape: {other:?}"),
                }),
                '\n' => panic!("a line ends within a value"),
                other => value.push(other),
            }
        }
    }

    /// Reads the text as the page on the exposition format says it is read.
    fn parse(text: &str) -> Series {
        let (mut series, mut typed, mut helped) = (Series::new(), BTreeMap::new(), BTreeSet::new());
        let mut last = String::new();
        assert!(text.ends_with('\n'), "the last line ends");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, said) = help.split_once(' ').expect("a help");
                assert!(helped.insert(name.to_owned()) && !said.is_empty(), "{line}");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(typed.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
                last = name.to_owned();
                continue;
            }
            let (name, rest) = line.split_once('{').expect("labels");
            assert_eq!(name, last, "a family stands together, behind its type");
            let (mut labels, mut rest) = (BTreeMap::new(), rest);
            while !rest.starts_with('}') {
                let (label, value, left) = label(rest);
                assert!(labels.insert(label, value).is_none(), "a label twice: {line}");
                rest = left.strip_prefix(',').unwrap_or(left);
            }
            let value = rest.strip_prefix("} ").and_then(|value| value.parse().ok()).expect("a number");
            assert!(series.insert((name.to_owned(), labels), value).is_none(), "twice: {line}");
        }
        assert_eq!(helped.len(), METRICS.len());
        series
    }

    #[test]
    fn whatever_a_process_is_called_the_text_is_read_as_it_was_meant() {
        let names =
            ["plain", "a\"b", "back\\slash", "two\nlines", "}\" 1\n# TYPE x counter", "ünï", "", "\\n"];
        let process = |(pid, name): (u32, &&str)| ProcessMetrics {
            process: format!("{pid:016x}"),
            name: (*name).to_owned(),
            pid,
            values: vec![
                MetricValue { name: "messages_sent", label: None, value: u64::from(pid) },
                MetricValue { name: "dropped", label: Some(("cause", "lapped")), value: 7 },
            ],
        };
        let all: Vec<ProcessMetrics> = (1..).zip(&names).map(process).collect();
        let series = parse(&prometheus(&all));
        assert_eq!(series.len(), 2 * names.len());
        for (pid, name) in (1_u32..).zip(names) {
            let mut labels = BTreeMap::from([("process".to_owned(), format!("{pid:016x}"))]);
            labels.insert("name".to_owned(), name.to_owned());
            labels.insert("pid".to_owned(), pid.to_string());
            assert_eq!(series[&("busway_messages_sent_total".to_owned(), labels.clone())], f64::from(pid));
            labels.insert("cause".to_owned(), "lapped".to_owned());
            assert_eq!(series[&("busway_dropped_total".to_owned(), labels)], 7.0);
        }
    }
}
