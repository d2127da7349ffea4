//! Busway: the message bus for every distance.
#![expect(dead_code, reason = "the ports that drive the control plane are not built yet")]

mod control;
mod directory;
mod error;

pub use directory::Realm;
pub use error::{Code, Error};
