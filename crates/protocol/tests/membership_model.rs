//! Membership against its model, with seeded input. The fuzz target `protocol_membership` runs the same model with
//! input that is guided by coverage.

#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "membership_model/model.rs"]
mod model;

#[test]
fn whatever_strangers_do_slots_are_bounded_and_nodes_keep_their_links() {
    let mut links = 0;
    let mut ends = 0;
    for seed in 0..600 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let input: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(800).collect();
        let seen = model::run(&input);
        links += seen.links;
        ends += seen.evicted + seen.duplicates + seen.timeouts + seen.refused;
    }
    assert!(links > 500 && ends > 5_000, "{links} links, {ends} ends");
    println!("evidence: runs=600 links={links} ended_by_us={ends}");
}

/// Found by the fuzz target: an end that was not over and a link of the same node held one slot of two.
#[rustfmt::skip]
const FOUND: &[u8] = &[
    101, 42, 20, 48, 20, 6, 136, 122, 0, 3, 8, 149, 235, 8, 0, 0, 103, 36, 103, 103, 103, 103,
    103, 103, 1, 0, 0, 0, 0, 0, 0, 2, 103, 0, 255, 213, 255, 255, 103, 103, 255, 255, 255, 111,
    103, 103, 99, 99, 99, 99, 99, 99, 103, 99, 99, 99, 99, 99, 95, 95, 95, 95, 95, 95, 95, 95,
    95, 95, 99, 103, 39, 103, 103, 103, 103, 103, 103, 103, 103, 36, 103, 103, 103, 103, 103, 103, 103, 49,
    111, 103, 103, 99, 99, 229, 229, 229, 229, 229, 229, 229, 138, 99, 99, 99, 99, 103, 102, 103, 1, 0,
    0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 116, 106, 241,
];

#[test]
fn a_node_whose_former_connection_ends_slowly_has_one_slot_and_no_second_one() {
    let seen = model::run(FOUND);
    assert!(seen.links > 0, "nobody was linked");
    println!("evidence: links={}", seen.links);
}
