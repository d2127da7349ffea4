//! Real processes die here, and their life words must say so.
//!
//! A test that needs a process of its own starts this test binary again with `--exact
//! life::tests::child_process`, its part in a variable and the shared segment as its standard input.
//! Without the variable `child_process` does nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::*;
use crate::clock::monotonic_ns;
use crate::sys::memfd::{self, Mapping};

const PART: &str = "BUSWAY_TEST_LIFE";
const SIZE: u64 = 4096;
const KILLS: usize = 200;

/// The life word, and beside it one that a side raises to let the other go on.
struct Segment {
    mapping: Mapping,
    fd: OwnedFd,
}

impl Segment {
    fn new() -> Arc<Self> {
        Self::writable(memfd::create_arena("life", SIZE).unwrap())
    }

    fn writable(fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self { mapping: Mapping::map_rw(&fd, SIZE).unwrap(), fd })
    }

    /// What peers have.
    fn read_only(&self) -> Arc<Self> {
        let fd = self.fd.try_clone().unwrap();
        Arc::new(Self { mapping: Mapping::map_ro(&fd, SIZE).unwrap(), fd })
    }

    fn life(&self) -> &AtomicU32 {
        self.mapping.word_u32(0).unwrap()
    }

    fn gate(&self) -> &AtomicU32 {
        self.mapping.word_u32(64).unwrap()
    }

    /// The process id of the child that a part has forked off.
    fn orphan(&self) -> &AtomicU32 {
        self.mapping.word_u32(128).unwrap()
    }

    fn open_gate(&self) {
        self.gate().store(1, Ordering::Release);
        futex::wake_all(self.gate());
    }

    fn wait_for_gate(&self) {
        let deadline = Deadline::after(LOST);
        while self.gate().load(Ordering::Acquire) == 0 {
            assert!(!deadline.expired(), "the other side has failed");
            futex::wait(self.gate(), 0, deadline.remaining());
        }
    }

    /// Starts a process that acquires the life word and does its part; returns when it is alive.
    fn spawn(&self, part: &str) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "life::tests::child_process", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .stdin(self.fd.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child);
        let deadline = Deadline::after(Duration::from_secs(60));
        while read(self.life()) == Life::Starting {
            assert!(!deadline.expired(), "the child never took its life word");
            futex::wait(self.life(), 0, deadline.remaining());
        }
        process
    }
}

/// A child process that does not outlive its test.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Only a lost wake-up takes this long; a death found when it is over was found by the timer.
const LOST: Duration = Duration::from_secs(30);

/// How the owner of `word` ended; fails where a timer and no wake-up told.
fn end_of(word: &AtomicU32) -> Life {
    let deadline = Deadline::after(LOST);
    let life = wait_dead(word, deadline);
    assert!(!deadline.expired(), "no wake-up told of the end, it now reads {life:?}");
    life
}

#[test]
fn child_process() {
    let Ok(part) = std::env::var(PART) else { return };
    let segment = Segment::writable(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let lock = LifeLock::acquire(Arc::clone(&segment), Segment::life).unwrap();
    // The test waits for the word to move.
    futex::wake_all(segment.life());
    match part.as_str() {
        "stay" => loop {
            thread::park();
        },
        "close" => {
            segment.wait_for_gate();
            drop(lock);
            segment.wait_for_gate();
            std::process::exit(0);
        }
        "exit" => std::process::exit(0),
        "exec" => {
            use std::os::unix::process::CommandExt;
            // From another thread than the owner, as in a real process: the control thread runs no user
            // code. (An owner that calls exec itself takes the process's id before its list is walked,
            // and so is not marked.)
            thread::scope(|scope| {
                scope.spawn(|| panic!("exec failed: {}", Command::new("cat").exec()));
            });
        }
        "fork" => {
            // SAFETY: the child makes one async-signal-safe call, for ever.
            let orphan = unsafe { libc::fork() };
            if orphan == 0 {
                loop {
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            }
            segment.orphan().store(orphan.cast_unsigned(), Ordering::Release);
            segment.open_gate();
            loop {
                thread::park();
            }
        }
        "fork and drop" => {
            // SAFETY: the child drops the lock, which must do nothing but free memory, and exits.
            let child = unsafe { libc::fork() };
            if child == 0 {
                drop(lock);
                // SAFETY: ends the child without running anything of the test harness.
                unsafe { libc::_exit(0) };
            }
            let mut status = -1;
            // SAFETY: `child` is ours, and `status` is a place for one int.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!(status, 0, "dropping the parent's lock in a child of fork must be harmless");
            segment.open_gate();
            loop {
                thread::park();
            }
        }
        other => panic!("unknown part {other}"),
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence that the claim's row shows")]
fn killed_process_is_seen_dead_by_futex_and_not_by_timer() {
    let mut delays_ns = Vec::with_capacity(KILLS);
    for _ in 0..KILLS {
        let segment = Segment::new();
        let peer = segment.read_only();
        let mut process = segment.spawn("stay");
        assert_eq!(read(peer.life()), Life::Alive);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let life = end_of(peer.life());
                (life, monotonic_ns())
            });
            let killed_ns = monotonic_ns();
            process.kill();
            let (life, seen_ns) = waiter.join().unwrap();
            assert_eq!(life, Life::Dead);
            delays_ns.push(seen_ns.saturating_sub(killed_ns));
        });
    }
    delays_ns.sort_unstable();
    let at = |percent: usize| delays_ns[(KILLS - 1) * percent / 100] / 1000;
    println!(
        "evidence: kills={KILLS} seen_dead_by=futex p50_us={} p90_us={} p99_us={} max_us={}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
    assert!(at(50) <= 10_000, "half of the deaths were seen later than 10 ms");
}

#[test]
fn every_waiter_is_woken_though_the_kernel_wakes_one() {
    let segment = Segment::new();
    let mut process = segment.spawn("stay");
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..8).map(|_| scope.spawn(|| end_of(segment.life()))).collect();
        process.kill();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Life::Dead);
        }
    });
}

#[test]
fn clean_end_is_closed_and_stays_closed_after_the_process() {
    let segment = Segment::new();
    let mut process = segment.spawn("close");
    segment.open_gate();
    assert_eq!(end_of(segment.life()), Life::Closed);
    process.0.wait().unwrap();
    assert_eq!(
        read(segment.life()),
        Life::Closed,
        "the exit must not have marked a word that was given back"
    );
}

#[test]
fn process_that_ends_without_closing_is_dead() {
    for part in ["exit", "exec"] {
        let segment = Segment::new();
        let _process = segment.spawn(part);
        assert_eq!(end_of(segment.life()), Life::Dead, "{part}");
    }
}

#[test]
fn forked_child_does_not_keep_its_parent_alive() {
    let segment = Segment::new();
    let mut process = segment.spawn("fork");
    segment.wait_for_gate();
    process.kill();
    assert_eq!(end_of(segment.life()), Life::Dead, "the child of fork is not the owner");
    let orphan = segment.orphan().load(Ordering::Acquire).cast_signed();
    let orphan = rustix::process::Pid::from_raw(orphan).unwrap();
    rustix::process::kill_process(orphan, rustix::process::Signal::KILL)
        .expect("the child of fork was alive when its parent was seen dead");
}

#[test]
fn lock_that_a_forked_child_drops_stays_the_parents() {
    let segment = Segment::new();
    let mut process = segment.spawn("fork and drop");
    segment.wait_for_gate();
    assert_eq!(read(segment.life()), Life::Alive, "the parent still lives");
    process.kill();
    assert_eq!(end_of(segment.life()), Life::Dead);
}

#[test]
fn thread_that_ends_without_its_lock_is_dead_while_the_process_lives() {
    let segment = Segment::new();
    let owner = Arc::clone(&segment);
    thread::spawn(move || {
        core::mem::forget(LifeLock::acquire(owner, Segment::life).unwrap());
    })
    .join()
    .unwrap();
    // Joining returns when the C library has cleaned up, which is before the kernel has.
    assert_eq!(end_of(segment.life()), Life::Dead);
}

#[test]
fn word_has_one_owner_ever() {
    let segment = Segment::new();
    let lock = LifeLock::acquire(Arc::clone(&segment), Segment::life).unwrap();
    let second = LifeLock::acquire(Arc::clone(&segment), Segment::life);
    assert!(matches!(second, Err(ShmError::LifeTaken { .. })), "held");
    drop(lock);
    let third = LifeLock::acquire(Arc::clone(&segment), Segment::life);
    assert!(matches!(third, Err(ShmError::LifeTaken { found: CLOSED })), "closed");
}

#[test]
fn wait_ends_at_its_deadline_while_the_owner_lives() {
    let segment = Segment::new();
    assert_eq!(wait_dead(segment.life(), Deadline::after(Duration::from_millis(5))), Life::Starting);
    let _lock = LifeLock::acquire(Arc::clone(&segment), Segment::life).unwrap();
    assert_eq!(wait_dead(segment.life(), Deadline::after(Duration::from_millis(5))), Life::Alive);
}

#[test]
fn any_word_reads_as_some_life() {
    assert_eq!(of(0), Life::Starting);
    assert_eq!(of(CLOSED), Life::Closed);
    assert_eq!(of(WAITERS | OWNER_DIED), Life::Dead);
    assert_eq!(of(OWNER_DIED | 77), Life::Dead);
    assert_eq!(of(WAITERS | 77), Life::Alive);
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..10_000 {
        let life = of(random.u32(..));
        assert_eq!(life.is_gone(), matches!(life, Life::Dead | Life::Closed));
    }
}
