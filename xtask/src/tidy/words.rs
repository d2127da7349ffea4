//! Words that must not stay in the repository.

use crate::source;
use crate::tidy::Finding;
use crate::tree::Tree;

/// In code: (text, where, why, what instead)
const IN_CODE: &[(&str, Where, &str, &str)] = &[
    ("todo!(", Where::Everywhere, "unfinished code", "finish it, or return an error that says so"),
    ("unimplemented!(", Where::Everywhere, "unfinished code", "finish it, or return an error that says so"),
    ("#[ignore", Where::Everywhere, "a test that never runs", "let it print `skipped: REASON` and return"),
    ("#[should_panic", Where::Everywhere, "any panic passes", "compare the error"),
    ("thread::sleep", Where::Tests, "a test that waits for time", "wait for the event, with a deadline"),
];

/// In any text: (words, why)
const IN_TEXT: &[(&str, &str)] = &[
    ("FIXME", "a known fault is left in place"),
    ("/home/", "a path of one machine"),
    ("/root/", "a path of one machine"),
    ("/work/", "a path of one machine"),
    ("/Users/", "a path of one machine"),
    ("shared/design", "a page that is not in this repository"),
    ("shared/seeds", "a page that is not in this repository"),
    ("helper agent", "the project speaks of itself alone"),
    ("sandbox session", "the project speaks of itself alone"),
];

/// What reads the wall clock, which anybody may set at any time.
const WALL_CLOCK: &[&str] =
    &["realtime_ns(", "realtime_coarse_ns(", "SystemTime", "ClockId::Realtime", "CLOCK_REALTIME"];

/// Where that is wanted: the clock itself, the time that a message carries, and that of its id, which rises also where the clock goes back.
const WALL_CLOCK_IN: &[&str] =
    &["crates/shm/src/clock.rs", "crates/busway/src/publisher.rs", "crates/busway/src/ids.rs"];

// The lists above, and the tests that break each rule.
const EXEMPT: &[&str] = &["xtask/src/tidy/words.rs", "xtask/src/tidy/tests.rs"];

#[derive(PartialEq, Eq)]
enum Where {
    Everywhere,
    Tests,
}

/// Nothing that is shipped waits, or decides, by a clock that somebody may set.
pub(crate) fn wall_clock(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.rust().filter(|(path, _)| path.starts_with("crates/") && path.contains("/src/"))
    {
        if WALL_CLOCK_IN.contains(&path) || path.ends_with("tests.rs") || path.contains("/tests/") {
            continue;
        }
        let code = source::code(text);
        for words in WALL_CLOCK {
            for line in source::lines_with(&code, words) {
                out.push(Finding::new(
                    path,
                    line,
                    format!("`{words}`: the wall clock may be set at any time"),
                    "ask for monotonic_ns, or argue for the file in xtask/src/tidy/words.rs",
                ));
            }
        }
    }
}

/// Each word of the lists, in each file.
pub(crate) fn check(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.files.iter().filter(|(path, _)| !EXEMPT.contains(&path.as_str())) {
        for (words, why) in IN_TEXT {
            for line in source::lines_with(text, words) {
                out.push(Finding::new(path, line, format!("`{words}`: {why}"), "say it without, or mend it"));
            }
        }
        if !path.ends_with(".rs") {
            continue;
        }
        let code = source::code(text);
        let test = path.contains("/tests/") || path.ends_with("tests.rs");
        for (words, place, why, instead) in IN_CODE {
            if *place == Where::Tests && !test {
                continue;
            }
            for line in source::lines_with(&code, words) {
                out.push(Finding::new(path, line, format!("`{words}`: {why}"), *instead));
            }
        }
    }
}
