//! Large artifacts in pieces among simulated nodes: how long it takes until all have them, what that costs, and what hostile nodes come to.
#![expect(clippy::print_stdout, reason = "the evidence lines are read by the test runner")]

use busway_protocol::Time;
use busway_protocol::gossip::{Fault, Reference};
use busway_sim::gossip::{Swarm, Terms, Vice};

const MIB: usize = 1 << 20;

fn settled(swarm: &mut Swarm, ms: u64) -> u64 {
    let took = swarm.settle(ms);
    assert_eq!(swarm.checks.violation(), None);
    took.unwrap_or_else(|| panic!("after {ms} ms {}", swarm.checks.owing()))
}

/// Goes on until its origin has given all: each piece is with another, and none is on its way to the first who has it.
fn until_given(swarm: &mut Swarm, of: Reference, size: usize) {
    while swarm.others_keep(of) < size as u64 {
        swarm.run_for_ms(1);
        assert!(swarm.now() < Time(0).after_ms(60_000), "{}", swarm.checks.owing());
    }
}

#[test]
fn a_large_artifact_is_with_all_in_little_more_than_its_origin_takes_to_send_it_once() {
    let terms = Terms::new(1, 12);
    let rate = terms.rate;
    let mut swarm = Swarm::new(terms);
    swarm.run_for_ms(200);
    let size = 32 * MIB;
    swarm.offer(0, "file", size);
    let took = settled(&mut swarm, 300_000);
    let bound = size as f64 / rate as f64;
    let times = took as f64 / 1e9 / bound;
    swarm.run_for_ms(3_000);
    let traffic = swarm.checks.traffic;
    let useful = traffic.useful as f64;
    let (sent, twice) =
        (traffic.sent as f64 / useful, (traffic.bodies - traffic.useful) as f64 * 100.0 / useful);
    println!(
        "evidence: nodes=12 size={size} took_ms={} of_bound={times:.3} sent_of_useful={sent:.3} twice_percent={twice:.3} by_origin={:.2}",
        took / 1_000_000,
        swarm.counts(0).bytes_given as f64 / size as f64
    );
    assert!(times <= 1.10, "{times}");
    assert!(sent <= 1.02 && twice <= 1.0, "{sent} {twice}");
}

#[test]
fn every_honest_node_has_a_large_artifact_while_a_third_drop_lie_corrupt_flood_trickle_and_replay() {
    let run = |vice: Option<Vice>| {
        let mut terms = Terms { rate: 1_250_000, ..Terms::new(3, 9) };
        terms.vices = vice.map_or_else(Vec::new, |vice| (4..7).map(|node| (node, vice)).collect());
        let mut swarm = Swarm::new(terms);
        swarm.run_for_ms(200);
        swarm.offer(0, "file", 6 * MIB);
        let took = settled(&mut swarm, 600_000);
        let corrupt = swarm.checks.blamed.iter().filter(|((_, fault), _)| *fault == Fault::Corrupt);
        (took, swarm.checks.blamed.values().sum::<u64>(), corrupt.count())
    };
    let (clean, ..) = run(None);
    for vice in Vice::ALL {
        let (took, blamed, corrupt) = run(Some(vice));
        let times = took as f64 / clean as f64;
        println!("evidence: hostile=3/9 vice={vice:?} times_clean={times:.2} blamed={blamed}");
        assert!(times <= 1.5, "{vice:?}: {took} of {clean}");
        assert!(vice != Vice::Corrupt || blamed > 0, "who sends what is wrong is blamed");
        assert!(
            vice != Vice::Spoil || corrupt == 3,
            "each who gives wrong pieces among others is blamed for them"
        );
    }
}

#[test]
fn who_offers_much_that_nobody_is_given_keeps_the_room_of_a_store_from_nobody() {
    let run = |hostile: bool| {
        let mut terms = Terms { rate: 1_250_000, store: 8 << 20, ..Terms::new(3, 9) };
        terms.vices = if hostile { (4..7).map(|node| (node, Vice::Hoard)).collect() } else { Vec::new() };
        let mut swarm = Swarm::new(terms);
        swarm.offer(0, "file", 6 * MIB);
        settled(&mut swarm, 600_000)
    };
    let (clean, took) = (run(false), run(true));
    let times = took as f64 / clean as f64;
    println!("evidence: hostile=3/9 offers=1500 each of a whole store, times_clean={times:.2}");
    // Each of them has the room of a store for a quarter of a second, and who gave nothing is asked last.
    assert!(times <= 1.5, "{took} of {clean}");
}

#[test]
fn when_the_origin_stops_after_it_has_given_little_more_than_all_everybody_else_has_it() {
    let mut swarm = Swarm::new(Terms::new(4, 10));
    swarm.run_for_ms(200);
    let size = 8 * MIB;
    let of = swarm.offer(0, "file", size);
    until_given(&mut swarm, of, size);
    let (owed, given) = (swarm.checks.owed(), swarm.counts(0).bytes_given);
    for other in 1..10 {
        swarm.cut(0, other);
    }
    assert!(owed > 0 && given <= size as u64 * 11 / 10, "{owed} {given}");
    let took = settled(&mut swarm, 60_000);
    println!("evidence: given_by_origin={given} of={size} owed_then={owed} took_ms={}", took / 1_000_000);
}

#[test]
fn who_is_stopped_while_pieces_come_holds_up_the_others_for_little() {
    let size = 32 * MIB;
    let run = |seed: u64, stops: bool| {
        let terms = Terms::new(seed, 8);
        let third_ms = size as u64 * 1_000 / terms.rate / 3;
        let mut swarm = Swarm::new(terms);
        swarm.run_for_ms(200);
        swarm.offer(0, "file", size);
        let began = swarm.now();
        swarm.run_for_ms(third_ms);
        if stops {
            swarm.stop(6);
        }
        while swarm.checks.owed() > i64::from(stops) {
            swarm.run_for_ms(2);
            assert!(swarm.now() < began.after_ms(60_000), "{}", swarm.checks.owing());
        }
        let took = swarm.now().since(began) as f64 / 1e6;
        if stops {
            // Who goes on is given what it missed.
            swarm.go_on(6);
        }
        settled(&mut swarm, 60_000);
        took
    };
    for seed in 6..9 {
        let (clean, stopped) = (run(seed, false), run(seed, true));
        let later = (stopped / clean - 1.0) * 100.0;
        println!(
            "evidence: seed={seed} clean_ms={clean:.0} stopped_ms={stopped:.0} later_percent={later:.1}"
        );
        assert!(later <= 2.0, "{later}");
    }
}

#[test]
fn who_alone_has_pieces_and_was_silent_for_long_is_asked_for_them_when_nothing_else_comes() {
    for (seed, size) in [(9, 9 * MIB), (10, 12 * MIB), (11, 20 * MIB)] {
        let mut swarm = Swarm::new(Terms::new(seed, 4));
        swarm.run_for_ms(200);
        let of = swarm.offer(0, "file", size);
        until_given(&mut swarm, of, size);
        let owed = swarm.checks.owed();
        (1..4).for_each(|other| swarm.cut(0, other));
        // The other two give each other what they have, and then nothing comes.
        swarm.stop(2);
        swarm.run_for_ms(5_000);
        assert!(owed > 0 && swarm.checks.owed() == owed, "what one alone has they have not");
        swarm.go_on(2);
        let took = settled(&mut swarm, 30_000);
        println!("evidence: seed={seed} size={size} owed={owed} took_ms={}", took / 1_000_000);
    }
}

#[test]
fn pieces_go_on_while_lines_are_cut_a_node_comes_late_and_the_end_reaches_all() {
    let terms = Terms { lines: Some(6), ..Terms::new(5, 16) };
    let mut swarm = Swarm::new(terms.clone());
    swarm.run_for_ms(200);
    let of = swarm.offer(0, "file", 3 * MIB + 77);
    let lines = swarm.lines();
    for round in 0..40 {
        let (a, b) = lines[round * 7 % lines.len()];
        swarm.flap(a, b, 30);
        if round == 10 {
            swarm.restart(9, 500);
        }
        swarm.run_for_ms(40);
    }
    let took = settled(&mut swarm, 60_000);
    swarm.withdraw(of);
    settled(&mut swarm, 60_000);
    // One that is on its way is given to nobody any more.
    let of = swarm.offer(0, "file", 8 * MIB);
    swarm.run_for_ms(300);
    assert!(swarm.checks.owed() > 10);
    swarm.withdraw(of);
    settled(&mut swarm, 60_000);
    swarm.run_for_ms(2_000);
    let (most, product) = (swarm.checks.after_end_max(), terms.bandwidth_delay_product());
    println!("evidence: took_ms={} sent_after_end_max={most} bandwidth_delay={product}", took / 1_000_000);
    let used: u64 = (1..16).map(|host| swarm.usage(host).body_bytes).sum();
    assert_eq!(used, 0, "nothing is charged for what is over");
}
