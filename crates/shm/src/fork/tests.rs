//! Children made by a real `fork`, which do nothing but async-signal-safe calls.

use std::os::unix::process::ExitStatusExt;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::Timespec;

use super::*;

/// Forks; the child ends with what `child` returns. Says the child's process id.
fn fork(child: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: what the child does is allowed after fork: loads and system calls.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork was refused");
    if pid == 0 {
        let code = i32::from(!child());
        // SAFETY: ends the child without running anything of the test harness.
        unsafe { libc::_exit(code) };
    }
    pid
}

fn succeeded(child: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: `child` is ours, and `status` is a place for one int.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    std::process::ExitStatus::from_raw(status).success()
}

#[test]
fn child_and_grandchild_are_told_forked_and_the_parent_is_not() {
    let generation = generation().unwrap();
    let child = fork(|| {
        let told = forked_since(generation) && check(generation) == Err(ShmError::Forked);
        let Ok(own) = super::generation() else { return false };
        let grandchild = fork(|| forked_since(own) && forked_since(generation));
        told && own != generation && !forked_since(own) && succeeded(grandchild)
    });
    assert!(succeeded(child), "a child of fork must be told so, and can begin anew");
    assert!(!forked_since(generation), "the parent was not forked");
    assert_eq!(check(generation), Ok(()));
}

#[test]
fn peer_sees_the_hang_up_though_a_forked_child_lives() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (go_reader, go_writer) = rustix::pipe::pipe().unwrap();
    let writer = PrivateFd::new(writer).unwrap();
    let child = fork(|| {
        // The number is still taken, by something that is not the pipe any more.
        let replaced = rustix::io::write(&writer, b"x") != Ok(1);
        // Lives until the parent says so; by then the parent has seen the end of the other pipe.
        let mut byte = [0];
        let released = rustix::io::read(&go_reader, &mut byte) == Ok(1);
        replaced && released
    });
    drop(writer);
    let ten_seconds = Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut ends = [PollFd::new(&reader, PollFlags::IN)];
    let told = rustix::event::poll(&mut ends, Some(&ten_seconds)).unwrap();
    rustix::io::write(&go_writer, b"g").unwrap();
    assert_eq!(told, 1, "the child holds the other end open");
    let mut byte = [0];
    assert_eq!(rustix::io::read(&reader, &mut byte), Ok(0), "the child could write to its parent's peer");
    assert!(succeeded(child), "the child could write to its parent's peer");
}

#[test]
fn descriptor_that_was_let_go_is_left_to_the_child() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let writer = PrivateFd::new(writer).unwrap().into_inner();
    let child = fork(|| rustix::io::write(&writer, b"x") == Ok(1));
    assert!(succeeded(child), "no longer registered, so inherited as usual");
    let mut byte = [0];
    assert_eq!(rustix::io::read(&reader, &mut byte), Ok(1));
}

#[test]
fn numbers_past_the_register_are_left_alone() {
    assert_eq!(place(-1), None);
    assert_eq!(place(i32::MAX), None);
    assert_eq!(place(0), Some((0, 1)));
    assert_eq!(place((1 << 20) - 1), Some((WORDS - 1, 1 << 63)));
    drop(register(i32::MAX));
}
