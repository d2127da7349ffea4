//! `busway-peers`: the rivals of Busway, measured by the code that measures Busway.
//!
//! It is started by `busway-bench report`; its arguments are those of `busway-bench cell`. It links no
//! part of the bus but the harness.

mod iceoryx2_side;
mod nats_side;
mod zenoh_side;
mod zmq_side;

use busway_bench::command::{Sides, complain, run_cell, run_partner};
use busway_bench::medium::Scene;
use busway_bench::outcome::Outcome;
use busway_bench::plan::Plan;
use busway_bench::{Failure, cell};
use iceoryx2_side::Iceoryx2;
use nats_side::Nats;
use std::process::ExitCode;
use zenoh_side::Zenoh;
use zmq_side::Libzmq;

/// The rivals of this program.
struct Rivals;

impl Sides for Rivals {
    fn conduct(&self, plan: &Plan) -> Result<Outcome, Failure> {
        if plan.cell == "requests" {
            return match plan.side.as_str() {
                "libzmq" => cell::conduct_requests::<Libzmq>(plan),
                "zenoh" => cell::conduct_requests::<Zenoh>(plan),
                "nats" => cell::conduct_requests::<Nats>(plan),
                other => Err(format!("this program cannot ask {other}").into()),
            };
        }
        match plan.side.as_str() {
            "iceoryx2" => cell::conduct::<Iceoryx2>(plan),
            "libzmq" => cell::conduct::<Libzmq>(plan),
            "zenoh" => cell::conduct::<Zenoh>(plan),
            "nats" => cell::conduct::<Nats>(plan),
            other => Err(format!("this program cannot measure {other}").into()),
        }
    }

    fn partner(&self, scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
        if scene.plan.cell == "requests" {
            return match scene.plan.side.as_str() {
                "libzmq" => cell::partner_requests::<Libzmq>(scene),
                "zenoh" => cell::partner_requests::<Zenoh>(scene),
                "nats" => cell::partner_requests::<Nats>(scene),
                other => Err(format!("this program cannot ask {other}").into()),
            };
        }
        match scene.plan.side.as_str() {
            "iceoryx2" => cell::partner::<Iceoryx2>(scene, index),
            "libzmq" => cell::partner::<Libzmq>(scene, index),
            "zenoh" => cell::partner::<Zenoh>(scene, index),
            "nats" => cell::partner::<Nats>(scene, index),
            other => Err(format!("this program cannot measure {other}").into()),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((verb, [plan])) if verb == "cell" => run_cell(&Rivals, plan),
        Some((verb, rest)) if verb == "partner" => run_partner(&Rivals, rest),
        _ => Err("usage: busway-peers cell PLAN (started by busway-bench report)".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            complain("busway-peers", &cause);
            ExitCode::from(3)
        }
    }
}
