//! How much may be under way on one connection: what the peer granted us, and what we granted it.
//!
//! Both sides count from the beginning of the connection. A grant is what has been consumed plus what was granted
//! at first, so that both know from two numbers whether anything is under way; only then may one message be larger
//! than what is left.
//!
//! Invariant: `granted - sent` is never more than the first grant, and below zero only behind such a message.

use busway_wire::link::{Credit, Hello};

/// Messages and bytes, counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    pub(crate) const fn message(bytes: u64) -> Amount {
        Amount { messages: 1, bytes }
    }

    pub(crate) const fn add(&mut self, other: Amount) {
        self.messages = self.messages.saturating_add(other.messages);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    pub(crate) const fn take(&mut self, other: Amount) {
        self.messages = self.messages.saturating_sub(other.messages);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }

    /// Whether this cost fits into `bound` beside what there is; if nothing is under way, one message of any size does.
    pub(crate) const fn has_room(&self, cost: Amount, bound: Amount) -> bool {
        if self.messages == 0 && bound.messages > 0 && cost.messages <= 1 {
            return true;
        }
        self.messages.saturating_add(cost.messages) <= bound.messages
            && self.bytes.saturating_add(cost.bytes) <= bound.bytes
    }

    /// What of this is left when `used` is taken off.
    pub(crate) const fn less(mut self, used: Amount) -> Amount {
        self.take(used);
        self
    }

    /// The smaller of each.
    pub(crate) fn least(self, other: Amount) -> Amount {
        Amount { messages: self.messages.min(other.messages), bytes: self.bytes.min(other.bytes) }
    }

    /// Whether it is a quarter of `bound` or more: then the other side should hear of it at once. With less, at
    /// least three quarters are left to it.
    pub(crate) const fn is_large(&self, bound: Amount) -> bool {
        self.messages > 0 && (self.messages >= bound.messages / 4 || self.bytes >= bound.bytes / 4)
    }
}

/// One direction of one connection.
#[derive(Debug)]
pub(crate) struct Grant {
    first: Amount,
    granted: Amount,
    sent: Amount,
}

/// The numbers contradict those before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

impl Grant {
    /// What a hello grants.
    pub(crate) const fn new(hello: &Hello) -> Grant {
        let first = Amount { messages: hello.credit_messages, bytes: hello.credit_bytes };
        Grant { first, granted: first, sent: Amount { messages: 0, bytes: 0 } }
    }

    /// Whether this may go: one message of any size if nothing is under way, never more than was granted of a run.
    pub(crate) fn allows(&self, cost: Amount) -> bool {
        let idle = self.granted.bytes.checked_sub(self.sent.bytes) == Some(self.first.bytes);
        let fits = self.sent.bytes.saturating_add(cost.bytes) <= self.granted.bytes;
        self.sent.messages.saturating_add(cost.messages) <= self.granted.messages
            && (fits || (idle && cost.messages <= 1))
    }

    /// The limit, and what is in use as far as the receiver has told.
    pub(crate) const fn usage(&self) -> (Amount, Amount) {
        let mut consumed = self.granted;
        consumed.take(self.first);
        let mut used = self.sent;
        used.take(consumed);
        (self.first, used)
    }

    /// What may go now, one message that is larger aside.
    pub(crate) const fn left(&self) -> Amount {
        self.granted.less(self.sent)
    }

    /// One of this cost goes.
    pub(crate) const fn spend(&mut self, cost: Amount) {
        self.sent.add(cost);
    }

    /// The peer says how much it has granted by now, and how much it has seen.
    pub(crate) fn raise(&mut self, credit: &Credit) -> Result<(), Contradiction> {
        let most = |first: u64, sent: u64| first.saturating_add(sent);
        if credit.messages < self.granted.messages
            || credit.bytes < self.granted.bytes
            || credit.messages > most(self.first.messages, self.sent.messages)
            || credit.bytes > most(self.first.bytes, self.sent.bytes)
            || credit.received > self.sent.messages
        {
            return Err(Contradiction);
        }
        self.granted = Amount { messages: credit.messages, bytes: credit.bytes };
        Ok(())
    }
}

/// What we granted the peer, and what has been consumed of it.
#[derive(Debug)]
pub(crate) struct Granted {
    grant: Grant,
    consumed: Amount,
    told: Amount,
    /// One has come that is larger than what is always left.
    large: bool,
}

impl Granted {
    pub(crate) const fn new(hello: &Hello) -> Granted {
        let none = Amount { messages: 0, bytes: 0 };
        Granted { grant: Grant::new(hello), consumed: none, told: none, large: false }
    }

    /// The limit, and what is in use.
    pub(crate) const fn usage(&self) -> (Amount, Amount) {
        let mut used = self.grant.sent;
        used.take(self.consumed);
        (self.grant.first, used)
    }

    /// A message of this cost has begun to come.
    pub(crate) fn arrive(&mut self, cost: Amount) -> Result<(), Contradiction> {
        if !self.grant.allows(cost) {
            return Err(Contradiction);
        }
        self.grant.spend(cost);
        self.large |= cost.bytes > self.grant.first.bytes / 4 * 3;
        Ok(())
    }

    /// Whether messages come that may not find room while the peer is not told of a little.
    pub(crate) const fn takes_large(&self) -> bool {
        self.large
    }

    /// What had come is in its place, or has been dropped.
    pub(crate) const fn consume(&mut self, amount: Amount) {
        self.consumed.add(amount);
    }

    /// What the peer has not been told of yet.
    fn untold(&self) -> Amount {
        let mut untold = self.consumed;
        untold.take(self.told);
        untold
    }

    pub(crate) fn is_due(&self) -> bool {
        self.untold().is_large(self.grant.first)
    }

    pub(crate) fn is_owed(&self) -> bool {
        self.untold() != Amount::default()
    }

    /// The frame that tells all.
    pub(crate) fn tell(&mut self) -> Credit {
        self.told = self.consumed;
        let mut granted = self.grant.first;
        granted.add(self.consumed);
        self.grant.granted = granted;
        Credit { messages: granted.messages, bytes: granted.bytes, received: self.grant.sent.messages }
    }
}
