//! Joining, meeting, leaving and handing over, all within one process.

use super::child::until;
use super::{Role, files, join, next_port, patience, run_directory, settings, start};
use crate::control::scratch::Scratch;
use crate::error::Code;
use busway_shm::clock::{Deadline, monotonic_ns};
use std::time::Duration;

#[test]
fn two_members_meet_with_nothing_started_before_them() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let one = join(&directory, "one");
    assert!(one.control.is_holder(), "the first holds");
    let other = join(&directory, "other");
    assert!(!other.control.is_holder());
    let (publisher, matched) = one.publish("price.tick");
    assert!(matched.is_empty());
    let (subscription, publishers) = other.subscribe("price.*");
    assert_eq!(publishers, 1);
    other.until_seated(subscription, 1);
    one.ports
        .until("the publisher has no row", |told| told.seats.iter().any(|(who, _)| *who == other.process));
    other.ports.until("the age is told", |told| told.older.get(&(subscription, publisher)) == Some(&true));
    let (later, matched) = other.publish("price.late");
    assert_eq!(matched, [other.process], "its own subscription matches too");
    other.until_seated(subscription, 2);
    other.ports.until("the age is told", |told| told.older.get(&(subscription, later)) == Some(&false));
    assert_eq!(one.member_names(), ["one", "other"]);
    assert_eq!(other.member_names(), ["one", "other"]);
    assert!(one.control.socket_path().exists());
}

#[test]
fn a_process_alone_meets_itself() {
    let scratch = Scratch::new();
    let one = join(&run_directory(&scratch), "one");
    let (subscription, publishers) = one.subscribe("a");
    assert_eq!(publishers, 0);
    let (_, matched) = one.publish("a");
    assert_eq!(matched, [one.process]);
    one.until_seated(subscription, 1);
}

#[test]
fn what_is_taken_back_is_not_found_any_more() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let (one, other) = (join(&directory, "one"), join(&directory, "other"));
    for taker in [&one, &other] {
        let (port, _) = taker.publish("a");
        let (subscription, publishers) = taker.subscribe("a");
        assert_eq!(publishers, 1);
        taker.control.unpublish(port);
        taker.control.unsubscribe(subscription);
        let (last_subscription, publishers) = taker.subscribe("a");
        assert_eq!(publishers, 0, "the publisher was taken back");
        let (last, matched) = taker.publish("a");
        assert_eq!(matched, [taker.process], "of two subscriptions one was taken back");
        taker.control.unpublish(last);
        taker.control.unsubscribe(last_subscription);
    }
}

#[test]
fn after_a_clean_end_only_the_empty_lock_remains() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let one = join(&directory, "one");
    let other = join(&directory, "other");
    one.control.close();
    other.control.close();
    assert_eq!(files(&directory), ["test.lock"]);
    assert_eq!(std::fs::metadata(directory.join("test.lock")).unwrap().len(), 0);
    let again = join(&directory, "again");
    assert!(again.control.is_holder());
    drop(again);
    assert_eq!(files(&directory), ["test.lock"]);
}

#[test]
fn a_holder_that_leaves_hands_over_and_nothing_is_lost() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let (one, two, three) = (join(&directory, "one"), join(&directory, "two"), join(&directory, "three"));
    let (subscription, _) = three.subscribe("a.>");
    two.publish("a.two");
    one.publish("a.one");
    three.until_seated(subscription, 2);
    one.control.close();
    until("one of the two takes over", || two.control.is_holder() || three.control.is_holder());
    three.ports.until("the leaving is told", |told| told.gone.contains(&one.process));
    assert_eq!(three.member_names(), ["three", "two"]);
    let (_, matched) = two.publish("a.later");
    assert_eq!(matched, [three.process], "the subscription was registered again");
    three.until_seated(subscription, 3);
    assert_eq!(join(&directory, "four").subscribe("a.>").1, 2, "so were the publishers");
}

#[test]
fn a_process_that_wants_the_role_gets_it_handed_over() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let (one, two) = (join(&directory, "one"), join(&directory, "two"));
    one.publish("a");
    let (subscription, _) = two.subscribe("a");
    two.until_seated(subscription, 1);
    let mut wanted = settings(&directory, "up");
    wanted.role = Role::Take;
    let up = start(wanted).unwrap();
    assert!(up.control.is_holder(), "`start` returns when it holds");
    one.ports.until("the old holder lets go", |_| !one.control.is_holder());
    let (_, matched) = one.publish("a");
    assert_eq!(matched, [two.process]);
    two.until_seated(subscription, 2);
    assert_eq!(two.member_names(), ["one", "two", "up"]);
    for member in [&one, &two] {
        assert_eq!(member.ports.told.lock().unwrap().domains, 0, "the domain segment stays the same");
    }
}

#[test]
fn a_free_rendezvous_is_had_within_milliseconds() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let mut taken_ns = Vec::new();
    for _ in 0..20 {
        let before = monotonic_ns();
        let one = join(&directory, "one");
        taken_ns.push(monotonic_ns() - before);
        drop(one);
    }
    taken_ns.sort_unstable();
    // 100 ms is what waiting for orphans would cost; the figure itself belongs into a benchmark.
    assert!(taken_ns[10] < 50_000_000, "the median start takes {} us", taken_ns[10] / 1_000);
}

#[test]
fn an_idle_process_ticks_four_times_a_second_and_a_poke_comes_at_once() {
    let scratch = Scratch::new();
    let one = join(&run_directory(&scratch), "one");
    one.ports.until("it ticks", |told| told.ticks >= 2);
    let (before, since) = (one.ports.told.lock().unwrap().ticks, monotonic_ns());
    one.ports.until("it ticks", |told| told.ticks >= before + 3);
    assert!(monotonic_ns() - since >= 500_000_000, "three ticks are at least two whole intervals");
    let before = one.ports.told.lock().unwrap().ticks;
    one.control.poke();
    one.ports.until("a poke is a tick", |told| told.ticks > before);
}

#[test]
fn a_closed_control_plane_answers_closed_and_wakes_who_waits() {
    let scratch = Scratch::new();
    let one = join(&run_directory(&scratch), "one");
    one.control.close();
    one.control.close();
    assert_eq!(one.try_publish("a", patience()).unwrap_err().code(), Code::Closed);
    assert_eq!(one.control.members(patience()).unwrap_err().code(), Code::Closed);
    one.control.unpublish(next_port());
    one.control.poke();
    assert!(!one.control.is_holder());
}

#[test]
fn names_that_break_the_grammar_are_refused_before_anything_is_made() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let mut bad = settings(&directory, "one");
    bad.domain = "../out".to_owned();
    assert_eq!(start(bad).err().map(|error| error.code()), Some(Code::BadDomain));
    assert_eq!(start(settings(&directory, "a\nb")).err().map(|error| error.code()), Some(Code::BadSetting));
    assert!(!directory.exists());
}

#[test]
fn what_dead_members_had_reserved_is_given_back() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let (one, other) = (join(&directory, "one"), join(&directory, "other"));
    // As a member would leave it that died between reserving and committing.
    other.control.domain().ledger().reserve(1 << 20).unwrap();
    let domain = one.control.domain();
    one.ports.until("the ledger is repaired", |_| domain.ledger().reserved() < 1 << 20);
    assert!(domain.ledger().reserved() > 0, "what living members have stays reserved");
}

#[test]
fn what_dead_members_had_reserved_is_given_back_while_others_go_on_reserving() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let one = join(&directory, "one");
    let domain = one.control.domain();
    domain.ledger().correct(-(1 << 40));
    let deadline = super::patience();
    while domain.ledger().reserved() >= 1 << 40 {
        assert!(!deadline.expired(), "the ledger never stands still, and is not repaired");
        domain.ledger().correct(-1); // somebody reserves
        std::thread::yield_now();
    }
}

#[test]
fn many_members_and_ports_find_each_other() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let members: Vec<_> = (0..8).map(|n| join(&directory, &format!("m{n}"))).collect();
    let subscriptions: Vec<_> = members.iter().map(|member| member.subscribe(">").0).collect();
    for member in &members {
        for n in 0..50 {
            let (_, matched) = member.publish(&format!("t{n}"));
            assert_eq!(matched.len(), 8);
        }
    }
    for (member, subscription) in members.iter().zip(subscriptions) {
        member.until_seated(subscription, 8 * 50);
    }
}

#[test]
fn a_start_gives_up_at_its_deadline_where_the_lock_is_held_and_nobody_listens() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let opened = crate::directory::Directory::open(&directory, crate::directory::Realm::User).unwrap();
    let domain = crate::directory::DomainName::new("test").unwrap();
    let lock = crate::control::lock::LockFile::open(&opened, &domain).unwrap();
    assert!(lock.try_take().unwrap());
    lock.describe(&crate::control::lock::Note { pid: 4_242, name: "stuck one".to_owned(), members: 0 });
    let mut hasty = settings(&directory, "two");
    hasty.timeout = Duration::from_millis(200);
    let deadline = Deadline::after(super::PATIENCE);
    let error = start(hasty).err().expect("nobody answers");
    assert!(!deadline.expired());
    assert_eq!(error.code(), Code::HolderSilent);
    assert!(error.cause().contains("stuck one") && error.cause().contains("4242"), "{error}");
    assert!(error.try_().contains("4242"), "{error}");
}
