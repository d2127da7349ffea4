//! Work and requests between two hosts, as a newcomer tries them: two runtime directories that share nothing, a node in each, and the command.

use std::io::Write;
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Place, Running};
use crate::hosts::{dial, listen};

const TASKS: usize = 400;

fn numbers(text: &str) -> Vec<usize> {
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

#[test]
fn what_is_pushed_on_one_host_is_pulled_once_on_either_and_what_is_asked_is_answered_on_the_other() {
    let (near, far) = (Place::new(), Place::new());
    let (far_node, _far_stream, address) = listen(&far, "1", "127.0.0.1:0");
    let (near_node, _near_stream) = dial(&near, "0", &format!("1={address}"));
    let pull = |place: &Place| {
        let mut puller =
            Running::start(place.command(&["pull", "resize", "--ack", "60s", "--raw", "--timeout", "5s"]));
        puller.stderr_until(|line| line.starts_with("ready"));
        puller
    };
    let (here, there) = (pull(&near), pull(&far));
    let mut command = near.command(&["push", "resize", "--lines"]);
    command.stdin(Stdio::piped());
    let mut pusher = Running::start(command);
    let mut input = pusher.stdin().expect("stdin is a pipe");
    for n in 0..TASKS {
        writeln!(input, "{n}").expect("a line is written");
    }
    drop(input);
    let (here, there) = (numbers(&here.finish().text()), numbers(&there.finish().text()));
    pusher.finish().expect(0);
    let mut all = [&here[..], &there[..]].concat();
    all.sort_unstable();
    assert_eq!(all, (0..TASKS).collect::<Vec<_>>(), "each once");
    assert!(!there.is_empty(), "none crossed");
    let mut reply = Running::start(far.command(&["reply", "price", "101.5", "--count", "1"]));
    reply.stderr_until(|line| line.starts_with("ready"));
    assert_eq!(near.run(&["req", "price", "apple"]).expect(0).text().trim(), "101.5");
    reply.finish().expect(0);
    for node in [near_node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
    println!("evidence: tasks={TASKS} here={} there={} twice=0 lost=0", here.len(), there.len());
}
