//! Why a command of xtask could not do its work, and what the reader can do about it.

use std::fmt;

/// A cause and a remedy; `exit` is the status of the process.
#[derive(Debug)]
pub(crate) struct Failure {
    cause: String,
    remedy: String,
    pub(crate) exit: u8,
}

impl Failure {
    /// The work was tried and did not succeed.
    pub(crate) fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure { cause: cause.into(), remedy: remedy.into(), exit: 1 }
    }

    /// The command line is wrong, or a tool is missing: nothing was tried.
    pub(crate) fn usage(cause: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure { cause: cause.into(), remedy: remedy.into(), exit: 2 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\n  try: {}", self.cause, self.remedy)
    }
}
