//! The segment that all members map: what passes for one, and whether it wakes across processes.
//!
//! A test that needs a process of its own starts this test binary again with `--exact
//! domain::tests::child_process`, a variable that says what to do, and the segment as its standard input.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::bell::Slept;
use crate::clock::{Deadline, monotonic_ns};

const PART: &str = "BUSWAY_TEST_DOMAIN";
const ROUNDS: u64 = 5_000;

fn dup(domain: &Domain) -> OwnedFd {
    domain.fd().try_clone_to_owned().unwrap()
}

fn header(domain: &Domain) -> &DomainHeader {
    domain.mapping.get(0).unwrap()
}

#[test]
fn members_share_bell_and_ledger() {
    let maker = Domain::create(1 << 20).unwrap();
    let member = Domain::map(dup(&maker)).unwrap();
    assert_eq!(member.ledger().budget(), 1 << 20);
    maker.ledger().reserve(1000).unwrap();
    assert_eq!(member.ledger().reserved(), 1000);
    drop(member.bell().prepare(LINES - 1));
    assert!(maker.bell().needs_ring(LINES - 1));
    maker.bell().ring(LINES - 1);
    assert!(!member.bell().needs_ring(LINES - 1));
}

#[test]
fn whole_segment_is_committed_before_anybody_touches_it() {
    let domain = Domain::create(1).unwrap();
    assert_eq!(memfd::committed(domain.fd()).unwrap(), SIZE, "a touch must not need memory any more");
}

#[test]
fn segment_with_an_altered_header_is_refused() {
    let maker = Domain::create(1 << 20).unwrap();
    header(&maker).magic.store(1, Ordering::Release);
    assert_eq!(Domain::map(dup(&maker)).unwrap_err(), ShmError::Magic { found: 1 });
    header(&maker).magic.store(MAGIC, Ordering::Release);
    let theirs = layout_hash() ^ 1;
    header(&maker).layout.store(theirs, Ordering::Release);
    assert_eq!(Domain::map(dup(&maker)).unwrap_err(), ShmError::Layout { theirs, ours: layout_hash() });
    header(&maker).layout.store(layout_hash(), Ordering::Release);
    Domain::map(dup(&maker)).expect("the header is as it was");
}

#[test]
fn segment_that_is_none_is_refused() {
    let sealed = |size: u64| {
        let fd = memfd::create_arena("test", size).unwrap();
        let mapping = Mapping::map_rw(&fd, 4096).unwrap();
        mapping.word_u64(0).unwrap().store(MAGIC, Ordering::Relaxed);
        mapping.word_u64(8).unwrap().store(layout_hash(), Ordering::Relaxed);
        memfd::seal(&fd, SealKind::Shared).unwrap();
        fd
    };
    assert!(matches!(Domain::map(sealed(SIZE - 4096)), Err(ShmError::WrongSize { .. })), "too short");
    assert!(matches!(Domain::map(sealed(SIZE + 4096)), Err(ShmError::WrongSize { .. })), "too long");
    let tiny = memfd::create_arena("test", 64).unwrap();
    memfd::seal(&tiny, SealKind::Shared).unwrap();
    assert!(matches!(Domain::map(tiny), Err(ShmError::WrongSize { .. })), "shorter than a header");
    let unsealed = memfd::create_arena("test", SIZE).unwrap();
    assert!(matches!(Domain::map(unsealed), Err(ShmError::NotSealed { .. })));
    let maker = Domain::create(1).unwrap();
    let read_only = memfd::reopen_read_only(maker.fd()).unwrap();
    assert!(matches!(Domain::map(read_only), Err(ShmError::WrongAccess { .. })));
}

#[test]
fn budget_cannot_be_changed_under_a_member() {
    let maker = Domain::create(1000).unwrap();
    let member = Domain::map(dup(&maker)).unwrap();
    header(&maker).budget.store(u64::MAX, Ordering::Release);
    assert_eq!(member.ledger().budget(), 1000);
    assert!(member.ledger().reserve(1001).is_err());
    assert_eq!(Domain::map(dup(&maker)).unwrap().ledger().budget(), BUDGET_MAX, "an absurd one is cut");
}

#[test]
fn member_without_membarrier_is_said_to_all() {
    let domain = Domain::create(1).unwrap();
    let member = Domain::map(dup(&domain)).unwrap();
    assert_eq!(full_fences(&domain), 0);
    member.bell().demand_full_fences();
    assert_eq!(full_fences(&domain), 1, "all others must pass full fences from now on");
}

fn full_fences(domain: &Domain) -> u32 {
    let offset = LINES_OFFSET + Line::OFFSETS[3];
    domain.mapping.word_u32(offset).unwrap().load(Ordering::SeqCst)
}

/// Two words in the page between header and lines, which nothing else uses: whose turn it is.
fn turn(domain: &Domain) -> &AtomicU64 {
    domain.mapping.word_u64(2048).unwrap()
}

/// Plays ping-pong through the bell; says how often a sleep was ended by the timer with the ball there.
fn play(domain: &Domain, odd: u64) -> u64 {
    let (bell, turn) = (domain.bell(), turn(domain));
    let (my_line, their_line) = if odd == 1 { (1, 2) } else { (2, 1) };
    let deadline = Deadline::after(Duration::from_secs(120));
    let mut late = 0;
    for round in 0..ROUNDS {
        let mine = 2 * round + odd;
        while turn.load(Ordering::Acquire) != mine {
            let sleeper = bell.prepare(my_line);
            if turn.load(Ordering::Acquire) == mine {
                break;
            }
            let before_ns = monotonic_ns();
            let slept = sleeper.wait(None);
            let whole = monotonic_ns() - before_ns >= 1_000_000_000;
            late += u64::from(slept == Slept::TimedOut && whole && turn.load(Ordering::Acquire) == mine);
            assert!(!deadline.expired(), "the other side has stopped playing");
        }
        turn.store(mine + 1, Ordering::Release);
        bell.ring(their_line);
    }
    late
}

#[test]
fn child_process() {
    let Ok(part) = std::env::var(PART) else { return };
    if part == "without membarrier" {
        crate::sys::force_fallbacks();
    }
    let domain = Domain::map(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(domain.fences == Fences::Full, part == "without membarrier");
    assert_eq!(play(&domain, 1), 0, "a wake-up was lost");
}

#[test]
fn wake_ups_cross_processes_and_none_is_lost_in_any_mix_of_fences() {
    if !barrier::register() {
        return;
    }
    for part in ["with membarrier", "without membarrier"] {
        let domain = Domain::create(1 << 20).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "domain::tests::child_process", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .stdin(dup(&domain))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let late = play(&domain, 0);
        assert_eq!(late, 0, "{part}: wake-ups were lost");
        assert!(child.wait_with_output().unwrap().status.success(), "{part}: the other side failed");
        assert_eq!(full_fences(&domain) == 1, part == "without membarrier");
    }
}
