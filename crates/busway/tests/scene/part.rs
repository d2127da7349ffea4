//! Other processes of a test: the test binary starts itself again for the one test that plays parts.
//!
//! A child is told its part and its directory by environment variables. It answers with lines that begin with `@`,
//! obeys lines on its stdin, and ends at the end of its stdin.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use busway::{Bus, BusBuilder};
use rustix::process::{Pid, Signal, kill_process};

use crate::place::{PATIENCE, Scene, join, watchdog};

/// The name of the test in each file that plays parts.
const TEST: &str = "plays_its_part_if_it_was_started_for_one";
const PART: &str = "BUSWAY_TEST_PART";
const DIRECTORY: &str = "BUSWAY_TEST_DIRECTORY";

/// A running child; it is killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    child: std::process::Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Scene {
    /// Starts a process that plays `part`.
    pub(crate) fn start(&self, part: &str) -> Child {
        Child::start(Command::new(std::env::current_exe().unwrap()), self, part)
    }
}

impl Child {
    /// Starts a process that plays `part`, by a command that runs this binary.
    pub(crate) fn start(mut command: Command, scene: &Scene, part: &str) -> Child {
        let mut child = command
            .args([TEST, "--exact", "--nocapture", "--test-threads=2"])
            .env(PART, part)
            .env(DIRECTORY, scene.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("a child that plays {part}: {error}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once('@')
                    && sender.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let stdin = child.stdin.take().unwrap();
        Child { pid, child, stdin, answers }
    }

    /// The next line that it says.
    pub(crate) fn line(&self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("a child says what it does")
    }

    /// Tells it a line, and returns what it answers.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.line()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The part of this process.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    directory: PathBuf,
    _watchdog: Sender<()>,
}

impl Part {
    /// The part that this process was started for, if it was.
    pub(crate) fn given() -> Option<Part> {
        let name = std::env::var(PART).ok()?;
        let directory = PathBuf::from(std::env::var_os(DIRECTORY)?);
        Some(Part { name, directory, _watchdog: watchdog() })
    }

    /// Joins the domain under the name of the part.
    pub(crate) fn bus(&self) -> Bus {
        self.join().open().unwrap_or_else(|error| panic!("{} joins: {error}", self.name))
    }

    /// How it joins.
    pub(crate) fn join(&self) -> BusBuilder {
        join(&self.directory, &self.name)
    }
}

/// Says a line to the test.
pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "@{line}").unwrap();
    stdout.flush().unwrap();
}

/// The next line that the test says; `None` when it has gone.
pub(crate) fn hear() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).unwrap_or(0);
    (read > 0).then(|| line.trim_end().to_owned())
}
