//! The receiving half of a link: which frames may come when, and what a message costs.
//!
//! A frame that the link needs for itself ends here; the others go to the session. Nothing of their sources is known.
//!
//! Invariant: nothing but a hello or a refusal is taken before both have said hello.

use busway_wire::link::{self, Features, Frame, Gap, Hello, Retire};
use busway_wire::{DecodeError, HEADER_SIZE, Header, Kind, Part, Records};

use crate::error::{Closed, PeerError};
use crate::framing::Sum;
use crate::link::credit::Amount;
use crate::link::{Event, Link, State};
use crate::time::Time;

impl<P: AsRef<[u8]> + Clone> Link<P> {
    /// A whole frame: what it means for the link, or whom it is for.
    pub(super) fn frame<'a>(
        &mut self,
        now: Time,
        header: Header,
        body: &'a [u8],
    ) -> Result<Option<Event<'a>>, Closed> {
        if header.kind().is_some_and(Kind::crosses_links) {
            self.whole(&header)?;
            return Ok(Some(Event::Message { header, body }));
        }
        if header.kind() == Some(Kind::Run) {
            return self.run(header, body).map(Some);
        }
        let frame = link::decode(&header, body).map_err(|error| self.fail(error.into()))?;
        self.stats.frames_in.count(frame.kind());
        match frame {
            Frame::Hello(hello) => self.greeted(now, hello).map(Some),
            Frame::Refusal(refusal) => {
                let closed = Closed::Refused(refusal);
                self.end(closed.clone(), None);
                Err(closed)
            }
            Frame::Ping { .. } | Frame::Pong { .. } | Frame::Credit(_) | Frame::Goodbye { .. } => {
                self.expect_established(frame.kind())?;
                self.own(now, frame)?;
                Ok(None)
            }
            Frame::Interest(_)
            | Frame::Announce(_)
            | Frame::Retire(_)
            | Frame::Accept(_)
            | Frame::Deny(_)
            | Frame::Gap(_) => {
                self.expect_established(frame.kind())?;
                // What tells of a source's messages stands between two of them: its receiver would keep the memory of
                // one that has begun for good.
                if let Frame::Gap(Gap { source, .. }) | Frame::Retire(Retire { source, .. }) = &frame
                    && self.parts.is_open(*source)
                {
                    return Err(self.fail(PeerError::Part { source: *source }));
                }
                if let Frame::Gap(Gap { source, .. }) = &frame
                    && self.granted.arrive(Amount::message(0)).is_err()
                {
                    return Err(self.fail(PeerError::Credit { source: *source }));
                }
                Ok(Some(Event::Frame(frame)))
            }
        }
    }

    /// A whole message that is not what its sender summed. For all else it is one like others.
    pub(super) fn spoiled(&mut self, header: Header) -> Result<Event<'static>, Closed> {
        self.whole(&header)?;
        Ok(Event::Spoiled { header })
    }

    /// A message in one piece: may it come?
    fn whole(&mut self, header: &Header) -> Result<(), Closed> {
        self.expect_established(header.kind().unwrap_or(Kind::Publish))?;
        let size = u64::from(header.size.get()).saturating_sub(HEADER_SIZE as u64);
        self.arrive(header, size.saturating_sub(header.extension_bytes() as u64), Amount::message(size))?;
        if self.parts.is_open(header.source()) {
            return Err(self.fail(PeerError::Part { source: header.source() }));
        }
        self.count_in(header);
        Ok(())
    }

    /// Words about artifacts are no messages of anybody.
    fn count_in(&mut self, header: &Header) {
        let counts = u64::from(header.kind() == Some(Kind::Publish));
        self.stats.messages_in = self.stats.messages_in.saturating_add(counts);
    }

    /// Messages that share a header: what is true of one that comes by itself is true of each of them, or none is taken.
    fn run<'a>(&mut self, header: Header, body: &'a [u8]) -> Result<Event<'a>, Closed> {
        self.expect_established(Kind::Run)?;
        if self.ours.features & Features::RUNS == 0 {
            return Err(self.fail(PeerError::Unexpected { kind: Kind::Run }));
        }
        let records = Records::check(&header, body).map_err(|error| self.fail(error.into()))?;
        let cost = Amount { messages: records.count_left(), bytes: records.payload_bytes() };
        self.arrive(&header, records.largest() as u64, cost)?;
        if self.parts.is_open(header.source()) {
            return Err(self.fail(PeerError::Part { source: header.source() }));
        }
        self.stats.messages_in = self.stats.messages_in.saturating_add(records.count_left());
        Ok(Event::Run { header, records })
    }

    /// A frame that is for the link itself.
    fn own(&mut self, now: Time, frame: Frame) -> Result<(), Closed> {
        match frame {
            Frame::Ping { stamp } => {
                self.control.pong = Some(stamp);
                self.asked = true;
            }
            Frame::Pong { stamp } => self.stats.round_trip_ns = now.since(Time(stamp)),
            Frame::Credit(credit) => {
                let raised = self.grant.as_mut().map_or(Ok(()), |grant| grant.raise(&credit));
                raised.map_err(|_| self.fail(PeerError::Acknowledgement { source: None }))?;
                self.stats.messages_seen = credit.received;
                self.raised = true;
            }
            Frame::Goodbye { reason } => {
                let closed = Closed::Goodbye { reason };
                self.end(closed.clone(), None);
                return Err(closed);
            }
            Frame::Hello(_)
            | Frame::Refusal(_)
            | Frame::Interest(_)
            | Frame::Announce(_)
            | Frame::Retire(_)
            | Frame::Accept(_)
            | Frame::Deny(_)
            | Frame::Gap(_) => {}
        }
        Ok(())
    }

    fn greeted(&mut self, now: Time, hello: Hello) -> Result<Event<'static>, Closed> {
        if self.state != State::Greeting {
            return Err(self.fail(PeerError::Unexpected { kind: Kind::Hello }));
        }
        let (theirs, ours) = (hello.cluster, self.ours.cluster);
        if theirs != ours {
            return Err(self.fail(PeerError::Cluster { theirs, ours }));
        }
        if let Some(expected) = self.expected
            && hello.identity != expected
        {
            return Err(self.fail(PeerError::Identity { theirs: hello.identity, expected }));
        }
        self.theirs = Some(hello.clone());
        match self.expected {
            Some(_) => self.establish(now),
            None => self.state = State::Greeted,
        }
        Ok(Event::Hello(hello))
    }

    /// The beginning of a message or a part that comes in pieces.
    pub(super) fn begin<'a>(
        &mut self,
        header: Header,
        part: Option<Part>,
        extensions: &'a [u8],
    ) -> Result<Option<Event<'a>>, Closed> {
        self.expect_established(header.kind().unwrap_or(Kind::Publish))?;
        let source = header.source();
        self.coming = Some(source);
        let piece = u64::from(header.size.get()).saturating_sub((HEADER_SIZE + extensions.len()) as u64);
        // The part's own extension comes first, and is not the message's.
        let own = match part {
            Some(_) => extensions.get(Part::SIZE..).unwrap_or_default(),
            None => extensions,
        };
        let total = part.map_or(piece, |part| part.total);
        let first = self
            .parts
            .begin(&header, part, piece, own.len())
            .map_err(|_| self.fail(PeerError::Part { source }))?;
        if !first {
            return Ok(None);
        }
        let size = total.saturating_add(own.len() as u64);
        self.arrive(&header, total, Amount::message(size))?;
        self.count_in(&header);
        let mut header = header;
        // At most 2 040 bytes of extensions, and no message is larger than 2^30.
        header.extensions = u8::try_from(own.len() / 8).unwrap_or(u8::MAX);
        header.size.set(u32::try_from(size).unwrap_or(u32::MAX).saturating_add(HEADER_SIZE as u32));
        Ok(Some(Event::Begin { header, extensions: own }))
    }

    /// The end of a piece; an event if it is that of a message, or not what was summed.
    pub(super) fn finish(&mut self, header: &Header, sum: Sum) -> Option<Event<'static>> {
        let (source, ends) = (header.source(), self.parts.finish());
        match sum {
            Sum::Holds => ends.then_some(Event::End { source }),
            Sum::Fails => Some(Event::SpoiledPiece { source, ends }),
        }
    }

    /// A message has begun to come, or a run of which the largest has this size: may they, and were they granted?
    fn arrive(&mut self, header: &Header, size: u64, cost: Amount) -> Result<(), Closed> {
        let source = header.source();
        let size_max = u64::from(self.ours.message_bytes_max);
        if size > size_max {
            return Err(self.fail(PeerError::Decode(DecodeError::TooLarge { size, size_max })));
        }
        if header.sequence.get() == 0 {
            return Err(self.fail(PeerError::Order { source }));
        }
        self.granted.arrive(cost).map_err(|_| self.fail(PeerError::Credit { source }))
    }

    fn expect_established(&mut self, kind: Kind) -> Result<(), Closed> {
        match self.state {
            State::Established | State::Draining => Ok(()),
            State::Greeting | State::Greeted | State::Closed(_) => {
                Err(self.fail(PeerError::Unexpected { kind }))
            }
        }
    }
}
