//! `busway get`: fetches artifacts, by name or by topic, and writes them.
//!
//! A file is written beside its name and renamed when it is whole, so that nobody finds half of one, however this ends.
//!
//! Invariant: with 0 as many artifacts as were asked for were written, each whole.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busway::artifacts::{Advert, Artifact, Event, Interest};
use serde::Serialize;

use crate::artifacts::{Wanted, attribute};
use crate::command::GetArgs;
use crate::exit::{CommandCode, Exit, Failure};
use crate::session::{self, Context};

/// Bytes that are written before signals are looked at.
const PART_BYTES: usize = 256 << 10;
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
    let mut builder = bus.artifacts(pattern)?.subscriber();
    if let Wanted::Id(prefix) = &wanted {
        let prefix = prefix.clone();
        builder = builder.interest(move |advert: &Advert| {
            if advert.id().to_string().starts_with(&prefix) { Interest::FetchNow } else { Interest::Drop }
        });
    }
    let bar = Bar::new(context);
    let mut subscriber = if bar.shown { builder.progress().open()? } else { builder.open()? };
    let mut got = 0;
    while got < args.count {
        match subscriber.recv_timeout(ends.left())? {
            Some(Event::Progress { advert, have, size }) => bar.show(&advert, have, size),
            Some(Event::Received(artifact)) => {
                bar.clear();
                write(&artifact, args, context)?;
                got += 1;
            }
            Some(_) => {}
            None if ends.reached() => {
                context.signals.check()?;
                return Err(Failure::new(
                    CommandCode::TooFew,
                    format!("{got} of {} artifacts came in time", args.count),
                    format!("getting {}", args.what),
                    "busway artifacts ls, or a longer --timeout",
                ));
            }
            None => {
                if context.output.reader_gone() {
                    return Err(Failure::ClosedPipe);
                }
            }
        }
    }
    drop(subscriber);
    bus.close();
    Ok(Exit::Done)
}

fn write(artifact: &Artifact, args: &GetArgs, context: &mut Context<'_>) -> Result<(), Failure> {
    let advert = artifact.advert();
    let id = advert.id().to_string();
    let file =
        args.output.as_ref().map(|output| if output.is_dir() { output.join(&id) } else { output.clone() });
    if let Some(file) = &file {
        save(file, artifact, context)?;
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

/// Reads it part by part; a signal ends that.
fn each_part(
    artifact: &Artifact,
    context: &mut Context<'_>,
    mut each: impl FnMut(&[u8], &mut Context<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut at, mut part) = (0, vec![0; PART_BYTES]);
    while at < artifact.size() {
        context.signals.check()?;
        let count = artifact.read_at(at, &mut part)?;
        each(part.get(..count).unwrap_or_default(), context)?;
        at += count as u64;
    }
    Ok(())
}

/// Writes a file whole or not at all.
fn save(file: &Path, artifact: &Artifact, context: &mut Context<'_>) -> Result<(), Failure> {
    let (part, failed) =
        (beside(file), |error: io::Error| Failure::stream(&error, format!("writing {}", file.display())));
    let written = OpenOptions::new().write(true).create_new(true).open(&part).map_err(failed);
    let written = written.and_then(|mut open| {
        each_part(artifact, context, |bytes, _| open.write_all(bytes).map_err(failed))?;
        open.sync_all().and_then(|()| fs::rename(&part, file)).map_err(failed)
    });
    if written.is_err() {
        // What is not whole helps nobody; where it cannot be removed the error says enough.
        let _ = fs::remove_file(&part);
    }
    written
}

/// How far one has come, for a person at the terminal.
struct Bar {
    shown: bool,
}

impl Bar {
    fn new(context: &Context<'_>) -> Self {
        Self { shown: io::stderr().is_terminal() && !context.global.quiet && !context.output.json() }
    }

    fn show(&self, advert: &Advert, have: u64, size: u64) {
        let done = usize::try_from(have.saturating_mul(BAR_WIDTH) / size.max(1)).unwrap_or_default();
        let bar = format!("{:1$}", "#".repeat(done), BAR_WIDTH as usize);
        // One that cannot be shown is nobody's failure.
        let _ = write!(io::stderr().lock(), "\r{} [{bar}] {have} of {size} bytes", advert.topic());
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn beside(file: &Path) -> PathBuf {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    file.with_file_name(format!(".{name}.{}.part", std::process::id()))
}
