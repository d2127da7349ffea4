//! The compiled half of the Python module `busway`: the bus, its ports and samples as Python sees them.
//!
//! What waits lets the interpreter go; what shows memory says so by the buffer protocol. It decides nothing about messages,
//! which the crate `busway` does, and knows no event loop: `python/busway/aio.py` does, over one descriptor a subscriber.
//!
//! Invariant: while a Python buffer of a message exists, its memory stays what it is; nobody waits while holding the
//! interpreter.

#![deny(unsafe_code)]

mod apart;
mod artifact;
mod artifact_subscriber;
mod artifacts;
mod batch;
mod bus;
mod deadline;
mod doorbell;
mod failure;
mod fork;
mod intake;
mod json;
mod last;
mod loan;
mod log;
mod message;
mod node;
mod number;
mod offer;
mod outlet;
mod payload;
mod publisher;
mod puller;
mod pusher;
mod reply;
mod request;
mod requester;
mod responder;
mod sample;
mod sender;
mod subscriber;
mod task;
mod turn;

use pyo3::prelude::*;

/// What is compiled of `busway`.
#[pymodule]
mod _busway {
    #[pymodule_export]
    use crate::artifact::{Advert, Arriving, Artifact, ArtifactReader, Progress, Withdrawn};
    #[pymodule_export]
    use crate::artifact_subscriber::ArtifactSubscriber;
    #[pymodule_export]
    use crate::artifacts::{Artifacts, Listed};
    #[pymodule_export]
    use crate::bus::Bus;
    #[pymodule_export]
    use crate::failure::codes;
    #[pymodule_export]
    use crate::fork::_after_fork;
    #[pymodule_export]
    use crate::json::_parsed;
    #[pymodule_export]
    use crate::loan::Loan;
    #[pymodule_export]
    use crate::log::_say;
    #[pymodule_export]
    use crate::message::Message;
    #[pymodule_export]
    use crate::node::Node;
    #[pymodule_export]
    use crate::offer::Offer;
    #[pymodule_export]
    use crate::outlet::Sender;
    #[pymodule_export]
    use crate::publisher::Publisher;
    #[pymodule_export]
    use crate::puller::Puller;
    #[pymodule_export]
    use crate::pusher::Pusher;
    #[pymodule_export]
    use crate::reply::Reply;
    #[pymodule_export]
    use crate::request::Request;
    #[pymodule_export]
    use crate::requester::{Pending, Requester};
    #[pymodule_export]
    use crate::responder::Responder;
    #[pymodule_export]
    use crate::sample::{Origin, Sample};
    #[pymodule_export]
    use crate::sender::Sent;
    #[pymodule_export]
    use crate::subscriber::Subscriber;
    #[pymodule_export]
    use crate::task::Task;
}
