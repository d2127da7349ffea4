//! `busway req`: asks, and prints the replies as they come.
//!
//! One request; what it comes to decides how this ends. A reply is printed without its topic, which the caller knows.
//!
//! Invariant: with 0 the last reply was printed, or as many as `--replies` asked for.

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busway::{Error, Pending, Reply, RequestError};
use serde::Serialize;

use crate::beside::{Beside, Shown};
use crate::command::{InputArgs, ReqArgs};
use crate::exit::{CommandCode, Exit, Failure};
use crate::input::Source;
use crate::output::Output;
use crate::printer::{Form, escape};
use crate::session::{self, Context};

/// How long one wait inside the bus lasts before signals are looked at.
const SLICE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct Message<'a> {
    index: u32,
    last: bool,
    size: usize,
    #[serde(flatten)]
    beside: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

pub(crate) fn run(args: &ReqArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let topic = session::topic(&args.topic)?;
    let form = Form::of(args.form, context.output, "busway req")?;
    let body = body(args, context)?;
    let bus = context.join_within("busway-req", args.budget)?;
    let requester = bus.requester(topic.as_str()).open()?;
    let mut replies = 0;
    let beside = Beside::of(&args.beside, &bus)?.next()?;
    let result = requester
        .in_context(beside)
        .send(&body, context.join_timeout())
        // Who waits for the first responder is not asked meanwhile.
        .map_err(|error| context.signals.check().err().unwrap_or_else(|| failure(error, args)))
        .and_then(|mut pending| receive(&mut pending, form, args, &mut replies, context));
    if !matches!(result, Err(Failure::ClosedPipe)) {
        context.output.note(format_args!("replies {replies}"));
    }
    result.map(|()| Exit::Done)
}

/// What is asked: BODY, stdin, or nothing.
fn body(args: &ReqArgs, context: &Context<'_>) -> Result<Vec<u8>, Failure> {
    if args.body.is_none() {
        return Ok(Vec::new());
    }
    let input = InputArgs { body: args.body.clone(), lines: false, size: None, count: None, rate: None };
    match Source::of(&input, "busway req", context.signals)? {
        Source::Body(body) => Ok(body),
        Source::Lines | Source::Seeded(_) => Ok(Vec::new()),
    }
}

fn receive(
    pending: &mut Pending,
    form: Form,
    args: &ReqArgs,
    replies: &mut u64,
    context: &mut Context<'_>,
) -> Result<(), Failure> {
    loop {
        match pending.recv_timeout(SLICE) {
            Ok(Some(reply)) => {
                print(&reply, form, context.output)?;
                context.output.flush()?;
                *replies += 1;
                if args.replies.is_some_and(|wanted| *replies >= wanted) {
                    return Ok(());
                }
            }
            Ok(None) if pending.is_over() => break,
            Ok(None) => {
                context.signals.check()?;
                if context.output.reader_gone() {
                    return Err(Failure::ClosedPipe);
                }
            }
            Err(error) => return Err(failure(error, args)),
        }
    }
    match args.replies {
        Some(wanted) => Err(Failure::new(
            CommandCode::TooFew,
            format!("{replies} of {wanted} replies came, and no other will"),
            format!("asking {}", args.topic),
            "ask for fewer, or leave --replies away",
        )),
        None => Ok(()),
    }
}

fn failure(error: RequestError, args: &ReqArgs) -> Failure {
    Error::from(error).at(format!("asking {}", args.topic)).into()
}

fn print(reply: &Reply, form: Form, output: &mut Output) -> Result<(), Failure> {
    let parts: [&[u8]; 2] = match form {
        Form::Json => {
            let body = std::str::from_utf8(reply).ok();
            return output.object(&Message {
                index: reply.index(),
                last: reply.is_last(),
                size: reply.len(),
                beside: Shown::of(&reply.context()),
                body,
                body_base64: body.is_none().then(|| STANDARD.encode(&**reply)),
            });
        }
        Form::Raw(0) => [reply, b"\0"],
        Form::Text | Form::Raw(_) => [reply, b"\n"],
        Form::Escaped => return output.line(escape(reply)),
    };
    let data = output.data();
    let written = parts.iter().try_for_each(|part| data.write_all(part));
    written.map_err(|error| Failure::stream(&error, "writing to stdout"))
}
