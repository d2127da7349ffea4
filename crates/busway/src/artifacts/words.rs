//! What is said at the hatch, as the machine has it, and back.

use busway_protocol::gossip::{self, Interest, NodeIndex, Nodes};
use busway_wire::hatch;

use crate::artifacts::Counts;
use crate::error::{Code, Error};
use crate::runtime::{Listed, Stands};

/// Bytes of one text of an error that is passed on: what is longer is cut.
const TEXT_BYTES_MAX: usize = 1_024;

pub(super) fn advert(of: gossip::Advert) -> hatch::Advert {
    let gossip::Advert { of, topic, id, size, attribute, confirm } = of;
    hatch::Advert { of, topic, id, size, attribute, confirm }
}

pub(super) fn advert_of(said: hatch::Advert) -> gossip::Advert {
    let hatch::Advert { of, topic, id, size, attribute, confirm } = said;
    gossip::Advert { of, topic, id, size, attribute, confirm }
}

pub(super) fn entry(of: Listed) -> hatch::Entry {
    hatch::Entry { advert: advert(of.advert), here: of.here, own: of.own }
}

pub(super) fn listed(said: hatch::Entry) -> Listed {
    Listed { advert: advert_of(said.advert), here: said.here, own: said.own }
}

pub(super) fn interest(of: Interest) -> hatch::Interest {
    match of {
        Interest::Drop => hatch::Interest::Drop,
        Interest::Stash => hatch::Interest::Stash,
        Interest::Later => hatch::Interest::Later,
        Interest::Fetch => hatch::Interest::Fetch,
        Interest::FetchNow => hatch::Interest::FetchNow,
    }
}

pub(super) fn interest_of(said: hatch::Interest) -> Interest {
    match said {
        hatch::Interest::Drop => Interest::Drop,
        hatch::Interest::Stash => Interest::Stash,
        hatch::Interest::Later => Interest::Later,
        hatch::Interest::Fetch => Interest::Fetch,
        hatch::Interest::FetchNow => Interest::FetchNow,
    }
}

/// `None` while it stands.
pub(super) fn stands(of: Stands) -> Option<hatch::Stands> {
    match of {
        Stands::Offered => None,
        Stands::Reached => Some(hatch::Stands::Reached),
        Stands::Expired(missing) => {
            Some(hatch::Stands::Expired { missing: missing.iter().map(|node| node.0).collect() })
        }
        Stands::Withdrawn => Some(hatch::Stands::Withdrawn),
    }
}

pub(super) fn stands_of(said: hatch::Stands) -> Stands {
    match said {
        hatch::Stands::Reached => Stands::Reached,
        hatch::Stands::Expired { missing } => {
            let nodes: Nodes = missing.into_iter().map(NodeIndex).collect();
            Stands::Expired(nodes)
        }
        hatch::Stands::Withdrawn => Stands::Withdrawn,
    }
}

pub(super) fn counts(of: Counts) -> hatch::Counts {
    hatch::Counts {
        told: of.told,
        handled: of.handled,
        coalesced: of.coalesced,
        dropped: of.dropped,
        denied: of.denied,
        said: of.said,
        bytes_useful: of.bytes_useful,
        bytes_wasted: of.bytes_wasted,
        bytes_given: of.bytes_given,
        damaged: of.damaged,
        full: of.full,
        stored_bytes: of.stored_bytes,
        waiting: of.waiting,
        refused: of.refused,
    }
}

pub(super) fn counts_of(said: hatch::Counts) -> Counts {
    Counts {
        told: said.told,
        handled: said.handled,
        coalesced: said.coalesced,
        dropped: said.dropped,
        denied: said.denied,
        said: said.said,
        bytes_useful: said.bytes_useful,
        bytes_wasted: said.bytes_wasted,
        bytes_given: said.bytes_given,
        damaged: said.damaged,
        full: said.full,
        stored_bytes: said.stored_bytes,
        waiting: said.waiting,
        refused: said.refused,
    }
}

pub(super) fn refusal(error: &Error) -> hatch::Tell {
    let text = |text: &str| {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX.min(text.len()));
        text[..end].to_owned()
    };
    hatch::Tell::Refused {
        code: error.code().number(),
        cause: text(error.cause()),
        place: text(error.place()),
        remedy: text(error.try_()),
    }
}

pub(super) fn error_of(code: u16, cause: String, place: String, remedy: String) -> Error {
    // A code that only a later version knows.
    let code = Code::from_number(code).unwrap_or(Code::ResponderFailed);
    Error::new(code, cause).at(place).remedy(remedy)
}
