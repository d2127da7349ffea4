//! Who is remembered: the peers that were linked once, with what they had, and when they are forgotten.
//!
//! A peer outlives its connections, so that it goes on where it was. Nodes are remembered as long as they are on the list,
//! clients as long as there is room. It knows no sockets.
//!
//! Invariant: nobody that is linked is forgotten, and an identity has one memory.

use std::sync::{Arc, Mutex};

use busway_protocol::{PeerId, Permits, Principal, Session};

use crate::acl::Acl;
use crate::ports::lock;
use crate::runtime::desk::Channel;
use crate::runtime::door::Door;
use crate::runtime::export::place_of;
use crate::runtime::gossip;
use crate::runtime::hub::Wires;
use crate::runtime::peer::{Peer, Shares};

impl<D: Wires> Door<D> {
    /// The peer of this name, made if it is new.
    pub(super) fn peer(&self, id: PeerId, principal: Principal) -> Option<Arc<Mutex<Peer>>> {
        // First the interests: what changes meanwhile is told to this peer too.
        let interests = lock(&self.shared.interests);
        if let Some(peer) = lock(&self.shared.peers).get(&id) {
            return Some(peer.clone());
        }
        let session = Session::new(self.link.clone(), id);
        let config = &self.shared.config;
        let place = place_of(&config.cluster, config.identity, id);
        let (host, speakers) = (config.host.clone(), self.shared.speakers.clone());
        let shares = Shares { gates: self.shared.gates.clone(), backlogs: self.shared.backlogs.clone() };
        let permits = Permits::new(principal, self.shared.acl().as_ref().map(Acl::rules));
        let core = &self.shared.core;
        let channel = config.shares_work.then(|| Channel::new(core, &host));
        let calls = self.shared.calls.as_ref().filter(|_| matches!(id, PeerId::Node { .. }));
        let artifacts = calls.map(|calls| gossip::Channel::new(calls, &host));
        let made = Peer::new(core, session, permits, host, place, speakers, shares);
        let made = made.and_then(|peer| Ok((peer, channel.transpose()?, artifacts.transpose()?)));
        let (mut peer, channel, artifacts) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(target: "busway::link", peer = %id, "no room for a peer: {error}");
                return None;
            }
        };
        // Before all else that is wanted, of which there may be as much as a peer takes.
        if let Some(channel) = channel {
            peer.share_work(&self.shared.driver, channel);
        }
        if let Some(artifacts) = artifacts {
            peer.share_artifacts(&self.shared.driver, artifacts);
        }
        for want in interests.all() {
            peer.tell(&self.shared.driver, want);
        }
        let peer = Arc::new(Mutex::new(peer));
        self.shared.insert(id, peer.clone());
        // They may have changed while it was made.
        lock(&peer).permit(&self.shared.driver, self.shared.acl().as_ref().map(Acl::rules));
        Some(peer)
    }

    /// An identity belongs to who had it first, for as long as that one is remembered. One of which it was only said that it
    /// had a name of its own gives way to who shows that name.
    pub(super) fn is_the_same(&self, identity: PeerId, principal: &Principal) -> Result<(), String> {
        let Some(peer) = lock(&self.shared.peers).get(&identity).cloned() else { return Ok(()) };
        let (had, linked) = {
            let peer = lock(&peer);
            (peer.principal.clone(), peer.connection().is_some())
        };
        if had == *principal {
            return Ok(());
        }
        // What was said where nobody has to show anything; who shows the same is the same, and has come above.
        if had == Principal::of_identity(identity) && !linked {
            self.forget(identity);
            return Ok(());
        }
        Err(format!("{identity} is another one than {principal}; choose another id"))
    }

    /// Clients that are gone are remembered, so that they can go on where they were; as many as may be connected. Who
    /// comes under a new name each time costs those that left first their memory, and us nothing.
    pub(super) fn forget_clients(&self) {
        let gone = |(id, peer): (&PeerId, &Arc<Mutex<Peer>>)| {
            let client = matches!(id, PeerId::Client { .. }) && lock(peer).connection().is_none();
            client.then(|| (lock(&self.shared.known).get(id).map_or(0, |known| known.since_ns), *id))
        };
        let mut gone: Vec<(u64, PeerId)> = lock(&self.shared.peers).iter().filter_map(gone).collect();
        gone.sort_unstable();
        let excess = gone.len().saturating_sub(self.clients_max);
        for (_, id) in gone.into_iter().take(excess) {
            self.forget(id);
        }
    }

    /// Forgets a node that was struck from the list, if it has no connection.
    pub(super) fn forget_node(&self, id: PeerId) {
        let peer = lock(&self.shared.peers).get(&id).cloned();
        let linked = peer.is_some_and(|peer| lock(&peer).connection().is_some());
        if !linked && self.is_struck(id) {
            self.forget(id);
        }
    }

    fn forget(&self, id: PeerId) {
        let forgotten = self.shared.remove(id);
        {
            let mut known = lock(&self.shared.known);
            known.remove(&id);
            self.shared.known_changed();
        }
        self.shared.speakers.forget(id);
        drop(forgotten);
    }

    /// Whether it is a node that is not on the list. Who dials us never was.
    pub(super) fn is_struck(&self, id: PeerId) -> bool {
        let PeerId::Node { index } = id else { return false };
        let dials = match self.shared.config.identity {
            PeerId::Node { index: ours } => ours < index,
            PeerId::Client { .. } => true,
        };
        dials && !self.nodes.contains_key(&index)
    }
}
