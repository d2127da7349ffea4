//! Instructions of a message among many topics: what it costs where memory costs nothing.
//!
//! Time among ten thousand topics tells two things together: what is done for a message, and how far away is what it is
//! done with, as ten thousand rings fit no cache. So what is done is counted: one process publishes and takes, and stops
//! before and after each part; the one that started it lets it go a step at a time in between, as a debugger does. Other
//! threads are not counted, and a system call is one step.

use crate::Failure;
use crate::bus::{PATIENCE, directory};
use crate::cell::outcome;
use crate::outcome::Outcome;
use crate::plan::Plan;
use busway::{Bus, Policy, Publisher, Subscriber};
use std::process::{Command, Stdio};

/// Messages that are published before they are taken: as many for every number of topics.
const TOGETHER: usize = 320;

/// Slots of each ring at most.
const SLOTS_MAX: u32 = 64;

const PAYLOAD: [u8; 64] = [7; 64];

/// Runs `inside` step by step.
///
/// # Errors
/// The kernel lets nobody be traced, or the measurement fails.
pub fn conduct(plan: &Plan) -> Result<Outcome, Failure> {
    let inner = Plan { cell: "steps-inside".to_owned(), ..plan.clone() };
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.arg("cell").arg(inner.argument()?).stdout(Stdio::null()).spawn()?;
    let pid = i32::try_from(child.id())?;
    let mut all = Vec::new();
    while trace::until_stop(pid)? {
        all.push(trace::count_steps(pid)? as f64 / plan.messages as f64);
    }
    // Its end was waited for above; this only lets the handle know.
    drop(child.try_wait());
    let [together, alone] = all[..] else { return Err(format!("{} parts were counted", all.len()).into()) };
    Ok(outcome().with("together_steps", together).with("alone_steps", alone))
}

/// What is counted.
///
/// # Errors
/// The bus fails.
pub fn inside(plan: &Plan) -> Result<Outcome, Failure> {
    let bus = Bus::builder().domain("bench").directory(directory(std::process::id()));
    let bus = bus.timeout(PATIENCE).unmonitored().open()?;
    let mut subscriber = bus.subscriber("bench.steps.*").policy(Policy::Block).open()?;
    let mut publishers = Vec::new();
    for number in 0..plan.size {
        let builder = bus.publisher(&format!("bench.steps.{number}")).slots_max(SLOTS_MAX);
        publishers.push(builder.max_wait(PATIENCE).open()?);
    }
    let messages = usize::try_from(plan.messages)?;
    // What is made once is made before it is counted.
    pass(&mut publishers, &mut subscriber, 2 * usize::try_from(plan.size)?, TOGETHER)?;
    trace::allow()?;
    // Many together; and each alone, with a look that finds nothing behind it.
    for together in [TOGETHER, 1] {
        trace::stop()?;
        pass(&mut publishers, &mut subscriber, messages, together)?;
        trace::stop()?;
    }
    Ok(outcome())
}

/// So many are published, one on each topic in turn, then all of them are taken, and so on.
#[inline(never)]
fn pass(
    publishers: &mut [Publisher],
    subscriber: &mut Subscriber,
    messages: usize,
    together: usize,
) -> Result<(), Failure> {
    let count = publishers.len();
    let mut number = 0;
    while number < messages {
        let most = together.min(messages - number);
        for _ in 0..most {
            publishers[number % count].send(&PAYLOAD)?;
            number += 1;
        }
        let mut taken = 0;
        while subscriber.try_recv()?.is_some() {
            taken += 1;
        }
        if taken != most {
            return Err(format!("{taken} of {most} messages were there").into());
        }
    }
    Ok(())
}

/// The steps of another process.
#[expect(unsafe_code, reason = "ptrace and waitpid have no safe wrapper")]
mod trace {
    use crate::Failure;
    use std::io::Error;
    use std::ptr::null_mut;

    fn check(result: i64, call: &str) -> Result<(), Failure> {
        if result < 0 { Err(format!("{call}: {}", Error::last_os_error()).into()) } else { Ok(()) }
    }

    /// Lets our parent trace the calling thread.
    pub(super) fn allow() -> Result<(), Failure> {
        // SAFETY: it takes no pointer.
        check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<u8>(), null_mut::<u8>()) }, "ptrace")
    }

    /// Stops the calling thread until its tracer lets it go on.
    pub(super) fn stop() -> Result<(), Failure> {
        // SAFETY: it takes no pointer.
        check(i64::from(unsafe { libc::raise(libc::SIGSTOP) }), "raise")
    }

    /// The signal that stopped the process; `None` if it has ended well.
    fn stopped(pid: i32) -> Result<Option<i32>, Failure> {
        let mut status = 0;
        // SAFETY: the status is ours.
        check(i64::from(unsafe { libc::waitpid(pid, &raw mut status, 0) }), "waitpid")?;
        if libc::WIFSTOPPED(status) {
            return Ok(Some(libc::WSTOPSIG(status)));
        }
        if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
            return Ok(None);
        }
        Err(format!("the process that is counted ended with status {status:#x}").into())
    }

    fn go_on(pid: i32, request: libc::c_uint) -> Result<(), Failure> {
        // SAFETY: the process is our child and stopped; the request takes no pointer.
        check(unsafe { libc::ptrace(request, pid, null_mut::<u8>(), null_mut::<u8>()) }, "ptrace")
    }

    /// Waits until it stops for the first time, or lets it go on until then; false if it ends.
    pub(super) fn until_stop(pid: i32) -> Result<bool, Failure> {
        loop {
            match stopped(pid)? {
                Some(libc::SIGSTOP) => return Ok(true),
                Some(_) => go_on(pid, libc::PTRACE_CONT)?,
                None => return Ok(false),
            }
        }
    }

    /// Lets it go on a step at a time until it stops again, and then freely. Returns how many steps that were.
    pub(super) fn count_steps(pid: i32) -> Result<u64, Failure> {
        let mut steps = 0;
        loop {
            go_on(pid, libc::PTRACE_SINGLESTEP)?;
            match stopped(pid)? {
                Some(libc::SIGTRAP) => steps += 1,
                Some(libc::SIGSTOP) => break,
                Some(other) => return Err(format!("it was stopped by signal {other}").into()),
                None => return Err("it ended while it was counted".into()),
            }
        }
        go_on(pid, libc::PTRACE_CONT)?;
        Ok(steps)
    }
}
