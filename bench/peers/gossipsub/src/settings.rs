//! What of gossipsub is set: `mesh=6,message=65536,flood=no`, or `-` for that.

use std::time::Duration;

use libp2p::gossipsub::{self, ConfigBuilder};

use crate::Failure;
use crate::work::HEAD_BYTES;

/// Longer than any transfer: nothing is given up because a line is slow, and nothing that comes late counts as new.
const LONG: Duration = Duration::from_secs(600);
/// What a message needs beside its data, and what may lie behind it: the crate holds all that it has read against the limit, the beginning of the next message too.
const MORE_BYTES: usize = 64 << 10;

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Peers in the mesh of a topic: D. The limits beside it keep the proportions of the default (6, at least 5, at most 12).
    pub(crate) mesh: usize,
    /// Bytes of an artifact in one message.
    pub(crate) message: usize,
    /// Whether who publishes sends to all peers, and not to the mesh alone.
    pub(crate) flood: bool,
}

impl Settings {
    pub(crate) fn read(text: &str) -> Result<Self, Failure> {
        let mut settings = Self { mesh: 6, message: 64 << 10, flood: false };
        for part in text.split(',').filter(|part| *part != "-") {
            match part.split_once('=') {
                Some(("mesh", value)) => settings.mesh = value.parse()?,
                Some(("message", value)) => settings.message = value.parse()?,
                Some(("flood", value @ ("yes" | "no"))) => settings.flood = value == "yes",
                _ => {
                    return Err(
                        format!("{part}: settings are mesh=N, message=BYTES and flood=yes or no").into()
                    );
                }
            }
        }
        if settings.mesh == 0 || settings.message == 0 {
            return Err("mesh and message are at least 1".into());
        }
        Ok(settings)
    }

    /// What it is, for a table.
    pub(crate) fn name(&self) -> String {
        let Self { mesh, message, .. } = self;
        let flood = if self.flood { ", flood" } else { "" };
        format!("libp2p-gossipsub 0.50.1, mesh {mesh}, messages of {} KiB{flood}", message >> 10)
    }

    /// As few as the mesh may have before it takes more.
    pub(crate) fn mesh_least(&self) -> usize {
        (self.mesh - 1).max(1)
    }

    pub(crate) fn config(&self) -> Result<gossipsub::Config, Failure> {
        let mut builder = ConfigBuilder::default();
        builder
            .mesh_n(self.mesh)
            .mesh_n_low(self.mesh_least())
            .mesh_n_high(2 * self.mesh)
            .mesh_outbound_min((self.mesh / 2).min(2).min(self.mesh_least()))
            .flood_publish(self.flood)
            .max_transmit_size(self.message + HEAD_BYTES + MORE_BYTES)
            .connection_handler_queue_len(1 << 16)
            .publish_queue_duration(LONG)
            .forward_queue_duration(LONG)
            .duplicate_cache_time(LONG);
        Ok(builder.build()?)
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn settings_are_read_and_what_cannot_be_is_refused() {
        let usual = Settings { mesh: 6, message: 64 << 10, flood: false };
        assert_eq!(Settings::read("-").unwrap(), usual);
        let set = Settings::read("mesh=3,message=262144,flood=yes").unwrap();
        assert_eq!(set, Settings { mesh: 3, message: 256 << 10, flood: true });
        for mesh in [1, 2, 3, 4, 6, 8] {
            assert!(Settings { mesh, ..usual }.config().is_ok(), "{mesh}");
        }
        for wrong in ["mesh=0", "mesh=x", "flood=perhaps", "quick=yes", "mesh"] {
            assert!(Settings::read(wrong).is_err(), "{wrong}");
        }
    }
}
