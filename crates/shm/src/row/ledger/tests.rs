//! Ledgers of rows in every state that a look can find them in.

use super::read;
use crate::arena::{ArenaOptions, OwnArena};
use crate::layout::{ARENA_BYTES_MIN, RowEntry, key, state};
use crate::sync::Ordering;

const HEAD: u64 = 100;

/// Reads the ledger of a row that is `set` so, with account from 10.
fn of(set: impl FnOnce(&RowEntry)) -> super::RowAccount {
    let options = ArenaOptions { name: "ledger".into(), bytes_max: ARENA_BYTES_MIN, monitored: false };
    let own = OwnArena::create(&options).expect("an arena");
    let row = own.tables().row(0).expect("a row");
    row.first.store(10, Ordering::Relaxed);
    row.cursor.store(60, Ordering::Relaxed);
    row.delivered.store(45, Ordering::Relaxed);
    row.dropped[2].store(5, Ordering::Relaxed);
    row.key.store(key(1, state::ACTIVE), Ordering::Relaxed);
    set(row);
    read(row, 10, || HEAD)
}

#[test]
fn a_row_at_rest_accounts_for_every_message() {
    let account = of(|_| {});
    assert_eq!((account.expected, account.delivered, account.lost(), account.in_flight), (90, 45, 5, 40));
    assert!(account.closed());
}

#[test]
fn a_row_that_died_in_the_middle_of_a_step_accounts_for_every_message() {
    let account = of(|row| row.delivered.store(46, Ordering::Relaxed));
    assert_eq!(
        (account.delivered, account.in_flight, account.closed()),
        (46, 39, true),
        "a message was taken"
    );
    for losing in [7, u32::MAX] {
        let account = of(|row| {
            row.losing.store(losing, Ordering::Relaxed);
            row.dropped[2].store(12, Ordering::Relaxed);
        });
        assert_eq!(
            (account.lost(), account.in_flight, account.closed()),
            (12, 33, true),
            "a loss was counted"
        );
    }
    assert!(of(|row| row.losing.store(7, Ordering::Relaxed)).closed(), "a loss was announced");
}

#[test]
fn a_message_whose_publisher_died_before_it_wrote_the_head_is_accounted_for() {
    let beyond = |messages: u64| {
        of(|row| {
            row.cursor.store(HEAD + messages, Ordering::Relaxed);
            row.delivered.store(85 + messages, Ordering::Relaxed);
        })
    };
    let account = beyond(1);
    assert_eq!((account.expected, account.delivered, account.in_flight, account.closed()), (91, 86, 0, true));
    assert!(beyond(0).closed());
    assert!(!beyond(2).closed(), "nobody has published what lies behind it");
}

#[test]
fn a_row_that_counts_wrongly_leaves_its_account_open() {
    type Wrong = (&'static str, fn(&RowEntry));
    let wrong: [Wrong; 7] = [
        ("a message was not counted", |row| row.delivered.store(44, Ordering::Relaxed)),
        ("none was counted", |row| row.delivered.store(0, Ordering::Relaxed)),
        ("each was counted twice", |row| row.delivered.store(90, Ordering::Relaxed)),
        ("a loss was not counted", |row| row.dropped[2].store(0, Ordering::Relaxed)),
        ("a loss was counted twice", |row| row.dropped[2].store(10, Ordering::Relaxed)),
        ("a message was skipped", |row| row.cursor.store(61, Ordering::Relaxed)),
        ("nonsense", |row| row.delivered.store(u64::MAX, Ordering::Relaxed)),
    ];
    for (what, set) in wrong {
        assert!(!of(set).closed(), "{what}: {:?}", of(set));
    }
}

#[test]
fn a_row_that_is_late_begins_where_its_history_does() {
    let late = |history: u64| {
        of(|row| {
            row.history.store(history, Ordering::Relaxed);
            row.first.store(30, Ordering::Relaxed);
            row.delivered.store(25, Ordering::Relaxed);
        })
    };
    assert!(late(20).closed());
    assert!(!late(0).closed(), "who wanted no history has no reason to begin later");
}
