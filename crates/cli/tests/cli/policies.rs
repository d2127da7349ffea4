//! Losses that are told, and subscribers that are behind and named.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::process::{ChildStdin, Stdio};

use rustix::process::Signal;

use crate::harness::{Place, Running};

/// A subscriber that has printed `first` and is stopped since, and the publisher that has more to say.
struct Stopped {
    subscriber: Running,
    output: BufReader<PipeReader>,
    publisher: Running,
    input: ChildStdin,
}

impl Stopped {
    fn new(place: &Place, subscriber: &[&str], publisher: &[&str]) -> Self {
        let mut command = place.command(&[&["sub", "x", "--raw"], subscriber].concat());
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer);
        let mut subscriber = Running::start(command);
        subscriber.stderr_until(|line| line == "ready x");
        let mut command = place.command(&[&["pub", "x", "--lines", "--wait"], publisher].concat());
        command.stdin(Stdio::piped());
        let mut publisher = Running::start(command);
        let mut input = publisher.stdin().expect("stdin is a pipe");
        input.write_all(b"first\n").expect("a line is written");
        let mut output = BufReader::new(reader);
        let mut line = String::new();
        // Only a subscriber that has received is attached; one that is stopped before cannot attach.
        output.read_line(&mut line).expect("a line is read");
        assert_eq!(line, "first\n");
        subscriber.signal(Signal::STOP);
        Self { subscriber, output, publisher, input }
    }

    /// Sends far more than a subscriber of depth 4 keeps, lets it go on, and sends one more.
    fn flood(&mut self) {
        self.input.write_all(&b"more\n".repeat(10_000)).expect("lines are written");
        self.subscriber.signal(Signal::CONT);
        self.input.write_all(b"last\n").expect("a line is written");
    }
}

#[test]
fn a_loss_is_told_with_its_cause_and_can_be_a_failure() {
    let place = Place::new();
    let mut stopped = Stopped::new(&place, &["--policy", "drop-oldest:4", "--fail-on-loss"], &[]);
    stopped.flood();
    let Stopped { mut subscriber, publisher, input, .. } = stopped;
    let lost = subscriber.stderr_until(|line| line.starts_with("lost "));
    assert!(lost.contains(" on x (lapped): "), "{lost}");
    let ended = subscriber.finish().expect(5);
    assert_eq!(ended.report().0, "BUS-0808");
    drop(input);
    publisher.finish().expect(0);
}

#[test]
fn a_loss_without_the_flag_is_told_and_no_failure() {
    let place = Place::new();
    let mut stopped = Stopped::new(&place, &["--policy", "drop-oldest:4"], &[]);
    stopped.flood();
    let Stopped { mut subscriber, mut output, publisher, input } = stopped;
    subscriber.stderr_until(|line| line.starts_with("lost "));
    let mut line = String::new();
    while line != "last\n" {
        line.clear();
        assert_ne!(output.read_line(&mut line).expect("a line is read"), 0, "the newest message arrives");
    }
    drop(input);
    publisher.finish().expect(0);
    subscriber.signal(Signal::INT);
    subscriber.finish().expect(0);
}

#[test]
fn a_reliable_subscriber_that_is_stopped_is_named() {
    let place = Place::new();
    let stopped = Stopped::new(&place, &["--reliable", "--count", "2"], &["--linger", "200ms"]);
    let Stopped { subscriber, mut output, publisher, mut input } = stopped;
    input.write_all(b"second\n").expect("a line is written");
    drop(input);
    let ended = publisher.finish().expect(1);
    let (code, cause, ..) = ended.report();
    assert_eq!(code, "BUS-0806");
    assert!(cause.contains("busway-sub") && cause.contains(&subscriber.pid().to_string()), "{cause}");
    assert_eq!(ended.last_error_line(), "sent 2 subscribers 1 delivered 1 dropped 0 in-flight 1");
    subscriber.signal(Signal::CONT);
    let mut line = String::new();
    output.read_line(&mut line).expect("a line is read");
    assert_eq!(line, "second\n", "what was published stays readable after its publisher's exit");
    subscriber.finish().expect(0);
}
