//! Another program on the same work: its figures beside ours, round by round.
//!
//! A ratio is taken within each round, because the machine drifts between them; its median is what counts.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Failure;
use crate::report::Spread;
use crate::transfer::{Swarm, Transfer};

/// One figure of both.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    pub(crate) figure: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: Spread,
    pub(crate) theirs: Spread,
    /// Theirs over ours; none where there is nothing to divide by.
    pub(crate) ratio: Option<Spread>,
}

impl Compared {
    fn new(figure: &'static str, unit: &'static str, ours: &[f64], theirs: &[f64]) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours).collect();
        let ratio = ours.iter().all(|ours| *ours > 0.0).then(|| Spread::of(&ratios));
        Self { figure, unit, ours: Spread::of(ours), theirs: Spread::of(theirs), ratio }
    }

    pub(crate) fn as_json(&self) -> Value {
        let ratio = self.ratio.map(Spread::as_json);
        json!({
            "figure": self.figure, "unit": self.unit, "ratio": ratio,
            "ours": self.ours.as_json(), "theirs": self.theirs.as_json(),
        })
    }

    /// Each cell of its row: ours, theirs, the ratio.
    pub(crate) fn cells(&self) -> [String; 3] {
        let shown = |spread: &Spread| spread.shown(self.unit);
        [shown(&self.ours), shown(&self.theirs), self.ratio.map(|ratio| ratio.shown("")).unwrap_or_default()]
    }
}

/// What a program says that it is, set so.
pub(crate) fn name(program: &Path, settings: &str) -> Result<String, Failure> {
    let said = Command::new(program).args(["name", settings]).stdin(Stdio::null()).output();
    let said = said.map_err(|error| format!("{}: {error}; build it first", program.display()))?;
    let name = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if !said.status.success() || name.is_empty() || name.lines().count() > 1 {
        let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        return Err(format!("{} does not say its name: {why}", program.display()).into());
    }
    Ok(name)
}

/// All figures of both. `idle_ms`: what a small message takes while nothing else is sent, ours and theirs.
pub(crate) fn rows(
    swarm: &Swarm,
    ours: &[Transfer],
    theirs: &[Transfer],
    idle_ms: (f64, f64),
) -> Vec<Compared> {
    let row = |figure, unit, what: &dyn Fn(&Transfer) -> f64| {
        let each = |rounds: &[Transfer]| rounds.iter().map(what).collect::<Vec<f64>>();
        Compared::new(figure, unit, &each(ours), &each(theirs))
    };
    let given = |one: &Transfer| swarm.given(one);
    vec![
        row("written to sockets / useful", "", &|one| one.written / given(one)),
        row("sent on the lines / useful", "", &|one| one.crossed / given(one)),
        row("bodies that came twice, of what is useful", "%", &|one| one.wasted / given(one) * 100.0),
        row("time until all have it", "s", &Transfer::last),
        row("time until all have it / the least", "", &|one| one.last() / swarm.bound(one.bytes)),
        Compared::new("p99 of a small message, idle", "ms", &[idle_ms.0], &[idle_ms.1]),
        row("p99 of a small message beside bulk", "ms", &|one| one.beside.unwrap_or_default().0),
        row("processor time of all nodes", "s", &|one| one.processors),
        row("messages without room or too late", "", &|one| one.lost),
    ]
}

#[cfg(test)]
mod tests {
    use super::Compared;

    #[test]
    fn a_ratio_is_taken_in_each_round_and_not_where_there_is_nothing() {
        // The machine drifts by three between rounds; theirs takes five times as long in each.
        let row = Compared::new("time", "s", &[1.0, 3.0, 2.0], &[5.0, 15.0, 10.0]);
        let ratio = row.ratio.expect("each round has one");
        assert_eq!((ratio.least, ratio.median, ratio.greatest), (5.0, 5.0, 5.0));
        assert_eq!(row.cells(), ["2.000 s (1.000 - 3.000)", "10.000 s (5.000 - 15.000)", "5.000"]);
        assert!(Compared::new("twice", "%", &[0.0, 1.0], &[5.0, 5.0]).ratio.is_none());
    }
}
