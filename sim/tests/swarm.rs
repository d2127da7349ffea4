//! Random worlds: none breaks a rule, each is the same twice, and a broken node is found.

use busway_sim::Canary;
use busway_sim::swarm::Configuration;

/// Enough that each fault strikes, few enough for every push; `cargo xtask sim` runs thousands.
const SEEDS: u64 = 8;

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn random_worlds_lose_nothing_in_silence_whatever_goes_wrong() {
    let (mut messages, mut faults, mut seconds) = (0, 0, 0);
    for seed in 0..SEEDS {
        let configuration = Configuration::of(seed);
        let outcome = configuration.run(Canary::Sound, false);
        assert_eq!(outcome.violation, None, "cargo xtask sim --seed {seed}");
        assert!(outcome.messages >= 2_000 && outcome.faults >= 8, "seed {seed} is too quiet");
        assert!(outcome.virtual_ns >= 60_000_000_000, "seed {seed} is too short");
        messages += outcome.messages;
        faults += outcome.faults;
        seconds += outcome.virtual_ns / 1_000_000_000;
    }
    println!("{SEEDS} worlds, {seconds} virtual seconds, {messages} messages, {faults} faults");
}

#[test]
fn the_same_seed_is_the_same_run_event_for_event() {
    for seed in 100..103 {
        let [one, two] = [(); 2].map(|()| Configuration::of(seed).run(Canary::Sound, false));
        assert_eq!((one.hash, one.events), (two.hash, two.events), "seed {seed}");
        assert_ne!(one.hash, Configuration::of(seed + 1).run(Canary::Sound, false).hash);
    }
}

#[test]
fn a_node_that_acknowledges_what_it_has_not_delivered_is_found() {
    let found = |seed: &u64| {
        let outcome = Configuration::of(*seed).run(Canary::AcknowledgesEarly, false);
        outcome.violation.is_some_and(|what| what.contains("missing") || what.contains("lost"))
    };
    assert!((0..100).any(|seed| found(&seed)), "no seed of 100 finds it");
}

#[test]
fn a_failure_is_shown_with_few_of_its_faults() {
    let seed = (0..100).find(|&seed| {
        let outcome = Configuration::of(seed).run(Canary::AcknowledgesEarly, false);
        outcome.violation.is_some()
    });
    let configuration = Configuration::of(seed.expect("a broken node is found"));
    let (least, runs) = configuration.minimise(Canary::AcknowledgesEarly, 20);
    assert!(least.run(Canary::AcknowledgesEarly, false).violation.is_some());
    assert!(least.faults.len() < configuration.faults.len(), "{runs} runs left all of them");
}
