//! Retries: how long, how different, and that they end.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use busway_wire::limits::{RETRY_PAUSE_MS_MAX, RETRY_TIMES_MAX};

use super::Retry;
use crate::time::Time;

fn pauses(retry: Retry, number: u64) -> Vec<u64> {
    let (mut attempts, mut now, mut pauses) = (retry.begin(number), Time(1), Vec::new());
    while let Some(next) = attempts.failed(now) {
        pauses.push(next.since(now));
        now = next;
    }
    assert_eq!(attempts.count() as usize, pauses.len() + 1, "the last attempt stays the last");
    assert_eq!(attempts.failed(now), None);
    pauses
}

#[test]
fn pauses_double_up_to_the_cap_and_lie_between_half_and_all_of_it() {
    let retry = Retry::times(12).pause(Duration::from_millis(10)).cap(Duration::from_secs(1));
    for number in 0..1_000 {
        for (at, pause) in pauses(retry, number).into_iter().enumerate() {
            let longest = (10_000_000 << at).min(1_000_000_000);
            assert!((longest / 2..=longest).contains(&pause), "message {number}: pause {at} is {pause} ns");
        }
    }
}

#[test]
fn one_seed_gives_one_row_of_pauses_and_others_give_others() {
    let retry = Retry::times(5).seed(11);
    assert_eq!(pauses(retry, 1), pauses(retry, 1));
    let rows: BTreeSet<_> =
        (0..100).flat_map(|seed| (0..100).map(move |n| pauses(retry.seed(seed), n))).collect();
    assert_eq!(rows.len(), 10_000, "who failed together would try again together");
    let first: Vec<u64> = rows.iter().map(|row| row[0]).collect();
    let mean = first.iter().sum::<u64>() / first.len() as u64;
    assert!((7_400_000..7_600_000).contains(&mean), "of 5 to 10 ms the mean is {mean} ns");
}

#[test]
fn whatever_is_asked_for_it_ends() {
    let retry = Retry::times(u32::MAX).pause(Duration::MAX).cap(Duration::MAX);
    let pauses = pauses(retry, 3);
    assert_eq!(pauses.len(), RETRY_TIMES_MAX as usize);
    assert!(pauses.iter().all(|pause| *pause <= RETRY_PAUSE_MS_MAX * 1_000_000));
    assert_eq!(self::pauses(Retry::default(), 3), [], "without a word nothing is tried again");
    let mut late = Retry::times(1).begin(0);
    assert_eq!(late.failed(Time(u64::MAX)), Some(Time(u64::MAX)), "at the end of time");
    assert_eq!(self::pauses(Retry::times(3).pause(Duration::ZERO), 9), [0, 0, 0], "no pause is no pause");
}
