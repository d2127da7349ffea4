//! What is sent to a peer: which sources are read, in whose turn, and how much of each.
//!
//! Local messages are read from their rings here, as far as the session has room for them, and given to it; what goes
//! out of it is written in the head of this room. What has ended or was lost is found on the way, and told to the session.
//!
//! Invariant: no source is read that may not send, and none has a second turn while another waits for its first.

use busway_io::Driver;
use busway_protocol::{Input, Time};
use busway_wire::limits::LINK_BATCH_BYTES;
use busway_wire::link::{Announce, label_of};
use busway_wire::{PortId, TopicId};

use crate::runtime::export::{Care, ExportedSource, Found, Met};
use crate::runtime::peer::Peer;
use crate::runtime::{Outbound, Pieces, Staging};

/// Messages read for a peer before it is written to: about what a batch holds of small ones.
const FILL_MAX: usize = 1_024;
/// The same in bytes of runs: what was copied is summed and sent while it is in a cache.
const FILL_BYTES: usize = LINK_BATCH_BYTES;

/// Of so many sources each look is a full one: it costs little.
const FULL_MAX: usize = 64;
/// Of more there is a full look at least so long after the last, by which ends are found. It is about as often as the
/// thread that looks is awake without being rung for.
const FULL_MS: u64 = 250;

/// Of these, messages of one source before the next has its turn.
const TURN_MAX: usize = 64;

impl Peer {
    /// Reads local messages for the peer and writes what may go out now. Returns how many were read.
    pub(crate) fn pump<D: Driver<Staging, Pieces>>(&mut self, driver: &D) -> usize {
        let now = Time(driver.now_ns());
        if let Some(passage) = self.wire.as_mut().and_then(|wire| wire.passage.as_mut()) {
            passage.pumped();
        }
        self.meet(now);
        self.share_backlog();
        let mut all = 0;
        loop {
            let read = self.fill(now);
            all += read;
            let wrote = self.write_at(driver, now);
            if read == 0 || !wrote {
                self.rouse();
                return all;
            }
        }
    }

    /// As [`Peer::pump`], if bulk that was held may go now.
    pub(crate) fn pump_held<D: Driver<Staging, Pieces>>(&mut self, driver: &D) -> bool {
        let (before, left) = (self.session.bulk_out(), self.is_left());
        self.write(driver);
        let goes = left || self.session.bulk_out() != before;
        if goes {
            self.pump(driver);
        }
        goes
    }

    /// As [`Peer::pump`], if what the peer has said since the last time may let more go.
    pub(crate) fn pump_freed<D: Driver<Staging, Pieces>>(&mut self, driver: &D) {
        if self.session.take_freed() {
            self.pump(driver);
        }
    }

    /// Tells the session of publishers that have been met.
    fn meet(&mut self, now: Time) {
        let mut all = Vec::new();
        self.exports.meet(|met| all.push(met));
        for met in all {
            let input = match met {
                Met::Source(met) => self.source(met),
                Met::Gone(source, last) => Input::SourceGone { source, last },
            };
            self.inputs.push(input);
        }
        if !self.inputs.is_empty() {
            self.answer(now);
        }
    }

    /// What the session, and by it the peer, is told of a source.
    pub(super) fn source(&self, met: ExportedSource) -> Input<Outbound> {
        let announce = Announce {
            source: met.source,
            topic: met.topic,
            publisher: label_of(&met.process),
            process: label_of(&met.process),
            host: label_of(&self.host),
            created_ns: met.created_ns,
            reliable: met.care == Care::Reliable,
            resumes: false,
        };
        Input::Source { announce, next: met.first }
    }

    /// As [`Peer::pump`], for one source only: its publisher has just sent something and calls this itself. What it costs
    /// does not depend on how many other sources there are. Returns how many messages were read, or `None` where the
    /// peer does not read that source.
    pub(crate) fn pump_source<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        now: Time,
        source: PortId,
    ) -> Option<usize> {
        if self.exports.has_arrivals() {
            self.meet(now);
            self.write_at(driver, now);
        }
        if !self.exports.has(source) {
            return None;
        }
        self.share_backlog();
        let mut all = 0;
        while self.session.may_send(source) {
            let read = self.fill_from(now, source, FILL_MAX, &mut { FILL_BYTES });
            all += read;
            if !self.outputs.is_empty() {
                self.carry_out(now);
            }
            if !self.write_at(driver, now) || read == 0 {
                break;
            }
        }
        Some(all)
    }

    /// Before the peer's queue is filled, also while a write is stuck: its part of what all may hold.
    fn share_backlog(&mut self) {
        if let Some(wire) = &self.wire {
            self.session.set_queue_bytes(wire.backlog.bytes());
        }
    }

    /// Whether all that is sent to the peer is one publisher's.
    pub(crate) fn has_one_source(&self) -> bool {
        self.exports.count() <= 1
    }

    /// How many messages up to `sequence` of a source wait here for the link, which loses none.
    pub(crate) fn behind(&self, source: PortId, sequence: u64) -> u64 {
        if self.wire.is_none() { 0 } else { self.exports.behind(source, sequence) }
    }

    /// Gives the session the next messages of those sources that may send.
    fn fill(&mut self, now: Time) -> usize {
        let full = self.exports.count() <= FULL_MAX || now >= self.full_at;
        let all = if full { self.fill_in_turn(now) } else { self.fill_from_news(now) };
        if !self.outputs.is_empty() {
            self.carry_out(now);
        }
        all
    }

    /// As `fill`, of sources whose head says that there is something, each once. Ends are not found by that.
    fn fill_from_news(&mut self, now: Time) -> usize {
        let (mut all, mut held_up, mut bytes) = (self.pump_words(now), false, FILL_BYTES);
        let count = self.exports.count();
        let start = self.turn.min(count);
        'places: for places in [start..count, 0..start] {
            let mut at = places.start;
            while all < FILL_MAX
                && bytes > 0
                && let Some((place, source)) = self.exports.news(at..places.end)
            {
                if !self.session.may_any_send() {
                    // It is the first whose turn it is when the peer, or the connection, lets more go.
                    (self.turn, held_up) = (place, true);
                    break 'places;
                }
                at = place + 1;
                self.turn = at;
                if self.session.may_send(source) {
                    all += self.fill_from(now, source, TURN_MAX, &mut bytes);
                } else {
                    held_up = true;
                }
            }
        }
        if all > 0 || held_up {
            // It notes whether there is room for any, which its figures are made of.
            let _ = self.session.next_source();
        }
        all
    }

    /// As `fill`, of all sources in turn, those that have ended with them. The fewer had something the last time, the more
    /// each may give.
    fn fill_in_turn(&mut self, now: Time) -> usize {
        let (mut all, mut empty, mut last, mut bytes) = (0, 0, None, FILL_BYTES);
        // Channels have their turns too: a look is at all only if it is as long as the round is.
        let most = self.session.exports();
        let turn = (FILL_MAX / self.gave.max(1)).max(TURN_MAX);
        while all < FILL_MAX && bytes > 0 && empty <= most {
            let Some(source) = self.session.next_source() else {
                self.looked_at = most;
                break;
            };
            let read = self.fill_from(now, source, turn.min(FILL_MAX - all), &mut bytes);
            all += read;
            self.looked_at += 1;
            empty = if read == 0 { empty + 1 } else { 0 };
            self.giving += usize::from(read > 0 && last.replace(source) != Some(source));
        }
        if self.looked_at >= most {
            self.gave = std::mem::take(&mut self.giving);
            self.looked_at = 0;
            self.full_at = now.after_ms(FULL_MS);
        }
        all
    }

    /// Gives the session the next messages of a source that may send, at most `most`, and no more when `bytes` of runs are
    /// used up.
    fn fill_from(&mut self, now: Time, source: PortId, most: usize, bytes: &mut usize) -> usize {
        if self.is_channel(source) {
            return self.pump_words(now);
        }
        let mut read = 0;
        while read < most && *bytes > 0 && (read == 0 || self.session.may_send(source)) {
            let mut room = self.session.room(source);
            room.messages = room.messages.min((most - read) as u64);
            let mut run = self.session.spare_run();
            // Not asked for: a run begins with its first message.
            run.begin(TopicId(0), source, 0, 0);
            let found = self.exports.take_run(source, &room, &mut run);
            let packed = usize::try_from(run.count()).unwrap_or(usize::MAX);
            read = read.saturating_add(packed);
            *bytes = bytes.saturating_sub(run.bytes().len());
            if packed > 0 {
                self.session.handle(now, Input::Run(run), &mut self.outputs);
            } else {
                self.session.put_back(run);
            }
            let input = match found {
                // Whether that was all, and whether the publisher is gone, is asked when this is on its way.
                Found::NothingYet => break,
                Found::Nothing if packed > 0 => continue,
                Found::Nothing => break,
                Found::Message(header, payload) => Input::Publish { source, header, payload },
                Found::Lost(gap) => {
                    let to = gap.from.saturating_add(gap.count).saturating_sub(1);
                    Input::Lost { source, from: gap.from, to, cause: gap.cause }
                }
                Found::End { last } => Input::SourceGone { source, last },
            };
            self.session.handle(now, input, &mut self.outputs);
            read += 1;
        }
        read
    }
}
