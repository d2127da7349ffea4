//! SIGINT and SIGTERM: `up`, `sub`, `pull`, `reply` and `stat` end with 0 and what they have to say, all others with 128 and the signal's number.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Place, Running, names};

#[test]
fn a_subscriber_ends_with_its_summary() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let subscriber = place.subscribe(&["x"]);
        subscriber.signal(signal);
        let ended = subscriber.finish().expect(0);
        assert_eq!(ended.last_error_line(), "received 0 lost 0");
    }
}

#[test]
fn a_subscriber_whose_reader_does_not_read_ends_at_the_first_signal() {
    for (signal, socket) in [(Signal::INT, false), (Signal::TERM, false), (Signal::TERM, true)] {
        let place = Place::new();
        let mut command = place.command(&["sub", "x", "y", "--raw"]);
        let mut reader: Box<dyn Read> = if socket {
            let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
            command.stdout(OwnedFd::from(writer));
            Box::new(reader)
        } else {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            command.stdout(writer);
            Box::new(reader)
        };
        let mut subscriber = Running::start(command);
        subscriber.stderr_until(|line| line.starts_with("ready "));
        place.run(&["pub", "x", "--size", "4MiB", "--wait"]).expect(0);
        let mut byte = [0];
        reader.read_exact(&mut byte).expect("the message has begun to come");
        subscriber.signal(signal);
        let ended = subscriber.finish().expect(0);
        assert_eq!(ended.last_error_line(), "received 1 lost 0", "{signal:?} {:?}", ended.stderr);
        assert!(ended.stderr.iter().any(|line| line.starts_with("nobody read stdout")), "{:?}", ended.stderr);
    }
}

#[test]
fn what_a_slow_reader_reads_is_whole() {
    let place = Place::new();
    let mut command = place.command(&["sub", "x", "--raw0", "--count", "2"]);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut subscriber = Running::start(command);
    subscriber.stderr_until(|line| line.starts_with("ready "));
    place.run(&["pub", "x", "--size", "1000003", "--count", "2", "--wait"]).expect(0);
    let (mut bytes, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match reader.read(&mut piece).expect("a pipe can be read") {
            0 => break,
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
    subscriber.finish().expect(0);
    assert_eq!(bytes.len(), 2 * 1_000_004);
    assert_eq!((bytes[1_000_003], bytes[2_000_007]), (0, 0));
    assert_ne!(bytes[..1_000_003], bytes[1_000_004..2_000_007]);
}

#[test]
fn up_says_when_it_is_ready_and_ends_when_told() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let mut up = place.command(&["up", "--domain", "lab"]);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        up.stdout(writer);
        let up = Running::start(up);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(reader), &mut line).expect("a line is read");
        let socket = place.bus_directory().join("lab.sock");
        assert_eq!(line, format!("ready pid={} domain=lab socket={}\n", up.pid(), socket.display()));
        up.signal(signal);
        up.finish().expect(0);
        assert_eq!(names(&place.bus_directory()), ["lab.lock"], "only the empty lock remains");
    }
}

#[test]
fn counts_that_are_shown_again_and_again_end_when_told() {
    for (signal, format) in [(Signal::INT, "--json"), (Signal::TERM, "--prometheus")] {
        let place = Place::new();
        let subscriber = place.subscribe(&["x"]);
        let mut command = place.command(&["stat", format, "--interval", "10ms"]);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer);
        let stat = Running::start(command);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(&reader), &mut line)
            .expect("a line is read");
        stat.signal(signal);
        stat.finish().expect(0);
        // And one whose reader has stopped reading.
        let mut command = place.command(&["stat", format, "--interval", "1ms"]);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer);
        let stat = Running::start(command);
        let full = || rustix::io::ioctl_fionread(&reader).expect("a pipe has a length") >= 30_000;
        crate::node::until("nobody reads what stat writes", full);
        stat.signal(signal);
        stat.finish().expect(0);
        subscriber.signal(Signal::INT);
        subscriber.finish().expect(0);
    }
}

#[test]
fn a_publisher_that_waits_is_interrupted() {
    let place = Place::new();
    for arguments in [&["pub", "x", "y", "--wait"][..], &["pub", "x", "-"], &["pub", "x", "--lines"]] {
        let mut command = place.command(arguments);
        command.stdin(Stdio::piped());
        let mut publisher = Running::start(command);
        let stdin = publisher.stdin().expect("stdin is a pipe");
        // Whatever it does now, the signal handlers stand once the kernel shows them.
        until_signals_are_handled(publisher.pid());
        publisher.signal(Signal::INT);
        publisher.finish().expect(130);
        drop(stdin);
    }
}

#[test]
fn an_interrupt_that_comes_with_the_end_of_the_input_counts() {
    for arguments in [&["pub", "x", "-"][..], &["pub", "x", "--lines"]] {
        let place = Place::new();
        let mut command = place.command(arguments);
        command.stdin(Stdio::piped());
        let mut publisher = Running::start(command);
        let stdin = publisher.stdin().expect("stdin is a pipe");
        until_signals_are_handled(publisher.pid());
        // While it stands still both happen; it finds them together.
        publisher.stop();
        publisher.signal(Signal::INT);
        drop(stdin);
        publisher.signal(Signal::CONT);
        publisher.finish().expect(130);
    }
}

#[test]
fn an_interrupted_publisher_says_what_it_sent() {
    let place = Place::new();
    let subscriber = place.subscribe(&["x", "--reliable", "--count", "1"]);
    let mut command = place.command(&["pub", "x", "--lines", "--wait"]);
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let mut stdin = publisher.stdin().expect("stdin is a pipe");
    stdin.write_all(b"one\n").expect("a line is written");
    assert_eq!(subscriber.finish().expect(0).text(), "x\tone\n");
    publisher.signal(Signal::INT);
    let ended = publisher.finish().expect(130);
    assert!(ended.last_error_line().starts_with("sent 1 subscribers 1 "), "{:?}", ended.stderr);
}

/// Waits until SIGINT (bit 1 of the mask) is caught, by asking the kernel again and again.
pub(crate) fn until_signals_are_handled(pid: u32) {
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
        let caught =
            status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("the kernel shows masks");
        let mask = u64::from_str_radix(caught.trim(), 16).expect("a mask in hexadecimal");
        // SIGINT, and SIGXFSZ, which is taken over last.
        if mask & 0b10 != 0 && mask & 1 << 24 != 0 {
            return;
        }
        std::thread::yield_now();
    }
}
