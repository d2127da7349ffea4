//! Claims about who may ask, what, and what that costs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Answer, Ask, QUESTION_BYTES_MAX, ask};
use crate::{Node, NodeConfig};

/// Only a defect takes so long.
const DEADLINE: Duration = Duration::from_secs(30);

/// A directory of its own, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        let path = std::env::temp_dir().join(format!("busway-door-{:016x}", fastrand::u64(..)));
        fs::DirBuilder::new().mode(0o700).create(&path).expect("a directory");
        Place(path)
    }

    fn node(&self) -> Node {
        let config = NodeConfig { directory: Some(self.0.clone()), ..NodeConfig::default() };
        Node::start(&config).expect("a node")
    }

    fn door(&self) -> PathBuf {
        self.0.join("default.ctl")
    }

    /// What is answered to these bytes.
    fn said(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.door()).expect("the door is open");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        // The door may hang up before all is written.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        said
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_node_says_what_it_is_and_its_door_goes_with_it() {
    let place = Place::new();
    let node = place.node();
    let asked = ask(node.bus(), &Ask::Info, DEADLINE).expect("an answer").expect("a node");
    let Answer::Info(info) = asked.answer else { panic!("{asked:?}") };
    assert_eq!((info.pid, info.domain.as_str(), info.identity), (std::process::id(), "default", None));
    let bus = node.bus().clone();
    node.stop();
    assert!(!place.door().exists(), "a clean end leaves no name");
    assert!(ask(&bus, &Ask::Info, DEADLINE).expect("nobody is no error").is_none());
}

#[test]
fn who_asks_for_the_end_hears_of_it_when_it_has_come() {
    let place = Place::new();
    let node = place.node();
    let mut asked = ask(node.bus(), &Ask::Drain, DEADLINE).expect("an answer").expect("a node");
    assert_eq!(asked.answer, Answer::Draining { pid: std::process::id(), connected: 0 });
    assert!(!asked.wait_for_end(Duration::from_millis(1)), "nobody has ended it yet");
    let fd = node.asked_to_end().expect("it has a door");
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).expect("it is told");
    let waiting = std::thread::spawn(move || asked.wait_for_end(DEADLINE));
    node.stop();
    assert!(waiting.join().expect("the waiting thread does not panic"));
}

#[test]
fn what_is_no_question_is_refused_with_a_reason_and_the_door_stays_open() {
    let place = Place::new();
    let node = place.node();
    let deep = "[".repeat(QUESTION_BYTES_MAX - 1);
    let long = vec![b'x'; 1 << 20];
    for bytes in [
        &b""[..],
        b"\n",
        b"{\"ask\":\"info\"",
        b"{\"ask\":\"restart\"}\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        deep.as_bytes(),
        &long,
    ] {
        let said = place.said(bytes);
        // Who sent more than a question may be cut off before it has read why.
        assert!(
            said.starts_with("{\"refused\"") || (said.is_empty() && bytes.len() > QUESTION_BYTES_MAX),
            "{said}"
        );
    }
    // One that says nothing costs the next a moment.
    let silent = UnixStream::connect(place.door()).expect("the door is open");
    let mut trickle = UnixStream::connect(place.door()).expect("the door is open");
    trickle.write_all(b"{").expect("a byte");
    assert!(place.said(b"{\"ask\":\"info\"}\n").starts_with("{\"info\""));
    drop((silent, trickle));
    node.stop();
}

#[test]
fn the_door_of_a_later_node_replaces_one_that_was_left_and_survives_the_end_of_the_earlier() {
    let place = Place::new();
    drop(std::os::unix::net::UnixListener::bind(place.door()).expect("what a killed node leaves"));
    let first = place.node();
    let second = place.node();
    first.stop();
    let asked = ask(second.bus(), &Ask::Info, DEADLINE).expect("an answer");
    assert!(asked.is_some(), "the later node is asked");
    second.stop();
    assert!(!place.door().exists());
}

#[test]
fn when_a_later_node_is_gone_however_it_went_the_earlier_is_asked_again() {
    let place = Place::new();
    let first = place.node();
    let asked = || {
        let asked = ask(first.bus(), &Ask::Info, DEADLINE).expect("an answer");
        match asked?.answer {
            Answer::Info(info) => Some(info.uptime_ms),
            other => panic!("{other:?}"),
        }
    };
    let until_asked = || {
        // Each look at what is not there yet takes a moment, so that it is looked for as long as that.
        for _ in 0..3_000 {
            if asked().is_some() {
                return;
            }
            poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 })).expect("the time passes");
        }
        panic!("nobody is asked any more");
    };
    until_asked();
    let second = place.node();
    second.stop();
    until_asked();
    let later = || {
        let other = place.0.join("other");
        let listener = UnixListener::bind(&other).expect("a door");
        fs::rename(other, place.door()).expect("it takes the name");
        listener
    };
    // A node that was killed leaves a name with nobody behind it.
    drop(later());
    until_asked();
    // At one that stands still it knocks, and not again until that is answered.
    let still = later();
    let inode = || fs::metadata(place.door()).expect("a door").ino();
    let theirs = inode();
    let knocked = still.accept().expect("somebody knocks").0;
    let mut another = [PollFd::new(&still, PollFlags::IN)];
    let looks = Timespec { tv_sec: 2, tv_nsec: 500_000_000 };
    assert_eq!(poll(&mut another, Some(&looks)).expect("the time passes"), 0, "it was not answered yet");
    assert_eq!(inode(), theirs, "who is there is let alone");
    drop((knocked, still));
    until_asked();
    first.stop();
}
