//! The log: what is said to who runs the program, through `tracing`.
//!
//! Nothing is logged for a message that went its way. Each kind of failure has one line a second, which says how many
//! were held back before it: a thousand deaths, or a subscriber that is full for an hour, are no flood.
//!
//! Invariant: what comes from a peer (its name) is escaped by who makes the line.

/// What is logged, each kind at most once a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    Death,
    Hang,
    Refusal,
    Mismatch,
    Descriptors,
    Silent,
    Full,
    Stalled,
    Evicted,
    Budget,
    Role,
    Handler,
    Slow,
}

/// Lets one line a second of each kind through and counts the rest.
#[derive(Debug, Default)]
pub(crate) struct Log {
    limits: std::collections::BTreeMap<Line, Limit>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Limit {
    next_ns: u64,
    held_back: u64,
}

const LINE_INTERVAL_NS: u64 = 1_000_000_000;

impl Log {
    /// Logs `line` as a warning, unless one of its kind was logged within the last second.
    pub(crate) fn warn(&mut self, kind: Line, now_ns: u64, line: impl FnOnce() -> String) {
        if let Some(held_back) = self.pass(kind, now_ns) {
            let (line, kind) = (line(), kind.name());
            tracing::warn!(target: "busway", kind, held_back, "{line}");
        }
    }

    /// As `warn`, for what is no failure.
    pub(crate) fn info(&mut self, kind: Line, now_ns: u64, line: impl FnOnce() -> String) {
        if let Some(held_back) = self.pass(kind, now_ns) {
            let (line, kind) = (line(), kind.name());
            tracing::info!(target: "busway", kind, held_back, "{line}");
        }
    }

    /// How many lines were held back before this one, or `None` to hold this one back as well.
    fn pass(&mut self, kind: Line, now_ns: u64) -> Option<u64> {
        let limit = self.limits.entry(kind).or_default();
        if now_ns < limit.next_ns {
            limit.held_back += 1;
            return None;
        }
        limit.next_ns = now_ns.saturating_add(LINE_INTERVAL_NS);
        Some(std::mem::take(&mut limit.held_back))
    }
}

impl Line {
    fn name(self) -> &'static str {
        match self {
            Line::Death => "death",
            Line::Hang => "hang",
            Line::Refusal => "refusal",
            Line::Mismatch => "mismatch",
            Line::Descriptors => "descriptors",
            Line::Silent => "silent",
            Line::Full => "full",
            Line::Stalled => "stalled",
            Line::Evicted => "evicted",
            Line::Budget => "budget",
            Line::Role => "role",
            Line::Handler => "handler",
            Line::Slow => "slow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_INTERVAL_NS, Line, Log};

    #[test]
    fn one_line_a_second_of_a_kind_passes_and_says_how_many_did_not() {
        let mut log = Log::default();
        assert_eq!(log.pass(Line::Death, LINE_INTERVAL_NS), Some(0));
        for n in 1..10 {
            assert_eq!(log.pass(Line::Death, LINE_INTERVAL_NS + n), None);
        }
        assert_eq!(log.pass(Line::Hang, LINE_INTERVAL_NS), Some(0), "kinds do not hold each other back");
        assert_eq!(log.pass(Line::Death, 2 * LINE_INTERVAL_NS), Some(9));
    }
}
