//! What one measurement is to do, as it travels from the report to the measured processes.

use crate::Failure;
use serde::{Deserialize, Serialize};

/// One measurement of one side. It is passed to every process of it as one JSON argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Who is measured: `line`, `ring`, `rings`, `flag`, `futex`, `busway`, `iceoryx2`.
    pub side: String,
    /// What is measured: the name of a cell.
    pub cell: String,
    /// Processors of the first and of the second side.
    pub cpus: [usize; 2],
    /// Messages, or tries, that count.
    pub messages: u64,
    /// Receiving processes.
    #[serde(default)]
    pub receivers: usize,
    /// Messages a second, where the rate is fixed.
    #[serde(default)]
    pub rate: u64,
    /// Bytes of payload, or registrations, where the cell varies them.
    #[serde(default)]
    pub size: u64,
    /// The command that is looked at, where it is not this program.
    #[serde(default)]
    pub command: String,
}

impl Plan {
    /// Reads a plan from its argument.
    ///
    /// # Errors
    /// The text is not a plan.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        serde_json::from_str(text).map_err(|cause| format!("not a plan: {cause}").into())
    }

    /// The argument that carries this plan.
    ///
    /// # Errors
    /// None in practice: a plan holds only numbers and strings.
    pub fn argument(&self) -> Result<String, Failure> {
        Ok(serde_json::to_string(self)?)
    }

    /// How the plan is called in tables: side, cell and what varies.
    pub fn label(&self) -> String {
        let mut label = format!("{} {}", self.side, self.cell);
        if self.receivers > 1 {
            label.push_str(&format!(" to {}", self.receivers));
        }
        if self.rate > 0 {
            label.push_str(&format!(" at {}/s", self.rate));
        }
        if self.size > 0 {
            label.push_str(&format!(" of {}", self.size));
        }
        label
    }
}
