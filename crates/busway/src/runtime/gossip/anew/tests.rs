//! A peer that knew ten slots and twenty marks by former rules.

use busway_protocol::gossip::{Epoch, Word};
use busway_wire::gossip::{Exchange, Marks, Since, Tell};

use super::Anew;

const KNEW: (u64, u64) = (10, 20);

fn changed() -> Anew {
    let mut anew = Anew::default();
    anew.begin();
    anew
}

/// How far the peer is taken to know us where a link begins on which it says so.
fn begins(anew: &mut Anew, (slots, marks): (u64, u64)) -> (u64, u64) {
    anew.link();
    let since = Some(Since { epoch: Epoch(1), slots, marks });
    let mut word = Word::Exchange(Exchange { epoch: Epoch(2), version: 0, since, filter: None });
    anew.hear(&mut word);
    let Word::Exchange(Exchange { since: Some(since), .. }) = word else { panic!("{word:?}") };
    (since.slots, since.marks)
}

fn tell(anew: &mut Anew, through: u64) {
    anew.say(&Word::Tell(Tell { exchanges: 1, through, slots: Vec::new() }));
}

fn marks(anew: &mut Anew, through: u64) {
    anew.say(&Word::Marks(Marks { exchanges: 1, through, of: Vec::new() }));
}

/// How many marks it is taken to know by this.
fn handled(anew: &mut Anew, tells: u64, marks: u64) -> u64 {
    let mut word = Word::Handled { tells, marks };
    anew.hear(&mut word);
    let Word::Handled { tells: heard, marks } = word else { panic!("{word:?}") };
    assert_eq!(heard, tells);
    marks
}

#[test]
fn who_may_do_what_it_could_is_told_what_it_does_not_know() {
    let mut anew = Anew::default();
    assert_eq!(begins(&mut anew, KNEW), KNEW);
    assert_eq!(handled(&mut anew, 0, 20), 20);
}

#[test]
fn a_peer_that_was_not_told_all_anew_is_told_all_on_the_next_link() {
    let mut anew = changed();
    for through in [4, 9] {
        assert_eq!(begins(&mut anew, KNEW), (0, 0));
        tell(&mut anew, through);
        handled(&mut anew, 1, 20);
    }
    assert_eq!(begins(&mut anew, KNEW), (0, 0));
    tell(&mut anew, 9);
    tell(&mut anew, 10);
    handled(&mut anew, 1, 20);
    assert_eq!(begins(&mut anew, KNEW), (0, 0), "the last of it is not done with");
    tell(&mut anew, 10);
    tell(&mut anew, 12);
    handled(&mut anew, 1, 20);
    assert_eq!(begins(&mut anew, (12, 20)), (12, 0), "all slots are");
}

#[test]
fn a_peer_knows_all_marks_anew_when_it_knows_one_that_it_did_not_know() {
    let mut anew = changed();
    assert_eq!(begins(&mut anew, KNEW), (0, 0));
    assert_eq!(handled(&mut anew, 0, 20), 0, "of those it was told none on this link");
    marks(&mut anew, 7);
    assert_eq!(handled(&mut anew, 0, 20), 7);
    marks(&mut anew, 20);
    assert_eq!(handled(&mut anew, 0, 20), 20);
    assert_eq!(begins(&mut anew, KNEW).1, 0, "it may have asked what some of them are");
    marks(&mut anew, 21);
    assert_eq!(handled(&mut anew, 0, 21), 21);
    assert_eq!(begins(&mut anew, (10, 21)).1, 21);
}

#[test]
fn what_was_known_when_a_second_change_comes_is_told_again() {
    let mut anew = changed();
    assert_eq!(begins(&mut anew, KNEW), (0, 0));
    tell(&mut anew, 10);
    handled(&mut anew, 1, 20);
    anew.begin();
    assert_eq!(begins(&mut anew, KNEW), (0, 0));
}
