//! The shapes of bench/RESULTS.md: how many nodes, on which lines, with how many bytes; all of them in one run.

use std::fmt::Write;

use serde_json::json;

use crate::clock::{now_ns, seconds_between};
use crate::options::Options;
use crate::report::Report;
use crate::{Failure, course, drawing};

/// Nodes, megabits a second, mebibytes, rounds.
type Shape = (usize, u64, u64, u64);

/// Short ones first, three rounds of what takes seconds. All of it takes less than ten minutes, also beside another program.
const SHAPES: [Shape; 4] = [(8, 50, 4, 3), (8, 50, 32, 3), (8, 100, 64, 1), (32, 20, 8, 1)];
const BRIEF: [Shape; 1] = [(4, 50, 1, 1)];

/// Runs all shapes, and prints and writes what was found.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let begun = now_ns();
    let shapes: &[Shape] = if options.brief { &BRIEF } else { &SHAPES };
    let mut reports = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        let (nodes, mbit, mebibytes, rounds) = *shape;
        let label = format!("{nodes} nodes, {mbit} Mbit/s, {mebibytes} MiB");
        eprintln!("{label}: shape {} of {}", index + 1, shapes.len());
        let size = mebibytes << 20;
        let shape = Options { nodes, mbit, size, body: size, rounds, ..options.clone() };
        reports.push((label.clone(), course::measure(&shape, &label)?));
    }
    let markdown = markdown(&reports, options, seconds_between(begun, now_ns()));
    if let Some(path) = &options.markdown {
        std::fs::write(path, &markdown).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(path) = &options.plot {
        let drawn = drawing::draw(&reports);
        std::fs::write(path, drawn).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if options.json {
        let shapes: Vec<_> = reports.iter().map(|(_, report)| report.as_json()).collect();
        println!("{}", json!({ "machine": machine(), "shapes": shapes }));
    } else {
        print!("{markdown}");
    }
    Ok(())
}

fn markdown(reports: &[(String, Report)], options: &Options, seconds: f64) -> String {
    let mut text = String::new();
    for (label, report) in reports {
        let _ = writeln!(text, "{}", report.as_markdown(label));
    }
    let set = match options.against {
        Some(_) => format!(" The other program is set `{}`.", options.set),
        None => String::new(),
    };
    let _ = writeln!(
        text,
        "Median, least and greatest round; each round runs each side once.{set} All of it took {:.1} minutes; machine: {}.",
        seconds / 60.0,
        machine()
    );
    text
}

/// What ran it, in the words of the bench.
fn machine() -> String {
    let first = |path: &str, name: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}, {processors} processors, Linux {}; load of the last minutes {}",
        first("/proc/cpuinfo", "model name"),
        first("/proc/sys/kernel/osrelease", ""),
        load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
    )
}
