//! Starts, kills, stops and restarts, and holds everybody to what they said.
//!
//! Invariants that it checks: nobody is silent for long unless it is stopped; no call comes back later than its
//! deadline, less the time that its process was stopped; what a publisher said it had sent before it was killed is
//! received or counted as lost by every subscriber that read it; at the end all leave by themselves, with their
//! accounts closed, and the directory holds what it should.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use busway_shm::clock::monotonic_ns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::process::{Process, SILENT_NS};

const MS: u64 = 1_000_000;
/// A subscriber has so long to come to the end of what a dead publisher left.
const CATCH_UP_NS: u64 = 60_000 * MS;
/// Later than its deadline, without having been stopped: the machine may be busy, not that busy.
const LATE_NS: u64 = 30_000 * MS;
/// A process that cannot join for so long fails the test.
const JOIN_NS: u64 = 90_000 * MS;

/// The processes; the first two are never killed.
const ROLES: [&str; 15] = [
    "pub/a",
    "sub/own.>/block",
    "pub/a",
    "pub/b",
    "pub/b",
    "sub/own.a.>/block",
    "sub/shared.a/block",
    "sub/>/drop-oldest",
    "sub/own.>/keep-latest",
    "sub/own.b.>/drop-newest:8",
    "sub/own.b.>/fail",
    "sub/^own.a/evict",
    "sub/shared.b/drop-oldest:16",
    "take",
    "take",
];
const SURVIVORS: usize = 2;

/// What a subscriber still has to read.
struct Debt {
    subscriber: String,
    topic: String,
    reach: u64,
    due_ns: u64,
}

struct Place {
    role: &'static str,
    process: Option<Process>,
    /// When the next one is started.
    start_ns: u64,
}

/// Who does all this to the others.
pub(crate) struct Supervisor {
    seed: u64,
    rng: fastrand::Rng,
    directory: PathBuf,
    places: Vec<Place>,
    debts: Vec<Debt>,
    next_ns: u64,
    started: u64,
    kills: u64,
    stops: u64,
    holder_kills: u64,
    messages: u64,
    latest_ms: u64,
    errors: BTreeMap<String, u64>,
    losses: BTreeMap<String, u64>,
    ending: bool,
}

impl Supervisor {
    pub(crate) fn new(seed: u64) -> Self {
        let random = fastrand::u64(..);
        let directory = std::env::temp_dir().join(format!("busway-soak-{random:016x}"));
        std::fs::create_dir(&directory).unwrap();
        let start_ns = monotonic_ns();
        let place = |role: &'static str| Place { role, process: None, start_ns };
        Self {
            seed,
            rng: fastrand::Rng::with_seed(seed),
            directory,
            places: ROLES.iter().copied().map(place).collect(),
            debts: Vec::new(),
            next_ns: start_ns,
            started: 0,
            kills: 0,
            stops: 0,
            holder_kills: 0,
            messages: 0,
            latest_ms: 0,
            errors: BTreeMap::new(),
            losses: BTreeMap::new(),
            ending: false,
        }
    }

    pub(crate) fn kills(&self) -> u64 {
        self.kills
    }

    pub(crate) fn evidence(&self) -> String {
        let restarts = self.started - self.places.len() as u64;
        format!(
            "kills={} restarts={restarts} messages={} seed={} stops={} holders_killed={} latest_ms={} errors={:?} lost={:?}",
            self.kills,
            self.messages,
            self.seed,
            self.stops,
            self.holder_kills,
            self.latest_ms,
            self.errors,
            self.losses
        )
    }

    fn runtime(&self) -> String {
        self.directory.join("run").to_str().unwrap().to_owned()
    }

    /// Kills and restarts for so long.
    pub(crate) fn run(&mut self, time: Duration) {
        // Everybody is there once before the first is killed, so that the survivors' resources can be compared.
        while self.places.iter().any(|place| !place.process.as_ref().is_some_and(|process| process.ready)) {
            self.turn(false);
        }
        let before: Vec<(usize, usize)> = self.survivors();
        let begin = monotonic_ns();
        let end = begin + time.as_nanos() as u64;
        let mut told = begin;
        while monotonic_ns() < end {
            self.turn(true);
            if monotonic_ns() > told + 20_000 * MS {
                told = monotonic_ns();
                println!("after {} s: {}", (told - begin) / 1_000 / MS, self.evidence());
            }
        }
        // All who are there now have come and met: what is more than before was left by the dead.
        let settled = monotonic_ns() + CATCH_UP_NS + 20_000 * MS;
        loop {
            self.turn(false);
            let complete = self.places.iter().all(|place| place.process.as_ref().is_some_and(|p| p.ready));
            let now = self.survivors();
            let fits = |(now, before): (&(usize, usize), &(usize, usize))| {
                now.0 <= before.0 + 16 && now.1 <= before.1 + 32
            };
            if complete && self.debts.is_empty() && now.iter().zip(&before).all(fits) {
                println!("survivors' descriptors and mappings: {before:?}, at the end {now:?}");
                return;
            }
            if monotonic_ns() > settled {
                let debts: Vec<_> = self.debts.iter().map(|debt| (&debt.subscriber, &debt.topic)).collect();
                self.fail(&format!("left behind: survivors had {before:?}, have {now:?}; unread {debts:?}"));
            }
        }
    }

    fn survivors(&self) -> Vec<(usize, usize)> {
        let processes = self.places[..SURVIVORS].iter().filter_map(|place| place.process.as_ref());
        processes.map(Process::resources).collect()
    }

    /// One look at everybody, after waiting for the first that has something to say.
    fn turn(&mut self, deeds: bool) {
        self.wait();
        for at in 0..self.places.len() {
            self.hear(at);
            self.reap(at);
            self.watch(at);
            self.start(at);
        }
        self.collect();
        if deeds && monotonic_ns() >= self.next_ns {
            self.next_ns = monotonic_ns() + self.rng.u64(5..60) * MS;
            self.deed();
        }
    }

    fn wait(&self) {
        let mut fds: Vec<PollFd<'_>> = (self.places.iter())
            .filter_map(|place| place.process.as_ref())
            .map(|process| PollFd::new(process.stdout(), PollFlags::IN))
            .collect();
        let wait = Timespec { tv_sec: 0, tv_nsec: 4_000_000 };
        // Woken or not: everybody is looked at.
        let _ = poll(&mut fds, Some(&wait));
    }

    fn hear(&mut self, at: usize) {
        let Some(process) = &mut self.places[at].process else { return };
        for line in process.listen() {
            self.note(at, &line);
        }
    }

    fn note(&mut self, at: usize, line: &str) {
        let Some(process) = &mut self.places[at].process else { return };
        let mut words = line.split(' ');
        match words.next().unwrap_or_default() {
            "ready" => process.ready = true,
            "end" => process.finished = true,
            "pulse" => {
                process.holder = words.next() == Some("1");
                self.messages += take_in(process, words, &mut self.losses);
            }
            "error" => {
                let code = line.split("BUS-").nth(1).map_or("?", |code| code.get(..4).unwrap_or("?"));
                let what = words.next().unwrap_or_default();
                *self.errors.entry(format!("{what} {code}")).or_default() += 1;
            }
            "late" => {
                let late = words.next().and_then(|ms| ms.parse().ok()).unwrap_or(u64::MAX);
                let rested = process.rested_ns;
                if rested == 0 {
                    self.latest_ms = self.latest_ms.max(late);
                }
                if late.saturating_mul(MS) > rested.saturating_add(LATE_NS) {
                    self.fail(&format!("{line}, stopped for {} ms in all", rested / MS));
                }
            }
            "bad" => self.fail(line),
            _ => {}
        }
    }

    fn reap(&mut self, at: usize) {
        let Some(process) = &mut self.places[at].process else { return };
        let Some(status) = process.ended() else { return };
        self.hear(at);
        let Some(process) = self.places[at].process.take() else { return };
        let well = status.success() && process.finished;
        if !process.killed && !well {
            let text = process.describe();
            self.fail(&format!("{} ended by itself: {status}\n{text}", process.name));
        }
        self.debts.retain(|debt| debt.subscriber != process.name);
        if self.places[at].role.starts_with("pub") {
            self.owe(&process.topics);
        }
        self.places[at].start_ns = monotonic_ns() + self.rng.u64(0..40) * MS;
    }

    /// What a publisher said that it sent, every subscriber must come to that has begun to read it.
    fn owe(&mut self, sent: &BTreeMap<String, u64>) {
        let due_ns = monotonic_ns() + CATCH_UP_NS;
        for subscriber in self.places.iter().filter(|place| place.role.starts_with("sub")) {
            let Some(process) = &subscriber.process else { continue };
            for (topic, &reach) in sent {
                if process.topics.get(topic).is_some_and(|reached| *reached < reach) {
                    let (subscriber, topic) = (process.name.clone(), topic.clone());
                    self.debts.push(Debt { subscriber, topic, reach, due_ns });
                }
            }
        }
    }

    fn collect(&mut self) {
        let now = monotonic_ns();
        let processes = || self.places.iter().filter_map(|place| place.process.as_ref());
        self.debts.retain_mut(|debt| {
            let Some(process) = processes().find(|process| process.name == debt.subscriber) else {
                return false;
            };
            if process.stopped.is_some() {
                debt.due_ns = now + CATCH_UP_NS;
            }
            process.topics.get(&debt.topic).is_some_and(|reached| *reached < debt.reach)
        });
        if let Some(debt) = self.debts.iter().find(|debt| now > debt.due_ns) {
            let Debt { subscriber, topic, reach, .. } = debt;
            let found = processes().find(|process| process.name == *subscriber);
            let reached = found.and_then(|process| process.topics.get(topic));
            self.fail(&format!("{subscriber} is at {reached:?} of {reach} of {topic}"));
        }
    }

    fn watch(&mut self, at: usize) {
        let now = monotonic_ns();
        let Some(process) = &mut self.places[at].process else { return };
        if process.stopped.is_some_and(|(_, until)| now >= until) {
            process.go_on();
        }
        let joining = !process.ready && now > process.started_ns + process.rested_ns + JOIN_NS;
        if process.silent(now) || (joining && !process.killed && process.stopped.is_none()) {
            let what = if joining { "cannot join" } else { "is silent" };
            let name = process.name.clone();
            self.fail(&format!("{name} {what}"));
        }
        if process_is_stuck(self.places[at].process.as_ref(), now) {
            self.fail("a killed process does not go");
        }
    }

    fn start(&mut self, at: usize) {
        let now = monotonic_ns();
        if self.ending || self.places[at].process.is_some() || now < self.places[at].start_ns {
            return;
        }
        self.started += 1;
        let kind = if at < SURVIVORS { "survivor" } else { "p" };
        let name = format!("{kind}{at}-{}-{now}", self.started);
        let role = self.places[at].role;
        let seed = self.rng.u64(..);
        let process = Process::start(role, &name, &self.runtime(), seed);
        self.places[at].process = Some(process);
        // Some die before they have joined.
        if at >= SURVIVORS && self.rng.u32(0..6) == 0 {
            self.next_ns = self.next_ns.min(now + self.rng.u64(0..25) * MS);
        }
    }

    /// One random cruelty.
    fn deed(&mut self) {
        match self.rng.u32(0..100) {
            0..50 => self.kill_any(),
            50..68 => self.kill_holder(),
            68..74 => {
                self.kill_holder();
                self.kill_any();
            }
            74..86 => self.kill_youngest(),
            86..99 => self.stop_any(),
            _ => (SURVIVORS..self.places.len()).for_each(|at| self.kill(at)),
        }
    }

    fn kill(&mut self, at: usize) {
        let Some(process) = &mut self.places[at].process else { return };
        if at >= SURVIVORS && !process.killed && !process.finished {
            self.holder_kills += u64::from(process.holder);
            self.kills += 1;
            process.kill();
        }
    }

    fn kill_any(&mut self) {
        let at = self.rng.usize(SURVIVORS..self.places.len());
        self.kill(at);
    }

    fn kill_holder(&mut self) {
        let holds = |place: &Place| place.process.as_ref().is_some_and(|p| p.holder && !p.killed);
        match self.places.iter().rposition(holds) {
            Some(at) => self.kill(at),
            None => self.kill_any(),
        }
    }

    fn kill_youngest(&mut self) {
        let age = |at: &usize| self.places[*at].process.as_ref().map_or(0, |process| process.started_ns);
        if let Some(at) = (SURVIVORS..self.places.len()).max_by_key(age) {
            self.kill(at);
        }
    }

    fn stop_any(&mut self) {
        let stopped = self.places.iter().filter_map(|place| place.process.as_ref()?.stopped).count();
        let at = self.rng.usize(0..self.places.len());
        let time = if self.rng.u32(0..8) == 0 { self.rng.u64(500..2500) } else { self.rng.u64(1..120) };
        let Some(process) = &mut self.places[at].process else { return };
        if stopped < 2 && process.stopped.is_none() && !process.killed && !process.finished {
            self.stops += 1;
            process.stop(monotonic_ns() + time * MS);
        }
    }

    /// All leave by themselves, the last survivor last; then the same once more with a kill of the last.
    pub(crate) fn end(&mut self) {
        self.ending = true;
        for place in &mut self.places {
            if let Some(process) = &mut place.process {
                process.go_on();
            }
        }
        let last = SURVIVORS - 1;
        for turn in ["pub", "take", "sub", "last"] {
            for at in 0..self.places.len() {
                let goes = turn == "last" || (self.places[at].role.starts_with(turn) && at != last);
                if let Some(process) = self.places[at].process.as_mut().filter(|_| goes) {
                    process.finish();
                }
            }
            let waits =
                |place: &Place| place.process.is_some() && (turn == "last" || place.role.starts_with(turn));
            let due = monotonic_ns() + 4 * SILENT_NS;
            while self
                .places
                .iter()
                .enumerate()
                .any(|(at, place)| waits(place) && (turn == "last" || at != last))
            {
                self.turn(false);
                if monotonic_ns() > due {
                    self.fail(&format!("not all of {turn} leave"));
                }
            }
        }
        self.files_are(&[("soak.lock", Some(0))]);
        self.kill_the_last();
    }

    fn kill_the_last(&mut self) {
        let runtime = self.runtime();
        for end in ["killed", "asked"] {
            let mut last = Process::start("take", &format!("last-{end}"), &runtime, 0);
            let due = monotonic_ns() + SILENT_NS;
            while !last.listen().iter().any(|line| line.starts_with("pulse 1")) {
                assert!(monotonic_ns() < due, "nobody is there and it does not become the holder");
                let mut fds = [PollFd::new(last.stdout(), PollFlags::IN)];
                let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 }));
            }
            if end == "killed" {
                last.kill();
                drop(last);
                self.files_are(&[("soak.lock", None), ("soak.sock", None)]);
            } else {
                last.finish();
                while last.ended().is_none() {
                    assert!(monotonic_ns() < due, "it does not leave: {}", last.describe());
                    std::thread::yield_now();
                }
                self.files_are(&[("soak.lock", Some(0))]);
            }
        }
    }

    fn files_are(&self, expected: &[(&str, Option<u64>)]) {
        let mut found: Vec<(String, u64)> = std::fs::read_dir(self.runtime())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
            })
            .collect();
        found.sort();
        let same = found.len() == expected.len()
            && found.iter().zip(expected).all(|((name, bytes), (wanted, length))| {
                name == wanted && length.is_none_or(|length| length == *bytes)
            });
        assert!(same, "seed {}: the directory holds {found:?} and not {expected:?}", self.seed);
    }

    fn fail(&self, why: &str) -> ! {
        let said: String =
            (self.places.iter()).filter_map(|place| place.process.as_ref()).map(Process::describe).collect();
        println!("{said}{}", self.evidence());
        panic!("seed {}: {why}", self.seed);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.places.clear();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Takes in `topic=reached` and `topic=reached,more`; returns how many messages were received.
fn take_in<'a>(
    process: &mut Process,
    words: impl Iterator<Item = &'a str>,
    losses: &mut BTreeMap<String, u64>,
) -> u64 {
    let mut received = 0;
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let number = value.split(',').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        if name == "received" {
            received += number;
        } else if let Some(loss) = name.strip_prefix("lost.") {
            *losses.entry(loss.to_owned()).or_default() += number;
        } else if name.starts_with("own.") {
            process.topics.insert(name.to_owned(), number);
        }
    }
    received
}

fn process_is_stuck(process: Option<&Process>, now: u64) -> bool {
    process.is_some_and(|process| process.killed && now > process.killed_ns + SILENT_NS)
}
