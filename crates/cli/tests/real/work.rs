//! Work and requests between two hosts, as a newcomer tries them: two runtime directories that share nothing, a node in each, and the command.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Place, Running};
use crate::hosts::{dial, listen};
use crate::load::now;

/// So many at least, and as many more as it takes until one has crossed.
const TASKS: usize = 400;
const DEADLINE: Duration = Duration::from_secs(60);

/// A puller that goes on until it is told to end; what it prints is told with its name.
fn pull(place: &Place, name: &'static str, pulled: &Sender<(&'static str, usize)>) -> Running {
    let mut command = place.command(&["pull", "resize", "--ack", "60s", "--raw"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer);
    let mut puller = Running::start(command);
    puller.stderr_until(|line| line.starts_with("ready"));
    let pulled = pulled.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines() {
            let task = line.expect("a line is read").parse().expect("a number");
            let _ = pulled.send((name, task));
        }
    });
    puller
}

#[test]
fn what_is_pushed_on_one_host_is_pulled_once_on_either_and_what_is_asked_is_answered_on_the_other() {
    let (near, far) = (Place::new(), Place::new());
    let (far_node, _far_stream, address) = listen(&far, "1", "127.0.0.1:0");
    let (near_node, _near_stream) = dial(&near, "0", &format!("1={address}"));
    let (sender, pulled) = channel();
    let pullers = [pull(&near, "here", &sender), pull(&far, "there", &sender)];
    // The readers have the others: when both pullers have ended, that is seen.
    drop(sender);
    let mut command = near.command(&["push", "resize", "--lines", "--linger", "60s"]);
    command.stdin(Stdio::piped());
    let mut pusher = Running::start(command);
    let mut input = pusher.stdin().expect("stdin is a pipe");
    let (mut count, mut all, mut there) = (0, Vec::new(), 0);
    let deadline = now() + DEADLINE;
    while count < TASKS || there == 0 {
        assert!(now() < deadline, "none of {count} crossed");
        writeln!(input, "{count}").expect("a line is written");
        count += 1;
        // Some are on their way, and no more than that: who is far away may be known later than who is here.
        while all.len() + TASKS / 2 < count {
            let (who, task) = pulled.recv_timeout(DEADLINE).expect("each is pulled");
            there += usize::from(who == "there");
            all.push(task);
        }
    }
    drop(input);
    while all.len() < count {
        let (who, task) = pulled.recv_timeout(DEADLINE).expect("each is pulled");
        there += usize::from(who == "there");
        all.push(task);
    }
    pusher.finish().expect(0);
    for puller in pullers {
        puller.signal(Signal::INT);
        puller.finish().expect(0);
    }
    all.extend(pulled.iter().map(|(_, task)| task));
    all.sort_unstable();
    assert_eq!(all, (0..count).collect::<Vec<_>>(), "each once");
    let mut reply = Running::start(far.command(&["reply", "price", "101.5", "--count", "1"]));
    reply.stderr_until(|line| line.starts_with("ready"));
    let deadline = now() + DEADLINE;
    let answer = loop {
        let ended = near.run(&["req", "price", "apple", "--timeout", "60s"]);
        // That somebody answers there may be known here later than it waits for the first.
        if ended.code == Some(0) {
            break ended;
        }
        assert_eq!(ended.report().0, "BUS-0406");
        assert!(now() < deadline, "nobody answers");
    };
    assert_eq!(answer.text().trim(), "101.5");
    reply.finish().expect(0);
    for node in [near_node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
    println!("evidence: tasks={count} here={} there={there} twice=0 lost=0", count - there);
}
