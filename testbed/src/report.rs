//! What was measured, row by row, beside what is aimed at.

use serde_json::{Value, json};

use crate::options::Options;

/// One figure.
#[derive(Debug)]
pub(crate) struct Row {
    /// Which promise it is about.
    pub(crate) row: &'static str,
    pub(crate) figure: String,
    pub(crate) measured: f64,
    pub(crate) unit: &'static str,
    /// No more than this is aimed at; none where the figure is only shown.
    pub(crate) most: Option<f64>,
    /// What the figure consists of.
    pub(crate) words: String,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match self.most {
            Some(most) if self.measured <= most => "met",
            Some(_) => "not met",
            None => "",
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// Bytes a second of the plain stream.
    pub(crate) line: f64,
    /// How much of all processors was in use while bulk went, at most, by whomever.
    pub(crate) busy: f64,
}

/// Above this, processors decide how long things take, and not lines.
const SATURATED: f64 = 0.9;

impl Report {
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

    pub(crate) fn print(&self, options: &Options) {
        if options.json {
            println!("{}", self.as_json(options));
            return;
        }
        println!(
            "{} nodes, {} Mbit/s each way ({:.2} MB/s as one TCP stream), {} bytes in artifacts of {}, {} ms later each way",
            options.nodes,
            options.mbit,
            self.line / 1e6,
            options.size,
            options.body,
            options.delay_ms
        );
        println!("{}\n", self.says_of_processors());
        println!(
            "{:<4} {:<44} {:>10} {:<5} {:>9}  {:<8} consists of",
            "row", "figure", "measured", "", "at most", ""
        );
        for row in &self.rows {
            let most = row.most.map(|most| format!("{most:.3}")).unwrap_or_default();
            println!(
                "{:<4} {:<44} {:>10.3} {:<5} {most:>9}  {:<8} {}",
                row.row,
                row.figure,
                row.measured,
                row.unit,
                row.verdict(),
                row.words
            );
        }
    }

    fn as_json(&self, options: &Options) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "row": row.row, "figure": row.figure, "measured": row.measured, "unit": row.unit,
                    "at_most": row.most, "verdict": row.verdict(), "consists_of": row.words,
                })
            })
            .collect();
        json!({
            "nodes": options.nodes, "mbit": options.mbit, "size": options.size, "body": options.body,
            "delay_ms": options.delay_ms, "rounds": options.rounds, "line_bytes_per_s": self.line,
            "processors": Self::processors(), "processors_busy": self.busy,
            "processors_saturated": self.busy > SATURATED, "rows": rows,
        })
    }
}
