//! How a command ends: exit codes, and failures that say cause, place and remedy.
//!
//! Every command returns `Result<Exit, Failure>`; `main` alone turns it into a number and a report. The codes of the
//! library's errors are the library's; the command's own are the band 08xx below, listed in docs/errors.md.
//!
//! Invariant: a number in [`CommandCode`] is never given another meaning; scripts rely on it.

use std::fmt;
use std::io;
use std::process::ExitCode;

use busway::{Error, RecvError, SendError};
use serde::{Deserialize, Serialize};

use crate::output::Interrupted;

/// The exit codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Exit {
    /// What was asked happened.
    Done,
    /// What was asked did not happen: too few messages in time, nothing matched, account open, findings.
    NotDone,
    /// The command line is wrong: a flag, a name, a body that is too large.
    Usage,
    /// The bus cannot be reached or used: owner, descriptors, memory, version.
    #[default]
    Unreachable,
    /// Messages were lost, and the user asked that this be a failure.
    Loss,
    /// A signal ended it; 128 and its number.
    Signalled(u8),
}

impl Exit {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::NotDone => 1,
            Self::Usage => 2,
            // 4 is kept for a refusal by an access list, which nothing makes yet.
            Self::Unreachable => 3,
            Self::Loss => 5,
            Self::Signalled(number) => 128_u8.saturating_add(number),
        })
    }
}

/// The stable codes of failures that the command itself finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandCode {
    /// A flag or an argument is wrong.
    Usage = 801,
    /// Standard input, output or a file could not be used.
    Stream = 802,
    /// Fewer subscribers than `--wait` asked for came in time.
    NoSubscribers = 803,
    /// The time-out came before `--count` messages, or before any.
    TooFew = 804,
    /// Nothing matches the pattern.
    NothingMatched = 805,
    /// A reliable subscriber had not passed the last message when `--linger` ended.
    Behind = 806,
    /// Sent is not delivered, dropped and in flight.
    AccountOpen = 807,
    /// Messages were lost and `--fail-on-loss` was given.
    Lost = 808,
    /// `doctor` has findings.
    Findings = 809,
    /// A process that the command started failed or went silent.
    ChildFailed = 810,
    /// What a subscriber received is not what was sent.
    HashDiffers = 811,
    /// The configuration is wrong.
    Configuration = 812,
    /// The node was asked, and did not do it, or not in time.
    NodeRefused = 813,
}

impl CommandCode {
    /// Every code of the command.
    const ALL: [Self; 13] = [
        Self::Usage,
        Self::Stream,
        Self::NoSubscribers,
        Self::TooFew,
        Self::NothingMatched,
        Self::Behind,
        Self::AccountOpen,
        Self::Lost,
        Self::Findings,
        Self::ChildFailed,
        Self::HashDiffers,
        Self::Configuration,
        Self::NodeRefused,
    ];

    /// How a command ends with it, where nothing else is said.
    fn exit(self) -> Exit {
        match self {
            Self::Usage | Self::Configuration => Exit::Usage,
            Self::Lost => Exit::Loss,
            Self::Stream
            | Self::NoSubscribers
            | Self::TooFew
            | Self::NothingMatched
            | Self::Behind
            | Self::AccountOpen
            | Self::Findings
            | Self::ChildFailed
            | Self::HashDiffers
            | Self::NodeRefused => Exit::NotDone,
        }
    }
}

impl fmt::Display for CommandCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BUS-{:04}", *self as u16)
    }
}

/// What the user is told of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The stable code, `BUS-0801`.
    pub(crate) code: String,
    /// What went wrong.
    pub(crate) cause: String,
    /// Where.
    pub(crate) at: String,
    /// What to do about it.
    #[serde(rename = "try")]
    pub(crate) remedy: String,
    /// How it ends; not told, since the process's exit code tells it.
    #[serde(skip)]
    pub(crate) exit: Exit,
}

/// Why a command did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Whoever read our output has gone: nothing to say, and nobody to say it to.
    ClosedPipe,
    /// A signal asked us to end before we were done.
    Signalled(u8),
    /// The report stands on stderr already, because something else had to come after it.
    AlreadyTold(Exit),
    /// Something to tell. Boxed, because a result is returned from hot loops and must stay small.
    Told(Box<Report>),
}

impl Failure {
    /// A failure that the command itself found.
    pub(crate) fn new(
        code: CommandCode,
        cause: impl Into<String>,
        at: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Told(Box::new(Report {
            code: code.to_string(),
            cause: cause.into(),
            at: at.into(),
            remedy: remedy.into(),
            exit: code.exit(),
        }))
    }

    /// The same failure with another exit code than its code implies.
    pub(crate) fn ending(self, exit: Exit) -> Self {
        match self {
            Self::Told(mut report) => {
                report.exit = exit;
                Self::Told(report)
            }
            Self::AlreadyTold(_) => Self::AlreadyTold(exit),
            Self::ClosedPipe | Self::Signalled(_) => self,
        }
    }

    pub(crate) fn usage(cause: impl Into<String>, at: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(CommandCode::Usage, cause, at, remedy)
    }

    /// A stream failed; a closed pipe is not worth a word, and a signal has its own end.
    pub(crate) fn stream(error: &io::Error, at: impl Into<String>) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ClosedPipe;
        }
        if let Some(Interrupted(number)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Self::Signalled(*number);
        }
        Self::new(CommandCode::Stream, error.to_string(), at, mended(error.kind()))
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::ClosedPipe => Exit::Done,
            Self::Signalled(number) => Exit::Signalled(*number),
            Self::AlreadyTold(exit) => *exit,
            Self::Told(report) => report.exit,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = error.code().to_string();
        let exit = exit_of(&code);
        Self::Told(Box::new(Report {
            code,
            cause: error.cause().to_string(),
            // Three lines always: a script that reads the third must find it.
            at: or(error.place(), "the bus"),
            remedy: or(error.try_(), "busway doctor"),
            exit,
        }))
    }
}

impl From<Report> for Failure {
    /// A report that came from a process of ours, whose exit code its own code implies.
    fn from(mut report: Report) -> Self {
        report.exit = exit_of(&report.code);
        Self::Told(Box::new(report))
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::from(Error::from(error))
    }
}

impl From<RecvError> for Failure {
    fn from(error: RecvError) -> Self {
        Self::from(Error::from(error))
    }
}

/// What to do about a stream or a file that cannot be used.
fn mended(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{
        FileTooLarge, IsADirectory, NotADirectory, NotFound, PermissionDenied, QuotaExceeded,
        ReadOnlyFilesystem, StorageFull,
    };
    match kind {
        NotFound | NotADirectory => "name a file that is there, or make the directory that it is to be in",
        IsADirectory => "name a file; a directory becomes one by tar, and - is stdin",
        PermissionDenied | ReadOnlyFilesystem => "name another place, or change who may use this one: ls -ld",
        StorageFull | QuotaExceeded | FileTooLarge => "free space there, or name another place: df -h",
        _ => "check where the stream leads, and the space left there",
    }
}

fn or(text: &str, instead: &str) -> String {
    if text.is_empty() { instead.to_string() } else { text.to_string() }
}

/// The band of a library code decides: names are usage, the data path is "did not happen", the rest is a bus that
/// cannot be used. Deciding by band keeps a code that is added later in its place without a change here. A code of the
/// command has the exit that the command gives it, also where a process of ours found the failure.
fn exit_of(code: &str) -> Exit {
    if let Some(own) = CommandCode::ALL.into_iter().find(|own| own.to_string() == code) {
        return own.exit();
    }
    match code.get(4..6) {
        Some("01") => Exit::Usage,
        Some("04" | "07") => Exit::NotDone,
        _ => Exit::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CommandCode, Exit, Failure, exit_of};

    /// The codes that docs/errors.md lists in tables.
    fn listed() -> BTreeSet<&'static str> {
        let page = include_str!("../../../docs/errors.md");
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
    }

    #[test]
    fn the_docs_list_every_code_of_the_command_and_no_other() {
        let listed: BTreeSet<&str> = listed().into_iter().filter(|code| code.starts_with("BUS-08")).collect();
        let known: Vec<String> = CommandCode::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(listed, known.iter().map(String::as_str).collect());
    }

    #[test]
    fn the_docs_list_every_code_of_the_library_and_no_other() {
        let listed: BTreeSet<&str> =
            listed().into_iter().filter(|code| !code.starts_with("BUS-08")).collect();
        let known: Vec<String> = busway::Code::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(listed, known.iter().map(String::as_str).collect());
    }

    #[test]
    fn bands_of_library_codes_give_the_exit_codes_of_the_contract() {
        assert_eq!(exit_of("BUS-0107"), Exit::Usage);
        assert_eq!(exit_of("BUS-0203"), Exit::Unreachable);
        assert_eq!(exit_of("BUS-0301"), Exit::Unreachable);
        assert_eq!(exit_of("BUS-0402"), Exit::NotDone);
        assert_eq!(exit_of("?"), Exit::Unreachable);
    }

    #[test]
    fn a_failure_that_a_process_of_ours_tells_ends_as_if_we_had_found_it() {
        for code in CommandCode::ALL {
            assert_eq!(exit_of(&code.to_string()), Failure::new(code, "", "", "").exit(), "{code}");
        }
        assert_eq!((exit_of("BUS-0801"), exit_of("BUS-0808")), (Exit::Usage, Exit::Loss));
    }

    #[test]
    fn what_is_to_be_done_about_a_file_follows_from_what_is_wrong_with_it() {
        for (errno, word) in [
            (rustix::io::Errno::NOENT, "make the directory"),
            (rustix::io::Errno::ISDIR, "name a file"),
            (rustix::io::Errno::ACCESS, "who may use"),
            (rustix::io::Errno::ROFS, "another place"),
            (rustix::io::Errno::NOSPC, "free space"),
            (rustix::io::Errno::IO, "the stream"),
        ] {
            let Failure::Told(report) = Failure::stream(&errno.into(), "a file") else { panic!("{errno}") };
            assert!(report.remedy.contains(word), "{errno}: {}", report.remedy);
        }
    }

    #[test]
    fn a_loss_ends_with_five_and_a_closed_pipe_with_nought() {
        assert_eq!(Failure::new(CommandCode::Lost, "", "", "").exit(), Exit::Loss);
        assert_eq!(Failure::ClosedPipe.exit(), Exit::Done);
        assert_eq!(CommandCode::Usage.to_string(), "BUS-0801");
    }
}
