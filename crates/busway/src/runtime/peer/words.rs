//! What a peer says about work, and what is said to it: outputs of the session that concern no ring.
//!
//! Invariant: what concerns the channel is done here and nowhere else, whoever asks.

use busway_io::Driver;
use busway_protocol::{Input, Output, Permits, Time};
use busway_shm::clock;
use busway_wire::PortId;

use crate::runtime::desk::{Between, Channel, Course, Heard, Says, Standing, WANT, WANT_LARGE};
use crate::runtime::peer::Peer;
use crate::runtime::{Pieces, Staging};

/// Words read for a peer before others have their turn.
const WORDS_MAX: usize = 64;

impl Peer {
    /// Does what the session asks for, if it concerns words about work; returns it if not.
    pub(super) fn carry_out_of_work(&mut self, output: Output) -> Option<Output> {
        let Some(channel) = &mut self.channel else { return Some(output) };
        match &output {
            Output::Established { hello, .. } => {
                channel.established(hello.instance, &mut self.inputs);
                return Some(output);
            }
            Output::PeerWants { id, pattern, .. } => {
                let of = |course: &Course| pattern.exact() == Some(channel.topic(*course));
                let Some(course) = Course::ALL.into_iter().find(of) else { return Some(output) };
                channel.wanted(course, *id, &mut self.inputs);
            }
            Output::PeerUnwants { id } => {
                if !channel.unwanted(*id, &mut self.inputs) {
                    return Some(output);
                }
            }
            Output::OpenRelay { announce } => {
                let of = |course: &Course| announce.topic == *channel.topic(*course);
                let Some(course) = Course::ALL.into_iter().find(of) else { return Some(output) };
                channel.open(course, announce.source, &mut self.inputs);
            }
            Output::CloseRelay { source } => {
                let Some(course) = channel.theirs(*source) else { return Some(output) };
                channel.close(course, &mut self.inputs);
            }
            Output::Abort { source } => {
                let Some(course) = channel.theirs(*source) else { return Some(output) };
                channel.abort(course);
            }
            Output::RelayGap { source, to, .. } => {
                let Some(course) = channel.theirs(*source) else { return Some(output) };
                channel.gap(course, *to);
            }
            Output::Pass { source, to } => {
                let Some(course) = channel.ours(*source) else { return Some(output) };
                channel.confirm(course, *to);
            }
            Output::Rewind { source, to } => {
                let Some(course) = channel.ours(*source) else { return Some(output) };
                channel.rewind(course, *to, &self.permits);
            }
            Output::SourceDone { source, .. } | Output::SourceDenied { source, .. }
                if channel.ours(*source).is_some() => {}
            _ => return Some(output),
        }
        None
    }

    /// Begins to listen for the peer's words about work, and to say ours.
    pub(crate) fn share_work<D: Driver<Staging, Pieces>>(&mut self, driver: &D, channel: Channel) {
        let channel = self.channel.insert(channel);
        let wants = [(Course::Quick, WANT), (Course::Large, WANT_LARGE)];
        let wants =
            wants.map(|(course, id)| (busway_wire::Pattern::Exact(channel.topic(course).clone()), id));
        for (pattern, id) in wants {
            self.tell(driver, Input::Want { id, pattern, reliable: true });
        }
    }

    /// Takes what has come. Returns how the peer stands, or `None` where work is not shared.
    pub(crate) fn take_words<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        heard: &mut Heard,
    ) -> Option<Standing> {
        let channel = self.channel.as_mut()?;
        channel.passes(clock::monotonic_ns());
        channel.take(&mut heard.come, &mut self.inputs);
        heard.withheld = channel.withheld();
        let standing = channel.standing().takes(self.session.largest());
        if !self.inputs.is_empty() {
            self.answer(Time(driver.now_ns()));
            self.write(driver);
        }
        Some(standing)
    }

    /// Says this to the peer, which was given `by` these rights, if it is who it was for. Who shares work with it takes larger words of it.
    pub(crate) fn say_words<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        between: Between,
        say: Says,
        by: &Permits,
        shares: bool,
    ) {
        let Some(channel) = &mut self.channel else { return };
        if shares {
            channel.shares_work();
        }
        channel.say_all(between, say, [by, &self.permits], &mut self.inputs);
        let now = Time(driver.now_ns());
        if !self.inputs.is_empty() {
            self.answer(now);
        }
        self.pump_words(now);
        self.write(driver);
    }

    /// What the peer may do.
    pub(crate) fn permits(&self) -> &Permits {
        &self.permits
    }

    /// Whether words wait that the session may be given.
    fn has_words(&self, course: Course) -> bool {
        self.channel
            .as_ref()
            .is_some_and(|channel| channel.has_next(course) && self.session.may_send(channel.source(course)))
    }

    /// Whether this is a source of our words.
    pub(super) fn is_channel(&self, source: PortId) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.ours(source).is_some())
    }

    /// Gives the session the next words, as far as it has room. Returns how many.
    pub(super) fn pump_words(&mut self, now: Time) -> usize {
        let mut said = 0;
        loop {
            let before = said;
            for course in Course::ALL {
                if self.has_words(course)
                    && let Some(channel) = &mut self.channel
                    && let Some((header, payload)) = channel.next(course)
                {
                    let source = header.source();
                    let input = Input::Publish { source, header, payload };
                    self.session.handle(now, input, &mut self.outputs);
                    said += 1;
                }
            }
            if said == before || said >= WORDS_MAX {
                break;
            }
        }
        if !self.outputs.is_empty() {
            self.carry_out(now);
        }
        said
    }
}

#[cfg(test)]
mod tests;
