//! The page: RESULTS.md, from the figures and their records.
//!
//! Everything on it comes from the records, so `report --redraw` writes the same page again.

use crate::Failure;
use crate::figure::rounds::{Record, pairs, series};
use crate::figure::{Against, Bar, Claim, Figure, Spread, plot};
use crate::outcome::Outcome;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const HEAD: &str = include_str!("method.md");
/// What the testbed has measured, by commands of its own.
const SWARM: &str = include_str!("swarm.md");
/// What a test has measured of HTTP under load, in its long form.
const LOAD: &str = include_str!("load.md");

/// Writes the page and the plots under `bench`.
///
/// # Errors
/// A file cannot be written.
pub fn write(bench: &Path, figures: &[Figure], records: &[Record]) -> Result<(), Failure> {
    let plots = bench.join("plots");
    fs::create_dir_all(&plots)?;
    let drawn = plot::draw(&plots, records)?;
    let mut text = HEAD.to_owned();
    for (name, caption) in drawn {
        let _ = writeln!(text, "![{caption}](plots/{name})\n");
    }
    text.push_str(&sections(figures, records));
    text.push_str(SWARM);
    text.push_str(LOAD);
    fs::write(bench.join("RESULTS.md"), text)?;
    Ok(())
}

/// The sections of all figures that have records.
pub fn sections(figures: &[Figure], records: &[Record]) -> String {
    let mut text = String::new();
    for figure in figures {
        let own: Vec<&Record> = records.iter().filter(|record| record.figure == figure.id).collect();
        if own.is_empty() {
            let _ = writeln!(text, "## {}\n\n{}: not measured yet.\n", figure.id, figure.title);
            continue;
        }
        section(&mut text, figure, records, &own);
    }
    text
}

fn section(text: &mut String, figure: &Figure, records: &[Record], own: &[&Record]) {
    let rounds = own.iter().map(|record| record.round).max().unwrap_or(0);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "## {}\n\n{}. {}\n", figure.id, figure.title, figure.method);
    let _ = writeln!(text, "| figure | measured | floor or rival | ratio or difference | bar | |");
    let _ = writeln!(text, "| --- | --- | --- | --- | --- | --- |");
    for claim in &figure.claims {
        let _ = writeln!(text, "{}", row(figure, claim, records));
    }
    cells(text, own);
    let machines: Vec<&str> = distinct(own.iter().map(|record| record.machine.as_str()));
    let commits: Vec<&str> = distinct(own.iter().map(|record| record.commit.as_str()));
    let _ = writeln!(
        text,
        "\n{rounds} rounds; machine: {}; commit: {}; command: `cargo run --release -- one {}` in `bench/`.\n",
        machines.join(", "),
        commits.join(", "),
        figure.id
    );
}

fn row(figure: &Figure, claim: &Claim, records: &[Record]) -> String {
    let value = series(records, figure.id, &claim.value);
    let unit = Unit::of(claim.value.name);
    let own: Vec<f64> = value.iter().map(|(_, number)| *number).collect();
    let (other, compared, compared_unit) = match &claim.against {
        Against::Nothing => (Vec::new(), own.clone(), unit),
        Against::Over(reading) => {
            let other = series(records, figure.id, reading);
            let ratios = pairs(&value, &other).iter().map(|(own, other)| own / other).collect();
            (other, ratios, Unit::Ratio)
        }
        Against::Minus(reading) => {
            let other = series(records, figure.id, reading);
            let differences = pairs(&value, &other).iter().map(|(own, other)| own - other).collect();
            (other, differences, unit)
        }
    };
    let other: Vec<f64> = other.iter().map(|(_, number)| *number).collect();
    let judged = Spread::of(&compared);
    let verdict = match (judged, claim.bar) {
        (None, _) => "not measured",
        (_, Bar::None) => "",
        (Some(spread), bar) if bar.met(spread.median) => "met",
        (Some(_), _) => "**not met**",
    };
    let compared = match claim.against {
        Against::Nothing => String::new(),
        Against::Over(_) | Against::Minus(_) => shown(judged, compared_unit),
    };
    format!(
        "| {} | {} | {} | {} | {} | {verdict} |",
        claim.name,
        shown(Spread::of(&own), unit),
        if other.is_empty() { String::new() } else { shown(Spread::of(&other), unit) },
        compared,
        bar(claim.bar, compared_unit)
    )
}

/// Below the claims: every cell with its distribution, loss and threads, medians over the rounds.
fn cells(text: &mut String, own: &[&Record]) {
    let labels = distinct(own.iter().map(|record| record.plan.label()));
    let _ = writeln!(text, "\n| cell | p50 | p99 | p99.9 | max | lost | threads per side |");
    let _ = writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |");
    for label in labels {
        let results: Vec<_> =
            own.iter().filter(|record| record.plan.label() == label).map(|record| &record.result).collect();
        let found: Vec<&Outcome> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        let Some(first) = found.first() else {
            let reason = results.first().and_then(|result| result.as_ref().err());
            let _ = writeln!(
                text,
                "| {label} | failed: {} | | | | | |",
                reason.map_or("no result", String::as_str)
            );
            continue;
        };
        let quantile = |read: fn(&crate::outcome::Latency) -> u64| {
            let numbers: Vec<f64> = found
                .iter()
                .filter_map(|outcome| outcome.latency.as_ref())
                .map(|latency| read(latency) as f64)
                .collect();
            Spread::of(&numbers).map_or_else(String::new, |spread| Unit::Nanoseconds.shown(spread.median))
        };
        let lost: u64 = found.iter().map(|outcome| outcome.lost).sum();
        let threads: Vec<String> = first.threads.iter().map(u64::to_string).collect();
        let _ = writeln!(
            text,
            "| {label} | {} | {} | {} | {} | {lost} | {} |",
            quantile(|latency| latency.p50),
            quantile(|latency| latency.p99),
            quantile(|latency| latency.p999),
            quantile(|latency| latency.max),
            threads.join(" + ")
        );
    }
}

fn distinct<Item: PartialEq>(items: impl Iterator<Item = Item>) -> Vec<Item> {
    items.fold(Vec::new(), |mut seen, item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
        seen
    })
}

fn shown(spread: Option<Spread>, unit: Unit) -> String {
    let Some(spread) = spread else { return "-".to_owned() };
    format!("{} ({} - {})", unit.shown(spread.median), unit.shown(spread.min), unit.shown(spread.max))
}

fn bar(bar: Bar, unit: Unit) -> String {
    match bar {
        Bar::None => String::new(),
        Bar::AtMost(most) => format!("<= {}", unit.shown(most)),
        Bar::AtLeast(least) => format!(">= {}", unit.shown(least)),
    }
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Nanoseconds,
    Bytes,
    PerSecond,
    Ratio,
    Plain,
}

impl Unit {
    /// The unit follows from the ending of a reading's name.
    fn of(name: &str) -> Self {
        match name.rsplit('_').next() {
            Some("ns" | "p50" | "p99" | "p999" | "max") => Self::Nanoseconds,
            Some("bytes") => Self::Bytes,
            Some("s") => Self::PerSecond,
            _ => Self::Plain,
        }
    }

    fn shown(self, value: f64) -> String {
        match self {
            Self::Nanoseconds if value.abs() >= 1e9 => format!("{:.2} s", value / 1e9),
            Self::Nanoseconds if value.abs() >= 1e6 => format!("{:.2} ms", value / 1e6),
            Self::Nanoseconds if value.abs() >= 1e4 => format!("{:.1} us", value / 1e3),
            Self::Nanoseconds => format!("{value:.1} ns"),
            Self::Bytes => format!("{:.2} MB", value / 1e6),
            Self::PerSecond => format!("{:.2} M/s", value / 1e6),
            Self::Ratio => format!("{value:.3}"),
            Self::Plain if value.fract() == 0.0 => format!("{value:.0}"),
            Self::Plain => format!("{value:.3}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Reading;
    use crate::plan::Plan;

    fn record(round: u64, side: &str, one_way_ns: f64) -> Record {
        let plan = Plan {
            side: side.to_owned(),
            cell: "oneway".to_owned(),
            cpus: [0, 1],
            messages: 1,
            receivers: 0,
            rate: 0,
            size: 0,
            command: String::new(),
        };
        let result = Ok(Outcome::default().with("one_way_ns", one_way_ns));
        Record {
            figure: "P1".to_owned(),
            round,
            plan,
            result,
            machine: "m".to_owned(),
            commit: "c".to_owned(),
        }
    }

    fn figure() -> Figure {
        let reading = |cell: &str| Reading { cell: cell.to_owned(), name: "one_way_ns" };
        let claim = Claim {
            name: "64 B".to_owned(),
            value: reading("busway oneway"),
            against: Against::Over(reading("ring oneway")),
            bar: Bar::AtMost(1.3),
        };
        Figure {
            id: "P1",
            title: "t",
            method: "m",
            cells: Vec::new(),
            claims: vec![claim],
            by_hand: false,
            rounds_max: u64::MAX,
        }
    }

    #[test]
    fn a_missed_bar_is_printed_as_missed() {
        let records = [record(1, "ring", 100.0), record(1, "busway", 140.0)];
        let page = sections(&[figure()], &records);
        assert!(page.contains("| 1.400 (1.400 - 1.400) | <= 1.300 | **not met** |"), "{page}");
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios() {
        // The host drifts by three between rounds; the ratio within each round is 1.2.
        let numbers = [(1, 100.0, 120.0), (2, 300.0, 360.0), (3, 100.0, 120.0)];
        let records: Vec<Record> = numbers
            .iter()
            .flat_map(|(round, floor, own)| [record(*round, "ring", *floor), record(*round, "busway", *own)])
            .collect();
        let page = sections(&[figure()], &records);
        assert!(page.contains("| 1.200 (1.200 - 1.200) | <= 1.300 | met |"), "{page}");
    }

    #[test]
    fn a_figure_without_its_rival_is_not_called_met() {
        let page = sections(&[figure()], &[record(1, "busway", 140.0)]);
        assert!(page.contains("not measured"), "{page}");
    }
}
