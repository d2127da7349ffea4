//! Budgets: how many messages and bytes of each class of traffic a host keeps, and for whom.
//!
//! Every message is charged to a flow and a peer before it is kept, and the charge is given back when it has gone. What a
//! peer on another host may have under way to us is charged as a whole, as long as its link stands: it was promised.
//! Each peer is guaranteed a floor in each flow, so that nobody is kept out by others; beyond its floor it shares
//! the flow's limit with all peers, and all flows share one cap of bytes. So memory is bounded by the cap, the
//! floors and one oversized message a flow, and a flow that is full stops nobody but itself.
//!
//! It keeps no messages and waits for nothing: who is told "full" does what the flow does when it is full.
//!
//! Invariant: what is in use is the sum of the charges that were taken and not given back.

use alloc::collections::BTreeMap;
use core::fmt;

use busway_wire::Kind;
use busway_wire::limits::{FLOW_BYTES_ALL_DEFAULT, FLOW_FLOOR_BYTES, FLOW_FLOOR_MESSAGES, FLOW_GRANT_PARTS};

use crate::time::PeerId;

const MIB: u64 = 1 << 20;

/// A class of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flow {
    /// Frames of the link itself.
    Control,
    /// Peers that come and go.
    Transport,
    /// Requests and replies.
    Rpc,
    /// What is published and pushed.
    Data,
    /// Who has which artifact.
    Advert,
    /// Asking for pieces.
    Request,
    /// Pieces.
    Chunk,
    /// What is sent again.
    Retransmission,
    /// What comes in by HTTP.
    Ingress,
}

/// What happens to a message for which there is no budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhenFull {
    /// It stays where it is until there is.
    Wait,
    /// It replaces an older one that it makes worthless.
    Coalesce,
    /// It is dropped, and counted.
    Drop,
    /// Its sender is told at once.
    Fail,
    /// What the subscriber's policy says.
    Policy,
}

impl WhenFull {
    /// The name in configuration and `busway flows`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            WhenFull::Wait => "wait",
            WhenFull::Coalesce => "coalesce",
            WhenFull::Drop => "drop",
            WhenFull::Fail => "fail",
            WhenFull::Policy => "policy",
        }
    }
}

/// How many ranks there are; see [`Flow::rank`].
pub const RANKS: u8 = 4;

impl Flow {
    /// What a message is, by its kind and nothing that its sender says elsewhere.
    #[must_use]
    pub const fn of(kind: Kind) -> Flow {
        match kind {
            Kind::Publish | Kind::Push | Kind::Run => Flow::Data,
            Kind::Request | Kind::Reply => Flow::Rpc,
            Kind::Advert => Flow::Advert,
            Kind::Fetch => Flow::Request,
            Kind::Chunk => Flow::Chunk,
            Kind::Hello | Kind::Refusal | Kind::Goodbye => Flow::Transport,
            Kind::Control
            | Kind::Interest
            | Kind::Announce
            | Kind::Retire
            | Kind::Accept
            | Kind::Credit
            | Kind::Gap
            | Kind::Ping
            | Kind::Pong
            | Kind::Deny => Flow::Control,
        }
    }

    /// Every flow, in the order in which it is listed.
    pub const ALL: [Flow; 9] = [
        Flow::Control,
        Flow::Transport,
        Flow::Rpc,
        Flow::Data,
        Flow::Advert,
        Flow::Request,
        Flow::Chunk,
        Flow::Retransmission,
        Flow::Ingress,
    ];

    /// The name in configuration, metrics and threads.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Flow::Control => "control",
            Flow::Transport => "transport",
            Flow::Rpc => "rpc",
            Flow::Data => "data",
            Flow::Advert => "advert",
            Flow::Request => "request",
            Flow::Chunk => "chunk",
            Flow::Retransmission => "retransmission",
            Flow::Ingress => "ingress",
        }
    }

    /// Who goes first on a link: 0 before 1. What is larger than a fragment has the last rank, whatever its flow.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Flow::Control | Flow::Transport => 0,
            Flow::Rpc | Flow::Advert => 1,
            Flow::Data | Flow::Request | Flow::Retransmission | Flow::Ingress => 2,
            Flow::Chunk => 3,
        }
    }

    /// What may be configured; the first is the default. Control can only wait: it is what frees budgets. Only
    /// what is repeated anyway can be replaced, and only a subscriber has a policy.
    #[must_use]
    pub const fn when_full(self) -> &'static [WhenFull] {
        match self {
            Flow::Control | Flow::Transport => &[WhenFull::Wait],
            Flow::Rpc => &[WhenFull::Fail, WhenFull::Wait],
            Flow::Data => &[WhenFull::Policy, WhenFull::Drop],
            Flow::Advert | Flow::Retransmission => &[WhenFull::Coalesce, WhenFull::Drop],
            Flow::Request | Flow::Chunk => &[WhenFull::Wait, WhenFull::Drop],
            Flow::Ingress => &[WhenFull::Fail],
        }
    }

    /// The default of its limit.
    #[must_use]
    pub const fn limit(self) -> Budget {
        let (messages, bytes) = match self {
            Flow::Control | Flow::Transport => (1_000, 16 * MIB),
            Flow::Rpc => (10_000, 64 * MIB),
            Flow::Data => (1_000_000, FLOW_BYTES_ALL_DEFAULT),
            Flow::Advert => (100_000, 64 * MIB),
            Flow::Request => (100, MIB),
            Flow::Chunk => (100, 256 * MIB),
            Flow::Retransmission => (1_000, 64 * MIB),
            Flow::Ingress => (100, 64 * MIB),
        };
        Budget { messages, bytes }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Messages and bytes: a limit, or what is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Budget {
    fn plus(self, bytes: u64) -> Budget {
        Budget { messages: self.messages.saturating_add(1), bytes: self.bytes.saturating_add(bytes) }
    }

    fn minus(self, other: Budget) -> Budget {
        Budget {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn fits(self, limit: Budget) -> bool {
        self.messages <= limit.messages && self.bytes <= limit.bytes
    }

    fn is_empty(self) -> bool {
        self == Budget::default()
    }
}

/// How one flow is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What all peers together may use beyond their floors.
    pub limit: Budget,
    /// What happens beyond it.
    pub when_full: WhenFull,
}

/// How all flows are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    rules: [Rule; 9],
    /// Bytes that all flows together may use beyond the floors.
    pub bytes_all: u64,
    /// What each peer may use of each flow, whatever others use.
    pub floor: Budget,
}

impl Default for Limits {
    fn default() -> Limits {
        let rule = |flow: Flow| Rule { limit: flow.limit(), when_full: flow.when_full()[0] };
        let floor = Budget { messages: FLOW_FLOOR_MESSAGES, bytes: FLOW_FLOOR_BYTES };
        Limits { rules: Flow::ALL.map(rule), bytes_all: FLOW_BYTES_ALL_DEFAULT, floor }
    }
}

/// Why a configuration cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitFault {
    /// A limit of 0 would stop the flow.
    Zero {
        /// Which.
        flow: Flow,
    },
    /// The flow cannot do that when it is full.
    WhenFull {
        /// Which.
        flow: Flow,
        /// What it should do.
        when_full: WhenFull,
    },
    /// The cap of all flows is 0.
    ZeroAll,
}

impl fmt::Display for LimitFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitFault::Zero { flow } => {
                write!(f, "a limit of 0 would stop the flow {flow}; leave it out for the default")
            }
            LimitFault::WhenFull { flow, when_full } => {
                write!(f, "the flow {flow} cannot {} when it is full; it can", when_full.name())?;
                flow.when_full().iter().try_for_each(|can| write!(f, " {}", can.name()))
            }
            LimitFault::ZeroAll => f.write_str("a cap of 0 bytes would stop every flow"),
        }
    }
}

impl core::error::Error for LimitFault {}

impl Limits {
    /// How `flow` is configured.
    #[must_use]
    pub fn rule(&self, flow: Flow) -> Rule {
        self.rules[flow.index()]
    }

    /// Configures `flow`.
    ///
    /// # Errors
    /// [`LimitFault`] where it cannot be so; then nothing has changed.
    pub fn set(&mut self, flow: Flow, rule: Rule) -> Result<(), LimitFault> {
        if rule.limit.messages == 0 || rule.limit.bytes == 0 {
            return Err(LimitFault::Zero { flow });
        }
        if !flow.when_full().contains(&rule.when_full) {
            return Err(LimitFault::WhenFull { flow, when_full: rule.when_full });
        }
        self.rules[flow.index()] = rule;
        Ok(())
    }

    /// Sets the cap of all flows.
    ///
    /// # Errors
    /// [`LimitFault::ZeroAll`] where there is none.
    pub fn set_all(&mut self, bytes_all: u64) -> Result<(), LimitFault> {
        if bytes_all == 0 {
            return Err(LimitFault::ZeroAll);
        }
        self.bytes_all = bytes_all;
        Ok(())
    }
}

/// One message that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Of which class.
    pub flow: Flow,
    /// For or from whom.
    pub peer: PeerId,
    /// Its size.
    pub bytes: u64,
}

/// One line of `busway flows`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All that is kept, floors included.
    pub in_use: Budget,
    /// The part of it beyond the floors.
    pub shared: Budget,
    /// Messages that were charged.
    pub handled: u64,
    /// Messages that were told to wait.
    pub waited: u64,
    /// Messages that replaced others.
    pub coalesced: u64,
    /// Messages that were dropped, by the flow or by a policy.
    pub dropped: u64,
    /// Messages whose senders were told.
    pub failed: u64,
    /// Nanoseconds in handlers.
    pub handler_ns: u64,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Flows {
    limits: Limits,
    held: BTreeMap<(PeerId, Flow), Budget>,
    usage: [Usage; 9],
    shared_bytes: u64,
}

impl Flows {
    /// Nothing is in use.
    #[must_use]
    pub fn new(limits: Limits) -> Flows {
        Flows { limits, held: BTreeMap::new(), usage: [Usage::default(); 9], shared_bytes: 0 }
    }

    /// New limits, from now on. What is above them is not taken back.
    pub fn configure(&mut self, limits: Limits) {
        // The floor is part of what every charge was split by.
        self.limits = Limits { floor: self.limits.floor, ..limits };
    }

    /// Whether [`Flows::charge`] would succeed.
    #[must_use]
    pub fn has_room(&self, charge: Charge) -> bool {
        let held = self.held_by(charge.peer, charge.flow);
        let (before, after) = (self.beyond(held), self.beyond(held.plus(charge.bytes)));
        if after == before {
            return true;
        }
        let usage = self.usage[charge.flow.index()].shared;
        let more = after.minus(before);
        let limit = self.limits.rule(charge.flow).limit;
        // A message that is larger than any budget goes alone in its flow, or it would never go.
        if usage.is_empty() && more.bytes > limit.bytes.min(self.limits.bytes_all) {
            return true;
        }
        let flow = Budget {
            messages: usage.messages.saturating_add(more.messages),
            bytes: usage.bytes.saturating_add(more.bytes),
        };
        let all = self.shared_bytes.saturating_add(more.bytes);
        flow.fits(limit) && all <= self.limits.bytes_all
    }

    /// Charges one message.
    ///
    /// # Errors
    /// What is to be done with it, where there is no budget; it is counted as that.
    pub fn charge(&mut self, charge: Charge) -> Result<(), WhenFull> {
        let room = self.has_room(charge);
        let when_full = self.limits.rule(charge.flow).when_full;
        let usage = &mut self.usage[charge.flow.index()];
        if !room {
            match when_full {
                WhenFull::Wait => usage.waited += 1,
                WhenFull::Coalesce => usage.coalesced += 1,
                WhenFull::Drop | WhenFull::Policy => usage.dropped += 1,
                WhenFull::Fail => usage.failed += 1,
            }
            return Err(when_full);
        }
        usage.handled += 1;
        let before = self.held_by(charge.peer, charge.flow);
        self.hold(charge.peer, charge.flow, before, before.plus(charge.bytes));
        Ok(())
    }

    /// Gives a charge back. One that was not taken changes nothing beyond its peer and flow.
    pub fn release(&mut self, charge: Charge) {
        let before = self.held_by(charge.peer, charge.flow);
        if before.messages > 0 {
            let mut after = before.minus(Budget { messages: 1, bytes: charge.bytes });
            if after.messages == 0 {
                after.bytes = 0;
            }
            self.hold(charge.peer, charge.flow, before, after);
        }
    }

    /// The peer has gone, and with it all that was kept for it.
    pub fn forget(&mut self, peer: PeerId) {
        for flow in Flow::ALL {
            let before = self.held_by(peer, flow);
            self.hold(peer, flow, before, Budget::default());
        }
    }

    /// What a link of `peer` may have under way to us: as much as is `wanted`, but no more beyond the peer's floor than its
    /// part of what is left. It is charged until the peer is forgotten, or granted something else.
    pub fn grant(&mut self, peer: PeerId, flow: Flow, wanted: Budget) -> Budget {
        let before = self.held_by(peer, flow);
        self.hold(peer, flow, before, Budget::default());
        let (limit, floor) = (self.limits.rule(flow).limit, self.limits.floor);
        let left = limit.minus(self.usage[flow.index()].shared);
        let left_bytes = left.bytes.min(self.limits.bytes_all.saturating_sub(self.shared_bytes));
        let most = |floor: u64, left: u64| floor.saturating_add(left / FLOW_GRANT_PARTS);
        let granted = Budget {
            messages: wanted.messages.min(most(floor.messages, left.messages)),
            bytes: wanted.bytes.min(most(floor.bytes, left_bytes)),
        };
        self.hold(peer, flow, Budget::default(), granted);
        granted
    }

    /// A handler has taken this long.
    pub fn handled(&mut self, flow: Flow, handler_ns: u64) {
        let usage = &mut self.usage[flow.index()];
        usage.handler_ns = usage.handler_ns.saturating_add(handler_ns);
    }

    /// What `flow` uses and has counted.
    #[must_use]
    pub fn usage(&self, flow: Flow) -> Usage {
        self.usage[flow.index()]
    }

    /// Bytes of all flows beyond the floors.
    #[must_use]
    pub fn shared_bytes(&self) -> u64 {
        self.shared_bytes
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn held_by(&self, peer: PeerId, flow: Flow) -> Budget {
        self.held.get(&(peer, flow)).copied().unwrap_or_default()
    }

    fn beyond(&self, held: Budget) -> Budget {
        held.minus(self.limits.floor)
    }

    fn hold(&mut self, peer: PeerId, flow: Flow, before: Budget, after: Budget) {
        let (shared_before, shared_after) = (self.beyond(before), self.beyond(after));
        let moved = |total: u64, from: u64, to: u64| total.saturating_sub(from).saturating_add(to);
        let usage = &mut self.usage[flow.index()];
        usage.in_use.messages = moved(usage.in_use.messages, before.messages, after.messages);
        usage.in_use.bytes = moved(usage.in_use.bytes, before.bytes, after.bytes);
        usage.shared.messages = moved(usage.shared.messages, shared_before.messages, shared_after.messages);
        usage.shared.bytes = moved(usage.shared.bytes, shared_before.bytes, shared_after.bytes);
        self.shared_bytes = moved(self.shared_bytes, shared_before.bytes, shared_after.bytes);
        if after.is_empty() {
            self.held.remove(&(peer, flow));
        } else {
            self.held.insert((peer, flow), after);
        }
    }
}

#[cfg(test)]
mod tests;
