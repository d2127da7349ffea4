//! What is not on the path of a message: a daemon (A1), the kernel (A2).

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use busway_shm::clock::Deadline;

use crate::child::{Child, PATIENCE, Place, number, until};

const MESSAGES: u64 = 1_000_000;
/// So many more messages must come while the holder is dead, and again while the next is stopped.
const MEANWHILE: u64 = 50_000;

/// Publishers and how far each is.
struct Streams {
    publishers: Vec<Child>,
    sent: Vec<u64>,
}

impl Streams {
    fn look(&mut self) -> u64 {
        for (publisher, sent) in self.publishers.iter().zip(&mut self.sent) {
            for line in publisher.heard() {
                *sent = number(line.strip_prefix("progress ").expect("it streams until it is told to stop"));
            }
        }
        self.sent.iter().sum()
    }

    /// Returns when each has sent `more` messages more.
    fn advance(&mut self, more: u64) {
        self.look();
        let wanted: Vec<u64> = self.sent.iter().map(|sent| sent + more).collect();
        until("the publishers go on", || {
            self.look();
            self.sent.iter().zip(&wanted).all(|(sent, wanted)| sent >= wanted)
        });
    }
}

#[test]
fn no_daemon_is_on_the_path() {
    let seed = std::env::var("BUSWAY_SEED").ok().map_or(0xa1, |seed| number(&seed));
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let up = place.holder("up");
    let mut subscribers: Vec<Child> = (0..3).map(|n| place.member(&format!("subscriber-{n}"))).collect();
    for subscriber in &mut subscribers {
        subscriber.ask("sub stream.* block");
        subscriber.tell("count-streams 2");
    }
    let mut publishers: Vec<Child> = (0..2).map(|n| place.member(&format!("publisher-{n}"))).collect();
    for (n, publisher) in publishers.iter_mut().enumerate() {
        publisher.ask(&format!("pub stream.{n} 4096 60000"));
        assert_eq!(publisher.ask("wait 3"), "3");
    }
    for publisher in &mut publishers {
        publisher.tell(&format!("stream {}", MESSAGES / 2));
    }
    let mut streams = Streams { publishers, sent: vec![0; 2] };

    streams.advance(random.u64(10_000..150_000));
    up.kill();
    let killed_at = streams.look();
    streams.advance(MEANWHILE);
    let next = place.holder("up-again");
    streams.advance(random.u64(10_000..100_000));
    next.stop();
    let stopped_at = streams.look();
    streams.advance(MEANWHILE);
    let end = if random.bool() { "killed" } else { "continued" };
    if end == "killed" {
        next.kill()
    } else {
        next.go_on()
    }
    streams.advance(10_000);

    let (mut total, mut longest_us) = (0, 0);
    for publisher in &mut streams.publishers {
        publisher.tell("stop");
    }
    for publisher in &streams.publishers {
        let said = loop {
            let said = publisher.answer();
            if !said.starts_with("progress") {
                break said;
            }
        };
        let words: Vec<u64> = said.split(' ').map(number).collect();
        let [sent, pause_us, delivered] = words[..] else { panic!("{said}") };
        assert_eq!(delivered, 3 * (sent + 1), "each of three subscribers has passed all, the end too");
        total += sent;
        longest_us = longest_us.max(pause_us);
    }
    for subscriber in &subscribers {
        assert_eq!(number(&subscriber.answer()), total, "each subscriber has read every message");
    }
    assert!(total >= MESSAGES);
    println!(
        "evidence: messages={total} deliveries={} publishers=2 subscribers=3 seed={seed:#x} holder_killed_at={killed_at} \
         holder_stopped_at={stopped_at} then={end} longest_thousand_us={longest_us}",
        3 * total
    );
}

/// System calls of each thread between the two lines `begin` and `end` that `tid` writes.
fn calls_between(trace: &str, tid: &str) -> (BTreeMap<String, u64>, u64) {
    let (mut calls, mut others, mut within) = (BTreeMap::new(), 0, false);
    for line in trace.lines() {
        let Some((who, what)) = line.split_once(' ') else { continue };
        let what = what.trim_start();
        if who == tid && what.contains("\"@begin") {
            within = true;
        } else if who == tid && what.contains("\"@end") {
            return (calls, others);
        } else if within && who == tid {
            let call = what.split('(').next().unwrap_or(what);
            *calls.entry(call.to_owned()).or_default() += 1;
        } else if within {
            others += 1;
        }
    }
    panic!("the trace has no begin and end of {tid}");
}

/// Attaches strace to all threads of the children; returns when it is attached.
fn trace(file: &std::path::Path, children: &[&Child]) -> std::io::Result<std::process::Child> {
    let mut command = Command::new("strace");
    command.arg("-f").arg("-q").arg("-o").arg(file);
    for child in children {
        command.arg("-p").arg(child.pid_number().to_string());
    }
    let tracer = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let traced = |child: &&Child| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.pid_number())).into_iter().flatten();
        tasks.flatten().all(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        })
    };
    let deadline = Deadline::after(PATIENCE);
    while !children.iter().all(traced) {
        assert!(!deadline.expired(), "strace attaches to every thread");
        std::thread::yield_now();
    }
    Ok(tracer)
}

#[test]
fn a_busy_pair_makes_no_system_calls() {
    let place = Place::new();
    let mut subscriber = place.member("subscriber");
    let mut publisher = place.member("publisher");
    subscriber.ask("sub busy block");
    publisher.ask("pub busy 4096 60000");
    let tids = [publisher.ask("tid"), subscriber.ask("tid")];
    let file = place.path().join("strace.txt");
    let mut tracer = match trace(&file, &[&publisher, &subscriber]) {
        Ok(tracer) => tracer,
        Err(error) => {
            println!("skipped: strace cannot be started: {error}");
            return;
        }
    };
    subscriber.tell(&format!("spin-take {MESSAGES}"));
    assert_eq!(subscriber.answer(), "begin");
    publisher.tell(&format!("spin-send {MESSAGES}"));
    for part in [&publisher, &subscriber] {
        let said = part.answer();
        assert_eq!(if said == "begin" { part.answer() } else { said }, "end");
    }
    let full = publisher.answer();
    assert_eq!(number(&subscriber.answer()), MESSAGES);
    // Its end: strace lets go of the children and writes what it has.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(tracer.id()).unwrap()).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    tracer.wait().unwrap();
    let trace = std::fs::read_to_string(&file).unwrap();
    let (sending, _) = calls_between(&trace, &tids[0]);
    let (taking, others) = calls_between(&trace, &tids[1]);
    let sum: u64 = sending.values().chain(taking.values()).sum();
    assert!(sum < 100, "{sum} calls for {MESSAGES} messages: publisher {sending:?}, subscriber {taking:?}");
    println!(
        "evidence: messages={MESSAGES} calls={sum} publisher={sending:?} subscriber={taking:?} \
         control_threads={others} full_retries={full}"
    );
}
