//! `req` to `reply`: what is asked is answered, and how a request ends is how the command does.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Ended, Place, Running, keys};
use crate::signals::until_signals_are_handled;

fn reply(place: &Place, arguments: &[&str]) -> Running {
    let words: Vec<&str> = std::iter::once("reply").chain(arguments.iter().copied()).collect();
    let mut running = place.start(&words);
    running.stderr_until(|line| line.starts_with("ready "));
    running
}

fn interrupted(responder: Running) -> Ended {
    responder.signal(Signal::INT);
    responder.finish().expect(0)
}

#[test]
fn a_request_is_answered_with_a_body_with_itself_and_with_what_a_command_prints() {
    let place = Place::new();
    let services = [
        reply(&place, &["ping", "pong"]),
        reply(&place, &["echo", "--echo"]),
        reply(&place, &["text.*", "--command", "printf %s: $BUSWAY_TOPIC; tr a-z A-Z"]),
    ];
    let ended = place.run(&["req", "ping"]).expect(0);
    assert_eq!((ended.text().as_str(), ended.last_error_line()), ("pong\n", "replies 1"));
    assert_eq!(place.run(&["req", "text.upper", "hello"]).expect(0).text(), "text.upper:HELLO\n");
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
    let ended = place.run_with(&bytes, &["req", "echo", "-", "--raw0"]).expect(0);
    assert!(ended.stdout.strip_suffix(&[0]) == Some(&bytes[..]), "{} bytes came back", ended.stdout.len());
    let object = |ended: Ended| -> Value { serde_json::from_str(&ended.lines()[0]).expect("a line is JSON") };
    let text = object(place.run(&["req", "echo", "-5", "--json"]).expect(0));
    assert_eq!(text, json!({ "index": 0, "last": true, "size": 2, "body": "-5" }));
    let binary = object(place.run_with(b"\xff", &["req", "echo", "-", "--json"]).expect(0));
    assert_eq!(keys(&binary), ["body_base64", "index", "last", "size"]);
    let ended = services.map(interrupted);
    let last: Vec<&str> = ended.iter().map(Ended::last_error_line).collect();
    assert_eq!(
        last,
        ["answered 1 failed 0 late 0", "answered 3 failed 0 late 0", "answered 1 failed 0 late 0"]
    );
}

#[test]
fn a_request_that_gets_no_reply_ends_with_one_and_says_why() {
    let place = Place::new();
    let report = |ended: Ended| {
        let (code, cause, ..) = ended.report();
        (code, cause)
    };
    let ended = place.run(&["req", "nobody", "x"]).expect(1);
    assert_eq!(report(ended).0, "BUS-0406");
    let _fails = reply(&place, &["fails", "--command", "echo the disk is full >&2; exit 3"]);
    let (code, cause) = report(place.run(&["req", "fails"]).expect(1));
    assert_eq!((code.as_str(), cause.as_str()), ("BUS-0409", "the responder failed: the disk is full"));
    let _silent = reply(&place, &["silent", "--command", "exit 7"]);
    let (_, cause) = report(place.run(&["req", "silent"]).expect(1));
    assert!(cause.ends_with("the command ended with exit status: 7"), "{cause}");
    let _one = reply(&place, &["one", "1"]);
    let (code, cause) = report(place.run(&["req", "one", "--replies", "2"]).expect(1));
    assert_eq!((code.as_str(), cause.as_str()), ("BUS-0804", "1 of 2 replies came, and no other will"));
    let killed = reply(&place, &["killed", "--command", "kill -KILL $PPID"]);
    let (code, _) = report(place.run(&["req", "killed"]).expect(1));
    assert_eq!(code, "BUS-0407");
    killed.finish();
}

#[test]
fn a_command_for_which_nobody_waits_is_killed_and_the_next_request_is_answered() {
    let place = Place::new();
    let command = "read -r line; if [ $line = hang ]; then sleep 1000; fi; echo done";
    let service = reply(&place, &["work", "--command", command]);
    let ended = place.run_with(b"hang\n", &["req", "work", "-", "--timeout", "2s"]).expect(1);
    assert_eq!(ended.report().0, "BUS-0402");
    let ended = place.run_with(b"go\n", &["req", "work", "-", "--timeout", "60s"]).expect(0);
    assert_eq!(ended.text(), "done\n\n");
    // A signal ends a command too, and who asked is told.
    let mut asks = place.command(&["req", "work", "hang", "--timeout", "60s"]);
    asks.stdin(Stdio::null());
    let asks = Running::start(asks);
    until_signals_are_handled(service.pid());
    assert_eq!(interrupted(service).last_error_line(), "answered 1 failed 0 late 0");
    asks.finish().expect(1);
}

#[test]
fn a_command_that_closes_what_it_prints_to_and_goes_on_costs_no_processor() {
    let place = Place::new();
    let service = reply(&place, &["quiet", "--command", "exec >&- 2>&-; sleep 3"]);
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", service.pid())).expect("it runs");
        let after = stat.rsplit(')').next().expect("a name stands in brackets");
        after.split_whitespace().skip(11).take(2).map(|word| word.parse::<u64>().expect("a number")).sum()
    };
    let before = ticks();
    assert_eq!(place.run(&["req", "quiet", "--timeout", "60s"]).expect(0).text(), "\n");
    let used = ticks() - before;
    // Of 300 that a processor has in that time.
    assert!(used < 20, "{used} ticks for one command that does nothing");
    interrupted(service);
}

#[test]
fn requests_are_counted_and_limited() {
    let place = Place::new();
    let service = reply(&place, &["n", "--echo", "--count", "2"]);
    assert_eq!(place.run(&["req", "n"]).expect(0).text(), "\n");
    assert_eq!(place.run(&["req", "n", "2"]).expect(0).text(), "2\n");
    assert_eq!(service.finish().expect(0).last_error_line(), "answered 2 failed 0 late 0");
    let ended = place.run(&["reply", "n", "--echo", "--timeout", "1s"]).expect(1);
    assert_eq!((ended.report().0.as_str(), ended.report().1.as_str()), ("BUS-0804", "no request came in 1s"));
    let asks = place.start(&["req", "n", "--timeout", "60s"]);
    asks.signal(Signal::KILL);
    asks.finish();
}
