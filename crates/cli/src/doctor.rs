//! `busway doctor`: what keeps the bus from running well here, and what to do about it.
//!
//! Each check looks at one thing and says *ok*, *note* (a fallback is used, nothing is lost) or *finding* (something
//! fails or will fail), a finding with its remedy. Any finding ends with 1. It changes nothing; joining the bus for a
//! moment is all it does to others.

use std::time::Duration;

use serde::Serialize;

use crate::clock;
use crate::exit::{CommandCode, Exit, Failure};
use crate::output::Paint;
use crate::session::Context;

mod host;
mod limits;
mod place;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Note,
    Finding,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), remedy: None }
    }

    fn note(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Note, detail: detail.into(), remedy: None }
    }

    fn finding(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Finding, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

#[derive(Debug, Serialize)]
struct Findings<'a> {
    checks: &'a [Check],
    findings: usize,
}

pub(crate) fn run(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let mut checks = host::checks();
    checks.extend(limits::checks());
    checks.push(place::directory());
    checks.push(holder(context));
    let findings = checks.iter().filter(|check| check.status == Status::Finding).count();
    if context.output.json() {
        context.output.object(&Findings { checks: &checks, findings })?;
    } else {
        for check in &checks {
            print(check, context)?;
        }
        context.output.line(format_args!("{} checks, {findings} findings", checks.len()))?;
    }
    context.output.flush()?;
    if findings == 0 {
        return Ok(Exit::Done);
    }
    Err(Failure::new(
        CommandCode::Findings,
        format!("{findings} of {} checks have findings", checks.len()),
        "this machine",
        "what stands beside each finding",
    ))
}

fn print(check: &Check, context: &mut Context<'_>) -> Result<(), Failure> {
    let (word, paint) = match check.status {
        Status::Ok => ("ok", Paint::Good),
        Status::Note => ("note", Paint::Middling),
        Status::Finding => ("finding", Paint::Bad),
    };
    let word = context.output.paint(paint, &format!("{word:7}"));
    context.output.line(format_args!("{word}  {:14}  {}", check.name, check.detail))?;
    check.remedy.as_ref().map_or(Ok(()), |remedy| context.output.line(format_args!("         try: {remedy}")))
}

/// Joins the domain for a moment: whether the holder answers, and how fast.
fn holder(context: &Context<'_>) -> Check {
    const NAME: &str = "holder";
    // Longer than the 100 ms within which a holder must answer, shorter than a person's patience.
    let patience = context.timeout().unwrap_or(Duration::from_secs(2));
    let started = clock::now_ns();
    let joined = crate::session::join(context.global, "busway-doctor", patience)
        .and_then(|bus| bus.inspect().map(|inspection| (bus, inspection)).map_err(Failure::from));
    let ms = (clock::now_ns() - started) / 1_000_000;
    match joined {
        Ok((bus, inspection)) => {
            let detail = match inspection.processes.iter().find(|process| process.holder) {
                Some(process) if process.pid != std::process::id() => {
                    format!("{} (pid {}) answers in {ms} ms", process.name, process.pid)
                }
                _ => format!("nobody holds domain {}; taking the role took {ms} ms", context.global.domain()),
            };
            bus.close();
            Check::ok(NAME, detail)
        }
        Err(Failure::Told(report)) => {
            Check::finding(NAME, format!("{}: {}", report.code, report.cause), report.remedy)
        }
        Err(Failure::ClosedPipe | Failure::Signalled(_) | Failure::AlreadyTold(_)) => {
            let code = CommandCode::ChildFailed;
            Check::finding(NAME, format!("{code}: joining was interrupted"), "run it again")
        }
    }
}
