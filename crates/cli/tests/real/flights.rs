//! As many flight records as the year 2013 had, through one publisher to two reliable subscribers.
//!
//! The whole file is not in the repository; the bundled lines, over and over, are as many and as long.
//! `BUSWAY_FLIGHTS=flights.csv` names the file itself.

use std::collections::BTreeMap;
use std::io::{BufReader, PipeReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use busway_wire::limits::RING_SLOTS_MAX_DEFAULT;
use rustix::process::Signal;

use crate::harness::{Place, Running, flights};

pub(crate) const LINES: usize = 336_777;
const DEADLINE: Duration = Duration::from_secs(120);

/// The records, and where a share of them ends.
pub(crate) struct File {
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl File {
    pub(crate) fn new() -> Self {
        if let Some(path) = std::env::var_os("BUSWAY_FLIGHTS") {
            let bytes = std::fs::read(path).expect("BUSWAY_FLIGHTS names a file");
            assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), LINES, "the file of 2013, whole");
            return Self { bytes: Arc::new(bytes) };
        }
        let slice = flights();
        let lines: Vec<&[u8]> = slice.split_inclusive(|byte| *byte == b'\n').collect();
        Self {
            bytes: Arc::new(lines.iter().cycle().take(LINES).flat_map(|line| line.iter().copied()).collect()),
        }
    }

    /// The end of the line in which `part` of `whole` lies.
    pub(crate) fn end_of(&self, part: usize, whole: usize) -> usize {
        let near = self.bytes.len() / whole * part;
        near + self.bytes[near..].iter().position(|byte| *byte == b'\n').expect("a line ends") + 1
    }

    /// The end of so many lines.
    fn end_of_lines(&self, lines: usize) -> usize {
        let ends = self.bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        ends.map(|(at, _)| at + 1).nth(lines - 1).expect("so many lines")
    }

    /// The begin of the last line.
    fn last_line(&self) -> usize {
        let body = &self.bytes[..self.bytes.len() - 1];
        body.iter().rposition(|byte| *byte == b'\n').expect("a line before the last") + 1
    }
}

/// A subscriber whose output is compared while it comes.
pub(crate) struct Reader {
    pub(crate) process: Running,
    reached: Receiver<usize>,
}

impl Reader {
    fn start(place: &Place, file: &File, marks: &[usize]) -> Self {
        let count = LINES.to_string();
        Self::of(place.command(&["sub", "flights", "--reliable", "--raw", "--count", &count]), file, marks)
    }

    /// Says when each of `marks` bytes have come and were right.
    pub(crate) fn of(mut command: Command, file: &File, marks: &[usize]) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer);
        let mut process = Running::start(command);
        process.stderr_until(|line| line == "ready flights");
        let (sender, reached) = channel();
        let (bytes, marks) = (Arc::clone(&file.bytes), marks.to_vec());
        std::thread::spawn(move || {
            let mut stream: BufReader<PipeReader> = BufReader::new(reader);
            let mut at = 0;
            for mark in marks {
                let mut part = vec![0; mark - at];
                stream.read_exact(&mut part).expect("the subscriber prints all");
                assert!(part == bytes[at..mark], "bytes {at} to {mark} differ");
                at = mark;
                let _ = sender.send(mark);
            }
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("the stream ends");
            assert!(rest.is_empty(), "{} bytes too many", rest.len());
        });
        Self { process, reached }
    }

    pub(crate) fn wait_for(&self, mark: usize) {
        assert_eq!(self.reached.recv_timeout(DEADLINE).expect("the bytes come, and come right"), mark);
    }

    /// Passes `time`, in which the next mark is not reached.
    pub(crate) fn stays_for(&self, time: Duration) {
        assert_eq!(self.reached.recv_timeout(time), Err(RecvTimeoutError::Timeout));
    }
}

fn publisher(place: &Place) -> (Running, ChildStdin) {
    // A subscriber that has no processor for a while is no slow one.
    let patience = ["--max-wait", "60s", "--linger", "60s"];
    let words = ["pub", "flights", "-", "--lines", "--wait=2"];
    let mut command = place.command(&[&words[..], &patience].concat());
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let stdin = publisher.stdin().expect("stdin is a pipe");
    (publisher, stdin)
}

/// Memory of the processes, and of the memory files that they share, in bytes: both as the kernel counts them.
fn memory(pids: &[u32]) -> u64 {
    let resident: u64 = pids.iter().map(|pid| resident(*pid)).sum();
    let mut files: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for pid in pids {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
        for descriptor in descriptors.flatten() {
            let link = std::fs::read_link(descriptor.path()).unwrap_or_default();
            if !link.to_string_lossy().starts_with("/memfd:") {
                continue;
            }
            // Through the descriptor: a memory file has no path.
            let Ok(file) = std::fs::metadata(descriptor.path()) else { continue };
            files.insert((file.dev(), file.ino()), file.blocks() * 512);
        }
    }
    let shared: u64 = files.values().sum();
    assert!(files.len() >= pids.len() && shared > 0, "each process has a memory file: {files:?}");
    resident + shared
}

/// Its own memory: pages of the program itself come when they are first used, and those of memory files are counted once for all.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

#[test]
fn records_reach_two_subscribers_unchanged_in_flat_memory() {
    let (place, file) = (Place::new(), File::new());
    let (line, full) = (file.end_of_lines(1), file.end_of_lines(RING_SLOTS_MAX_DEFAULT as usize));
    let (tenth, last, all) = (file.end_of(1, 10), file.last_line(), file.bytes.len());
    let marks = [line, full, tenth, last, all];
    let (first, second) = (Reader::start(&place, &file, &marks), Reader::start(&place, &file, &marks));
    let (publisher, mut input) = publisher(&place);
    let pids = [publisher.pid(), first.process.pid(), second.process.pid()];
    // The ring grows while somebody is behind: here once, as far as it may, so that what is measured is no growth that is due.
    input.write_all(&file.bytes[..line]).expect("a line is written");
    first.wait_for(line);
    second.wait_for(line);
    first.process.stop();
    input.write_all(&file.bytes[line..full]).expect("lines are written");
    second.wait_for(full);
    first.process.signal(Signal::CONT);
    first.wait_for(full);
    let mut measured = Vec::new();
    for (from, to) in [(full, tenth), (tenth, last), (last, all)] {
        input.write_all(&file.bytes[from..to]).expect("lines are written");
        first.wait_for(to);
        second.wait_for(to);
        if to != all {
            measured.push(memory(&pids));
        }
    }
    drop(input);
    first.process.finish().expect(0);
    second.process.finish().expect(0);
    let ended = publisher.finish().expect(0);
    let account = format!("sent {LINES} subscribers 2 delivered {} dropped 0 in-flight 0", 2 * LINES);
    assert_eq!(ended.last_error_line(), account);
    assert!(
        measured[1] <= measured[0] + (1 << 18),
        "memory grew from {} to {} bytes",
        measured[0],
        measured[1]
    );
    println!(
        "evidence: {LINES} messages to 2 processes, {} bytes at a tenth, {} at the end",
        measured[0], measured[1]
    );
}

#[test]
fn records_reach_subscribers_though_the_node_dies_and_hangs() {
    let (place, file) = (Place::new(), File::new());
    let (third, two_thirds, all) = (file.end_of(1, 3), file.end_of(2, 3), file.bytes.len());
    let node = place.up();
    let marks = [third, two_thirds, all];
    let (first, second) = (Reader::start(&place, &file, &marks), Reader::start(&place, &file, &marks));
    let (publisher, mut input) = publisher(&place);
    input.write_all(&file.bytes[..third]).expect("lines are written");
    node.signal(Signal::KILL);
    let node = place.up();
    input.write_all(&file.bytes[third..two_thirds]).expect("lines are written");
    node.signal(Signal::STOP);
    input.write_all(&file.bytes[two_thirds..]).expect("lines are written");
    drop(input);
    for mark in marks {
        first.wait_for(mark);
        second.wait_for(mark);
    }
    let ended = publisher.finish().expect(0);
    first.process.finish().expect(0);
    second.process.finish().expect(0);
    let account = format!("sent {LINES} subscribers 2 delivered {} dropped 0 in-flight 0", 2 * LINES);
    assert_eq!(ended.last_error_line(), account);
    node.signal(Signal::KILL);
    println!("evidence: {LINES} messages, 1 node killed, 1 stopped");
}
