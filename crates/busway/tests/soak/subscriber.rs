//! A subscriber that explains every sequence that it does not get, and trusts no byte of what it gets.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use busway::{Bus, Cause, Policy, RecvError, Sample, Subscriber};
use busway_shm::clock::monotonic_ns;

use crate::payload;
use crate::roles::{join, persist};
use crate::talk::{Orders, Pulse, bad, ended, say};

const RECEIVE: Duration = Duration::from_millis(20);
/// Samples that it may hold of one publisher.
const HOLDS: u32 = 12;

/// What is known of one topic.
#[derive(Debug, Default)]
struct Topic {
    /// The last sequence of each of its publishers.
    last: BTreeMap<u64, u64>,
    /// Counted as lost, and not yet seen as a gap.
    lost: u64,
    /// What the supervisor was told.
    told: u64,
    evicted: bool,
}

/// Everything that was received, and what was lost.
struct Ledger {
    /// When the subscription had been made: what begins later is read from its first message on.
    since_ns: u64,
    policy: Policy,
    topics: BTreeMap<String, Topic>,
    received: u64,
    fresh: u64,
    lost: u64,
    /// What the supervisor has not been told of the losses, by cause.
    causes: BTreeMap<&'static str, u64>,
}

impl Ledger {
    fn lose(&mut self, subscriber: &mut Subscriber) {
        for loss in subscriber.losses() {
            let impossible = match loss.cause {
                Cause::HoldBudget => false,
                // Every publisher here waits for who asks for it, for as long as its cap.
                Cause::Lapped | Cause::RingBytes => self.policy.gates(),
                Cause::Stalled => !self.policy.gates(),
                Cause::Conflated => self.policy != Policy::KeepLatest,
                Cause::DropNewest => !matches!(self.policy, Policy::DropNewest { .. }),
                Cause::Evicted => self.policy != Policy::Evict,
                _ => true,
            };
            if impossible {
                bad(&format!("lost with {:?}: {loss:?}", self.policy));
            }
            self.lost += loss.count;
            *self.causes.entry(loss.cause.name()).or_default() += loss.count;
            self.topics.entry(loss.topic.to_string()).or_default().lost += loss.count;
        }
    }

    fn receive(&mut self, sample: &Sample) {
        verify(sample, "received");
        self.received += 1;
        self.fresh += 1;
        let (sequence, source) = (sample.sequence(), sample.source().0);
        let own = sample.topic().starts_with("own.");
        let younger = started_ns(sample) > self.since_ns;
        // Drop-newest counts what is lost behind the messages that it has queued.
        let queued = matches!(self.policy, Policy::DropNewest { .. });
        let topic = self.topics.entry(sample.topic().to_owned()).or_default();
        let last = topic.last.insert(source, sequence);
        let gap = match last {
            Some(last) => sequence.checked_sub(last + 1),
            None if younger => sequence.checked_sub(1),
            // It ran before we came: we read from the middle on.
            None => Some(if own && !queued { topic.lost } else { 0 }),
        };
        let explained = match gap {
            None => false,
            // Of a topic with several publishers it is not known whose message was lost.
            Some(gap) if queued || !own => gap <= topic.lost,
            Some(gap) => gap == topic.lost,
        };
        if !explained {
            let lost = topic.lost;
            bad(&format!("{sample:?} of {:?} after {last:?} with {lost} lost", sample.publisher()));
        }
        topic.lost -= gap.unwrap_or(0);
    }

    /// How far this subscriber is in each topic that only one process has.
    fn report(&mut self, bus: &Bus) {
        let mut line = format!("pulse {} received={}", u8::from(bus.is_rendezvous()), self.fresh);
        self.fresh = 0;
        for (cause, count) in std::mem::take(&mut self.causes) {
            line.push_str(&format!(" lost.{}.{cause}={count}", self.policy.name()));
        }
        for (name, topic) in self.topics.iter_mut().filter(|(name, _)| name.starts_with("own.")) {
            let Some(last) = topic.last.values().next() else { continue };
            let reached = if topic.evicted { u64::MAX } else { last + topic.lost };
            if reached != topic.told {
                topic.told = reached;
                line.push_str(&format!(" {name}={reached}"));
            }
        }
        say(&line);
    }
}

fn verify(sample: &Sample, when: &str) {
    let publisher = sample.publisher();
    let key = payload::key(&publisher.name, sample.topic(), publisher.port.0);
    if let Err(wrong) = payload::check(sample, key, sample.sequence()) {
        bad(&format!("{when} {sample:?} of {publisher:?}: {wrong}"));
    }
}

/// When the publisher's process was started: it stands in its name.
fn started_ns(sample: &Sample) -> u64 {
    sample.publisher().name.rsplit('-').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Subscribes until the supervisor wants an end, then reads what is left and closes the account.
pub(crate) fn subscribe(orders: &Orders, pattern: &str, policy: &str, pulse: &mut Pulse) {
    let mut rng = fastrand::Rng::with_seed(orders.seed);
    let policy: Policy = policy.parse().expect("a policy");
    let Some(bus) = join(orders, pulse) else { return };
    let made = persist(pulse, "subscribing", || bus.subscriber(pattern).policy(policy).holds(HOLDS).open());
    let Some(mut subscriber) = made else { return };
    let mut ledger = Ledger {
        since_ns: monotonic_ns(),
        policy,
        topics: BTreeMap::new(),
        received: 0,
        fresh: 0,
        lost: 0,
        causes: BTreeMap::new(),
    };
    let mut held = VecDeque::new();
    say("ready");
    let slow = if policy.gates() { 400 } else { 60 };
    loop {
        let more = take(&mut subscriber, &mut ledger, &mut held, &mut rng, pulse);
        if pulse.due() {
            ledger.report(&bus);
        }
        // Only what is quiet has been read to its end.
        if !more && ended(Duration::ZERO) {
            break;
        }
        if rng.u32(0..slow) == 0 {
            ended(Duration::from_micros(rng.u64(100..8000)));
        }
    }
    for sample in held.drain(..) {
        verify(&sample, "held to the end");
    }
    ledger.report(&bus);
    close(&subscriber, &ledger);
    drop(subscriber);
    if orders.name.starts_with("survivor") {
        alone(&bus);
    }
    pulse.timed("close", Duration::from_secs(1), || bus.close());
    say("end");
}

fn take(
    subscriber: &mut Subscriber,
    ledger: &mut Ledger,
    held: &mut VecDeque<Sample>,
    rng: &mut fastrand::Rng,
    pulse: &mut Pulse,
) -> bool {
    let taken = pulse.timed("recv_timeout", RECEIVE, || subscriber.recv_timeout(RECEIVE));
    ledger.lose(subscriber);
    match taken {
        Ok(None) => {
            let_go(held, rng);
            return false;
        }
        Ok(Some(sample)) => {
            ledger.receive(&sample);
            if rng.u32(0..10) == 0 {
                held.push_back(sample);
            }
            if held.len() > HOLDS as usize * 2 || rng.u32(0..30) == 0 {
                let_go(held, rng);
            }
        }
        Err(RecvError::HoldsExhausted) if !held.is_empty() => let_go(held, rng),
        Err(RecvError::Evicted(topic)) if ledger.policy == Policy::Evict => {
            ledger.topics.entry(topic.to_string()).or_default().evicted = true;
        }
        Err(error) => bad(&format!("recv: {error} with {} samples held", held.len())),
    }
    true
}

/// Gives back half of what is held, any of it, after looking whether it is still what it was.
fn let_go(held: &mut VecDeque<Sample>, rng: &mut fastrand::Rng) {
    for _ in 0..held.len().div_ceil(2) {
        if let Some(sample) = held.swap_remove_back(rng.usize(0..held.len())) {
            verify(&sample, "held");
        }
    }
}

fn close(subscriber: &Subscriber, ledger: &Ledger) {
    let account = subscriber.account();
    let (delivered, dropped) = (account.delivered, account.dropped_total());
    if !account.closed() || delivered != ledger.received || dropped != ledger.lost {
        bad(&format!("received {} and lost {}, and {account:?}", ledger.received, ledger.lost));
    }
}

/// The last process of the domain: nothing of the others is left in its books.
fn alone(bus: &Bus) {
    let deadline = monotonic_ns() + 30_000_000_000;
    loop {
        match bus.inspect() {
            Ok(seen) => {
                let ours: u64 = seen.processes.iter().map(|process| process.committed_bytes).sum();
                if seen.processes.len() == 1 && seen.budget.reserved_bytes == ours {
                    say(&format!("alone committed={ours}"));
                    return;
                }
                if monotonic_ns() > deadline {
                    let names: Vec<_> = seen.processes.iter().map(|process| &process.name).collect();
                    bad(&format!("{:?} reserved with {ours} committed by {names:?}", seen.budget));
                }
            }
            Err(error) if monotonic_ns() > deadline => bad(&format!("inspect: {error}")),
            Err(_) => {}
        }
        // The input is closed already, so this is a wait for the control thread's next tick by yielding to it.
        std::thread::yield_now();
    }
}
