//! Under which counters of the process the flows of its node's workers are counted.
//!
//! It counts nothing itself, and of workers without a node nothing is counted there.
//!
//! Invariant: each flow that has workers has a counter of each kind, but that only some coalesce.

use busway_shm::counters::Event;

use crate::artifacts::handler::Flow;

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tally {
    Handled,
    Waited,
    Coalesced,
    Dropped,
    Nanoseconds,
}

/// Under what.
pub(super) fn event(flow: Flow, what: Tally) -> Option<Event> {
    let [handled, waited, coalesced, dropped, nanoseconds] = match flow {
        Flow::Transport => [
            Some(Event::TransportHandled),
            Some(Event::TransportWaited),
            None,
            Some(Event::TransportDropped),
            Some(Event::TransportNanoseconds),
        ],
        Flow::Advert => [
            Some(Event::AdvertHandled),
            Some(Event::AdvertWaited),
            Some(Event::AdvertCoalesced),
            Some(Event::AdvertDropped),
            Some(Event::AdvertNanoseconds),
        ],
        Flow::Request => [
            Some(Event::RequestFlowHandled),
            Some(Event::RequestFlowWaited),
            None,
            Some(Event::RequestFlowDropped),
            Some(Event::RequestFlowNanoseconds),
        ],
        Flow::Chunk => [
            Some(Event::ChunkHandled),
            Some(Event::ChunkWaited),
            None,
            Some(Event::ChunkDropped),
            Some(Event::ChunkNanoseconds),
        ],
        Flow::Retransmission => [
            Some(Event::RetransmissionHandled),
            Some(Event::RetransmissionWaited),
            Some(Event::RetransmissionCoalesced),
            Some(Event::RetransmissionDropped),
            Some(Event::RetransmissionNanoseconds),
        ],
        Flow::Control | Flow::Rpc | Flow::Data | Flow::Ingress => [None; 5],
    };
    match what {
        Tally::Handled => handled,
        Tally::Waited => waited,
        Tally::Coalesced => coalesced,
        Tally::Dropped => dropped,
        Tally::Nanoseconds => nanoseconds,
    }
}
