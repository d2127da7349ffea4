//! What peers have said, before whoever decides about artifacts is told of it by its workers: flow by flow, as far as those have room.
//!
//! What has come in a lane and finds its flow full waits here, undecoded but for the first; of that lane no more is taken meanwhile, so that the window of the link bounds it. Other lanes of the peer go on.
//!
//! Flows have threads of their own, and so no order between them. Where the meaning of words hangs on an order it is kept here: all of a peer is handled before a link of it begins or ends, and nothing
//! else of it until that is handled. It says how far tables are known where a link begins, which is handled before all else, and in its midst: then what it said before about tables is handled first, and
//! that before what it says of them afterwards, but requests and pieces go on. What waits here when its link ends is forgotten: the next link says from the beginning what is so.
//!
//! It takes nothing from a link itself, and says nothing. A request that its flow has dropped is to be answered, by whoever says something to peers: who asked would wait for it otherwise.
//!
//! Invariant: who is told hears that a link stands before any word of it, and of none behind its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use busway_protocol::gossip::Lane;
use busway_wire::gossip::{Word, decode};
use busway_wire::limits::GOSSIP_SERVED_MAX;

use crate::artifacts::{Heard, PeerEvent, Workers};
use crate::{Code, Error};

const LANES: usize = Lane::ALL.len();

/// What has come in a lane.
#[derive(Debug, Default)]
struct Waits {
    /// What its flow had no room for.
    first: Option<PeerEvent>,
    /// That was counted.
    waited: bool,
    bodies: VecDeque<Option<Vec<u8>>>,
}

impl Waits {
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.bodies.is_empty()
    }
}

/// What is known of a peer here.
#[derive(Debug, Default)]
struct Line {
    /// The link that stands.
    link: Option<u64>,
    /// The link that stands as far as the workers were told.
    told: Option<u64>,
    lanes: [Waits; LANES],
    /// What came in a lane of another flow, which has no room: that bytes are not found comes with requests.
    aside: VecDeque<(PeerEvent, bool)>,
    /// Requests that were dropped, which its peer is to be told.
    dropped: VecDeque<u64>,
    /// What was handed on last is to be handled before anything else is.
    alone: bool,
    /// What was handed on last about tables, how far they are known, is to be handled before anything else about them is.
    exchanges: bool,
    /// Something was handed on of what was said on this link.
    spoke: bool,
    nonsense: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(in crate::runtime) struct Intake {
    workers: Arc<Workers>,
    lines: BTreeMap<u8, Line>,
}

impl Intake {
    pub(in crate::runtime) fn new(workers: Arc<Workers>) -> Self {
        Self { workers, lines: BTreeMap::new() }
    }

    /// The peers of which something is known.
    pub(super) fn peers(&self) -> Vec<u8> {
        self.lines.keys().copied().collect()
    }

    /// Those to which a link stands as far as the workers were told.
    pub(super) fn told(&self) -> Vec<u8> {
        self.lines.iter().filter(|(_, line)| line.told.is_some()).map(|(index, _)| *index).collect()
    }

    /// The link of this peer of which the workers were told last.
    pub(super) fn link(&self, index: u8) -> Option<u64> {
        self.lines.get(&index).and_then(|line| line.told)
    }

    /// The link of this peer that stands.
    pub(super) fn stands(&self, index: u8) -> Option<u64> {
        self.lines.get(&index).and_then(|line| line.link)
    }

    /// The peer has no place any more; whether all of it is handled, so that nothing is known of it.
    pub(super) fn is_over(&mut self, index: u8) -> bool {
        self.stand(index, None);
        self.hand_on(index);
        let over = self.link(index).is_none() && !self.workers.is_under_way(index);
        if over {
            self.lines.remove(&index);
        }
        over
    }

    /// Whether the workers are told next that a link stands.
    pub(super) fn begins(&self, index: u8) -> bool {
        let Some(line) = self.lines.get(&index) else { return false };
        line.told.is_none() && line.link.is_some() && !self.workers.is_under_way(index)
    }

    /// Whether what is said next to this peer is of the link that stands: then which that is.
    pub(super) fn may_speak(&self, index: u8) -> Option<u64> {
        let line = self.lines.get(&index)?;
        let between = line.told != line.link || (line.alone && self.workers.is_under_way(index));
        line.told.filter(|_| !between)
    }

    /// The lanes of which more can be taken: those of which nothing waits.
    pub(super) fn room(&self, index: u8) -> [bool; LANES] {
        let Some(line) = self.lines.get(&index) else { return [true; LANES] };
        // What is of the link before makes room when it is handled.
        let between = line.told != line.link;
        std::array::from_fn(|lane| !between && line.lanes[lane].is_empty())
    }

    /// A request of the link that stands which was dropped: it is taken out, and its peer is to be told.
    pub(super) fn dropped(&mut self, index: u8) -> Option<u64> {
        self.lines.get_mut(&index)?.dropped.pop_front()
    }

    /// A link stands, or none does; whether that is another than before.
    pub(super) fn stand(&mut self, index: u8, link: Option<u64>) -> bool {
        let line = self.lines.entry(index).or_default();
        if std::mem::replace(&mut line.link, link) == link {
            return false;
        }
        line.lanes = Default::default();
        line.aside.clear();
        line.dropped.clear();
        (line.exchanges, line.spoke) = (false, false);
        true
    }

    /// This has come over the link that stands.
    pub(super) fn take(&mut self, index: u8, come: impl Iterator<Item = (Lane, Option<Vec<u8>>)>) {
        let line = self.lines.entry(index).or_default();
        for (lane, body) in come {
            line.lanes[lane as usize].bodies.push_back(body);
        }
    }

    /// Gives the workers what waits of a peer, as far as they have room.
    pub(super) fn hand_on(&mut self, index: u8) {
        let Some(line) = self.lines.get_mut(&index) else { return };
        let workers = &*self.workers;
        if line.alone {
            if workers.is_under_way(index) {
                return;
            }
            line.alone = false;
        }
        if line.told != line.link {
            if workers.is_under_way(index) {
                return;
            }
            let (event, told) = match line.told {
                Some(_) => (PeerEvent::PeerDown, None),
                None => (PeerEvent::PeerUp, line.link),
            };
            // What is dropped, or comes when the workers have ended, they have counted.
            if !matches!(workers.try_again(index, event, None, &mut false), Ok(Some(_))) {
                (line.told, line.alone) = (told, true);
            }
            return;
        }
        for _ in 0..line.aside.len() {
            let Some((event, mut waited)) = line.aside.pop_front() else { break };
            let asked = asked(&event);
            match workers.try_again(index, event, None, &mut waited) {
                Ok(Some(event)) => {
                    line.aside.push_front((event, waited));
                    break;
                }
                Ok(None) => {}
                Err(error) => line.drop_of(asked, &error),
            }
        }
        for lane in Lane::ALL {
            if !line.hand_on(workers, index, lane) {
                return;
            }
        }
    }
}

impl Line {
    /// Gives the workers what waits in a lane; whether other lanes may go on.
    fn hand_on(&mut self, workers: &Workers, index: u8, lane: Lane) -> bool {
        loop {
            let waits = &mut self.lanes[lane as usize];
            let event = match waits.first.take() {
                Some(event) => event,
                None => match waits.bodies.pop_front() {
                    None => return true,
                    Some(body) => match body.as_deref().map(decode) {
                        Some(Ok((word, following))) => PeerEvent::of(word, following),
                        heard => {
                            self.nonsense(index, heard.and_then(Result::err));
                            continue;
                        }
                    },
                },
            };
            let exchange = matches!(event, PeerEvent::Retransmission(_));
            if is_of_tables(&event) && (exchange || self.exchanges) {
                let aside = self.aside.iter().any(|(event, _)| is_of_tables(event));
                if aside || workers.are_tables_under_way(index) {
                    waits.first = Some(event);
                    return true;
                }
                self.exchanges = false;
            }
            let alone = exchange && !self.spoke;
            let (replaces, asked) = (event.replaces(), asked(&event));
            match workers.try_again(index, event, replaces, &mut waits.waited) {
                Ok(None) => waits.waited = false,
                Err(error) => {
                    waits.waited = false;
                    self.drop_of(asked, &error);
                }
                Ok(Some(event))
                    if !exchange && event.flow() != lane.flow() && self.aside.len() < GOSSIP_SERVED_MAX =>
                {
                    self.aside.push_back((event, std::mem::take(&mut waits.waited)));
                    continue;
                }
                Ok(Some(event)) => {
                    waits.first = Some(event);
                    return !alone;
                }
            }
            (self.exchanges, self.spoke) = (self.exchanges || exchange, true);
            if alone {
                self.alone = true;
                return false;
            }
        }
    }

    /// An event was dropped, which the workers have counted. Who asks for more than anybody may is not answered.
    fn drop_of(&mut self, asked: Option<u64>, error: &Error) {
        if error.code() == Code::Full && self.dropped.len() < GOSSIP_SERVED_MAX {
            self.dropped.extend(asked);
        }
    }

    /// It bears a good checksum: the peer is of another version, or lies. Once is enough to be told.
    fn nonsense(&mut self, index: u8, error: Option<busway_wire::gossip::WordError>) {
        self.nonsense += 1;
        if self.nonsense == 1 {
            tracing::warn!(target: "busway::gossip", peer = index, "not understood: {error:?}");
        }
    }
}

/// What its peer waits for an answer to.
fn asked(event: &PeerEvent) -> Option<u64> {
    match event {
        PeerEvent::Request(Heard { word: Word::Request { request, .. }, .. }) => Some(*request),
        _ => None,
    }
}

/// Whether its meaning hangs on how far tables are known.
fn is_of_tables(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::Advert(_) | PeerEvent::Retransmission(_))
}
