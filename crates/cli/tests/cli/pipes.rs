//! A reader that leaves: exit 0 and not a word.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::harness::{Place, Running};

#[test]
fn a_subscriber_whose_reader_leaves_ends_silently() {
    let place = Place::new();
    let mut command = place.command(&["sub", "x", "--raw"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut subscriber = Running::start(command);
    subscriber.stderr_until(|line| line == "ready x");
    let mut publisher = place.command(&["pub", "x", "--lines", "--wait"]);
    publisher.stdin(Stdio::piped());
    let mut publisher = Running::start(publisher);
    let mut lines = publisher.stdin().expect("stdin is a pipe");
    std::io::Write::write_all(&mut lines, b"one\n").expect("a line is written");
    let mut line = String::new();
    let mut reader = BufReader::new(reader);
    reader.read_line(&mut line).expect("a line is read");
    assert_eq!(line, "one\n", "output is flushed while nothing waits");
    drop(reader);
    std::io::Write::write_all(&mut lines, b"two\n").expect("a line is written");
    let ended = subscriber.finish().expect(0);
    assert_eq!(ended.stderr, ["ready x"]);
    drop(lines);
    publisher.finish().expect(0);
}

#[test]
fn an_idle_subscriber_notices_that_its_reader_left() {
    let place = Place::new();
    let mut command = place.command(&["sub", "x"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut subscriber = Running::start(command);
    subscriber.stderr_until(|line| line == "ready x");
    drop(reader);
    assert_eq!(subscriber.finish().expect(0).stderr, ["ready x"]);
}

#[test]
fn printing_commands_take_a_closed_pipe_in_silence() {
    let place = Place::new();
    for arguments in [&["completions", "bash"][..], &["ls"], &["shm", "ls"], &["doctor"], &[], &["--help"]] {
        let mut command = place.command(arguments);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        command.stdout(writer);
        let ended = Running::start(command).finish().expect(0);
        assert!(
            ended.stderr.iter().all(|line| !line.starts_with("error")),
            "{arguments:?}: {:?}",
            ended.stderr
        );
    }
}
