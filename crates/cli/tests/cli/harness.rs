//! Processes under test: started in a directory of their own, watched line by line, ended with a deadline.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Only a defect takes so long; a busy machine does not.
const DEADLINE: Duration = Duration::from_secs(60);

/// A directory for one test, removed at its end.
pub(crate) struct Place {
    path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("busway-test-{:016x}", fastrand::u64(..)));
        fs::DirBuilder::new().mode(0o700).create(&path).expect("a directory for the test");
        fs::create_dir(path.join("tmp")).expect("a directory for temporary files");
        Self { path }
    }

    /// Where sockets and locks go; the command makes it.
    pub(crate) fn bus_directory(&self) -> PathBuf {
        self.path.join("bus")
    }

    /// Where the command's temporary files go.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// The command with arguments, not started yet.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        self.adopt(Command::new(env!("CARGO_BIN_EXE_busway")), arguments)
    }

    /// The command below a shell that first sets limits: `ulimit -n 256`.
    pub(crate) fn limited(&self, limits: &str, arguments: &[&str]) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{limits} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_busway")]);
        self.adopt(shell, arguments)
    }

    /// Another command, in the same environment.
    pub(crate) fn adopt<S: AsRef<std::ffi::OsStr>>(&self, mut command: Command, arguments: &[S]) -> Command {
        command.args(arguments).env("BUSWAY_DIR", self.bus_directory()).env("TMPDIR", self.temporary());
        let outer = std::env::vars_os().map(|(name, _)| name);
        for name in outer.filter(|name| name.to_string_lossy().starts_with("BUSWAY_") && name != "BUSWAY_DIR")
        {
            command.env_remove(name);
        }
        command.env_remove("XDG_RUNTIME_DIR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Ended {
        Running::start(self.command(arguments)).finish()
    }

    /// Runs the command with `input` as its stdin.
    pub(crate) fn run_with(&self, input: &[u8], arguments: &[&str]) -> Ended {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        let mut stdin = running.stdin().expect("stdin is a pipe");
        let input = input.to_vec();
        // From a thread: the command may end before it has read all, and may write before.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let ended = running.finish();
        let _ = writer.join().expect("the writing thread does not panic");
        ended
    }

    /// Starts the command.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Starts a subscriber; returns when it is ready.
    pub(crate) fn subscribe(&self, arguments: &[&str]) -> Running {
        let words: Vec<&str> = std::iter::once("sub").chain(arguments.iter().copied()).collect();
        let mut running = self.start(&words);
        running.stderr_until(|line| line.starts_with("ready "));
        running
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A process that runs.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Receiver<String>,
    heard: Vec<String>,
    ended: Option<i32>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let stdout = child.stdout.take().map(|mut stream| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).expect("stdout can be read");
                bytes
            })
        });
        let (sender, stderr) = channel();
        let stream = child.stderr.take().expect("stderr is a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let line = String::from_utf8_lossy(&line.expect("stderr can be read")).into_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, stdout, stderr, heard: Vec::new(), ended: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Stops it; returns when all of its threads stand still.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid()));
        let still = |thread: &String| {
            // The state stands behind the name, which is in parentheses and may hold anything.
            let stat = fs::read_to_string(tasks.join(thread).join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        while !names(&tasks).iter().all(still) {
            std::thread::yield_now();
        }
    }

    /// Waits for a line of stderr.
    pub(crate) fn stderr_until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            match self.stderr.recv_timeout(DEADLINE) {
                Ok(line) => {
                    self.heard.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(error) => panic!("the line did not come ({error}); stderr was {:?}", self.heard),
            }
        }
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ended {
        drop(self.child.stdin.take());
        // The end of stderr is the end of the process and of all it started.
        loop {
            match self.stderr.recv_timeout(DEADLINE) {
                Ok(line) => self.heard.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let heard = std::mem::take(&mut self.heard);
                    panic!("the process did not end in {DEADLINE:?}; stderr was {heard:?}");
                }
            }
        }
        let status = self.child.wait().expect("the process can be waited for");
        self.ended = status.code();
        let stdout =
            self.stdout.take().map(|thread| thread.join().expect("the reading thread does not panic"));
        Ended {
            code: status.code(),
            stdout: stdout.unwrap_or_default(),
            stderr: std::mem::take(&mut self.heard),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<String>,
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        let stdout = String::from_utf8_lossy(&self.stdout);
        assert_eq!(self.code, Some(code), "stdout: {stdout}\nstderr: {}", self.stderr.join("\n"));
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("stdout is text")
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_string).collect()
    }

    pub(crate) fn last_error_line(&self) -> &str {
        self.stderr.last().map_or("", String::as_str)
    }

    /// The only object on stdout.
    pub(crate) fn object(&self) -> Value {
        let lines = self.lines();
        assert_eq!(lines.len(), 1, "one object was expected: {lines:?}");
        serde_json::from_str(&lines[0]).expect("stdout is JSON")
    }

    /// The report on stderr, wherever it stands among notes.
    #[track_caller]
    pub(crate) fn report(&self) -> (String, String, String, String) {
        let at =
            self.stderr.iter().position(|line| line.starts_with("error[")).expect("an error is reported");
        let (code, cause) = self.stderr[at]
            .strip_prefix("error[")
            .and_then(|rest| rest.split_once("]: "))
            .expect("a code and a cause");
        let place = self.stderr[at + 1].strip_prefix("  at: ").expect("a place");
        let remedy = self.stderr[at + 2].strip_prefix("  try: ").expect("a remedy");
        (code.to_string(), cause.to_string(), place.to_string(), remedy.to_string())
    }
}

/// One that nobody is given who asks for any port, so that it is free still when it is used, or used again.
pub(crate) fn free_address() -> SocketAddr {
    let given = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the kernel says it");
    let first: u16 = given.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a port");
    loop {
        let port = fastrand::u16(first.min(1 << 15) / 2..first.max(1 << 14));
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            break listener.local_addr().expect("it has one");
        }
    }
}

/// The keys of an object, sorted.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// The bundled records, as they were packed.
pub(crate) fn flights() -> Vec<u8> {
    let packed: &[u8] = include_bytes!("../../data/flights-20000.csv.gz");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).expect("the bundled file unpacks");
    bytes
}
