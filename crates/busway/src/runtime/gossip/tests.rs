//! Whose turn it is.

use std::collections::{BTreeMap, BTreeSet};

use super::in_turn;

#[test]
fn each_peer_is_spoken_to_first_as_often_as_any_other_whatever_its_number() {
    let of: BTreeMap<u8, ()> = [0, 1, 7, 200, 255].map(|index| (index, ())).into();
    let (mut turn, mut first) = (3, BTreeMap::new());
    for _ in 0..of.len() * 10 {
        let all: Vec<u8> = in_turn(&mut turn, &of).map(|(index, ())| *index).collect();
        assert!(all.iter().copied().collect::<BTreeSet<u8>>().iter().eq(of.keys()), "{all:?}: each once");
        *first.entry(all[0]).or_insert(0) += 1;
    }
    assert!(of.keys().all(|index| first.get(index) == Some(&10)), "{first:?}");
    let none: BTreeMap<u8, ()> = BTreeMap::new();
    assert_eq!((in_turn(&mut turn, &none).count(), turn), (0, 0));
}
