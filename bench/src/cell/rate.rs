//! 64 bytes at a fixed rate, timed against the moment at which each was *meant* to be sent.
//!
//! A sender that falls behind sends late, and the lateness counts: a stall shows in every message it
//! delayed, not only in one. Both sides read the same clock.

use crate::Failure;
use crate::cell::{join, outcome, partners};
use crate::clock::{now_ns, spin_until};
use crate::medium::{Channel, END, Medium, Quality, Scene, Sender, await_letter, letter};
use crate::outcome::{Outcome, Recorder};

/// The first tenth warms caches and is not recorded.
const WARM_SHARE: u64 = 10;

/// The first side: sends at the intended times.
///
/// # Errors
/// The medium fails.
pub fn conduct<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.sender(Channel::There, Quality::Lossy)?;
    let partners = partners(scene)?;
    there.settle(1)?;
    scene.stage.start();
    let begin_ns = now_ns() + 10_000_000;
    for number in 0..scene.plan.messages {
        let intended_ns = begin_ns + number * 1_000_000_000 / scene.plan.rate.max(1);
        spin_until(intended_ns);
        let mut letter = letter(number);
        letter[1] = intended_ns;
        there.send(&letter)?;
    }
    // The end must not overtake what a lossy receiver may still be reading.
    spin_until(now_ns() + 1_000_000);
    there.send(&letter(END))?;
    Ok(join(outcome(), partners.finish()?))
}

/// The second side: records how long after its intended time each letter was in hand.
///
/// # Errors
/// The medium fails, or the first side falls silent.
pub fn partner<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.receiver(Channel::There, Quality::Lossy)?;
    scene.stage.ready_and_wait()?;
    let mut recorder = Recorder::new();
    let mut received = 0;
    loop {
        let letter = await_letter(&mut there)?;
        if letter[0] == END {
            break;
        }
        let late_ns = now_ns().saturating_sub(letter[1]);
        received += 1;
        if letter[0] >= scene.plan.messages / WARM_SHARE {
            recorder.record(late_ns);
        }
    }
    let mut own = outcome();
    own.lost = scene.plan.messages - received;
    own.latency = Some(recorder.latency());
    Ok(own)
}
