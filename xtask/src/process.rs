//! Runs a program to its end or to a time limit, keeps what it printed, and leaves nothing of it behind.
//!
//! Every program gets a tag in its environment, which its children inherit; so what it started is found in
//! /proc even after it was adopted by another parent. No process group is made: an interrupt at the terminal
//! must still reach everybody.
//!
//! Invariant: what is kept of an endless output is bounded (`TAIL_BYTES` and `NOTES_MAX`).

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::clock::Watch;
use crate::failure::Failure;

const TAG: &str = "BUSWAY_XTASK_RUN";
// 256 KiB: the panic message and what led to it; a test that prints without end must not fill memory.
const TAIL_BYTES: usize = 256 << 10;
const NOTES_MAX: usize = 64;
const LINE_BYTES_MAX: u64 = 64 << 10;
// What a program started has this long to close its output after the program itself ended.
const DRAIN: Duration = Duration::from_secs(5);

/// Where the output of a program goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Kept, and shown only by the caller.
    Kept,
    /// Shown as it comes, and kept.
    Shown,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None: it was killed at its time limit.
    pub(crate) status: Option<std::process::ExitStatus>,
    /// The last part of its output, both streams in one.
    pub(crate) output: String,
    /// Lines `evidence: ...` and `skipped: ...`.
    pub(crate) notes: Vec<String>,
    pub(crate) seconds: f64,
    /// It ended, but something that it started held its output open and was killed.
    pub(crate) left_running: bool,
}

impl Ended {
    pub(crate) fn success(&self) -> bool {
        self.status.is_some_and(|s| s.success()) && !self.left_running
    }

    /// Why it was no success, in words.
    pub(crate) fn why(&self) -> String {
        match self.status {
            None => format!("killed after {:.0} s, its time limit", self.seconds),
            Some(_) if self.left_running => "it left a process behind, which was killed".to_owned(),
            Some(status) => status.to_string(),
        }
    }
}

enum Event {
    Exit(std::io::Result<std::process::ExitStatus>),
    Closed(Kept),
}

#[derive(Default)]
struct Kept {
    tail: Vec<u8>,
    notes: Vec<String>,
}

/// Runs `command`. `tag` must differ from that of every other program that runs now.
pub(crate) fn run(
    mut command: Command,
    tag: &str,
    limit: Duration,
    output: Output,
) -> Result<Ended, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |what: &str, error: std::io::Error| {
        Failure::new(format!("{what} {name}: {error}"), "is it installed, and are there descriptors left?")
    };
    let tag = format!("{}-{tag}", std::process::id());
    let (reader, writer) = std::io::pipe().map_err(|e| failed("no pipe for", e))?;
    let second = writer.try_clone().map_err(|e| failed("no pipe for", e))?;
    command.env(TAG, &tag).stdin(Stdio::null()).stdout(writer).stderr(second);
    let watch = Watch::start();
    let mut child = command.spawn().map_err(|e| failed("cannot start", e))?;
    drop(command); // It holds the writing ends; the pipe would never close.

    let (events, inbox) = mpsc::channel();
    let exits = events.clone();
    std::thread::spawn(move || drop(events.send(Event::Closed(drain(reader, output)))));
    std::thread::spawn(move || drop(exits.send(Event::Exit(child.wait()))));
    wait_for(&inbox, &tag, watch, limit).map_err(|e| failed("cannot wait for", e))
}

fn wait_for(
    inbox: &mpsc::Receiver<Event>,
    tag: &str,
    watch: Watch,
    limit: Duration,
) -> std::io::Result<Ended> {
    let (mut status, mut kept, mut killed, mut left_running) = (None, None, false, false);
    while status.is_none() || kept.is_none() {
        let patience = if status.is_some() || killed { DRAIN } else { limit.saturating_sub(watch.elapsed()) };
        match inbox.recv_timeout(patience) {
            Ok(Event::Exit(end)) => status = Some(end?),
            Ok(Event::Closed(all)) => kept = Some(all),
            Err(RecvTimeoutError::Timeout) => {
                if killed || left_running {
                    // Killed already and still not closed: a child without the tag. Go on without it.
                    break;
                }
                killed = status.is_none();
                left_running = !killed;
                kill_tagged(tag);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    kill_tagged(tag);
    let Kept { tail, notes } = kept.unwrap_or_default();
    Ok(Ended {
        status: if killed { None } else { status },
        output: String::from_utf8_lossy(&tail).into_owned(),
        notes,
        seconds: watch.seconds(),
        left_running,
    })
}

fn drain(reader: impl Read, output: Output) -> Kept {
    let mut reader = BufReader::new(reader);
    let mut kept = Kept::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return kept,
            Ok(_) => {}
        }
        if output == Output::Shown {
            // A closed terminal is no reason to stop the work.
            drop(std::io::stdout().write_all(&line));
        }
        if let Some(note) = note(&String::from_utf8_lossy(&line))
            && kept.notes.len() < NOTES_MAX
        {
            kept.notes.push(note);
        }
        kept.tail.extend_from_slice(&line);
        if kept.tail.len() > 2 * TAIL_BYTES {
            kept.tail.drain(..kept.tail.len() - TAIL_BYTES);
        }
    }
}

/// A line of evidence or of a skip; the test harness may have put `test NAME ... ` before it.
fn note(line: &str) -> Option<String> {
    let line = line.trim();
    let line = match line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) {
        Some((_, after)) => after,
        None => line,
    };
    (line.starts_with("evidence: ") || line.starts_with("skipped: ")).then(|| line.to_owned())
}

/// Kills every live process that carries `tag`.
fn kill_tagged(tag: &str) {
    let wanted = format!("{TAG}={tag}");
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    let pids: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|b| *b == 0).any(|word| word == wanted.as_bytes())
        })
        .collect();
    if !pids.is_empty() {
        // The shell's own `kill`, because not every container has the program.
        let kill = Command::new("sh").arg("-c").arg(format!("kill -9 {}", pids.join(" "))).output();
        drop(kill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, tag: &str, limit: Duration) -> Ended {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        run(command, tag, limit, Output::Kept).expect("a shell can be started")
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        // It may be killed before it has said whom it has started: it is given longer then.
        let limits = [200, 2_000, 20_000].map(Duration::from_millis);
        let pid = limits.into_iter().find_map(|limit| {
            let end = shell("sleep 1000 & echo $!; sleep 1000", &format!("hang-{limit:?}"), limit);
            assert!(end.status.is_none() && !end.success());
            Some(end.output.trim().to_owned()).filter(|pid| !pid.is_empty())
        });
        let pid = pid.expect("it says whom it has started");
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(environment.is_empty(), "process {pid} still lives");
    }

    #[test]
    fn both_streams_and_the_notes_are_kept() {
        let end = shell(
            "echo one; echo two >&2; echo 'test a ... evidence: 3 kills'; echo 'skipped: no cgroup'",
            "notes",
            Duration::from_secs(60),
        );
        assert!(end.success());
        assert!(end.output.contains("one\n") && end.output.contains("two\n"));
        assert_eq!(end.notes, ["evidence: 3 kills", "skipped: no cgroup"]);
    }

    #[test]
    fn an_endless_output_is_bounded() {
        let end = shell("yes | head -c 3000000; echo the end", "endless", Duration::from_secs(60));
        assert!(end.output.len() <= 2 * TAIL_BYTES && end.output.ends_with("the end\n"));
    }
}
