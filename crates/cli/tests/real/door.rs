//! A holder that has few descriptors: who comes waits, is told nothing wrong, and gets in when others leave.

use rustix::process::Signal;

use crate::harness::{Place, Running};

const SUBSCRIBERS: usize = 30;

#[test]
fn a_node_without_descriptors_says_so_once_and_lets_everybody_in_later() {
    let place = Place::new();
    let mut command = place.limited("ulimit -n 40", &["up"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut node = Running::start(command);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(reader), &mut line).expect("the node speaks");
    // Here first, so that it has its place whatever follows.
    let publisher = place.start(&["pub", "x", "y", "--wait", "--count", "1000000", "--rate", "200"]);
    let first = place.subscribe(&["x", "--reliable", "--count", "1000", "--raw"]);
    let others: Vec<Running> =
        (0..SUBSCRIBERS).map(|_| place.start(&["sub", "x", "--count", "1", "--timeout", "60s"])).collect();
    node.stderr_until(|line| line.contains("ulimit -n 4096"));
    for other in others {
        assert_eq!(other.finish().expect(0).text(), "x\ty\n");
    }
    assert_eq!(first.finish().expect(0).text(), "y\n".repeat(1000), "who was in before lost nothing");
    publisher.signal(Signal::INT);
    publisher.finish().expect(130);
    node.signal(Signal::TERM);
    let said = node.finish().expect(0).stderr;
    let told = said.iter().filter(|line| line.contains("ulimit -n 4096")).count();
    // At most one line a second.
    assert!(told <= 30, "{said:?}");
    println!("evidence: {SUBSCRIBERS} subscribers at a node with 40 descriptors, told {told} times");
}
