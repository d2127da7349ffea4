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
