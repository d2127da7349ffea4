//! `send` to `recv` of a loan that was filled before the clock starts: 4 KiB against 64 MiB.
//!
//! The receiver spins, reads the first and the last byte, and stamps; the sender stamps before `send`.
//! Sizes alternate message by message. The first messages of each size go unrecorded, filled and read
//! whole, so that their chunks are mapped and touched on both sides.
//!
//! Filling 64 MiB drives everything else out of the sender's caches, and what `send` then touches comes
//! from afar. To tell that from the message's size, small messages are sent in the same state as well:
//! their sender has just filled 64 MiB of other memory, an unsent loan.

use crate::Failure;
use crate::bus::join;
use crate::cell::{join as merge, outcome};
use crate::clock::{Patience, now_ns};
use crate::medium::Scene;
use crate::outcome::{Outcome, median};
use crate::partners::Partners;
use crate::stage::{Ordering, Stage};
use busway::{Policy, Publisher, Subscriber};
use std::sync::atomic::fence;

const SMALL: usize = 4 * 1024;
const LARGE: usize = 64 * 1024 * 1024;

/// Messages of each size that are filled and read whole before any is recorded: more than the ring's
/// chunks in turn, so that no recorded one touches a new page.
const WARM: u64 = 8;

/// Runs of 64 MiB of other memory: as many as the large messages lie in by turns, so that neither the one nor the other is
/// found in a cache when it is filled.
const OTHERS: usize = 6;

/// How much of a loan is written before the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// All of it.
    Whole,
    /// All of it, and then 64 MiB of other memory.
    WholeThenOther,
    /// The first and the last byte.
    Edges,
}

/// The first side: fills, stamps, sends, waits until the other has seen it.
///
/// # Errors
/// The bus fails, or has not the memory.
pub fn conduct(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    // Four slots: a ring of the usual depth would hold gigabytes of 64 MiB messages.
    let mut publisher = bus.publisher("bench.loan").slots_max(4).bytes_max(6 * LARGE as u64).open()?;
    let partners = Partners::start(scene, 1)?;
    scene.stage.wait_ready(1)?;
    publisher.wait_for_subscribers(1, crate::bus::PATIENCE)?;
    scene.stage.start();
    // As much memory of the same kind as the large messages have, taken in turns as theirs is: loans that are never sent.
    let mut owners = Vec::new();
    for _ in 0..OTHERS {
        owners.push(bus.publisher("bench.other").open()?);
    }
    let mut others = Vec::new();
    for owner in &mut owners {
        others.push(owner.loan(LARGE)?);
    }
    let (mut sent, mut turn) = (0, 0);
    let mut once = |size, fill| {
        sent += 1;
        turn += usize::from(fill == Fill::WholeThenOther);
        let other = &mut others[turn % OTHERS];
        once(&mut publisher, other, scene.stage, size, fill, sent)
    };
    for _ in 0..WARM {
        for size in [SMALL, LARGE] {
            once(size, Fill::WholeThenOther)?;
        }
    }
    let cells = [
        ("whole_4kib_ns", SMALL, Fill::Whole),
        ("whole_64mib_ns", LARGE, Fill::Whole),
        ("whole_4kib_then_other_ns", SMALL, Fill::WholeThenOther),
        ("edges_4kib_ns", SMALL, Fill::Edges),
        ("edges_64mib_ns", LARGE, Fill::Edges),
    ];
    let (whole, edges) = cells.split_at(3);
    let mut own = outcome();
    for cells in [whole, edges] {
        let mut taken = vec![Vec::new(); cells.len()];
        for _ in 0..scene.plan.messages {
            for ((_, size, fill), taken) in cells.iter().zip(&mut taken) {
                taken.push(once(*size, *fill)?);
            }
        }
        for ((name, ..), taken) in cells.iter().zip(&taken) {
            own = own.with(name, median(taken));
        }
    }
    scene.stage.stop();
    Ok(merge(own, partners.finish()?))
}

fn once(
    publisher: &mut Publisher,
    other: &mut [u8],
    stage: &Stage,
    size: usize,
    fill: Fill,
    number: u64,
) -> Result<f64, Failure> {
    let mut loan = publisher.loan(size)?;
    let byte = number.to_le_bytes()[0];
    if fill != Fill::Edges {
        loan.fill(byte);
    }
    if fill == Fill::WholeThenOther {
        other.fill(byte);
        core::hint::black_box(other);
    }
    loan[0] = byte;
    loan[size - 1] = byte;
    // Filled is what has left the processor's buffer of stores: else the first part of the time is the fill's.
    fence(Ordering::SeqCst);
    let start_ns = now_ns();
    loan.send()?;
    let mut patience = Patience::new();
    while stage.board.taken.words[0].load(Ordering::Acquire) < number {
        if !patience.turn() {
            return Err("the receiver is silent".into());
        }
    }
    Ok(stage.board.taken.words[2].load(Ordering::Acquire).saturating_sub(start_ns) as f64)
}

/// The second side: reads first and last byte, stamps, and of the first messages reads all.
///
/// # Errors
/// The bus fails, or a byte is not what was written.
pub fn partner(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let mut subscriber = bus.subscriber("bench.loan").policy(Policy::Block).open()?;
    scene.stage.ready_and_wait()?;
    let mut taken = 0_u64;
    while !scene.stage.stopped() {
        take(&mut subscriber, scene.stage, &mut taken)?;
    }
    Ok(outcome())
}

fn take(subscriber: &mut Subscriber, stage: &Stage, taken: &mut u64) -> Result<(), Failure> {
    let now = {
        // Released before the sender goes on: each message finds the same chunks free.
        let Some(sample) = subscriber.try_recv()? else { return Ok(()) };
        let (first, last) = (sample[0], sample[sample.len() - 1]);
        let now = now_ns();
        *taken += 1;
        let expected = taken.to_le_bytes()[0];
        if (first, last) != (expected, expected) {
            return Err(format!("message {taken} begins with {first} and ends with {last}").into());
        }
        if *taken <= 2 * WARM {
            core::hint::black_box(sample.iter().fold(0_u64, |sum, byte| sum + u64::from(*byte)));
        }
        now
    };
    stage.board.taken.words[2].store(now, Ordering::Release);
    stage.board.taken.words[0].store(*taken, Ordering::Release); // pairs with Acquire in `once`
    Ok(())
}
