//! Attachments pass through the rendezvous: a row asks for a seat, and the publisher answers.
//!
//! The rendezvous checks who speaks and that both ends are registered, and adds descriptors; it keeps nothing. An
//! attachment that is lost with a holder is asked for again, because the ring is told of again.
//!
//! Invariant: a member attaches rows and answers for rings of its own only.

use super::{MemberId, Output, Rendezvous, refuse};
use crate::error::Code;
use busway_wire::{Control, Generation, Group, Policy, PortId, ProcessId, RingIndex, RowIndex};

impl<F: Clone> Rendezvous<F> {
    /// subscriber -> holder -> publisher, with the subscriber's descriptors.
    pub(super) fn relay_attach(&mut self, from: MemberId, message: Control, out: &mut Vec<Output<F>>) {
        let Some(asked) = Asked::of(&message) else { return };
        let member = self.member(from);
        if member.identity.process != asked.subscriber {
            return refuse(from, Code::ProtocolBroken, "a member attaches rows of its own only", out);
        }
        // Policy and group were fixed when the subscription was registered: the row cannot ask for more.
        let reason = match (member.subscriptions.get(&asked.subscription), asked.wants) {
            (None, _) => Some("the subscription is not registered"),
            (Some(known), Wants::Policy(policy)) if known.policy != policy || known.group.is_some() => {
                Some("the subscription has another policy")
            }
            (Some(known), Wants::Group(group)) if known.group.as_ref() != Some(group) => {
                Some("the subscription is for another group")
            }
            (Some(_), _) => None,
        };
        let target = self.member_of(asked.publisher);
        let known = target
            .and_then(|id| self.members.get(&id))
            .is_some_and(|member| member.rings.contains_key(&(asked.ring, asked.generation)));
        let reason = reason.or(if known { None } else { Some("the publisher has gone") });
        match (target, reason) {
            (Some(to), None) => self.send_about(to, from, message, out),
            (_, reason) => {
                let message = asked.refused(reason.unwrap_or("the publisher has gone"));
                out.push(Output::Send { to: from, message, fds: None });
            }
        }
    }

    /// publisher -> holder -> subscriber.
    pub(super) fn relay_answer(
        &mut self,
        from: MemberId,
        message: Control,
        beside: Option<F>,
        out: &mut Vec<Output<F>>,
    ) {
        let (Control::Attached { publisher, subscriber, .. }
        | Control::AttachRefused { publisher, subscriber, .. }
        | Control::Joined { publisher, subscriber, .. }) = &message
        else {
            return;
        };
        if self.member(from).identity.process != *publisher {
            return refuse(from, Code::ProtocolBroken, "a member answers for rings of its own only", out);
        }
        if let Some(to) = self.member_of(*subscriber) {
            out.push(Output::Send { to, message, fds: beside });
        }
    }
}

/// What a row asks for, and of whom.
struct Asked<'a> {
    publisher: ProcessId,
    ring: RingIndex,
    generation: Generation,
    subscriber: ProcessId,
    subscription: PortId,
    row: RowIndex,
    row_generation: Generation,
    wants: Wants<'a>,
}

#[derive(Clone, Copy)]
enum Wants<'a> {
    Policy(Policy),
    Group(&'a Group),
}

impl<'a> Asked<'a> {
    fn of(message: &'a Control) -> Option<Self> {
        Some(match message {
            Control::Attach {
                publisher,
                ring,
                generation,
                subscriber,
                subscription,
                row,
                row_generation,
                policy,
            } => Self {
                publisher: *publisher,
                ring: *ring,
                generation: *generation,
                subscriber: *subscriber,
                subscription: *subscription,
                row: *row,
                row_generation: *row_generation,
                wants: Wants::Policy(*policy),
            },
            Control::Join {
                publisher,
                ring,
                generation,
                subscriber,
                subscription,
                row,
                row_generation,
                group,
            } => Self {
                publisher: *publisher,
                ring: *ring,
                generation: *generation,
                subscriber: *subscriber,
                subscription: *subscription,
                row: *row,
                row_generation: *row_generation,
                wants: Wants::Group(group),
            },
            _ => return None,
        })
    }

    fn refused(&self, reason: &str) -> Control {
        Control::AttachRefused {
            publisher: self.publisher,
            ring: self.ring,
            generation: self.generation,
            subscriber: self.subscriber,
            row: self.row,
            row_generation: self.row_generation,
            reason: reason.to_owned(),
        }
    }
}
