//! A holder that has few descriptors: who comes waits, is told nothing wrong, and gets in when others leave.

use std::io::{BufRead, BufReader, Read};

use rustix::process::Signal;

use crate::harness::{Place, Running};
use crate::load::now;

const SUBSCRIBERS: usize = 30;

#[test]
fn a_node_without_descriptors_says_so_once_and_lets_everybody_in_later() {
    let (place, began) = (Place::new(), now());
    let mut command = place.limited("ulimit -n 40", &["up"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut node = Running::start(command);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("the node speaks");
    // The node has room for two. Were one of the crowd in the publisher's place, it would wait there for a message of the
    // publisher, and the publisher for the place. So the crowd comes when both are in: what `first` reads says so.
    let publisher = place.start(&["pub", "x", "y", "--wait", "--count", "1000000", "--rate", "200"]);
    let words = ["sub", "x", "--reliable", "--count", "1000", "--timeout", "10m", "--raw"];
    let mut command = place.command(&words);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let first = Running::start(command);
    let (mut reader, mut text) = (BufReader::new(reader), String::new());
    reader.read_line(&mut text).expect("`first` writes");
    assert_eq!(text, "y\n", "the publisher and its first subscriber have their places");
    let others: Vec<Running> =
        (0..SUBSCRIBERS).map(|_| place.start(&["sub", "x", "--count", "1", "--timeout", "10m"])).collect();
    node.stderr_until(|line| line.contains("ulimit -n 4096"));
    for other in others {
        assert_eq!(other.finish().expect(0).text(), "x\ty\n");
    }
    first.finish().expect(0);
    reader.read_to_string(&mut text).expect("`first` writes");
    assert_eq!(text, "y\n".repeat(1000), "who was in before lost nothing");
    publisher.signal(Signal::INT);
    publisher.finish().expect(130);
    node.signal(Signal::TERM);
    let said = node.finish().expect(0).stderr;
    let told = said.iter().filter(|line| line.contains("ulimit -n 4096")).count();
    // At most one line a second.
    let seconds = usize::try_from((now() - began).as_secs()).expect("it fits");
    assert!(told <= 1 + seconds, "{told} times in {seconds} s: {said:?}");
    println!("evidence: {SUBSCRIBERS} subscribers at a node with 40 descriptors, told {told} times");
}
