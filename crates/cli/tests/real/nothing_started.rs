//! Subscribers and a publisher with nothing started before; whoever holds the rendezvous may die.

use std::io::{BufReader, Read, Write};
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Place, Running, names};

#[test]
fn the_holder_and_a_reliable_subscriber_die_together_and_the_others_go_on() {
    let place = Place::new();
    // The first to come holds the rendezvous.
    let holder = place.subscribe(&["x", "--raw"]);
    let victim = place.subscribe(&["x", "--raw", "--reliable"]);
    let mut command = place.command(&["sub", "x", "--raw", "--reliable", "--count", "20000"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut survivor = Running::start(command);
    survivor.stderr_until(|line| line == "ready x");
    let mut command =
        place.command(&["pub", "x", "--lines", "--wait=3", "--max-wait", "60s", "--linger", "60s"]);
    command.stdin(Stdio::piped());
    let mut publisher = Running::start(command);
    let mut input = publisher.stdin().expect("stdin is a pipe");
    let half: Vec<u8> = (0..10_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    input.write_all(&half).expect("lines are written");
    let mut output = BufReader::new(reader);
    let mut first = vec![0; 2];
    // The first message is sent once all three are attached.
    output.read_exact(&mut first).expect("the first message arrives");
    holder.signal(Signal::KILL);
    victim.signal(Signal::KILL);
    input.write_all(&half).expect("lines are written");
    output.read_to_end(&mut first).expect("the survivor prints to its end");
    assert!(first == [&half[..], &half[..]].concat(), "the survivor's messages differ");
    survivor.finish().expect(0);
    // The role has found another process: a newcomer joins and is served.
    let newcomer = place.subscribe(&["x", "--raw", "--reliable", "--count", "1"]);
    input.write_all(b"after\n").expect("a line is written");
    assert_eq!(newcomer.finish().expect(0).text(), "after\n");
    drop(input);
    publisher.finish().expect(0);
    assert_eq!(names(&place.bus_directory()), ["default.lock"]);
    println!("evidence: 1 holder and 1 reliable subscriber killed in one instant, 20000 messages whole");
}
