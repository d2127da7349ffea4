//! `busway reply`: answers requests with a body, with what was asked, or with what a command makes of it.
//!
//! One request at a time; more of these share the load. A command gets the request on its stdin and its topic in `BUSWAY_TOPIC`; what it
//! prints is the reply, and where it fails the beginning of its stderr says why. It runs in a process group of its own, which is
//! killed when nobody waits for the reply any more.
//!
//! Invariant: each request that was taken is answered, or who asked is told that it is not.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use busway::{Request, Responder};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::beside::Shown;
use crate::command::ReplyArgs;
use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::lines::BODY_SIZE_MAX;
use crate::session::{self, Context, Ends};
use crate::signals::Signals;

/// How often it is looked whether a command is still waited for.
const SLICE: Duration = Duration::from_millis(20);
/// The first pause before it is asked again whether a command has ended that has closed its stdout and stderr: most end with that.
const PAUSE: Duration = Duration::from_micros(200);
/// So much of its stderr says why a command failed.
const WHY_BYTES_MAX: usize = 1024;

/// What requests are answered with.
#[derive(Debug)]
enum Answer<'a> {
    Body(&'a [u8]),
    Echo,
    Command(&'a str),
}

/// What a command came to.
enum Outcome {
    Printed(Vec<u8>),
    Failed(Vec<u8>),
    /// Nobody waits for it any more.
    Unwanted,
}

#[derive(Debug, Default)]
struct Counts {
    answered: u64,
    failed: u64,
}

pub(crate) fn run(args: &ReplyArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let pattern = session::pattern(&args.pattern)?;
    let answer = Answer::of(args)?;
    let bus = context.join_within("busway-reply", args.budget)?;
    let mut responder = bus.responder(&pattern.to_string()).open()?;
    context.output.note(format_args!("ready {}", args.pattern));
    let ends = context.ends();
    let mut counts = Counts::default();
    let result = serve(&mut responder, &answer, args, ends, context.signals, &mut counts);
    let Counts { answered, failed } = counts;
    let late = responder.late() + responder.unhandled().expired;
    drop(responder);
    bus.close();
    context.output.note(format_args!("answered {answered} failed {failed} late {late}"));
    result?;
    verdict(args, answered + failed, context)
}

impl<'a> Answer<'a> {
    fn of(args: &'a ReplyArgs) -> Result<Self, Failure> {
        match (&args.body, &args.command, args.echo) {
            (Some(body), None, false) => Ok(Self::Body(body.as_bytes())),
            (None, Some(command), false) => Ok(Self::Command(command)),
            (None, None, true) => Ok(Self::Echo),
            _ => Err(Failure::usage(
                "there is nothing to answer with",
                "busway reply",
                "give one of BODY, --command and --echo",
            )),
        }
    }
}

fn serve(
    responder: &mut Responder,
    answer: &Answer<'_>,
    args: &ReplyArgs,
    ends: Ends<'_>,
    signals: &Signals,
    counts: &mut Counts,
) -> Result<(), Failure> {
    while !ends.reached() && args.count.is_none_or(|count| counts.answered + counts.failed < count) {
        let Some(request) = responder.recv_timeout(ends.left())? else { continue };
        let (said, failed) = match answer {
            Answer::Body(body) => (request.reply(body), false),
            Answer::Echo => {
                let body = request.to_vec();
                (request.reply(&body), false)
            }
            Answer::Command(command) => match execute(command, &request, signals) {
                Outcome::Printed(body) => (request.reply(&body), false),
                Outcome::Failed(why) => (request.fail(&why), true),
                // Who waits for nothing is told nothing; a signal is no answer either.
                Outcome::Unwanted => continue,
            },
        };
        // One that came too late is counted by the responder.
        match (said.is_ok(), failed) {
            (true, false) => counts.answered += 1,
            (true, true) => counts.failed += 1,
            (false, _) => {}
        }
    }
    Ok(())
}

/// Runs the command for one request.
fn execute(command: &str, request: &Request, signals: &Signals) -> Outcome {
    let failed = |error: io::Error| Outcome::Failed(format!("cannot run the command: {error}").into_bytes());
    let spawned = Command::new("sh")
        .args(["-c", command])
        .env("BUSWAY_TOPIC", request.topic())
        .env_remove("BUSWAY_ID")
        .env_remove("TRACEPARENT")
        .env_remove("TRACESTATE")
        .envs(Shown::of(&request.context()).variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    let streams = match Streams::of(&mut child, request.to_vec()) {
        Ok(streams) => streams,
        Err(error) => {
            end(&mut child);
            return failed(error);
        }
    };
    let outcome = streams.wait(&mut child, request, signals);
    // Also what it has left behind, which nobody would end.
    end(&mut child);
    outcome
}

/// What a command prints, as threads read it.
struct Streams {
    said: Receiver<Said>,
}

enum Said {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

impl Streams {
    fn of(child: &mut Child, body: Vec<u8>) -> io::Result<Self> {
        let (sender, said) = channel();
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let thread = || std::thread::Builder::new().name("bw-reply".to_owned());
        thread().spawn(move || {
            // One that does not read its stdin need not.
            let _ = stdin.map(|mut stdin| stdin.write_all(&body));
        })?;
        let out = sender.clone();
        thread().spawn(move || {
            let read = read(stdout, BODY_SIZE_MAX + 1);
            let _ = out.send(Said::Out(read));
        })?;
        thread().spawn(move || {
            let read = read(stderr, WHY_BYTES_MAX);
            let _ = sender.send(Said::Err(read));
        })?;
        Ok(Self { said })
    }

    /// Waits for the end of the command.
    fn wait(&self, child: &mut Child, request: &Request, signals: &Signals) -> Outcome {
        let (mut out, mut err) = (None, None);
        let mut pause = PAUSE;
        loop {
            match self.said.recv_timeout(SLICE) {
                Ok(Said::Out(bytes)) => out = Some(bytes),
                Ok(Said::Err(bytes)) => err = Some(bytes),
                Err(RecvTimeoutError::Timeout) => {}
                // It has closed both and goes on: nothing tells of its end but asking.
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::park_timeout(pause);
                    pause = SLICE.min(pause * 2);
                }
            }
            if request.is_cancelled() || signals.raised().is_some() {
                return Outcome::Unwanted;
            }
            let Ok(Some(status)) = child.try_wait() else { continue };
            let (Some(printed), Some(why)) = (&mut out, &mut err) else { continue };
            if printed.len() > BODY_SIZE_MAX {
                return Outcome::Failed(b"the command printed more than a message may have".to_vec());
            }
            if status.success() {
                return Outcome::Printed(std::mem::take(printed));
            }
            let why = String::from_utf8_lossy(why).trim_end().to_owned();
            let why = if why.is_empty() { format!("the command ended with {status}") } else { why };
            return Outcome::Failed(why.into_bytes());
        }
    }
}

/// The first so many bytes; the rest is read and thrown away, so that nobody waits to write it.
fn read(stream: Option<impl Read>, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.by_ref().take(most as u64).read_to_end(&mut bytes);
        let _ = io::copy(&mut stream, &mut io::sink());
    }
    bytes
}

/// Kills all that is left of a command.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Where it has ended and nothing is left there is no such group.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// How it ends when nothing failed: a signal and a reached count are well, too few requests in time are not.
fn verdict(args: &ReplyArgs, handled: u64, context: &Context<'_>) -> Result<Exit, Failure> {
    let enough = args.count.map_or(handled > 0, |count| handled >= count);
    if enough || context.signals.raised().is_some() {
        return Ok(Exit::Done);
    }
    let time = duration::show(context.join_timeout());
    let cause = match args.count {
        Some(count) => format!("{handled} of {count} requests came in {time}"),
        None => format!("no request came in {time}"),
    };
    Err(Failure::new(
        CommandCode::TooFew,
        cause,
        format!("answering {}", args.pattern),
        format!("busway ls '{}' shows who asks, or a longer --timeout", args.pattern),
    ))
}
