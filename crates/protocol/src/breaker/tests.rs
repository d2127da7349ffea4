//! The breaker against its sentences, and against a model that remembers everything.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

extern crate std;

use alloc::vec::Vec;
use core::time::Duration;

use super::{Breaker, BreakerState, Ended, Pass, State};
use crate::time::Time;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Time {
    Time(ms * MS)
}

/// Three failures within a second open it for two seconds; two probes decide.
fn breaker() -> Breaker {
    Breaker::default().failures(3).window(Duration::from_secs(1)).pause(Duration::from_secs(2)).probes(2)
}

fn fail(breaker: &mut Breaker, now: Time) {
    let pass = breaker.admit(now).unwrap();
    breaker.settle(now, pass, Ended::Badly);
}

fn open() -> Breaker {
    let mut breaker = breaker();
    (0..3).for_each(|ms| fail(&mut breaker, at(ms)));
    breaker
}

#[test]
fn failures_that_are_apart_open_nothing_and_as_many_within_the_window_do() {
    let mut breaker = breaker();
    for ms in [0, 600, 1_200, 1_800, 2_400] {
        fail(&mut breaker, at(ms));
        assert_eq!(breaker.state(at(ms)), BreakerState::Closed, "at {ms} ms there are two in a second");
    }
    fail(&mut breaker, at(2_500));
    assert_eq!(breaker.state(at(2_500)), BreakerState::Open);
    assert_eq!(breaker.admit(at(4_499)).unwrap_err().until, at(4_500));
    assert_eq!((breaker.opened(), breaker.refused()), (1, 1));
}

#[test]
fn after_the_pause_as_many_probes_pass_and_all_must_end_well() {
    let mut breaker = open();
    assert!(breaker.admit(at(2_001)).is_err(), "it opened at 2 ms");
    let probes = [breaker.admit(at(2_002)).unwrap(), breaker.admit(at(2_002)).unwrap()];
    assert!(breaker.admit(at(2_003)).is_err(), "two probes are under way");
    for (count, probe) in (1..).zip(probes) {
        assert_eq!(breaker.state(at(2_010)), BreakerState::HalfOpen, "before probe {count} has ended");
        breaker.settle(at(2_010), probe, Ended::Well);
    }
    assert_eq!(breaker.state(at(2_010)), BreakerState::Closed);
    fail(&mut breaker, at(2_010));
    fail(&mut breaker, at(2_011));
    assert_eq!(breaker.state(at(2_011)), BreakerState::Closed, "what failed before it opened does not count");
}

#[test]
fn one_bad_probe_opens_it_for_another_pause() {
    let mut breaker = open();
    let (bad, good) = (breaker.admit(at(2_002)).unwrap(), breaker.admit(at(2_002)).unwrap());
    breaker.settle(at(2_100), bad, Ended::Badly);
    breaker.settle(at(2_101), good, Ended::Well);
    assert_eq!(breaker.admit(at(4_099)).unwrap_err().until, at(4_100));
    assert_eq!(breaker.opened(), 2);
}

#[test]
fn who_passed_and_found_nothing_to_try_leaves_its_place_to_another() {
    let mut breaker = open().probes(1);
    let early = open().admit(at(2_002)).unwrap();
    for _ in 0..3 {
        let probe = breaker.admit(at(2_002)).expect("nobody probes");
        assert!(breaker.holds(&probe));
        assert!(breaker.admit(at(2_002)).is_err(), "one at a time");
        breaker.forgo(probe);
    }
    let probe = breaker.admit(at(2_003)).expect("nobody probes");
    breaker.settle(at(2_003), probe, Ended::Well);
    assert_eq!(breaker.state(at(2_003)), BreakerState::Closed);
    assert!(!breaker.holds(&early), "it has closed since");
    breaker.forgo(early);
    assert_eq!(breaker.state(at(2_003)), BreakerState::Closed);
}

#[test]
fn a_probe_that_waited_longer_than_the_pause_may_try_until_another_has_decided() {
    let mut breaker = open().probes(1);
    let late = breaker.admit(at(2_002)).unwrap();
    assert!(breaker.admit(at(4_002)).is_err(), "it is not waited for any more");
    assert!(breaker.holds(&late), "nothing was decided since");
    let next = breaker.admit(at(6_002)).unwrap();
    assert!(breaker.holds(&late) && breaker.holds(&next));
    breaker.settle(at(6_003), next, Ended::Badly);
    assert!(!breaker.holds(&late), "it opened anew");
}

#[test]
fn what_passed_before_it_opened_decides_nothing_later() {
    let mut breaker = breaker();
    let early: Vec<Pass> = (0..4).map(|_| breaker.admit(at(0)).unwrap()).collect();
    (0..3).for_each(|ms| fail(&mut breaker, at(ms)));
    let probe = breaker.admit(at(2_002)).unwrap();
    for (pass, ended) in early.into_iter().zip([Ended::Badly, Ended::Well, Ended::Well, Ended::Well]) {
        breaker.settle(at(2_003), pass, ended);
    }
    assert_eq!(breaker.state(at(2_003)), BreakerState::HalfOpen);
    drop(probe);
}

#[test]
fn probes_that_never_end_count_as_bad_ones_after_a_pause() {
    let mut breaker = open();
    let lost = [breaker.admit(at(2_002)).unwrap(), breaker.admit(at(2_500)).unwrap()];
    assert_eq!(breaker.admit(at(4_499)).unwrap_err().until, at(4_500), "they may yet end");
    assert_eq!(breaker.admit(at(4_500)).unwrap_err().until, at(6_500), "they have not");
    let _probe = breaker.admit(at(6_500)).unwrap();
    lost.into_iter().for_each(|pass| breaker.settle(at(6_501), pass, Ended::Badly));
    assert_eq!(breaker.state(at(6_501)), BreakerState::HalfOpen, "what fails that late decides nothing");
}

#[test]
fn what_takes_longer_than_the_pause_and_ends_well_closes_it() {
    // Calls each 10 ms that all take three seconds and succeed.
    let (mut breaker, mut under_way) = (open().probes(1), Vec::new());
    let mut refused = 0;
    for ms in (2_010..20_000).step_by(10) {
        let over = under_way.extract_if(.., |(since, _)| ms - *since >= 3_000);
        over.for_each(|(_, pass)| breaker.settle(at(ms), pass, Ended::Well));
        match breaker.admit(at(ms)) {
            Ok(pass) => under_way.push((ms, pass)),
            Err(_) => refused += 1,
        }
    }
    assert_eq!(breaker.state(at(20_000)), BreakerState::Closed);
    assert!(refused <= 300, "{refused} refused in the three seconds of the first probe");
    // A bad end decides: who was under way beside it and ends well does not.
    let mut breaker = open();
    let (bad, good) = (breaker.admit(at(2_002)).unwrap(), breaker.admit(at(2_002)).unwrap());
    breaker.settle(at(2_003), bad, Ended::Badly);
    breaker.settle(at(2_004), good, Ended::Well);
    assert_eq!(breaker.state(at(2_004)), BreakerState::Open);
}

/// The sentences of the file's head, kept in the plainest way: everything that ever happened is remembered.
struct Model {
    failures: usize,
    window: u64,
    pause: u64,
    probes: usize,
    phase: Phase,
    /// The state has changed so often, and had when it closed last or something failed too often.
    changes: u64,
    decided: u64,
}

enum Phase {
    Closed { bad: Vec<u64> },
    Open { since: u64 },
    HalfOpen { let_through: Vec<u64>, good: usize },
}

impl Model {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.changes += 1;
    }

    fn admit(&mut self, now: u64) -> Option<u64> {
        match &self.phase {
            Phase::Open { since } if now - since >= self.pause => {
                self.enter(Phase::HalfOpen { let_through: Vec::new(), good: 0 });
            }
            Phase::HalfOpen { let_through, .. }
                if let_through.len() == self.probes && now - let_through[self.probes - 1] >= self.pause =>
            {
                self.enter(Phase::Open { since: now });
            }
            _ => {}
        }
        match &mut self.phase {
            Phase::Closed { .. } => Some(self.changes),
            Phase::Open { .. } => None,
            Phase::HalfOpen { let_through, .. } if let_through.len() == self.probes => None,
            Phase::HalfOpen { let_through, .. } => {
                let_through.push(now);
                Some(self.changes)
            }
        }
    }

    fn settle(&mut self, now: u64, pass: u64, well: bool) {
        if pass != self.changes {
            if pass <= self.decided || !well {
                return;
            }
            // A probe that was waited for too short.
            if matches!(self.phase, Phase::Open { .. }) {
                self.enter(Phase::HalfOpen { let_through: Vec::new(), good: 0 });
            }
            if let Phase::HalfOpen { let_through, good } = &mut self.phase {
                *good += 1;
                if let_through.len() < self.probes {
                    let_through.push(now);
                }
                if *good == self.probes {
                    self.enter(Phase::Closed { bad: Vec::new() });
                    self.decided = self.changes;
                }
            }
            return;
        }
        let opens = match &mut self.phase {
            Phase::Closed { bad } => {
                if !well {
                    bad.push(now);
                }
                let window = self.window;
                !well && bad.iter().filter(|time| now - **time < window).count() >= self.failures
            }
            Phase::Open { .. } => false,
            Phase::HalfOpen { good, .. } => {
                *good += usize::from(well);
                !well
            }
        };
        if opens {
            self.enter(Phase::Open { since: now });
            self.decided = self.changes;
        } else if matches!(&self.phase, Phase::HalfOpen { good, .. } if *good == self.probes) {
            self.enter(Phase::Closed { bad: Vec::new() });
            self.decided = self.changes;
        }
    }

    fn state(&self, now: u64) -> BreakerState {
        match &self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { since } if now - since < self.pause => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

#[test]
fn in_a_hundred_thousand_random_steps_it_does_what_the_model_does() {
    let (mut steps, mut opened, mut closed, mut late) = (0u64, 0u64, 0u64, 0u64);
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (failures, probes) = (random.u32(1..6), random.u32(1..4));
        let (window, pause) = (random.u64(1..200), random.u64(1..200));
        let mut breaker = Breaker::default()
            .failures(failures)
            .window(Duration::from_nanos(window))
            .pause(Duration::from_nanos(pause))
            .probes(probes);
        let phase = Phase::Closed { bad: Vec::new() };
        let (failures, probes) = (failures as usize, probes as usize);
        let mut model = Model { failures, window, pause, probes, phase, changes: 0, decided: 0 };
        let (mut now, mut under_way) = (1_000, Vec::<(Pass, u64)>::new());
        let badness = random.f64();
        for step in 0..1_100 {
            now += if random.u8(..) < 20 { random.u64(0..400) } else { random.u64(0..12) };
            let place = || alloc::format!("seed {seed}, step {step}, at {now}");
            if under_way.is_empty() || (under_way.len() < 8 && random.bool()) {
                match (breaker.admit(Time(now)), model.admit(now)) {
                    (Ok(pass), Some(known)) => under_way.push((pass, known)),
                    (Err(refused), None) => {
                        assert!(refused.until.0 > now, "{}: until {}", place(), refused.until.0);
                    }
                    (real, naive) => panic!("{}: {real:?}, the model {naive:?}", place()),
                }
            } else {
                let (pass, known) = under_way.swap_remove(random.usize(..under_way.len()));
                late += u64::from(known != model.changes);
                if random.u8(..) < 10 {
                    continue; // It never ends.
                }
                let well = random.f64() >= badness;
                let before = model.state(now);
                breaker.settle(Time(now), pass, if well { Ended::Well } else { Ended::Badly });
                model.settle(now, known, well);
                closed +=
                    u64::from(before == BreakerState::HalfOpen && model.state(now) == BreakerState::Closed);
            }
            assert_eq!(breaker.state(Time(now)), model.state(now), "{}", place());
            if let State::Closed(times) = &breaker.state {
                assert!(times.len() < failures, "{}: {} times are kept", place(), times.len());
            }
            steps += 1;
        }
        opened += breaker.opened();
    }
    assert!(opened > 500 && closed > 100 && late > 500, "opened {opened}, closed {closed}, late {late}");
    std::println!("evidence: steps={steps} opened={opened} closed={closed} late={late}");
}
