//! What a measuring program does with its arguments: `cell`, `partner`, and for this one the report.
//!
//! The rivals' program shares `cell` and `partner`, so that the report starts every side in the same way.

use crate::floor::flag;
use crate::floor::futex::BareFutex;
use crate::floor::line::BareLine;
use crate::floor::ring::BareRing;
use crate::floor::rings;
use crate::floor::tcp::BareTcp;
use crate::medium::Scene;
use crate::outcome::Outcome;
use crate::partners::die_with_parent;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::{Failure, cell, python};
use std::io::Write;

/// The sides that a program can measure.
pub trait Sides {
    /// Runs the first process of a measurement.
    ///
    /// # Errors
    /// The side or the cell is unknown, or the measurement fails.
    fn conduct(&self, plan: &Plan) -> Result<Outcome, Failure>;

    /// Runs another process of it.
    ///
    /// # Errors
    /// The side or the cell is unknown, or the measurement fails.
    fn partner(&self, scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure>;
}

/// The floors and, where it is linked, the bus.
#[derive(Debug)]
pub struct Ours;

impl Sides for Ours {
    fn conduct(&self, plan: &Plan) -> Result<Outcome, Failure> {
        match plan.side.as_str() {
            "line" => cell::conduct::<BareLine>(plan),
            "ring" => cell::conduct::<BareRing>(plan),
            "flag" => flag::conduct(plan),
            "rings" => rings::conduct(plan),
            "futex" => cell::conduct::<BareFutex>(plan),
            "tcp" => cell::conduct::<BareTcp>(plan),
            side if side.starts_with("python-") => python::conduct(plan),
            #[cfg(feature = "bus")]
            "busway" | "link" | "link-tls" => crate::bus::conduct(plan),
            other => Err(format!("this program cannot measure {other}").into()),
        }
    }

    fn partner(&self, scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
        match scene.plan.side.as_str() {
            "line" => cell::partner::<BareLine>(scene, index),
            "ring" => cell::partner::<BareRing>(scene, index),
            "flag" => flag::partner(scene),
            "rings" => rings::partner(scene, index),
            "futex" => cell::partner::<BareFutex>(scene, index),
            "tcp" => cell::partner::<BareTcp>(scene, index),
            #[cfg(feature = "bus")]
            "busway" | "link" | "link-tls" => crate::bus::partner(scene, index),
            other => Err(format!("this program cannot measure {other}").into()),
        }
    }
}

/// Runs `cell PLAN`: measures and prints the outcome as one line of JSON.
///
/// # Errors
/// The measurement fails.
pub fn run_cell(sides: &impl Sides, plan: &str) -> Result<(), Failure> {
    let outcome = sides.conduct(&Plan::parse(plan)?)?;
    print_line(&serde_json::to_string(&outcome)?)
}

/// Runs `partner PLAN STAGE OWNER INDEX`, and prints what it found.
///
/// # Errors
/// The arguments are not what `Partners` passes, or the measurement fails.
pub fn run_partner(sides: &impl Sides, arguments: &[String]) -> Result<(), Failure> {
    let [plan, stage, owner, index] = arguments else {
        return Err("partner takes PLAN STAGE OWNER INDEX; it is started by cell".into());
    };
    die_with_parent()?;
    let plan = Plan::parse(plan)?;
    let stage = Stage::open(stage)?;
    let scene = Scene { plan: &plan, stage: &stage, owner: owner.parse()? };
    match sides.partner(&scene, index.parse()?) {
        Ok(outcome) => print_line(&serde_json::to_string(&outcome)?),
        // Only the first failure is a cause; what the others say then is that they were left alone.
        Err(cause) if stage.fail() => Err(cause),
        Err(_) => Err("".into()),
    }
}

/// Writes one line to stdout.
///
/// # Errors
/// Nobody reads it.
pub fn print_line(line: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()?;
    Ok(())
}

/// Says on stderr why a program ends; in one write, because many may end at once. An empty cause was said by another.
pub fn complain(program: &str, cause: &Failure) {
    let cause = cause.to_string();
    if !cause.is_empty() {
        let line = format!("{program}: {cause}\n");
        // Nobody may be listening any more.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
