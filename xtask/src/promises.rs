//! PROMISES.md: each promise to users, the test that holds it, and whether it holds today.
//!
//! A row is `| row | promise | test | state |`. The test column names tests in backticks, with commas between:
//! `package::target::name`, a prefix that ends in `*`, or `bench/RESULTS.md#row` for figures that meet their bars. The
//! state is `held`, `open` (not built yet) or `not met: what was measured`.

use crate::failure::Failure;

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) row: String,
    pub(crate) claim: String,
    pub(crate) tests: Vec<Proof>,
    pub(crate) state: State,
    /// The line in PROMISES.md, from 1.
    pub(crate) line: usize,
}

/// What shows that a promise holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// One test: `package::target::name`.
    Test(String),
    /// Every test whose id begins so; there must be one at least.
    Prefix(String),
    /// A section of bench/RESULTS.md whose figures meet their bars.
    Figure(String),
}

/// Whether a promise holds today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Held,
    Open,
    NotMet(String),
}

const FIGURES: &str = "bench/RESULTS.md#";

impl Proof {
    /// Whether the test `id` is (one of) those named here.
    pub(crate) fn covers(&self, id: &str) -> bool {
        match self {
            Proof::Test(name) => name == id,
            Proof::Prefix(prefix) => id.starts_with(prefix),
            Proof::Figure(_) => false,
        }
    }

    /// As it stands in the table.
    pub(crate) fn name(&self) -> String {
        match self {
            Proof::Test(name) => name.clone(),
            Proof::Prefix(prefix) => format!("{prefix}*"),
            Proof::Figure(anchor) => format!("{FIGURES}{anchor}"),
        }
    }
}

/// Reads the rows of every table in `text`; what looks like a row and is none is an error.
pub(crate) fn parse(text: &str) -> Result<Vec<Promise>, Failure> {
    let mut promises: Vec<Promise> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(inner) = line.trim().strip_prefix('|').and_then(|l| l.strip_suffix('|')) else { continue };
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        let head = cells.first().is_some_and(|c| *c == "row" || c.chars().all(|c| c == '-' || c == ' '));
        if head {
            continue;
        }
        let promise = row(&cells, index + 1)?;
        if promises.iter().any(|p| p.row == promise.row) {
            return Err(bad(index + 1, &format!("row {} stands twice", promise.row)));
        }
        promises.push(promise);
    }
    Ok(promises)
}

fn row(cells: &[&str], line: usize) -> Result<Promise, Failure> {
    let [row, claim, tests, state] = cells else {
        return Err(bad(line, &format!("{} cells where four are expected", cells.len())));
    };
    let state = match *state {
        "held" => State::Held,
        "open" => State::Open,
        other => match other.strip_prefix("not met:") {
            Some(measured) if !measured.trim().is_empty() => State::NotMet(measured.trim().to_owned()),
            _ => return Err(bad(line, &format!("`{other}` is no state"))),
        },
    };
    // What stands between backticks: every second piece.
    let tests: Vec<Proof> = tests.split('`').skip(1).step_by(2).map(proof).collect();
    if row.is_empty() || claim.is_empty() || tests.is_empty() {
        return Err(bad(line, "a row, a promise and at least one test in backticks are needed"));
    }
    Ok(Promise { row: (*row).to_owned(), claim: (*claim).to_owned(), tests, state, line })
}

fn proof(name: &str) -> Proof {
    if let Some(anchor) = name.strip_prefix(FIGURES) {
        return Proof::Figure(anchor.to_owned());
    }
    match name.strip_suffix('*') {
        Some(prefix) => Proof::Prefix(prefix.to_owned()),
        None => Proof::Test(name.to_owned()),
    }
}

fn bad(line: usize, cause: &str) -> Failure {
    Failure::new(
        format!("PROMISES.md:{line}: {cause}"),
        "| row | promise | `package::target::test` | held, open, or not met: what was measured |",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "| row | promise | test | state |\n| --- | --- | --- | --- |\n";

    #[test]
    fn rows_are_read_with_every_kind_of_proof_and_state() {
        let text = format!(
            "Words.\n\n{HEAD}| A1 | no daemon | `busway::memory::a`, `busway::policies::*` | held |\n\
             | P1 | fast | `bench/RESULTS.md#p1` | not met: 1.4 |\n| A2 | calm | `busway::memory::b` | open |\n"
        );
        let rows = parse(&text).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].tests[0], Proof::Test("busway::memory::a".into()));
        assert!(rows[0].tests[1].covers("busway::policies::fail"));
        assert_eq!(rows[1].tests[0], Proof::Figure("p1".into()));
        assert_eq!(rows[1].state, State::NotMet("1.4".into()));
        assert_eq!((rows[2].state.clone(), rows[2].line), (State::Open, 7));
    }

    #[test]
    fn a_malformed_row_is_refused_with_its_line() {
        for row in [
            "| A1 | claim | `x::y::z` | done |",
            "| A1 | claim | x::y::z | held |",
            "| A1 | claim | `x::y::z` | not met: |",
            "| A1 | claim | held |",
            "| A1 | a | `x::y::z` | held |\n| A1 | b | `x::y::z` | held |",
        ] {
            let error = parse(&format!("{HEAD}{row}\n")).unwrap_err().to_string();
            assert!(error.contains("PROMISES.md:"), "{row}: {error}");
        }
    }
}
