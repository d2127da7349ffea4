//! What was measured, row by row, beside what is aimed at.

use serde_json::{Value, json};

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
    /// What was done, in words.
    head: String,
    /// The same for programs: an object.
    facts: Value,
    /// How much of all processors was in use while bulk went, at most, by whomever.
    pub(crate) busy: f64,
}

/// Above this, processors decide how long things take, and not lines.
const SATURATED: f64 = 0.9;

impl Report {
    pub(crate) fn new(head: String, facts: Value) -> Self {
        Self { rows: Vec::new(), head, facts, busy: 0.0 }
    }

    pub(crate) fn note(
        &mut self,
        row: &'static str,
        figure: &str,
        value: (f64, &'static str),
        most: Option<f64>,
        words: String,
    ) {
        let (measured, unit) = value;
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

    fn as_json(&self) -> Value {
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
        let mut told = self.facts.clone();
        if let Some(told) = told.as_object_mut() {
            told.insert("processors".to_owned(), json!(Self::processors()));
            told.insert("processors_busy".to_owned(), json!(self.busy));
            told.insert("processors_saturated".to_owned(), json!(self.busy > SATURATED));
            told.insert("rows".to_owned(), json!(rows));
        }
        told
    }
}
