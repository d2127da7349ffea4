//! What a peer says about artifacts, and what is said to it: outputs of the session that concern no ring.
//!
//! Invariant: what concerns the channel is done here and nowhere else, whoever asks.

use busway_io::Driver;
use busway_protocol::gossip::Lane;
use busway_protocol::{Input, Output, Time};
use busway_wire::gossip::pattern;
use busway_wire::link::{Refusal, RefusalCode};

use crate::runtime::gossip::{Channel, WANT};
use crate::runtime::peer::Peer;
use crate::runtime::{Pieces, Staging};

impl Peer {
    /// Does what the session asks for, if it concerns words about artifacts; returns it if not.
    pub(super) fn carry_out_of_artifacts(&mut self, output: Output) -> Option<Output> {
        let Some(channel) = &mut self.artifacts else { return Some(output) };
        match &output {
            Output::Established { .. } => {
                channel.established(&mut self.inputs);
                return Some(output);
            }
            Output::PeerWants { id, pattern: wanted, .. } if *wanted == pattern() => {
                channel.wanted(*id, &mut self.inputs);
            }
            Output::PeerUnwants { id } if channel.unwanted(*id) => {}
            Output::OpenRelay { announce } if channel.is_lane(&announce.topic) => {
                channel.open(announce.source, &announce.topic, &mut self.inputs);
            }
            Output::CloseRelay { source } if channel.is_theirs(*source) => channel.close(*source),
            Output::Abort { source } if channel.is_theirs(*source) => channel.abort(*source),
            Output::RelayGap { source, to, .. } if channel.is_theirs(*source) => {
                self.inputs.push(Input::Published { source: *source, sequence: *to });
                // Nobody says them again, and what would follow from them is not known: the next link begins anew.
                let refusal = Refusal::new(RefusalCode::Protocol, "words about artifacts are lost", 0);
                self.inputs.push(Input::Refuse { refusal });
            }
            Output::Pass { source, .. }
            | Output::Rewind { source, .. }
            | Output::SourceDone { source, .. }
            | Output::SourceDenied { source, .. }
                if channel.is_ours(*source) => {}
            _ => return Some(output),
        }
        None
    }

    /// Begins to listen for the peer's words about artifacts.
    pub(crate) fn share_artifacts<D: Driver<Staging, Pieces>>(&mut self, driver: &D, channel: Channel) {
        self.artifacts = Some(channel);
        self.tell(driver, Input::Want { id: WANT, pattern: pattern(), reliable: false });
    }

    /// The link has ended: so do the sources of our words on it.
    pub(super) fn lose_artifacts(&mut self, now: Time) {
        let Some(channel) = &mut self.artifacts else { return };
        for source in channel.lost(&mut self.inputs) {
            self.session.handle(now, Input::Revoked { source }, &mut self.outputs);
        }
        self.answer(now);
    }

    /// Takes what has come in these lanes over the link that stands. Returns which that is, if there is one.
    pub(crate) fn take_artifact_words<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        lanes: [bool; Lane::ALL.len()],
        come: &mut Vec<(Lane, Option<Vec<u8>>)>,
    ) -> Option<u64> {
        let channel = self.artifacts.as_mut()?;
        channel.take(lanes, come, &mut self.inputs);
        let link = channel.link();
        if !self.inputs.is_empty() {
            self.answer(Time(driver.now_ns()));
            self.write(driver);
        }
        link
    }

    /// Which link stands on which words about artifacts go.
    pub(crate) fn artifact_link(&self) -> Option<u64> {
        self.artifacts.as_ref().and_then(Channel::link)
    }

    /// Whether one more word may be said on this lane. Where it may not, whoever says words is woken when it may.
    pub(crate) fn may_say(&mut self, lane: Lane) -> bool {
        let Some(channel) = &mut self.artifacts else { return false };
        let may = self.session.may_send(channel.source(lane));
        channel.set_waits(lane, !may);
        may
    }

    /// Gives the session a word, of which `may_say` has said that it may be said.
    pub(crate) fn say_of_artifacts(&mut self, now: Time, lane: Lane, body: Vec<u8>) {
        let Some(channel) = &mut self.artifacts else { return };
        let input = channel.say(lane, body);
        self.session.handle(now, input, &mut self.outputs);
        if !self.outputs.is_empty() {
            self.carry_out(now);
        }
    }

    /// Wakes whoever says words, if one may be said that could not be.
    pub(super) fn rouse(&self) {
        let Some(channel) = &self.artifacts else { return };
        let may = |lane: Lane| channel.waits(lane) && self.session.may_send(channel.source(lane));
        if Lane::ALL.into_iter().any(may) {
            channel.rouse();
        }
    }
}
