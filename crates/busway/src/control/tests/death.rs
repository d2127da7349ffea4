//! Processes that are killed or stopped at bad moments.

use super::child::{Child, hasty, until};
use super::{PATIENCE, Told, files, join, run_directory};
use crate::control::scratch::Scratch;
use crate::control::{Role, Watched};
use crate::error::Code;
use busway_shm::clock::{Deadline, monotonic_ns};
use std::time::Duration;

#[test]
fn a_killed_holder_is_followed_by_a_member_with_all_registrations() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let mut holder = Child::join(&directory, "holder");
    assert_eq!(holder.ask("pub a.holder"), "0");
    let (one, two) = (join(&directory, "one"), join(&directory, "two"));
    one.publish("a.one");
    let (subscription, publishers) = two.subscribe("a.>");
    assert_eq!(publishers, 2);
    two.until_seated(subscription, 2);
    holder.kill();
    two.ports.until("its death is told", |told| told.gone == [holder.process]);
    until("somebody takes over", || one.control.is_holder() || two.control.is_holder());
    assert_eq!(one.member_names(), ["one", "two"]);
    let three = join(&directory, "three");
    until("the registrations are complete", || {
        let (port, publishers) = three.subscribe("a.>");
        three.control.unsubscribe(port);
        publishers == 1
    });
    let (_, matched) = three.publish("a.three");
    assert_eq!(matched, [two.process]);
    two.until_seated(subscription, 3);
    assert_eq!(two.ports.told.lock().unwrap().domains, 0, "the domain segment stays the same");
}

#[test]
fn take_over_follows_take_over() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let mut next = Child::join(&directory, "first");
    let one = join(&directory, "one");
    let (subscription, _) = one.subscribe("a");
    for round in 0..5 {
        // The newcomer wants nothing; who takes over is between the two, so the test's member is asked to let go.
        let mut newcomer = Child::join(&directory, "next");
        next.kill();
        until("one of the two takes over", || {
            one.control.is_holder() || one.member_names() == ["next", "one"]
        });
        assert_eq!(newcomer.ask("pub a"), "1", "round {round}");
        one.until_seated(subscription, round + 1);
        next = newcomer;
    }
}

#[test]
fn a_stopped_holder_is_named_within_the_time_out_and_stops_nobody_from_leaving() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let holder = Child::join(&directory, "stopped one");
    let member = join(&directory, "member");
    holder.stop();
    let pid = holder.pid.as_raw_nonzero().to_string();
    for role in [Role::WhereFree, Role::Take] {
        let error = hasty(&directory, role, 300).err().expect("the holder does not answer");
        assert_eq!(error.code(), Code::HolderSilent);
        assert!(error.cause().contains("stopped one") && error.cause().contains(&pid), "{error}");
        assert!(error.cause().ends_with("is stopped") && error.try_().contains("kill -CONT"), "{error}");
    }
    let error = member.try_publish("a", Deadline::after(Duration::from_millis(100))).unwrap_err();
    assert_eq!(error.code(), Code::HolderSilent);
    assert!(error.cause().contains(&pid), "{error}");
    let before = monotonic_ns();
    member.control.close();
    assert!(monotonic_ns() - before < 1_000_000_000, "leaving waits for no other process");
}

#[test]
fn a_stopped_holder_that_is_killed_is_followed_by_who_waited_for_it() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let holder = Child::join(&directory, "holder");
    holder.stop();
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| join(&directory, "waiting"));
        holder.kill();
        waiting.join().unwrap()
    });
    assert!(waiting.control.is_holder());
}

#[test]
fn a_stopped_holder_goes_on_where_it_was() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let mut holder = Child::join(&directory, "holder");
    let member = join(&directory, "member");
    holder.stop();
    member.try_publish("a", Deadline::after(Duration::from_millis(50))).expect_err("nobody answers");
    holder.go_on();
    assert_eq!(member.subscribe("a").1, 0, "what was given up was taken back");
    assert_eq!(holder.ask("pub a"), "1");
}

#[test]
fn a_hundred_members_killed_at_once_leave_no_registrations() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let holder = join(&directory, "holder");
    let (subscription, _) = holder.subscribe(">");
    let mut members: Vec<Child> = (0..100).map(|_| Child::spawn(&directory, "same")).collect();
    for member in &mut members {
        member.joined();
        member.tell("sub a");
    }
    for member in &mut members {
        member.answer();
        member.tell("pub a");
    }
    for member in &members {
        member.answer();
    }
    holder.until_seated_at_least(subscription, 100);
    for member in &members {
        member.kill();
    }
    holder.ports.until("all deaths are told", |told| told.gone.len() == 100);
    assert_eq!(holder.member_names(), ["holder"]);
    let (_, matched) = holder.publish("a");
    assert_eq!(matched, [holder.process]);
    assert_eq!(holder.subscribe("a").1, 1, "the one of the holder itself");
}

#[test]
fn what_a_killed_member_had_reserved_is_free_when_its_death_is_told() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let holder = join(&directory, "holder");
    let domain = holder.control.domain();
    until("the holder's own memory is in the ledger", || domain.ledger().reserved() > 0);
    let alone = domain.ledger().reserved();
    let member = Child::join(&directory, "member");
    until("the member's memory is in the ledger", || domain.ledger().reserved() > alone);
    member.kill();
    holder.ports.until("its death is told", |told| told.gone == [member.process]);
    assert_eq!(domain.ledger().reserved(), alone);
}

#[test]
fn the_holder_and_a_member_killed_at_once_are_both_forgotten() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let mut holder = Child::join(&directory, "same");
    let mut member = Child::join(&directory, "same");
    let survivor = join(&directory, "same");
    let (subscription, _) = survivor.subscribe("a");
    holder.ask("pub a");
    member.ask("pub a");
    survivor.until_seated(subscription, 2);
    holder.kill();
    member.kill();
    survivor.until_holder();
    survivor.ports.until("both deaths are told", |told| told.gone.len() == 2);
    assert_eq!(survivor.subscribe("a").1, 0);
    assert_eq!(survivor.member_names(), ["same"]);
}

#[test]
fn a_stale_socket_is_replaced_and_cleaned_up() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let mut last = Child::join(&directory, "last");
    assert_eq!(last.ask("hold"), "holds");
    last.kill();
    drop(last);
    assert_eq!(files(&directory), ["test.lock", "test.sock"], "a killed process leaves the name");
    let next = join(&directory, "next");
    assert!(next.control.is_holder());
    drop(next);
    assert_eq!(files(&directory), ["test.lock"]);
}

#[test]
fn an_orphan_that_was_stopped_too_long_switches_to_the_segment_of_the_next_holder() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let holder = Child::join(&directory, "holder");
    let mut orphan = Child::join(&directory, "orphan");
    orphan.ask("pub a");
    orphan.stop();
    holder.kill();
    drop(holder);
    let before = monotonic_ns();
    let next = join(&directory, "next");
    assert!(next.control.is_holder(), "it does not wait for ever");
    assert!(monotonic_ns() - before >= 100_000_000, "but leaves the orphans their time");
    orphan.go_on();
    assert_eq!(orphan.ask("domain-changed"), "changed");
    let (subscription, _) = next.subscribe("a");
    next.until_seated(subscription, 1);
    assert_eq!(next.ports.told.lock().unwrap().domains, 0, "the holder's own stays");
}

#[test]
fn an_orphan_that_lives_takes_over_before_a_newcomer() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    for _ in 0..5 {
        let holder = Child::join(&directory, "holder");
        let orphan = join(&directory, "orphan");
        holder.kill();
        let newcomer = join(&directory, "newcomer");
        orphan.until_holder();
        assert!(!newcomer.control.is_holder());
        assert_eq!(orphan.ports.told.lock().unwrap().domains, 0);
    }
}

#[test]
fn a_holder_without_descriptors_lets_newcomers_wait_and_recovers() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let mut holder = Child::join(&directory, "holder");
    let member = join(&directory, "member");
    holder.ask("descriptors 0");
    let error = hasty(&directory, Role::WhereFree, 300).err().expect("there is no descriptor for it");
    assert!(matches!(error.code(), Code::HolderSilent | Code::Descriptors), "{error}");
    assert!(error.cause().contains("descriptor") && !error.try_().contains("kill"), "{error}");
    member.publish("a");
    assert_eq!(member.subscribe("a").1, 1, "who is in goes on");
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| join(&directory, "waiting"));
        holder.ask("descriptors 100");
        waiting.join().unwrap()
    });
    assert!(!waiting.control.is_holder());
    assert_eq!(waiting.subscribe("a").1, 1);
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
fn a_member_that_has_no_descriptor_for_a_publisher_comes_again_once_a_tick_until_it_has() {
    const TICKS: u64 = 8;
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let holder = join(&directory, "holder");
    let mut member = Child::join(&directory, "member");
    member.ask("sub a");
    member.ask("one-descriptor");
    holder.control.watch().unwrap();
    // The holder hears of the subscription once at first, and again each time that the member has come again.
    let heard = |told: &Told| told.watched.iter().filter(|it| matches!(it, Watched::Wanted { .. })).count();
    holder.ports.until("it subscribes", |told| heard(told) == 1);
    assert_eq!(holder.publish("a").1, [member.process]);
    holder.ports.until("it does not come again", |told| heard(told) > 1);
    let ticks = holder.ports.told.lock().unwrap().ticks;
    holder.ports.until("it ticks", |told| told.ticks >= ticks + TICKS);
    let came = {
        let told = holder.ports.told.lock().unwrap();
        assert!(told.seats.is_empty(), "it had descriptors: {told:?}");
        heard(&told) - 1
    };
    assert!(came <= 2 * TICKS as usize, "it came {came} times in {TICKS} ticks");
    member.ask("descriptors 100");
    holder.ports.until("it has no seat", |told| told.seats.iter().any(|(who, _)| *who == member.process));
    println!("evidence: came={came} ticks={TICKS}");
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
fn a_member_that_cannot_map_a_publisher_for_a_while_comes_again_until_it_can() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let holder = join(&directory, "holder");
    let mut member = Child::join(&directory, "member");
    member.ask("sub a");
    member.ask("address-space full");
    holder.control.watch().unwrap();
    let heard = |told: &Told| told.watched.iter().filter(|it| matches!(it, Watched::Wanted { .. })).count();
    holder.ports.until("it subscribes", |told| heard(told) == 1);
    assert_eq!(holder.publish("a").1, [member.process]);
    holder.ports.until("it does not come again", |told| heard(told) > 2);
    assert!(holder.ports.told.lock().unwrap().seats.is_empty(), "it had room for it");
    member.ask("address-space free");
    holder.ports.until("it has no seat", |told| told.seats.iter().any(|(who, _)| *who == member.process));
    println!("evidence: came_again={}", heard(&holder.ports.told.lock().unwrap()) - 1);
}

#[test]
fn a_process_that_leaves_while_the_holder_dies_cleans_up() {
    let scratch = Scratch::new();
    let directory = run_directory(&scratch);
    let holder = Child::join(&directory, "holder");
    let member = join(&directory, "member");
    holder.stop();
    holder.kill();
    member.until_holder();
    drop(member);
    assert_eq!(files(&directory), ["test.lock"]);
    assert!(Deadline::after(PATIENCE).remaining().is_some());
}
