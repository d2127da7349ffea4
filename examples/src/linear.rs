//! Whether a history of increments of one counter could have happened one after the other.
//!
//! An increment returns the counter behind it, so its place in the order is its value: nothing has to be searched for.
//! The history is linearisable if no value is given twice, if what had ended before something else began has the smaller
//! value, and if each value that nobody was told of can be that of an increment whose outcome is not known. It knows
//! neither the workload nor the cluster, and takes what was seen from outside only.
//!
//! Invariant: a history that passes has an order in which each increment adds one, between its beginning and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// One increment, as its client saw it. It may have been sent several times, under one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked.
    pub client: u64,
    /// The client's number for it.
    pub request: u64,
    /// When it was first sent.
    pub invoked_ns: u64,
    /// When the answer came, and what it said; `None` if none came: it may have happened or not.
    pub answer: Option<Answer>,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// When.
    pub responded_ns: u64,
    /// The counter behind this increment.
    pub value: u64,
}

/// What was found in a history that passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Increments that were answered.
    pub acknowledged: u64,
    /// Increments that were not, and were counted all the same.
    pub unacknowledged_applied: u64,
    /// Increments that were not, and were not counted.
    pub unacknowledged_lost: u64,
}

/// Why a history cannot have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// One request stands in the history twice.
    Repeated(Operation),
    /// It was answered before it was sent.
    Backwards(Operation),
    /// Two increments have one value: one of them was lost, or one answer was invented.
    SameValue(Operation, Operation),
    /// A value that the counter never had: an acknowledged increment is missing in it.
    Beyond(Operation, u64),
    /// The first had ended before the second began, and has a larger value.
    Order(Operation, Operation),
    /// This value belongs to nobody: an increment was counted twice.
    Nobody(u64),
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeated(one) => write!(formatter, "one request twice: {one:?}"),
            Self::Backwards(one) => write!(formatter, "answered before it was sent: {one:?}"),
            Self::SameValue(one, other) => write!(formatter, "one value twice: {one:?} and {other:?}"),
            Self::Beyond(one, counter) => write!(formatter, "{one:?} with a counter of {counter}"),
            Self::Order(one, other) => {
                write!(formatter, "{one:?} had ended before {other:?} began, and comes after it")
            }
            Self::Nobody(value) => write!(formatter, "the value {value} is nobody's"),
        }
    }
}

impl std::error::Error for Violation {}

/// Checks a history against the counter that was read when all of it was over.
///
/// ```
/// use busway_examples::linear::{Answer, Operation, check};
///
/// let increment = |client, invoked_ns, responded_ns, value| Operation {
///     client,
///     request: 1,
///     invoked_ns,
///     answer: Some(Answer { responded_ns, value }),
/// };
/// assert!(check(&[increment(1, 0, 10, 1), increment(2, 5, 15, 2)], 2).is_ok());
/// // The second began when the first had ended.
/// assert!(check(&[increment(1, 0, 10, 2), increment(2, 11, 15, 1)], 2).is_err());
/// ```
///
/// # Errors
/// The first [`Violation`] that is found.
pub fn check(history: &[Operation], counter: u64) -> Result<Summary, Violation> {
    let mut seen = BTreeSet::new();
    let mut by_value: BTreeMap<u64, (Operation, Answer)> = BTreeMap::new();
    let mut open: Vec<Operation> = Vec::new();
    for operation in history {
        if !seen.insert((operation.client, operation.request)) {
            return Err(Violation::Repeated(*operation));
        }
        let Some(answer) = operation.answer else {
            open.push(*operation);
            continue;
        };
        if answer.responded_ns < operation.invoked_ns {
            return Err(Violation::Backwards(*operation));
        }
        if answer.value == 0 || answer.value > counter {
            return Err(Violation::Beyond(*operation, counter));
        }
        if let Some((other, _)) = by_value.insert(answer.value, (*operation, answer)) {
            return Err(Violation::SameValue(other, *operation));
        }
    }
    let acknowledged = by_value.len() as u64;
    let holes = in_order(&by_value, counter)?;
    let unacknowledged_applied = holes.len() as u64;
    let unknown = open.len() as u64;
    fill(holes, open)?;
    Ok(Summary {
        acknowledged,
        unacknowledged_applied,
        unacknowledged_lost: unknown - unacknowledged_applied,
    })
}

/// A value that nobody was told of: whoever has it began before this time, because something behind it had ended then.
struct Hole {
    value: u64,
    before_ns: u64,
}

/// From the largest value to the smallest: whatever is smaller began before the earliest end of what is larger.
fn in_order(by_value: &BTreeMap<u64, (Operation, Answer)>, counter: u64) -> Result<Vec<Hole>, Violation> {
    let mut holes = Vec::new();
    let mut earliest: Option<(Operation, Answer)> = None;
    for value in (1..=counter).rev() {
        let Some((operation, answer)) = by_value.get(&value) else {
            let before_ns = earliest.map_or(u64::MAX, |(_, later)| later.responded_ns);
            holes.push(Hole { value, before_ns });
            continue;
        };
        if let Some((later, end)) = earliest
            && end.responded_ns < operation.invoked_ns
        {
            return Err(Violation::Order(later, *operation));
        }
        if earliest.is_none_or(|(_, end)| answer.responded_ns < end.responded_ns) {
            earliest = Some((*operation, *answer));
        }
    }
    Ok(holes)
}

/// Finds for each hole an increment without an answer that began early enough. Holes come with the largest value first, and
/// the smaller one allows no later beginning; so the smallest takes the earliest.
fn fill(holes: Vec<Hole>, mut open: Vec<Operation>) -> Result<(), Violation> {
    open.sort_unstable_by_key(|operation| operation.invoked_ns);
    let mut open = open.into_iter();
    for hole in holes.into_iter().rev() {
        match open.next() {
            Some(operation) if operation.invoked_ns <= hole.before_ns => {}
            Some(_) | None => return Err(Violation::Nobody(hole.value)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Answer, Operation, Summary, Violation, check};

    fn told(request: u64, invoked_ns: u64, responded_ns: u64, value: u64) -> Operation {
        Operation { client: 1, request, invoked_ns, answer: Some(Answer { responded_ns, value }) }
    }

    fn untold(request: u64, invoked_ns: u64) -> Operation {
        Operation { client: 1, request, invoked_ns, answer: None }
    }

    #[test]
    fn what_could_have_happened_passes() {
        let all = [told(1, 0, 10, 2), told(2, 0, 12, 1), untold(3, 5), untold(4, 40), told(5, 20, 30, 4)];
        let summary = Summary { acknowledged: 3, unacknowledged_applied: 1, unacknowledged_lost: 1 };
        assert_eq!(check(&all, 4), Ok(summary));
        assert_eq!(check(&[], 0), Ok(Summary::default()));
    }

    #[test]
    fn what_cannot_have_happened_is_refused_with_its_reason() {
        let good = told(1, 0, 10, 1);
        for (history, counter, why) in [
            (vec![good, told(2, 0, 9, 1)], 2, "one value twice"),
            (vec![good, told(2, 11, 20, 3)], 2, "with a counter of 2"),
            (vec![good], 0, "with a counter of 0"),
            (vec![told(2, 0, 9, 2), told(3, 10, 20, 1)], 2, "had ended before"),
            (vec![told(2, 0, 9, 3), told(3, 0, 30, 2), told(4, 10, 20, 1)], 3, "had ended before"),
            (vec![good], 2, "the value 2 is nobody's"),
            (vec![good, untold(2, 0)], 3, "is nobody's"),
            // Who was not told began too late to be in front of what had ended.
            (vec![told(1, 0, 10, 2), untold(2, 11)], 2, "the value 1 is nobody's"),
            (vec![good, good], 2, "one request twice"),
            (vec![told(1, 10, 9, 1)], 1, "before it was sent"),
        ] {
            let found = check(&history, counter).unwrap_err();
            assert!(found.to_string().contains(why), "{found} is not: {why}");
        }
        assert_eq!(check(&[good], 2), Err(Violation::Nobody(2)));
    }
}
