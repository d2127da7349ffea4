//! What two hosts make of each other, whatever happens to them and to the link between them. `BUSWAY_SEED` is the first story, `BUSWAY_SEEDS`
//! how many.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use busway_shm::clock::Deadline;

use crate::runtime::desk::BLINK_NS;
use crate::runtime::desk::scene::Scene;
use world::{GROUPS, World, until};

mod world;

const PATIENCE: Duration = Duration::from_secs(20);
/// Stories of a run.
const SEEDS: u64 = 300;
/// Things that happen in one story at most.
const STEPS_MAX: usize = 400;
/// Stories at a time: they wait for other threads most of their time.
const AT_A_TIME: u64 = 8;

const MS: u64 = 1_000_000;

impl World {
    /// Something happens.
    fn happen(&mut self) {
        let at = self.one_of_two();
        let group = GROUPS[self.dice.usize(..2)];
        match self.dice.u8(..100) {
            0..12 => (0..self.dice.usize(1..6)).for_each(|_| self.push(at, group)),
            12..16 => self.pull(at, group),
            16..19 => self.close_puller(at),
            19..29 => drop(self.take(at, 4)),
            29..36 => {
                let does = self.dice.u8(..4) > 0;
                self.finish(at, does);
            }
            36..50 => {
                let answers = self.dice.usize(..3);
                self.changes = self.dice.u8(..32) == 0;
                self.look(at, answers);
                self.changes = false;
            }
            50..72 => {
                let lose = self.dice.u8(..100) == 0;
                for _ in 0..self.dice.usize(..8) {
                    self.arrive(at, lose);
                }
            }
            72..80 => self.now_ns += self.dice.u64(..20 * MS),
            80..82 => self.now_ns += self.dice.u64(..2_000 * MS),
            82 => {
                let misses = [self.dice.bool(), self.dice.bool()];
                self.cut(misses);
            }
            83 => self.now_ns += self.dice.u64(..10_000) * MS * u64::from(!self.is_up()),
            84..87 => self.connect(),
            87 => self.change_rights(at),
            88 if self.dice.u8(..8) == 0 => self.forget(at),
            88..92 => (0..self.dice.usize(1..4)).for_each(|_| self.ask(at)),
            92 => self.respond(at),
            93 if self.dice.bool() => self.close_responder(at),
            93..97 => {
                let (looks, answers) = (self.dice.bool(), self.dice.bool());
                self.answer(at, looks, answers);
            }
            97 => drop(self.hear_answers(at)),
            _ => {
                let pending = &mut self.hosts[at].pending;
                if !pending.is_empty() {
                    drop(pending.swap_remove(0));
                    *self.ended.entry("dropped".to_owned()).or_default() += 1;
                }
            }
        }
    }

    fn change_rights(&mut self, at: usize) {
        let (plain, kept, ask) = (
            format!("{}.plain", self.topics),
            format!("{}.kept", self.topics),
            format!("{}.ask", self.topics),
        );
        let dice = &mut self.dice;
        let mut some = || -> Vec<&str> {
            let all = [plain.as_str(), kept.as_str(), ask.as_str()];
            all.into_iter().filter(|_| dice.bool()).collect()
        };
        let (publish, subscribe) = (some(), some());
        let host = &mut self.hosts[at];
        host.scene.may(&publish, &subscribe);
        host.channel.withhold(host.scene.permits());
        // The link is closed for it.
        self.cut([true; 2]);
    }

    /// Everybody does what there is to do, until nothing is left. The link stands, and all is allowed.
    fn settle(&mut self) {
        for host in &mut self.hosts {
            host.scene.may(&[">"], &[">"]);
        }
        self.cut([true; 2]);
        self.connect();
        for group in GROUPS {
            let at = self.one_of_two();
            self.pull(at, group);
        }
        let (mut calm, mut round) = (0, 0);
        let deadline = Deadline::after(PATIENCE);
        while !deadline.expired() {
            let mut busy = self.round();
            // What the threads of the buses do takes its time.
            if !busy && GROUPS.iter().any(|group| self.missing(group) > self.lost(group)) {
                std::thread::yield_now();
                busy = true;
            }
            busy |= self.hosts.iter().any(|host| {
                !host.pending.is_empty()
                    || host.near().is_some_and(|near| near.has_given() > 0)
                    || host.pushers.values().any(|pusher| !pusher.account().closed())
            });
            calm = if busy { 0 } else { calm + 1 };
            if calm > 100 {
                return;
            }
            round += 1;
            self.now_ns += if round < 100 { MS } else { 10 * MS };
        }
        panic!("it does not come to rest: {}", self.describe());
    }

    fn round(&mut self) -> bool {
        let mut busy = false;
        for at in 0..2 {
            busy |= self.take(at, usize::MAX);
            while self.finish(at, true) {
                busy = true;
            }
            busy |= self.answer(at, true, true);
            busy |= self.hear_answers(at);
            busy |= self.look(at, usize::MAX);
            while self.arrive(at, false) {
                busy = true;
            }
        }
        busy
    }

    /// Tasks of a group that are counted as lost.
    fn lost(&self, group: &str) -> u64 {
        let pushers = self.hosts.iter().filter_map(|host| host.pushers.get(group));
        pushers.map(|pusher| pusher.account().dropped_total()).sum()
    }

    /// Tasks of a group that nobody has done.
    fn missing(&self, group: &str) -> u64 {
        let pushed = self.pushed.get(group).into_iter().flatten();
        pushed.filter(|number| !self.done.contains_key(number)).count() as u64
    }

    fn describe(&self) -> String {
        let host = |at: usize| {
            let host = &self.hosts[at];
            let near = host.near().map(|near| (near.counts(), near.has_given()));
            let accounts: Vec<_> = host.pushers.values().map(|pusher| pusher.account()).collect();
            let far = host.far().map(|far| far.counts());
            format!(
                "host {at}: near={near:?} far={far:?} standing={:?} pending={} accounts={accounts:?}\n",
                host.channel.standing(),
                host.pending.len(),
            )
        };
        host(0) + &host(1)
    }

    /// What must hold when nothing is under way.
    fn judge(&self) {
        for (near, far) in [(0, 1), (1, 0)] {
            let standing = self.hosts[near].channel.standing();
            assert_eq!(standing.waiting_bytes, 0, "words that were confirmed wait for nobody");
            let (Some(gave), Some(had)) = (self.hosts[near].near(), self.hosts[far].far()) else { continue };
            assert_eq!(gave.has_given(), 0, "{}", self.describe());
            for (pull, [granted, given, under_way]) in gave.counts() {
                assert_eq!(under_way, 0, "{}", self.describe());
                let counted = had.counts();
                let Some([said, came, open]) = counted.get(&pull).copied() else {
                    panic!("pull {pull} is of nobody: {}", self.describe())
                };
                assert_eq!((granted, given, 0), (said, came, open), "pull {pull}: {}", self.describe());
            }
        }
        for group in GROUPS {
            let (lost, missing) = (self.lost(group), self.missing(group));
            for number in self.pushed.get(group).into_iter().flatten() {
                let done = self.done.get(number).map_or(&[][..], Vec::as_slice);
                let silent = done.iter().filter(|deliveries| **deliveries == 1).count();
                if group == GROUPS[0] {
                    assert!(done.len() <= 1, "task {number} was done {done:?}");
                } else {
                    assert!(
                        silent <= 1,
                        "task {number} was done {done:?}, as if it had not been given before"
                    );
                }
            }
            assert!(missing <= lost, "{missing} tasks of {group} are nowhere, {lost} are counted as lost");
            assert!(group == GROUPS[0] || lost == 0, "{lost} tasks are lost that are to be acknowledged");
        }
        assert_eq!(
            self.ended.values().sum::<u64>(),
            self.asked + self.ended.get("nobody at once").unwrap_or(&0)
        );
        for host in &self.hosts {
            assert!(host.requester.as_ref().is_none_or(|requester| requester.under_way() == 0));
        }
    }

    /// All who pull go: nothing is had for them any more.
    fn leave(&mut self) {
        for at in 0..2 {
            while !self.hosts[at].pullers.is_empty() {
                self.close_puller(at);
            }
            while !self.hosts[at].responders.is_empty() {
                self.close_responder(at);
            }
        }
        for _ in 0..8 {
            self.round();
            self.now_ns += 10 * MS;
        }
        for host in &self.hosts {
            assert!(host.near().is_none_or(|near| near.counts().is_empty()), "{}", self.describe());
            assert!(host.far().is_none_or(|far| far.counts().is_empty()), "{}", self.describe());
        }
    }
}

#[derive(Default)]
struct Sum {
    pushed: u64,
    done: u64,
    asked: u64,
    anew: u64,
    pieces: u64,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.pushed += other.pushed;
        self.done += other.done;
        self.asked += other.asked;
        self.anew += other.anew;
        self.pieces += other.pieces;
    }
}

/// One story.
fn live(scenes: [Scene; 2], seed: u64, sum: &mut Sum) -> [Scene; 2] {
    let mut world = World::new(scenes, seed);
    for _ in 0..world.dice.usize(20..STEPS_MAX) {
        world.happen();
    }
    world.settle();
    world.judge();
    world.leave();
    sum.pushed += world.pushed.values().map(|all| all.len() as u64).sum::<u64>();
    sum.done += world.done.values().map(|all| all.len() as u64).sum::<u64>();
    sum.asked += world.asked;
    sum.pieces += world.pieces;
    sum.anew += world.hosts.iter().map(|host| host.begun_anew).sum::<u64>();
    world.into_scenes()
}

fn live_all(seeds: impl Iterator<Item = u64>) -> Sum {
    let (mut sum, mut scenes) = (Sum::default(), Some([Scene::new(), Scene::new()]));
    for seed in seeds {
        let taken = scenes.take().unwrap();
        match catch_unwind(AssertUnwindSafe(|| live(taken, seed, &mut sum))) {
            Ok(again) => scenes = Some(again),
            Err(panic) => {
                eprintln!("seed={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    sum
}

#[test]
fn whatever_happens_to_two_hosts_and_their_link_nothing_is_left_over_and_both_count_alike() {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let (first, seeds) = (number("BUSWAY_SEED").unwrap_or(0), number("BUSWAY_SEEDS").unwrap_or(SEEDS));
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        let part =
            |at| scope.spawn(move || live_all((first + at..first + seeds).step_by(AT_A_TIME as usize)));
        let all: Vec<_> = (0..AT_A_TIME).map(part).collect();
        all.into_iter().for_each(|part| sum.add(&part.join().unwrap()));
    });
    let Sum { pushed, done, asked, anew, pieces } = sum;
    println!(
        "evidence: seeds={seeds} pushed={pushed} done={done} asked={asked} begun_anew={anew} pieces={pieces}"
    );
}

#[test]
fn a_request_that_ended_with_a_link_that_only_its_responder_missed_is_under_way_nowhere() {
    let mut world = World::new([Scene::new(), Scene::new()], 0);
    world.respond(1);
    until("it is asked over the link", || {
        if world.hosts[0].pending.is_empty() {
            world.ask(0);
        }
        for at in 0..2 {
            world.look(at, usize::MAX);
            while world.arrive(at, false) {}
        }
        world.answer(1, true, false);
        world.now_ns += MS;
        !world.hosts[1].requests.is_empty()
    });
    world.cut([false, true]);
    world.look(1, 0);
    world.now_ns += BLINK_NS;
    world.look(1, 0);
    until("it is cancelled there", || world.hosts[1].requests[0].is_cancelled());
    assert_eq!(world.hosts[0].near().map(|near| near.has_given()), Some(1), "who asked has missed nothing");
    world.settle();
    world.judge();
    assert_eq!(world.ended.get("ResponderDied"), Some(&1), "{:?}", world.ended);
    world.leave();
}
