//! Where words and data go: data to stdout, words to stderr, for people or as JSON.
//!
//! Data is buffered and flushed by whoever knows that nothing is waiting. Colour is for terminals only, unless asked
//! for. A pipe closed by its reader becomes [`Failure::ClosedPipe`], which ends the command silently with 0; a signal
//! while a reader keeps us waiting becomes [`Failure::Signalled`].
//!
//! Invariant: nothing but the data that was asked for reaches stdout.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::command::{ColorChoice, Global};
use crate::exit::{Failure, Report};
use crate::signals::Signals;

pub(crate) use stdout::Interrupted;
use stdout::Stdout;

mod stdout;

/// 64 KiB: what a pipe takes at once.
const BUFFER_SIZE: usize = 64 * 1024;

/// Where commands write.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
    json: bool,
    quiet: bool,
    colour_out: bool,
    colour_err: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        // A descriptor of our own: std's Stdout flushes at each line, which costs a system call a message.
        let stdout = Stdout::open().map_err(|error| {
            Failure::stream(&error, "duplicating stdout").ending(crate::exit::Exit::Unreachable)
        })?;
        Ok(Self {
            stdout: BufWriter::with_capacity(BUFFER_SIZE, stdout),
            json: global.json,
            quiet: global.quiet,
            colour_out: coloured(global.color, io::stdout().is_terminal()),
            colour_err: coloured(global.color, io::stderr().is_terminal()),
        })
    }

    /// From here on a signal ends a write that waits for a reader.
    pub(crate) fn heed(&mut self, signals: &Signals) {
        self.stdout.get_mut().heed(signals);
    }

    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether a person looks at stdout.
    pub(crate) fn is_terminal(&self) -> bool {
        self.stdout.get_ref().as_fd().is_terminal()
    }

    /// The stream for data. Writers flush it with [`Output::flush`].
    pub(crate) fn data(&mut self) -> &mut BufWriter<Stdout> {
        &mut self.stdout
    }

    /// One line of data, for people.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        writeln!(self.stdout, "{line}").map_err(|error| on_stdout(&error))
    }

    /// One object on a line of its own.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.stdout, object).map_err(|error| on_stdout(&error.into()))?;
        self.stdout.write_all(b"\n").map_err(|error| on_stdout(&error))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(|error| on_stdout(&error))
    }

    /// Whether whoever read stdout has gone, asked without writing.
    pub(crate) fn reader_gone(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.stdout.get_ref().as_fd(), PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&at_once)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
    }

    /// A note on stderr, which `-q` silences. A note that cannot be written is nobody's failure.
    pub(crate) fn note(&self, note: impl fmt::Display) {
        if !self.quiet {
            self.warn(note);
        }
    }

    /// A line on stderr that `-q` does not silence: a loss, for one.
    ///
    /// After a signal one that nobody reads is not waited for: stderr may lead where stdout does.
    pub(crate) fn warn(&self, line: impl fmt::Display) {
        let line = format!("{line}\n");
        let mut stderr = io::stderr().lock();
        if self.stdout.get_ref().may_write(stderr.as_fd()) {
            let _ = stderr.write_all(line.as_bytes());
        }
    }

    /// Tells a report now, for a command that has to say something after it.
    pub(crate) fn report(&self, report: &Report) {
        report_to(report, self.json, self.colour_err);
    }

    /// `text` in green, yellow or red where stdout takes colour.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        if self.colour_out { format!("\x1b[{}m{text}\x1b[0m", paint.number()) } else { text.to_string() }
    }
}

/// The colours that carry a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Good,
    Middling,
    Bad,
}

impl Paint {
    fn number(self) -> u8 {
        match self {
            Self::Good => 32,
            Self::Middling => 33,
            Self::Bad => 31,
        }
    }
}

/// Writes a report to stderr; separate from [`Output`] because a wrong command line is reported before there is one.
pub(crate) fn report_to(report: &Report, json: bool, colour: bool) {
    let mut stderr = io::stderr().lock();
    let _ = if json {
        serde_json::to_writer(&mut stderr, report)
            .map_err(io::Error::from)
            .and_then(|()| stderr.write_all(b"\n"))
    } else {
        let (on, off) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let Report { code, cause, at, remedy, .. } = report;
        writeln!(stderr, "{on}error[{code}]{off}: {cause}\n  at: {at}\n  try: {remedy}")
    };
}

/// Colour on a terminal, where neither the flag nor `NO_COLOR` says otherwise.
pub(crate) fn coloured(choice: ColorChoice, terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

fn on_stdout(error: &io::Error) -> Failure {
    Failure::stream(error, "writing to stdout")
}
