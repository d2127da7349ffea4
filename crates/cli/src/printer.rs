//! How `busway sub` and `busway pull` print: one message in one of five forms, and losses on stderr.
//!
//! It knows nothing of waiting; readers decide when to flush.
//!
//! Invariant: after [`Printer::ended`] nothing more is printed, so `--count N` prints N.

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busway::{Loss, Sample, Task};
use serde::Serialize;

use crate::beside::Shown;
use crate::clock::Deadline;
use crate::command::FormArgs;
use crate::exit::{CommandCode, Failure};
use crate::output::Output;

/// Losses of a flood are told together after this long, so that telling them does not cause more.
const LOSS_INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);
/// Ranges that one line names: about what fits 1 KiB. What is lost more is in its count.
const RANGES_MAX: usize = 64;

/// The form of a message on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Topic, tab, body.
    Text,
    /// The same for a terminal: control characters are shown, not obeyed.
    Escaped,
    /// The body and one byte.
    Raw(u8),
    /// An object.
    Json,
}

impl Form {
    /// The form that the command line of `command` asks for.
    pub(crate) fn of(args: FormArgs, output: &Output, command: &str) -> Result<Self, Failure> {
        let json = output.json();
        if json && (args.raw || args.raw0) {
            let raw = if args.raw { "--raw" } else { "--raw0" };
            return Err(Failure::usage(
                format!("--json cannot be used with {raw}"),
                command,
                "take one of the two",
            ));
        }
        Ok(match (json, args.raw, args.raw0) {
            (true, ..) => Self::Json,
            (_, true, _) => Self::Raw(b'\n'),
            (_, _, true) => Self::Raw(0),
            _ if output.is_terminal() => Self::Escaped,
            _ => Self::Text,
        })
    }
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    topic: &'a str,
    sequence: u64,
    source: String,
    publisher: &'a str,
    time_ns: u64,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<u32>,
    #[serde(flatten)]
    beside: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// Losses of one topic, one cause and one link.
#[derive(Debug, Default)]
struct Untold {
    count: u64,
    ranges: Vec<(u64, u64)>,
    /// Losses beyond [`RANGES_MAX`].
    more: u64,
}

impl Untold {
    fn add(&mut self, loss: &Loss) {
        self.count = self.count.saturating_add(loss.count);
        let full = self.ranges.len() >= RANGES_MAX;
        match self.ranges.last_mut() {
            Some((_, to)) if to.checked_add(1) == Some(loss.from) => *to = loss.to,
            Some(_) if full => self.more += 1,
            Some(_) | None => self.ranges.push((loss.from, loss.to)),
        }
    }

    fn shown(&self) -> String {
        let mut text: String = self
            .ranges
            .iter()
            .map(|(from, to)| if from == to { format!(" {from}") } else { format!(" {from}-{to}") })
            .collect();
        if self.more > 0 {
            text.push_str(&format!(" and {} more", self.more));
        }
        text
    }
}

/// Prints messages and counts them.
#[derive(Debug)]
pub(crate) struct Printer<'a> {
    output: &'a mut Output,
    form: Form,
    count: Option<u64>,
    fail_on_loss: bool,
    received: u64,
    lost: u64,
    /// Losses that were counted and not told yet, by topic, cause and link.
    untold: BTreeMap<(String, &'static str, String), Untold>,
    tell_next: Deadline,
    stopped: bool,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(form: Form, count: Option<u64>, fail_on_loss: bool, output: &'a mut Output) -> Self {
        Self {
            output,
            form,
            count,
            fail_on_loss,
            received: 0,
            lost: 0,
            untold: BTreeMap::new(),
            tell_next: Deadline::after(std::time::Duration::ZERO),
            stopped: false,
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Makes every reader end.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether enough was printed, or a reader failed.
    pub(crate) fn ended(&self) -> bool {
        self.stopped || self.count.is_some_and(|count| self.received >= count)
    }

    pub(crate) fn print(&mut self, sample: &Sample) -> Result<(), Failure> {
        self.print_one(sample, None)
    }

    /// Prints work, and as JSON how often it was given to a puller.
    pub(crate) fn print_task(&mut self, task: &Task) -> Result<(), Failure> {
        self.print_one(task.sample(), Some(task.deliveries()))
    }

    fn print_one(&mut self, sample: &Sample, deliveries: Option<u32>) -> Result<(), Failure> {
        if self.ended() {
            return Ok(());
        }
        self.received += 1;
        match self.form {
            Form::Json => self.print_json(sample, deliveries),
            Form::Raw(end) => self.write(&[sample, &[end]]),
            Form::Text => self.write(&[sample.topic().as_bytes(), b"\t", sample, b"\n"]),
            Form::Escaped => {
                let body = escape(sample);
                self.write(&[sample.topic().as_bytes(), b"\t", body.as_bytes(), b"\n"])
            }
        }
    }

    fn print_json(&mut self, sample: &Sample, deliveries: Option<u32>) -> Result<(), Failure> {
        let body = std::str::from_utf8(sample).ok();
        let publisher = sample.publisher();
        let message = Message {
            topic: sample.topic(),
            sequence: sample.sequence(),
            source: sample.source().to_string(),
            publisher: &publisher.name,
            time_ns: sample.time_ns(),
            size: sample.len(),
            deliveries,
            beside: Shown::of(&sample.context()),
            body,
            body_base64: body.is_none().then(|| STANDARD.encode(&**sample)),
        };
        self.output.object(&message)
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<(), Failure> {
        let data = self.output.data();
        let written: io::Result<()> = parts.iter().try_for_each(|part| data.write_all(part));
        written.map_err(|error| Failure::stream(&error, "writing to stdout"))
    }

    /// Counts losses and tells them when it is time. `idle` says that nothing waits.
    pub(crate) fn count_losses(&mut self, losses: Vec<Loss>, idle: bool) -> Result<(), Failure> {
        for loss in losses {
            self.lost = self.lost.saturating_add(loss.count);
            let key = (loss.topic.to_string(), loss.cause.name(), loss.link.clone());
            self.untold.entry(key).or_default().add(&loss);
        }
        if !self.untold.is_empty() && (idle || self.tell_next.over()) {
            self.tell_losses();
        }
        if self.fail_on_loss && self.lost > 0 {
            self.tell_losses();
            return Err(Failure::new(
                CommandCode::Lost,
                format!("{} messages were lost", self.lost),
                "subscribing with --fail-on-loss",
                "--reliable makes publishers wait; busway info TOPIC shows who is behind",
            ));
        }
        Ok(())
    }

    fn tell_losses(&mut self) {
        for ((topic, cause, link), untold) in std::mem::take(&mut self.untold) {
            let (count, ranges) = (untold.count, untold.shown());
            let link = if link.is_empty() { String::new() } else { format!(", {link}") };
            self.output.warn(format_args!("lost {count} on {topic} ({cause}{link}):{ranges}"));
        }
        self.tell_next = Deadline::after(LOSS_INTERVAL);
    }

    /// A line on stderr that is told also with `-q`.
    pub(crate) fn warn(&self, line: impl std::fmt::Display) {
        self.output.warn(line);
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.output.flush()
    }

    /// Ends silently when nobody reads any more, also while no message comes.
    pub(crate) fn check_reader(&self) -> Result<(), Failure> {
        if self.output.reader_gone() { Err(Failure::ClosedPipe) } else { Ok(()) }
    }

    /// Tells what is left to tell and writes what is left to write.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.tell_losses();
        self.flush()
    }
}

/// The body for a terminal: bytes that would move its cursor or change its state are shown as `\x1b`.
pub(crate) fn escape(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() && character != '\t' {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_terminal_is_not_driven_by_a_message() {
        assert_eq!(escape(b"plain\tna\xc3\xafve"), "plain\tna\u{ef}ve");
        assert_eq!(escape(b"\x1b[2J\n"), "\\u{1b}[2J\\n");
        assert_eq!(escape(b"\xff"), "\\xff");
    }
}
