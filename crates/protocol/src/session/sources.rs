//! The sending half of a session: our sources, and what the peer says of them.
//!
//! What a local publisher wrote is not believed here either: a message that the peer would refuse is lost with a
//! cause, instead of ending the link for all others. The ring and its row are the caller's.
//!
//! Invariant: what is put into the link's queue is in the flight of its export.

use alloc::format;
use alloc::string::String;

use busway_wire::link::{Accept, Announce, Deny, Frame, Retire};
use busway_wire::{Cause, Extensions, Flags, Header, Part, PortId, Run, VERSION};

use crate::error::PeerError;
use crate::link::{Amount, Link, State, can_go};
use crate::session::export::{Export, Phase};
use crate::session::{Account, Outbox, Output, Session};
use crate::time::PeerId;

impl<P: AsRef<[u8]> + Clone> Session<P> {
    pub(super) fn add_source(&mut self, announce: Announce, next: u64) {
        let source = announce.source;
        if self.exports.contains_key(&source) {
            return;
        }
        self.exports.insert(source, Export::new(announce, next));
        if self.link.as_ref().is_some_and(|link| *link.state() == State::Established) {
            self.to_announce.insert(source);
        }
    }

    /// The row's next message.
    pub(super) fn publish(&mut self, source: PortId, header: Header, payload: P, out: &mut Outbox) {
        let sequence = header.sequence.get();
        let Some(export) = self.exports.get(&source) else { return };
        if sequence > export.next() {
            // The row passed over them without a word; nobody else will ever count them.
            self.lose(source, sequence - 1, Cause::LinkLost, out);
        }
        let bytes = payload.as_ref().len() as u64;
        let refused = match self.exports.get(&source) {
            Some(export) => sendable(&header, source, export, payload.as_ref()),
            None => return,
        };
        let size_max = self.largest();
        let header = match refused {
            None => return self.lose(source, sequence, Cause::Corrupt, out),
            Some(header) if bytes.saturating_sub(header.extension_bytes() as u64) > size_max => {
                return self.lose(source, sequence, Cause::LinkBudget, out);
            }
            Some(header) => header,
        };
        let Some(export) = self.exports.get_mut(&source) else { return };
        if !export.publish(sequence, Amount::message(bytes)) {
            // The peer has had it since before our start: the row, which does not know that, may go on.
            if export.has_passed(sequence) {
                out.push(Output::Pass { source, to: sequence });
            }
            return;
        }
        self.flight += 1;
        if export.phase() == Phase::Flowing
            && let Some(link) = &mut self.link
        {
            link.outgoing().message(source, header, payload, export.way(sequence));
        }
        self.settle(source, out);
    }

    /// The largest message that the peer takes, in bytes; without a link there is no bound.
    #[must_use]
    pub fn largest(&self) -> u64 {
        let hello = self.link.as_ref().and_then(Link::hello);
        hello.map_or(u64::MAX, |hello| u64::from(hello.message_bytes_max))
    }

    /// The row's next messages, put together: what is decided over them is decided once.
    pub(super) fn publish_run(&mut self, mut run: Run, out: &mut Outbox) {
        let (source, first, last) = (run.source(), run.first(), run.last());
        let Some(next) = self.exports.get(&source).map(Export::next) else { return };
        if run.count() == 0 || first == 0 {
            return;
        }
        if first > next {
            // The row passed over them without a word; nobody else will ever count them.
            self.lose(source, first - 1, Cause::LinkLost, out);
        }
        let largest = self.largest();
        let Some(export) = self.exports.get_mut(&source) else { return };
        if run.topic() != export.topic() {
            return self.lose(source, last, Cause::Corrupt, out);
        }
        if run.largest() as u64 > largest {
            // Whoever fills it asks `room`, which says so.
            return self.lose(source, last, Cause::LinkBudget, out);
        }
        if first < next {
            // The peer has had it since before our start: the row, which does not know that, may go on.
            let known = last.min(next - 1);
            if export.has_passed(known) {
                out.push(Output::Pass { source, to: known });
            }
            run.skip(next - first);
        }
        let amount = Amount { messages: run.count(), bytes: run.payload_bytes() };
        let goes = export.publish(last, amount) && export.phase() == Phase::Flowing;
        self.flight += usize::from(last >= next);
        if let Some(link) = &mut self.link {
            if goes {
                link.outgoing().together(run);
            } else {
                link.outgoing().put_back(run);
            }
        }
        self.settle(source, out);
    }

    /// The row has lost all up to `to`.
    pub(super) fn lose(&mut self, source: PortId, to: u64, cause: Cause, out: &mut Outbox) {
        let label = || outgoing_name(self.config.hello.identity, self.peer);
        let Some(export) = self.exports.get_mut(&source) else { return };
        let Some(gap) = export.lose(to, cause, &label) else { return };
        self.flight += 1;
        if export.phase() == Phase::Flowing
            && let Some(link) = &mut self.link
        {
            link.outgoing().gap(gap);
        }
        self.settle(source, out);
    }

    /// The peer accepts a source, or has got further.
    pub(super) fn accepted(&mut self, accept: &Accept, out: &mut Outbox) -> Result<(), PeerError> {
        let source = accept.source;
        let label = || outgoing_name(self.config.hello.identity, self.peer);
        // The last word about a source may cross with its end.
        let (Some(export), Some(link)) = (self.exports.get_mut(&source), &mut self.link) else {
            return Ok(());
        };
        self.freed = true;
        let before = export.flight_len();
        let window = Amount { messages: u64::from(accept.window_messages), bytes: accept.window_bytes };
        if link.outgoing().window(source).is_some_and(|former| former.least(window) != former) {
            // What was put together for the former one would never find room.
            return Err(PeerError::Acknowledgement { source: Some(source) });
        }
        let accepted = export.accepted(accept, link.sent(source), &label)?;
        self.flight = (self.flight + export.flight_len()).saturating_sub(before);
        link.outgoing().accept(source, window, accepted.settled);
        for gap in accepted.gaps {
            link.outgoing().gap(gap);
        }
        out.extend(accepted.pass.map(|to| Output::Pass { source, to }));
        out.extend(accepted.rewind.map(|to| Output::Rewind { source, to }));
        self.settle(source, out);
        Ok(())
    }

    /// The peer does not take a source.
    pub(super) fn denied(&mut self, deny: Deny, out: &mut Outbox) {
        let Deny { source, cause } = deny;
        if let Some(account) = self.take_out(source, cause) {
            if let Some(link) = &mut self.link {
                // The peer need not remember it.
                link.push_ordered(Frame::Retire(Retire { source, last: 0 }));
            }
            out.push(Output::SourceDenied { source, cause, account });
        }
    }

    /// The peer may not have it any more, and need not keep a place for it. Behind half a message nothing is said of its end: the place stays as long
    /// as the link.
    pub(super) fn revoke(&mut self, source: PortId) {
        let partly = self.link.as_mut().is_some_and(|link| link.outgoing().is_partly_out(source));
        if self.take_out(source, Cause::Denied).is_some()
            && !partly
            && let Some(link) = self.link.as_mut().filter(|_| !self.closing)
        {
            link.push_ordered(Frame::Retire(Retire { source, last: 0 }));
        }
    }

    /// Forgets a source at once, with all that waits of it: what is not acknowledged is lost for this cause.
    pub(super) fn take_out(&mut self, source: PortId, cause: Cause) -> Option<Account> {
        let export = self.exports.remove(&source)?;
        self.flight = self.flight.saturating_sub(export.flight_len());
        // What it held up may go on.
        self.freed = true;
        self.to_announce.remove(&source);
        if let Some(link) = &mut self.link {
            link.outgoing().forget(source);
        }
        let mut account = export.account();
        if let Some(word) = account.dropped.get_mut(cause.index()) {
            *word = word.saturating_add(core::mem::take(&mut account.in_flight));
        }
        Some(account)
    }

    /// Tells the peer of the end of a source, and forgets the source, as soon as either may be.
    pub(super) fn settle(&mut self, source: PortId, out: &mut Outbox) {
        let Some(export) = self.exports.get_mut(&source).filter(|export| export.has_ended()) else { return };
        if let Some(last) = export.retire_now()
            && let Some(link) = &mut self.link
        {
            link.outgoing().retire(Retire { source, last });
        }
        if !export.is_done() {
            return;
        }
        if let Some(link) = &mut self.link {
            let retire = match export.phase() {
                Phase::Unannounced => None,
                // The peer was told of it, and has not answered: nothing of it will come.
                Phase::Announced => Some(Retire { source, last: export.next().saturating_sub(1) }),
                // All of it is there, so that nothing is in front of its end.
                Phase::Flowing => link.outgoing().forget(source),
            };
            if let Some(retire) = retire {
                link.push_ordered(Frame::Retire(retire));
            }
        }
        self.flight = self.flight.saturating_sub(export.flight_len());
        let account = export.account();
        self.exports.remove(&source);
        self.tally.done(&account.dropped);
        self.to_announce.remove(&source);
        out.push(Output::SourceDone { source, account });
    }
}

/// Our half of the link, as losses name it to people: both ends call it the same. It is made for a loss only: most
/// acknowledgements tell of none.
fn outgoing_name(ours: PeerId, theirs: PeerId) -> String {
    format!("{ours} > {theirs}")
}

/// The header of a message as the peer will take it, or `None` if it would refuse it.
fn sendable(header: &Header, source: PortId, export: &Export, following: &[u8]) -> Option<Header> {
    let mut link = Header::new(export.kind());
    link.hops_version = (VERSION << 4) | header.hops();
    link.flags = Flags::from_bits(header.flags)?.bits();
    link.extensions = header.extensions;
    link.topic.set(export.topic().0);
    link.source.set(source.0);
    link.sequence = header.sequence;
    link.time_ns = header.time_ns;
    link.correlation = header.correlation;
    let extensions = following.get(..link.extension_bytes())?;
    link.validate_extensions(extensions).ok()?;
    let whole = Part::of(Extensions::new(extensions)).ok()?.is_none();
    (whole && header.sequence.get() > 0 && can_go(&link, following)).then_some(link)
}
