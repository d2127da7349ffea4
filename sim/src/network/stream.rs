//! One direction of a connection: what was written and not yet read.
//!
//! Segments fly, arrive and are read. The two kernels' buffers are one room. It knows no time; when a segment
//! arrives is the network's affair.
//!
//! Invariant: segments arrive in the order in which they were written.

use std::collections::VecDeque;

use busway_protocol::Time;
use fastrand::Rng;

/// The largest segment where the network does not insist on small ones.
const SEGMENT_MAX: usize = 16 << 10;
/// Of 256 segments so many are as small as the network has it.
const SMALL: u8 = 80;

/// A segment of no bytes is the end of the direction.
#[derive(Debug)]
pub(super) struct Stream {
    flying: VecDeque<Vec<u8>>,
    arrived: VecDeque<u8>,
    queued: usize,
    room: usize,
    finished: bool,
    ended: bool,
    corrupt_next: Option<(usize, u8)>,
    /// How many more bytes may be written before the direction ends.
    pub(super) cut_after: Option<usize>,
    /// Nothing comes any more.
    pub(super) black: bool,
    /// The connection has been reset, which the writer may not know yet.
    dead: bool,
    /// The writer was told that there is no room.
    pub(super) wants_room: bool,
    /// Arrivals that stand in the agenda.
    pub(super) scheduled: usize,
    /// When the line is free for the next segment.
    pub(super) free_at: Time,
    /// When the last segment arrives.
    pub(super) arrives_at: Time,
}

impl Stream {
    pub(super) fn new(room: usize) -> Stream {
        Stream {
            flying: VecDeque::new(),
            arrived: VecDeque::new(),
            queued: 0,
            room,
            finished: false,
            ended: false,
            corrupt_next: None,
            cut_after: None,
            black: false,
            dead: false,
            wants_room: false,
            scheduled: 0,
            free_at: Time(0),
            arrives_at: Time(0),
        }
    }

    pub(super) fn room(&self) -> usize {
        self.room.saturating_sub(self.queued)
    }

    pub(super) fn flying(&self) -> usize {
        self.flying.len()
    }

    /// Cuts the bytes into segments: returns the size of each.
    pub(super) fn take(&mut self, bytes: &[u8], segment_max: usize, rng: &mut Rng) -> Vec<usize> {
        let mut sizes = Vec::new();
        if self.finished || self.dead {
            // Behind a cut: the writer does not know yet.
            return sizes;
        }
        let passing = self.cut_after.map_or(bytes.len(), |after| after.min(bytes.len()));
        let mut rest = &bytes[..passing];
        while !rest.is_empty() {
            // Most are large, or a run would be nothing but small ones.
            let size_max = if rng.u8(..) < SMALL { segment_max } else { segment_max.max(SEGMENT_MAX) };
            let size = rng.usize(1..=size_max).min(rest.len());
            let (now, later) = rest.split_at(size);
            self.fly(now.to_vec());
            sizes.push(size);
            rest = later;
        }
        if let Some(after) = &mut self.cut_after {
            *after -= passing;
            if passing < bytes.len() && self.finish() {
                sizes.push(0);
            }
        }
        sizes
    }

    fn fly(&mut self, mut segment: Vec<u8>) {
        if let Some((at, bit)) = self.corrupt_next.take() {
            let at = at % segment.len();
            segment[at] ^= 1 << bit;
        }
        self.queued += segment.len();
        self.flying.push_back(segment);
    }

    /// Ends the direction; false if it has been.
    pub(super) fn finish(&mut self) -> bool {
        let first = !self.finished && !self.dead;
        if first {
            self.finished = true;
            self.flying.push_back(Vec::new());
        }
        first
    }

    /// The next segment arrives: whether there was one.
    pub(super) fn arrive(&mut self) -> bool {
        let Some(segment) = self.flying.pop_front() else { return false };
        self.ended |= segment.is_empty();
        self.arrived.extend(segment);
        true
    }

    pub(super) fn read(&mut self, bytes_max: usize) -> Vec<u8> {
        let size = bytes_max.min(self.arrived.len());
        self.queued -= size;
        let (first, second) = self.arrived.as_slices();
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&first[..size.min(first.len())]);
        bytes.extend_from_slice(&second[..size - bytes.len()]);
        self.arrived.drain(..size);
        bytes
    }

    pub(super) fn at_end(&self) -> bool {
        self.ended && self.arrived.is_empty()
    }

    pub(super) fn drop_arrived(&mut self) {
        self.queued -= self.arrived.len();
        self.arrived.clear();
    }

    pub(super) fn drop_all(&mut self) {
        self.flying.clear();
        self.arrived.clear();
        self.queued = 0;
    }

    /// What is under way is lost, and so is what will be written.
    pub(super) fn die(&mut self) {
        self.drop_all();
        self.dead = true;
    }

    pub(super) fn corrupt(&mut self, at: usize, bit: u8) {
        match self.flying.iter_mut().find(|segment| !segment.is_empty()) {
            Some(segment) => {
                let at = at % segment.len();
                segment[at] ^= 1 << bit;
            }
            None => self.corrupt_next = Some((at, bit)),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.black || self.finished || self.cut_after.is_some() || self.corrupt_next.is_some()
    }
}
