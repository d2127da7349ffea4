//! Busway: the message bus for every distance.

mod control;
mod directory;
mod error;

pub use directory::Realm;
pub use error::{Code, Error};
