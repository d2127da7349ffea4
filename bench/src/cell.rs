//! The cells that every medium has: what is measured, and by which steps.
//!
//! Each cell has two halves: `conduct` runs in the process that owns the measurement and sends;
//! `partner` runs in each process that it starts. What only the bus can do is in `bus`.

pub mod fanout;
pub mod flood;
pub mod oneway;
pub mod rate;
pub mod requests;
pub mod throughput;
pub mod wake;

use crate::medium::{Medium, Scene};
use crate::outcome::Outcome;
use crate::partners::Partners;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::{Failure, place};

/// Runs the first side of the measurement `plan` of medium `M`.
///
/// # Errors
/// The cell is unknown, or a process of it fails.
pub fn conduct<M: Medium>(plan: &Plan) -> Result<Outcome, Failure> {
    let stage = Stage::create()?;
    let scene = Scene { plan, stage: &stage, owner: std::process::id() };
    place::pin(plan.cpus[0])?;
    match plan.cell.as_str() {
        "oneway" | "oneway-asleep" => oneway::conduct::<M>(&scene),
        "flood" => flood::conduct::<M>(&scene),
        "rate" => rate::conduct::<M>(&scene),
        "throughput" => throughput::conduct::<M>(&scene),
        "fanout" => fanout::conduct::<M>(&scene),
        "wake" => wake::conduct_one::<M>(&scene),
        "wake-all" => wake::conduct_all::<M>(&scene),
        other => Err(format!("no cell is called {other}").into()),
    }
}

/// Runs one process of the second side.
///
/// # Errors
/// The cell is unknown, or the medium fails.
pub fn partner<M: Medium>(scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
    place::pin(scene.plan.cpus[1])?;
    match scene.plan.cell.as_str() {
        "oneway" | "oneway-asleep" => oneway::partner::<M>(scene),
        "flood" => flood::partner::<M>(scene),
        "rate" => rate::partner::<M>(scene),
        "throughput" => throughput::partner::<M>(scene),
        "fanout" => fanout::partner::<M>(scene, index),
        "wake" | "wake-all" => wake::partner::<M>(scene, index),
        other => Err(format!("no cell is called {other}").into()),
    }
}

/// Runs the first side of the cell `requests` of `A`.
///
/// # Errors
/// A process of it fails.
pub fn conduct_requests<A: requests::Answers>(plan: &Plan) -> Result<Outcome, Failure> {
    let stage = Stage::create()?;
    place::pin(plan.cpus[0])?;
    requests::conduct::<A>(&Scene { plan, stage: &stage, owner: std::process::id() })
}

/// Runs the service of the cell `requests`.
///
/// # Errors
/// The medium fails.
pub fn partner_requests<A: requests::Answers>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    place::pin(scene.plan.cpus[1])?;
    requests::partner::<A>(scene)
}

/// Joins what both sides found: numbers and latencies of `other`, threads side by side.
pub fn join(mut own: Outcome, other: Outcome) -> Outcome {
    own.values.extend(other.values);
    own.latency = own.latency.or(other.latency);
    own.lost += other.lost;
    own.threads.extend(other.threads);
    own
}

/// An outcome that knows only the threads of this process.
pub fn outcome() -> Outcome {
    Outcome { threads: vec![place::threads()], ..Outcome::default() }
}

/// Partners that are started at once: a crowd at the door is not what these cells measure.
const CROWD: usize = 32;

/// Starts as many partners as the plan asks for, at least one, and waits until all are ready.
pub(crate) fn partners(scene: &Scene<'_>) -> Result<Partners, Failure> {
    let mut partners = Partners::none();
    for index in 0..scene.plan.receivers.max(1) {
        partners.add(scene, index)?;
        scene.stage.wait_ready((index + 1).saturating_sub(CROWD))?;
    }
    scene.stage.wait_ready(scene.plan.receivers.max(1))?;
    Ok(partners)
}
