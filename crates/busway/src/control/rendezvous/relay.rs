//! Attachments pass through the rendezvous: a row asks for a seat, and the publisher answers.
//!
//! The rendezvous checks who speaks and that both ends are registered, and adds descriptors; it keeps nothing. An
//! attachment that is lost with a holder is asked for again, because the ring is told of again.
//!
//! Invariant: a member attaches rows and answers for rings of its own only.

use super::{MemberId, Output, Rendezvous, refuse};
use crate::error::Code;
use busway_wire::Control;

impl<F: Clone> Rendezvous<F> {
    /// subscriber -> holder -> publisher, with the subscriber's descriptors.
    pub(super) fn relay_attach(&mut self, from: MemberId, message: Control, out: &mut Vec<Output<F>>) {
        let Control::Attach {
            publisher,
            ring,
            generation,
            subscriber,
            subscription,
            row,
            row_generation,
            policy,
        } = &message
        else {
            return;
        };
        let member = self.member(from);
        if member.identity.process != *subscriber {
            return refuse(from, Code::ProtocolBroken, "a member attaches rows of its own only", out);
        }
        // The policy was fixed when the subscription was registered: the row cannot ask for more.
        let reason = match member.subscriptions.get(subscription) {
            None => Some("the subscription is not registered"),
            Some(registered) if registered.policy != *policy => Some("the subscription has another policy"),
            Some(_) => None,
        };
        let target = self.member_of(*publisher);
        let known = target
            .and_then(|id| self.members.get(&id))
            .is_some_and(|member| member.rings.contains_key(&(*ring, *generation)));
        let reason = reason.or(if known { None } else { Some("the publisher has gone") });
        match (target, reason) {
            (Some(to), None) => self.send_about(to, from, message, out),
            (_, reason) => {
                let message = Control::AttachRefused {
                    publisher: *publisher,
                    ring: *ring,
                    generation: *generation,
                    subscriber: *subscriber,
                    row: *row,
                    row_generation: *row_generation,
                    reason: reason.unwrap_or("the publisher has gone").to_owned(),
                };
                out.push(Output::Send { to: from, message, fds: None });
            }
        }
    }

    /// publisher -> holder -> subscriber.
    pub(super) fn relay_answer(&mut self, from: MemberId, message: Control, out: &mut Vec<Output<F>>) {
        let (Control::Attached { publisher, subscriber, .. }
        | Control::AttachRefused { publisher, subscriber, .. }) = &message
        else {
            return;
        };
        if self.member(from).identity.process != *publisher {
            return refuse(from, Code::ProtocolBroken, "a member answers for rings of its own only", out);
        }
        if let Some(to) = self.member_of(*subscriber) {
            out.push(Output::Send { to, message, fds: None });
        }
    }
}
