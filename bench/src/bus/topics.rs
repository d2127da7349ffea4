//! Many topics: one process publishes on all of them, a hundred subscribers want all of them.
//!
//! `size` topics and `receivers` subscribers, each with one pattern, in as few processes as the rows of a process allow.
//! What is told is processor time, which the other processes of a busy machine cannot lengthen: of the publishing
//! thread for a message, and of all threads of the subscribers' processes for a message that one of them takes, their
//! looks for messages included. Over a link the first partner has the node of the other domain. The cost of a look that
//! finds nothing is told beside it, since that is what grows first where it is paid for each topic.

use crate::Failure;
use crate::bus::link::Link;
use crate::bus::{PATIENCE, directory, join};
use crate::cell::outcome;
use crate::clock::{now_ns, pause, process_cpu_ns, thread_cpu_ns};
use crate::floor::rings::{TURN, processes};
use crate::medium::{Medium, Scene};
use crate::outcome::Outcome;
use crate::partners::Partners;
use crate::stage::Ordering;
use busway::{Bus, Policy, Publisher, Subscriber};
use std::fs;
use std::time::Duration;

/// Slots of each ring at most: ten thousand rings are many, and each holds a few messages.
const SLOTS_MAX: u32 = 64;

/// Looks that find nothing, for their cost: so many that those which look for ends come as often as in life.
const LOOKS: u64 = 100_000;

const PAYLOAD: [u8; 64] = [7; 64];

/// Words of the stage's `taken`: messages, subscriptions that are whole, processor time of the receiving side, cost of its
/// looks, its memory.
const TAKEN: usize = 0;
const WHOLE: usize = 2;
const CPU: usize = 3;
const LOOK: usize = 4;
const MEMORY: usize = 5;

fn is_link(scene: &Scene<'_>) -> bool {
    scene.plan.side.starts_with("link")
}

/// The first side: opens the topics, waits for all subscribers, publishes round-robin.
///
/// # Errors
/// The bus fails.
pub fn conduct(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let (topics, ports) = (scene.plan.size, scene.plan.receivers as u64);
    let (_link, bus) = open(scene, true)?;
    let before = resident()?;
    let start_ns = now_ns();
    let mut publishers = Vec::new();
    for number in 0..topics {
        let builder = bus.publisher(&format!("bench.topics.{number}")).slots_max(SLOTS_MAX);
        publishers.push(builder.max_wait(PATIENCE).open()?);
    }
    let open_ns = now_ns() - start_ns;
    let count = processes(scene.plan);
    let partners = Partners::start(scene, count)?;
    scene.stage.wait_ready(count)?;
    let start_ns = now_ns();
    scene.stage.start();
    let taken = &scene.stage.board.taken.words;
    scene.stage.wait_for("subscriptions", ports, &taken[WHOLE])?;
    let seats = if is_link(scene) { 1 } else { scene.plan.receivers };
    for publisher in &publishers {
        publisher.wait_for_subscribers(seats, PATIENCE)?;
    }
    let subscribe_ns = now_ns() - start_ns;
    // Each ring once, so that its memory is there.
    publish(&mut publishers, topics)?;
    scene.stage.wait_for("first messages", topics * ports, &taken[TAKEN])?;
    let publishing = resident()? - before;
    scene.stage.board.go.words[1].store(1, Ordering::Release); // pairs with Acquire in `receive`
    pause(Duration::from_millis(20));
    let (start_ns, start_cpu_ns) = (now_ns(), thread_cpu_ns());
    publish(&mut publishers, scene.plan.messages)?;
    let cpu_ns = thread_cpu_ns() - start_cpu_ns;
    let all = (topics + scene.plan.messages) * ports;
    scene.stage.wait_for("messages", all, &taken[TAKEN])?;
    let wall_ns = now_ns() - start_ns;
    scene.stage.stop();
    partners.finish()?;
    let word = |index: usize| taken[index].load(Ordering::Acquire) as f64;
    let (messages, pairs) = (scene.plan.messages as f64, (topics * ports) as f64);
    let (publish, receive) = (cpu_ns as f64 / messages, word(CPU) / (messages * ports as f64));
    Ok(outcome()
        .with("publisher_open_ns", open_ns as f64 / topics as f64)
        .with("subscribe_ns", subscribe_ns as f64 / pairs)
        .with("publish_cpu_ns", publish)
        .with("receive_cpu_ns", receive)
        .with("message_cpu_ns", publish / ports as f64 + receive)
        .with("message_wall_ns", wall_ns as f64 / messages)
        .with("empty_look_ns", word(LOOK) / count as f64)
        .with("topic_bytes", publishing as f64 / topics as f64)
        .with("subscription_bytes", word(MEMORY) / pairs))
}

fn publish(publishers: &mut [Publisher], messages: u64) -> Result<(), Failure> {
    let mut left = messages;
    while left > 0 {
        for publisher in publishers.iter_mut().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            publisher.send(&PAYLOAD)?;
            left -= 1;
        }
    }
    Ok(())
}

/// The second side: its part of the subscribers.
///
/// # Errors
/// The bus fails.
pub fn partner(scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
    let count = processes(scene.plan);
    let mine = (index..scene.plan.receivers).step_by(count).count();
    let (_link, bus) = open(scene, index == 0)?;
    let before = resident()?;
    scene.stage.ready_and_wait()?;
    let taken = &scene.stage.board.taken.words;
    let mut ports = Vec::new();
    for _ in 0..mine {
        let port = bus.subscriber("bench.topics.*").policy(Policy::Block).open()?;
        ports.push(port);
    }
    let deadline_ns = now_ns() + 240_000_000_000;
    for port in &ports {
        while (port.publishers() as u64) < scene.plan.size {
            if now_ns() > deadline_ns {
                let why = port.unread().first().map_or_else(String::new, |unread| unread.error.to_string());
                return Err(format!("{} of {} publishers; {why}", port.publishers(), scene.plan.size).into());
            }
            pause(Duration::from_millis(10));
        }
        taken[WHOLE].fetch_add(1, Ordering::AcqRel);
    }
    let cpu_ns = receive(scene, &mut ports)?;
    taken[CPU].fetch_add(cpu_ns, Ordering::AcqRel);
    taken[MEMORY].fetch_add(resident()?.saturating_sub(before), Ordering::AcqRel);
    if let Some(port) = ports.first_mut() {
        let start_ns = thread_cpu_ns();
        for _ in 0..LOOKS {
            if port.try_recv()?.is_some() {
                return Err("a message more than was sent".into());
            }
        }
        taken[LOOK].fetch_add((thread_cpu_ns() - start_ns) / LOOKS, Ordering::AcqRel);
    }
    Ok(outcome())
}

/// Takes what comes until the end. Returns the processor time of this process since the measurement began.
fn receive(scene: &Scene<'_>, ports: &mut [Subscriber]) -> Result<u64, Failure> {
    let mut began = None;
    while !scene.stage.stopped() {
        // pairs with Release in `conduct`
        if began.is_none() && scene.stage.board.go.words[1].load(Ordering::Acquire) != 0 {
            began = Some(process_cpu_ns());
        }
        let mut all = 0;
        for port in ports.iter_mut() {
            for _ in 0..TURN {
                if port.try_recv()?.is_none() {
                    break;
                }
                all += 1;
            }
        }
        if all == 0 {
            pause(Duration::from_millis(1));
        } else {
            scene.stage.board.taken.words[TAKEN].fetch_add(all, Ordering::AcqRel);
        }
    }
    Ok(process_cpu_ns().saturating_sub(began.ok_or("it ended before it began")?))
}

/// The bus of this process and, where messages cross a link, its node if it is to have one.
fn open(scene: &Scene<'_>, node: bool) -> Result<(Option<Link>, Bus), Failure> {
    if !is_link(scene) {
        return Ok((None, join(scene)?));
    }
    if node {
        let link = Link::open(scene)?;
        let bus = link.bus().clone();
        return Ok((Some(link), bus));
    }
    let bus = Bus::builder().domain("bench-back").directory(directory(scene.owner)).timeout(PATIENCE);
    Ok((None, bus.open()?))
}

/// Resident bytes of this process.
fn resident() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("VmRSS without a number")?.parse()?;
    Ok(kib * 1024)
}
