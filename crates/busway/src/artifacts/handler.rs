//! Who decides about artifacts, where that is not the node's own machine: a program's own handler.
//!
//! A handler is told what peers say, flow by flow, by threads that are bounded for each flow ([`Workers`](super::Workers)), and what it says goes
//! out by whatever it was made with. It is one object for all flows, so it takes `&self`, from several threads at a time.
//!
//! Invariant: of one peer and flow a handler is told in order, one after the other. Between flows there is no order, but that a node's links begin before their words and end behind them, and that a
//! retransmission is handled between the adverts before it and those behind it, and before all else where it is the first word of a link.

use std::fmt;
use std::sync::Arc;

pub use busway_protocol::flow::{Flow, WhenFull};
pub use busway_protocol::gossip::Word;

use busway_protocol::gossip::Lane;

use crate::artifacts::{Voice, WorkersBuilder};

/// A handler with what it speaks by and who calls it, as a node is given it.
#[derive(Clone)]
pub(crate) struct Handling {
    pub(crate) handler: Arc<dyn ArtifactHandler>,
    pub(crate) voice: Voice,
    pub(crate) workers: WorkersBuilder,
}

impl fmt::Debug for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handling").field("voice", &self.voice).finish_non_exhaustive()
    }
}

/// A word of a peer, and the bytes that follow it: those of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What it says.
    pub word: Word,
    /// What follows; empty but behind [`Word::Chunk`].
    pub following: Vec<u8>,
}

/// What a peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// It says who has what.
    Advert(Heard),
    /// It asks for bytes, or does not want them any more.
    Request(Heard),
    /// Bytes, or that there are none.
    Piece(Heard),
    /// It says how far it knows us, and wants the difference.
    Retransmission(Heard),
    /// A link to it stands.
    PeerUp,
    /// None does any more.
    PeerDown,
}

impl PeerEvent {
    /// What a word is about.
    #[must_use]
    pub fn of(word: Word, following: &[u8]) -> Self {
        let heard = Heard { word, following: following.to_vec() };
        match heard.word {
            Word::Exchange(_) => PeerEvent::Retransmission(heard),
            Word::Request { .. } | Word::Cancel { .. } => PeerEvent::Request(heard),
            Word::Chunk { .. } | Word::NotFound { .. } => PeerEvent::Piece(heard),
            Word::Tell(_)
            | Word::Handled { .. }
            | Word::Marks(_)
            | Word::Ask { .. }
            | Word::Describe(_)
            | Word::Have { .. } => PeerEvent::Advert(heard),
        }
    }

    /// The class of traffic that it is charged to.
    #[must_use]
    pub fn flow(&self) -> Flow {
        match self {
            PeerEvent::Advert(_) => Flow::Advert,
            PeerEvent::Request(_) => Flow::Request,
            PeerEvent::Piece(_) => Flow::Chunk,
            PeerEvent::Retransmission(_) => Flow::Retransmission,
            PeerEvent::PeerUp | PeerEvent::PeerDown => Flow::Transport,
        }
    }

    /// Bytes of memory that it takes while it waits, its lists and names included.
    #[must_use]
    pub fn size(&self) -> u64 {
        let beside = match self {
            PeerEvent::Advert(heard)
            | PeerEvent::Request(heard)
            | PeerEvent::Piece(heard)
            | PeerEvent::Retransmission(heard) => heard.word.heap_bytes() + heard.following.capacity(),
            PeerEvent::PeerUp | PeerEvent::PeerDown => 0,
        };
        (size_of::<Self>() + beside) as u64
    }

    /// What it makes worthless of what came before it: of its peer and flow all that has the same key. How much is done with is said as a sum since the link began.
    pub(crate) fn replaces(&self) -> Option<u64> {
        match self {
            PeerEvent::Advert(Heard { word: Word::Handled { .. }, .. }) => Some(0),
            PeerEvent::Advert(_)
            | PeerEvent::Request(_)
            | PeerEvent::Piece(_)
            | PeerEvent::Retransmission(_)
            | PeerEvent::PeerUp
            | PeerEvent::PeerDown => None,
        }
    }

    /// Whether its peer is no worse off than before where it is dropped and told so: that something is not wanted any more is not answered, and who does not hear it gives it for nothing.
    pub(crate) fn may_be_dropped(&self) -> bool {
        !matches!(self, PeerEvent::Request(Heard { word: Word::Cancel { .. }, .. }))
    }
}

/// What decides about artifacts in a program that does so itself.
///
/// Each function may take its time: its flow then waits, and only its flow. One that panics is counted (`next_word` in the flow that it was asked for, the timer in `transport`) and told in the log, and is called again with
/// what comes next. When the node ends it is told [`ArtifactHandler::on_peer_down`] of each peer that it knew; another node may have it then.
/// Peers are named by the indices of their nodes.
///
/// ```
/// use std::sync::Mutex;
/// use busway::artifacts::{ArtifactHandler, PeerEvent, Workers};
/// #[derive(Default)]
/// struct Names(Mutex<Vec<u8>>);
/// impl ArtifactHandler for Names {
///     fn on_peer_up(&self, peer: u8) {
///         self.0.lock().unwrap().push(peer);
///     }
/// }
/// # fn main() -> Result<(), busway::Error> {
/// let names = std::sync::Arc::new(Names::default());
/// let workers = Workers::builder().start(names.clone())?;
/// workers.deliver(7, PeerEvent::PeerUp)?;
/// workers.close(std::time::Duration::from_secs(5))?;
/// assert_eq!(*names.0.lock().unwrap(), [7]);
/// # Ok(())
/// # }
/// ```
pub trait ArtifactHandler: Send + Sync {
    /// `from` says who has what.
    fn on_advert(&self, from: u8, advert: &Heard) {
        let _ = (from, advert);
    }

    /// `from` asks for bytes, or does not want them any more. What a full flow drops of requests is answered as not found without it.
    fn on_request(&self, from: u8, request: &Heard) {
        let _ = (from, request);
    }

    /// `from` gives bytes, or says that it has none.
    fn on_piece(&self, from: u8, piece: &Heard) {
        let _ = (from, piece);
    }

    /// `from` says how far it knows us, and wants the difference.
    fn on_retransmission(&self, from: u8, request: &Heard) {
        let _ = (from, request);
    }

    /// So much time has passed as the timer has. Nothing but deadlines should hang on it.
    fn on_timer(&self) {}

    /// The link to this peer has room for a word in this flow (`advert`, `request` or `chunk`) beyond what its [`Voice`](super::Voice) has: what is to be said next, if there is something.
    /// So nothing need be queued: it is asked for when it can go, and again after [`Voice::wake`](super::Voice::wake). It is called by the thread that speaks for this node, with no lock held, and returns soon: nothing of artifacts is
    /// heard or said meanwhile. It must not wait in [`Voice::say`](super::Voice::say), which waits for that thread. A word that does not belong into this flow is left out and counted as [`FlowCounts::left_out`](super::FlowCounts::left_out).
    fn next_word(&self, to: u8, flow: Flow) -> Option<Heard> {
        let _ = (to, flow);
        None
    }

    /// A link to this peer stands.
    fn on_peer_up(&self, peer: u8) {
        let _ = peer;
    }

    /// No link to this peer stands any more.
    fn on_peer_down(&self, peer: u8) {
        let _ = peer;
    }
}

/// In which lane a word goes, as the machine of a node says it.
pub(super) fn lane_of(word: &Word) -> Lane {
    match word {
        Word::Request { .. } | Word::Cancel { .. } | Word::NotFound { .. } => Lane::Request,
        Word::Chunk { .. } => Lane::Chunk,
        Word::Exchange(_)
        | Word::Tell(_)
        | Word::Handled { .. }
        | Word::Marks(_)
        | Word::Ask { .. }
        | Word::Describe(_)
        | Word::Have { .. } => Lane::Advert,
    }
}

/// Tells a handler of an event.
pub(super) fn tell(handler: &dyn ArtifactHandler, from: u8, event: &PeerEvent) {
    match event {
        PeerEvent::Advert(heard) => handler.on_advert(from, heard),
        PeerEvent::Request(heard) => handler.on_request(from, heard),
        PeerEvent::Piece(heard) => handler.on_piece(from, heard),
        PeerEvent::Retransmission(heard) => handler.on_retransmission(from, heard),
        PeerEvent::PeerUp => handler.on_peer_up(from),
        PeerEvent::PeerDown => handler.on_peer_down(from),
    }
}
