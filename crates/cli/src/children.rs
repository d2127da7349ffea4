//! Processes that `bench` and `tour` start: this binary again, with a role instead of a command.
//!
//! A [`Job`] travels as one argument in JSON; what the child has to say comes back as a line of JSON each, a [`Word`].
//! A child dies with its parent, and its parent kills it when it is dropped, so no process is left behind whichever of
//! them is killed. They meet in a [`Sandbox`], a directory of their own, so that they disturb no domain of the user.
//! The directory of a parent that was killed is removed by the next that makes one.

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::bench::roles as bench_roles;
use crate::clock::Deadline;
use crate::exit::{CommandCode, Exit, Failure, Report};
use crate::session;
use crate::signals::Signals;
use crate::tour::roles as tour_roles;

pub(crate) use sandbox::Sandbox;

mod sandbox;

/// The word that makes the binary play a role.
pub(crate) const ROLE_WORD: &str = "__role";

/// The domain inside a sandbox.
const DOMAIN: &str = "sandbox";

/// A child that has said nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Longer lines than this no child writes.
const LINE_SIZE_MAX: usize = 64 * 1024;

/// What a child is started with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Its name on the bus and for people.
    pub(crate) name: String,
    /// The core it keeps to.
    pub(crate) core: Option<u32>,
    pub(crate) role: Role,
}

/// What a child does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    TourPublisher(tour_roles::PublisherJob),
    TourSubscriber(tour_roles::SubscriberJob),
    BenchPing(bench_roles::PingJob),
    BenchEcho(bench_roles::EchoJob),
    BenchSource(bench_roles::SourceJob),
    BenchSink(bench_roles::SinkJob),
}

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// It is attached and waits for the word to go on.
    Ready,
    /// So many messages were sent.
    Progress(u64),
    TourPublished(tour_roles::Published),
    TourReceived(tour_roles::Received),
    BenchMeasured(bench_roles::Measured),
    /// It could not.
    Failed(Report),
}

/// Asks to die with the parent. One that was gone before we asked is not told of any more, so it is looked at after.
fn die_with(parent: Option<&OsString>) -> Result<(), Failure> {
    let failed = |cause: String| {
        let place = "asking to die with the parent";
        Failure::new(CommandCode::ChildFailed, cause, place, "busway doctor")
    };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.to_string()))?;
    let parent = parent.and_then(|parent| parent.to_str()).and_then(|parent| parent.parse().ok());
    let is = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
    if is != parent {
        return Err(failed("the process that started this one has gone".to_owned()));
    }
    Ok(())
}

/// Plays the role of the process's second argument, for the parent that its third names.
pub(crate) fn run_role(job: Option<&OsString>, parent: Option<&OsString>) -> ExitCode {
    let result = die_with(parent);
    let job = job.and_then(|job| job.to_str()).and_then(|job| serde_json::from_str::<Job>(job).ok());
    let Some(job) = job else { return Exit::Usage.code() };
    let result = result.and_then(|()| {
        if let Some(core) = job.core {
            pin(core)?;
        }
        let bus = session::join_sandbox(DOMAIN, &job.name, Duration::from_secs(20))?;
        let said = match job.role {
            Role::TourPublisher(job) => tour_roles::publish(&bus, &job),
            Role::TourSubscriber(job) => tour_roles::subscribe(&bus, &job),
            Role::BenchPing(job) => bench_roles::ping(&bus, &job),
            Role::BenchEcho(job) => bench_roles::echo(&bus, &job),
            Role::BenchSource(job) => bench_roles::source(&bus, &job),
            Role::BenchSink(job) => bench_roles::sink(&bus, &job),
        };
        bus.close();
        said
    });
    match result {
        Ok(()) => Exit::Done.code(),
        Err(failure) => {
            let exit = failure.exit();
            if let Failure::Told(report) = failure {
                // If nobody listens, the exit code is all there is to say.
                let _ = say(&Word::Failed(*report));
            }
            exit.code()
        }
    }
}

fn pin(core: u32) -> Result<(), Failure> {
    let mut cores = rustix::thread::CpuSet::new();
    let index = usize::try_from(core).unwrap_or(usize::MAX);
    let refused = |cause: String| Failure::usage(cause, "--pin", "name cores that this machine has, from 0");
    if index >= rustix::thread::CpuSet::MAX_CPU {
        return Err(refused(format!("there is no core {core}")));
    }
    cores.set(index);
    rustix::thread::sched_setaffinity(None, &cores).map_err(|error| refused(format!("core {core}: {error}")))
}

/// Says a word to the parent.
pub(crate) fn say(word: &Word) -> Result<(), Failure> {
    let mut line =
        serde_json::to_vec(word).map_err(|error| Failure::stream(&error.into(), "writing a report"))?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&line)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::stream(&error, "telling the parent"))
}

/// Waits for a line of the parent; `None` once it has gone.
pub(crate) fn hear() -> Option<String> {
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end().to_string()),
    }
}

/// A child and what it has said.
#[derive(Debug)]
pub(crate) struct Worker {
    name: String,
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    heard: Vec<u8>,
}

impl Worker {
    pub(crate) fn start(job: &Job, sandbox: &Sandbox) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::new(
                CommandCode::ChildFailed,
                format!("cannot start a process: {error}"),
                job.name.clone(),
                "busway doctor looks at limits of processes and memory",
            )
            .ending(Exit::Unreachable)
        };
        let job_text = serde_json::to_string(job).map_err(|error| failed(error.into()))?;
        let mut process = Command::new(std::env::current_exe().map_err(failed)?)
            .args([ROLE_WORD, &job_text, &std::process::id().to_string()])
            .env("BUSWAY_DIR", sandbox.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().expect("stdout was asked to be a pipe");
        Ok(Self { name: job.name.clone(), process, stdin, stdout, heard: Vec::new() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Says a line to it.
    pub(crate) fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let written = self.stdin.as_mut().map_or(Ok(()), |stdin| writeln!(stdin, "{line}"));
        written.map_err(|error| self.failure(&format!("does not listen: {error}")))
    }

    /// SIGSTOP: it stays, and does nothing.
    pub(crate) fn stop(&self) -> Result<(), Failure> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let stopped = pid.map_or(Err(Errno::SRCH), |pid| kill_process(pid, Signal::STOP));
        stopped.map_err(|error| self.failure(&format!("cannot be stopped: {error}")))
    }

    /// SIGKILL, now.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        self.process.kill().map_err(|error| self.failure(&format!("cannot be killed: {error}")))?;
        self.process
            .wait()
            .map(|_| ())
            .map_err(|error| self.failure(&format!("cannot be waited for: {error}")))
    }

    /// Its next word, waiting at most until it has been silent for too long.
    pub(crate) fn word(&mut self, signals: &Signals) -> Result<Word, Failure> {
        self.word_within(signals, SILENCE_MAX)?.ok_or_else(|| self.failure("went silent"))
    }

    /// Its next word; `None` when `limit` has passed.
    pub(crate) fn word_within(
        &mut self,
        signals: &Signals,
        limit: Duration,
    ) -> Result<Option<Word>, Failure> {
        let deadline = Deadline::after(limit);
        loop {
            if let Some(word) = self.next_heard()? {
                return match word {
                    Word::Failed(report) => Err(Failure::from(report)),
                    other => Ok(Some(other)),
                };
            }
            signals.check()?;
            if signals.wait_readable(self.stdout.as_fd(), Some(deadline.left())) {
                self.hear()?;
            } else if deadline.over() {
                return Ok(None);
            }
        }
    }

    fn next_heard(&mut self) -> Result<Option<Word>, Failure> {
        let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') else {
            return if self.heard.len() > LINE_SIZE_MAX {
                Err(self.failure("talks without end"))
            } else {
                Ok(None)
            };
        };
        let line: Vec<u8> = self.heard.drain(..=end).collect();
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| self.failure(&format!("said nonsense: {error}")))
    }

    fn hear(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; 4096];
        match self.stdout.read(&mut buffer) {
            Ok(0) => {
                let status = self.process.wait().map(|status| status.to_string()).unwrap_or_default();
                Err(self.failure(&format!("ended too early ({status})")))
            }
            Ok(count) => {
                self.heard.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) => Err(self.failure(&format!("cannot be heard: {error}"))),
        }
    }

    fn failure(&self, what: &str) -> Failure {
        Failure::new(
            CommandCode::ChildFailed,
            format!("{} {what}", self.name),
            format!("process {}", self.process.id()),
            "busway doctor; --log debug shows what it did",
        )
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // At once: what it had to say was read, what it has in memory nobody else uses, and its directory goes with us.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
