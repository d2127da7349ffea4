//! The receiving half of a session: the peer's sources, and what comes of them.
//!
//! Who announces what it was not asked for, or sends what it has not announced, is not believed: it is dropped and
//! counted, and gives its credit back. The relay rings, and the messages that wait for room in them, are the caller's.
//!
//! Invariant: what has been delivered of a source and not been published is at most its window.

use busway_wire::limits::{
    LINK_ACKNOWLEDGE_MS, LINK_CREDIT_MS, LINK_ENDED_SOURCES_MAX, LINK_LAZY_MS, LINK_SOURCES_MAX,
};
use busway_wire::link::{Announce, Deny, Gap, Retire};
use busway_wire::{Cause, DecodeError, HEADER_SIZE, Header, PortId, Records};

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::PeerError;
use crate::link::Amount;
use crate::session::relay::{Ended, Phase, Relay, Verdict};
use crate::session::{Delivery, Outbox, Output, Session};
use crate::time::Time;

impl<P: AsRef<[u8]> + Clone> Session<P> {
    /// The peer has a source for us.
    pub(super) fn announced(&mut self, announce: Announce, out: &mut Outbox) -> Result<(), PeerError> {
        let source = announce.source;
        if let Some(relay) = self.relays.get_mut(&source) {
            if relay.announce().topic != announce.topic {
                return Err(PeerError::Announcement { source });
            }
            if relay.stands() {
                // Told twice, because the peer had not heard our answer. Messages may be right behind it: they follow that.
                return Ok(());
            }
            relay.announced(announce.clone());
        } else {
            let full = self.relays.len() >= LINK_SOURCES_MAX + LINK_ENDED_SOURCES_MAX;
            if full || !self.wants.matches(&announce.topic) {
                // It is not answered, so nothing of it may come. If it is wanted no longer, its end comes next.
                self.count(Cause::LinkBudget, u64::from(full));
                return Ok(());
            }
            let hello = &self.config.hello;
            let messages = u64::from(hello.window_messages.max(1));
            let window = Amount { messages, bytes: hello.window_bytes };
            self.relays.insert(source, Relay::new(announce.clone(), window));
        }
        out.push(Output::OpenRelay { announce });
        Ok(())
    }

    /// A source has no message behind `last`.
    pub(super) fn retired(&mut self, now: Time, retire: Retire, out: &mut Outbox) {
        let source = retire.source;
        let Some(relay) = self.relays.get_mut(&source).filter(|relay| relay.is_here()) else { return };
        if let Some(hole) = relay.retire(retire.last) {
            self.hole(source, hole, out);
        }
        self.after_relay(now, source, out);
    }

    /// A whole message.
    pub(super) fn message<'a>(
        &mut self,
        now: Time,
        header: Header,
        body: &'a [u8],
        out: &mut Outbox,
    ) -> Option<Delivery<'a>> {
        let amount = Amount::message(body.len() as u64);
        let sequence = header.sequence.get();
        let relay = self.look(now, &header, sequence, amount, out)?;
        relay.arrive(sequence, amount);
        Some(Delivery::Message { header, body })
    }

    /// Messages that share a header. What of them has come before is dropped, as it is of those that come alone.
    pub(super) fn run<'a>(
        &mut self,
        now: Time,
        header: Header,
        mut records: Records<'a>,
        out: &mut Outbox,
    ) -> Option<Delivery<'a>> {
        let mut amount = Amount { messages: records.count_left(), bytes: records.payload_bytes() };
        let (first, last) = (records.next_sequence(), records.last_sequence());
        let relay = self.look(now, &header, last, amount, out)?;
        let early = relay.next().unwrap_or(first).saturating_sub(first);
        let twice = records.by_ref().take(usize::try_from(early).unwrap_or(usize::MAX));
        let twice = twice.map(|message| message.payload.len() as u64);
        let again = twice.fold(Amount::default(), |mut sum, size| {
            sum.add(Amount::message(size));
            sum
        });
        amount.take(again);
        relay.arrive(last, amount);
        if again.messages > 0 {
            self.duplicates = self.duplicates.saturating_add(again.messages);
            self.give_back(now, again);
        }
        Some(Delivery::Run { header, records })
    }

    /// The beginning of a message that comes in pieces.
    pub(super) fn begin<'a>(
        &mut self,
        now: Time,
        header: Header,
        extensions: &'a [u8],
        out: &mut Outbox,
    ) -> Option<Delivery<'a>> {
        let size = u64::from(header.size.get()).saturating_sub(HEADER_SIZE as u64);
        let amount = Amount::message(size);
        let relay = self.look(now, &header, header.sequence.get(), amount, out)?;
        relay.begin(header.sequence.get(), extensions.len() as u64, amount);
        Some(Delivery::Begin { header, extensions })
    }

    /// A whole message that is not what its sender summed.
    pub(super) fn spoiled(&mut self, now: Time, header: &Header, out: &mut Outbox) {
        let sequence = header.sequence.get();
        let amount = Amount::message(u64::from(header.size.get()).saturating_sub(HEADER_SIZE as u64));
        let Some(relay) = self.look(now, header, sequence, amount, out) else { return };
        if relay.is_reliable() {
            return self.fail(SPOILED, out);
        }
        relay.arrive(sequence, amount);
        self.lose_spoiled(header.source(), sequence, out);
    }

    /// A piece is not what its sender summed, of a message that is not dropped anyway.
    pub(super) fn spoiled_piece(&mut self, source: PortId, ends: bool, out: &mut Outbox) {
        let Some(relay) = self.relays.get_mut(&source) else { return };
        if relay.spoil() {
            if relay.is_reliable() {
                return self.fail(SPOILED, out);
            }
            out.push(Output::Abort { source });
        }
        if ends {
            self.end(source, out);
        }
    }

    /// The last piece of a message has come.
    pub(super) fn end(&mut self, source: PortId, out: &mut Outbox) -> Option<Delivery<'static>> {
        match self.relays.get_mut(&source)?.end() {
            Ended::Nothing => None,
            Ended::Whole => Some(Delivery::End { source }),
            Ended::Spoiled(sequence) => {
                self.lose_spoiled(source, sequence, out);
                None
            }
        }
    }

    /// One message is lost that was changed on its way, as a rule by the program that had sent it. Nothing else is: the
    /// link goes on. It costs credit, window and a place in the ring like any other, so that a flood needs no bound of its own.
    fn lose_spoiled(&mut self, source: PortId, sequence: u64, out: &mut Outbox) {
        self.count(Cause::Corrupt, 1);
        let (from, to) = (sequence, sequence);
        out.push(Output::RelayGap { source, from, to, cause: Cause::Corrupt, link: self.incoming_name() });
    }

    /// Messages that will never come.
    pub(super) fn gap(&mut self, now: Time, gap: Gap, out: &mut Outbox) -> Result<(), PeerError> {
        let (source, amount) = (gap.source, Amount::message(0));
        let verdict = match self.relays.get(&source).filter(|relay| relay.is_here()) {
            Some(relay) => relay.look(gap.from, gap.to, amount),
            None => Verdict::Drop(Cause::SpoofedSource),
        };
        match verdict {
            Verdict::TooMuch => return Err(PeerError::Credit { source }),
            Verdict::Duplicate | Verdict::Drop(_) => self.give_back(now, amount),
            Verdict::Take { hole } => {
                if let Some(hole) = hole {
                    self.hole(source, hole, out);
                }
                let Some(relay) = self.relays.get_mut(&source) else { return Ok(()) };
                // The beginning of it may have come as messages.
                let from = relay.next().map_or(gap.from, |next| next.max(gap.from));
                relay.arrive(gap.to, amount);
                out.push(Output::RelayGap { source, from, to: gap.to, cause: gap.cause, link: gap.link });
            }
        }
        Ok(())
    }

    /// All up to `sequence` stands in the relay ring.
    pub(super) fn published(&mut self, now: Time, source: PortId, sequence: u64, out: &mut Outbox) {
        let Some(relay) = self.relays.get_mut(&source) else { return };
        let amount = relay.published(sequence);
        let (due, accept) = (relay.is_due(), relay.answer());
        let waited_for = relay.is_waited_for();
        self.hurries |= waited_for;
        let ms = if waited_for { LINK_ACKNOWLEDGE_MS } else { LINK_LAZY_MS };
        if let Some(link) = &mut self.link {
            link.consume(amount);
            let accept = if due { relay.tell() } else { accept };
            match accept {
                Some(accept) => link.tell_accept(accept),
                None if amount != Amount::default() => {
                    self.dirty.insert(source);
                    let at = now.after_ms(ms);
                    self.acknowledge_at = Some(self.acknowledge_at.map_or(at, |before| before.min(at)));
                }
                None => {}
            }
        }
        self.after_relay(now, source, out);
    }

    /// There is no relay ring for this source.
    pub(super) fn refuse_relay(&mut self, now: Time, source: PortId, cause: Cause) {
        if let Some(relay) = self.relays.get_mut(&source) {
            let amount = relay.refused(cause);
            self.give_back(now, amount);
            // What comes of it is counted as it comes, but an honest peer sends nothing.
            self.count(cause, u64::from(cause != Cause::SpoofedSource));
            if cause == Cause::Denied
                && let Some(link) = &mut self.link
            {
                // Its publishers must not wait for an answer that never comes.
                link.tell_deny(Deny { source, cause });
            }
        }
    }

    /// Answers a source that waits for it, and lets one go that has ended.
    pub(super) fn after_relay(&mut self, now: Time, source: PortId, out: &mut Outbox) {
        let Some(relay) = self.relays.get_mut(&source) else { return };
        let answer = relay.answer();
        let refused = matches!(relay.phase(), Phase::Refused(_));
        let ends = relay.ends();
        let last = if ends { relay.tell() } else { None };
        if let Some(link) = &mut self.link
            && let Some(accept) = last.or(answer)
        {
            link.tell_accept(accept);
        }
        if ends {
            if !refused {
                out.push(Output::CloseRelay { source });
            }
            self.ended.push_back(source);
        }
        while self.ended.len() > LINK_ENDED_SOURCES_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            if self.relays.get(&oldest).is_some_and(|relay| relay.phase() == Phase::Closed) {
                self.relays.remove(&oldest);
            }
        }
        self.owe(now);
    }

    /// What the peer has not announced again on this link has ended.
    pub(super) fn end_stale_relays(&mut self, now: Time, out: &mut Outbox) {
        let stale: Vec<PortId> =
            self.relays.iter().filter(|(_, relay)| !relay.is_here()).map(|(source, _)| *source).collect();
        for source in stale {
            if let Some(relay) = self.relays.get_mut(&source) {
                relay.retire(0);
            }
            self.after_relay(now, source, out);
        }
    }

    /// Sees to it that consumed credit is told in time.
    pub(super) fn owe(&mut self, now: Time) {
        if let Some(link) = self.link.as_ref().filter(|link| link.owes_credit()) {
            let ms = match link.takes_large() {
                true => LINK_ACKNOWLEDGE_MS,
                false if self.hurries => LINK_CREDIT_MS,
                false => LINK_LAZY_MS,
            };
            let at = now.after_ms(ms);
            self.credit_at = Some(self.credit_at.map_or(at, |before| before.min(at)));
        }
    }

    /// Decides over a message, or a run to the sequence `to`: the relay that takes it, or none.
    fn look(
        &mut self,
        now: Time,
        header: &Header,
        to: u64,
        amount: Amount,
        out: &mut Outbox,
    ) -> Option<&mut Relay> {
        let (source, sequence) = (header.source(), header.sequence.get());
        let known = self.relays.get(&source).filter(|relay| relay.is_here());
        if known.is_some_and(|relay| !relay.is_of(header)) {
            self.fail(PeerError::Announcement { source }, out);
            return None;
        }
        let spoofed = Verdict::Drop(Cause::SpoofedSource);
        match known.map_or(spoofed, |relay| relay.look(sequence, to, amount)) {
            Verdict::TooMuch => self.fail(PeerError::Credit { source }, out),
            Verdict::Duplicate => {
                self.duplicates = self.duplicates.saturating_add(amount.messages);
                self.give_back(now, amount);
            }
            Verdict::Drop(cause) => {
                self.count(cause, amount.messages);
                self.give_back(now, amount);
            }
            Verdict::Take { hole } => {
                if let Some(hole) = hole {
                    self.hole(source, hole, out);
                }
                return self.relays.get_mut(&source);
            }
        }
        None
    }

    /// What is dropped gives its credit back.
    fn give_back(&mut self, now: Time, amount: Amount) {
        if let Some(link) = &mut self.link {
            link.consume(amount);
        }
        self.owe(now);
    }

    /// Messages are missing of which the peer has said nothing.
    fn hole(&mut self, source: PortId, (from, to): (u64, u64), out: &mut Outbox) {
        self.count(Cause::LinkLost, (to - from).saturating_add(1));
        if let Some(relay) = self.relays.get_mut(&source) {
            relay.arrive(to, Amount::default());
        }
        out.push(Output::RelayGap { source, from, to, cause: Cause::LinkLost, link: self.incoming_name() });
    }

    /// The peer's half of the link, as losses name it to people.
    fn incoming_name(&self) -> String {
        format!("{} > {}", self.peer, self.config.hello.identity)
    }
}

/// What a reliable source says goes in copies, which nobody changes: that was the line, and what is sent again may be whole.
const SPOILED: PeerError = PeerError::Decode(DecodeError::ChecksumPayload);
