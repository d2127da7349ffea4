//! `busway get`: fetches artifacts, by name or by topic, and writes them.
//!
//! A file is written without a name and gets one when it is whole, so that nobody finds half of one, however this ends; where the disk cannot do that it is written beside its
//! name, and a kill leaves it there. What is there and is no file, as a pipe or `/dev/null`, is written to.
//!
//! Who looks for an artifact by its id says nothing of others: it subscribes when it knows which that is, and to that one alone.
//!
//! Invariant: with 0 as many artifacts as were asked for were written, each whole.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busway::Bus;
use busway::artifacts::{Artifact, ArtifactId, Artifacts, Event};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use serde::Serialize;

use crate::artifacts::{Wanted, attribute};
use crate::clock::Deadline;
use crate::command::GetArgs;
use crate::exit::{CommandCode, Exit, Failure};
use crate::near;
use crate::session::{self, Context, Ends};

/// Bytes that are written before signals are looked at.
const PART_BYTES: usize = 256 << 10;
/// Parts that are read ahead of what is written.
const PARTS_AHEAD: usize = 2;
/// Who gets nothing for so long is told that nobody offers it.
const LONELY: Duration = Duration::from_secs(1);
/// How long one wait lasts before signals are looked at.
const SLICE: Duration = Duration::from_millis(100);
/// Signs of the bar.
const BAR_WIDTH: u64 = 30;

#[derive(Debug, Serialize)]
struct Got<'a> {
    topic: &'a str,
    id: String,
    size: u64,
    node: u8,
    attribute: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

pub(crate) fn run(args: &GetArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let wanted = Wanted::parse(&args.what);
    let pattern = match &wanted {
        Wanted::Id(_) => ">",
        Wanted::Topic(topic) => session::pattern(topic).map(|_| topic.as_str())?,
    };
    if args.count > 1 && args.output.as_ref().is_some_and(|output| !output.is_dir()) {
        return Err(Failure::usage(
            "several artifacts do not fit into one file",
            "--output",
            "name a directory that is there: each is written under its id",
        ));
    }
    let bus = context.join("busway-get")?;
    let ends = context.ends();
    let mut lonely = Lonely::new(&bus, &wanted, args);
    let artifacts = bus.artifacts(pattern)?;
    let builder = match &wanted {
        Wanted::Id(prefix) => {
            artifacts.subscriber().only(named(&artifacts, prefix, (args, &mut lonely), &ends, context)?)
        }
        Wanted::Topic(_) => artifacts.subscriber(),
    };
    let bar = Bar::new(context);
    let mut subscriber = if bar.shown { builder.progress().open()? } else { builder.open()? };
    let mut got = 0;
    while got < args.count {
        match subscriber.recv_timeout(ends.left())? {
            Some(Event::Progress { advert, have, size }) => {
                lonely.told = true;
                bar.show(advert.topic(), have, size);
            }
            Some(Event::Received(artifact)) => {
                lonely.told = true;
                bar.clear();
                write(&artifact, args, &bar, context)?;
                got += 1;
            }
            Some(_) => {}
            None if ends.reached() => {
                context.signals.check()?;
                return Err(too_few(got, args));
            }
            None => {
                if context.output.reader_gone() {
                    return Err(Failure::ClosedPipe);
                }
                lonely.look(context);
            }
        }
    }
    drop(subscriber);
    bus.close();
    Ok(Exit::Done)
}

/// Who waits for what nobody offers, and is told so once.
struct Lonely<'a> {
    bus: &'a Bus,
    wanted: &'a Wanted,
    what: &'a str,
    deadline: Deadline,
    told: bool,
}

impl<'a> Lonely<'a> {
    fn new(bus: &'a Bus, wanted: &'a Wanted, args: &'a GetArgs) -> Self {
        Self { bus, wanted, what: &args.what, deadline: Deadline::after(LONELY), told: false }
    }

    /// Nothing has come. What is offered and not here yet is on its way.
    fn look(&mut self, context: &Context<'_>) {
        if self.told || !self.deadline.over() {
            return;
        }
        self.told = true;
        // A hint must not end the command.
        let Ok(listed) = self.bus.artifacts(">").and_then(|all| all.list()) else { return };
        if listed.iter().any(|listed| self.wanted.is(&listed.advert)) {
            return;
        }
        let topics: BTreeSet<&str> = listed.iter().map(|listed| listed.advert.topic()).collect();
        let near = near::nearest(self.what, &topics.into_iter().collect::<Vec<_>>());
        let near = if near.is_empty() { String::new() } else { format!(" (near: {})", near.join(", ")) };
        context.output.note(format_args!(
            "note: nobody offers {} yet{near}; it waits until somebody does, or as long as --timeout says",
            self.what
        ));
    }
}

fn too_few(got: u64, args: &GetArgs) -> Failure {
    Failure::new(
        CommandCode::TooFew,
        format!("{got} of {} artifacts came in time", args.count),
        format!("getting {}", args.what),
        "busway artifacts ls, or a longer --timeout",
    )
}

/// The artifact of this id, or whose id begins so: waits until there is one.
fn named(
    artifacts: &Artifacts,
    prefix: &str,
    (args, lonely): (&GetArgs, &mut Lonely<'_>),
    ends: &Ends<'_>,
    context: &Context<'_>,
) -> Result<ArtifactId, Failure> {
    if let Ok(id) = prefix.parse() {
        return Ok(id);
    }
    loop {
        let listed = artifacts.list()?;
        let ids: BTreeSet<ArtifactId> = listed.iter().map(|listed| listed.advert.id()).collect();
        let mut found = ids.into_iter().filter(|id| id.to_string().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(id), None) => return Ok(id),
            (Some(one), Some(other)) => {
                let cause = format!("several artifacts begin so: {one}, {other}");
                return Err(Failure::usage(cause, prefix, "name more digits: busway artifacts ls"));
            }
            (None, _) => {}
        }
        if ends.reached() {
            context.signals.check()?;
            return Err(too_few(0, args));
        }
        if context.output.reader_gone() {
            return Err(Failure::ClosedPipe);
        }
        lonely.look(context);
        context.signals.wait(ends.left());
    }
}

fn write(artifact: &Artifact, args: &GetArgs, bar: &Bar, context: &mut Context<'_>) -> Result<(), Failure> {
    let advert = artifact.advert();
    let id = advert.id().to_string();
    let file =
        args.output.as_ref().map(|output| if output.is_dir() { output.join(&id) } else { output.clone() });
    if let Some(file) = &file {
        save(file, artifact, bar, context)?;
        bar.clear();
    }
    if context.output.json() {
        let bytes = if file.is_some() { Arc::default() } else { artifact.bytes()? };
        let text = std::str::from_utf8(&bytes).ok();
        let inside = file.is_none();
        let got = Got {
            topic: advert.topic(),
            id,
            size: advert.size(),
            node: advert.node(),
            attribute: attribute(advert),
            file: file.map(|file| file.display().to_string()),
            body: text.filter(|_| inside),
            body_base64: (inside && text.is_none()).then(|| STANDARD.encode(&bytes)),
        };
        context.output.object(&got)?;
    } else if let Some(file) = &file {
        context.output.note(format_args!("{id} {} bytes {}", advert.size(), file.display()));
    } else {
        each_part(artifact, context, |part, context| {
            let written = context.output.data().write_all(part);
            written.map_err(|error| Failure::stream(&error, "writing to stdout"))
        })?;
    }
    context.output.flush()
}

/// Reads it part by part; a signal ends that. A thread reads, so that a node that stands still holds up nobody here.
fn each_part(
    artifact: &Artifact,
    context: &mut Context<'_>,
    mut each: impl FnMut(&[u8], &mut Context<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (to, parts) = sync_channel(PARTS_AHEAD);
    let (mut reader, size) = (artifact.reader(), artifact.size());
    std::thread::spawn(move || {
        let mut at = 0;
        while at < size {
            let mut part = vec![0; PART_BYTES];
            let read = reader.read(&mut part).map(|count| {
                part.truncate(count);
                part
            });
            at += read.as_ref().map_or(size, |part| part.len() as u64);
            // At its end before its size there is nothing more to come.
            let over = read.as_ref().map_or(true, Vec::is_empty);
            if to.send(read).is_err() || over {
                return;
            }
        }
    });
    let mut at = 0;
    while at < size {
        context.signals.check()?;
        let part = match parts.recv_timeout(SLICE) {
            Ok(part) => part.map_err(unreadable)?,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => Vec::new(),
        };
        if part.is_empty() {
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
        }
        at += part.len() as u64;
        each(&part, context)?;
    }
    Ok(())
}

/// Why an artifact cannot be read, as the bus says it.
fn unreadable(error: io::Error) -> Failure {
    match error.downcast::<busway::Error>() {
        Ok(error) => error.into(),
        Err(error) => Failure::stream(&error, "reading the artifact"),
    }
}

/// Writes a file whole or not at all; or into what is there and is no file.
fn save(file: &Path, artifact: &Artifact, bar: &Bar, context: &mut Context<'_>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::stream(&error, format!("writing {}", file.display()));
    let there = fs::metadata(file).ok();
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        let mut open = OpenOptions::new().write(true).open(file).map_err(failed)?;
        return each_part(artifact, context, |bytes, _| open.write_all(bytes).map_err(failed));
    }
    // Where a link leads, and with the rights of what it replaces.
    let to = if there.is_some() { fs::canonicalize(file).map_err(failed)? } else { file.to_owned() };
    let mut part = Part::beside(&to).map_err(failed)?;
    let (mut written, shown) = (0, format!("writing {}", file.display()));
    each_part(artifact, context, |bytes, _| {
        written += bytes.len() as u64;
        bar.show(&shown, written, artifact.size());
        part.file.write_all(bytes).map_err(failed)
    })?;
    if let Some(there) = there {
        part.file.set_permissions(there.permissions()).map_err(failed)?;
    }
    part.finish(&to).map_err(failed)
}

/// A file that is not whole yet.
struct Part {
    file: File,
    /// Where it is to be just before it is renamed; and whether it is there.
    path: PathBuf,
    named: bool,
}

impl Part {
    /// In the directory of that file.
    fn beside(file: &Path) -> io::Result<Part> {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        let path = directory.join(format!(".busway-{}.part", std::process::id()));
        let (flags, mode) = (OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
        if let Ok(file) = rustix::fs::open(directory, flags, mode) {
            return Ok(Part { file: file.into(), path, named: false });
        }
        // Not every file system has files without a name. One of this name is of a process that is gone.
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Part { file, path, named: true })
    }

    /// All of it is there.
    fn finish(mut self, to: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.named {
            let _ = fs::remove_file(&self.path);
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, unnamed, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
            self.named = true;
        }
        fs::rename(&self.path, to)?;
        self.named = false;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.named {
            // What is not whole helps nobody; where it cannot be removed the error says enough.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How far one has come, for a person at the terminal. Its line is cleared at the end, however that comes.
struct Bar {
    shown: bool,
    /// What stands there.
    stands: Cell<bool>,
}

impl Bar {
    fn new(context: &Context<'_>) -> Self {
        let shown = io::stderr().is_terminal() && !context.global.quiet && !context.output.json();
        Self { shown, stands: Cell::new(false) }
    }

    /// `what` has come so far.
    fn show(&self, what: &str, have: u64, size: u64) {
        if !self.shown {
            return;
        }
        let done = usize::try_from(have.saturating_mul(BAR_WIDTH) / size.max(1)).unwrap_or_default();
        let bar = format!("{:1$}", "#".repeat(done), BAR_WIDTH as usize);
        self.stands.set(true);
        // One that cannot be shown is nobody's failure.
        let _ = write!(io::stderr().lock(), "\r\x1b[K{what} [{bar}] {have} of {size} bytes");
    }

    fn clear(&self) {
        if self.stands.replace(false) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
