//! The bell with real threads and real futexes. Every interleaving is explored in `tests/loom.rs`.

use std::fs;
use std::thread;

use super::*;
use crate::clock::{Deadline, monotonic_ns};
use crate::sync::{AtomicU64, spin_hint};

fn lines(counters: u32) -> Vec<Line> {
    (0..3).map(|_| Line::with_counters(counters)).collect()
}

fn bell(lines: &[Line]) -> Bell<'_> {
    let fences = if barrier::register() { Fences::Asymmetric } else { Fences::Full };
    Bell::new(lines, fences)
}

#[test]
fn quiet_line_is_not_rung_and_an_armed_one_is_rung_once() {
    for start in [0, 1, u32::MAX - 1, u32::MAX, i32::MAX as u32, i32::MAX as u32 + 1] {
        let lines = lines(start);
        let bell = bell(&lines);
        assert!(!bell.needs_ring(1), "nobody sleeps");
        drop(bell.prepare(1));
        assert!(bell.needs_ring(1), "somebody has announced a sleep");
        assert!(!bell.needs_ring(2), "on another line");
        assert_eq!(bell.ring(1), Rang { woken: 0, more: false });
        assert!(!bell.needs_ring(1), "rung, and nobody has armed since");
    }
}

#[test]
fn line_for_any_topic_is_rung_from_every_topic() {
    let lines = lines(0);
    let bell = bell(&lines);
    drop(bell.prepare(ANY));
    assert!(bell.needs_ring(1) && bell.needs_ring(2));
    bell.ring(2);
    assert!(!bell.needs_ring(1), "one ring serves all topics");
}

#[test]
fn sleeper_does_not_sleep_through_a_ring_that_came_before_it() {
    let lines = lines(0);
    let bell = bell(&lines);
    let sleeper = bell.prepare(1);
    bell.ring(1);
    assert_eq!(sleeper.wait(None), Slept::Rung, "the word has moved, so there is no sleep");
    assert_eq!(bell.prepare(1).wait(Some(Duration::from_millis(2))), Slept::TimedOut);
}

#[test]
fn a_sleep_whose_time_was_up_goes_on_as_announced_and_is_ended_by_what_was_rung_meanwhile() {
    let lines = lines(0);
    let bell = bell(&lines);
    let sleeper = bell.prepare(1);
    for _ in 0..3 {
        assert_eq!(sleeper.wait(Some(Duration::from_millis(1))), Slept::TimedOut);
        assert!(bell.needs_ring(1), "it is still announced");
    }
    bell.ring(1);
    assert_eq!(sleeper.wait(None), Slept::Rung, "it was rung between two waits");
}

#[test]
fn ringer_that_died_before_waking_is_made_good_by_the_next() {
    let lines = lines(0);
    let bell = bell(&lines);
    drop(bell.prepare(1));
    for _ in 0..10 {
        assert!(lines[1].begin().is_some(), "raises `rung`, and then dies");
        assert!(bell.needs_ring(1), "the next ringer must ring again");
    }
    bell.ring(1);
    assert!(!bell.needs_ring(1));
}

#[test]
fn caller_wakes_at_most_eight_and_says_that_there_are_more() {
    const SLEEPERS: usize = 20;
    let lines: &'static [Line] = Box::leak(lines(0).into_boxed_slice());
    let bell = bell(lines);
    let (ids, waiting) = std::sync::mpsc::channel();
    let threads: Vec<_> = (0..SLEEPERS)
        .map(|_| {
            let ids = ids.clone();
            thread::spawn(move || {
                let sleeper = bell.prepare(1);
                ids.send(rustix::thread::gettid()).unwrap();
                sleeper.wait(None)
            })
        })
        .collect();
    for id in waiting.iter().take(SLEEPERS) {
        wait_until_asleep(id);
    }
    let mut woken = 0;
    let first = bell.ring(1);
    assert!(first.more, "twenty sleep: the caller cannot have woken all");
    assert!(first.woken <= WAKES_MAX as usize, "{} woken in the caller", first.woken);
    assert!(bell.needs_ring(1), "not done before the last wake");
    woken += first.woken;
    let rest = bell.finish(1);
    woken += rest.woken;
    assert!(!rest.more, "the control thread leaves nobody");
    assert!(!bell.needs_ring(1), "done");
    let slept: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let timed_out = slept.iter().filter(|slept| **slept == Slept::TimedOut).count();
    assert_eq!(woken + timed_out, SLEEPERS, "everybody was woken by one of the two");
}

/// Spins until the kernel says that this thread sleeps: it has nothing left to do but its futex wait.
fn wait_until_asleep(id: rustix::process::Pid) {
    let path = format!("/proc/self/task/{}/stat", id.as_raw_nonzero());
    loop {
        let Ok(stat) = fs::read_to_string(&path) else { return };
        if stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")) {
            return;
        }
        thread::yield_now();
    }
}

#[test]
fn any_words_in_a_line_are_healed_by_one_sleep_and_one_ring() {
    let classes = [0, 1, 2, APART_MAX, APART_MAX + 1, i32::MAX as u32, 1 << 31, (1 << 31) + 1, u32::MAX];
    let mut random = fastrand::Rng::with_seed(7);
    let mut values = Vec::new();
    for armed in classes {
        for rung in classes {
            values.extend(classes.map(|done| [armed, rung, done]));
        }
    }
    values.extend((0..100_000).map(|_| [random.u32(..), random.u32(..), random.u32(..)]));
    for [armed, rung, done] in values {
        let lines = lines(0);
        lines[1].armed.store(armed, Ordering::Relaxed);
        lines[1].rung.store(rung, Ordering::Relaxed);
        lines[1].done.store(done, Ordering::Relaxed);
        let bell = bell(&lines[..]);
        drop(Sleeper { line: &lines[1], seen: lines[1].arm() });
        assert!(lines[1].has_sleeper(), "a sleeper is not seen after {armed:#x} {rung:#x} {done:#x}");
        assert!(!bell.ring(1).more);
        assert!(!lines[1].has_sleeper(), "rung for ever after {armed:#x} {rung:#x} {done:#x}");
        // And from then on it is a line like any other.
        drop(Sleeper { line: &lines[1], seen: lines[1].arm() });
        assert!(lines[1].has_sleeper());
        bell.ring(1);
        assert!(!lines[1].has_sleeper());
    }
}

#[test]
fn corrupted_line_costs_a_publisher_one_superfluous_ring() {
    let mut random = fastrand::Rng::with_seed(8);
    for _ in 0..100_000 {
        let line = Line::with_counters(random.u32(..));
        line.armed.store(random.u32(..), Ordering::Relaxed);
        line.done.store(random.u32(..), Ordering::Relaxed);
        line.ring(WAKES_MAX);
        assert!(!line.has_sleeper(), "nobody armed, and one ring was not enough: {line:?}");
    }
}

#[test]
fn topics_never_have_the_line_of_any() {
    let mut random = fastrand::Rng::with_seed(9);
    for topic in
        [0, 1, 65_534, 65_535, 65_536, u64::MAX].into_iter().chain((0..10_000).map(|_| random.u64(..)))
    {
        let line = Bell::line_of(topic);
        assert!(line != ANY && line < LINES, "topic {topic} has line {line}");
    }
}

/// One publisher, sleepers on both kinds of line, no spinning: every message must end a sleep.
fn nobody_sleeps_through_a_message(fences: Fences) {
    const MESSAGES: u64 = 10_000;
    // A sleep that lasts this long although a message is there was ended by the timer.
    const LATE_NS: u64 = 500_000_000;
    let lines = lines(u32::MAX - 1000);
    let bell = Bell::new(&lines, fences);
    let message = AtomicU64::new(0);
    let taken = [const { AtomicU64::new(0) }; 3];
    let sent_ns = AtomicU64::new(0);
    thread::scope(|scope| {
        for (taken, line) in taken.iter().zip([1, 1, ANY]) {
            let (message, sent_ns) = (&message, &sent_ns);
            scope.spawn(move || {
                let mut next = 1;
                while next <= MESSAGES {
                    if message.load(Ordering::Acquire) < next {
                        let sleeper = bell.prepare(line);
                        if message.load(Ordering::Acquire) < next {
                            let slept = sleeper.wait(None);
                            let there = message.load(Ordering::Acquire) >= next;
                            let age_ns = monotonic_ns().saturating_sub(sent_ns.load(Ordering::Relaxed));
                            let lost = slept == Slept::TimedOut && there && age_ns > LATE_NS;
                            if lost {
                                // So that the publisher does not wait for us.
                                taken.store(u64::MAX, Ordering::Release);
                                panic!("slept {age_ns} ns through message {next} on line {line}");
                            }
                        }
                        continue;
                    }
                    taken.store(next, Ordering::Release);
                    next += 1;
                }
            });
        }
        for sequence in 1..=MESSAGES {
            sent_ns.store(monotonic_ns(), Ordering::Relaxed);
            message.store(sequence, Ordering::Release);
            if bell.ring(1).more {
                bell.finish(1);
            }
            // Two kinds of pressure: wait for all, so that they go back to sleep, or run ahead.
            while sequence % 3 != 0 && taken.iter().any(|taken| taken.load(Ordering::Acquire) < sequence) {
                thread::yield_now();
            }
        }
    });
}

#[test]
fn nobody_sleeps_through_a_message_with_asymmetric_fences() {
    if barrier::register() {
        nobody_sleeps_through_a_message(Fences::Asymmetric);
    }
}

#[test]
fn nobody_sleeps_through_a_message_with_full_fences() {
    nobody_sleeps_through_a_message(Fences::Full);
}

/// Publisher and sleeper meet at the instant where only the fences decide: the slot is stored while
/// the line is armed. (With the heavy fence left out this fails within the first thousands of rounds on
/// some machines and in none on others; the model, in which all fences are full, finds it anywhere.)
fn fences_decide_who_sees_whom(fences: Fences) {
    const ROUNDS: u64 = 60_000;
    const OVER: u64 = u64::MAX;
    let lines = lines(0);
    let bell = Bell::new(&lines, fences);
    let ballast: Vec<Line> = (0..24).map(|_| Line::with_counters(0)).collect();
    let (message, ready, stored_ns) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    // A sleep that ends by itself while the publisher has not been let run since is nobody's fault.
    let long_ago = || monotonic_ns() - stored_ns.load(Ordering::Relaxed) > WAIT_MAX.as_nanos() as u64 / 2;
    thread::scope(|scope| {
        scope.spawn(|| {
            stay_on_processor(1);
            let mut random = fastrand::Rng::with_seed(12);
            for round in 1..=ROUNDS {
                let (mut looks, mut spins) = (0_u32, 0_u32);
                while ready.load(Ordering::Acquire) != round {
                    if ready.load(Ordering::Acquire) == OVER {
                        return;
                    }
                    // Looking keeps the line in this processor's cache, where its next change is seen late.
                    looks = looks.wrapping_add(u32::from(lines[1].has_sleeper()));
                    spin_hint();
                    spins += 1;
                    if spins.is_multiple_of(2000) {
                        thread::yield_now();
                    }
                }
                for _ in 0..random.u32(..64) {
                    spin_hint();
                }
                stored_ns.store(monotonic_ns(), Ordering::Relaxed);
                // Lines that the other processor owns: the slot's store waits behind theirs, and the look
                // at the bell does not, unless a fence makes it.
                for line in &ballast {
                    line.armed.store(1, Ordering::Relaxed);
                }
                message.store(round, Ordering::Release);
                bell.ring(1);
            }
        });
        stay_on_processor(0);
        let mut random = fastrand::Rng::with_seed(13);
        // On a busy machine the two seldom run at once, and fewer rounds must do.
        let deadline = Deadline::after(Duration::from_secs(4));
        for round in 1..=ROUNDS {
            if deadline.expired() {
                break;
            }
            for line in &ballast {
                line.armed.store(0, Ordering::Relaxed);
            }
            ready.store(round, Ordering::Release);
            for _ in 0..random.u32(..64) {
                spin_hint();
            }
            while message.load(Ordering::Acquire) != round {
                let sleeper = bell.prepare(1);
                if message.load(Ordering::Acquire) == round {
                    break;
                }
                let slept = sleeper.wait(None);
                if slept == Slept::TimedOut && message.load(Ordering::Acquire) == round && long_ago() {
                    ready.store(OVER, Ordering::Release);
                    panic!("slept through message {round}");
                }
            }
        }
        ready.store(OVER, Ordering::Release);
    });
}

/// Two threads on one processor never meet. Where there is only one, the test shows less.
fn stay_on_processor(index: usize) {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let mut wanted = rustix::thread::CpuSet::new();
    let all = (0..rustix::thread::CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number));
    for number in all.skip(index).take(1) {
        wanted.set(number);
        rustix::thread::sched_setaffinity(None, &wanted).unwrap();
    }
}

#[test]
fn asymmetric_fences_decide_who_sees_whom() {
    if barrier::register() {
        fences_decide_who_sees_whom(Fences::Asymmetric);
    }
}

#[test]
fn full_fences_decide_who_sees_whom() {
    fences_decide_who_sees_whom(Fences::Full);
}
