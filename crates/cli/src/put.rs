//! `busway put`: offers a file, or stdin, as an artifact.
//!
//! An offer stands while its program runs, unless it is kept: so the command stays until it is interrupted, until all nodes have it, or not at all.
//!
//! Invariant: with 0 it is kept, or all nodes have it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busway::artifacts::{Artifacts, Offer, OfferBuilder, Reach};
use serde::Serialize;

use crate::command::PutArgs;
use crate::exit::{CommandCode, Exit, Failure};
use crate::lines::Stdin;
use crate::session::{self, Context};
use crate::signals::Signals;

/// How long one wait inside the bus lasts before signals are looked at.
const SLICE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct Offered<'a> {
    topic: &'a str,
    id: String,
    size: u64,
    kept: bool,
}

pub(crate) fn run(args: &PutArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let topic = session::topic(&args.topic)?;
    let bus = context.join("busway-put")?;
    let result = offer(&bus.artifacts(topic.as_str())?, args, context);
    bus.close();
    result.map(|()| Exit::Done)
}

/// Standard input, and how much came of it.
struct Input {
    signals: Signals,
    bytes: Arc<Mutex<u64>>,
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = Stdin::new(&self.signals).read(buf)?;
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) += count as u64;
        Ok(count)
    }
}

/// What is to be offered, and how much it is, once it was read.
fn source(
    artifacts: &Artifacts,
    args: &PutArgs,
    context: &Context<'_>,
) -> Result<(OfferBuilder, Arc<Mutex<u64>>), Failure> {
    let bytes = Arc::<Mutex<u64>>::default();
    if args.file.as_os_str() == "-" {
        let input = Input { signals: context.signals.clone(), bytes: bytes.clone() };
        return Ok((artifacts.offer_reader(input), bytes));
    }
    // Whether it can be read is said as of any file.
    let size = File::open(&args.file).and_then(|file| file.metadata()).and_then(|metadata| {
        // It can be opened, and only reading it says what it is.
        if metadata.is_dir() { Err(rustix::io::Errno::ISDIR.into()) } else { Ok(metadata.len()) }
    });
    let size = size.map_err(|error| Failure::stream(&error, format!("reading {}", args.file.display())))?;
    Ok((artifacts.offer_file(&args.file), Arc::new(Mutex::new(size))))
}

fn offer(artifacts: &Artifacts, args: &PutArgs, context: &mut Context<'_>) -> Result<(), Failure> {
    let (builder, size) = source(artifacts, args, context)?;
    let builder = builder.attribute(args.attribute.as_deref().unwrap_or_default().as_bytes());
    let builder = match args.reach_all {
        Some(within) => builder.reach_all(within.0),
        None => builder,
    };
    let builder = if args.keep { builder.keep() } else { builder };
    let offer = open(builder, context)?;
    let id = offer.id().to_string();
    if context.output.json() {
        let size = *size.lock().unwrap_or_else(PoisonError::into_inner);
        context.output.object(&Offered { topic: &args.topic, id, size, kept: args.keep })?;
    } else {
        context.output.line(&id)?;
    }
    context.output.flush()?;
    if args.keep && !args.wait {
        return Ok(());
    }
    if args.reach_all.is_none() {
        context.output.note(format_args!("offered until this ends; --keep leaves it with the node"));
    }
    stay(&offer, args, context)
}

/// Offers it by a thread, which may have to read much, or wait for a node that stands still: a signal ends this all the same.
fn open(builder: OfferBuilder, context: &Context<'_>) -> Result<Offer, Failure> {
    let (to, opened) = sync_channel(1);
    std::thread::spawn(move || to.send(builder.open()));
    loop {
        let opened = opened.recv_timeout(SLICE);
        // It is why the reading of stdin failed.
        if let Err(signal) = context.signals.check() {
            if let Ok(Ok(offer)) = opened {
                offer.withdraw();
            }
            return Err(signal);
        }
        match opened {
            Ok(opened) => return Ok(opened?),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new(
                    CommandCode::NodeRefused,
                    "it was not offered",
                    "putting an artifact",
                    "busway artifacts ls",
                ));
            }
        }
    }
}

/// Until all have it, its time is up, or a signal comes.
fn stay(offer: &Offer, args: &PutArgs, context: &Context<'_>) -> Result<(), Failure> {
    loop {
        // What it comes to is asked for below, together with what else may end this.
        let _ = offer.wait_reached(SLICE);
        match offer.reach() {
            Reach::Reached => return Ok(()),
            Reach::Offered => context.signals.check()?,
            Reach::Expired(missing) => {
                let names: Vec<String> = missing.iter().map(|node| format!("node {node}")).collect();
                return Err(Failure::new(
                    CommandCode::TooFew,
                    format!("{} have not said that they have it", names.join(", ")),
                    format!("artifact {}", offer.id()),
                    "busway peers, or a longer --reach-all",
                ));
            }
            _ => {
                return Err(Failure::new(
                    CommandCode::NodeRefused,
                    "it is not offered any more: it was removed, or its node has ended",
                    format!("topic {}", args.topic),
                    "busway artifacts ls",
                ));
            }
        }
    }
}
