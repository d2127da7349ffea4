//! What a node's trace says of outputs and peers.
//!
//! Invariant: two outputs that differ in what a node does differ in name or number.

use busway_protocol::{Output, PeerId};

/// A peer as a number, for the trace.
pub(crate) fn number_of(id: PeerId) -> u64 {
    match id {
        PeerId::Node { index } => u64::from(index),
        PeerId::Client { id } => id,
    }
}

/// What it is.
pub(super) fn name_of(output: &Output) -> &'static str {
    match output {
        Output::Established { .. } => "established",
        Output::PeerWants { .. } => "peer wants",
        Output::PeerUnwants { .. } => "peer unwants",
        Output::OpenRelay { .. } => "open relay",
        Output::CloseRelay { .. } => "close relay",
        Output::Abort { .. } => "abort",
        Output::SourceDone { .. } => "source done",
        Output::SourceDenied { .. } => "source denied",
        Output::Pass { .. } => "pass",
        Output::Rewind { .. } => "rewind",
        Output::RelayGap { .. } => "relay gap",
        Output::Close { .. } => "closing",
    }
}

/// The source that it is about, or 0.
pub(super) fn source_of(output: &Output) -> u64 {
    match output {
        Output::OpenRelay { announce } => announce.source.0,
        Output::CloseRelay { source }
        | Output::Abort { source }
        | Output::SourceDone { source, .. }
        | Output::SourceDenied { source, .. }
        | Output::Pass { source, .. }
        | Output::Rewind { source, .. }
        | Output::RelayGap { source, .. } => source.0,
        Output::Established { .. }
        | Output::PeerWants { .. }
        | Output::PeerUnwants { .. }
        | Output::Close { .. } => 0,
    }
}

/// How much it is about.
pub(super) fn amount_of(output: &Output) -> u64 {
    match output {
        Output::Pass { to, .. } | Output::Rewind { to, .. } | Output::RelayGap { to, .. } => *to,
        Output::PeerWants { id, .. } | Output::PeerUnwants { id } => u64::from(*id),
        Output::Established { restarted, .. } => u64::from(*restarted),
        Output::OpenRelay { .. }
        | Output::CloseRelay { .. }
        | Output::Abort { .. }
        | Output::SourceDone { .. }
        | Output::SourceDenied { .. }
        | Output::Close { .. } => 0,
    }
}
