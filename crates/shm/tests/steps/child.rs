//! A child process that is walked through its code one instruction at a time, and killed between two of them.
//!
//! It knows `fork`, `ptrace` and `waitpid`, and nothing of messages. The child runs on with what it inherited; the only
//! thread of it is the one that forked.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

/// Longer than any walk, by far.
const STEPS_MAX: usize = 1_000_000;
/// Steps that a child walks to where it cannot be run to, at most.
const LOOP_STEPS_MAX: usize = 64;
/// The instruction `int3`.
const BREAKPOINT: u64 = 0xcc;

/// How a wait for the child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// One instruction was done.
    Step,
    /// The child has stopped itself: it has come to the beginning or to the end of its walk.
    Mark,
    /// It stopped or ended in a way that nobody has asked for; the status of `waitpid`.
    Other(i32),
}

/// A child that does not outlive its test.
pub(crate) struct Child {
    pid: libc::pid_t,
    reaped: bool,
}

impl Child {
    /// Forks. The child runs `run` and ends, with status 0 if that did not panic.
    pub(crate) fn fork(run: impl FnOnce()) -> Self {
        // SAFETY: the C library makes its own state fit for the child's one thread, allocations included, and the
        // child takes no lock of the test harness: it ends by `_exit`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork was refused");
        if pid == 0 {
            let code = i32::from(catch_unwind(AssertUnwindSafe(run)).is_err());
            // SAFETY: ends the child without running anything of the test harness.
            unsafe { libc::_exit(code) };
        }
        Self { pid, reaped: false }
    }

    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: the child is ours, and `status` is a place for one int.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
        assert_eq!(waited, self.pid, "the child is not ours to wait for");
        status
    }

    /// Waits until the child stops.
    pub(crate) fn stopped(&self) -> Stop {
        let status = self.wait();
        match libc::WIFSTOPPED(status).then(|| libc::WSTOPSIG(status)) {
            Some(libc::SIGTRAP) => Stop::Step,
            Some(libc::SIGSTOP) => Stop::Mark,
            _ => Stop::Other(status),
        }
    }

    /// Lets the stopped child run.
    pub(crate) fn go(&self) {
        // SAFETY: the child is stopped and ours to trace; no signal is given.
        let continued = unsafe { libc::ptrace(libc::PTRACE_CONT, self.pid, 0, 0) };
        assert_eq!(continued, 0, "a stopped child goes on");
    }

    /// Lets the stopped child do one instruction.
    pub(crate) fn step(&self) -> Stop {
        // SAFETY: the child is stopped and ours to trace; neither address nor signal is given.
        let stepped = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0) };
        assert_eq!(stepped, 0, "a stopped child can be stepped");
        self.stopped()
    }

    /// Where the stopped child stands.
    pub(crate) fn position(&self) -> u64 {
        self.registers().rip
    }

    /// Lets the stopped child run until it comes to the instruction at `position` for the first time.
    pub(crate) fn run_to(&self, position: u64) -> Stop {
        if self.position() == position {
            return Stop::Step;
        }
        let code = self.peek(position);
        self.poke(position, (code & !0xff) | BREAKPOINT);
        self.go();
        let stop = self.stopped();
        if !matches!(stop, Stop::Other(_)) {
            self.poke(position, code);
        }
        if stop == Stop::Step {
            let mut registers = self.registers();
            assert_eq!(registers.rip, position + 1, "it stopped at our breakpoint");
            registers.rip = position;
            // SAFETY: the child is stopped and ours to trace, and `registers` is what the kernel has filled before.
            let set = unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.pid, 0, &raw const registers) };
            assert_eq!(set, 0, "the registers of a stopped child can be written");
        }
        stop
    }

    fn registers(&self) -> libc::user_regs_struct {
        let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
        // SAFETY: the child is stopped and ours to trace, and the place is as large as the kernel asks.
        let read = unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.pid, 0, registers.as_mut_ptr()) };
        assert_eq!(read, 0, "the registers of a stopped child can be read");
        // SAFETY: integers, of which zero was a value already.
        unsafe { registers.assume_init() }
    }

    fn peek(&self, position: u64) -> u64 {
        // SAFETY: reads the child's memory, not ours; an address that is not there is refused.
        let word = unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, self.pid, position, 0) };
        word.cast_unsigned()
    }

    fn poke(&self, position: u64, code: u64) {
        // SAFETY: writes the child's memory, not ours; the kernel gives it a page of its own for that.
        let written = unsafe { libc::ptrace(libc::PTRACE_POKETEXT, self.pid, position, code) };
        assert_eq!(written, 0, "the code of a stopped child can be written");
    }

    /// Lets the stopped child run to its next mark.
    pub(crate) fn run_to_mark(&self) {
        self.go();
        assert_eq!(self.stopped(), Stop::Mark, "it comes to its mark");
    }

    /// Kills the child where it stands, and returns when nothing of it is left but its memory.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// A descriptor of the child, by its number there.
    pub(crate) fn descriptor(&self, number: i32) -> OwnedFd {
        let pid = Pid::from_raw(self.pid).expect("a child has a number");
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("the child is there");
        rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
            .expect("it has this descriptor")
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.reaped, true) {
            // SAFETY: the child is ours and was not reaped, so that the number is still its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            // What it did before it was killed may still be told.
            while libc::WIFSTOPPED(self.wait()) {}
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where a child was led to. It strays where an allocation, or what it reads, took another turn than in the recorded walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Led {
    /// Where it should be.
    There,
    /// Somewhere else in its walk.
    Astray,
    /// To its mark.
    ToItsEnd,
}

/// Where a child stands before each step of its walk.
#[derive(Default)]
pub(crate) struct Trail {
    positions: Vec<u64>,
    /// The last step before which it stood where it had not stood before: it can be run to.
    landmarks: Vec<usize>,
}

impl Trail {
    /// Walks the child to its mark.
    pub(crate) fn record(child: &Child) -> Self {
        let (mut trail, mut known) = (Self::default(), BTreeSet::new());
        loop {
            let position = child.position();
            let step = trail.positions.len();
            assert!(step < STEPS_MAX, "the walk never comes to its end");
            let landmark = if known.insert(position) { step } else { trail.landmarks[step - 1] };
            trail.positions.push(position);
            trail.landmarks.push(landmark);
            match child.step() {
                Stop::Step => {}
                Stop::Mark => return trail,
                Stop::Other(status) => panic!("it ended with {status:#x} at step {step}"),
            }
        }
    }

    /// Leads the child to where it has taken `steps` steps.
    pub(crate) fn lead(&self, child: &Child, steps: usize) -> Led {
        let landmark = self.landmarks[steps];
        let mut stop = child.run_to(self.positions[landmark]);
        for _ in landmark..steps {
            if stop == Stop::Step {
                stop = child.step();
            }
        }
        match stop {
            Stop::Step if child.position() == self.positions[steps] => Led::There,
            Stop::Step => Led::Astray,
            Stop::Mark => Led::ToItsEnd,
            Stop::Other(status) => panic!("it ended with {status:#x} before step {steps}"),
        }
    }

    /// Length of the walk.
    pub(crate) fn steps(&self) -> usize {
        self.positions.len()
    }

    /// Every step.
    pub(crate) fn every(&self) -> Vec<usize> {
        (0..self.steps()).collect()
    }

    /// `count` steps, spread by a seed, in order; the first and the last are among them. Those deep in a loop are left
    /// out: a child can only walk there, which takes long.
    pub(crate) fn some(&self, count: usize) -> Vec<usize> {
        let near = |step: &usize| step - self.landmarks[*step] <= LOOP_STEPS_MAX;
        let near: Vec<usize> = (0..self.steps()).filter(near).collect();
        let mut rng = fastrand::Rng::with_seed(39);
        let drawn = (0..count).map(|_| near[rng.usize(0..near.len())]);
        let chosen: BTreeSet<usize> = drawn.chain([0, self.steps() - 1]).collect();
        chosen.into_iter().collect()
    }
}

/// Called in the child: lets the parent trace it; false where that is not permitted.
pub(crate) fn trace_me() -> bool {
    // SAFETY: the call takes no further arguments.
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0 }
}

/// Called in the child: stops until the parent lets it go on.
pub(crate) fn mark() {
    // SAFETY: a signal to ourselves, which the parent sees first.
    unsafe { libc::raise(libc::SIGSTOP) };
}
