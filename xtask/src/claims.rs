//! Joins PROMISES.md with what the tests did: target/claims.json, and what is broken in it.

use serde::Serialize;

use crate::figures;
use crate::promises::{Promise, Proof, State};
use crate::suite::{Outcome, Verdict};

/// One promise beside one of its proofs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Claim {
    pub(crate) row: String,
    pub(crate) claim: String,
    pub(crate) test: String,
    /// passed, failed, skipped, measured, missing, open, not met
    pub(crate) result: &'static str,
    /// What the test printed after `evidence: `, or the measurement.
    pub(crate) evidence: Vec<String>,
    pub(crate) reason: String,
}

impl Claim {
    /// Nothing ran that could hold the promise. (A failed test is counted as a test already.)
    pub(crate) fn is_missing(&self) -> bool {
        self.result == "missing"
    }
}

/// Every promise with each of its proofs. `results` is the text of bench/RESULTS.md, if it exists.
pub(crate) fn join(promises: &[Promise], outcomes: &[Outcome], results: Option<&str>) -> Vec<Claim> {
    let mut claims = Vec::new();
    for promise in promises {
        for proof in &promise.tests {
            claims.extend(of_proof(promise, proof, outcomes, results));
        }
    }
    claims
}

fn of_proof(promise: &Promise, proof: &Proof, outcomes: &[Outcome], results: Option<&str>) -> Vec<Claim> {
    let claim = |test: String, result, evidence, reason: &str| Claim {
        row: promise.row.clone(),
        claim: promise.claim.clone(),
        test,
        result,
        evidence,
        reason: reason.to_owned(),
    };
    match &promise.state {
        State::Open => return vec![claim(proof.name(), "open", Vec::new(), "not built yet")],
        State::NotMet(measured) => {
            return vec![claim(
                proof.name(),
                "not met",
                vec![measured.clone()],
                "the bar is not reached yet",
            )];
        }
        State::Held => {}
    }
    if let Proof::Figure(anchor) = proof {
        let read = results
            .map_or(Err("there is no bench/RESULTS.md".to_owned()), |text| figures::read(text, anchor));
        return vec![match read {
            Ok(lines) => claim(proof.name(), "measured", lines, ""),
            Err(why) => claim(proof.name(), "missing", Vec::new(), &why),
        }];
    }
    let ran: Vec<Claim> = outcomes
        .iter()
        .filter(|outcome| proof.covers(&outcome.id))
        .map(|outcome| match &outcome.verdict {
            Verdict::Passed => claim(outcome.id.clone(), "passed", outcome.evidence.clone(), ""),
            Verdict::Failed(why) => claim(outcome.id.clone(), "failed", outcome.evidence.clone(), why),
            Verdict::Skipped(why) => claim(outcome.id.clone(), "skipped", outcome.evidence.clone(), why),
        })
        .collect();
    if ran.is_empty() {
        return vec![claim(proof.name(), "missing", Vec::new(), "its test did not run")];
    }
    ran
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::parse;

    fn outcome(id: &str, verdict: Verdict) -> Outcome {
        Outcome {
            id: id.into(),
            verdict,
            evidence: vec!["9 kills".into()],
            output: String::new(),
            seconds: 0.0,
        }
    }

    fn results(row: &str, outcomes: &[Outcome]) -> Vec<&'static str> {
        let promises = parse(row).unwrap();
        join(&promises, outcomes, Some("## P1\n\n| a | 1 | 2 | 0.5 | <= 1 | met |\n\n## P2\n\n| a | 1 | 2 | 2.5 | <= 1 | **not met** |\n")).iter().map(|c| c.result).collect()
    }

    #[test]
    fn a_held_row_whose_test_did_not_run_is_missing() {
        let ran = [outcome("p::t::a", Verdict::Passed), outcome("p::t::b", Verdict::Skipped("why".into()))];
        assert_eq!(results("| A1 | c | `p::t::a`, `p::t::gone` | held |", &ran), ["passed", "missing"]);
        assert_eq!(results("| A1 | c | `p::t::*` | held |", &ran), ["passed", "skipped"]);
        assert_eq!(results("| A1 | c | `p::u::*` | held |", &ran), ["missing"]);
    }

    #[test]
    fn open_and_unmet_rows_are_shown_and_do_not_fail() {
        assert_eq!(results("| A1 | c | `p::t::a` | open |", &[]), ["open"]);
        assert_eq!(results("| A1 | c | `p::t::a` | not met: 3 ms |", &[]), ["not met"]);
    }

    #[test]
    fn a_figure_holds_its_row_only_where_it_meets_its_bar() {
        assert_eq!(results("| P1 | c | `bench/RESULTS.md#p1` | held |", &[]), ["measured"]);
        assert_eq!(results("| P2 | c | `bench/RESULTS.md#p2` | held |", &[]), ["missing"]);
        assert_eq!(results("| P9 | c | `bench/RESULTS.md#p9` | held |", &[]), ["missing"]);
    }

    #[test]
    fn the_rows_of_this_tree_that_are_held_by_figures_are_held_by_them() {
        let promises = parse(include_str!("../../PROMISES.md")).unwrap();
        let claims = join(&promises, &[], Some(include_str!("../../bench/RESULTS.md")));
        for claim in claims.iter().filter(|claim| claim.test.starts_with("bench/RESULTS.md#")) {
            assert_ne!(claim.result, "missing", "{}: {}", claim.row, claim.reason);
        }
    }
}
