//! When something is to be said: never, at a time, or as soon as it can be.
//!
//! What is due now has no time any more, so that who cannot send yet is not woken for it again and again.
//!
//! Invariant: a time never moves back to later.

use crate::time::Time;

/// When.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Due {
    /// There is nothing.
    #[default]
    Never,
    /// Then.
    At(Time),
    /// As soon as it can be.
    Now,
}

impl Due {
    /// At that time at the latest.
    pub(super) fn by(&mut self, time: Time) {
        *self = match *self {
            Due::Never => Due::At(time),
            Due::At(before) => Due::At(before.min(time)),
            Due::Now => Due::Now,
        };
    }

    /// Looks at the time.
    pub(super) fn tick(&mut self, now: Time) {
        if let Due::At(time) = *self
            && time <= now
        {
            *self = Due::Now;
        }
    }

    /// Whether it is due; then it is not any more.
    pub(super) fn take(&mut self) -> bool {
        let due = *self == Due::Now;
        if due {
            *self = Due::Never;
        }
        due
    }

    /// When it will be.
    pub(super) fn at(self) -> Option<Time> {
        match self {
            Due::At(time) => Some(time),
            Due::Never | Due::Now => None,
        }
    }
}
