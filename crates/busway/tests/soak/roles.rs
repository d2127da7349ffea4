//! The processes that are killed: publishers, subscribers and those that take the role of the holder.

use std::time::Duration;

use busway::{Bus, Error, Publisher, SendError};

use crate::payload;
use crate::subscriber;
use crate::talk::{Orders, Pulse, bad, ended, say};

/// How long joining and registering may take.
const OPEN: Duration = Duration::from_secs(3);
/// How long one subscriber may make a publisher wait.
const MAX_WAIT: Duration = Duration::from_millis(300);
/// How long a send may take.
const SEND: Duration = Duration::from_millis(1500);

/// Obeys; returns when the supervisor wants an end.
pub(crate) fn obey(orders: &Orders) {
    let mut pulse = Pulse::default();
    let mut words = orders.role.split('/');
    match words.next() {
        Some("pub") => publish(orders, words.next().expect("a group"), &mut pulse),
        Some("sub") => {
            let (pattern, policy) = (words.next().expect("a pattern"), words.next().expect("a policy"));
            subscriber::subscribe(orders, pattern, policy, &mut pulse);
        }
        Some("take") => take(orders, &mut pulse),
        other => bad(&format!("no such role: {other:?}")),
    }
}

/// Does `call` until it succeeds; an error is told to the supervisor, who knows how many are too many.
pub(crate) fn persist<T>(
    pulse: &mut Pulse,
    what: &str,
    mut call: impl FnMut() -> Result<T, Error>,
) -> Option<T> {
    loop {
        say(what);
        match pulse.timed(what, OPEN, &mut call) {
            Ok(value) => return Some(value),
            Err(error) => say(&format!("error {what}: {error}")),
        }
        if ended(Duration::from_millis(5)) {
            return None;
        }
    }
}

/// Joins.
pub(crate) fn join(orders: &Orders, pulse: &mut Pulse) -> Option<Bus> {
    persist(pulse, "joining", || {
        let bus = Bus::builder().directory(&orders.directory).domain("soak").name(&orders.name).timeout(OPEN);
        if orders.role == "take" { bus.take_role().open() } else { bus.open() }
    })
}

fn take(orders: &Orders, pulse: &mut Pulse) {
    let Some(bus) = join(orders, pulse) else { return };
    say("ready");
    while !ended(Duration::from_millis(15)) {
        if pulse.due() {
            say(&format!("pulse {}", u8::from(bus.is_rendezvous())));
        }
    }
    pulse.timed("close", Duration::from_secs(1), || bus.close());
    say("end");
}

/// A publisher with what is needed to know its messages.
struct Source {
    publisher: Publisher,
    key: u64,
    sent: u64,
    told: u64,
}

fn open(bus: &Bus, topic: &str, bytes_max: u64, pulse: &mut Pulse) -> Option<Source> {
    let publisher = persist(pulse, "publishing", || {
        bus.publisher(topic).max_wait(MAX_WAIT).slots_max(512).bytes_max(bytes_max).open()
    })?;
    let key = payload::key(bus.name(), topic, publisher.id().0);
    Some(Source { publisher, key, sent: 0, told: 0 })
}

fn publish(orders: &Orders, group: &str, pulse: &mut Pulse) {
    let mut rng = fastrand::Rng::with_seed(orders.seed);
    let Some(bus) = join(orders, pulse) else { return };
    let bytes_max = 1 << rng.u32(22..25);
    // One topic that only this process has, and one that processes share and inherit.
    let mut topics = 0;
    let mut own = |pulse: &mut Pulse| {
        topics += 1;
        open(&bus, &format!("own.{group}.{}.{topics}", orders.name), bytes_max, pulse)
    };
    let Some(first) = own(pulse) else { return };
    let Some(second) = open(&bus, &format!("shared.{group}"), bytes_max, pulse) else { return };
    let mut sources = [first, second];
    say("ready");
    while !ended(Duration::from_micros(rng.u64(100..4000))) {
        for _ in 0..rng.u32(1..24) {
            send(&mut sources[rng.usize(0..2)], &mut rng, pulse);
        }
        if pulse.due() {
            census(&sources);
            report("pulse", &bus, &mut sources);
        }
        if rng.u32(0..400) == 0 {
            finish(&mut sources[0], pulse);
            report("pulse", &bus, &mut sources);
            match own(pulse) {
                Some(next) => sources[0] = next,
                None => break,
            }
        }
    }
    for source in &mut sources {
        finish(source, pulse);
    }
    report("pulse", &bus, &mut sources);
    drop(sources);
    pulse.timed("close", Duration::from_secs(1), || bus.close());
    say("end");
}

fn send(source: &mut Source, rng: &mut fastrand::Rng, pulse: &mut Pulse) {
    let sequence = source.sent + 1;
    let length = payload::length(source.key, sequence);
    let loan = pulse.timed("loan", Duration::ZERO, || source.publisher.loan(length));
    let mut loan = match loan {
        Ok(loan) => loan,
        Err(error) => bad(&format!("a loan of {length} bytes: {error}")),
    };
    if rng.u32(0..50) == 0 {
        return; // given back unsent
    }
    payload::fill(&mut loan, source.key, sequence);
    let sent = if rng.u32(0..8) == 0 {
        pulse.timed("try_send", Duration::ZERO, || loan.try_send())
    } else {
        pulse.timed("send_timeout", SEND, || loan.send_timeout(SEND))
    };
    match sent {
        Ok(sent) if sent.sequence == sequence => source.sent = sequence,
        Ok(sent) => bad(&format!("sent as {} what should be {sequence}", sent.sequence)),
        // Somebody who asked for it is in the way: the same sequence is tried again later.
        Err(SendError::Full(_) | SendError::Timeout(_)) => {}
        Err(error) => bad(&format!("send: {error}")),
    }
}

/// Every chunk of this process is in exactly one place.
fn census(sources: &[Source]) {
    let all: Vec<_> = sources.iter().map(|source| source.publisher.census()).collect();
    let Some(first) = all.first() else { return };
    let ours: u64 = all.iter().map(|one| one.in_ring + one.stored + one.retired).sum();
    if ours + first.free + first.left != first.pool {
        bad(&format!("chunks are lost or counted twice: {all:?}"));
    }
}

/// What was sent so far, for topics that only this process has.
fn report(word: &str, bus: &Bus, sources: &mut [Source]) {
    let mut line = format!("{word} {}", u8::from(bus.is_rendezvous()));
    for source in sources {
        let topic = source.publisher.topic().as_str();
        line.push_str(&format!(" {topic}={},{}", source.sent, source.sent - source.told));
        source.told = source.sent;
    }
    say(&line);
}

fn finish(source: &mut Source, pulse: &mut Pulse) {
    let limit = Duration::from_millis(500);
    // Who is still behind, because it is stopped, reads the rest later.
    let _ = pulse.timed("flush", limit, || source.publisher.flush(limit));
    let account = source.publisher.account();
    if account.sent != source.sent {
        bad(&format!("sent {} and the account says {}", source.sent, account.sent));
    }
}
