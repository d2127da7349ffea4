//! The side `busway`: the bus through its public interface, as a user would call it.
//!
//! The cells that every medium has come from `cell`; what only the bus can be asked is here. Each
//! measurement has a directory and a domain of its own, removed at its end.

pub mod allocations;
pub mod count;
pub mod death;
pub mod first;
pub mod footprint;
pub mod link;
pub mod loan;
pub mod lookup;
pub mod medium;
pub mod requests;
pub mod steps;
pub mod topics;

use crate::medium::Scene;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::{Failure, cell, place};
use busway::Bus;
use medium::Busway;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

/// How long ends wait for each other: starting 256 processes on a busy machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the first side of a measurement of the bus.
///
/// # Errors
/// The cell is unknown, or the measurement fails.
pub fn conduct(plan: &Plan) -> Result<Outcome, Failure> {
    let _directory = Directory::create(std::process::id())?;
    if plan.side.starts_with("link") && plan.cell != "topics" {
        return cell::conduct::<link::Link>(plan);
    }
    let conduct: fn(&Scene<'_>) -> Result<Outcome, Failure> = match plan.cell.as_str() {
        "loan" => loan::conduct,
        "allocations" => allocations::conduct,
        "first" => first::conduct,
        "lookup" => lookup::conduct,
        "topics" => topics::conduct,
        "death" => death::conduct,
        "steps" => return steps::conduct(plan),
        "steps-inside" => return steps::inside(plan),
        "requests" => return cell::conduct_requests::<requests::Requests>(plan),
        "requests-slow" => requests::slow,
        "footprint" => return footprint::footprint(plan),
        "cold-tour" => return footprint::cold_tour(),
        _ => return cell::conduct::<Busway>(plan),
    };
    let stage = Stage::create()?;
    place::pin(plan.cpus[0])?;
    conduct(&Scene { plan, stage: &stage, owner: std::process::id() })
}

/// Runs another process of it.
///
/// # Errors
/// The cell is unknown, or the measurement fails.
pub fn partner(scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
    if scene.plan.side.starts_with("link") && scene.plan.cell != "topics" {
        return cell::partner::<link::Link>(scene, index);
    }
    let partner: fn(&Scene<'_>, usize) -> Result<Outcome, Failure> = match scene.plan.cell.as_str() {
        "loan" => |scene, _| loan::partner(scene),
        "allocations" => |scene, _| allocations::partner(scene),
        "first" => |scene, _| first::partner(scene),
        "lookup" => lookup::partner,
        "topics" => topics::partner,
        "death" => |scene, _| death::partner(scene),
        "requests" => |scene, _| cell::partner_requests::<requests::Requests>(scene),
        "requests-slow" => |scene, _| requests::slow_service(scene),
        _ => return cell::partner::<Busway>(scene, index),
    };
    place::pin(scene.plan.cpus[1])?;
    partner(scene, index)
}

/// The runtime directory of the measurement that `owner` conducts.
fn directory(owner: u32) -> PathBuf {
    std::env::temp_dir().join(format!("busway-bench-{owner}"))
}

/// Joins the domain of the measurement.
fn join(scene: &Scene<'_>) -> Result<Bus, Failure> {
    Ok(Bus::builder().domain("bench").directory(directory(scene.owner)).timeout(PATIENCE).open()?)
}

/// A runtime directory that is removed with its owner.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create(owner: u32) -> Result<Self, Failure> {
        let path = directory(owner);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left over is some empty files below the temporary directory.
        let _ = fs::remove_dir_all(&self.path);
    }
}
