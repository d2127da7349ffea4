//! Two interpreters: one sends, the other receives and says how long it took; or one alone, that says what it has measured.
//!
//! The programs are in `python/`; what they print is read here. `BUSWAY_BENCH_PYTHON` names an interpreter that has `busway`, `pyzmq` and `orjson`;
//! else it is `python3` of the `PATH`. It asserts nothing about time.
//!
//! Invariant: no interpreter is left when a measurement ends, however it ends.

use crate::Failure;
use crate::outcome::Outcome;
use crate::place;
use crate::plan::Plan;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The cell that is one interpreter.
const TIMES: &str = "times";

/// What a receiver writes at its end.
#[derive(Debug, Deserialize)]
struct Found {
    received: u64,
    /// Messages that came twice or out of order.
    wrong: u64,
    /// From the first message to the last.
    seconds: f64,
    cpu_seconds: f64,
    threads: u64,
}

/// The program of a side; `None` if the side is none of Python's.
fn program(plan: &Plan) -> Option<&'static str> {
    Some(match plan.side.as_str() {
        "python-message-bus" if plan.cell == TIMES => "message_bus_times.py",
        "python-document" => "document.py",
        "python-libzmq" => "libzmq_bytes.py",
        "python-message-bus" => "message_bus_dicts.py",
        "python-busway" => "busway_bytes.py",
        _ => return None,
    })
}

/// An interpreter that is killed when it is not waited for.
struct Interpreter(Child);

impl Drop for Interpreter {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Interpreter {
    fn start(plan: &Plan, role: &str, place: &str, cpu: Option<usize>) -> Result<Self, Failure> {
        let program = program(plan).ok_or_else(|| format!("no program in Python for {}", plan.side))?;
        let python = std::env::var_os("BUSWAY_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python").join(program);
        // A child runs where its parent does.
        if let Some(cpu) = cpu {
            place::pin(cpu)?;
        }
        let child = Command::new(&python)
            .arg(path)
            .args([role, place, &plan.messages.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Ok(Self(child.map_err(|cause| format!("{}: {cause} (see BUSWAY_BENCH_PYTHON)", python.display()))?))
    }

    fn output(&mut self) -> Result<BufReader<ChildStdout>, Failure> {
        Ok(BufReader::new(self.0.stdout.take().ok_or("the output was taken before")?))
    }

    fn finish(mut self, who: &str) -> Result<(), Failure> {
        let status = self.0.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the interpreter that {who} ended with {status}").into())
        }
    }
}

/// Runs the one interpreter of a plan: what it prints are numbers by name.
fn alone(plan: &Plan) -> Result<Outcome, Failure> {
    let place = format!("bench-{}", std::process::id());
    let mut interpreter = Interpreter::start(plan, "measure", &place, None)?;
    let line =
        interpreter.output()?.lines().next().ok_or("the interpreter says nothing: has it busway?")??;
    interpreter.finish("measures")?;
    Ok(Outcome { values: serde_json::from_str(&line)?, threads: vec![1], ..Outcome::default() })
}

/// Runs both sides of a plan.
///
/// # Errors
/// An interpreter cannot be started, lacks a package, or fails.
pub fn conduct(plan: &Plan) -> Result<Outcome, Failure> {
    if plan.cell == TIMES {
        return alone(plan);
    }
    let place = if plan.side.starts_with("python-message") || plan.side == "python-busway" {
        format!("bench-{}", std::process::id())
    } else {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        format!("tcp://127.0.0.1:{port}")
    };
    let mut receiver = Interpreter::start(plan, "receive", &place, Some(plan.cpus[1]))?;
    let mut lines = receiver.output()?.lines();
    match lines.next() {
        Some(line) if line.as_deref().is_ok_and(|line| line == "ready") => {}
        _ => {
            return Err("the interpreter that receives is not ready: has it busway, pyzmq and orjson?".into());
        }
    }
    let sender = Interpreter::start(plan, "send", &place, Some(plan.cpus[0]))?;
    let found: Found = serde_json::from_str(&lines.next().ok_or("the receiver says nothing")??)?;
    sender.finish("sends")?;
    receiver.finish("receives")?;
    if found.wrong > 0 {
        return Err(
            format!("{} of {} messages came twice or out of order", found.wrong, found.received).into()
        );
    }
    let (messages, received) = (plan.messages as f64, found.received as f64);
    let mut outcome = Outcome::default()
        .with("messages_per_s", (received - 1.0) / found.seconds)
        .with("receiver_cpu_ns", found.cpu_seconds * 1e9 / messages);
    outcome.lost = plan.messages.saturating_sub(found.received);
    outcome.threads = vec![found.threads];
    Ok(outcome)
}
