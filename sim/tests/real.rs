//! The runtime that ships in random worlds: it loses nothing in silence, and each world is the same twice.

use busway_io::{Manners, Path};
use busway_protocol::Time;
use busway_sim::real::{self, Plan, Reader, Source};
use busway_sim::{Fault, Pair, Planned};
use busway_wire::Topic;

/// Few enough for every build; `cargo xtask ci` runs a hundred, `cargo xtask sim --floor 2` thousands.
const SEEDS: std::ops::Range<u64> = 2..5;

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn the_runtime_loses_nothing_in_silence_whatever_goes_wrong_and_does_the_same_twice() {
    let (mut messages, mut faults, mut seconds) = (0, 0, 0);
    for seed in SEEDS {
        let outcome = real::run(&Plan::of(seed), false);
        assert_eq!(outcome.violation, None, "cargo xtask sim --floor 2 --seed {seed}");
        let again = real::run(&Plan::of(seed), false);
        assert_eq!(again.hash, outcome.hash, "seed {seed}: two runs differ");
        assert!(outcome.messages >= 2_000 && outcome.faults >= 8, "seed {seed} is too quiet");
        assert!(outcome.virtual_ns >= 60_000_000_000, "seed {seed} is too short");
        messages += outcome.messages;
        faults += outcome.faults;
        seconds += outcome.virtual_ns / 1_000_000_000;
    }
    println!("evidence: worlds=3 virtual_seconds={seconds} messages={messages} faults={faults}");
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn wall_clocks_that_are_set_ten_years_on_and_back_delay_and_lose_nothing() {
    let undisturbed = Plan { faults: Vec::new(), ..Plan::of(3) };
    // Its publisher waits for a day at most, and most of the time it does wait.
    let path = Path { bytes_per_second: Some(300_000), ..Path::default() };
    let source = Source { slots: 4, messages: 1_000, gap_ns: 1_000_000, ..large() };
    let full = Plan { path, sources: vec![source], ..between_two() };
    for calm in [undisturbed, full, Plan::of(4)] {
        let set = |number: u64| Planned {
            fault: Fault::ClockJump(usize::try_from(number).expect("few") % calm.hosts),
            at: Time(number * 100_000_000),
            phase: None,
            duration_ms: 40 * number,
            amount: number / 3,
        };
        let faults = calm.faults.iter().cloned().chain((1..500).map(set)).collect();
        let (one, other) = (real::run(&calm, false), real::run(&Plan { faults, ..calm.clone() }, false));
        assert_eq!((&one.violation, &other.violation), (&None, &None));
        assert_eq!((one.messages, other.faults - one.faults), (other.messages, 499));
        if calm.faults.is_empty() {
            // What a message says of its time is longer or shorter, so that bytes differ, and nothing else does.
            let seen = |outcome: &real::Outcome| (outcome.delivered, outcome.lost, outcome.virtual_ns);
            assert_eq!(seen(&one), seen(&other));
        }
    }
    println!("evidence: worlds=3 clocks_set=1497");
}

/// Messages of which one in twenty is large.
fn large() -> Source {
    let topic = Topic::new("a.x").expect("it is a topic");
    Source { host: 0, topic, slots: 32, messages: 300, gap_ns: 40_000_000, size_max: 100_000, seed: 1 }
}

/// Three hosts, of which one publishes for another; nothing goes wrong.
fn between_two() -> Plan {
    let reader = Reader { host: 2, pattern: "a.x".to_owned(), reliable: true, since_ns: 0 };
    let (sources, readers, faults) = (vec![large()], vec![reader], Vec::new());
    Plan { hosts: 3, manners: Manners::smooth(), sources, readers, faults, ..Plan::of(2) }
}

#[test]
fn large_messages_cross_links_that_are_reset_again_and_again() {
    let reset = |second: u64| Planned {
        fault: Fault::Reset(Pair { from: 0, to: 2 }),
        at: Time(second * 1_000_000_000),
        phase: None,
        duration_ms: 0,
        amount: 0,
    };
    let path = Path { bytes_per_second: Some(300_000), ..Path::default() };
    let plan = Plan { path, faults: (1..12).map(reset).collect(), ..between_two() };
    let outcome = real::run(&plan, false);
    assert_eq!((outcome.violation, outcome.delivered, outcome.lost), (None, 300, 0));
}
