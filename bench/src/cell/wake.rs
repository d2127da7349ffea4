//! Waking processes that sleep: one (latency one way), or many (what it costs who wakes them).
//!
//! Between two messages the sender keeps its own processor busy, so that only the sleeper's has to be
//! woken. Receivers say how often they really gave their processor away, so that a side which spins
//! through the gap cannot pass for one that sleeps.

use crate::Failure;
use crate::cell::{join, outcome, partners};
use crate::clock::{now_ns, pause, process_cpu_ns, spin_until, thread_cpu_ns};
use crate::medium::{Channel, END, Medium, Quality, Receiver, Scene, Sender, letter};
use crate::outcome::{Outcome, Recorder, median};
use crate::place;
use crate::stage::Ordering;
use std::time::Duration;

/// Time between two messages to one sleeper: a hundred times a wake-up, and longer than any side spins.
const GAP_NS: u64 = 1_000_000;

/// The first side with one sleeper: stamps, sends, waits out the gap.
///
/// # Errors
/// The medium fails.
pub fn conduct_one<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.sender(Channel::There, Quality::Lossy)?;
    let partners = partners(scene)?;
    there.settle(1)?;
    scene.stage.start();
    for number in 0..scene.plan.messages {
        spin_until(now_ns() + GAP_NS);
        let mut letter = letter(number);
        letter[1] = now_ns();
        there.send(&letter)?;
    }
    spin_until(now_ns() + GAP_NS);
    there.send(&letter(END))?;
    Ok(join(outcome(), partners.finish()?))
}

/// The first side with many sleepers: wakes all, waits until all have been up and sleep again.
///
/// # Errors
/// The medium fails, or a sleeper is not woken within 240 s.
pub fn conduct_all<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let receivers = scene.plan.receivers as u64;
    let medium = M::open(scene)?;
    let mut there = medium.sender(Channel::There, Quality::Lossy)?;
    let partners = partners(scene)?;
    there.settle(scene.plan.receivers)?;
    scene.stage.start();
    let (mut cpu, mut wall, mut whole, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..scene.plan.messages {
        // All have counted themselves; now they need the time to fall asleep again.
        pause(Duration::from_millis(2) + Duration::from_micros(50) * scene.plan.receivers as u32);
        spin_until(now_ns() + GAP_NS);
        let (process_ns, thread_ns) = (process_cpu_ns(), thread_cpu_ns());
        let start_ns = now_ns();
        let mut letter = letter(number);
        letter[1] = start_ns;
        there.send(&letter)?;
        let end_ns = now_ns();
        let sent_ns = thread_cpu_ns();
        cpu.push((sent_ns - thread_ns) as f64);
        wall.push((end_ns - start_ns) as f64);
        scene.stage.wait_for(
            "receivers awake",
            (number + 1) * receivers,
            &scene.stage.board.taken.words[0],
        )?;
        // What this thread spent on waiting for them is not the medium's.
        let waiting_ns = thread_cpu_ns() - sent_ns;
        whole.push((process_cpu_ns() - process_ns).saturating_sub(waiting_ns) as f64);
        let awake = scene.stage.board.partners.iter().take(scene.plan.receivers);
        let awake_ns = awake.map(|line| line.words[0].load(Ordering::Acquire)).max().unwrap_or(start_ns);
        last.push(awake_ns.saturating_sub(start_ns) as f64);
    }
    pause(Duration::from_millis(5));
    there.send(&letter(END))?;
    let own = outcome()
        .with("wake_cpu_ns", median(&cpu))
        .with("wake_wall_ns", median(&wall))
        .with("wake_process_cpu_ns", median(&whole))
        .with("last_awake_ns", median(&last));
    let mut joined = join(own, partners.finish()?);
    joined.latency = None; // One receiver's own view says nothing about all.
    Ok(joined)
}

/// The second side: sleeps, and says when it woke.
///
/// # Errors
/// The medium fails, or nothing comes for 20 s.
pub fn partner<M: Medium>(scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.receiver(Channel::There, Quality::Lossy)?;
    scene.stage.ready_and_wait()?;
    let line = &scene.stage.board.partners[index];
    let mut recorder = Recorder::new();
    let mut taken = 0_u64;
    let slept_before = place::voluntary_switches();
    loop {
        let Some(letter) = there.sleep(Duration::from_secs(20))? else {
            return Err("nothing came for 20 s".into());
        };
        if letter[0] == END {
            break;
        }
        let now = now_ns();
        recorder.record(now.saturating_sub(letter[1]));
        taken += 1;
        line.words[0].store(now, Ordering::Release);
        scene.stage.board.taken.words[0].fetch_add(1, Ordering::AcqRel); // the conductor's Acquire sees the line
    }
    let slept = place::voluntary_switches() - slept_before;
    let mut own = outcome().with("slept_share", slept as f64 / taken.max(1) as f64);
    own.lost = scene.plan.messages - taken;
    own.latency = Some(recorder.latency());
    Ok(own)
}
