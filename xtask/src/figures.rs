//! Whether bench/RESULTS.md holds up a promise: its figures against their bars.
//!
//! A figure's section begins with `## P1` and has a table with the columns figure, measured, floor or rival, ratio or
//! difference, bar and verdict, as `busway-bench report` writes it. The verdict is not believed: number and bar are
//! compared here as well. A section of which any part was not measured or not met holds nothing up.
//!
//! It does not measure, and says nothing of how the numbers came about.

/// The rows of the section that have a bar, all of them met, or why the section holds nothing up.
pub(crate) fn read(results: &str, anchor: &str) -> Result<Vec<String>, String> {
    let mut inside = results.lines().skip_while(|line| !heads(line, anchor));
    if inside.next().is_none() {
        return Err("bench/RESULTS.md has no such section".to_owned());
    }
    let mut judged = Vec::new();
    for line in inside.take_while(|line| !line.starts_with("## ")) {
        if let Some(what) = ["not measured", "not met"].into_iter().find(|what| line.contains(what)) {
            return Err(format!("bench/RESULTS.md says \"{what}\": {}", line.trim()));
        }
        if let Some(row) = row(line) {
            row.check()?;
            judged.push(line.trim().trim_matches('|').trim().to_owned());
        }
    }
    if judged.is_empty() {
        return Err("its section in bench/RESULTS.md has no figure with a bar".to_owned());
    }
    Ok(judged)
}

fn heads(line: &str, anchor: &str) -> bool {
    let title = line.strip_prefix("## ").unwrap_or_default();
    title.split([' ', ':']).next().is_some_and(|first| first.eq_ignore_ascii_case(anchor))
}

/// A row of the table that has a bar.
struct Row<'a> {
    name: &'a str,
    /// The ratio or difference, where there is one; else what was measured.
    value: &'a str,
    bar: &'a str,
    verdict: &'a str,
}

fn row(line: &str) -> Option<Row<'_>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
    let [name, measured, _, ratio, bar, verdict] = cells[..] else { return None };
    let value = if ratio.is_empty() { measured } else { ratio };
    (bar.starts_with("<=") || bar.starts_with(">=")).then_some(Row { name, value, bar, verdict })
}

impl Row<'_> {
    fn check(&self) -> Result<(), String> {
        let Self { name, value, bar, verdict } = self;
        let (sign, limit) = bar.split_at(2);
        let (value_number, value_unit) = number(value).ok_or(format!("{name}: `{value}` is no number"))?;
        let (limit_number, limit_unit) = number(limit).ok_or(format!("{name}: `{limit}` is no number"))?;
        if value_unit != limit_unit {
            return Err(format!("{name}: {value} cannot be compared with {bar}"));
        }
        let holds = if sign == "<=" { value_number <= limit_number } else { value_number >= limit_number };
        if !holds || *verdict != "met" {
            return Err(format!("{name}: {value} against {bar}, verdict `{verdict}`"));
        }
        Ok(())
    }
}

/// The first number of a cell and its unit; times are in nanoseconds.
fn number(cell: &str) -> Option<(f64, &str)> {
    let mut words = cell.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let unit = words.next().filter(|word| !word.starts_with('(')).unwrap_or("");
    Some(match unit {
        "us" => (number * 1e3, "ns"),
        "ms" => (number * 1e6, "ns"),
        "s" => (number * 1e9, "ns"),
        other => (number, other),
    })
}

#[cfg(test)]
mod tests {
    use super::read;

    fn page(rows: &str) -> String {
        format!(
            "## P2\n\n| a | 1 | | | <= 0 | **not met** |\n\n## P1\n\nWords.\n\n| figure | measured | floor or rival | \
             ratio or difference | bar | |\n| --- | --- | --- | --- | --- | --- |\n{rows}\n\n## P10\n\nnot measured yet.\n"
        )
    }

    #[test]
    fn a_section_whose_figures_meet_their_bars_holds() {
        let met = "| us over ring | 2.0 us (1 us - 3 us) | 1.0 us | 1.000 (0.9 - 1.1) | <= 1.000 | met |\n\
                   | alone | 999.0 us (1 us - 2 us) |  |  | <= 1.00 ms | met |\n| other | 7 | 8 | 9 |  |  |\n\
                   | rate | 12.0 M/s (1 M/s - 13 M/s) |  |  | >= 10.00 M/s | met |";
        assert_eq!(read(&page(met), "p1").expect("it holds").len(), 3);
    }

    #[test]
    fn a_section_that_says_less_than_that_does_not_hold() {
        for rows in [
            "",
            "not measured yet.",
            "| a | 1 | 2 | 0.500 | <= 1.000 | **not met** |",
            "| a | 1 | 2 | 1.001 (0.9 - 1.1) | <= 1.000 | met |",
            "| a | 1 | 2 | 0.500 | <= 1.000 |  |",
            "| a | 9.99 M/s |  |  | >= 10.00 M/s | met |",
            "| a | 1.01 ms |  |  | <= 1000.0 us | met |",
            "| a | 9 KB |  |  | <= 10.00 MB | met |",
            "| a | nothing |  |  | <= 10.00 MB | met |",
            "| a | 0.5 | 2 | 0.5 |  |  |",
            "| a | 1 | | 0.5 | <= 1 | met |\n| b | 1 | | 2.0 | <= 1 | met |",
        ] {
            assert!(read(&page(rows), "p1").is_err(), "{rows}");
        }
        assert!(read(&page(""), "p10").is_err() && read(&page(""), "p").is_err());
    }
}
