//! The other processes of a measurement: started as this same program, ended with it.
//!
//! A partner dies with the process that started it, also when that one is killed.

use crate::Failure;
use crate::medium::Scene;
use crate::outcome::Outcome;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::process::{Child, Command, Stdio};

/// Partners that run.
#[derive(Debug)]
pub struct Partners {
    children: Vec<Child>,
}

impl Partners {
    /// No partner yet.
    pub fn none() -> Self {
        Self { children: Vec::new() }
    }

    /// Starts `count` partners of `scene`, with indexes from 0.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start(scene: &Scene<'_>, count: usize) -> Result<Self, Failure> {
        let mut partners = Self::none();
        for index in 0..count {
            partners.add(scene, index)?;
        }
        Ok(partners)
    }

    /// Starts one partner more.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn add(&mut self, scene: &Scene<'_>, index: usize) -> Result<u32, Failure> {
        let child = Command::new(std::env::current_exe()?)
            .arg("partner")
            .arg(scene.plan.argument()?)
            .arg(scene.stage.path())
            .arg(scene.owner.to_string())
            .arg(index.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let id = child.id();
        self.children.push(child);
        Ok(id)
    }

    /// Kills the partner that was added last, and waits until its process is gone.
    ///
    /// # Errors
    /// There is none, or it is not ours to kill.
    pub fn kill_last(&mut self) -> Result<(), Failure> {
        let mut child = self.children.pop().ok_or("no partner to kill")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits for all partners and returns what the first one found.
    ///
    /// # Errors
    /// A partner failed.
    pub fn finish(mut self) -> Result<Outcome, Failure> {
        let mut first = None;
        for child in self.children.drain(..) {
            let output = child.wait_with_output()?;
            if !output.status.success() {
                return Err(format!("a partner ended with {}", output.status).into());
            }
            if first.is_none() {
                first = Some(serde_json::from_slice(&output.stdout)?);
            }
        }
        first.ok_or_else(|| "a measurement without a partner".into())
    }
}

impl Drop for Partners {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Makes this process die with its parent. Called first thing in a partner.
///
/// # Errors
/// The kernel refuses.
pub fn die_with_parent() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}
