//! What was measured, row by row, beside what is aimed at.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::compared::Compared;

/// What rounds came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    pub(crate) fn of(rounds: &[f64]) -> Self {
        let mut rounds = rounds.to_vec();
        rounds.sort_by(f64::total_cmp);
        let at = |index: usize| rounds.get(index).copied().unwrap_or_default();
        Self { least: at(0), median: at(rounds.len() / 2), greatest: at(rounds.len().saturating_sub(1)) }
    }

    pub(crate) fn as_json(self) -> Value {
        json!({ "median": self.median, "least": self.least, "greatest": self.greatest })
    }

    /// `1.042 (1.040 - 1.050)`; without brackets where all rounds came to the same.
    pub(crate) fn shown(self, unit: &str) -> String {
        let blank = if unit.is_empty() { "" } else { " " };
        let median = format!("{:.3}{blank}{unit}", self.median);
        match self.least == self.greatest {
            true => median,
            false => format!("{median} ({:.3} - {:.3})", self.least, self.greatest),
        }
    }
}

/// When each node had all of it, in a round that took a middle time, and what small messages took.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    /// Which program.
    pub(crate) who: &'static str,
    /// In their order.
    pub(crate) seconds: Vec<f64>,
    /// The least time until all can have it.
    pub(crate) least: f64,
    pub(crate) idle_ms: f64,
    pub(crate) beside_ms: Option<f64>,
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Row {
    /// Which promise it is about.
    pub(crate) row: &'static str,
    pub(crate) figure: String,
    /// Over the rounds; the median is judged.
    pub(crate) measured: Spread,
    pub(crate) unit: &'static str,
    /// No more than this is aimed at; none where the figure is only shown.
    pub(crate) most: Option<f64>,
    /// What the figure consists of.
    pub(crate) words: String,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match self.most {
            Some(most) if self.measured.median <= most => "met",
            Some(_) => "not met",
            None => "",
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// What was done, in words.
    head: String,
    /// The same for programs: an object.
    facts: Value,
    /// How much of all processors was in use while bulk went, at most, by whomever.
    pub(crate) busy: f64,
    /// Another program that did the same work, as it calls itself, and what it came to beside ours.
    pub(crate) peer: Option<String>,
    pub(crate) compared: Vec<Compared>,
    pub(crate) curves: Vec<Curve>,
}

/// Above this, processors decide how long things take, and not lines.
const SATURATED: f64 = 0.9;

impl Report {
    pub(crate) fn new(head: String, facts: Value) -> Self {
        Self {
            rows: Vec::new(),
            head,
            facts,
            busy: 0.0,
            peer: None,
            compared: Vec::new(),
            curves: Vec::new(),
        }
    }

    pub(crate) fn note(
        &mut self,
        row: &'static str,
        figure: &str,
        rounds: &[f64],
        unit: &'static str,
        most: Option<f64>,
        words: String,
    ) {
        let measured = Spread::of(rounds);
        self.rows.push(Row { row, figure: figure.to_owned(), measured, unit, most, words });
    }

    fn processors() -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    fn says_of_processors(&self) -> String {
        let of = format!(
            "{:.0} % of {} processors were in use while bulk went",
            self.busy * 100.0,
            Self::processors()
        );
        if self.busy > SATURATED {
            return format!(
                "{of}: times are those of the processors, and bounds for what the lines would give"
            );
        }
        format!("{of}: times are those of the lines")
    }

    pub(crate) fn print(&self, json: bool) {
        if json {
            println!("{}", self.as_json());
            return;
        }
        println!("{}", self.head);
        println!("{}\n", self.says_of_processors());
        println!(
            "{:<4} {:<44} {:>10} {:<5} {:>9}  {:<8} consists of",
            "row", "figure", "measured", "", "at most", ""
        );
        for row in &self.rows {
            let most = row.most.map(|most| format!("{most:.3}")).unwrap_or_default();
            let Spread { least, median, greatest } = row.measured;
            let spread =
                if least == greatest { String::new() } else { format!("({least:.3} - {greatest:.3}) ") };
            println!(
                "{:<4} {:<44} {median:>10.3} {:<5} {most:>9}  {:<8} {spread}{}",
                row.row,
                row.figure,
                row.unit,
                row.verdict(),
                row.words
            );
        }
        let Some(peer) = &self.peer else { return };
        println!("\nours beside {peer}, on the same hosts and in the same rounds\n");
        println!("{:<44} {:<30} {:<30} theirs / ours", "figure", "ours", "theirs");
        for row in &self.compared {
            let [ours, theirs, ratio] = row.cells();
            println!("{:<44} {ours:<30} {theirs:<30} {ratio}", row.figure);
        }
    }

    /// As RESULTS.md has it: a heading, and a table of ours, and one of both.
    pub(crate) fn as_markdown(&self, title: &str) -> String {
        let mut text = format!("#### {title}\n\n");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}. {}.\n", self.head, self.says_of_processors());
        let _ = writeln!(text, "| | figure | measured | aimed at | | consists of |");
        let _ = writeln!(text, "| --- | --- | --- | --- | --- | --- |");
        for row in &self.rows {
            let most = row.most.map(|most| format!("at most {most:.3}")).unwrap_or_default();
            let (measured, verdict) = (row.measured.shown(row.unit), row.verdict());
            let _ = writeln!(
                text,
                "| {} | {} | {measured} | {most} | {verdict} | {} |",
                row.row, row.figure, row.words
            );
        }
        let Some(peer) = &self.peer else { return text };
        let _ = writeln!(text, "\n| on the same work | Busway | {peer} | theirs / ours |");
        let _ = writeln!(text, "| --- | --- | --- | --- |");
        for row in &self.compared {
            let [ours, theirs, ratio] = row.cells();
            let _ = writeln!(text, "| {} | {ours} | {theirs} | {ratio} |", row.figure);
        }
        text
    }

    pub(crate) fn as_json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "row": row.row, "figure": row.figure, "measured": row.measured.median,
                    "least": row.measured.least, "greatest": row.measured.greatest, "unit": row.unit,
                    "at_most": row.most, "verdict": row.verdict(), "consists_of": row.words,
                })
            })
            .collect();
        let mut told = self.facts.clone();
        if let Some(told) = told.as_object_mut() {
            told.insert("processors".to_owned(), json!(Self::processors()));
            told.insert("processors_busy".to_owned(), json!(self.busy));
            told.insert("processors_saturated".to_owned(), json!(self.busy > SATURATED));
            told.insert("rows".to_owned(), json!(rows));
            if let Some(peer) = &self.peer {
                let compared: Vec<Value> = self.compared.iter().map(Compared::as_json).collect();
                told.insert("peer".to_owned(), json!(peer));
                told.insert("compared".to_owned(), json!(compared));
            }
            let curve =
                |curve: &Curve| json!({ "who": curve.who, "least_s": curve.least, "seconds": curve.seconds });
            told.insert("curves".to_owned(), json!(self.curves.iter().map(curve).collect::<Vec<Value>>()));
        }
        told
    }
}
