//! What is logged (A12): nothing for a message, at most one line a second for each kind of failure.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use busway::ProcessId;
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::layout::layout_hash;
use busway_wire::Control;
use busway_wire::limits::HOLDER_ANSWER_MS;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata};

use crate::child::{Child, PATIENCE, Place, number, until};

const MESSAGES: u64 = 1_000_000;

/// Lines of the level info and above, by their kind.
static LINES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// Counts what a program that listens at the level info would print.
struct Listener;

/// The field that names the kind of a line.
struct Kind(String);

impl Visit for Kind {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "kind" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut kind = Kind("without-kind".to_owned());
        event.record(&mut kind);
        *LINES.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.0).or_default() += 1;
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// In a child: from now on lines are counted.
pub(crate) fn listen() -> String {
    tracing::subscriber::set_global_default(Listener).expect("nobody listens yet");
    "listens".to_owned()
}

/// In a child: the lines since the last question, as `kind=count`.
pub(crate) fn logged() -> String {
    let lines = std::mem::take(&mut *LINES.lock().unwrap_or_else(PoisonError::into_inner));
    lines.iter().map(|(kind, count)| format!("{kind}={count}")).collect::<Vec<_>>().join(" ")
}

/// A member whose lines are counted from its start.
fn listening(place: &Place, name: &str) -> Child {
    let mut child = place.spawn(name);
    assert_eq!(child.ask("log"), "listens");
    assert_eq!(child.ask("join"), "joined");
    child
}

/// A holder that has said that it is one.
fn listening_holder(place: &Place) -> Child {
    let mut holder = listening(place, "holder");
    until("who takes the role says so", || holder.ask("logged") == "role=1");
    holder
}

/// Waits for the first line of `kind`; then counts those that came until `done`, and checks that they are no flood.
fn one_line(child: &mut Child, kind: &str, failures: u64, since_ns: u64, done: impl FnOnce()) -> u64 {
    let mut lines = 0;
    let mut look = |child: &mut Child| {
        for word in child.ask("logged").split(' ').filter(|word| !word.is_empty()) {
            let (found, count) = word.split_once('=').unwrap();
            assert_eq!(found, kind, "no other kind of failure has happened");
            lines += number(count);
        }
        lines
    };
    until(&format!("a line says {kind}"), || look(child) > 0);
    done();
    let lines = look(child);
    let most = 1 + (monotonic_ns() - since_ns).div_ceil(1_000_000_000);
    assert!(
        lines <= most && lines < failures,
        "{lines} lines of {kind} for {failures} failures, at most {most}"
    );
    println!("evidence: kind={kind} failures={failures} lines={lines}");
    lines
}

#[test]
fn a_million_messages_log_nothing() {
    let place = Place::new();
    let mut holder = listening_holder(&place);
    let mut subscriber = listening(&place, "subscriber");
    let mut publisher = listening(&place, "publisher");
    subscriber.ask("sub topic block");
    publisher.ask("pub topic 4096 60000");
    assert_eq!(publisher.ask("wait 1"), "1");
    subscriber.tell(&format!("take {MESSAGES}"));
    assert_eq!(publisher.ask(&format!("send {MESSAGES}")), "begin");
    publisher.answer();
    assert_eq!(number(&subscriber.answer()), MESSAGES);
    for child in [&mut holder, &mut subscriber, &mut publisher] {
        assert_eq!(child.ask("logged"), "", "nothing at the level info and above");
    }
    println!("evidence: messages={MESSAGES} lines=0");
}

#[test]
fn who_is_full_stalled_or_evicted_is_logged_once_a_second() {
    for (policy, kind, order) in [
        ("fail", "full", "try-send 100000"),
        ("block", "stalled", "push 100"),
        ("evict", "evicted", "push 100"),
    ] {
        let place = Place::new();
        let _holder = place.holder("up");
        let mut subscribers: Vec<Child> = (0..3).map(|_| place.member("slow")).collect();
        for subscriber in &mut subscribers {
            subscriber.ask(&format!("sub topic {policy}"));
        }
        let mut publisher = listening(&place, "publisher");
        publisher.ask("pub topic 64 10");
        assert_eq!(publisher.ask("wait 3"), "3");
        let since_ns = monotonic_ns();
        publisher.ask(order);
        let failures = if policy == "fail" { 100_000 - 64 } else { 3 };
        one_line(&mut publisher, kind, failures, since_ns, || {});
    }
}

#[test]
fn deaths_are_logged_once_a_second() {
    let place = Place::new();
    let mut holder = listening_holder(&place);
    let mut crowd: Vec<Child> = (0..20).map(|_| place.member("one of many")).collect();
    for child in &mut crowd {
        child.ask("sub topic block");
    }
    holder.ask("pub topic 64 1000");
    assert_eq!(holder.ask("wait 20"), "20");
    let bus = place.join("witness");
    let since_ns = monotonic_ns();
    for child in &crowd {
        child.kill();
    }
    one_line(&mut holder, "death", 20, since_ns, || {
        until("all are forgotten", || bus.inspect().unwrap().processes.len() == 2);
    });
}

#[test]
fn hangs_are_logged_once_a_second() {
    let place = Place::new();
    let mut holder = listening_holder(&place);
    let crowd: Vec<Child> = (0..5).map(|_| place.member("one of many")).collect();
    let bus = place.join("witness");
    for child in &crowd {
        child.stop();
    }
    let states = || bus.inspect().unwrap().processes.into_iter().map(|process| process.state);
    let hung = || states().filter(|state| *state == busway::PortState::Hung).count();
    until("one hangs", || hung() > 0);
    let since_ns = monotonic_ns();
    until("all hang", || hung() == 5);
    one_line(&mut holder, "hang", 5, since_ns, || {});
    for child in &crowd {
        child.go_on();
    }
    until("none hangs", || states().all(|state| state == busway::PortState::Live));
}

#[test]
fn a_holder_that_waits_for_the_members_of_a_dead_one_is_not_called_silent_and_one_that_is_stopped_is() {
    let rounds = 5;
    for round in 0..rounds {
        let place = Place::new();
        let first = place.holder("first");
        let mut members = [listening(&place, "one"), listening(&place, "other")];
        for member in &mut members {
            member.ask("sub topic block");
        }
        // It lives, so whoever takes over waits for it as long as it waits for anybody.
        let stopped = place.member("stopped");
        stopped.stop();
        first.kill();
        until("one takes over", || members.iter_mut().any(|member| member.ask("holds") == "true"));
        for member in &mut members {
            member.ask("sub later block");
        }
        for member in &mut members {
            let logged = member.ask("logged");
            assert!(!logged.contains("silent"), "round {round}: nothing is wrong with the holder: {logged}");
        }
        if members[0].ask("holds") == "true" {
            members.swap(0, 1);
        }
        let [member, holder] = &mut members;
        holder.stop();
        let since_ns = monotonic_ns();
        member.tell("sub last block");
        until("it has waited in vain", || monotonic_ns() > since_ns + 2 * HOLDER_ANSWER_MS * 1_000_000);
        holder.go_on();
        member.answer();
        assert_eq!(member.ask("logged"), "silent=1", "round {round}: a stopped holder is told of");
    }
    println!("evidence: take_overs={rounds} silent_holders_told={rounds}");
}

/// Says `bytes` to the holder of the domain in `directory` and waits for its answer.
fn strange(directory: &Path, bytes: &[u8]) {
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    let address = SocketAddrUnix::new(directory.join("default.sock")).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL).unwrap();
    let mut answer = [0_u8; 4096];
    let deadline = Deadline::after(PATIENCE);
    // To the hang-up, which follows the refusal.
    while rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).is_ok_and(|(_, length)| length > 0)
    {
        assert!(!deadline.expired(), "a stranger is hung up on");
    }
}

#[test]
fn refusals_and_other_layouts_are_logged_once_a_second() {
    let hello = |layout_hash: u64| Control::Hello {
        layout_hash,
        process: ProcessId(7),
        pid: 7,
        name: "stranger".to_owned(),
        monitored: false,
    };
    let mut other_layout = Vec::new();
    busway_wire::encode(&hello(!layout_hash()), &mut other_layout).unwrap();
    let mut no_memory = Vec::new();
    busway_wire::encode(&hello(layout_hash()), &mut no_memory).unwrap();
    for (kind, bytes) in
        [("mismatch", &other_layout[..]), ("refusal", &no_memory[..]), ("refusal", &b"GET / HTTP/1.1"[..])]
    {
        let place = Place::new();
        let mut holder = listening_holder(&place);
        let since_ns = monotonic_ns();
        for _ in 0..50 {
            strange(place.path(), bytes);
        }
        one_line(&mut holder, kind, 50, since_ns, || {});
    }
}
