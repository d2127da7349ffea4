//! The node's own machine behind workers: what they tell goes to the thread that has it, one event of each worker at a time.
//!
//! So what waits of a flow, and what is being taken in, is bounded and counted by the flow. It decides nothing, and says nothing.
//!
//! Invariant: an event is done with when the machine has taken it, or has ended.

use std::sync::Arc;

use crate::artifacts::{ArtifactHandler, Heard, PeerEvent};
use crate::runtime::gossip::calls::{Call, Calls};

/// See the head of this file.
#[derive(Debug)]
pub(in crate::runtime) struct Relay {
    calls: Arc<Calls>,
}

impl Relay {
    pub(in crate::runtime) fn new(calls: Arc<Calls>) -> Self {
        Self { calls }
    }

    fn pass(&self, from: u8, event: PeerEvent) {
        // Where it has ended nobody hears it any more.
        let _ = self.calls.ask(|answer| Call::Hear { from, event, answer });
    }
}

impl ArtifactHandler for Relay {
    fn on_advert(&self, from: u8, advert: &Heard) {
        self.pass(from, PeerEvent::Advert(advert.clone()));
    }

    fn on_request(&self, from: u8, request: &Heard) {
        self.pass(from, PeerEvent::Request(request.clone()));
    }

    fn on_piece(&self, from: u8, piece: &Heard) {
        self.pass(from, PeerEvent::Piece(piece.clone()));
    }

    fn on_retransmission(&self, from: u8, request: &Heard) {
        self.pass(from, PeerEvent::Retransmission(request.clone()));
    }

    fn on_peer_up(&self, peer: u8) {
        self.pass(peer, PeerEvent::PeerUp);
    }

    fn on_peer_down(&self, peer: u8) {
        self.pass(peer, PeerEvent::PeerDown);
    }
}
