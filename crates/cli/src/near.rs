//! Names that are near a name: for a subscriber that nobody publishes to.
//!
//! It only suggests; it never decides.

use std::io::{self, IsTerminal, Write};

use busway::Bus;
use busway_node::near::distance;

/// At most this many suggestions: more is a list, and `busway ls` is the list.
const SUGGESTIONS_MAX: usize = 3;

/// Names longer than this are not compared: the cost grows with the square.
const COMPARED_MAX: usize = 255;

/// Whether a person reads the notes.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Says on stderr that nobody publishes, and what is near.
pub(crate) fn tell(bus: &Bus, patterns: &[String]) {
    // A hint must not end the command: a bus that does not answer is found by the next receive.
    let Ok(inspection) = bus.inspect() else { return };
    let topics: Vec<&str> = inspection
        .topics
        .iter()
        .filter(|topic| !topic.publishers.is_empty())
        .map(|topic| topic.topic.as_str())
        .collect();
    let mut stderr = io::stderr().lock();
    for pattern in patterns {
        let near = nearest(pattern, &topics);
        let _ = match (near.is_empty(), topics.is_empty()) {
            (false, _) => writeln!(stderr, "nobody publishes {pattern}; near: {}", near.join(", ")),
            (true, false) => writeln!(stderr, "nobody publishes {pattern}; busway ls shows what there is"),
            (true, true) => {
                writeln!(stderr, "nobody publishes {pattern}, nor anything else, in this domain yet")
            }
        };
    }
}

/// The names near `wanted`, the nearest first.
pub(crate) fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Vec<&'a str> {
    let allowed = (wanted.chars().count() / 3).max(2);
    let mut found: Vec<(usize, &str)> = names
        .iter()
        .filter(|name| name.len() <= COMPARED_MAX && wanted.len() <= COMPARED_MAX)
        .map(|name| (distance(wanted, name), *name))
        .filter(|(distance, name)| *distance <= allowed || shares_first_token(wanted, name))
        .collect();
    found.sort_unstable();
    found.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| name).collect()
}

/// `price.tick` is near `price.tock.usd`, however many characters differ.
fn shares_first_token(wanted: &str, name: &str) -> bool {
    wanted.contains('.') && name.contains('.') && wanted.split('.').next() == name.split('.').next()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_error_finds_the_name() {
        let names = ["flights", "price.tick", "price.tock", "weather"];
        assert_eq!(nearest("flihgts", &names), ["flights"]);
        assert_eq!(nearest("price.tikc", &names), ["price.tick", "price.tock"]);
        assert_eq!(nearest("nothing", &names), Vec::<&str>::new());
    }
}
