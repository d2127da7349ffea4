//! One peer, as the desk knows it: what it has of ours, what it gave us, and since when its link is gone.
//!
//! It does not know links or threads, nor its peer's channel: it is told what has come, and says what is to be said.
//!
//! Invariant: what a peer said is taken in the order in which it came.

use busway_protocol::Permits;
use busway_wire::work::{Word, decode, parted};
use busway_wire::{Group, Topic};

use super::far::Far;
use super::near::{Look, Near};
use super::opener::{For, Opened};
use super::pulls::Pulls;
use super::{BLINK_NS, Context, GONE_NS, Says, Standing, is_too_large};

/// See the head of this file.
#[derive(Default)]
pub(super) struct Partner {
    /// Since when its link is gone.
    down_ns: Option<u64>,
    requests_ended: bool,
    gone: bool,
    permits: Option<Permits>,
    /// Words that could not be read, or meant nothing.
    nonsense: u64,
    /// The largest message that it takes.
    largest: u64,
    near: Near,
    far: Far,
}

/// What a peer has said, what it has not had of what was given, and what was opened for it.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) come: Vec<Vec<u8>>,
    /// Tasks that it may not have any more.
    pub(crate) withheld: Vec<u64>,
    pub(super) opened: Vec<(For, Opened)>,
}

impl Partner {
    /// Takes what the peer has said, and puts what is to be said to it. Returns also whether it has work of ours, or may give us some.
    pub(super) fn serve(
        &mut self,
        context: &Context<'_>,
        pulls: &Pulls,
        standing: Standing,
        heard: Heard,
        say: &mut Says,
    ) -> (Look, bool) {
        let mut look = Look::default();
        let permits = context.permits;
        self.largest = standing.largest;
        if self.permits.as_ref() != Some(permits) && self.permits.replace(permits.clone()).is_some() {
            self.near.permit(context);
            self.far.permit(context, say);
        }
        self.near.withheld(context, &heard.withheld);
        self.stand(context, standing, say, &mut look);
        for body in heard.come {
            self.heard(context, pulls, &body, say);
        }
        for (whom, opened) in heard.opened {
            self.opened(context, &whom, opened, say);
        }
        look.add(self.near.step(context, pulls, say, standing));
        look.add(self.far.step(context, pulls, say, standing));
        (look, self.near.gives() || self.far.takes())
    }

    /// The peer, or what we knew of it, is no more.
    pub(super) fn forget(&mut self, context: &Context<'_>, say: &mut Says) {
        self.near.end_all(context, say);
        self.far.forget(say);
    }

    /// Whether it could have a task of this topic and group, of so many bytes with what is beside its payload.
    pub(super) fn could_have(&self, group: &Group, topic: &Topic, bytes: usize) -> bool {
        let may = |permits| self.near.could_have(permits, group, topic);
        !is_too_large(bytes, self.largest) && self.permits.as_ref().is_some_and(may)
    }

    /// Bytes of replies to it for which there is no room among the words.
    pub(super) fn held_bytes(&self) -> usize {
        self.far.held_bytes()
    }

    /// What it may do, as far as it was served.
    pub(super) fn permits(&self) -> Option<&Permits> {
        self.permits.as_ref()
    }

    /// Follows from the link's coming and going.
    fn stand(&mut self, context: &Context<'_>, standing: Standing, say: &mut Says, look: &mut Look) {
        if standing.up {
            if std::mem::take(&mut self.requests_ended) {
                self.near.back(context);
            }
            (self.down_ns, self.gone) = (None, false);
            return;
        }
        let now_ns = context.now_ns;
        let down_ns = *self.down_ns.get_or_insert(now_ns);
        if now_ns < down_ns + BLINK_NS {
            look.by(down_ns + BLINK_NS);
            return;
        }
        if !std::mem::replace(&mut self.requests_ended, true) {
            self.near.end_requests(context, say);
            self.far.end_requests(say);
        }
        if now_ns < down_ns + GONE_NS {
            look.by(down_ns + GONE_NS);
        } else if !std::mem::replace(&mut self.gone, true) {
            self.near.end_all(context, say);
        }
    }

    fn heard(&mut self, context: &Context<'_>, pulls: &Pulls, body: &[u8], say: &mut Says) {
        let (word, payload) = match decode(body) {
            Ok(heard) => heard,
            Err(error) => {
                // It bears a good checksum: the peer is of another version, or lies. Once is enough to be told.
                self.nonsense += 1;
                if self.nonsense == 1 {
                    tracing::warn!(target: "busway::work", peer = %context.whom.peer, "not understood: {error}");
                }
                return;
            }
        };
        match word {
            Word::Pull { pull, pattern, group } => self.near.pull(context, pull, pattern, group),
            Word::Unpull { pull } => self.near.unpull(pull),
            Word::Grant { pull, tasks } => self.near.grant(pull, tasks),
            Word::Over { task, end } => self.near.over(context, task, end),
            Word::Reply { task, index, state, extensions } => {
                self.near.reply(context, task, index, state, parted(extensions, payload));
            }
            Word::Task { .. } => self.far.task(context, pulls, word, payload, say),
            Word::Cancel { pull, task } => self.far.cancel(pull, task),
        }
    }

    fn opened(&mut self, context: &Context<'_>, whom: &For, opened: Opened, say: &mut Says) {
        let (pull, now_ns) = (whom.pull, context.now_ns);
        match opened {
            Opened::Puller(puller) => self.near.opened(context, whom, puller),
            Opened::Pusher(topic, publisher) => self.far.laid_out(now_ns, pull, &topic, publisher, say),
            Opened::Requester(topic, requester) => self.far.asks(now_ns, pull, &topic, requester, say),
            Opened::Lane(lane) => self.near.lane(context, whom.number, lane, say),
            Opened::Refused(topic, error) => {
                tracing::warn!(target: "busway::work", "no port for work of another host: {error}");
                match topic {
                    Some(topic) => self.far.refused(now_ns, pull, &topic, say),
                    None => self.near.refused(context, whom),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
