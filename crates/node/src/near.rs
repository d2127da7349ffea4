//! How far one word is from another: for the "did you mean" of names that nobody knows.
//!
//! Distance is the number of characters inserted, removed, replaced or swapped. It suggests; it never decides.

/// Words longer than this are not compared: the cost grows with the square.
const COMPARED_MAX: usize = 255;

/// The word of `known` that is nearest to `wanted`, if one is near.
///
/// ```
/// assert_eq!(busway_node::near::nearest("clutser", ["index", "cluster"]), Some("cluster"));
/// assert_eq!(busway_node::near::nearest("colour", ["index", "cluster"]), None);
/// ```
#[must_use]
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (wanted.chars().count() / 3).max(2);
    let compared = |word: &&str| word.len() <= COMPARED_MAX && wanted.len() <= COMPARED_MAX;
    let near = known.into_iter().filter(compared).map(|word| (distance(wanted, word), word));
    near.filter(|(distance, _)| *distance <= allowed).min().map(|(_, word)| word)
}

/// Edits between two words, where swapping two neighbours is one edit.
#[must_use]
pub fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = vec![0; right.len() + 1];
    let mut last: Vec<usize> = (0..=right.len()).collect();
    let mut previous = None;
    for (row, character) in left.chars().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let replaced = last[column] + usize::from(character != *other);
            let mut best = replaced.min(last[column + 1] + 1).min(line[column] + 1);
            if column > 0 && previous == Some(*other) && right[column - 1] == character {
                best = best.min(before[column - 1] + 1);
            }
            line.push(best);
        }
        previous = Some(character);
        before = std::mem::replace(&mut last, line);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distance_counts_edits_and_a_swap_is_one() {
        for (left, right, edits) in
            [("", "", 0), ("a", "", 1), ("flights", "flihgts", 1), ("price", "prices", 1), ("abc", "xyz", 3)]
        {
            assert_eq!(distance(left, right), edits, "{left} {right}");
            assert_eq!(distance(right, left), edits, "{right} {left}");
        }
    }
}
