//! Who wants what: our patterns at the peer, and the peer's at ours.
//!
//! On each new link all is said again. What the peer does not say again by the end of its listing is no longer
//! wanted, so that a reconnect neither forgets nor disturbs a source that is wanted before and after. A host that has
//! just started does not know yet what its programs want: until it does, its listing does not end.
//!
//! Invariant: the peer wants at most `LINK_INTERESTS_MAX` patterns, and so do we.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use busway_wire::limits::{LINK_INTEREST_ENTRIES_MAX, LINK_INTERESTS_MAX};
use busway_wire::link::{Interest, Wanted};
use busway_wire::{Pattern, Topic};

use crate::error::PeerError;

/// What we want of the peer.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    wanted: BTreeMap<u32, (Pattern, bool)>,
    /// To be said on this link, and to be taken back.
    add: BTreeSet<u32>,
    remove: BTreeSet<u32>,
    /// What has been said on this link and not been taken back.
    told: BTreeSet<u32>,
    /// Whether the first listing of this link is still to be ended.
    listing: bool,
    /// Our host has not said yet all that it wants: no listing ends before that.
    unlisted: bool,
}

impl Wants {
    /// One more pattern, or another one under the same number. More than there may be are not asked for.
    pub(crate) fn want(&mut self, id: u32, pattern: Pattern, reliable: bool) {
        if self.wanted.len() < LINK_INTERESTS_MAX || self.wanted.contains_key(&id) {
            self.wanted.insert(id, (pattern, reliable));
            self.remove.remove(&id);
            self.add.insert(id);
        }
    }

    pub(crate) fn unwant(&mut self, id: u32) {
        self.wanted.remove(&id);
        self.add.remove(&id);
        if self.told.contains(&id) {
            self.remove.insert(id);
        }
    }

    /// Whether all that our host wants has been said.
    pub(crate) fn listed(&mut self, all: bool) {
        self.unlisted = !all;
    }

    /// Whether a topic is wanted.
    pub(crate) fn matches(&self, topic: &Topic) -> bool {
        self.wanted.values().any(|(pattern, _)| pattern.matches(topic))
    }

    /// A new link: all is to be said.
    pub(crate) fn connected(&mut self) {
        self.add = self.wanted.keys().copied().collect();
        self.remove.clear();
        self.told.clear();
        self.listing = true;
    }

    /// Whether there is something to say.
    pub(crate) fn has_news(&self) -> bool {
        (self.listing && !self.unlisted) || !self.add.is_empty() || !self.remove.is_empty()
    }

    /// The next frame of what is to be said.
    pub(crate) fn next(&mut self) -> Option<Interest> {
        if !self.has_news() {
            return None;
        }
        let mut interest = Interest { add: Vec::new(), remove: Vec::new(), complete: false };
        while interest.remove.len() < LINK_INTEREST_ENTRIES_MAX
            && let Some(id) = self.remove.pop_first()
        {
            self.told.remove(&id);
            interest.remove.push(id);
        }
        while interest.remove.len() + interest.add.len() < LINK_INTEREST_ENTRIES_MAX
            && let Some(id) = self.add.pop_first()
        {
            if let Some((pattern, reliable)) = self.wanted.get(&id) {
                self.told.insert(id);
                interest.add.push(Wanted { id, pattern: pattern.clone(), reliable: *reliable });
            }
        }
        if self.add.is_empty() && self.remove.is_empty() && !self.unlisted {
            interest.complete = core::mem::take(&mut self.listing);
        }
        Some(interest)
    }
}

/// What the peer wants of us.
#[derive(Debug, Default)]
pub(crate) struct PeerWants {
    wanted: BTreeMap<u32, PeerWant>,
}

#[derive(Debug)]
struct PeerWant {
    pattern: Pattern,
    reliable: bool,
    /// Whether it was said on this link.
    here: bool,
}

/// What a frame changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) gone: Vec<u32>,
    pub(crate) new: Vec<Wanted>,
}

impl PeerWants {
    /// A new link: nothing has been said on it.
    pub(crate) fn connected(&mut self) {
        for want in self.wanted.values_mut() {
            want.here = false;
        }
    }

    /// The peer says what it wants.
    pub(crate) fn take(&mut self, interest: Interest) -> Result<Changes, PeerError> {
        let mut changes = Changes::default();
        for id in interest.remove {
            if self.wanted.remove(&id).is_some() {
                changes.gone.push(id);
            }
        }
        for wanted in interest.add {
            let new = PeerWant { pattern: wanted.pattern.clone(), reliable: wanted.reliable, here: true };
            match self.wanted.get_mut(&wanted.id) {
                Some(want) if want.pattern == new.pattern && want.reliable == new.reliable => {
                    want.here = true
                }
                Some(want) => {
                    *want = new;
                    changes.gone.push(wanted.id);
                    changes.new.push(wanted);
                }
                None => {
                    if self.wanted.len() >= LINK_INTERESTS_MAX {
                        // What was wanted before a restart of the peer makes room.
                        changes.gone.push(self.remove_stale().ok_or(PeerError::Interests)?);
                    }
                    self.wanted.insert(wanted.id, new);
                    changes.new.push(wanted);
                }
            }
        }
        if interest.complete {
            while let Some(id) = self.remove_stale() {
                changes.gone.push(id);
            }
        }
        Ok(changes)
    }

    /// Takes out a pattern that has not been said on this link.
    fn remove_stale(&mut self) -> Option<u32> {
        let stale = self.wanted.iter().find(|(_, want)| !want.here).map(|(id, _)| *id)?;
        self.wanted.remove(&stale);
        Some(stale)
    }
}

#[cfg(test)]
mod tests {
    use super::Wants;
    use busway_wire::Pattern;

    #[test]
    fn a_listing_does_not_end_before_all_is_known_that_is_wanted() {
        let mut wants = Wants::default();
        wants.listed(false);
        wants.connected();
        assert!(!wants.has_news() && wants.next().is_none(), "nothing is known");
        wants.want(1, Pattern::parse("a.>").expect("a pattern"), true);
        let first = wants.next().expect("a pattern is to be said");
        assert_eq!((first.add.len(), first.complete), (1, false));
        assert!(!wants.has_news(), "there may be more");
        wants.listed(true);
        let last = wants.next().expect("the end is to be said");
        assert_eq!((last.add.len(), last.complete, wants.has_news()), (0, true, false));
    }
}
