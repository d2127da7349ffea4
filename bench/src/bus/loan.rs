//! `send` to `recv` of a loan that was filled before the clock starts: 4 KiB against 64 MiB.
//!
//! The receiver spins, reads the first and the last byte, and stamps; the sender stamps before `send`.
//! Sizes alternate message by message. The first messages of each size go unrecorded, filled and read
//! whole, so that their chunks are mapped and touched on both sides.

use crate::Failure;
use crate::bus::join;
use crate::cell::{join as merge, outcome};
use crate::clock::{Patience, now_ns};
use crate::medium::Scene;
use crate::outcome::{Outcome, median};
use crate::partners::Partners;
use crate::stage::{Ordering, Stage};
use busway::{Policy, Publisher, Subscriber};

const SMALL: usize = 4 * 1024;
const LARGE: usize = 64 * 1024 * 1024;

/// Messages of each size that are filled and read whole before any is recorded: more than the ring's
/// chunks in turn, so that no recorded one touches a new page.
const WARM: u64 = 8;

/// How much of a loan is written before the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    Whole,
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
    let mut sent = 0;
    let mut own = outcome();
    for _ in 0..WARM {
        for size in [SMALL, LARGE] {
            sent += 1;
            once(&mut publisher, scene.stage, size, Fill::Whole, sent)?;
        }
    }
    for (fill, name) in [(Fill::Whole, "whole"), (Fill::Edges, "edges")] {
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for _ in 0..scene.plan.messages {
            sent += 1;
            small.push(once(&mut publisher, scene.stage, SMALL, fill, sent)?);
            sent += 1;
            large.push(once(&mut publisher, scene.stage, LARGE, fill, sent)?);
        }
        own = own
            .with(&format!("{name}_4kib_ns"), median(&small))
            .with(&format!("{name}_64mib_ns"), median(&large));
    }
    scene.stage.stop();
    Ok(merge(own, partners.finish()?))
}

fn once(
    publisher: &mut Publisher,
    stage: &Stage,
    size: usize,
    fill: Fill,
    number: u64,
) -> Result<f64, Failure> {
    let mut loan = publisher.loan(size)?;
    let byte = number.to_le_bytes()[0];
    if fill == Fill::Whole {
        loan.fill(byte);
    }
    loan[0] = byte;
    loan[size - 1] = byte;
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
