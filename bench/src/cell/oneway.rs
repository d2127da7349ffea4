//! 64 bytes one way, both sides spinning, or both asleep until a letter comes: ping-pong, halved.
//!
//! Two phases. In the first the clock is read once a block of round trips, so that reading it costs
//! nothing; the figure is the middle block. In the second every round trip is timed, for the distribution.

use crate::Failure;
use crate::cell::{join, outcome, partners};
use crate::clock::now_ns;
use crate::medium::{
    Channel, END, Letter, Medium, Quality, Receiver, Scene, Sender, await_asleep, await_letter, letter,
};
use crate::outcome::{Outcome, Recorder, median};

/// Round trips between two looks at the clock: some hundred microseconds, so that a preemption spoils few blocks.
const BLOCK: u64 = 500;

/// How a side waits in a cell.
fn wait<R: Receiver>(scene: &Scene<'_>) -> fn(&mut R) -> Result<Letter, Failure> {
    if scene.plan.cell == "oneway-asleep" { await_asleep } else { await_letter }
}

/// The first side: sends, waits for the answer, keeps time.
///
/// # Errors
/// The medium fails, or the partner falls silent.
pub fn conduct<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut back = medium.receiver(Channel::Back, Quality::Lossy)?;
    let mut there = medium.sender(Channel::There, Quality::Lossy)?;
    let partners = partners(scene)?;
    there.settle(1)?;
    scene.stage.start();

    let mut number = 0;
    let wait = wait(scene);
    let mut trip = || -> Result<(), Failure> {
        number += 10;
        there.send(&letter(number))?;
        let answer = wait(&mut back)?;
        if answer[0] != number + 1 {
            return Err(format!("sent {number}, answered {}", answer[0]).into());
        }
        Ok(())
    };
    let blocks = (scene.plan.messages / BLOCK).max(3);
    for _ in 0..blocks.div_ceil(5) * BLOCK {
        trip()?;
    }
    let mut means = Vec::new();
    for _ in 0..blocks {
        let start_ns = now_ns();
        for _ in 0..BLOCK {
            trip()?;
        }
        means.push((now_ns() - start_ns) as f64 / (2 * BLOCK) as f64);
    }
    let mut recorder = Recorder::new();
    let mut before_ns = now_ns();
    for _ in 0..blocks * BLOCK {
        trip()?;
        let now = now_ns();
        recorder.record((now - before_ns) / 2);
        before_ns = now;
    }
    there.send(&letter(END))?;
    let mut own = outcome().with("one_way_ns", median(&means));
    own.latency = Some(recorder.latency());
    Ok(join(own, partners.finish()?))
}

/// The second side: answers each letter with one whose words are each one more.
///
/// # Errors
/// The medium fails, or the first side falls silent.
pub fn partner<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.receiver(Channel::There, Quality::Lossy)?;
    let mut back = medium.sender(Channel::Back, Quality::Lossy)?;
    back.settle(1)?;
    scene.stage.ready_and_wait()?;
    let wait = wait(scene);
    loop {
        let letter = wait(&mut there)?;
        if letter[0] == END {
            return Ok(outcome());
        }
        back.send(&letter.map(|word| word + 1))?;
    }
}
