//! Claim words one step at a time; what happens between two processes is in `tests/loom/claims.rs`.

use crate::sync::AtomicU64;

use super::{ATTEMPT_MAX, Claims, Found, Owner};

const A: Owner = Owner(1);
const B: Owner = Owner(u16::MAX);

fn words(slots: usize, from: u64) -> Vec<AtomicU64> {
    let words: Vec<AtomicU64> = (0..slots).map(|_| AtomicU64::new(0)).collect();
    Claims::new(&words).begin(from);
    words
}

#[test]
fn a_message_is_claimed_once_and_its_slot_is_the_next_ones_when_it_is_over() {
    for from in [0, 5, (1 << 40) - 2, 1 << 61] {
        let words = words(4, from);
        let claims = Claims::new(&words);
        for sequence in from + 1..from + 20 {
            assert_eq!(claims.look(sequence), Found::Free(0), "{sequence} behind {from}");
            assert_eq!(claims.look(sequence + 4), Found::Other, "one turn too early");
            assert!(claims.claim(sequence + 4, B).is_none());
            let claim = claims.claim(sequence, A).expect("nobody has it");
            assert_eq!((claim.sequence(), claim.owner(), claim.attempt()), (sequence, A, 0));
            assert!(claims.claim(sequence, B).is_none(), "it was given twice");
            assert!(!claims.look(sequence).is_over());
            assert!(claims.claim(sequence + 4, B).is_none(), "the slot is in use");
            let lost = sequence % 3 == 0;
            assert!(if lost { claims.lose(claim, 7) } else { claims.done(claim) });
            assert_eq!(claims.look(sequence), if lost { Found::Lost(7) } else { Found::Done });
            assert!(!claims.done(claim) && !claims.give_back(claim) && !claims.lose(claim, 0), "it is over");
            assert!(!claims.give_up(sequence, 1), "it is over");
        }
    }
}

#[test]
fn who_comes_too_late_changes_nothing_and_attempts_are_counted() {
    let words = words(2, 0);
    let claims = Claims::new(&words);
    let late = claims.claim(1, A).expect("nobody has it");
    assert!(claims.give_back(late));
    assert!(!claims.give_back(late), "of two who find the same, one does it");
    assert_eq!(claims.look(1), Found::Free(1));
    assert!(claims.was_given_back(1));
    let second = claims.claim(1, B).expect("it was given back");
    assert_eq!(second.attempt(), 1);
    assert!(!claims.done(late) && !claims.lose(late, 3) && !claims.put_back(late), "it is another's");
    assert_eq!(claims.look(1), Found::Taken(second));
    assert!(claims.put_back(second));
    assert_eq!(claims.look(1), Found::Free(1), "one that was not looked at is no attempt");
    assert!(!claims.was_given_back(1), "and need not rest");
    for _ in 0..100 {
        let claim = claims.claim(1, A).expect("it was given back");
        assert!(claims.give_back(claim));
    }
    assert_eq!(claims.look(1), Found::Free(ATTEMPT_MAX));
    assert!(claims.give_up(1, 10));
    assert_eq!(claims.look(1), Found::Lost(10));
}

#[test]
fn a_pusher_takes_only_what_nobody_has() {
    let words = words(2, 0);
    let claims = Claims::new(&words);
    let claim = claims.claim(1, A).expect("nobody has it");
    assert!(!claims.give_up(1, 10), "it is somebody's");
    assert!(claims.give_up(2, 10));
    assert!(claims.claim(2, B).is_none(), "it was given up");
    assert!(claims.done(claim));
}

#[test]
fn a_request_is_taken_back_while_nobody_has_it_and_while_somebody_has_and_not_after() {
    let words = words(4, 0);
    let claims = Claims::new(&words);
    assert!(claims.withdraw(1, 19), "nobody has it");
    assert_eq!((claims.look(1), claims.done_by(1)), (Found::Lost(19), None));
    assert!(claims.claim(1, A).is_none() && !claims.withdraw(1, 18), "it is over");
    let claim = claims.claim(2, B).expect("nobody has it");
    assert!(claims.withdraw(2, 18), "somebody has it");
    assert_eq!(claims.look(2), Found::Lost(18));
    assert!(!claims.done(claim) && !claims.give_back(claim), "its responder is too late");
    let claim = claims.claim(3, A).expect("nobody has it");
    assert_eq!(claims.done_by(3), None, "it is in hand");
    assert!(claims.done(claim) && !claims.withdraw(3, 19), "it was answered");
    assert_eq!((claims.look(3), claims.done_by(3)), (Found::Done, Some(A)));
    // The words are those of later messages now.
    assert!(claims.claim(7, B).is_some());
    assert!(!claims.withdraw(3, 19) && claims.done_by(3).is_none());
    assert!(matches!(claims.look(7), Found::Taken(_)), "the word of another is left alone");
}

#[test]
fn no_word_makes_anybody_panic_and_the_pusher_gets_past_it() {
    let mut rng = fastrand::Rng::with_seed(41);
    let words = words(8, 0);
    let claims = Claims::new(&words);
    let mut strange = 0;
    for sequence in 1..200_000 {
        if rng.bool() {
            let near = (sequence + rng.u64(0..16)) << 24 | rng.u64(..) >> 40;
            let value = if rng.bool() { rng.u64(..) } else { near };
            words[sequence as usize & 7].store(value, crate::sync::Ordering::Relaxed);
        }
        strange += u32::from(claims.look(sequence) == Found::Other);
        match (claims.claim(sequence, A), claims.look(sequence)) {
            (Some(claim), found) => {
                assert_eq!(found, Found::Taken(claim));
                assert!(claims.done(claim));
            }
            (None, Found::Taken(claim)) => assert!(claims.lose(claim, 9)),
            (None, _) => _ = claims.give_up(sequence, 9),
        }
        assert!(claims.look(sequence).is_over());
    }
    assert!(strange > 10_000, "{strange} words of others are too few to show anything");
}
