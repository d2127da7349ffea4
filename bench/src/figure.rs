//! A figure: which cells it compares, and what it promises of them.
//!
//! Figures are data, so that the page, the plots and the rounds cannot disagree about them.

pub mod catalogue;
pub mod page;
pub mod plot;
pub mod rounds;

use crate::plan::Plan;

/// One figure of the report.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Its name in the list of targets.
    pub id: &'static str,
    /// What it is, in one line.
    pub title: &'static str,
    /// How it is measured, for the page.
    pub method: &'static str,
    /// The cells, in the order in which each round runs them.
    pub cells: Vec<Plan>,
    /// What is said about them.
    pub claims: Vec<Claim>,
    /// Not part of a plain report: it takes minutes of a whole machine.
    pub by_hand: bool,
    /// Rounds, where fewer than usual are enough; never more than asked for.
    pub rounds_max: u64,
}

/// One row of a figure's table.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What the row is about.
    pub name: String,
    /// What is looked at.
    pub value: Reading,
    /// What it is compared with.
    pub against: Against,
    /// What is promised, if anything.
    pub bar: Bar,
}

/// One number of one cell.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Label of the cell.
    pub cell: String,
    /// Name of the number; its ending is the unit. `p50`, `p99`, `p999`, `max` read the latencies.
    pub name: &'static str,
}

/// What a reading is compared with.
#[derive(Debug, Clone)]
pub enum Against {
    /// Nothing: the number itself is judged.
    Nothing,
    /// The ratio to another reading of the same round is judged.
    Over(Reading),
    /// The difference to another reading of the same round is judged.
    Minus(Reading),
}

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// Nothing: the row is there to be seen.
    None,
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Bar {
    /// Whether `value` keeps the promise.
    pub fn met(self, value: f64) -> bool {
        match self {
            Self::None => true,
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// Median, minimum and maximum over the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The middle round.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some numbers; nothing of none.
    pub fn of(numbers: &[f64]) -> Option<Self> {
        let first = *numbers.first()?;
        let min = numbers.iter().copied().fold(first, f64::min);
        let max = numbers.iter().copied().fold(first, f64::max);
        Some(Self { median: crate::outcome::median(numbers), min, max })
    }
}
