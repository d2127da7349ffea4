//! What is known of six who take pieces, by what they tell of each other's.

use super::*;

const TAKERS: u8 = 6;

/// Each of six takes a piece in turn, as often as `rounds` says; three others tell of each piece of those who pass theirs on, and `praised` of those of others.
fn swarm(rounds: u32, passes: impl Fn(u8) -> bool, praised: &[u8]) -> Passed {
    let mut passed = Passed::default();
    for round in 0..rounds {
        let index = |taker: u8| round * u32::from(TAKERS) + u32::from(taker);
        (0..TAKERS).for_each(|taker| passed.given(NodeIndex(taker), index(taker)));
        for taker in 0..TAKERS {
            let told = (1..4).map(|other| (taker + other) % TAKERS);
            let told: Vec<u8> = if passes(taker) { told.collect() } else { praised.to_vec() };
            told.into_iter().for_each(|from| passed.told(NodeIndex(from), index(taker)));
        }
    }
    passed
}

fn keeping(passed: &Passed) -> Vec<u8> {
    (0..TAKERS).filter(|node| passed.keeps(NodeIndex(*node))).collect()
}

#[test]
fn who_takes_pieces_and_passes_none_on_is_known_after_two() {
    assert_eq!(keeping(&swarm(1, |taker| taker > 1, &[])), []);
    assert_eq!(keeping(&swarm(2, |taker| taker > 1, &[])), [0, 1]);
    assert_eq!(keeping(&swarm(9, |_| true, &[])), []);
    // Where nobody tells anything nobody is known to keep it.
    assert_eq!(keeping(&swarm(9, |_| false, &[])), []);
}

#[test]
fn a_third_who_say_that_they_have_what_one_of_them_keeps_praise_nobody() {
    assert_eq!(keeping(&swarm(9, |taker| taker > 1, &[0, 1])), [0, 1]);
    // Nor who says so again and again, or of what it was given itself.
    assert_eq!(keeping(&swarm(9, |taker| taker > 1, &[1, 1, 1, 0, 0])), [0, 1]);
}

#[test]
fn who_keeps_a_piece_is_not_praised_for_what_another_passed_on_and_who_passes_on_again_is_as_others_are() {
    let mut passed = swarm(3, |taker| taker > 0, &[]);
    assert_eq!(keeping(&passed), [0]);
    // What it keeps is given to another, of whom the others have it.
    for index in [0, 6, 12] {
        passed.given(NodeIndex(1), index);
        (2..5).for_each(|from| passed.told(NodeIndex(from), index));
    }
    assert_eq!(keeping(&passed), [0]);
    for index in 100..103 {
        passed.given(NodeIndex(0), index);
        (2..5).for_each(|from| passed.told(NodeIndex(from), index));
    }
    assert_eq!(keeping(&passed), []);
}
