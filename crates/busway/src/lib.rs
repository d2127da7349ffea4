//! Busway: the message bus for every distance.

#[cfg_attr(not(test), expect(dead_code, reason = "the ports that drive it are not built yet"))]
mod control;
#[cfg_attr(not(test), expect(dead_code, reason = "the ports that drive it are not built yet"))]
mod directory;
#[cfg_attr(not(test), expect(dead_code, reason = "the ports that drive it are not built yet"))]
mod error;

pub use directory::Realm;
pub use error::{Code, Error};
